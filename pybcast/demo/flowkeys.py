# SPDX-License-Identifier: Apache-2.0
"""The demo's key side: BSM, BSD/A and terminals as they are on air, in one process.

Service A by F3 then F5: the BSD/A sends its traffic keys, the BSM seals and delivers.  Service B by F4 then F6: the BSM gives
long-term keys, the BSD/A seals and gives its STKMs back for the interaction channel, over which the Smartcard terminal fetches
them.  Registration material (F1) and LTKMs (F2) reach the terminals over a carousel.  Only the transports are missing: messages
pass by reference, and the clock is the machine's.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pybcast import flows as flow
from pybcast.demo.keyside import (
    FLOWS,
    SERVICES,
    UNENTITLED,
    Alarm,
    Announced,
    Event,
    FlowRan,
    Profile,
    Rollover,
    StopTraffic,
    TekExpired,
    TerminalKey,
    UseKey,
)
from pybcast.messages import Protocol
from pybcast.testing.parties import FQDN, make_card, make_device, make_group, rights_issuer

BSM_ID: Final = "urn:example:bsm"
BSDA_ID: Final = "urn:example:bsda"
PERIOD: Final = 2  # seconds
KEY_PERIOD: Final = 10  # seconds a SEK or SEAK lasts: the demo shows rollovers
LEAD_IN: Final = 5  # seconds from the start to the first period: LTKMs go out before
REPETITION: Final = 0.1  # seconds between two copies of a STKM (signalling: the default on air)
CYCLE: Final = 1.0  # seconds a turn of the carousel takes here; 10 on air
YEAR: Final = 365 * 86400


@dataclass
class _Terminal:
    name: str
    profile: Profile
    machine: flow.Terminal
    interaction: frozenset[str] = frozenset()
    after: dict[str, int] = field(default_factory=dict)


class FlowKeys:
    """The real key side (``KeySide``): everything that ``pybcast.flows`` does, driven by ``tick``."""

    flows: Sequence[str] = FLOWS

    def __init__(self, profiles: Sequence[Profile], now: float) -> None:
        self._profiles = tuple(profiles)
        self._events: list[Event] = []
        self._air: dict[tuple[str, int], tuple[flow.Announce, float]] = {}
        self._sent: set[tuple[str, int]] = set()
        self._carousel: dict[str, flow.CarouselPut] = {}
        self._next_turn = 0.0
        self._waiting: dict[str, UseKey] = {}
        self._started: set[str] = set()
        self._held: dict[tuple[str, str], set[bytes]] = {}
        self._rolled: set[tuple[str, bytes]] = set()
        self._bsm: flow.BSM | None = None
        self._bsda: flow.BSDA | None = None
        issuer, _ = rights_issuer()
        self._issuer_id = issuer.id
        self._group = make_group(random.Random(os.urandom(16)))
        self._terminals: list[_Terminal] = []
        self._parties: list[tuple[flow.Subscriber, bytes, bool]] = []
        for position, (name, entitled) in enumerate(((p, True) for p in self._profiles), 1):
            self._enrol(name, name, position, entitled, now)
        for position, profile in enumerate(self._profiles, 101):
            self._enrol(UNENTITLED, profile, position, False, now)

    def _enrol(self, name: str, profile: Profile, position: int, entitled: bool, now: float) -> None:
        source = random.Random(os.urandom(16))
        if profile == "drm":
            device = make_device(source, f"{name}-{profile}", self._group, position, now)
            self._parties.append((device.subscriber, device.registration, entitled))
            self._terminals.append(_Terminal(name, profile, flow.Terminal(device=device.device, cycle=CYCLE)))
        else:
            card = make_card(source, f"{name}-{profile}", now)
            self._parties.append((card.subscriber, card.registration, entitled))
            interaction = frozenset({"B"}) if entitled else frozenset()
            self._terminals.append(_Terminal(name, profile, flow.Terminal(card=card.card, cycle=CYCLE), interaction))

    # --- KeySide ------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start both servers; the first crypto period begins ``LEAD_IN`` seconds later."""
        streams = [self._config(service, int(now) + LEAD_IN) for service in SERVICES]
        self._bsm = flow.BSM(me=BSM_ID, fqdn=FQDN, streams=streams, randomness=os.urandom, rights_issuer_id=self._issuer_id)
        self._bsda = flow.BSDA(me=BSDA_ID, streams=streams, teks=flow.random_teks(os.urandom), randomness=os.urandom)
        outputs = self._bsm.add_group(self._group, now)
        for subscriber, registration, entitled in self._parties:
            outputs += self._bsm.add_subscriber(subscriber, now, registration)
            for config in streams if entitled else ():
                right = flow.Right(service=config.service, stream=config.stream, start=config.start, end=config.start + YEAR)
                outputs += self._bsm.grant(subscriber.id, right, now)
        self._carry_out(outputs, now)
        self._carry_out(self._bsda.tick(now), now)
        for terminal in self._terminals:
            for config in streams:
                tuning = flow.Tuning(config.service, config.stream, ("239.0.0.1", 5000), config.socID, config.serviceBaseCID)
                self._hear(terminal, terminal.machine.tune(tuning, now))

    def tick(self, now: float) -> list[Event]:
        """Let both servers, the sender, the carousel and the terminals work up to ``now``."""
        if self._bsm is None or self._bsda is None:
            return []
        self._carry_out(self._bsm.tick(now), now)
        self._carry_out(self._bsda.tick(now), now)
        self._repeat(now)
        if now >= self._next_turn:
            self._next_turn = now + CYCLE / 2
            for put in list(self._carousel.values()):
                for data in put.data:
                    for terminal in self._terminals:
                        self._hear(terminal, terminal.machine.receive_object(data, now))
        self._fetch(now)
        for terminal in self._terminals:
            self._hear(terminal, terminal.machine.tick(now))
        self._rollovers()
        events, self._events = self._events, []
        return events

    # --- inside -------------------------------------------------------------------------------------------------------

    def _config(self, service: str, start: int) -> flow.StreamConfig:
        number = 1 + SERVICES.index(service)
        return flow.StreamConfig(
            service=f"urn:example:service:{service}", stream=number, profiles=self._profiles,
            generation="bsm" if service == "A" else "bsda", bsm=BSM_ID, bsdas=(BSDA_ID,), protocol=Protocol.SRTP,
            period=PERIOD, start=start, key_period=KEY_PERIOD, rollover_lead=KEY_PERIOD - PERIOD, look_ahead=3,
            carousel_cycle=CYCLE, repetition=REPETITION,
            synchronous=False, interaction=service == "B", socID="soc.example", serviceBaseCID=f"service-{service.lower()}",
            key_domain_id=bytes.fromhex("12f410"), key_group=number,
        )  # fmt: skip

    def _carry_out(self, outputs: list[flow.Output], now: float) -> None:
        assert self._bsm is not None and self._bsda is not None
        todo = deque(outputs)
        while todo:
            output = todo.popleft()
            match output:
                case flow.Send(message) if message.destination == BSM_ID:
                    todo.extend(self._bsm.receive(message, now, BSDA_ID))
                case flow.Send(message):
                    todo.extend(self._bsda.receive(message, now, BSM_ID))
                case flow.Announce():
                    self._air[output.service, output.start] = (output, now)
                    for stkm in output.stkms:
                        self._events.append(Announced(output.service[-1], stkm.profile, output.start))
                case flow.OffAir(service, _, start):
                    self._air.pop((service, start), None)
                    self._sent.discard((service, start))
                case flow.UseKey(service, _, start, _, mki, tek, salt):
                    assert salt is not None
                    self._use(UseKey(service[-1], mki, tek, salt, start))
                case flow.StopTraffic(service, _):
                    self._events.append(StopTraffic(service[-1]))
                case flow.CarouselPut(name):
                    self._carousel[name] = output
                case flow.CarouselDrop(name):
                    self._carousel.pop(name, None)
                case flow.FlowDone(name, profile):
                    for p in self._profiles if profile is None else (profile,):
                        self._events.append(FlowRan(name, p))
                case flow.Alarm(code, service, _, text, True):
                    self._events.append(Alarm(f"{service}: {code}: {text}"))

    def _use(self, use: UseKey) -> None:
        """Hand a key to the encoder; the very first of a service waits for the entitled terminals, so that no picture is missed."""
        self._waiting[use.service] = use
        self._release(use.service)

    def _release(self, service: str) -> None:
        use = self._waiting.get(service)
        if use is None:
            return
        ready = all(use.mki in self._held.get((profile, service), ()) for profile in self._profiles)
        if ready or service in self._started:
            self._started.add(service)
            self._events.append(use)
            del self._waiting[service]

    def _repeat(self, now: float) -> None:
        assert self._bsda is not None
        for key, (announce, due) in list(self._air.items()):
            if now < due or key not in self._air:
                continue
            first = key not in self._sent
            self._sent.add(key)
            self._air[key] = (announce, now + announce.repetition)
            for stkm in announce.stkms:
                for terminal in self._terminals:
                    if terminal.profile == stkm.profile and announce.service[-1] not in terminal.interaction:
                        self._hear(terminal, terminal.machine.receive_stkm(announce.service, announce.stream, stkm.data, now))
            if first:
                self._carry_out(self._bsda.announced(announce.service, announce.stream, announce.start, now), now)

    def _fetch(self, now: float) -> None:
        """F6: a terminal with an interaction channel asks the BSM for the next STKM."""
        assert self._bsm is not None
        for terminal in self._terminals:
            for name in terminal.interaction:
                service, stream = f"urn:example:service:{name}", 1 + SERVICES.index(name)
                who = f"{terminal.name}-{terminal.profile}"
                item = self._bsm.fetch_stkm(service, stream, terminal.profile, who, now, terminal.after.get(name))
                if item is not None:
                    terminal.after[name] = item.period_start
                    self._hear(terminal, terminal.machine.receive_stkm(service, stream, item.content, now))

    def _hear(self, terminal: _Terminal, outputs: list[flow.Output]) -> None:
        for output in outputs:
            match output:
                case flow.TekReady(service, _, mki, tek, salt):
                    assert salt is not None
                    name = service[-1]
                    self._held.setdefault((terminal.name, name), set()).add(mki)
                    self._events.append(TerminalKey(terminal.name, name, mki, tek, salt))
                    self._release(name)
                case flow.TekExpired(service, _, mki):
                    self._events.append(TekExpired(terminal.name, service[-1], mki))

    def _rollovers(self) -> None:
        assert self._bsm is not None
        for number, service in enumerate(SERVICES, 1):
            for row in self._bsm.keys(f"urn:example:service:{service}", number):
                key = row.material
                if (service, key.key_id) not in self._rolled:
                    first = not any(s == service and len(k) == len(key.key_id) for s, k in self._rolled)
                    self._rolled.add((service, key.key_id))
                    if not first:
                        profile: Profile = "smartcard" if key.key_type == "SEK" else "drm"
                        name = f"{key.key_type} {int.from_bytes(key.key_id[-2:], 'big')}"
                        self._events.append(Rollover(service, profile, name, key.valid_from))
