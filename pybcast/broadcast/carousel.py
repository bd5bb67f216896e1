# SPDX-License-Identifier: Apache-2.0
"""The carousel: a process that sends LTKMs and registration objects again and again, whatever becomes of its BSD/A.

On two channels, one or both: the LTKM push, a message a datagram; and FLUTE, bundles of them with repair symbols.  Each turns in
the cycles of the services (R7) and stays below its rate; where the cycles ask for more, they get longer, and the log says so.
"""

from __future__ import annotations

import hashlib
import logging
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pybcast.broadcast.bundle import MAX_MESSAGE
from pybcast.broadcast.datagrams import sending
from pybcast.broadcast.link import Ask, Begin, End, Gone, Said, Which
from pybcast.broadcast.linkserver import LinkServer
from pybcast.broadcast.repeater import Place
from pybcast.broadcast.segments import LIFETIME, Encoder
from pybcast.broadcast.turn import Wheels
from pybcast.flows.events import CarouselDrop, CarouselPut
from pybcast.flows.stream.config import CAROUSEL_CYCLE

LOG: Final = logging.getLogger("pybcast.air")
IDLE: Final = 1.0  # seconds: the longest sleep
NAP: Final = 0.001  # seconds: the shortest; what is due in it leaves together
TAKEN: Final = 4  # messages of the BSD/A between two looks at what is due: a page of a thousand LTKMs takes some 3 ms
STRETCHED: Final = 1.1  # a factor by which a stretch has changed enough to be said again


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the carousel is told by its configuration.

    ``ltkm``, ``flute``: where the two channels go.  ``rate``: bits a second of each.  ``cycles``: seconds of a turn for each
    service; of what belongs to no service (R29), the shortest.
    """

    path: Path
    ltkm: Place | None = None
    flute: Place | None = None
    tsi: int = 1
    rate: float = 2_000_000
    interface: str = "127.0.0.1"
    ttl: int = 1
    cycles: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Object:
    put: CarouselPut
    digest: bytes
    version: int
    encoded: float = 0.0


class Contents:
    """What turns, on both channels; without input and output.  Times: ``now`` monotonic, ``wall`` Unix seconds."""

    def __init__(self, settings: Settings) -> None:
        self._cycles = dict(settings.cycles)
        self.push = Wheels(settings.rate) if settings.ltkm is not None else None
        self.flute = Wheels(settings.rate) if settings.flute is not None else None
        self._encoder = None if settings.flute is None else Encoder(settings.tsi, int(time.time()))
        self._objects: dict[str, _Object] = {}
        self._unsaid: set[str] | None = None  # what was not said again since the BSD/A came
        self._version = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def messages(self) -> int:
        return sum(len(held.put.data) for held in self._objects.values())

    def begin(self) -> None:
        """A BSD/A says everything anew."""
        self._unsaid = set(self._objects)

    def end(self) -> None:
        """What it did not say again is over."""
        for name in self._unsaid or ():
            self.drop(name)
        self._unsaid = None

    def gone(self) -> None:
        """It is dead before it said all: nothing is over."""
        self._unsaid = None

    def put(self, put: CarouselPut, now: float, wall: float) -> None:
        """Send it from now on.  Said again as it is, it keeps its place."""
        if self._unsaid is not None:
            self._unsaid.discard(put.object_id)
        digest = _digest(put)
        held = self._objects.get(put.object_id)
        if held is not None and held.digest == digest:
            return
        good = tuple(data for data in put.data if 0 < len(data) <= MAX_MESSAGE)
        if len(good) < len(put.data):
            self.refused += len(put.data) - len(good)
            put = CarouselPut(put.object_id, put.service, good)
        self._version = max(self._version + 1, int(wall * 1000))
        made = self._objects[put.object_id] = _Object(put, digest, self._version)
        if self.push is not None:
            self.push.put(put.object_id, self._cycle(put.service), put.data, now)
        self._encode(made, now)

    def drop(self, name: str) -> None:
        if self._objects.pop(name, None) is not None:
            for wheels in (self.push, self.flute):
                if wheels is not None:
                    wheels.drop(name)

    def renew(self, now: float) -> bool:
        """Encode one object whose description is half over.  Whether there may be another."""
        if self.flute is None:
            return False
        old = next((held for held in self._objects.values() if held.encoded < now - LIFETIME / 2), None)
        if old is not None:
            self._encode(old, now)
        return old is not None

    def regroup(self, cycles: Mapping[str, float], now: float) -> None:
        """Other cycles: what they change for begins its turn anew."""
        before, self._cycles = {name: self._cycle(held.put.service) for name, held in self._objects.items()}, dict(cycles)
        for name, held in self._objects.items():
            if self._cycle(held.put.service) != before[name]:
                if self.push is not None:
                    self.push.put(name, self._cycle(held.put.service), held.put.data, now)
                self._encode(held, now)

    def _encode(self, held: _Object, now: float) -> None:
        held.encoded = now
        if self.flute is not None and self._encoder is not None:
            datagrams = self._encoder.encode(held.put.object_id, held.version, held.put.data)
            self.flute.put(held.put.object_id, self._cycle(held.put.service), datagrams, now)

    def _cycle(self, service: str) -> float:
        return self._cycles.get(service) or min(self._cycles.values(), default=CAROUSEL_CYCLE)


def _digest(put: CarouselPut) -> bytes:
    made = hashlib.sha256(put.service.encode())
    for data in put.data:
        made.update(len(data).to_bytes(4))
        made.update(data)
    return made.digest()


class Carousel:
    """The process.  ``reload`` gives the settings anew (SIGHUP), ``None`` when they cannot be used.  ``ready`` is called when it
    listens.
    """

    def __init__(
        self, settings: Settings, *, reload: Callable[[], Settings | None] = lambda: None, ready: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._reload, self._ready = settings, reload, ready
        self._contents = Contents(settings)
        self._link = LinkServer(settings.path)
        self._channels: list[tuple[str, Wheels, Place]] = []
        for name, wheels, place in (("push", self._contents.push, settings.ltkm), ("flute", self._contents.flute, settings.flute)):
            if wheels is not None and place is not None:
                self._channels.append((name, wheels, place))
        self._sent: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._said_stretch: dict[str, float] = {}
        self._stop = False
        self._hangup = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT.  ``ConfigError`` when the socket or the interface cannot be had."""
        with sending(self._settings.interface, self._settings.ttl) as out, self._signals() as woken:
            try:
                self._link.open()
                self._ready()
                self._serve(out, woken)
            finally:
                self._link.close()

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        def note(number: int, _: object) -> None:
            if number == signal.SIGHUP:
                self._hangup = True
            else:
                self._stop = True

        woken, waking = socket.socketpair()
        woken.setblocking(False)
        waking.setblocking(False)
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        wakeup = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            woken.close()
            waking.close()

    def _serve(self, out: socket.socket, woken: socket.socket) -> None:
        link, read = self._link, [self._link.fileno(), woken.fileno()]
        look = time.monotonic()
        while not self._stop:
            now = time.monotonic()
            for name, wheels, place in self._channels:
                self._send(out, name, wheels.take(now), place)
            if now >= look:
                self._look()
                look = now + (0.0 if self._contents.renew(now) else IDLE)
            due = min((at for _, wheels, _ in self._channels if (at := wheels.due()) is not None), default=look)
            wait = 0.0 if link.waiting else max(NAP, min(due, look) - time.monotonic())
            ready, _, _ = select.select(read, (), (), min(wait, IDLE))
            if woken.fileno() in ready:
                woken.recv(4096)
            if self._hangup:
                self._hangup = False
                self._reloaded()
            if link.waiting or link.fileno() in ready:
                for said in link.poll(TAKEN):
                    self._said(said)

    def _send(self, out: socket.socket, name: str, datagrams: Sequence[bytes], place: Place) -> None:
        for datagram in datagrams:
            try:
                out.sendto(datagram, place)
            except OSError as error:  # one of a cycle: the next has it again
                self._errors[error.strerror or "error"] += 1
            else:
                self._sent[name] += 1

    def _said(self, said: Said) -> None:
        contents = self._contents
        match said:
            case CarouselPut():
                refused = contents.refused
                contents.put(said, time.monotonic(), time.time())
                if contents.refused > refused:
                    oversize = {"event": "carousel-oversize", "object": said.object_id, "service": said.service}
                    LOG.error("%s: an object that fits into no datagram is not on air", said.service, extra={"fields": oversize})
            case CarouselDrop(name):
                contents.drop(name)
            case Begin(me, _):
                contents.begin()
                LOG.info("the BSD/A %s has come", me, extra={"fields": {"event": "bsda-came", "bsda": me}})
            case End():
                contents.end()
                fields: dict[str, object] = {"event": "bsda-said", "objects": len(contents), "messages": contents.messages}
                LOG.info("the BSD/A has said what turns: %d objects", len(contents), extra={"fields": fields})
            case Gone(why):
                contents.gone()
                fields = {"event": "bsda-gone", "objects": len(contents), "why": why}
                LOG.warning("the BSD/A is gone: the carousel goes on (%d objects)", len(contents), extra={"fields": fields})
            case Which():
                self._link.here(said)
            case Ask():
                self._link.answer(said, self.state())
            case _:
                pass  # the sender's

    def _look(self) -> None:
        """Say when the cycles do not fit below the rate, and when they do again."""
        for name, wheels, _ in self._channels:
            stretch, said = wheels.stretch, self._said_stretch.get(name, 1.0)
            if stretch == said or (stretch > 1.0 and 1 / STRETCHED < stretch / said < STRETCHED):
                continue
            self._said_stretch[name] = stretch
            fields = {"event": "carousel-stretched", "channel": name, "stretch": round(stretch, 2), "wanted": int(wheels.wanted)}
            if stretch > 1.0:
                text = "%s: cycles are %.1f times as long as they should be: rate = %d in [air] would do"
                LOG.warning(text, name, stretch, wheels.enough, extra={"fields": fields | {"enough": wheels.enough}})
            else:
                LOG.info("%s: cycles fit below the rate", name, extra={"fields": fields})

    def _reloaded(self) -> None:
        settings = self._reload()
        if settings is not None:
            self._contents.regroup(settings.cycles, time.monotonic())
            LOG.info("reloaded", extra={"fields": {"event": "reloaded"}})

    def state(self) -> dict[str, Any]:
        """Figures, for who asks."""
        contents = self._contents
        light, why = self._light()
        found: dict[str, Any] = {
            "light": light, "why": why, "objects": len(contents), "messages": contents.messages, "refused": contents.refused,
            "connected": self._link.connected, "errors": dict(self._errors),
        }  # fmt: skip
        for name, wheels, _ in self._channels:
            found[name] = {
                "sent": self._sent[name], "datagrams": wheels.datagrams, "octets": wheels.octets, "wanted": int(wheels.wanted),
                "stretch": wheels.stretch, "turns": {f"{cycle:g}": turns for cycle, turns in wheels.turns().items()},
            }  # fmt: skip
        return found

    def _light(self) -> tuple[str, str]:
        if not self._link.connected:
            return "red", "no BSD/A: what turns is held"
        slowest = max((wheels for _, wheels, _ in self._channels), key=lambda wheels: wheels.stretch)
        if slowest.stretch > 1.0:
            return "yellow", f"cycles are {slowest.stretch:.1f} times as long: rate = {slowest.enough} in [air] would do"
        return "green", ""
