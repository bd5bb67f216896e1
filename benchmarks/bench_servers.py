# SPDX-License-Identifier: Apache-2.0
"""What the two servers carry: BSM and BSD/A as processes on loopback, mutual TLS, SQLite, services of short crypto periods.

``python benchmarks/bench_servers.py --services 5000 --seconds 60`` prints JSON: what each process used of a core, also for each
period, the lead with which STKMs were stored before their period, the time from a request's leaving to its answer's being stored,
and what was late.  Figures are differences of the servers' own ``/metrics`` between the begin and the end of the time measured.
``--edge`` says where the edge is: ``here``, in the BSD/A; ``counting``, in a process of its own that sends nothing; ``sending``, in
the STKM sender, which repeats every STKM every 100 ms.

``--table`` prints one object in place of that: the core of a period in F3 and F4 of both profiles, the time of F3 when nothing else
is to be done, with the databases on a RAM disk, and of ``--scale`` numbers of services how far the core of a period stays the same
and how many were carried with none late or held.  Under pytest a few services run for a moment, so that this cannot rot.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import aiohttp
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from pybcast.backend import pki
from pybcast.broadcast import sender
from pybcast.broadcast.link import ask
from pybcast.flows.events import Announce
from pybcast.https.contexts import TlsFiles, client_context, server_context
from pybcast.servers import sending
from pybcast.servers.config import load
from pybcast.wire.times import NTP_UNIX

TICK: Final = os.sysconf("SC_CLK_TCK")
IDS: Final = {"bsm": "urn:example:bsm", "bsda": "urn:example:bsda"}

REQUEST, ANSWER = 3204, 3869
"""Bytes of a TEKDelivery of ten periods and of its answer, Smartcard Profile."""

Figures = dict[str, float]
Edge = Literal["here", "counting", "sending"]


class Benchmark(Protocol):
    """The fixture of pytest-benchmark."""

    extra_info: dict[str, Any]

    def pedantic(self, target: Callable[..., Any], args: Any, kwargs: Any, *, rounds: int) -> Any: ...


def _free_ports(count: int) -> list[int]:
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in made]
    for one in made:
        one.close()
    return ports


def _toml(role: str, ports: dict[str, int], status: int, services: str, edge: Edge = "here") -> str:
    air = '[air]\nsender = "stkm.sock"\n' if role == "bsda" and edge != "here" else ""
    other = "bsda" if role == "bsm" else "bsm"
    own = f'fqdn = "bsm.example.com"\nrights_issuer_id = "{"11" * 20}"' if role == "bsm" else ""
    return f"""[server]
role = "{role}"
id = "{IDS[role]}"
listen = "127.0.0.1:{ports[role]}"
status = "127.0.0.1:{status}"
database = "{role}.db"
kek = "file:kek"
{own}
[tls]
certificate = "{role}.pem"
key = "{role}-key.pem"
authority = "ca.pem"
[log]
format = "json"
level = "warning"
{air}
[[peers]]
id = "{IDS[other]}"
url = "https://127.0.0.1:{ports[other]}"
{services}"""


def _services(count: int, generation: str, profile: str, period: int, look_ahead: int, batch: int, start: int) -> str:
    """Streams that begin at ``start``, when both servers are up."""
    return "".join(
        f"""[[services]]
id = "urn:example:service:{n}"
profiles = ["{profile}"]
generation = "{generation}"
period = {period}
granularity = {period}
start = {start}
key_period = {3600 * period}
look_ahead = {look_ahead}
batch = {batch}
serviceBaseCID = "service-{n}"
socID = "soc.example"
key_domain_id = "12f4{n >> 15:02x}"
key_group = {1 + n % 32768}
stkm = "239.255.77.1:{20000 + 2 * (n % 20)}"
"""
        for n in range(count)
    )


class EdgeProcess:
    """The edge as a process of its own."""

    def __init__(self, folder: Path, edge: Edge) -> None:
        self.path = folder / "stkm.sock"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--be-edge", edge, str(folder / "bsda.toml")], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise SystemExit("the edge did not start")

    def figures(self) -> dict[str, Any]:
        return ask(self.path, timeout=60)

    def processor(self) -> float:
        """Seconds on a core so far."""
        return _processor(self.process.pid)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


class _Counting:
    """In the place of a repeater: takes what is announced as sent."""

    datagrams = missed = streams = 0
    waiting = False

    def __init__(self, groups: Mapping[Any, Any], *_: object, **__: object) -> None:
        self.groups = groups
        self.reports: list[tuple[str, int, int]] = []

    def announce(self, said: Announce, now: float) -> None:
        self.reports.append((said.service, said.stream, said.start))

    def off_air(self, said: object) -> None:
        """Nothing is on air."""

    def due(self) -> float:
        return float("inf")

    def express(self) -> None:
        """Nothing leaves."""


def _be_edge(edge: str, config: str) -> None:
    if edge == "counting":
        vars(sender)["Repeater"] = _Counting
    settings = sending.stkm_settings(load(Path(config)))
    sender.Sender(settings, ready=lambda: print("ready", flush=True)).run()


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def _be_peer(role: str, folder: str, port: str, rate: str) -> None:
    """One side of the floor: an exchange as large as one of F3 for ten periods, over mutual TLS, and nothing else done."""
    where = Path(folder)
    files = TlsFiles(certificate=where / f"{role}.pem", key=where / f"{role}-key.pem", authority=where / "ca.pem")
    if role == "bsm":

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(body=bytes(ANSWER), content_type="application/xml")

        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(port), ssl_context=server_context(files)).start()
        print("ready", flush=True)
        await asyncio.Event().wait()
    body, context = bytes(REQUEST), client_context(files)
    context.check_hostname = False  # the servers look for the peer's id
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def exchange() -> None:
            async with session.post(f"https://127.0.0.1:{port}/", data=body) as response:
                await response.read()

        await exchange()
        print("ready", flush=True)
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(exchange())
                due += 1 / float(rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))


def floor(rate: float, seconds: float, rounds: int = 3) -> dict[str, float]:
    """Microseconds of a core that aiohttp and TLS alone take of each side for an exchange, ``rate`` of them a second; the least of
    some rounds.
    """
    with tempfile.TemporaryDirectory() as made:
        pki.init(Path(made), IDS)
        (port,) = _free_ports(1)
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for role in ("bsm", "bsda"):
                argv = [sys.executable, __file__, "--be-peer", role, made, str(port), str(rate)]
                running[role] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                said = running[role].stdout
                assert said is not None
                if said.readline() != b"ready\n":
                    raise SystemExit(f"the floor's {role} did not start")
            found = []
            for _ in range(rounds):
                before, begun = {role: _processor(one.pid) for role, one in running.items()}, time.monotonic()
                time.sleep(seconds / rounds)
                count = rate * (time.monotonic() - begun)
                found.append({role: round(1e6 * (_processor(one.pid) - before[role]) / count, 1) for role, one in running.items()})
        finally:
            for one in running.values():
                one.kill()
                one.wait()
                assert one.stdout is not None
                one.stdout.close()
    return {role: min(each[role] for each in found) for role in IDS}


class Server:
    """One server process, its figures and its time on the processor."""

    def __init__(self, role: str, folder: Path, status: int) -> None:
        self.role, self.status = role, status
        self.log = (folder / f"{role}.log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pybcast.cli", role, "serve", f"{role}.toml"], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=self.log,
        )  # fmt: skip

    def ready(self) -> None:
        """Until it answers."""
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.role} ended: {Path(self.log.name).read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.status}/healthz", timeout=60):
                    return
            except OSError:
                time.sleep(0.05)

    def processor(self) -> float:
        """Seconds on a core so far."""
        return _processor(self.process.pid)

    def memory(self) -> float:
        """Most memory so far, MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    def figures(self) -> Figures:
        """/metrics, the names with their labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found: Figures = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def _quantile(figures: Figures, name: str, share: float, **labels: str) -> float | None:
    """The upper edge of the bucket that holds a quantile of a histogram's growth."""
    wanted = [f"{k}={v}" for k, v in labels.items()]
    buckets = []
    for key, value in figures.items():
        if key.startswith(f"{name}_bucket{{") and all(w in key for w in wanted):
            edge = next(part[3:] for part in key[:-1].partition("{")[2].split(",") if part.startswith("le="))
            buckets.append((float(edge), value))
    buckets.sort()
    total = buckets[-1][1] if buckets else 0.0
    return next((edge for edge, count in buckets if count >= share * total), None) if total else None


def _growth(before: Figures, after: Figures) -> Figures:
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def _sum(figures: Figures, prefix: str, *labels: str) -> float:
    return sum(value for key, value in figures.items() if key.startswith(prefix) and all(label in key for label in labels))


@contextlib.contextmanager
def _running(
    services: int,
    generation: str,
    profile: str,
    period: int,
    look_ahead: int,
    together: int,
    folder: Path | None = None,
    edge: Edge = "here",
) -> Iterator[tuple[dict[str, Server], EdgeProcess | None, int]]:
    """The servers and the edge, ready, and the NTP second at which their streams begin."""
    with tempfile.TemporaryDirectory() as made:
        where = folder or Path(made)
        pki.init(where, IDS)
        (where / "kek").write_text("5a" * 32)
        (where / "kek").chmod(0o600)
        ports = dict(zip((*IDS, "bsm status", "bsda status"), _free_ports(4), strict=True))
        begin = int(time.time()) + NTP_UNIX + 10 + services // 100  # both are up, and the first periods prepared
        text = _services(services, generation, profile, period, look_ahead, together, begin)
        for role in IDS:
            (where / f"{role}.toml").write_text(_toml(role, ports, ports[f"{role} status"], text, edge))
        beside = None if edge == "here" else EdgeProcess(where, edge)
        running = {role: Server(role, where, ports[f"{role} status"]) for role in IDS}
        try:
            for one in running.values():
                one.ready()
            yield running, beside, begin
        finally:
            for one in (*running.values(), *(() if beside is None else (beside,))):
                one.stop()


def measure(
    services: int, seconds: float, *, generation: Literal["bsm", "bsda"] = "bsm", profile: str = "smartcard", period: int = 1,
    look_ahead: int = 10, batch: int | None = None, settle: float = 0.0, folder: Path | None = None, edge: Edge = "here",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Run both servers; their figures over ``seconds``, after ``settle`` seconds (default: two batches) on air."""
    together = look_ahead if batch is None else batch
    with _running(services, generation, profile, period, look_ahead, together, folder, edge) as (running, beside, begin):
        wait = begin - NTP_UNIX - time.time() + (settle or (look_ahead + together) * period)
        say(f"ready; measuring in {wait:.0f} s")
        time.sleep(max(0.0, wait))
        before = {role: one.figures() for role, one in running.items()}
        state = None if beside is None else beside.figures()
        cores = running | ({} if beside is None else {"edge": beside})
        used = {role: -one.processor() for role, one in cores.items()}
        begun = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        used = {role: used[role] + one.processor() for role, one in cores.items()}
        said = None if beside is None else beside.figures()
        after = {role: one.figures() for role, one in running.items()}
        memory = {role: one.memory() for role, one in running.items()}
    bsm, bsda = (_growth(before[role], after[role]) for role in IDS)
    flow = "F3" if generation == "bsm" else "F4"
    stkms = _sum(bsda, "pybcast_flows_total", f"flow={flow}") * together
    at_edge = {} if state is None or said is None else {
        name: said[name] - state[name] for name in ("changes", "changes_late", "sent", "missed")
    } | {"edge_held": said["held"], "change_us": said["change_us"], "late_us": said["late_us"]}  # fmt: skip
    return {
        "services": services, "generation": generation, "profile": profile, "period_s": period, "look_ahead": look_ahead,
        "batch": together, "edge": edge, **at_edge, "seconds": round(took, 1), "stkms_per_s": round(stkms / took, 1),
        "core_share": {role: round(share / took, 3) for role, share in used.items()},
        "core_us_per_period": {role: round(1e6 * share / stkms, 1) if stkms else None for role, share in used.items()},
        "peak_mb": {role: round(most) for role, most in memory.items()},
        "lead_s_at_least": _lead(bsda, flow), "late": _sum(bsda, "pybcast_stkm_lead_seconds_bucket", "le=0.0"),
        "held": _sum(bsda, "pybcast_alarms_total", "code=held-key"),
        "alarms": _sum(bsda, "pybcast_alarms_total") + _sum(bsm, "pybcast_alarms_total"),
        "services_without_a_period_ahead": sum(
            1 for key, value in after["bsda"].items() if key.startswith("pybcast_periods_ahead{") and value < 1
        ),
        "tek_delivery_to_stored_s": {
            "mean": _mean(bsda, "pybcast_request_seconds", "tag=7"),
            "p50": _quantile(bsda, "pybcast_request_seconds", 0.5, tag="7"),
            "p99": _quantile(bsda, "pybcast_request_seconds", 0.99, tag="7"),
        },
        "input_s": {
            role: {name: _quantile(f, "pybcast_input_seconds", share) for name, share in (("p50", 0.5), ("p99", 0.99))}
            for role, f in (("bsm", bsm), ("bsda", bsda))
        },
    }  # fmt: skip


def idle(seconds: int, folder: Path | None = None) -> float:
    """The median of the seconds from a TEKDelivery's leaving to its STKM's being stored, of one service with a key a second."""
    found, before = [], (0.0, 0.0)
    with _running(1, "bsm", "smartcard", 1, 10, 1, folder) as (running, _, begin):
        time.sleep(max(0.0, begin - NTP_UNIX - time.time()))
        for _ in range(seconds):
            time.sleep(0.8)
            figures = running["bsda"].figures()
            total, count = (_sum(figures, f"pybcast_request_seconds_{what}", "tag=7") for what in ("sum", "count"))
            if count > before[1]:
                found.append((total - before[0]) / (count - before[1]))
            before = total, count
    return statistics.median(found[1:])  # the first is the mean of all before


def carried(found: dict[str, Any]) -> bool:
    """Whether no service was late or held."""
    return not (
        found["late"] or found["held"] or found["services_without_a_period_ahead"] or found.get("edge_held")
        or found.get("changes_late")
    )  # fmt: skip


def table(services: int, seconds: float, scale: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """What ``--table`` prints, with the edge in a process of its own, which counts."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as made:
        wait = idle(max(5, int(seconds)), Path(made))
    cores: dict[str, Any] = {}
    generations: tuple[tuple[str, Literal["bsm", "bsda"]], ...] = (("F3", "bsm"), ("F4", "bsda"))
    for flow, generation in generations:
        for profile in ("smartcard", "drm"):
            say(f"{flow} {profile}")
            cores[f"{flow} {profile}"] = measure(services, seconds, generation=generation, profile=profile, edge="counting")[
                "core_us_per_period"
            ]
    least = {role: round(us / 10, 1) for role, us in floor(services / 10, seconds).items()}
    runs = {count: measure(count, seconds, edge="counting", say=say) for count in scale}
    return {
        "services": services, "core_us_per_period": cores, "of_it_https_alone": least, "idle_f3_p50_s": round(wait, 5),
        "scale": {count: found["core_us_per_period"] for count, found in runs.items()},
        "carried": max((count for count, found in runs.items() if carried(found)), default=0),
    }  # fmt: skip


def _mean(figures: Figures, name: str, *labels: str) -> float | None:
    count = _sum(figures, f"{name}_count", *labels)
    return round(_sum(figures, f"{name}_sum", *labels) / count, 5) if count else None


def _lead(figures: Figures, flow: str) -> float | None:
    """The lower edge of the lowest bucket of the lead that has grown; infinite below the first."""
    edges = [-float("inf")]
    for edge in (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0):
        if _sum(figures, "pybcast_stkm_lead_seconds_bucket", f"flow={flow},le={edge}"):
            return edges[-1]
        edges.append(edge)
    return edges[-1] if _sum(figures, "pybcast_stkm_lead_seconds_count", f"flow={flow}") else None


def bench_f3_between_two_processes(benchmark: Benchmark, tmp_path: Path) -> None:
    """A handful of services: the measuring itself works, and nothing is late."""
    found = benchmark.pedantic(measure, args=(5, 3.0), kwargs={"look_ahead": 3, "folder": tmp_path}, rounds=1)
    assert found["late"] == found["held"] == found["alarms"] == found["services_without_a_period_ahead"] == 0, found
    assert found["stkms_per_s"] > 0 and found["tek_delivery_to_stored_s"]["p99"] is not None
    assert carried(found) and all(found["core_us_per_period"].values())
    benchmark.extra_info |= found


def bench_f3_of_one_service(benchmark: Benchmark, tmp_path: Path) -> None:
    """The time of a request when there are no others."""
    assert benchmark.pedantic(idle, args=(3,), kwargs={"folder": tmp_path}, rounds=1) > 0


def bench_https_alone(benchmark: Benchmark) -> None:
    """What no server of ours can be below with this HTTP library."""
    found = benchmark.pedantic(floor, args=(20.0, 2.0), kwargs={"rounds": 1}, rounds=1)
    assert all(found[role] > 0 for role in IDS), found
    benchmark.extra_info |= found


def main() -> None:
    if sys.argv[1:2] == ["--be-edge"]:
        _be_edge(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--be-peer"]:
        asyncio.run(_be_peer(*sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[200])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--generation", choices=["bsm", "bsda"], default="bsm")
    parser.add_argument("--profile", choices=["drm", "smartcard"], default="smartcard")
    parser.add_argument("--period", type=int, default=1)
    parser.add_argument("--look-ahead", type=int, default=10)
    parser.add_argument("--batch", type=int, help="periods in one delivery; as many as are looked ahead when left out")
    parser.add_argument("--edge", choices=["here", "counting", "sending"], default="here", help="where the edge is")
    parser.add_argument("--folder", type=Path, help="where the databases lie: on what disk matters")
    parser.add_argument("--table", action="store_true", help="one object with all figures that the speed is judged by")
    parser.add_argument("--scale", type=int, nargs="+", default=[100, 5000], help="of the table: numbers of services")
    asked = parser.parse_args()
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    if asked.table:
        print(json.dumps(table(asked.services[0], asked.seconds, asked.scale, say) | machine), flush=True)
        return
    for count in asked.services:
        found = measure(
            count, asked.seconds, generation=asked.generation, profile=asked.profile, period=asked.period,
            look_ahead=asked.look_ahead, batch=asked.batch, folder=asked.folder, edge=asked.edge, say=say,
        )  # fmt: skip
        print(json.dumps(found | machine), flush=True)


if __name__ == "__main__":
    main()
