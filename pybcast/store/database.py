# SPDX-License-Identifier: Apache-2.0
"""One SQLite database and one connection to it: rows in, rows out, each call one transaction.  No threads; see ``sqlite``."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from pybcast.errors import Integrity, StoreError
from pybcast.flows.events import Persist
from pybcast.flows.journal import RowKey, State
from pybcast.flows.restart import Restored
from pybcast.keys import KEK, unwrap, wrap
from pybcast.store.changes import Changes, ReadRow, SqlKey, SqlValue
from pybcast.store.connection import CHECKPOINT_PAGES, Connection
from pybcast.store.encoding import Codec, layouts
from pybcast.store.files import begin, prepare, unmade
from pybcast.store.kek import kek_id
from pybcast.store.people import Change, check_everyone, everyone, rewrapped, rewrapped_srk
from pybcast.store.position import BLANK, KEY_NUMBERS, SMK_BASE, system_time
from pybcast.store.progress import Progress
from pybcast.store.protocol import Position, StoreDamaged, WrongKek
from pybcast.store.schema import MIGRATIONS, public
from pybcast.store.types import TYPES
from pybcast.store.wrapping import RowWrap

LETTERS: Final = "bundle"  # the table of rows too many to be loaded: the letters of a server's pages
CHUNK: Final = 1000  # rows encoded at a time: enough to keep executemany busy, little enough to hold in memory
CHUNK_OCTETS: Final = 4 << 20  # of encoded rows held at a time: a page of letters has 250,000
PIECE: Final = 100  # rows read at a time where memory is to be bounded, for the same reason
LOG_KEPT: Final = 100_000  # entries of the message log, about 20 MB
FREE_PAGES: Final = 1024  # 4 MB of free pages wait for the next rows; beyond them, and a quarter of the file, it shrinks
_SHRINK_STEP: Final = 256  # pages given back after one commit, so that no write waits long for it

_json: Final = msgspec.json.Encoder().encode

_PUT: Final = (
    "INSERT INTO row (seq, tbl, key, value, kek, crc, info) VALUES (?1, ?2, ?3, ?4, ?5, ?6 + ?1, ?7) ON CONFLICT (tbl, key) DO"
    " UPDATE SET value = excluded.value, kek = excluded.kek, crc = excluded.crc - excluded.seq + seq, info = excluded.info"
)
_SELECT: Final = "SELECT seq, tbl, key, value, kek, crc, info FROM row"
_TURNS: Final = (
    (f"{_SELECT} WHERE seq > ? AND kek <> ? ORDER BY seq LIMIT ?", "UPDATE row SET value = ?, kek = ?, crc = ? WHERE seq = ?"),
    (
        "SELECT id, name, idr, smk, kek, crc FROM member WHERE id > ? AND kek <> ? ORDER BY id LIMIT ?",
        "UPDATE member SET smk = ?, kek = ?, crc = ? WHERE id = ?",
    ),
    (
        "SELECT member, srk, kek, crc FROM member_srk WHERE member > ? AND kek <> ? ORDER BY member LIMIT ?",
        "UPDATE member_srk SET srk = ?, kek = ?, crc = ? WHERE member = ?",
    ),
)
"""What is wrapped anew, one after the other: how it is found, and how it is written."""
_DROP: Final = "DELETE FROM row WHERE tbl = ? AND key = ?"
_LOG: Final = (
    "INSERT INTO message_log (time, direction, peer, tag, message_id, service, status, octets, digest)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Database(Connection):
    """A database of rows, for one writer or (``readonly``) for reading beside it.

    ``owner``: whose memory it is (a BSM's or BSD/A's id); opening another one's is ``StoreError``.  ``kek``: may be ``None`` for
    reading: secrets then come wiped.  ``witness``: the file that tells when the database was put back (``witness``); ``None``:
    nothing tells.  ``clock``: NTP seconds.  ``types``: what may stand in rows.
    """

    def __init__(
        self,
        path: Path,
        kek: KEK | None,
        *,
        owner: str = "",
        readonly: bool = False,
        witness: Path | None = None,
        clock: Callable[[], float] = system_time,
        log_kept: int = LOG_KEPT,
        types: Mapping[str, type] = TYPES,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        super().__init__(path)
        self._log_kept = log_kept
        self._tables: dict[str, int] = {}
        self._table_names: dict[int, str] = {}
        self._new_tables: list[tuple[int, str]] = []
        self._carried: list[Change] = []
        self._crcs: dict[tuple[int, int | None], int] = {}
        self._seqs = itertools.count(1)
        self._keks: dict[int, RowWrap] = {}
        self._current = 0
        self._turning: tuple[int, int] | None = None  # which of _TURNS, and the last row of it that is done
        self._pages = 0
        self._reached = BLANK
        self._rows = False
        self._progress: Progress | None = None
        if not readonly and kek is None:
            raise StoreError("a key-encryption key is needed to write")
        if not readonly and path.parent.is_dir() and not path.exists():
            begin(path)
        prepare(path, create=not readonly)
        try:
            self._open(owner, readonly, migrations)
            with self._typed():
                self._codec = Codec(self._layouts(types, readonly), types)
                self._open_kek(kek, readonly)
                self._read_tables()
                ((last,),) = self._connection.execute("SELECT ifnull(max(seq), 0) FROM row")
                self._seqs = itertools.count(last + 1)
                self._progress = Progress(self._connection, path, owner)
                if not readonly:
                    self._progress.begin(self._transaction, witness, clock)
                    unmade(path).unlink(missing_ok=True)
        except BaseException:
            self.close()
            raise

    # --- opening ------------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        assert self._progress is not None
        return self._progress

    def found_ahead(self, reached: Position, why: str) -> Restored:
        """Take over what a peer knows (``Progress.found_ahead``)."""
        with self._typed():
            return self.progress.found_ahead(self._transaction, reached, why)

    def take_into_service(self) -> None:
        """It is the memory of a living machine from now on."""
        with self._typed():
            self.progress.take_into_service(self._transaction)

    def _layouts(self, types: Mapping[str, type], readonly: bool) -> dict[tuple[str, str], int]:
        select = "SELECT name, fields, id FROM layout"
        known = {(name, fields): number for name, fields, number in self._connection.execute(select)}
        new = [layout for layout in layouts(types) if layout not in known]
        if new and not readonly:
            with self._transaction() as db:
                db.executemany("INSERT INTO layout (name, fields) VALUES (?, ?)", new)
            known = {(name, fields): number for name, fields, number in self._connection.execute(select)}
        elif new:  # a newer program reads what an older one writes: numbers nothing was stored under
            known |= {layout: -n for n, layout in enumerate(new, 1)}
        return known

    def _open_kek(self, kek: KEK | None, readonly: bool) -> None:
        rows = self._connection.execute("SELECT id, name, wrapped FROM kek").fetchall()
        if not rows and not readonly:
            assert kek is not None
            with self._transaction() as db:
                db.execute("INSERT INTO kek (id, name) VALUES (1, ?)", (kek_id(kek),))
            rows = [(1, kek_id(kek), None)]
        if kek is None or not rows:
            return
        mine = kek_id(kek)
        for number, name, wrapped in rows:
            if wrapped is None and name != mine:
                turning = any(old == mine for _, old, _ in rows)
                what = "is being changed to" if turning else f"{mine} is not the one of {self.path}:"
                raise WrongKek(f"the key-encryption key {what} {name}{': open with that one' if turning else ''}")
            if wrapped is None:
                self._keks[number], self._current = RowWrap(kek), number
        for number, _, wrapped in rows:
            if wrapped is not None:
                try:
                    self._keks[number] = RowWrap(KEK(unwrap(kek, wrapped)))
                except Integrity:
                    raise StoreDamaged(f"{self.path}: the key-encryption key before this one is damaged") from None
                self._turning = 0, 0

    def _read_tables(self) -> None:
        self._crcs.clear()
        for number, name in self._connection.execute("SELECT id, name FROM flow_table"):
            self._tables[name], self._table_names[number] = number, name

    def close(self) -> None:
        """Let go of the database, the witness and the lock."""
        if self._progress is not None:
            self._progress.close()
        super().close()

    # --- writing ------------------------------------------------------------------------------------------------------

    def encode(self, batch: Iterable[Persist], into: Changes) -> None:
        """Encode rows.  ``StoreError`` names table and key; ``into`` may then hold part of the batch."""
        if self._lock is None:
            raise StoreError(f"{self.path} is open for reading only")
        encode_key, encode, kek, current = self._codec.encode_key, self._codec.encode, self._keks[self._current], self._current
        puts, drops = into.puts, into.drops
        for persist in batch:
            value = persist.value
            wrapped: int | None = None
            info: str | None = None
            data: SqlValue
            if type(value) is Change:
                into.members.append((value, value.encoded(kek, current)))
                continue
            try:
                table, key = self._table(persist.table), encode_key(persist.key)
                ident = (table, key)
                if value is None:
                    puts.pop(ident, None)
                    drops[ident] = None
                    continue
                if type(value) is int and -(1 << 63) <= value < 1 << 63:
                    data = value  # counters: readable in SQL
                    if persist.table == KEY_NUMBERS:
                        into.key_number = max(into.key_number, value)
                    elif persist.table == SMK_BASE:
                        into.smk_base = max(into.smk_base, value)
                else:
                    data, secret = encode(value, kek, (persist.table, key))
                    wrapped = current if secret else None
                    into.octets += len(data)
                    shown = public(persist.key, value)
                    info = None if shown is None else _json(shown).decode()
                crc = self._crc(table, key, data, wrapped, info)
            except StoreError as error:
                raise type(error)(f"table {persist.table!r}, key {persist.key!r}: {error}") from None
            except UnicodeEncodeError:
                raise StoreError(f"table {persist.table!r}, key {persist.key!r}: not text") from None
            puts[ident] = (table, key, data, wrapped, crc, info)

    def _table(self, name: str) -> int:
        number = self._tables.get(name)
        if number is None:
            number = max(self._table_names, default=0) + 1
            self._tables[name], self._table_names[number] = number, name
            self._new_tables.append((number, name))
        return number

    def _crc(self, table: int, key: SqlKey, value: SqlValue, kek: int | None, info: str | None) -> int:
        """CRC-32 over all that makes a row, but for ``seq``: SQLite does not see a flipped bit in a page."""
        head = self._crcs.get((table, kek))
        if head is None:
            head = self._crcs[table, kek] = zlib.crc32(f"{table} {kek} {self._table_names[table]}".encode())
        if info is not None:
            head = zlib.crc32(info.encode(), head)
        place = b"\0t" + key.encode() if type(key) is str else b"\0b" + key  # type: ignore[operator]
        if type(value) is int:
            return zlib.crc32(place + b"\0i" + value.to_bytes(8, "big", signed=True), head)
        return zlib.crc32(value, zlib.crc32(place + b"\0b", head))  # type: ignore[arg-type]

    def commit(self, changes: Changes) -> None:
        """Make changes durable in one transaction."""
        with self._typed(), self._storing() as db:
            self._carry_out(db, changes)

    def commit_stream(self, batch: Iterable[Persist]) -> int:
        """One transaction of any number of rows, in bounded memory; how many rows it was."""
        rows, source = 0, iter(batch)
        with self._typed(), self._storing() as db:
            changes = Changes()
            while part := list(itertools.islice(source, PIECE)):
                self.encode(part, changes)
                rows += len(part)
                if len(changes) >= CHUNK or changes.octets >= CHUNK_OCTETS:
                    self._carry_out(db, changes)
                    changes = Changes()
            self._carry_out(db, changes)
        return rows

    @contextlib.contextmanager
    def _storing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._transaction() as db:
                yield db
                self.progress.store(db, self._reached, rows=self._rows)
            for change in self._carried:
                change.done = True
        except BaseException:
            for number, name in self._new_tables:  # they are not in the database either
                del self._tables[name], self._table_names[number]
            self._crcs.clear()
            raise
        finally:
            self._new_tables, self._carried, self._reached, self._rows = [], [], BLANK, False
        self.progress.stored()

    def _carry_out(self, db: sqlite3.Connection, changes: Changes) -> None:
        self._rows = self._rows or len(changes) > 0
        if changes.key_number or changes.smk_base:
            numbers = replace(BLANK, key_number=changes.key_number, smk_base=changes.smk_base)
            self._reached = self._reached.raised(numbers)
        if self._new_tables:
            db.executemany("INSERT OR IGNORE INTO flow_table (id, name) VALUES (?, ?)", self._new_tables)
        if changes.drops:  # first: what is dropped and put again goes to the end of its table, like in a dict
            db.executemany(_DROP, changes.drops)
        if changes.puts:
            db.executemany(_PUT, ((seq, *row) for row, seq in zip(changes.puts.values(), self._seqs, strict=False)))
        for change, steps in changes.members:
            self._carried.append(change)
            for sql, rows in steps:
                db.executemany(sql, rows)
        if changes.log:
            db.executemany(
                _LOG,
                [(e.time, e.direction, e.peer, e.tag, e.message_id, e.service, e.status, e.octets, e.digest) for e in changes.log],
            )
            db.execute("DELETE FROM message_log WHERE seq <= (SELECT max(seq) FROM message_log) - ?", (self._log_kept,))
        self._pages += len(changes) + sum(len(row[2]) >> 12 for row in changes.puts.values() if isinstance(row[2], bytes))

    def tidy(self) -> None:
        """What keeps the files small; call it after a commit has been acknowledged."""
        with self._typed():
            if self._pages < CHECKPOINT_PAGES:
                return
            self._pages = 0
            db = self._connection
            free = self._pragma("freelist_count")
            if free > FREE_PAGES and 4 * free > self._pragma("page_count"):
                db.executescript(f"PRAGMA incremental_vacuum({_SHRINK_STEP})")  # execute() would free a single page
                self._pages = CHECKPOINT_PAGES  # and on with it after the next commit
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def keks(self) -> Mapping[int, RowWrap]:
        """The key-encryption keys that rows are wrapped under, by number."""
        return self._keks

    def load(self, *, members: bool = True) -> State:
        """All rows, in the order in which they were put first.  ``members`` False: but for the subscribers with cards and the
        letters of pages, of which there may be more than fit in memory.
        """
        state: State = {}
        collecting = gc.isenabled()
        gc.disable()  # it would walk through all rows again and again and find nothing: a third of the time
        try:
            with self._typed():
                self._read_tables()
                letters = None if members else self._tables.get(LETTERS)
                for row in self._connection.execute(f"{_SELECT} WHERE tbl IS NOT ? ORDER BY seq", (letters,)):
                    table, key, value = self._decode(row)
                    rows = state.get(table)
                    if rows is None:
                        rows = state[table] = {}
                    rows[key] = value
                if members:
                    for table, found in everyone(self._connection, self._keks or None).items():
                        if found:
                            state.setdefault(table, {}).update(found)
        finally:
            if collecting:
                gc.enable()
        return state

    def rows(self, table: str) -> Iterator[tuple[RowKey, object]]:
        """The rows of one table in order of their keys, ``PIECE`` at a time: writes may happen in between."""
        number = self._number(table)
        last: SqlKey | None = None
        while True:
            with self._typed():
                where = "tbl = ?" if last is None else "tbl = ? AND key > ?"
                args = (number,) if last is None else (number, last)
                found = self._connection.execute(f"{_SELECT} WHERE {where} ORDER BY key LIMIT {PIECE}", args).fetchall()
            if not found:
                return
            for row in found:
                yield self._decode(row)[1:]
            last = found[-1][2]

    def get(self, table: str, key: RowKey) -> object | None:
        """One row, or ``None``."""
        with self._typed():
            args = (self._number(table), self._codec.encode_key(key))
            row = self._connection.execute(f"{_SELECT} WHERE tbl = ? AND key = ?", args).fetchone()
        return None if row is None else self._decode(row)[2]

    def _number(self, table: str) -> int:
        if table not in self._tables:  # a reader: the writer may have begun it since
            with self._typed():
                self._read_tables()
        return self._tables.get(table, 0)

    def _decode(self, row: ReadRow) -> tuple[str, RowKey, object]:
        _, table, key, value, kek, _, _ = row
        try:
            name = self._checked(row)
            if kek is not None and self._keks and kek not in self._keks:
                raise StoreDamaged("wrapped under a key-encryption key that is gone")
            decoded = self._codec.decode_key(key)
            if isinstance(value, int):
                return name, decoded, value
            return name, decoded, self._codec.decode(value, None if kek is None else self._keks.get(kek), (name, key))
        except StoreError as error:
            raise type(error)(f"{self.path}: {self._where(table, key)}: {error}") from None

    def _checked(self, row: ReadRow) -> str:
        """The name of the table of a row that is as it was written."""
        seq, table, key, value, kek, crc, info = row
        if type(key) not in (str, bytes) or type(value) not in (int, bytes) or type(info) not in (str, type(None)):
            raise StoreDamaged("damaged (type)")
        if table not in self._table_names or crc != self._crc(table, key, value, kek, info) + seq:
            raise StoreDamaged("damaged (checksum)")
        return self._table_names[table]

    def _where(self, table: int, key: object) -> str:
        """A row's place, in so far as it can be told."""
        try:
            shown = repr(self._codec.decode_key(key)) if isinstance(key, str | bytes) else "unreadable"
        except StoreError:
            shown = "unreadable"
        return f"table {self._table_names.get(table, str(table))!r}, key {shown}"

    # --- copies -------------------------------------------------------------------------------------------------------

    def check(self, *, shown: Path) -> None:
        """Look at every page and every row; ``StoreDamaged`` says which one is damaged.  ``shown``: whose name errors say."""
        try:
            with self._typed():
                self._read_tables()
                ((found,), *_) = self._connection.execute("PRAGMA integrity_check(1)").fetchall()
                if found != "ok":
                    raise StoreDamaged(f"{self.path} is damaged: {found}")
                for row in self._connection.execute(_SELECT):
                    self._decode(row)
                check_everyone(self._connection, self._keks)
        except StoreError as error:
            raise type(error)(str(error).replace(str(self.path), str(shown))) from None

    # --- the key-encryption key ---------------------------------------------------------------------------------------

    @property
    def kek_id(self) -> str:
        """Public name of the key that rows are written under now."""
        kek = self._keks.get(self._current)
        return "" if kek is None else kek_id(kek.kek)

    @property
    def rotating(self) -> bool:
        """Whether rows may still be wrapped under the key before."""
        return self._turning is not None

    def rotate_begin(self, new: KEK) -> None:
        """From now on rows are written under ``new``; :meth:`rotate_step` wraps the others anew.

        Until that is done the old key is kept wrapped under the new one, never the reverse: who has the old one learns nothing.
        """
        if self.rotating:
            raise StoreError(f"{self.path}: the key-encryption key is being changed already")
        if kek_id(new) == self.kek_id:
            return
        old, number = self._keks[self._current], self._current + 1
        with self._typed(), self._storing() as db:
            db.execute("UPDATE kek SET wrapped = ? WHERE id = ?", (wrap(new, old.kek), self._current))
            db.execute("INSERT INTO kek (id, name) VALUES (?, ?)", (number, kek_id(new)))
        self._keks[number], self._current, self._turning = RowWrap(new), number, (0, 0)

    def rotate_step(self, limit: int = CHUNK) -> bool:
        """Wrap the next rows anew in one transaction; whether there may be more."""
        if self._turning is None:
            return False
        stage, last = self._turning
        with self._typed():
            db = self._connection
            db.execute("PRAGMA secure_delete = ON")  # what the old key opens is overwritten, free pages too
            for select, update in _TURNS[stage:]:
                found = db.execute(select, (last, self._current, limit)).fetchall()
                if found:
                    with self._storing():
                        db.executemany(update, [self._rewrapped(stage, row) for row in found])
                    self._turning = stage, found[-1][0]
                    self._pages += len(found)
                    return True
                stage, last = stage + 1, 0
            with self._storing():
                db.execute("DELETE FROM kek WHERE id <> ?", (self._current,))
            self._turning = None
            self._keks = {self._current: self._keks[self._current]}
            db.execute("PRAGMA secure_delete = FAST")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # the log holds old pages
            return False

    def _rewrapped(self, stage: int, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if stage:
            return (rewrapped if stage == 1 else rewrapped_srk)(self._keks, self._current, *row)
        seq, table, key, value, kek, _, info = row
        try:
            name = self._checked(row)
            if kek not in self._keks:
                raise StoreDamaged("wrapped under a key-encryption key that is gone")
            data = self._codec.rewrap(value, self._keks[kek], self._keks[self._current], (name, key))
        except StoreError as error:
            raise type(error)(f"{self.path}: {self._where(table, key)}: {error}") from None
        return data, self._current, self._crc(table, key, data, self._current, info) + seq, seq
