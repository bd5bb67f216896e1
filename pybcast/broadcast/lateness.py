# SPDX-License-Identifier: Apache-2.0
"""How late datagrams leave: counted, and kept small by a place before other processes."""

from __future__ import annotations

import ctypes
import logging
import os
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

LOG: Final = logging.getLogger("pybcast.air")
NICE: Final = -10  # where there is no real-time class
_TIMER_SLACK: Final = 29  # prctl's PR_SET_TIMERSLACK: the kernel may wake a sleeper so many ns late, 50,000 by default

_EDGES: Final = (
    *(20 * n for n in range(1, 51)), *(1000 + 100 * n for n in range(1, 31)), *(4000 + 1000 * n for n in range(1, 17)),
    *(20_000 + 10_000 * n for n in range(1, 19)),
)  # fmt: skip
"""Microseconds: upper edges of the lateness that is counted."""


class Lateness:
    """How late datagrams leave, counted."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_EDGES) + 1)
        self.worst = 0.0

    def add(self, seconds: float, count: int) -> None:
        self.counts[bisect_left(_EDGES, seconds * 1e6)] += count
        if seconds > self.worst:
            self.worst = seconds

    def table(self) -> list[tuple[int, int]]:
        """(upper edge in microseconds, datagrams), where there are any; beyond the last edge: 0."""
        return [(_EDGES[i] if i < len(_EDGES) else 0, count) for i, count in enumerate(self.counts) if count]


def quantile(table: list[tuple[int, int]], share: float) -> int | None:
    """The upper edge, in microseconds, below which a share of the datagrams lies; -1 beyond the last."""
    total = sum(count for _, count in table)
    seen = 0
    for edge, count in sorted(table, key=lambda row: row[0] or 1 << 30):
        seen += count
        if seen >= share * total:
            return edge or -1
    return None


def growth(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What has been counted between two tables."""
    known = {row[0]: row[1] for row in before}
    return [(edge, count - known.get(edge, 0)) for edge, count in after if count > known.get(edge, 0)]


@dataclass
class Figures:
    """What a sender counts, and what stood there when it said so last."""

    sent: int = 0
    octets: int = 0
    lateness: Lateness = field(default_factory=Lateness)
    changes: Lateness = field(default_factory=Lateness)  # of keys, behind their start
    changes_late: int = 0
    strangers: int = 0  # plans of streams that the configuration does not know
    refused: int = 0  # heartbeats that were none, or not of this pair
    said_at: float = 0.0
    sent_then: int = 0
    table_then: list[tuple[int, int]] = field(default_factory=list)
    missed_then: int = 0


def precede(priority: int) -> None:
    """Before other processes, as far as the system lets us; ``priority`` 0: like them."""
    ctypes.CDLL(None).prctl(_TIMER_SLACK, 1, 0, 0, 0)
    if not priority:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        how = "real-time"
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
            how = "nice"
        except OSError:
            how = "like all others"
    LOG.info("scheduled %s", how, extra={"fields": {"event": "scheduled", "how": how}})
