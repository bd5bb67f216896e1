# SPDX-License-Identifier: Apache-2.0
"""A terminal's ears for LTKMs and registration objects: the FLUTE carousel and the LTKM push (asyncio).

Both give messages as they came, in the order in which they were heard; who sent them is for the card or the DRM agent to find out.
Memory is bounded.  A listener that gives its messages through ``async for`` stops reading while nobody takes them: what the system
then drops comes again in the next cycle.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Final, Self

from pybcast.broadcast import alc
from pybcast.broadcast.alc import MAX_DATAGRAM
from pybcast.broadcast.bundle import MAX_MESSAGE
from pybcast.broadcast.datagrams import hearing
from pybcast.broadcast.objects import MAX_HELD, Objects
from pybcast.errors import ConfigError, WireError
from pybcast.sourcefilter import SourceFilter

BUFFER: Final = 4 << 20  # octets that the system keeps for us while we do something else; it may give less
TOGETHER: Final = 64  # datagrams that are read before others have their turn
WAITING: Final = 10_000  # messages that wait to be taken, then reading stops
WAITING_OCTETS: Final = 16 << 20  # and their octets
MAX_SENDERS: Final = 64  # sessions that assemble: of two headends, and of those who pretend; a new one displaces the most silent
MAX_STRANGERS: Final = 256  # sessions that do not assemble yet: enough for a new one of 40 packets a second among 10,000 forged
MAX_STRANGE: Final = 8 << 20  # octets of these

FAULTS: Final = ("refused descriptions", "refused files", "oversize objects", "broken objects", "refused objects")
"""Counts of what a carousel has and nobody gets: not forged, it is something that its sender should know."""

Source = tuple[str, int]
_Sender = tuple[str, int, bool]
"""Address, port, and whether its packets have our checksum."""


class _Room:
    """Sessions of one kind, at most ``most`` with ``octets`` in all.

    Beyond, the address that has most gives way: with the session that was silent longest, or octets of its largest.  So nobody
    takes anything from an address that has less.
    """

    def __init__(self, most: int, octets: int) -> None:
        self._most, self._octets = most, octets
        self.sessions: OrderedDict[_Sender, Objects] = OrderedDict()
        self.size = 0
        self.counts: Counter[str] = Counter()  # of sessions that are gone

    def add(self, key: _Sender, session: Objects) -> None:
        if len(self.sessions) >= self._most:
            of = Counter(address for address, _, _ in self.sessions)
            share = max(of.values())
            self.counts.update(self.remove(next(key for key in self.sessions if of[key[0]] == share)).counts)
        self.sessions[key] = session
        self.grown(session.size)

    def remove(self, key: _Sender) -> Objects:
        session = self.sessions.pop(key)
        self.size -= session.size
        return session

    def grown(self, octets: int) -> None:
        """A session has changed its size by so much."""
        self.size += octets
        while self.size > self._octets:
            of: Counter[str] = Counter()
            for (address, _, _), session in self.sessions.items():
                of[address] += session.size
            most = max(of, key=of.__getitem__)
            largest = max((held for key, held in self.sessions.items() if key[0] == most), key=lambda held: held.size)
            before = largest.size
            while largest.size > before * 7 // 8:
                largest.shed()
            self.size += largest.size - before


class Sessions:
    """The session of each sender (RFC 6726 3.3: a TSI is one of a source): TOIs and FDT ids of one are not those of another.

    Packets with our checksum and without are of two sessions, so that what has lost its checksum on the way is not mixed with what
    is whole.  A session opens for a packet of our TSI that is as it was sent, and for nothing else.  It is a stranger until it
    assembles an object, and strangers displace strangers only.
    """

    def __init__(self, tsi: int) -> None:
        self._tsi = tsi
        self._strangers = _Room(MAX_STRANGERS, MAX_STRANGE)
        self._senders = _Room(MAX_SENDERS, MAX_HELD)
        self._counts: Counter[str] = Counter()

    def push(self, data: bytes, source: Source, now: float) -> list[bytes]:
        """One datagram at Unix time ``now``; the messages of what it made whole, in their order."""
        self._counts["datagrams"] += 1
        try:
            packet = alc.parse(data)
        except WireError as error:
            self._counts["corrupted" if error.field == "check" else "foreign"] += 1
            return []
        if packet.tsi != self._tsi:
            self._counts["foreign"] += 1
            return []
        key = (*source, packet.checked)
        room = self._senders
        session = room.sessions.get(key)
        if session is None:
            room = self._strangers
            session = room.sessions.get(key)
            if session is None:
                session = Objects()
                room.add(key, session)
        room.sessions.move_to_end(key)
        before = session.size
        found = session.push(packet, now)
        room.grown(session.size - before)
        if room is self._strangers and session.assembles:
            self._senders.add(key, room.remove(key))
        return found

    @property
    def counts(self) -> Counter[str]:
        """What came, by what became of it."""
        rooms = (self._strangers, self._senders)
        held = (session.counts for room in rooms for session in room.sessions.values())
        return sum(held, self._counts + self._strangers.counts + self._senders.counts)

    @property
    def size(self) -> int:
        """Octets of memory, about."""
        return self._strangers.size + self._senders.size

    def forget(self) -> None:
        """Give everything again."""
        for session in self._senders.sessions.values():
            before = session.size
            session.forget()
            self._senders.grown(session.size - before)


class Listener:
    """Hears datagrams, gives messages: to ``on_message`` as they come, or through ``async for``.

    ``address``, ``port``: where they are sent to.  ``interface``: address of that by which a group is heard.  ``senders``:
    whose datagrams to take (resolved), ``None``: everybody's.
    """

    _largest = MAX_MESSAGE

    def __init__(
        self,
        address: str,
        port: int,
        interface: str = "127.0.0.1",
        *,
        senders: SourceFilter | None = None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        self._place, self._interface, self._senders, self._on_message = (address, port), interface, senders, on_message
        self._socket: socket.socket | None = None
        self._messages: deque[bytes] = deque()
        self._octets = 0  # of them
        self._reading = False
        self._woken = asyncio.Event()
        self.datagrams = self.foreign = 0
        """Datagrams that came, and those of senders that are not to be listened to."""

    @property
    def port(self) -> int:
        """Where it hears: of use where 0 was asked for."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self._place[1]

    async def start(self) -> None:
        """Listen.  ``ConfigError`` when the port or the group cannot be had."""
        made = hearing(self._place, self._interface, self._senders)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        except OSError as error:
            made.close()
            raise ConfigError(f"{self._place[0]}:{self._place[1]}: {error.strerror or error}") from None
        self._socket = made
        self._resume()

    async def close(self) -> None:
        """Stop; whoever waits for a message is told that there are no more."""
        if self._socket is not None:
            self._pause()
            self._socket.close()
            self._socket = None
        self._woken.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self._socket is None:
                raise StopAsyncIteration
            self._woken.clear()
            await self._woken.wait()
        message = self._messages.popleft()
        self._octets -= len(message)
        if not self._reading and len(self._messages) < WAITING // 2 and self._octets < WAITING_OCTETS // 2:
            self._resume()
        return message

    def _messages_of(self, data: bytes, source: Source) -> list[bytes]:
        """What a datagram gives."""
        return [data] if data else []

    def _resume(self) -> None:
        if self._socket is not None and not self._reading:
            self._reading = True
            asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _pause(self) -> None:
        if self._socket is not None and self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._socket)

    def _read(self) -> None:
        held = self._socket
        for _ in range(TOGETHER):
            if held is None or self._socket is not held:
                return  # the callback has closed us
            try:
                data, source = held.recvfrom(self._largest + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # of a datagram that went elsewhere: an ICMP message
            self.datagrams += 1
            if self._senders is not None and not self._senders.admits(source[0]):
                self.foreign += 1
                continue
            if len(data) > self._largest:
                continue
            for message in self._messages_of(data, source[:2]):  # IPv6 says more
                if self._on_message is not None:
                    self._on_message(message)
                else:
                    self._messages.append(message)
                    self._octets += len(message)
                    self._woken.set()
            if len(self._messages) > WAITING or self._octets > WAITING_OCTETS:
                self._pause()
                return


class LtkmListener(Listener):
    """The LTKM push: each datagram is a message, and comes again every cycle."""


class CarouselReceiver(Listener):
    """The FLUTE carousel: each object once in each of its versions."""

    _largest = MAX_DATAGRAM

    def __init__(
        self,
        address: str,
        port: int,
        tsi: int,
        interface: str = "127.0.0.1",
        *,
        senders: SourceFilter | None = None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(address, port, interface, senders=senders, on_message=on_message)
        self.sessions = Sessions(tsi)

    @property
    def faults(self) -> Counter[str]:
        """What could not be received, by what became of it."""
        counts = self.sessions.counts
        return Counter({name: counts[name] for name in FAULTS if counts[name]})

    def forget(self) -> None:
        """Give everything again as it comes: a clock was set, a card changed, a registration arrived late."""
        self.sessions.forget()

    def _messages_of(self, data: bytes, source: Source) -> list[bytes]:
        return self.sessions.push(data, source, time.time())
