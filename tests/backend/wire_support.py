# SPDX-License-Identifier: Apache-2.0
"""Servers, clients and badly behaved peers on loopback, for the tests of the back end's transport."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from backend_support import BSDA_ID, BSM_ID, NOW, SERVICE, items_of, stkm

from pybcast.backend import xml
from pybcast.backend.audit import Exchanged
from pybcast.backend.client import Client, ClientLimits, Retry
from pybcast.backend.identity import Peer, Peers
from pybcast.backend.server import PATH, Server, ServerLimits
from pybcast.backend.standing import Standing
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage, PartialItem
from pybcast.flows.tables import TAGS, Side
from pybcast.https import contexts

RIGHTS: Final = frozenset({SERVICE, ALL_SERVICES})
SHORT: Final = ClientLimits(connect=0.5, read=0.3, total=2.0)
"""For peers that never answer: what is waited for is the limit itself."""


def clock() -> float:
    return NOW


async def echo(message: BackendMessage, peer: str) -> BackendMessage:
    """A handler that answers everything with status 0 and what the answer carries."""
    answer_tag = TAGS[message.tag].answer
    assert answer_tag is not None
    items = items_of(answer_tag)
    if message.items and isinstance(message.items[0], PartialItem):
        items = tuple(stkm(n) for n in range(len(message.items)))
    return message.answer(0, items, now=NOW)


@asynccontextmanager
async def serving(
    handler: Callable[[BackendMessage, str], Awaitable[BackendMessage]] = echo,
    *,
    tls: contexts.TlsFiles | None = None,
    me: str = BSM_ID,
    side: Side = Side.BSM,
    peer: str = BSDA_ID,
    services: frozenset[str] = RIGHTS,
    limits: ServerLimits | None = None,
    now: Callable[[], float] = clock,
    observer: Callable[[Exchanged], None] | None = None,
    standing: Standing | None = None,
) -> AsyncIterator[Server]:
    peers = Peers([Peer(id=peer, services=services)])
    server = Server(me=me, side=side, peers=peers, handler=handler, clock=now, limits=limits, observer=observer, standing=standing)
    await server.start("127.0.0.1", 0, contexts.server_context(tls) if tls else None, plain_loopback=tls is None)
    try:
        yield server
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def asking(
    port: int,
    *,
    tls: contexts.TlsFiles | None = None,
    context: contexts.Context | None = None,
    peer: str = BSM_ID,
    limits: ClientLimits | None = None,
    retry: Retry | None = None,
    pause: Callable[[float], Awaitable[object]] | None = None,
    now: Callable[[], float] = clock,
    observer: Callable[[Exchanged], None] | None = None,
    standing: Standing | None = None,
) -> AsyncIterator[Client]:
    scheme = "https" if tls or context else "http"
    peers = Peers([Peer(id=peer, services=RIGHTS, url=f"{scheme}://127.0.0.1:{port}")])
    client = Client(
        me=BSDA_ID, side=Side.BSDA, peers=peers, context=context or (contexts.client_context(tls) if tls else None), clock=now,
        plain_loopback=True, retry=retry or Retry(attempts=1), limits=limits, chance=lambda: 0.0, pause=pause or no_pause,
        observer=observer, standing=standing,
    )  # fmt: skip
    try:
        yield client
    finally:
        await client.close()


async def no_pause(seconds: float) -> None:
    assert seconds > 0


@asynccontextmanager
async def misbehaving(peer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A TCP server that does to each connection what ``peer`` says; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await peer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The body of one HTTP request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


def http_answer(body: bytes, head: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/xml; charset=utf-8\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode()
        + body
    )


def http_request(body: bytes, *, method: str = "POST", path: str = PATH, head: str = "Content-Type: application/xml\r\n") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Caller:
    """A bare HTTP/1.1 connection, for sending what no client would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Caller]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """HTTP status and body of the answer."""
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        code = int(head.split(b" ", 2)[1])
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length" in head.lower() else 0
        return code, await self.reader.readexactly(length)

    async def status(self, body: bytes) -> int:
        """Back-end status of the answer to this body."""
        code, answer = await self.ask(http_request(body))
        assert code == 200
        got = xml.decode(answer, Side.BSDA, NOW).status
        assert got is not None
        return got
