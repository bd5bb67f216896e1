# SPDX-License-Identifier: Apache-2.0
"""What is shipped for operators fits the servers: the dashboard's and the documents' metrics, the systemd units."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pybcast.backend import Exchanged
from pybcast.cli import main
from pybcast.flows import Alarm, FlowDone
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.tables import STATUS_WORDS, Status, Tag, status_words
from pybcast.servers import edgeview
from pybcast.servers.watch import KEY_LATE, ServiceView, Watch, _Peer

DOCS: Final = Path(__file__).parents[2] / "docs"
UNITS: Final = sorted((DOCS / "systemd").glob("*.service"))


def watch() -> Watch:
    """One that has seen everything."""
    made = Watch("bsda", lambda: 4e9, {"urn:peer": _Peer()})
    made.views = lambda: [ServiceView(service="urn:s", stream=1, light="green", ahead=3, next_change=4e9 + 2)]
    for tag in (7, 200, None):
        made.exchanged(Exchanged(
            role="server", peer="urn:peer", tag=tag, message_id="m", service=None, status=0, http=200, seconds=0.01,
        ))  # fmt: skip
    made.committed(0.001, 1, 2)
    made.input(0.001, 3)
    made.clock_step(1.0)
    made.flow(FlowDone("F1", None, "urn:s"))
    made.alarm(Alarm("held-key", "urn:s", 1))
    made.interaction("ltkm", 200, 0.01)
    made.key_used(0.01)
    made.key_used(KEY_LATE)
    made.unanswered(
        BackendMessage(tag=Tag.TEKDelivery, message_id="m", source="urn:a", destination="urn:peer", service="urn:s"), "gone"
    )
    return made


def names(metrics: str) -> set[str]:
    """Of all families, without the times at which counters were made."""
    found = {line.split()[2] for line in metrics.splitlines() if line.startswith("# TYPE")}
    return {name for name in found if not name.endswith("_created")}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def test_every_metric_of_the_dashboard_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "dashboard"]) == 0
    dashboard = json.loads(capsys.readouterr().out)
    exist = names(watch().metrics().decode())
    used = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for text in _strings(dashboard)
        for name in re.findall(r"\b(?:pybcast|process)_\w+", text)
    }
    assert used <= exist
    assert {name for name in exist - used if not name.startswith("process_")} == set(), "none is left out"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len(dashboard["panels"])


def test_every_metric_of_the_document_exists() -> None:
    edge = dict.fromkeys((*edgeview.GAUGES, *edgeview.COUNTERS), 0) | {"lateness": [[20, 1], [0, 1]]}
    exist = names(watch().metrics().decode()) | {metric.name for metric in edgeview.metrics(edge)}
    told = set(re.findall(r"pybcast_\w+", (DOCS / "operating.md").read_text("utf-8")))
    assert told and told <= exist


def test_late_keys_and_strangers_are_counted() -> None:
    text = watch().metrics().decode()
    assert "pybcast_keys_late_total 1.0" in text and "pybcast_key_change_delay_seconds_count 2.0" in text
    assert "pybcast_inputs_waiting 3.0" in text and 'pybcast_unanswered_total{tag="7"} 1.0' in text
    tags = set(re.findall(r'pybcast_exchanges_total\{[^}]*tag="(\w*)"', text))
    assert tags == {"7", "other", ""}, "a stranger's tag makes no series of its own"


SPELLED: Final = {
    "servers/air.py": {"sender-lost", "carousel-lost"}, "outlets/media.py": set[str](),
    "servers/daemon.py": {"certificate-ends", "certificate-ended"}, "broadcast/link.py": set[str](),
    "flows/bsm/keychain.py": set[str](),
}  # fmt: skip
"""Files that put an alarm's code together, and what comes out; the outlets' own are given to ``Alarms.set``; the link carries
the edge's; those of a BSM's stream are given to ``KeyChain.alarm``."""


def alarm_codes() -> set[str]:
    """The code of every alarm that is raised somewhere in the package."""
    found: set[str] = set()
    package = Path(__file__).parents[2] / "pybcast"
    for path in package.rglob("*.py"):
        name = str(path.relative_to(package))
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call) and node.args):
            of = ast.unparse(call.func)
            told = of.endswith(("alarms.set", "alarms.set_once")) or (name.startswith("flows/bsm/") and of.endswith(".alarm"))
            if name.startswith("demo/") or not (of == "Alarm" or told):
                continue
            if isinstance(code := call.args[0], ast.Constant):
                found.add(str(code.value))
            elif not of.endswith(".alarm"):
                found |= SPELLED[name]
    return found


def test_each_alarm_has_a_line_in_the_handbook() -> None:
    text = (DOCS / "operating.md").read_text("utf-8").partition("\n## Alarms\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `([\w-]+)` \| (.+) \| (.+) \|$", text, re.MULTILINE)
    codes = [code for code, _, _ in lines]
    assert codes == sorted(set(codes)), "each once, in order"
    assert set(codes) == alarm_codes()
    assert all(means.endswith(".") and todo.endswith(".") for _, means, todo in lines)


def test_every_status_is_said_in_words() -> None:
    assert set(STATUS_WORDS) == set(Status)
    assert status_words(27, "KeyDelivery").startswith("another key has this id")
    assert status_words(27) == "what it would replace is in use (status 27)" and status_words(99) == "status 99"
    assert all(status_words(status).endswith(f" (status {int(status)})") for status in Status)


def test_every_command_of_the_document_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "operating.md").read_text("utf-8")
    commands = {
        tuple(words.split())
        for words in re.findall(r"`(?:pybcast )?((?:bsm|bsda) \w+ \w+|air \w+|status|check|metrics dashboard)\b", text)
    }
    assert len(commands) >= 10
    for command in commands:
        assert main([*command, "--help"]) == 0, command
        assert "Usage: pybcast" in capsys.readouterr().out


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: str(path.name))
def test_a_unit_is_hardened(unit: Path) -> None:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text("utf-8"))
    role, service = unit.stem.removeprefix("pybcast-"), parser["Service"]
    on_air = role.startswith("air-")
    wanted = (
        ["air", role.removeprefix("air-"), "/etc/pybcast/bsda.toml"] if on_air else [role, "serve", f"/etc/pybcast/{role}.toml"]
    )
    assert service["ExecStart"].split()[1:] == wanted
    assert {name: service[name] for name in ("NoNewPrivileges", "ProtectSystem", "Restart", "RestartPreventExitStatus")} == {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "Restart": "on-failure", "RestartPreventExitStatus": "2",
    }  # fmt: skip
    assert service["LimitCORE"] == "0" and service["UMask"] == "0077"
    assert service.get("LoadCredential", "").startswith("kek:") is not on_air, "what is on air holds no key"


@pytest.mark.requires_tool("systemd-analyze", package="systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: str(path.name))
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace("/opt/pybcast/bin/pybcast", shutil.which("true") or sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])
