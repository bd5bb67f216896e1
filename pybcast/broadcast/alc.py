# SPDX-License-Identifier: Apache-2.0
"""Packets of a FLUTE session: LCT header (RFC 5651), what FLUTE adds (RFC 6726), and how an object is cut (RFC 5052).

Reading is total and bounded: a ``Packet``, or a ``WireError`` with offset and field.  Ours carry a checksum in a header extension
of their own: UDP's is weak and often not checked, and one wrong octet would cost a whole object.  Other receivers skip it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from pybcast.errors import BadLength, BadValue, Truncated, Unsupported

NO_CODE: Final = 0
REED_SOLOMON: Final = 5
"""FEC Encoding IDs that are understood: compact no-code (RFC 5445), Reed-Solomon over GF(2^8) (RFC 5510)."""
FDT_TOI: Final = 0
_FTI: Final = 64
_FDT: Final = 192
_CENC: Final = 193
_CHECK: Final = 126  # confidence: own - the LCT header extension with our checksum: of variable length, a number nobody has
_CHECK_WORDS: Final = 2
MAX_DATAGRAM: Final = 2_048  # octets: none of ours is fragmented, nor is anybody's on a broadcast network - confidence: own


@dataclass(frozen=True, slots=True)
class Fti:
    """How an object was cut into symbols.  ``symbol``: octets; ``block``: most source symbols of a block; ``most``: most symbols
    of a block with repair.
    """

    fec: int
    length: int
    symbol: int
    block: int
    most: int


@dataclass(frozen=True, slots=True)
class Packet:
    """Symbols of an object, one or several from ``esi`` on.  ``fdt_id``, ``encoding``: of packets that carry a file description.
    ``fti``: of those that say how their object was cut.
    """

    tsi: int
    toi: int
    fec: int
    sbn: int
    esi: int
    checked: bool
    fdt_id: int | None
    encoding: int
    fti: Fti | None
    payload: bytes


def parse(data: bytes) -> Packet:
    """Read a datagram.  ``WireError`` when it is no packet of FLUTE, or not as it was sent."""
    if len(data) > MAX_DATAGRAM:
        raise BadLength(0, "", f"at most {MAX_DATAGRAM} octets", str(len(data)))
    if len(data) < 8:
        raise Truncated(0, "LCT", "8 octets", str(len(data)))
    first, second, words, codepoint = data[0], data[1], data[2], data[3]
    if first >> 4 != 1:
        raise Unsupported(0, "V", "1", str(first >> 4))
    end = 4 * words
    if end > len(data):
        raise Truncated(2, "HDR_LEN", f"{end} octets", str(len(data)))
    half = second >> 4 & 1
    at = 8 + 4 * (first >> 2 & 3)  # congestion control information: 1 to 4 words
    tsi_size = 4 * (second >> 7) + 2 * half
    toi_size = 4 * (second >> 5 & 3) + 2 * half
    if at + tsi_size + toi_size > end:
        raise BadLength(2, "HDR_LEN", f"at least {(at + tsi_size + toi_size + 3) // 4}", str(words))
    tsi = int.from_bytes(data[at : at + tsi_size])
    at += tsi_size
    toi = int.from_bytes(data[at : at + toi_size])
    at += toi_size
    for flag, time in ((0x08, "SCT"), (0x04, "ERT")):  # the sender's time and what is left of it, of LCT's first version (RFC 3451)
        if second & flag:
            at += 4
            if at > end:
                raise BadLength(2, "HDR_LEN", f"room for {time}", str(words))
    if not toi_size:
        raise Unsupported(at, "TOI", "an object", "none")  # the end of a session says nothing here
    fdt_id, encoding, fti, checked = None, 0, None, False
    while at < end:
        kind = data[at]
        size = 4 if kind >= 128 else 4 * data[at + 1] if at + 1 < end else 0
        if not size or at + size > end:
            raise BadLength(at, "HEL", "an extension within the header", str(size))
        if kind == _FDT:
            fdt_id = int.from_bytes(data[at + 1 : at + 4]) & 0xFFFFF
        elif kind == _CENC:
            encoding = data[at + 1]
        elif kind == _FTI:
            fti = _read_fti(data[at : at + size], at, codepoint)
        elif kind == _CHECK and size == 4 * _CHECK_WORDS:
            if int.from_bytes(data[at + 4 : at + 8]) != _crc(data, at + 4):
                raise BadValue(at + 4, "check", "the sum of what was sent", "another")
            checked = True
        at += size
    if codepoint not in (NO_CODE, REED_SOLOMON):
        raise Unsupported(3, "CP", f"{NO_CODE} or {REED_SOLOMON}", str(codepoint))
    if end + 4 > len(data):
        raise Truncated(end, "FEC payload id", "4 octets", str(len(data) - end))
    payload_id = int.from_bytes(data[end : end + 4])
    bits = 16 if codepoint == NO_CODE else 8
    return Packet(
        tsi, toi, codepoint, payload_id >> bits, payload_id & (1 << bits) - 1, checked, fdt_id, encoding, fti, data[end + 4 :]
    )


def _read_fti(data: bytes, at: int, fec: int) -> Fti:
    expected = {NO_CODE: 16, REED_SOLOMON: 12}.get(fec)
    if expected is None or len(data) != expected:
        raise Unsupported(at, "EXT_FTI", f"{expected or 'no'} octets", str(len(data)))
    length = int.from_bytes(data[2:8])
    symbol = int.from_bytes(data[10:12] if fec == NO_CODE else data[8:10])
    if fec == NO_CODE:
        block = most = int.from_bytes(data[12:16])
    else:
        block, most = data[10], data[11]
    return Fti(fec, length, symbol, block, most)


def _crc(data: bytes, at: int) -> int:
    """Of everything but the four octets at ``at``."""
    return zlib.crc32(memoryview(data)[at + 4 :], zlib.crc32(memoryview(data)[:at]))


def made(
    tsi: int, toi: int, fec: int, sbn: int, esi: int, payload: bytes, *, fdt_id: int | None = None, encoding: int = 0,
    fti: Fti | None = None,
) -> bytes:  # fmt: skip
    """A packet with our checksum.  ``fdt_id``, ``encoding``, ``fti``: as of ``Packet``."""
    extensions = b""
    if fdt_id is not None:
        extensions = bytes((_FDT, 0x20 | fdt_id >> 16)) + (fdt_id & 0xFFFF).to_bytes(2)  # version 2: RFC 6726
    if encoding:
        extensions += bytes((_CENC, encoding, 0, 0))
    if fti is not None:
        extensions += _write_fti(fti)
    words = 4 + _CHECK_WORDS + len(extensions) // 4
    head = b"".join((
        bytes((0x10, 0xA0, words, fec)), bytes(4), tsi.to_bytes(4), toi.to_bytes(4), extensions,
        bytes((_CHECK, _CHECK_WORDS, 0, 0)),
    ))  # fmt: skip
    payload_id = sbn << (16 if fec == NO_CODE else 8) | esi
    rest = payload_id.to_bytes(4) + payload
    return b"".join((head, zlib.crc32(rest, zlib.crc32(head)).to_bytes(4), rest))


def _write_fti(fti: Fti) -> bytes:
    if fti.fec == NO_CODE:
        rest = bytes(2) + fti.symbol.to_bytes(2) + fti.block.to_bytes(4)
    else:
        rest = fti.symbol.to_bytes(2) + bytes((fti.block, fti.most))
    return bytes((_FTI, 2 + len(rest) // 4)) + fti.length.to_bytes(6) + rest


def blocks(length: int, symbol: int, block: int) -> list[int]:
    """Source symbols of each block of an object of ``length`` octets."""
    symbols = -(-length // symbol)
    count = -(-symbols // block)
    if not count:
        return []
    small, larger = divmod(symbols, count)
    return [small + 1] * larger + [small] * (count - larger)
