# SPDX-License-Identifier: Apache-2.0
"""Clocks that are put forward and back by an hour under running servers: the keys go on changing, and no COUNTER comes twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from clocked import step
from evidence import Evidence
from servers_support import System, _service

from pybcast.wire.times import NTP_UNIX

HOUR: Final = 3600.0
FAST: Final = {"period": 1, "look_ahead": 4, "key_period": 20}
STEPPED: Final = "".join((
    _service("A", 1, "bsm", "push", synchronous=True, **FAST), _service("B", 2, "bsda", "push", **FAST),
    _service("C", 3, "bsm", "pull", **FAST), _service("D", 4, "bsda", "pull", **FAST),
))  # fmt: skip
BOTH: Final = ("bsm", "bsda")
STEPS: Final = [(HOUR, BOTH), (0.0, BOTH), (-HOUR, ("bsda",)), (0.0, ("bsda",))]
if os.environ.get("PYBCAST_LONG", "") == "1":
    STEPS.extend([(HOUR, ("bsm",)), (0.0, ("bsm",)), (HOUR, ("bsda",)), (0.0, ("bsda",)), (-HOUR, ("bsm",)), (0.0, ("bsm",))])


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    for name in BOTH:
        step(tmp_path / f"{name}.clock", 0)
    made = System(tmp_path, STEPPED, serve=(str(Path(__file__).with_name("clocked.py")),))
    yield made
    made.close()


def _put(system: System, seconds: float, *names: str) -> dict[str, int]:
    """Step clocks; how many events there were before."""
    marks = {name: len(process.events) for name, process in system.running.items()}
    for name in names:
        step(system.folder / f"{name}.clock", seconds)
    return marks


def _goes_on(system: System, offset: float, mark: int) -> None:
    """Until every service has used keys of three periods of that time, one after the other."""
    since = time.time() + offset + NTP_UNIX - 1

    def enough(seen: list[dict[str, object]]) -> bool:
        used = [e for e in seen[mark:] if e.get("event") == "UseKey" and since <= float(str(e["start"])) < since + HOUR / 2]
        return all(len({e["start"] for e in used if str(e["service"])[-1] == letter}) >= 3 for letter in "ABCD")

    system.running["bsda"].wait(enough, "keys of the new time")


def _alarmed(system: System, name: str, mark: int, code: str) -> None:
    system.running[name].wait(
        lambda seen: any(e.get("event") == "alarm" and e["code"] == code for e in seen[mark:]), f"alarm {code}"
    )


def test_an_hour_forward_and_back(system: System) -> None:
    held = Evidence()
    system.start(*BOTH)
    _goes_on(system, 0, 0)
    for offset, names in STEPS:
        marks = _put(system, offset, *names)
        for name in names:
            _alarmed(system, name, marks[name], "clock-step")
        if names == BOTH or offset == 0.0:  # else they do not agree on the time, and the last key is held
            _goes_on(system, offset, marks["bsda"])
        else:
            _alarmed(system, "bsda", marks["bsda"], "held-key")
        for name in BOTH:
            held.database(system, name)
        held.on_air([system.running["bsda"]])
    for name in BOTH:
        figures, steps = system.running[name].metrics(), sum(name in names for _, names in STEPS)
        assert figures["pybcast_clock_steps_total"] == figures['pybcast_alarms_total{code="clock-step"}'] == steps
    system.kill(*BOTH)
    for name in BOTH:  # and of servers that were dead while their clocks were put back
        held.database(system, name)
        step(system.folder / f"{name}.clock", -2 * HOUR)
    system.start(*BOTH)
    _goes_on(system, -2 * HOUR, 0)
    assert system.stop() == {"bsm": 0, "bsda": 0}
    for name in BOTH:
        held.database(system, name)
    held.on_air(system.past)
    assert held.compared() > 5, held.compared()
    for process in system.past:
        process.check()
