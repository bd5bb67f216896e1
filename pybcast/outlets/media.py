# SPDX-License-Identifier: Apache-2.0
"""The way of media through a process: UDP in, each packet converted under the keys of its stream, UDP out.

One event loop carries keys and packets of any number of streams: what waits in a socket is read, converted and sent in one go,
with two calls of the system for a packet.  Nothing waits for anything: a datagram that the system does not take is lost, as on
any network.

RTCP goes through in clear, unchanged, as long as media may: the layout notes define traffic keys for media packets only
(confidence: own).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.flows.events import Alarm
from pybcast.outlets.keyline import KeyOutput
from pybcast.outlets.keysocket import KeyReader
from pybcast.outlets.udp import BURST, Pair, drain
from pybcast.wire.times import NTP_UNIX

LOG: Final = logging.getLogger("pybcast.media")
LOOK: Final = 1.0  # seconds between two looks at what no packet brings: an end of authority, alarms that are over

Clock = Callable[[], float]
"""64-bit NTP seconds."""


def ntp_now() -> float:
    """The machine's clock."""
    return time.time() + NTP_UNIX


class Converter(Protocol):
    """Turns packets of one stream into others under keys: an ``Outlet`` too.  Sans-I/O."""

    service: str
    stream: int

    def put(self, output: KeyOutput) -> None: ...
    def may_pass(self, now: float) -> bool:
        """May anything of this stream go out?"""

    def convert(self, packet: bytes, now: float) -> bytes | None:
        """What to send for a packet; ``None`` for nothing.  Never raises."""

    def look(self, now: float) -> None:
        """Let time pass where no packet comes."""

    def figures(self) -> dict[str, Any]:
        """What to show an operator."""

    def wipe(self) -> None:
        """Forget the keys."""


class Alarms:
    """Alarms of one stream: each is raised once and taken back once."""

    def __init__(self, service: str, stream: int, tell: Callable[[Alarm], None]) -> None:
        self._service, self._stream, self._tell = service, stream, tell
        self._active: dict[str, str] = {}

    @property
    def active(self) -> tuple[str, ...]:
        return tuple(self._active)

    def set(self, code: str, text: str) -> None:
        if self._active.get(code) != text:
            self._active[code] = text
            self._tell(Alarm(code, self._service, self._stream, text))

    def set_once(self, code: str, text: str) -> None:
        """Raise it with the first text; other texts are not told while it lasts."""
        if code not in self._active:
            self.set(code, text)

    def clear(self, code: str) -> None:
        if code in self._active:
            del self._active[code]
            self._tell(Alarm(code, self._service, self._stream, active=False))


def log_alarm(alarm: Alarm) -> None:
    """An alarm as a log record."""
    fields = {"event": "alarm", "code": alarm.code, "service": alarm.service, "stream": alarm.stream, "active": alarm.active}
    say = LOG.warning if alarm.active else LOG.info
    say("%s: %s", alarm.code, alarm.text if alarm.active else "over", extra={"fields": fields})


class Route:
    """One stream's way: what arrives at ``source`` goes through ``converter`` to every pair of ``targets``."""

    def __init__(self, converter: Converter, source: Pair, targets: Sequence[Pair], clock: Clock = ntp_now) -> None:
        self.converter, self.source, self.targets = converter, source, targets
        self.sent = self.lost = 0
        """Datagrams that the system took, and that it did not take."""
        self._clock = clock
        self._rtp = tuple(target.rtp.send for target in targets)
        self._rtcp = tuple(target.rtcp.send for target in targets)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry packets whenever some wait."""
        loop.add_reader(self.source.rtp, self.carry)
        loop.add_reader(self.source.rtcp, self.carry_rtcp)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry what waits, then no more; the sockets are closed."""
        loop.remove_reader(self.source.rtp)
        loop.remove_reader(self.source.rtcp)
        self.carry()
        self.carry_rtcp()
        for pair in (self.source, *self.targets):
            pair.close()

    def carry(self) -> None:
        """Convert and send what waits, at most a burst of it."""
        now, convert = self._clock(), self.converter.convert
        for packet in drain(self.source.rtp, BURST, self.source.senders):
            converted = convert(packet, now)
            if converted is not None:
                self._send(self._rtp, converted)

    def carry_rtcp(self) -> None:
        """Pass on what waits of RTCP."""
        may = self.converter.may_pass(self._clock())
        for packet in drain(self.source.rtcp, BURST, self.source.senders):
            if may:
                self._send(self._rtcp, packet)

    def look(self) -> None:
        """Let time pass where no packet comes."""
        self.converter.look(self._clock())

    def _send(self, targets: Iterable[Callable[[bytes], int]], packet: bytes) -> None:
        for send in targets:
            try:
                send(packet)
                self.sent += 1
            except ConnectionRefusedError:
                self._again(send, packet)
            except OSError:  # its buffer is full, or the network is down
                self.lost += 1

    def _again(self, send: Callable[[bytes], int], packet: bytes) -> None:
        """The refusal was of an earlier datagram: this one has not been sent."""
        try:
            send(packet)
            self.sent += 1
        except OSError:
            self.lost += 1

    def figures(self) -> dict[str, Any]:
        """What to show an operator."""
        converter = self.converter
        return {
            "service": converter.service, "stream": converter.stream, **converter.figures(), "sent": self.sent, "lost": self.lost
        }  # fmt: skip


class Routing:
    """Routes of streams that follow one key socket, until ``stop``.

    ``tell`` is given the figures of every route each ``every`` seconds (0: never), and at the end.  ``beside`` is called about once
    a second, and at the end.
    """

    def __init__(
        self,
        keys: Path,
        routes: Iterable[Route],
        *,
        every: float = 0.0,
        tell: Callable[[dict[str, Any]], None] | None = None,
        beside: Callable[[], None] | None = None,
    ) -> None:
        self.routes = tuple(routes)
        self.reader = KeyReader(keys, self._put)
        self._every, self._tell, self._beside = every, tell or (lambda figures: None), beside or (lambda: None)
        self._stop = asyncio.Event()
        self._takers: dict[tuple[str, int], list[Converter]] = {}
        for route in self.routes:
            self._takers.setdefault((route.converter.service, route.converter.stream), []).append(route.converter)

    def stop(self) -> None:
        """End ``run``; to be called in its loop."""
        self._stop.set()

    async def run(self) -> None:
        """Carry packets until ``stop``; what waits then is still carried."""
        loop = asyncio.get_running_loop()
        following = asyncio.create_task(self.reader.run())
        following.add_done_callback(lambda _: self._stop.set())  # it never ends unless something is wrong with us
        try:
            for route in self.routes:
                route.open(loop)
            await self._watch(loop)
        finally:
            following.cancel()
            for route in self.routes:
                route.close(loop)
            self._beside()
            self.say()
            for route in self.routes:
                route.converter.wipe()
            with suppress(asyncio.CancelledError):
                await following

    async def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        said = loop.time()
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK)
            for route in self.routes:
                route.look()
            self._beside()
            if self._every and loop.time() - said >= self._every:
                said = loop.time()
                self.say()

    def say(self) -> None:
        """Tell the figures of every route."""
        for route in self.routes:
            self._tell({"event": "Statistics", "keys": self.reader.connected, **route.figures()})

    def _put(self, output: KeyOutput) -> None:
        for converter in self._takers.get((output.service, output.stream), ()):
            converter.put(output)


def figures_line(figures: Mapping[str, Any]) -> str:
    """Figures for people."""
    shown = {name: value for name, value in figures.items() if name not in ("event", "service", "stream")}
    return f"{figures['service']} stream {figures['stream']}: " + ", ".join(
        f"{name.replace('_', ' ')} {', '.join(value) or 'none' if isinstance(value, list) else value}"
        for name, value in shown.items()
    )
