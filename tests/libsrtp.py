# SPDX-License-Identifier: Apache-2.0
"""libsrtp2 through ctypes, for tests: what its Python wrapper does not reach - MKI, rollover counter, the 4-byte tag.

A test that uses it says so: ``@pytest.mark.requires_library(LIBRARY, package=PACKAGE)``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

LIBRARY: Final = "libsrtp2.so.1"
PACKAGE: Final = "libsrtp2-1"

Key = tuple[bytes, bytes, bytes]
"""MKI (empty: packets carry none), TEK, salt."""

_AES_ICM_128: Final = 1
_HMAC_SHA1: Final = 3
_CONFIDENTIALITY_AND_AUTHENTICATION: Final = 3
_SPECIFIC_SSRC: Final = 1
_ROOM: Final = 256  # bytes that a packet may grow by


class SrtpError(Exception):
    """libsrtp refused; ``status`` is its ``srtp_err_status_t``."""

    def __init__(self, status: int) -> None:
        super().__init__(f"libsrtp status {status}")
        self.status = status


AUTH_FAIL: Final = 7


class _CryptoPolicy(ctypes.Structure):
    """srtp_crypto_policy_t of libsrtp 2.x."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("cipher_type", ctypes.c_uint32), ("cipher_key_len", ctypes.c_int),
        ("auth_type", ctypes.c_uint32), ("auth_key_len", ctypes.c_int), ("auth_tag_len", ctypes.c_int),
        ("sec_serv", ctypes.c_int),
    ]  # fmt: skip


class _MasterKey(ctypes.Structure):
    """srtp_master_key_t."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("key", ctypes.c_char_p), ("mki_id", ctypes.c_char_p), ("mki_size", ctypes.c_uint),
    ]  # fmt: skip


class _Policy(ctypes.Structure):
    """srtp_policy_t."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("ssrc_type", ctypes.c_int), ("ssrc_value", ctypes.c_uint),
        ("rtp", _CryptoPolicy), ("rtcp", _CryptoPolicy),
        ("key", ctypes.c_char_p), ("keys", ctypes.POINTER(ctypes.POINTER(_MasterKey))), ("num_master_keys", ctypes.c_ulong),
        ("deprecated_ekt", ctypes.c_void_p), ("window_size", ctypes.c_ulong), ("allow_repeat_tx", ctypes.c_int),
        ("enc_xtn_hdr", ctypes.c_void_p), ("enc_xtn_hdr_count", ctypes.c_int),
        ("next", ctypes.c_void_p),
    ]  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL:
    """The library, initialised once in a process."""
    library = ctypes.CDLL(LIBRARY)
    library.srtp_init()  # it refuses when another user in this process came first
    return library


def _check(status: int) -> None:
    if status:
        raise SrtpError(status)


class Session:
    """One libsrtp session for one SSRC, one direction: AES-128-CM, HMAC-SHA1, several master keys when each has its MKI."""

    def __init__(self, keys: Sequence[Key], ssrc: int, tag: int = 10) -> None:
        self._library = _library()
        self._ssrc = ctypes.c_uint32(ssrc)
        self._use_mki = ctypes.c_uint(any(mki for mki, _, _ in keys))
        suite = _CryptoPolicy(_AES_ICM_128, 30, _HMAC_SHA1, 20, tag, _CONFIDENTIALITY_AND_AUTHENTICATION)
        policy = _Policy(ssrc_type=_SPECIFIC_SSRC, ssrc_value=ssrc, rtp=suite, rtcp=suite, window_size=128)
        if self._use_mki.value:
            masters = [_MasterKey(tek + salt, mki, len(mki)) for mki, tek, salt in keys]
            pointers = (ctypes.POINTER(_MasterKey) * len(masters))(*map(ctypes.pointer, masters))
            policy.keys = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(_MasterKey)))
            policy.num_master_keys = len(masters)
        else:
            ((_, tek, salt),) = keys
            policy.key = tek + salt
        self._session = ctypes.c_void_p()
        _check(self._library.srtp_create(ctypes.byref(self._session), ctypes.byref(policy)))

    def set_roc(self, roc: int) -> None:
        """The rollover counter that the next packet has."""
        _check(self._library.srtp_set_stream_roc(self._session, self._ssrc, ctypes.c_uint32(roc)))

    def protect(self, rtp: bytes, key: int = 0) -> bytes:
        """SRTP under the ``key``-th of the master keys.  Raises ``SrtpError``."""
        buffer, size = ctypes.create_string_buffer(rtp, len(rtp) + _ROOM), ctypes.c_int(len(rtp))
        number = ctypes.c_uint(key)
        _check(self._library.srtp_protect_mki(self._session, buffer, ctypes.byref(size), self._use_mki, number))
        return buffer.raw[: size.value]

    def unprotect(self, srtp: bytes) -> bytes:
        """RTP under the master key that the MKI names.  Raises ``SrtpError``."""
        buffer, size = ctypes.create_string_buffer(srtp, len(srtp) + _ROOM), ctypes.c_int(len(srtp))
        _check(self._library.srtp_unprotect_mki(self._session, buffer, ctypes.byref(size), self._use_mki))
        return buffer.raw[: size.value]

    def close(self) -> None:
        """Free the session and the keys in it."""
        _check(self._library.srtp_dealloc(self._session))


@contextmanager
def session(keys: Sequence[Key], ssrc: int, tag: int = 10) -> Generator[Session, None, None]:
    """A session that is closed in the end, also after a failed assertion."""
    opened = Session(keys, ssrc, tag)
    try:
        yield opened
    finally:
        opened.close()
