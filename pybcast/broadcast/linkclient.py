# SPDX-License-Identifier: Apache-2.0
"""The BSD/A's end of the link (``link``): one client for an edge, one for a carousel.  Everything runs in one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pybcast.broadcast import link
from pybcast.broadcast.link import MAX_FRAME, Begin, Executed, Frames, Heard, Here, heard, told
from pybcast.errors import WireError
from pybcast.flows.events import CarouselDrop, CarouselPut, Plan, Recall
from pybcast.unixsocket import CHUNK, OtherUser, opened

RETRY: Final = 0.2  # seconds between two attempts to connect - confidence: own
STUCK: Final = 5.0  # seconds in which a process must read something of what it is told - confidence: own
ASKED: Final = 2.0  # seconds between two questions for the process's state - confidence: own
ANSWERED: Final = 2.0  # seconds in which a process must say what it has - confidence: own
MAX_UNSAID: Final = 256 << 20  # octets of plans that wait for an edge to read: beyond, it is told anew - confidence: own


class LinkClient:
    """What both clients have in common: to connect, to ask first, to go on for ever.

    ``changed(connected, why)``: the process has come, or is lost.  ``commit``: how far our store has come, as text that only we can
    make.  ``here``: is given what the process says of itself before it is told anything.  ``silent``: nothing is said before
    :attr:`speaking` is set.  ``shard``: of this BSD/A.
    """

    def __init__(
        self,
        path: Path,
        *,
        me: str,
        mark: bytes = b"",
        changed: Callable[[bool, str], None] = lambda _, __: None,
        commit: Callable[[], str] = lambda: "",
        here: Callable[[Here], None] = lambda _: None,
        silent: bool = False,
        shard: int = 0,
    ) -> None:
        self.path, self._me, self._mark, self._shard = path, me, mark, shard
        self._changed, self._commit, self._here = changed, commit, here
        self._epoch = 0
        self._again = asyncio.Event()
        self._wake = asyncio.Event()
        self.speaking = asyncio.Event()
        if not silent:
            self.speaking.set()
        self.tried = asyncio.Event()
        """The process has said what it has, or could not be reached."""
        self.connected = False
        self.why = "not connected yet"
        self.state: dict[str, Any] = {}
        """What the process last said of itself."""

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        while True:
            why = "lost"
            try:
                reader, writer = await opened(self.path, CHUNK)
            except OSError as error:
                why = f"{self.path}: {error.strerror or error}"
            except OtherUser as error:
                why = str(error)
            else:
                try:
                    why = await self._talk(reader, writer)
                finally:
                    writer.transport.abort()
                    self.state = {}
                    self._lost()
            if why != self.why or self.connected:
                self.connected, self.why = False, why
                self._changed(False, why)
            self.tried.set()
            await asyncio.sleep(RETRY)

    # --- what a client of its own says --------------------------------------------------------------------------------

    def _begun(self) -> None:
        """A connection has begun."""
        raise NotImplementedError

    def _lost(self) -> None:
        """A connection is lost."""
        raise NotImplementedError

    def _chunk(self, most: int) -> bytes:
        """What is to be said next, some ``most`` octets of it; empty when there is nothing."""
        raise NotImplementedError

    def _said(self, message: Executed | Here) -> None:
        """The process has spoken."""

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.transport.set_write_buffer_limits(CHUNK)
        frames = Frames(MAX_FRAME)
        writer.write(link.WHICH)
        try:
            async with asyncio.timeout(ANSWERED):
                said = await self._next(reader, frames)
        except TimeoutError:
            return "it does not say what it has"
        except (WireError, OSError) as error:
            return str(error)
        if not isinstance(said, Here):
            return "it hung up" if said is None else "it does not say what it has"
        if not self._epoch:
            self._epoch = said.epoch + 1
        if said.epoch > self._epoch:
            return "another BSD/A has taken our place there"
        if said.shard != self._shard:
            return f"it is of shard {said.shard}, not {self._shard}"
        self._here(said)
        self.tried.set()
        await self.speaking.wait()
        self._again.clear()
        writer.write(link.begin(Begin(self._me, self._mark, self._epoch, self._shard)))
        self._begun()
        self.connected, self.why = True, ""
        self._changed(True, "")
        work = [asyncio.create_task(each) for each in (self._listen(reader, frames), self._say(writer), self._forgotten())]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _forgotten(self) -> str:
        await self._again.wait()
        return "everything is said anew"

    async def _say(self, writer: asyncio.StreamWriter) -> str:
        token = ""
        asked = 0.0
        loop = asyncio.get_running_loop()
        while True:
            said = self._chunk(CHUNK)
            if not said and (wait := asked + ASKED - loop.time()) > 0:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                said = self._chunk(CHUNK)
            if loop.time() >= asked + ASKED:
                asked = loop.time()
                said += link.ASK
            if token != (now := self._commit()):
                token = now
                said = link.commit(token) + said
            try:
                writer.write(said)
                async with asyncio.timeout(STUCK):
                    await writer.drain()
            except TimeoutError:
                return "it does not read"
            except OSError as error:
                return error.strerror or "lost"

    @staticmethod
    async def _next(reader: asyncio.StreamReader, frames: Frames) -> Heard | None:
        """The process's next message; ``None`` when it hung up."""
        while (body := frames.next()) is None:
            data = await reader.read(CHUNK)
            if not data:
                return None
            frames.feed(data)
        return heard(body)

    async def _listen(self, reader: asyncio.StreamReader, frames: Frames) -> str:
        try:
            while (message := await self._next(reader, frames)) is not None:
                if isinstance(message, dict):
                    self.state = message
                else:
                    self._said(message)
        except WireError as error:
            return str(error)
        except OSError as error:
            return error.strerror or "lost"
        return "it hung up"


class PlanClient(LinkClient):
    """The client of an edge.

    ``came``: is given what the edge has when a connection has begun, and after :meth:`ask_again`: what is put from then on rests on
    it.  ``executed``: what the edge says of its plans.  While there is no connection nothing is kept of what is put.
    """

    def __init__(self, path: Path, *, came: Callable[[Here], None], executed: Callable[[Executed], None], **options: Any) -> None:
        super().__init__(path, **options)
        self._came, self._executed = came, executed
        self._unsaid: deque[bytes] = deque()
        self._octets = 0

    def put(self, output: Plan | Recall) -> None:
        """Say it, if the edge is there."""
        if self.connected:
            self._add(told(output))

    def end(self) -> None:
        """All has been said that follows from what the edge has."""
        if self.connected:
            self._add(link.END + link.ASK)

    def ask_again(self) -> None:
        """The machine is made anew: it asks what the edge has."""
        if self.connected:
            self._add(link.WHICH)

    def forget(self) -> None:
        """Begin a new connection."""
        self.connected = False
        self._again.set()

    def _add(self, said: bytes) -> None:
        self._unsaid.append(said)
        self._octets += len(said)
        self._wake.set()
        if self._octets > MAX_UNSAID:
            self.forget()

    def _begun(self) -> None:
        self._unsaid.append(link.WHICH)

    def _lost(self) -> None:
        self._unsaid.clear()
        self._octets = 0

    def _chunk(self, most: int) -> bytes:
        chunk = bytearray()
        while self._unsaid and len(chunk) < most:
            chunk += self._unsaid.popleft()
        self._octets = max(0, self._octets - len(chunk))
        return bytes(chunk)

    def _said(self, message: Executed | Here) -> None:
        if isinstance(message, Here):
            self._came(message)
        else:
            self._executed(message)


class ObjectClient(LinkClient):
    """The client of a carousel.  It keeps what holds, and remembers what of it is yet to be said, not the messages: a carousel that
    does not read delays what it is told and costs nothing.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self._holds: dict[str, CarouselPut] = {}
        self._unsaid: dict[str, None] = {}  # in the order in which it will be said
        self._said_here: dict[str, CarouselPut] = {}  # on this connection
        self._end = False  # whether ``end`` is yet to be said

    def put(self, output: CarouselPut | CarouselDrop) -> None:
        """Say it, now or when the process is there.  Saying the same again says nothing."""
        name = output.object_id
        if isinstance(output, CarouselDrop):
            if self._holds.pop(name, None) is None:
                return
        elif self._holds.get(name) == output:
            return
        else:
            self._holds[name] = output
        if self.connected:
            self._unsaid.pop(name, None)
            if name in self._holds or name in self._said_here:  # what is over before it was said is nothing to say
                self._unsaid[name] = None
                self._wake.set()

    def forget(self) -> None:
        """Nothing that was said before holds any more: on a new connection only what comes from now on is said."""
        self._holds.clear()
        self._unsaid.clear()
        self.connected = False
        self._again.set()

    def _begun(self) -> None:
        self._unsaid = dict.fromkeys(self._holds)
        self._end = True

    def _lost(self) -> None:
        self._unsaid.clear()
        self._said_here.clear()

    def _chunk(self, most: int) -> bytes:
        chunk = bytearray()
        while self._unsaid and len(chunk) < most:
            name = next(iter(self._unsaid))
            del self._unsaid[name]
            chunk += self._frame(name)
        if self._end and not self._unsaid:
            self._end = False
            chunk += link.END + link.ASK
        return bytes(chunk)

    def _frame(self, name: str) -> bytes:
        holds, said = self._holds.get(name), self._said_here.get(name)
        if holds is not None:
            if holds == said:
                return b""
            self._said_here[name] = holds
            return told(holds)
        if said is None:
            return b""  # it was over before it was said
        del self._said_here[name]
        return told(CarouselDrop(name))
