# SPDX-License-Identifier: Apache-2.0
"""What the sealers and openers of both profiles share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any, TypeVar

from pybcast.errors import BadLength, BadValue, KeyUnavailable
from pybcast.messages import Leniency, Message
from pybcast.secret import Secret
from pybcast.wire import encode

_T = TypeVar("_T")

Lenient = Collection[Leniency] | tuple[Leniency, ...]  # type checkers do not see a literal tuple as the former


def require(value: _T | None, name: str) -> _T:
    """``value``, or ``KeyUnavailable`` with the key ring's name for it."""
    if value is None:
        raise KeyUnavailable(name)
    return value


def carry(message: object, cls: type[Any]) -> dict[str, Any]:
    """The fields that ``message`` and ``cls`` have in common: what is the same in the clear and in the sealed form."""
    names = {f.name for f in fields(cls)}
    return {f.name: getattr(message, f.name) for f in fields(message) if f.name in names}  # type: ignore[arg-type]


def sized(value: bytes | Secret, field: str, *sizes: int) -> bytes:
    """The bytes of ``value``; ``BadLength`` names ``field`` when there are not as many as the layout wants."""
    if len(value) not in sizes:
        raise BadLength(None, field, " or ".join(f"{size} bytes" for size in sizes), f"{len(value)} bytes")
    return value.reveal() if isinstance(value, Secret) else value


def uint32(value: int, field: str) -> bytes:
    """Four bytes, or ``BadValue`` that names ``field``."""
    if not 0 <= value < 1 << 32:
        raise BadValue(None, field, "0..4294967295", str(value))
    return value.to_bytes(4, "big")


def own_bytes(data: bytes, message: Message, lenient: Lenient) -> bytes:
    """The bytes that ``message`` was decoded from, without those that the leniency ``trailing-bytes`` let pass behind it."""
    return data[: len(encode(message, lenient=lenient, max_size=len(data)))] if "trailing-bytes" in lenient else data
