# SPDX-License-Identifier: Apache-2.0
"""Crypto periods as a function of the segments: no gap, no overlap, numbers in order, whatever is changed and when."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room_support import START

from pybcast.errors import ConfigError
from pybcast.flows import Period, Schedule
from pybcast.flows.stream.schedule import MAX_PERIOD, MIN_PERIOD, check_period

changes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.none() | st.integers(1, 20)), max_size=8)


def periods(schedule: Schedule, count: int = 60) -> list[Period]:
    return list(itertools.islice(schedule.walk(0), count))


def made(length: int, edits: list[tuple[int, int, int | None]]) -> Schedule:
    schedule = Schedule(100, length)
    for at, fixed, new in edits:
        schedule.cut(at, fixed, new)
    return schedule


@given(st.integers(1, 20), changes)
def test_periods_follow_each_other(length: int, edits: list[tuple[int, int, int | None]]) -> None:
    schedule = made(length, edits)
    found = periods(schedule)
    assert found[0].start == 100 and [p.index for p in found] == list(range(len(found)))
    for before, after in itertools.pairwise(found):
        assert before.end == after.start == before.start + before.duration
        assert schedule.after(before) == after
    for p in found:
        for time in (p.start, p.start + 0.5, p.end - 0.001):
            assert schedule.at(time) == p
    assert schedule.at(99.9) is None


@given(st.integers(1, 20), changes, st.integers(0, 400), st.integers(0, 400), st.none() | st.integers(1, 20))
def test_a_cut_holds_from_where_it_says_and_touches_nothing_before(
    length: int, edits: list[tuple[int, int, int | None]], at: int, fixed: int, new: int | None
) -> None:
    """R5 and R9: what is prepared stays; a period begins at the boundary; the new length holds after it."""
    schedule = made(length, edits)
    before = periods(schedule, 500)
    known = new is None and at >= 100 and at in {p.start for p in before}
    held = schedule.cut(at, fixed, new)
    assert held == (at if known else max(at, fixed, 100))
    after = periods(schedule, 500)
    kept = [p for p in before if p.end <= held]
    assert after[: len(kept)] == kept
    assert held in {p.start for p in after}
    if new is not None:
        assert all(p.duration <= new for p in after if p.start >= held)


@given(st.integers(1, 20), changes, st.integers(101, 400), st.integers(0, 400))
def test_a_boundary_taken_back_was_never_there(length: int, edits: list[tuple[int, int, int | None]], at: int, fixed: int) -> None:
    """Unless it lies in what is prepared (R5), or another change made a period begin there."""
    schedule, plain = made(length, edits), made(length, edits)
    held = schedule.cut(at, 0)
    mine = schedule.segments != plain.segments
    schedule.join(held, fixed)
    if mine and held >= fixed:
        assert schedule.segments == plain.segments
    elif held < fixed:
        assert held in {p.start for p in periods(schedule, 500)}


def test_a_boundary_that_is_prepared_is_not_moved_by_saying_it_again() -> None:
    """An operator tells a server that was restarted what it may have missed."""
    schedule = Schedule(START, 8)
    schedule.cut(START + 35, 0)
    before = schedule.segments
    assert schedule.cut(START + 35, START + 43) == START + 35
    assert schedule.segments == before


@given(st.integers(1, 20), st.lists(st.integers(101, 300), min_size=1, max_size=8))
def test_every_boundary_stays_one(length: int, cuts: list[int]) -> None:
    """R9: also one that fell on the grid when it was told, once an earlier one has moved the grid."""
    schedule = Schedule(100, length)
    for at in cuts:
        schedule.cut(at, 0)
    assert set(cuts) <= {p.start for p in periods(schedule, 500)}


@given(st.integers(1, 20), changes)
def test_the_same_edits_give_the_same_periods(length: int, edits: list[tuple[int, int, int | None]]) -> None:
    """Two headends, and one that was restarted in between."""
    one, two = made(length, edits), made(length, edits)
    assert periods(one) == periods(two) == periods(Schedule(0, 1, reversed(one.segments)))


@given(st.integers(1, 20), changes, st.integers(0, 400))
def test_forgetting_the_past_changes_nothing_later(length: int, edits: list[tuple[int, int, int | None]], before: int) -> None:
    """A boundary a day for years must not grow the schedule."""
    schedule = made(length, edits)
    known = [p for p in periods(schedule, 500) if p.start >= before]
    schedule.forget(before)
    assert [p for p in periods(schedule, 500) if p.start >= before][:100] == known[:100]
    assert [s for s in schedule.segments[1:] if s.start <= before] == []


def test_a_boundary_where_one_is_already() -> None:
    schedule = Schedule(START, 8)
    before = periods(schedule)
    for _ in range(2):
        assert schedule.cut(START + 16, 0) == START + 16
        assert len(schedule.segments) == 2 and periods(schedule) == before
    assert schedule.cut(START, 0, 5) == START
    assert periods(schedule, 2) == [Period(0, START, START + 5), Period(1, START + 5, START + 10)]


def test_later_boundaries_survive_a_new_length() -> None:
    """An event at 20:15 stays an event at 20:15 when the period length changes at 20:00."""
    schedule = Schedule(START, 8)
    schedule.cut(START + 100, 0)
    schedule.cut(START + 40, 0, 7)
    found = periods(schedule, 20)
    assert START + 100 in {p.start for p in found}
    assert {p.duration for p in found if p.start >= START + 40} == {7, 4}


@pytest.mark.parametrize("length", [MIN_PERIOD, 2, MAX_PERIOD])
def test_lengths_that_work(length: int) -> None:
    check_period(length, 0.1)


@pytest.mark.parametrize(("length", "repetition"), [(0, 0.1), (-1, 0.1), (MAX_PERIOD + 1, 0.1), (1, 0.17), (8, 1.34)])
def test_lengths_that_do_not(length: int, repetition: float) -> None:
    with pytest.raises(ConfigError, match="crypto period"):
        check_period(length, repetition)
