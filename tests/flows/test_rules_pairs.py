# SPDX-License-Identifier: Apache-2.0
"""R46, R50: two headends make one STKM for each period, whoever is dead while keys and periods change."""

from __future__ import annotations

import pytest
from flow_support import NOON, System, pair

from pybcast.errors import LocalFlowError
from pybcast.flows import BSDA, BackendMessage, KeyMaterial, Later, Status, StreamConfig
from pybcast.flows.tables import PeriodState, Tag
from pybcast.testing.sim import BACKUP, BSM_ID, MAIN


def in_force(system: System, config: StreamConfig) -> set[bytes]:
    """The ids of the keys that hold now, as the BSM knows them."""
    assert system.bsm is not None
    rows = [row.material for row in system.bsm.keys(*config.key)]
    return {key.key_id for key in rows if key.valid_from <= system.now < key.valid_to}


def machine(system: System, name: str) -> BSDA:
    found = system.headends[name].machine
    assert found is not None
    return found


def ask(
    system: System, config: StreamConfig, attempt: int, start: int, *, replace: bool = False, message_id: str = ""
) -> int | None:
    """An attempt, said to the main headend; the status that it answers."""
    message = BackendMessage(
        tag=Tag.KeyDelivery, message_id=message_id or f"{attempt:031x}{replace:x}", source=BSM_ID, destination=MAIN,
        service=config.service, profile=config.profiles[0], stream=config.stream, start=start, attempt=attempt, replace=replace,
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
    system.command(lambda bsm: bsm.rekey(*config.key, system.now))
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
    system.command(lambda bsm: bsm.rekey(*config.key, system.now, without))


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
    sealed = {r.period.start: r.stkms for r in machine(system, MAIN).records(*config.key)}
    system.unreachable = {BACKUP}
    rekey(system, config)
    system.run(3)
    back = [r.period.start for r in machine(system, MAIN).records(*config.key) if r.state is PeriodState.ASIDE]
    assert back and back == [start for start in sealed if start >= back[0]]
    system.run(10)
    assert waits(system).endswith(f": {BACKUP}")
    records = machine(system, MAIN).records(*config.key)
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
    assert system.headends[BACKUP].key[config.key].mki == system.headends[MAIN].key[config.key].mki
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
    prepared = max(r.period.end for name in (MAIN, BACKUP) for r in machine(system, name).records(*config.key))
    system.unreachable = {BACKUP}
    rekey(system, config)
    assert system.bsm is not None
    assert max(row.material.valid_from for row in system.bsm.keys(*config.key)) >= prepared
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
        return system.bsm.fetch_stkms(*config.key, "drm", [("device", after)], system.now)[0]

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
    assert system.headends[BACKUP].key[config.key].mki == system.headends[MAIN].key[config.key].mki
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
