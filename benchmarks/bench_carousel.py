# SPDX-License-Identifier: Apache-2.0
"""What the carousel costs: encoding of objects, a datagram on its way out, and what a terminal pays for each that it hears.

``python benchmarks/bench_carousel.py --messages 100000 --cycle 10`` runs the process with a BSD/A beside it and prints JSON:
seconds until everything turned, share of a core, memory, datagrams a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.broadcast.carousel import Carousel, Settings
from pybcast.broadcast.link import ask
from pybcast.broadcast.linkclient import ObjectClient
from pybcast.broadcast.receiver import Sessions
from pybcast.broadcast.segments import Encoder
from pybcast.broadcast.turn import Wheels
from pybcast.flows.events import CarouselPut

SOURCE: Final = ("127.0.0.1", 1)
PAGE: Final = 1_000  # LTKMs of one delivery (R30)
OCTETS: Final = 240  # of an LTKM
TICK: Final = os.sysconf("SC_CLK_TCK")


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    extra_info: dict[str, Any]

    def __call__(self, target: Callable[..., Any], *args: Any) -> Any: ...


def _page(number: int) -> tuple[bytes, ...]:
    rng = random.Random(number)
    return tuple(b"\x01" + rng.randbytes(OCTETS - 1) for _ in range(PAGE))


def bench_encode_a_page(benchmark: Benchmark) -> None:
    """A thousand LTKMs become datagrams with repair symbols."""
    encoder, page = Encoder(1), _page(1)
    benchmark.extra_info["datagrams"] = len(benchmark(encoder.encode, "page", 1, page))


def bench_receive_a_page(benchmark: Benchmark) -> None:
    """A terminal that has just tuned in."""
    page = _page(1)
    datagrams, now = Encoder(1).encode("page", 1, page), time.time()

    def receive() -> int:
        sessions = Sessions(1)
        return sum(len(sessions.push(datagram, SOURCE, now)) for datagram in datagrams)

    assert benchmark(receive) == PAGE
    benchmark.extra_info["datagrams"] = len(datagrams)


def bench_receive_a_page_after_losses(benchmark: Benchmark) -> None:
    """Its objects are mended: a tenth is missing, two turns are heard."""
    page, rng = _page(1), random.Random(2)
    datagrams, now = Encoder(1).encode("page", 1, page), time.time()
    heard = [d for _ in range(2) for d in datagrams if rng.random() >= 0.1]

    def receive() -> int:
        sessions = Sessions(1)
        return sum(len(sessions.push(datagram, SOURCE, now)) for datagram in heard)

    assert benchmark(receive) == PAGE


def bench_what_is_heard_again(benchmark: Benchmark) -> None:
    """A turn of a page that the terminal has."""
    datagrams, now = Encoder(1).encode("page", 1, _page(1)), time.time()
    sessions = Sessions(1)
    for datagram in datagrams:
        sessions.push(datagram, SOURCE, now)

    def receive() -> None:
        for datagram in datagrams:
            sessions.push(datagram, SOURCE, now)

    benchmark(receive)


def bench_turn(benchmark: Benchmark) -> None:
    """Ten thousand datagrams fall due."""
    wheels = Wheels(1e9)
    wheels.put("page", 1.0, [bytes(OCTETS)] * 10_000, 0.0)
    clock = [0.0]

    def turn() -> int:
        sent = 0
        while sent < 10_000:
            clock[0] += 0.001
            sent += len(wheels.take(clock[0]))
        return sent

    assert benchmark(turn) >= 10_000


# --- the process ------------------------------------------------------------------------------------------------------------


async def _measure(messages: int, cycle: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "carousel.sock"
        program = [sys.executable, __file__, "--serve", str(path), "--cycle", str(cycle)]
        process = subprocess.Popen(program)
        try:
            pages = [CarouselPut(f"page{n}", "urn:news", _page(n)) for n in range(messages // PAGE)]
            client = ObjectClient(path, me="urn:bsda")
            began = time.monotonic()
            for page in pages:
                client.put(page)
            task = asyncio.create_task(client.run())
            while (state := await _state(path)).get("messages") != messages:
                await asyncio.sleep(0.05)
            taken = time.monotonic() - began
            used, since, before = _used(process.pid), time.monotonic(), state
            await asyncio.sleep(seconds)
            passed = time.monotonic() - since
            core = (_used(process.pid) - used) / passed
            state = await _state(path)
            task.cancel()
            rates = {name: round((state[name]["sent"] - before[name]["sent"]) / passed) for name in ("push", "flute")}
            return {
                "messages": messages, "cycle": cycle, "seconds_until_all_turned": round(taken, 2), "core": round(core, 3),
                "memory_mb": _memory(process.pid), "datagrams_per_second": rates, "flute_octets": state["flute"]["octets"],
                "push_octets": state["push"]["octets"], "errors": state["errors"],
            }  # fmt: skip
        finally:
            process.terminate()
            process.wait()


async def _state(path: Path) -> dict[str, Any]:
    try:
        return await asyncio.to_thread(ask, path)
    except OSError:
        return {}


def _used(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICK


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--cycle", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        Carousel(
            Settings(
                path=given.serve,
                ltkm=("127.0.0.1", 24_359),
                flute=("127.0.0.1", 24_001),
                rate=1e9,
                cycles={"urn:news": given.cycle},
            )
        ).run()
    else:
        print(json.dumps(asyncio.run(_measure(given.messages, given.cycle, given.seconds)), indent=1))


if __name__ == "__main__":
    main()
