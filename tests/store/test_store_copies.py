# SPDX-License-Identifier: Apache-2.0
"""Copies: made while the server writes, and complete.  That one was put back is noticed: see ``test_store_restored``."""

from __future__ import annotations

import random
import stat
import threading
from pathlib import Path

import pytest
from store_support import KEK_A, KEK_B, after, counters, states_differ

from pybcast.errors import StoreError
from pybcast.flows import BSM, Persist, Right, Start
from pybcast.flows.allocator import SmkCounters
from pybcast.flows.events import Journal, Output
from pybcast.keys import TEK
from pybcast.store import SqliteStore, WrongKek
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
            patch.setattr("pybcast.store.database.sync_folder", fail)
            with pytest.raises(OSError, match="no"):
                store.backup(tmp_path / "copy.db")
        assert not list(tmp_path.glob("copy*"))
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
