# SPDX-License-Identifier: Apache-2.0
"""Two servers for tests: their configuration, and the processes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from pybcast.backend import pki
from pybcast.cli import main
from pybcast.secret import Secret
from pybcast.store import Database, load_kek

BSM_ID, BSDA_ID = "urn:example:bsm", "urn:example:bsda"


def _service(letter: str, number: int, generation: str, delivery: str) -> str:
    return f"""
[[services]]
id = "urn:example:service:{letter}"
profiles = ["drm", "smartcard"]
generation = "{generation}"
delivery = "{delivery}"
synchronous = false
interaction = {"true" if generation == "bsda" else "false"}
period = 2
key_period = 20
look_ahead = 3
carousel_cycle = 1.0
serviceBaseCID = "service-{letter}"
socID = "soc.example"
key_domain_id = "12f410"
key_group = {number}
"""


SERVICES: Final = "".join((
    _service("A", 1, "bsm", "push"), _service("B", 2, "bsda", "push"),
    _service("C", 3, "bsm", "pull"), _service("D", 4, "bsda", "pull"),
))  # fmt: skip


def toml(role: str, port: int = 0, peer_port: int = 2) -> str:
    """The configuration of one of the two."""
    other = "bsda" if role == "bsm" else "bsm"
    own = f'fqdn = "bsm.example.com"\nrights_issuer_id = "{"11" * 20}"' if role == "bsm" else ""
    air = "" if role == "bsm" else '[air]\nevents = "-"\n'
    return f"""# a {role}
[server]
role = "{role}"
id = "urn:example:{role}"
listen = "127.0.0.1:{port}"
status = "127.0.0.1:0"
database = "{role}.db"
kek = "file:kek"
{own}

[tls]
certificate = "{role}.pem"
key = "{role}-key.pem"
authority = "ca.pem"

[log]
format = "json"
level = "debug"

{air}
[[peers]]
id = "urn:example:{other}"
url = "https://127.0.0.1:{peer_port}"
{SERVICES}"""


BSM_TOML: Final = toml("bsm")
BSDA_TOML: Final = toml("bsda")


# --- processes --------------------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that the system gives to whoever asks somebody."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in found:
                found.append(port)
    return found


class Process:
    """A running server: its log (standard error) and, of a BSD/A, its events (standard output), as they come."""

    def __init__(self, role: str, folder: Path) -> None:
        self.role, self.folder = role, folder
        self.argv = [sys.executable, "-m", "pybcast.cli", role, "serve", f"{role}.toml"]
        self.raw: list[bytes] = []
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._open = 2
        self.process = subprocess.Popen(
            self.argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "default"},
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=self._listen, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
            if stream is not None
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"event": "not JSON", "text": line.decode(errors="replace")}
                with self._changed:
                    self.raw.append(line)
                    self._events.append(event)
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        with self._changed:
            return list(self._events)

    def wait(self, wanted: Callable[[list[dict[str, Any]]], object], what: str, limit: float = 60.0) -> list[dict[str, Any]]:
        """Until what has come so far is enough.  An ``AssertionError`` when the process ends or ``limit`` seconds pass before."""
        with self._changed:
            good = self._changed.wait_for(lambda: wanted(self._events) or not self._open, limit)
            enough = wanted(self._events)
        assert good and enough, f"{self.role}: no {what} (exit {self.process.poll()}):\n" + self.tail()
        return self.events

    def ready(self) -> dict[str, Any]:
        """Until it serves; what it said then."""
        seen = self.wait(lambda seen: any(e.get("event") == "ready" for e in seen), "start")
        return next(e for e in seen if e.get("event") == "ready")

    def tail(self) -> str:
        return b"".join(self.raw[-12:]).decode(errors="replace")

    def end(self, number: int) -> int:
        """Send a signal, wait for the end; the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(30)
        for thread in self._threads:
            thread.join(30)
        return status


class System:
    """One BSM and one BSD/A in a folder: certificates, key, configurations, processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pki.init(folder, {"bsm": BSM_ID, "bsda": BSDA_ID})
        (folder / "kek").write_text(os.urandom(32).hex())
        (folder / "kek").chmod(0o600)
        self.ports = dict(zip(("bsm", "bsda"), free_ports(2), strict=True))
        for role, other in (("bsm", "bsda"), ("bsda", "bsm")):
            (folder / f"{role}.toml").write_text(toml(role, self.ports[role], self.ports[other]))
        self.past: list[Process] = []
        self._seen: set[bytes] = set()
        self.running: dict[str, Process] = {}

    def start(self, *roles: str) -> None:
        for role in roles:
            self.running[role] = Process(role, self.folder)
        for role in roles:
            self.running[role].ready()

    def kill(self, role: str) -> None:
        process = self.running.pop(role)
        self.past.append(process)
        process.end(signal.SIGKILL)

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit statuses."""
        statuses = {}
        for role, process in list(self.running.items()):
            statuses[role] = process.end(signal.SIGTERM)
            self.past.append(self.running.pop(role))
        return statuses

    def close(self) -> None:
        for role in list(self.running):
            self.kill(role)

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """``pybcast ...``; names of files are those of the folder.  Exit status, standard output, standard error."""
        words = [str(self.folder / word) if word.endswith(".toml") else word for word in arguments]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main(words)
        return status, out.getvalue(), err.getvalue()

    def shown(self, *arguments: str) -> list[dict[str, Any]]:
        """What a command shows with ``--json``."""
        status, out, err = self.command(*arguments, "--json")
        assert status in (0, 1), err
        return [json.loads(line) for line in out.splitlines()]

    def refused(self, role: str, file: str) -> tuple[int, str]:
        """A server that does not start: exit status, log."""
        done = subprocess.run(
            [sys.executable, "-m", "pybcast.cli", role, "serve", file],
            cwd=self.folder, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stderr

    def rows(self, role: str) -> dict[str, dict[tuple[object, ...], object]]:
        """What a server's database holds, read beside it or after its death."""
        with contextlib.closing(Database(self.folder / f"{role}.db", load_kek(f"file:{self.folder}/kek"), readonly=True)) as reader:
            return reader.load()

    def secrets(self) -> set[bytes]:
        """Every key that is, or was when this was called before, in one of the databases; and the key-encryption key."""
        self._seen.add(load_kek(f"file:{self.folder}/kek").reveal())
        for role in ("bsm", "bsda"):
            self._seen |= {secret.reveal() for secret in _secrets(self.rows(role)) if any(secret.reveal())}
        return self._seen


def _secrets(value: object) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, dict):
        yield from (secret for item in value.values() for secret in _secrets(item))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (secret for item in value for secret in _secrets(item))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (secret for part in dataclasses.fields(value) for secret in _secrets(getattr(value, part.name)))
