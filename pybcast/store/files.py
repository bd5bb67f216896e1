# SPDX-License-Identifier: Apache-2.0
"""The files of a database: who may read them, and that one process writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pybcast.errors import StoreError
from pybcast.store.protocol import StoreInUse


def siblings(path: Path) -> tuple[Path, ...]:
    """The database, its write-ahead log and the log's index: all that holds rows."""
    return (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm"))


def prepare(path: Path, *, create: bool) -> None:
    """Refuse a place where others could read or replace the database; make an empty one, mode 0600, where there is none.

    SQLite gives its log and index the mode of the database.  ``StoreError`` in one line that says what to change.
    """
    try:
        folder = path.parent.stat()
        if folder.st_mode & 0o002:
            raise StoreError(f"{path.parent} is writable for everyone: its files can be replaced")
        if create:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                pass
            else:
                sync_folder(path.parent)  # else a power cut can take the whole file
        for file in siblings(path):
            try:
                mode = file.lstat().st_mode
            except FileNotFoundError:
                if file == path:
                    raise
                continue
            if not stat.S_ISREG(mode):
                raise StoreError(f"{file} is not a regular file")
            if mode & 0o077:
                raise StoreError(f"{file} has mode {stat.S_IMODE(mode):04o}, others may read it: chmod 600")
            if create and not mode & 0o200:  # root could write all the same
                raise StoreError(f"{file} is read-only (mode {stat.S_IMODE(mode):04o})")
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}") from None


def unmade(path: Path) -> Path:
    """A file that is there while the database is being made: only then may it be empty."""
    return path.with_name(path.name + "-unmade")


def begin(path: Path) -> None:
    """The database is going to be made."""
    try:
        os.close(os.open(unmade(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}") from None


@contextlib.contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """For a command: root acts as the user to whom a database, or its folder, belongs, so that the server can use what is made, and
    nothing in a folder of another user can lead root elsewhere.
    """
    try:
        found = (path if path.exists() else path.parent).stat()
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}") from None
    if os.geteuid() or not found.st_uid:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Lock:
    """One writer: a lock on a file beside the database, let go when the process ends, however it ends.

    (Not on the database itself: closing any handle of that would drop SQLite's own locks.)
    """

    def __init__(self, path: Path) -> None:
        name = path.with_name(path.name + "-lock")
        try:
            self._handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(f"{name}: {error.strerror}") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._handle, 20, 0).decode("ascii", "replace").strip()
            os.close(self._handle)
            raise StoreInUse(f"{path} is in use by process {holder or 'unknown'}") from None
        with contextlib.suppress(OSError):  # a full disk: the number is only for the message above
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._handle)
