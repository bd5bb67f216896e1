# SPDX-License-Identifier: Apache-2.0
"""A terminal's use of the interaction channel: what it asks the BSM for, and when it asks again (R35, F6 and LTKM pull)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pybcast.errors import BcastError, ConfigError
from pybcast.flows import Terminal, Tuning
from pybcast.flows.events import Output
from pybcast.https.contexts import Context
from pybcast.https.revocation import Watched
from pybcast.interaction.client import InteractionClient
from pybcast.interaction.digest import Digest
from pybcast.interaction.errors import Forbidden, Limited, NotKnown
from pybcast.servers.roles import Clock

LOG: Final = logging.getLogger("pybcast.terminal")
LONG_POLL: Final = 20.0  # seconds an answer is waited for - confidence: own
BACKOFF: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds after a failure; the last for ever, and up to half as much more by chance
REFETCH_CYCLES: Final = 5  # R7: live LTKMs get new COUNTERs that often
LEAST: Final = 1.0  # seconds between two fetches, however often a key is missing: and at least a cycle - confidence: own
MAX_ANSWERS: Final = 64  # verification messages that wait for the BSM; then the oldest are given up


class Fetcher:
    """Feeds one terminal from one BSM.

    ``context``: makes TLS settings of the credentials' files, again when one of ``lists``, of revoked certificates, has changed.
    ``take``: what the machine says to what was fetched.  ``cycle``: seconds of the carousel, the measure of how often LTKMs change.
    ``tuned``: the streams that are received now; for others nothing is asked.  A card must be registered before it can ask for
    anything: with its SRK it says who it is.
    """

    def __init__(
        self, url: str, context: Callable[[], Context], machine: Terminal, clock: Clock, take: Callable[[Sequence[Output]], None],
        cycle: float, tuned: Collection[tuple[str, int]], lists: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        self._url, self._make, self._machine, self._clock = url, context, machine, clock
        self._lists = Watched(lists, clock.monotonic)
        self._context = context()
        self._take, self._cycle, self._tuned = take, cycle, tuned
        self._client: InteractionClient | None = None
        self._account = ""
        self._missing = asyncio.Event()
        self._answers: asyncio.Queue[bytes] = asyncio.Queue(MAX_ANSWERS)

    def works(self, tunings: Sequence[Tuning]) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs until it is cancelled."""
        yield self._objects()
        yield self._verify()
        for tuning in tunings:
            yield self._stkms(tuning)

    def key_missing(self) -> None:
        """A STKM could not be opened for want of a key."""
        self._missing.set()

    def answer(self, data: bytes) -> None:
        """The card's answer to an LTKM is for the BSM."""
        if self._answers.full():
            self._answers.get_nowait()
        self._answers.put_nowait(data)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _asking(self) -> InteractionClient:
        """The client; for a card, once it is registered, and a new one when its registration changed."""
        while (known := self._machine.account()) is None and self._machine.profile == "smartcard":
            await asyncio.sleep(self._cycle / 10)  # the carousel brings it
        name = "" if known is None else known[0]
        if self._lists.changed():
            await self._renew()
        if self._client is None or name != self._account:
            await self.close()
            digest = None if known is None else Digest.of(*known)
            self._client, self._account = InteractionClient(self._url, context=self._context, digest=digest), name
        return self._client

    async def _renew(self) -> None:
        """Take a new revocation list; one that cannot be used changes nothing."""
        try:
            self._context = self._make()
        except ConfigError as error:
            LOG.error("the old revocation list stays in use: %s", error, extra={"fields": {"event": "list-refused"}})
            return
        await self.close()
        self._client = None

    async def _objects(self) -> None:
        """Registration material and LTKMs: at the beginning, when a key is missing, and every few cycles."""
        attempt = 0
        while True:
            if not self._tuned:
                await asyncio.sleep(LEAST)
                continue
            self._missing.clear()
            try:
                client = await self._asking()
                fetched = [*await client.registration(), *await client.ltkms()]
            except BcastError as error:
                attempt = await self._pause(attempt, error, "LTKMs")
                continue
            attempt = 0
            now = self._clock.now()
            for data in fetched:
                self._take(self._machine.receive_object(data, now))
            self._take(self._machine.feed(now))
            await asyncio.sleep(max(LEAST, self._cycle))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._missing.wait(), REFETCH_CYCLES * self._cycle)

    async def _stkms(self, tuning: Tuning) -> None:
        """The STKM of the running period, then always the next one (F6)."""
        attempt, after = 0, None
        while True:
            if (tuning.service, tuning.stream) not in self._tuned:
                after = None
                await asyncio.sleep(LEAST)
                continue
            try:
                client = await self._asking()
                fetched = await client.stkm(
                    tuning.service, tuning.stream, self._machine.profile, after=after, wait=0.0 if after is None else LONG_POLL
                )
            except BcastError as error:
                attempt = await self._pause(attempt, error, tuning.service)
                after = None  # what was missed meanwhile is over
                continue
            attempt = 0
            if fetched is None:
                if after is None:
                    await asyncio.sleep(LEAST)  # nothing runs yet
                continue
            after = fetched.start
            self._take(self._machine.receive_stkm(tuning.service, tuning.stream, fetched.data, self._clock.now()))

    async def _verify(self) -> None:
        while True:
            data = await self._answers.get()
            attempt = 0
            while attempt < len(BACKOFF):
                try:
                    await (await self._asking()).verify(data)
                    break
                except BcastError as error:
                    attempt = await self._pause(attempt, error, "verification")

    async def _pause(self, attempt: int, error: BcastError, what: str) -> int:
        """Wait after a failure, longer each time; the first of a row is a line of the log."""
        if attempt == 0:
            LOG.warning("%s not fetched: %s", what, error, extra={"fields": {"event": "not-fetched", "code": error.code}})
        if isinstance(error, Forbidden | NotKnown):
            attempt = len(BACKOFF)  # that changes when a subscriber's rights do
        least = BACKOFF[min(attempt, len(BACKOFF) - 1)]
        if isinstance(error, Limited):
            least = max(least, error.retry_after)
        await asyncio.sleep(least * random.uniform(1.0, 1.5))
        return attempt + 1
