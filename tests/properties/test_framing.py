# SPDX-License-Identifier: Apache-2.0
"""A message ends where it ends: no prefix of it is one, and nothing may follow it."""

from __future__ import annotations

from typing import Final

import pytest

from pybcast.errors import BadLength, TrailingBytes, WireError
from pybcast.messages import KINDS, Kind
from pybcast.testing import corpus
from pybcast.testing.corpus import to_bytes
from pybcast.wire import decode

TELLS_ITS_LENGTH: Final[dict[Kind, str]] = {
    "drm-ltkm": "bcro_length",
    "drm-registration": "message_length",
    "smartcard-registration": "message_length",
}
"""Kinds with a field for the length of the whole message: bytes too many contradict it, before any field is the last one."""


def shortest(kind: Kind, n: int) -> list[bytes]:
    """The shorter half: every prefix of each is tried."""
    return sorted(corpus(kind, n, seed=11), key=len)[: n // 2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_strict_prefix_is_refused(kind: Kind) -> None:
    for data in shortest(kind, 40):
        for end in range(len(data)) if len(data) < 1000 else range(0, len(data), 17):
            with pytest.raises(WireError) as caught:
                decode(data[:end], kind)
            assert caught.value.offset is not None
            assert caught.value.offset <= end


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", [b"\0", b"\xff", bytes(100)], ids=["00", "ff", "100 zeros"])
def test_bytes_behind_the_message(kind: Kind, extra: bytes) -> None:
    for data in corpus(kind, 40, seed=12):
        with pytest.raises(WireError) as caught:
            decode(data + extra, kind)
        error = caught.value
        if kind in TELLS_ITS_LENGTH:
            assert (type(error), error.field, error.offset) == (BadLength, TELLS_ITS_LENGTH[kind], 2)
        else:
            assert (type(error), error.field, error.offset) == (TrailingBytes, "", len(data))
        # The one leniency that is about them ignores them, and only them.
        assert to_bytes(decode(data + extra, kind, lenient=["trailing-bytes"])) == data
