# SPDX-License-Identifier: Apache-2.0
"""Upgrade and downgrade as the handbook says it, and what it says of disk, ports and logs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from handbook import HANDBOOK, Operator, procedure
from servers_support import System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    for name in ("old", "new"):
        (tmp_path / "opt" / f"pybcast-{name}").mkdir(parents=True)
    (tmp_path / "opt" / "pybcast").symlink_to(tmp_path / "opt" / "pybcast-old")
    (tmp_path / "backups" / "pybcast").mkdir(parents=True, mode=0o700)
    for role in ("bsm", "bsda"):
        shutil.copy(tmp_path / "kek", tmp_path / f"{role}.kek")
    yield made
    made.close()


@pytest.mark.parametrize("role", ["bsm", "bsda"])
def test_the_way_up_and_the_way_back(system: System, role: str) -> None:
    """A program that knows the next version of the tables is one that writes the next number into them."""
    system.start("bsm", "bsda")
    upgrade, back = procedure("Upgrade and downgrade")
    operator, link, database = Operator(system), system.folder / "opt" / "pybcast", system.folder / f"{role}.db"
    for line in upgrade:
        operator.types(line, role)
        if line.startswith("ln "):
            assert link.resolve().name == "pybcast-new"
    assert re.search(r"^(green|yellow) ", operator.said, re.MULTILINE)
    operator.types("systemctl stop pybcast-bsm", role)
    with contextlib.closing(sqlite3.connect(database)) as newer:
        ((version,),) = newer.execute("PRAGMA user_version")
        newer.execute(f"PRAGMA user_version = {version + 1}")
    before = database.read_bytes()
    status, log = system.refused(role, f"{role}.toml")
    assert status == 2 and "use a newer pybcast" in log and database.read_bytes() == before
    assert back[0].startswith("systemctl stop")
    for line in back[1:]:  # it is stopped
        operator.types(line, role)
    assert link.resolve().name == "pybcast-old" and re.search(r"^(green|yellow) ", operator.said, re.MULTILINE)


def test_ports_are_found_by_the_command_of_the_handbook() -> None:
    (block,) = procedure("Disk, ports and logs")
    (line,) = block
    if shutil.which("ss") is None:
        pytest.skip("ss is not installed (iproute2)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = line.replace("8443", str(taken.getsockname()[1]))
        done = subprocess.run(words, shell=True, capture_output=True, text=True, check=True, timeout=30)
    assert f"pid={os.getpid()}" in done.stdout


def test_a_log_in_a_file_may_be_truncated(system: System) -> None:
    """``copytruncate``: what comes after goes to the beginning of the file, not behind a hole."""
    path = system.folder / "log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pybcast.cli", "bsm", "serve", "bsm.toml"],
            cwd=system.folder,
            stderr=log,
            stdout=subprocess.DEVNULL,
        )
    try:
        _until(process, lambda: b'"ready"' in path.read_bytes())
        os.truncate(path, 0)
        process.send_signal(signal.SIGHUP)
        _until(process, lambda: b'"reloaded"' in path.read_bytes())
        assert path.read_bytes().startswith(b"{") and b"\0" not in path.read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _until(process: subprocess.Popen[bytes], there: object) -> None:
    assert callable(there)
    while not there():
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ended with {process.wait(0.05)}")


def test_what_the_handbook_says_of_figures() -> None:
    text = HANDBOOK.read_text("utf-8")
    from pybcast.servers.air import EVENTS_LIMIT
    from pybcast.servers.tables import AirTable
    from pybcast.store.database import LOG_KEPT
    from pybcast.store.witness import _SLOTS, SLOT

    assert f"than `events_size` MiB ({AirTable().events_size})" in text and AirTable().events_size << 20 == EVENTS_LIMIT
    assert f"the newest {LOG_KEPT:,} messages" in text and f"The witness is {SLOT * _SLOTS >> 10} KiB" in text
