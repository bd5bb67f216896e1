# SPDX-License-Identifier: Apache-2.0
"""Key bytes that cannot leak by accident.

Floor 0, because messages carry secrets and keys are secrets, and ``wire`` and ``keys`` do not know each other.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, Self

from pybcast.errors import KeyUnavailable


class Secret:
    """Bytes with no printed form: no ``repr``, ``str``, format or pickle shows them.

    Compares in constant time, only with its own kind of object (never with ``bytes``).  :meth:`wipe` overwrites the buffer;
    after that every use raises ``KeyUnavailable``.  :meth:`reveal` is the one door to the bytes and easy to search for; only the
    ways into C read them where they lie, since a copy could not be wiped.
    """

    __slots__ = ("_buffer", "_wiped")

    def __init__(self, value: bytes | bytearray | memoryview | Secret) -> None:
        self._buffer = bytearray(value.reveal() if isinstance(value, Secret) else value)
        self._wiped = False

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """From hexadecimal text; ``ValueError`` says nothing of the content."""
        try:
            return cls(bytes.fromhex(text))
        except (ValueError, TypeError):
            raise ValueError(f"{cls.__name__}: not hexadecimal") from None

    def reveal(self) -> bytes:
        """A copy of the bytes.  ``KeyUnavailable`` after :meth:`wipe`."""
        if self._wiped:
            raise KeyUnavailable(type(self).__name__)
        return bytes(self._buffer)

    def wipe(self) -> None:
        """Overwrite our copy with zeros, for good.  (Copies given out by :meth:`reveal` are the caller's.)"""
        self._wiped = True  # first: another thread must not take the zeros for a key
        self._buffer[:] = bytes(len(self._buffer))

    @property
    def wiped(self) -> bool:
        return self._wiped

    def __len__(self) -> int:
        return len(self._buffer)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal(), other.reveal())

    __hash__ = None  # type: ignore[assignment]  # a hash of key bytes would be a fingerprint of them

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'wiped' if self._wiped else f'{len(self._buffer)} bytes'}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not pickled: export it wrapped (pybcast.keys.wrap)")
