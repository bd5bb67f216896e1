# SPDX-License-Identifier: Apache-2.0
"""The demo's air and its terminals: STKMs repeated, carousel objects turn by turn, to a device, a card and two without a right.

What goes on air comes in as the outputs of a BSD/A; what the media side has to know comes out as events.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pybcast import flows as flow
from pybcast.demo.keyside import (
    SERVICES,
    UNENTITLED,
    Announced,
    Event,
    FlowRan,
    Profile,
    StopTraffic,
    TekExpired,
    TerminalKey,
    UseKey,
)
from pybcast.testing.parties import make_card, make_device, make_group, rights_issuer

PERIOD: Final = 2  # seconds
KEY_PERIOD: Final = 10  # seconds a SEK or SEAK lasts: the demo shows rollovers
REPETITION: Final = 0.1  # seconds between two copies of a STKM (signalling: the default on air)
CYCLE: Final = 1.0  # seconds a turn of the carousel takes here; 10 on air
SOC: Final = "soc.example"
KEY_DOMAIN: Final = "12f410"

AirOutput = flow.Announce | flow.OffAir | flow.CarouselPut | flow.CarouselDrop


def service_id(name: str) -> str:
    """GlobalServiceID of service ``A`` or ``B``; its last letter is the name."""
    return f"urn:example:service:{name}"


def stream_number(name: str) -> int:
    """Its stream, and its key group."""
    return 1 + SERVICES.index(name)


def base_cid(name: str) -> str:
    return f"service-{name.lower()}"


@dataclass(frozen=True)
class Party:
    """A subscriber as the BSM is told of him, with his registration material."""

    subscriber: flow.Subscriber
    registration: bytes
    entitled: bool


@dataclass
class Terminal:
    """``interaction``: services whose STKMs it fetches (F6), ``after``: start of the period of the last one."""

    name: str
    profile: Profile
    machine: flow.Terminal
    interaction: frozenset[str] = frozenset()
    after: dict[str, int] = field(default_factory=dict)


class Receivers:
    """Terminals, and the air between them and a BSD/A.  ``interaction``: the card fetches service B's STKMs from the BSM."""

    def __init__(self, profiles: Sequence[Profile], now: float, *, interaction: bool) -> None:
        self._profiles = tuple(profiles)
        self.events: list[Event] = []
        self._air: dict[tuple[str, int], tuple[flow.Announce, float]] = {}
        self._sent: set[tuple[str, int]] = set()
        self._carousel: dict[str, flow.CarouselPut] = {}
        self._next_turn = 0.0
        self._waiting: dict[str, UseKey] = {}
        self._started: set[str] = set()
        self._held: dict[tuple[str, str], set[bytes]] = {}
        issuer, _ = rights_issuer()
        self.issuer_id = issuer.id
        self.group = make_group(random.Random(os.urandom(16)))
        self.terminals: list[Terminal] = []
        self.parties: list[Party] = []
        for position, (name, entitled) in enumerate(((p, True) for p in self._profiles), 1):
            self._enrol(name, name, position, entitled, now, interaction)
        for position, profile in enumerate(self._profiles, 101):
            self._enrol(UNENTITLED, profile, position, False, now, False)

    def _enrol(self, name: str, profile: Profile, position: int, entitled: bool, now: float, interaction: bool) -> None:
        source = random.Random(os.urandom(16))
        if profile == "drm":
            device = make_device(source, f"{name}-{profile}", self.group, position, now)
            self.parties.append(Party(device.subscriber, device.registration, entitled))
            self.terminals.append(Terminal(name, profile, flow.Terminal(device=device.device, cycle=CYCLE)))
        else:
            card = make_card(source, f"{name}-{profile}", now)
            self.parties.append(Party(card.subscriber, card.registration, entitled))
            fetched = frozenset({"B"}) if interaction else frozenset()
            self.terminals.append(Terminal(name, profile, flow.Terminal(card=card.card, cycle=CYCLE), fetched))

    def tune(self, now: float) -> None:
        """All terminals to both services."""
        for terminal in self.terminals:
            for name in SERVICES:
                tuning = flow.Tuning(service_id(name), stream_number(name), ("239.0.0.1", 5000), SOC, base_cid(name))
                self.hear(terminal, terminal.machine.tune(tuning, now))

    def put(self, output: AirOutput, now: float) -> None:
        """A BSD/A's output to the air."""
        match output:
            case flow.Announce():
                self._air[output.service, output.start] = (output, now)
                for stkm in output.stkms:
                    self.events.append(Announced(output.service[-1], stkm.profile, output.start))
            case flow.OffAir(service, _, start):
                self._air.pop((service, start), None)
                self._sent.discard((service, start))
            case flow.CarouselPut(name):
                self._carousel[name] = output
            case flow.CarouselDrop(name):
                self._carousel.pop(name, None)

    def ran(self, done: str, profile: Profile | None) -> None:
        """A flow has run; one that knows no profile, for all of them."""
        self.events += [FlowRan(done, p) for p in (self._profiles if profile is None else (profile,))]

    def use(self, use: UseKey) -> None:
        """Hand a key to the encoder; the very first of a service waits for the entitled terminals, so that no picture is missed."""
        self._waiting[use.service] = use
        self._release(use.service)

    def stop(self, service: str) -> None:
        """No authority for the service's key any more."""
        self._waiting.pop(service, None)
        self.events.append(StopTraffic(service))

    def _release(self, service: str) -> None:
        use = self._waiting.get(service)
        if use is None:
            return
        ready = all(use.mki in self._held.get((profile, service), ()) for profile in self._profiles)
        if ready or service in self._started:
            self._started.add(service)
            self.events.append(use)
            del self._waiting[service]

    def repeat(self, now: float, announced: Callable[[flow.Announce], None]) -> None:
        """Send the STKMs that are due; ``announced``: a period's first have left."""
        for key, (announce, due) in list(self._air.items()):
            if now < due or key not in self._air:
                continue
            first = key not in self._sent
            self._sent.add(key)
            self._air[key] = (announce, now + announce.repetition)
            for stkm in announce.stkms:
                for terminal in self.terminals:
                    if terminal.profile == stkm.profile and announce.service[-1] not in terminal.interaction:
                        self.hear(terminal, terminal.machine.receive_stkm(announce.service, announce.stream, stkm.data, now))
            if first:
                announced(announce)

    def turn(self, now: float) -> None:
        """Give all terminals the carousel's objects, twice a cycle."""
        if now < self._next_turn:
            return
        self._next_turn = now + CYCLE / 2
        for put in list(self._carousel.values()):
            for data in put.data:
                for terminal in self.terminals:
                    self.hear(terminal, terminal.machine.receive_object(data, now))

    def tick(self, now: float) -> None:
        """Let time pass for the terminals."""
        for terminal in self.terminals:
            self.hear(terminal, terminal.machine.tick(now))

    def hear(self, terminal: Terminal, outputs: list[flow.Output]) -> None:
        """What a terminal made of something."""
        for output in outputs:
            match output:
                case flow.TekReady(service, _, mki, tek, salt):
                    assert salt is not None
                    name = service[-1]
                    self._held.setdefault((terminal.name, name), set()).add(mki)
                    self.events.append(TerminalKey(terminal.name, name, mki, tek, salt))
                    self._release(name)
                case flow.TekExpired(service, _, mki):
                    self.events.append(TekExpired(terminal.name, service[-1], mki))

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events
