# SPDX-License-Identifier: Apache-2.0
"""SRTP outlet: known packets, key changes, MKI, rollover counters, and everything that must be refused."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.errors import BadLength, BadValue, CryptoError, Integrity, KeyUnavailable, LocalFlowError, Replay, Truncated, WireError
from pybcast.outlets import RolloverUnknown, SrtpProtector, SrtpUnprotector
from pybcast.outlets.libsrtp import MAX_PACKET
from pybcast.outlets.srtp import JUMPED, LOST, MAX_KEYS, MAX_PAUSE, MAX_STREAMS, ROC_TRIES
from pybcast.secret import Secret

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "srtp.json").read_text("utf-8"))["vectors"]
TAG_10: Final = [vector for vector in VECTORS if vector["tag_len"] == 10]
SSRC: Final = 0xCAFEBABE
MKI: Final = bytes.fromhex("000100020003")
SALT: Final = bytes(range(14))


def tek(number: int = 1) -> Secret:
    return Secret(bytes([number]) * 16)


def mki(number: int) -> bytes:
    return MKI[:4] + number.to_bytes(2)


def rtp(index: int, ssrc: int = SSRC, payload: bytes = b"a picture") -> bytes:
    return struct.pack(">BBHII", 0x80, 96, index & 0xFFFF, 0, ssrc) + payload


def pair(number: int = 1) -> tuple[SrtpProtector, SrtpUnprotector]:
    protector, unprotector = SrtpProtector(), SrtpUnprotector()
    protector.set_key(mki(number), tek(number), SALT)
    unprotector.add_key(mki(number), tek(number), SALT)
    return protector, unprotector


def go_to(protector: SrtpProtector, index: int, ssrc: int = SSRC, start: int = 0) -> None:
    """Let the stream run to just before ``index``, with as few packets as a receiver could follow."""
    for at in [*range(start, index, 0x6000), index - 1]:
        protector.protect(rtp(at, ssrc))


@pytest.mark.parametrize("vector", TAG_10, ids=lambda v: f"roc{v['roc']}-mki{v['mki']}")
def test_known_packets(vector: dict[str, Any]) -> None:
    """libsrtp's own packets; where a vector has no MKI, ours is taken out before the comparison."""
    name = bytes.fromhex(vector["mki"] or "01")
    key, salt, clear, want = Secret.from_hex(vector["key"]), *(bytes.fromhex(vector[name]) for name in ("salt", "rtp", "srtp"))
    protector, unprotector = SrtpProtector(), SrtpUnprotector()
    protector.set_key(name, key, salt)
    unprotector.add_key(name, key, salt)
    if vector["roc"]:
        seq, ssrc = struct.unpack_from(">H4xI", clear, 2)
        protector.resume(ssrc, (vector["roc"] << 16) + seq - 1)
    packet = protector.protect(clear)
    assert packet[-10 - len(name) : -10] == name
    assert (packet if vector["mki"] else packet[: -10 - len(name)] + packet[-10:]) == want
    if vector["roc"] < ROC_TRIES:
        assert unprotector.unprotect(packet) == clear


def test_a_stream_that_has_used_up_its_indices_is_refused() -> None:
    """RFC 3711, 9.2: no more than 2^48 packets under one key."""
    protector, _ = pair()
    protector.resume(SSRC, (1 << 48) - 2)
    assert len(protector.protect(rtp(0xFFFF))) == len(rtp(0)) + 16
    with pytest.raises(LocalFlowError, match="new SSRC"):
        protector.protect(rtp(0))
    protector.set_key(mki(2), tek(2), SALT)
    with pytest.raises(LocalFlowError, match="new SSRC"):
        protector.protect(rtp(0))
    other = SrtpUnprotector()
    other.add_key(mki(2), tek(2), SALT)
    assert other.unprotect(protector.protect(rtp(0, SSRC + 1))) == rtp(0, SSRC + 1)
    for index in (-1, 1 << 48):
        with pytest.raises(LocalFlowError, match="resumed"):
            SrtpProtector().resume(SSRC, index)


@given(
    start=st.integers(0, 0xFFFF),
    steps=st.lists(st.tuples(st.integers(1, 0x3000), st.booleans(), st.binary(max_size=40)), min_size=1, max_size=30),
)
def test_a_stream_lives_through_wraps_and_key_changes(start: int, steps: list[tuple[int, bool, bytes]]) -> None:
    protector, unprotector = pair()
    number, at = 1, start
    seen: set[bytes] = set()
    for step, change, payload in steps:
        if change:
            number += 1
            protector.set_key(mki(number), tek(number % 256), SALT)
            unprotector.add_key(mki(number), tek(number % 256), SALT)
        at += step
        packet = protector.protect(rtp(at, payload=payload))
        assert unprotector.unprotect(packet) == rtp(at, payload=payload)
        seen.add(packet)
    assert len(seen) == len(steps)
    assert protector.roc == (at >> 16) - (start + steps[0][0] >> 16)


def test_late_packets_around_a_key_change() -> None:
    protector, unprotector = pair(1)
    first = [protector.protect(rtp(at)) for at in range(0xFFFD, 0xFFFF)]
    late = protector.protect(rtp(0xFFFF))
    protector.set_key(mki(2), tek(2), SALT)
    second = [protector.protect(rtp(at)) for at in range(0x10000, 0x10003)]
    unprotector.add_key(mki(2), tek(2), SALT)
    assert [unprotector.unprotect(packet) for packet in [*first, *reversed(second), late]] == [
        *(rtp(at) for at in (0xFFFD, 0xFFFE)), *(rtp(at) for at in (0x10002, 0x10001, 0x10000)), rtp(0xFFFF),
    ]  # fmt: skip


def test_a_packet_sent_late_goes_out_under_the_new_key() -> None:
    protector, unprotector = pair(1)
    go_to(protector, 0x10003)
    protector.set_key(mki(2), tek(2), SALT)
    unprotector.add_key(mki(2), tek(2), SALT)
    late = protector.protect(rtp(0x10001))
    assert protector.roc == 1
    assert unprotector.unprotect(protector.protect(rtp(0x10003))) == rtp(0x10003)
    assert unprotector.unprotect(late) == rtp(0x10001)


@pytest.mark.parametrize("wraps", [1, 2, ROC_TRIES - 1])
def test_r39_tuning_in_after_wraps(wraps: int) -> None:
    protector, unprotector = pair()
    go_to(protector, (wraps << 16) + 77)
    assert unprotector.unprotect(protector.protect(rtp((wraps << 16) + 77))) == rtp(77)
    assert unprotector.unprotect(protector.protect(rtp((wraps << 16) + 78))) == rtp(78)


def test_r39_tuning_in_too_late_says_so() -> None:
    protector, unprotector = pair()
    go_to(protector, (ROC_TRIES << 16) + 77)
    with pytest.raises(RolloverUnknown, match="64 rollover counters"):
        unprotector.unprotect(protector.protect(rtp(77)))
    assert RolloverUnknown().as_dict()["code"] == "rollover_unknown"


def test_a_terminal_that_was_away_finds_the_stream_again_under_the_next_key() -> None:
    protector, unprotector = pair(1)
    unprotector.unprotect(protector.protect(rtp(5)))
    go_to(protector, (20 << 16) + 5, start=6)
    protector.set_key(mki(2), tek(2), SALT)
    unprotector.add_key(mki(2), tek(2), SALT)
    assert unprotector.unprotect(protector.protect(rtp((20 << 16) + 5))) == rtp(5)


@pytest.mark.parametrize(("old", "seq"), [(5, 40_000), ((2 << 16) + 99, 7)], ids=["out of reach", "in reach"])
def test_an_encoder_that_began_again_with_its_ssrc(old: int, seq: int) -> None:
    protector, unprotector = pair(1)
    go_to(protector, old)
    unprotector.unprotect(protector.protect(rtp(old)))
    again = SrtpProtector()
    again.set_key(mki(2), tek(2), SALT)
    unprotector.add_key(mki(2), tek(2), SALT)
    assert unprotector.unprotect(again.protect(rtp(seq))) == rtp(seq)


def test_forged_packets_do_not_buy_a_search_each() -> None:
    """After a failed search the next one waits for 1, 2, 4 ... 64 packets; a search that succeeds ends that."""
    protector, unprotector = pair()
    go_to(protector, 0x10000)
    forged = bytearray(protector.protect(rtp(0x10000)))
    forged[-1] ^= 1

    def searched() -> bool:
        with pytest.raises(Integrity) as refused:
            unprotector.unprotect(bytes(forged))
        return type(refused.value) is RolloverUnknown

    pauses: list[int] = []
    run = 0
    while len(pauses) < 9:
        if searched():
            pauses.append(run)
            run = 0
        else:
            run += 1
    assert pauses == [0, 1, 2, 4, 8, 16, 32, MAX_PAUSE, MAX_PAUSE]
    for _ in range(MAX_PAUSE):
        assert not searched()
    assert unprotector.unprotect(protector.protect(rtp(0x10001))) == rtp(0x10001)
    forged[8] ^= 1  # another stream: found out of turn, since the search above succeeded
    assert searched()


def test_the_expected_index_is_tried_even_in_a_pause() -> None:
    protector, unprotector = pair()
    packet = protector.protect(rtp(3))
    with pytest.raises(RolloverUnknown):
        unprotector.unprotect(packet[:-1] + bytes([packet[-1] ^ 1]))
    assert unprotector.unprotect(packet) == rtp(3)


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_no_changed_packet_opens(at: int, bit: int) -> None:
    protector, unprotector = pair()
    packet = bytearray(protector.protect(rtp(9)))
    packet[at % len(packet)] ^= 1 << bit
    with pytest.raises((CryptoError, WireError)):
        unprotector.unprotect(bytes(packet))


def test_a_known_stream_refuses_a_bad_tag_without_a_search() -> None:
    protector, unprotector = pair()
    unprotector.unprotect(protector.protect(rtp(1)))
    packet = protector.protect(rtp(2))
    with pytest.raises(Integrity) as refused:
        unprotector.unprotect(packet[:-1] + bytes([packet[-1] ^ 1]))
    assert str(refused.value) == "integrity check failed"
    assert unprotector.unprotect(packet) == rtp(2)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused_with_a_type(data: bytes) -> None:
    protector, unprotector = pair()
    with pytest.raises((CryptoError, WireError)):
        unprotector.unprotect(data)
    try:
        packet = protector.protect(data)
    except WireError:
        return
    assert unprotector.unprotect(packet) == data


def test_replay() -> None:
    protector, unprotector = pair()
    packet = protector.protect(rtp(500))
    assert unprotector.unprotect(packet) == rtp(500)
    with pytest.raises(Replay):
        unprotector.unprotect(packet)
    with pytest.raises(Replay):
        protector.protect(rtp(500))
    protector.protect(rtp(900))
    with pytest.raises(Replay):
        protector.protect(rtp(501))


@pytest.mark.parametrize(("first", "then"), [(0, 0xFFFF), (0x10, 0x8010), (0x9000, 0x1000)])
def test_a_sequence_number_out_of_reach(first: int, then: int) -> None:
    """libsrtp would count these forward and leave sender and receivers with different rollover counters."""
    protector, unprotector = pair()
    unprotector.unprotect(protector.protect(rtp(first)))
    with pytest.raises(Replay, match="out of reach"):
        protector.protect(rtp(then))
    stray = SrtpProtector()
    stray.set_key(mki(1), tek(1), SALT)
    with pytest.raises(Replay, match="out of reach"):
        unprotector.unprotect(stray.protect(rtp(then)))
    assert unprotector.unprotect(protector.protect(rtp(first + 1))) == rtp(first + 1)


@pytest.mark.parametrize(
    ("packet", "error", "where"),
    [
        (b"", Truncated, "rtp"),
        (rtp(1)[:11], Truncated, "rtp"),
        (b"\x40" + rtp(1)[1:], BadValue, "rtp.version"),
        (b"\x81" + rtp(1, payload=b"abc")[1:], Truncated, "rtp.csrc"),
        (b"\x90" + rtp(1, payload=b"abc")[1:], Truncated, "rtp.extension"),
        (b"\x90" + rtp(1, payload=bytes.fromhex("bede000211111111"))[1:], Truncated, "rtp.extension"),
        (rtp(1, payload=bytes(MAX_PACKET - 27)), BadLength, "rtp"),
    ],
)
def test_what_is_not_rtp_is_not_protected(packet: bytes, error: type[WireError], where: str) -> None:
    protector, _ = pair()
    with pytest.raises(error) as refused:
        protector.protect(packet)
    assert refused.value.field == where


@pytest.mark.parametrize(
    ("packet", "error", "where"),
    [
        (bytes(27), Truncated, "srtp"),
        (bytes(28), BadValue, "rtp.version"),
        (b"\x8f" + bytes(40), Truncated, "rtp.csrc"),
        (b"\x80" + bytes(MAX_PACKET), BadLength, "srtp"),
    ],
)
def test_what_is_not_srtp(packet: bytes, error: type[WireError], where: str) -> None:
    _, unprotector = pair()
    with pytest.raises(error) as refused:
        unprotector.unprotect(packet)
    assert refused.value.field == where


def test_headers_of_every_shape_and_the_largest_packet() -> None:
    protector, unprotector = pair()
    extended = b"\x92" + rtp(1, payload=bytes(8) + bytes.fromhex("bede0001aabbccdd") + b"x" * 37)[1:]
    sizes = (0, 1344, 1345, 1388, 1400, 1448, 1460, 8988, MAX_PACKET - 28)  # RTP of 1,356 bytes was the most once
    for packet in (extended, *(rtp(2 + at, payload=bytes(size)) for at, size in enumerate(sizes))):
        assert unprotector.unprotect(protector.protect(packet)) == packet


@pytest.mark.parametrize(
    ("name", "key", "salt", "field"),
    [(b"", 16, 14, "mki"), (bytes(17), 16, 14, "mki"), (bytes(5), 16, 14, "mki"), (MKI, 15, 14, "tek"), (MKI, 16, 13, "salt")],
)
def test_keys_that_do_not_fit(name: bytes, key: int, salt: int, field: str) -> None:
    protector, unprotector = pair()
    for take in (protector.set_key, unprotector.add_key):
        with pytest.raises(BadLength) as refused:
            take(name, Secret(bytes(key)), bytes(salt))
        assert (refused.value.field, refused.value.offset) == (field, None)


def test_without_keys() -> None:
    protector, unprotector = SrtpProtector(), SrtpUnprotector()
    assert protector.mki is None and unprotector.mkis == ()
    with pytest.raises(KeyUnavailable):
        protector.protect(rtp(1))
    with pytest.raises(KeyUnavailable):
        unprotector.unprotect(rtp(1))


def test_an_unknown_mki_is_named() -> None:
    protector, unprotector = pair(1)
    protector.set_key(mki(2), tek(2), SALT)
    with pytest.raises(KeyUnavailable) as refused:
        unprotector.unprotect(protector.protect(rtp(1)))
    assert refused.value.key_id == mki(2).hex()


def test_the_same_key_again_changes_nothing() -> None:
    protector, unprotector = pair()
    packet = protector.protect(rtp(1))
    unprotector.unprotect(packet)
    protector.set_key(mki(1), tek(1), SALT)
    unprotector.add_key(mki(1), tek(1), SALT)
    with pytest.raises(Replay):
        protector.protect(rtp(1))
    with pytest.raises(Replay):
        unprotector.unprotect(packet)


def test_an_mki_never_names_two_keys() -> None:
    protector, unprotector = pair()
    for key, salt in ((tek(2), SALT), (tek(1), SALT[::-1])):
        with pytest.raises(LocalFlowError):
            protector.set_key(mki(1), key, salt)
        with pytest.raises(LocalFlowError):
            unprotector.add_key(mki(1), key, salt)


def test_a_protector_does_not_go_back() -> None:
    """Back under an earlier key, an index could come twice: the same key stream for two packets."""
    protector, _ = pair(1)
    protector.set_key(mki(2), tek(2), SALT)
    with pytest.raises(LocalFlowError):
        protector.set_key(mki(1), tek(1), SALT)
    protector.wipe()
    protector.wipe()
    with pytest.raises(KeyUnavailable):
        protector.protect(rtp(1))
    with pytest.raises(LocalFlowError):
        protector.set_key(mki(2), tek(2), SALT)
    protector.set_key(mki(3), tek(3), SALT)
    assert protector.mki == mki(3)


def test_keys_held_are_bounded_and_wiped() -> None:
    unprotector = SrtpUnprotector()
    for number in range(MAX_KEYS + 3):
        unprotector.add_key(mki(number), tek(number), SALT)
    assert unprotector.mkis == tuple(mki(number) for number in range(3, MAX_KEYS + 3))
    unprotector.remove_key(mki(0))
    unprotector.remove_key(mki(5))
    assert len(unprotector.mkis) == MAX_KEYS - 1 and mki(5) not in unprotector.mkis
    unprotector.wipe()
    assert unprotector.mkis == ()


def test_the_callers_secret_is_his_own() -> None:
    key = tek()
    protector, unprotector = SrtpProtector(), SrtpUnprotector()
    protector.set_key(MKI, key, SALT)
    unprotector.add_key(MKI, key, SALT)
    key.wipe()
    assert unprotector.unprotect(protector.protect(rtp(1))) == rtp(1)
    mine = tek(2)
    protector.set_key(mki(9), mine, SALT)
    protector.wipe()
    assert not mine.wiped


def test_streams_are_bounded() -> None:
    protector, unprotector = pair(1)
    for ssrc in range(MAX_STREAMS):
        unprotector.unprotect(protector.protect(rtp(1, ssrc)))
    with pytest.raises(LocalFlowError, match="SSRCs"):
        protector.protect(rtp(1, MAX_STREAMS))
    other, _ = pair(1)
    assert unprotector.unprotect(other.protect(rtp(1, MAX_STREAMS))) == rtp(1, MAX_STREAMS)
    protector.set_key(mki(2), tek(2), SALT)
    protector.protect(rtp(2, 0))
    unprotector.add_key(mki(2), tek(2), SALT)
    assert unprotector.unprotect(protector.protect(rtp(1, MAX_STREAMS))) == rtp(1, MAX_STREAMS)


def test_no_secret_is_shown() -> None:
    protector, unprotector = pair(7)
    protector.protect(rtp(1))
    shown = repr(protector) + repr(unprotector) + repr(list(vars(unprotector).values())) + repr(list(vars(protector).values()))
    assert mki(7).hex() in shown
    for secret in (tek(7).reveal(), SALT):
        assert secret.hex() not in shown and repr(secret)[2:-1] not in shown
    assert repr(SrtpProtector()) == "<SrtpProtector mki=None roc=0>"


def lose(protector: SrtpProtector, first: int, count: int) -> int:
    """Let ``count`` packets out that nobody hears; gives the index of the next."""
    go_to(protector, first + count, start=first)
    return first + count


@pytest.mark.parametrize("count", [32_766, 32_768, 40_000, 65_535, 65_536, 98_000, 200_000, 40 * 65_536])
@pytest.mark.parametrize("first", [3, 0x8003, 0x2FFF0])
def test_a_stream_opens_again_however_many_packets_were_lost_under_one_key(first: int, count: int) -> None:
    protector, unprotector = pair()
    go_to(protector, first)
    unprotector.unprotect(protector.protect(rtp(first)))
    start = lose(protector, first + 1, count)
    for index in range(start, start + 100):
        try:
            assert unprotector.unprotect(protector.protect(rtp(index))) == rtp(index)
        except (Integrity, Replay):
            assert index < start + LOST
        else:
            assert (index == start) is (count < 32_767) or index == start + LOST - 1
            break
    else:
        raise AssertionError("it never opens")
    for later in range(index + 1, index + 200):
        assert unprotector.unprotect(protector.protect(rtp(later))) == rtp(later)


def test_a_lost_stream_opens_again_among_forged_packets() -> None:
    protector, unprotector = pair()
    rng = random.Random(3)
    unprotector.unprotect(protector.protect(rtp(9)))
    start = lose(protector, 10, 40_000)
    for index in range(start, start + 100):
        packet = protector.protect(rtp(index))
        for _ in range(3):
            with pytest.raises((Integrity, Replay)):
                unprotector.unprotect(packet[:-1] + bytes([packet[-1] ^ rng.randrange(1, 256)]))
        try:
            assert unprotector.unprotect(packet) == rtp(index)
        except (Integrity, Replay):
            continue
        break
    assert index < start + LOST


def test_no_recorded_packet_opens_again_however_often_it_comes() -> None:
    """The search goes forward only: what came before the last packet that opened stays shut under its key."""
    protector, unprotector = pair()
    recorded = []
    for index in (*range(0x8000, 0x8020), *range(0x10000, 0x10020), *range(0x18001, 0x18021)):
        recorded.append(protector.protect(rtp(index)))
        unprotector.unprotect(recorded[-1])
    for packet in recorded * 5:
        with pytest.raises((Integrity, Replay)):
            unprotector.unprotect(packet)
    assert unprotector.unprotect(protector.protect(rtp(0x18021))) == rtp(0x18021)


def test_a_search_in_vain_costs_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forged packets of new streams, and of a known one, make libsrtp do nothing."""
    protector, unprotector = pair()
    unprotector.unprotect(protector.protect(rtp(1)))

    def never(*_: object) -> None:
        raise AssertionError("a session for a forged packet")

    monkeypatch.setattr("pybcast.outlets.libsrtp._create", never)
    for number in range(200):
        with pytest.raises(Integrity):
            unprotector.unprotect(rtp(number, ssrc=number) + mki(1) + bytes(10))
        with pytest.raises((Integrity, Replay)):
            unprotector.unprotect(rtp(number * 999) + mki(1) + bytes(10))
    assert unprotector.unprotect(protector.protect(rtp(2))) == rtp(2)


@pytest.mark.parametrize("seq", [0, 700, 0x4001, 0x6000])
def test_an_encoder_that_begins_again_under_the_same_key(seq: int) -> None:
    """Its sequence numbers lie behind: after some refusals the stream goes on under the next ROC, and receivers follow."""
    protector, unprotector = pair()
    go_to(protector, 0x18000 - 100)
    for index in range(0x18000 - 100, 0x18000):
        unprotector.unprotect(protector.protect(rtp(index)))
    opened, made = [], []
    for index in range(seq, seq + JUMPED + LOST + 50):
        try:
            made.append(protector.protect(rtp(index)))
            opened.append(unprotector.unprotect(made[-1]))
        except (Integrity, Replay):
            continue
    assert len(made) == len(set(made)) == LOST + 51 and protector.roc == 2
    assert opened == [rtp(index) for index in range(seq + JUMPED + LOST - 2, seq + JUMPED + LOST + 50)]


def test_repeated_packets_are_no_new_beginning() -> None:
    protector, _ = pair()
    for index in range(2 * JUMPED):
        protector.protect(rtp(index))
        with pytest.raises(Replay):
            protector.protect(rtp(index))
    assert protector.streams == {SSRC: 2 * JUMPED - 1}


def test_a_late_packet_first_under_a_key_then_one_far_ahead_of_it() -> None:
    protector, unprotector = pair(1)
    go_to(protector, 0x20000)
    protector.set_key(mki(2), tek(2), SALT)
    unprotector.add_key(mki(2), tek(2), SALT)
    for index in (0x20000 - 0x6000, 0x20000 + 0x3000, 0x20000 + 0x3001):
        packet = protector.protect(rtp(index))
        other = SrtpUnprotector()
        other.add_key(mki(2), tek(2), SALT)
        assert other.unprotect(packet) == rtp(index)
    assert protector.roc == 2


def test_errors_are_copied_like_values() -> None:
    assert str(copy.copy(RolloverUnknown())) == str(RolloverUnknown())
