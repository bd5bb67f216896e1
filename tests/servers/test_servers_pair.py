# SPDX-License-Identifier: Apache-2.0
"""A main and a back-up BSD/A that share a secret (F4, R33): the same STKMs, octet by octet, whichever of them dies; and a change of
keys that a SIGTERM interrupts before both know of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
from evidence import Evidence
from servers_support import Process, System, _service

from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.wire.times import NTP_UNIX

PAIR: Final = ("bsda", "bsda2")
OF_BOTH: Final = {
    "bsm": "urn:example:bsm", "bsdas": [f"urn:example:{name}" for name in PAIR], "period": 1, "look_ahead": 4, "key_period": 20,
    "interaction": False,
}  # fmt: skip
SERVICES: Final = _service("A", 1, "bsda", "push", **OF_BOTH) + _service("B", 2, "bsda", "pull", **OF_BOTH)
PERIODS: Final = 5
VICTIMS: Final = (PAIR, PAIR[::-1]) if os.environ.get("PYBCAST_LONG", "") == "1" else (PAIR,)
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Started once: two headends without stores get their first keys one after the other (R10, R33)."""
    made = System(tmp_path_factory.mktemp("pair"), SERVICES, bsdas=PAIR)
    try:
        made.start("bsm", *PAIR)
        yield made
    finally:
        made.close()


def _periods(process: Process, after: float, count: int = PERIODS, letters: str = "AB") -> None:
    """Until each service has used the keys of so many periods that begin after that Unix time."""
    start = after + NTP_UNIX

    def enough(seen: Events) -> bool:
        used = Counter(letter for letter, _ in {(e["service"][-1], e["start"]) for e in seen if _is_use(e, start)})
        return all(used[letter] >= count for letter in letters)

    process.wait(enough, f"{count} periods")


def _is_use(event: dict[str, Any], start: float) -> bool:
    return event.get("event") == "UseKey" and event["start"] > start


def _common(*processes: Process) -> set[tuple[str, int]]:
    """Periods that each of them announced."""
    announced = [{(e["service"], e["start"]) for e in p.events if e.get("event") == "Announce"} for p in processes]
    return set.intersection(*announced)


def test_both_send_the_same_whichever_dies(system: System) -> None:
    held = Evidence()
    for victim, other in VICTIMS:
        since = time.time()
        for name in PAIR:
            _periods(system.running[name], since)
        assert len(_common(*(system.running[name] for name in PAIR))) >= 2 * PERIODS - 4
        system.kill(victim)
        held.database(system, victim)
        _periods(system.running[other], time.time(), 3)  # one goes on alone
        system.start(victim)
    since = time.time()
    for name in PAIR:
        _periods(system.running[name], since)
    held.on_air((*system.past, *(system.running[name] for name in PAIR)))  # one STKM for each period, whoever sends it
    for name in ("bsm", *PAIR):
        held.database(system, name)
    assert len(_common(*(system.running[name] for name in PAIR))) >= 2 * PERIODS - 4
    assert held.compared() > 4


def test_r50_a_headend_that_is_off_air_asks_for_everything_anew(system: System) -> None:
    """The operator says that it is off air; its pair goes on with a new key; at its start it hears that its store is void."""
    held = Evidence()
    for name in PAIR:
        _periods(system.running[name], 0, 1)
    system.kill("bsda2")
    for letter in "AB":
        words = ("bsm", "key", "rekey", "bsm.toml", f"urn:example:service:{letter}", "--without", "urn:example:bsda2")
        status, _, err = system.command(*words)
        assert status == 0, err
    _periods(system.running["bsda"], time.time(), 3)
    since = time.time()
    system.start("bsda2")
    back = system.running["bsda2"]
    events = back.wait(lambda seen: any(e.get("event") == "restored" for e in seen), "word of the BSM")
    (found,) = [n for n, e in enumerate(events) if e.get("event") == "restored"]
    assert "off air" in events[found]["why"]
    assert not any(e.get("event") == "Announce" for e in events[:found])
    for name in PAIR:
        _periods(system.running[name], since, 3)
    held.on_air((*system.past, *(system.running[name] for name in PAIR)))


def test_sigterm_in_the_middle_of_a_rollover(system: System) -> None:
    """One headend knows the new key, the other is dead, the BSM is stopped: its next life goes on, and nothing comes twice.

    The key that an operator wants waits for the dead one (R50); the one that follows in time does not.
    """
    held = Evidence()
    for name in PAIR:
        _periods(system.running[name], 0, 1)
    status, _, err = system.command(
        "bsm", "subscriber", "add", "bsm.toml", "alice", "--random", "--service", "urn:example:service:A"
    )  # fmt: skip
    assert status == 0, err
    system.kill("bsda2")
    before = _keys(system)
    assert system.command("bsm", "key", "rekey", "bsm.toml", "urn:example:service:A")[0] == 0
    bsm = system.running["bsm"]
    bsm.wait(lambda _: any(key not in before and row.confirmed for key, row in _keys(system).items()), "the main knows the new key")
    new = {key: row for key, row in _keys(system).items() if key not in before}
    assert new and all("urn:example:bsda2" not in row.confirmed for row in new.values()), "the back-up does not"
    assert bsm.end(signal.SIGTERM) == 0
    system.past.append(system.running.pop("bsm"))
    held.database(system, "bsm")
    system.start("bsm", "bsda2")
    system.running["bsm"].at_work()
    after = _keys(system)  # before they end, on a machine that is slow
    assert new.keys() <= after.keys(), "no other took its place"
    begins, ends = (max(getattr(row.material, edge) for row in new.values()) - NTP_UNIX for edge in ("valid_from", "valid_to"))
    ids = {row.material.key_id for row in new.values() if row.material.key_type == "SEK"}

    def on_carousel(name: str) -> bool:
        """The new key, while it holds: on a machine that is very slow it may be over before it is there."""
        return ids <= {key_id for _, key_id in held.letters_of(system, name)} or time.time() >= ends

    for name in PAIR:
        system.running[name].wait(lambda _, name=name: on_carousel(name), "the new key on the carousel")  # type: ignore[misc]
    for name in PAIR:
        _periods(system.running[name], begins, 4, "A")
    starts = Counter((row.material.key_type, row.material.valid_from) for row in after.values())
    assert set(starts.values()) == {1}, "no key is there twice"
    assert system.stop() == dict.fromkeys(("bsm", *PAIR), 0)
    held.on_air(process for process in system.past if process.role == "bsda")
    for name in ("bsm", *PAIR):
        held.database(system, name)
    for process in system.past:
        process.check()


def _keys(system: System) -> dict[tuple[object, ...], LongTermKey]:
    """The keys of service A that the BSM has."""
    rows = system.rows("bsm").get("key", {}).items()
    return {key: row for key, row in rows if isinstance(row, LongTermKey) and key[0] == "urn:example:service:A"}
