# SPDX-License-Identifier: Apache-2.0
"""No room: a full disk, a full group of subscribers, as many connections as there may be."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from evidence import Evidence
from servers_support import System

from pybcast.backend import pki
from pybcast.backend.server import ServerLimits
from pybcast.errors import ConfigError, TransportError
from pybcast.https import contexts
from pybcast.servers.control import ask
from pybcast.wire.times import NTP_UNIX

ROOM: Final = 16 << 20
"""Octets of the small file system."""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def _in_use(system: System, after: float = 0.0) -> None:
    system.running["bsda"].wait(
        lambda seen: (
            {e["service"][-1] for e in seen if e.get("event") == "UseKey" and e["start"] > after + NTP_UNIX} == set("ABCD")
        ),
        "key in use for each service",
    )


class Disk:
    """Where there is room for a server's files, and then no more: a tmpfs where we may mount one, else a limit to how large a file
    of the process may be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=700", "tmpfs", str(folder)]
        may = shutil.which("mount") is not None
        self.mounted = may and subprocess.run(command, capture_output=True, check=False).returncode == 0
        self.why = "no space" if self.mounted else "SQLITE_IOERR_WRITE"
        print("disk full by", "tmpfs" if self.mounted else "RLIMIT_FSIZE")

    def fill(self, system: System, name: str) -> None:
        if self.mounted:
            with (self._folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(4096))
        else:
            resource.prlimit(system.running[name].process.pid, resource.RLIMIT_FSIZE, (4096, 4096))

    def clear(self) -> None:
        (self._folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._folder)], check=True)


@pytest.fixture(params=["bsm", "bsda"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[System, Disk, str]]:
    (tmp_path / "room").mkdir()
    disk = Disk(tmp_path / "room")
    system = System(tmp_path)
    name = request.param
    config = tmp_path / f"{name}.toml"
    config.write_text(config.read_text().replace(f'"{name}.db"', f'"room/{name}.db"'))
    (tmp_path / f"{name}.db").symlink_to(f"room/{name}.db")
    try:
        yield system, disk, name
    finally:
        system.close()
        disk.close()


def _alarms(seen: list[dict[str, Any]], code: str) -> list[bool]:
    return [e["active"] for e in seen if e.get("event") == "alarm" and e["code"] == code]


def test_a_full_disk_is_waited_for_and_loses_nothing(small: tuple[System, Disk, str]) -> None:
    """The server stays up, red, and refuses what it cannot store; when there is room it goes on by itself.  All that it accepted is
    there, nothing was used twice.  One that is started on a full disk says so and ends.

    Where no file system of our own can be mounted, a limit on files stands in: that is no full disk, and ends a server with 70.
    """
    system, disk, name = small
    held = Evidence()
    system.start("bsm", "bsda")
    _in_use(system)
    sold = [f"person-{number}" for number in range(5)]
    for person in sold:
        ask(system.folder / "bsm.sock", "subscriber-add", name=person, services=["urn:example:service:A"])
    disk.fill(system, name)
    process = system.running[name]
    if disk.mounted:
        process.wait(lambda seen: _alarms(seen, "disk-full") == [True], "word that the disk is full")
        status, out, _ = system.command("status", f"{name}.toml", "--json")
        answer = json.loads(out)
        assert status == 1 and answer["light"] == "red" and "no space" in answer["store"]["full"]
        assert all(row["light"] == "red" and "no space" in row["why"] for row in answer["services"])
        refused = 0
        for number in range(20 if name == "bsm" else 0):
            try:
                ask(system.folder / "bsm.sock", "subscriber-add", name=f"late-{number}", services=[])
                sold.append(f"late-{number}")
            except ConfigError as error:
                assert "nothing can be stored" in str(error)
                refused += 1
        assert refused == (20 if name == "bsm" else 0)
        disk.clear()
        process.wait(lambda seen: _alarms(seen, "disk-full") == [True, False], "word that there is room again")
        _in_use(system, time.time())
        assert process.process.poll() is None
        ask(system.folder / "bsm.sock", "subscriber-add", name="after", services=[])
        sold.append("after")
        disk.fill(system, name)
        process.wait(lambda seen: _alarms(seen, "disk-full") == [True, False, True], "the same again")
        assert process.end(signal.SIGTERM) == 0, "it stops while there is no room"
    system.running.pop(name)
    system.past.append(process)
    if name == "bsm" and not disk.mounted:
        with contextlib.suppress(ConfigError, TransportError):
            for number in range(1000):
                ask(system.folder / "bsm.sock", "subscriber-add", name=f"late-{number}", services=[])
                sold.append(f"late-{number}")
    if not disk.mounted:
        assert process.gone() == 70
        (fatal,) = (e for e in process.events if e.get("event") == "fatal")
        assert disk.why in fatal["error"], fatal
    assert not any(b"Traceback" in line for line in process.raw) and all(line.startswith(b"{") for line in process.raw)
    if disk.mounted:  # no room yet: it says so, and harms nothing
        system.running[name] = again = type(process)(name, system.folder)
        status = again.gone()
        assert status in (2, 70) and disk.why in again.tail(), again.tail()
        system.past.append(system.running.pop(name))
    disk.clear()
    system.start(name)
    back = time.time()
    _in_use(system, back)
    people = {row["subscriber"] for row in system.shown("bsm", "subscriber", "list", "bsm.toml")}
    assert set(sold) <= people, "what was accepted is there"
    held.on_air(p for p in (*system.past, *system.running.values()) if p.role == "bsda")
    assert system.stop() == {"bsm": 0, "bsda": 0}
    for each in ("bsm", "bsda"):
        held.database(system, each)
    assert held.compared() > 0


def test_a_group_without_a_position_left(system: System) -> None:
    """Refused, with the reason; the others keep what they have, and a card is no device."""
    system.start("bsm")
    control = system.folder / "bsm.sock"
    for number in range(256):
        ask(control, "subscriber-add", name=f"device-{number}", profile="drm", services=[])
    with pytest.raises(ConfigError, match="group for random keys is full"):
        ask(control, "subscriber-add", name="one-too-many", profile="drm", services=[])
    ask(control, "subscriber-add", name="device-7", profile="drm", services=["urn:example:service:A"])
    ask(control, "subscriber-add", name="card", services=["urn:example:service:A"])
    people = system.shown("bsm", "subscriber", "list", "bsm.toml")
    assert len(people) == 257
    assert sorted(p["position"] for p in people if p["profile"] == "drm") == list(range(256))
    assert system.stop() == {"bsm": 0}
    system.past[0].check()


# Python 3.11 leaves the socket open when a connection is reset while it is wrapped, and nobody else holds it.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_as_many_connections_as_there_may_be(system: System) -> None:
    """One more is turned away and said so; who has one goes on; when they are gone there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ServerLimits().connections
    if soft < most + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, most + 200), hard))
    system.start("bsm", "bsda")
    _in_use(system)
    bsm = system.running["bsm"]
    context = contexts.client_context(pki.files_of(system.folder, "bsda"))

    def refused(seen: list[dict[str, object]]) -> bool:
        return any(str(e.get("message", "")).startswith("connection refused") for e in seen)

    with contextlib.ExitStack() as stack:
        for _ in range(most + 8):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", system.ports["bsm"]), timeout=20))
                tls = stack.enter_context(context.wrap_socket(raw, do_handshake_on_connect=False))
                tls.do_handshake()
        bsm.wait(refused, "refusal of one connection too many")
        _in_use(system, time.time())  # the BSD/A has its connections already
        assert "pybcast_light" in str(bsm.metrics().keys())
    with socket.create_connection(("127.0.0.1", system.ports["bsm"]), timeout=20) as raw, context.wrap_socket(raw) as own:
        own.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert own.recv(64).startswith(b"HTTP/1.1 404")
    assert system.stop() == {"bsm": 0, "bsda": 0}
    for process in system.past:
        process.check()
