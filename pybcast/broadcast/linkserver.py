# SPDX-License-Identifier: Apache-2.0
"""The process's end of the link: the edge, or the carousel (``link``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pybcast.broadcast import link
from pybcast.broadcast.link import MAX_FRAME, Ask, Begin, Commit, Executed, Frames, Gone, Here, Said, Which, understood
from pybcast.errors import BadValue, WireError
from pybcast.unixsocket import LocalServer

MAX_PEERS: Final = 8  # connections: a BSD/A, the one whose place it takes, and who asks for the state - confidence: own
MAX_BEHIND: Final = 64 << 20  # octets that a BSD/A may leave unread: what 10,000 streams have, and reports - confidence: own


class LinkServer(LocalServer):
    """The end of the process that puts things on air.

    Wait until :meth:`fileno` can be read or :attr:`waiting` is true, then :meth:`poll`.  ``limit``: octets of a frame.  ``shard``:
    whose this process is.
    """

    def __init__(self, path: Path, *, limit: int = MAX_FRAME, shard: int = 0) -> None:
        super().__init__(path, most=MAX_PEERS, behind=MAX_BEHIND, alone=True)
        self._limit, self._shard = limit, shard
        self._commit = ""
        self._epoch = 0
        self._frames: dict[int, Frames] = {}
        self._whole: set[int] = set()  # whose bytes hold a whole frame, perhaps
        self._owner: int | None = None
        self._pending: deque[Said] = deque()
        self._executed = bytearray()
        self.refused = 0  # connections that were cut off for what they said, or for who they are

    @property
    def connected(self) -> bool:
        """Whether a BSD/A is there."""
        return self._owner is not None

    @property
    def waiting(self) -> bool:
        """Whether :meth:`poll` would give something without reading."""
        return bool(self._pending or self._whole)

    def poll(self, most: int = 64) -> list[Said]:
        """The next messages, at most ``most``; what is not taken now waits, and its sender with it."""
        self._turn()
        found: list[Said] = []
        while self._pending and len(found) < most:
            found.append(self._pending.popleft())
        for number in list(self._peers):
            while len(found) < most and number in self._peers:
                said = self._next(number)
                if said is None:
                    break
                found.append(said)
                while self._pending and len(found) < most:
                    found.append(self._pending.popleft())
        return found

    def say(self, output: Executed) -> None:
        """Tell the BSD/A, with the next :meth:`flush`; where none is there, one that comes asks what is here."""
        if self._owner is not None:
            self._executed += link.executed(output)

    def flush(self) -> None:
        """Send what is to be said."""
        if self._executed and self._owner is not None:
            said, self._executed = bytes(self._executed), bytearray()
            self._write(self._owner, said)

    def again(self) -> None:
        """Have the BSD/A connect again, and say everything anew."""
        if self._owner is not None:
            self._cut(self._owner, "it is to say everything anew")

    def answer(self, ask: Ask, figures: Mapping[str, Any]) -> None:
        """Answer a question with plain numbers and texts."""
        if ask.peer in self._peers:
            self._write(ask.peer, link.state(figures))

    def here(self, which: Which, has: Here = Here()) -> None:  # noqa: B008 - it is frozen
        """Answer with what is here now; the link adds the commit and the epoch.  After what was executed before, so the BSD/A hears
        both in their order.
        """
        self.flush()
        if which.peer in self._peers:
            self._write(which.peer, link.here(Here(self._commit, self._epoch, self._shard, has.held, has.alarms)))

    # --- connections ------------------------------------------------------------------------------------------------------

    def _came(self, number: int) -> None:
        self._frames[number] = Frames(self._limit)

    def _stranger(self, why: str) -> None:
        self.refused += 1

    def _reads(self, number: int) -> bool:
        return number not in self._whole

    def _heard(self, number: int, data: bytes) -> None:
        self._frames[number].feed(data)
        self._whole.add(number)

    def _left(self, number: int, why: str) -> None:
        del self._frames[number]
        self._whole.discard(number)
        if number == self._owner:
            self._owner = None
            self._executed.clear()
            self._pending.append(Gone(why))

    def _next(self, number: int) -> Said | None:
        if number not in self._whole:
            return None
        try:
            while True:
                body = self._frames[number].next()
                if body is None:
                    self._whole.discard(number)
                    return None
                said = understood(body, number)
                if not isinstance(said, Commit):
                    break
                if number == self._owner:
                    self._commit = said.token
            if isinstance(said, Begin):
                self._own(number, said)
            elif not isinstance(said, Ask | Which) and self._owner != number:
                raise BadValue(None, "frame", "begin", type(said).__name__)
        except WireError as error:
            self.refused += 1
            self._cut(number, str(error))
            return None
        return said

    def _own(self, number: int, begin: Begin) -> None:
        """R44: of an epoch that is over nothing is taken, nor of another shard."""
        if begin.epoch < self._epoch:
            raise BadValue(None, "frame.epoch", f"{self._epoch} or above", str(begin.epoch))
        if begin.shard != self._shard:
            raise BadValue(None, "frame.shard", str(self._shard), str(begin.shard))
        self._epoch = begin.epoch
        before, self._owner = self._owner, number
        self._executed.clear()
        if before is not None and before != number:
            self._cut(before)
