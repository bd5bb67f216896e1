# SPDX-License-Identifier: Apache-2.0
"""Frames of a capture: the datagram under every header of links and tunnels, and out of fragments; nothing else, ever."""

from __future__ import annotations

import io
import itertools
import random
import struct
import subprocess
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.captures import fragments, frames
from pybcast.captures.pcap import Datagram, Packet, Skipped, read, udp_packet
from pybcast.errors import WireError
from pybcast.messages import KINDS
from pybcast.testing import corpus, mutate

CASES: Final = Path(__file__).parents[1] / "vectors" / "cases" / "pcap"
FROM: Final = ("192.0.2.1", 40000)
TO: Final = ("233.252.0.1", 4359)
FROM6: Final = ("2001:db8::1", 40000)
TO6: Final = ("ff3e::1", 4359)
IP4: Final = udp_packet(FROM, TO, b"hello")
IP6: Final = udp_packet(FROM6, TO6, b"hello")
MAC: Final = b"\x01\0\x5e\1\1\1\2\0\0\0\0\1"
SECOND: Final = 10**9


def pcap(link: int, *captured: bytes | tuple[int, bytes]) -> bytes:
    """A capture; frames with their second, or all of one."""
    made = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 20, link)
    for frame in captured:
        time, data = frame if isinstance(frame, tuple) else (0, frame)
        made += struct.pack("<IIII", time, 0, len(data), len(data)) + data
    return made


def packets(data: bytes) -> list[Packet]:
    return list(read(io.BytesIO(data)))


def told(found: Sequence[Packet]) -> list[bytes | str]:
    return [packet.payload if isinstance(packet, Datagram) else packet.reason for packet in found]


def mixed(captured: Sequence[tuple[int, bytes]]) -> bytes:
    """A pcapng file of frames of several links."""
    made = b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a\1\0\0\0" + b"\xff" * 8 + b"\x1c\0\0\0"
    links = sorted({link for link, _ in captured})
    for link in links:
        made += struct.pack("<IIHHII", 1, 20, link, 0, 0, 20)
    for second, (link, data) in enumerate(captured):
        body = struct.pack("<IIIII", links.index(link), 0, second, len(data), len(data)) + data + bytes(-len(data) % 4)
        made += struct.pack("<II", 6, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))
    return made


def ppp(protocol: int, inside: bytes) -> bytes:
    return struct.pack(">BBHHH", 0x11, 0, 1, len(inside) + 2, protocol) + inside


def ip4(protocol: int, inside: bytes, **fields: int) -> bytes:
    """An IPv4 packet.  ``fragment``: the field with flags and offset."""
    head = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(inside), fields.get("id", 7), fields.get("fragment", 0), 64, protocol)
    addresses = bytes((192, 0, 2, 1, 233, 252, 0, 1))
    return head + frames.internet_sum(head + b"\0\0" + addresses).to_bytes(2) + addresses + inside


def ip6(protocol: int, inside: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(inside), protocol, 64) + IP6[8:40] + inside


SNAP: Final = b"\xaa\xaa\x03\0\0\0"
LABEL, LAST = b"\0\0\x10\x40", b"\0\0\x21\x40"
HEADS: Final[dict[str, tuple[int, bytes, bytes]]] = {
    "Ethernet": (frames.ETHERNET, MAC + b"\x08\0", IP4),
    "Ethernet, IPv6": (frames.ETHERNET, MAC + b"\x86\xdd", IP6),
    "VLAN": (frames.ETHERNET, MAC + b"\x81\0\0\x64\x08\0", IP4),
    "QinQ": (frames.ETHERNET, MAC + b"\x88\xa8\0\1\x81\0\0\2\x86\xdd", IP6),
    "QinQ of before 802.1ad": (frames.ETHERNET, MAC + b"\x91\0\0\1\x81\0\0\2\x08\0", IP4),
    "802.2": (frames.ETHERNET, MAC + b"\0\x29" + SNAP + b"\x08\0", IP4),
    "VLAN, 802.2": (frames.ETHERNET, MAC + b"\x81\0\0\1\0\x29" + SNAP + b"\x08\0", IP4),
    "provider backbone": (frames.ETHERNET, MAC + b"\x88\xe7\0\0\0\1" + MAC + b"\x08\0", IP4),
    "PPPoE": (frames.ETHERNET, MAC + b"\x88\x64" + ppp(0x21, IP4)[:8], IP4),
    "PPPoE, IPv6": (frames.ETHERNET, MAC + b"\x88\x64" + ppp(0x57, IP6)[:8], IP6),
    "VLAN, PPPoE": (frames.ETHERNET, MAC + b"\x81\0\0\x64\x88\x64" + ppp(0x21, IP4)[:8], IP4),
    "QinQ, PPPoE, MPLS": (
        frames.ETHERNET, MAC + b"\x88\xa8\0\1\x81\0\0\2\x88\x64" + ppp(0x281, LABEL + LAST + IP4)[:8] + LABEL + LAST, IP4,
    ),
    "MPLS": (frames.ETHERNET, MAC + b"\x88\x47" + LAST, IP4),
    "MPLS, two labels, multicast": (frames.ETHERNET, MAC + b"\x88\x48" + LABEL + LAST, IP6),
    "MPLS, Ethernet in it": (frames.ETHERNET, MAC + b"\x88\x47" + LAST + bytes(4) + MAC + b"\x08\0", IP4),
    "MPLS alone": (frames.MPLS, LABEL * 3 + LAST, IP4),
    "Linux cooked": (frames.SLL, bytes(14) + b"\x08\0", IP4),
    "Linux cooked, VLAN": (frames.SLL, b"\0\0\0\1\0\6" + bytes(8) + b"\x81\0\0\x64\x86\xdd", IP6),
    "Linux cooked, PPPoE": (frames.SLL, b"\0\0\0\1\0\6" + bytes(8) + b"\x88\x64" + ppp(0x21, IP4)[:8], IP4),
    "Linux cooked, 802.2": (frames.SLL, b"\0\0\0\1\0\6" + bytes(8) + b"\0\4" + SNAP + b"\x08\0", IP4),
    "Linux cooked v2": (frames.SLL2, b"\x08\0" + bytes(18), IP4),
    "Linux cooked v2, QinQ": (frames.SLL2, b"\x88\xa8\0\0\0\0\0\1\0\1\0\6" + bytes(8) + b"\0\1\x81\0\0\2\x08\0", IP4),
    "Linux cooked v2, MPLS": (frames.SLL2, b"\x88\x47\0\0\0\0\0\1\0\1\0\6" + bytes(8) + LAST, IP6),
    "PPP": (frames.PPP, b"\xff\x03\0\x21", IP4),
    "PPP, compressed": (frames.PPP, b"\x57", IP6),
    "PPP, HDLC": (frames.PPP_HDLC, b"\xff\x03\0\x57", IP6),
    "PPP, with direction": (frames.PPP_WITH_DIRECTION, b"\0\xff\x03\0\x21", IP4),
    "PPPoE alone": (frames.PPP_ETHER, ppp(0x21, IP4)[:8], IP4),
    "Cisco HDLC": (frames.C_HDLC, b"\x8f\0\x08\0", IP4),
    "Cisco HDLC as PPP": (frames.PPP_HDLC, b"\x0f\0\x86\xdd", IP6),
    "raw IP": (frames.RAW, b"", IP6),
    "raw IP of old": (frames.RAW_OLD, b"", IP4),
    "raw IPv4": (frames.IPV4, b"", IP4),
    "raw IPv6": (frames.IPV6, b"", IP6),
    "loopback": (frames.NULL, b"\2\0\0\0", IP4),
    "loopback of macOS": (frames.NULL, b"\x1e\0\0\0", IP6),
    "loopback of OpenBSD": (frames.LOOP, b"\0\0\0\x18", IP6),
    "IP in IP": (frames.ETHERNET, MAC + b"\x08\0" + ip4(4, IP4)[:20], IP4),
    "IPv6 in IPv4": (frames.RAW, ip4(41, IP6)[:20], IP6),
    "IPv4 in IPv6": (frames.RAW, ip6(4, IP4)[:40], IP4),
    "GRE": (frames.RAW, ip4(47, b"\0\0\x08\0" + IP4)[:20] + b"\0\0\x08\0", IP4),
    "GRE with key and number": (frames.RAW, ip4(47, b"\x30\0\x86\xdd" + bytes(8) + IP6)[:20] + b"\x30\0\x86\xdd" + bytes(8), IP6),
    "GRE, Ethernet in it": (frames.RAW, ip4(47, b"\0\0\x65\x58" + MAC + b"\x08\0" + IP4)[:24] + MAC + b"\x08\0", IP4),
    "authentication header": (frames.RAW, ip4(51, bytes(16) + IP4[20:])[:20] + b"\x11\2" + bytes(14), IP4[20:]),
    "options of IPv6": (frames.RAW, ip6(0, bytes(16) + IP6[40:])[:40] + b"\x3c\0" + bytes(6) + b"\x11\0" + bytes(6), IP6[40:]),
    "atomic fragment": (frames.RAW, ip6(44, bytes(8) + IP6[40:])[:40] + b"\x11\0\0\0\0\0\0\7", IP6[40:]),
}  # fmt: skip
UNKNOWN_TO_TSHARK: Final = frozenset({"MPLS alone", "Cisco HDLC as PPP"})
"""tshark knows link type 219 only in other files, and Cisco's frames only by their link type."""


@pytest.mark.parametrize("name", HEADS)
def test_every_header_leads_to_the_datagram(name: str) -> None:
    link, head, ip = HEADS[name]
    (found,) = packets(pcap(link, head + ip + b"padding"))
    assert isinstance(found, Datagram), found
    assert (found.payload, found.destination) in ((b"hello", TO), (b"hello", TO6))
    for size in range(len(head + ip)):
        (cut,) = packets(pcap(link, (head + ip)[:size]))
        assert isinstance(cut, Skipped) and cut.reason == "cut by the capture", (size, cut)


@pytest.mark.requires_tool("tshark", package="tshark")
def test_tshark_sees_the_same_datagrams(tmp_path: Path) -> None:
    file = tmp_path / "all.pcapng"
    file.write_bytes(mixed([(link, head + ip) for link, head, ip in HEADS.values()]))
    words = ("tshark", "-n", "-r", str(file), "-T", "fields", "-e", "udp.payload")
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {name: line for name, line in zip(HEADS, said, strict=True) if name not in UNKNOWN_TO_TSHARK} == {
        name: b"hello".hex() for name in HEADS if name not in UNKNOWN_TO_TSHARK
    }


@pytest.mark.parametrize(
    ("link", "frame", "reason"),
    [
        (frames.ETHERNET, MAC + b"\x88\x63" + bytes(40), "not IP"),  # PPPoE discovery
        (frames.ETHERNET, MAC + b"\x88\x64\x12\0" + bytes(40), "not IP"),
        (frames.ETHERNET, MAC + b"\x88\x64" + ppp(0xC021, bytes(40)), "not IP"),  # LCP
        (frames.ETHERNET, MAC + b"\0\x26\x42\x42\x03" + bytes(40), "not IP"),  # spanning tree
        (frames.ETHERNET, MAC + b"\x88\x47" + LAST + b"\x50" + bytes(40), "not IP"),
        (frames.ETHERNET, MAC + b"\x88\x47" + LABEL * 9, "cut by the capture"),
        (frames.NULL, b"\7\0\0\0" + IP4, "not IP"),
        (frames.RAW, ip4(47, b"\0\1\x08\0" + IP4), "not IP"),
        (frames.RAW, ip4(50, bytes(40)), "not UDP (protocol 50)"),
        (frames.RAW, ip6(0, b"\x06\0" + bytes(6)), "not UDP (protocol 6)"),
        (frames.RAW, ip4(44, bytes(40)), "not UDP (protocol 44)"),
        (105, IP4, "of link type 105, which is not known here"),
    ],
)
def test_what_holds_no_datagram(link: int, frame: bytes, reason: str) -> None:
    assert told(packets(pcap(link, frame))) == [reason]


def test_headers_are_counted() -> None:
    tunnel = IP4
    for _ in range(frames.MAX_HEADERS - 2):
        tunnel = ip4(4, tunnel)
    assert told(packets(pcap(frames.RAW, tunnel, ip4(4, tunnel)))) == [b"hello", "more than 32 headers"]


# --- cases of others ---------------------------------------------------------------------------------------------------------

STKM: Final = bytes.fromhex("0c010000029b10b2e415d6f91aa972922cbf41c8819d3a0500000001341132128dac0b7b3509d751")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("02-mixed-links-ether-and-80211.pcapng", [STKM, "of link type 127, which is not known here", STKM]),
        ("04-sll-vlan.pcap", [STKM]),
        ("06-ipv6-atomic-fragment.pcap", [STKM]),
        ("10-pppoe.pcap", [STKM]),
    ],
)
def test_captures_of_others(name: str, expected: list[bytes | str]) -> None:
    assert told(packets((CASES / name).read_bytes())) == expected


# --- fragments ---------------------------------------------------------------------------------------------------------------

MESSAGE: Final = random.Random("fragments").randbytes(3000)


def cut4(payload: bytes, *sizes: int, id: int = 7) -> list[bytes]:
    """An IPv4 datagram in fragments of these sizes, and the rest."""
    udp, made, at = udp_packet(FROM, TO, payload)[20:], [], 0
    for size in (*sizes, len(udp)):
        part = udp[at : at + size]
        made.append(ip4(17, part, id=id, fragment=at // 8 | (0x2000 if at + size < len(udp) else 0)))
        at += len(part)
    return made


def cut6(payload: bytes, *sizes: int, id: int = 7, later: int = 17) -> list[bytes]:
    udp, made, at = udp_packet(FROM6, TO6, payload)[40:], [], 0
    for size in (*sizes, len(udp)):
        part = udp[at : at + size]
        head = struct.pack(">BBHI", later if at else 17, 0, at | (at + size < len(udp)), id)
        made.append(ip6(44, head + part))
        at += len(part)
    return made


@pytest.mark.parametrize("cut", [cut4, cut6])
def test_fragments_in_any_order_are_one_datagram(cut: Any) -> None:
    parts = cut(MESSAGE, 1000, 800, 8)
    assert len(parts) == 4
    for order in itertools.permutations(range(4)):
        (found,) = packets(pcap(frames.RAW, *((second, parts[index]) for second, index in enumerate(order))))
        assert isinstance(found, Datagram)
        assert (found.number, found.time, found.payload) == (4, 3 * SECOND, MESSAGE), "of the packet that made it whole"
        assert found.destination in (TO, TO6)


@pytest.mark.parametrize("cut", [cut4, cut6])
def test_fragments_of_several_datagrams_and_packets_that_come_twice(cut: Any) -> None:
    first, second = cut(b"a" * 2000, 800, 800), cut(b"b" * 2000, 1000, id=8)
    mixed = [first[0], second[0], first[0], IP4, second[1], first[1], first[2]]
    found = packets(pcap(frames.RAW, *mixed))
    assert told(found) == ["fragment that comes twice", b"hello", b"b" * 2000, b"a" * 2000]
    assert [packet.number for packet in found] == [3, 4, 5, 7]


def test_fragments_under_other_headers() -> None:
    parts = cut4(MESSAGE, 1400)
    vlan = [MAC + b"\x81\0\0\1\x08\0" + part for part in parts]
    assert told(packets(pcap(frames.ETHERNET, *vlan))) == [MESSAGE]
    udp = udp_packet(FROM, TO, MESSAGE)
    tunnel = [ip4(4, udp[:2000], fragment=0x2000), ip4(4, udp[2000:], fragment=250)]
    assert told(packets(pcap(frames.RAW, *tunnel))) == [MESSAGE]
    options = b"\x11\0" + bytes(6) + IP6[40:]
    hidden = [ip6(44, b"\x3c\0\0\1\0\0\0\1" + options[:16]), ip6(44, b"\x3c\0\0\x10\0\0\0\1" + options[16:])]
    assert told(packets(pcap(frames.RAW, *hidden))) == [b"hello"]
    named = cut6(MESSAGE, 1400, later=99)
    assert told(packets(pcap(frames.RAW, *named))) == [MESSAGE], "what follows is said by the first fragment"
    nested = b"\x11\0\0\1\0\0\0\2" + IP6[40:56]
    twice = [ip6(44, b"\x2c\0\0\1\0\0\0\1" + nested[:16]), ip6(44, b"\x2c\0\0\x10\0\0\0\1" + nested[16:])]
    assert told(packets(pcap(frames.RAW, *twice))) == ["fragment in a fragment"]


@pytest.mark.requires_tool("tshark", package="tshark")
def test_tshark_puts_the_same_fragments_together(tmp_path: Path) -> None:
    file = tmp_path / "fragments.pcap"
    file.write_bytes(pcap(frames.RAW, *cut4(MESSAGE, 1000, 1000), *cut6(MESSAGE, 1400, 800)))
    words = ("tshark", "-n", "-r", str(file), "-T", "fields", "-e", "frame.number", "-e", "udp.payload", "-Y", "udp")
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["3", MESSAGE.hex(), "6", MESSAGE.hex()]


OVERLAP: Final = fragments.OVERLAPPING
NOT_WHOLE: Final = fragments.NOT_WHOLE


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # (octets before it, its octets, whether more follow)
        ([(0, 800, True), (400, 800, True), (1200, 8, False)], [OVERLAP, OVERLAP, OVERLAP]),
        ([(0, 800, True), (792, 16, False)], [OVERLAP] * 2),
        ([(800, 800, False), (0, 808, True)], [OVERLAP] * 2),
        ([(0, 800, True), (0, 1600, True)], [OVERLAP] * 2),
        ([(800, 8, False), (1600, 8, False)], [OVERLAP] * 2),
        ([(800, 8, True), (80, 8, False)], [OVERLAP] * 2),
        ([(800, 8, False), (808, 8, True)], [OVERLAP] * 2),
        ([(0, 800, True)], [NOT_WHOLE]),
        ([(800, 8, False)], [NOT_WHOLE]),
        ([(0, 801, True)], ["bad fragment"]),
        ([(8, 0, False)], ["bad fragment"]),
        ([(65528, 64, False)], ["bad fragment"]),
    ],
)
def test_fragments_that_are_no_datagram(parts: list[tuple[int, int, bool]], expected: list[str]) -> None:
    made = [ip4(17, b"\1" * size, fragment=at // 8 | (0x2000 if more else 0)) for at, size, more in parts]
    assert sorted(told(packets(pcap(frames.RAW, *made)))) == sorted(expected)


def test_what_was_put_together_wrongly_is_seen_by_its_check_sum() -> None:
    old, new = cut4(b"a" * 2000, 1000), cut4(b"b" * 2000, 1000)
    wrong = "put together of fragments, and its check sum is wrong"
    assert told(packets(pcap(frames.RAW, old[0], new[1]))) == [wrong]
    assert told(packets(pcap(frames.RAW, (0, old[0]), (31, new[0]), (31, new[1])))) == [NOT_WHOLE, b"b" * 2000]
    assert told(packets(pcap(frames.RAW, (99, old[0]), (0, new[0]), (0, new[1])))) == [NOT_WHOLE, b"b" * 2000]


def test_a_fault_of_the_file_comes_after_the_fragments_that_wait() -> None:
    found: list[Packet] = []
    with pytest.raises(WireError):
        found.extend(read(io.BytesIO(pcap(frames.RAW, cut4(MESSAGE, 800)[0], IP4) + b"x")))
    assert told(found) == [b"hello", NOT_WHOLE]


def test_fragments_that_wait_are_bounded() -> None:
    """Neither many datagrams nor many octets nor many small fragments are kept; those that came first give way."""
    firsts = [cut4(MESSAGE, 800, id=id)[0] for id in range(fragments.MAX_DATAGRAMS + 3)]
    found = packets(pcap(frames.RAW, *firsts))
    assert told(found) == [fragments.NO_ROOM] * 3 + [NOT_WHOLE] * fragments.MAX_DATAGRAMS
    assert [packet.number for packet in found] == list(range(1, len(firsts) + 1))
    held = fragments.Fragments()
    tracemalloc.start()
    try:
        for number in range(200):
            for start in range(0, 60_000, 600 if number % 2 else 8 * 40):
                size = 592 if number % 2 else 8
                held.put(number, start, 17, bytes(size), fragments.Origin(number, None), last=False)
            held.given_up.clear()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3 * fragments.MAX_OCTETS
    held.end()
    assert held._octets == 0 and not held._waiting


# --- whatever a capture holds ------------------------------------------------------------------------------------------------


ROWS: Final = st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 6), st.booleans(), st.integers(0, 40))


@given(st.lists(ROWS, max_size=40))
def test_each_fragment_is_part_of_a_datagram_or_told(rows: list[tuple[int, int, int, bool, int]]) -> None:
    held, waiting, done, refused = fragments.Fragments(), dict[int, set[int]](), set[int](), set[int]()
    for number, (key, unit, units, last, second) in enumerate(rows):
        payload = bytes(range(8 * unit, 8 * (unit + units)))
        try:
            whole = held.put(key, 8 * unit, unit, payload, fragments.Origin(number, second * SECOND), last=last)
        except fragments.Refused:
            refused.add(number)
            whole = None
        else:
            waiting.setdefault(key, set()).add(number)
        gone = {origin.number for origin, _ in held.given_up}
        assert len(gone) == len(held.given_up)
        if whole is not None:
            assert whole == (0, bytes(range(len(whole[1])))), "each octet at its place"
            done |= waiting.pop(key) - gone
    held.end()
    gone = {origin.number for origin, _ in held.given_up}
    assert len(gone) == len(held.given_up) and held._octets == 0 and not held._waiting
    assert not (gone & done or gone & refused or done & refused)
    assert gone | done | refused == set(range(len(rows)))


def everything() -> bytes:
    """A pcapng file with every kind of header, fragments, and a message of each kind."""
    captured = [(link, head + ip) for link, head, ip in HEADS.values()]
    captured += [(frames.RAW, part) for part in (*cut4(MESSAGE, 1000), *cut6(MESSAGE, 1400))]
    captured += [(frames.RAW, udp_packet(FROM, TO, next(corpus(kind, 1, 1)))) for kind in KINDS if kind != "mikey"]
    return mixed(captured)


def test_mutated_and_truncated_captures() -> None:
    """Packets or a typed error, whatever stands in the file; as many as there are frames at most."""
    whole, rng = everything(), random.Random("captures")
    assert len(packets(whole)) == len(HEADS) + 1 + len(KINDS)
    for number in range(600):
        data = whole[: rng.randrange(len(whole))] if number % 3 == 0 else whole
        for _ in range(rng.choice((0, 1, 1, 4, 40)) if number % 3 == 0 else rng.choice((1, 2, 8, 60))):
            data = mutate(data, rng)
        found = []
        try:
            for packet in read(io.BytesIO(data)):
                found.append(packet)
        except WireError as error:
            assert error.offset is None or 0 <= error.offset <= len(data)
        assert sum(len(p.payload) for p in found if isinstance(p, Datagram)) <= len(data)


@given(st.sampled_from(sorted(frames.LINKS)), st.lists(st.binary(max_size=120), max_size=4))
def test_any_frames(link: int, captured: list[bytes]) -> None:
    found = packets(pcap(link, *captured))
    assert len(found) <= len(captured)


@given(st.data())
def test_any_octet_of_any_header(data: st.DataObject) -> None:
    link, head, ip = HEADS[data.draw(st.sampled_from(sorted(HEADS)))]
    frame = bytearray(head + ip)
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    found = packets(pcap(link, bytes(frame)))
    assert len(found) == 1
