# SPDX-License-Identifier: Apache-2.0
"""A bad network for datagrams: it loses, doubles, reorders and corrupts them, and brings what nobody has sent.

:class:`Impairment` is pure: datagrams in, datagrams out, one ``random.Random`` decides.  :class:`UdpProxy` puts it between two UDP
addresses, in an asyncio loop.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final, Self

HISTORY: Final = 256  # datagrams that may be heard once more, long after
HELD: Final = 64  # datagrams that are held back at most


@dataclass
class Impairment:
    """Shares of the datagrams (0..1) to which each of these happens, independently of the others.

    ``lost``; ``doubled``; ``reordered``: held back until one to ``depth`` others have passed; ``corrupted``: one to four bits are
    others, sometimes its end is missing; ``foreign``: something else comes beside it, random octets or a datagram of long ago.
    ``counts``: what has happened.
    """

    rng: random.Random
    lost: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    corrupted: float = 0.0
    foreign: float = 0.0
    depth: int = 8
    counts: Counter[str] = field(default_factory=Counter)
    _held: list[tuple[int, bytes]] = field(default_factory=list)
    _past: deque[bytes] = field(default_factory=lambda: deque(maxlen=HISTORY))
    _number: int = 0

    def carry(self, datagram: bytes) -> list[bytes]:
        """What arrives when this is sent."""
        rng, arriving = self.rng, []
        self._number += 1
        self.counts["sent"] += 1
        if self._happens("foreign", self.foreign):
            old = self._past and rng.random() < 0.5
            arriving.append(rng.choice(self._past) if old else rng.randbytes(rng.randrange(1, 1400)))
        self._past.append(datagram)
        if not self._happens("lost", self.lost):
            for _ in range(1 + self._happens("doubled", self.doubled)):
                made = self._broken(datagram) if self._happens("corrupted", self.corrupted) else datagram
                if len(self._held) < HELD and self._happens("reordered", self.reordered):
                    self._held.append((self._number + rng.randrange(1, self.depth + 1), made))
                else:
                    arriving.append(made)
        arriving += [made for due, made in self._held if due <= self._number]
        self._held = [(due, made) for due, made in self._held if due > self._number]
        return arriving

    def flush(self) -> list[bytes]:
        """What is still held back."""
        held, self._held = [made for _, made in self._held], []
        return held

    def _happens(self, name: str, share: float) -> bool:
        happens = self.rng.random() < share
        self.counts[name] += happens
        return happens

    def _broken(self, datagram: bytes) -> bytes:
        made = bytearray(datagram)
        if len(made) > 1 and self.rng.random() < 0.2:
            del made[self.rng.randrange(1, len(made)) :]
        for _ in range(self.rng.randrange(1, 5)):
            if made:
                made[self.rng.randrange(len(made))] ^= 1 << self.rng.randrange(8)
        return bytes(made)


class UdpProxy:
    """Takes datagrams at an address and sends what an :class:`Impairment` makes of them to another::

        async with UdpProxy(Impairment(random.Random(1), lost=0.1), to=("127.0.0.1", 5001)) as proxy:
            sender.connect(proxy.address)

    ``at``: where it takes them; with a multicast address, that group by ``interface``.
    """

    def __init__(
        self,
        impairment: Impairment,
        *,
        to: tuple[str, int],
        at: tuple[str, int] = ("127.0.0.1", 0),
        interface: str = "127.0.0.1",
    ) -> None:
        self.impairment, self._to, self._at, self._interface = impairment, to, at, interface
        self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    @property
    def address(self) -> tuple[str, int]:
        """Where it takes datagrams."""
        host, port = self._in.getsockname()
        return str(host), int(port)

    async def __aenter__(self) -> Self:
        interface = socket.inet_aton(self._interface)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._in.bind(self._at)
        group = socket.inet_aton(self._at[0])
        if 224 <= group[0] <= 239:
            self._in.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + interface)
        self._out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        self._in.setblocking(False)
        asyncio.get_running_loop().add_reader(self._in, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._in)
        self._in.close()
        self._out.close()

    def _read(self) -> None:
        for _ in range(64):
            try:
                data = self._in.recv(65_535)
            except OSError:
                return
            for made in self.impairment.carry(data):
                try:
                    self._out.sendto(made, self._to)
                except OSError:
                    self.impairment.counts["unsent"] += 1
