# SPDX-License-Identifier: Apache-2.0
"""From the keys in a STKM to the keys that protect traffic, and the identifiers that name them on air (smartcard-profile 6)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final, Literal

from pybcast.errors import BadLength, BadValue
from pybcast.keys.cipher import aes_ctr, octets
from pybcast.keys.mikey import TGK_AUTH, prf
from pybcast.keys.prf import derive_tak
from pybcast.keys.types import MASTER_SALT_SIZE, TAK, TAS, TEK, AuthKey, EncrKey, SaltKey
from pybcast.secret import Secret


def _sized(value: bytes, field: str, size: int) -> bytes:
    if len(value) != size:
        raise BadLength(None, field, f"{size} bytes", f"{len(value)} bytes")
    return value


# --- Identifiers -----------------------------------------------------------------------------------------------------


def mki(sek_id: bytes, tek_id: bytes) -> bytes:
    """The 6-byte SRTP master key index of a Smartcard Profile stream: SEK ID || TEK ID (rules R38; TS 33.246 6.6.2.1, sure).

    ``BadLength`` for a 4-byte TEK ID, which has no MKI (rules R8).
    """
    return _sized(sek_id, "sek_id", 4) + _sized(tek_id, "tek_id", 2)


def ipsec_spi(sek_id: bytes, tek_id: bytes) -> bytes:
    """The 4-byte SPI of a Smartcard Profile stream: key number part of the SEK ID || TEK ID (rules R43).

    ``BadLength`` for a 4-byte TEK ID (rules R8); ``BadValue`` for an SPI of 0..255, which RFC 4303 reserves: it comes only from the
    key number 0000, which no LTKM may carry (smartcard-profile 4.3).
    """
    # confidence: own
    spi = _sized(sek_id, "sek_id", 4)[2:] + _sized(tek_id, "tek_id", 2)
    if spi[:3] == bytes(3):
        raise BadValue(None, "sek_id", "a key number that gives an SPI above 255", f"SPI {int.from_bytes(spi, 'big')}")
    return spi


def key_indicator(sek_id: bytes, tek_id: bytes, length: Literal[2, 6] = 6) -> bytes:
    """The ISMACryp key indicator: SEK ID || TEK ID (6 bytes), or the TEK ID alone for receivers that hold 2 bytes."""
    # confidence: own - that it contains the MTK ID is likely.
    full = mki(sek_id, tek_id)
    if length not in (2, 6):
        raise BadLength(None, "key_indicator", "2 or 6 bytes", f"{length} bytes")
    return full[-length:]


# --- IPsec -----------------------------------------------------------------------------------------------------------


def ipsec_auth_key_smartcard(tek: TEK, csb_id: bytes) -> TAK:
    """The ESP authentication key of a Smartcard Profile stream: PRF(TEK, 1B5C7973 || 00 || CSB ID), 20 bytes (rules R43)."""
    # confidence: own - MIKEY's authentication key of crypto session 0, without RAND, which a receiver of traffic may not know.
    return TAK(prf(tek, TGK_AUTH + b"\0" + _sized(csb_id, "csb_id", 4), 20))


def ipsec_auth_key_drm(tas: TAS) -> TAK:
    """The ESP authentication key of a DRM Profile stream: f_auth of the TAS (drm-profile 1.4)."""
    return derive_tak(tas)


# --- SRTP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SrtpKeys:
    """Session keys of SRTP or SRTCP: AES-CM key (16 bytes), salt (14), HMAC-SHA-1 key (20)."""

    encr: EncrKey
    salt: SaltKey
    auth: AuthKey


def srtp_session_keys(master_key: TEK, master_salt: bytes, *, rtcp: bool = False) -> SrtpKeys:
    """Session keys from the TEK and the master salt (14 bytes): RFC 3711 4.3 with key derivation rate 0 (sure)."""
    salt = int.from_bytes(_sized(master_salt, "salt", MASTER_SALT_SIZE), "big")
    base = 3 if rtcp else 0

    def derive(label: int, size: int) -> bytes:
        x = salt ^ (base + label) << 48
        return aes_ctr(master_key, x.to_bytes(14, "big") + b"\0\0", bytes(size))

    return SrtpKeys(EncrKey(derive(0, 16)), SaltKey(derive(2, 14)), AuthKey(derive(1, 20)))


# --- Traffic keys that a main and a back-up headend derive alike (rules R33) ------------------------------------------

_DERIVED_LABEL: Final = b"pybcast derived traffic key v1"
"""Separates these keys from anything else the pair might compute with the same secret."""

_PAIR_SECRET_MIN: Final = 16
"""Shorter than the keys it makes, the pair's secret would be the weakest part of the system."""


class TekDerivation:
    """The traffic keys of a stream's crypto periods under one long-term key, the same at both headends of a pair without a word
    between them (rules R33).

    ``pair_secret``: at least 16 bytes.  ``stream`` 1..65535; ``key_id``: SEK ID (Smartcard) or CID extension (DRM), 4 bytes.  The
    methods take ``period``: COUNTER or start of the period; nothing else goes in.  What periods have in common is computed once.
    """

    def __init__(self, pair_secret: bytes | Secret, *, stream: int, key_id: bytes) -> None:
        # confidence: own - HMAC-SHA-256; each variable field has a fixed width or its length before it, so no two inputs collide.
        raw = octets(pair_secret)
        if len(raw) < _PAIR_SECRET_MIN:
            raise ValueError(f"pair secret: expected at least {_PAIR_SECRET_MIN} bytes")
        if not 1 <= stream <= 65535:
            raise BadValue(None, "stream", "1..65535", str(stream))
        if not 1 <= len(key_id) <= 255:
            raise BadLength(None, "key_id", "1..255 bytes", f"{len(key_id)} bytes")
        self._mac = hmac.new(raw, digestmod=hashlib.sha256)
        self._context = stream.to_bytes(2, "big") + bytes((len(key_id),)) + key_id

    def _derived(self, label: bytes, period: int, size: int) -> bytes:
        if not 0 <= period < 1 << 64:
            raise BadValue(None, "period", "0..2^64-1", str(period))
        mac = self._mac.copy()
        mac.update(label + self._context + period.to_bytes(8, "big"))
        return mac.digest()[:size]

    def tek(self, period: int) -> TEK:
        return TEK(self._derived(_DERIVED_LABEL + b"\0tek\0", period, 16))

    def salt(self, period: int) -> bytes:
        """The 14-byte master salt of SRTP: public, and computed separately, so that it says nothing about the key."""
        return self._derived(_DERIVED_LABEL + b"\0salt\0", period, MASTER_SALT_SIZE)

    def tas(self, period: int) -> TAS:
        """The traffic authentication seed (IPsec with authentication, DRM Profile)."""
        return TAS(self._derived(_DERIVED_LABEL + b"\0tas\0", period, 16))
