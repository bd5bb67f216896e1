# SPDX-License-Identifier: Apache-2.0
"""A store that is put back is noticed, and nothing else is taken for that (R2, R51)."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from store_children import witness_of
from store_support import KEK_A, KEK_B, Children, counters, put

from pybcast.errors import StoreError
from pybcast.flows import Persist
from pybcast.keys import KEK, TEK
from pybcast.store import Database, Position, Restored, SqliteStore, StoreDamaged, StoreInUse, StoreStopped
from pybcast.store.files import siblings
from pybcast.store.position import BLANK, Stamp, Tokens, decode, encode, older, token_position
from pybcast.store.witness import SLOT, Witness

ME: Final = "urn:bsm"
START: Final = 4_000_000_000.0


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bsm.db"


def opened(path: Path, clock: Clock | None = None, *, kek: KEK = KEK_A) -> SqliteStore:
    return SqliteStore(path, kek, owner=ME, witness=witness_of(path), clock=clock or Clock())


def key_number(number: int) -> Persist:
    return Persist("key-number", ("urn:service", 1, "SEK"), number)


def base(number: int) -> Persist:
    return Persist("smk-counter-base", (), number)


def files(path: Path) -> list[Path]:
    return [file for file in siblings(path) if file.exists()]


def copied(path: Path, folder: Path) -> None:
    """What ``cp`` makes of a database, running or not."""
    folder.mkdir(mode=0o700)
    for file in files(path):
        shutil.copy(file, folder / file.name)


def put_back(folder: Path, path: Path) -> None:
    for file in files(path):
        file.unlink()
    for file in folder.iterdir():
        shutil.copy(file, path.parent / file.name)


def crashed(path: Path, folder: Path) -> Path:
    """The files, and the witness, as a process leaves them that is killed now."""
    copied(path, folder)
    shutil.copytree(witness_of(path).parent, folder / "witness")
    return folder / path.name


# --- the verdict --------------------------------------------------------------------------------------------------------


def stamp(life: str, commit: int, previous: str = "", began: int = 1) -> Stamp:
    return Stamp(life=life, commit=commit, time=5.0, key_number=1, smk_base=2, previous=previous, began=began)


@pytest.mark.parametrize(
    ("database", "witness", "unreadable", "why"),
    [
        (None, None, False, ""),
        (None, BLANK, False, ""),
        (None, stamp("a", 7), False, "the witness knows of commit 7, the database is empty"),
        (None, None, True, "the witness cannot be read"),
        (stamp("a", 7), None, False, "there is no witness"),
        (stamp("a", 7), None, True, "the witness cannot be read"),
        (stamp("a", 7), stamp("a", 7), False, ""),
        (stamp("a", 7), stamp("a", 6), False, ""),
        (stamp("a", 7), stamp("a", 8), False, "the witness is 1 commit ahead"),
        (stamp("a", 7), stamp("a", 319), False, "the witness is 312 commits ahead"),
        (stamp("a", 1), BLANK, False, ""),
        (stamp("a", 90), BLANK, False, ""),
        (stamp("b", 9, "a", 8), BLANK, False, "the witness is of another life"),
        (stamp("b", 9, "a", 8), stamp("a", 7), False, ""),
        (stamp("b", 9, "a", 8), stamp("a", 3), False, ""),
        (stamp("b", 9, "a", 8), stamp("a", 8), False, "the witness is of another life"),
        (stamp("b", 9, "a", 8), stamp("c", 3), False, "the witness is of another life"),
        (stamp("a", 7), stamp("b", 8, "a", 8), False, "the witness is of another life"),
    ],
)  # fmt: skip
def test_the_verdict(database: Stamp | None, witness: Stamp | None, unreadable: bool, why: str) -> None:
    assert older(database, witness, unreadable=unreadable) == why


def test_starts_stops_and_crashes_are_nothing(path: Path, tmp_path: Path, clock: Clock) -> None:
    lives, commits = set(), []
    for n in range(4):
        clock.now += 100
        with opened(path, clock) as store:
            assert store.restored is None
            assert store.gap == (100.0 if n else 0.0)
            lives.add(store.position.life)
            commits.append(store.position.commit)
            store.write([key_number(n), base(n << 40)])
            assert store.position == Position(store.position.life, commits[-1] + 1, clock.now, n, n << 40)
            now = crashed(path, tmp_path / f"crash-{n}")
        with opened(now, clock) as store:
            assert store.restored is None and store.gap == 0.0
            assert store.position.commit == commits[-1] + 2
            lives.add(store.position.life)
    assert len(lives) == 8 and all(re.fullmatch("[0-9a-f]{16}", life) for life in lives)
    assert commits == [1, 3, 5, 7]


def test_numbers_only_rise(path: Path) -> None:
    with opened(path) as store:
        store.write([key_number(7), base(9), Persist("key-number", ("other", 1, "SEAK"), 4)])
        store.submit([key_number(3)]).result()
        store.write([key_number(3), Persist("smk-counter-base", (), None)])
        futures = [store.submit([key_number(n)]) for n in (5, 11, 6)]
        for future in futures:
            future.result()
        store.write([Persist("tek", (n,), TEK(bytes(16))) for n in range(3000)] + [base(12)])
        assert (store.position.key_number, store.position.smk_base) == (11, 12)
    with opened(path) as store:
        assert (store.position.key_number, store.position.smk_base) == (11, 12)


def test_a_write_that_fails_moves_nothing(path: Path) -> None:
    with opened(path) as store:
        store.write([key_number(1)])
        before = store.position
        with pytest.raises(StoreError, match="not among the types"):
            store.write([key_number(9), Persist("odd", (), object())])
        assert store.position == before
        store.load()
        store.write([key_number(2)])
        assert store.restored is None
        assert (store.position.key_number, store.position.commit) == (2, before.commit + 2)


def test_a_crash_before_the_first_rows_does_not_hide_the_gap(path: Path, clock: Clock) -> None:
    with opened(path, clock) as store:
        store.write(counters(1))
    for _ in range(3):  # killed each time before what moves on with the gap was stored
        clock.now += 50
        with opened(path, clock) as store:
            gap = store.gap
            store.submit([], []).result()
    assert gap == 150.0
    with opened(path, clock) as store:
        store.write(counters(2))
    with opened(path, clock) as store:
        assert store.gap == 0.0
        clock.now -= 1000
    with opened(path, clock) as store:
        assert store.gap == 0.0  # the clock went back


# --- put back -----------------------------------------------------------------------------------------------------------


def by_backup(path: Path, _: SqliteStore) -> None:
    """What an operator's ``sqlite3 bsm.db ".backup old/bsm.db"`` does."""
    copy = sqlite3.connect(path.parent / "old" / path.name)
    (path.parent / "old" / path.name).chmod(0o600)
    own = sqlite3.connect(path)
    own.backup(copy)
    own.close()
    copy.close()


def by_cp(path: Path, _: SqliteStore) -> None:
    for file in files(path):
        shutil.copy(file, path.parent / "old" / file.name)


def by_method(path: Path, store: SqliteStore) -> None:
    store.backup(path.parent / "old" / path.name)


@pytest.mark.parametrize("copy", [by_backup, by_cp, by_method])
@pytest.mark.parametrize("stopped", [True, False])
def test_a_copy_put_back(path: Path, clock: Clock, copy: Callable[[Path, SqliteStore], None], stopped: bool) -> None:
    (path.parent / "old").mkdir(mode=0o700)
    with opened(path, clock) as store:
        store.write([key_number(3), base(16)])
        copy(path, store)
        clock.now += 600
        store.write([key_number(8), base(1 << 40)])
        store.write(counters(1))
        last = store.position
        if not stopped:
            path = crashed(path, path.parent / "dead")
    put_back((path.parent if stopped else path.parent.parent) / "old", path)
    clock.now += 100
    for again in range(3):  # until it is taken into service
        with opened(path, clock) as store:
            assert store.restored == Restored("the witness is 2 commits ahead", START, START + 600)
            assert store.gap == 700.0
            assert store.position.commit == last.commit + 1 + again
            assert (store.position.key_number, store.position.smk_base) == (8, 1 << 40)
            assert store.load()["key-number"] == {("urn:service", 1, "SEK"): 3}
    with opened(path, clock) as store:
        store.write(counters(2))
        store.take_into_service()
        assert store.restored is None
    with opened(path, clock) as store:
        assert store.restored is None and store.gap == 0.0


def test_a_log_that_is_lost(path: Path, tmp_path: Path) -> None:
    """The write-ahead log holds what was stored last; without it the database is older, or empty."""
    with opened(path) as store:
        store.write(counters(1))
        now = crashed(path, tmp_path / "dead")
    siblings(now)[1].unlink()
    siblings(now)[2].unlink()
    with opened(now) as store:
        assert store.restored is not None and store.restored.why == "the witness knows of commit 2, the database is empty"
    with opened(path) as store:  # the log of one life only
        store.write(counters(1))
        now = crashed(path, tmp_path / "again")
    siblings(now)[1].unlink()
    siblings(now)[2].unlink()
    with opened(now) as store:
        assert store.restored is not None and store.restored.why == "the witness is of another life"


def test_a_database_that_is_gone(path: Path, clock: Clock) -> None:
    with opened(path, clock) as store:
        store.write([key_number(8), base(77)])
    for file in files(path):
        file.unlink()
    clock.now += 5
    with opened(path, clock) as store:
        assert store.restored == Restored("the witness knows of commit 2, the database is empty", 0.0, START)
        assert store.gap == 5.0
        assert store.position == Position(store.position.life, 3, clock.now, 8, 77)


@pytest.mark.parametrize("content", [None, b"", b"x", bytes(2 * SLOT), b" " * 2 * SLOT])
def test_a_witness_that_is_gone_or_cannot_be_read(path: Path, clock: Clock, content: bytes | None) -> None:
    with opened(path, clock) as store:
        store.write(counters(1))
    clock.now += 60
    witness_of(path).unlink()
    if content is not None:
        witness_of(path).touch(0o600)
        witness_of(path).write_bytes(content)
    with opened(path, clock) as store:
        why = "there is no witness" if content is None else "the witness cannot be read"
        assert store.restored == Restored(why, START, START + 60)
        store.take_into_service()
    kept = witness_of(path).with_name(witness_of(path).name + ".unreadable")
    assert kept.exists() == (content is not None)
    assert content is None or kept.read_bytes() == content
    with opened(path, clock) as store:
        assert store.restored is None


def test_two_verdicts_are_one(path: Path, tmp_path: Path, clock: Clock) -> None:
    with opened(path, clock) as store:
        store.write(counters(1))
    copied(path, tmp_path / "old")
    clock.now += 100
    with opened(path, clock) as store:
        store.write(counters(2))
    put_back(tmp_path / "old", path)
    with opened(path, clock) as store:
        assert store.restored == Restored("the witness is of another life", START, START + 100)
    clock.now += 100
    witness_of(path).unlink()
    with opened(path, clock) as store:
        assert store.restored == Restored("the witness is of another life", START, START + 200)


def test_a_restore_that_nobody_notices(path: Path, tmp_path: Path, clock: Clock) -> None:
    """Database and witness from one old copy of the machine: only what peers have heard tells."""
    with opened(path, clock) as store:
        store.write([key_number(3)])
    copied(path, tmp_path / "old")
    shutil.copytree(witness_of(path).parent, tmp_path / "old-witness")
    clock.now += 100
    with opened(path, clock) as store:
        store.write([key_number(8), base(1 << 40)])
        told, last = store.token(), store.position
    put_back(tmp_path / "old", path)
    shutil.rmtree(witness_of(path).parent)
    shutil.copytree(tmp_path / "old-witness", witness_of(path).parent)
    clock.now += 100
    with opened(path, clock) as store:
        assert store.gap == 200.0  # what leaves COUNTERs behind all the same
        assert store.behind(told)
        verdict = store.found_ahead(told, "urn:bsda1")
        assert verdict == Restored("urn:bsda1 has heard of commit 4, the database is at 3", START, START + 100)
        assert store.restored == verdict
        assert store.position == Position(store.position.life, last.commit + 1, clock.now, 8, 1 << 40)
        assert not store.behind(told) and store.found_ahead(told, "urn:bsda2") is None
    with opened(path, clock) as store:
        assert store.restored == verdict
        store.take_into_service()
    with opened(path, clock) as store:
        assert store.restored is None


def test_without_a_witness_there_is_no_verdict(path: Path) -> None:
    for _ in range(2):
        with SqliteStore(path, KEK_A) as store:
            assert store.restored is None
            store.write(counters(1))
    assert sorted(file.name for file in path.parent.iterdir()) == ["bsm.db", "bsm.db-lock"]


# --- the witness --------------------------------------------------------------------------------------------------------


def test_the_witness_is_text_that_only_its_owner_can_read(path: Path) -> None:
    mask = os.umask(0)
    try:
        with opened(path) as store:
            store.write([key_number(5)])
            position = store.position
    finally:
        os.umask(mask)
    witness = witness_of(path)
    assert stat.S_IMODE(witness.stat().st_mode) == 0o600 and stat.S_IMODE(witness.parent.stat().st_mode) == 0o700
    lines = witness.read_text(encoding="ascii").splitlines()
    assert len(lines) == 2 and witness.stat().st_size == 2 * SLOT
    assert all(f'"owner":"{ME}"' in line for line in lines)
    assert any(f'"life":"{position.life}","commit":2,"time":{START},"key_number":5' in line for line in lines)
    assert [file.name for file in witness.parent.iterdir()] == [witness.name]


def test_another_ones_witness_is_refused(path: Path) -> None:
    opened(path).close()
    with pytest.raises(StoreError, match=r"witness/bsm.db is the witness of urn:bsm, not of urn:other$"):
        SqliteStore(path.with_name("other.db"), KEK_A, owner="urn:other", witness=witness_of(path))
    with opened(path), pytest.raises(StoreInUse, match="is the witness of another database that is in use"):
        SqliteStore(path.with_name("second.db"), KEK_A, owner=ME, witness=witness_of(path))
    with opened(path) as store:
        assert store.restored is None


def test_an_id_that_is_too_long_for_a_witness(path: Path) -> None:
    with pytest.raises(StoreError, match=r"the id urn:x+\.\.\. is too long for a witness"):
        SqliteStore(path, KEK_A, owner="urn:" + "x" * 400, witness=witness_of(path))
    SqliteStore(path.with_name("b.db"), KEK_A, owner="urn:" + "x" * 196, witness=witness_of(path)).close()


def _link(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _open_to_others(path: Path) -> None:
    path.touch()
    path.chmod(0o640)


def _open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_link, "the witness cannot be used: Too many levels of symbolic links"), (_fifo, "is not a regular file"),
        (Path.mkdir, "the witness cannot be used: Is a directory"),
        (_open_to_others, "has mode 0640, others may read it: chmod 600"), (_open_folder, "is writable for everyone"),
    ],
)  # fmt: skip
def test_a_place_that_is_not_fit_for_a_witness(path: Path, make: Callable[[Path], None], match: str) -> None:
    witness = witness_of(path)
    witness.parent.mkdir(mode=0o700)
    (witness.parent / "precious").write_text("content")
    make(witness)
    with pytest.raises(StoreError, match=match):
        opened(path)
    assert (witness.parent / "precious").read_text() == "content"


def test_a_folder_that_cannot_be_made(path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/witness/bsm\.db: the witness cannot be used: No such file or directory"):
        SqliteStore(path, KEK_A, owner=ME, witness=path.parent / "nowhere" / "witness" / "bsm.db")


def test_a_torn_slot_costs_one_commit(path: Path) -> None:
    with opened(path) as store:
        store.write(counters(1))
        store.write(counters(2))
        newest = store.position.commit
    whole = witness_of(path).read_bytes()
    for place in range(0, 2 * SLOT, 7):
        found = bytearray(whole)
        found[place : (place // SLOT + 1) * SLOT] = bytes((place // SLOT + 1) * SLOT - place)
        witness_of(path).write_bytes(found)
        witness = Witness(witness_of(path), ME)
        assert witness.found is not None and witness.found.commit >= newest - 1
        witness.close()
    with opened(path) as store:
        assert store.restored is None


def test_every_flipped_bit_of_a_stamp_is_seen() -> None:
    line = encode(stamp("a", 7)).encode()
    for place in range(len(line)):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            with pytest.raises(StoreDamaged):
                decode(changed.decode("utf-8", "surrogateescape"), Stamp)
    for strange in (None, 5, b"x", "", "{} 00000000", encode([]), encode({"life": 5})):
        with pytest.raises(StoreDamaged):
            decode(strange, Stamp)


@pytest.mark.parametrize("name", ["position", "restored"])
def test_a_damaged_stamp_in_the_database(path: Path, name: str) -> None:
    opened(path).close()
    other = sqlite3.connect(path)
    other.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, encode(stamp("a", 7))[:-1] + "x"))
    other.commit()
    other.close()
    with pytest.raises(StoreDamaged, match=rf"bsm.db: table meta, {name}: damaged \(checksum\)"):
        opened(path)


def _fails(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("call", "number"), [("pwrite", errno.ENOSPC), ("pwrite", errno.EIO), ("pwrite", None)])
def test_a_witness_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int | None) -> None:
    with opened(path) as store:
        store.write(counters(1))
        before = store.position
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _fails(number) if number else lambda *_: 5)
            with pytest.raises(StoreError, match=r"witness/bsm\.db: the witness cannot be used: "):
                store.write(counters(2))
            assert store.position == before  # nothing may leave: nobody is told of what the witness does not know
            with pytest.raises(StoreStopped):
                store.write(counters(3))
            with pytest.raises(StoreStopped):
                store.take_into_service()
            with pytest.raises(StoreError):
                store.load()
        assert store.load()["smk-counter"] == {("subscriber-1",): 1, ("subscriber-2",): 2}  # as a crash leaves it
        assert store.restored is None
        store.write(counters(3))
    with opened(path) as store:
        assert store.restored is None


def test_a_disk_that_fails_when_the_witness_goes_to_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.store.sqlite.SYNC", 0.0)
    with opened(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", _fails(errno.EIO))
            store.write(counters(1))
            with pytest.raises(StoreStopped, match="the witness cannot be used: Input/output error"):
                while True:  # the disk is asked after the write was acknowledged
                    store.write(counters(1))
        store.load()
        store.write(counters(2))
        assert store.restored is None


def test_a_full_disk_is_no_restore(path: Path) -> None:
    with opened(path) as store:
        store._database.query("PRAGMA max_page_count = 40")
        with pytest.raises(StoreError):
            for n in range(1000):
                store.write([Persist("period", (n,), bytes(5000))])
        rows = len(store.load()["period"])
        assert store.restored is None
        store.write([Persist("period", (rows,), bytes(5000))])
        assert len(store.load()["period"]) == rows + 1
    with opened(path) as store:
        assert store.restored is None


def test_the_witness_goes_to_the_disk_once_a_second_and_when_idle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    real = os.fdatasync

    def sync(handle: int) -> None:
        real(handle)
        synced.append(witness_of(path).read_bytes())

    monkeypatch.setattr(os, "fdatasync", sync)
    moments = iter([*[1000.0] * 400, *[1001.5] * 10_000])
    monkeypatch.setattr("pybcast.store.sqlite.time.monotonic", lambda: next(moments, 1001.5))
    with opened(path) as store:
        opening = len(synced)
        for n in range(50):
            store.write(counters(n))
        assert len(synced) - opening < 5
    assert synced[-1] == witness_of(path).read_bytes()


# --- killed -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.close()


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_every_call_of_an_opening_and_a_write(children: Children, tmp_path: Path, first: bool) -> None:
    """No false verdict after it; and what was acknowledged is missed when the copy from before is put back."""
    model = tmp_path / "model" / "bsm.db"
    model.parent.mkdir(mode=0o700)
    if not first:
        with opened(model) as store:
            store.write(counters(1))
    shutil.copytree(model.parent, tmp_path / "tried")
    for step in children.deaths("step", tmp_path / "tried" / "bsm.db"):
        path = tmp_path / str(step) / "bsm.db"
        shutil.copytree(model.parent, path.parent)
        found = children.run("step", step, path)
        old = path.parent / "old"
        copied(model, old)
        shutil.copytree(path.parent, now := path.parent.with_name("now"))
        for _ in range(2):
            database = Database(now / path.name, KEK_A, owner=ME, witness=witness_of(now / path.name))
            assert database.progress.restored is None, f"call {step}"
            put(database, *counters(2))
            database.close()
        shutil.rmtree(now)
        put_back(old, path)
        database = Database(path, KEK_A, owner=ME, witness=witness_of(path))
        assert database.progress.restored is not None or not found, f"call {step}"
        database.close()
        shutil.rmtree(path.parent)


def test_what_was_acknowledged_is_missed(children: Children, path: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    opened(path).close()
    for n in range(5):
        copied(path, old := tmp_path / f"old-{n}")
        assert children.run("write", n, path, rng.randrange(1, 20), rng.randrange(100_000))
        put_back(old, path)
        with opened(path) as store:
            assert store.restored is not None
            store.take_into_service()


def test_power_cuts_are_no_restores(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one the database is as it was acknowledged; the witness as it went to the disk last, or any slot newer than that."""
    disk = [b""]
    real = os.fdatasync

    def sync(handle: int) -> None:
        real(handle)
        disk[0] = os.pread(handle, 2 * SLOT, 0)

    monkeypatch.setattr(os, "fdatasync", sync)
    rng = random.Random(6)
    for _ in range(150):
        database = Database(path, KEK_A, owner=ME, witness=witness_of(path))
        assert database.progress.restored is None
        for n in range(rng.randrange(4)):
            put(database, *counters(n))
            if rng.random() < 0.2:
                database.progress.sync()
        database.close()
        slots = [rng.choice([content[n : n + SLOT] for content in (disk[0], witness_of(path).read_bytes())]) for n in (0, SLOT)]
        witness_of(path).write_bytes(b"".join(slots))


# --- tokens -------------------------------------------------------------------------------------------------------------


def test_a_token_says_where_a_store_is(path: Path, clock: Clock) -> None:
    with opened(path, clock) as store:
        store.write([key_number(5), base((1 << 63) - 1)])
        token = store.token()
        assert token is store.token()
        assert re.fullmatch(r"2\.4000000000\.5\.9223372036854775807\.[A-Za-z0-9_-]{22}", token)
        assert not store.behind(token) and store.found_ahead(token, "urn:a") is None
        store.write(counters(1))
        assert store.token() != token
        store.rotate_kek(KEK_B)
        assert Tokens(KEK_B, ME).genuine(store.token())
        assert not Tokens(KEK_A, ME).genuine(store.token())
    highest = Position("", (1 << 48) - 1, 9_999_999_999.0, (1 << 63) - 1, (1 << 63) - 1)
    assert len(Tokens(KEK_A, ME).of(highest)) < 100
    assert token_position(Tokens(KEK_A, ME).of(highest)) == highest


def test_nobody_else_can_make_one(path: Path, clock: Clock) -> None:
    true = Tokens(KEK_A, ME).of(Position("", 900, START + 7, 50, 1 << 40))
    assert Tokens(KEK_A, ME).genuine(true)
    assert not Tokens(KEK_A, "urn:other").genuine(true) and not Tokens(KEK_B, ME).genuine(true)
    for place in range(len(true)):
        for letter in "05A-_":
            changed = true[:place] + letter + true[place + 1 :]
            assert changed == true or not Tokens(KEK_A, ME).genuine(changed)
    forged = true.replace("900.", "800.")
    with opened(path, clock) as store:
        far = true.replace("900.", f"{(1 << 48) - 1}.")
        assert not store.behind(far) and store.found_ahead(far, "urn:liar") is None  # no room would be left for commits
        assert store.behind(forged)
        verdict = store.found_ahead(forged, "urn:liar")
        assert verdict == Restored("urn:liar has heard of commit 800, the database is at 1", 0.0, START)
        assert (store.position.commit, store.position.key_number, store.position.smk_base) == (801, 0, 0)
        store.take_into_service()
        assert store.found_ahead(forged.replace("800.", "870."), "urn:liar") is None  # once
        assert (store.position.commit, store.restored) == (802, None)
        clock.now += 100
        assert store.found_ahead(true, "urn:a") == Restored("urn:a has heard of commit 900, the database is at 802", 0.0, START + 7)
        assert (store.position.commit, store.position.key_number, store.position.smk_base) == (901, 50, 1 << 40)


MAC: Final = "A" * 22
STRANGE: Final = [
    "", "x", "1", "1.2.3.4", f"1.2.3.4.{MAC[1:]}", f"1.2.3.4.{MAC}A", f"-1.2.3.4.{MAC}", f"900.2.3.4.{'=' * 22}",
    f"{1 << 48}.2.3.4.{MAC}", f"900.2.{1 << 63}.4.{MAC}", f"900.2.3.{1 << 63}.{MAC}", f"900.2.3.4.{MAC}\n",
    f"٩.2.3.4.{MAC}", "9" * 10_000, f"900.2.3.4.{MAC}" + "\0" * 200, "900.2.3.4." + "é" * 22, f"\ud800.2.3.4.{MAC}",
]  # fmt: skip


@pytest.mark.parametrize("token", STRANGE)
def test_what_is_no_token(path: Path, token: str) -> None:
    with opened(path) as store:
        assert not store.behind(token)
        assert store.found_ahead(token, "urn:a") is None
        store.note_heard("urn:a", token)
        assert store.heard("urn:a") == ""


def _told(commit: int) -> str:
    return Tokens(KEK_B, "urn:peer").of(replace(BLANK, commit=commit))


def test_what_peers_say_is_kept(path: Path) -> None:
    with opened(path) as store:
        assert store.heard("urn:a") == ""
        for commit in (5, 9, 7):
            store.note_heard("urn:a", _told(commit))
        assert store.heard("urn:a") == _told(9)
        store.write(counters(1))
        store.note_heard("urn:b", _told(3))
        store.note_heard("urn:a", _told(12))
        at = store.position.commit
    assert at == 2  # a transaction of its own it has not
    with opened(path) as store:
        assert (store.heard("urn:a"), store.heard("urn:b")) == (_told(9), "")
        for n in range(200):
            store.note_heard(f"urn:{n}", _told(n))
        store.note_heard("x" * 600, _told(1))
        store.note_heard("urn:a", _told(20))
        assert store.heard("urn:a") == _told(20)
        store._database.query("CREATE TRIGGER full BEFORE INSERT ON row BEGIN SELECT RAISE(FAIL, 'no'); END")
        with pytest.raises(StoreError):
            store.write(counters(2))
        store._database.query("DROP TRIGGER full")
        store.load()
        assert store.heard("urn:a") == _told(20)
        store.write(counters(2))
    reader = Database(path, None, readonly=True)
    assert reader.query("SELECT count(*) FROM heard") == [(64,)]
    reader.close()
