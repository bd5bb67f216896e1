# SPDX-License-Identifier: Apache-2.0
"""Whatever happened to a system, in good weather it converges: who has a right plays, who has none does not."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pybcast.testing.scripts import ACTIONS, Step, play, streams
from pybcast.testing.strategies import flow_scripts


def converges(script: list[Step], seed: int) -> None:
    world, entitled = play(script, seed)
    assert world.violations == []
    for config in streams():
        active = world.active
        assert active is not None, "the headend lives"
        use = active.key.get(config.id)
        assert use is not None, f"{config.service} is on air"
        assert use.start <= world.clock.now < use.start + 2 * config.period, "under the key of the period"
        for viewer in world.viewers.values():
            held = viewer.teks.get((*config.id, use.mki))
            assert (held == use.tek) is (config.service in entitled[viewer.name]), viewer.name


@settings(max_examples=6, derandomize=True)
@given(flow_scripts(), st.integers(0, 2**32))
def test_scripts_converge(script: list[Step], seed: int) -> None:
    converges(script, seed)


def test_every_action_in_one_script() -> None:
    rng = random.Random(7)
    actions = [*ACTIONS, "grant", "grant", "withdraw"]
    rng.shuffle(actions)
    first = [Step("grant", n, 5.0) for n in range(4)]
    converges([*first, *(Step(action, rng.randrange(4), rng.uniform(1, 60), 0.2) for action in actions)], seed=7)
