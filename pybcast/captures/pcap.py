# SPDX-License-Identifier: Apache-2.0
"""Captures: key messages on the network, received, written as pcapng with a comment each, and read again from pcap and pcapng.

Reading is total and bounded: a file gives ``Datagram`` for each UDP datagram, ``Skipped`` for every other packet, and ends with a
``WireError`` at its first fault (``offset``: in the file; ``field``: ``block[3].captured_length``).  A datagram that came in
fragments has number and time of the one that made it whole; a fragment whose datagram never is whole is ``Skipped`` once that is
known.  A packet is held in memory only while it is looked at, a fragment while it waits (``fragments``).

The formats are small and fixed (pcapng: draft-ietf-opsawg-pcapng; pcap: draft-ietf-opsawg-pcap), so they are read and written
here: scapy is GPL and large, and the small libraries do not write comments or do not bound what they read.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from pybcast.broadcast import flute_fields
from pybcast.captures.fragments import Origin
from pybcast.captures.frames import RAW, UDP, Address, Frames, NoDatagram, internet_sum, udp_head
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.messages import FIRST_BYTE, KINDS, Kind, Leniency
from pybcast.wire import Explanation, explain, mikey_kind

MAX_PACKET: Final = 1 << 20  # bytes of a packet that is looked at; Wireshark's own limit is 256 KiB - confidence: own
MAX_OPTIONS: Final = 1 << 20  # bytes of a block's options: comments - confidence: own
MAX_INTERFACES: Final = 1 << 16  # of a pcapng section; a count of them is not in the file - confidence: own
COMMENTS: Final = 1 << 12  # whose messages are remembered: a STKM is repeated for a whole period
MAX_REMEMBERED: Final = 2000  # bytes of such a message
MAX_COMMENT: Final = 1000  # characters

_PCAP: Final = {
    b"\xa1\xb2\xc3\xd4": (">", 1000), b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1), b"\x4d\x3c\xb2\xa1": ("<", 1),
}  # fmt: skip
"""Magic -> byte order, nanoseconds of a fraction's unit."""
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_ORDERS: Final = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_COMMENT, _RESOLUTION, _OFFSET = 1, 9, 14
_BILLION: Final = 10**9


def is_capture(head: bytes) -> bool:
    """Whether a file that begins so is pcap or pcapng."""
    return head[:4] in _PCAP or head[:4] == _SECTION


# --- what is in it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram.  ``number``: of its packet, from 1.  ``time``: nanoseconds since 1970, ``None`` = not known."""

    number: int
    time: int | None
    source: Address
    destination: Address
    payload: bytes
    comment: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A packet that holds no UDP datagram, or not the whole of one, or is of a link that is not known here."""

    number: int
    time: int | None
    reason: str


Packet = Datagram | Skipped


# --- reading ------------------------------------------------------------------------------------------------------------


class _Input:
    """A file that knows how far it is read, and refuses to end early."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file, self._head, self.offset = file, head, 0

    def some(self, size: int) -> bytes:
        """``size`` bytes, or fewer where the file ends."""
        parts = [self._head[:size]]
        self._head = self._head[size:]
        left = size - len(parts[0])
        while left > 0 and (part := self._file.read(left)):  # a pipe gives less than asked
            parts.append(part)
            left -= len(part)
        data = b"".join(parts)
        self.offset += len(data)
        return data

    def take(self, size: int, field: str) -> bytes:
        start = self.offset
        data = self.some(size)
        if len(data) < size:
            raise Truncated(start, field, f"{size} bytes", f"{len(data)} bytes")
        return data

    def skip(self, size: int, field: str) -> None:
        while size > 0:
            size -= len(self.take(min(size, 1 << 16), field))


def read(file: BinaryIO, head: bytes = b"") -> Iterator[Packet]:
    """The packets of a capture, one by one.  ``head``: what was read of the file before.

    Raises ``WireError`` at the first fault, when the packets before it were given: ``Truncated`` (a capture that was not ended well
    ends so too), ``BadLength``, ``BadValue``, ``Unsupported``; and what ``file`` raises.
    """
    source = _Input(file, head)
    magic = source.take(4, "magic")
    if magic in _PCAP:
        return _unwrapped(_pcap(source, *_PCAP[magic]))
    if magic == _SECTION:
        return _unwrapped(_pcapng(source))
    raise BadValue(0, "magic", "pcap or pcapng", magic.hex())


@dataclass(frozen=True, slots=True)
class _Frame:
    """A packet as it was captured."""

    origin: Origin
    link: int
    data: bytes
    comment: str | None = None


def _unwrapped(captured: Iterator[_Frame]) -> Iterator[Packet]:
    frames = Frames()
    try:
        for frame in captured:
            yield from _packet(frames, frame)
    except WireError:
        yield from _never_whole(frames)
        raise
    yield from _never_whole(frames)


def _packet(frames: Frames, frame: _Frame) -> Iterator[Packet]:
    number, time = frame.origin.number, frame.origin.time
    try:
        found = frames.datagram(frame.link, frame.data, frame.origin)
        if found is not None:
            yield Datagram(number, time, *found, frame.comment)
    except NoDatagram as no:
        yield Skipped(number, time, str(no))
    if frames.fragments.given_up:
        yield from _given_up(frames)


def _never_whole(frames: Frames) -> Iterator[Packet]:
    frames.fragments.end()
    yield from _given_up(frames)


def _given_up(frames: Frames) -> Iterator[Packet]:
    given_up, frames.fragments.given_up = frames.fragments.given_up, []
    for origin, why in given_up:
        yield Skipped(origin.number, origin.time, why)


def _pcap(source: _Input, order: str, unit: int) -> Iterator[_Frame]:
    major, minor, _, _, _, network = struct.unpack(f"{order}HHiIII", source.take(20, "header"))
    if (major, minor) != (2, 4):
        raise Unsupported(4, "version", "2.4", f"{major}.{minor}")
    link = network & 0xFFFF  # above it: whether a frame ends with a check sum
    number = 0
    while True:
        start, number = source.offset, number + 1
        name = f"packet[{number}]"
        header = source.some(16)
        if not header:
            return
        if len(header) < 16:
            raise Truncated(start, f"{name}.header", "16 bytes", f"{len(header)} bytes")
        seconds, fraction, captured, _ = struct.unpack(f"{order}IIII", header)
        if captured > MAX_PACKET:
            raise BadLength(start + 8, f"{name}.captured_length", f"0..{MAX_PACKET}", str(captured))
        data = source.take(captured, f"{name}.data")
        yield _Frame(Origin(number, seconds * _BILLION + fraction * unit), link, data)


@dataclass(frozen=True)
class _Interface:
    link: int
    snap: int
    units: tuple[int, int]  # nanoseconds of a tick: numerator, denominator
    offset: int  # seconds


def _pcapng(source: _Input) -> Iterator[_Frame]:
    order, interfaces, number, index = ">", list[_Interface](), 0, 0
    while True:
        name, start = f"block[{index}]", source.offset
        if index == 0:
            start, kind_bytes = 0, _SECTION
        else:
            kind_bytes = source.some(4)
            if not kind_bytes:
                return
            if len(kind_bytes) < 4:
                raise Truncated(start, f"{name}.type", "4 bytes", f"{len(kind_bytes)} bytes")
        length_bytes = source.take(4, f"{name}.total_length")
        section = kind_bytes == _SECTION
        head = b""
        if section:  # its own byte order comes first
            head = source.take(4, f"{name}.byte_order_magic")
            if head not in _ORDERS:
                raise BadValue(start + 8, f"{name}.byte_order_magic", "1a2b3c4d in either order", head.hex())
            order, interfaces = _ORDERS[head], []
        (kind,) = struct.unpack(f"{order}I", kind_bytes)
        (total,) = struct.unpack(f"{order}I", length_bytes)
        body = total - 12 - len(head)
        if total % 4 or body < (12 if section else 0):
            raise BadLength(start + 4, f"{name}.total_length", "a multiple of 4, with room for the block", str(total))
        if section or kind in (_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED):
            if body > MAX_PACKET + MAX_OPTIONS:
                raise BadLength(start + 4, f"{name}.total_length", f"at most {MAX_PACKET + MAX_OPTIONS}", str(total))
            reader = _Body(source.take(body, f"{name}.body"), order, start + 8 + len(head), name)
            if section:
                if reader.number(2, "major_version") != 1:
                    raise Unsupported(start + 12, f"{name}.major_version", "1", str(int.from_bytes(reader.data[:2])))
            elif kind == _INTERFACE:
                if len(interfaces) >= MAX_INTERFACES:
                    raise Unsupported(start, name, f"at most {MAX_INTERFACES} interfaces", "more")
                interfaces.append(reader.interface())
            else:
                number += 1
                yield reader.packet(kind, number, interfaces)
        else:
            source.skip(body, f"{name}.body")
        end = source.offset
        (again,) = struct.unpack(f"{order}I", source.take(4, f"{name}.total_length_again"))
        if again != total:
            raise BadLength(end, f"{name}.total_length_again", str(total), str(again))
        index += 1


class _Body:
    """The inside of a block."""

    def __init__(self, data: bytes, order: str, offset: int, name: str) -> None:
        self.data, self._order, self._offset, self._name, self._at = data, order, offset, name, 0

    def take(self, size: int, field: str) -> bytes:
        left = len(self.data) - self._at
        if size > left:
            raise Truncated(self._offset + self._at, f"{self._name}.{field}", f"{size} bytes", f"{left} bytes")
        self._at += size
        return self.data[self._at - size : self._at]

    def number(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "big" if self._order == ">" else "little")

    def interface(self) -> _Interface:
        link = self.number(2, "link_type")
        self.take(2, "reserved")
        snap = self.number(4, "snap_length")
        units, shift = (1000, 1), 0
        for code, value, at in self.options():
            if code == _RESOLUTION:
                if len(value) != 1:
                    raise BadLength(at, f"{self._name}.if_tsresol", "1 byte", f"{len(value)} bytes")
                base, power = (2 if value[0] & 0x80 else 10), value[0] & 0x7F
                units = (_BILLION, base**power)
            elif code == _OFFSET:
                if len(value) != 8:
                    raise BadLength(at, f"{self._name}.if_tsoffset", "8 bytes", f"{len(value)} bytes")
                shift = int.from_bytes(value, "big" if self._order == ">" else "little", signed=True)
        return _Interface(link, snap, units, shift)

    def packet(self, kind: int, number: int, interfaces: list[_Interface]) -> _Frame:
        start = self._offset + self._at
        which = (
            self.number(4, "interface_id") if kind == _ENHANCED else self.number(2, "interface_id") if kind == _OLD_PACKET else 0
        )
        if which >= len(interfaces):
            raise BadValue(start, f"{self._name}.interface_id", f"one of {len(interfaces)} interfaces", str(which))
        interface = interfaces[which]
        if kind == _OLD_PACKET:
            self.take(2, "drops_count")
        time: int | None = None
        if kind != _SIMPLE:
            ticks = self.number(4, "timestamp") << 32 | self.number(4, "timestamp")
            numerator, denominator = interface.units
            time = ticks * numerator // denominator + interface.offset * _BILLION
        place = self._offset + self._at
        if kind == _SIMPLE:
            original = self.number(4, "original_length")
            captured = min(original, interface.snap or original, len(self.data) - self._at)
        else:
            captured = self.number(4, "captured_length")
            self.take(4, "original_length")
        if captured > MAX_PACKET:
            raise BadLength(place, f"{self._name}.captured_length", f"0..{MAX_PACKET}", str(captured))
        data = self.take(captured, "packet_data")
        comment: str | None = None
        if kind != _SIMPLE:
            self.take(-captured % 4, "padding")
            comment = next((v.decode("utf-8", "replace") for code, v, _ in self.options() if code == _COMMENT), None)
        return _Frame(Origin(number, time), interface.link, data, comment)

    def options(self) -> Iterator[tuple[int, bytes, int]]:
        """(code, value, offset) up to the end of the options, or of the block."""
        while self._at < len(self.data):
            at = self._offset + self._at
            code, size = self.number(2, "option_code"), self.number(2, "option_length")
            if not code:
                return
            yield code, self.take(size, "option"), at
            self.take(min(-size % 4, len(self.data) - self._at), "option")


# --- writing ------------------------------------------------------------------------------------------------------------


class Writer:
    """A pcapng file of UDP datagrams, each with a comment; times in nanoseconds.  Raises what ``write`` raises.

    ``write``: gets whole blocks only.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        section = b"\x4d\x3c\x2b\x1a" + struct.pack("<HHq", 1, 0, -1) + _option(4, b"pybcast") + _END
        interface = struct.pack("<HHI", RAW, 0, 0) + _option(_RESOLUTION, b"\x09") + _END
        write(_block(0x0A0D0D0A, section) + _block(_INTERFACE, interface))

    def write(self, time: int, source: Address, destination: Address, payload: bytes, comment: str = "") -> None:
        """One datagram.  ``time``: nanoseconds since 1970.  ``ValueError``: more than fits, or addresses of two families."""
        packet = udp_packet(source, destination, payload)
        head = struct.pack("<IIIII", 0, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, len(packet), len(packet))
        options = _option(_COMMENT, comment[:MAX_COMMENT].encode("utf-8", "replace")) + _END if comment else b""
        self._write(_block(_ENHANCED, head + packet + bytes(-len(packet) % 4) + options))


_END: Final = bytes(4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + total + body + total


@functools.lru_cache(COMMENTS)
def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address.partition("%")[0]).packed


def udp_packet(source: Address, destination: Address, payload: bytes) -> bytes:
    """An IP packet with one UDP datagram.  ``ValueError``: more than fits, or addresses of two families."""
    first, second = _packed(source[0]), _packed(destination[0])
    length = 8 + len(payload)
    if len(first) != len(second) or length > 0xFFFF - (20 if len(first) == 4 else 0):
        raise ValueError("a datagram of one address family, that fits")
    ports = struct.pack(">HHH", source[1], destination[1], length)
    check = internet_sum(udp_head((first, second), length) + ports + payload) or 0xFFFF
    udp = ports + check.to_bytes(2) + payload
    if len(first) == 16:
        return struct.pack(">IHBB", 6 << 28, length, UDP, 64) + first + second + udp
    head = struct.pack(">BBHHHBB", 0x45, 0, 20 + length, 0, 0x4000, 64, UDP)
    return head + internet_sum(head + bytes(2) + first + second).to_bytes(2) + first + second + udp


# --- what a datagram says -----------------------------------------------------------------------------------------------

Hint = Kind | str
FLUTE: Final = "flute"
GROUPS: Final = ("stkm", "ltkm", FLUTE, "auto")
"""What an address carries where it is not one kind: STKMs of either profile; LTKMs and registration material; packets of a FLUTE
session, which carry the same in pieces; anything."""

SUMMARY: Final = (
    "longform_udn", "status", "target_id", "group_address", "position_in_group", "domain_id", "bcro_timestamp", "drm_time",
    "assets.BCI", "security_parameter_index", "master_key_index", "key_indicator", "timestamp", "programme_CID_extension",
    "service_CID_extension", "csb_id", "payloads.ts_value", "payloads.id", "TSI", "TOI", "SBN", "ESI",
)  # fmt: skip
"""Fields that tell one message from another, by their paths without list indices."""
KEY_ID_LABELS: Final = {0: "key_domain_id", 1: "sek_id", 2: "tek_id"}
"""The same for the Key IDs in EXT 3, by type."""


def kinds_of(data: bytes, hint: Hint = "auto") -> tuple[Kind, ...]:
    """What a datagram may be, the likeliest first.

    The first byte tells of all but STKMs (rules R22), and what a MIKEY message carries tells which it is (R16).
    """
    if hint in KINDS:
        return (hint,)
    stkms: tuple[Kind, ...] = ("smartcard-stkm", "drm-stkm") if data[:2] == b"\x01\x00" else ("drm-stkm", "smartcard-stkm")
    if hint == "stkm":
        return stkms
    first = data[0] if data else 0
    told = FIRST_BYTE.get(first)
    if told is not None:
        return (told,)
    mikey = mikey_kind(data)
    if hint == "ltkm":
        return (mikey,)
    # A STKM of the DRM Profile may begin as MIKEY does, but not the other way round.
    return (mikey, "drm-stkm") if first == 1 and data[1:2] in (b"\0", b"\1") else ("drm-stkm",)


def hint_of(comment: str | None) -> Hint:
    """What ``pybcast capture`` wrote of a packet: the kind stands first in its comment."""
    word = (comment or "").partition(" ")[0]
    return word if word in KINDS else FLUTE if word.lower() == FLUTE else "auto"


def identify(data: bytes, hint: Hint = "auto", *, lenient: Collection[Leniency] = ()) -> tuple[Hint, Explanation]:
    """The kind of a datagram, and its fields: the first that it can be, or else the likeliest with its fault.

    ``FLUTE`` is a kind here: with that hint, and where the first byte says so.
    """
    if hint == FLUTE or (hint == "auto" and flute_fields.is_flute(data)):
        return FLUTE, flute_fields.explain(data)
    tried = [(kind, explain(data, kind, lenient=lenient)) for kind in kinds_of(data, hint)]
    return next((found for found in tried if found[1].error is None), tried[0])


def summary(data: bytes, hint: Hint = "auto") -> str:
    """A message in one line: its kind, and what tells it from others; of a bad one, the fault too.  No key."""
    return _remembered(data, hint) if len(data) <= MAX_REMEMBERED else _summary(data, hint)


def _summary(data: bytes, hint: Hint) -> str:
    kind, found = identify(data, hint)
    parts, key_id_type = [str(kind)], -1
    for row in found.rows:
        path = re.sub(r"\[\d+\]", "", row.field)
        if path == "payloads.ids.type":
            key_id_type = int(row.value.split(" ")[0])
        elif path == "payloads.ids.value":
            if key_id_type in KEY_ID_LABELS:
                parts.append(f"{KEY_ID_LABELS[key_id_type]}={row.value}")
        elif path in SUMMARY:
            parts.append(f"{path.rpartition('.')[2]}={row.value}")
    if found.error is not None:
        parts.append(f"[{found.error}]")
    return " ".join(parts)


_remembered = functools.lru_cache(COMMENTS)(_summary)
