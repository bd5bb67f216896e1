# SPDX-License-Identifier: Apache-2.0
"""Key derivation of MIKEY with pre-shared keys (RFC 3830 4.1, 4.2.3; smartcard-profile 1.4, 1.5).

Sure throughout: RFC 3830, compared with libmikey, except for keys whose length is a multiple of 32 bytes, where libmikey departs
from the RFC and we do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pybcast.keys.cipher import hmac_sha1, octets
from pybcast.keys.types import TEK, AuthKey, EncrKey, SaltKey
from pybcast.secret import Secret

PSK_ENCR: Final = bytes.fromhex("150533E1")
PSK_SALT: Final = bytes.fromhex("29B88916")
PSK_AUTH: Final = bytes.fromhex("2D22AC75")
TGK_TEK: Final = bytes.fromhex("2AD01C64")
TGK_SALT: Final = bytes.fromhex("39A2C14B")
TGK_AUTH: Final = bytes.fromhex("1B5C7973")
TGK_ENCR: Final = bytes.fromhex("15798CEF")

_CHUNK: Final = 32
"""The PRF takes its key in chunks of 256 bits; a 32-byte key (an SMK) is one whole chunk, not one and an empty one."""


def _p(secret: bytes, label: bytes, length: int) -> int:
    a, out = label, b""
    while len(out) < length:
        a = hmac_sha1(secret, a)
        out += hmac_sha1(secret, a + label)
    return int.from_bytes(out[:length], "big")


def prf(inkey: bytes | Secret, label: bytes, length: int) -> bytes:
    """The MIKEY PRF (RFC 3830 4.1.2): ``length`` bytes from a key of at least one byte and a label.

    ``ValueError`` for an empty key, which the RFC does not define.
    """
    raw = octets(inkey)
    if not raw:
        raise ValueError("MIKEY PRF: the key is empty")
    mixed = 0
    for start in range(0, len(raw), _CHUNK):
        mixed ^= _p(raw[start : start + _CHUNK], label, length)
    return mixed.to_bytes(length, "big")


def psk_label(constant: bytes, csb_id: bytes, rand: bytes) -> bytes:
    """constant || FF || CSB ID || RAND (RFC 3830 4.1.4): the bare RAND value, which may be empty (smartcard-profile 4.4)."""
    return constant + b"\xff" + csb_id + rand


def tgk_label(constant: bytes, cs_id: int, csb_id: bytes, rand: bytes) -> bytes:
    """constant || cs_id (8 bits) || CSB ID || RAND (RFC 3830 4.1.3)."""
    return constant + bytes((cs_id,)) + csb_id + rand


@dataclass(frozen=True)
class MikeyKeys:
    """The three keys that protect one MIKEY message: AES-CM key (16 bytes), its salt (14), HMAC-SHA-1 key (20)."""

    encr: EncrKey
    salt: SaltKey
    auth: AuthKey


def psk_keys(psk: bytes | Secret, csb_id: bytes, rand: bytes) -> MikeyKeys:
    """The keys of every MIKEY message under one pre-shared key, CSB ID and RAND.

    The CSB ID is that of the message's own header.  The RAND of an LTKM is its own, with the SMK; a STKM has none: it takes that of
    the LTKM that delivered its SEK, or the empty RAND when the SEK was provisioned (smartcard-profile 4.4; TS 33.246 6.4.5, sure).
    """
    return MikeyKeys(
        EncrKey(prf(psk, psk_label(PSK_ENCR, csb_id, rand), 16)),
        SaltKey(prf(psk, psk_label(PSK_SALT, csb_id, rand), 14)),
        AuthKey(prf(psk, psk_label(PSK_AUTH, csb_id, rand), 20)),
    )


def tgk_tek(tgk: bytes | Secret, cs_id: int, csb_id: bytes, rand: bytes) -> TEK:
    """The traffic key of crypto session ``cs_id`` from a TEK generation key."""
    return TEK(prf(tgk, tgk_label(TGK_TEK, cs_id, csb_id, rand), 16))


def tgk_keys(tgk: bytes | Secret, cs_id: int, csb_id: bytes, rand: bytes) -> MikeyKeys:
    """Encryption key, salt and authentication key of crypto session ``cs_id`` from a TEK generation key."""
    return MikeyKeys(
        EncrKey(prf(tgk, tgk_label(TGK_ENCR, cs_id, csb_id, rand), 16)),
        SaltKey(prf(tgk, tgk_label(TGK_SALT, cs_id, csb_id, rand), 14)),
        AuthKey(prf(tgk, tgk_label(TGK_AUTH, cs_id, csb_id, rand), 20)),
    )


def iv(salt: bytes | Secret, csb_id: bytes, ts_value: bytes) -> bytes:
    """The 16-byte AES-CM start value of a message (RFC 3830 4.2.3): (salt XOR (0000 || CSB ID || T)) || 0000.

    ``ts_value``: the T payload's value, 8 bytes, or 4 (COUNTER) which stand for the low half.
    """
    block = b"\0\0" + csb_id + ts_value.rjust(8, b"\0")
    mixed = int.from_bytes(octets(salt), "big") ^ int.from_bytes(block, "big")
    return mixed.to_bytes(14, "big") + b"\0\0"
