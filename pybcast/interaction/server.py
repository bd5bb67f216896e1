# SPDX-License-Identifier: Apache-2.0
"""The BSM's HTTPS for terminals (rules R35, R36): STKMs, LTKMs and registration material to those who are entitled, and what cards
answer.

A DRM terminal proves who it is with a client certificate that names its UDN, a Smartcard terminal with HTTP Digest.  Nobody else
learns anything but that; who asks too often is refused before anything is looked up.  No text of a refusal repeats the request.
"""

from __future__ import annotations

import json
import logging
import math
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final

from aiohttp import web

from pybcast.errors import BcastError, ConfigError, CryptoError, FlowError, PeerFlowError, TransportError, WireError
from pybcast.flows import BSM, Output, Profile, Status
from pybcast.https.contexts import Context
from pybcast.https.exchange import NoBody, Serving, read_body, send
from pybcast.https.faults import http_log
from pybcast.https.limits import Buckets
from pybcast.https.listener import Connection, Listener
from pybcast.interaction import wire
from pybcast.interaction.digest import BadDigest, Nonces, NotProven, Verifier, password_of
from pybcast.interaction.limits import Limits
from pybcast.interaction.waiting import Machine, Waiting
from pybcast.interaction.wire import BadRequest
from pybcast.wire.times import NTP_UNIX

LOG: Final = logging.getLogger("pybcast.interaction")
_HTTP_LOG: Final = http_log("pybcast.interaction.http", logging.DEBUG)
UDN_URI: Final = "urn:x-bcast:udn:"
"""confidence: own - a device certificate names its UDN (20 digits) as a URI of this form, or, without any alternative name, as the
common name."""
MAX_LINE: Final = 4096  # octets of a request line, and of a field of its head: a service's URI three times over - confidence: own
MAX_FIELDS: Final = 32  # of a request's head - confidence: own
_PATHS: Final = {wire.LTKM: "ltkm", wire.REGISTRATION: "registration", wire.VERIFICATION: "verification"}
_UNREAD: Final = {400: "malformed", 408: "too-slow", 413: "too-large"}
_FIELDS: Final = {"Server": "pybcast", "Cache-Control": "no-store"}

Observer = Callable[[str, int, float], None]
"""(path: stkm, ltkm, registration, verification or other; HTTP status; seconds)."""


@dataclass(frozen=True)
class _Who:
    """Who asks: a subscriber.  ``proof``: the field that the answer to Digest carries."""

    subscriber: str
    profile: Profile
    proof: str = ""


@dataclass(eq=False)
class _Terminal:
    """The other end of a connection.  ``udn``: of its certificate; ``None`` without one.  ``unproven``: requests that proved
    nothing since the last one that did.
    """

    udn: str | None
    unproven: int = 0


_Caller = Connection[_Terminal]


class _Refusal(Exception):
    def __init__(self, status: int, problem: str, **fields: str) -> None:
        self.status, self.problem, self.fields = status, problem, fields
        super().__init__(problem)


class _Handler(web.RequestHandler):
    """One connection.  What cannot be read as HTTP is refused as everything else is; aiohttp would repeat some of it."""

    unreadable: Callable[[int], None]

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer has left already")
        response = _problem(500, "fault", {}) if status >= 500 else _problem(400, "malformed", {})
        response.force_close()
        self.unreadable(response.status)
        return response


class InteractionServer(Serving):
    """Listens for terminals of one BSM.

    ``machine``: how to ask it.  ``clock``: 64-bit NTP seconds; ``monotonic``: seconds that never go back.  ``realm``: of Digest.
    ``observer``: is told of every request.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        realm: str,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(clock)
        self._machine, self._monotonic, self._observer = machine, monotonic, observer
        self._verifier = Verifier(realm, Nonces(monotonic))
        self.waiting = Waiting(machine, clock)
        self._open: Counter[str] = Counter()
        self._set(limits or Limits())

    def _set(self, limits: Limits) -> None:
        self._limits = limits
        self._terminals = Buckets(limits.rate, limits.burst, self._monotonic)
        self._ltkms = Buckets(limits.ltkm_rate, limits.ltkm_burst, self._monotonic)
        self._strangers = Buckets(limits.stranger_rate, limits.stranger_burst, self._monotonic)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int, context: Context) -> None:
        """Listen; ``port`` 0: any free one (``port`` of the server tells).  ``TransportError`` when the address cannot be had."""
        if context.verify_mode is not ssl.CERT_OPTIONAL:
            raise ConfigError("the interaction channel's TLS: a certificate of the client is optional")
        self.listener = Listener(
            self._handle, limits=self._limits, admit=self._admit, log=LOG, level=logging.INFO, make=self._connection,
            handler_cancellation=True, logger=_HTTP_LOG, max_line_size=MAX_LINE, max_field_size=MAX_LINE, max_headers=MAX_FIELDS,
        )  # fmt: skip
        await self.listener.start(host, port, context, backlog=1024)
        self.waiting.start()

    def _connection(self, *arguments: Any, **settings: Any) -> web.RequestHandler:
        handler = _Handler(*arguments, **settings)
        handler.unreadable = lambda status: self._observe("other", status, 0.0)
        return handler

    @staticmethod
    def _admit(certificate: Mapping[str, Any] | None, _: bytes | None) -> tuple[_Terminal, str]:
        """Anyone may come in: who is not known learns that, and nothing else (R35)."""
        udn = udn_of(certificate)
        return _Terminal(udn), udn or ""

    async def reload(self, context: Context, limits: Limits, *, renew: bool = True) -> None:
        """New certificates and limits, without a moment of not listening.

        Connections under the old ones end with their answer, if they are to be renewed.
        """
        assert self.listener is not None
        self._set(limits)
        self.listener.reload(context=context, limits=limits, renew=renew)

    async def stop(self, grace: float = 2.0) -> None:
        """Stop listening; who waits is told that there is nothing yet."""
        if self.listener is not None:
            self.listener.close()
        await self.waiting.stop()
        if self.listener is not None:
            await self.listener.stop(grace)

    # --- one request --------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self.listener is not None
        caller = self.listener.connection(request)
        started = self._monotonic()
        target = request.raw_path
        path = "stkm" if target.startswith(wire.STKM) else _PATHS.get(target, "other")
        fields: dict[str, str] = {}
        try:
            if caller is None:
                raise _Refusal(503, "unavailable")
            response = await self._answer(request, caller, path, target, fields)
        except _Refusal as refusal:
            response = _problem(refusal.status, refusal.problem, {**fields, **refusal.fields})
            if request.body_exists:  # what is left of it is not read
                response.force_close()
        except (FlowError, TransportError):
            response = _problem(503, "unavailable", fields)
        except BcastError as error:
            LOG.error("%s: %s", path, error)
            response = _problem(500, "fault", fields)
        except Exception as error:
            LOG.exception("%s: the handler failed: %s", path, type(error).__name__)
            response = _problem(500, "fault", fields)
        if caller is None or self.is_last(caller):
            response.force_close()
        await send(request, response, seconds=self._limits.send)
        self._observe(path, response.status, self._monotonic() - started)
        return response

    def _observe(self, path: str, status: int, seconds: float) -> None:
        fields = {"event": "interaction", "path": path, "status": status, "seconds": round(seconds, 6)}
        LOG.debug("%s: %d", path, status, extra={"fields": fields})
        if self._observer is not None:
            self._observer(path, status, seconds)

    async def _answer(
        self, request: web.BaseRequest, caller: _Caller, path: str, target: str, fields: dict[str, str]
    ) -> web.Response:
        """``fields``: what every answer to this request is to carry."""
        terminal = caller.who
        assert terminal is not None
        pause = 0.0
        if terminal.unproven >= self._limits.unproven:  # only then: who proves who he is does not pay for strangers
            pause = self._strangers.take(f"udn {terminal.udn}" if terminal.udn else caller.address)
        terminal.unproven += 1
        if pause:
            raise _limited(pause)
        wanted = "POST" if path == "verification" else "GET"
        if path == "other":
            raise _Refusal(404, "not-known")
        if request.method != wanted:
            raise _Refusal(405, "method", Allow=wanted)
        if (request.content_length or 0) > self._limits.octets:
            raise _Refusal(413, "too-large")
        who = await self._who(request, caller, target)
        terminal.unproven = 0
        if self.listener is not None:
            self.listener.proven(caller)
        if who.proof:
            fields["Authentication-Info"] = who.proof
        pause = self._terminals.take(who.subscriber)
        if pause:
            raise _limited(pause)
        if wanted == "GET" and request.body_exists:
            raise _Refusal(413, "too-large")
        match path:
            case "stkm":
                return await self._stkm(who, target, fields)
            case "ltkm":
                return await self._ltkms_of(who, fields)
            case "registration":
                found = await self._machine.ask_machine(lambda machine, _: machine.registration(who.subscriber))
                return _messages(() if found is None else (found,), wire.REGISTRATION_TYPE, fields)
            case _:
                return await self._verification(who, request, fields)

    # --- who asks -----------------------------------------------------------------------------------------------------

    async def _who(self, request: web.BaseRequest, caller: _Caller, target: str) -> _Who:
        header = request.headers.getall("Authorization", [])
        udn = None if caller.who is None else caller.who.udn
        if not header and udn is not None:
            return await self._device(caller, udn)
        if len(header) != 1:
            raise self._unauthorised(400 if header else 401)
        try:
            said = self._verifier.read(header[0], target)
            found = await self._machine.ask_machine(lambda machine, _: machine.known_as(said.username))
            password = None if found is None or found.srk is None else password_of(found.srk)
            proof = self._verifier.accept(said, request.method, password)
        except BadDigest:
            raise self._unauthorised(400) from None
        except NotProven as error:
            raise self._unauthorised(401, stale=error.stale) from None
        assert found is not None, "nobody knows the password of who is not known"
        return _Who(found.id, "smartcard", proof)

    async def _device(self, caller: _Caller, udn: str) -> _Who:
        if self.expired(caller):
            raise self._unauthorised(401)
        found = await self._machine.ask_machine(lambda machine, _: machine.device(udn)) if udn else None
        if found is None:
            raise _Refusal(403, "unknown-terminal")
        return _Who(found.id, "drm")

    def _unauthorised(self, status: int, *, stale: bool = False) -> _Refusal:
        challenge = self._verifier.challenge(stale=stale)
        return _Refusal(401, "unauthorised", **{"WWW-Authenticate": challenge}) if status == 401 else _Refusal(400, "malformed")

    # --- what they ask for ----------------------------------------------------------------------------------------------

    async def _stkm(self, who: _Who, target: str, fields: dict[str, str]) -> web.Response:
        try:
            service, stream, profile, after, wait = wire.read_stkm_target(target)
        except BadRequest as error:
            raise _Refusal(error.status, "not-known" if error.status == 404 else "malformed") from None
        if profile != who.profile:
            raise _Refusal(403, "forbidden")
        if self._open[who.subscriber] >= self._limits.waiting:
            raise _limited(1.0)
        self._open[who.subscriber] += 1
        try:
            found = await self.waiting.stkm((service, stream, profile), who.subscriber, after, wait)
        except PeerFlowError as error:
            known = error.status == Status.NOT_PERMITTED
            raise _Refusal(403 if known else 404, "forbidden" if known else "not-known") from None
        finally:
            self._open[who.subscriber] -= 1
            if not self._open[who.subscriber]:
                del self._open[who.subscriber]
        if found is None:
            return web.Response(status=204, headers=_FIELDS | fields)
        headers = _FIELDS | {
            "Content-Type": wire.STKM_TYPE, "Cache-Control": "private", "Expires": http_date(found.period_end),
            wire.PERIOD: wire.period_field(found.period_start, found.period_end),
        } | fields  # fmt: skip
        return web.Response(body=found.content, headers=headers)

    async def _ltkms_of(self, who: _Who, fields: dict[str, str]) -> web.Response:
        pause = self._ltkms.take(who.subscriber)
        if pause:
            raise _limited(pause)
        # It returns when the COUNTERs they use are stored (R2).
        made = await self._machine.command(lambda machine, now: machine.fetch_ltkms(who.subscriber, now))
        return _messages(made, wire.LTKM_TYPE, fields)

    async def _verification(self, who: _Who, request: web.BaseRequest, fields: dict[str, str]) -> web.Response:
        if request.content_type != wire.LTKM_TYPE or request.headers.get("Content-Encoding"):
            raise _Refusal(415, "media-type")
        try:
            data = await read_body(request, seconds=self._limits.body, octets=self._limits.octets)
        except NoBody as error:
            raise _Refusal(error.status, _UNREAD[error.status]) from None

        def verify(machine: BSM, now: float) -> tuple[bool, list[Output]]:
            try:
                return True, machine.verify(data, now, who.subscriber)[1]
            except (CryptoError, WireError):  # the card's fault, and none of the machine's
                return False, machine.tick(now)  # what was done before it was refused

        if not await self._machine.command(verify):
            raise _Refusal(409, "not-awaited")
        return web.Response(status=204, headers=_FIELDS | fields)


# --- answers --------------------------------------------------------------------------------------------------------------


def _messages(items: tuple[bytes, ...] | list[bytes], media_type: str, fields: dict[str, str]) -> web.Response:
    if not items:
        return web.Response(status=204, headers=_FIELDS | fields)
    content_type, body = wire.pack(items, media_type)
    return web.Response(body=body, headers=_FIELDS | {"Content-Type": content_type} | fields)


def _problem(status: int, name: str, fields: dict[str, str]) -> web.Response:
    kind = wire.PROBLEM + name
    body = json.dumps({"type": kind, "title": wire.PROBLEMS[kind], "status": status}).encode()
    return web.Response(status=status, body=body, headers=_FIELDS | {"Content-Type": wire.PROBLEM_TYPE} | fields)


def _limited(pause: float) -> _Refusal:
    return _Refusal(429, "limited", **{"Retry-After": str(max(1, math.ceil(pause)))})


def http_date(ntp: int) -> str:
    """NTP seconds as a date of HTTP; the last second that has one for later ones."""
    return formatdate(min(max(ntp - NTP_UNIX, 0), 253_402_300_799), usegmt=True)


# --- certificates ---------------------------------------------------------------------------------------------------------


def udn_of(certificate: Mapping[str, Any] | None) -> str | None:
    """The UDN that a verified certificate names (``getpeercert()``); empty when it names none or several, ``None`` without one."""
    if not certificate:
        return None
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI" and value.startswith(UDN_URI)]
    if not certificate.get("subjectAltName"):
        names = [UDN_URI + value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return names[0].removeprefix(UDN_URI) if len(names) == 1 else ""
