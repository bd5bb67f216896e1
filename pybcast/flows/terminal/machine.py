# SPDX-License-Identifier: Apache-2.0
"""The terminal as a machine: its inputs, and the STKM streams that it listens to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pybcast import codec
from pybcast.errors import BadValue, BcastError, KeyUnavailable, Replay, WireError
from pybcast.flows.events import Output, Refused, TekExpired, TekReady
from pybcast.flows.journal import Journal, RowKey, State, Table
from pybcast.flows.peers.messages import Profile
from pybcast.flows.serial import near
from pybcast.flows.stream.config import CAROUSEL_CYCLE, TUNE_IN
from pybcast.flows.tables import RECEPTION, Reception, ReceptionEvent, step
from pybcast.flows.terminal.card import Card, check_parental
from pybcast.flows.terminal.device import Device
from pybcast.flows.terminal.objects import Objects
from pybcast.keys import SRK, TAS, TEK, ipsec_auth_key_drm, ipsec_auth_key_smartcard, ipsec_spi, key_indicator, mki
from pybcast.messages import DrmStkm, Kind, Protocol, SmartcardStkm
from pybcast.secret import Secret
from pybcast.wire.smartcard import TEK_SALT_DATA

MAX_COLLECTED: Final = 64
"""Different STKMs held while collecting: a stream has two on air, more is an attack.  Then the collection ends at once."""
MAX_DONE: Final = 1024
"""STKMs of a stream that need no second look; beyond, the oldest gets one."""


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
    """A traffic key that was opened, until when it may be used (R42), and which STKM it came from: start and SHA-256."""

    tek: Secret
    salt: bytes | None
    auth_key: Secret | None
    until: float
    start: int
    digest: bytes
    protocol: Protocol = Protocol.SRTP


TEKS: Final = Table("tek", HeldTek, "service stream mki")
SPENT: Final = Table("spent", int, "service stream")


@dataclass(frozen=True)
class _Heard:
    """A STKM that waits to be opened; ``start`` of its period, 64-bit NTP seconds."""

    start: int
    data: bytes
    message: SmartcardStkm | DrmStkm


@dataclass
class _Stream:
    tuning: Tuning
    state: Reception = Reception.DARK
    deadline: float | None = None
    heard: dict[bytes, _Heard] = field(default_factory=dict)
    done: dict[bytes, float] = field(default_factory=dict)
    locked: dict[bytes, _Heard] = field(default_factory=dict)


def _ready(name: RowKey, row: HeldTek) -> TekReady:
    service, stream, mki = name
    assert isinstance(service, str) and isinstance(stream, int) and isinstance(mki, bytes)
    return TekReady(service, stream, mki, row.tek, row.salt, row.auth_key, row.until, row.protocol)


class Terminal:
    """One terminal of one profile.

    Exactly one of ``card`` (Smartcard Profile) and ``device`` (DRM Profile).  ``parental``: rating type -> highest rating it
    may show. ``cycle``: seconds an LTKM carousel takes (R7).  ``state``: what was persisted (what belongs to the card or device in
    it is left alone).
    """

    def __init__(
        self,
        *,
        card: Card | None = None,
        device: Device | None = None,
        parental: Mapping[int, int] | None = None,
        cycle: float = CAROUSEL_CYCLE,
        state: State | None = None,
    ) -> None:
        agent = device if card is None else card
        if agent is None or (card is not None and device is not None):
            raise ValueError("a terminal has a card or a device, not both")
        self._card, self._device, self._agent = card, device, agent
        self._parental = dict(parental or {})
        self._cycle = cycle
        self._journal = Journal(state)
        self._held_teks = self._journal.open(TEKS)
        self._spent = self._journal.open(SPENT)
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._objects = Objects(agent, self._journal, cycle)

    @property
    def profile(self) -> Profile:
        return "smartcard" if self._card is not None else "drm"

    def openable(self) -> frozenset[bytes]:
        """Every STKM that could be opened now holds one of these: SEK IDs, or CID extensions.  For a filter before this."""
        return self._agent.openable()

    def account(self) -> tuple[str, SRK] | None:
        """User and password for the interaction channel: a registered card's (R35)."""
        return None if self._card is None else self._card.account()

    def held(self, now: float) -> list[TekReady]:
        """Every traffic key that may be used now, oldest first: what a player is told after a restart (R42)."""
        rows = [(name, row) for name, row in self._held_teks.all().items() if now < row.until]
        return [_ready(name, row) for name, row in sorted(rows, key=lambda item: item[1].start)]

    # --- inputs -------------------------------------------------------------------------------------------------------

    def tune(self, tuning: Tuning, now: float) -> list[Output]:
        """Begin to listen to a STKM stream.  A TEK of it that still lives is used at once (R42)."""
        self._objects.begin(now)
        stream = self._streams.setdefault((tuning.service, tuning.stream), _Stream(tuning))
        stream.tuning = tuning
        if stream.state is Reception.DARK and self._live(stream, now):
            stream.state = step(RECEPTION, stream.state, ReceptionEvent.RETURN)
        return self._take()

    def tune_out(self, service: str, stream: int) -> list[Output]:
        """Stop listening; TEKs are kept for a return (R42)."""
        held = self._streams.pop((service, stream), None)
        if held is not None:
            step(RECEPTION, held.state, ReceptionEvent.TUNE_OUT)
        return self._take()

    def receive_stkm(self, service: str, stream: int, data: bytes, now: float) -> list[Output]:
        """One datagram of a STKM stream (or one answer of the interaction channel)."""
        held = self._streams.get((service, stream))
        if held is None:
            return []
        digest = hashlib.sha256(data).digest()
        if digest in held.heard or held.done.get(digest, 0.0) > now:
            return []  # a repetition
        for row in self._teks(held).values():
            if row.digest == digest:  # opened before a restart or a change of channel
                self._finish(held, digest, row.until)
                return []
        try:
            heard = self._read(data, now)
        except WireError as error:
            self._finish(held, digest, now + 2 * TUNE_IN)
            self._journal.emit(Refused(self._stkm_kind, error))
            return self._take()
        held.state = step(RECEPTION, held.state, ReceptionEvent.STKM)
        held.heard[digest] = heard
        if len(held.heard) > MAX_COLLECTED:
            self._collected(held, now)
            if len(held.heard) > MAX_COLLECTED:  # all lie in the future: the furthest is the least likely to be of use
                del held.heard[max(held.heard, key=lambda digest: held.heard[digest].start)]
        elif held.state is Reception.COLLECTING:
            held.deadline = held.deadline or now + TUNE_IN
        else:
            self._open_heard(held, now, collected=False)
        return self._take()

    def receive_object(self, data: bytes, now: float) -> list[Output]:
        """One LTKM or registration object from the carousel or the interaction channel (R7, R22)."""
        if self._objects.receive(data, now):
            self._feed(now)
        return self._take()

    def feed(self, now: float) -> list[Output]:
        """All LTKMs that there are have been received - an answer of the interaction channel, a whole carousel: wait no longer."""
        if self._objects.waiting:
            self._feed(now)
        return self._take()

    def _feed(self, now: float) -> None:
        self._objects.feed(now)
        for held in self._streams.values():
            self._unlock(held, now)

    def tick(self, now: float) -> list[Output]:
        """Let time pass: collections end, TEKs expire."""
        if self._objects.due is not None and now >= self._objects.due:
            self._feed(now)
        for held in self._streams.values():
            if held.deadline is not None and now >= held.deadline:
                self._collected(held, now)
            for digest in [digest for digest, until in held.done.items() if now >= until]:
                del held.done[digest]
        for key, row in self._held_teks.all().items():
            if now >= row.until:
                service, number, name = key
                assert isinstance(service, str) and isinstance(number, int) and isinstance(name, bytes)
                # R42: the lifetime runs from the first opening, so neither this STKM nor an older one is opened again; but of one
                # that is yet to come (a server's clock is fast, and will be right) only what has begun: what follows is older.
                spent, past = self._spent.get((service, number)), min(row.start, int(now))
                self._spent.put((service, number), past if spent is None else max(past, spent))
                self._held_teks.drop(key)
                self._journal.emit(TekExpired(service, number, name))
        for held in self._streams.values():
            if held.state is Reception.PLAYING and not self._live(held, now):
                held.state = step(RECEPTION, held.state, ReceptionEvent.EXPIRED)
                if held.heard:
                    held.state = step(RECEPTION, held.state, ReceptionEvent.STKM)
                    held.deadline = now + TUNE_IN
        return self._take()

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [held.deadline for held in self._streams.values()] + [self._objects.due]
        times += [row.until for row in self._held_teks.all().values()]
        return min((t for t in times if t is not None), default=None)

    # --- STKMs --------------------------------------------------------------------------------------------------------

    def _unlock(self, held: _Stream, now: float) -> None:
        """What lacked a key is looked at again: of the periods that have begun the newest, and those to come, oldest first.

        They have been collected before (R6), so that nobody waits for their next repetition.
        """
        for digest in held.locked:
            held.done.pop(digest, None)
        begun = max((heard.start for heard in held.locked.values() if heard.start <= now), default=None)
        again = {digest: heard for digest, heard in held.locked.items() if begun is None or heard.start >= begun}
        held.locked.clear()
        if again:
            held.state = step(RECEPTION, held.state, ReceptionEvent.STKM)
            held.heard = again | held.heard
            self._collected(held, now)

    @property
    def _stkm_kind(self) -> Kind:
        return "smartcard-stkm" if self._card is not None else "drm-stkm"

    def _teks(self, held: _Stream) -> dict[tuple[object, ...], HeldTek]:
        return self._held_teks.under((held.tuning.service, held.tuning.stream))

    def _live(self, held: _Stream, now: float) -> bool:
        return any(now < row.until for row in self._teks(held).values())

    @staticmethod
    def _finish(held: _Stream, digest: bytes, until: float) -> None:
        """That STKM needs no second look before ``until``."""
        held.done.pop(digest, None)
        if len(held.done) >= MAX_DONE:
            del held.done[next(iter(held.done))]
        held.done[digest] = until

    def _read(self, data: bytes, now: float) -> _Heard:
        message = codec.decode(data, self._stkm_kind)
        if isinstance(message, SmartcardStkm):
            return _Heard(near(message.counter, now), data, message)
        if isinstance(message, DrmStkm) and message.timestamp is not None:
            return _Heard(message.timestamp, data, message)
        raise BadValue(None, "timestamp", "a complete STKM with a timestamp (R13, R14)", "another")

    def _collected(self, held: _Stream, now: float) -> None:
        """The end of a collection."""
        held.deadline = None
        self._open_heard(held, now, collected=True)
        if held.state is Reception.COLLECTING:
            held.state = step(RECEPTION, held.state, ReceptionEvent.NOTHING)
            if held.heard:  # what lies in the future is looked at again
                held.state = step(RECEPTION, held.state, ReceptionEvent.STKM)
                held.deadline = now + TUNE_IN

    def _open_heard(self, held: _Stream, now: float, *, collected: bool) -> None:
        """Open what was heard, oldest first.

        What lies in the future stays while nothing plays (R6); while something plays it waits half of its time to go, at most a
        tune-in, because an older one that was lost until now could no longer be opened after it.
        """
        live = self._live(held, now)
        for digest in sorted(held.heard, key=lambda digest: held.heard[digest].start):
            heard = held.heard[digest]
            if heard.start > now and not (live and collected):  # R6: the STKM of the running period goes first
                if live:
                    held.deadline = held.deadline or now + min(TUNE_IN, (heard.start - now) / 2)
                break
            del held.heard[digest]
            try:
                until = self._open(held.tuning, heard, digest, now)
            except KeyUnavailable as error:  # its LTKM may be on its way: look again when it is heard again
                self._finish(held, digest, now + TUNE_IN)
                held.locked.pop(digest, None)
                if len(held.locked) >= MAX_COLLECTED:
                    del held.locked[next(iter(held.locked))]
                held.locked[digest] = heard
                self._journal.emit(Refused(self._stkm_kind, error))
            except BcastError as error:
                self._finish(held, digest, now + 2 * self._cycle)
                self._journal.emit(Refused(self._stkm_kind, error))
            else:
                self._finish(held, digest, until)
                held.state = step(RECEPTION, held.state, ReceptionEvent.OPENED)
                live = True

    def _open(self, tuning: Tuning, heard: _Heard, digest: bytes, now: float) -> float:
        """Get the TEK.  Whatever can refuse comes before the card or the agent, which remember what they opened (R12)."""
        spent = self._spent.get((tuning.service, tuning.stream))
        if spent is not None and heard.start <= spent:
            raise Replay("the lifetime of its key has ended (R42)")
        if isinstance(heard.message, SmartcardStkm):
            name, tek, salt, auth, lifetime = self._open_smartcard(tuning, heard.message, heard.data)
            protocol = self._protocol(tuning, heard.message)
        else:
            name, tek, salt, auth, lifetime = self._open_drm(tuning, heard.message, heard.data, now)
            protocol = heard.message.traffic_protection_protocol
        row = HeldTek(tek, salt, auth, now + (1 << lifetime), heard.start, digest, protocol)
        self._held_teks.put((tuning.service, tuning.stream, name), row)
        self._journal.emit(_ready((tuning.service, tuning.stream, name), row))
        return row.until

    @staticmethod
    def _protocol(tuning: Tuning, message: SmartcardStkm) -> Protocol:
        return tuning.protocol if message.management is None else message.management.traffic_protection_protocol

    def _open_smartcard(
        self, tuning: Tuning, message: SmartcardStkm, data: bytes
    ) -> tuple[bytes, TEK, bytes | None, Secret | None, int]:
        assert self._card is not None
        m = message.management
        if m is not None and m.terminal_binding is not None:
            raise KeyUnavailable("tbk")  # R18: the TEK inside is wrapped for one make of terminal
        check_parental(None if m is None else m.access_criteria, self._parental)
        protocol = self._protocol(tuning, message)
        if protocol is Protocol.IPSEC:
            name = ipsec_spi(message.sek_id, message.tek_id)
        else:
            name = (mki if protocol is Protocol.SRTP else key_indicator)(message.sek_id, message.tek_id)
        if (protocol is Protocol.SRTP) != (len(message.encr_data) == TEK_SALT_DATA):
            raise BadValue(
                None, "KEMAC.encr_data", "a salt exactly when the protocol is SRTP (R18)", f"{len(message.encr_data)} bytes"
            )
        clear = self._card.stkm(data)
        tek = TEK(clear.tek)
        with_auth = protocol is Protocol.IPSEC and m is not None and m.traffic_authentication_flag
        auth = ipsec_auth_key_smartcard(tek, message.csb_id) if with_auth else None  # the CSB ID that it opened with (R43)
        return name, tek, clear.salt, auth, tuning.lifetime if m is None else m.traffic_key_lifetime

    def _open_drm(
        self, tuning: Tuning, message: DrmStkm, data: bytes, now: float
    ) -> tuple[bytes, TEK, bytes | None, Secret | None, int]:
        assert self._device is not None
        check_parental(message.access_criteria, self._parental)
        where = (*tuning.where, tuning.stream, tuning.service)
        opened = self._device.stkm(data, stream=where, socID=tuning.socID, serviceBaseCID=tuning.serviceBaseCID, now=now)
        material = opened.traffic_key_material.reveal()
        auth = ipsec_auth_key_drm(TAS(material[16:])) if len(material) == 32 else None
        return opened.id, TEK(material[:16]), opened.salt, auth, opened.traffic_key_lifetime

    def _take(self) -> list[Output]:
        return [*self._agent.take(), *self._journal.take()]
