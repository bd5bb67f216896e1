# SPDX-License-Identifier: Apache-2.0
"""The demo's loop: encoders, head end, air, terminals and players, and the key side that drives them.

One thread.  Encoders and players are child processes (``media``); here packets are relayed, keys carried from the key side's
events to the protectors and terminals, and what happened is recorded for report and timeline.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from pybcast import jsontext
from pybcast.demo.keyside import (
    FLOWS,
    SERVICES,
    UNENTITLED,
    Alarm,
    Announced,
    Event,
    FlowRan,
    KeySide,
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
from pybcast.demo.media import FRAME_RATE, require_av
from pybcast.demo.relay import HeadEnd, Heard, Tuner, answers
from pybcast.errors import TransportError
from pybcast.outlets.udp import Pair

TICK: Final = 0.02  # seconds: half a frame
FIRST_SEQ: Final = {"A": 1000, "B": 65_400}  # B wraps soon after the start: the ROC must survive the key changes (rules R39)
START_LIMIT: Final = 20.0  # seconds for eight interpreters to import PyAV on a busy machine
KEY_LIMIT: Final = 20.0  # seconds for the key side to bring the first keys on air
CATCH_UP: Final = 3.0  # seconds after the last packet for players to decode what they hold
SETTLE: Final = 0.25  # seconds of quiet before BYE: the last picture shows in a player's count only after it
STOP_LIMIT: Final = 5.0  # seconds for children to end after BYE

Report = Callable[[dict[str, object]], None]


@dataclass(slots=True)
class Span:
    """Packets of one service at one terminal under one MKI: when the first and the last came, how many opened."""

    terminal: str
    service: str
    mki: bytes
    first: float
    last: float
    opened: int = 0
    packets: int = 0


class Period(NamedTuple):
    service: str
    mki: bytes
    start: float


class Announcement(NamedTuple):
    service: str
    profile: Profile
    at: float
    period_start: float


class Turn(NamedTuple):
    service: str
    profile: Profile
    key: str
    start: float


class Held(NamedTuple):
    terminal: str
    service: str
    mki: bytes
    at: float


@dataclass(slots=True)
class Record:
    """What happened, in NTP seconds; the encoders ran from ``zero`` to ``end``."""

    terminals: tuple[str, ...]
    profiles: tuple[Profile, ...]
    periods: list[Period] = field(default_factory=list)
    announced: list[Announcement] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    rollovers: list[Turn] = field(default_factory=list)
    spans: dict[tuple[str, str, bytes], Span] = field(default_factory=dict)
    flows: dict[tuple[str, str], int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    recovered: dict[tuple[str, str], int] = field(default_factory=dict)
    zero: float = 0.0
    end: float = 0.0
    alarms: list[str] = field(default_factory=list)
    dead: list[float] = field(default_factory=list)
    """From when to when both servers did not serve; nothing when they lived."""

    @property
    def frames_sent(self) -> int:
        return sum(self.sent.values())

    @property
    def key_changes(self) -> int:
        """Switches from one key to another, over all services."""
        return max(0, len(self.periods) - len({period.service for period in self.periods}))

    def frames(self, terminal: str) -> int | None:
        """Frames recovered by a terminal, all services; None when it took no part."""
        if terminal not in self.terminals:
            return None
        return sum(count for (name, _), count in self.recovered.items() if name == terminal)

    def failures(self, flows: Sequence[str]) -> list[str]:
        """Why the demo did not succeed, one line each; nothing when it did."""
        found = [] if self.frames_sent else ["no frame was sent"]
        for (terminal, service), count in self.recovered.items():
            wanted = 0 if terminal == UNENTITLED else self.sent.get(service, 0)
            if count != wanted:
                found.append(f"terminal {terminal}, service {service}: {count} frames instead of {wanted}")
        for flow in flows:
            found += [f"{flow} did not run ({profile})" for profile in self.profiles if not self.flows.get((flow, profile))]
        return found

    def summary(self) -> dict[str, object]:
        return {
            "event": "summary",
            "frames_sent": self.frames_sent,
            "frames_drm": self.frames("drm"),
            "frames_smartcard": self.frames("smartcard"),
            "frames_unentitled": self.frames(UNENTITLED),
            "key_changes": self.key_changes,
            "flows": {flow: {profile: bool(self.flows.get((flow, profile))) for profile in self.profiles} for flow in FLOWS},
            "alarms": len(self.alarms),
        }


class Child:
    """An encoder or player process: starts it, and gathers the lines it says."""

    def __init__(self, *arguments: object) -> None:
        # A session of its own: an interrupt from the keyboard is for the parent, which then ends its children.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pybcast.demo.media", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout
        self._rest = b""
        self.frames = self.damaged = 0
        self.ready = self.done = self.ended = False

    def go(self) -> None:
        """Let an encoder begin."""
        self._input.write(b"go\n")
        self._input.flush()

    def listen(self, now: float) -> None:
        """Take what the child has said; call it when there is something."""
        data = os.read(self.output.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = jsontext.read(line)
            self.frames, self.damaged = said.get("frames", self.frames), said.get("damaged", self.damaged)
            self.ready |= said.get("ready", False)
            self.done |= said.get("done", False)
        self.ended = not data

    def close(self) -> None:
        """See it end, or end it."""
        self._input.close()
        try:
            self._process.wait(STOP_LIMIT if self.done else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.output.close()


class Station:
    """Everything of the demo but the keys.  ``run`` it once, inside ``with``."""

    def __init__(self, keys: KeySide, profiles: Sequence[Profile], report: Report) -> None:
        require_av()
        self.keys, self.report = keys, report
        self.record = Record(terminals=(*profiles, UNENTITLED), profiles=tuple(profiles))
        self.tuners: dict[tuple[str, str], Tuner] = {}
        self.heads: dict[str, HeadEnd] = {}
        self.players: dict[tuple[str, str], Child] = {}
        self.encoders: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._closing = contextlib.ExitStack()
        self._pending: list[UseKey] = []
        self._told = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self._selector.close()

    def run(self, seconds: float) -> Record:
        """Play ``seconds`` of both services.  ``TransportError`` when a part of the demo does not start or dies."""
        frames = round(seconds * FRAME_RATE)
        self._connect()
        self._start(frames)
        self._await(self._prepared, START_LIMIT, "encoders and players did not start")
        self.keys.begin(ntp_now())
        self._await(lambda: all(head.protector.mki for head in self.heads.values()), KEY_LIMIT, "no traffic key came on air")
        self.record.zero = ntp_now()
        for encoder in self.encoders.values():
            encoder.go()
        self._await(self._broadcast, seconds + START_LIMIT, "the encoders did not end")
        self.record.end = ntp_now()
        self._wait(self._caught_up, CATCH_UP)
        self._wait(lambda: False, SETTLE)
        for tuner in self.tuners.values():
            tuner.release_bye()
        self._wait(lambda: all(player.done for player in self.players.values()), STOP_LIMIT)
        self._count()
        return self.record

    def _connect(self) -> None:
        for terminal in self.record.terminals:
            for service in SERVICES:
                tuner = Tuner(terminal, service, self._ear(terminal, service))
                self._closing.callback(tuner.close)
                self._watch(tuner.air, tuner)
                self.tuners[terminal, service] = tuner
        for service in SERVICES:
            head = HeadEnd(service, [tuner.air.port for tuner in self.tuners.values() if tuner.service == service], self._alarm)
            self._closing.callback(head.close)
            self._watch(head.source, head)
            self.heads[service] = head

    def _watch(self, pair: Pair, relay: HeadEnd | Tuner) -> None:
        self._selector.register(pair.rtp, selectors.EVENT_READ, relay.relay_rtp)
        self._selector.register(pair.rtcp, selectors.EVENT_READ, relay.relay_rtcp)

    def _start(self, frames: int) -> None:
        # All pairs are held at once, so that the system names no port twice; then each is left to its player.
        with contextlib.ExitStack() as held:
            for tuner in self.tuners.values():
                pair = Pair.bind()
                held.callback(pair.close)
                tuner.player_port = pair.port
        for (terminal, service), tuner in self.tuners.items():
            child = self._child("player", "--service", SERVICES.index(service), "--port", tuner.player_port)
            self.players[terminal, service] = child
        for service, head in self.heads.items():
            self.encoders[service] = self._child(
                "encoder", "--service", SERVICES.index(service), "--port", head.source.port,
                "--frames", frames, "--seq", FIRST_SEQ[service],
            )  # fmt: skip

    def _child(self, *arguments: object) -> Child:
        child = Child(*arguments)
        self._closing.callback(child.close)
        self._selector.register(child.output, selectors.EVENT_READ, child.listen)
        return child

    def _prepared(self) -> bool:
        # A player binds RTCP (the odd port) last.
        bound = all(tuner.player_port is not None and answers(tuner.player_port + 1) for tuner in self.tuners.values())
        return bound and all(encoder.ready for encoder in self.encoders.values())

    def _broadcast(self) -> bool:
        return all(encoder.done for encoder in self.encoders.values()) and all(tuner.ended for tuner in self.tuners.values())

    def _caught_up(self) -> bool:
        return all(
            player.frames >= self.encoders[service].frames - 1
            for (terminal, service), player in self.players.items()
            if terminal != UNENTITLED
        )

    def _await(self, condition: Callable[[], bool], limit: float, failure: str) -> None:
        if not self._wait(condition, limit):
            raise TransportError(f"{failure} within {limit:.0f} s")

    def _wait(self, condition: Callable[[], bool], limit: float) -> bool:
        """Keep everything going until ``condition`` holds (True) or ``limit`` seconds have passed (False)."""
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self._turn()
        return True

    def _turn(self) -> None:
        ready = self._selector.select(TICK)
        now = ntp_now()
        for event in self.keys.tick(now):
            self._carry_out(event, now)
        # Keys first: a packet that comes at the start of a period goes out under that period's key.
        for use in [use for use in self._pending if use.start <= now]:
            self._pending.remove(use)
            self._switch(use)
        for key, _ in ready:
            key.data(now)
        for child in (*self.encoders.values(), *self.players.values()):
            if child.ended and child.output.fileno() in self._selector.get_map():
                self._selector.unregister(child.output)
                if not child.done:
                    raise TransportError("an encoder or player ended too early")
        self._progress(now)

    def _carry_out(self, event: Event, now: float) -> None:
        record = self.record
        match event:
            case UseKey():
                self._pending.append(event)
            case StopTraffic(service):
                self.heads[service].stop()
            case TekExpired(terminal, service, mki):
                self.tuners[terminal, service].unprotector.remove_key(mki)
            case TerminalKey(terminal, service, mki, tek, salt):
                self.tuners[terminal, service].unprotector.add_key(mki, tek, salt)
                record.held.append(Held(terminal, service, mki, now))
                self.report({"event": "terminal_key", "terminal": terminal, "service": service, "mki": mki.hex(), "t": now})
            case Announced(service, profile, start):
                record.announced.append(Announcement(service, profile, now, start))
                self.report({"event": "stkm", "service": service, "profile": profile, "period_start": start, "t": now})
            case Rollover(service, profile, key, start):
                record.rollovers.append(Turn(service, profile, key, start))
                self.report({"event": "rollover", "service": service, "profile": profile, "key": key, "start": start, "t": now})
            case FlowRan(flow, profile):
                record.flows[flow, profile] = record.flows.get((flow, profile), 0) + 1
                self.report({"event": "flow", "flow": flow, "profile": profile, "t": now})
            case ServersDead(at) | ServersBack(at):
                record.dead.append(at)
            case Note(text):
                self.report({"event": "note", "text": text, "t": now})
            case Alarm(text):
                self._alarm(text)

    def _switch(self, use: UseKey) -> None:
        self.heads[use.service].use(use.mki, use.tek, use.salt)
        if self.record.end:
            return  # nothing is sent any more
        self.record.periods.append(Period(use.service, use.mki, use.start))
        number = sum(period.service == use.service for period in self.record.periods)
        self.report(
            {"event": "key", "service": use.service, "period": number, "mki": use.mki.hex(), "start": use.start, "t": ntp_now()}
        )

    def _alarm(self, text: str) -> None:
        if text not in self.record.alarms:  # once: a fault repeats with every packet
            self.record.alarms.append(text)
            self.report({"event": "alarm", "text": text, "t": ntp_now()})

    def _ear(self, terminal: str, service: str) -> Heard:
        spans = self.record.spans

        def heard(mki: bytes, opened: bool, now: float) -> None:
            span = spans.get((terminal, service, mki))
            if span is None:
                span = spans[terminal, service, mki] = Span(terminal, service, mki, now, now)
            span.last = now
            span.packets += 1
            span.opened += opened

        return heard

    def _progress(self, now: float) -> None:
        if now < self._told + 1:
            return
        self._told = now
        for (terminal, service), player in self.players.items():
            sent = self.encoders[service].frames
            if sent:
                self.report({
                    "event": "frames", "terminal": terminal, "service": service, "recovered": player.frames, "sent": sent, "t": now,
                })  # fmt: skip

    def _count(self) -> None:
        for service, encoder in self.encoders.items():
            self.record.sent[service] = encoder.frames
        for where, player in self.players.items():
            self.record.recovered[where] = player.frames
            if player.damaged:
                self._alarm(f"terminal {where[0]}, service {where[1]}: {player.damaged} pictures were damaged")
