# SPDX-License-Identifier: Apache-2.0
"""kill -9 of either server, or both, at random moments under load: what was sealed stays sealed, what was on air stays what it was,
nothing is missing that being dead does not explain.

``PYBCAST_LONG=1``: 200 rounds, of other moments each time.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from evidence import SETTLED, Evidence
from servers_support import Process, System, _service

from pybcast.errors import BcastError
from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.flows.bsm.members import Subscriber
from pybcast.servers.control import ask
from pybcast.wire.times import NTP_UNIX

LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"
ROUNDS: Final = 200 if LONG else 20
SETTLE_EVERY: Final = 3  # rounds: then both live for a while, so that the next deaths meet periods prepared ahead
PEOPLE: Final = 30
PERIOD, AHEAD = 1, 12
LETTERS: Final = "ABCDEF"
FAST: Final = {"period": PERIOD, "look_ahead": AHEAD, "key_period": 40, "carousel_cycle": 2.0}
LOAD: Final = "".join((
    _service("A", 1, "bsm", "push", **FAST), _service("B", 2, "bsda", "push", **FAST),
    _service("C", 3, "bsm", "pull", **FAST), _service("D", 4, "bsda", "pull", **FAST),
    _service("E", 5, "bsm", "push", synchronous=True, profiles=["smartcard"], **FAST),
    _service("F", 6, "bsda", "push", profiles=["drm"], **FAST),
))  # fmt: skip
SERVICES: Final = tuple(f"urn:example:service:{letter}" for letter in LETTERS)


class Shop(threading.Thread):
    """Adds subscribers, one after the other, whether there is a BSM or not; ``sold``: those that were accepted."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path, self.closed, self.sold, self.failed = path, threading.Event(), list[str](), 0

    def run(self) -> None:
        while not self.closed.wait(0.5) and len(self.sold) < PEOPLE:
            name = f"person-{len(self.sold)}-{self.failed}"
            try:
                ask(self._path, "subscriber-add", name=name, services=["urn:example:service:A", "urn:example:service:B"])
                self.sold.append(name)
            except (BcastError, ValueError):  # nobody there, or he died in the middle of the answer
                self.failed += 1


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path, LOAD)
    yield made
    made.close()


def _in_use(bsda: Process, after: float) -> None:
    """Until every service uses the key of a period that begins after that Unix time."""
    start = after + NTP_UNIX
    bsda.wait(
        lambda seen: {e["service"] for e in seen if e.get("event") == "UseKey" and e["start"] > start} == set(SERVICES),
        "key of a new period for every service",
    )


def test_kill_at_random_moments_under_load(loaded: System) -> None:
    system = loaded
    seed = int.from_bytes(os.urandom(4), "big") if LONG else 4
    print(f"seed {seed}")
    rng, held = random.Random(seed), Evidence()
    system.start("bsm", "bsda")
    shop = Shop(system.folder / "bsm.sock")
    shop.start()
    _in_use(system.running["bsda"], 0)
    for number in range(ROUNDS):
        if number % SETTLE_EVERY == 0:
            _in_use(system.running["bsda"], time.time() + SETTLED)
        for process in system.running.values():  # under way, and a moment that nobody chose
            more = len(process.events) + rng.randrange(1, 100)
            process.wait(lambda seen, more=more: len(seen) >= more, f"event {more} of round {number}")  # type: ignore[misc]
        victims = (("bsm",), ("bsda",), ("bsm", "bsda"))[number % 3]
        held.on_air(system.running.values())
        system.kill(*victims)
        for name in victims:
            held.database(system, name)
        system.start(*victims)
    shop.closed.set()
    shop.join()
    _in_use(system.running["bsda"], time.time() + SETTLED)
    _everyone_served(system, held, shop.sold)
    until = time.time()
    assert system.stop() == {"bsm": 0, "bsda": 0}
    for name in ("bsm", "bsda"):
        held.database(system, name)
    held.on_air(system.past)
    expected, missing = held.missing(system, SERVICES, PERIOD, AHEAD, until)
    print(f"{len(held.air)} on air, {expected} looked for, {held.compared()} compared, {len(held.letters)} LTKMs")
    assert not missing, missing
    assert expected > len(SERVICES) * ROUNDS, "too few periods were looked for to say anything"
    assert held.compared() > 5 * ROUNDS and len(shop.sold) >= min(PEOPLE, ROUNDS // 2) and held.letters and held.counters
    for process in system.past:
        process.check()


def _everyone_served(system: System, held: Evidence, sold: list[str]) -> None:
    """Every subscriber that was accepted is there, and has an LTKM of every key that is to come."""
    rows = system.rows("bsm")
    people = {s.id: s for s in rows["subscriber"].values() if isinstance(s, Subscriber)}
    assert set(sold) <= people.keys(), "lost what was accepted"
    now = time.time() + NTP_UNIX
    keys = [r.material for r in rows["key"].values() if isinstance(r, LongTermKey) and r.material.key_type == "SEK"]
    wanted = {
        (people[name].idr.encode(), key.key_id)
        for name in sold for key in keys if now < key.valid_to and key.key_id[3:5] in (b"\0\1", b"\0\2")
    }  # fmt: skip
    assert wanted

    def there(_: list[dict[str, Any]]) -> bool:
        return wanted <= held.letters_of(system, "bsda")

    system.running["bsda"].wait(there, "LTKM for everyone")


def test_a_restored_copy_says_so_once(system: System) -> None:
    """Counters jump and keys roll (R2) when, and only when, the database is an older copy."""

    def start_and_stop() -> Process:
        system.start("bsm")
        process = system.running["bsm"]
        process.at_work()
        assert process.end(signal.SIGTERM) == 0
        return process

    start_and_stop()
    database, copy = system.folder / "bsm.db", system.folder / "copy.db"
    shutil.copy(database, copy)
    start_and_stop()
    numbers = dict(system.rows("bsm")["key-number"])
    copy.replace(database)
    for again in (False, True):
        process = start_and_stop()
        assert any(e.get("event") == "restored" for e in process.events) is not again
        after = system.rows("bsm")["key-number"]
        for name, number in numbers.items():
            now = after[name]
            assert isinstance(now, int) and isinstance(number, int) and now > number + 200
