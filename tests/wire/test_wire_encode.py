# SPDX-License-Identifier: Apache-2.0
"""What an encoder refuses: everything a decoder would, with the same path and no offset."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from wire_vectors import BY_NAME, ROOMY, load

from pybcast.errors import BadLength, BadValue, WireError
from pybcast.messages import (
    AccessCriterion,
    Asset,
    ClearDrmStkm,
    ClearSmartcardStkm,
    Constraint,
    DeviceRegistrationResponse,
    ErrorPayload,
    Extension,
    Identity,
    Kemac,
    KeyData,
    KeyId,
    KeyIds,
    KeysetItem,
    LtkmManagement,
    Message,
    MikeyMessage,
    Permission,
    Protocol,
    Rand,
    RegistrationMessage,
    RegistrationResponse,
    RegistrationTag,
    Reporting,
    ReportingEntry,
    SecurityPolicy,
    SecurityPolicyExtension,
    SrtpId,
    StkmManagement,
    TerminalBinding,
    Timestamp,
    Verification,
)
from pybcast.secret import Secret
from pybcast.wire import decode, decode_key_data, decode_keyset, encode, encode_key_data, encode_keyset, management
from pybcast.wire.management import ParentalManagement


def known(name: str) -> Any:
    item = BY_NAME[name]
    return decode(item.data, item.kind, partial=item.partial, lenient=item.lenient)


def names(dataclass: Any) -> list[str]:
    return [field.name for field in fields(dataclass)]


def refused(message: Message, code: str, field: str, **options: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        encode(message, **options)
    error = caught.value
    assert (error.code, error.offset, error.field) == (code, None, field)
    return error


IPSEC, SRTP, ISMACRYP = "drm_stkm_B", "drm_stkm_D", "drm_stkm_C"
MATERIAL = "encrypted_traffic_key_material"


@pytest.mark.parametrize(
    ("name", "changes", "code", "field"),
    [
        (IPSEC, {"protocol_version": 1}, "unsupported", "protocol_version"),
        (IPSEC, {"protocol_version": 16}, "bad_value", "protocol_version"),
        (IPSEC, {"protection_after_reception": 4}, "bad_value", "protection_after_reception"),
        (IPSEC, {"protection_after_reception": -1}, "bad_value", "protection_after_reception"),
        (IPSEC, {"traffic_protection_protocol": Protocol.DCF}, "unsupported", "traffic_protection_protocol"),
        (IPSEC, {"traffic_protection_protocol": 7}, "unsupported", "traffic_protection_protocol"),
        (IPSEC, {"traffic_protection_protocol": 8}, "bad_value", "traffic_protection_protocol"),
        (IPSEC, {"traffic_authentication_flag": 2}, "bad_value", "traffic_authentication_flag"),
        (IPSEC, {"traffic_authentication_flag": False}, "bad_length", f"{MATERIAL}_length"),
        (IPSEC, {"traffic_key_lifetime": 16}, "bad_value", "traffic_key_lifetime"),
        (IPSEC, {"traffic_key_lifetime": None}, "bad_value", "traffic_key_lifetime"),
        (IPSEC, {"traffic_key_lifetime": "6"}, "bad_value", "traffic_key_lifetime"),
        (IPSEC, {"id": b"\0\0\2"}, "bad_length", "security_parameter_index"),
        (IPSEC, {"id": None}, "bad_value", "security_parameter_index"),
        (IPSEC, {"id": 667}, "bad_value", "security_parameter_index"),
        (IPSEC, {"next_id": b"\0"}, "bad_length", "next_security_parameter_index"),
        (IPSEC, {"next_id": None}, "bad_value", f"next_{MATERIAL}"),
        (IPSEC, {f"next_{MATERIAL}": None}, "bad_value", f"next_{MATERIAL}"),
        (IPSEC, {f"next_{MATERIAL}": bytes(16)}, "bad_length", f"next_{MATERIAL}"),
        (IPSEC, {MATERIAL: bytes(16)}, "bad_length", f"{MATERIAL}_length"),
        (IPSEC, {MATERIAL: bytes(256)}, "bad_length", f"{MATERIAL}_length"),
        (IPSEC, {MATERIAL: None}, "bad_value", MATERIAL),
        (IPSEC, {MATERIAL: 32}, "bad_value", MATERIAL),
        (IPSEC, {"salt": bytes(14)}, "bad_value", "master_salt"),
        (IPSEC, {"next_salt": bytes(14)}, "bad_value", "next_master_salt"),
        (IPSEC, {"timestamp": -(10**12)}, "bad_value", "timestamp"),
        (IPSEC, {"timestamp": (65536 - 15020) * 86400}, "bad_value", "timestamp"),
        (IPSEC, {"timestamp": "now"}, "bad_value", "timestamp"),
        (
            IPSEC,
            {"access_criteria": (AccessCriterion(1, b""),) * 256},
            "bad_length",
            "number_of_access_criteria_descriptors",
        ),
        (IPSEC, {"access_criteria": (AccessCriterion(256, b""),)}, "bad_value", "access_criteria[0].tag"),
        (
            IPSEC,
            {"access_criteria": (AccessCriterion(1, b""), AccessCriterion(1, bytes(256)))},
            "bad_length",
            "access_criteria[1].length",
        ),
        (IPSEC, {"permissions_category": 256}, "bad_value", "permissions_category"),
        (IPSEC, {"programme_CID_extension": 1 << 32}, "bad_value", "programme_CID_extension"),
        (IPSEC, {"service_CID_extension": -1}, "bad_value", "service_CID_extension"),
        (IPSEC, {"programme_CID_extension": None}, "bad_value", "permissions_category"),
        (IPSEC, {"programme_CID_extension": None, "permissions_category": None}, "bad_value", "encrypted_PEK"),
        (IPSEC, {"service_CID_extension": None}, "bad_value", "encrypted_PEK"),
        (IPSEC, {"encrypted_PEK": None}, "bad_value", "encrypted_PEK"),
        (IPSEC, {"encrypted_PEK": bytes(15)}, "bad_length", "encrypted_PEK"),
        (IPSEC, {"programme_MAC": bytes(11)}, "bad_length", "programme_MAC"),
        (IPSEC, {"service_MAC": None}, "bad_value", "service_MAC"),
        (ISMACRYP, {"service_MAC": bytes(12)}, "bad_value", "service_MAC"),
        (ISMACRYP, {"programme_CID_extension": None}, "bad_value", "service_flag"),
        (ISMACRYP, {"id": b""}, "bad_length", "key_indicator_length"),
        (ISMACRYP, {"id": bytes(17)}, "bad_length", "key_indicator_length"),
        (ISMACRYP, {"salt": bytes(14)}, "bad_value", "master_salt"),
        (SRTP, {"id": b""}, "bad_length", "master_key_index_length"),
        (SRTP, {"id": bytes(17)}, "bad_length", "master_key_index_length"),
        (SRTP, {"id": bytes(300)}, "bad_length", "master_key_index_length"),
        (SRTP, {"id": None}, "bad_value", "master_key_index"),
        (SRTP, {"salt": None}, "bad_value", "master_salt"),
        (SRTP, {"salt": bytes(13)}, "bad_length", "master_salt"),
        (SRTP, {"next_salt": bytes(14)}, "bad_value", "next_master_salt"),
        (SRTP, {"next_id": b"\0\2"}, "bad_value", "next_master_salt"),
        (SRTP, {"next_id": b"\0\2\3", "next_salt": bytes(14)}, "bad_length", "next_master_key_index"),
        (SRTP, {MATERIAL: bytes(32)}, "bad_length", f"{MATERIAL}_length"),
    ],
)
def test_drm_stkm(name: str, changes: dict[str, Any], code: str, field: str) -> None:
    refused(replace(known(name), **changes), code, field)


def test_id_lengths_at_their_limits() -> None:
    for size in (1, 16):
        data = encode(replace(known(SRTP), id=bytes(size)))
        assert data[2] == size
        assert encode(decode(data, "drm-stkm")) == data


def test_drm_stkm_is_one_udp_payload() -> None:
    message = replace(known(ISMACRYP), access_criteria=(AccessCriterion(1, bytes(250)),) * 6)
    error = refused(message, "bad_length", "access_criteria[0].value")
    assert error.expected == "a message of at most 1400 bytes"
    assert len(encode(message, max_size=2000)) > 1400
    assert encode(replace(message, access_criteria=())) != encode(replace(message, access_criteria=None))


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"traffic_key_material": Secret(bytes(31))}, "bad_length", f"{MATERIAL}_length"),
        ({"next_traffic_key_material": Secret(bytes(16))}, "bad_value", f"next_{MATERIAL}"),
    ],
)
def test_partial_drm_stkm(changes: dict[str, Any], code: str, field: str) -> None:
    refused(replace(known("drm_stkm_0_partial"), **changes), code, field)


KEMAC_LAST = "payloads[2].next_payload"


@pytest.mark.parametrize(
    ("name", "changes", "code", "field"),
    [
        ("S2", {"csb_id": bytes(3)}, "bad_length", "csb_id"),
        ("S2", {"counter": 1 << 32}, "bad_value", "payloads[2].ts_value"),
        ("S2", {"counter": -1}, "bad_value", "payloads[2].ts_value"),
        ("S2", {"counter": "1"}, "bad_value", "payloads[2].ts_value"),
        ("S2", {"key_domain_id": bytes(4)}, "bad_length", "payloads[0].ids[0].length"),
        ("S2", {"sek_id": bytes(3)}, "bad_length", "payloads[0].ids[1].length"),
        ("S2", {"tek_id": bytes(4)}, "bad_length", "payloads[0].ids[2].length"),
        ("S2", {"tek_id": None}, "bad_value", "payloads[0].ids[2].value"),
        ("S2", {"other_key_ids": (KeyId(2, bytes(2)),)}, "bad_value", "payloads[0].ids[3].type"),
        ("S2", {"other_key_ids": (KeyId(256, b""),)}, "bad_value", "payloads[0].ids[3].type"),
        ("S2", {"encr_data": bytes(20)}, "bad_length", "payloads[3].encr_data_len"),
        ("S2", {"encr_data": bytes(35)}, "bad_length", "payloads[3].encr_data_len"),
        ("S3", {"encr_data": bytes(36)}, "bad_length", "payloads[3].encr_data_len"),
        ("S2", {"mac": bytes(19)}, "bad_length", "payloads[3].mac"),
        ("S2", {"mac": b""}, "bad_length", "payloads[3].mac"),
        ("S2", {"layout": ("EXT3", "T", "KEMAC")}, "bad_value", "layout"),
        ("S2", {"layout": ("EXT3", "EXT5", "T", "T", "KEMAC")}, "bad_value", "layout"),
        ("S2", {"layout": ("EXT3", "EXT5", "T", "RAND", "KEMAC")}, "bad_value", "layout"),
        ("S2", {"layout": ("EXT3", "EXT5", "T", "KEMAC", 5)}, "bad_value", "payloads"),
        ("S2", {"layout": ("EXT3", "EXT5", "KEMAC", "T")}, "bad_value", "payloads[1].next_payload"),
        ("S2", {"layout": ("EXT3", "EXT5", "T", "KEMAC", Extension(6, b""))}, "bad_value", "payloads[3].next_payload"),
        ("S2", {"layout": ("EXT3", "EXT5", Extension(3, b""), "T", "KEMAC")}, "bad_value", "payloads[2].ext_type"),
        ("S2", {"layout": ("EXT3", "EXT5", Extension(5, b"\2"), "T", "KEMAC")}, "bad_value", "payloads[2].ext_type"),
        ("S1", {"layout": ("EXT3", Extension(5, b"\2\0\0"), "T", "KEMAC")}, "bad_value", "payloads[1].management"),
        ("S1", {"layout": ("EXT3", Extension(256, b""), "T", "KEMAC")}, "bad_value", "payloads[1].ext_type"),
        ("S1", {"layout": ("EXT3", SecurityPolicy(0, 0, ()), "T", "KEMAC")}, "bad_value", "payloads[0].next_payload"),
        ("L1", {"rand": bytes(15)}, "bad_length", "payloads[2].rand_len"),
        ("L1", {"idi": bytes(65536)}, "bad_length", "payloads[3].id_len"),
        ("L1", {"rand": b""}, "bad_length", "payloads[2].rand_len"),
        ("L1", {"idi_type": 256}, "bad_value", "payloads[3].id_type"),
        ("L1", {"idr_type": 2}, "unsupported", "payloads[4].id_type"),
        ("L1", {"idr_type": 256}, "bad_value", "payloads[4].id_type"),
        ("L1", {"idr": "text"}, "bad_value", "payloads[4].id"),
        ("L1", {"encr_data": bytes(26)}, "bad_length", "payloads[5].encr_data_len"),
        ("L1", {"verification_requested": 2}, "bad_value", "v"),
        (
            "L1",
            {"management": LtkmManagement(consumption_reporting_flag=True)},
            "bad_value",
            "payloads[1].management.consumption_reporting_flag",
        ),
        ("V1", {"mac": b""}, "bad_length", "payloads[2].ver_data"),
        ("V1", {"idr_type": 2}, "unsupported", "payloads[1].id_type"),
        ("parental_0", {"pin_present": False}, "bad_length", "payloads[5].encr_data_len"),
        ("parental_0", {"encr_data": b""}, "bad_length", "payloads[5].encr_data_len"),
        ("parental_0", {"rating_type": 256}, "bad_value", "payloads[0].management.rating_type"),
        ("parental_0", {"protocol_version": 1}, "unsupported", "payloads[0].management.protocol_version"),
        ("smartcard_partial_0", {"tek": Secret(bytes(15))}, "bad_length", "payloads[3].encr_data_len"),
        ("smartcard_partial_0", {"salt": bytes(14)}, "bad_length", "payloads[3].encr_data_len"),
    ],
)
def test_smartcard(name: str, changes: dict[str, Any], code: str, field: str) -> None:
    refused(replace(known(name), **changes), code, field)


@pytest.mark.parametrize("name", ["L1", "parental_0"])
@pytest.mark.parametrize("idi_type", [0, 1, 2, 255])
def test_the_type_of_idi_is_ignored(name: str, idi_type: int) -> None:
    message = replace(known(name), idi_type=idi_type)
    assert decode(encode(message), message.kind) == message


def test_partial_smartcard_stkm_without_management() -> None:
    partial = replace(known("smartcard_partial_0"), management=None)
    assert decode(encode(partial), "smartcard-stkm", partial=True) == partial
    # 36 bytes of key data, but not as 16 + 14
    refused(replace(partial, tek=Secret(bytes(15)), salt=bytes(15)), "bad_length", "payloads[2].key_data[0].key_len")
    refused(replace(partial, tek=Secret(bytes(16)), salt=bytes(13)), "bad_length", "payloads[2].encr_data_len")
    refused(replace(partial, tek=Secret(bytes(32))), "bad_length", "payloads[2].key_data[0].key_len")


@pytest.mark.parametrize(
    "layout",
    [
        ("EXT5", "EXT3", "T", "KEMAC"),
        ("T", "EXT5", "EXT3", "KEMAC"),
        (Extension(0, b"vendor"), "EXT3", Extension(0, b"vendor"), "T", "EXT5", Extension(255, b""), "KEMAC"),
    ],
)
def test_layouts_are_kept(layout: Any) -> None:
    message = replace(known("S2"), layout=layout, other_key_ids=(KeyId(3, b"x"), KeyId(3, b"")))
    data = encode(message)
    assert decode(data, "smartcard-stkm") == message
    assert encode(decode(data, "smartcard-stkm")) == data


def test_canonical_layout_may_be_named() -> None:
    message = known("S2")
    assert encode(replace(message, layout=("EXT3", "EXT5", "T", "KEMAC"))) == encode(message)


def test_one_card_command() -> None:
    message = known("L1")
    assert len(encode(message)) == 167
    longest = replace(message, idr=bytes(251 - 167) + message.idr)
    assert len(encode(longest)) == 251
    error = refused(replace(longest, idr=longest.idr + b"x"), "bad_length", "payloads[4].id")
    assert error.expected == "a message of at most 251 bytes"
    assert error.found.startswith("252 bytes")
    assert len(encode(replace(longest, idr=longest.idr + b"x"), max_size=252)) == 252
    refused(known("S1"), "bad_length", "payloads[2].encr_data", max_size=79)
    refused(known("smartcard_partial_0"), "bad_length", "payloads[3].key_data[0].key", max_size=60)
    refused(known("verification_1"), "bad_length", "payloads[3].ver_data", max_size=60)


def test_mtk_id_4_only_by_name() -> None:
    message = known("card_C")
    refused(message, "bad_length", "payloads[0].ids[2].length")
    assert encode(message, lenient=["mtk-id-4"]) == BY_NAME["card_C"].data


TEXT: dict[str, Any] = {"rand": "text"}


def mikey(*payloads: Any, **header: Any) -> MikeyMessage:
    return MikeyMessage(**({"csb_id": bytes(4)} | header), payloads=payloads)


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        (mikey(data_type=2), "unsupported", "data_type"),
        (mikey(prf_func=128), "bad_value", "prf_func"),
        (mikey(csb_id=b""), "bad_length", "csb_id"),
        (mikey(cs_id_map_type=2), "unsupported", "cs_id_map_type"),
        (mikey(cs_id_map=(SrtpId(0, 0, 0),)), "bad_value", "cs_id_map_type"),
        (mikey(cs_id_map_type=0, cs_id_map=(SrtpId(0, 0, 0),) * 256), "bad_length", "number_of_cs"),
        (mikey(cs_id_map_type=0, cs_id_map=(SrtpId(0, 1 << 32, 0),)), "bad_value", "cs_id_map[0].ssrc"),
        (mikey(Timestamp(4, bytes(4))), "unsupported", "payloads[0].ts_type"),
        (mikey(Timestamp(0, bytes(4))), "bad_length", "payloads[0].ts_value"),
        (mikey(Timestamp(2, bytes(4)), Timestamp(2, bytes(4))), "bad_value", "payloads[0].next_payload"),
        (mikey(Rand(b""), Rand(b"")), "bad_value", "payloads[0].next_payload"),
        (mikey(Rand(bytes(256))), "bad_length", "payloads[0].rand_len"),
        (mikey(replace(Rand(b""), **TEXT)), "bad_value", "payloads[0].rand"),
        (mikey(Identity(256, b"")), "bad_value", "payloads[0].id_type"),
        (mikey(Identity(0, bytes(65536))), "bad_length", "payloads[0].id_len"),
        (mikey(SecurityPolicy(0, 0, ((0, bytes(256)),))), "bad_length", "payloads[0].params[0].len"),
        (mikey(SecurityPolicy(0, 0, ((0, bytes(255)),) * 256)), "bad_length", "payloads[0].param_length"),
        (mikey(Kemac(4, b"", 0, b"")), "unsupported", "payloads[0].encr_alg"),
        (mikey(Kemac(1, b"", 3, b"")), "unsupported", "payloads[0].mac_alg"),
        (mikey(Kemac(1, b"", 2, bytes(20))), "bad_length", "payloads[0].mac"),
        (mikey(Kemac(1, b"", 0, b""), Rand(b"")), "bad_value", "payloads[0].next_payload"),
        (mikey(Kemac(0, b"\0\x20\0\1", 0, b"")), "truncated", "payloads[0].key_data[0].key"),
        (mikey(Kemac(0, b"\0\x20\0\1ab", 0, b"")), "trailing_bytes", "payloads[0].key_data"),
        (mikey(Kemac(0, b"\0\x84\0\0", 0, b"")), "unsupported", "payloads[0].key_data[0].type"),
        (mikey(Verification(1, b"")), "bad_length", "payloads[0].ver_data"),
        (mikey(Verification(2, bytes(32))), "unsupported", "payloads[0].auth_alg"),
        (mikey(Verification(0, b""), ErrorPayload(0)), "bad_value", "payloads[0].next_payload"),
        (mikey(ErrorPayload(256)), "bad_value", "payloads[0].error_no"),
        (mikey(Extension(5, b"")), "bad_length", "payloads[0].length"),
        (mikey(Extension(9, bytes(65536))), "bad_length", "payloads[0].length"),
        (mikey(Extension(3, b"\0\0")), "bad_value", "payloads[0].ids"),
        (mikey(KeyIds(()), KeyIds(())), "bad_value", "payloads[1].ext_type"),
        (mikey(KeyIds((KeyId(2, b""), KeyId(2, b"")))), "bad_value", "payloads[0].ids[1].type"),
        (mikey(KeyIds((KeyId(0, bytes(256)),))), "bad_length", "payloads[0].ids[0].length"),
        (mikey("T"), "bad_value", "payloads"),
    ],
)
def test_mikey(message: MikeyMessage, code: str, field: str) -> None:
    refused(message, code, field)


def test_mikey_keeps_what_it_does_not_know() -> None:
    message = mikey(
        Extension(200, b"private"), KeyIds((KeyId(9, b""), KeyId(9, b"x"))), Identity(7, b"?"), SecurityPolicy(1, 9, ((77, b"?"),)),
        Verification(0, b""), data_type=1, prf_func=127, v=True,
    )  # fmt: skip
    assert decode(encode(message), "mikey") == message


BASE: dict[str, Any] = {"asset_is_service": True, "BCI": bytes(16), "encrypted_key": bytes(32)}
START = bytes.fromhex("d4fa124530")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"address_mode": 4}, "unsupported", "address_mode"),
        ({"address_mode": 0}, "bad_value", "bit_access_mask"),
        ({"group_size_flag": True}, "bad_length", "bit_access_mask"),
        ({"bit_access_mask": b"\xff" * 32}, "bad_value", "bit_access_mask"),
        ({"bit_access_mask": bytes(32)}, "bad_value", "bit_access_mask"),
        ({"group_address": None}, "bad_value", "group_address"),
        ({"position_in_group": 1}, "bad_value", "position_in_group"),
        ({"address_mode": 2, "bit_access_mask": None}, "bad_value", "position_in_group"),
        ({"address_mode": 2, "bit_access_mask": None, "position_in_group": 256}, "bad_value", "position_in_group"),
        ({"address_mode": 2, "bit_access_mask": None, "position_in_group": 512}, "bad_value", "position_in_group"),
        ({"domain_id": bytes(6)}, "bad_value", "domain_id"),
        ({"address_mode": 3, "bit_access_mask": None}, "bad_value", "group_address"),
        ({"rights_issuer_id": bytes(19)}, "bad_length", "rights_issuer_id"),
        ({"refresh_time": 1 << 40}, "bad_value", "refresh_time"),
        ({"assets": ()}, "bad_length", "number_of_assets"),
        ({"permissions": ()}, "bad_length", "number_of_permissions"),
        ({"assets": (Asset(**BASE | {"BCI": bytes(15)}),)}, "bad_length", "assets[0].BCI"),
        ({"assets": (Asset(**BASE | {"encrypted_key": bytes(40)}),)}, "bad_length", "assets[0].encrypted_key"),
        ({"assets": (Asset(**BASE),) * 256}, "bad_length", "number_of_assets"),
        ({"assets": (Asset(**BASE),) * 90}, "bad_length", "bcro_length"),
        ({"permissions": (Permission(5),)}, "unsupported", "permissions[0].action"),
        ({"permissions": (Permission(1, (Constraint(6, bytes(4)),)),)}, "unsupported", "permissions[0].constraints[0].type"),
        ({"permissions": (Permission(1, (Constraint(1, bytes(5)),)),)}, "bad_length", "permissions[0].constraints[0].length"),
        ({"permissions": (Permission(1, (Constraint(2, b"\xff" * 5),)),)}, "bad_value", "permissions[0].constraints[0].value"),
        ({"MAC": bytes(20)}, "bad_length", "MAC"),
    ],
)
def test_bcro(changes: dict[str, Any], code: str, field: str) -> None:
    refused(replace(known("drm_bcro"), **changes), code, field)


def test_bcro_constraints_of_every_type() -> None:
    constraints = (
        Constraint(1, bytes(4)),
        Constraint(2, START),
        Constraint(3, START),
        Constraint(4, bytes(4)),
        Constraint(5, bytes(4)),
    )
    message = replace(known("drm_bcro"), permissions=(Permission(4, constraints), Permission(1)))
    assert decode(encode(message), "drm-ltkm") == message


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"longform_udn": "1"}, "bad_value", "longform_udn"),
        ({"longform_udn": "F" * 19 + "0"}, "bad_value", "longform_udn"),
        ({"longform_udn": None}, "bad_value", "longform_udn"),
        ({"status": 256}, "bad_value", "status"),
        ({"status": 1}, "bad_value", "keyset_flag"),
        ({"signature_type": 1024}, "unsupported", "signature_type"),
        ({"signature_type": 3072}, "unsupported", "signature_type"),
        ({"signature_type": 4096}, "bad_length", "signature"),
        ({"hash": "MD5"}, "unsupported", "hash"),
        ({"signature": bytes(255)}, "bad_length", "signature"),
        ({"rights_issuer_id": None}, "bad_value", "rights_issuer_id"),
        ({"session_key_block": None}, "bad_value", "session_key_block"),
        ({"session_key_block": bytes(128)}, "bad_length", "session_key_block_length"),
        ({"keyset_block": None}, "bad_value", "session_key_block"),
        ({"keyset_block": bytes(16)}, "bad_length", "keyset_block_length"),
        ({"keyset_block": bytes(25)}, "bad_length", "keyset_block_length"),
        ({"certificates": (b"",) * 256}, "bad_length", "certificate_count"),
        ({"certificates": (bytes(65536),)}, "bad_length", "certificates[0].length"),
        ({"certificates": (bytes(40000),) * 2}, "bad_length", "message_length"),
        ({"message_tag": RegistrationTag.domain_update_response}, "bad_value", "message_tag"),
        ({"message_tag": RegistrationTag.re_register_msg}, "bad_value", "message_tag"),
    ],
)
def test_registration(changes: dict[str, Any], code: str, field: str) -> None:
    refused(replace(known("drm_registration_0"), **changes), code, field)


def test_registration_response_in_full() -> None:
    message = replace(known("drm_registration_0"), certificates=(b"leaf", b""), ocsp_responses=(b"good",), longform_udn="0" * 20)
    assert decode(encode(message), "drm-registration") == message
    bare = replace(message, session_key_block=None, keyset_block=None, certificates=None, ocsp_responses=(), status=9)
    assert isinstance(bare, DeviceRegistrationResponse)
    assert decode(encode(bare), "drm-registration") == bare
    plain = RegistrationResponse(**{name: getattr(bare, name) for name in names(bare)})
    assert encode(plain) == encode(bare)
    wrong = replace(plain, message_tag=RegistrationTag.join_domain_msg)
    refused(wrong, "bad_value", "message_tag")
    for tag in (RegistrationTag.domain_registration_response, RegistrationTag.domain_update_response):
        other = decode(encode(replace(plain, message_tag=tag)), "drm-registration")
        assert other.message_tag is tag  # type: ignore[union-attr]
        assert type(other).__name__.lower() == tag.name.replace("_", "")


def test_other_registration_messages() -> None:
    message = RegistrationMessage(
        message_tag=RegistrationTag.update_drmtime_msg, longform_udn="F" * 20, status=3, signature_type=4096, hash="SHA-1",
        ri_certificate_flag=True, ocsp_flag=True, keyset_flag=True, body=b"opaque", signature=bytes(512),
    )  # fmt: skip
    assert decode(encode(message), "drm-registration") == message
    refused(replace(message, message_tag=RegistrationTag.device_registration_response), "bad_value", "message_tag")
    refused(replace(message, message_tag=0x2B), "unsupported", "message_tag")  # type: ignore[arg-type]
    refused(replace(message, body=None), "bad_value", "body")  # type: ignore[arg-type]
    refused(replace(message, body="text"), "bad_value", "body")  # type: ignore[arg-type]
    short = replace(message, signature_type=1024, signature=bytes(128))
    refused(short, "unsupported", "signature_type")
    assert decode(encode(short, lenient=["rsa-1024"]), "drm-registration", lenient=["rsa-1024"]) == short


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"protocol_version": 1}, "unsupported", "protocol_version"),
        ({"gba_u": 2}, "bad_value", "gba_u"),
        ({"target_id": bytes(7)}, "bad_length", "target_id"),
        ({"key_lifetime": 1 << 32}, "bad_value", "key_lifetime"),
        ({"rand": bytes(15)}, "bad_length", "RAND"),
        ({"autn": bytes(17)}, "bad_length", "AUTN"),
        ({"naf_fqdn": ""}, "bad_length", "naf_fqdn_length"),
        ({"naf_fqdn": "a" * 256}, "bad_length", "naf_fqdn_length"),
        ({"naf_fqdn": "ü"}, "bad_value", "naf_fqdn"),
        ({"btid": b"bytes"}, "bad_value", "btid"),
        ({"mac": b""}, "bad_length", "MAC"),
    ],
)
def test_registration_push(changes: dict[str, Any], code: str, field: str) -> None:
    refused(replace(known("smartcard_registration_0"), **changes), code, field)


def test_clear_messages_have_no_encoding() -> None:
    drm = {name: getattr(known("drm_stkm_0_partial"), name) for name in names(ClearDrmStkm)}
    with pytest.raises(TypeError, match=r"ClearDrmStkm has no encoding of its own: seal it"):
        encode(ClearDrmStkm(**drm))  # type: ignore[arg-type]
    smartcard = {name: getattr(known("smartcard_partial_0"), name) for name in names(ClearSmartcardStkm)}
    with pytest.raises(TypeError, match=r"seal it"):
        encode(ClearSmartcardStkm(**smartcard))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes is not a message"):
        encode(b"")  # type: ignore[arg-type]


def test_management_blocks() -> None:
    binding = TerminalBinding(7, b"https://pi.example")
    stkm = StkmManagement(
        protection_after_reception=1, traffic_protection_protocol=Protocol.SRTP, traffic_authentication_flag=True,
        traffic_key_lifetime=15, access_criteria=(), terminal_binding=binding,
    )  # fmt: skip
    assert management.decode_stkm_management(management.encode_stkm_management(stkm)) == stkm
    policy = SecurityPolicyExtension(
        security_policy_extension=255, cost_value=1, purse=2, purse_mode=1, playback=3, playback_mode=1, tek=4, tek_mode=1
    )
    ltkm = LtkmManagement(consumption_reporting_flag=True, security_policy_ext=policy, terminal_binding=binding)
    assert management.decode_ltkm_management(management.encode_ltkm_management(ltkm)) == ltkm
    entry = ReportingEntry(
        security_policy_extension=1, tek=9, key_domain_id=b"dom", key_group=b"gr", key_number=65535, ts_low=1, ts_high=2
    )
    report = Reporting(status=1, entries=(entry,) * 255)
    assert management.decode_reporting(management.encode_reporting(report)) == report
    parental = ParentalManagement(pin_present=True, rating_type=255, level_granted=0)
    assert management.decode_parental(management.encode_parental(parental)) == parental
    binding = TerminalBinding(7, bytes(256))
    cases: list[tuple[Any, Any, str, str]] = [
        (management.encode_reporting, replace(report, entries=(entry,) * 256), "bad_length", "number_of_entries"),
        (
            management.encode_reporting,
            replace(report, entries=(entry, replace(entry, key_number=65536))),
            "bad_value",
            "entries[1].key_number",
        ),
        (
            management.encode_ltkm_management,
            replace(ltkm, security_policy_ext=replace(policy, cost_value=1 << 32)),
            "bad_value",
            "security_policy_ext.cost_value",
        ),
        (
            management.encode_ltkm_management,
            replace(ltkm, security_policy_ext=replace(policy, purse=None)),
            "bad_value",
            "security_policy_ext.purse_mode",
        ),
        (management.encode_ltkm_management, replace(ltkm, terminal_binding=binding), "bad_length", "permissions_issuer_uri_length"),
        (
            management.encode_stkm_management,
            replace(stkm, traffic_protection_protocol=Protocol.DCF),
            "unsupported",
            "traffic_protection_protocol",
        ),
    ]
    for encoder, block, code, field in cases:
        with pytest.raises(WireError) as caught:
            encoder(block)
        assert (caught.value.code, caught.value.offset, caught.value.field) == (code, None, field)


def test_key_data() -> None:
    key = KeyData(key_type=0, key=Secret(bytes(16)), interval=(b"\0\0\0\1", b"\0\0\0\2"))
    both = (key, KeyData(key_type=3, key=Secret(b"k"), salt=b"s", spi=b"spi"))
    assert decode_key_data(encode_key_data(both)) == both
    assert decode_key_data(b"") == ()
    assert encode_key_data(()) == b""
    assert len(encode_key_data((key,), kind="smartcard-ltkm")) == 30
    for items, code, field in (
        ((replace(key, spi=b"x"),), "bad_value", "[0].kv"),
        ((replace(key, key_type=8),), "unsupported", "[0].type"),
        ((replace(key, salt=b"x"),), "bad_value", "[0].salt"),
        ((key, replace(key, key_type=1)), "bad_value", "[1].salt"),
    ):
        with pytest.raises(WireError) as caught:
            encode_key_data(items)
        assert (caught.value.code, caught.value.offset, caught.value.field) == (code, None, field)


def test_keyset() -> None:
    items = [KeysetItem(tag, Secret.from_hex(value)) for tag, value in load("more")["drm_registration"][0]["keyset_items"]]
    data = encode_keyset(items)
    assert len(data) % 8 == 0
    assert decode_keyset(data) == tuple(items)
    unknown = (KeysetItem(255, Secret(b"?")),)
    assert encode_keyset(unknown) == bytes.fromhex("ff013f") + bytes(13)
    assert decode_keyset(encode_keyset(unknown)) == unknown
    assert decode_keyset(encode_keyset(())) == ()
    for item, code, field in (
        (KeysetItem(0, Secret(b"")), "bad_value", "items[0].item_tag"),
        (KeysetItem(1, Secret(bytes(15))), "bad_length", "items[0].item_length"),
        (KeysetItem(99, Secret(bytes(256))), "bad_length", "items[0].item_length"),
    ):
        with pytest.raises(WireError) as caught:
            encode_keyset((item,))
        assert (caught.value.code, caught.value.offset, caught.value.field) == (code, None, field)


def test_errors_never_hold_keys() -> None:
    secret = bytes(range(0x40, 0x50))
    partial = replace(known("smartcard_partial_0"), tek=Secret(secret * 2))
    with pytest.raises((BadLength, BadValue)) as caught:
        encode(partial, max_size=ROOMY)
    assert secret.hex() not in str(caught.value)
    assert repr(secret) not in repr(caught.value)
