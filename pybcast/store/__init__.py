# SPDX-License-Identifier: Apache-2.0
"""Durable memory of the servers: what flows persist, on disk before it is used, with every key wrapped (R1, R2, R41).

>>> import tempfile
>>> from pathlib import Path
>>> from pybcast.flows import Persist
>>> from pybcast.keys import KEK, TEK
>>> from pybcast.store import SqliteStore
>>> with tempfile.TemporaryDirectory() as folder, SqliteStore(Path(folder) / "bsm.db", KEK(bytes(16))) as store:
...     store.write([Persist("smk-counter", ("alice",), 7), Persist("tek", (1,), TEK(bytes(16)))])
...     store.load()
{'smk-counter': {('alice',): 7}, 'tek': {(1,): <TEK 16 bytes>}}
"""

from __future__ import annotations

from pybcast.flows.restart import Restored
from pybcast.store.copies import Copy, PutBack, backup, restore
from pybcast.store.database import Database
from pybcast.store.kek import kek_id, load_kek
from pybcast.store.protocol import LogEntry, Position, Stats, Store, StoreDamaged, StoreFull, StoreInUse, StoreStopped, WrongKek
from pybcast.store.sqlite import SqliteStore

__all__ = [
    "Copy",
    "Database",
    "LogEntry",
    "Position",
    "PutBack",
    "Restored",
    "SqliteStore",
    "Stats",
    "Store",
    "StoreDamaged",
    "StoreFull",
    "StoreInUse",
    "StoreStopped",
    "WrongKek",
    "backup",
    "kek_id",
    "load_kek",
    "restore",
]
