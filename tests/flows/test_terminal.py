# SPDX-License-Identifier: Apache-2.0
"""A terminal under garbage, floods, wrong clocks, lost and early messages: what it believes, remembers and spends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from room_support import (
    BASE,
    GROUP_KEYS,
    NOW,
    SERVICE,
    SOC,
    START,
    TUNING,
    card_party,
    device_party,
    group_keys,
    memory,
    period,
    seak_material,
    seal_bcro,
    seal_ltkm,
    seal_parental,
    seal_withdrawal,
    sealed_stkm,
    sek_material,
    stream_config,
)

from pybcast import codec
from pybcast.errors import BcastError, KeyUnavailable, StoreError
from pybcast.flows import Answer, Device, Persist, Refused, SimulatedCard, TekExpired, TekReady, Terminal, device_registration
from pybcast.flows.journal import State
from pybcast.flows.serial import counter_of
from pybcast.flows.stream.config import CAROUSEL_CYCLE, TUNE_IN
from pybcast.flows.stream.stkm import Policy
from pybcast.flows.terminal import objects
from pybcast.flows.terminal.machine import MAX_COLLECTED, MAX_DONE
from pybcast.flows.terminal.objects import MAX_OBJECTS, RETRY_CYCLES
from pybcast.keys import IEK, OPC, RIAK, UGK, K, Keys
from pybcast.messages import (
    AccessCriterion,
    AddressMode,
    ClearSmartcardStkm,
    Protocol,
    RegistrationMessage,
    RegistrationTag,
    StkmManagement,
    TerminalBinding,
)
from pybcast.secret import Secret
from pybcast.testing.parties import CardParty, rights_issuer, rsa_key

CONFIG = stream_config()


def entitled(party: CardParty | None = None, **changes: Any) -> Terminal:
    """A Smartcard Profile terminal with the SEK, tuned in."""
    party = party or card_party()
    party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)
    party.card.take()
    terminal = Terminal(card=party.card, **changes)
    terminal.tune(TUNING, START)
    return terminal


def sealed(number: int) -> bytes:
    return sealed_stkm(CONFIG, period(number), sek_material())


def ready(outputs: list[Any]) -> list[int]:
    """TEK IDs that were obtained."""
    return [o.mki[-1] for o in outputs if isinstance(o, TekReady)]


def refused(outputs: list[Any]) -> list[str]:
    return [f"{o.kind}: {o.error}" for o in outputs if isinstance(o, Refused)]


def forged(number: int, start: int) -> bytes:
    """A STKM that parses, of a SEK that the card holds, under a key that nobody has."""
    fake = sek_material(key=Secret(number.to_bytes(16, "big")))
    clear = ClearSmartcardStkm(
        counter=counter_of(start), key_domain_id=fake.key_id[:3], sek_id=fake.key_id[3:], tek_id=b"\1\1", tek=Secret(bytes(16)),
        salt=bytes(14),
    )  # fmt: skip
    return codec.seal(clear, Keys(sek=fake.key, csb_id=fake.csb_id, rand=fake.rand))  # type: ignore[arg-type]  # the ring makes a SEK


def lives(terminal: Terminal, start: float, end: float) -> Iterator[tuple[float, list[Any]]]:
    """Let time pass, waking it when it wants to."""
    now = start
    while (wake := terminal.next_wakeup()) is not None and wake < end:
        now = max(now, wake)
        yield now, terminal.tick(now)


# --- construction and tuning --------------------------------------------------------------------------------------------


def test_exactly_one_agent() -> None:
    for arguments in ({}, {"card": card_party().card, "device": device_party().device}):
        with pytest.raises(ValueError, match="not both"):
            Terminal(**arguments)  # type: ignore[arg-type]  # on purpose
    assert (Terminal(card=card_party().card).profile, Terminal(device=device_party().device).profile) == ("smartcard", "drm")


def test_what_it_is_not_tuned_to_is_not_heard() -> None:
    terminal = entitled()
    assert terminal.receive_stkm("urn:example:other", 1, sealed(0), START) == []
    assert terminal.receive_stkm(SERVICE, 2, sealed(0), START) == []
    assert terminal.next_wakeup() is None


def test_tuning_again_while_playing_changes_nothing() -> None:
    terminal = entitled()
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    assert ready(terminal.tick(START + 1 + TUNE_IN)) == [1]
    terminal.tune(TUNING, START + 3)
    assert ready(terminal.receive_stkm(SERVICE, 1, sealed(1), START + 8)) == [2]


# --- order (R6) -------------------------------------------------------------------------------------------------------


def test_while_playing_an_early_stkm_waits_half_of_its_time() -> None:
    """n+2 overtakes n+1 on the way: n+1 still opens, because n+2 waited."""
    terminal = entitled()
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    terminal.tick(START + 2)
    assert ready(terminal.receive_stkm(SERVICE, 1, sealed(1), START + 7.0)) == []
    assert terminal.next_wakeup() == START + 7.5
    assert ready(terminal.receive_stkm(SERVICE, 1, sealed(2), START + 7.2)) == []
    assert ready(terminal.tick(START + 7.5)) == [2, 3]


def test_the_last_tek_expires_while_a_stkm_waits() -> None:
    """A key runs out between hearing the next STKM and opening it: the next one is collected anew, and opens."""
    terminal = entitled()
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    (outputs,) = [o for o in [terminal.tick(START + 2)] if ready(o)]
    until = START + 2 + 32
    assert outputs and terminal.receive_stkm(SERVICE, 1, sealed(5), until - 0.2) == []  # period 5 begins at START + 40
    assert [type(o) for o in terminal.tick(until) if not isinstance(o, Persist)] == [TekExpired]
    assert terminal.next_wakeup() == until + TUNE_IN
    opened = [now for now, o in lives(terminal, until, START + 50) if ready(o)]
    assert opened and START + 40 <= opened[0] <= START + 40 + TUNE_IN


def test_expiry_goes_dark_and_comes_back() -> None:
    terminal = entitled()
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    terminal.tick(START + 2)
    assert terminal.next_wakeup() == START + 34
    assert [type(o) for o in terminal.tick(START + 34) if not isinstance(o, Persist)] == [TekExpired]
    assert terminal.next_wakeup() is None
    assert ready(terminal.receive_stkm(SERVICE, 1, sealed(5), START + 41)) == []
    assert ready(terminal.tick(START + 42)) == [6]


def test_a_tek_that_expires_after_tuning_out() -> None:
    terminal = entitled()
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    terminal.tick(START + 2)
    terminal.tune_out(SERVICE, 1)
    assert [type(o) for o in terminal.tick(START + 40) if not isinstance(o, Persist)] == [TekExpired]
    assert terminal.next_wakeup() is None


# --- clocks -----------------------------------------------------------------------------------------------------------


def first_tek(clock_error: float, *, seconds: int = 120) -> float | None:
    """True time from tune-in to the first TEK, with a clock that is off by ``clock_error`` seconds."""
    terminal, config = entitled(), stream_config(key_period=8000)
    for tenth in range(seconds * 10):
        true = START + 16 + tenth / 10
        now = true + clock_error
        number = int(true - START) // 8
        for n in (number, number + 1) if (true - START) % 8 >= 4 else (number,):
            if ready(terminal.receive_stkm(SERVICE, 1, sealed_stkm(config, period(n), sek_material()), now)):
                return true - START - 16
        if ready(terminal.tick(now)):
            return true - START - 16
    return None


@pytest.mark.parametrize("error", [0, 0.5, 30, 3600])
def test_a_fast_clock_does_no_harm(error: float) -> None:
    found = first_tek(error)
    assert found is not None and found <= TUNE_IN + 0.2


def test_a_clock_that_is_slow_delays_the_first_key_by_as_much() -> None:
    """R6 to the letter: nothing of the future while dark.  It heals when the time that it waits for has come."""
    found = first_tek(-30)
    assert found is not None and 30 <= found <= 32
    assert first_tek(-3600) is None


def test_a_clock_set_back_while_playing_does_no_harm() -> None:
    terminal = entitled()
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    terminal.tick(START + 2)
    back = -3600
    assert ready(terminal.receive_stkm(SERVICE, 1, sealed(1), START + 8 + back)) == []
    assert ready(terminal.tick(START + 8 + TUNE_IN + back)) == [2]


@pytest.mark.parametrize("ahead", [1, 50])
def test_a_servers_clock_that_was_fast_for_a_while_does_no_harm(ahead: int) -> None:
    """What it sent of a time to come was opened; what comes next, under another key, is older and opens all the same."""
    party = card_party()
    terminal = entitled(party)
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    early = sealed(ahead)
    terminal.receive_stkm(SERVICE, 1, early, START + 4)
    assert ready(terminal.tick(START + 6)) == [1, 1 + ahead]
    assert any(isinstance(o, TekExpired) for o in terminal.tick(START + 40))
    party.card.ltkm(seal_ltkm(party, 2, sek_material(2)), START + 40)
    following = sealed_stkm(CONFIG, period(6), sek_material(2))
    assert ready(terminal.receive_stkm(SERVICE, 1, following, START + 48) + terminal.tick(START + 50)) == [7]
    assert ready(terminal.receive_stkm(SERVICE, 1, early, START + 40 + 8 * ahead) + terminal.tick(START + 60 + 8 * ahead)) == []


# --- garbage and floods -------------------------------------------------------------------------------------------------


def terminals() -> list[Terminal]:
    made = [entitled(), Terminal(device=device_party().device)]
    made[1].tune(TUNING, START)
    return made


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([0, 1]), st.booleans())
def test_garbage_is_refused_and_nothing_else(data: bytes, which: int, damaged: bool) -> None:
    """Anything may come in a datagram: no error but a ``Refused``, and no state of the card or device moves."""
    terminal = TERMINALS[which]
    if damaged:
        valid = STKMS[which], OBJECTS[which]
        data = bytes(a ^ b for a, b in zip(random.Random(data).choice(valid), data.ljust(300, b"\0"), strict=False))
        if data in (STKMS[which], OBJECTS[which]):
            return
    agent = terminal._card if isinstance(terminal._card, SimulatedCard) else terminal._device
    assert agent is not None
    before = memory(agent)
    outputs = terminal.receive_stkm(SERVICE, 1, data, START + 5) + terminal.receive_object(data, START + 5)
    outputs += terminal.tick(START + 5 + CAROUSEL_CYCLE)
    assert {type(o) for o in outputs} <= {Refused}
    assert memory(agent) == before


TERMINALS = terminals()
STKMS = sealed(0), sealed_stkm(stream_config(profiles=("drm",)), period(0), seak_material())
OBJECTS = seal_ltkm(card_party(), 9, sek_material(2)), seal_bcro(seak_material(), group_keys())


def test_a_flood_of_forged_stkms_costs_bounded_memory_and_hides_nothing() -> None:
    """64 forged STKMs a second must not keep the true one out, whatever time they claim."""
    for claimed in (START, START + 3, START + (1 << 30)):
        terminal, opened = entitled(), []
        for n in range(20 * MAX_COLLECTED):
            now = START + 4 + n / (4 * MAX_COLLECTED)
            outputs = terminal.receive_stkm(SERVICE, 1, forged(n + 1, claimed + n % 2), now)
            if n % 50 == 25:
                outputs += terminal.receive_stkm(SERVICE, 1, sealed(0), now)
            outputs += terminal.tick(now)
            opened += ready(outputs)
            (stream,) = terminal._streams.values()
            assert len(stream.heard) <= MAX_COLLECTED and len(stream.done) <= MAX_DONE
        assert opened == [1]


def test_a_flood_of_the_far_future_while_dark() -> None:
    """Nothing of it can be opened or thrown away by time: the furthest goes, and the true one opens when it comes."""
    terminal = entitled()
    for n in range(3 * MAX_COLLECTED):
        terminal.receive_stkm(SERVICE, 1, forged(n + 1, START + 1000 + 7 * n % 50), START + 1)
        (stream,) = terminal._streams.values()
        assert len(stream.heard) <= MAX_COLLECTED
    assert ready(terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)) == [1]


def test_the_work_for_one_datagram_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each datagram is parsed once when heard and once when opened, not once for each of those that wait."""
    terminal, decoded = entitled(), []
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    terminal.tick(START + 2)
    real = codec.decode

    def counted(data: bytes, kind: Any) -> object:
        decoded.append(kind)
        return real(data, kind)

    monkeypatch.setattr(codec, "decode", counted)
    for n in range(50):
        terminal.receive_stkm(SERVICE, 1, forged(n + 1, START + 100 + n), START + 3)
    assert len(decoded) == 50
    for _ in range(1000):
        terminal.receive_stkm(SERVICE, 1, sealed(0), START + 3)
    assert len(decoded) == 50


def test_what_is_done_is_forgotten_in_time() -> None:
    terminal = entitled()
    assert len(refused(terminal.receive_stkm(SERVICE, 1, b"garbage", START))) == 1
    assert terminal.receive_stkm(SERVICE, 1, b"garbage", START + 1) == []
    terminal.tick(START + 2 * TUNE_IN)
    (stream,) = terminal._streams.values()
    assert stream.done == {}
    assert len(refused(terminal.receive_stkm(SERVICE, 1, b"garbage", START + 3))) == 1


def test_a_carousel_of_others_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand subscribers share the carousel: mine must not drown, and theirs must cost nearly nothing."""
    mine, others = card_party(), card_party(2)
    terminal = Terminal(card=mine.card)
    data = [seal_ltkm(others, n, sek_material()) for n in range(1, 50)]
    monkeypatch.setattr(objects, "MAX_OBJECTS", 10)
    for item in data[:40]:
        assert terminal.receive_object(item, NOW) == []
    assert terminal.next_wakeup() is None
    terminal.receive_object(seal_ltkm(mine, 1, sek_material()), NOW)
    outputs = terminal.tick(NOW + CAROUSEL_CYCLE)
    assert refused(outputs) == [] and mine.card._journal.tables["sek"]
    bystander, group = device_party(9), Terminal(device=device_party(5).device)
    assert bystander.subscriber.udk is not None
    keys = Keys(iek=Secret(bystander.subscriber.udk), riak=bystander.subscriber.riak)  # type: ignore[arg-type]  # the ring makes an IEK
    other = seal_bcro(seak_material(), keys, address_mode=AddressMode.UNIQUE_DEVICE, position_in_group=9)
    assert group.receive_object(other, NOW) == [] and group.next_wakeup() is None


def test_a_flood_of_forged_objects_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 10)
    party = card_party()
    terminal = Terminal(card=party.card)
    fakes = card_party(2)
    idr = party.subscriber.idr.encode()
    for n in range(100):
        terminal.receive_object(seal_ltkm(fakes, n + 1, sek_material(), idr=idr), NOW)
        terminal.receive_object(b"\x99" + bytes([n]), NOW)
        assert len(terminal._objects.waiting) <= 10 and len(terminal._objects._seen) <= 10
    terminal.receive_object(seal_ltkm(party, 1, sek_material()), NOW)
    terminal.tick(NOW + CAROUSEL_CYCLE)
    assert party.card._journal.tables["sek"] and MAX_OBJECTS > 10


def test_a_flood_of_forged_objects_does_not_end_the_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: fed before all of a cycle was heard, an LTKM of a lower COUNTER that comes later would be refused as old."""
    monkeypatch.setattr(objects, "MAX_OBJECTS", 10)
    party, fakes = card_party(), card_party(2)
    terminal = Terminal(card=party.card)
    idr = party.subscriber.idr.encode()
    for n, counter in enumerate((7, 9, 3, 8)):  # tuned in amid a turn
        terminal.receive_object(seal_ltkm(party, counter, sek_material(counter)), NOW + n)
        for forged in range(25):
            terminal.receive_object(seal_ltkm(fakes, 100 * n + forged + 1, sek_material(), idr=idr), NOW + n)
        assert len(terminal._objects.waiting) < 10
    outputs = terminal.tick(NOW + CAROUSEL_CYCLE)
    assert not [text for text in refused(outputs) if "COUNTER" in text]
    assert {counter for counter in (3, 7, 8, 9) if party.card.openable() >= {sek_material(counter).key_id[3:]}} == {8, 9}, (
        "the card keeps two keys of a group: the newest"
    )


def test_a_flood_of_forged_bcros_does_not_end_the_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 10)
    party, others = device_party(5), device_party(6)
    terminal, ring = Terminal(device=party.device), []
    for each in (party, others):
        assert each.subscriber.udk is not None
        ring.append(Keys(iek=Secret(each.subscriber.udk), riak=each.subscriber.riak))  # type: ignore[arg-type]  # the ring makes an IEK
    mine, forged = ring
    mode = {"address_mode": AddressMode.UNIQUE_DEVICE, "position_in_group": 5}
    terminal.receive_object(seal_bcro(seak_material(), mine, **mode), NOW)
    for n in range(30):
        terminal.receive_object(seal_bcro(seak_material(n + 2), forged, **mode), NOW)
        assert len(terminal._objects.waiting) < 10
    assert not party.device.openable(), "collected, and not fed before the cycle's end"
    terminal.tick(NOW + CAROUSEL_CYCLE)
    assert party.device.openable()


def test_objects_that_wait_are_bounded_in_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four thousand of the largest would be 268 MB."""
    party, fakes = card_party(), card_party(2)
    data = [seal_ltkm(fakes, n + 1, sek_material(), idr=party.subscriber.idr.encode()) for n in range(50)]
    monkeypatch.setattr(objects, "MAX_OBJECT_OCTETS", 10 * len(data[0]))
    terminal = Terminal(card=party.card)
    for item in data:
        terminal.receive_object(item, NOW)
        assert terminal._objects._octets == sum(len(held.data) for held in terminal._objects.waiting) < 10 * len(data[0])


def test_a_cycle_of_very_many_true_objects_is_fed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_OBJECTS", 10)
    party = card_party()
    terminal = Terminal(card=party.card)
    for n in range(25):
        terminal.receive_object(seal_ltkm(party, n + 1, sek_material(n + 1)), NOW)
        assert len(terminal._objects.waiting) < 10
    terminal.tick(NOW + CAROUSEL_CYCLE)
    assert party.card.openable() == {sek_material(n).key_id[3:] for n in (24, 25)}


# --- objects (R7, R22) --------------------------------------------------------------------------------------------------


def test_registration_then_ltkm_then_stkm_smartcard() -> None:
    """The whole way of a new subscriber, LTKM heard before the registration."""
    party = card_party(3, registered=False)
    terminal = Terminal(card=party.card)
    terminal.tune(TUNING, START)
    assert terminal.receive_object(seal_ltkm(party, 1, sek_material()), START) == []
    assert terminal.next_wakeup() == START + CAROUSEL_CYCLE
    assert {o.table for o in terminal.receive_object(party.registration, START + 5) if isinstance(o, Persist)} == {
        "smk",
        "sqn",
        "seen",
    }
    assert terminal.receive_object(party.registration, START + 6) == []
    terminal.receive_stkm(SERVICE, 1, sealed(1), START + 8)
    assert refused(terminal.tick(START + 9)) == ["smartcard-stkm: key not available: sek"]
    assert ready(terminal.tick(START + CAROUSEL_CYCLE)) == [2], "collected before (R6): its repetition is not waited for"
    assert terminal.receive_stkm(SERVICE, 1, sealed(1), START + 11) == []


def test_a_cycle_counts_from_the_first_tuning() -> None:
    """What was on air since then is a whole cycle, whenever my LTKM came in it (R7); later ones wait for a cycle of their own."""
    party = card_party(3)
    terminal = Terminal(card=party.card)
    terminal.tune(TUNING, START)
    terminal.receive_object(seal_ltkm(party, 1, sek_material()), START + 7)
    assert terminal.next_wakeup() == START + CAROUSEL_CYCLE
    terminal.tick(START + CAROUSEL_CYCLE)
    terminal.receive_object(seal_ltkm(party, 2, sek_material(2)), START + 12)
    assert terminal.next_wakeup() == START + 12 + CAROUSEL_CYCLE
    terminal.feed(START + 13)
    assert terminal.next_wakeup() is None and terminal.feed(START + 13) == []
    assert terminal.openable() == {sek_material().key_id[3:], sek_material(2).key_id[3:]}


def test_after_a_restart_the_keys_are_told_again() -> None:
    """R42: what a player may use, oldest first; and who the card is on the interaction channel."""
    party = card_party(3, registered=False)
    terminal = Terminal(card=party.card)
    assert terminal.account() is None and Terminal(device=device_party().device).account() is None
    outputs = [*terminal.tune(TUNING, START), *terminal.receive_object(party.registration, START)]
    outputs += terminal.receive_object(seal_ltkm(party, 1, sek_material()), START)
    outputs += terminal.feed(START)
    for n in range(2):
        outputs += terminal.receive_stkm(SERVICE, 1, sealed(n), START + 8 * n + 1)
        outputs += terminal.tick(START + 8 * n + 2)
    state: State = {}
    for row in outputs:
        if isinstance(row, Persist):
            state.setdefault(row.table, {})[row.key] = row.value
    again = Terminal(card=SimulatedCard(k=K(bytes(16)), opc=OPC(bytes(16)), impi="x", state=state), state=state)
    assert again.held(START + 11) == [o for o in outputs if isinstance(o, TekReady)] and len(again.held(START + 11)) == 2
    assert again.held(START + 10_000) == []
    account = again.account()
    assert account is not None and account[0] == party.subscriber.idr and len(account[1]) == 32


def test_of_what_lacked_a_key_only_what_is_of_use_is_opened() -> None:
    """Three periods have gone by until the LTKM came: the running one and the next are opened, the card is spared the others."""
    party = card_party(3)
    terminal = Terminal(card=party.card)
    terminal.tune(TUNING, START)
    for n in range(4):
        terminal.receive_stkm(SERVICE, 1, sealed(n), START + 8 * n + 1)
        terminal.tick(START + 8 * n + 2)
    terminal.receive_stkm(SERVICE, 1, sealed(4), START + 29)
    terminal.tick(START + 30)
    terminal.receive_object(seal_ltkm(party, 1, sek_material()), START + 30)
    assert ready(terminal.feed(START + 30)) == [4, 5]


def test_registration_then_ltkm_then_stkm_drm() -> None:
    """The registration is lost in the first cycle: the BCRO heard then is taken in the next one, not in a hundred seconds."""
    party = device_party(registered=False)
    terminal, bcro = Terminal(device=party.device), seal_bcro(seak_material(), group_keys())
    terminal.tune(TUNING, START)
    terminal.receive_object(bcro, START)
    assert refused(terminal.tick(START + CAROUSEL_CYCLE)) == ["drm-ltkm: key not available: iek"]
    terminal.receive_object(party.registration, START + 11)
    terminal.receive_object(bcro, START + 12)
    terminal.tick(START + 22)
    terminal.receive_stkm(SERVICE, 1, sealed_stkm(stream_config(profiles=("drm",)), period(3), seak_material()), START + 25)
    assert [o.mki for o in terminal.tick(START + 26) if isinstance(o, TekReady)] == [counter_of(START + 24).to_bytes(4, "big")]


def test_new_keys_give_what_was_refused_another_chance() -> None:
    """The group got new keys; the BCRO under them came before the registration that brings them."""
    rng = random.Random(5)
    group = replace(GROUP_KEYS, ugk=UGK(rng.randbytes(16)), riak=RIAK(rng.randbytes(16)))
    party = device_party()
    terminal = Terminal(device=party.device)
    bcro = seal_bcro(seak_material(), Keys(iek=IEK(group.ugk), riak=group.riak))
    terminal.receive_object(bcro, NOW)
    assert refused(terminal.tick(NOW + 10)) == ["drm-ltkm: integrity check failed"]
    assert terminal.receive_object(bcro, NOW + 11) == [] and terminal.next_wakeup() is None
    registration = device_registration(
        rights_issuer()[0], udn=party.device.udn, device_key=rsa_key(1).public_key(), group=group, subscriber=party.subscriber,
        now=NOW + 12,
    )  # fmt: skip
    terminal.receive_object(registration, NOW + 12)
    terminal.receive_object(bcro, NOW + 21)
    assert refused(terminal.tick(NOW + 31)) == [] and party.device._journal.tables["right"]


def test_an_ltkm_without_its_smk_is_taken_up_in_the_next_cycle() -> None:
    """The SMK came by another way than the carousel, a second too late."""
    party = card_party(registered=False)
    terminal, data = Terminal(card=party.card), seal_ltkm(party, 1, sek_material())
    terminal.receive_object(data, NOW)
    assert refused(terminal.tick(NOW + 10)) == ["smartcard-ltkm: key not available: smk"]
    party.card.register(party.registration, NOW + 11)
    terminal.receive_object(data, NOW + 12)
    terminal.tick(NOW + 22)
    assert party.card._journal.tables["sek"]


def test_the_other_profile_and_unknown_objects() -> None:
    """A carousel carries both profiles, and what comes after us."""
    card, device = Terminal(card=card_party().card), Terminal(device=device_party().device)
    drm = seal_bcro(seak_material(), group_keys()), device_party(6, registered=False).registration
    smartcard = seal_ltkm(card_party(), 1, sek_material()), card_party(4, registered=False).registration
    for terminal, foreign in ((card, drm), (device, smartcard)):
        for data in foreign:
            assert terminal.receive_object(data, NOW) == []
        for data in (b"", b"\x77 something new"):
            assert len(refused(terminal.receive_object(data, NOW))) == 1
            assert terminal.receive_object(data, NOW) == []
        assert terminal.next_wakeup() is None


def test_a_refused_registration_is_looked_at_again() -> None:
    """The clock was wrong when the terminal was switched on; the carousel repeats the same bytes."""
    party = card_party(3, registered=False, now=START)
    terminal = Terminal(card=party.card)
    far = START + 10 * 365 * 86400
    assert refused(terminal.receive_object(party.registration, far)) == ["smartcard-registration: registration has ended"]
    assert terminal.receive_object(party.registration, far + 1) == []
    after = far + RETRY_CYCLES * CAROUSEL_CYCLE
    assert len(refused(terminal.receive_object(party.registration, after))) == 1
    others, foreign = device_party(6, registered=False).registration, Terminal(device=device_party(5).device)
    assert refused(foreign.receive_object(others, NOW)) == ["drm-registration: key not available: registration of another device"]
    assert foreign.receive_object(others, NOW + 1) == []


def test_an_update_for_everyone_is_heard_once() -> None:
    """A message of the registration family that gives no keys is no reason to look at everything again."""
    issuer, _ = rights_issuer()
    bare = RegistrationMessage(
        message_tag=RegistrationTag.update_drmtime_msg, longform_udn="F" * 20, signature_type=2048, body=b"", signature=b""
    )
    terminal, data = Terminal(device=device_party().device), codec.seal(bare, Keys(rights_issuer_key=issuer.key))
    terminal.receive_object(b"\x77", NOW)
    assert terminal.receive_object(data, NOW) == [] and terminal.receive_object(data, NOW + 1) == []
    assert terminal.receive_object(b"\x77", NOW + 1) == []


def test_refusals_of_the_card_are_reported_and_retried_later() -> None:
    party = card_party()
    terminal = Terminal(card=party.card)
    new, old = seal_ltkm(party, 9, sek_material()), seal_ltkm(party, 8, sek_material())
    terminal.receive_object(new, NOW)
    terminal.tick(NOW + 10)
    terminal.receive_object(old, NOW + 11)
    terminal.receive_object(old, NOW + 12)
    assert refused(terminal.tick(NOW + 21)) == ["smartcard-ltkm: LTKM COUNTER is not above the stored one"]
    assert terminal.receive_object(old, NOW + 22) == [] and terminal.next_wakeup() is None
    terminal.receive_object(old, NOW + 22 + RETRY_CYCLES * CAROUSEL_CYCLE)
    assert terminal.next_wakeup() is not None
    assert terminal.receive_object(new, NOW + 10_000) == []  # what was taken is never looked at again


def test_an_ltkm_without_a_counter_is_refused() -> None:
    party = card_party()
    data = bytearray(seal_ltkm(party, 1, sek_material()))
    assert data[26] == 2
    data[26] = 3  # NTP-UTC-32, of the same size
    assert refused(Terminal(card=party.card).receive_object(bytes(data), NOW)) == [
        "smartcard-ltkm: bad_value: T: expected a COUNTER, found none"
    ]


def test_a_verification_is_asked_for_by_the_interaction_channel() -> None:
    party = card_party()
    terminal = Terminal(card=party.card)
    terminal.receive_object(seal_ltkm(party, 1, sek_material(), verification_requested=True), NOW)
    (answer,) = [o for o in terminal.tick(NOW + CAROUSEL_CYCLE) if isinstance(o, Answer)]
    keys = Keys(smk=party.subscriber.smk, rand=sek_material().rand, idi=b"bsm.example.com")
    assert codec.open(answer.data, keys, "smartcard-verification")


def test_a_withdrawal_through_the_carousel_ends_the_right() -> None:
    party = card_party()
    terminal = entitled(party)
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    terminal.tick(START + 2)
    terminal.receive_object(seal_withdrawal(party, 5, sek_material()), START + 3)
    terminal.tick(START + 13)
    assert refused(terminal.receive_stkm(SERVICE, 1, sealed(2), START + 16)) == ["smartcard-stkm: key not available: sek"]


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smartcard", "drm"])
def test_parental_rating_of_the_terminal(profile: str) -> None:
    """Refused before the card or agent is asked: neither moves, and the STKM opens as soon as the level allows."""
    config = stream_config(profiles=(profile,))
    policy = Policy(access_criteria=(AccessCriterion(1, b"\x05\x12"), AccessCriterion(0x80, b"own"), AccessCriterion(2, b"\1\1")))
    key = sek_material() if profile == "smartcard" else seak_material()
    data = sealed_stkm(config, period(0), key, policy=policy)
    for level, opens in (({5: 0x11}, False), ({5: 0x12}, True), ({6: 0}, True)):
        if profile == "smartcard":
            terminal = entitled(card_party(), parental=level)
        else:
            device = device_party().device
            device.ltkm(seal_bcro(seak_material(), group_keys()))
            terminal = Terminal(device=device, parental=level)
            terminal.tune(TUNING, START)
        machine: Any = terminal._agent
        before = memory(machine)
        terminal.receive_stkm(SERVICE, 1, data, START + 1)
        outputs = terminal.tick(START + 2)
        assert any(isinstance(o, TekReady) for o in outputs) is opens
        if not opens:
            assert refused(outputs) == [f"{profile}-stkm: key not available: parental rating"]
            machine.take()
            assert memory(machine) == before


def test_parental_rating_of_the_card() -> None:
    """The level that the BSM set on the card holds in every terminal, and after a restart of the card."""
    party = card_party()
    party.card.ltkm(seal_parental(party, 1, 5, 0x11), NOW)
    terminal = entitled_with_counter(party, 2)
    data = sealed_stkm(CONFIG, period(0), sek_material(), policy=Policy(access_criteria=(AccessCriterion(1, b"\x05\x12"),)))
    terminal.receive_stkm(SERVICE, 1, data, START + 1)
    assert refused(terminal.tick(START + 2)) == ["smartcard-stkm: key not available: parental rating"]
    party.card.ltkm(seal_parental(party, 3, 5, 0x12), NOW)
    terminal.receive_stkm(SERVICE, 1, data, START + 4)
    assert ready(terminal.tick(START + 5)) == [1]


def entitled_with_counter(party: CardParty, counter: int) -> Terminal:
    party.card.ltkm(seal_ltkm(party, counter, sek_material()), NOW)
    terminal = Terminal(card=party.card)
    terminal.tune(TUNING, START)
    return terminal


def test_a_tek_that_is_bound_to_other_terminals_is_no_tek() -> None:
    """R18: the 16 bytes inside are wrapped under a TBK; played as a key they would be noise, and the COUNTER gone."""
    party = card_party()
    terminal, sek = entitled(party), sek_material()
    management = StkmManagement(
        protection_after_reception=3, traffic_protection_protocol=Protocol.SRTP, traffic_authentication_flag=True,
        traffic_key_lifetime=5, terminal_binding=TerminalBinding(1, b"urn:issuer"),
    )  # fmt: skip
    clear = ClearSmartcardStkm(
        counter=counter_of(START), key_domain_id=sek.key_id[:3], sek_id=sek.key_id[3:], tek_id=b"\0\1", management=management,
        tek=Secret(bytes(16)), salt=bytes(14),
    )  # fmt: skip
    data = codec.seal(clear, Keys(sek=sek.key, csb_id=sek.csb_id, rand=sek.rand))  # type: ignore[arg-type]  # the ring makes a SEK
    before = memory(party.card)
    terminal.receive_stkm(SERVICE, 1, data, START + 1)
    assert refused(terminal.tick(START + 2)) == ["smartcard-stkm: key not available: tbk"]
    assert memory(party.card) == before


# --- restart ----------------------------------------------------------------------------------------------------------


def test_a_restarted_terminal_plays_on() -> None:
    """Card, device and terminal may share one store; each leaves the others' rows alone."""
    party = card_party()
    terminal = entitled(party)
    terminal.receive_stkm(SERVICE, 1, sealed(0), START + 1)
    state: dict[str, dict[tuple[object, ...], object]] = {t: dict(rows) for t, rows in party.card._journal.tables.items()}
    for output in terminal.tick(START + 2):
        if isinstance(output, Persist):
            state.setdefault(output.table, {})[output.key] = output.value
    card = SimulatedCard(k=party.card._milenage._k, opc=party.card._milenage._opc, impi=party.card._impi, state=state)
    again = Terminal(card=card, state=state)
    again.tune(TUNING, START + 3)
    assert again.receive_stkm(SERVICE, 1, sealed(0), START + 4) == []
    assert ready(again.receive_stkm(SERVICE, 1, sealed(1), START + 8)) == [2]


def test_a_store_of_something_else_is_refused() -> None:
    with pytest.raises(StoreError, match="tek"):
        Terminal(card=card_party().card, state={"tek": {(1, 2, 3): "?"}}).next_wakeup()
    with pytest.raises(StoreError, match="smk"):
        card = SimulatedCard(
            k=card_party().card._milenage._k, opc=card_party().card._milenage._opc, impi="x", state={"smk": {(1,): 2}}
        )
        card.identities()


def test_a_device_plays_after_the_end_of_a_right() -> None:
    """The TEK that it has is its to use until its lifetime ends; the next does not open."""
    device = device_party().device
    device.ltkm(seal_bcro(seak_material(), group_keys(), refresh_time=START + 8))
    terminal, config = Terminal(device=device), stream_config(profiles=("drm",))
    terminal.tune(TUNING, START)
    terminal.receive_stkm(SERVICE, 1, sealed_stkm(config, period(0), seak_material()), START + 1)
    assert [o for o in terminal.tick(START + 2) if isinstance(o, TekReady)]
    assert refused(terminal.receive_stkm(SERVICE, 1, sealed_stkm(config, period(1), seak_material()), START + 9)) == [
        "drm-stkm: key not available: seak"
    ]


def test_unused_device_calls_are_typed() -> None:
    """What a wrong call of an agent raises is an error of ours."""
    device = Device(udn="0" * 20, key=rsa_key(0), anchors=[])
    with pytest.raises(KeyUnavailable):
        device.ltkm(seal_bcro(seak_material(), group_keys()))
    with pytest.raises(BcastError):
        device.stkm(b"", stream=(), socID=SOC, serviceBaseCID=BASE, now=NOW)
