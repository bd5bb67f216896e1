# SPDX-License-Identifier: Apache-2.0
"""Copies: made while the server writes, and complete.  That one was put back is noticed: see ``test_store_restored``."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from store_children import witness_of
from store_support import KEK_A, KEK_B, Children, after, counters, states_differ

from pybcast.errors import StoreError
from pybcast.flows import BSM, Persist, Right, Start
from pybcast.flows.events import Output
from pybcast.flows.journal import Journal
from pybcast.flows.stream.allocator import SmkCounters
from pybcast.keys import TEK
from pybcast.store import Copy, Database, PutBack, Restored, SqliteStore, StoreDamaged, StoreInUse, WrongKek, backup, restore
from pybcast.store.files import siblings
from pybcast.testing.parties import FQDN, make_card
from pybcast.testing.scripts import START, streams
from pybcast.testing.sim import BSM_ID


def test_a_copy_is_the_whole_at_one_moment(tmp_path: Path) -> None:
    rows = [Persist("tek", (n,), TEK(n.to_bytes(16, "big"))) for n in range(2000)]
    stop = threading.Event()
    with SqliteStore(tmp_path / "bsm.db", KEK_A, owner="urn:bsm") as store:
        store.write(rows)

        def go_on() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                store.write([Persist("a", (), n), Persist("b", (), n)])

        writer = threading.Thread(target=go_on)
        writer.start()
        for n in range(5):
            store.backup(tmp_path / f"copy-{n}.db")
        stop.set()
        writer.join()
    last = 0
    for n in range(5):
        path = tmp_path / f"copy-{n}.db"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(WrongKek):
            SqliteStore(path, KEK_B)
        with SqliteStore(path, KEK_A, owner="urn:bsm") as copy:
            state = copy.load()
            assert states_differ({"tek": state["tek"]}, after([rows])) == []
            assert state.get("a") == state.get("b")  # never half a write
            number = state.get("a", {}).get((), 0)
            assert isinstance(number, int) and number >= last
            last = number
            copy.write(counters(1))
            assert copy.load()["smk-counter"] == {("subscriber-1",): 1}


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    with SqliteStore(tmp_path / "bsm.db", KEK_A) as store:
        with pytest.raises(StoreError, match="precious exists"):
            store.backup(tmp_path / "precious")
        with pytest.raises(StoreError, match="No such file"):
            store.backup(tmp_path / "nowhere" / "copy.db")
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        with pytest.raises(StoreError, match="writable for everyone"):
            store.backup(tmp_path / "open" / "copy.db")
        assert list((tmp_path / "open").iterdir()) == []
    assert (tmp_path / "precious").read_text() == "content"


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no")

    with SqliteStore(tmp_path / "bsm.db", KEK_A) as store:
        store.write(counters(1))
        with monkeypatch.context() as patch:
            patch.setattr("pybcast.store.connection.sync_folder", fail)
            with pytest.raises(OSError, match="no"):
                store.backup(tmp_path / "copy.db")
        assert not list(tmp_path.glob("copy*"))
        (tmp_path / "copy.db.part").write_text("of one that was killed")
        store.backup(tmp_path / "copy.db")
        assert {file.name for file in tmp_path.glob("copy*")} == {"copy.db"}


def test_counters_jump_after_a_restore(tmp_path: Path) -> None:
    """As a server does it: the jump is stored, then the mark goes; killed in between, it jumps once more and nothing is lost."""
    rng = random.Random(1)
    config = streams()[0]
    party = make_card(rng, "alice", START)
    right = Right(service=config.service, stream=config.stream, start=int(START), end=int(START) + 10**6)

    def machine(store: SqliteStore) -> BSM:
        return BSM(
            me=BSM_ID, fqdn=FQDN, streams=[config], randomness=rng.randbytes, rights_issuer_id=bytes(20), state=store.load(),
            start=Start(gap=store.gap, restored=store.restored),
        )  # fmt: skip

    def carry_out(store: SqliteStore, outputs: list[Output]) -> None:
        store.write([output for output in outputs if isinstance(output, Persist)])

    def counter(store: SqliteStore) -> int:
        return SmkCounters(Journal(store.load())).last("alice")

    def open_it() -> SqliteStore:
        return SqliteStore(tmp_path / "bsm.db", KEK_A, witness=tmp_path / "witness" / "bsm")

    with open_it() as store:
        bsm = machine(store)
        carry_out(store, bsm.tick(START))
        carry_out(store, bsm.add_subscriber(party.subscriber, START, party.registration))
        carry_out(store, bsm.grant("alice", right, START))
        store.backup(tmp_path / "copy.db")
        carry_out(store, bsm.tick(START + 1))
        before = counter(store)
        assert 0 < before < 1000
    (tmp_path / "copy.db").replace(tmp_path / "bsm.db")
    with open_it() as store:
        carry_out(store, machine(store).tick(START + 5))
        first = counter(store)
        assert first >= before + (1 << 16)
    with open_it() as store:  # killed before it was taken into service
        carry_out(store, machine(store).tick(START + 6))
        store.take_into_service()
        second = counter(store)
        assert second >= first + (1 << 16)
    with open_it() as store:
        carry_out(store, machine(store).tick(START + 7))
        assert second <= counter(store) < second + 1000


# --- backup and restore ---------------------------------------------------------------------------------------------------

ME: Final = "urn:bsm"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database of a stopped server with more in it than in ``copy.db``."""
    path = tmp_path / "bsm.db"
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path), clock=lambda: START) as store:
        store.write([*counters(1), Persist("tek", (1,), TEK(bytes(16)))])
        assert backup(path, tmp_path / "copy.db", owner=ME) == Copy(ME, 2, START, (tmp_path / "copy.db").stat().st_size)
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path), clock=lambda: START + 60) as store:
        store.write(counters(2))
    return path


def put_back(path: Path, copy: Path | None = None) -> PutBack:
    return restore(path, copy or path.with_name("copy.db"), KEK_A, owner=ME, witness=witness_of(path))


def content(path: Path) -> dict[str, int]:
    """Of ``smk-counter``, and whether a server that starts notices."""
    with contextlib.closing(Database(path, KEK_A, owner=ME, readonly=True)) as reader:
        return {str(key[0]): int(str(value)) for key, value in reader.load()["smk-counter"].items()}


OLD: Final = {"subscriber-1": 1}
NEW: Final = {"subscriber-1": 1, "subscriber-2": 2}


def test_a_backup_is_one_file_that_only_its_owner_can_read(path: Path) -> None:
    copy = path.with_name("copy.db")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert content(copy) == OLD
    assert not [file.name for file in path.parent.iterdir() if file.name.startswith("copy.db-")]
    with pytest.raises(StoreError, match=r"copy\.db exists$"):
        backup(path, copy, owner=ME)
    with pytest.raises(StoreError, match="is the memory of urn:bsm, not of urn:other"):
        backup(path, path.with_name("second.db"), owner="urn:other")
    with pytest.raises(StoreError, match=r"none\.db: No such file"):
        backup(path.with_name("none.db"), path.with_name("second.db"), owner=ME)
    path.with_name("link.db").symlink_to(path.with_name("elsewhere"))
    with pytest.raises(StoreError, match=r"link\.db exists$"):
        backup(path, path.with_name("link.db"), owner=ME)
    assert not path.with_name("second.db").exists()


def test_a_copy_is_put_back_and_noticed(path: Path) -> None:
    done = put_back(path)
    assert (done.copy.commit, done.lost_from, done.lost_to) == (2, START, START + 60)
    assert done.kept is not None
    assert {file.name for file in path.parent.iterdir()} == {"bsm.db", "bsm.db-lock", "copy.db", done.kept.name, "witness"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert content(path) == OLD and content(done.kept) == NEW
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path)) as store:
        assert store.restored == Restored("the witness is of another life", START, START + 60)
        store.take_into_service()
        store.write(counters(3))
    again = put_back(path)
    assert again.kept not in (None, done.kept)
    assert content(done.kept) == NEW and content(path) == OLD


def test_put_back_at_once_nothing_is_lost(path: Path) -> None:
    newest = path.with_name("newest.db")
    backup(path, newest, owner=ME)
    done = put_back(path, newest)
    assert done.lost_from == done.lost_to == START + 60
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path)) as store:
        assert store.restored is None


def test_put_back_where_there_is_nothing(path: Path) -> None:
    for file in path.parent.glob("bsm.db*"):
        file.unlink()
    assert put_back(path).kept is None
    assert content(path) == OLD


def test_what_a_killed_server_leaves_is_kept_whole(path: Path, tmp_path: Path) -> None:
    """Its last writes are in the log only; and a log must not stay beside the new database."""
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path)) as store:
        store.write(counters(3))
        files = {file.name: file.read_bytes() for file in siblings(path)}
    for name, data in files.items():
        path.with_name(name).touch(0o600)
        path.with_name(name).write_bytes(data)
    done = put_back(path)
    assert done.kept is not None and content(done.kept) == {**NEW, "subscriber-3": 3}
    assert content(path) == OLD


@pytest.mark.parametrize("what", ["garbage", "truncated", "log"])
def test_a_damaged_database_is_replaced_and_kept(path: Path, what: str) -> None:
    data = path.read_bytes()
    if what == "garbage":
        path.write_bytes(b"x" * 5000)
    elif what == "truncated":
        path.write_bytes(data[:5000])
    else:
        siblings(path)[1].touch(0o600)
        siblings(path)[1].write_bytes(b"x" * 5000)
    damaged = path.read_bytes()
    done = put_back(path)
    assert done.kept is not None and (what == "log" or done.kept.read_bytes() == damaged)
    assert done.lost_to == START + 60  # the witness knows
    assert content(path) == OLD


def test_a_server_that_runs_keeps_its_database(path: Path) -> None:
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path)) as store:
        with pytest.raises(StoreInUse, match=f"is in use by process {os.getpid()}"):
            put_back(path)
        store.write(counters(4))
    assert content(path) == {**NEW, "subscriber-4": 4}


def _flip(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("UPDATE row SET value = value + 1 WHERE key = 'subscriber-1'")
    other.commit()
    other.close()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def _index(path: Path) -> None:
    """A row that its index does not have."""
    other = sqlite3.connect(path)
    other.execute("PRAGMA writable_schema = ON")
    other.execute("UPDATE sqlite_schema SET sql = NULL, name = 'gone' WHERE name = 'message_log_time'")
    other.commit()
    other.close()


def _nobodys(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("DELETE FROM meta WHERE name = 'owner'")
    other.commit()
    other.close()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_flip, r"copy\.db: table 'smk-counter', key \('subscriber-1',\): damaged \(checksum\)"),
        (_cut, r"copy\.db is damaged"), (_index, r"copy\.db(: | is damaged)"),
        (lambda copy: copy.write_bytes(b"x" * 9000), r"copy\.db is damaged"),
        (lambda copy: copy.write_bytes(b""), r"copy\.db"),
        (Path.unlink, r"copy\.db: No such file"), (lambda copy: copy.chmod(0o644), "others may read it: chmod 600"),
        (_nobodys, "is the memory of nobody, not of urn:bsm"),
    ],
)  # fmt: skip
def test_a_copy_that_cannot_be_used_changes_nothing(path: Path, change: Callable[[Path], object], match: str) -> None:
    change(path.with_name("copy.db"))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(StoreError, match=match):
        put_back(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before


def test_a_copy_of_another_server_or_key(path: Path) -> None:
    with pytest.raises(StoreError, match="is the memory of urn:bsm, not of urn:other"):
        restore(path, path.with_name("copy.db"), KEK_A, owner="urn:other", witness=witness_of(path))
    with pytest.raises(WrongKek):
        restore(path, path.with_name("copy.db"), KEK_B, owner=ME, witness=witness_of(path))
    with pytest.raises(StoreError, match="is the database itself"):
        put_back(path, path)
    with pytest.raises(StoreError, match="nowhere"):
        put_back(path.parent / "nowhere" / "bsm.db", path)
    assert content(path) == NEW


def test_every_row_of_a_copy_is_looked_at(path: Path) -> None:
    """Those of subscribers with cards too, and those that refer to nobody."""
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path)) as store:
        members, journal = store.members(), Journal(store.load())
        members.bind(journal)
        card = make_card(random.Random(1), "alice", START).subscriber
        members.put([card])
        members.grant([("alice", Right(service="urn:s", stream=1, start=5, end=9))])
        members.tell(b"key", ["alice"])
        store.write([output for output in journal.take() if isinstance(output, Persist)])
    for n, damage in enumerate([
        "UPDATE member SET idr = 'x'", "UPDATE member_srk SET kek = 9", "UPDATE member_counter SET value = 5",
        "UPDATE member_right SET start = 6", "UPDATE member_told SET crc = 7", "UPDATE member_stream SET service = 'x'",
        "DELETE FROM member", "DELETE FROM member_stream", "UPDATE row SET info = 'x'", "UPDATE row SET seq = seq + 70",
        "UPDATE flow_table SET name = 'x' || name",
    ]):  # fmt: skip
        copy = path.with_name(f"copy-{n}.db")
        backup(path, copy, owner=ME)
        other = sqlite3.connect(copy)
        other.execute(damage)
        other.commit()
        other.close()
        with pytest.raises(StoreDamaged, match=rf"copy-{n}\.db: |table member"):
            put_back(path, copy)
    backup(path, path.with_name("good.db"), owner=ME)
    put_back(path, path.with_name("good.db"))


def test_killed_at_every_call_of_a_restore(path: Path, tmp_path: Path) -> None:
    """The old database or the new one, whole; and a server that starts notices the new one."""
    children = Children()
    with SqliteStore(path, KEK_A, owner=ME, witness=witness_of(path)) as store:
        store.write(counters(3))
        model = tmp_path / "model"  # as a killed server leaves it, with a log
        model.mkdir(mode=0o700)
        for file in (*siblings(path), path.with_name("copy.db")):
            shutil.copy(file, model / file.name)
        shutil.copytree(witness_of(path).parent, model / "witness")
    old, seen = {**NEW, "subscriber-3": 3}, []
    shutil.copytree(model, tmp_path / "tried")
    for step in children.deaths("restore", tmp_path / "tried" / "bsm.db"):
        here = tmp_path / "here" / "bsm.db"
        shutil.copytree(model, here.parent)
        found = children.run("restore", step, here)
        with SqliteStore(here, KEK_A, owner=ME, witness=witness_of(here)) as store:
            counts = {str(key[0]): value for key, value in store.load()["smk-counter"].items()}
            assert counts == (old if store.restored is None else OLD), f"call {step}"
            assert store.restored is not None or not found
        seen.append(counts == OLD)
        assert put_back(here).copy.commit == 2  # said again, it is done
        shutil.rmtree(here.parent)
    children.close()
    assert seen == sorted(seen) and 1 < sum(seen) < len(seen)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_root_leaves_nothing_that_the_server_cannot_use(path: Path) -> None:
    nobody = 65534
    with tempfile.TemporaryDirectory() as open_:
        Path(open_).chmod(0o755)
        home = Path(open_) / "server"
        shutil.copytree(path.parent, home)
        for file in (home, *home.rglob("*")):
            os.chown(file, nobody, nobody)
        (home / "bsm.db-lock").unlink()
        backup(home / "bsm.db", home / "second.db", owner=ME)
        done = put_back(home / "bsm.db", home / "second.db")
        assert done.kept is not None
        assert {(file.stat().st_uid, file.stat().st_gid) for file in home.rglob("*")} == {(nobody, nobody)}
        assert os.geteuid() == os.getegid() == 0
        with pytest.raises(StoreError, match="Permission denied"):  # what only root can read
            put_back(home / "bsm.db", path.with_name("copy.db"))
