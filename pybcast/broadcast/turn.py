# SPDX-License-Identifier: Apache-2.0
"""Turning carousels: what is to be sent again and again, each at its pace, all of them below one rate.

No input, no output, no clock: who owns a ``Wheels`` asks what is due and sends it.  Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

OVERHEAD: Final = 28  # octets of IPv4 and UDP, which the network carries too
ROOM: Final = 1.1  # of a rate that would do: LTKMs that come soon fit too - confidence: own
BEHIND: Final = 0.05  # seconds that are made up for by sending faster, after something held us back; beyond, the turn gets longer


class Ring:
    """Objects that go out in one cycle, in the order in which they were put: what is put anew goes to the end (R7: its COUNTERs
    are above all others).

    ``cycle``: seconds.  ``turns``: how many have been completed.
    """

    def __init__(self, cycle: float) -> None:
        self.cycle = cycle
        self.turns = 0
        self.octets = 0
        self.datagrams = 0
        self._objects: dict[str, tuple[int, tuple[bytes, ...]]] = {}
        self._order: deque[tuple[str, int]] = deque()  # what is left of this turn, and what was put anew since; the put that counts
        self._puts = 0
        self._sending: Iterator[bytes] = iter(())
        self._name = ""

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def names(self) -> tuple[str, ...]:
        return tuple(self._objects)

    def put(self, name: str, datagrams: Sequence[bytes]) -> None:
        """Send these from now on, under this name instead of what had it.  They still leave in this turn."""
        self.drop(name)
        self._puts += 1
        self._objects[name] = (self._puts, tuple(datagrams))
        self.datagrams += len(datagrams)
        self.octets += sum(len(d) + OVERHEAD for d in datagrams)
        self._order.append((name, self._puts))

    def drop(self, name: str) -> None:
        _, held = self._objects.pop(name, (0, None))
        if held is not None:
            self.datagrams -= len(held)
            self.octets -= sum(len(d) + OVERHEAD for d in held)
            if self._name == name:
                self._sending = iter(())

    def next(self) -> bytes | None:
        """The next datagram; ``None`` when there is nothing to send."""
        if not self.datagrams:
            self._order.clear()
            return None
        while True:
            for datagram in self._sending:
                return datagram
            if not self._order:
                if self._name:
                    self.turns += 1
                self._order.extend((name, number) for name, (number, _) in self._objects.items())
            self._name, wanted = self._order.popleft()
            number, held = self._objects.get(self._name, (0, ()))
            self._sending = iter(held if number == wanted else ())


class Wheels:
    """Rings of several cycles on one channel.

    ``rate``: bits a second, all headers down to IP counted, that are never exceeded in the mean of ``BEHIND``: when the cycles want
    more, all of them get longer by the same factor, ``stretch``.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._rings: dict[float, Ring] = {}
        self._where: dict[str, Ring] = {}
        self._due: dict[float, float] = {}

    def put(self, name: str, cycle: float, datagrams: Sequence[bytes], now: float) -> None:
        """Send these once a cycle, under this name instead of what had it."""
        self.drop(name)
        if not datagrams:
            return
        ring = self._rings.setdefault(cycle, Ring(cycle))
        if not len(ring):
            self._due[cycle] = now
        ring.put(name, datagrams)
        self._where[name] = ring

    def drop(self, name: str) -> None:
        ring = self._where.pop(name, None)
        if ring is not None:
            ring.drop(name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    @property
    def octets(self) -> int:
        return sum(ring.octets for ring in self._rings.values())

    @property
    def datagrams(self) -> int:
        """Of one turn of everything."""
        return sum(ring.datagrams for ring in self._rings.values())

    @property
    def wanted(self) -> float:
        """Bits a second that the cycles ask for."""
        return sum(8 * ring.octets / ring.cycle for ring in self._rings.values())

    @property
    def enough(self) -> int:
        """The rate in bits a second that would do: what the cycles ask for now, and a tenth, in whole steps of 10 kbit/s."""
        return math.ceil(self.wanted * ROOM / 10_000) * 10_000

    @property
    def stretch(self) -> float:
        """By what the cycles are longer than they should be: 1 where all fits below the rate."""
        return max(1.0, self.wanted / self._rate)

    def turns(self) -> dict[float, int]:
        """Completed turns of each cycle."""
        return {ring.cycle: ring.turns for ring in self._rings.values() if len(ring)}

    def due(self) -> float | None:
        """When something is to be sent next."""
        return min((self._due[cycle] for cycle, ring in self._rings.items() if len(ring)), default=None)

    def take(self, now: float, most: int = 64) -> list[bytes]:
        """What is due, at most so many datagrams."""
        found: list[bytes] = []
        stretch = self.stretch
        for cycle, ring in self._rings.items():
            at = max(self._due.get(cycle, now), now - BEHIND)
            while at <= now and len(found) < most:
                datagram = ring.next()
                if datagram is None:
                    break
                found.append(datagram)
                at += (len(datagram) + OVERHEAD) / ring.octets * cycle * stretch
            self._due[cycle] = at
        return found
