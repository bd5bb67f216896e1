# SPDX-License-Identifier: Apache-2.0
"""What is stored is what comes back: every type, every row of a running system, in order, and never a key in clear."""

from __future__ import annotations

import base64
import dataclasses
import enum
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_support import KEK_A, KEK_B, LONG, StoredWorld, after, counters, difference, put, run_world, secrets_in

from pybcast.errors import StoreError
from pybcast.flows import KeyMaterial, LongTermKey, Persist, Programme, Subscriber
from pybcast.flows.bsm.members import Bundle
from pybcast.flows.bsm.pages import Page
from pybcast.flows.tables import KeyState
from pybcast.keys import SEAK, SMK, TEK, Key
from pybcast.messages import AddressMode
from pybcast.secret import Secret
from pybcast.store import Database, LogEntry, StoreDamaged
from pybcast.store.changes import Changes
from pybcast.store.encoding import Codec, layouts
from pybcast.store.schema import _VIEWS
from pybcast.store.types import TYPES
from pybcast.store.wrapping import RowWrap

NUMBERS: Final = {layout: n for n, layout in enumerate(layouts(TYPES), 1)}
CODEC: Final = Codec(NUMBERS, TYPES)
WRAP_A, WRAP_B, ROW = RowWrap(KEK_A), RowWrap(KEK_B), ("t", "k")
SECRETS: Final = [kind for kind in TYPES.values() if issubclass(kind, Secret)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredWorld]:
    made = run_world(tmp_path_factory.mktemp("world"), seed=1, seconds=6000 if LONG else 700)
    yield made
    for store in made.stores:
        store.database.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "test.db", KEK_A)
    yield made
    made.close()


def _forms(raw: bytes) -> list[bytes]:
    """How a key shows up by mistake."""
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), base64.b64encode(raw).rstrip(b"=")[:-1]]


# --- a running system -------------------------------------------------------------------------------------------------


def test_a_system_lives_on_its_stores(world: StoredWorld) -> None:
    assert world.violations == []
    assert [store.differences for store in world.stores if store.differences] == []
    assert sum(store.loads for store in world.stores) > 8
    kinds = {type(row) for store in world.stores for rows in store.state.values() for row in rows.values()}
    assert len(kinds) > 15


def test_no_key_is_in_any_file(world: StoredWorld) -> None:
    files = {path: path.read_bytes() for path in world.folder.iterdir()}
    assert any(path.name.endswith("-wal") and data for path, data in files.items())
    seen = set().union(*(store.seen for store in world.stores)) - {bytes(16)}  # of zeros: the key of a withdrawal
    assert len(seen) > 200
    hits = [(path.name, len(raw)) for path, data in files.items() for raw in seen for form in _forms(raw) if form in data]
    assert hits == []


def test_the_search_would_find_one(world: StoredWorld, database: Database) -> None:
    raw = next(iter(secrets_in(world.stores[0].state)))
    put(database, *(Persist("registration", (n,), form) for n, form in enumerate(_forms(raw))))
    database.close()
    data = database.path.read_bytes()
    assert all(form in data for form in _forms(raw))


# --- every type -------------------------------------------------------------------------------------------------------

INTEGERS: Final = st.integers(-(1 << 63), (1 << 64) - 1)
TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LEAVES: Final = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT | st.binary(max_size=40)
PLAIN: Final[dict[Any, st.SearchStrategy[Any]]] = {
    int: INTEGERS, str: TEXT, float: st.floats(allow_nan=False), bytes: st.binary(max_size=40), bool: st.booleans(),
    type(None): st.none(), frozenset: st.frozensets(LEAVES, max_size=4),
}  # fmt: skip


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if origin is Literal:
        return st.sampled_from(args)
    if origin is frozenset:
        return st.frozensets(values_of(args[0]), max_size=3)
    if origin is tuple and args[-1] is ...:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, args))
    if origin is not None:  # a union
        return st.one_of(*map(values_of, args))
    if issubclass(hint, Secret):
        sizes = hint.SIZES if issubclass(hint, Key) else range(70)
        return st.sampled_from(sizes).flatmap(lambda n: st.binary(min_size=n, max_size=n)).map(hint)
    if issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    hints = get_type_hints(hint)
    return st.builds(hint, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(hint)})


VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    LEAVES | st.one_of(*map(values_of, SECRETS)) | st.sampled_from(KeyState) | st.frozensets(LEAVES, max_size=4),
    lambda inner: st.lists(inner, max_size=5).map(tuple) | st.builds(Bundle, st.binary(), st.binary(), st.tuples(TEXT, inner)),
    max_leaves=20,
)


@pytest.mark.parametrize("name", sorted(TYPES))
@settings(max_examples=settings.get_profile(settings.get_current_profile_name()).max_examples // 5)
@given(st.data())
def test_every_type_comes_back_as_it_was(name: str, data: st.DataObject) -> None:
    value = data.draw(values_of(TYPES[name]))
    coded, wrapped = CODEC.encode(value, WRAP_A, ROW)
    assert difference(CODEC.decode(coded, WRAP_A, ROW), value) == ""
    assert wrapped == any(True for _ in secrets_in(value))
    assert CODEC.encode(CODEC.decode(coded, WRAP_A, ROW), WRAP_A, ROW)[0] == coded
    if wrapped:
        assert difference(CODEC.decode(CODEC.rewrap(coded, WRAP_A, WRAP_B, ROW), WRAP_B, ROW), value) == ""


@given(VALUES)
def test_every_value_comes_back_as_it_was(value: object) -> None:
    data, _ = CODEC.encode(value, WRAP_A, ROW)
    assert difference(CODEC.decode(data, WRAP_A, ROW), value) == ""


@given(st.lists(LEAVES | st.sampled_from(KeyState), max_size=5).map(tuple))
def test_every_row_key_comes_back_as_it_was(key: tuple[object, ...]) -> None:
    assert difference(CODEC.decode_key(CODEC.encode_key(key)), key) == ""


@dataclass(frozen=True)
class Unlisted:
    n: int = 1


class Number(int):
    pass


WIPED: Final = TEK(bytes(16))
WIPED.wipe()


@pytest.mark.parametrize(
    "value",
    [
        object(), [1], {1: 2}, {1}, bytearray(b"1"), memoryview(b"1"), Unlisted(), (1, (Unlisted(),)), Number(5), AddressMode(0),
        1 << 64, (1 << 64,), -(1 << 63) - 1, "\ud800", ("\ud800",), Exception("x"), WIPED, (WIPED,), int, 1j,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_stored_is_refused(database: Database, value: object) -> None:
    put(database, Persist("t", ("before",), 1))
    with pytest.raises(StoreError, match=r"^table 't', key \('k',\): "):
        put(database, Persist("t", ("k",), value))
    assert database.load() == {"t": {("before",): 1}}


def test_unknown_types_are_named(database: Database) -> None:
    with pytest.raises(StoreError, match=r"test_store_rows\.Unlisted is not among the types that are stored"):
        put(database, Persist("t", ("k",), Unlisted()))


@pytest.mark.parametrize("key", [(TEK(bytes(16)),), (1, Secret(b"x")), ("\ud800",), (1, "\ud800"), ([],), (1 << 64,)], ids=repr)
def test_a_key_holds_no_secret_and_nothing_strange(database: Database, key: tuple[object, ...]) -> None:
    with pytest.raises(StoreError, match=r"^table 't', key "):
        put(database, Persist("t", key, 1))
    assert database.load() == {}


# --- rows, tables and their order -------------------------------------------------------------------------------------

STEPS: Final = st.lists(
    st.tuples(st.sampled_from(["page", "carousel"]), st.integers(0, 5), st.none() | st.integers(0, 3), st.booleans()), max_size=40
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    made = Database(tmp_path_factory.mktemp("scratch") / "test.db", KEK_A)
    made.query("PRAGMA synchronous = OFF")
    yield made
    made.close()


@given(steps=STEPS)
def test_tables_are_dictionaries(scratch: Database, steps: list[tuple[str, int, int | None, bool]]) -> None:
    """Whatever is put and dropped in whatever transactions: the rows and their order are those of a dict."""
    database = scratch
    database.query("DELETE FROM row")
    batches: list[list[Persist]] = [[]]
    for table, key, value, cut in steps:
        batches[-1].append(Persist(table, (key,), value))
        if cut:
            batches.append([])
    group = Changes()
    for n, batch in enumerate(batches):
        own = Changes()
        database.encode(batch, own)
        group.merge(own)
        if n % 2:
            database.commit(group)
            group = Changes()
    database.commit(group)
    expected = after(batches)
    loaded = database.load()
    assert loaded == expected
    assert {t: list(rows.items()) for t, rows in loaded.items()} == {t: list(rows.items()) for t, rows in expected.items()}
    for table in ("page", "carousel"):
        assert dict(database.rows(table)) == expected.get(table, {})


def test_a_table_is_walked_through_piece_by_piece(database: Database) -> None:
    rows = [Persist("smk-counter", (f"{n:05}",), n) for n in range(2500)]
    database.commit_stream(iter(rows))
    walk = database.rows("smk-counter")
    assert next(walk) == (("00000",), 0)
    put(database, Persist("smk-counter", ("00001",), None), Persist("smk-counter", ("02400",), None))
    assert [value for _, value in walk] == [n for n in range(1, 2500) if n != 2400]  # the first piece was read before
    assert list(database.rows("nothing")) == []


def test_one_row(database: Database) -> None:
    put(database, *counters(1, 2))
    assert database.get("smk-counter", ("subscriber-2",)) == 2
    assert database.get("smk-counter", ("subscriber-3",)) is None
    assert database.get("nothing", (1,)) is None


@pytest.mark.parametrize("number", [0, -1, 1 << 62, -(1 << 63), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, True, 1.0])
def test_numbers_keep_their_type(database: Database, number: object) -> None:
    put(database, Persist("t", (1,), number))
    assert difference(database.load(), {"t": {(1,): number}}) == ""


# --- damage -----------------------------------------------------------------------------------------------------------


def _damage(database: Database, column: str, value: object) -> None:
    other = sqlite3.connect(database.path)
    other.execute(f"UPDATE row SET {column} = ?", (value,))
    other.commit()
    other.close()


def test_each_flipped_bit_of_a_row_is_seen(database: Database) -> None:
    key = KeyMaterial(key_type="SEAK", key_id=b"abcd", key=SEAK(bytes(range(32))), stream=1, valid_from=5, valid_to=9)
    put(database, Persist("key", ("urn:news", 1), key))
    ((value,),) = database.query("SELECT value FROM row")
    assert isinstance(value, bytes)
    rng = random.Random(1)
    for place in range(len(value)):
        flipped = bytearray(value)
        flipped[place] ^= 1 << rng.randrange(8)
        _damage(database, "value", bytes(flipped))
        with pytest.raises(StoreDamaged, match=r"table 'key', key \('urn:news', 1\): damaged \(checksum\)"):
            database.load()
    _damage(database, "value", value)
    assert database.load() == {"key": {("urn:news", 1): key}}


COLUMNS: Final = [("value", 8), ("value", "text"), ("value", 1.5), ("crc", 0), ("tbl", 9), ("kek", 1), ("key", 3), ("key", "x")]


@pytest.mark.parametrize(("column", "value"), COLUMNS)
def test_every_column_is_held(database: Database, column: str, value: object) -> None:
    put(database, Persist("smk-counter", ("alice",), 7))
    assert database.load() == {"smk-counter": {("alice",): 7}}
    _damage(database, column, value)
    with pytest.raises(StoreDamaged, match="table "):
        database.load()


@given(st.binary(max_size=60))
def test_bytes_that_were_never_written(data: bytes) -> None:
    """With a checksum that fits: a row, or a refusal; nothing else, and nothing is built but listed types."""
    try:
        value = CODEC.decode(data, WRAP_A, ROW)
    except StoreError:
        return
    CODEC.encode(value, WRAP_A, ROW)


DEEP: Final = (b"\x91" * 5000 + b"\xc0", b"\x81\x01" * 5000 + b"\x90")


@pytest.mark.parametrize("data", [*DEEP, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xd4\x05a", b""])
def test_bombs_are_refused(data: bytes) -> None:
    with pytest.raises(StoreDamaged):
        CODEC.decode(data, WRAP_A, ROW)
    with pytest.raises(StoreDamaged):
        CODEC.rewrap(data, WRAP_A, WRAP_B, ROW)


def test_a_row_with_fields_missing(database: Database) -> None:
    data, _ = CODEC.encode(Bundle(b"x", b"", ("card", "alice")), WRAP_A, ROW)
    number = NUMBERS["Bundle", "data sizes names windows"]
    assert data[:3] == bytes([0x81, number, 0x94])
    for short in (bytes([0x81, number, 0x90]), bytes([0x81, number, 0x91, 0xC0]), bytes([0x81, number, 0xC0])):
        with pytest.raises(StoreDamaged):
            CODEC.decode(short, WRAP_A, ROW)


def test_a_row_whose_key_cannot_be_read(database: Database) -> None:
    put(database, Persist("t", (1, 2), 7))
    _damage(database, "key", b"\x93\x01")
    with pytest.raises(StoreDamaged, match=r"table 't', key unreadable: damaged \(checksum\)"):
        database.load()


def test_a_size_that_cannot_be(database: Database) -> None:
    data, _ = CODEC.encode(Secret(bytes(32)), WRAP_A, ROW)
    for size in (1, 8, 16):
        short = data.replace(b"\xc4\x30" + data[-48:], bytes([0xC4, size]) + bytes(size))
        assert len(short) == len(data) - 48 + size
        with pytest.raises(StoreDamaged, match="key size"):
            CODEC.decode(short, None, ROW)
        with pytest.raises(StoreDamaged, match="does not unwrap"):
            CODEC.decode(short, WRAP_A, ROW)


def _tampered(change: Callable[[list[Any]], object]) -> bytes:
    """A row of three secrets, otherwise than it was written."""
    tree = msgspec.msgpack.decode(
        CODEC.encode((Secret(b"a" * 16), SMK(b"b" * 32), Secret(b"c" * 16)), WRAP_A, ROW)[0], strict=False
    )
    change(tree[0])
    return msgspec.msgpack.encode(tree)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row[0].pop(),  # a secret less
        lambda row: row[0].append(row[0][0]),  # one more
        lambda row: row[0].__setitem__(slice(0, 2), row[0][1::-1]),  # in another order
        lambda row: row[1].__setitem__(slice(0, 6), [*row[1][3:6], *row[1][:3]]),
        lambda row: row[1].__setitem__(1, 15),
        lambda row: row[1].__setitem__(2, 2),
        lambda row: row[1].__setitem__(slice(1, 5, 3), [-16, 64]),
        lambda row: row[1].clear(),
        lambda row: row[1].append(1),
        lambda row: row[1].__setitem__(0, 9999),
    ],
)
def test_secrets_keep_their_order_their_kinds_and_their_sizes(change: Callable[[list[Any]], object]) -> None:
    data = _tampered(change)
    for wrap in (WRAP_A, None):
        with pytest.raises(StoreDamaged):
            CODEC.decode(data, wrap, ROW)
    assert difference(CODEC.decode(_tampered(lambda row: None), WRAP_A, ROW)[0], Secret(b"a" * 16)) == ""  # type: ignore[index]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xa1+\x92\x93\x01\x00\x02", b"\xa1+\x92\x93\x01\x00\x01"),  # sizes of arrays
        (b"\xa1+\x92\x93\x01\x00\x02", b"\xa1+\x92\x93\x04\xff\x00"),
    ],
)
def test_columns_fit_together(old: bytes, new: bytes) -> None:
    value: tuple[Any, ...] = tuple(Bundle(b"", b"", each) for each in [(1,), (), (2, "b")])  # type: ignore[arg-type]
    data, _ = CODEC.encode(value, WRAP_A, ROW)
    assert difference(CODEC.decode(data, WRAP_A, ROW), value) == "" and data.count(old) == 1
    with pytest.raises(StoreDamaged):
        CODEC.decode(data.replace(old, new), WRAP_A, ROW)


@pytest.mark.parametrize(("layout", "what"), [(("Gone", "a b"), "Gone"), (("Bundle", "data sizes lost windows"), "Bundle.lost")])
def test_columns_of_another_version_are_refused(layout: tuple[str, str], what: str) -> None:
    newer = Codec({**NUMBERS, layout: 200}, TYPES)
    data = msgspec.msgpack.encode({"": [200, [1, 1, 1], [2, 2, 2]]})
    with pytest.raises(StoreError, match=f"{what} is not known here"):
        newer.decode(data, WRAP_A, ROW)
    short = msgspec.msgpack.encode({"": [NUMBERS["Bundle", "data sizes names windows"], [b"", b""], ["a"]]})
    with pytest.raises(StoreDamaged):
        newer.decode(short, WRAP_A, ROW)


def test_secrets_open_in_their_own_row_only() -> None:
    data, _ = CODEC.encode((SMK(bytes(32)), SMK(bytes(32))), WRAP_A, ROW)
    for where in (("other", ROW[1]), (ROW[0], "other")):
        with pytest.raises(StoreDamaged, match="does not unwrap"):
            CODEC.decode(data, WRAP_A, where)
        with pytest.raises(StoreDamaged, match="does not unwrap"):
            CODEC.rewrap(data, WRAP_A, WRAP_B, where)


def test_an_error_shows_no_key(database: Database) -> None:
    subscriber = Subscriber(id="alice", smk=SMK(bytes(range(100, 132))))
    put(database, Persist("subscriber", ("alice",), subscriber))
    ((value,),) = database.query("SELECT value FROM row")
    assert isinstance(value, bytes)
    _damage(database, "value", value[:-1])
    with pytest.raises(StoreDamaged) as caught:
        database.load()
    assert not any(form.decode("latin-1") in str(caught.value) for form in _forms(bytes(range(100, 132))))
    assert caught.value.__cause__ is None


# --- other versions of the classes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Old:
    a: int


@dataclass(frozen=True)
class New:
    a: int
    b: str = "default"


@dataclass(frozen=True)
class Other:
    b: str = "default"


def test_a_field_more_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    database = Database(path, KEK_A, types={"Thing": Old})
    put(database, Persist("t", (1,), Old(5)))
    database.close()
    reader = Database(path, KEK_A, types={"Thing": New}, readonly=True)
    assert reader.load() == {"t": {(1,): New(5)}}
    reader.close()
    database = Database(path, KEK_A, types={"Thing": New})
    put(database, Persist("t", (2,), New(6, "more")))
    assert database.load() == {"t": {(1,): New(5), (2,): New(6, "more")}}
    database.close()


@pytest.mark.parametrize(("types", "what"), [({"Thing": Other}, "Thing.a"), ({}, "Thing"), ({"Other": Old}, "Thing")])
def test_what_is_not_known_any_more_is_named(tmp_path: Path, types: dict[str, type], what: str) -> None:
    path = tmp_path / "test.db"
    database = Database(path, KEK_A, types={"Thing": Old, "Secret": Secret})
    put(database, Persist("t", (1,), Old(5)), Persist("u", (1,), (Old(5), Secret(b"x"))))
    database.close()
    database = Database(path, KEK_A, types={"Secret": Secret, **types})
    with pytest.raises(StoreError, match=rf"table 't', key \(1,\): written by another version of pybcast: {what} is not known"):
        database.load()
    database.rotate_begin(KEK_B)  # a row says itself which keys it has, whatever else is in it
    while database.rotate_step():
        pass
    database.close()
    database = Database(path, KEK_B, types={"Thing": Old, "Secret": Secret})
    assert difference(database.load(), {"t": {(1,): Old(5)}, "u": {(1,): (Old(5), Secret(b"x"))}}) == ""
    database.close()


def test_a_kind_of_key_that_is_not_known_any_more_is_not_lost_with_its_kek(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    database = Database(path, KEK_A, types={"Strange": Secret})
    put(database, Persist("t", (1,), Secret(b"x")))
    database.close()
    database = Database(path, KEK_A, types={"Thing": Old})
    database.rotate_begin(KEK_B)
    with pytest.raises(StoreError, match="Strange is not known here"):
        database.rotate_step()
    database.close()


# --- for operators ----------------------------------------------------------------------------------------------------


def test_reading_needs_no_key(database: Database) -> None:
    subscriber = Subscriber(id="alice", smk=SMK(bytes(32)))
    put(database, Persist("subscriber", ("alice",), subscriber), Persist("t", (1,), Secret(b"")))
    reader = Database(database.path, None, readonly=True)
    row = reader.get("subscriber", ("alice",))
    assert isinstance(row, Subscriber) and isinstance(row.smk, SMK)
    assert row.smk.wiped and len(row.smk) == 32
    with pytest.raises(StoreError):
        put(reader, *counters(1))
    reader.close()


def test_views_show_what_is_stored_and_no_key(world: StoredWorld) -> None:
    for store in world.stores:
        for view, (table, columns) in _VIEWS.items():
            rows = store.database.query(f"SELECT * FROM {view}")
            held = store.state.get(table, {})
            if rows:
                assert len(rows) == len(held)
                assert len(rows[0]) == len(columns.split())
    bsm, bsda = world.stores[:2]
    now = world.clock.now
    live = bsm.database.query(
        "SELECT DISTINCT service FROM key_version WHERE valid_from <= ? AND valid_to > ? ORDER BY 1", (now, now)
    )
    assert live == [("urn:example:service:1",), ("urn:example:service:2",)]
    assert bsm.database.query("SELECT service, stream FROM stream ORDER BY 1") == [(s, n) for n, (s,) in enumerate(live, 1)]
    names = [name for (name,) in bsm.database.query("SELECT subscriber FROM subscriber ORDER BY 1")]
    assert names == ["card", "device", "leaving", "other"]
    assert set(bsm.database.query("SELECT * FROM counter")) == {(k[0], v) for k, v in bsm.state["smk-counter"].items()}
    assert bsda.database.query('SELECT sum(periods) > 2 FROM prepared WHERE "end" > ?', (now,)) == [(1,)]
    assert bsm.database.query("SELECT sum(letters) > 0, min(issued_at) > 0 FROM issued") == [(1, 1)]


def test_views_of_rows_with_unusual_keys(database: Database) -> None:
    material = KeyMaterial(key_type="SEAK", key_id=b"abcd", key=SEAK(bytes(32)), stream=1, valid_from=5, valid_to=9)
    programme = Programme("urn:ü", 1, "cid:\"'", 5, 9)
    put(database, Persist("key", (), LongTermKey(material, KeyState.CREATED)), Persist("programme", ("x",), programme))
    assert database.query("SELECT service, key_id, state FROM key_version") == [(None, "61626364", KeyState.CREATED.value)]
    assert database.query("SELECT service, content FROM programme") == [("urn:ü", "cid:\"'")]


def test_the_message_log_keeps_the_newest(tmp_path: Path) -> None:
    database = Database(tmp_path / "test.db", KEK_A, log_kept=10)
    for n in range(25):
        changes = Changes()
        changes.log = [LogEntry(time=n, direction="in", peer="urn:a", tag=5, message_id=f"{n}-{m}", status=0) for m in range(3)]
        database.commit(changes)
    assert database.query("SELECT count(*), min(message_id), max(time) FROM message_log") == [(10, "21-2", 24.0)]
    database.close()


def test_a_page_of_letters(database: Database) -> None:
    letters, names, windows = zip(*((bytes([n % 256]) * 200, f"s-{n}", (n, n + 5)) for n in range(1000)), strict=True)
    bundle = Bundle.of(letters, names, windows)
    page = Page(
        service="urn:news", stream=1, name="p", end=99, issued_at=5.5, ids=(("urn:bsda", "id"),), size=1000,
        confirmed=frozenset({"urn:bsda"}),
    )  # fmt: skip
    put(database, Persist("page", page.id, page), Persist("letters", page.id, bundle))
    assert database.load() == {"page": {page.id: page}, "letters": {page.id: bundle}}
    assert bundle.items() == letters and tuple(bundle.spans()) == windows
    assert database.query("SELECT letters, confirmed FROM issued") == [(1000, 1)]
