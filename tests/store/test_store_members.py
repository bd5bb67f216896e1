# SPDX-License-Identifier: Apache-2.0
"""Subscribers with cards in the store: what the journal would say, at any moment of writing; crashes, migrations, KEKs."""

from __future__ import annotations

import contextlib
import random
import select
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from members_children import CONFIG, KEK_A, RIGHT, SIZE, START, machine
from store_support import KEK_B, LONG, OnDisk, StoredWorld, put

from pybcast import codec
from pybcast.errors import LocalFlowError, StoreError
from pybcast.flows import Enrolment, Persist, Right, Subscriber
from pybcast.flows.bsm.delivery import Job
from pybcast.flows.bsm.members import Bundle, JournalMembers, Members, People
from pybcast.flows.journal import Journal, State
from pybcast.flows.stream.allocator import RESTORE_JUMP, SMK_BASE
from pybcast.keys import SMK, SRK, Keys
from pybcast.messages import ClearSmartcardLtkm
from pybcast.store import Database, SqliteStore, StoreDamaged
from pybcast.store.database import LETTERS
from pybcast.store.members import StoredMembers
from pybcast.store.people import member_crc, srk_crc
from pybcast.testing.scripts import START as WORLD_START
from pybcast.testing.scripts import streams

STREAMS: Final = (("urn:a", 1), ("urn:a", 2), ("urn:b", 1))
NAMES: Final = [f"card {n} \N{SNOWMAN}" for n in range(30)]


class Stored:
    """Members on a database whose writer lags behind, and the journal they belong to."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, KEK_A)
        self.waiting: list[list[Persist]] = []
        self.open()

    def open(self) -> None:
        self.write(len(self.waiting))
        self.journal = Journal(self.database.load(members=False))
        self.members = StoredMembers(Database(self.database.path, KEK_A, readonly=True), lambda: self.database.keks)
        self.members.bind(self.journal)

    def taken(self) -> None:
        """The end of an input."""
        self.waiting.append([output for output in self.journal.take() if isinstance(output, Persist)])

    def write(self, number: int) -> None:
        for batch in self.waiting[:number]:
            put(self.database, *batch)
        del self.waiting[:number]

    def close(self) -> None:
        self.members.close()
        self.database.close()


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    made = Stored(tmp_path / "test.db")
    yield made
    made.close()


def bound(state: State | None = None) -> JournalMembers:
    members = JournalMembers()
    members.bind(Journal(state))
    return members


def person(name: str, seed: int = 0) -> Subscriber:
    rng = random.Random(f"{name} {seed}")
    smk = SMK(rng.randbytes(32))
    return Subscriber(id=name, smk=smk, idr=f"{name}@{seed}", srk=SRK(rng.randbytes(32)) if rng.random() < 0.6 else None)


def right(rng: random.Random, stream: tuple[str, int]) -> Right:
    start = rng.randrange(5)
    return Right(service=stream[0], stream=stream[1], start=start, end=start + rng.randrange(1, 5), content=rng.choice([None, "p"]))


def columns(people: People) -> list[tuple[object, ...]]:
    """Whatever order a subscriber's rights come in."""
    rows = zip(people.names, people.places, people.idrs, people.smks, people.counters, map(sorted, people.rights), strict=True)
    return [(*row[:5], tuple(row[5])) for row in rows]


def same(a: Members, b: Members, rng: random.Random) -> None:
    """Every question has one answer."""
    for name in NAMES:
        found = a.get(name)
        assert found == b.get(name) and sorted(a.streams(name)) == sorted(b.streams(name))
        for idr in ("" if found is None else found.idr, f"{name}@0", f"{name}@1"):
            assert a.known_as(idr) == b.known_as(idr)
        for stream in STREAMS:
            key = lambda r: (r.start, r.end, r.content or "")  # noqa: E731
            assert sorted(a.rights(name, stream), key=key) == sorted(b.rights(name, stream), key=key)
    some = rng.sample([*NAMES, "nobody"], 7)
    assert a.told(b"key", some) == b.told(b"key", some)
    for stream in STREAMS:
        assert a.count(stream) == b.count(stream)
        assert columns(a.some(some, stream)) == columns(b.some(some, stream))
        assert walk(a, stream, 100) == walk(b, stream, rng.randrange(1, 9))


def walk(members: Members, stream: tuple[str, int], limit: int) -> list[tuple[object, ...]]:
    """All who are entitled, ``limit`` at a time."""
    found: list[tuple[object, ...]] = []
    after = 0
    while (people := members.entitled(stream, after, limit)).names:
        assert len(people.names) <= limit
        found += columns(people)
        after = people.places[-1]
    return found


@pytest.mark.parametrize("seed", range(50 if LONG else 8))
def test_the_store_says_what_the_journal_says(stored: Stored, seed: int) -> None:
    """Whatever is asked, however much of it is written."""
    rng, other = random.Random(seed), bound()
    known: list[str] = []
    pages: dict[tuple[str, int, str], Bundle] = {}
    for number in range(150):
        both: tuple[Members, Members] = (other, stored.members)
        for _ in range(rng.randrange(1, 4)):
            stream = rng.choice(STREAMS)
            some = rng.sample(known, min(len(known), rng.randrange(1, 6)))
            match rng.randrange(10) if known else 0:
                case 0 | 1:
                    new = [person(name, rng.randrange(2)) for name in rng.sample(NAMES, rng.randrange(1, 5))]
                    known += [one.id for one in new if one.id not in known]
                    for members in both:
                        members.put(new)
                case 2 | 3:
                    rights = [(name, right(rng, stream)) for name in some]
                    for members in both:
                        members.grant(rights)
                case 4 | 5:
                    for members in both:
                        members.forget(some[0], stream)
                case 6:
                    numbers = [rng.randrange(3) for _ in some]
                    for members in both:
                        members.spend(members.some(some, stream), numbers)
                case 7:
                    for members in both:
                        members.tell(b"key", some)
                case 8 if rng.random() < 0.5:
                    for members in both:
                        if members.get(some[0]) is not None:
                            for held in members.streams(some[0]):
                                members.forget(some[0], held)
                            members.remove(some[0])
                    known.remove(some[0])
                case 8:
                    bundle = Bundle.of([rng.randbytes(9)] * 2, some[:1] * 2, [(1, 2), (3, 4)])
                    pages["urn:a", 1, str(number)] = bundle
                    stored.members.keep(("urn:a", 1, str(number)), bundle)
                case _:
                    for members in both:
                        members.jump(RESTORE_JUMP)
                    stored.members.untell(b"key")
                    other.untell(b"key")
                    stored.taken()
                    stored.write(len(stored.waiting))  # a key that is gone is not asked for until that is stored
        same(*both, rng)
        stored.taken()
        stored.write(rng.randrange(3))
        if pages:
            page = rng.choice(list(pages))
            assert stored.members.letters(page) == pages[page]
            if rng.random() < 0.1:
                stored.members.drop(page)
                del pages[page]
        same(*both, rng)
        if rng.random() < 0.05:
            stored.members.close()
            stored.taken()
            stored.open()
            same(other, stored.members, rng)


def test_one_with_more_rights_than_are_asked_for_at_a_time(stored: Stored) -> None:
    other = bound()
    for members in (other, stored.members):
        members.put([person("a"), person("b")])
        members.grant([("a", Right(service="urn:a", stream=1, start=n, end=n + 1)) for n in range(20)])
        members.grant([("b", Right(service="urn:a", stream=1, start=5, end=6))])
    stored.taken()
    stored.write(1)
    assert walk(other, ("urn:a", 1), 2) == walk(stored.members, ("urn:a", 1), 2) == walk(stored.members, ("urn:a", 1), 1)


def test_whoever_lost_his_right_a_moment_ago_does_not_end_the_walk(stored: Stored) -> None:
    names = [f"{n}" for n in range(10)]
    stored.members.put([person(name) for name in names])
    stored.members.grant([(name, Right(service="urn:a", stream=1, start=0, end=9)) for name in names])
    stored.taken()
    stored.write(1)
    for name in names[:6]:
        stored.members.forget(name, ("urn:a", 1))
    assert stored.members.entitled(("urn:a", 1), 0, 2).names == ["6", "7"]
    assert stored.members.entitled(("urn:nothing", 1), 0, 2).names == []


def test_who_and_what_is_not_known(stored: Stored) -> None:
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        stored.members.grant([("nobody", Right(service="urn:a", stream=1, start=0, end=1))])
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        bound().place("nobody")
    assert stored.members.rights("nobody", ("urn:a", 1)) == []
    stored.members.put([person("a")])
    with pytest.raises(StoreError, match="content: expected the name of a programme"):
        stored.members.grant([("a", Right(service="urn:a", stream=1, start=0, end=1, content=""))])
    with pytest.raises(StoreDamaged, match="the letters of page p are missing"):
        stored.members.letters(("urn:a", 1, "p"))


def test_counters_jump_in_one_row(stored: Stored) -> None:
    """R2: after a restore, also of one whom that copy does not know."""
    stored.members.put([person("a")])
    stored.members.spend(stored.members.some(["a"], STREAMS[0]), [3])
    stored.taken()
    stored.members.jump(RESTORE_JUMP)
    assert [row.table for row in stored.journal.take() if isinstance(row, Persist)] == [SMK_BASE.name]
    stored.members.put([person("b")])
    assert list(stored.members.some(["a", "b"], STREAMS[0]).counters) == [RESTORE_JUMP + 3, RESTORE_JUMP]


def test_of_several_with_one_b_tid_the_last_one_counts(stored: Stored) -> None:
    other = bound()
    for members in (other, stored.members):
        members.put([person("a"), replace(person("b"), idr="a@0"), replace(person("c"), idr="a@0")])
        members.put([replace(person("c"), idr="c@9")])
    for _ in range(2):
        for members in (other, stored.members):
            for idr, name in (("a@0", "b"), ("c@9", "c"), ("nobody", None)):
                found = members.known_as(idr)
                assert (None if found is None else found.id) == name
            assert members.streams("nobody") == [] == members.streams("a")
        stored.taken()
        stored.write(1)


# --- in the file ------------------------------------------------------------------------------------------------------


def filled(path: Path, size: int = 50) -> list[Subscriber]:
    people = [person(f"s{n}") for n in range(size)]
    with SqliteStore(path, KEK_A) as store:
        members, journal = store.members(), Journal(store.load())
        members.bind(journal)
        members.put(people)
        members.grant([(one.id, RIGHT) for one in people])
        members.spend(members.some(["s0"], RIGHT.stream_id), [5])
        members.tell(b"key", ["s1"])
        store.write([output for output in journal.take() if isinstance(output, Persist)])
    return people


def test_what_is_in_the_file(tmp_path: Path) -> None:
    people = filled(tmp_path / "test.db")
    with contextlib.closing(Database(tmp_path / "test.db", KEK_A)) as database:
        state = database.load()
        assert [state["subscriber"][one.id,] for one in people] == people
        assert state["right"][("s1", *RIGHT.stream_id, RIGHT.start, RIGHT.end, None)] == RIGHT and len(state["right"]) == 50
        assert state["smk-counter"]["s0",] == 5 and state["told"] == {(b"key", "s1"): True}
        assert database.load(members=False) == {}
        assert database.query("SELECT count(*), min(profile), max(idr) FROM subscriber") == [(50, "smartcard", "s9@0")]
        entitled = 'SELECT count(DISTINCT subscriber), max("end"), max(content) FROM entitlement'
        assert database.query(entitled) == [(50, RIGHT.end, None)]
        assert database.query("SELECT subscriber FROM counter WHERE counter = 5") == [("s0",)]
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(one.smk is not None and one.smk.reveal() in raw for one in people)
    with contextlib.closing(Database(tmp_path / "test.db", None, readonly=True)) as database:
        wiped = database.load()["subscriber"]["s0",]
        assert isinstance(wiped, Subscriber) and wiped.smk is not None and wiped.smk.wiped


@pytest.mark.parametrize("finish", [True, False])
def test_a_new_key_encryption_key(tmp_path: Path, finish: bool) -> None:
    """While it is changed, and after; a server that runs reads on."""
    people = filled(tmp_path / "test.db")
    database = Database(tmp_path / "test.db", KEK_A)
    members = StoredMembers(Database(tmp_path / "test.db", KEK_A, readonly=True), lambda: database.keks)
    members.bind(Journal())
    database.rotate_begin(KEK_B)
    while database.rotate_step(10) and (finish or database.query("SELECT count(*) FROM member WHERE kek = 2") != [(20,)]):
        assert [members.get(one.id) for one in people[::7]] == people[::7]
    members.close()
    database.close()
    with SqliteStore(tmp_path / "test.db", KEK_B) as store:
        assert store.rotating is not finish
        again = store.members()
        again.bind(Journal(store.load()))
        assert [again.get(one.id) for one in people] == people
        store.finish_rotation()
        assert [again.get(one.id) for one in people] == people
    assert KEK_B != KEK_A


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("UPDATE member SET idr = idr || 'x' WHERE id = 3", r"table member, 's2': damaged \(checksum\)"),
        ("UPDATE member SET kek = 9 WHERE id = 3", r"table member, 's2': damaged \(checksum\)"),
        ('UPDATE member_right SET "end" = "end" + 1 WHERE member = 3', r"table member_right, member 3: damaged"),
        ("UPDATE member_counter SET value = value + (1 << 40) WHERE member = 3", r"table member_counter, member 3: damaged"),
        ("UPDATE member_counter SET value = value + 4 WHERE member = 3", r"table member_counter, member 3: damaged"),
        ("DELETE FROM member_counter WHERE member = 3", "member 3 is missing"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, damage: str, what: str) -> None:
    filled(tmp_path / "test.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as other:
        other.execute(damage)
        other.commit()
    with SqliteStore(tmp_path / "test.db", KEK_A) as store, pytest.raises(StoreDamaged, match=what):
        members = store.members()
        members.bind(Journal(store.load()))
        members.entitled(RIGHT.stream_id, 0, 100)


def test_a_key_that_does_not_unwrap(tmp_path: Path) -> None:
    filled(tmp_path / "test.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as other:
        crc = member_crc(3, "s2", "s2@0", bytes(48), 1)
        other.execute("UPDATE member SET smk = ?, crc = ? WHERE id = 3", (bytes(48), crc))
        other.commit()
    with SqliteStore(tmp_path / "test.db", KEK_A) as store, pytest.raises(StoreDamaged, match="'s2': a key does not unwrap"):
        members = store.members()
        members.bind(Journal(store.load()))
        members.get("s2")


def test_srks_in_the_file(tmp_path: Path) -> None:
    """Wrapped; under the new key-encryption key after a change of it; damage is seen; a reader without the key sees none."""
    path = tmp_path / "test.db"
    people = {one.id: one for one in filled(path)}
    some = [one for one in people.values() if one.srk is not None]
    assert 10 < len(some) < 50
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(one.srk.reveal() in files for one in some if one.srk is not None)
    with SqliteStore(path, KEK_A) as store:
        store.rotate_kek(KEK_B)
    with contextlib.closing(Database(path, KEK_B, readonly=True)) as reader:
        found = reader.load()["subscriber"]
        assert {name: getattr(row, "srk", None) for (name,), row in found.items()} == {n: one.srk for n, one in people.items()}
    with contextlib.closing(Database(path, None, readonly=True)) as reader:
        assert all(row.srk is None or row.srk.wiped for row in reader.load()["subscriber"].values() if isinstance(row, Subscriber))
    place = list(people).index(some[0].id) + 1
    for damage, what in (
        (f"UPDATE member_srk SET srk = zeroblob(48) WHERE member = {place}", "damaged"),
        (
            f"UPDATE member_srk SET srk = zeroblob(48), crc = {srk_crc(place, bytes(48), 2)} WHERE member = {place}",
            "does not unwrap",
        ),
    ):
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute(damage)
            other.commit()
        with SqliteStore(path, KEK_B) as store:
            members = store.members()
            members.bind(Journal({}))
            with pytest.raises(StoreDamaged, match=f"member_srk, member {place}: .*{what}"):
                members.get(some[0].id)
        with contextlib.closing(Database(path, KEK_B, readonly=True)) as reader, pytest.raises(StoreDamaged, match=what):
            reader.load()


# --- machines -----------------------------------------------------------------------------------------------------------


class MembersOnDisk(OnDisk):
    """A memory whose members are read where they lie."""

    def copy(self) -> State:
        self.flush()
        self.loads += 1
        return self.database.load(members=False)


class MembersWorld(StoredWorld):
    """A system whose BSM keeps its subscribers with cards in its store; what it puts is written now and then."""

    def start_bsm(self, state: State | None = None, *, restored: bool = False, gap: float | None = None) -> None:
        if not isinstance(self.bsm_store, MembersOnDisk):
            self.bsm_store = MembersOnDisk(self.folder / "bsm.db")
        super().start_bsm(state, restored=restored, gap=gap)

    def members(self) -> StoredMembers:
        database = self.bsm_store.database  # type: ignore[attr-defined]
        return StoredMembers(Database(database.path, KEK_A, readonly=True), lambda: database.keks)

    def _tick_bsm(self) -> None:
        super()._tick_bsm()
        if self.rng.random() < 0.2:
            self.bsm_store.flush()  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(10 if LONG else 2))
def test_a_system_whose_members_are_in_the_store(tmp_path: Path, seed: int) -> None:
    """Entitled terminals play, others do not, no COUNTER twice: through rollovers, withdrawals and crashes."""
    configs = streams()
    world = MembersWorld(tmp_path, *configs, seed=seed)
    viewers = [world.add_card("card"), world.add_device("device", 5), world.add_card("leaving"), world.add_card("late")]
    for viewer in viewers[:3]:
        for config in configs:
            world.tune(viewer, config)
            world.grant(viewer, config, WORLD_START - 1000, WORLD_START + 10**6)
    for config in configs:
        world.sample(config, viewers, every=2.0)
    world.crash = 0.005
    world.clock.run(WORLD_START + 150)
    world.withdraw(viewers[2], configs[0], at_once=True)
    world.tune(viewers[3], configs[0])
    world.grant(viewers[3], configs[0], WORLD_START - 1000, WORLD_START + 10**6)
    world.clock.run(WORLD_START + 300)
    world.stop_bsm()
    world.start_bsm()
    world.clock.run(WORLD_START + 700)
    assert world.violations == []
    assert world.plays(viewers[0], configs[0]) and world.plays(viewers[3], configs[0]) and not world.plays(viewers[2], configs[0])
    members = world.bsm_store.database.query("SELECT count(*) FROM member")  # type: ignore[attr-defined]
    assert members == [(3,)] and set(world.bsm_store.copy()["subscriber"]) == {("device",)}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """The machine is made again of what is stored; members that were put meanwhile are put again."""
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        bsm = machine(store)
        outputs = bsm.add_subscribers([Enrolment(person("a"), (RIGHT,))], START)
        assert isinstance(outputs[0], Persist)
        batch: list[Persist] = [output for output in outputs if isinstance(output, Persist)]
        with pytest.raises(StoreError):
            store.write([*batch, Persist("t", (), object())])
        bsm = machine(store)
        with pytest.raises(LocalFlowError, match="no subscriber a"):
            bsm.grant("a", RIGHT, START)
        store.write([output for output in bsm.tick(START) if isinstance(output, Persist)])
        assert store.stats().rows > 0


def test_a_job_among_those_with_several_rights(tmp_path: Path) -> None:
    """However many rights a read brings: it ends when there is nobody left."""
    rights = tuple(Right(service=RIGHT.service, stream=1, start=START + n, end=START + n + 10**6) for n in range(3))
    with SqliteStore(tmp_path / "test.db", KEK_A) as store:
        members, journal = store.members(), Journal(store.load())
        members.bind(journal)
        members.put([person(f"{n}") for n in range(1500)])
        members.grant([(f"{n}", one) for n in range(1500) for one in rights])
        store.write([output for output in journal.take() if isinstance(output, Persist)])
        bsm, found = machine(store), Counter[str]()
        for n in range(5):
            outputs = [output for output in bsm.tick(START + n) if isinstance(output, Persist)]
            found.update(str(name) for row in outputs if isinstance(row.value, Bundle) for name in row.value.names)
            store.write(outputs)
        assert bsm.issuing() == () and found == Counter(f"{n}" for n in range(1500))


# --- kill -9 in the middle of a job -----------------------------------------------------------------------------------


def _everyone(path: Path) -> tuple[Counter[str], list[bytes], int]:
    """How many letters each has; the letters; how far COUNTERs have risen, together."""
    with contextlib.closing(Database(path, KEK_A, readonly=True)) as reader:
        bundles = [row for _, row in reader.rows(LETTERS) if isinstance(row, Bundle)]
        ((risen,),) = reader.query("SELECT sum(counter) FROM counter")
        assert isinstance(risen, int)
        return Counter(str(name) for b in bundles for name in b.names), [one for b in bundles for one in b.items()], risen


@pytest.mark.parametrize("seed", range(20 if LONG else 3))
def test_kill_9_in_the_middle_of_a_job(tmp_path: Path, seed: int) -> None:
    """Each subscriber has exactly one LTKM of the key, under exactly one COUNTER; however often the process was killed."""
    rng, path = random.Random(seed), tmp_path / "test.db"
    script = Path(__file__).with_name("members_children.py")
    killed = 0
    for _ in range(100):
        with subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE, bufsize=0) as child:
            assert child.stdout is not None
            stop = rng.randrange(1, 3)  # inputs that were stored, and then a moment more
            lines = 0
            while lines < stop and child.stdout.readline():
                lines += 1
            select.select([child.stdout], [], [], rng.uniform(0, 0.02))
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read()
            child.wait()
            killed += child.returncode == -signal.SIGKILL
        letters, data, risen = _everyone(path)
        assert set(letters.values()) <= {1} and risen == len(letters) == len(set(data)), "stored together, or not at all"
        if b"done" in rest or child.returncode == 0:
            break
    assert killed >= 2
    assert len(letters) == SIZE and risen == SIZE
    with SqliteStore(path, KEK_A) as store:
        bsm = machine(store)
        assert bsm.issuing() == () and not [o for o in bsm.tick(START) if isinstance(o, Persist) and isinstance(o.value, Job)]
        ((key,),) = [[row.material for row in bsm.keys(*CONFIG.id)]]
        members = store.members()
        members.bind(Journal(store.load()))
        seen = set()
        for n in (0, 1, SIZE // 2, SIZE - 1):
            one = members.get(f"subscriber-{n}")
            assert one is not None
            (mine,) = [data[i] for i, name in enumerate(letters) if name == one.id]
            clear = codec.open(mine, Keys(smk=one.smk), "smartcard-ltkm")
            assert isinstance(clear, ClearSmartcardLtkm) and clear.sek == key.key and clear.counter == 1
            seen.add(mine)
        assert len(seen) == 4
