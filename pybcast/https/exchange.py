# SPDX-License-Identifier: Apache-2.0
"""One request and its answer over HTTPS: what both servers do alike, in bounded time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from pybcast.https.listener import Connection, Listener
from pybcast.https.transports import cut
from pybcast.wire.times import NTP_UNIX

_CHUNK: Final = 1 << 16


class NoBody(Exception):
    """A body that cannot be read.  ``status``: of HTTP: 400, 408 (too slow) or 413 (too large)."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"HTTP {status}")


class Serving:
    """A server that listens.  ``clock``: 64-bit NTP seconds."""

    listener: Listener[Any] | None = None

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    @property
    def port(self) -> int:
        """Where it listens; 0 while it does not."""
        return 0 if self.listener is None else self.listener.port

    def expired(self, caller: Connection[Any]) -> bool:
        """Whether its certificate has expired while the connection was open."""
        return self._clock() - NTP_UNIX >= caller.until

    def is_last(self, caller: Connection[Any]) -> bool:
        """Whether a connection ends with its next answer: it is of other TLS settings, or has expired."""
        assert self.listener is not None
        return caller.epoch != self.listener.epoch or self.expired(caller)


async def read_body(request: web.BaseRequest, *, seconds: float, octets: int) -> bytes:
    """The body, of at most so many octets.  ``NoBody`` when there is none to be had."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer does not count as one
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.content.iter_any():
                body += part
                if len(body) > octets:
                    raise NoBody(413)
    except TimeoutError:
        raise NoBody(408) from None
    except (web.RequestPayloadError, ConnectionError):
        raise NoBody(400) from None
    return bytes(body)


async def send(request: web.BaseRequest, response: web.StreamResponse, body: bytes = b"", *, seconds: float) -> bool:
    """Send an answer, with a ``body`` beside it in pieces; False, and the connection is cut, when it is not taken in time."""
    try:
        async with asyncio.timeout(seconds):
            await response.prepare(request)
            for at in range(0, len(body), _CHUNK):
                await response.write(body[at : at + _CHUNK])
            await response.write_eof()
    except (TimeoutError, ConnectionError):
        cut(request.transport)
        return False
    return True


def reply(body: bytes, fields: dict[str, str]) -> tuple[web.StreamResponse, bytes]:
    """A response, and what of its body is sent beside it: a large one in pieces, so that who reads slowly is noticed."""
    if len(body) <= _CHUNK:
        return web.Response(body=body, headers=fields), b""
    response = web.StreamResponse(headers=fields)
    response.content_length = len(body)
    return response, body
