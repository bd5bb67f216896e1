# SPDX-License-Identifier: Apache-2.0
"""A terminal among very much that is for others, and how soon it plays.

``python benchmarks/bench_terminal.py --foreign 150000 --seconds 20`` sends so many STKMs of others a second to the port of a
terminal's ear, and its own in between: JSON with how many of each came through, and the ear's share of a core.
``python benchmarks/bench_terminal.py --tune-in 5`` starts terminals beside a whole chain of servers, that many of each profile one
after the other, and measures from ready to the first key that is in use: JSON with carousel cycle, repetition and each time.
Under pytest: what the ear does for a datagram, beside its floor, the bare ``recv``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.broadcast.datagrams import PackedSlot, Wire
from pybcast.broadcast.listener import Listener, _Ear, _matcher
from pybcast.broadcast.repeater import Datagram

LOOPBACK: Final = "127.0.0.1"
OCTETS: Final = 200
MINE: Final = bytes.fromhex("12f410 0104 0007")
BURST: Final = 150
TICK: Final = os.sysconf("SC_CLK_TCK")


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    extra_info: dict[str, Any]
    stats: Any

    def __call__(self, target: Callable[..., Any], *args: Any) -> Any: ...


def stkm(number: int, mine: bool = False) -> bytes:
    """About as long and as mixed as an STKM."""
    named = MINE if mine else MINE[:5] + (8 + number % 60_000).to_bytes(2, "big")
    return os.urandom(20) + named + number.to_bytes(4, "big") + os.urandom(OCTETS - 31)


def _blast(port: int, rate: int, seconds: float) -> None:
    """Send foreign STKMs, evenly."""
    slot, wire = PackedSlot(0), Wire(LOOPBACK, 1)
    for n in range(BURST):
        slot.insert(n, Datagram((n, 0, 0), stkm(n), (LOOPBACK, port)))
    due = time.monotonic()
    end = due + seconds
    while due < end:
        wire.send(slot)
        due += BURST / rate
        if (wait := due - time.monotonic()) > 0:
            time.sleep(wait)


async def foreign(rate: int, seconds: float) -> dict[str, Any]:
    """Own STKMs among foreign ones."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind((LOOPBACK, 0))
        port = int(found.getsockname()[1])
    got: set[bytes] = set()
    listener = Listener([(LOOPBACK, port)], LOOPBACK, lambda _, data: got.add(data))
    listener.want(0, {MINE})
    listener.start()
    assert listener._child is not None
    blasting = multiprocessing.get_context("spawn").Process(target=_blast, args=(port, rate, seconds))
    blasting.start()
    sent: set[bytes] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while blasting.is_alive():
            data = stkm(len(sent), mine=True)
            sent.add(data)
            out.sendto(data, (LOOPBACK, port))
            await asyncio.sleep(0.01)
    await asyncio.sleep(1.2)  # the ear reports once a second
    fields = Path(f"/proc/{listener._child.pid}/stat").read_text().rpartition(")")[2].split()
    count = listener.counts[0]
    listener.stop()
    return {
        "foreign_per_second": rate, "seconds": seconds, "heard": count.datagrams, "heard_share": count.datagrams / (rate * seconds),
        "own_sent": len(sent), "own_lost": len(sent - got), "ear_core": (int(fields[11]) + int(fields[12])) / TICK / seconds,
    }  # fmt: skip


def tune_in(times: int) -> dict[str, Any]:
    """From ready to the first key in use."""
    from pybcast.demo.chain import Chain, Service, Viewer
    from pybcast.demo.daemons import Feed
    from pybcast.demo.keyside import ntp_now
    from pybcast.flows.events import TekReady, UseKey

    service = Service(name="N", number=1, period=4, key_period=60, rollover_lead=40, cycle=5.0)
    viewers = [Viewer(f"{p}{n}", p) for n in range(times) for p in ("drm", "smartcard")]
    taken: dict[str, list[float]] = {"drm": [], "smartcard": []}
    with tempfile.TemporaryDirectory() as folder, Chain(Path(folder), [service], viewers, ntp_now()) as chain:
        chain.describe()
        encoder = Feed(chain.folder / "keys.sock")
        in_use = b""
        time.sleep(2 * service.cycle)  # the carousel has turned
        for viewer in viewers:
            chain.tune(viewer)
            chain.await_ready(viewer.name)
            begin, feed, plays = time.monotonic(), Feed(chain.folder / f"{viewer.name}.sock"), False
            known: set[bytes] = set()
            while not plays and time.monotonic() < begin + 60:
                in_use = ([output.mki for output in encoder.outputs() if isinstance(output, UseKey)] or [in_use])[-1]
                known |= {output.mki for output in feed.outputs() if isinstance(output, TekReady)}
                plays = in_use in known
                time.sleep(0.005)
            taken[viewer.profile].append(round(time.monotonic() - begin, 3) if plays else float("inf"))
            feed.close()
        encoder.close()
    return {"cycle": service.cycle, "repetition": service.repetition, "seconds": taken}


def bench_ear(benchmark: Benchmark) -> None:
    """A burst of foreign STKMs through the ear, and through a bare ``recv`` loop."""
    heard, out = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with heard, out, ours, theirs:
        heard.bind((LOOPBACK, 0))
        heard.setblocking(False)
        out.connect(heard.getsockname())
        theirs.setblocking(False)
        burst = [stkm(n) for n in range(100)]
        ear = _Ear(theirs, [heard], [None])
        ear._match[0] = _matcher([MINE.hex()])

        def fill() -> None:
            for data in burst:
                out.send(data)

        def floor() -> None:
            fill()
            for _ in burst:
                heard.recv(2048)

        def through() -> None:
            fill()
            ear._drain(0)

        floors = []
        for _ in range(20):
            begin = time.perf_counter()
            floor()
            floors.append(time.perf_counter() - begin)
        benchmark(through)
        assert ear._figures[0] >= 100 and ear._figures[1] == 0
        if benchmark.stats is not None:
            benchmark.extra_info["ratio_to_bare_recv"] = benchmark.stats.stats.min / min(floors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foreign", type=int, default=0, metavar="PER_SECOND")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tune-in", type=int, default=0, metavar="TERMINALS")
    options = parser.parse_args()
    if options.foreign:
        json.dump(asyncio.run(foreign(options.foreign, options.seconds)), sys.stdout)
        print()
    if options.tune_in:
        json.dump(tune_in(options.tune_in), sys.stdout)
        print()


if __name__ == "__main__":
    main()
