# SPDX-License-Identifier: Apache-2.0
"""What a BSD/A puts on air goes to the processes that send; a period counts as announced when the sender says so, never earlier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from pybcast.broadcast.link import Ask, End, LinkServer, Said
from pybcast.flows.events import AirStkm, Alarm, Announce, CarouselDrop, CarouselPut, OffAir, StopTraffic
from pybcast.secret import Secret
from pybcast.servers import air
from pybcast.servers.air import Air, CountingAir, JsonLinesAir, ProcessAir, heartbeat_key

ANNOUNCE: Final = Announce("urn:s", 1, 8, (AirStkm("drm", b"stkm"),), 0.1)
PUT: Final = CarouselPut("ltkm", "urn:s", (b"1", b"2"))
NAME: Final = ("urn:s", 1, 8)


class Case:
    """A sink, with what it reported and the alarms it raised."""

    def __init__(self, beside: Air, *, sender: Path | None = None, carousel: Path | None = None) -> None:
        self.announced: list[tuple[str, int, int]] = []
        self.alarms: list[tuple[str, bool]] = []
        self.air = ProcessAir(
            beside, me="urn:bsda", pair=Secret(b"p" * 32), sender=sender, carousel=carousel, announced=self._announced,
            alarm=self._alarm,
        )  # fmt: skip

    def _announced(self, service: str, stream: int, start: int) -> None:
        self.announced.append((service, stream, start))

    def _alarm(self, alarm: Alarm) -> None:
        self.alarms.append((alarm.code, alarm.active))

    def put(self, *outputs: Announce | OffAir | CarouselPut | CarouselDrop | StopTraffic) -> None:
        for output in outputs:
            self.air.put(output, self._announced)


async def heard(server: LinkServer, until: Callable[[Said], bool]) -> list[Said]:
    found: list[Said] = []
    while not found or not until(found[-1]):
        ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(server.fileno(), ready.set)
        if not server.waiting:
            await ready.wait()
        asyncio.get_running_loop().remove_reader(server.fileno())
        for said in server.poll():
            if isinstance(said, Ask):
                server.answer(said, {"light": "green", "why": "", "lateness": [[20, 1]]})
            else:
                found.append(said)
    return found


async def seen(what: Callable[[], object]) -> None:
    while not what():
        await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(whole())


def test_both_processes_hear_what_is_theirs(tmp_path: Path) -> None:
    async def test() -> None:
        servers = {name: LinkServer(tmp_path / name) for name in ("sender", "carousel")}
        case = Case(JsonLinesAir(str(tmp_path / "events")), sender=tmp_path / "sender", carousel=tmp_path / "carousel")
        case.put(ANNOUNCE, PUT, StopTraffic("urn:s", 1))
        case.air.start()
        await seen(lambda: len(case.alarms) == 2)
        assert sorted(case.alarms) == [("carousel-lost", True), ("sender-lost", True)]
        assert {row["light"] for row in case.air.lights()} == {"red"}
        for server in servers.values():
            server.open()
        begin, *said = await heard(servers["sender"], lambda said: isinstance(said, End))
        assert said[:-1] == [ANNOUNCE] and begin.mark == heartbeat_key(Secret(b"p" * 32))  # type: ignore[union-attr]
        assert (await heard(servers["carousel"], lambda said: isinstance(said, End)))[1:-1] == [PUT]
        assert sorted(case.alarms[2:]) == [("carousel-lost", False), ("sender-lost", False)]
        assert case.announced == [], "it is written down, and said, but it has not left"
        servers["sender"].announced(NAME)
        servers["sender"].flush()
        await seen(lambda: case.announced)
        assert case.announced == [NAME]
        case.put(OffAir(*NAME), CarouselDrop("ltkm"))
        assert await heard(servers["sender"], lambda said: isinstance(said, OffAir)) == [OffAir(*NAME)]
        assert await heard(servers["carousel"], lambda said: isinstance(said, CarouselDrop)) == [CarouselDrop("ltkm")]
        case.put(ANNOUNCE)
        await heard(servers["sender"], lambda said: said == ANNOUNCE)
        case.air.keep(set())
        assert await heard(servers["sender"], lambda said: isinstance(said, OffAir)) == [OffAir(*NAME)]
        await seen(lambda: {row["light"] for row in case.air.lights()} == {"green"})
        await case.air.stop()
        case.air.close()
        for server in servers.values():
            server.close()

    run(test)
    events = [json.loads(line)["event"] for line in (tmp_path / "events").read_text().splitlines()]
    assert events == ["Announce", "CarouselPut", "StopTraffic", "OffAir", "CarouselDrop", "Announce"]


def test_without_a_sender_it_is_as_before(tmp_path: Path) -> None:
    async def test() -> None:
        beside = CountingAir()
        case = Case(beside, carousel=tmp_path / "carousel")
        case.put(ANNOUNCE, PUT)
        case.air.keep(set())
        assert case.announced == [NAME] and beside.counts == {"Announce": 1, "CarouselPut": 1}

    run(test)


def test_a_link_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(air, "AGAIN", 0.0)

    async def test() -> None:
        case = Case(CountingAir(), sender=tmp_path / "sender")
        client = case.air._clients["sender"]
        tried = 0

        async def fail() -> None:
            nonlocal tried
            tried += 1
            raise ZeroDivisionError

        client.run = fail  # type: ignore[method-assign]
        case.air.start()
        await seen(lambda: tried >= 2)
        await case.air.stop()

    run(test)
