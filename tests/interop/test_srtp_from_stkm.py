# SPDX-License-Identifier: Apache-2.0
"""Traffic keys that terminals obtain from STKMs protect and open RTP in libsrtp, directly and through pylibsrtp.

One stream on air in both profiles, so one TEK and salt announced twice (rules R38); the keys go the whole way, from the encoder's
input over sealed STKMs to the terminals.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any, Final

import libsrtp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pylibsrtp import Policy, Session
from stream_keys import PERIODS, Generation, StreamKeys, run

from pybcast.errors import KeyUnavailable
from pybcast.flows import TekReady, UseKey
from pybcast.keys import TEK, srtp_session_keys
from pybcast.messages import Protocol
from pybcast.outlets import SrtpProtector, SrtpUnprotector
from pybcast.secret import Secret

requires_libsrtp = pytest.mark.requires_library(libsrtp.LIBRARY, package=libsrtp.PACKAGE)

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "srtp.json").read_text("utf-8"))["vectors"]
SSRC: Final = 0xCAFEBABE
FIRST: Final = 65_500  # the packet index passes the first wrap under the second third of the keys
PER_KEY: Final = 7
SOME: Final = slice(5, 21)  # 16 keys, as many as libsrtp holds for a stream, on both sides of a rollover of SEK and SEAK


def rtp(index: int) -> bytes:
    return struct.pack(">BBHII", 0x80, 96, index & 0xFFFF, 3000 * index & 0xFFFFFFFF, SSRC) + b"picture %d" % index


def key(held: UseKey | TekReady) -> libsrtp.Key:
    assert held.salt is not None
    return held.mki, held.tek.reveal(), held.salt


def secret_key(held: UseKey | TekReady) -> tuple[bytes, Secret, bytes]:
    mki, tek, salt = key(held)
    return mki, Secret(tek), salt


@pytest.fixture(scope="module", params=["bsm", "bsda"], ids=["F3", "F4"])
def stream(request: pytest.FixtureRequest) -> StreamKeys:
    generation: Generation = request.param
    return run(("drm", "smartcard"), Protocol.SRTP, generation)


@pytest.fixture(params=["drm", "smartcard"])
def terminal(request: pytest.FixtureRequest, stream: StreamKeys) -> list[TekReady]:
    """What the terminal of a profile holds of the encoder's keys, in their order."""
    return [stream.ready[request.param][use.mki] for use in stream.used]


def test_every_key_arrives_under_the_name_it_has_on_air(stream: StreamKeys, terminal: list[TekReady]) -> None:
    assert len(terminal) == PERIODS
    assert [key(ready) for ready in terminal] == [key(use) for use in stream.used]
    assert len({use.mki for use in stream.used}) == len({use.tek.reveal() for use in stream.used}) == PERIODS
    assert {len(use.mki) for use in stream.used} == {6}  # SEK ID || TEK ID
    assert {use.mki[2:4] for use in stream.used} == {b"\0\1", b"\0\2", b"\0\3"}  # key numbers: two rollovers


@requires_libsrtp
def test_libsrtp_opens_what_the_encoder_sends(stream: StreamKeys, terminal: list[TekReady]) -> None:
    protector = SrtpProtector()
    with libsrtp.session([key(ready) for ready in terminal[SOME]], SSRC) as receiver:
        for number, use in enumerate(stream.used[SOME]):
            protector.set_key(*secret_key(use))
            for index in range(FIRST + number * PER_KEY, FIRST + (number + 1) * PER_KEY):
                packet = protector.protect(rtp(index))
                assert packet[-16:-10] == use.mki
                assert receiver.unprotect(packet) == rtp(index)
    assert protector.roc == 1


@requires_libsrtp
def test_the_terminal_opens_what_libsrtp_sends(stream: StreamKeys, terminal: list[TekReady]) -> None:
    unprotector = SrtpUnprotector()
    with libsrtp.session([key(use) for use in stream.used[SOME]], SSRC) as sender:
        for number, ready in enumerate(terminal[SOME]):
            first = FIRST + number * PER_KEY
            early = sender.protect(rtp(first), number)
            with pytest.raises(KeyUnavailable):
                unprotector.unprotect(early)
            unprotector.add_key(*secret_key(ready))
            assert unprotector.unprotect(early) == rtp(first)
            for index in range(first + 1, first + PER_KEY):
                assert unprotector.unprotect(sender.protect(rtp(index), number)) == rtp(index)


@requires_libsrtp
def test_the_key_of_another_period_does_not_open(stream: StreamKeys, terminal: list[TekReady]) -> None:
    mki, _, _ = key(stream.used[0])
    _, tek, salt = key(terminal[1])
    with libsrtp.session([key(stream.used[0])], SSRC) as sender, libsrtp.session([(mki, tek, salt)], SSRC) as receiver:
        with pytest.raises(libsrtp.SrtpError) as refused:
            receiver.unprotect(sender.protect(rtp(1)))
        assert refused.value.status == libsrtp.AUTH_FAIL


def test_pylibsrtp_from_headend_to_terminal(stream: StreamKeys, terminal: list[TekReady]) -> None:
    for use, ready in zip(stream.used, terminal, strict=True):
        sender, receiver = _session(use, Policy.SSRC_ANY_OUTBOUND), _session(ready, Policy.SSRC_ANY_INBOUND)
        for index in range(3):
            assert receiver.unprotect(sender.protect(rtp(index))) == rtp(index)


def test_pylibsrtp_from_profile_to_profile(stream: StreamKeys) -> None:
    for use in stream.used:
        sender = _session(stream.ready["drm"][use.mki], Policy.SSRC_ANY_OUTBOUND)
        receiver = _session(stream.ready["smartcard"][use.mki], Policy.SSRC_ANY_INBOUND)
        assert receiver.unprotect(sender.protect(rtp(1))) == rtp(1)


def _session(held: UseKey | TekReady, kind: int) -> Session:
    _, tek, salt = key(held)
    return Session(Policy(key=tek + salt, ssrc_type=kind))


# --- packets of another implementation -------------------------------------------------------------------------------


def _name(vector: dict[str, Any]) -> str:
    return f"mki {vector['mki']}, tag {vector['tag_len']}, roc {vector['roc']}"


@pytest.fixture(params=VECTORS, ids=_name)
def vector(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in request.param.items()}


@requires_libsrtp
def test_libsrtp_makes_and_opens_the_vectors(vector: dict[str, Any]) -> None:
    keys = [(vector["mki"] or b"", vector["key"], vector["salt"])]
    ssrc = int.from_bytes(vector["rtp"][8:12])
    with libsrtp.session(keys, ssrc, vector["tag_len"]) as sender, libsrtp.session(keys, ssrc, vector["tag_len"]) as receiver:
        sender.set_roc(vector["roc"])
        receiver.set_roc(vector["roc"])
        assert sender.protect(vector["rtp"]) == vector["srtp"]
        assert receiver.unprotect(vector["srtp"]) == vector["rtp"]


def test_our_session_keys_make_the_vectors(vector: dict[str, Any]) -> None:
    """RFC 3711, 4.1.1 and 4.2, under the session keys of ``pybcast.keys``: header || AES-CM || MKI || tag."""
    keys = srtp_session_keys(TEK(vector["key"]), vector["salt"])
    header, payload = vector["rtp"][:12], vector["rtp"][12:]
    index, ssrc = vector["roc"] << 16 | int.from_bytes(header[2:4]), int.from_bytes(header[8:12])
    iv = int.from_bytes(keys.salt.reveal()) << 16 ^ ssrc << 64 ^ index << 16
    encryptor = Cipher(algorithms.AES(keys.encr.reveal()), modes.CTR(iv.to_bytes(16))).encryptor()
    body = header + encryptor.update(payload) + encryptor.finalize()
    tag = hmac.digest(keys.auth.reveal(), body + vector["roc"].to_bytes(4), hashlib.sha1)[: vector["tag_len"]]
    assert body + (vector["mki"] or b"") + tag == vector["srtp"]
