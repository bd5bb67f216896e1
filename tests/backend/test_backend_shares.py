# SPDX-License-Identifier: Apache-2.0
"""One peer that takes all it can get makes no other wait: connections, requests in hand, and the work of parsing (R26, R30)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from backend_support import BSDA_ID, BSM_ID, NOW, message, partial
from wire_support import RIGHTS, Caller, clock, echo, http_request

from pybcast.backend import pki, xml
from pybcast.backend.identity import Peer, Peers
from pybcast.backend.server import Server, ServerLimits
from pybcast.flows.tables import Side, Tag
from pybcast.https import contexts

OTHER: Final = "urn:example:bsda2"
LARGE: Final = xml.encode(message(Tag.TEKDelivery, items=tuple(partial(n, 350) for n in range(1000))), NOW)


def small(source: str) -> bytes:
    return xml.encode(message(Tag.TEKDelivery, source=source), NOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pki")
    pki.init(path, {"bsm": BSM_ID, "bsda": BSDA_ID, "bsda2": OTHER})
    return path


@contextlib.asynccontextmanager
async def two_peers(folder: Path, **limits: Any) -> AsyncIterator[Server]:
    peers = Peers([Peer(id=BSDA_ID, services=RIGHTS), Peer(id=OTHER, services=RIGHTS)])
    server = Server(me=BSM_ID, side=Side.BSM, peers=peers, handler=echo, clock=clock, limits=ServerLimits(**limits))
    await server.start("127.0.0.1", 0, contexts.server_context(pki.files_of(folder, "bsm")))
    try:
        yield server
    finally:
        await server.stop(1.0)


def caller(server: Server, folder: Path, name: str) -> contextlib.AbstractAsyncContextManager[Caller]:
    return Caller.to(server.port, contexts.client_context(pki.files_of(folder, name)))


def test_parsing_for_one_peer_holds_up_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight large requests at once of one: parsed one at a time, with the others' turns between; another is answered meanwhile."""
    turns, parsed = 0, list[tuple[int, str]]()
    decode = xml.decode

    def noted(data: bytes, receiver: Side, now: float) -> object:
        found = decode(data, receiver, now)
        if receiver is Side.BSM:
            parsed.append((turns, found.source))
        return found

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def work() -> None:
        async with contextlib.AsyncExitStack() as open_:
            server = await open_.enter_async_context(two_peers(folder))
            greedy = [await open_.enter_async_context(caller(server, folder, "bsda")) for _ in range(10)]
            other = await open_.enter_async_context(caller(server, folder, "bsda2"))
            assert await greedy[0].status(small(BSDA_ID)) == await other.status(small(OTHER)) == 0
            work = server._work[BSDA_ID]
            parsed.clear()
            async with work.turn:  # as if the first of them took for ever
                asked = [asyncio.create_task(one.ask(http_request(LARGE))) for one in greedy]
                while not work.slots.locked():
                    await asyncio.sleep(0.001)
                for _ in range(20):
                    assert await other.status(small(OTHER)) == 0
                assert {source for _, source in parsed} == {OTHER}
                parsed.clear()
                counting = asyncio.create_task(count())
            assert [code for code, _ in await asyncio.gather(*asked)] == [200] * 10
            counting.cancel()
            at = [turn for turn, source in parsed if source == BSDA_ID]
            assert len(at) == len(set(at)) == 10, "never two of them in one turn of the loop"

    monkeypatch.setattr("pybcast.backend.server.xml.decode", noted)
    asyncio.run(asyncio.wait_for(work(), 60))


def test_one_peer_has_its_share_of_connections(folder: Path) -> None:
    async def work() -> None:
        async with contextlib.AsyncExitStack() as open_:
            server = await open_.enter_async_context(two_peers(folder, per_share=5, connections=10))
            for _ in range(5):
                one = await open_.enter_async_context(caller(server, folder, "bsda"))
                assert await one.status(small(BSDA_ID)) == 0
            for _ in range(20):
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    async with caller(server, folder, "bsda") as more:
                        await more.status(small(BSDA_ID))
            for _ in range(5):
                other = await open_.enter_async_context(caller(server, folder, "bsda2"))
                assert await other.status(small(OTHER)) == 0
            assert server.listener is not None and server.listener.refused == {"too many of one certificate": 20}

    asyncio.run(asyncio.wait_for(work(), 60))
