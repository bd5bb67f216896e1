# SPDX-License-Identifier: Apache-2.0
"""IPv6 multicast for tests: where this machine has it."""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def sender6(group: str, port: int) -> Iterator[tuple[str, socket.socket]]:
    """An interface that has IPv6 multicast, and a socket that sends by it, to this host only."""
    for index, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 0)
            try:
                made.connect((group, port, 0, index))
            except OSError:
                continue
            yield name, made
            return
    pytest.skip("no IPv6 here")


def address4(name: str) -> str:
    """The IPv4 address of an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        found = fcntl.ioctl(made, 0x8915, name.encode().ljust(40, b"\0"))  # SIOCGIFADDR
    return socket.inet_ntoa(found[20:24])
