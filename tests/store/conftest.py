# SPDX-License-Identifier: Apache-2.0
"""What every test of the store leaves behind: nothing that is open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from pybcast.errors import StoreError
from pybcast.store import Database


@pytest.fixture(autouse=True)
def _databases_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python 3.13 warns of each that is not, long after the test."""
    opened: list[Database] = []
    begin = Database.__init__

    def noted(self: Database, *values: Any, **named: Any) -> None:
        opened.append(self)
        begin(self, *values, **named)

    monkeypatch.setattr(Database, "__init__", noted)
    yield
    for database in opened:
        with contextlib.suppress(StoreError):
            database.close()
