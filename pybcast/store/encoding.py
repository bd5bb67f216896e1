# SPDX-License-Identifier: Apache-2.0
"""Rows as bytes: one to one, self-describing, and with every secret wrapped.

The format is MessagePack.  ``None``, booleans, integers of 64 bits, floats, text and bytes are themselves, a tuple is an array.
Anything else is a map of one entry, {layout number: body}; the table ``layout`` of the database says what a number means:

* a dataclass: its name and the names of its fields; body = array of their values in that order.  A class that has gained a field
  gets a new number, and rows of the old one are read with the field's default;
* an enumeration: body = the value;  a ``frozenset``: body = array in order of the encoded members;
* a ``Secret`` or a key: body = ``None``; the bytes are with those of the row's other secrets.

An array of values of one layout, three or more, is {"": [layout number, column, ...]}: an array of the values of each field; of an
enumeration the values; of secrets how many they are.  A column of arrays is {"+": [array of their sizes, all as one array]}.  A
batch of periods takes half the time so.

A row with secrets is {0: [value, header, wrapped]}.  ``wrapped``: the bytes of all of them one after the other, wrapped together:
that takes as long as one alone.  ``header``: layout number, size and how many there are of these, in the order in which the value
has them.  They open in this row only, in this order and with these kinds and sizes (``wrapping``).

Only classes of ``types.TYPES`` are written or made again.  A ``Secret`` outside of one of these places cannot be encoded at all.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, NoReturn

import msgspec

from pybcast.errors import KeyUnavailable, StoreError
from pybcast.flows.journal import RowKey
from pybcast.secret import Secret
from pybcast.store.protocol import StoreDamaged
from pybcast.store.wrapping import OVERHEAD, RowWrap, row_place

FORMAT: Final = 1
LEAST: Final = 3  # values of one layout that stand by column - confidence: own
_TABLE: Final = ""
_PARTS: Final = "+"
_SEALED: Final = 0  # in the place of a layout number, which are counted from 1: a row with secrets
Layout = tuple[str, str]
"""(name in ``types.TYPES``, names of the fields with a space between: empty where there are none)."""

Where = tuple[str, str | bytes]
"""A row: (table, its key as :meth:`Codec.encode_key` gives it)."""

_NOWHERE: Final[Where] = ("", "")
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
_encode: Final[Callable[[object], bytes]] = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder().decode


def layouts(types: Mapping[str, type]) -> list[Layout]:
    """How the classes of this program are laid out."""
    return [(name, " ".join(_fields(kind))) for name, kind in types.items()]


def _fields(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


class _Lowering(dict[type, Callable[[Any], object]]):
    def __missing__(self, kind: type) -> NoReturn:
        raise StoreError(f"{kind.__module__}.{kind.__qualname__} is not among the types that are stored")


class Codec:
    """Encodes and decodes rows by the layouts of one database.

    ``numbers``: layout -> its number there, old layouts too.  ``types``: what may be made.
    """

    def __init__(self, numbers: Mapping[Layout, int], types: Mapping[str, type]) -> None:
        current = layouts(types)
        self._down: dict[type, Callable[[Any], object]] = _Lowering()
        self._down[tuple] = self._array
        self._tables: dict[type, Callable[[Any], object]] = {}
        self._up: dict[int | str, Callable[[Any], object]] = {_TABLE: self._raise_table, _PARTS: self._raise_parts}
        self._rows: dict[int, Callable[[list[Any]], tuple[object, ...]]] = {}
        self._secrets = {number: name for (name, _), number in numbers.items() if name in types and issubclass(types[name], Secret)}
        self._strange = {number: name for (name, _), number in numbers.items() if name not in types}
        for name, fields in current:
            self._down[types[name]] = self._lowering(types[name], numbers[name, fields], fields)
            if types[name] is not frozenset:
                self._tables[types[name]] = self._lowering_many(types[name], numbers[name, fields], fields)
        for (name, fields), number in numbers.items():
            self._up[number] = self._raising(name, types.get(name), fields)
            self._rows[number] = self._raising_many(name, types.get(name), fields)
        self._wrap: RowWrap | None = None
        self._header: list[int] = []
        self._raw: list[bytes] = []
        self._opened: Iterator[tuple[int, int, bytes | None]] = iter(())

    # --- encoding -----------------------------------------------------------------------------------------------------

    def encode(self, value: object, wrap: RowWrap, where: Where) -> tuple[bytes, bool]:
        """(bytes, whether they hold a wrapped key).  ``StoreError`` for what cannot stand in a row."""
        self._wrap, self._header, self._raw = wrap, [], []
        try:
            tree = value if type(value) in _PLAIN else self._down[type(value)](value)
            if not self._header:
                return _encode(tree), False
            wrapped = wrap.wrap(Secret(b"".join(self._raw)), self._sealed_place(where, self._header))
            return _encode({_SEALED: [tree, self._header, wrapped]}), True
        except KeyUnavailable as error:
            raise StoreError(f"a wiped {error.key_id} cannot be stored") from None
        except (OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise StoreError(f"a value cannot be stored: {type(error).__name__}") from None
        finally:
            self._wrap, self._raw = None, []

    def encode_key(self, key: RowKey) -> str | bytes:
        """The key of a row: text when it is one text, as most are, else bytes."""
        if len(key) == 1 and type(key[0]) is str:
            return key[0]
        try:
            data = _encode(self._array(key))
        except (OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise StoreError(f"the key of a row cannot be stored: {type(error).__name__}") from None
        return data

    def _array(self, value: tuple[object, ...]) -> object:
        if len(value) >= LEAST:
            table = self._tables.get(type(value[0]))
            if table is not None and len(set(map(type, value))) == 1:
                return table(value)
        return self._list(value)

    def _list(self, value: Iterable[object]) -> list[object]:
        down = self._down
        return [item if type(item) in _PLAIN else down[type(item)](item) for item in value]

    def _lowering(self, kind: type, number: int, fields: str) -> Callable[[Any], object]:
        if issubclass(kind, Secret):
            return lambda value: {number: self._lock(value, number)}
        if kind is frozenset:
            return lambda value: {number: sorted(self._list(value), key=_encode)}
        if issubclass(kind, enum.Enum):
            return lambda value: {number: value.value}
        names, down = fields.split(), self._down
        if len(names) == 1:
            one = attrgetter(names[0])
            return lambda value: {number: self._list((one(value),))}
        several = attrgetter(*names)
        # `_list`, written out: a page has a thousand letters, and calls are what they cost
        return lambda value: {number: [item if type(item) in _PLAIN else down[type(item)](item) for item in several(value)]}

    def _lowering_many(self, kind: type, number: int, fields: str) -> Callable[[Any], object]:
        if issubclass(kind, Secret):
            return lambda values: {_TABLE: [number, len([self._lock(value, number) for value in values])]}
        if issubclass(kind, enum.Enum):
            return lambda values: {_TABLE: [number, [value.value for value in values]]}
        getters = [attrgetter(name) for name in fields.split()]
        return lambda values: {_TABLE: [number, *[self._column(tuple(map(get, values))) for get in getters]]}

    def _column(self, values: tuple[Any, ...]) -> object:
        kinds = set(map(type, values))
        if kinds <= _PLAIN:
            return values
        if kinds == {tuple}:
            return {_PARTS: [list(map(len, values)), self._array(tuple(itertools.chain.from_iterable(values)))]}
        return self._array(values)

    def _lock(self, secret: Secret, number: int) -> object:
        if self._wrap is None:
            raise StoreError("the key of a row may not hold a secret")
        raw, header = secret.reveal(), self._header
        self._raw.append(raw)
        if header[-3:-1] == [number, len(raw)]:
            header[-1] += 1
        else:
            header += number, len(raw), 1
        return None

    def _sealed_place(self, where: Where, header: list[int]) -> bytes:
        """Of the secrets of a row."""
        kinds = [b"%s %d %d " % (self._secrets[number].encode(), size, count) for number, size, count in _threes(header)]
        return row_place(*where) + b"".join(kinds)

    # --- decoding -----------------------------------------------------------------------------------------------------

    def decode(self, data: bytes, wrap: RowWrap | None, where: Where) -> object:
        """The value.  Without ``wrap`` secrets come wiped: their type and size are there, their bytes are not.

        ``StoreDamaged`` for anything that :meth:`encode` did not make.
        """
        try:
            tree = _decode(data)
            if type(tree) is dict and _SEALED in tree:
                tree = self._open(tree, wrap, where)
            value = tree if type(tree) in _PLAIN else self._raise(tree)
            if next(self._opened, None) is not None:
                raise StoreDamaged("damaged (secrets)")
            return value
        except StoreError:
            raise
        except Exception as error:  # whatever a class says to wrong fields: the row is damaged, and no bytes of it are shown
            raise StoreDamaged(f"damaged ({type(error).__name__})") from None
        finally:
            self._opened = iter(())

    def _open(self, tree: dict[int, Any], wrap: RowWrap | None, where: Where) -> object:
        """The value of a row with secrets; these are at hand for it."""
        value, header, wrapped = tree[_SEALED]
        raw = None if wrap is None else wrap.unwrap(wrapped, self._sealed_place(where, header))
        octets = sum([size * count for _, size, count in _threes(header)])
        if len(wrapped) != octets + OVERHEAD * (octets > 0) or min(header) < 0:
            raise StoreDamaged("damaged (key size)")
        self._opened = _pieces(header, raw)
        return value

    def decode_key(self, key: str | bytes) -> RowKey:
        """The key of a row."""
        if isinstance(key, str):
            return (key,)
        value = self.decode(key, None, _NOWHERE)
        if not isinstance(value, tuple):
            raise StoreDamaged("the key of a row is damaged")
        return value

    def rewrap(self, data: bytes, old: RowWrap, new: RowWrap, where: Where) -> bytes:
        """The same row, which has secrets, with these wrapped under another key; what it means otherwise is not looked at."""
        try:
            value, header, wrapped = _decode(data)[_SEALED]
            for number, _, _ in _threes(header):
                if number in self._strange:
                    _unknown(self._strange[number])(header)
            place = self._sealed_place(where, header)
            again = new.wrap(Secret(old.unwrap(wrapped, place)), place)
            return _encode({_SEALED: [value, header, again]})
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError, KeyError) as error:
            raise StoreDamaged(f"damaged ({type(error).__name__})") from None

    def _raise(self, tree: object) -> object:
        if isinstance(tree, list):
            return tuple([item if type(item) in _PLAIN else self._raise(item) for item in tree])
        if not isinstance(tree, dict):
            raise StoreDamaged("damaged (type)")
        ((number, body),) = tree.items()
        return self._up[number](body)

    def _raising(self, name: str, kind: type | None, fields: str) -> Callable[[Any], object]:
        if kind is None:
            return _unknown(name)
        if issubclass(kind, Secret):
            return lambda _: self._taken(kind, name)
        if kind is frozenset:
            return lambda body: frozenset(self._raise(body))  # type: ignore[call-overload]  # a list gives a tuple
        if issubclass(kind, enum.Enum):
            return kind
        names = fields.split()
        missing = set(names) - set(_fields(kind))
        if missing:
            return _unknown(f"{name}.{min(missing)}")

        def make(body: list[object]) -> object:
            if len(body) != len(names):
                raise StoreDamaged("damaged (fields)")
            return kind(**{n: v if type(v) in _PLAIN else self._raise(v) for n, v in zip(names, body, strict=True)})

        return make

    def _raise_table(self, body: list[Any]) -> tuple[object, ...]:
        return self._rows[body[0]](body[1:])

    def _raise_parts(self, body: list[Any]) -> tuple[object, ...]:
        sizes, flat = body
        values = self._raise(flat)
        if not isinstance(values, tuple) or sum(sizes) != len(values):
            raise StoreDamaged("damaged (sizes)")
        rest = iter(values)
        return tuple([tuple(itertools.islice(rest, size)) for size in sizes])

    def _raising_many(self, name: str, kind: type | None, fields: str) -> Callable[[list[Any]], tuple[object, ...]]:
        if kind is not None and issubclass(kind, Secret):
            return lambda body: tuple([self._taken(kind, name) for _ in range(body[0])])
        if kind is not None and issubclass(kind, enum.Enum):
            return lambda body: tuple(map(kind, body[0]))
        names = fields.split()
        missing = set(names) - set([] if kind is None else _fields(kind))
        if kind is None or missing:
            return _unknown(name if kind is None else f"{name}.{min(missing)}")

        def make(body: list[Any]) -> tuple[object, ...]:
            if len(body) != len(names):
                raise StoreDamaged("damaged (fields)")
            columns = [self._raise(column) for column in body]
            return tuple([kind(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)])

        return make

    def _taken(self, kind: type[Secret], name: str) -> Secret:
        """The next secret of the row."""
        number, size, raw = next(self._opened, (0, 0, None))
        if self._secrets.get(number) != name:
            raise StoreDamaged("damaged (key kind)")
        return _wiped(kind, size) if raw is None else kind(raw)


def _threes(header: list[int]) -> Iterator[tuple[int, int, int]]:
    return zip(*[iter(header)] * 3, strict=True)


def _pieces(header: list[int], raw: bytes | None) -> Iterator[tuple[int, int, bytes | None]]:
    """Layout number, size and bytes of each secret."""
    at = 0
    for number, size, count in _threes(header):
        for _ in range(count):
            yield number, size, None if raw is None else raw[at : at + size]
            at += size


def _wiped(kind: type[Secret], size: int) -> Secret:
    secret = kind(bytes(size))
    secret.wipe()
    return secret


def _unknown(what: str) -> Callable[[Any], Any]:
    def refuse(_: object) -> NoReturn:
        raise StoreError(f"written by another version of pybcast: {what} is not known here")

    return refuse
