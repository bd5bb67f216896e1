# SPDX-License-Identifier: Apache-2.0
"""The demo with every part a process: real video, both profiles, push and pull, multicast, servers that are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pybcast.demo import chain, run
from pybcast.demo.chain import Tail
from pybcast.demo.daemons import DaemonKeys
from pybcast.demo.keyside import FLOWS
from pybcast.errors import TransportError

NOW = 4_000_000_000.0


def test_a_file_of_lines_is_read_as_it_grows(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "x")
    assert list(tail.lines()) == []
    with (tmp_path / "x").open("ab", buffering=0) as file:
        file.write(b'{"n": 1}\n{"n": ')
        assert list(tail.lines()) == [{"n": 1}]
        assert list(tail.lines()) == []
        file.write(b'2}\n{"n": 3}\n{"cut off by a kill\n{"n": 4}\n')
        assert next(tail.lines()) == {"n": 2}
        file.write(b'{"message": "why"}\n')
        assert list(tail.lines()) == [{"n": 3}, {"n": 4}, {"message": "why"}] and tail.said == "why"


def test_a_server_that_does_not_start_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[dict[str, object]] = []
    monkeypatch.setattr(chain, "_AIR", chain._AIR.replace("air.jsonl", "missing/air.jsonl"))
    keys = DaemonKeys(("drm",), NOW, 1.0, notes.append)
    with pytest.raises(TransportError, match=r"stkm did not start: .*air\.events.*No such file"), keys:
        pass
    assert notes == [] and not keys.chain.folder.exists()
    assert all(process.poll() is not None for process in keys.chain.processes.values())


@pytest.mark.media
def test_nobody_notices_that_servers_are_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(seconds=20, profile="both", json=True, out=tmp_path)
    events: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    summary = events.pop()
    assert (status, summary["failures"], summary["alarms"]) == (0, [], 0)
    assert summary["frames_sent"] == 1000 == summary["frames_drm"] == summary["frames_smartcard"]
    assert summary["frames_unentitled"] == 0 and summary["key_changes"] >= 2 * 18
    assert summary["flows"] == {flow: {"drm": True, "smartcard": True} for flow in FLOWS}
    notes = [event for event in events if event["event"] == "note"]
    (killed,) = (note["t"] for note in notes if note["text"].startswith("BSM and BSD/A killed"))
    back = [note["t"] for note in notes if "serves again" in note["text"]]
    assert len(back) == 2 and min(back) > killed + 8
    for service in "AB":
        changes = [e for e in events if e["event"] == "key" and e["service"] == service and killed < e["t"] < min(back)]
        assert len(changes) >= 8, "what was planned happens while both are dead"
    (screen,) = (event["text"] for event in events if event["event"] == "watch")
    assert "urn:example:service:A" in screen and "urn:example:bsda" in screen
    assert all(Path(name).stat().st_size > 1000 for name in summary["files"])
