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
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from pybcast.backend import pki
from pybcast.cli import main
from pybcast.secret import Secret
from pybcast.store import Database, load_kek

BSM_ID, BSDA_ID = "urn:example:bsm", "urn:example:bsda"


def _service(letter: str, number: int, generation: str, delivery: str, **changes: object) -> str:
    """One service of the tests; ``changes``: keys of its table that are others, ``None`` for none."""
    table: dict[str, object] = {
        "id": f"urn:example:service:{letter}", "profiles": ["drm", "smartcard"], "generation": generation, "delivery": delivery,
        "synchronous": False, "interaction": generation == "bsda", "period": 2, "key_period": 20, "look_ahead": 3,
        "carousel_cycle": 1.0, "serviceBaseCID": f"service-{letter}", "socID": "soc.example", "key_domain_id": "12f410",
        "key_group": number,
    } | changes  # fmt: skip
    return "".join(("\n[[services]]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if value is not None)))


SERVICES: Final = "".join((
    _service("A", 1, "bsm", "push"), _service("B", 2, "bsda", "push"),
    _service("C", 3, "bsm", "pull"), _service("D", 4, "bsda", "pull"),
))  # fmt: skip


def toml(
    role: str, port: int = 0, peer_port: int = 2, services: str = SERVICES, *, name: str = "", peers: str = "", pair: bool = False
) -> str:
    """The configuration of one of the two.

    ``name``: of its files and in its id.  ``peers``: in place of the other of the two.  ``pair``: one of two headends.
    """
    other, name = "bsda" if role == "bsm" else "bsm", name or role
    own = (
        f'fqdn = "bsm.example.com"\nrights_issuer_id = "{"11" * 20}"'
        if role == "bsm"
        else 'pair_secret = "file:pair"'
        if pair
        else ""
    )
    air = "" if role == "bsm" else '[air]\nevents = "-"\n'
    return f"""# a {role}
[server]
role = "{role}"
id = "urn:example:{name}"
listen = "127.0.0.1:{port}"
status = "127.0.0.1:0"
database = "{name}.db"
control = "{name}.sock"
kek = "file:kek"
{own}

[tls]
certificate = "{name}.pem"
key = "{name}-key.pem"
authority = "ca.pem"

[log]
format = "json"
level = "debug"

{air}{peers or peer(other, peer_port)}{services}"""


def peer(name: str, port: int) -> str:
    """A server that another one speaks with."""
    return f"""
[[peers]]
id = "urn:example:{name}"
url = "https://127.0.0.1:{port}"
"""


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
    """A running server: its log (standard error) and, of a BSD/A, its events (standard output), as they come.

    Each has, as ``at``, the Unix time at which it came.  ``command``: another than ``ROLE serve``, for the same configuration.
    """

    def __init__(
        self,
        role: str,
        folder: Path,
        name: str = "",
        serve: Sequence[str] = ("-m", "pybcast.cli"),
        command: Sequence[str] = (),
    ) -> None:
        self.role, self.name, self.folder = role, name or role, folder
        self.argv = [sys.executable, *serve, *(command or (role, "serve")), f"{self.name}.toml"]
        self.raw: list[bytes] = []
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._open = 2
        self.process = subprocess.Popen(
            self.argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "default"},
        )  # fmt: skip
        self.ended = float("inf")
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
                event["at"] = time.time()
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

    def at_work(self) -> None:
        """Until it works: its peers have spoken, or it has waited for them."""
        self.wait(lambda seen: any(e.get("event") == "at-work" for e in seen), "work")

    def resident(self) -> int:
        """Its memory (VmRSS) in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def metrics(self) -> dict[str, float]:
        """Its figures, by name and labels as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ready()['status_port']}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    def check(self) -> None:
        """No line of its log is a fault of ours, and each is JSON: kill -9 may cut the last one of each stream."""
        garbled = [e for e in self.events if e.get("event") == "not JSON"]
        assert len(garbled) <= (2 if self.process.returncode == -signal.SIGKILL else 0), garbled
        assert not any(b"Traceback" in line for line in self.raw)
        faults = [e for e in self.events if e.get("level") in ("error", "critical") or e.get("event") == "stray"]
        assert not faults, faults

    def tail(self) -> str:
        return b"".join(self.raw[-12:]).decode(errors="replace")

    def end(self, number: int) -> int:
        """Send a signal, wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.gone()

    def gone(self) -> int:
        """Until it has ended, and all that it said is here; the exit status."""
        status = self.process.wait(30)
        self.ended = time.time()
        for thread in self._threads:
            thread.join(30)
        return status


class System:
    """One BSM and its BSD/As in a folder: certificates, key, configurations, processes.

    ``bsdas``: their names.  ``serve``: what Python is to run.
    """

    def __init__(
        self, folder: Path, services: str = SERVICES, bsdas: Sequence[str] = ("bsda",), serve: Sequence[str] = ("-m", "pybcast.cli")
    ) -> None:
        self.folder, self._serve = folder, serve
        self.names = ("bsm", *bsdas)
        pki.init(folder, {name: f"urn:example:{name}" for name in self.names})
        for secret in ("kek", "pair"):
            (folder / secret).write_text(os.urandom(32).hex())
            (folder / secret).chmod(0o600)
        self.ports = dict(zip(self.names, free_ports(len(self.names)), strict=True))
        others = "".join(peer(name, self.ports[name]) for name in bsdas)
        (folder / "bsm.toml").write_text(toml("bsm", self.ports["bsm"], services=services, peers=others))
        for name in bsdas:
            known = "".join(peer(other, self.ports[other]) for other in self.names if other != name)
            text = toml("bsda", self.ports[name], services=services, name=name, peers=known, pair=len(bsdas) > 1)
            (folder / f"{name}.toml").write_text(text)
        self.past: list[Process] = []
        self._seen: set[bytes] = set()
        self.running: dict[str, Process] = {}

    def start(self, *names: str) -> None:
        for name in names:
            self.running[name] = Process("bsm" if name == "bsm" else "bsda", self.folder, name, self._serve)
        for name in names:
            self.running[name].ready()

    def kill(self, *names: str) -> None:
        """kill -9, of all at once."""
        for name in names:
            self.running[name].process.kill()
        for name in names:
            process = self.running.pop(name)
            self.past.append(process)
            process.gone()

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
        path = (self.folder / f"{role}.db").resolve()
        with contextlib.closing(Database(path, load_kek(f"file:{self.folder}/kek"), readonly=True)) as reader:
            return reader.load()

    def secrets(self) -> set[bytes]:
        """Every key that is, or was when this was called before, in one of the databases; and the key-encryption key."""
        self._seen.add(load_kek(f"file:{self.folder}/kek").reveal())
        for role in self.names:
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
