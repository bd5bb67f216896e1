# SPDX-License-Identifier: Apache-2.0
"""The edge as a machine: its inputs, and what each does."""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Collection, Iterable

from pybcast.flows.agenda import TURN, Agenda
from pybcast.flows.edge.slots import REPEATED, SHORT, USED, Held, Line, Slot
from pybcast.flows.events import (
    Alarm,
    NextKey,
    OffAir,
    Output,
    Plan,
    PlanBegun,
    PlannedPeriod,
    PlanRefused,
    Recall,
    Recalled,
    StopTraffic,
)  # fmt: skip
from pybcast.flows.stream.config import StreamId
from pybcast.flows.stream.schedule import REPETITIONS_AHEAD
from pybcast.flows.tables import EdgeEvent, EdgeState


class Edge:
    """One edge of any number of streams: (service, stream)."""

    def __init__(self, streams: Iterable[StreamId]) -> None:
        self._lines = {key: Line(key) for key in streams}
        self._wakes: Agenda[StreamId] = Agenda()
        self._fresh: dict[tuple[StreamId, int], None] = {}  # on air, and not repeated three times yet
        self._silent = False
        self._out: list[Output] = []
        self.lacking = len(self._lines)
        """How many streams have no STKM for a period whose lead has begun."""

    # --- inputs -------------------------------------------------------------------------------------------------------

    def plan(self, plan: Plan, now: float) -> list[Output]:
        """Take a plan whole, or refuse it (R45)."""
        line = self._lines.get((plan.service, plan.stream))
        why = "unknown stream" if line is None else line.refusal(plan)
        if line is None or why:
            return [PlanRefused(plan.service, plan.stream, tuple(p.start for p in plan.periods), why, line is None)]
        for period in plan.periods:
            self._take(line, plan, period, now)
        if line.short:
            self._count(line, now)
        self._work(line, now)
        return self._done()

    def recall(self, recall: Recall, now: float) -> list[Output]:
        """Give back what has not begun (R46)."""
        given: list[int] = []
        stay: list[tuple[int, int]] = []
        line = self._lines.get((recall.service, recall.stream))
        asked = [] if line is None else [slot for slot in line.slots if slot.start >= recall.at]
        if line is not None and any(slot.state is EdgeState.READY and (recall.off_air or slot.lead > now) for slot in asked):
            self._withdraw(line)
        for slot in asked:
            assert line is not None
            if recall.off_air or (slot.lead > now and slot.state not in USED):
                given.append(slot.start)
                self._remove(line, slot, EdgeEvent.RECALL)
                continue
            if slot.lead > now:
                self._set_back(line, slot, now)
            stay.append((slot.start, slot.end))
        if line is not None:
            self._work(line, now)
        self._out.append(Recalled(recall.service, recall.stream, recall.at, tuple(given), tuple(stay)))
        return self._done()

    def announced(self, service: str, stream: int, start: int, now: float) -> list[Output]:
        """The sender's report: the first datagram of that period's STKMs has left."""
        return self.announced_many([(service, stream, start)], now)

    def announced_many(self, reports: Iterable[tuple[str, int, int]], now: float) -> list[Output]:
        """The same of many streams: (service, stream, start)."""
        for service, stream, start in reports:
            line = self._lines.get((service, stream))
            slot = None if line is None else line.slot(start)
            if line is not None and slot is not None and slot.state is EdgeState.ON_AIR and slot.ready_at is None:
                slot.ready_at = now + REPETITIONS_AHEAD * slot.plan.repetition
                self._wakes.sooner(line.id, slot.ready_at)
        return self._done()

    def silent(self, silent: bool, now: float) -> list[Output]:
        """Whether another headend sends in our place.  What has not been repeated three times begins to count anew (R47)."""
        if silent is not self._silent:
            self._silent = silent
            for key, start in list(self._fresh):
                line = self._lines[key]
                slot = line.slot(start)
                if slot is not None and slot.ready_at is not None:
                    slot.ready_at = None
                    self._work(line, now)
        return self._done()

    def other_sends(self, time: float, now: float) -> list[Output]:
        """A heartbeat of the headend that sends in our place, which lacks nothing: its ``time`` is NTP seconds.

        What was on air for three repetitions by then has been sent by it: both have the same plan (R47).
        """
        for key, start in list(self._fresh) if self._silent else ():
            line = self._lines[key]
            slot = line.slot(start)
            if slot is not None and slot.ready_at is None and slot.lead + REPETITIONS_AHEAD * slot.plan.repetition <= time:
                slot.ready_at = now
                self._work(line, now)
        return self._done()

    def tick(self, now: float, most: int = TURN) -> list[Output]:
        """Let time pass: work on ``most`` streams that are due; the others are due at once again."""
        for key in list(itertools.islice(self._wakes.due(now), most)):
            self._work(self._lines[key], now)
        return self._done()

    def clock_forward(self, seconds: float) -> None:
        """The clock was put forward by so many seconds, in which nothing was repeated (R40)."""
        for line in self._lines.values():
            for slot in line.slots:
                if slot.state is EdgeState.ON_AIR and slot.ready_at is not None:
                    slot.ready_at += seconds
            self._wakes.set(line.id, line.next_work())

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        return self._wakes.next()

    def keep(self, streams: Collection[StreamId]) -> list[Output]:
        """These are the streams from now on: what is planned for another goes off the air, and its encoder keeps its key."""
        for key in [key for key in self._lines if key not in streams]:
            line = self._lines.pop(key)
            if any(slot.state is EdgeState.READY for slot in line.slots):
                self._withdraw(line)
            for slot in list(line.slots):
                self._off_air(line, slot)
                slot.wipe()
                self._fresh.pop((key, slot.start), None)
            self._wakes.set(key, None)
            self.lacking -= line.lacks
        for key in streams:
            if key not in self._lines:
                self._lines[key] = Line(key)
                self.lacking += 1
        return self._done()

    def say_again(self) -> list[Output]:
        """What is on air and which keys there are, for a sender and encoders that may have missed it."""
        for line in self._lines.values():
            for slot in line.slots:
                if slot.state in REPEATED:
                    self._out.append(slot.announce())
                if slot.state in USED:
                    self._out.append(slot.key())
                elif slot.state is EdgeState.READY:
                    self._out.append(NextKey(slot.key(), slot.end))
        return self._done()

    # --- views --------------------------------------------------------------------------------------------------------

    def held(self) -> tuple[Held, ...]:
        """What the edge says when a BSD/A connects (R44)."""
        return tuple(self.view(*key) for key, line in self._lines.items() if line.slots or line.used is not None)

    def view(self, service: str, stream: int) -> Held:
        """The same of one stream."""
        line = self._lines.get((service, stream)) or Line((service, stream))
        return Held(service, stream, tuple(slot.held() for slot in line.slots), line.used)

    def reach(self, now: float) -> float:
        """Seconds until the first stream has nothing planned any more (R49)."""
        return min((line.slots[-1].end - now if line.slots else 0.0 for line in self._lines.values()), default=0.0)

    def alarms(self) -> tuple[Alarm, ...]:
        """Those that hold, for a BSD/A that comes."""
        found = []
        for line in self._lines.values():
            if line.short and line.slots:
                found.append(line.short_alarm())
            found += [slot.held_alarm() for slot in line.slots if slot.state is EdgeState.HELD]
        return tuple(found)

    # --- work ---------------------------------------------------------------------------------------------------------

    def _done(self) -> list[Output]:
        out, self._out = self._out, []
        return out

    def _take(self, line: Line, plan: Plan, period: PlannedPeriod, now: float) -> None:
        slot = line.slot(period.start)
        if slot is None:
            insort(line.slots, Slot(period, plan, period.end <= now), key=lambda one: one.start)
            return
        before, slot.use = (slot.end, slot.stops), None
        slot.follow(plan, period)
        if before == (slot.end, slot.stops):
            return
        if slot.state is EdgeState.READY:
            self._out.append(NextKey(slot.key(), slot.end))
        elif slot.state in USED:
            self._out.append(slot.key())

    def _work(self, line: Line, now: float) -> None:
        """Whatever is due for a stream: what has begun, oldest first."""
        chosen, over = None, False
        for n, slot in enumerate(line.slots):
            state, end = slot.state, slot.end
            if state is EdgeState.WAITING:
                if slot.lead > now:
                    break  # and so is that of all that follow
                if now < end or slot.told_late:
                    slot.fire(EdgeEvent.LEAD)
                    self._fresh[line.id, slot.start] = None
                    self._out.append(slot.announce())
                    self._count(line, now)
            elif state is EdgeState.ON_AIR and slot.ready_at is not None and slot.ready_at <= now:
                slot.fire(EdgeEvent.REPEATED)
                state = EdgeState.READY
                self._fresh.pop((line.id, slot.start), None)
                if slot.start > now:
                    self._out.append(NextKey(slot.key(), end))
            ended = slot.stops is not None and now >= slot.stops
            if state is EdgeState.READY and slot.start <= now and not ended:
                chosen, over = n, False  # those before it go with the change
            over = over or end <= now or ended
        if chosen is not None:
            self._switch(line, chosen)
        if over:
            self._end(line, now)
        lacks = not line.slots or line.next_lead <= now
        if lacks is not line.lacks:
            line.lacks = lacks
            self.lacking += 1 if lacks else -1
        self._wakes.set(line.id, line.next_work())

    def _count(self, line: Line, now: float) -> None:
        """R49: an alarm where fewer periods are left than ought to be, taken back when there are enough."""
        left = len(line.slots)
        for slot in line.slots:
            if slot.start > now:
                break
            left -= 1
        short = left < min(SHORT, line.slots[-1].plan.reserve)
        if short is not line.short:
            line.short = short
            self._out.append(line.short_alarm() if short else Alarm("plan-short", *line.id, active=False))

    def _switch(self, line: Line, chosen: int) -> None:
        """Traffic takes the newest key that it may use (R40)."""
        slot = line.slots[chosen]
        slot.fire(EdgeEvent.SWITCH)
        line.used = slot.start
        self._out.append(slot.key())
        if slot.plan is not line.begun:
            line.begun = slot.plan
            self._out.append(PlanBegun(*line.id, slot.start))
        for before in line.slots[:chosen]:
            self._remove(line, before, EdgeEvent.SUPERSEDED if before.state in USED else EdgeEvent.MISS)

    def _end(self, line: Line, now: float) -> None:
        """Hold what has no successor, stop what has lost its authority, give up what was never used."""
        for slot in list(line.slots):
            if slot.state in USED and slot.ended(now):
                self._out.append(StopTraffic(*line.id))
                self._remove(line, slot, EdgeEvent.AUTHORITY_ENDS)
                self._out.append(Alarm("stopped", *line.id, f"authority of period {slot.start} ended, no successor (R9)"))
            elif slot.state is EdgeState.IN_USE and now >= slot.end:
                self._hold(line, slot)
            elif slot.state not in USED:
                if slot.start > now:
                    return
                if (now >= slot.end and not slot.told_late) or slot.ended(now):
                    self._remove(line, slot, EdgeEvent.MISS)

    def _hold(self, line: Line, slot: Slot) -> None:
        slot.fire(EdgeEvent.HOLD)
        self._out.append(slot.held_alarm())

    def _withdraw(self, line: Line) -> None:
        """The encoder was named a key that it is not to take: the one that it has is named again, which takes the other back."""
        self._out += [slot.key() for slot in line.slots if slot.state in USED]

    def _off_air(self, line: Line, slot: Slot) -> None:
        if slot.state in REPEATED:
            self._out.append(OffAir(*line.id, slot.start))

    def _remove(self, line: Line, slot: Slot, event: EdgeEvent) -> None:
        """A period takes its last step."""
        if slot.state is EdgeState.HELD:
            self._out.append(Alarm("held-key", *line.id, active=False))
        self._off_air(line, slot)
        slot.fire(event)
        self._fresh.pop((line.id, slot.start), None)
        line.slots.remove(slot)
        slot.wipe()

    def _set_back(self, line: Line, slot: Slot, now: float) -> None:
        """The clock was set back to before the lead of the period in use: its STKM is of a time to come and goes off the air, its
        key is held, as that of a period before now.
        """
        self._off_air(line, slot)
        start = int(now) - (slot.end - slot.start)
        slot.start, slot.end, slot.lead, slot.stkms, slot.marks, slot.use = start, start + 1, float(start), (), (), None
        line.used = start
        if slot.state is EdgeState.IN_USE:
            self._hold(line, slot)
