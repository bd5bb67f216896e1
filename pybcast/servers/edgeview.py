# SPDX-License-Identifier: Apache-2.0
"""What the edge of a BSD/A says of itself, whether the BSD/A lives or not (R49): for operators and for Prometheus.

The STKM sender answers over its own socket; HTTP is served by a process beside it, so that no scrape holds a datagram back.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pybcast.broadcast import link
from pybcast.errors import BcastError, ConfigError, TransportError
from pybcast.flows.edge.slots import USED, Held
from pybcast.flows.tables import EdgeState
from pybcast.outlets.udp import Address
from pybcast.servers.config import ServerConfig

LOG: Final = logging.getLogger("pybcast.air")
PATIENCE: Final = 5.0  # seconds for the sender to answer - confidence: own


@dataclass(frozen=True)
class Reach:
    """A stream at the edge: the key in use, and how far its plan reaches.  Times are NTP seconds."""

    service: str
    stream: int
    light: str
    why: str
    in_use: int | None
    periods: int
    end: int | None
    left: float

    @classmethod
    def of(cls, held: Held, now: float) -> Reach:
        used = [period for period in held.periods if period.state in USED]
        left = max(0.0, held.periods[-1].end - now) if held.periods else 0.0
        light, why = "green", ""
        if any(period.state is EdgeState.HELD for period in used):
            light, why = "red", "the last key is held"
        elif not used:
            light, why = "red", "no key in use"
        elif not any(period.start > now for period in held.periods):
            light, why = "yellow", "nothing is planned after the key in use"
        ahead = sum(period.start > now for period in held.periods)
        return cls(held.service, held.stream, light, why, used[-1].start if used else None, ahead, held.end, round(left, 1))


def asked(config: ServerConfig) -> tuple[dict[str, Any], link.Here]:
    """What the sender of this configuration answers.  ``TransportError`` when it does not."""
    path = sender_of(config)
    try:
        return link.ask(path, timeout=PATIENCE), link.ask_what(path, timeout=PATIENCE)
    except OSError as error:
        raise TransportError(f"{path}: no answer from the STKM sender: {error.strerror or error}") from None


def sender_of(config: ServerConfig) -> Path:
    """Where the sender listens."""
    if config.sender is None:
        raise ConfigError(f"{config.path}: air.sender: missing: the socket on which the STKM sender listens")
    return config.sender


class _Collector(Collector):
    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        try:
            figures = link.ask(self._path, timeout=PATIENCE)
        except (OSError, BcastError):
            yield GaugeMetricFamily("pybcast_edge_up", "Whether the STKM sender answers.", value=0)
            return
        yield GaugeMetricFamily("pybcast_edge_up", "Whether the STKM sender answers.", value=1)
        yield from metrics(figures)


GAUGES: Final = {
    "able": "Whether a BSD/A is there.",
    "active": "Whether it sends, and no better headend does.",
    "reach": "Seconds until the first stream has nothing planned any more.",
    "streams": "Streams with STKMs on air.",
    "missing": "Streams without a STKM for a period whose lead has begun.",
    "held": "Streams whose last key is held.",
}
COUNTERS: Final = {
    "sent": "Datagrams that were sent.",
    "missed": "Repetitions that were left out.",
    "changes": "Keys that came into use.",
    "changes_late": "Keys that came into use more than a tenth of a second after their start.",
}


def metrics(figures: dict[str, Any]) -> Iterator[Metric]:
    """The sender's figures as metrics."""
    for name, text in GAUGES.items():
        unit = "_seconds" if name == "reach" else ""
        yield GaugeMetricFamily(f"pybcast_edge_{name}{unit}", text, value=float(figures[name]))
    for name, text in COUNTERS.items():
        yield CounterMetricFamily(f"pybcast_edge_{name}", text, value=float(figures[name]))
    lateness = HistogramMetricFamily("pybcast_edge_lateness_seconds", "How late datagrams left.")
    total, buckets = 0, []
    for edge, count in sorted(((edge or 1 << 40, count) for edge, count in figures["lateness"])):
        total += count
        if edge < 1 << 40:
            buckets.append((str(edge / 1e6), float(total)))
    lateness.add_metric([], [*buckets, ("+Inf", float(total))], None)
    yield lateness


def serve(config: ServerConfig, listen: str) -> None:
    """``/metrics`` and ``/healthz`` at ``listen`` (HOST:PORT) until SIGTERM or SIGINT.  ``ConfigError``: it cannot be had."""
    asyncio.run(_serve(sender_of(config), Address.parse(listen)))


async def _serve(path: Path, at: Address) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(path))

    async def scraped(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthy(_: web.Request) -> web.Response:
        try:
            figures = await asyncio.to_thread(link.ask, path, timeout=PATIENCE)
        except (OSError, BcastError):
            return web.json_response({"status": "no answer"}, status=503)
        return web.json_response({"status": "ok", "light": figures["light"], "why": figures["why"]})

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = web.Application()
    app.router.add_get("/metrics", scraped)
    app.router.add_get("/healthz", healthy)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, at.host, at.port).start()
        except OSError as error:
            raise ConfigError(f"--listen {at.host}:{at.port}: {error.strerror}") from None
        bound = [address for address in runner.addresses if isinstance(address, tuple)]
        LOG.info("metrics of the edge on port %d", bound[0][1], extra={"fields": {"event": "ready", "port": bound[0][1]}})
        await stop.wait()
    finally:
        await runner.cleanup()
