# SPDX-License-Identifier: Apache-2.0
"""The DRM agent of a DRM Profile terminal: what a device keeps and decides (R14, R21, R23).

Its memory: the key set from registration, one entry for each asset of the rights objects that addressed it, and replay marks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pybcast import codec
from pybcast.errors import BadValue, Integrity, KeyUnavailable, Replay
from pybcast.flows.events import Journal, Output
from pybcast.keys import BDK, IEK, PEAK, RIAK, SEAK, SGK, UDK, UGK, Keys, Member
from pybcast.messages import (
    AddressMode,
    Bcro,
    ClearBcro,
    ClearDrmStkm,
    ClearRegistrationResponse,
    DrmStkm,
    KeysetTag,
    Permission,
    RegistrationMessage,
    RegistrationResponse,
    RegistrationTag,
)
from pybcast.secret import Secret
from pybcast.wire.content_id import BCI
from pybcast.wire.times import decode_mjd_bcd

ACCESS: Final = 1
EVERYONE: Final = "F" * 20
_COUNT, _START, _END, _INTERVAL, _TOKENS = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class KeySet:
    """What a device got at registration.  ``riaks``: the device's own first, then the group's (R21) - the order is own."""

    issuer: bytes
    ugk: UGK | None = None
    udk: UDK | None = None
    sgks: tuple[SGK, ...] = ()
    riaks: tuple[RIAK, ...] = ()
    group_address: bytes | None = None
    group_size_flag: bool = False
    position: int | None = None


@dataclass(frozen=True)
class DomainKey:
    """Membership of one broadcast domain."""

    bdk: BDK
    riak: RIAK


@dataclass(frozen=True)
class Right:
    """One asset of a BCRO that addressed this device."""

    key: Secret
    is_service: bool
    permissions: tuple[Permission, ...]
    timestamp: int
    refresh_time: int | None


class Device:
    """A DRM Profile device.  ``udn``: 20 digits; ``anchors``: DER of the trusted roots of rights issuers."""

    def __init__(
        self,
        *,
        udn: str,
        key: RSAPrivateKey,
        anchors: Sequence[bytes],
        state: dict[str, dict[tuple[object, ...], object]] | None = None,
    ) -> None:
        self.udn = udn
        self._key = key
        self._anchors = tuple(anchors)
        self._journal = Journal(state)

    def take(self) -> list[Output]:
        """What to persist since the last call."""
        return self._journal.take()

    # --- registration (F1) --------------------------------------------------------------------------------------------

    def register(self, data: bytes, now: float) -> bool:
        """Take a message of the registration family; whether it was for this device and new (R23)."""
        message = codec.decode(data, "drm-registration")
        assert isinstance(message, RegistrationResponse | RegistrationMessage)
        everyone = message.message_tag in (RegistrationTag.update_ri_certificate_msg, RegistrationTag.update_drmtime_msg)
        if message.longform_udn != self.udn and not (everyone and message.longform_udn == EVERYONE):
            raise KeyUnavailable("registration of another device")
        if not isinstance(message, RegistrationResponse):
            return False  # the rest of the family: header known, body opaque
        chain = message.certificates or self._journal.tables.get("chain", {}).get((message.rights_issuer_id,))
        if not isinstance(chain, tuple):
            raise KeyUnavailable("rights issuer certificate")
        issuer_key = codec.verify_chain(chain, self._anchors, int(now))
        if codec.rights_issuer_id(issuer_key) != message.rights_issuer_id:
            raise Integrity
        clear = codec.open(data, Keys(device_key=self._key, rights_issuer_key=issuer_key), "drm-registration")
        assert isinstance(clear, ClearRegistrationResponse)
        last = self._journal.tables.get("drm-time", {}).get((message.rights_issuer_id,))
        if isinstance(last, int) and message.drm_time <= last:
            raise Replay("drm_time is not newer than the last accepted")
        self._journal.put("drm-time", (message.rights_issuer_id,), message.drm_time)
        self._journal.put("chain", (message.rights_issuer_id,), chain)
        if clear.status != 0 or clear.keyset_items is None:
            return False
        if message.message_tag is RegistrationTag.device_registration_response:
            self._install(clear)
        else:
            self._install_domain(clear)
        return True

    def _install(self, clear: ClearRegistrationResponse) -> None:
        ks = KeySet(clear.rights_issuer_id)
        sgks: dict[int, SGK] = {}
        for item in clear.keyset_items or ():
            value = item.value.reveal()
            match item.tag:
                case KeysetTag.UGK:
                    ks = replace(ks, ugk=UGK(value))
                case KeysetTag.UDK:
                    ks = replace(ks, udk=UDK(value))
                case KeysetTag.SGK:
                    sgks[value[0]] = SGK(value[1:])
                case KeysetTag.RIAK:
                    ks = replace(ks, riaks=(*ks.riaks, RIAK(value)))
                case KeysetTag.UDF:
                    ks = replace(
                        ks, group_address=value[:4], group_size_flag=bool(value[4]), position=int.from_bytes(value[5:], "big")
                    )
        ks = replace(ks, sgks=tuple(sgks[level] for level in sorted(sgks)))
        self._journal.put("keyset", (clear.rights_issuer_id,), ks)

    def _install_domain(self, clear: ClearRegistrationResponse) -> None:
        items = {item.tag: item.value.reveal() for item in clear.keyset_items or ()}
        bdk, riak = items.get(KeysetTag.BDK), items.get(KeysetTag.RIAK)
        if bdk is None or riak is None:
            raise BadValue(None, "keyset_items", "BDK and RIAK of a domain", "one of them missing")
        self._journal.put("domain", (bdk[:6], int.from_bytes(bdk[6:8], "big")), DomainKey(BDK(bdk[8:]), RIAK(riak)))

    # --- LTKM (F2) ----------------------------------------------------------------------------------------------------

    def _keysets(self) -> list[KeySet]:
        return list(self._journal.tables.get("keyset", {}).values())  # type: ignore[arg-type]  # the table holds nothing else

    def _keys_for(self, bcro: Bcro) -> tuple[IEK, RIAK, tuple[object, ...]]:
        """IEK, RIAK and the address for a BCRO that is for this device; ``KeyUnavailable`` when it is not."""
        if bcro.address_mode is AddressMode.DOMAIN:
            address = (bcro.domain_id, bcro.domain_generation)
            domain = self._journal.tables.get("domain", {}).get(address)
            if isinstance(domain, DomainKey):
                return IEK(domain.bdk), domain.riak, address
            raise KeyUnavailable("bdk")
        for ks in self._keysets():
            if (ks.group_address, ks.group_size_flag) != (bcro.group_address, bcro.group_size_flag) or not ks.riaks:
                continue
            if bcro.rights_issuer_id is not None and bcro.rights_issuer_id != ks.issuer:
                continue
            address = (ks.group_address, None)
            if bcro.address_mode is AddressMode.WHOLE_GROUP and ks.ugk is not None:
                return IEK(ks.ugk), ks.riaks[-1], address
            if bcro.address_mode is AddressMode.UNIQUE_DEVICE and bcro.position_in_group == ks.position and ks.udk is not None:
                return IEK(ks.udk), ks.riaks[0], (ks.group_address, ks.position)
            if bcro.address_mode is AddressMode.SUBSET and ks.position is not None and bcro.bit_access_mask is not None:
                member = Member(ks.position, 512 if ks.group_size_flag else 256, ks.sgks)
                return member.iek(bcro.bit_access_mask), ks.riaks[-1], address
        raise KeyUnavailable("iek")

    def ltkm(self, data: bytes) -> None:
        """Take a BCRO.  One that addresses others is ``KeyUnavailable`` and moves nothing (R21)."""
        sealed = codec.decode(data, "drm-ltkm")
        assert isinstance(sealed, Bcro)
        iek, riak, address = self._keys_for(sealed)
        clear = codec.open(data, Keys(iek=iek, riak=riak), "drm-ltkm")
        assert isinstance(clear, ClearBcro)
        stamp = clear.bcro_timestamp
        if stamp is None:
            raise BadValue(None, "bcro_timestamp", "a timestamp (R21)", "none")
        marks = self._journal.tables.get("bcro", {})
        digest = hashlib.sha256(data).digest()
        for asset in clear.assets:
            last = marks.get((address, asset.BCI))
            if isinstance(last, tuple) and (stamp < last[0] or (stamp == last[0] and digest != last[1])):
                raise Replay("bcro_timestamp is not newer than the last accepted")
        for asset in clear.assets:
            self._journal.put("bcro", (address, asset.BCI), (stamp, digest))
            self._journal.put(
                "right",
                (asset.BCI, address),
                Right(asset.key, asset.asset_is_service, clear.permissions, stamp, clear.refresh_time),
            )

    # --- STKM ---------------------------------------------------------------------------------------------------------

    def _usable(self, bci: bytes, is_service: bool, now: float) -> Secret | None:
        """The key of an asset whose rights permit live access now."""
        for (held, _), right in self._journal.tables.get("right", {}).items():
            if held == bci and isinstance(right, Right) and right.is_service == is_service and self._permits(right, now):
                return right.key
        return None

    @staticmethod
    def _permits(right: Right, now: float) -> bool:
        if right.refresh_time is not None and now > right.refresh_time:
            return False  # R21: not used after it without a newer one
        for permission in right.permissions:
            if permission.action != ACCESS:
                continue
            limits = {c.type: c.value for c in permission.constraints}
            if limits.keys() & {_COUNT, _INTERVAL, _TOKENS}:
                continue  # stateful constraints on live access need a meter that this device does not have
            if _START in limits and now < decode_mjd_bcd(limits[_START]):
                continue
            if _END in limits and now >= decode_mjd_bcd(limits[_END]):
                continue
            return True
        return False

    def stkm(self, data: bytes, *, stream: tuple[object, ...], socID: str, serviceBaseCID: str, now: float) -> ClearDrmStkm:
        """Open a STKM of ``stream`` (its destination, port and streamid) with a right that permits live access now."""
        sealed = codec.decode(data, "drm-stkm")
        assert isinstance(sealed, DrmStkm)
        if sealed.timestamp is None:
            raise BadValue(None, "timestamp", "a timestamp (R14)", "none")
        seak = peak = None
        if sealed.service_CID_extension is not None:
            seak = self._usable(BCI(socID, serviceBaseCID, sealed.service_CID_extension), True, now)
        if sealed.programme_CID_extension is not None:
            peak = self._usable(BCI(socID, serviceBaseCID, sealed.programme_CID_extension), False, now)
        if seak is None and peak is None:
            raise KeyUnavailable("seak")
        extensions = (("service", sealed.service_CID_extension), ("programme", sealed.programme_CID_extension))
        marks = [(*stream, *extension) for extension in extensions if extension[1] is not None]
        digest = hashlib.sha256(data).digest()
        for mark in marks:
            last = self._journal.tables.get("stkm", {}).get(mark)
            if isinstance(last, tuple) and (sealed.timestamp < last[0] or (sealed.timestamp == last[0] and digest != last[1])):
                raise Replay("STKM timestamp went backwards, or repeats with other bytes")
        keys = Keys(seak=None if seak is None else SEAK(seak), peak=None if peak is None else PEAK(peak))
        clear = codec.open(data, keys, "drm-stkm")
        assert isinstance(clear, ClearDrmStkm)
        for mark in marks:
            self._journal.put("stkm", mark, (sealed.timestamp, digest))
        return clear
