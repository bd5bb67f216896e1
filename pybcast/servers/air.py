# SPDX-License-Identifier: Apache-2.0
"""Where a BSD/A's outputs to the air and to encoders go.

With processes that send (``broadcast``), plans and recalls go to the edge in the STKM sender, which executes them and says what
became of them, and what is broadcast in cycles to the carousel.  A BSD/A without a sender has its edge itself; then a sink takes
``Announce``, ``OffAir``, ``NextKey``, ``UseKey`` and ``StopTraffic``, and reports when the first datagram of an announced period
has left (``Edge.announced``): R6 and R40 count from there.  The sinks here count, and write down: ids, lengths and digests of what
goes on air, the bytes themselves where that is wanted, of keys the lengths.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.broadcast.link import Executed, Here
from pybcast.broadcast.linkclient import LinkClient, ObjectClient, PlanClient
from pybcast.errors import ConfigError
from pybcast.flows.events import (
    Alarm,
    Announce,
    CarouselDrop,
    CarouselPut,
    NextKey,
    OffAir,
    Plan,
    PlanBegun,
    PlanRefused,
    Recall,
    Recalled,
    StopTraffic,
    UseKey,
)
from pybcast.secret import Secret
from pybcast.servers.runner import AirOutput

LOG: Final = logging.getLogger("pybcast.air")
Announced = Callable[[str, int, int], None]
"""(service, stream, start of the period): its first STKM has left."""
EVENTS_LIMIT: Final = 100 << 20  # octets of a file of events: some hours of a thousand services - confidence: own
LASTING: Final = frozenset({"held-key", "plan-short"})
"""Alarms that the edge takes back; the others are of a moment."""
AGAIN: Final = 1.0  # seconds after which a link that failed in a way nobody foresaw is tried again - confidence: own


class Air(Protocol):
    """A sink.  ``put`` must not block; what it raises stops the server."""

    def put(self, output: AirOutput, announced: Announced) -> None: ...
    def close(self) -> None: ...


class CountingAir:
    """Counts, and takes everything as sent."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def put(self, output: AirOutput, announced: Announced) -> None:
        self.counts[type(output).__name__] += 1
        if isinstance(output, Announce):
            announced(output.service, output.stream, output.start)

    def close(self) -> None:
        """Nothing to let go of."""


class Lines:
    """Lines in a file that does not grow for ever, or (``-``) on standard output.

    A file of more than ``limit`` octets becomes ``NAME.1``, in the place of the one before, and a new one begins.  A reader that
    went away, or a full disk, is logged once and does not stop the server: this is a record, not the air.  When there is room the
    file goes on, with a whole line.
    """

    def __init__(self, where: str, limit: int) -> None:
        self._where, self._limit = where, limit
        self._handle: int | None = None
        self._size = 0
        self._failed = self._torn = False
        if where != "-":
            try:
                self._open()
            except OSError as error:
                raise ConfigError(f"air.events: {where}: {error.strerror}") from None

    def _open(self) -> None:
        self._handle = os.open(self._where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._size = os.fstat(self._handle).st_size

    def write(self, line: str) -> None:
        if self._failed and self._where == "-":
            return
        try:
            if self._where == "-":
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            else:
                self._append((line + "\n").encode())
        except OSError as error:
            if not self._failed:
                LOG.error("events are not written: %s", error.strerror, extra={"fields": {"event": "events-lost"}})
            self._failed = True
        else:
            if self._failed:
                LOG.info("events are written again", extra={"fields": {"event": "events-again"}})
            self._failed = False

    def _append(self, data: bytes) -> None:
        if self._handle is None:
            self._open()
        if self._size >= self._limit:
            self.close()
            Path(self._where).replace(f"{self._where}.1")
            self._open()
        assert self._handle is not None
        data = b"\n" * self._torn + data
        written = os.write(self._handle, data)
        self._size += written
        self._torn = written < len(data)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class JsonLinesAir(CountingAir):
    """Writes one JSON object a line (see ``Lines``).

    ``content``: with the STKMs and carousel objects in hexadecimal, as every terminal may hear them.
    """

    def __init__(self, where: str, *, content: bool = False, limit: int = EVENTS_LIMIT) -> None:
        super().__init__()
        self._content = content
        self._lines = Lines(where, limit)

    def put(self, output: AirOutput, announced: Announced) -> None:
        self.show(output)
        super().put(output, announced)

    def show(self, output: AirOutput) -> None:
        """Write it down."""
        self._lines.write(json.dumps(described(output, content=self._content)))

    def close(self) -> None:
        self._lines.close()


class Machine(Protocol):
    """Is told what the edge says, each as an input of its own (``flows.BSDA``)."""

    def connected(self, here: Here) -> None: ...
    def disconnected(self) -> None: ...
    def executed(self, said: Recalled | PlanRefused | PlanBegun) -> None: ...


class ProcessAir:
    """Gives plans to the edge in the STKM sender's process and carousel objects to the carousel's, and everything to ``beside``.

    ``sender``, ``carousel``: their sockets.  ``machine``: hears from the edge.  ``commit``, ``silent``: see ``LinkClient``;
    ``here(process, said)``: what a process says when it comes.  The edge's alarms are raised as ours.  A process that is not there
    is an alarm and a red light, and this tries to reach it for ever; the edge meanwhile goes on with what was planned.
    """

    def __init__(
        self,
        beside: Air,
        *,
        me: str,
        pair: Secret | None,
        sender: Path | None,
        carousel: Path | None,
        machine: Machine,
        alarm: Callable[[Alarm], None],
        commit: Callable[[], str] = lambda: "",
        here: Callable[[str, Here], None] = lambda *_: None,
        silent: bool = False,
    ) -> None:
        self._beside, self._machine, self._alarm = beside, machine, alarm
        self._raised: set[str] = set()
        self._edge_alarms: dict[tuple[str, str, int | None], Alarm] = {}
        mark = b"" if pair is None else heartbeat_key(pair)

        def options(name: str) -> dict[str, Any]:
            return {
                "me": me, "mark": mark, "changed": partial(self._changed, name), "commit": commit, "here": partial(here, name),
                "silent": silent,
            }  # fmt: skip

        self.edge = None if sender is None else PlanClient(
            sender, came=self._came, executed=self._executed, **options("sender"),
        )  # fmt: skip
        self._carousel = None if carousel is None else ObjectClient(carousel, **options("carousel"))
        clients: dict[str, LinkClient | None] = {"sender": self.edge, "carousel": self._carousel}
        self._clients = {name: client for name, client in clients.items() if client is not None}
        self._tasks: list[asyncio.Task[None]] = []

    def put(self, output: AirOutput, announced: Announced) -> None:
        match output:
            case Plan() | Recall() if self.edge is not None:
                self.edge.put(output)
                return
            case CarouselPut() | CarouselDrop() if self._carousel is not None:
                self._carousel.put(output)
        self._beside.put(output, announced)

    async def spoken(self) -> None:
        """Until each process has said what it has, or could not be reached."""
        for client in self._clients.values():
            await client.tried.wait()

    def speak(self) -> None:
        """Tell the processes what the machine says."""
        for client in self._clients.values():
            client.speaking.set()

    def forget(self) -> None:
        """What was said before was another store's; what comes from now on is said on new connections."""
        for client in (self.edge, self._carousel):
            if client is not None:
                client.forget()

    def start(self) -> None:
        """Look for the processes, from now on."""
        self._tasks = [asyncio.create_task(self._run(name, client)) for name, client in self._clients.items()]

    async def stop(self) -> None:
        """The processes go on with what they have."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        self._beside.close()

    def holds(self, service: str, stream: int) -> bool:
        """Whether the edge has said that it holds the last key of a stream."""
        return ("held-key", service, stream) in self._edge_alarms

    def lights(self) -> Iterator[dict[str, Any]]:
        """How the processes are, as they last said."""
        for name, client in self._clients.items():
            state = client.state
            if not client.connected:
                yield {"air": name, "light": "red", "why": client.why}
            else:
                yield {"air": name, "light": state.get("light", "yellow"), "why": state.get("why", "has not said yet")} | {
                    key: value for key, value in state.items() if key not in ("light", "why", "lateness")
                }

    async def _run(self, name: str, client: LinkClient) -> None:
        while True:
            try:
                await client.run()
            except Exception as error:
                LOG.error("the link to the %s failed", name, exc_info=error, extra={"fields": {"event": "link-failed"}})
                await asyncio.sleep(AGAIN)

    def _came(self, here: Here) -> None:
        """The edge says what it has, and which alarms hold."""
        there = {(alarm.code, alarm.service, alarm.stream): alarm for alarm in here.alarms}
        for name, alarm in list(self._edge_alarms.items()):
            if name not in there:
                self._edge_says(Alarm(alarm.code, alarm.service, alarm.stream, active=False))
        for name, alarm in there.items():
            if name not in self._edge_alarms:
                self._edge_says(alarm)
        self._machine.connected(here)

    def _executed(self, said: Executed) -> None:
        if isinstance(said, Alarm):
            self._edge_says(said)
        else:
            self._machine.executed(said)

    def _edge_says(self, alarm: Alarm) -> None:
        name = (alarm.code, alarm.service, alarm.stream)
        if not alarm.active:
            self._edge_alarms.pop(name, None)
        elif alarm.code in LASTING:
            self._edge_alarms[name] = alarm
        self._alarm(alarm)

    def _changed(self, name: str, there: bool, why: str) -> None:
        code = f"{name}-lost"
        if not there:
            if name == "sender":
                self._machine.disconnected()
            if name not in self._raised:
                self._raised.add(name)
                self._alarm(Alarm(code, "", None, why))
        else:
            LOG.info("the %s is there", name, extra={"fields": {"event": f"{name}-there"}})
            if name in self._raised:
                self._raised.remove(name)
                self._alarm(Alarm(code, "", None, active=False))


def heartbeat_key(pair: Secret) -> bytes:
    """By which the senders of a pair know each other's heartbeats; nothing of the pair's other keys follows from it.

    confidence: own
    """
    return hmac.digest(pair.reveal(), b"pybcast sender heartbeat", "sha256")


def described(output: AirOutput, *, content: bool = False) -> dict[str, Any]:
    """What may be said of an output: no byte of a key, and of what goes on air a digest; with ``content`` the bytes too."""
    said: dict[str, Any] = {"event": type(output).__name__}
    match output:
        case Announce():
            stkms: list[dict[str, Any]] = [
                {"profile": s.profile, "octets": len(s.data), "sha256": hashlib.sha256(s.data).hexdigest()[:32]}
                | ({"data": s.data.hex()} if content else {})
                for s in output.stkms
            ]
            said |= {
                "service": output.service, "stream": output.stream, "start": output.start, "repetition": output.repetition,
                "stkms": stkms,
            }  # fmt: skip
        case OffAir():
            said |= {"service": output.service, "stream": output.stream, "start": output.start}
        case NextKey(use, end):
            said |= _key(use) | {"end": end}
        case UseKey():
            said |= _key(output)
        case StopTraffic():
            said |= {"service": output.service, "stream": output.stream}
        case CarouselPut():
            said |= {"object": output.object_id, "service": output.service, "octets": [len(data) for data in output.data]}
            said |= {"data": [data.hex() for data in output.data]} if content else {}
        case CarouselDrop():
            said |= {"object": output.object_id}
    return said


def _key(use: UseKey) -> dict[str, Any]:
    return {
        "service": use.service, "stream": use.stream, "start": use.start, "protocol": use.protocol.name, "mki": use.mki.hex(),
        "authority_end": use.authority_end, "tek_octets": len(use.tek), "salt_octets": len(use.salt or b""),
        "auth_key_octets": len(use.auth_key or b""),
    }  # fmt: skip
