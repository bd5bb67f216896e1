# SPDX-License-Identifier: Apache-2.0
"""The lines of a session description: what they are made of, and readers of their values.

Each reader gets a line and a text of it, and gives what that means; ``WireError`` names the line.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from pybcast.errors import BadValue, Unsupported, WireError
from pybcast.messages import Protocol
from pybcast.sdp.ismacryp import Parameters
from pybcast.sdp.model import PROTOCOLS, Ignored
from pybcast.sourcefilter import MAX_SOURCES, SourceFilter, is_ip


@dataclass(frozen=True)
class Line:
    number: int
    offset: int
    kind: str
    value: str

    @property
    def attribute(self) -> tuple[str, str | None]:
        name, colon, value = self.value.partition(":")
        return name, value if colon else None

    @property
    def what(self) -> str:
        """Its kind and name, without its value: that of some lines is a key."""
        return f"a={self.attribute[0][:40]}" if self.kind == "a" else f"{self.kind}="

    def ignored(self, why: str) -> Ignored:
        """For the list of what is not used."""
        return Ignored(self.number, self.what, why)

    def field(self, *inner: str) -> str:
        name = (self.attribute[0][:40],) if self.kind == "a" else ()
        return ".".join((f"line[{self.number}]", self.kind, *name, *inner))

    def refuse(self, expected: str, found: str, *inner: str, error: type[WireError] = BadValue) -> NoReturn:
        raise error(self.offset, self.field(*inner), expected, short(found))


Value = TypeVar("Value")
_KINDS: Final = frozenset("vosiuepcbtrzkam")
TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,255}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_STREAM_IDS: Final = (1, 65535)
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
PROTO: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~/-]{1,64}")
BAD: Final = re.compile(r"[\x00\r\n]")


def short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


_MARK: Final = b"\xef\xbb\xbf"
"""The mark before UTF-8 that some editors write."""


def split(raw: bytes) -> Iterator[Line]:
    """The lines, without blank ones: editors, mail and templates add them, and they say nothing."""
    end = 0
    for number, octets in enumerate(raw.split(b"\n"), 1):
        offset, end = end, end + len(octets) + 1
        if number == 1 and octets.startswith(_MARK):
            offset, octets = len(_MARK), octets[len(_MARK) :]
        ended = octets.removesuffix(b"\r")
        if not ended.strip(b" \t"):
            continue
        name = f"line[{number}]"
        try:
            text = ended.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadValue(offset + error.start, name, "UTF-8", "other octets") from None
        if len(text) < 2 or text[1] != "=" or text[0] not in _KINDS:
            raise BadValue(offset, name, "TYPE=VALUE", short(text))
        if BAD.search(text):
            raise BadValue(offset, name, "a line of text", "a control character")
        yield Line(number, offset, text[0], text[2:])


class Attributes:
    """The attribute lines of a section; what nobody asked for is ``rest``.

    ``above``: those of the session part.  They hold for each section that does not say another value itself.
    """

    def __init__(self, lines: Iterable[Line], above: Attributes | None = None) -> None:
        self._above = above
        self._left: list[Line] = []
        self._of: dict[str, list[Line]] = {}
        for line in lines:
            if line.kind == "a":
                if not TOKEN.fullmatch(line.attribute[0]):
                    line.refuse("NAME or NAME:VALUE", line.value)
                self._of.setdefault(line.attribute[0], []).append(line)
                self._left.append(line)
        self._asked: set[str] = set()

    def __iter__(self) -> Iterator[Line]:
        """Those that nobody has asked for."""
        return (line for line in self._left if line.attribute[0] not in self._asked)

    def once(self, name: str, read: Callable[[Line, str], Value], *, above: bool = True) -> Value | None:
        """``above``: whether one in the session part counts."""
        found = self._take(name)
        if not found and above and self._above is not None:
            return self._above.once(name, read)
        if len(found) > 1:
            found[1].refuse("once", "again")
        return read_value(found[0], read) if found else None

    def all(self, name: str, read: Callable[[Line, str], Value]) -> tuple[Value, ...]:
        values: dict[Value, None] = {}
        for line in self._take(name):
            value = read_value(line, read)
            if value in values:
                line.refuse("each value once", line.value)
            values[value] = None
        return tuple(values)

    def lines(self, name: str) -> list[Line]:
        return list(self._take(name))

    def fmtp(self) -> list[tuple[Line, tuple[str, Parameters]]]:
        return [(line, read_value(line, read_fmtp)) for line in self._take("fmtp")]

    def filters(self) -> list[Filter]:
        lines = self._take("source-filter")
        if len(lines) > MAX_SOURCES:
            lines[-1].refuse(f"at most {MAX_SOURCES} lines", str(len(lines)), error=Unsupported)
        return [read_value(line, read_filter) for line in lines]

    def rest(self) -> tuple[str, ...]:
        return tuple(line.value for line in self)

    def _take(self, name: str) -> list[Line]:
        self._asked.add(name)
        return self._of.get(name, [])


def read_value(line: Line, read: Callable[[Line, str], Value]) -> Value:
    value = line.attribute[1]
    if value is None:
        line.refuse("NAME:VALUE", line.value)
    return read(line, value)


def read_number(line: Line, text: str, low: int, high: int, *inner: str) -> int:
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        line.refuse(f"{low}..{high}", text, *inner)
    return int(text)


def read_stream_id(line: Line, text: str) -> int:
    return read_number(line, text, *_STREAM_IDS)


def read_channels(line: Line, text: str) -> int:
    """How many channels a FLUTE session has: more than one are for congestion control, which is not ours."""
    number = read_number(line, text, 1, 255)
    if number > 1:
        line.refuse("one channel", text, error=Unsupported)
    return number


def read_id(line: Line, text: str, name: str) -> int:
    return read_number(line, text, *_STREAM_IDS, name)


def read_text(line: Line, text: str, name: str) -> str:
    return text


def read_extensions(line: Line, text: str, name: str) -> tuple[int, ...]:
    return tuple(int.from_bytes(value) for value in _read_octets(line, text, (4,), name))


def read_keys(line: Line, text: str, name: str) -> tuple[bytes, ...]:
    return _read_octets(line, text, (5, 7), name)


_HEX: Final = re.compile(r"([0-9A-Fa-f]{2}){1,64}")


def _read_octets(line: Line, text: str, sizes: Sequence[int], name: str) -> tuple[bytes, ...]:
    found = []
    for word in text.split(","):
        if not _HEX.fullmatch(word) or len(word) // 2 not in sizes:
            line.refuse(f"hexadecimal of {' or '.join(str(size) for size in sizes)} octets, by commas", word, name)
        found.append(bytes.fromhex(word))
    return tuple(found)


def read_version(line: Line, text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not dot:
        line.refuse("MAJOR.MINOR", text)
    return read_number(line, major, 0, 65535), read_number(line, minor, 0, 65535)


def read_seconds(line: Line, text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not 0 < float(text) <= 3600:
        line.refuse("seconds, at most an hour", text)
    return float(text)


def read_uri(line: Line, text: str) -> str:
    if ":" not in text or " " in text:
        line.refuse("an absolute URI", text)
    return text


def read_protection(line: Line, text: str) -> tuple[Protocol, int]:
    name, space, lifetime = text.partition(" ")
    if name not in PROTOCOLS or not space:
        line.refuse(f"one of {', '.join(PROTOCOLS)} and the lifetime", text)
    return PROTOCOLS[name], read_number(line, lifetime, 0, 15)


@dataclass(frozen=True)
class Filter:
    """One ``a=source-filter``: for which destination, and what.  ``family``: IP4, IP6, or * for host names of either."""

    line: Line
    family: str
    destination: str
    senders: SourceFilter

    def fits(self, address: str) -> bool:
        """Whether it is about what goes to this address (``plain_host``)."""
        return self.family in ("*", "IP6" if ":" in address else "IP4") and self.destination in ("*", address)


def plain_host(text: str) -> str:
    """The same for every way to write an address or a host name."""
    return str(ipaddress.ip_address(text)) if is_ip(text) else text.lower()


def read_filter(line: Line, text: str) -> Filter:
    mode, *words = text.strip(" ").split(" ")
    if len(words) < 4 or mode not in ("incl", "excl") or words[0] != "IN" or words[1] not in ("IP4", "IP6", "*"):
        line.refuse("incl|excl IN IP4|IP6|* DESTINATION SOURCE...", text)
    family, hosts = words[1], words[2 if words[2] != "*" else 3 :]
    for host in hosts:
        if not _HOST.fullmatch(host) if not is_ip(host) else family != ("IP6" if ":" in host else "IP4"):
            line.refuse("a host name" if family == "*" else f"an address of {family}, or a host name", host)
    if len(words) - 3 > MAX_SOURCES:
        line.refuse(f"at most {MAX_SOURCES} sources", str(len(words) - 3), error=Unsupported)
    sources = tuple(dict.fromkeys(plain_host(host) for host in words[3:]))
    return Filter(
        line, family, "*" if words[2] == "*" else plain_host(words[2]), SourceFilter("incl" if mode == "incl" else "excl", sources)
    )


def read_origin(line: Line) -> tuple[int, int, str]:
    words = line.value.split(" ")
    if len(words) != 6 or words[3] != "IN" or words[4] not in ("IP4", "IP6"):
        line.refuse("NAME ID VERSION IN IP4|IP6 ADDRESS", line.value)
    if not _HOST.fullmatch(words[5]) and not is_ip(words[5]):
        line.refuse("an address", words[5])
    return read_number(line, words[1], 0, 2**64 - 1), read_number(line, words[2], 0, 2**64 - 1), words[5]


def read_times(line: Line) -> tuple[int, int]:
    words = line.value.split(" ")
    if len(words) != 2:
        line.refuse("two times", line.value)
    start, stop = (read_number(line, text, 0, 2**64 - 1) for text in words)
    if 0 < stop < start:
        line.refuse("an end after the begin", line.value)
    return start, stop


def read_connection(line: Line) -> tuple[str, int | None]:
    words = line.value.split(" ")
    if len(words) != 3 or words[0] != "IN" or words[1] not in ("IP4", "IP6"):
        line.refuse("IN IP4|IP6 ADDRESS", line.value)
    address, *rest = words[2].split("/")
    six = words[1] == "IP6"
    if not (is_ip(address) and (":" in address) == six) and (six or not _HOST.fullmatch(address)):
        line.refuse("an address of its type", words[2])
    if six and rest[:1] == ["1"]:
        rest = []  # TS 26.346's example writes so: one address
    if len(rest) > (0 if six else 2) or (len(rest) == 2 and rest[1] != "1"):
        line.refuse("one address", words[2], error=Unsupported)
    return address, read_number(line, rest[0], 0, 255) if rest else None


def read_fmtp(line: Line, text: str) -> tuple[str, Parameters]:
    form, _, rest = text.partition(" ")
    if not TOKEN.fullmatch(form):
        line.refuse("FORMAT PARAMETERS", text)
    found: list[tuple[str, str | None]] = []
    known: set[str] = set()
    for word in rest.split(";"):
        name, equals, value = word.strip(" ").partition("=")
        if not name:
            continue  # a semicolon at the end, or two
        if name.strip(" ") != name or value.strip(" ") != value:
            line.refuse("NAME=VALUE", word)
        if equals:
            if name in known:
                line.refuse("once", "again", name[:40])
            known.add(name)
        found.append((name, value if equals else None))
    return form, tuple(found)
