# SPDX-License-Identifier: Apache-2.0
"""The witness: a small file in another folder that says how far the database has come, for the day the database is put back.

Two slots of fixed size are written in turn, so that a write cut short costs one of them; the highest that can be read counts.  Each
is a line of text.  Writing does not wait for the disk (``sync`` does, once a second): a process that dies loses nothing, and
after a power cut the witness is behind the database, which means nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pybcast.errors import StoreError
from pybcast.store.files import sync_folder
from pybcast.store.position import Stamp, decode, encode
from pybcast.store.protocol import StoreDamaged, StoreFull, StoreInUse

SLOT: Final = 512  # octets: what a disk writes as a whole; an id of 200 octets fits
_SLOTS: Final = 2


@dataclass(frozen=True)
class _Slot:
    owner: str
    stamp: Stamp


def _slots(data: bytes) -> Iterator[tuple[int, _Slot]]:
    """Those that can be read, with their place."""
    for turn in range(_SLOTS):
        with contextlib.suppress(StoreDamaged, UnicodeDecodeError):
            yield turn, decode(data[turn * SLOT : (turn + 1) * SLOT].decode().rstrip(" \n"), _Slot)


def found_stamps(path: Path) -> list[Stamp]:
    """What the witness of a stopped server says; nothing when it cannot be read."""
    try:
        with path.open("rb") as file:
            return [slot.stamp for _, slot in _slots(file.read(SLOT * _SLOTS))]
    except OSError:
        return []


class Witness:
    """The witness at ``path`` of the database of ``owner``.

    ``found``: the stamp in it when it was opened, or ``None``.  ``unreadable``: there is a file, but no stamp in it.
    ``dirty``: something was written that may not be on the disk yet.  ``StoreError`` when it is another owner's, or when others
    could read or replace it.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self._owner = path, owner
        self.found: Stamp | None = None
        self.unreadable = self.dirty = False
        self._turn = 0
        self._handle = -1
        try:
            self._make_folder()
            if path.parent.stat().st_mode & 0o002:
                raise StoreError(f"{path.parent} is writable for everyone: its files can be replaced")
            try:
                self._handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                return
            self._check_mode()
            self._lock()
            self._read()
        except OSError as error:
            self.close()
            raise self._refusal(error) from None
        except BaseException:
            self.close()
            raise

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return
        sync_folder(folder.parent)

    def _refusal(self, error: OSError) -> StoreError:
        kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        return kind(f"{self.path}: the witness cannot be used: {error.strerror}")

    def _check_mode(self) -> None:
        mode = os.fstat(self._handle).st_mode
        if not stat.S_ISREG(mode):
            raise StoreError(f"{self.path} is not a regular file")
        if mode & 0o077:
            raise StoreError(f"{self.path} has mode {stat.S_IMODE(mode):04o}, others may read it: chmod 600")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreInUse(f"{self.path} is the witness of another database that is in use") from None

    def _read(self) -> None:
        owner = self._owner
        for turn, slot in _slots(os.pread(self._handle, SLOT * _SLOTS, 0)):
            if self.found is None or slot.stamp.commit > self.found.commit:
                self.found, owner, self._turn = slot.stamp, slot.owner, (turn + 1) % _SLOTS
        self.unreadable = self.found is None
        self.dirty = not self.unreadable  # whoever wrote it may have died before it was on the disk
        if owner != self._owner:
            raise StoreError(f"{self.path} is the witness of {owner or 'nobody'}, not of {self._owner or 'nobody'}")

    def write(self, stamp: Stamp) -> None:
        """Remember a stamp; made when there is no witness.  ``StoreError`` when that cannot be done."""
        line = encode(_Slot(self._owner, stamp)).encode()
        if len(line) >= SLOT:
            raise StoreError(f"{self.path}: the id {self._owner[:40]}... is too long for a witness")
        slot = line.ljust(SLOT - 1) + b"\n"
        try:
            if self._handle < 0 or self.unreadable:
                self._create(slot)
            elif os.pwrite(self._handle, slot, self._turn * SLOT) != SLOT:
                raise StoreError(f"{self.path}: the witness cannot be used: no space")
        except OSError as error:
            raise self._refusal(error) from None
        self._turn = (self._turn + 1) % _SLOTS
        self.dirty = True

    def _create(self, slot: bytes) -> None:
        """A new file with both slots, under its name only when it is complete; one that cannot be read is kept beside it."""
        new = self.path.with_name(self.path.name + ".new")
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(handle, slot * _SLOTS) != SLOT * _SLOTS:
                raise StoreError(f"{self.path}: the witness cannot be used: no space")
            os.fsync(handle)
            if self.unreadable:
                self.path.replace(self.path.with_name(self.path.name + ".unreadable"))
            new.rename(self.path)
            sync_folder(self.path.parent)
        except BaseException:
            os.close(handle)
            raise
        self.close()
        self._handle, self.unreadable = handle, False

    def sync(self) -> None:
        """Bring what was written to the disk."""
        if not self.dirty:
            return
        self.dirty = False
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            raise self._refusal(error) from None

    def close(self) -> None:
        """Let go of it, without waiting for the disk."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
