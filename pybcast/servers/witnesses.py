# SPDX-License-Identifier: Apache-2.0
"""Who else knows what this server did, and what is made of it (R51).

The store has a witness file of its own (``store.witness``).  Back-end peers and the processes that put things on air are further
witnesses: each says the furthest that it has heard of us.  At a start nothing is created, sealed or handed out before every
back-end peer has spoken, or ``SPOKEN`` seconds have passed; who speaks later is believed too, while the server works.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

from pybcast.backend import Client, Standing
from pybcast.errors import TransportError
from pybcast.store import SqliteStore

SPOKEN: Final = 10.0  # seconds that a start waits for peers to say what they know of us (R51)
OFF_AIR: Final = "the operator of the BSM said that this headend is off air"
GREETED: Final = 0.3  # seconds between two questions to a peer that does not answer - confidence: own


@dataclass(frozen=True)
class Word:
    """What a witness said: a ``token`` of ours that is ahead of the store; or without one, ``why`` the store is older."""

    who: str
    token: str = ""
    why: str = ""


class Witnesses:
    """The witnesses of one server.  ``hold``: stops its work; called when one knows more than the store.  ``obeys(peer)``: whether
    that one may say that nothing in the store is to be used (R50): the BSM of one of our streams, never the other headend.
    """

    def __init__(self, store: SqliteStore, hold: Callable[[], None], obeys: Callable[[str], bool]) -> None:
        self._store, self._hold = store, hold
        self._words: deque[Word] = deque()
        self.noticed = asyncio.Event()
        """Something was said that is not taken over yet."""
        self._obeys = obeys
        self.standing = Standing(store, lambda peer, token: self.say(Word(peer, token)), self._void)

    def _void(self, peer: str) -> None:
        if self._obeys(peer):
            self.say(Word(peer, why=OFF_AIR))

    def say(self, word: Word) -> None:
        """A witness knows more of what we did than our store: nothing more is worked on before that is taken over."""
        self._hold()
        self._words.append(word)
        self.noticed.set()

    async def all_spoken(self, client: Client, names: Collection[str], others: Callable[[], Awaitable[None]]) -> None:
        """Until these back-end peers, and the ``others``, have said what they know of us.  Peers are asked until they answer."""

        async def greet(name: str) -> None:
            while True:
                try:
                    return await client.greet(name)
                except TransportError:
                    await asyncio.sleep(GREETED)

        asking = [asyncio.create_task(greet(name)) for name in sorted(names)]
        try:
            await self.standing.all_spoken(names)
            await others()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def take_over(self) -> bool:
        """Let the store have what was said; whether it turned out to be older than what has left."""
        found = False
        while self._words:
            word = self._words.popleft()
            if word.why:
                await asyncio.to_thread(self._store.found_older, word.why)
                found = True
            elif await asyncio.to_thread(self._store.found_ahead, word.token, word.who) is not None:
                found = True
        self.noticed.clear()
        return found
