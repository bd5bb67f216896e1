# SPDX-License-Identifier: Apache-2.0
"""The edge: executes the plans of a BSD/A, whether that lives or not (R44-R49).

A BSD/A decides ahead what is on air when, and hands it out as plans, batches of crypto periods of one stream.  The edge does what
a plan says at the time at which it says it: it puts the STKMs of a period on air when its lead begins (R6), counts their
repetitions, tells the encoder the next key after the third (R47), lets it switch at the start, takes the period before off the
air, and holds (R40) or stops (R9) when nothing follows.  It asks nobody.

One period walks through ``tables.EDGE``.  To an operator: *waiting* periods are what the stream lives on when the servers die;
*on air* ones are repeated and no encoder knows their key yet; a *ready* one is known to the encoder; one is *in use*, or *held*
past its end with an alarm until there is another; *stopped* means that the right to the key ended and nothing may leave (R9).

What can go wrong, and what it does then: a plan that does not fit what it has is refused whole, with a reason (R45).  A plan that
runs out is an alarm while there is still time (R49).  An edge that starts holds nothing and is told everything; until STKMs have
been on air three times again, encoders keep the key that they have (R48).  A clock that is set back makes leads of what is on air
lie ahead again: a recall takes that back too, and the key in use is held.

Keys are in memory only, in copies of the edge's own, wiped when they are used up or recalled (R48).  Without I/O: each input
returns the outputs to carry out in order.  Work for one period touches its stream alone.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from bisect import insort
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from pybcast.flows.agenda import TURN, Agenda
from pybcast.flows.events import (
    Alarm,
    Announce,
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
    UseKey,
)
from pybcast.flows.stream.schedule import REPETITIONS_AHEAD, lead
from pybcast.flows.tables import EDGE, EdgeEvent, EdgeState, step
from pybcast.secret import Secret

MOST: Final = 4096  # periods planned for a stream: twice the largest look-ahead and batch - confidence: own
SHORT: Final = 3  # periods left in a plan below which there is an alarm (R49)
USED: Final = frozenset({EdgeState.IN_USE, EdgeState.HELD})
REPEATED: Final = frozenset({EdgeState.ON_AIR, EdgeState.READY, *USED})
"""States in which the STKMs of a period are repeated."""

Key = tuple[str, int]


@dataclass(frozen=True)
class HeldPeriod:
    """A period at the edge; ``marks``: of its STKMs (``mark``); ``stops``: when its key may be used no longer (R9)."""

    start: int
    end: int
    state: EdgeState
    marks: tuple[bytes, ...]
    stops: int | None = None


@dataclass(frozen=True)
class Held:
    """What the edge says of a stream when a BSD/A connects (R44): its periods, oldest first, and the start of the last key that was
    used, also where that is stopped.
    """

    service: str
    stream: int
    periods: tuple[HeldPeriod, ...]
    used: int | None

    @property
    def end(self) -> int | None:
        """The end of the plan."""
        return self.periods[-1].end if self.periods else None


def mark(data: bytes) -> bytes:
    """By which a STKM is known without its bytes."""
    return hashlib.sha256(data).digest()[:16]


class _Slot:
    """One period, as it was planned.  ``ready_at``: when three repetitions will have been on air (R40).  ``told_late``: its end had
    passed when it came; it is what there is until another is in use.
    """

    __slots__ = (
        "auth_key", "authority_end", "end", "lead", "marks", "plan", "ready_at", "salt", "start", "state", "stkms",
        "stops", "tek", "told_late", "traffic_id", "use",
    )  # fmt: skip

    def __init__(self, period: PlannedPeriod, plan: Plan, told_late: bool) -> None:
        self.start, self.end, self.lead, self.stkms = period.start, period.end, period.lead, period.stkms
        self.marks = tuple(mark(stkm.data) for stkm in period.stkms)
        self.traffic_id, self.salt, self.authority_end = period.traffic_id, period.salt, period.authority_end
        self.tek = Secret(period.tek)
        self.auth_key = None if period.auth_key is None else Secret(period.auth_key)
        self.told_late = told_late
        self.follow(plan, period)
        self.state = EdgeState.WAITING
        self.ready_at: float | None = None
        self.use: UseKey | None = None

    def fire(self, event: EdgeEvent) -> None:
        self.state = step(EDGE, self.state, event)

    def says(self, period: PlannedPeriod) -> bool:
        """Whether this is that period, with the same STKMs and key."""
        return self.stkms == period.stkms and self.traffic_id == period.traffic_id and self.tek == period.tek

    def follow(self, plan: Plan, period: PlannedPeriod) -> None:
        """What a later plan may change (R46).  ``stops``: when its key may be used no longer (R9)."""
        self.plan, self.end, self.authority_end = plan, period.end, period.authority_end
        self.stops = None if plan.hold_through else period.authority_end

    def ended(self, now: float) -> bool:
        """Whether the right under which its key is used is over (R9)."""
        return self.stops is not None and now >= self.stops

    def key(self) -> UseKey:
        """What the encoder is told: with copies of the keys, so that they outlive ours while they wait to leave."""
        if self.use is None:
            plan = self.plan
            auth_key = None if self.auth_key is None else Secret(self.auth_key)
            self.use = UseKey(
                plan.service, plan.stream, self.start, plan.protocol, self.traffic_id, Secret(self.tek), self.salt, auth_key,
                self.stops,
            )  # fmt: skip
        return self.use

    def held(self) -> HeldPeriod:
        return HeldPeriod(self.start, self.end, self.state, self.marks, self.stops)

    def announce(self) -> Announce:
        return Announce(self.plan.service, self.plan.stream, self.start, self.stkms, self.plan.repetition)

    def wipe(self) -> None:
        self.tek.wipe()
        if self.auth_key is not None:
            self.auth_key.wipe()
        self.use = None


class _Line:
    """A stream.  ``used``: start of the last key that was used.  ``begun``: the last plan of which a key was used.  ``lacks``:
    there is no STKM for a period whose lead has begun.
    """

    __slots__ = ("begun", "key", "lacks", "short", "slots", "used")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.slots: list[_Slot] = []  # oldest first
        self.used: int | None = None
        self.begun: Plan | None = None
        self.short = False
        self.lacks = True

    def slot(self, start: int) -> _Slot | None:
        for slot in self.slots:
            if slot.start == start:
                return slot
        return None

    @property
    def next_lead(self) -> float:
        """When the lead of the period after the last begins (R6)."""
        last = self.slots[-1]
        return lead(last.end, last.end - last.start)


class Edge:
    """One edge of any number of streams: (service, stream)."""

    def __init__(self, streams: Iterable[Key]) -> None:
        self._lines = {key: _Line(key) for key in streams}
        self._wakes: Agenda[Key] = Agenda()
        self._fresh: dict[tuple[Key, int], None] = {}  # on air, and not repeated three times yet
        self._silent = False
        self._out: list[Output] = []
        self.lacking = len(self._lines)
        """How many streams have no STKM for a period whose lead has begun."""

    # --- inputs -------------------------------------------------------------------------------------------------------

    def plan(self, plan: Plan, now: float) -> list[Output]:
        """Take a plan whole, or refuse it (R45)."""
        line = self._lines.get((plan.service, plan.stream))
        why = "unknown stream" if line is None else _refusal(line, plan)
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
                self._wakes.sooner(line.key, slot.ready_at)
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
            self._wakes.set(line.key, _next(line))

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        return self._wakes.next()

    def keep(self, streams: Collection[Key]) -> list[Output]:
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
                self._lines[key] = _Line(key)
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
        line = self._lines.get((service, stream)) or _Line((service, stream))
        return Held(service, stream, tuple(slot.held() for slot in line.slots), line.used)

    def reach(self, now: float) -> float:
        """Seconds until the first stream has nothing planned any more (R49)."""
        return min((line.slots[-1].end - now if line.slots else 0.0 for line in self._lines.values()), default=0.0)

    def alarms(self) -> tuple[Alarm, ...]:
        """Those that hold, for a BSD/A that comes."""
        found = []
        for line in self._lines.values():
            if line.short and line.slots:
                found.append(_short(line))
            found += [_held(line, slot) for slot in line.slots if slot.state is EdgeState.HELD]
        return tuple(found)

    # --- work ---------------------------------------------------------------------------------------------------------

    def _done(self) -> list[Output]:
        out, self._out = self._out, []
        return out

    def _take(self, line: _Line, plan: Plan, period: PlannedPeriod, now: float) -> None:
        slot = line.slot(period.start)
        if slot is None:
            insort(line.slots, _Slot(period, plan, period.end <= now), key=_start)
            return
        before, slot.use = (slot.end, slot.stops), None
        slot.follow(plan, period)
        if before == (slot.end, slot.stops):
            return
        if slot.state is EdgeState.READY:
            self._out.append(NextKey(slot.key(), slot.end))
        elif slot.state in USED:
            self._out.append(slot.key())

    def _work(self, line: _Line, now: float) -> None:
        """Whatever is due for a stream: what has begun, oldest first."""
        chosen, over = None, False
        for n, slot in enumerate(line.slots):
            state, end = slot.state, slot.end
            if state is EdgeState.WAITING:
                if slot.lead > now:
                    break  # and so is that of all that follow
                if now < end or slot.told_late:
                    slot.fire(EdgeEvent.LEAD)
                    self._fresh[line.key, slot.start] = None
                    self._out.append(slot.announce())
                    self._count(line, now)
            elif state is EdgeState.ON_AIR and slot.ready_at is not None and slot.ready_at <= now:
                slot.fire(EdgeEvent.REPEATED)
                state = EdgeState.READY
                self._fresh.pop((line.key, slot.start), None)
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
        self._wakes.set(line.key, _next(line))

    def _count(self, line: _Line, now: float) -> None:
        """R49: an alarm where fewer periods are left than ought to be, taken back when there are enough."""
        left = len(line.slots)
        for slot in line.slots:
            if slot.start > now:
                break
            left -= 1
        short = left < min(SHORT, line.slots[-1].plan.reserve)
        if short is not line.short:
            line.short = short
            self._out.append(_short(line) if short else Alarm("plan-short", *line.key, active=False))

    def _switch(self, line: _Line, chosen: int) -> None:
        """Traffic takes the newest key that it may use (R40)."""
        slot = line.slots[chosen]
        slot.fire(EdgeEvent.SWITCH)
        line.used = slot.start
        self._out.append(slot.key())
        if slot.plan is not line.begun:
            line.begun = slot.plan
            self._out.append(PlanBegun(*line.key, slot.start))
        for before in line.slots[:chosen]:
            self._remove(line, before, EdgeEvent.SUPERSEDED if before.state in USED else EdgeEvent.MISS)

    def _end(self, line: _Line, now: float) -> None:
        """Hold what has no successor, stop what has lost its authority, give up what was never used."""
        for slot in list(line.slots):
            if slot.state in USED and slot.ended(now):
                self._out.append(StopTraffic(*line.key))
                self._remove(line, slot, EdgeEvent.AUTHORITY_ENDS)
                self._out.append(Alarm("stopped", *line.key, f"authority of period {slot.start} ended, no successor (R9)"))
            elif slot.state is EdgeState.IN_USE and now >= slot.end:
                self._hold(line, slot)
            elif slot.state not in USED:
                if slot.start > now:
                    return
                if (now >= slot.end and not slot.told_late) or slot.ended(now):
                    self._remove(line, slot, EdgeEvent.MISS)

    def _hold(self, line: _Line, slot: _Slot) -> None:
        slot.fire(EdgeEvent.HOLD)
        self._out.append(_held(line, slot))

    def _withdraw(self, line: _Line) -> None:
        """The encoder was named a key that it is not to take: the one that it has is named again, which takes the other back."""
        self._out += [slot.key() for slot in line.slots if slot.state in USED]

    def _off_air(self, line: _Line, slot: _Slot) -> None:
        if slot.state in REPEATED:
            self._out.append(OffAir(*line.key, slot.start))

    def _remove(self, line: _Line, slot: _Slot, event: EdgeEvent) -> None:
        """A period takes its last step."""
        if slot.state is EdgeState.HELD:
            self._out.append(Alarm("held-key", *line.key, active=False))
        self._off_air(line, slot)
        slot.fire(event)
        self._fresh.pop((line.key, slot.start), None)
        line.slots.remove(slot)
        slot.wipe()

    def _set_back(self, line: _Line, slot: _Slot, now: float) -> None:
        """The clock was set back to before the lead of the period in use: its STKM is of a time to come and goes off the air, its
        key is held, as that of a period before now.
        """
        self._off_air(line, slot)
        start = int(now) - (slot.end - slot.start)
        slot.start, slot.end, slot.lead, slot.stkms, slot.marks, slot.use = start, start + 1, float(start), (), (), None
        line.used = start
        if slot.state is EdgeState.IN_USE:
            self._hold(line, slot)


def _refusal(line: _Line, plan: Plan) -> str:
    """Why a plan cannot be taken; empty when it can (R45)."""
    if not plan.periods:
        return "no periods"
    edges = {slot.start: slot.end for slot in line.slots}
    last = None
    for period in plan.periods:
        if period.start >= period.end or (last is not None and period.start < last):
            return f"period {period.start} overlaps another of the plan"
        last = period.end
        slot = line.slot(period.start)
        if slot is None and line.used is not None and period.start <= line.used:
            return f"period {period.start} goes back: {line.used} was in use"
        if slot is not None and not slot.says(period):
            where = "planned" if slot.state is EdgeState.WAITING else "on air"
            return f"period {period.start} contradicts what is {where}"
        edges[period.start] = period.end
    if len(edges) > MOST:
        return f"more than {MOST} periods"
    ordered = sorted(edges.items())
    for (start, end), (following, _) in itertools.pairwise(ordered):
        if end > following:
            return f"periods {start} and {following} overlap"
    return ""


def _short(line: _Line) -> Alarm:
    return Alarm("plan-short", *line.key, f"fewer than {min(SHORT, line.slots[-1].plan.reserve)} periods are left in the plan")


def _held(line: _Line, slot: _Slot) -> Alarm:
    return Alarm("held-key", *line.key, f"no new key at {slot.end}: the last one is held")


def _next(line: _Line) -> float | None:
    """When something of a stream changes."""
    first = math.inf if line.lacks else line.next_lead
    for slot in line.slots:
        state = slot.state
        if state is EdgeState.WAITING:
            if slot.lead < first:  # what follows comes later
                first = slot.lead
            break
        at: float = math.inf if state is EdgeState.HELD or slot.told_late else slot.end
        if state is EdgeState.READY:
            at = min(at, slot.start)
        elif state is EdgeState.ON_AIR:
            at = at if slot.ready_at is None else min(at, slot.ready_at)
        elif slot.stops is not None:
            at = min(at, slot.stops)
        if at < first:
            first = at
    return None if first == math.inf else first


def _start(slot: _Slot) -> int:
    return slot.start
