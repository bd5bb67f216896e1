# SPDX-License-Identifier: Apache-2.0
"""What passes between terminals and BSM over HTTPS, as both ends write and read it (rules R35; signalling 5.5).

    GET  /bcast/stkm/SERVICE/STREAM?profile=PROFILE[&after=START][&wait=SECONDS]   SERVICE percent-encoded
    GET  /bcast/ltkm
    GET  /bcast/registration
    POST /bcast/verification

confidence: own - the last three paths, ``after`` and ``wait``, the field ``BCAST-Period`` and the media type of registration
material; several messages in one answer are multipart/mixed (RFC 2046 5.1), none is 204.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from pybcast.flows.peers.messages import MAX_STREAM, PROFILES, Profile
from pybcast.interaction.errors import BadAnswer

STKM_TYPE: Final = "application/vnd.oma.bcast.stkm"  # IANA
LTKM_TYPE: Final = "application/vnd.oma.bcast.ltkm"  # IANA; verification messages too, they are MIKEY like LTKMs
REGISTRATION_TYPE: Final = "application/x-bcast-registration"  # none is registered - confidence: own
MULTIPART: Final = "multipart/mixed"
PROBLEM_TYPE: Final = "application/problem+json"  # RFC 9457
PERIOD: Final = "BCAST-Period"  # of a STKM: START-END, NTP seconds - confidence: own

STKM: Final = "/bcast/stkm/"
LTKM: Final = "/bcast/ltkm"
REGISTRATION: Final = "/bcast/registration"
VERIFICATION: Final = "/bcast/verification"

PROBLEM: Final = "urn:x-bcast:problem:"
PROBLEMS: Final = {
    PROBLEM + name: title
    for name, title in (
        ("malformed", "The request cannot be read"),
        ("unauthorised", "Say who you are"),
        ("unknown-terminal", "The certificate is of no subscriber"),
        ("forbidden", "No right to this"),
        ("not-known", "There is no such thing here"),
        ("method", "Not with this method"),
        ("not-awaited", "Nobody waits for this message, or it is not genuine"),
        ("too-large", "The request is too large"),
        ("too-slow", "The request took too long"),
        ("media-type", "Not of this type"),
        ("limited", "Too many requests"),
        ("unavailable", "No answer at the moment"),
        ("fault", "A fault of the server"),
    )
}
"""What a refusal can be (RFC 9457) - confidence: own."""

MAX_WAIT: Final = 60.0  # seconds that a question may stay open: less than proxies and address translators allow - confidence: own
MAX_SERVICE: Final = 1024  # octets of a service's URI - confidence: own
MAX_PARTS: Final = 10_000  # messages in one answer - confidence: own
_NUMBER: Final = re.compile("[0-9]{1,19}")
_SECONDS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_ESCAPED: Final = re.compile("(?:[!-$&-~]|%[0-9A-Fa-f]{2})*")
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=?-]{1,70}")


class BadRequest(ValueError):
    """A target that is none of this interface.  ``status``: 400, or 404 for what is nowhere."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


# --- the question for a STKM ----------------------------------------------------------------------------------------------


def stkm_target(service: str, stream: int, profile: str, after: int | None = None, wait: float = 0.0) -> str:
    """The request target that asks for a STKM."""
    more = "" if after is None else f"&after={after}"
    if wait > 0:
        more += f"&wait={min(wait, MAX_WAIT):.3f}"
    return f"{STKM}{quote(service, safe='')}/{stream}?profile={profile}{more}"


def read_stkm_target(target: str) -> tuple[str, int, Profile, int | None, float]:
    """(service, stream, profile, after, wait).  ``BadRequest`` for anything else."""
    path, _, query = target.partition("?")
    service, slash, number = path.removeprefix(STKM).partition("/")
    if not slash or not service or not _NUMBER.fullmatch(number) or not 1 <= int(number) <= MAX_STREAM:
        raise BadRequest(404, "expected /bcast/stkm/SERVICE/STREAM")
    try:
        name = unescaped(service)
    except ValueError:
        raise BadRequest(400, "SERVICE is not percent-encoded UTF-8") from None
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not equals or key not in ("profile", "after", "wait") or key in found:
            raise BadRequest(400, "expected profile, after and wait, once each")
        found[key] = value
    profile = next((p for p in PROFILES if p == found.get("profile")), None)
    if profile is None:
        raise BadRequest(400, "profile: expected drm or smartcard")
    after, wait = found.get("after"), found.get("wait", "0")
    if after is not None and not _NUMBER.fullmatch(after):
        raise BadRequest(400, "after: expected NTP seconds")
    if not _SECONDS.fullmatch(wait):
        raise BadRequest(400, "wait: expected seconds")
    return name, int(number), profile, None if after is None else int(after), min(float(wait), MAX_WAIT)


def unescaped(text: str) -> str:
    """Percent-encoded UTF-8; ``ValueError`` for what is not."""
    if len(text) > 3 * MAX_SERVICE or not _ESCAPED.fullmatch(text):
        raise ValueError("not percent-encoded")
    return unquote_to_bytes(text).decode("utf-8")


def period_field(start: int, end: int) -> str:
    """The value of ``BCAST-Period``."""
    return f"{start}-{end}"


def read_period(value: str) -> tuple[int, int]:
    """``BadAnswer`` for what is no period."""
    start, dash, end = value.partition("-")
    if not dash or not _NUMBER.fullmatch(start) or not _NUMBER.fullmatch(end) or not int(start) < int(end):
        raise BadAnswer(f"{PERIOD}: expected START-END")
    return int(start), int(end)


# --- several messages in one answer -----------------------------------------------------------------------------------------


def pack(items: Sequence[bytes], media_type: str, randomness: Callable[[int], bytes] = os.urandom) -> tuple[str, bytes]:
    """(Content-Type, body) of one or more messages: one as it is, several as multipart/mixed in their order."""
    if len(items) == 1:
        return media_type, items[0]
    boundary = randomness(24).hex()  # 192 random bits stand in no message
    head = f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
    body = b"".join(part for item in items for part in (head, item, b"\r\n")) + f"--{boundary}--\r\n".encode()
    return f"{MULTIPART}; boundary={boundary}", body


def unpack(content_type: str, boundary: str | None, body: bytes, media_type: str) -> tuple[bytes, ...]:
    """The inverse: messages of ``media_type`` only.  ``BadAnswer`` for anything else."""
    if content_type == media_type:
        if not body:
            raise BadAnswer("an empty message")
        return (body,)
    if content_type != MULTIPART or boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise BadAnswer("an answer of another type")
    mark = b"\r\n--" + boundary.encode()
    parts = (b"\r\n" + body).split(mark, MAX_PARTS + 2)  # preamble, the parts, and what follows the end
    if len(parts) < 3 or len(parts) > MAX_PARTS + 2 or not parts[-1].startswith(b"--"):
        raise BadAnswer("multipart without an end, or with too many parts")
    return tuple(_part(part, media_type) for part in parts[1:-1])


def _part(part: bytes, media_type: str) -> bytes:
    line, found, rest = part.partition(b"\r\n")
    head, gap, data = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if line.strip(b" \t") or not found or not gap or not data:
        raise BadAnswer("a part that cannot be read")
    for field in head.split(b"\r\n")[1:]:
        name, colon, value = field.partition(b":")
        if not colon or (name.lower() == b"content-type" and value.strip().lower() != media_type.encode()):
            raise BadAnswer("a part of another type")
    return data
