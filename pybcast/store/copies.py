# SPDX-License-Identifier: Apache-2.0
"""An operator's copies: ``backup`` beside a running server, ``restore`` while it is stopped.

``restore`` may be killed at any place: under the name of the database there is the old one or the new one, complete.  It leaves the
witness as it is, so the server notices what it got.  What was there before is kept beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from pybcast.errors import StoreError
from pybcast.keys import KEK
from pybcast.store.database import Database
from pybcast.store.files import Lock, as_owner, siblings, sync_folder
from pybcast.store.position import system_time
from pybcast.store.witness import found_stamps


@dataclass(frozen=True)
class Copy:
    """A copy of the database of ``owner``, as it was after ``commit`` at ``time`` (NTP seconds); ``octets``: its size."""

    owner: str
    commit: int
    time: float
    octets: int


@dataclass(frozen=True)
class PutBack:
    """``copy`` is the database now.  What was stored from ``lost_from`` to ``lost_to`` (NTP seconds) is lost; both are the same
    when nothing is.  ``kept``: what was there before, or ``None``.
    """

    copy: Copy
    lost_from: float
    lost_to: float
    kept: Path | None


def backup(database: Path, copy: Path, *, owner: str) -> Copy:
    """A copy of what is stored now, in a new file.  Needs no key-encryption key, and disturbs nobody."""
    with as_owner(database):
        with contextlib.closing(Database(database, None, owner=owner, readonly=True)) as source:
            source.copy_to(copy)
        with contextlib.closing(Database(copy, None, owner=owner, readonly=True)) as made:
            return _described(made)


def _described(database: Database) -> Copy:
    stamp = database.progress.stamp
    return Copy(database.owner, stamp.commit, stamp.time, database.path.stat().st_size)


def restore(database: Path, copy: Path, kek: KEK, *, owner: str, witness: Path) -> PutBack:
    """Put a copy in place of the database.  ``StoreError``: it is damaged, another server's or under another key; nothing is
    changed then.  ``StoreInUse``: the server runs.
    """
    with as_owner(database):
        lock = Lock(database)
        try:
            return _put_back(database, copy, kek, owner, witness)
        except OSError as error:
            raise StoreError(f"{error.filename or database}: {error.strerror}") from None
        finally:
            lock.release()


def _put_back(database: Path, copy: Path, kek: KEK, owner: str, witness: Path) -> PutBack:
    if database.exists() and copy.exists() and copy.samefile(database):
        raise StoreError(f"{copy} is the database itself")
    new = database.with_name(database.name + ".restoring")
    _remove(new)
    try:
        with contextlib.closing(Database(copy, kek, owner=owner, readonly=True)) as source:
            if source.owner != owner:
                raise StoreError(f"{copy} is the memory of nobody, not of {owner}")
            source.copy_to(new)
        with contextlib.closing(Database(new, kek, readonly=True)) as made:  # what is checked is what is used
            made.check(shown=copy)
            found = _described(made)
        lost_to = max(_last_known(database, witness), found.time)
        kept = _keep(database)
        for file in _others(database):  # a log that stays would be taken for the new database's
            file.unlink(missing_ok=True)
        new.replace(database)
        sync_folder(database.parent)
    finally:
        _remove(new)
    return PutBack(found, found.time, lost_to, kept)


def _others(database: Path) -> tuple[Path, ...]:
    return (*siblings(database)[1:], database.with_name(database.name + "-journal"))


def _remove(database: Path) -> None:
    for file in (database, *_others(database)):
        file.unlink(missing_ok=True)


def _last_known(database: Path, witness: Path) -> float:
    """When the last commit was made that the witness or the old database knows of; now, when neither can be read."""
    times = [stamp.time for stamp in found_stamps(witness)]
    with contextlib.suppress(StoreError), contextlib.closing(Database(database, None, readonly=True)) as old:
        times.append(old.progress.stamp.time)
    return max(times, default=system_time())


def _keep(database: Path) -> Path | None:
    """Give what is there a second name.  Its log is brought into it first; where that fails, for it is damaged, it is kept too."""
    if not database.exists():
        return None
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    base = f"{database.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (database.with_name(f"{base}{f'-{n}' if n else ''}") for n in range(1000))
    kept = next(name for name in names if not name.exists())
    for file, name in zip(siblings(database)[:2], siblings(kept)[:2], strict=True):
        if file.exists() and (file == database or file.stat().st_size):
            try:
                os.link(file, name, follow_symlinks=False)
            except OSError:  # not every file system has two names for one file
                shutil.copy(file, name)
    return kept
