# SPDX-License-Identifier: Apache-2.0
"""Two headends on one air: which of their senders sends.

Each says five times in the time of detection that it lives, and how it is.  A sender sends unless it hears a better one: one whose
BSD/A is there is better than one that only holds what it has, then one that lacks fewer streams, then the one with the lower
priority number.  One that has been better for the time of detection silences the other, so that both send for a while when they
change places; one that is not heard for four of five beats is no more.  Both send the same (R33): two at once do no harm.

A heartbeat is authenticated (HMAC-SHA-256, truncated to 16 bytes) under a key that the BSD/A derives from the pair's secret and
gives its sender, and holds its time: what is forged silences nobody, and what was recorded is refused when it is older than one
time of detection.  One that is as far ahead is refused too: it could be sent again later.  The clocks of a pair must agree within
that, or both send, which does no harm.
confidence: own - all of it is between two senders of one operator.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, replace
from typing import Final

from pybcast.errors import BadLength, BadValue, Integrity

BEATS: Final = 5  # in the time of detection
SILENCE: Final = 0.8  # of the time of detection: 4 beats; with a repetition before and after it is over in time
FORGOTTEN: Final = 3.0  # times of detection: what a peer said is refused for its time after two of them
MAX_PEERS: Final = 16  # senders that are remembered
LARGEST: Final = 1024  # octets of a heartbeat
_HEAD: Final = struct.Struct(">4sBBBBI8sQH")  # magic, version, able, priority, 0, missing, instance, NTP ms, length of the id
_MAGIC: Final = b"BCSH"
_MAC: Final = 16


@dataclass(frozen=True)
class Heartbeat:
    """``instance``: 8 random bytes of the process.  ``time``: 64-bit NTP milliseconds.  ``missing``: streams without a STKM for a
    period whose lead has begun."""

    me: str
    instance: bytes
    able: bool
    missing: int
    priority: int
    time: int

    @property
    def rank(self) -> tuple[bool, int, int, str, bytes]:
        """The lowest sends."""
        return (not self.able, self.missing, self.priority, self.me, self.instance)


def encode(beat: Heartbeat, mark: bytes) -> bytes:
    """The datagram."""
    me = beat.me.encode()
    head = _HEAD.pack(_MAGIC, 1, beat.able, beat.priority, 0, min(beat.missing, 0xFFFFFFFF), beat.instance, beat.time, len(me))
    return head + me + hmac.digest(mark, head + me, "sha256")[:_MAC]


def decode(data: bytes, mark: bytes) -> Heartbeat:
    """``WireError``: no heartbeat; ``Integrity``: not of this pair."""
    if not _HEAD.size + _MAC <= len(data) <= LARGEST:
        raise BadLength(0, "heartbeat", f"{_HEAD.size + _MAC}..{LARGEST} octets", str(len(data)))
    magic, version, able, priority, zero, missing, instance, time, size = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != 1:
        raise BadValue(0, "heartbeat.magic", "a heartbeat, version 1", "something else")
    if len(data) != _HEAD.size + size + _MAC:
        raise BadLength(_HEAD.size - 2, "heartbeat.length", str(len(data) - _HEAD.size - _MAC), str(size))
    if not hmac.compare_digest(hmac.digest(mark, data[:-_MAC], "sha256")[:_MAC], data[-_MAC:]):
        raise Integrity
    if able > 1 or zero:
        raise BadValue(5, "heartbeat.able", "0 or 1, then 0", "another value")
    try:
        me = data[_HEAD.size : -_MAC].decode()
    except UnicodeDecodeError:
        raise BadValue(_HEAD.size, "heartbeat.id", "UTF-8", "something else") from None
    return Heartbeat(me, instance, bool(able), missing, priority, time)


@dataclass
class _Heard:
    beat: Heartbeat
    at: float


class Election:
    """Whether this sender sends.  Times: ``now`` monotonic seconds, ``wall`` 64-bit NTP seconds."""

    def __init__(self, me: str, instance: bytes, priority: int, detection: float) -> None:
        self._mine = Heartbeat(me, instance, False, 0, priority, 0)
        self._detection = detection
        self._peers: dict[bytes, _Heard] = {}
        self._better_since: float | None = None
        self.active = True
        self.strange = 0  # heartbeats of a time that is not ours, or that came before

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._detection / BEATS

    def beat(self, able: bool, missing: int, wall: float, me: str) -> Heartbeat:
        """What to say now of ourselves."""
        self._mine = replace(self._mine, able=able, missing=missing, time=int(wall * 1000), me=me)
        return self._mine

    def heard(self, beat: Heartbeat, now: float, wall: float) -> bool:
        """Take a heartbeat, if its time is ours and later than that of the one before; whether it was taken."""
        known = self._peers.get(beat.instance)
        if beat.instance == self._mine.instance:
            return False
        if abs(beat.time / 1000 - wall) > self._detection or (known is not None and beat.time <= known.beat.time):
            self.strange += 1
            return False
        if known is None and len(self._peers) >= MAX_PEERS:
            del self._peers[min(self._peers, key=lambda instance: self._peers[instance].at)]
        self._peers[beat.instance] = _Heard(beat, now)
        return True

    def peers(self, now: float) -> list[Heartbeat]:
        """Who lives.  The dead are remembered until what they said would be refused for its time."""
        for instance in [instance for instance, heard in self._peers.items() if heard.at < now - FORGOTTEN * self._detection]:
            del self._peers[instance]
        limit = now - SILENCE * self._detection
        return [heard.beat for heard in self._peers.values() if heard.at >= limit]

    def decide(self, able: bool, missing: int, now: float) -> bool:
        """Whether to send.  A better sender silences us when it has been there for the time of detection."""
        mine = replace(self._mine, able=able, missing=missing)
        if not self._peers or not any(beat.rank < mine.rank for beat in self.peers(now)):
            self._better_since, self.active = None, True
        elif self._better_since is None:
            self._better_since = now
        elif now - self._better_since >= self._detection:
            self.active = False
        return self.active
