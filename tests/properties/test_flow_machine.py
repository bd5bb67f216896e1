# SPDX-License-Identifier: Apache-2.0
"""Whatever Hypothesis does to a BSM, a BSD/A and their terminals: nobody opens what he must not, and no invariant breaks."""

from __future__ import annotations

import os
from typing import Final, Literal

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pybcast.errors import LocalFlowError
from pybcast.flows import Programme, StreamConfig
from pybcast.flows.journal import State
from pybcast.messages import Protocol
from pybcast.testing.sim import BACKUP, BSM_ID, MAIN, Viewer, World

START: Final = float((1 << 32) - 300)
"""NTP seconds: so that a run passes the wrap of 2036."""
VIEWERS: Final = ("card", "stubborn", "device", "other")
NAMES = st.sampled_from(VIEWERS)
NUMBERS = st.sampled_from([0, 1])
HEADENDS = st.sampled_from([MAIN, BACKUP])


def _stream(number: int, generation: Literal["bsm", "bsda"]) -> StreamConfig:
    return StreamConfig(
        service=f"urn:example:service:{number}", stream=number, profiles=("drm", "smartcard"), generation=generation, bsm=BSM_ID,
        bsdas=(MAIN, BACKUP), protocol=Protocol.SRTP, period=8, start=int(START) - 80, granularity=1, key_period=160,
        rollover_lead=80, look_ahead=3, repetition=0.5, interaction=generation == "bsda", socID="soc.example",
        serviceBaseCID=f"service-{number}", key_domain_id=bytes.fromhex("12f410"), key_group=number,
    )  # fmt: skip


class System(RuleBasedStateMachine):
    """Two streams, two headends, four viewers; the world's watchers and what this machine knows of rights say what must not be."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0
        self.copy: State | None = None

    @initialize(seed=st.integers(0, 1 << 16), loss=st.sampled_from([0.0, 0.1, 0.3]))
    def build(self, seed: int, loss: float) -> None:
        configs = [_stream(1, "bsm"), _stream(2, "bsda")]
        self.world = World(configs, seed=seed, start=START, headends=(MAIN, BACKUP), backend_loss=loss, air_loss=loss)
        self.keys = [config.id for config in configs]
        self.viewers: dict[str, Viewer] = {
            "card": self.world.add_card("card"),
            "stubborn": self.world.add_card("stubborn", stubborn=True),
            "device": self.world.add_device("device", 5),
            "other": self.world.add_device("other", 6),
        }
        for viewer in self.viewers.values():
            for config in configs:
                self.world.tune(viewer, config)
        for config in configs:
            self.world.sample(config, self.viewers.values(), every=2.0)
        self.world.clock.run(START + 15)

    def config(self, number: int) -> StreamConfig:
        return self.world.streams[self.keys[number]]

    # --- time ---------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 2.0, 9.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.run(self.world.clock.now + seconds)

    # --- rights -------------------------------------------------------------------------------------------------------

    @rule(name=NAMES, number=NUMBERS, begin=st.sampled_from([-100, 0, 30]), length=st.sampled_from([60, 200, 10**6]))
    def grant(self, name: str, number: int, begin: int, length: int) -> None:
        start = self.world.clock.now + begin
        self.world.grant(self.viewers[name], self.config(number), start, start + length)

    @rule(name=NAMES, number=NUMBERS, at_once=st.booleans())
    def withdraw(self, name: str, number: int, at_once: bool) -> None:
        self.world.withdraw(self.viewers[name], self.config(number), at_once=at_once)

    @rule(number=NUMBERS, name=NAMES, begin=st.integers(40, 90), length=st.integers(10, 60))
    @precondition(lambda self: self.world.bsm is not None and all(h.machine is not None for h in self.world.headends.values()))
    def sell_programme(self, number: int, name: str, begin: int, length: int) -> None:
        config, viewer = self.config(number), self.viewers[name]
        self.events += 1
        start = int(self.world.clock.now) + begin
        try:
            held = self.world.add_programme(Programme(*config.id, f"urn:event:{self.events}", start, start + length))
        except LocalFlowError:
            return  # it overlaps another one
        self.world.grant(viewer, config, held.start, held.end, held.content if viewer.terminal.profile == "drm" else None)

    # --- keys and periods ---------------------------------------------------------------------------------------------

    @rule(number=NUMBERS)
    def rekey(self, number: int) -> None:
        config = self.config(number)
        self.world.command(lambda bsm: bsm.rekey(*config.id, self.world.clock.now))

    @rule(number=NUMBERS, generation=st.sampled_from(["bsm", "bsda"]))
    def switch(self, number: int, generation: Literal["bsm", "bsda"]) -> None:
        self.world.set_generation(self.config(number), generation)

    @rule(number=NUMBERS, length=st.sampled_from([4, 5, 8]))
    def change_period(self, number: int, length: int) -> None:
        self.world.set_period(self.config(number), length)

    # --- faults -------------------------------------------------------------------------------------------------------

    @rule()
    def kill_bsm(self) -> None:
        self.world.stop_bsm()

    @rule()
    @precondition(lambda self: self.world.bsm is None)
    def start_bsm(self) -> None:
        self.world.start_bsm()

    @rule(name=HEADENDS)
    def kill_bsda(self, name: str) -> None:
        self.world.stop_bsda(name)

    @rule(name=HEADENDS)
    def kill_planner(self, name: str) -> None:
        """Its edge goes on."""
        self.world.stop_planner(name)

    @rule(name=HEADENDS)
    def kill_edge(self, name: str) -> None:
        """Its BSD/A goes on, with an empty one."""
        self.world.restart_edge(name)

    @rule(name=HEADENDS, lost=st.booleans())
    def start_bsda(self, name: str, lost: bool) -> None:
        if self.world.headends[name].machine is None:
            self.world.start_bsda(name, {} if lost else None, fresh=lost)

    @rule(crash=st.sampled_from([0.0, 0.01]))
    def crashes(self, crash: float) -> None:
        self.world.crash = crash

    @rule(names=st.sets(st.sampled_from([BSM_ID, MAIN, BACKUP])))
    def cut_off(self, names: set[str]) -> None:
        self.world.unreachable = names

    @rule(name=NAMES, up=st.booleans())
    def shade(self, name: str, up: bool) -> None:
        """A viewer drives into a tunnel, or out of it."""
        self.viewers[name].link.up = up

    @rule(name=NAMES, number=NUMBERS)
    def zap(self, name: str, number: int) -> None:
        viewer, config = self.viewers[name], self.config(number)
        if config.id in viewer.tuned:
            self.world.tune_out(viewer, config)
        else:
            self.world.tune(viewer, config)

    @rule()
    def keep_a_copy(self) -> None:
        self.copy = self.world.bsm_store.copy()

    @rule()
    @precondition(lambda self: self.copy is not None and self.world.bsm is not None)
    def restore_the_copy(self) -> None:
        assert self.copy is not None
        self.world.restore_bsm(self.copy)
        self.copy = None

    # --- what must not be ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        # Here links and servers may be down for as long as Hypothesis likes: darkness is the simulation's to judge.
        if hasattr(self, "world"):
            assert [v for v in self.world.violations if " is dark on " not in v] == []

    @invariant()
    def nobody_opens_without_a_right(self) -> None:
        if hasattr(self, "world"):
            for viewer in self.viewers.values():
                assert bool(viewer.who.grants) or not viewer.who.opened

    def teardown(self) -> None:
        """In good weather it comes to rest, and the right ones play."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.crash, world.unreachable, world.backend.loss, world.backend.double = 0.0, set(), 0.0, 0.0
        if world.bsm is None:
            world.start_bsm()
        for name, headend in world.headends.items():
            if headend.machine is None:
                world.start_bsda(name)
        for viewer in self.viewers.values():
            viewer.link.up, viewer.link.loss, viewer.link.double = True, 0.0, 0.0
            for key in self.keys:
                if key not in viewer.tuned:
                    world.tune(viewer, world.streams[key])
        world.clock.run(world.clock.now + 400)
        for key in self.keys:
            config = world.streams[key]
            use = world.traffic(config)
            assert use is not None, f"{config.service} is on air again"
            assert use.start > world.clock.now - 2 * config.period, "with the key of the period"
            for viewer in self.viewers.values():
                who = viewer.who
                facts = world.watch.facts(who, use)
                entitled = any(world.watch.entitled(who, use, fact) for fact in facts)
                if facts and (entitled or viewer.terminal.profile == "smartcard"):
                    assert world.plays(viewer, config) is entitled, (viewer.name, config.service)
        self.nothing_is_broken()


LONG = os.environ.get("PYBCAST_LONG") == "1"
TestFlowMachine = System.TestCase
# A run is long and shrinking runs it hundreds of times: what fails is printed as it was found.
TestFlowMachine.settings = settings(
    max_examples=settings().max_examples // 8 if LONG else 15,
    stateful_step_count=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
