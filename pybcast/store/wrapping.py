# SPDX-License-Identifier: Apache-2.0
"""Secrets in rows, wrapped so that they open in their own place only.

AES-SIV (RFC 5297) under a key that is derived from the key-encryption key.  The associated data names the table, the row, and kinds
and sizes of its secrets in their order: whoever can write to the database but has no KEK cannot give a row the key of
another one.  The same secrets in the same row give the same bytes: there is no nonce that a restored database could repeat.
(One KEK under another, in a rotation, is wrapped by RFC 3394.)
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from pybcast.keys import KEK
from pybcast.secret import Secret
from pybcast.store.protocol import StoreDamaged

OVERHEAD: Final = 16  # bytes that a wrapped secret is longer
_LABEL: Final = b"pybcast secrets in rows, AES-256-SIV"


def row_place(table: str, key: str | bytes) -> bytes:
    """The name of a row, for associated data; no two rows have the same."""
    name, data = table.encode(), key.encode() if isinstance(key, str) else key
    return b"%d %s%s%d %s " % (len(name), name, b"t" if isinstance(key, str) else b"b", len(data), data)


class RowWrap:
    """A key-encryption key at work."""

    def __init__(self, kek: KEK) -> None:
        self.kek = kek
        self._cipher = AESSIV(hmac.digest(kek.reveal(), _LABEL, "sha512"))

    def wrap(self, secret: Secret, place: bytes) -> bytes:
        """A secret of no bytes stays nothing."""
        raw = secret.reveal()
        return self._cipher.encrypt(raw, [place]) if raw else b""

    def unwrap(self, data: bytes, place: bytes) -> bytes:
        """The inverse; ``StoreDamaged`` when these bytes were not made for this place."""
        if not data:
            return b""
        try:
            return self._cipher.decrypt(data, [place])
        except (InvalidTag, ValueError):  # ValueError: shorter than the tag
            raise StoreDamaged("a key does not unwrap") from None
