# SPDX-License-Identifier: Apache-2.0
"""Registration material of the DRM Profile in broadcast mode: tags 21-2A and the key set inside (drm-profile 3, rules R22, R23).

Names are likely, the layout is our own.  Three messages of the family carry a key set and are known in full; of the others the
body is opaque.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final, Literal

from construct import this

from pybcast.errors import BadLength, BadValue, Unsupported
from pybcast.messages import (
    KEYSET_TAGS,
    DeviceRegistrationResponse,
    DomainRegistrationResponse,
    DomainUpdateResponse,
    KeysetItem,
    KeysetTag,
    RegistrationMessage,
    RegistrationResponse,
    RegistrationTag,
)
from pybcast.wire.schema import (
    OWN,
    Bits,
    Composite,
    Context,
    Converted,
    Cursor,
    Fault,
    List,
    Octets,
    Remaining,
    Run,
    SecretOctets,
    Table,
    UInt,
    Values,
    equals,
    field,
    one_of,
    read,
    reserved,
    total_length,
    write,
    write_sized,
)
from pybcast.wire.times import MJD_BCD, iso

# confidence: own - this whole layout and its numbers (drm-profile 3, rules R22)
PROTOCOL_VERSION: Final = 0
MODULUS_BITS: Final = {0: 1024, 1: 2048, 2: 4096}
HASHES: Final[dict[int, Literal["SHA-1", "SHA-256"]]] = {0: "SHA-1", 1: "SHA-256"}
UDN_DIGITS: Final = 20
EVERYONE: Final = "F" * UDN_DIGITS
WRAP_BLOCK: Final = 8  # AES-WRAP: blocks of 8 bytes, at least two, one more for the check value (RFC 3394)
RESPONSES: Final[dict[RegistrationTag, type[RegistrationResponse]]] = {
    RegistrationTag.device_registration_response: DeviceRegistrationResponse,
    RegistrationTag.domain_registration_response: DomainRegistrationResponse,
    RegistrationTag.domain_update_response: DomainUpdateResponse,
}
KEYSET_LENGTHS: Final = {
    KeysetTag.UGK: 16,
    KeysetTag.UDK: 16,
    KeysetTag.SGK: 17,  # level, key
    KeysetTag.UDF: 7,  # group address 4, group size code, position 2
    KeysetTag.RIAK: 16,
    KeysetTag.BDK: 24,  # domain id 6, generation 2, key
    KeysetTag.TDK: 16,
}


def _read_udn(data: bytes) -> str:
    text = data.hex().upper()
    if text != EVERYONE and not text.isdecimal():
        raise Fault(BadValue, "20 BCD digits, or 20 x F", text)
    return text


def _write_udn(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != UDN_DIGITS or not (value == EVERYONE or (value.isascii() and value.isdigit())):
        raise Fault(BadValue, "20 decimal digits, or 20 x F", repr(value))
    return bytes.fromhex(value)


def _signature_type(value: int, context: Context) -> None:
    """1024 bits only where OMA DRM 2.0 devices are let in by name (rules R23)."""
    allowed = (0, 1, 2) if "rsa-1024" in context._run.lenient else (1, 2)
    one_of(allowed, Unsupported)(value, context)


def _keyset_needs_success(value: int, context: Context) -> None:
    if value and context.status and context.message_tag in KEYSET_TAGS:
        raise Fault(BadValue, f"0, since status is {context.status}", "1")


def _session_key_block_length(value: int, context: Context) -> None:
    """One RSA block of a device's modulus, which comes in the same three sizes."""
    allowed = {bits // 8 for number, bits in MODULUS_BITS.items() if number or "rsa-1024" in context._run.lenient}
    one_of(allowed, BadLength)(value, context)


def _keyset_block_length(value: int, context: Context) -> None:
    if value < 3 * WRAP_BLOCK or value % WRAP_BLOCK:
        raise Fault(BadLength, "a multiple of 8, at least 24", str(value))


def signature_length(context: Context) -> int:
    """Bytes of the rights issuer's signature."""
    return MODULUS_BITS[context.signature_type] // 8


def _known(context: Context) -> bool:
    return context.message_tag in KEYSET_TAGS


def _with(flag: str) -> Any:
    def present(context: Context) -> bool:
        return _known(context) and bool(context[flag])

    return present


_TAGS: Final = {tag.value: tag.name for tag in RegistrationTag}
_DER: Final = Table(
    field("length", UInt(2, BadLength), OWN, "bytes", measures="der"),
    field("der", Octets(this.length), OWN, "DER"),
)

REGISTRATION: Final = Table(
    field("message_tag", UInt(1), OWN, "message", names=_TAGS, check=one_of(_TAGS, Unsupported)),
    field("protocol_version", Bits(4), OWN, "0", check=equals(PROTOCOL_VERSION, Unsupported)),
    reserved(4, OWN),
    field("message_length", UInt(2, BadLength), OWN, "bytes of the whole message", check=total_length),
    field("longform_udn", Converted(Octets(UDN_DIGITS // 2), _read_udn, _write_udn), OWN, "whose: 20 BCD digits; 20 x F everyone"),
    field("status", UInt(1), OWN, "0: success"),
    field("signature_type", Bits(2), OWN, "RSA modulus, bits", names=MODULUS_BITS, check=_signature_type),
    field("ri_certificate_flag", Bits(1), OWN, "certificates follow", unset="no certificates"),
    field("ocsp_flag", Bits(1), OWN, "OCSP responses follow", unset="no OCSP responses"),
    field("keyset_flag", Bits(1), OWN, "a key set follows", unset="no key set", check=_keyset_needs_success),
    field("hash", Bits(1), OWN, "of the signature", names=HASHES),
    reserved(2, OWN),
    field("body", Remaining(signature_length), OWN, "body, not looked into", when=lambda context: not _known(context)),
    field("rights_issuer_id", Octets(20), OWN, "SHA-1 of the rights issuer's public key", when=_known),
    field("drm_time", MJD_BCD, OWN, "UTC, MJD + BCD", when=_known, show=iso),
    field(
        "certificate_count",
        UInt(1, BadLength),
        OWN,
        "number of certificates",
        measures="certificates",
        when=_with("ri_certificate_flag"),
    ),
    field("certificates", List(_DER, this.certificate_count), OWN, "leaf first", when=_with("ri_certificate_flag")),
    field(
        "ocsp_response_count",
        UInt(1, BadLength),
        OWN,
        "number of OCSP responses",
        measures="ocsp_responses",
        when=_with("ocsp_flag"),
    ),
    field("ocsp_responses", List(_DER, this.ocsp_response_count), OWN, "OCSP responses", when=_with("ocsp_flag")),
    field(
        "session_key_block_length",
        UInt(2, BadLength),
        OWN,
        "bytes",
        measures="session_key_block",
        when=_with("keyset_flag"),
        check=_session_key_block_length,
    ),
    field("session_key_block", Octets(this.session_key_block_length), OWN, "SK under the device's key", when=_with("keyset_flag")),
    field(
        "keyset_block_length",
        UInt(2, BadLength),
        OWN,
        "bytes",
        measures="keyset_block",
        when=_with("keyset_flag"),
        check=_keyset_block_length,
    ),
    field("keyset_block", Octets(this.keyset_block_length), OWN, "key set under SK", when=_with("keyset_flag")),
    field("signature", Octets(signature_length), OWN, "RSASSA-PSS over all before it"),
)
"""drm-profile 3."""


def decode(data: bytes, run: Run) -> RegistrationResponse | RegistrationMessage:
    """A message of the family out of its bytes."""
    found = read(REGISTRATION, data, run)
    tag = RegistrationTag(found.message_tag)
    header: Values = {
        "message_tag": tag,
        "protocol_version": found.protocol_version,
        "longform_udn": found.longform_udn,
        "status": found.status,
        "signature_type": MODULUS_BITS[found.signature_type],
        "hash": HASHES[found["hash"]],
        "signature": found.signature,
    }
    if tag not in RESPONSES:
        return RegistrationMessage(
            **header,
            ri_certificate_flag=bool(found.ri_certificate_flag),
            ocsp_flag=bool(found.ocsp_flag),
            keyset_flag=bool(found.keyset_flag),
            body=found.body,
        )
    return RESPONSES[tag](
        **header,
        rights_issuer_id=found.rights_issuer_id,
        drm_time=found.drm_time,
        certificates=tuple(item.der for item in found.certificates) if found.ri_certificate_flag else None,
        ocsp_responses=tuple(item.der for item in found.ocsp_responses) if found.ocsp_flag else None,
        session_key_block=found.get("session_key_block"),
        keyset_block=found.get("keyset_block"),
    )


def _der(items: tuple[bytes, ...] | None) -> list[Values] | None:
    return None if items is None else [{"der": item} for item in items]


def _number(value: object, names: dict[int, Any], field_name: str) -> int:
    for number, name in names.items():
        if name == value:
            return number
    raise Unsupported(None, field_name, " or ".join(str(name) for name in names.values()), str(value))


def encode(message: RegistrationResponse | RegistrationMessage, run: Run) -> bytes:
    """A message of the family as bytes."""
    values: Values = {
        "message_tag": message.message_tag,
        "protocol_version": message.protocol_version,
        "longform_udn": message.longform_udn,
        "status": message.status,
        "signature_type": _number(message.signature_type, MODULUS_BITS, "signature_type"),
        "hash": _number(message.hash, HASHES, "hash"),
        "signature": message.signature,
    }
    if isinstance(message, RegistrationMessage):
        if message.message_tag in KEYSET_TAGS:
            raise BadValue(None, "message_tag", "a message without a key set", f"{int(message.message_tag)}")
        values |= {
            "ri_certificate_flag": message.ri_certificate_flag,
            "ocsp_flag": message.ocsp_flag,
            "keyset_flag": message.keyset_flag,
            "body": message.body,
        }
        return write_sized(REGISTRATION, values, "message_length", run)
    if not isinstance(message, RESPONSES.get(message.message_tag, ())) and (
        type(message) is not RegistrationResponse or message.message_tag not in RESPONSES
    ):
        raise BadValue(None, "message_tag", f"the tag of {type(message).__name__}", f"{int(message.message_tag)}")
    certificates, ocsp_responses = _der(message.certificates), _der(message.ocsp_responses)
    values |= {
        "ri_certificate_flag": certificates is not None,
        "ocsp_flag": ocsp_responses is not None,
        "keyset_flag": message.keyset_block is not None,
        "rights_issuer_id": message.rights_issuer_id,
        "drm_time": message.drm_time,
        "certificates": certificates,
        "ocsp_responses": ocsp_responses,
        "session_key_block": message.session_key_block,
        "keyset_block": message.keyset_block,
    }
    return write_sized(REGISTRATION, values, "message_length", run)


# --- the key set inside ----------------------------------------------------------------------------------------------


def _item_tag(value: int, context: Context) -> None:
    if not value:
        raise Fault(BadValue, "1..255 (0 is padding)", "0")


def _item_length(value: int, context: Context) -> None:
    wanted = KEYSET_LENGTHS.get(context.item_tag)
    if wanted is not None:
        equals(wanted, BadLength)(value, context)


_ITEM: Final = Table(
    field("item_tag", UInt(1), OWN, "item", names={tag.value: tag.name for tag in KeysetTag}, check=_item_tag),
    field("item_length", UInt(1, BadLength), OWN, "bytes of value", check=_item_length, measures="value"),
    field("value", SecretOctets(this.item_length), OWN, "key, or what belongs to it"),
)


def _padded(size: int) -> int:
    """Bytes of a key set before wrapping: whole blocks, at least the two that AES-WRAP needs."""
    return max(2 * WRAP_BLOCK, -(-size // WRAP_BLOCK) * WRAP_BLOCK)


class _Keyset(Composite):
    """Items, then zero bytes up to the block."""

    def _parse(self, stream: Cursor, context: Context, path: str) -> list[Context]:
        items: list[Context] = []
        while stream.position < stream.end and stream.data[stream.position]:
            items.append(_ITEM._parse(stream, context, f"{path}[{len(items)}]"))
        start, wanted = stream.position, _padded(stream.position)
        if stream.end != wanted:
            raise BadLength(start, "padding", f"{wanted - start} bytes", f"{stream.end - start} bytes")
        if any(stream.read(stream.end - start)):
            raise BadValue(start, "padding", "zero bytes", "other bytes")
        return items

    def _build(self, obj: Sequence[Values], stream: io.BytesIO, context: Context, path: str) -> Sequence[Values]:
        for index, item in enumerate(obj):
            _ITEM._build(item, stream, context, f"{path}[{index}]")
        stream.write(bytes(_padded(stream.tell()) - stream.tell()))
        return obj


_KEYSET: Final = Table(field("items", _Keyset(), OWN, "key set"))


def decode_keyset(data: bytes) -> tuple[KeysetItem, ...]:
    """The key set of a registration message, once unwrapped.

    Unknown items are kept (rules R23).  Raises ``WireError`` with offsets in ``data``.  drm-profile 3; own.
    """
    found = read(_KEYSET, data, Run())
    return tuple(KeysetItem(item.item_tag, item.value) for item in found["items"])


def encode_keyset(items: Sequence[KeysetItem]) -> bytes:
    """A key set before wrapping, padded with zeros to a multiple of 8 bytes, at least 16.  Handle the result as a secret."""
    values = [{"item_tag": item.tag, "value": item.value} for item in items]
    return write(_KEYSET, {"items": values}, Run())
