# SPDX-License-Identifier: Apache-2.0
"""Any bytes: decode either refuses with a place inside the message, or gives a message that encodes to the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_vectors import EVERY, ROOMY, Known

from pybcast.errors import WireError
from pybcast.messages import KINDS, LENIENCIES, Kind
from pybcast.wire import decode, encode, explain
from pybcast.wire.schema import Cursor


def both_ways(data: bytes, kind: Kind, *, partial: bool, lenient: Any) -> None:
    explanation = explain(data, kind, partial=partial, lenient=lenient)
    assert all(0 <= row.offset < row.offset + row.length <= len(data) for row in explanation.rows)
    try:
        message = decode(data, kind, partial=partial, lenient=lenient)
    except WireError as error:
        assert error.offset is not None
        assert 0 <= error.offset <= len(data)
        assert explanation.error is not None
        assert explanation.error.as_dict() == error.as_dict()
    else:
        assert explanation.error is None
        again = encode(message, lenient=lenient, max_size=ROOMY)
        assert again == (data[: len(again)] if "trailing-bytes" in lenient else data)
        assert decode(again, kind, partial=partial, lenient=lenient) == message


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Known, bytes]:
    known = draw(st.sampled_from(EVERY))
    data = bytearray(known.data)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, min(len(data), draw(st.sampled_from((16, 64, 4096)))) - 1)))
        match draw(st.sampled_from(("flip", "set", "cut", "drop", "insert"))):
            case "flip" if data:
                data[position] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[position] = draw(st.sampled_from((0, 1, 2, 3, 5, 20, 21, 127, 128, 255)))
            case "cut":
                del data[position:]
            case "drop":
                del data[position : position + draw(st.integers(1, 20))]
            case "insert":
                data[position:position] = draw(st.binary(min_size=1, max_size=20))
    return known, bytes(data)


@settings(max_examples=600, deadline=None)
@given(mutated(), st.sets(st.sampled_from(LENIENCIES)))
def test_mutated_messages(change: tuple[Known, bytes], lenient: set[str]) -> None:
    known, data = change
    both_ways(data, known.kind, partial=known.partial, lenient=lenient)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=200), st.booleans())
def test_any_bytes(kind: Kind, data: bytes, partial: bool) -> None:
    both_ways(data, kind, partial=partial and kind.endswith("stkm"), lenient=())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EVERY), st.binary(min_size=1, max_size=5))
def test_every_message_as_every_kind(known: Known, tail: bytes) -> None:
    for kind in KINDS:
        both_ways(known.data, kind, partial=False, lenient=())
    both_ways(known.data + tail, known.kind, partial=known.partial, lenient={*known.lenient, "trailing-bytes"})


def test_work_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of the smallest payloads: every byte is read once."""
    read_bytes = 0
    read = Cursor.read

    def counting(self: Cursor, count: int) -> bytes:
        nonlocal read_bytes
        piece = read(self, count)
        read_bytes += len(piece)
        return piece

    monkeypatch.setattr(Cursor, "read", counting)
    data = bytes.fromhex("01001500000000000001") + bytes.fromhex("15ff0000") * 5000 + bytes.fromhex("00ff0000")
    decode(data, "mikey")
    assert read_bytes == len(data)
