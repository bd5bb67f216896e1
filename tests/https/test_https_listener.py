# SPDX-License-Identifier: Apache-2.0
"""Connections before and after TLS: floods from one address and from many, callers who say nothing, and that others are served."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from aiohttp import web

from pybcast.backend import pki
from pybcast.errors import ConfigError, TransportError
from pybcast.https import contexts, listener
from pybcast.https.limits import ConnectionLimits
from pybcast.https.listener import Listener, Stranger

LOG: Final = logging.getLogger("pybcast.backend.test")
FLOOD, MANY = "127.0.0.2", [f"127.0.0.{n}" for n in range(2, 40)]
T = TypeVar("T")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pki")
    pki.init(path, {"server": "urn:example:server", "alice": "urn:example:alice", "bob": "urn:example:bob"})
    pki.issue(path, "stranger", "urn:example:stranger")
    return path


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


class Bench:
    """A listener that answers everyone but a stranger, and callers from any loopback address."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.folder = folder
        self.limits = ConnectionLimits(**limits)
        self.sockets: list[socket.socket] = []
        self.listener: Listener[str]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        found = self.listener.connection(request)
        return web.Response(text="nobody" if found is None or found.who is None else found.who)

    @staticmethod
    def _admit(certificate: Mapping[str, Any] | None, data: bytes | None) -> tuple[str, str]:
        names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]
        if names == ["urn:example:stranger"]:
            raise Stranger("a stranger")
        return (names[0], names[0]) if names else ("", "")

    @contextlib.asynccontextmanager
    async def serving(self, *, plain: bool = False) -> AsyncIterator[Bench]:
        made = self.listener = Listener(
            self._handle, limits=self.limits, admit=self._admit, log=LOG, level=logging.WARNING, logger=LOG
        )  # fmt: skip
        await made.start("127.0.0.1", 0, None if plain else contexts.server_context(pki.files_of(self.folder, "server")))
        try:
            yield self
        finally:
            for sock in self.sockets:
                sock.close()
            await made.stop(0.0)
            assert len(made) == 0 and not made._addresses and not made._shares and not made._by_handler

    async def silent(self, address: str = FLOOD) -> socket.socket:
        """A caller who connects and says nothing."""
        sock = socket.socket()
        self.sockets.append(sock)
        sock.setblocking(False)
        sock.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.listener.port))
        return sock

    async def flood(self, count: int, address: str = FLOOD) -> int:
        """So many of them; how many were not refused at once."""
        taken = 0
        for _ in range(count):
            with contextlib.suppress(ConnectionError):
                await self.silent(address)
                taken += 1
            assert len(self.listener) <= self.limits.connections
            assert len(self.listener._addresses.get(address, listener._Places()).open) <= self.limits.per_address
        return taken

    @contextlib.asynccontextmanager
    async def honest(self, name: str = "alice", address: str = "127.0.0.1") -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """A caller with a certificate; asks as often as it likes on one connection."""
        context = contexts.client_context(pki.files_of(self.folder, name))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.listener.port, ssl=context, local_addr=(address, 0)
        )  # fmt: skip

        async def ask() -> str:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length:")[1].split()[0])
            return (await reader.readexactly(size)).decode()

        try:
            yield ask
        finally:
            writer.transport.abort()

    async def gets_in(self, name: str, address: str = "127.0.0.1") -> None:
        """A caller who is refused comes again, as clients do."""
        for _ in range(1000):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with self.honest(name, address) as ask:
                    assert await ask() == f"urn:example:{name}"
                    return
        pytest.fail("kept out")

    async def refused(self, name: str = "alice", address: str = "127.0.0.1") -> None:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with self.honest(name, address) as ask:
                await ask()

    async def until(self, good: Callable[[], bool]) -> None:
        while not good():
            await asyncio.sleep(0.001)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- before TLS -------------------------------------------------------------------------------------------------------


def test_one_address_takes_its_places_and_no_more(folder: Path) -> None:
    """Callers who say nothing: counted at accept, so that neither descriptors nor memory grow; who is served goes on."""

    async def work() -> None:
        bench = Bench(folder, per_address=8, connect_rate=10_000.0)
        async with bench.serving(), bench.honest("alice", FLOOD) as same, bench.honest("bob") as other:
            assert (await same(), await other()) == ("urn:example:alice", "urn:example:bob")
            before = descriptors()
            await bench.flood(300)
            assert len(bench.listener) <= 9 and descriptors() - before <= 300 + 8  # 300 are the flood's own ends
            await bench.until(lambda: bench.listener.refused["too many of one address"] == 300 - 7)
            for _ in range(20):
                assert (await same(), await other()) == ("urn:example:alice", "urn:example:bob")
            async with bench.honest("alice") as another:
                assert await another() == "urn:example:alice"

    run(work())


def test_a_refused_connection_is_reset(folder: Path) -> None:
    """Nothing of it stays in the system, and the caller knows at once."""

    async def work() -> None:
        async with Bench(folder, per_address=1, connect_rate=100.0).serving() as bench:
            await bench.silent()
            with pytest.raises(ConnectionResetError):
                sock = await bench.silent()
                await asyncio.get_running_loop().sock_recv(sock, 1)

    run(work())


def test_new_connections_of_one_address_have_a_rate(folder: Path) -> None:
    """Handshakes that fail at once cost a core all the same."""

    async def work() -> None:
        async with Bench(folder, per_address=5, connect_rate=0.001).serving() as bench, bench.honest() as ask:
            for _ in range(50):
                with contextlib.suppress(ConnectionError):
                    (await bench.silent()).close()
            await bench.until(lambda: bench.listener.refused["too many a second from one address"] == 45)
            assert await ask() == "urn:example:alice"
            bench.listener.reload(limits=ConnectionLimits(per_address=5, connect_rate=1000.0))
            async with bench.honest("bob", FLOOD) as again:
                assert await again() == "urn:example:bob", "new limits hold at once"

    run(work())


def test_callers_who_say_nothing_keep_nobody_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one address and from many: who has been in the handshake for long goes for who is new."""
    monkeypatch.setattr(listener, "PATIENCE", 0.02)
    monkeypatch.setattr(listener, "PAUSE", 0.01)

    async def work() -> None:
        bench = Bench(folder, per_address=4, connections=40, half_open=30, connect_rate=10_000.0)
        async with bench.serving(), bench.honest("bob") as old:
            await bench.flood(4)
            await bench.gets_in("alice", FLOOD)  # behind the same address
            for address in MANY:
                await bench.flood(4, address)
            assert len(bench.listener) <= 40
            for _ in range(5):
                await bench.gets_in("alice")
                assert await old() == "urn:example:bob"
            assert bench.listener.refused["handshake too long"]

    run(work())


def test_many_honest_callers_at_once_all_get_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may shake hands at once: they wait in the system's queue, and do not end each other."""
    monkeypatch.setattr(listener, "PAUSE", 0.01)

    async def work() -> None:
        async with Bench(folder, per_address=100, half_open=4, per_share=100).serving() as bench:

            async def one() -> str:
                async with bench.honest() as ask:
                    return await ask()

            assert await asyncio.gather(*(one() for _ in range(40))) == ["urn:example:alice"] * 40
            assert not bench.listener.refused

    run(work())


def test_everyone_together_has_a_limit(folder: Path) -> None:
    async def work() -> None:
        async with Bench(folder, connections=3, per_share=100).serving() as bench:
            async with bench.honest() as one, bench.honest() as two, bench.honest() as three:
                assert [await ask() for ask in (one, two, three)] == ["urn:example:alice"] * 3
                await bench.refused()
                assert bench.listener.refused["too many"] == 1
                assert await one() == "urn:example:alice"
            await bench.until(lambda: not len(bench.listener))
            async with bench.honest() as four:
                assert await four() == "urn:example:alice"

    run(work())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_it_neither_spins_nor_stops(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.05)
    asked, scarce = 0, True

    class Scarce:
        def __init__(self, sock: socket.socket) -> None:
            self.fileno, self.close = sock.fileno, sock.close
            self._sock = sock

        def accept(self) -> tuple[socket.socket, Any]:
            nonlocal asked
            asked += 1
            if scarce:
                raise OSError(number, os.strerror(number))
            return self._sock.accept()

    async def work() -> None:
        nonlocal scarce
        async with Bench(folder).serving() as bench, bench.honest("bob") as old:
            loop, turns = asyncio.get_running_loop(), 0
            loop.remove_reader(bench.listener._socket)  # type: ignore[arg-type]  # it listens
            bench.listener._socket = Scarce(bench.listener._socket)  # type: ignore[assignment, arg-type]  # it does what is asked of it
            bench.listener._resume()
            await bench.silent("127.0.0.1")
            while asked < 4:
                turns += 1
                assert await old() == "urn:example:bob"
            assert bench.listener.refused["no descriptors"] == asked == 4 and turns >= 4, "not at each turn of the loop"
            scarce = False
            async with bench.honest() as ask:
                assert await ask() == "urn:example:alice"

    run(work())


def test_a_real_shortage_of_descriptors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE", 0.01)

    async def work() -> None:
        async with Bench(folder, connect_rate=1000.0).serving() as bench, bench.honest("bob") as old:
            assert await old() == "urn:example:bob"
            sock = await bench.silent()
            held = [os.dup(0) for _ in range(3)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            callers = [socket.socket() for _ in range(3)]
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(callers[-1].fileno(), sock.fileno(), *held) + 1, hard))
                while True:  # no number is left free
                    with contextlib.suppress(OSError):
                        held.append(os.dup(0))
                        continue
                    break
                for caller in callers:
                    caller.connect(("127.0.0.1", bench.listener.port))
                await bench.until(lambda: bench.listener.refused["no descriptors"] >= 2)
                assert await old() == "urn:example:bob"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for number in held:
                    os.close(number)
            await bench.until(lambda: len(bench.listener) == 5)
            for caller in callers:
                caller.close()

    run(work())


# --- in the handshake -------------------------------------------------------------------------------------------------


def test_half_a_handshake_ends_soon(folder: Path) -> None:
    async def work() -> None:
        async with Bench(folder, handshake=0.1).serving() as bench:
            for said in (b"", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x00\x05\x01"):
                sock = await bench.silent()
                await asyncio.get_running_loop().sock_sendall(sock, said)
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            assert len(bench.listener) == 0

    run(work())


def test_what_is_no_handshake_is_one_line_of_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And a TLS alert, or nothing, for who sent it; asyncio and aiohttp say nothing of it."""
    caplog.set_level(logging.INFO)

    async def work() -> None:
        async with Bench(folder).serving() as bench:
            for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\x00\x04\xff\xff\xff\xff", None):
                sock = await bench.silent()
                if said is None:
                    sock.close()
                    continue
                await asyncio.get_running_loop().sock_sendall(sock, said)
                with contextlib.suppress(ConnectionError):
                    while await asyncio.get_running_loop().sock_recv(sock, 100):
                        pass
            await bench.until(lambda: bench.listener.refused["TLS"] == 4 and not len(bench.listener))

    run(work())
    assert [r.name for r in caplog.records] == [LOG.name] * 4
    assert all(r.getMessage().startswith("TLS handshake refused: ") and not r.exc_info for r in caplog.records)


def test_stopping_ends_handshakes_too(folder: Path) -> None:
    """Also those whose turn has not come yet."""

    async def work() -> None:
        async with Bench(folder).serving() as bench:
            await bench.flood(5)
            await bench.until(lambda: len(bench.listener) == 5)
            late = socket.create_connection(("127.0.0.1", bench.listener.port))
            bench.sockets.append(late)
            bench.listener._accept()
            assert len(bench.listener) == 6

    run(work())


# --- after TLS --------------------------------------------------------------------------------------------------------


def test_a_stranger_is_dropped_and_a_peer_has_its_share(folder: Path) -> None:
    """One that takes all it can get leaves the others theirs."""

    async def work() -> None:
        async with Bench(folder, per_share=3).serving() as bench:
            async with contextlib.AsyncExitStack() as open_:
                mine = [await open_.enter_async_context(bench.honest()) for _ in range(3)]
                assert [await ask() for ask in mine] == ["urn:example:alice"] * 3
                for _ in range(5):
                    await bench.refused()
                    await bench.refused("stranger")
                assert bench.listener.refused == {"too many of one certificate": 5, "a stranger": 5}
                async with bench.honest("bob") as other:
                    assert (await other(), await mine[0]()) == ("urn:example:bob", "urn:example:alice")
            await bench.until(lambda: not len(bench.listener))
            async with bench.honest() as again:
                assert await again() == "urn:example:alice"

    run(work())


def test_who_is_not_admitted_any_more_is_dropped_at_a_reload(folder: Path) -> None:
    async def work() -> None:
        async with Bench(folder).serving() as bench, bench.honest() as alice, bench.honest("bob") as bob:
            assert (await alice(), await bob()) == ("urn:example:alice", "urn:example:bob")
            before = bench.listener._admit

            def admit(certificate: Mapping[str, Any] | None, data: bytes | None) -> tuple[str, str]:
                who, share = before(certificate, data)
                if who == "urn:example:alice":
                    raise Stranger("not any more")
                return who, share

            bench.listener._admit = admit
            bench.listener.reload()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await alice()
            assert await bob() == "urn:example:bob"
            assert bench.listener.refused == {"not admitted any more": 1}

    run(work())


def test_plain_http_is_for_loopback_and_counts_too(folder: Path) -> None:
    async def work() -> None:
        async with Bench(folder, per_address=2, connect_rate=100.0).serving(plain=True) as bench:
            await bench.flood(20)
            await bench.until(lambda: bench.listener.refused["too many of one address"] == 18)
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.listener.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.transport.abort()
            with pytest.raises(ConfigError, match="loopback"):
                await Listener(
                    bench._handle, limits=bench.limits, admit=bench._admit, log=LOG, level=logging.WARNING
                ).start("0.0.0.0", 0, None)  # fmt: skip
            with pytest.raises(TransportError, match=str(bench.listener.port)):
                await Listener(
                    bench._handle, limits=bench.limits, admit=bench._admit, log=LOG, level=logging.WARNING
                ).start("127.0.0.1", bench.listener.port, None)  # fmt: skip

    run(work())


def test_a_connection_holds_a_small_buffer_and_only_ours_does(folder: Path) -> None:
    async def serve() -> None:
        async with Bench(folder).serving() as bench, bench.honest("alice") as ask:
            assert await ask() == "urn:example:alice"
            (connection,) = bench.listener._all.open
            protocol: Any = connection.transport._ssl_protocol  # type: ignore[union-attr]  # asyncio's
            assert len(protocol._ssl_buffer) == len(protocol._ssl_buffer_view) == protocol.max_size == listener.TLS_BUFFER
            assert await ask() == "urn:example:alice"
        assert asyncio.sslproto.SSLProtocol.max_size > listener.TLS_BUFFER

    run(serve())
