# SPDX-License-Identifier: Apache-2.0
"""A wrapped key opens in its own place only, and no column of any table can change unseen.

The one who tries here can write to the database and make every checksum fit; he has no key-encryption key.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from store_support import KEK_A, KEK_B, put

from pybcast.errors import StoreError
from pybcast.flows import KeyMaterial, Persist, Right, Subscriber
from pybcast.flows.journal import Journal
from pybcast.keys import SEK, SMK, SRK, TEK
from pybcast.secret import Secret
from pybcast.store import Database, StoreDamaged
from pybcast.store.members import StoredMembers
from pybcast.store.people import member_crc, srk_crc
from pybcast.store.wrapping import OVERHEAD, RowWrap, row_place

RIGHT: Final = Right(service="urn:news", stream=1, start=5, end=9, content="film")


def key(n: int) -> KeyMaterial:
    return KeyMaterial(key_type="SEK", key_id=bytes([n]) * 7, key=SEK(bytes([n]) * 16), stream=1, valid_from=5, valid_to=9)


ROWS: Final = [
    Persist("key", ("urn:a", 1), key(1)),
    Persist("key", ("urn:a", 2), key(2)),
    Persist("old", ("urn:a", 1), key(3)),
    Persist("pair", ("x",), (TEK(b"1" * 16), TEK(b"2" * 16), SEK(b"3" * 16))),
    Persist("pair", ("y",), (TEK(b"4" * 16), TEK(b"5" * 16), SEK(b"6" * 16))),
    Persist("smk-counter", ("alice",), 7),
]


def people(database: Database, *members: Subscriber) -> None:
    """Subscribers with cards, one of whom has been told of a key."""
    stored = StoredMembers(Database(database.path, KEK_A, readonly=True), lambda: database.keks)
    journal = Journal(database.load(members=False))
    stored.bind(journal)
    stored.put(members)
    stored.grant([(one.id, RIGHT) for one in members])
    stored.tell(b"key", [members[0].id])
    put(database, *[output for output in journal.take() if isinstance(output, Persist)])
    stored.close()


def person(name: str, n: int) -> Subscriber:
    return Subscriber(id=name, smk=SMK(bytes([n]) * 32), idr=f"{name}@x", srk=SRK(bytes([n + 100]) * 32))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "test.db", KEK_A)
    put(made, *ROWS)
    people(made, person("alice", 1), person("bob", 2))
    yield made
    made.close()


class Forger:
    """Writes rows whose checksums fit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def value(self, table: str, name: str) -> Any:
        select = "SELECT value FROM row JOIN flow_table t ON t.id = tbl WHERE t.name = ? AND key = ?"
        ((found,),) = self._database.query(select, (table, self._key(name)))
        return found

    def _key(self, name: str) -> str | bytes:
        return name if len(name) == 1 else self._database._codec.encode_key(("urn:a", int(name[-1])))

    def set(self, table: str, name: str, value: bytes) -> None:
        where = "tbl = (SELECT id FROM flow_table WHERE name = ?) AND key = ?"
        args = (table, self._key(name))
        ((seq, number, key, kek, info),) = self._database.query(f"SELECT seq, tbl, key, kek, info FROM row WHERE {where}", args)
        crc = self._database._crc(number, key, value, kek, info) + seq  # type: ignore[arg-type, operator]
        self._database.query(f"UPDATE row SET value = ?, crc = ? WHERE {where}", (value, crc, *args))


def _bodies(value: bytes, change: Callable[[Any], Any]) -> bytes:
    return msgspec.msgpack.encode(change(msgspec.msgpack.decode(value, strict=False)))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (("key", "a1"), ("key", "a2")), (("key", "a2"), ("key", "a1")), (("old", "a1"), ("key", "a1")),
        (("key", "a1"), ("old", "a1")), (("pair", "x"), ("pair", "y")),
    ],
)  # fmt: skip
def test_a_key_of_another_row(database: Database, source: tuple[str, str], target: tuple[str, str]) -> None:
    """Moved within a table, or to the same row of another table."""
    forger = Forger(database)
    forger.set(*target, forger.value(*target))
    assert len(database.load()["key"]) == 2  # it does make checksums fit
    forger.set(*target, forger.value(*source))
    with pytest.raises(StoreDamaged, match=rf"table '{target[0]}', key .*: a key does not unwrap"):
        database.load()
    with pytest.raises(StoreDamaged, match="a key does not unwrap"):
        list(database.rows(target[0]))
    database.rotate_begin(KEK_B)
    with pytest.raises(StoreDamaged, match="a key does not unwrap"):
        database.rotate_step()


def _sealed(value: list[Any], header: list[int], wrapped: bytes) -> dict[int, Any]:
    return {0: [value, header, wrapped]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v, h, w: _sealed(v, [*h[3:], *h[:3]], w), "a key does not unwrap"),  # their kinds in another order
        (lambda v, h, w: _sealed(v, [h[0], h[1], 1, h[3], h[4], 2], w), "a key does not unwrap"),  # of another kind
        (lambda v, h, w: _sealed(v, [h[0], 2 * h[1], 1, *h[3:]], w), "a key does not unwrap"),  # two as one
        (lambda v, h, w: _sealed(v, h, w[:-1]), "a key does not unwrap"),
        (lambda v, h, w: _sealed([v[0], v[2], v[1]], h, w), "damaged"),  # another kind than the value has there
        (lambda v, h, w: _sealed(v[1:], h, w), "damaged"),  # one is gone
        (lambda v, h, w: _sealed([*v, v[0]], h, w), "damaged"),  # one of them twice
    ],
)  # fmt: skip
def test_a_key_of_another_place_in_the_row(database: Database, change: Callable[..., Any], why: str) -> None:
    forger = Forger(database)
    forger.set("pair", "x", _bodies(forger.value("pair", "x"), lambda body: change(*body[0])))
    with pytest.raises(StoreDamaged, match=rf"table 'pair', key \('x',\): {why}"):
        database.load()


def test_a_row_under_the_name_of_another(database: Database) -> None:
    """The row stays as it is, but for its name."""
    ((seq, number, value, kek, info),) = database.query("SELECT seq, tbl, value, kek, info FROM row WHERE key = 'x'")
    crc = database._crc(number, "z", value, kek, info) + seq  # type: ignore[arg-type, operator]
    database.query("UPDATE row SET key = 'z', crc = ? WHERE key = 'x'", (crc,))
    with pytest.raises(StoreDamaged, match=r"table 'pair', key \('z',\): a key does not unwrap"):
        database.load()


def test_tables_that_change_their_names(database: Database) -> None:
    database.query("UPDATE flow_table SET name = 'tmp' WHERE name = 'key'")
    database.query("UPDATE flow_table SET name = 'key' WHERE name = 'old'")
    database.query("UPDATE flow_table SET name = 'old' WHERE name = 'tmp'")
    path = database.path
    database.close()
    with contextlib.closing(Database(path, KEK_A)) as again, pytest.raises(StoreDamaged, match=r"table 'old'.*checksum"):
        again.load()


def _members_row(database: Database, n: int) -> tuple[Any, ...]:
    return database.query("SELECT id, name, idr, smk, kek FROM member WHERE id = ?", (n,))[0]


def _set_smk(database: Database, n: int, smk: bytes) -> None:
    member, name, idr, _, kek = _members_row(database, n)
    database.query("UPDATE member SET smk = ?, crc = ? WHERE id = ?", (smk, member_crc(member, name, idr, smk, kek), n))


def _set_srk(database: Database, n: int, srk: bytes) -> None:
    database.query("UPDATE member_srk SET srk = ?, crc = ? WHERE member = ?", (srk, srk_crc(n, srk, 1), n))


def _srk(database: Database, n: int) -> Any:
    return database.query("SELECT srk FROM member_srk WHERE member = ?", (n,))[0][0]


def _renamed(database: Database) -> None:
    """Alice and bob change places."""
    for n, name, idr in ((1, "tmp", ""), (2, "alice", "alice@x"), (1, "bob", "bob@x")):
        _, _, _, smk, kek = _members_row(database, n)
        crc = member_crc(n, name, idr, smk, kek)
        database.query("UPDATE member SET name = ?, idr = ?, crc = ? WHERE id = ?", (name, idr, crc, n))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda db: _set_smk(db, 2, _members_row(db, 1)[3]), "table member, 'bob': a key does not unwrap"),
        (lambda db: _set_smk(db, 2, _srk(db, 2)), "table member, 'bob': a key does not unwrap"),
        (lambda db: _set_srk(db, 2, _srk(db, 1)), "table member_srk, member 2: a key does not unwrap"),
        (lambda db: _set_srk(db, 2, _members_row(db, 2)[3]), "table member_srk, member 2: a key does not unwrap"),
        (_renamed, "table member, '(alice|bob)': a key does not unwrap"),
    ],
)
def test_a_key_of_another_subscriber(database: Database, change: Callable[[Database], None], match: str) -> None:
    change(database)
    with pytest.raises(StoreDamaged, match=match):
        database.load()
    members = StoredMembers(Database(database.path, KEK_A, readonly=True), lambda: database.keks)
    members.bind(Journal())
    with pytest.raises(StoreDamaged, match="a key does not unwrap"):
        members.get("bob")
    members.close()
    database.rotate_begin(KEK_B)
    with pytest.raises(StoreDamaged, match=match):
        while database.rotate_step():
            pass


def test_names_of_rows_are_apart() -> None:
    """No two rows have one name, however their parts are cut."""
    parts = ["", "a", "b", "ab", "1", "1 a", " ", "t1", "3 t"]
    names: list[str | bytes] = [*parts, *(part.encode() for part in parts)]
    places = [row_place(table, name) for table in parts for name in names]
    assert len(set(places)) == len(places)


def test_wrapped_secrets_are_longer_by_a_tag_and_repeat_themselves() -> None:
    wrap, place = RowWrap(KEK_A), row_place("t", "k")
    for size in (0, 1, 16, 31, 32, 1000):
        secret = Secret((bytes(range(256)) * 4)[:size])
        data = wrap.wrap(secret, place)
        assert len(data) == (size + OVERHEAD if size else 0)
        assert data == RowWrap(KEK_A).wrap(secret, place)
        assert wrap.unwrap(data, place) == secret.reveal()
        if size:
            assert data != RowWrap(KEK_B).wrap(secret, place)
            for short in (data[:-1], data[:OVERHEAD], data[:1], data + b"\0"):
                with pytest.raises(StoreDamaged, match="does not unwrap"):
                    wrap.unwrap(short, place)


# --- every column of every table ----------------------------------------------------------------------------------------

TABLES: Final = {
    "row": ["seq", "tbl", "key", "value", "kek", "crc", "info"],
    "member": ["id", "name", "idr", "smk", "kek", "crc"],
    "member_srk": ["member", "srk", "kek", "crc"],
    "member_counter": ["member", "value"],
    "member_stream": ["id", "service", "stream", "crc"],
    "member_right": ["stream", "member", "start", '"end"', "content", "crc"],
    "member_told": ["key", "member", "crc"],
}


def _flipped(value: Any, bit: int) -> Any:
    """One bit of what stands in a column; text that is no UTF-8 afterwards stays text in the file."""
    if isinstance(value, int):
        return value ^ 1 << bit
    data = bytearray(value.encode() if isinstance(value, str) else value)
    data[bit % len(data)] ^= 1 << bit % 8
    return bytes(data)


def test_the_list_of_tables_is_whole(database: Database) -> None:
    for table, columns in TABLES.items():
        found = [name for _, name, *_ in database.query(f"PRAGMA table_info({table})")]
        assert found == [column.strip('"') for column in columns]


@pytest.mark.parametrize(("table", "column"), [(table, column) for table, columns in TABLES.items() for column in columns])
def test_each_column_is_held(database: Database, table: str, column: str) -> None:
    """Flipped bits, other types, nothing at all: the error names the place, and nothing is taken for what it is not."""
    whole = database.load()
    own = " WITHOUT ROWID" not in str(database.query("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)))
    first = f"rowid = (SELECT min(rowid) FROM {table} WHERE {column} IS NOT NULL)" if own else "member = 1"
    select = f"SELECT typeof({column}), CAST({column} AS BLOB) FROM {table}"
    ((value,),) = database.query(f"SELECT {column} FROM {table} WHERE {first}")
    kind = {int: "INTEGER", str: "TEXT", bytes: "BLOB"}[type(value)]
    changes = [(f"CAST(? AS {kind})", _flipped(value, bit)) for bit in range(30)]
    changes += [("?", other) for other in (5.5, "5", b"5", 1 << 40, None)]
    seen = 0
    for expression, changed in changes:
        before = database.query(select)
        database.query("BEGIN")
        try:
            database.query(f"UPDATE {table} SET {column} = {expression} WHERE {first}", (changed,))
            if database.query(select) != before:
                with pytest.raises(StoreDamaged, match="table ") as caught:
                    database.load()
                assert "film" not in str(caught.value)
                seen += 1
        except StoreDamaged:
            raise
        except StoreError as error:  # SQLite refuses: two rows of one name, nothing where something must be, no number for a row
            assert re.search("SQLITE_CONSTRAINT|SQLITE_MISMATCH", str(error))
        finally:
            database.query("ROLLBACK")
    assert seen > 20
    assert database.load() == whole


def test_a_reader_without_the_key_sees_damage_too(database: Database) -> None:
    for table, column in (("member", "idr"), ("member_srk", "kek"), ("row", "info")):
        before = database.query(f"SELECT {TABLES[table][0]}, {column} FROM {table} WHERE {column} IS NOT NULL LIMIT 1")[0]
        database.query(f"UPDATE {table} SET {column} = 'x' WHERE {TABLES[table][0]} = ?", before[:1])
        with contextlib.closing(Database(database.path, None, readonly=True)) as reader, pytest.raises(StoreDamaged):
            reader.load()
        database.query(f"UPDATE {table} SET {column} = ? WHERE {TABLES[table][0]} = ?", (before[1], before[0]))
