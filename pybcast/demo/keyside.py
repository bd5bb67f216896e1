# SPDX-License-Identifier: Apache-2.0
"""What the demo's media side needs of the key side, and fixed keys that stand in for it.

The media side calls ``tick`` some fifty times a second and carries out the events that come back.  Times are NTP seconds
(since 1900-01-01 UTC) as ``float``, the clock of the key messages.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from pybcast.secret import Secret
from pybcast.wire.times import NTP_UNIX

Profile = Literal["drm", "smartcard"]
PROFILES: Final[tuple[Profile, ...]] = ("drm", "smartcard")
SERVICES: Final = ("A", "B")
UNENTITLED: Final = "unentitled"
FLOWS: Final = ("F1", "F2", "F3", "F4", "F5", "F6")
PERIOD: Final = 2.0  # seconds between key changes in the demo; on air it is rather a minute


def ntp_now() -> float:
    """Now, in NTP seconds (64-bit inside, rules R15)."""
    return time.time() + NTP_UNIX


@dataclass(frozen=True, slots=True)
class UseKey:
    """The BSD/A protects ``service`` under this key from ``start`` (NTP seconds) on."""

    service: str
    mki: bytes
    tek: Secret
    salt: bytes
    start: float


@dataclass(frozen=True, slots=True)
class StopTraffic:
    """Nothing of ``service`` may leave from now until the next key begins (rules R9: the end of a key's authority)."""

    service: str


@dataclass(frozen=True, slots=True)
class TerminalKey:
    """``terminal`` ("drm" or "smartcard") has opened a STKM of ``service`` and holds this key now."""

    terminal: str
    service: str
    mki: bytes
    tek: Secret
    salt: bytes


@dataclass(frozen=True, slots=True)
class TekExpired:
    """``terminal`` may not use this key any longer (rules R42)."""

    terminal: str
    service: str
    mki: bytes


@dataclass(frozen=True, slots=True)
class Announced:
    """The STKM of ``profile`` for the crypto period of ``service`` that begins at ``period_start`` is on air."""

    service: str
    profile: Profile
    period_start: float


@dataclass(frozen=True, slots=True)
class Rollover:
    """From ``start`` on the TEKs of ``service`` come under a new long-term key (``key``: its public name)."""

    service: str
    profile: Profile
    key: str
    start: float


@dataclass(frozen=True, slots=True)
class FlowRan:
    """Flow ``flow`` ("F1".."F6") has run end to end for ``profile``; again for each time it does."""

    flow: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class ServersDead:
    """BSM and BSD/A are dead from this NTP second on: what happens now was planned before."""

    at: float


@dataclass(frozen=True, slots=True)
class ServersBack:
    """Both serve again."""

    at: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line on the screen."""

    text: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something an operator must see."""

    text: str


Event = UseKey | StopTraffic | TerminalKey | TekExpired | Announced | Rollover | FlowRan | ServersDead | ServersBack | Note | Alarm


class KeySide(Protocol):
    """The BSM, the BSD/A's keys and the terminals' keys, seen from the streams."""

    @property
    def flows(self) -> Sequence[str]:
        """The flows that must run, for each profile in use, for the demo to succeed."""

    def begin(self, now: float) -> None:
        """Encoders and players are ready: the first crypto periods may begin (not before ``now`` + their lead)."""

    def tick(self, now: float) -> list[Event]:
        """What has happened since the last call."""


@dataclass(slots=True)
class FixedKeys:
    """Keys without key messages: TEKs from a counter, handed to the entitled terminals ``lead`` seconds ahead.

    For trying the media side alone: it claims no flow, and whoever reads this line knows its keys.
    """

    profiles: Sequence[Profile] = PROFILES
    services: Sequence[str] = SERVICES
    period: float = PERIOD
    lead: float = 1.0
    flows: Sequence[str] = ()
    _schedule: Iterator[tuple[int, float]] = field(init=False, default_factory=lambda: iter(()))
    _next: tuple[int, float] | None = field(init=False, default=None)

    def begin(self, now: float) -> None:
        self._schedule = ((n, now + self.lead + n * self.period) for n in itertools.count())
        self._next = next(self._schedule)

    def tick(self, now: float) -> list[Event]:
        events: list[Event] = []
        while self._next is not None and self._next[1] - self.lead <= now:
            number, start = self._next
            for service in self.services:
                events += self._period(service, number, start)
            self._next = next(self._schedule)
        return events

    def _period(self, service: str, number: int, start: float) -> Iterator[Event]:
        mki = bytes((0, 0, 0, 1 + self.services.index(service))) + (number + 1).to_bytes(2)
        derived = hashlib.sha256(b"pybcast demo" + mki).digest()
        tek, salt = Secret(derived[:16]), derived[16:30]
        for profile in self.profiles:
            yield Announced(service, profile, start)
            yield TerminalKey(profile, service, mki, tek, salt)
        yield UseKey(service, mki, tek, salt, start)
