# SPDX-License-Identifier: Apache-2.0
"""Traffic keys as lines of JSON, and what takes keys: the contract between the key system and whatever protects or opens media.

The first line of a connection says how to read the others; who does not know that version must not go on::

    {"event": "Keys", "version": 1}

To an encoder, from the edge (the STKM sender of a BSD/A, or a BSD/A without one)::

    {"event": "UseKey", "service": ID, "stream": 1, "start": NTP seconds, "protocol": "SRTP", "mki": HEX, "tek": HEX,
     "salt": HEX or null, "auth_key": HEX or null, "authority_end": NTP seconds or null}
    {"event": "NextKey", ... as UseKey, "end": NTP seconds}
    {"event": "StopTraffic", "service": ID, "stream": 1}

``UseKey`` says: from now on protect with this key, and stop ``HANDOVER`` seconds after ``authority_end`` unless a newer one came
(R9): that is told at the moment at which the authority of this one ends.  ``NextKey`` says: from ``start`` to
``end`` that key is used; who has it may switch at ``start`` by itself, and else does so when its ``UseKey`` comes (R47).
``StopTraffic`` says: let nothing out until the next ``UseKey``.  Any of the others takes a ``NextKey`` back that was not used yet.

To a player, from a terminal::

    {"event": "TekReady", "service": ID, "stream": 1, "mki": HEX, "tek": HEX, "salt": HEX or null, "auth_key": HEX or null,
     "until": NTP seconds, "protocol": "SRTP"}
    {"event": "TekExpired", "service": ID, "stream": 1, "mki": HEX}

``TekReady`` says: packets with this MKI, SPI or key indicator may be opened with this key until ``until`` (R42).
``TekExpired`` says: no longer.  A reader that was away may have missed it: ``until`` holds without it.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final
from typing import Protocol as Contract

from pybcast import jsontext
from pybcast.errors import BadValue, TransportError
from pybcast.flows.events import NextKey, StopTraffic, TekExpired, TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.secret import Secret

KeyOutput = NextKey | UseKey | StopTraffic | TekReady | TekExpired

VERSION: Final = 1  # of the lines: a reader passes over events and fields that it does not know
FIRST_LINE: Final = json.dumps({"event": "Keys", "version": VERSION}).encode() + b"\n"
MAX_LINE: Final = 64 << 10  # bytes of one line; a service's id is the only part without a fixed size - confidence: own
MAX_NAME: Final = 16  # bytes of an MKI, SPI or key indicator (R17)
NEXT: Final = b"what is used next"  # where a stream's ``NextKey`` is kept beside its keys: longer than any MKI
HANDOVER: Final = 0.5  # seconds after the end of authority for the next key's line to come (R9) - confidence: own
TEK_SIZE: Final = 16
SALT_SIZE: Final = 14
AUTH_KEY_SIZE: Final = 20


class UnknownVersion(TransportError):
    """The lines are of a version that is not known here."""


class Outlet(Contract):
    """Takes keys: a socket, a callback, a protector, a list of security associations.

    ``put`` never waits and never raises: a BSD/A or a terminal goes on whatever becomes of what it feeds.
    """

    def put(self, output: KeyOutput) -> None: ...


def write_line(output: KeyOutput) -> bytes:
    """One line.  Of ``UseKey`` and ``TekReady`` it holds the key in clear: for a socket of the own user alone (R41)."""
    said: dict[str, Any] = {"event": type(output).__name__, "service": output.service, "stream": output.stream}
    match output:
        case NextKey(use, end):
            said |= _use(use) | {"end": end}
        case UseKey():
            said |= _use(output)
        case TekReady():
            said |= _key(output) | {"until": output.until, "protocol": output.protocol.name}
        case TekExpired():
            said["mki"] = output.mki.hex()
    return json.dumps(said).encode() + b"\n"


def _use(use: UseKey) -> dict[str, Any]:
    return {"start": use.start, "protocol": use.protocol.name, **_key(use), "authority_end": use.authority_end}


def _key(output: UseKey | TekReady) -> dict[str, str | None]:
    return {
        "mki": output.mki.hex(), "tek": output.tek.reveal().hex(), "salt": None if output.salt is None else output.salt.hex(),
        "auth_key": None if output.auth_key is None else output.auth_key.reveal().hex(),
    }  # fmt: skip


def read_line(line: bytes) -> KeyOutput | None:
    """What a line says; ``None`` for an event that this version does not know.

    Raises ``BadValue`` with the field, which never repeats what stands in it: it may be a key; ``UnknownVersion`` where the first
    line of a connection says that the others cannot be read here.
    """
    said = jsontext.read(line, "line")
    if not isinstance(said, dict):
        raise BadValue(None, "line", "an object", type(said).__name__)
    event = said.get("event")
    if event == "Keys" and (version := _number(said, "version")) != VERSION:
        raise UnknownVersion(f"lines of keys: expected version {VERSION}, found {version}")
    if event not in ("NextKey", "UseKey", "StopTraffic", "TekReady", "TekExpired"):
        return None
    service, stream = _text(said, "service"), _number(said, "stream")
    if event == "StopTraffic":
        return StopTraffic(service, stream)
    mki = _bytes(said, "mki", range(1, MAX_NAME + 1))
    if event == "TekExpired":
        return TekExpired(service, stream, mki)
    name = _text(said, "protocol")
    if name not in Protocol.__members__:
        raise BadValue(None, "protocol", "one of " + ", ".join(Protocol.__members__), "another")
    tek = Secret(_bytes(said, "tek", (TEK_SIZE,)))
    salt = None if said.get("salt") is None else _bytes(said, "salt", (SALT_SIZE,))
    auth_key = None if said.get("auth_key") is None else Secret(_bytes(said, "auth_key", (AUTH_KEY_SIZE,)))
    if event == "TekReady":
        return TekReady(service, stream, mki, tek, salt, auth_key, _time(said, "until"), Protocol[name])
    end = None if said.get("authority_end") is None else _number(said, "authority_end")
    use = UseKey(service, stream, _number(said, "start"), Protocol[name], mki, tek, salt, auth_key, end)
    return NextKey(use, _number(said, "end")) if event == "NextKey" else use


def _text(said: dict[str, Any], field: str) -> str:
    value = said.get(field)
    if not isinstance(value, str) or not value:
        raise BadValue(None, field, "a text", type(value).__name__)
    return value


def _number(said: dict[str, Any], field: str) -> int:
    value = said.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise BadValue(None, field, "a number", type(value).__name__)
    return value


def _time(said: dict[str, Any], field: str) -> float:
    value = said.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise BadValue(None, field, "a time", type(value).__name__)
    return float(value)


def _bytes(said: dict[str, Any], field: str, sizes: range | tuple[int, ...]) -> bytes:
    try:
        value = bytes.fromhex(said[field])
    except (KeyError, TypeError, ValueError):
        raise BadValue(None, field, "hexadecimal digits", "something else") from None
    if len(value) not in sizes:
        raise BadValue(None, field, f"{min(sizes)} to {max(sizes)} bytes", f"{len(value)} bytes")
    return value
