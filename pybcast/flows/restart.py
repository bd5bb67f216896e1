# SPDX-License-Identifier: Apache-2.0
"""What a machine is told when its process starts, and what it still owes to a store that was put back (R2, R33, R51).

A store can be older than what has left the server: somebody put a copy back, or a disk lost writes.  Where that is noticed, the
machine takes the fresh path: COUNTERs and key numbers jump, every long-term key is rolled (BSM), nothing that was prepared is used
(BSD/A).  Until that is done for a stream, the stream is *recovering*: an alarm is up and its light is red.

Where it is not noticed, COUNTERs and key numbers are safe all the same: at every start they move forward by what can have been used
since the last commit that the store knows of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pybcast.flows.events import Alarm
from pybcast.flows.journal import Journal, Table
from pybcast.flows.stream.config import StreamConfig
from pybcast.wire.times import NTP_UNIX

COUNTERS_A_SECOND: Final = 16
"""LTKMs that one card can get in a second; at a start its COUNTER moves so far for each second since the last commit (R51).
confidence: own"""
MOST_COUNTERS: Final = 1 << 30  # in one move: cards take a COUNTER that is less than 2^31 ahead for a newer one (R4)
KEYS_AT_LEAST: Final = 2  # key numbers passed over at every start: a key made, and one on its way, at the copy's time (R51)
MOST_KEYS: Final = 256  # key numbers passed over in one move (R51)


@dataclass(frozen=True)
class Restored:
    """The store is older than what has left this server.

    ``why``: how that was noticed, in words.  ``lost_from``: NTP seconds of the last commit in the store; 0.0 when it is empty.
    ``lost_to``: of the last commit that the witness or a peer knows of; of the start, where they do not say.  What operators
    entered between them is lost.
    """

    why: str
    lost_from: float
    lost_to: float

    def __str__(self) -> str:
        begin = f"from {_utc(self.lost_from)}" if self.lost_from else "from the beginning"
        return f"an older store was put back ({self.why}): what was entered {begin} to {_utc(self.lost_to)} is lost"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A process starts: what is known of the time before.

    ``gap``: seconds since the last commit of the store.  ``empty``: there was no store; nobody can tell a first start from a lost
    one.  ``restored``: the store is older than what has left.  ``key_number``, ``smk_base``: the highest that store, witness and
    peers know of; they matter when it was restored.
    """

    gap: float = 0.0
    empty: bool = False
    restored: Restored | None = None
    key_number: int = 0
    smk_base: int = 0

    @property
    def counters(self) -> int:
        """By how much every SMK's COUNTER moves forward."""
        return counters_in(self.gap)


def counters_in(seconds: float) -> int:
    """COUNTERs under one SMK that can have been used in so many seconds."""
    return min(MOST_COUNTERS, COUNTERS_A_SECOND * math.ceil(max(0.0, seconds)))


def keys_in(seconds: float, config: StreamConfig) -> int:
    """Key numbers of a stream that can have been used in so many seconds: one for each ``rekey_lead``, and two."""
    return min(MOST_KEYS, KEYS_AT_LEAST + int(max(0.0, seconds) // config.rekey_lead))


@dataclass(frozen=True)
class Recovery:
    """A stream of a restored store.

    ``at``: when the machine began to recover.  ``known``: ids of the keys that the store had.  ``until``: STKMs of periods up to
    this start may have been sealed by the store that is lost (BSM), so the store's own are not served (R50).
    """

    restored: Restored
    at: float
    known: frozenset[bytes] = field(default=frozenset())
    until: int = 0


RECOVERING: Final = Table("recovering", Recovery)
LAST: Final = Table("restored", Restored, "")


class Recoveries:
    """The streams that recover, in a machine's journal: after a crash they still do."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._recovering = journal.open(RECOVERING)
        self._last = journal.open(LAST)

    def begin(self, restored: Restored, config: StreamConfig, now: float, known: Iterable[bytes] = (), until: int = 0) -> None:
        """The stream begins to recover.  One that recovers already begins anew."""
        self._recovering.put(config.id, Recovery(restored, now, frozenset(known), until))

    def note(self, restored: Restored) -> None:
        """Remember the last restore, for views."""
        self._last.put((), restored)

    @property
    def last(self) -> Restored | None:
        """The last restore that this store knows of."""
        return self._last.get(())

    def of(self, config: StreamConfig) -> Recovery | None:
        """What the stream has to recover from; ``None``: nothing."""
        return self._recovering.get(config.id)

    def alarm(self, config: StreamConfig) -> None:
        """Raise the alarm of a stream that recovers: at every start, as alarms are not stored."""
        recovery = self.of(config)
        if recovery is not None:
            self._journal.emit(Alarm("restored", *config.id, str(recovery.restored)))

    def over(self, config: StreamConfig) -> None:
        """The stream has what it needs again."""
        self._recovering.drop(config.id)
        self._journal.emit(Alarm("restored", *config.id, active=False))


def _utc(time: float) -> str:
    try:
        return datetime.fromtimestamp(time - NTP_UNIX, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
