# SPDX-License-Identifier: Apache-2.0
"""Every known message: both directions, explanations that tile it, every truncation, a byte too many, and the values themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from wire_vectors import BY_NAME, EVERY, PUBLIC, ROOMY, STRAY_OCTET, Known, load

from pybcast.errors import BadLength, TrailingBytes, Truncated
from pybcast.messages import KINDS as NAMES
from pybcast.messages import (
    Bcro,
    DrmStkm,
    Kemac,
    MikeyMessage,
    PartialDrmStkm,
    PartialSmartcardStkm,
    RegistrationResponse,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardRegistration,
    SmartcardStkm,
    SmartcardVerification,
)
from pybcast.secret import Secret
from pybcast.wire import KINDS, decode, decode_key_data, encode, encode_key_data, explain, management
from pybcast.wire.content_id import BCI, programme_CID, service_CID

every = pytest.mark.parametrize("known", EVERY, ids=lambda known: known.name)


def ntp(text: str | None) -> int | None:
    if text is None:
        return None
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return int((moment - datetime(1900, 1, 1, tzinfo=UTC)).total_seconds())


def octets(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


@every
def test_both_directions(known: Known) -> None:
    message = decode(known.data, known.kind, partial=known.partial, lenient=known.lenient)
    assert message.kind == known.kind
    assert encode(message, lenient=known.lenient, max_size=ROOMY) == known.data


@every
def test_explanation_tiles_the_message(known: Known) -> None:
    explanation = explain(known.data, known.kind, partial=known.partial, lenient=known.lenient)
    assert explanation.error is None
    position = 0
    for row in explanation.rows:
        # The next byte, or a bit field that shares the last byte with the row before.
        assert row.length > 0
        assert row.offset == position or (row.offset == position - 1 and row.length <= 2)
        position = row.offset + row.length
    assert position == len(known.data)


@every
def test_every_prefix_is_refused(known: Known) -> None:
    """Truncated at a field that the whole message has there, or at its end.  (Some messages say their size: BadLength.)"""
    starts = {row.offset for row in explain(known.data, known.kind, partial=known.partial, lenient=known.lenient).rows}
    for size in range(len(known.data)):
        explanation = explain(known.data[:size], known.kind, partial=known.partial, lenient=known.lenient)
        error = explanation.error
        assert error is not None
        assert error.offset is not None
        assert all(row.offset + row.length <= size for row in explanation.rows)
        if isinstance(error, Truncated):
            assert error.offset in starts or error.offset == size
            assert error.found.split()[0] == str(size - error.offset)
        else:
            assert isinstance(error, BadLength)
            assert error.field in ("bcro_length", "message_length")
        if size % 16 == 0:  # decode says the same; test_wire_properties looks at it more closely
            with pytest.raises(type(error)) as caught:
                decode(known.data[:size], known.kind, partial=known.partial, lenient=known.lenient)
            assert caught.value.as_dict() == error.as_dict()


@every
def test_a_byte_too_many(known: Known) -> None:
    longer = known.data + b"\0"
    with pytest.raises((TrailingBytes, BadLength)) as caught:
        decode(longer, known.kind, partial=known.partial, lenient=known.lenient)
    if isinstance(caught.value, TrailingBytes):
        assert (caught.value.offset, caught.value.field) == (len(known.data), "")
    else:
        assert caught.value.field in ("bcro_length", "message_length")
    message = decode(longer, known.kind, partial=known.partial, lenient=(*known.lenient, "trailing-bytes"))
    assert encode(message, lenient=known.lenient, max_size=ROOMY) == known.data


def test_stray_octet_of_a_fielded_implementation() -> None:
    data = bytes.fromhex(STRAY_OCTET)
    with pytest.raises(TrailingBytes) as caught:
        decode(data, "mikey")
    assert caught.value.offset == len(data) - 1 == 115
    assert encode(decode(data, "mikey", lenient=["trailing-bytes"])) == data[:-1]


def test_sizes_of_the_public_messages() -> None:
    assert {name: len(bytes.fromhex(text)) for name, text in PUBLIC.items()} == {
        "gstreamer_header": 10,
        "gstreamer_two_srtp_ids": 28,
        "gortsplib_a": 112,
        "gortsplib_b": 112,
        "gortsplib_c": 121,
        "gortsplib_e": 34,
    }
    message = decode(bytes.fromhex(PUBLIC["gortsplib_e"]), "mikey")
    assert isinstance(message, MikeyMessage)
    kemac = message.payloads[0]
    assert isinstance(kemac, Kemac)
    (key,) = decode_key_data(kemac.encr_data)
    assert (key.key_type, key.key, key.spi) == (2, Secret(bytes.fromhex("aabbcc")), bytes.fromhex("1122"))


@pytest.mark.parametrize("index", range(40))
def test_drm_stkm_values(index: int) -> None:
    item = load("drm_stkm")["vectors"][index]
    fields: dict[str, Any] = item["fields"]
    complete = decode(bytes.fromhex(item["message"]), "drm-stkm")
    partial = decode(bytes.fromhex(item["partial"]), "drm-stkm", partial=True)
    assert isinstance(complete, DrmStkm)
    assert isinstance(partial, PartialDrmStkm)
    for message in (complete, partial):
        for name in (
            "protocol_version", "protection_after_reception", "traffic_protection_protocol", "traffic_authentication_flag",
            "traffic_key_lifetime", "permissions_category", "programme_CID_extension", "service_CID_extension",
        ):  # fmt: skip
            assert getattr(message, name) == fields[name]
        for name in ("id", "next_id", "salt", "next_salt"):
            assert getattr(message, name) == octets(fields[name])
        assert message.timestamp == ntp(fields["timestamp"])
        criteria = message.access_criteria
        assert (None if criteria is None else [[c.tag, c.value.hex()] for c in criteria]) == fields["access_criteria"]
    assert partial.traffic_key_material == Secret.from_hex(fields["traffic_key_material"])
    following = fields["next_traffic_key_material"]
    assert partial.next_traffic_key_material == (None if following is None else Secret.from_hex(following))
    assert (complete.programme_MAC is None) == (fields["programme_CID_extension"] is None)


@pytest.mark.parametrize("index", range(30))
def test_smartcard_values(index: int) -> None:
    vectors = load("smartcard")
    item = vectors["stkm"][index]
    stkm = decode(bytes.fromhex(item["message"]), "smartcard-stkm")
    assert isinstance(stkm, SmartcardStkm)
    assert stkm.counter == item["counter"]
    for name in ("csb_id", "key_domain_id", "sek_id", "tek_id"):
        assert getattr(stkm, name) == octets(item[name])
    assert (stkm.management is None) == (item["management"] is None)
    if stkm.management is not None:
        for name, value in item["management"].items():
            if name in ("access_criteria", "terminal_binding"):
                continue
            assert getattr(stkm.management, name) == value
    item = vectors["ltkm"][index]
    ltkm = decode(bytes.fromhex(item["message"]), "smartcard-ltkm")
    assert isinstance(ltkm, SmartcardLtkm)
    assert (ltkm.counter, ltkm.verification_requested) == (item["counter"], item["verification_requested"])
    assert (ltkm.idi.decode(), ltkm.idr.decode()) == (item["idi"], item["idr"])
    for name in ("csb_id", "key_domain_id", "sek_id", "rand"):
        assert getattr(ltkm, name) == octets(item[name])
    block = ltkm.management
    assert (None if block is None else management.encode_ltkm_management(block).hex()) == item["management_data"]


@pytest.mark.parametrize("index", range(8))
def test_bcro_values(index: int) -> None:
    item = load("more")["drm_ltkm"][index]
    fields = item["fields"]
    bcro = decode(bytes.fromhex(item["message"]), "drm-ltkm")
    assert isinstance(bcro, Bcro)
    for name in ("address_mode", "group_size_flag", "stateful_flag"):
        assert getattr(bcro, name) == fields[name]
    for name in ("position_in_group", "domain_generation"):
        assert getattr(bcro, name) == fields.get(name)
    for name in ("rights_issuer_id", "group_address", "bit_access_mask", "domain_id"):
        assert getattr(bcro, name) == octets(fields.get(name))
    assert (bcro.bcro_timestamp, bcro.refresh_time) == (ntp(fields["bcro_timestamp"]), ntp(fields["refresh_time"]))
    for asset, wanted in zip(bcro.assets, fields["assets"], strict=True):
        assert (asset.asset_is_service, asset.BCI.hex()) == (wanted["asset_is_service"], wanted["BCI"])
        assert asset.permissions_category == wanted["permissions_category"]
    found = [{"action": p.action, "constraints": [[c.type, c.value.hex()] for c in p.constraints]} for p in bcro.permissions]
    assert found == fields["permissions"]


def test_registration_values() -> None:
    more = load("more")
    for item in more["drm_registration"]:
        response = decode(bytes.fromhex(item["message"]), "drm-registration")
        assert isinstance(response, RegistrationResponse)
        assert (response.longform_udn, response.hash) == (item["longform_udn"], item["hash"])
        assert response.drm_time == ntp(item["drm_time"])
    for item in more["smartcard_registration"]:
        push = decode(bytes.fromhex(item["message"]), "smartcard-registration")
        assert isinstance(push, SmartcardRegistration)
        assert push.gba_u == item["gba_u"]
        assert (push.rand.hex(), push.autn.hex()) == (item["rand"], item["autn"])


def test_card_side_values() -> None:
    more = load("more")
    for item in more["parental"]:
        message = decode(bytes.fromhex(item["message"]), "smartcard-parental")
        assert isinstance(message, SmartcardParental)
        assert (message.counter, message.rating_type, message.level_granted) == (
            item["counter"], item["rating_type"], item["level_granted"],
        )  # fmt: skip
        assert message.pin_present == (item["pin"] is not None)
    for item in more["verification"]:
        data = bytes.fromhex(item["message"])
        answer = decode(data, "smartcard-reporting" if data[2] == 21 else "smartcard-verification")
        assert isinstance(answer, SmartcardVerification)
        assert (answer.counter, answer.csb_id.hex(), answer.idr.decode()) == (item["counter"], item["csb_id"], item["idr"])
    for item in more["smartcard_partial"]:
        partial = decode(bytes.fromhex(item["partial"]), "smartcard-stkm")
        assert isinstance(partial, PartialSmartcardStkm)
        assert (partial.tek, partial.salt) == (Secret.from_hex(item["tek"]), octets(item["salt"]))


def test_management_values() -> None:
    more = load("more")
    for item in more["stkm_management"]:
        data = bytes.fromhex(item["data"])
        stkm = management.decode_stkm_management(data)
        assert management.encode_stkm_management(stkm) == data
        for name in ("protection_after_reception", "traffic_protection_protocol", "traffic_authentication_flag"):
            assert getattr(stkm, name) == item[name]
        criteria = stkm.access_criteria
        assert (None if criteria is None else [[c.tag, c.value.hex()] for c in criteria]) == item["access_criteria"]
    for item in more["ltkm_management"]:
        data = bytes.fromhex(item["data"])
        ltkm = management.decode_ltkm_management(data)
        assert management.encode_ltkm_management(ltkm) == data
        policy = ltkm.security_policy_ext
        assert (policy is None) == (item["security_policy_ext"] is None)
        for name, value in (item["security_policy_ext"] or {}).items():
            assert getattr(policy, name) == value
    for item in more["reporting"]:
        data = bytes.fromhex(item["data"])
        report = management.decode_reporting(data)
        assert management.encode_reporting(report) == data
        assert (report.status, len(report.entries)) == (item["status"], len(item["entries"]))
        for entry, wanted in zip(report.entries, item["entries"], strict=True):
            for name, value in wanted.items():
                found = getattr(entry, name)
                assert (found.hex() if isinstance(found, bytes) else found) == value
    for item in more["ids"]:
        base = (item["soc"], item["base"], item["extension"])
        assert (service_CID(*base), programme_CID(*base), BCI(*base).hex()) == (
            item["service_cid"], item["programme_cid"], item["bci"],
        )  # fmt: skip


def test_key_data_of_libmikey() -> None:
    for item in load("mikey_libmikey")["vectors"]:
        data = bytes.fromhex(item["key_payload"])
        keys = decode_key_data(data)
        assert keys[0].key == Secret.from_hex(item["key"])
        assert keys[0].key_type == item["key_type"]
        assert ((keys[0].salt or b"").hex(), (keys[0].spi or b"").hex()) == (item["salt"], item["spi"])
        assert encode_key_data(keys) == data


def test_no_clear_key_in_an_explanation() -> None:
    for name in ("drm_stkm_0_partial", "drm_stkm_1_partial", "smartcard_partial_0", "smartcard_partial_1"):
        known = BY_NAME[name]
        message = decode(known.data, known.kind, partial=True)
        key = message.traffic_key_material if isinstance(message, PartialDrmStkm) else None
        if isinstance(message, PartialSmartcardStkm):
            key = message.tek
        assert key is not None
        for partial in (True, False):  # also for someone who does not say that it is a partial one
            for cut in (0, 1, 12, 14):
                explanation = explain(known.data[: len(known.data) - cut], known.kind, partial=partial)
                text = " ".join(row.value for row in explanation.rows) + str(explanation.error)
                assert key.reveal().hex()[:16] not in text
                if cut == 0:
                    assert f"<{len(key)} secret bytes>" in text
    explanation = explain(bytes.fromhex(PUBLIC["gortsplib_a"]), "mikey")
    assert [row.value for row in explanation.rows if row.field == "payloads[3].key_data[0].key"] == ["<30 secret bytes>"]


def test_explanation_reads_like_the_table() -> None:
    known = BY_NAME["drm_stkm_A"]
    rows = explain(known.data, known.kind).rows
    assert [(row.offset, row.length, row.field, row.value) for row in rows] == [
        (0, 1, "protocol_version", "0"),
        (0, 1, "protection_after_reception", "3 (service protection only)"),
        (0, 1, "reserved_for_future_use", "0"),
        (0, 1, "access_criteria_flag", "0"),
        (1, 1, "traffic_protection_protocol", "0 (IPsec)"),
        (1, 1, "traffic_authentication_flag", "0"),
        (1, 1, "next_traffic_key_flag", "0"),
        (1, 1, "timestamp_flag", "0"),
        (1, 1, "programme_flag", "0"),
        (1, 1, "service_flag", "1"),
        (2, 4, "security_parameter_index", "0000029b"),
        (6, 1, "encrypted_traffic_key_material_length", "16"),
        (7, 16, "encrypted_traffic_key_material", "b2e415d6f91aa972922cbf41c8819d3a"),
        (23, 1, "reserved_for_future_use", "0"),
        (23, 1, "traffic_key_lifetime", "5 (32 s)"),
        (24, 4, "service_CID_extension", "00000001"),
        (28, 12, "service_MAC", "341132128dac0b7b3509d751"),
    ]
    assert {row.confidence.value for row in rows} == {"sure", "likely"}
    assert all(row.meaning for row in rows)


def test_explanation_ends_at_the_fault() -> None:
    data = bytearray(BY_NAME["S1"].data)
    data[30] = 3  # TS type
    explanation = explain(bytes(data), "smartcard-stkm")
    assert explanation.error is not None
    assert (explanation.error.code, explanation.error.offset, explanation.error.field) == ("unsupported", 30, "payloads[1].ts_type")
    assert explanation.rows[-1].offset + explanation.rows[-1].length == 30


def test_kinds_are_complete() -> None:
    assert set(KINDS) == set(NAMES)
