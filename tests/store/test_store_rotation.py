# SPDX-License-Identifier: Apache-2.0
"""The key-encryption key changes: everything is wrapped anew, nothing is lost on the way, the old key opens nothing afterwards."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from store_support import KEK_A, KEK_B, counters, put, states_differ

from pybcast.errors import StoreError
from pybcast.flows import Persist, Subscriber
from pybcast.keys import KEK, SMK, TEK
from pybcast.secret import Secret
from pybcast.store import Database, SqliteStore, StoreDamaged, WrongKek, kek_id
from pybcast.store.files import siblings
from pybcast.store.wrapping import RowWrap, row_place

ROWS: Final = [
    *(Persist("subscriber", (f"s-{n}",), Subscriber(id=f"s-{n}", smk=SMK(n.to_bytes(32, "big")))) for n in range(1, 1200)),
    *(Persist("odd", (n,), (Secret(bytes([n]) * n), "text", frozenset({n}))) for n in range(30)),
    *counters(*range(300)),
]
STATE: Final = {table: {row.key: row.value for row in ROWS if row.table == table} for table in ("subscriber", "odd", "smk-counter")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "test.db"
    database = Database(path, KEK_A)
    database.commit_stream(iter(ROWS))
    database.close()
    return path


def _old_bytes(folder: Path, kek: KEK) -> list[str]:
    """Where keys still stand wrapped under ``kek``."""
    wrap = RowWrap(kek)
    wrapped = [
        wrap.wrap(Secret(n.to_bytes(32, "big")), row_place("subscriber", f"s-{n}") + b"SMK 32 1 ") for n in (1, 2, 600, 1199)
    ]
    return [file.name for file in folder.iterdir() if any(each in file.read_bytes() for each in wrapped)]


def test_everything_is_wrapped_anew(path: Path) -> None:
    assert _old_bytes(path.parent, KEK_A) == ["test.db"]
    with SqliteStore(path, KEK_A) as store:
        assert store.stats().kek_id == kek_id(KEK_A)
        store.rotate_kek(KEK_B)
        assert store.stats().kek_id == kek_id(KEK_B)
        assert not store.rotating
        assert states_differ(store.load(), STATE) == []
        assert _old_bytes(path.parent, KEK_A) == []
        assert _old_bytes(path.parent, KEK_B) != []
        store.rotate_kek(KEK_B)  # nothing to do
    assert _old_bytes(path.parent, KEK_A) == []
    with pytest.raises(WrongKek):
        Database(path, KEK_A)
    database = Database(path, KEK_B)
    assert states_differ(database.load(), STATE) == []
    assert database.query("SELECT id, name, wrapped FROM kek") == [(2, kek_id(KEK_B), None)]
    database.close()


def test_back_and_forth(path: Path) -> None:
    with SqliteStore(path, KEK_A) as store:
        for kek in (KEK_B, KEK_A, KEK(bytes(24)), KEK_A):
            store.rotate_kek(kek)
        assert states_differ(store.load(), STATE) == []
        assert store.stats().kek_id == kek_id(KEK_A)


def test_writes_go_on_meanwhile(path: Path) -> None:
    database = Database(path, KEK_A)
    expected = {table: dict(rows) for table, rows in STATE.items()}
    database.rotate_begin(KEK_B)
    steps = 0
    while database.rotate_step(100):
        steps += 1
        changes = [Persist("subscriber", (f"s-{n}",), Subscriber(id="new", smk=SMK(bytes(32)))) for n in (steps, 1200 - steps)]
        changes += [Persist("tek", (steps,), TEK(bytes(16))), Persist("odd", (steps,), None)]
        put(database, *changes)
        for change in changes:
            rows = expected.setdefault(change.table, {})
            rows[change.key] = change.value
            if change.value is None:
                del rows[change.key]
    assert steps > 10
    assert states_differ(database.load(), expected) == []
    database.close()
    database = Database(path, KEK_B)
    assert states_differ(database.load(), expected) == []
    database.close()


def _interrupted(path: Path, folder: Path, steps: int) -> Path:
    """The files as a process leaves them that dies after so many steps."""
    database = Database(path, KEK_A)
    database.rotate_begin(KEK_B)
    for _ in range(steps):
        database.rotate_step(300)
    copy = folder / f"after-{steps}" / path.name
    copy.parent.mkdir(mode=0o700)
    for file in siblings(path)[:2]:
        shutil.copy(file, copy.parent / file.name)
    database.close()
    return copy


@pytest.mark.parametrize("steps", range(7))
def test_an_interrupted_change_is_finished(path: Path, tmp_path: Path, steps: int) -> None:
    copy = _interrupted(path, tmp_path, steps)
    done = steps == 6
    with pytest.raises(WrongKek) as caught:
        Database(copy, KEK_A)
    if not done:
        message = f"the key-encryption key is being changed to {kek_id(KEK_B)}: open with that one"
        assert str(caught.value) == message
    with SqliteStore(copy, KEK_B) as store:
        assert store.rotating == (not done)
        assert states_differ(store.load(), STATE) == []  # both keys are at hand
        assert dict(store.rows("odd")) == STATE["odd"]
        store.finish_rotation()
        assert not store.rotating
        assert states_differ(store.load(), STATE) == []
    assert _old_bytes(copy.parent, KEK_A) == []


def test_the_next_change_finishes_the_one_before(path: Path, tmp_path: Path) -> None:
    copy = _interrupted(path, tmp_path, 2)
    with SqliteStore(copy, KEK_B) as store:
        store.rotate_kek(KEK(bytes(24)))
        assert states_differ(store.load(), STATE) == []
    database = Database(copy, KEK(bytes(24)))
    assert database.query("SELECT name FROM kek") == [(kek_id(KEK(bytes(24))),)]
    database.close()


def test_one_change_at_a_time(path: Path) -> None:
    database = Database(path, KEK_A)
    database.rotate_begin(KEK_B)
    with pytest.raises(StoreError, match="is being changed already"):
        database.rotate_begin(KEK_A)
    database.close()


def test_who_has_the_old_key_cannot_get_the_new_one(path: Path, tmp_path: Path) -> None:
    copy = _interrupted(path, tmp_path, 1)
    under_old = aes_key_wrap(KEK_A.reveal(), KEK_B.reveal())
    assert not any(under_old in file.read_bytes() for file in copy.parent.iterdir())
    under_new = aes_key_wrap(KEK_B.reveal(), KEK_A.reveal())
    assert any(under_new in file.read_bytes() for file in copy.parent.iterdir())


def test_a_damaged_row_is_named_and_can_be_dropped(path: Path) -> None:
    database = Database(path, KEK_A)
    database.query("UPDATE row SET crc = crc + 1 WHERE key = 's-700'")
    database.rotate_begin(KEK_B)
    with pytest.raises(StoreDamaged, match=r"table 'subscriber', key \('s-700',\): damaged \(checksum\)"):
        for _ in range(20):
            database.rotate_step(300)
    put(database, Persist("subscriber", ("s-700",), None))
    while database.rotate_step():
        pass
    assert len(database.load()["subscriber"]) == 1198
    database.close()


def test_a_server_lives_on_with_a_change_that_cannot_be_finished(path: Path) -> None:
    with SqliteStore(path, KEK_A) as store:
        store._database.query("UPDATE row SET crc = crc + 1 WHERE key = 's-700'")
        with pytest.raises(StoreDamaged, match="s-700"):
            store.rotate_kek(KEK_B)
        assert store.rotating
        store.write([Persist("subscriber", ("s-700",), STATE["subscriber"][("s-700",)])])
        store.finish_rotation()
        assert states_differ(store.load(), STATE) == []


def test_the_key_before_is_damaged(path: Path, tmp_path: Path) -> None:
    copy = _interrupted(path, tmp_path, 1)
    other = sqlite3.connect(copy)
    other.execute("UPDATE kek SET wrapped = ? WHERE wrapped IS NOT NULL", (bytes(40),))
    other.commit()
    other.close()
    with pytest.raises(StoreDamaged, match="the key-encryption key before this one is damaged"):
        Database(copy, KEK_B)


def test_a_row_under_a_key_that_is_gone(path: Path) -> None:
    database = Database(path, KEK_A)
    ((seq, number, value, info),) = database.query("SELECT seq, tbl, value, info FROM row WHERE key = 's-7'")
    assert isinstance(seq, int) and isinstance(number, int) and isinstance(value, bytes) and isinstance(info, str)
    crc = database._crc(number, "s-7", value, 9, info) + seq
    database.query("UPDATE row SET kek = 9, crc = ? WHERE key = 's-7'", (crc,))
    with pytest.raises(StoreDamaged, match=r"key \('s-7',\): wrapped under a key-encryption key that is gone"):
        database.load()
    database.close()


@pytest.fixture(autouse=True)
def _no_temporary_files(tmp_path: Path) -> Iterator[None]:
    yield
    names = {"test.db", "test.db-wal", "test.db-shm", "test.db-lock"}
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} <= names
