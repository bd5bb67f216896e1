# SPDX-License-Identifier: Apache-2.0
"""The edge by its inputs alone: plans, recalls, reports of the sender, the clock (R44-R49)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import pytest

from pybcast.flows import (
    AirStkm,
    Alarm,
    Announce,
    Edge,
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
from pybcast.flows.edge.slots import MOST, mark
from pybcast.flows.tables import EdgeState
from pybcast.messages import Protocol
from pybcast.secret import Secret

START = 3_990_000_000
NAME = ("urn:example:news", 1)
T = TypeVar("T")


def period(n: int, *, end: int | None = None, authority: int | None = None, data: bytes = b"stkm") -> PlannedPeriod:
    """The period of 8 s that begins ``8 n`` s after ``START``."""
    start, number = START + 8 * n, n.to_bytes(2, "big", signed=True)
    stkms = (AirStkm("drm", data + number),)
    over = None if authority is None else START + authority
    return PlannedPeriod(start, end or start + 8, start - 4.0, stkms, number, Secret(number * 8), bytes(14), None, over)


def plan(*numbers: int, **changes: object) -> Plan:
    return replace(Plan(*NAME, Protocol.SRTP, 0.1, tuple(period(n) for n in numbers)), **changes)  # type: ignore[arg-type]


def of(kind: type[T], outputs: Iterable[Output]) -> list[T]:
    return [o for o in outputs if isinstance(o, kind)]


def starts(kind: type[Announce] | type[OffAir] | type[UseKey], outputs: Iterable[Output]) -> list[int]:
    return [(o.start - START) // 8 for o in of(kind, outputs)]


def alarms(outputs: Iterable[Output], code: str) -> list[bool]:
    return [alarm.active for alarm in of(Alarm, outputs) if alarm.code == code]


def states(edge: Edge) -> dict[int, EdgeState]:
    return {(p.start - START) // 8: p.state for p in edge.view(*NAME).periods}


def run(edge: Edge, begin: float, end: float, *, sends: bool = True) -> list[Output]:
    """Let time pass, each wake-up at its time; STKMs leave when they are announced, where the sender ``sends``."""
    outputs: list[Output] = []
    now = START + begin
    while now <= START + end:
        new = edge.tick(now)
        for announce in of(Announce, new) if sends else ():
            new += edge.announced(*NAME, announce.start, now)
        outputs += new
        wake = edge.next_wakeup()
        now = START + end + 1 if wake is None else max(wake, now + 0.001)
    return outputs


def told(*numbers: int, at: float = -10.0, **changes: object) -> Edge:
    """An edge that has taken a plan."""
    edge = Edge([NAME])
    assert edge.plan(plan(*numbers, **changes), START + at) == []
    return edge


# --- a plan is executed -------------------------------------------------------------------------------------------------


def test_a_period_from_its_lead_to_its_end() -> None:
    """R6, R40, R47: on air half a period ahead, its key known to the encoder after three repetitions, used from its start on."""
    edge = told(0, 1)
    assert edge.next_wakeup() == START - 4
    assert starts(Announce, edge.tick(START - 4)) == [0]
    assert edge.next_wakeup() == START + 4, "nothing is told before the sender has sent"
    assert edge.announced(*NAME, START, START - 3.9) == []
    assert edge.tick(START - 3.7) == []
    (known,) = edge.tick(START - 3.6 + 1e-6)
    assert isinstance(known, NextKey)
    assert (known.use.start, known.end, known.use.mki) == (START, START + 8, b"\0\0")
    begun = edge.tick(START)
    assert begun == [known.use, PlanBegun(*NAME, START)]
    assert states(edge) == {0: EdgeState.IN_USE, 1: EdgeState.WAITING}
    outputs = run(edge, 1, 9)
    assert (starts(Announce, outputs), starts(UseKey, outputs), starts(OffAir, outputs)) == ([1], [1], [0])
    assert not of(PlanBegun, outputs), "one report a plan"


def test_a_stkm_that_left_late_is_used_late() -> None:
    """R40: the old key is held until the third repetition; the encoder is told once, when it may switch."""
    edge = told(0, 1)
    run(edge, -4, 3.9)
    outputs = run(edge, 3.9, 9, sends=False)
    assert alarms(outputs, "held-key") == [True] and not of(UseKey, outputs)
    edge.announced(*NAME, START + 8, START + 9)
    assert edge.tick(START + 9.2) == []
    outputs = edge.tick(START + 9.31)
    assert starts(UseKey, outputs) == [1] and not of(NextKey, outputs)
    assert alarms(outputs, "held-key") == [False]
    assert starts(OffAir, outputs) == [0]


def test_what_was_never_sent_is_missed() -> None:
    edge = told(0, 1)
    outputs = run(edge, -4, 9, sends=False)
    assert starts(OffAir, outputs) == [0] and not of(UseKey, outputs)
    assert states(edge) == {1: EdgeState.ON_AIR}


@pytest.mark.parametrize("hold", [False, True])
def test_the_end_of_authority(hold: bool) -> None:
    """R9: nothing leaves after it, unless the plan says to hold."""
    edge = Edge([NAME])
    edge.plan(plan(periods=(period(0, authority=8),), hold_through=hold), START - 10)
    outputs = run(edge, -4, 30)
    assert bool(of(StopTraffic, outputs)) is not hold
    assert (alarms(outputs, "stopped"), alarms(outputs, "held-key")) == (([], [True]) if hold else ([True], []))
    assert [use.authority_end for use in of(UseKey, outputs)] == [None if hold else START + 8]
    assert states(edge) == ({0: EdgeState.HELD} if hold else {})
    assert edge.view(*NAME).used == START
    assert edge.next_wakeup() is None


def test_a_held_key_stops_at_the_end_of_its_authority() -> None:
    edge = Edge([NAME])
    edge.plan(plan(periods=(period(0, authority=12),)), START - 10)
    outputs = run(edge, -4, 30)
    assert (alarms(outputs, "held-key"), alarms(outputs, "stopped")) == ([True, False], [True])


def test_a_plan_that_runs_out_is_one_alarm() -> None:
    """R49: raised when fewer than three periods are left at a lead, taken back when there are enough again."""
    edge = told(*range(5), reserve=5)
    outputs = run(edge, -4, 30)
    assert alarms(outputs, "plan-short") == [True]
    assert not alarms(edge.plan(plan(5, reserve=5), START + 30), "plan-short"), "one more is not enough"
    assert alarms(edge.plan(plan(6, 7, reserve=5), START + 30), "plan-short") == [False]
    assert not alarms(run(told(0, reserve=1), -4, 1), "plan-short"), "no more were to be expected"


# --- what is taken and refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (plan(2, periods=(period(2), replace(period(3), start=START + 20))), "overlaps another"),
        (plan(3, 2), "overlaps another"),
        (plan(2, periods=(replace(period(2), end=START + 16),)), "overlaps another"),
        (plan(periods=(period(2), replace(period(1), start=START + 12, end=START + 16))), "overlaps another"),
        (plan(periods=(replace(period(2), start=START + 12),)), "overlap"),
        (plan(-1), "goes back"),
        (plan(2, periods=(period(2), period(1, data=b"other"))), "overlaps another"),
        (plan(periods=(period(0, data=b"other"),)), "contradicts what is on air"),
        (plan(periods=(replace(period(1), traffic_id=b"xx"),)), "contradicts what is planned"),
        (plan(periods=(replace(period(1), tek=Secret(bytes(16))),)), "contradicts what is planned"),
        (plan(2, service="urn:example:other"), "unknown stream"),
        (plan(), "no periods"),
        (plan(*range(2, MOST + 3)), f"more than {MOST}"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_whole(wrong: Plan, why: str) -> None:
    edge = told(0, 1)
    run(edge, -4, 1)
    before = edge.view(*NAME)
    (refused,) = edge.plan(wrong, START + 1)
    assert isinstance(refused, PlanRefused)
    assert why in refused.why and refused.starts == tuple(p.start for p in wrong.periods)
    assert edge.view(*NAME) == before


def test_a_plan_that_is_told_again_changes_nothing() -> None:
    edge = told(0, 1, 2)
    run(edge, -4, 1)
    before = edge.view(*NAME)
    assert edge.plan(plan(0, 1, 2), START + 1) == []
    assert edge.view(*NAME) == before


def test_ends_are_changed_on_air() -> None:
    """R46: of the period in use the encoder is told at once, of a known one as of the next, of another with its key."""
    edge = told(0, 1, 2)
    run(edge, -4, 5)
    periods = (period(0, authority=40), period(1, authority=40), period(2, end=START + 20, authority=40))
    outputs = edge.plan(plan(periods=periods), START + 5)
    assert [(u.start - START, u.authority_end) for u in of(UseKey, outputs)] == [(0, START + 40)]
    assert [(n.use.start - START, n.use.authority_end) for n in of(NextKey, outputs)] == [(8, START + 40)]
    later = run(edge, 5, 19)
    assert [(n.end - START, n.use.authority_end) for n in of(NextKey, later)] == [(20, START + 40)]


def test_a_period_that_came_when_it_was_over_is_held() -> None:
    """R48: an edge that starts empty is told what there is, and it goes on air; the encoder is touched after three repetitions."""
    edge = Edge([NAME])
    outputs = edge.plan(plan(0), START + 20)
    assert starts(Announce, outputs) == [0]
    edge.announced(*NAME, START, START + 20)
    assert not edge.tick(START + 20.2)
    outputs = edge.tick(START + 20.31)
    assert starts(UseKey, outputs) == [0] and alarms(outputs, "held-key") == [True]


# --- what is taken back -------------------------------------------------------------------------------------------------


def test_what_has_begun_is_not_given_back() -> None:
    """R46: the lead decides."""
    edge = told(0, 1, 2, 3)
    run(edge, -4, 3.9)
    (answer,) = edge.recall(Recall(*NAME, START), START + 3.9)
    assert answer == Recalled(*NAME, START, (START + 8, START + 16, START + 24), ((START, START + 8),))
    edge.plan(plan(1, 2, 3), START + 3.9)
    run(edge, 3.9, 4.1)
    (answer,) = edge.recall(Recall(*NAME, START + 8), START + 4.1)
    assert answer == Recalled(*NAME, START + 8, (START + 16, START + 24), ((START + 8, START + 16),))
    edge.plan(plan(periods=(period(2, data=b"other"),)), START + 4.1)
    assert states(edge) == {0: EdgeState.IN_USE, 1: EdgeState.ON_AIR, 2: EdgeState.WAITING}
    assert edge.recall(Recall("urn:other", 1, 0), START) == [Recalled("urn:other", 1, 0, (), ())]


def test_it_says_again_what_may_be_lost() -> None:
    """What is on air, the key in use and the next one: to a sender and encoders that may have missed it."""
    edge = told(0, 1, 2, 3)
    run(edge, -4, 6)
    assert states(edge) == {0: EdgeState.IN_USE, 1: EdgeState.READY, 2: EdgeState.WAITING, 3: EdgeState.WAITING}
    outputs = edge.say_again()
    assert (starts(Announce, outputs), starts(UseKey, outputs)) == ([0, 1], [0])
    assert [(n.service, n.stream, (n.use.start - START) // 8) for n in of(NextKey, outputs)] == [(*NAME, 1)]


def test_a_clock_that_leaps_over_whole_periods() -> None:
    """What is over when it is looked at never goes on air; the key in use is held."""
    edge = told(0, 1, 2)
    run(edge, -4, 1)
    outputs = edge.tick(START + 100)
    assert not of(Announce, outputs) and not of(UseKey, outputs)
    assert states(edge) == {0: EdgeState.HELD}


def test_a_clock_that_is_put_forward_repeats_nothing() -> None:
    """R40: a key whose STKM left once is not used because time has gone by on the clock alone."""
    edge = told(0, 1)
    edge.tick(START - 4)
    edge.announced(*NAME, START, START - 4)
    edge.clock_forward(5)
    assert not of(UseKey, edge.tick(START + 1)) and edge.next_wakeup() == START - 4 + 0.3 + 5
    assert starts(UseKey, edge.tick(START + 1.31)) == [0]
    edge.clock_forward(60)
    assert edge.next_wakeup() == START + 4, "what is ready is not counted"


def test_a_clock_that_is_set_back_while_a_key_is_held() -> None:
    edge = told(100, at=790)
    outputs = run(edge, 796, 830)
    assert alarms(outputs, "held-key") == [True]
    outputs = edge.recall(Recall(*NAME, 0), START + 3)
    assert starts(OffAir, outputs) == [100] and alarms(outputs, "held-key") == [], "the alarm stands already"
    assert list(states(edge).values()) == [EdgeState.HELD]


@pytest.mark.parametrize("at", [0.0, 6.0, 9.0], ids=["in use", "on air too", "held"])
def test_a_headend_that_is_off_air(at: float) -> None:
    """R50: all leaves the air at once, the encoder keeps the key that it has, and what comes then is new."""
    edge = Edge([NAME])
    edge.plan(plan(0, 1, 2) if at < 8 else plan(0), START - 5)
    run(edge, -5, at)
    there = set(states(edge))
    on_air = {n for n, state in states(edge).items() if state is not EdgeState.WAITING}
    outputs = edge.recall(Recall(*NAME, 0, off_air=True), START + at)
    assert set(starts(OffAir, outputs)) == on_air and not of(StopTraffic, outputs)
    assert starts(UseKey, outputs) == ([0] if at == 6 else []), "a key that was named ahead is taken back: it would be used"
    (answer,) = of(Recalled, outputs)
    assert ({(start - START) // 8 for start in answer.given}, answer.stay) == (there, ())
    assert alarms(outputs, "held-key") == ([False] if at > 8 else [])
    assert states(edge) == {} and of(PlanRefused, edge.plan(plan(0), START + at)), "not the same again"
    assert not of(PlanRefused, edge.plan(plan(2, 3), START + at))


def test_a_clock_that_is_set_back() -> None:
    """What is on air of a time to come goes off, its key is held, and a plan of the time that comes again is taken."""
    edge = told(*range(100, 104), at=790)
    run(edge, 796, 805)
    outputs = edge.recall(Recall(*NAME, 0), START + 3)
    assert sorted(starts(OffAir, outputs)) == [100, 101]
    assert starts(UseKey, outputs) == [100], "and not 101, when its time comes again"
    assert alarms(outputs, "held-key") == [True]
    assert of(Recalled, outputs)[0].given == tuple(START + 8 * n for n in (101, 102, 103))
    assert not of(PlanRefused, edge.plan(plan(0, 1), START + 3))
    later = run(edge, 3, 5)
    edge.announced(*NAME, START, START + 3)
    later += run(edge, 3, 5)
    assert starts(UseKey, later) == [0] and alarms(later, "held-key") == [False]


# --- keys ---------------------------------------------------------------------------------------------------------------


def test_keys_are_wiped_when_used_up_and_when_recalled() -> None:
    """R48: the edge's own copies; those of who planned, and those on their way to an encoder, are not touched."""
    edge = told(0, 1, 2)
    mine = {slot.start: slot.tek for slot in edge._lines[NAME].slots}
    used = of(UseKey, run(edge, -4, 3))
    edge.recall(Recall(*NAME, START + 16), START + 3)
    assert [mine[START + 8 * n].wiped for n in range(3)] == [False, False, True]
    run(edge, 3, 9)
    assert [mine[START + 8 * n].wiped for n in range(3)] == [True, False, True]
    assert used[0].tek == period(0).tek


def test_what_it_says_when_a_server_connects() -> None:
    """R44: nothing at first; then what it has, by marks, and the key that was used last."""
    assert Edge([NAME]).held() == ()
    edge = told(0, 1)
    run(edge, -4, 1)
    (held,) = edge.held()
    assert (held.used, held.end) == (START, START + 16)
    assert [p.marks for p in held.periods] == [(mark(period(n).stkms[0].data),) for n in range(2)]


def test_a_stream_that_is_given_up() -> None:
    edge = told(0)
    run(edge, -4, 1)
    tek = edge._lines[NAME].slots[0].tek
    assert edge.keep([("urn:example:other", 1)]) == [OffAir(*NAME, START)]
    assert tek.wiped and edge.held() == () and edge.next_wakeup() is None
    assert edge.announced(*NAME, START, START + 1) == []


def test_work_for_one_stream_touches_no_other() -> None:
    """R45: what is due is found without looking at all of them."""
    names = [(f"urn:{n}", 1) for n in range(1000)]
    edge = Edge(names)
    for n, (service, stream) in enumerate(names):
        edge.plan(plan(0, service=service, stream=stream, periods=(replace(period(0), lead=START + n / 10),)), START - 10)
    worked: list[object] = []
    inner = edge._work

    def note(line: object, now: float) -> None:
        worked.append(line)
        inner(line, now)  # type: ignore[arg-type]

    edge._work = note  # type: ignore[method-assign]
    edge.tick(START + 0.25)
    assert len(worked) == 3


@pytest.mark.parametrize(("at", "named"), [(2, []), (6, [0])])
def test_the_encoder_of_a_stream_that_is_no_more_keeps_its_key(at: float, named: list[int]) -> None:
    """Also where another was named ahead: its STKM is off the air."""
    edge = told(0, 1)
    run(edge, -10, at)
    assert starts(UseKey, edge.keep([])) == named


# --- silent, while another headend sends (R47) --------------------------------------------------------------------------


def silent_edge() -> Edge:
    """The lead of the first period has begun, and another headend sends."""
    edge = told(0, 1)
    assert edge.silent(True, START - 10) == []
    assert starts(Announce, edge.tick(START - 4)) == [0]
    return edge


def test_what_the_other_headend_sends_counts_when_its_heartbeat_is_three_repetitions_behind_the_lead() -> None:
    edge = silent_edge()
    assert edge.other_sends(START - 4 + 0.29, START - 3.7) == [] and states(edge)[0] is EdgeState.ON_AIR
    outputs = edge.other_sends(START - 4 + 0.3, START - 3.6)
    assert [(n.use.start, n.end) for n in of(NextKey, outputs)] == [(START, START + 8)] and states(edge)[0] is EdgeState.READY
    assert starts(UseKey, edge.tick(START)) == [0], "both encoders change at the same start"
    assert edge.other_sends(START + 3.99, START + 4) == []


def test_who_takes_over_counts_from_nothing() -> None:
    edge = silent_edge()
    assert edge.silent(False, START - 3) == [] and edge.other_sends(START - 1, START - 1) == []
    assert run(edge, -1, 2, sends=False) == [], "it has sent nothing yet"
    edge.announced(*NAME, START, START + 2)
    assert starts(UseKey, run(edge, 2, 2.4)) == [0]


def test_who_is_silenced_counts_by_the_other_alone() -> None:
    edge = told(0)
    edge.tick(START - 4)
    edge.announced(*NAME, START, START - 4)
    assert edge.silent(True, START - 3.9) == [] and edge.silent(True, START - 3.9) == []
    assert run(edge, -3.9, 1, sends=False) == [], "two of its repetitions were never sent"
    assert starts(UseKey, edge.other_sends(START + 1, START + 1)) == [0]


# --- what it says of itself (R44, R49) ----------------------------------------------------------------------------------


def test_streams_that_lack_what_comes_are_counted() -> None:
    edge = Edge([NAME, ("urn:example:sport", 2)])
    assert edge.lacking == 2
    edge.plan(plan(0, 1), START - 10)
    assert edge.lacking == 1
    run(edge, -10, 11.9)
    assert edge.lacking == 1
    run(edge, 12, 12.1)
    assert edge.lacking == 2, "the lead of a third period has begun"
    edge.plan(plan(2), START + 12.2)
    assert edge.lacking == 1
    edge.keep([NAME, ("urn:example:a", 1), ("urn:example:b", 1)])
    assert edge.lacking == 2
    edge.keep([("urn:example:a", 1)])
    assert edge.lacking == 1 and edge.next_wakeup() is None
    edge.plan(plan(3), START + 13)
    assert edge.lacking == 1


def test_how_far_the_plans_reach_and_which_alarms_hold() -> None:
    edge = told(0, 1, reserve=5)
    assert edge.reach(START - 10) == 26 and edge.alarms() == ()
    run(edge, -10, 15.9)
    assert [alarm.code for alarm in edge.alarms()] == ["plan-short"] and edge.reach(START + 15) == 1
    run(edge, 16, 17)
    texts = {alarm.code: alarm.text for alarm in edge.alarms()}
    assert texts == {
        "plan-short": "fewer than 3 periods are left in the plan", "held-key": f"no new key at {START + 16}: the last one is held",
    }  # fmt: skip
    edge.plan(plan(2, 3, 4, 5, 6, reserve=5), START + 17)
    edge.announced(*NAME, START + 16, START + 17)
    run(edge, 17, 18)
    assert edge.alarms() == () and Edge([]).reach(START) == 0 == Edge([NAME]).reach(START)
