# SPDX-License-Identifier: Apache-2.0
"""Bytes and messages: one description of each layout, from which decoding, encoding and explaining all come.

``decode`` and ``encode`` need no key; keys that travel encrypted stay encrypted.  How checks are ordered, and what the offset and
the field path of an error mean, is told in :mod:`pybcast.wire.schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, get_args

from pybcast.errors import BadLength, WireError
from pybcast.messages import (
    Bcro,
    ClearMessage,
    DrmStkm,
    Kind,
    Leniency,
    Message,
    MikeyMessage,
    PartialDrmStkm,
    PartialSmartcardStkm,
    RegistrationMessage,
    RegistrationResponse,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardRegistration,
    SmartcardStkm,
    SmartcardVerification,
)
from pybcast.wire import drm_ltkm, drm_registration, drm_stkm, mikey, smartcard, smartcard_registration
from pybcast.wire.drm_registration import decode_keyset, encode_keyset
from pybcast.wire.mikey import decode_key_data, encode_key_data
from pybcast.wire.schema import Explanation, Row, Run, leniencies
from pybcast.wire.smartcard import kind_of as mikey_kind

__all__ = [
    "KINDS",
    "Explanation",
    "KindEntry",
    "Row",
    "decode",
    "decode_key_data",
    "decode_keyset",
    "encode",
    "encode_key_data",
    "encode_keyset",
    "explain",
    "mikey_kind",
]


@dataclass(frozen=True)
class KindEntry:
    """One kind: its two directions, the classes that are it, the size above which an encoder refuses, and more.

    ``partial``: whether a partial form exists.  ``veil``: hides what must not be shown from the rows of an explanation.
    """

    decode: Callable[[bytes, Run], Any]
    encode: Callable[[Any, Run], bytes]
    classes: tuple[type, ...]
    max_size: int | None = None
    partial: bool = False
    veil: Callable[[list[Row], WireError | None], list[Row]] | None = None


_CARD: Final = smartcard.MAX_SIZE
KINDS: Final[dict[Kind, KindEntry]] = {
    "drm-stkm": KindEntry(drm_stkm.decode, drm_stkm.encode, (DrmStkm, PartialDrmStkm), drm_stkm.MAX_SIZE, True, drm_stkm.veil),
    "drm-ltkm": KindEntry(drm_ltkm.decode, drm_ltkm.encode, (Bcro,)),
    "drm-registration": KindEntry(drm_registration.decode, drm_registration.encode, (RegistrationResponse, RegistrationMessage)),
    "smartcard-stkm": KindEntry(
        smartcard.decode_stkm, smartcard.encode_stkm, (SmartcardStkm, PartialSmartcardStkm), _CARD, partial=True
    ),
    "smartcard-ltkm": KindEntry(smartcard.decode_ltkm, smartcard.encode_ltkm, (SmartcardLtkm,), _CARD),
    "smartcard-verification": KindEntry(
        smartcard.decode_verification, smartcard.encode_verification, (SmartcardVerification,), _CARD
    ),
    "smartcard-reporting": KindEntry(smartcard.decode_reporting, smartcard.encode_verification, (SmartcardVerification,), _CARD),
    "smartcard-parental": KindEntry(smartcard.decode_parental, smartcard.encode_parental, (SmartcardParental,), _CARD),
    "smartcard-registration": KindEntry(smartcard_registration.decode, smartcard_registration.encode, (SmartcardRegistration,)),
    "mikey": KindEntry(mikey.decode, mikey.encode, (MikeyMessage,)),
}
"""Every kind of message."""
_BY_CLASS: Final = {cls: entry for entry in KINDS.values() for cls in entry.classes}


def _entry(kind: Kind, partial: bool) -> KindEntry:
    try:
        entry = KINDS[kind]
    except KeyError:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}") from None
    if partial and not entry.partial:
        raise ValueError(f"{kind} has no partial form")
    return entry


def decode(data: bytes, kind: Kind, *, partial: bool = False, lenient: Collection[Leniency] = ()) -> Message:
    """What a message says, without opening it.

    ``data``: the whole message.  ``partial``: it must be a partially created STKM (drm-profile 1.7, backend-interface 4.5); the
    bytes of a DRM one do not tell, a Smartcard one with NULL encryption is partial either way.  ``lenient``: the departures to
    accept.  Raises ``WireError`` (``Truncated``, ``TrailingBytes``, ``BadLength``, ``BadValue``, ``Unsupported``) with offset and
    field; ``ValueError`` for an unknown kind or leniency.  Time and memory are linear in ``len(data)``.
    """
    entry = _entry(kind, partial)
    message: Message = entry.decode(data, Run(lenient=leniencies(lenient), partial=partial))
    return message


def encode(message: Message, *, lenient: Collection[Leniency] = (), max_size: int | None = None) -> bytes:
    """The bytes of a message; what ``decode`` would refuse is refused, with the same field path and no offset.

    ``lenient``: the departures to allow, as in ``decode``.  ``max_size``: bytes, instead of the kind's own limit: 251 for the
    MIKEY messages of the Smartcard Profile (one card command, rules R20), 1400 for a DRM STKM (one UDP payload, drm-profile 6),
    else none.  ``TypeError`` for a clear message: it has no bytes before it is sealed.
    """
    entry = next((_BY_CLASS[base] for base in type(message).__mro__ if base in _BY_CLASS), None)
    if entry is None:
        clear = isinstance(message, get_args(ClearMessage))
        raise TypeError(f"{type(message).__name__} {'has no encoding of its own: seal it' if clear else 'is not a message'}")
    data = entry.encode(message, Run(lenient=leniencies(lenient)))
    limit = entry.max_size if max_size is None else max_size
    if limit is not None and len(data) > limit:
        run = Run(lenient=leniencies(lenient), partial=isinstance(message, PartialDrmStkm | PartialSmartcardStkm), rows=[])
        KINDS[message.kind].decode(data, run)
        largest = max(run.rows or (), key=lambda row: row.length)
        raise BadLength(
            None, largest.field, f"a message of at most {limit} bytes", f"{len(data)} bytes, {largest.length} of them here"
        )
    return data


def explain(data: bytes, kind: Kind, *, partial: bool = False, lenient: Collection[Leniency] = ()) -> Explanation:
    """A message field by field: where, what, what it means, and on what ground the layout stands.

    Never raises ``WireError``: the fault is in ``error``, the fields before it in ``rows``.  Key bytes in clear are not shown.
    """
    entry = _entry(kind, partial)
    rows: list[Row] = []
    fault: WireError | None = None
    try:
        entry.decode(data, Run(lenient=leniencies(lenient), partial=partial, rows=rows))
    except WireError as error:
        fault = error
    return Explanation(tuple(entry.veil(rows, fault) if entry.veil else rows), fault)
