# SPDX-License-Identifier: Apache-2.0
"""What an operator may read of a server's database, beside the running server or without it: no key is in these rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pybcast.errors import ConfigError
from pybcast.store import Database

VIEWS: Final = {
    "subscriber": ("subscriber", "profile", "group", "position"),
    "subscriber_group": ("address", "size"),
    "entitlement": ("subscriber", "service", "stream", "content", "start", "end"),
    "programme": ("service", "stream", "content", "start", "end"),
    "key_version": ("service", "stream", "key_type", "key_id", "valid_from", "valid_to", "state", "programme", "sealer"),
    "issued": ("service", "stream", "name", "letters", "issued_at", "end", "confirmed"),
}
"""View of the store -> what is shown of it.  Times are NTP seconds."""

Row = dict[str, Any]


@contextlib.contextmanager
def _database(path: Path) -> Iterator[Database]:
    if not path.exists():
        raise ConfigError(f"{path}: no database yet: has the server run?")
    with contextlib.closing(Database(path, None, readonly=True)) as reader:
        yield reader


def rows(path: Path, view: str, *, limit: int = -1, **where: str | None) -> list[Row]:
    """The rows of a view whose columns are what is asked for; ``limit``: at most so many.  ``ConfigError`` without a database."""
    names = VIEWS[view]
    wanted = {name: value for name, value in where.items() if value is not None}
    assert wanted.keys() <= set(names)
    test = " AND ".join(f'"{name}" = ?' for name in wanted) or "1"
    columns = ", ".join(f'"{name}"' for name in names)
    with _database(path) as reader:
        found = reader.query(f"SELECT {columns} FROM {view} WHERE {test} LIMIT ?", (*wanted.values(), limit))
    return [dict(zip(names, row, strict=True)) for row in found]


async def read(path: Path, view: str, **where: str | None) -> list[Row]:
    """The same beside an event loop."""
    return await asyncio.to_thread(lambda: rows(path, view, limit=-1, **where))


def subscribers(path: Path, limit: int) -> list[Row]:
    """Subscribers by name, each with his rights."""
    people = sorted(rows(path, "subscriber", limit=limit), key=lambda row: str(row["subscriber"]))
    held: dict[str, list[Row]] = {}
    for right in rows(path, "entitlement"):
        held.setdefault(str(right.pop("subscriber")), []).append(right)
    return [{**row, "rights": held.get(str(row["subscriber"]), [])} for row in people]


def subscriber(path: Path, name: str) -> Row:
    """One subscriber and his rights."""
    found = rows(path, "subscriber", subscriber=name)
    if not found:
        raise ConfigError(f"no subscriber {name}")
    rights = rows(path, "entitlement", subscriber=name)
    for right in rights:
        del right["subscriber"]
    return {**found[0], "rights": rights}


def messages(path: Path, *, since: float, limit: int) -> list[Row]:
    """The newest entries of the message log from the NTP second ``since`` on, oldest first."""
    names = ("time", "direction", "peer", "tag", "message_id", "service", "status", "octets")
    sql = f"SELECT {', '.join(names)} FROM message_log WHERE time >= ? ORDER BY seq DESC LIMIT ?"
    with _database(path) as reader:
        found = reader.query(sql, (since, limit))
    return [dict(zip(names, row, strict=True)) for row in reversed(found)]
