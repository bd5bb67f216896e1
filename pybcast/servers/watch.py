# SPDX-License-Identifier: Apache-2.0
"""What a server shows of itself: Prometheus figures, and the state behind ``pybcast status``."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pybcast.backend import Exchanged
from pybcast.flows import Alarm, FlowDone
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.tables import Tag
from pybcast.https.listener import Listener
from pybcast.https.validity import Validity

LOG: Final = logging.getLogger("pybcast.servers")
Light = Literal["green", "yellow", "red"]
PEER_QUIET: Final = 60.0  # seconds after which a peer that nobody heard of is doubtful - confidence: own
ALARM_SHOWN: Final = 300.0  # seconds that an alarm nobody takes back colours its service - confidence: own
ALARMS_KEPT: Final = 50
_LEADS: Final = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0)
KEY_LATE: Final = 0.5  # seconds after the start of its period from which a traffic key counts as late - confidence: own
TAGS: Final = frozenset(str(int(tag)) for tag in Tag)
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class ServiceView:
    """One stream at a glance.

    ``ahead``: periods prepared beyond the running one (BSD/A).  ``held``: the last key is used beyond its period.
    ``next_change``: NTP second of the next change of the traffic key (BSD/A) or long-term key (BSM).
    """

    service: str
    stream: int
    light: Light
    why: str = ""
    ahead: int | None = None
    held: bool = False
    next_change: float | None = None


@dataclass
class _Peer:
    heard: float | None = None
    error: str = ""
    error_at: float | None = None


@dataclass(frozen=True)
class _Raised:
    at: float
    alarm: Alarm

    def shown(self) -> dict[str, Any]:
        a = self.alarm
        return {"time": self.at, "code": a.code, "service": a.service, "stream": a.stream, "text": a.text}


@dataclass
class Watch:
    """Figures and alarms of one server.  ``now``: 64-bit NTP seconds.

    Who else wants to know: ``on_flow``, of flows that ran; ``on_clock_step``.  ``terminals``: how many wait for a STKM.
    ``listeners``: where peers and terminals connect.  ``certificates``: those in use, and when they end.
    ``unstored``: why nothing can be stored now.
    """

    role: str
    now: Callable[[], float]
    peers: dict[str, _Peer] = field(default_factory=dict)
    views: Callable[[], Iterable[ServiceView]] = tuple
    on_flow: Callable[[FlowDone], None] = lambda _: None
    on_clock_step: Callable[[], None] = lambda: None
    terminals: Callable[[], int] = lambda: 0
    listeners: Callable[[], Mapping[str, Listener[Any]]] = dict
    certificates: Callable[[], Iterable[Validity]] = tuple
    unstored: str = ""
    alarms: deque[_Raised] = field(default_factory=lambda: deque(maxlen=ALARMS_KEPT))

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._exchanges = Counter("pybcast_exchanges", "Back-end requests", ["role", "tag", "status", "http"], registry=r)
        self._seconds = Histogram("pybcast_exchange_seconds", "Time of an exchange", ["role", "tag"], buckets=_SECONDS, registry=r)
        self._flows = Counter("pybcast_flows", "Flows run to their end", ["flow", "profile"], registry=r)
        self._requests = Histogram(
            "pybcast_request_seconds",
            "From a request's leaving to its answer's being stored",
            ["tag"],
            buckets=_SECONDS,
            registry=r,
        )
        self._lead = Histogram(
            "pybcast_stkm_lead_seconds", "From an STKM's being stored to the start of its period; below 0 it is late", ["flow"],
            buckets=_LEADS, registry=r,
        )  # fmt: skip
        self._alarms = Counter("pybcast_alarms", "Alarms raised", ["code"], registry=r)
        self._inputs = Histogram("pybcast_input_seconds", "Work of the machine on one input", buckets=_SECONDS, registry=r)
        self._commits = Histogram("pybcast_store_seconds", "One durable transaction", buckets=_SECONDS, registry=r)
        self._rows = Counter("pybcast_store_rows", "Rows stored or dropped", registry=r)
        self._steps = Counter("pybcast_clock_steps", "Steps of the clock", registry=r)
        self._used = Histogram(
            "pybcast_key_change_delay_seconds", "From the start of a period to its traffic key's use", buckets=_SECONDS, registry=r
        )
        self._late = Counter(
            "pybcast_keys_late", f"Traffic keys in use more than {KEY_LATE:g} s after their period's start", registry=r
        )
        self._unanswered = Counter("pybcast_unanswered", "Requests without an answer", ["tag"], registry=r)
        self._terminal_requests = Counter(
            "pybcast_interaction_requests", "Requests of terminals on the interaction channel", ["path", "status"], registry=r
        )
        self._terminal_seconds = Histogram(
            "pybcast_interaction_seconds", "From a terminal's request to its answer, without STKMs: they wait", ["path"],
            buckets=_SECONDS, registry=r,
        )  # fmt: skip
        Gauge("pybcast_interaction_waiting", "Terminals that wait for a STKM", registry=r).set_function(lambda: self.terminals())
        self._waiting = Gauge("pybcast_inputs_waiting", "Inputs that wait for the machine", registry=r)
        ProcessCollector(registry=r)
        r.register(_Views(self))

    # --- what the parts of a server report ------------------------------------------------------------------------------

    def exchanged(self, done: Exchanged) -> None:
        """The back end's observer."""
        tag = "" if done.tag is None else str(done.tag) if str(done.tag) in TAGS else "other"  # a stranger makes no series
        self._exchanges.labels(done.role, tag, "" if done.status is None else str(done.status), str(done.http)).inc()
        self._seconds.labels(done.role, tag).observe(done.seconds)
        peer = self.peers.get(done.peer)
        if peer is not None:
            if done.status is not None:
                peer.heard = self.now()
            if done.error:
                peer.error, peer.error_at = done.error, self.now()

    def interaction(self, path: str, status: int, seconds: float) -> None:
        """The interaction channel's observer."""
        self._terminal_requests.labels(path, str(status)).inc()
        if path != "stkm":
            self._terminal_seconds.labels(path).observe(seconds)

    def committed(self, seconds: float, writes: int, rows: int) -> None:
        """The store's."""
        self._commits.observe(seconds)
        self._rows.inc(rows)

    def input(self, seconds: float, waiting: int) -> None:
        self._inputs.observe(seconds)
        self._waiting.set(waiting)

    def key_used(self, delay: float) -> None:
        """A traffic key took the place of another, so many seconds after the start of its period."""
        self._used.observe(max(0.0, delay))
        if delay >= KEY_LATE:
            self._late.inc()

    def full(self, why: str) -> None:
        """The disk is full; or nothing: there is room again."""
        self.unstored = why
        self.alarm(Alarm("disk-full", "", None, why, active=bool(why)))

    def clock_step(self, seconds: float) -> None:
        self._steps.inc()
        self.on_clock_step()
        self.alarm(Alarm("clock-step", "", None, f"by {seconds:+.1f} s"))

    def flow(self, done: FlowDone) -> None:
        self._flows.labels(done.flow, done.profile or "").inc()
        self.on_flow(done)
        if done.earliest is not None:
            self._lead.labels(done.flow).observe(done.earliest - self.now())
        fields = {"event": "flow", "flow": done.flow, "profile": done.profile, "service": done.service}
        LOG.debug("%s %s %s", done.flow, done.profile or "", done.service, extra={"fields": fields})

    def alarm(self, alarm: Alarm) -> None:
        fields = {
            "event": "alarm", "code": alarm.code, "service": alarm.service, "stream": alarm.stream, "text": alarm.text,
            "active": alarm.active,
        }  # fmt: skip
        name = (alarm.code, alarm.service, alarm.stream)
        if alarm.active:
            self._alarms.labels(alarm.code).inc()
            self.alarms.append(_Raised(self.now(), alarm))
        else:
            kept = [r for r in self.alarms if (r.alarm.code, r.alarm.service, r.alarm.stream) != name]
            self.alarms.clear()
            self.alarms.extend(kept)
        text = "alarm %s: %s stream %s: %s" if alarm.active else "alarm %s is over: %s stream %s %s"
        level = logging.WARNING if alarm.active else logging.INFO
        LOG.log(level, text, alarm.code, alarm.service, alarm.stream, alarm.text, extra={"fields": fields})

    def answered(self, message: BackendMessage, seconds: float) -> None:
        self._requests.labels(str(int(message.tag))).observe(seconds)

    def unanswered(self, message: BackendMessage, error: str) -> None:
        self._unanswered.labels(str(int(message.tag))).inc()
        fields = {"event": "unanswered", "tag": int(message.tag), "peer": message.destination, "messageID": message.message_id}
        LOG.warning("%s to %s: %s", message.tag.name, message.destination, error, extra={"fields": fields})

    # --- what is shown --------------------------------------------------------------------------------------------------

    def metrics(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)

    def peer_lights(self) -> Iterator[dict[str, Any]]:
        now = self.now()
        for name, peer in self.peers.items():
            failing = peer.error_at is not None and (peer.heard is None or peer.error_at > peer.heard)
            quiet = peer.heard is None or now - peer.heard > PEER_QUIET
            light: Light = "red" if failing and quiet else "yellow" if failing or quiet else "green"
            yield {
                "peer": name, "light": light, "heard": None if peer.heard is None else round(now - peer.heard, 1),
                "error": peer.error if failing else "",
            }  # fmt: skip

    def service_lights(self) -> Iterator[dict[str, Any]]:
        now = self.now()
        recent = {(r.alarm.service, r.alarm.stream): r.alarm for r in self.alarms if now - r.at < ALARM_SHOWN}
        for view in self.views():
            alarm = recent.get((view.service, view.stream))
            light, why = view.light, view.why
            if self.unstored:
                light, why = "red", self.unstored
            if light == "green" and alarm is not None:
                light, why = "yellow", f"{alarm.code}: {alarm.text}"
            change = None if view.next_change is None else round(view.next_change - now, 1)
            yield {
                "service": view.service, "stream": view.stream, "light": light, "why": why, "ahead": view.ahead, "held": view.held,
                "next_change": change,
            }  # fmt: skip

    def certificate_lights(self) -> Iterator[dict[str, Any]]:
        now = datetime.now(UTC)
        for each in self.certificates():
            days = round((each.ends - now) / timedelta(days=1), 1)
            yield {"certificate": each.key, "light": each.light(now), "ends": each.shown, "days": days, "file": str(each.path)}

    def last_alarms(self) -> list[dict[str, Any]]:
        return [raised.shown() for raised in self.alarms]


class _Views(Collector):
    """Gauges that are read from the machine when somebody asks."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        labels = ["service", "stream"]
        ahead = GaugeMetricFamily("pybcast_periods_ahead", "Periods prepared beyond the running one", labels=labels)
        held = GaugeMetricFamily("pybcast_key_held", "1 while the last key is used beyond its period (R40)", labels=labels)
        change = GaugeMetricFamily("pybcast_next_key_change_seconds", "Until the key changes", labels=labels)
        light = GaugeMetricFamily("pybcast_light", "0 green, 1 yellow, 2 red", labels=labels)
        for row in self._watch.service_lights():
            names = [row["service"], str(row["stream"])]
            light.add_metric(names, ("green", "yellow", "red").index(row["light"]))
            held.add_metric(names, float(row["held"]))
            if row["ahead"] is not None:
                ahead.add_metric(names, row["ahead"])
            if row["next_change"] is not None:
                change.add_metric(names, row["next_change"])
        heard = GaugeMetricFamily("pybcast_peer_heard_seconds", "Since the peer was last heard", labels=["peer"])
        for row in self._watch.peer_lights():
            if row["heard"] is not None:
                heard.add_metric([row["peer"]], row["heard"])
        ends = GaugeMetricFamily("pybcast_certificate_end_seconds", "Until a certificate ends; below 0 it has ended", labels=["of"])
        for row in self._watch.certificate_lights():
            ends.add_metric([row["certificate"]], row["days"] * 86400)
        connected = GaugeMetricFamily("pybcast_connections", "Connections that are open", labels=["of"])
        refused = CounterMetricFamily(
            "pybcast_connections_refused", "Connections refused, or ended in the handshake", labels=["of", "why"]
        )
        for of, listener in self._watch.listeners().items():
            connected.add_metric([of], len(listener))
            for why, count in sorted(listener.refused.items()):
                refused.add_metric([of, why], count)
        yield from (ahead, held, change, light, heard, ends, connected, refused)
