# SPDX-License-Identifier: Apache-2.0
"""Writes from threads and event loops: at once, together with what waited, in order, and none after a failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from store_support import KEK_A, KEK_B, after, counters, states_differ

from pybcast.errors import StoreError
from pybcast.flows import Persist
from pybcast.keys import TEK
from pybcast.store import Database, LogEntry, SqliteStore, Store, StoreFull, StoreStopped
from pybcast.store import sqlite as sqlite_module
from pybcast.store.database import CHUNK


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "test.db", KEK_A) as made:
        yield made


class Held:
    """A store whose thread is busy with a write until :meth:`release`."""

    def __init__(self, store: SqliteStore) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=store.write, args=(self._rows(),))
        self._thread.start()
        assert self._begun.wait(60)

    def _rows(self) -> Iterator[Persist]:
        yield Persist("t", ("first",), 1)
        self._begun.set()
        assert self._go.wait(60)

    def release(self) -> None:
        self._go.set()
        self._thread.join()


def test_what_is_acknowledged_is_stored(store: SqliteStore) -> None:
    protocol: Store = store
    protocol.write(counters(1, 2))
    other = Database(store.path, None, readonly=True)
    assert other.load() == protocol.load() == {"smk-counter": {("subscriber-1",): 1, ("subscriber-2",): 2}}
    protocol.write([Persist("smk-counter", ("subscriber-1",), None)])
    assert other.load() == {"smk-counter": {("subscriber-2",): 2}}
    assert list(protocol.rows("smk-counter")) == [(("subscriber-2",), 2)]
    other.close()


def test_what_waits_goes_together(store: SqliteStore) -> None:
    held = Held(store)
    futures = [store.submit(counters(n)) for n in range(100)]
    assert not any(future.done() for future in futures)
    held.release()
    for future in futures:
        future.result(60)
    stats = store.stats()
    assert (stats.writes, stats.commits, stats.largest_group, stats.rows, stats.waiting) == (101, 2, 100, 101, 0)
    assert 0 < stats.slowest_commit <= stats.commit_seconds
    assert list(store.load()["smk-counter"].values()) == list(range(100))


def test_a_group_has_a_limit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "GROUP_ROWS", 10)
    held = Held(store)
    futures = [store.submit(counters(n, n + 1, n + 2)) for n in range(7)]
    held.release()
    for future in futures:
        future.result(60)
    assert (store.stats().commits, store.stats().largest_group) == (4, 3)


def test_a_group_has_a_limit_of_octets_too(store: SqliteStore) -> None:
    held = Held(store)
    futures = [store.submit([Persist("page", (n,), bytes(1 << 20))]) for n in range(10)]
    futures.append(store.submit([Persist("page", ("bad",), [])]))
    held.release()
    assert [type(future.exception(60)) for future in futures] == [type(None)] * 10 + [StoreError]
    assert list(store.load()["page"]) == [(n,) for n in range(10)]
    assert (store.stats().commits, store.stats().largest_group) == (4, 4)


def test_nothing_waits_for_company(store: SqliteStore) -> None:
    for n in range(5):
        store.write(counters(n))
    assert (store.stats().commits, store.stats().largest_group) == (5, 1)


def test_order_across_kinds_of_writes(store: SqliteStore) -> None:
    held = Held(store)
    futures: list[Future[None]] = []
    for n in range(30):
        futures.append(store.submit([Persist("t", ("x",), n)]))
        futures.append(store.submit([Persist("t", (n,), n) for n in range(CHUNK + 5)] if n == 10 else counters(n)))
    loading: list[object] = []
    reader = threading.Thread(target=lambda: loading.append(store.load()["t"][("x",)]))
    held.release()
    futures[-1].result(60)
    reader.start()
    reader.join()
    assert loading == [29]
    assert all(future.done() for future in futures)


def test_an_event_loop(store: SqliteStore) -> None:
    async def run() -> list[int]:
        order: list[int] = []

        async def one(n: int) -> None:
            entry = LogEntry(time=n, direction="in", peer="urn:a", tag=1, message_id=str(n))
            await store.write_async([Persist("t", ("x",), n)], [entry])
            order.append(n)

        await asyncio.gather(*(one(n) for n in range(200)))
        return order

    assert asyncio.run(run()) == list(range(200))
    assert store.load() == {"t": {("x",): 199}}
    assert 1 <= store.stats().commits <= 200
    reader = Database(store.path, None, readonly=True)
    assert reader.query("SELECT count(*), max(time) FROM message_log") == [(200, 199.0)]
    reader.close()


def test_who_stops_waiting_stops_nothing(store: SqliteStore) -> None:
    async def run() -> None:
        held = Held(store)
        gone = store.write_async(counters(1))
        kept = store.write_async(counters(2))
        gone.cancel()
        held.release()
        await kept
        assert gone.cancelled()

    asyncio.run(run())
    held = Held(store)
    gone = store.submit(counters(3))
    assert gone.cancel()
    held.release()
    store.write(counters(4))
    assert list(store.load()["smk-counter"].values()) == [1, 2, 3, 4]


def test_a_loop_that_ended_stops_nothing(store: SqliteStore) -> None:
    held: list[Held] = []

    async def run() -> None:
        held.append(Held(store))
        store.write_async(counters(1))

    asyncio.run(run())
    held[0].release()
    store.write(counters(2))
    assert list(store.load()["smk-counter"].values()) == [1, 2]


@pytest.mark.parametrize("place", range(4))
def test_after_a_failure_nothing_is_stored_until_load(store: SqliteStore, place: int) -> None:
    held = Held(store)
    batches = [counters(n) for n in range(4)]
    batches[place].append(Persist("t", ("bad",), object()))
    futures = [store.submit(batch) for batch in batches]
    held.release()
    errors = [future.exception(60) for future in futures]
    assert errors[:place] == [None] * place
    assert type(errors[place]) is StoreError and "builtins.object is not among the types" in str(errors[place])
    assert all(isinstance(error, StoreStopped) for error in errors[place + 1 :])
    with pytest.raises(StoreStopped, match="a write before this one failed: table 't', key "):
        store.write(counters(9))
    expected = after([[Persist("t", ("first",), 1)], *batches[:place]])
    assert states_differ(store.load(), expected) == []
    store.write(counters(9))
    assert store.load()["smk-counter"][("subscriber-9",)] == 9


def _fails() -> Iterator[Persist]:
    for n in range(CHUNK * 2):
        yield Persist("new table", (n,), n)
    raise LookupError("of the caller")


def test_a_source_of_rows_that_fails_stores_nothing(store: SqliteStore) -> None:
    store.write(counters(1))
    with pytest.raises(StoreError, match="write failed: LookupError"):
        store.write(_fails())
    assert store.load() == {"smk-counter": {("subscriber-1",): 1}}
    store.write([Persist("other new table", (1,), 1), Persist("new table", (1,), 1)])
    assert set(store.load()) == {"smk-counter", "new table", "other new table"}


def test_a_large_write_is_all_or_nothing(store: SqliteStore) -> None:
    rows = [Persist("t", (n,), TEK(n.to_bytes(16, "big"))) for n in range(5 * CHUNK)]
    with pytest.raises(StoreError):
        store.write([*rows, Persist("t", ("bad",), [])])
    assert store.load() == {}
    store.write(rows)
    assert store.load()["t"][(4999,)] == TEK((4999).to_bytes(16, "big"))
    assert len(store.load()["t"]) == 5 * CHUNK


def test_on_commit_is_told(tmp_path: Path) -> None:
    told: list[tuple[float, int, int]] = []

    def on_commit(seconds: float, writes: int, rows: int) -> None:
        told.append((seconds, writes, rows))
        raise ZeroDivisionError  # the fault of a metric stops no write

    with SqliteStore(tmp_path / "test.db", KEK_A, on_commit=on_commit) as store:
        store.write(counters(1, 2, 3))
        store.write(counters(1))
    assert [(writes, rows) for _, writes, rows in told] == [(1, 3), (1, 1)]
    assert all(seconds > 0 for seconds, _, _ in told)


def test_close_carries_out_what_waits(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "test.db", KEK_A)
    held = Held(store)
    futures = [store.submit(counters(n)) for n in range(10)]
    closing = threading.Thread(target=store.close)
    closing.start()
    held.release()
    closing.join()
    assert [future.exception(0) for future in futures] == [None] * 10
    store.close()
    calls: list[Callable[[], object]] = [lambda: store.write(counters(1)), store.load, store.stats, lambda: store.rotate_kek(KEK_B)]
    for call in calls:
        with pytest.raises(StoreError, match="is closed"):
            call()
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        assert len(store.load()["smk-counter"]) == 10


def test_a_failed_commit_fails_all_of_its_group(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Database, changes: object) -> None:
        raise StoreFull("no space")

    held = Held(store)
    futures = [store.submit(counters(n)) for n in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(Database, "commit", full)
        held.release()
        assert [type(future.exception(60)) for future in futures] == [StoreFull] * 3
    with pytest.raises(StoreStopped):
        store.write(counters(1))
    assert store.load() == {"t": {("first",): 1}}


def test_figures_of_the_files(store: SqliteStore) -> None:
    store.write([Persist("t", (n,), bytes(4000)) for n in range(500)])
    stats = store.stats()
    assert stats.octets > 2_000_000 and stats.wal_octets > 0 and stats.free_octets == 0
    store.write([Persist("t", (n,), None) for n in range(500)])
    assert store.stats().free_octets > 1_000_000
