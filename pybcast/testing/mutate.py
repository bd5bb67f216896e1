# SPDX-License-Identifier: Apache-2.0
"""Break valid messages: at random, for totality (:func:`mutate`); by the rule, for exact refusals (:data:`CATALOGUE`).

:func:`mutate` knows nothing of the layouts and needs nothing but a ``random.Random``.  A :class:`Mutation` of the
catalogue breaks one named rule in bytes that are otherwise valid, and says which error a parser owes, for which field and
at which offset.  Both are meant for other people's codecs too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from pybcast.testing._catalogue import CATALOGUE
from pybcast.testing._faults import Fault, Mutation, NotApplicable

__all__ = ["CATALOGUE", "Fault", "Mutation", "NotApplicable", "mutate"]

MAX_GROWTH: Final = 512
"""Most bytes that one call adds: a chain of calls stays bounded, and every length limit of the formats is within reach."""

_OCTETS: Final = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 20, 31, 32, 33, 0x3F, 0x40, 0x7F, 0x80, 0x81, 0xFE, 0xFF)
"""Values a length, count, type or flag octet trips over."""


def _flip(data: bytearray, rng: random.Random) -> None:
    position = rng.randrange(len(data))
    data[position] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice(_OCTETS)


def _add(data: bytearray, rng: random.Random) -> None:
    position = rng.randrange(len(data))
    data[position] = (data[position] + rng.choice((-16, -8, -2, -1, 1, 2, 8, 16))) % 256


def _insert(data: bytearray, rng: random.Random) -> None:
    position = rng.randrange(len(data) + 1)
    data[position:position] = rng.randbytes(rng.choice((1, 1, 1, 2, 4, 16)))


def _delete(data: bytearray, rng: random.Random) -> None:
    position = rng.randrange(len(data))
    del data[position : position + rng.choice((1, 1, 1, 2, 4, 16))]


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _duplicate(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    span = data[start : start + rng.choice((1, 2, 4, 8, 16, 32, 64))]
    place = start + len(span) if rng.random() < 0.5 else rng.randrange(len(data) + 1)
    data[place:place] = span


def _splice(data: bytearray, rng: random.Random) -> None:
    """Our head, our tail from elsewhere: what a splice of two messages does when only one is at hand."""
    cut, join = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    tail = data[join : join + MAX_GROWTH]
    data[cut:] = tail


def _length16(data: bytearray, rng: random.Random) -> None:
    """A 16-bit value moved a little, or to a limit: most length fields that matter are 16 bits."""
    if len(data) < 2:
        return _add(data, rng)
    position = rng.randrange(len(data) - 1)
    value = int.from_bytes(data[position : position + 2], "big")
    value = rng.choice((value - 1, value + 1, value + 8, value - 8, 0, 1, len(data), len(data) - position, 0x0FFF, 0x7FFF, 0xFFFF))
    data[position : position + 2] = (value % 65536).to_bytes(2, "big")
    return None


def _resize(data: bytearray, rng: random.Random) -> None:
    """A guessed length octet and its value changed together, so that the message stays consistent behind it."""
    candidates = [at for at in range(len(data)) if 0 < data[at] < 64 and at + 1 + data[at] <= len(data)]
    if not candidates:
        return _insert(data, rng)
    at = rng.choice(candidates)
    if rng.random() < 0.5:
        place = at + 1 + rng.randrange(data[at] + 1)
        data[place:place] = rng.randbytes(1)
        data[at] += 1
    else:
        del data[at + 1 + rng.randrange(data[at])]
        data[at] -= 1
    return None


_OPERATIONS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    _flip, _flip, _set, _set, _add, _insert, _delete, _truncate, _duplicate, _splice, _length16, _length16, _resize,
)  # fmt: skip


def _own_length(data: bytes) -> int:
    """Which bits of bytes 2 and 3 hold the length of the whole message, as in a BCRO and in registration messages; 0: none."""
    if len(data) >= 16:
        for mask in (0xFFFF, 0x0FFF):
            if int.from_bytes(data[2:4], "big") & mask == len(data):
                return mask
    return 0


def mutate(data: bytes, rng: random.Random, other: bytes | None = None) -> bytes:
    """Damaged bytes: one to three operations on ``data``, reproducible from ``rng``.

    Bits flipped, bytes set to limits, spans inserted, deleted, repeated, cut; length fields moved, alone or with their value.
    With ``other``, one call in eight splices the two messages.  The result may equal ``data`` and may even be valid.
    Never raises, whatever ``data`` is; grows by at most a few hundred bytes.
    """
    if other is not None and rng.random() < 0.125:
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not broken:
            broken += rng.randbytes(1)
        rng.choice(_OPERATIONS)(broken, rng)
    # Mostly keep a length of the whole message true, or nothing behind it would ever be tried.
    mask = _own_length(data)
    if mask and len(broken) >= 4 and rng.random() < 0.75:
        value = int.from_bytes(broken[2:4], "big")
        broken[2:4] = (value & ~mask | len(broken) & mask).to_bytes(2, "big")
    return bytes(broken)
