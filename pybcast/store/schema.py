# SPDX-License-Identifier: Apache-2.0
"""The tables of the database, how one version becomes the next, and what of a row an operator may read with plain SQL.

One table holds the rows of all machines, but for the subscribers with cards (``people``): (flow table, key) -> value.  A flow that
remembers something new then needs no migration, a write is one statement, and load is one scan in the order in which rows were
put, which is the order LTKMs go on air (R7).
Measured with 1,000,000 counters: one SQL table for each flow table takes the same time and space.  Clustering by key halves the
space, but a load then loses the order of rows.  What an operator asks for stands beside the value, as JSON in ``info``, and
the views below give it columns; keys are not in it.

Times in views are NTP seconds; subtract 2208988800 for Unix time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pybcast.flows.bsda.periods import PeriodBlock
from pybcast.flows.bsm.keychain import KEYS, LongTermKey
from pybcast.flows.bsm.members import GROUPS, RIGHTS, SUBSCRIBERS, Group, Right, Subscriber
from pybcast.flows.bsm.pages import PAGES, Page
from pybcast.flows.bsm.programmes import PROGRAMMES, Programme
from pybcast.flows.journal import RowKey
from pybcast.flows.peers.exchange import Answered
from pybcast.flows.peers.messages import KeyMaterial
from pybcast.flows.stream.allocator import SealedBlock
from pybcast.store.people import TABLES

APPLICATION_ID: Final = 0x42434153  # "BCAS": what file(1) and we know the database by

_V1: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('format', 1); -- of the rows: see encoding.py
-- peer: a back-end peer.  token: the highest position that it has told, sent back to it (position.py)
CREATE TABLE heard (peer TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE layout (id INTEGER PRIMARY KEY, name TEXT NOT NULL, fields TEXT NOT NULL, UNIQUE (name, fields));
CREATE TABLE flow_table (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- wrapped: while keys are wrapped anew, the KEK they were under before, wrapped under the one they are wrapped under now
CREATE TABLE kek (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, wrapped BLOB);
-- seq: order in which rows were put first.  kek: what the keys in value are wrapped under; NULL without keys.  crc: CRC-32 over
-- the name of the table and all other columns, plus seq
CREATE TABLE row (
  seq INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, key NOT NULL, value NOT NULL, kek INTEGER, crc INTEGER NOT NULL, info TEXT,
  UNIQUE (tbl, key)
);
CREATE TABLE message_log (
  seq INTEGER PRIMARY KEY, time REAL NOT NULL, direction TEXT NOT NULL, peer TEXT NOT NULL, tag INTEGER NOT NULL,
  message_id TEXT NOT NULL, service TEXT NOT NULL, status INTEGER, octets INTEGER NOT NULL, digest BLOB NOT NULL
);
CREATE INDEX message_log_time ON message_log (time);
"""

MIGRATIONS: Final[tuple[str, ...]] = (_V1 + TABLES,)
"""Number n, counted from 1, makes version n of version n - 1.  Never changed once released; new ones are added at the end."""

Info = dict[str, object]


def _at(key: RowKey, place: int) -> object:
    return key[place] if place < len(key) else None


def _hex(part: object) -> str | None:
    return part.hex() if isinstance(part, bytes) else None


def _key(row: KeyMaterial, service: object, **more: object) -> Info:
    return {
        "service": service, "stream": row.stream, "key_type": row.key_type, "key_id": row.key_id.hex(),
        "valid_from": row.valid_from, "valid_to": row.valid_to, **more,
    }  # fmt: skip


_PUBLIC: Final[Mapping[type, Callable[[RowKey, Any], Info]]] = MappingProxyType({
    KeyMaterial: lambda key, row: _key(row, _at(key, 0)),
    LongTermKey: lambda key, row: _key(
        row.material, _at(key, 0), state=row.state.value, programme=row.programme, sealer=row.sealer
    ),
    Programme: lambda _, row: {
        "service": row.service, "stream": row.stream, "content": row.content, "start": row.start, "end": row.end,
    },
    Subscriber: lambda _, row: {
        "subscriber": row.id, "profile": row.profile, "idr": row.idr, "group": row.group.hex(), "position": row.position,
        "udn": row.udn,
    },
    Group: lambda _, row: {"address": row.address.hex(), "size": row.size},
    Right: lambda key, row: {
        "subscriber": _at(key, 0), "service": row.service, "stream": row.stream, "start": row.start, "end": row.end,
        "content": row.content,
    },
    Page: lambda _, row: {
        "service": row.service, "stream": row.stream, "name": row.name, "letters": row.size, "issued_at": row.issued_at,
        "end": row.end, "confirmed": len(row.confirmed), "struck": len(row.struck),
    },
    PeriodBlock: lambda key, row: {
        "service": _at(key, 0), "stream": _at(key, 1), "start": row.records[0].period.start, "end": row.records[-1].period.end,
        "periods": len(row.records), "stkms": sum(len(record.stkms) for record in row.records),
    },
    SealedBlock: lambda key, row: {
        "key_id": _hex(_at(key, 0)), "start": row.items[0][0], "end": row.items[-1][1].until, "stkms": len(row.items),
        "octets": sum(len(sealed.data) for _, sealed in row.items), "burnt": sum(sealed.burnt for _, sealed in row.items),
    },
    Answered: lambda key, row: {"peer": _at(key, 0), "message_id": _at(key, 1), "until": row.until},
})  # fmt: skip


def public(key: RowKey, value: object) -> Info | None:
    """What of a row stands in the database for everyone who may read it; ``None`` for rows no view shows."""
    show = _PUBLIC.get(type(value))
    return None if show is None else show(key, value)


_VIEWS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "programme": (PROGRAMMES.name, "service stream content start end"),
        "key_version": (KEYS.name, "service stream key_type key_id valid_from valid_to state programme sealer"),
        "subscriber": (SUBSCRIBERS.name, "subscriber profile idr group position udn"),
        "subscriber_group": (GROUPS.name, "address size"),
        "entitlement": (RIGHTS.name, "subscriber service stream start end content"),
        "issued": (PAGES.name, "service stream name letters issued_at end confirmed struck"),
        "prepared": ("period", "service stream start end periods stkms"),
        "sealed": ("allocated", "key_id start end stkms octets burnt"),
        "answered": ("answer", "peer message_id until"),
    }
)
"""View -> (flow table, columns)."""
_MEMBERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "subscriber": " UNION ALL SELECT name, 'smartcard', idr, '', 0, '' FROM member WHERE idr <> char(1)",
        "entitlement": (
            " UNION ALL SELECT m.name, s.service, s.stream, r.start, r.\"end\", nullif(r.content, '')"
            " FROM member_right r JOIN member m ON m.id = r.member JOIN member_stream s ON s.id = r.stream"
        ),
        "counter": " UNION ALL SELECT m.name, c.value >> 31 FROM member_counter c JOIN member m ON m.id = c.member",
    }
)
"""View -> what it shows of the subscribers with cards.  Counters are without what a restore has moved them all by (R2)."""


def views() -> str:
    """SQL that makes the views anew: they belong to the program that opened the database last, not to a version of its tables."""
    parts = []
    for name, (table, columns) in _VIEWS.items():
        fields = ", ".join(f"""json_extract(info, '$."{c}"') AS "{c}\"""" for c in columns.split())
        more = _MEMBERS.get(name, "")
        parts.append(_view(name, f"SELECT {fields} FROM row WHERE {_of(table)} AND info IS NOT NULL{more}"))
    rows = f"SELECT key AS subscriber, value AS counter FROM row WHERE {_of('smk-counter')}"
    parts.append(_view("counter", f"{rows}{_MEMBERS['counter']}"))
    keys = "count(*) AS keys, max(valid_to) AS last_valid_to"
    parts.append(_view("stream", f"SELECT service, stream, {keys} FROM key_version GROUP BY service, stream"))
    return "".join(parts)


def _of(table: str) -> str:
    return f"tbl = (SELECT id FROM flow_table WHERE name = '{table}')"


def _view(name: str, select: str) -> str:
    return f"DROP VIEW IF EXISTS {name};\nCREATE VIEW {name} AS {select};\n"
