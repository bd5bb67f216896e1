# SPDX-License-Identifier: Apache-2.0
"""Mutations of the DRM Profile: STKM, BCRO, registration (drm-profile 1-3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pybcast.errors import BadLength, BadValue, TrailingBytes, Truncated, Unsupported
from pybcast.testing._faults import Break, Row, append, count, cut, far, fill, move, put, uncounted, when
from pybcast.testing._layout import Fields, Span

# --- DRM Profile: STKM -----------------------------------------------------------------------------------------------


def _no_authentication_part(data: bytearray, fields: Fields) -> int:
    data[1] &= 0xFC
    first = fields.get("programme_selectors_and_flags") or fields["service_CID_extension"]
    del data[first.offset :]
    return 1


def _resized_id(name: str, length: int) -> Break:
    """Index (and next index) of a forbidden length, consistently."""

    def break_(data: bytearray, fields: Fields) -> int:
        spans = [fields[name]] + ([fields[f"next_{name}"]] if f"next_{name}" in fields else [])
        for span in reversed(spans):
            data[span.offset : span.end] = bytes(length)
        data[fields[f"{name}_length"].offset] = length
        return fields[f"{name}_length"].offset

    return break_


def _resized_material(length: Callable[[int], int]) -> Break:
    def break_(data: bytearray, fields: Fields) -> int:
        spans = [fields[name] for name in _MATERIAL if name in fields]
        new = length(spans[0].length)
        for span in reversed(spans):
            data[span.offset : span.end] = bytes(new)
        data[fields["encrypted_traffic_key_material_length"].offset] = new
        return fields["encrypted_traffic_key_material_length"].offset

    return break_


_MATERIAL: Final = ("encrypted_traffic_key_material", "next_encrypted_traffic_key_material")


def _long_criterion(data: bytearray, fields: Fields) -> int:
    """The last descriptor reaches past the end of the message."""
    index = data[fields["number_of_access_criteria_descriptors"].offset] - 1
    if index != 0:
        raise KeyError("single descriptor")
    value = fields["access_criteria[0].value"]
    data[value.offset - 1] = 255
    del data[value.offset + 254 :]
    if len(data) - value.offset >= 255:
        raise KeyError("room")
    return value.offset


def _last(fields: Fields) -> Span:
    return max(fields.values(), key=lambda span: (span.end, span.offset))


def _cut_last_mac(name: str) -> Break:
    def break_(data: bytearray, fields: Fields) -> int:
        if fields[name] != _last(fields):
            raise KeyError(f"{name} at the end")
        del data[-1]
        return fields[name].offset

    return break_


DRM_STKM: Final[tuple[Row, ...]] = (
    ("protocol_version 1", "drm-profile 6", Unsupported, "protocol_version", put("selectors_and_flags", 0x10, 0xF0)),
    ("protocol_version 15", "drm-profile 6", Unsupported, "protocol_version", put("selectors_and_flags", 0xF0, 0xF0)),
    ("reserved bit", "R17 reserved bits", BadValue, "reserved_for_future_use", put("selectors_and_flags", 2, 2)),
    *(
        (f"protocol {n}", "R17 protocol 3..7", Unsupported, "traffic_protection_protocol", put("flags", n << 5, 0xE0))
        for n in range(3, 8)
    ),
    ("neither programme nor service", "R17 both flags 0", BadValue, "service_flag", _no_authentication_part),
    ("master key index of length 0", "R17 index length", BadLength, "master_key_index_length", _resized_id("master_key_index", 0)),
    (
        "master key index of length 17",
        "R17 index length",
        BadLength,
        "master_key_index_length",
        _resized_id("master_key_index", 17),
    ),
    ("key indicator of length 0", "R17 index length", BadLength, "key_indicator_length", _resized_id("key_indicator", 0)),
    ("key indicator of length 17", "R17 index length", BadLength, "key_indicator_length", _resized_id("key_indicator", 17)),
    (
        "key material of length 0",
        "R17 TKM length",
        BadLength,
        "encrypted_traffic_key_material_length",
        _resized_material(lambda n: 0),
    ),
    (
        "key material of length 24",
        "R17 TKM length",
        BadLength,
        "encrypted_traffic_key_material_length",
        _resized_material(lambda n: 24),
    ),
    (
        "key material of the other length",
        "R17 TKM length",
        BadLength,
        "encrypted_traffic_key_material_length",
        _resized_material(lambda n: 48 - n),
    ),
    (
        "reserved bits before lifetime",
        "R17 reserved bits",
        BadValue,
        "reserved_for_future_use",
        put("traffic_key_lifetime", 0x80, 0xF0),
    ),
    ("timestamp with hour digit A", "drm-profile 1.1 row 20", BadValue, "timestamp", put("timestamp", 0x0A, at=2)),
    ("timestamp at hour 24", "drm-profile 1.1 row 20", BadValue, "timestamp", put("timestamp", 0x24, at=2)),
    ("timestamp at minute 60", "drm-profile 1.1 row 20", BadValue, "timestamp", put("timestamp", 0x60, at=3)),
    ("timestamp at second 61", "drm-profile 1.1 row 20", BadValue, "timestamp", put("timestamp", 0x61, at=4)),
    (
        "reserved octet of access criteria",
        "R17 reserved bits",
        BadValue,
        "reserved_for_future_use",
        put("access_criteria_reserved", 1),
    ),
    ("descriptor past the end", "R17 lengths", Truncated, "access_criteria[0].value", _long_criterion),
    (
        "reserved bits of programme",
        "R17 reserved bits",
        BadValue,
        "reserved_for_future_use",
        put("programme_selectors_and_flags", 2, 0xFE),
    ),
    ("last byte missing, service", "drm-profile 6", Truncated, "service_MAC", _cut_last_mac("service_MAC")),
    ("last byte missing, programme", "drm-profile 6", Truncated, "programme_MAC", _cut_last_mac("programme_MAC")),
    ("one byte more", "drm-profile 1.1", TrailingBytes, "", append),
)

DRM_STKM_PARTIAL: Final[tuple[Row, ...]] = (
    ("programme_MAC not zero", "R13 partial", BadValue, "programme_MAC", put("programme_MAC", 1, at=11)),
    ("service_MAC not zero", "R13 partial", BadValue, "service_MAC", put("service_MAC", 1, at=11)),
    ("encrypted_PEK not zero", "R13 partial", BadValue, "encrypted_PEK", put("encrypted_PEK", 1, at=15)),
)


# --- DRM Profile: BCRO -----------------------------------------------------------------------------------------------


def _bcro_length(data: bytearray, by: int) -> None:
    count("bcro_length", 2, 2, 0x0FFF, by, data)


def _bcro_length_off(by: int) -> Break:
    def break_(data: bytearray, fields: Fields) -> int:
        _bcro_length(data, by)
        return 2

    return break_


def _is_time_constraint(data: bytes, fields: Fields) -> bool:
    return data[fields["permissions[0].constraints[0].type"].offset] in (2, 3)


def _none_of(name: str, number: str, stop: str) -> Break:
    """No asset, or no permission: the list removed, bcro_length adjusted."""

    def break_(data: bytearray, fields: Fields) -> int:
        start, end = fields[number].end, fields[stop].offset
        del data[start:end]
        data[start - 1] = 0
        _bcro_length(data, start - end)
        return start - 1

    return break_


def _constraint_length(data: bytearray, fields: Fields) -> int:
    value = fields["permissions[0].constraints[0].value"]
    data[value.offset : value.offset] = b"\0"
    data[value.offset - 1] += 1
    _bcro_length(data, 1)
    return value.offset - 1


def _bcro_inner(data: bytearray, fields: Fields) -> int:
    """A byte too many inside: bcro_length counts it, no field does."""
    data.append(0)
    _bcro_length(data, 1)
    return len(data) - 1


DRM_LTKM: Final[tuple[Row, ...]] = (
    ("message_tag 21", "drm-profile 2.2", Unsupported, "message_tag", put("message_tag", 0x21)),
    ("message_tag 00", "drm-profile 2.2", Unsupported, "message_tag", put("message_tag", 0)),
    ("protocol_version 1", "drm-profile 2.2", Unsupported, "protocol_version", put("version_and_flags", 0x10, 0xF0)),
    ("address_mode 4", "drm-profile 2.2", Unsupported, "address_mode", put("mode_and_length", 0x40, 0x70)),
    ("address_mode 7", "drm-profile 2.2", Unsupported, "address_mode", put("mode_and_length", 0x70, 0x70)),
    ("full mask", "R21 full mask", BadValue, "bit_access_mask", fill("bit_access_mask", 0xFF)),
    ("empty mask", "R21 empty subset", BadValue, "bit_access_mask", fill("bit_access_mask", 0)),
    ("reserved bits before position", "drm-profile 2.2", BadValue, "reserved_for_future_use", put("position_in_group", 0x02, 0xFE)),
    (
        "position 256 in a group of 256",
        "drm-profile 2.2",
        BadValue,
        "position_in_group",
        when(lambda d, f: not d[2] >> 7, put("position_in_group", 1, 0x01)),
    ),
    ("bcro_timestamp at hour 24", "drm-profile 2.2", BadValue, "bcro_timestamp", put("bcro_timestamp", 0x24, at=2)),
    ("refresh_time with digit F", "drm-profile 2.2", BadValue, "refresh_time", put("refresh_time", 0x0F, at=4)),
    ("no asset", "drm-profile 2.2", BadLength, "number_of_assets", _none_of("assets", "number_of_assets", "number_of_permissions")),
    ("reserved bits of asset", "drm-profile 2.2", BadValue, "assets[0].reserved_for_future_use", put("assets[0].flags", 1, 0x3F)),
    (
        "no permission",
        "R21 one permission",
        BadLength,
        "number_of_permissions",
        _none_of("permissions", "number_of_permissions", "MAC"),
    ),
    ("action 0", "drm-profile 2.2", Unsupported, "permissions[0].action", put("permissions[0].action", 0)),
    ("action 5", "drm-profile 2.2", Unsupported, "permissions[0].action", put("permissions[0].action", 5)),
    (
        "constraint type 0",
        "drm-profile 2.2",
        Unsupported,
        "permissions[0].constraints[0].type",
        put("permissions[0].constraints[0].type", 0),
    ),
    (
        "constraint type 6",
        "drm-profile 2.2",
        Unsupported,
        "permissions[0].constraints[0].type",
        put("permissions[0].constraints[0].type", 6),
    ),
    ("constraint too long", "drm-profile 2.2", BadLength, "permissions[0].constraints[0].length", _constraint_length),
    (
        "time constraint at hour 24",
        "drm-profile 2.2",
        BadValue,
        "permissions[0].constraints[0].value",
        when(_is_time_constraint, put("permissions[0].constraints[0].value", 0x24, at=2)),
    ),
    ("bcro_length too small", "drm-profile 2.2", BadLength, "bcro_length", _bcro_length_off(-1)),
    ("bcro_length too large", "drm-profile 2.2", BadLength, "bcro_length", _bcro_length_off(1)),
    ("last byte missing", "drm-profile 2.2 bcro_length", BadLength, "bcro_length", cut("mode_and_length")),
    ("one byte more", "drm-profile 2.2 bcro_length", BadLength, "bcro_length", uncounted),
    ("one byte more, counted", "drm-profile 2.2", TrailingBytes, "", _bcro_inner),
)


# --- DRM Profile: registration ---------------------------------------------------------------------------------------


def _shrunk_keyset(data: bytearray, fields: Fields) -> int:
    """A keyset_block that no AES-WRAP makes, consistently."""
    span = fields["keyset_block"]
    del data[span.end - 1]
    count("keyset_block_length", fields["keyset_block_length"].offset, 2, 0xFFFF, -1, data)
    count("message_length", 2, 2, 0xFFFF, -1, data)
    return fields["keyset_block_length"].offset


def _failed_with_keys(data: bytearray, fields: Fields) -> int:
    """A status that is not success, with a key set."""
    if "keyset_block" not in fields:
        raise KeyError("key set")
    data[fields["status"].offset] = 1
    return fields["flags"].offset


def _registration_inner(data: bytearray, fields: Fields) -> int:
    """A byte too many inside: message_length counts it, no field does."""
    if "body" in fields:
        raise KeyError("fixed body")
    data.append(0)
    count("message_length", 2, 2, 0xFFFF, 1, data)
    return len(data) - 1


DRM_REGISTRATION: Final[tuple[Row, ...]] = (
    ("message_tag 20", "R22", Unsupported, "message_tag", put("message_tag", 0x20)),
    ("message_tag 2B", "R22", Unsupported, "message_tag", put("message_tag", 0x2B)),
    ("protocol_version 1", "drm-profile 3", Unsupported, "protocol_version", put("version_and_reserved", 0x10, 0xF0)),
    ("reserved bits", "drm-profile 3", BadValue, "reserved_for_future_use", put("version_and_reserved", 1, 0x0F)),
    ("message_length too small", "drm-profile 3", BadLength, "message_length", move("message_length", -1)),
    ("message_length too large", "drm-profile 3", BadLength, "message_length", move("message_length", 1)),
    ("longform_udn with digit A", "drm-profile 3", BadValue, "longform_udn", put("longform_udn", 0xA0, 0xF0)),
    ("longform_udn half everyone", "R23", BadValue, "longform_udn", put("longform_udn", 0x1F)),
    ("signature_type 3", "drm-profile 3", Unsupported, "signature_type", put("flags", 0xC0, 0xC0)),
    ("reserved bits of flags", "drm-profile 3", BadValue, "reserved_for_future_use", put("flags", 1, 0x03)),
    ("drm_time at minute 60", "drm-profile 3", BadValue, "drm_time", put("drm_time", 0x60, at=3)),
    ("key set with status 1", "R23 key set only with status 0", BadValue, "keyset_flag", _failed_with_keys),
    ("signature_type 1024, not lenient", "R23 leniency rsa-1024", Unsupported, "signature_type", put("flags", 0, 0xC0)),
    (
        "certificate past the end",
        "drm-profile 3",
        Truncated,
        "certificates[0].der",
        far("certificates[0].length", "certificates[0]"),
    ),
    (
        "OCSP response past the end",
        "drm-profile 3",
        Truncated,
        "ocsp_responses[0].der",
        far("ocsp_responses[0].length", "ocsp_responses[0]"),
    ),
    (
        "session_key_block of no modulus",
        "drm-profile 3",
        BadLength,
        "session_key_block_length",
        move("session_key_block_length", 1),
    ),
    ("keyset_block of 8n - 1", "drm-profile 3", BadLength, "keyset_block_length", _shrunk_keyset),
    ("one byte more, counted", "drm-profile 3", TrailingBytes, "", _registration_inner),
    ("one byte more", "drm-profile 3 message_length", BadLength, "message_length", uncounted),
)
