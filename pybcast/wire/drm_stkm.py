# SPDX-License-Identifier: Apache-2.0
"""STKM of the DRM Profile: the key stream message of IEC 62455 with BCAST names (drm-profile 1).

A partial STKM (drm-profile 1.7) has the same bytes with the key material in clear and zeros in encrypted_PEK and both MACs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from construct import this

from pybcast.errors import BadLength, BadValue, Unsupported, WireError
from pybcast.messages import DrmStkm, PartialDrmStkm, Protocol
from pybcast.secret import Secret
from pybcast.wire.criteria import PROTOCOLS, RECEPTION, criteria_message, criteria_rows, criteria_values, supported_protocol
from pybcast.wire.schema import (
    GUESS,
    LIKELY,
    SURE,
    Bits,
    Context,
    Fault,
    Field,
    Octets,
    Row,
    Run,
    Table,
    UInt,
    Values,
    When,
    between,
    equals,
    field,
    read,
    reserved,
    write,
    zeros,
)
from pybcast.wire.times import MJD_BCD, iso

PROTOCOL_VERSION: Final = 0  # confidence: guess - 0 for BCAST 1.0 (drm-profile 1.2)
SALT_LENGTH: Final = 14  # confidence: guess - 112-bit salt, no flag octet before it (drm-profile 1.1 row 12d)
ID_LENGTHS: Final = (1, 16)  # master_key_index and key_indicator, bytes (rules R17)
KEY_LENGTH: Final = 16  # TEK, TAS, PEK: 128 bits (drm-profile 1.3)
MAC_LENGTH: Final = 12  # HMAC-SHA-1-96
MAX_SIZE: Final = 1400  # one UDP payload; an encoder refuses more (drm-profile 6)


def traffic_key_material_length(protocol: int, traffic_authentication_flag: int) -> int:
    """Bytes of key material: TEK || TAS for IPsec with authentication, else the TEK alone (drm-profile 1.3, rules R17)."""
    return 2 * KEY_LENGTH if protocol == Protocol.IPSEC and traffic_authentication_flag else KEY_LENGTH


def _programme_or_service(value: int, context: Context) -> None:
    if not value and not context.programme_flag:
        raise Fault(BadValue, "1, since programme_flag is 0", "0")


def _material_length(value: int, context: Context) -> None:
    wanted = traffic_key_material_length(context.traffic_protection_protocol, context.traffic_authentication_flag)
    if value != wanted:
        raise Fault(BadLength, str(wanted), str(value))


def _zero_when_partial(value: bytes, context: Context) -> None:
    if context._run.partial:
        zeros(value, context)


def _permissions(context: Context) -> bool:
    return bool(context.programme_flag and context.permissions_flag)


def _partial(context: Context) -> bool:
    return bool(context._run.partial)


_IPSEC = this.traffic_protection_protocol == int(Protocol.IPSEC)
_SRTP = this.traffic_protection_protocol == int(Protocol.SRTP)
_ISMACRYP = this.traffic_protection_protocol == int(Protocol.ISMACRYP)
_NEXT = this.next_traffic_key_flag


def _id_length(measured: str, when: When) -> Field:
    check = between(*ID_LENGTHS, BadLength)
    return field(f"{measured}_length", UInt(1, BadLength), LIKELY, "bytes", when=when, check=check, measures=measured)


# confidence: likely - rows marked LIKELY; guess - rows marked GUESS (drm-profile 1.1 gives the ground of each)
STKM: Final = Table(
    field("protocol_version", Bits(4), LIKELY, "0: BCAST 1.0", check=equals(PROTOCOL_VERSION, Unsupported)),
    field("protection_after_reception", Bits(2), LIKELY, "protection once received", names=RECEPTION),
    reserved(1, LIKELY),
    field("access_criteria_flag", Bits(1), SURE, "access criteria follow", unset="no access criteria"),
    field("traffic_protection_protocol", Bits(3), SURE, "protocol", names=PROTOCOLS, check=supported_protocol),
    field("traffic_authentication_flag", Bits(1), SURE, "traffic is authenticated", unset="traffic is not authenticated"),
    field("next_traffic_key_flag", Bits(1), SURE, "the next traffic key is carried too", unset="no next traffic key"),
    field("timestamp_flag", Bits(1), SURE, "timestamp follows", unset="no timestamp"),
    field("programme_flag", Bits(1), SURE, "programme part follows", unset="no programme part"),
    field("service_flag", Bits(1), SURE, "service part follows", unset="no service part", check=_programme_or_service),
    field("security_parameter_index", Octets(4), SURE, "SPI of the security association", when=_IPSEC),
    field("next_security_parameter_index", Octets(4), LIKELY, "SPI of the next one", when=_IPSEC & _NEXT),
    _id_length("master_key_index", _SRTP),
    field("master_key_index", Octets(this.master_key_index_length), LIKELY, "MKI", when=_SRTP),
    field("next_master_key_index", Octets(this.master_key_index_length), LIKELY, "MKI of the next key", when=_SRTP & _NEXT),
    field("master_salt", Octets(SALT_LENGTH), GUESS, "master salt, in clear", when=_SRTP),
    field("next_master_salt", Octets(SALT_LENGTH), GUESS, "salt of the next key", when=_SRTP & _NEXT),
    _id_length("key_indicator", _ISMACRYP),
    field("key_indicator", Octets(this.key_indicator_length), LIKELY, "key indicator of the AU header", when=_ISMACRYP),
    field("next_key_indicator", Octets(this.key_indicator_length), LIKELY, "of the next key", when=_ISMACRYP & _NEXT),
    field(
        "encrypted_traffic_key_material_length",
        UInt(1, BadLength),
        SURE,
        "bytes",
        check=_material_length,
        measures="encrypted_traffic_key_material",
    ),
    field(
        "encrypted_traffic_key_material",
        Octets(this.encrypted_traffic_key_material_length),
        SURE,
        "TEK or TEK || TAS under PEK or SEK; in clear in a partial STKM",
        secret=_partial,
    ),
    field(
        "next_encrypted_traffic_key_material",
        Octets(this.encrypted_traffic_key_material_length),
        SURE,
        "the same for the next key",
        when=_NEXT,
        secret=_partial,
    ),
    reserved(4, LIKELY),
    field("traffic_key_lifetime", Bits(4), LIKELY, "2^n seconds", show=lambda n: f"{n} ({1 << n} s)"),
    field("timestamp", MJD_BCD, SURE, "UTC, MJD + BCD", when=this.timestamp_flag, show=iso),
    reserved(8, GUESS, when=this.access_criteria_flag),
    *criteria_rows(when="access_criteria_flag"),
    reserved(7, LIKELY, when=this.programme_flag),
    field(
        "permissions_flag", Bits(1), SURE, "permissions category follows", unset="no permissions category", when=this.programme_flag
    ),
    field("permissions_category", UInt(1), SURE, "permissions category", when=_permissions),
    field(
        "encrypted_PEK",
        Octets(KEY_LENGTH),
        SURE,
        "PEK under SEK; zeros in a partial STKM",
        when=this.programme_flag & this.service_flag,
        check=_zero_when_partial,
    ),
    field("programme_CID_extension", UInt(4), SURE, "which PEK", when=this.programme_flag, show="{:08x}".format),
    field(
        "programme_MAC",
        Octets(MAC_LENGTH),
        SURE,
        "HMAC-SHA-1-96 under PAK over all before it",
        when=this.programme_flag,
        check=_zero_when_partial,
    ),
    field("service_CID_extension", UInt(4), SURE, "which SEK", when=this.service_flag, show="{:08x}".format),
    field(
        "service_MAC",
        Octets(MAC_LENGTH),
        SURE,
        "HMAC-SHA-1-96 under SAK over all before it",
        when=this.service_flag,
        check=_zero_when_partial,
    ),
)
"""drm-profile 1.1, rows 1-29."""

_ID_NAMES: Final = {
    Protocol.IPSEC: ("security_parameter_index", "next_security_parameter_index"),
    Protocol.SRTP: ("master_key_index", "next_master_key_index"),
    Protocol.ISMACRYP: ("key_indicator", "next_key_indicator"),
}


def veil(rows: list[Row], fault: WireError | None) -> list[Row]:
    """The rows of an explanation; key material only where a MAC vouches that it is ciphertext.

    The bytes of a partial STKM look like a complete one (rules R13): when nothing was said, zero MACs or a fault hide the key.
    """
    macs = [row.value for row in rows if row.field.endswith("_MAC")]
    if fault is None and all(mac.strip("0") for mac in macs):
        return rows
    material = ("encrypted_traffic_key_material", "next_encrypted_traffic_key_material")
    return [replace(row, value=f"<{row.length} secret bytes>") if row.field in material else row for row in rows]


def decode(data: bytes, run: Run) -> DrmStkm | PartialDrmStkm:
    """A DRM STKM out of its bytes; a partial one when ``run.partial``."""
    found = read(STKM, data, run)
    protocol = Protocol(found.traffic_protection_protocol)
    id_name, next_id_name = _ID_NAMES[protocol]
    common: Values = {
        "protocol_version": found.protocol_version,
        "protection_after_reception": found.protection_after_reception,
        "traffic_protection_protocol": protocol,
        "traffic_authentication_flag": bool(found.traffic_authentication_flag),
        "traffic_key_lifetime": found.traffic_key_lifetime,
        "id": found[id_name],
        "next_id": found.get(next_id_name),
        "salt": found.get("master_salt"),
        "next_salt": found.get("next_master_salt"),
        "timestamp": found.get("timestamp"),
        "access_criteria": criteria_message(found),
        "permissions_category": found.get("permissions_category"),
        "programme_CID_extension": found.get("programme_CID_extension"),
        "service_CID_extension": found.get("service_CID_extension"),
    }
    material, next_material = found.encrypted_traffic_key_material, found.get("next_encrypted_traffic_key_material")
    if run.partial:
        return PartialDrmStkm(
            **common,
            traffic_key_material=Secret(material),
            next_traffic_key_material=None if next_material is None else Secret(next_material),
        )
    return DrmStkm(
        **common,
        encrypted_traffic_key_material=material,
        next_encrypted_traffic_key_material=next_material,
        encrypted_PEK=found.get("encrypted_PEK"),
        programme_MAC=found.get("programme_MAC"),
        service_MAC=found.get("service_MAC"),
    )


def encode(message: DrmStkm | PartialDrmStkm, run: Run) -> bytes:
    """A DRM STKM as bytes."""
    programme, service = message.programme_CID_extension is not None, message.service_CID_extension is not None
    values: Values = {
        "protocol_version": message.protocol_version,
        "protection_after_reception": message.protection_after_reception,
        "traffic_protection_protocol": message.traffic_protection_protocol,
        "traffic_authentication_flag": message.traffic_authentication_flag,
        "next_traffic_key_flag": message.next_id is not None,
        "timestamp_flag": message.timestamp is not None,
        "programme_flag": programme,
        "service_flag": service,
        "master_salt": message.salt,
        "next_master_salt": message.next_salt,
        "traffic_key_lifetime": message.traffic_key_lifetime,
        "timestamp": message.timestamp,
        **criteria_values(message.access_criteria),
        "permissions_flag": (message.permissions_category is not None) if programme else None,
        "permissions_category": message.permissions_category,
        "programme_CID_extension": message.programme_CID_extension,
        "service_CID_extension": message.service_CID_extension,
    }
    names = _ID_NAMES.get(message.traffic_protection_protocol)
    if names is not None:  # otherwise the check of traffic_protection_protocol refuses it
        values |= {names[0]: message.id, names[1]: message.next_id}
    if isinstance(message, PartialDrmStkm):
        run.partial = True
        following = message.next_traffic_key_material
        values |= {
            "encrypted_traffic_key_material": Secret(message.traffic_key_material).reveal(),
            "next_encrypted_traffic_key_material": None if following is None else Secret(following).reveal(),
            "encrypted_PEK": bytes(KEY_LENGTH) if programme and service else None,
            "programme_MAC": bytes(MAC_LENGTH) if programme else None,
            "service_MAC": bytes(MAC_LENGTH) if service else None,
        }
    else:
        values |= {
            "encrypted_traffic_key_material": message.encrypted_traffic_key_material,
            "next_encrypted_traffic_key_material": message.next_encrypted_traffic_key_material,
            "encrypted_PEK": message.encrypted_PEK,
            "programme_MAC": message.programme_MAC,
            "service_MAC": message.service_MAC,
        }
    return write(STKM, values, run)
