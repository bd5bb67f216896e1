# SPDX-License-Identifier: Apache-2.0
"""Many datagrams in one call: ``sendmmsg`` of the C library on arrays that are kept ready.

A datagram costs the kernel's time and no Python at all: a slot keeps an array of ``struct mmsghdr``, in which putting and taking
one is a move of bytes.  Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import ipaddress
import socket
import sys
from collections import Counter
from typing import Final

from pybcast.broadcast.repeater import Datagram, Place, Slot
from pybcast.errors import ConfigError
from pybcast.sourcefilter import SourceFilter, family_of, interface_index, is_ip, join

MOST: Final = 1024  # datagrams in one call: UIO_MAXIOV, beyond which the kernel silently takes fewer
BUFFER: Final = 4 << 20  # octets of the socket's buffer: some slots' worth, for an interface that stalls - confidence: own


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int),
    )  # fmt: skip


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("hdr", _Msghdr), ("len", ctypes.c_uint))


SIZE: Final = ctypes.sizeof(_Mmsghdr)
_IOVEC: Final = ctypes.sizeof(_Iovec)
_memmove = ctypes.memmove


@functools.cache
def _function() -> ctypes._NamedFuncPointer:
    """``sendmmsg``.  ``ConfigError`` where there is none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).sendmmsg
    except (OSError, AttributeError):
        raise ConfigError("sending needs sendmmsg: Linux") from None
    found.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    found.restype = ctypes.c_int
    return found


@functools.lru_cache(maxsize=65536)
def _address(place: Place) -> ctypes.Array[ctypes.c_char]:
    """``struct sockaddr_in``; it stays where it is: arrays point to it."""
    host, port = place
    packed = socket.AF_INET.to_bytes(2, sys.byteorder) + port.to_bytes(2, "big")
    return ctypes.create_string_buffer(packed + socket.inet_aton(host) + bytes(8), 16)


class PackedSlot(Slot):
    """A slot that is always ready to leave."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._room = 0
        self._array: ctypes.Array[ctypes.c_char]
        self.address = 0
        self._grow(8)

    def insert(self, index: int, datagram: Datagram) -> None:
        count = len(self.items)
        if count == self._room:
            self._grow(2 * count)
        head, at = _head(datagram), self.address + index * SIZE
        _memmove(at + SIZE, at, (count - index) * SIZE)
        _memmove(at, head, SIZE)
        super().insert(index, datagram)

    def remove(self, index: int) -> None:
        at = self.address + index * SIZE
        _memmove(at, at + SIZE, (len(self.items) - index - 1) * SIZE)
        super().remove(index)

    def _grow(self, room: int) -> None:
        made = ctypes.create_string_buffer(room * SIZE)
        if self._room:
            _memmove(made, self._array, self._room * SIZE)
        self._room, self._array, self.address = room, made, ctypes.addressof(made)


def _head(datagram: Datagram) -> bytes:
    """Its ``struct mmsghdr``.  What that points to is kept by the datagram, which may be in two slots."""
    if datagram.handle is not None:
        head: bytes = datagram.handle[0]
        return head
    address, size = _address(datagram.place), len(datagram.data)
    body = ctypes.create_string_buffer(_IOVEC + size)
    at = ctypes.addressof(body)
    _memmove(at, bytes(_Iovec(at + _IOVEC, size)), _IOVEC)
    _memmove(at + _IOVEC, datagram.data, size)
    head = bytes(_Mmsghdr(_Msghdr(ctypes.addressof(address), 16, at, 1, None, 0, 0), 0))
    datagram.handle = (head, body, address)
    return head


class Wire:
    """The socket by which datagrams leave, by ``interface`` (its IPv4 address) and, to groups, with ``ttl``."""

    def __init__(self, interface: str, ttl: int) -> None:
        self._send = _function()
        self.errors: Counter[str] = Counter()
        """Datagrams that did not leave, by the system's name for why."""
        self.failed: list[int] = []
        """Of the last slot that was sent: the indexes of those that could not leave."""
        self._socket = sending(interface, ttl)
        self._number = self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, slot: PackedSlot) -> int:
        """All of a slot, never waiting; how many from its begin have been given away, but for those that ``failed``."""
        wanted = len(slot.items)
        if not wanted:
            return 0
        if self.failed:
            self.failed = []
        done: int = self._send(self._number, slot.address, wanted, socket.MSG_DONTWAIT)
        return wanted if done == wanted else self._rest(slot, wanted, done)

    def _rest(self, slot: PackedSlot, wanted: int, now: int) -> int:
        """After a call that took fewer: the others, but for the one that cannot leave."""
        done = max(0, now)
        while done < wanted:
            if now < 0:
                number = ctypes.get_errno()
                if number in (errno.EAGAIN, errno.ENOBUFS):
                    self.errors[errno.errorcode[number]] += wanted - done
                    break
                if number != errno.EINTR:
                    self.errors[errno.errorcode.get(number, str(number))] += 1
                    self.failed.append(done)
                    done += 1
                    if done == wanted:
                        break
            now = self._send(self._number, slot.address + done * SIZE, wanted - done, socket.MSG_DONTWAIT)
            done += max(0, now)
        return done


def sending(interface: str, ttl: int) -> socket.socket:
    """A UDP socket that sends by an interface.  ``ConfigError`` when there is none of that address."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise ConfigError(f"interface {interface}: {error.strerror or error}") from None
    return made


def hearing(place: Place, interface: str, senders: SourceFilter | None = None) -> socket.socket:
    """A UDP socket that hears what is sent to a place, a multicast group by an interface.  ``ConfigError`` when it cannot.

    ``place``: of IPv4 or IPv6; a host name is one of IPv4.  ``interface``: its IPv4 address or its name, for groups of both.
    ``senders``: whose datagrams are wanted; the others may come all the same, and are for the reader to refuse.
    """
    host, port = place
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    made: socket.socket | None = None
    try:
        family = family_of(host)
        if not is_ip(host):
            host = str(socket.getaddrinfo(host, None, family, socket.SOCK_DGRAM)[0][4][0])
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_group(host):
            # A group of a link or of this host is one of its interface.
            made.bind((host, port) if family == socket.AF_INET else (host, port, 0, interface_index(interface)))
            join(made, host, interface, senders)
        else:
            made.bind((host, port))
        made.setblocking(False)
    except (OSError, UnicodeError) as error:
        if made is not None:
            made.close()
        raise ConfigError(f"{shown}: {getattr(error, 'strerror', None) or error}") from None
    return made


def is_group(host: str) -> bool:
    """Whether it is a multicast address."""
    return is_ip(host) and ipaddress.ip_address(host).is_multicast
