# SPDX-License-Identifier: Apache-2.0
"""Keys under keys: AES key wrap, the transport of rights-object keys, and the only form in which a key leaves the process."""

from __future__ import annotations

import math
import secrets
from typing import Final, TypeVar

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from pybcast.errors import Integrity
from pybcast.keys.cipher import octets
from pybcast.keys.prf import kdf2_sha1
from pybcast.keys.types import KEK, KMAC, KREK, Key
from pybcast.secret import Secret

_K = TypeVar("_K", bound=Key)

_WRAPPED_PAIR: Final = 40
"""C2: K_MAC || K_REK (32 bytes) wrapped by RFC 3394."""


def wrap(kek: bytes | Secret, key: bytes | Secret) -> bytes:
    """AES key wrap (RFC 3394; sure): ``key`` of 16, 24, 32, ... bytes -> 8 bytes more.  ``ValueError`` for other sizes."""
    raw = octets(key)
    if len(raw) < 16 or len(raw) % 8:
        raise ValueError("key wrap: expected a multiple of 8 bytes, at least 16")
    return keywrap.aes_key_wrap(octets(kek), raw)


def unwrap(kek: bytes | Secret, data: bytes) -> bytes:
    """The inverse of :func:`wrap`.  ``Integrity`` when ``data`` was not wrapped under ``kek``, whatever its size."""
    try:
        return keywrap.aes_key_unwrap(octets(kek), data)
    except keywrap.InvalidUnwrap:
        raise Integrity from None


def export_wrapped(key: Key, kek: KEK) -> bytes:
    """A key as it may be stored or moved: AES key wrap under ``kek``.

    RFC 3394 for key sizes that are a multiple of 8; RFC 5649 (padding) for the 14- and 20-byte ones, which RFC 3394 cannot hold.
    The size of the type decides, so nothing has to be stored beside it but the name of the type: the wrapping does not say which
    key it holds, and a 16-byte SEK can be imported as a PEK by whoever mixes up names.
    """
    raw = key.reveal()
    return keywrap.aes_key_wrap_with_padding(kek.reveal(), raw) if len(raw) % 8 else keywrap.aes_key_wrap(kek.reveal(), raw)


def import_wrapped(cls: type[_K], data: bytes, kek: KEK) -> _K:
    """A key from :func:`export_wrapped`.  ``Integrity`` when it is not a ``cls`` wrapped under ``kek``."""
    unwrapper = keywrap.aes_key_unwrap_with_padding if cls.SIZES[0] % 8 else keywrap.aes_key_unwrap
    try:
        return cls(unwrapper(kek.reveal(), data))
    except (keywrap.InvalidUnwrap, ValueError):  # ValueError: opened well, but of another type's size
        raise Integrity from None


# --- Rights-object key transport (drm-profile 2.1; OMA DRM 2.0, RSAES-KEM-KDF2-KW-AES128; sure) ------------------------


def kem_wrap(public_key: RSAPublicKey, k_mac: KMAC, k_rek: KREK, *, z: int | None = None) -> bytes:
    """C1 || C2: the keys of a rights object for one device.  ``z``: random in [2, n - 2], made here when not given.

    The size is the modulus' plus 40 bytes.  ``ValueError`` when ``z`` is out of range.
    """
    # RSA without padding is what this transport is made of, and ``cryptography`` offers none: plain pow() on the public
    # numbers, where no secret exponent is involved.
    numbers = public_key.public_numbers()
    if z is None:
        z = 2 + secrets.randbelow(numbers.n - 3)
    if not 2 <= z <= numbers.n - 2:
        raise ValueError("z: expected 2 .. n - 2")
    size = (numbers.n.bit_length() + 7) // 8
    c1 = pow(z, numbers.e, numbers.n).to_bytes(size, "big")
    kek = kdf2_sha1(z.to_bytes(size, "big"), 16)
    return c1 + wrap(kek, k_mac.reveal() + k_rek.reveal())


def kem_unwrap(private_key: RSAPrivateKey, data: bytes) -> tuple[KMAC, KREK]:
    """(K_MAC, K_REK) from C1 || C2.  ``Integrity`` for anything that was not made for this key, wrong sizes included."""
    private = private_key.private_numbers()
    n, e = private.public_numbers.n, private.public_numbers.e
    size = (n.bit_length() + 7) // 8
    c1 = int.from_bytes(data[:size], "big")
    if len(data) != size + _WRAPPED_PAIR or not 1 < c1 < n - 1:
        raise Integrity
    # pow() with the private exponent is not constant time, and again nothing else gives RSA without padding; so the base is
    # blinded with a fresh random factor, and what an observer can time does not depend on C1.
    blind = _blinding_factor(n)
    z = pow(c1 * pow(blind, e, n) % n, private.d, n) * pow(blind, -1, n) % n
    pair = unwrap(kdf2_sha1(z.to_bytes(size, "big"), 16), data[size:])
    return KMAC(pair[:16]), KREK(pair[16:])


def _blinding_factor(n: int) -> int:
    while True:
        candidate = 2 + secrets.randbelow(n - 3)
        if math.gcd(candidate, n) == 1:  # else it would be a factor of n; never seen, but pow(-1) would raise
            return candidate
