# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between two servers, by who must act.

``BadMessage`` is answered with its status; everything else is a ``TransportError``.  No error holds a byte of a body: what a peer
sent may be a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pybcast.errors import PeerFlowError, TransportError
from pybcast.flows.peers.messages import BackendMessage, Profile
from pybcast.flows.tables import TAGS, Tag

UNREADABLE: Final = "unreadable"  # messageID of an answer to a message without a readable one - confidence: own
UNREADABLE_URI: Final = "urn:x-bcast:unreadable"  # id and scope of an answer, where unreadable - confidence: own


class Unparseable(TransportError):
    """A body that is not XML as this interface allows it: HTTP 400 without a body (R27).  Names line and column."""

    code = "unparseable"


class PeerUnreachable(TransportError):
    """No answer from the peer after all attempts: down, slow, half-open, or it refused the connection."""

    code = "peer_unreachable"


class PeerRefused(TransportError):
    """The peer answered below the level of messages, with an HTTP status that a repeat will not change."""

    code = "peer_refused"

    def __init__(self, peer: str, http: int) -> None:
        self.peer, self.http = peer, http
        super().__init__(f"{peer}: HTTP {http}")


class BadAnswer(TransportError):
    """The peer answered with something that is no answer to what was asked."""

    code = "bad_answer"


class WrongPeer(TransportError):
    """Who is at the other end has a valid certificate, but of another name than configured (R26).  Nothing was sent."""

    code = "wrong_peer"


@dataclass(frozen=True)
class Echo:
    """What could be read of a message that cannot be accepted; ``None`` = unreadable.  ``answer_tag``: tag of the refusal."""

    answer_tag: Tag
    message_id: str | None = None
    source: str | None = None
    service: str | None = None
    profile: Profile | None = None


class BadMessage(PeerFlowError):
    """XML that is not an acceptable message.

    ``status``: 8 against the schema, 21 against what no schema says, 12 for the version (R27, R28).  ``line`` (from 1) and
    ``field`` (dotted path, indices in brackets, names as on the interface) say where; ``None`` and ``""`` when unknown.
    ``echo``: what an answer repeats.
    """

    code = "bad_message"

    def __init__(self, status: int, what: str, *, line: int | None, field: str, echo: Echo) -> None:
        where = ("" if line is None else f"line {line}: ") + (f"{field}: " if field else "")
        super().__init__(status, where + what)
        self.line, self.field, self.echo = line, field, echo

    def as_dict(self) -> dict[str, object]:
        return super().as_dict() | {"field": self.field or None, "line": self.line, "status": self.status}


def refusal(me: str, echo: Echo, status: int, *, now: float) -> BackendMessage:
    """The answer to a message that was not readable in full: scope and messageID echoed as far as possible (R27)."""
    tag = echo.answer_tag
    return BackendMessage(
        tag=tag,
        message_id=echo.message_id or UNREADABLE,
        source=me,
        destination=echo.source or UNREADABLE_URI,
        service=echo.service or UNREADABLE_URI,
        profile=echo.profile if tag <= Tag.STKMDeliveryConfirmation else None,
        status=int(status),
        time=int(now),
    )


def answer_tag(tag: Tag) -> Tag:
    """The tag that refuses a message of this tag; an answer that was sent where a request belongs is refused as itself."""
    return TAGS[tag].answer or tag
