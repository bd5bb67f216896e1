# SPDX-License-Identifier: Apache-2.0
"""HTTP Digest (RFC 7616) with SHA-256 and qop=auth, both ends: how a Smartcard terminal proves who it is (rules R35, R24).

User is the B-TID, password base64(SRK), as TS 33.246 6.2.1.3 has it of MBMS (sure).  aiohttp brings the client's side; it
is not used: it takes whatever algorithm a server names, MD5 too (R11), and does not look whether the answer is from someone who
knows the password (rspauth).

Nonces carry their time and a MAC, so that one which was never used costs no memory.  Of those in use their counts are kept: a
request that was heard cannot be sent again.  A user's name is sent as it is, not hashed: a B-TID is a random number already.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pybcast.errors import TransportError
from pybcast.keys import SRK
from pybcast.secret import Secret

ALGORITHM: Final = "SHA-256"
QOP: Final = "auth"
NONCE_LIFE: Final = 300.0  # seconds that a nonce can be used: a terminal asks for a new one without its user - confidence: own
NONCES: Final = 131_072  # in use at once, 30 MB; beyond, the oldest are given up and said to be stale - confidence: own
WINDOW: Final = 64  # requests of one terminal that may overtake each other, on several connections - confidence: own
MAX_HEADER: Final = 2048  # characters: a B-TID is 50, a name of a service in the URI may be some hundred - confidence: own
MAX_PARAMETERS: Final = 16  # RFC 7616 knows eleven
REALM: Final = "3GPP-bootstrapping@"  # and the BSM's name (TS 33.222; sure)

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?:,|$)')
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_COUNT: Final = re.compile("[0-9a-f]{8}", re.IGNORECASE)
_NONCE: Final = re.compile("[A-Za-z0-9_-]{44}")
_MAC: Final = 16  # octets of a nonce's MAC
_NOBODY: Final = Secret(os.urandom(32))  # the password of who is not known: the same work, never right


class BadDigest(TransportError):
    """A challenge, or credentials, that cannot be read or used."""

    code = "bad_digest"


class NotProven(TransportError):
    """Credentials that prove nothing.  ``stale``: only because of their nonce; with a new one they may."""

    code = "not_proven"

    def __init__(self, reason: str, *, stale: bool = False) -> None:
        self.stale = stale
        super().__init__(reason)


@dataclass(frozen=True)
class Digest:
    """Who a terminal is: ``username``, and the password, octets of text."""

    username: str
    password: Secret

    @classmethod
    def of(cls, btid: str, srk: SRK) -> Digest:
        """Of a registration: B-TID, and base64(SRK)."""
        return cls(btid, password_of(srk))


def password_of(srk: SRK) -> Secret:
    """base64(SRK)."""
    return Secret(base64.b64encode(srk.reveal()))


# --- the computation (RFC 7616 3.4) -------------------------------------------------------------------------------------


def _h(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def user_hash(username: str, realm: str, password: Secret) -> bytes:
    """H(A1): what user, realm and password come to."""
    return _h(f"{username}:{realm}:".encode() + password.reveal())


def response(a1: bytes, nonce: str, count: str, cnonce: str, method: str, uri: str) -> str:
    """``response`` of a request; with an empty ``method`` the ``rspauth`` of its answer."""
    return _h(b"%b:%b:%b" % (a1, f"{nonce}:{count}:{cnonce}:{QOP}".encode(), _h(f"{method}:{uri}".encode()))).decode()


# --- header fields --------------------------------------------------------------------------------------------------------


def read_parameters(text: str) -> dict[str, str]:
    """``name=value`` pairs with commas between, names in lower case.  ``BadDigest`` for anything else, and for a name twice."""
    found: dict[str, str] = {}
    at, length = 0, len(text)
    if length > MAX_HEADER:
        raise BadDigest("too long")
    while at < length:
        match = _PARAMETER.match(text, at)
        if match is None:
            raise BadDigest("not pairs of a name and a value")
        name, quoted, token = match.groups()
        if name.lower() in found or len(found) == MAX_PARAMETERS:
            raise BadDigest("a name twice, or too many")
        found[name.lower()] = _QUOTED_PAIR.sub(r"\1", quoted) if token is None else token
        at = match.end()
    return found


def _of_scheme(header: str) -> dict[str, str]:
    scheme, _, rest = header.strip(" \t").partition(" ")
    if scheme.lower() != "digest":
        raise BadDigest("another scheme than Digest")
    return read_parameters(rest)


def _quote(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


@dataclass(frozen=True)
class Credentials:
    """What a request said in ``Authorization``; ``count``: nc as it was written."""

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    cnonce: str
    count: str

    @classmethod
    def read(cls, header: str) -> Credentials:
        """``BadDigest`` for what is not Digest with SHA-256, qop=auth and all that belongs to it."""
        found = _of_scheme(header)
        if found.get("algorithm", "").upper() != ALGORITHM or found.get("qop") != QOP:
            raise BadDigest(f"expected algorithm={ALGORITHM}, qop={QOP}")
        if found.get("userhash", "false").lower() != "false":
            raise BadDigest("userhash is not offered")
        try:
            made = cls(*(found[name] for name in ("username", "realm", "nonce", "uri", "response", "cnonce", "nc")))
        except KeyError:
            raise BadDigest("a part is missing") from None
        if not made.cnonce or not _COUNT.fullmatch(made.count):
            raise BadDigest("cnonce or nc cannot be used")
        if not (text := "".join(vars(made).values())).isascii() or not text.isprintable():
            raise BadDigest("not printable ASCII")
        return made


# --- the server's end -----------------------------------------------------------------------------------------------------


@dataclass
class _Use:
    """A nonce at work: whose it is, when it came into use, the highest count, and which of the last ``WINDOW`` were seen."""

    user: str
    since: float
    issued: float
    highest: int
    seen: int


class Nonces:
    """Nonces of one server process.  ``clock``: seconds that never go back.  ``most``: in use at once."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        randomness: Callable[[int], bytes] = os.urandom,
        life: float = NONCE_LIFE,
        most: int = NONCES,
    ) -> None:
        self._clock, self._randomness, self.life, self._most = clock, randomness, life, most
        self._key = randomness(32)
        self._used: dict[bytes, _Use] = {}
        self._floor = -1.0

    def __len__(self) -> int:
        return len(self._used)

    def new(self) -> str:
        """A nonce: milliseconds (8 octets), chance (9), MAC (16)."""
        body = int(self._clock() * 1000).to_bytes(8, "big") + self._randomness(9)
        return base64.urlsafe_b64encode(body + self._mac(body)).decode()

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_MAC]

    def issued(self, nonce: str) -> float | None:
        """When it was made, if here; also one that can no longer be used."""
        if not _NONCE.fullmatch(nonce):
            return None
        raw = base64.urlsafe_b64decode(nonce)
        body, mac = raw[:-_MAC], raw[-_MAC:]
        return int.from_bytes(body[:8], "big") / 1000 if hmac.compare_digest(mac, self._mac(body)) else None

    def live(self, nonce: str) -> bool:
        """Whether it is ours and young enough, and nothing about it was forgotten."""
        issued = self.issued(nonce)
        if issued is None or self._clock() - issued > self.life:
            return False
        return issued > self._floor or nonce.encode() in self._used

    def use(self, nonce: str, user: str, count: int) -> bool:
        """Take one count of a live nonce; ``False`` when it was taken before, is too far behind, or the nonce is another's."""
        issued, now, name = self.issued(nonce), self._clock(), nonce.encode()
        if issued is None or not self.live(nonce) or count < 1:
            return False
        row = self._used.get(name)
        if row is None:
            self._forget(now)
            self._used[name] = _Use(user, now, issued, count, 1)
            return True
        behind = row.highest - count
        if row.user != user or behind >= WINDOW or (behind >= 0 and row.seen >> behind & 1):
            return False
        if behind < 0:
            row.seen = (row.seen << -behind | 1) & ((1 << WINDOW) - 1) if -behind < WINDOW else 1
            row.highest = count
        else:
            row.seen |= 1 << behind
        return True

    def _forget(self, now: float) -> None:
        """Those that can no longer be used go; when there are too many, the oldest, and what is as old and unknown is refused."""
        while self._used:
            name, row = next(iter(self._used.items()))
            if now - row.since <= self.life and len(self._used) < self._most:
                return
            del self._used[name]
            if now - row.since <= self.life:
                self._floor = max(self._floor, row.issued)


class Verifier:
    """What a server asks of its callers, and whether they gave it."""

    def __init__(self, realm: str, nonces: Nonces) -> None:
        self.realm, self._nonces = realm, nonces

    def challenge(self, *, stale: bool = False) -> str:
        """``WWW-Authenticate``."""
        more = ", stale=true" if stale else ""
        return f'Digest realm={_quote(self.realm)}, qop="{QOP}", algorithm={ALGORITHM}, nonce="{self._nonces.new()}"{more}'

    def read(self, header: str, target: str) -> Credentials:
        """Credentials that are worth looking their user up: for this request, under a live nonce.  ``BadDigest``, ``NotProven``."""
        found = Credentials.read(header)
        if found.realm != self.realm or found.uri != target:
            raise NotProven("of another realm or request")
        if not self._nonces.live(found.nonce):
            raise NotProven("a nonce that cannot be used any more", stale=True)
        return found

    def accept(self, found: Credentials, method: str, password: Secret | None) -> str:
        """``Authentication-Info`` of the answer.  ``NotProven`` when the password (``None``: no such user) is another, or when the
        request was sent before.
        """
        a1 = user_hash(found.username, self.realm, _NOBODY if password is None else password)
        wanted = response(a1, found.nonce, found.count, found.cnonce, method, found.uri)
        good = hmac.compare_digest(wanted, found.response.lower()) and password is not None
        if not good:
            raise NotProven("user or password is wrong")
        if not self._nonces.use(found.nonce, found.username, int(found.count, 16)):
            raise NotProven("sent before", stale=True)
        proof = response(a1, found.nonce, found.count, found.cnonce, "", found.uri)
        return f'rspauth="{proof}", qop={QOP}, cnonce={_quote(found.cnonce)}, nc={found.count}'


# --- the client's end -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """What a request was sent with.  ``header``: its ``Authorization``; ``expected``: ``rspauth`` of the true server."""

    header: str
    nonce: str
    count: str
    cnonce: str
    expected: str


class Authenticator:
    """A terminal's side of one protection space.  Sends nothing before the server has said how."""

    def __init__(self, digest: Digest, *, randomness: Callable[[int], bytes] = os.urandom) -> None:
        self._digest, self._randomness = digest, randomness
        self._realm = self._nonce = ""
        self._a1 = b""
        self._count = 0

    def challenged(self, header: str) -> bool:
        """Take a ``WWW-Authenticate``; whether only the nonce was stale.  ``BadDigest`` for one without SHA-256 and qop=auth."""
        found = _of_scheme(header)
        offered = {part.strip() for part in found.get("qop", "").split(",")}
        if found.get("algorithm", "").upper() != ALGORITHM or QOP not in offered:
            raise BadDigest(f"expected algorithm={ALGORITHM}, qop={QOP}")
        nonce, realm = found.get("nonce", ""), found.get("realm")
        if not nonce or realm is None or not (nonce + realm).isascii():
            raise BadDigest("without a nonce or a realm")
        if realm != self._realm or not self._a1:
            self._realm, self._a1 = realm, user_hash(self._digest.username, realm, self._digest.password)
        self._nonce, self._count = nonce, 0
        return found.get("stale", "").lower() == "true"

    def prove(self, method: str, uri: str) -> Proof | None:
        """For the next request; ``None`` before the first challenge."""
        if not self._nonce:
            return None
        self._count += 1
        count, cnonce, nonce = f"{self._count:08x}", base64.b64encode(self._randomness(18)).decode(), self._nonce
        parts = {"username": self._digest.username, "realm": self._realm, "nonce": nonce, "uri": uri, "cnonce": cnonce}
        quoted = ", ".join(f"{name}={_quote(value)}" for name, value in parts.items())
        answer = response(self._a1, nonce, count, cnonce, method, uri)
        return Proof(
            f'Digest {quoted}, response="{answer}", algorithm={ALGORITHM}, qop={QOP}, nc={count}',
            nonce, count, cnonce, response(self._a1, nonce, count, cnonce, "", uri),
        )  # fmt: skip

    def confirmed(self, proof: Proof, header: str) -> None:
        """Take an ``Authentication-Info``.  ``BadDigest`` when who wrote it does not know the password."""
        found = read_parameters(header)
        same = (found.get("nc"), found.get("cnonce"), found.get("qop")) == (proof.count, proof.cnonce, QOP)
        if not same or not hmac.compare_digest(found.get("rspauth", "").lower().encode(), proof.expected.encode()):
            raise BadDigest("the answer is from someone who does not know the password")
