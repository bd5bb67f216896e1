# SPDX-License-Identifier: Apache-2.0
"""libsrtp2 itself, with its own MKI and rollover counter, accepts our packets, and we accept its."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Generator
from typing import Final

import libsrtp
import pytest

from pybcast.errors import Integrity, KeyUnavailable
from pybcast.outlets import SrtpProtector, SrtpUnprotector
from pybcast.secret import Secret

pytestmark = pytest.mark.requires_library(libsrtp.LIBRARY, package=libsrtp.PACKAGE)

SSRC: Final = 0x12345678
KEYS: Final[tuple[libsrtp.Key, ...]] = tuple(
    (bytes.fromhex("00010002") + n.to_bytes(2), bytes([n] * 16), bytes([0x40 + n] * 14)) for n in (1, 2)
)


@pytest.fixture
def other() -> Generator[libsrtp.Session, None, None]:
    """A libsrtp session that holds both keys, each with its MKI."""
    with libsrtp.session(KEYS, SSRC) as session:
        yield session


def rtp(index: int, payload: bytes = b"some media") -> bytes:
    return struct.pack(">BBHII", 0x80, 96, index & 0xFFFF, 7 * index & 0xFFFFFFFF, SSRC) + payload


# One stream: key 0, over the first wrap, key 1, over two more.
RUN: Final = [
    *((index, 0) for index in range(0xFFF0, 0x10005)),
    *((index, 1) for index in itertools.chain(range(0x10005, 0x10010), range(0x15000, 0x31000, 0x5000), range(0x31000, 0x31005))),
]


def test_libsrtp_accepts_our_packets(other: libsrtp.Session) -> None:
    protector = SrtpProtector()
    for index, key in RUN:
        mki, tek, salt = KEYS[key]
        protector.set_key(mki, Secret(tek), salt)
        assert other.unprotect(protector.protect(rtp(index))) == rtp(index)
    assert protector.roc == 3


def test_our_packets_are_libsrtps(other: libsrtp.Session) -> None:
    protector = SrtpProtector()
    for index, key in RUN:
        mki, tek, salt = KEYS[key]
        protector.set_key(mki, Secret(tek), salt)
        assert protector.protect(rtp(index)) == other.protect(rtp(index), key)


def test_we_accept_libsrtps_packets(other: libsrtp.Session) -> None:
    unprotector = SrtpUnprotector()
    for mki, tek, salt in KEYS:
        unprotector.add_key(mki, Secret(tek), salt)
    for index, key in RUN:
        assert unprotector.unprotect(other.protect(rtp(index), key)) == rtp(index)


@pytest.mark.parametrize("roc", [1, 40, 63])
def test_we_tune_in_to_libsrtp_late(roc: int, other: libsrtp.Session) -> None:
    unprotector = SrtpUnprotector()
    mki, tek, salt = KEYS[0]
    unprotector.add_key(mki, Secret(tek), salt)
    other.set_roc(roc)
    assert unprotector.unprotect(other.protect(rtp(500), 0)) == rtp(500)
    with pytest.raises(KeyUnavailable, match=KEYS[1][0].hex()):
        unprotector.unprotect(other.protect(rtp(501), 1))


def test_beyond_the_tries_we_say_so(other: libsrtp.Session) -> None:
    unprotector = SrtpUnprotector()
    mki, tek, salt = KEYS[0]
    unprotector.add_key(mki, Secret(tek), salt)
    other.set_roc(64)
    with pytest.raises(Integrity, match="rollover"):
        unprotector.unprotect(other.protect(rtp(500), 0))
