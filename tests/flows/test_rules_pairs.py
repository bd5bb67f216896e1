# SPDX-License-Identifier: Apache-2.0
"""R46, R50: two headends make one STKM for each period, whoever is dead while keys and periods change."""

from __future__ import annotations

import pytest
from flow_support import System, pair

from pybcast.flows import StreamConfig
from pybcast.testing.sim import BACKUP, MAIN


def in_force(system: System, config: StreamConfig) -> set[bytes]:
    """The ids of the keys that hold now, as the BSM knows them."""
    assert system.bsm is not None
    rows = [row.material for row in system.bsm.keys(*config.key)]
    return {key.key_id for key in rows if key.valid_from <= system.now < key.valid_to}


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_r46_who_was_dead_hears_of_every_change_of_the_period(generation: str) -> None:
    """Two changes in a row while one headend is dead: it has the same periods as the other when it comes back."""
    config = pair(generation=generation)
    system = System(config)
    system.run(20)
    system.set_period(config, 5)
    system.stop_bsda(MAIN)
    system.set_period(config, 4)
    system.run(10)
    system.set_period(config, 8)
    system.start_bsda(MAIN)
    system.run(150)
    assert system.violations == []
    assert system.stkms(config, MAIN).keys() >= {a for a in system.stkms(config, BACKUP) if a > system.now - 100}


def test_r46_a_boundary_that_was_entered_meanwhile_is_heard_before_anything_is_prepared() -> None:
    config = pair(generation="bsda")
    system = System(config)
    system.run(20)
    system.stop_bsda(MAIN)
    at = int(system.now) + (config.ahead + 2) * config.period + 3
    system.add_boundary(config, at)
    system.run(40)
    system.start_bsda(MAIN)
    system.run(60)
    assert at in system.stkms(config, MAIN) and at in system.stkms(config, BACKUP)
    assert system.violations == []


@pytest.mark.parametrize("cut_off", [False, True])
def test_r50_rekey_while_one_headend_is_not_heard(cut_off: bool) -> None:
    """The fault: it sealed on under the old key past the start of the new one."""
    config = pair(generation="bsda")
    system = System(config)
    viewers = system.entitled(config)
    system.run(40)
    if cut_off:
        system.unreachable = {BACKUP}
    else:
        system.stop_bsda(BACKUP)
    before = in_force(system, config)
    system.command(lambda bsm: bsm.rekey(*config.key, system.now))
    system.run(120)
    assert in_force(system, config) == before  # it waits
    system.unreachable = set()
    if not cut_off:
        system.start_bsda(BACKUP)
    system.run(120)
    assert not in_force(system, config) & before
    assert all(system.plays(viewer, config) for viewer in viewers)
    assert system.violations == []
