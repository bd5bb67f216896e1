# SPDX-License-Identifier: Apache-2.0
"""libsrtp 2 through cffi: one session for one key and one SSRC (RFC 3711).  It knows MKIs and rollover counters.

It is opened when the first session is made; neither headers nor a compiler are needed.  Two copies of it are looked for: the one
inside pylibsrtp (extra ``media``), which has OpenSSL's ciphers, then the system's (Debian, Ubuntu: the package ``libsrtp2-1``).
The latter is built on NSS: it takes some 9 microseconds for a packet of 1,200 bytes instead of 3.5, and 1.3 ms for a new session.

The structures below are those of ``srtp.h``, the same in every version from 2.3 to 2.7.  A copy is used when its version is one of
libsrtp 2 and it makes a known packet.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import cffi

from pybcast.errors import ConfigError, CryptoError, Integrity, KeyUnavailable, Replay
from pybcast.secret import Secret

SYSTEM: Final = "libsrtp2.so.1"
MISSING: Final = (
    "SRTP needs libsrtp 2: pip install '.[media]' in pybcast's folder, or install the package libsrtp2-1 (Debian, Ubuntu)"
)
OLDEST: Final = (2, 3)  # Debian 11's; 2.0 has another structure of policies and no MKI
BEYOND: Final = (3, 0)  # which has another name and another interface
MAX_PACKET: Final = 65_535  # bytes: no datagram is larger
_GROWTH: Final = 144 + 4  # SRTP_MAX_TRAILER_LEN + 4, which srtp_protect may write behind the packet
_WINDOW: Final = 128  # packets that may come late: the library's own default
_KEY_SIZE: Final = 30  # TEK and salt

_AES_ICM_128: Final = 1
_HMAC_SHA1: Final = 3
_CONFIDENTIALITY_AND_AUTHENTICATION: Final = 3
_SPECIFIC_SSRC: Final = 1
_AUTH_FAIL: Final = 7
_REPLAYS: Final = {9: "this packet came before", 10: "this packet comes too late", 26: "this packet comes too late"}
_REASONS: Final = {3: "no memory", 8: "cipher failure", 15: "the key has protected too many packets"}

_FFI: Final = cffi.FFI()
_FFI.cdef("""
typedef struct {
    unsigned int cipher_type; int cipher_key_len;
    unsigned int auth_type; int auth_key_len; int auth_tag_len;
    int sec_serv;
} srtp_crypto_policy_t;
typedef struct { unsigned char *key; unsigned char *mki_id; unsigned int mki_size; } srtp_master_key_t;
typedef struct {
    int ssrc_type; unsigned int ssrc_value;
    srtp_crypto_policy_t rtp, rtcp;
    unsigned char *key; srtp_master_key_t **keys; unsigned long num_master_keys;
    void *deprecated_ekt; unsigned long window_size; int allow_repeat_tx;
    int *enc_xtn_hdr; int enc_xtn_hdr_count;
    void *next;
    unsigned char spare[64];  /* zeros, should a later version read further */
} srtp_policy_t;
unsigned int srtp_get_version(void);
int srtp_init(void);
int srtp_create(void **session, const srtp_policy_t *policy);
int srtp_dealloc(void *session);
int srtp_set_stream_roc(void *session, unsigned int ssrc, unsigned int roc);
int srtp_protect_mki(void *session, void *packet, int *size, unsigned int use_mki, unsigned int mki_index);
int srtp_unprotect_mki(void *session, void *packet, int *size, unsigned int use_mki);
""")

_dlopen: Final = _FFI.dlopen
_FUNCTIONS: Final = (
    "srtp_init", "srtp_create", "srtp_dealloc", "srtp_set_stream_roc", "srtp_protect_mki", "srtp_unprotect_mki",
)  # fmt: skip

# A packet of libsrtp's own, which OpenSSL makes too (tests/vectors/srtp.json).
_KNOWN_TEK: Final = bytes.fromhex("acce8f4667124b81be9935159656389a")
_KNOWN_SALT: Final = bytes.fromhex("50b59f9e5ea6268102c431eb47c5")
_KNOWN_MKI: Final = bytes.fromhex("00010002")
_KNOWN_ROC: Final = 65_536
_KNOWN_RTP: Final = bytes.fromhex("806001cf018af7cade9732a6497712")
_KNOWN_SRTP: Final = bytes.fromhex("806001cf018af7cade9732a6a35454000100029d32826283da9d434710")


class Buffer:
    """Room in which packets are converted, one after the other: not for several threads at once."""

    __slots__ = ("packet", "size")

    def __init__(self) -> None:
        self.packet = _FFI.new("char[]", MAX_PACKET + _GROWTH)
        self.size = _FFI.new("int *")


class Session:
    """A key for one SSRC in one direction: AES-128-CM, HMAC-SHA1-80, the MKI in each packet.

    The first packet is taken for one of rollover counter ``roc``; the library counts on from there.
    """

    __slots__ = ("_buffer", "_handle", "_library")

    def __init__(self, library: Any, buffer: Buffer, ssrc: int, mki: bytes, tek: Secret, salt: bytes, roc: int = 0) -> None:
        self._library, self._buffer = library, buffer
        # The destructor holds the library: closed before its last session was freed, it would take the process along.
        self._handle = _FFI.gc(_create(library, ssrc, mki, tek, salt), lambda handle: library.srtp_dealloc(handle))
        if status := library.srtp_set_stream_roc(self._handle, ssrc, roc):
            _refuse(status)

    def protect(self, rtp: bytes) -> bytes:
        """SRTP || MKI || tag.  ``Replay`` for a packet that was protected before, or is too old."""
        packet, size, length = self._buffer.packet, self._buffer.size, len(rtp)
        _FFI.memmove(packet, rtp, length)
        size[0] = length
        if status := self._library.srtp_protect_mki(self._handle, packet, size, 1, 0):
            _refuse(status)
        done: bytes = _FFI.unpack(packet, size[0])
        return done

    def unprotect(self, srtp: bytes) -> bytes:
        """The RTP packet.  ``Integrity`` when its tag is wrong, ``Replay`` for one that came before, or is too old."""
        packet, size, length = self._buffer.packet, self._buffer.size, len(srtp)
        _FFI.memmove(packet, srtp, length)
        size[0] = length
        if status := self._library.srtp_unprotect_mki(self._handle, packet, size, 1):
            _refuse(status)
        done: bytes = _FFI.unpack(packet, size[0])
        return done

    def close(self) -> None:
        """Free the session: the library overwrites its keys.  It is of no use afterwards."""
        _FFI.release(self._handle)


@functools.cache
def load() -> Any:
    """The library, opened once.  ``ConfigError`` when there is none that can be used."""
    found = ""
    for name in copies():
        try:
            return open_copy(name)
        except OSError:
            pass
        except ConfigError as error:
            found = found or f" ({error})"
    raise ConfigError(MISSING + found)


def copies() -> Iterator[str]:
    """Where libsrtp may be, the fastest first."""
    wrapper = importlib.util.find_spec("pylibsrtp")
    for folder in (wrapper and wrapper.submodule_search_locations) or ():
        yield from map(str, sorted(Path(folder).glob("_binding*.so")))
    yield SYSTEM


def open_copy(name: str) -> Any:
    """One copy of the library.  ``OSError`` when it is not there, ``ConfigError`` when it is another or does not work."""
    library = _dlopen(name)
    try:
        version = library.srtp_get_version()
        for function in _FUNCTIONS:
            getattr(library, function)
    except AttributeError:
        raise ConfigError(f"{name} lacks functions of libsrtp") from None
    major, minor = version >> 24, version >> 16 & 0xFF
    if not OLDEST <= (major, minor) < BEYOND:
        raise ConfigError(f"{name} is libsrtp {major}.{minor}, not 2.3 or a later 2")
    library.srtp_init()  # it refuses when another user in this process came first; the known packet tells whether it works
    if not _makes_the_known_packet(library):
        raise ConfigError(f"{name}, libsrtp {major}.{minor}, does not protect a known packet as it should")
    return library


def _makes_the_known_packet(library: Any) -> bool:
    ssrc, buffer = int.from_bytes(_KNOWN_RTP[8:12]), Buffer()
    tek = Secret(_KNOWN_TEK)
    try:
        ours, theirs = (Session(library, buffer, ssrc, _KNOWN_MKI, tek, _KNOWN_SALT, _KNOWN_ROC) for _ in range(2))
        return ours.protect(_KNOWN_RTP) == _KNOWN_SRTP and theirs.unprotect(_KNOWN_SRTP) == _KNOWN_RTP
    except CryptoError:
        return False


def _create(library: Any, ssrc: int, mki: bytes, tek: Secret, salt: bytes) -> Any:
    """A session of the library's.  The master key lies in our memory only while this runs."""
    if tek.wiped:
        raise KeyUnavailable(mki.hex())
    key = _FFI.new("unsigned char[]", _KEY_SIZE)
    name = _FFI.new("unsigned char[]", mki)
    master = _FFI.new("srtp_master_key_t *", {"key": key, "mki_id": name, "mki_size": len(mki)})
    masters = _FFI.new("srtp_master_key_t *[]", [master])
    suite = {
        "cipher_type": _AES_ICM_128, "cipher_key_len": _KEY_SIZE, "auth_type": _HMAC_SHA1, "auth_key_len": 20, "auth_tag_len": 10,
        "sec_serv": _CONFIDENTIALITY_AND_AUTHENTICATION,
    }  # fmt: skip
    policy = _FFI.new("srtp_policy_t *", {"ssrc_type": _SPECIFIC_SSRC, "ssrc_value": ssrc, "rtp": suite, "rtcp": suite})
    policy.keys, policy.num_master_keys, policy.window_size = masters, 1, _WINDOW
    handle = _FFI.new("void **")
    try:
        _FFI.memmove(key, tek._buffer, len(tek))  # where it lies: a copy could not be wiped
        _FFI.memmove(key + len(tek), salt, len(salt))
        if status := library.srtp_create(handle, policy):
            _refuse(status)
    finally:
        _FFI.memmove(key, bytes(_KEY_SIZE), _KEY_SIZE)
    return handle[0]


def _refuse(status: int) -> NoReturn:
    if status == _AUTH_FAIL:
        raise Integrity
    if reason := _REPLAYS.get(status):
        raise Replay(reason)
    raise CryptoError(f"libsrtp: {_REASONS.get(status, f'status {status}')}")
