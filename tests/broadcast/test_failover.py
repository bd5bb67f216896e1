# SPDX-License-Identifier: Apache-2.0
"""Two headends as processes, each a BSD/A and its STKM sender, on one multicast group: one sends, and whichever dies is not missed
for longer than its detection and one repetition take; whoever sends, one period has one STKM (R33).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from evidence import Evidence, digest
from hearing import Listener, gaps
from servers_support import Process, System, _service, free_ports

from pybcast.broadcast import link
from pybcast.wire.times import NTP_UNIX

PAIR: Final = ("bsda", "bsda2")
REPETITION: Final = 0.1
DETECTION: Final = 0.5
OF_BOTH: Final = {
    "bsm": "urn:example:bsm", "bsdas": [f"urn:example:{name}" for name in PAIR], "period": 1, "look_ahead": 4, "key_period": 12,
    "interaction": False,
}  # fmt: skip
LETTERS: Final = "AB"
LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"
GENERATION: Final = "bsda" if LONG else "bsm"
"""Two headends without stores get their first long-term keys (F4) one after the other, which takes half a minute."""


class Headends:
    """A BSM, two BSD/As and their senders; ``ports``: (letter, profile) -> port."""

    def __init__(self, folder: Any) -> None:
        base, beats = sorted(free_ports(2))
        self.group = f"239.255.{os.getpid() % 250}.{base % 250 + 1}"
        self.ports = {
            (letter, profile): base + 2 * n + second
            for n, letter in enumerate(LETTERS)
            for second, profile in enumerate(("drm", "smartcard"))
        }
        services = "".join(
            _service(letter, 1 + n, GENERATION, "push", stkm=f"{self.group}:{base + 2 * n}", **OF_BOTH)
            for n, letter in enumerate(LETTERS)
        )
        self.system = System(folder, services, bsdas=PAIR)
        for priority, name in enumerate(PAIR):
            path = folder / f"{name}.toml"
            air = (
                f'[air]\nevents = "-"\nsender = "{name}-air.sock"\nheartbeat = "{self.group}:{beats}"\npriority = {priority}\n'
                f"detection = {DETECTION}\n"
            )
            path.write_text(path.read_text().replace('[air]\nevents = "-"\n', air))
        self.senders: dict[str, Process] = {}
        self.listener = Listener(self.group, list(self.ports.values()))

    def start(self, *names: str) -> None:
        """The senders of these BSD/As."""
        for name in names:
            self.senders[name] = Process("bsda", self.system.folder, name, command=("air", "stkm"))
        for name in names:
            self.senders[name].ready()

    def kill(self, name: str) -> None:
        self.senders[name].process.kill()
        sender = self.senders.pop(name)
        sender.gone()
        self.system.past.append(sender)

    def state(self, name: str) -> dict[str, Any]:
        return link.ask(self.system.folder / f"{name}-air.sock")

    def until(self, wanted: Callable[[dict[str, Any], dict[str, Any]], bool], what: str) -> None:
        """Until the states of main and back-up are so."""
        end = time.monotonic() + 60
        while not wanted(self.state(PAIR[0]), self.state(PAIR[1])):
            assert time.monotonic() < end, f"{what}: {self.state(PAIR[0])}, {self.state(PAIR[1])}"

    def uses(self, name: str, after: float, count: int = 2) -> None:
        """Until each service of a headend has used so many keys of periods that begin after that Unix time."""
        start = after + NTP_UNIX

        def enough(seen: list[dict[str, Any]]) -> bool:
            used = {(e["service"][-1], e["start"]) for e in seen if e.get("event") == "UseKey" and e["start"] > start}
            return all(sum(letter == which for which, _ in used) >= count for letter in LETTERS)

        self.senders[name].wait(enough, f"{count} periods")

    def silence(self, quiet: float, since: float, end: float, allowed: float) -> None:
        """No port is silent for longer from ``since`` to ``end``; what the machine itself does to a repetition is measured before,
        from ``quiet`` on.
        """
        for name, port in self.ports.items():
            rows = self.listener.heard[port]
            noise = max((long - REPETITION for begin, long in gaps(rows) if quiet < begin < since - 2 * REPETITION), default=0.0)
            found = [(begin, long) for begin, long in gaps(rows) if begin + long > since and begin < end]
            assert rows[-1][0] > end and found, name
            assert max(long for _, long in found) <= allowed + max(0.2, 2 * noise), (name, noise, since, found)

    def close(self) -> None:
        for name in list(self.senders):
            self.kill(name)
        self.system.close()
        self.listener.close()


@pytest.fixture(scope="module")
def headends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headends]:
    made = Headends(tmp_path_factory.mktemp("headends"))
    try:
        yield made
    finally:
        made.close()


def test_without_a_sender_no_key_is_used(headends: Headends) -> None:
    system = headends.system
    system.start("bsm", *PAIR)
    for name in PAIR:
        system.running[name].wait(lambda seen: any(e.get("code") == "sender-lost" for e in seen), "alarm")
        system.running[name].wait(lambda seen: any(e.get("event") == "at-work" for e in seen), "work")
        assert not any(e.get("event") in ("Announce", "UseKey") for e in system.running[name].events)
    (shown,) = system.shown("status", "bsda.toml")
    assert [(row["air"], row["light"]) for row in shown["air"]] == [("sender", "red")] and shown["light"] == "red"
    headends.start(*PAIR)
    for name in PAIR:
        headends.uses(name, time.time())
    headends.until(lambda main, other: main["active"] and not other["active"] and main["light"] == "green", "the main sends")
    end = time.monotonic() + 60  # what its BSD/A shows is what it said last
    while (found := system.shown("status", "bsda.toml")[0]["air"])[0]["light"] != "green":
        assert time.monotonic() < end, found


@pytest.mark.parametrize("victims", ["BSD/A and sender", "BSD/A", *(("sender",) if LONG else ())])
def test_whichever_dies_is_not_missed(headends: Headends, victims: str) -> None:
    main, other = PAIR
    headends.until(lambda a, b: a["active"] and a["able"] and not b["active"] and b["able"], "the main sends")
    headends.uses(other, time.time())
    begun = time.time()
    if "sender" in victims:  # first: one that lost its BSD/A would say so, and the other would send at once
        headends.kill(main)
    if "BSD/A" in victims:
        headends.system.kill(main)
    headends.uses(other, time.time())
    ended = time.time()
    headends.listener.wait(lambda heard: all(rows[-1][0] > ended for rows in heard.values()), "the back-up")
    headends.silence(begun - 2, begun, ended, REPETITION + (DETECTION if "sender" in victims else 0.0))
    if "sender" in victims:
        headends.start(main)
    if "BSD/A" in victims:
        headends.system.start(main)
    headends.until(lambda a, b: a["active"] and a["able"] and not b["active"], "the main sends again")
    came = time.time()
    headends.listener.wait(lambda heard: all(rows[-1][0] > came + 0.3 for rows in heard.values()), "the main")
    headends.silence(ended - 1, ended, came, REPETITION)


def test_whoever_sends_one_period_has_one_stkm(headends: Headends) -> None:
    system = headends.system
    for name in PAIR:
        assert headends.senders[name].end(signal.SIGTERM) == 0
    assert system.stop() == dict.fromkeys(("bsm", *PAIR), 0)
    heard = headends.listener.heard
    evidence = Evidence()
    senders = [*(process for process in system.past if process.argv[-2] == "stkm"), *headends.senders.values()]
    evidence.on_air(senders)  # no two of one period differ
    for (letter, profile), port in headends.ports.items():
        announced = {sha for (service, _, which), sha in evidence.air.items() if (service[-1], which) == (letter, profile)}
        sent = {digest(data) for _, data in heard[port]}
        assert len(sent) >= 10 and sent <= announced, "what is on air is what was announced, octet by octet"
    faults = [e for process in (*system.past, *headends.senders.values()) for e in process.events if e.get("level") == "error"]
    assert not faults, faults
