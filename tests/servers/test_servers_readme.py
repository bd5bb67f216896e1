# SPDX-License-Identifier: Apache-2.0
"""The README's way from nothing to a terminal's traffic keys, as it stands there; only the ports are free ones, and the group."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from servers_support import free_ports

from pybcast.cli import main
from pybcast.demo.chain import _udp_ports
from pybcast.servers.credentials import load as load_credentials
from pybcast.servers.example import FLUTE_PORT, GROUP, INTERACTION_PORT, LTKM_PORT, PORTS, SERVICES, STKM_PORTS, SUBSCRIBERS

README: Final = Path(__file__).parents[2] / "README.md"
SHELL: Final = """set -u
trap 'kill $(jobs -p); wait' EXIT
{commands}
"""


def others() -> dict[str, str]:
    """Addresses of the README and of `pybcast init`, and those of this test."""
    local = [port for pair in PORTS.values() for port in pair] + [INTERACTION_PORT]
    found = {f"127.0.0.1:{old}": f"127.0.0.1:{new}" for old, new in zip(local, free_ports(len(local)), strict=True)}
    group = f"239.255.{secrets.randbelow(200) + 20}.1"
    with contextlib.ExitStack() as held:
        ltkm, flute, news, _, sport, _ = _udp_ports(held, 6)
    on_air = {LTKM_PORT: ltkm, FLUTE_PORT: flute, STKM_PORTS[0]: news, STKM_PORTS[1]: sport}
    return found | {f"{GROUP}:{old}": f"{group}:{new}" for old, new in on_air.items()}


def test_from_nothing_to_keys(tmp_path: Path) -> None:
    block = next(b for b in re.findall(r"```sh\n(.*?)```", README.read_text("utf-8"), re.S) if "pybcast init" in b)
    addresses = others()
    for old, new in addresses.items():
        block = block.replace(old, new)
    commands = [line for line in block.splitlines() if line]
    assert len(commands) <= 14
    assert commands.pop(0).startswith("pip install"), "it is installed here"
    edit = "sed -i " + " ".join(f"-e s/{old}/{new}/" for old, new in addresses.items()) + " try/*.toml"
    commands[1:1] = [edit]
    commands = [f"echo; echo TERMINAL; {line}" if " pybcast terminal " in line else line for line in commands]
    program = tmp_path / "bin" / "pybcast"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pybcast.cli "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", SHELL.format(commands="\n".join(commands))],
        cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert not done.stderr, done.stdout + done.stderr
    assert "bsm.toml: good: bsm urn:example:bsm, 2 services" in done.stdout
    assert "green bsm urn:example:bsm" in done.stdout and "red" not in re.findall(r"^\w+", done.stdout, re.M), done.stdout
    assert "added 2, changed 0, unchanged 0, refused 0" in done.stdout
    said = done.stdout.split("\nTERMINAL\n")[1:]
    assert len(said) == len(SUBSCRIBERS)
    for lines in said:
        events = [json.loads(line) for line in lines.splitlines()]
        keys = {(event["service"], event["mki"]) for event in events if event["event"] == "TekReady"}
        assert {service for service, _ in keys} == set(SERVICES), done.stdout
        assert len(keys) > len(SERVICES), "they change"
    for name in ("bsm", "bsda", "stkm", "carousel"):
        assert "stopped" in (tmp_path / "try" / f"{name}.log").read_text()


def test_what_init_makes_fits_together(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "new")]) == 0
    folder = tmp_path / "new" / "terminals"
    found = {name: load_credentials(folder / f"{name}.toml") for name, _ in SUBSCRIBERS}
    assert {name: credentials.profile for name, credentials in found.items()} == dict(SUBSCRIBERS)
    for credentials in found.values():
        assert credentials.context().verify_mode.name == "CERT_REQUIRED"
    with (folder / "subscribers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subscriber"], row["services"]) for row in rows] == [(name, " ".join(SERVICES)) for name, _ in SUBSCRIBERS]
    text = (tmp_path / "new" / "bsm.toml").read_text("utf-8")
    issuer = re.search(r'rights_issuer_id = "(\w{40})"', text)
    assert issuer is not None and bytes.fromhex(issuer[1]) in bytes.fromhex(rows[1]["registration"]), "who signs it"


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "new")]) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "new").rglob("*.*")}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert main(["init", str(tmp_path / "new")]) == 2
    assert main(["pki", "init", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("exists already") == 2
    assert {path: path.read_bytes() for path in (tmp_path / "new").rglob("*.*")} == files
    assert main(["pki", "init", str(tmp_path / "more"), "--party", "third=urn:example:third"]) == 0
    assert (tmp_path / "more" / "third.pem").exists()
    assert main(["pki", "init", str(tmp_path / "more"), "--party", "nonsense"]) == 2
    for role in PORTS:
        assert main(["check", str(tmp_path / "new" / f"{role}.toml"), "--json"]) == 0
