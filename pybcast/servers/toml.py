# SPDX-License-Identifier: Apache-2.0
"""A TOML file that becomes structs, and where in it each mistake stands.

Every refusal is a ``ConfigError`` of the form ``FILE:LINE: key: reason``.  No value of a file that may hold a secret is repeated:
secrets are named by their source (``file:PATH``, ``env:NAME``, ``command:WORDS``), never written in the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from pybcast import jsontext
from pybcast.errors import BadValue, ConfigError
from pybcast.secret import Secret
from pybcast.store import load_kek

Where = tuple[str | int, ...]
MAX_FILE: Final = 16 << 20  # octets: 50,000 services with every key written out
SOURCES: Final = "expected file:PATH, env:NAME or command:WORDS"

_STEP: Final = re.compile(r"\.([\w-]+)|\[(\d+)\]")
_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([\w.\"-]+)\s*\]")
_KEY: Final = re.compile(r"\s*\"?([\w-]+)\"?\s*=")
_FIELD: Final = re.compile(r"field `([^`]*)`")

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Address:
    host: str
    port: int


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

    def refuse(self, where: Where, reason: str) -> ConfigError:
        """The error to raise.  A key that is missing is looked for where its table begins."""
        place = where
        while place and place not in self._lines:
            place = place[:-1]
        line = f":{self._lines[place]}" if place else ""
        name = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in where).lstrip(".")
        return ConfigError(f"{self.path}{line}: {name}: {reason}" if name else f"{self.path}{line}: {reason}")

    def convert(self, kind: type[T]) -> T:
        """The whole file as a struct."""
        try:
            return msgspec.convert(self.raw, kind)
        except msgspec.ValidationError as error:
            text, _, at = str(error).partition(" - at `$")
            where: list[str | int] = [m[1] if m[1] else int(m[2]) for m in _STEP.finditer(at)]
            field = _FIELD.search(text)
            if field is not None and text.startswith("Object"):
                where.append(field.group(1))
                text = "unknown key" if "unknown" in text else "missing"
            raise self.refuse(tuple(where), text[:1].lower() + text[1:]) from None

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
