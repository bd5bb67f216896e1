# SPDX-License-Identifier: Apache-2.0
"""Every mutation of the catalogue is refused for its own reason, at its own place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from pybcast.errors import WireError
from pybcast.messages import KINDS, Kind
from pybcast.testing import CATALOGUE, Mutation, NotApplicable, _layout, _shapes, corpus
from pybcast.testing._shapes import RandomChoices
from pybcast.testing.corpus import to_bytes
from pybcast.wire import decode, explain

ENOUGH: Final = 5
"""Messages that each mutation must meet."""


def sources(mutation: Mutation) -> Iterator[bytes]:
    if not mutation.partial:
        yield from corpus(mutation.kind, 600, seed=21)
        return
    import random

    choices = RandomChoices(random.Random(21))
    for _ in range(600):
        if mutation.kind == "drm-stkm":
            yield to_bytes(_shapes.partial_drm_stkm(choices))
        else:
            yield to_bytes(_shapes.partial_smartcard_stkm(choices))


@pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: f"{m.kind}{'-partial' if m.partial else ''}: {m.name}")
def test_mutation(mutation: Mutation) -> None:
    met = 0
    for data in sources(mutation):
        try:
            fault = mutation.fault(data)
        except NotApplicable:
            continue
        assert fault.data == mutation(data)
        assert fault.data != data
        with pytest.raises(WireError) as caught:
            decode(fault.data, mutation.kind, partial=mutation.partial)
        error = caught.value
        found = (type(error), error.field, error.offset)
        assert found == (fault.error, fault.field, fault.offset), f"{fault.data.hex()}: {error}"
        explained = explain(fault.data, mutation.kind, partial=mutation.partial).error
        assert explained is not None
        assert explained.as_dict() == error.as_dict()
        met += 1
        if met == ENOUGH * 4:
            break
    assert met >= ENOUGH, f"only {met} messages had what it breaks"


def test_names_are_unique() -> None:
    names = Counter((mutation.kind, mutation.partial, mutation.name) for mutation in CATALOGUE)
    assert [name for name, n in names.items() if n > 1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_catalogue(kind: Kind) -> None:
    assert sum(mutation.kind == kind for mutation in CATALOGUE) >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_two_readings_of_the_layout_agree(kind: Kind) -> None:
    """Our locator was written apart from the codec: every field boundary it finds is one that ``explain`` shows."""
    for data in corpus(kind, 200, seed=22):
        rows = explain(data, kind).rows
        edges = {row.offset for row in rows} | {row.offset + row.length for row in rows}
        for name, span in _layout.LOCATE[kind](data).items():
            if span.length:
                assert span.offset in edges, f"{data.hex()}: {name}"
                assert span.end in edges, f"{data.hex()}: {name}"
