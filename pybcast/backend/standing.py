# SPDX-License-Identifier: Apache-2.0
"""What servers tell each other of their stores, so that each is a witness of the other's (R51).

Every request and answer carries two HTTP fields: how far the sender's store has come (``Pybcast-Commit``), and the furthest that it
has heard of the receiver's (``Pybcast-Heard``).  Who reads of a commit of its own that is above its own has an older store than the
one that spoke: it was put back.  Both are text that only its maker can make and read; a peer keeps it and sends it back.

They are fields of HTTP and no part of a message: a message that is repeated has the same bytes (R27), its sender has moved on.  A
server that does not know them ignores them, and is no witness.  confidence: own

A third field, ``Pybcast-Void``, is the BSM's: the operator said that this BSD/A is off air, and its pair went on without it:
its store is void (R50).  A BSD/A hears it before it sends anything: its start waits until the BSM has spoken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

COMMIT: Final = "Pybcast-Commit"
HEARD: Final = "Pybcast-Heard"
VOID: Final = "Pybcast-Void"
SENDER: Final = "Pybcast-Id"
"""Who asks, where no certificate says so: plain HTTP between loopback addresses (R26)."""


class Memory(Protocol):
    """What of a store is used here (``store.SqliteStore``)."""

    def token(self) -> str: ...
    def note_heard(self, peer: str, token: str) -> None: ...
    def heard(self, peer: str) -> str: ...
    def behind(self, token: str) -> bool: ...


class Standing:
    """Where one server stands, for its client and its server.

    ``behind(peer, token)``: called when a peer has heard of a commit that our store does not have.  ``void(peer)``: called once for
    a peer that says that our store is not to be used; without it that is ignored.
    """

    def __init__(self, memory: Memory, behind: Callable[[str, str], None], void: Callable[[str], None] | None = None) -> None:
        self._memory, self._behind, self._void = memory, behind, void
        self.off_air: Callable[[str], bool] = lambda _: False
        """Whether a peer is to be told that its store is not to be used."""
        self._voided: set[str] = set()
        self._spoken: set[str] = set()
        self._news = asyncio.Event()

    def fields(self, peer: str) -> dict[str, str]:
        """What goes with a message to a peer."""
        fields = {COMMIT: self._memory.token()}
        if self.off_air(peer):
            fields[VOID] = "1"
        heard = self._memory.heard(peer)
        return fields | {HEARD: heard} if heard else fields

    def heard(self, peer: str, fields: Mapping[str, str]) -> None:
        """What came with a message of an authenticated peer."""
        token, echo = fields.get(COMMIT, ""), fields.get(HEARD, "")
        if token:
            self._memory.note_heard(peer, token)
        if echo and self._memory.behind(echo):
            self._behind(peer, echo)
        if VOID in fields and self._void is not None and peer not in self._voided:
            self._voided.add(peer)
            self._void(peer)
        self._spoken.add(peer)
        self._news.set()

    async def all_spoken(self, peers: Collection[str]) -> None:
        """Until each of these has spoken since this was made."""
        while not self._spoken.issuperset(peers):
            self._news.clear()
            await self._news.wait()
