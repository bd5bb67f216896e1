# SPDX-License-Identifier: Apache-2.0
"""Bundles: what is put in comes out in its order, and broken ones are refused where they are broken."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.broadcast import bundle
from pybcast.errors import BadLength, BadValue, TrailingBytes, Truncated, Unsupported, WireError
from pybcast.testing import corpus, mutate

MESSAGES = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=40)


@given(MESSAGES)
def test_round_trip(messages: list[bytes]) -> None:
    data = bundle.encode(messages)
    assert bundle.decode(data) == tuple(messages)
    assert bundle.encode(bundle.decode(data)) == data


@given(MESSAGES, st.integers(20, 2_000))
def test_order_is_kept_and_sizes_hold(messages: list[bytes], target: int) -> None:
    made = list(bundle.bundles(messages, target))
    assert [message for data in made for message in bundle.decode(data)] == messages
    for data in made:
        assert len(data) <= target or len(bundle.decode(data)) == 1
    for first, second in itertools.pairwise(made):
        assert len(first) + 4 + len(bundle.decode(second)[0]) > target, "filled before the next begins"


def test_real_messages_make_bundles_of_some_ten_thousand_octets() -> None:
    messages = list(corpus("smartcard-ltkm", 400, seed=1))
    made = list(bundle.bundles(messages))
    assert len(made) > 1
    assert all(bundle.TARGET - 1_000 < len(data) <= bundle.TARGET for data in made[:-1])


HEAD = b"BCB\x01"


@pytest.mark.parametrize(
    ("data", "kind", "offset", "field"),
    [
        (b"", Truncated, 0, "head"),
        (b"BCX\x01" + bytes(8), BadValue, 0, "magic"),
        (b"BCB\x02" + bytes(8), Unsupported, 3, "version"),
        (HEAD + bytes.fromhex("ffffffff00010000"), BadLength, 4, "length"),
        (HEAD + bytes.fromhex("0000001200010000"), Truncated, 4, "length"),
        (HEAD + bytes.fromhex("0000000c00010000ff"), TrailingBytes, 12, "length"),
        (HEAD + bytes.fromhex("0000000c00000000"), BadLength, 8, "count"),
        (HEAD + bytes.fromhex("0000000c10010000"), BadLength, 8, "count"),
        (HEAD + bytes.fromhex("0000000c00010001"), BadValue, 10, "reserved"),
        (HEAD + bytes.fromhex("0000000c00010000"), Truncated, 12, "message[0].length"),
        (HEAD + bytes.fromhex("000000100001000000000000"), BadLength, 12, "message[0].length"),
        (HEAD + bytes.fromhex("000000110001000000000002aa"), Truncated, 16, "message[0]"),
        (HEAD + bytes.fromhex("000000120001000000000001aabb"), TrailingBytes, 17, "length"),
        (HEAD + bytes.fromhex("000000130002000000000001aabbbb"), Truncated, 17, "message[1].length"),
    ],
)  # fmt: skip
def test_refusals(data: bytes, kind: type[WireError], offset: int, field: str) -> None:
    with pytest.raises(WireError) as caught:
        bundle.decode(data)
    assert (type(caught.value), caught.value.offset, caught.value.field) == (kind, offset, field)


@pytest.mark.parametrize("messages", [[], [b""], [bytes(bundle.MAX_MESSAGE + 1)], [b"x"] * 4097, [bytes(60_000)] * 2])
def test_what_is_not_made(messages: list[bytes]) -> None:
    with pytest.raises(BadLength):
        bundle.encode(messages)


def test_mutated_octets() -> None:
    rng = random.Random("bundle")
    whole = bundle.encode([rng.randbytes(rng.randrange(1, 40)) for _ in range(6)])
    accepted = 0
    for _ in range(5_000):
        data = mutate(whole, rng)
        try:
            messages = bundle.decode(data)
        except WireError as error:
            assert error.offset is not None
            assert 0 <= error.offset <= len(data)
            assert error.field
        else:
            accepted += 1
            assert bundle.encode(messages) == data
    assert accepted
