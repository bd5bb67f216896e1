# SPDX-License-Identifier: Apache-2.0
"""A seeded discrete-event simulation of a whole system: one BSM, one or two BSD/As, terminals of both profiles, faults.

``World`` wires the flows of ``pybcast.flows`` to simulated links, stores and clocks, and watches the invariants of rules.md at every
step; a broken one is an entry in ``violations``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from pybcast import codec
from pybcast.flows import (
    BSDA,
    BSM,
    Alarm,
    Announce,
    CarouselDrop,
    CarouselPut,
    FlowDone,
    OffAir,
    Output,
    Persist,
    Programme,
    Refused,
    Right,
    Send,
    StopTraffic,
    StreamConfig,
    TekExpired,
    TekReady,
    Terminal,
    Tuning,
    UseKey,
    derived_teks,
    random_teks,
)
from pybcast.flows.allocator import Sealed
from pybcast.flows.serial import near
from pybcast.flows.spcp import BackendMessage, StkmItem
from pybcast.messages import DrmStkm, SmartcardLtkm, SmartcardStkm
from pybcast.secret import Secret
from pybcast.testing.link import Clock, Link, State, Store, carry_out
from pybcast.testing.parties import FQDN, make_card, make_device, make_group, rights_issuer

BSM_ID: Final = "urn:example:bsm"
MAIN: Final = "urn:example:bsda:main"
BACKUP: Final = "urn:example:bsda:backup"


@dataclass
class Viewer:
    """A terminal with what the simulation knows of it."""

    name: str
    terminal: Terminal
    link: Link
    rights: list[Right] = field(default_factory=list)
    withdrawn_at: float | None = None
    tuned: dict[tuple[str, int], float] = field(default_factory=dict)
    teks: dict[tuple[str, int, bytes], Secret] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)


@dataclass
class Headend:
    """One BSD/A process with its sender and its encoder."""

    name: str
    store: Store = field(default_factory=Store)
    machine: BSDA | None = None
    on_air: dict[tuple[str, int, int], Announce] = field(default_factory=dict)
    sent: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    carousel: dict[str, CarouselPut] = field(default_factory=dict)
    key: dict[tuple[str, int], UseKey] = field(default_factory=dict)
    life: int = 0


class World:
    """Everything, deterministic in ``seed``."""

    def __init__(
        self,
        streams: Iterable[StreamConfig],
        *,
        seed: int,
        start: float,
        headends: Iterable[str] = (MAIN,),
        backend_loss: float = 0.0,
        air_loss: float = 0.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock(start)
        self.streams = {config.key: config for config in streams}
        self.air_loss = air_loss
        self.backend = Link(self.clock, self.rng, loss=backend_loss, double=backend_loss)
        self.pair_secret = Secret(self.rng.randbytes(32))
        self.bsm_store, self.bsm, self._bsm_life = Store(), None, 0
        self.bsm: BSM | None = None
        self.headends = {name: Headend(name) for name in headends}
        self.viewers: dict[str, Viewer] = {}
        self.group = make_group(self.rng)
        self.alarms: list[tuple[float, Alarm]] = []
        self.flows: Counter[str] = Counter()
        self.violations: list[str] = []
        self.crash = 0.0
        self.dark_samples = self.samples = 0
        self.key_changes = 0
        self._stkm_seen: dict[tuple[object, ...], bytes] = {}
        self._ltkm_seen: dict[tuple[object, ...], bytes] = {}
        self._air_seen: dict[tuple[object, ...], bytes] = {}
        self._ids: dict[tuple[object, ...], bytes] = {}
        self._wakes: dict[str, float] = {}
        self.start_bsm()
        for name in self.headends:
            self.start_bsda(name)
        self._carousel()

    # --- processes ----------------------------------------------------------------------------------------------------

    def start_bsm(self, state: State | None = None, *, restored: bool = False) -> None:
        """Start (again) from the durable state, or from an older copy of it."""
        if state is not None:
            self.bsm_store.state = state
        issuer, _ = rights_issuer()
        self.bsm = BSM(
            me=BSM_ID, fqdn=FQDN, streams=self.streams.values(), randomness=self.rng.randbytes, rights_issuer_id=issuer.id,
            state=self.bsm_store.copy(), restored=restored,
        )  # fmt: skip
        self._bsm_life += 1
        self.call_bsm(lambda bsm: bsm.tick(self.clock.now))

    def stop_bsm(self) -> None:
        """kill -9."""
        self.bsm = None
        self._bsm_life += 1

    def start_bsda(self, name: str, state: State | None = None, *, fresh: bool = False) -> None:
        """Start (again) from the durable state, from an older copy, or (``state={}``) from none."""
        headend = self.headends[name]
        if state is not None:
            headend.store.state = state
        pair = len(self.headends) > 1
        headend.machine = BSDA(
            me=name, streams=self.streams.values(), randomness=self.rng.randbytes, state=headend.store.copy(), fresh=fresh,
            teks=derived_teks(self.pair_secret) if pair else random_teks(self.rng.randbytes),
        )  # fmt: skip
        headend.life += 1
        self.call_bsda(name, lambda bsda: bsda.tick(self.clock.now))

    def stop_bsda(self, name: str) -> None:
        """kill -9 of BSD/A and sender; the encoder goes on with the key it has."""
        headend = self.headends[name]
        headend.machine = None
        headend.life += 1
        headend.on_air.clear()
        headend.carousel.clear()

    def call_bsm(self, action: Callable[[BSM], list[Output]]) -> None:
        """One input of the BSM, and everything that follows."""
        if self.bsm is not None:
            done, crashed = carry_out(action(self.bsm), self.bsm_store, self.rng, self.crash)
            self._do(done, BSM_ID)
            if crashed:
                self.stop_bsm()
                self.clock.at(self.clock.now + self.rng.uniform(0.1, 5), self.start_bsm)
            else:
                self._schedule(BSM_ID)

    def call_bsda(self, name: str, action: Callable[[BSDA], list[Output]]) -> None:
        """One input of a BSD/A, and everything that follows."""
        headend = self.headends[name]
        if headend.machine is not None:
            done, crashed = carry_out(action(headend.machine), headend.store, self.rng, self.crash)
            self._do(done, name)
            if crashed:
                self.stop_bsda(name)
                self.clock.at(self.clock.now + self.rng.uniform(0.1, 5), lambda: self._restart(name))
            else:
                self._schedule(name)

    def _restart(self, name: str) -> None:
        if self.headends[name].machine is None:
            self.start_bsda(name)

    def _schedule(self, name: str) -> None:
        machine = self.bsm if name == BSM_ID else self.headends[name].machine
        wake = machine.next_wakeup() if machine is not None else None
        if wake is None:
            return
        wake = max(wake, self.clock.now + 0.01)
        if self._wakes.get(name, float("inf")) <= wake and self._wakes[name] > self.clock.now:
            return
        self._wakes[name] = wake

        def tick() -> None:
            if self._wakes.get(name) == wake:
                del self._wakes[name]
                if name == BSM_ID:
                    self.call_bsm(lambda bsm: bsm.tick(self.clock.now))
                else:
                    self.call_bsda(name, lambda bsda: bsda.tick(self.clock.now))

        self.clock.at(wake, tick)

    # --- outputs ------------------------------------------------------------------------------------------------------

    def _do(self, outputs: list[Output], who: str) -> None:
        for output in outputs:
            match output:
                case Send(message):
                    self._send(message)
                case Announce():
                    self._announce(self.headends[who], output)
                case OffAir(service, stream, start):
                    self.headends[who].on_air.pop((service, stream, start), None)
                case UseKey():
                    self._use(self.headends[who], output)
                case StopTraffic(service, stream):
                    self.headends[who].key.pop((service, stream), None)
                case CarouselPut(name, _, data):
                    self.headends[who].carousel[name] = output
                    for item in data:
                        self._watch_ltkm(item)
                case CarouselDrop(name):
                    self.headends[who].carousel.pop(name, None)
                case Alarm():
                    self.alarms.append((self.clock.now, output))
                case FlowDone(flow, profile, _):
                    self.flows[f"{flow}/{profile}"] += 1
                case Persist() | Refused() | TekReady() | TekExpired():
                    pass

    def _send(self, message: BackendMessage) -> None:
        for item in message.items:
            if isinstance(item, StkmItem) and item.content and message.profile == "smartcard":
                self._watch_stkm(item.content)

        def deliver() -> None:
            if message.destination == BSM_ID:
                self.call_bsm(lambda bsm: bsm.receive(message, self.clock.now, message.source))
            elif message.destination in self.headends:
                self.call_bsda(message.destination, lambda bsda: bsda.receive(message, self.clock.now, message.source))

        self.backend.carry(deliver)

    @property
    def active(self) -> Headend | None:
        """The headend whose datagrams are on air: the first that lives."""
        return next((h for h in self.headends.values() if h.machine is not None), None)

    def _announce(self, headend: Headend, output: Announce) -> None:
        key = (output.service, output.stream, output.start)
        headend.on_air[key] = output
        headend.sent[key] = 0
        for stkm in output.stkms:
            self._watch_air(output, stkm.profile, stkm.data)
        life = headend.life

        def repeat() -> None:
            if headend.life != life or headend.on_air.get(key) is not output:
                return
            headend.sent[key] += 1
            if headend is self.active:
                for stkm in output.stkms:
                    self._to_viewers(stkm.profile, output.service, output.stream, stkm.data)
            if headend.sent[key] == 1:
                self.call_bsda(headend.name, lambda b: b.announced(*key, self.clock.now))
            if headend.life == life:
                self.clock.at(self.clock.now + output.repetition, repeat)

        self.clock.at(self.clock.now + 0.001, repeat)

    def _to_viewers(self, profile: str, service: str, stream: int, data: bytes) -> None:
        for viewer in self.viewers.values():
            if viewer.terminal.profile == profile and (service, stream) in viewer.tuned:

                def deliver(viewer: Viewer = viewer) -> None:
                    self.call_viewer(viewer, lambda t: t.receive_stkm(service, stream, data, self.clock.now))

                viewer.link.carry(deliver)

    def _carousel(self) -> None:
        """Every second a tenth of the carousel's cycle: all objects of the active headend within 10 s, in order."""
        headend = self.active
        if headend is not None:
            objects = [data for put in headend.carousel.values() for data in put.data]
            for n, data in enumerate(objects):
                for viewer in self.viewers.values():

                    def deliver(viewer: Viewer = viewer, data: bytes = data) -> None:
                        self.call_viewer(viewer, lambda t: t.receive_object(data, self.clock.now))

                    self.clock.at(
                        self.clock.now + 9 * n / max(1, len(objects)),
                        lambda viewer=viewer, deliver=deliver: viewer.link.carry(deliver),  # type: ignore[misc]
                    )
        self.clock.at(self.clock.now + 10, self._carousel)

    # --- viewers ------------------------------------------------------------------------------------------------------

    def add_card(self, name: str) -> Viewer:
        """A Smartcard Profile terminal, registered through F1."""
        party = make_card(self.rng, name, self.clock.now)
        viewer = Viewer(name, Terminal(card=party.card), Link(self.clock, self.rng, loss=self.air_loss, double=self.air_loss / 2))
        self.viewers[name] = viewer
        self.call_bsm(lambda bsm: bsm.add_subscriber(party.subscriber, self.clock.now, party.registration))
        return viewer

    def add_device(self, name: str, position: int) -> Viewer:
        """A DRM Profile terminal, registered through F1."""
        party = make_device(self.rng, name, self.group, position, self.clock.now)
        viewer = Viewer(name, Terminal(device=party.device), Link(self.clock, self.rng, loss=self.air_loss, double=self.air_loss / 2))
        self.viewers[name] = viewer
        self.call_bsm(lambda bsm: bsm.add_group(self.group, self.clock.now))
        self.call_bsm(lambda bsm: bsm.add_subscriber(party.subscriber, self.clock.now, party.registration))
        return viewer

    def grant(self, viewer: Viewer, config: StreamConfig, start: float, end: float, content: str | None = None) -> Right:
        """A right from ``start`` to ``end``."""
        right = Right(service=config.service, stream=config.stream, start=int(start), end=int(end), content=content)
        viewer.rights.append(right)
        viewer.withdrawn_at = None
        self.call_bsm(lambda bsm: bsm.grant(viewer.name, right, self.clock.now))
        return right

    def withdraw(self, viewer: Viewer, config: StreamConfig, *, at_once: bool = False) -> None:
        """Take the viewer's rights to a stream away."""
        viewer.withdrawn_at = self.clock.now
        self.call_bsm(lambda b: b.withdraw(viewer.name, config.service, config.stream, self.clock.now, at_once=at_once))

    def add_programme(self, programme: Programme) -> Programme:
        """A programme of its own; returns it as the BSM scheduled it, with its boundaries known to the BSD/As."""
        assert self.bsm is not None
        held: list[Programme] = []

        def add(bsm: BSM) -> list[Output]:
            scheduled, outputs = bsm.add_programme(programme, self.clock.now)
            held.append(scheduled)
            return outputs

        self.call_bsm(add)
        for name in self.headends:
            for edge in (held[0].start, held[0].end):
                self.call_bsda(name, lambda b, edge=edge: b.add_boundary(programme.service, programme.stream, edge, self.clock.now)[1])  # type: ignore[misc]
        return held[0]

    def tune(self, viewer: Viewer, config: StreamConfig) -> None:
        """The viewer listens to a stream from now on."""
        viewer.tuned[config.key] = self.clock.now
        tuning = Tuning(config.service, config.stream, ("239.1.1.1", 5000), config.socID, config.serviceBaseCID, config.protocol)
        self.call_viewer(viewer, lambda t: t.tune(tuning, self.clock.now))

    def call_viewer(self, viewer: Viewer, action: Callable[[Terminal], list[Output]]) -> None:
        """One input of a terminal, and what follows."""
        for output in action(viewer.terminal):
            match output:
                case TekReady(service, stream, mki, tek):
                    viewer.teks[service, stream, mki] = tek
                    self._watch_right(viewer, service, stream, mki)
                case TekExpired(service, stream, mki):
                    viewer.teks.pop((service, stream, mki), None)
                case Refused(_, error):
                    viewer.refused[type(error).__name__] += 1
        wake = viewer.terminal.next_wakeup()
        name = f"viewer {viewer.name}"
        if wake is not None and not self.clock.now < self._wakes.get(name, 0.0) <= max(wake, self.clock.now + 0.01):
            wake = self._wakes[name] = max(wake, self.clock.now + 0.01)

            def tick() -> None:
                if self._wakes.get(name) == wake:
                    del self._wakes[name]
                    self.call_viewer(viewer, lambda t: t.tick(self.clock.now))

            self.clock.at(wake, tick)

    # --- invariants ---------------------------------------------------------------------------------------------------

    def _violate(self, text: str) -> None:
        self.violations.append(f"t={self.clock.now:.3f}: {text}")

    def _once(self, seen: dict[tuple[object, ...], bytes], key: tuple[object, ...], value: bytes, what: str) -> None:
        if seen.setdefault(key, value) != value:
            self._violate(f"{what} {key}")

    def _watch_stkm(self, data: bytes) -> None:
        message = codec.decode(data, "smartcard-stkm")
        if isinstance(message, SmartcardStkm):
            key = (message.key_domain_id, message.sek_id, message.csb_id, message.counter)
            self._once(self._stkm_seen, key, message.encr_data, "two plaintexts under one SEK and COUNTER")

    def _watch_ltkm(self, data: bytes) -> None:
        if data[:1] == b"\x01":
            message = codec.decode(data, "smartcard-ltkm")
            if isinstance(message, SmartcardLtkm):
                key = (message.idr, message.csb_id, message.rand, message.counter)
                self._once(self._ltkm_seen, key, message.encr_data, "two plaintexts under one SMK and COUNTER")

    def _watch_air(self, output: Announce, profile: str, data: bytes) -> None:
        if profile == "smartcard":
            self._watch_stkm(data)
            message = codec.decode(data, "smartcard-stkm")
            name = message.sek_id if isinstance(message, SmartcardStkm) else b""
        else:
            stkm = codec.decode(data, "drm-stkm")
            assert isinstance(stkm, DrmStkm)
            name = repr((stkm.service_CID_extension, stkm.programme_CID_extension)).encode()
        self._once(self._air_seen, (profile, output.service, output.stream, name, output.start), data, "two STKMs for one period")

    def _use(self, headend: Headend, use: UseKey) -> None:
        key = (use.service, use.stream)
        if headend.key.get(key, None) is None or headend.key[key].mki != use.mki:
            self.key_changes += headend is self.active
        headend.key[key] = use
        self._once(self._ids, (*key, use.mki), use.tek.reveal(), "an id reused for another TEK")
        if headend is self.active and headend.sent[use.service, use.stream, use.start] < 3 and not self._resuming(headend, use):
            self._violate(f"TEK of {use.start} in use after {headend.sent[use.service, use.stream, use.start]} STKMs")

    def _resuming(self, headend: Headend, use: UseKey) -> bool:
        """A restart goes on with the key that was in use before."""
        return (use.service, use.stream, use.start) in {(u.service, u.stream, u.start) for u in self._before.get(headend.name, ())}

    @property
    def _before(self) -> dict[str, list[UseKey]]:
        return {name: list(h.key.values()) for name, h in self.headends.items()}

    def _watch_right(self, viewer: Viewer, service: str, stream: int, mki: bytes) -> None:
        """A terminal obtained a TEK: it had a right that the key it came under was made for."""
        use = next((u for h in self.headends.values() for u in h.key.values() if u.mki == mki and u.service == service), None)
        start = use.start if use is not None else self._start_of(service, stream, mki)
        if start is None:
            self._violate(f"{viewer.name} obtained a key that nobody announced")
            return
        config = self.streams[service, stream]
        smartcard = viewer.terminal.profile == "smartcard"
        for right in viewer.rights:
            if (right.service, right.stream) == (service, stream):
                reach = right.end if smartcard else right.end + config.key_period + 2 * config.period
                if right.start <= start < reach and (viewer.withdrawn_at is None or start < viewer.withdrawn_at + self.grace(config)):
                    return
                if not smartcard and right.start - config.key_period <= start < right.start:
                    return
        self._violate(f"{viewer.name} opened period {start} of {service} without a right")

    def grace(self, config: StreamConfig) -> float:
        """How long after a withdrawal a stubborn terminal may still open: to the end of the keys it has (R10)."""
        return 2 * config.key_period + 2 * config.period

    def _start_of(self, service: str, stream: int, mki: bytes) -> int | None:
        for headend in self.headends.values():
            for key, row in headend.store.state.get("period", {}).items():
                if key[:2] == (service, stream) and getattr(row, "traffic_id", None) == mki:
                    return int(key[2])  # type: ignore[call-overload]
        return None

    def sample(self, config: StreamConfig, viewers: Iterable[Viewer], every: float = 1.0) -> None:
        """From now on, every ``every`` seconds: each of these viewers can play what is on air."""

        def look() -> None:
            headend = self.active
            use = headend.key.get(config.key) if headend is not None else None
            if use is not None:
                for viewer in viewers:
                    self.samples += 1
                    held = viewer.teks.get((*config.key, use.mki))
                    if held is None or held != use.tek:
                        self.dark_samples += 1
                        self._violate(f"{viewer.name} is dark on {config.service}, period {use.start}")
            self.clock.at(self.clock.now + every, look)

        self.clock.at(self.clock.now + every, look)


def counters_used(store: Store) -> dict[tuple[object, ...], bytes]:
    """(key id, start) -> digest of every STKM a sealing server remembers (for tests of R1)."""
    return {k: v.digest for k, v in store.state.get("allocated", {}).items() if isinstance(v, Sealed)}


def replace_config(config: StreamConfig, **changes: object) -> StreamConfig:
    """A stream like another one."""
    return replace(config, **changes)  # type: ignore[arg-type]  # fields of the configuration


__all__ = ["BACKUP", "BSM_ID", "MAIN", "Headend", "Viewer", "World", "counters_used", "near", "replace_config"]
