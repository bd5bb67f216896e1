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

from pybcast.broadcast.alc import MAX_DATAGRAM
from pybcast.broadcast.bundle import MAX_MESSAGE
from pybcast.broadcast.datagrams import hearing
from pybcast.broadcast.objects import Objects
from pybcast.errors import ConfigError

BUFFER: Final = 4 << 20  # octets that the system keeps for us while we do something else; it may give less
TOGETHER: Final = 64  # datagrams that are read before others have their turn
WAITING: Final = 10_000  # messages that wait to be taken, then reading stops
MAX_SOURCES: Final = 4  # senders of one session: two headends, and who pretends

Source = tuple[str, int]


class Sessions:
    """The session of each sender (RFC 6726 3.3: a TSI is one of a source): the TOIs of two headends, or of a carousel before and
    after its restart, are not the same.

    Beyond ``MAX_SOURCES`` the one that has been silent longest goes, of those that have given nothing.
    """

    def __init__(self, tsi: int) -> None:
        self._tsi = tsi
        self._of: OrderedDict[Source, Objects] = OrderedDict()
        self.gone: Counter[str] = Counter()

    def push(self, data: bytes, source: Source, now: float) -> list[bytes]:
        """One datagram at Unix time ``now``; what it made whole."""
        session = self._of.get(source)
        if session is None:
            if len(self._of) == MAX_SOURCES:
                useless = (key for key, objects in self._of.items() if not objects.counts["objects"])
                self.gone.update(self._of.pop(next(useless, next(iter(self._of)))).counts)
            session = self._of[source] = Objects(self._tsi)
        self._of.move_to_end(source)
        return session.push(data, now)

    @property
    def counts(self) -> Counter[str]:
        """What came, by what became of it."""
        return sum((objects.counts for objects in self._of.values()), self.gone)

    @property
    def held(self) -> int:
        """Octets of objects that are not whole."""
        return sum(objects.held for objects in self._of.values())

    def forget(self) -> None:
        """Give everything again."""
        self.gone = self.counts
        self._of.clear()


class Listener:
    """Hears datagrams, gives messages: to ``on_message`` as they come, or through ``async for``.

    ``address``, ``port``: where they are sent to.  ``interface``: address of that by which a group is heard.  ``source``: the only
    address to listen to, ``""`` = any.
    """

    _largest = MAX_MESSAGE

    def __init__(
        self,
        address: str,
        port: int,
        interface: str = "127.0.0.1",
        *,
        source: str = "",
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        self._place, self._interface, self._source, self._on_message = (address, port), interface, source, on_message
        self._socket: socket.socket | None = None
        self._messages: deque[bytes] = deque()
        self._reading = False
        self._woken = asyncio.Event()
        self.datagrams = 0

    @property
    def port(self) -> int:
        """Where it hears: of use where 0 was asked for."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self._place[1]

    async def start(self) -> None:
        """Listen.  ``ConfigError`` when the port or the group cannot be had."""
        made = hearing(self._place, self._interface)
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
        if not self._reading and len(self._messages) < WAITING // 2:
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
            if len(data) > self._largest or (self._source and source[0] != self._source):
                continue
            for message in self._messages_of(data, source):
                if self._on_message is not None:
                    self._on_message(message)
                else:
                    self._messages.append(message)
                    self._woken.set()
            if len(self._messages) > WAITING:
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
        source: str = "",
        on_message: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(address, port, interface, source=source, on_message=on_message)
        self.sessions = Sessions(tsi)

    def forget(self) -> None:
        """Give everything again as it comes: a clock was set, a card changed, a registration arrived late."""
        self.sessions.forget()

    def _messages_of(self, data: bytes, source: Source) -> list[bytes]:
        return self.sessions.push(data, source, time.time())
