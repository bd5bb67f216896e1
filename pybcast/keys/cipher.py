# SPDX-License-Identifier: Apache-2.0
"""The five uses of AES and HMAC in the two profiles; the primitives are ``cryptography``'s and the standard library's.

Arguments are bytes or ``Secret``; results are plain bytes, because a result is sometimes public (ciphertext) and sometimes not:
the caller wraps what is secret.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pybcast.secret import Secret

ZERO_IV = bytes(16)


def octets(key: bytes | Secret) -> bytes:
    """The bytes of a key, whichever way the caller holds it."""
    return key.reveal() if isinstance(key, Secret) else key


def aes_ecb_encrypt(key: bytes | Secret, data: bytes) -> bytes:
    """AES on whole blocks, each for itself (SP 800-38A F.1): single-block keys and the PRFs, never bulk data."""
    encryptor = Cipher(algorithms.AES(octets(key)), modes.ECB()).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def aes_ecb_decrypt(key: bytes | Secret, data: bytes) -> bytes:
    """The inverse of :func:`aes_ecb_encrypt`."""
    decryptor = Cipher(algorithms.AES(octets(key)), modes.ECB()).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def aes_cbc_encrypt(key: bytes | Secret, data: bytes, iv: bytes = ZERO_IV) -> bytes:
    """AES-CBC without padding; the IV is zero for key material (drm-profile 1.3, 2.2: each key encrypts random keys only)."""
    encryptor = Cipher(algorithms.AES(octets(key)), modes.CBC(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def aes_cbc_decrypt(key: bytes | Secret, data: bytes, iv: bytes = ZERO_IV) -> bytes:
    """The inverse of :func:`aes_cbc_encrypt`."""
    decryptor = Cipher(algorithms.AES(octets(key)), modes.CBC(iv)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def aes_ctr(key: bytes | Secret, iv: bytes, data: bytes) -> bytes:
    """AES counter mode from the 16-byte ``iv`` (AES-CM of RFC 3711 and RFC 3830); its own inverse."""
    encryptor = Cipher(algorithms.AES(octets(key)), modes.CTR(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def hmac_sha1(key: bytes | Secret, data: bytes) -> bytes:
    """HMAC-SHA-1, 20 bytes (RFC 2104)."""
    return hmac.digest(octets(key), data, hashlib.sha1)


def hmac_sha256(key: bytes | Secret, data: bytes) -> bytes:
    """HMAC-SHA-256, 32 bytes (RFC 2104)."""
    return hmac.digest(octets(key), data, hashlib.sha256)


def same_mac(computed: bytes, received: bytes) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(computed, received)
