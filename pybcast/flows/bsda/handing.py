# SPDX-License-Identifier: Apache-2.0
"""What of one stream the edge has: plans go to it, and what it says is compared with what is known here (R44-R46)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pybcast.flows.bsda.periods import PeriodRecord, Periods
from pybcast.flows.edge.slots import SHORT, Held, HeldPeriod, mark
from pybcast.flows.events import Plan, PlannedPeriod, PlanRefused, Recalled
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.tables import EdgeState, PeriodEvent, PeriodState


class Handing:
    """One stream's side of the edge."""

    def __init__(self, periods: Periods, allocator: Allocator) -> None:
        self._periods, self._allocator = periods, allocator
        self._last: int | None = None  # start of the last period there was, past its end: an edge that lost it is told it again

    def plan(self, now: float) -> Plan | None:
        """What is sealed goes to the edge, and its COUNTERs count as sent (R45)."""
        periods, config = self._periods, self._periods.config
        last, self._last = self._last, None
        retimed, periods.retimed = periods.retimed, set()
        sealed = periods.waiting(PeriodState.SEALED)
        sealed = [record for record in sealed if now < record.period.end or record.period.start == last]
        again = [r for start in retimed if (r := periods.record(start)) is not None and r.state is PeriodState.HANDED]
        for identity, start in {identity: record.period.start for record in sealed for _, identity in record.key_ids}.items():
            self._allocator.sent(identity, start)  # the last one: all below it count as sent too
        planned = periods.fire_all(sealed, PeriodEvent.HAND_OUT)
        if again:
            planned = sorted([*again, *planned], key=lambda record: record.period.start)
        if not planned:
            return None
        return Plan(
            *config.id, config.protocol, config.repetition, tuple(self._planned(planned)), config.hold_through,
            min(SHORT, config.look_ahead),
        )  # fmt: skip

    def _planned(self, records: Iterable[PeriodRecord]) -> Iterator[PlannedPeriod]:
        config = self._periods.config
        for record, lead in self._periods.leads(records):
            period, key = record.period, record.key
            yield PlannedPeriod(
                period.start, period.end, lead, record.stkms, record.traffic_id, key.tek, key.salt,
                stkm.auth_key(config, key, record.csb_id), record.authority_end,
            )  # fmt: skip

    def has(self, start: int) -> bool:
        """Whether the edge has periods from ``start`` on."""
        known = any(r.state is PeriodState.HANDED for r in self._periods.records if r.period.start >= start)
        return known or self._periods.strange(start)

    def reconcile(self, held: Held | None, now: float) -> bool:
        """What the edge has is handed out, and what it has not is not; whether it has something that is not known here (R44).

        An edge that starts empty is told the last period again, even one that has ended, when there is no other: its STKM goes on
        air, for who tunes in.
        """
        periods, config = self._periods, self._periods.config
        periods.leave(())
        there = {p.start: p for p in held.periods} if held is not None else {}
        used = None if held is None else held.used
        begun = [r for r in periods.records if r.state is PeriodState.HANDED and r.period.start <= now]
        if used is None and begun and begun[-1].period.end <= now and not self._ended(begun[-1], now):
            self._last = begun[-1].period.start
        for record in periods.records:
            start = record.period.start
            period = there.get(start)
            if record.state is PeriodState.SEALED and _same(record, period):
                record = periods.fire(record, PeriodEvent.HAND_OUT)
            elif record.state is PeriodState.HANDED and start not in there:
                over = start <= used if used is not None else record.period.end <= now and start != self._last
                periods.fire(record, PeriodEvent.PASS if over else PeriodEvent.GIVEN_BACK)
            if period is not None and _same(record, period):
                stops = None if config.hold_through else record.authority_end
                if (period.end, period.stops) != (record.period.end, stops):
                    periods.retimed.add(start)
        return any(not _same(periods.record(start), period) for start, period in there.items())

    def _ended(self, record: PeriodRecord, now: float) -> bool:
        """Whether the right under which its key is used is over (R9)."""
        return record.authority_end is not None and now >= record.authority_end and not self._periods.config.hold_through

    def _handed(self, starts: Iterable[int]) -> list[PeriodRecord]:
        found = [self._periods.record(start) for start in starts]
        return [record for record in found if record is not None and record.state is PeriodState.HANDED]

    def _given_back(self, starts: Iterable[int]) -> None:
        given = self._handed(starts)
        self._periods.fire_all(given, PeriodEvent.GIVEN_BACK)
        for identity in {identity for record in given for _, identity in record.key_ids}:
            self._allocator.take_back(identity, [r.period.start for r in given if identity in dict(r.key_ids).values()])

    def refused(self, refused: PlanRefused) -> None:
        """The edge took nothing of a plan (R45).  Where it does not know the stream, it is told again when it comes anew."""
        if refused.unknown:
            self._given_back(refused.starts)
        else:
            self._periods.fire_all(self._handed(refused.starts), PeriodEvent.REFUSED)

    def recalled(self, recalled: Recalled) -> None:
        """What the edge gave back may be replaced; what stays and is not known here has its time (R46)."""
        self._given_back(recalled.given)
        known = {record.period.start for record in self._handed(start for start, _ in recalled.stay)}
        strange = [(start, end) for start, end in recalled.stay if start not in known]
        self._periods.leave([*self._periods.strange_before(recalled.at), *strange])

    def states(self, now: float) -> dict[int, EdgeState | PeriodState]:
        """How far each period is, by its start: of those at the edge as they are planned, which is how it executes them."""
        states: dict[int, EdgeState | PeriodState] = {}
        later = False
        for record in reversed(self._periods.records):
            start, states[record.period.start] = record.period.start, record.state
            if record.state is not PeriodState.HANDED:
                continue
            if start > now:
                states[start] = EdgeState.ON_AIR if self._periods.lead(record.period) <= now else EdgeState.WAITING
            elif later:
                states[start] = EdgeState.PAST
            else:
                states[start] = EdgeState.IN_USE if now < record.period.end else EdgeState.HELD
                later = True
        return dict(reversed(states.items()))


def _same(record: PeriodRecord | None, held: HeldPeriod | None) -> bool:
    """Whether the edge has this period, with these STKMs."""
    return record is not None and held is not None and tuple(mark(s.data) for s in record.stkms) == held.marks
