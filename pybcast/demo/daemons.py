# SPDX-License-Identifier: Apache-2.0
"""The demo's key side as an operator runs it: BSM and BSD/A as processes, XML over mutual TLS, SQLite, keys at rest wrapped.

Everything is done from outside, by what every operator has: certificates and configurations in a folder, ``pybcast bsm serve`` and
``bsda serve``, subscribers imported from a file, keys from the BSD/A's socket for encoders, and what goes on air from its events.
In the middle the BSM is killed (SIGKILL) and started again: nobody who watches may notice.

Service A runs F3 and F5, pushed; service B F4 and F6, pulled.  All terminals hear STKMs from the air.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from pybcast import codec
from pybcast import flows as flow
from pybcast.backend import pki
from pybcast.demo.keyside import FLOWS, SERVICES, Alarm, Event, Note, Profile, Rollover, UseKey
from pybcast.demo.receivers import (
    CYCLE,
    KEY_DOMAIN,
    KEY_PERIOD,
    PERIOD,
    REPETITION,
    SOC,
    Receivers,
    base_cid,
    service_id,
    stream_number,
)
from pybcast.errors import TransportError
from pybcast.messages import DrmStkm, SmartcardStkm
from pybcast.secret import Secret
from pybcast.testing.parties import FQDN

ROLES: Final = ("bsm", "bsda")
START_LIMIT: Final = 30.0  # seconds for two interpreters to import the servers on a busy machine
STOP_LIMIT: Final = 10.0  # seconds from SIGTERM to the end
LOOK: Final = 0.02  # seconds between two looks at what the servers have said
KILL_AT: Final = 0.4  # of the seconds that are played
CSV_COLUMNS: Final = ("subscriber", "smk", "idr", "group", "position", "udk", "riak", "registration", "services")

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
{air}
[[peers]]
id = "urn:example:{other}"
url = "https://127.0.0.1:{other_port}"
"""
_AIR: Final = '\n[air]\nevents = "air.jsonl"\ncontent = true\nkeys = "keys.sock"\n'
_SERVICE: Final = """
[[services]]
id = "{id}"
stream = {stream}
profiles = {profiles}
generation = "{generation}"
delivery = "{delivery}"
synchronous = false
interaction = {interaction}
period = {period}
key_period = {key_period}
rollover_lead = {rollover_lead}
look_ahead = 3
carousel_cycle = {cycle}
repetition = {repetition}
serviceBaseCID = "{base_cid}"
socID = "{soc}"
key_domain_id = "{key_domain}"
key_group = {stream}
"""


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
                    found = json.loads(line)
                except ValueError:  # a kill -9 may cut one short; what comes before the log begins is plain text
                    self.said = line.decode(errors="replace").strip()
                    continue
                self.said = found.get("message", self.said)
                yield found


class DaemonKeys:
    """The two servers and the terminals (``KeySide``), inside ``with``.

    ``seconds``: how long will be played; the BSM is killed in between.  ``note``: told at once what is being done.
    Raises ``TransportError`` when a server does not start, or ends.
    """

    flows: Sequence[str] = FLOWS

    def __init__(self, profiles: Sequence[Profile], now: float, seconds: float, note: Callable[[str], None]) -> None:
        self._profiles, self._seconds, self._note = tuple(profiles), seconds, note
        self._receivers = Receivers(profiles, now, interaction=False)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Tail] = {}
        self._closing = contextlib.ExitStack()
        self._keys: socket.socket | None = None
        self._rest = b""
        self._began = False
        self._known: set[str] = set()
        self._first_of: dict[tuple[str, Profile], str] = {}
        self._kill_at: float | None = None
        self._killed: float | None = None

    def __enter__(self) -> Self:
        try:
            self.folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="pybcast-demo-")))
            self._closing.callback(self._stop)
            self._events = Tail(self.folder / "air.jsonl")
            self._write()
            for role in ROLES:
                self._start(role)
            for role in ROLES:
                self._await_ready(role)
            self._note("BSM and BSD/A run as processes: mutual TLS on loopback, SQLite, keys at rest wrapped")
            self._subscribe()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    # --- KeySide ------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Let the terminals tune in; the servers run already."""
        self._began = True
        self._receivers.tune(now)

    def tick(self, now: float) -> list[Event]:
        """What the servers have said, and what the terminals made of it."""
        self._read_logs(now)
        self._read_air(now)
        if not self._began:
            return []
        self._read_keys()
        self._receivers.repeat(now, lambda _: None)
        self._receivers.turn(now)
        self._receivers.tick(now)
        events = self._receivers.take()
        self._kill_when_due(events, now)
        return events

    # --- the servers ----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        pki.init(self.folder, {role: f"urn:example:{role}" for role in ROLES})
        with contextlib.ExitStack() as held:  # until all are chosen, so that no port is chosen twice
            listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ROLES]
            ports = dict(zip(ROLES, (int(made.getsockname()[1]) for made in listeners), strict=True))
        services = "".join(self._service(name) for name in SERVICES)
        own = f'fqdn = "{FQDN}"\nrights_issuer_id = "{self._receivers.issuer_id.hex()}"\n'
        for role, other in zip(ROLES, reversed(ROLES), strict=True):
            text = _SERVER.format(
                role=role, other=other, port=ports[role], other_port=ports[other], own=own if role == "bsm" else "",
                air=_AIR if role == "bsda" else "",
            )  # fmt: skip
            self._put(f"{role}.toml", text + services)
            self._put(f"{role}.kek", secrets.token_hex(32))

    def _service(self, name: str) -> str:
        return _SERVICE.format(
            id=service_id(name), stream=stream_number(name), profiles=json.dumps(self._profiles),
            generation="bsm" if name == "A" else "bsda", delivery="push" if name == "A" else "pull",
            interaction="true" if name == "B" else "false", period=PERIOD, key_period=KEY_PERIOD,
            rollover_lead=KEY_PERIOD - PERIOD, cycle=CYCLE, repetition=REPETITION, base_cid=base_cid(name), soc=SOC,
            key_domain=KEY_DOMAIN,
        )  # fmt: skip

    def _put(self, name: str, text: str) -> None:
        with os.fdopen(os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)

    def _subscribe(self) -> None:
        """The group and all subscribers, from files that only we may read: no key is on a command line."""
        group = self._receivers.group
        keys = {"address": group.address, "root": group.root.reveal(), "ugk": group.ugk.reveal(), "riak": group.riak.reveal()}
        self._put("group.json", json.dumps({name: value.hex() for name, value in keys.items()} | {"size": group.size}))
        self._pybcast("bsm", "group", "add", "bsm.toml", "group.json")
        services = " ".join(service_id(name) for name in SERVICES)
        self._put("subscribers.csv", "")
        with (self.folder / "subscribers.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS)
            writer.writeheader()
            for party in self._receivers.parties:
                who = party.subscriber
                row = {"subscriber": who.id, "registration": party.registration.hex()}
                if who.smk is not None:
                    row |= {"smk": who.smk.reveal().hex(), "idr": who.idr}
                elif who.udk is not None and who.riak is not None:
                    row |= {
                        "group": who.group.hex(), "position": str(who.position), "udk": who.udk.reveal().hex(),
                        "riak": who.riak.reveal().hex(),
                    }  # fmt: skip
                writer.writerow(row | {"services": services if party.entitled else ""})
        self._pybcast("bsm", "subscriber", "import", "bsm.toml", "subscribers.csv")
        self._note(f"{len(self._receivers.parties)} subscribers imported, {len(self._profiles)} of them with rights")

    def _pybcast(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pybcast.cli", *words], cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=START_LIMIT,
        )  # fmt: skip
        if done.returncode:
            raise TransportError(f"pybcast {' '.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")

    def _start(self, role: str) -> None:
        log = self.folder / f"{role}-{time.monotonic_ns()}.log"
        self._logs[role] = Tail(log)
        with log.open("wb") as file:
            # A session of its own: an interrupt from the keyboard is for us, who then end it.
            self._processes[role] = subprocess.Popen(
                [sys.executable, "-m", "pybcast.cli", role, "serve", f"{role}.toml"], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            )  # fmt: skip

    def _await_ready(self, role: str) -> None:
        deadline = time.monotonic() + START_LIMIT
        while True:
            ended = self._processes[role].poll() is not None  # before its last words are read
            if any(line.get("event") == "ready" for line in self._logs[role].lines()):
                return
            if ended or time.monotonic() > deadline:
                raise TransportError(f"the {role} did not start: {self._logs[role].said}")
            time.sleep(LOOK)

    def _stop(self) -> None:
        if self._keys is not None:
            self._keys.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _kill_when_due(self, events: Sequence[Event], now: float) -> None:
        self._known |= {event.service for event in events if isinstance(event, UseKey)}
        if self._kill_at is None and self._known >= set(SERVICES):
            self._kill_at = now + KILL_AT * self._seconds
        if self._kill_at is not None and self._killed is None and now >= self._kill_at:
            self._killed = now
            process = self._processes["bsm"]
            process.send_signal(signal.SIGKILL)
            process.wait()
            self._start("bsm")
            self._receivers.events.append(Note("BSM killed (SIGKILL), and started again"))

    # --- what they say --------------------------------------------------------------------------------------------------

    def _read_logs(self, now: float) -> None:
        for role, process in self._processes.items():
            ended = process.poll() is not None
            for line in self._logs[role].lines():
                match line:
                    case {"event": "flow", "flow": str(name), "profile": profile}:
                        self._receivers.ran(name, profile)
                    case {"event": "alarm", "code": str(code), "service": str(service), "text": str(text), "active": True}:
                        self._receivers.events.append(Alarm(f"{service}: {code}: {text}"))
                    case {"event": "ready"} if role == "bsm" and self._killed is not None:
                        self._receivers.events.append(Note(f"BSM serves again, {now - self._killed:.1f} s after it was killed"))
            if ended:
                raise TransportError(f"the {role} ended: {self._logs[role].said}")

    def _read_air(self, now: float) -> None:
        for line in self._events.lines():
            match line:
                case {"event": "Announce", "service": service, "stream": stream, "start": start, "repetition": repetition}:
                    stkms = tuple(flow.AirStkm(stkm["profile"], bytes.fromhex(stkm["data"])) for stkm in line["stkms"])
                    self._receivers.put(flow.Announce(service, stream, start, stkms, repetition), now)
                    for stkm in stkms:
                        self._rollover(service[-1], stkm, start)
                case {"event": "OffAir", "service": service, "stream": stream, "start": start}:
                    self._receivers.put(flow.OffAir(service, stream, start), now)
                case {"event": "CarouselPut", "object": name, "service": service, "data": data}:
                    self._receivers.put(flow.CarouselPut(name, service, tuple(map(bytes.fromhex, data))), now)
                case {"event": "CarouselDrop", "object": name}:
                    self._receivers.put(flow.CarouselDrop(name), now)

    def _rollover(self, service: str, stkm: flow.AirStkm, start: int) -> None:
        """The long-term key that a STKM names is a new one."""
        message = codec.decode(stkm.data, "drm-stkm" if stkm.profile == "drm" else "smartcard-stkm")
        if isinstance(message, SmartcardStkm):
            key = f"SEK {int.from_bytes(message.sek_id[-2:], 'big')}"
        else:
            assert isinstance(message, DrmStkm) and message.service_CID_extension is not None
            key = f"SEAK {message.service_CID_extension & 0xFFFF}"
        before = self._first_of.get((service, stkm.profile))
        self._first_of[service, stkm.profile] = key
        if before not in (None, key):
            self._receivers.events.append(Rollover(service, stkm.profile, key, start))

    def _read_keys(self) -> None:
        if self._keys is None:
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(str(self.folder / "keys.sock"))
            except OSError as error:
                made.close()
                raise TransportError(f"the BSD/A gives no keys: {error.strerror}") from None
            made.setblocking(False)
            self._keys = made
        with contextlib.suppress(BlockingIOError):
            while data := self._keys.recv(1 << 16):
                self._rest += data
            raise TransportError("the BSD/A gives no keys any more")
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            match json.loads(line):
                case {"event": "UseKey", "service": service, "mki": mki, "tek": tek, "salt": salt, "start": start}:
                    key = UseKey(service[-1], bytes.fromhex(mki), Secret.from_hex(tek), bytes.fromhex(salt), start)
                    self._receivers.use(key)
                case {"event": "StopTraffic", "service": service}:
                    self._receivers.stop(service[-1])
