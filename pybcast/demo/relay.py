# SPDX-License-Identifier: Apache-2.0
"""The demo's way of a packet: encoder -> BSD/A (protects) -> "the air" -> terminal (unprotects) -> player, all UDP on loopback.

RTCP goes through in clear, unchanged: the layout notes define traffic keys for media packets only (confidence: own).  A terminal
holds back the RTCP packet with the BYE until it is told to let it go, because a player reads RTCP first and would end with
pictures unread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from pybcast.errors import BcastError, KeyUnavailable
from pybcast.outlets import SrtpProtector, SrtpUnprotector
from pybcast.outlets.srtp import ROC_TRIES
from pybcast.outlets.udp import LOOPBACK as HOST
from pybcast.outlets.udp import Pair, drain
from pybcast.secret import Secret

MKI_SIZE: Final = 6  # SEK ID || TEK ID (rules R38; confidence: own)
_TAG_SIZE: Final = 10
_BYE: Final = 203  # RFC 3550, 12.1


def answers(port: int) -> bool:
    """Is a receiver bound to UDP ``port`` on loopback?  (An unbound one refuses at once; one odd byte harms no player.)"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((HOST, port))
        probe.setblocking(False)
        try:
            probe.send(b"\0")
            probe.recv(1)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
    return True


def says_bye(rtcp: bytes) -> bool:
    """Does this compound RTCP packet hold a BYE?"""
    at = 0
    while at + 4 <= len(rtcp):
        if rtcp[at + 1] == _BYE:
            return True
        at += 4 + 4 * int.from_bytes(rtcp[at + 2 : at + 4])
    return False


class HeadEnd:
    """The BSD/A's side of one service: what comes from the encoder goes on air, protected, to every terminal."""

    def __init__(self, service: str, air: Sequence[int], alarm: Callable[[str], None]) -> None:
        self.service = service
        self.source = Pair.bind()
        self.protector = SrtpProtector()
        self.packets = 0
        self._stopped = False
        self._air, self._alarm = air, alarm
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.setblocking(False)

    def use(self, mki: bytes, tek: Secret, salt: bytes) -> None:
        """Protect from the next packet on under this key."""
        self.protector.set_key(mki, tek, salt)
        self._stopped = False

    def stop(self) -> None:
        """Let nothing out until the next key; the last one is kept, so that it may come again."""
        self._stopped = True

    def relay_rtp(self, now: float) -> None:
        """Protect and send what waits.  A packet that cannot be protected does not go out: an alarm says why."""
        for packet in drain(self.source.rtp):
            if self._stopped:
                self._alarm(f"service {self.service}: no authority for its key any more, nothing goes out")
                continue
            try:
                protected = self.protector.protect(packet)
            except BcastError as error:
                self._alarm(f"service {self.service}: {error}")
                continue
            self.packets += 1
            for port in self._air:
                self._out.sendto(protected, (HOST, port))
        if self.protector.roc >= ROC_TRIES:
            self._alarm(f"service {self.service}: restart the stream with a new SSRC, terminals that tune in no longer find it")

    def relay_rtcp(self, now: float) -> None:
        for packet in drain(self.source.rtcp):
            for port in self._air:
                self._out.sendto(packet, (HOST, port + 1))

    def close(self) -> None:
        self.protector.wipe()
        self.source.close()
        self._out.close()


Heard = Callable[[bytes, bool, float], None]
"""Told of each packet from the air: its MKI, whether it opened, when."""


class Tuner:
    """One terminal's side of one service: opens what it has keys for and hands it to the player."""

    def __init__(self, terminal: str, service: str, heard: Heard) -> None:
        self.terminal, self.service = terminal, service
        self.air = Pair.bind()
        self.unprotector = SrtpUnprotector()
        self.player_port: int | None = None
        self.opened = self.without_key = self.refused = 0
        self._bye: list[bytes] = []
        self._heard = heard
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.setblocking(False)

    @property
    def ended(self) -> bool:
        """Has the stream said BYE?"""
        return bool(self._bye)

    def relay_rtp(self, now: float) -> None:
        for packet in drain(self.air.rtp):
            mki = packet[-_TAG_SIZE - MKI_SIZE : -_TAG_SIZE]
            try:
                clear = self.unprotector.unprotect(packet)
            except KeyUnavailable:
                self.without_key += 1
                self._heard(mki, False, now)
            except BcastError:
                self.refused += 1
                self._heard(mki, False, now)
            else:
                self.opened += 1
                self._heard(mki, True, now)
                self._forward(clear, 0)

    def relay_rtcp(self, now: float) -> None:
        for packet in drain(self.air.rtcp):
            if says_bye(packet):
                self._bye.append(packet)
            else:
                self._forward(packet, 1)

    def release_bye(self) -> None:
        """Let the player end."""
        for packet in self._bye:
            self._forward(packet, 1)

    def _forward(self, packet: bytes, offset: int) -> None:
        if self.player_port is not None:
            self._out.sendto(packet, (HOST, self.player_port + offset))

    def close(self) -> None:
        self.unprotector.wipe()
        self.air.close()
        self._out.close()
