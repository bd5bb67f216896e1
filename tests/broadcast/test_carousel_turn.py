# SPDX-License-Identifier: Apache-2.0
"""How the carousel turns: everything once a cycle, evenly, without drift, below the rate, newest last - in simulated time."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.broadcast.carousel import Contents, Settings
from pybcast.broadcast.segments import LIFETIME
from pybcast.broadcast.turn import BEHIND, OVERHEAD, Ring, Wheels
from pybcast.flows.events import CarouselPut

NEWS: Final = "urn:example:news"
WALL: Final = 1_900_000_000.0


def named(name: str, count: int, size: int = 100) -> tuple[bytes, ...]:
    return tuple(f"{name}{i}".encode().ljust(size, b".") for i in range(count))


class Air:
    """Takes what is due, as a process does that is woken late."""

    def __init__(self, wheels: Wheels, seed: int = 1, late: float = 0.004) -> None:
        self.wheels, self._rng, self._late = wheels, random.Random(seed), late
        self.now = 100.0
        self.sent: list[tuple[float, bytes]] = []

    def run(self, seconds: float) -> list[tuple[float, bytes]]:
        """What leaves in that time."""
        until, before = self.now + seconds, len(self.sent)
        while True:
            due = self.wheels.due()
            wake = until if due is None else max(due, self.now) + self._rng.random() * self._late
            if wake >= until:
                self.now = until
                return self.sent[before:]
            self.now = wake
            self.sent += [(wake, d) for d in self.wheels.take(wake)]


def test_a_turn_has_everything_once_in_the_order_of_putting() -> None:
    ring = Ring(1.0)
    for name in "abc":
        ring.put(name, named(name, 3))
    everything = [d for name in "abc" for d in named(name, 3)]
    for turn in range(3):
        assert [ring.next() for _ in range(9)] == everything
        assert ring.turns == turn, "it is over when the next one begins"
    assert (ring.datagrams, ring.octets) == (9, 9 * (100 + OVERHEAD))


def test_what_is_put_anew_goes_last_and_still_leaves_in_this_turn() -> None:
    ring = Ring(1.0)
    for name in "abc":
        ring.put(name, named(name, 2))
    assert [ring.next() for _ in range(3)] == [*named("a", 2), *named("b", 1)]
    ring.put("a", named("A", 2))
    ring.put("b", named("B", 1))
    assert [ring.next() for _ in range(5)] == [*named("c", 2), *named("A", 2), *named("B", 1)], "R7: the newest COUNTERs last"
    assert [ring.next() for _ in range(5)] == [*named("c", 2), *named("A", 2), *named("B", 1)]
    assert ring.names() == ("c", "a", "b")
    for _ in range(3):
        ring.put("c", named("C", 2))
    assert [ring.next() for _ in range(2)] == [*named("C", 2)], "once, however often it was put"
    assert [ring.next() for _ in range(5)] == [*named("A", 2), *named("B", 1), *named("C", 2)]


def test_what_is_dropped_leaves_at_once() -> None:
    ring = Ring(1.0)
    ring.put("a", named("a", 5))
    ring.put("b", named("b", 2))
    assert ring.next() == named("a", 1)[0]
    ring.drop("a")
    ring.drop("nobody")
    assert [ring.next() for _ in range(4)] == [*named("b", 2)] * 2
    ring.drop("b")
    assert (ring.next(), ring.octets, ring.datagrams, len(ring)) == (None, 0, 0, 0)
    ring.put("c", named("c", 1))
    assert ring.next() == named("c", 1)[0]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4), st.integers(0, 12)), max_size=30))
def test_nothing_is_starved_or_left_over(steps: list[tuple[str, int, int]]) -> None:
    ring, held = Ring(1.0), dict[str, tuple[bytes, ...]]()
    for step, (name, count, sent) in enumerate(steps):
        held.pop(name, None)
        if count:
            held[name] = named(f"{name}{step}-", count)
            ring.put(name, held[name])
        else:
            ring.drop(name)
        everything = {d for each in held.values() for d in each}
        assert all(ring.next() in everything or not everything for _ in range(sent))
        assert ring.octets == sum(len(d) + OVERHEAD for d in everything)
    everything = {d for each in held.values() for d in each}
    assert {ring.next() for _ in range(2 * len(everything))} == everything


def test_a_cycle_is_a_cycle_for_ever() -> None:
    wheels = Wheels(10_000_000)
    air = Air(wheels)
    wheels.put("a", 2.0, named("a", 100, 200), air.now)
    wheels.put("b", 2.0, named("b", 37, 1_000), air.now)
    sent = air.run(2.0 * 500)
    first = [at for at, d in sent if d == named("a", 1, 200)[0]]
    assert len(first) == 500
    for turn, at in enumerate(first):
        assert abs(at - (100.0 + 2.0 * turn)) < 0.005, "no drift in 500 turns"
    assert abs(wheels.turns()[2.0] - 500) <= 1
    assert len(sent) in range(500 * 137 - 1, 500 * 137 + 2)


def test_it_is_spread_evenly() -> None:
    wheels = Wheels(10_000_000)
    air = Air(wheels, late=0.0)
    wheels.put("a", 10.0, named("a", 1_000, 200), air.now)
    gaps = [b - a for (a, _), (b, _) in pairwise(air.run(20.0))]
    assert max(gaps) < 0.0101 and min(gaps) > 0.0099


def test_services_turn_in_their_own_cycles() -> None:
    wheels = Wheels(10_000_000)
    air = Air(wheels)
    wheels.put("slow", 10.0, named("s", 10), air.now)
    wheels.put("fast", 1.0, named("f", 10), air.now)
    sent = [d for _, d in air.run(100.0)]
    assert abs(sum(d.startswith(b"s") for d in sent) - 100) <= 1
    assert abs(sum(d.startswith(b"f") for d in sent) - 1_000) <= 1
    assert wheels.stretch == 1.0


def test_the_rate_is_never_exceeded_and_cycles_get_longer() -> None:
    rate = 100_000
    wheels = Wheels(rate)
    air = Air(wheels)
    wheels.put("a", 1.0, named("a", 100, 222), air.now)  # 200,000 bit/s
    wheels.put("b", 2.0, named("b", 100, 222), air.now)  # 100,000 bit/s
    assert wheels.stretch == pytest.approx(3.0)
    assert Wheels(wheels.enough).enough == 0 and wheels.enough == 330_000, "what they ask for, and a tenth"
    sent = air.run(300.0)
    assert sum(d == named("a", 1, 222)[0] for _, d in sent) == pytest.approx(100, abs=1)
    assert sum(d == named("b", 1, 222)[0] for _, d in sent) == pytest.approx(50, abs=1)
    ends = [100.0 + n for n in range(1, 301)]
    for end in ends:
        bits = sum(8 * (len(d) + OVERHEAD) for at, d in sent if end - 1 < at <= end)
        assert bits <= rate * (1 + BEHIND) + 8 * 500
    wheels.drop("a")
    assert wheels.stretch == 1.0


def test_after_a_pause_it_does_not_make_up_for_all_of_it() -> None:
    wheels = Wheels(10_000_000)
    air = Air(wheels)
    wheels.put("a", 1.0, named("a", 1_000), air.now)
    air.run(1.0)
    air.now += 5.0  # the process stood still
    assert len(air.run(0.01)) <= 1_000 * (BEHIND + 0.02)


def test_the_order_is_that_of_the_counters_on_the_push() -> None:
    """R7: pages of LTKMs as the BSM makes them; a page that is issued again takes the place of the older one, at the end."""
    contents = Contents(Settings(path=Path("unused"), ltkm=("127.0.0.1", 1), rate=1e9, cycles={NEWS: 1.0}))
    assert contents.push is not None

    def letters(low: int) -> tuple[bytes, ...]:
        return tuple(b"\x01" + (low + i).to_bytes(4) for i in range(10))

    for page in range(3):
        contents.put(CarouselPut(f"page{page}", NEWS, letters(100 * page)), 100.0, WALL)
    contents.put(CarouselPut("page0b", NEWS, letters(1_000)), 100.0, WALL)
    contents.drop("page0")
    air = Air(contents.push)
    for _ in range(4):
        counters = [int.from_bytes(d[1:]) for _, d in air.run(1.0)]
        assert len(counters) in (29, 30, 31)
        assert sum(b <= a for a, b in pairwise(counters)) <= 1, "rising, but where a turn begins"
    assert set(counters) >= {1_005, 105, 205} and not set(counters) & set(range(10))


@pytest.fixture
def contents() -> Contents:
    return Contents(
        Settings(path=Path("unused"), ltkm=("127.0.0.1", 1), flute=("127.0.0.1", 2), cycles={NEWS: 2.0, "urn:example:other": 5.0})
    )


def put(contents: Contents, name: str, *data: bytes, service: str = NEWS, now: float = 1.0) -> None:
    contents.put(CarouselPut(name, service, data), now, WALL)


def on_air(contents: Contents) -> tuple[set[str], set[str]]:
    assert contents.push is not None and contents.flute is not None
    return set(contents.push.names()), set(contents.flute.names())


def test_said_again_it_is_not_encoded_again(contents: Contents) -> None:
    put(contents, "a", b"1", b"2")
    put(contents, "b", b"3")
    held = contents._objects["a"]
    put(contents, "a", b"1", b"2")
    assert contents._objects["a"] is held
    put(contents, "a", b"12")
    assert contents._objects["a"].version > held.version
    assert (len(contents), contents.messages) == (2, 2)
    assert on_air(contents) == ({"a", "b"}, {"a", "b"})


def test_what_a_bsda_does_not_say_again_is_over(contents: Contents) -> None:
    for name in "abc":
        put(contents, name, b"x")
    contents.gone()
    assert len(contents) == 3, "while it is away everything goes on"
    contents.begin()
    put(contents, "b", b"x")
    contents.gone()
    assert len(contents) == 3, "it died before it had said all"
    contents.begin()
    put(contents, "b", b"x")
    put(contents, "d", b"y")
    contents.end()
    assert on_air(contents) == ({"b", "d"}, {"b", "d"})
    contents.drop("b")
    assert on_air(contents) == ({"d"}, {"d"})


def test_cycles_of_services(contents: Contents) -> None:
    put(contents, "a", b"x")
    put(contents, "b", b"x", service="urn:example:other")
    put(contents, "all", b"x", service="urn:x-bcast:all")
    assert contents.flute is not None and contents.push is not None
    assert set(contents.flute.turns()) == {2.0, 5.0} and contents.push.octets == 3 * 29
    contents.regroup({NEWS: 1.0, "urn:example:other": 5.0}, 2.0)
    assert set(contents.push.turns()) == set(contents.flute.turns()) == {1.0, 5.0}
    assert on_air(contents) == ({"a", "b", "all"}, {"a", "b", "all"})


def test_what_fits_into_no_datagram_is_left_out(contents: Contents) -> None:
    put(contents, "a", b"good", bytes(65_508), b"", b"too")
    assert contents.refused == 2
    assert contents.push is not None and contents.push.datagrams == 2
    put(contents, "b", bytes(65_508))
    assert on_air(contents) == ({"a"}, {"a"})


def test_descriptions_are_made_anew_before_they_are_over(contents: Contents) -> None:
    assert contents.flute is not None
    for name in "ab":
        put(contents, name, b"x")
    before = {contents.flute._where[name]._objects[name][1] for name in "ab"}
    version = contents._objects["a"].version
    assert not contents.renew(LIFETIME / 2)
    assert contents.renew(LIFETIME / 2 + 2) and contents.renew(LIFETIME / 2 + 2) and not contents.renew(LIFETIME / 2 + 2)
    assert not before & {contents.flute._where[name]._objects[name][1] for name in "ab"}
    assert contents._objects["a"].version == version
