# SPDX-License-Identifier: Apache-2.0
"""What durable memory costs, beside bare SQLite with the same settings writing the same bytes.

Contenders of one group store the same: ``bench_store...`` is ``pybcast.store``; ``bench_floor...`` is one ``executemany`` of
encoded rows by a bare ``sqlite3`` connection, checksums made and keys wrapped before.  Names end in what is measured:

* ``commit``: one small write, as a server makes it for one message: waits for the disk (fsync), and tells the witness;
* ``queued``: 1,000 such writes given at once; they go together;
* ``million``: a COUNTER for each of 1,000,000 subscribers, and their LTKMs on pages of 1,000, in one write; ``extra_info`` has the
  largest memory of a process that did it (``PYBCAST_BENCH_ROWS`` for another number);
* ``load``: 100,000 rows with a key each;  ``rotate``: a new key-encryption key for 20,000 keys.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from pybcast.flows import Persist, Subscriber
from pybcast.flows.bsm.members import Bundle
from pybcast.flows.bsm.pages import Page
from pybcast.keys import KEK, SMK, TEK
from pybcast.store import Database, SqliteStore
from pybcast.store.changes import Changes
from pybcast.store.connection import CACHE_KIB

KEK_A: Final = KEK(bytes(range(32)))
KEK_B: Final = KEK(bytes(32))
SUBSCRIBERS: Final = int(os.environ.get("PYBCAST_BENCH_ROWS", "1000000"))
PAGE: Final = 1000
LETTER: Final = bytes(range(200))
_INSERT: Final = (
    "INSERT INTO row (tbl, key, value, kek, crc, info) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tbl, key) DO UPDATE SET"
    " value = excluded.value, kek = excluded.kek, crc = excluded.crc, info = excluded.info"
)


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    group: str
    extra_info: dict[str, Any]

    def pedantic(
        self, target: Callable[..., Any], *, args: tuple[Any, ...] = (), setup: Callable[[], Any] | None = None, rounds: int = 1
    ) -> Any: ...


def message(number: int) -> list[Persist]:
    """What one message leaves: a period's key, its answer, a counter."""
    return [
        Persist("period", ("urn:service", 1, number % 500), (TEK(number.to_bytes(16, "big")), bytes(250))),
        Persist("answer", ("urn:bsda", f"{number % 500:032x}"), bytes(250)),
        Persist("smk-counter", (f"subscriber-{number % 500}",), number),
    ]


def issue(number: int) -> Iterator[Persist]:
    """An LTKM for each subscriber: his COUNTER, and pages of letters."""
    for start in range(0, number, PAGE):
        some = range(start, min(start + PAGE, number))
        yield from (Persist("smk-counter", (f"subscriber-{n:07}",), 1) for n in some)
        name = f"{start:032x}"
        page = Page(service="urn:service", stream=1, name=name, end=99, issued_at=5.5, ids=(("urn:bsda", name),), size=len(some))
        yield Persist("page", page.id, page)
        bundle = Bundle.of([LETTER] * len(some), [f"subscriber-{n:07}" for n in some], [(n, n + 5) for n in some])
        yield Persist("letters", page.id, bundle)


def bare(path: Path) -> sqlite3.Connection:
    """A connection without us, to the same tables, with the same settings."""
    Database(path, KEK_A).close()
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode = WAL", "synchronous = FULL", f"cache_size = -{CACHE_KIB}"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def encoded(folder: Path, batches: Iterable[Iterable[Persist]]) -> list[list[tuple[Any, ...]]]:
    """The rows of each batch as they are stored."""
    database = Database(folder / "encoder.db", KEK_A)
    out = []
    for batch in batches:
        changes = Changes()
        database.encode(batch, changes)
        out.append(list(changes.puts.values()))
    database.close()
    return out


def insert(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows)
    connection.execute("COMMIT")


# --- one write --------------------------------------------------------------------------------------------------------


def bench_store_commit(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = "store-commit"
    numbers = itertools.count()
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        benchmark.pedantic(lambda: store.write(message(next(numbers))), rounds=300)
        assert len(store.load()["smk-counter"]) == 300


def bench_store_witnessed_commit(benchmark: Benchmark, tmp_path: Path) -> None:
    """With the witness, which every server has."""
    benchmark.group = "store-commit"
    numbers = itertools.count()
    with SqliteStore(tmp_path / "test.db", KEK_A, witness=tmp_path / "witness" / "test") as store:
        benchmark.pedantic(lambda: store.write(message(next(numbers))), rounds=300)
        assert store.position.commit == 301


def bench_floor_commit(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = "store-commit"
    rows = iter(encoded(tmp_path, map(message, range(300))))
    connection = bare(tmp_path / "test.db")
    benchmark.pedantic(lambda: insert(connection, next(rows)), rounds=300)
    connection.close()


# --- many at once -----------------------------------------------------------------------------------------------------


def bench_store_queued(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = "store-queued"
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:

        def queue() -> None:
            futures = [store.submit(message(n)) for n in range(1000)]
            for future in futures:
                future.result()

        benchmark.pedantic(queue, rounds=10)
        stats = store.stats()
        benchmark.extra_info["transactions per 1000 writes"] = stats.commits / stats.writes * 1000
        assert stats.writes == 10_000


def bench_floor_queued(benchmark: Benchmark, tmp_path: Path) -> None:
    """The same rows in one transaction."""
    benchmark.group = "store-queued"
    rows = list(itertools.chain.from_iterable(encoded(tmp_path, map(message, range(1000)))))
    connection = bare(tmp_path / "test.db")
    benchmark.pedantic(lambda: insert(connection, rows), rounds=10)
    connection.close()


# --- a million subscribers --------------------------------------------------------------------------------------------

_MEMORY: Final = """
import re, sys
from pathlib import Path
peak = lambda: re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]  # ru_maxrss would count our parent's
sys.path.insert(0, sys.argv[1])
from bench_store import KEK_A, issue
from pybcast.store import SqliteStore
before = peak()
with SqliteStore(Path(sys.argv[2]), KEK_A) as store:
    store.write(issue(int(sys.argv[3])))
print(before, peak())
"""


def bench_store_million(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = "store-million"
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        benchmark.pedantic(lambda: store.write(issue(SUBSCRIBERS)), rounds=1)
        assert store.stats().rows == SUBSCRIBERS + 2 * -(-SUBSCRIBERS // PAGE)
        benchmark.extra_info["database MB"] = store.stats().octets // 1_000_000
    argv = [sys.executable, "-c", _MEMORY, str(Path(__file__).parent), str(tmp_path / "memory.db"), str(SUBSCRIBERS)]
    before, peak = map(int, subprocess.run(argv, capture_output=True, check=True, text=True).stdout.split())
    benchmark.extra_info["peak RSS MB"] = peak // 1024
    benchmark.extra_info["of which before MB"] = before // 1024


def bench_floor_million(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = "store-million"
    rows = encoded(tmp_path, [issue(SUBSCRIBERS)])[0]
    connection = bare(tmp_path / "test.db")
    benchmark.pedantic(insert, args=(connection, rows), rounds=1)
    connection.close()


# --- reading, and a new KEK -------------------------------------------------------------------------------------------


def subscribers(number: int) -> Iterator[Persist]:
    for n in range(number):
        name = f"subscriber-{n:07}"
        yield Persist("subscriber", (name,), Subscriber(id=name, smk=SMK(n.to_bytes(32, "big")), idr=f"{name}@bsf.example.com"))


def bench_store_load(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = "store-load"
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        store.write(subscribers(100_000))
        state = benchmark.pedantic(store.load, rounds=3)
        assert len(state["subscriber"]) == 100_000


def bench_floor_load(benchmark: Benchmark, tmp_path: Path) -> None:
    """The same rows as bytes."""
    benchmark.group = "store-load"
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        store.write(subscribers(100_000))
    connection = sqlite3.connect(tmp_path / "test.db")
    select = "SELECT tbl, key, value, kek, crc FROM row ORDER BY seq"
    rows = benchmark.pedantic(lambda: connection.execute(select).fetchall(), rounds=3)
    assert len(rows) == 100_000
    connection.close()


@pytest.mark.parametrize("rows", [20_000])
def bench_store_rotate(benchmark: Benchmark, tmp_path: Path, rows: int) -> None:
    benchmark.group = "store-rotate"
    keks = itertools.cycle([KEK_B, KEK_A])
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        store.write(subscribers(rows))
        benchmark.pedantic(lambda: store.rotate_kek(next(keks)), rounds=2)
        assert len(store.load()["subscriber"]) == rows
