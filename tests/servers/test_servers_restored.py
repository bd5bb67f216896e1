# SPDX-License-Identifier: Apache-2.0
"""Databases that are put back, as operators and accidents do it: noticed, nothing given twice, traffic goes on (R2, R33, R51).

``PYBCAST_LONG=1``: with periods of 20 s too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from servers_support import Process, System, _service, free_ports

from pybcast import codec
from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.messages import SmartcardLtkm, SmartcardStkm
from pybcast.servers.control import ask
from pybcast.servers.witnesses import SPOKEN
from pybcast.store.files import siblings
from pybcast.wire.times import NTP_UNIX

LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"
PERIODS: Final = (4, 20) if LONG else (4,)
SERVICES: Final = ("urn:example:service:A", "urn:example:service:B")


class Rig:
    """Both servers with a service of each generation, a subscriber, and what goes on air with its bytes."""

    def __init__(self, folder: Path, period: int, *, sender: bool = False) -> None:
        values: dict[str, object] = {"period": period, "key_period": 10 * period, "carousel_cycle": 1.0, "look_ahead": 3}
        self.period = period
        self.system = System(folder, _service("A", 1, "bsm", "push", **values) + _service("B", 2, "bsda", "push", **values))
        path = folder / "bsda.toml"
        text = path.read_text().replace('events = "-"', 'events = "-"\ncontent = true')
        if sender:
            text = text.replace("[air]\n", '[air]\nsender = "air.sock"\n')
            for group, port in enumerate(free_ports(2)):
                text = text.replace("[[services]]\nid", f'[[services]]\nstkm = "239.192.77.{group + 1}:{port}"\nid', 1)
        path.write_text(text)
        self.keys: dict[bytes, bytes] = {}
        self.sender = Process("bsda", folder, "bsda", command=("air", "stkm")) if sender else None
        """The edge, where it is in a process of its own: it says what is on air and in use."""

    def start(self, *names: str) -> None:
        self.system.start(*names)
        for name in names:
            self.process(name).at_work()

    def everyone(self) -> tuple[Process, ...]:
        """Whoever lived, and the sender."""
        sender = () if self.sender is None else (self.sender,)
        return (*self.system.past, *self.system.running.values(), *sender)

    def process(self, name: str) -> Process:
        return self.system.running[name]

    def add(self, name: str) -> None:
        ask(self.system.folder / "bsm.sock", "subscriber-add", name=name, services=list(SERVICES))

    def note_keys(self) -> None:
        """Every long-term key that the BSM has now: an id never belongs to another one."""
        for row in self.system.rows("bsm").get("key", {}).values():
            if isinstance(row, LongTermKey):
                name = bytes([len(row.material.key_id)]) + row.material.key_id
                name += str(row.material.serviceBaseCID).encode()
                known = self.keys.setdefault(name, row.material.key.reveal())
                assert known == row.material.key.reveal(), f"the id {row.material.key_id.hex()} was given twice"

    def used(self) -> dict[str, int]:
        """The last period whose key an encoder was given, by service."""
        found: dict[str, int] = {}
        for process in self.everyone():
            found |= {e["service"]: e["start"] for e in process.events if e.get("event") == "UseKey"}
        return found

    def until_used(self, after: float, limit: float) -> None:
        """Until both services use a key of a period that began after so many NTP seconds."""

        def there(events: list[dict[str, Any]]) -> bool:
            used = {e["service"]: e["start"] for e in events if e.get("event") == "UseKey"}
            return all(used.get(service, 0) > after for service in SERVICES)

        (self.sender or self.process("bsda")).wait(there, f"new key within {limit} s", limit)

    def until_green(self, *names: str, limit: float) -> None:
        """Until the alarm is over for every stream of these servers that raised it."""

        def over(events: list[dict[str, Any]]) -> bool:
            raised = {e["service"]: e["active"] for e in events if e.get("event") == "alarm" and e.get("code") == "restored"}
            return len(raised) == len(SERVICES) and not any(raised.values())

        for name in names:
            self.process(name).wait(over, "end of the alarm", limit)

    def nothing_twice(self) -> tuple[int, int]:
        """No COUNTER of a SEK or of a subscriber has hidden two things; how many STKMs and LTKMs were looked at."""
        stkms: dict[tuple[bytes, int], bytes] = {}
        ltkms: dict[tuple[bytes, int], bytes] = {}
        for process in self.everyone():
            for event in process.events:
                if event.get("event") == "Announce":
                    for said in event["stkms"]:
                        if said["profile"] == "smartcard":
                            stkm = codec.decode(bytes.fromhex(said["data"]), "smartcard-stkm")
                            assert isinstance(stkm, SmartcardStkm)
                            name = (stkm.key_domain_id + stkm.sek_id, stkm.counter)
                            assert stkms.setdefault(name, stkm.encr_data) == stkm.encr_data, f"a COUNTER twice: {name}"
                elif event.get("event") == "CarouselPut":
                    for data in map(bytes.fromhex, event["data"]):
                        if data[:1] == b"\x01":
                            ltkm = codec.decode(data, "smartcard-ltkm")
                            assert isinstance(ltkm, SmartcardLtkm)
                            letter = (ltkm.idr, ltkm.counter)
                            assert ltkms.setdefault(letter, ltkm.encr_data) == ltkm.encr_data, f"a COUNTER twice: {letter}"
        return len(stkms), len(ltkms)


@pytest.fixture(params=PERIODS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    made.system.close()


def restored(process: Process) -> list[dict[str, Any]]:
    return [e for e in process.events if e.get("event") == "restored"]


# --- ways to make and put back a copy -----------------------------------------------------------------------------------


def backup(folder: Path, name: str) -> Callable[[], None]:
    """``sqlite3 FILE ".backup COPY"``, beside the running server."""
    copy = folder / f"{name}.copy"
    with contextlib.closing(sqlite3.connect(folder / f"{name}.db")) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return lambda: _in_place(folder / f"{name}.db", copy)


def cp(folder: Path, name: str) -> Callable[[], None]:
    """``cp`` of the database and its log, beside the running server."""
    copies = {path: path.with_name(path.name + ".copy") for path in siblings(folder / f"{name}.db")[:2] if path.exists()}
    for path, copy in copies.items():
        shutil.copy(path, copy)

    def put() -> None:
        for path in siblings(folder / f"{name}.db"):
            path.unlink(missing_ok=True)
        for path, copy in copies.items():
            shutil.copy(copy, path)

    return put


def folder_with_witness(folder: Path, name: str) -> Callable[[], None]:
    """A snapshot of all that belongs to the server, its witness too: first, so that no commit between them puts it ahead."""
    witness, copy = folder / "witness" / f"{name}.db.witness", folder / f"{name}.witness.copy"
    shutil.copy(witness, copy)
    put = cp(folder, name)

    def both() -> None:
        put()
        shutil.copy(copy, witness)

    return both


def _in_place(path: Path, copy: Path) -> None:
    for sibling in siblings(path):
        sibling.unlink(missing_ok=True)
    shutil.copy(copy, path)
    path.chmod(0o600)


WAYS: Final = {"backup": backup, "cp": cp, "folder": folder_with_witness}
NOTICED_BY: Final = {
    "backup": ("the witness",),
    "cp": ("the witness",),
    "folder": ("has heard of commit", "on air that the database"),
}
"""A store with its witness is judged by who speaks first: the peer, or the sender."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", [("bsm",), ("bsda",), ("bsm", "bsda")], ids="+".join)
def test_a_copy_that_is_put_back(rig: Rig, way: str, who: tuple[str, ...]) -> None:
    """Noticed by the witness; a copy with its witness by the peer; and both of both servers by nobody: nothing is given twice."""
    system, period = rig.system, rig.period
    rig.start("bsm", "bsda")
    rig.add("early")
    begun = time.time() + NTP_UNIX
    rig.until_used(begun, 60 + 4 * period)
    rig.note_keys()
    put = [WAYS[way](system.folder, name) for name in who]
    rig.add("lost")
    ask(system.folder / "bsm.sock", "rekey", service=SERVICES[1])
    rig.until_used(time.time() + NTP_UNIX + period, 60 + 4 * period)
    rig.note_keys()
    for name in who:  # an orderly stop
        process = system.running.pop(name)
        assert process.end(signal.SIGTERM) == 0
        system.past.append(process)
    for each in put:
        each()
    stopped = time.time() + NTP_UNIX
    rig.start(*who)
    rig.until_used(stopped, SPOKEN + 14 * period + 60)
    unnoticed = way == "folder" and len(who) == 2
    for name in who:
        found = restored(rig.process(name))
        if unnoticed:
            assert not found
        else:
            assert found and all(e["lost_from"] < stopped for e in found)
            assert any(words in e["why"] for e in found for words in NOTICED_BY[way])
    if not unnoticed:
        rig.until_green(*who, limit=SPOKEN + 14 * period + 60)
    rig.note_keys()
    stkms, ltkms = rig.nothing_twice()
    assert stkms > 6 and ltkms > 2


@pytest.mark.parametrize("name", ["bsm", "bsda"])
def test_a_log_that_is_lost_after_kill_9(rig: Rig, name: str) -> None:
    system = rig.system
    rig.start("bsm", "bsda")
    rig.add("early")
    rig.until_used(time.time() + NTP_UNIX, 60 + 4 * rig.period)
    rig.note_keys()
    system.kill(name)
    log = siblings(system.folder / f"{name}.db")[1]
    assert log.stat().st_size > 0
    log.unlink()
    again = time.time() + NTP_UNIX
    rig.start(name)
    assert restored(rig.process(name))
    rig.until_used(again, SPOKEN + 14 * rig.period + 60)
    rig.note_keys()
    rig.nothing_twice()


def test_kill_9_alone_is_no_restore(rig: Rig) -> None:
    """And the peer that is there has said so at once: nobody waits 10 s."""
    system = rig.system
    rig.start("bsm", "bsda")
    rig.until_used(time.time() + NTP_UNIX, 60 + 4 * rig.period)
    for names in (("bsm",), ("bsda",), ("bsm", "bsda")):
        system.kill(*names)
        rig.start(*names)
        for name in names:
            events = rig.process(name).events
            assert not restored(rig.process(name)) and not any(e.get("event") == "unspoken" for e in events)
    rig.nothing_twice()


def test_the_light_is_red_until_it_is_over_and_status_says_what_is_lost(rig: Rig) -> None:
    system = rig.system
    rig.start("bsm", "bsda")
    rig.until_used(time.time() + NTP_UNIX, 60 + 4 * rig.period)
    put = backup(system.folder, "bsm")
    rig.add("lost")
    process = system.running.pop("bsm")
    assert process.end(signal.SIGTERM) == 0
    system.past.append(process)
    put()
    rig.start("bsm")
    (status,) = system.shown("status", "bsm.toml")
    assert status["light"] == "red" and all("put back" in row["why"] for row in status["services"])
    assert status["restored"]["lost_from"] < status["restored"]["lost_to"] and "witness" in status["restored"]["why"]
    rig.until_green("bsm", limit=14 * rig.period + 60)
    _, shown, _ = system.command("status", "bsm.toml")
    assert "restored: an older store was put back" in shown and "is lost" in shown
    (status,) = system.shown("status", "bsm.toml")
    assert all("put back" not in row["why"] for row in status["services"]) and status["restored"]


def test_what_is_on_air_is_a_witness(tmp_path: Path) -> None:
    """Both servers are put back with their witnesses: the sender alone knows more, and the BSD/A believes it."""
    rig = Rig(tmp_path, 4, sender=True)
    system, sender = rig.system, rig.sender
    assert sender is not None
    try:
        sender.ready()
        rig.start("bsm", "bsda")
        rig.add("early")
        rig.until_used(time.time() + NTP_UNIX, 80)
        rig.note_keys()
        put = [folder_with_witness(system.folder, name) for name in ("bsm", "bsda")]
        rig.until_used(time.time() + NTP_UNIX + 8, 80)
        system.kill("bsm", "bsda")
        for each in put:
            each()
        stopped = time.time() + NTP_UNIX
        rig.start("bsm", "bsda")
        rig.until_used(stopped, SPOKEN + 120)
        (found,) = restored(rig.process("bsda"))
        assert "the sender" in found["why"]
        rig.until_green("bsda", limit=SPOKEN + 120)
        rig.note_keys()
        rig.nothing_twice()
        assert sender.end(signal.SIGTERM) == 0
        sender.check()
    finally:
        sender.process.kill()
        sender.gone()
        system.close()
