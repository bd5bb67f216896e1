# SPDX-License-Identifier: Apache-2.0
"""The README's way from nothing to two servers, as it stands there; only the ports are free ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from servers_support import free_ports

from pybcast.cli import main
from pybcast.servers.example import PORTS

README: Final = Path(__file__).parents[2] / "README.md"
SHELL: Final = """set -u
trap 'kill $(jobs -p); wait' EXIT
{commands}
"""


def test_ten_commands(tmp_path: Path) -> None:
    block = next(b for b in re.findall(r"```sh\n(.*?)```", README.read_text("utf-8"), re.S) if "pybcast init" in b)
    commands = [line for line in block.splitlines() if line]
    assert len(commands) <= 10
    assert commands.pop(0).startswith("pip install"), "it is installed here"
    ports = {old: new for pair, new_pair in zip(PORTS.values(), [free_ports(2), free_ports(2)], strict=True)
             for old, new in zip(pair, new_pair, strict=True)}  # fmt: skip
    edit = "sed -i " + " ".join(f"-e s/127.0.0.1:{old}/127.0.0.1:{new}/" for old, new in ports.items()) + " try/*.toml"
    commands[1:1] = [edit]
    program = tmp_path / "bin" / "pybcast"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pybcast.cli "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", SHELL.format(commands="\n".join(commands))],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert not done.stderr, done.stdout + done.stderr
    assert "bsm.toml: good: bsm urn:example:bsm, 2 services" in done.stdout
    assert "subscriber alice, profile smartcard, rights 2" in done.stdout
    assert "green bsm urn:example:bsm" in done.stdout and "green bsda urn:example:bsda" in done.stdout
    assert '{"event": "' in done.stdout
    assert "stopped" in (tmp_path / "try" / "bsm.log").read_text()


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
