# SPDX-License-Identifier: Apache-2.0
"""The link between a BSD/A and the processes that send: all is said anew on each connection, nothing blocks or grows."""

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
from pybcast.broadcast import link
from pybcast.broadcast.link import Ask, Begin, End, Frames, Gone, LinkClient, LinkServer, Said, told, understood
from pybcast.errors import BadLength, BcastError, ConfigError, WireError
from pybcast.flows.events import AirStkm, Announce, CarouselDrop, CarouselPut, OffAir

NEWS: Final = "urn:example:news"


def announce(start: int, data: bytes = b"stkm", service: str = NEWS) -> Announce:
    return Announce(service, 1, start, (AirStkm("drm", data), AirStkm("smartcard", data + b"2")), 0.1)


OUTPUTS: Final = (announce(8), OffAir(NEWS, 1, 8), CarouselPut("a", NEWS, (b"1", b"22")), CarouselDrop("a"))


class Ends:
    """Both ends in one event loop."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.server = LinkServer(folder / "link.sock")
        self.server.open()
        self.reports: list[link.Report] = []
        self.changes: list[tuple[bool, str]] = []
        self.client = LinkClient(
            folder / "link.sock", me="urn:example:bsda", mark=b"m" * 32, announced=self.reports.extend,
            changed=lambda *change: self.changes.append(change), **changes,
        )  # fmt: skip
        self.task = asyncio.create_task(self.client.run())

    async def said(self, until: Callable[[Said], bool], *, keep_asks: bool = False) -> list[Said]:
        """What the process hears, to the one that is waited for."""
        found: list[Said] = []
        while not (found and until(found[-1])):
            await self.readable()
            found += [said for said in self.server.poll(1) if keep_asks or not isinstance(said, Ask)]
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

    async def said_nothing_until(self, what: Callable[[], object]) -> None:
        """The process reads, and hears nothing, until something has happened."""
        while not what():
            assert not self.server.poll()
            await asyncio.sleep(0)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.server.close()


def run(folder: Path, test: Callable[[Ends], Awaitable[None]]) -> None:
    async def whole() -> None:
        ends = Ends(folder)
        try:
            async with asyncio.timeout(30):
                await test(ends)
        finally:
            await ends.stop()

    asyncio.run(whole())


def is_end(said: Said) -> bool:
    return isinstance(said, End)


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: type(output).__name__)
def test_an_output_comes_as_it_was_said(output: link.Told) -> None:
    frames = Frames()
    for octet in told(output):
        frames.feed(bytes([octet]))
    body = frames.next()
    assert body is not None and understood(body) == output and frames.next() is None


def test_a_process_that_is_told_and_reports(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        assert (tmp_path / "link.sock").stat().st_mode & 0o777 == 0o600
        ends.client.put(announce(8))
        ends.client.put(OUTPUTS[2])
        heard = await ends.said(is_end)
        assert heard == [Begin("urn:example:bsda", b"m" * 32), announce(8), OUTPUTS[2], End()]
        assert ends.server.connected and ends.changes == [(True, "")]
        for report in ((NEWS, 1, 8), (NEWS, 1, 999)):  # of what it was never told nothing can be reported
            ends.server.announced(report)
        ends.server.flush()
        await ends.seen(lambda: ends.reports)
        assert ends.reports == [(NEWS, 1, 8)]
        ends.client.put(announce(8))  # a machine that was made anew says it again: it is on air
        assert ends.reports == [(NEWS, 1, 8)] * 2
        ends.client.put(announce(10))
        ends.client.put(OffAir(NEWS, 1, 8))
        ends.client.put(OffAir(NEWS, 1, 4))  # never said
        ends.client.put(CarouselDrop("a"))
        heard = await ends.said(lambda said: isinstance(said, CarouselDrop))
        assert heard == [announce(10), OffAir(NEWS, 1, 8), CarouselDrop("a")]

    run(tmp_path, test)


def test_everything_is_said_anew_to_a_process_that_comes_back(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        ends.client.put(announce(8))
        await ends.said(is_end)
        ends.server.announced((NEWS, 1, 8))
        ends.server.flush()
        await ends.seen(lambda: ends.reports)
        ends.server.close()
        await ends.seen(lambda: not ends.client.connected)
        ends.client.put(announce(10))
        ends.client.put(OffAir(NEWS, 1, 8))
        ends.client.put(announce(12))
        ends.server = LinkServer(tmp_path / "link.sock")
        ends.server.open()
        assert (await ends.said(is_end))[1:-1] == [announce(10), announce(12)]
        assert [there for there, _ in ends.changes][:2] == [True, False] and ends.changes[-1] == (True, "")

    run(tmp_path, test)


def test_streams_that_the_configuration_forgot_are_taken_off(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        ends.client.put(announce(8))
        ends.client.put(announce(8, service="urn:other"))
        ends.client.put(OUTPUTS[2])
        await ends.said(is_end)
        ends.client.keep({(NEWS, 1, start) for start in (8, 10)})
        ends.client.put(announce(10))
        assert await ends.said(lambda said: said == announce(10)) == [OffAir("urn:other", 1, 8), announce(10)]

    run(tmp_path, test)


def test_a_bsda_that_comes_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        await ends.said(is_end)
        other = LinkClient(tmp_path / "link.sock", me="urn:example:other")
        other.put(announce(20))
        task = asyncio.create_task(other.run())
        heard = await ends.said(is_end)
        assert heard[0] == Begin("urn:example:other") and announce(20) in heard
        assert Gone() not in heard
        assert not any(isinstance(said, Announce) and said != announce(20) for said in heard)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        heard = await ends.said(lambda said: isinstance(said, Begin) and said.me == "urn:example:bsda")
        assert not any(isinstance(said, Gone) for said in heard[1:]), "nobody is reported gone after another has come"

    run(tmp_path, test)


def test_a_process_that_does_not_read_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "STUCK", 0.2)

    async def test(ends: Ends) -> None:
        await ends.said(is_end)
        writing = link.CHUNK
        for start in range(0, 40_000, 2):  # each period takes the place of the one before
            ends.client.put(announce(start, bytes(1000)))
            ends.client.put(OffAir(NEWS, 1, start - 2))
            if start % 400 == 0:
                await asyncio.sleep(0)
        assert len(ends.client._holds) == 1
        assert len(ends.client._unsaid) + len(ends.client._said) < 3 * writing // 1000
        await ends.seen(lambda: (False, "it does not read") in ends.changes)
        heard = await ends.said(lambda said: said == announce(39_998, bytes(1000)))
        assert isinstance(heard[-2], Begin), "it is said anew, and only what holds"

    run(tmp_path, test)


def test_the_state_is_told_to_the_bsda_and_to_who_asks(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        heard = await ends.said(lambda said: isinstance(said, Ask), keep_asks=True)
        assert isinstance(heard[-1], Ask)
        ends.server.answer(heard[-1], {"light": "green", "streams": 3})
        await ends.seen(lambda: ends.client.state)
        assert ends.client.state == {"light": "green", "streams": 3}
        asking = asyncio.create_task(asyncio.to_thread(link.ask, tmp_path / "link.sock"))
        question = (await ends.said(lambda said: isinstance(said, Ask), keep_asks=True))[-1]
        assert isinstance(question, Ask)
        ends.server.answer(question, {"light": "red"})
        assert await asking == {"light": "red"} and ends.server.connected, "who asks takes nobody's place"

    run(tmp_path, test)


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
        told(announce(8)), told(CarouselDrop("a")),  # before begin
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
        patch.setattr(link, "MAX_PEERS", 1)
        with stranger(server, path) as other:
            assert other.recv(1) == b""
        idle.sendall(link.frame(link._Ask()))
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
    | st.sampled_from(["begin", "end", "announce", "off-air", "put", "drop", "ask", "drm", "smartcard"]),
    lambda inner: st.lists(inner, max_size=6), max_leaves=12,
).map(msgspec.msgpack.encode)))  # fmt: skip
def test_any_message_is_understood_or_an_error(body: bytes) -> None:
    try:
        said = understood(body)
    except WireError as error:
        assert isinstance(error, BcastError) and error.field == "frame"
    else:
        if isinstance(said, Announce | OffAir | CarouselPut | CarouselDrop):
            again = understood(told(said)[4:])
            assert again == said


# --- what the process knows of the BSD/A's store (R51) ------------------------------------------------------------------


class Witness(Ends):
    """Ends whose process has something on air, and a BSD/A that listens to it."""

    def __init__(self, folder: Path, held: tuple[link.Held, ...] = (), **changes: Any) -> None:
        self.here: list[tuple[str, tuple[link.Held, ...]]] = []
        self.commit = "1.0.0.0.first"
        super().__init__(
            folder, commit=lambda: self.commit, here=lambda token, held: self.here.append((token, tuple(held))), **changes
        )
        self.server._on_air = lambda: held


def run_witness(folder: Path, test: Callable[[Witness], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        ends = Witness(folder, **options)
        try:
            async with asyncio.timeout(30):
                await test(ends)
        finally:
            await ends.stop()

    asyncio.run(whole())


def test_the_process_speaks_first_and_sends_the_commit_back(tmp_path: Path) -> None:
    held = ((NEWS, 1, 8, link.mark_of(b"stkm")), (NEWS, 1, 16, link.mark_of(b"later")))

    async def test(ends: Witness) -> None:
        await ends.said(lambda said: isinstance(said, Begin))
        assert ends.here == [("", held)] and ends.client.tried.is_set()
        ends.client.put(announce(8))
        await ends.said(lambda said: isinstance(said, Announce))
        ends.commit = "2.0.0.0.second"
        ends.client.put(announce(16))
        await ends.said(lambda said: isinstance(said, Announce) and said.start == 16)
        ends.server.again()  # it connects anew
        await ends.said(lambda said: isinstance(said, Begin))
        assert ends.here == [("", held), ("2.0.0.0.second", held)]

    run_witness(tmp_path, test, held=held)


def test_nothing_is_said_before_the_bsda_may_speak(tmp_path: Path) -> None:
    """So what it finds out from the process comes before anything that it says."""

    async def test(ends: Witness) -> None:
        await ends.said_nothing_until(lambda: ends.here)
        assert not ends.client.connected
        ends.client.put(announce(8))
        ends.client.speaking.set()
        said = await ends.said(lambda said: isinstance(said, End))
        assert [type(one) for one in said] == [Begin, Announce, End]

    run_witness(tmp_path, test, silent=True)


def test_after_forgetting_only_what_is_new_is_said(tmp_path: Path) -> None:
    """The store was put back: what was said before was another's; the process holds what nobody speaks of (R33)."""

    async def test(ends: Witness) -> None:
        ends.client.put(announce(8))
        await ends.said(lambda said: isinstance(said, End))
        ends.client.forget()
        ends.client.put(announce(24))
        said = await ends.said(lambda said: isinstance(said, End))
        assert [type(one) for one in said if not isinstance(one, Gone)] == [Begin, Announce, End]
        assert [one.start for one in said if isinstance(one, Announce)] == [24]

    run_witness(tmp_path, test)


def test_a_process_that_does_not_say_what_is_on_air_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ANSWERED", 0.05)

    async def test() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(silent, tmp_path / "link.sock")
        changes: list[str] = []
        client = LinkClient(tmp_path / "link.sock", me="urn:example:bsda", changed=lambda there, why: changes.append(why))
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(30):
            await client.tried.wait()
        assert changes == ["it does not say what is on air"] and not client.connected
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        await server.wait_closed()

    asyncio.run(test())


def test_nobody_is_a_witness_who_is_not_there(tmp_path: Path) -> None:
    async def test() -> None:
        client = LinkClient(tmp_path / "nobody.sock", me="urn:example:bsda")
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(30):
            await client.tried.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())
