# SPDX-License-Identifier: Apache-2.0
"""What a database keeps about its own progress: the stamp of each transaction, the verdict, and what peers said of theirs (R51).

Opening for writing begins a new life, in an order in which a process may be killed at any place:

1. The verdict (``position.older``) compares the last stamp in the database with the witness.
2. Not restored: the witness is brought to the last stamp and to the disk.  From now on it is of the life that the database names as
   the previous one.  (For an empty database a witness of no commit is made: a witness that is missing later was removed.)
3. One transaction stores the first stamp of the new life, and the verdict.
4. The witness gets the same stamp, and is brought to the disk.

A verdict stays until ``take_into_service``: what the machine makes of it may be lost in a crash.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pybcast.flows.restart import Restored
from pybcast.store.position import BLANK, Stamp, decode, encode, merged, older, token_position
from pybcast.store.protocol import Position, StoreDamaged
from pybcast.store.witness import Witness

PEERS: Final = 64  # whose tokens are kept; a back end has a handful
_NAME: Final = 512  # characters of a peer's id
_PUT: Final = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"

Transaction = Callable[[], AbstractContextManager[sqlite3.Connection]]


class Progress:
    """The progress of one open database.

    ``stamp``: of its last commit.  ``restored``: the verdict, until the store was taken into service.  ``gap``: seconds for which
    no rows had been stored when it was opened.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, owner: str) -> None:
        self._path, self._owner = path, owner
        self._witness: Witness | None = None
        self._last: Stamp | None = None
        self._next: Stamp = BLANK
        self._storing: dict[str, str] = {}
        self._lock = threading.Lock()
        self._heard: dict[str, str] = dict(db.execute("SELECT peer, token FROM heard"))
        self._unstored: dict[str, str] = {}
        self.restored: Restored | None = None
        self.gap = self.opened = 0.0
        for name, line in db.execute("SELECT name, value FROM meta WHERE name IN ('position', 'restored')").fetchall():
            try:
                if name == "position":
                    self._last = decode(line, Stamp)
                else:
                    self.restored = decode(line, Restored)
            except StoreDamaged as error:
                raise StoreDamaged(f"{path}: table meta, {name}: {error}") from None
        self.stamp = self._last or BLANK

    # --- opening for writing ------------------------------------------------------------------------------------------

    def begin(self, transaction: Transaction, witness: Path | None, clock: Callable[[], float]) -> None:
        """A new life."""
        self._clock, self.opened = clock, clock()
        last, theirs = self._last, None
        why = ""
        if witness is not None:
            self._witness = Witness(witness, self._owner)
            theirs = self._witness.found
            why = older(last, theirs, unreadable=self._witness.unreadable)
            if not why:
                if theirs is None or (last is not None and last != theirs):
                    self._witness.write(last or BLANK)
                self._witness.sync()
        base = last or replace(BLANK, rows_time=theirs.rows_time if theirs else 0.0)
        self.gap = max(0.0, self.opened - base.rows_time) if base.rows_time else 0.0
        base = base.raised(theirs or BLANK)
        self.stamp = replace(base, life=os.urandom(8).hex(), previous=base.life, began=base.commit + 1)
        verdict = self._merged(why, theirs.time if theirs else 0.0) if why else self.restored
        with transaction() as db:
            self.store(db, verdict=verdict)
        self.stored()
        self.restored = verdict
        self.sync()

    def _merged(self, why: str, lost_to: float) -> Restored:
        """The verdict; ``lost_to``: when the last commit that is known was made, or 0.0."""
        lost_from = self._last.time if self._last else 0.0
        if lost_to <= lost_from:
            lost_to = max(self.opened, lost_from)
        return merged(self.restored, Restored(why, lost_from, lost_to))

    # --- with each transaction ----------------------------------------------------------------------------------------

    def store(
        self, db: sqlite3.Connection, reached: Position = BLANK, *, rows: bool = False, verdict: Restored | None = None
    ) -> None:
        """Store, at the end of a transaction, its stamp and what peers have said.  ``reached``: numbers that it must not be below.
        ``rows``: the transaction holds rows.
        """
        self._next = self.stamp.next(self._clock(), reached, rows=rows)
        db.execute(_PUT, ("position", encode(self._next)))
        if verdict is not None and verdict != self.restored:
            db.execute(_PUT, ("restored", encode(verdict)))
        with self._lock:
            self._storing = dict(self._unstored)
        if self._storing:
            db.executemany("INSERT OR REPLACE INTO heard (peer, token) VALUES (?, ?)", self._storing.items())

    def stored(self) -> None:
        """The transaction is stored: tell the witness.  ``StoreError`` when that cannot be done: then nothing may leave."""
        if self._storing:
            with self._lock:
                self._unstored = {peer: token for peer, token in self._unstored.items() if self._storing.get(peer) != token}
        if self._witness is not None:
            self._witness.write(self._next)
        self.stamp = self._next

    def found_ahead(self, transaction: Transaction, reached: Position, why: str) -> Restored:
        """Take over what a peer knows, and the verdict that it means."""
        verdict = self._merged(why, reached.time)
        with transaction() as db:
            self.store(db, reached, verdict=verdict)
        self.stored()
        self.restored = verdict
        return verdict

    def take_into_service(self, transaction: Transaction) -> None:
        """The verdict was obeyed, and that is stored."""
        with transaction() as db:
            db.execute("DELETE FROM meta WHERE name = 'restored'")
            self.store(db)
        self.stored()
        self.restored = None

    # --- the witness --------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether the witness has something that may not be on the disk."""
        return self._witness is not None and self._witness.dirty

    def sync(self) -> None:
        """Bring the witness to the disk."""
        if self._witness is not None:
            self._witness.sync()

    def close(self) -> None:
        """Let go of the witness."""
        if self._witness is not None:
            self._witness.close()

    # --- peers ----------------------------------------------------------------------------------------------------------

    def note_heard(self, peer: str, token: str) -> None:
        """Keep a peer's token when it is higher than the one before; anything else is ignored.  The next transaction stores it."""
        position = token_position(token)
        if position is None or len(peer) > _NAME:
            return
        with self._lock:
            before = token_position(self._heard.get(peer, ""))
            if before is None and len(self._heard) >= PEERS:
                return
            if before is None or position.commit > before.commit:
                self._heard[peer] = self._unstored[peer] = token

    def heard(self, peer: str) -> str:
        """The highest token of a peer; empty when there is none."""
        return self._heard.get(peer, "")

    def take_over(self, before: Progress) -> None:
        """What peers have said since ``before`` stored something last."""
        for peer, token in before._heard.items():
            self.note_heard(peer, token)
