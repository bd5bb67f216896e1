# SPDX-License-Identifier: Apache-2.0
"""The terminals that wait for a STKM: thousands of them cost the machine one question when there is something new.

Questions go to the machine many at a time.  Who is not served at once is put aside with the others of his stream and profile, and
looked at again when a STKM was sealed or received for it, when one that is there already may go out (R6), or when rights changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from pybcast.errors import LocalFlowError, PeerFlowError
from pybcast.flows import BSM, Later, Profile, StkmItem
from pybcast.flows.agenda import Agenda
from pybcast.flows.events import Output

AT_ONCE: Final = 200  # terminals looked at in one question to the machine, some 5 ms: STKMs wait no longer - confidence: own
LONGEST_SLEEP: Final = 1.0  # seconds: how soon a step of the clock is noticed, as in the machine's own loop

T = TypeVar("T")
Channel = tuple[str, int, Profile]


class Machine(Protocol):
    """The BSM, as its daemon gives access to it (``servers.Runner``)."""

    def ask_machine(self, question: Callable[[BSM, float], T]) -> Awaitable[T]: ...
    def command(self, action: Callable[[BSM, float], tuple[T, list[Output]]]) -> Awaitable[T]: ...


@dataclass(eq=False)
class _Waiter:
    channel: Channel
    subscriber: str
    after: int | None
    patient: bool
    answer: asyncio.Future[StkmItem | None]


class Waiting:
    """Questions for STKMs on their way to the machine, and those that wait for an answer.

    ``clock``: 64-bit NTP seconds.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float]) -> None:
        self._machine, self._clock = machine, clock
        self._fresh: dict[_Waiter, None] = {}
        self._parked: dict[Channel, dict[_Waiter, None]] = {}
        self._channels: dict[str, set[Channel]] = {}  # those with somebody in ``_parked``, by service
        self._changes: dict[str, int] = {}
        self._all_changes = 0
        self._due: Agenda[Channel] = Agenda()
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.questions = 0  # to the machine, so far

    def __len__(self) -> int:
        """Terminals that wait."""
        return len(self._fresh) + sum(map(len, self._parked.values()))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="waiting terminals")

    async def stop(self) -> None:
        """Whoever still waits is told that there is nothing yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiter in [*self._fresh, *(waiter for parked in self._parked.values() for waiter in parked)]:
            _settle(waiter, None)
        self._fresh.clear()
        self._parked.clear()

    async def stkm(self, channel: Channel, subscriber: str, after: int | None, wait: float) -> StkmItem | None:
        """What ``BSM.fetch_stkm`` gives, within ``wait`` seconds.  Raises as it does; ``LocalFlowError`` when the server stops."""
        waiter = _Waiter(channel, subscriber, after, wait > 0, asyncio.get_running_loop().create_future())
        self._fresh[waiter] = None
        self._awake.set()
        try:
            if not wait:
                return await waiter.answer
            async with asyncio.timeout(wait):
                return await waiter.answer
        except TimeoutError:
            return None
        finally:
            self._fresh.pop(waiter, None)
            parked = self._parked.get(channel)
            if parked is not None:
                parked.pop(waiter, None)
                if not parked:
                    self._unpark(channel)

    # --- what wakes them ------------------------------------------------------------------------------------------------

    def changed(self, service: str) -> None:
        """STKMs of a service came, or rights to it went."""
        self._changes[service] = self._changes.get(service, 0) + 1
        for channel in list(self._channels.get(service, ())):
            self._wake(channel)

    def everything_changed(self) -> None:
        """The machine is another one, or its clock was set."""
        self._all_changes += 1
        for channel in list(self._parked):
            self._wake(channel)

    def _wake(self, channel: Channel) -> None:
        self._fresh.update(self._unpark(channel))
        self._awake.set()

    def _unpark(self, channel: Channel) -> dict[_Waiter, None]:
        of_service = self._channels[channel[0]]
        of_service.discard(channel)
        if not of_service:
            del self._channels[channel[0]]
        self._due.set(channel, None)
        return self._parked.pop(channel)

    def _state(self, channel: Channel) -> tuple[int, int]:
        return self._all_changes, self._changes.get(channel[0], 0)

    # --- the loop -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            for channel in self._due.due(self._clock()):
                if channel in self._parked:
                    self._wake(channel)
            if self._fresh:
                await self._look()
                continue
            self._awake.clear()
            due = self._due.next()
            delay = LONGEST_SLEEP if due is None else min(LONGEST_SLEEP, max(0.0, due - self._clock()))
            if self._parked:
                handle = asyncio.get_running_loop().call_later(delay, self._awake.set)
                await self._awake.wait()
                handle.cancel()
            else:
                await self._awake.wait()

    async def _look(self) -> None:
        """Ask the machine for the next ones."""
        some = [waiter for waiter, _ in zip(self._fresh, range(AT_ONCE), strict=False)]
        groups: dict[Channel, list[_Waiter]] = {}
        for waiter in some:
            del self._fresh[waiter]
            groups.setdefault(waiter.channel, []).append(waiter)
        states = {channel: self._state(channel) for channel in groups}

        def question(machine: BSM, now: float) -> list[tuple[_Waiter, StkmItem | Later | PeerFlowError]]:
            return [
                found
                for channel, waiters in groups.items()
                for found in zip(
                    waiters, machine.fetch_stkms(*channel, [(w.subscriber, w.after) for w in waiters], now), strict=True
                )
            ]

        self.questions += 1
        try:
            answers = await self._machine.ask_machine(question)
        except asyncio.CancelledError:
            self._fresh.update(dict.fromkeys(some))
            raise
        except Exception as error:  # the server stops, or has failed: each of them is told
            for waiter in some:
                _fail(waiter, error if isinstance(error, LocalFlowError) else LocalFlowError("the machine has failed"))
            return
        for waiter, found in answers:
            if waiter.answer.done():
                continue  # gone meanwhile
            if isinstance(found, StkmItem):
                _settle(waiter, found)
            elif isinstance(found, PeerFlowError):
                _fail(waiter, found)
            elif not waiter.patient:
                _settle(waiter, None)
            elif self._state(waiter.channel) != states[waiter.channel]:
                self._fresh[waiter] = None  # something came between question and answer
            else:
                self._parked.setdefault(waiter.channel, {})[waiter] = None
                self._channels.setdefault(waiter.channel[0], set()).add(waiter.channel)
                if found.at is not None:
                    self._due.sooner(waiter.channel, found.at)


def _settle(waiter: _Waiter, found: StkmItem | None) -> None:
    if not waiter.answer.done():
        waiter.answer.set_result(found)


def _fail(waiter: _Waiter, error: Exception) -> None:
    if not waiter.answer.done():
        waiter.answer.set_exception(error)
