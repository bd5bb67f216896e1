# SPDX-License-Identifier: Apache-2.0
"""Rules R1-R10: keys, counters and key streams.  Each test says which attack or accident its rule prevents."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room_support import (
    DOMAIN,
    GROUP,
    NOW,
    SERVICE,
    START,
    TUNING,
    WRAP,
    card_party,
    period,
    refuses,
    seal_ltkm,
    seal_parental,
    seal_withdrawal,
    sealed_stkm,
    sek_material,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.codec import WITHDRAWAL
from pybcast.errors import BadValue, BcastError, ConfigError, Integrity, KeyUnavailable, PeerFlowError, Replay
from pybcast.flows import Period, Persist, Schedule, SimulatedCard, StreamConfig, TekReady, Terminal
from pybcast.flows.journal import Journal
from pybcast.flows.serial import MOD, counter_of, distance, in_window, near, newer
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import ALLOCATED, RESTORE_JUMP, SMK_COUNTERS, Allocator, Ask, Sealed, SealedBlock, SmkCounters
from pybcast.flows.stream.config import CAROUSEL_CYCLE, TUNE_IN
from pybcast.flows.stream.schedule import check_period
from pybcast.flows.stream.stkm import Policy
from pybcast.flows.terminal.card import KEYS_PER_GROUP
from pybcast.messages import Protocol, SmartcardLtkm, SmartcardStkm
from pybcast.secret import Secret

KEY_ID = b"key-one"
counters = st.integers(0, MOD - 1)


def seal(allocator: Allocator, key_id: bytes, of: Period, digest: bytes, make: Callable[[], bytes]) -> bytes:
    """One STKM alone."""
    (sealed,) = allocator.seal_many(key_id, [Ask(of, digest)], lambda _: [make()])
    if isinstance(sealed, BcastError):
        raise sealed
    return sealed


# --- R1 ---------------------------------------------------------------------------------------------------------------


def test_r01_same_ask_same_bytes_whatever_the_policy_is_now() -> None:
    """The policy changes between main's and back-up's ask: a second sealing would put two messages under one key stream."""
    config, sek, p = stream_config(generation="bsm"), sek_material(), period(1)
    content = stkm.partial(config, "smartcard", p, traffic_key(config))
    digest = stkm.owned_digest(config, p, content)
    allocator = Allocator(Journal())
    made = [
        seal(allocator, KEY_ID, p, digest, lambda par=par: stkm.seal(content, config, p, {"SEK": sek}, Policy(par)))  # type: ignore[misc]
        for par in (3, 1)
    ]
    assert made[0] == made[1]
    message = codec.decode(made[0], "smartcard-stkm")
    assert isinstance(message, SmartcardStkm) and message.management is not None
    assert message.management.protection_after_reception == 3


def test_r01_another_ask_for_the_same_counter_is_refused() -> None:
    """Another TEK, salt, lifetime or period end under a used COUNTER: XOR of the two messages would give the difference of keys."""
    config, p = stream_config(generation="bsm"), period(1)
    allocator = Allocator(journal := Journal())
    digest = stkm.owned_digest(config, p, stkm.partial(config, "smartcard", p, traffic_key(config, 1)))
    seal(allocator, KEY_ID, p, digest, lambda: b"first")
    journal.take()
    for other_config, other_period, seed in (
        (config, p, 2),
        (config, Period(1, p.start, p.end + 8), 1),
        (stream_config(period=80, look_ahead=1), p, 1),
        (stream_config(traffic_authentication_flag=False), p, 1),
        (stream_config(protocol=Protocol.ISMACRYP), p, 1),
    ):
        content = stkm.partial(other_config, "smartcard", other_period, traffic_key(other_config, seed))
        other = stkm.owned_digest(other_config, other_period, content)
        with pytest.raises(PeerFlowError) as caught:
            seal(allocator, KEY_ID, p, other, lambda: b"second")
        assert caught.value.status == 27
    assert journal.take() == []


def test_r01_asks_for_one_counter_in_one_go() -> None:
    """A message that names a period twice: the same gets the same bytes, another one is refused, and its neighbours are sealed."""
    allocator, calls = Allocator(Journal()), list[list[int]]()
    asks = [Ask(period(1), b"d"), Ask(period(2), b"d"), Ask(period(1), b"d"), Ask(period(1), b"e")]

    def make(new: list[int]) -> list[bytes | BcastError]:
        calls.append(new)
        return [b"%d" % n for n in new]

    *good, other = allocator.seal_many(KEY_ID, asks, make)
    assert (good, calls) == ([b"0", b"1", b"0"], [[0, 1]])
    assert isinstance(other, PeerFlowError) and other.status == 27


def test_r01_what_could_not_be_sealed_uses_no_counter() -> None:
    """One of a batch cannot be said: it may be sealed when it can, and the others are kept."""
    allocator = Allocator(Journal())
    asks = [Ask(period(n), b"d") for n in (1, 2, 3)]
    first, bad, last = allocator.seal_many(KEY_ID, asks, lambda _: [b"1", BadValue(None, "field", "good", "bad"), b"3"])
    assert (first, last) == (b"1", b"3") and isinstance(bad, BadValue)
    assert set(allocator.sealed(KEY_ID)) == {period(1).start, period(3).start}
    assert allocator.seal_many(KEY_ID, asks, lambda new: [b"%d" % n for n in new]) == [b"1", b"1", b"3"]


def test_r01_drm_asks_are_told_apart_too() -> None:
    """The back-up with another TEK or another id: two headends with different STKMs for one period."""
    config = stream_config(profiles=("drm",))
    digests = {
        stkm.owned_digest(c, p, stkm.partial(c, "drm", p, traffic_key(c, seed)))
        for c, p, seed in (
            (config, period(1), 1),
            (config, period(1), 2),
            (config, period(2), 1),
            (stream_config(profiles=("drm",), protocol=Protocol.IPSEC), period(1), 1),
        )
    }
    assert len(digests) == 4


def test_r01_the_message_is_stored_before_it_leaves() -> None:
    """A crash between sealing and storing, and the next process would seal the same COUNTER again."""
    allocator = Allocator(journal := Journal())
    data = seal(allocator, KEY_ID, period(1), b"d", lambda: b"sealed")
    allocator.flush()
    start = period(1).start
    block = SealedBlock(((start, Sealed(b"d", data, period(1).end)),))
    assert journal.take() == [Persist(ALLOCATED.name, (KEY_ID, start), block)]
    again = Allocator(Journal(journal.tables))
    assert seal(again, KEY_ID, period(1), b"d", lambda: b"other") == b"sealed"


def test_r01_r05_below_the_last_one_sent_nothing_is_sealed() -> None:
    """A BSD/A from an old database asks for what has been on air: its COUNTER may be used already."""
    allocator = Allocator(journal := Journal())
    allocator.sent(KEY_ID, period(5).start)
    allocator.sent(KEY_ID, period(3).start)  # a report that comes late lowers nothing
    assert allocator.floor(KEY_ID) == period(5).start
    for number in (0, 4, 5):
        with pytest.raises(PeerFlowError) as caught:
            seal(allocator, KEY_ID, period(number), b"d", lambda: b"x")
        assert caught.value.status == 27
    assert seal(allocator, KEY_ID, period(6), b"d", lambda: b"x") == b"x"
    assert seal(allocator, b"another key", period(0), b"d", lambda: b"y") == b"y"
    assert Allocator(Journal(journal.tables)).floor(KEY_ID) == period(5).start


def test_r01_pruning_does_not_free_a_counter() -> None:
    """R41 forgets STKMs that have ended; their COUNTERs must not come back with the room."""
    allocator = Allocator(journal := Journal())
    for number in (0, 1, 9):
        seal(allocator, KEY_ID, period(number), b"d", lambda: b"x")
    allocator.prune(period(5).start)
    assert set(allocator.sealed(KEY_ID)) == {period(9).start}
    for number in (0, 1):
        with pytest.raises(PeerFlowError):
            seal(allocator, KEY_ID, period(number), b"d", lambda: b"x")
    assert allocator.next_wakeup() == period(9).end
    allocator.forget(KEY_ID)
    assert not any(journal.tables.values())
    allocator.prune(period(20).start)
    assert not any(journal.tables.values()) and allocator.next_wakeup() is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from(["seal", "sent", "burn", "prune", "restart"]))))
def test_r01_never_two_messages_for_one_counter(work: list[tuple[int, int, str]]) -> None:
    """In any order of asks, reports, withdrawals, pruning and restarts."""
    journal = Journal()
    allocator, given_out, count = Allocator(journal), dict[int, bytes](), 0
    for number, variant, what in work:
        p, count = period(number), count + 1
        match what:
            case "seal":
                with contextlib.suppress(PeerFlowError):
                    data = seal(allocator, KEY_ID, p, bytes([variant]), lambda count=count: b"%d" % count)  # type: ignore[misc]
                    assert given_out.setdefault(p.start, data) == data
            case "sent":
                allocator.sent(KEY_ID, p.start)
            case "burn":
                allocator.burn(KEY_ID, p.start)
            case "prune":
                allocator.prune(p.start)
            case _:
                journal = Journal(journal.tables)
                allocator = Allocator(journal)
        allocator.flush()  # the end of an input


# --- R2 ---------------------------------------------------------------------------------------------------------------


def test_r02_one_rising_counter_for_each_smk_stored_before_use() -> None:
    """Two LTKMs under one SMK and COUNTER show the difference of their keys; a crash must not bring a COUNTER back."""
    counters = SmkCounters(journal := Journal())
    assert [counters.next("a"), counters.next("a"), counters.next("b"), counters.next("a")] == [1, 2, 1, 3]
    assert [(o.key, o.value) for o in journal.take() if isinstance(o, Persist)] == [(("a",), 3), (("b",), 1)]
    assert SmkCounters(Journal(journal.tables)).next("a") == 4


def test_r02_a_restored_store_jumps_past_what_it_cannot_know() -> None:
    """The BSM restored from an older copy: it has given out COUNTERs that the copy does not remember."""
    counters = SmkCounters(journal := Journal())
    counters.next("a")
    copy = Journal(journal.tables)
    for _ in range(1000):
        counters.next("a")
    restored = SmkCounters(copy)
    restored.jump(RESTORE_JUMP)
    assert restored.next("a") == 1 + RESTORE_JUMP + 1 > counters.next("a")


def test_r02_the_counter_wraps_and_a_new_smk_restarts_it() -> None:
    """A COUNTER that stops at 2^32, or goes on under a new SMK from where a card does not expect it."""
    counters = SmkCounters(Journal({SMK_COUNTERS.name: {("a",): MOD - 2}}))
    assert [counters.next("a"), counters.next("a")] == [MOD - 1, 0]
    counters.restart("a")
    assert counters.next("a") == 1


def test_r02_parental_control_uses_the_same_counter_on_the_card() -> None:
    """A parental control message replayed after the level was lowered."""
    party = card_party()
    old = seal_parental(party, 5, 1, 18)
    party.card.ltkm(old, NOW)
    party.card.ltkm(seal_parental(party, 6, 1, 12), NOW)
    refuses(party.card, Replay, lambda: party.card.ltkm(old, NOW))
    refuses(party.card, Replay, lambda: party.card.ltkm(seal_ltkm(party, 6, sek_material()), NOW))
    assert party.card.parental == {1: 12}


def test_r02_an_smk_put_on_the_card_again_keeps_its_counter() -> None:
    """The same SMK delivered twice with its COUNTER forgotten would let every old LTKM in again."""
    party = card_party()
    old = seal_ltkm(party, 5, sek_material())
    party.card.ltkm(old, NOW)
    smk = party.subscriber.smk
    assert smk is not None
    party.card.install(smk, idi=b"bsm.example.com", idr=party.subscriber.idr.encode(), until=START + 999)
    refuses(party.card, Replay, lambda: party.card.ltkm(old, NOW))


# --- R3 ---------------------------------------------------------------------------------------------------------------


def test_r03_the_first_stkm_of_a_new_sek_opens() -> None:
    """A card that starts the SEK's COUNTER at TS low, or at 0, and so loses the first period or accepts one before the window."""
    config, party, sek = stream_config(), card_party(), sek_material()
    tight = seal_ltkm(party, 1, sek, ts_low=counter_of(START))
    party.card.ltkm(tight, NOW)
    assert party.card.stkm(sealed_stkm(config, period(0), sek)).counter == counter_of(START)


def test_r03_redelivery_never_lowers_the_counter() -> None:
    """An LTKM carousel would let a thief replay every STKM of the SEK, with the same window, a wider or an earlier one."""
    config, party, sek = stream_config(), card_party(), sek_material()
    party.card.ltkm(seal_ltkm(party, 1, sek), NOW)
    old = sealed_stkm(config, period(3), sek)
    party.card.stkm(sealed_stkm(config, period(4), sek))
    for n, low in enumerate((START - 1, START - 100, START + 32)):
        party.card.ltkm(seal_ltkm(party, 2 + n, sek, ts_low=counter_of(low)), NOW)
        refuses(party.card, Replay, lambda: party.card.stkm(old))
    party.card.stkm(sealed_stkm(config, period(5), sek))


def test_r03_a_redelivered_sek_id_replaces_sek_and_rand() -> None:
    """A BSM restored from an older copy makes SEK n again: a card that keeps the old one is dark until the next rollover."""
    config, party, old = stream_config(), card_party(), sek_material()
    party.card.ltkm(seal_ltkm(party, 1, old), NOW)
    party.card.stkm(sealed_stkm(config, period(3), old))
    for counter, new in enumerate((replace(old, key=Secret(bytes(range(16)))), replace(old, rand=bytes(16))), 2):
        party.card.ltkm(seal_ltkm(party, counter, new), NOW)
        at = period(2 + counter)
        replayed, stale, fresh = (sealed_stkm(config, p, key) for p, key in ((period(3), new), (at, old), (at, new)))
        refuses(party.card, Integrity, lambda data=stale: party.card.stkm(data))  # type: ignore[misc]
        refuses(party.card, Replay, lambda data=replayed: party.card.stkm(data))  # type: ignore[misc]
        party.card.stkm(fresh)
        old = new
    # A withdrawal installs neither: what comes after it is opened with the last LTKM's.
    party.card.ltkm(seal_withdrawal(party, 5, replace(old, rand=bytes(range(16)))), NOW)
    refuses(party.card, KeyUnavailable, lambda: party.card.stkm(sealed_stkm(config, period(7), old)))
    (row,) = party.card._journal.tables["sek"].values()
    assert (row.sek, row.rand, row.windows) == (old.key, old.rand, ())  # type: ignore[attr-defined]  # a SekFile
    party.card.ltkm(seal_ltkm(party, 6, old), NOW)
    party.card.stkm(sealed_stkm(config, period(7), old))


def test_r03_windows_are_a_set() -> None:
    """Two PPV events under one SEK ID: the second purchase must not take the first away, nor open what lies between."""
    config, party, sek = stream_config(), card_party(), sek_material()
    for n, first in enumerate((10, 30)):
        window = {"ts_low": counter_of(period(first).start), "ts_high": counter_of(period(first + 2).end - 1)}
        party.card.ltkm(seal_ltkm(party, 1 + n, sek, **window), NOW)
    for number, opens in ((9, False), (10, True), (12, True), (13, False), (29, False), (30, True), (33, False)):
        data = sealed_stkm(config, period(number), sek)
        if opens:
            party.card.stkm(data)
        else:
            refused = Replay if number == 9 else KeyUnavailable
            refuses(party.card, refused, lambda data=data: party.card.stkm(data))  # type: ignore[misc]


def test_r03_windows_that_have_passed_are_forgotten() -> None:
    """An event a day under one SEK fills the card."""
    config, party, sek = stream_config(), card_party(), sek_material(length=8 * 60)
    for number in range(50):
        low = counter_of(period(number).start)
        party.card.ltkm(seal_ltkm(party, 1 + number, sek, ts_low=low, ts_high=low + 7), NOW)
        party.card.stkm(sealed_stkm(config, period(number), sek))
    (row,) = party.card._journal.tables["sek"].values()
    assert len(row.windows) <= 2  # type: ignore[attr-defined]  # a SekFile


def test_r03_a_withdrawal_removes_all_windows_and_keeps_the_counter() -> None:
    """A withdrawn subscriber who is let in again must not get a card that opens what it has opened before."""
    config, party, sek = stream_config(), card_party(), sek_material()
    party.card.ltkm(seal_ltkm(party, 1, sek), NOW)
    old = sealed_stkm(config, period(3), sek)
    party.card.stkm(sealed_stkm(config, period(4), sek))
    party.card.ltkm(seal_withdrawal(party, 2, sek), NOW)
    refuses(party.card, KeyUnavailable, lambda: party.card.stkm(sealed_stkm(config, period(5), sek)))
    party.card.ltkm(seal_ltkm(party, 3, sek), NOW)
    refuses(party.card, Replay, lambda: party.card.stkm(old))
    party.card.stkm(sealed_stkm(config, period(6), sek))
    party.card.ltkm(seal_withdrawal(party, 4, sek), NOW)
    party.card.ltkm(seal_ltkm(party, 5, sek, ts_high=counter_of(period(8).start)), NOW)  # a shorter right than before
    party.card.stkm(sealed_stkm(config, period(8), sek))
    refuses(party.card, KeyUnavailable, lambda: party.card.stkm(sealed_stkm(config, period(9), sek)))


def test_r03_a_withdrawal_never_installs_a_sek() -> None:
    """A withdrawal for a SEK the card never had, taken as a key of 16 zero bytes: anyone could seal STKMs for it."""
    party, sek = card_party(), sek_material()
    party.card.ltkm(seal_withdrawal(party, 1, sek), NOW)
    assert not party.card._journal.tables["sek"]
    zero = sek_material(key=Secret(bytes(16)))
    refuses(party.card, KeyUnavailable, lambda: party.card.stkm(sealed_stkm(stream_config(), period(1), zero)))


def test_r03_a_withdrawn_key_is_withdrawn_again_and_evicted() -> None:
    """A withdrawal repeated by the carousel, or a withdrawn key that blocks the group for ever."""
    party = card_party()
    party.card.ltkm(seal_ltkm(party, 1, sek_material(1)), NOW)
    party.card.ltkm(seal_withdrawal(party, 2, sek_material(1)), NOW)
    party.card.ltkm(seal_withdrawal(party, 3, sek_material(1)), NOW)
    for n in (2, 3):
        party.card.ltkm(seal_ltkm(party, 2 + n, sek_material(n)), NOW)
    assert [key[1] for key in party.card._journal.tables["sek"]] == [sek_material(n).key_id[3:] for n in (2, 3)]


# --- R4 ---------------------------------------------------------------------------------------------------------------


@given(counters, st.integers(0, codec.MAX_SPAN), st.integers(-(1 << 31), (1 << 31) - 1))
def test_r04_window_modulo_2_32(low: int, span: int, offset: int) -> None:
    """Windows across the 2036 wrap: low > high as plain numbers, and a subscriber dark for a year."""
    assert in_window((low + offset) % MOD, low, (low + span) % MOD) == (0 <= offset <= span or offset + MOD <= span)


def test_r04_withdrawal_is_tested_first() -> None:
    """ffffffff..00000000 is also a window of two COUNTERs by the arithmetic: both must stay shut."""
    assert WITHDRAWAL == codec.WITHDRAWAL == (0xFFFFFFFF, 0)
    assert not in_window(0xFFFFFFFF, *WITHDRAWAL) and not in_window(0, *WITHDRAWAL)
    assert in_window(0, 0xFFFFFFFE, 0) and in_window(0xFFFFFFFF, 0xFFFFFFFF, 1)


@given(counters, st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_r04_newer_is_rfc_1982(a: int, step: int) -> None:
    """ "Higher" as a number calls everything after the wrap old."""
    assert newer((a + step) % MOD, a) == (step > 0)
    assert distance((a + step) % MOD, a) == step
    assert not newer((a + (1 << 31)) % MOD, a)  # undefined in RFC 1982: not newer, so refused


def test_r04_builders_refuse_a_span_that_cannot_be_ordered() -> None:
    """A window of 2^31 - 1 seconds and more cannot be compared by RFC 1982."""
    party = card_party()
    assert seal_ltkm(party, 1, sek_material(), ts_low=5, ts_high=5 + (1 << 31) - 2)
    for low, high in ((5, 5 + (1 << 31) - 1), (10, 9), (1, 0)):
        with pytest.raises(BadValue, match="ts_high"):
            seal_ltkm(party, 1, sek_material(), ts_low=low, ts_high=high)


def test_r04_a_card_refuses_what_no_builder_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """low > high means "withdrawn" to other BSMs; as a window it would open nearly every COUNTER."""
    party, sek = card_party(), sek_material()
    with monkeypatch.context() as patch:
        patch.setattr("pybcast.codec._core.SEALERS", {})  # the reference builds it
        patch.setattr("pybcast.codec._smartcard.MAX_SPAN", MOD)
        data = seal_ltkm(party, 1, sek, ts_low=10, ts_high=9)
    assert refuses(party.card, BadValue, lambda: party.card.ltkm(data, NOW)).as_dict()["field"] == "ts_high"


def test_r04_r05_a_card_plays_through_the_2036_wrap() -> None:
    """The night of 2036-02-07."""
    start, now = WRAP - 80, float(WRAP - 80)
    config = stream_config(start=start)
    party, sek = card_party(now=now), sek_material(start=start)
    party.card.ltkm(seal_ltkm(party, 1, sek), now)
    for number in range(20):
        data = sealed_stkm(config, period(number, start), sek)
        assert party.card.stkm(data).counter == (start + 8 * number) % MOD
        refuses(party.card, Replay, lambda data=data: party.card.stkm(data))  # type: ignore[misc]


# --- R5 ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 40), st.floats(0, 0.999))
def test_r05_counter_is_the_start_of_the_period(start: int, fraction: float) -> None:
    """A COUNTER counted in messages cannot bound rights in time, and two headends would count differently."""
    assert counter_of(start + fraction) == start % MOD
    assert near(counter_of(start), start + 1000) == start


def test_r05_any_order_of_preparation() -> None:
    """Partials that arrive out of order after a BSM outage."""
    allocator = Allocator(Journal())
    for number in (5, 3, 4, 1):
        seal(allocator, KEY_ID, period(number), b"d", lambda: b"x")


def test_r05_prepared_periods_are_immutable() -> None:
    """Period 8 s -> 5 s with 6 prepared: a changed boundary would give one COUNTER two meanings."""
    schedule = Schedule(START, 8)
    before = [schedule.at(START + 8 * n) for n in range(6)]
    assert schedule.cut(START + 10, START + 48, 5) == START + 48
    assert [schedule.at(START + 8 * n) for n in range(6)] == before
    assert schedule.at(START + 48) == Period(6, START + 48, START + 53)


# --- R6 ---------------------------------------------------------------------------------------------------------------


def heard(config: StreamConfig, *numbers: int) -> list[bytes]:
    return [sealed_stkm(config, period(n), sek_material()) for n in numbers]


def playing_terminal() -> Terminal:
    party = card_party()
    party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)
    terminal = Terminal(card=party.card)
    terminal.tune(TUNING, START)
    return terminal


def test_r06_half_a_period_must_hold_three_repetitions() -> None:
    """A lead shorter than three repetitions: terminals meet the new key before its STKM."""
    check_period(2, 0.33)
    for length, repetition in ((1, 0.2), (2, 0.34), (8, 1.4), (0, 0.001), (3601, 0.1)):
        with pytest.raises(ConfigError):
            check_period(length, repetition)
    with pytest.raises(ConfigError, match="R6"):
        stream_config(period=2, key_period=640, repetition=0.4)


def test_r06_tune_in_during_the_lead_opens_n_before_n_plus_1() -> None:
    """n+1 heard first and opened at once: the card's COUNTER has passed n, and the terminal is dark until the period ends."""
    terminal, (n0, n1) = playing_terminal(), heard(stream_config(), 0, 1)
    now = START + 5.0
    assert terminal.receive_stkm(SERVICE, 1, n1, now) == []
    assert terminal.receive_stkm(SERVICE, 1, n0, now + 0.5) == []
    ready = [o.mki[-1] for o in terminal.tick(now + TUNE_IN) if isinstance(o, TekReady)]
    assert ready == [1, 2]


def test_r06_tune_in_during_the_lead_with_one_packet_lost() -> None:
    """Only n+1 came within the second: it waits, for n is repeated."""
    terminal, (n0, n1) = playing_terminal(), heard(stream_config(), 0, 1)
    now = START + 5.0
    terminal.receive_stkm(SERVICE, 1, n1, now)
    assert not [o for o in terminal.tick(now + TUNE_IN) if isinstance(o, TekReady)]
    terminal.receive_stkm(SERVICE, 1, n0, now + 1.5)
    assert [o.mki[-1] for o in terminal.tick(now + 2 * TUNE_IN) if isinstance(o, TekReady)] == [1, 2]


def test_r06_a_stkm_of_the_future_opens_when_its_time_has_come() -> None:
    """n never came: n+1 must open at its start, not be forgotten."""
    terminal, (n1,) = playing_terminal(), heard(stream_config(), 1)
    now = START + 5.5
    terminal.receive_stkm(SERVICE, 1, n1, now)
    opened_at = []
    while now < START + 12:
        now = terminal.next_wakeup() or START + 12
        opened_at += [now for o in terminal.tick(now) if isinstance(o, TekReady)]
        if opened_at:
            break
    assert opened_at and START + 8 <= opened_at[0] < START + 8 + TUNE_IN


# --- R7 ---------------------------------------------------------------------------------------------------------------


def fed(counters: list[int]) -> tuple[list[int], Terminal]:
    """The COUNTERs that a card accepted of LTKMs heard within one cycle in this order."""
    party = card_party()
    terminal = Terminal(card=party.card)
    accepted = taken(party.card)
    for n, counter in enumerate(counters):
        terminal.receive_object(seal_ltkm(party, counter, sek_material(1 + n)), NOW + n / 1000)
    terminal.tick(NOW + CAROUSEL_CYCLE)
    return [counter for _, counter in accepted], terminal


def taken(card: SimulatedCard) -> list[tuple[bytes, int]]:
    """A list that grows with every LTKM the card takes: (IDi, COUNTER)."""
    found: list[tuple[bytes, int]] = []
    real = card.ltkm

    def ltkm(data: bytes, now: float) -> Any:
        answer = real(data, now)
        message = codec.decode(data, "smartcard-ltkm")
        assert isinstance(message, SmartcardLtkm)
        found.append((message.idi, message.counter))
        return answer

    card.ltkm = ltkm  # type: ignore[method-assign]
    return found


def test_r07_a_cycle_is_fed_in_rising_counter() -> None:
    """A terminal that tunes in amid the carousel: fed as heard, every LTKM before the last would be refused as old."""
    assert fed([7, 9, 3, 8])[0] == [3, 7, 8, 9]


def test_r07_rising_as_rfc_1982_orders() -> None:
    """At the wrap of a COUNTER the plain order turns the cycle round, and all but one LTKM are lost."""
    assert fed([2, MOD - 2, 0, MOD - 1])[0] == [MOD - 2, MOD - 1, 0, 2]


def test_r07_the_orders_of_two_smks_do_not_mix() -> None:
    """A card with an SMK of each of two BSMs, their COUNTERs far apart."""
    party = card_party()
    smk = party.subscriber.smk
    assert smk is not None
    party.card.install(smk, idi=b"other.example.com", idr=party.subscriber.idr.encode(), until=START + 999)
    terminal = Terminal(card=party.card)
    mine, other = [6, 5], [(1 << 31) + 7, (1 << 31) + 4]
    for n, counter in enumerate(mine):
        terminal.receive_object(seal_ltkm(party, counter, sek_material(1 + n)), NOW)
        terminal.receive_object(seal_ltkm(party, other[n], sek_material(3 + n), idi=b"other.example.com"), NOW)
    found = taken(party.card)
    terminal.tick(NOW + CAROUSEL_CYCLE)
    accepted = {idi: [counter for who, counter in found if who == idi] for idi, _ in found}
    assert accepted == {b"bsm.example.com": [5, 6], b"other.example.com": [(1 << 31) + 4, (1 << 31) + 7]}


def test_r07_ltkm_5_lost_and_6_fed() -> None:
    """The old bytes of 5 come too late; issued again with a new COUNTER they heal the loss."""
    party, sek = card_party(), sek_material()
    lost = seal_ltkm(party, 5, sek)
    party.card.ltkm(seal_ltkm(party, 6, sek_material(2)), NOW)
    refuses(party.card, Replay, lambda: party.card.ltkm(lost, NOW))
    party.card.ltkm(seal_ltkm(party, 7, sek), NOW)
    party.card.stkm(sealed_stkm(stream_config(), period(0), sek))


# --- R8 ---------------------------------------------------------------------------------------------------------------


def test_r08_tek_id_is_a_function_of_the_period() -> None:
    """TEK IDs counted by each headend differ after one missed a period; gaps are normal."""
    sek = sek_material(granularity=4)
    periods = (period(0), period(1), period(7), Period(8, START + 60, START + 64))
    assert [int.from_bytes(stkm.tek_id(sek, p), "big") for p in periods] == [1, 3, 15, 16]


@pytest.mark.parametrize("start", [START + 1, START + 65534 * 8, START - 8, START + (1 << 32) - 8])
def test_r08_off_the_grid_or_beyond_the_last_id_there_is_none(start: int) -> None:
    """Two periods with one TEK ID, or an ID above 65534: two TEKs under one MKI."""
    with pytest.raises(PeerFlowError) as caught:
        stkm.tek_id(sek_material(), Period(0, start, start + 8))
    assert caught.value.status == 21


def test_r08_the_last_id_and_the_wrap() -> None:
    """The SEK ends before 65535; the grid goes through the wrap."""
    assert stkm.tek_id(sek_material(), Period(0, START + 65533 * 8, START + 65534 * 8)) == b"\xff\xfe"
    assert stkm.tek_id(sek_material(start=WRAP - 8), Period(1, WRAP, WRAP + 8)) == b"\0\2"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"granularity": 3}, "granularity"),
        ({"granularity": 9}, "granularity"),
        ({"granularity": -1}, "granularity"),
        ({"key_period": 644}, "key_period"),
        ({"key_period": 8 * 65535}, "65534"),
    ],
)
def test_r08_a_stream_must_fit_its_grid(changes: dict[str, object], what: str) -> None:
    """A granularity that does not divide the period, or a key with more periods than TEK IDs, fails on air years later."""
    with pytest.raises(ConfigError, match=what):
        stream_config(**changes)
    assert stream_config().granularity == 8 and stream_config(key_period=8 * 65534, rollover_lead=320)


# --- R9 ---------------------------------------------------------------------------------------------------------------


def test_r09_a_period_begins_at_a_boundary() -> None:
    """A crypto period across the start of a paid event: its first seconds belong to those who did not pay."""
    schedule = Schedule(START, 8)
    assert schedule.cut(START + 20, START + 8) == START + 20
    assert [schedule.at(START + t) for t in (16, 20)] == [Period(2, START + 16, START + 20), Period(3, START + 20, START + 28)]


# --- R10 --------------------------------------------------------------------------------------------------------------


def test_r10_a_card_keeps_two_keys_of_a_group() -> None:
    """LTKM n+2 while SEK n is on air would push n off the card.  Other groups and domains are untouched."""
    assert KEYS_PER_GROUP == 2
    config, party = stream_config(), card_party()
    other_group = sek_material(9, key_id=DOMAIN + b"\0\1\0\1")
    other_domain = sek_material(8, key_id=b"\0\0\1" + GROUP.to_bytes(2, "big") + b"\0\1")
    for n, sek in enumerate((sek_material(1), other_group, other_domain, sek_material(2)), 1):
        party.card.ltkm(seal_ltkm(party, n, sek), NOW)
    party.card.stkm(sealed_stkm(config, period(0), sek_material(1)))
    party.card.stkm(sealed_stkm(config, period(1), sek_material(2)))
    party.card.ltkm(seal_ltkm(party, 5, sek_material(3)), NOW)
    refuses(party.card, KeyUnavailable, lambda: party.card.stkm(sealed_stkm(config, period(2), sek_material(1))))
    for sek in (sek_material(2), sek_material(3), other_group, other_domain):
        party.card.stkm(sealed_stkm(config, period(3), sek))


def test_r10_burnt_counters_stay_burnt() -> None:
    """A replaced STKM that is asked for again would be on air beside the one that replaced it."""
    allocator = Allocator(journal := Journal())
    seal(allocator, KEY_ID, period(3), b"d", lambda: b"x")
    allocator.burn(KEY_ID, period(3).start)
    allocator.burn(KEY_ID, period(3).start)
    allocator.burn(KEY_ID, period(4).start)  # never sealed: nothing to burn
    allocator.flush()
    assert len(journal.take()) == 1
    for digest in (b"d", b"e"):
        with pytest.raises(PeerFlowError) as caught:
            seal(allocator, KEY_ID, period(3), digest, lambda: b"y")
        assert caught.value.status == 27


def test_r10_every_stream_says_its_own_key_group() -> None:
    """Two streams in one Key Group push each other's keys off every card."""
    for changes in ({"key_group": 0}, {"key_group": 65536}, {"key_domain_id": b"12"}):
        with pytest.raises(ConfigError, match="key_"):
            stream_config(**changes)
    with pytest.raises(ConfigError, match="two keys"):
        stream_config(rollover_lead=640)


def test_r10_a_restarted_card_goes_on() -> None:
    """A card without its memory of COUNTERs and windows is a replay machine."""
    config, party, sek = stream_config(), card_party(), sek_material()
    party.card.ltkm(seal_ltkm(party, 1, sek), NOW)
    old = sealed_stkm(config, period(1), sek)
    party.card.stkm(old)
    again = SimulatedCard(
        k=party.card._milenage._k, opc=party.card._milenage._opc, impi=party.card._impi, state=party.card._journal.tables
    )
    refuses(again, Replay, lambda: again.stkm(old))
    refuses(again, Replay, lambda: again.ltkm(seal_ltkm(party, 1, sek), NOW))
    again.stkm(sealed_stkm(config, period(2), sek))
