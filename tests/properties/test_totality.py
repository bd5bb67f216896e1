# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes are: a message that encodes back to them, or a refusal that says where.  Never anything else."""

from __future__ import annotations

import os
import random
from collections.abc import Collection
from typing import Final

import pytest

from pybcast.errors import WireError
from pybcast.messages import KINDS, LENIENCIES, Kind, Leniency
from pybcast.testing import corpus, mutate
from pybcast.testing.corpus import to_bytes
from pybcast.wire import decode, explain

SHARDS: Final = 10
PER_SHARD: Final = 20_000 if os.environ.get("PYBCAST_LONG") == "1" else 2_000
MAX_SIZE: Final = 66_000
"""No mutated message may grow beyond what the formats can say (16-bit lengths) by more than a call of ``mutate``: time is bounded
by the number and the size of the inputs, not by a clock."""

HAS_PARTIAL: Final = ("drm-stkm", "smartcard-stkm")


def refusal(error: WireError) -> tuple[object, ...]:
    return type(error), error.offset, error.field, error.expected, error.found


def check(data: bytes, kind: Kind, *, partial: bool = False, lenient: Collection[Leniency] = ()) -> bool:
    """One input.  True when it was accepted."""
    explanation = explain(data, kind, partial=partial, lenient=lenient)
    try:
        message = decode(data, kind, partial=partial, lenient=lenient)
    except WireError as error:
        assert error.offset is not None, f"{data.hex()}: no offset: {error}"
        assert 0 <= error.offset <= len(data), f"{data.hex()}: {error}"
        assert error.field or error.offset == len(data) or error.code == "trailing_bytes", f"{data.hex()}: no field: {error}"
        assert explanation.error is not None, f"{data.hex()}: explained, but refused: {error}"
        assert refusal(explanation.error) == refusal(error), data.hex()
        return False
    assert explanation.error is None, f"{data.hex()}: decoded, but {explanation.error}"
    encoded = to_bytes(message)
    if encoded != data:
        # The one leniency that drops something: bytes after the last field.
        assert "trailing-bytes" in lenient, data.hex()
        shorter = data.startswith(encoded)
        assert shorter, data.hex()
    return True


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_messages(kind: Kind, shard: int) -> None:
    rng = random.Random(f"{kind}/{shard}")
    seeds = list(corpus(kind, 60, seed=shard))
    # One long message is enough: 255 entries cost a hundred short messages.
    long = [data for data in seeds if len(data) > 2000]
    seeds = [data for data in seeds if len(data) <= 2000] + long[:1]
    accepted = 0
    data = b""
    for round_ in range(PER_SHARD):
        # Now and then a chain of mutations on the same message; mostly a fresh one.
        source = data if rng.random() < 0.2 and 0 < len(data) < MAX_SIZE else rng.choice(seeds)
        data = mutate(source, rng, rng.choice(seeds))
        lenient = LENIENCIES if round_ % 8 == 0 else ()
        accepted += check(data, kind, partial=kind in HAS_PARTIAL and round_ % 10 == 1, lenient=lenient)
    # Both sides of the fence were visited, or the run proves nothing.
    assert 0 < accepted < PER_SHARD


@pytest.mark.parametrize("kind", KINDS)
def test_noise(kind: Kind) -> None:
    rng = random.Random(f"noise/{kind}")
    for size in (0, 1, 2, 3, 9, 10, 11, 40, 200, 5000):
        for _ in range(10):
            check(rng.randbytes(size), kind)
            check(bytes(size), kind)
            check(b"\xff" * size, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_another_kind(kind: Kind) -> None:
    for other in KINDS:
        if other != kind:
            for data in corpus(other, 20, seed=7):
                check(data, kind)
