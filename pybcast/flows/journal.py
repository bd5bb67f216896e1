# SPDX-License-Identifier: Apache-2.0
"""A machine's memory: tables of rows that survive a crash, each declared once and written by one module.

A module declares its table beside the code that writes it (:class:`Table`) and opens it in the machine's journal
(:meth:`Journal.open`); ``test_layers`` holds that no other module does.  Who wants to know what is in it asks its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from pybcast.errors import StoreError
from pybcast.flows.events import Output, Persist

RowKey = tuple[object, ...]
State = dict[str, dict[RowKey, object]]
"""What a machine remembers: {table: {row key: row}}."""

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Table(Generic[_Row]):
    """A table of a machine's memory.

    ``name``: in the store.  ``kind``: the type of its rows.  ``key``: what a row key is made of, in words.
    """

    name: str
    kind: type[_Row]
    key: str = "service stream"


class Rows(Generic[_Row]):
    """A table in the hands of its owner.  ``held``: its rows, read from the store; the dict is the table from now on."""

    def __init__(self, table: Table[_Row], held: dict[RowKey, _Row], changed: dict[tuple[str, RowKey], Persist]) -> None:
        self._name, self._held, self._changed = table.name, held, changed
        self._indexes: dict[int, dict[RowKey, dict[RowKey, _Row]]] = {}

    def get(self, key: RowKey) -> _Row | None:
        return self._held.get(key)

    def all(self) -> dict[RowKey, _Row]:
        """A copy: the table may be changed while this is walked through."""
        return dict(self._held)

    def under(self, prefix: RowKey) -> dict[RowKey, _Row]:
        """A copy of the rows whose key begins with ``prefix``.  Costs what it returns, however large the table is."""
        width = len(prefix)
        if width not in self._indexes:
            index = self._indexes[width] = {}
            for key, row in self._held.items():
                index.setdefault(key[:width], {})[key] = row
        return dict(self._indexes[width].get(prefix, ()))

    def put(self, key: RowKey, row: _Row) -> None:
        self._held[key] = row
        for width, index in self._indexes.items():
            index.setdefault(key[:width], {})[key] = row
        self._changed[self._name, key] = Persist(self._name, key, row)

    def drop(self, key: RowKey) -> None:
        if self._held.pop(key, None) is not None:
            for width, index in self._indexes.items():
                group = index[key[:width]]
                del group[key]
                if not group:
                    del index[key[:width]]
            self._changed.pop((self._name, key), None)  # a row that is put again takes its place behind the others
            self._changed[self._name, key] = Persist(self._name, key, None)


class Journal:
    """The tables of a machine, and the outputs of the input being handled.

    What is kept comes first among them, each row once, as it is at the end of the input: no row is written twice for one input.

    ``state``: what was persisted before.  A row of another type than its table's is ``StoreError``: such a store is not ours.
    """

    def __init__(self, state: State | None = None) -> None:
        self.tables: State = {t: dict(rows) for t, rows in (state or {}).items()}
        self._open: dict[str, tuple[object, object]] = {}
        self._changed: dict[tuple[str, RowKey], Persist] = {}
        self._others: list[Output] = []
        self.inputs = 0  # whose outputs have been taken

    def open(self, table: Table[_Row]) -> Rows[_Row]:
        """A table in the hands of the one that writes it."""
        if table.name not in self._open:
            held = self.tables.setdefault(table.name, {})
            for row in held.values():
                if not isinstance(row, table.kind):
                    raise StoreError(f"table {table.name!r}: expected {table.kind.__name__}, found {type(row).__name__}")
            self._open[table.name] = table, Rows(table, cast(dict[RowKey, _Row], held), self._changed)
        declared, rows = self._open[table.name]
        assert declared is table, f"table {table.name!r} is declared twice"
        return cast(Rows[_Row], rows)

    def pass_on(self, table: str, key: RowKey, value: object | None) -> None:
        """Keep, or forget, a row that is not held here: of what there is too much of (``members``)."""
        self._changed[table, key] = Persist(table, key, value)

    def emit(self, output: Output) -> None:
        self._others.append(output)

    def take(self) -> list[Output]:
        """The outputs of this input, in the order in which to carry them out."""
        outputs: list[Output] = [*self._changed.values(), *self._others]
        self._changed.clear()
        self._others = []
        self.inputs += 1
        return outputs
