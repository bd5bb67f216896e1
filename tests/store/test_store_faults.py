# SPDX-License-Identifier: Apache-2.0
"""What years on air bring: processes killed at any moment, full disks, clocks that jump, and files that must not grow."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from store_children import IN_FLIGHT, KEK_A, KEK_B, batch, witness_of
from store_support import LONG, Children, after, counters, put, states_differ

from pybcast.errors import StoreError
from pybcast.flows import Persist
from pybcast.flows.journal import State
from pybcast.keys import TEK
from pybcast.store import Database, LogEntry, SqliteStore, StoreStopped, WrongKek
from pybcast.store.changes import Changes

KILLS: Final = 200 if LONG else 20


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.close()


def _last(state: State) -> int:
    number = state.get("last", {}).get((), -1)
    assert isinstance(number, int)
    return number


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment(children: Children, tmp_path: Path) -> None:
    """What is found is what a whole number of writes leaves: all that were acknowledged, and of the others only what was given."""
    rng = random.Random(2 if not LONG else None)
    path, seed, stored = tmp_path / "test.db", rng.randrange(1 << 30), -1
    expected: State = {}
    beyond = 0
    for _ in range(KILLS):
        acknowledged = children.run("write", seed, path, rng.randrange(1, 25), rng.randrange(200_000))
        assert acknowledged == list(range(stored + 1, stored + 1 + len(acknowledged)))
        with SqliteStore(path, KEK_A, owner="urn:bsm", witness=witness_of(path)) as store:
            assert store.restored is None
            state = store.load()
        last = _last(state)
        assert acknowledged[-1] <= last <= acknowledged[-1] + IN_FLIGHT
        for number in range(stored + 1, last + 1):
            for row in batch(seed, number):
                rows = expected.setdefault(row.table, {})
                if row.value is None:
                    rows.pop(row.key, None)
                else:
                    rows[row.key] = row.value
        assert states_differ(state, expected) == []
        beyond += last - acknowledged[-1]
        stored = last
    assert stored > KILLS
    assert beyond > 0  # some died between the commit and its acknowledgement, or with writes in flight


def test_killed_while_keys_are_wrapped_anew(children: Children, tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [Persist("tek", (n,), TEK(n.to_bytes(16, "big"))) for n in range(1000)]
    for n in range(4 if not LONG else 40):
        path = tmp_path / f"{n}.db"
        with SqliteStore(path, KEK_A) as store:
            store.write(rows)
        steps = children.run("rotate", 0, path, rng.randrange(1, 90), rng.randrange(100_000))
        assert steps[0] == 0
        with pytest.raises(WrongKek, match="is being changed to"):
            Database(path, KEK_A)
        with SqliteStore(path, KEK_B) as store:
            assert store.rotating
            assert states_differ(store.load(), after([rows])) == []
            store.finish_rotation()
            assert states_differ(store.load(), after([rows])) == []


# --- no space ---------------------------------------------------------------------------------------------------------


@contextmanager
def _tmpfs(folder: Path) -> Iterator[bool]:
    """A file system of 2 MiB on ``folder``; whether there is one."""
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "none", str(folder)]
    may = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = may and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def _fill(store: SqliteStore) -> tuple[list[list[Persist]], StoreError]:
    """Write until it fails: what was acknowledged, and the error."""
    stored: list[list[Persist]] = []
    while True:
        rows = [Persist("period", (len(stored), n), (TEK(bytes([n]) * 16), bytes(700))) for n in range(20)]
        rows.append(Persist("smk-counter", ("one",), len(stored)))
        try:
            store.write(rows)
        except StoreError as error:
            return stored, error
        stored.append(rows)
        assert len(stored) < 10_000


def test_a_full_disk(tmp_path: Path) -> None:
    with _tmpfs(tmp_path / "small") as mounted:
        ballast = tmp_path / "small" / "ballast"
        ballast.write_bytes(bytes(1_000_000))
        path = tmp_path / "small" / "test.db"
        with SqliteStore(path, KEK_A) as store:
            if not mounted:  # SQLite's own quota, which goes with the connection
                store._database.query("PRAGMA max_page_count = 100")
            stored, error = _fill(store)
            assert type(error).code == "store_full"
            assert str(error) == f"{path}: no space, nothing of this write was stored"
            assert len(stored) > 3
            with pytest.raises(StoreStopped, match="no space"):
                store.write(counters(1))
            reader = Database(path, None, readonly=True)
            assert reader.query("SELECT value FROM row WHERE key = 'one'") == [(len(stored) - 1,)]
            assert reader.query("SELECT count(*) FROM row") == [(20 * len(stored) + 1,)]
            reader.close()
            with suppress(StoreError):  # it may need space, or not
                assert states_differ(store.load(), after(stored)) == []
            ballast.unlink()
            assert states_differ(store.load(), after(stored)) == []
            store.write(counters(1))
        with SqliteStore(path, KEK_A) as store:
            assert states_differ(store.load(), after([*stored, counters(1)])) == []


def test_a_file_that_must_not_grow(tmp_path: Path) -> None:
    """A limit of the process; SQLite calls it an input/output error."""
    path = tmp_path / "test.db"
    store = SqliteStore(path, KEK_A)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
        stored, error = _fill(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "SQLITE_IOERR" in str(error) or type(error).code == "store_full"
    assert len(stored) > 3
    with pytest.raises(StoreStopped):
        store.write(counters(1))
    assert states_differ(store.load(), after(stored)) == []
    store.write(counters(1))
    store.close()
    with SqliteStore(path, KEK_A) as store:
        assert states_differ(store.load(), after([*stored, counters(1)])) == []


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_clock_means_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and retention come from the rows alone: a clock that stands, jumps or runs backwards changes nothing."""
    clock = random.Random(1)
    monkeypatch.setattr(time, "time", lambda: clock.uniform(-1e10, 1e10))
    monkeypatch.setattr(time, "perf_counter", lambda: clock.uniform(-1e10, 1e10))
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    with SqliteStore(tmp_path / "test.db", KEK_A, log_kept=5) as store:
        for n in range(20):
            entry = LogEntry(time=clock.uniform(-1e10, 1e10), direction="out", peer="urn:a", tag=1, message_id=str(n))
            store.submit([Persist("t", (20 - n,), n), Persist("t", (0,), n)], [entry]).result()
        assert list(store.load()["t"].items())[:2] == [((20,), 0), ((0,), 19)]
    database = Database(tmp_path / "test.db", KEK_A)
    assert database.query("SELECT message_id FROM message_log ORDER BY seq") == [(str(n),) for n in range(15, 20)]
    database.close()


# --- growth -----------------------------------------------------------------------------------------------------------


def _hour(database: Database, hour: int, length: int, streams: int) -> None:
    """Crypto periods come and go: what BSD/A and BSM keep of each, for an hour."""
    kept = 3
    changes = Changes()
    rows = []
    for period in range(hour * 3600 // length, (hour + 1) * 3600 // length):
        for stream in range(streams):
            name = f"urn:service:{stream}"
            rows.append(Persist("period", (name, 1, period), (TEK(period.to_bytes(16, "big")), bytes(300 + period % 97))))
            rows.append(Persist("answer", (name, f"{period:032x}"), bytes(200)))
            rows.append(Persist("period", (name, 1, period - kept), None))
            rows.append(Persist("answer", (name, f"{period - 20 * kept:032x}"), None))
    database.encode(rows, changes)
    changes.log = [LogEntry(time=hour, direction="in", peer="urn:bsda", tag=5, message_id=f"{hour}-{n}") for n in range(30)]
    database.commit(changes)
    database.tidy()


def test_a_week_of_periods_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    database = Database(tmp_path / "test.db", KEK_A, log_kept=1000)
    sizes = []
    for hour in range(7 * 24):
        _hour(database, hour, length=60, streams=2)
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    rows = database.query("SELECT count(*) FROM row")
    database.close()
    assert rows == [(2 * (3 + 60),)]
    assert max(sizes[48:]) <= max(sizes[:48]) + 4 * 4096  # pages: numbers have a digit more after 100 hours
    assert max(sizes) < 6_000_000  # of which the log 4 MB


def test_what_a_rollover_leaves_is_given_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "test.db", KEK_A)
    letters = [Persist("page", (n,), bytes(20_000)) for n in range(1000)]
    put(database, *letters)
    database.tidy()
    full, _ = database.sizes()
    assert full > 20_000_000
    put(database, *(Persist("page", (n,), None) for n in range(1000)))
    database.tidy()
    for n in range(60):
        put(database, *counters(n))
        database.tidy()
    small, free = database.sizes()
    database.close()
    assert small < full / 3
    assert free <= 1024 * 4096 or 4 * free <= small
    assert (tmp_path / "test.db").stat().st_size == small
