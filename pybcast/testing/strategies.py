# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for every kind of message: valid fields across their whole ranges, limits favoured.

Needs the ``hypothesis`` package; the rest of :mod:`pybcast.testing` does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from pybcast import codec
from pybcast.errors import ConfigError
from pybcast.keys import Keys
from pybcast.messages import (
    Kind,
    Message,
    PartialDrmStkm,
    PartialSmartcardStkm,
    RegistrationMessage,
    RegistrationResponse,
    SmartcardLtkm,
    SmartcardStkm,
)
from pybcast.testing import _shapes
from pybcast.testing._sealable import SEALABLE, Sealable
from pybcast.testing.corpus import to_bytes
from pybcast.testing.scripts import ACTIONS, VIEWERS, Step

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    if error.name != "hypothesis":
        raise
    raise ConfigError("pybcast.testing.strategies needs Hypothesis: pip install hypothesis") from None

T = TypeVar("T")


class _Drawn:
    """Choices made by Hypothesis.  Built from plain integers, lists and samples, so that failures shrink to small messages."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def octets(self, low: int, high: int | None = None) -> bytes:
        if high is None:
            return self.draw(st.binary(min_size=low, max_size=low))
        limit = st.sampled_from(sorted({low, min(low + 1, high), min(16, high), high}))
        length = self.draw(st.one_of(st.integers(low, min(high, low + 32)), limit))
        return self.draw(st.binary(min_size=length, max_size=length))

    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def count(self, options: Sequence[int]) -> int:
        return self.draw(st.sampled_from(sorted(set(options))))


def _from(make: Callable[[_shapes.Choices], T]) -> st.SearchStrategy[T]:
    @st.composite
    def build(draw: st.DrawFn) -> T:
        return make(_Drawn(draw))

    return build()


@functools.cache
def messages(kind: Kind) -> st.SearchStrategy[Message]:
    """Messages as they stand on the wire: every field valid, keys and MACs arbitrary bytes."""
    return _from(_shapes.MESSAGES[kind])


def wire_bytes(kind: Kind) -> st.SearchStrategy[bytes]:
    """The bytes of a valid message of this kind."""
    return messages(kind).map(to_bytes)


@functools.cache
def partial_messages(kind: Kind) -> st.SearchStrategy[PartialDrmStkm | PartialSmartcardStkm]:
    """Partially created STKMs of either profile (``decode`` takes them with ``partial=True``).  ``ValueError`` for other kinds."""
    if kind == "drm-stkm":
        return _from(_shapes.partial_drm_stkm)
    if kind == "smartcard-stkm":
        return _from(_shapes.partial_smartcard_stkm)
    raise ValueError(f"{kind} has no partial form")


@functools.cache
def cmmb_stkms() -> st.SearchStrategy[SmartcardStkm]:
    """Smartcard STKMs with a 4-byte tek_id (leniency ``mtk-id-4``)."""
    return _from(lambda c: _shapes.smartcard_stkm(c, tek_id=(4,)))


@functools.cache
def short_interval_ltkms() -> st.SearchStrategy[SmartcardLtkm]:
    """Smartcard LTKMs with a 2 + 2 byte interval (leniency ``interval-2``)."""
    return _from(lambda c: _shapes.smartcard_ltkm(c, interval=(2,)))


@functools.cache
def rsa_1024_registrations() -> st.SearchStrategy[RegistrationResponse | RegistrationMessage]:
    """DRM registration messages signed with 1024 bits (leniency ``rsa-1024``)."""
    return _from(lambda c: _shapes.registration(c, sizes=(1024,)))


@functools.cache
def sealable(kind: Kind) -> st.SearchStrategy[tuple[Sealable, Keys]]:
    """A content with keys in clear, and the key ring that seals it and opens the result.

    ``ValueError`` for ``mikey``, which has no sealed form of its own.  RSA keys are made once per process.
    """
    if kind not in SEALABLE:
        raise ValueError(f"{kind} has no sealed form")
    return _from(SEALABLE[kind])


def clear_messages(kind: Kind) -> st.SearchStrategy[Sealable]:
    """Contents with their keys: what ``seal`` takes.  Where the keys must fit the content, draw :func:`sealable` instead."""
    return sealable(kind).map(lambda pair: pair[0])


def key_sets(kind: Kind) -> st.SearchStrategy[Keys]:
    """Key rings that seal and open this kind.  Where they must fit the content, draw :func:`sealable` instead."""
    return sealable(kind).map(lambda pair: pair[1])


@functools.cache
def sealed(kind: Kind) -> st.SearchStrategy[tuple[Sealable, Keys, bytes]]:
    """A content, the key ring, and the sealed bytes."""
    return sealable(kind).map(lambda pair: (*pair, codec.seal(*pair)))


def flow_scripts(max_steps: int = 12) -> st.SearchStrategy[list[Step]]:
    """Scripts for :func:`pybcast.testing.scripts.play`: rights given and taken, keys rolled, servers killed, links cut."""
    step = st.builds(
        Step,
        action=st.sampled_from(ACTIONS),
        target=st.integers(0, VIEWERS - 1),
        seconds=st.sampled_from([0.0, 1.0, 8.0, 30.0, 120.0]),
        amount=st.sampled_from([0.0, 0.05, 0.3]),
    )
    return st.lists(step, max_size=max_steps)
