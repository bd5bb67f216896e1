# SPDX-License-Identifier: Apache-2.0
"""What a STKM says, as a pure function of (stream, period, keys, TEK).

Here and nowhere else: the ids a period gets (R8, R38, R43), the partial forms of F3 and who owns which field (R31), and sealing
under ``KeyMaterial``.  The same input gives the same bytes on every headend.  Where a TEK comes from is in ``teks``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from pybcast import codec
from pybcast.errors import BadValue, BcastError, PeerFlowError
from pybcast.flows.peers.messages import KeyMaterial, Profile
from pybcast.flows.serial import MOD, counter_of
from pybcast.flows.stream.config import LAST_TEK_ID, StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import Status
from pybcast.keys import (
    PEAK,
    SEAK,
    SEK,
    TAS,
    TEK,
    Keys,
    ipsec_auth_key_drm,
    ipsec_auth_key_smartcard,
    ipsec_spi,
    key_indicator,
    mki,
)
from pybcast.messages import (
    AccessCriterion,
    ClearDrmStkm,
    ClearSmartcardStkm,
    DrmStkm,
    PartialDrmStkm,
    PartialSmartcardStkm,
    Protocol,
    SmartcardStkm,
    StkmManagement,
)
from pybcast.secret import Secret
from pybcast.wire.content_id import BCI

LAST_MJD_TIME: Final = (65535 - 15020 + 1) * 86400 - 1
"""2038-04-22T23:59:59Z in NTP seconds: the last time that 16 bits of MJD can say (R15)."""

LOWEST_SPI: Final = 256  # RFC 4303 2.1


StkmKind = Literal["drm-stkm", "smartcard-stkm"]
Partial = PartialDrmStkm | PartialSmartcardStkm
Content = ClearDrmStkm | ClearSmartcardStkm
_C = TypeVar("_C", bound=Partial | Content)


@dataclass(frozen=True)
class TrafficKey:
    """TEK, with the SRTP salt (14 bytes) or the DRM IPsec seed that belong to it."""

    tek: TEK
    salt: bytes | None = None
    tas: TAS | None = None


def kind_of(profile: Profile) -> StkmKind:
    """The kind of message that a STKM of a profile is."""
    return "drm-stkm" if profile == "drm" else "smartcard-stkm"


def key_identity(config: StreamConfig, key: KeyMaterial) -> bytes:
    """The key's id, unique in the system: Key Domain || SEK ID, or the BCI (a bare CID extension repeats between services)."""
    if key.key_type in ("SEK", "PEK"):
        return key.key_id
    return bytes(BCI(config.socID, config.serviceBaseCID, int.from_bytes(key.key_id, "big")))


def tek_id(key: KeyMaterial, period: Period) -> bytes:
    """MTK ID of a period (R8).  ``PeerFlowError`` 21 when the key does not reach that far or the period is off its grid."""
    assert key.first_counter is not None and key.granularity is not None
    number, off = divmod((period.start - key.first_counter) % MOD, key.granularity)
    if off or number >= LAST_TEK_ID:
        raise PeerFlowError(Status.INFORMATION_INVALID, f"period {period.start} has no TEK ID under this key (R8)")
    return (1 + number).to_bytes(2, "big")


def traffic_id(config: StreamConfig, period: Period, sek: KeyMaterial | None) -> bytes:
    """What names the key in protected packets: MKI, SPI or key indicator.

    From the SEK where there is a Smartcard Profile (R38, R43); else the low 32 bits of the period's start, never reused -
    confidence: own.  An SPI of 0..255 is reserved (RFC 4303): for 256 s after a wrap one of 68 years ago takes its place.
    """
    if sek is None:
        number = counter_of(period.start)
        if config.protocol is Protocol.IPSEC and number < LOWEST_SPI:
            number += 1 << 31
        return number.to_bytes(4, "big")
    sek_id, mtk = sek.key_id[3:], tek_id(sek, period)
    if config.protocol is Protocol.IPSEC:
        return ipsec_spi(sek_id, mtk)
    return mki(sek_id, mtk) if config.protocol is Protocol.SRTP else key_indicator(sek_id, mtk)


def auth_key(config: StreamConfig, key: TrafficKey, csb_id: bytes | None) -> Secret | None:
    """The IPsec authentication key (20 bytes) of the profile the stream has; ``None`` without authentication."""
    if not config.ipsec_auth:
        return None
    if config.drm:
        assert key.tas is not None
        return ipsec_auth_key_drm(key.tas)
    assert csb_id is not None
    return ipsec_auth_key_smartcard(key.tek, csb_id)


def partial(config: StreamConfig, profile: Profile, period: Period, key: TrafficKey) -> Partial:
    """The BSD/A's half of a STKM (F3, R31): what it owns; the BSM's fields zero or at the configured default."""
    return partials(config, profile, [(period, key)])[0]


def partials(config: StreamConfig, profile: Profile, periods: Iterable[tuple[Period, TrafficKey]]) -> list[Partial]:
    """The same of some periods with their keys: what they have in common is put together once."""
    like: Partial | None = None
    made: list[Partial] = []
    for period, key in periods:
        if like is None:
            like = _smartcard_partial(config, key) if profile == "smartcard" else _drm_partial(config)
        one = _like(like, profile, period, key)
        if profile == "drm" and not config.dual:
            vars(one)["id"] = traffic_id(config, period, None)
        made.append(one)
    return made


def _like(like: _C, profile: Profile, period: Period, key: TrafficKey) -> _C:
    """The same with what is a period's alone of what the BSD/A owns, its id beside.  ``replace`` takes five times as long."""
    one = object.__new__(type(like))
    fields = vars(one)
    fields.update(vars(like))
    fields["salt"] = key.salt
    if profile == "smartcard":
        fields["tek"] = key.tek
    else:
        fields["traffic_key_material"] = key.tek if key.tas is None else Secret(key.tek.reveal() + key.tas.reveal())
        fields["timestamp"] = period.start
    return one


def contents(
    config: StreamConfig, profile: Profile, periods: Sequence[tuple[Period, TrafficKey, bytes]], keys: Mapping[str, KeyMaterial],
    policy: Policy,
) -> list[Content]:  # fmt: skip
    """What the STKMs of some periods say under the same keys (F4), of each with its traffic key and traffic id."""
    period, key, _ = periods[0]
    first = partial(config, profile, period, key)
    like: Content = codec.filled(first, **_fields(first, config, period, keys, policy))
    made: list[Content] = []
    for period, key, name in periods:
        one = _like(like, profile, period, key)
        own = vars(one)
        if profile == "smartcard":
            own["counter"], own["tek_id"] = counter_of(period.start), name[-2:]  # every traffic id ends with the MTK ID
        else:
            own["id"] = name
        made.append(one)
    return made


def _smartcard_partial(config: StreamConfig, key: TrafficKey) -> PartialSmartcardStkm:
    return PartialSmartcardStkm(
        counter=0, key_domain_id=bytes(3), sek_id=bytes(4), tek_id=bytes(2), management=config.management, tek=key.tek
    )


def _drm_partial(config: StreamConfig) -> PartialDrmStkm:
    return PartialDrmStkm(
        protection_after_reception=config.protection_after_reception,
        traffic_protection_protocol=config.protocol,
        traffic_authentication_flag=config.traffic_authentication_flag,
        traffic_key_lifetime=config.lifetime,
        id=bytes(4 if config.protocol is Protocol.IPSEC else 6),
        access_criteria=config.access_criteria,
        service_CID_extension=0,
        traffic_key_material=Secret(b""),
    )


def owned_digest(config: StreamConfig, period: Period, content: ClearDrmStkm | ClearSmartcardStkm) -> bytes:
    """SHA-256 of the plaintext and the fields that the BSD/A owns (R1, R31): two asks with the same digest get the same STKM."""
    if isinstance(content, ClearDrmStkm):
        protocol, flag, life = (
            content.traffic_protection_protocol,
            content.traffic_authentication_flag,
            content.traffic_key_lifetime,
        )
        plain = content.traffic_key_material.reveal() + (content.salt or b"") + (b"" if config.dual else content.id)
    else:
        m = content.management
        if m is None:
            raise BadValue(None, "management", "STKM management data (R18)", "none")
        protocol, flag, life = m.traffic_protection_protocol, m.traffic_authentication_flag, m.traffic_key_lifetime
        plain = content.tek.reveal() + (content.salt or b"")
    head = f"{content.kind} {period.start} {period.end} {int(protocol)} {int(flag)} {life} {len(plain)} ".encode()
    return hashlib.sha256(head + plain).digest()


@dataclass(frozen=True)
class Policy:
    """What the sealing server decides for a period (R31).  ``None`` = silent: the partial's value stays."""

    protection_after_reception: int | None = None
    permissions_category: int | None = None
    access_criteria: tuple[AccessCriterion, ...] | None = None

    @classmethod
    def of(cls, *keys: KeyMaterial | None) -> Policy:
        """The policy that came with the keys; a programme's wins over the service's, so give it last (R33)."""
        out = cls()
        for key in keys:
            if key is None:
                continue
            if key.protection_after_reception is not None:
                out = replace(out, protection_after_reception=key.protection_after_reception)
            if key.permissions_category is not None:
                out = replace(out, permissions_category=key.permissions_category)
            if key.access_criteria is not None:
                out = replace(out, access_criteria=tuple(AccessCriterion(tag, value) for tag, value in key.access_criteria))
        return out


def smartcard_fields(content: ClearSmartcardStkm, period: Period, sek: KeyMaterial, policy: Policy) -> dict[str, object]:
    """The fields of a partial that the sealing server fills in (R31)."""
    management = content.management
    assert management is not None  # owned_digest has refused it
    if policy.protection_after_reception is not None:
        management = replace(management, protection_after_reception=policy.protection_after_reception)
    if policy.access_criteria is not None:
        management = replace(management, access_criteria=policy.access_criteria)
    return {
        "counter": counter_of(period.start),
        "key_domain_id": sek.key_id[:3],
        "sek_id": sek.key_id[3:],
        "tek_id": tek_id(sek, period),
        "management": management,
    }


def drm_fields(
    content: ClearDrmStkm, config: StreamConfig, period: Period, keys: Mapping[str, KeyMaterial], policy: Policy
) -> dict[str, object]:
    """The fields of a partial that the sealing server fills in (R31); on a two-profile stream the SEK names the key (R38)."""
    seak, peak = keys["SEAK"], keys.get("PEAK")
    out: dict[str, object] = {
        "service_CID_extension": int.from_bytes(seak.key_id, "big"),
        "programme_CID_extension": None if peak is None else int.from_bytes(peak.key_id, "big"),
        "permissions_category": policy.permissions_category if peak is not None else None,
    }
    if config.dual:
        out["id"] = traffic_id(config, period, keys["SEK"])
    if policy.protection_after_reception is not None:
        out["protection_after_reception"] = policy.protection_after_reception
    if policy.access_criteria is not None:
        out["access_criteria"] = policy.access_criteria
    return out


def smartcard_keys(sek: KeyMaterial) -> Keys:
    return Keys(sek=SEK(sek.key), csb_id=sek.csb_id, rand=sek.rand)


def drm_keys(seak: KeyMaterial | None, peak: KeyMaterial | None) -> Keys:
    return Keys(seak=None if seak is None else SEAK(seak.key), peak=None if peak is None else PEAK(peak.key))


class Rings:
    """Key rings of the long-term keys in use: what a cipher needs of a key is made once, not for each STKM under it."""

    def __init__(self) -> None:
        # By the identity of the keys, which are held here: nothing else takes their place.
        self._made: dict[int, tuple[Secret, dict[tuple[int, str], tuple[Secret | None, codec.PreparedKeys]]]] = {}

    def prepared(
        self, kind: StkmKind, keys: Mapping[str, KeyMaterial], use: Literal["seal", "open"] = "seal"
    ) -> codec.PreparedKeys:
        """For STKMs of a kind: under the SEK, or the SEAK and the PEAK where a programme has one."""
        first, other = (keys["SEK"], None) if kind == "smartcard-stkm" else (keys["SEAK"], keys.get("PEAK"))
        _, rings = self._made.setdefault(id(first.key), (first.key, {}))
        second = None if other is None else other.key
        held = rings.get((id(second), use))
        if held is None:
            ring = smartcard_keys(first) if kind == "smartcard-stkm" else drm_keys(first, other)
            held = rings[id(second), use] = second, codec.prepare(ring, kind, use=use)
        return held[1]

    def forget(self, key: KeyMaterial) -> None:
        """The key has ended."""
        for _, prepared in self._made.pop(id(key.key), (None, {}))[1].values():
            prepared.wipe()


def seal(
    content: Partial,
    config: StreamConfig,
    period: Period,
    keys: Mapping[str, KeyMaterial],
    policy: Policy,
    rings: Rings | None = None,
) -> bytes:
    """The STKM of ``period`` under ``keys`` (key type -> key); ``rings``: where keys that were used before are set up.

    Raises ``PeerFlowError`` 17 when a key that the profile needs is missing, ``WireError`` when the content cannot be coded
    (a DRM timestamp beyond 2038, R15; a message beyond one card command, R20).
    """
    (sealed,) = seal_many([(content, period)], config, keys, policy, rings or Rings())
    if isinstance(sealed, BcastError):
        raise sealed
    return sealed


def seal_many(
    contents: Sequence[tuple[Partial, Period]],
    config: StreamConfig,
    keys: Mapping[str, KeyMaterial],
    policy: Policy,
    rings: Rings,
) -> list[bytes | BcastError]:
    """The STKMs of one profile of some periods under the same keys, in one call; each its bytes, or what :func:`seal` raises."""
    sealed: list[bytes | BcastError | None] = []
    filled: list[Content] = []
    for content, period in contents:
        try:
            filled.append(codec.filled(content, **_fields(content, config, period, keys, policy)))
            sealed.append(None)
        except BcastError as error:
            sealed.append(error)
    results = iter(seal_contents(filled, keys, rings))
    return [next(results) if one is None else one for one in sealed]


def seal_contents(contents: Sequence[Content], keys: Mapping[str, KeyMaterial], rings: Rings) -> list[bytes | BcastError]:
    """The same of what is complete already."""
    if not contents:
        return []
    kind = kind_of("drm" if isinstance(contents[0], ClearDrmStkm) else "smartcard")
    return list(codec.seal_many(contents, rings.prepared(kind, keys)).results())


def _fields(
    content: Partial, config: StreamConfig, period: Period, keys: Mapping[str, KeyMaterial], policy: Policy
) -> dict[str, object]:
    """What the sealing server fills in; ``PeerFlowError`` where it cannot."""
    sek = keys.get("SEK")
    if isinstance(content, PartialSmartcardStkm):
        if sek is None:
            raise PeerFlowError(Status.NON_EXISTENT, "no SEK for that period")
        return smartcard_fields(content, period, sek, policy)
    if content.timestamp != period.start:
        raise PeerFlowError(Status.INFORMATION_INVALID, "timestamp is not the start of the period (R14)")
    if "SEAK" not in keys or (config.dual and sek is None):
        raise PeerFlowError(Status.NON_EXISTENT, "no SEAK for that period")
    return drm_fields(content, config, period, keys, policy)


def key_id_in(profile: Profile, data: bytes) -> bytes:
    """The id of the key that a STKM names, as ``later_key`` compares it: Key Domain ID and SEK ID, or the service CID extension."""
    message = codec.decode(data, kind_of(profile))
    if isinstance(message, DrmStkm):
        return (message.service_CID_extension or 0).to_bytes(4, "big")
    assert isinstance(message, SmartcardStkm)
    return message.key_domain_id + message.sek_id


def _require(good: bool, what: str) -> None:
    if not good:
        raise PeerFlowError(Status.WRONG_KEY_INFORMATION, what)


def _require_own(said: DrmStkm | StkmManagement, config: StreamConfig) -> None:
    _require(said.traffic_protection_protocol is config.protocol, "traffic_protection_protocol is not the BSD/A's")
    _require(
        said.traffic_authentication_flag == config.traffic_authentication_flag, "traffic_authentication_flag is not the BSD/A's"
    )
    _require(said.traffic_key_lifetime == config.lifetime, "traffic_key_lifetime is not the BSD/A's")


def check_received(
    config: StreamConfig, profile: Profile, period: Period, key: TrafficKey, data: bytes
) -> tuple[DrmStkm | SmartcardStkm, bytes]:
    """The BSD/A's test of a completed STKM against its TEK record (R13, R31); gives the message and its traffic id.

    Raises ``PeerFlowError`` 24 when a field that the BSD/A owns differs, the MACs are missing or the TEK stands there in clear;
    ``WireError`` when it does not parse.
    """

    message = codec.decode(data, kind_of(profile))
    if isinstance(message, DrmStkm):
        _require_own(message, config)
        _require(message.salt == key.salt, "salt is not the BSD/A's")
        _require(message.timestamp == period.start, "timestamp is not the BSD/A's")
        _require(config.dual or message.id == traffic_id(config, period, None), "id is not the BSD/A's")
        _require(message.next_id is None, "next key material where none was made")
        size = 16 if key.tas is None else 32
        _require(len(message.encrypted_traffic_key_material) == size, "key material of wrong size")
        _require(message.encrypted_traffic_key_material[:16] != key.tek.reveal(), "the key is in clear")
        for mac in (message.service_MAC, message.programme_MAC):
            _require(mac is None or any(mac), "a MAC is missing")
        return message, message.id
    _require(isinstance(message, SmartcardStkm), "not a completed STKM")
    assert isinstance(message, SmartcardStkm)
    _require(message.management is not None, "no STKM management data")
    assert message.management is not None
    _require_own(message.management, config)
    _require(message.counter == counter_of(period.start), "COUNTER is not the period's start")
    _require(len(message.encr_data) == (36 if key.salt else 20), "key data of wrong size")
    _require(key.tek.reveal() not in message.encr_data, "the key is in clear")
    _require(any(message.mac), "the MAC is missing")
    if config.protocol is Protocol.IPSEC:
        return message, ipsec_spi(message.sek_id, message.tek_id)
    if config.protocol is Protocol.SRTP:
        return message, mki(message.sek_id, message.tek_id)
    return message, key_indicator(message.sek_id, message.tek_id)
