# SPDX-License-Identifier: Apache-2.0
"""Rows as bytes: one to one, self-describing, and with every secret wrapped.

Format 2 is MessagePack.  ``None``, booleans, integers of 64 bits, floats, text and bytes are themselves, a tuple is an array.
Anything else is a map of one entry, {layout number: body}; the table ``layout`` of the database says what a number means:

* a dataclass: its name and the names of its fields; body = array of their values in that order.  A class that has gained a field
  gets a new number, and rows of the old one are read with the field's default;
* an enumeration: body = the value;  a ``frozenset``: body = array in order of the encoded members;
* a ``Secret`` or a key: body = its wrapped bytes, which open in this place only (``wrapping``).

Only classes of ``types.TYPES`` are written or made again.  A ``Secret`` outside of one of these places cannot be encoded at all.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, NoReturn

import msgspec

from pybcast.errors import KeyUnavailable, StoreError
from pybcast.flows.events import RowKey
from pybcast.secret import Secret
from pybcast.store.protocol import StoreDamaged
from pybcast.store.wrapping import OVERHEAD, RowWrap, row_place

FORMAT: Final = 2
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
        self._up: dict[int, Callable[[Any], object]] = {}
        self._secrets = {number: name for (name, _), number in numbers.items() if name in types and issubclass(types[name], Secret)}
        self._strange = {number: name for (name, _), number in numbers.items() if name not in types}
        for name, fields in current:
            self._down[types[name]] = self._lowering(types[name], numbers[name, fields], fields)
        for (name, fields), number in numbers.items():
            self._up[number] = self._raising(name, types.get(name), fields)
        self._wrap: RowWrap | None = None
        self._where, self._row = _NOWHERE, b""
        self._places = 0  # secrets of this row so far

    # --- encoding -----------------------------------------------------------------------------------------------------

    def encode(self, value: object, wrap: RowWrap, where: Where) -> tuple[bytes, bool]:
        """(bytes, whether they hold a wrapped key).  ``StoreError`` for what cannot stand in a row."""
        self._wrap, self._where, self._row, self._places = wrap, where, b"", 0
        try:
            return _encode(value if type(value) in _PLAIN else self._down[type(value)](value)), self._places > 0
        except KeyUnavailable as error:
            raise StoreError(f"a wiped {error.key_id} cannot be stored") from None
        except (OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise StoreError(f"a value cannot be stored: {type(error).__name__}") from None
        finally:
            self._wrap = None

    def encode_key(self, key: RowKey) -> str | bytes:
        """The key of a row: text when it is one text, as most are, else bytes."""
        if len(key) == 1 and type(key[0]) is str:
            return key[0]
        try:
            data = _encode(self._array(key))
        except (OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise StoreError(f"the key of a row cannot be stored: {type(error).__name__}") from None
        return data

    def _array(self, value: tuple[object, ...]) -> list[object]:
        down = self._down
        return [item if type(item) in _PLAIN else down[type(item)](item) for item in value]

    def _lowering(self, kind: type, number: int, fields: str) -> Callable[[Any], object]:
        if issubclass(kind, Secret):
            return lambda value: {number: self._lock(value, self._secrets[number])}
        if kind is frozenset:
            return lambda value: {number: sorted(self._array(tuple(value)), key=_encode)}
        if issubclass(kind, enum.Enum):
            return lambda value: {number: value.value}
        names, down = fields.split(), self._down
        if len(names) == 1:
            one = attrgetter(names[0])
            return lambda value: {number: self._array((one(value),))}
        several = attrgetter(*names)
        # `_array`, written out: a page has a thousand letters, and calls are what they cost
        return lambda value: {number: [item if type(item) in _PLAIN else down[type(item)](item) for item in several(value)]}

    def _lock(self, secret: Secret, kind: str) -> bytes:
        if self._wrap is None:
            raise StoreError("the key of a row may not hold a secret")
        return self._wrap.wrap(secret, self._place(kind))

    def _place(self, kind: str) -> bytes:
        """Of the next secret in this row: they are met in the same order when a row is written and when it is read."""
        self._row = self._row or row_place(*self._where)
        self._places += 1
        return b"%s%s %d" % (self._row, kind.encode(), self._places)

    # --- decoding -----------------------------------------------------------------------------------------------------

    def decode(self, data: bytes, wrap: RowWrap | None, where: Where) -> object:
        """The value.  Without ``wrap`` secrets come wiped: their type and size are there, their bytes are not.

        ``StoreDamaged`` for anything that :meth:`encode` did not make.
        """
        self._wrap, self._where, self._row, self._places = wrap, where, b"", 0
        try:
            tree = _decode(data)
            return tree if type(tree) in _PLAIN else self._raise(tree)
        except StoreError:
            raise
        except Exception as error:  # whatever a class says to wrong fields: the row is damaged, and no bytes of it are shown
            raise StoreDamaged(f"damaged ({type(error).__name__})") from None
        finally:
            self._wrap = None

    def decode_key(self, key: str | bytes) -> RowKey:
        """The key of a row."""
        if isinstance(key, str):
            return (key,)
        value = self.decode(key, None, _NOWHERE)
        if not isinstance(value, tuple):
            raise StoreDamaged("the key of a row is damaged")
        return value

    def rewrap(self, data: bytes, old: RowWrap, new: RowWrap, where: Where) -> bytes:
        """The same row with its secrets wrapped under another key; what it means otherwise is not looked at."""
        self._where, self._row, self._places = where, b"", 0
        try:
            return _encode(self._rewrap(_decode(data), old, new))
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as error:
            raise StoreDamaged(f"damaged ({type(error).__name__})") from None

    def _rewrap(self, tree: object, old: RowWrap, new: RowWrap) -> object:
        if isinstance(tree, list):
            return [self._rewrap(item, old, new) for item in tree]
        if isinstance(tree, dict):
            ((number, body),) = tree.items()
            if number in self._strange:  # it may be a key, which would be lost with its KEK
                _unknown(self._strange[number])(body)
            if number in self._secrets:
                place = self._place(self._secrets[number])
                return {number: new.wrap(Secret(old.unwrap(body, place)), place)}
            return {number: self._rewrap(body, old, new)}
        if type(tree) not in _PLAIN:
            raise StoreDamaged("damaged (type)")
        return tree

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
            return lambda body: self._unlock(kind, name, body)
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

    def _unlock(self, kind: type[Secret], name: str, body: bytes) -> Secret:
        if self._wrap is not None:
            return kind(self._wrap.unwrap(body, self._place(name)))
        if 0 < len(body) <= OVERHEAD:
            raise StoreDamaged("damaged (key size)")
        secret = kind(bytes(max(0, len(body) - OVERHEAD)))
        secret.wipe()
        return secret


def _unknown(what: str) -> Callable[[Any], object]:
    def refuse(_: object) -> object:
        raise StoreError(f"written by another version of pybcast: {what} is not known here")

    return refuse
