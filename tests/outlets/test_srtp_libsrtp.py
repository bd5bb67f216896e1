# SPDX-License-Identifier: Apache-2.0
"""libsrtp2 itself, with its own MKI and rollover counter, accepts our packets, and we accept its."""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import pytest

from pybcast.errors import Integrity, KeyUnavailable
from pybcast.outlets import SrtpProtector, SrtpUnprotector
from pybcast.secret import Secret

pytestmark = pytest.mark.requires_library("libsrtp2.so.1", package="libsrtp2-1")

SSRC: Final = 0x12345678
AES_ICM_128: Final = 1
HMAC_SHA1: Final = 3
CONFIDENTIALITY_AND_AUTHENTICATION: Final = 3
SPECIFIC_SSRC: Final = 1

Key = tuple[bytes, bytes, bytes]  # MKI, TEK, salt
KEYS: Final[tuple[Key, ...]] = tuple(
    (bytes.fromhex("00010002") + n.to_bytes(2), bytes([n] * 16), bytes([0x40 + n] * 14)) for n in (1, 2)
)


class CryptoPolicy(ctypes.Structure):
    """srtp_crypto_policy_t of libsrtp 2.x."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("cipher_type", ctypes.c_uint32), ("cipher_key_len", ctypes.c_int),
        ("auth_type", ctypes.c_uint32), ("auth_key_len", ctypes.c_int), ("auth_tag_len", ctypes.c_int),
        ("sec_serv", ctypes.c_int),
    ]  # fmt: skip


class MasterKey(ctypes.Structure):
    """srtp_master_key_t."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("key", ctypes.c_char_p), ("mki_id", ctypes.c_char_p), ("mki_size", ctypes.c_uint),
    ]  # fmt: skip


class Policy(ctypes.Structure):
    """srtp_policy_t."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("ssrc_type", ctypes.c_int), ("ssrc_value", ctypes.c_uint),
        ("rtp", CryptoPolicy), ("rtcp", CryptoPolicy),
        ("key", ctypes.c_char_p), ("keys", ctypes.POINTER(ctypes.POINTER(MasterKey))), ("num_master_keys", ctypes.c_ulong),
        ("deprecated_ekt", ctypes.c_void_p), ("window_size", ctypes.c_ulong), ("allow_repeat_tx", ctypes.c_int),
        ("enc_xtn_hdr", ctypes.c_void_p), ("enc_xtn_hdr_count", ctypes.c_int),
        ("next", ctypes.c_void_p),
    ]  # fmt: skip


@functools.cache
def libsrtp() -> ctypes.CDLL:
    """The library, which wants to be initialised once in a process."""
    library = ctypes.CDLL("libsrtp2.so.1")
    assert library.srtp_init() == 0
    return library


class Libsrtp:
    """One libsrtp session that holds several master keys, each with its MKI."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._library = libsrtp()
        masters = [MasterKey(key + salt, mki, len(mki)) for mki, key, salt in keys]
        pointers = (ctypes.POINTER(MasterKey) * len(masters))(*map(ctypes.pointer, masters))
        suite = CryptoPolicy(AES_ICM_128, 30, HMAC_SHA1, 20, 10, CONFIDENTIALITY_AND_AUTHENTICATION)
        policy = Policy(
            ssrc_type=SPECIFIC_SSRC, ssrc_value=SSRC, rtp=suite, rtcp=suite,
            keys=ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(MasterKey))), num_master_keys=len(masters), window_size=128,
        )  # fmt: skip
        self._session = ctypes.c_void_p()
        self._check(self._library.srtp_create(ctypes.byref(self._session), ctypes.byref(policy)))

    @staticmethod
    def _check(status: int) -> None:
        assert status == 0, f"libsrtp status {status}"

    def set_roc(self, roc: int) -> None:
        self._check(self._library.srtp_set_stream_roc(self._session, ctypes.c_uint32(SSRC), ctypes.c_uint32(roc)))

    def protect(self, rtp: bytes, key: int) -> bytes:
        buffer, size = ctypes.create_string_buffer(rtp, 2048), ctypes.c_int(len(rtp))
        self._check(self._library.srtp_protect_mki(self._session, buffer, ctypes.byref(size), ctypes.c_uint(1), ctypes.c_uint(key)))
        return buffer.raw[: size.value]

    def unprotect(self, srtp: bytes) -> bytes:
        buffer, size = ctypes.create_string_buffer(srtp, 2048), ctypes.c_int(len(srtp))
        self._check(self._library.srtp_unprotect_mki(self._session, buffer, ctypes.byref(size), ctypes.c_uint(1)))
        return buffer.raw[: size.value]

    def close(self) -> None:
        self._check(self._library.srtp_dealloc(self._session))


def rtp(index: int, payload: bytes = b"some media") -> bytes:
    return struct.pack(">BBHII", 0x80, 96, index & 0xFFFF, 7 * index & 0xFFFFFFFF, SSRC) + payload


# One stream: key 0, over the first wrap, key 1, over two more.
RUN: Final = [
    *((index, 0) for index in range(0xFFF0, 0x10005)),
    *((index, 1) for index in itertools.chain(range(0x10005, 0x10010), range(0x15000, 0x31000, 0x5000), range(0x31000, 0x31005))),
]


def test_libsrtp_accepts_our_packets() -> None:
    protector, receiver = SrtpProtector(), Libsrtp(KEYS)
    for index, key in RUN:
        mki, tek, salt = KEYS[key]
        protector.set_key(mki, Secret(tek), salt)
        assert receiver.unprotect(protector.protect(rtp(index))) == rtp(index)
    assert protector.roc == 3
    receiver.close()


def test_our_packets_are_libsrtps() -> None:
    protector, sender = SrtpProtector(), Libsrtp(KEYS)
    for index, key in RUN:
        mki, tek, salt = KEYS[key]
        protector.set_key(mki, Secret(tek), salt)
        assert protector.protect(rtp(index)) == sender.protect(rtp(index), key)
    sender.close()


def test_we_accept_libsrtps_packets() -> None:
    unprotector, sender = SrtpUnprotector(), Libsrtp(KEYS)
    for mki, tek, salt in KEYS:
        unprotector.add_key(mki, Secret(tek), salt)
    for index, key in RUN:
        assert unprotector.unprotect(sender.protect(rtp(index), key)) == rtp(index)
    sender.close()


@pytest.mark.parametrize("roc", [1, 40, 63])
def test_we_tune_in_to_libsrtp_late(roc: int) -> None:
    unprotector, sender = SrtpUnprotector(), Libsrtp(KEYS)
    mki, tek, salt = KEYS[0]
    unprotector.add_key(mki, Secret(tek), salt)
    sender.set_roc(roc)
    assert unprotector.unprotect(sender.protect(rtp(500), 0)) == rtp(500)
    with pytest.raises(KeyUnavailable, match=KEYS[1][0].hex()):
        unprotector.unprotect(sender.protect(rtp(501), 1))
    sender.close()


def test_beyond_the_tries_we_say_so() -> None:
    unprotector, sender = SrtpUnprotector(), Libsrtp(KEYS)
    mki, tek, salt = KEYS[0]
    unprotector.add_key(mki, Secret(tek), salt)
    sender.set_roc(64)
    with pytest.raises(Integrity, match="rollover"):
        unprotector.unprotect(sender.protect(rtp(500), 0))
    sender.close()
