# SPDX-License-Identifier: Apache-2.0
"""What ``seal``, ``open`` and ``complete`` refuse, in which order, and that they tell nothing of a key."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from codec_support import (
    BCRO_KEYS,
    CASES,
    DETERMINISTIC,
    DRM_KEYS,
    LTKM_KEYS,
    MORE,
    NAMED,
    RSA_KEYS,
    STKM_KEYS,
    Case,
    H,
    case,
    first,
    run,
)
from hypothesis import given
from hypothesis import strategies as st

from pybcast import codec
from pybcast.codec import Keys, complete, decode, encode, reference, seal, to_dict
from pybcast.codec import _drm as drm
from pybcast.codec import _registration as registration
from pybcast.codec import _smartcard as smartcard
from pybcast.errors import (
    BadLength,
    BadValue,
    BcastError,
    ConfigError,
    CryptoError,
    Integrity,
    KeyUnavailable,
    Unsupported,
    WireError,
)
from pybcast.keys import PEK, SEK, SMK, Milenage, btid, gba_u_autn
from pybcast.keys.cipher import aes_ctr, hmac_sha1
from pybcast.keys.mikey import iv, psk_keys
from pybcast.messages import (
    AccessCriterion,
    AddressMode,
    ClearBcro,
    ClearDrmStkm,
    ClearRegistrationResponse,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    ClearSmartcardStkm,
    Extension,
    KeyData,
    Kind,
    LtkmManagement,
    OpenedSmartcardRegistration,
    PartialDrmStkm,
    PartialSmartcardStkm,
    Protocol,
    RegistrationMessage,
    RegistrationTag,
    Reporting,
    ReportingEntry,
    SecurityPolicyExtension,
    SmartcardRegistration,
    SmartcardVerification,
    StkmManagement,
)
from pybcast.secret import Secret
from pybcast.wire import encode_key_data
from pybcast.wire.drm_registration import RESPONSES


def opened(name: str) -> Any:
    c = case(name)
    return codec.open(c.data, c.keys, c.kind)


def change(message: Any, **values: Any) -> Any:
    return dataclasses.replace(message, **values)


def stripped(keys: Keys, *names: str) -> Keys:
    """Without ``names``, and without the joined keys that would bring them back."""
    gone = {"seak", "peak", *names}
    return Keys(**{f.name: getattr(keys, f.name) for f in dataclasses.fields(Keys) if f.name not in gone})


# --- Integrity --------------------------------------------------------------------------------------------------------

FLIPPED = [
    case(name) for name in ("drm_stkm_A", "drm_stkm_B", "drm_stkm_C", "drm_stkm_D", "L3", "S2", "V1", "drm_bcro")
] + [first("smartcard-parental"), first("smartcard-registration"), first("smartcard-reporting")]  # fmt: skip


@pytest.mark.parametrize("c", FLIPPED, ids=lambda c: c.name)
def test_every_flipped_bit_is_refused(c: Case) -> None:
    codec.open(c.data, c.keys, c.kind)
    for bit in range(len(c.data) * 8):
        broken = bytearray(c.data)
        broken[bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises((WireError, Integrity)):
            codec.open(bytes(broken), c.keys, c.kind)


def test_every_flipped_byte_of_a_signed_message_is_refused() -> None:
    c = first("drm-registration")
    for i in range(len(c.data)):
        broken = bytearray(c.data)
        broken[i] ^= 1 << i % 8
        with pytest.raises((WireError, Integrity)):
            codec.open(bytes(broken), c.keys, c.kind)


@pytest.mark.parametrize("c", FLIPPED, ids=lambda c: c.name)
def test_every_truncation_and_extension_is_refused(c: Case) -> None:
    for size in range(len(c.data)):
        with pytest.raises(WireError):
            codec.open(c.data[:size], c.keys, c.kind)
    with pytest.raises(WireError):
        codec.open(c.data + b"\0", c.keys, c.kind)


@pytest.mark.parametrize("c", DETERMINISTIC, ids=lambda c: c.name)
def test_bytes_behind_the_message_are_let_pass_by_name_only(c: Case) -> None:
    expected = codec.open(c.data, c.keys, c.kind)
    assert codec.open(c.data, c.keys, c.kind, lenient=("trailing-bytes",)) == expected
    if c.kind in ("drm-stkm", "smartcard-stkm", "smartcard-ltkm", "smartcard-verification"):
        assert codec.open(c.data + b"\xaa\xbb", c.keys, c.kind, lenient=("trailing-bytes",)) == expected


WRONG = {
    "drm-stkm": ("sas", "pas"),
    "drm-ltkm": ("riak",),
    "smartcard-stkm": ("sek", "rand"),
    "smartcard-ltkm": ("smk",),
    "smartcard-parental": ("smk",),
    "smartcard-verification": ("smk", "rand", "idi"),
    "smartcard-reporting": ("smk", "rand", "idi"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_key_is_an_integrity_failure_that_says_nothing(kind: Kind) -> None:
    c = case("drm_stkm_B") if kind == "drm-stkm" else first(kind)
    for name in WRONG[kind]:
        held = getattr(c.keys, name)
        wrong = type(held)(bytes(len(held)))
        with pytest.raises(Integrity) as caught:
            codec.open(c.data, change(stripped(c.keys, name), **{name: wrong}), kind)
        assert str(caught.value) == "integrity check failed"
        assert caught.value.args == ()
        assert caught.value.as_dict()["field"] is None


@pytest.mark.parametrize("missing", ["smk", "rand", "idi", "sek", "iek", "riak"])
def test_a_missing_key_is_named(missing: str) -> None:
    for name in ("L1", "S1", "V1", "drm_bcro"):
        c = case(name)
        message = codec.open(c.data, c.keys, c.kind)
        needs = {"L1": {"smk"}, "S1": {"sek", "rand"}, "V1": {"smk", "rand", "idi"}, "drm_bcro": {"iek", "riak"}}[name]
        if missing in needs:
            without = stripped(c.keys, missing)
            with pytest.raises(KeyUnavailable, match=rf"{missing}$"):
                codec.open(c.data, without, c.kind)
            with pytest.raises(KeyUnavailable, match=rf"{missing}$"):
                seal(message, without)
    with pytest.raises(KeyUnavailable, match="csb_id"):
        seal(opened("S1"), stripped(STKM_KEYS, "csb_id"))


def test_a_wiped_key_is_not_used() -> None:
    keys = Keys.from_dict({"seak": run(0x10, 32)})
    keys.wipe()
    with pytest.raises(KeyUnavailable):
        codec.open(NAMED["drm_stkm_A"], keys, "drm-stkm")


# --- DRM STKM: who holds what -----------------------------------------------------------------------------------------


def test_a_subscriber_opens_a_programme_with_the_service_keys_alone() -> None:
    expected = opened("drm_stkm_B")
    subscriber, viewer = Keys.from_dict({"seak": run(0x10, 32)}), Keys.from_dict({"peak": run(0x30, 32)})
    assert codec.open(NAMED["drm_stkm_B"], subscriber, "drm-stkm") == expected
    assert codec.open(NAMED["drm_stkm_B"], viewer, "drm-stkm") == expected
    assert codec.open(NAMED["drm_stkm_B"], DRM_KEYS, "drm-stkm") == expected
    assert codec.open(NAMED["drm_stkm_C"], viewer, "drm-stkm") == opened("drm_stkm_C")


@pytest.mark.parametrize(
    ("name", "held", "missing"),
    [
        ("drm_stkm_A", (), "sas"),
        ("drm_stkm_A", ("sek",), "sas"),
        ("drm_stkm_A", ("sek", "pek", "pas"), "sas"),
        ("drm_stkm_A", ("sas",), "sek"),
        ("drm_stkm_B", ("sek", "pek"), "sas"),
        ("drm_stkm_B", ("sas",), "pek"),
        ("drm_stkm_B", ("pas",), "pek"),
        ("drm_stkm_C", ("pek", "sek", "sas"), "pas"),
        ("drm_stkm_C", ("pas", "sek", "sas"), "pek"),
    ],
)
def test_a_stkm_without_a_mac_to_check_or_a_key_to_use_is_not_opened(name: str, held: tuple[str, ...], missing: str) -> None:
    keys = stripped(DRM_KEYS, *({"sek", "sas", "pek", "pas"} - set(held)))
    with pytest.raises(KeyUnavailable, match=rf"{missing}$"):
        codec.open(NAMED[name], keys, "drm-stkm")


@pytest.mark.parametrize("name", ["sas", "pas"])
def test_both_macs_are_checked_when_both_keys_are_held(name: str) -> None:
    held = getattr(DRM_KEYS, name)
    keys = change(stripped(DRM_KEYS, name), **{name: type(held)(bytes(16))})
    with pytest.raises(Integrity):
        codec.open(NAMED["drm_stkm_B"], keys, "drm-stkm")


def test_a_held_pek_must_be_the_one_that_was_sent() -> None:
    with pytest.raises(Integrity):
        codec.open(NAMED["drm_stkm_B"], change(stripped(DRM_KEYS, "pek"), pek=PEK(bytes(16))), "drm-stkm")


@pytest.mark.parametrize(
    ("name", "order"),
    [("drm_stkm_A", ("sek", "sas")), ("drm_stkm_B", ("sek", "sas", "pek", "pas")), ("drm_stkm_C", ("pek", "pas"))],
)
def test_sealing_a_stkm_needs_the_keys_of_its_flags(name: str, order: tuple[str, ...]) -> None:
    message = opened(name)
    for missing in order:
        with pytest.raises(KeyUnavailable, match=rf"{missing}$"):
            seal(message, stripped(DRM_KEYS, missing))
    assert seal(message, stripped(DRM_KEYS, *({"sek", "sas", "pek", "pas"} - set(order)))) == NAMED[name]


# --- Nothing is decrypted before everything is checked ----------------------------------------------------------------


class Watch:
    """Records the calls of the functions it stands in for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *targets: tuple[Any, str]) -> None:
        self.calls: list[str] = []
        for module, name in targets:
            monkeypatch.setattr(module, name, self._wrap(name, getattr(module, name)))

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return function(*args, **kwargs)

        return watched


def watch_all(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(
        monkeypatch,
        (drm, "same_mac"),
        (drm, "aes_cbc_decrypt"),
        (drm, "aes_ecb_decrypt"),
        (smartcard, "same_mac"),
        (smartcard, "aes_ctr"),
        (registration, "unwrap"),
    )


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("drm_stkm_A", ["same_mac", "aes_cbc_decrypt"]),
        ("drm_stkm_B", ["same_mac", "same_mac", "aes_ecb_decrypt", "aes_cbc_decrypt", "aes_cbc_decrypt"]),
        ("drm_bcro", ["same_mac", "aes_cbc_decrypt"]),
        ("S1", ["same_mac", "aes_ctr"]),
        ("L1", ["same_mac", "aes_ctr"]),
        ("V1", ["same_mac"]),
        (first("smartcard-parental").name, ["same_mac", "aes_ctr"]),
    ],
)
def test_macs_are_compared_first_and_a_wrong_one_stops_everything(
    monkeypatch: pytest.MonkeyPatch, name: str, calls: list[str]
) -> None:
    c = case(name)
    watch = watch_all(monkeypatch)
    reference.open(c.data, c.keys, c.kind)
    assert watch.calls == calls
    watch.calls.clear()
    broken = c.data[:-1] + bytes((c.data[-1] ^ 1,))
    with pytest.raises(Integrity):
        reference.open(broken, c.keys, c.kind)
    assert watch.calls == [call for call in calls if call == "same_mac"]  # all of them, and nothing else


def test_the_second_mac_is_compared_even_when_the_first_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watch_all(monkeypatch)
    keys = change(stripped(DRM_KEYS, "pas"), pas=type(DRM_KEYS.pas)(bytes(16)))  # type: ignore[misc]
    with pytest.raises(Integrity):
        reference.open(NAMED["drm_stkm_B"], keys, "drm-stkm")
    assert watch.calls == ["same_mac", "same_mac"]


def test_a_signature_is_verified_before_the_device_key_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    c = first("drm-registration")
    watch = watch_all(monkeypatch)
    broken = c.data[:-1] + bytes((c.data[-1] ^ 1,))
    without = stripped(RSA_KEYS, "device_key")
    with pytest.raises(Integrity):
        codec.open(broken, without, c.kind)
    with pytest.raises(KeyUnavailable, match="device_key"):
        codec.open(c.data, without, c.kind)
    assert watch.calls == []
    codec.open(c.data, RSA_KEYS, c.kind)
    assert watch.calls == ["unwrap"]


# --- No secret in anything that is printed ----------------------------------------------------------------------------


def test_no_opened_message_prints_a_key() -> None:
    for c in CASES:
        message = codec.open(c.data, c.keys, c.kind)
        shown = {key: value for key, value in _leaves(to_dict(message)) if isinstance(value, str) and len(value) >= 32}
        hidden = {key for key, value in _leaves(to_dict(message, redact=True)) if value is None}
        printed = repr(message) + str(message)
        for key, value in shown.items():
            if key in hidden:
                assert value not in printed
                assert repr(bytes.fromhex(value))[2:-1] not in printed


def _leaves(value: object, path: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [leaf for name, one in value.items() for leaf in _leaves(one, f"{path}.{name}")]
    if isinstance(value, list):
        return [leaf for i, one in enumerate(value) for leaf in _leaves(one, f"{path}[{i}]")]
    return [(path, value)]


# --- Builders' rules --------------------------------------------------------------------------------------------------


def refused(message: Any, keys: Keys, error: type[WireError], field: str, **options: Any) -> None:
    with pytest.raises(error) as caught:
        seal(message, keys, **options)
    assert caught.value.field == field
    assert caught.value.offset is None


def test_a_drm_stkm_needs_a_flag_and_key_material_of_the_right_size() -> None:
    a, b = opened("drm_stkm_A"), opened("drm_stkm_B")
    refused(change(a, service_CID_extension=None), DRM_KEYS, BadValue, "service_flag")
    for size in (0, 15, 17, 32):
        refused(change(a, traffic_key_material=Secret(bytes(size))), DRM_KEYS, BadLength, "traffic_key_material")
    for size in (16, 31, 33):
        refused(change(b, traffic_key_material=Secret(bytes(size))), DRM_KEYS, BadLength, "traffic_key_material")
        refused(change(b, next_traffic_key_material=Secret(bytes(size))), DRM_KEYS, BadLength, "next_traffic_key_material")
    with pytest.raises(WireError, match="traffic_key_lifetime"):
        seal(change(a, traffic_key_lifetime=16), DRM_KEYS)
    with pytest.raises(Unsupported, match="traffic_protection_protocol"):
        seal(change(a, traffic_protection_protocol=Protocol.DCF), DRM_KEYS)


def test_a_bcro_has_issuer_time_permissions_and_a_subset_that_makes_sense() -> None:
    bcro: ClearBcro = opened("drm_bcro")
    refused(change(bcro, bcro_timestamp=None), BCRO_KEYS, BadValue, "bcro_timestamp")
    refused(change(bcro, rights_issuer_id=None), BCRO_KEYS, BadValue, "rights_issuer_id")
    refused(change(bcro, bit_access_mask=b"\xff" * 32), BCRO_KEYS, BadValue, "bit_access_mask")
    refused(change(bcro, bit_access_mask=bytes(32)), BCRO_KEYS, BadValue, "bit_access_mask")
    refused(change(bcro, permissions=()), BCRO_KEYS, BadLength, "number_of_permissions")
    assets = (change(bcro.assets[0], key=Secret(bytes(16))),)
    refused(change(bcro, assets=assets), BCRO_KEYS, BadLength, "assets[0].key")
    whole = change(bcro, address_mode=AddressMode.WHOLE_GROUP, bit_access_mask=None)
    assert codec.open(seal(whole, BCRO_KEYS), BCRO_KEYS, "drm-ltkm") == whole


@pytest.mark.parametrize(
    ("low", "high", "fine"),
    [
        (0, 0, True),
        (5, 5, True),
        (0, 2**31 - 2, True),
        (0, 2**31 - 1, False),
        (0xFFFFFFFE, 5, True),
        (0xFFFFFFFF, 1, True),
        (6, 5, False),
        (0xFFFFFFFF, 2**31 - 3, True),
        (0xFFFFFFFF, 2**31 - 2, False),
        (100, 98, False),
    ],
)
def test_the_span_of_a_window(low: int, high: int, fine: bool) -> None:
    message = change(opened("L2"), ts_low=low, ts_high=high)
    if fine:
        assert codec.open(seal(message, LTKM_KEYS), LTKM_KEYS, "smartcard-ltkm") == message
    else:
        refused(message, LTKM_KEYS, BadValue, "ts_high")


def test_a_withdrawal_has_one_form_and_carries_no_key() -> None:
    low, high = codec.WITHDRAWAL
    message = change(opened("L2"), ts_low=low, ts_high=high)
    refused(message, LTKM_KEYS, BadValue, "sek")
    empty = change(message, sek=SEK(bytes(16)))
    assert codec.open(seal(empty, LTKM_KEYS), LTKM_KEYS, "smartcard-ltkm") == empty


def test_what_an_ltkm_must_not_be() -> None:
    ltkm: ClearSmartcardLtkm = opened("L2")
    refused(change(ltkm, sek=Secret(bytes(15))), LTKM_KEYS, BadLength, "sek")
    refused(change(ltkm, ts_low=-1), LTKM_KEYS, BadValue, "ts_low")
    refused(change(ltkm, ts_high=1 << 32), LTKM_KEYS, BadValue, "ts_high")
    refused(change(ltkm, counter=1 << 32), LTKM_KEYS, BadValue, "counter")
    refused(change(ltkm, interval_length=2), LTKM_KEYS, BadLength, "interval_length")
    for key_type in (0, 1, 3):
        refused(change(ltkm, key_data_type=key_type), LTKM_KEYS, BadValue, "key_data_type")
    for sek_id in ("00070000", "00000001"):
        refused(change(ltkm, sek_id=H(sek_id)), LTKM_KEYS, BadValue, "sek_id")
    reporting = LtkmManagement(consumption_reporting_flag=True)
    flag = "payloads[1].management.consumption_reporting_flag"
    refused(change(ltkm, management=reporting), LTKM_KEYS, BadValue, flag)
    asked = change(ltkm, management=reporting, verification_requested=True)
    assert codec.open(seal(asked, LTKM_KEYS), LTKM_KEYS, "smartcard-ltkm") == asked


def test_what_a_smartcard_stkm_must_not_be() -> None:
    stkm: ClearSmartcardStkm = opened("S2")
    refused(change(stkm, salt=None), STKM_KEYS, BadValue, "salt")
    refused(change(stkm, salt=bytes(13)), STKM_KEYS, BadLength, "salt")
    refused(change(stkm, tek=Secret(bytes(15))), STKM_KEYS, BadLength, "tek")
    with pytest.raises(BadLength):
        seal(change(stkm, tek_id=bytes(4)), STKM_KEYS)
    refused(change(opened("S3"), salt=bytes(14)), STKM_KEYS, BadValue, "salt")
    for sek_id in ("00070000", "00000001"):
        refused(change(stkm, sek_id=H(sek_id)), STKM_KEYS, BadValue, "sek_id")
    for tek_id in ("0000", "ffff"):
        refused(change(stkm, tek_id=H(tek_id)), STKM_KEYS, BadValue, "tek_id")
    for tek_id in ("0001", "fffe"):
        assert codec.open(seal(change(stkm, tek_id=H(tek_id)), STKM_KEYS), STKM_KEYS, "smartcard-stkm") == change(
            stkm, tek_id=H(tek_id)
        )
    bare = change(stkm, management=None)
    assert codec.open(seal(bare, STKM_KEYS), STKM_KEYS, "smartcard-stkm") == bare


@pytest.mark.parametrize("name", ["L3", "S3", first("smartcard-parental").name, first("smartcard-reporting").name])
def test_a_card_message_fits_one_command_or_names_its_largest_field(name: str) -> None:
    c = case(name)
    message = codec.open(c.data, c.keys, c.kind)
    assert seal(message, c.keys, max_card_message=len(c.data)) == c.data
    with pytest.raises(BadLength, match=f"at most {len(c.data) - 1} bytes"):
        seal(message, c.keys, max_card_message=len(c.data) - 1)


def test_a_message_above_the_card_limit_needs_the_limit_raised() -> None:
    ltkm = change(opened("L2"), idi=b"x" * 120)
    refused(ltkm, LTKM_KEYS, BadLength, "payloads[3].id")
    data = seal(ltkm, LTKM_KEYS, max_card_message=300)
    assert len(data) > codec.MAX_CARD_MESSAGE
    assert codec.open(data, LTKM_KEYS, "smartcard-ltkm") == ltkm


def test_a_pin_is_one_to_eight_digits() -> None:
    c = first("smartcard-parental")
    message = codec.open(c.data, c.keys, c.kind)
    for pin in (b"1", b"12345678"):
        good = change(message, pin=Secret(pin))
        assert codec.open(seal(good, c.keys), c.keys, c.kind) == good
    for pin in (b"", b"123456789", b"12a4", b"\xff1", b" 1"):
        refused(change(message, pin=Secret(pin)), c.keys, BadValue, "pin")


def test_a_message_with_kept_payloads_in_another_order_survives() -> None:
    ltkm = change(opened("L2"), layout=("EXT3", Extension(200, b"kept"), "T", "RAND", "IDi", "IDr", "KEMAC"))
    data = seal(ltkm, LTKM_KEYS)
    assert codec.open(data, LTKM_KEYS, "smartcard-ltkm") == ltkm
    assert codec.from_dict(to_dict(ltkm)) == ltkm


# --- KEMAC contents that a sender with the right key got wrong ---------------------------------------------------------


def forged(data: bytes, keys: Any, counter: int, clear: bytes) -> bytes:
    """The message with other contents in its KEMAC, encrypted and authenticated as they should be."""
    csb_id = data[4:8]
    old = int.from_bytes(data[-21 - len(clear) - 2 : -21 - len(clear)], "big")
    assert old == len(clear)
    body = data[: -21 - len(clear)] + aes_ctr(keys.encr, iv(keys.salt, csb_id, counter.to_bytes(4, "big")), clear) + b"\x01"
    return body + hmac_sha1(keys.auth, body)


def stkm_with(clear: bytes) -> bytes:
    return forged(NAMED["S1"], psk_keys(H(run(0x30)), H("a1b2c3d4"), H(run(0x20))), 5, clear)


def test_wrong_contents_of_a_stkm_are_named_with_their_offset() -> None:
    good = encode_key_data((KeyData(key_type=2, key=Secret(bytes(16))),))
    assert codec.open(stkm_with(good), STKM_KEYS, "smartcard-stkm").tek == Secret(bytes(16))  # type: ignore[union-attr]
    start = 80 - 21 - 20
    for at, value in ((0, 20), (1, 0x00), (1, 0x30), (1, 0x21), (3, 15), (3, 17)):
        clear = bytearray(good)
        clear[at] = value
        with pytest.raises(WireError) as caught:
            codec.open(stkm_with(bytes(clear)), STKM_KEYS, "smartcard-stkm")
        assert caught.value.offset is not None
        assert start <= caught.value.offset <= start + 20
        assert caught.value.field.startswith("KEMAC.encr_data.")


def test_a_shorter_interval_is_read_by_name_only() -> None:
    smk = psk_keys(H(run(0, 32)), H("a1b2c3d4"), H(run(0x20)))
    clear = encode_key_data((KeyData(key_type=2, key=Secret(bytes(16)), interval=(b"\0\1", b"\0\xff")),), lenient=["interval-2"])
    head = NAMED["L1"][: -21 - 30 - 2] + len(clear).to_bytes(2, "big") + bytes(len(clear)) + b"\x01" + bytes(20)
    data = forged(head, smk, 1, clear)
    message = codec.open(data, LTKM_KEYS, "smartcard-ltkm", lenient=("interval-2",))
    assert isinstance(message, ClearSmartcardLtkm)
    assert (message.ts_low, message.ts_high, message.interval_length) == (1, 255, 2)
    with pytest.raises(WireError):
        codec.open(data, LTKM_KEYS, "smartcard-ltkm")
    refused(message, LTKM_KEYS, BadLength, "interval_length")


def test_a_pin_that_is_none_is_named() -> None:
    c = first("smartcard-parental")
    message = decode(c.data, c.kind)
    assert c.keys.smk is not None
    derived = psk_keys(c.keys.smk, c.data[4:8], message.rand)  # type: ignore[union-attr]
    counter = message.counter  # type: ignore[union-attr]
    for pin in (b"\xff" * 8, b"12\xff4\xff\xff\xff\xff", b"abcdefgh"):
        clear = encode_key_data((KeyData(key_type=2, key=Secret(pin)),))
        with pytest.raises(BadValue, match=r"KEMAC.encr_data.key") as caught:
            codec.open(forged(c.data, derived, counter, clear), c.keys, c.kind)
        assert caught.value.offset == len(c.data) - 21 - 12 + 4
        assert "abc" not in str(caught.value)


# --- Algorithms, forms and kinds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", MORE["smartcard_partial"])
def test_a_partial_smartcard_stkm_is_never_opened(vector: dict[str, Any]) -> None:
    data = H(vector["partial"])
    with pytest.raises(Unsupported, match="NULL") as caught:
        codec.open(data, Keys.from_dict({"sek": vector["sek"], "rand": vector["rand"]}), "smartcard-stkm")
    assert caught.value.field == "KEMAC.encr_alg"
    assert caught.value.offset is not None
    assert data[caught.value.offset] == 0
    assert data[caught.value.offset + 1 : caught.value.offset + 3] == (len(data) - caught.value.offset - 4).to_bytes(2, "big")


def test_null_or_other_algorithms_are_refused_everywhere() -> None:
    for name, at in (("L1", 167 - 21 - 30 - 3), ("S1", 80 - 21 - 20 - 3), ("V1", 82 - 21)):
        c = case(name)
        for value in (0, 2, 3, 255):
            broken = bytearray(c.data)
            broken[at] = value
            with pytest.raises(WireError):
                codec.open(bytes(broken), c.keys, c.kind)


def test_a_partial_drm_stkm_does_not_open_and_does_not_seal() -> None:
    with pytest.raises(Integrity):
        codec.open(H("0c010000029b10505152535455565758595a5b5c5d5e5f0500000001000000000000000000000000"), DRM_KEYS, "drm-stkm")
    clear = opened("drm_stkm_A")
    partial = PartialDrmStkm(**{f.name: getattr(clear, f.name) for f in dataclasses.fields(clear)})
    with pytest.raises(TypeError, match=r"use complete\(\)"):
        seal(partial, DRM_KEYS)
    with pytest.raises(TypeError, match="not the content of a message"):
        seal(decode(NAMED["drm_stkm_A"], "drm-stkm"), DRM_KEYS)  # type: ignore[arg-type]
    for other in (clear, decode(NAMED["drm_stkm_A"], "drm-stkm"), NAMED["drm_stkm_A"]):
        with pytest.raises(TypeError, match="not a partial STKM"):
            complete(other, DRM_KEYS)  # type: ignore[arg-type]


def test_kinds_that_are_not_opened() -> None:
    with pytest.raises(Unsupported, match="mikey"):
        codec.open(NAMED["S1"], STKM_KEYS, "mikey")
    with pytest.raises(ConfigError, match="unknown kind"):
        codec.open(NAMED["S1"], STKM_KEYS, "stkm")  # type: ignore[arg-type]


# --- Completion (flow F3) ---------------------------------------------------------------------------------------------


def test_the_bsm_puts_its_policy_into_a_partial_drm_stkm() -> None:
    clear = opened("drm_stkm_A")
    partial = PartialDrmStkm(**{f.name: getattr(clear, f.name) for f in dataclasses.fields(clear)})
    data = complete(
        partial,
        DRM_KEYS,
        programme_CID_extension=7,
        service_CID_extension=9,
        permissions_category=3,
        access_criteria=(AccessCriterion(1, b"\0\x0c"),),
        protection_after_reception=1,
        id=b"\0\0\2\0",
    )
    expected = change(
        clear,
        programme_CID_extension=7,
        service_CID_extension=9,
        permissions_category=3,
        access_criteria=(AccessCriterion(1, b"\0\x0c"),),
        protection_after_reception=1,
        id=b"\0\0\2\0",
    )
    assert codec.open(data, DRM_KEYS, "drm-stkm") == expected
    assert type(codec.open(data, DRM_KEYS, "drm-stkm")) is ClearDrmStkm


@pytest.mark.parametrize(
    "name",
    ["traffic_key_material", "next_traffic_key_material", "salt", "next_salt", "timestamp", "traffic_key_lifetime", "tek", "layout",
     "traffic_protection_protocol", "traffic_authentication_flag"],
)  # fmt: skip
def test_the_bsm_does_not_touch_what_the_bsda_filled(name: str) -> None:
    clear = opened("drm_stkm_A")
    partial = PartialDrmStkm(**{f.name: getattr(clear, f.name) for f in dataclasses.fields(clear)})
    with pytest.raises(TypeError, match=f"{name}: filled by the BSD/A"):
        complete(partial, DRM_KEYS, **{name: None})
    with pytest.raises(TypeError, match="sek_id: no such field"):
        complete(partial, DRM_KEYS, sek_id=bytes(4))


def test_the_bsm_changes_its_own_part_of_the_management_data_only() -> None:
    clear: ClearSmartcardStkm = opened("S3")
    partial = PartialSmartcardStkm(**{f.name: getattr(clear, f.name) for f in dataclasses.fields(clear)})
    assert partial.management is not None
    own = change(partial.management, protection_after_reception=0, access_criteria=None)
    data = complete(partial, STKM_KEYS, management=own)
    assert codec.open(data, STKM_KEYS, "smartcard-stkm") == change(clear, management=own)
    for name, value in (("traffic_key_lifetime", 9), ("traffic_protection_protocol", Protocol.IPSEC)):
        with pytest.raises(BadValue, match=rf"management.{name}"):
            complete(partial, STKM_KEYS, management=change(partial.management, **{name: value}))
    with pytest.raises(BadValue, match="management"):
        complete(partial, STKM_KEYS, management=None)
    bare = change(partial, management=None)
    assert codec.open(complete(bare, STKM_KEYS, management=own), STKM_KEYS, "smartcard-stkm") == change(clear, management=own)


# --- Registration push ------------------------------------------------------------------------------------------------

PUSHES = MORE["smartcard_registration"]


def push(vector: dict[str, Any]) -> SmartcardRegistration:
    message = decode(H(vector["message"]), "smartcard-registration")
    assert isinstance(message, SmartcardRegistration)
    return message


def k_opc(vector: dict[str, Any]) -> Keys:
    return Keys.from_dict({name: vector[name] for name in ("k", "opc", "impi")})


def ck_ik(vector: dict[str, Any]) -> Keys:
    return Keys.from_dict({name: vector[name] for name in ("ck", "ik", "impi")})


@pytest.mark.parametrize("vector", PUSHES)
def test_a_push_is_sealed_from_either_pair_of_keys_and_from_its_opened_form(vector: dict[str, Any]) -> None:
    message = change(push(vector), mac=b"")
    for keys in (k_opc(vector), ck_ik(vector), change(k_opc(vector), ck=ck_ik(vector).ck, ik=ck_ik(vector).ik)):
        assert seal(message, keys).hex() == vector["message"]
        result = codec.open(H(vector["message"]), keys, "smartcard-registration")
        assert isinstance(result, OpenedSmartcardRegistration)
        assert seal(result, keys).hex() == vector["message"]
        assert result.smk.reveal().hex() == vector["smk"]


@pytest.mark.parametrize("vector", PUSHES)
def test_a_card_refuses_a_wrong_autn_even_under_a_good_mac(vector: dict[str, Any]) -> None:
    message = change(push(vector), autn=bytes(16))
    data = seal(message, ck_ik(vector))
    with pytest.raises(Integrity):
        codec.open(data, k_opc(vector), "smartcard-registration")
    opened_without_k = codec.open(data, ck_ik(vector), "smartcard-registration")
    assert isinstance(opened_without_k, OpenedSmartcardRegistration)


def test_the_autn_of_gba_u_does_not_pass_as_a_plain_one() -> None:
    vector = next(v for v in PUSHES if v["gba_u"])
    keys = k_opc(vector)
    assert keys.k is not None
    assert keys.opc is not None
    card = Milenage(keys.k, keys.opc)
    message = push(vector)
    plain = gba_u_autn(message.autn, card.f4(message.rand))
    card.check_autn(message.rand, plain)
    with pytest.raises(Integrity):
        codec.open(seal(change(message, autn=plain), keys), keys, "smartcard-registration")


@pytest.mark.parametrize(
    ("gone", "missing"),
    [(("k",), "k"), (("opc",), "opc"), (("impi",), "impi"), (("k", "opc"), "k")],
)
def test_a_push_names_the_missing_key(gone: tuple[str, ...], missing: str) -> None:
    vector = PUSHES[0]
    keys = stripped(k_opc(vector), *gone)
    with pytest.raises(KeyUnavailable, match=rf": {missing}$"):
        codec.open(H(vector["message"]), keys, "smartcard-registration")
    with pytest.raises(KeyUnavailable, match=rf": {missing}$"):
        seal(push(vector), keys)
    with pytest.raises(KeyUnavailable, match=r": ik$"):
        seal(push(vector), stripped(ck_ik(vector), "ik"))
    with pytest.raises(KeyUnavailable, match=r": ck$"):
        seal(push(vector), stripped(ck_ik(vector), "ck"))


@pytest.mark.parametrize("name", ["ck", "ik"])
def test_keys_that_contradict_k_and_opc_are_refused(name: str) -> None:
    vector = PUSHES[0]
    wrong = change(k_opc(vector), **{name: Keys.from_dict({name: "00" * 16}).__getattribute__(name)})
    with pytest.raises(Integrity):
        codec.open(H(vector["message"]), wrong, "smartcard-registration")


def test_target_and_btid_of_a_push_fit_its_rand() -> None:
    vector = PUSHES[0]
    keys, message = ck_ik(vector), push(vector)
    refused(change(message, target_id=bytes(8)), keys, BadValue, "target_id")
    other = btid(bytes(16), "bsf.example.com")
    refused(change(message, btid=other), keys, BadValue, "btid")


def test_target_and_btid_are_checked_on_receipt_too(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = PUSHES[0]
    keys, message = ck_ik(vector), push(vector)
    with monkeypatch.context() as builder:  # a builder that does not check
        builder.setattr(smartcard, "btid_matches", lambda *_: True)
        builder.setattr(smartcard, "derive_target_id", lambda *_: bytes(8))
        wrong_target = seal(change(message, target_id=bytes(8)), keys)
        builder.setattr(smartcard, "derive_target_id", lambda *_: message.target_id)
        wrong_btid = seal(change(message, btid=btid(bytes(16), "bsf")), keys)
    with pytest.raises(BadValue, match="target_id") as caught:
        codec.open(wrong_target, keys, "smartcard-registration")
    assert caught.value.offset == 4
    with pytest.raises(BadValue, match="btid") as caught:
        codec.open(wrong_btid, keys, "smartcard-registration")
    assert caught.value.offset is not None
    assert wrong_btid[caught.value.offset :].startswith(btid(bytes(16), "bsf").encode())


# --- Verification -----------------------------------------------------------------------------------------------------


def test_a_verification_is_sealed_whatever_its_mac_was() -> None:
    message = opened("V1")
    assert isinstance(message, SmartcardVerification)
    assert seal(change(message, mac=b""), LTKM_KEYS) == NAMED["V1"]
    assert seal(change(message, mac=b"nonsense"), LTKM_KEYS) == NAMED["V1"]


def test_a_report_is_not_taken_for_a_plain_verification() -> None:
    c = first("smartcard-reporting")
    with pytest.raises(WireError):
        codec.open(c.data, c.keys, "smartcard-verification")
    with pytest.raises(WireError):
        codec.open(NAMED["V1"], LTKM_KEYS, "smartcard-reporting")


def test_a_long_report_is_too_large_for_a_card() -> None:
    entry = ReportingEntry(
        key_domain_id=bytes(3), key_group=bytes(2), key_number=1, ts_low=0, ts_high=1, security_policy_extension=0
    )
    message = change(opened("V1"), reporting=Reporting(entries=(entry,) * 20))
    with pytest.raises(BadLength, match="at most 251"):
        seal(message, LTKM_KEYS)


# --- DRM registration -------------------------------------------------------------------------------------------------


def response(**values: Any) -> ClearRegistrationResponse:
    c = first("drm-registration")
    message = codec.open(c.data, c.keys, c.kind)
    assert isinstance(message, ClearRegistrationResponse)
    return change(message, **values)  # type: ignore[no-any-return]


def test_a_registration_response_names_what_is_missing_or_wrong() -> None:
    public = RSA_KEYS.rights_issuer_key.public_key()  # type: ignore[union-attr]
    with pytest.raises(KeyUnavailable, match=r"rights_issuer_key$"):
        seal(response(), stripped(RSA_KEYS, "rights_issuer_key"))
    with pytest.raises(KeyUnavailable, match=r"rights_issuer_key \(private\)"):
        seal(response(), change(RSA_KEYS, rights_issuer_key=public))
    with pytest.raises(KeyUnavailable, match="device_public_key"):
        seal(response(), stripped(RSA_KEYS, "device_key"))
    refused(response(rights_issuer_id=bytes(20)), RSA_KEYS, BadValue, "rights_issuer_id")
    refused(response(signature_type=4096), RSA_KEYS, BadValue, "signature_type")
    refused(response(hash="MD5"), RSA_KEYS, BadValue, "hash")
    refused(response(message_tag=RegistrationTag.join_domain_msg), RSA_KEYS, BadValue, "message_tag")
    with pytest.raises(BadValue, match="keyset_flag"):
        seal(response(status=1), RSA_KEYS)


@pytest.mark.parametrize("hash_name", ["SHA-1", "SHA-256"])
@pytest.mark.parametrize("tag", RESPONSES)
def test_registration_responses_of_all_three_kinds(tag: RegistrationTag, hash_name: Any) -> None:
    assert RSA_KEYS.device_key is not None
    message = response(message_tag=tag, hash=hash_name)
    keys = change(stripped(RSA_KEYS, "device_key"), device_public_key=RSA_KEYS.device_key.public_key())
    data = seal(message, keys)
    public = change(RSA_KEYS, rights_issuer_key=RSA_KEYS.rights_issuer_key.public_key())  # type: ignore[union-attr]
    assert codec.open(data, public, "drm-registration") == message
    sealed = decode(data, "drm-registration")
    assert codec.from_dict(to_dict(sealed)) == sealed
    without = response(message_tag=tag, keyset_items=None, status=3)
    assert codec.open(seal(without, keys), stripped(public, "device_key"), "drm-registration") == without


def test_the_session_key_may_be_given() -> None:
    keys = change(RSA_KEYS, session_key=Keys.from_dict({"session_key": run(0)}).session_key)
    one, two = (decode(seal(response(), keys), "drm-registration") for _ in range(2))
    assert one.keyset_block == two.keyset_block  # type: ignore[union-attr]
    assert one.session_key_block != two.session_key_block  # type: ignore[union-attr]


def test_a_key_set_for_another_device_or_malformed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = seal(response(), RSA_KEYS)
    assert RSA_KEYS.device_key is not None
    other = change(RSA_KEYS, device_key=RSA_KEYS.rights_issuer_key)
    with pytest.raises(Integrity):
        codec.open(data, other, "drm-registration")
    with monkeypatch.context() as builder:
        builder.setattr(registration, "encode_keyset", lambda _items: b"\1\5hello" + bytes(9))
        wrong = seal(response(), RSA_KEYS)
    with pytest.raises(BadLength, match=r"keyset_block") as caught:
        codec.open(wrong, RSA_KEYS, "drm-registration")
    assert caught.value.offset == len(wrong) - 256 - 24
    with monkeypatch.context() as builder:
        builder.setattr(registration, "wrap", lambda _key, _data: bytes(24))
        wrong = seal(response(), RSA_KEYS)
    with pytest.raises(Integrity):
        codec.open(wrong, RSA_KEYS, "drm-registration")


def test_a_session_key_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class LongKey(Secret):
        pass

    message = response()
    with monkeypatch.context() as builder:
        builder.setattr(registration, "SessionKey", lambda _data: LongKey(bytes(24)))
        wrong = seal(message, RSA_KEYS)
    with pytest.raises(Integrity):
        codec.open(wrong, RSA_KEYS, "drm-registration")


def test_an_issuer_may_not_sign_in_the_name_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    message = response(rights_issuer_id=bytes(20))
    with monkeypatch.context() as builder:
        builder.setattr(registration, "rights_issuer_id", lambda _key: bytes(20))
        wrong = seal(message, RSA_KEYS)
    with pytest.raises(Integrity):
        codec.open(wrong, RSA_KEYS, "drm-registration")


def test_other_messages_of_the_family_are_signed() -> None:
    message = RegistrationMessage(
        message_tag=RegistrationTag.update_drmtime_msg, longform_udn="F" * 20, body=b"the body", signature=b"", keyset_flag=True
    )
    data = seal(message, RSA_KEYS)
    result = codec.open(data, RSA_KEYS, "drm-registration")
    assert isinstance(result, RegistrationMessage)
    assert change(result, signature=b"") == message
    assert encode(result) == data
    assert codec.from_dict(to_dict(result)) == result
    with pytest.raises(KeyUnavailable, match="rights_issuer_key"):
        codec.open(data, Keys(), "drm-registration")
    broken = bytearray(data)
    broken[20] ^= 1
    with pytest.raises(Integrity):
        codec.open(bytes(broken), RSA_KEYS, "drm-registration")


# --- Anything at all --------------------------------------------------------------------------------------------------

EVERYTHING = Keys.from_dict(
    {
        "seak": run(0x10, 32), "peak": run(0x30, 32), "iek": run(1), "riak": run(2), "smk": run(0, 32), "rand": run(3), "idi": "x",
        "k": run(4), "opc": run(5), "impi": "x",
    }
)  # fmt: skip
ALL_KINDS: list[Kind] = sorted({c.kind for c in CASES})


@given(st.sampled_from(ALL_KINDS), st.binary(max_size=300))
def test_random_bytes_are_refused_with_a_typed_error(kind: Kind, data: bytes) -> None:
    with pytest.raises((WireError, CryptoError)):
        codec.open(data, EVERYTHING, kind)


@given(st.sampled_from(DETERMINISTIC), st.data())
def test_mutated_messages_are_refused_with_a_typed_error(c: Case, data: st.DataObject) -> None:
    mutated = bytearray(c.data)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    if bytes(mutated) == c.data:
        return
    with pytest.raises(BcastError) as caught:
        codec.open(bytes(mutated), c.keys, c.kind)
    for value in caught.value.as_dict().values():
        assert not re.search(r"[0-9a-f]{32}", str(value))


@given(st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_any_counter_and_key_round_trip(counter: int, sek: bytes, smk: bytes) -> None:
    message = change(opened("L2"), counter=counter, sek=SEK(sek))
    keys = Keys(smk=SMK(smk))
    data = seal(message, keys)
    assert codec.open(data, keys, "smartcard-ltkm") == message
    assert seal(codec.open(data, keys, "smartcard-ltkm"), keys) == data


def test_a_parental_message_without_a_pin() -> None:
    c = first("smartcard-parental")
    message = change(codec.open(c.data, c.keys, c.kind), pin=None)
    assert isinstance(message, ClearSmartcardParental)
    assert codec.open(seal(message, c.keys), c.keys, c.kind) == message


@pytest.mark.parametrize("value", [(), "", b"", 0.0])
def test_what_is_no_number_is_not_taken_for_zero(value: Any) -> None:
    """A value of another type that Python holds to be false: sealed, it would say something its author never said."""
    policy = SecurityPolicyExtension(security_policy_extension=75, playback=value)
    clear = ClearSmartcardLtkm(
        counter=5, csb_id=bytes(4), rand=bytes(16), idi=b"bsm", idr=b"card", key_domain_id=bytes(3), sek_id=bytes([0, 1, 0, 1]),
        sek=Secret(bytes(16)), ts_low=1, ts_high=9, management=LtkmManagement(security_policy_ext=policy),
    )  # fmt: skip
    with pytest.raises(BadValue) as caught:
        seal(clear, Keys(smk=SMK(bytes(range(32)))))
    assert caught.value.field == "payloads[1].management.security_policy_ext.playback"


def test_a_stkm_without_keys_from_any_buffer_and_with_any_limit() -> None:
    """The core does it where it can; the reference where a limit or a leniency is given, or the structures cannot hold a value."""
    partial = PartialSmartcardStkm(
        counter=0, key_domain_id=bytes(3), sek_id=bytes(4), tek_id=bytes(2), tek=Secret(bytes(range(16))),
        management=StkmManagement(
            protection_after_reception=0, traffic_protection_protocol=Protocol.ISMACRYP, traffic_authentication_flag=False,
            traffic_key_lifetime=5,
        ),
    )  # fmt: skip
    data = codec.encode(partial)
    assert codec.encode(partial, max_size=len(data)) == data == codec.encode(partial, lenient=("trailing-bytes",))
    assert codec.decode(bytearray(data), "smartcard-stkm", partial=True) == partial  # type: ignore[arg-type]
    with pytest.raises(BadLength):
        codec.encode(partial, max_size=len(data) - 1)
    for values in ({"counter": 1 << 32}, {"counter": "1"}, {"tek": Secret(bytes(15))}):
        with pytest.raises(WireError):
            codec.encode(change(partial, **values))
