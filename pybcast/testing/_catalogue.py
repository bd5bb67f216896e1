# SPDX-License-Identifier: Apache-2.0
"""The catalogue of mutations: each breaks one named rule in otherwise valid bytes, and says what a parser owes for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pybcast.messages import Kind
from pybcast.testing import _faults_drm as drm
from pybcast.testing import _faults_smartcard as smartcard
from pybcast.testing._faults import Mutation, Row

_TABLES: Final[tuple[tuple[Kind, tuple[Row, ...], bool], ...]] = (
    ("drm-stkm", drm.DRM_STKM, False),
    ("drm-stkm", drm.DRM_STKM_PARTIAL, True),
    ("drm-ltkm", drm.DRM_LTKM, False),
    ("drm-registration", drm.DRM_REGISTRATION, False),
    ("smartcard-stkm", smartcard.SMARTCARD_STKM, False),
    ("smartcard-stkm", smartcard.SMARTCARD_STKM_PARTIAL, True),
    ("smartcard-ltkm", smartcard.SMARTCARD_LTKM, False),
    ("smartcard-verification", smartcard.SMARTCARD_VERIFICATION, False),
    ("smartcard-reporting", smartcard.SMARTCARD_REPORTING, False),
    ("smartcard-parental", smartcard.SMARTCARD_PARENTAL, False),
    ("smartcard-registration", smartcard.SMARTCARD_REGISTRATION, False),
    ("mikey", smartcard.MIKEY, False),
)


def _mutations() -> Iterator[Mutation]:
    for kind, table, partial in _TABLES:
        for name, rule, error, field, break_ in table:
            yield Mutation(kind, name, rule, error, field, break_, partial)


CATALOGUE: Final[tuple[Mutation, ...]] = tuple(_mutations())
"""Every mutation, by kind."""
