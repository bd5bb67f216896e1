# SPDX-License-Identifier: Apache-2.0
"""STKMs without keys, by the C core: complete and partial ones as fields, partial ones as bytes.

A server does this for every crypto period of every service (flow F3), and a terminal for every datagram.  :mod:`pybcast.wire` says
what the bytes mean; it does what the core does not (payloads in another order, values its structures cannot hold), and it finds
the words for what the core refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pybcast._native._bcast import ffi, lib
from pybcast._native.engine import current
from pybcast._native.numbers import Status, packer
from pybcast.codec._common import Lenient as Leniencies
from pybcast.codec._core import (
    _CRITERIA,
    _NEXT,
    _NOT_BUILT,
    _PERMISSIONS,
    _PROGRAMME,
    _SERVICE,
    _SRTP,
    _TAIL,
    _TIMESTAMP,
    _criteria_of,
    _items,
    _tail_of,
    lenient_bits,
    pack_drm_stkm,
    pack_smartcard_stkm,
)
from pybcast.keys import TEK
from pybcast.messages import DrmStkm, KeyId, Kind, PartialDrmStkm, PartialSmartcardStkm, Protocol, SmartcardStkm, StkmManagement
from pybcast.secret import Secret
from pybcast.wire.smartcard import MAX_SIZE as MAX_CARD_MESSAGE

_OK: Final = int(Status.OK)
_NULL: Final = ffi.NULL
_PROTOCOLS: Final = {int(protocol): protocol for protocol in Protocol}
_MAC: Final[int] = lib.BCAST_DRM_MAC_LENGTH
_PEK: Final[int] = lib.BCAST_KEY_LENGTH
_MIKEY_MAC: Final[int] = lib.BCAST_MIKEY_MAC_LENGTH

Stkm = DrmStkm | PartialDrmStkm | SmartcardStkm | PartialSmartcardStkm

DRM: Final = packer(
    "bcast_drm_stkm", "present", "protection_after_reception", "traffic_protection_protocol", "traffic_authentication_flag",
    "traffic_key_lifetime", "permissions_category", "id_length", "material_length", "id", "next_id", "traffic_key_material",
    "next_traffic_key_material", "salt", "next_salt", "programme_CID_extension", "service_CID_extension", "timestamp",
    "access_criteria.offset", "access_criteria.length", "encrypted_PEK_at", "programme_MAC_at", "service_MAC_at",
)  # fmt: skip
SMARTCARD: Final = packer(
    "bcast_smartcard_stkm", "counter", "csb_id", "key_domain_id", "sek_id", "tek_id", "tek_id_length", "tek", "salt", "has_salt",
    "has_management", "protection_after_reception", "traffic_protection_protocol", "traffic_authentication_flag",
    "traffic_key_lifetime", "tail.has_criteria", "tail.has_binding", *_TAIL[2:], "other_key_ids.offset", "other_key_ids.length",
    "partial", "canonical", "encr_data.offset", "encr_data.length", "mac_at",
)  # fmt: skip


def _drm(buffer: Any, data: bytes, partial: bool) -> DrmStkm | PartialDrmStkm:
    (present, reception, protocol, authentication, lifetime, category, id_length, length, identity, next_id, material, following,
     salt, next_salt, programme, service, timestamp, criteria_at, criteria_length, pek_at, programme_at,
     service_at) = DRM.unpack_from(buffer)  # fmt: skip
    srtp, more = protocol == _SRTP, present & _NEXT
    fields: dict[str, Any] = {
        "protection_after_reception": reception,
        "traffic_protection_protocol": _PROTOCOLS[protocol],
        "traffic_authentication_flag": authentication == 1,
        "traffic_key_lifetime": lifetime,
        "id": identity[:id_length],
        "next_id": next_id[:id_length] if more else None,
        "salt": salt if srtp else None,
        "next_salt": next_salt if srtp and more else None,
        "timestamp": timestamp if present & _TIMESTAMP else None,
        "access_criteria": _criteria_of(data, criteria_at, criteria_length) if present & _CRITERIA else None,
        "permissions_category": category if present & _PERMISSIONS else None,
        "programme_CID_extension": programme if present & _PROGRAMME else None,
        "service_CID_extension": service if present & _SERVICE else None,
    }
    if partial:
        return PartialDrmStkm(
            **fields,
            traffic_key_material=Secret(material[:length]),
            next_traffic_key_material=Secret(following[:length]) if more else None,
        )
    return DrmStkm(
        **fields,
        encrypted_traffic_key_material=material[:length],
        next_encrypted_traffic_key_material=following[:length] if more else None,
        encrypted_PEK=data[pek_at : pek_at + _PEK] if pek_at else None,
        programme_MAC=data[programme_at : programme_at + _MAC] if programme_at else None,
        service_MAC=data[service_at : service_at + _MAC] if service_at else None,
    )


def _smartcard(buffer: Any, data: bytes, _: bool) -> SmartcardStkm | PartialSmartcardStkm | None:
    (counter, csb_id, key_domain_id, sek_id, tek_id, tek_id_length, tek, salt, has_salt, has_management, reception, protocol,
     authentication, lifetime, *tail, others_at, others_length, partial, canonical, encr_at, encr_length,
     mac_at) = SMARTCARD.unpack_from(buffer)  # fmt: skip
    if not canonical:
        return None
    block = None
    if has_management:
        block = StkmManagement(
            protection_after_reception=reception,
            traffic_protection_protocol=_PROTOCOLS[protocol],
            traffic_authentication_flag=authentication == 1,
            traffic_key_lifetime=lifetime,
            **(_tail_of(tuple(tail), data) if tail[0] or tail[1] else {}),
        )
    fields: dict[str, Any] = {
        "counter": counter,
        "key_domain_id": key_domain_id,
        "sek_id": sek_id,
        "tek_id": tek_id[:tek_id_length],
        "management": block,
        "other_key_ids": tuple(KeyId(*item) for item in _items(data, others_at, others_length)),
    }
    if partial:
        return PartialSmartcardStkm(**fields, tek=TEK(tek), salt=salt if has_salt else None)
    return SmartcardStkm(
        **fields, csb_id=csb_id, encr_data=data[encr_at : encr_at + encr_length], mac=data[mac_at : mac_at + _MIKEY_MAC]
    )


Fields = Callable[[Any, bytes, bool], Stkm | None]
_KINDS: Final[dict[Kind, tuple[str, Callable[..., int], Fields]]] = {
    "drm-stkm": ("bcast_drm_stkm", lib.bcast_drm_stkm_decode, _drm),
    "smartcard-stkm": ("bcast_smartcard_stkm", lib.bcast_smartcard_stkm_decode, _smartcard),
}
_ZEROS: Final = {name: bytes(ffi.sizeof(name)) for name, _, _ in _KINDS.values()}


def decode(data: bytes, kind: Kind, partial: bool, lenient: Leniencies) -> Stkm | None:
    """The fields of an STKM; ``None`` when ``wire`` is to decode it, or to say what is wrong with it."""
    ctype, call, fields = _KINDS[kind]
    bits = lenient_bits(lenient) if lenient else 0
    if type(data) is not bytes:
        data = bytes(memoryview(data))
    engine = current()
    worker = engine.take()
    scratch, buffer, _ = worker.scratch[ctype]
    try:
        if call(data, len(data), partial, bits, scratch, worker.error) != _OK:
            return None
        return fields(buffer, data, partial)
    finally:
        buffer[:] = _ZEROS[ctype]
        engine.idle.append(worker)


_PARTIALS: Final[dict[type, tuple[str, Callable[..., bool], Callable[..., int], int]]] = {
    PartialDrmStkm: ("bcast_drm_stkm", pack_drm_stkm, lib.pybcast_partial_drm, lib.BCAST_DRM_STKM_MAX),
    PartialSmartcardStkm: ("bcast_smartcard_stkm", pack_smartcard_stkm, lib.pybcast_partial_stkm, MAX_CARD_MESSAGE),
}


def encode(message: Any) -> bytes | None:
    """The bytes of a partial STKM, its TEK in clear; ``None`` for anything else, and where ``wire`` is to say what is wrong."""
    known = _PARTIALS.get(type(message))
    if known is None:
        return None
    ctype, pack, call, limit = known
    engine = current()
    worker = engine.take()
    _, buffer, frame = worker.scratch[ctype]
    base = bytearray()
    length = 0
    try:
        if not pack(buffer, 0, message, base, limit):
            return None
        length = call(frame, ffi.from_buffer("uint8_t[]", base) if base else _NULL, len(base))
        return worker.out_buffer[:length] if length > 0 else None
    except _NOT_BUILT:
        return None
    finally:
        buffer[:] = _ZEROS[ctype]
        if length > 0:
            worker.out_buffer[:length] = bytes(length)
        engine.idle.append(worker)
