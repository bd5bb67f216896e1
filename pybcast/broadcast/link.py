# SPDX-License-Identifier: Apache-2.0
"""The link between a BSD/A and a process that puts on air what it says: the edge, or the carousel.

The process listens on a Unix socket (mode 0600, its own user only).  Each direction is a stream of frames: 4 bytes of length
(big-endian), then one message in MessagePack.  The BSD/A connects, and connects again for ever.  On each connection it first asks
``which``: the process answers ``here`` with what it has (R44) and the last ``commit`` that it was told, a witness of what the
BSD/A's store must know (R51).  Then the BSD/A says ``begin``, with its epoch and shard: who had an epoch before has no more to say,
and one that is lower is refused.  While no BSD/A is connected the process goes on with what it has.

To an edge (``PlanClient``) go plans and recalls, and back what became of them; what both ends have is compared on each connection,
so nothing is kept to be said again.  To a carousel (``ObjectClient``) everything is said anew between ``begin`` and ``end``; what
was not said again is then over.

``linkclient`` is the BSD/A's end (asyncio), ``linkserver`` the process's: it never blocks, and has one file descriptor to wait for.
confidence: own - all of it is between two processes of one machine.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from pybcast.errors import BadLength, BadValue
from pybcast.flows import Profile
from pybcast.flows.edge.slots import MOST, Held, HeldPeriod
from pybcast.flows.events import (
    AirStkm,
    Alarm,
    CarouselDrop,
    CarouselPut,
    Plan,
    PlanBegun,
    PlannedPeriod,
    PlanRefused,
    Recall,
    Recalled,
)
from pybcast.flows.tables import EdgeState
from pybcast.jsontext import bounded
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.unixsocket import CHUNK, connected

MAX_FRAME: Final = 80 << 20  # octets: a pull's answer (R30) in one CarouselPut, with room for its lengths

_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Stream = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Time = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
_Lead = Annotated[float, msgspec.Meta(ge=-(2.0**62), le=2.0**62)]
_Datagram = Annotated[bytes, msgspec.Meta(min_length=1, max_length=65507)]
_Token = Annotated[str, msgspec.Meta(max_length=200)]
_Mark = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Epoch = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Shard = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Key = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Salt = Annotated[bytes, msgspec.Meta(min_length=14, max_length=14)]
_AuthKey = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
_Name = Annotated[bytes, msgspec.Meta(min_length=1, max_length=16)]
_Starts = Annotated[tuple[_Time, ...], msgspec.Meta(max_length=MOST)]


# --- messages ---------------------------------------------------------------------------------------------------------


class _Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    me: _Text
    mark: Annotated[bytes, msgspec.Meta(max_length=64)]
    epoch: _Epoch
    shard: _Shard

    def __repr__(self) -> str:  # it holds the key of a pair's heartbeats
        return f"_Begin({self.me!r})"


class _End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    pass


class _Period(msgspec.Struct, frozen=True, array_like=True):
    start: _Time
    end: _Time
    lead: _Lead
    stkms: Annotated[tuple[tuple[Profile, _Datagram], ...], msgspec.Meta(min_length=1, max_length=2)]
    traffic_id: _Name
    tek: _Key
    salt: _Salt | None
    auth_key: _AuthKey | None
    authority_end: _Time | None

    def __repr__(self) -> str:  # it holds keys
        return f"_Period({self.start}, {self.end})"


class _Plan(msgspec.Struct, frozen=True, array_like=True, tag="plan"):
    service: _Text
    stream: _Stream
    protocol: int
    repetition: Annotated[float, msgspec.Meta(ge=0.001, le=3600.0)]
    hold_through: bool
    reserve: Annotated[int, msgspec.Meta(ge=0, le=MOST)]
    periods: Annotated[tuple[_Period, ...], msgspec.Meta(max_length=MOST)]


class _Recall(msgspec.Struct, frozen=True, array_like=True, tag="recall"):
    service: _Text
    stream: _Stream
    at: _Time
    off_air: bool


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


class _Recalled(msgspec.Struct, frozen=True, array_like=True, tag="recalled"):
    service: _Text
    stream: _Stream
    at: _Time
    given: _Starts
    stay: Annotated[tuple[tuple[_Time, _Time], ...], msgspec.Meta(max_length=MOST)]


class _Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    service: _Text
    stream: _Stream
    starts: _Starts
    why: _Text
    unknown: bool


class _Begun(msgspec.Struct, frozen=True, array_like=True, tag="begun"):
    service: _Text
    stream: _Stream
    start: _Time


class _Alarm(msgspec.Struct, frozen=True, array_like=True, tag="alarm"):
    code: _Text
    service: _Text
    stream: _Stream | None
    text: _Text
    active: bool


class _State(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    figures: dict[str, Any]


class _Here(msgspec.Struct, frozen=True, array_like=True, tag="here"):
    token: _Token
    epoch: _Epoch
    shard: _Shard
    held: tuple[
        tuple[_Text, _Stream, tuple[tuple[_Time, _Time, EdgeState, tuple[_Mark, ...], _Time | None], ...], _Time | None], ...
    ]
    alarms: tuple[_Alarm, ...]


_ToProcess = _Begin | _End | _Plan | _Recall | _Put | _Drop | _Ask | _Which | _Commit
_FromProcess = _Recalled | _Refused | _Begun | _Alarm | _State | _Here


@dataclass(frozen=True)
class Begin:
    """A BSD/A has come; it takes the place of one that was there.

    ``me``: its id.  ``mark``: a key by which the senders of a pair know each other; empty for one that is alone.
    """

    me: str
    mark: bytes = b""
    epoch: int = 1
    shard: int = 0

    def __repr__(self) -> str:
        return f"Begin({self.me!r}, epoch={self.epoch})"


@dataclass(frozen=True)
class End:
    """It has said what it had to say: what a carousel was not told since :class:`Begin` is over."""


@dataclass(frozen=True)
class Gone:
    """The BSD/A is gone: what it said holds until one comes."""

    why: str = ""


@dataclass(frozen=True)
class Ask:
    """Someone wants to know how the process is: ``LinkServer.answer``."""

    peer: int


@dataclass(frozen=True)
class Which:
    """A BSD/A wants to know what is there: ``LinkServer.here``."""

    peer: int


@dataclass(frozen=True)
class Commit:
    """How far the BSD/A's store has come: the link keeps it."""

    token: str


@dataclass(frozen=True)
class Here:
    """What a process says of itself (R44): the last commit it was told, its epoch, what it has, and the alarms that hold."""

    token: str = ""
    epoch: int = 0
    shard: int = 0
    held: tuple[Held, ...] = ()
    alarms: tuple[Alarm, ...] = ()


Told = Plan | Recall | CarouselPut | CarouselDrop
Said = Begin | End | Told | Ask | Gone | Which | Commit
Executed = Recalled | PlanRefused | PlanBegun | Alarm
"""What an edge says of the plans that it was given."""
Heard = Executed | Here | dict[str, Any]
"""What a BSD/A hears; figures as a dictionary."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_TO_PROCESS: Final = msgspec.msgpack.Decoder(_ToProcess)
_FROM_PROCESS: Final = msgspec.msgpack.Decoder(_FromProcess)
_LENGTH: Final = struct.Struct(">I")
_PROTOCOLS: Final = frozenset(int(protocol) for protocol in Protocol)


def frame(message: msgspec.Struct) -> bytes:
    """One message as it goes over the link."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


def told(output: Told) -> bytes:
    """The frame that says an output of the BSD/A's machine.  Of a plan it holds the keys in clear (R41)."""
    match output:
        case Plan():
            periods = tuple(_period(period) for period in output.periods)
            plan = (output.service, output.stream, int(output.protocol), output.repetition, output.hold_through, output.reserve)
            return frame(_Plan(*plan, periods))
        case Recall():
            return frame(_Recall(output.service, output.stream, output.at, output.off_air))
        case CarouselPut():
            return frame(_Put(output.object_id, output.service, output.data))
        case CarouselDrop():
            return frame(_Drop(output.object_id))


def _period(period: PlannedPeriod) -> _Period:
    stkms = tuple((stkm.profile, stkm.data) for stkm in period.stkms)
    auth_key = None if period.auth_key is None else period.auth_key.reveal()
    return _Period(
        period.start, period.end, period.lead, stkms, period.traffic_id, period.tek.reveal(), period.salt, auth_key,
        period.authority_end,
    )  # fmt: skip


def executed(output: Executed) -> bytes:
    """The frame that says what became of a plan."""
    return frame(_alarm(output) if isinstance(output, Alarm) else _executed(output))


def _executed(output: Recalled | PlanRefused | PlanBegun) -> msgspec.Struct:
    match output:
        case Recalled():
            return _Recalled(output.service, output.stream, output.at, output.given, output.stay)
        case PlanRefused():
            return _Refused(output.service, output.stream, output.starts, output.why, output.unknown)
        case PlanBegun():
            return _Begun(output.service, output.stream, output.start)


def _alarm(alarm: Alarm) -> _Alarm:
    return _Alarm(alarm.code, alarm.service, alarm.stream, alarm.text, alarm.active)


def here(said: Here) -> bytes:
    """The frame that says what a process has."""
    held = tuple(
        (one.service, one.stream, tuple((p.start, p.end, p.state, p.marks, p.stops) for p in one.periods), one.used)
        for one in said.held
    )
    return frame(_Here(said.token, said.epoch, said.shard, held, tuple(_alarm(alarm) for alarm in said.alarms)))


def understood(body: bytes, peer: int = 0) -> Said:
    """What a frame to the process says.  ``WireError`` when it is none of ours."""
    message = _decoded(_TO_PROCESS, body)
    match message:
        case _Plan():  # R13: whoever may open the socket is the BSD/A, which sealed or checked its STKMs
            if message.protocol not in _PROTOCOLS:
                raise BadValue(None, "frame.protocol", "a protocol of traffic", str(message.protocol))
            periods = tuple(
                PlannedPeriod(
                    p.start, p.end, p.lead, tuple(AirStkm(profile, data) for profile, data in p.stkms), p.traffic_id, Secret(p.tek),
                    p.salt, None if p.auth_key is None else Secret(p.auth_key), p.authority_end,
                )
                for p in message.periods
            )  # fmt: skip
            return Plan(
                message.service, message.stream, Protocol(message.protocol), message.repetition, periods, message.hold_through,
                message.reserve,
            )  # fmt: skip
        case _Recall():
            return Recall(message.service, message.stream, message.at, message.off_air)
        case _Put():
            return CarouselPut(message.object_id, message.service, message.data)
        case _Drop():
            return CarouselDrop(message.object_id)
        case _Begin():
            return Begin(message.me, message.mark, message.epoch, message.shard)
        case _End():
            return End()
        case _Which():
            return Which(peer)
        case _Commit():
            return Commit(message.token)
        case _:
            return Ask(peer)


def heard(body: bytes) -> Heard:
    """What a frame from the process says.  ``WireError`` when it is none of ours."""
    message = _decoded(_FROM_PROCESS, body)
    match message:
        case _Recalled():
            return Recalled(message.service, message.stream, message.at, message.given, message.stay)
        case _Refused():
            return PlanRefused(message.service, message.stream, message.starts, message.why, message.unknown)
        case _Begun():
            return PlanBegun(message.service, message.stream, message.start)
        case _Alarm():
            return _raised(message)
        case _Here():
            held = tuple(
                Held(service, stream, tuple(HeldPeriod(*period) for period in periods), used)
                for service, stream, periods, used in message.held
            )
            return Here(message.token, message.epoch, message.shard, held, tuple(_raised(alarm) for alarm in message.alarms))
        case _:
            figures: dict[str, Any] = message.figures
            bounded(figures, "frame")  # the only message with room for anything
            return figures


def _raised(message: _Alarm) -> Alarm:
    return Alarm(message.code, message.service, message.stream, message.text, message.active)


def _decoded(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BadValue(None, "frame", "a message of the link", type(error).__name__) from None


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


def state(figures: Mapping[str, Any]) -> bytes:
    """The frame that says how a process is, in plain numbers and texts."""
    return frame(_State(dict(figures)))


ASK: Final = frame(_Ask())
WHICH: Final = frame(_Which())
END: Final = frame(_End())


def begin(said: Begin) -> bytes:
    """The frame with which a BSD/A begins."""
    return frame(_Begin(said.me, said.mark, said.epoch, said.shard))


def commit(token: str) -> bytes:
    """The frame that says how far its store has come."""
    return frame(_Commit(token))


def ask(path: Path, *, timeout: float = 5.0) -> dict[str, Any]:
    """How the process that listens at ``path`` is.  ``OSError`` when nobody answers; it blocks: for commands and tests."""
    figures: dict[str, Any] = _answer(path, ASK, dict, timeout)
    return figures


def ask_what(path: Path, *, timeout: float = 5.0) -> Here:
    """What the process that listens at ``path`` has.  As :func:`ask`."""
    found: Here = _answer(path, WHICH, Here, timeout)
    return found


def _answer(path: Path, question: bytes, kind: type[Here | dict[str, Any]], timeout: float) -> Any:
    with connected(path, timeout) as connection:
        connection.sendall(question)
        frames = Frames()
        while True:
            body = frames.next()
            if body is not None:
                said = heard(body)
                if isinstance(said, kind):
                    return said
                continue
            data = connection.recv(CHUNK)
            if not data:
                raise ConnectionResetError("it hung up")
            frames.feed(data)
