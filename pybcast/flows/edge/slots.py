# SPDX-License-Identifier: Apache-2.0
"""What the edge has of a stream: its planned periods, oldest first."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Final

from pybcast.flows.events import Alarm, Announce, Plan, PlannedPeriod, UseKey
from pybcast.flows.stream.config import StreamId
from pybcast.flows.stream.schedule import lead
from pybcast.flows.tables import EDGE, EdgeEvent, EdgeState, step
from pybcast.secret import Secret

MOST: Final = 4096  # periods planned for a stream: twice the largest look-ahead and batch - confidence: own
SHORT: Final = 3  # periods left in a plan below which there is an alarm (R49)
USED: Final = frozenset({EdgeState.IN_USE, EdgeState.HELD})
REPEATED: Final = frozenset({EdgeState.ON_AIR, EdgeState.READY, *USED})
"""States in which the STKMs of a period are repeated."""


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


class Slot:
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

    def held_alarm(self) -> Alarm:
        """No successor is ready (R40)."""
        key = (self.plan.service, self.plan.stream)
        return Alarm("held-key", *key, f"no new key at {self.end}: the last one is held")

    def held(self) -> HeldPeriod:
        return HeldPeriod(self.start, self.end, self.state, self.marks, self.stops)

    def announce(self) -> Announce:
        return Announce(self.plan.service, self.plan.stream, self.start, self.stkms, self.plan.repetition)

    def wipe(self) -> None:
        self.tek.wipe()
        if self.auth_key is not None:
            self.auth_key.wipe()
        self.use = None


class Line:
    """A stream.  ``used``: start of the last key that was used.  ``begun``: the last plan of which a key was used.  ``lacks``:
    there is no STKM for a period whose lead has begun.
    """

    __slots__ = ("begun", "id", "lacks", "short", "slots", "used")

    def __init__(self, stream_id: StreamId) -> None:
        self.id = stream_id
        self.slots: list[Slot] = []  # oldest first
        self.used: int | None = None
        self.begun: Plan | None = None
        self.short = False
        self.lacks = True

    def slot(self, start: int) -> Slot | None:
        for slot in self.slots:
            if slot.start == start:
                return slot
        return None

    @property
    def next_lead(self) -> float:
        """When the lead of the period after the last begins (R6)."""
        last = self.slots[-1]
        return lead(last.end, last.end - last.start)

    def refusal(self, plan: Plan) -> str:
        """Why a plan cannot be taken; empty when it can (R45)."""
        if not plan.periods:
            return "no periods"
        edges = {slot.start: slot.end for slot in self.slots}
        last = None
        for period in plan.periods:
            if period.start >= period.end or (last is not None and period.start < last):
                return f"period {period.start} overlaps another of the plan"
            last = period.end
            slot = self.slot(period.start)
            if slot is None and self.used is not None and period.start <= self.used:
                return f"period {period.start} goes back: {self.used} was in use"
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

    def next_work(self) -> float | None:
        """When something of a stream changes."""
        first = math.inf if self.lacks else self.next_lead
        for slot in self.slots:
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

    def short_alarm(self) -> Alarm:
        """Fewer periods are left than ought to be (R49)."""
        least = min(SHORT, self.slots[-1].plan.reserve)
        return Alarm("plan-short", *self.id, f"fewer than {least} periods are left in the plan")
