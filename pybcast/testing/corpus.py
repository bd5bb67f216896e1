# SPDX-License-Identifier: Apache-2.0
"""Valid messages in bulk, from a seed: food for fuzzers and for runs over hundreds of thousands of messages.

The same ``(kind, n, seed)`` gives the same messages on every machine and Python version of one pybcast version.
Keys and MACs in these messages are random: they parse, they do not open.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pybcast.messages import KINDS, LENIENCIES, Kind, Message
from pybcast.testing import _shapes
from pybcast.wire import encode

UNLIMITED: Final = 1 << 18
"""Bytes.  What a parser must take is larger than what a builder makes by default (rules R20): no format can say more."""


def to_bytes(message: Message) -> bytes:
    """The bytes of a message, of any size that its format allows and with every leniency."""
    return encode(message, lenient=LENIENCIES, max_size=UNLIMITED)


def messages(kind: Kind, n: int, seed: int = 0) -> Iterator[Message]:
    """``n`` valid messages of one kind, limits favoured, as dataclasses."""
    choices = _shapes.RandomChoices(random.Random(f"{kind}/{seed}"))
    make = _shapes.MESSAGES[kind]
    for _ in range(n):
        yield make(choices)


def corpus(kind: Kind, n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` valid messages of one kind as bytes, in network order, ready for :func:`pybcast.wire.decode`."""
    for message in messages(kind, n, seed):
        yield to_bytes(message)


def write_corpus(directory: Path | str, n: int = 100, seed: int = 0) -> int:
    """Write ``n`` messages of every kind to ``directory/<kind>/<digest>``, one file each, as libFuzzer and AFL want them.

    Returns the number of files written.  Equal messages are one file, so it may be less than ``n`` a kind.  Raises ``OSError``.
    """
    count = 0
    for kind in KINDS:
        folder = Path(directory) / kind
        folder.mkdir(parents=True, exist_ok=True)
        files = {hashlib.sha256(data).hexdigest()[:32]: data for data in corpus(kind, n, seed)}
        for name, data in files.items():
            (folder / name).write_bytes(data)
        count += len(files)
    return count
