# SPDX-License-Identifier: Apache-2.0
"""What the commands read: messages (raw or hexadecimal), JSON, key files; all bounded; and the files they write."""

from __future__ import annotations

import base64
import datetime
import enum
import io
import os
import re
import stat
import string
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pybcast import jsontext
from pybcast.captures import pcap as capture
from pybcast.cli.output import warn
from pybcast.errors import BadValue, ConfigError, WireError
from pybcast.keys import Keys

MAX_INPUT: Final = 64 * 2**20
"""Bytes of messages read at once: as much as the largest answer of a back end (rules R30)."""

MAX_KEYS: Final = 2**20
"""Bytes of a key file: three 4096-bit RSA keys are under 10 KiB."""


MAX_REASONS: Final = 12
"""Reasons for which packets are not read, that are named one by one."""


class Form(enum.StrEnum):
    """How messages are written in a file."""

    auto = "auto"
    raw = "raw"
    hex = "hex"
    pcap = "pcap"


@dataclass(frozen=True)
class Item:
    """One message of an input, or why there is none.

    ``line``: where it stands in a file of hexadecimal lines, from 1.  ``packet``, ``time``: where in a capture, from 1, and when,
    RFC 3339 to the nanosecond.  ``comment``: of that packet.
    """

    line: int | None
    content: bytes | WireError
    packet: int | None = None
    time: str | None = None
    comment: str | None = None

    @property
    def place(self) -> str | None:
        """The same for people."""
        if self.packet is not None:
            return f"packet {self.packet}" + (f", {self.time}" if self.time else "")
        return None if self.line is None else f"line {self.line}"

    @property
    def where(self) -> dict[str, Any]:
        """The same for programs."""
        if self.packet is not None:
            return {"packet": self.packet, "time": self.time}
        return {} if self.line is None else {"line": self.line}


def read(name: str, limit: int = MAX_INPUT) -> bytes:
    """A file, or standard input for ``-``.  ``ConfigError`` when it cannot be read or is larger than ``limit`` bytes."""
    try:
        if name == "-":
            if sys.stdin is None:
                raise ValueError("closed")
            data = _read_at_most(sys.stdin.buffer, limit + 1)
        else:
            with Path(name).open("rb") as file:
                data = _read_at_most(file, limit + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {name!r}: {_why(error)}") from None
    if len(data) > limit:
        raise ConfigError(f"{name!r} is larger than {limit} bytes")
    return data


def _read_at_most(file: BinaryIO, size: int) -> bytes:
    parts = []
    while size > 0 and (part := file.read(min(size, 2**20))):  # a pipe gives less than asked
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def messages(argument: str | None, form: Form, ports: Sequence[int] = (), *, as_json: bool = False) -> Iterator[Item]:
    """The messages that an argument names: a file, ``-``, or one message in hexadecimal digits, a MIKEY message also in base64.

    An existing file wins over digits.  A file that begins as pcap or pcapng, as no message does, is a capture: its UDP datagrams
    are messages, those to ``ports`` or all.  One whose bytes are all printable ASCII or white space has a message on each line, in
    hexadecimal digits or base64 (blank lines, and ``#`` to the end of a line, are ignored); any other is one raw message; ``form``
    decides otherwise.
    """
    if argument is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("no message given: name a file, - for standard input, or hexadecimal digits")
        argument = "-"
    if argument != "-" and not os.path.lexists(argument):
        if argument and set(argument) <= set(string.hexdigits):
            if len(argument) % 2:
                raise ConfigError(f"an odd number of hexadecimal digits: {len(argument)}")
            return iter((Item(None, bytes.fromhex(argument)),))
        if (mikey := _mikey(argument)) is not None:
            return iter((Item(None, mikey),))
        raise ConfigError(f"neither a file nor hexadecimal digits: {argument[:80]!r}")
    data = read(argument)
    if form is Form.pcap or (form is Form.auto and capture.is_capture(data)):
        return _datagrams(data, frozenset(ports), as_json=as_json)
    if ports:
        raise ConfigError("--port is for captures")
    if form is Form.raw or (form is Form.auto and data.translate(None, _TEXT)):
        return iter((Item(None, data),))
    return _hex_lines(data)


def _datagrams(data: bytes, ports: frozenset[int], *, as_json: bool) -> Iterator[Item]:
    """The datagrams of a capture; then its fault, and how many packets were not read, and why."""
    passed: Counter[str] = Counter()
    number, found = 0, False
    try:
        for packet in capture.read(io.BytesIO(data)):
            number = max(number, packet.number)
            if isinstance(packet, capture.Skipped):
                passed[packet.reason] += 1
            elif not ports or packet.destination[1] in ports:
                found = True
                yield Item(None, packet.payload, packet.number, _moment(packet.time), packet.comment)
    except WireError as error:
        found = True
        yield Item(None, error, number + 1)
    if passed:
        warn(_not_read(passed), as_json=as_json)
    if not found:
        raise ConfigError("no UDP datagram in the capture" + (" to these ports" if ports else ""))


def _not_read(passed: Counter[str]) -> str:
    reasons = [f"{count} {reason}" for reason, count in sorted(passed.items(), key=lambda item: (-item[1], item[0]))]
    if len(reasons) > MAX_REASONS:
        rest = passed.total() - sum(count for _, count in passed.most_common(MAX_REASONS))
        reasons = [*reasons[:MAX_REASONS], f"{rest} for other reasons"]
    count = passed.total()
    return f"{count} packet{'' if count == 1 else 's'} of the capture not read: {', '.join(reasons)}"


def _moment(time: int | None) -> str | None:
    if time is None:
        return None
    seconds, fraction = divmod(time, 10**9)
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
    except (ValueError, OverflowError, OSError):  # a clock that nobody set
        return f"{seconds}.{fraction:09d}"


_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n"


_BASE64: Final = re.compile(r"(?:(?:a=)?key-mgmt: *)?(?:mikey +)?(AQ[A-Za-z0-9+/]*)(={0,2})", re.IGNORECASE)


def _mikey(text: str) -> bytes | None:
    """A MIKEY message in base64, alone or as a line of a session description carries it: ``a=key-mgmt:mikey AQAF...`` (RFC 4567).

    It begins with AQ, for MIKEY's version 1, which is no pair of hexadecimal digits: nothing is taken for the other.
    """
    found = _BASE64.fullmatch(text.strip())
    if found is None or not found[1].startswith("AQ") or len(found[1]) % 4 == 1:
        return None
    padding = "=" * (-len(found[1]) % 4)
    return base64.b64decode(found[1] + padding) if found[2] in ("", padding) else None


def _wrapped(data: bytes) -> bytes | None:
    """A MIKEY message in base64 that is cut into lines of one length, as most tools write it."""
    if data[:2] != b"AQ" or not data.isascii():
        return None
    lines = data.decode("ascii").split()
    size = len(lines[0])
    if len(lines) < 2 or size % 4 or any(len(line) != size for line in lines[:-1]) or len(lines[-1]) > size:
        return None
    one_on_each = all(_mikey(line) is not None for line in lines)
    return None if one_on_each else _mikey("".join(lines))


def _hex_lines(data: bytes) -> Iterator[Item]:
    if (mikey := _wrapped(data)) is not None:
        yield Item(None, mikey)
        return
    empty = True
    for number, line in enumerate(data.split(b"\n"), 1):
        digits = line.split(b"#", 1)[0].strip()
        if digits:
            empty = False
            try:
                text = digits.decode("ascii")
                mikey = _mikey(text)
                yield Item(number, bytes.fromhex(text) if mikey is None else mikey)
            except ValueError:
                yield Item(
                    number, BadValue(None, "", "hexadecimal digits, two for each byte", f"a line of {len(digits)} characters")
                )
    if empty:
        yield Item(None, b"")  # an empty input is an empty message: the codec says what is missing


def json_messages(argument: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """The JSON objects of a file or ``-``: one object, or one a line.  Each with its line, from 1, if there are several.

    ``BadValue`` for what is not a JSON object.
    """
    data = read(argument)
    try:
        whole = jsontext.read(data, strict=True)
    except BadValue:
        lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
        if len(lines) < 2:
            raise
        for number, line in lines:
            yield number, _object(jsontext.read(line, f"line {number}", strict=True))
        return
    yield None, _object(whole)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadValue(None, "", "a JSON object", type(value).__name__)
    return value


def load_keys(path: Path, *, as_json: bool) -> Keys:
    """The key file: a JSON object with the names of ``Keys.from_dict``.

    Says so when others may read it.  ``ConfigError`` never holds a value of the file.
    """
    data = read(str(path), MAX_KEYS) if str(path) != "-" else _no_keys_on_stdin()
    with suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            warn(f"others can read the keys in {path} (mode {mode:04o}): chmod 600 {path}", as_json=as_json)
    try:
        values = jsontext.read(data, strict=True)
    except BadValue as error:
        raise ConfigError(f"{path}: not JSON: {error.found}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a JSON object")
    try:
        return Keys.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _no_keys_on_stdin() -> bytes:
    raise ConfigError("--keys names a file: standard input is for messages")


def write(path: Path, data: bytes, *, secret: bool, overwrite: bool = True) -> None:
    """Write a file whole or not at all; ``secret``: only the owner may read it.  ``ConfigError`` when that cannot be done."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"not a regular file: {path}")
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not secret:
            temporary.chmod(0o666 & ~_umask())
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, refuses an existing name
            temporary.unlink()
    except FileExistsError:
        raise ConfigError(f"{path} exists: --force replaces it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {_why(error)}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
