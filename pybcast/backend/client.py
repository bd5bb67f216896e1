# SPDX-License-Identifier: Apache-2.0
"""The client of the back-end interface: asks a peer and brings its answer, or says in time that there is none.

The messageID stays the same however often a request is sent, so that the peer answers once and repeats itself (R27).  An answer
counts only when it is one to this request, from the peer with the configured certificate.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakSet

import aiohttp

from pybcast.backend import xml
from pybcast.backend.audit import Exchanged, audit, log_exchange
from pybcast.backend.errors import BadAnswer, BadMessage, PeerRefused, PeerUnreachable, Unparseable, WrongPeer
from pybcast.backend.identity import Peer, Peers, certificate_names
from pybcast.backend.server import ACCEPTED_TYPES, CONTENT_TYPE, PATH
from pybcast.backend.standing import SENDER, Standing
from pybcast.errors import BadLength, ConfigError, LocalFlowError, TransportError
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.tables import TAGS, Side, Status, Tag
from pybcast.https.contexts import Context
from pybcast.https.faults import failure
from pybcast.https.limits import is_loopback
from pybcast.https.listener import certificate_end, shown
from pybcast.https.revocation import RevocationList
from pybcast.https.transports import cut
from pybcast.wire.times import NTP_UNIX

PULLS: Final = frozenset({Tag.KeyRequest, Tag.PartialSTKMRequest, Tag.STKMRequest, Tag.LTKMRequest, Tag.RegRequest})
"""Whose answers may have 64 MiB (R30)."""
MAX_CONFIRMATION: Final = 2 * xml.MAX_REQUEST  # bytes of the answer to a delivery: its items, sealed - confidence: own
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be another a moment later: the request is repeated."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often, and after how long, an unanswered request is sent again - confidence: own.

    The pause doubles from ``first`` to at most ``most`` seconds; of each, at least half is kept and the rest is chance, so that
    a peer that returns is not met by everyone at once.
    """

    attempts: int = 3
    first: float = 0.1
    most: float = 2.0

    def pause(self, attempt: int, chance: float) -> float:
        """Seconds before ``attempt`` (1 is the first repeat); ``chance`` in [0, 1)."""
        return min(self.most, self.first * 2.0 ** (attempt - 1)) * (0.5 + chance / 2)


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """Bounds in time (seconds) and number for what a peer may cost - confidence: own.

    ``connect``: TCP and TLS.  ``read``: until the first and each next byte of the answer.  ``brief``: one attempt, waiting for a
    free connection included.  ``total``: the same of a pull, whose answer may be large (R30).  ``connections``: to one peer.
    ``idle``: how long one is kept for reuse.
    """

    connect: float = 3.0
    read: float = 5.0
    brief: float = 10.0
    total: float = 60.0
    connections: int = 8
    idle: float = 30.0


class _Connector(aiohttp.TCPConnector):
    """Connections to one peer: none is used before its certificate is seen to be the peer's (R26)."""

    def __init__(self, peer: Peer, context: Context | None, limits: ClientLimits, clock: Callable[[], float]) -> None:
        super().__init__(ssl=context or False, limit=limits.connections, keepalive_timeout=limits.idle)
        self._peer, self._tls, self._clock = peer, context is not None, clock
        self._until: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # aiohttp's signature
        connection = await super().connect(req, traces, timeout)
        if connection.transport is not None:
            self._transports.add(connection.transport)
        if self._tls:
            until = self._until.get(connection.protocol)
            if until is None:
                certificate, data = shown(connection.transport)
                names = certificate_names(certificate)
                if not self._peer.shown(names, data):
                    connection.close()
                    why = "has another fingerprint" if self._peer.certificate in names else f"is not {self._peer.certificate}"
                    raise WrongPeer(f"{self._peer.id}: the certificate at its address {why}")
                until = self._until[connection.protocol] = certificate_end(certificate)
            if self._clock() - NTP_UNIX >= until:
                connection.close()
                raise PeerUnreachable(f"{self._peer.id}: its certificate has expired")
        return connection

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:  # aiohttp's signature
        # aiohttp would end TLS in order, and a peer that does not answer would keep the socket for half a minute.
        if should_close or protocol.should_close:
            protocol.abort()
        super()._release(key, protocol, should_close=should_close)

    def drop(self, peer: Peer | None, revoked: RevocationList | None) -> None:
        """Cut the connections to a certificate that was taken back, or is not one of the ``peer`` any more."""
        for transport in list(self._transports):
            certificate, data = shown(transport)
            if data is None:
                continue
            good = peer is not None and peer.shown(certificate_names(certificate), data)
            if not good or (revoked is not None and revoked.holds(data)):
                cut(transport)

    async def close(self, *, abort_ssl: bool = True) -> None:
        """End all connections, also those that aiohttp does not count any more: they wait for the peer's end of TLS."""
        await super().close(abort_ssl=abort_ssl)
        for transport in list(self._transports):
            cut(transport)


class _Link:
    """The connections to one peer under one TLS context; closed when retired and no longer in use."""

    def __init__(self, peer: Peer, context: Context | None, limits: ClientLimits, clock: Callable[[], float]) -> None:
        split = urlsplit(peer.url or "")
        self.url = f"{peer.url}".rstrip("/") + ("" if split.path.strip("/") else PATH)
        self.brief, self.long = (
            aiohttp.ClientTimeout(total=total, sock_connect=limits.connect, sock_read=limits.read)
            for total in (min(limits.brief, limits.total), limits.total)
        )
        self.connector = _Connector(peer, context, limits, clock)
        self.session = aiohttp.ClientSession(
            connector=self.connector,
            headers={"Content-Type": CONTENT_TYPE, "Accept": "application/xml", "User-Agent": "pybcast"},
            skip_auto_headers=("Accept-Encoding",),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._users = 0
        self._retired = False

    async def __aenter__(self) -> _Link:
        self._users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        await self._close_unused()

    async def retire(self) -> None:
        self._retired = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._retired and not self._users:
            await self.session.close()


@dataclass
class _Flight:
    message: BackendMessage
    task: asyncio.Task[BackendMessage]
    attempts: int = field(default=0)


class Client:
    """Asks peers on behalf of one BSM or BSD/A.

    ``me``: our id.  ``side``: which of the two we are.  ``context``: of ``https.contexts.client_context``; ``None`` for plain HTTP,
    which needs ``plain_loopback`` and loopback addresses (R26).  ``clock``: 64-bit NTP seconds.  ``chance``: a number in [0, 1),
    ``pause``: waits that many seconds; both for the repeats.  ``observer``: is told of every exchange.  ``standing``: what we say
    of our store, and hear of the peers'.
    """

    def __init__(
        self,
        *,
        me: str,
        side: Side,
        peers: Peers,
        context: Context | None,
        clock: Callable[[], float],
        plain_loopback: bool = False,
        retry: Retry | None = None,
        limits: ClientLimits | None = None,
        chance: Callable[[], float] = random.random,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        observer: Callable[[Exchanged], None] | None = None,
        standing: Standing | None = None,
    ) -> None:
        self._standing = standing
        if context is None and not plain_loopback:
            raise ConfigError("no TLS: plain HTTP needs the flag that says so (R26)")
        self._me, self._side, self._peers, self._context, self._clock = me, side, peers, context, clock
        self._retry, self._limits = retry or Retry(), limits or ClientLimits()
        self._chance, self._pause, self._observer = chance, pause, observer
        self._links: dict[str, _Link] = {}
        self._flights: dict[tuple[str, str], _Flight] = {}

    async def send(self, message: BackendMessage) -> BackendMessage:
        """Ask the message's destination; its answer, whatever its status.

        The same message sent again while it is on its way waits for the same answer.  ``TransportError`` when there is no answer
        (``PeerUnreachable``, ``PeerRefused``, ``BadAnswer``, ``WrongPeer``) or the peer may not have this message; ``WireError``
        for what cannot be written as XML or is beyond 1 MiB (R30); ``LocalFlowError`` for what is no request.
        """
        key = (message.destination, message.message_id)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(message, asyncio.create_task(self._ask(message, key)))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        elif flight.message is not message and flight.message != message:
            raise LocalFlowError(f"messageID {message.message_id!r} is on its way with another message")
        return await asyncio.shield(flight.task)

    def _landed(self, key: tuple[str, str], task: asyncio.Task[BackendMessage]) -> None:
        self._flights.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits any more

    async def reload(self, *, context: Context | None = None, peers: Peers | None = None) -> None:
        """New certificates or peers: for every request from now on.

        Those on their way end on their old connections, unless the peer's certificate is not to be believed any more.
        """
        self._context = context or self._context
        self._peers = peers or self._peers
        links, self._links = self._links, {}
        for name, link in links.items():
            link.connector.drop(self._peers.get(name), None if self._context is None else self._context.revoked)
            await link.retire()

    async def close(self) -> None:
        """Give up what is on its way, and close all connections."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.reload()

    # --- one request --------------------------------------------------------------------------------------------------

    async def _ask(self, message: BackendMessage, key: tuple[str, str]) -> BackendMessage:
        peer = self._peers.get(message.destination)
        if message.is_answer or message.source != self._me:
            raise LocalFlowError(f"{message.tag.name} from {message.source} is no request of ours")
        if peer is None or peer.url is None:
            raise TransportError(f"{message.destination}: not a peer that can be asked")
        if message.service not in peer.services:
            raise TransportError(f"{peer.id}: has no right to {message.service} (R26)")
        body = xml.encode(message, self._clock())
        if len(body) > xml.MAX_REQUEST:
            raise BadLength(None, "message", f"at most {xml.MAX_REQUEST} bytes (R30)", str(len(body)))
        audit(message, "out", peer.id)
        started = asyncio.get_running_loop().time()
        attempt, received = 0, 0
        answer: BackendMessage | None = None
        failure: TransportError | None = None
        while answer is None:
            attempt += 1
            failure = None
            try:
                answer, received = await self._post(peer, message, body)
            except (PeerUnreachable, BadAnswer) as error:
                failure = error
            except TransportError as error:
                failure, attempt = error, max(attempt, self._retry.attempts)
            if failure is not None:
                if attempt >= self._retry.attempts:
                    break
                await self._pause(self._retry.pause(attempt, self._chance()))
        if answer is not None:
            audit(answer, "in", peer.id)
        done = Exchanged(
            role="client",
            peer=peer.id,
            tag=int(message.tag),
            message_id=message.message_id,
            service=message.service,
            status=None if answer is None else answer.status,
            http=200 if answer is not None else failure.http if isinstance(failure, PeerRefused) else 0,
            seconds=asyncio.get_running_loop().time() - started,
            sent=len(body),
            received=received,
            attempts=attempt,
            error="" if failure is None else str(failure),
        )
        log_exchange(done, body)
        if self._observer is not None:
            self._observer(done)
        if answer is None:
            assert failure is not None
            raise failure
        return answer

    def _link(self, peer: Peer) -> _Link:
        link = self._links.get(peer.id)
        if link is None:
            split = urlsplit(peer.url or "")
            if self._context is None and not (split.scheme == "http" and is_loopback(split.hostname)):
                raise TransportError(f"{peer.id}: plain HTTP is only for loopback addresses (R26)")
            if self._context is not None and split.scheme != "https":
                raise TransportError(f"{peer.id}: {peer.url} is not https (R26)")
            link = self._links[peer.id] = _Link(peer, self._context, self._limits, self._clock)
        return link

    async def greet(self, name: str) -> None:
        """Tell a peer where we stand, and hear where it stands (R51), once.  ``TransportError`` when it does not answer."""
        peer = self._peers.get(name)
        if peer is None or peer.url is None or self._standing is None:
            raise TransportError(f"{name}: not a peer that can be asked")
        link = self._link(peer)
        fields = {SENDER: self._me, **self._standing.fields(peer.id)}
        try:
            asked = link.session.head(link.url, headers=fields, allow_redirects=False, timeout=link.brief)
            async with link, asked as response:
                self._standing.heard(peer.id, response.headers)
        except TimeoutError:
            raise PeerUnreachable(f"{peer.id}: no answer in time") from None
        except aiohttp.ClientError as error:
            raise PeerUnreachable(f"{peer.id}: {failure(error)}") from None

    async def _post(self, peer: Peer, message: BackendMessage, body: bytes) -> tuple[BackendMessage, int]:
        pull = message.tag in PULLS
        try:
            link = self._link(peer)
            limits = link.long if pull else link.brief
            fields = {} if self._standing is None else self._standing.fields(peer.id)
            posted = link.session.post(link.url, data=body, headers=fields, allow_redirects=False, timeout=limits)
            async with link, posted as response:
                try:
                    if response.status in PASSING:
                        raise PeerUnreachable(f"{peer.id}: HTTP {response.status}")
                    if response.status != 200:
                        raise PeerRefused(peer.id, response.status)
                    if response.content_type not in ACCEPTED_TYPES or response.headers.get("Content-Encoding"):
                        raise BadAnswer(f"{peer.id}: answered with something else than XML")
                    answer, size = await self._read(peer, response, pull=pull)
                    self._match(peer, message, answer)
                    if self._standing is not None:
                        self._standing.heard(peer.id, response.headers)
                except BaseException:
                    response.close()  # what may still come on this connection is for nobody
                    raise
        except TimeoutError:
            raise PeerUnreachable(f"{peer.id}: no answer in time") from None
        except aiohttp.ClientError as error:
            raise PeerUnreachable(f"{peer.id}: {failure(error)}") from None
        return answer, size

    async def _read(self, peer: Peer, response: aiohttp.ClientResponse, *, pull: bool) -> tuple[BackendMessage, int]:
        most = xml.MAX_ANSWER if pull else MAX_CONFIRMATION
        elements = xml.MAX_ANSWER_ELEMENTS if pull else xml.MAX_ELEMENTS
        reader, size = None, 0
        try:
            async for part in response.content.iter_any():
                size += len(part)
                if size > most:
                    raise BadAnswer(f"{peer.id}: an answer of more than {most} bytes (R30)")
                if size == len(part) == response.content_length:  # in one piece, as most are
                    return xml.decode(part, self._side, self._clock(), max_elements=elements), size
                reader = reader or xml.Reader(self._side, self._clock(), max_elements=elements)
                reader.feed(part)
                if reader.fault is not None:
                    raise reader.fault
            return (reader or xml.Reader(self._side, self._clock())).close(), size
        except (Unparseable, BadMessage) as error:
            raise BadAnswer(f"{peer.id}: {error}") from None

    def _match(self, peer: Peer, message: BackendMessage, answer: BackendMessage) -> None:
        for good, what in (
            (answer.message_id == message.message_id, "messageID of another request"),
            (answer.tag is TAGS[message.tag].answer, answer.tag.name),
            (answer.source == peer.id and answer.destination == self._me, "between others than us"),
            (answer.status != Status.SUCCESS or answer.service == message.service, "of another service"),
        ):
            if not good:
                raise BadAnswer(f"{peer.id}: an answer to something else: {what}")
