# SPDX-License-Identifier: Apache-2.0
"""The demo's real key side: BSM, BSD/A and terminals behind ``KeySide``, first in simulated time, then with real video."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pybcast.demo import run
from pybcast.demo.flowkeys import FlowKeys
from pybcast.demo.keyside import FLOWS, SERVICES, Alarm, Announced, Event, FlowRan, Profile, Rollover, TerminalKey, UseKey
from pybcast.demo.receivers import KEY_PERIOD, PERIOD

START = 3_913_056_000.0  # 2024-01-01, NTP seconds


def play(profiles: Sequence[Profile], seconds: float) -> list[tuple[float, Event]]:
    """Every event of a key side that is ticked every 20 ms."""
    keys = FlowKeys(profiles, START)
    keys.begin(START)
    out: list[tuple[float, Event]] = []
    for n in range(int(seconds * 50)):
        now = START + n / 50
        out += [(now, event) for event in keys.tick(now)]
    return out


@pytest.mark.parametrize("profiles", [("drm", "smartcard"), ("drm",), ("smartcard",)])
def test_keys_flow_to_encoder_and_terminals(profiles: tuple[Profile, ...]) -> None:
    events = play(profiles, 30)
    assert not [event for _, event in events if isinstance(event, Alarm)]
    assert {(e.flow, e.profile) for _, e in events if isinstance(e, FlowRan)} == {(f, p) for f in FLOWS for p in profiles}
    for service in SERVICES:
        used = [(now, e) for now, e in events if isinstance(e, UseKey) and e.service == service]
        starts = [e.start for _, e in used]
        assert len(starts) >= 11 and starts == sorted(starts)
        assert {b - a for a, b in itertools.pairwise(starts)} == {PERIOD}
        assert len({e.mki for _, e in used}) == len(used), "no key is used twice"
        for now, use in used:
            assert use.start <= now
            for profile in profiles:
                announced = min(t for t, e in events if e == Announced(service, profile, use.start))
                assert announced <= use.start - PERIOD / 2 + 0.1, "announced half a period ahead (R6)"
                held = [
                    (t, e)
                    for t, e in events
                    if isinstance(e, TerminalKey) and (e.terminal, e.mki, e.service) == (profile, use.mki, service)
                ]
                assert held and held[0][0] <= now and held[0][1].tek == use.tek and held[0][1].salt == use.salt
        turns = [e.start for _, e in events if isinstance(e, Rollover) and e.service == service]
        assert turns and all((start - starts[0]) % KEY_PERIOD == 0 for start in turns)
    assert {e.terminal for _, e in events if isinstance(e, TerminalKey)} == set(profiles), "the one without a right gets nothing"


@pytest.mark.media
def test_real_video_under_real_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(seconds=5, profile="both", json=True, out=tmp_path, in_process=True)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status, summary["failures"]) == (0, [])
    assert summary["frames_sent"] == 250 == summary["frames_drm"] == summary["frames_smartcard"]
    assert summary["frames_unentitled"] == 0 and summary["key_changes"] >= 4
    assert summary["flows"] == {flow: {"drm": True, "smartcard": True} for flow in FLOWS}
