# SPDX-License-Identifier: Apache-2.0
"""A terminal's ear: what it passes on and what not, when it dies, and among very much that is for others."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import Callable

import pytest

from pybcast.broadcast.listener import MAX_DATAGRAM, MAX_UNKNOWN, Listener, receiver
from pybcast.errors import ConfigError

LOOPBACK = "127.0.0.1"
LIMIT = 20.0  # seconds until a test gives up
GROUP = "239.255.43.59"


def port_of(made: socket.socket) -> int:
    return int(made.getsockname()[1])


def free_ports(count: int) -> list[int]:
    held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for made in held:
        made.bind((LOOPBACK, 0))
    ports = [port_of(made) for made in held]
    for made in held:
        made.close()
    return ports


class Hearing:
    """What came, and somebody who waits for it."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self._came = asyncio.Event()

    def __call__(self, index: int, data: bytes) -> None:
        self.heard.append((index, data))
        self._came.set()

    async def until(self, good: Callable[[], bool], again: Callable[[], None] = lambda: None) -> None:
        """Wait, ``again`` and again, as what is sent on air is."""
        async with asyncio.timeout(LIMIT):
            while not good():
                again()
                self._came.clear()
                try:
                    async with asyncio.timeout(0.1):
                        await self._came.wait()
                except TimeoutError:
                    continue


def test_only_what_holds_a_wanted_id_is_passed_on() -> None:
    async def run() -> None:
        ports, hearing = free_ports(3), Hearing()
        listener = Listener([(LOOPBACK, port) for port in ports], LOOPBACK, hearing)
        listener.want(0, {b"\0\1\0\7", b".*\n("})  # no pattern, but bytes
        listener.want(1, set())
        listener.start()
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mine = [b"x" * 20 + b"\0\1\0\7" + b"y", b".*\n(", b"z" * 1500 + b".*\n("]
            others = [b"", b"\0\1\0\6" * 30, b".*" * 9, random.Random(1).randbytes(1400)]

            def send() -> None:
                for data in (*others, *mine):
                    for port in ports:
                        out.sendto(data, (LOOPBACK, port))

            await hearing.until(
                lambda: (
                    {d for i, d in hearing.heard if i == 2} == {*mine, *others}
                    and {d for i, d in hearing.heard if i == 0} == {*mine}
                ),
                send,
            )
            assert {d for i, d in hearing.heard if i == 2} == {*mine, *others}, "nothing is known: some of everything"
            assert {i for i, _ in hearing.heard} == {0, 2}, "nothing is wanted of the second port"
            listener.want(1, {b"\0\1\0\6"})
            listener.want(0, set())
            await hearing.until(lambda: any(i == 1 for i, _ in hearing.heard), send)
            assert {d for i, d in hearing.heard if i == 1} == {others[1]}
            await hearing.until(lambda: listener.counts[1].passed > 0, send)
            assert listener.counts[1].datagrams >= 7 and listener.counts[0].datagrams > listener.counts[0].passed
        finally:
            out.close()
            listener.stop()

    asyncio.run(run())


def test_what_is_too_long_is_cut() -> None:
    async def run() -> None:
        (port,), hearing = free_ports(1), Hearing()
        listener = Listener([(LOOPBACK, port)], LOOPBACK, hearing)
        listener.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            await hearing.until(lambda: bool(hearing.heard), lambda: void(out.sendto(b"a" * 9000, (LOOPBACK, port))))
        listener.stop()
        assert {len(data) for _, data in hearing.heard} == {MAX_DATAGRAM}

    asyncio.run(run())


def void(_: object) -> None:
    """For an expression whose value nobody needs."""


def test_an_ear_that_dies_is_replaced_and_nothing_in_its_sockets_is_lost() -> None:
    async def run() -> None:
        (port,), hearing = free_ports(1), Hearing()
        listener = Listener([(LOOPBACK, port)], LOOPBACK, hearing)
        listener.want(0, {b"mine"})
        listener.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            await hearing.until(lambda: bool(hearing.heard), lambda: void(out.sendto(b"mine 0", (LOOPBACK, port))))
            assert listener._child is not None
            os.kill(listener._child.pid, signal.SIGKILL)
            listener._child.wait()
            out.sendto(b"foreign", (LOOPBACK, port))
            out.sendto(b"mine 1", (LOOPBACK, port))
            await hearing.until(lambda: (0, b"mine 1") in hearing.heard)
        assert listener.restarts == 1 and b"foreign" not in {data for _, data in hearing.heard}
        listener.stop()

    asyncio.run(run())


def test_a_port_of_which_nothing_is_known_does_not_drown_the_terminal() -> None:
    async def run() -> None:
        (port,), hearing = free_ports(1), Hearing()
        listener = Listener([(LOOPBACK, port)], LOOPBACK, hearing)
        listener.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            await hearing.until(lambda: bool(hearing.heard), lambda: void(out.sendto(b"first", (LOOPBACK, port))))

            def flood() -> None:
                for n in range(3 * MAX_UNKNOWN):
                    out.sendto(b"%d" % n, (LOOPBACK, port))

            await hearing.until(lambda: listener.counts[0].datagrams > 10 * MAX_UNKNOWN, flood)
        count = listener.counts[0]
        listener.stop()
        assert count.passed < count.datagrams / 2

    asyncio.run(run())


def test_an_address_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.1:9"):
        receiver(("203.0.113.1", 9), LOOPBACK)
    with pytest.raises(ConfigError, match=r"239\.255\.43\.59"):
        receiver((GROUP, free_ports(1)[0]), "203.0.113.1")
