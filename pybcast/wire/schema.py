# SPDX-License-Identifier: Apache-2.0
"""The notation in which every message of pybcast is written down: specification tables, on top of ``construct``.

A :class:`Table` lists :class:`Field` rows in the order of the specification, names verbatim.  Reading, writing and explaining
run over the same rows, so none of the three can say something else than the other two.

What the tables promise, and the C core repeats:

* **Order of checks.**  Strictly left to right.  A field is read (``Truncated``), then converted (a BCD time), then checked, and
  only then the next field is touched.  A contradiction between fields is reported at the field where it becomes visible, the later
  one.  A field that covers others (a list, a length-delimited area) is checked after its content; bytes left over come last
  (``TrailingBytes``).
* **Offsets.**  The first byte of the field, counted from the start of the message; for a bit field the byte in which its first bit
  lies.  ``Truncated`` tells where the field *starts*; ``expected`` counts the bytes the field touches, ``found`` those that are
  left of the enclosing area.
* **Areas.**  A length field that reaches beyond the enclosing area is ``Truncated`` at the start of what it delimits, before
  anything inside is looked at; bytes left over inside an area are ``TrailingBytes`` with the path of the area.
* **Paths.**  Specification names joined by dots, list indices in brackets, counted from 0: ``access_criteria[1].length``,
  ``payloads[3].encr_data``, ``payloads[1].management.traffic_key_lifetime``.  The message as a whole is the empty path.
* **Writing.**  The same checks with the same paths and ``offset`` ``None``; on top of them the ranges and sizes that reading cannot
  miss, and presence: a field that the flags rule out must be absent, one that they demand must be there.  Lengths and counts are
  taken from what they measure.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from construct import Bytes, Construct, Container, FormatField, StreamError

from pybcast.errors import BadLength, BadValue, TrailingBytes, Truncated, WireError
from pybcast.messages import LENIENCIES, Confidence, Leniency
from pybcast.secret import Secret

if TYPE_CHECKING:  # pragma: no cover - for the type checker: construct's classes, as we use them
    Context = Container[Any]

    class Shape:
        def _parse(self, stream: Cursor, context: Context, path: str) -> Any: ...
        def _build(self, obj: Any, stream: io.BytesIO, context: Context, path: str) -> Any: ...

    class _Bytes(Shape):
        length: Any

        def __init__(self, length: Any) -> None: ...

    class _FormatField(Shape):
        length: int

        def __init__(self, endianity: str, format: str) -> None: ...
else:
    Context, Shape, _Bytes, _FormatField = Container, Construct, Bytes, FormatField

SURE, LIKELY, GUESS, OWN = Confidence.SURE, Confidence.LIKELY, Confidence.GUESS, Confidence.OWN
Values = dict[str, Any]
"""The fields of one table, by specification name: what a message becomes on its way to bytes."""


@dataclass(frozen=True)
class Row:
    """One line of an explanation: ``length`` bytes at ``offset``.  Bit fields share the bytes they lie in."""

    offset: int
    length: int
    field: str
    value: str
    meaning: str
    confidence: Confidence


@dataclass(frozen=True)
class Explanation:
    """A message field by field; ``error`` is the fault that ended it, with the rows up to there."""

    rows: tuple[Row, ...]
    error: WireError | None = None


class Fault(Exception):
    """Raised by a check or a conversion; the table turns it into ``error`` at the right place."""

    def __init__(self, error: type[WireError], expected: str, found: str) -> None:
        self.error, self.expected, self.found = error, expected, found
        super().__init__(error, expected, found)


@dataclass
class Run:
    """One decoding or encoding: what the caller asked for, and what the message's own rules need to remember."""

    lenient: frozenset[Leniency] = frozenset()
    partial: bool = False
    rows: list[Row] | None = None
    state: Any = None
    cursor: Cursor | None = None
    """Reading only: the whole message (see ``total_length``)."""
    sized: bool = False
    """Reading only: the message says its size, so that bytes before that end are never ignored."""


class Cursor:
    """The stream that construct reads from: a window on the message that remembers what was asked of it."""

    __slots__ = ("asked", "data", "end", "position")

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.end, self.asked = data, 0, len(data), 0

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes; ``position`` moves only when all of them are there."""
        self.asked = count
        stop = self.position + count
        if stop > self.end:
            return self.data[self.position : self.end]
        piece = self.data[self.position : stop]
        self.position = stop
        return piece


Check = Callable[[Any, Context], None]
When = Callable[[Context], Any]


# --- shapes: what a field can be -------------------------------------------------------------------------------------


def _integer(value: object, bits: int, error: type[WireError]) -> int:
    if not isinstance(value, int):
        raise Fault(BadValue, "an integer", type(value).__name__)
    if not 0 <= value < 1 << bits:
        raise Fault(error, f"0..{(1 << bits) - 1}", str(value))
    return int(value)


def octets(value: object, length: int | None) -> bytes:
    """``value`` as a byte string of that length (``None``: any)."""
    if not isinstance(value, bytes | bytearray):
        raise Fault(BadValue, "bytes", type(value).__name__)
    if length is not None and len(value) != length:
        raise Fault(BadLength, f"{length} bytes", f"{len(value)} bytes")
    return bytes(value)


class Bits:
    """An unsigned bit field.  ``error`` is what an encoder raises when the value does not fit."""

    def __init__(self, width: int, error: type[WireError] = BadValue) -> None:
        self.width, self.error = width, error

    def admit(self, value: object, context: Context) -> int:
        return _integer(value, self.width, self.error)


class UInt(_FormatField):
    """An unsigned integer of 1, 2 or 4 bytes in network order."""

    def __init__(self, width: int, error: type[WireError] = BadValue) -> None:
        super().__init__(">", {1: "B", 2: "H", 4: "L"}[width])
        self.error = error

    def admit(self, value: object, context: Context) -> int:
        return _integer(value, 8 * self.length, self.error)


class Octets(_Bytes):
    """A byte string; its length is a number or follows from the fields before it."""

    def admit(self, value: object, context: Context) -> bytes:
        return octets(value, self.length(context) if callable(self.length) else self.length)


class Remaining(Shape):
    """The rest of the enclosing area but for the last ``keep`` bytes (none, when fewer are left)."""

    def __init__(self, keep: Callable[[Context], int]) -> None:
        super().__init__()
        self.keep = keep

    def admit(self, value: object, context: Context) -> bytes:
        return octets(value, None)

    def _parse(self, stream: Cursor, context: Context, path: str) -> bytes:
        return stream.read(max(0, stream.end - stream.position - self.keep(context)))

    def _build(self, obj: bytes, stream: io.BytesIO, context: Context, path: str) -> bytes:
        stream.write(obj)
        return obj


class SecretOctets(Octets):
    """A byte string of key material: a ``Secret`` outside, never printed."""

    def admit(self, value: object, context: Context) -> bytes:
        return super().admit(value.reveal() if isinstance(value, Secret) else value, context)

    def _parse(self, stream: Cursor, context: Context, path: str) -> Secret:
        return Secret(super()._parse(stream, context, path))


class Converted(Shape):
    """``shape`` seen through a pair of functions that raise :class:`Fault`."""

    def __init__(self, shape: Octets, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> None:
        super().__init__()
        self.shape, self.read, self.write = shape, read, write

    def admit(self, value: object, context: Context) -> object:
        self.write(value)
        return value

    def _parse(self, stream: Cursor, context: Context, path: str) -> object:
        return self.read(self.shape._parse(stream, context, path))

    def _build(self, obj: object, stream: io.BytesIO, context: Context, path: str) -> object:
        return self.shape._build(self.write(obj), stream, context, path)


class Composite(Shape):
    """A shape with fields of its own: it adds their rows itself."""


class Switch(Composite):
    """One of several tables, chosen by a number read before."""

    def __init__(self, number: Callable[[Context], int], cases: Mapping[int, Composite], default: Composite) -> None:
        super().__init__()
        self.number, self.cases, self.default = number, cases, default

    def _parse(self, stream: Cursor, context: Context, path: str) -> Any:
        return self.cases.get(self.number(context), self.default)._parse(stream, context, path)

    def _build(self, obj: Any, stream: io.BytesIO, context: Context, path: str) -> Any:
        return self.cases.get(self.number(context), self.default)._build(obj, stream, context, path)


class List(Composite):
    """``count`` times ``table`` (one after the other), or as many as the enclosing area holds but not fewer than ``least``."""

    def __init__(self, table: Table, count: Callable[[Context], int] | None = None, *, least: int = 0) -> None:
        super().__init__()
        self.table, self.count, self.least = table, count, least

    def _parse(self, stream: Cursor, context: Context, path: str) -> list[Context]:
        if self.count is not None:
            return [self.table._parse(stream, context, f"{path}[{index}]") for index in range(self.count(context))]
        items: list[Context] = []
        while stream.position < stream.end or len(items) < self.least:
            items.append(self.table._parse(stream, context, f"{path}[{len(items)}]"))
        return items

    def _build(self, obj: Sequence[Values], stream: io.BytesIO, context: Context, path: str) -> list[Context]:
        return [self.table._build(item, stream, context, f"{path}[{index}]") for index, item in enumerate(obj)]


class Area(Composite):
    """``length`` bytes that hold exactly ``shape``.  ``inline``: the fields inside keep the path of the table outside."""

    def __init__(self, length: Callable[[Context], int], shape: Composite, *, inline: bool = False) -> None:
        super().__init__()
        self.length, self.shape, self.inline = length, shape, inline

    def _parse(self, stream: Cursor, context: Context, path: str) -> Any:
        length, outer = self.length(context), stream.end
        if length > outer - stream.position:
            raise Fault(Truncated, _count(length), _count(outer - stream.position))
        stream.end = stream.position + length
        value = self.shape._parse(stream, context, self._inner(path))
        if stream.position < stream.end:
            raise TrailingBytes(stream.position, path, "no more bytes", _count(stream.end - stream.position))
        stream.end = outer
        return value

    def _build(self, obj: Any, stream: io.BytesIO, context: Context, path: str) -> Any:
        return self.shape._build(obj, stream, context, self._inner(path))

    def _inner(self, path: str) -> str:
        return path.rpartition(".")[0] if self.inline else path


class Opaque(Composite):
    """A part that is checked and explained as ``shape`` but handed on as bytes."""

    def __init__(self, shape: Composite) -> None:
        super().__init__()
        self.shape = shape

    def _parse(self, stream: Cursor, context: Context, path: str) -> bytes:
        start = stream.position
        self.shape._parse(stream, context, path)
        return stream.data[start : stream.position]

    def _build(self, obj: bytes, stream: io.BytesIO, context: Context, path: str) -> bytes:
        data = octets(obj, None)
        inner = Cursor(data)
        try:
            root: Context = Container(_=context, _run=Run(lenient=context._run.lenient))
            self.shape._parse(inner, root, path)
        except WireError as error:
            raise type(error)(None, error.field, error.expected, error.found) from None
        if inner.position < inner.end:
            raise TrailingBytes(None, path, "no more bytes", f"{inner.end - inner.position} bytes")
        stream.write(data)
        return data


# --- rows and tables -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One row of a specification table.  Make it with :func:`field`."""

    name: str
    shape: Any
    confidence: Confidence
    meaning: str
    when: When | None = None
    check: Check | None = None
    names: Mapping[int, object] | None = None
    show: Callable[[Any], str] | None = None
    secret: When | None = None
    default: Any = None
    measures: tuple[str, ...] = ()
    unset: str | None = None

    def means(self, value: Any) -> str:
        """What a value of this field means."""
        return self.unset if self.unset is not None and not value else self.meaning


def field(
    name: str,
    shape: Any,
    confidence: Confidence,
    meaning: str,
    *,
    when: When | None = None,
    check: Check | None = None,
    names: Mapping[int, object] | None = None,
    show: Callable[[Any], str] | None = None,
    secret: When | None = None,
    default: Any = None,
    measures: str | tuple[str, ...] = (),
    unset: str | None = None,
) -> Field:
    """One row: name, shape, ground, meaning with its source; ``unset``: of a flag, what 0 means.

    ``when``: present only then.  ``check``: raises :class:`Fault`.  ``names``, ``show``: how an explanation prints the value.
    ``secret``: when the value must not be printed.  ``default``: written when the message says nothing (reserved bits).
    ``measures``: a length or a count, written as the size of the field of that name (of the one present, when there are several).
    """
    measured = (measures,) if isinstance(measures, str) else measures
    return Field(name, shape, confidence, meaning, when, check, names, show, secret, default, measured, unset)


def reserved(width: int, confidence: Confidence, *, when: When | None = None) -> Field:
    """reserved_for_future_use: written 0, refused otherwise (rules R17)."""
    return field("reserved_for_future_use", Bits(width), confidence, "reserved, 0", when=when, check=zero, default=0)


class Table(Composite):
    """Rows in the order of the specification.  Reads into a ``Container``, writes from a ``dict``, both keyed by field name."""

    def __init__(self, *rows: Field) -> None:
        super().__init__()
        self.rows = rows
        self.named = {row.name: row for row in rows}

    def _parse(self, stream: Cursor, context: Context, path: str) -> Context:
        run: Run = context._run
        here: Context = Container(_=context, _run=run)
        prefix = path + "." if path else ""
        word = spare = 0  # bits of the byte(s) read last; how many of them are still to be used
        for row in self.rows:
            if row.when is not None and not row.when(here):
                continue
            name, shape = prefix + row.name, row.shape
            start = stream.position - (1 if spare else 0)
            try:
                if type(shape) is Bits:
                    if shape.width > spare:
                        missing = (shape.width - spare + 7) // 8
                        word = (word & (1 << spare) - 1) << 8 * missing | int.from_bytes(_take(stream, missing), "big")
                        spare += 8 * missing
                    spare -= shape.width
                    value: Any = word >> spare & (1 << shape.width) - 1
                else:
                    value = shape._parse(stream, here, name)
                if row.check is not None:
                    row.check(value, here)
            except StreamError:
                left = stream.end - start
                raise Truncated(start, name, _count(stream.position - start + stream.asked), _count(left)) from None
            except Fault as fault:
                raise fault.error(start, name, fault.expected, fault.found) from None
            here[row.name] = value
            if run.rows is not None and not isinstance(shape, Composite) and stream.position > start:
                text = _text(row, value, stream.position - start, here)
                run.rows.append(Row(start, stream.position - start, name, text, row.means(value), row.confidence))
        return here

    def _build(self, obj: Values, stream: io.BytesIO, context: Context, path: str) -> Context:
        run: Run = context._run
        here: Context = Container(_=context, _run=run)
        prefix = path + "." if path else ""
        word = used = 0
        built: dict[str, tuple[bytes, Any]] = {}  # what a length field had to see before its turn
        for row in self.rows:
            name, shape, value = prefix + row.name, row.shape, obj.get(row.name, row.default)
            try:
                if row.when is not None and not row.when(here):
                    if value is not None and row.default is None:
                        raise Fault(BadValue, "absent", "present")
                    continue
                if row.measures:
                    target = next((name for name in row.measures if obj.get(name) is not None), row.measures[0])
                    value = self._measure(target, obj.get(target), here, prefix, built)
                if value is None:
                    raise Fault(BadValue, "present", "absent")
                if not isinstance(shape, Composite):
                    value = shape.admit(value, here)
                if type(shape) is Bits:
                    word, used = word << shape.width | value, used + shape.width
                    if used % 8 == 0:
                        stream.write(word.to_bytes(used // 8, "big"))
                        word = used = 0
                elif row.name in built:
                    data, value = built[row.name]
                    stream.write(data)
                else:
                    value = shape._build(value, stream, here, name)
                if row.check is not None:
                    row.check(value, here)
            except Fault as fault:
                raise fault.error(None, name, fault.expected, fault.found) from None
            here[row.name] = value
        return here

    def _measure(self, name: str, value: Any, here: Context, prefix: str, built: dict[str, tuple[bytes, Any]]) -> int:
        """What a length field has to say about the field ``name``: items of a counted list, else bytes."""
        shape = self.named[name].shape
        if value is None:
            raise BadValue(None, prefix + name, "present", "absent")
        if isinstance(shape, Area) and not isinstance(value, bytes | bytearray):
            piece = io.BytesIO()
            content = shape._build(value, piece, here, prefix + name)
            built[name] = (piece.getvalue(), content)
            return piece.tell()
        if not isinstance(value, bytes | bytearray | str | Secret | list):
            raise BadValue(None, prefix + name, "bytes", type(value).__name__)
        return len(value)


def _take(stream: Cursor, count: int) -> bytes:
    piece = stream.read(count)
    if len(piece) < count:
        raise StreamError
    return piece


def _count(number: int) -> str:
    return f"{number} byte" if number == 1 else f"{number} bytes"


LONGEST_SHOWN = 64
"""Bytes of a value that an explanation prints; the rest is counted."""


def _text(row: Field, value: Any, length: int, context: Context) -> str:
    if isinstance(value, Secret) or (row.secret is not None and row.secret(context)):
        return f"<{length} secret bytes>"
    if row.show is not None:
        return row.show(value)
    if isinstance(value, bytes):
        return value.hex() if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN].hex()}... ({len(value)} bytes)"
    if row.names is not None and value in row.names:
        return f"{value} ({row.names[value]})"
    return str(value)


# --- checks ----------------------------------------------------------------------------------------------------------


def zero(value: int, context: Context) -> None:
    """Reserved bits."""
    if value:
        raise Fault(BadValue, "0", str(value))


def equals(wanted: int, error: type[WireError]) -> Check:
    """Exactly this number."""

    def check(value: int, context: Context) -> None:
        if value != wanted:
            raise Fault(error, str(wanted), str(value))

    return check


def between(low: int, high: int, error: type[WireError]) -> Check:
    """A number in a range, both ends included."""

    def check(value: int, context: Context) -> None:
        if not low <= value <= high:
            raise Fault(error, f"{low}..{high}", str(value))

    return check


def one_of(wanted: Collection[int], error: type[WireError]) -> Check:
    """One of a few numbers."""

    def check(value: int, context: Context) -> None:
        if value not in wanted:
            raise Fault(error, " or ".join(str(number) for number in sorted(wanted)), str(value))

    return check


def zeros(value: bytes, context: Context) -> None:
    """Zero bytes, in a part that is not filled in yet."""
    if any(value):
        raise Fault(BadValue, f"{len(value)} zero bytes", "other bytes")


def total_length(value: int, context: Context) -> None:
    """A field that repeats the size of the whole message.  Under trailing-bytes the message ends where it says."""
    cursor: Cursor | None = context._run.cursor
    if cursor is None:
        return
    context._run.sized = True
    if value == cursor.end:
        return
    if value > cursor.end or "trailing-bytes" not in context._run.lenient:
        raise Fault(BadLength, f"{cursor.end} (size of the message)", str(value))
    cursor.end = max(value, cursor.position)


# --- running a table -------------------------------------------------------------------------------------------------


def leniencies(names: Collection[Leniency]) -> frozenset[Leniency]:
    """The set of ``names``; ``ValueError`` for one that does not exist."""
    for name in names:
        if name not in LENIENCIES:
            raise ValueError(f"unknown leniency {name!r}; known: {', '.join(LENIENCIES)}")
    return frozenset(names)


def read(table: Composite, data: bytes, run: Run) -> Any:
    """All of ``data`` as ``table``."""
    run.cursor = cursor = Cursor(bytes(memoryview(data)))
    root: Context = Container(_run=run)
    value = table._parse(cursor, root, "")
    if cursor.position < cursor.end and (run.sized or "trailing-bytes" not in run.lenient):
        raise TrailingBytes(cursor.position, "", "end of message", _count(cursor.end - cursor.position))
    return value


def write(table: Composite, values: Any, run: Run) -> bytes:
    """``values`` as bytes."""
    stream = io.BytesIO()
    root: Context = Container(_run=run)
    table._build(values, stream, root, "")
    return stream.getvalue()


def write_sized(table: Composite, values: Values, size_field: str, run: Run) -> bytes:
    """``values`` as bytes, with the size of the whole in ``size_field``."""
    return write(table, values | {size_field: len(write(table, values | {size_field: 0}, run))}, run)
