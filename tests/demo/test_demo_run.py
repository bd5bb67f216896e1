# SPDX-License-Identifier: Apache-2.0
"""The demo end to end: real encoders, sockets and players, with fixed keys in place of key messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pybcast.demo import run
from pybcast.demo.keyside import Alarm, Event, FixedKeys, FlowRan, Note, Rollover, StopTraffic, TekExpired, TerminalKey, UseKey
from pybcast.demo.station import Station
from pybcast.errors import TransportError

pytestmark = pytest.mark.media


class Eventful(FixedKeys):
    """Fixed keys with everything else that a key side may tell."""

    def tick(self, now: float) -> list[Event]:
        events = FixedKeys.tick(self, now)
        if any(isinstance(event, UseKey) for event in events):
            events += [FlowRan("F1", "drm"), FlowRan("F1", "smartcard"), Note("a note"), Alarm("an alarm"), Alarm("an alarm")]
            events += [Rollover("A", "drm", "PEK 2", now), TekExpired("drm", "A", bytes.fromhex("000000010000"))]
        return events


class Forgetful(FixedKeys):
    """The Smartcard terminal never gets the second key of service A."""

    def tick(self, now: float) -> list[Event]:
        lost = bytes.fromhex("000000010002")
        return [
            event
            for event in FixedKeys.tick(self, now)
            if not (isinstance(event, TerminalKey) and (event.terminal, event.mki) == ("smartcard", lost))
        ]


class Ending(FixedKeys):
    """The authority for service A ends with its first key."""

    def tick(self, now: float) -> list[Event]:
        events: list[Event] = []
        for event in FixedKeys.tick(self, now):
            if isinstance(event, UseKey) and event.mki == bytes.fromhex("000000010002"):
                event = StopTraffic("A")
            events.append(event)
        return events


class Silent(FixedKeys):
    """Begins, and brings no key."""

    def tick(self, now: float) -> list[Event]:
        return []


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_frame_arrives_where_there_is_a_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(seconds=4, profile="both", json=True, out=tmp_path, keys=Eventful(period=1.0, flows=("F1",)))
    *events, summary = lines(capsys)
    assert summary["failures"] == [] and status == 0
    assert summary["frames_sent"] == 200 == summary["frames_drm"] == summary["frames_smartcard"]
    assert summary["frames_unentitled"] == 0
    assert summary["key_changes"] >= 6
    assert summary["alarms"] == 1
    assert summary["flows"]["F1"] == {"drm": True, "smartcard": True}
    assert {event["event"] for event in events} >= {"key", "terminal_key", "stkm", "frames", "rollover", "flow", "note", "alarm"}
    assert len({event["mki"] for event in events if event["event"] == "key"}) >= 8
    assert all(Path(name).stat().st_size > 1000 for name in summary["files"])


def test_lost_frames_and_flows_that_did_not_run_fail_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(seconds=2, profile="both", json=True, out=tmp_path, keys=Forgetful(period=1.0, flows=("F4",)))
    summary = lines(capsys)[-1]
    assert status == 1
    assert summary["frames_sent"] == 100 == summary["frames_drm"] > summary["frames_smartcard"]
    assert summary["frames_unentitled"] == 0
    assert {failure.split(":")[0] for failure in summary["failures"]} == {
        "terminal smartcard, service A", "F4 did not run (drm)", "F4 did not run (smartcard)",
    }  # fmt: skip


def test_one_profile_alone_and_the_sequence_wrap() -> None:
    """Service B passes its first sequence wrap, and a key change after it (rules R39)."""
    with Station(FixedKeys(("drm",), period=0.5), ("drm",), lambda event: None) as station:
        record = station.run(4)
    assert station.heads["B"].protector.roc == 1
    wrapped = [span for span in record.spans.values() if (span.terminal, span.service) == ("drm", "B")]
    assert len(wrapped) >= 7 and all(span.opened == span.packets for span in wrapped)
    assert record.failures(()) == []
    assert record.terminals == ("drm", "unentitled") and record.frames("smartcard") is None


def test_nothing_leaks_after_the_end_of_a_right() -> None:
    with Station(Ending(("drm",), period=1.0, lead=0.5), ("drm",), lambda event: None) as station:
        record = station.run(1)
    assert record.alarms and "service A: no authority" in record.alarms[0]
    assert record.recovered["drm", "B"] == 25 > record.recovered["drm", "A"]


def test_no_key_on_air_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.demo.station.KEY_LIMIT", 0.1)
    with Station(Silent(), ("drm",), lambda event: None) as station, pytest.raises(TransportError, match="no traffic key"):
        station.run(1)


def test_a_player_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.demo.station.sys.executable", "false")
    with Station(FixedKeys(), ("drm",), lambda event: None) as station, pytest.raises(TransportError, match="ended too early"):
        station.run(1)
