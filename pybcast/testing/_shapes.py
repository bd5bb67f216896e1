# SPDX-License-Identifier: Apache-2.0
"""What a valid message of each kind looks like, as a function of choices.

One description, two drivers: a seeded ``random.Random`` (corpus) and Hypothesis (strategies).  Written from the
layout notes and the dataclasses only, so that a fault of the codec cannot hide in its own test data.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from pybcast import messages as m
from pybcast.messages import Kind
from pybcast.secret import Secret

T = TypeVar("T")

MAX_TIME: Final = (65535 - 15020) * 86400 + 86399
"""Last NTP second that MJD + BCD can say: 2038-04-22 23:59:59 (rules R15).  MJD 15020 is 1900-01-01."""

MAX_STKM: Final = 1400
"""A DRM STKM fits one UDP payload (drm-profile 6, check 2)."""

MIN_TIME: Final = -15020 * 86400
"""First NTP second that MJD + BCD can say: 1858-11-17, MJD 0."""

CONSTRAINT_LENGTH: Final = {1: 4, 2: 5, 3: 5, 4: 4, 5: 4}
"""Value length of each constraint type (drm-profile 2.2; confidence: own)."""

KEPT_EXTENSIONS: Final = (0, 1, 2, 4, 6, 7, 8, 127, 240, 241, 255)
"""General extension types that are not Key ID (3) nor OMA BCAST (5): kept as they are (rules R16)."""


class Choices(Protocol):
    """Where the freedom of a message comes from."""

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], limits favoured."""

    def octets(self, low: int, high: int | None = None) -> bytes:
        """``low`` bytes, or ``low``..``high``; short and limit lengths favoured."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""

    def flag(self) -> bool:
        """True or False."""

    def count(self, options: Sequence[int]) -> int:
        """How many items; the large options only where the message may be large."""


class RandomChoices:
    """Choices of a ``random.Random``: fast, and reproducible from a seed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        # One in four at or beside a limit: that is where codecs break.
        which = self.rng.randrange(16)
        if which >= 4:
            return self.rng.randint(low, high)
        return (low, high, min(low + 1, high), max(high - 1, low))[which]

    def octets(self, low: int, high: int | None = None) -> bytes:
        length = low if high is None else self._length(low, high)
        # All zeros and all ones are one in sixteen each; the rest is random.
        which = self.rng.randrange(16)
        return bytes(length) if which == 0 else b"\xff" * length if which == 1 else self.rng.randbytes(length)

    def _length(self, low: int, high: int) -> int:
        which = self.rng.randrange(8)
        if which == 0:
            return low
        if which == 1:
            return high
        return self.rng.randint(low, min(high, low + 32)) if which < 6 else self.rng.randint(low, min(high, low + 255))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.rng.randrange(len(options))]

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def count(self, options: Sequence[int]) -> int:
        return self.pick(options)


class Small:
    """The same choices for a message that must fit one card command: ``spare`` bytes above the shortest lengths, first come
    first served, and lists of at most three items."""

    def __init__(self, choices: Choices, spare: int) -> None:
        self.choices, self.spare = choices, spare

    def integer(self, low: int, high: int) -> int:
        return self.choices.integer(low, high)

    def octets(self, low: int, high: int | None = None) -> bytes:
        if high is None:
            return self.choices.octets(low)
        value = self.choices.octets(low, min(high, low + self.spare))
        self.spare -= len(value) - low
        return value

    def pick(self, options: Sequence[T]) -> T:
        return self.choices.pick(options)

    def flag(self) -> bool:
        return self.choices.flag()

    def count(self, options: Sequence[int]) -> int:
        return self.choices.count([option for option in options if option <= 3])


SPARE: Final = 251 - 175
"""rules R20: at most 251 bytes when built; the longest LTKM with every optional part at its shortest has 175."""


def maybe(c: Choices, make: Callable[[], T]) -> T | None:
    """``make()`` or ``None``."""
    return make() if c.flag() else None


def secret(c: Choices, length: int) -> Secret:
    """A key.  Never with few distinct bytes, so that a search for its hexadecimal form proves something."""
    return Secret(hashlib.shake_128(c.octets(16)).digest(length))


def ntp_time(c: Choices) -> int:
    """NTP seconds that MJD + BCD can say."""
    return c.integer(MIN_TIME, MAX_TIME)


def _mjd_bcd(ntp: int) -> bytes:
    """MJD (16 bits) and six BCD digits, here on our own: the constraint values must not depend on the codec under test."""
    day, second = divmod(ntp, 86400)
    hour, minute, second = second // 3600, second // 60 % 60, second % 60
    return (15020 + day).to_bytes(2, "big") + bytes.fromhex(f"{hour:02}{minute:02}{second:02}")


def _access_criteria(c: Choices, budget: int = 600) -> tuple[m.AccessCriterion, ...]:
    criteria: list[m.AccessCriterion] = []
    # 255 descriptors of length 0 are legal; a long list of long ones would not fit its message.
    count = c.count((0, 0, 1, 1, 1, 1, 2, 2, 3, 255))
    for _ in range(count):
        room = min(255, budget // 2)
        value = b"" if count == 255 else c.octets(0, room)
        budget -= len(value)
        criteria.append(m.AccessCriterion(c.integer(0, 255), value))
    return tuple(criteria)


# --- DRM Profile: STKM -----------------------------------------------------------------------------------------------


def _drm_stkm_fields(c: Choices) -> dict[str, Any]:
    protocol = c.pick((m.Protocol.IPSEC, m.Protocol.SRTP, m.Protocol.ISMACRYP))
    authentication, follows = c.flag(), c.flag()
    length = 4 if protocol is m.Protocol.IPSEC else c.integer(1, 16)
    srtp = protocol is m.Protocol.SRTP
    which = c.pick(("service", "programme", "both"))
    return {
        "protection_after_reception": c.integer(0, 3),
        "traffic_protection_protocol": protocol,
        "traffic_authentication_flag": authentication,
        "traffic_key_lifetime": c.integer(0, 15),
        "id": c.octets(length),
        "next_id": c.octets(length) if follows else None,
        "salt": c.octets(14) if srtp else None,
        "next_salt": c.octets(14) if srtp and follows else None,
        "timestamp": maybe(c, lambda: ntp_time(c)),
        "access_criteria": maybe(c, lambda: _access_criteria(c)),
        "permissions_category": maybe(c, lambda: c.integer(0, 255)) if which != "service" else None,
        "programme_CID_extension": c.integer(0, 2**32 - 1) if which != "service" else None,
        "service_CID_extension": c.integer(0, 2**32 - 1) if which != "programme" else None,
    }


def _tkm_length(fields: dict[str, Any]) -> int:
    # rules R17: TEK || TAS for IPsec with authentication only.
    return 32 if fields["traffic_protection_protocol"] is m.Protocol.IPSEC and fields["traffic_authentication_flag"] else 16


def drm_stkm(c: Choices) -> m.DrmStkm:
    fields = _drm_stkm_fields(c)
    length = _tkm_length(fields)
    programme, service = fields["programme_CID_extension"] is not None, fields["service_CID_extension"] is not None
    return m.DrmStkm(
        **fields,
        encrypted_traffic_key_material=c.octets(length),
        next_encrypted_traffic_key_material=c.octets(length) if fields["next_id"] is not None else None,
        encrypted_PEK=c.octets(16) if programme and service else None,
        programme_MAC=c.octets(12) if programme else None,
        service_MAC=c.octets(12) if service else None,
    )


def clear_drm_stkm(c: Choices) -> m.ClearDrmStkm:
    return m.ClearDrmStkm(**_clear_drm_fields(c))


def partial_drm_stkm(c: Choices) -> m.PartialDrmStkm:
    return m.PartialDrmStkm(**_clear_drm_fields(c))


def _clear_drm_fields(c: Choices) -> dict[str, Any]:
    fields = _drm_stkm_fields(c)
    length = _tkm_length(fields)
    fields["traffic_key_material"] = secret(c, length)
    fields["next_traffic_key_material"] = secret(c, length) if fields["next_id"] is not None else None
    return fields


# --- DRM Profile: BCRO -----------------------------------------------------------------------------------------------


def _mask(c: Choices, size: int) -> bytes:
    """Neither empty nor full (rules R21)."""
    mask = bytearray(c.octets(size))
    if not any(mask):
        mask[c.integer(0, size - 1)] |= 1 << c.integer(0, 7)
    if all(octet == 0xFF for octet in mask):
        mask[c.integer(0, size - 1)] &= ~(1 << c.integer(0, 7)) & 0xFF
    return bytes(mask)


def _constraint(c: Choices) -> m.Constraint:
    kind = c.integer(1, 5)
    value = _mjd_bcd(ntp_time(c)) if kind in (2, 3) else c.octets(CONSTRAINT_LENGTH[kind])
    return m.Constraint(kind, value)


def _permission(c: Choices) -> m.Permission:
    return m.Permission(c.integer(1, 4), tuple(_constraint(c) for _ in range(c.integer(0, 3))))


def _bcro_fields(c: Choices) -> dict[str, Any]:
    mode, wide = c.pick(tuple(m.AddressMode)), c.flag()
    domain = mode is m.AddressMode.DOMAIN
    return {
        "address_mode": mode,
        "group_size_flag": wide,
        "stateful_flag": c.flag(),
        "rights_issuer_id": maybe(c, lambda: c.octets(20)),
        "group_address": None if domain else c.octets(4),
        "bit_access_mask": _mask(c, 64 if wide else 32) if mode is m.AddressMode.SUBSET else None,
        "position_in_group": c.integer(0, 511 if wide else 255) if mode is m.AddressMode.UNIQUE_DEVICE else None,
        "domain_id": c.octets(6) if domain else None,
        "domain_generation": c.integer(0, 65535) if domain else None,
        "bcro_timestamp": maybe(c, lambda: ntp_time(c)),
        "refresh_time": maybe(c, lambda: ntp_time(c)),
        "permissions": tuple(_permission(c) for _ in range(c.integer(1, 4))),
    }


def _asset_fields(c: Choices) -> dict[str, Any]:
    return {"asset_is_service": c.flag(), "BCI": c.octets(16), "permissions_category": maybe(c, lambda: c.integer(0, 255))}


def _asset_count(c: Choices) -> int:
    # 70 x 50 bytes with the rest still fits the 12 bits of bcro_length.
    return c.count((1, 1, 1, 1, 1, 2, 2, 3, 70))


def bcro(c: Choices) -> m.Bcro:
    assets = tuple(m.Asset(**_asset_fields(c), encrypted_key=c.octets(32)) for _ in range(_asset_count(c)))
    return m.Bcro(**_bcro_fields(c), assets=assets, MAC=c.octets(12))


def clear_bcro(c: Choices) -> m.ClearBcro:
    assets = tuple(m.ClearAsset(**_asset_fields(c), key=secret(c, 32)) for _ in range(_asset_count(c)))
    return m.ClearBcro(**_bcro_fields(c), assets=assets)


# --- DRM Profile: registration ---------------------------------------------------------------------------------------

OTHER_TAGS: Final = tuple(tag for tag in m.RegistrationTag if tag not in m.KEYSET_TAGS)
EVERYONE_TAGS: Final = (m.RegistrationTag.update_ri_certificate_msg, m.RegistrationTag.update_drmtime_msg)
"""The two messages that may be meant for every device: UDN 20 x F (rules R23)."""
RESPONSES: Final[tuple[type[m.RegistrationResponse], ...]] = (
    m.DeviceRegistrationResponse,
    m.DomainRegistrationResponse,
    m.DomainUpdateResponse,
)


def _udn(c: Choices) -> str:
    return f"{c.integer(0, 10**20 - 1):020}"


def _header(c: Choices, sizes: Sequence[int]) -> dict[str, Any]:
    return {
        "longform_udn": _udn(c),
        "signature_type": c.pick(sizes),
        "hash": c.pick(("SHA-1", "SHA-256")),
    }


def _blobs(c: Choices) -> tuple[bytes, ...]:
    """Certificates or OCSP responses: opaque to the layout."""
    return tuple(c.octets(1, 1200) for _ in range(c.count((1, 1, 2, 3))))


def registration(c: Choices, sizes: Sequence[int] = (2048, 4096)) -> m.RegistrationResponse | m.RegistrationMessage:
    return registration_response(c, sizes) if c.flag() else registration_message(c, sizes)


def registration_response(c: Choices, sizes: Sequence[int] = (2048, 4096)) -> m.RegistrationResponse:
    header = _header(c, sizes)
    # rules R23: a key set only with status 0.
    keyset = c.flag()
    return c.pick(RESPONSES)(
        **header,
        status=0 if keyset else c.integer(0, 255),
        rights_issuer_id=c.octets(20),
        drm_time=ntp_time(c),
        certificates=maybe(c, lambda: _blobs(c)),
        ocsp_responses=maybe(c, lambda: _blobs(c)),
        session_key_block=c.octets(c.pick((256, 512))) if keyset else None,
        # AES-WRAP adds one block to at least two.
        keyset_block=c.octets(8 * c.integer(3, 40)) if keyset else None,
        signature=c.octets(header["signature_type"] // 8),
    )


def registration_message(c: Choices, sizes: Sequence[int] = (2048, 4096)) -> m.RegistrationMessage:
    header = _header(c, sizes)
    tag = c.pick(OTHER_TAGS)
    if tag in EVERYONE_TAGS and c.flag():
        header["longform_udn"] = "F" * 20
    return m.RegistrationMessage(
        **header,
        message_tag=tag,
        status=c.integer(0, 255),
        ri_certificate_flag=c.flag(),
        ocsp_flag=c.flag(),
        keyset_flag=c.flag(),
        body=c.octets(0, 300),
        signature=c.octets(header["signature_type"] // 8),
    )


def keyset_items(c: Choices) -> tuple[m.KeysetItem, ...]:
    """Items of the lengths of drm-profile 3, and unknown ones (skipped by a device, kept by the codec)."""
    items: list[m.KeysetItem] = []
    for _ in range(c.integer(0, 12)):
        tag = c.pick((1, 2, 3, 4, 5, 6, 7, 8, 200, 255))
        length = {1: 16, 2: 16, 3: 17, 4: 7, 5: 16, 6: 24, 7: 16}.get(tag)
        value = bytearray(secret(c, c.integer(1, 40) if length is None else length).reveal())
        if tag == 3:
            value[0] = c.integer(1, 9)
        elif tag == 4:
            wide = c.flag()
            value[4] = int(wide)
            value[5:7] = c.integer(0, 511 if wide else 255).to_bytes(2, "big")
        items.append(m.KeysetItem(tag, Secret(value)))
    return tuple(items)


# --- Smartcard Profile -----------------------------------------------------------------------------------------------


def _kept_extension(c: Choices) -> m.Extension:
    return m.Extension(c.pick(KEPT_EXTENSIONS), c.octets(0, 40))


def security_policy(c: Choices) -> m.SecurityPolicy:
    params = tuple((c.integer(0, 255), c.octets(0, 16)) for _ in range(c.integer(0, 4)))
    return m.SecurityPolicy(c.integer(0, 255), 0, params)


def _layout(c: Choices, canonical: tuple[m.PayloadSlot, ...], sp: bool = False) -> tuple[m.PayloadSlot, ...] | None:
    """Another order, with payloads that are only kept; ``None`` when it is the canonical one.

    EXT payloads come in any order (rules R16) before the T payload and what follows keeps its place.
    """
    # False is what Hypothesis shrinks to: the canonical order.
    if not c.flag():
        return None
    extensions: list[m.PayloadSlot] = [slot for slot in canonical if slot in ("EXT3", "EXT5")]
    others = [slot for slot in canonical if slot not in ("EXT3", "EXT5")]
    if c.flag():
        extensions.reverse()
    for _ in range(c.integer(0, 2)):
        extensions.insert(c.integer(0, len(extensions)), _kept_extension(c))
    slots = [*others]
    if sp and c.flag():
        slots.insert(len(slots) - 1, security_policy(c))
    if c.flag():
        slots = extensions + slots
    else:
        # Anywhere before the last payload, their own order kept.
        places = sorted(c.integer(0, len(slots) - 1) for _ in extensions)
        for shift, (place, extension) in enumerate(zip(places, extensions, strict=True)):
            slots.insert(place + shift, extension)
    layout = tuple(slots)
    return None if layout == canonical else layout


def _other_key_ids(c: Choices) -> tuple[m.KeyId, ...]:
    return tuple(m.KeyId(c.pick((3, 4, 240, 241, 255)), c.octets(0, 20)) for _ in range(c.count((0, 0, 0, 1, 2))))


def _terminal_binding(c: Choices) -> m.TerminalBinding:
    return m.TerminalBinding(c.integer(0, 2**32 - 1), c.octets(0, 255))


def stkm_management(c: Choices, protocol: m.Protocol | None = None) -> m.StkmManagement:
    return m.StkmManagement(
        protection_after_reception=c.integer(0, 3),
        traffic_protection_protocol=protocol if protocol is not None else c.pick(tuple(m.Protocol)[:3]),
        traffic_authentication_flag=c.flag(),
        traffic_key_lifetime=c.integer(0, 15),
        access_criteria=maybe(c, lambda: _access_criteria(c)),
        terminal_binding=maybe(c, lambda: _terminal_binding(c)),
    )


def _policy_fields(c: Choices) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "security_policy_extension": c.integer(0, 255),
        "cost_value": maybe(c, lambda: c.integer(0, 2**32 - 1)),
    }
    for name in ("purse", "playback", "tek"):
        value = maybe(c, lambda: c.integer(0, 2**32 - 1))
        fields[name] = value
        # A mode without its value says nothing and is not valid.
        fields[f"{name}_mode"] = int(c.flag()) if value is not None else 0
    return fields


def ltkm_management(c: Choices, reporting: bool) -> m.LtkmManagement:
    return m.LtkmManagement(
        consumption_reporting_flag=reporting,
        security_policy_ext=maybe(c, lambda: m.SecurityPolicyExtension(**_policy_fields(c))),
        access_criteria=maybe(c, lambda: _access_criteria(c)),
        terminal_binding=maybe(c, lambda: _terminal_binding(c)),
    )


def reporting(c: Choices) -> m.Reporting:
    entries = tuple(
        m.ReportingEntry(
            **_policy_fields(c),
            key_domain_id=c.octets(3),
            key_group=c.octets(2),
            key_number=c.integer(0, 65535),
            ts_low=c.integer(0, 2**32 - 1),
            ts_high=c.integer(0, 2**32 - 1),
        )
        for _ in range(c.count((0, 1, 1, 1, 2, 2, 2, 5, 5, 5, 255)))
    )
    return m.Reporting(status=c.integer(0, 255), entries=entries)


STKM_LAYOUT: Final[tuple[m.PayloadSlot, ...]] = ("EXT3", "EXT5", "T", "KEMAC")
LTKM_LAYOUT: Final[tuple[m.PayloadSlot, ...]] = ("EXT3", "EXT5", "T", "RAND", "IDi", "IDr", "KEMAC")
PARENTAL_LAYOUT: Final[tuple[m.PayloadSlot, ...]] = ("EXT5", "T", "RAND", "IDi", "IDr", "KEMAC")
VERIFICATION_LAYOUT: Final[tuple[m.PayloadSlot, ...]] = ("T", "IDr", "V")
REPORTING_LAYOUT: Final[tuple[m.PayloadSlot, ...]] = ("EXT5", "T", "IDr", "V")
"""Canonical payload orders (smartcard-profile 4.4, 7 decisions 14 and 15)."""


def _without(layout: tuple[m.PayloadSlot, ...], slot: str) -> tuple[m.PayloadSlot, ...]:
    return tuple(item for item in layout if item != slot)


def _smartcard_stkm_fields(c: Choices, tek_id: Sequence[int], keep_layout: bool = True) -> tuple[dict[str, Any], bool]:
    """The fields, and whether the key is TEK+SALT (rules R18: exactly when the protocol is SRTP)."""
    management = maybe(c, lambda: stkm_management(c))
    srtp = c.flag() if management is None else management.traffic_protection_protocol is m.Protocol.SRTP
    canonical = STKM_LAYOUT if management is not None else _without(STKM_LAYOUT, "EXT5")
    fields: dict[str, Any] = {
        "counter": c.integer(0, 2**32 - 1),
        "layout": _layout(c, canonical) if keep_layout else None,
        "key_domain_id": c.octets(3),
        "sek_id": c.octets(4),
        "tek_id": c.octets(c.pick(tek_id)),
        "management": management,
        "other_key_ids": _other_key_ids(c),
    }
    return fields, srtp


def smartcard_stkm(c: Choices, tek_id: Sequence[int] = (2,)) -> m.SmartcardStkm:
    fields, salted = _smartcard_stkm_fields(c, tek_id)
    return m.SmartcardStkm(**fields, csb_id=c.octets(4), encr_data=c.octets(36 if salted else 20), mac=c.octets(20))


def clear_smartcard_stkm(c: Choices, tek_id: Sequence[int] = (2,)) -> m.ClearSmartcardStkm:
    fields, salted = _smartcard_stkm_fields(c, tek_id)
    return m.ClearSmartcardStkm(**fields, tek=secret(c, 16), salt=c.octets(14) if salted else None)


def partial_smartcard_stkm(c: Choices, tek_id: Sequence[int] = (2,)) -> m.PartialSmartcardStkm:
    fields, salted = _smartcard_stkm_fields(c, tek_id)
    return m.PartialSmartcardStkm(**fields, tek=secret(c, 16), salt=c.octets(14) if salted else None)


def _identities(c: Choices) -> dict[str, Any]:
    return {
        "idi": c.octets(1, 60),
        "idr": c.octets(1, 300),
        "idi_type": c.pick((0, 0, 1, 2, 255)),  # smartcard-profile 4.3: receivers ignore it
        "idr_type": c.integer(0, 1),
    }


def _smartcard_ltkm_fields(c: Choices) -> dict[str, Any]:
    verification = c.flag()
    # rules R19: consumption reporting wants a verification message.
    management = maybe(c, lambda: ltkm_management(c, verification and c.flag()))
    canonical = LTKM_LAYOUT if management is not None else _without(LTKM_LAYOUT, "EXT5")
    return {
        **_identities(c),
        "counter": c.integer(0, 2**32 - 1),
        "layout": _layout(c, canonical, sp=True),
        "csb_id": c.octets(4),
        "key_domain_id": c.octets(3),
        "sek_id": c.octets(4),
        "rand": c.octets(16),
        "verification_requested": verification,
        "management": management,
        "other_key_ids": _other_key_ids(c),
    }


def smartcard_ltkm(c: Choices, interval: Sequence[int] = (4,)) -> m.SmartcardLtkm:
    return m.SmartcardLtkm(**_smartcard_ltkm_fields(c), encr_data=c.octets(22 + 2 * c.pick(interval)), mac=c.octets(20))


def clear_smartcard_ltkm(c: Choices) -> m.ClearSmartcardLtkm:
    withdrawal = c.integer(0, 7) == 0
    low = c.integer(0, 2**32 - 1)
    # rules R4: builders refuse spans above 2^31 - 2; the window may wrap.
    high = (low + c.integer(0, 2**31 - 2)) % 2**32
    if (low, high) == (0xFFFFFFFF, 0):
        high = low
    return m.ClearSmartcardLtkm(
        **_smartcard_ltkm_fields(c),
        sek=Secret(bytes(16)) if withdrawal else secret(c, 16),
        ts_low=0xFFFFFFFF if withdrawal else low,
        ts_high=0 if withdrawal else high,
    )


def _verification_fields(c: Choices, report: bool) -> dict[str, Any]:
    return {
        "counter": c.integer(0, 2**32 - 1),
        "layout": _layout(c, REPORTING_LAYOUT if report else VERIFICATION_LAYOUT),
        "csb_id": c.octets(4),
        "idr": c.octets(1, 300),
        "idr_type": c.integer(0, 1),
        "reporting": reporting(c) if report else None,
    }


def smartcard_verification(c: Choices, report: bool = False) -> m.SmartcardVerification:
    return m.SmartcardVerification(**_verification_fields(c, report), mac=c.octets(20))


def clear_smartcard_verification(c: Choices, report: bool = False) -> m.SmartcardVerification:
    return m.SmartcardVerification(**_verification_fields(c, report))


def _parental_fields(c: Choices) -> dict[str, Any]:
    return {
        **_identities(c),
        "counter": c.integer(0, 2**32 - 1),
        "layout": _layout(c, PARENTAL_LAYOUT),
        "csb_id": c.octets(4),
        "rand": c.octets(16),
        "verification_requested": c.flag(),
        "rating_type": c.integer(0, 255),
        "level_granted": c.integer(0, 255),
    }


def smartcard_parental(c: Choices) -> m.SmartcardParental:
    pin = c.flag()
    return m.SmartcardParental(**_parental_fields(c), pin_present=pin, encr_data=c.octets(12 if pin else 0), mac=c.octets(20))


def clear_smartcard_parental(c: Choices) -> m.ClearSmartcardParental:
    digits = c.integer(1, 8)
    pin = maybe(c, lambda: Secret(f"{c.integer(0, 10**digits - 1):0{digits}}".encode()))
    return m.ClearSmartcardParental(**_parental_fields(c), pin=pin)


_NAME: Final = "abcdefghijklmnopqrstuvwxyz0123456789-."


def _name(c: Choices, high: int) -> str:
    return "".join(_NAME[octet % len(_NAME)] for octet in c.octets(1, high))


def smartcard_registration(c: Choices) -> m.SmartcardRegistration:
    rand = c.octets(16)
    return m.SmartcardRegistration(
        gba_u=c.flag(),
        target_id=c.octets(8),
        key_lifetime=c.integer(0, 2**32 - 1),
        rand=rand,
        autn=c.octets(16),
        naf_fqdn=_name(c, 255),
        # smartcard-profile 4.2: base64(RAND) "@" BSF name, and base64 of 16 bytes is 24 characters.
        btid=base64.b64encode(rand).decode() + "@" + _name(c, 230),
        mac=c.octets(12),
    )


# --- MIKEY -----------------------------------------------------------------------------------------------------------


def _key_ids(c: Choices) -> m.KeyIds:
    ids: list[m.KeyId] = []
    if c.flag():
        ids.append(m.KeyId(0, c.octets(3)))
    if c.flag():
        ids.append(m.KeyId(1, c.octets(4)))
    if c.flag():
        ids.append(m.KeyId(2, c.octets(2)))
    ids.extend(_other_key_ids(c))
    return m.KeyIds(tuple(ids))


def _timestamp(c: Choices) -> m.Timestamp:
    ts_type = c.integer(0, 3)
    return m.Timestamp(ts_type, c.octets(8 if ts_type < 2 else 4))


def key_data(c: Choices) -> bytes:
    """Key data sub-payloads as bytes: what a KEMAC with NULL encryption holds in clear (RFC 3830 6.13)."""
    out = b""
    count = c.count((0, 1, 1, 2))
    for left in reversed(range(count)):
        key_type, validity = c.integer(0, 7), c.integer(0, 2)
        out += bytes([20 if left else 0, key_type << 4 | validity]) + _with_length(c.octets(0, 40), 2)
        if key_type in (1, 3, 5):
            out += _with_length(c.octets(0, 14), 2)
        for _ in range(validity):
            out += _with_length(c.octets(0, 8), 1)
    return out


def _with_length(value: bytes, size: int) -> bytes:
    return len(value).to_bytes(size, "big") + value


def _kemac(c: Choices) -> m.Kemac:
    encr_alg, mac_alg = c.integer(0, 3), c.integer(0, 2)
    encr_data = c.octets(0, 300) if encr_alg else key_data(c)
    return m.Kemac(encr_alg, encr_data, mac_alg, c.octets((0, 20, 32)[mac_alg]))


def mikey(c: Choices) -> m.MikeyMessage:
    data_type = c.pick((0, 0, 0, 1, 6))
    body: list[m.MikeyPayload] = []
    if c.flag():
        body.append(_timestamp(c))
    if c.flag():
        body.append(m.Rand(c.octets(0, 255)))
    for _ in range(c.integer(0, 2)):
        body.append(m.Identity(c.integer(0, 2), c.octets(0, 300)))
    for _ in range(c.integer(0, 2)):
        body.append(security_policy(c))
    for _ in range(c.integer(0, 2)):
        body.append(_kept_extension(c))
    if c.flag():
        # The first octet is the OMA subtype.
        body.insert(c.integer(0, len(body)), m.Extension(5, c.octets(1, 60)))
    if c.flag():
        body.insert(c.integer(0, len(body)), _key_ids(c))
    if data_type == 6:
        body.append(m.ErrorPayload(c.integer(0, 255)))
    elif data_type == 1 and c.flag():
        body.append(m.Verification(*c.pick(((0, b""), (1, c.octets(20))))))
    elif data_type == 0 and c.flag():
        body.append(_kemac(c))
    if not body:
        body.append(_timestamp(c))
    srtp = c.flag()
    entries = tuple(
        m.SrtpId(c.integer(0, 255), c.integer(0, 2**32 - 1), c.integer(0, 2**32 - 1))
        for _ in range(c.count((0, 1, 1, 1, 2, 2, 2, 255)) if srtp else 0)
    )
    return m.MikeyMessage(
        data_type=data_type,
        v=data_type == 0 and c.flag(),
        prf_func=c.integer(0, 1),
        csb_id=c.octets(4),
        cs_id_map_type=0 if srtp else 1,
        cs_id_map=entries,
        payloads=tuple(body),
    )


# --- by kind ---------------------------------------------------------------------------------------------------------

MESSAGES: Final[dict[Kind, Callable[[Choices], m.Message]]] = {
    "drm-stkm": drm_stkm,
    "drm-ltkm": bcro,
    "drm-registration": registration,
    "smartcard-stkm": smartcard_stkm,
    "smartcard-ltkm": smartcard_ltkm,
    "smartcard-verification": smartcard_verification,
    "smartcard-reporting": lambda c: smartcard_verification(c, report=True),
    "smartcard-parental": smartcard_parental,
    "smartcard-registration": smartcard_registration,
    "mikey": mikey,
}
