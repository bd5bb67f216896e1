# SPDX-License-Identifier: Apache-2.0
"""Rows as bytes: one to one, self-describing, and with every secret wrapped.

Format 1 is MessagePack.  ``None``, booleans, integers of 64 bits, floats, text and bytes are themselves, a tuple is an array.
Anything else is a map of one entry, {layout number: body}; the table ``layout`` of the database says what a number means:

* a dataclass: its name and the names of its fields; body = array of their values in that order.  A class that has gained a field
  gets a new number, and rows of the old one are read with the field's default;
* an enumeration: body = the value;  a ``frozenset``: body = array in order of the encoded members;
* a ``Secret`` or a key: body = [size in bytes, wrapped bytes]: AES key wrap (RFC 3394) where that holds the size, with padding
  (RFC 5649) where not.  The same key under the same KEK gives the same bytes, as RFC 3394 has no nonce.

Only classes of ``types.TYPES`` are written or made again.  A ``Secret`` outside of one of these places cannot be encoded at all.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, NoReturn

import msgspec
from cryptography.hazmat.primitives import keywrap

from pybcast.errors import KeyUnavailable, StoreError
from pybcast.flows.events import RowKey
from pybcast.keys import KEK
from pybcast.secret import Secret
from pybcast.store.protocol import StoreDamaged

FORMAT: Final = 1
Layout = tuple[str, str]
"""(name in ``types.TYPES``, names of the fields with a space between: empty where there are none)."""

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
_encode: Final[Callable[[object], bytes]] = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder().decode


def layouts(types: Mapping[str, type]) -> list[Layout]:
    """How the classes of this program are laid out."""
    return [(name, " ".join(_fields(kind))) for name, kind in types.items()]


def _fields(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _wraps_plainly(size: int) -> bool:
    return size >= 16 and size % 8 == 0


def wrap_secret(kek: KEK, secret: Secret) -> bytes:
    """RFC 3394, or RFC 5649 for sizes it cannot hold; a secret of no bytes stays nothing."""
    raw = secret.reveal()
    if not raw:
        return b""
    return (keywrap.aes_key_wrap if _wraps_plainly(len(raw)) else keywrap.aes_key_wrap_with_padding)(kek.reveal(), raw)


def unwrap_secret(kek: KEK, size: int, data: bytes) -> bytes:
    """The inverse; ``StoreDamaged`` when ``data`` is not ``size`` bytes wrapped under ``kek``."""
    try:
        unwrap = keywrap.aes_key_unwrap if _wraps_plainly(size) else keywrap.aes_key_unwrap_with_padding
        raw = unwrap(kek.reveal(), data) if data else b""
    except keywrap.InvalidUnwrap:
        raise StoreDamaged("a key does not unwrap") from None
    if len(raw) != size:
        raise StoreDamaged("a key of wrong size")
    return raw


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
        self._secrets = {number for (name, _), number in numbers.items() if name in types and issubclass(types[name], Secret)}
        self._strange = {number: name for (name, _), number in numbers.items() if name not in types}
        for name, fields in current:
            self._down[types[name]] = self._lowering(types[name], numbers[name, fields], fields)
        for (name, fields), number in numbers.items():
            self._up[number] = self._raising(name, types.get(name), fields)
        self._kek: KEK | None = None
        self._wrapped = False

    # --- encoding -----------------------------------------------------------------------------------------------------

    def encode(self, value: object, kek: KEK) -> tuple[bytes, bool]:
        """(bytes, whether they hold a wrapped key).  ``StoreError`` for what cannot stand in a row."""
        self._kek, self._wrapped = kek, False
        try:
            return _encode(value if type(value) in _PLAIN else self._down[type(value)](value)), self._wrapped
        except KeyUnavailable as error:
            raise StoreError(f"a wiped {error.key_id} cannot be stored") from None
        except (OverflowError, UnicodeEncodeError, RecursionError) as error:
            raise StoreError(f"a value cannot be stored: {type(error).__name__}") from None
        finally:
            self._kek = None

    def encode_key(self, key: RowKey) -> str | bytes:
        """The key of a row: text when it is one text, as most are, else bytes."""
        if len(key) == 1 and type(key[0]) is str:
            return key[0]
        self._wrapped = False
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
            return lambda value: {number: self._lock(value)}
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

    def _lock(self, secret: Secret) -> list[object]:
        if self._kek is None:
            raise StoreError("the key of a row may not hold a secret")
        self._wrapped = True
        return [len(secret), wrap_secret(self._kek, secret)]

    # --- decoding -----------------------------------------------------------------------------------------------------

    def decode(self, data: bytes, kek: KEK | None) -> object:
        """The value.  Without ``kek`` secrets come wiped: their type and size are there, their bytes are not.

        ``StoreDamaged`` for anything that :meth:`encode` did not make.
        """
        self._kek = kek
        try:
            tree = _decode(data)
            return tree if type(tree) in _PLAIN else self._raise(tree)
        except StoreError:
            raise
        except Exception as error:  # whatever a class says to wrong fields: the row is damaged, and no bytes of it are shown
            raise StoreDamaged(f"damaged ({type(error).__name__})") from None
        finally:
            self._kek = None

    def decode_key(self, key: str | bytes) -> RowKey:
        """The key of a row."""
        if isinstance(key, str):
            return (key,)
        value = self.decode(key, None)
        if not isinstance(value, tuple):
            raise StoreDamaged("the key of a row is damaged")
        return value

    def rewrap(self, data: bytes, old: KEK, new: KEK) -> bytes:
        """The same row with its secrets wrapped under another key; what it means otherwise is not looked at."""
        try:
            return _encode(self._rewrap(_decode(data), old, new))
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as error:
            raise StoreDamaged(f"damaged ({type(error).__name__})") from None

    def _rewrap(self, tree: object, old: KEK, new: KEK) -> object:
        if isinstance(tree, list):
            return [self._rewrap(item, old, new) for item in tree]
        if isinstance(tree, dict):
            ((number, body),) = tree.items()
            if number in self._strange:  # it may be a key, which would be lost with its KEK
                _unknown(self._strange[number])(body)
            if number in self._secrets:
                size, data = body
                return {number: [size, wrap_secret(new, Secret(unwrap_secret(old, size, data)))]}
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
            return lambda body: self._unlock(kind, body)
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

    def _unlock(self, kind: type[Secret], body: list[Any]) -> Secret:
        size, data = body
        if self._kek is not None:
            return kind(unwrap_secret(self._kek, size, data))
        if not isinstance(size, int) or not 0 <= size <= len(data):
            raise StoreDamaged("damaged (key size)")
        secret = kind(bytes(size))
        secret.wipe()
        return secret


def _unknown(what: str) -> Callable[[Any], object]:
    def refuse(_: object) -> object:
        raise StoreError(f"written by another version of pybcast: {what} is not known here")

    return refuse
