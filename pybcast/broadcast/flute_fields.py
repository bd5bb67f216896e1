# SPDX-License-Identifier: Apache-2.0
"""A packet of a FLUTE session field by field, for people: LCT (RFC 3451, RFC 5651), FLUTE (RFC 3926, RFC 6726), FEC payload ids.

It shows what a receiver here does not take as well: other FEC codes, times, unknown extensions.  What a packet means to a receiver
is ``alc``.
"""

from __future__ import annotations

from typing import Final

from pybcast.broadcast import alc
from pybcast.errors import BadLength, Truncated, Unsupported, WireError
from pybcast.messages import Confidence
from pybcast.wire import Explanation, Row

VERSION: Final = 1
_CODES: Final = {
    0: "compact no-code", 1: "Raptor", 5: "Reed-Solomon over GF(2^8)", 6: "RaptorQ", 128: "small block, large block, expandable",
    129: "small block systematic", 130: "compact of RFC 3452",
}  # fmt: skip
"""FEC Encoding IDs (IANA, Reliable Multicast Transport)."""
_PAYLOAD_IDS: Final = {
    0: (("SBN", 2), ("ESI", 2)), 1: (("SBN", 2), ("ESI", 2)), 5: (("SBN", 3), ("ESI", 1)), 6: (("SBN", 1), ("ESI", 3)),
    128: (("SBN", 4), ("ESI", 4)), 129: (("SBN", 4), ("source block length", 2), ("ESI", 2)), 130: (("SBN", 2), ("ESI", 2)),
}  # fmt: skip
_EXTENSIONS: Final = {
    0: "EXT_NOP", 1: "EXT_AUTH", 2: "EXT_TIME", 64: "EXT_FTI", 126: "check sum of pybcast", 192: "EXT_FDT", 193: "EXT_CENC"
}  # fmt: skip
_OCTETS: Final = ("EXT_", "extension", "check_sum", "payload")
"""How rows begin whose value is octets, not a number."""
_ENCODINGS: Final = {0: "as it is", 1: "ZLIB", 2: "DEFLATE", 3: "GZIP"}


def is_flute(data: bytes) -> bool:
    """Whether its first octet is that of LCT's version 1, which no key message begins with (rules R17, R22)."""
    return bool(data) and data[0] >> 4 == VERSION


def explain(data: bytes) -> Explanation:
    """Row by row; a fault ends it, and stands in ``error``."""
    reading = _Reading(data)
    try:
        reading.packet()
        alc_error = _corrupted(data)
    except WireError as error:
        return Explanation(tuple(reading.rows), error)
    return Explanation(tuple(reading.rows), alc_error)


def fields(data: bytes) -> dict[str, int | str]:
    """The same as names and values.  Raises ``WireError``."""
    found = explain(data)
    if found.error is not None:
        raise found.error
    return {row.field: row.value if row.field.startswith(_OCTETS) else int(row.value) for row in found.rows}


def _corrupted(data: bytes) -> WireError | None:
    try:
        alc.parse(data)
    except WireError as error:
        return error if error.field == "check" else None
    return None


class _Reading:
    def __init__(self, data: bytes) -> None:
        self._data, self._at, self.rows = data, 0, list[Row]()

    def packet(self) -> None:
        first, second = self._look(0, "V"), self._look(1, "S")
        if first >> 4 != VERSION:
            raise Unsupported(0, "V", str(VERSION), str(first >> 4))
        self._row(1, "V", str(VERSION), "version of LCT")
        half = second >> 4 & 1
        times = [name for name, bit in (("sender current time", 8), ("expected residual time", 4)) if second & bit]
        ends = [name for name, bit in (("session", 2), ("object", 1)) if second & bit]
        self._row(1, "flags", f"{second}", f"end of {' and '.join(ends)}" if ends else "neither session nor object end")
        words = self._look(2, "HDR_LEN")
        self._row(1, "HDR_LEN", str(words), f"header of {4 * words} octets")
        code = self._look(3, "CP")
        self._row(1, "CP", str(code), f"FEC: {_CODES.get(code, 'not known here')}")
        end = 4 * words
        self._number(4 + 4 * (first >> 2 & 3), "CCI", "congestion control", end)
        if size := 4 * (second >> 7) + 2 * half:
            self._number(size, "TSI", "session", end)
        if size := 4 * (second >> 5 & 3) + 2 * half:
            toi = int.from_bytes(self._data[self._at : self._at + size])
            self._number(size, "TOI", "object: the file description" if toi == alc.FDT_TOI else "object", end)
        for name in times:
            self._number(4, name.replace(" ", "_"), f"{name}, of RFC 3451", end)
        while self._at < end:
            self._extension(end)
        for name, size in _PAYLOAD_IDS.get(code, ()):
            meaning = {"SBN": "source block", "ESI": "symbol in it"}.get(name, "symbols of the block")
            self._number(size, name.replace(" ", "_"), meaning, len(self._data))
        rest = self._data[self._at :]
        what = "symbols" if code in _PAYLOAD_IDS else "FEC payload id and symbols"
        if rest:
            self._row(len(rest), "payload", rest.hex(), what)

    def _extension(self, end: int) -> None:
        kind = self._look(self._at, "HET")
        size = 4 if kind >= 128 else 4 * self._look(self._at + 1, "HEL")
        if not size or self._at + size > end:
            raise BadLength(self._at, "HEL", "an extension within the header", str(size))
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise Truncated(self._at, "HEL", f"{size} bytes", f"{len(piece)} bytes")
        name, value = _EXTENSIONS.get(kind, f"extension {kind}"), piece[1:] if kind >= 128 else piece[2:]
        meaning = name if kind in _EXTENSIONS else "not known here"
        if kind == 192:
            number = int.from_bytes(value)
            meaning = f"version {number >> 20} of FLUTE, file description {number & 0xFFFFF}"
        elif kind == 193:
            meaning = f"the file description is encoded: {_ENCODINGS.get(value[0], 'not known here')}"
        elif kind == 64:
            meaning = f"object of {int.from_bytes(value[:6])} octets"
        self._row(size, name.replace(" ", "_"), value.hex(), meaning)

    def _number(self, size: int, name: str, meaning: str, end: int) -> None:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise Truncated(self._at, name, f"{size} bytes", f"{len(piece)} bytes")
        if self._at + size > end:
            raise BadLength(2, "HDR_LEN", f"at least {-(-(self._at + size) // 4)}", str(end // 4))
        self._row(size, name, str(int.from_bytes(piece)), meaning)

    def _look(self, at: int, name: str) -> int:
        if at >= len(self._data):
            raise Truncated(at, name, "1 byte", "0 bytes")
        return self._data[at]

    def _row(self, size: int, field: str, value: str, meaning: str) -> None:
        known = not field.startswith("check_sum")
        self.rows.append(Row(self._at, size, field, value, meaning, Confidence.SURE if known else Confidence.OWN))
        self._at += size
