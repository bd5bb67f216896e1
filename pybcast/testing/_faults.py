# SPDX-License-Identifier: Apache-2.0
"""What a mutation is, and the ways to break bytes that every kind shares.

A mutation keeps everything else consistent: outer length fields follow, parts that a cleared flag would orphan go.  So the one
broken rule is the only ground for refusal, and a parser that accepts the result lacks that rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pybcast.errors import WireError
from pybcast.messages import Kind
from pybcast.testing._layout import LOCATE, Fields


class NotApplicable(ValueError):
    """The message lacks the field that the mutation breaks (an absent timestamp has no bad digit)."""


@dataclass(frozen=True)
class Fault:
    """Broken bytes, and the refusal they deserve: error type, field (dotted, specification names) and offset."""

    data: bytes
    error: type[WireError]
    field: str
    offset: int


Break = Callable[[bytearray, Fields], int | tuple[int, str]]
"""Breaks the bytes in place; returns the offset of the field at fault, with its path where that depends on the message.
``KeyError``: the message has no such field."""


Row = tuple[str, str, type[WireError], str, Break]
"""A mutation as a line of a table: name, rule, error, field, how to break."""


@dataclass(frozen=True)
class Mutation:
    """One way to break one rule.  Call it with valid bytes of its kind to get the broken bytes.

    ``rule`` cites the layout notes.  ``field`` is the field at fault, ``""`` the message as a whole.  In a MIKEY message ``<T>``
    stands for the place of the T payload (``payloads[2]``), ``next_payload`` alone for the octet that announces what is at fault;
    :meth:`fault` has the path in full.  ``partial``: meant for the partially created form of an STKM.
    """

    kind: Kind
    name: str
    rule: str
    error: type[WireError]
    field: str
    break_: Break
    partial: bool = False

    def fault(self, data: bytes) -> Fault:
        """The broken bytes with the refusal they deserve.  ``NotApplicable`` when ``data`` lacks what is to be broken."""
        broken = bytearray(data)
        try:
            fields = LOCATE[self.kind](data)
            at = self.break_(broken, fields)
            offset, field = (
                at if isinstance(at, tuple) else (at, _PLACE.sub(lambda name: payload_path(fields, name[1]), self.field))
            )
        except KeyError as error:
            raise NotApplicable(f"{self.name}: no {error.args[0]} in this message") from None
        if broken == data:
            raise NotApplicable(f"{self.name}: already so")
        return Fault(bytes(broken), self.error, field, offset)

    def __call__(self, data: bytes) -> bytes:
        return self.fault(data).data

    def applies(self, data: bytes) -> bool:
        """Whether ``data`` has what this mutation breaks."""
        try:
            self.fault(data)
        except NotApplicable:
            return False
        return True


_PLACE: Final = re.compile(r"<([\w#]+)>")


def payload_path(fields: Fields, name: str) -> str:
    """``T`` -> ``payloads[2]``."""
    return next(path for path, span in fields.items() if path.startswith("payloads[") and span == fields[name])


# --- how to break ----------------------------------------------------------------------------------------------------


def put(field: str, value: int, mask: int = 0xFF, at: int = 0) -> Break:
    """Set the masked bits of one octet of a field."""

    def break_(data: bytearray, fields: Fields) -> int:
        start = fields[field].offset
        data[start + at] = data[start + at] & ~mask & 0xFF | value
        return start

    return break_


def fill(field: str, octet: int) -> Break:
    """Set every byte of a field."""

    def break_(data: bytearray, fields: Fields) -> int:
        span = fields[field]
        data[span.offset : span.end] = bytes([octet]) * span.length
        return span.offset

    return break_


def when(condition: Callable[[bytes, Fields], bool], break_: Break) -> Break:
    """Only where the rest of the message makes it a fault."""

    def wrapped(data: bytearray, fields: Fields) -> int | tuple[int, str]:
        if not condition(bytes(data), fields):
            raise KeyError("such condition")
        return break_(data, fields)

    return wrapped


def cut(field: str) -> Break:
    """End one byte too early, within the last field."""

    def break_(data: bytearray, fields: Fields) -> int:
        del data[-1]
        return fields[field].offset

    return break_


def far(length: str, value: str) -> Break:
    """A 16-bit length that reaches far past the end of the message."""

    def break_(data: bytearray, fields: Fields) -> int:
        data[fields[length].offset] = 0xFF
        return fields[value].offset

    return break_


def inner(field: str, at: int, value: int) -> Break:
    """One octet of a field that has fields of its own; at fault is the one at ``at``."""

    def break_(data: bytearray, fields: Fields) -> int:
        start = fields[field].offset
        data[start + at] = value
        return start + at

    return break_


def append(data: bytearray, fields: Fields) -> int:
    """One more byte."""
    data.append(0)
    return len(data) - 1


def uncounted(data: bytearray, fields: Fields) -> int:
    """One more byte behind a message that tells its own length, in bytes 2 and 3: at fault is that length."""
    data.append(0)
    return 2


def move(field: str, by: int) -> Break:
    """A length field that lies: ``by`` more, and nothing else changed.  Low octets only; near a limit it does not apply."""

    def break_(data: bytearray, fields: Fields) -> int:
        span = fields[field]
        last = span.end - 1
        if not 0 <= data[last] + by <= 255:
            raise KeyError("room")
        data[last] += by
        return span.offset

    return break_


def count(field: str, offset: int, size: int, mask: int, by: int, data: bytearray) -> None:
    """Add to the low bits of a big-endian integer."""
    value = int.from_bytes(data[offset : offset + size], "big")
    low = (value & mask) + by
    if not 0 <= low <= mask:
        raise KeyError(f"room in {field}")
    data[offset : offset + size] = (value & ~mask | low).to_bytes(size, "big")
