# SPDX-License-Identifier: Apache-2.0
"""The link between a BSD/A and a process that puts on air what it says: the STKM sender, or the carousel.

The process listens on a Unix socket (mode 0600, its own user only).  Each direction is a stream of frames: 4 bytes of length
(big-endian), then one message in MessagePack.  The BSD/A connects, and connects again for ever.  On each connection it first asks
``which``: the process answers ``here`` with what is on air and the last ``commit`` that it was told, a witness of what the BSD/A's
store must know (R51).  Then the BSD/A says everything anew between ``begin`` and ``end``; what it did not say again is then over.
While no BSD/A is connected the process goes on with what it has.  The BSD/A keeps what holds and remembers what of it is yet to be
said, not the messages: a process that does not read delays what it is told and costs nothing.

``LinkClient`` is the BSD/A's end (asyncio), ``LinkServer`` the process's: it never blocks, and has one file descriptor to wait for.
confidence: own - all of it is between two processes of one machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from pybcast.errors import BadLength, BadValue, WireError
from pybcast.flows import Profile
from pybcast.flows.events import AirStkm, Announce, CarouselDrop, CarouselPut, OffAir
from pybcast.jsontext import bounded
from pybcast.unixsocket import OtherUser, connected, listening, opened, trusted

MAX_FRAME: Final = 80 << 20  # octets: a pull's answer (R30) in one CarouselPut, with room for its lengths
MAX_PEERS: Final = 8  # connections: a BSD/A, the one whose place it takes, and who asks for the state - confidence: own
MAX_BEHIND: Final = 4 << 20  # octets of reports that a BSD/A may leave unread, then it is cut off - confidence: own
CHUNK: Final = 1 << 16  # octets read or written at once
RETRY: Final = 0.2  # seconds between two attempts to connect - confidence: own
STUCK: Final = 5.0  # seconds in which a process must read something of what it is told - confidence: own
ASKED: Final = 2.0  # seconds between two questions for the process's state - confidence: own
ANSWERED: Final = 2.0  # seconds in which a process must say what it has on air - confidence: own
MARK: Final = 8  # octets of SHA-256 that tell one STKM of a period from another

Report = tuple[str, int, int]
"""(service, stream, start of the period): its first STKM has left."""

_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Stream = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Start = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
_Datagram = Annotated[bytes, msgspec.Meta(min_length=1, max_length=65507)]
_Report = tuple[_Text, _Stream, _Start]
_Token = Annotated[str, msgspec.Meta(max_length=200)]
_Mark = Annotated[bytes, msgspec.Meta(min_length=MARK, max_length=MARK)]


# --- messages ---------------------------------------------------------------------------------------------------------


class _Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    me: _Text
    mark: Annotated[bytes, msgspec.Meta(max_length=64)]


class _End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    pass


class _Announce(msgspec.Struct, frozen=True, array_like=True, tag="announce"):
    service: _Text
    stream: _Stream
    start: _Start
    repetition: Annotated[float, msgspec.Meta(ge=0.001, le=3600.0)]
    stkms: Annotated[tuple[tuple[Profile, _Datagram], ...], msgspec.Meta(min_length=1, max_length=2)]


class _OffAir(msgspec.Struct, frozen=True, array_like=True, tag="off-air"):
    service: _Text
    stream: _Stream
    start: _Start


class _Put(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    object_id: _Text
    service: _Text
    data: tuple[bytes, ...]


class _Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    object_id: _Text


class _Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    pass


class _Which(msgspec.Struct, frozen=True, array_like=True, tag="which"):
    pass


class _Commit(msgspec.Struct, frozen=True, array_like=True, tag="commit"):
    token: _Token


class _Announced(msgspec.Struct, frozen=True, array_like=True, tag="announced"):
    reports: tuple[_Report, ...]


class _State(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    figures: dict[str, Any]


class _Here(msgspec.Struct, frozen=True, array_like=True, tag="here"):
    token: _Token
    held: tuple[tuple[_Text, _Stream, _Start, _Mark], ...]


_ToProcess = _Begin | _End | _Announce | _OffAir | _Put | _Drop | _Ask | _Which | _Commit
_FromProcess = _Announced | _State | _Here


@dataclass(frozen=True)
class Begin:
    """A BSD/A has come and says everything anew; it takes the place of one that was there.

    ``me``: its id.  ``mark``: a key by which the senders of a pair know each other; empty for one that is alone.
    """

    me: str
    mark: bytes = b""

    def __repr__(self) -> str:
        return f"Begin({self.me!r})"


@dataclass(frozen=True)
class End:
    """What was not said since :class:`Begin` is over."""


@dataclass(frozen=True)
class Gone:
    """The BSD/A is gone: what it said holds until one comes."""

    why: str = ""


@dataclass(frozen=True)
class Ask:
    """Someone wants to know how the process is: :meth:`LinkServer.answer`."""

    peer: int


@dataclass(frozen=True)
class Which:
    """The BSD/A wants to know what is on air: the link answers by itself."""


@dataclass(frozen=True)
class Commit:
    """How far the BSD/A's store has come: the link keeps it."""

    token: str


Held = tuple[str, int, int, bytes]
"""(service, stream, start of the period, mark of a STKM): one that is on air."""
Told = Announce | OffAir | CarouselPut | CarouselDrop
Said = Begin | End | Told | Ask | Gone | Which | Commit

_ENCODER: Final = msgspec.msgpack.Encoder()
_TO_PROCESS: Final = msgspec.msgpack.Decoder(_ToProcess)
_FROM_PROCESS: Final = msgspec.msgpack.Decoder(_FromProcess)
_LENGTH: Final = struct.Struct(">I")


def frame(message: msgspec.Struct) -> bytes:
    """One message as it goes over the link."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


def told(output: Told) -> bytes:
    """The frame that says an output of the BSD/A's machine."""
    match output:
        case Announce():
            stkms = tuple((stkm.profile, stkm.data) for stkm in output.stkms)
            return frame(_Announce(output.service, output.stream, output.start, output.repetition, stkms))
        case OffAir():
            return frame(_OffAir(output.service, output.stream, output.start))
        case CarouselPut():
            return frame(_Put(output.object_id, output.service, output.data))
        case CarouselDrop():
            return frame(_Drop(output.object_id))


def understood(body: bytes, peer: int = 0) -> Said:
    """What a frame to the process says.  ``WireError`` when it is none of ours."""
    message = _decoded(_TO_PROCESS, body)
    match message:
        case _Announce():  # R13: whoever may open the socket is the BSD/A, which sealed or checked them
            stkms = tuple(AirStkm(profile, data) for profile, data in message.stkms)
            return Announce(message.service, message.stream, message.start, stkms, message.repetition)
        case _OffAir():
            return OffAir(message.service, message.stream, message.start)
        case _Put():
            return CarouselPut(message.object_id, message.service, message.data)
        case _Drop():
            return CarouselDrop(message.object_id)
        case _Begin():
            return Begin(message.me, message.mark)
        case _End():
            return End()
        case _Which():
            return Which()
        case _Commit():
            return Commit(message.token)
        case _:
            return Ask(peer)


def mark_of(stkm: bytes) -> bytes:
    """What tells a STKM from another of its period."""
    return hashlib.sha256(stkm).digest()[:MARK]


def _decoded(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        message = decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BadValue(None, "frame", "a message of the link", type(error).__name__) from None
    if isinstance(message, _State):  # the only message with room for anything
        bounded(message.figures, "frame")
    return message


class Frames:
    """Cuts a stream of bytes into frames.  Holds at most one frame of ``limit`` octets and what was fed beyond it."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def next(self) -> bytes | None:
        """The next whole frame's message; ``None`` when there is none yet.  ``BadLength``: the stream is no link."""
        held = len(self._data) - self._at
        if held < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._data, self._at)
        if not 1 <= size <= self._limit:
            raise BadLength(self._at, "frame", f"1..{self._limit} octets", str(size))
        if held < _LENGTH.size + size:
            return None
        begin = self._at + _LENGTH.size
        self._at = begin + size
        return bytes(memoryview(self._data)[begin : self._at])


# --- the process's end ------------------------------------------------------------------------------------------------


class _Peer:
    def __init__(self, connection: socket.socket, limit: int) -> None:
        self.connection = connection
        self.frames = Frames(limit)
        self.behind = bytearray()
        self.whole = False  # what has come holds a whole frame, perhaps


class LinkServer:
    """The end of the process that puts things on air.  Nothing here blocks.

    Wait until :meth:`fileno` can be read (``select``, or ``loop.add_reader``) or :attr:`waiting` is true, then :meth:`poll`.
    ``limit``: octets of a frame.  ``on_air``: what is on air now, for a BSD/A that asks.
    """

    def __init__(self, path: Path, *, limit: int = MAX_FRAME, on_air: Callable[[], Collection[Held]] = tuple) -> None:
        self._path, self._limit, self._on_air = path, limit, on_air
        self._commit = ""
        self._poll = select.epoll()
        self._listener: socket.socket | None = None
        self._peers: dict[int, _Peer] = {}
        self._owner: int | None = None
        self._pending: deque[Said] = deque()
        self._reports: list[Report] = []
        self.refused = 0  # connections that were cut off for what they said, or for who they are

    def open(self) -> None:
        """Listen.  ``ConfigError`` when the path cannot be had, or another process listens there."""
        self._listener = listening(self._path, alone=True)
        self._listener.listen(MAX_PEERS)
        self._listener.setblocking(False)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Everyone is cut off; the BSD/A keeps what it has to say."""
        for number in list(self._peers):
            self._cut(number)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        self._poll.close()

    def fileno(self) -> int:
        return self._poll.fileno()

    @property
    def connected(self) -> bool:
        """Whether a BSD/A is there."""
        return self._owner is not None

    @property
    def waiting(self) -> bool:
        """Whether :meth:`poll` would give something without reading."""
        return bool(self._pending) or any(peer.whole for peer in self._peers.values())

    def poll(self, most: int = 64) -> list[Said]:
        """The next messages, at most ``most``; what is not taken now waits, and its sender with it."""
        for number, event in self._poll.poll(0):
            if self._listener is not None and number == self._listener.fileno():
                self._accept()
            elif number in self._peers:
                self._served(number, event)
        found: list[Said] = []
        while self._pending and len(found) < most:
            found.append(self._pending.popleft())
        for number in list(self._peers):
            while len(found) < most and number in self._peers:
                said = self._next(number)
                if said is None:
                    break
                found.append(said)
                while self._pending and len(found) < most:
                    found.append(self._pending.popleft())
        return found

    def announced(self, report: Report) -> None:
        """Tell the BSD/A, with the next :meth:`flush`."""
        if self._owner is not None:
            self._reports.append(report)

    def flush(self) -> None:
        """Send what is to be reported."""
        if self._reports and self._owner is not None:
            reports, self._reports = self._reports, []
            self._write(self._owner, frame(_Announced(tuple(reports))))
        self._reports.clear()

    def again(self) -> None:
        """Have the BSD/A connect again, and say everything anew."""
        if self._owner is not None:
            self._cut(self._owner, "it is to say everything anew")

    def answer(self, ask: Ask, figures: Mapping[str, Any]) -> None:
        """Answer a question with plain numbers and texts."""
        if ask.peer in self._peers:
            self._write(ask.peer, frame(_State(dict(figures))))

    # --- connections ------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(OSError):  # BlockingIOError: that was all
            while True:
                connection, _ = self._listener.accept()
                if not trusted(connection) or len(self._peers) >= MAX_PEERS:
                    self.refused += 1
                    connection.close()
                    continue
                connection.setblocking(False)
                self._peers[connection.fileno()] = _Peer(connection, self._limit)
                self._poll.register(connection.fileno(), select.EPOLLIN)

    def _served(self, number: int, event: int) -> None:
        peer = self._peers[number]
        if event & select.EPOLLOUT:
            self._write(number, b"")
        if number not in self._peers or not event & ~select.EPOLLOUT or peer.whole:
            return
        try:
            data = peer.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._cut(number, "it hung up")
            return
        peer.frames.feed(data)
        peer.whole = True

    def _next(self, number: int) -> Said | None:
        peer = self._peers[number]
        if not peer.whole:
            return None
        try:
            said: Said = Which()
            while isinstance(said, Which | Commit):
                body = peer.frames.next()
                if body is None:
                    peer.whole = False
                    return None
                said = understood(body, number)
                if isinstance(said, Which):
                    self._write(number, frame(_Here(self._commit, tuple(self._on_air()))))
                    if number not in self._peers:
                        return None
                elif isinstance(said, Commit) and number == self._owner:
                    self._commit = said.token
            if isinstance(said, Begin):
                before, self._owner = self._owner, number
                self._reports.clear()
                if before is not None and before != number:
                    self._cut(before)
            elif not isinstance(said, Ask) and self._owner != number:
                raise BadValue(None, "frame", "begin", type(said).__name__)
        except WireError as error:
            self.refused += 1
            self._cut(number, str(error))
            return None
        return said

    def _write(self, number: int, data: bytes) -> None:
        peer = self._peers[number]
        peer.behind += data
        try:
            while peer.behind:
                del peer.behind[: peer.connection.send(peer.behind)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._cut(number, error.strerror or "lost")
            return
        if len(peer.behind) > MAX_BEHIND:
            self._cut(number, "it does not read")
            return
        self._poll.modify(number, select.EPOLLIN | (select.EPOLLOUT if peer.behind else 0))

    def _cut(self, number: int, why: str = "") -> None:
        peer = self._peers.pop(number)
        self._poll.unregister(number)
        peer.connection.close()
        if number == self._owner:
            self._owner = None
            self._pending.append(Gone(why))


# --- the BSD/A's end --------------------------------------------------------------------------------------------------

_Key = tuple[str, int, int] | tuple[str]
_END: Final[_Key] = ("",)  # in the order of what is to be said: no object has an empty name


def _key(output: Told) -> _Key:
    match output:
        case Announce() | OffAir():
            return (output.service, output.stream, output.start)
        case CarouselPut() | CarouselDrop():
            return (f"object {output.object_id}",)


class LinkClient:
    """The BSD/A's end.  Everything runs in one event loop; :meth:`put` never waits.

    ``announced``: is given the reports as they come.  ``changed(connected, why)``: the process has come, or is lost.
    ``commit``: how far our store has come, as text that only we can make.  ``here(token, held)``: what the process has on air, and
    the last of these texts that it was told, before it is told anything.  ``silent``: nothing is said before :attr:`speaking` is
    set.
    """

    def __init__(
        self,
        path: Path,
        *,
        me: str,
        mark: bytes = b"",
        announced: Callable[[Collection[Report]], None] = lambda _: None,
        changed: Callable[[bool, str], None] = lambda _, __: None,
        commit: Callable[[], str] = lambda: "",
        here: Callable[[str, Collection[Held]], None] = lambda _, __: None,
        silent: bool = False,
        limit: int = MAX_FRAME,
    ) -> None:
        self.path, self._me, self._mark, self._limit = path, me, mark, limit
        self._announced, self._changed, self._commit, self._here = announced, changed, commit, here
        self._again = asyncio.Event()
        self.speaking = asyncio.Event()
        if not silent:
            self.speaking.set()
        self.tried = asyncio.Event()
        """The process has said what it has on air, or could not be reached."""
        self._holds: dict[_Key, Announce | CarouselPut] = {}
        self._unsaid: dict[_Key, None] = {}  # in the order in which it will be said
        self._said: dict[_Key, Announce | CarouselPut] = {}  # on this connection
        self._reported: set[_Key] = set()
        self._wake = asyncio.Event()
        self.connected = False
        self.why = "not connected yet"
        self.state: dict[str, Any] = {}
        """What the process last said of itself."""

    def put(self, output: Told) -> None:
        """Say it, now or when the process is there.  Saying the same again says nothing."""
        key = _key(output)
        if isinstance(output, OffAir | CarouselDrop):
            if self._holds.pop(key, None) is None:
                return
            self._reported.discard(key)
        else:
            if self._holds.get(key) == output:
                if key in self._reported and isinstance(output, Announce):  # a machine that was made anew asks again
                    self._announced([(output.service, output.stream, output.start)])
                return
            self._holds[key] = output
            self._reported.discard(key)
        self._mark_unsaid(key)

    def keep(self, periods: Collection[tuple[str, int, int]]) -> None:
        """Other (service, stream, start)s are not on air any more, and it may not have been said."""
        for output in list(self._holds.values()):
            if isinstance(output, Announce) and (output.service, output.stream, output.start) not in periods:
                self.put(OffAir(output.service, output.stream, output.start))

    def forget(self) -> None:
        """Nothing that was said before holds any more: on a new connection only what comes from now on is said."""
        self._holds.clear()
        self._unsaid.clear()
        self.connected = False
        self._again.set()

    def _mark_unsaid(self, key: _Key) -> None:
        if self.connected:
            self._unsaid.pop(key, None)
            if key in self._holds or key in self._said:  # what is over before it was said is nothing to say
                self._unsaid[key] = None
                self._wake.set()

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
                    self._lost(writer)
            if why != self.why or self.connected:
                self.connected, self.why = False, why
                self._changed(False, why)
            self.tried.set()
            await asyncio.sleep(RETRY)

    def _lost(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        self._unsaid.clear()
        self._said.clear()
        self._reported.clear()
        self.state = {}

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.transport.set_write_buffer_limits(CHUNK)
        frames = Frames(self._limit)
        writer.write(frame(_Which()))
        try:
            async with asyncio.timeout(ANSWERED):
                message = await self._next(reader, frames)
        except TimeoutError:
            return "it does not say what is on air"
        except (WireError, OSError) as error:
            return str(error)
        if not isinstance(message, _Here):
            return "it hung up" if message is None else "it does not say what is on air"
        self._here(message.token, message.held)
        self.tried.set()
        await self.speaking.wait()
        self._again.clear()
        writer.write(frame(_Begin(self._me, self._mark)))
        self._unsaid = dict.fromkeys((*self._holds, _END))
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
        while True:
            if not self._unsaid:
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASKED):
                        await self._wake.wait()
            chunk = bytearray() if self._unsaid else bytearray(frame(_Ask()))
            if token != (now := self._commit()):
                token = now
                chunk += frame(_Commit(token))
            while self._unsaid and len(chunk) < CHUNK:
                key = next(iter(self._unsaid))
                del self._unsaid[key]
                chunk += self._frame(key)
            try:
                writer.write(bytes(chunk))
                async with asyncio.timeout(STUCK):
                    await writer.drain()
            except TimeoutError:
                return "it does not read"
            except OSError as error:
                return error.strerror or "lost"

    def _frame(self, key: _Key) -> bytes:
        if key == _END:
            return frame(_End()) + frame(_Ask())
        holds, said = self._holds.get(key), self._said.get(key)
        if holds is not None:
            if holds == said:
                return b""
            self._said[key] = holds
            return told(holds)
        if said is None:
            return b""  # it was over before it was said
        del self._said[key]
        return told(OffAir(*key) if isinstance(said, Announce) and len(key) == 3 else CarouselDrop(_object(said)))

    @staticmethod
    async def _next(reader: asyncio.StreamReader, frames: Frames) -> _FromProcess | None:
        """The process's next message; ``None`` when it hung up."""
        while (body := frames.next()) is None:
            data = await reader.read(CHUNK)
            if not data:
                return None
            frames.feed(data)
        message: _FromProcess = _decoded(_FROM_PROCESS, body)
        return message

    async def _listen(self, reader: asyncio.StreamReader, frames: Frames) -> str:
        try:
            while (message := await self._next(reader, frames)) is not None:
                self._heard(message)
        except WireError as error:
            return str(error)
        except OSError as error:
            return error.strerror or "lost"
        return "it hung up"

    def _heard(self, message: _FromProcess) -> None:
        if isinstance(message, _State):
            self.state = message.figures
            return
        if isinstance(message, _Here):
            return  # nobody asked again
        reports: list[Report] = [report for report in message.reports if report in self._said and report in self._holds]
        self._reported.update(reports)
        if reports:
            self._announced(reports)


def _object(said: Announce | CarouselPut) -> str:
    assert isinstance(said, CarouselPut)
    return said.object_id


def ask(path: Path, *, timeout: float = 5.0) -> dict[str, Any]:
    """How the process that listens at ``path`` is.  ``OSError`` when nobody answers; it blocks: for commands and tests."""
    with connected(path, timeout) as connection:
        connection.sendall(frame(_Ask()))
        frames = Frames()
        while True:
            body = frames.next()
            if body is not None:
                message = _decoded(_FROM_PROCESS, body)
                if isinstance(message, _State):
                    return message.figures
                continue
            data = connection.recv(CHUNK)
            if not data:
                raise ConnectionResetError("it hung up")
            frames.feed(data)
