# SPDX-License-Identifier: Apache-2.0
"""Running servers under a flood of connections: descriptors, memory and log stay small, and who is honest is served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Final

import pytest
from servers_support import Process
from terminals_support import A, Terminals

from pybcast.backend import pki
from pybcast.https import contexts
from pybcast.interaction import InteractionClient, Unauthorised

FLOOD: Final = 1500  # connections of each kind
HELD: Final = 300  # of them that stay open as long as the server lets them
PEERS, TERMINALS = 40, 100
"""Connections of one address."""
GROWTH: Final = 24 << 20  # octets: 140 connections at 90 KB, and what the allocator does not give back
LINES: Final = 200  # of the log: five kinds with five lines each in ten seconds, and what belongs to every day


@pytest.fixture(scope="module")
def terminals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminals]:
    folder = tmp_path_factory.mktemp("flood")
    made = Terminals(folder, peers=f"connections_per_address = {PEERS}", terminals=f"connections_per_address = {TERMINALS}")
    pki.issue(folder, "stranger", "urn:example:stranger")
    yield made
    made.system.close()


def descriptors(process: Process) -> int:
    return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))


def silent(port: int, number: int) -> socket.socket | None:
    """Says nothing, or half a word."""
    sock = socket.socket()
    sock.settimeout(10)
    try:
        sock.bind(("127.0.0.2", 0))
        sock.connect(("127.0.0.1", port))
        if number % 2:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
    except OSError:
        sock.close()
        return None
    return sock


def garbage(port: int, number: int) -> None:
    """Says something else than TLS, and waits for the end."""
    sock = silent(port, 0)
    if sock is not None:
        with contextlib.suppress(OSError), sock:
            sock.sendall((b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 50, b"\x16\x03\x01\x00\x04\xff\xff\xff\xff")[number % 3])
            while sock.recv(1000):
                pass


def with_certificate(port: int, context: ssl.SSLContext, count: int) -> None:
    """Shakes hands, asks for something, and waits for the end; so many times."""

    async def call() -> None:
        writer = None
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=("127.0.0.2", 0))
            writer.write(b"POST /bcast/spcp HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 4\r\n\r\n<a/>")
            while await reader.read(1000):
                pass
        if writer is not None:
            writer.transport.abort()

    async def calls() -> None:
        for _ in range(count):
            await call()

    _run(calls())


def exchanged(bsm: Process) -> float:
    """Requests of the BSD/A that were answered with status 0."""
    return sum(v for n, v in bsm.metrics().items() if n.startswith("pybcast_exchanges_total") and 'status="0"' in n)


async def _plays(client: InteractionClient, profile: str) -> None:
    found = await client.stkm(A, 1, profile, wait=30)
    assert found is not None and await client.registration()


def served(terminals: Terminals) -> None:
    """Terminals of both profiles get what is theirs, on new connections, and the BSD/A its STKMs."""

    async def work() -> None:
        for client, profile in ((terminals.alice(), "smartcard"), (terminals.dora(), "drm")):
            try:
                await _plays(client, profile)
            finally:
                await client.close()

    before = exchanged(terminals.system.running["bsm"])
    _run(work())
    while exchanged(terminals.system.running["bsm"]) == before:
        time.sleep(0.05)


@pytest.mark.parametrize("of", ["peers", "terminals"])
def test_connections_without_end_cost_little_and_keep_nobody_out(terminals: Terminals, of: str) -> None:
    """From one address: some say nothing, some something else than TLS, some have a certificate of the authority."""
    bsm = terminals.system.running["bsm"]
    ready = bsm.ready()
    port, most = (ready["port"], PEERS) if of == "peers" else (ready["interaction_port"], TERMINALS)
    served(terminals)
    resident, lines, files = bsm.resident(), len(bsm.events), descriptors(bsm)
    stranger = contexts.client_context(pki.files_of(terminals.folder, "stranger"))
    held: list[socket.socket] = []
    largest = 0
    try:
        for number in range(FLOOD):
            sock = silent(port, number)
            if sock is not None and len(held) < HELD:
                held.append(sock)
            elif sock is not None:
                sock.close()
            if number % 500 == 250:
                served(terminals)
            largest = max(largest, descriptors(bsm))
    finally:
        for sock in held:
            sock.close()
    for number in range(FLOOD // 10):
        garbage(port, number)
        largest = max(largest, descriptors(bsm))
    with_certificate(port, stranger, FLOOD // 10)
    served(terminals)
    assert largest - files <= most + 40, "the flood's own, those of who is served, and what two servers open to each other"
    assert bsm.resident() - resident < GROWTH
    flooded = [e for e in bsm.events[lines:] if e.get("level") != "debug"]
    assert len(flooded) < LINES
    figures = bsm.metrics()
    refused = {
        name: value for name, value in figures.items() if name.startswith("pybcast_connections_refused_total") and of in name
    }
    assert sum(refused.values()) > FLOOD / 2, refused
    assert any("too many" in name for name in refused)
    if of == "peers":
        assert any("belongs to no configured peer" in name for name in refused)
    bsm.wait(lambda seen: sum(e.get("repeated", 0) for e in seen[lines:]) > FLOOD / 2, "count of what was left out", 15)


def test_a_stranger_behind_the_same_address_takes_nothing_of_a_subscriber(terminals: Terminals) -> None:
    """Requests that prove nothing, as fast as they go, from the subscriber's own address."""

    async def work() -> None:
        alice, strangers = terminals.alice(), [terminals.stranger() for _ in range(5)]
        done = 0

        async def ask(client: InteractionClient) -> None:
            nonlocal done
            while True:
                with pytest.raises(Exception) as caught:
                    await client.registration()
                assert caught.type in (Unauthorised, *LIMITED)
                done += 1

        LIMITED = (type(await _refusal(strangers[0])),)
        asking = [asyncio.create_task(ask(client)) for client in strangers]
        try:
            while done < 300:
                await asyncio.sleep(0.01)
            for _ in range(20):
                assert await alice.registration() == (terminals.card.registration,)
            newcomer = terminals.alice()
            assert await newcomer.registration() == (terminals.card.registration,)
            await newcomer.close()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            for client in (alice, *strangers):
                await client.close()

    _run(work())


def test_without_descriptors_the_servers_go_on(terminals: Terminals) -> None:
    """The system gives no more of them: what is open is served, nothing spins, and later there are new connections again."""
    bsm = terminals.system.running["bsm"]
    limits = resource.prlimit(bsm.process.pid, resource.RLIMIT_NOFILE)
    port = bsm.ready()["interaction_port"]
    held: list[socket.socket] = []

    async def work() -> None:
        dora = terminals.dora()  # the test before has used up what alice may ask for at once
        try:
            await _plays(dora, "drm")
            resource.prlimit(bsm.process.pid, resource.RLIMIT_NOFILE, (descriptors(bsm) + 3, limits[1]))
            before = exchanged(bsm)
            for number in range(40):
                sock = silent(port, number)
                if sock is not None:
                    held.append(sock)
            lines = len(bsm.events)
            scarce = 'pybcast_connections_refused_total{of="terminals",why="no descriptors"}'
            await asyncio.to_thread(bsm.wait, lambda seen: any(e.get("why") == "no descriptors" for e in seen), "shortage")
            for _ in range(5):
                await _plays(dora, "drm")
            resource.prlimit(bsm.process.pid, resource.RLIMIT_NOFILE, limits)
            assert len([e for e in bsm.events[lines:] if e.get("level") != "debug"]) < LINES
            figures = bsm.metrics()
            assert 0 < figures[scarce] < 1000, "it waits between two tries"
            while exchanged(bsm) == before:
                await asyncio.sleep(0.05)
        finally:
            resource.prlimit(bsm.process.pid, resource.RLIMIT_NOFILE, limits)
            await dora.close()

    try:
        _run(work())
    finally:
        for sock in held:
            sock.close()
    served(terminals)


def test_nothing_of_it_was_a_fault(terminals: Terminals) -> None:
    assert terminals.system.stop() == {"bsm": 0, "bsda": 0}
    for process in terminals.system.past:
        process.check()


def _run(work: Awaitable[None]) -> None:
    """A test's work, to its end and that of its connections."""

    async def whole() -> None:
        await work
        watched = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
        while len(watched) > 1:  # what is left is the loop's own
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(whole(), 60))


async def _refusal(client: InteractionClient) -> BaseException:
    """Until the server says that it is too much."""
    while True:
        try:
            await client.registration()
        except Unauthorised:
            continue
        except Exception as error:
            return error
