# SPDX-License-Identifier: Apache-2.0
"""The loop around a machine: what is stored when, what leaves in which order, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace

import pytest

from pybcast.errors import LocalFlowError, StoreError, TransportError
from pybcast.flows import Alarm, CarouselDrop, FlowDone, Output, Persist, Send, Tag
from pybcast.flows.journal import Journal, State
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.restart import Recoveries
from pybcast.servers.runner import AirOutput, Fatal, Runner
from pybcast.store.protocol import StoreDamaged, StoreFull, StoreStopped, WrongKek

ME, PEER = "urn:me", "urn:peer"


def request(number: int, source: str = PEER, destination: str = ME) -> BackendMessage:
    return BackendMessage(tag=Tag.LTKMRequest, message_id=f"{number:032x}", source=source, destination=destination, service="urn:s")


class Machine:
    """Does what a test tells it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.wake: float | None = None
        self.ticks: list[float] = []
        self.forward: list[float] = []
        self.recoveries = Recoveries(Journal())
        self.received: list[BackendMessage] = []

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]:
        self.received.append(message)
        if message.is_answer:
            return [CarouselDrop(f"answered {message.message_id}")]
        row = Persist("answer", (message.message_id,), len(self.received))
        return [row, Send(message.answer(0, now=now)), Persist("late", (message.message_id,), 1)]

    def tick(self, now: float) -> list[Output]:
        self.ticks.append(now)
        self.wake = None
        return []

    def clock_forward(self, seconds: float, now: float) -> list[Output]:
        self.forward.append(seconds)
        return self.tick(now)

    def next_wakeup(self) -> float | None:
        return self.wake


@dataclass
class Disk:
    """A store whose writes are done when the test says so."""

    waiting: list[tuple[Sequence[Persist], asyncio.Future[None]]] = field(default_factory=list)
    rows: State = field(default_factory=dict)
    at_once: bool = True
    broken: bool = False
    full: int = 0
    """How many times there is no room yet, for a write or when it is opened anew."""
    stopped: bool = False

    def load(self) -> State:
        if self.stopped and self.full:
            self.full -= 1
            raise StoreFull("no room")
        self.stopped = False
        return {table: dict(rows) for table, rows in self.rows.items()}

    def write_async(self, batch: Sequence[Persist]) -> Awaitable[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not (self.stopped or self.full):
            self.waiting.append((batch, future))
        if self.stopped:
            future.set_exception(StoreStopped("a write before this one failed"))
        elif self.full:
            self.full -= 1
            self.stopped = True
            future.set_exception(StoreFull("no room"))
        elif self.broken:
            future.set_exception(StoreError("no space"))
        elif self.at_once:
            self.finish()
        return future

    def finish(self) -> None:
        batch, future = self.waiting.pop(0)
        for row in batch:
            self.rows.setdefault(row.table, {})[row.key] = row.value
        future.set_result(None)


@dataclass
class Wall:
    time: float = 4_000_000_000.0
    mono: float = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.mono


@dataclass
class Seen:
    steps: list[float] = field(default_factory=list)
    unanswered_: list[str] = field(default_factory=list)
    answered_: list[float] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    flows: list[FlowDone] = field(default_factory=list)
    full_: list[str] = field(default_factory=list)

    def full(self, why: str) -> None:
        self.full_.append(why)

    def alarm(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)

    def flow(self, done: FlowDone) -> None:
        self.flows.append(done)

    def input(self, seconds: float, waiting: int) -> None:
        pass

    def clock_step(self, seconds: float) -> None:
        self.steps.append(seconds)

    def answered(self, message: BackendMessage, seconds: float) -> None:
        self.answered_.append(seconds)

    def unanswered(self, message: BackendMessage, error: str) -> None:
        self.unanswered_.append(error)


@dataclass
class Bench:
    """A runner and everything around it."""

    disk: Disk = field(default_factory=Disk)
    clock: Wall = field(default_factory=Wall)
    seen: Seen = field(default_factory=Seen)
    air: list[AirOutput] = field(default_factory=list)
    sent: list[BackendMessage] = field(default_factory=list)
    failing: bool = False

    def __post_init__(self) -> None:
        self.runner = Runner(Machine, self.disk, clock=self.clock, ask=self.ask, air=self.air.append, watcher=self.seen)
        self.runner.open()

    async def ask(self, message: BackendMessage) -> BackendMessage:
        self.sent.append(message)
        if self.failing:
            raise TransportError("nobody there")
        return message.answer(0, now=0)


def run(test: Callable[[Bench], Coroutine[object, object, None]], *, held: bool = False) -> Bench:
    """Run a test beside a runner; it fails when the runner does, unless the test looks at that itself."""

    async def both() -> Bench:
        bench = Bench()
        if held:
            bench.runner.hold()
        work = asyncio.create_task(bench.runner.run())
        await asyncio.wait_for(test(bench), 20)
        bench.runner.stop()
        await asyncio.wait_for(work, 20)
        return bench

    return asyncio.run(both())


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_answer_may_come_by_a_later_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """R46: the edge is asked first.  Who asked waits, but not for ever, and nobody else gets it."""
    monkeypatch.setattr("pybcast.servers.runner.ANSWER", 0.05)

    async def test(bench: Bench) -> None:
        monkeypatch.setattr(bench.runner.machine, "receive", lambda message, now, peer: [])
        first, twice, other = (asyncio.create_task(bench.runner.request(request(n), PEER)) for n in (1, 1, 2))
        await turns()
        assert not first.done() and not twice.done() and not other.done()
        bench.runner.post(lambda machine, now: [Send(request(1).answer(0, now=now))])
        assert (await first).message_id == (await twice).message_id == request(1).message_id
        with pytest.raises(LocalFlowError, match="no answer"):
            await other
        bench.runner.post(lambda machine, now: [Send(request(2).answer(0, now=now))])  # too late, and no harm
        third = asyncio.create_task(bench.runner.request(request(3), PEER))
        await turns()
        await bench.runner.remake(Machine)
        with pytest.raises(LocalFlowError, match="made anew"):
            await third

    run(test)


def test_an_answer_leaves_when_everything_of_its_input_is_stored() -> None:
    async def test(bench: Bench) -> None:
        bench.disk.at_once = False
        asked = asyncio.create_task(bench.runner.request(request(1), PEER))
        await turns()
        assert not asked.done() and [row.table for row in bench.disk.waiting[0][0]] == ["answer", "late"]
        bench.disk.finish()
        answer = await asked
        assert answer.message_id == request(1).message_id and answer.is_answer
        assert set(bench.disk.rows) == {"answer", "late"}

    run(test)


def test_inputs_wait_while_the_runner_is_held() -> None:
    """At a start, and when the store is found to be older than what has left: a new machine works on them (R51)."""

    async def test(bench: Bench) -> None:
        asked = asyncio.create_task(bench.runner.request(request(1), PEER))
        await turns()
        before = bench.runner.machine
        assert not asked.done() and not before.received and not before.ticks and bench.runner.stuck == 0.0
        await bench.runner.begin_anew()
        bench.runner.open()
        assert (await asked).is_answer
        after = bench.runner.machine
        assert after is not before and after.received == [request(1)] and not before.received
        bench.runner.hold()
        again = asyncio.create_task(bench.runner.request(request(2), PEER))
        await turns()
        assert not again.done()
        bench.runner.open()
        assert (await again).is_answer

    run(test, held=True)


def test_a_runner_that_is_held_stops_without_working() -> None:
    async def test(bench: Bench) -> None:
        asked = asyncio.create_task(bench.runner.request(request(1), PEER))
        await turns()
        bench.runner.stop()
        with pytest.raises(LocalFlowError, match="stopping"):
            await asked
        assert not bench.runner.machine.received

    run(test, held=True)


def test_outputs_leave_in_the_order_of_their_inputs() -> None:
    async def test(bench: Bench) -> None:
        bench.disk.at_once = False
        bench.runner.post(lambda m, now: [Persist("t", (1,), 1), CarouselDrop("first")])
        bench.runner.post(lambda m, now: [CarouselDrop("second")])  # needs no disk, and waits all the same
        bench.runner.post(lambda m, now: [CarouselDrop("third"), Persist("t", (3,), 3)])
        await turns()
        assert bench.air == [] and len(bench.disk.waiting) == 2, "the machine works on while the disk is busy"
        bench.disk.finish()
        await turns()
        assert bench.air == [CarouselDrop("first"), CarouselDrop("second")]
        bench.disk.finish()
        await turns()
        assert bench.air[2:] == [CarouselDrop("third")]

    run(test)


def test_a_request_goes_out_once_and_its_answer_comes_back() -> None:
    async def test(bench: Bench) -> None:
        mine = request(7, source=ME, destination=PEER)
        await bench.runner.command(lambda m, now: [Send(mine), Send(mine)])
        await turns()
        assert bench.sent == [mine]
        assert bench.air == [CarouselDrop(f"answered {mine.message_id}")]
        bench.failing = True
        await bench.runner.command(lambda m, now: [Send(replace(mine, message_id="2"))])
        await turns()
        assert bench.seen.unanswered_ == ["nobody there"]

    run(test)


def test_a_request_that_waited_too_long_is_not_sent() -> None:
    async def test(bench: Bench) -> None:
        mine = [replace(request(n, ME, PEER), time=int(bench.clock.time)) for n in range(20)]
        held = asyncio.Event()

        async def slow(message: BackendMessage) -> BackendMessage:
            bench.sent.append(message)
            await held.wait()
            return message.answer(0, now=0)

        bench.runner._ask = slow
        await bench.runner.command(lambda m, now: [Send(message) for message in mine])
        await turns()
        assert bench.sent == mine[:8]
        bench.clock.time, bench.clock.mono = bench.clock.time + 60, bench.clock.mono + 60
        held.set()
        await turns(200)
        assert bench.sent == mine[:8] and len(bench.seen.unanswered_) == 12

    run(test)


def test_a_machine_that_fails_stops_everything() -> None:
    async def both() -> Bench:
        bench = Bench()
        work = asyncio.create_task(bench.runner.run())

        def broken(machine: Machine, now: float) -> list[Output]:
            raise ZeroDivisionError

        bench.runner.post(broken)
        bench.runner.post(lambda m, now: [CarouselDrop("after")])
        asked = asyncio.create_task(bench.runner.request(request(1), PEER))
        with pytest.raises(Fatal) as caught:
            await asyncio.wait_for(work, 20)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(LocalFlowError, match="stopping"):
            await asked
        with pytest.raises(LocalFlowError, match="stopping"):
            await bench.runner.request(request(2), PEER)
        return bench

    bench = asyncio.run(both())
    assert bench.air == [] and bench.disk.rows == {}


def test_a_write_that_fails_lets_nothing_leave() -> None:
    async def both() -> Bench:
        bench = Bench()
        bench.disk.broken = True
        work = asyncio.create_task(bench.runner.run())
        bench.runner.post(lambda m, now: [Persist("t", (1,), 1), CarouselDrop("first")])
        bench.runner.post(lambda m, now: [CarouselDrop("second")])
        with pytest.raises(Fatal) as caught:
            await asyncio.wait_for(work, 20)
        assert isinstance(caught.value.__cause__, StoreError)
        return bench

    assert asyncio.run(both()).air == []


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_full_disk_is_waited_for(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves that is not stored, also nothing that needs no row; who asks is refused; then it goes on by itself."""
    monkeypatch.setattr("pybcast.servers.runner.FULL_AGAIN", 0.01)

    def sell(number: int) -> Callable[[Machine, float], list[Output]]:
        return lambda machine, now: [Persist("t", (number,), number), CarouselDrop(f"{number}")]

    async def test(bench: Bench) -> None:
        await bench.runner.command(sell(1))
        before = bench.runner.machine
        bench.disk.full = times
        refused = [asyncio.create_task(bench.runner.command(sell(2)))]
        refused += [asyncio.create_task(bench.runner.command(lambda m, now: [CarouselDrop("unstored")]))]
        refused += [asyncio.create_task(bench.runner.command(sell(n))) for n in range(3, 6)]
        for error in await asyncio.gather(*refused, return_exceptions=True):
            assert isinstance(error, LocalFlowError) and "nothing can be stored: no room" in str(error)
        assert bench.air == [CarouselDrop("1")] and bench.runner.full == "no room"
        assert bench.runner.stuck == 0.0, "a watchdog has no reason"
        await bench.runner.remake(Machine)  # a reload meanwhile is taken over with the next machine
        while True:
            try:
                await bench.runner.command(sell(6))
                break
            except LocalFlowError:
                bench.runner.post(lambda m, now: [CarouselDrop("posted")])
                await asyncio.sleep(0.005)
        assert bench.runner.machine is not before and bench.runner.full == ""
        assert bench.air == [CarouselDrop("1"), CarouselDrop("6")]
        assert set(bench.disk.rows["t"]) >= {(1,), (6,)} and not {(n,) for n in range(2, 6)} & set(bench.disk.rows["t"])

    assert run(test).seen.full_ == ["no room", ""]


def test_a_server_stops_while_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.servers.runner.FULL_AGAIN", 0.01)

    async def test(bench: Bench) -> None:
        await bench.runner.command(lambda m, now: [Persist("t", (1,), 1)])
        bench.disk.full = 10**6
        with pytest.raises(LocalFlowError, match="no room"):
            await bench.runner.command(lambda m, now: [Persist("t", (2,), 2)])

    assert run(test).disk.rows["t"] == {(1,): 1}


@pytest.mark.parametrize("error", [StoreDamaged("damaged"), WrongKek("another")])
def test_a_store_that_comes_back_damaged_ends_the_server(error: StoreError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.servers.runner.FULL_AGAIN", 0.01)

    async def both() -> None:
        bench = Bench()
        work = asyncio.create_task(bench.runner.run())
        await bench.runner.command(lambda m, now: [Persist("t", (1,), 1)])
        bench.disk.full = 1
        with pytest.raises(LocalFlowError):
            await bench.runner.command(lambda m, now: [Persist("t", (2,), 2)])

        def load() -> State:
            raise error

        monkeypatch.setattr(bench.disk, "load", load)
        with pytest.raises(Fatal) as caught:
            await asyncio.wait_for(work, 20)
        assert caught.value.__cause__ is error

    asyncio.run(both())


def test_no_room_at_a_start_is_said_and_ends_it() -> None:
    async def both() -> None:
        bench = Bench()
        bench.disk.full = 1
        work = asyncio.create_task(bench.runner.run())
        with pytest.raises(StoreFull, match="no room"):
            await bench.runner.command(lambda m, now: [Persist("t", (1,), 1)])
        with pytest.raises(Fatal):
            await asyncio.wait_for(work, 20)

    asyncio.run(both())


def test_a_command_that_is_refused_harms_nobody() -> None:
    async def test(bench: Bench) -> None:
        def refuse(machine: Machine, now: float) -> list[Output]:
            raise LocalFlowError("no such stream")

        with pytest.raises(LocalFlowError, match="no such stream"):
            await bench.runner.command(refuse)
        assert (await bench.runner.request(request(1), PEER)).status == 0

    run(test)


def test_a_step_of_the_clock_is_noticed_and_the_machine_told() -> None:
    async def test(bench: Bench) -> None:
        await bench.runner.command(lambda m, now: [])
        before = len(bench.runner.machine.ticks)
        bench.clock.time += 3600.0
        bench.runner._awake()
        await bench.runner.command(lambda m, now: [])
        assert bench.seen.steps == [3600.0]
        assert bench.runner.machine.ticks[before:] == [bench.clock.time] and bench.runner.machine.forward == [3600.0]
        before_it = bench.runner.machine
        bench.clock.time -= 3600.0
        bench.runner._awake()
        await bench.runner.command(lambda m, now: [])
        assert bench.seen.steps == [3600.0, -3600.0]
        assert bench.runner.machine is not before_it and bench.runner.machine.ticks == [bench.clock.time], "made anew"
        bench.clock.time, bench.clock.mono = bench.clock.time + 10, bench.clock.mono + 10
        bench.runner._awake()
        assert len(bench.seen.steps) == 2, "time that passes is no step"

    run(test)


def test_the_machine_is_woken_when_it_asked_for_it() -> None:
    async def test(bench: Bench) -> None:
        await bench.runner.command(lambda m, now: [])
        bench.runner.machine.wake = bench.clock.time + 5
        before = len(bench.runner.machine.ticks)
        bench.runner._awake()
        await turns()
        assert len(bench.runner.machine.ticks) == before
        bench.clock.time, bench.clock.mono = bench.clock.time + 5, bench.clock.mono + 5
        bench.runner._awake()
        await bench.runner.command(lambda m, now: [])
        assert len(bench.runner.machine.ticks) == before + 1

    run(test)


def test_a_machine_that_is_always_due_lets_the_sockets_have_their_turn() -> None:
    async def test(bench: Bench) -> None:
        await bench.runner.command(lambda m, now: [])
        machine = bench.runner.machine

        def due(now: float) -> list[Output]:
            machine.ticks.append(now)
            machine.wake = now  # again at once, for ever
            return []

        machine.tick = due  # type: ignore[method-assign]
        machine.wake = bench.clock.time
        bench.runner._awake()
        before = len(machine.ticks)
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.send(b"x")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(reader, 1), 10) == b"x"
            while len(machine.ticks) < before + 5:
                await asyncio.sleep(0)
        machine.tick = lambda now: []  # type: ignore[method-assign]
        machine.wake = None

    run(test)


def test_a_machine_is_made_anew_of_all_that_was_accepted() -> None:
    async def test(bench: Bench) -> None:
        bench.disk.at_once = False
        old = bench.runner.machine
        asked = asyncio.create_task(bench.runner.request(request(1), PEER))
        await turns()
        remade = asyncio.create_task(bench.runner.remake(Machine))
        await turns()
        assert bench.runner.machine is old, "not before the disk has it"
        bench.disk.finish()
        assert (await asked).status == 0
        await remade
        assert bench.runner.machine is not old and set(bench.runner.machine.state) == {"answer", "late"}

    run(test)


def test_what_is_queued_at_a_stop_is_carried_out() -> None:
    def store(number: int) -> Callable[[Machine, float], list[Output]]:
        return lambda machine, now: [Persist("t", (number,), number), CarouselDrop(str(number))]

    async def test(bench: Bench) -> None:
        for number in range(5):
            bench.runner.post(store(number))

    bench = run(test)
    assert bench.air == [CarouselDrop(str(n)) for n in range(5)] and len(bench.disk.rows["t"]) == 5


def test_an_output_that_no_server_carries_out_is_a_fault() -> None:
    async def both() -> None:
        bench = Bench()
        work = asyncio.create_task(bench.runner.run())
        bench.runner.post(lambda m, now: [Send(request(1).answer(0, now=0))])
        with pytest.raises(Fatal):
            await asyncio.wait_for(work, 20)

    asyncio.run(both())
