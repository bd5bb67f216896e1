# SPDX-License-Identifier: Apache-2.0
"""What the back-end messages between BSM and BSD/A say (SP-4, CP-4), as frozen dataclasses.

The XML form belongs to the transport; the flows see these.  One class serves all tags: the envelope and the scope are the same for
every message (backend-interface 4.1, 4.2), the body is a tuple of items whose type goes with the tag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Final, Literal

from pybcast.codec import WITHDRAWAL
from pybcast.errors import PeerFlowError
from pybcast.flows.serial import MOD, counter_of, in_window, newer
from pybcast.flows.tables import TAGS, Side, Status, Tag
from pybcast.secret import Secret

Profile = Literal["drm", "smartcard"]
PROFILES: Final[tuple[Profile, ...]] = ("drm", "smartcard")
KeyType = Literal["SEAK", "PEAK", "SEK", "PEK"]
SERVICE_KEY: Final[Mapping[Profile, KeyType]] = {"drm": "SEAK", "smartcard": "SEK"}
"""The service's long-term key, by profile."""
KEY_SIZES: Final[dict[str, int]] = {"SEAK": 32, "PEAK": 32, "SEK": 16, "PEK": 16}

ALL_SERVICES: Final = "urn:x-bcast:all"  # R29: scope of registration material - confidence: own
MAX_DATA: Final = 1000  # R30: Data per delivery - confidence: own
MAX_STREAM: Final = 65535  # R32, RFC 5159
VERSION: Final = 1  # BCAST 1.0 - confidence: own


@dataclass(frozen=True, kw_only=True)
class KeyMaterial:
    """A long-term key on its way to the BSD/A (F4; backend-interface 4.5, R33).

    ``key_id``: DRM the CID extension (4 bytes), Smartcard Key Domain ID || SEK ID (7 bytes).  Times are 64-bit NTP seconds,
    [valid_from, valid_to).  Of the Smartcard Profile only: ``csb_id`` (4), ``rand`` (16; empty for a key that was provisioned and
    not delivered), window ``ts_low``..``ts_high``, ``first_counter``, ``granularity`` (seconds, R8), ``next_counter`` (lower
    bound).  Policy attributes: ``None`` = silent.
    """

    key_type: KeyType
    key_id: bytes
    key: Secret
    stream: int
    valid_from: int
    valid_to: int
    csb_id: bytes | None = None
    rand: bytes | None = None
    ts_low: int | None = None
    ts_high: int | None = None
    first_counter: int | None = None
    granularity: int | None = None
    next_counter: int | None = None
    protection_after_reception: int | None = None
    permissions_category: int | None = None
    access_criteria: tuple[tuple[int, bytes], ...] | None = None
    socID: str | None = None
    serviceBaseCID: str | None = None


@dataclass(frozen=True, kw_only=True)
class PartialItem:
    """A PartialSTKM element: ``content`` is secret, it holds the TEK in clear (R32)."""

    stream: int
    period_start: int
    period_end: int
    tek_id: str
    content: Secret


@dataclass(frozen=True, kw_only=True)
class StkmItem:
    """A STKM element, or a Data element of an STKM message: ``content`` empty when ``status`` is not 0 (R32).

    ``authority_end``: end of the right of the key it is sealed under, so that the encoder stops there (R9); own addition.
    """

    stream: int
    period_start: int
    period_end: int
    tek_id: str
    status: int = Status.SUCCESS
    content: bytes = b""
    authority_end: int | None = None


Item = KeyMaterial | PartialItem | StkmItem | bytes


@dataclass(frozen=True, kw_only=True)
class BackendMessage:
    """One message of the back-end interface.

    ``message_id``: 128 random bits in hex; an answer repeats the one it answers.  ``source``, ``destination``: absolute URIs.
    ``status``: answers only.  ``start``, ``end``: DistributionStart/End, 64-bit NTP seconds.  ``replaces``: messageID of a
    delivery to take off the carousel (tags 17, 19).  ``time``: when it was made, for the reader of a log.  ``attempt``: of a
    KeyDelivery without keys, the number of an attempt to end what is in force at ``start`` (R50), or, with ``end``, to begin the
    programme ``content``: with ``replace`` it is asked for, with ``fresh`` the BSD/A is to ask for everything anew, with neither
    the attempt was given up.
    """

    tag: Tag
    message_id: str
    source: str
    destination: str
    service: str
    content: str | None = None
    schedule: str | None = None
    profile: Profile | None = None
    status: int | None = None
    start: int | None = None
    end: int | None = None
    replace: bool = False
    fresh: bool = False
    replaces: str | None = None
    attempt: int | None = None
    version: int = VERSION
    time: int | None = None
    stream: int | None = None
    items: tuple[Item, ...] = ()

    def answer(self, status: int, items: tuple[Item, ...] = (), *, now: float) -> BackendMessage:
        """The answer to this request: scope echoed, ends exchanged (R27)."""
        tag = TAGS[self.tag].answer
        assert tag is not None
        return replace(
            self,
            tag=tag,
            source=self.destination,
            destination=self.source,
            status=int(status),
            items=items,
            replace=False,
            fresh=False,
            replaces=None,
            attempt=None,
            time=int(now),
        )

    @property
    def is_answer(self) -> bool:
        return TAGS[self.tag].answer is None

    def digest(self) -> bytes:
        """SHA-256 over everything but ``time``: tells a repeated message from a new one with the same id (R27)."""
        return _digest(replace(self, time=None))


def _digest(value: object) -> bytes:
    """One to one: every leaf is hashed with its kind and length, every branch with its type and size, in a fixed order."""
    parts: list[bytes] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if type(item) is int:
            parts.append(b"i%d " % item)
        elif item is None:
            parts.append(b"n")
        elif isinstance(item, str):
            text = item.encode()
            parts.append(b"s%d %b" % (len(text), text))
        elif isinstance(item, int):  # an enum and a truth value are their numbers
            parts.append(b"i%d " % item)
        elif isinstance(item, bytes):
            parts.append(b"b%d %b" % (len(item), item))
        elif isinstance(item, Secret):
            parts.append(b"b%d %b" % (len(item), item.reveal()))
        elif isinstance(item, tuple):
            stack.extend(item)
            parts.append(b"t%d " % len(item))
        elif is_dataclass(item) and not isinstance(item, type):
            stack.extend(vars(item).values())  # in the order of the fields
            parts.append(b"d%b " % type(item).__name__.encode())
        else:
            raise TypeError(f"{type(item).__name__} stands in no message")
    return hashlib.sha256(b"".join(parts)).digest()


_BODY: Final[dict[Tag, type]] = {
    Tag.KeyRequestResponse: KeyMaterial,
    Tag.KeyDelivery: KeyMaterial,
    Tag.PartialSTKMRequestResponse: PartialItem,
    Tag.TEKDelivery: PartialItem,
    Tag.TEKDeliveryConfirmation: StkmItem,
    Tag.STKMRequestResponse: StkmItem,
    Tag.STKMDelivery: StkmItem,
    Tag.LTKMRequestResponse: bytes,
    Tag.LTKMDelivery: bytes,
    Tag.RegRequestResponse: bytes,
    Tag.RegDelivery: bytes,
}
_FILLED: Final = frozenset({Tag.KeyDelivery, Tag.TEKDelivery, Tag.STKMDelivery, Tag.LTKMDelivery, Tag.RegDelivery})


def check(message: BackendMessage, receiver: Side) -> None:
    """What no schema can say (R28): direction, profile, body, key material.  ``PeerFlowError`` with the status to answer."""
    tag, sender = message.tag, TAGS[message.tag].sender
    if sender is receiver:
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{tag.name} does not come from this side")
    if message.version != VERSION:
        raise PeerFlowError(Status.UNSUPPORTED_VERSION, f"version {message.version}")
    if (message.status is not None) != message.is_answer:
        raise PeerFlowError(Status.INFORMATION_INVALID, "status belongs to answers, and only to them")
    if (message.profile is not None) != (tag <= Tag.STKMDeliveryConfirmation):
        raise PeerFlowError(Status.INFORMATION_INVALID, f"Profile does not go with {tag.name} (R34)")
    body = _BODY.get(tag)
    if any(body is None or not isinstance(item, body) for item in message.items):
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{tag.name} does not carry these elements")
    if message.attempt is not None:
        _check_attempt(message)
    elif tag in _FILLED and not message.items:
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{tag.name} without content")
    elif tag is Tag.KeyDelivery and message.fresh:
        raise PeerFlowError(Status.INFORMATION_INVALID, "fresh goes with an attempt (R50)")
    if len(message.items) > MAX_DATA and not message.is_answer:
        raise PeerFlowError(Status.INFORMATION_INVALID, f"more than {MAX_DATA} elements (R30)")
    streams = [message.stream] + [item.stream for item in message.items if not isinstance(item, bytes)]
    if any(number is not None and not 1 <= number <= MAX_STREAM for number in streams):
        raise PeerFlowError(Status.INFORMATION_INVALID, f"stream is not in 1..{MAX_STREAM} (R32)")
    for item in message.items:
        if isinstance(item, KeyMaterial):
            check_key_material(item, message.profile)
        elif isinstance(item, PartialItem | StkmItem) and not item.period_start < item.period_end:
            raise PeerFlowError(Status.INFORMATION_INVALID, "periodEnd is not after periodStart")
        if isinstance(item, StkmItem) and bool(item.content) != (item.status == Status.SUCCESS):
            raise PeerFlowError(Status.INFORMATION_INVALID, "a STKM has content when its status is 0, and only then (R32)")


def _check_attempt(message: BackendMessage) -> None:
    if message.tag is not Tag.KeyDelivery or message.items or None in (message.stream, message.start):
        raise PeerFlowError(Status.INFORMATION_INVALID, "an attempt goes with a stream and a start, and with no key (R50)")
    if message.replace and message.fresh:
        raise PeerFlowError(Status.INFORMATION_INVALID, "an attempt is replace or fresh, not both (R50)")
    if message.end is not None and message.end <= (message.start or 0):
        raise PeerFlowError(Status.INFORMATION_INVALID, "the programme of an attempt ends after it begins (R50)")


def check_key_material(key: KeyMaterial, profile: Profile | None) -> None:
    """keyType against profile, attributes and sizes; ``PeerFlowError`` status 21 (R28)."""
    smartcard = key.key_type in ("SEK", "PEK")
    if smartcard != (profile == "smartcard"):
        raise PeerFlowError(Status.INFORMATION_INVALID, f"keyType {key.key_type} does not belong to profile {profile}")
    if len(key.key) != KEY_SIZES[key.key_type] or len(key.key_id) != (7 if smartcard else 4):
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{key.key_type}: key or keyId of wrong size")
    own = (key.csb_id, key.rand, key.ts_low, key.ts_high, key.first_counter, key.granularity)
    if smartcard != all(v is not None for v in own) or smartcard != any(v is not None for v in own):
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{key.key_type}: Smartcard attributes missing or out of place")
    if not key.valid_from < key.valid_to:
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{key.key_type}: validTo is not after validFrom")
    if smartcard:
        _check_smartcard_attributes(key)


def _check_smartcard_attributes(key: KeyMaterial) -> None:
    def refuse(what: str) -> None:
        raise PeerFlowError(Status.INFORMATION_INVALID, f"{key.key_type}: {what}")

    if len(key.csb_id or b"") != 4 or len(key.rand or b"") not in (0, 16) or not key.granularity or key.granularity < 1:
        refuse("csbId, rand or granularity of wrong size")
    if b"\0\0" in (key.key_id[3:5], key.key_id[5:]):
        refuse("keyId has a Key Group or Key Number 0000, which names no key")
    counters = [c for c in (key.ts_low, key.ts_high, key.first_counter, key.next_counter) if c is not None]
    if any(not 0 <= c < MOD for c in counters):
        refuse("a COUNTER beyond 32 bits")
    # R33: a card accepts COUNTERs above TS low - 1 and in the window, so both must hold what is going to be sealed.
    first, last = counter_of(key.valid_from), counter_of(key.valid_to - 1)
    low, high = counters[:2]
    if (low, high) == WITHDRAWAL or not newer(first, low):
        refuse("TS low is not before validFrom (R33)")
    if not (in_window(first, low, high) and in_window(last, low, high) and key.valid_to - key.valid_from < MOD // 2):
        refuse("the window does not hold the validity")
