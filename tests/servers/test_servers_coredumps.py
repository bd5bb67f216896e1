# SPDX-License-Identifier: Apache-2.0
"""Processes that hold keys leave no core dump when they crash, whatever the system is set to."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from pybcast.demo.chain import Chain, Service, Viewer
from pybcast.demo.keyside import ntp_now
from pybcast.outlets.udp import Pair

LIMIT: Final = 60.0  # seconds until a test gives up
LOOK: Final = 0.02
SERVICE: Final = Service(name="N", number=7, period=1, key_period=12, rollover_lead=8, look_ahead=3)
VIEWER: Final = Viewer("alice", "smartcard")
TRACER: Final = int(re.search(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())[1], 16) >> 19 & 1  # type: ignore[index]
"""Whether we may look into every process (CAP_SYS_PTRACE), undumpable ones too."""
_, HARD = resource.getrlimit(resource.RLIMIT_CORE)

pytestmark = pytest.mark.skipif(HARD == 0, reason="this system allows no core dumps in the first place")


@pytest.fixture(scope="module", autouse=True)
def allowed() -> Iterator[None]:
    """The tests' children begin with core dumps switched on."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def core_limit(pid: int) -> str:
    """The soft and the hard limit of a process."""
    (line,) = (row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if row.startswith("Max core file size"))
    return " ".join(line.split()[4:6])


def until_off(pid: int) -> None:
    deadline = time.monotonic() + LIMIT
    while core_limit(pid) != "0 0":
        assert time.monotonic() < deadline, core_limit(pid)
        time.sleep(LOOK)  # a process that begins says nothing that could be waited for


def readable(pid: int) -> bool:
    """Whether another process of its user may read its memory: not if it is undumpable."""
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except PermissionError:
        return False


def dumped(pid: int) -> bool:
    """Let a child of ours crash, its limit taken off where we may do that: did it leave a core dump?"""
    with contextlib.suppress(PermissionError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.kill(pid, signal.SIGSEGV)
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None and found.si_status == signal.SIGSEGV
    return found.si_code == os.CLD_DUMPED


def ear_of(pid: int) -> int:
    """The process by which a terminal hears STKMs."""
    deadline = time.monotonic() + LIMIT
    while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(LOOK)
    return int(found[0])


def holds_nothing_for_others(pid: int) -> None:
    until_off(pid)
    assert TRACER or not readable(pid)


def cores(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith("core")]


def start(words: Sequence[object], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def test_another_program_leaves_one(tmp_path: Path) -> None:
    """Or the tests below show nothing, as where cores go to a collector that is not there."""
    process = start(["-c", "import time; print(flush=True); time.sleep(60)"], tmp_path)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert core_limit(process.pid) != "0 0" and readable(process.pid)
        if not dumped(process.pid):
            pytest.skip("this system writes no core dumps")
    finally:
        end(process)


def test_servers_senders_and_terminals(tmp_path: Path) -> None:
    with Chain(tmp_path, [SERVICE], [VIEWER], ntp_now()) as chain:
        chain.describe()
        terminal = start(["-m", "pybcast.cli", "terminal", "alice.toml", "N.sdp", "--via", "broadcast"], tmp_path)
        try:
            holds_nothing_for_others(ear_of(terminal.pid))
            assert set(chain.processes) == {"bsm", "bsda", "stkm", "carousel"}
            for name, process in {"terminal": terminal, **chain.processes}.items():
                holds_nothing_for_others(process.pid)
                assert not dumped(process.pid), name
                process.wait()
        finally:
            end(terminal)
    assert cores(tmp_path) == []


@pytest.mark.parametrize("command", ["protect", "relay", "xfrm"])
def test_outlets(command: str, tmp_path: Path) -> None:
    pair = Pair.bind()
    port = pair.port
    pair.close()
    where: list[object] = ["--from", f"127.0.0.1:{port}", "--to", "127.0.0.1:9"] if command != "xfrm" else ["--to", "127.0.0.1:9"]
    process = start(["-m", "pybcast.cli", command, "--keys", tmp_path / "keys", "--service", "urn:x", *where], tmp_path)
    try:
        holds_nothing_for_others(process.pid)
        assert not dumped(process.pid)
    finally:
        end(process)
    assert cores(tmp_path) == []
