# SPDX-License-Identifier: Apache-2.0
"""What the C core says is wrong, as the errors of :mod:`pybcast.errors`: the same code, offset and dotted path.

The core tells where and of what sort, not what was expected and found; ``pybcast.codec`` asks the reference for those words.
"""

from __future__ import annotations

from typing import Any, Final

from pybcast._native._bcast import ffi, lib
from pybcast._native.numbers import NO_OFFSET, Status
from pybcast.errors import (
    BadLength,
    BadValue,
    BcastError,
    CryptoError,
    Integrity,
    KeyUnavailable,
    TrailingBytes,
    Truncated,
    Unsupported,
    WireError,
)

_WIRE: Final[dict[int, tuple[type[WireError], str, str]]] = {
    Status.E_TRUNCATED: (Truncated, "more bytes", "the end of the message"),
    Status.E_TRAILING_BYTES: (TrailingBytes, "the end of the message", "more bytes"),
    Status.E_BAD_LENGTH: (BadLength, "a length that the layout allows", "another"),
    Status.E_BAD_VALUE: (BadValue, "a value that the layout allows", "another"),
    Status.E_UNSUPPORTED: (Unsupported, "a number that is supported", "another"),
    Status.E_SPAN: (BadLength, "a span inside the base", "one that reaches beyond it"),
    Status.E_ROOM: (BadLength, "room for the message", "too little of it"),
    Status.E_ARGUMENT: (BadValue, "an item that makes sense", "bytes outside the data, or an unknown flag"),
}


def path(error: Any) -> str:
    """The dotted path of a ``bcast_error``."""
    text = ffi.new("char[]", lib.BCAST_PATH_MAX)
    lib.bcast_error_path(error, text, lib.BCAST_PATH_MAX, ffi.new("size_t *"))
    field: str = ffi.string(text).decode("ascii")
    return field


def typed(error: Any) -> BcastError:
    """A ``bcast_error`` (a pointer) that holds a failure, as the exception to raise."""
    if error.code in _WIRE:
        cls, expected, found = _WIRE[error.code]
        return cls(None if error.offset == NO_OFFSET else error.offset, path(error), expected, found)
    if error.code == Status.E_INTEGRITY:
        return Integrity()
    if error.code == Status.E_KEY_UNAVAILABLE:
        return KeyUnavailable(path(error))
    if error.code == Status.E_NOT_READY:
        return KeyUnavailable("a key context that is set up")
    return CryptoError(f"the cryptographic library failed: {ffi.string(lib.bcast_status_name(error.code)).decode()}")
