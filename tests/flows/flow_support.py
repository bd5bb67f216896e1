# SPDX-License-Identifier: Apache-2.0
"""A system on air for the tests of the flows: stream configurations, a world with entitled viewers, and a scripted random run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from pybcast.errors import LocalFlowError
from pybcast.flows import Announce, BackendMessage, Programme, StreamConfig, UseKey
from pybcast.flows.peers.messages import StkmItem
from pybcast.flows.tables import Tag
from pybcast.messages import Protocol
from pybcast.testing.link import Clock
from pybcast.testing.sim import BACKUP, BSM_ID, MAIN, Viewer, World

NOON: Final = 3_990_000_000.0
"""NTP seconds somewhere in 2026: far from any wrap."""
WRAP: Final = float(1 << 32)
"""2036-02-07: where 32-bit NTP seconds begin again."""


def stream(service: str = "news", generation: str = "bsm", *, start: float = NOON, **changes: object) -> StreamConfig:
    """A stream of both profiles, periods of 8 s, keys of 640 s."""
    number = sum(service.encode()) % 1000 + 1
    values: dict[str, object] = {
        "service": f"urn:example:{service}", "stream": 1, "profiles": ("drm", "smartcard"), "generation": generation, "bsm": BSM_ID,
        "bsdas": (MAIN,), "protocol": Protocol.SRTP, "period": 8, "start": int(start) - 80, "granularity": 1, "key_period": 640,
        "rollover_lead": 320, "repetition": 0.5, "serviceBaseCID": service, "socID": "soc.example",
        "key_domain_id": bytes.fromhex("12f410"), "key_group": number,
    }  # fmt: skip
    return StreamConfig(**(values | changes))  # type: ignore[arg-type]  # fields of the configuration


def pair(service: str = "news", generation: str = "bsm", **changes: object) -> StreamConfig:
    """The same for two headends."""
    return stream(service, generation, bsdas=(MAIN, BACKUP), **changes)  # type: ignore[arg-type]


class System(World):
    """A world that keeps what it does: ``announced`` and ``used`` with time and headend, and the messages in ``log``.

    ``lost_tags``: back-end messages that never arrive.
    """

    def __init__(self, *streams: StreamConfig, seed: int = 1, start: float = NOON, **options: object) -> None:
        self.announced: list[tuple[float, str, Announce]] = []
        self.used: list[tuple[float, str, UseKey]] = []
        self.log: list[BackendMessage] = []
        self.lost_tags: set[Tag] = set()
        headends = max((config.bsdas for config in streams), key=len)
        super().__init__(streams, seed=seed, start=start, headends=headends, **options)  # type: ignore[arg-type]

    def _send(self, message: BackendMessage) -> None:
        self.log.append(message)
        up, self.backend.up = self.backend.up, self.backend.up and message.tag not in self.lost_tags
        super()._send(message)
        self.backend.up = up

    def _announce(self, headend: object, output: Announce) -> None:
        self.announced.append((self.clock.now, headend.name, output))  # type: ignore[attr-defined]
        super()._announce(headend, output)  # type: ignore[arg-type]

    def _use(self, headend: object, use: UseKey) -> None:
        self.used.append((self.clock.now, headend.name, use))  # type: ignore[attr-defined]
        super()._use(headend, use)  # type: ignore[arg-type]

    @property
    def now(self) -> float:
        return self.clock.now

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now + seconds)

    def entitled(self, *streams: StreamConfig, seconds: float = 10**6) -> tuple[Viewer, Viewer]:
        """A card and a device with a right to each stream, tuned to each."""
        viewers = (self.add_card("card"), self.add_device("device", 5))
        for viewer in viewers:
            for config in streams:
                self.grant(viewer, config, config.start, self.now + seconds)
                self.tune(viewer, config)
        return viewers

    def messages(self, tag: Tag, source: str | None = None) -> list[BackendMessage]:
        """What was sent with a tag so far."""
        return [m for m in self.log if m.tag is tag and source in (None, m.source)]

    def stkms(self, config: StreamConfig, headend: str = MAIN) -> dict[int, Announce]:
        """What a headend announced: {period start: STKMs}, the last word for each."""
        return {a.start: a for _, name, a in self.announced if name == headend and (a.service, a.stream) == config.id}

    def stkm(self, config: StreamConfig, start: int, profile: str, headend: str = MAIN) -> bytes:
        """The STKM of a period in one profile."""
        return next(s.data for s in self.stkms(config, headend)[start].stkms if s.profile == profile)

    def starts(self, config: StreamConfig, headend: str = MAIN) -> list[int]:
        """The periods whose keys a headend's encoder used, in order."""
        found = [u.start for _, name, u in self.used if name == headend and (u.service, u.stream) == config.id]
        return [start for n, start in enumerate(found) if n == 0 or found[n - 1] != start]


def statuses(message: BackendMessage) -> list[int]:
    """The status of each STKM in a message."""
    return [item.status for item in message.items if isinstance(item, StkmItem)]


LOST_ONCE: Final = 150.0
"""Seconds from one loss of a BSD/A's store to the next: until the key that follows it is in use."""


class Chaos:
    """Everything that happens to a system in operation, at random times: rights, rollovers, programmes, zapping, period changes,
    back-end outages, failing and restored servers.
    """

    def __init__(self, world: World, viewers: Iterable[Viewer], *, rate: float, actions: Iterable[str]) -> None:
        self.world, self.viewers = world, list(viewers)
        self.rng = random.Random(world.rng.random())
        self.actions = [getattr(self, name) for name in actions]
        self.done: dict[str, int] = {}
        self.events = 0
        self._rate = rate
        self._over = False
        self._lost_at = 0.0
        self._copies: list[dict[str, dict[tuple[object, ...], object]]] = []
        self._next()

    @property
    def clock(self) -> Clock:
        return self.world.clock

    def _next(self) -> None:
        self.clock.at(self.clock.now + self.rng.expovariate(1 / self._rate), self._happen)

    def end(self) -> None:
        """Nothing happens any more, and all that was broken is whole again."""
        world, self._over = self.world, True
        world.crash = world.fresh = world.air_loss = 0.0
        world.unreachable.clear()
        for link in (world.backend, *(viewer.link for viewer in world.viewers.values())):
            link.up, link.loss, link.double = True, 0.0, 0.0
        for name, ahead in list(world.skew.items()):
            self._step(name, -ahead)
        world._restart_bsm()
        for name in world.headends:
            world._restart(name)

    def _happen(self) -> None:
        if self._over:
            return
        action: Callable[[], None] = self.rng.choice(self.actions)
        self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
        action()
        self._next()

    def _stream(self) -> StreamConfig:
        return self.rng.choice(list(self.world.streams.values()))

    def _viewer(self) -> Viewer:
        return self.rng.choice(self.viewers)

    def grant(self) -> None:
        viewer, config = self._viewer(), self._stream()
        start = self.clock.now + self.rng.choice([-100, 0, 100])
        self.world.grant(viewer, config, start, start + self.rng.choice([300, 2000, 10**6]))

    def withdraw(self) -> None:
        self.world.withdraw(self._viewer(), self._stream(), at_once=self.rng.random() < 0.5)

    def rekey(self) -> None:
        config = self._stream()
        self.world.command(lambda bsm: bsm.rekey(config.service, config.stream, self.clock.now))

    def programme(self) -> None:
        if self.world.bsm is None or any(h.machine is None for h in self.world.headends.values()):
            return
        config, self.events = self._stream(), self.events + 1
        start = int(self.clock.now) + self.rng.randrange(50, 200)
        programme = Programme(config.service, config.stream, f"urn:event:{self.events}", start, start + self.rng.randrange(20, 200))
        crash, self.world.crash = self.world.crash, 0.0  # the operator waits for the answer
        try:
            held = self.world.add_programme(programme)
        except LocalFlowError:
            return  # overlaps another one
        finally:
            self.world.crash = crash
        for viewer in self.rng.sample(self.viewers, 2):
            self.world.grant(viewer, config, held.start, held.end, held.content if viewer.terminal.profile == "drm" else None)

    def zap(self) -> None:
        viewer, config = self._viewer(), self._stream()
        if config.id in viewer.tuned:
            self.world.tune_out(viewer, config)
            self.clock.at(self.clock.now + self.rng.choice([0.5, 5, 60]), lambda: self.world.tune(viewer, config))

    def period(self) -> None:
        if all(h.machine is not None for h in self.world.headends.values()):
            crash, self.world.crash = self.world.crash, 0.0
            self.world.set_period(self._stream(), self.rng.choice([5, 6, 8]))
            self.world.crash = crash

    def outage(self) -> None:
        """The back-end link is down."""
        self.world.backend.up = False
        self.clock.at(self.clock.now + self.rng.uniform(1, 20), self._link_up)

    def cut_off(self) -> None:
        """One headend is not heard, and hears nothing; never both: F6 has then what is not on air (F3)."""
        if self.world.unreachable:
            return
        name = self.rng.choice(list(self.world.headends))
        self.world.unreachable.add(name)
        self.clock.at(self.clock.now + self.rng.uniform(1, 100), lambda: self.world.unreachable.discard(name))

    def step(self) -> None:
        """The clock of one server is wrong by seconds for a while: by less than a period.  By more, the BSM takes a key for ended
        that a headend still has on air, and cards may lose it (R10).
        """
        self._wrong([self.rng.choice([BSM_ID, *self.world.headends])], self.rng.choice([-6, -3, -1, 1, 3, 6]))

    def leap(self) -> None:
        """The clock of one server, or of all, is wrong by minutes for a while."""
        names = [BSM_ID, *self.world.headends]
        self._wrong(self.rng.choice([names, [self.rng.choice(names)]]), self.rng.choice([-900, -150, -60, 60, 150, 900]))

    def _wrong(self, names: list[str], by: float) -> None:
        if any(self.world.skew.get(name) for name in names):
            return
        for name in names:
            self._step(name, by)
        self.clock.at(self.clock.now + self.rng.uniform(1, 60), lambda: self._right(names))

    def _right(self, names: list[str]) -> None:
        for name in names:
            self._step(name, -self.world.skew.get(name, 0.0))

    def _step(self, name: str, by: float) -> None:
        if by:
            self.world.step_clock(name, by)

    def hold(self) -> None:
        """The operator lets a stream hold its last key past the end of authority, or not any more."""
        config = self._stream()
        self.world.set_hold(config, not config.hold_through)

    def encoder(self) -> None:
        """An encoder dies and comes back."""
        self.world.restart_encoder(self.rng.choice(list(self.world.headends)))

    def _link_up(self) -> None:
        self.world.backend.up = True

    def kill(self) -> None:
        """A headend dies."""
        name = self.rng.choice(list(self.world.headends))
        self.world.stop_bsda(name)
        self.clock.at(self.clock.now + self.rng.uniform(1, 20), lambda: self.world._restart(name))

    def kill_planner(self) -> None:
        """A BSD/A dies, and its edge goes on."""
        name = self.rng.choice(list(self.world.headends))
        self.world.stop_planner(name)
        self.clock.at(self.clock.now + self.rng.uniform(1, 40), lambda: self.world._restart(name))

    def _lost(self, name: str) -> bool:
        """Whether a BSD/A that lives may lose its store now: one that has just lost it may lose the key that it got for that too,
        and nobody tells the BSM that its edge holds the one before (R10).
        """
        if self.world.headends[name].machine is None or self.clock.now < self._lost_at + LOST_ONCE:
            return False
        self._lost_at = self.clock.now
        return True

    def lose_planner(self) -> None:
        """A BSD/A dies and loses its store, and its edge goes on with what it has."""
        name = self.rng.choice(list(self.world.headends))
        if self._lost(name):
            self.world.stop_planner(name)
            self.world.start_bsda(name, {}, fresh=True)

    def put_back_planner(self) -> None:
        """An older copy of a BSD/A's store is put back, and only its edge can tell."""
        name = self.rng.choice(list(self.world.headends))
        copy = self.world.headends[name].store.copy()

        def restore() -> None:
            if self._lost(name):
                self.world.stop_planner(name)
                self.world.start_bsda(name, copy)

        self.clock.at(self.clock.now + self.rng.uniform(0, 60), restore)

    def kill_edge(self) -> None:
        """An edge dies, and its BSD/A goes on with another one."""
        self.world.restart_edge(self.rng.choice(list(self.world.headends)))

    def lose(self) -> None:
        """A headend dies and loses its store."""
        name = self.rng.choice(list(self.world.headends))
        if self.world.headends[name].machine is not None:
            self.world.stop_bsda(name)
            self.world.start_bsda(name, {}, fresh=True)

    def back_up(self) -> None:
        self._copies.append(self.world.bsm_store.copy())

    def restore(self) -> None:
        if self._copies and self.world.bsm is not None:
            self.world.restore_bsm(self._copies.pop())
            self._copies.clear()
