# SPDX-License-Identifier: Apache-2.0
"""The subscribers with cards as tables of their own: columns instead of rows of everything, so that a million cost seconds.

Their keys are wrapped as everywhere (``wrapping``), one by one.  Each row carries a check of all that is in it.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from pybcast.errors import StoreError
from pybcast.flows.bsm.members import Right, Subscriber
from pybcast.keys import SMK, SRK
from pybcast.store.protocol import StoreDamaged
from pybcast.store.wrapping import RowWrap, row_place

TABLES: Final = """
-- id: in the order in which they came.  kek: what smk is wrapped under.  crc: over all of the row
CREATE TABLE member (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, idr TEXT NOT NULL, smk BLOB NOT NULL, kek INTEGER NOT NULL,
  crc INTEGER NOT NULL
);
-- value: how far the COUNTER has risen since the SMK came, times 2^31, plus a check
CREATE TABLE member_counter (member INTEGER PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE member_stream (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, stream INTEGER NOT NULL, crc INTEGER NOT NULL, UNIQUE (service, stream)
);
-- content: empty for all of the stream
CREATE TABLE member_right (
  stream INTEGER NOT NULL, member INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, content TEXT NOT NULL,
  crc INTEGER NOT NULL, PRIMARY KEY (stream, member, start, "end", content)
) WITHOUT ROWID;
CREATE TABLE member_told (
  key BLOB NOT NULL, member INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (key, member)
) WITHOUT ROWID;
-- of those with an interaction channel.  kek: what srk is wrapped under.  crc: over all of the row
CREATE TABLE member_srk (member INTEGER PRIMARY KEY, srk BLOB NOT NULL, kek INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX member_idr ON member (idr);
CREATE INDEX member_right_member ON member_right (member);
"""

MEMBER: Final = (
    "INSERT INTO member (id, name, idr, smk, kek, crc) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " idr = excluded.idr, smk = excluded.smk, kek = excluded.kek, crc = excluded.crc"
)
COUNTER: Final = (
    "INSERT INTO member_counter (member, value) VALUES (?, ?) ON CONFLICT (member) DO UPDATE SET value = excluded.value"
)
ACCESS: Final = (
    "INSERT INTO member_srk (member, srk, kek, crc) VALUES (?, ?, ?, ?) ON CONFLICT (member) DO UPDATE SET"
    " srk = excluded.srk, kek = excluded.kek, crc = excluded.crc"
)
NO_ACCESS: Final = "DELETE FROM member_srk WHERE member = ?"
STREAM: Final = "INSERT INTO member_stream (id, service, stream, crc) VALUES (?, ?, ?, ?)"
GRANT: Final = 'INSERT OR REPLACE INTO member_right (stream, member, start, "end", content, crc) VALUES (?, ?, ?, ?, ?, ?)'
FORGET: Final = "DELETE FROM member_right WHERE stream = ? AND member = ?"
TELL: Final = "INSERT OR IGNORE INTO member_told (key, member, crc) VALUES (?, ?, ?)"
UNTELL: Final = "DELETE FROM member_told WHERE key = ?"

_CHECK: Final = (1 << 31) - 1  # a prime: no flipped bit of a COUNTER or of a check goes unseen
_COUNTERS: Final = 1 << 32
_V = TypeVar("_V")
_Key = TypeVar("_Key", SMK, SRK)


class Change:
    """What one input does to these tables, in its transaction.  ``done``: that has been stored."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, list[tuple[Any, ...]]]] = []
        self.done = False

    def add(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Statements, after those that were added before."""
        if not self.steps or self.steps[-1][0] != sql:
            self.steps.append((sql, []))
        self.steps[-1][1].extend(rows)

    def encoded(self, wrap: RowWrap, number: int) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """The same with every key wrapped."""
        locks: dict[str, Callable[..., tuple[Any, ...]]] = {MEMBER: _locked, ACCESS: _locked_srk}
        return [(sql, [locks[sql](wrap, number, *row) for row in rows] if sql in locks else rows) for sql, rows in self.steps]


def _smk_place(member: int, name: str) -> bytes:
    return row_place("member", f"{member} {name}")


def _srk_place(member: int) -> bytes:
    return row_place("member_srk", str(member))


def _locked(wrap: RowWrap, number: int, member: int, name: str, idr: str, smk: SMK) -> tuple[Any, ...]:
    wrapped = wrap.wrap(smk, _smk_place(member, name))
    return member, name, idr, wrapped, number, member_crc(member, name, idr, wrapped, number)


def _locked_srk(wrap: RowWrap, number: int, member: int, srk: SRK) -> tuple[Any, ...]:
    wrapped = wrap.wrap(srk, _srk_place(member))
    return member, wrapped, number, srk_crc(member, wrapped, number)


def srk_crc(member: int, wrapped: bytes, kek: int) -> int:
    """The check of a row of ``member_srk``."""
    return zlib.crc32(wrapped, zlib.crc32(f"srk {member} {kek}".encode()))


def _check_row(where: str, crc: int, made: Callable[..., int], *columns: object) -> None:
    """``StoreDamaged`` when the check of a row is not that of its columns; a column may be of any type."""
    try:
        good = crc == made(*columns)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise StoreDamaged(f"table {where}: damaged (checksum)")


def check_srk(member: int, wrapped: bytes, kek: int, crc: int) -> None:
    """``StoreDamaged`` when a row of ``member_srk`` is not what was written."""
    _check_row(f"member_srk, member {member}", crc, srk_crc, member, wrapped, kek)


def srk_of(keks: Mapping[int, RowWrap], member: int, wrapped: bytes, kek: int, crc: int) -> SRK:
    """The SRK of a row of ``member_srk``; ``StoreDamaged`` when it is not what was written."""
    check_srk(member, wrapped, kek, crc)
    try:
        return SRK(keks[kek].unwrap(wrapped, _srk_place(member)))
    except (KeyError, StoreDamaged):
        raise StoreDamaged(f"table member_srk, member {member}: a key does not unwrap") from None


def member_crc(member: int, name: str, idr: str, wrapped: bytes, kek: int) -> int:
    """The check of a row of ``member``."""
    return zlib.crc32(wrapped, zlib.crc32(f"{member} {kek} {name}\0{idr}".encode()))


def right_crc(stream: int, member: int, start: int, end: int, content: str) -> int:
    """The check of a row of ``member_right``."""
    return zlib.crc32(f"{stream} {member} {start} {end} {content}".encode())


def stream_row(number: int, service: str, stream: int) -> tuple[Any, ...]:
    """A row of ``member_stream``."""
    return number, service, stream, zlib.crc32(f"stream {number} {stream} {service}".encode())


def stream_of(number: int, service: str, stream: int, crc: int) -> tuple[str, int]:
    """The stream of a row of ``member_stream``; ``StoreDamaged`` when it is not what was written."""
    _check_row(f"member_stream, stream {number}", crc, lambda *row: int(stream_row(*row)[-1]), number, service, stream)
    return service, stream


def told_row(key: bytes, member: int) -> tuple[Any, ...]:
    """A row of ``member_told``."""
    return key, member, zlib.crc32(key, zlib.crc32(b"told %d " % member))


def told_of(key: bytes, member: int, crc: int) -> int:
    """The member of a row of ``member_told``; ``StoreDamaged`` when it is not what was written."""
    _check_row(f"member_told, member {member}", crc, lambda *row: int(told_row(*row)[-1]), key, member)
    return member


def _check(member: int, counter: int) -> int:
    return (counter * 0x9E3779B1 + member * 0x85EBCA77) % _CHECK


def counter_row(member: int, counter: int) -> tuple[int, int]:
    """A row of ``member_counter``."""
    return member, counter << 31 | _check(member, counter)


def counter_of(member: int, value: int) -> int:
    """What :func:`counter_row` was made of; ``StoreDamaged`` for anything else."""
    counter = value >> 31 if type(value) is int else -1
    if not 0 <= counter < _COUNTERS or value & _CHECK != _check(member, counter):
        raise StoreDamaged(f"table member_counter, member {member}: damaged (checksum)")
    return counter


def check_member(member: int, name: str, idr: str, wrapped: bytes, kek: int, crc: int) -> None:
    """``StoreDamaged`` when a row of ``member`` is not what was written."""
    _check_row(f"member, {name!r}", crc, member_crc, member, name, idr, wrapped, kek)


def smk_of(keks: Mapping[int, RowWrap], member: int, name: str, idr: str, wrapped: bytes, kek: int, crc: int) -> bytes:
    """The SMK of a row of ``member``; ``StoreDamaged`` when it is not what was written."""
    check_member(member, name, idr, wrapped, kek, crc)
    try:
        return keks[kek].unwrap(wrapped, _smk_place(member, name))
    except (KeyError, StoreDamaged):
        raise StoreDamaged(f"table member, {name!r}: a key does not unwrap") from None


def rewrapped(keks: Mapping[int, RowWrap], new: int, member: int, name: str, idr: str, *rest: Any) -> tuple[bytes, int, int, int]:
    """A row of ``member`` under another key-encryption key: (smk, kek, crc, id)."""
    wrapped = keks[new].wrap(SMK(smk_of(keks, member, name, idr, *rest)), _smk_place(member, name))
    return wrapped, new, member_crc(member, name, idr, wrapped, new), member


def rewrapped_srk(keks: Mapping[int, RowWrap], new: int, member: int, *rest: Any) -> tuple[bytes, int, int, int]:
    """A row of ``member_srk`` under another key-encryption key: (srk, kek, crc, member)."""
    wrapped = keks[new].wrap(srk_of(keks, member, *rest), _srk_place(member))
    return wrapped, new, srk_crc(member, wrapped, new), member


def window_of(stream: int, member: int, start: int, end: int, content: str, crc: int) -> tuple[int, int]:
    """[start, end) of a row of ``member_right``; ``StoreDamaged`` when it is not what was written."""
    _check_row(f"member_right, member {member}", crc, right_crc, stream, member, start, end, content)
    return start, end


def right_row(stream: int, member: int, right: Right) -> tuple[Any, ...]:
    """A row of ``member_right``.  ``StoreError`` for a right to a programme without a name."""
    if right.content == "":
        raise StoreError("a right: content: expected the name of a programme, or none")
    content = right.content or ""
    return stream, member, right.start, right.end, content, right_crc(stream, member, right.start, right.end, content)


def _wiped(kind: type[_Key]) -> _Key:
    """What a reader without a key-encryption key gets."""
    key = kind(bytes(32))
    key.wipe()
    return key


class _Known(dict[int, _V]):
    """Rows by number; a missing one is damage."""

    def __init__(self, table: str) -> None:
        self._table = table

    def __missing__(self, number: int) -> NoReturn:
        raise StoreDamaged(f"table {self._table}: row {number} is missing")


def everyone(db: sqlite3.Connection, keks: Mapping[int, RowWrap] | None) -> dict[str, dict[tuple[object, ...], object]]:
    """All of it in the form in which a journal would hold it.  Without ``keks`` keys come wiped."""
    people: dict[tuple[object, ...], object] = {}
    names: _Known[str] = _Known("member")
    streams: _Known[tuple[str, int]] = _Known("member_stream")
    access: dict[int, SRK] = {}
    for member, *rest in db.execute("SELECT member, srk, kek, crc FROM member_srk"):
        check_srk(member, *rest)
        access[member] = _wiped(SRK) if keks is None else srk_of(keks, member, *rest)
    for member, name, idr, *rest in db.execute("SELECT id, name, idr, smk, kek, crc FROM member ORDER BY id"):
        check_member(member, name, idr, *rest)
        smk = _wiped(SMK) if keks is None else SMK(smk_of(keks, member, name, idr, *rest))
        people[name,] = Subscriber(id=name, smk=smk, idr=idr, srk=access.get(member))
        names[member] = name
    counters: dict[tuple[object, ...], object] = {
        (names[m],): counter_of(m, v) for m, v in db.execute("SELECT member, value FROM member_counter ORDER BY member")
    }
    rights: dict[tuple[object, ...], object] = {}
    streams.update((row[0], stream_of(*row)) for row in db.execute("SELECT id, service, stream, crc FROM member_stream"))
    for stream, member, start, end, content, crc in db.execute("SELECT * FROM member_right"):
        window_of(stream, member, start, end, content, crc)
        service, number = streams[stream]
        right = Right(service=service, stream=number, start=start, end=end, content=content or None)
        rights[names[member], service, number, start, end, right.content] = right
    told: dict[tuple[object, ...], object] = {
        (row[0], names[told_of(*row)]): True for row in db.execute("SELECT key, member, crc FROM member_told")
    }
    return {"subscriber": people, "smk-counter": counters, "right": rights, "told": told}


def check_everyone(db: sqlite3.Connection, keks: Mapping[int, RowWrap]) -> None:
    """Look at every row of these tables; ``StoreDamaged`` for the first that is not what was written."""
    for row in db.execute("SELECT id, name, idr, smk, kek, crc FROM member"):
        smk_of(keks, *row)
    for table, columns, look in (
        ("member_srk", "member, srk, kek, crc", partial(srk_of, keks)),
        ("member_counter", "member, value", counter_of),
        ("member_right", 'stream, member, start, "end", content, crc', window_of),
        ("member_told", "key, member, crc", told_of),
    ):
        place = columns.split(", ").index("member")
        for row in db.execute(f"SELECT {columns} FROM {table} WHERE member NOT IN (SELECT id FROM member)"):
            raise StoreDamaged(f"table {table}, member {row[place]}: there is no such member")
        for row in db.execute(f"SELECT {columns} FROM {table}"):
            look(*row)
    for row in db.execute("SELECT id, service, stream, crc FROM member_stream"):
        stream_of(*row)
    for (stream,) in db.execute("SELECT stream FROM member_right WHERE stream NOT IN (SELECT id FROM member_stream)"):
        raise StoreDamaged(f"table member_right, stream {stream}: there is no such stream")
