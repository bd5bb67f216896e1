# SPDX-License-Identifier: Apache-2.0
"""TLS contexts from files, for the back end and the interaction channel: 1.2 or later (R26, R35)."""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pybcast.errors import ConfigError
from pybcast.https.revocation import RevocationList

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # confidence: own - in TLS 1.2: forward secrecy and AEAD, as in 1.3


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files of one party: its certificate (chain, leaf first), its key, and the authorities that it believes.

    ``crl``: certificates that these authorities have taken back; without it nobody looks.
    """

    certificate: Path
    key: Path
    authority: Path
    crl: Path | None = None


class Context(ssl.SSLContext):
    """TLS settings.  ``revoked``: the certificates that are not believed any more."""

    revoked: RevocationList | None = None


def server_context(files: TlsFiles) -> Context:
    """TLS for listening, with a client certificate (R26).  ``ConfigError`` names the file that does not fit."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files.authority, files.crl, files.certificate, files.key)


def client_context(files: TlsFiles) -> Context:
    """TLS for asking a back-end peer, with our certificate.

    Names are compared by the client itself, against the peer's configured one (:mod:`pybcast.backend.identity`): a host name says
    nothing about which server of an operator this is.  ``ConfigError`` names the file that does not fit.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files.authority, files.crl, files.certificate, files.key)


def terminal_context(
    authority: Path, certificate: Path | None = None, key: Path | None = None, *, crl: Path | None = None
) -> Context:
    """TLS for a terminal, which compares the BSM's host name.

    ``authority``: of those who certify the BSM; ``certificate``, ``key``: a DRM terminal's own.  ``ConfigError`` names the file
    that does not fit.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, authority, crl, certificate, key)
    context.check_hostname = True
    return context


def _context(protocol: int, authority: Path, crl: Path | None, certificate: Path | None, key: Path | None) -> Context:
    context = Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if certificate is not None:
        _own(context, certificate, key or certificate)
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{authority}: {_reason(error)}") from None
    if crl is not None:
        context.revoked = RevocationList.read(crl, authority)
        try:
            context.load_verify_locations(crl)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{crl}: {_reason(error)}") from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        mode = key.stat().st_mode
        if mode & stat.S_IRWXO:
            raise ConfigError(f"{key}: everyone may read this key (mode {stat.S_IMODE(mode):04o}); expected 0600")
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(f"{certificate} with {key}: {_reason(error)}") from None
    except OSError as error:
        missing = key if certificate.exists() else certificate
        raise ConfigError(f"{missing}: {error.strerror}") from None


def _reason(error: OSError) -> str:
    return (error.reason or "not usable") if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__


def _no_password() -> str:
    # OpenSSL would ask the terminal, and a server without one would hang.
    raise ConfigError("encrypted keys are not supported")
