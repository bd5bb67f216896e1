# SPDX-License-Identifier: Apache-2.0
"""kill -9 of either server, or both, at random moments: what was sealed stays sealed, what was on air stays what it was.

``PYBCAST_LONG=1``: more rounds, of other moments each time.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from servers_support import Process, System

from pybcast.flows.allocator import SealedBlock
from pybcast.flows.ltkm import Page
from pybcast.store import SqliteStore, load_kek

LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"
ROUNDS: Final = 60 if LONG else 4
Announced = tuple[str, int, str]
"""Service, start of the period, profile."""


class Invariants:
    """What must hold through every crash."""

    def __init__(self) -> None:
        self.sealed: dict[tuple[str, tuple[object, ...]], bytes] = {}
        self.letters: dict[tuple[str, int], bytes] = {}
        self.counters: dict[tuple[object, ...], int] = {}
        self.air: dict[Announced, str] = {}

    def database(self, system: System, role: str) -> None:
        """It opens; no COUNTER of a key has got another message (R1), no counter has gone back (R2)."""
        rows = system.rows(role)
        for key, value in rows.get("allocated", {}).items():
            assert isinstance(value, SealedBlock)
            for start, sealed in value.items:
                name = (role, (key[0], start))
                assert sealed.burnt or self.sealed.setdefault(name, sealed.data) == sealed.data, f"COUNTER used twice: {name}"
        for key, counter in rows.get("smk-counter", {}).items():
            assert isinstance(counter, int) and counter >= self.counters.get(key, 0)
            self.counters[key] = counter
        for page in rows.get("page", {}).values():
            assert isinstance(page, Page)
            assert len({letter.data for letter in page.letters}) == len(page.letters)

    def announced(self, process: Process) -> None:
        """One period, one STKM for each profile, whoever announces it however often."""
        for event in process.events:
            if event.get("event") == "Announce":
                for stkm in event["stkms"]:
                    name = (event["service"], event["start"], stkm["profile"])
                    assert self.air.setdefault(name, stkm["sha256"]) == stkm["sha256"], f"two STKMs: {name}"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def test_kill_at_random_moments(system: System) -> None:
    seed = int.from_bytes(os.urandom(4), "big") if LONG else 4
    print(f"seed {seed}")
    rng, held = random.Random(seed), Invariants()
    system.start("bsm", "bsda")
    status, _, err = system.command(
        "bsm", "subscriber", "add", "bsm.toml", "alice", "--random", "--service", "urn:example:service:A", "--service",
        "urn:example:service:B",
    )  # fmt: skip
    assert status == 0, err
    for number in range(ROUNDS):
        for process in system.running.values():  # under way, and a moment that nobody chose
            more = len(process.events) + rng.randrange(1, 120)
            process.wait(lambda seen, more=more: len(seen) >= more, f"event {more} of round {number}")  # type: ignore[misc]
        victims = (("bsm",), ("bsda",), ("bsm", "bsda"), ("bsda", "bsm"))[number % 4]
        for role in victims:
            system.kill(role)
            held.database(system, role)
        system.secrets()
        system.start(*victims)
    bsda = system.running["bsda"]
    newest = max(start for _, start, _ in _all_air(system, held))
    bsda.wait(
        lambda seen: {e["service"][-1] for e in seen if e.get("event") == "UseKey" and e["start"] > newest} == set("ABCD"),
        "key of a new period for every service",
    )
    assert system.stop() == {"bsm": 0, "bsda": 0}
    _all_air(system, held)
    for role in ("bsm", "bsda"):
        held.database(system, role)
    assert len(held.sealed) > 20 and held.counters
    for key in system.secrets():
        found = [line for process in system.past for line in process.raw if key in line or key.hex().encode() in line.lower()]
        assert not found
    for process in system.past:
        fatal = [e for e in process.events if e.get("event") == "fatal"]
        garbled = [n for n, e in enumerate(process.events) if e.get("event") == "not JSON"]
        # kill -9 may cut the last line of its log short, and the last of its events.
        assert not fatal and len(garbled) <= (2 if process.process.returncode < 0 else 0), (garbled, fatal, process.tail())


def _all_air(system: System, held: Invariants) -> dict[Announced, str]:
    for process in (*system.past, *system.running.values()):
        if process.role == "bsda":
            held.announced(process)
    return held.air


def test_sigterm_in_the_middle_of_a_rollover(system: System) -> None:
    system.start("bsm", "bsda")
    bsda = system.running["bsda"]
    bsda.wait(lambda seen: {e["service"][-1] for e in seen if e.get("event") == "UseKey"} >= {"A", "B"}, "key in use")
    assert system.command("bsm", "key", "rekey", "bsm.toml", "urn:example:service:B")[0] == 0
    assert system.running["bsm"].end(signal.SIGTERM) == 0
    system.past.append(system.running.pop("bsm"))
    system.start("bsm")
    keys = [k for k in system.shown("bsm", "key", "list", "bsm.toml") if k["service"].endswith("B") and k["key_type"] == "SEK"]
    assert keys, "the keys are there"
    last = keys[-1]["valid_from"]
    bsda.wait(
        lambda seen: any(e.get("event") == "UseKey" and e["service"][-1] == "B" and e["start"] >= last for e in seen), "new key"
    )
    assert system.stop() == {"bsm": 0, "bsda": 0}


def test_a_restored_copy_says_so_once(system: System) -> None:
    """Counters jump and keys roll (R2) when, and only when, the database is an older copy."""
    system.start("bsm")
    assert system.running["bsm"].end(signal.SIGTERM) == 0
    database, copy = system.folder / "bsm.db", system.folder / "copy.db"
    with SqliteStore(database, load_kek(f"file:{system.folder}/kek")) as store:
        store.backup(copy)
    numbers = dict(system.rows("bsm")["key-number"])
    copy.replace(database)
    for again in (False, True):
        system.start("bsm")
        process = system.running["bsm"]
        assert process.end(signal.SIGTERM) == 0
        assert any(e.get("event") == "restored" for e in process.events) is not again
        after = system.rows("bsm")["key-number"]
        for name, number in numbers.items():
            now = after[name]
            assert isinstance(now, int) and isinstance(number, int) and now > number + 200
