# SPDX-License-Identifier: Apache-2.0
"""Certificates that their authority has taken back: the list in a file (CRL, RFC 5280), and when that file has changed.

OpenSSL compares the list in each handshake; connections that are open already are compared here.  A list is read whole and checked
before it is used, so that a broken one never takes the place of one that works.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from pybcast.errors import ConfigError

MAX_LIST: Final = 16 << 20  # octets of a file: some 400,000 entries - confidence: own
LOOK: Final = 1.0  # seconds between two looks whether a file has changed - confidence: own
_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True)
class RevocationList:
    """What one file says.

    ``entries``: issuer's name in DER -> serial numbers.  ``ends``: from when on OpenSSL lets nobody in without a newer list;
    ``renew``: when that should be said, a quarter of the list's life before, at most a day.
    """

    entries: Mapping[bytes, frozenset[int]]
    ends: datetime
    renew: datetime

    @classmethod
    def read(cls, path: Path, authority: Path, now: datetime | None = None) -> RevocationList:
        """The lists in a PEM file, one for each authority that has one.

        ``ConfigError`` names the file when it cannot be read, holds no list or a broken one, or one that is not by an authority of
        ``authority``, is for later, has ended, or covers only a part of the certificates.
        """
        now = now or datetime.now(UTC)
        issuers = {found.subject: found for found in _authorities(authority)}
        blocks = _BLOCK.findall(_content(path))
        if not blocks:
            raise ConfigError(f"{path}: expected a certificate revocation list in PEM")
        entries: dict[bytes, frozenset[int]] = {}
        ends: list[tuple[datetime, datetime]] = []
        for block in blocks:
            try:
                found = x509.load_pem_x509_crl(block)
                _check(path, found, issuers, now)
                issuer = found.issuer.public_bytes()
                entries[issuer] = entries.get(issuer, frozenset()) | {row.serial_number for row in found}
            except (ValueError, TypeError, UnsupportedAlgorithm):
                raise ConfigError(f"{path}: a certificate revocation list that cannot be read") from None
            assert found.next_update_utc is not None
            end = found.next_update_utc
            ends.append((end, end - min((end - found.last_update_utc) / 4, timedelta(days=1))))
        return cls(entries, *min(ends))

    def holds(self, certificate: bytes) -> bool:
        """Whether a certificate (DER) was taken back; one that cannot be read counts as such."""
        try:
            found = x509.load_der_x509_certificate(certificate)
            return found.serial_number in self.entries.get(found.issuer.public_bytes(), ())
        except ValueError:
            return True


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_LIST:
        raise ConfigError(f"{path}: more than {MAX_LIST} octets")
    return data


def _authorities(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_content(path))
    except ValueError:
        raise ConfigError(f"{path}: expected certificates in PEM") from None


def _check(path: Path, found: x509.CertificateRevocationList, issuers: dict[x509.Name, x509.Certificate], now: datetime) -> None:
    issuer = issuers.get(found.issuer)
    if issuer is None:
        raise ConfigError(f"{path}: the revocation list is by none of the authorities")
    if not found.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]  # a key that cannot sign is a TypeError
        raise ConfigError(f"{path}: the signature of the revocation list is wrong")
    if found.last_update_utc > now:
        raise ConfigError(f"{path}: the revocation list is for later, from {_shown(found.last_update_utc)} on")
    if found.next_update_utc is None or found.next_update_utc <= now:
        ended = "has no end" if found.next_update_utc is None else f"ended at {_shown(found.next_update_utc)}"
        raise ConfigError(f"{path}: the revocation list {ended}: a newer one is needed")
    if any(extension.critical for extension in found.extensions):  # for a part of the certificates, or a list of changes
        raise ConfigError(f"{path}: expected a full revocation list, found one of a part or of changes")


def _shown(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


class Watched:
    """Says whether one of some files has changed; looks at most once in ``LOOK`` seconds.  ``monotonic``: never goes back."""

    def __init__(self, paths: Iterable[Path], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._stamps = {path: _stamp(path) for path in paths}
        self._next = monotonic() + LOOK

    def changed(self) -> bool:
        """Whether a file is another than at the last call, or is gone, or is there again."""
        if not self._stamps or self._monotonic() < self._next:
            return False
        self._next = self._monotonic() + LOOK
        found = {path: _stamp(path) for path in self._stamps}
        before, self._stamps = self._stamps, found
        return found != before


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
