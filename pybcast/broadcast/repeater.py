# SPDX-License-Identifier: Apache-2.0
"""Which STKMs are on air, and when each is sent next: the STKM sender without its socket and clock.

The streams of one repetition time turn on one wheel, spread evenly over its slots of about a millisecond.  A slot is due at the
begin of the sender plus a whole number of slots: nothing that comes late shifts what follows.  Within a slot the STKMs of a stream
stand in the order of their periods, so that n leaves before n+1 (R6).  What is announced leaves at once, and then in its slot: so
it has been on air for three repetitions the sooner.

When a period begins, those before it go off air (the hand-over): exactly then, if its STKM has been on air for three repetitions
(R40), else as soon as it has; and only while the BSD/A is there, which switches the traffic at the same moment.  Without one the
key in use stays in use, and so its STKM is held.  All work on a slot is done when the slot is due, so that a hand-over of ten
thousand streams in one second is spread over a repetition.

Times are seconds of a monotonic clock (``now``) and 64-bit NTP seconds (``wall``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from pybcast.broadcast.link import Held, mark_of
from pybcast.flows import Profile
from pybcast.flows.events import AirStkm, Announce, OffAir
from pybcast.flows.schedule import REPETITIONS_AHEAD

SLOT: Final = 0.001  # seconds between two slots: what a hundred datagrams take, and half of the lateness wanted - confidence: own
MAX_SLOTS: Final = 1000  # of a wheel: a repetition of 1 s or more
EXPRESS: Final = 32  # periods that leave out of turn at once: a third of a slot of ten thousand services - confidence: own
MAX_PERIODS: Final = 16  # of a stream on air; a machine has two, three while it catches up - confidence: own

Key = tuple[str, int]
Place = tuple[str, int]
"""Address and port."""
_WHEN: Final = {"drm": 0, "smartcard": 1}


class Datagram:
    """One STKM on its way to one place."""

    __slots__ = ("data", "handle", "order", "place")

    def __init__(self, order: tuple[int, int, int], data: bytes, place: Place) -> None:
        self.order, self.data, self.place = order, data, place
        self.handle: Any = None
        """What a kind of slot keeps with it."""


class OnAir:
    """One period's STKMs on air.  ``since``: when they first left; ``None`` until then."""

    __slots__ = ("begins", "datagrams", "round", "shown", "since", "start", "stkms", "stream")

    def __init__(self, stream: _Stream, start: int, stkms: tuple[AirStkm, ...], round_: int) -> None:
        self.stream, self.start, self.stkms, self.round = stream, start, stkms, round_
        self.since: float | None = None
        self.shown = False  # whether its datagrams have their places
        self.begins = False  # whether its slot still waits for its begin
        self.datagrams: list[Datagram] = []


class _Stream:
    __slots__ = ("key", "number", "periods", "slot", "wheel")

    def __init__(self, key: Key, number: int) -> None:
        self.key, self.number = key, number
        self.periods: list[OnAir] = []  # oldest first
        self.wheel: Wheel
        self.slot: Slot


class Slot:
    """What leaves together, in this order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: list[Datagram] = []
        self.streams: dict[Key, _Stream] = {}
        self.fresh: list[OnAir] = []  # announced, and not sent yet
        self.begins: list[tuple[float, OnAir]] = []  # hand-overs to come, by the start of the period, the next one last
        self.round = 0

    def insert(self, index: int, datagram: Datagram) -> None:
        self.items.insert(index, datagram)

    def remove(self, index: int) -> None:
        del self.items[index]


class Wheel:
    """The streams of one repetition time.  ``turn`` counts slots since ``epoch``."""

    def __init__(self, repetition: float, epoch: float, turn: int, make: Callable[[int], Slot]) -> None:
        count = max(1, min(MAX_SLOTS, round(repetition / SLOT)))
        self.repetition, self.epoch, self.interval = repetition, epoch, repetition / count
        self.slots = [make(number) for number in range(count)]
        self.turn = turn

    @property
    def due(self) -> float:
        return self.epoch + self.turn * self.interval

    def turn_at(self, now: float) -> int:
        """The first turn that is not over at ``now``."""
        return max(0, -int(-(now - self.epoch) // self.interval))


class Repeater:
    """All that is on air.

    ``groups``: where the STKMs of a (service, stream, profile) go.  ``now``: the begin.  ``slot``: makes an empty slot.
    """

    def __init__(self, groups: Mapping[tuple[str, int, Profile], Place], now: float, *, slot: Callable[[int], Slot] = Slot) -> None:
        self.groups, self._configured = groups, _count(groups)
        self._epoch, self._make = now, slot
        self._express = slot(0)
        self._new: deque[OnAir] = deque()
        self._streams: dict[Key, _Stream] = {}
        self._wheels: dict[float, Wheel] = {}
        self._numbers = 0
        self._round = 0  # counts the BSD/As that came
        self._ended = 0  # the last one that has said everything
        self.able = False
        """Whether a BSD/A is there and has said everything: it switches the traffic."""
        self.reports: list[tuple[str, int, int]] = []
        """What has left for the first time, or is on air already and was said again; the caller takes it away."""
        self.datagrams = 0  # that are repeated
        self.missed = 0  # repetitions that were left out
        self.handovers = self.handovers_late = self.handovers_held = 0
        self.replaced = 0  # STKMs of one period that differ: never, with a BSD/A that is right
        self.strangers = 0  # announcements of streams that the configuration does not know

    def held(self) -> tuple[Held, ...]:
        """What is on air, for a BSD/A that comes: it may have forgotten it (R51)."""
        return tuple(
            (*stream.key, period.start, mark_of(stkm.data))
            for stream in self._streams.values() for period in stream.periods for stkm in period.stkms
        )  # fmt: skip

    # --- what the BSD/A says --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._round += 1
        self.able = False

    def end(self) -> None:
        """Everything has been said: what was not goes off air, slot by slot.

        Of a stream of which nothing was said at all the last stays: its BSD/A has lost its store, the traffic is still under that
        key, and no service is left without a key message.
        """
        self._ended = self._round
        self.able = True

    def gone(self) -> None:
        self.able = False

    def announce(self, said: Announce, now: float) -> bool:
        """Repeat these STKMs from now on.  False when nobody said where to."""
        key = (said.service, said.stream)
        places = [self.groups.get((*key, stkm.profile)) for stkm in said.stkms]
        if None in places:
            self.strangers += 1
            return False
        stream = self._streams.get(key) or self._enter(key, said.repetition, now)
        if stream.wheel.repetition != said.repetition:
            self._move(stream, said.repetition, now)
        at = bisect_left(stream.periods, said.start, key=_start)
        if at < len(stream.periods) and stream.periods[at].start == said.start:
            known = stream.periods[at]
            if known.stkms == said.stkms:
                known.round = self._round
                if known.since is not None:
                    self.reports.append((*key, said.start))
                return True
            self.replaced += 1
            self._hide(stream.periods.pop(at))
        elif len(stream.periods) >= MAX_PERIODS:
            self._hide(stream.periods.pop(0))
            at = max(0, at - 1)
        period = OnAir(stream, said.start, said.stkms, self._round)
        stream.periods.insert(at, period)
        for stkm, place in zip(said.stkms, places, strict=True):
            assert place is not None
            period.datagrams.append(Datagram((stream.number, said.start, _WHEN[stkm.profile]), stkm.data, place))
        self._show(period, now)
        self._new.append(period)
        return True

    def off_air(self, said: OffAir) -> None:
        stream = self._streams.get((said.service, said.stream))
        if stream is not None:
            at = bisect_left(stream.periods, said.start, key=_start)
            if at < len(stream.periods) and stream.periods[at].start == said.start:
                self._off(stream, at)

    def regroup(self, groups: Mapping[tuple[str, int, Profile], Place], now: float) -> None:
        """The configuration has changed: streams go elsewhere, or are no more."""
        self.groups, self._configured = groups, _count(groups)
        for stream in list(self._streams.values()):
            for at in range(len(stream.periods) - 1, -1, -1):
                period = stream.periods[at]
                places = [groups.get((*stream.key, stkm.profile)) for stkm in period.stkms]
                if places == [datagram.place for datagram in period.datagrams]:
                    continue
                self._off(stream, at)
                if None not in places:
                    repetition = stream.wheel.repetition
                    self.announce(Announce(*stream.key, period.start, period.stkms, repetition), now)

    # --- what leaves ----------------------------------------------------------------------------------------------------

    def due(self) -> float:
        """When a slot is due next; infinite when nothing is on air."""
        return min((wheel.due for wheel in self._wheels.values()), default=float("inf"))

    def take(self, now: float, wall: float) -> tuple[float, Slot] | None:
        """The slot that is due, and since when; ``None`` when none is.

        What fell behind by more than a repetition is left out, and counted: sending it twice in a row helps nobody.
        """
        wheel = min(self._wheels.values(), key=_due, default=None)
        if wheel is None or wheel.due > now:
            return None
        behind = int((now - wheel.due) / wheel.repetition)
        if behind:
            self.missed += behind * sum(len(slot.items) for slot in wheel.slots)
            wheel.turn += behind * len(wheel.slots)
        due, slot = wheel.due, wheel.slots[wheel.turn % len(wheel.slots)]
        if slot.round != self._ended:
            self._sweep(slot)
        while slot.begins and slot.begins[-1][0] <= wall:
            self._hand_over(slot, now, wall)
        self._advance(wheel)
        return due, slot

    @property
    def waiting(self) -> bool:
        """Whether :meth:`express` has something."""
        return bool(self._new)

    def express(self) -> Slot | None:
        """What was announced and has not left yet, some of it: out of turn, once, whether it leaves or not."""
        if not self._new:
            return None
        express = self._express
        while express.items:
            express.remove(len(express.items) - 1)
        express.fresh.clear()
        while self._new and len(express.fresh) < EXPRESS:
            period = self._new.popleft()
            if period.since is None and period.shown:
                express.fresh.append(period)
                for datagram in period.datagrams:
                    express.insert(len(express.items), datagram)
        return express

    def sent(self, slot: Slot, count: int, now: float, failed: Collection[int] = ()) -> None:
        """So many of the slot's datagrams have left, but for those of these indexes.

        Called with all of them when another headend sends the same (R33).
        """
        if slot.fresh:
            whole = count == len(slot.items) and not failed
            left = () if whole else [d for i, d in enumerate(slot.items[:count]) if i not in failed]
            for period in list(slot.fresh):
                if whole or any(datagram in left for datagram in period.datagrams):
                    period.since = now
                    slot.fresh.remove(period)
                    if slot is self._express:
                        period.stream.slot.fresh.remove(period)
                    self.reports.append((*period.stream.key, period.start))

    # --- views ----------------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many have a STKM on air."""
        return len(self._streams)

    @property
    def missing(self) -> int:
        """How many of the configuration's streams have none."""
        return self._configured - len(self._streams)

    # --- wheels ---------------------------------------------------------------------------------------------------------

    def _enter(self, key: Key, repetition: float, now: float) -> _Stream:
        self._numbers += 1
        stream = self._streams[key] = _Stream(key, self._numbers)
        self._place(stream, repetition, now)
        return stream

    def _place(self, stream: _Stream, repetition: float, now: float) -> None:
        wheel = self._wheels.get(repetition)
        if wheel is None:
            wheel = self._wheels[repetition] = Wheel(repetition, self._epoch, 0, self._make)
            wheel.turn = wheel.turn_at(now)
        stream.wheel = wheel
        stream.slot = min(wheel.slots, key=_load)
        stream.slot.streams[stream.key] = stream

    def _move(self, stream: _Stream, repetition: float, now: float) -> None:
        """Another repetition time: to another wheel."""
        for period in stream.periods:
            self._hide(period)
        self._leave(stream)
        self._place(stream, repetition, now)
        for period in stream.periods:
            self._show(period, now)

    def _leave(self, stream: _Stream) -> None:
        del stream.slot.streams[stream.key]
        if not any(slot.streams for slot in stream.wheel.slots):
            del self._wheels[stream.wheel.repetition]

    def _advance(self, wheel: Wheel) -> None:
        """To the next slot that holds something."""
        wheel.turn += 1
        slots, count = wheel.slots, len(wheel.slots)
        for _ in range(count):
            slot = slots[wheel.turn % count]
            if slot.items:
                return
            wheel.turn += 1

    def _show(self, period: OnAir, now: float) -> None:
        """Its datagrams take their places."""
        slot, wheel = period.stream.slot, period.stream.wheel
        if not slot.items:  # it was passed over: it may be due before what the wheel waits for
            turn = wheel.turn_at(now)
            wheel.turn = min(wheel.turn, turn + (slot.number - turn) % len(wheel.slots))
        self.datagrams += len(period.datagrams)
        period.shown = True
        for datagram in period.datagrams:
            slot.insert(bisect_left(slot.items, datagram.order, key=_order), datagram)
        if period.since is None:
            slot.fresh.append(period)
        self._wait(slot, period.start, period)

    def _hide(self, period: OnAir) -> None:
        slot = period.stream.slot
        at = bisect_left(slot.items, period.datagrams[0].order, key=_order)
        self.datagrams -= len(period.datagrams)
        period.shown = False
        for _ in period.datagrams:
            slot.remove(at)
        if period.since is None:
            slot.fresh.remove(period)
        if period.begins:
            slot.begins = [begin for begin in slot.begins if begin[1] is not period]
            period.begins = False

    def _off(self, stream: _Stream, at: int) -> None:
        self._hide(stream.periods.pop(at))
        if not stream.periods:
            self._leave(stream)
            del self._streams[stream.key]

    # --- what is done when a slot is due --------------------------------------------------------------------------------

    def _sweep(self, slot: Slot) -> None:
        """Off with what the BSD/A did not say again."""
        slot.round = self._ended
        for stream in list(slot.streams.values()):
            if any(period.round >= self._ended for period in stream.periods):
                for at in range(len(stream.periods) - 1, -1, -1):
                    if stream.periods[at].round < self._ended:
                        self._off(stream, at)

    def _wait(self, slot: Slot, wall: float, period: OnAir) -> None:
        slot.begins.insert(bisect_right(slot.begins, -wall, key=_later), (wall, period))
        period.begins = True

    def _hand_over(self, slot: Slot, now: float, wall: float) -> None:
        """A period of the slot has begun: off with those before it, or wait for what must be before that."""
        begin, period = slot.begins.pop()
        period.begins = False
        stream = period.stream
        if stream.periods[0] is period:
            return  # nothing before it
        if not self.able:
            self.handovers_held += 1  # a BSD/A that comes says which
            return
        repetition = stream.wheel.repetition
        ready = now + repetition if period.since is None else period.since + REPETITIONS_AHEAD * repetition
        if ready > now:
            self.handovers_late += begin == period.start
            self._wait(slot, wall + max(ready - now, SLOT), period)
            return
        self.handovers += 1
        while stream.periods[0] is not period:
            self._off(stream, 0)


def _count(groups: Mapping[tuple[str, int, Profile], Place]) -> int:
    return len({(service, stream) for service, stream, _ in groups})


def _start(period: OnAir) -> int:
    return period.start


def _order(datagram: Datagram) -> tuple[int, int, int]:
    return datagram.order


def _later(begin: tuple[float, OnAir]) -> float:
    return -begin[0]


def _load(slot: Slot) -> int:
    return len(slot.streams)


def _due(wheel: Wheel) -> float:
    return wheel.due
