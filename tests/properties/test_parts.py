# SPDX-License-Identifier: Apache-2.0
"""The parts that are decoded by themselves: key sets, key data, management blocks.  Same two laws as for whole messages."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from pybcast.errors import WireError
from pybcast.testing import _shapes, mutate
from pybcast.testing._shapes import Choices, RandomChoices
from pybcast.wire import decode_key_data, encode_key_data, management
from pybcast.wire.drm_registration import decode_keyset, encode_keyset

Part = tuple[Callable[[Choices], Any], Callable[[Any], bytes], Callable[[bytes], Any]]

PARTS: Final[dict[str, Part]] = {
    "key set": (_shapes.keyset_items, encode_keyset, decode_keyset),
    "key data": (lambda c: decode_key_data(_shapes.key_data(c)), encode_key_data, decode_key_data),
    "STKM management": (_shapes.stkm_management, management.encode_stkm_management, management.decode_stkm_management),
    "LTKM management": (
        lambda c: _shapes.ltkm_management(c, c.flag()),
        management.encode_ltkm_management,
        management.decode_ltkm_management,
    ),
    "reporting": (_shapes.reporting, management.encode_reporting, management.decode_reporting),
}


@pytest.mark.parametrize("part", PARTS)
def test_round_trip(part: str) -> None:
    make, encode, decode = PARTS[part]
    choices = RandomChoices(random.Random(part))
    for _ in range(400):
        value = make(choices)
        data = encode(value)
        assert decode(data) == value
        assert encode(decode(data)) == data


@pytest.mark.parametrize("part", PARTS)
def test_totality(part: str) -> None:
    make, encode, decode = PARTS[part]
    rng = random.Random(f"{part} broken")
    choices = RandomChoices(rng)
    accepted = 0
    for _ in range(200):
        valid = encode(make(choices))
        for _ in range(20):
            data = mutate(valid, rng)
            try:
                value = decode(data)
            except WireError as error:
                assert error.offset is not None, f"{data.hex()}: {error}"
                assert 0 <= error.offset <= len(data), f"{data.hex()}: {error}"
                continue
            assert encode(value) == data, data.hex()
            accepted += 1
    assert 0 < accepted < 4000
