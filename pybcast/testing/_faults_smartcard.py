# SPDX-License-Identifier: Apache-2.0
"""Mutations of MIKEY and of the Smartcard Profile (smartcard-profile 1-5, 7, 9)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pybcast.errors import BadLength, BadValue, TrailingBytes, Truncated, Unsupported
from pybcast.testing._faults import Break, Row, append, count, cut, far, inner, move, payload_path, put, uncounted, when
from pybcast.testing._layout import LOCATE, Fields

# --- MIKEY -----------------------------------------------------------------------------------------------------------


def _announcer(fields: Fields, offset: int) -> tuple[int, str]:
    """The octet that announces the payload at ``offset`` (or the end of the chain), and its path."""
    before = [
        (span.offset, f"{path}.next_payload")
        for path, span in fields.items()
        if path.startswith("payloads[") and span.offset < offset
    ]
    return max(before, default=(2, "next_payload"))


def _put_in(data: bytearray, fields: Fields, offset: int, kind: int, payload: bytes) -> None:
    """A payload (without its first octet) put in at a payload boundary."""
    head = _announcer(fields, offset)[0]
    data[offset:offset] = bytes([data[head]]) + payload
    data[head] = kind


def _twice(name: str) -> Break:
    """The payload ``name`` twice in a row: the first one announces what may come only once."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        span = fields[name]
        number = data[_announcer(fields, span.offset)[0]]
        data[span.offset : span.offset] = bytes([number]) + data[span.offset + 1 : span.end]
        return span.offset, payload_path(fields, name) + ".next_payload"

    return break_


def _extension_twice(name: str) -> Break:
    """An extension of which there is one only: the second says so in its type."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        span, path = fields[name], payload_path(fields, name)
        data[span.offset : span.offset] = bytes([21]) + data[span.offset + 1 : span.end]
        return span.end + 1, f"payloads[{int(path[9:-1]) + 1}].ext_type"

    return break_


def _misplaced(name: str, kind: int, payload: bytes) -> Break:
    """A payload that may not come before the payload ``name``."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        at = _announcer(fields, fields[name].offset)
        _put_in(data, fields, fields[name].offset, kind, payload)
        return at

    return break_


def _announced_as(name: str, kind: int) -> Break:
    """The payload ``name`` under another number."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        offset, path = _announcer(fields, fields[name].offset)
        data[offset] = kind
        return offset, path

    return break_


def _left_out(name: str) -> Break:
    """No payload ``name``.  It is missed where the next payload that is not an extension is announced."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        span = fields[name]
        data[_announcer(fields, span.offset)[0]] = data[span.offset]
        del data[span.offset : span.end]
        rest = LOCATE["mikey"](bytes(data))
        at = min(
            (other.offset for key, other in rest.items() if other.offset >= span.offset and _plain(key)),
            default=len(data),
        )
        return _announcer(rest, at)

    return break_


def _plain(key: str) -> bool:
    return key in ("T", "RAND", "ID", "ID#2", "SP", "KEMAC", "V")


def _extension_left_out(name: str, missed_at: str) -> Break:
    """No extension ``name``: missed where the last payload begins, since extensions may stand anywhere before it."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        span = fields[name]
        data[_announcer(fields, span.offset)[0]] = data[span.offset]
        del data[span.offset : span.end]
        rest = LOCATE["mikey"](bytes(data))
        return rest[missed_at].offset, payload_path(rest, missed_at) + ".next_payload"

    return break_


def _resized(field: str, length: str, by: int, outer: str = "") -> Break:
    """``field`` longer (or shorter) at its end; its ``length`` and an ``outer`` length follow.  At fault: the length."""

    def break_(data: bytearray, fields: Fields) -> int:
        span = fields[field]
        if by > 0:
            data[span.end : span.end] = bytes(by)
        else:
            if span.length < -by:
                raise KeyError(f"room in {field}")
            del data[span.end + by : span.end]
        for name in filter(None, (length, outer)):
            size = fields[name]
            count(name, size.offset, size.length, (1 << 8 * size.length) - 1, by, data)
        return fields[length].offset

    return break_


def _behind(name: str) -> Break:
    """A RAND behind the payload that must be last."""

    def break_(data: bytearray, fields: Fields) -> int:
        offset = fields[name].offset
        data[offset] = 11
        data += b"\0\x10" + bytes(16)
        return offset

    return break_


def _without_mac(alg: str, mac: str) -> Break:
    """Algorithm NULL, and no MAC."""

    def break_(data: bytearray, fields: Fields) -> int:
        span = fields[mac]
        del data[span.offset : span.end]
        data[fields[alg].offset] = 0
        return fields[alg].offset

    return break_


def _one_more_key_id(entry: bytes) -> Break:
    """One more Key ID entry, of a type that is already there."""

    def break_(data: bytearray, fields: Fields) -> tuple[int, str]:
        end = fields["EXT3"].end
        entries, at = 0, fields["EXT3.length"].end
        while at < end:
            at += 2 + data[at + 1]
            entries += 1
        data[end:end] = entry
        count("EXT3.length", fields["EXT3.length"].offset, 2, 0xFFFF, len(entry), data)
        return end, f"{payload_path(fields, 'EXT3')}.ids[{entries}].type"

    return break_


def _extension_far(name: str) -> Break:
    """An extension that reaches past the end of the message; at fault is its content."""

    def break_(data: bytearray, fields: Fields) -> int:
        span = fields[f"{name}.length"]
        data[span.offset] = 0xFF
        return span.end

    return break_


def _last_key_id_too_long(data: bytearray, fields: Fields) -> tuple[int, str]:
    """The length of the last entry reaches one byte past the extension."""
    end, at = fields["EXT3"].end, fields["EXT3.length"].end
    entries = -1
    last = at
    while at < end:
        last, at, entries = at, at + 2 + data[at + 1], entries + 1
    if entries < 3 or data[last + 1] == 255:
        # The length of the others is fixed, and refused as such.
        raise KeyError("unknown Key ID")
    data[last + 1] += 1
    return last + 2, f"{payload_path(fields, 'EXT3')}.ids[{entries}].value"


def _session_in_empty_map(data: bytearray, fields: Fields) -> int:
    """#CS 1 without an entry: at fault is the map type, the later of the two."""
    if data[fields["cs_id_map_type"].offset] != 1:
        raise KeyError("empty map")
    data[fields["number_of_cs"].offset] = 1
    return fields["cs_id_map_type"].offset


_MIKEY_COMMON: Final[tuple[Row, ...]] = (
    ("version 2", "RFC 3830 6.1", Unsupported, "version", put("version", 2)),
    ("version 0", "RFC 3830 6.1", Unsupported, "version", put("version", 0)),
    ("data type 2", "R11", Unsupported, "data_type", put("data_type", 2)),
    ("data type 255", "R11", Unsupported, "data_type", put("data_type", 255)),
    ("map type 2", "R11 map type", Unsupported, "cs_id_map_type", put("cs_id_map_type", 2)),
    ("T announced as 99", "R16 unknown payload", Unsupported, "next_payload", _announced_as("T", 99)),
    ("T announced as PKE", "R16 unknown payload", Unsupported, "next_payload", _announced_as("T", 2)),
    ("T announced as Key data", "R16 unknown payload", Unsupported, "next_payload", _announced_as("T", 20)),
    ("T twice", "R16 duplicates", BadValue, "next_payload", _twice("T")),
    ("one byte more", "smartcard-profile 1.3", TrailingBytes, "", append),
)

MIKEY: Final[tuple[Row, ...]] = (
    *_MIKEY_COMMON,
    (
        "crypto session in an empty map",
        "smartcard-profile 1.1",
        BadValue,
        "cs_id_map_type",
        _session_in_empty_map,
    ),
    ("timestamp of type 4", "smartcard-profile 1.3", Unsupported, "<T>.ts_type", put("T.ts_type", 4)),
    ("RAND twice", "R16 duplicates", BadValue, "next_payload", _twice("RAND")),
    ("Key ID extension twice", "R16 duplicates", BadValue, "ext_type", _extension_twice("EXT3")),
    ("OMA extension twice", "R16 duplicates", BadValue, "ext_type", _extension_twice("EXT5")),
    (
        "second Key ID of type 0",
        "R16 duplicates",
        BadValue,
        "type",
        when(lambda d, f: "EXT3.ids[0].type" in f, _one_more_key_id(b"\0\3abc")),
    ),
    ("payload behind KEMAC", "R16 last payload", BadValue, "<KEMAC>.next_payload", _behind("KEMAC")),
    ("payload behind V", "R16 last payload", BadValue, "<V>.next_payload", _behind("V")),
    ("encryption algorithm 4", "smartcard-profile 1.3", Unsupported, "<KEMAC>.encr_alg", put("KEMAC.encr_alg", 4)),
    ("MAC algorithm 3", "smartcard-profile 1.3", Unsupported, "<KEMAC>.mac_alg", put("KEMAC.mac_alg", 3)),
    ("authentication algorithm 2", "smartcard-profile 1.3", Unsupported, "<V>.auth_alg", put("V.auth_alg", 2)),
    ("identity past the end", "smartcard-profile 1.3", Truncated, "<ID>.id", far("ID.length", "ID.id")),
    ("extension past the end", "smartcard-profile 1.3", Truncated, "<EXT3>.data", _extension_far("EXT3")),
    (
        "key data past the end",
        "smartcard-profile 1.3",
        Truncated,
        "<KEMAC>.encr_data",
        when(lambda d, f: d[f["KEMAC.encr_alg"].offset] > 0, far("KEMAC.encr_data_length", "KEMAC.encr_data")),
    ),
    ("reserved bits of ERR", "smartcard-profile 1.3", BadValue, "<ERR>.reserved", put("ERR.reserved", 1)),
    (
        "last byte of MAC missing",
        "smartcard-profile 1.3",
        Truncated,
        "<KEMAC>.mac",
        when(lambda d, f: f["KEMAC.mac"].length > 0, cut("KEMAC.mac")),
    ),
)

_SMARTCARD: Final[tuple[Row, ...]] = (
    *_MIKEY_COMMON,
    ("PRF 1", "R11 PRF 0", Unsupported, "prf_func", put("v_and_prf", 1, 0x7F)),
    ("crypto session in an empty map", "R11 #CS 0", BadValue, "number_of_cs", put("number_of_cs", 1)),
    ("map type 0", "R11 map type", Unsupported, "cs_id_map_type", put("cs_id_map_type", 0)),
    ("timestamp of type 3", "smartcard-profile 4.6", Unsupported, "<T>.ts_type", put("T.ts_type", 3)),
    ("no T", "smartcard-profile 4.4", BadValue, "next_payload", _left_out("T")),
)

_WITH_KEMAC: Final[tuple[Row, ...]] = (
    ("payload behind KEMAC", "R16 last payload", BadValue, "<KEMAC>.next_payload", _behind("KEMAC")),
    ("encryption algorithm 2", "R11 encr alg 1", Unsupported, "<KEMAC>.encr_alg", put("KEMAC.encr_alg", 2)),
    ("no MAC", "R11 NULL", Unsupported, "<KEMAC>.mac_alg", _without_mac("KEMAC.mac_alg", "KEMAC.mac")),
    ("MAC algorithm 2", "R11 MAC alg 1", Unsupported, "<KEMAC>.mac_alg", put("KEMAC.mac_alg", 2)),
    (
        "encrypted data one byte longer",
        "smartcard-profile 4.5",
        BadLength,
        "<KEMAC>.encr_data_len",
        _resized("KEMAC.encr_data", "KEMAC.encr_data_length", 1),
    ),
    ("last byte missing", "smartcard-profile 1.3", Truncated, "<KEMAC>.mac", cut("KEMAC.mac")),
)

_WITH_KEY_IDS: Final[tuple[Row, ...]] = (
    ("no Key ID extension", "smartcard-profile 4.4", BadValue, "next_payload", _extension_left_out("EXT3", "KEMAC")),
    ("Key ID extension twice", "R16 duplicates", BadValue, "ext_type", _extension_twice("EXT3")),
    (
        "key_domain_id of 4 bytes",
        "smartcard-profile 2",
        BadLength,
        "<EXT3>.ids[0].length",
        _resized("EXT3.ids[0].value", "EXT3.ids[0].length", 1, "EXT3.length"),
    ),
    (
        "sek_id of 3 bytes",
        "smartcard-profile 2",
        BadLength,
        "<EXT3>.ids[1].length",
        _resized("EXT3.ids[1].value", "EXT3.ids[1].length", -1, "EXT3.length"),
    ),
    ("second Key ID of type 0", "R16 duplicates", BadValue, "type", _one_more_key_id(b"\0\3abc")),
    ("second Key ID of type 1", "R16 duplicates", BadValue, "type", _one_more_key_id(b"\1\4abcd")),
    ("extension past the end", "smartcard-profile 1.3", Truncated, "<EXT3>.data", _extension_far("EXT3")),
    ("Key ID past its extension", "smartcard-profile 2", Truncated, "value", _last_key_id_too_long),
)

_WITH_IDENTITIES: Final[tuple[Row, ...]] = (
    ("no RAND", "smartcard-profile 4.4", BadValue, "next_payload", _left_out("RAND")),
    ("RAND twice", "R16 duplicates", BadValue, "next_payload", _twice("RAND")),
    ("RAND of 15 bytes", "smartcard-profile 4.4", BadLength, "<RAND>.rand_len", _resized("RAND.rand", "RAND.length", -1)),
    ("RAND of 0 bytes", "smartcard-profile 4.4", BadLength, "<RAND>.rand_len", _resized("RAND.rand", "RAND.length", -16)),
    ("no IDr", "smartcard-profile 4.4", BadValue, "next_payload", _left_out("ID#2")),
    ("IDr of type 2", "smartcard-profile 4.3", Unsupported, "<ID#2>.id_type", put("ID#2.id_type", 2)),
    ("identity past the end", "smartcard-profile 1.3", Truncated, "<ID>.id", far("ID.length", "ID.id")),
    ("third identity", "smartcard-profile 4.4", BadValue, "next_payload", _misplaced("KEMAC", 6, b"\0\0\1a")),
)


def _other_protocol(data: bytearray, fields: Fields) -> int:
    """SRTP without its salt, or a salt without SRTP."""
    at = fields["EXT5.protocol_and_lifetime"].offset
    data[at] = data[at] & 0x1F | (0x00 if data[at] >> 5 == 1 else 0x20)
    return fields["KEMAC.encr_data_length"].offset


def _pin_denied(data: bytearray, fields: Fields) -> int:
    """pin_present says the contrary of what KEMAC holds."""
    data[fields["EXT5.head"].offset] ^= 0x08
    return fields["KEMAC.encr_data_length"].offset


def _inside(data: bytearray, fields: Fields) -> int:
    """A byte more in the OMA extension than its management data has."""
    end = fields["EXT5"].end
    data[end:end] = b"\0"
    count("EXT5.length", fields["EXT5.length"].offset, 2, 0xFFFF, 1, data)
    return end


def _short_key(data: bytearray, fields: Fields) -> int:
    """The length of the key in clear, and nothing else, changed."""
    start = fields["KEMAC.encr_data"].offset
    data[start + 3] = 15
    return start + 2


_MANAGEMENT: Final[tuple[Row, ...]] = (
    ("OMA extension twice", "R16 duplicates", BadValue, "ext_type", _extension_twice("EXT5")),
    ("subtype 0", "smartcard-profile 3", Unsupported, "<EXT5>.subtype", put("EXT5.subtype", 0)),
    ("subtype 192", "smartcard-profile 3", Unsupported, "<EXT5>.subtype", put("EXT5.subtype", 192)),
    (
        "management version 1",
        "smartcard-profile 7",
        Unsupported,
        "<EXT5>.management.protocol_version",
        put("EXT5.head", 0x10, 0xF0),
    ),
    ("byte behind management data", "smartcard-profile 7", TrailingBytes, "<EXT5>.data", _inside),
)

_POLICY: Final = (
    ("mode of an absent purse", "smartcard-profile 7.12", "purse_mode", 0x40, 0x20),
    ("mode of an absent playback counter", "smartcard-profile 7.12", "playback_mode", 0x10, 0x08),
    ("mode of an absent TEK counter", "smartcard-profile 7.12", "tek_mode", 0x04, 0x02),
    ("reserved bit of SPE", "smartcard-profile 7.12", "reserved_for_future_use", 0, 0x01),
)
"""Name, rule, field, the flag of the value that must be absent, the bit to set."""


def _policies(place: str, path: str) -> Iterable[Row]:
    for name, rule, field, absent, bit in _POLICY:
        flags = f"{place}.security_policy_flags"

        def lacks(data: bytes, fields: Fields, flags: str = flags, absent: int = absent) -> bool:
            return not data[fields[flags].offset] & absent

        yield name, rule, BadValue, f"{path}.{field}", when(lacks, put(flags, bit, bit))


SMARTCARD_STKM: Final[tuple[Row, ...]] = (
    *_MANAGEMENT,
    *(
        (
            f"management protocol {n}",
            "R17 protocol 3..7",
            Unsupported,
            "<EXT5>.management.traffic_protection_protocol",
            put("EXT5.protocol_and_lifetime", n << 5, 0xE0),
        )
        for n in (3, 7)
    ),
    ("salt against the protocol", "R18 TEK+SALT", BadLength, "<KEMAC>.encr_data_len", _other_protocol),
    *_SMARTCARD,
    *_WITH_KEMAC,
    *_WITH_KEY_IDS,
    ("data type 1", "smartcard-profile 4.4", Unsupported, "data_type", put("data_type", 1)),
    (
        "NULL encryption with a csb_id",
        "R11 NULL",
        BadValue,
        "<KEMAC>.encr_alg",
        when(lambda d, f: any(d[4:8]), put("KEMAC.encr_alg", 0)),
    ),
    ("V bit", "smartcard-profile 4.4", BadValue, "v", put("v_and_prf", 0x80, 0x80)),
    (
        "tek_id of 3 bytes",
        "smartcard-profile 2",
        BadLength,
        "<EXT3>.ids[2].length",
        _resized("EXT3.ids[2].value", "EXT3.ids[2].length", 1, "EXT3.length"),
    ),
    (
        "tek_id of 4 bytes, not lenient",
        "smartcard-profile 2",
        BadLength,
        "<EXT3>.ids[2].length",
        _resized("EXT3.ids[2].value", "EXT3.ids[2].length", 2, "EXT3.length"),
    ),
    ("RAND in a STKM", "smartcard-profile 4.4", BadValue, "next_payload", _misplaced("KEMAC", 11, b"\x10" + bytes(16))),
    ("identity in a STKM", "smartcard-profile 4.4", BadValue, "next_payload", _misplaced("KEMAC", 6, b"\0\0\1a")),
)

SMARTCARD_LTKM: Final[tuple[Row, ...]] = (
    *_MANAGEMENT,
    *_policies("EXT5", "<EXT5>.management.security_policy_ext"),
    (
        "reporting without V",
        "R19",
        BadValue,
        "<EXT5>.management.consumption_reporting_flag",
        when(lambda d, f: not d[3] & 0x80, put("EXT5.head", 0x04, 0x04)),
    ),
    *_SMARTCARD,
    *_WITH_KEMAC,
    *_WITH_KEY_IDS,
    *_WITH_IDENTITIES,
    ("NULL encryption", "R11 NULL", Unsupported, "<KEMAC>.encr_alg", put("KEMAC.encr_alg", 0)),
    ("data type 1", "smartcard-profile 4.4", Unsupported, "data_type", put("data_type", 1)),
    ("Key ID of type 2", "smartcard-profile 4.4", BadValue, "type", _one_more_key_id(b"\2\2ab")),
)

SMARTCARD_PARENTAL: Final[tuple[Row, ...]] = (
    *_MANAGEMENT,
    (
        "reserved bits of management",
        "smartcard-profile 7.15",
        BadValue,
        "<EXT5>.management.reserved_for_future_use",
        put("EXT5.head", 1, 7),
    ),
    ("pin_present against KEMAC", "smartcard-profile 7.15", BadLength, "<KEMAC>.encr_data_len", _pin_denied),
    ("no OMA extension", "smartcard-profile 7.15", BadValue, "next_payload", _extension_left_out("EXT5", "KEMAC")),
    *_SMARTCARD,
    *_WITH_KEMAC,
    *_WITH_IDENTITIES,
    ("NULL encryption", "R11 NULL", Unsupported, "<KEMAC>.encr_alg", put("KEMAC.encr_alg", 0)),
    ("data type 1", "smartcard-profile 7", Unsupported, "data_type", put("data_type", 1)),
)

SMARTCARD_VERIFICATION: Final[tuple[Row, ...]] = (
    *_SMARTCARD,
    ("data type 0", "smartcard-profile 4.4", Unsupported, "data_type", put("data_type", 0)),
    ("V bit", "smartcard-profile 1.1", BadValue, "v", put("v_and_prf", 0x80, 0x80)),
    ("payload behind V", "R16 last payload", BadValue, "<V>.next_payload", _behind("V")),
    ("no verification data", "R11 auth alg 1", Unsupported, "<V>.auth_alg", _without_mac("V.auth_alg", "V.ver_data")),
    ("no IDr", "smartcard-profile 4.4", BadValue, "next_payload", _left_out("ID")),
    ("IDr of type 2", "smartcard-profile 4.3", Unsupported, "<ID>.id_type", put("ID.id_type", 2)),
    ("last byte missing", "smartcard-profile 1.3", Truncated, "<V>.ver_data", cut("V.ver_data")),
)

SMARTCARD_REPORTING: Final[tuple[Row, ...]] = (
    *SMARTCARD_VERIFICATION,
    *_MANAGEMENT,
    *_policies("EXT5.entries[0]", "<EXT5>.management.entries[0]"),
    (
        "reserved bits of management",
        "smartcard-profile 7.14",
        BadValue,
        "<EXT5>.management.reserved_for_future_use",
        put("EXT5.head", 1, 15),
    ),
    ("no OMA extension", "R25", BadValue, "next_payload", _extension_left_out("EXT5", "V")),
)

SMARTCARD_STKM_PARTIAL: Final[tuple[Row, ...]] = (
    ("csb_id not zero", "R13 partial", BadValue, "csb_id", put("csb_id", 1, at=3)),
    ("encrypted", "R13 partial", Unsupported, "<KEMAC>.encr_alg", put("KEMAC.encr_alg", 1)),
    ("MAC algorithm 1", "R11 NULL", Unsupported, "<KEMAC>.mac_alg", put("KEMAC.mac_alg", 1)),
    ("two keys", "smartcard-profile 4.5", BadValue, "<KEMAC>.key_data[0].next_payload", inner("KEMAC.encr_data", 0, 20)),
    ("TGK for a TEK", "smartcard-profile 4.5", BadValue, "<KEMAC>.key_data[0].type", inner("KEMAC.encr_data", 1, 0x00)),
    ("TGK+SALT for a TEK", "smartcard-profile 4.5", BadValue, "<KEMAC>.key_data[0].type", inner("KEMAC.encr_data", 1, 0x10)),
    ("key with an interval", "smartcard-profile 4.5", BadValue, "<KEMAC>.key_data[0].kv", inner("KEMAC.encr_data", 1, 0x22)),
    ("key of 15 bytes", "smartcard-profile 4.5", BadLength, "<KEMAC>.key_data[0].key_len", _short_key),
)


# --- Smartcard Profile: registration ---------------------------------------------------------------------------------


def _emptied(field: str) -> Break:
    """No byte of ``field``, consistently."""

    def break_(data: bytearray, fields: Fields) -> int:
        span = fields[field]
        del data[span.offset : span.end]
        data[span.offset - 1] = 0
        count("message_length", 2, 2, 0xFFFF, -span.length, data)
        return span.offset - 1

    return break_


def _smartcard_registration_inner(data: bytearray, fields: Fields) -> int:
    data.append(0)
    count("message_length", 2, 2, 0xFFFF, 1, data)
    return len(data) - 1


SMARTCARD_REGISTRATION: Final[tuple[Row, ...]] = (
    ("message_tag 41", "smartcard-profile 9", Unsupported, "message_tag", put("message_tag", 0x41)),
    ("protocol_version 1", "smartcard-profile 9", Unsupported, "protocol_version", put("version_and_flags", 0x10, 0xF0)),
    ("reserved bits", "smartcard-profile 9", BadValue, "reserved_for_future_use", put("version_and_flags", 2, 0x0E)),
    ("message_length too small", "smartcard-profile 9", BadLength, "message_length", move("message_length", -1)),
    ("message_length too large", "smartcard-profile 9", BadLength, "message_length", move("message_length", 1)),
    ("naf_fqdn empty", "smartcard-profile 9", BadLength, "naf_fqdn_length", _emptied("naf_fqdn")),
    ("btid empty", "smartcard-profile 9", BadLength, "btid_length", _emptied("btid")),
    ("naf_fqdn not ASCII", "smartcard-profile 9", BadValue, "naf_fqdn", put("naf_fqdn", 0xE9)),
    ("btid not ASCII", "smartcard-profile 9", BadValue, "btid", put("btid", 0x80)),
    ("one byte more", "smartcard-profile 9 message_length", BadLength, "message_length", uncounted),
    ("one byte more, counted", "smartcard-profile 9", TrailingBytes, "", _smartcard_registration_inner),
)
