# SPDX-License-Identifier: Apache-2.0
"""The DRM agent of a DRM Profile terminal: what a device keeps and decides (R14, R21, R23).

Its memory: the key set from registration, one entry for each asset of the rights objects that addressed it, and replay marks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pybcast import codec
from pybcast.errors import BadValue, KeyUnavailable, Replay
from pybcast.flows.events import Output
from pybcast.flows.journal import Journal, RowKey, State, Table
from pybcast.keys import BDK, IEK, PEAK, RIAK, SEAK, SGK, UDK, UGK, Keys, Member
from pybcast.keys.groups import GroupSize
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
from pybcast.wire.content_id import BCI
from pybcast.wire.times import decode_mjd_bcd

ACCESS: Final = 1
EVERYONE: Final = "F" * 20
_COUNT, _START, _END, _INTERVAL, _TOKENS = 1, 2, 3, 4, 5
_Asset = TypeVar("_Asset", SEAK, PEAK)

MAX_RIGHTS: Final = 1024
"""Assets that a device keeps rights for: years of one service, or a day of very many.  The oldest goes first."""


@dataclass(frozen=True)
class KeySet:
    """What a device got at registration.  ``riaks``: the device's own first, then the group's (R21) - the order is own."""

    issuer: bytes
    group_address: bytes
    size: GroupSize
    position: int
    riaks: tuple[RIAK, ...]
    ugk: UGK | None = None
    udk: UDK | None = None
    sgks: tuple[SGK, ...] = ()

    def member(self) -> Member:
        """This device in its group's tree; ``WireError`` when position and keys do not fit the group."""
        return Member(self.position, self.size, self.sgks)


@dataclass(frozen=True)
class DomainKey:
    """Membership of one broadcast domain."""

    bdk: BDK
    riak: RIAK


@dataclass(frozen=True)
class Right:
    """One asset of a BCRO that addressed this device."""

    key: SEAK | PEAK
    permissions: tuple[Permission, ...]
    timestamp: int
    refresh_time: int | None


@dataclass(frozen=True)
class Mark:
    """The newest message accepted of a kind: its time, and its SHA-256, for the equal one must be identical (R14, R21)."""

    timestamp: int
    digest: bytes

    def refuses(self, timestamp: int, digest: bytes) -> bool:
        return timestamp < self.timestamp or (timestamp == self.timestamp and digest != self.digest)


KEYSETS: Final = Table("keyset", KeySet, "issuer")
DOMAINS: Final = Table("domain", DomainKey, "domain_id generation")
RIGHTS: Final = Table("right", Right, "bci address")
BCROS: Final = Table("bcro", Mark, "address bci")
BCRO_FLOORS: Final = Table("bcro-floor", int, "address")
STKMS: Final = Table("stkm", Mark, "stream bci")
CHAINS: Final = Table("chain", tuple, "issuer")
DRM_TIMES: Final = Table("drm-time", int, "issuer")


class Device:
    """A DRM Profile device.  ``udn``: 20 digits; ``anchors``: DER of the trusted roots of rights issuers.

    Every refusal is a typed error and changes nothing.
    """

    def __init__(
        self,
        *,
        udn: str,
        key: RSAPrivateKey,
        anchors: Sequence[bytes],
        state: State | None = None,
    ) -> None:
        self.udn = udn
        self._key = key
        self._anchors = tuple(anchors)
        self._journal = Journal(state)
        self._keysets = self._journal.open(KEYSETS)
        self._domains = self._journal.open(DOMAINS)
        self._rights = self._journal.open(RIGHTS)
        self._bcros = self._journal.open(BCROS)
        self._bcro_floors = self._journal.open(BCRO_FLOORS)
        self._stkms = self._journal.open(STKMS)
        self._chains = self._journal.open(CHAINS)
        self._drm_times = self._journal.open(DRM_TIMES)

    def take(self) -> list[Output]:
        """What to persist since the last call."""
        return self._journal.take()

    def openable(self) -> frozenset[bytes]:
        """The CID extension of every asset it holds rights for: an STKM without one of them cannot be opened."""
        return frozenset(key[0][-4:] for key in self._rights.all() if isinstance(key[0], bytes))

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
        chain = message.certificates or self._chains.get((message.rights_issuer_id,))
        if chain is None:
            raise KeyUnavailable("rights issuer certificate")
        issuer_key = codec.verify_chain(chain, self._anchors, int(now))  # open() holds it against rights_issuer_id
        clear = codec.open(data, Keys(device_key=self._key, rights_issuer_key=issuer_key), "drm-registration")
        assert isinstance(clear, ClearRegistrationResponse)
        last = self._drm_times.get((message.rights_issuer_id,))
        if last is not None and message.drm_time <= last:
            raise Replay("drm_time is not newer than the last accepted")
        # The keys first, what refuses a repeat last: a crash in between must not leave a device that drops its only registration.
        installed = clear.status == 0 and clear.keyset_items is not None
        if installed and message.message_tag is RegistrationTag.device_registration_response:
            self._install(clear)
        elif installed:
            self._install_domain(clear)
        self._chains.put((message.rights_issuer_id,), chain)
        self._drm_times.put((message.rights_issuer_id,), message.drm_time)
        return installed

    def _install(self, clear: ClearRegistrationResponse) -> None:
        items: dict[int, list[bytes]] = {}
        for item in clear.keyset_items or ():  # unknown items are skipped (R23)
            items.setdefault(item.tag, []).append(item.value.reveal())
        udf, riaks = items.get(KeysetTag.UDF), items.get(KeysetTag.RIAK)
        if udf is None or riaks is None:
            raise BadValue(None, "keyset_items", "UDF and RIAK of a device", "one of them missing")
        ugks, udks = (items.get(tag, []) for tag in (KeysetTag.UGK, KeysetTag.UDK))
        ks = KeySet(
            clear.rights_issuer_id,
            group_address=udf[-1][:4],
            size=512 if udf[-1][4] else 256,
            position=int.from_bytes(udf[-1][5:], "big"),
            riaks=tuple(map(RIAK, riaks)),
            ugk=UGK(ugks[-1]) if ugks else None,
            udk=UDK(udks[-1]) if udks else None,
            sgks=tuple(SGK(value[1:]) for value in sorted(items.get(KeysetTag.SGK, []), key=lambda value: value[0])),
        )
        ks.member()
        self._keysets.put((clear.rights_issuer_id,), ks)

    def _install_domain(self, clear: ClearRegistrationResponse) -> None:
        items = {item.tag: item.value.reveal() for item in clear.keyset_items or ()}
        bdk, riak = items.get(KeysetTag.BDK), items.get(KeysetTag.RIAK)
        if bdk is None or riak is None:
            raise BadValue(None, "keyset_items", "BDK and RIAK of a domain", "one of them missing")
        self._domains.put((bdk[:6], int.from_bytes(bdk[6:8], "big")), DomainKey(BDK(bdk[8:]), RIAK(riak)))

    # --- LTKM (F2) ----------------------------------------------------------------------------------------------------

    def addressed(self, bcro: Bcro) -> bool:
        """Whether a BCRO is for this device, as far as its address says; anything may be, before registration."""
        if bcro.address_mode is AddressMode.DOMAIN:
            return (bcro.domain_id, bcro.domain_generation) in self._domains.all()
        keysets = self._keysets.all().values()
        return not keysets or any(self._in(ks, bcro) for ks in keysets)

    @staticmethod
    def _in(ks: KeySet, bcro: Bcro) -> bool:
        if (ks.group_address, ks.size == 512) != (bcro.group_address, bcro.group_size_flag):
            return False
        if bcro.rights_issuer_id not in (None, ks.issuer):
            return False
        if bcro.address_mode is AddressMode.UNIQUE_DEVICE:
            return bcro.position_in_group == ks.position
        if bcro.address_mode is AddressMode.SUBSET:
            assert bcro.bit_access_mask is not None
            return bool(bcro.bit_access_mask[ks.position // 8] & 0x80 >> ks.position % 8)
        return True

    def _keys_for(self, bcro: Bcro) -> tuple[IEK, RIAK, RowKey]:
        """IEK, RIAK and the address for a BCRO that is for this device; ``KeyUnavailable`` when it is not."""
        if bcro.address_mode is AddressMode.DOMAIN:
            address: RowKey = (bcro.domain_id, bcro.domain_generation)
            domain = self._domains.get(address)
            if domain is None:
                raise KeyUnavailable("bdk")
            return IEK(domain.bdk), domain.riak, address
        for ks in self._keysets.all().values():
            if not self._in(ks, bcro):
                continue
            address = (ks.group_address, None)
            if bcro.address_mode is AddressMode.WHOLE_GROUP and ks.ugk is not None:
                return IEK(ks.ugk), ks.riaks[-1], address
            if bcro.address_mode is AddressMode.UNIQUE_DEVICE and ks.udk is not None:
                return IEK(ks.udk), ks.riaks[0], (ks.group_address, ks.position)
            if bcro.bit_access_mask is not None:  # mode 1 has one
                return ks.member().iek(bcro.bit_access_mask), ks.riaks[-1], address
        raise KeyUnavailable("iek")

    def ltkm(self, data: bytes, now: float = 0.0) -> None:
        """Take a BCRO, whatever time it is.  One that addresses others is ``KeyUnavailable`` and moves nothing (R21)."""
        clear, address = self._opened(data)
        stamp = clear.bcro_timestamp
        if stamp is None:
            raise BadValue(None, "bcro_timestamp", "a timestamp (R21)", "none")
        mark = Mark(stamp, hashlib.sha256(data).digest())
        floor = self._bcro_floors.get(address)
        for asset in clear.assets:
            last = self._bcros.get((address, asset.BCI))
            if (last is None and floor is not None and stamp <= floor) or (last is not None and last.refuses(stamp, mark.digest)):
                raise Replay("bcro_timestamp is not newer than the last accepted")
        for asset in clear.assets:
            key = SEAK(asset.key) if asset.asset_is_service else PEAK(asset.key)
            self._rights.put((asset.BCI, address), Right(key, clear.permissions, stamp, clear.refresh_time))
            self._bcros.put((address, asset.BCI), mark)
        self._make_room()

    def examine(self, data: bytes, now: float = 0.0) -> None:
        """Refuse a BCRO that is not for this device or not authentic; take nothing."""
        self._opened(data)

    def _opened(self, data: bytes) -> tuple[ClearBcro, RowKey]:
        sealed = codec.decode(data, "drm-ltkm")
        assert isinstance(sealed, Bcro)
        iek, riak, address = self._keys_for(sealed)
        clear = codec.open(data, Keys(iek=iek, riak=riak), "drm-ltkm")
        assert isinstance(clear, ClearBcro)
        return clear, address

    def _make_room(self) -> None:
        """Forget the oldest rights beyond ``MAX_RIGHTS``, with their marks; a floor keeps what is as old from coming back."""
        rights = sorted(self._rights.all().items(), key=lambda item: item[1].timestamp)
        for key, right in rights[: max(0, len(rights) - MAX_RIGHTS)]:
            bci, address = key
            assert isinstance(address, tuple)
            self._bcro_floors.put(address, right.timestamp)
            self._rights.drop(key)
            self._bcros.drop((address, bci))
            for mark in [m for m in self._stkms.all() if m[-1] == bci]:
                self._stkms.drop(mark)

    # --- STKM ---------------------------------------------------------------------------------------------------------

    def _usable(self, bci: bytes, kind: type[_Asset], now: float) -> _Asset | None:
        """The key of an asset that may be seen live now; of several rights (the device's, its group's, a domain's) the newest."""
        found = [
            (right.timestamp, right.key)
            for right in self._rights.under((bci,)).values()
            if isinstance(right.key, kind) and self._permits(right, now)
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    @staticmethod
    def _permits(right: Right, now: float) -> bool:
        if right.refresh_time is not None and now > right.refresh_time:
            return False  # R21: not used after it without a newer one
        for permission in right.permissions:
            limits = {c.type: c.value for c in permission.constraints}
            if permission.action != ACCESS or limits.keys() & {_COUNT, _INTERVAL, _TOKENS}:
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
        seak, peak, names = None, None, []
        if sealed.service_CID_extension is not None:
            bci = bytes(BCI(socID, serviceBaseCID, sealed.service_CID_extension))
            seak = self._usable(bci, SEAK, now)
            names += [bci] if seak is not None else []
        if sealed.programme_CID_extension is not None:
            bci = bytes(BCI(socID, serviceBaseCID, sealed.programme_CID_extension))
            peak = self._usable(bci, PEAK, now)
            names.append(bci)
        if seak is None and peak is None:
            raise KeyUnavailable("seak")
        # R14's CID extension, as part of the BCI.  programme_MAC does not cover the service's: without SEAK it moves no mark (R12).
        marks = [(*stream, name) for name in names]
        mark = Mark(sealed.timestamp, hashlib.sha256(data).digest())
        for key in marks:
            last = self._stkms.get(key)
            if last is not None and last.refuses(mark.timestamp, mark.digest):
                raise Replay("STKM timestamp went backwards, or repeats with other bytes")
        clear = codec.open(data, Keys(seak=seak, peak=peak), "drm-stkm")
        assert isinstance(clear, ClearDrmStkm)
        for key in marks:
            self._stkms.put(key, mark)
        return clear
