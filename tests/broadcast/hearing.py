# SPDX-License-Identifier: Apache-2.0
"""A listener for tests: every datagram of some ports, with the time at which the kernel got it."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

_TIMESTAMP: Final = 35  # SO_TIMESTAMPNS
Heard = tuple[float, bytes]
"""Unix time, what."""


class Listener:
    """Hears a multicast group on loopback, or 127.0.0.1, on these ports, in a thread of its own."""

    def __init__(self, host: str, ports: Sequence[int]) -> None:
        self._sockets = {}
        self._changed = threading.Condition()
        self._heard: dict[int, list[Heard]] = defaultdict(list)
        for port in ports:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            made.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
            made.bind((host, port))
            if host != "127.0.0.1":
                wanted = socket.inet_aton(host) + socket.inet_aton("127.0.0.1")
                made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)
            made.setblocking(False)
            self._sockets[made.fileno()] = (made, port)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.close()
        self._thread.join(10)
        self._stopped.close()
        for made, _ in self._sockets.values():
            made.close()

    @property
    def heard(self) -> dict[int, list[Heard]]:
        """By port."""
        with self._changed:
            return {port: list(rows) for port, rows in self._heard.items()}

    def wait(self, wanted: Callable[[dict[int, list[Heard]]], object], what: str, limit: float = 60.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: wanted(self._heard), limit), f"not heard: {what}"

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([*self._sockets, self._stopped.fileno()], (), ())
            if self._stopped.fileno() in ready:
                return
            with self._changed:
                for number in ready:
                    made, port = self._sockets[number]
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            data, more, _, _ = made.recvmsg(65536, 64)
                            seconds, nano = struct.unpack("ll", more[0][2])
                            self._heard[port].append((seconds + nano / 1e9, data))
                self._changed.notify_all()


def gaps(rows: Sequence[Heard]) -> Iterator[tuple[float, float]]:
    """(when it began, how long) of every silence between two datagrams."""
    for (a, _), (b, _) in pairwise(rows):
        yield a, b - a
