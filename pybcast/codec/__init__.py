# SPDX-License-Identifier: Apache-2.0
"""Key messages as bytes, as fields, as plain JSON; without keys and with them, one or many.

Without keys: ``decode``, ``encode``, ``explain``.  With keys: ``seal`` makes the bytes that go on air, ``open`` gets the content
out of them after everything that can be checked was found right, ``complete`` finishes a STKM that another party began.  STKMs,
Smartcard LTKMs and verification messages are made and opened by the C core, the others by :mod:`pybcast.codec.reference`.
``seal_many`` and ``open_many`` do thousands of messages in one call (:mod:`pybcast.codec.batch`).
``to_dict`` and ``from_dict`` turn any message into plain JSON and back.

>>> from pybcast.codec import Keys, open, seal, to_dict
>>> from pybcast.messages import ClearDrmStkm, Protocol
>>> from pybcast.secret import Secret
>>> keys = Keys.from_dict({"seak": bytes(range(0x10, 0x30)).hex()})
>>> stkm = ClearDrmStkm(
...     protection_after_reception=3,
...     traffic_protection_protocol=Protocol.IPSEC,
...     traffic_authentication_flag=False,
...     traffic_key_lifetime=5,
...     id=bytes.fromhex("0000029b"),
...     service_CID_extension=1,
...     traffic_key_material=Secret(bytes(range(0x50, 0x60))),
... )
>>> data = seal(stkm, keys)
>>> data.hex()
'0c010000029b10b2e415d6f91aa972922cbf41c8819d3a0500000001341132128dac0b7b3509d751'
>>> open(data, keys, "drm-stkm") == stkm
True
>>> to_dict(open(data, keys, "drm-stkm"), redact=True)["traffic_key_material"] is None
True
"""

from __future__ import annotations

from typing import Any, Final

from pybcast import wire
from pybcast.codec import _core, _stkm, reference
from pybcast.codec._certificates import rights_issuer_id, verify_chain
from pybcast.codec._common import Lenient
from pybcast.codec._json import from_dict, to_dict
from pybcast.codec._smartcard import MAX_SPAN, WITHDRAWAL
from pybcast.codec.batch import OpenedMany, PreparedKeys, Records, SealedMany, open_many, prepare, prepare_smks, seal_many
from pybcast.errors import BadValue
from pybcast.keys import Keys
from pybcast.messages import (
    ClearDrmStkm,
    ClearMessage,
    ClearSmartcardStkm,
    Kind,
    Message,
    PartialDrmStkm,
    PartialSmartcardStkm,
    SmartcardRegistration,
)
from pybcast.wire import explain
from pybcast.wire.smartcard import MAX_SIZE as MAX_CARD_MESSAGE

__all__ = [
    "MAX_CARD_MESSAGE",
    "MAX_SPAN",
    "WITHDRAWAL",
    "Keys",
    "OpenedMany",
    "PreparedKeys",
    "Records",
    "SealedMany",
    "complete",
    "decode",
    "encode",
    "explain",
    "filled",
    "from_dict",
    "open",
    "open_many",
    "prepare",
    "prepare_smks",
    "reference",
    "rights_issuer_id",
    "seal",
    "seal_many",
    "to_dict",
    "verify_chain",
]


def decode(data: bytes, kind: Kind, *, partial: bool = False, lenient: Lenient = ()) -> Message:
    """What a message says, without opening it: :func:`pybcast.wire.decode`, and its answers; STKMs by the C core.

    ``data``: the whole message.  ``partial``: it must be a partial STKM of flow F3 (drm-profile 1.7, backend-interface 4.5).
    ``lenient``: departures to accept.  Raises ``WireError`` with offset and field; ``ValueError`` for an unknown kind or leniency.
    """
    if kind == "smartcard-stkm" or kind == "drm-stkm":
        message = _stkm.decode(data, kind, partial, lenient)
        if message is not None:
            return message
    return wire.decode(data, kind, partial=partial, lenient=lenient)


def encode(message: Message, *, lenient: Lenient = (), max_size: int | None = None) -> bytes:
    """The bytes of a message: :func:`pybcast.wire.encode`, and its answers; partial STKMs by the C core.

    ``lenient``: departures to allow.  ``max_size``: bytes, instead of the kind's own limit.  Raises ``WireError`` (``offset`` None)
    for what ``decode`` would refuse, ``TypeError`` for a clear message: seal it.
    """
    if max_size is None and not lenient:
        data = _stkm.encode(message)
        if data is not None:
            return data
    return wire.encode(message, lenient=lenient, max_size=max_size)


def seal(message: ClearMessage | SmartcardRegistration, keys: Keys, *, max_card_message: int = MAX_CARD_MESSAGE) -> bytes:
    """The bytes of a key message as they go on air: keys encrypted, MACs or signature in place.

    Deterministic, but for the DRM Profile's registration messages (randomised RSA).  The rules for builders are held here: window
    spans and the form of a withdrawal (rules R3, R4), issuer and time of a BCRO (R21), reporting only with V (R19), and the size of
    a Smartcard Profile message: ``max_card_message`` bytes, one card command (R20).

    Raises ``KeyUnavailable`` with the key ring's name of a missing key, ``WireError`` (``offset`` None) with the field that breaks
    a layout or a rule, ``TypeError`` for a partial STKM, which only :func:`complete` finishes (R13), and anything else.
    """
    sealer = _core.SEALERS.get(type(message))
    if sealer is not None:
        return sealer(message, keys, max_card_message)
    return reference.seal(message, keys, max_card_message=max_card_message)


def open(data: bytes, keys: Keys, kind: Kind, *, lenient: Lenient = ()) -> ClearMessage:
    """The content of a key message, once everything that the held keys can check was found right.

    All MACs whose key is held are compared, in constant time, before any key is decrypted; at least one must be held (rules R12).
    NULL algorithms are refused (R11).  Nothing is remembered: replay, windows, dates and addressees are the flows'.

    A DRM registration message is verified with ``keys.rights_issuer_key``; without one, a response is verified with the first
    certificate it carries itself, which proves nothing until the caller has passed ``certificates`` to :func:`verify_chain`.

    ``lenient``: departures to accept (``pybcast.messages.Leniency``).  Raises ``WireError`` with the offset, ``KeyUnavailable``,
    ``Integrity`` (a MAC, signature or key wrap does not fit; says nothing more), ``ConfigError`` for an unknown kind.
    """
    opener = _core.OPENERS.get(kind)
    if opener is not None:
        return opener(data, keys, kind, lenient)
    return reference.open(data, keys, kind, lenient=lenient)


_BSDA_OWNED: Final = frozenset(
    {
        "traffic_protection_protocol",
        "traffic_authentication_flag",
        "traffic_key_lifetime",
        "salt",
        "next_salt",
        "timestamp",
        "traffic_key_material",
        "next_traffic_key_material",
        "tek",
        "layout",
    }
)
"""Fields that the BSD/A fills and later compares with its own record (rules R31); the BSM leaves them alone."""


def complete(partial: PartialDrmStkm | PartialSmartcardStkm, keys: Keys, **replacements: Any) -> bytes:
    """What the BSM makes of a partial STKM (flow F3): its own policy put in (:func:`filled`), then sealed.  Raises as both."""
    return seal(filled(partial, **replacements), keys)


def filled(partial: PartialDrmStkm | PartialSmartcardStkm, **replacements: Any) -> ClearDrmStkm | ClearSmartcardStkm:
    """The content of the STKM that a partial STKM becomes.

    ``replacements``: fields of the message by name, for example ``service_CID_extension``, ``access_criteria``, ``sek_id``,
    ``counter``, ``management``.  Where none is given the partial's values stay.

    ``TypeError`` for anything but a partial STKM (rules R13), for an unknown field, and for one that is the BSD/A's to fill (R31);
    ``BadValue`` when ``management`` changes such a field.
    """
    if not isinstance(partial, PartialDrmStkm | PartialSmartcardStkm):
        raise TypeError(f"{type(partial).__name__} is not a partial STKM")
    if not _BSDA_OWNED.isdisjoint(replacements):
        raise TypeError(f"{', '.join(sorted(_BSDA_OWNED & replacements.keys()))}: filled by the BSD/A, not replaced (rules R31)")
    values = vars(partial)  # a partial STKM has the fields of a clear one
    if not replacements.keys() <= values.keys():
        unknown = sorted(replacements.keys() - values.keys())
        raise TypeError(f"{', '.join(unknown)}: no such field of {type(partial).__name__}")
    drm = isinstance(partial, PartialDrmStkm)
    stkm: ClearDrmStkm | ClearSmartcardStkm = object.__new__(ClearDrmStkm) if drm else object.__new__(ClearSmartcardStkm)
    vars(stkm).update(values, **replacements)
    mine, theirs = values.get("management"), replacements.get("management")
    if mine is not None and theirs is not mine and "management" in replacements:
        for name in sorted(_BSDA_OWNED):
            if getattr(theirs, name, None) != getattr(mine, name, None):
                raise BadValue(None, f"management.{name}", "as in the partial STKM (rules R31)", "another value")
    return stkm
