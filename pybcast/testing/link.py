# SPDX-License-Identifier: Apache-2.0
"""An in-memory world for the flows: clock, links that lose, double, delay and reorder, durable stores, processes that crash.

Deterministic: one ``random.Random`` decides everything, events are ordered by (time, sequence).  Nothing here waits.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pybcast.flows.events import Output, Persist
from pybcast.flows.journal import State


@dataclass
class Clock:
    """Simulated time and its agenda."""

    now: float
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Run ``action`` at ``time`` (now, when that has passed)."""
        heapq.heappush(self._agenda, (max(time, self.now), next(self._count), action))

    def run(self, until: float) -> None:
        """Let time pass until ``until``."""
        while self._agenda and self._agenda[0][0] <= until:
            time, _, action = heapq.heappop(self._agenda)
            self.now = time
            action()
        self.now = until


@dataclass
class Link:
    """A link with faults: probabilities of loss and doubling; delays from [``delay_min``, ``delay_max``] seconds reorder."""

    clock: Clock
    rng: random.Random
    loss: float = 0.0
    double: float = 0.0
    delay_min: float = 0.001
    delay_max: float = 0.010
    up: bool = True

    def carry(self, deliver: Callable[[], None]) -> None:
        """Deliver later: never, once or twice."""
        for _ in range(2 if self.rng.random() < self.double else 1):
            if self.up and self.rng.random() >= self.loss:
                self.clock.at(self.clock.now + self.rng.uniform(self.delay_min, self.delay_max), deliver)


@dataclass
class Store:
    """Durable state of one machine: what its ``Persist`` outputs left, as a copy that a crash does not touch."""

    state: State = field(default_factory=dict)

    def write(self, output: Persist) -> None:
        rows = self.state.setdefault(output.table, {})
        if output.value is None:
            rows.pop(output.key, None)
        else:
            rows[output.key] = output.value

    def copy(self) -> State:
        """The state as a restarted machine gets it, or as a backup keeps it."""
        return {table: dict(rows) for table, rows in self.state.items()}


def carry_out(outputs: list[Output], store: Store, rng: random.Random, crash: float = 0.0) -> tuple[list[Output], bool]:
    """Carry out outputs in order: persist, and hand back all that was done.  With probability ``crash`` the process dies before
    all of them, or at some point after what is kept was kept as one transaction; the second value says so, and what came later
    never happened.
    """
    stop: int | None = None
    if outputs and rng.random() < crash:
        kept = sum(isinstance(output, Persist) for output in outputs)
        stop = rng.choice([0, *range(kept, len(outputs) + 1)])
    done: list[Output] = []
    for i, output in enumerate(outputs):
        if i == stop:
            return done, True
        if isinstance(output, Persist):
            store.write(output)
        done.append(output)
    return done, stop is not None
