# SPDX-License-Identifier: Apache-2.0
"""A BSD/A and an edge that is somewhere else: what is handed out and when, what is taken back, who waits for whom (R44-R48)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import pytest
from room_support import BSDA_URI, BSM_URI, RESTORED, SERVICE, START, request, sek_material, stream_config

from pybcast.flows import (
    BSDA,
    Alarm,
    Announce,
    BackendMessage,
    Edge,
    Headend,
    Output,
    Persist,
    Plan,
    PlanBegun,
    PlanRefused,
    Recall,
    Recalled,
    Send,
    Status,
    StopTraffic,
    Tag,
    derived_teks,
)
from pybcast.flows.edge.slots import Held, HeldPeriod
from pybcast.flows.journal import State
from pybcast.flows.tables import EdgeState, PeriodState
from pybcast.secret import Secret

HERE = stream_config(granularity=4)
NAME = (SERVICE, 1)
T = TypeVar("T")


def of(kind: type[T], outputs: Iterable[Output]) -> list[T]:
    return [o for o in outputs if isinstance(o, kind)]


def bsda(state: State | None = None, **options: object) -> BSDA:
    chance, teks = random.Random(1).randbytes, derived_teks(Secret(bytes(32)))
    return BSDA(me=BSDA_URI, streams=[HERE], randomness=chance, teks=teks, state=state, **options)  # type: ignore[arg-type]


def delivery(number: int, start: int, *, replacing: bool = True) -> BackendMessage:
    """A KeyDelivery with SEK ``number`` from ``start`` s on."""
    key = sek_material(number, START + start, granularity=4)
    return request(Tag.KeyDelivery, items=(key,), replace=replacing, message_id=f"{number:032x}")


def with_keys() -> tuple[BSDA, list[Output]]:
    """It has its first key, and its edge was empty when it came."""
    machine = bsda()
    machine.connected([], START - 50)
    return machine, machine.receive(delivery(1, 0, replacing=False), START - 50, BSM_URI)


def key_request(outputs: Iterable[Output]) -> BackendMessage:
    (asked,) = [s.message for s in of(Send, outputs) if s.message.tag is Tag.KeyRequest]
    return asked


def states(machine: BSDA) -> dict[int, PeriodState]:
    return {(r.period.start - START) // 8: r.state for r in machine.records(*NAME)}


def statuses(outputs: Iterable[Output]) -> list[int | None]:
    return [s.message.status for s in of(Send, outputs) if s.message.is_answer]


def starts(plan: Plan) -> list[int]:
    return [p.start - START for p in plan.periods]


def recalled(at: int, given: Iterable[int], stay: Iterable[tuple[int, int]] = ()) -> Recalled:
    back = tuple(START + start for start in given)
    return Recalled(*NAME, START + at, back, tuple((START + start, START + end) for start, end in stay))


def test_a_batch_is_one_plan_and_counts_as_sent() -> None:
    """R45: whole, with what the edge needs to execute it alone; no other step of it needs the BSD/A."""
    machine, outputs = with_keys()
    (plan,) = of(Plan, outputs)
    assert starts(plan) == [0, 8, 16, 24, 32, 40]
    assert [p.start - p.lead for p in plan.periods] == [4.0] * 6
    assert {p.authority_end for p in plan.periods} == {START + 640}
    assert (plan.reserve, plan.hold_through, plan.repetition) == (3, False, HERE.repetition)
    assert machine._allocator.floor(sek_material().key_id) == START + 40
    assert set(states(machine).values()) == {PeriodState.HANDED}
    assert not of(Persist, outputs[outputs.index(plan) :]), "stored before it leaves"
    assert machine.next_wakeup() == START + 8, "when there is more to prepare"


def test_nothing_is_handed_out_before_the_edge_has_spoken() -> None:
    machine = bsda()
    outputs = machine.receive(delivery(1, 0, replacing=False), START - 50, BSM_URI)
    assert not of(Plan, outputs) and set(states(machine).values()) == {PeriodState.SEALED}
    (plan,) = of(Plan, machine.connected([], START - 49))
    assert len(plan.periods) == 6
    machine.disconnected(START)
    assert not of(Plan, machine.tick(START + 8))
    (again,) = of(Plan, machine.connected([], START + 9))
    assert starts(again) == [8, 16, 24, 32, 40, 48], "an empty edge is told everything that is not over"


def test_a_replacing_key_waits_for_the_edge() -> None:
    """R46: what the edge gives back is sealed under the new key, and only then there is an answer."""
    machine, _ = with_keys()
    outputs = machine.receive(delivery(2, 20), START - 40, BSM_URI)
    assert of(Recall, outputs) == [Recall(*NAME, START + 20)] and statuses(outputs) == []
    assert not of(Plan, machine.tick(START - 39)), "nothing moves meanwhile"
    outputs = machine.recalled(recalled(20, [24, 32, 40]), START - 39)
    assert statuses(outputs) == [0]
    (plan,) = of(Plan, outputs)
    assert starts(plan)[:4] == [0, 8, 16, 20] and plan.periods[2].end == START + 20, "the straddling period ends there"
    assert {p.authority_end for p in plan.periods[:3]} == {START + 20}, "and so does the authority of all before it (R9)"
    assert {p.traffic_id[:4] for p in plan.periods[3:]} == {sek_material(2).key_id[3:]}
    assert machine._allocator.floor(sek_material().key_id) == START + 16, "sent is what stayed"
    repeated = machine.receive(delivery(2, 20), START - 38, BSM_URI)
    assert statuses(repeated) == [0] and not of(Recall, repeated)


def test_the_key_that_is_held_when_its_successor_was_released_stops_with_its_authority() -> None:
    """R9: also where the BSD/A dies before the new key is at the edge: the old one is not held to the end that it had at first."""
    machine, outputs = with_keys()
    edge = Edge([NAME])
    edge.plan(of(Plan, outputs)[0], START - 50)
    for now in (START - 4.0, START - 3.0, float(START)):
        for announce in of(Announce, edge.tick(now)):
            edge.announced(*NAME, announce.start, now)
    outputs = machine.receive(delivery(2, 40), START + 1, BSM_URI)
    (recall,) = of(Recall, outputs)
    (given,) = of(Recalled, edge.recall(recall, START + 1))
    (plan,) = of(Plan, machine.recalled(given, START + 1))
    assert starts(plan)[0] == 0, "the one in use, none before it"
    edge.plan(replace(plan, periods=plan.periods[:1]), START + 1)
    (view,) = edge.held()
    assert (view.periods[0].stops, view.periods[1].stops) == (START + 40, START + 640)
    assert of(StopTraffic, edge.tick(START + 40))


def test_a_key_that_comes_late_leaves_the_old_one_its_time_until_it_can_be_used() -> None:
    machine, _ = with_keys()
    machine.receive(delivery(2, 12), START + 17, BSM_URI)
    (plan,) = of(Plan, machine.recalled(recalled(12, [24, 32, 40, 48, 56], [(16, 24)]), START + 17))
    assert starts(plan)[:2] == [16, 24] and plan.periods[0].authority_end == START + 24
    assert {p.traffic_id[:4] for p in plan.periods[1:]} == {sek_material(2).key_id[3:]}


@pytest.mark.parametrize("hold", [True, False])
def test_an_edge_that_stops_elsewhere_is_told(hold: bool) -> None:
    """R46: ``hold_through`` was changed, or what was decided did not reach the edge: one plan sets it right, no other follows."""
    machine, outputs = with_keys()
    edge = Edge([NAME])
    edge.plan(replace(of(Plan, outputs)[0], hold_through=not hold), START - 50)
    again = bsda(machine._journal.tables)
    again._streams[NAME].periods.config = replace(HERE, hold_through=hold)
    (plan,) = of(Plan, again.connected([edge.view(*NAME)], START - 49))
    assert starts(plan) == [0, 8, 16, 24, 32, 40] and plan.hold_through is hold
    assert edge.plan(plan, START - 49) == []
    assert of(Plan, again.connected([edge.view(*NAME)], START - 48)) == []


def test_what_stays_at_the_edge_is_in_use() -> None:
    machine, _ = with_keys()
    machine.receive(delivery(2, 20), START + 19, BSM_URI)
    outputs = machine.recalled(recalled(20, [32, 40], [(24, 32)]), START + 19)
    assert statuses(outputs) == [Status.ALREADY_IN_USE]
    (plan,) = of(Plan, outputs)
    assert starts(plan)[:2] == [32, 40], "what was given back goes out again"


def test_a_request_is_dropped_while_there_is_no_edge() -> None:
    """Its peer asks again; nothing was moved."""
    machine, _ = with_keys()
    machine.disconnected(START - 45)
    before = machine.records(*NAME)
    assert machine.receive(delivery(2, 20), START - 40, BSM_URI) == []
    assert machine.records(*NAME) == before
    machine.connected([], START - 39)
    assert of(Recall, machine.receive(delivery(2, 20), START - 39, BSM_URI))


def test_a_plan_that_is_refused_is_an_alarm() -> None:
    machine, _ = with_keys()
    outputs = machine.plan_refused(PlanRefused(*NAME, (START, START + 8), "period overlaps"), START - 40)
    assert [(a.code, a.text) for a in of(Alarm, outputs)] == [("plan-refused", "period overlaps")]
    assert [states(machine)[n] for n in range(3)] == [PeriodState.MISSED, PeriodState.MISSED, PeriodState.HANDED]


def test_a_stream_that_the_edge_does_not_know_is_handed_out_when_it_comes_again() -> None:
    """Its configuration was read before the stream was in it; COUNTERs that nobody has sent are not burnt."""
    machine, outputs = with_keys()
    (plan,) = of(Plan, outputs)
    refused = machine.plan_refused(PlanRefused(*NAME, tuple(p.start for p in plan.periods), "not known", unknown=True), START - 40)
    assert [a.code for a in of(Alarm, refused)] == ["plan-refused"] and not of(Plan, refused)
    assert set(states(machine).values()) == {PeriodState.SEALED} and not of(Plan, machine.tick(START - 39))
    (again,) = of(Plan, machine.connected([], START - 38))
    assert again == plan, "the same bytes"
    late = machine.plan_refused(PlanRefused("urn:example:nobody", 1, (START,), "not known", unknown=True), START - 37)
    assert [a.service for a in of(Alarm, late)] == ["urn:example:nobody"]


def test_states_as_they_are_planned() -> None:
    """What a BSD/A shows of an edge in another process, without asking it."""
    machine, _ = with_keys()

    def at(seconds: float) -> dict[int, object]:
        return {(start - START) // 8: state for start, state in machine.states(*NAME, START + seconds).items()}

    assert set(at(-40).values()) == {EdgeState.WAITING}
    assert (at(-4)[0], at(-4)[1]) == (EdgeState.ON_AIR, EdgeState.WAITING)
    assert (at(4)[0], at(4)[1]) == (EdgeState.IN_USE, EdgeState.ON_AIR)
    assert (at(8)[0], at(8)[1]) == (EdgeState.PAST, EdgeState.IN_USE)
    last = max(at(0))
    assert at(8 * last + 9)[last] is EdgeState.HELD, "nothing follows"


MORE = tuple(
    HeldPeriod(START + 8 * n, START + 8 * n + 8, state, (bytes(16),))
    for n, state in enumerate((EdgeState.IN_USE, EdgeState.ON_AIR, EdgeState.WAITING, EdgeState.WAITING))
)


def test_an_edge_that_has_more_than_the_store_knows() -> None:
    """R44: what can be given back is asked back, and what stays has its time: nothing is prepared beside it."""
    machine, _ = with_keys()
    machine.disconnected(START)
    outputs = machine.connected([Held(*NAME, MORE, START)], START + 5)
    assert of(Recall, outputs) == [Recall(*NAME, 0)]
    outputs = machine.recalled(
        Recalled(*NAME, 0, (START + 16, START + 24), ((START, START + 8), (START + 8, START + 16))), START + 5
    )
    (plan,) = of(Plan, outputs)
    assert starts(plan)[0] == 16


@pytest.mark.parametrize("begins", [24, 32])
def test_an_edge_whose_bsda_lost_its_store_goes_on_until_there_is_a_fresh_key(begins: int) -> None:
    """R33: what it has was made before and is good.  Where it is taken back the key in use is held, and where the fresh key is lost
    too, for so long that the BSM counts it as off air (R10).
    """
    machine = bsda(start=RESTORED)
    asked = key_request(machine.tick(START + 1))
    assert asked.fresh and not of(Recall, machine.connected([Held(*NAME, MORE, START)], START + 5))
    outputs = machine.receive(asked.answer(0, delivery(2, begins).items, now=START + 6), START + 6, BSM_URI)
    assert of(Recall, outputs) == ([Recall(*NAME, START + 24)] if begins == 24 else [])
    if begins == 24:
        outputs = machine.recalled(recalled(24, [24]), START + 6)
    (plan,) = of(Plan, outputs)
    assert starts(plan)[0] == begins


def test_a_headend_that_lost_its_store_confirms_when_its_edge_has_given_back() -> None:
    """R50: also what it knows nothing of; what is on air and unknown is in use."""
    machine = bsda(start=RESTORED)
    machine.tick(START + 1)
    machine.connected([Held(*NAME, MORE, START)], START + 5)
    for number, (given, stay, status) in enumerate([((), [(24, 32)], Status.ALREADY_IN_USE), ((24,), (), Status.SUCCESS)], 1):
        cut = request(Tag.KeyDelivery, attempt=number, start=START + 24, replace=True, message_id=f"{number:032x}")
        assert of(Recall, machine.receive(cut, START + 6, BSM_URI)) == [Recall(*NAME, START + 24)]
        assert statuses(machine.recalled(recalled(24, given, stay), START + 6)) == [status]


@pytest.mark.parametrize("used", [None, 0, 16])
def test_a_bsda_that_starts_again_beside_its_edge(used: int | None) -> None:
    """R44: what the edge has is not said again; what it has not, is; what it has used up is over."""
    machine, outputs = with_keys()
    edge = Edge([NAME])
    edge.plan(of(Plan, outputs)[0], START - 50)
    again = bsda(machine._journal.tables)
    held = edge.view(*NAME)
    if used is not None:
        held = replace(held, periods=held.periods[used // 8 : 4], used=START + used)
    outputs = again.connected([held], START + 17)
    plans = of(Plan, outputs)
    told = [start for plan in plans for start in starts(plan)]
    assert told == ([] if used is None else [32, 40]) + [48, 56]
    assert of(Recall, outputs) == []


def test_recovered_when_a_plan_of_its_own_is_in_use() -> None:
    machine = bsda(start=RESTORED)
    asked = key_request(machine.connected([], START))
    machine.receive(asked.answer(0, (sek_material(2, START + 8, granularity=4),), now=START), START, BSM_URI)
    (stream,) = machine._streams.values()
    assert machine.recoveries.of(stream.config) is not None
    machine.plan_begun(PlanBegun(*NAME, START), START + 8)
    assert machine.recoveries.of(stream.config) is not None, "of another life"
    outputs = machine.plan_begun(PlanBegun(*NAME, START + 8), START + 8)
    assert machine.recoveries.of(stream.config) is None
    assert [(a.code, a.active) for a in of(Alarm, outputs)] == [("restored", False)]


def test_what_an_edge_says_of_streams_and_periods_that_are_not_here() -> None:
    machine, _ = with_keys()
    before = machine.records(*NAME)
    assert machine.recalled(Recalled("urn:other", 1, 0, (START,), ()), START - 40) == []
    assert machine.plan_begun(PlanBegun("urn:other", 1, START), START - 40) == []
    outputs = machine.plan_refused(PlanRefused(*NAME, (START + 4,), "period overlaps"), START - 40)
    assert [a.code for a in of(Alarm, outputs)] == ["plan-refused"] and machine.records(*NAME) == before


def sealed_alone() -> BSDA:
    """It has its first key and has sealed; there is no edge yet."""
    machine = bsda()
    machine.receive(delivery(1, 0, replacing=False), START - 50, BSM_URI)
    assert set(states(machine).values()) == {PeriodState.SEALED}
    return machine


def test_an_edge_that_has_what_was_not_noted_as_handed_out() -> None:
    """R44: killed between the two; the edge is not told again what it has."""
    machine = sealed_alone()
    edge = Edge([NAME])
    edge.plan(of(Plan, with_keys()[1])[0], START - 50)
    assert of(Plan, machine.connected([edge.view(*NAME)], START - 49)) == []
    assert set(states(machine).values()) == {PeriodState.HANDED}


def test_a_key_that_cuts_what_is_sealed_and_not_handed_out() -> None:
    machine = sealed_alone()
    assert statuses(machine.receive(delivery(2, 20), START - 40, BSM_URI)) == [0]
    (plan,) = of(Plan, machine.connected([], START - 39))
    assert [(p.start - START, p.end - START) for p in plan.periods][2:4] == [(16, 20), (20, 28)]


def test_a_clock_that_was_set_back_before_an_edge_was_there() -> None:
    """R5: what was sealed for a time to come is given up, and its COUNTERs are never sealed again."""
    machine = bsda()
    machine.receive(delivery(1, 800, replacing=False), START + 800, BSM_URI)
    key = sek_material(1).key_id
    sealed = set(machine._allocator.sealed(key))
    assert sealed and set(states(machine).values()) == {PeriodState.SEALED}
    again = bsda(machine._journal.tables)
    outputs = again.tick(START + 8)
    assert [a.code for a in of(Alarm, outputs)] == ["clock-back"]
    assert not any(r.period.start in sealed for r in again.records(*NAME))
    assert not any(row.data for row in again._allocator.sealed(key).values()), "burnt"


@pytest.mark.parametrize("start", [48, 52])
def test_the_boundary_of_an_attempt_that_is_given_up_is_none(start: int) -> None:
    """R50: where nothing is prepared yet, periods begin at S while the attempt stands, and as before after it."""
    machine = sealed_alone()
    (stream,) = machine._streams.values()
    before = stream.periods.at(START + start)

    def attempt(message_id: str, *, replacing: bool) -> list[int | None]:
        message = request(Tag.KeyDelivery, message_id=message_id, attempt=START, start=START + start, replace=replacing)
        return statuses(machine.receive(message, START - 40, BSM_URI))

    assert attempt("a" * 32, replacing=True) == [0]
    there = stream.periods.at(START + start)
    assert there is not None and there.start == START + start
    assert attempt("b" * 32, replacing=False) == [0]
    assert stream.periods.at(START + start) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": START, "start": None}, {"attempt": START, "stream": None},
        {"attempt": START, "items": (sek_material(2),)}, {"attempt": START, "replace": True, "fresh": True},
        {"attempt": START, "start": START + 8, "end": START + 8},
        {"fresh": True, "items": (sek_material(2),)}, {"attempt": START, "tag": Tag.STKMDelivery},
    ],
)  # fmt: skip
def test_an_attempt_that_says_too_much_or_too_little(wrong: dict[str, object]) -> None:
    machine = sealed_alone()
    before = machine.records(*NAME)
    fields = {"tag": Tag.KeyDelivery, "start": START + 16} | wrong
    message = request(**fields)  # type: ignore[arg-type]  # a tag and fields of the message
    assert statuses(machine.receive(message, START - 40, BSM_URI)) == [Status.INFORMATION_INVALID]
    assert machine.records(*NAME) == before


def test_a_headend_that_is_off_air_forgets_once() -> None:
    """R50: all leaves the air and it asks for a key that it never had; said again, nothing happens."""
    machine, _ = with_keys()

    def told(message_id: str) -> list[Output]:
        message = request(Tag.KeyDelivery, message_id=message_id, attempt=START - 40, start=START - 40, fresh=True)
        return machine.receive(message, START - 40, BSM_URI)

    outputs = told("a" * 32)
    assert statuses(outputs) == [0] and of(Recall, outputs) == [Recall(*NAME, 0, off_air=True)] and states(machine) == {}
    asked = key_request(outputs)
    assert asked.fresh
    machine.receive(asked.answer(0, delivery(2, 0).items, now=START - 39), START - 39, BSM_URI)
    assert states(machine)
    outputs = told("b" * 32)
    assert statuses(outputs) == [0] and not of(Recall, outputs) and states(machine)


def test_a_headend_and_the_edge_that_lived_on() -> None:
    """What it said may be lost is said again; a plan that contradicts what it has on air is refused, with an alarm."""
    edge = Edge([NAME])
    plan = of(Plan, with_keys()[1])[0]
    other = tuple(replace(p, stkms=(replace(p.stkms[0], data=b"other"),)) for p in plan.periods)
    edge.plan(replace(plan, periods=other), START - 50)
    edge.tick(START - 3)
    chance, teks = random.Random(1).randbytes, derived_teks(Secret(bytes(32)))
    machine = Headend(me=BSDA_URI, streams=[HERE], randomness=chance, teks=teks, edge=edge, again=True)
    outputs = machine.tick(START - 2)
    assert [a.start for a in of(Announce, outputs)] == [START]
    refused = machine.plan_refused(PlanRefused(*NAME, (START,), "x"), START - 2)
    assert [a.code for a in of(Alarm, refused)] == ["plan-refused"]
    (said,) = of(PlanRefused, edge.plan(plan, START - 2))
    assert "contradicts" in said.why
    assert [a.code for a in of(Alarm, machine._hear([said], START - 2))] == ["plan-refused"]
