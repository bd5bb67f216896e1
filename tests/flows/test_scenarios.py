# SPDX-License-Identifier: Apache-2.0
"""The scenarios of the rules that broke earlier drafts, one test each, and every flow in push and pull form in both profiles."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count, pairwise
from typing import Literal

import pytest
from flow_support import NOON, WRAP, System, pair, statuses, stream
from room_support import RESTORED

from pybcast import codec
from pybcast.errors import ConfigError, KeyUnavailable, LocalFlowError
from pybcast.flows import (
    ALL_SERVICES,
    BSM,
    Announce,
    BackendMessage,
    CarouselPut,
    Headend,
    KeyMaterial,
    Output,
    PartialItem,
    Persist,
    Profile,
    Programme,
    Send,
    StkmItem,
    StreamConfig,
    TekReady,
    UseKey,
    random_teks,
)
from pybcast.flows.stream.stkm import LAST_MJD_TIME, Policy
from pybcast.flows.tables import EdgeState, KeyState, PeriodState, Status, Tag
from pybcast.keys import IEK, Keys
from pybcast.messages import AddressMode, ClearAsset, ClearBcro, Permission, Protocol, SmartcardLtkm, SmartcardStkm
from pybcast.secret import Secret
from pybcast.testing.link import Store
from pybcast.testing.parties import FQDN, make_device, make_group, rights_issuer
from pybcast.testing.sim import BACKUP, BSM_ID, MAIN
from pybcast.wire.content_id import BCI

Generation = Literal["bsm", "bsda"]
GENERATIONS = pytest.mark.parametrize("generation", ["bsm", "bsda"])


def good(system: System) -> None:
    """Nothing that the watchers look at was broken."""
    assert system.violations == []


def sent(outputs: list[Output], tag: Tag) -> list[BackendMessage]:
    return [o.message for o in outputs if isinstance(o, Send) and o.message.tag is tag]


def partials(system: System, config: StreamConfig, profile: Profile = "smartcard", name: str = MAIN) -> list[PartialItem]:
    """The partial STKMs that a BSD/A has ready and has not had completed."""
    machine = system.headends[name].machine
    assert machine is not None
    ask = request(Tag.PartialSTKMRequest, config, profile, source=BSM_ID, destination=name)
    (answer,) = sent(machine.receive(ask, system.now, BSM_ID), Tag.PartialSTKMRequestResponse)
    return [item for item in answer.items if isinstance(item, PartialItem)]


def request(tag: Tag, config: StreamConfig, profile: object = "smartcard", **fields: object) -> BackendMessage:
    """A back-end request about a stream."""
    values: dict[str, object] = {
        "tag": tag, "message_id": random.Random(repr(fields)).randbytes(16).hex(), "source": MAIN, "destination": BSM_ID,
        "service": config.service, "profile": profile, "stream": config.stream,
    }  # fmt: skip
    return BackendMessage(**(values | fields))  # type: ignore[arg-type]  # fields of the message


def to_bsm(system: System, message: BackendMessage, peer: str | None = None) -> BackendMessage:
    """Give the BSM a request; its answer."""
    assert system.bsm is not None
    outputs = system.bsm.receive(message, system.now, peer or message.source)
    for output in outputs:
        if isinstance(output, Persist):
            system.bsm_store.write(output)
    (answer,) = [o.message for o in outputs if isinstance(o, Send) and o.message.message_id == message.message_id]
    return answer


def to_bsda(system: System, message: BackendMessage, name: str = MAIN) -> BackendMessage:
    """Give a BSD/A a request; its answer."""
    machine = system.headends[name].machine
    assert machine is not None
    outputs = machine.receive(message, system.now, message.source)
    (answer,) = [o.message for o in outputs if isinstance(o, Send) and o.message.message_id == message.message_id]
    return answer


def smartcard(system: System, config: StreamConfig, start: int) -> SmartcardStkm:
    """The Smartcard Profile's STKM of a period, as the main headend announced it."""
    message = codec.decode(system.stkm(config, start, "smartcard"), "smartcard-stkm")
    assert isinstance(message, SmartcardStkm)
    return message


def alarms(system: System, code: str) -> list[float]:
    return [at for at, alarm in system.alarms if alarm.code == code and alarm.active]


# --- periods and boundaries (R5, R8, R9) --------------------------------------------------------------------------------


@GENERATIONS
def test_period_8_to_5_with_6_prepared(generation: Generation) -> None:
    config = stream(generation=generation, look_ahead=6)
    system = System(config)
    card, device = system.entitled(config)
    system.sample(config, [card, device])
    system.run(100)
    machine = system.headends[MAIN].machine
    assert machine is not None
    prepared = max(r.period.end for r in machine.records(*config.id))
    assert sum(r.period.start > system.now for r in machine.records(*config.id)) == 6
    held, outputs = machine.set_period(*config.id, 5, system.now)
    system._do(outputs, MAIN)
    for output in outputs:
        if isinstance(output, Persist):
            system.headends[MAIN].store.write(output)
    assert held == prepared, "what is prepared stays as it is"
    system.run(150)
    starts = system.starts(config)
    steps = {b - a for a, b in pairwise(starts) if b <= prepared}
    assert steps == {8}
    assert {b - a for a, b in pairwise(starts) if a >= prepared} == {5}
    assert prepared in starts
    lifetimes = [smartcard(system, config, s).management for s in system.stkms(config) if s >= prepared]
    assert {m.traffic_key_lifetime for m in lifetimes if m} == {5}, "2^5 s: at least four periods"
    assert not alarms(system, "held-key")
    good(system)


def test_a_period_off_the_grid_of_tek_ids_is_refused() -> None:
    config = stream(granularity=8)
    system = System(config)
    system.run(20)
    machine = system.headends[MAIN].machine
    assert machine is not None
    with pytest.raises(ConfigError, match="granularity"):
        machine.set_period(*config.id, 5, system.now)


@GENERATIONS
def test_event_boundary_announced_inside_the_prepared_horizon(generation: Generation) -> None:
    config = stream(generation=generation)
    system = System(config)
    card, device = system.entitled(config)
    system.sample(config, [card, device])
    system.run(100)
    machine = system.headends[MAIN].machine
    assert machine is not None
    prepared = max(r.period.end for r in machine.records(*config.id))
    before = {r.period.start: r.stkms for r in machine.records(*config.id) if r.stkms}
    inside, _ = machine.add_boundary(*config.id, int(system.now) + 11, system.now)
    assert inside == prepared, "it holds after the last prepared period"
    beyond, outputs = machine.add_boundary(*config.id, prepared + 11, system.now)
    assert beyond == prepared + 11
    assert {r.period.start: r.stkms for r in machine.records(*config.id) if r.period.start in before} == before
    system._do(outputs, MAIN)
    system.run(120)
    starts = system.starts(config)
    assert {prepared, prepared + 8, prepared + 11, prepared + 19} <= set(starts)
    good(system)


def test_boundaries_lie_on_the_grid_of_tek_ids() -> None:
    """R8: an event boundary between two TEK IDs holds from the next one on, and the operator is told."""
    config = stream(granularity=4)
    system = System(config)
    system.run(50)
    machine = system.headends[MAIN].machine
    assert machine is not None
    at = config.start + 401
    held, _ = machine.add_boundary(*config.id, at, system.now)
    assert held == config.start + 404
    assert system.bsm is not None
    programme, _ = system.bsm.add_programme(Programme(*config.id, "urn:event", at, at + 60), system.now)
    assert (programme.start, programme.end) == (config.start + 404, config.start + 464)


@GENERATIONS
@pytest.mark.parametrize("end", ["event boundary", "SEK's end", "subscription's end"])
def test_the_bsda_dead_across(generation: Generation, end: str) -> None:
    """R9: no server is left to stop the encoder, and it stops where the authority of its key ends; nobody is served beyond."""
    config = stream(generation=generation, look_ahead=3)
    system = System(config)
    card, device = system.entitled(config)
    system.sample(config, [card, device])
    leaver = system.add_card("leaver")
    system.tune(leaver, config)
    system.run(20)
    at = {"event boundary": int(NOON) + 115, "SEK's end": int(NOON) + 640, "subscription's end": int(NOON) + 115}[end]
    system.grant(leaver, config, NOON, at)
    if end != "SEK's end":
        system.add_boundary(config, at)
    system.clock.run(at - 3)
    assert system.traffic(config) is not None
    assert system.plays(leaver, config)
    system.stop_bsda(MAIN)
    system.clock.run(at + 0.5)
    assert system.traffic(config) is None, "stopped, not held"
    system.run(20)
    assert system.traffic(config) is None
    system.start_bsda(MAIN)
    system.run(60)
    assert system.traffic(config) is not None
    assert system.plays(card, config)
    assert system.plays(device, config)
    assert not system.plays(leaver, config)
    good(system)


def test_hold_through_holds_past_the_end_of_authority() -> None:
    config = stream(generation="bsda", hold_through=True)
    system = System(config)
    system.entitled(config)
    system.run(50)
    system.stop_bsm()
    system.clock.run(config.start + 640 + 1280)
    assert system.traffic(config) is not None
    assert alarms(system, "held-key")
    assert not alarms(system, "stopped")
    good(system)


# --- counters and keys (R1, R2, R5) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_partials_arriving_out_of_order_after_a_bsm_outage(profile: Profile) -> None:
    config = stream(profiles=(profile,))
    system = System(config)
    system.run(1)
    system.unreachable = {BSM_ID}
    system.run(60)  # everything that the BSM completed has been used: the BSD/A waits with partial STKMs
    items = partials(system, config, profile)
    assert len(items) >= 5
    random.Random(3).shuffle(items)
    assert [i.period_start for i in items] != sorted(i.period_start for i in items)
    for n, item in enumerate(items):
        answer = to_bsm(system, request(Tag.TEKDelivery, config, profile, items=(item,), message_id=f"{n:032x}"))
        assert (answer.status, statuses(answer)) == (0, [0])
    again = to_bsm(system, request(Tag.TEKDelivery, config, profile, items=tuple(items), message_id="f" * 32))
    assert statuses(again) == [0] * len(items)
    good(system)


@GENERATIONS
def test_the_main_missing_three_periods_that_the_back_up_sealed(generation: Generation) -> None:
    config = pair(generation=generation)
    system = System(config)
    card, device = system.entitled(config)
    system.sample(config, [card, device])
    system.run(100)
    system.stop_bsda(MAIN)
    missed = {start for start in range(config.start, int(system.now) + 100, 8) if system.now < start < system.now + 24}
    system.run(30)
    assert missed <= set(system.starts(config, BACKUP))
    system.start_bsda(MAIN)
    system.run(60)
    main, backup = system.stkms(config, MAIN), system.stkms(config, BACKUP)
    assert not missed & set(system.starts(config, MAIN))
    common = set(main) & set(backup)
    assert max(common) > system.now - 16
    assert all(main[start].stkms == backup[start].stkms for start in common), "byte-identical"
    assert system.plays(card, config)
    assert system.plays(device, config)
    good(system)


@GENERATIONS
@pytest.mark.parametrize("store", ["old", "none"])
def test_a_bsda_restored_from_an_old_database_or_none(generation: Generation, store: str) -> None:
    config = stream(generation=generation)
    system = System(config)
    card, device = system.entitled(config)
    system.sample(config, [card, device])
    system.run(60)
    copy = system.headends[MAIN].store.copy() if store == "old" else {}
    system.run(100)
    before = system.traffic(config)
    prepared = set(system.stkms(config))
    known = {m.key_id for k in system.messages(Tag.KeyDelivery) for m in k.items if isinstance(m, KeyMaterial)}
    system.stop_bsda(MAIN)
    system.start_bsda(MAIN, copy, fresh=True)
    system.run(4)
    assert system.traffic(config) == before, "the encoder holds what it has; nothing of the old store is used"
    system.run(80)
    use = system.traffic(config)
    assert use is not None
    assert use.start not in prepared
    assert system.plays(card, config)
    assert system.plays(device, config)
    if generation == "bsda":  # R33: never under that SEK again
        message = smartcard(system, config, use.start)
        assert message.key_domain_id + message.sek_id not in known
    else:  # R1: what was sealed with another TEK is refused for good; the same TEK, derived again, gets the same STKM
        assert any(27 in statuses(m) for m in system.messages(Tag.TEKDeliveryConfirmation)) is (store == "none")
    good(system)


def test_a_bsda_that_lost_its_store_twice_gets_another_key_each_time() -> None:
    config = stream(generation="bsda")
    system = System(config, seed=5)
    system.entitled(config)
    seen = []
    for _ in range(3):
        system.run(120)
        use = system.traffic(config)
        assert use is not None
        seen.append(use.mki[:4])
        system.stop_bsda(MAIN)
        system.start_bsda(MAIN, {}, fresh=True)
    assert len(set(seen)) == 3
    good(system)


def test_a_crash_while_a_lost_store_is_replaced_forgets_nothing() -> None:
    """R33: that its store was lost is itself stored before anything else happens."""
    config = stream(generation="bsda")
    rng = random.Random(1)
    machine = Headend(me=MAIN, streams=[config], teks=random_teks(rng.randbytes), randomness=rng.randbytes, start=RESTORED)
    store = Store()
    for output in machine.tick(NOON):
        if isinstance(output, Persist):
            store.write(output)
    again = Headend(me=MAIN, streams=[config], teks=random_teks(rng.randbytes), randomness=rng.randbytes, state=store.copy())
    asked = sent(again.tick(NOON + 1), Tag.KeyRequest)
    assert [m.fresh for m in asked] == [True, True]


@GENERATIONS
def test_a_crash_between_making_a_tek_and_storing_it(generation: Generation) -> None:
    """Wherever it dies, what it sent before is what it sends after: a TEK that was not stored has not left (R41)."""
    config = stream(profiles=("smartcard",), generation=generation)
    system = System(config)
    system.run(2)
    deliveries = [m for m in system.messages(Tag.KeyDelivery) if m.destination == MAIN]
    lives = count()

    def machine(state: dict[str, dict[tuple[object, ...], object]] | None = None) -> Headend:
        rng = random.Random(next(lives))  # so a TEK that was not stored comes out different
        return Headend(me=MAIN, streams=[config], teks=random_teks(rng.randbytes), randomness=rng.randbytes, state=state)

    def life(bsda: Headend) -> list[Output]:
        outputs = bsda.tick(NOON)
        for delivery in deliveries:
            outputs += bsda.receive(delivery, NOON, BSM_ID)
        return outputs

    def left(outputs: list[Output]) -> dict[int, bytes]:
        """What of each period has left: the partial STKM with its TEK, or the sealed STKM."""
        items = [i for m in sent(outputs, Tag.TEKDelivery) for i in m.items if isinstance(i, PartialItem)]
        found = {i.period_start: i.content.reveal() for i in items}
        return found | {o.start: o.stkms[0].data for o in outputs if isinstance(o, Announce)}

    whole = life(machine())
    assert left(whole)
    for stop in range(len(whole) + 1):
        store = Store()
        for output in whole[:stop]:
            if isinstance(output, Persist):
                store.write(output)
        before, after = left(whole[:stop]), left(life(machine(store.copy())))
        assert {start: after[start] for start in before} == before, f"crash after output {stop}"


@GENERATIONS
def test_a_crash_of_the_bsm_while_it_makes_keys(generation: Generation) -> None:
    """Wherever it dies, the next life has one key of each profile for each time, and every subscriber has them."""
    config = stream(generation=generation)
    system = System(config)
    system.entitled(config)
    system.run(60)
    before = system.bsm_store.copy()
    assert system.bsm is not None
    outputs = [*system.bsm.rekey(*config.id, system.now), *system.bsm.tick(system.now)]
    assert len([o for o in outputs if isinstance(o, Persist) and o.table == "page"]) >= 2
    kept = sum(isinstance(o, Persist) for o in outputs)  # what is kept is one transaction
    for stop in (0, *range(kept, len(outputs) + 1)):
        store = Store({table: dict(rows) for table, rows in before.items()})
        for output in outputs[:stop]:
            if isinstance(output, Persist):
                store.write(output)
        issuer, _ = rights_issuer()
        bsm = BSM(
            me=BSM_ID, fqdn=FQDN, streams=[config], randomness=random.Random(stop).randbytes, rights_issuer_id=issuer.id,
            state=store.copy(),
        )  # fmt: skip
        after = bsm.tick(system.now + 1)
        rows = bsm.keys(*config.id)
        starts = sorted({row.material.valid_from for row in rows})
        for start in starts:
            assert sorted(r.material.key_type for r in rows if r.material.valid_from == start) == ["SEAK", "SEK"]
        edges = sorted((row.material.valid_from, row.material.valid_to) for row in rows if row.material.key_type == "SEK")
        assert all(end <= start for (_, end), (start, _) in pairwise(edges)), f"crash after output {stop}: {edges}"
        assert KeyState.CREATED not in {row.state for row in rows}
        if len(starts) > 1:
            sent_keys = {d[:1] for m in (*sent(outputs[:stop], Tag.LTKMDelivery), *sent(after, Tag.LTKMDelivery)) for d in m.items}  # type: ignore[index]
            assert sent_keys == {b"\x01", b"\x20"}, "a LTKM of each profile"


def test_the_policy_changing_between_mains_and_back_ups_ask() -> None:
    config = pair(profiles=("smartcard",))
    system = System(config)
    system.run(1)
    system.unreachable = {BSM_ID}
    system.run(60)
    mine, theirs = partials(system, config, name=MAIN), partials(system, config, name=BACKUP)
    assert [(i.period_start, i.content) for i in mine] == [(i.period_start, i.content) for i in theirs], "one TEK for both (R33)"
    first = to_bsm(system, request(Tag.TEKDelivery, config, items=tuple(mine[:-1])))
    assert system.bsm is not None
    system.bsm.set_policy(*config.id, Policy(protection_after_reception=1), system.now)
    second = to_bsm(system, request(Tag.TEKDelivery, config, items=tuple(theirs), source=BACKUP))
    assert second.items[:-1] == first.items, "the same bytes, whatever the policy is now"
    flags = []
    for item in second.items:
        assert isinstance(item, StkmItem)
        message = codec.decode(item.content, "smartcard-stkm")
        assert isinstance(message, SmartcardStkm)
        assert message.management is not None
        flags.append(message.management.protection_after_reception)
    assert flags == [3] * (len(mine) - 1) + [1], "the new policy from the first period that was not sealed"
    good(system)


def test_the_bsm_restored_from_an_older_copy() -> None:
    config, other = stream("news"), stream("film", generation="bsda")
    system = System(config, other)
    card, device = system.entitled(config, other)
    late = system.add_card("late")
    for each in (config, other):
        system.sample(each, [card, device, late])
        system.tune(late, each)
    system.run(400)
    copy = system.bsm_store.copy()
    system.run(300)  # a rollover, and a subscriber, that the copy does not know
    system.grant(late, config, system.now, system.now + 10**6)
    system.run(100)
    highest = {m.key_id for k in (config, other) for m in _materials(system, k)}
    system.restore_bsm(copy)
    system.run(200)
    new = {m.key_id for k in (config, other) for m in _materials(system, k)} - highest
    assert {int.from_bytes(key_id[-2:], "big") > 256 for key_id in new} == {True}, "past the ids that the copy cannot know of"
    counters = [_ltkm(d).counter for _, put in _puts(system) for d in put.data if d[:1] == b"\x01"]
    assert max(counters) > 1 << 16, "past the COUNTERs that the copy cannot know of"
    for viewer in (card, device):
        assert system.plays(viewer, config)
        assert system.plays(viewer, other)
    assert system.plays(late, config)
    assert not system.plays(late, other)
    good(system)


def _materials(system: System, config: StreamConfig) -> list[KeyMaterial]:
    assert system.bsm is not None
    return [row.material for row in system.bsm.keys(*config.id)]


def _puts(system: System) -> list[tuple[str, CarouselPut]]:
    return list(system.active.carousel.items())


def _ltkm(data: bytes) -> SmartcardLtkm:
    message = codec.decode(data, "smartcard-ltkm")
    assert isinstance(message, SmartcardLtkm)
    return message


def test_an_import_repeated_does_not_restart_a_counter() -> None:
    """R2: only a new SMK begins at 1."""
    config = stream(profiles=("smartcard",))
    system = System(config)
    card = system.add_card("card")
    system.grant(card, config, NOON, NOON + 10**6)
    system.run(30)
    subscriber, registration = system._subscriptions["card"]
    system.command(lambda bsm: bsm.add_subscriber(subscriber, system.now, registration))
    system.grant(card, config, NOON, NOON + 10**5)
    system.run(200)
    good(system)


# --- reception (R3, R6, R7, R14, R21, R42) --------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_tune_in_during_the_lead_with_one_packet_lost(profile: Profile) -> None:
    config = stream()
    system = System(config)
    card, device = system.entitled(config)
    viewer = card if profile == "smartcard" else device
    system.tune_out(viewer, config)
    system.clock.run(NOON + 100)  # a period begins at NOON + 96, the lead of the next at NOON + 100
    system.run(0.1)
    now, later = (system.stkm(config, int(NOON) + start, profile) for start in (96, 104))
    system.stop_bsda(MAIN)  # from here on this test is the sender
    heard: list[TekReady] = []

    def hear(data: bytes | None) -> None:
        outputs = viewer.terminal.tick(system.now)
        if data is not None:
            outputs += viewer.terminal.receive_stkm(*config.id, data, system.now)
        heard.extend(o for o in outputs if isinstance(o, TekReady))

    system.tune(viewer, config)
    hear(later)  # the one of the running period is lost
    system.run(0.5)
    hear(now)
    system.run(0.6)
    hear(None)
    ids = [u.mki for _, _, u in system.used]
    assert heard[0].mki == ids[-1], "the running period first, though it was heard last"
    system.clock.run(NOON + 103.9)
    hear(later)
    system.clock.run(NOON + 105)
    hear(None)
    assert len(heard) == 2


def test_ltkm_5_lost_and_6_fed() -> None:
    """R7: the card refuses LTKM 5 after 6; the next issue heals it."""
    config, other = stream("news", profiles=("smartcard",)), stream("film", profiles=("smartcard",))
    system = System(config, other)
    card = system.add_card("card")
    system.run(30)
    card.link.up = False
    system.grant(card, config, NOON, NOON + 10**6)
    system.run(11)  # one cycle passes him by
    system.grant(card, other, NOON, NOON + 10**6)
    system.run(0.1)
    *_, five, six = (data for put in system.active.carousel.values() for data in put.data)
    assert _ltkm(six).counter > _ltkm(five).counter
    system.call_viewer(card, lambda t: t.receive_object(six, system.now))
    system.run(10.5)  # it is fed alone
    card.link.up = True
    for each in (config, other):
        system.tune(card, each)
    system.run(24)  # number five is heard and fed, but too late
    assert system.plays(card, other)
    assert not system.plays(card, config)
    assert card.refused["Replay"]
    system.run(70)
    assert system.plays(card, config)
    good(system)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_ppv_events_under_one_sek_id(order: tuple[int, int]) -> None:
    """R3: windows of one SEK, sold in either order; what lies between them stays closed."""
    config = stream(profiles=("smartcard",))
    system = System(config)
    card = system.add_card("card")
    system.tune(card, config)
    system.sample(config, [card])
    system.run(20)
    events = [
        system.add_programme(Programme(*config.id, f"urn:event:{n}", int(NOON) + at, int(NOON) + at + 64))
        for n, at in enumerate((120, 240))
    ]
    for n in order:
        system.grant(card, config, events[n].start, events[n].end)
        system.run(25)
    shown = {}
    for at in range(100, 340, 4):
        system.clock.run(NOON + at + 0.5)
        system.run(2)
        shown[at] = system.plays(card, config)
    assert all(shown[at] for at in shown if 124 <= at < 180 or 244 <= at < 300)
    assert not any(shown[at] for at in shown if at < 120 or 188 <= at < 240 or at >= 308)
    assert len({u.mki[:4] for _, _, u in system.used}) == 1, "one SEK"
    good(system)


@GENERATIONS
def test_a_withdrawn_terminal_that_ignores_its_withdrawal(generation: Generation) -> None:
    config = stream(generation=generation)
    system = System(config)
    card, device = system.entitled(config)
    stubborn = system.add_card("stubborn", stubborn=True)
    system.grant(stubborn, config, NOON, NOON + 10**6)
    system.tune(stubborn, config)
    system.sample(config, [card, device, stubborn])
    system.run(60)
    old = system.traffic(config)
    assert old is not None
    assert system.plays(stubborn, config)
    system.withdraw(device, config)
    system.withdraw(stubborn, config, at_once=True)
    system.run(15)
    assert system.plays(stubborn, config), "it ignores what it was told"
    system.run(100)
    new = system.traffic(config)
    assert new is not None
    assert new.mki[:4] != old.mki[:4], "a new SEK, at once"
    assert not system.plays(stubborn, config)
    assert not system.plays(device, config)
    assert system.plays(card, config)
    system.run(700)  # over the next regular rollover
    assert not system.plays(stubborn, config)
    assert system.plays(card, config)
    good(system)


def test_a_right_given_again_stays() -> None:
    """A withdrawal is not issued again once the right is back (R3, R7)."""
    config = stream(profiles=("smartcard",))
    system = System(config)
    card = system.add_card("card")
    system.tune(card, config)
    system.grant(card, config, NOON, NOON + 10**6)
    system.run(60)
    system.withdraw(card, config)
    system.run(60)
    assert not system.plays(card, config)
    system.grant(card, config, NOON, NOON + 10**6)
    system.run(25)
    for _ in range(30):
        system.run(8)
        assert system.plays(card, config)
    good(system)


def test_zapping_away_and_back_within_a_period() -> None:
    """R42: an opened TEK is kept; neither card nor device could open its STKM again (R3, R14)."""
    config = stream()
    system = System(config)
    viewers = system.entitled(config)
    system.clock.run(NOON + 97)
    for viewer in viewers:
        assert system.plays(viewer, config)
        system.tune_out(viewer, config)
    system.run(2)
    for viewer in viewers:
        system.tune(viewer, config)
        assert system.plays(viewer, config), "at once"
    system.run(20)
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


def test_a_bcro_for_others_heard_before_mine() -> None:
    """R21: only a BCRO that addresses me moves my replay state."""
    rng = random.Random(4)
    group = make_group(rng)
    mine, other = make_device(rng, "mine", group, 5, NOON), make_device(rng, "other", group, 6, NOON)
    assert mine.device.register(mine.registration, NOON)
    issuer, _ = rights_issuer()
    asset = ClearAsset(asset_is_service=True, BCI=BCI("soc", "news", 1), key=Secret(bytes(range(32))))

    def bcro(party: object, stamp: int) -> bytes:
        subscriber = party.subscriber  # type: ignore[attr-defined]
        clear = ClearBcro(
            address_mode=AddressMode.UNIQUE_DEVICE, rights_issuer_id=issuer.id, group_address=group.address,
            position_in_group=subscriber.position, bcro_timestamp=stamp, assets=(asset,), permissions=(Permission(1),),
        )  # fmt: skip
        return codec.seal(clear, Keys(iek=IEK(subscriber.udk), riak=subscriber.riak))

    with pytest.raises(KeyUnavailable):
        mine.device.ltkm(bcro(other, int(NOON) + 100))
    mine.device.ltkm(bcro(mine, int(NOON)))  # older than the one for another: taken all the same


# --- failing servers (R5, R10, R33, R40) -----------------------------------------------------------------------------------


@GENERATIONS
def test_a_rollovers_key_delivery_reaching_the_back_up_late(generation: Generation) -> None:
    """R33: until it has the key it seals nothing, and does not go on under the old one; then both send the same again."""
    config = pair(generation=generation)
    system = System(config)
    viewers = system.entitled(config)
    system.sample(config, viewers)
    system.run(100)
    system.unreachable = {BACKUP}
    end = int(NOON) + 640
    system.clock.run(end + 20)
    assert max(system.starts(config, BACKUP)) < end
    system.unreachable = set()
    system.run(60)
    main, backup = system.stkms(config, MAIN), system.stkms(config, BACKUP)
    common = [start for start in main if start in backup and start >= end]
    assert common
    assert all(main[start].stkms == backup[start].stkms for start in common)
    system.stop_bsda(MAIN)
    system.run(30)
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


@GENERATIONS
def test_a_key_at_once_reaching_the_back_up_late(generation: Generation) -> None:
    """R50: in F3 the BSM seals under one key at a time and need not wait; in F4 the key waits for the back-up."""
    config = pair(generation=generation)
    system = System(config)
    viewers = system.entitled(config)
    system.sample(config, viewers)
    system.run(100)
    before = system.traffic(config)
    system.unreachable = {BACKUP}
    system.command(lambda bsm: bsm.rekey(*config.id, system.now))
    system.run(65)
    main = system.traffic(config)
    assert main is not None and before is not None
    assert (main.mki[:4] == before.mki[:4]) is (generation == "bsda")
    system.unreachable = set()
    system.run(60)
    uses = {name: head.key[config.id] for name, head in system.headends.items()}
    assert uses[MAIN].mki == uses[BACKUP].mki
    assert uses[MAIN].mki[:4] != before.mki[:4]
    system.stop_bsda(MAIN)
    system.run(30)
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


def test_a_key_at_once_is_refused_where_its_stkm_is_on_air() -> None:
    """R10: status 27, and nothing moves."""
    config = stream(generation="bsda", profiles=("smartcard",))
    system = System(config)
    system.entitled(config)
    system.clock.run(NOON + 101)  # the STKM of NOON + 104 is on air
    (held,) = (m for m in _materials(system, config))
    key = replace(held, key_id=held.key_id[:-1] + b"\x77", key=Secret(bytes(16)), valid_from=int(NOON) + 104)
    key = replace(key, ts_low=(key.valid_from - 1) % 2**32, first_counter=key.valid_from % 2**32)
    before = system.headends[MAIN].store.copy()
    delivery = request(Tag.KeyDelivery, config, items=(key,), source=BSM_ID, destination=MAIN, replace=True)
    assert to_bsda(system, delivery).status == Status.ALREADY_IN_USE
    assert system.headends[MAIN].store.copy()["key"] == before["key"]
    late = replace(key, valid_from=int(NOON) + 112)
    delivery = request(Tag.KeyDelivery, config, items=(late,), source=BSM_ID, destination=MAIN, replace=True, message_id="b" * 32)
    assert to_bsda(system, delivery).status == Status.SUCCESS


def test_a_stkm_arriving_at_the_switch() -> None:
    """R40: the old key is held until the new STKM was on air three times."""
    config = stream()
    system = System(config)
    viewers = system.entitled(config)
    system.sample(config, viewers)
    system.run(1)
    system.unreachable = {BSM_ID}
    machine = system.headends[MAIN].machine
    assert machine is not None
    system.run(10)
    first = min(r.period.start for r in machine.records(*config.id) if r.state is PeriodState.KEYED)
    system.clock.run(first - 0.01)
    system.unreachable = set()
    system.run(20)
    announced = next(at for at, _, a in system.announced if a.start == first)
    used = next(at for at, _, u in system.used if u.start == first)
    assert announced > first - 1
    assert used >= max(first, announced + 3 * config.repetition)
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


@pytest.mark.parametrize(("periods", "noticed"), [(1, False), (4, False), (9, True)])
def test_the_bsm_dead_for_some_periods_and_3_s(periods: int, noticed: bool) -> None:
    """What is prepared lasts look_ahead periods; beyond, the last key is held, with an alarm, and the right period follows."""
    config = stream(look_ahead=5)
    system = System(config)
    viewers = system.entitled(config)
    system.sample(config, viewers)
    system.run(100)
    system.stop_bsm()
    system.run(8 * periods + 3)
    system.start_bsm()
    system.run(40)
    assert bool(alarms(system, "held-key")) is noticed
    starts = system.starts(config)
    gaps = [b - a for a, b in pairwise(starts)]
    assert (set(gaps) == {8}) is not noticed
    assert starts[-1] == max(s for s in range(config.start, int(system.now) + 1, 8)), "the right period"
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


def test_f3_to_f4_to_f3_within_a_minute() -> None:
    """R1: a SEK has one sealing server for good, so each change waits for a key of its own."""
    config = stream()
    system = System(config)
    viewers = system.entitled(config)
    system.sample(config, viewers)
    system.run(100)
    first = system.traffic(config)
    system.set_generation(config, "bsda")
    system.run(55)
    second = system.traffic(config)
    system.set_generation(config, "bsm")
    system.run(150)
    third = system.traffic(config)
    assert first is not None and second is not None and third is not None
    assert len({use.mki[:4] for use in (first, second, third)}) == 3, "three SEKs"
    assert system.flows["F4/smartcard"] > 0
    assert system.messages(Tag.TEKDelivery)[-1].items, "the BSM seals again"
    starts = system.starts(config)
    assert {b - a for a, b in pairwise(starts)} <= {8, *range(1, 8)}, "no gap"
    assert not alarms(system, "held-key")
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


# --- times that end or wrap (R4, R15) ---------------------------------------------------------------------------------------


@GENERATIONS
def test_the_2036_wrap(generation: Generation) -> None:
    config = stream(generation=generation, start=WRAP - 200)
    system = System(config, start=WRAP - 200)
    viewers = system.entitled(config)
    system.sample(config, viewers)
    system.run(1200)
    starts = system.starts(config)
    assert {b - a for a, b in pairwise(starts)} == {8}
    assert min(starts) < WRAP < max(starts)
    assert system.watch.dark == 0
    assert all(system.plays(viewer, config) for viewer in viewers)
    good(system)


@GENERATIONS
def test_drm_ends_on_2038_04_22_and_the_smartcard_profile_goes_on(generation: Generation) -> None:
    start = float(LAST_MJD_TIME - 300)
    config = stream(generation=generation, start=start)
    system = System(config, start=start)
    card, device = system.entitled(config)
    system.sample(config, [card, device])
    system.run(250)
    assert system.plays(device, config)
    system.run(1000)
    assert system.plays(card, config)
    assert not system.plays(device, config)
    after = [a for s, a in system.stkms(config).items() if s > LAST_MJD_TIME]
    assert {s.profile for a in after for s in a.stkms} == {"smartcard"}
    assert alarms(system, "profile-waived")
    assert not alarms(system, "held-key")
    good(system)


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_one_far_future_period_start(profile: Profile) -> None:
    """R27: status 22 for that item; it moves nothing, so the others go on."""
    config = stream(profiles=(profile,))
    system = System(config)
    system.run(1)
    system.unreachable = {BSM_ID}
    system.run(60)
    first, second, *_ = partials(system, config, profile)
    far = replace(second, period_start=second.period_start + 10**6, period_end=second.period_end + 10**6)
    old = replace(second, period_start=first.period_start - 80, period_end=first.period_end - 80)
    answer = to_bsm(system, request(Tag.TEKDelivery, config, profile, items=(first, far, old, second)))
    assert answer.status == 0
    assert statuses(answer) == [0, 22, 22, 0]
    later = to_bsm(system, request(Tag.TEKDelivery, config, profile, items=(first, second), message_id="a" * 32))
    assert statuses(later) == [0, 0]
    good(system)


# --- F1 to F6, push and pull, both profiles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
@pytest.mark.parametrize("delivery", ["push", "pull"])
@pytest.mark.parametrize("flow", ["F1", "F2", "F3", "F4", "F5", "F6"])
def test_every_flow_runs_to_its_end(flow: str, delivery: Literal["push", "pull"], profile: Profile) -> None:
    generation: Generation = "bsda" if flow in ("F4", "F6") else "bsm"
    config = stream(
        profiles=(profile,), generation=generation, interaction=flow == "F6", synchronous=flow != "F5",
        delivery="push" if flow == "F5" else delivery,
    )  # fmt: skip
    system = System(config)
    if flow == "F5" and delivery == "pull":  # what was promised by status 19 does not come: it is fetched
        system.lost_tags = {Tag.STKMDelivery}
    viewer = system.add_card("viewer") if profile == "smartcard" else system.add_device("viewer", 5)
    system.grant(viewer, config, NOON - 100, NOON + 10**6)
    system.tune(viewer, config)
    if delivery == "pull" and flow == "F1":
        system.run(1)
        system.headends[MAIN].carousel.clear()
        system.flows.clear()
        system.call_bsda(MAIN, lambda b: b.request_objects(ALL_SERVICES, True, int(system.now), int(system.now) + 600, system.now))
    system.run(90)
    if delivery == "pull" and flow == "F6":
        assert any(m.items for m in system.messages(Tag.STKMRequestResponse, MAIN))
    assert system.flows[f"{flow}/{None if flow in ('F1', 'F2') else profile}"] > 0
    tags = {
        "F1": (Tag.RegDeliveryConfirmation, Tag.RegRequestResponse), "F2": (Tag.LTKMDeliveryConfirmation, Tag.LTKMRequestResponse),
        "F3": (Tag.TEKDeliveryConfirmation, Tag.PartialSTKMRequestResponse),
        "F4": (Tag.KeyDeliveryConfirmation, Tag.KeyRequestResponse),
        "F5": (Tag.STKMDeliveryConfirmation, Tag.STKMRequestResponse),
        "F6": (Tag.STKMDeliveryConfirmation, Tag.STKMRequestResponse),
    }  # fmt: skip
    answers = system.messages(tags[flow][delivery == "pull"])
    assert answers and any(m.status == 0 for m in answers)
    if flow != "F1" or delivery == "push":
        assert system.plays(viewer, config)
    good(system)


def test_f6_serves_terminals_over_the_interaction_channel() -> None:
    config = stream(generation="bsda", interaction=True)
    system = System(config)
    card, device = system.add_card("card"), system.add_device("device", 5)
    for viewer in (card, device):
        system.grant(viewer, config, NOON - 100, NOON + 10**6)
        system.fetch(viewer, config)
    system.run(100)
    assert not card.tuned
    assert system.plays(card, config)
    assert system.plays(device, config)
    good(system)


# --- statuses (R26-R28, R33) --------------------------------------------------------------------------------------------------


def _delivery(system: System, config: StreamConfig, **fields: object) -> BackendMessage:
    """A TEKDelivery that the BSM would answer with 0."""
    system.run(1)
    system.unreachable = {BSM_ID}
    system.run(60)
    return request(Tag.TEKDelivery, config, items=tuple(partials(system, config)), **fields)


def test_a_repeated_message_gets_the_same_answer_also_after_a_restart() -> None:
    config = stream(profiles=("smartcard",))
    system = System(config)
    message = _delivery(system, config)
    first = to_bsm(system, message)
    assert first.status == 0
    system.run(1)
    assert to_bsm(system, replace(message, time=int(system.now))) == first
    system.stop_bsm()
    system.start_bsm()
    assert to_bsm(system, message) == first
    other = replace(message, items=message.items[:1])
    assert to_bsm(system, other).status == Status.ALREADY_PROCESSED
    assert to_bsm(system, message) == first


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"destination": "urn:example:another"}, Status.WRONG_DESTINATION),
        ({"service": "urn:example:unknown"}, Status.INVALID_REQUEST),
        ({"stream": 9}, Status.INVALID_REQUEST),
        ({"profile": "drm"}, Status.INVALID_REQUEST),
        ({"profile": None}, Status.INFORMATION_INVALID),
        ({"source": "urn:example:stranger"}, Status.NOT_PERMITTED),
        ({"version": 7}, Status.UNSUPPORTED_VERSION),
        ({"items": ()}, Status.INFORMATION_INVALID),
        ({"tag": Tag.KeyDelivery}, Status.INFORMATION_INVALID),
    ],
)
def test_what_is_refused_moves_nothing(change: dict[str, object], status: Status) -> None:
    config = stream(profiles=("smartcard",))
    system = System(config)
    message = _delivery(system, config)
    before = system.bsm_store.copy()
    answer = to_bsm(system, replace(message, **change))  # type: ignore[arg-type]  # fields of the message
    assert answer.status == status
    assert answer.items == ()
    assert (answer.service, answer.stream) == (change.get("service", config.service), change.get("stream", config.stream))
    assert {t: r for t, r in system.bsm_store.copy().items() if t != "answer"} == {t: r for t, r in before.items() if t != "answer"}


def test_a_source_that_is_not_the_authenticated_peer() -> None:
    config = stream(profiles=("smartcard",))
    system = System(config)
    message = _delivery(system, config)
    assert to_bsm(system, message, peer=BACKUP).status == Status.NOT_PERMITTED
    assert to_bsm(system, message).status == 0, "a stranger's message leaves no trace under its messageID"


def test_keys_that_cannot_be_used() -> None:
    """F4: expired 21, overlapping or in what is prepared 21, another key of that id 27, wrong profile 21, repeated 0."""
    config = stream(generation="bsda", profiles=("smartcard",))
    system = System(config)
    system.run(20)
    (held,) = _materials(system, config)

    def deliver(key: KeyMaterial, **fields: object) -> int:
        n = system.rng.randbytes(16).hex()
        fields = {"source": BSM_ID, "destination": MAIN, "items": (key,), "message_id": n, **fields}
        return to_bsda(system, request(Tag.KeyDelivery, config, **fields)).status or 0

    assert deliver(held) == Status.SUCCESS
    past = replace(held, key_id=held.key_id[:-1] + b"\x55", valid_to=int(system.now) - 1)
    assert deliver(past) == Status.INFORMATION_INVALID
    inside = replace(held, key_id=held.key_id[:-1] + b"\x55", valid_from=held.valid_from + 160)
    assert deliver(inside) == Status.INFORMATION_INVALID
    assert deliver(replace(held, key=Secret(bytes(16)))) == Status.ALREADY_IN_USE
    assert deliver(held, profile="drm") == Status.INFORMATION_INVALID
    assert deliver(replace(held, csb_id=None)) == Status.INFORMATION_INVALID
    assert deliver(replace(held, stream=9)) == Status.INVALID_REQUEST


@GENERATIONS
def test_stkms_of_another_key_are_refused(generation: Generation) -> None:
    """F5 and F6: a STKM that does not fit the receiver's own key is status 24; one on air is not replaced: 27."""
    config = stream(generation=generation, profiles=("smartcard",), interaction=True, look_ahead=6)
    system = System(config)
    system.run(50)
    machine = system.headends[MAIN].machine
    assert machine is not None
    waiting = [start for start, state in machine.states(*config.id, 0.0).items() if state is EdgeState.WAITING]
    a, b = (r for r in machine.records(*config.id) if r.period.start in waiting[:2])

    def item(content: bytes) -> StkmItem:
        return StkmItem(stream=1, period_start=a.period.start, period_end=a.period.end, tek_id="x", content=content)

    wrong = item(b.stkms[0].data)
    if generation == "bsda":
        assert to_bsm(system, request(Tag.STKMDelivery, config, items=(wrong,))).status == Status.WRONG_KEY_INFORMATION
        return
    fields: dict[str, object] = {"source": BSM_ID, "destination": MAIN, "replace": True}
    assert to_bsda(system, request(Tag.STKMDelivery, config, items=(wrong,), **fields)).status == Status.WRONG_KEY_INFORMATION
    states = machine.states(*config.id, 0.0)
    on_air = next(r for r in machine.records(*config.id) if states[r.period.start] is EdgeState.IN_USE)
    late = StkmItem(stream=1, period_start=on_air.period.start, period_end=on_air.period.end, tek_id="x", content=b.stkms[0].data)
    fields["message_id"] = "c" * 32
    assert to_bsda(system, request(Tag.STKMDelivery, config, items=(late,), **fields)).status == Status.ALREADY_IN_USE


def test_late_and_foreign_answers_move_nothing() -> None:
    config = stream(profiles=("smartcard",))
    system = System(config)
    system.run(30)
    answer = system.messages(Tag.TEKDeliveryConfirmation)[-1]
    machine = system.headends[MAIN].machine
    assert machine is not None
    before = machine.records(*config.id)
    assert machine.receive(answer, system.now, BSM_ID) == []
    assert machine.receive(replace(answer, message_id="d" * 32), system.now, BSM_ID) == []
    assert machine.receive(replace(answer, source=BACKUP), system.now, BACKUP) == []
    assert machine.records(*config.id) == before


# --- programmes in the DRM Profile ----------------------------------------------------------------------------------------------


@GENERATIONS
def test_a_programme_has_a_key_of_its_own(generation: Generation) -> None:
    config = stream(generation=generation)
    system = System(config)
    card, device = system.entitled(config)
    buyer, other = system.add_device("buyer", 7), system.add_device("other", 8)
    for viewer in (buyer, other):
        system.tune(viewer, config)
    system.sample(config, [card, device, buyer, other])
    system.run(30)
    held = system.add_programme(Programme(*config.id, "urn:event", int(NOON) + 120, int(NOON) + 200))
    system.grant(buyer, config, held.start, held.end, held.content)
    with pytest.raises(LocalFlowError, match="overlaps"):
        system.add_programme(Programme(*config.id, "urn:event:2", int(NOON) + 150, int(NOON) + 250))
    for at, bought in ((100, False), (150, True), (195, True), (230, False)):
        system.clock.run(NOON + at)
        assert system.plays(buyer, config) is bought
        assert system.plays(device, config)
        assert system.plays(card, config)
        assert not system.plays(other, config)
    programmes = [system.stkm(config, s, "drm") for s in system.stkms(config) if held.start <= s < held.end]
    sealed = [codec.decode(data, "drm-stkm") for data in programmes]
    assert all(getattr(m, "programme_CID_extension", None) is not None for m in sealed)
    good(system)


def test_ipsec_streams_of_one_profile() -> None:
    for profile in ("drm", "smartcard"):
        config = stream(profiles=(profile,), protocol=Protocol.IPSEC)
        system = System(config)
        viewer = system.add_card("viewer") if profile == "smartcard" else system.add_device("viewer", 5)
        system.grant(viewer, config, NOON - 100, NOON + 10**6)
        system.tune(viewer, config)
        system.sample(config, [viewer])
        system.run(120)
        assert system.plays(viewer, config)
        assert all(isinstance(u, UseKey) and u.auth_key is not None for _, _, u in system.used)
        good(system)
