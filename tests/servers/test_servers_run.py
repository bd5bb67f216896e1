# SPDX-License-Identifier: Apache-2.0
"""Both servers as processes on loopback, mutual TLS and SQLite: F1-F6, operator's commands, reload, stop, and no key anywhere."""

from __future__ import annotations

import base64
import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from servers_support import System, _service

from pybcast.servers import control

Events = list[dict[str, Any]]
LETTERS: Final = "ABCD"
FLOWS: Final = {
    ("F1", None, "urn:x-bcast:all"),
    *(("F2", None, f"urn:example:service:{letter}") for letter in LETTERS),
    *((flow, profile, f"urn:example:service:{letter}")
      for flow, letters in (("F3", "AC"), ("F4", "BD"), ("F5", "AC"), ("F6", "BD"))
      for profile in ("drm", "smartcard") for letter in letters),
}  # fmt: skip
"""Every flow, of both profiles where it has one; A and B are pushed, C and D pulled."""


def _flows(events: Events) -> set[tuple[str, str | None, str]]:
    return {(e["flow"], e["profile"], e["service"]) for e in events if e.get("event") == "flow"}


def _in_use(events: Events) -> set[str]:
    return {e["service"][-1] for e in events if e.get("event") == "UseKey"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("servers"))
    made.start("bsm", "bsda")
    yield made
    made.close()


@pytest.fixture(scope="module")
def subscribed(system: System) -> System:
    services = [word for letter in LETTERS for word in ("--service", f"urn:example:service:{letter}")]
    for name, profile in (("alice", "smartcard"), ("dora", "drm")):
        status, _, err = system.command("bsm", "subscriber", "add", "bsm.toml", name, "--random", "--profile", profile, *services)
        assert status == 0, err
    return system


def test_every_flow_runs_between_the_two(subscribed: System) -> None:
    bsm, bsda = subscribed.running["bsm"], subscribed.running["bsda"]
    seen = bsda.wait(lambda seen: _in_use(seen) == set(LETTERS), "key in use for each service")
    assert all(e["tek_octets"] == 16 and e["salt_octets"] == 14 for e in seen if e.get("event") == "UseKey")
    bsm.wait(lambda seen: _flows(seen) >= FLOWS, "all flows")
    assert {e["object"] for e in bsda.events if e.get("event") == "CarouselPut"}
    assert subscribed.secrets()


def test_figures_and_health(subscribed: System) -> None:
    subscribed.secrets()  # traffic keys come and go: each look finds others
    for process in subscribed.running.values():
        base = f"http://127.0.0.1:{process.ready()['status_port']}"
        with urllib.request.urlopen(f"{base}/healthz") as answer:
            assert answer.status == 200 and json.load(answer)["status"] == "ok"
        with urllib.request.urlopen(f"{base}/metrics") as answer:
            text = answer.read().decode()
        for name in ("pybcast_flows_total{flow=", "pybcast_exchanges_total{", "pybcast_store_seconds_count", "pybcast_key_held{"):
            assert name in text, text


def test_a_watch_sees_the_ids_of_the_keys_in_use(subscribed: System) -> None:
    secrets = subscribed.secrets()
    subscribed.running["bsda"].wait(lambda seen: _in_use(seen) == set(LETTERS), "key in use for each service")
    bsm, bsda = subscribed.shown("watch", "bsm.toml", "bsda.toml", "--once")
    used = {key["service"][-1]: key for key in bsda["keys"] if key["state"] in ("in use", "held")}
    assert set(used) == set(LETTERS)
    for key in used.values():
        assert key["traffic_id"] == key["smartcard"]["sek_id"] + key["smartcard"]["tek_id"], "R38"
        names = {(k["key_type"], k["key_id"]) for k in bsm["keys"] if k["service"] == key["service"] and k["state"] != "ended"}
        assert ("SEK", key["smartcard"]["key_domain_id"] + key["smartcard"]["sek_id"]) in names
        assert ("SEAK", key["drm"]["service_CID_extension"]) in names
    said = json.dumps([bsm, bsda])
    assert not any(secret.hex() in said for secret in secrets)
    (one,) = subscribed.shown("watch", "bsda.toml", "--once", "--service", "urn:example:service:B")
    assert {key["service"] for key in one["keys"]} == {row["service"] for row in one["services"]} == {"urn:example:service:B"}
    assert all(word in subscribed.command("watch", "--once", "bsda.toml")[1] for word in ("SEK 12f410 ", "CID extension service "))


def test_an_operator_sees_and_changes(subscribed: System) -> None:
    subscribed.secrets()
    shown = subscribed.shown("status", "bsm.toml", "bsda.toml")
    assert [(s["role"], len(s["services"])) for s in shown] == [("bsm", 4), ("bsda", 4)]
    assert [p["light"] for s in shown for p in s["peers"]] == ["green", "green"]
    assert {s["service"][-1]: (s["stream"], s["held"]) for s in shown[1]["services"]} == dict.fromkeys(LETTERS, (1, False))
    assert "urn:example:service:A" in subscribed.command("status", "bsda.toml")[1]

    def rights() -> list[tuple[str, str, int]]:
        people = subscribed.shown("bsm", "subscriber", "list", "bsm.toml")
        return [(p["subscriber"], p["profile"], len(p["rights"])) for p in people]

    assert rights() == [("alice", "smartcard", 4), ("dora", "drm", 4)]
    subscribed.shown("bsm", "subscriber", "withdraw", "bsm.toml", "alice", "urn:example:service:A")
    assert rights() == [("alice", "smartcard", 3), ("dora", "drm", 4)]
    subscribed.shown("bsm", "subscriber", "grant", "bsm.toml", "alice", "urn:example:service:A", "--days", "1")
    assert rights() == [("alice", "smartcard", 4), ("dora", "drm", 4)]
    keys = subscribed.shown("bsm", "key", "list", "bsm.toml")
    assert {(k["service"][-1], k["key_type"]) for k in keys} == {(letter, kind) for letter in LETTERS for kind in ("SEK", "SEAK")}
    assert subscribed.shown("bsm", "key", "rekey", "bsm.toml", "urn:example:service:A")
    assert [s["generation"] for s in subscribed.shown("bsm", "service", "list", "bsm.toml")] == ["bsm", "bsda", "bsm", "bsda"]
    for words, why in (
        (["key", "rekey", "bsm.toml", "urn:nobody"], "no such service"),
        (["subscriber", "grant", "bsm.toml", "eve", "urn:nobody"], "no such service"),
        (["subscriber", "grant", "bsm.toml", "eve", "urn:example:service:A"], "no subscriber eve"),
        (["subscriber", "add", "bsm.toml", "eve"], "one of them"),
    ):
        status, _, err = subscribed.command("bsm", *words)
        assert status == 2 and why in err
    assert (subscribed.folder / "bsm.sock").stat().st_mode & 0o777 == 0o600
    drm, card = control.ask(subscribed.folder / "bsda.sock", "sdp", service="urn:example:service:B")
    assert (drm["stream"], drm["profile"], [len(value) for value in drm["srvCIDExt"]]) == (1, "drm", [8] * len(drm["srvCIDExt"]))
    assert drm["srvCIDExt"] and (card["profile"], card["srvKEYList"]) == ("smartcard", ["12f4100002"]), "R37"


def test_a_subscriber_is_imported(subscribed: System) -> None:
    file = subscribed.folder / "carl.json"
    file.write_text(json.dumps({"smk": "5a" * 32, "idr": "Y2FybA==@bsf.example.com", "registration": "4001"}))
    assert subscribed.shown("bsm", "subscriber", "add", "bsm.toml", "carl", "--keys", str(file)) == [
        {"subscriber": "carl", "profile": "smartcard", "rights": 0}
    ]
    file.write_text(json.dumps({"smk": "5a" * 31}))
    status, out, err = subscribed.command("bsm", "subscriber", "add", "bsm.toml", "carl", "--keys", str(file))
    assert status == 2 and "smk: expected 64 hexadecimal digits" in err and "5a5a" not in out + err


def test_a_server_that_cannot_start_says_why(subscribed: System) -> None:
    status, log = subscribed.refused("bsm", "bsm.toml")
    assert status == 2 and "in use by process" in log


def test_a_service_is_added_while_they_run(subscribed: System) -> None:
    for role, process in subscribed.running.items():
        path = subscribed.folder / f"{role}.toml"
        good = path.read_text()
        path.write_text(good.replace("look_ahead = 3", "look_ahead = 0", 1))
        process.process.send_signal(signal.SIGHUP)
        process.wait(lambda seen: any(e.get("event") == "not-reloaded" and "look_ahead" in e["why"] for e in seen), "refusal")
        path.write_text(good + _service("E", 5, "bsm", "push"))
        process.process.send_signal(signal.SIGHUP)
        process.wait(lambda seen: any(e.get("event") == "reloaded" and e["services"] == 5 for e in seen), "reload")
    bsda = subscribed.running["bsda"]
    subscribed.secrets()
    bsda.wait(lambda seen: "E" in _in_use(seen), "key in use for the new service")
    mark = len(bsda.events)
    bsda.wait(lambda seen: _in_use(seen[mark:]) == set("ABCDE"), "next key of every service")
    subscribed.secrets()


def test_no_key_is_anywhere_and_they_stop_cleanly(subscribed: System) -> None:
    secrets = subscribed.secrets()
    assert len(secrets) > 50
    command_lines = [Path(f"/proc/{p.process.pid}/cmdline").read_bytes() for p in subscribed.running.values()]
    assert all(b"serve" in line for line in command_lines)
    files = {path.name: path.read_bytes() for path in subscribed.folder.glob("*.db*")}  # with the log, before it is folded in
    assert {"bsm.db", "bsda.db", "bsm.db-wal", "bsda.db-wal"} <= files.keys()
    assert subscribed.stop() == {"bsm": 0, "bsda": 0}
    files |= {f"{path.name} at the end": path.read_bytes() for path in subscribed.folder.glob("*.db*")}
    logs = {process.role: b"".join(process.raw) for process in subscribed.past}
    assert not any(b"not JSON" in line or b"Traceback" in line for log in logs.values() for line in log.splitlines())
    for place, data in [*files.items(), *logs.items(), *enumerate(command_lines)]:
        lower = data.lower()
        for key in secrets:
            assert key not in data and key.hex().encode() not in lower, place
            # In any of the three alignments base64 has; the characters that depend on what stands around are left out.
            for shift in range(3):
                text = base64.b64encode(bytes(shift) + key)[(8 * shift + 5) // 6 : (8 * (shift + len(key))) // 6]
                assert text not in data, place
    for process in subscribed.past:
        assert all(e.get("event") != "not JSON" for e in process.events), process.tail()
        assert any(e.get("event") == "stopped" for e in process.events)


def test_the_search_would_find_one(subscribed: System) -> None:
    key = next(iter(subscribed.secrets()))
    for shift in range(3):
        around = base64.b64encode(b"xyz"[:shift] + key + b"tail")
        assert base64.b64encode(bytes(shift) + key)[(8 * shift + 5) // 6 : (8 * (shift + len(key))) // 6] in around
