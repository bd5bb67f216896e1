# SPDX-License-Identifier: Apache-2.0
"""The traffic keys of one simulated stream: what the headend's encoder is told, and what terminals obtain from STKMs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from pybcast.flows import Output, Profile, StreamConfig, TekReady, Terminal, UseKey
from pybcast.messages import Protocol
from pybcast.testing.sim import BSM_ID, MAIN, Viewer, World

Generation = Literal["bsm", "bsda"]
"""Who seals: the BSM (F3) or the BSD/A (F4)."""

START: Final = 3_900_000_000  # NTP seconds, 2023
SERVICE: Final = "urn:example:service:news"
PERIOD: Final = 4  # seconds
PERIODS: Final = 30
KEY_PERIOD: Final = 48  # a SEK or SEAK lasts 12 periods: the run has two rollovers
ROLLOVER_LEAD: Final = 30  # more than a carousel cycle to be sent and one to be collected


class _Listening(World):
    """A world that remembers every key its terminals obtain."""

    def __init__(self, config: StreamConfig, seed: int) -> None:
        self.ready: dict[str, dict[bytes, TekReady]] = {}
        super().__init__([config], seed=seed, start=START)

    def call_viewer(self, viewer: Viewer, action: Callable[[Terminal], list[Output]]) -> None:
        def listen(terminal: Terminal) -> list[Output]:
            outputs = action(terminal)
            held = self.ready.setdefault(terminal.profile, {})
            held |= {output.mki: output for output in outputs if isinstance(output, TekReady)}
            return outputs

        super().call_viewer(viewer, listen)


@dataclass
class StreamKeys:
    """``used``: what the encoder was told, in order.  ``ready``: by profile and id, what that profile's terminal obtained."""

    used: list[UseKey] = field(default_factory=list)
    ready: dict[str, dict[bytes, TekReady]] = field(default_factory=dict)


def run(profiles: tuple[Profile, ...], protocol: Protocol, generation: Generation, *, authentication: bool = True) -> StreamKeys:
    """One service on air for ``PERIODS`` crypto periods, with one entitled terminal of each profile."""
    config = StreamConfig(
        service=SERVICE, stream=1, profiles=profiles, generation=generation, bsm=BSM_ID, bsdas=(MAIN,), protocol=protocol,
        traffic_authentication_flag=authentication, period=PERIOD, start=START + 60, key_period=KEY_PERIOD,
        rollover_lead=ROLLOVER_LEAD, look_ahead=3, socID="soc.example", serviceBaseCID="news",
        key_domain_id=bytes.fromhex("12f410"), key_group=1,
    )  # fmt: skip
    world = _Listening(config, seed=1)
    viewers = [world.add_card(profile) if profile == "smartcard" else world.add_device(profile, 5) for profile in profiles]
    for viewer in viewers:
        world.grant(viewer, config, config.start, config.start + 3600)
        world.tune(viewer, config)
    keys = StreamKeys(ready=world.ready)
    for second in range(START, config.start + PERIODS * PERIOD):
        world.clock.run(second + 0.5)
        use = world.headends[MAIN].key.get(config.id)
        if use is not None and (not keys.used or keys.used[-1].mki != use.mki):
            keys.used.append(use)
    assert world.violations == []
    assert len(keys.used) == PERIODS
    return keys
