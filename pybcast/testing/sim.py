# SPDX-License-Identifier: Apache-2.0
"""A seeded discrete-event simulation of a whole system: one BSM, one or two BSD/As, terminals of both profiles, faults.

``World`` wires the flows of ``pybcast.flows`` to simulated links, stores and clocks, and shows every step to the watchers of
``pybcast.testing.watch``; a broken invariant is an entry in ``violations``.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Self

from pybcast.errors import LocalFlowError
from pybcast.flows import (
    BSM,
    Alarm,
    Announce,
    CarouselDrop,
    CarouselPut,
    Change,
    Edge,
    FlowDone,
    LongTermKey,
    Members,
    OffAir,
    Output,
    Persist,
    Programme,
    Refused,
    Restored,
    Right,
    Send,
    SimulatedCard,
    Start,
    StopTraffic,
    StreamConfig,
    Subscriber,
    TekExpired,
    TekReady,
    Terminal,
    Tuning,
    UseKey,
    derived_teks,
)
from pybcast.flows.bsda.headend import Headend as Planner
from pybcast.flows.edge.slots import USED, mark
from pybcast.flows.journal import State
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.serial import near
from pybcast.flows.stream.allocator import SealedBlock
from pybcast.flows.stream.config import CAROUSEL_CYCLE, StreamId
from pybcast.flows.stream.schedule import REPETITIONS_AHEAD
from pybcast.flows.tables import SekState
from pybcast.secret import Secret
from pybcast.testing.link import Clock, Link, Store, carry_out
from pybcast.testing.parties import FQDN, make_card, make_device, make_group, rights_issuer
from pybcast.testing.watch import Granted, Watch, Who

BSM_ID: Final = "urn:example:bsm"
MAIN: Final = "urn:example:bsda:main"
BACKUP: Final = "urn:example:bsda:backup"


class StubbornCard(SimulatedCard):
    """A card that ignores its withdrawals (R10)."""

    @classmethod
    def of(cls, card: SimulatedCard) -> Self:
        """The same card, turned."""
        stubborn = cls.__new__(cls)
        stubborn.__dict__.update(card.__dict__)
        return stubborn

    def ltkm(self, data: bytes, now: float) -> bytes | None:
        before = self._seks.all()
        answer = super().ltkm(data, now)
        for key, row in self._seks.all().items():
            if row.state is SekState.WITHDRAWN and key in before:
                self._seks.put(key, before[key])
        return answer


@dataclass
class Viewer:
    """A terminal, its link, and what the simulation knows of it."""

    name: str
    terminal: Terminal
    link: Link
    who: Who
    teks: dict[tuple[str, int, bytes], Secret] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    tuned: set[StreamId] = field(default_factory=set)
    fetches: set[StreamId] = field(default_factory=set)

    @property
    def rights(self) -> list[Right]:
        """What the viewer is entitled to."""
        return [grant.right for grant in self.who.grants if grant.withdrawn == float("inf")]


@dataclass
class Headend:
    """One BSD/A, its edge with the sender, and its encoder.  ``life``: counts the edges there were."""

    name: str
    store: Store = field(default_factory=Store)
    machine: Planner | None = None
    edge: Edge | None = None
    on_air: dict[tuple[str, int, int], Announce] = field(default_factory=dict)
    carousel: dict[str, CarouselPut] = field(default_factory=dict)
    key: dict[StreamId, UseKey] = field(default_factory=dict)
    announced: dict[tuple[str, int, int], float] = field(default_factory=dict)
    life: int = 0
    lost: bool = False


class World:
    """Everything, deterministic in ``seed``.

    ``bsm``, ``headends``, ``viewers``: what lives (``None`` = dead).  ``crash``: probability with which a server dies while it
    carries out the outputs of one input; it comes back within seconds.  ``fresh``: probability that a BSD/A then comes back without
    its store.  ``unreachable``: servers whose messages, in and out, are lost.  ``skew``: by how much the clock of a server is ahead
    (of a headend: of its BSD/A, its edge and its encoder); terminals have the right time.
    """

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
        self.streams = {config.id: config for config in streams}
        self.watch = Watch(self.streams)
        self.air_loss = air_loss
        self.backend = Link(self.clock, self.rng, loss=backend_loss, double=backend_loss)
        self.pair_secret = Secret(self.rng.randbytes(32))
        self.bsm_store = Store()
        self.bsm: BSM | None = None
        self.headends = {name: Headend(name) for name in headends}
        self.viewers: dict[str, Viewer] = {}
        self.group = make_group(self.rng)
        self.alarms: list[tuple[float, Alarm]] = []
        self.flows: Counter[str] = Counter()
        self.unreachable: set[str] = set()
        self.skew: dict[str, float] = {}
        self.crash = self.fresh = 0.0
        self.crashes = self.key_changes = 0
        self._subscriptions: dict[str, tuple[Subscriber, bytes]] = {}
        self._commands: deque[Callable[[BSM], list[Output]]] = deque()
        self._wakes: dict[str, float] = {}
        self._committed: dict[str, float] = {}
        self._sender, self._took_over = next(iter(self.headends)), start
        self._traffic: dict[StreamId, tuple[str, UseKey]] = {}
        self._boundaries: dict[StreamId, set[int]] = {}
        self._lengths = {config.id: [(config.start, config.period)] for config in self.streams.values()}
        self.start_bsm()
        for name in self.headends:
            self.start_bsda(name)
        self._carousel()

    @property
    def violations(self) -> list[str]:
        """The invariants that were broken, in order."""
        return self.watch.violations

    def time(self, name: str) -> float:
        """What the clock of a server says."""
        return self.clock.now + self.skew.get(name, 0.0)

    # --- processes ----------------------------------------------------------------------------------------------------

    def start_bsm(self, state: State | None = None, *, restored: bool = False, gap: float | None = None) -> None:
        """Start (again) from the durable state, or from an older copy of it; ``restored``: that is noticed.

        ``gap``: seconds since the last commit that the store knows of, where it is not the last there was.
        """
        if state is not None:
            self.bsm_store.state = state
        self._make_bsm(self._start(BSM_ID, restored, gap))

    def _make_bsm(self, start: Start | None) -> None:
        issuer, _ = rights_issuer()
        self.bsm = BSM(
            me=BSM_ID, fqdn=FQDN, streams=self.streams.values(), randomness=self.rng.randbytes, rights_issuer_id=issuer.id,
            state=self.bsm_store.copy(), start=start, members=self.members(),
        )  # fmt: skip
        if self.call_bsm(lambda bsm: bsm.tick(self.time(BSM_ID))):
            self._run_commands()

    def _start(self, name: str, restored: bool, gap: float | None = None) -> Start:
        """What a server is told when it starts."""
        now = self.time(name)
        last = self._committed.get(name, now)
        found = Restored("the simulation put it back", last, now) if restored else None
        return Start(gap=now - last if gap is None else gap, restored=found)

    def members(self) -> Members | None:
        """Where a BSM that is started keeps who has a card; ``None``: with everything else."""
        return None

    def stop_bsm(self) -> None:
        """kill -9."""
        self.bsm = None

    def restore_bsm(self, state: State) -> None:
        """Start the BSM from an older copy; the operator then tells it again who is subscribed to what.

        What that copy has forgotten of withdrawals holds again from now on.
        """
        self.stop_bsm()
        self.watch.restored(state)
        self.start_bsm({table: dict(rows) for table, rows in state.items()}, restored=True)
        for viewer in self.viewers.values():
            subscriber, registration = self._subscriptions[viewer.name]
            self.command(lambda b, s=subscriber, r=registration: b.add_subscriber(s, self.time(BSM_ID), r))  # type: ignore[misc]
            rights = viewer.rights
            for config in self.streams.values():
                self.withdraw(viewer, config, at_once=True)
            for right in rights:
                self._grant(viewer, right)

    def start_bsda(self, name: str, state: State | None = None, *, fresh: bool = False) -> None:
        """Start (again) from the durable state, from an older copy, or (``state={}``) from none."""
        headend = self.headends[name]
        if state is not None:
            headend.store.state = state
        headend.lost = headend.lost or fresh
        if headend.edge is None:
            headend.edge = Edge(self.streams)
            headend.life += 1
        headend.machine = self._planner(headend, self._start(name, headend.lost))
        if not headend.lost and _strange(headend.machine, headend.edge):  # its edge has what the store does not know (R44)
            headend.lost = True
            headend.machine = self._planner(headend, self._start(name, True))
        self._elect()
        self.call_bsda(name, lambda bsda: bsda.catch_up(self._to_come(), self.time(name)))

    def _planner(self, headend: Headend, start: Start | None) -> Planner:
        return Planner(
            me=headend.name, streams=self._configured(), randomness=self.rng.randbytes, state=headend.store.copy(), start=start,
            edge=headend.edge, teks=derived_teks(self.pair_secret) if len(self.headends) > 1 else None,
        )  # fmt: skip

    def remake(self, name: str) -> None:
        """A server goes on with another configuration or another time: in its process there is a new machine of what is stored."""
        if name == BSM_ID:
            if self.bsm is not None:
                self._make_bsm(None)
            return
        headend = self.headends[name]
        if headend.machine is not None:
            headend.machine = self._planner(headend, None)
            self.call_bsda(name, lambda bsda: bsda.catch_up(self._to_come(), self.time(name)))

    def step_clock(self, name: str, by: float) -> None:
        """The clock of a server is put forward, or back (then its machine is made anew), by so many seconds."""
        self.skew[name] = self.skew.get(name, 0.0) + by
        self._wakes.pop(name, None)  # it was reckoned by the old time
        if by < 0:
            self.remake(name)
        elif name == BSM_ID:
            self.call_bsm(lambda bsm: bsm.clock_forward(by, self.time(name)))
        else:
            self.call_bsda(name, lambda bsda: bsda.clock_forward(by, self.time(name)))
        if name != BSM_ID and self.headends[name].machine is None:
            self._schedule(name)

    def set_hold(self, config: StreamConfig, hold: bool) -> None:
        """``hold_through`` is changed: the headends take over another configuration."""
        self.streams[config.id] = replace(self.streams[config.id], hold_through=hold)
        for name, headend in self.headends.items():
            self.remake(name)
            use, machine = headend.key.get(config.id), headend.machine
            if machine is None or headend.edge is None or use is None:
                continue
            at = {period.start for period in headend.edge.view(*config.id).periods if period.state in USED}
            known = {record.period.start for record in machine.records(*config.id)} & at
            if hold and use.start in known and use.authority_end is not None:
                self.watch.violate(f"the encoder of {name} was not told that {config.service} is held (R46)")

    def restart_encoder(self, name: str) -> None:
        """An encoder dies and comes back without a key: its edge tells it again what to use (R48)."""
        headend = self.headends[name]
        headend.key.clear()
        for key in [key for key, (source, _) in self._traffic.items() if source == name]:
            del self._traffic[key]
        edge = headend.edge
        if edge is not None:
            self._do(edge.say_again(), name)
            for held in edge.held():
                used = next((period.start for period in held.periods if period.state in USED), None)
                now = headend.key.get((held.service, held.stream))
                if used is not None and (now is None or now.start != used):
                    self.watch.violate(f"the encoder of {name} started again without the key in use of {held.service} (R48)")

    def _to_come(self) -> list[Change]:
        """What a BSD/A that starts is told: it may have been dead when it was entered."""
        changes = [Change(*key, at) for key, times in self._boundaries.items() for at in times]
        changes += [Change(*key, start, length) for key, lengths in self._lengths.items() for start, length in lengths]
        return sorted((change for change in changes if change.at > self.clock.now), key=lambda change: change.at)

    def _configured(self) -> list[StreamConfig]:
        """What a BSD/A's configuration file says: periods that begin later are told to it as a change."""
        configs = []
        for key, config in self.streams.items():
            start, length = self._lengths_from_now(key)[0]
            configs.append(replace(config, period=length, start=start))
        return configs

    def _lengths_from_now(self, key: StreamId) -> list[tuple[int, int]]:
        """(start, length) of the periods of a stream: the one in force, and what is to come."""
        lengths = self._lengths[key]
        return lengths[max((n for n, (start, _) in enumerate(lengths) if start <= self.clock.now), default=0) :]

    def stop_bsda(self, name: str) -> None:
        """kill -9 of BSD/A and edge; the encoder goes on with the key it has, to the end of its authority."""
        self.stop_planner(name)
        self._stop_edge(name)
        self._elect()

    def stop_planner(self, name: str) -> None:
        """kill -9 of the BSD/A alone: its edge executes what is planned."""
        self.headends[name].machine = None

    def restart_edge(self, name: str) -> None:
        """kill -9 of the edge, and another, empty one."""
        headend = self.headends[name]
        self._stop_edge(name)
        headend.edge = Edge(self.streams)
        headend.life += 1
        if headend.machine is not None:
            carousel = headend.machine.carousel
            edge = headend.edge
            self.call_bsda(name, lambda b: b.new_edge(edge, self.time(name)))
            self._do(list(carousel), name)  # its link tells it again what turns

    def _stop_edge(self, name: str) -> None:
        headend = self.headends[name]
        headend.edge = None
        headend.life += 1
        headend.on_air.clear()
        headend.announced.clear()
        headend.carousel.clear()

    def call_edge(self, name: str, action: Callable[[Planner | Edge], list[Output]]) -> None:
        """One input of an edge, by its BSD/A while that lives; what it says to a dead one is lost."""
        headend = self.headends[name]
        if headend.machine is not None:
            self.call_bsda(name, action)
        elif headend.edge is not None:
            self._do(action(headend.edge), name)
            self._schedule(name)

    @property
    def active(self) -> Headend:
        """The headend whose STKMs and carousel are on air.  It stays so until it dies: going back is no gain."""
        return self.headends[self._sender]

    def _elect(self) -> None:
        """Another headend takes over: its STKMs at once, its traffic when they have been on air often enough (R40)."""
        living = next((h for h in self.headends.values() if h.edge is not None), None)
        if self.active.edge is None and living is not None:
            self._sender, self._took_over = living.name, self.clock.now
            self.watch.now = self.clock.now
            for put in living.carousel.values():
                for data in put.data:
                    self.watch.carousel(data)
            for use in list(living.key.values()):
                self._switch(living, use)

    def _switch(self, headend: Headend, use: UseKey) -> None:
        """Traffic on air is protected with this key from now on, if it is its turn."""
        key = (use.service, use.stream)
        name, current = self._traffic.get(key, (headend.name, None))
        if headend is not self.active:
            return
        same = current is not None and current.mki == use.mki
        # What a headend announced before it took over was not on air: the encoder goes on with the old key until it has been.
        silent = name != headend.name or headend.announced.get((*key, use.start), self._took_over) < self._took_over
        if silent and not same and self.watch.aired_so_far(use) < REPETITIONS_AHEAD:
            return
        self._traffic[key] = (headend.name, use)
        self.key_changes += not same
        self.watch.used(use)

    def call_bsm(self, action: Callable[[BSM], list[Output]]) -> bool:
        """One input of the BSM, and everything that follows; whether it was carried out to the end."""
        if self.bsm is None:
            return False
        done, crashed = carry_out(action(self.bsm), self.bsm_store, self.rng, self.crash)
        self._committed[BSM_ID] = self.time(BSM_ID)
        self._do(done, BSM_ID)
        if crashed:
            self.crashes += 1
            self.stop_bsm()
            self.clock.at(self.clock.now + self.rng.uniform(0.1, 5), self._restart_bsm)
        else:
            self._schedule(BSM_ID)
        return not crashed

    def command(self, action: Callable[[BSM], list[Output]]) -> None:
        """What an operator asks of the BSM: he asks again, in order, when it died before it was done."""
        self._commands.append(action)
        if len(self._commands) == 1:
            self._run_commands()

    def _run_commands(self) -> None:
        while self._commands:
            try:
                done = self.call_bsm(self._commands[0])
            except LocalFlowError:  # refused: asking again is no use
                self._commands.popleft()
                raise
            if not done:
                return
            self._commands.popleft()

    def call_bsda(self, name: str, action: Callable[[Planner], list[Output]]) -> None:
        """One input of a BSD/A, and everything that follows."""
        headend = self.headends[name]
        if headend.machine is None:
            return
        done, crashed = carry_out(action(headend.machine), headend.store, self.rng, self.crash)
        self._do(done, name)
        if crashed:
            self.crashes += 1
            self.stop_bsda(name)
            self.clock.at(self.clock.now + self.rng.uniform(0.1, 5), lambda: self._restart(name))
        else:
            headend.lost = False  # it has noted by now that its store was lost
            self._schedule(name)

    def _every_bsda(self, action: Callable[[Planner, float], list[Output]]) -> None:
        """One input of each BSD/A that lives; ``action`` is told its time."""
        for name in self.headends:
            now = self.time(name)
            self.call_bsda(name, lambda bsda: action(bsda, now))  # noqa: B023 - called at once

    def _restart_bsm(self) -> None:
        if self.bsm is None:
            self.start_bsm()

    def _restart(self, name: str) -> None:
        if self.headends[name].machine is None:
            lost = self.rng.random() < self.fresh
            self.start_bsda(name, {} if lost else None, fresh=lost)

    def _schedule(self, name: str) -> None:
        machine = self.bsm if name == BSM_ID else self.headends[name].machine or self.headends[name].edge
        if machine is not None:
            tick = self._tick_bsm if name == BSM_ID else lambda: self.call_edge(name, lambda m: m.tick(self.time(name)))
            due = machine.next_wakeup()
            self._wake(name, None if due is None else due - self.skew.get(name, 0.0), tick)

    def _tick_bsm(self) -> None:
        self.call_bsm(lambda bsm: bsm.tick(self.time(BSM_ID)))

    def _wake(self, name: str, time: float | None, tick: Callable[[], object]) -> None:
        """Let ``tick`` run at ``time``, unless it will run before."""
        if time is None or self.clock.now < self._wakes.get(name, 0.0) <= time:
            return
        wake = self._wakes[name] = max(time, self.clock.now + 0.001)

        def run() -> None:
            if self._wakes.get(name) == wake:
                del self._wakes[name]
                tick()

        self.clock.at(wake, run)

    # --- outputs ------------------------------------------------------------------------------------------------------

    def _do(self, outputs: list[Output], who: str) -> None:
        self.watch.now = self.clock.now
        for output in outputs:
            match output:
                case Persist("key", (str(service), int(stream), *_), LongTermKey() as row):
                    self.watch.key(service, stream, row)
                case Send(message):
                    self._send(message)
                case Announce():
                    self._announce(self.headends[who], output)
                case OffAir(service, stream, start):
                    self.headends[who].on_air.pop((service, stream, start), None)
                    self.headends[who].announced.pop((service, stream, start), None)
                case UseKey():
                    self._use(self.headends[who], output)
                case StopTraffic(service, stream):
                    self.headends[who].key.pop((service, stream), None)
                    if self._traffic.get((service, stream), ("",))[0] == who:
                        del self._traffic[service, stream]
                        self.watch.stopped((service, stream))
                case CarouselPut(name, _, data):
                    self.headends[who].carousel[name] = output
                    for item in data if who == self._sender else ():
                        self.watch.carousel(item)
                case CarouselDrop(name):
                    self.headends[who].carousel.pop(name, None)
                case Alarm():
                    self.alarms.append((self.clock.now, output))
                case FlowDone(flow, profile):
                    self.flows[f"{flow}/{profile}"] += 1
                case _:
                    pass

    def _send(self, message: BackendMessage) -> None:
        store = self.bsm_store if message.source == BSM_ID else self.headends[message.source].store
        self.watch.message(message, store.state)

        def deliver() -> None:
            if message.destination == BSM_ID:
                self.call_bsm(lambda bsm: bsm.receive(message, self.time(BSM_ID), message.source))
            elif message.destination in self.headends:
                to = message.destination
                self.call_bsda(to, lambda bsda: bsda.receive(message, self.time(to), message.source))

        if not self.unreachable & {message.source, message.destination}:
            self.backend.carry(deliver)

    def _announce(self, headend: Headend, output: Announce) -> None:
        key = (output.service, output.stream, output.start)
        headend.on_air[key] = output
        headend.announced.setdefault(key, self.clock.now)
        before = None
        if headend.machine is not None:
            periods = [record.period for record in headend.machine.records(output.service, output.stream)]
            before = next((p.duration for p in periods if p.end == output.start), None)
        self.watch.announce(output, before, self.time(headend.name))
        life, reported = headend.life, False

        def repeat() -> None:
            nonlocal reported
            if headend.life != life or headend.on_air.get(key) is not output:
                return
            if headend is self.active:
                self.watch.now = self.clock.now
                self.watch.aired(output)
                use = headend.key.get(key[:2])
                if use is not None and self._traffic.get(key[:2], ("", None)) != (headend.name, use):
                    self._switch(headend, use)
                for stkm in output.stkms:
                    self._to_viewers(stkm.profile, output.service, output.stream, stkm.data)
            if not reported:
                reported = True
                self.call_edge(headend.name, lambda m: m.announced(*key, self.time(headend.name)))
            if headend.life == life:
                self.clock.at(self.clock.now + output.repetition, repeat)

        self.clock.at(self.clock.now + 0.001, repeat)

    def _use(self, headend: Headend, use: UseKey) -> None:
        headend.key[use.service, use.stream] = use
        self.watch.made(use)
        self._switch(headend, use)

    def _to_viewers(self, profile: str, service: str, stream: int, data: bytes) -> None:
        for viewer in self.viewers.values():
            if viewer.terminal.profile == profile and (service, stream) in viewer.tuned:

                def deliver(viewer: Viewer = viewer) -> None:
                    self.call_viewer(viewer, lambda t: t.receive_stkm(service, stream, data, self.clock.now))

                viewer.link.carry(deliver)

    def _carousel(self) -> None:
        """All objects of the headend that is on air, in order, within a cycle."""
        objects = [data for put in self.active.carousel.values() for data in put.data]
        for n, data in enumerate(objects):
            for viewer in self.viewers.values():

                def deliver(viewer: Viewer = viewer, data: bytes = data) -> None:
                    self.watch.now = self.clock.now
                    self.watch.heard(viewer.who, data)
                    self.call_viewer(viewer, lambda t: t.receive_object(data, self.clock.now))

                at = self.clock.now + 0.9 * CAROUSEL_CYCLE * n / max(1, len(objects))
                self.clock.at(at, lambda viewer=viewer, deliver=deliver: viewer.link.carry(deliver))  # type: ignore[misc]
        self.clock.at(self.clock.now + CAROUSEL_CYCLE, self._carousel)

    # --- viewers ------------------------------------------------------------------------------------------------------

    def add_card(self, name: str, *, stubborn: bool = False) -> Viewer:
        """A Smartcard Profile terminal, registered through F1; ``stubborn``: its card ignores withdrawals."""
        party = make_card(self.rng, name, self.clock.now)
        card = StubbornCard.of(party.card) if stubborn else party.card
        who = Who(name, "smartcard", idr=party.subscriber.idr.encode())
        return self._add(Terminal(card=card), who, party.subscriber, party.registration)

    def add_device(self, name: str, position: int) -> Viewer:
        """A DRM Profile terminal, registered through F1."""
        party = make_device(self.rng, name, self.group, position, self.clock.now)
        self.command(lambda bsm: bsm.add_group(self.group, self.time(BSM_ID)))
        return self._add(Terminal(device=party.device), Who(name, "drm", position=position), party.subscriber, party.registration)

    def _add(self, terminal: Terminal, who: Who, subscriber: Subscriber, registration: bytes) -> Viewer:
        who.registration = registration
        if subscriber.smk is not None:
            self.watch.smks[who.idr] = subscriber.smk
        link = Link(self.clock, self.rng, loss=self.air_loss, double=self.air_loss / 2)
        viewer = self.viewers[who.name] = Viewer(who.name, terminal, link, who)
        self._subscriptions[who.name] = (subscriber, registration)
        self.command(lambda bsm: bsm.add_subscriber(subscriber, self.time(BSM_ID), registration))
        return viewer

    def grant(self, viewer: Viewer, config: StreamConfig, start: float, end: float, content: str | None = None) -> Right:
        """A right from ``start`` to ``end``."""
        right = Right(service=config.service, stream=config.stream, start=int(start), end=int(end), content=content)
        self._grant(viewer, right)
        return right

    def _grant(self, viewer: Viewer, right: Right) -> None:
        grant = Granted(right, self.clock.now)
        viewer.who.grants.append(grant)

        def act(bsm: BSM) -> list[Output]:
            grant.at = self.clock.now
            return bsm.grant(viewer.name, right, self.time(BSM_ID))

        self.command(act)

    def withdraw(self, viewer: Viewer, config: StreamConfig, *, at_once: bool = False) -> None:
        """Take the viewer's rights to a stream away."""
        grants = [g for g in viewer.who.grants if (g.right.service, g.right.stream) == config.id and g.withdrawn == float("inf")]
        for grant in grants:
            self.watch.withdraw(grant, self.clock.now)

        def act(bsm: BSM) -> list[Output]:
            for grant in grants:
                self.watch.withdraw(grant, self.clock.now)
            return bsm.withdraw(viewer.name, config.service, config.stream, self.time(BSM_ID), at_once=at_once)

        self.command(act)

    def add_programme(self, programme: Programme) -> Programme:
        """A programme of its own; returns it as the BSM scheduled it, with its boundaries known to the BSD/As."""
        held: list[Programme] = []

        def act(bsm: BSM) -> list[Output]:
            scheduled, outputs = bsm.add_programme(programme, self.time(BSM_ID))
            held.append(scheduled)
            return outputs

        self.command(act)
        for edge in (held[-1].start, held[-1].end):
            self.add_boundary(self.streams[programme.service, programme.stream], edge)
        return held[-1]

    def add_boundary(self, config: StreamConfig, at: int) -> None:
        """An event boundary, told to every BSD/A, and again to one that has lost its store."""
        self._boundaries.setdefault(config.id, set()).add(at)
        self._every_bsda(lambda b, now: b.add_boundary(*config.id, at, now)[1])

    def set_period(self, config: StreamConfig, length: int, at: int | None = None) -> StreamConfig:
        """A new period length everywhere, from ``at`` or when nobody has prepared further; gives the changed configuration."""
        current, now = self.streams[config.id], self.clock.now
        lengths = self._lengths[config.id] = self._lengths_from_now(config.id)
        if at is None:
            longest = max(length, *(n for _, n in lengths))
            at = current.grid(max(int(now) + (current.ahead + 2) * longest, lengths[-1][0]))
        self._every_bsda(lambda b, now: b.set_period(*config.id, length, now, at)[1])
        self.command(lambda bsm: bsm.set_period(config.service, config.stream, length, self.time(BSM_ID)))
        lengths.append((at, length))
        changed = self.streams[config.id] = replace(current, period=length, start=at)
        return changed

    def set_generation(self, config: StreamConfig, generation: Literal["bsm", "bsda"]) -> StreamConfig:
        """Another server seals from the next key on; gives the changed configuration."""
        changed = self.streams[config.id] = replace(config, generation=generation)
        self.command(lambda bsm: bsm.set_generation(config.service, config.stream, generation, self.time(BSM_ID)))
        self._every_bsda(lambda b, now: b.set_generation(*config.id, generation, now))
        return changed

    def tune(self, viewer: Viewer, config: StreamConfig) -> None:
        """The viewer listens to a stream from now on."""
        viewer.tuned.add(config.id)
        viewer.who.tuned[config.id] = self.clock.now
        self.call_viewer(viewer, lambda t: t.tune(_tuning(config), self.clock.now))

    def tune_out(self, viewer: Viewer, config: StreamConfig) -> None:
        """The viewer listens to something else."""
        viewer.tuned.discard(config.id)
        viewer.who.tuned.pop(config.id, None)
        self.call_viewer(viewer, lambda t: t.tune_out(config.service, config.stream))

    def fetch(self, viewer: Viewer, config: StreamConfig, every: float = 0.5) -> None:
        """The viewer gets the STKMs of a stream over the interaction channel from now on (F6)."""
        self.call_viewer(viewer, lambda t: t.tune(_tuning(config), self.clock.now))
        viewer.fetches.add(config.id)
        after: int | None = None

        def ask() -> None:
            nonlocal after
            if config.id not in viewer.fetches:
                return
            if self.bsm is not None and any(r.start <= self.clock.now < r.end for r in viewer.rights):
                profile = viewer.terminal.profile
                item = self.bsm.fetch_stkm(config.service, config.stream, profile, viewer.name, self.time(BSM_ID), after)
                if item is not None:
                    after = item.period_start
                    self.watch.one_stkm(profile, config.service, config.stream, item.period_start, item.content)
                    self.watch.stkm(profile, config.service, config.stream, item.period_start, item.content)  # it left the BSM
                    self.call_viewer(viewer, lambda t: t.receive_stkm(config.service, config.stream, item.content, self.clock.now))
            self.clock.at(self.clock.now + every, ask)

        ask()

    def call_viewer(self, viewer: Viewer, action: Callable[[Terminal], list[Output]]) -> None:
        """One input of a terminal, and what follows."""
        self.watch.now = self.clock.now
        for output in action(viewer.terminal):
            match output:
                case TekReady(service, stream, mki, tek, until=until):
                    viewer.teks[service, stream, mki] = tek
                    self.watch.opened(viewer.who, service, stream, mki, until)
                case TekExpired(service, stream, mki):
                    viewer.teks.pop((service, stream, mki), None)
                case Refused(_, error):
                    viewer.refused[type(error).__name__] += 1
                case _:
                    pass
        tick = lambda: self.call_viewer(viewer, lambda t: t.tick(self.clock.now))  # noqa: E731
        self._wake(f"viewer {viewer.name}", viewer.terminal.next_wakeup(), tick)

    def plays(self, viewer: Viewer, config: StreamConfig) -> bool:
        """Whether the viewer's terminal holds the key that protects what is on air now."""
        use = self.traffic(config)
        return use is not None and viewer.teks.get((*config.id, use.mki)) == use.tek

    def traffic(self, config: StreamConfig) -> UseKey | None:
        """The key that protects what is on air now; ``None`` when nothing is: the encoder stops where authority ends (R9)."""
        name, use = self._traffic.get(config.id, ("", None))
        return None if use is None or (use.authority_end is not None and self.time(name) >= use.authority_end) else use

    def sample(self, config: StreamConfig, viewers: Iterable[Viewer], every: float = 1.0) -> None:
        """From now on, every ``every`` seconds: each of these viewers can play what is on air, if a rule gives it to him."""
        watched = list(viewers)

        def look() -> None:
            use = self.traffic(config)
            self.watch.now = self.clock.now
            if use is not None:
                period = self.streams[config.id].period
                for viewer in watched:
                    self.watch.sample(viewer.who, use, self.plays(viewer, config), held=self.clock.now >= use.start + period)
            self.clock.at(self.clock.now + every, look)

        self.clock.at(self.clock.now + every, look)


def _strange(machine: Planner, edge: Edge) -> bool:
    """Whether the edge has STKMs that the BSD/A's store does not know of."""
    return any(
        machine.unknown(held.service, held.stream, period.start, one, mark)
        for held in edge.held()
        for period in held.periods
        for one in period.marks
    )


def _tuning(config: StreamConfig) -> Tuning:
    return Tuning(config.service, config.stream, ("239.1.1.1", 5000), config.socID, config.serviceBaseCID, config.protocol)


def counters_used(store: Store) -> dict[tuple[object, ...], bytes]:
    """(key id, start) -> digest of every STKM a sealing server remembers (for tests of R1)."""
    blocks = [(key[0], row) for key, row in store.state.get("allocated", {}).items() if isinstance(row, SealedBlock)]
    return {(key_id, start): sealed.digest for key_id, row in blocks for start, sealed in row.items}


def replace_config(config: StreamConfig, **changes: object) -> StreamConfig:
    """A stream like another one."""
    return replace(config, **changes)  # type: ignore[arg-type]  # fields of the configuration


__all__ = ["BACKUP", "BSM_ID", "MAIN", "Headend", "StubbornCard", "Viewer", "World", "counters_used", "near", "replace_config"]
