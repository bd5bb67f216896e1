# SPDX-License-Identifier: Apache-2.0
"""Certificates of rights issuers (rules R23): chain, dates, and the issuer id that is the hash of a public key."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from pybcast.codec._common import Lenient
from pybcast.errors import BadLength, BadValue, Integrity, Unsupported

MIN_RSA_BITS: Final = 2048
"""Smaller moduli are within reach of an attacker with money; 1024 is read only with the leniency ``rsa-1024`` (rules R23)."""

MAX_CHAIN: Final = 8
"""Certificates in a chain; deeper ones are not seen in practice, and each costs a public-key operation."""

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the certificate parser raises for bytes that are no usable certificate; not all of it is a ``ValueError``."""

_HASHES: Final = ("sha1", "sha256", "sha384", "sha512")
_NTP_EPOCH: Final = datetime(1900, 1, 1, tzinfo=UTC)


def rights_issuer_id(key: RSAPublicKey) -> bytes:
    """The 20-byte id of a rights issuer: SHA-1 of the DER SubjectPublicKeyInfo (drm-profile 2.1; sure)."""
    return hashlib.sha1(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def check_rsa_size(key: RSAPublicKey, field: str, lenient: Lenient, offset: int | None = None) -> None:
    """``Unsupported`` for an RSA key that is too short."""
    smallest = 1024 if "rsa-1024" in lenient else MIN_RSA_BITS
    if key.key_size < smallest:
        raise Unsupported(offset, field, f"an RSA key of at least {smallest} bits", f"{key.key_size} bits")


def load_certificate(der: bytes, field: str, offset: int | None = None) -> tuple[x509.Certificate, RSAPublicKey]:
    """A certificate and its RSA key.  ``BadValue`` for what is no certificate, ``Unsupported`` for another kind of key."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # a serial number below 1 is refused right below
            certificate = x509.load_der_x509_certificate(der)
            positive = certificate.serial_number > 0
    except _UNREADABLE:
        raise BadValue(offset, field, "a DER certificate", f"{len(der)} other bytes") from None
    if not positive:
        raise BadValue(offset, field, "a serial number above 0 (RFC 5280 4.1.2.2)", "another")
    try:
        key = certificate.public_key()
    except _UNREADABLE:
        raise Unsupported(offset, field, "an RSA key", "an unknown key") from None
    if not isinstance(key, RSAPublicKey):
        raise Unsupported(offset, field, "an RSA key", "another kind of key")
    return certificate, key


def verify_chain(certificates: Sequence[bytes], anchors: Sequence[bytes], at: int, *, lenient: Lenient = ()) -> RSAPublicKey:
    """The leaf's public key, after the chain has been followed from it to a configured anchor (rules R23).

    ``certificates``: DER, leaf first, each signed by the next, the last one signed by an anchor or itself an anchor.  ``anchors``:
    DER certificates, trusted because configured; their dates count too.  ``at``: the moment, NTP seconds (64-bit).  Issuers must be
    certification authorities, and a path length limit holds.  Revocation is not looked at.

    ``Integrity`` when the chain does not hold; ``BadLength``, ``BadValue`` or ``Unsupported`` name a certificate that cannot be
    used.
    """
    if not 1 <= len(certificates) <= MAX_CHAIN:
        raise BadLength(None, "certificates", f"1..{MAX_CHAIN}", str(len(certificates)))
    chain = [load_certificate(der, f"certificates[{i}]") for i, der in enumerate(certificates)]
    for i, (_, key) in enumerate(chain):
        check_rsa_size(key, f"certificates[{i}]", lenient)
    if certificates[-1] not in anchors:
        chain.append(_anchor_of(chain[-1][0], anchors))
    try:
        now = _NTP_EPOCH + timedelta(seconds=at)
    except OverflowError:
        raise Integrity from None  # beyond the year 9999, where no certificate is in date
    for certificate, _ in chain:
        if not _in_date(certificate, now):
            raise Integrity
    for below, ((subject, _), (issuer, _)) in enumerate(pairwise(chain)):
        if not (_may_issue(issuer, below) and _issued(subject, issuer)):
            raise Integrity
    return chain[0][1]


def _in_date(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _anchor_of(last: x509.Certificate, anchors: Sequence[bytes]) -> tuple[x509.Certificate, RSAPublicKey]:
    for i, der in enumerate(anchors):
        anchor = load_certificate(der, f"anchors[{i}]")
        if _issued(last, anchor[0]):
            return anchor
    raise Integrity


def _issued(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        algorithm = subject.signature_hash_algorithm
        subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNREADABLE):
        return False
    return algorithm is not None and algorithm.name in _HASHES


def _may_issue(issuer: x509.Certificate, below: int) -> bool:
    """Whether ``issuer`` is an authority that may have ``below`` further authorities between itself and the leaf."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except _UNREADABLE:
        return False
    return constraints.ca and (constraints.path_length is None or below <= constraints.path_length)
