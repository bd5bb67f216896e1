# SPDX-License-Identifier: Apache-2.0
"""IPsec packets that scapy protects as a headend's ``ip xfrm`` lines say open in scapy and tshark as a terminal's lines say."""

from __future__ import annotations

import random
import warnings
from typing import Any, Final

import pytest
import tshark
from stream_keys import SERVICE, START, Generation, StreamKeys, run

from pybcast.flows import Profile, TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.keyline import KeyOutput, read_line, write_line
from pybcast.outlets.xfrm import Associations, Traffic

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its ciphers are those of an older cryptography
    from scapy.layers.inet import IP, UDP
    from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation

requires_tshark = pytest.mark.requires_tool("tshark", package="tshark")

GROUP: Final = "239.1.1.1"

CASES: Final[dict[str, tuple[tuple[Profile, ...], Generation, bool]]] = {
    "drm F3": (("drm",), "bsm", True),
    "drm F4": (("drm",), "bsda", True),
    "smartcard F3": (("smartcard",), "bsm", True),
    "smartcard F4": (("smartcard",), "bsda", True),
    "both profiles, not authenticated (R38)": (("drm", "smartcard"), "bsm", False),
}

Words = dict[str, str]


def words(line: str) -> Words:
    """The parts of an ``ip xfrm state add`` line by name."""
    found = line.split()
    assert found[:3] == ["xfrm", "state", "add"] and found[found.index("proto") + 1] == "esp"
    named = {name: found[found.index(name) + 1] for name in ("src", "dst", "spi", "mode")}
    at = found.index("enc")
    named |= {"cipher": found[at + 1], "key": found[at + 2]}
    if "auth-trunc" in found:
        at = found.index("auth-trunc")
        named |= {"mac": found[at + 1], "auth_key": found[at + 2], "bits": found[at + 3]}
    return named


def followed(keys: StreamKeys, profile: Profile) -> list[tuple[Words, Words]]:
    """For each crypto period what the headend's and what a terminal's lines say, both told over key sockets."""
    made: dict[bool, list[str]] = {False: [], True: []}
    sides = {
        inbound: Associations(SERVICE, 1, Traffic(GROUP), made[inbound].extend, lambda: START, inbound=inbound)
        for inbound in made
    }  # fmt: skip

    def tell(inbound: bool, output: KeyOutput) -> Words:
        heard = read_line(write_line(output))
        assert heard is not None
        made[inbound].clear()
        sides[inbound].put(heard)
        (line,) = (line for line in made[inbound] if line.startswith("xfrm state add"))
        return words(line)

    return [(tell(False, use), tell(True, keys.ready[profile][use.mki])) for use in keys.used]


@pytest.fixture(scope="module", params=CASES)
def periods(request: pytest.FixtureRequest) -> list[tuple[Words, Words]]:
    profiles, generation, authentication = CASES[request.param]
    keys = run(profiles, Protocol.IPSEC, generation, authentication=authentication)
    assert all(isinstance(use, UseKey) for use in keys.used)
    found = [followed(keys, profile) for profile in profiles]
    return [period for periods in zip(*found, strict=True) for period in periods]


def scapy_association(said: Words) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keys: dict[str, Any] = {"crypt_algo": "AES-CBC", "crypt_key": bytes.fromhex(said["key"].removeprefix("0x"))}
        assert said["cipher"] == "cbc(aes)" and said["mode"] == "transport"
        if "mac" in said:
            assert (said["mac"], said["bits"]) == ("hmac(sha1)", "96")
            keys |= {"auth_algo": "HMAC-SHA1-96", "auth_key": bytes.fromhex(said["auth_key"].removeprefix("0x"))}
        make: Any = SecurityAssociation
        return make(ESP, spi=int(said["spi"], 16), **keys)


def protected(said: Words, payload: bytes, seq: int) -> bytes:
    """A UDP datagram to the group, as an IP packet with ESP."""
    packet = IP(src="192.0.2.1", dst=GROUP) / UDP(sport=40000, dport=5004) / payload
    return bytes(scapy_association(said).encrypt(packet, seq_num=seq))


def payload_of(packet: bytes) -> bytes:
    return bytes(IP(packet)[UDP].payload)


def test_lines_of_both_ends_name_the_same_association(periods: list[tuple[Words, Words]]) -> None:
    for headend, terminal in periods:
        assert headend == terminal
        assert int(headend["spi"], 16) > 255 and headend["dst"] == GROUP and len(headend["key"]) == 2 + 32
        assert len(headend.get("auth_key", "0x" + 40 * "0")) == 2 + 40
    distinct = {headend["spi"] for headend, _ in periods}
    assert len({headend["key"] for headend, _ in periods}) == len(distinct) == 30


def test_scapy_opens_under_a_terminals_lines(periods: list[tuple[Words, Words]]) -> None:
    rng = random.Random(4303)
    for seq, (headend, terminal) in enumerate(periods, 1):
        payload = rng.randbytes(rng.randrange(1, 1300))
        packet = protected(headend, payload, seq)
        assert payload not in packet
        assert payload_of(bytes(scapy_association(terminal).decrypt(IP(packet)))) == payload
        if "mac" in terminal:
            damaged = packet[:-1] + bytes([packet[-1] ^ 1])
            with pytest.raises(IPSecIntegrityError):
                scapy_association(terminal).decrypt(IP(damaged))


@requires_tshark
def test_tshark_opens_under_a_terminals_lines(periods: list[tuple[Words, Words]]) -> None:
    rng = random.Random(3602)
    some = periods[:: max(1, len(periods) // 5)]
    payloads = [rng.randbytes(rng.randrange(8, 200)) for _ in some]
    options = ["-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    for _, terminal in some:
        mac = ("HMAC-SHA-1-96 [RFC2404]", terminal["auth_key"]) if "mac" in terminal else ("NULL", "")
        row = ("IPv4", "*", GROUP, terminal["spi"], "AES-CBC [RFC3602]", terminal["key"], *mac, "32-bit")
        options += ["-o", "uat:esp_sa:" + ",".join(f'"{cell}"' for cell in row)]
    packets = [protected(headend, payload, 1) for (headend, _), payload in zip(some, payloads, strict=True)]
    for (_, terminal), payload, protocols in zip(some, payloads, tshark.dissect(packets, *options), strict=True):
        (esp,) = (node for node in protocols if node.name == "esp")
        values = {node.name: node for node in esp.walk()}
        assert int(values["esp.protocol"].value, 16) == 17
        assert bytes.fromhex(values["esp.contained_data"].value)[8:] == payload
        assert ("mac" in terminal) is (values.get("esp.icv_good") is not None and values["esp.icv_good"].show == "1")


def test_a_terminal_is_told_of_every_key() -> None:
    """What is asked above of 30 periods is asked of all that a terminal obtained."""
    keys = run(("smartcard",), Protocol.IPSEC, "bsda")
    assert {use.mki for use in keys.used} <= set(keys.ready["smartcard"])
    assert all(isinstance(each, TekReady) and each.protocol is Protocol.IPSEC for each in keys.ready["smartcard"].values())
