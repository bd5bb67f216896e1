# SPDX-License-Identifier: Apache-2.0
"""One connection to an SQLite database of ours: opened, brought to the newest version; what fails is a typed error."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pybcast.errors import StoreError
from pybcast.store.encoding import FORMAT
from pybcast.store.files import Lock, prepare, siblings, sync_folder, unmade
from pybcast.store.protocol import StoreDamaged, StoreFull, StoreInUse
from pybcast.store.schema import APPLICATION_ID, views

CHECKPOINT_PAGES: Final = 1000  # SQLite's own default: the log stays near 4 MB, and a page is written back once for many changes
WAL_LIMIT: Final = 16 << 20  # octets the log's file keeps after a large transaction
CACHE_KIB: Final = 16_000  # pages of one large transaction beyond this go to the log early; more did not make it faster
_LEAST_FILE: Final = 512  # octets of the smallest page; SQLite takes a shorter file for an empty one
BUSY_TIMEOUT: Final = 5.0  # seconds; only readers can be in the way, and only for the moment of a recovery
_TEXTS: Final = {
    "row": "seq, CASE typeof(key) WHEN 'text' THEN key END, info",
    "member": "id, name, idr",
    "member_stream": "id, service",
    "member_right": "member, content",
}
"""Table -> what names a row, and its columns of text."""


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Connection:
    """A file, locked by its one writer or (``readonly``) read beside it.  ``owner``: whose memory it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = ""
        self._lock: Lock | None = None
        self._db: sqlite3.Connection | None = None

    def _open(self, owner: str, readonly: bool, migrations: Sequence[str]) -> None:
        """The newest version of the database, in the hands of its owner."""
        if not readonly:
            self._lock = Lock(self.path)
        with self._typed():
            self._connect(readonly)
            version = self._check_version(len(migrations))
            if not readonly:
                self._prepare_writing()
                self._migrate(migrations, version)
            self._check_owner(owner, readonly)

    def close(self) -> None:
        """Let go of the database and the lock."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # --- opening ------------------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self.path} is closed")
        return self._db

    def _connect(self, readonly: bool) -> None:
        mode = "ro" if readonly else "rw"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        self._db = db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    def _prepare_writing(self) -> None:
        db = self._connection
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in an empty database only
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = FAST")  # a dropped key leaves no wrapped copy in a page that is written anyway
        db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        db.execute(f"PRAGMA wal_autocheckpoint = {16 * CHECKPOINT_PAGES}")  # `tidy` does it sooner, after the answer

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _check_version(self, ours: int) -> int:
        size = self.path.stat().st_size
        if not size and not unmade(self.path).exists():
            raise StoreDamaged(f"{self.path} is empty, it was cut off: restore a copy, or delete it to begin with nothing")
        if 0 < size < _LEAST_FILE:
            raise StoreDamaged(f"{self.path} is damaged: restore a copy")
        if self._pragma("schema_version") and self._pragma("application_id") != APPLICATION_ID:
            raise StoreError(f"{self.path} is a database of another program")
        version = self._pragma("user_version")
        if version > ours:
            raise StoreError(f"{self.path} has version {version}, this program knows {ours}: use a newer pybcast")
        return version

    def _migrate(self, migrations: Sequence[str], version: int) -> None:
        db = self._connection
        for number, script in enumerate(migrations[version:], version + 1):
            self._script(f"{script}\nPRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};")
        found = db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        if found is None or found[0] != FORMAT:
            raise StoreError(f"{self.path}: rows of format {found and found[0]}, this program knows {FORMAT}")
        wanted = views()
        if db.execute("SELECT value FROM meta WHERE name = 'views'").fetchone() != (wanted,):
            quoted = wanted.replace("'", "''")
            self._script(f"{wanted}\nINSERT OR REPLACE INTO meta VALUES ('views', '{quoted}');")

    def _script(self, sql: str) -> None:
        """All of it or nothing."""
        try:
            self._connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\nCOMMIT;")
        except sqlite3.Error:
            self._rollback()
            raise

    def _check_owner(self, owner: str, readonly: bool) -> None:
        found = self._connection.execute("SELECT value FROM meta WHERE name = 'owner'").fetchone()
        self.owner = str(found[0]) if found is not None else "" if readonly else owner
        if found is None and owner and not readonly:
            with self._transaction() as db:
                db.execute("INSERT INTO meta VALUES ('owner', ?)", (owner,))
        elif found is not None and owner and found[0] != owner:
            raise StoreError(f"{self.path} is the memory of {found[0]}, not of {owner}")

    # --- transactions and errors --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        db = self._connection
        if db.in_transaction:  # SQLite has rolled back by itself after some errors
            db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._refusal(error) from None  # SQLite's text may quote what was bound, or what is stored

    def _refusal(self, error: sqlite3.Error) -> StoreError:
        name = getattr(error, "sqlite_errorname", "")
        match name.split("_")[:2]:
            case ["SQLITE", "FULL"]:
                return StoreFull(f"{self.path}: no space, nothing of this write was stored")
            case ["SQLITE", "CORRUPT" | "NOTADB"]:
                return StoreDamaged(f"{self.path} is damaged: restore a copy ({name})")
            case ["SQLITE", "READONLY" | "CANTOPEN" | "PERM" | "AUTH"]:
                return StoreError(f"{self.path} cannot be written or opened here ({name})")
            case ["SQLITE", "BUSY" | "LOCKED"]:
                return StoreInUse(f"{self.path} is locked by another process ({name})")
            case ["SQLITE", "ERROR"]:  # in the words of a statement, ours or an operator's
                return StoreError(f"{self.path}: {error}")
            case _ if "UTF-8" in str(error):  # Python's, in place of a row with such text
                return StoreDamaged(f"{self.path}: {self._not_text()}: damaged (not text)")
            case _:
                return StoreError(f"{self.path}: {type(error).__name__} {name}".rstrip())

    def _not_text(self) -> str:
        """The first row that holds text which is none.  (Python's error quotes the text, which may be anything.)"""
        db = self._connection
        db.text_factory = bytes
        try:
            for table, columns in _TEXTS.items():
                for number, *texts in db.execute(f"SELECT {columns} FROM {table}"):
                    if any(isinstance(text, bytes) and not _is_text(text) for text in texts):
                        return f"table {table}, {columns.partition(',')[0]} {number}"
        finally:
            db.text_factory = str
        return "a row"

    # --- for operators ------------------------------------------------------------------------------------------------

    def query(self, sql: str, args: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Rows of the views and of ``message_log``, for an operator."""
        with self._typed():
            return self._connection.execute(sql, tuple(args)).fetchall()

    def sizes(self) -> tuple[int, int]:
        """(octets of the database, of which unused)."""
        with self._typed():
            size = self._pragma("page_size")
            return (
                size * self._pragma("page_count"),
                size * self._pragma("freelist_count"),
            )

    def copy_to(self, path: Path) -> None:
        """A consistent copy in a new file, mode 0600, keys wrapped as here; it has its name when it is complete."""
        if path.exists() or path.is_symlink():
            raise StoreError(f"{path} exists")
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        prepare(part, create=True)
        try:
            with self._typed(), contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy:
                self._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE").fetchone()  # one file, that can be read where nothing can be written
            part.rename(path)
            sync_folder(path.parent)
        except BaseException:
            for file in (path, *siblings(part)):
                file.unlink(missing_ok=True)
            raise
