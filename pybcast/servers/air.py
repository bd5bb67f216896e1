# SPDX-License-Identifier: Apache-2.0
"""Where a BSD/A's outputs to the air and to encoders go.

A sink takes ``Announce``, ``OffAir``, ``NextKey``, ``UseKey``, ``StopTraffic``, ``CarouselPut`` and ``CarouselDrop``, and reports
when the first datagram of an announced period has left (``Edge.announced``): R6 and R40 count from there.  It is told everything
anew after a restart.  ``ProcessAir`` gives it to the processes that send (``broadcast``); the others count, and write down: ids,
lengths and digests of what goes on air, the bytes themselves where that is wanted, of keys the lengths.
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
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from pybcast.broadcast.link import Held, LinkClient, Report
from pybcast.errors import ConfigError
from pybcast.flows.events import Alarm, Announce, CarouselDrop, CarouselPut, NextKey, OffAir, StopTraffic, UseKey
from pybcast.secret import Secret
from pybcast.servers.runner import AirOutput

LOG: Final = logging.getLogger("pybcast.air")
Announced = Callable[[str, int, int], None]
"""(service, stream, start of the period): its first STKM has left."""
EVENTS_LIMIT: Final = 100 << 20  # octets of a file of events: some hours of a thousand services - confidence: own
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
        self._lines.write(json.dumps(described(output, content=self._content)))
        super().put(output, announced)

    def close(self) -> None:
        self._lines.close()


class ProcessAir:
    """Gives STKMs to the sender's process and carousel objects to the carousel's, and everything to ``beside``.

    ``sender``, ``carousel``: their sockets.  A period counts as announced when the sender says that it has left, never earlier;
    where there is no sender it is as ``beside`` says.  ``commit``, ``silent``: see ``LinkClient``; ``here(process, token, held)``:
    what a process says when it comes.  A process that is not there is an alarm and a red light: the machine then
    holds the key in use (R40), and this tries to reach it for ever.
    """

    def __init__(
        self,
        beside: Air,
        *,
        me: str,
        pair: Secret | None,
        sender: Path | None,
        carousel: Path | None,
        announced: Announced,
        alarm: Callable[[Alarm], None],
        commit: Callable[[], str] = lambda: "",
        here: Callable[[str, str, Collection[Held]], None] = lambda *_: None,
        silent: bool = False,
    ) -> None:
        self._beside, self._announced, self._alarm = beside, announced, alarm
        self._clients: dict[str, LinkClient] = {}
        self._raised: set[str] = set()
        mark = b"" if pair is None else heartbeat_key(pair)
        for name, path in (("sender", sender), ("carousel", carousel)):
            if path is not None:
                self._clients[name] = LinkClient(
                    path, me=me, mark=mark, announced=self._left, changed=partial(self._changed, name), commit=commit,
                    here=partial(here, name), silent=silent,
                )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []

    def put(self, output: AirOutput, announced: Announced) -> None:
        sender, carousel = self._clients.get("sender"), self._clients.get("carousel")
        self._beside.put(output, announced if sender is None else _not_yet)
        match output:
            case Announce() | OffAir() if sender is not None:
                sender.put(output)
            case CarouselPut() | CarouselDrop() if carousel is not None:
                carousel.put(output)

    def keep(self, periods: Collection[tuple[str, int, int]]) -> None:
        """Of what was said only these (service, stream, start)s are still on air."""
        if "sender" in self._clients:
            self._clients["sender"].keep(periods)

    async def spoken(self) -> None:
        """Until each process has said what it has on air, or could not be reached."""
        for client in self._clients.values():
            await client.tried.wait()

    def speak(self) -> None:
        """Tell the processes what the machine says."""
        for client in self._clients.values():
            client.speaking.set()

    def forget(self) -> None:
        """What was said before was another store's; what comes from now on is said on new connections."""
        for client in self._clients.values():
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

    def _left(self, reports: Collection[Report]) -> None:
        for report in reports:
            self._announced(*report)

    def _changed(self, name: str, there: bool, why: str) -> None:
        code = f"{name}-lost"
        if not there:
            if name not in self._raised:
                self._raised.add(name)
                self._alarm(Alarm(code, "", None, why))
        else:
            LOG.info("the %s is there", name, extra={"fields": {"event": f"{name}-there"}})
            if name in self._raised:
                self._raised.remove(name)
                self._alarm(Alarm(code, "", None, active=False))


def _not_yet(service: str, stream: int, start: int) -> None:
    """What was only written down has not left."""


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
