# SPDX-License-Identifier: Apache-2.0
"""The edge alone answers for itself (R49): ``pybcast air status`` and ``air metrics``, with no server there."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from saying import Saying, configuration, plan, service, state_until
from servers_support import Process, free_ports

from pybcast.cli import main
from pybcast.flows.edge.slots import Held, HeldPeriod
from pybcast.flows.tables import EdgeState
from pybcast.servers.edgeview import Reach
from pybcast.wire.times import NTP_UNIX


def http_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as made:
        return int(made.getsockname()[1])


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def figures(port: int) -> dict[str, float]:
    status, text = fetch(port, "/metrics")
    assert status == 200
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples if not s.labels}


def test_the_edge_answers_while_every_server_is_dead(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ports = free_ports(2)
    config = configuration(tmp_path, dict(zip("AB", (f"127.0.0.1:{port}" for port in ports), strict=True)))
    assert main(["air", "status", str(config)]) == 2
    assert "no answer from the STKM sender" in capfd.readouterr().err
    at = http_port()
    metrics = Process("bsda", tmp_path, command=("air", "metrics", "--listen", f"127.0.0.1:{at}"))
    sender = Process("bsda", tmp_path, command=("air", "stkm"))
    try:
        sender.ready()
        metrics.ready()
        now = int(time.time())
        with Saying(
            tmp_path / "air.sock", plan("A", now - 5, now + 60, now + 120, now + 180), plan("B", now - 5, now + 600)
        ) as bsda:
            bsda.executed(2)
        state_until(tmp_path / "air.sock", able=False)
        assert main(["air", "status", str(config), "--json"]) == 0
        said: dict[str, Any] = json.loads(capfd.readouterr().out)
        plans = {row["service"]: row for row in said["plans"]}
        assert said["light"] == "yellow" and "no BSD/A: the plans reach" in said["why"] and said["alarms"] == []
        a, b = plans[service("A")], plans[service("B")]
        assert (a["light"], a["in_use"], a["periods"], a["end"]) == ("green", now - 5 + NTP_UNIX, 2, now + 180 + NTP_UNIX)
        assert 100 < a["left"] <= 180
        assert (b["light"], b["why"], b["periods"]) == ("yellow", "nothing is planned after the key in use", 0)
        assert main(["air", "status", str(config)]) == 0
        shown = capfd.readouterr().out
        assert "yellow edge of urn:example:bsda" in shown and service("A") in shown
        found = figures(at)
        assert found["pybcast_edge_up"] == 1 == found["pybcast_edge_active"] and found["pybcast_edge_able"] == 0
        assert found["pybcast_edge_streams"] == 2 and found["pybcast_edge_held"] == 0 and found["pybcast_edge_sent_total"] > 0
        assert 100 < found["pybcast_edge_reach_seconds"] <= 180
        assert 'pybcast_edge_lateness_seconds_bucket{le="+Inf"}' in fetch(at, "/metrics")[1]
        status, text = fetch(at, "/healthz")
        assert status == 200 and json.loads(text)["status"] == "ok" and json.loads(text)["light"] == "yellow"
        assert sender.end(signal.SIGTERM) == 0
        assert figures(at) == {"pybcast_edge_up": 0.0} and fetch(at, "/healthz") == (503, '{"status": "no answer"}')
    finally:
        for process in (sender, metrics):
            if process.process.poll() is None:
                assert process.end(signal.SIGTERM) == 0, process.tail()
    for process in (sender, metrics):
        process.check()


def test_a_key_that_is_held_or_missing_is_red() -> None:
    def light(*periods: HeldPeriod) -> tuple[str, str]:
        reach = Reach.of(Held("urn:s", 1, periods, None), 20.0)
        return reach.light, reach.why

    assert light(HeldPeriod(8, 16, EdgeState.HELD, ())) == ("red", "the last key is held")
    assert light() == ("red", "no key in use")
    assert light(HeldPeriod(24, 32, EdgeState.WAITING, ())) == ("red", "no key in use")
    assert light(HeldPeriod(16, 24, EdgeState.IN_USE, ()), HeldPeriod(24, 32, EdgeState.ON_AIR, ())) == ("green", "")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["air", "status"], "air.sender: missing"), (["air", "metrics"], "air.sender: missing"),
        (["air", "metrics", "--listen", "nowhere"], "expected HOST:PORT"),
        (["air", "metrics", "--listen", "192.0.2.77:9445"], "--listen 192.0.2.77:9445"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(
    tmp_path: Path, words: list[str], why: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, {"A": "127.0.0.1:9"})
    if "missing" in why:
        config.write_text(config.read_text().replace("sender = 'air.sock'\n", ""))
    monkeypatch.setattr("pybcast.servers.log.start", lambda *_: None)
    assert main([*words, str(config)]) == 2
    assert why in capfd.readouterr().err
