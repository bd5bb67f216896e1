# SPDX-License-Identifier: Apache-2.0
"""Traffic keys for encoders on this machine: a Unix socket of mode 0600 with one JSON object a line.

``[air] keys`` names it.  A reader must run as the BSD/A's own user (``SO_PEERCRED``).  On connecting it is told the key in use of
every stream, then each change as it happens::

    {"event": "UseKey", "service": ID, "stream": 1, "start": NTP seconds, "protocol": "SRTP", "mki": HEX, "tek": HEX,
     "salt": HEX or null, "auth_key": HEX or null, "authority_end": NTP seconds or null}
    {"event": "StopTraffic", "service": ID, "stream": 1}

``UseKey`` says: from now on protect with this key, and stop at ``authority_end`` unless a newer one came (R9).  ``StopTraffic``
says: let nothing out until the next ``UseKey``.  A reader that loses the connection keeps to what it was told last and connects
again.  It has nothing to say: one that writes is cut off, and so is one that does not read.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, Final

from pybcast.flows.events import StopTraffic, UseKey
from pybcast.servers.control import listening, peer_user, this_user

LOG: Final = logging.getLogger("pybcast.air")
MAX_READERS: Final = 16  # encoders of one machine - confidence: own
MAX_BEHIND: Final = 8 << 20  # octets that a reader may leave unread: three changes of 10,000 streams - confidence: own


def line(output: UseKey | StopTraffic) -> bytes:
    """What an encoder is told.  Of a ``UseKey`` it holds the key in clear: for the socket alone (R41)."""
    said: dict[str, Any] = {"event": type(output).__name__, "service": output.service, "stream": output.stream}
    if isinstance(output, UseKey):
        said |= {
            "start": output.start, "protocol": output.protocol.name, "mki": output.mki.hex(), "tek": output.tek.reveal().hex(),
            "salt": None if output.salt is None else output.salt.hex(),
            "auth_key": None if output.auth_key is None else output.auth_key.reveal().hex(),
            "authority_end": output.authority_end,
        }  # fmt: skip
    return json.dumps(said).encode() + b"\n"


class KeyOutlet:
    """Tells every reader of the socket at ``path`` what ``put`` is given.  Everything runs in one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._latest: dict[tuple[str, int], UseKey | StopTraffic] = {}
        self._readers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.  ``ConfigError`` when the path cannot be had.  An old socket is replaced: the caller holds the database."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listening(self._path), limit=1024)

    async def stop(self) -> None:
        """Readers see the end; what was told last stays theirs to act on."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for reader in list(self._readers):
            self._cut(reader, "")

    def put(self, output: UseKey | StopTraffic) -> None:
        """Tell everyone, without waiting for anyone."""
        self._latest[output.service, output.stream] = output
        if self._readers:
            told = line(output)
            for reader in list(self._readers):
                self._tell(reader, told)

    def _tell(self, reader: asyncio.StreamWriter, told: bytes) -> None:
        reader.write(told)
        if reader.transport.get_write_buffer_size() > MAX_BEHIND:
            self._cut(reader, "does not read")

    def _cut(self, reader: asyncio.StreamWriter, why: str) -> None:
        self._readers.discard(reader)
        if why:
            LOG.warning("a reader of keys is cut off: it %s", why, extra={"fields": {"event": "keys-cut", "why": why}})
            reader.transport.abort()
        else:
            reader.close()

    async def _serve(self, commands: asyncio.StreamReader, reader: asyncio.StreamWriter) -> None:
        refusal = (
            "runs as another user" if peer_user(reader) != this_user() else "is one too many" if len(self._readers) >= MAX_READERS
            else ""
        )  # fmt: skip
        if refusal:
            self._cut(reader, refusal)
            return
        self._readers.add(reader)
        LOG.info("a reader of keys has come", extra={"fields": {"event": "keys-reader", "readers": len(self._readers)}})
        for output in self._latest.values():
            reader.write(line(output))
        try:
            said = await commands.read(1)
        except OSError:
            said = b""
        if reader in self._readers:
            self._cut(reader, "writes" if said else "")
