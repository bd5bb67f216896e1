# SPDX-License-Identifier: Apache-2.0
"""UDP sockets for media: RTP on a port and RTCP on the next, unicast or multicast, read without waiting."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pybcast.errors import ConfigError
from pybcast.sourcefilter import SourceFilter, join

LOOPBACK: Final = "127.0.0.1"
RECEIVE_BUFFER: Final = 4 << 20  # bytes, as far as the system allows: packets wait here while another process has the core
MAX_DATAGRAM: Final = 65_535  # bytes: none is cut; to have room costs nothing
BURST: Final = 256  # datagrams read before others have their turn: some 5 ms of work - confidence: own
_PAIR_TRIES: Final = 64  # the system hands out ports at random, every other one even


class Address(NamedTuple):
    """A numeric IP address and a port of RTP; RTCP has the next (RFC 3550, 11)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``HOST:PORT`` or ``[HOST]:PORT``; ``ConfigError`` for anything else, names included."""
        host, colon, port = text.rpartition(":")
        try:
            found = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
        except ValueError:
            found = ""
        if not found or not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) < 65535:
            raise ConfigError(f"{text[:80]!r}: expected HOST:PORT, a numeric address and a port below 65535")
        return cls(found, int(port))

    @property
    def multicast(self) -> bool:
        return ipaddress.ip_address(self.host).is_multicast

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two bound sockets that do not block: RTP and RTCP.  ``senders``: whose datagrams are taken, ``None``: everybody's."""

    rtp: socket.socket
    rtcp: socket.socket
    senders: SourceFilter | None = None

    @property
    def port(self) -> int:
        return int(self.rtp.getsockname()[1])

    @classmethod
    def bind(cls) -> Pair:
        """A free pair on loopback, the first port even; ``OSError`` when none is found."""
        last: OSError | None = None
        for _ in range(_PAIR_TRIES):
            rtp = _bound(Address(LOOPBACK, 0), "")
            port = rtp.getsockname()[1]
            try:
                if port % 2 == 0:
                    return cls(rtp, _bound(Address(LOOPBACK, port + 1), ""))
            except OSError as error:
                last = error
            rtp.close()
        raise last or OSError("no even port free")

    @classmethod
    def listen(cls, address: Address, interface: str = "", senders: SourceFilter | None = None) -> Pair:
        """What arrives at ``address``; a multicast group is joined on the interface with that address (IPv4) or name (IPv6).

        ``senders``: whose datagrams are taken.  ``ConfigError`` when it cannot be had.
        """
        made: list[socket.socket] = []
        try:
            for port in (address.port, address.port + 1):
                made.append(_bound(Address(address.host, port), interface, senders))
        except OSError as error:
            for one in made:
                one.close()
            raise ConfigError(f"cannot listen at {address}: {error.strerror or error}") from None
        return cls(made[0], made[1], senders)

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


def headers(address: Address) -> int:
    """Bytes of the IP and UDP headers before a datagram to ``address``."""
    return 48 if address.family == socket.AF_INET6 else 28


def sending(address: Address, interface: str = "", ttl: int = 1) -> Pair:
    """Two sockets that send to ``address`` and the next port.

    ``interface`` as in ``Pair.listen`` and ``ttl``: of multicast.  ``ConfigError`` when they cannot be had.
    """
    made: list[socket.socket] = []
    try:
        for port in (address.port, address.port + 1):
            made.append(socket.socket(address.family, socket.SOCK_DGRAM))
            made[-1].setblocking(False)
            if address.multicast:
                _multicast_out(made[-1], address, interface, ttl)
            made[-1].connect((address.host, port))
    except OSError as error:
        for one in made:
            one.close()
        raise ConfigError(f"cannot send to {address}: {error.strerror or error}") from None
    return Pair(made[0], made[1])


def drain(source: socket.socket, most: int | None = None, senders: SourceFilter | None = None) -> Iterator[bytes]:
    """Every datagram that waits in ``source``, at most ``most``; of ``senders`` only."""
    while most is None or most > 0:
        try:
            if senders is None:
                yield source.recv(MAX_DATAGRAM)
            else:
                data, sender = source.recvfrom(MAX_DATAGRAM)
                if senders.admits(sender[0]):
                    yield data
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            continue  # the news that an earlier datagram found no receiver; datagrams may be lost
        if most is not None:
            most -= 1


def _bound(address: Address, interface: str, senders: SourceFilter | None = None) -> socket.socket:
    made = socket.socket(address.family, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        made.setblocking(False)
        if address.multicast:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several receivers of one group on a machine
        made.bind(address)
        if address.multicast:
            join(made, address.host, interface, senders)
            if address.family == socket.AF_INET:
                made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)  # not what others here have joined on this port
    except BaseException:
        made.close()
        raise
    return made


_IP_MULTICAST_ALL: Final = 49  # linux/in.h


def _multicast_out(made: socket.socket, address: Address, interface: str, ttl: int) -> None:
    if address.family == socket.AF_INET:
        if interface:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, _index(interface))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)


def _index(interface: str) -> int:
    return socket.if_nametoindex(interface) if interface else 0
