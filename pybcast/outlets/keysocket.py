# SPDX-License-Identifier: Apache-2.0
"""Traffic keys for other programs of this machine: a Unix socket of mode 0600, one JSON object a line (``keyline``).

``[air] keys`` of a BSD/A names one for encoders, ``pybcast terminal --keys`` one for players.  A reader must run as the server's
own user or root (``SO_PEERCRED``), and takes keys from no other user.  On connecting it is told the version of the lines, then what
holds - the key in use of every stream, or the keys that may be used - then each change as it happens.  A reader that loses the
connection keeps to what it was told last and connects again; what it then hears may be what it heard before.  It has nothing to
say: one that writes is cut off, and so is one that does not read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pybcast.errors import BadValue, TransportError
from pybcast.flows.events import NextKey, TekExpired, TekReady
from pybcast.outlets.keyline import FIRST_LINE, MAX_LINE, NEXT, KeyOutput, UnknownVersion, read_line, write_line
from pybcast.unixsocket import LocalServer, OtherUser, connected, opened

LOG: Final = logging.getLogger("pybcast.keys")
MAX_READERS: Final = 64  # encoders or players of one machine - confidence: own
MAX_BEHIND: Final = 8 << 20  # octets that a reader may leave unread: three changes of 10,000 streams - confidence: own
MAX_HELD: Final = 16  # keys of one stream that a new reader is told of: a terminal has those of 4 to 8 periods (R42)
RETRY: Final = (
    0.05,
    0.1,
    0.2,
    0.5,
)  # seconds until connecting again; the last for ever: a third of a short period - confidence: own


class KeyServer(LocalServer):
    """Tells every reader of the socket at ``path`` what :meth:`put` is given.  Nothing blocks: call :meth:`poll` when
    :meth:`fileno` can be read.  An old socket is replaced: the caller knows that it is nobody's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, most=MAX_READERS, behind=MAX_BEHIND)
        self._holds: dict[tuple[str, int], dict[bytes, KeyOutput]] = {}

    @property
    def readers(self) -> int:
        """How many are connected."""
        return len(self._peers)

    def poll(self) -> None:
        """Let readers come and go, and those that are slow read."""
        self._turn()

    def put(self, output: KeyOutput) -> None:
        """Tell everyone, without waiting for anyone."""
        self._remember(output)
        if self._peers:
            told = write_line(output)
            for reader in list(self._peers):
                self._write(reader, told)

    def _remember(self, output: KeyOutput) -> None:
        """What a reader that comes later must know: of an encoder's stream the last word, of a player's the keys."""
        stream = output.service, output.stream
        holds = self._holds.setdefault(stream, {})
        if isinstance(output, NextKey):
            holds[NEXT] = output
            return
        if not isinstance(output, TekReady | TekExpired):
            holds[b""] = output
            holds.pop(NEXT, None)
            return
        holds.pop(output.mki, None)
        if isinstance(output, TekReady):
            holds[output.mki] = output
            if len(holds) > MAX_HELD:
                del holds[next(iter(holds))]
        elif not holds:
            del self._holds[stream]

    def _came(self, number: int) -> None:
        LOG.info("a reader of keys has come", extra={"fields": {"event": "keys-reader", "readers": self.readers}})
        told = bytearray(FIRST_LINE)
        for holds in self._holds.values():
            for output in holds.values():
                told += write_line(output)
        self._write(number, bytes(told))

    def _heard(self, number: int, data: bytes) -> None:
        self._cut(number, "writes")

    def _left(self, number: int, why: str) -> None:
        if why and why != "hung up":
            self._stranger(why)

    def _stranger(self, why: str) -> None:
        LOG.warning("a reader of keys is cut off: it %s", why, extra={"fields": {"event": "keys-cut", "why": why}})


class KeyOutlet:
    """An ``Outlet`` for an event loop: a :class:`KeyServer` that the loop looks after."""

    def __init__(self, path: Path) -> None:
        self._server = KeyServer(path)
        self._served: int | None = None

    @property
    def readers(self) -> int:
        """How many are connected."""
        return self._server.readers

    async def start(self) -> None:
        """Listen.  ``ConfigError`` when the path cannot be had."""
        self._server.open()
        self._served = self._server.fileno()
        asyncio.get_running_loop().add_reader(self._served, self._server.poll)

    async def stop(self) -> None:
        """Readers see the end; what was told last stays theirs to act on."""
        if self._served is not None:
            asyncio.get_running_loop().remove_reader(self._served)
            self._served = None
        self._server.close()

    def put(self, output: KeyOutput) -> None:
        """Tell everyone, without waiting for anyone."""
        self._server.put(output)


class KeyReader:
    """Follows a key socket: each line goes to ``told``, and when the other side is gone it connects again, for ever.

    ``told`` is called in the event loop and must not wait; what it raises ends ``run``.  A line that cannot be read is passed
    over, with a warning: the next key may be good.
    """

    def __init__(self, path: Path, told: Callable[[KeyOutput], None]) -> None:
        self._path, self._told = path, told
        self.connected = False
        self.lines = self.refused = self.losses = self.strangers = 0
        """Lines heard, lines that could not be read, losses of the other side, and how often it was another user or version."""

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            try:
                followed = await self._follow()
            finally:
                self.connected = False
            self.losses += followed
            attempt = 0 if followed else attempt + 1
            await asyncio.sleep(RETRY[min(attempt, len(RETRY) - 1)])

    async def _follow(self) -> bool:
        """Was there a connection?"""
        try:
            reader, writer = await opened(self._path, MAX_LINE)
        except OSError:
            return False
        except OtherUser as error:
            return self._refuse(error)
        try:
            self.connected = True
            LOG.info("following the keys of %s", str(self._path), extra={"fields": {"event": "keys-connected"}})
            while line := await _next(reader):
                if line == FIRST_LINE:
                    continue
                self.lines += 1
                output = _heard(line)
                if output is None:
                    self.refused += 1
                else:
                    self._told(output)
        except UnknownVersion as error:
            return self._refuse(error)
        finally:
            writer.close()
        LOG.warning("no keys from %s: holding what it said last", str(self._path), extra={"fields": {"event": "keys-lost"}})
        return True

    def _refuse(self, error: TransportError) -> bool:
        """Who is there is not one whose keys are taken."""
        if not self.strangers:
            LOG.warning("keys are not taken: %s", str(error), extra={"fields": {"event": "keys-refused"}})
        self.strangers += 1
        return False


def follow(path: Path, *, patience: float | None = None) -> Iterator[KeyOutput]:
    """The same for a script that does nothing else: a loop over what a key socket says, which connects again for ever.

    ``TransportError`` when the socket cannot be had for ``patience`` seconds, belongs to another user or speaks another version.
    """
    attempt, since = 0, time.monotonic()
    while True:
        with suppress(OSError), connected(path) as connection, connection.makefile("rb") as lines:
            while line := lines.readline(MAX_LINE):
                attempt, since = 0, time.monotonic()
                if (output := _heard(line)) is not None:
                    yield output
        if patience is not None and time.monotonic() - since >= patience:
            raise TransportError(f"{path}: no keys for {patience:.0f} s")
        time.sleep(RETRY[min(attempt, len(RETRY) - 1)])
        attempt += 1


async def _next(reader: asyncio.StreamReader) -> bytes:
    """A line; empty when the other side is gone."""
    try:
        return await reader.readline()
    except OSError:
        return b""
    except ValueError:
        LOG.warning("a line of keys without end", extra={"fields": {"event": "keys-bad"}})
        return b""


def _heard(line: bytes) -> KeyOutput | None:
    try:
        return read_line(line)
    except BadValue as error:
        LOG.warning("a line of keys cannot be used: %s", str(error), extra={"fields": {"event": "keys-bad"}})
        return None
