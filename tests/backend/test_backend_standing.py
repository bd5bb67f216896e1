# SPDX-License-Identifier: Apache-2.0
"""Servers tell each other how far their stores have come, with every message and when they start (R51)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from backend_support import BSDA_ID, BSM_ID, message
from wire_support import asking, serving

from pybcast.backend import Standing, pki
from pybcast.backend.errors import PeerUnreachable
from pybcast.backend.server import PATH
from pybcast.backend.standing import COMMIT, HEARD, SENDER
from pybcast.errors import TransportError
from pybcast.flows.tables import Tag
from pybcast.https import contexts
from pybcast.wire.times import NTP_UNIX


class Memory:
    """A store's numbers; a token is the number of its commit."""

    def __init__(self, commit: int) -> None:
        self.commit, self.said = commit, dict[str, str]()

    def token(self) -> str:
        return str(self.commit)

    def note_heard(self, peer: str, token: str) -> None:
        self.said[peer] = max(self.said.get(peer, ""), token, key=lambda text: int(text or "0"))

    def heard(self, peer: str) -> str:
        return self.said.get(peer, "")

    def behind(self, token: str) -> bool:
        return token.isdecimal() and int(token) > self.commit


class End:
    """One server's memory and what it was told."""

    def __init__(self, commit: int) -> None:
        self.memory = Memory(commit)
        self.behind: list[tuple[str, str]] = []
        self.standing = Standing(self.memory, lambda peer, token: self.behind.append((peer, token)))


def test_every_message_and_answer_carries_both_numbers() -> None:
    async def test() -> None:
        bsm, bsda = End(100), End(7)
        async with serving(standing=bsm.standing) as server, asking(server.port, standing=bsda.standing) as client:
            await client.send(message(Tag.KeyRequest))
            assert bsm.memory.said == {BSDA_ID: "7"} and bsda.memory.said == {BSM_ID: "100"}
            bsda.memory.commit = 9
            await client.send(message(Tag.KeyRequest, message_id="again"))
            assert bsm.memory.said == {BSDA_ID: "9"} and not bsm.behind and not bsda.behind

    asyncio.run(test())


@pytest.mark.parametrize("greeting", [True, False])
def test_who_was_put_back_hears_it_from_the_other(greeting: bool) -> None:
    async def test() -> None:
        bsm, bsda = End(100), End(7)
        bsm.memory.said[BSDA_ID], bsda.memory.said[BSM_ID] = "12", "140"
        async with serving(standing=bsm.standing) as server, asking(server.port, standing=bsda.standing) as client:
            await (client.greet(BSM_ID) if greeting else client.send(message(Tag.KeyRequest)))
        assert bsda.behind == [(BSM_ID, "12")] and bsm.behind == [(BSDA_ID, "140")]
        assert bsm.memory.said[BSDA_ID] == "12", "the higher one is kept"

    asyncio.run(test())


@pytest.mark.parametrize("greeting", [True, False])
def test_r50_a_headend_that_is_off_air_hears_once_that_its_store_is_void(greeting: bool) -> None:
    async def test() -> None:
        bsm, bsda = End(100), End(7)
        void: list[str] = []
        bsda.standing = Standing(bsda.memory, lambda *_: None, void.append)
        bsm.standing.off_air = lambda peer: peer == BSDA_ID
        bsda.standing.off_air = lambda _: True  # a BSM obeys nobody
        async with serving(standing=bsm.standing) as server, asking(server.port, standing=bsda.standing) as client:
            for number in range(2):
                await (client.greet(BSM_ID) if greeting else client.send(message(Tag.KeyRequest, message_id=f"{number}")))
        assert void == [BSM_ID] and not bsm.behind

    asyncio.run(test())


def test_a_peer_has_spoken_by_a_greeting_either_way() -> None:
    async def test() -> None:
        bsm, bsda = End(1), End(1)
        waiting = [asyncio.create_task(bsm.standing.all_spoken([BSDA_ID])), asyncio.create_task(bsda.standing.all_spoken([BSM_ID]))]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        async with serving(standing=bsm.standing) as server, asking(server.port, standing=bsda.standing) as client:
            await client.greet(BSM_ID)
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)

    asyncio.run(test())


def test_a_peer_that_knows_nothing_of_it_has_spoken_all_the_same() -> None:
    async def test() -> None:
        bsda = End(1)
        async with serving() as server, asking(server.port, standing=bsda.standing) as client:
            await client.greet(BSM_ID)
            async with asyncio.timeout(10):
                await bsda.standing.all_spoken([BSM_ID])
        assert not bsda.memory.said and not bsda.behind

    asyncio.run(test())


def test_a_peer_that_is_not_there_has_not() -> None:
    async def test() -> None:
        bsda = End(1)
        async with serving() as server:
            port = server.port
        async with asking(port, standing=bsda.standing) as client:
            with pytest.raises(PeerUnreachable):
                await client.greet(BSM_ID)
            with pytest.raises(TransportError, match="not a peer"):
                await client.greet("urn:nobody")
        waiting = asyncio.create_task(bsda.standing.all_spoken([BSM_ID]))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(test())


def test_a_stranger_is_told_nothing_and_tells_nothing(tmp_path: Path) -> None:
    """Over TLS the certificate says who speaks, whatever the field says."""
    pki.init(tmp_path, {"bsm": BSM_ID, "bsda": BSDA_ID, "other": "urn:example:other"})

    def files(name: str) -> contexts.TlsFiles:
        return contexts.TlsFiles(
            certificate=tmp_path / f"{name}.pem", key=tmp_path / f"{name}-key.pem", authority=tmp_path / "ca.pem"
        )

    async def test() -> None:
        bsm, bsda = End(100), End(7)
        async with serving(standing=bsm.standing, tls=files("bsm"), now=_now) as server:
            fields = {SENDER: BSDA_ID, COMMIT: "9", HEARD: "900"}
            url = f"https://127.0.0.1:{server.port}{PATH}"
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    async with session.head(url, headers=fields, ssl=contexts.client_context(files("other"))):
                        raise AssertionError("a stranger was answered")
            assert not bsm.memory.said and not bsm.behind
            async with asking(server.port, standing=bsda.standing, tls=files("bsda"), now=_now) as client:
                await client.greet(BSM_ID)
            assert bsm.memory.said == {BSDA_ID: "7"} and bsda.memory.said == {BSM_ID: "100"}

    asyncio.run(test())


def _now() -> float:
    return time.time() + NTP_UNIX


def test_plain_http_believes_the_field_on_loopback() -> None:
    async def test() -> None:
        bsm = End(100)
        async with serving(standing=bsm.standing) as server, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{server.port}{PATH}"
            statuses: list[Any] = []
            for fields in ({SENDER: BSDA_ID, COMMIT: "3"}, {SENDER: "urn:nobody", COMMIT: "3"}, {COMMIT: "3"}):
                async with session.head(url, headers=fields) as response:
                    statuses.append((response.status, response.headers.get(COMMIT)))
        assert statuses == [(204, "100"), (403, None), (403, None)] and bsm.memory.said == {BSDA_ID: "3"}

    asyncio.run(test())
