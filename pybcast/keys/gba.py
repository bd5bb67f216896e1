# SPDX-License-Identifier: Apache-2.0
"""From a bootstrapping run to the keys of a Smartcard Profile subscriber (TS 33.220; smartcard-profile 4.2, 9; rules R24)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from pybcast.errors import BadLength
from pybcast.keys.cipher import hmac_sha256
from pybcast.keys.types import CK, IK, SMK, SRK, NafKey, RegistrationMacKey

UA_MBMS: Final = bytes.fromhex("0100000001")
"""Ua security protocol id of MBMS (seen in real card commands, smartcard-profile 4.2; sure)."""

# confidence: own - no published coding of the push was readable; a label no standard uses, so that the key has one use only.
REGISTRATION_MAC_LABEL: Final = b"bcast-reg"

MRK_INPUT: Final = b"\x01" + b"mbms-mrk" + b"\x00\x08"
"""TS 33.246's MRK for GBA_ME: the KDF of TS 33.220 with FC 01 and P0 "mbms-mrk" (TS 33.246 Annex F; sure)."""


def naf_id(fqdn: str) -> bytes:
    """NAF_ID = FQDN of the BSM || Ua security protocol id (TS 33.220; sure).  ``ValueError`` for a name that is not ASCII."""
    return fqdn.encode("ascii") + UA_MBMS


def _parameter(value: bytes) -> bytes:
    return value + len(value).to_bytes(2, "big")


def _naf_key(ck: CK, ik: IK, p0: bytes, rand: bytes, impi: str, naf: bytes) -> NafKey:
    s = b"\x01" + b"".join(map(_parameter, (p0, rand, impi.encode(), naf)))
    return NafKey(hmac_sha256(ck.reveal() + ik.reveal(), s))


def ks_int_naf(ck: CK, ik: IK, rand: bytes, impi: str, naf: bytes) -> NafKey:
    """Ks_int_NAF, 32 bytes: the key that stays on the card (GBA_U; TS 33.220 B.3; sure).  ``naf`` is :func:`naf_id`'s."""
    return _naf_key(ck, ik, b"gba-u", rand, impi, naf)


def ks_ext_naf(ck: CK, ik: IK, rand: bytes, impi: str, naf: bytes) -> NafKey:
    """Ks_ext_NAF (GBA_U), and with the same input Ks_NAF (GBA_ME): the key that the terminal may see (sure)."""
    return _naf_key(ck, ik, b"gba-me", rand, impi, naf)


ks_naf = ks_ext_naf


@dataclass(frozen=True)
class RegistrationKeys:
    """What both ends of a registration push derive: SMK, SRK and the key of the push's own MAC."""

    smk: SMK
    srk: SRK
    mac_key: RegistrationMacKey


def registration_keys(ck: CK, ik: IK, rand: bytes, impi: str, fqdn: str, *, gba_u: bool) -> RegistrationKeys:
    """SMK, SRK and MAC key of a subscriber (rules R24).

    ``gba_u``: SMK = Ks_int_NAF, SRK = MAC key = Ks_ext_NAF.  Otherwise SMK = Ks_NAF and the other two are derived from it.
    """
    naf = naf_id(fqdn)
    if gba_u:
        external = ks_ext_naf(ck, ik, rand, impi, naf)
        return RegistrationKeys(SMK(ks_int_naf(ck, ik, rand, impi, naf)), SRK(external), RegistrationMacKey(external))
    ks = ks_naf(ck, ik, rand, impi, naf)
    mac_key = RegistrationMacKey(hmac_sha256(ks, REGISTRATION_MAC_LABEL))
    return RegistrationKeys(SMK(ks), SRK(hmac_sha256(ks, MRK_INPUT)), mac_key)


def btid(rand: bytes, bsf_name: str) -> str:
    """B-TID = base64(RAND) @ BSF name (smartcard-profile 4.2; sure)."""
    return f"{base64.b64encode(rand).decode('ascii')}@{bsf_name}"


def btid_matches(value: str, rand: bytes) -> bool:
    """Whether a B-TID is one of this RAND, whatever the BSF's name (which must not be empty)."""
    head, at, name = value.partition("@")
    return bool(at and name) and head == base64.b64encode(rand).decode("ascii")


def target_id(rand: bytes, impi: str) -> bytes:
    """The first 8 bytes of SHA-256(RAND || IMPI): a terminal finds its own push without asking the card (rules R24)."""
    # confidence: own
    return hashlib.sha256(rand + impi.encode()).digest()[:8]


def gba_u_autn(autn: bytes, ik: IK) -> bytes:
    """AUTN <-> the AUTN of GBA_U: MAC* = MAC XOR the first 8 bytes of SHA-1(IK).  Its own inverse.

    It keeps a terminal from running the bootstrap as a plain AKA and getting CK and IK out of the card.
    """
    # confidence: likely - TS 33.220 5.3.2, from memory of its text.
    if len(autn) != 16:
        raise BadLength(None, "autn", "16 bytes", f"{len(autn)} bytes")
    mask = hashlib.sha1(ik.reveal()).digest()[:8]
    return autn[:8] + bytes(a ^ b for a, b in zip(autn[8:], mask, strict=True))
