# SPDX-License-Identifier: Apache-2.0
"""Processes that write until they are killed.  A program of its own, started once: it forks a writer for each line it reads.

A line is ``KIND SEED PATH``.  It answers ``pid N``, ``ack N`` for each write that was acknowledged, ``dead`` when the process is
gone.  What write N holds follows from SEED and N alone (``batch``), so that the reader knows every state there can be.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Final

from pybcast.flows import Persist
from pybcast.keys import KEK, TEK
from pybcast.store import Database, SqliteStore, restore
from pybcast.store.changes import Changes

KEK_A, KEK_B = KEK(bytes(range(32))), KEK(bytes(range(1, 17)))
IN_FLIGHT: Final = 8
STEPS: Final = ("store/database.py", "store/progress.py", "store/witness.py", "store/copies.py", "store/files.py", "pathlib.py")
"""Where calls are counted: all that touches a file when a database is opened, written to or put back."""


def witness_of(path: Path) -> Path:
    """Where the witness of a database is."""
    return path.parent / "witness" / path.name


def batch(seed: int, number: int) -> list[Persist]:
    """Write ``number``: a counter, rows that come and go, now and then thousands at once."""
    rng = random.Random(seed * 1_000_003 + number)
    size = 3000 if rng.random() < 0.03 else rng.randrange(1, 20)
    rows = [Persist("smk-counter", ("one",), number)]
    for _ in range(size):
        key = rng.randrange(4000)
        rows.append(Persist("period", (key,), None if rng.random() < 0.3 else (number, TEK(rng.randbytes(16)), rng.randbytes(50))))
    return [*rows, Persist("last", (), number)]


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def _write(seed: int, path: Path) -> None:
    """A server: writes on, several in flight."""
    store = SqliteStore(path, KEK_A, owner="urn:bsm", witness=witness_of(path))
    waiting: deque[tuple[int, Future[None]]] = deque()
    number = store.load().get("last", {}).get((), -1)
    assert isinstance(number, int)
    while True:
        number += 1
        waiting.append((number, store.submit(batch(seed, number))))
        while len(waiting) >= IN_FLIGHT or (waiting and waiting[0][1].done()):
            acknowledged, future = waiting.popleft()
            future.result()
            _say(f"ack {acknowledged}")


class _Dying:
    """Dies at the n-th call into a C function that may touch a file, before it or after it; 0: never."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __enter__(self) -> None:
        sys.setprofile(self._count)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        _say(f"ack {self.calls}")

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event.startswith("c_") and frame.f_code.co_filename.endswith(STEPS):
            self.calls += 1
            if self.calls == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def _step(seed: int, path: Path) -> None:
    """Opens, writes a row, and closes; dies at call ``seed``.  Says at the end how many calls it was."""
    with _Dying(seed):
        database = Database(path, KEK_A, owner="urn:bsm", witness=witness_of(path))
        _say("ack 0")
        changes = Changes()
        database.encode([Persist("last", (), seed)], changes)
        database.commit(changes)
        _say("ack 1")
        database.close()


def _restore(seed: int, path: Path) -> None:
    """Puts ``copy.db`` in place of the database; dies at call ``seed``.  Says at the end how many calls it was."""
    with _Dying(seed):
        restore(path, path.with_name("copy.db"), KEK_A, owner="urn:bsm", witness=witness_of(path))
        _say("ack 0")


def _rotate(seed: int, path: Path) -> None:
    """A server whose key-encryption key is changed, a few rows at a time."""
    database = Database(path, KEK_A)
    database.rotate_begin(KEK_B)
    _say("ack 0")
    number = 0
    while database.rotate_step(10):
        number += 1
        _say(f"ack {number}")
    while True:
        _say("ack 0")


KINDS: Final[dict[str, Callable[[int, Path], None]]] = {"write": _write, "rotate": _rotate, "step": _step, "restore": _restore}


def main() -> None:
    for line in sys.stdin:
        kind, seed, path = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            try:
                KINDS[kind](int(seed), Path(path))
            finally:
                os._exit(1)
        _say(f"pid {child}")
        os.waitpid(child, 0)
        _say("dead")


if __name__ == "__main__":
    main()
