# SPDX-License-Identifier: Apache-2.0
"""Keys from STKMs make the security associations of IPsec ESP, AES-128-CBC with HMAC-SHA-1-96 (signalling 5.1).

pybcast gives keys, it does not make ESP packets: a small reader and writer stand here (RFC 4303, 3602, 2404), held against
packets of other implementations first; tshark, with its own decryption, is asked about both.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import tshark
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from stream_keys import Generation, run

from pybcast.flows import Profile, TekReady, UseKey
from pybcast.messages import Protocol

requires_tshark = pytest.mark.requires_tool("tshark", package="tshark")

ESP, UDP, IPV4, IPV6 = 50, 17, 4, 41
ICV: Final = 12


class Refused(Exception):
    """Not a packet of this security association."""


@dataclass(frozen=True)
class Association:
    """SPI (4 bytes), encryption key (16), authentication key (20; ``None`` without authentication)."""

    spi: bytes
    encr_key: bytes
    auth_key: bytes | None

    def protect(self, payload: bytes, next_header: int, seq: int, iv: bytes) -> bytes:
        """SPI || sequence number || IV || encrypted (payload || padding 1, 2, 3... || its length || next header) || ICV."""
        padding = -(len(payload) + 2) % 16
        clear = payload + bytes(range(1, padding + 1)) + bytes((padding, next_header))
        encryptor = Cipher(algorithms.AES(self.encr_key), modes.CBC(iv)).encryptor()
        packet = self.spi + seq.to_bytes(4) + iv + encryptor.update(clear) + encryptor.finalize()
        return packet + self._icv(packet)

    def open(self, packet: bytes) -> tuple[int, int, bytes]:
        """Sequence number, next header, payload.  Raises ``Refused``."""
        end = len(packet) - len(self._icv(b""))
        if packet[:4] != self.spi or not hmac.compare_digest(self._icv(packet[:end]), packet[end:]):
            raise Refused
        decryptor = Cipher(algorithms.AES(self.encr_key), modes.CBC(packet[8:24])).decryptor()
        clear = decryptor.update(packet[24:end]) + decryptor.finalize()
        padding, next_header = clear[-2:]
        if clear[len(clear) - 2 - padding : -2] != bytes(range(1, padding + 1)):
            raise Refused
        return int.from_bytes(packet[4:8]), next_header, clear[: len(clear) - 2 - padding]

    def _icv(self, packet: bytes) -> bytes:
        return b"" if self.auth_key is None else hmac.digest(self.auth_key, packet, hashlib.sha1)[:ICV]


def association(held: UseKey | TekReady) -> Association:
    """What an encoder or a terminal is told, as a security association."""
    assert held.salt is None
    return Association(held.mki, held.tek.reveal(), None if held.auth_key is None else held.auth_key.reveal())


def header_length(packet: bytes) -> int:
    return 20 if packet[0] >> 4 == 4 else 40


# --- packets of another implementation -------------------------------------------------------------------------------


BINARY: Final = frozenset(("spi", "encr_key", "auth_key", "iv", "inner", "packet"))
VECTORS: Final[list[dict[str, Any]]] = [
    {name: bytes.fromhex(value) if name in BINARY else value for name, value in vector.items()}
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "esp.json").read_text("utf-8"))["vectors"]
]


@pytest.fixture(params=VECTORS, ids=lambda v: f"{v['mode']} IPv{v['inner'][0] >> 4}, {len(v['inner'])} bytes")
def vector(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def carried(vector: dict[str, Any]) -> tuple[int, bytes]:
    """Next header and payload: the whole inner packet in tunnel mode, what follows its header in transport mode."""
    inner: bytes = vector["inner"]
    version = inner[0] >> 4
    if vector["mode"] == "tunnel":
        return (IPV4 if version == 4 else IPV6), inner
    return inner[9 if version == 4 else 6], inner[header_length(inner) :]


def vector_association(vector: dict[str, Any]) -> Association:
    return Association(vector["spi"], vector["encr_key"], vector["auth_key"])


def test_the_reader_opens_the_vectors(vector: dict[str, Any]) -> None:
    packet = vector["packet"]
    next_header, payload = carried(vector)
    assert packet[9 if packet[0] >> 4 == 4 else 6] == ESP
    assert vector_association(vector).open(packet[header_length(packet) :]) == (vector["seq"], next_header, payload)


def test_the_writer_makes_the_vectors(vector: dict[str, Any]) -> None:
    packet = vector["packet"]
    next_header, payload = carried(vector)
    made = vector_association(vector).protect(payload, next_header, vector["seq"], vector["iv"])
    assert made == packet[header_length(packet) :]


def test_the_reader_refuses_every_flipped_bit(vector: dict[str, Any]) -> None:
    packet, keys = vector["packet"][header_length(vector["packet"]) :], vector_association(vector)
    for position in range(len(packet)):
        with pytest.raises(Refused):
            keys.open(packet[:position] + bytes((packet[position] ^ 1 << position % 8,)) + packet[position + 1 :])


# --- keys from STKMs -------------------------------------------------------------------------------------------------


Ends = list[tuple[Association, Association]]
"""For each crypto period what the headend and what a terminal holds."""

# With authentication. DRM Profile: TEK and TAS in the STKM, the authentication key is TAK (drm-profile 1.4).
# Smartcard Profile: SPI and authentication key of rules R43.
STREAMS: Final[dict[str, tuple[Profile, Generation]]] = {
    "drm F3": ("drm", "bsm"),
    "drm F4": ("drm", "bsda"),
    "smartcard F3": ("smartcard", "bsm"),
    "smartcard F4": ("smartcard", "bsda"),
}


@pytest.fixture(scope="module", params=STREAMS)
def ends(request: pytest.FixtureRequest) -> Ends:
    profile, generation = STREAMS[request.param]
    stream = run((profile,), Protocol.IPSEC, generation)
    return [(association(use), association(stream.ready[profile][use.mki])) for use in stream.used]


def test_both_ends_hold_the_same_association(ends: Ends) -> None:
    for headend, terminal in ends:
        assert headend == terminal
        assert int.from_bytes(headend.spi) > 255  # RFC 4303, 2.1: the lower ones are reserved
        assert (len(headend.encr_key), len(headend.auth_key or b"")) == (16, 20)
        assert headend.auth_key is not None
        assert headend.encr_key not in headend.auth_key
    for parts in zip(*((each.spi, each.encr_key, each.auth_key) for each, _ in ends), strict=True):
        assert len(set(parts)) == len(ends)


def test_what_one_end_sends_the_other_opens(ends: Ends) -> None:
    rng = random.Random(50)
    for (headend, terminal), (other, _) in zip(ends, [*ends[1:], ends[0]], strict=True):
        payload, seq = rng.randbytes(rng.randrange(8, 1300)), rng.randrange(1, 2**32)
        packet = headend.protect(payload, UDP, seq, rng.randbytes(16))
        assert terminal.open(packet) == (seq, UDP, payload)
        with pytest.raises(Refused):
            Association(headend.spi, other.encr_key, other.auth_key).open(packet)


def test_smartcard_spi_is_key_number_and_tek_id() -> None:
    """Rules R43: a new key number with each SEK, TEK IDs that rise from 1 under it (rules R8)."""
    stream = run(("smartcard",), Protocol.IPSEC, "bsm")
    ids = [(int.from_bytes(use.mki[:2]), int.from_bytes(use.mki[2:])) for use in stream.used]
    assert ids == sorted(ids)
    assert {number for number, _ in ids} == {1, 2, 3}
    assert [tek_id for number, tek_id in ids if number == 2] == list(range(1, 13))


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_both_profiles_share_an_association_without_authentication(generation: Generation) -> None:
    """Rules R38: with authentication the two derivations would differ, so a two-profile stream has none."""
    stream = run(("drm", "smartcard"), Protocol.IPSEC, generation, authentication=False)
    for use in stream.used:
        keys = association(use)
        assert keys.auth_key is None
        assert association(stream.ready["drm"][use.mki]) == keys == association(stream.ready["smartcard"][use.mki])


# --- tshark ----------------------------------------------------------------------------------------------------------


def tshark_reads(packets: list[tuple[bytes, Association]]) -> list[tuple[str, int, bytes]]:
    """Of each IP packet with ESP: whether tshark finds the ICV good ("1"), next header and payload."""
    options = ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    for packet, keys in packets:
        assert keys.auth_key is not None
        row = (
            f"IPv{packet[0] >> 4}", "*", "*", f"0x{keys.spi.hex()}",
            "AES-CBC [RFC3602]", f"0x{keys.encr_key.hex()}", "HMAC-SHA-1-96 [RFC2404]", f"0x{keys.auth_key.hex()}",
            "32-bit",  # sequence numbers; versions without this column leave it unread
        )  # fmt: skip
        options += ["-o", "uat:esp_sa:" + ",".join(f'"{cell}"' for cell in row)]
    found = []
    for protocols in tshark.dissect([packet for packet, _ in packets], *options):
        (esp,) = (node for node in protocols if node.name == "esp")
        values = {node.name: node for node in esp.walk()}
        found.append(
            (
                values["esp.icv_good"].show,
                int(values["esp.protocol"].value, 16),
                bytes.fromhex(values["esp.contained_data"].value),
            )
        )
    return found


@requires_tshark
def test_tshark_opens_the_vectors() -> None:
    found = tshark_reads([(vector["packet"], vector_association(vector)) for vector in VECTORS])
    assert found == [("1", *carried(vector)) for vector in VECTORS]


@requires_tshark
def test_tshark_opens_what_the_headend_sends(ends: Ends) -> None:
    """Sent under the headend's association, opened by tshark under the terminal's."""
    rng = random.Random(4303)
    sent = [tshark.udp(rng.randbytes(rng.randrange(8, 200)), 5004) for _ in range(4)]
    some = ends[::8]
    packets = [
        (tshark.ipv4(ESP, headend.protect(payload, UDP, seq, rng.randbytes(16))), terminal)
        for seq, (payload, (headend, terminal)) in enumerate(zip(sent, some, strict=True), 1)
    ]
    assert tshark_reads(packets) == [("1", UDP, payload) for payload in sent]


@requires_tshark
def test_tshark_sees_a_wrong_authentication_key(ends: Ends) -> None:
    (headend, _), (_, other) = ends[:2]
    packet = tshark.ipv4(ESP, headend.protect(tshark.udp(bytes(20), 5004), UDP, 1, bytes(16)))
    ((good, _, _),) = tshark_reads([(packet, Association(headend.spi, headend.encr_key, other.auth_key))])
    assert good == "0"
