# SPDX-License-Identifier: Apache-2.0
"""Messages that break one rule each: the exact error, byte offset and field."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from wire_vectors import BY_NAME, PUBLIC

from pybcast.errors import WireError
from pybcast.messages import Kind, Leniency, PartialSmartcardStkm
from pybcast.wire import decode, decode_key_data, decode_keyset, management


def changed(name: str, offset: int, replacement: str) -> bytes:
    data = bytes.fromhex(PUBLIC[name]) if name in PUBLIC else BY_NAME[name].data
    piece = bytes.fromhex(replacement)
    return data[:offset] + piece + data[offset + len(piece) :]


def refused(
    data: bytes, kind: Kind, code: str, offset: int, field: str, *, partial: bool = False, lenient: Collection[Leniency] = ()
) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(data, kind, partial=partial, lenient=lenient)
    error = caught.value
    assert (error.code, error.offset, error.field) == (code, offset, field)
    assert error.expected
    assert error.found
    return error


DRM_STKM = [
    ("drm_stkm_A", 0, "1c", "unsupported", 0, "protocol_version"),
    ("drm_stkm_A", 0, "0e", "bad_value", 0, "reserved_for_future_use"),
    *(("drm_stkm_A", 1, f"{protocol << 5 | 1:02x}", "unsupported", 1, "traffic_protection_protocol") for protocol in range(3, 8)),
    ("drm_stkm_A", 1, "00", "bad_value", 1, "service_flag"),
    *(("drm_stkm_A", 6, size, "bad_length", 6, "encrypted_traffic_key_material_length") for size in ("00", "0f", "11", "20", "ff")),
    ("drm_stkm_A", 1, "11", "bad_length", 6, "encrypted_traffic_key_material_length"),
    ("drm_stkm_A", 23, "15", "bad_value", 23, "reserved_for_future_use"),
    ("drm_stkm_B", 10, "10", "bad_length", 10, "encrypted_traffic_key_material_length"),
    ("drm_stkm_B", 78, "24", "bad_value", 76, "timestamp"),
    ("drm_stkm_B", 79, "60", "bad_value", 76, "timestamp"),
    ("drm_stkm_B", 80, "60", "bad_value", 76, "timestamp"),
    ("drm_stkm_B", 78, "0a", "bad_value", 76, "timestamp"),
    ("drm_stkm_B", 80, "f0", "bad_value", 76, "timestamp"),
    ("drm_stkm_B", 81, "01", "bad_value", 81, "reserved_for_future_use"),
    ("drm_stkm_B", 84, "ff", "truncated", 85, "access_criteria[0].value"),
    ("drm_stkm_B", 87, "03", "bad_value", 87, "reserved_for_future_use"),
    ("drm_stkm_C", 2, "00", "bad_length", 2, "key_indicator_length"),
    ("drm_stkm_C", 2, "11", "bad_length", 2, "key_indicator_length"),
    ("drm_stkm_D", 2, "00", "bad_length", 2, "master_key_index_length"),
    ("drm_stkm_D", 2, "11", "bad_length", 2, "master_key_index_length"),
    ("drm_stkm_D", 19, "20", "bad_length", 19, "encrypted_traffic_key_material_length"),
]


@pytest.mark.parametrize(("name", "at", "replacement", "code", "offset", "field"), DRM_STKM)
def test_drm_stkm(name: str, at: int, replacement: str, code: str, offset: int, field: str) -> None:
    refused(changed(name, at, replacement), "drm-stkm", code, offset, field)


@pytest.mark.parametrize(
    ("name", "offset", "field"),
    [("drm_stkm_A", 28, "service_MAC"), ("drm_stkm_B", 89, "encrypted_PEK"), ("drm_stkm_C", 32, "programme_MAC")],
)
def test_complete_drm_stkm_is_no_partial_one(name: str, offset: int, field: str) -> None:
    error = refused(BY_NAME[name].data, "drm-stkm", "bad_value", offset, field, partial=True)
    assert "zero bytes" in error.expected
    assert error.found == "other bytes"


def test_bits_are_cut_at_their_byte() -> None:
    error = refused(b"\x0c", "drm-stkm", "truncated", 1, "traffic_protection_protocol")
    assert (error.expected, error.found) == ("1 byte", "0 bytes")
    error = refused(BY_NAME["drm_bcro"].data[:3], "drm-ltkm", "truncated", 2, "bcro_length")
    assert (error.expected, error.found) == ("2 bytes", "1 byte")
    refused(b"", "drm-stkm", "truncated", 0, "protocol_version")


def test_checks_go_from_left_to_right() -> None:
    """Two faults: the left one is reported, also when the right one is a missing byte."""
    refused(b"\xf0", "drm-stkm", "unsupported", 0, "protocol_version")
    refused(changed("S1", 30, "00")[:40], "smartcard-stkm", "unsupported", 30, "payloads[1].ts_type")
    refused(changed("S1", 3, "80")[:20], "smartcard-stkm", "bad_value", 3, "v")


STKM = [
    ("S1", 0, "02", "unsupported", 0, "version"),
    ("S1", 1, "01", "unsupported", 1, "data_type"),
    ("S1", 1, "06", "unsupported", 1, "data_type"),
    ("S1", 2, "00", "bad_value", 2, "next_payload"),
    ("S1", 2, "28", "unsupported", 2, "next_payload"),
    ("S1", 2, "02", "unsupported", 2, "next_payload"),
    ("S1", 2, "14", "unsupported", 2, "next_payload"),
    ("S1", 2, "01", "bad_value", 2, "next_payload"),
    ("S1", 2, "0b", "bad_value", 2, "next_payload"),
    ("S1", 2, "0c", "bad_value", 2, "next_payload"),
    ("S1", 3, "80", "bad_value", 3, "v"),
    ("S1", 3, "01", "unsupported", 3, "prf_func"),
    ("S1", 8, "01", "bad_value", 8, "number_of_cs"),
    ("S1", 9, "00", "unsupported", 9, "cs_id_map_type"),
    ("S1", 9, "02", "unsupported", 9, "cs_id_map_type"),
    ("S1", 11, "06", "bad_value", 35, "payloads[2].next_payload"),
    ("S1", 11, "05", "unsupported", 14, "payloads[0].subtype"),
    ("S1", 12, "0010", "bad_value", 29, "payloads[0].ids[3].type"),
    ("S1", 12, "000e", "truncated", 27, "payloads[0].ids[2].value"),
    ("S1", 12, "000b", "truncated", 25, "payloads[0].ids[2].type"),
    ("S1", 12, "0000", "truncated", 14, "payloads[0].ids[0].type"),
    ("S1", 12, "ffff", "truncated", 14, "payloads[0].data"),
    ("S1", 14, "01", "bad_value", 14, "payloads[0].ids[0].type"),
    ("S1", 15, "04", "bad_length", 15, "payloads[0].ids[0].length"),
    ("S1", 19, "00", "bad_value", 19, "payloads[0].ids[1].type"),
    ("S1", 20, "03", "bad_length", 20, "payloads[0].ids[1].length"),
    ("S1", 25, "01", "bad_value", 25, "payloads[0].ids[2].type"),
    ("S1", 25, "03", "bad_value", 25, "payloads[0].ids[2].type"),
    ("S1", 26, "04", "bad_length", 26, "payloads[0].ids[2].length"),
    ("S1", 26, "03", "bad_length", 26, "payloads[0].ids[2].length"),
    ("S1", 29, "05", "bad_value", 29, "payloads[1].next_payload"),
    ("S1", 29, "09", "bad_value", 29, "payloads[1].next_payload"),
    ("S1", 29, "00", "bad_value", 29, "payloads[1].next_payload"),
    ("S1", 30, "00", "unsupported", 30, "payloads[1].ts_type"),
    ("S1", 35, "05", "bad_value", 35, "payloads[2].next_payload"),
    ("S1", 35, "15", "bad_value", 35, "payloads[2].next_payload"),
    ("S1", 35, "ff", "bad_value", 35, "payloads[2].next_payload"),
    ("S1", 36, "00", "bad_value", 36, "payloads[2].encr_alg"),
    ("S1", 36, "02", "unsupported", 36, "payloads[2].encr_alg"),
    ("S1", 37, "0015", "bad_length", 37, "payloads[2].encr_data_len"),
    ("S1", 37, "0000", "bad_length", 37, "payloads[2].encr_data_len"),
    ("S1", 59, "00", "unsupported", 59, "payloads[2].mac_alg"),
    ("S1", 59, "02", "unsupported", 59, "payloads[2].mac_alg"),
    ("S2", 30, "03", "bad_value", 30, "payloads[1].ext_type"),
    ("S2", 31, "0004", "trailing_bytes", 36, "payloads[1].data"),
    ("S2", 31, "0002", "truncated", 35, "payloads[1].management.traffic_protection_protocol"),
    ("S2", 31, "0000", "bad_length", 31, "payloads[1].length"),
    ("S2", 33, "01", "unsupported", 33, "payloads[1].subtype"),
    ("S2", 34, "1c", "unsupported", 34, "payloads[1].management.protocol_version"),
    ("S2", 34, "0d", "truncated", 36, "payloads[1].management.number_of_access_criteria_descriptors"),
    ("S2", 34, "0e", "truncated", 36, "payloads[1].management.terminal_binding_key_id"),
    ("S2", 35, "74", "unsupported", 35, "payloads[1].management.traffic_protection_protocol"),
    ("S2", 35, "54", "bad_length", 44, "payloads[3].encr_data_len"),
    ("S3", 35, "34", "bad_length", 49, "payloads[3].encr_data_len"),
    ("S3", 38, "03", "truncated", 39, "payloads[1].management.access_criteria[0].value"),
]


@pytest.mark.parametrize(("name", "at", "replacement", "code", "offset", "field"), STKM)
def test_smartcard_stkm(name: str, at: int, replacement: str, code: str, offset: int, field: str) -> None:
    refused(changed(name, at, replacement), "smartcard-stkm", code, offset, field)


def test_second_ext_5() -> None:
    data = BY_NAME["S2"].data
    refused(
        data[:29] + b"\x15" + data[30:36] + b"\5" + data[30:36] + data[36:],
        "smartcard-stkm",
        "bad_value",
        37,
        "payloads[2].ext_type",
    )
    refused(data[:29] + b"\x15" + data[30:36] + b"\5" + data[30:36] + data[36:], "mikey", "bad_value", 37, "payloads[2].ext_type")
    refused(data[:30] + b"\3" + data[31:], "mikey", "bad_value", 30, "payloads[1].ext_type")


LTKM = [
    ("S1", 0, "01", "bad_value", 25, "payloads[0].ids[2].type"),
    ("L1", 36, "06", "bad_length", 32, "payloads[2].rand_len"),
    ("L3", 3, "00", "bad_value", 30, "payloads[1].management.consumption_reporting_flag"),
    ("L3", 29, "02", "unsupported", 29, "payloads[1].subtype"),
    ("L3", 30, "10", "unsupported", 30, "payloads[1].management.protocol_version"),
    ("L3", 38, "0f", "bad_length", 38, "payloads[3].rand_len"),
    ("L3", 38, "00", "bad_length", 38, "payloads[3].rand_len"),
    ("L3", 38, "11", "bad_length", 38, "payloads[3].rand_len"),
    ("L3", 55, "0b", "bad_value", 55, "payloads[4].next_payload"),
    ("L3", 74, "00", "bad_value", 74, "payloads[5].next_payload"),
    ("L3", 74, "06", "bad_value", 74, "payloads[5].next_payload"),
    ("L3", 75, "02", "unsupported", 75, "payloads[5].id_type"),
    ("L3", 76, "ffff", "truncated", 78, "payloads[5].id"),
    ("L3", 119, "00", "unsupported", 119, "payloads[6].encr_alg"),
    ("L3", 120, "001a", "bad_length", 120, "payloads[6].encr_data_len"),
    ("L3", 120, "001f", "bad_length", 120, "payloads[6].encr_data_len"),
    ("L3", 152, "02", "unsupported", 152, "payloads[6].mac_alg"),
]


@pytest.mark.parametrize(("name", "at", "replacement", "code", "offset", "field"), LTKM)
def test_smartcard_ltkm(name: str, at: int, replacement: str, code: str, offset: int, field: str) -> None:
    data = changed(name, at, replacement)
    if field.endswith("consumption_reporting_flag"):
        data = data[:30] + b"\x04" + data[31:]
    if name == "L1":
        data = changed("L1", 32, "0f")
    refused(data, "smartcard-ltkm", code, offset, field)


def test_consumption_reporting_with_v() -> None:
    message = decode(changed("L3", 30, "04"), "smartcard-ltkm")
    assert getattr(getattr(message, "management", None), "consumption_reporting_flag", None) is True


def test_stkm_and_ltkm_are_not_taken_for_another() -> None:
    refused(BY_NAME["L1"].data, "smartcard-stkm", "truncated", 25, "payloads[0].ids[2].type")
    refused(BY_NAME["S1"].data, "smartcard-ltkm", "bad_value", 25, "payloads[0].ids[2].type")


def test_second_sp() -> None:
    """SP may stand between IDr and KEMAC, once."""
    data = BY_NAME["L1"].data
    kemac = len(data) - 55
    policy = "00000003000110"
    header = data[:68] + b"\x0a" + data[69:kemac]
    one = header + bytes.fromhex("01" + policy) + data[kemac:]
    message = decode(one, "smartcard-ltkm")
    assert len(getattr(message, "layout", ())) == 7
    two = header + bytes.fromhex("0a" + policy + "01" + policy) + data[kemac:]
    refused(two, "smartcard-ltkm", "bad_value", kemac, "payloads[5].next_payload")


def test_verification_and_reporting() -> None:
    refused(BY_NAME["V1"].data, "smartcard-reporting", "bad_value", 60, "payloads[2].next_payload")
    reporting = BY_NAME["verification_1"]
    assert reporting.kind == "smartcard-reporting"
    refused(reporting.data, "smartcard-verification", "bad_value", 11, "payloads[0].ext_type")
    refused(changed("verification_1", 11, "03"), "smartcard-reporting", "bad_value", 11, "payloads[0].ext_type")
    refused(changed("verification_1", 14, "04"), "smartcard-reporting", "unsupported", 14, "payloads[0].subtype")
    refused(
        changed("verification_1", 15, "01"),
        "smartcard-reporting",
        "bad_value",
        15,
        "payloads[0].management.reserved_for_future_use",
    )
    refused(
        changed("verification_1", 17, "01"),
        "smartcard-reporting",
        "truncated",
        18,
        "payloads[0].management.entries[0].key_domain_id",
    )
    refused(changed("V1", 1, "00"), "smartcard-verification", "unsupported", 1, "data_type")
    refused(changed("V1", 3, "80"), "smartcard-verification", "bad_value", 3, "v")
    refused(changed("V1", 61, "00"), "smartcard-verification", "unsupported", 61, "payloads[2].auth_alg")
    refused(changed("V1", 60, "05"), "smartcard-verification", "bad_value", 60, "payloads[2].next_payload")


def test_parental_control() -> None:
    with_pin = BY_NAME["parental_0"].data
    kemac = len(with_pin) - 21 - 12 - 4
    refused(changed("parental_0", 15, "00"), "smartcard-parental", "bad_length", kemac + 2, "payloads[5].encr_data_len")
    refused(
        changed("parental_0", 15, "09"), "smartcard-parental", "bad_value", 15, "payloads[0].management.reserved_for_future_use"
    )
    refused(changed("parental_0", 15, "18"), "smartcard-parental", "unsupported", 15, "payloads[0].management.protocol_version")
    refused(changed("parental_0", 11, "03"), "smartcard-parental", "bad_value", 11, "payloads[0].ext_type")
    without = with_pin[:2] + b"\5" + with_pin[3:10] + with_pin[18:]
    refused(without, "smartcard-parental", "bad_value", kemac - 8, "payloads[4].next_payload")


def test_partial_smartcard_stkm() -> None:
    known = BY_NAME["smartcard_partial_0"]
    data = known.data
    assert isinstance(decode(data, "smartcard-stkm"), PartialSmartcardStkm)
    refused(BY_NAME["S1"].data, "smartcard-stkm", "bad_value", 4, "csb_id", partial=True)
    refused(changed("S1", 4, "00000000"), "smartcard-stkm", "unsupported", 36, "payloads[2].encr_alg", partial=True)
    csb = data[:4] + b"\0\0\0\1" + data[8:]
    refused(csb, "smartcard-stkm", "bad_value", 4, "csb_id", partial=True)
    refused(csb, "smartcard-stkm", "bad_value", 43, "payloads[3].encr_alg")
    start = 46  # of the key data: 00 20 0010 key16
    for at, replacement, code, offset, field in (
        (0, "14", "bad_value", start, "next_payload"),
        (1, "00", "bad_value", start + 1, "type"),
        (1, "21", "bad_value", start + 1, "kv"),
        (1, "30", "truncated", start + 20, "salt_len"),
        (2, "000f", "bad_length", start + 2, "key_len"),
    ):
        broken = data[: start + at] + bytes.fromhex(replacement) + data[start + at + len(replacement) // 2 :]
        refused(broken, "smartcard-stkm", code, offset, f"payloads[3].key_data[0].{field}")
    refused(data[:-1] + b"\1", "smartcard-stkm", "unsupported", len(data) - 1, "payloads[3].mac_alg")


MIKEY = [
    ("gstreamer_header", 1, "02", "unsupported", 1, "data_type"),
    ("gstreamer_header", 9, "02", "unsupported", 9, "cs_id_map_type"),
    ("gstreamer_header", 8, "01", "truncated", 10, "cs_id_map[0].policy_no"),
    ("gstreamer_two_srtp_ids", 9, "01", "bad_value", 9, "cs_id_map_type"),
    ("gortsplib_a", 20, "04", "unsupported", 20, "payloads[0].ts_type"),
    ("gortsplib_a", 19, "05", "bad_value", 19, "payloads[0].next_payload"),
    ("gortsplib_a", 50, "0014", "truncated", 72, "payloads[2].params[6].value"),
    ("gortsplib_a", 74, "04", "unsupported", 74, "payloads[3].encr_alg"),
    ("gortsplib_a", 75, "0021", "truncated", 81, "payloads[3].key_data[0].key"),
    ("gortsplib_a", 77, "01", "bad_value", 77, "payloads[3].key_data[0].next_payload"),
    ("gortsplib_a", 78, "80", "unsupported", 78, "payloads[3].key_data[0].type"),
    ("gortsplib_a", 78, "23", "unsupported", 78, "payloads[3].key_data[0].kv"),
    ("gortsplib_a", 79, "001d", "trailing_bytes", 110, "payloads[3].key_data"),
    ("gortsplib_a", 111, "03", "unsupported", 111, "payloads[3].mac_alg"),
    ("V1", 61, "02", "unsupported", 61, "payloads[2].auth_alg"),
]


@pytest.mark.parametrize(("name", "at", "replacement", "code", "offset", "field"), MIKEY)
def test_mikey(name: str, at: int, replacement: str, code: str, offset: int, field: str) -> None:
    refused(changed(name, at, replacement), "mikey", code, offset, field)


def test_mikey_errors_and_empty_extensions() -> None:
    header = "01060c00" + "00000000" + "0001"
    decode(bytes.fromhex(header + "00010000"), "mikey")
    refused(bytes.fromhex(header + "00010001"), "mikey", "bad_value", 12, "payloads[0].reserved")
    extension = "01001500" + "00000000" + "0001"
    refused(bytes.fromhex(extension + "00050000"), "mikey", "bad_length", 12, "payloads[0].length")
    decode(bytes.fromhex(extension + "00060000"), "mikey")
    twice = "0000000b" + "0003aabbcc" + "010401020304"
    decode(bytes.fromhex(extension + "0003000b" + twice[8:]), "mikey")
    refused(bytes.fromhex(extension + "0003000a" + "0003aabbcc" * 2), "mikey", "bad_value", 19, "payloads[0].ids[1].type")


BCRO = [
    (0, "21", "unsupported", 0, "message_tag"),
    (1, "19", "unsupported", 1, "protocol_version"),
    (2, "4082", "unsupported", 2, "address_mode"),
    (2, "1081", "bad_length", 2, "bcro_length"),
    (2, "1083", "bad_length", 2, "bcro_length"),
    (28, "ff" * 32, "bad_value", 28, "bit_access_mask"),
    (28, "00" * 32, "bad_value", 28, "bit_access_mask"),
    (62, "240000", "bad_value", 60, "bcro_timestamp"),
    (65, "00", "bad_length", 65, "number_of_assets"),
    (66, "81", "bad_value", 66, "assets[0].reserved_for_future_use"),
    (115, "00", "bad_length", 115, "number_of_permissions"),
    (116, "00", "unsupported", 116, "permissions[0].action"),
    (116, "05", "unsupported", 116, "permissions[0].action"),
    (117, "01", "unsupported", 118, "permissions[0].constraints[0].type"),
]


@pytest.mark.parametrize(("at", "replacement", "code", "offset", "field"), BCRO)
def test_bcro(at: int, replacement: str, code: str, offset: int, field: str) -> None:
    refused(changed("drm_bcro", at, replacement), "drm-ltkm", code, offset, field)


def test_bcro_for_one_device() -> None:
    data = BY_NAME["drm_ltkm_4"].data  # address_mode 2, 256 positions, rights issuer
    refused(data[:28] + b"\x02" + data[29:], "drm-ltkm", "bad_value", 28, "reserved_for_future_use")
    error = refused(data[:28] + b"\x01" + data[29:], "drm-ltkm", "bad_value", 28, "position_in_group")
    assert error.expected == "0..255 in a group of 256"


def test_bcro_constraints() -> None:
    data = BY_NAME["drm_ltkm_1"].data  # one permission with constraint 1, 4 bytes, just before the MAC
    start = len(data) - 12 - 6
    for replacement, code, offset, field in (
        ("00", "unsupported", start, "type"),
        ("06", "unsupported", start, "type"),
        ("0105", "bad_length", start + 1, "length"),
        ("0204", "bad_length", start + 1, "length"),
        ("0205" + "d4fa246000", "bad_value", start + 2, "value"),
    ):
        broken = bytearray(data)
        broken[start : start + len(replacement) // 2] = bytes.fromhex(replacement)
        refused(bytes(broken), "drm-ltkm", code, offset, f"permissions[0].constraints[0].{field}")


def test_length_field_under_trailing_bytes() -> None:
    """The message ends where it says; what it says must still hold."""
    data = BY_NAME["drm_bcro"].data
    refused(changed("drm_bcro", 2, "1081"), "drm-ltkm", "truncated", 118, "MAC", lenient=["trailing-bytes"])
    refused(changed("drm_bcro", 2, "1000"), "drm-ltkm", "truncated", 4, "rights_issuer_id", lenient=["trailing-bytes"])
    refused(changed("drm_bcro", 2, "1083"), "drm-ltkm", "bad_length", 2, "bcro_length", lenient=["trailing-bytes"])
    longer = data[:2] + b"\x10\x84" + data[4:] + b"\0\0"
    refused(longer, "drm-ltkm", "trailing_bytes", 130, "")
    refused(longer, "drm-ltkm", "trailing_bytes", 130, "", lenient=["trailing-bytes"])  # nothing is ignored inside that size


REGISTRATION = [
    (0, "2b", "unsupported", 0, "message_tag"),
    (0, "20", "unsupported", 0, "message_tag"),
    (1, "10", "unsupported", 1, "protocol_version"),
    (1, "01", "bad_value", 1, "reserved_for_future_use"),
    (2, "0000", "bad_length", 2, "message_length"),
    (2, "ffff", "bad_length", 2, "message_length"),
    (4, "5a", "bad_value", 4, "longform_udn"),
    (14, "01", "bad_value", 15, "keyset_flag"),
    (15, "08", "unsupported", 15, "signature_type"),
    (15, "c8", "unsupported", 15, "signature_type"),
    (15, "49", "bad_value", 15, "reserved_for_future_use"),
    (38, "240000", "bad_value", 36, "drm_time"),
    (41, "0080", "bad_length", 41, "session_key_block_length"),
    (41, "0101", "bad_length", 41, "session_key_block_length"),
    (299, "0010", "bad_length", 299, "keyset_block_length"),
    (299, "0019", "bad_length", 299, "keyset_block_length"),
    (299, "fff8", "truncated", 301, "keyset_block"),
]


@pytest.mark.parametrize(("at", "replacement", "code", "offset", "field"), REGISTRATION)
def test_registration(at: int, replacement: str, code: str, offset: int, field: str) -> None:
    refused(changed("drm_registration_0", at, replacement), "drm-registration", code, offset, field)


def test_opaque_registration_message() -> None:
    """The body is what stands between the header and a signature of the size announced."""
    header = "22000110" + "ff" * 10 + "00" + "40"
    message = decode(bytes.fromhex(header) + bytes(256), "drm-registration")
    assert (getattr(message, "body", None), getattr(message, "longform_udn", None)) == (b"", "F" * 20)
    short = bytes.fromhex("2200010f" + header[8:]) + bytes(255)
    refused(short, "drm-registration", "truncated", 16, "signature")


def test_rsa_1024_by_name_only() -> None:
    data = bytes.fromhex("22000090" + "12" * 10 + "00" + "00") + bytes(128)
    refused(data, "drm-registration", "unsupported", 15, "signature_type")
    assert getattr(decode(data, "drm-registration", lenient=["rsa-1024"]), "signature_type", None) == 1024


PUSH = [
    (0, "41", "unsupported", 0, "message_tag"),
    (1, "10", "unsupported", 1, "protocol_version"),
    (1, "02", "bad_value", 1, "reserved_for_future_use"),
    (2, "0074", "bad_length", 2, "message_length"),
    (48, "00", "bad_length", 48, "naf_fqdn_length"),
    (49, "80", "bad_value", 49, "naf_fqdn"),
    (64, "00", "bad_length", 64, "btid_length"),
    (64, "ff", "truncated", 65, "btid"),
    (65, "ff", "bad_value", 65, "btid"),
]


@pytest.mark.parametrize(("at", "replacement", "code", "offset", "field"), PUSH)
def test_registration_push(at: int, replacement: str, code: str, offset: int, field: str) -> None:
    refused(changed("smartcard_registration_0", at, replacement), "smartcard-registration", code, offset, field)


@pytest.mark.parametrize(
    ("function", "data", "code", "offset", "field"),
    [
        ("stkm", "1000", "unsupported", 0, "protocol_version"),
        ("stkm", "0060", "unsupported", 1, "traffic_protection_protocol"),
        ("stkm", "0000ff", "trailing_bytes", 2, ""),
        ("stkm", "0200", "truncated", 2, "terminal_binding_key_id"),
        ("stkm", "02000000000105", "truncated", 7, "permissions_issuer_uri"),
        ("ltkm", "", "truncated", 0, "protocol_version"),
        ("ltkm", "080001", "bad_value", 2, "security_policy_ext.reserved_for_future_use"),
        ("ltkm", "080020", "bad_value", 2, "security_policy_ext.purse_mode"),
        ("ltkm", "080008", "bad_value", 2, "security_policy_ext.playback_mode"),
        ("ltkm", "080002", "bad_value", 2, "security_policy_ext.tek_mode"),
        ("ltkm", "080080", "truncated", 3, "security_policy_ext.cost_value"),
        ("reporting", "000001", "truncated", 3, "entries[0].key_domain_id"),
        ("reporting", "010000", "bad_value", 0, "reserved_for_future_use"),
        ("parental", "070102", "bad_value", 0, "reserved_for_future_use"),
        ("parental", "0001", "truncated", 2, "level_granted"),
    ],
)
def test_management_blocks(function: str, data: str, code: str, offset: int, field: str) -> None:
    name = function if function in ("reporting", "parental") else f"{function}_management"
    with pytest.raises(WireError) as caught:
        getattr(management, f"decode_{name}")(bytes.fromhex(data))
    assert (caught.value.code, caught.value.offset, caught.value.field) == (code, offset, field)


@pytest.mark.parametrize(
    ("data", "code", "offset", "field"),
    [
        ("01", "truncated", 1, "items[0].item_length"),
        ("010f" + "00" * 15, "bad_length", 1, "items[0].item_length"),
        ("0110" + "11" * 15, "truncated", 2, "items[0].value"),
        ("0110" + "11" * 16, "bad_length", 18, "padding"),
        ("0110" + "11" * 16 + "000000000001", "bad_value", 18, "padding"),
        ("0110" + "11" * 16 + "00" * 14, "bad_length", 18, "padding"),
        ("", "bad_length", 0, "padding"),
    ],
)
def test_keyset(data: str, code: str, offset: int, field: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_keyset(bytes.fromhex(data))
    assert (caught.value.code, caught.value.offset, caught.value.field) == (code, offset, field)
    assert "11" * 8 not in str(caught.value)


SEK = "00020010" + "11" * 16 + "04000000010400000002"


@pytest.mark.parametrize(
    ("data", "kind", "code", "offset", "field"),
    [
        ("14200010" + "11" * 16, "mikey", "truncated", 20, "[1].next_payload"),
        ("00200010" + "11" * 16 + "00", "mikey", "trailing_bytes", 20, ""),
        ("00210001110203", "mikey", "truncated", 6, "[0].spi"),
        ("00300001110003", "mikey", "truncated", 7, "[0].salt"),
        ("00120010" + SEK[8:], "smartcard-ltkm", "bad_value", 1, "[0].type"),
        ("00000010" + SEK[8:], "smartcard-ltkm", "bad_value", 1, "[0].kv"),
        ("00020011" + SEK[8:], "smartcard-ltkm", "bad_length", 2, "[0].key_len"),
        ("00020010" + "11" * 16 + "020001020002", "smartcard-ltkm", "bad_length", 20, "[0].vf_len"),
        ("00020010" + "11" * 16 + "0400000001020002", "smartcard-ltkm", "bad_length", 25, "[0].vt_len"),
        ("00300010" + "11" * 16 + "000d" + "22" * 13, "smartcard-stkm", "bad_length", 20, "[0].salt_len"),
        ("00200010" + "11" * 16, "smartcard-parental", "bad_length", 2, "[0].key_len"),
    ],
)
def test_key_data(data: str, kind: str, code: str, offset: int, field: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_key_data(bytes.fromhex(data), kind=kind)  # type: ignore[arg-type]  # a literal at run time
    assert (caught.value.code, caught.value.offset, caught.value.field) == (code, offset, field)
    assert "11" * 8 not in str(caught.value)


def test_leniencies_are_named() -> None:
    with pytest.raises(ValueError, match="unknown leniency 'everything'"):
        decode(b"", "mikey", lenient=["everything"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="unknown kind 'drm'"):
        decode(b"", "drm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no partial form"):
        decode(b"", "mikey", partial=True)
    with pytest.raises(TypeError):
        decode(5, "mikey")  # type: ignore[arg-type]  # not five zero bytes


def test_interval_2_and_mtk_id_4() -> None:
    short = changed("L1", 0, "01")
    kemac = len(short) - 55
    data = short[:kemac] + bytes.fromhex("0001001a") + short[kemac + 4 : kemac + 30] + short[-21:]
    refused(data, "smartcard-ltkm", "bad_length", kemac + 2, "payloads[5].encr_data_len")
    assert len(getattr(decode(data, "smartcard-ltkm", lenient=["interval-2"]), "encr_data", b"")) == 26
    card = BY_NAME["card_C"]
    refused(card.data, "smartcard-stkm", "bad_length", 26, "payloads[0].ids[2].length")
    assert getattr(decode(card.data, "smartcard-stkm", lenient=["mtk-id-4"]), "tek_id", None) == bytes.fromhex("011015af")
    interval = bytes.fromhex("00020010" + "11" * 16 + "020001020002")
    (key,) = decode_key_data(interval, kind="smartcard-ltkm", lenient=["interval-2"])
    assert key.interval == (b"\0\1", b"\0\2")
