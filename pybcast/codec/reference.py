# SPDX-License-Identifier: Apache-2.0
"""The readable reference: ``seal`` and ``open`` on ``pybcast.wire`` and the ``cryptography`` package, without the C core.

What it takes, gives and raises is what :func:`pybcast.codec.seal` and :func:`pybcast.codec.open` say.  Those use it for what the
core does not build, and for the words of a refusal; the tests hold the core against it.
"""

from __future__ import annotations

from pybcast.codec import _drm, _registration, _smartcard
from pybcast.codec._common import Lenient
from pybcast.errors import ConfigError, Unsupported
from pybcast.keys import Keys
from pybcast.messages import (
    KINDS,
    ClearBcro,
    ClearDrmStkm,
    ClearMessage,
    ClearRegistrationResponse,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    ClearSmartcardStkm,
    Kind,
    OpenedSmartcardRegistration,
    PartialDrmStkm,
    PartialSmartcardStkm,
    RegistrationMessage,
    SmartcardRegistration,
    SmartcardVerification,
)
from pybcast.wire.smartcard import MAX_SIZE as MAX_CARD_MESSAGE

__all__ = ["open", "seal"]


def seal(message: ClearMessage | SmartcardRegistration, keys: Keys, *, max_card_message: int = MAX_CARD_MESSAGE) -> bytes:
    """The bytes of a key message as they go on air."""
    match message:
        case PartialDrmStkm() | PartialSmartcardStkm():
            raise TypeError(f"{type(message).__name__} is not sealed as it is: use complete()")
        case ClearDrmStkm():
            return _drm.seal_stkm(message, keys)
        case ClearSmartcardStkm():
            return _smartcard.seal_stkm(message, keys, max_card_message)
        case ClearSmartcardLtkm():
            return _smartcard.seal_ltkm(message, keys, max_card_message)
        case ClearBcro():
            return _drm.seal_bcro(message, keys)
        case SmartcardVerification():
            return _smartcard.seal_verification(message, keys, max_card_message)
        case ClearSmartcardParental():
            return _smartcard.seal_parental(message, keys, max_card_message)
        case SmartcardRegistration():
            return _smartcard.seal_registration(message, keys)
        case OpenedSmartcardRegistration():
            return _smartcard.seal_registration(message.registration, keys)
        case ClearRegistrationResponse():
            return _registration.seal_response(message, keys)
        case RegistrationMessage():
            return _registration.seal_message(message, keys)
    raise TypeError(f"{type(message).__name__} is not the content of a message")


def open(data: bytes, keys: Keys, kind: Kind, *, lenient: Lenient = ()) -> ClearMessage:
    """The content of a key message, once everything that the held keys can check was found right."""
    match kind:
        case "drm-stkm":
            return _drm.open_stkm(data, keys, lenient)
        case "drm-ltkm":
            return _drm.open_bcro(data, keys, lenient)
        case "drm-registration":
            return _registration.open_any(data, keys, lenient)
        case "smartcard-stkm":
            return _smartcard.open_stkm(data, keys, lenient)
        case "smartcard-ltkm":
            return _smartcard.open_ltkm(data, keys, lenient)
        case "smartcard-verification" | "smartcard-reporting":
            return _smartcard.open_verification(data, keys, kind, lenient)
        case "smartcard-parental":
            return _smartcard.open_parental(data, keys, lenient)
        case "smartcard-registration":
            return _smartcard.open_registration(data, keys, lenient)
        case "mikey":
            raise Unsupported(None, "kind", "a kind that has one meaning for its keys", "mikey")
    raise ConfigError(f"unknown kind; known: {', '.join(KINDS)}")
