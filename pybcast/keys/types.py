# SPDX-License-Identifier: Apache-2.0
"""One type for each key of the hierarchy, so that a service key is never taken for a programme key.

All are ``pybcast.secret.Secret``: no printed form, no pickling, ``reveal()`` for the bytes, ``wipe()`` when done.  Names are the
specification's; sizes are checked when a key is made.
"""

from __future__ import annotations

from typing import ClassVar, Final

from pybcast.secret import Secret


class Key(Secret):
    """A secret of a fixed size.  ``ValueError`` names the type and the expected size, never the content."""

    __slots__ = ()
    SIZES: ClassVar[tuple[int, ...]] = (16,)
    """Sizes in bytes that this key may have; the first one is the usual."""

    def __init__(self, value: bytes | bytearray | memoryview | Secret) -> None:
        if len(value) not in self.SIZES:
            raise ValueError(f"{type(self).__name__}: expected {' or '.join(map(str, self.SIZES))} bytes")
        super().__init__(value)


# --- DRM Profile (drm-profile 1.3, 1.4, 2.3, 3) ----------------------------------------------------------------------


class SEK(Key):
    """Service encryption key (DRM Profile), or the SEK of the Smartcard Profile (= MSK, smartcard-profile 4.1)."""

    __slots__ = ()


class SAS(Key):
    """Service authentication seed."""

    __slots__ = ()


class PEK(Key):
    """Programme encryption key."""

    __slots__ = ()


class PAS(Key):
    """Programme authentication seed."""

    __slots__ = ()


class TEK(Key):
    """Traffic encryption key."""

    __slots__ = ()


class TAS(Key):
    """Traffic authentication seed (IPsec with authentication, DRM Profile)."""

    __slots__ = ()


class SEAK(Key):
    """Service encryption and authentication key: SEK || SAS."""

    __slots__ = ()
    SIZES = (32,)

    def split(self) -> tuple[SEK, SAS]:
        """The two halves."""
        value = self.reveal()
        return SEK(value[:16]), SAS(value[16:])

    @classmethod
    def join(cls, sek: SEK, sas: SAS) -> SEAK:
        """SEK || SAS."""
        return cls(sek.reveal() + sas.reveal())


class PEAK(Key):
    """Programme encryption and authentication key: PEK || PAS."""

    __slots__ = ()
    SIZES = (32,)

    def split(self) -> tuple[PEK, PAS]:
        """The two halves."""
        value = self.reveal()
        return PEK(value[:16]), PAS(value[16:])

    @classmethod
    def join(cls, pek: PEK, pas: PAS) -> PEAK:
        """PEK || PAS."""
        return cls(pek.reveal() + pas.reveal())


class SAK(Key):
    """Service authentication key, the HMAC-SHA-1 key of service_MAC."""

    __slots__ = ()
    SIZES = (20,)


class PAK(Key):
    """Programme authentication key, the HMAC-SHA-1 key of programme_MAC."""

    __slots__ = ()
    SIZES = (20,)


class TAK(Key):
    """Traffic authentication key, the HMAC-SHA-1 key of IPsec ESP."""

    __slots__ = ()
    SIZES = (20,)


class BAK(Key):
    """BCRO authentication key, the HMAC-SHA-1 key of a BCRO's MAC."""

    __slots__ = ()
    SIZES = (20,)


class UGK(Key):
    """Unique group key: opens a BCRO for a whole subscriber group."""

    __slots__ = ()


class UDK(Key):
    """Unique device key: opens a BCRO for one device."""

    __slots__ = ()


class SGK(Key):
    """Subscriber group key: a node of the group tree that a member holds."""

    __slots__ = ()


class LeafKey(Key):
    """The key at a position of the group tree; every member but the one at that position can compute it."""

    __slots__ = ()


class BDK(Key):
    """Broadcast domain key."""

    __slots__ = ()


class RIAK(Key):
    """Rights issuer authentication key, the seed of BAK."""

    __slots__ = ()


class TDK(Key):
    """Token delivery key."""

    __slots__ = ()


class IEK(Key):
    """Inferred encryption key: encrypts the SEAK or PEAK in a BCRO."""

    __slots__ = ()


class SessionKey(Key):
    """The session key (SK) that wraps the key set of a registration response."""

    __slots__ = ()


class KMAC(Key):
    """K_MAC of a rights object (drm-profile 2.1)."""

    __slots__ = ()


class KREK(Key):
    """K_REK, the rights encryption key of a rights object (drm-profile 2.1)."""

    __slots__ = ()


# --- Smartcard Profile (smartcard-profile 4.1, 4.2, 9) ---------------------------------------------------------------


class SMK(Key):
    """Subscriber management key (= MUK), the pre-shared key of LTKMs."""

    __slots__ = ()
    SIZES = (32,)


class SRK(Key):
    """Subscriber request key (= MRK), the password material of key requests."""

    __slots__ = ()
    SIZES = (32,)


class NafKey(Key):
    """A key that GBA derives for one application server: Ks_NAF, Ks_int_NAF or Ks_ext_NAF."""

    __slots__ = ()
    SIZES = (32,)


class RegistrationMacKey(Key):
    """The HMAC-SHA-256 key of a Smartcard registration push."""

    __slots__ = ()
    SIZES = (32,)


class K(Key):
    """Subscriber key of a SIM or USIM."""

    __slots__ = ()


class OPC(Key):
    """OPc, the operator variant of a SIM or USIM bound to its K."""

    __slots__ = ()


class CK(Key):
    """Cipher key from AKA."""

    __slots__ = ()


class IK(Key):
    """Integrity key from AKA."""

    __slots__ = ()


class EncrKey(Key):
    """AES-CM key: MIKEY encr_key, or an SRTP session encryption key."""

    __slots__ = ()


class SaltKey(Key):
    """112-bit salting key: MIKEY salt_key, or an SRTP session salt."""

    __slots__ = ()
    SIZES = (14,)


class AuthKey(Key):
    """HMAC-SHA-1 key: MIKEY auth_key, or an SRTP session authentication key."""

    __slots__ = ()
    SIZES = (20,)


# --- Storage ---------------------------------------------------------------------------------------------------------


class KEK(Key):
    """Key-encryption key: keys are stored and moved only wrapped under one (AES-128, -192 or -256)."""

    __slots__ = ()
    SIZES = (16, 24, 32)


MASTER_SALT_SIZE: Final = 14
"""The SRTP master salt travels in clear in a DRM STKM; it is public ``bytes``, not a ``Secret`` (drm-profile 1.1 row 12d)."""
