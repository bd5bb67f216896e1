# SPDX-License-Identifier: Apache-2.0
"""File descriptions of a FLUTE session (RFC 6726 3.4.2): which objects there are, and how they were cut.

Nothing of a description is believed before it has been checked, and nothing in it names a place on this machine: a receiver that
writes objects to files where their Content-Location says can be told to write anywhere.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from xml.parsers import expat

from pybcast.broadcast.alc import NO_CODE, REED_SOLOMON, Fti
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError

MAX_FDT: Final = 65_536  # octets of XML: some 250 objects - confidence: own
MAX_FILES: Final = 512
MAX_ELEMENTS: Final = 4 * MAX_FILES  # of all kinds: each costs about a microsecond, and 64 KiB have room for 16,000
_PROFILE: Final = "urn:3GPP:metadata:2022:FLUTE:FDT"
_NAMESPACE: Final = (
    "urn:IETF:metadata:2005:FLUTE:FDT", "urn:ietf:params:xml:ns:fdt", _PROFILE, "http://www.example.com/flute", "",
)  # fmt: skip
"""RFC 6726's, that of its IANA entry, the profile of 3GPP TS 26.346 annex L.6, which we send, RFC 3926's, and none."""
GZIP: Final = 3
_ENCODINGS: Final = {0: 0, 1: zlib.MAX_WBITS, 2: -zlib.MAX_WBITS, GZIP: zlib.MAX_WBITS | 16}
"""EXT_CENC: none, zlib, deflate, gzip."""


@dataclass(frozen=True, slots=True)
class File:
    """One object.  ``fti``: ``None`` = not said, or not all of it: then its packets say it.  ``md5``: of its content, compressed or
    not, ``b""`` = not said.  ``gzip``: it travels compressed.
    """

    toi: int
    location: str
    content_type: str
    fti: Fti | None
    md5: bytes
    gzip: bool = False


@dataclass(frozen=True, slots=True)
class Fdt:
    """``expires``: NTP seconds, the lower 32 bits of them (R15).  ``refused``: why other files that it names cannot be received."""

    expires: int
    files: tuple[File, ...]
    refused: tuple[WireError, ...] = ()


def write(expires: int, fti: Fti, files: Iterable[tuple[File, int]]) -> bytes:
    """The octets of a description, in the profile of 3GPP TS 26.346 annex L.6.  Its files, each with its octets, are
    cut as ``fti`` says.  They have an MD5, and names that need no escapes.
    """
    head = (
        f'<?xml version="1.0" encoding="UTF-8"?><FDT-Instance xmlns="{_PROFILE}" Expires="{expires & 0xFFFFFFFF}"'
        f' FEC-OTI-FEC-Encoding-ID="{fti.fec}" FEC-OTI-Maximum-Source-Block-Length="{fti.block}"'
        f' FEC-OTI-Encoding-Symbol-Length="{fti.symbol}" FEC-OTI-Max-Number-of-Encoding-Symbols="{fti.most}">'
    )
    entries = (
        f'<File Content-Location="{file.location}" TOI="{file.toi}" Content-Length="{length}"'
        f' Transfer-Length="{length}" Content-Type="{file.content_type}"'
        f' Content-MD5="{base64.b64encode(file.md5).decode()}"/>'
        for file, length in files
    )
    return "".join((head, *entries, "<schemaVersion>4</schemaVersion></FDT-Instance>")).encode()


def plain(data: bytes, encoding: int) -> bytes:
    """What was compressed.  ``WireError`` when it is not.  Of what is more than a description may be, so much that this is seen."""
    if encoding not in _ENCODINGS:
        raise Unsupported(0, "EXT_CENC", "0..3", str(encoding))
    return unpacked(data, encoding, MAX_FDT) if encoding else data


def unpacked(data: bytes, encoding: int, most: int) -> bytes:
    """At most ``most`` octets and one of what was compressed.  ``WireError`` when it is not, or has no end."""
    reader = zlib.decompressobj(_ENCODINGS[encoding])
    try:
        found = reader.decompress(data, most + 1)
    except zlib.error:
        raise BadValue(0, "compressed", "octets as zlib or gzip makes them", "others") from None
    if len(found) <= most and not reader.eof:
        raise Truncated(len(data), "compressed", "the end of what was compressed", "none")
    return found


def parse(data: bytes) -> Fdt:
    """Read a description.  ``WireError`` with the attribute; the offset is that of its element."""
    if len(data) > MAX_FDT:
        raise BadLength(MAX_FDT, "FDT-Instance", f"at most {MAX_FDT} octets", f"{len(data)}")
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise BadValue(
            min(max(reader.parser.ErrorByteIndex, 0), len(data)), "FDT-Instance", "XML", expat.ErrorString(error.code)
        ) from None
    finally:
        reader.release()
    return reader.made()


class _Reader:
    def __init__(self) -> None:
        self.parser = expat.ParserCreate(namespace_separator="|")
        self._depth = 0
        self._elements = 0
        self._expires: int | None = None
        self._common: dict[str, str] = {}
        self._files: list[File] = []
        self._refused: list[WireError] = []
        self._handle(self._start, self._end, self._refuse)

    def release(self) -> None:
        """Parser and reader refer to each other: a flood of descriptions would hold memory until the collector comes."""
        self._handle(None, None, None)

    def _handle(
        self,
        start: Callable[[str, dict[str, str]], None] | None,
        end: Callable[[str], None] | None,
        refuse: Callable[..., None] | None,
    ) -> None:
        self.parser.StartElementHandler = start
        self.parser.EndElementHandler = end
        self.parser.StartDoctypeDeclHandler = refuse
        self.parser.EntityDeclHandler = refuse

    def _refuse(self, *_: Any) -> None:
        raise Unsupported(self.parser.CurrentByteIndex, "FDT-Instance", "no document type", "one")

    def _end(self, _: str) -> None:
        self._depth -= 1

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        at = self.parser.CurrentByteIndex
        if self._elements > MAX_ELEMENTS:
            raise BadLength(at, "FDT-Instance", f"at most {MAX_ELEMENTS} elements", "more")
        namespace, _, local = name.rpartition("|")
        if self._depth == 1:
            if local != "FDT-Instance" or namespace not in _NAMESPACE:
                raise BadValue(at, "FDT-Instance", "FDT-Instance", local[:40])
            self._expires = _number(attributes, "Expires", at, "FDT-Instance", 2**64 - 1) & 0xFFFFFFFF
            self._common = attributes
        elif self._depth == 2 and local == "File" and namespace in _NAMESPACE:
            number = len(self._files) + len(self._refused)
            if number == MAX_FILES:
                raise BadLength(at, f"File[{MAX_FILES}]", f"at most {MAX_FILES}", "more")
            try:
                self._files.append(self._file({**self._common, **attributes}, at, f"File[{number}]"))
            except WireError as error:  # a fault of an entry: the others are as good as before
                self._refused.append(error)

    def _file(self, given: dict[str, str], at: int, where: str) -> File:
        encoding = given.get("Content-Encoding", "null")
        if encoding not in ("", "null", "gzip"):
            raise Unsupported(at, f"{where}.Content-Encoding", "gzip or none", encoding[:40])
        packed = encoding == "gzip"
        try:
            md5 = base64.b64decode(given.get("Content-MD5", ""), validate=True)
        except (binascii.Error, ValueError):
            md5 = b"?"
        if len(md5) not in (0, 16):
            raise BadValue(at, f"{where}.Content-MD5", "16 octets in base64", given["Content-MD5"][:40])
        location = given.get("Content-Location", "")
        if not location or len(location) > 1_024:
            raise BadValue(at, f"{where}.Content-Location", "a URI", f"{len(location)} characters")
        toi = _number(given, "TOI", at, where, 2**112 - 1)
        if not toi:
            raise BadValue(at, f"{where}.TOI", "that of an object", "0")
        return File(toi, location, given.get("Content-Type", "")[:100], self._fti(given, packed, at, where), md5, packed)

    def _fti(self, given: dict[str, str], packed: bool, at: int, where: str) -> Fti | None:
        """How the object was cut, where all of it is said."""
        fec = _optional(given, "FEC-OTI-FEC-Encoding-ID", at, where, 255)
        if fec not in (None, NO_CODE, REED_SOLOMON):
            raise Unsupported(at, f"{where}.FEC-OTI-FEC-Encoding-ID", f"{NO_CODE} or {REED_SOLOMON}", str(fec))
        length = _optional(given, "Transfer-Length", at, where, 2**48 - 1)
        if length is None and not packed:  # the length of what was compressed is another
            length = _optional(given, "Content-Length", at, where, 2**48 - 1)
        symbol = _optional(given, "FEC-OTI-Encoding-Symbol-Length", at, where, 65535)
        block = _optional(given, "FEC-OTI-Maximum-Source-Block-Length", at, where, 2**32 - 1)
        most = _optional(given, "FEC-OTI-Max-Number-of-Encoding-Symbols", at, where, 2**32 - 1)
        if fec is None or length is None or symbol is None or block is None:
            return None
        return Fti(fec, length, symbol, block, block if most is None else most)

    def made(self) -> Fdt:
        assert self._expires is not None  # expat wants an element
        return Fdt(self._expires, tuple(self._files), tuple(self._refused))


def _optional(given: dict[str, str], name: str, at: int, where: str, most: int) -> int | None:
    return _number(given, name, at, where, most) if name in given else None


def _number(given: dict[str, str], name: str, at: int, where: str, most: int) -> int:
    text = given.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 40) or int(text) > most:
        raise BadValue(at, f"{where}.{name}", f"0..{most}", text[:40] or "none")
    return int(text)
