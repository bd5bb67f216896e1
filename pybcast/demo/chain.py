# SPDX-License-Identifier: Apache-2.0
"""The whole chain as processes, in one folder: BSM, BSD/A, STKM sender, carousel and terminals, multicast on loopback between them.

Everything is done from outside, by what every operator has: certificates and configurations in files, the commands of ``pybcast``,
subscribers imported from a list, session descriptions, and sockets that give keys.  A process that is killed is started again by
whoever killed it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pybcast import jsontext
from pybcast.backend import pki
from pybcast.errors import TransportError
from pybcast.flows import Profile
from pybcast.servers.trial import FQDN, Trial

SERVERS: Final = ("bsm", "bsda")
AIR: Final = ("stkm", "carousel")
START_LIMIT: Final = 30.0  # seconds for two interpreters to import the servers on a busy machine
STOP_LIMIT: Final = 10.0  # seconds from SIGTERM to the end
LOOK: Final = 0.02  # seconds between two looks at what a process has said
LOOPBACK: Final = "127.0.0.1"

_SERVER: Final = """\
[server]
role = "{role}"
id = "urn:example:{role}"
listen = "127.0.0.1:{port}"
database = "{role}.db"
kek = "file:{role}.kek"
{own}
[tls]
certificate = "{role}.pem"
key = "{role}-key.pem"
authority = "ca.pem"

[log]
format = "json"
level = "debug"
{more}
[[peers]]
id = "urn:example:{other}"
url = "https://127.0.0.1:{other_port}"
"""
_AIR: Final = """
[air]
events = "air.jsonl"
content = true
keys = "keys.sock"
sender = "stkm.sock"
carousel = "carousel.sock"
ltkm = "{group}:{ltkm}"
flute = "{group}:{flute}"
rate = 20000000
"""
_INTERACTION: Final = """
[interaction]
listen = "127.0.0.1:{port}"
certificate = "bsm.pem"
key = "bsm-key.pem"
authority = "ca.pem"
"""
_SERVICE: Final = """
[[services]]
id = "{id}"
stream = {stream}
profiles = {profiles}
protocol = "{protocol}"
generation = "{generation}"
delivery = "{delivery}"
synchronous = false
interaction = {interaction}
period = {period}
key_period = {key_period}
rollover_lead = {rollover_lead}
look_ahead = {look_ahead}
hold_through = {hold_through}
carousel_cycle = {cycle}
repetition = {repetition}
serviceBaseCID = "{base_cid}"
socID = "soc.example"
key_domain_id = "12f410"
key_group = {stream}
stkm = "{group}:{port}"
"""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service of one stream.  ``name``: one letter or word; times in seconds."""

    name: str
    number: int
    profiles: tuple[Profile, ...] = ("drm", "smartcard")
    protocol: Literal["srtp", "ipsec"] = "srtp"
    generation: Literal["bsm", "bsda"] = "bsm"
    delivery: Literal["push", "pull"] = "push"
    interaction: bool = False
    period: int = 2
    key_period: int = 10
    rollover_lead: int = 8
    look_ahead: int = 3
    hold_through: bool = False
    cycle: float = 1.0
    repetition: float = 0.1

    @property
    def id(self) -> str:
        """GlobalServiceID."""
        return f"urn:example:service:{self.name}"


@dataclass(frozen=True)
class Viewer:
    """A subscriber and his terminal; ``entitled``: to every service."""

    name: str
    profile: Profile
    entitled: bool = True
    via: Literal["broadcast", "interaction", "both"] = "broadcast"


class Tail:
    """A file of JSON lines that grows; a line is taken when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self.said = "it said nothing"
        """The text of the last line, for people."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """What has come since the last call.  Nothing as long as there is no file."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                try:
                    found = jsontext.read(line)
                except ValueError:  # a kill -9 may cut one short; what comes before the log begins is plain text
                    self.said = line.decode(errors="replace").strip()
                    continue
                self.said = found.get("message", self.said)
                yield found


class Chain:
    """Inside ``with``: everything runs, subscribers are imported, terminals are tuned to every service.

    ``now``: NTP seconds.  Raises ``TransportError`` when a process does not start.  At the end all are stopped; the folder stays.
    """

    def __init__(self, folder: Path, services: Sequence[Service], viewers: Sequence[Viewer], now: float) -> None:
        self.folder, self.services, self.viewers, self._now = folder, tuple(services), tuple(viewers), now
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Tail] = {}
        group = f"239.255.{secrets.randbelow(250) + 1}"
        self.group = f"{group}.1"
        self.media_group = f"{group}.2"
        self.stkm_ports: dict[str, int] = {}
        self.media_ports: dict[str, int] = {}
        self.interaction_url = ""
        self.events = Tail(folder / "air.jsonl")

    def __enter__(self) -> Self:
        try:
            self.write()
            for roles in (AIR, SERVERS):  # a BSD/A that finds no sender raises an alarm
                for role in roles:
                    self.start(role)
                for role in roles:
                    self.await_ready(role)
            self.subscribe()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- files ----------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Certificates, keys, configurations, subscribers."""
        pki.init(self.folder, {role: f"urn:example:{role}" for role in SERVERS})
        trial = Trial(self.folder, self._now, log=("json", "info"))
        entitled = tuple(service.id for service in self.services)
        for position, viewer in enumerate(self.viewers, 1):
            trial.add(viewer.name, viewer.profile, position, entitled if viewer.entitled else ())
        trial.write()
        with contextlib.ExitStack() as held:  # until all are chosen, so that no port is chosen twice
            ports = dict(zip((*SERVERS, "interaction"), _tcp_ports(held, 3), strict=True))
            udp = _udp_ports(held, 2 + 4 * len(self.services))
        self.interaction_url = f"https://127.0.0.1:{ports['interaction']}"
        ltkm, flute, *others = udp
        for service in self.services:
            self.stkm_ports[service.name], self.media_ports[service.name] = others[0], others[2]
            del others[:4]
        services = "".join(self._service(service) for service in self.services)
        own = f'fqdn = "{FQDN}"\nrights_issuer_id = "{trial.issuer.id.hex()}"\n'
        more = {
            "bsm": _INTERACTION.format(port=ports["interaction"]),
            "bsda": _AIR.format(group=self.group, ltkm=ltkm, flute=flute),
        }
        for role, other in zip(SERVERS, reversed(SERVERS), strict=True):
            text = _SERVER.format(
                role=role, other=other, port=ports[role], other_port=ports[other], own=own if role == "bsm" else "",
                more=more[role],
            )  # fmt: skip
            self._put(f"{role}.toml", text + services)
            self._put(f"{role}.kek", secrets.token_hex(32))

    def _service(self, service: Service) -> str:
        return _SERVICE.format(
            id=service.id, stream=service.number, profiles=json.dumps(service.profiles), generation=service.generation,
            protocol=service.protocol, delivery=service.delivery, interaction=json.dumps(service.interaction),
            hold_through=json.dumps(service.hold_through),
            period=service.period, key_period=service.key_period, rollover_lead=service.rollover_lead,
            look_ahead=service.look_ahead, cycle=service.cycle, repetition=service.repetition,
            base_cid=f"service-{service.name.lower()}", group=self.group, port=self.stkm_ports[service.name],
        )  # fmt: skip

    def _put(self, name: str, text: str) -> None:
        with os.fdopen(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)

    # --- what an operator does --------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """The group and all subscribers, from files that only we may read: no key is on a command line."""
        self.pybcast("bsm", "group", "add", "bsm.toml", "group.json")
        self.pybcast("bsm", "subscriber", "import", "bsm.toml", "subscribers.csv")

    def describe(self) -> None:
        """Session descriptions of all services."""
        for service in self.services:
            media = f"{self.media_group}:{self.media_ports[service.name]}/H264"
            text = self.pybcast(
                "bsda", "sdp", "bsda.toml", service.id, "--media", media, "--interaction", self.interaction_url
            )  # fmt: skip
            (self.folder / f"{service.name}.sdp").write_text(text.replace("\n", "\r\n"), encoding="utf-8")

    def tune(self, viewer: Viewer, *options: str) -> None:
        """Start a terminal, tuned to every service; its keys come from the socket ``NAME.sock``."""
        words = [viewer.name + ".toml", *(f"{service.name}.sdp" for service in self.services)]
        self._run(viewer.name, "terminal", *words, "--via", viewer.via, "--keys", f"{viewer.name}.sock", *options)

    def pybcast(self, *words: str) -> str:
        """A command, to its end; what it said.  ``TransportError`` when it failed."""
        done = subprocess.run(
            [sys.executable, "-m", "pybcast.cli", *words], cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=START_LIMIT,
        )  # fmt: skip
        if done.returncode:
            raise TransportError(f"pybcast {' '.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return done.stdout

    # --- processes --------------------------------------------------------------------------------------------------------

    def start(self, role: str) -> None:
        """Start a server or one of the processes that send."""
        words = (role, "serve", f"{role}.toml") if role in SERVERS else ("air", role, "bsda.toml")
        self._run(role, *words)

    def _run(self, name: str, *words: str) -> None:
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        self.logs[name] = Tail(log)
        with log.open("wb") as file:
            # A session of its own: an interrupt from the keyboard is for us, who then end it.
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "pybcast.cli", *words], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            )  # fmt: skip

    def await_ready(self, name: str) -> None:
        """Until it says so; ``TransportError`` when it ends or takes too long."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            ended = self.processes[name].poll() is not None  # before its last words are read
            if any(line.get("event") == "ready" for line in self.logs[name].lines()):
                return
            if ended or time.monotonic() > deadline:
                raise TransportError(f"{name} did not start: {self.logs[name].said}")
            time.sleep(LOOK)

    def kill(self, name: str) -> None:
        """SIGKILL, and see it end."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def check(self) -> None:
        """``TransportError`` when a process has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                for _ in self.logs[name].lines():
                    pass
                raise TransportError(f"{name} ended: {self.logs[name].said}")

    def stop(self) -> None:
        """End everything, what depends on others first."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _tcp_ports(held: contextlib.ExitStack, count: int) -> list[int]:
    listeners = [held.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)]
    return [int(made.getsockname()[1]) for made in listeners]


def _udp_ports(held: contextlib.ExitStack, count: int) -> list[int]:
    """Consecutive ports, the first even: RTP has two, and so has a service with two profiles."""
    while True:
        first = 2 * (5000 + secrets.randbelow(5000))
        with contextlib.ExitStack() as trying:
            try:
                for port in range(first, first + count):
                    made = trying.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    made.bind((LOOPBACK, port))
            except OSError:
                continue
            held.enter_context(trying.pop_all())
            return list(range(first, first + count))
