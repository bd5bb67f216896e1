# SPDX-License-Identifier: Apache-2.0
"""The simulated card beyond the numbered rules: parental control, conditions it cannot hold, verification, its memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room_support import (
    NOW,
    START,
    card_party,
    period,
    refuses,
    seal_ltkm,
    seal_parental,
    seal_withdrawal,
    sealed_stkm,
    sek_material,
    stream_config,
)

from pybcast import codec
from pybcast.errors import BadValue, BcastError, Integrity, KeyUnavailable, Replay, Unsupported
from pybcast.flows import Persist, SimulatedCard
from pybcast.flows.serial import counter_of
from pybcast.flows.tables import SekState
from pybcast.flows.terminal.card import SekFile, check_parental
from pybcast.keys import SEK, Keys
from pybcast.messages import AccessCriterion, LtkmManagement, SecurityPolicyExtension, TerminalBinding
from pybcast.testing.link import Store
from pybcast.testing.parties import CardParty

CONFIG = stream_config()


def restarted(party: CardParty, store: Store) -> SimulatedCard:
    card = party.card
    return SimulatedCard(k=card._milenage._k, opc=card._milenage._opc, impi=card._impi, state=store.copy())


def keep(store: Store, card: SimulatedCard) -> None:
    for output in card.take():
        assert isinstance(output, Persist)
        store.write(output)


def test_what_is_persisted_is_what_it_knows() -> None:
    """The card made again from its ``Persist`` outputs has the same memory."""
    party, store = card_party(registered=False), Store()
    party.card.register(party.registration, NOW)
    for n in range(1, 5):
        party.card.ltkm(seal_ltkm(party, n, sek_material(n)), NOW)
    party.card.ltkm(seal_parental(party, 9, 1, 12), NOW)
    party.card.stkm(sealed_stkm(CONFIG, period(0), sek_material(4)))
    party.card.ltkm(seal_withdrawal(party, 10, sek_material(3)), NOW)
    keep(store, party.card)
    assert restarted(party, store)._journal.tables == {t: rows for t, rows in party.card._journal.tables.items() if rows}


@pytest.mark.parametrize(
    "management",
    [
        LtkmManagement(security_policy_ext=SecurityPolicyExtension(security_policy_extension=4, cost_value=5)),
        LtkmManagement(access_criteria=(AccessCriterion(1, b"\0\1"),)),
        LtkmManagement(terminal_binding=TerminalBinding(1, b"urn:issuer")),
    ],
)
def test_conditions_it_cannot_hold_are_refused(management: LtkmManagement) -> None:
    """Pay-per-time taken without a purse is free television."""
    party = card_party()
    data = seal_ltkm(party, 1, sek_material(), management=management)
    refuses(party.card, Unsupported, lambda: party.card.ltkm(data, NOW))
    assert party.card.ltkm(seal_ltkm(party, 2, sek_material(), management=LtkmManagement()), NOW) is None


def test_parental_control_is_kept_and_answered() -> None:
    party, store = card_party(registered=False), Store()
    party.card.register(party.registration, NOW)
    answer = party.card.ltkm(seal_parental(party, 1, 5, 12, verify=True), NOW)
    assert answer is not None
    keys = Keys(smk=party.subscriber.smk, rand=bytes(16), idi=b"bsm.example.com")
    assert codec.open(answer, keys, "smartcard-verification")
    party.card.ltkm(seal_parental(party, 2, 6, 3), NOW)
    keep(store, party.card)
    card = restarted(party, store)
    assert card.parental == party.card.parental == {5: 12, 6: 3}


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_parental_levels(rating_type: int, rating: int, level_type: int, level: int) -> None:
    """A level grants every rating up to itself, of its own type; what is no rating is not looked at."""
    allowed = rating_type != level_type or rating <= level
    for criteria in (None, (), (AccessCriterion(2, bytes([level_type, 255])), AccessCriterion(1, b"?"))):
        check_parental(criteria, {level_type: level})
    criterion = AccessCriterion(1, bytes([rating_type, rating]))
    if allowed:
        check_parental((criterion,), {level_type: level})
    else:
        with pytest.raises(KeyUnavailable):
            check_parental((criterion,), {level_type: level})


def test_a_withdrawal_with_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: it carries 16 zero bytes.  No builder makes another, so the check of the builder is turned off here."""
    party = card_party()
    party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)
    with monkeypatch.context() as patch:
        patch.setattr("pybcast.codec._core.SEALERS", {})  # the reference builds it
        patch.setattr("pybcast.codec._smartcard._ZERO_KEY", sek_material().key.reveal())
        data = seal_ltkm(party, 2, sek_material(), ts_low=0xFFFFFFFF, ts_high=0)
    refuses(party.card, BadValue, lambda: party.card.ltkm(data, NOW))


def test_an_smk_of_someone_else() -> None:
    """An LTKM for another card, also when it says my B-TID."""
    mine, other = card_party(1), card_party(2)
    refuses(mine.card, KeyUnavailable, lambda: mine.card.ltkm(seal_ltkm(other, 1, sek_material()), NOW))
    data = seal_ltkm(other, 1, sek_material(), idr=mine.subscriber.idr.encode())
    refuses(mine.card, Integrity, lambda: mine.card.ltkm(data, NOW))
    data = seal_ltkm(mine, 1, sek_material(), idi=b"another.example.com")
    refuses(mine.card, KeyUnavailable, lambda: mine.card.ltkm(data, NOW))


def test_an_stkm_opens_with_the_csb_id_of_its_own_header() -> None:
    """smartcard-profile 4.4: any value, compared with nothing; a wrong one shows as a wrong MAC.  The RAND is the SEK's."""
    party = card_party()
    party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)
    party.card.stkm(sealed_stkm(CONFIG, period(0), sek_material()))
    other = sealed_stkm(CONFIG, period(1), sek_material(csb_id=b"abcd"))
    refuses(party.card, Integrity, lambda: party.card.stkm(other[:4] + b"abce" + other[8:]))
    party.card.stkm(other)
    refuses(party.card, Integrity, lambda: party.card.stkm(sealed_stkm(CONFIG, period(2), sek_material(rand=b""))))
    refuses(party.card, Integrity, lambda: party.card.stkm(sealed_stkm(CONFIG, period(2), sek_material(rand=bytes(16)))))


def test_a_provisioned_key_has_an_empty_rand() -> None:
    """smartcard-profile 4.4: the card was given it without an LTKM."""
    party, sek = card_party(), sek_material(rand=b"")
    row = SekFile(SekState.INSTALLED, SEK(sek.key), b"", counter_of(START - 2), ((counter_of(START - 1), counter_of(START + 639)),))
    party.card._seks.put((sek.key_id[:3], sek.key_id[3:]), row)
    party.card.stkm(sealed_stkm(CONFIG, period(0), sek))
    refuses(party.card, Integrity, lambda: party.card.stkm(sealed_stkm(CONFIG, period(1), sek_material())))
    party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)  # delivered after all: its RAND takes the empty one's place
    party.card.stkm(sealed_stkm(CONFIG, period(1), sek_material()))


@pytest.mark.parametrize("sek_id", ["00000001", "00010000"])
def test_an_id_that_names_no_key_is_not_installed(sek_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """smartcard-profile 4.3: Key Group 0 is forbidden, Key Number 0 asks for the current one.  No builder makes such a message."""
    party = card_party()
    with monkeypatch.context() as patch:
        patch.setattr("pybcast.codec._core.SEALERS", {})  # the reference builds it
        patch.setattr("pybcast.codec._smartcard._names_key", lambda sek_id: None)
        data = seal_ltkm(party, 1, sek_material(), sek_id=bytes.fromhex(sek_id))
    refuses(party.card, BadValue, lambda: party.card.ltkm(data, NOW))
    assert not party.card._journal.tables.get("sek")


def test_the_same_window_twice_is_kept_once() -> None:
    party = card_party()
    for n in (1, 2, 3):
        party.card.ltkm(seal_ltkm(party, n, sek_material()), NOW)
    (row,) = party.card._journal.tables["sek"].values()
    assert row.windows == ((counter_of(START - 1), counter_of(START + 639)),)  # type: ignore[attr-defined]  # a SekFile


@given(st.lists(st.tuples(st.sampled_from("LWS"), st.integers(1, 4), st.integers(0, 20)), max_size=25))
def test_a_card_never_opens_twice_nor_without_a_right(work: list[tuple[str, int, int]]) -> None:
    """Any order of LTKMs, withdrawals and STKMs of four SEKs: what opens is newer than all opened before under that SEK, the SEK is
    installed, and at most the two newest of the group are.
    """
    party, held, opened = PARTY, dict[int, bool](), dict[int, int]()
    card = SimulatedCard(
        k=party.card._milenage._k, opc=party.card._milenage._opc, impi=party.card._impi, state=party.card._journal.tables
    )
    for counter, (what, number, at) in enumerate(work, 1):
        sek = sek_material(number)
        if what == "L":
            card.ltkm(seal_ltkm(party, counter, sek), NOW)
            if number not in held and len(held) == 2:
                if number < min(held):
                    continue  # two newer ones are there: it takes nobody's place
                opened.pop(min(held), None)
                del held[min(held)]
            held[number] = True
        elif what == "W":
            card.ltkm(seal_withdrawal(party, counter, sek), NOW)
            held.update({number: False} if number in held else {})
        else:
            try:
                card.stkm(sealed_stkm(CONFIG, period(at), sek))
            except KeyUnavailable:
                assert not held.get(number)
            except Replay:
                assert held[number] and at <= opened[number]
            else:
                assert held[number] and at > opened.get(number, -1)
                opened[number] = at


PARTY = card_party()


def test_every_refusal_of_a_card_is_typed() -> None:
    """Bytes of every kind to every door."""
    party = card_party()
    things: list[bytes] = [b"", b"\x01", b"\x40", bytes(300), party.registration, sealed_stkm(CONFIG, period(0), sek_material())]
    doors: list[Any] = [lambda d: party.card.ltkm(d, NOW), party.card.stkm, lambda d: party.card.register(d, NOW)]
    for door in doors:
        for data in things:
            if door is doors[2] and data is party.registration:
                assert door(data) is None
            else:
                refuses(party.card, BcastError, lambda door=door, data=data: door(data))  # type: ignore[misc]
