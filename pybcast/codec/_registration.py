# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening of the DRM Profile's registration messages (drm-profile 3; rules R22, R23)."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from pybcast.codec._certificates import check_rsa_size, load_certificate, rights_issuer_id
from pybcast.codec._common import Lenient, carry, own_bytes, require
from pybcast.errors import BadValue, Integrity, KeyUnavailable, WireError
from pybcast.keys import Keys, SessionKey, unwrap, wrap
from pybcast.messages import KEYSET_TAGS, ClearRegistrationResponse, RegistrationMessage, RegistrationResponse
from pybcast.wire import decode, decode_keyset, encode, encode_keyset
from pybcast.wire.drm_registration import RESPONSES

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"SHA-1": hashes.SHA1(), "SHA-256": hashes.SHA256()}


_FIRST_CERTIFICATE: Final = 44
"""Offset of the first certificate's DER: behind header (16), rights_issuer_id, drm_time, count and length (drm-profile 3)."""


def _hash(name: str) -> hashes.HashAlgorithm:
    if name not in _HASHES:
        raise BadValue(None, "hash", " or ".join(_HASHES), repr(name))
    return _HASHES[name]


# confidence: own - PSS and OAEP with the message's hash, MGF1 with the same one, salt as long as the digest, empty label (R23).
def _pss(algorithm: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)


def _oaep(algorithm: hashes.HashAlgorithm) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(algorithm), algorithm, None)


def _sign(message: RegistrationResponse | RegistrationMessage, key: RSAPrivateKey) -> bytes:
    algorithm = _hash(message.hash)
    data = encode(message)[: -(key.key_size // 8)]
    return data + key.sign(data, _pss(algorithm), algorithm)


def _signing_key(message: ClearRegistrationResponse | RegistrationMessage, keys: Keys) -> RSAPrivateKey:
    key = require(keys.rights_issuer_key, "rights_issuer_key")
    if not isinstance(key, RSAPrivateKey):
        raise KeyUnavailable("rights_issuer_key (private)")
    check_rsa_size(key.public_key(), "signature_type", ())
    if message.signature_type != key.key_size:
        raise BadValue(None, "signature_type", f"{key.key_size}, the size of the rights issuer's key", str(message.signature_type))
    return key


def seal_response(message: ClearRegistrationResponse, keys: Keys) -> bytes:
    """A registration response ready to be sent.  Not deterministic: OAEP and PSS are randomised, as is the session key."""
    signing = _signing_key(message, keys)
    if message.rights_issuer_id != rights_issuer_id(signing.public_key()):
        raise BadValue(None, "rights_issuer_id", "SHA-1 of the signing key's SubjectPublicKeyInfo", message.rights_issuer_id.hex())
    if message.message_tag not in RESPONSES:
        raise BadValue(None, "message_tag", "one of " + ", ".join(t.name for t in KEYSET_TAGS), str(message.message_tag))
    session_key_block = keyset_block = None
    if message.keyset_items is not None:
        if keys.device_public_key is None and keys.device_key is None:
            raise KeyUnavailable("device_public_key")
        device = keys.device_public_key or require(keys.device_key, "device_key").public_key()
        check_rsa_size(device, "session_key_block", ())
        session_key = keys.session_key or SessionKey(os.urandom(16))
        keyset_block = wrap(session_key, encode_keyset(message.keyset_items))
        session_key_block = device.encrypt(session_key.reveal(), _oaep(_hash(message.hash)))
    cls = RESPONSES[message.message_tag]
    sealed = cls(
        **carry(message, cls),
        session_key_block=session_key_block,
        keyset_block=keyset_block,
        signature=bytes(signing.key_size // 8),
    )
    return _sign(sealed, signing)


def seal_message(message: RegistrationMessage, keys: Keys) -> bytes:
    """Any other message of the family, signed; ``message.signature`` is not looked at."""
    signing = _signing_key(message, keys)
    unsigned = {**carry(message, RegistrationMessage), "signature": bytes(signing.key_size // 8)}
    return _sign(RegistrationMessage(**unsigned), signing)


def _verifying_key(message: RegistrationResponse | RegistrationMessage, keys: Keys, lenient: Lenient) -> RSAPublicKey:
    """The key ring's, else that of the first certificate in the message: the caller then checks the chain (rules R23)."""
    held = keys.rights_issuer_key
    if held is not None:
        return held.public_key() if isinstance(held, RSAPrivateKey) else held
    if isinstance(message, RegistrationResponse) and message.certificates:
        _, key = load_certificate(message.certificates[0], "certificates[0]", _FIRST_CERTIFICATE)
        check_rsa_size(key, "certificates[0]", lenient, _FIRST_CERTIFICATE)
        return key
    raise KeyUnavailable("rights_issuer_key")


def open_any(data: bytes, keys: Keys, lenient: Lenient) -> ClearRegistrationResponse | RegistrationMessage:
    """The content of a registration message, after its signature has been found right."""
    message = decode(data, "drm-registration", lenient=lenient)
    assert isinstance(message, RegistrationResponse | RegistrationMessage)
    verifying = _verifying_key(message, keys, lenient)
    algorithm = _hash(message.hash)
    covered = own_bytes(data, message, lenient)[: -len(message.signature)]
    try:
        verifying.verify(message.signature, covered, _pss(algorithm), algorithm)
    except InvalidSignature:
        raise Integrity from None
    if isinstance(message, RegistrationMessage):
        return message
    if message.rights_issuer_id != rights_issuer_id(verifying):
        raise Integrity  # signed by this key in another issuer's name
    items = None
    if message.session_key_block is not None and message.keyset_block is not None:
        device = require(keys.device_key, "device_key")
        try:
            session_key = SessionKey(device.decrypt(message.session_key_block, _oaep(algorithm)))
        except ValueError:  # wrong padding, or another size than a session key's
            raise Integrity from None
        keyset = unwrap(session_key, message.keyset_block)
        try:
            items = decode_keyset(keyset)
        except WireError as e:  # inside the wrapping, so the offset is that of the block
            start = len(covered) - len(message.keyset_block)
            raise type(e)(start, f"keyset_block.{e.field}", e.expected, e.found) from None
    return ClearRegistrationResponse(**carry(message, ClearRegistrationResponse), keyset_items=items)
