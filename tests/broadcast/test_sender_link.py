# SPDX-License-Identifier: Apache-2.0
"""The link between a BSD/A and the processes that send: what there is is asked on each connection, nothing blocks or grows."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast import unixsocket
from pybcast.broadcast import link, linkclient
from pybcast.broadcast.link import (
    Ask,
    Begin,
    End,
    Executed,
    Frames,
    Gone,
    Here,
    Said,
    Told,
    Which,
    executed,
    heard,
    told,
    understood,
)
from pybcast.broadcast.linkclient import LinkClient, ObjectClient, PlanClient
from pybcast.broadcast.linkserver import LinkServer
from pybcast.errors import BadLength, BcastError, ConfigError, WireError
from pybcast.flows.edge.slots import Held, HeldPeriod
from pybcast.flows.events import (
    AirStkm,
    Alarm,
    CarouselDrop,
    CarouselPut,
    Plan,
    PlanBegun,
    PlannedPeriod,
    PlanRefused,
    Recall,
    Recalled,
)
from pybcast.flows.tables import EdgeState
from pybcast.messages import Protocol
from pybcast.secret import Secret

NEWS: Final = "urn:example:news"
ME: Final = "urn:example:bsda"


def plan(*starts: int, data: bytes = b"stkm", service: str = NEWS) -> Plan:
    periods = tuple(
        PlannedPeriod(
            start, start + 2, start - 0.5, (AirStkm("drm", data), AirStkm("smartcard", data + b"2")), b"id", Secret(b"k" * 16),
            b"s" * 14, Secret(b"a" * 20) if start % 4 else None, start + 9,
        )
        for start in starts
    )  # fmt: skip
    return Plan(service, 1, Protocol.SRTP, 0.1, periods, hold_through=bool(starts[0] % 4), reserve=3)


def put(name: str, data: bytes = b"1") -> CarouselPut:
    return CarouselPut(name, NEWS, (data, b"22"))


TOLD: Final[tuple[Told, ...]] = (plan(8, 10), Recall(NEWS, 1, 8, off_air=True), put("a"), CarouselDrop("a"))
EXECUTED: Final[tuple[Executed, ...]] = (
    Recalled(NEWS, 1, 8, (8, 10), ((12, 14),)), PlanRefused(NEWS, 1, (8,), "it overlaps", unknown=True), PlanBegun(NEWS, 1, 8),
    Alarm("held-key", NEWS, 1, "why"), Alarm("of-all", "", None, active=False),
)  # fmt: skip
HERE: Final = Here(
    "7.0", 5, 0, (Held(NEWS, 1, (HeldPeriod(8, 10, EdgeState.IN_USE, (b"m" * 16,)),), 8), Held(NEWS, 2, (), None)), EXECUTED[3:4]  # type: ignore[arg-type]
)  # fmt: skip


class Ends:
    """Both ends in one event loop; the process answers as it is told to."""

    def __init__(self, folder: Path, client: type[LinkClient] = PlanClient, **changes: Any) -> None:
        self.path = folder / "link.sock"
        self.server = LinkServer(self.path)
        self.server.open()
        self.has = Here()
        self.changes: list[tuple[bool, str]] = []
        self.heard: list[Executed | Here] = []
        options: dict[str, Any] = {"came": self.heard.append, "executed": self.heard.append} if client is PlanClient else {}
        self.client: Any = client(
            self.path, me=ME, mark=b"m" * 32, changed=lambda *change: self.changes.append(change), **options, **changes
        )
        self.task = asyncio.create_task(self.client.run())

    async def said(self, until: Callable[[Said], bool], *, keep_asks: bool = False) -> list[Said]:
        """What the process hears, to the one that is waited for."""
        found: list[Said] = []
        while not (found and until(found[-1])):
            await self.readable()
            found += self.taken(1, keep_asks=keep_asks)
        return found

    def taken(self, most: int = 64, *, keep_asks: bool = False) -> list[Said]:
        found: list[Said] = []
        for said in self.server.poll(most):
            if isinstance(said, Which):
                self.server.here(said, self.has)
            elif keep_asks or not isinstance(said, Ask):
                found.append(said)
        return found

    async def readable(self) -> None:
        if not self.server.waiting:
            ready = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(self.server.fileno(), ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self.server.fileno())

    async def seen(self, what: Callable[[], object]) -> None:
        while not what():
            await asyncio.sleep(0)

    async def until(self, what: Callable[[], object]) -> list[Said]:
        """What the process hears until something has happened."""
        found: list[Said] = []
        while not what():
            found += self.taken()
            await asyncio.sleep(0)
        return found

    async def came(self) -> list[Said]:
        """Until a connection has begun, and the BSD/A has heard what there is."""
        before = len(self.heard)
        return await self.until(lambda: len(self.heard) > before)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.server.close()


def run(folder: Path, test: Callable[[Ends], Awaitable[None]], client: type[LinkClient] = PlanClient, **changes: Any) -> None:
    async def whole() -> None:
        ends = Ends(folder, client, **changes)
        try:
            async with asyncio.timeout(30):
                await test(ends)
        finally:
            await ends.stop()

    asyncio.run(whole())


def is_end(said: Said) -> bool:
    return isinstance(said, End)


@pytest.mark.parametrize("output", TOLD, ids=lambda output: type(output).__name__)
def test_an_output_comes_as_it_was_said(output: Told) -> None:
    frames = Frames()
    for octet in told(output):
        frames.feed(bytes([octet]))
    body = frames.next()
    assert body is not None and understood(body) == output and frames.next() is None


def test_what_an_edge_says_comes_as_it_was_said() -> None:
    for output in EXECUTED:
        assert heard(executed(output)[4:]) == output
    assert heard(link.here(HERE)[4:]) == HERE
    for shown in (
        repr(plan(8)),
        repr(link._period(plan(8).periods[0])),
        repr(link._Begin(ME, b"kkkk", 1, 0)),
        repr(Begin(ME, b"kkkk")),
    ):
        assert "kkkk" not in shown and "6b6b" not in shown, "no key in what is shown"


# --- an edge ------------------------------------------------------------------------------------------------------------


def test_an_edge_that_is_told_plans_and_says_what_became_of_them(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        assert ends.path.stat().st_mode & 0o777 == 0o600
        ends.client.put(plan(4))
        ends.has = HERE
        assert await ends.came() == [Begin(ME, b"m" * 32, 1)], "of what was put before, the edge was asked what it has of it"
        assert ends.server.connected and ends.changes == [(True, "")]
        assert ends.heard == [Here("", 1, 0, HERE.held, HERE.alarms)]
        ends.client.put(plan(8, 10))
        ends.client.put(TOLD[1])
        ends.client.end()
        assert await ends.said(is_end) == [plan(8, 10), TOLD[1], End()]
        for output in EXECUTED:
            ends.server.say(output)
        ends.server.flush()
        await ends.seen(lambda: len(ends.heard) > len(EXECUTED))
        assert tuple(ends.heard[1:]) == EXECUTED
        ends.client.ask_again()  # the machine was made anew
        assert await ends.came() == []

    run(tmp_path, test)


def test_what_is_there_is_said_after_what_was_executed_before(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        await ends.came()
        ends.client.put(plan(8))
        ends.client.ask_again()
        await ends.readable()
        first, second, *_ = [said for said in ends.server.poll() if not isinstance(said, Ask)]
        assert first == plan(8) and isinstance(second, Which), "each in its turn"
        ends.server.say(EXECUTED[0])
        ends.server.here(second, HERE)
        await ends.seen(lambda: len(ends.heard) >= 3)
        assert ends.heard[1] == EXECUTED[0] and isinstance(ends.heard[2], Here)

    run(tmp_path, test)


def test_an_edge_that_comes_back_is_asked_what_it_has(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        await ends.came()
        ends.client.put(plan(8))
        ends.server.close()
        await ends.seen(lambda: not ends.client.connected)
        ends.client.put(plan(10))
        ends.client.end()
        ends.server = LinkServer(ends.path)
        ends.server.open()
        begin, *rest = await ends.came()
        assert begin == Begin(ME, b"m" * 32, 1) and rest == [], "nothing is kept to be said again"
        assert [there for there, _ in ends.changes][:2] == [True, False] and ends.changes[-1] == (True, "")

    run(tmp_path, test)


def test_of_an_epoch_that_is_over_nothing_is_taken(tmp_path: Path) -> None:
    """R44: a BSD/A that comes takes the place of the one before, which does not come back."""

    async def test(ends: Ends) -> None:
        await ends.came()
        taken: list[Here] = []
        other = PlanClient(ends.path, me="urn:example:other", came=taken.append, executed=lambda _: None)
        task = asyncio.create_task(other.run())
        said = await ends.until(lambda: taken)
        assert said == [Begin("urn:example:other", epoch=2)], "nobody is reported gone after another has come"
        why = (False, "another BSD/A has taken our place there")
        await ends.until(lambda: why in ends.changes)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert ends.client.why == why[1] and ends.changes.count(why) == 1

    run(tmp_path, test)


@pytest.mark.parametrize(("begin", "why"), [(Begin(ME, epoch=3), "frame.epoch"), (Begin(ME, epoch=4, shard=1), "frame.shard")])
def test_a_lower_epoch_and_another_shard_are_cut_off(tmp_path: Path, begin: Begin, why: str) -> None:
    server = LinkServer(tmp_path / "link.sock")
    server.open()
    try:
        with stranger(server, tmp_path / "link.sock") as first, stranger(server, tmp_path / "link.sock") as second:
            first.sendall(link.begin(Begin(ME, epoch=4)))
            assert server.poll() == [Begin(ME, epoch=4)]
            second.sendall(link.begin(begin))
            assert server.poll() == [] and second.recv(1) == b"" and server.refused == 1 and server.connected, why
    finally:
        server.close()


def test_an_edge_of_another_shard_is_not_ours(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        await ends.until(lambda: ends.changes)
        assert ends.changes == [(False, "it is of shard 0, not 3")] and not ends.server.connected

    run(tmp_path, test, shard=3)


def test_an_edge_that_does_not_read_is_told_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkclient, "STUCK", 0.2)

    async def test(ends: Ends) -> None:
        await ends.came()
        for start in range(0, 8000, 2):
            ends.client.put(plan(start, data=bytes(1000)))
        await ends.seen(lambda: (False, "it does not read") in ends.changes)
        assert not ends.client._unsaid and ends.client._octets == 0
        said = await ends.came()
        assert isinstance(said[-1], Begin), "what it has is asked"

    run(tmp_path, test)


def test_what_waits_for_an_edge_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkclient, "MAX_UNSAID", 1 << 20)

    async def test(ends: Ends) -> None:
        await ends.came()
        for start in range(0, 8000, 2):
            ends.client.put(plan(start, data=bytes(1000)))
        await ends.seen(lambda: (False, "everything is said anew") in ends.changes)
        assert ends.client._octets == 0

    run(tmp_path, test)


# --- a carousel ---------------------------------------------------------------------------------------------------------


def test_a_carousel_is_told_everything_anew_when_it_comes_back(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        ends.client.put(put("a"))
        ends.client.put(put("b"))
        assert await ends.said(is_end) == [Begin(ME, b"m" * 32), put("a"), put("b"), End()]
        ends.client.put(put("a"))  # said already
        ends.client.put(put("c"))
        ends.client.put(CarouselDrop("b"))
        ends.client.put(CarouselDrop("never said"))
        assert await ends.said(lambda said: isinstance(said, CarouselDrop)) == [put("c"), CarouselDrop("b")]
        ends.server.close()
        await ends.seen(lambda: not ends.client.connected)
        ends.client.put(CarouselDrop("a"))
        ends.client.put(put("d"))
        ends.server = LinkServer(ends.path)
        ends.server.open()
        assert (await ends.said(is_end))[1:-1] == [put("c"), put("d")]

    run(tmp_path, test, ObjectClient)


def test_after_forgetting_only_what_is_new_is_said(tmp_path: Path) -> None:
    """The store was put back: what was said before was another's; the carousel holds what nobody speaks of (R33)."""

    async def test(ends: Ends) -> None:
        ends.client.put(put("a"))
        await ends.said(is_end)
        ends.client.forget()
        ends.client.put(put("b"))
        said = await ends.said(is_end)
        assert [one for one in said if not isinstance(one, Gone)] == [Begin(ME, b"m" * 32), put("b"), End()]

    run(tmp_path, test, ObjectClient)


def test_a_carousel_that_does_not_read_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkclient, "STUCK", 0.2)

    async def test(ends: Ends) -> None:
        await ends.said(is_end)
        for number in range(20_000):  # each takes the place of the one before
            ends.client.put(put(str(number), bytes(4000)))
            ends.client.put(CarouselDrop(str(number - 1)))
            if number % 200 == 0:
                await asyncio.sleep(0)
        assert len(ends.client._holds) == 1
        assert len(ends.client._unsaid) + len(ends.client._said_here) < 3 * unixsocket.CHUNK // 1000
        await ends.seen(lambda: (False, "it does not read") in ends.changes)
        said = await ends.said(lambda said: said == put("19999", bytes(4000)))
        assert isinstance(said[-2], Begin), "it is said anew, and only what holds"

    run(tmp_path, test, ObjectClient)


# --- both ---------------------------------------------------------------------------------------------------------------


def test_the_state_is_told_to_the_bsda_and_to_who_asks(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        said = await ends.said(lambda said: isinstance(said, Ask), keep_asks=True)
        assert isinstance(said[-1], Ask)
        ends.server.answer(said[-1], {"light": "green", "streams": 3})
        await ends.seen(lambda: ends.client.state)
        assert ends.client.state == {"light": "green", "streams": 3}
        asking = asyncio.create_task(asyncio.to_thread(link.ask, ends.path))
        question = (await ends.said(lambda said: isinstance(said, Ask), keep_asks=True))[-1]
        assert isinstance(question, Ask)
        ends.server.answer(question, {"light": "red"})
        assert await asking == {"light": "red"} and ends.server.connected, "who asks takes nobody's place"

    run(tmp_path, test)


def test_the_process_speaks_first_and_sends_the_commit_back(tmp_path: Path) -> None:
    """R51: it knows how far our store has come."""
    commit = "1.0.0.0.first"
    spoken: list[str] = []

    async def test(ends: Ends) -> None:
        nonlocal commit
        await ends.came()
        assert spoken == [""] and ends.client.tried.is_set()
        ends.client.put(plan(8))
        await ends.said(lambda said: isinstance(said, Plan))
        commit = "2.0.0.0.second"
        ends.client.put(plan(10))
        await ends.said(lambda said: said == plan(10))
        ends.server.again()  # it connects anew
        await ends.came()
        assert spoken == ["", "2.0.0.0.second"]

    run(tmp_path, test, commit=lambda: commit, here=lambda said: spoken.append(said.token))


def test_nothing_is_said_before_the_bsda_may_speak(tmp_path: Path) -> None:
    """So what it finds out from the process comes before anything that it says."""
    spoken: list[Here] = []

    async def test(ends: Ends) -> None:
        assert await ends.until(lambda: spoken) == []
        assert not ends.client.connected
        ends.client.put(put("a"))
        ends.client.speaking.set()
        assert [type(one) for one in await ends.said(is_end)] == [Begin, CarouselPut, End]

    run(tmp_path, test, ObjectClient, silent=True, here=spoken.append)


@pytest.mark.parametrize(
    "answer", [b"", link.executed(EXECUTED[2]), b"\0\0\0\1\xc1"], ids=["nothing", "something else", "no frame"]
)
def test_a_process_that_does_not_say_what_it_has_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:  # fmt: skip
    monkeypatch.setattr(linkclient, "ANSWERED", 0.05)

    async def test() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(silent, tmp_path / "link.sock")
        changes: list[str] = []
        client = ObjectClient(tmp_path / "link.sock", me=ME, changed=lambda there, why: changes.append(why))
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(30):
            await client.tried.wait()
        assert changes and not client.connected
        assert changes[0] == "it does not say what it has" or "a message of the link" in changes[0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        await server.wait_closed()

    asyncio.run(test())


def test_nobody_is_a_witness_who_is_not_there(tmp_path: Path) -> None:
    async def test() -> None:
        client = ObjectClient(tmp_path / "nobody.sock", me=ME)
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(30):
            await client.tried.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())


@contextlib.contextmanager
def stranger(server: LinkServer, path: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.settimeout(10)
        server.poll()
        yield connection


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\0\0\0", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        told(plan(8)), told(CarouselDrop("a")),  # before begin
        struct.pack(">I", 2000) + b"\x91" * 2000,  # nested deeper than anything
    ],
    ids=["empty", "endless", "http", "no-msgpack", "no-begin", "no-begin-either", "nested"],
)  # fmt: skip
def test_who_says_something_else_is_cut_off(tmp_path: Path, garbage: bytes) -> None:
    server = LinkServer(tmp_path / "link.sock")
    server.open()
    try:
        with stranger(server, tmp_path / "link.sock") as connection:
            connection.sendall(garbage)
            assert [said for _ in range(4) for said in server.poll()] == []
            assert connection.recv(1) == b"" and server.refused == 1 and not server.connected
    finally:
        server.close()


def test_who_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "link.sock"
    server = LinkServer(path)
    server.open()
    with pytest.raises(ConfigError, match="another process listens there"):
        LinkServer(path).open()
    with monkeypatch.context() as patch, stranger(server, path) as idle:
        patch.setattr(unixsocket, "socket_user", lambda _: 54321)
        with stranger(server, path) as other:
            assert other.recv(1) == b""
        patch.setattr(unixsocket, "socket_user", lambda _: 0)
        patch.setattr(server, "_most", 1)
        with stranger(server, path) as other:
            assert other.recv(1) == b""
        idle.sendall(link.ASK)
        assert isinstance(server.poll()[0], Ask)
    assert server.refused == 2
    server.close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    again = LinkServer(path)  # what a dead process left behind
    again.open()
    again.close()
    path.write_text("no socket")
    with pytest.raises(ConfigError, match="is no socket"):
        again.open()


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_any_bytes_are_frames_or_an_error(parts: list[bytes]) -> None:
    frames = Frames(1000)
    try:
        for part in parts:
            frames.feed(part)
            while (body := frames.next()) is not None:
                assert 1 <= len(body) <= 1000
    except BadLength:
        pass


@given(st.one_of(st.binary(max_size=300), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8) | st.floats()
    | st.sampled_from(["begin", "end", "plan", "recall", "put", "drop", "ask", "which", "drm", "smartcard"]),
    lambda inner: st.lists(inner, max_size=6), max_leaves=12,
).map(msgspec.msgpack.encode)))  # fmt: skip
def test_any_message_is_understood_or_an_error(body: bytes) -> None:
    try:
        said = understood(body)
    except WireError as error:
        assert isinstance(error, BcastError) and error.field == "frame"
    else:
        if isinstance(said, Plan | Recall | CarouselPut | CarouselDrop):
            again = understood(told(said)[4:])
            assert again == said
