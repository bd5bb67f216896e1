# SPDX-License-Identifier: Apache-2.0
"""Terminals that wait for STKMs at a BSM: how soon all have the next one, and what it costs.

``python benchmarks/bench_interaction.py --terminals 2000 --seconds 30`` prints JSON.  BSM and BSD/A are processes as in
``bench_servers``, one service of periods of 4 s; each terminal is a subscriber of his own with HTTP Digest and a TLS connection,
and always waits for the next STKM.  ``late_s``: from the moment at which it may go out (half a period before its own, R6) to a
terminal's having it.  Terminals run in this process: where there are two cores, it takes one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
from bench_servers import IDS, Benchmark, Server, _free_ports, _growth, _services, _sum, _toml

from pybcast.backend import pki
from pybcast.https.contexts import terminal_context
from pybcast.interaction import Digest, InteractionClient, InteractionError
from pybcast.keys import SRK
from pybcast.wire.times import NTP_UNIX

PERIOD: Final = 4
SERVICE: Final = "urn:example:service:0"
TOGETHER: Final = 50  # terminals that connect at a time
PER_ADDRESS: Final = 100
SHARES: Final = (("p50", 0.5), ("p99", 0.99), ("most", 1.0))


class Terminal(InteractionClient):
    """One of many on this machine: some share an address, not all."""

    address = "127.0.0.1"

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=self._context, limit=1, local_addr=(self.address, 0))


def _subscriber(n: int) -> tuple[str, SRK]:
    return f"dGVybWluYWw={n}@bsf.example.com", SRK(n.to_bytes(32, "big"))


def _import(folder: Path, count: int) -> None:
    lines = ["subscriber,smk,idr,srk,services"]
    for n in range(count):
        idr, srk = _subscriber(n)
        lines.append(f"terminal-{n},{os.urandom(32).hex()},{idr},{srk.reveal().hex()},{SERVICE}")
    file = folder / "terminals.csv"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    words = [sys.executable, "-m", "pybcast.cli", "bsm", "subscriber", "import", "bsm.toml", str(file), "--json"]
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)


async def _terminal(
    n: int, url: str, context: ssl.SSLContext, gate: asyncio.Semaphore, late: list[float], state: dict[str, int]
) -> None:
    idr, srk = _subscriber(n)
    client = Terminal(url, context=context, digest=Digest.of(idr, srk))
    client.address = f"127.0.{1 + n // PER_ADDRESS}.1"
    try:
        async with gate:
            found = await client.stkm(SERVICE, 1, "smartcard", wait=20)
        state["connected"] += 1
        while found is not None:
            after = found
            found = await client.stkm(SERVICE, 1, "smartcard", after=after.start, wait=20)
            if found is not None and state["measuring"]:
                late.append(time.time() + NTP_UNIX - (found.start - PERIOD / 2))
                state["gaps"] += found.start != after.end
    except InteractionError as error:
        state["errors"] += 1
        print(error, file=sys.stderr)
    finally:
        await client.close()


async def _run(folder: Path, port: int, terminals: int, seconds: float, bsm: Server) -> dict[str, Any]:
    context = terminal_context(folder / "ca.pem")
    state = {"connected": 0, "measuring": 0, "gaps": 0, "errors": 0}
    late: list[float] = []
    gate = asyncio.Semaphore(TOGETHER)
    begun = time.monotonic()
    tasks = [asyncio.create_task(_terminal(n, f"https://127.0.0.1:{port}", context, gate, late, state)) for n in range(terminals)]
    while state["connected"] + state["errors"] < terminals:
        await asyncio.sleep(0.1)
    connecting = time.monotonic() - begun
    before, used = await asyncio.to_thread(bsm.figures), bsm.processor()
    begun, own = time.monotonic(), time.process_time()
    state["measuring"] = 1
    await asyncio.sleep(seconds)
    state["measuring"] = 0
    took, own = time.monotonic() - begun, time.process_time() - own
    used = bsm.processor() - used
    figures = _growth(before, await asyncio.to_thread(bsm.figures))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    late.sort()
    return {
        "terminals": terminals, "seconds": round(took, 1), "connecting_s": round(connecting, 1), "fetched": len(late),
        "late_s": {name: round(late[int(share * (len(late) - 1))], 4) for name, share in SHARES} if late else None,
        "early": sum(1 for x in late if x < -0.001), "gaps": state["gaps"], "errors": state["errors"],
        "bsm_core_share": round(used / took, 3), "own_core_share": round(own / took, 3),
        "bsm_peak_mb": round(bsm.memory()), "inputs_of_the_machine": _sum(figures, "pybcast_input_seconds_count"),
    }  # fmt: skip


def measure(terminals: int, seconds: float) -> dict[str, Any]:
    """Run both servers and the terminals."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pki.init(folder, IDS)
        pki.init(folder / "terminals", {})
        (folder / "kek").write_text("5a" * 32)
        (folder / "kek").chmod(0o600)
        ports = dict(zip((*IDS, "bsm status", "bsda status", "terminals"), _free_ports(5), strict=True))
        services = _services(1, "bsm", "smartcard", PERIOD, 5, 1, int(time.time()) + NTP_UNIX - 60)
        for role in IDS:
            (folder / f"{role}.toml").write_text(_toml(role, ports, ports[f"{role} status"], services))
        with (folder / "bsm.toml").open("a") as more:
            more.write(
                f'\n[interaction]\nlisten = "127.0.0.1:{ports["terminals"]}"\ncertificate = "bsm.pem"\nkey = "bsm-key.pem"\n'
                'authority = "terminals/ca.pem"\n'
            )
        running = {role: Server(role, folder, ports[f"{role} status"]) for role in IDS}
        try:
            for one in running.values():
                one.ready()
            _import(folder, terminals)
            return asyncio.run(_run(folder, ports["terminals"], terminals, seconds, running["bsm"]))
        finally:
            for one in running.values():
                one.stop()


def bench_terminals_that_wait(benchmark: Benchmark) -> None:
    """A handful: the measuring itself works, each has every STKM and none too early."""
    found = benchmark.pedantic(measure, args=(10, 5.0), kwargs={}, rounds=1)
    assert found["errors"] == found["gaps"] == found["early"] == 0 and found["fetched"] >= 10, found
    benchmark.extra_info |= found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terminals", type=int, nargs="+", default=[500])
    parser.add_argument("--seconds", type=float, default=20.0)
    asked = parser.parse_args()
    for count in asked.terminals:
        print(json.dumps(measure(count, asked.seconds) | {"cores": os.cpu_count()}), flush=True)


if __name__ == "__main__":
    main()
