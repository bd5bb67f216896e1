# SPDX-License-Identifier: Apache-2.0
"""A BSM and a pair of BSD/As that get hardly any of the processor, that stop for seconds, whose disk is slow: nothing fails there
but what is late.  Never two STKMs of a period, a COUNTER twice or a wrong key; when it is over all goes on.

``PYBCAST_LONG=1``: two minutes of each in place of fifteen seconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from evidence import Evidence
from servers_support import System, _service

from pybcast import codec
from pybcast.messages import SmartcardStkm
from pybcast.servers.control import ask
from pybcast.wire.times import NTP_UNIX

pytestmark = pytest.mark.starved

LASTS: Final = 120 if os.environ.get("PYBCAST_LONG", "") == "1" else 15  # seconds
BUSY: Final = 8  # processes that never rest
STOPPED: Final = (0.2, 3.0)  # seconds of one stop
HEADENDS: Final = ("bsda", "bsda2")
_VALUES: Final = {
    "bsm": "urn:example:bsm", "bsdas": [f"urn:example:{name}" for name in HEADENDS], "period": 2, "look_ahead": 4, "key_period": 24,
}  # fmt: skip
SERVICES: Final = _service("A", 1, "bsm", "push", **_VALUES) + _service("B", 2, "bsda", "push", **_VALUES)
SLOW_DISK: Final = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static void wait(void) { usleep((useconds_t)(rand() % 300000)); }
int fsync(int fd) { wait(); return (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { wait(); return (int)syscall(SYS_fdatasync, fd); }
"""
"""In place of the system's: up to 0.3 s longer."""


@contextmanager
def nothing(system: System) -> Iterator[None]:
    """Only what was there at the start."""
    yield


@contextmanager
def busy(system: System) -> Iterator[None]:
    """Processes that take what they can get, beside every server."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def pulses(system: System) -> Iterator[None]:
    """Now this server stands still, now that one: SIGSTOP, and SIGCONT at some time after it."""
    over, source = threading.Event(), random.Random(LASTS)

    def work() -> None:
        while not over.is_set():
            process = system.running[source.choice(("bsm", *HEADENDS))].process
            process.send_signal(signal.SIGSTOP)
            try:
                over.wait(source.uniform(*STOPPED))
            finally:
                process.send_signal(signal.SIGCONT)
            over.wait(source.uniform(0.1, 1.0))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


Load = Callable[[System], AbstractContextManager[None]]


@pytest.fixture(params=["processor", "pulses", "disk"])
def starved(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[System, Load]]:
    if request.param == "disk":
        (tmp_path / "slow.c").write_text(SLOW_DISK)
        library = tmp_path / "slow.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(tmp_path / "slow.c")], check=True)
        monkeypatch.setenv("LD_PRELOAD", str(library))
    system = System(tmp_path, SERVICES, bsdas=HEADENDS)
    for name in HEADENDS:
        path = tmp_path / f"{name}.toml"
        path.write_text(path.read_text().replace('events = "-"', 'events = "-"\ncontent = true'))
    try:
        yield system, {"processor": busy, "pulses": pulses, "disk": nothing}[request.param]
    finally:
        system.close()


def _in_use(system: System, after: float, count: int) -> None:
    """Until each headend has used the keys of so many periods of each service that begin after that Unix time."""

    def enough(events: list[dict[str, Any]]) -> bool:
        used = {(e["service"], e["start"]) for e in events if e.get("event") == "UseKey" and e["start"] > after + NTP_UNIX}
        return all(n >= count for n in Counter(service for service, _ in used).values()) and len({s for s, _ in used}) == 2

    for name in HEADENDS:
        system.running[name].wait(enough, f"{count} new keys of each service", 120)


def _keys(system: System) -> None:
    """What an encoder is told of a period is the same at both, however often: the key by its digest."""
    told: dict[tuple[str, int], set[tuple[object, ...]]] = {}
    for process in (*system.past, *system.running.values()):
        for event in process.events:
            if event.get("event") == "UseKey":
                facts = tuple(sorted((k, str(v)) for k, v in event.items() if k not in ("at", "time", "authority_end", "until")))
                told.setdefault((event["service"], event["start"]), set()).add(facts)
    assert told and all(len(each) == 1 for each in told.values()), [each for each in told.values() if len(each) > 1][:1]


def _as_sealed(system: System, sealed: Mapping[tuple[bytes, int], bytes]) -> int:
    """How many STKMs on air are among those that were found ``sealed``, by (key id, COUNTER): with the same octets."""
    found = 0
    for process in (*system.past, *system.running.values()):
        for event in process.events:
            for said in event["stkms"] if event.get("event") == "Announce" else ():
                if said["profile"] == "smartcard":
                    stkm = codec.decode(bytes.fromhex(said["data"]), "smartcard-stkm")
                    assert isinstance(stkm, SmartcardStkm)
                    known = sealed.get((stkm.key_domain_id + stkm.sek_id, event["start"]))
                    assert known is None or known.hex() == said["data"], (
                        f"not as it was sealed: {event['service']} {event['start']}"
                    )
                    found += known is not None
    return found


def test_what_is_late_is_only_late(starved: tuple[System, Load]) -> None:
    """Subscribers come and a key is cut short meanwhile."""
    system, load = starved
    held = Evidence()
    system.start("bsm", *HEADENDS)
    _in_use(system, 0, 1)
    entered = 0
    with load(system):
        until = time.time() + LASTS
        while time.time() < until:
            with contextlib.suppress(TimeoutError):  # the command may have been carried out all the same
                ask(system.folder / "bsm.sock", "subscriber-add", name=f"s{entered}", services=["urn:example:service:A"])
            if entered % 4 == 1:
                with contextlib.suppress(TimeoutError):
                    ask(system.folder / "bsm.sock", "rekey", service=f"urn:example:service:{'AB'[entered // 4 % 2]}")
            entered += 1
            _in_use(system, time.time() - 4, 1)
            for name in ("bsm", *HEADENDS):
                held.database(system, name)
    _in_use(system, time.time(), 5)
    held.on_air(system.running[name] for name in HEADENDS)
    _keys(system)
    for name in ("bsm", *HEADENDS):
        held.database(system, name)
    assert _as_sealed(system, held.sealed) > 4 and entered > 1
    assert system.stop() == dict.fromkeys(("bsm", *HEADENDS), 0)
    for process in system.past:
        process.check()
