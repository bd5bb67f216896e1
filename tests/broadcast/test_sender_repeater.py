# SPDX-License-Identifier: Apache-2.0
"""What is on air and when it leaves, in simulated time: the repetition, the order, and what was on air first when."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pybcast.broadcast.datagrams import SIZE, PackedSlot, _Iovec, _Mmsghdr
from pybcast.broadcast.repeater import EXPRESS, MAX_PERIODS, Datagram, Place, Repeater, Slot
from pybcast.flows.events import AirStkm, Announce, OffAir

WALL: Final = 4_000_000_000.0  # NTP seconds when the simulated clock begins
REPETITION: Final = 0.1  # seconds, the shortest here
Sent = tuple[float, int, bytes]
"""When, to which port, what."""


def groups(count: int) -> dict[tuple[str, int, Any], Place]:
    """Streams of both profiles, each with two ports of its own."""
    return {
        (f"urn:{n}", 1, profile): ("239.0.0.1", 1000 + 2 * n + second)
        for n in range(count)
        for second, profile in enumerate(("drm", "smartcard"))
    }


def announce(n: int, start: float, repetition: float = 0.1, data: bytes = b"") -> Announce:
    at = int(start)
    stkms = (AirStkm("drm", b"d%d %d" % (n, at) + data), AirStkm("smartcard", b"s%d %d" % (n, at) + data))
    return Announce(f"urn:{n}", 1, at, stkms, repetition)


class Air:
    """A repeater in simulated time, and all that left."""

    def __init__(self, streams: int, slot: type[Slot] = Slot) -> None:
        self.now = 100.0
        self.repeater = Repeater(groups(streams), self.now, slot=slot)
        self.sent: list[Sent] = []
        self.slots: list[list[Sent]] = []  # those of the last run
        self.reports: list[tuple[float, tuple[str, int, int]]] = []

    @property
    def wall(self) -> float:
        return WALL + self.now - 100.0

    def say(self, *said: Announce | OffAir) -> None:
        for one in said:
            if isinstance(one, OffAir):
                self.repeater.off_air(one)
            else:
                self.repeater.announce(one, self.now)
        self._report()

    def run(self, seconds: float, *, sleep: float = 0.0) -> list[Sent]:
        """Let time pass; each slot leaves when it is due, or ``sleep`` late.  What has left."""
        first, end = len(self.sent), self.now + seconds
        self.slots = []
        while (due := self.repeater.due()) + sleep <= end:
            self.now = max(self.now, due + sleep)
            taken = self.repeater.take(self.now)
            assert taken is not None and taken[0] <= self.now
            slot = taken[1]
            self.slots.append([(self.now, datagram.place[1], datagram.data) for datagram in slot.items])
            self.sent += self.slots[-1]
            self.repeater.sent(slot, len(slot.items), self.now)
            self._report()
        self.now = end
        return self.sent[first:]

    def at_once(self) -> list[Sent]:
        """What is new leaves."""
        first = len(self.sent)
        while self.repeater.waiting:
            slot = self.repeater.express()
            assert slot is not None
            self.sent += [(self.now, datagram.place[1], datagram.data) for datagram in slot.items]
            self.repeater.sent(slot, len(slot.items), self.now)
            self._report()
        return self.sent[first:]

    def _report(self) -> None:
        self.reports += [(self.now, report) for report in self.repeater.reports]
        self.repeater.reports.clear()


def by_port(sent: list[Sent]) -> Mapping[int, list[tuple[float, bytes]]]:
    found = defaultdict(list)
    for when, port, data in sent:
        found[port].append((when, data))
    return found


def test_every_stkm_is_repeated_without_drift() -> None:
    air = Air(150)
    for n in range(150):
        air.say(announce(n, WALL - 10))
    found = by_port(air.run(100.0))
    assert len(found) == 300
    for port, times in found.items():
        assert 999 <= len(times) <= 1001
        for (a, _), (b, _) in pairwise(times):
            assert b - a == pytest.approx(0.1, abs=1e-6)
        assert times[-1][0] - times[0][0] == pytest.approx(0.1 * (len(times) - 1), abs=1e-6), "no drift"
        assert {data for _, data in times} == {b"%c%d %d" % (b"ds"[port % 2], (port - 1000) // 2, WALL - 10)}
    leaving = sorted({when for times in found.values() for when, _ in times[:1]})
    assert len(leaving) == 100, "spread over all slots"


def test_what_is_late_does_not_shift_what_follows() -> None:
    air = Air(3)
    for n in range(3):
        air.say(announce(n, WALL - 10))
    first = by_port(air.run(0.3))
    late = by_port(air.run(1.0, sleep=0.03))
    again = by_port(air.run(0.5))
    for port, times in again.items():
        phases = {round((when - first[port][0][0]) % 0.1, 6) % 0.1 for when, _ in times}
        assert phases <= {0.0, 0.03} and {round(w - first[port][0][0], 6) % 0.1 for w, _ in times[1:]}
        assert 9 <= len(late[port]) <= 11
    assert air.repeater.missed == 0


def test_repetitions_that_were_slept_through_are_left_out_and_counted() -> None:
    air = Air(3)
    for n in range(3):
        air.say(announce(n, WALL - 10))
    air.run(0.95)
    air.now += 1.1
    caught_up = by_port(air.run(0.0))
    assert {port: len(times) for port, times in caught_up.items()} == dict.fromkeys(range(1000, 1006), 1), "none twice"
    assert air.repeater.missed == 6 * 10
    assert len(air.run(0.96)) == 6 * 10


def test_n_leaves_before_n_plus_1() -> None:
    air = Air(40)
    for n in range(40):
        air.say(announce(n, WALL))
    air.run(6.0)
    for n in range(40):
        air.say(announce(n, WALL + 10))
    for port, times in by_port(air.run(4.0)).items():
        name = b"%c%d " % (b"ds"[port % 2], (port - 1000) // 2)
        old, new = name + b"%d" % WALL, name + b"%d" % (WALL + 10)
        both = [data for _, data in times]
        assert both[0::2] == [old] * len(both[0::2]) and both[1::2] == [new] * len(both[1::2]), "n before n+1"
    for n in range(40):
        air.say(OffAir(f"urn:{n}", 1, int(WALL)))
    assert all(data.endswith(b" %d" % (WALL + 10)) for _, _, data in air.run(1.0))
    assert air.repeater.datagrams == 80


def test_the_first_that_leaves_is_reported_and_what_is_on_air_at_once() -> None:
    air = Air(2)
    air.say(announce(0, WALL + 1))
    assert air.reports == []
    sent = air.run(0.2)
    assert air.reports == [(sent[0][0], ("urn:0", 1, int(WALL + 1)))]
    air.say(announce(0, WALL + 1))
    assert air.reports[1:] == [(air.now, ("urn:0", 1, int(WALL + 1)))]
    assert air.repeater.datagrams == 2


def test_off_air_is_off_air() -> None:
    air = Air(2)
    air.say(announce(0, WALL), announce(1, WALL))
    air.run(1.0)
    air.say(OffAir("urn:0", 1, int(WALL)), OffAir("urn:0", 1, 7), OffAir("urn:9", 1, 7))
    assert set(by_port(air.run(1.0))) == {1002, 1003}
    air.say(OffAir("urn:1", 1, int(WALL)))
    assert air.repeater.due() == float("inf") and air.run(1.0) == []
    assert (air.repeater.streams, air.repeater.datagrams) == (0, 0)
    air.say(announce(1, WALL))
    assert 20 <= len(air.run(1.0)) <= 22


def test_what_did_not_leave_is_not_reported() -> None:
    air = Air(2)
    air.repeater._make = Slot
    air.say(announce(0, WALL))
    for count, failed, reported in ((0, (), 0), (2, (0, 1), 0), (1, (), 1)):
        air.now = air.repeater.due()
        taken = air.repeater.take(air.now)
        assert taken is not None
        air.repeater.sent(taken[1], count, air.now, failed)
        assert len(air.repeater.reports) == reported


def test_what_is_new_leaves_at_once_and_once() -> None:
    air = Air(EXPRESS + 1)
    for n in range(EXPRESS + 1):
        air.say(announce(n, WALL), announce(n, WALL + 10))
    air.say(OffAir("urn:5", 1, int(WALL)))
    sent = air.at_once()
    assert len(sent) == len({data for _, _, data in sent}) == 2 * (2 * EXPRESS + 1)
    assert len(air.reports) == 2 * EXPRESS + 1 and air.repeater.express() is None
    assert all(len(times) <= 2 for times in by_port(sent).values())
    air.say(announce(0, WALL + 20))
    air.run(0.05)  # its slot came first
    assert air.at_once() == [] and len(air.reports) == 2 * EXPRESS + 2
    assert not any(slot.fresh for wheel in air.repeater._wheels.values() for slot in wheel.slots)


def test_other_repetitions_turn_on_wheels_of_their_own() -> None:
    air = Air(3)
    air.say(announce(0, WALL, 0.1), announce(1, WALL, 0.25), announce(2, WALL, 5.0))
    counts = {port: len(times) for port, times in by_port(air.run(100.0)).items()}
    assert counts[1000] == pytest.approx(1000, abs=1)
    assert counts[1002] == pytest.approx(400, abs=1)
    assert counts[1004] == pytest.approx(20, abs=1)
    air.say(announce(1, WALL + 200, 0.1))  # the configuration has changed
    assert len(by_port(air.run(10.0))[1002]) == pytest.approx(200, abs=2)
    assert len(air.repeater._wheels) == 2


def test_streams_go_elsewhere_when_the_configuration_says_so() -> None:
    air = Air(3)
    for n in range(3):
        air.say(announce(n, WALL))
    air.run(1.0)
    changed = groups(3)
    changed["urn:0", 1, "drm"] = ("239.0.0.1", 7)
    del changed["urn:1", 1, "drm"], changed["urn:1", 1, "smartcard"]
    air.repeater.regroup(changed, air.now)
    assert set(by_port(air.run(1.0))) == {7, 1001, 1004, 1005}
    assert air.repeater.streams == 2


def test_a_second_stkm_of_a_period_takes_its_place() -> None:
    air = Air(1)
    air.say(announce(0, WALL))
    air.run(1.0)
    air.say(announce(0, WALL, data=b"!"))
    assert {data[-1:] for _, _, data in air.run(1.0)} == {b"!"}


def test_periods_of_a_stream_are_bounded() -> None:
    air = Air(1)
    for k in range(100):
        air.say(announce(0, WALL + 1000 + (k * 37) % 100))
    assert air.repeater.datagrams == 2 * MAX_PERIODS and len(air.run(0.05)) == 2 * MAX_PERIODS
    slot = next(slot for wheel in air.repeater._wheels.values() for slot in wheel.slots if slot.items)
    assert not slot.fresh


# --- arrays -----------------------------------------------------------------------------------------------------------


def packed(slot: PackedSlot) -> list[tuple[bytes, bytes]]:
    """What the system would read: address and content of each datagram."""
    found = []
    for at in range(len(slot.items)):
        header = _Mmsghdr.from_address(slot.address + at * SIZE).hdr
        assert header.namelen == 16 and header.iovlen == 1 and header.control is None
        vector = _Iovec.from_address(header.iov)
        found.append((ctypes.string_at(header.name, 16), ctypes.string_at(vector.base, vector.len)))
    return found


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 30), st.binary(min_size=1, max_size=40)), max_size=80))
def test_arrays_hold_what_the_list_holds(steps: list[tuple[bool, int, bytes]]) -> None:
    slot, model = PackedSlot(0), list[tuple[bytes, bytes]]()
    for insert, where, data in steps:
        if insert or not model:
            at, port = where % (len(model) + 1), where % 65536
            slot.insert(at, Datagram((0, 0, 0), data, ("239.1.2.3", port)))
            model.insert(at, (b"\x02\0" + port.to_bytes(2, "big") + bytes([239, 1, 2, 3]) + bytes(8), data))
        else:
            slot.remove(where % len(model))
            del model[where % len(model)]
        assert packed(slot) == model


# --- anything that can be said ----------------------------------------------------------------------------------------


class Anything(RuleBasedStateMachine):
    """Whatever a BSD/A says and however late the process is: what leaves is what was announced, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.air = Air(3, PackedSlot)
        self.said: set[bytes] = set()

    @rule(n=st.integers(0, 2), ahead=st.integers(-2, 4), repetition=st.sampled_from([REPETITION, REPETITION, 0.25]))
    def announce(self, n: int, ahead: int, repetition: float) -> None:
        said = announce(n, self.air.wall + ahead, repetition)
        self.said |= {stkm.data for stkm in said.stkms}
        self.air.say(said)

    @rule(n=st.integers(0, 2), ahead=st.integers(-4, 4))
    def off(self, n: int, ahead: int) -> None:
        self.air.say(OffAir(f"urn:{n}", 1, int(self.air.wall) + ahead))

    @rule(seconds=st.sampled_from([0.03, 0.3, 2.0]), sleep=st.sampled_from([0.0, 0.0, 0.004, 0.3]))
    def run(self, seconds: float, sleep: float) -> None:
        assert {data for _, _, data in self.air.at_once()} <= self.said
        sent = self.air.run(seconds, sleep=sleep)
        assert {data for _, _, data in sent} <= self.said
        for slot in self.air.slots:
            for times in by_port(slot).values():
                assert all(int(old.split()[1]) < int(new.split()[1]) for (_, old), (_, new) in pairwise(times))
        for times in by_port(sent).values():
            # One that is late by almost a repetition leaves just before the next of the same: two together, never three.
            for data in {data for _, data in times}:
                left = [at for at, each in times if each == data]
                assert all(third - first > REPETITION - 1e-6 for first, third in zip(left, left[2:], strict=False))

    @precondition(lambda self: self.air.repeater.streams == 0)
    @rule()
    def nothing(self) -> None:
        assert self.air.repeater.due() == float("inf") and not self.air.repeater._wheels

    @invariant()
    def books_agree(self) -> None:
        repeater = self.air.repeater
        periods = [period for stream in repeater._streams.values() for period in stream.periods]
        slots = [slot for wheel in repeater._wheels.values() for slot in wheel.slots]
        assert repeater.datagrams == sum(len(slot.items) for slot in slots) == 2 * len(periods)
        assert {id(d) for slot in slots for d in slot.items} == {id(d) for period in periods for d in period.datagrams}
        for slot in slots:
            assert [d.order for d in slot.items] == sorted(d.order for d in slot.items)
            assert isinstance(slot, PackedSlot)
            assert [content for _, content in packed(slot)] == [d.data for d in slot.items]
        assert {id(p) for slot in slots for p in slot.fresh} == {id(p) for p in periods if p.since is None}


TestAnything = Anything.TestCase
TestAnything.settings = settings(stateful_step_count=30, deadline=None)
