# SPDX-License-Identifier: Apache-2.0
"""What can be wrong, who is at fault, and where.

The type says who must act: ``WireError`` - the bytes (or the fields to encode) are wrong; ``CryptoError`` - the bytes are well
formed but do not belong to the keys; ``FlowError`` - a flow was driven wrongly by us (``LocalFlowError``) or by the peer
(``PeerFlowError``, with the status to answer).  No error ever holds key bytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """ "; did you mean NAME?", when one of the names is like the word; else nothing.  The word itself is not repeated."""
    near = difflib.get_close_matches(word.lower()[:100], list(names), 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


class BcastError(Exception):
    """Root of everything pybcast raises on purpose."""

    code: ClassVar[str] = "error"

    def as_dict(self) -> dict[str, object]:
        """The error as plain JSON: always ``code``, ``offset``, ``field``, ``expected``, ``found``."""
        return {"code": self.code, "offset": None, "field": None, "expected": None, "found": str(self) or None}


class WireError(BcastError, ValueError):
    """A message that breaks its layout.

    ``offset``: byte offset of the offending field from the start of the message; ``None`` when the error is met while
    encoding, where no bytes exist yet.  ``field``: dotted path with list indices, in specification names
    (``access_criteria[1].length``).  ``expected`` and ``found``: short public texts, never key bytes.
    """

    def __init__(self, offset: int | None, field: str, expected: str, found: str) -> None:
        self.offset, self.field, self.expected, self.found = offset, field, expected, found
        super().__init__(offset, field, expected, found)

    def __str__(self) -> str:
        where = self.field or "message"
        at = "" if self.offset is None else f" at offset {self.offset}"
        return f"{self.code}: {where}{at}: expected {self.expected}, found {self.found}"

    def as_dict(self) -> dict[str, object]:
        return {"code": self.code, "offset": self.offset, "field": self.field, "expected": self.expected, "found": self.found}


class Truncated(WireError):
    """The message ends before the field does.  ``offset`` is where the field starts."""

    code = "truncated"


class TrailingBytes(WireError):
    """Bytes follow the last field.  ``offset`` is the first byte too many."""

    code = "trailing_bytes"


class BadLength(WireError):
    """A length field, or the size of a value, is not what the layout allows."""

    code = "bad_length"


class BadValue(WireError):
    """A field holds a value the layout forbids (reserved bits, a duplicate, a contradiction between fields)."""

    code = "bad_value"


class Unsupported(WireError):
    """A well-defined number we refuse: unknown version, tag, protocol, algorithm or payload type."""

    code = "unsupported"


class CryptoError(BcastError):
    """Well-formed bytes that the keys at hand do not open."""

    code = "crypto"


class Integrity(CryptoError):
    """A MAC, signature or key wrap does not verify.  Says nothing more, on purpose."""

    code = "integrity"

    def __str__(self) -> str:
        return "integrity check failed"


class KeyUnavailable(CryptoError):
    """A key that the operation needs is not at hand (or was wiped).  ``key_id`` is its public name."""

    code = "key_unavailable"

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(key_id)

    def __str__(self) -> str:
        return f"key not available: {self.key_id}"


class Replay(CryptoError):
    """A message older than, or outside the window of, what the receiver's state allows."""

    code = "replay"


class FlowError(BcastError):
    """A flow was driven in a way its state table does not list."""

    code = "flow"


class LocalFlowError(FlowError):
    """We asked our own state machine for something it cannot do now."""

    code = "local_flow"


class PeerFlowError(FlowError):
    """The peer's message cannot be accepted; ``status`` is the back-end status code to answer with."""

    code = "peer_flow"

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = int(status), reason
        super().__init__(status, reason)

    def __str__(self) -> str:
        return f"{self.reason} (status {self.status})"


class ConfigError(BcastError):
    """A configuration, key file or command-line value that cannot be used.

    ``key``: the name of the value, where one is to blame.  ``reason``: what is wrong with it, without its name.
    """

    code = "config"

    def __init__(self, text: str, *, key: str = "", reason: str = "") -> None:
        super().__init__(text)
        self.key, self.reason = key, reason or text


class ConfigErrors(ConfigError):
    """Several mistakes of one configuration, each with its own place; said together, a line for each."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors: tuple[ConfigError, ...] = tuple(
            each for error in errors for each in (error.errors if isinstance(error, ConfigErrors) else (error,))
        )
        super().__init__("\n".join(map(str, self.errors)))

    @classmethod
    def of(cls, errors: Sequence[ConfigError]) -> ConfigError:
        """The one error, or all of them."""
        return errors[0] if len(errors) == 1 else cls(errors)


class StoreError(BcastError):
    """Durable state could not be read or written."""

    code = "store"


class TransportError(BcastError):
    """A peer could not be reached, or broke the transport's rules."""

    code = "transport"
