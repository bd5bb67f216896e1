# SPDX-License-Identifier: Apache-2.0
"""Registration push of the Smartcard Profile: RAND and AUTN for one card, over broadcast only (smartcard-profile 9, rules R24)."""

from __future__ import annotations

from typing import Final

from construct import this

from pybcast.errors import BadLength, BadValue, Unsupported
from pybcast.messages import SmartcardRegistration
from pybcast.wire.schema import (
    OWN,
    Bits,
    Context,
    Converted,
    Fault,
    Octets,
    Run,
    Table,
    UInt,
    Values,
    equals,
    field,
    read,
    reserved,
    total_length,
    write_sized,
)

# confidence: own - this whole layout (smartcard-profile 9, rules R22, R24)
MESSAGE_TAG: Final = 0x40
PROTOCOL_VERSION: Final = 0
MAC_LENGTH: Final = 12


def _read_ascii(data: bytes) -> str:
    if not data.isascii():
        raise Fault(BadValue, "ASCII", "other bytes")
    return data.decode("ascii")


def _write_ascii(value: object) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise Fault(BadValue, "an ASCII string", repr(value))
    return value.encode("ascii")


def _not_empty(value: int, context: Context) -> None:
    if not value:
        raise Fault(BadLength, "at least 1", "0")


REGISTRATION: Final = Table(
    field("message_tag", UInt(1), OWN, "Smartcard registration", check=equals(MESSAGE_TAG, Unsupported), default=MESSAGE_TAG),
    field("protocol_version", Bits(4), OWN, "0", check=equals(PROTOCOL_VERSION, Unsupported)),
    reserved(3, OWN),
    field("gba_u", Bits(1), OWN, "keys stay on the card", unset="keys leave the card"),
    field("message_length", UInt(2, BadLength), OWN, "bytes of the whole message", check=total_length),
    field("target_id", Octets(8), OWN, "whose: SHA-256(RAND || IMPI), first 8 bytes"),
    field("key_lifetime", UInt(4), OWN, "end, NTP seconds"),
    field("RAND", Octets(16), OWN, "challenge"),
    field("AUTN", Octets(16), OWN, "authentication token"),
    field("naf_fqdn_length", UInt(1, BadLength), OWN, "bytes", check=_not_empty, measures="naf_fqdn"),
    field("naf_fqdn", Converted(Octets(this.naf_fqdn_length), _read_ascii, _write_ascii), OWN, "FQDN of the BSM"),
    field("btid_length", UInt(1, BadLength), OWN, "bytes", check=_not_empty, measures="btid"),
    field("btid", Converted(Octets(this.btid_length), _read_ascii, _write_ascii), OWN, "B-TID"),
    field("MAC", Octets(MAC_LENGTH), OWN, "HMAC-SHA-256-96 over all before it"),
)
"""smartcard-profile 9."""


def decode(data: bytes, run: Run) -> SmartcardRegistration:
    """A registration push out of its bytes."""
    found = read(REGISTRATION, data, run)
    return SmartcardRegistration(
        protocol_version=found.protocol_version,
        gba_u=bool(found.gba_u),
        target_id=found.target_id,
        key_lifetime=found.key_lifetime,
        rand=found.RAND,
        autn=found.AUTN,
        naf_fqdn=found.naf_fqdn,
        btid=found.btid,
        mac=found.MAC,
    )


def encode(message: SmartcardRegistration, run: Run) -> bytes:
    """A registration push as bytes."""
    values: Values = {
        "protocol_version": message.protocol_version,
        "gba_u": message.gba_u,
        "target_id": message.target_id,
        "key_lifetime": message.key_lifetime,
        "RAND": message.rand,
        "AUTN": message.autn,
        "naf_fqdn": message.naf_fqdn,
        "btid": message.btid,
        "MAC": message.mac,
    }
    return write_sized(REGISTRATION, values, "message_length", run)
