# SPDX-License-Identifier: Apache-2.0
"""How a command that runs until somebody stops it notices SIGINT and SIGTERM: between two steps, never inside one."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Stop:
    """Says whether a signal has come.  No lock is held where a handler could want it: a handler only writes to a socket."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def fileno(self) -> int:
        """Readable from the first signal on."""
        return self._ours.fileno()

    def wait(self, seconds: float) -> bool:
        """Whether one has come, after at most so many seconds."""
        return bool(select.select([self._ours], [], [], max(0.0, seconds))[0])

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        with suppress(BlockingIOError):
            self._theirs.send(b"!")

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Take SIGINT and SIGTERM; afterwards they do what they did before."""
    stop = Stop()
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
