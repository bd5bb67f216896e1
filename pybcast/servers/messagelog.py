# SPDX-License-Identifier: Apache-2.0
"""The message log: which back-end messages came and went, never what was in them (R41).

An entry goes into the database with the next transaction: it costs no write of its own, and no answer waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Final

from pybcast.backend import Exchanged
from pybcast.errors import StoreError
from pybcast.flows.events import Persist
from pybcast.flows.journal import State
from pybcast.store import LogEntry, SqliteStore

WAITING: Final = 10_000  # entries between two transactions; older ones are lost first - confidence: own


class MessageLog:
    """A store for the runner that takes what ``note`` is told along."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._entries: deque[LogEntry] = deque(maxlen=WAITING)

    def note(self, done: Exchanged, time: float) -> None:
        """One request and its answer; ``time``: NTP seconds."""
        entry = LogEntry(
            time=time, direction="in" if done.role == "server" else "out", peer=done.peer, tag=done.tag or 0,
            message_id=done.message_id or "", service=done.service or "", status=done.status, octets=done.sent + done.received,
        )  # fmt: skip
        self._entries.append(entry)

    def load(self) -> State:
        """The store's."""
        return self._store.load()

    def write_async(self, batch: Sequence[Persist]) -> Awaitable[None]:
        """The store's, with what was noted."""
        return self._store.write_async(batch, self._take())

    def flush(self) -> None:
        """What was noted last, at the end."""
        entries = self._take()
        if entries:
            try:
                self._store.submit((), entries).result()
            except StoreError:
                return  # the log is no reason to fail: what matters failed before, or will

    def _take(self) -> tuple[LogEntry, ...]:
        entries = tuple(self._entries)
        self._entries.clear()
        return entries
