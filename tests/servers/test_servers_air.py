# SPDX-License-Identifier: Apache-2.0
"""What a BSD/A plans goes to the edge in the sender's process, what turns to the carousel's; what the edge says comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from pybcast.broadcast.link import Ask, End, Executed, Here, Said, Which
from pybcast.broadcast.linkserver import LinkServer
from pybcast.flows.edge.slots import Held
from pybcast.flows.events import (
    AirStkm,
    Alarm,
    Announce,
    CarouselDrop,
    CarouselPut,
    Plan,
    PlanBegun,
    PlannedPeriod,
    Recall,
    StopTraffic,
)
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.servers import air
from pybcast.servers.air import Air, CountingAir, JsonLinesAir, ProcessAir, heartbeat_key
from pybcast.servers.runner import AirOutput

ANNOUNCE: Final = Announce("urn:s", 1, 8, (AirStkm("drm", b"stkm"),), 0.1)
PUT: Final = CarouselPut("ltkm", "urn:s", (b"1", b"2"))
PLAN: Final = Plan("urn:s", 1, Protocol.SRTP, 0.1, (PlannedPeriod(8, 10, 7.0, ANNOUNCE.stkms, b"id", Secret(b"k" * 16)),))
HELD: Final = Alarm("held-key", "urn:s", 1, "no new key at 10")


class Case:
    """A sink, with what it reported, what the machine was told and the alarms it raised."""

    def __init__(self, beside: Air, *, sender: Path | None = None, carousel: Path | None = None) -> None:
        self.announced: list[tuple[str, int, int]] = []
        self.alarms: list[tuple[str, bool]] = []
        self.told: list[object] = []
        self.air = ProcessAir(
            beside, me="urn:bsda", pair=Secret(b"p" * 32), sender=sender, carousel=carousel, machine=self, alarm=self._alarm,
        )  # fmt: skip

    def connected(self, here: Here) -> None:
        self.told.append(here.held)

    def disconnected(self) -> None:
        self.told.append("disconnected")

    def executed(self, said: Executed) -> None:
        self.told.append(said)

    def _announced(self, service: str, stream: int, start: int) -> None:
        self.announced.append((service, stream, start))

    def _alarm(self, alarm: Alarm) -> None:
        self.alarms.append((alarm.code, alarm.active))

    def put(self, *outputs: AirOutput) -> None:
        for output in outputs:
            self.air.put(output, self._announced)


async def heard(server: LinkServer, until: Callable[[Said], bool], here: Here = Here()) -> list[Said]:  # noqa: B008 - it is frozen
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
            elif isinstance(said, Which):
                server.here(said, here)
            else:
                found.append(said)
    return found


async def seen(what: Callable[[], object], *servers: LinkServer) -> None:
    while not what():
        for server in servers:
            for said in server.poll():
                if isinstance(said, Ask):
                    server.answer(said, {"light": "green", "why": "", "lateness": [[20, 1]]})
                elif isinstance(said, Which):
                    server.here(said)
        await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(whole())


def test_both_processes_hear_what_is_theirs(tmp_path: Path) -> None:
    async def test() -> None:
        sender, carousel = (LinkServer(tmp_path / name) for name in ("sender", "carousel"))
        case = Case(JsonLinesAir(str(tmp_path / "events")), sender=tmp_path / "sender", carousel=tmp_path / "carousel")
        case.put(PLAN, PUT, StopTraffic("urn:s", 1))
        case.air.start()
        await seen(lambda: len(case.alarms) == 2)
        assert sorted(case.alarms) == [("carousel-lost", True), ("sender-lost", True)]
        assert {row["light"] for row in case.air.lights()} == {"red"} and case.told == ["disconnected"]
        for server in (sender, carousel):
            server.open()
        assert (await heard(carousel, lambda said: isinstance(said, End)))[1:-1] == [PUT]
        held = (Held("urn:s", 1, (), 6),)
        (begin,) = await heard(sender, lambda said: True, Here(held=held, alarms=(HELD,)))
        assert begin.mark == heartbeat_key(Secret(b"p" * 32))  # type: ignore[union-attr]
        server_says = Here(held=held)
        while not case.told[1:]:
            for which in [said for said in sender.poll() if isinstance(said, Which)]:
                sender.here(which, server_says)
            await asyncio.sleep(0.001)
        assert case.told[1:] == [held], "of what is asked once more when a connection has begun"
        assert sorted(case.alarms[2:4]) == [("carousel-lost", False), ("sender-lost", False)]
        edge = case.air.edge
        assert edge is not None
        case.put(PLAN, Recall("urn:s", 1, 8))
        edge.end()
        assert await heard(sender, lambda said: isinstance(said, End)) == [PLAN, Recall("urn:s", 1, 8), End()]
        assert case.announced == [], "what the edge does is not ours"
        for said in (PlanBegun("urn:s", 1, 8), HELD, Alarm("stopped", "urn:s", 1)):
            sender.say(said)
        sender.flush()
        await seen(lambda: ("stopped", True) in case.alarms, sender, carousel)
        assert case.told[2:] == [PlanBegun("urn:s", 1, 8)] and case.alarms[-2:] == [("held-key", True), ("stopped", True)]
        assert case.air.holds("urn:s", 1) and not case.air.holds("urn:s", 2)
        await seen(lambda: {row["light"] for row in case.air.lights()} == {"green"}, sender, carousel)
        edge.ask_again()  # and the edge holds no key any more: it has said so to nobody
        await seen(lambda: case.told[3:], sender, carousel)
        assert case.alarms[-1] == ("held-key", False) and not case.air.holds("urn:s", 1)
        case.put(CarouselDrop("ltkm"))
        assert await heard(carousel, lambda said: isinstance(said, CarouselDrop)) == [CarouselDrop("ltkm")]
        case.air.forget()
        await seen(lambda: not edge.connected)
        await case.air.stop()
        case.air.close()
        for server in (sender, carousel):
            server.close()

    run(test)
    events = [json.loads(line)["event"] for line in (tmp_path / "events").read_text().splitlines()]
    assert events == ["CarouselPut", "StopTraffic", "CarouselDrop"]


def test_alarms_that_hold_are_raised_once(tmp_path: Path) -> None:
    case = Case(CountingAir(), sender=tmp_path / "sender")
    for alarms in ((), (HELD,), (HELD,), ()):
        case.air._came(Here(alarms=alarms))
    assert case.alarms == [("held-key", True), ("held-key", False)]


def test_without_a_sender_it_is_as_before(tmp_path: Path) -> None:
    async def test() -> None:
        beside = CountingAir()
        case = Case(beside, carousel=tmp_path / "carousel")
        case.put(ANNOUNCE, PUT)
        assert case.announced == [NAME] and beside.counts == {"Announce": 1, "CarouselPut": 1}

    run(test)


NAME: Final = ("urn:s", 1, 8)


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
