# SPDX-License-Identifier: Apache-2.0
"""Content identifiers: what a CID extension in a STKM or a BCI in a rights object belongs to (drm-profile 1.6)."""

from __future__ import annotations

import hashlib

from pybcast.errors import BadValue


def _check(socID: str, extension: int) -> None:
    if "#" in socID:  # the separator: two different pairs would share one identifier
        raise BadValue(None, "socID", "no '#'", repr(socID))
    if not 0 <= extension < 1 << 32:
        raise BadValue(None, "extension", "0..4294967295", str(extension))


def _cid(socID: str, letter: str, serviceBaseCID: str, extension: int) -> str:
    # confidence: likely - form of the string (drm-profile 1.6); own - upper-case digits
    _check(socID, extension)
    return f"cid:{socID}#{letter}{serviceBaseCID}@{extension:08X}"


def service_CID(socID: str, serviceBaseCID: str, extension: int) -> str:
    """The name of a service's key: ``cid:`` socID ``#S`` serviceBaseCID ``@`` extension as 8 hex digits.

    ``BadValue`` for an extension beyond 32 bits or ``#`` in socID.  drm-profile 1.6; likely.
    """
    return _cid(socID, "S", serviceBaseCID, extension)


def programme_CID(socID: str, serviceBaseCID: str, extension: int) -> str:
    """The name of a programme's key: as :func:`service_CID`, with ``#P``."""
    return _cid(socID, "P", serviceBaseCID, extension)


def BCI(socID: str, serviceBaseCID: str, extension: int) -> bytes:
    """The binary content id of a rights object, 16 bytes: SHA-1-96 of the base, then the extension in network order.

    ``BadValue`` as :func:`service_CID`.  drm-profile 1.6; guess, the hashed text is own.
    """
    # confidence: own - what is hashed: socID '#' serviceBaseCID in UTF-8
    _check(socID, extension)
    return hashlib.sha1(f"{socID}#{serviceBaseCID}".encode(), usedforsecurity=False).digest()[:12] + extension.to_bytes(4, "big")


def same_cid(a: str, b: str) -> bool:
    """Whether two content ids name the same key: upper and lower case do not matter (own, drm-profile 1.6)."""
    return a.lower() == b.lower()
