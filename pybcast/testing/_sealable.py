# SPDX-License-Identifier: Apache-2.0
"""Contents with the keys that seal and open them, as functions of choices (see :mod:`pybcast.testing._shapes`)."""

from __future__ import annotations

import datetime
import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pybcast import keys as k
from pybcast import messages as m
from pybcast.keys import Keys
from pybcast.messages import ClearMessage, Kind, SmartcardRegistration
from pybcast.testing import _shapes
from pybcast.testing._shapes import Choices, Small, secret

Sealable = ClearMessage | SmartcardRegistration
"""What ``seal`` takes."""


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A 2048-bit test key per name and process: making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@functools.cache
def certificate(name: str) -> bytes:
    """A self-signed certificate of :func:`rsa_key`, DER; valid 2000-2037."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pybcast test {name}")])
    key = rsa_key(name)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=datetime.datetime(2000, 1, 1),
        not_valid_after=datetime.datetime(2037, 1, 1),
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@functools.cache
def rights_issuer_id(name: str) -> bytes:
    """SHA-1 of the SubjectPublicKeyInfo (rules R23)."""
    spki = rsa_key(name).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(spki).digest()


def _drm_stkm(c: Choices) -> tuple[Sealable, Keys]:
    message = _shapes.clear_drm_stkm(c)
    programme, service = message.programme_CID_extension is not None, message.service_CID_extension is not None
    return message, Keys(
        seak=k.SEAK(secret(c, 32)) if service else None,
        peak=k.PEAK(secret(c, 32)) if programme else None,
    )


def _bcro(c: Choices) -> tuple[Sealable, Keys]:
    message = _shapes.clear_bcro(c)
    # rules R21: builders always send both.
    issuer = message.rights_issuer_id or c.octets(20)
    time = message.bcro_timestamp if message.bcro_timestamp is not None else _shapes.ntp_time(c)
    message = replace(message, rights_issuer_id=issuer, bcro_timestamp=time)
    return message, Keys(iek=k.IEK(secret(c, 16)), riak=k.RIAK(secret(c, 16)))


def _registration_message(c: Choices) -> tuple[Sealable, Keys]:
    message = _shapes.registration_message(c, sizes=(2048,))
    return replace(message, signature=b""), Keys(rights_issuer_key=rsa_key("rights issuer"))


def _registration(c: Choices) -> tuple[Sealable, Keys]:
    if c.integer(0, 3) == 0:
        return _registration_message(c)
    header = _shapes.registration_response(c, sizes=(2048,))
    certificates = (certificate("rights issuer"),) if c.flag() else None
    message = m.ClearRegistrationResponse(
        message_tag=header.message_tag,
        longform_udn=header.longform_udn,
        status=header.status,
        hash=header.hash,
        rights_issuer_id=rights_issuer_id("rights issuer"),
        drm_time=header.drm_time,
        certificates=certificates,
        ocsp_responses=header.ocsp_responses,
        keyset_items=_shapes.keyset_items(c) if header.keyset_block is not None else None,
    )
    return message, Keys(
        rights_issuer_key=rsa_key("rights issuer"),
        device_key=rsa_key("device"),
        device_public_key=rsa_key("device").public_key(),
        session_key=k.SessionKey(secret(c, 16)),
    )


def _sek_id(c: Choices) -> bytes:
    """smartcard-profile 4.3: neither Key Group nor Key Number is 0."""
    return c.integer(1, 0xFFFF).to_bytes(2, "big") + c.integer(1, 0xFFFF).to_bytes(2, "big")


def _smartcard_stkm(c: Choices) -> tuple[Sealable, Keys]:
    message = _shapes.clear_smartcard_stkm(Small(c, _shapes.SPARE))
    message = replace(message, sek_id=_sek_id(c), tek_id=c.integer(1, 0xFFFE).to_bytes(2, "big"))
    # smartcard-profile 4.4: a SEK that was provisioned has an empty RAND.
    rand = c.octets(16) if c.integer(0, 4) else b""
    return message, Keys(sek=k.SEK(secret(c, 16)), csb_id=c.octets(4), rand=rand)


def _smartcard_ltkm(c: Choices) -> tuple[Sealable, Keys]:
    message = _shapes.clear_smartcard_ltkm(Small(c, _shapes.SPARE))
    return replace(message, sek_id=_sek_id(c)), Keys(smk=k.SMK(secret(c, 32)))


def _verification(c: Choices, report: bool = False) -> tuple[Sealable, Keys]:
    message = _shapes.clear_smartcard_verification(Small(c, _shapes.SPARE), report)
    return message, Keys(smk=k.SMK(secret(c, 32)), rand=c.octets(16), idi=c.octets(1, 60))


def _parental(c: Choices) -> tuple[Sealable, Keys]:
    return _shapes.clear_smartcard_parental(Small(c, _shapes.SPARE)), Keys(smk=k.SMK(secret(c, 32)))


def _push(c: Choices) -> tuple[Sealable, Keys]:
    message = replace(_shapes.smartcard_registration(c), mac=b"")
    impi = f"{c.integer(0, 10**15 - 1):015}@ims.mnc001.mcc001.3gppnetwork.org"
    subscriber, opc = k.K(secret(c, 16)), k.OPC(secret(c, 16))
    card = k.Milenage(subscriber, opc)
    autn = card.autn(message.rand, c.octets(6), c.octets(2))
    ck, ik = card.f3(message.rand), card.f4(message.rand)
    if message.gba_u:
        autn = k.gba_u_autn(autn, ik)
    message = replace(message, target_id=k.target_id(message.rand, impi), autn=autn)
    return message, Keys(k=subscriber, opc=opc, impi=impi) if c.flag() else Keys(ck=ck, ik=ik, impi=impi)


SEALABLE: Final[dict[Kind, Callable[[Choices], tuple[Sealable, Keys]]]] = {
    "drm-stkm": _drm_stkm,
    "drm-ltkm": _bcro,
    "drm-registration": _registration,
    "smartcard-stkm": _smartcard_stkm,
    "smartcard-ltkm": _smartcard_ltkm,
    "smartcard-verification": _verification,
    "smartcard-reporting": lambda c: _verification(c, report=True),
    "smartcard-parental": _parental,
    "smartcard-registration": _push,
}
"""By kind.  Plain MIKEY has no sealed form of its own."""
