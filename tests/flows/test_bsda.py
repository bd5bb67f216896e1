# SPDX-License-Identifier: Apache-2.0
"""The BSD/A by its inputs alone: deliveries and requests of a BSM, its answers, the operator's commands, the clock."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import TypeVar

import pytest
from room_support import BSDA_URI, BSM_URI, RESTORED, SERVICE, START, period, request, seak_material, sek_material, stream_config

from pybcast import codec
from pybcast.errors import LocalFlowError
from pybcast.flows import (
    ALL_SERVICES,
    BSDA,
    Alarm,
    Announce,
    BackendMessage,
    CarouselPut,
    FlowDone,
    Headend,
    KeyMaterial,
    NextKey,
    OffAir,
    Output,
    PartialItem,
    Period,
    PeriodRecord,
    Persist,
    Profile,
    Send,
    Status,
    StkmItem,
    StopTraffic,
    StreamConfig,
    Tag,
    UseKey,
    random_teks,
)
from pybcast.flows.agenda import TURN
from pybcast.flows.bsda.periods import PeriodBlock
from pybcast.flows.journal import State
from pybcast.flows.peers.exchange import RETRY
from pybcast.flows.peers.messages import Item
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Ask
from pybcast.flows.stream.stkm import Policy
from pybcast.flows.tables import EdgeState, PeriodState
from pybcast.messages import PartialDrmStkm, PartialSmartcardStkm

HERE = stream_config()
"""It seals itself (F4), in the Smartcard Profile."""
CARD = stream_config(generation="bsm")
"""The BSM completes what it makes (F3)."""
BOTH = stream_config(generation="bsm", profiles=("drm", "smartcard"))
NAME = (SERVICE, 1)

_ids = count(1)
T = TypeVar("T")


def bsda(*configs: StreamConfig, seed: int = 1, **options: object) -> Headend:
    randomness = random.Random(seed).randbytes
    return Headend(me=BSDA_URI, streams=configs, teks=random_teks(randomness), randomness=randomness, **options)  # type: ignore[arg-type]


def of(kind: type[T], outputs: Iterable[Output]) -> list[T]:
    return [o for o in outputs if isinstance(o, kind)]


def sent(outputs: Iterable[Output], tag: Tag, profile: Profile | None = None) -> list[BackendMessage]:
    return [o.message for o in of(Send, outputs) if o.message.tag is tag and profile in (None, o.message.profile)]


def alarms(outputs: Iterable[Output], code: str) -> list[str]:
    return [alarm.text for alarm in of(Alarm, outputs) if alarm.code == code and alarm.active]


def tell(machine: BSDA, tag: Tag, now: float, *items: Item, **changes: object) -> tuple[BackendMessage, list[Output]]:
    """What the BSD/A answers to its BSM, and what else it does."""
    message = request(tag, **({"message_id": f"{next(_ids):032x}", "items": items} | changes))
    outputs = machine.receive(message, now, message.source)
    (answer,) = [m.message for m in of(Send, outputs) if m.message.message_id == message.message_id]
    return answer, outputs


def answered(machine: Headend, asked: BackendMessage, now: float, status: int = 0, *items: Item) -> list[Output]:
    """The BSM answers."""
    return machine.receive(asked.answer(status, items, now=now), now, asked.destination)


def records(machine: BSDA) -> dict[int, PeriodRecord]:
    return {r.period.start - START: r for r in machine.records(*NAME)}


def sealed(machine: BSDA, config: StreamConfig, start: int, profile: Profile = "smartcard", **keys: KeyMaterial) -> StkmItem:
    """The STKM that a BSM makes of what this BSD/A prepared for the period at ``start``."""
    record = records(machine)[start]
    content = stkm.partial(config, profile, record.period, record.key)
    assert isinstance(content, PartialDrmStkm | PartialSmartcardStkm)
    held = {"SEK": sek_material(), "SEAK": seak_material()} | keys
    data = stkm.seal(content, config, record.period, held, Policy())
    return item(record.period, data)


def item(of: Period, content: bytes = b"", status: int = 0, **changes: object) -> StkmItem:
    values = StkmItem(stream=1, period_start=of.start, period_end=of.end, tek_id="1", status=status, content=content)
    return replace(values, **changes)  # type: ignore[arg-type]  # fields of the item


def run(machine: Headend, until: float, now: float) -> list[Output]:
    """Let time pass, and report every first datagram as sent."""
    outputs: list[Output] = []
    while now <= until:
        new = machine.tick(now)
        for announce in of(Announce, new):
            new += machine.announced(announce.service, announce.stream, announce.start, now)
        outputs += new
        now += 1
    return outputs


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_not_known() -> None:
    machine = bsda(CARD)
    for call in (lambda: machine.records(SERVICE, 9), lambda: machine.add_boundary("urn:example:other", 1, START, START)):
        with pytest.raises(LocalFlowError, match="no stream"):
            call()
    machine.tick(START)
    assert machine.announced(SERVICE, 9, START, START) == [], "a report about a stream that was given up"


def test_who_seals_already_changes_nothing() -> None:
    machine = bsda(CARD)
    machine.tick(START)
    before = machine.records(*NAME)
    assert machine.set_generation(*NAME, "bsm", START) == []
    assert machine.records(*NAME) == before


def test_a_boundary_is_forgotten_an_hour_after_it() -> None:
    machine = bsda(CARD)
    machine.tick(START)
    held, _ = machine.add_boundary(*NAME, START + 80, START)
    name = (*NAME, held)
    for now, kept in ((START + 80 + 3600, True), (START + 80 + 3608, False)):
        machine.tick(now)
        assert (name in machine._journal.tables["boundary"]) is kept


# --- F4: keys ---------------------------------------------------------------------------------------------------------


def carried(outputs: Iterable[Output], state: State | None = None) -> State:
    """What a store holds after these outputs."""
    rows: State = {} if state is None else state
    for output in of(Persist, outputs):
        table = rows.setdefault(output.table, {})
        if output.value is None:
            table.pop(output.key, None)
        else:
            table[output.key] = output.value
    return rows


@pytest.mark.parametrize("dead", [0, 40, 400])
def test_a_period_changed_while_it_was_dead_holds_from_the_configured_time(dead: int) -> None:
    """R5: what was prepared stays, and from the start that the configuration names both headends of a pair agree again."""
    config = replace(CARD, granularity=4)
    told, deaf = bsda(config), bsda(config)
    told.tick(START)
    state = carried(deaf.tick(START))
    held, _ = told.set_period(*NAME, 4, START, START + 88)
    assert held == START + 88
    again = bsda(replace(config, period=4, start=held), state=state)
    again.tick(START + dead)
    told.tick(START + dead)
    running = [{r.period for r in m.records(*NAME) if r.period.end > START + dead} for m in (told, again)]
    assert running[0] == running[1]
    for machine in (told, again):
        assert {r.period.duration for r in machine.records(*NAME) if r.period.start >= held} <= {4}
        assert {r.period.duration for r in machine.records(*NAME) if r.period.start < held} <= {8}


@pytest.mark.parametrize("programme", [False, True])
def test_the_end_of_a_key_that_ends_earlier_is_a_boundary_no_more(programme: bool) -> None:
    """R33: a headend that lost its store knows the new key only; where the old one would have ended both agree on the periods."""
    machine, lost = bsda(HERE), bsda(HERE)
    first, second = sek_material(1), sek_material(2, START + 76)
    for each, keys in ((machine, (first, second)), (lost, (second,))):
        for key in keys:
            assert tell(each, Tag.KeyDelivery, START, key, replace=key is second)[0].status == 0
        if programme:
            each.add_boundary(*NAME, first.valid_to, START)
    periods = []
    for each in (machine, lost):
        found = [each._streams[HERE.id].periods.at(first.valid_to + t) for t in (-1, 0, 8, 20)]
        periods.append([(p.start, p.end) for p in found if p is not None])
    assert periods[0] == periods[1] and len(periods[0]) == 4
    assert (first.valid_to in {start for start, _ in periods[0]}) is programme


def test_an_older_configuration_changes_nothing_back() -> None:
    """It dies between the command and the time from which the new length holds, and the file still has the old one."""
    config = replace(CARD, granularity=4)
    machine = bsda(config)
    state = carried(machine.tick(START))
    _, outputs = machine.set_period(*NAME, 4, START, START + 88)
    carried(outputs, state)
    again = bsda(config, state=state)
    carried(again.tick(START + 40), state)
    again = bsda(config, state=state)
    again.tick(START + 80)
    assert {(r.period.start - START, r.period.end - START) for r in again.records(*NAME) if r.period.end > START + 80} == {
        (80, 88), *((t, t + 4) for t in range(88, 88 + 4 * config.look_ahead, 4))
    }  # fmt: skip


def test_a_key_that_comes_for_later_is_not_asked_for_at_once_again() -> None:
    """The key in force is gone for good (R33): question and answer would follow each other as fast as the line allows."""
    machine = bsda(HERE)
    (asked,) = sent(machine.tick(START), Tag.KeyRequest)
    outputs = answered(machine, asked, START + 0.1, 0, sek_material(2, START + 80))
    assert sent(outputs, Tag.KeyRequest) == [] and machine.next_wakeup() == START + 0.1 + RETRY
    assert len(sent(machine.tick(START + 0.1 + RETRY), Tag.KeyRequest)) == 1


def test_a_period_across_the_end_of_its_key_is_not_sealed() -> None:
    """R9, R33: the successor came with its predecessor, after both had begun: periods begin where it does."""
    machine = bsda(replace(HERE, granularity=4))
    first, second = sek_material(1, granularity=4), sek_material(2, START + 4, granularity=4)
    answer, _ = tell(machine, Tag.KeyDelivery, START + 5, first, second, replace=True)
    assert answer.status == 0
    made = records(machine)
    assert 0 not in made
    assert machine.states(*NAME, START)[START + 4] is EdgeState.ON_AIR
    assert made[4].traffic_id[:4] == second.key_id[3:]


def test_a_key_that_was_used_before_seals_nothing_else() -> None:
    """R1, R33: a BSM that gives a BSD/A without its periods the same key again: 27 for what was sealed, with an alarm."""
    machine = bsda(HERE)
    tell(machine, Tag.KeyDelivery, START - 50, sek_material())
    assert records(machine)[0].state is PeriodState.HANDED
    again = bsda(HERE, seed=2, state=machine._journal.tables, start=RESTORED)
    (asked,) = sent(again.tick(START - 40), Tag.KeyRequest)
    assert asked.fresh
    outputs = answered(again, asked, START - 40, 0, sek_material())
    assert len(alarms(outputs, "not-sealed")) == len(records(machine))
    assert {r.state for r in again.records(*NAME)} == {PeriodState.MISSED}
    assert not of(Announce, run(again, START + 8, START - 40))


def test_a_batch_with_a_bad_period_is_split() -> None:
    """F4: a COUNTER that is used already costs its own period only; the others are sealed together and at the edge."""
    machine = bsda(HERE)
    machine._allocator.seal_many(sek_material().key_id, [Ask(period(3), b"another")], lambda _: [b"another STKM"])
    answer, outputs = tell(machine, Tag.KeyDelivery, START, sek_material())
    assert answer.status == 0
    (alarm,) = alarms(outputs, "not-sealed")
    assert alarm.startswith(f"period {START + 24}: COUNTER of period {START + 24} is used under this key (R1)")
    assert {start: r.state for start, r in records(machine).items()} == {
        n * 8: PeriodState.MISSED if n == 3 else PeriodState.HANDED for n in range(1 + HERE.look_ahead)
    }
    assert [done.earliest for done in of(FlowDone, outputs)] == [START], "a batch is said once"


def test_periods_without_a_tek_id_are_given_up_alone() -> None:
    """R8, F4: the key of a BSM whose granularity is another one."""
    machine = bsda(HERE)
    _, outputs = tell(machine, Tag.KeyDelivery, START, sek_material(granularity=16))
    assert len(alarms(outputs, "not-sealed")) == 3
    assert [start for start, r in records(machine).items() if r.state is PeriodState.HANDED] == [0, 16, 32]
    machine = bsda(HERE)
    tell(machine, Tag.KeyDelivery, START, sek_material(granularity=64, first_counter=START % (1 << 32) + 1))
    assert {r.state for r in records(machine).values()} == {PeriodState.MISSED}, "not one of them"


def test_a_delivery_of_stkms_that_is_refused_goes_again_one_by_one() -> None:
    """F6: a batch is one delivery; what the BSM refuses of it costs the others nothing, and what is over is not said again."""
    machine = bsda(replace(HERE, interaction=True))
    _, outputs = tell(machine, Tag.KeyDelivery, START, sek_material())
    (whole,) = sent(outputs, Tag.STKMDelivery)
    assert [i.period_start - START for i in whole.items if isinstance(i, StkmItem)] == [0, 8, 16, 24, 32, 40]
    alone = sent(answered(machine, whole, START + 9, Status.WRONG_KEY_INFORMATION), Tag.STKMDelivery)
    # The last one is of the period that this input has prepared.
    assert [[i.period_start - START for i in m.items if isinstance(i, StkmItem)] for m in alone] == [
        [8],
        [16],
        [24],
        [32],
        [40],
        [48],
    ]
    outputs = answered(machine, alone[0], START + 9, Status.WRONG_KEY_INFORMATION)
    assert len(alarms(outputs, "refused")) == 1 and not sent(outputs, Tag.STKMDelivery)
    assert [done.flow for done in of(FlowDone, answered(machine, alone[1], START + 9))] == ["F6"]


def test_a_delivery_of_stkms_that_is_refused_for_who_sends_it() -> None:
    """It would fare no better one by one."""
    machine = bsda(replace(HERE, interaction=True))
    _, outputs = tell(machine, Tag.KeyDelivery, START, sek_material())
    (whole,) = sent(outputs, Tag.STKMDelivery)
    outputs = answered(machine, whole, START, Status.NOT_PERMITTED)
    assert len(alarms(outputs, "refused")) == 1 and not sent(outputs, Tag.STKMDelivery)


def test_f3_of_the_drm_profile_alone_ends_in_2038() -> None:
    """R15: nothing is asked for any more, and the operator is told."""
    start = stkm.LAST_MJD_TIME - 15
    machine = bsda(stream_config(generation="bsm", profiles=("drm",), start=start))
    outputs = machine.tick(start)
    (asked,) = sent(outputs, Tag.TEKDelivery)
    assert [i.period_start for i in asked.items if isinstance(i, PartialItem)] == [start, start + 8]
    assert len(alarms(outputs, "not-sealed")) == 4
    assert [r.state for r in machine.records(*NAME)] == [PeriodState.KEYED] * 2 + [PeriodState.MISSED] * 4


def test_f4_of_the_drm_profile_alone_ends_in_2038() -> None:
    """R15: the periods that cannot be said are given up with an alarm, and the BSD/A goes on working for its other streams."""
    start = stkm.LAST_MJD_TIME - 15
    drm, other = stream_config(profiles=("drm",), start=start), stream_config(stream=2, key_group=9, start=start)
    machine = bsda(drm, other)
    answer, outputs = tell(machine, Tag.KeyDelivery, start, seak_material(start=start), profile="drm")
    assert answer.status == 0 and len(alarms(outputs, "not-sealed")) == 4
    assert [r.state for r in machine.records(*NAME)][2:] == [PeriodState.MISSED] * 4
    key = sek_material(start=start, stream=2, key_id=sek_material().key_id[:3] + bytes.fromhex("00090001"))
    answer, _ = tell(machine, Tag.KeyDelivery, start + 1, key, stream=2)
    assert answer.status == 0 and len(machine.records(SERVICE, 2)) == 6


def test_a_new_key_inside_what_is_prepared() -> None:
    """R33: refused without ``replace`` - the STKMs of that time are with the BSM already."""
    machine = bsda(CARD)
    machine.tick(START)
    machine.set_generation(*NAME, "bsda", START)
    answer, _ = tell(machine, Tag.KeyDelivery, START, sek_material(start=START + 24))
    assert answer.status == Status.INFORMATION_INVALID
    answer, _ = tell(machine, Tag.KeyDelivery, START, sek_material(start=START + 48))
    assert answer.status == 0, "where nothing is prepared"


def test_a_key_of_a_restored_bsm_takes_the_place_of_one_it_forgot() -> None:
    """R2: the older one begins no earlier, so nothing of it stays."""
    machine = bsda(HERE)
    tell(machine, Tag.KeyDelivery, START - 50, sek_material(1))
    old = records(machine)[0].stkms
    answer, _ = tell(machine, Tag.KeyDelivery, START - 50, sek_material(2), replace=True)
    assert answer.status == 0
    assert [key[-1] for key in machine._journal.tables["key"]] == [sek_material(2).key_id]
    new = records(machine)[0]
    assert new.stkms != old
    assert new.traffic_id[:4] == sek_material(2).key_id[3:]


def test_a_key_at_once_ends_the_period_in_which_it_begins() -> None:
    """R10: its STKM stays, the next period begins with the key."""
    machine = bsda(replace(HERE, granularity=4))
    tell(machine, Tag.KeyDelivery, START - 50, sek_material(1, granularity=4))
    run(machine, START + 18, START - 50)
    before = records(machine)
    answer, _ = tell(machine, Tag.KeyDelivery, START + 18, sek_material(2, START + 28, granularity=4), replace=True)
    assert answer.status == 0
    after = records(machine)
    assert (before[24].period.end, after[24].period.end) == (START + 32, START + 28)
    assert (after[24].state, after[24].stkms) == (PeriodState.HANDED, before[24].stkms)
    assert after[28].traffic_id[:4] == sek_material(2).key_id[3:]
    assert 32 not in after
    outputs = run(machine, START + 40, START + 18)
    assert [use.start - START for use in of(UseKey, outputs)] == [24, 28, 36]


def test_the_end_of_authority_with_and_without_hold_through() -> None:
    """R9: traffic stops where the key ends; with hold_through it goes on, with an alarm."""
    for hold in (False, True):
        machine = bsda(replace(HERE, key_period=64, rollover_lead=32, hold_through=hold))
        tell(machine, Tag.KeyDelivery, START - 50, sek_material(length=64))
        outputs = run(machine, START + 70, START - 50)
        assert bool(of(StopTraffic, outputs)) is not hold
        assert bool(alarms(outputs, "stopped")) is not hold
        assert bool(alarms(outputs, "held-key")) is hold
        last = {period.start: period.state for period in machine.edge.view(*NAME).periods}
        assert last == ({START + 56: EdgeState.HELD} if hold else {})
        assert {use.authority_end for use in of(UseKey, outputs)} == {None if hold else START + 64}


def test_keys_in_an_answer_are_checked_like_any() -> None:
    """F4, pulled: of another stream: not taken; expired: an alarm; the rest is used."""
    machine = bsda(HERE)
    (asked,) = sent(machine.tick(START), Tag.KeyRequest)
    assert not asked.fresh
    expired = sek_material(7, START - 640)
    outputs = answered(machine, asked, START, 0, replace(sek_material(8), stream=2), expired, sek_material())
    assert len(alarms(outputs, "key-refused")) == 1
    assert [key[-1] for key in machine._journal.tables["key"]] == [sek_material().key_id]
    assert [(d.flow, d.profile) for d in of(FlowDone, outputs)][-1] == ("F4", "smartcard")


def test_a_key_that_ends_another_early_comes_by_a_delivery_that_says_so() -> None:
    """F4, pulled: the BSM rolled the keys, and an answer with the new one is faster than its delivery (R10): not taken yet."""
    machine = bsda(HERE)
    early, new = sek_material(1, START, 40), sek_material(2, START + 32)
    (asked,) = sent(machine.tick(START), Tag.KeyRequest)
    outputs = answered(machine, asked, START, 0, early)
    while not (again := sent(outputs, Tag.KeyRequest)):
        outputs = machine.tick(machine.next_wakeup() or START)
    outputs = answered(machine, again[0], START + 10, 0, early, new)
    assert not alarms(outputs, "key-refused")
    assert list(machine._streams[NAME].keys.all()) == [early]
    answer, _ = tell(machine, Tag.KeyDelivery, START + 10, new, replace=True)
    assert answer.status == 0
    assert [k.valid_to - START for k in machine._streams[NAME].keys.all()] == [32, 672]


def test_a_waived_profile_is_not_delivered_to_the_bsm() -> None:
    """F6 after 2038: there is no STKM of the DRM Profile any more (R15)."""
    start = stkm.LAST_MJD_TIME - 7
    config = stream_config(profiles=("drm", "smartcard"), start=start, interaction=True)
    machine = bsda(config)
    machine.tick(start - 50)
    tell(machine, Tag.KeyDelivery, start - 50, seak_material(start=start), profile="drm")
    _, outputs = tell(machine, Tag.KeyDelivery, start - 50, sek_material(start=start))
    for profile, periods in (("drm", [start]), ("smartcard", [start + 8 * n for n in range(6)])):
        delivered = [i for m in sent(outputs, Tag.STKMDelivery) if m.profile == profile for i in m.items]
        assert [i.period_start for i in delivered if isinstance(i, StkmItem)] == periods
    assert len(alarms(outputs, "profile-waived")) == 5
    assert machine.records(*NAME)[1].has("drm")


# --- F3: requests of the BSM ------------------------------------------------------------------------------------------


def test_what_a_request_must_name() -> None:
    """R32: the stream, in the request or in its elements, and a profile of it."""
    machine = bsda(CARD)
    machine.tick(START)
    good = sealed(machine, CARD, 8)
    for changes in ({"stream": 9}, {"profile": "drm"}, {"stream": None}):
        answer, _ = tell(machine, Tag.PartialSTKMRequest, START, **changes)
        assert answer.status == Status.INVALID_REQUEST
    answer, _ = tell(machine, Tag.STKMDelivery, START, good, stream=None)
    assert answer.status == 0
    assert records(machine)[8].state is PeriodState.HANDED
    answer, _ = tell(bsda(HERE), Tag.PartialSTKMRequest, START)
    assert answer.status == Status.INVALID_REQUEST, "its STKMs are made here"


def test_one_profile_of_two_is_taken_back() -> None:
    """R10: the BSM rolls both, each with a message of its own; the TEK stays."""
    machine = bsda(BOTH)
    machine.tick(START)
    tell(machine, Tag.STKMDelivery, START, sealed(machine, BOTH, 16, "drm"), profile="drm")
    before = records(machine)[16]
    assert [s.profile for s in before.stkms] == ["drm"]
    answer, _ = tell(machine, Tag.PartialSTKMRequest, START, profile="drm", start=START + 16, replace=True)
    assert [i.period_start - START for i in answer.items if isinstance(i, PartialItem)] == [16, 24, 32, 40]
    after = records(machine)[16]
    assert (after.stkms, after.traffic_id, after.state, after.key) == ((), b"", PeriodState.KEYED, before.key)


def test_what_comes_before_a_key_that_ends_early_loses_its_authority_there() -> None:
    """R9, R46 by F3: sealed and not handed out or not, nothing is held past the start of the next key."""
    machine = bsda(CARD)
    machine.tick(START)
    for at in (0, 8, 16):
        tell(machine, Tag.STKMDelivery, START, replace(sealed(machine, CARD, at), authority_end=START + 640))
    assert {records(machine)[at].authority_end for at in (0, 8)} == {START + 640}
    tell(machine, Tag.PartialSTKMRequest, START, profile="smartcard", start=START + 16, replace=True)
    assert [records(machine)[at].authority_end for at in (0, 8, 16)] == [START + 16, START + 16, None]


# --- F5: STKMs from the BSM -------------------------------------------------------------------------------------------


def test_f3_a_window_that_begins_in_what_is_prepared_is_no_boundary_where_that_ends() -> None:
    """Else a headend that hears late of a key has a boundary that the other has not, when the BSM says where to cut (R32, R33)."""
    late, other = bsda(CARD), bsda(CARD)
    late.tick(START)
    horizon = late._streams[NAME].periods.horizon
    window = {"profile": "smartcard", "start": horizon - 5, "end": horizon + 640}
    tell(late, Tag.PartialSTKMRequest, START, **window)
    (record,) = [r for r in late.records(*NAME) if r.period.end == horizon]
    partial = next(o.message for o in late.tick(START + 3) if isinstance(o, Send) and o.message.tag is Tag.TEKDelivery)
    items = [
        StkmItem(
            stream=1, period_start=r.period.start, period_end=r.period.end, tek_id="", status=21,
            authority_end=horizon - 5 if r is record else None,
        )
        for r in late.records(*NAME)
    ]  # fmt: skip
    answered(late, partial, START + 3, 0, *items)
    tell(other, Tag.PartialSTKMRequest, START, **window)
    for at in range(horizon - 5, horizon + 60):
        assert late._streams[NAME].periods.at(at).start == other._streams[NAME].periods.at(at).start  # type: ignore[union-attr]


def test_stkms_that_do_not_fit_are_refused() -> None:
    """Unknown period 22, another one in its place 27, one that does not parse 21, other bytes of ours 24; nothing moves."""
    machine = bsda(CARD)
    machine.tick(START)
    tell(machine, Tag.STKMDelivery, START, sealed(machine, CARD, 8))
    before = machine.records(*NAME)
    for wrong, status in (
        (item(period(1, START + 4), b"stkm"), Status.INVALID_REQUEST),
        (item(period(1, length=7), b"stkm"), Status.INVALID_REQUEST),
        (sealed(machine, CARD, 8, SEK=sek_material(2)), Status.ALREADY_IN_USE),
        (item(period(2), b"\0"), Status.INFORMATION_INVALID),
        (item(period(2), sealed(machine, CARD, 24).content), Status.WRONG_KEY_INFORMATION),
    ):
        answer, _ = tell(machine, Tag.STKMDelivery, START, sealed(machine, CARD, 32), wrong)
        assert answer.status == status
        assert machine.records(*NAME) == before, "all or nothing"


def test_stkms_that_come_when_their_period_is_over_cost_the_others_nothing() -> None:
    machine = bsda(CARD)
    machine.tick(START)
    late, good = sealed(machine, CARD, 8), sealed(machine, CARD, 32)
    machine.tick(START + 17)
    assert records(machine)[8].state is PeriodState.MISSED
    answer, _ = tell(machine, Tag.STKMDelivery, START + 17, late, good)
    assert answer.status == 0 and records(machine)[8].stkms == ()
    assert [s.data for s in records(machine)[32].stkms] == [good.content]
    assert tell(machine, Tag.STKMDelivery, START + 17, late)[0].status == 0


def test_another_stkm_needs_a_word() -> None:
    """R10: only ``replace`` takes the place of one that is not at the edge yet."""
    randomness = random.Random(1).randbytes
    machine = BSDA(me=BSDA_URI, streams=[CARD], teks=random_teks(randomness), randomness=randomness)
    machine.tick(START)
    assert tell(machine, Tag.STKMDelivery, START, sealed(machine, CARD, 8))[0].status == 0
    for replacing, status in ((False, Status.ALREADY_IN_USE), (True, 0)):
        other = sealed(machine, CARD, 8, SEK=sek_material(2))
        assert tell(machine, Tag.STKMDelivery, START, other, replace=replacing)[0].status == status


def test_f3_goes_on_with_another_key_after_an_attempt() -> None:
    """R50: the one sealer's next STKM from S on ends the old key; what was kept aside is made anew."""
    machine = bsda(CARD)
    machine.tick(START)
    tell(machine, Tag.STKMDelivery, START, sealed(machine, CARD, 16))
    answer, _ = tell(machine, Tag.KeyDelivery, START, attempt=START, start=START + 16, replace=True, stream=1)
    assert answer.status == 0 and records(machine)[16].state is PeriodState.ASIDE
    answer, _ = tell(machine, Tag.STKMDelivery, START, sealed(machine, CARD, 24, SEK=sek_material(2)))
    assert answer.status == 0
    machine.tick(START)
    assert (records(machine)[16].state, records(machine)[16].stkms) == (PeriodState.KEYED, ())


def test_the_two_profiles_must_name_the_key_alike() -> None:
    """R38: the SEK names it in both."""
    machine = bsda(BOTH)
    machine.tick(START)
    tell(machine, Tag.STKMDelivery, START, sealed(machine, BOTH, 8, "drm"), profile="drm")
    answer, _ = tell(machine, Tag.STKMDelivery, START, sealed(machine, BOTH, 8, SEK=sek_material(2)))
    assert answer.status == Status.WRONG_KEY_INFORMATION
    answer, _ = tell(machine, Tag.STKMDelivery, START, sealed(machine, BOTH, 8))
    assert answer.status == 0
    record = records(machine)[8]
    assert (record.state, [s.profile for s in record.stkms]) == (PeriodState.HANDED, ["drm", "smartcard"])


def test_a_stkm_that_is_not_on_air_is_replaced() -> None:
    """R10, and where a key ends a period ends."""
    machine = bsda(CARD)
    machine.tick(START)
    tell(machine, Tag.STKMDelivery, START, sealed(machine, CARD, 16))
    assert records(machine)[16].authority_end is None
    other = replace(sealed(machine, CARD, 16, SEK=sek_material(2)), authority_end=START + 52)
    answer, _ = tell(machine, Tag.STKMDelivery, START, other, replace=True)
    assert answer.status == 0
    record = records(machine)[16]
    assert (record.state, record.stkms[0].data, record.authority_end) == (PeriodState.HANDED, other.content, START + 52)
    machine.tick(START + 16)
    assert records(machine)[48].period.end == START + 52


@pytest.mark.parametrize(("made", "late"), [(2, 1), (0x104, 2), (1, 0xFFFF)])
def test_what_was_made_before_does_not_take_the_place_of_what_was_made_after(made: int, late: int) -> None:
    """F4 and F5, ``replace``: a message that was overtaken, or of a BSM before it was put back, changes nothing."""
    machine = bsda(HERE)
    tell(machine, Tag.KeyDelivery, START - 50, sek_material(made), replace=True)
    answer, _ = tell(machine, Tag.KeyDelivery, START - 50, sek_material(late), replace=True)
    assert answer.status == Status.ALREADY_IN_USE
    machine.tick(START)
    assert stkm.key_id_in("smartcard", records(machine)[16].stkms[0].data) == sek_material(made).key_id

    machine = bsda(CARD)
    machine.tick(START)
    newer, older = (sealed(machine, CARD, 16, SEK=sek_material(number)) for number in (made, late))
    for item, status in ((newer, 0), (older, Status.ALREADY_IN_USE), (newer, 0)):
        answer, _ = tell(machine, Tag.STKMDelivery, START, item, replace=True)
        assert (answer.status, records(machine)[16].stkms[0].data) == (status, newer.content)

    machine = bsda(BOTH)
    machine.tick(START)
    newer, older = (sealed(machine, BOTH, 16, "drm", SEAK=seak_material(number)) for number in (made, late))
    for item, status in ((newer, 0), (older, Status.ALREADY_IN_USE if late != 0xFFFF else 0)):
        answer, _ = tell(machine, Tag.STKMDelivery, START, item, profile="drm", replace=True)
        assert answer.status == status, "a CID extension has 32 bits: 1 comes long before FFFF"


def test_asking_for_stkms() -> None:
    """F5, pulled: once, and not when there is nothing to ask for."""
    machine = bsda(BOTH)
    machine.tick(START)
    (asked,) = sent(machine.request_stkms(*NAME, "drm", START), Tag.STKMRequest)
    assert (asked.destination, asked.start, asked.end) == (BSM_URI, START, START + 48)
    assert machine.request_stkms(*NAME, "drm", START) == []
    machine = bsda(HERE)
    machine.tick(START)
    assert machine.request_stkms(*NAME, "smartcard", START) == []


def test_the_same_stkm_by_two_answers() -> None:
    """The answer to the partial STKMs and the one that was asked for: the second says nothing new."""
    machine = bsda(BOTH)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery, "drm")
    (pulled,) = sent(machine.request_stkms(*NAME, "drm", START), Tag.STKMRequest)
    good = sealed(machine, BOTH, 8, "drm")
    answered(machine, asked, START, 0, good)
    before = machine.records(*NAME)
    outputs = answered(machine, pulled, START, 0, good)
    assert machine.records(*NAME) == before
    assert not of(Alarm, outputs)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_status_of_each_stkm_in_an_answer() -> None:
    """R27: what fails is an alarm, once; the rest is taken."""
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    items = (
        sealed(machine, CARD, 8), item(period(2), b"\0"), item(period(3), sealed(machine, CARD, 40).content),
        item(period(4), status=24), item(period(5), status=27),
    )  # fmt: skip
    outputs = answered(machine, asked, START, 0, *items)
    texts = alarms(outputs, "stkm-refused")
    assert [text.partition(":")[0] for text in texts] == [f"period {START + n}" for n in (16, 24, 32, 40)]
    assert {n for n, r in records(machine).items() if r.state is PeriodState.HANDED} == {8}
    (again,) = sent(machine.tick(START + 3), Tag.TEKDelivery)
    assert [i.period_start - START for i in again.items if isinstance(i, PartialItem)] == [0, 16, 24, 32, 40]
    outputs = answered(machine, again, START + 3, 0, item(period(5), status=27))
    assert not alarms(outputs, "stkm-refused"), "said already"


def test_a_profile_that_the_bsm_cannot_make() -> None:
    """R15, status 20: the other profile goes on the air alone; in a stream of one profile it is a refusal."""
    machine = bsda(BOTH)
    outputs = machine.tick(START)
    (drm,), (card,) = sent(outputs, Tag.TEKDelivery, "drm"), sent(outputs, Tag.TEKDelivery, "smartcard")
    outputs = answered(machine, drm, START, 0, item(period(1), status=20))
    assert len(alarms(outputs, "profile-waived")) == 1
    assert (records(machine)[8].state, records(machine)[8].waived) == (PeriodState.KEYED, ("drm",))
    answered(machine, card, START, 0, sealed(machine, BOTH, 8), item(period(2), status=20))
    made = records(machine)
    assert (made[8].state, [s.profile for s in made[8].stkms]) == (PeriodState.HANDED, ["smartcard"])
    assert made[16].waived == ("smartcard",)
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    outputs = answered(machine, asked, START, 0, item(period(1), status=20))
    assert alarms(outputs, "stkm-refused") and not alarms(outputs, "profile-waived")
    assert records(machine)[8].waived == ()


def test_a_stkm_that_comes_when_its_period_is_over() -> None:
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    good = [sealed(machine, CARD, n) for n in (0, 16)]
    machine.tick(START + 9)
    answered(machine, asked, START + 9, 0, *good)
    assert records(machine)[0].state is PeriodState.MISSED
    assert records(machine)[0].stkms == ()
    assert records(machine)[16].stkms


@pytest.mark.parametrize("one_is_sealed", [False, True])
def test_a_boundary_that_only_the_bsm_knows(one_is_sealed: bool) -> None:
    """R32, status 21 with the edge: the periods are made anew around it, unless one of them has its STKM already."""
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    straddling = item(period(2), status=21, authority_end=START + 20)
    before = records(machine)
    good = (sealed(machine, CARD, 24),) if one_is_sealed else ()
    outputs = answered(machine, asked, START, 0, *good, straddling)
    made = records(machine)
    if one_is_sealed:
        assert made[16] == before[16]
        assert not sent(outputs, Tag.TEKDelivery)
    else:
        assert [(n, r.period.duration) for n, r in made.items()] == [(0, 8), (8, 8), (16, 4), (20, 8), (28, 8), (36, 8)]
        assert (made[8], made[16].state) == (before[8], PeriodState.KEYED)
        assert made[16].key == before[16].key, "a partial STKM with it may be on its way"
        periods = [i.period_start - START for m in sent(outputs, Tag.TEKDelivery) for i in m.items if isinstance(i, PartialItem)]
        assert {16, 20} <= set(periods), "asked at once"


def test_a_request_that_is_refused_as_a_whole() -> None:
    """An alarm, and not at once again."""
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    outputs = answered(machine, asked, START, Status.NOT_PERMITTED)
    assert alarms(outputs, "refused") == ["TEKDelivery refused: the sender has no right to this service (status 11)"]
    assert not of(FlowDone, outputs)
    assert not sent(machine.tick(START + 1), Tag.TEKDelivery)
    (again,) = sent(machine.tick(START + 3), Tag.TEKDelivery)
    assert again.message_id != asked.message_id


# --- F1, F2: the carousel -----------------------------------------------------------------------------------------------


def test_the_carousel_of_a_lost_store_is_fetched() -> None:
    """R33: LTKMs and registration material, until there is an answer; that there is none is an answer too (17)."""
    machine = bsda(CARD, start=RESTORED)
    outputs = machine.tick(START)
    (ltkms,), (registration,) = sent(outputs, Tag.LTKMRequest), sent(outputs, Tag.RegRequest)
    assert registration.service == ALL_SERVICES
    outputs = answered(machine, ltkms, START, Status.NON_EXISTENT)
    assert not of(Alarm, outputs)
    outputs = answered(machine, registration, START, Status.NOT_PERMITTED)
    assert alarms(outputs, "refused") == ["RegRequest refused: the sender has no right to this service (status 11)"]
    later = machine.tick(START + 11)
    assert not sent(later, Tag.LTKMRequest)
    (again,) = sent(later, Tag.RegRequest)
    outputs = answered(machine, again, START + 11, 0, b"registration")
    assert [put.data for put in of(CarouselPut, outputs)] == [(b"registration",)]
    assert not sent(machine.tick(START + 22), Tag.RegRequest)


def test_r33_a_fresh_key_is_asked_for_once_however_slow_the_answer() -> None:
    """Another messageID would say that the store was lost once more, and the key on its way would be no good."""
    machine = bsda(HERE, start=RESTORED)
    (asked,) = sent(machine.tick(START + 7), Tag.KeyRequest)
    later = sent(machine.tick(START + 9), Tag.KeyRequest)
    assert later == [asked], "its period is over, the request is not"
    answered(machine, asked, START + 9.5, Status.DELAYED)
    (again,) = sent(machine.tick(START + 9.5 + RETRY), Tag.KeyRequest)
    assert again == asked, "what overtook that answer may have brought the key"
    answered(machine, again, START + 20, 0, sek_material(2, START + 24))
    assert not machine._streams[NAME].fresh


def test_objects_that_are_not_needed_any_more_are_not_asked_for() -> None:
    machine = bsda(CARD)
    machine.tick(START)
    (asked,) = sent(machine.request_objects(SERVICE, False, START, START + 5, START), Tag.LTKMRequest)
    assert sent(machine.tick(START + 3), Tag.LTKMRequest) == [asked], "repeated"
    for now in (START + 6, START + 9):
        assert not sent(machine.tick(now), Tag.LTKMRequest)
    assert machine.receive(asked.answer(0, (b"ltkm",), now=START + 9), START + 9, BSM_URI) == []


def test_partials_hold_what_the_bsda_made() -> None:
    """The content of a partial STKM is of its period (R31)."""
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    for part in asked.items:
        assert isinstance(part, PartialItem)
        record = records(machine)[part.period_start - START]
        made = codec.decode(part.content.reveal(), "smartcard-stkm", partial=True)
        assert made == stkm.partial(CARD, "smartcard", record.period, record.key)


def test_a_restart_goes_on_where_it_was() -> None:
    """R48: its edge is empty, so what was on air goes on air again, and the encoder keeps the key that it has until that has been
    repeated three times; what the BSM may have missed is sent again (F6).
    """
    config = replace(HERE, interaction=True)
    machine = bsda(config)
    tell(machine, Tag.KeyDelivery, START - 50, sek_material())
    run(machine, START + 21, START - 50)
    again = bsda(config, seed=2, state=machine._journal.tables)
    outputs = again.tick(START + 21)
    assert [a.start - START for a in of(Announce, outputs)] == [16, 24]
    assert not of(UseKey, outputs)
    for start in (START + 16, START + 24):
        again.announced(*NAME, start, START + 21.1)
    assert not of(UseKey, again.tick(START + 21.3))
    later = again.tick(START + 21.5)
    assert [u.start - START for u in of(UseKey, later)] == [16]
    assert [(n.use.start - START, n.end - START) for n in of(NextKey, later)] == [(24, 32)]
    items = [i for m in sent(outputs, Tag.STKMDelivery) for i in m.items]
    assert {i.period_start - START for i in items if isinstance(i, StkmItem)} == {16, 24, 32, 40, 48, 56}
    assert machine.records(*NAME)[-1].key == again.records(*NAME)[-1].key


def test_r05_a_clock_that_was_put_back_and_a_key_for_the_time_that_comes_twice() -> None:
    """What was prepared for a time to come is given up; the key in use is held until the new one, which may have lower COUNTERs."""
    machine, later = bsda(HERE), START + 3600
    tell(machine, Tag.KeyDelivery, later - 50, sek_material(start=later))
    run(machine, later + 21, later - 50)
    again = bsda(HERE, seed=2, state=machine._journal.tables, edge=machine.edge)
    outputs = again.tick(START + 101)
    assert [o.start - later for o in of(OffAir, outputs)] == [16, 24] and not of(Announce, outputs)
    assert [u.start - later for u in of(UseKey, outputs)] == [16], "named again: the one named ahead is not taken"
    assert alarms(outputs, "clock-back") and alarms(outputs, "held-key")
    assert not again.records(*NAME)
    assert [p.state for p in again.edge.view(*NAME).periods] == [EdgeState.HELD]
    assert again._allocator.floor(sek_material().key_id) == later + 56, "what was handed out counts as sent (R45)"
    answer, _ = tell(again, Tag.KeyDelivery, START + 102, sek_material(2, START + 112))
    assert answer.status == 0
    outputs = run(again, START + 121, START + 103)
    assert [u.start - START for u in of(UseKey, outputs)] == [112, 120]
    assert [a.active for a in of(Alarm, outputs) if a.code == "held-key"] == [False]
    assert not alarms(bsda(HERE, state=again._journal.tables).tick(START + 109), "clock-back"), "a small step is waited for"


def test_a_late_report_of_the_sender_changes_nothing() -> None:
    machine = bsda(HERE)
    tell(machine, Tag.KeyDelivery, START - 50, sek_material())
    run(machine, START + 9, START - 50)
    before = machine.states(*NAME, START)
    assert before[START + 8] is EdgeState.IN_USE
    assert machine.announced(*NAME, START + 8, START + 9) == []
    assert machine.states(*NAME, START) == before


def test_a_stkm_of_a_tek_that_was_made_before_is_refused() -> None:
    """A BSD/A that lost its store makes new TEKs: a STKM still on its way holds an old one, and nobody could play."""
    machine = bsda(CARD)
    (asked,) = sent(machine.tick(START), Tag.TEKDelivery)
    first = asked.items[0]
    assert isinstance(first, PartialItem)
    good = replace(sealed(machine, CARD, 0), tek_id=first.tek_id)
    stale = replace(good, tek_id=first.tek_id.rpartition("-")[0] + "-stale")
    answer, _ = tell(machine, Tag.STKMDelivery, START, stale)
    assert answer.status == Status.WRONG_KEY_INFORMATION and records(machine)[0].state is PeriodState.KEYED
    answer, _ = tell(machine, Tag.STKMDelivery, START, good)
    assert answer.status == 0 and records(machine)[0].stkms


def test_no_input_works_on_more_than_so_many_streams() -> None:
    """Thousands of streams change in the same second: requests have their turn between them, and none is forgotten."""
    streams = range(2 * TURN + 5)
    machine = bsda(
        *(stream_config(service=f"urn:s:{n}", generation="bsm", profiles=("smartcard",), key_group=1 + n) for n in streams)
    )
    machine.tick(START)
    now = START + 8
    worked = []
    while (wake := machine.next_wakeup()) is not None and wake <= now:
        asked = [o.message for o in machine.tick(now) if isinstance(o, Send) and o.message.tag is Tag.TEKDelivery]
        worked.append(sum(message.time == now for message in asked))  # the others are said again
    assert worked[:3] == [TURN, TURN, 5] and not any(worked[3:])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_periods_are_prepared_in_batches(batch: int) -> None:
    """Never fewer ahead than ``look_ahead``, never more than ``ahead``; each delivery but the first carries a whole batch."""
    config = stream_config(generation="bsm", profiles=("smartcard",), look_ahead=4, batch=batch)
    machine = bsda(config)
    sizes = []
    for n in range(40):
        now = START + n * config.period
        outputs = machine.tick(now)
        asked = [o.message for o in outputs if isinstance(o, Send) and o.message.tag is Tag.TEKDelivery]
        sizes += [len(message.items) for message in asked if message.time == int(now)]  # others are said again
        ahead = sum(r.period.start > now for r in machine.records(*config.id))
        assert config.look_ahead <= ahead <= config.ahead == config.look_ahead + batch - 1
    assert len(sizes) > 5 and set(sizes[1:]) == {batch}


def test_r05_a_clock_that_was_put_back_before_anything_was_on_air() -> None:
    """Nothing is held then; a key that holds already stays (F4), one of a time to come goes."""
    config = replace(HERE, start=START + 3600, look_ahead=12)
    machine = bsda(config)
    tell(machine, Tag.KeyDelivery, START + 3500, sek_material(start=START + 3600))
    assert len(machine.records(*NAME)) == 13
    again = bsda(replace(config, start=START), seed=2, state=machine._journal.tables)
    outputs = again.tick(START + 200)
    assert alarms(outputs, "clock-back") and not of(OffAir, outputs)
    assert not again.records(*NAME) and not again._journal.tables.get("key")
    assert "on-air" not in {o.table for o in outputs if isinstance(o, Persist) and o.value is not None}

    held = bsda(HERE)
    tell(held, Tag.KeyDelivery, START - 50, sek_material())
    far = {**held._journal.tables, "period": {}}
    block = PeriodBlock(tuple(replace(r, period=Period(0, r.period.start + 600, r.period.end + 600)) for r in held.records(*NAME)))
    far["period"] = {(*NAME, START + 600): block}
    once_more = bsda(HERE, seed=3, state=far)
    assert alarms(once_more.tick(START + 9), "clock-back")
    assert list(once_more._journal.tables["key"]) == list(far["key"]), "it holds now"


def test_a_key_that_ends_inside_a_period_does_not_cover_it() -> None:
    machine = bsda(HERE)
    stream = machine._streams[NAME]
    stream.keys._put(replace(sek_material(), valid_to=START + 12))
    assert stream.cover().covers(Period(0, START, START + 8))
    assert not stream.cover().covers(Period(1, START + 8, START + 16))


def test_a_pull_that_is_promised_and_does_not_come_is_repeated_by_what_needs_it() -> None:
    """F5, pulled: status 19, and nothing comes.  The request itself is not said again for ever; its periods are asked for anew."""
    machine = bsda(CARD)
    machine.tick(START)
    (asked,) = sent(machine.request_stkms(*NAME, "smartcard", START), Tag.STKMRequest)
    answered(machine, asked, START + 1, 19)
    outputs = [o for n in range(2, 6) for o in machine.tick(START + n)]
    assert asked.message_id not in {m.message_id for m in sent(outputs, Tag.STKMRequest)}
