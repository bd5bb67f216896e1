# SPDX-License-Identifier: Apache-2.0
"""Fragments of IP datagrams in a capture, put together again (RFC 791, RFC 8200 4.5).

Memory and time are bounded, whatever a capture holds.  Fragments that overlap make a datagram that nobody sent: it is refused whole
(RFC 5722, RFC 8200).  A fragment that comes twice, as a mirrored port shows it, counts once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

MAX_DATAGRAMS: Final = 256  # datagrams of a capture that wait for fragments: key messages seldom need any - confidence: own
MAX_OCTETS: Final = 4 << 20  # octets of all fragments that wait: 64 of the largest datagrams - confidence: own
MAX_SECONDS: Final = 30  # seconds that a datagram waits for its fragments, by the capture's clock, as in Linux - confidence: own
OVERHEAD: Final = 256  # octets that count for each fragment beside its own: it is kept in a list, with its number and time
LARGEST: Final = 0xFFFF  # octets of an IP datagram's payload

NOT_WHOLE: Final = "fragment of a datagram that is not whole"
OVERLAPPING: Final = "fragment of a datagram whose fragments overlap"
NO_ROOM: Final = "fragment, and too many others wait"
TWICE: Final = "fragment that comes twice"
BAD: Final = "bad fragment"


class Refused(Exception):
    """Why a fragment is of no use."""


@dataclass(frozen=True)
class Origin:
    """The packet that a fragment came in: its number in the capture, and its time in nanoseconds, if that is known."""

    number: int
    time: int | None


@dataclass
class _Datagram:
    """What is there of a datagram.  ``size``: of the whole, once its last fragment was seen.  ``refused``: it is no datagram."""

    time: int | None
    starts: list[int] = field(default_factory=list)  # of its fragments, in order
    parts: dict[int, bytes] = field(default_factory=dict)
    origins: list[Origin] = field(default_factory=list)
    held: int = 0
    size: int | None = None
    protocol: int = -1  # of the first fragment
    refused: bool = False


class Fragments:
    """The fragments that wait for others.  ``given_up``: those that will never be of use, and why; to be taken by the caller."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, _Datagram] = OrderedDict()
        self._octets = 0
        self.given_up: list[tuple[Origin, str]] = []

    def put(
        self, key: Hashable, start: int, protocol: int, payload: bytes, origin: Origin, *, last: bool
    ) -> tuple[int, bytes] | None:
        """One fragment; the protocol and the payload of the whole datagram if it was the one that was missing.

        ``key``: tells datagrams apart.  ``start``: octets before this fragment.  Raises ``Refused``.
        """
        self._forget(origin.time)
        end = start + len(payload)
        if not payload or end > LARGEST or (not last and end % 8):
            raise Refused(BAD)
        found = self._waiting.get(key)
        if found is None:
            if len(self._waiting) >= MAX_DATAGRAMS:
                self._give_up(next(iter(self._waiting)), NO_ROOM)
            found = self._waiting[key] = _Datagram(origin.time)
        if found.refused or not self._fits(found, start, payload, last=last):
            if not found.refused:
                self._clear(found, OVERLAPPING)
                found.refused = True
            raise Refused(OVERLAPPING)
        index = bisect_right(found.starts, start)
        found.starts.insert(index, start)
        found.parts[start] = payload
        found.origins.append(origin)
        found.held += len(payload)
        self._octets += len(payload) + OVERHEAD
        if last:
            found.size = end
        if start == 0:
            found.protocol = protocol
        if found.held == found.size:
            del self._waiting[key]
            self._octets -= found.held + OVERHEAD * len(found.starts)
            return found.protocol, b"".join(found.parts[at] for at in found.starts)
        while self._octets > MAX_OCTETS:
            self._give_up(next(iter(self._waiting)), NO_ROOM)
        return None

    def end(self) -> None:
        """Nothing comes any more."""
        while self._waiting:
            self._give_up(next(iter(self._waiting)), NOT_WHOLE)

    @staticmethod
    def _fits(found: _Datagram, start: int, payload: bytes, *, last: bool) -> bool:
        """Whether it lies beside what is there.  ``Refused``: it is there."""
        end = start + len(payload)
        index = bisect_right(found.starts, start)
        before = found.starts[index - 1] if index else None
        if before == start and found.parts[start] == payload and last == (end == found.size):
            raise Refused(TWICE)
        if before is not None and before + len(found.parts[before]) > start:
            return False
        if index < len(found.starts) and found.starts[index] < end:
            return False
        if last:
            return found.size is None and index == len(found.starts)
        return found.size is None or end < found.size

    def _forget(self, now: int | None) -> None:
        """Give up what has waited too long.  A clock that was set back counts as well."""
        while now is not None and self._waiting:
            key, oldest = next(iter(self._waiting.items()))
            if oldest.time is None or abs(now - oldest.time) <= MAX_SECONDS * 10**9:
                return
            self._give_up(key, NOT_WHOLE)

    def _give_up(self, key: Hashable, why: str) -> None:
        self._clear(self._waiting.pop(key), why)

    def _clear(self, found: _Datagram, why: str) -> None:
        self.given_up += [(origin, why) for origin in found.origins]
        self._octets -= found.held + OVERHEAD * len(found.starts)
        found.starts, found.parts, found.origins, found.held = [], {}, [], 0
