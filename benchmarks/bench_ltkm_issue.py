# SPDX-License-Identifier: Apache-2.0
"""LTKMs for everyone: what a new key costs a BSM with so many cards, from its making to all letters stored.

``python benchmarks/bench_ltkm_issue.py [--plot FILE] [SIZE ...]`` prints a line of JSON for each number of subscribers (10,000,
100,000 and 1,000,000 unless told).  A process of its own enrols them; another one issues the key, and is measured: the flow
machine, the C core and the store, as a server has them, on one core.

* ``seconds``: wall clock;  ``cpu_seconds``: of the process, the writing thread's too;  ``microseconds_each``: the latter for one
  subscriber;  ``peak_rss_mb``: the largest memory of that process;  ``longest_tick_ms``: what other work waits for at most;
With ``--deliver`` the two servers run as processes of their own, over mutual TLS: measured is from the start of the BSM until the
BSD/A has confirmed every letter, and what each of the two took.

* ``database_mb``: all that is on disk then, of which ``letters_mb`` are the letters;  ``enrol_seconds``: importing them before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.flows import BSM, Output, Persist, Right, StreamConfig, Subscriber
from pybcast.flows.bsm.members import Bundle
from pybcast.flows.journal import Journal
from pybcast.keys import KEK, SMK
from pybcast.messages import Protocol as TrafficProtocol
from pybcast.store import Database, SqliteStore, load_kek
from pybcast.store.database import LETTERS

SIZES: Final = (10_000, 100_000, 1_000_000)
CHUNK: Final = 1000
IN_FLIGHT: Final = 64
"""Inputs worked on whose outputs wait for the disk, as in a server."""
START: Final = 3_990_000_000
SERVICE: Final = "urn:example:service"
CONFIG: Final = StreamConfig(
    service=SERVICE, stream=1, profiles=("smartcard",), generation="bsda", bsm="urn:example:bsm", bsdas=("urn:example:bsda",),
    protocol=TrafficProtocol.SRTP, period=10, start=START, key_period=86_400, granularity=10, rollover_lead=3600,
    key_domain_id=b"\x12\xf4\x10", key_group=1, delivery="pull",
)  # fmt: skip


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    extra_info: dict[str, Any]

    def pedantic(self, target: Any, *, args: tuple[Any, ...] = (), rounds: int = 1) -> Any: ...


def kek_of(folder: Path) -> KEK:
    """The key-encryption key of the database there."""
    return load_kek(f"file:{folder}/bsm.kek") if (folder / "bsm.kek").exists() else KEK(bytes(range(32)))


class Server:
    """A BSM's memory and the writing of it, as a server has it."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "bsm.db", kek_of(folder), owner=CONFIG.bsm)
        self._waiting: deque[Future[None]] = deque()

    def carry_out(self, outputs: list[Output]) -> None:
        """Store what is to be stored, and wait where too much is on its way."""
        self._waiting.append(self.store.submit([output for output in outputs if isinstance(output, Persist)]))
        while len(self._waiting) > IN_FLIGHT or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()
        self.store.close()


def enrol(folder: Path, size: int) -> dict[str, float]:
    """So many subscribers with a right each; no key is there yet."""
    begun = time.perf_counter()
    server = Server(folder)
    members, journal = server.store.members(), Journal(server.store.load())
    members.bind(journal)
    right = Right(service=SERVICE, stream=1, start=START, end=START + 10**9)
    for begin in range(0, size, CHUNK):
        names = [f"subscriber-{n:07}" for n in range(begin, min(begin + CHUNK, size))]
        members.put([Subscriber(id=name, smk=SMK(os.urandom(32)), idr=f"{name}@bsf.example.com") for name in names])
        members.grant([(name, right) for name in names])
        server.carry_out(journal.take())
    server.close()
    return {"enrol_seconds": round(time.perf_counter() - begun, 2)}


def peak_rss_mb(process: int | str = "self") -> float:
    """ru_maxrss would count our parent's."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text("ascii"))
    return int(found[1]) / 1024 if found else float("nan")


def issue(folder: Path, size: int) -> dict[str, float]:
    """The first key, to everyone."""
    server = Server(folder)
    wall, cpu, longest, ticks = time.perf_counter(), time.process_time(), 0.0, 0
    machine = BSM(
        me=CONFIG.bsm, fqdn="bsm.example.com", streams=[CONFIG], randomness=os.urandom, state=server.store.load(),
        members=server.store.members(),
    )  # fmt: skip
    now = float(START)
    while not ticks or machine.issuing():
        begun = time.thread_time()
        now = max(now, machine.next_wakeup() or now)  # a server has its pauses; here they are not waited for
        outputs = machine.tick(now)
        longest = max(longest, time.thread_time() - begun)
        ticks += 1
        server.carry_out(outputs)
    server.close()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "microseconds_each": round(cpu_seconds / size * 1e6, 2),
        "peak_rss_mb": round(peak_rss_mb(), 1), "longest_tick_ms": round(longest * 1e3, 1), "ticks": ticks,
    }  # fmt: skip


PHASES: Final = {"enrol": enrol, "issue": issue}


def measure(size: int, parent: Path | None = None) -> dict[str, float]:
    """Both phases, each in a process of its own, on one core; and that everyone has exactly one LTKM."""
    found: dict[str, float] = {"subscribers": size}
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        for phase in PHASES:
            argv = [sys.executable, __file__, "--phase", phase, "--folder", name, str(size)]
            found |= json.loads(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)
        found["database_mb"] = round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1)
        with contextlib.closing(Database(folder / "bsm.db", KEK(bytes(range(32))), readonly=True)) as reader:
            bundles = [row for _, row in reader.rows(LETTERS) if isinstance(row, Bundle)]
            names = [name for bundle in bundles for name in bundle.names]
            assert len(names) == len(set(names)) == size
            assert reader.query("SELECT count(*), min(counter), max(counter) FROM counter") == [(size, 1, 1)]
            found["letters_mb"] = round(sum(len(bundle.data) for bundle in bundles) / 1e6, 1)
    return found


SERVICES: Final = f"""[[services]]
id = "{SERVICE}"
profiles = ["smartcard"]
generation = "bsm"
period = 10
key_period = 86400
rollover_lead = 3600
key_domain_id = "12f410"
key_group = 1
"""


def cpu_seconds(process: int) -> float:
    """What a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def deliver(size: int, parent: Path | None = None) -> dict[str, float]:
    """Issue and delivery between two servers."""
    found: dict[str, float] = {"subscribers": size}
    with tempfile.TemporaryDirectory(dir=parent) as name, contextlib.ExitStack() as stack:
        folder = Path(name) / "servers"
        pybcast = [sys.executable, "-m", "pybcast.cli"]
        subprocess.run([*pybcast, "init", str(folder)], check=True, capture_output=True)
        for role in ("bsm", "bsda"):
            config = folder / f"{role}.toml"
            lines = config.read_text("utf-8").partition("[[services]]")[0].splitlines(keepends=True)
            kept = [line for line in lines if not line.startswith(("sender =", "carousel ="))]  # nobody sends here
            config.write_text("".join(kept) + SERVICES, "utf-8")
        found |= enrol(folder, size)
        processes = {}
        begun = time.perf_counter()
        for role in ("bsda", "bsm"):
            process = subprocess.Popen([*pybcast, role, "serve", f"{role}.toml"], cwd=folder, stderr=subprocess.DEVNULL)
            processes[role] = process
            stack.callback(process.wait)
            stack.callback(process.terminate)
        while True:
            time.sleep(0.25)
            if any(process.poll() is not None for process in processes.values()):
                raise RuntimeError("a server has ended")
            with contextlib.closing(Database(folder / "bsm.db", None, readonly=True)) as reader:
                if reader.query("SELECT sum(letters) FROM issued WHERE confirmed = 1") == [(size,)]:
                    break
        found["seconds"] = round(time.perf_counter() - begun, 2)
        for role, process in processes.items():
            found[f"{role}_cpu_seconds"] = round(cpu_seconds(process.pid), 2)
            found[f"{role}_peak_rss_mb"] = round(peak_rss_mb(process.pid), 1)
    return found


def bench_ltkm_issue(benchmark: Benchmark, tmp_path: Path) -> None:
    size = int(os.environ.get("PYBCAST_BENCH_SUBSCRIBERS", "10000"))
    benchmark.extra_info |= benchmark.pedantic(measure, args=(size, tmp_path), rounds=1)


def plot(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Cost of one subscriber against their number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [row["subscribers"] for row in rows]
    axes.plot(sizes, [row["microseconds_each"] for row in rows], marker="o", label="CPU, all threads")
    axes.plot(sizes, [row["seconds"] / row["subscribers"] * 1e6 for row in rows], marker="s", label="wall clock")
    axes.set(xscale="log", xlabel="subscribers", ylabel="microseconds for each LTKM, stored", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", metavar="SIZE", nargs="*", type=int)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--deliver", action="store_true", help="to a BSD/A, too")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where the databases lie meanwhile")
    asked = parser.parse_args()
    if asked.phase:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if asked.phase == "issue" else os.sched_getaffinity(0))
        print(json.dumps(PHASES[asked.phase](asked.folder, asked.sizes[0])))
        return
    rows = []
    for size in asked.sizes or SIZES:
        rows.append((deliver if asked.deliver else measure)(size, asked.folder))
        print(json.dumps(rows[-1]), flush=True)
    if asked.plot is not None and not asked.deliver:
        plot(rows, asked.plot)


if __name__ == "__main__":
    main()
