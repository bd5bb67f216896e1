# SPDX-License-Identifier: Apache-2.0
"""Which databases are opened, by whom, with which key: every refusal is one clear line."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from store_support import KEK_A, KEK_B, counters, put

from pybcast.errors import ConfigError, StoreError
from pybcast.keys import KEK
from pybcast.store import Database, SqliteStore, StoreDamaged, StoreInUse, WrongKek, kek_id, load_kek
from pybcast.store import kek as kek_module
from pybcast.store.files import siblings
from pybcast.store.schema import MIGRATIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one row, closed."""
    path = tmp_path / "test.db"
    database = Database(path, KEK_A)
    put(database, *counters(1))
    database.close()
    return path


# --- files ------------------------------------------------------------------------------------------------------------


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with SqliteStore(tmp_path / "test.db", KEK_A) as store:
            store.write(counters(1))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys(["test.db", "test.db-wal", "test.db-shm", "test.db-lock"], 0o600)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_files_that_others_can_use_are_refused(path: Path, suffix: str, mode: int) -> None:
    file = path.with_name(path.name + suffix)
    file.touch()
    file.chmod(mode)
    with pytest.raises(StoreError, match=rf"test.db{suffix} has mode 0{mode:o}, others may read it: chmod 600"):
        Database(path, KEK_A)
    with pytest.raises(StoreError, match="others may read it"):
        Database(path, None, readonly=True)


def test_a_folder_that_everyone_can_write_is_refused(path: Path) -> None:
    path.parent.chmod(0o1777)
    with pytest.raises(StoreError, match="is writable for everyone"):
        Database(path, KEK_A)


@pytest.mark.parametrize("target", ["elsewhere", "folder"])
def test_only_regular_files(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(StoreError, match="is not a regular file"):
        Database(tmp_path / "link", KEK_A)
    assert not (tmp_path / "elsewhere").exists()


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "test.db-lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match=r"test.db-lock"):
        Database(tmp_path / "test.db", KEK_A)
    assert (tmp_path / "precious").read_text() == "content"


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: No such file or directory$"):
        Database(tmp_path / "nowhere" / "test.db", KEK_A)
    with pytest.raises(StoreError, match=r"test.db: No such file or directory$"):
        Database(tmp_path / "test.db", None, readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_file(path: Path) -> None:
    path.chmod(0o400)
    with pytest.raises(StoreError, match=r"is read-only \(mode 0400\)"):
        Database(path, KEK_A)
    reader = Database(path, None, readonly=True)
    assert reader.load() == {"smk-counter": {("subscriber-1",): 1}}
    reader.close()


@pytest.mark.parametrize("name", ["with space", "100%", "a?b=c", "a#b", "ü", "-x"])
def test_names_of_all_kinds(tmp_path: Path, name: str) -> None:
    for kek in (KEK_A, KEK_A):
        database = Database(tmp_path / name, kek)
        put(database, *counters(1))
        database.close()
    assert {file.name for file in tmp_path.iterdir()} == {name, f"{name}-lock"}


# --- one writer -------------------------------------------------------------------------------------------------------

_HOLD: Final = """
import sys
from pathlib import Path
from pybcast.keys import KEK
from pybcast.store import SqliteStore
store = SqliteStore(Path(sys.argv[1]), KEK(bytes(range(32))))
print("open", flush=True)
sys.stdin.read()
"""


def test_one_process_writes_others_read(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        with pytest.raises(StoreInUse, match=rf"test.db is in use by process {process.pid}$"):
            SqliteStore(path, KEK_A)
        reader = Database(path, None, readonly=True)
        assert reader.load() == {"smk-counter": {("subscriber-1",): 1}}
        reader.close()
        process.kill()
    Database(path, KEK_A).close()


def test_another_program_holds_the_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.store.connection.BUSY_TIMEOUT", 0.01)
    with SqliteStore(path, KEK_A) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreInUse, match=r"is locked by another process \(SQLITE_BUSY\)"):
            store.write(counters(2))
        other.execute("ROLLBACK")
        other.close()
        store.load()
        store.write(counters(3))
        assert list(store.load()["smk-counter"].values()) == [1, 3]


def test_one_writer_in_a_process(path: Path) -> None:
    first = Database(path, KEK_A)
    with pytest.raises(StoreInUse, match=f"is in use by process {os.getpid()}$"):
        Database(path, KEK_A)
    put(first, *counters(2))
    first.close()
    first.close()
    with pytest.raises(StoreError, match="is closed"):
        first.load()
    Database(path, KEK_A).close()


# --- what is in the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"x", b"SQLite format 3\0", b"not a database, but long enough to hold a page header" * 100])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test.db"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"test.db is damaged"):
        Database(path, KEK_A)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.touch(0o600)
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE row (x)")
    other.commit()
    other.close()
    content = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(StoreError, match="is a database of another program"):
            Database(path, KEK_A, readonly=readonly)
    assert path.read_bytes() == content


@pytest.mark.parametrize("readonly", [False, True])
def test_an_empty_file_is_no_database(tmp_path: Path, readonly: bool) -> None:
    """Something has cut it off; a start that died while it made one goes on."""
    path = tmp_path / "test.db"
    Database(path, KEK_A).close()
    for kept in (b"", path.read_bytes()[:512], path.read_bytes()[:99]):
        path.write_bytes(kept)
        with pytest.raises(StoreDamaged, match="is empty" if not kept else "is damaged"):
            Database(path, KEK_A, readonly=readonly)
        assert path.read_bytes() == kept


def test_a_start_that_died_while_it_made_a_database_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.touch(0o600)
    path.with_name("test.db-unmade").touch(0o600)
    Database(path, KEK_A).close()
    assert path.read_bytes()[68:72] == b"BCAS" and not path.with_name("test.db-unmade").exists()


@pytest.mark.parametrize("page", range(1, 8))
def test_a_damaged_page_is_seen(tmp_path: Path, page: int) -> None:
    path = tmp_path / "test.db"
    database = Database(path, KEK_A)
    put(database, *counters(*range(2000)))
    whole = database.load()
    database.close()
    content = bytearray(path.read_bytes())
    content[page * 4096 : page * 4096 + 2048] = bytes(2048)
    path.write_bytes(content)
    try:
        database = Database(path, KEK_A)
    except StoreError:
        return
    try:
        assert database.load() == whole  # a page of an index, or of a view's text
    except StoreDamaged:
        pass
    finally:
        database.close()


@pytest.mark.parametrize("page", [3000, 40_000])
def test_a_truncated_file_is_seen(tmp_path: Path, page: int) -> None:
    path = tmp_path / "test.db"
    database = Database(path, KEK_A)
    put(database, *counters(*range(2000)))
    database.close()
    os.truncate(path, page)

    def read() -> None:
        database = Database(path, KEK_A)
        try:
            database.load()
        finally:
            database.close()

    with pytest.raises(StoreDamaged, match="is damaged: restore a copy"):
        read()


def test_whose_memory_it_is(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    Database(path, KEK_A).close()
    Database(path, KEK_A, owner="urn:bsm").close()
    Database(path, KEK_A, owner="urn:bsm").close()
    Database(path, KEK_A).close()
    with pytest.raises(StoreError, match=r"is the memory of urn:bsm, not of urn:bsda$"):
        Database(path, KEK_A, owner="urn:bsda")


# --- versions ---------------------------------------------------------------------------------------------------------

_NEXT: Final = "ALTER TABLE message_log ADD COLUMN remark TEXT; CREATE INDEX remarks ON message_log (remark);"


def test_an_old_database_becomes_a_new_one(path: Path) -> None:
    database = Database(path, KEK_A, migrations=[*MIGRATIONS, _NEXT, "UPDATE row SET tbl = tbl;"])
    assert database.query("PRAGMA user_version") == [(len(MIGRATIONS) + 2,)]
    assert database.query("SELECT remark FROM message_log") == []
    assert database.load() == {"smk-counter": {("subscriber-1",): 1}}
    database.close()


def test_a_newer_database_is_refused(path: Path) -> None:
    Database(path, KEK_A, migrations=[*MIGRATIONS, _NEXT]).close()
    content = path.read_bytes()
    ours = len(MIGRATIONS)
    for readonly in (False, True):
        with pytest.raises(StoreError, match=rf"test.db has version {ours + 1}, this program knows {ours}: use a newer pybcast$"):
            Database(path, KEK_A, readonly=readonly)
    assert path.read_bytes() == content


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    with pytest.raises(StoreError, match="no such table: missing"):
        Database(path, KEK_A, migrations=[*MIGRATIONS, _NEXT + "DELETE FROM missing;"])
    database = Database(path, KEK_A)
    assert database.query("PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert "remark" not in [name for _, name, *_ in database.query("PRAGMA table_info(message_log)")]
    database.close()


def test_rows_of_another_format_are_refused(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("UPDATE meta SET value = 9 WHERE name = 'format'")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match=r"rows of format 9, this program knows 1$"):
        Database(path, KEK_A)


# --- the key-encryption key -------------------------------------------------------------------------------------------


def test_the_wrong_key_is_one_clear_line(path: Path) -> None:
    for readonly in (False, True):
        with pytest.raises(WrongKek) as caught:
            Database(path, KEK_B, readonly=readonly)
        assert str(caught.value) == f"the key-encryption key {kek_id(KEK_B)} is not the one of {path}: {kek_id(KEK_A)}"
    Database(path, KEK_A).close()


def test_writing_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a key-encryption key is needed"):
        Database(tmp_path / "test.db", None)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_writes_nothing(path: Path) -> None:
    reader = Database(path, KEK_A, readonly=True)
    with pytest.raises(StoreError, match="open for reading only"):
        put(reader, *counters(2))
    with pytest.raises(StoreError, match="cannot be written"):
        reader.query("DELETE FROM row")
    reader.close()


HEX: Final = bytes(range(32)).hex()


@pytest.mark.parametrize("text", [HEX, HEX.upper() + "\n", f" {HEX[:32]} {HEX[32:]}\r\n"])
def test_the_key_from_a_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kek"
    file.touch(0o600)
    file.write_text(text)
    assert load_kek(f"file:{file}") == KEK_A
    file.chmod(0o400)
    assert load_kek(f"file:{file}") == KEK_A


def test_the_key_from_the_environment_and_from_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYBCAST_TEST_KEK", HEX[:32])
    assert load_kek("env:PYBCAST_TEST_KEK") == KEK(bytes(range(16)))
    file = tmp_path / "a secret.txt"
    file.write_text(HEX)
    assert load_kek(f"command:cat '{file}'") == KEK_A


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o611])
def test_a_key_file_that_others_can_read(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "kek"
    file.write_text(HEX)
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"kek has mode 0{mode:o}, others may read it: chmod 600"):
        load_kek(f"file:{file}")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", "expected file:PATH, env:NAME or command:WORDS"), ("file:", "expected file:PATH"), (HEX, "expected file:PATH"),
        ("env:", "expected file:PATH"), ("vault:x", "expected file:PATH"), ("env:PYBCAST_NOT_SET", "PYBCAST_NOT_SET is not set"),
        ("file:/dev/null", "is not a small regular file"), ("file:/nowhere/kek", "No such file"), ("command:false", "status 1"),
        ("command:/nowhere/x", "No such file"), ("command:'", "ValueError"), ("command: ", "No such file"),
        ("command:echo 00", "hexadecimal digits"),
        (f"command:echo {HEX}ff", "hexadecimal digits"), ("command:echo secret", "hexadecimal digits"),
        ("command:true", "hexadecimal digits"),
    ],
)  # fmt: skip
def test_sources_without_a_key(source: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        load_kek(source)
    assert HEX not in str(caught.value) and "secret" not in str(caught.value)


def test_a_file_too_large_for_a_key(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.touch(0o600)
    file.write_text(HEX + " " * 2000)
    with pytest.raises(ConfigError, match="is not a small regular file"):
        load_kek(f"file:{file}")


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kek_module, "COMMAND_TIMEOUT", 0.01)
    with pytest.raises(ConfigError, match="TimeoutExpired"):
        load_kek("command:sleep 60")


def test_the_name_of_a_key_says_nothing_of_it() -> None:
    assert kek_id(KEK_A) != kek_id(KEK_B)
    assert len(kek_id(KEK_A)) == 16
    assert not {kek_id(KEK_A)} & {HEX[i : i + 16] for i in range(64)}


def test_siblings() -> None:
    assert [file.name for file in siblings(Path("/x/a.db"))] == ["a.db", "a.db-wal", "a.db-shm"]
