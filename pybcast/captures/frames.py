# SPDX-License-Identifier: Apache-2.0
"""Captured frames: the UDP datagram that lies under the headers of links, tunnels and IP.

Every header leads to the next one, whatever the link is: a VLAN tag is read behind an Ethernet header as behind that of a Linux
cooked capture.  So a link type is no more than how a frame begins.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Final

from pybcast.captures.fragments import Fragments, Origin, Refused

Address = tuple[str, int]
"""IP address and UDP port."""

MAX_HEADERS: Final = 32  # headers of one captured frame: networks use ten at most - confidence: own

# Link types (tcpdump.org/linktypes): how a frame begins.
NULL, ETHERNET, PPP, RAW_OLD, PPP_HDLC, PPP_ETHER, RAW, C_HDLC, LOOP, SLL = 0, 1, 9, 12, 50, 51, 101, 104, 108, 113
PPP_WITH_DIRECTION, MPLS, IPV4, IPV6, SLL2 = 204, 219, 228, 229, 276
UDP: Final = 17
_FRAGMENT, _AUTHENTICATION = 44, 51
_OPTIONS: Final = frozenset((0, 43, 60, 135, 139, 140))  # of IPv6: headers that begin with protocol and length in 8 octets
_FAMILIES: Final = {2: 4, 10: 6, 24: 6, 28: 6, 30: 6}  # AF_INET; AF_INET6 of Linux, NetBSD, FreeBSD, macOS

# What may come next: an EtherType (IEEE 802 Numbers), or one of these.
_IP4, _IP6, _LABELS, _PPPOE = 0x0800, 0x86DD, 0x8847, 0x8864
_LINK, _LLC, _PPP, _IP, _GRE = 0x10000, 0x10001, 0x10002, 0x10003, 0x10004
_OF_VERSION: Final = {4: _IP4, 6: _IP6}
_OF_PPP: Final = {0x21: _IP4, 0x57: _IP6, 0x281: _LABELS, 0x283: _LABELS}  # PPP DLL Protocol Numbers
_OF_IP: Final = {4: _IP4, 41: _IP6, 47: _GRE, 137: _LABELS}
"""IP protocol number -> what a tunnel of that number holds."""

_BEGINS: Final = {
    ETHERNET: (_LINK, 0), PPP: (_PPP, 0), PPP_ETHER: (_PPPOE, 0), PPP_WITH_DIRECTION: (_PPP, 1), MPLS: (_LABELS, 0),
    RAW_OLD: (_IP, 0), RAW: (_IP, 0), IPV4: (_IP4, 0), IPV6: (_IP6, 0),
}  # fmt: skip
_TYPED: Final = {SLL: (14, 16), SLL2: (0, 20), C_HDLC: (2, 4)}
"""Link types whose header holds an EtherType: where that stands, and the header's octets."""
LINKS: Final = frozenset((*_BEGINS, *_TYPED, PPP_HDLC, NULL, LOOP))
"""Link types that are read."""

CUT: Final = "cut by the capture"
NOT_IP: Final = "not IP"


class NoDatagram(Exception):
    """Why a frame holds no datagram."""


def unknown(link: int) -> str:
    """Why frames of that link type are not read."""
    return f"of link type {link}, which is not known here"


def _at(data: bytes, start: int, size: int) -> bytes:
    """Some octets of a frame that must be there."""
    piece = data[start : start + size]
    if len(piece) < size:
        raise NoDatagram(CUT)
    return piece


def _number(data: bytes, start: int, size: int = 2) -> int:
    return int.from_bytes(_at(data, start, size))


# --- headers: each gives what comes next, and where --------------------------------------------------------------------------


def _first(link: int, data: bytes) -> tuple[int, int]:
    """What a frame of that link type begins with, and where that begins."""
    if link in _BEGINS:
        return _BEGINS[link]
    if link in _TYPED:
        at, size = _TYPED[link]
        return _type(_number(data, at)), size
    if link == PPP_HDLC:  # Cisco's frames have other addresses
        return _first(C_HDLC if _at(data, 0, 1)[0] in (0x0F, 0x8F) else PPP, data)
    family = _at(data, 0, 4)  # of the host that captured, or in network order
    number = int.from_bytes(family, "little" if link == NULL and family[0] else "big")
    return _OF_VERSION.get(_FAMILIES.get(number, 0), 0), 4


def _type(number: int) -> int:
    """An EtherType, or in its place a length or what Linux writes for one (4: 802.2)."""
    return number if number >= 0x600 else _LLC


def _ethernet(data: bytes, at: int) -> tuple[int, int]:
    return _type(_number(data, at + 12)), at + 14


def _vlan(data: bytes, at: int) -> tuple[int, int]:
    return _type(_number(data, at + 2)), at + 4


def _backbone(data: bytes, at: int) -> tuple[int, int]:
    """IEEE 802.1ah: a tag of 4 octets, then the customer's frame."""
    return _LINK, at + 4


def _llc(data: bytes, at: int) -> tuple[int, int]:
    head = _at(data, at, 8)
    if head[:3] != b"\xaa\xaa\x03" or head[3:6] not in (bytes(3), b"\0\0\xf8"):
        raise NoDatagram(NOT_IP)
    return int.from_bytes(head[6:8]), at + 8


def _pppoe(data: bytes, at: int) -> tuple[int, int]:
    """RFC 2516."""
    if _at(data, at, 2) != b"\x11\0":
        raise NoDatagram(NOT_IP)
    return _PPP, at + 6


def _ppp(data: bytes, at: int) -> tuple[int, int]:
    """RFC 1661, RFC 1662: address and control may be left out, and the first octet of the protocol."""
    if _at(data, at, 1)[0] == 0xFF:
        at += 2
    size = 1 if _at(data, at, 1)[0] & 1 else 2
    return _OF_PPP.get(_number(data, at, size), 0), at + size


def _labels(data: bytes, at: int) -> tuple[int, int]:
    """MPLS (RFC 3032): labels down to the last; what follows says itself what it is, or is Ethernet (RFC 4448)."""
    while not _at(data, at, 4)[2] & 1:
        at += 4
    at += 4
    version = _at(data, at, 1)[0] >> 4
    return (_LINK, at + 4) if version == 0 else (_OF_VERSION.get(version, 0), at)


def _gre(data: bytes, at: int) -> tuple[int, int]:
    """RFC 2784, RFC 2890."""
    flags = _number(data, at)
    if flags & 0x4007:  # source routing; another version than 0
        raise NoDatagram(NOT_IP)
    kind = _number(data, at + 2)
    size = 4 + 4 * sum(1 for bit in (0x8000, 0x2000, 0x1000) if flags & bit)
    return (_LINK if kind == 0x6558 else kind), at + size


def _either(data: bytes, at: int) -> tuple[int, int]:
    return _OF_VERSION.get(_at(data, at, 1)[0] >> 4, 0), at


_HEADERS: Final[dict[int, Callable[[bytes, int], tuple[int, int]]]] = {
    _LINK: _ethernet, _LLC: _llc, _PPP: _ppp, _IP: _either, _GRE: _gre,
    0x8100: _vlan, 0x88A8: _vlan, 0x9100: _vlan, 0x9200: _vlan, 0x9300: _vlan, 0x88E7: _backbone, _PPPOE: _pppoe,
    _LABELS: _labels, 0x8848: _labels,
}  # fmt: skip


# --- IP ---------------------------------------------------------------------------------------------------------------------


class Frames:
    """Finds datagrams in the frames of one capture, one frame after the other; fragments wait in ``fragments``."""

    def __init__(self) -> None:
        self.fragments = Fragments()

    def datagram(self, link: int, data: bytes, origin: Origin) -> tuple[Address, Address, bytes] | None:
        """Sender, destination and payload of the UDP datagram; ``None``: a fragment that waits for others.

        Raises ``NoDatagram``.
        """
        if link not in LINKS:
            raise NoDatagram(unknown(link))
        kind, at = _first(link, data)
        whole = True  # no part of it was put together here
        for _ in range(MAX_HEADERS):
            if kind not in (_IP4, _IP6):
                if kind not in _HEADERS:
                    raise NoDatagram(NOT_IP)
                kind, at = _HEADERS[kind](data, at)
                continue
            packet = _IpPacket(data, at, kind)
            if packet.fragment is not None:
                try:
                    found = self.fragments.put(
                        packet.key, packet.fragment, packet.protocol, packet.payload(), origin, last=not packet.more
                    )
                except Refused as refused:
                    raise NoDatagram(str(refused)) from None
                if found is None:
                    return None
                whole = False
                packet.joined(*found)
            if packet.protocol == UDP:
                return packet.udp(checked=not whole)
            if packet.protocol not in _OF_IP:
                raise NoDatagram(f"not UDP (protocol {packet.protocol})")
            kind, data, at = _OF_IP[packet.protocol], packet.data, packet.at
        raise NoDatagram(f"more than {MAX_HEADERS} headers")


class _IpPacket:
    """An IP packet up to the header that is no option.  ``fragment``: where it lies in its datagram, ``None``: it is whole."""

    def __init__(self, data: bytes, at: int, kind: int) -> None:
        first = _at(data, at, 1)[0] >> 4
        if _OF_VERSION.get(first) != kind:
            raise NoDatagram(NOT_IP)
        self.version, self.more = first, False
        self.fragment: int | None = None
        if first == 4:
            head = _at(data, at, 20)
            size, total = 4 * (head[0] & 15), int.from_bytes(head[2:4])
            if size < 20 or total < size:
                raise NoDatagram("bad IPv4 header")
            self.protocol, self.addresses = head[9], (head[12:16], head[16:20])
            flags = int.from_bytes(head[6:8])
            self._place(8 * (flags & 0x1FFF), more=bool(flags & 0x2000))
            self.key: tuple[object, ...] = (*self.addresses, head[4:6], head[9])
        else:
            head = _at(data, at, 40)
            size, total = 40, 40 + int.from_bytes(head[4:6])
            self.protocol, self.addresses = head[6], (head[8:24], head[24:40])
            self.key = ()
        self.data, self.at, self.end = data, at + size, at + total
        self._options()

    def _place(self, start: int, *, more: bool) -> None:
        """A fragment that is alone is a whole datagram (RFC 6946)."""
        if start or more:
            self.fragment, self.more = start, more

    def _options(self) -> None:
        """Pass over what stands before the payload.  Each takes 8 octets at least, so the packet's size bounds them."""
        while self.fragment is None:
            if self.version == 6 and self.protocol in _OPTIONS:
                option = _at(self.data, self.at, 8)
                self.protocol, self.at = option[0], self.at + 8 + 8 * option[1]
            elif self.version == 6 and self.protocol == _FRAGMENT:
                option = _at(self.data, self.at, 8)
                self.protocol, self.at = option[0], self.at + 8
                place = int.from_bytes(option[2:4])
                self.key = (*self.addresses, option[4:8])
                self._place(place & 0xFFF8, more=bool(place & 1))
            elif self.protocol == _AUTHENTICATION:
                option = _at(self.data, self.at, 8)
                self.protocol, self.at = option[0], self.at + 4 * (option[1] + 2)
            else:
                return

    def payload(self) -> bytes:
        """What a fragment carries: all of it, or it is of no use."""
        return _at(self.data, self.at, max(0, self.end - self.at))

    def joined(self, protocol: int, payload: bytes) -> None:
        """It is the whole datagram now."""
        self.protocol, self.data, self.at, self.end, self.fragment = protocol, payload, 0, len(payload), None
        self._options()
        if self.fragment is not None:
            raise NoDatagram("fragment in a fragment")

    def udp(self, *, checked: bool) -> tuple[Address, Address, bytes]:
        """``checked``: whether its check sum must be right.  Else nobody looks: many cards compute it after a capture."""
        if self.end < self.at + 8:
            raise NoDatagram("bad UDP length")
        source_port, destination_port, length, check = struct.unpack(">4H", _at(self.data, self.at, 8))
        if length < 8 or self.at + length > self.end:
            raise NoDatagram("bad UDP length")
        whole = _at(self.data, self.at, length)
        if checked and check and internet_sum(udp_head(self.addresses, length) + whole):
            raise NoDatagram("put together of fragments, and its check sum is wrong")
        source, destination = (str(ipaddress.ip_address(address)) for address in self.addresses)
        return (source, source_port), (destination, destination_port), whole[8:]


def udp_head(addresses: tuple[bytes, bytes], length: int) -> bytes:
    """What UDP's check sum covers before the datagram (RFC 768, RFC 8200 8.1)."""
    return addresses[0] + addresses[1] + struct.pack(">IHBB", length, 0, 0, UDP)


def internet_sum(data: bytes) -> int:
    """The Internet check sum (RFC 1071); of data that holds the right one, 0."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
