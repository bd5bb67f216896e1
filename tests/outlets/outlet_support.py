# SPDX-License-Identifier: Apache-2.0
"""Keys and packets for the tests of what takes keys, and a key socket that says what a test wants."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pybcast.flows import TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.keyline import KeyOutput
from pybcast.outlets.keysocket import KeyOutlet
from pybcast.secret import Secret
from pybcast.wire.times import NTP_UNIX

SERVICE: Final = "urn:example:news"
SSRC: Final = 0xCAFEBABE
FAR: Final = 10_000_000_000  # NTP seconds
EPOCH: Final = NTP_UNIX


def tek(number: int) -> Secret:
    return Secret(random.Random(number).randbytes(16))


def salt(number: int) -> bytes:
    return random.Random(-number).randbytes(14)


def mki(number: int) -> bytes:
    return number.to_bytes(6)


def use(number: int, *, end: int | None = None, service: str = SERVICE, protocol: Protocol = Protocol.SRTP) -> UseKey:
    """Key ``number`` for an encoder."""
    return UseKey(service, 1, number, protocol, mki(number), tek(number), salt(number), None, end)


def ready(number: int, *, until: float = FAR, service: str = SERVICE) -> TekReady:
    """The same key for a player."""
    return TekReady(service, 1, mki(number), tek(number), salt(number), None, until, Protocol.SRTP)


def rtp(index: int, *, ssrc: int = SSRC, size: int = 40) -> bytes:
    """Packet ``index`` of a stream, which its payload repeats."""
    return struct.pack(">BBHII", 0x80, 96, index & 0xFFFF, index, ssrc) + index.to_bytes(4) * (size // 4)


class KeySocket:
    """A key socket in a thread, to be fed from a test; ``stop`` and ``start`` kill and revive it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._outlet: KeyOutlet | None = None

    def start(self) -> None:
        self._outlet = KeyOutlet(self.path)
        asyncio.run_coroutine_threadsafe(self._outlet.start(), self._loop).result(30)

    def stop(self) -> None:
        if self._outlet is not None:
            asyncio.run_coroutine_threadsafe(self._outlet.stop(), self._loop).result(30)
            self._outlet = None

    def put(self, *outputs: KeyOutput) -> None:
        outlet = self._outlet
        assert outlet is not None

        async def put() -> None:
            for output in outputs:
                outlet.put(output)

        asyncio.run_coroutine_threadsafe(put(), self._loop).result(30)

    def wait_reader(self) -> None:
        """Until someone reads."""
        deadline = time.monotonic() + 30
        while self._outlet is None or not self._outlet.readers:
            assert time.monotonic() < deadline, "nobody reads the keys"
            time.sleep(0.01)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


@contextmanager
def key_socket(path: Path) -> Iterator[KeySocket]:
    made = KeySocket(path)
    try:
        made.start()
        yield made
    finally:
        made.close()
