# SPDX-License-Identifier: Apache-2.0
"""Flow scripts: sequences of things that happen to a system, drawn or written by hand, and played in the simulation.

A script is a list of ``Step``; :func:`play` carries it out in a :class:`pybcast.testing.sim.World` and lets it come to rest, after
which every entitled viewer must play and nobody else may.  ``pybcast.testing.strategies.flow_scripts`` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pybcast.flows import StreamConfig
from pybcast.messages import Protocol
from pybcast.testing.sim import BSM_ID, MAIN, Viewer, World

Action = Literal["grant", "withdraw", "rekey", "stop bsm", "stop bsd/a", "cut link", "loss", "wait"]
ACTIONS: Final[tuple[Action, ...]] = ("grant", "withdraw", "rekey", "stop bsm", "stop bsd/a", "cut link", "loss", "wait")
START: Final = float((1 << 32) - 900)
"""NTP seconds: fifteen minutes before the 32-bit time wraps (2036), so that scripts run over it."""
VIEWERS: Final = 4
REST: Final = 1000.0
"""Seconds of good weather after which everything must have healed: a key period, and LTKMs issued again several times (R7)."""


@dataclass(frozen=True)
class Step:
    """``action`` on viewer or stream ``target``, then ``seconds`` pass; ``amount`` is the probability of ``loss``."""

    action: Action
    target: int = 0
    seconds: float = 10.0
    amount: float = 0.0


def streams() -> tuple[StreamConfig, StreamConfig]:
    """One stream by F3 and one by F4, both in both profiles."""

    def stream(number: int, generation: Literal["bsm", "bsda"]) -> StreamConfig:
        return StreamConfig(
            service=f"urn:example:service:{number}", stream=number, profiles=("drm", "smartcard"), generation=generation,
            bsm=BSM_ID, bsdas=(MAIN,), protocol=Protocol.SRTP, period=8, start=int(START), key_period=640, rollover_lead=320,
            repetition=0.5, interaction=generation == "bsda", socID="soc.example", serviceBaseCID=f"service-{number}",
            key_domain_id=bytes.fromhex("12f410"), key_group=number,
        )  # fmt: skip

    return stream(1, "bsm"), stream(2, "bsda")


def play(script: list[Step], seed: int) -> tuple[World, dict[str, set[str]]]:
    """Play a script to its end and to rest.  Returns the world and, for each viewer, the services he is entitled to by then."""
    configs = streams()
    world = World(configs, seed=seed, start=START)
    viewers: list[Viewer] = []
    for n in range(VIEWERS):
        viewers.append(world.add_card(f"card-{n}") if n % 2 else world.add_device(f"device-{n}", 10 + n))
        for config in configs:
            world.tune(viewers[n], config)
    entitled: dict[str, set[str]] = {viewer.name: set() for viewer in viewers}
    world.clock.run(START + 20)
    for step in script:
        viewer, config = viewers[step.target % VIEWERS], configs[step.target % 2]
        match step.action:
            case "grant" if config.service not in entitled[viewer.name]:
                world.grant(viewer, config, world.clock.now, world.clock.now + 10**6)
                entitled[viewer.name].add(config.service)
            case "withdraw" if config.service in entitled[viewer.name]:
                world.withdraw(viewer, config)
                entitled[viewer.name].discard(config.service)
            case "rekey":
                world.call_bsm(lambda bsm, config=config: bsm.rekey(config.service, config.stream, world.clock.now))  # type: ignore[misc]
            case "stop bsm":
                world.stop_bsm()
            case "stop bsd/a":
                world.stop_bsda(MAIN)
            case "cut link":
                world.backend.up = False
            case "loss":
                world.backend.loss = world.backend.double = step.amount
                for other in viewers:
                    other.link.loss = other.link.double = step.amount
            case _:
                pass
        world.clock.run(world.clock.now + step.seconds)
        world.backend.up = True
        if world.bsm is None:
            world.start_bsm()
        if world.headends[MAIN].machine is None:
            world.start_bsda(MAIN)
    world.backend.loss = world.backend.double = 0.0
    for viewer in viewers:
        viewer.link.loss = viewer.link.double = 0.0
    world.clock.run(world.clock.now + REST)
    return world, entitled
