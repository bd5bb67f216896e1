# SPDX-License-Identifier: Apache-2.0
"""The connections of a server: they are counted when they are accepted, before TLS, and belong to somebody after it.

asyncio's own server accepts whatever comes and starts TLS for it: thousands of connections that say nothing cost a descriptor and
90 KB each.  Here a connection has a place before any work is done for it, and one without a place is reset:

* ``connect_rate`` and ``per_address`` bound what one address takes, ``connections`` what everyone takes;
* a connection in the handshake ends after ``handshake`` seconds.  When too many are, one that has been for ``PATIENCE`` seconds
  ends for a newer one, so that callers who say nothing keep nobody out; as long as all are younger, callers wait in the system's
  queue, so that many honest ones at once do not end each other;
* after the handshake ``admit`` says whose the connection is.  A stranger is dropped at once, and one peer or terminal has at most
  ``per_share`` connections.  Where anyone may come in, a connection that has proved nothing for ``UNPROVEN`` seconds gives way too.

When the process has no descriptor left, nothing is accepted for ``PAUSE`` seconds; the connections that are open go on.

Callers behind one address, as behind a NAT, share its places: the limits are the operator's to set.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from aiohttp import web

from pybcast.errors import ConfigError, TransportError
from pybcast.https.contexts import Context
from pybcast.https.faults import tls_reason
from pybcast.https.limits import Buckets, ConnectionLimits, address_name, is_loopback
from pybcast.https.revocation import RevocationList
from pybcast.https.transports import cut, hold_less

ACCEPTS: Final = 32  # connections accepted in one turn of the event loop: a flood does not hold up what is open - confidence: own
PAUSE: Final = 0.1  # seconds without accepting when descriptors or memory have run out, or too many shake hands - confidence: own
PATIENCE: Final = 1.0  # seconds in the handshake after which a newer connection may take the place - confidence: own
SHUTDOWN: Final = 1.0  # seconds that the other end has for its end of TLS - confidence: own
UNPROVEN: Final = 5.0  # seconds after which a connection that has proved nothing gives way to a newer one - confidence: own
TLS_BUFFER: Final = 32_768  # octets read at once: two records of TLS - confidence: own
"""asyncio keeps a buffer of 256 KiB for each TLS connection, also of terminals that only wait: 290 KB each became 60 KB."""
TURNS: Final = 100  # of the event loop that a connection which was cut may take to be gone; it takes three - confidence: own
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection, and nothing of it stays

W = TypeVar("W")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Stranger(Exception):
    """A connection that is for nobody here; the text says why."""


@dataclass(eq=False)
class Connection(Generic[W]):
    """One accepted connection.

    ``who``: the other end, as ``admit`` said; ``until``: the end of its certificate, Unix seconds; ``epoch``: of the TLS settings
    it was made under.  ``share``: the name of the peer or terminal whose places it takes, empty for none.
    """

    address: str
    epoch: int
    since: float
    until: float = float("inf")
    share: str = ""
    who: W | None = None
    sock: socket.socket | None = None
    task: asyncio.Task[None] | None = None
    transport: asyncio.Transport | None = None


@dataclass
class _Places(Generic[W]):
    """Connections of one address, or all.  Those in the handshake, and those that have proved nothing since: the oldest first."""

    open: dict[Connection[W], None] = field(default_factory=dict)
    opening: dict[Connection[W], None] = field(default_factory=dict)
    unproven: dict[Connection[W], None] = field(default_factory=dict)

    def add(self, connection: Connection[W]) -> None:
        self.open[connection] = self.opening[connection] = None

    def settled(self, connection: Connection[W], *, proven: bool) -> None:
        """Its handshake is over."""
        self.opening.pop(connection, None)
        self.unproven.pop(connection, None)
        if not proven:
            self.unproven[connection] = None

    def drop(self, connection: Connection[W]) -> None:
        for places in (self.open, self.opening, self.unproven):
            places.pop(connection, None)


class Listener(web.Server, Generic[W]):
    """Listens, and hands requests to ``handler``; which connection one came on is ``connection(request)``.

    ``admit``: (certificate as ``getpeercert()`` shows it, or ``None``) and (the same in DER) -> who that is, and the name of his
    share; raises ``Stranger``.  ``log``: where refusals go; ``level``: of failed handshakes.  ``settings``: of aiohttp.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: ConnectionLimits,
        admit: Callable[[Mapping[str, Any] | None, bytes | None], tuple[W, str]],
        log: logging.Logger,
        level: int,
        make: Callable[..., web.RequestHandler] = web.RequestHandler,
        **settings: Any,
    ) -> None:
        super().__init__(
            handler, keepalive_timeout=limits.idle, access_log=None, lingering_time=1.0, auto_decompress=False, **settings
        )  # fmt: skip
        self._admit, self._log, self._level, self._make = admit, log, level, make
        self._context: Context | None = None
        self._socket: socket.socket | None = None
        self._all: _Places[W] = _Places()
        self._addresses: dict[str, _Places[W]] = {}
        self._shares: Counter[str] = Counter()
        self._by_handler: dict[web.RequestHandler, Connection[W]] = {}
        self._ended = False
        self.refused: Counter[str] = Counter()
        self.epoch = 0
        self.port = 0
        self._set(limits)

    def _set(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        burst = max(limits.per_address, math.ceil(limits.connect_rate))
        self._arrivals = Buckets(limits.connect_rate, burst, self._loop.time)

    @property
    def revoked(self) -> RevocationList | None:
        """The certificates that are not let in."""
        return None if self._context is None else self._context.revoked

    def __len__(self) -> int:
        """Connections that are open, those in the handshake included."""
        return len(self._all.open)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int, context: Context | None, *, backlog: int = 256) -> None:
        """Listen; ``port`` 0: any free one (``port`` of the listener tells).

        Without a ``context`` it is plain HTTP, only on a loopback address: else ``ConfigError``.  ``TransportError`` when the
        address cannot be had.
        """
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            if context is None and not is_loopback(str(address[0])):
                raise ConfigError(f"{host}: plain HTTP is only for loopback addresses, with the flag that says so (R26)")
            self._socket = socket.create_server(address[:2], family=family, backlog=backlog)
        except OSError as error:
            raise TransportError(f"{host} port {port}: {error.strerror}") from None
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._context = context
        self._resume()

    def reload(self, *, context: Context | None = None, limits: ConnectionLimits | None = None, renew: bool = True) -> None:
        """New TLS settings or limits: for new connections at once.

        Connections under the old TLS settings end with their next answer, unless these need not be renewed; those of a certificate
        that was taken back, or that ``admit`` now gives to nobody or to another, end at once.
        """
        if limits is not None:
            self._set(limits)
        if context is not None:
            self._context = context
            self.epoch += renew
        for connection in list(self._by_handler.values()):
            transport = connection.transport
            if transport is None or connection.who is None:
                continue
            try:
                same = self._owner(transport)[1] == connection.share
            except Stranger:
                same = False
            if not same:
                self._refuse(connection, "not admitted any more")
                cut(transport)

    def close(self) -> None:
        """Accept nothing more; connections in the handshake end."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for connection in list(self._all.opening):
            self._end(connection)

    async def stop(self, grace: float) -> None:
        """Stop listening; requests in hand get ``grace`` seconds for their answer, and then all connections are cut.

        A peer that does not answer the end of TLS would keep its socket for half a minute.
        """
        opening = [connection.task for connection in self._all.opening if connection.task is not None]
        self.close()
        await asyncio.gather(*opening, return_exceptions=True)
        self.pre_shutdown()
        await self.shutdown(grace)
        for connection in list(self._all.open):
            cut(connection.transport)
        for _ in range(TURNS):  # each is lost in one of the next turns of the loop
            if not self._all.open:
                return
            await asyncio.sleep(0)
        self._log.warning("%d connections do not end: left to the system", len(self._all.open))

    # --- before TLS ---------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(ACCEPTS):
            if len(self._all.opening) >= self._limits.half_open and not self._give_way(self._all.opening, PATIENCE):
                self._pause()
                return
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _SCARCE:  # the system would say again and again that someone is there
                    self._pause()
                    self._count("no descriptors", f"nothing is accepted for {PAUSE:g} s: {error.strerror}")
                    return
                continue  # the caller has gone already
            self._take(sock, address_name(str(address[0])))
            if self._ended:  # a place that was given up is free in a few turns
                self._ended = False
                return

    def _pause(self) -> None:
        assert self._socket is not None
        self._loop.remove_reader(self._socket)
        self._loop.call_later(PAUSE, self._resume)

    def _take(self, sock: socket.socket, address: str) -> None:
        """Give an accepted connection its place, or reset it."""
        why = self._full(address)
        if why:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
            self._count(why, f"connection refused: {why}")
            return
        sock.setblocking(False)
        connection: Connection[W] = Connection(address, self.epoch, self._loop.time(), sock=sock)
        for places in (self._all, self._addresses.setdefault(address, _Places())):
            places.add(connection)
        connection.task = self._loop.create_task(self._shake(sock, connection))

    def _full(self, address: str) -> str:
        """Why there is no place for one more of this address; where it helps, one that should have proved itself by now goes."""
        if self._arrivals.take(address):
            return "too many a second from one address"
        for places, most, why in (
            (self._addresses.get(address), self._limits.per_address, "too many of one address"),
            (self._all, self._limits.connections, "too many"),
        ):
            if places is None or len(places.open) < most:
                continue
            if not (self._give_way(places.opening, PATIENCE) or self._give_way(places.unproven, UNPROVEN)):
                return why
        return ""

    def _give_way(self, candidates: dict[Connection[W], None], patience: float) -> bool:
        oldest = next(iter(candidates), None)
        if oldest is None or self._loop.time() - oldest.since < patience:
            return False
        self._ended = True
        if oldest.transport is None:
            self._count("handshake too long", "connection ended: others wait, and its TLS handshake was not over")
        else:
            self._count("proved nothing", "connection ended: others wait, and it has proved nothing")
        self._end(oldest)
        return True

    def _end(self, connection: Connection[W]) -> None:
        """End a connection.  A handshake fails with this.

        Its task is not cancelled: asyncio loses sight of a connection that is cut before it has begun the handshake.
        """
        self._release(connection)
        if connection.transport is not None:
            cut(connection.transport)
            return
        assert connection.sock is not None
        with contextlib.suppress(OSError):  # the caller has gone already
            connection.sock.shutdown(socket.SHUT_RDWR)

    async def _shake(self, sock: socket.socket, connection: Connection[W]) -> None:
        """TLS.  What follows is aiohttp's: ``connection_made`` is called as its last step."""
        context = self._context

        def made() -> web.RequestHandler:
            handler = self._make(self, loop=self._loop, **self._kwargs)
            self._by_handler[handler] = connection
            handlers.append(handler)
            return handler

        handlers: list[web.RequestHandler] = []
        try:
            if context is None:
                await self._loop.connect_accepted_socket(made, sock)
            else:
                await self._loop.connect_accepted_socket(
                    made, sock, ssl=context, ssl_handshake_timeout=self._limits.handshake, ssl_shutdown_timeout=SHUTDOWN
                )
        except OSError as error:
            error.__traceback__ = None  # it holds everything of this connection, in a circle, until some later collection
            if connection not in self._all.open:
                return  # ended by us, and counted
            why = tls_reason(error) if isinstance(error, ssl.SSLError) else "no handshake in time, or the caller has gone"
            refused = isinstance(error, ssl.SSLCertVerificationError)
            self.refused["TLS"] += 1
            self._log.log(
                self._level, "certificate refused: %s" if refused else "TLS handshake refused: %s", why,
                extra={"fields": {"event": "tls", "reason": why}},
            )  # fmt: skip
        finally:
            if connection.transport is None:
                for handler in handlers:
                    handler.connection_lost(None)
                self._release(connection)
            connection.task = connection.sock = None

    # --- after TLS ----------------------------------------------------------------------------------------------------

    def connection(self, request: web.BaseRequest) -> Connection[W] | None:
        """The one a request came on; ``None`` when it is to get no answer."""
        found = self._by_handler.get(request.protocol)
        return None if found is None or found.who is None else found

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        connection = self._by_handler[handler]
        connection.transport = transport
        hold_less(transport, TLS_BUFFER)
        if connection not in self._all.open:  # ended in its last moment
            cut(transport)
            return
        self._settled(connection, proven=False)
        try:
            who, share = self._owner(transport)
            if share and self._shares[share] >= self._limits.per_share:
                raise Stranger("too many of one certificate")
        except Stranger as error:
            self._refuse(connection, str(error))
            cut(transport)
            return
        connection.who, connection.share = who, share
        connection.until = certificate_end(transport.get_extra_info("peercert"))
        self._shares[share] += 1
        if share:
            self.proven(connection)

    def proven(self, connection: Connection[W]) -> None:
        """Whoever is at its other end has shown who he is: it does not give way any more."""
        if connection in self._all.open:
            self._settled(connection, proven=True)

    def _owner(self, transport: asyncio.Transport) -> tuple[W, str]:
        certificate, data = shown(transport)
        if data is not None and self.revoked is not None and self.revoked.holds(data):
            raise Stranger("its certificate was taken back")
        return self._admit(certificate, data)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        connection = self._by_handler.pop(handler, None)
        if connection is not None:
            self._release(connection)

    # --- books --------------------------------------------------------------------------------------------------------

    def _settled(self, connection: Connection[W], *, proven: bool) -> None:
        for places in (self._all, self._addresses[connection.address]):
            places.settled(connection, proven=proven)

    def _release(self, connection: Connection[W]) -> None:
        """Give a connection's places back, once."""
        if connection not in self._all.open:
            return
        found = self._addresses[connection.address]
        for places in (self._all, found):
            places.drop(connection)
        if not found.open:
            del self._addresses[connection.address]
        if connection.who is not None:
            self._shares[connection.share] -= 1
            if not self._shares[connection.share]:
                del self._shares[connection.share]

    def _refuse(self, connection: Connection[W], why: str) -> None:
        self._count(why, f"connection refused after TLS: {why}")

    def _count(self, why: str, text: str) -> None:
        self.refused[why] += 1
        self._log.warning(text, extra={"fields": {"event": "connection-refused", "why": why}})


def shown(transport: asyncio.BaseTransport | None) -> tuple[Mapping[str, Any] | None, bytes | None]:
    """The verified certificate of the other end, as ``getpeercert()`` shows it and in DER; ``None`` without one."""
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    return (None, None) if tls is None else (tls.getpeercert(), tls.getpeercert(True))


def certificate_end(certificate: Mapping[str, Any] | None) -> float:
    """When a certificate, as ``getpeercert()`` shows it, ends: Unix seconds; infinite without one."""
    return float(ssl.cert_time_to_seconds(certificate["notAfter"])) if certificate else float("inf")
