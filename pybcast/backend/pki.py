# SPDX-License-Identifier: Apache-2.0
"""A small certificate authority of one's own, for tests and first steps.

The authority is for trying things out; its key lies in the same folder.  ECDSA P-256 with SHA-256, X.509 v3.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pybcast.backend.xml import is_uri
from pybcast.errors import ConfigError
from pybcast.https.contexts import TlsFiles

HOSTS: Final = ("localhost", "127.0.0.1", "::1")
AUTHORITY_DAYS: Final = 3650
LEAF_DAYS: Final = 825  # of a test certificate: what common verifiers accept of a private authority
LIST_DAYS: Final = 365  # of a test revocation list: after that it must be made anew
BACKDATE: Final = timedelta(hours=1)  # of a test certificate: two servers' clocks may differ


def init(directory: Path, parties: Mapping[str, str], *, hosts: Iterable[str] = HOSTS, now: datetime | None = None) -> list[Path]:
    """A new test authority in ``directory`` and a certificate for each party: what ``pybcast pki init`` does.

    ``parties``: file name -> id of the server (absolute URI, the certificate's SAN).  Writes ``ca.pem``, ``ca-key.pem`` and for
    each party ``NAME.pem``, ``NAME-key.pem``, all with mode 0600.  Returns them.  ``ConfigError`` when one exists already or
    cannot be written; none is ever overwritten.
    """
    now = now or datetime.now(UTC)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = [f"{name}{end}" for name in ("ca", *parties) for end in (".pem", "-key.pem")]
    if existing := [name for name in names if (directory / name).exists()]:
        raise ConfigError(f"{directory}: {', '.join(existing)} exists already")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pybcast test authority")])
    public = key.public_key()
    certificate = (
        _builder(subject, subject, public, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = [*_write(directory, "ca", certificate, key)]
    for name, peer_id in parties.items():
        files += issue(directory, name, peer_id, hosts=hosts, now=now)
    return files


def issue(
    directory: Path,
    name: str,
    peer_id: str,
    *,
    hosts: Iterable[str] = HOSTS,
    days: int = LEAF_DAYS,
    now: datetime | None = None,
    listens: bool = True,
) -> list[Path]:
    """One more certificate by the test authority in ``directory``: files ``NAME.pem`` and ``NAME-key.pem``, mode 0600.

    For both directions (server and client), or where it does not ``listen``, as a terminal, for a client.  SAN: ``peer_id`` as
    URI, and ``hosts`` (names or addresses).
    """
    if not is_uri(peer_id):
        raise ConfigError(f"{name}: {peer_id!r} is not an absolute URI")
    authority, signer = _authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(peer_id)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if listens else [])
    certificate = (
        _builder(subject, authority.subject, public, now or datetime.now(UTC), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _write(directory, name, certificate, key)


def revoke(directory: Path, names: Iterable[str] = (), *, days: int = LIST_DAYS, now: datetime | None = None) -> Path:
    """Take certificates back: what ``pybcast pki revoke`` does.  Returns the list, ``crl.pem``, which is made or made anew.

    ``names``: of the files that :func:`init` and :func:`issue` wrote.  What was in the list before stays in it; without names only
    its ``days`` begin again.  ``ConfigError`` for a name without a certificate of this authority, and a list that is another's.
    """
    now = now or datetime.now(UTC)
    authority, signer = _authority(directory)
    path = directory / "crl.pem"
    before = _listed(path, authority)
    taken = {found.serial_number: found for found in before}
    for name in names:
        file = directory / f"{name}.pem"
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
            certificate.verify_directly_issued_by(authority)
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except (ValueError, TypeError, InvalidSignature):
            raise ConfigError(f"{file}: expected a certificate of this authority") from None
        serial = certificate.serial_number
        taken.setdefault(serial, x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - BACKDATE)
        .next_update(now + timedelta(days=days))
    )
    for row in taken.values():
        builder = builder.add_revoked_certificate(row)
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = builder.add_extension(key_id, critical=False).sign(signer, hashes.SHA256())
    try:
        handle, name = tempfile.mkstemp(prefix=".crl.", dir=directory)
        with os.fdopen(handle, "wb") as out:
            out.write(made.public_bytes(serialization.Encoding.PEM))
        Path(name).rename(path)  # a server that looks now sees the old list or the new one
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return path


def _listed(path: Path, authority: x509.Certificate) -> list[x509.RevokedCertificate]:
    try:
        found = x509.load_pem_x509_crl(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        raise ConfigError(f"{path}: expected a revocation list; nothing is written over another file") from None
    if found.issuer != authority.subject:
        raise ConfigError(f"{path}: the revocation list is another authority's")
    return list(found)


def _authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        signer = serialization.load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory}: no test authority ({type(error).__name__}): run `pybcast pki init` first") from None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{directory / 'ca-key.pem'}: expected an elliptic-curve key")
    return authority, signer


def files_of(directory: Path, name: str) -> TlsFiles:
    """The files that :func:`init` and :func:`issue` wrote for a party."""
    return TlsFiles(certificate=directory / f"{name}.pem", key=directory / f"{name}-key.pem", authority=directory / "ca.pem")


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> list[Path]:
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = [directory / f"{name}.pem", directory / f"{name}-key.pem"]
    for path, data in zip(files, (certificate.public_bytes(pem), secret), strict=True):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        with os.fdopen(handle, "wb") as out:
            out.write(data)
    return files
