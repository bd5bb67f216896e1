# SPDX-License-Identifier: Apache-2.0
"""LTKMs and registration material on their way to the card or the DRM agent: a carousel cycle is collected first (R7, R22)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from pybcast import codec
from pybcast.errors import BadValue, BcastError, KeyUnavailable, Unsupported
from pybcast.flows.events import Answer, Refused
from pybcast.flows.journal import Journal
from pybcast.flows.serial import distance
from pybcast.flows.terminal.card import Card
from pybcast.flows.terminal.device import Device
from pybcast.messages import FIRST_BYTE, Bcro, Identity, Kind, MikeyMessage, Timestamp

MAX_OBJECTS: Final = 4096
"""LTKMs for this terminal in one carousel cycle, and objects remembered: more is an attack.  Then the forged ones are dropped."""
MAX_OBJECT_OCTETS: Final = 8 << 20
"""Of these LTKMs: some 2,000 octets each; one may have 65,507."""
RETRY_CYCLES: Final = 10
"""Carousel cycles until a refused object is looked at again: a clock may have been set since, a certificate come."""
_COUNTER: Final = 2
_FOR_EVER: Final = float("inf")


@dataclass(frozen=True)
class _Object:
    """An LTKM that waits for the end of the cycle.  ``counter`` orders those of one ``sender`` (its identities; () for BCROs)."""

    sender: tuple[bytes, ...]
    counter: int
    data: bytes
    digest: bytes


class Objects:
    """What a carousel brings.  ``cycle``: seconds that it takes."""

    def __init__(self, agent: Card | Device, journal: Journal, cycle: float) -> None:
        self._agent, self._journal, self._cycle = agent, journal, cycle
        self._registration: Kind = "drm-registration" if isinstance(agent, Device) else "smartcard-registration"
        self._carried: Kind = "drm-ltkm" if isinstance(agent, Device) else "mikey"
        self._ltkm: Kind = "drm-ltkm" if isinstance(agent, Device) else "smartcard-ltkm"
        self.waiting: list[_Object] = []
        """LTKMs of the cycle that runs."""
        self.due: float | None = None
        """When that cycle ends."""
        self._octets = 0
        self._first_end: float | None = None
        self._seen: dict[bytes, float] = {}

    def begin(self, now: float) -> None:
        """The terminal listens: what is on air from the first time on is a whole cycle too (R7)."""
        if self._first_end is None:
            self._first_end = now + self._cycle

    def receive(self, data: bytes, now: float) -> bool:
        """One object.  True where the cycle must end now (:meth:`feed`): nothing else may be collected."""
        digest = hashlib.sha256(data).digest()
        if digest in self._seen:
            until = self._seen[digest]
            self._remember(digest, until)
            if until > now:
                return False
        kind = "mikey" if data[:1] == b"\x01" else FIRST_BYTE.get(data[0] if data else -1)
        try:
            if kind is None:
                raise Unsupported(0, "message_tag", "an LTKM or registration object (R22)", data[:1].hex() or "nothing")
            if kind == self._registration:
                self._register(data, digest, now)
            elif kind == self._carried and (found := self._sort(data, digest)) is not None:
                self._remember(digest, _FOR_EVER)
                self._put(found)
                if self.due is None:
                    self.due = self._first_end if self._first_end is not None and now < self._first_end else now + self._cycle
                if len(self.waiting) >= MAX_OBJECTS or self._octets >= MAX_OBJECT_OCTETS:
                    return self._weed(now)
        except BcastError as error:
            self._remember(digest, now + RETRY_CYCLES * self._cycle)
            self._journal.emit(Refused(self._registration if kind == self._registration else self._ltkm, error))
        return False

    def _put(self, item: _Object) -> None:
        self.waiting.append(item)
        self._octets += len(item.data)

    def _remember(self, digest: bytes, until: float) -> None:
        """Not to be looked at again before ``until``; what was heard last is kept longest."""
        self._seen.pop(digest, None)
        if len(self._seen) >= MAX_OBJECTS:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = until

    def _register(self, data: bytes, digest: bytes, now: float) -> None:
        installed = self._agent.register(data, now)
        if installed:
            self._seen.clear()  # what was refused for want of these keys may open now
        self._remember(digest, _FOR_EVER)

    def _sort(self, data: bytes, digest: bytes) -> _Object | None:
        """An LTKM with its place in the cycle; ``None`` when it is addressed to others."""
        if isinstance(self._agent, Device):
            bcro = codec.decode(data, "drm-ltkm")
            assert isinstance(bcro, Bcro)
            return _Object((), bcro.bcro_timestamp or 0, data, digest) if self._agent.addressed(bcro) else None
        known = self._agent.identities()
        if known and not any(name in data for name in known):
            return None  # cheap, for most of a carousel is for others
        mikey = codec.decode(data, "mikey")
        assert isinstance(mikey, MikeyMessage)
        sender = tuple(p.id for p in mikey.payloads if isinstance(p, Identity))
        for payload in mikey.payloads:
            if isinstance(payload, Timestamp) and payload.ts_type == _COUNTER:
                return _Object(sender, int.from_bytes(payload.ts_value, "big"), data, digest)
        raise BadValue(None, "T", "a COUNTER", "none")

    def feed(self, now: float) -> None:
        """One cycle has been collected: LTKMs go to the card in rising COUNTER (R7), BCROs to the agent in rising timestamp.

        COUNTERs of one sender are ordered as RFC 1982 orders them: the wrap does not turn a cycle round.
        """
        objects, self.waiting, self.due, self._octets = self.waiting, [], None, 0
        origin: dict[tuple[bytes, ...], int] = {}

        def place(item: _Object) -> tuple[tuple[bytes, ...], int]:
            if not item.sender:
                return item.sender, item.counter  # a BCRO's timestamp: 64 bits, no wrap
            return item.sender, distance(item.counter, origin.setdefault(item.sender, item.counter))

        for item in sorted(objects, key=place):
            try:
                answer = self._agent.ltkm(item.data, now)
                if answer is not None:
                    self._journal.emit(Answer(answer))
            except BcastError as error:
                self._refuse(item, error, now)

    def _weed(self, now: float) -> bool:
        """More than a cycle has: what is not authentic goes.  A cycle that ended early would put COUNTERs out of order (R7); True
        where it must all the same, as it is very large.
        """
        objects, self.waiting, self._octets = self.waiting, [], 0
        for item in objects:
            try:
                self._agent.examine(item.data, now)
            except BcastError as error:
                self._refuse(item, error, now)
            else:
                self._put(item)
        return len(self.waiting) > MAX_OBJECTS // 2 or self._octets > MAX_OBJECT_OCTETS // 2

    def _refuse(self, item: _Object, error: BcastError, now: float) -> None:
        if isinstance(error, KeyUnavailable):  # its registration may have been lost: look again in the next cycle
            self._seen.pop(item.digest, None)
        else:
            self._remember(item.digest, now + RETRY_CYCLES * self._cycle)
        self._journal.emit(Refused(self._ltkm, error))
