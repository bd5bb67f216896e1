# SPDX-License-Identifier: Apache-2.0
"""What a transaction will do to the database, encoded."""

from __future__ import annotations

from typing import Any

from pybcast.store.people import Change
from pybcast.store.protocol import LogEntry

SqlKey = str | bytes
SqlValue = int | bytes
SqlRow = tuple[int, SqlKey, SqlValue, int | None, int, str | None]
"""Columns of ``row`` but ``seq``, which is chosen last; ``crc`` is without it."""
ReadRow = tuple[int, int, SqlKey, SqlValue, int | None, int, str | None]
Ident = tuple[int, SqlKey]


class Changes:
    """What a transaction will do: encoded rows, of each key only the last."""

    def __init__(self) -> None:
        self.puts: dict[Ident, SqlRow] = {}
        self.drops: dict[Ident, None] = {}
        self.log: list[LogEntry] = []
        self.members: list[tuple[Change, list[tuple[str, list[tuple[Any, ...]]]]]] = []
        self.octets = self.key_number = self.smk_base = 0

    def __len__(self) -> int:
        return len(self.puts) + len(self.drops) + sum(len(rows) for _, steps in self.members for _, rows in steps)

    def merge(self, later: Changes) -> None:
        """What came after these."""
        for ident in later.drops:
            self.puts.pop(ident, None)
        self.drops |= later.drops
        self.puts |= later.puts
        self.log += later.log
        self.members += later.members
        self.octets += later.octets
        self.key_number = max(self.key_number, later.key_number)
        self.smk_base = max(self.smk_base, later.smk_base)
