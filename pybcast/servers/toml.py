# SPDX-License-Identifier: Apache-2.0
"""A TOML file that becomes structs, and where in it each mistake stands.

Every refusal is a ``ConfigError`` of the form ``FILE:LINE: key: reason``.  No value of a file that may hold a secret is repeated:
secrets are named by their source (``file:PATH``, ``env:NAME``, ``command:WORDS``), never written in the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from pybcast import jsontext
from pybcast.errors import BadValue, ConfigError, ConfigErrors, did_you_mean
from pybcast.secret import Secret
from pybcast.store import load_kek

Where = tuple[str | int, ...]
MAX_FILE: Final = 16 << 20  # octets: 50,000 services with every key written out
SOURCES: Final = "expected file:PATH, env:NAME or command:WORDS"

_STEP: Final = re.compile(r"\.([\w-]+)|\[(\d+)\]")
_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([\w.\"-]+)\s*\]")
_KEY: Final = re.compile(r"\s*\"?([\w-]+)\"?\s*=")

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Address:
    host: str
    port: int


class Misplaced(ConfigError):
    """A mistake in a file, which knows at which key."""

    def __init__(self, text: str, where: Where, reason: str) -> None:
        super().__init__(text, reason=reason)
        self.where = where


class TomlFile:
    """One file that was read: what is in it, and on which line each key stands.  ``ConfigError`` when it is not TOML."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
            text = data.decode("utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}:{data[: error.start].count(10) + 1}: not UTF-8") from None
        if len(data) > MAX_FILE:
            raise ConfigError(f"{path}: more than {MAX_FILE} octets")
        try:
            self.raw: dict[str, Any] = jsontext.bounded(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", str(error))
            line = "" if found is None else f":{found.group(1) or text.count(chr(10)) + 1}"
            reason = str(error)[: found.start()] if found else str(error)
            raise ConfigError(f"{path}{line}: not TOML: {reason}") from None
        except (RecursionError, BadValue):
            raise ConfigError(f"{path}: nested too deep") from None
        self._lines = line_numbers(text)

    def refuse(self, where: Where, reason: str) -> Misplaced:
        """The error to raise.  A key that is missing is looked for where its table begins."""
        at = self._line(where)
        line = f":{at}" if at else ""
        name = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in where).lstrip(".")
        return Misplaced(f"{self.path}{line}: {name}: {reason}" if name else f"{self.path}{line}: {reason}", where, reason)

    def convert(self, kind: type[T]) -> T:
        """The whole file as a struct; else every mistake at once."""
        mistakes = self.misfits(kind)
        if mistakes:
            raise ConfigErrors.of(self.in_order(mistakes))
        return msgspec.convert(self.raw, kind)

    def misfits(self, kind: type) -> list[tuple[Where, str]]:
        """Where the file does not have the shape of a struct, and why."""
        try:
            msgspec.convert(self.raw, kind)
        except msgspec.ValidationError:  # says the first one only
            return list(_misfits(self.raw, kind, ()))
        return []

    def in_order(self, mistakes: Iterable[tuple[Where, str]]) -> list[ConfigError]:
        """Mistakes as errors, in the order of their lines."""
        return [self.refuse(*mistake) for mistake in sorted(mistakes, key=lambda mistake: self._line(mistake[0]))]

    def _line(self, where: Where) -> int:
        while where and where not in self._lines:
            where = where[:-1]
        return self._lines.get(where, 0)

    def address(self, where: Where, text: str) -> Address:
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise self.refuse(where, "expected HOST:PORT")
        return Address(host.removeprefix("[").removesuffix("]"), int(port))

    def hex(self, where: Where, text: str, size: int) -> bytes | None:
        """``size`` bytes; ``None`` for no text."""
        if not text:
            return None
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size:
            raise self.refuse(where, f"expected {2 * size} hexadecimal digits")
        return value

    def source(self, where: Where, source: str) -> str:
        """Where a secret is."""
        return source_of(self.path, source, self.refuse(where, SOURCES))


def _misfits(value: object, kind: Any, where: Where) -> Iterator[tuple[Where, str]]:
    """Every place where a value of a TOML file does not fit a type: structs, tuples of one type, and what msgspec checks alone."""
    kinds = [each for each in get_args(kind) if each is not type(None)] if get_origin(kind) in (Union, UnionType) else [kind]
    one = kinds[0]
    if len(kinds) == 1 and isinstance(one, type) and issubclass(one, msgspec.Struct) and isinstance(value, dict):
        fields = {field.encode_name: field for field in msgspec.structs.fields(one)}
        for name in value.keys() - fields.keys():
            yield (*where, name), f"unknown key{did_you_mean(name, fields)}"
        for name, field in fields.items():
            if name in value:
                yield from _misfits(value[name], field.type, (*where, name))
            elif field.required:
                yield (*where, name), "missing"
    elif get_origin(one) is tuple and isinstance(value, list):
        for place, item in enumerate(value):
            yield from _misfits(item, get_args(one)[0], (*where, place))
    elif get_origin(one) is Literal and isinstance(value, str):
        names = list(map(str, get_args(one)))
        if value not in names:
            listed = f"{', '.join(names[:-1])} or {names[-1]}"
            yield where, f"expected {listed}{did_you_mean(value, names)}"
    else:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            text, _, at = str(error).partition(" - at `$")
            inside = tuple(m[1] if m[1] else int(m[2]) for m in _STEP.finditer(at))
            yield (*where, *inside), text[:1].lower() + text[1:]


def source_of(path: Path, source: str, refusal: ConfigError) -> str:
    """Where a secret is, a file relative to that of the configuration.  What stands there instead may be the secret itself."""
    kind, _, where = source.partition(":")
    if kind not in ("file", "env", "command") or not where:
        raise refusal
    return f"file:{path.parent / where}" if kind == "file" else source


def secret_of(path: Path, source: str, key: str, make: Callable[[Secret], S]) -> S:
    """The secret itself: 16, 24 or 32 bytes."""
    try:
        return make(load_kek(source))
    except ConfigError as error:
        raise ConfigError(f"{path}: {key}: {error}") from None


def line_numbers(text: str) -> dict[Where, int]:
    """Key -> its line, of a file in the usual layout (headers and keys at the beginning of lines)."""
    lines: dict[Where, int] = {}
    counts: dict[str, int] = {}
    table: Where = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            name = header.group(2).replace('"', "")
            table = tuple(name.split("."))
            if header.group(1) == "[[":
                counts[name] = counts.get(name, -1) + 1
                table = (*table, counts[name])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key.group(1)), number)
    return lines


def line_of(path: Path, *key: str | int) -> int:
    """The line of a key in a file that was loaded; 1 when it is not found."""
    return line_numbers(path.read_text("utf-8")).get(key, 1)
