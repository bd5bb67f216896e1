# SPDX-License-Identifier: Apache-2.0
"""The server of the back-end interface: one URL, XML in, XML out, over mutual TLS (backend-interface 4.4, rules R26-R30).

It knows who asks and whether he may, turns bodies into messages, and gives them to a handler.  What a message means, and that a
repeated messageID gets the same answer, is the handler's (``pybcast.flows``).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from pybcast.backend import xml
from pybcast.backend.audit import LOG, Exchanged, audit, log_exchange
from pybcast.backend.errors import BadMessage, Echo, Unparseable, answer_tag, refusal
from pybcast.backend.identity import Peer, Peers, authorise, certificate_names
from pybcast.backend.standing import SENDER, Standing
from pybcast.errors import BcastError, ConfigError, LocalFlowError, PeerFlowError
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.tables import TAGS, Side, Status
from pybcast.https.contexts import Context
from pybcast.https.exchange import NoBody, Serving, read_body, reply, send
from pybcast.https.faults import http_log
from pybcast.https.limits import ConnectionLimits
from pybcast.https.listener import Connection, Listener, Stranger

_HTTP_LOG: Final = http_log("pybcast.backend.http", logging.WARNING)
PATH: Final = "/bcast/spcp"  # one URL for all messages - confidence: own (backend-interface 4.4)
CONTENT_TYPE: Final = "application/xml; charset=utf-8"
ACCEPTED_TYPES: Final = frozenset({"application/xml", "text/xml"})
_HEADERS: Final = {"Content-Type": CONTENT_TYPE, "Server": "pybcast", "Cache-Control": "no-store"}

_ASKED: Final = {row.answer: int(tag) for tag, row in TAGS.items() if row.answer is not None}
"""Answer -> the tag it answers."""

Handler = Callable[[BackendMessage, str], Awaitable[BackendMessage]]
"""(request, id of the authenticated peer) -> answer.  ``PeerFlowError`` is answered with its status, anything else with 7."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits(ConnectionLimits):
    """Bounds in time (seconds) and number for what callers may cost - confidence: own.

    ``body``: for a request's body.  ``send``: for an answer to be taken.  ``in_flight``: requests of one peer read or handled at
    once; more of them wait, unread.  Of these one at a time is parsed.
    """

    body: float = 10.0
    send: float = 30.0
    in_flight: int = 8


@dataclass
class _Work:
    """What one peer may have done at once: ``slots`` for its requests, ``turn`` for parsing one.

    Parsing takes up to 90 ms of a core (1 MiB of attributes), in one piece.  With a turn for each peer, one that sends eight such
    requests at a time makes another wait for one of them, not for all.
    """

    slots: asyncio.Semaphore
    turn: asyncio.Lock


class Server(Serving):
    """Listens for one BSM or BSD/A.

    ``me``: our id.  ``side``: which of the two we are.  ``clock``: 64-bit NTP seconds.  ``observer``: is told of every exchange.
    ``standing``: what we say of our store, and hear of the peers'.
    """

    def __init__(
        self,
        *,
        me: str,
        side: Side,
        peers: Peers,
        handler: Handler,
        clock: Callable[[], float],
        limits: ServerLimits | None = None,
        observer: Callable[[Exchanged], None] | None = None,
        standing: Standing | None = None,
    ) -> None:
        super().__init__(clock)
        self._standing = standing
        self._me, self._side, self._peers, self._handler = me, side, peers, handler
        self._limits = limits or ServerLimits()
        self._observer = observer
        self._plain = False
        self._work: dict[str, _Work] = {}

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int, context: Context | None, *, plain_loopback: bool = False) -> None:
        """Listen.  ``port`` 0: any free one (``port`` of the server tells).

        Without a ``context`` it is plain HTTP, where everyone is who he says: only on a loopback address, and only when
        ``plain_loopback`` says so (R26).  ``ConfigError`` otherwise; ``TransportError`` when the address cannot be had.
        """
        if context is None and not plain_loopback:
            raise ConfigError(f"{host}: plain HTTP is only for loopback addresses, with the flag that says so (R26)")
        if context is not None and context.verify_mode is not ssl.CERT_REQUIRED:
            raise ConfigError("TLS without client certificates is no back-end interface (R26)")
        self._plain = context is None
        self.listener = Listener(
            self._handle, limits=self._limits, admit=self._admit, log=LOG, level=logging.WARNING, logger=_HTTP_LOG
        )  # fmt: skip
        await self.listener.start(host, port, context)

    def _admit(self, certificate: Mapping[str, Any] | None, data: bytes | None) -> tuple[str, str]:
        """The id of the peer that a certificate belongs to: nobody else's requests are read."""
        if self._plain:
            return "", ""
        peer = self._peers.of_certificate(certificate_names(certificate), data)
        if peer is None:
            raise Stranger("its certificate belongs to no configured peer")
        return peer.id, peer.id

    async def reload(
        self,
        *,
        context: Context | None = None,
        peers: Peers | None = None,
        limits: ServerLimits | None = None,
        renew: bool = True,
    ) -> None:
        """New certificates, peers or limits, without a moment of not listening.

        What is being answered is answered; rights are the new ones at once; after a new ``context`` connections under the old one
        end with their next answer, if they are to be renewed, and those of a certificate that was taken back, or is no peer's any
        more, at once.
        """
        if peers is not None:
            self._peers = peers
        self._limits = limits or self._limits
        if self.listener is not None:
            self.listener.reload(context=context, limits=limits, renew=renew)

    async def stop(self, grace: float = 10.0) -> None:
        """Stop listening; requests in hand get ``grace`` seconds for their answer."""
        if self.listener is not None:
            await self.listener.stop(grace)

    # --- one request --------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self.listener is not None
        caller = self.listener.connection(request)
        if caller is None:
            return _bare(503, close=True)
        if request.method == "HEAD" and request.path == PATH and self._standing is not None:
            return self._greeted(request, caller, self._standing)
        code = _unacceptable(request)
        if code:
            return _bare(code, close=code == 413)
        work = self._work.setdefault(caller.share, _Work(asyncio.Semaphore(self._limits.in_flight), asyncio.Lock()))
        async with work.slots:
            try:
                body = await read_body(request, seconds=self._limits.body, octets=xml.MAX_REQUEST)
            except NoBody as error:
                return _bare(error.status, close=True)
            started = asyncio.get_running_loop().time()
            answered = await self._answer(body, caller, work.turn, request.headers)
            response = await self._send(request, answered, caller)
        done = Exchanged(
            role="server",
            peer=answered.peer,
            tag=answered.tag,
            message_id=answered.message_id,
            service=answered.service,
            status=answered.status,
            http=response.status,
            seconds=asyncio.get_running_loop().time() - started,
            sent=len(answered.body),
            received=len(body),
            error=answered.error,
        )
        log_exchange(done, body)
        if self._observer is not None:
            self._observer(done)
        return response

    def _peer(self, caller: Connection[str], source: str | None) -> Peer | None:
        """Who asks; without TLS, whoever he says (R26)."""
        if self.expired(caller):
            return None
        return self._peers.get((source if self._plain else caller.who) or "")

    def _greeted(self, request: web.BaseRequest, caller: Connection[str], standing: Standing) -> web.StreamResponse:
        """A peer that has started asks where we stand (R51)."""
        peer = self._peer(caller, request.headers.get(SENDER))
        if peer is None:
            return _bare(403)
        standing.heard(peer.id, request.headers)
        return web.Response(status=204, headers={"Server": "pybcast"} | standing.fields(peer.id))

    async def _answer(self, body: bytes, caller: Connection[str], turn: asyncio.Lock, fields: Mapping[str, str]) -> _Answered:
        now = self._clock()
        try:
            async with turn:
                await asyncio.sleep(0)  # the others' turn
                message = xml.decode(body, self._side, now)
        except Unparseable as error:
            peer = self._peer(caller, None)
            return _Answered(peer=peer.id if peer else "", error=str(error))
        except BadMessage as error:
            peer = self._peer(caller, error.echo.source)
            # A stranger learns nothing but that he is one.
            status = error.status if peer is not None else Status.NOT_PERMITTED
            return _Answered.of(refusal(self._me, error.echo, status, now=now), now, peer, str(error))
        peer = self._peer(caller, message.source)
        error_text = ""
        try:
            authorise(message, peer)
            assert peer is not None
            if message.destination != self._me:
                raise PeerFlowError(Status.WRONG_DESTINATION, "destination is not this server")
            if message.is_answer:
                raise PeerFlowError(Status.INFORMATION_INVALID, f"{message.tag.name} is an answer, nobody asked here")
            audit(message, "in", peer.id)
            if self._standing is not None:
                self._standing.heard(peer.id, fields)
            answer = await self._handler(message, peer.id)
            if not answer.is_answer or answer.message_id != message.message_id:
                raise LocalFlowError("the handler's answer is not one to this message")
            audit(answer, "out", peer.id)
            return _Answered.of(answer, now, peer)
        except PeerFlowError as error:
            status, error_text = error.status, str(error)
        except BcastError as error:
            status, error_text = Status.SERVER_ERROR, str(error)
        except Exception as error:
            LOG.exception("%s messageID=%r: the handler failed", message.tag.name, message.message_id)
            status, error_text = Status.SERVER_ERROR, type(error).__name__
        return _Answered.of(_refused(message, self._me, status, now), now, peer, error_text)

    async def _send(self, request: web.BaseRequest, answered: _Answered, caller: Connection[str]) -> web.StreamResponse:
        if answered.status is None:
            return _bare(400)
        fields = _HEADERS if self._standing is None or not answered.peer else {**_HEADERS, **self._standing.fields(answered.peer)}
        response, rest = reply(answered.body, fields)
        if self.is_last(caller):
            response.force_close()
        if not await send(request, response, rest, seconds=self._limits.send):
            answered.error = "the answer was not taken"
        return response


@dataclass
class _Answered:
    """An answer on its way out; without ``status`` there was no message to answer."""

    peer: str
    tag: int | None = None
    message_id: str | None = None
    service: str | None = None
    status: int | None = None
    body: bytes = b""
    error: str = ""

    @classmethod
    def of(cls, answer: BackendMessage, now: float, peer: Peer | None, error: str = "") -> _Answered:
        try:
            body = xml.encode(answer, now)
            if len(body) > xml.MAX_ANSWER:
                raise LocalFlowError(f"an answer of {len(body)} bytes (R30)")
        except BcastError as failure:
            LOG.error("messageID=%r: no answer can be written: %s", answer.message_id, failure)
            echo = Echo(answer.tag, answer.message_id, answer.destination, answer.service, answer.profile)
            answer, error = refusal(answer.source, echo, Status.SERVER_ERROR, now=now), str(failure)
            body = xml.encode(answer, now)
        return cls(peer.id if peer else "", _ASKED[answer.tag], answer.message_id, answer.service, answer.status, body, error)


def _refused(message: BackendMessage, me: str, status: int, now: float) -> BackendMessage:
    if message.is_answer:
        echo = Echo(answer_tag(message.tag), message.message_id, message.source, message.service, message.profile)
        return refusal(me, echo, status, now=now)
    return message.answer(status, now=now)


def _unacceptable(request: web.BaseRequest) -> int:
    """The HTTP status of a request that cannot carry a message; 0 when it can."""
    if request.path != PATH:
        return 404
    if request.method != "POST":
        return 405
    if request.content_type not in ACCEPTED_TYPES or (request.charset or "utf-8").lower() not in ("utf-8", "us-ascii"):
        return 415
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return 415  # unpacking would make a small body a large one
    return 413 if (request.content_length or 0) > xml.MAX_REQUEST else 0


def _bare(code: int, *, close: bool = False) -> web.Response:
    """An HTTP status and no body (R27)."""
    response = web.Response(status=code, headers={"Server": "pybcast"} | ({"Allow": "POST"} if code == 405 else {}))
    if close:
        response.force_close()
    return response
