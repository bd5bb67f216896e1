# SPDX-License-Identifier: Apache-2.0
"""A BSD/A and its edge in one process: what the one says the other hears within the same input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pybcast.flows.bsda.machine import BSDA
from pybcast.flows.edge.machine import Edge
from pybcast.flows.events import Output, Persist, Plan, PlanBegun, PlanRefused, Recall, Recalled
from pybcast.flows.tables import EdgeState, PeriodState


class Headend(BSDA):
    """A BSD/A that drives its edge.

    ``edge``: one that lives already, or ``None`` for one that starts empty.  ``again``: what it said may be lost: it is said again.
    The outputs of an input are those of both, what is to be kept first.
    """

    def __init__(self, *, edge: Edge | None = None, again: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._again = again
        self.edge = Edge(self._streams) if edge is None else edge

    # --- inputs -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Output]:
        """Let time pass."""
        self._begin(now)
        return ordered([*self._hear(self.edge.tick(now), now), *super().tick(now)])

    def clock_forward(self, seconds: float, now: float) -> list[Output]:
        """The clock was put forward by so many seconds."""
        self.edge.clock_forward(seconds)
        return self.tick(now)

    def announced(self, service: str, stream: int, start: int, now: float) -> list[Output]:
        """The sender's report: the first datagram of that period's STKMs has left."""
        return self.announced_many([(service, stream, start)], now)

    def announced_many(self, reports: Iterable[tuple[str, int, int]], now: float) -> list[Output]:
        """The same of many streams: (service, stream, start)."""
        self._begin(now)
        return ordered([*self._hear(self.edge.announced_many(reports, now), now), *self._done(now)])

    def new_edge(self, edge: Edge, now: float) -> list[Output]:
        """The edge died, and another one is there."""
        self.edge = edge
        return self.connected(edge.held(), now)

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        return min((t for t in (super().next_wakeup(), self.edge.next_wakeup()) if t is not None), default=None)

    def states(self, service: str, stream: int, now: float) -> dict[int, EdgeState | PeriodState]:
        """How far each period is, here or at the edge, by its start."""
        states: dict[int, EdgeState | PeriodState] = {r.period.start: r.state for r in self.records(service, stream)}
        return states | {p.start: p.state for p in self.edge.view(service, stream).periods}

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if not self._resumed:
            super()._begin(now)
            for output in (*self.edge.keep(self._streams), *(self.edge.say_again() if self._again else ())):
                self._journal.emit(output)
            self._connect(self.edge.held(), now)

    def _take(self, now: float) -> list[Output]:
        done: list[Output] = []
        for output in super()._take(now):
            match output:
                case Plan():
                    done += self._hear(self.edge.plan(output, now), now)
                case Recall():
                    done += self._hear(self.edge.recall(output, now), now)
                case _:
                    done.append(output)
        return ordered(done)

    def _hear(self, outputs: Iterable[Output], now: float) -> list[Output]:
        """What the edge says: to us, or to the sender and the encoder."""
        done: list[Output] = []
        for output in outputs:
            match output:
                case Recalled():
                    done += self.recalled(output, now)
                case PlanRefused():
                    done += self.plan_refused(output, now)
                case PlanBegun():
                    done += self.plan_begun(output, now)
                case _:
                    done.append(output)
        return done


def ordered(outputs: list[Output]) -> list[Output]:
    """The outputs of several inputs as those of one: what is to be kept comes first, of each row what was said last."""
    rows = {(output.table, output.key): output for output in outputs if isinstance(output, Persist)}
    return [*rows.values(), *(output for output in outputs if not isinstance(output, Persist))]
