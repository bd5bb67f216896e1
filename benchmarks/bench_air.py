# SPDX-License-Identifier: Apache-2.0
"""How late STKMs leave: one sender process, with services whose crypto periods change while it sends.

``python benchmarks/bench_air.py --services 10000 --seconds 60`` prints JSON: datagrams a second, the lateness of each (from when
its slot was due to the return of the call that sent it), repetitions that were missed, how late keys changed, the sender's share of
a core.  No server is at work meanwhile: the edge executes what it was given.
``--with-servers 1000`` lets BSM and BSD/A change so many keys a second beside it (F3, ``bench_servers``).  Under pytest: a few
services for a moment, and what a slot costs beside its floor, the bare ``sendmmsg`` of the same datagrams.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.broadcast.datagrams import PackedSlot, Wire
from pybcast.broadcast.lateness import growth, quantile
from pybcast.broadcast.link import Executed, ask
from pybcast.broadcast.linkclient import PlanClient
from pybcast.broadcast.repeater import Repeater
from pybcast.broadcast.sender import Sender, Settings
from pybcast.flows.events import AirStkm, Announce, OffAir, Plan, PlanBegun, PlannedPeriod
from pybcast.messages import Protocol as Traffic
from pybcast.secret import Secret
from pybcast.wire.times import NTP_UNIX

TICK: Final = os.sysconf("SC_CLK_TCK")
GROUP: Final = "239.255.77.1"
SETTLING: Final = 10  # seconds, with a period, before the measurement begins
PLANNED: Final = 500  # services a second whose plans are taken, at least
OCTETS: Final = 200  # of an STKM: 167 to 251
REPETITION: Final = 0.1
SPREAD: Final = 20  # ports: STKMs of many services share one


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    extra_info: dict[str, Any]
    stats: Any

    def __call__(self, target: Callable[..., Any], *args: Any) -> Any: ...

    def pedantic(self, target: Callable[..., Any], args: Any, *, rounds: int) -> Any: ...


def _groups(services: int, base: int) -> dict[tuple[str, int, Any], tuple[str, int]]:
    return {(f"urn:{n}", 1, "smartcard"): (GROUP, base + n % SPREAD) for n in range(services)}


def _announce(n: int, start: int) -> Announce:
    data = b"%d %d " % (n, start)
    return Announce(f"urn:{n}", 1, start, (AirStkm("smartcard", data + bytes(OCTETS - len(data))),), REPETITION)


def _plan(n: int, start: int, period: int, count: int) -> Plan:
    periods = tuple(
        PlannedPeriod(
            at, at + period, at - period / 2, _announce(n, at).stkms, at.to_bytes(6), Secret(at.to_bytes(16)), bytes(14), None, None
        )
        for at in range(start, start + count * period, period)
    )
    return Plan(f"urn:{n}", 1, Traffic.SRTP, REPETITION, periods)


def _sender(path: Path, services: int, base: int, realtime: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, __file__, "--be-sender", str(path), str(services), str(base), str(realtime)]
    started = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert started.stdout is not None
    if started.stdout.readline() != b"ready\n":
        raise SystemExit("the sender did not start")
    return started


def _be_sender(path: str, services: str, base: str, realtime: str) -> None:
    settings = Settings(path=Path(path), groups=_groups(int(services), int(base)))
    Sender(settings, realtime=int(realtime), ready=lambda: print("ready", flush=True)).run()


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def _drive(path: Path, services: int, seconds: float, period: int, say: Callable[[str], None]) -> tuple[Any, Any]:
    """Give the edge plans that reach beyond the end, and then nothing more; the states before and after.

    The services' periods begin in turn, as many in one second as in another.
    """
    left = 0

    def executed(said: Executed) -> None:
        nonlocal left
        left += isinstance(said, PlanBegun)

    came = asyncio.Event()
    client = PlanClient(path, me="urn:example:bsda", came=lambda _: came.set(), executed=executed)
    task = asyncio.create_task(client.run())
    try:
        await came.wait()
        begin = int(time.time()) + NTP_UNIX
        count = math.ceil((seconds + SETTLING + services / PLANNED) / period) + 3
        for n in range(services):
            client.put(_plan(n, begin - period + n % period, period, count))
            if not n % 100:
                await asyncio.sleep(0)
        client.end()
        while left < services:
            await asyncio.sleep(0.05)
        await asyncio.sleep(period + 2)  # each service has been changed once
        before = await asyncio.to_thread(ask, path, timeout=60)
        say(f"measuring for {seconds:.0f} s")
        await asyncio.sleep(seconds)
        return before, await asyncio.to_thread(ask, path, timeout=60)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def measure(
    services: int, seconds: float, *, period: int = 10, servers: int = 0, realtime: int = 10, folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """One sender, ``seconds`` long; with ``servers``, so many services of 1 s beside it between BSM and BSD/A."""
    with tempfile.TemporaryDirectory() as made, concurrent.futures.ThreadPoolExecutor(1) as beside:
        path = (folder or Path(made)) / "stkm.sock"
        load = None
        if servers:
            import bench_servers

            load = beside.submit(bench_servers.measure, servers, seconds + period + 10, say=say)
            time.sleep(10 + servers / 100 + 22 - period)  # they are up, and settled
        sender = _sender(path, services, 20_000 + os.getpid() % 10_000, realtime)
        try:
            began = time.monotonic()
            used = _processor(sender.pid)
            before, after = asyncio.run(_drive(path, services, seconds, period, say))
            took, used = time.monotonic() - began, _processor(sender.pid) - used
        finally:
            sender.send_signal(signal.SIGTERM)
            status = sender.wait(30)
            assert sender.stdout is not None
            sender.stdout.close()
        figures = None if load is None else load.result()
    table = growth([(e, c) for e, c in before["lateness"]], [(e, c) for e, c in after["lateness"]])
    grown = {name: after[name] - before[name] for name in ("sent", "missed", "changes", "changes_late", "held", "strangers")}
    return {
        "services": services, "repetition_s": REPETITION, "octets": OCTETS, "period_s": period,
        "seconds": round(after["up"] - before["up"], 1),
        "datagrams_per_s": round(grown["sent"] / (after["up"] - before["up"])),
        "late_us": {f"p{share:g}": quantile(table, share / 100) for share in (50, 99, 99.9)},
        "share_below_2_ms": round(sum(c for e, c in table if 0 < e <= 2000) / max(1, sum(c for _, c in table)), 6),
        **grown, "change_us": after["change_us"], "errors": after["errors"], "core_share": round(used / took, 3), "exit": status,
        "beside": None if figures is None else {
            name: figures[name] for name in ("services", "stkms_per_s", "core_share", "late", "held", "lead_s_at_least")
        },
    }  # fmt: skip


# --- with pytest ------------------------------------------------------------------------------------------------------


def _slot(count: int) -> tuple[Repeater, PackedSlot]:
    """A slot of so many services, on loopback."""
    repeater = Repeater(_groups(100 * count, 9), 0.0, slot=PackedSlot)  # the port discard: nobody listens
    for n in range(100 * count):
        repeater.announce(_announce(n, 8), 0.0)
    slot = next(slot for wheel in repeater._wheels.values() for slot in wheel.slots if len(slot.items) == count)
    assert isinstance(slot, PackedSlot)
    return repeater, slot


def bench_floor_of_a_slot(benchmark: Benchmark) -> None:
    """The bare call: a hundred datagrams that are ready."""
    wire = Wire("127.0.0.1", 0)
    _, slot = _slot(100)
    send, number, address, count = wire._send, wire._number, slot.address, len(slot.items)
    assert benchmark(lambda: send(number, address, count, 0)) == 100
    wire.close()


def bench_a_slot(benchmark: Benchmark) -> None:
    """The same through the repeater: what is due, the call, the books."""
    wire = Wire("127.0.0.1", 0)
    repeater, _ = _slot(100)
    now = 0.0

    def turn() -> int:
        nonlocal now
        now += 0.001
        taken = repeater.take(now)
        assert taken is not None
        slot = taken[1]
        assert isinstance(slot, PackedSlot)
        count = wire.send(slot)
        repeater.sent(slot, count, now)
        return count

    assert benchmark(turn) == 100
    assert not wire.errors
    wire.close()


def bench_an_announcement_and_its_end(benchmark: Benchmark) -> None:
    """One service's next period goes on air and the last one off, among ten thousand."""
    repeater, _ = _slot(100)
    periods = iter(range(10, 1 << 40, 2))

    def change() -> None:
        start = next(periods)
        repeater.announce(_announce(77, start), 0.0)
        repeater.off_air(OffAir("urn:77", 1, start - 2))

    benchmark(change)
    assert repeater.datagrams == 10_000


def bench_a_sender_as_a_process(benchmark: Benchmark, tmp_path: Path) -> None:
    """A few services for a moment: the measuring works, every hand-over comes."""
    found = benchmark.pedantic(lambda: measure(200, 4.0, period=2, folder=tmp_path), (), rounds=1)
    assert found["changes"] >= 200 and found["held"] == found["strangers"] == found["exit"] == 0, found
    assert found["sent"] > 200 * 4 / REPETITION * 0.8 and not found["errors"], found
    benchmark.extra_info |= found


def main() -> None:
    if sys.argv[1:2] == ["--be-sender"]:
        _be_sender(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[10_000])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=int, default=10, help="seconds of a crypto period")
    parser.add_argument("--realtime", type=int, default=10, help="priority; 0: like every other process")
    parser.add_argument(
        "--with-servers", type=int, nargs="?", const=1000, default=0, metavar="N", help="beside it N services of 1 s, F3"
    )
    asked = parser.parse_args()
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    machine["load_before"] = os.getloadavg()[0]  # type: ignore[assignment]
    for count in asked.services:
        found = measure(
            count, asked.seconds, period=asked.period, servers=asked.with_servers, realtime=asked.realtime,
            say=lambda text: print(text, file=sys.stderr),
        )  # fmt: skip
        print(json.dumps(found | machine), flush=True)


if __name__ == "__main__":
    main()
