# SPDX-License-Identifier: Apache-2.0
"""The demo's key side as an operator runs it: every part of the ``chain`` a process, key messages on multicast.

In the middle BSM and BSD/A are killed (SIGKILL) together, and started again eight crypto periods later: the edge executes what they
had planned, and nobody who watches may notice.  Service A runs F3 and F5, pushed; service B F4 and F6, pulled.  Terminals hear
registration material, LTKMs and STKMs from the air; the card's has an interaction channel too.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from pybcast import codec
from pybcast import flows as flow
from pybcast.demo.chain import SERVERS, STOP_LIMIT, Chain, Service, Viewer
from pybcast.demo.keyside import (
    FLOWS,
    UNENTITLED,
    Alarm,
    Announced,
    Event,
    FlowRan,
    Note,
    Profile,
    Rollover,
    ServersBack,
    ServersDead,
    StopTraffic,
    TekExpired,
    TerminalKey,
    UseKey,
    ntp_now,
)
from pybcast.demo.keyside import SERVICES as NAMES
from pybcast.messages import DrmStkm, SmartcardStkm
from pybcast.outlets.keyline import KeyOutput, read_line
from pybcast.unixsocket import connected

Report = Callable[[dict[str, object]], None]
DEAD: Final = (0.25, 0.65)  # of the seconds that are played: when both servers die, and are started again
WATCH_AT: Final = 0.9  # of the seconds that are played: both servers have come back
FULL_NAMES: Final = {"bsm": "BSM", "bsda": "BSD/A"}
# The next long-term key is there longer before its time than the servers are dead, and as long ahead all is planned.  A new BSD/A
# has its first key renewed (R33), and the one after that is issued when all that may be planned under the first has run out (R10):
# B's keys last for longer than that.
_KEYS: Final = {"period": 1, "rollover_lead": 18, "look_ahead": 20}
SERVICES: Final = (
    Service(name="A", number=1, generation="bsm", delivery="push", key_period=20, **_KEYS),  # type: ignore[arg-type]
    Service(name="B", number=2, generation="bsda", delivery="pull", interaction=True, key_period=60, **_KEYS),  # type: ignore[arg-type]
)


class Feed:
    """What a key socket says, without waiting; when it is gone, it is looked for again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._rest = b""

    def outputs(self) -> Iterator[KeyOutput]:
        """What has come since the last call."""
        if self._socket is None and not self._connect():
            return
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while data := self._socket.recv(1 << 16):
                self._rest += data
            self.close()
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if (said := read_line(line)) is not None:
                yield said

    def _connect(self) -> bool:
        try:
            made = connected(self._path)
        except OSError:
            return False
        made.setblocking(False)
        self._socket, self._rest = made, b""
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class DaemonKeys:
    """The whole key side (``KeySide``), inside ``with``.

    ``seconds``: how long will be played; BSM and BSD/A are killed in between.  ``report``: told at once what is being done.
    Raises ``TransportError`` when a process does not start, or ends.
    """

    flows: Sequence[str] = FLOWS

    def __init__(
        self, profiles: Sequence[Profile], now: float, seconds: float, report: Callable[[dict[str, object]], None]
    ) -> None:
        self._profiles, self._seconds, self._report, self._now = tuple(profiles), seconds, report, now
        self._closing = contextlib.ExitStack()
        self._events: list[Event] = []
        self._first_of: dict[tuple[str, Profile], str] = {}
        self._waiting: dict[str, UseKey] = {}
        self._started: set[str] = set()
        self._held: dict[tuple[str, str], set[bytes]] = {}
        self._began: float | None = None
        self._killed = self._restarted = False
        self._dead: dict[str, float] = {}  # since when, until a server serves again
        self._feeds: dict[str, Feed] = {}
        self._watching: subprocess.Popen[str] | None = None
        self._watched = False

    def __enter__(self) -> Self:
        viewers = [Viewer(p, p, via="both" if p == "smartcard" else "broadcast") for p in self._profiles]
        viewers += [Viewer(f"{UNENTITLED}-{p}", p, entitled=False) for p in self._profiles]
        services = [Service(**{**vars(service), "profiles": self._profiles}) for service in SERVICES]
        try:
            folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="pybcast-demo-"))
            self.chain = Chain(Path(folder), services, viewers, self._now)
            self._closing.enter_context(self.chain)
            self._say("BSM, BSD/A, STKM sender and carousel run as processes: mutual TLS, SQLite, multicast on loopback")
            self._say(f"{len(viewers)} subscribers imported, {len(self._profiles)} of them with rights")
            self.chain.describe()
            for viewer in viewers:
                self.chain.tune(viewer)
            for viewer in viewers:
                self.chain.await_ready(viewer.name)
        except BaseException:
            self._closing.close()
            raise
        self._say(f"{len(viewers)} terminals tuned in, each a process")
        return self

    def __exit__(self, *_: object) -> None:
        for feed in self._feeds.values():
            feed.close()
        if self._watching is not None:
            self._show(self._watching)
        self._closing.close()

    def _say(self, text: str) -> None:
        self._report({"event": "note", "text": text, "t": ntp_now()})

    # --- KeySide --------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """From now on keys are of interest."""
        for viewer in self.chain.viewers:
            self._feeds[viewer.name] = Feed(self.chain.folder / f"{viewer.name}.sock")
        self._feeds["encoder"] = Feed(self.chain.folder / "keys.sock")

    def tick(self, now: float) -> list[Event]:
        """What has happened since the last call."""
        self._read_logs(now)
        self._read_air()
        for name, feed in self._feeds.items():
            for output in feed.outputs():
                self._heard(name.partition("-")[0], output)
        self._kill_when_due(now)
        self._watch_when_due(now)
        events, self._events = self._events, []
        return events

    def _heard(self, who: str, output: KeyOutput) -> None:
        name = output.service[-1]
        match output:
            case flow.UseKey(_, _, start, _, mki, tek, salt) if salt is not None:
                self._waiting[name] = UseKey(name, mki, tek, salt, start)
                self._release(name)
            case flow.StopTraffic():
                self._waiting.pop(name, None)
                self._events.append(StopTraffic(name))
            case flow.TekReady(_, _, mki, tek, salt) if salt is not None:
                self._held.setdefault((who, name), set()).add(mki)
                self._events.append(TerminalKey(who, name, mki, tek, salt))
                self._release(name)
            case flow.TekExpired(_, _, mki):
                self._events.append(TekExpired(who, name, mki))

    def _release(self, service: str) -> None:
        """The very first key of a service waits for the entitled terminals, so that no picture is missed."""
        use = self._waiting.get(service)
        if use is not None and (
            service in self._started or all(use.mki in self._held.get((profile, service), ()) for profile in self._profiles)
        ):
            self._started.add(service)
            self._events.append(use)
            del self._waiting[service]

    # --- kills ------------------------------------------------------------------------------------------------------------

    def _kill_when_due(self, now: float) -> None:
        if self._began is None and self._started >= set(NAMES):
            self._began = now
        if self._began is None:
            return
        die, live = (self._began + share * self._seconds for share in DEAD)
        if not self._killed and now >= die:
            self._killed = True
            self._dead = dict.fromkeys(SERVERS, now)
            for role in SERVERS:
                self.chain.kill(role)
            self._events.append(ServersDead(now))
            self._events.append(Note("BSM and BSD/A killed (SIGKILL): the edge goes on with what is planned"))
        if self._killed and not self._restarted and now >= live:
            self._restarted = True
            for role in SERVERS:
                self.chain.start(role)
            self._events.append(Note("BSM and BSD/A started again"))

    def _watch_when_due(self, now: float) -> None:
        """What an operator sees, once."""
        if self._watching is not None and self._watching.poll() is not None:
            self._show(self._watching)
            self._watching = None
        if not self._watched and self._began is not None and now >= self._began + WATCH_AT * self._seconds:
            self._watched = True
            self._watching = subprocess.Popen(
                [sys.executable, "-m", "pybcast.cli", "watch", "--once", "bsm.toml", "bsda.toml"], cwd=self.chain.folder,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip

    def _show(self, watching: subprocess.Popen[str]) -> None:
        try:
            said, _ = watching.communicate(timeout=STOP_LIMIT)
        except subprocess.TimeoutExpired:
            watching.kill()
            said, _ = watching.communicate()
        self._report({"event": "watch", "text": said.rstrip(), "t": ntp_now()})

    # --- what they say --------------------------------------------------------------------------------------------------

    def _read_logs(self, now: float) -> None:
        for role in (*SERVERS, "stkm"):
            for line in self.chain.logs[role].lines():
                match line:
                    case {"event": "flow", "flow": str(name), "profile": profile}:
                        self._events += [FlowRan(name, p) for p in (self._profiles if profile is None else (profile,))]
                    case {"event": "alarm", "code": str(code), "service": str(service), "text": str(text), "active": True}:
                        self._events.append(Alarm(f"{service}: {code}: {text}"))
                    case {"event": "at-work"} if role in self._dead:
                        took = now - self._dead.pop(role)
                        if not self._dead:
                            self._events.append(ServersBack(now))
                        self._events.append(Note(f"{FULL_NAMES[role]} serves again, {took:.1f} s after it was killed"))
        self.chain.check()

    def _read_air(self) -> None:
        for line in self.chain.events.lines():
            match line:
                case {"event": "Announce", "service": str(service), "start": int(start), "stkms": stkms}:
                    for stkm in stkms:
                        name, profile = service[-1], stkm["profile"]
                        self._events.append(Announced(name, profile, start))
                        self._rollover(name, profile, bytes.fromhex(stkm["data"]), start)

    def _rollover(self, service: str, profile: Profile, stkm: bytes, start: int) -> None:
        """The long-term key that a STKM names is a new one."""
        message = codec.decode(stkm, "drm-stkm" if profile == "drm" else "smartcard-stkm")
        if isinstance(message, SmartcardStkm):
            key = f"SEK {int.from_bytes(message.sek_id[-2:], 'big')}"
        else:
            assert isinstance(message, DrmStkm) and message.service_CID_extension is not None
            key = f"SEAK {message.service_CID_extension & 0xFFFF}"
        before = self._first_of.get((service, profile))
        self._first_of[service, profile] = key
        if before not in (None, key):
            self._events.append(Rollover(service, profile, key, start))
