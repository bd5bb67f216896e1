# SPDX-License-Identifier: Apache-2.0
"""Which STKMs are on air, and when each is sent next: the STKM sender without its socket and clock.

The streams of one repetition time turn on one wheel, spread evenly over its slots of about a millisecond.  A slot is due at the
begin of the sender plus a whole number of slots: nothing that comes late shifts what follows.  Within a slot the STKMs of a stream
stand in the order of their periods, so that n leaves before n+1 (R6).  What is announced leaves at once, and then in its slot: so
it has been on air for three repetitions the sooner.

What goes on air and comes off, and when, is the edge's (``flows.edge``).  Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from pybcast.flows import Profile
from pybcast.flows.events import AirStkm, Announce, OffAir

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

    __slots__ = ("datagrams", "shown", "since", "start", "stkms", "stream")

    def __init__(self, stream: _Stream, start: int, stkms: tuple[AirStkm, ...]) -> None:
        self.stream, self.start, self.stkms = stream, start, stkms
        self.since: float | None = None
        self.shown = False  # whether its datagrams have their places
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
        self.groups = groups
        self._epoch, self._make = now, slot
        self._express = slot(0)
        self._new: deque[OnAir] = deque()
        self._streams: dict[Key, _Stream] = {}
        self._wheels: dict[float, Wheel] = {}
        self._numbers = 0
        self.reports: list[tuple[str, int, int]] = []
        """What has left for the first time, or is on air already and was said again; the caller takes it away."""
        self.datagrams = 0  # that are repeated
        self.missed = 0  # repetitions that were left out

    # --- what the edge says ---------------------------------------------------------------------------------------------

    def announce(self, said: Announce, now: float) -> None:
        """Repeat these STKMs from now on; the configuration says where to."""
        key = (said.service, said.stream)
        places = [self.groups[*key, stkm.profile] for stkm in said.stkms]
        stream = self._streams.get(key) or self._enter(key, said.repetition, now)
        if stream.wheel.repetition != said.repetition:
            self._move(stream, said.repetition, now)
        at = bisect_left(stream.periods, said.start, key=_start)
        if at < len(stream.periods) and stream.periods[at].start == said.start:
            known = stream.periods[at]
            if known.stkms == said.stkms:
                if known.since is not None:
                    self.reports.append((*key, said.start))
                return
            self._hide(stream.periods.pop(at))
        elif len(stream.periods) >= MAX_PERIODS:
            self._hide(stream.periods.pop(0))
            at = max(0, at - 1)
        period = OnAir(stream, said.start, said.stkms)
        stream.periods.insert(at, period)
        for stkm, place in zip(said.stkms, places, strict=True):
            period.datagrams.append(Datagram((stream.number, said.start, _WHEN[stkm.profile]), stkm.data, place))
        self._show(period, now)
        self._new.append(period)

    def off_air(self, said: OffAir) -> None:
        stream = self._streams.get((said.service, said.stream))
        if stream is not None:
            at = bisect_left(stream.periods, said.start, key=_start)
            if at < len(stream.periods) and stream.periods[at].start == said.start:
                self._off(stream, at)

    def regroup(self, groups: Mapping[tuple[str, int, Profile], Place], now: float) -> None:
        """The configuration has changed: streams go elsewhere, or are no more."""
        self.groups = groups
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

    def take(self, now: float) -> tuple[float, Slot] | None:
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
        """So many of the slot's datagrams have left, but for those of these indexes."""
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

    def _hide(self, period: OnAir) -> None:
        slot = period.stream.slot
        at = bisect_left(slot.items, period.datagrams[0].order, key=_order)
        self.datagrams -= len(period.datagrams)
        period.shown = False
        for _ in period.datagrams:
            slot.remove(at)
        if period.since is None:
            slot.fresh.remove(period)

    def _off(self, stream: _Stream, at: int) -> None:
        self._hide(stream.periods.pop(at))
        if not stream.periods:
            self._leave(stream)
            del self._streams[stream.key]


def _start(period: OnAir) -> int:
    return period.start


def _order(datagram: Datagram) -> tuple[int, int, int]:
    return datagram.order


def _load(slot: Slot) -> int:
    return len(slot.streams)


def _due(wheel: Wheel) -> float:
    return wheel.due
