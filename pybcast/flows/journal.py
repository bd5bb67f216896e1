# SPDX-License-Identifier: Apache-2.0
"""A machine's memory: tables of rows that survive a crash, each declared once and written by one module.

A module declares its table beside the code that writes it (:class:`Table`) and opens it in the machine's journal
(:meth:`Journal.open`); ``test_layers`` holds that no other module does.  Who wants to know what is in it asks its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pybcast.errors import StoreError
from pybcast.flows.events import Output, Persist

RowKey = tuple[object, ...]
State = dict[str, dict[RowKey, object]]
"""What a machine remembers: {table: {key: row}}."""

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Table(Generic[_Row]):
    """A table of a machine's memory.

    ``name``: in the store.  ``kind``: the type of its rows.  ``key``: what a row's key is made of, in words.
    """

    name: str
    kind: type[_Row]
    key: str = "service stream"


class Rows(Generic[_Row]):
    """A table in the hands of its owner.  Another type of row than the table's is ``StoreError``: such a store is not ours."""

    def __init__(self, journal: Journal, table: Table[_Row]) -> None:
        self._journal, self._table = journal, table

    def get(self, key: RowKey) -> _Row | None:
        return self._journal.get(self._table.name, key, self._table.kind)

    def all(self) -> dict[RowKey, _Row]:
        """A copy: the table may be changed while this is walked through."""
        return self._journal.rows(self._table.name, self._table.kind)

    def under(self, prefix: RowKey) -> dict[RowKey, _Row]:
        """A copy of the rows whose key begins with ``prefix``.  Costs what it returns, however large the table is."""
        return self._journal.select(self._table.name, prefix, self._table.kind)

    def put(self, key: RowKey, row: _Row) -> None:
        self._journal.put(self._table.name, key, row)

    def drop(self, key: RowKey) -> None:
        self._journal.drop(self._table.name, key)


class Journal:
    """A machine's memory: tables that survive a crash, and the outputs of the input being handled.

    What is kept comes first among them, each row once, as it is at the end of the input: no row is written twice for one input.

    ``state`` is what was persisted before.  ``get`` and ``rows`` give rows of one type; another type under that name is
    ``StoreError``: a store that holds something else is not ours.
    """

    def __init__(self, state: State | None = None) -> None:
        self.tables: State = {t: dict(rows) for t, rows in (state or {}).items()}
        self._rows: dict[tuple[str, RowKey], Persist] = {}
        self._others: list[Output] = []
        self.inputs = 0  # whose outputs have been taken
        self._indexes: dict[str, dict[int, dict[RowKey, dict[RowKey, object]]]] = {}
        self._declared: dict[str, object] = {}

    def open(self, table: Table[_Row]) -> Rows[_Row]:
        """A table in the hands of the one that writes it."""
        assert self._declared.setdefault(table.name, table) is table, f"table {table.name!r} is declared twice"
        return Rows(self, table)

    def get(self, table: str, key: RowKey, kind: type[_Row]) -> _Row | None:
        row = self.tables.get(table, {}).get(key)
        return None if row is None else _typed(table, row, kind)

    def rows(self, table: str, kind: type[_Row]) -> dict[RowKey, _Row]:
        """A copy of a table: it may be changed while this is walked through."""
        return {key: _typed(table, row, kind) for key, row in self.tables.get(table, {}).items()}

    def select(self, table: str, prefix: RowKey, kind: type[_Row]) -> dict[RowKey, _Row]:
        """A copy of the rows whose key begins with ``prefix``.  Costs what it returns, however large the table is."""
        width, indexes = len(prefix), self._indexes.setdefault(table, {})
        if width not in indexes:
            indexes[width] = {}
            for key, row in self.tables.get(table, {}).items():
                indexes[width].setdefault(key[:width], {})[key] = row
        return {key: _typed(table, row, kind) for key, row in indexes[width].get(prefix, {}).items()}

    def put(self, table: str, key: RowKey, value: object) -> None:
        self.tables.setdefault(table, {})[key] = value
        for width, index in self._indexes.get(table, {}).items():
            index.setdefault(key[:width], {})[key] = value
        self._rows[table, key] = Persist(table, key, value)

    def drop(self, table: str, key: RowKey) -> None:
        if self.tables.get(table, {}).pop(key, None) is not None:
            for width, index in self._indexes.get(table, {}).items():
                group = index[key[:width]]
                del group[key]
                if not group:
                    del index[key[:width]]
            self._rows.pop((table, key), None)  # a row that is put again after this takes its place behind the others
            self._rows[table, key] = Persist(table, key, None)

    def pass_on(self, table: str, key: RowKey, value: object | None) -> None:
        """Keep, or forget, a row that is not held here: of what there is too much of (``members``)."""
        self._rows[table, key] = Persist(table, key, value)

    def emit(self, output: Output) -> None:
        self._others.append(output)

    def take(self) -> list[Output]:
        """The outputs of this input, in the order in which to carry them out."""
        outputs = [*self._rows.values(), *self._others]
        self._rows, self._others = {}, []
        self.inputs += 1
        return outputs


def _typed(table: str, row: object, kind: type[_Row]) -> _Row:
    if not isinstance(row, kind):
        raise StoreError(f"table {table!r}: expected {kind.__name__}, found {type(row).__name__}")
    return row
