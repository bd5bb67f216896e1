# SPDX-License-Identifier: Apache-2.0
"""The STKM sender: the edge of a BSD/A as a process.  It executes what was planned, whatever becomes of the BSD/A.

It holds the edge's machine (``flows.edge``), repeats the STKMs that this puts on air, and tells encoders their keys: one process
and one thread, so that a key is named to an encoder only after its STKM was sent three times (R47).  The thread sleeps until the
next slot is due; between two slots it takes what the BSD/A says and works on streams whose time has come, a little at a time.  So
nothing but the system's scheduler comes between a slot and its time: where it may, it asks that for a real-time place.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.broadcast import heartbeat
from pybcast.broadcast.datagrams import PackedSlot, Wire, hearing, sending
from pybcast.broadcast.heartbeat import Election
from pybcast.broadcast.lateness import Figures, growth, precede, quantile
from pybcast.broadcast.link import Ask, Begin, End, Gone, Here, Said, Which
from pybcast.broadcast.linkserver import LinkServer
from pybcast.broadcast.repeater import Place, Repeater
from pybcast.errors import BcastError
from pybcast.flows import Profile
from pybcast.flows.edge.machine import Edge
from pybcast.flows.events import (
    Alarm,
    Announce,
    NextKey,
    OffAir,
    Output,
    Plan,
    PlanBegun,
    PlanRefused,
    Recall,
    Recalled,
    StopTraffic,
    UseKey,
)
from pybcast.wire.times import NTP_UNIX

LOG: Final = logging.getLogger("pybcast.air")
FRAME: Final = 64 << 20  # octets: a plan of 4,096 periods, with room
STREAMS: Final = 16  # streams that are worked on before slots have their turn: half a millisecond - confidence: own
TOGETHER: Final = 16  # slots that are sent in a row, when some are late, before others have their turn
IDLE: Final = 1.0  # seconds: the longest sleep
TOLD: Final = 0.01  # seconds between two looks at what has left: a thirtieth of what R40 waits for - confidence: own
REPORTED: Final = 60.0  # seconds between two lines of figures in the log - confidence: own
LATE: Final = 0.002  # seconds: the lateness that 99 of 100 datagrams stay below - confidence: own
LATE_CHANGE: Final = 0.1  # seconds after its start at which a key's change is late: a repetition - confidence: own
GARBAGE: Final = 200_000  # objects more than at the begin: then cycles are looked for, which nothing here makes
PRIORITY: Final = 10  # of the real-time class: above everything that has none, below what a system reserves for itself
STEP: Final = 0.5  # seconds by which the clock must leap to count as stepped; a slewed one drifts less - confidence: own


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the sender is told by its configuration.

    ``groups``: where the STKMs of a (service, stream, profile) go.  ``heartbeat``: where the senders of a pair hear each other.
    """

    path: Path
    groups: Mapping[tuple[str, int, Profile], Place]
    interface: str = "127.0.0.1"
    ttl: int = 1
    heartbeat: Place | None = None
    priority: int = 0
    detection: float = 0.5


class Keys(Protocol):
    """Where encoders are told their keys (``outlets.keysocket.KeyServer``)."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def poll(self) -> None: ...
    def put(self, output: NextKey | UseKey | StopTraffic) -> None: ...


Shown = Announce | OffAir | NextKey | UseKey | StopTraffic


class Sender:
    """One sender.  ``reload`` gives the settings anew (SIGHUP), ``None`` when they cannot be used.

    ``keys``: where encoders are told their keys.  ``shown``: is given what goes on air and to encoders.  ``ready`` is called when
    it listens.  ``wall``: 64-bit NTP seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        keys: Keys | None = None,
        shown: Callable[[Shown], None] = lambda _: None,
        realtime: int = PRIORITY,
        reload: Callable[[], Settings | None] = lambda: None,
        ready: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = lambda: time.time() + NTP_UNIX,
    ) -> None:
        self._settings, self._realtime, self._reload, self._ready, self._wall = settings, realtime, reload, ready, wall
        self._keys, self._shown = keys, shown
        self._me = ""
        self._mark = b""
        self._able = False
        self._instance = os.urandom(8)
        self._election = Election("", self._instance, settings.priority, settings.detection)
        self._said_clocks = False  # that a heartbeat's time is not ours: once, for anyone may send an old one
        self._figures = Figures()
        self._began = time.monotonic()
        self._ahead = wall() - self._began
        self._repeater = Repeater(settings.groups, self._began, slot=PackedSlot)
        self._edge = Edge(_streams(settings))
        self._link = LinkServer(settings.path, limit=FRAME)
        self._wire: Wire
        self._stop = False
        self._hangup = False
        self._report_at = 0.0
        self._was_active = True
        self._used: dict[tuple[str, int], int] = {}
        self._held: set[tuple[str, int | None]] = set()  # streams whose last key is held

    def run(self) -> None:
        """Until SIGTERM or SIGINT.  ``ConfigError`` when a socket, the interface or the group cannot be had."""
        settings = self._settings
        self._wire = Wire(settings.interface, settings.ttl)
        beats = None if settings.heartbeat is None else hearing(settings.heartbeat, settings.interface)
        self._beating = sending(settings.interface, settings.ttl)
        woken, waking = socket.socketpair()
        for end in (woken, waking):
            end.setblocking(False)
        before = {number: signal.signal(number, self._signal) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        wakeup = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        try:
            self._link.open()
            if self._keys is not None:
                self._keys.open()  # here and not before: the link is ours, so an old socket is nobody's
            precede(self._realtime)
            gc.collect()
            gc.freeze()
            gc.disable()  # a collection would hold slots back, and what is made here holds no cycle
            self._ready()
            self._serve(beats, woken)
        finally:
            gc.enable()
            gc.unfreeze()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._keys is not None:
                self._keys.close()
            self._link.close()
            self._wire.close()
            for each in (self._beating, woken, waking, *(() if beats is None else (beats,))):
                each.close()

    def _signal(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._hangup = True
        else:
            self._stop = True

    # --- the loop -------------------------------------------------------------------------------------------------------

    def _serve(self, beats: socket.socket | None, woken: socket.socket) -> None:
        repeater, link, edge, keys, monotonic = self._repeater, self._link, self._edge, self._keys, time.monotonic
        asking = [link, *(() if keys is None else (keys,)), *(() if beats is None else (beats,))]
        read = [woken.fileno(), *(each.fileno() for each in asking)]
        next_beat = next_line = monotonic()
        next_line += REPORTED
        while not self._stop:
            now = monotonic()
            if repeater.due() <= now:
                self._send(now)
                now = monotonic()
            if repeater.waiting:
                self._express(now)
                now = monotonic()
            self._report(now)
            wall = self._wall()
            self._look_at_clock(wall - now)
            wake = edge.next_wakeup()
            if wake is not None and wake <= wall:
                self._execute(edge.tick(wall, STREAMS))
                wake = edge.next_wakeup()
            if beats is not None and now >= next_beat:
                self._beat(now)
                next_beat += self._election.interval * (1 + int((now - next_beat) / self._election.interval))
            if now >= next_line:
                self._line(now)
                next_line = now + REPORTED
            link.flush()
            until = min(repeater.due(), next_line, next_beat if beats is not None else now + IDLE, now + IDLE)
            if wake is not None:
                until = min(until, now + wake - wall)
            if repeater.reports:
                until = min(until, self._report_at)
            wait = 0.0 if link.waiting or repeater.waiting else max(0.0, until - now)
            ready, _, _ = select.select(read, (), (), wait)
            if woken.fileno() in ready:
                woken.recv(4096)
            if self._hangup:
                self._hangup = False
                self._reloaded()
            if beats is not None and beats.fileno() in ready:
                self._hear(beats)
            if keys is not None and keys.fileno() in ready:
                keys.poll()
            if link.waiting or link.fileno() in ready:
                self._listen(until)

    def _look_at_clock(self, ahead: float) -> None:
        """``ahead``: of the wall's clock before the monotonic one.  In the seconds that a clock leaps nothing is sent (R40)."""
        leapt, self._ahead = ahead - self._ahead, ahead
        if abs(leapt) >= STEP:
            LOG.warning(
                "the clock stepped by %+.3f s", leapt, extra={"fields": {"event": "clock-step", "seconds": round(leapt, 3)}}
            )
            if leapt > 0:
                self._edge.clock_forward(leapt)

    def _active(self, now: float) -> bool:
        """Whether to send; the edge counts repetitions anew where that changes (R47)."""
        active = self._election.decide(self._able, self._edge.lacking, now)
        if active is not self._was_active:
            self._was_active = active
            self._execute(self._edge.silent(not active, self._wall()))
            text = "on air: no better sender is heard" if active else "silent: another headend sends"
            LOG.warning(text, extra={"fields": {"event": "active" if active else "standby"}})
        return active

    def _send(self, now: float) -> None:
        """The slots that are due."""
        repeater, wire, figures, monotonic = self._repeater, self._wire, self._figures, time.monotonic
        active = self._active(now)
        for _ in range(TOGETHER):
            taken = repeater.take(now)
            if taken is None:
                break
            due, slot = taken
            assert isinstance(slot, PackedSlot)
            if active:
                count = wire.send(slot)
                now = monotonic()
                figures.sent += count - len(wire.failed)
                figures.lateness.add(now - due, count)
                repeater.sent(slot, count, now, wire.failed)
            else:
                now = monotonic()

    def _express(self, now: float) -> None:
        """What is new, at once."""
        repeater, wire = self._repeater, self._wire
        slot = repeater.express()
        if isinstance(slot, PackedSlot) and self._active(now):
            count = wire.send(slot)
            self._figures.sent += count - len(wire.failed)
            repeater.sent(slot, count, now, wire.failed)

    def _listen(self, until: float) -> None:
        """What the BSD/A says, one message after the other, until a slot is due."""
        link = self._link
        while True:
            found = link.poll(8)
            for said in found:
                self._said(said)
            if not found or time.monotonic() >= min(until, self._repeater.due()):
                break

    def _report(self, now: float) -> None:
        """The edge counts from when a period's STKMs have left for the first time."""
        repeater = self._repeater
        if repeater.reports and now >= self._report_at:
            self._report_at = now + TOLD
            reports, repeater.reports = repeater.reports, []
            self._execute(self._edge.announced_many(reports, self._wall()))

    # --- the edge -------------------------------------------------------------------------------------------------------

    def _said(self, said: Said) -> None:
        match said:
            case Plan():
                self._execute(self._planned(said))
            case Recall():
                self._execute(self._edge.recall(said, self._wall()))
            case Begin(me, mark):
                self._me, self._mark, self._able = me, mark, False
                LOG.info("the BSD/A %s has come", me, extra={"fields": {"event": "bsda-came", "bsda": me, "epoch": said.epoch}})
            case End():
                self._able = True
                self._changed()
                fields = {"event": "bsda-said", "streams": self._repeater.streams, "missing": self._edge.lacking}
                LOG.info("the BSD/A has said what is planned: %d streams on air", self._repeater.streams, extra={"fields": fields})
            case Gone(why):
                self._able = False
                self._changed()
                reach = round(self._edge.reach(self._wall()), 1)
                fields = {"event": "bsda-gone", "streams": self._repeater.streams, "why": why, "reach": reach}
                LOG.warning("the BSD/A is gone: what is planned reaches %s s", reach, extra={"fields": fields})
            case Which():
                self._link.here(said, Here(held=self._edge.held(), alarms=self._edge.alarms()))
            case Ask():
                self._link.answer(said, self.state())
            case _:
                pass  # the carousel's

    def _planned(self, plan: Plan) -> list[Output]:
        """Of a stream, or a profile of one, that nobody said where to send, no plan is taken."""
        groups, key = self._repeater.groups, (plan.service, plan.stream)
        if all((*key, stkm.profile) in groups for period in plan.periods for stkm in period.stkms):
            return self._edge.plan(plan, self._wall())
        self._figures.strangers += 1
        return [
            PlanRefused(*key, tuple(p.start for p in plan.periods), "the sender's configuration does not know it", unknown=True)
        ]

    def _execute(self, outputs: list[Output]) -> None:
        """What the edge does: on air, to encoders, to the BSD/A."""
        for output in outputs:
            match output:
                case Announce():
                    self._announce(output)
                case OffAir():
                    self._repeater.off_air(output)
                    self._shown(output)
                case UseKey():
                    self._count(output)
                    self._tell(output)
                case NextKey() | StopTraffic():
                    self._tell(output)
                case Recalled() | PlanRefused() | PlanBegun():
                    self._link.say(output)
                case Alarm():
                    self._alarm(output)

    def _announce(self, output: Announce) -> None:
        """Of what was planned before the configuration changed, a profile may have no place any more."""
        key = (output.service, output.stream)
        known = tuple(stkm for stkm in output.stkms if (*key, stkm.profile) in self._repeater.groups)
        if known:
            self._repeater.announce(output if known == output.stkms else replace(output, stkms=known), time.monotonic())
            self._shown(output)

    def _tell(self, output: NextKey | UseKey | StopTraffic) -> None:
        if self._keys is not None:
            self._keys.put(output)
        self._shown(output)

    def _count(self, use: UseKey) -> None:
        key = (use.service, use.stream)
        before, self._used[key] = self._used.get(key), use.start
        if before is not None and before != use.start:
            late = self._wall() - use.start
            self._figures.changes.add(late, 1)
            self._figures.changes_late += late > LATE_CHANGE

    def _alarm(self, alarm: Alarm) -> None:
        if alarm.code == "held-key":
            (self._held.add if alarm.active else self._held.discard)((alarm.service, alarm.stream))
        fields = {
            "event": "alarm", "code": alarm.code, "service": alarm.service, "stream": alarm.stream, "active": alarm.active,
            "text": alarm.text,
        }  # fmt: skip
        LOG.log(logging.WARNING if alarm.active else logging.INFO, "%s: %s", alarm.code, alarm.text, extra={"fields": fields})
        self._link.say(alarm)

    def _reloaded(self) -> None:
        """Another configuration.  Where plans were refused that it knows, the BSD/A hands them out anew."""
        settings = self._reload()
        if settings is not None:
            self._execute(self._edge.keep(_streams(settings)))
            self._repeater.regroup(settings.groups, time.monotonic())
            LOG.info("reloaded", extra={"fields": {"event": "reloaded"}})
            if self._figures.strangers:
                self._figures.strangers = 0
                self._link.again()

    # --- the other headend ----------------------------------------------------------------------------------------------

    def _beat(self, now: float) -> None:
        """Say how we are.  Who has nothing to send, and no key to say so under, is silent."""
        place = self._settings.heartbeat
        self._active(now)
        if place is not None and self._me:
            beat = self._election.beat(self._able, self._edge.lacking, self._wall(), self._me)
            try:
                self._beating.sendto(heartbeat.encode(beat, self._mark), place)
            except OSError as error:
                self._wire.errors[f"heartbeat {error.strerror}"] += 1

    def _hear(self, beats: socket.socket) -> None:
        for _ in range(TOGETHER):
            try:
                data = beats.recv(heartbeat.LARGEST + 1)
            except OSError:
                return
            try:
                beat = heartbeat.decode(data, self._mark)
            except BcastError:
                self._figures.refused += 1
                continue
            wall, now = self._wall(), time.monotonic()
            taken = self._election.heard(beat, now, wall)
            if taken and not beat.missing and beat == min(self._election.peers(now), key=lambda peer: peer.rank, default=None):
                self._execute(self._edge.other_sends(beat.time / 1000, wall))
            if abs(wall - beat.time / 1000) > self._settings.detection and not self._said_clocks:
                self._said_clocks = True
                text = "a heartbeat of %s is refused: its time is not ours (%+.1f s); do the clocks agree?"
                fields = {"event": "heartbeat-refused", "peer": beat.me}
                LOG.warning(text, beat.me, beat.time / 1000 - wall, extra={"fields": fields})

    def _changed(self) -> None:
        """The other headend is told at once."""
        if self._settings.heartbeat is not None:
            self._beat(time.monotonic())

    # --- what it shows --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain figures; ``lateness``: (upper edge in microseconds, datagrams)."""
        repeater, figures, election, edge = self._repeater, self._figures, self._election, self._edge
        table, changes = figures.lateness.table(), figures.changes.table()
        reach = edge.reach(self._wall())
        light, why = self._light(table, reach)
        return {
            "process": "stkm", "bsda": self._me, "light": light, "why": why, "active": election.active, "able": self._able,
            "streams": repeater.streams, "missing": edge.lacking, "datagrams": repeater.datagrams,
            "sent": figures.sent, "missed": repeater.missed, "errors": dict(self._wire.errors),
            "reach": round(reach, 1), "held": len(self._held), "strangers": figures.strangers,
            "changes": sum(count for _, count in changes), "changes_late": figures.changes_late,
            "change_us": {"p50": quantile(changes, 0.5), "p99": quantile(changes, 0.99)},
            "late_us": {"p50": quantile(table, 0.5), "p99": quantile(table, 0.99), "worst": round(figures.lateness.worst * 1e6)},
            "lateness": table, "peers": [beat.me for beat in election.peers(time.monotonic())],
            "refused": self._link.refused, "strange_heartbeats": figures.refused + election.strange,
            "up": round(time.monotonic() - self._began, 1),
        }  # fmt: skip

    def _light(self, table: list[tuple[int, int]], reach: float) -> tuple[str, str]:
        recent = growth(self._figures.table_then, table)
        late = quantile(recent, 0.99)
        if self._held:
            return "red", f"the last key of {len(self._held)} streams is held"
        if not self._able:
            return (
                ("red", "no BSD/A, and nothing is planned")
                if reach <= 0
                else ("yellow", f"no BSD/A: the plans reach {reach:.0f} s")
            )
        if self._edge.lacking:
            return "yellow", f"{self._edge.lacking} streams have no STKM for what comes"
        if late is not None and not 0 <= late <= LATE * 1e6:
            return "yellow", f"late: p99 {late} us"
        if self._repeater.missed > self._figures.missed_then:
            return "yellow", "repetitions were left out"
        return "green", "" if self._election.active else "another headend sends"

    def _line(self, now: float) -> None:
        """A line of figures, of the time since the last one."""
        if gc.get_count()[0] > GARBAGE:
            gc.collect()
            gc.freeze()
        figures, repeater = self._figures, self._repeater
        table = figures.lateness.table()
        recent = growth(figures.table_then, table)
        fields = {
            "event": "figures", "streams": repeater.streams, "missing": self._edge.lacking, "active": self._election.active,
            "datagrams_per_s": round((figures.sent - figures.sent_then) / max(1e-3, now - figures.said_at), 1)
            if figures.said_at
            else None,
            "late_us_p50": quantile(recent, 0.5), "late_us_p99": quantile(recent, 0.99),
            "missed": repeater.missed - figures.missed_then, "changes_late": figures.changes_late,
            "errors": dict(self._wire.errors),
        }  # fmt: skip
        LOG.info(
            "%d streams on air, 99 of 100 datagrams less than %s us late, %d repetitions left out", repeater.streams,
            fields["late_us_p99"], fields["missed"], extra={"fields": fields},
        )  # fmt: skip
        figures.said_at, figures.sent_then, figures.table_then = now, figures.sent, table
        figures.missed_then = repeater.missed


def _streams(settings: Settings) -> set[tuple[str, int]]:
    return {(service, stream) for service, stream, _ in settings.groups}
