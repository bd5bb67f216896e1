# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening in the C core: contents as its structures and back, key rings as its contexts.

What the core does not build (a ``layout`` of payloads that is not the canonical one, fields of a type or size that its structures
cannot say) goes to :mod:`pybcast.codec.reference`, and so does a message it refuses, for the words of the refusal; the verdict
stays the core's.

Packing reads the key bytes of a ``Secret`` where they lie: the copy that ``reveal`` makes could not be wiped, the structure is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from pybcast._native._bcast import ffi, lib
from pybcast._native.engine import (
    ALONE,
    DRM,
    SMARTCARD,
    SMK,
    Pool,
    Worker,
    answered,
    current,
    drm_set_up,
    smartcard_set_up,
    smk_set_up,
)
from pybcast._native.errors import typed
from pybcast._native.numbers import DrmPresent, Lenient, PolicyPresent, Status, Use, packer
from pybcast.codec import reference
from pybcast.codec._common import Lenient as Leniencies
from pybcast.errors import BcastError, Integrity, WireError
from pybcast.keys import SEK, TEK, Keys
from pybcast.messages import (
    LENIENCIES,
    AccessCriterion,
    ClearDrmStkm,
    ClearMessage,
    ClearSmartcardLtkm,
    ClearSmartcardStkm,
    KeyId,
    Kind,
    LtkmManagement,
    Protocol,
    SecurityPolicyExtension,
    SmartcardVerification,
    StkmManagement,
    TerminalBinding,
)
from pybcast.secret import Secret
from pybcast.wire.management import decode_reporting, encode_reporting

_NOT_BUILT: Final = (struct.error, AttributeError, TypeError, ValueError, OverflowError)
"""What packing raises for values that the structures cannot hold; the reference then says what is wrong with them."""

_LENIENT: Final[dict[str, int]] = {name: int(Lenient[name.upper().replace("-", "_")]) for name in LENIENCIES if name != "rsa-1024"}
_SRTP: Final = int(Protocol.SRTP)


def lenient_bits(lenient: Leniencies) -> int:
    """Leniencies as the core wants them; ``ValueError`` for an unknown one."""
    bits = 0
    for name in lenient:
        if name not in LENIENCIES:
            raise ValueError(f"unknown leniency {name!r}")
        bits |= _LENIENT.get(name, 0)
    return bits


def seal_refusal(native: BcastError, ask: Callable[[], object]) -> BcastError:
    """What to raise when the core does not seal: what the reference says, which looks in another order when much is wrong at once.

    The refusal is the core's: should the reference find nothing wrong, the core's own error stays.
    """
    try:
        ask()
    except BcastError as error:
        return error
    return native


def open_refusal(native: BcastError, ask: Callable[[], object]) -> BcastError:
    """What to raise when the core does not open: the same error in the reference's words, where it comes to the same verdict."""
    if not isinstance(native, Integrity):  # which has no words
        try:
            ask()
        except WireError as error:
            if isinstance(native, type(error)) and (error.offset, error.field) == (native.offset, native.field):
                return error
        except BcastError:
            pass  # no words beyond those of the core
    return native


# --- what varies in length: appended to a base, and said as offset and length -----------------------------------------


def _criteria(items: tuple[AccessCriterion, ...], base: bytearray) -> tuple[int, int]:
    at = len(base)
    for item in items:
        base += struct.pack("BB", item.tag, len(item.value)) + item.value
    return at, len(base) - at


def _key_ids(items: tuple[KeyId, ...], base: bytearray) -> tuple[int, int]:
    at = len(base)
    for item in items:
        base += struct.pack("BB", item.type, len(item.value)) + item.value
    return at, len(base) - at


def _octets(value: bytes, base: bytearray) -> tuple[int, int]:
    at = len(base)
    base += value
    return at, len(value)


def _items(data: Any, offset: int, length: int) -> list[tuple[int, bytes]]:
    end, items = offset + length, []
    while offset < end:
        value = offset + 2
        following = value + data[offset + 1]
        items.append((data[offset], bytes(data[value:following])))
        offset = following
    return items


def _criteria_of(data: Any, offset: int, length: int) -> tuple[AccessCriterion, ...]:
    return tuple(AccessCriterion(*item) for item in _items(data, offset, length))


# --- DRM Profile: STKM ------------------------------------------------------------------------------------------------

_SERVICE, _PROGRAMME, _TIMESTAMP = int(DrmPresent.SERVICE), int(DrmPresent.PROGRAMME), int(DrmPresent.TIMESTAMP)
_NEXT, _CRITERIA, _PERMISSIONS = int(DrmPresent.NEXT), int(DrmPresent.CRITERIA), int(DrmPresent.PERMISSIONS)

DRM_STKM: Final = packer(
    "bcast_drm_stkm", "present", "protection_after_reception", "traffic_protection_protocol", "traffic_authentication_flag",
    "traffic_key_lifetime", "permissions_category", "id_length", "material_length", "id", "next_id", "traffic_key_material",
    "next_traffic_key_material", "salt", "next_salt", "programme_CID_extension", "service_CID_extension", "timestamp",
    "access_criteria.offset", "access_criteria.length",
)  # fmt: skip
_pack_drm: Final = DRM_STKM.pack_into


def pack_drm_stkm(buffer: Any, at: int, m: Any, base: bytearray, limit: int) -> bool:
    """Write a ``ClearDrmStkm`` as a ``bcast_drm_stkm``; false, or one of ``_NOT_BUILT``, for what the structure cannot say."""
    service, programme, timestamp = m.service_CID_extension, m.programme_CID_extension, m.timestamp
    category, criteria, salt, next_salt = m.permissions_category, m.access_criteria, m.salt, m.next_salt
    identity, next_id, material, following = m.id, m.next_id, m.traffic_key_material, m.next_traffic_key_material
    protocol = m.traffic_protection_protocol
    present = criteria_at = criteria_length = 0
    if service is None:
        service = 0
    else:
        present = _SERVICE
    if programme is None:
        programme = 0
    else:
        present |= _PROGRAMME
    if timestamp is None:
        timestamp = 0
    else:
        present |= _TIMESTAMP
    if category is None:
        category = 0
    else:
        present |= _PERMISSIONS
    if criteria is not None:
        present |= _CRITERIA
        criteria_at, criteria_length = _criteria(criteria, base)
    size = len(identity)
    length = len(material)
    if m.protocol_version != 0 or material._wiped:
        return False
    if protocol == _SRTP:
        if len(salt) != 14:
            return False
    elif salt is not None:
        return False
    else:
        salt = b""
    if next_id is None:
        if following is not None or next_salt is not None:
            return False
        hidden = next_id = next_salt = b""
    else:
        present |= _NEXT
        if len(next_id) != size or len(following) != length or following._wiped:
            return False
        hidden = following._buffer
        if protocol == _SRTP:
            if len(next_salt) != 14:
                return False
        elif next_salt is not None:
            return False
        else:
            next_salt = b""
    _pack_drm(
        buffer, at, present, m.protection_after_reception, protocol, m.traffic_authentication_flag, m.traffic_key_lifetime,
        category, size, length, identity, next_id, material._buffer, hidden, salt, next_salt, programme, service, timestamp,
        criteria_at, criteria_length,
    )  # fmt: skip
    return True


def unpack_drm_stkm(buffer: Any, at: int, data: Any) -> ClearDrmStkm:
    """A ``bcast_drm_stkm`` that was opened from ``data`` (or whose spans count from it)."""
    (present, reception, protocol, authentication, lifetime, category, id_length, length, identity, next_id, material, following,
     salt, next_salt, programme, service, timestamp, criteria_at, criteria_length) = DRM_STKM.unpack_from(buffer, at)  # fmt: skip
    srtp, more = protocol == _SRTP, bool(present & _NEXT)
    return ClearDrmStkm(
        protection_after_reception=reception,
        traffic_protection_protocol=Protocol(protocol),
        traffic_authentication_flag=bool(authentication),
        traffic_key_lifetime=lifetime,
        id=identity[:id_length],
        next_id=next_id[:id_length] if more else None,
        salt=salt if srtp else None,
        next_salt=next_salt if srtp and more else None,
        timestamp=timestamp if present & _TIMESTAMP else None,
        access_criteria=_criteria_of(data, criteria_at, criteria_length) if present & _CRITERIA else None,
        permissions_category=category if present & _PERMISSIONS else None,
        programme_CID_extension=programme if present & _PROGRAMME else None,
        service_CID_extension=service if present & _SERVICE else None,
        traffic_key_material=Secret(material[:length]),
        next_traffic_key_material=Secret(following[:length]) if more else None,
    )


# --- Smartcard Profile: management data -------------------------------------------------------------------------------


def _tail(block: StkmManagement | LtkmManagement, base: bytearray) -> tuple[int, int, int, int, int, int, int]:
    """``bcast_management_tail``: flags, key id, the two spans."""
    criteria = (0, 0) if block.access_criteria is None else _criteria(block.access_criteria, base)
    binding = block.terminal_binding
    if binding is None:
        return block.access_criteria is not None, 0, 0, *criteria, 0, 0
    uri = _octets(binding.permissions_issuer_uri, base)
    return block.access_criteria is not None, 1, binding.terminal_binding_key_id, *criteria, *uri


_NO_TAIL: Final = (0, 0, 0, 0, 0, 0, 0)
_TAIL: Final = (
    "tail.has_criteria", "tail.has_binding", "tail.terminal_binding_key_id", "tail.access_criteria.offset",
    "tail.access_criteria.length", "tail.permissions_issuer_uri.offset", "tail.permissions_issuer_uri.length",
)  # fmt: skip


def _tail_of(values: tuple[int, ...], data: Any) -> dict[str, Any]:
    has_criteria, has_binding, key_id, criteria_at, criteria_length, uri_at, uri_length = values
    uri = bytes(data[uri_at : uri_at + uri_length])
    return {
        "access_criteria": _criteria_of(data, criteria_at, criteria_length) if has_criteria else None,
        "terminal_binding": TerminalBinding(key_id, uri) if has_binding else None,
    }


# --- Smartcard Profile: STKM ------------------------------------------------------------------------------------------

SMARTCARD_STKM: Final = packer(
    "bcast_smartcard_stkm", "counter", "max_size", "key_domain_id", "sek_id", "tek_id", "tek_id_length", "tek", "salt", "has_salt",
    "has_management", "protection_after_reception", "traffic_protection_protocol", "traffic_authentication_flag",
    "traffic_key_lifetime", *_TAIL, "other_key_ids.offset", "other_key_ids.length", "canonical",
)  # fmt: skip
_pack_stkm: Final = SMARTCARD_STKM.pack_into


def pack_smartcard_stkm(buffer: Any, at: int, m: Any, base: bytearray, limit: int) -> bool:
    """Write a ``ClearSmartcardStkm`` as a ``bcast_smartcard_stkm``; as :func:`pack_drm_stkm`."""
    tek, salt, block, tek_id = m.tek, m.salt, m.management, m.tek_id
    if m.layout is not None or len(tek) != 16 or tek._wiped or len(m.key_domain_id) != 3 or len(m.sek_id) != 4:
        return False
    has_salt = 1
    if salt is None:
        has_salt, salt = 0, b""
    elif len(salt) != 14:
        return False
    others = _key_ids(m.other_key_ids, base) if m.other_key_ids else (0, 0)
    if block is None:
        values: tuple[int, ...] = (0, 0, 0, 0, 0, *_NO_TAIL)
    else:
        if block.protocol_version != 0:
            return False
        tail = _NO_TAIL if block.access_criteria is None and block.terminal_binding is None else _tail(block, base)
        values = (
            1, block.protection_after_reception, block.traffic_protection_protocol, block.traffic_authentication_flag,
            block.traffic_key_lifetime, *tail,
        )  # fmt: skip
    _pack_stkm(
        buffer,
        at,
        m.counter,
        limit,
        m.key_domain_id,
        m.sek_id,
        tek_id,
        len(tek_id),
        tek._buffer,
        salt,
        has_salt,
        *values,
        *others,
        0,
    )
    return True


def unpack_smartcard_stkm(buffer: Any, at: int, data: Any) -> ClearSmartcardStkm:
    """A ``bcast_smartcard_stkm`` that was opened from ``data``, in canonical order."""
    (counter, _, key_domain_id, sek_id, tek_id, tek_id_length, tek, salt, has_salt, has_management, reception, protocol,
     authentication, lifetime, *tail, others_at, others_length, _) = SMARTCARD_STKM.unpack_from(buffer, at)  # fmt: skip
    block = None
    if has_management:
        block = StkmManagement(
            protection_after_reception=reception,
            traffic_protection_protocol=Protocol(protocol),
            traffic_authentication_flag=bool(authentication),
            traffic_key_lifetime=lifetime,
            **_tail_of(tuple(tail), data),
        )
    return ClearSmartcardStkm(
        counter=counter,
        key_domain_id=key_domain_id,
        sek_id=sek_id,
        tek_id=tek_id[:tek_id_length],
        management=block,
        other_key_ids=tuple(KeyId(*item) for item in _items(data, others_at, others_length)),
        tek=TEK(tek),
        salt=salt if has_salt else None,
    )


# --- Smartcard Profile: LTKM ------------------------------------------------------------------------------------------

SMARTCARD_LTKM: Final = packer(
    "bcast_smartcard_ltkm", "counter", "max_size", "csb_id", "rand", "key_domain_id", "verification_requested", "sek_id", "sek",
    "ts_low", "ts_high", "key_data_type", "interval_length", "idi_type", "idr_type", "has_management", "consumption_reporting_flag",
    "has_policy", "policy.security_policy_extension", "policy.present", "policy.purse_mode", "policy.playback_mode",
    "policy.tek_mode", "policy.cost_value", "policy.purse", "policy.playback", "policy.tek", *_TAIL, "idi.offset", "idi.length",
    "idr.offset", "idr.length", "other_key_ids.offset", "other_key_ids.length", "canonical",
)  # fmt: skip
_POLICY: Final = (
    (int(PolicyPresent.COST), "cost_value"),
    (int(PolicyPresent.PURSE), "purse"),
    (int(PolicyPresent.PLAYBACK), "playback"),
    (int(PolicyPresent.TEK), "tek"),
)


def _policy(p: SecurityPolicyExtension) -> tuple[int, ...]:
    values = [getattr(p, name) for _, name in _POLICY]
    present = sum(bit for (bit, _), value in zip(_POLICY, values, strict=True) if value is not None)
    return (
        p.security_policy_extension,
        present,
        p.purse_mode,
        p.playback_mode,
        p.tek_mode,
        *(0 if value is None else value for value in values),
    )


def pack_smartcard_ltkm(buffer: Any, at: int, m: Any, base: bytearray, limit: int) -> bool:
    """Write a ``ClearSmartcardLtkm`` as a ``bcast_smartcard_ltkm``; as :func:`pack_drm_stkm`."""
    sek, block = m.sek, m.management
    if m.layout is not None or len(sek) != 16 or sek._wiped or len(m.rand) != 16 or len(m.csb_id) != 4:
        return False
    if len(m.key_domain_id) != 3 or len(m.sek_id) != 4:
        return False
    if block is None:
        values: tuple[int, ...] = (0, 0, 0, *_NO_POLICY, *_NO_TAIL)
    else:
        if block.protocol_version != 0:
            return False
        policy = block.security_policy_ext
        values = (
            1, block.consumption_reporting_flag, policy is not None, *(_NO_POLICY if policy is None else _policy(policy)),
            *_tail(block, base),
        )  # fmt: skip
    SMARTCARD_LTKM.pack_into(
        buffer, at, m.counter, limit, m.csb_id, m.rand, m.key_domain_id, m.verification_requested, m.sek_id, sek._buffer, m.ts_low,
        m.ts_high, m.key_data_type, m.interval_length, m.idi_type, m.idr_type, *values, *_octets(m.idi, base),
        *_octets(m.idr, base), *_key_ids(m.other_key_ids, base), 0,
    )  # fmt: skip
    return True


_NO_POLICY: Final = (0,) * 9


def unpack_smartcard_ltkm(buffer: Any, at: int, data: Any) -> ClearSmartcardLtkm:
    """A ``bcast_smartcard_ltkm`` that was opened from ``data``, in canonical order."""
    (counter, _, csb_id, rand, key_domain_id, requested, sek_id, sek, ts_low, ts_high, key_data_type, interval_length, idi_type,
     idr_type, has_management, reporting, has_policy, *rest) = SMARTCARD_LTKM.unpack_from(buffer, at)  # fmt: skip
    policy, tail = rest[:9], rest[9:16]
    idi_at, idi_length, idr_at, idr_length, others_at, others_length, _ = rest[16:]
    block = None
    if has_management:
        extension = None
        if has_policy:
            values = {name: value if policy[1] & bit else None for (bit, name), value in zip(_POLICY, policy[5:], strict=True)}
            extension = SecurityPolicyExtension(
                security_policy_extension=policy[0], purse_mode=policy[2], playback_mode=policy[3], tek_mode=policy[4], **values
            )
        block = LtkmManagement(
            consumption_reporting_flag=bool(reporting), security_policy_ext=extension, **_tail_of(tuple(tail), data)
        )
    return ClearSmartcardLtkm(
        counter=counter,
        csb_id=csb_id,
        rand=rand,
        key_domain_id=key_domain_id,
        sek_id=sek_id,
        idi=bytes(data[idi_at : idi_at + idi_length]),
        idr=bytes(data[idr_at : idr_at + idr_length]),
        idi_type=idi_type,
        idr_type=idr_type,
        verification_requested=bool(requested),
        management=block,
        other_key_ids=tuple(KeyId(*item) for item in _items(data, others_at, others_length)),
        sek=SEK(sek),
        ts_low=ts_low,
        ts_high=ts_high,
        key_data_type=key_data_type,
        interval_length=interval_length,
    )


# --- Smartcard Profile: verification and reporting --------------------------------------------------------------------

VERIFICATION: Final = packer(
    "bcast_verification", "counter", "max_size", "csb_id", "idr_type", "has_reporting", "canonical", "idr.offset", "idr.length",
    "reporting.offset", "reporting.length", "mac_at",
)  # fmt: skip


def pack_verification(buffer: Any, at: int, m: Any, base: bytearray, limit: int) -> bool:
    """Write a ``SmartcardVerification`` as a ``bcast_verification``; as :func:`pack_drm_stkm`."""
    if m.layout is not None or len(m.csb_id) != 4:
        return False
    report = (0, 0) if m.reporting is None else _octets(encode_reporting(m.reporting), base)
    VERIFICATION.pack_into(
        buffer, at, m.counter, limit, m.csb_id, m.idr_type, m.reporting is not None, 0, *_octets(m.idr, base), *report, 0
    )
    return True


def unpack_verification(buffer: Any, at: int, data: Any) -> SmartcardVerification:
    """A ``bcast_verification`` that was opened from ``data``, in canonical order."""
    (counter, _, csb_id, idr_type, has_reporting, _, idr_at, idr_length, report_at, report_length,
     mac_at) = VERIFICATION.unpack_from(buffer, at)  # fmt: skip
    return SmartcardVerification(
        counter=counter,
        csb_id=csb_id,
        idr=bytes(data[idr_at : idr_at + idr_length]),
        idr_type=idr_type,
        reporting=decode_reporting(bytes(data[report_at : report_at + report_length])) if has_reporting else None,
        mac=bytes(data[mac_at : mac_at + 20]),
    )


# --- key rings as contexts --------------------------------------------------------------------------------------------

Make = Callable[[Keys], Pool | None]
"""Contexts of a key ring for the current provider; ``None`` when it lacks a key."""


def _drm_keys(use: int) -> Make:
    def make(keys: Keys) -> Pool | None:
        held = tuple(key for key in (keys.sek, keys.sas, keys.pek, keys.pas) if key is not None)
        return Pool(current(), DRM, held, drm_set_up(keys.sek, keys.sas, keys.pek, keys.pas, use)) if held else None

    return make


def _sealing_sek(keys: Keys) -> Pool | None:
    return None if keys.csb_id is None else _opening_sek(keys)


def _opening_sek(keys: Keys) -> Pool | None:
    if keys.sek is None or keys.rand is None:
        return None
    return Pool(current(), SMARTCARD, (keys.sek,), smartcard_set_up(keys.sek, keys.csb_id, keys.rand))


def _smk(keys: Keys) -> Pool | None:
    return None if keys.smk is None else Pool(current(), SMK, (keys.smk,), smk_set_up(keys.smk))


def _answering(keys: Keys) -> Pool | None:
    pool = None if not keys.rand or keys.idi is None else _smk(keys)
    if pool is not None:
        pool.answered = answered(keys.rand or b"", keys.idi or b"")
    return pool


def _pool(keys: Keys, name: str, make: Make) -> Pool | None:
    """Make the contexts of a key ring anew, and keep them with it; ``None`` when it lacks the keys or they were wiped."""
    old = keys.made.pop(name, None)
    if old is not None:
        old.wipe()
    pool = make(keys)
    if pool is not None and _wiped(pool):
        pool = None
    if pool is not None:
        keys.made[name] = pool
    return pool


def _wiped(pool: Pool) -> bool:
    for secret in pool.secrets:
        if secret._wiped:
            pool.wipe()
            return True
    return False


# --- seal -------------------------------------------------------------------------------------------------------------

_MAX: Final[int] = lib.BCAST_MESSAGE_MAX
_NULL: Final = ffi.NULL
_OK: Final = int(Status.OK)

Sealer = Callable[[Any, Keys, int], bytes]
Opener = Callable[[bytes, Keys, Kind, Leniencies], ClearMessage]


def _sealer(
    name: str,
    ctype: str,
    pack: Callable[[Any, int, Any, bytearray, int], bool],
    make: Make,
    call: Callable[[Any, Any, Any, int], int],
) -> Sealer:
    zeros = bytes(ffi.sizeof(ctype))
    answers = make is _answering

    # A headend that does not batch calls this for each message: it is written for speed.
    def seal(message: Any, keys: Keys, limit: int) -> bytes:
        pool = keys.made.get(name)
        if pool is None or pool.engine is not ALONE[-1] or _wiped(pool):
            pool = _pool(keys, name, make)
            if pool is None:
                return reference.seal(message, keys, max_card_message=limit)
        worker = pool.engine.take()
        _, buffer, frame = worker.scratch[ctype]
        base = bytearray()
        native = None
        try:
            try:
                built = 0 < limit <= _MAX and pack(buffer, 0, message, base, limit)
            except _NOT_BUILT:
                built = False
            if built:
                context = pool.take(worker)
                if answers:
                    frame.answered = pool.answered
                if base:
                    length = call(frame, context[0], ffi.from_buffer("uint8_t[]", base), len(base))
                else:
                    length = call(frame, context[0], _NULL, 0)
                pool.give(context)
                if length > 0:
                    return worker.out_buffer[:length]  # type: ignore[no-any-return]
                native = typed(ffi.addressof(frame, "error"))
            else:
                buffer[:] = zeros
        finally:
            pool.engine.idle.append(worker)
        if native is None:
            return reference.seal(message, keys, max_card_message=limit)
        raise seal_refusal(native, lambda: reference.seal(message, keys, max_card_message=limit)) from None

    return seal


SEALERS: Final[dict[type, Sealer]] = {
    ClearDrmStkm: _sealer("drm-stkm-seal", "bcast_drm_stkm", pack_drm_stkm, _drm_keys(int(Use.SEAL)), lib.pybcast_seal_drm),
    ClearSmartcardStkm: _sealer("smartcard-stkm", "bcast_smartcard_stkm", pack_smartcard_stkm, _sealing_sek, lib.pybcast_seal_stkm),
    ClearSmartcardLtkm: _sealer("smk", "bcast_smartcard_ltkm", pack_smartcard_ltkm, _smk, lib.pybcast_seal_ltkm),
    SmartcardVerification: _sealer("answering", "bcast_verification", pack_verification, _answering, lib.pybcast_seal_verification),
}
"""What the core seals, by class.  Anything else, subclasses too, is the reference's."""


# --- open -------------------------------------------------------------------------------------------------------------


def _open_drm_stkm(w: Worker, key: Any, data: bytes, bits: int, message: Any, pool: Pool, kind: Kind) -> int:
    return lib.bcast_drm_stkm_open(w.provider, key, data, len(data), bits, message, w.error)  # type: ignore[no-any-return]


def _open_smartcard_stkm(w: Worker, key: Any, data: bytes, bits: int, message: Any, pool: Pool, kind: Kind) -> int:
    return lib.bcast_smartcard_stkm_open(w.provider, key, data, len(data), bits, message, w.error)  # type: ignore[no-any-return]


def _open_smartcard_ltkm(w: Worker, key: Any, data: bytes, bits: int, message: Any, pool: Pool, kind: Kind) -> int:
    return lib.bcast_smartcard_ltkm_open(w.provider, key, data, len(data), bits, message, w.error)  # type: ignore[no-any-return]


def _open_verification(w: Worker, key: Any, data: bytes, bits: int, message: Any, pool: Pool, kind: Kind) -> int:
    return lib.bcast_verification_open(  # type: ignore[no-any-return]
        w.provider, key, pool.answered, data, len(data), kind == "smartcard-reporting", bits, message, w.error
    )


def _opener(
    name: str,
    ctype: str,
    unpack: Callable[[Any, int, Any], ClearMessage],
    make: Make,
    call: Callable[[Worker, Any, bytes, int, Any, Pool, Kind], int],
) -> Opener:
    zeros = bytes(ffi.sizeof(ctype))

    def open(data: bytes, keys: Keys, kind: Kind, lenient: Leniencies) -> ClearMessage:
        bits = lenient_bits(lenient) if lenient else 0
        if type(data) is not bytes:
            data = bytes(memoryview(data))
        pool = keys.made.get(name)
        if pool is None or pool.engine is not ALONE[-1] or _wiped(pool):
            pool = _pool(keys, name, make)
            if pool is None:
                return reference.open(data, keys, kind, lenient=lenient)
        native = None
        worker = pool.engine.take()
        scratch, buffer, _ = worker.scratch[ctype]
        try:
            context = pool.take(worker)
            status = call(worker, context[0], data, bits, scratch, pool, kind)
            pool.give(context)
            if status != _OK:
                native = typed(worker.error)
            elif getattr(scratch, "canonical", 1):
                return unpack(buffer, 0, data)
        finally:
            buffer[:] = zeros
            pool.engine.idle.append(worker)
        if native is None:  # it opens, but its payloads stand in an order that only the reference tells
            return reference.open(data, keys, kind, lenient=lenient)
        raise open_refusal(native, lambda: reference.open(data, keys, kind, lenient=lenient)) from None

    return open


_VERIFICATION_OPENER: Final = _opener("answering", "bcast_verification", unpack_verification, _answering, _open_verification)
OPENERS: Final[dict[Kind, Opener]] = {
    "drm-stkm": _opener("drm-stkm-open", "bcast_drm_stkm", unpack_drm_stkm, _drm_keys(int(Use.OPEN)), _open_drm_stkm),
    "smartcard-stkm": _opener("smartcard-stkm", "bcast_smartcard_stkm", unpack_smartcard_stkm, _opening_sek, _open_smartcard_stkm),
    "smartcard-ltkm": _opener("smk", "bcast_smartcard_ltkm", unpack_smartcard_ltkm, _smk, _open_smartcard_ltkm),
    "smartcard-verification": _VERIFICATION_OPENER,
    "smartcard-reporting": _VERIFICATION_OPENER,
}
"""What the core opens, by kind."""
