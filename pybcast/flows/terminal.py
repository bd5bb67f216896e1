# SPDX-License-Identifier: Apache-2.0
"""A terminal: hears STKMs, LTKMs and registration material, and turns them into traffic keys it is entitled to.

Holds the rules of reception: collect before opening (R6, R7), order by COUNTER or timestamp, nothing from the future while
dark, TEKs kept until their lifetime ends (R42).  What a key may open is decided by the card (Smartcard Profile) or the DRM
agent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pybcast import codec
from pybcast.errors import BadValue, BcastError, KeyUnavailable, WireError
from pybcast.flows.card import Card
from pybcast.flows.config import CAROUSEL_CYCLE, TUNE_IN
from pybcast.flows.device import Device
from pybcast.flows.events import Answer, Journal, Output, Refused, TekExpired, TekReady
from pybcast.flows.serial import near
from pybcast.flows.spcp import Profile
from pybcast.flows.tables import RECEPTION, Reception, ReceptionEvent, step
from pybcast.keys import TAS, TEK, ipsec_auth_key_drm, ipsec_auth_key_smartcard, ipsec_spi, key_indicator, mki
from pybcast.messages import FIRST_BYTE, ClearDrmStkm, ClearSmartcardStkm, DrmStkm, Kind, Protocol, SmartcardStkm
from pybcast.secret import Secret

PARENTAL_RATING: Final = 0x01  # access criteria tag - confidence: likely
MAX_COLLECTED: Final = 64
"""Different STKMs held while collecting, and LTKMs per carousel cycle and sender: more is an attack or a misconfigured stream."""
MAX_OBJECTS: Final = 4096


@dataclass(frozen=True)
class Tuning:
    """What a terminal learns of a STKM stream from the SDP.

    ``where``: destination and port (part of the replay key, R14).  ``socID``, ``serviceBaseCID``: DRM Profile.  ``protocol``,
    ``lifetime`` (exponent): used when a Smartcard STKM has no management data (R18).
    """

    service: str
    stream: int
    where: tuple[str, int] = ("", 0)
    socID: str = ""
    serviceBaseCID: str = ""
    protocol: Protocol = Protocol.SRTP
    lifetime: int = 6


@dataclass(frozen=True)
class HeldTek:
    """A traffic key that was opened, and until when it may be used (R42)."""

    tek: Secret
    salt: bytes | None
    auth_key: Secret | None
    until: float


@dataclass
class _Stream:
    tuning: Tuning
    state: Reception = Reception.DARK
    deadline: float | None = None
    heard: dict[bytes, bytes] = field(default_factory=dict)
    done: dict[bytes, float] = field(default_factory=dict)


class Terminal:
    """One terminal of one profile.

    Exactly one of ``card`` (Smartcard Profile) and ``device`` (DRM Profile).  ``parental``: rating type -> highest rating it
    may show. ``cycle``: seconds an LTKM carousel takes (R7).  ``state``: what was persisted, without the card's or device's own
    memory.
    """

    def __init__(
        self,
        *,
        card: Card | None = None,
        device: Device | None = None,
        parental: Mapping[int, int] | None = None,
        cycle: float = CAROUSEL_CYCLE,
        state: dict[str, dict[tuple[object, ...], object]] | None = None,
    ) -> None:
        if (card is None) == (device is None):
            raise ValueError("a terminal has a card or a device, not both")
        self._card, self._device = card, device
        self._parental = dict(parental or {})
        self._cycle = cycle
        self._journal = Journal(state)
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._objects: list[bytes] = []
        self._objects_seen: dict[bytes, float] = {}
        self._objects_due: float | None = None

    @property
    def profile(self) -> Profile:
        return "smartcard" if self._card is not None else "drm"

    # --- inputs -------------------------------------------------------------------------------------------------------

    def tune(self, tuning: Tuning, now: float) -> list[Output]:
        """Begin to listen to a STKM stream.  A TEK of it that still lives is used at once (R42)."""
        stream = self._streams.setdefault((tuning.service, tuning.stream), _Stream(tuning))
        stream.tuning = tuning
        if self._live(tuning.service, tuning.stream, now) and stream.state is Reception.DARK:
            stream.state = step(RECEPTION, step(RECEPTION, stream.state, ReceptionEvent.STKM), ReceptionEvent.OPENED)
        return self._take()

    def tune_out(self, service: str, stream: int) -> list[Output]:
        """Stop listening; TEKs are kept for a return (R42)."""
        held = self._streams.get((service, stream))
        if held is not None:
            held.state = step(RECEPTION, held.state, ReceptionEvent.TUNE_OUT)
            held.heard.clear()
            held.deadline = None
            del self._streams[service, stream]
        return self._take()

    def receive_stkm(self, service: str, stream: int, data: bytes, now: float) -> list[Output]:
        """One datagram of a STKM stream (or one answer of the interaction channel)."""
        held = self._streams.get((service, stream))
        if held is None:
            return []
        digest = hashlib.sha256(data).digest()
        if digest in held.heard or held.done.get(digest, now) > now:
            return self._take()  # a repetition
        held.state = step(RECEPTION, held.state, ReceptionEvent.STKM)
        if len(held.heard) < MAX_COLLECTED:
            held.heard[digest] = data
        if held.state is Reception.COLLECTING:
            if held.deadline is None:
                held.deadline = now + TUNE_IN
        else:
            self._open_heard(held, now)
        return self._take()

    def receive_object(self, data: bytes, now: float) -> list[Output]:
        """One LTKM or registration object from the carousel or the interaction channel (R7, R22)."""
        digest = hashlib.sha256(data).digest()
        if digest in self._objects_seen:
            return []
        if len(self._objects_seen) >= MAX_OBJECTS:
            self._objects_seen.pop(next(iter(self._objects_seen)))
        self._objects_seen[digest] = now
        kind = FIRST_BYTE.get(data[0] if data else -1)
        if kind in ("drm-registration", "smartcard-registration"):
            self._register(kind, data, now)
        elif len(self._objects) < MAX_OBJECTS:
            self._objects.append(data)
            if self._objects_due is None:
                self._objects_due = now + self._cycle
        return self._take()

    def tick(self, now: float) -> list[Output]:
        """Let time pass: collections end, TEKs expire."""
        if self._objects_due is not None and now >= self._objects_due:
            self._objects_due = None
            self._feed(now)
        for held in self._streams.values():
            if held.deadline is not None and now >= held.deadline:
                held.deadline = None
                self._open_heard(held, now, collected=True)
                if held.state is Reception.COLLECTING:
                    held.state = step(RECEPTION, held.state, ReceptionEvent.NOTHING)
                    if held.heard:  # what lies in the future is looked at again
                        held.state = step(RECEPTION, held.state, ReceptionEvent.STKM)
                        held.deadline = now + TUNE_IN
        for key, row in list(self._journal.tables.get("tek", {}).items()):
            assert isinstance(row, HeldTek)
            if now >= row.until:
                service, number, name = key
                assert isinstance(service, str) and isinstance(number, int) and isinstance(name, bytes)
                self._journal.drop("tek", key)
                self._journal.emit(TekExpired(service, number, name))
                stream = self._streams.get((service, number))
                if stream is not None and stream.state is Reception.PLAYING and not self._live(service, number, now):
                    stream.state = step(RECEPTION, stream.state, ReceptionEvent.EXPIRED)
        for held in self._streams.values():
            for digest, until in list(held.done.items()):
                if now >= until:
                    del held.done[digest]
        return self._take()

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [held.deadline for held in self._streams.values() if held.deadline is not None]
        times += [row.until for row in self._journal.tables.get("tek", {}).values() if isinstance(row, HeldTek)]
        if self._objects_due is not None:
            times.append(self._objects_due)
        return min(times, default=None)

    # --- registration and LTKMs ---------------------------------------------------------------------------------------

    def _register(self, kind: Kind, data: bytes, now: float) -> None:
        try:
            if kind == "drm-registration" and self._device is not None:
                self._device.register(data, now)
            elif kind == "smartcard-registration" and self._card is not None:
                self._card.register(data, now)
        except BcastError as error:
            self._journal.emit(Refused(kind, error))

    def _feed(self, now: float) -> None:
        """One cycle has been collected: LTKMs go to the card in rising COUNTER (R7), BCROs to the agent in rising timestamp."""
        objects, self._objects = self._objects, []
        kind: Kind = "smartcard-ltkm" if self._card is not None else "drm-ltkm"
        ordered: list[tuple[int, bytes]] = []
        for data in objects:
            if (FIRST_BYTE.get(data[0] if data else -1) == "drm-ltkm") != (self._device is not None):
                continue  # the other profile's
            try:
                ordered.append((self._rank(data), data))
            except WireError as error:
                self._journal.emit(Refused(kind, error))
        for _, data in sorted(ordered):
            try:
                if self._card is not None:
                    answer = self._card.ltkm(data)
                    if answer is not None:
                        self._journal.emit(Answer(answer))
                elif self._device is not None:
                    self._device.ltkm(data)
            except BcastError as error:
                self._journal.emit(Refused(kind, error))
        for digest, heard in list(self._objects_seen.items()):
            if now - heard > self._cycle * 10:
                del self._objects_seen[digest]

    def _rank(self, data: bytes) -> int:
        if self._device is not None:
            return getattr(codec.decode(data, "drm-ltkm"), "bcro_timestamp", None) or 0
        for payload in getattr(codec.decode(data, "mikey"), "payloads", ()):
            if getattr(payload, "ts_type", None) == 2:
                return int.from_bytes(payload.ts_value, "big")
        raise BadValue(None, "payloads", "a COUNTER", "none")

    # --- STKMs --------------------------------------------------------------------------------------------------------

    def _live(self, service: str, stream: int, now: float) -> bool:
        return any(
            key[:2] == (service, stream) and isinstance(row, HeldTek) and now < row.until
            for key, row in self._journal.tables.get("tek", {}).items()
        )

    def _open_heard(self, held: _Stream, now: float, collected: bool = False) -> None:
        """Open what was heard, oldest first.

        What lies in the future stays while nothing plays (R6); while something plays it waits half of its time to go, at most a
        tune-in, because an older one that was lost until now could no longer be opened after it.
        """
        ordered: list[tuple[int, bytes, bytes]] = []
        for digest, data in list(held.heard.items()):
            try:
                ordered.append((self._when(data, now), digest, data))
            except WireError as error:
                del held.heard[digest]
                held.done[digest] = now + 2 * TUNE_IN
                self._journal.emit(Refused(self._stkm_kind, error))
        for when, digest, data in sorted(ordered):
            if when > now:  # R6: the STKM of the running period goes first
                if not self._live(held.tuning.service, held.tuning.stream, now):
                    continue
                if not collected:
                    held.deadline = held.deadline or now + min(TUNE_IN, (when - now) / 2)
                    continue
            del held.heard[digest]
            try:
                until = self._open(held, data, now)
            except KeyUnavailable as error:  # its LTKM may be on its way: look again when it is heard again
                held.done[digest] = now + TUNE_IN
                self._journal.emit(Refused(self._stkm_kind, error))
            except BcastError as error:
                held.done[digest] = now + 2 * self._cycle
                self._journal.emit(Refused(self._stkm_kind, error))
            else:
                held.done[digest] = until
                held.state = step(RECEPTION, held.state, ReceptionEvent.OPENED)

    @property
    def _stkm_kind(self) -> Kind:
        return "smartcard-stkm" if self._card is not None else "drm-stkm"

    def _when(self, data: bytes, now: float) -> int:
        message = codec.decode(data, self._stkm_kind)
        if isinstance(message, SmartcardStkm):
            return near(message.counter, now)
        if isinstance(message, DrmStkm) and message.timestamp is not None:
            return message.timestamp
        raise BadValue(None, "timestamp", "a complete STKM with a timestamp (R13, R14)", "another")

    def _open(self, held: _Stream, data: bytes, now: float) -> float:
        tuning = held.tuning
        if self._card is not None:
            clear = self._card.stkm(data)
            protocol = clear.management.traffic_protection_protocol if clear.management else tuning.protocol
            lifetime = clear.management.traffic_key_lifetime if clear.management else tuning.lifetime
            self._check_criteria(clear)
            name = self._smartcard_id(clear, protocol)
            auth = None
            if protocol is Protocol.IPSEC and clear.management and clear.management.traffic_authentication_flag:
                csb_id = self._card.csb_id(clear.key_domain_id, clear.sek_id)
                assert csb_id is not None  # it has just opened
                auth = ipsec_auth_key_smartcard(TEK(clear.tek), csb_id)
            row = HeldTek(clear.tek, clear.salt, auth, now + (1 << lifetime))
        else:
            assert self._device is not None
            where = (*tuning.where, tuning.stream, tuning.service)
            opened = self._device.stkm(data, stream=where, socID=tuning.socID, serviceBaseCID=tuning.serviceBaseCID, now=now)
            self._check_criteria(opened)
            name, material = opened.id, opened.traffic_key_material.reveal()
            auth = ipsec_auth_key_drm(TAS(material[16:])) if len(material) == 32 else None
            row = HeldTek(TEK(material[:16]), opened.salt, auth, now + (1 << opened.traffic_key_lifetime))
        self._journal.put("tek", (tuning.service, tuning.stream, name), row)
        self._journal.emit(TekReady(tuning.service, tuning.stream, name, row.tek, row.salt, row.auth_key, row.until))
        return row.until

    @staticmethod
    def _smartcard_id(clear: ClearSmartcardStkm, protocol: Protocol) -> bytes:
        if protocol is Protocol.IPSEC:
            return ipsec_spi(clear.sek_id, clear.tek_id)
        return mki(clear.sek_id, clear.tek_id) if protocol is Protocol.SRTP else key_indicator(clear.sek_id, clear.tek_id)

    def _check_criteria(self, clear: ClearDrmStkm | ClearSmartcardStkm) -> None:
        criteria = (
            clear.access_criteria if isinstance(clear, ClearDrmStkm) else clear.management and clear.management.access_criteria
        )
        for criterion in criteria or ():
            if criterion.tag == PARENTAL_RATING and len(criterion.value) == 2:
                rating_type, rating = criterion.value
                if rating > self._parental.get(rating_type, 255):
                    raise KeyUnavailable("parental rating")

    def _take(self) -> list[Output]:
        agent: list[Output] = []
        for source in (self._card, self._device):
            take = getattr(source, "take", None)
            if take is not None:
                agent += take()
        return [*agent, *self._journal.take()]
