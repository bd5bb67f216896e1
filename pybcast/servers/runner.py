# SPDX-License-Identifier: Apache-2.0
"""Carries out what a flow machine asks: the loop between a machine and its store, its peers, its clock and the air.

Inputs wait in one queue and reach the machine one after the other; what the clock brings goes before what peers bring, as it is
what changes keys on air.  What one input returns is one transaction: all its ``Persist``
outputs are durable before any other output of it leaves, and outputs leave in the order of the inputs.  So a crash loses an input
whole or leaves it stored whole; an output that was stored for but did not leave is one that the peer asks for again (an answer has
its messageID), that the machine sends again (a request) or that it says again when it is made from the store (what is on air).
While one transaction is written the machine works on the next input, and the store takes together what queued meanwhile.

When the clock is put back the machine is made anew of what is stored: all that it was to do waits for a time that is far again.

Inputs wait while the runner is held: at the start, and when the store is found to be older than what has left (R51).

When a transaction finds no room on the disk (``StoreFull``), nothing of its input leaves, nor of any after it: the machine's memory
is ahead of the store.  That machine is given up.  What comes is refused until one can be made of what is stored, which is tried
again and again; it goes on as after a restart.  COUNTERs and keys that the old one had taken have not left (R1, R2).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

from pybcast.errors import ConfigError, FlowError, LocalFlowError, StoreError, TransportError, WireError
from pybcast.flows.events import (
    Alarm,
    Announce,
    CarouselDrop,
    CarouselPut,
    FlowDone,
    NextKey,
    OffAir,
    Output,
    Persist,
    Plan,
    Recall,
    Send,
    StopTraffic,
    UseKey,
)
from pybcast.flows.journal import State
from pybcast.flows.peers.messages import BackendMessage, PartialItem, StkmItem
from pybcast.servers.roles import Clock, Machine, Storing, Watcher
from pybcast.store.protocol import StoreDamaged, StoreFull, StoreStopped, WrongKek

LOG: Final = logging.getLogger("pybcast.servers")
LONGEST_SLEEP: Final = 1.0  # seconds: how soon a step of the clock is noticed - confidence: own
STEP: Final = 0.5  # seconds by which the clock must jump to count as stepped; a slewed one drifts less - confidence: own
SHORTEST_SLEEP: Final = 0.001  # seconds: a machine that is always due does not stop everything else
PIPELINE: Final = 64  # inputs worked on whose outputs wait for the disk; more of them wait in the queue - confidence: own

FULL_AGAIN: Final = 2.0  # seconds after which a store that found no room is tried again - confidence: own
ASKING: Final = 8  # requests to one peer at once, as many as the client has connections; others wait here - confidence: own
ANSWER: Final = 5.0  # seconds for a later input to bring an answer: the edge is asked first (R46) - confidence: own
UNANSWERED: Final = 1000  # requests that a later input may answer - confidence: own
PATIENCE: Final = 10.0  # seconds that a request which is not about periods is worth sending after it was made - confidence: own

AirOutput = Plan | Recall | Announce | OffAir | NextKey | UseKey | StopTraffic | CarouselPut | CarouselDrop


class Fatal(Exception):
    """The server cannot go on; ``__cause__`` says why."""


M = TypeVar("M", bound=Machine)
T = TypeVar("T")
_Action = Callable[[M, float], list[Output] | tuple[object, list[Output]]]
"""An input: the outputs that the machine gives, with what else it says where it does."""


@dataclass
class _Input(Generic[M]):
    """``command``: the machine may refuse it.  ``request``: its answer is the result.  ``make``: before it, a new machine."""

    action: _Action[M]
    result: asyncio.Future[object]
    command: bool = False
    request: BackendMessage | None = None
    make: Callable[[State], M] | None = None
    value: object = None


@dataclass
class _Outputs(Generic[M]):
    """What an input left to do, when ``stored`` is done."""

    source: _Input[M]
    stored: Awaitable[None] | None
    outputs: Sequence[Output] = ()


class Runner(Generic[M]):
    """Owns one machine.

    ``make(state)``: the machine, of what was persisted.  ``ask``: sends a request and gives its answer (``backend.Client.send``).
    ``air``: takes what goes on air and to encoders.
    """

    def __init__(
        self,
        make: Callable[[State], M],
        store: Storing,
        *,
        clock: Clock,
        ask: Callable[[BackendMessage], Awaitable[BackendMessage]],
        air: Callable[[AirOutput], None],
        watcher: Watcher,
    ) -> None:
        self._store, self._clock, self._ask, self._air, self._watcher = store, clock, ask, air, watcher
        self._make = make
        self.machine = make(store.load())
        self._inputs: asyncio.PriorityQueue[tuple[int, int, _Input[M] | None]] = asyncio.PriorityQueue()
        self._count = itertools.count()
        self._outputs: asyncio.Queue[_Outputs[M] | None] = asyncio.Queue(PIPELINE)
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._unanswered: dict[tuple[str, str], list[_Input[M]]] = {}  # by source and messageID: a later input answers
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticking = False
        self._stopping = False
        self._open = asyncio.Event()
        self._abandoned = False
        self._wall, self._mono = clock.now(), clock.monotonic()
        self._busy_since: float | None = None
        self._stored = False
        self._full: StoreFull | None = None
        self.full = ""
        """Why nothing could be stored when that was tried last; empty while all is well."""

    # --- inputs -------------------------------------------------------------------------------------------------------

    async def request(self, message: BackendMessage, peer: str) -> BackendMessage:
        """The machine's answer to a peer's request, when all that it rests on is stored.  It may come by a later input."""
        answer = await self._put(lambda m, now: m.receive(message, now, peer), request=message)
        assert isinstance(answer, BackendMessage)
        return answer

    @overload
    async def command(self, action: Callable[[M, float], list[Output]]) -> None: ...
    @overload
    async def command(self, action: Callable[[M, float], tuple[T, list[Output]]]) -> T: ...
    async def command(self, action: _Action[M]) -> Any:
        """What an operator asks, and what the machine says to it: when it is stored and carried out.  ``FlowError`` when the
        machine refuses it.
        """
        return await self._put(action, command=True)

    async def ask_machine(self, question: Callable[[M, float], T]) -> T:
        """A view of the machine that changes nothing, in its place among the inputs."""
        return await self.command(lambda m, now: (question(m, now), []))

    def post(self, action: Callable[[M, float], list[Output]], *, urgent: bool = False) -> None:
        """An input that nobody waits for; ``urgent``: before what peers bring."""
        if not self._stopping and self._full is None:
            self._queue(_Input(action, _future()), 0 if urgent else 1)

    async def remake(self, make: Callable[[State], M]) -> None:
        """A new machine of what is stored, as after a restart: for a changed configuration.  Nothing that was accepted is lost."""

        if self._stopping:
            raise LocalFlowError("the server is stopping")
        await asyncio.shield(self._remade(make))

    def _remade(self, make: Callable[[State], M]) -> asyncio.Future[object]:
        self._make = make
        item = _Input(lambda m, now: m.tick(now), _future(), make=make)
        self._queue(item)
        return item.result

    async def _put(
        self,
        action: _Action[M],
        *,
        command: bool = False,
        request: BackendMessage | None = None,
    ) -> object:
        if self._stopping:
            raise LocalFlowError("the server is stopping")
        if self._full is not None:
            raise _refusal(self._full)
        item = _Input(action, _future(), command, request)
        self._queue(item)
        return await asyncio.shield(item.result)

    def _queue(self, item: _Input[M] | None, order: int = 1) -> None:
        self._inputs.put_nowait((order, next(self._count), item))

    @property
    def stuck(self) -> float:
        """Seconds that the oldest unfinished work has waited; 0 when there is none."""
        return 0.0 if self._busy_since is None else max(0.0, self._clock.monotonic() - self._busy_since)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until :meth:`stop`.  ``Fatal`` when the machine, the store or the air failed: then nothing more leaves."""
        self._tick()
        work = [asyncio.create_task(self._work(), name="machine"), asyncio.create_task(self._carry_out(), name="outputs")]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                error = task.exception()
                if error is not None:
                    raise Fatal(task.get_name()) from error
        finally:
            self._stopping = True
            if self._timer is not None:
                self._timer.cancel()
            for task in (*work, *self._asking.values()):
                task.cancel()
            await asyncio.gather(*work, *self._asking.values(), return_exceptions=True)
            self._give_up()

    def stop(self) -> None:
        """Take no more inputs; :meth:`run` returns when those that are queued are carried out, or at once where they are held."""
        if not self._stopping:
            self._stopping = True
            self._queue(None, 2)
            if not self._open.is_set():
                self._abandoned = True
                self._open.set()

    def hold(self) -> None:
        """Inputs wait from now on; what was made of earlier ones leaves."""
        if not self._stopping:
            self._open.clear()

    async def begin_anew(self) -> None:
        """While held: a new machine of what is stored, as after a restart."""
        await self._swap(self._make)

    def open(self) -> None:
        """Inputs are worked on."""
        self._open.set()

    def _give_up(self) -> None:
        self._forget_unanswered("the server is stopping")
        left = [self._inputs.get_nowait()[2] for _ in range(self._inputs.qsize())]
        waiting = [self._outputs.get_nowait() for _ in range(self._outputs.qsize())]
        left += [outputs.source for outputs in waiting if outputs is not None]
        for source in left:
            if source is not None:
                _fail(source.result, LocalFlowError("the server is stopping"))

    def _await_answer(self, source: _Input[M], request: BackendMessage) -> None:
        """The input of a request is over, and its answer comes by another one, within ``ANSWER``."""
        waiting = self._unanswered.setdefault((request.source, request.message_id), [])
        waiting.append(source)
        asyncio.get_running_loop().call_later(ANSWER, _fail, source.result, LocalFlowError(f"{request.tag.name}: no answer"))
        if len(self._unanswered) > UNANSWERED:  # of the oldest an answer is no longer expected
            del self._unanswered[next(iter(self._unanswered))]

    def _forget_unanswered(self, why: str) -> None:
        for source in [source for waiting in self._unanswered.values() for source in waiting]:
            _fail(source.result, LocalFlowError(why))
        self._unanswered.clear()

    # --- the machine --------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            _, _, item = await self._inputs.get()
            await self._open.wait()
            if self._full is not None and item is not None:
                self._refuse(item)
                await self._recover()
                continue
            if item is None or self._abandoned:
                if item is not None:
                    _fail(item.result, LocalFlowError("the server is stopping"))
                await self._outputs.put(None)
                return
            self._busy_since = self._busy_since or self._clock.monotonic()
            begun = self._clock.monotonic()
            if item.make is not None:
                await self._swap(item.make)
            try:
                found = item.action(self.machine, self._clock.now())
                item.value, outputs = found if isinstance(found, tuple) else (None, found)
            except (FlowError, ConfigError) as error:
                _fail(item.result, error)
                if not item.command:
                    raise
                # What the machine did before it refused (a resumption, say) is in its memory: it is carried out like a tick's.
                outputs = self.machine.tick(self._clock.now())
            except Exception as error:
                _fail(item.result, error)
                raise
            rows = [output for output in outputs if isinstance(output, Persist)]
            rest = [output for output in outputs if not isinstance(output, Persist)]
            try:
                stored = self._store.write_async(rows) if rows else None
            except StoreError as error:
                _fail(item.result, error)
                raise
            await self._outputs.put(_Outputs(item, stored, rest))
            self._watcher.input(self._clock.monotonic() - begun, self._inputs.qsize())
            self._arm()
            await asyncio.sleep(0)  # sockets and timers have their turn between two inputs, however many wait

    async def _recover(self) -> None:
        """A new machine of what is stored, as soon as the store can be opened again; what waits meanwhile is refused."""
        while True:
            self._busy_since = None
            await asyncio.sleep(FULL_AGAIN)
            for _, _, item in [self._inputs.get_nowait() for _ in range(self._inputs.qsize())]:
                if item is None:
                    self._queue(None, 2)
                    return
                self._refuse(item)
            try:
                await self._swap(self._make)
                break
            except (StoreDamaged, WrongKek):
                raise
            except StoreError as error:  # a database that is opened on a full disk fails in many ways
                LOG.info("still no room: %s", error, extra={"fields": {"event": "still-full"}})
        self._full, self._ticking = None, False
        self._wall, self._mono = self._clock.now(), self._clock.monotonic()
        self._tick()

    def _refuse(self, item: _Input[M]) -> None:
        """While nothing can be stored; a changed configuration is taken over with the next machine."""
        assert self._full is not None
        if item.make is None:
            _fail(item.result, _refusal(self._full))
        elif not item.result.done():
            item.result.set_result(None)

    async def _swap(self, make: Callable[[State], M]) -> None:
        await self._outputs.join()
        self._forget_unanswered("the machine is made anew")
        self.machine = make(await asyncio.to_thread(self._store.load))

    # --- time ---------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake = self.machine.next_wakeup()
        delay = LONGEST_SLEEP if wake is None else min(LONGEST_SLEEP, max(SHORTEST_SLEEP, wake - self._clock.now()))
        self._timer = asyncio.get_running_loop().call_later(delay, self._awake)

    def _awake(self) -> None:
        now, mono = self._clock.now(), self._clock.monotonic()
        step = (now - self._wall) - (mono - self._mono)
        self._wall, self._mono = now, mono
        wake = self.machine.next_wakeup()
        if abs(step) >= STEP:
            LOG.warning("the clock stepped by %+.3f s", step, extra={"fields": {"event": "clock-step", "seconds": round(step, 3)}})
            self._watcher.clock_step(step)
            if step > 0:
                self.post(lambda machine, now: machine.clock_forward(step, now), urgent=True)
                self._arm()
            elif not self._stopping:
                self._remade(self._make)  # what the machine was to do next, and when, was said in the time that is left
        elif wake is not None and wake <= now:
            self._tick()
        else:
            self._arm()

    def _tick(self) -> None:
        if self._ticking or self._stopping:
            return
        self._ticking = True

        def tick(machine: M, now: float) -> tuple[None, list[Output]]:
            self._ticking = False
            return None, machine.tick(now)

        self._queue(_Input(tick, _future()), 0)

    # --- outputs ------------------------------------------------------------------------------------------------------

    async def _carry_out(self) -> None:
        while True:
            work = await self._outputs.get()
            if work is None:
                return
            try:
                if work.stored is not None:
                    await work.stored
                    self._stored = True
                    if self.full:
                        self.full = ""
                        self._watcher.full("")
                if self._full is None:
                    for output in work.outputs:
                        self._do(output, work.source)
            except (StoreFull, StoreStopped) as error:
                if not self._found_full(error):
                    _fail(work.source.result, error)
                    raise
            except Exception as error:
                _fail(work.source.result, error)
                raise
            if self._full is not None:
                _fail(work.source.result, _refusal(self._full))
            elif not work.source.result.done():
                if work.source.request is not None and work.source.value is None:
                    self._await_answer(work.source, work.source.request)
                else:
                    work.source.result.set_result(work.source.value)
            self._outputs.task_done()
            self._busy_since = None if self._outputs.empty() else self._clock.monotonic()

    def _found_full(self, error: StoreError) -> bool:
        """A write failed.  Whether that is for want of room, and no fault of a start: then there will be another machine."""
        if self._full is not None:
            return True
        if not isinstance(error, StoreFull) or not self._stored:
            return False
        self._full = error
        if not self.full:
            self.full = str(error)
            self._watcher.full(self.full)
        self._queue(_Input(lambda m, now: [], _future()), 0)  # wakes who waits for inputs
        return True

    def _do(self, output: Output, source: _Input[M]) -> None:
        match output:
            case Send(message) if message.is_answer:
                name, asked = (message.destination, message.message_id), source.request
                if asked is not None and name == (asked.source, asked.message_id):
                    source.value = message
                elif name not in self._unanswered:
                    raise LocalFlowError(f"an answer ({message.tag.name}) to nobody's request")
                for waiting in self._unanswered.pop(name, []):
                    if not waiting.result.done():
                        waiting.result.set_result(message)
            case Send(message):
                self._send(message)
            case Alarm():
                self._watcher.alarm(output)
            case FlowDone():
                self._watcher.flow(output)
            case _ if isinstance(output, AirOutput):
                self._air(output)
            case _:
                raise LocalFlowError(f"{type(output).__name__} is nothing a server carries out")

    def _send(self, message: BackendMessage) -> None:
        name = (message.destination, message.message_id)
        if name in self._asking or self._stopping:
            return  # the same request is still on its way; its answer serves both
        task = self._asking[name] = asyncio.create_task(self._exchange(message))
        task.add_done_callback(lambda _: self._asking.pop(name, None))

    async def _exchange(self, message: BackendMessage) -> None:
        begun = self._clock.monotonic()
        try:
            async with self._gates.setdefault(message.destination, asyncio.Semaphore(ASKING)):
                if self._clock.now() >= _useless_from(message):
                    raise TransportError("given up: it waited for too many others")  # sending it would only make those late too
                answer = await self._ask(message)
        except (TransportError, WireError, FlowError) as error:  # the machine repeats what still matters
            self._watcher.unanswered(message, str(error))
            return
        if self._stopping:
            return
        item: _Input[M] = _Input(lambda machine, now: machine.receive(answer, now, message.destination), _future())
        self._queue(item)
        await asyncio.wait([item.result])
        if item.result.exception() is None:
            self._watcher.answered(message, self._clock.monotonic() - begun)


def _useless_from(message: BackendMessage) -> float:
    """When a request need not be sent any more: the periods it is about are over, or the machine has made another."""
    ends = [item.period_end for item in message.items if isinstance(item, PartialItem | StkmItem)]
    return max(ends) if ends else float("inf") if message.items or message.time is None else message.time + PATIENCE


def _refusal(error: StoreFull) -> LocalFlowError:
    return LocalFlowError(f"nothing can be stored: {error}")


def _future() -> asyncio.Future[object]:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda f: f.cancelled() or f.exception())  # seen, also when nobody waits any more
    return future


def _fail(result: asyncio.Future[object], error: BaseException) -> None:
    if not result.done():
        result.set_exception(error)
