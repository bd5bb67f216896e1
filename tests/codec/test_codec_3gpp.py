# SPDX-License-Identifier: Apache-2.0
"""What TS 33.246 settles of LTKMs and STKMs, in the C core and in the reference: key data types, RAND, CSB ID, ids.

And the message of a real card that opens with all 160 bits of its MAC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from codec_support import LTKM_KEYS, NAMED, STKM_KEYS, H, keys_of, load, run
from native_support import bare_core, outcome

from pybcast import codec
from pybcast._native._bcast import lib
from pybcast.codec import reference
from pybcast.errors import BadLength, BadValue, Integrity, KeyUnavailable
from pybcast.keys import SEK, SMK, Keys
from pybcast.keys.cipher import aes_ctr, hmac_sha1
from pybcast.keys.mikey import iv, psk_keys
from pybcast.messages import SEK_KEY_TYPE, ClearSmartcardLtkm, ClearSmartcardStkm

CARD: Final[list[dict[str, Any]]] = load("smartcard.json")["card"]
Opener = Callable[..., Any]
both = pytest.mark.parametrize("opener", [codec.open, reference.open], ids=["core", "reference"])


def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is not asked: what the core says is its own."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(reference, "open", asked)
    monkeypatch.setattr(reference, "seal", asked)


# --- the message of a real card ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("v", CARD, ids=lambda v: v["name"])
@pytest.mark.parametrize("names", [("sek", "rand"), ("sek", "rand", "csb_id")], ids=" ".join)
def test_a_real_cards_message_opens(v: dict[str, Any], names: tuple[str, ...], opener: Opener) -> None:
    keys = keys_of(v, *names)
    assert keys.rand == b""
    found = codec.to_dict(opener(H(v["message"]), keys, "smartcard-stkm", lenient=v["lenient"]))
    for name in ("key_domain_id", "sek_id", "tek_id", "counter", "tek", "salt", "management"):
        assert found[name] == v[name]


def test_the_core_opens_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    no_fallback(monkeypatch)
    for v in CARD:
        message: Any = codec.open(H(v["message"]), keys_of(v, "sek", "rand"), "smartcard-stkm", lenient=v["lenient"])
        assert message.tek == SEK(H(v["tek"]))


def test_it_opens_in_a_batch_among_others() -> None:
    (v,) = CARD
    own = codec.seal(codec.open(NAMED["S2"], STKM_KEYS, "smartcard-stkm"), STKM_KEYS)
    data, rings = [own, H(v["message"]), own], [STKM_KEYS, keys_of(v, "sek", "rand"), STKM_KEYS]
    with codec.open_many(data, codec.prepare(rings, "smartcard-stkm", use="open"), "smartcard-stkm", lenient=v["lenient"]) as found:
        assert not found.failed
        assert found[1].tek == SEK(H(v["tek"]))
        assert found[0] == found[2] == codec.open(own, STKM_KEYS, "smartcard-stkm")


@pytest.mark.parametrize("v", CARD, ids=lambda v: v["name"])
def test_every_value_on_the_way_to_its_key(v: dict[str, Any]) -> None:
    data, keys = H(v["message"]), psk_keys(H(v["sek"]), H(v["csb_id"]), b"")
    assert (keys.encr.reveal().hex(), keys.salt.reveal().hex()) == (v["encr_key"], v["salt_key"])
    assert keys.auth.reveal().hex() == v["auth_key"]
    assert iv(keys.salt, data[4:8], v["counter"].to_bytes(4)).hex() == v["iv"]
    assert hmac_sha1(keys.auth, data[:-20]).hex() == v["mac"] == data[-20:].hex()
    assert aes_ctr(keys.encr, H(v["iv"]), data[-41:-21]).hex() == v["key_data"]


@both
def test_no_other_rand_opens_it(opener: Opener) -> None:
    (v,) = CARD
    for rand in ("00" * 16, "1234567890abcdeffedcba0987654321"):  # the latter is that of the card's message A
        with pytest.raises(Integrity):
            opener(H(v["message"]), Keys.from_dict({"sek": v["sek"], "rand": rand}), "smartcard-stkm", lenient=v["lenient"])
    with pytest.raises(KeyUnavailable) as caught:
        opener(H(v["message"]), Keys.from_dict({"sek": v["sek"]}), "smartcard-stkm", lenient=v["lenient"])
    assert caught.value.key_id == "rand"
    with pytest.raises(BadLength) as refused:
        opener(H(v["message"]), keys_of(v, "sek", "rand"), "smartcard-stkm")
    assert (refused.value.offset, refused.value.expected, refused.value.found) == (26, "2 (4 with mtk-id-4)", "4")


# --- RAND -------------------------------------------------------------------------------------------------------------


@both
def test_an_empty_rand_is_one_and_an_absent_one_is_none(opener: Opener) -> None:
    with pytest.raises(Integrity):
        opener(NAMED["S1"], replace(STKM_KEYS, rand=b""), "smartcard-stkm")
    with pytest.raises(KeyUnavailable):
        opener(NAMED["S1"], replace(STKM_KEYS, rand=None), "smartcard-stkm")


def test_a_provisioned_sek_seals_and_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    content: Any = codec.open(NAMED["S2"], STKM_KEYS, "smartcard-stkm")
    provisioned = replace(STKM_KEYS, rand=b"")
    sealed = reference.seal(content, provisioned)
    assert reference.open(sealed, provisioned, "smartcard-stkm") == content
    assert codec.seal_many([content] * 3, provisioned)[2] == sealed
    no_fallback(monkeypatch)
    assert codec.seal(content, provisioned) == sealed
    assert codec.open(sealed, provisioned, "smartcard-stkm") == content
    with pytest.raises(Integrity):
        codec.open(sealed, STKM_KEYS, "smartcard-stkm")


def test_a_verification_message_answers_an_ltkm_and_that_has_a_rand() -> None:
    message = codec.open(NAMED["V1"], LTKM_KEYS, "smartcard-verification")
    nothing = replace(LTKM_KEYS, rand=b"")
    for call in (codec, reference):
        assert outcome(lambda: call.open(NAMED["V1"], nothing, "smartcard-verification")) == ("key_unavailable", "rand")  # noqa: B023
        assert outcome(lambda: call.seal(message, nothing)) == ("key_unavailable", "rand")  # noqa: B023


# --- CSB ID -----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("held", [None, b"\0\0\0\0", H("a1b2c3d4"), H("0badcafe")], ids=str)
def test_a_stkm_opens_with_the_csb_id_of_its_own_header(held: bytes | None, opener: Opener) -> None:
    content = codec.open(NAMED["S2"], STKM_KEYS, "smartcard-stkm")
    for used in (H("a1b2c3d4"), H("0badcafe"), b"\0\0\0\0", b"\xff" * 4):
        sealed = codec.seal(content, replace(STKM_KEYS, csb_id=used))
        assert sealed[4:8] == used
        assert opener(sealed, replace(STKM_KEYS, csb_id=held), "smartcard-stkm") == content
        forged = sealed[:4] + H("0badcaff") + sealed[8:]
        with pytest.raises(Integrity):
            opener(forged, replace(STKM_KEYS, csb_id=held), "smartcard-stkm")


@both
def test_a_3gpp_stkm_under_another_csb_id_opens(opener: Opener) -> None:
    """T3 of the 3GPP layout notes (mbms-mbs 5.6): streaming, CSB ID 0badcafe, under the SEK, CSB ID and RAND of S1."""
    data = H(
        "010015000badcafe00010503000f000312f4100104000700010202000301020000000700010024657f292e45e20ae7eb24b97483913643eefb07b197ceec75"
        "bd4461aa7b90bc1b0883d64b01aee78696d09fa3877402dd11e4f89e00495a5aa5"
    )
    message = opener(data, STKM_KEYS, "smartcard-stkm")
    assert (message.tek_id, message.counter, message.tek, message.salt) == (H("0003"), 7, SEK(H(run(0x40))), H(run(0x50, 14)))


def test_one_key_ring_opens_many_csb_ids_in_one_batch() -> None:
    content: Any = codec.open(NAMED["S2"], STKM_KEYS, "smartcard-stkm")
    contents = [replace(content, counter=i + 1) for i in range(150)]
    data = [codec.seal(m, replace(STKM_KEYS, csb_id=bytes((0, 0, 0, i % 3)))) for i, m in enumerate(contents)]
    data[70] = data[70][:-1] + bytes((data[70][-1] ^ 1,))
    for ring in (STKM_KEYS, replace(STKM_KEYS, csb_id=bytes(4)), replace(STKM_KEYS, csb_id=None)):
        found = codec.open_many(data, ring, "smartcard-stkm")
        assert found.failed == [70]
        assert isinstance(found.error(70), Integrity)
        assert [found[i] for i in range(150) if i != 70] == [m for i, m in enumerate(contents) if i != 70]


def test_sealing_needs_the_csb_id_even_after_opening_without() -> None:
    ring = replace(STKM_KEYS, csb_id=None)
    content: Any = codec.open(NAMED["S1"], ring, "smartcard-stkm")
    with pytest.raises(KeyUnavailable) as caught:
        codec.seal(content, ring)
    assert caught.value.key_id == "csb_id"
    with pytest.raises(KeyUnavailable):
        codec.prepare(ring, "smartcard-stkm")
    with codec.prepare(ring, "smartcard-stkm", use="open") as keys:
        found = codec.seal_many([content], keys)
        assert found.failed == [0]
        assert isinstance(found.error(0), KeyUnavailable)


# --- the key in an LTKM -----------------------------------------------------------------------------------------------


def with_key_type(data: bytes, smk: bytes, rand: bytes, counter: int, key_type: int) -> bytes:
    """An LTKM with another key data type in its KEMAC, encrypted and authenticated as it should be."""
    keys = psk_keys(smk, data[4:8], rand)
    start = iv(keys.salt, data[4:8], counter.to_bytes(4))
    clear = bytearray(aes_ctr(keys.encr, start, data[-51:-21]))
    clear[1] = key_type << 4 | 2
    body = data[:-51] + aes_ctr(keys.encr, start, bytes(clear)) + b"\x01"
    return body + hmac_sha1(keys.auth, body)


@both
@pytest.mark.parametrize("key_type", range(16))
def test_readers_take_tek_and_tgk_and_nothing_else(key_type: int, opener: Opener) -> None:
    data = with_key_type(NAMED["L2"], H(run(0, 32)), H(run(0x20)), 1, key_type)
    if key_type in (0, 2):
        message = opener(data, LTKM_KEYS, "smartcard-ltkm")
        assert data == NAMED["L1" if key_type == 0 else "L2"]
        assert (message.key_data_type, message.sek) == (key_type, SEK(H(run(0x30))))
        return
    with bare_core(), pytest.raises(BadValue) as caught:
        opener(data, LTKM_KEYS, "smartcard-ltkm")
    assert (caught.value.offset, caught.value.field) == (len(data) - 50, "KEMAC.encr_data.[0].type")


@both
@pytest.mark.parametrize("v", load("smartcard.json")["ltkm"])
def test_the_first_editions_ltkms_still_open(v: dict[str, Any], opener: Opener) -> None:
    data = with_key_type(H(v["message"]), H(v["smk"]), H(v["rand"]), v["counter"], 0)
    keys = keys_of(v, "smk")
    now, then = (opener(message, keys, "smartcard-ltkm") for message in (H(v["message"]), data))
    assert (now.key_data_type, then.key_data_type) == (2, 0)
    assert replace(then, key_data_type=2) == now


def test_what_is_built_has_type_tek() -> None:
    message = ClearSmartcardLtkm(
        counter=1, csb_id=bytes(4), rand=bytes(16), key_domain_id=bytes(3), sek_id=H("00010001"), idi=b"a", idr=b"b",
        sek=SEK(bytes(16)), ts_low=1, ts_high=2,
    )  # fmt: skip
    keys = Keys(smk=SMK(bytes(32)))
    assert message.key_data_type == SEK_KEY_TYPE == int(lib.BCAST_LTKM_KEY_TYPE) == 2
    batch = codec.Records("smartcard-ltkm", 1)
    assert batch.get("key_data_type") == bytes((SEK_KEY_TYPE,))
    for data in (codec.seal(message, keys), reference.seal(message, keys), codec.seal_many([message], keys)[0]):
        derived = psk_keys(bytes(32), bytes(4), bytes(16))
        assert aes_ctr(derived.encr, iv(derived.salt, bytes(4), bytes((0, 0, 0, 1))), data[-51:-21])[:4] == H("00220010")
    for key_type in (0, 1, 3):
        refusal = outcome(lambda: codec.seal(replace(message, key_data_type=key_type), keys))  # noqa: B023
        assert refusal == ("bad_value", None, "key_data_type")
        with bare_core():
            assert outcome(lambda: codec.seal(replace(message, key_data_type=key_type), keys)) == refusal  # noqa: B023


@pytest.mark.parametrize("sek_id", ["00000001", "00010000", "00000000"])
def test_no_key_is_named_0(sek_id: str) -> None:
    ltkm: Any = codec.open(NAMED["L2"], LTKM_KEYS, "smartcard-ltkm")
    stkm: Any = codec.open(NAMED["S1"], STKM_KEYS, "smartcard-stkm")
    for content, keys in ((ltkm, LTKM_KEYS), (stkm, STKM_KEYS)):
        with bare_core():
            assert outcome(lambda: codec.seal(replace(content, sek_id=H(sek_id)), keys)) == ("bad_value", None, "sek_id")  # noqa: B023
        assert outcome(lambda: reference.seal(replace(content, sek_id=H(sek_id)), keys)) == ("bad_value", None, "sek_id")  # noqa: B023


@pytest.mark.parametrize(("tek_id", "good"), [("0000", False), ("0001", True), ("fffe", True), ("ffff", False)])
def test_tek_ids_go_from_1_to_fffe(tek_id: str, good: bool) -> None:
    content: Any = codec.open(NAMED["S1"], STKM_KEYS, "smartcard-stkm")
    content = replace(content, tek_id=H(tek_id))
    wanted = ("ok", reference.seal(content, STKM_KEYS)) if good else ("bad_value", None, "tek_id")
    assert outcome(lambda: reference.seal(content, STKM_KEYS)) == wanted
    with bare_core():
        assert outcome(lambda: codec.seal(content, STKM_KEYS)) == wanted
    # A partial STKM has no ids of the BSM's yet.
    partial = codec.encode(codec.from_dict(codec.to_dict(content) | {"partial": True, "sek_id": "00000000"}))  # type: ignore[arg-type]
    assert isinstance(content, ClearSmartcardStkm) and len(partial) == 60
