# SPDX-License-Identifier: Apache-2.0
"""No printed form of anything holds a key: repr, str, explanation, error text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybcast import codec
from pybcast.errors import BcastError
from pybcast.messages import Kind
from pybcast.secret import Secret
from pybcast.testing import mutate, strategies
from pybcast.testing._sealable import SEALABLE
from pybcast.testing._shapes import RandomChoices
from pybcast.testing.corpus import to_bytes
from pybcast.wire import explain

SEALED: Final = tuple(SEALABLE)
relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None, max_examples=60)
SHORTEST: Final = 7
"""Bytes.  Shorter secrets (a PIN of a few digits, a key-set item of one byte) occur in any text by chance."""


def secrets(value: object) -> Iterator[bytes]:
    """Every secret inside, however deep; not the zero key of a withdrawal, which says nothing."""
    if isinstance(value, Secret):
        data = value.reveal()
        if len(data) >= SHORTEST and any(data):
            yield data
    elif isinstance(value, tuple):
        for item in value:
            yield from secrets(item)
    elif is_dataclass(value):
        for f in fields(value):
            yield from secrets(getattr(value, f.name))


def assert_absent(hidden: list[bytes], *texts: str) -> None:
    for text in texts:
        plain = text.lower().replace(" ", "").replace(":", "").replace("\\x", "")
        for data in hidden:
            # Half of a key is a leak too; so is its repr as bytes.
            for part in (data, data[: len(data) // 2], data[len(data) // 2 :]) if len(data) >= 16 else (data,):
                assert part.hex() not in plain
                assert repr(part)[2:-1] not in text


@pytest.mark.parametrize("kind", SEALED)
@given(data=st.data())
@relaxed
def test_contents_and_key_rings(kind: Kind, data: st.DataObject) -> None:
    clear, keys, sealed = data.draw(strategies.sealed(kind))
    hidden = [*secrets(clear), *secrets(keys)]
    opened = codec.open(sealed, keys, kind)
    hidden += secrets(opened)
    explanation = explain(sealed, kind)
    assert_absent(hidden, repr(clear), str(clear), f"{clear}", repr(keys), str(keys), repr(opened), str(opened), repr(explanation))


@pytest.mark.parametrize("kind", ["drm-stkm", "smartcard-stkm"])
@given(data=st.data())
@relaxed
def test_partials(kind: Kind, data: st.DataObject) -> None:
    message = data.draw(strategies.partial_messages(kind))
    hidden = list(secrets(message))
    assert hidden
    explanation = explain(to_bytes(message), kind, partial=True)
    assert explanation.error is None
    assert_absent(hidden, repr(message), str(message), repr(explanation), *(str(row.value) for row in explanation.rows))


@pytest.mark.parametrize("kind", ["drm-stkm", "smartcard-stkm"])
@given(data=st.data(), seed=st.integers(0, 2**32))
@relaxed
def test_errors_of_damaged_partials(kind: Kind, data: st.DataObject, seed: int) -> None:
    message = data.draw(strategies.partial_messages(kind))
    hidden = list(secrets(message))
    broken = mutate(to_bytes(message), random.Random(seed))
    explanation = explain(broken, kind, partial=True)
    assert_absent(hidden, repr(explanation), str(explanation.error), repr(explanation.error))


@pytest.mark.parametrize("kind", SEALED)
def test_errors_of_open(kind: Kind) -> None:
    rng = random.Random(f"secrets/{kind}")
    choices = RandomChoices(rng)
    for _ in range(10):
        clear, keys = SEALABLE[kind](choices)
        hidden = [*secrets(clear), *secrets(keys)]
        sealed = codec.seal(clear, keys)
        for _ in range(10):
            try:
                codec.open(mutate(sealed, rng), keys, kind)
            except BcastError as error:
                assert_absent(hidden, str(error), repr(error), str(error.as_dict()))
