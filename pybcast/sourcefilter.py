# SPDX-License-Identifier: Apache-2.0
"""Whose datagrams a receiver takes (RFC 4570): the system is told when a group is joined, and each datagram is looked at.

The system's part (IGMPv3, MLDv2) keeps off the network what nobody wants.  It is no more than help: for a unicast address there is
none, and a system may have no room for so many sources.  So whoever receives asks ``admits`` of each datagram.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final, Literal

from pybcast.errors import ConfigError

MAX_SOURCES: Final = 64  # of one filter: more than headends of one service, and few enough to be looked through for each datagram
# linux/in.h, which Python names from 3.12 on
_IP_ADD_SOURCE_MEMBERSHIP: Final = 39
_IP_BLOCK_SOURCE: Final = 38
_MCAST_JOIN_SOURCE_GROUP: Final = 46
_MCAST_BLOCK_SOURCE: Final = 43
_SIOCGIFADDR: Final = 0x8915
_STORAGE: Final = 128  # octets of a struct sockaddr_storage


@dataclass(frozen=True)
class SourceFilter:
    """``mode``: ``incl``, only ``sources``; ``excl``, all but them.  ``sources``: addresses, or host names until ``resolved``."""

    mode: Literal["incl", "excl"]
    sources: tuple[str, ...]

    def admits(self, sender: str) -> bool:
        """Whether a datagram from this address is to be taken."""
        return (sender.partition("%")[0] in self.sources) is (self.mode == "incl")

    def resolved(self, family: socket.AddressFamily) -> SourceFilter:
        """The same with the addresses that its names have now.  ``ConfigError`` where a name has none."""
        found: dict[str, None] = {}
        for source in self.sources:
            if is_ip(source):
                found[source] = None
                continue
            try:
                found |= {str(entry[4][0]): None for entry in socket.getaddrinfo(source, None, family, socket.SOCK_DGRAM)}
            except (OSError, UnicodeError):
                raise ConfigError(f"source-filter: {source[:80]}: no address of this host is known") from None
        return SourceFilter(self.mode, tuple(found))

    def __str__(self) -> str:
        return f"{'only from' if self.mode == 'incl' else 'not from'} {', '.join(self.sources)}"


def is_ip(text: str) -> bool:
    """Whether it is a numeric address; one with a scope is of one machine, and none."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def family_of(host: str) -> socket.AddressFamily:
    """Of an address; a host name is one of IPv4."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def interface_index(interface: str) -> int:
    """The system's number of the interface with that name or first IPv4 address; 0, its own choice, of none.  ``OSError``."""
    if not interface or interface == "0.0.0.0":
        return 0
    if _is_name(interface):
        return socket.if_nametoindex(interface)
    for index, name in socket.if_nameindex():
        with contextlib.suppress(OSError):  # it has no IPv4 address
            if _address_of(name) == interface:
                return index
    raise OSError(errno.ENODEV, f"no interface has the address {interface}")


def _is_name(interface: str) -> bool:
    return bool(interface) and not is_ip(interface)


def _address_of(name: str) -> str:
    """The first IPv4 address of an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        found = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("=16s24x", name.encode()[:15]))
    return socket.inet_ntoa(found[20:24])


def join(made: socket.socket, group: str, interface: str, senders: SourceFilter | None) -> None:
    """Join a multicast group on an interface (``interface_index``).  ``OSError``."""
    joining = _join4 if made.family == socket.AF_INET else _join6
    joining(made, group, interface, senders)


def _join4(made: socket.socket, group: str, interface: str, senders: SourceFilter | None) -> None:
    where = socket.inet_aton(group) + socket.inet_aton(_address_of(interface) if _is_name(interface) else interface or "0.0.0.0")
    if senders is not None and senders.mode == "incl":
        try:
            for source in senders.sources:
                made.setsockopt(socket.IPPROTO_IP, _IP_ADD_SOURCE_MEMBERSHIP, where + socket.inet_aton(source))
            return
        except OSError:  # not so many, or not at all: each datagram is looked at
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, where)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, where)
    if senders is not None and senders.mode == "excl":
        with contextlib.suppress(OSError):
            for source in senders.sources:
                made.setsockopt(socket.IPPROTO_IP, _IP_BLOCK_SOURCE, where + socket.inet_aton(source))


def _join6(made: socket.socket, group: str, interface: str, senders: SourceFilter | None) -> None:
    index = interface_index(interface)
    any_source = socket.inet_pton(socket.AF_INET6, group) + index.to_bytes(4, sys.byteorder)
    if senders is not None and senders.mode == "incl":
        try:
            for source in senders.sources:
                made.setsockopt(socket.IPPROTO_IPV6, _MCAST_JOIN_SOURCE_GROUP, _group_source(index, group, source))
            return
        except OSError:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, any_source)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, any_source)
    if senders is not None and senders.mode == "excl":
        with contextlib.suppress(OSError):
            for source in senders.sources:
                made.setsockopt(socket.IPPROTO_IPV6, _MCAST_BLOCK_SOURCE, _group_source(index, group, source))


def _group_source(index: int, group: str, source: str) -> bytes:
    """``struct group_source_req``: 64-bit systems have 4 octets between the index and the addresses."""
    gap = bytes(struct.calcsize("P") - 4)
    parts = (struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, a), 0) for a in (group, source))
    return index.to_bytes(4, sys.byteorder) + gap + b"".join(part.ljust(_STORAGE, b"\0") for part in parts)
