# SPDX-License-Identifier: Apache-2.0
"""What TLS and HTTP that failed are called, for the back end and the interaction channel: reasons, never what was sent (R41)."""

from __future__ import annotations

import logging
import ssl

import aiohttp


def failure(error: BaseException) -> str:
    """Why a question was not answered, without anything that was sent: aiohttp's own texts may repeat an answer."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {tls_reason(cause)}"
    certificate = getattr(error, "certificate_error", None)
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return f"TLS: {certificate.verify_message}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{type(error).__name__}: {cause.strerror}"
    return type(error).__name__


def tls_reason(error: ssl.SSLError) -> str:
    """Why TLS failed, in OpenSSL's words."""
    return getattr(error, "verify_message", None) or error.reason or type(error).__name__


def http_log(name: str, level: int) -> logging.Logger:
    """A logger for aiohttp's reports of broken HTTP: without what was sent, and at ``level``."""

    def strip(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args = f"HTTP that cannot be read: {type(error).__name__}" if error else "HTTP", ()
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = level, logging.getLevelName(level)
        return True

    log = logging.getLogger(name)
    if not log.filters:
        log.addFilter(strip)
    return log
