# SPDX-License-Identifier: Apache-2.0
"""What is written down about the traffic: an audit record for each key, a log record for each exchange.  Never a body (R41).

Logger ``pybcast.audit``, level INFO: one record for each long-term key (``KeyMaterial``) and each traffic key in clear
(``PartialSTKM``) that leaves or enters; sealed messages (STKM, LTKM, registration) are counted, one record for a message.
Logger ``pybcast.backend``: one record for an exchange, DEBUG when all is well, INFO for what belongs to every day (there is
nothing, or not yet), else WARNING.  The text says it to people, the record's attribute ``fields`` to machines.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from typing import Final, Literal

from pybcast.flows.peers.messages import BackendMessage, KeyMaterial, PartialItem
from pybcast.flows.tables import Status

AUDIT: Final = logging.getLogger("pybcast.audit")
LOG: Final = logging.getLogger("pybcast.backend")
Way = Literal["in", "out"]
EVERYDAY: Final = frozenset({Status.NON_EXISTENT, Status.DELAYED})


def audit(message: BackendMessage, way: Way, peer: str) -> None:
    """Record every key in a message that came from, or is going to, ``peer``: which, never what."""
    if not message.items or not AUDIT.isEnabledFor(logging.INFO):
        return
    envelope: dict[str, object] = {
        "way": way, "peer": peer, "tag": int(message.tag), "messageID": message.message_id, "service": message.service,
    }  # fmt: skip
    sealed = 0
    for item in message.items:
        if isinstance(item, KeyMaterial):
            record: dict[str, object] = {
                "key": item.key_type, "keyId": item.key_id.hex(), "stream": item.stream, "validFrom": item.valid_from,
                "validTo": item.valid_to,
            }  # fmt: skip
        elif isinstance(item, PartialItem):
            record = {"key": "TEK", "stream": item.stream, "periodStart": item.period_start, "tekId": item.tek_id}
        else:
            sealed += 1
            continue
        _record(envelope | record)
    if sealed:
        _record(envelope | {"sealed": sealed})


def _record(fields: dict[str, object]) -> None:
    AUDIT.info("%s", " ".join([f"{name}={value!r}" for name, value in fields.items()]), extra={"fields": fields})


def digest(body: bytes) -> str:
    """What a log says of a body (R41): the first 8 bytes of its SHA-256 in hex."""
    return hashlib.sha256(body).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """One request and what came of it, for metrics and the message log.

    ``role``: what we were.  ``peer``: its id, empty for a stranger.  ``status``: of the answer; ``None`` without one.  ``http``: of
    the answer, 0 without.  ``seconds``: from the request (its body's end, at a server) to the end of the answer.  ``sent``,
    ``received``: bytes of body.  ``attempts``: how often it was sent.  ``error``: what was wrong, free of what was sent.
    """

    role: Literal["server", "client"]
    peer: str
    tag: int | None
    message_id: str | None
    service: str | None
    status: int | None
    http: int
    seconds: float
    sent: int = 0
    received: int = 0
    attempts: int = 1
    error: str = ""


def log_exchange(done: Exchanged, body: bytes) -> None:
    """One record; ``body`` is the request's, of which only the digest is written."""
    good = done.http == 200
    level = (
        logging.DEBUG if good and done.status == 0 else logging.INFO if good and done.status in EVERYDAY else logging.WARNING
    )  # fmt: skip
    if LOG.isEnabledFor(level):
        fields = asdict(done) | {"digest": digest(body)}
        LOG.log(level, "%s", " ".join([f"{name}={value!r}" for name, value in fields.items()]), extra={"fields": fields})
