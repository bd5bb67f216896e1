# SPDX-License-Identifier: Apache-2.0
"""Subscribers as an operator brings them: what registration gave, in hexadecimal; checked, and never repeated in an error."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from pybcast.errors import ConfigError
from pybcast.flows import Group, Right, Subscriber
from pybcast.keys import RIAK, SMK, SRK, UDK, UGK, GroupRoot
from pybcast.wire.times import NTP_UNIX

DAY: Final = 86400
MAX_NAME: Final = 255  # characters of a subscriber's name: printable ones - confidence: own
MAX_REGISTRATION: Final = 65536  # octets of registration material: the largest device response is a tenth of it


class Wrong(ConfigError):
    """One value is wrong.  ``column``: which; ``reason``: without what was found."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"{column}: {reason}")
        self.column, self.reason = column, reason


class SubscriberRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A subscriber as text, the columns of an import file.

    Smartcard Profile: ``smk`` (32 bytes), ``idr``.  DRM Profile: ``group`` (4 bytes), ``position``, ``udk``, ``riak`` (16 bytes).
    For the interaction channel: ``srk`` (32 bytes; Smartcard), ``udn`` (20 digits, as in the device's certificate; DRM).
    ``registration``: the material to broadcast to him (F1).  ``services``: GlobalServiceIDs, white space between them.  ``until``:
    last day of his rights, YYYY-MM-DD (UTC).
    """

    subscriber: str = ""
    smk: str = ""
    idr: str = ""
    group: str = ""
    position: str = ""
    udk: str = ""
    riak: str = ""
    srk: str = ""
    udn: str = ""
    registration: str = ""
    services: str = ""
    until: str = ""


COLUMNS: Final = SubscriberRow.__struct_fields__


class RightRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Rights of one subscriber as text, the columns of a file for ``grant`` or ``withdraw``.

    ``services`` and ``until`` as above.  ``programme``: only this programme (GlobalContentID) of each service.
    """

    subscriber: str = ""
    services: str = ""
    programme: str = ""
    until: str = ""


class GroupRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A subscriber group of the DRM Profile (drm-profile 2.3)."""

    address: str = ""
    root: str = ""
    ugk: str = ""
    riak: str = ""
    size: int = 256


def octets(text: str, column: str, size: int) -> bytes:
    """Exactly ``size`` bytes."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise Wrong(column, f"expected {2 * size} hexadecimal digits")
    return value


def subscriber(row: SubscriberRow) -> tuple[Subscriber, bytes | None]:
    """The subscriber, and what is broadcast to him.  ``Wrong`` names the first column that cannot be used."""
    name = row.subscriber
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise Wrong("subscriber", f"expected 1 to {MAX_NAME} printable characters")
    try:
        registration = bytes.fromhex(row.registration) or None
    except ValueError:
        raise Wrong("registration", "expected hexadecimal digits") from None
    if len(registration or b"") > MAX_REGISTRATION:
        raise Wrong("registration", f"more than {MAX_REGISTRATION} bytes")
    device = {column: getattr(row, column) for column in ("group", "position", "udk", "riak", "udn")}
    if row.smk:
        if column := next((c for c, text in device.items() if text), ""):
            raise Wrong(column, "is for the DRM Profile, and smk for the Smartcard Profile")
        smk = SMK(octets(row.smk, "smk", 32))
        if not row.idr:
            raise Wrong("idr", "missing: the B-TID of his registration")
        srk = SRK(octets(row.srk, "srk", 32)) if row.srk else None
        return Subscriber(id=name, smk=smk, idr=row.idr, srk=srk), registration
    if not any(device.values()):
        raise Wrong("smk", "missing: a subscriber has smk and idr, or group, position, udk and riak")
    for column in ("idr", "srk"):
        if getattr(row, column):
            raise Wrong(column, "is for the Smartcard Profile, with smk")
    if row.udn and not (len(row.udn) == 20 and row.udn.isascii() and row.udn.isdigit()):
        raise Wrong("udn", "expected 20 digits")
    if not row.position.isascii() or not row.position.isdigit() or not int(row.position[:4]) < 512 or len(row.position) > 3:
        raise Wrong("position", "expected 0 to 511")
    group = octets(row.group, "group", 4)
    keys = UDK(octets(row.udk, "udk", 16)), RIAK(octets(row.riak, "riak", 16))
    return Subscriber(id=name, group=group, position=int(row.position), udk=keys[0], riak=keys[1], udn=row.udn), registration


def group(row: GroupRow) -> Group:
    """The group.  ``Wrong`` as above."""
    if row.size not in (256, 512):
        raise Wrong("size", "expected 256 or 512")
    return Group(
        address=octets(row.address, "address", 4), size=512 if row.size == 512 else 256,
        root=GroupRoot(octets(row.root, "root", 16)), ugk=UGK(octets(row.ugk, "ugk", 16)), riak=RIAK(octets(row.riak, "riak", 16)),
    )  # fmt: skip


def last_second(until: str, days: int, now: float) -> int:
    """The NTP second at which a right ends: with the day ``until``, else ``days`` days after today (UTC)."""
    if not until:
        return (int(now - NTP_UNIX) // DAY + days + 1) * DAY + NTP_UNIX
    try:
        day = datetime.date.fromisoformat(until)
    except ValueError:
        raise Wrong("until", "expected a day, YYYY-MM-DD") from None
    end = (day - datetime.date(1970, 1, 1)).days * DAY + DAY + NTP_UNIX
    if end <= now:
        raise Wrong("until", "is over")
    return end


def right(service: str, stream: int, now: float, end: int, content: str | None = None) -> Right:
    """A right from a minute ago on: clocks differ."""
    return Right(service=service, stream=stream, start=int(now) - 60, end=end, content=content)


_Row = TypeVar("_Row", SubscriberRow, RightRow)


def row_of(arguments: Mapping[str, object], kind: type[_Row]) -> _Row:
    """``Wrong`` for a column that is unknown or no text."""
    for column, text in arguments.items():
        if column not in kind.__struct_fields__:
            raise Wrong(column, "unknown column")
        if not isinstance(text, str):
            raise Wrong(column, "expected text")
    return kind(**arguments)  # type: ignore[arg-type]
