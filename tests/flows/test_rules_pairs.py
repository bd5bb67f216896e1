# SPDX-License-Identifier: Apache-2.0
"""R46, R50: two headends make one STKM for each period, whoever is dead while keys and periods change."""

from __future__ import annotations

import pytest
from flow_support import NOON, System, pair

from pybcast import codec
from pybcast.errors import LocalFlowError
from pybcast.flows import BSDA, BSM, BackendMessage, KeyMaterial, Later, Programme, Status, StreamConfig
from pybcast.flows.bsm.attempts import CONFIRMED_WITHIN
from pybcast.flows.tables import PeriodState, Tag
from pybcast.secret import Secret
from pybcast.testing.sim import BACKUP, BSM_ID, MAIN


def in_force(system: System, config: StreamConfig) -> set[bytes]:
    """The ids of the keys that hold now, as the BSM knows them."""
    assert system.bsm is not None
    rows = [row.material for row in system.bsm.keys(*config.id)]
    return {key.key_id for key in rows if key.valid_from <= system.now < key.valid_to}


def machine(system: System, name: str) -> BSDA:
    found = system.headends[name].machine
    assert found is not None
    return found


def ask(
    system: System, config: StreamConfig, attempt: int, start: int, end: int | None = None, *, replace: bool = False,
    message_id: str = "",
) -> int | None:  # fmt: skip
    """An attempt, said to the main headend; the status that it answers."""
    message = BackendMessage(
        tag=Tag.KeyDelivery, message_id=message_id or f"{attempt:031x}{replace:x}", source=BSM_ID, destination=MAIN,
        service=config.service, profile=config.profiles[0], stream=config.stream, start=start, end=end, attempt=attempt,
        replace=replace,
    )  # fmt: skip
    sent = len(system.log)
    system.call_bsda(MAIN, lambda bsda: bsda.receive(message, system.now, BSM_ID))
    return next(m.status for m in system.log[sent:] if m.message_id == message.message_id)


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_r46_who_was_dead_hears_of_every_change_of_the_period(generation: str) -> None:
    """Two changes in a row while one headend is dead: it has the same periods as the other when it comes back."""
    config = pair(generation=generation)
    system = System(config)
    system.run(20)
    system.set_period(config, 5)
    system.stop_bsda(MAIN)
    system.set_period(config, 4)
    system.run(10)
    system.set_period(config, 8)
    system.start_bsda(MAIN)
    system.run(150)
    assert system.violations == []
    assert system.stkms(config, MAIN).keys() >= {a for a in system.stkms(config, BACKUP) if a > system.now - 100}


def test_r46_a_boundary_that_was_entered_meanwhile_is_heard_before_anything_is_prepared() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(20)
    system.stop_bsda(MAIN)
    at = int(system.now) + (config.ahead + 2) * config.period + 3
    system.add_boundary(config, at)
    system.run(40)
    system.start_bsda(MAIN)
    system.run(60)
    assert at in system.stkms(config, MAIN) and at in system.stkms(config, BACKUP)
    assert system.violations == []


@pytest.mark.parametrize("cut_off", [False, True])
def test_r50_rekey_while_one_headend_is_not_heard(cut_off: bool) -> None:
    """The fault: it sealed on under the old key past the start of the new one."""
    config = pair(generation="bsda")
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    if cut_off:
        system.unreachable = {BACKUP}
    else:
        system.stop_bsda(BACKUP)
    before = in_force(system, config)
    system.command(lambda bsm: bsm.rekey(*config.id, system.now))
    system.run(120)
    assert in_force(system, config) == before  # it waits
    system.unreachable = set()
    if not cut_off:
        system.start_bsda(BACKUP)
    system.run(120)
    assert not in_force(system, config) & before
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def attempts(system: System) -> list[BackendMessage]:
    return [message for message in system.messages(Tag.KeyDelivery) if message.attempt is not None]


def rekey(system: System, config: StreamConfig, without: tuple[str, ...] = ()) -> None:
    system.command(lambda bsm: bsm.rekey(*config.id, system.now, without))


def waits(system: System) -> str:
    """What the alarm of a key that waits says; empty when there is none."""
    found = [alarm for _, alarm in system.alarms if alarm.code == "key-waits"]
    return found[-1].text if found and found[-1].active else ""


def test_r50_the_next_key_is_made_when_both_headends_have_confirmed() -> None:
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.entitled(config)
    system.run(40)
    before = in_force(system, config)
    rekey(system, config)
    system.run(1)
    asked = attempts(system)
    assert {m.destination for m in asked} == {MAIN, BACKUP} and all(m.replace and not m.items for m in asked)
    assert len({(m.attempt, m.start) for m in asked}) == 1
    keys = [m for m in system.messages(Tag.KeyDelivery) if m.items and m.replace]
    assert {item.valid_from for m in keys for item in m.items if isinstance(item, KeyMaterial)} == {asked[0].start}
    system.run(60)
    assert not in_force(system, config) & before
    assert attempts(system) == asked and not waits(system)
    assert system.violations == []


def test_r50_what_was_given_back_goes_out_again_the_same_bytes() -> None:
    """One headend does not confirm: the attempt is given up, and nobody sees anything of it on air."""
    config = pair(generation="bsda", look_ahead=8, rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    sealed = {r.period.start: r.stkms for r in machine(system, MAIN).records(*config.id)}
    system.unreachable = {BACKUP}
    rekey(system, config)
    system.run(3)
    back = [r.period.start for r in machine(system, MAIN).records(*config.id) if r.state is PeriodState.ASIDE]
    assert back and back == [start for start in sealed if start >= back[0]]
    system.run(10)
    assert waits(system).endswith(f": {BACKUP}")
    records = machine(system, MAIN).records(*config.id)
    assert {r.period.start: r.stkms for r in records if r.period.start in back} == {start: sealed[start] for start in back}
    assert not any(r.state is PeriodState.ASIDE for r in records)
    system.run(60)
    assert all(system.stkms(config)[start].stkms == sealed[start] for start in back)
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert waits(system).endswith(f": {BACKUP}")
    system.unreachable = set()
    system.run(20)
    assert not waits(system)
    assert system.violations == []


def test_r50_an_attempt_number_is_never_used_twice() -> None:
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config, backend_loss=0.2)
    system.run(40)
    system.unreachable = {BACKUP}
    rekey(system, config)
    system.run(20)
    system.stop_bsm()
    system.start_bsm()
    system.unreachable = set()
    system.run(100)
    starts: dict[int | None, set[int | None]] = {}
    for message in attempts(system):
        starts.setdefault(message.attempt, set()).add(message.start)
    assert len(starts) >= 2 and all(len(found) == 1 for found in starts.values())
    assert system.violations == []


def test_r50_who_confirmed_and_hears_no_more_is_silent() -> None:
    """Its encoder holds the key that it has, to the end of its authority."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    system.lost_tags = {Tag.KeyDeliveryConfirmation}
    rekey(system, config)
    system.run(1)
    start = attempts(system)[0].start
    assert start is not None
    system.stop_bsm()
    system.run(start + 20 - system.now)
    assert max(system.stkms(config, MAIN)) < start and max(system.stkms(config, BACKUP)) < start
    system.lost_tags = set()
    system.start_bsm()
    system.run(100)
    assert max(system.stkms(config, MAIN)) > start and max(system.stkms(config, BACKUP)) > start
    assert system.violations == []


def test_r50_a_confirmation_outlives_a_crash_of_the_headend_and_of_the_bsm() -> None:
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    before = in_force(system, config)
    system.lost_tags = {Tag.KeyDeliveryConfirmation}
    rekey(system, config)
    system.run(1)
    for name in (MAIN, BACKUP):
        system.stop_bsda(name)
        system.start_bsda(name)
    system.stop_bsm()
    system.lost_tags = set()
    system.start_bsm()
    system.run(60)
    assert not in_force(system, config) & before
    assert len({message.attempt for message in attempts(system)}) == 1
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def test_r50_a_start_that_is_on_air_is_refused() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    system.clock.run(NOON + 44.5)  # the lead of NOON + 48 has begun
    number, before = int(system.now), system.headends[MAIN].store.copy()
    assert ask(system, config, number, int(NOON) + 48, replace=True) == Status.ALREADY_IN_USE
    assert system.headends[MAIN].store.copy().get("cut") == before.get("cut")
    assert ask(system, config, number + 1, int(NOON) + 56, replace=True) == Status.SUCCESS
    assert ask(system, config, number + 1, int(NOON) + 56, replace=True, message_id="a" * 32) == Status.SUCCESS
    system.run(30)
    assert max(system.stkms(config, MAIN)) == int(NOON) + 48


def test_r50_a_later_attempt_lifts_no_earlier_confirmation() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    number, start = int(system.now), int(NOON) + 64
    assert ask(system, config, number, start, replace=True) == Status.SUCCESS
    assert ask(system, config, number + 1, start + 16, replace=True) == Status.SUCCESS
    assert ask(system, config, number + 1, start + 16) == Status.SUCCESS  # that one was given up
    system.run(60)
    assert max(system.stkms(config, MAIN)) == start - 8
    assert ask(system, config, number + 1, start + 16, replace=True, message_id="c" * 32) == Status.INFORMATION_INVALID
    assert ask(system, config, number, start) == Status.SUCCESS
    system.run(20)
    assert max(system.stkms(config, MAIN)) > start + 32


def test_r50_a_headend_that_is_off_air_is_not_waited_for() -> None:
    """When it comes back it asks for everything anew, and sends nothing under the old key."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    before = in_force(system, config)
    system.stop_bsda(BACKUP)
    rekey(system, config)
    system.run(60)
    assert waits(system)
    rekey(system, config, (BACKUP,))
    system.run(60)
    assert not waits(system) and not in_force(system, config) & before
    system.start_bsda(BACKUP, fresh=True)  # its BSM says so before it does anything: Pybcast-Void
    system.run(60)
    assert system.bsm is not None and not system.bsm.off_air(BACKUP)
    assert system.headends[BACKUP].key[config.id].mki == system.headends[MAIN].key[config.id].mki
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def test_r50_a_pair_goes_without_some_of_its_headends_not_all() -> None:
    config = pair(generation="bsda")
    system = System(config)
    for without in ((MAIN, BACKUP), ("urn:example:other",)):
        with pytest.raises(LocalFlowError, match="of its headends"):
            rekey(system, config, without)


def test_r50_an_f3_key_begins_past_what_was_sealed() -> None:
    """The BSM is the one sealer: a headend that is not heard has nothing of that time."""
    config = pair(generation="bsm", rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    system.clock.run(NOON + 41)
    prepared = max(r.period.end for name in (MAIN, BACKUP) for r in machine(system, name).records(*config.id))
    system.unreachable = {BACKUP}
    rekey(system, config)
    assert system.bsm is not None
    assert max(row.material.valid_from for row in system.bsm.keys(*config.id)) >= prepared
    assert not attempts(system)
    system.run(80)
    system.unreachable = set()
    system.run(60)
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_r50_a_bsm_that_was_put_back_releases_its_next_key_by_these_steps(generation: str) -> None:
    config = pair(generation=generation, rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    copy = system.bsm_store.copy()
    rekey(system, config)
    system.run(60)
    system.unreachable = {BACKUP}
    system.restore_bsm(copy)
    system.run(60)
    assert waits(system).endswith(f": {BACKUP}")
    assert not [m for m in system.messages(Tag.KeyDelivery) if m.items and (m.time or 0) > system.now - 60 and m.replace]
    system.unreachable = set()
    system.run(120)
    assert not waits(system)
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def test_r50_a_headend_that_was_put_back_forgets_its_f4_keys_whoever_seals_now() -> None:
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    changed = system.set_generation(config, "bsm")
    copy = system.headends[MAIN].store.copy()
    system.run(2)
    system.stop_bsda(MAIN)
    system.start_bsda(MAIN, copy, fresh=True)
    assert not system.headends[MAIN].store.state.get("key")
    system.run(120)
    assert system.traffic(changed) is not None
    assert system.violations == []


def test_r50_f6_serves_nothing_whose_place_another_stkm_may_take() -> None:
    config = pair(generation="bsda", interaction=True, look_ahead=8, rekey_lead=20)
    system = System(config)
    system.entitled(config)
    system.run(40)
    assert system.bsm is not None
    system.unreachable = {BACKUP}
    rekey(system, config)
    start = attempts(system)[0].start
    assert start is not None

    def served(after: int) -> object:
        assert system.bsm is not None
        return system.bsm.fetch_stkms(*config.id, "drm", [("device", after)], system.now)[0]

    asked = [m for m in (request_stkms(system, config, start), request_stkms(system, config, start - 8)) if m is not None]
    assert [m.status for m in asked] == [Status.NON_EXISTENT, Status.SUCCESS]
    assert served(start - 1) == Later()
    system.run(14)  # given up: it goes on
    assert isinstance(served(start - 1), Later) and served(start - 1) != Later()


def request_stkms(system: System, config: StreamConfig, start: int) -> BackendMessage | None:
    """What the BSM answers to a headend that asks for the STKM of a period."""
    message = BackendMessage(
        tag=Tag.STKMRequest, message_id=f"{start:032x}", source=MAIN, destination=BSM_ID, service=config.service, profile="drm",
        stream=config.stream, start=start, end=start + 1,
    )  # fmt: skip
    sent = len(system.log)
    system.call_bsm(lambda bsm: bsm.receive(message, system.now, MAIN))
    return next((m for m in system.log[sent:] if m.message_id == message.message_id), None)


def test_r50_an_attempt_that_a_key_came_of_is_over() -> None:
    """Said once more, by a message that was late, it ends nothing."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    rekey(system, config)
    system.run(60)
    number, start = attempts(system)[0].attempt, attempts(system)[0].start
    assert number is not None and start is not None
    assert ask(system, config, number, int(system.now) + 40, replace=True) == Status.INFORMATION_INVALID
    system.run(60)
    assert max(system.stkms(config, MAIN)) > system.now - 8


def test_r50_a_headend_that_lost_its_store_is_not_waited_for_before_the_key_after_next() -> None:
    """It never gets the key that it may have lost, and makes nothing under the one before: that one is off air there."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    rekey(system, config)
    system.run(1)
    held = {item.key_id for m in system.messages(Tag.KeyDelivery) for item in m.items if isinstance(item, KeyMaterial)}
    system.stop_bsda(BACKUP)
    system.start_bsda(BACKUP, {}, fresh=True)
    system.run(200)
    assert not in_force(system, config) & held
    assert system.headends[BACKUP].key[config.id].mki == system.headends[MAIN].key[config.id].mki
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def test_r50_one_refusal_ends_the_attempt() -> None:
    """It is not waited for until the attempt's time is over; all are told, and who was refused is named."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    system.unreachable = {BACKUP}
    rekey(system, config)
    system.run(0.5)
    (asked,) = {m.message_id: m for m in attempts(system) if m.destination == BACKUP}.values()
    answer = asked.answer(Status.ALREADY_IN_USE, now=system.now)
    system.call_bsm(lambda bsm: bsm.receive(answer, system.now, BACKUP))
    assert BACKUP in waits(system)
    system.run(0.5)
    assert any(m.destination == MAIN and not m.replace and m.attempt == asked.attempt for m in attempts(system))
    system.unreachable = set()
    system.run(120)
    assert not waits(system) and system.violations == []


def test_r50_a_headend_off_air_that_is_heard_while_the_other_is_asked() -> None:
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    before = in_force(system, config)
    system.unreachable = {MAIN, BACKUP}
    rekey(system, config, (BACKUP,))
    system.run(0.5)
    assert system.bsm is not None and system.bsm.off_air(BACKUP)
    (fresh,) = {m.message_id: m for m in attempts(system) if m.destination == BACKUP and m.fresh}.values()
    refused = fresh.answer(Status.INFORMATION_INVALID, now=system.now)
    system.call_bsm(lambda bsm: bsm.receive(refused, system.now, BACKUP))
    assert system.bsm.off_air(BACKUP), "it has not forgotten anything"
    system.unreachable = {MAIN}
    system.run(4)
    assert not system.bsm.off_air(BACKUP) and in_force(system, config) == before
    system.unreachable = set()
    system.run(120)
    assert not in_force(system, config) & before and system.violations == []


# --- R50: a programme of a pair whose headends seal (F4) ----------------------------------------------------------------------


def enter(system: System, config: StreamConfig, start: float, end: float, content: str = "urn:film") -> Programme:
    """A programme, ``start`` and ``end`` in seconds from now."""
    return system.add_programme(Programme(*config.id, content, int(system.now + start), int(system.now + end)))


def bsm_of(system: System) -> BSM:
    assert system.bsm is not None
    return system.bsm


def peaks(system: System, config: StreamConfig) -> list[KeyMaterial]:
    """The keys of programmes that the BSM has made."""
    return [row.material for row in bsm_of(system).keys(*config.id) if row.material.key_type == "PEAK"]


def marked(system: System, config: StreamConfig, headend: str = MAIN) -> list[int]:
    """The starts of a headend's periods whose STKM is under a programme's key too, on air so far."""
    found = system.stkms(config, headend)
    said = {start: codec.decode(system.stkm(config, start, "drm", headend), "drm-stkm") for start in found}
    return sorted(start for start, m in said.items() if getattr(m, "programme_CID_extension", None) is not None)


def test_r50_a_programme_begins_when_both_headends_have_confirmed() -> None:
    config = pair(generation="bsda")
    system = System(config)
    viewers = system.entitled(config)
    buyer = system.add_device("buyer", 7)
    system.tune(buyer, config)
    system.run(40)
    held = enter(system, config, 80, 140)
    system.grant(buyer, config, held.start, held.end, held.content)
    assert not peaks(system, config)
    with pytest.raises(LocalFlowError, match="F4"):
        bsm_of(system).remove_programme(config.service, [config.stream], held.content, system.now)
    system.run(1)
    assert {(m.destination, m.content, m.start, m.end) for m in attempts(system)} == {
        (name, held.content, held.start, held.end) for name in (MAIN, BACKUP)
    }
    (key,) = peaks(system, config)
    assert (key.valid_from, key.valid_to) == (held.start, held.end)
    system.clock.run(held.start + 20)
    assert system.plays(buyer, config) and all(system.plays(viewer, config) for viewer in viewers)
    system.clock.run(held.end + 30)
    within = [start for start in system.stkms(config) if held.start <= start < held.end]
    assert marked(system, config, MAIN) == marked(system, config, BACKUP) == within
    assert not system.plays(buyer, config) and all(system.plays(viewer, config) for viewer in viewers)
    assert not waits(system) and system.violations == []


@pytest.mark.parametrize("away", [MAIN, BACKUP])
def test_r50_a_programme_waits_for_a_headend_that_is_not_heard(away: str) -> None:
    """The fault: the other one sealed with its key, this one without."""
    config = pair(generation="bsda")
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    system.unreachable = {away}
    held = enter(system, config, 50, 400)
    system.run(70)
    assert held.start < system.now and not peaks(system, config) and not marked(system, config)
    assert waits(system).startswith(f"programme {held.content} waits") and waits(system).endswith(f": {away}")
    system.unreachable = set()
    system.run(160)
    (key,) = peaks(system, config)
    assert held.start < key.valid_from < system.now and not waits(system)
    assert marked(system, config, MAIN) == marked(system, config, BACKUP) and marked(system, config)[0] == key.valid_from
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def test_r50_a_programme_of_cards_alone_waits_for_nobody() -> None:
    """It is a window of the key in use, and the STKMs are as they were."""
    config = pair(generation="bsda", profiles=("smartcard",))
    system = System(config)
    system.run(40)
    system.unreachable = {BACKUP}
    asked = int(NOON) + 120
    assert enter(system, config, asked - system.now, asked + 80 - system.now).start == asked
    system.run(200)
    assert not attempts(system) and system.violations == []


def test_r50_a_programme_that_is_over_before_both_have_confirmed_is_dropped() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    system.unreachable = {BACKUP}
    held = enter(system, config, 50, 120)
    system.run(50)
    system.unreachable = set()
    system.run(20)
    assert [a.text for _, a in system.alarms if "over before" in a.text] == [
        f"programme {held.content}: over before it can be protected (R5)"
    ]
    system.run(80)
    assert not peaks(system, config) and not marked(system, config) and not waits(system)
    assert set(system.stkms(config, MAIN)) == set(system.stkms(config, BACKUP))
    assert system.violations == []


def test_r50_a_programme_that_waits_can_be_taken_back() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    system.unreachable = {BACKUP}
    held = enter(system, config, 300, 400)
    system.run(20)
    assert waits(system)
    system.command(lambda bsm: bsm.remove_programme(config.service, [config.stream], held.content, system.now))
    system.unreachable = set()
    system.run(400)
    assert not peaks(system, config) and not marked(system, config) and not waits(system)
    assert system.violations == []


def test_r50_two_programmes_begin_one_after_the_other() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    first, second = enter(system, config, 80, 120), enter(system, config, 160, 200, "urn:show")
    system.run(10)
    assert {(k.valid_from, k.valid_to) for k in peaks(system, config)} == {(p.start, p.end) for p in (first, second)}
    system.run(220)
    assert marked(system, config, MAIN) == marked(system, config, BACKUP)
    assert {p for p in (first, second) for start in marked(system, config) if p.start <= start < p.end} == {first, second}
    assert system.violations == []


def cut_off_after_it_confirmed(system: System, name: str) -> None:
    """Both headends have said that they wait for a programme's key, and it does not come to this one."""
    before = {n: len(system.messages(Tag.KeyDeliveryConfirmation, n)) for n in system.headends}
    while any(len(system.messages(Tag.KeyDeliveryConfirmation, n)) == count for n, count in before.items()):
        system.run(0.01)
    system.unreachable = {name}


def test_r50_who_confirmed_a_programme_and_gets_no_key_is_silent_till_it_is_over() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    held = enter(system, config, 80, 140)
    cut_off_after_it_confirmed(system, BACKUP)
    system.clock.run(held.start + 40)
    assert marked(system, config, MAIN) and max(system.stkms(config, BACKUP)) < held.start
    system.clock.run(held.end + 60)
    assert max(system.stkms(config, BACKUP)) > held.end and not marked(system, config, BACKUP)
    late = {start for start in system.stkms(config, BACKUP) if start > held.end}
    assert late <= set(system.stkms(config, MAIN))
    assert system.violations == []


def test_r50_a_programmes_key_that_comes_late_is_taken() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    held = enter(system, config, 80, 240)
    cut_off_after_it_confirmed(system, BACKUP)
    system.clock.run(held.start + 30)
    rekey(system, config)  # and a key of the service cannot come before it
    system.run(20)
    system.unreachable = set()
    system.clock.run(held.end + 40)
    assert set(marked(system, config, BACKUP)) < set(marked(system, config, MAIN))
    assert len(marked(system, config, BACKUP)) > 8
    assert system.violations == []


def test_r50_a_key_of_the_service_does_not_begin_a_programme() -> None:
    """What a headend has confirmed of a programme holds when the service's key changes."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    start, end = int(NOON) + 120, int(NOON) + 160
    number = int(system.now) - 5
    assert ask(system, config, number, start, end, replace=True) == Status.SUCCESS
    assert ask(system, config, number, start, end, replace=True, message_id="a" * 32) == Status.SUCCESS
    before = in_force(system, config)
    rekey(system, config)
    system.clock.run(start + 20)
    assert not in_force(system, config) & before and max(system.stkms(config, MAIN)) < start < max(system.stkms(config, BACKUP))
    system.clock.run(end + 40)
    assert max(system.stkms(config, MAIN)) >= end


def test_r50_a_programme_that_was_given_up_leaves_nothing() -> None:
    """Its edges are no boundaries any more."""
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    number, start, end = int(system.now), int(NOON) + 123, int(NOON) + 157
    bsda = machine(system, MAIN)

    def begins(at: int) -> bool:
        period = bsda._streams[config.id].periods.at(at)
        return period is not None and period.start == at

    assert ask(system, config, number, start, end, replace=True) == Status.SUCCESS
    assert begins(start) and begins(end)
    assert ask(system, config, number, start, end) == Status.SUCCESS
    assert not begins(start) and not begins(end)
    assert ask(system, config, number, start, end, replace=True, message_id="b" * 32) == Status.INFORMATION_INVALID
    system.clock.run(end + 20)
    assert set(system.stkms(config, MAIN)) == set(system.stkms(config, BACKUP))
    assert system.violations == []


def test_r50_a_programme_whose_start_is_prepared_is_refused() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    prepared = max(r.period.end for r in machine(system, MAIN).records(*config.id))
    states = [r.state for r in machine(system, MAIN).records(*config.id)]
    assert ask(system, config, 1, prepared - 1, prepared + 80, replace=True) == Status.ALREADY_IN_USE
    assert [r.state for r in machine(system, MAIN).records(*config.id)] == states, "nothing is given back"
    assert ask(system, config, 2, prepared, prepared + 80, replace=True) == Status.SUCCESS


def test_r50_a_headend_that_loses_its_store_confirms_a_programme_once_more() -> None:
    """What it has confirmed is lost too, and it may seal under another key before the programme's is made."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    system.unreachable = {MAIN}
    held = enter(system, config, 120, 300)
    system.run(1)
    confirmed = [m for m in attempts(system) if m.destination == BACKUP]
    system.stop_bsda(BACKUP)
    system.start_bsda(BACKUP, {}, fresh=True)
    system.run(CONFIRMED_WITHIN - 2)
    asked = [m for m in attempts(system) if m.destination == BACKUP]
    assert {m.attempt for m in asked} == {m.attempt for m in confirmed} and len(asked) > len(confirmed)
    system.unreachable = set()
    system.run(320)
    assert marked(system, config, MAIN) and set(marked(system, config, BACKUP)) <= set(marked(system, config, MAIN))
    assert all(start >= held.start for start in marked(system, config))
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []


def test_r50_a_headend_off_air_that_is_heard_is_asked_for_a_programme() -> None:
    """That it seals nothing now is no answer: it gets keys of the service before the programme's is made."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    system.unreachable = {BACKUP}
    rekey(system, config, (BACKUP,))
    system.run(1)
    assert bsm_of(system).off_air(BACKUP)
    system.unreachable = {MAIN}
    enter(system, config, 120, 300)
    system.run(CONFIRMED_WITHIN - 1)
    assert not bsm_of(system).off_air(BACKUP)
    assert [m for m in attempts(system) if m.destination == BACKUP and m.content]
    system.unreachable = set()
    system.run(300)
    assert marked(system, config, MAIN) and set(marked(system, config, BACKUP)) <= set(marked(system, config, MAIN))
    assert system.violations == []


def test_r50_who_is_to_seal_changes_while_a_programme_is_asked_for() -> None:
    """The BSM is the one sealer then: nothing waits."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    system.unreachable = {BACKUP}
    held = enter(system, config, 200, 280)
    system.run(1)
    changed = system.set_generation(config, "bsm")
    (key,) = peaks(system, config)
    assert (key.valid_from, key.valid_to) == (held.start, held.end)
    system.unreachable = set()
    system.clock.run(held.end + 20)
    assert marked(system, changed, MAIN) == marked(system, changed, BACKUP) and marked(system, changed)
    assert all(system.plays(viewer, changed) for viewer in viewers)
    assert system.violations == []


def test_r50_a_programmes_key_is_pushed_where_keys_are_pulled() -> None:
    config = pair(generation="bsda", delivery="pull")
    system = System(config)
    system.run(40)
    held = enter(system, config, 100, 160)
    system.clock.run(held.end + 20)
    assert marked(system, config, MAIN) == marked(system, config, BACKUP) and marked(system, config)
    assert system.violations == []


def test_r50_a_programme_that_a_restored_bsm_is_told_of_again() -> None:
    """It has forgotten its key: the one made last takes the place of the first, at both headends."""
    config = pair(generation="bsda", rekey_lead=20)
    system = System(config)
    system.run(40)
    copy = system.bsm_store.copy()
    held = enter(system, config, 160, 400)
    system.run(10)
    (first,) = peaks(system, config)
    system.restore_bsm(copy)
    system.run(60)
    assert not peaks(system, config)
    enter(system, config, held.start - system.now, held.end - system.now)
    system.run(60)
    (second,) = peaks(system, config)
    assert first.key_id < second.key_id and (second.valid_from, second.valid_to) == (held.start, held.end)
    for name in (MAIN, BACKUP):
        assert [k for k in machine(system, name)._streams[config.id].keys.all() if k.key_type == "PEAK"] == [second]
    answer = deliver(system, config, first)
    assert answer == Status.INFORMATION_INVALID, "it was late"
    system.clock.run(held.end + 20)
    assert marked(system, config, MAIN) == marked(system, config, BACKUP) and marked(system, config)
    assert system.violations == []


def deliver(system: System, config: StreamConfig, key: KeyMaterial) -> int | None:
    """A key, delivered to the main headend; the status that it answers."""
    message = BackendMessage(
        tag=Tag.KeyDelivery, message_id=key.key.reveal().hex()[:31] + "d", source=BSM_ID, destination=MAIN, service=config.service,
        profile="drm", stream=config.stream, items=(key,),
    )  # fmt: skip
    sent = len(system.log)
    system.call_bsda(MAIN, lambda bsda: bsda.receive(message, system.now, BSM_ID))
    return next(m.status for m in system.log[sent:] if m.message_id == message.message_id)


def test_r50_a_programmes_key_begins_what_waits_for_it_alone() -> None:
    """What waits for one whose key nobody knows any more waits till this one at most; what waits for a later one waits on."""
    config = pair(generation="bsda")
    system = System(config)
    system.run(40)
    start = int(NOON) + 120
    for number, (begin, end) in enumerate([(start, start + 160), (start + 40, start + 80), (start + 80, start + 120)], 1):
        assert ask(system, config, number, begin, end, replace=True) == Status.SUCCESS
    key = KeyMaterial(
        key_type="PEAK",
        key_id=b"\x80\0\0\1",
        key=Secret(bytes(32)),
        stream=config.stream,
        valid_from=start + 40,
        valid_to=start + 80,
    )
    assert deliver(system, config, key) == Status.SUCCESS
    cut = machine(system, MAIN)._streams[config.id].cutting.cut
    assert cut.programmes == ((1, start, start + 40), (3, start + 80, start + 120)) and cut.over == 2
    system.clock.run(start + 78)
    assert marked(system, config, MAIN) and min(marked(system, config, MAIN)) >= start + 40
    system.clock.run(start + 118)
    assert max(system.stkms(config, MAIN)) < start + 80
    system.clock.run(start + 160)
    assert max(system.stkms(config, MAIN)) >= start + 120
