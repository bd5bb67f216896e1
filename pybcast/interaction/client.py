# SPDX-License-Identifier: Apache-2.0
"""A terminal's end of the interaction channel: fetches its STKMs, LTKMs and registration material, and lets its card verify.

One request is one attempt (and one more where the server wants another nonce): when to try again is the caller's to say.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pybcast import jsontext
from pybcast.errors import BadValue, ConfigError
from pybcast.https.faults import failure
from pybcast.interaction import wire
from pybcast.interaction.digest import Authenticator, BadDigest, Digest, Proof
from pybcast.interaction.errors import BadAnswer, Forbidden, Limited, NotKnown, Refused, Unauthorised, Unavailable, Unreachable

CONNECT: Final = 5.0  # seconds for TCP and TLS - confidence: own
ANSWER: Final = 10.0  # seconds for an answer, beyond the time it was asked to wait - confidence: own
CONNECTIONS: Final = 8  # at once: one for each stream that is waited for, and some - confidence: own
IDLE: Final = 30.0  # seconds that a connection is kept for the next request; the server keeps it longer
ATTEMPTS: Final = 3  # without a nonce, with one that has ended meanwhile, with a fresh one
PROOF: Final = "Authentication-Info"
MAX_STKM: Final = 65_536  # octets; one STKM is one UDP datagram elsewhere
MAX_LTKMS: Final = 8 << 20  # octets of all LTKMs of one subscriber - confidence: own
MAX_PROBLEM: Final = 4096  # octets of a refusal's text

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_SECONDS: Final = re.compile("[0-9]{1,6}")


@dataclass(frozen=True)
class Fetched:
    """One STKM and its crypto period [start, end), NTP seconds."""

    data: bytes
    start: int
    end: int


@dataclass(frozen=True)
class _Answer:
    status: int
    content_type: str
    boundary: str | None
    period: str
    retry_after: str
    body: bytes


class InteractionClient:
    """Asks one BSM on behalf of one terminal.

    ``base_url``: ``https://HOST:PORT``.  ``context``: of ``https.contexts.terminal_context``; with the certificate of a DRM
    terminal.
    ``digest``: of a Smartcard terminal.

    What can go wrong is an ``InteractionError``: ``Unreachable``, ``BadAnswer``, or a ``Refused``: ``Unauthorised``,
    ``Forbidden``, ``NotKnown``, ``Limited``, ``Unavailable``.
    """

    def __init__(self, base_url: str, *, context: ssl.SSLContext, digest: Digest | None) -> None:
        split = urlsplit(base_url)
        if split.scheme != "https" or not split.hostname or split.query or split.fragment:
            raise ConfigError("the interaction channel's URL: expected https://HOST:PORT")
        self._base = base_url.rstrip("/")
        self._path = split.path.rstrip("/")
        self._context = context
        self._proving = None if digest is None else Authenticator(digest)
        self._session: aiohttp.ClientSession | None = None

    async def stkm(self, service: str, stream: int, profile: str, *, after: int | None = None, wait: float = 0.0) -> Fetched | None:
        """The STKM of the running period, or the first one after the period that began at ``after`` (NTP seconds).

        ``wait``: seconds until there is one, at most ``wire.MAX_WAIT``; ``None``: not in that time.
        """
        target = wire.stkm_target(service, stream, profile, after, wait)
        answer = await self._ask("GET", target, MAX_STKM, min(wait, wire.MAX_WAIT))
        if answer.status == 204:
            return None
        if answer.content_type != wire.STKM_TYPE or not answer.body:
            raise BadAnswer("an answer of another type")
        start, end = wire.read_period(answer.period)
        if after is not None and start <= after:
            raise BadAnswer("a STKM that was not asked for")
        return Fetched(answer.body, start, end)

    async def ltkms(self) -> tuple[bytes, ...]:
        """All LTKMs of the subscriber, in the order in which they are to be taken.  Each call makes new ones: not too often."""
        return await self._messages(wire.LTKM, wire.LTKM_TYPE)

    async def registration(self) -> tuple[bytes, ...]:
        """The subscriber's registration material."""
        return await self._messages(wire.REGISTRATION, wire.REGISTRATION_TYPE)

    async def _messages(self, target: str, media_type: str) -> tuple[bytes, ...]:
        answer = await self._ask("GET", target, MAX_LTKMS)
        if answer.status == 204:
            return ()
        return wire.unpack(answer.content_type, answer.boundary, answer.body, media_type)

    async def verify(self, data: bytes) -> None:
        """Bring a card's verification or reporting message.  ``Refused`` with 409 when nobody waits for it or it is false."""
        answer = await self._ask("POST", wire.VERIFICATION, MAX_PROBLEM, data=data)
        if answer.status != 204:
            raise BadAnswer("an answer where none was expected")

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            if session.connector is not None:
                await session.connector.close(abort_ssl=True)  # the server's end of TLS is not waited for
            await session.close()

    # --- one request --------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, target: str, most: int, wait: float = 0.0, data: bytes | None = None) -> _Answer:
        answer = None
        for _ in range(ATTEMPTS):
            answer = await self._once(method, target, most, wait, data)
            if answer is not None:
                break
        if answer is None:
            raise Unauthorised(401, "unauthorised")
        if answer.status not in (200, 204):
            raise _refusal(answer)
        return answer

    async def _once(self, method: str, target: str, most: int, wait: float, data: bytes | None) -> _Answer | None:
        """``None``: there is a new challenge, and the request may be sent again."""
        proof = None if self._proving is None else self._proving.prove(method, self._path + target)
        headers = {} if proof is None else {"Authorization": proof.header}
        if data is not None:
            headers["Content-Type"] = wire.LTKM_TYPE
        limits = aiohttp.ClientTimeout(total=CONNECT + ANSWER + wait, sock_connect=CONNECT)
        try:
            async with self._opened().request(
                method, URL(self._base + target, encoded=True), headers=headers, data=data, allow_redirects=False, timeout=limits
            ) as response:
                try:
                    answer = await _read(response, most)
                    if answer.status == 401 and self._proving is not None:
                        self._challenged(self._proving, response, proof)
                        return None
                    if proof is not None and self._proving is not None and PROOF in response.headers:
                        self._proving.confirmed(proof, response.headers[PROOF])
                    return answer
                except BaseException:
                    response.close()  # what may still come on this connection is for nobody
                    raise
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        except BadDigest as error:
            raise BadAnswer(str(error)) from None
        except aiohttp.ClientError as error:
            raise Unreachable(failure(error)) from None

    def _challenged(self, proving: Authenticator, response: aiohttp.ClientResponse, proof: Proof | None) -> None:
        failure = BadDigest("401 without a challenge")
        for header in response.headers.getall("WWW-Authenticate", ()):
            try:
                stale = proving.challenged(header)
            except BadDigest as error:
                failure = error
            else:
                if proof is not None and not stale:
                    raise Unauthorised(401, "unauthorised")
                return
        raise failure

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=self._context, limit=CONNECTIONS, keepalive_timeout=IDLE)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                headers={"User-Agent": "pybcast"},
                skip_auto_headers=("Accept-Encoding",),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _read(response: aiohttp.ClientResponse, most: int) -> _Answer:
    if response.headers.get("Content-Encoding"):
        raise BadAnswer("an answer of another coding")
    most = most if response.status == 200 else MAX_PROBLEM
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > most:
            raise BadAnswer(f"more than {most} octets")
    return _Answer(
        response.status, response.content_type, _boundary(response.headers.get("Content-Type", "")),
        response.headers.get(wire.PERIOD, ""), response.headers.get("Retry-After", ""), bytes(body),
    )  # fmt: skip


def _boundary(content_type: str) -> str | None:
    found = _BOUNDARY.search(content_type)
    return None if found is None else found.group(1) or found.group(2)


def _refusal(answer: _Answer) -> Refused:
    problem = ""
    if answer.content_type == wire.PROBLEM_TYPE:
        try:
            said: Any = jsontext.read(answer.body)
        except BadValue:
            said = None
        name = said.get("type") if isinstance(said, dict) else None
        if isinstance(name, str) and name in wire.PROBLEMS:
            problem = name.removeprefix(wire.PROBLEM)
    match answer.status:
        case 401:
            return Unauthorised(401, problem)
        case 403:
            return Forbidden(403, problem)
        case 404:
            return NotKnown(404, problem)
        case 429:
            seconds = answer.retry_after
            return Limited(429, problem, float(seconds) if _SECONDS.fullmatch(seconds) else 1.0)
        case status if status >= 500:
            return Unavailable(status, problem)
        case status:
            return Refused(status, problem)
