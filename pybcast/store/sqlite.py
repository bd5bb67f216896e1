# SPDX-License-Identifier: Apache-2.0
"""The store of a server: a ``Database``, one thread that writes to it, and group commit.

A write is carried out at once.  What is given while a transaction is being made durable waits for it and then goes together into
the next one: no write ever waits for another to come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pybcast.errors import StoreError
from pybcast.flows.events import Persist
from pybcast.flows.journal import RowKey, State
from pybcast.flows.restart import Restored
from pybcast.keys import KEK
from pybcast.store.changes import Changes
from pybcast.store.database import CHUNK_OCTETS, LOG_KEPT, Database
from pybcast.store.files import siblings
from pybcast.store.members import StoredMembers
from pybcast.store.position import UNVERIFIED, Tokens, system_time, token_position
from pybcast.store.protocol import LogEntry, Position, Stats, StoreStopped

GROUP_ROWS: Final = 10_000  # rows that go together at most: a transaction of about 100 ms, and bounded memory

SYNC: Final = 1.0  # seconds between writes of the witness to the disk: what a power cut may take of it

T = TypeVar("T")
_F = TypeVar("_F", Future[None], asyncio.Future[None])

_log = logging.getLogger(__name__)


@dataclass
class _Write:
    batch: Iterable[Persist]
    log: Sequence[LogEntry]
    rows: int | None
    """``None``: not known before; carried out alone and in bounded memory."""
    future: Future[None] | asyncio.Future[None]


@dataclass
class _Call:
    """Something else for the writing thread, in its place among the writes."""

    action: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class SqliteStore:
    """``Store`` on SQLite.  For one machine; every method may be called from any thread.

    ``witness``: the file, in a folder of its own, that tells when the database was put back; ``None``: nothing tells.  ``clock``:
    NTP seconds.

    ``on_commit(seconds, writes, rows)``: called by the writing thread after each transaction, for a histogram.  Raises
    ``StoreError`` (``StoreInUse``, ``WrongKek``, ``StoreDamaged``) when the database cannot be opened.
    """

    def __init__(
        self,
        path: Path | str,
        kek: KEK,
        *,
        owner: str = "",
        witness: Path | None = None,
        clock: Callable[[], float] = system_time,
        log_kept: int = LOG_KEPT,
        on_commit: Callable[[float, int, int], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._kek, self._owner, self._witness, self._clock, self._log_kept = kek, owner, witness, clock, log_kept
        self._tokens = Tokens(kek, owner)
        self._token = (self._tokens, -1, "")
        self._believed = False
        self._synced = -SYNC
        self._database = self._open()
        self._on_commit = on_commit
        self._queue: deque[_Write | _Call] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._stopped: StoreError | None = None
        self._writes = self._commits = self._largest = self._rows = 0
        self._seconds = self._slowest = 0.0
        self._members: StoredMembers | None = None
        self._thread = threading.Thread(target=self._run, name=f"store {self.path.name}", daemon=True)
        self._thread.start()

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, batch: Iterable[Persist]) -> None:
        """One durable transaction; ``batch`` may be an iterator over more rows than fit in memory."""
        self._put_write(batch, (), Future()).result()

    def submit(self, batch: Sequence[Persist], log: Sequence[LogEntry] = ()) -> Future[None]:
        """The same without waiting, for threads.  The batch must not change any more."""
        return self._put_write(batch, log, Future())

    def write_async(self, batch: Sequence[Persist], log: Sequence[LogEntry] = ()) -> asyncio.Future[None]:
        """The same for the event loop that runs this: await what is returned before anything that depends on it leaves."""
        return self._put_write(batch, log, asyncio.get_running_loop().create_future())

    def _put_write(self, batch: Iterable[Persist], log: Sequence[LogEntry], future: _F) -> _F:
        self._put(_Write(batch, log, len(batch) if isinstance(batch, Sequence) else None, future))
        return future

    def _put(self, item: _Write | _Call) -> None:
        with self._wake:
            if self._closing:
                raise StoreError(f"{self.path} is closed")
            self._queue.append(item)
            self._wake.notify()

    def _call(self, action: Callable[[], T]) -> Future[T]:
        call = _Call(action)
        self._put(call)
        return call.future

    # --- the rest of the protocol -------------------------------------------------------------------------------------

    def load(self) -> State:
        """All rows, with what was given before this call, but for :meth:`members`.  After a failed write: opens the database anew
        and goes on.
        """
        return self._call(self._load).result()

    def _open(self) -> Database:
        return Database(self.path, self._kek, owner=self._owner, witness=self._witness, clock=self._clock, log_kept=self._log_kept)

    def _load(self) -> State:
        if self._stopped is not None:
            before = self._database
            before.close()  # after a failed fsync nobody knows what this connection's pages are worth
            self._database = self._open()
            self._database.progress.take_over(before.progress)
        state = self._database.load(members=False)
        self._stopped = None
        return state

    def members(self) -> StoredMembers:
        """The subscribers with cards, for the machine made of what :meth:`load` gave last; those given before are closed."""
        self._close_members()
        self._members = StoredMembers(Database(self.path, self._kek, readonly=True), lambda: self._database.keks)
        return self._members

    def _close_members(self) -> None:
        if self._members is not None:
            self._members.close()
            self._members = None

    def rows(self, table: str) -> Iterator[tuple[RowKey, object]]:
        """The rows of one table in order of their keys, on a connection of its own; writes go on meanwhile."""
        with contextlib.closing(Database(self.path, self._kek, readonly=True)) as reader:
            yield from reader.rows(table)

    def rotate_kek(self, new: KEK) -> None:
        """Wrap every key under ``new``, some rows at a time between the writes; returns when nothing is left under the old one.

        Killed in between, open with ``new`` and call :meth:`finish_rotation`.
        """
        self.finish_rotation()
        self._call(lambda: self._rotate_begin(new)).result()
        self.finish_rotation()

    def _rotate_begin(self, new: KEK) -> None:
        self._database.rotate_begin(new)
        self._kek, self._tokens = new, Tokens(new, self._owner)

    def finish_rotation(self) -> None:
        """Go on with a rotation that was interrupted; nothing to do when there was none."""
        while self._call(lambda: self._database.rotate_step()).result():
            pass

    @property
    def rotating(self) -> bool:
        """Whether a rotation was begun and not finished."""
        return self._database.rotating

    # --- how far it has come (R2, R51) --------------------------------------------------------------------------------

    @property
    def restored(self) -> Restored | None:
        """Why what the database holds may be older than what left the server (``BSM(restored=...)``, R2); ``None``: it is not."""
        return self._database.progress.restored

    def take_into_service(self) -> None:
        """What the machine made of a copy persisted first is stored (R2): from now on this is no copy any more."""
        self._call(lambda: self._checked(self._database.take_into_service)).result()

    @property
    def gap(self) -> float:
        """Seconds for which no rows had been stored when this was opened; 0.0 for a new store.  Rows that must move on for each of
        them go into the first write: after that a crash does not count them again.
        """
        return self._database.progress.gap

    @property
    def position(self) -> Position:
        """How far the store has come: what the witness has been told."""
        return self._database.progress.stamp.position

    def token(self) -> str:
        """The position as text, URL-safe, for peers to keep and to send back; only who has the KEK can make one."""
        tokens, stamp = self._tokens, self._database.progress.stamp
        made, commit, text = self._token
        if made is not tokens or commit != stamp.commit:
            text = tokens.of(stamp)
            self._token = (tokens, stamp.commit, text)
        return text

    def note_heard(self, peer: str, token: str) -> None:
        """Keep what a peer says of its own position; it is stored with the next write.  What is no token is ignored."""
        self._database.progress.note_heard(peer, token)

    def heard(self, peer: str) -> str:
        """The highest token of a peer, to be sent back to it; empty when there is none."""
        return self._database.progress.heard(peer)

    def behind(self, token: str) -> bool:
        """Whether a token that came back to us names a commit that is not in the database.

        A token that we did not make counts until the first one is believed: it may be from before a change of the KEK.
        """
        found = token_position(token)
        ahead = 0 if found is None else found.commit - self._database.progress.stamp.commit
        return ahead > 0 and (self._tokens.genuine(token) or (not self._believed and ahead <= UNVERIFIED))

    def found_ahead(self, token: str, who: str) -> Restored | None:
        """When :meth:`behind`: go up to what the token says, keep the verdict, and return it; ``None`` when not.

        A token that we did not make moves the commit number only.
        """
        return self._call(lambda: self._found_ahead(token, who)).result()

    def _found_ahead(self, token: str, who: str) -> Restored | None:
        found, commit = token_position(token), self.position.commit
        if found is None or not self.behind(token):
            return None
        if not self._tokens.genuine(token):
            self._believed = True
            found = replace(found, time=0.0, key_number=0, smk_base=0)
        why = f"{who} has heard of commit {found.commit}, the database is at {commit}"
        return self._checked(lambda: self._database.found_ahead(found, why))

    def found_older(self, why: str) -> Restored:
        """Somebody has what this store must know, and does not: keep the verdict and return it."""
        return self._call(lambda: self._checked(lambda: self._database.found_ahead(self.position, why))).result()

    def _checked(self, action: Callable[[], T]) -> T:
        """A transaction of our own; when it fails, no write is stored until :meth:`load`."""
        if self._stopped is not None:
            raise StoreStopped(f"a write before this one failed: {self._stopped}")
        try:
            return action()
        except StoreError as error:
            self._stopped = error
            raise

    # --- for the operator -----------------------------------------------------------------------------------------------

    def backup(self, path: Path | str) -> None:
        """A consistent copy of all that was acknowledged, in a new file; writes go on meanwhile.  It needs the same KEK."""
        with contextlib.closing(Database(self.path, self._kek, readonly=True)) as reader:
            reader.copy_to(Path(path))

    def stats(self) -> Stats:
        """Figures for an operator."""
        octets, free = self._call(lambda: self._database.sizes()).result()
        wal = siblings(self.path)[1]
        with self._wake:
            waiting = sum(isinstance(item, _Write) for item in self._queue)
        return Stats(
            writes=self._writes, commits=self._commits, largest_group=self._largest, rows=self._rows, commit_seconds=self._seconds,
            slowest_commit=self._slowest, waiting=waiting, octets=octets, free_octets=free,
            wal_octets=wal.stat().st_size if wal.exists() else 0, kek_id=self._database.kek_id,
        )  # fmt: skip

    def close(self) -> None:
        """Carry out what is queued, then let go of the database.  Further calls do nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._close_members()
        self._sync()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- the writing thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and self._sync_in() != 0.0:
                    if self._closing:
                        return
                    self._wake.wait(self._sync_in())
                items = self._next() if self._queue else []
            if items and isinstance(items[0], _Call):
                _settle_call(items[0])
            elif items:
                self._commit([item for item in items if isinstance(item, _Write)])
            if self._sync_in() == 0.0:
                self._sync()

    def _sync_in(self) -> float | None:
        """Seconds until the witness goes to the disk; ``None``: it is there."""
        return max(0.0, self._synced + SYNC - time.monotonic()) if self._database.progress.dirty else None

    def _sync(self) -> None:
        self._synced = time.monotonic()
        try:
            self._database.progress.sync()
        except StoreError as error:
            _log.error("%s", error)
            self._stopped = self._stopped or error

    def _next(self) -> list[_Write | _Call]:
        """What is carried out together: one call, one write of unknown size, or all writes that wait."""
        taken = [self._queue.popleft()]
        first = taken[0]
        if isinstance(first, _Call) or first.rows is None:
            return taken
        rows = first.rows
        while self._queue:
            item = self._queue[0]
            if isinstance(item, _Call) or item.rows is None or rows + item.rows > GROUP_ROWS:
                break
            rows += item.rows
            taken.append(self._queue.popleft())
        return taken

    def _commit(self, writes: list[_Write]) -> None:
        if self._stopped is not None:
            _settle(writes, StoreStopped(f"a write before this one failed: {self._stopped}"))
            return
        begun = time.perf_counter()
        error: StoreError | None = None
        together = False
        done: list[_Write] = []
        rows = 0
        try:
            if len(writes) == 1 and not writes[0].log:
                rows = self._database.commit_stream(writes[0].batch)
                done = writes
            else:
                changes, error = self._encode(writes, done)
                rows = len(changes)
                if error is None:
                    writes = done
                if done:
                    self._database.commit(changes)
        except StoreError as failure:
            done, error, together = [], failure, True
        except Exception as failure:  # from an iterator of the caller's: this thread must live on, the caller hears of it
            done, error, together = [], StoreError(f"{self.path}: write failed: {type(failure).__name__}"), True
        if done:
            self._account(time.perf_counter() - begun, len(done), rows)
        _settle(done, None)
        if error is not None:
            self._stopped = error
            failed = writes[len(done) :]
            first = len(failed) if together else 1  # a transaction fails as a whole; a value that cannot be stored, alone
            _settle(failed[:first], error)
            _settle(failed[first:], StoreStopped(f"a write before this one failed: {error}"))
        if done:
            self._after(time.perf_counter() - begun, len(done), rows)

    def _account(self, seconds: float, writes: int, rows: int) -> None:
        self._writes += writes
        self._commits += 1
        self._largest = max(self._largest, writes)
        self._rows += rows
        self._seconds += seconds
        self._slowest = max(self._slowest, seconds)

    def _after(self, seconds: float, writes: int, rows: int) -> None:
        """What nobody waits for.  A failure here loses nothing; where it means harm, the next write meets it too."""
        try:
            if self._on_commit is not None:
                self._on_commit(seconds, writes, rows)
            self._database.tidy()
        except Exception:
            _log.exception("%s: after a commit", self.path)

    def _encode(self, writes: list[_Write], done: list[_Write]) -> tuple[Changes, StoreError | None]:
        """The changes of the writes up to the first that cannot be encoded; what is too much for one transaction waits."""
        changes = Changes()
        for place, write in enumerate(writes):
            if changes.octets >= CHUNK_OCTETS:
                with self._wake:
                    self._queue.extendleft(reversed(writes[place:]))
                break
            own = Changes() if len(writes) > 1 else changes
            try:
                self._database.encode(write.batch, own)
            except StoreError as error:
                return changes, error
            if own is not changes:
                changes.merge(own)
            changes.log += write.log
            done.append(write)
        return changes, None


def _settle_call(call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        call.future.set_result(call.action())
    except BaseException as error:  # whoever waits gets it
        call.future.set_exception(error)


def _settle(writes: Sequence[_Write], error: StoreError | None) -> None:
    """Tell the callers: threads one by one, an event loop once for all of its own."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for write in writes:
        if isinstance(write.future, asyncio.Future):
            loops.setdefault(write.future.get_loop(), []).append(write.future)
        else:
            with contextlib.suppress(InvalidStateError):  # cancelled; what it stood for is stored all the same
                write.future.set_result(None) if error is None else write.future.set_exception(error)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle_futures, futures, error)


def _settle_futures(futures: list[asyncio.Future[None]], error: StoreError | None) -> None:
    for future in futures:
        if not future.done():  # cancelled
            future.set_result(None) if error is None else future.set_exception(error)
