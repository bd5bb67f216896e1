# SPDX-License-Identifier: Apache-2.0
"""Thousands that wait cost the machine a question when there is something new, and none while there is not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interaction_support import SERVICE, START, Bench, DirectMachine, context_of, run

from pybcast.errors import LocalFlowError, PeerFlowError
from pybcast.flows import StkmItem
from pybcast.interaction.digest import Authenticator, Nonces, Verifier
from pybcast.interaction.waiting import AT_ONCE, Channel, Waiting

SMARTCARD: Channel = (SERVICE, 1, "smartcard")
DRM: Channel = (SERVICE, 1, "drm")


async def parked(waiting: Waiting, count: int) -> None:
    while sum(map(len, waiting._parked.values())) < count:
        await asyncio.sleep(0)


def start(bench: Bench) -> Waiting:
    bench.server.waiting.start()
    return bench.server.waiting


def test_thousands_are_woken_by_one_stkm() -> None:
    async def work() -> None:
        bench, count = Bench(), 3000
        waiting = start(bench)
        asking = [asyncio.create_task(waiting.stkm(SMARTCARD, "alice", None, 30)) for _ in range(count)]
        other = asyncio.create_task(waiting.stkm(("urn:other", 1, "drm"), "dora", None, 30))
        await asyncio.gather(other, return_exceptions=True)
        await parked(waiting, count)
        first = bench.machine.questions
        assert first <= count // AT_ONCE + 2
        for _ in range(1000):  # nothing happens, nobody asks
            await asyncio.sleep(0)
        waiting.changed("urn:another")
        await asyncio.sleep(0.01)
        assert bench.machine.questions == first
        bench.seal(0)
        found = await asyncio.gather(*asking)
        assert {item.period_start for item in found if item is not None} == {START} and None not in found
        assert bench.machine.questions - first <= count // AT_ONCE + 2
        assert len(waiting) == 0 and not waiting._channels and waiting._due.next() is None
        await waiting.stop()

    run(work())


def test_each_has_his_own_answer() -> None:
    """Those who have had the running one wait on; who lost his right is told."""

    async def work() -> None:
        bench = Bench()
        bench.bsm.add_subscriber(replace(bench.card.subscriber, id="eve"), bench.now)
        bench.grant("eve")
        waiting = start(bench)
        asking = {
            name: asyncio.create_task(waiting.stkm(channel, who, after, 30))
            for name, channel, who, after in (
                ("new", SMARTCARD, "alice", None), ("old", SMARTCARD, "alice", START), ("eve", SMARTCARD, "eve", None),
                ("dora", DRM, "dora", None),
            )
        }  # fmt: skip
        await parked(waiting, 4)
        bench.bsm.withdraw("eve", SERVICE, 1, bench.now)
        bench.seal(0, 1)
        new, dora = await asking["new"], await asking["dora"]
        assert new is not None and dora is not None and new.period_start == START == dora.period_start
        with pytest.raises(PeerFlowError):
            await asking["eve"]
        assert not asking["old"].done()
        bench.now = START + 4
        old = await asking["old"]
        assert old is not None and old.period_start == START + 8
        await waiting.stop()

    run(work())


class _Slow(DirectMachine):
    """Something new comes between its answer and whoever asked."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.bsm, lambda: bench.now)
        self._bench, self._sealed = bench, False

    async def ask_machine(self, question):  # type: ignore[no-untyped-def]  # as its base
        found = await super().ask_machine(question)
        if not self._sealed:
            self._sealed = True
            self._bench.seal(0)
        return found


def test_what_comes_between_question_and_answer_is_not_missed() -> None:
    async def work() -> None:
        bench = Bench()
        waiting = bench.server.waiting = Waiting(_Slow(bench), lambda: bench.now)
        waiting.start()
        found = await waiting.stkm(SMARTCARD, "alice", None, 30)
        assert found is not None and found.period_start == START
        await waiting.stop()

    run(work())


def test_the_clock_is_set() -> None:
    async def work() -> None:
        bench = Bench()
        bench.seal(0, 1)
        waiting = start(bench)
        asking = asyncio.create_task(waiting.stkm(SMARTCARD, "alice", START, 30))
        await parked(waiting, 1)
        bench.now = START + 4.5
        waiting.everything_changed()
        found = await asking
        assert found is not None and found.period_start == START + 8
        await waiting.stop()

    run(work())


def test_a_machine_that_fails_tells_everyone() -> None:
    async def work() -> None:
        bench = Bench()
        waiting = start(bench)

        async def failed(*_: object) -> None:
            raise LocalFlowError("the server is stopping")

        async def broken(*_: object) -> None:
            raise RuntimeError("boom")

        for failure in (failed, broken):
            bench.machine.ask_machine = failure  # type: ignore[method-assign, assignment]
            for found in await asyncio.gather(
                *(waiting.stkm(SMARTCARD, "alice", None, wait) for wait in (0, 5)), return_exceptions=True
            ):
                assert isinstance(found, LocalFlowError) and "boom" not in str(found)
        await waiting.stop()

    run(work())


@settings(max_examples=25)
@given(st.randoms(use_true_random=False))
def test_whoever_waits_gets_what_is_his_whatever_happens(rng: random.Random) -> None:
    """Arrivals, seals, time and withdrawals in any order: each is answered as the BSM would at that moment, none is forgotten."""

    async def work() -> None:
        bench = Bench()
        waiting = start(bench)
        asking: list[tuple[str, int | None, Channel, asyncio.Task[StkmItem | None]]] = []
        sealed = 0
        for _ in range(rng.randrange(5, 40)):
            match rng.randrange(5):
                case 0 | 1:
                    who, channel = rng.choice([("alice", SMARTCARD), ("dora", DRM)])
                    after = rng.choice([None, START, START + 8, START + 16])
                    asking.append((who, after, channel, asyncio.create_task(waiting.stkm(channel, who, after, 30))))
                case 2 if sealed < 5:
                    bench.seal(sealed)
                    sealed += 1
                case 3:
                    bench.now += rng.choice([0.5, 2, 4])
                    waiting.everything_changed()  # the timer notices within a second
                case _:
                    await asyncio.sleep(0)
        while waiting._fresh or waiting._awake.is_set():
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        for who, after, channel, task in asking:
            if task.done():
                item = task.result()
                assert item is not None and (after is None or item.period_start > after)
            else:
                assert bench.bsm.fetch_stkm(*channel, who, bench.now, after) is None, "somebody was forgotten"
        await waiting.stop()
        assert all(task.done() or not task.cancelled() for *_, task in asking)
        await asyncio.gather(*(task for *_, task in asking))

    run(work())


# --- mutated requests -------------------------------------------------------------------------------------------------------


async def _answers(bench: Bench, requests: list[bytes]) -> list[bytes]:
    async def one(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port, ssl=_CONTEXT, server_hostname="localhost")
        try:
            writer.write(data + b"\r\n\r\n\r\n")
            async with asyncio.timeout(0.5):  # one that waits for more of a request waits in vain
                return await reader.read(4096)
        except (ConnectionError, TimeoutError):
            return b""
        finally:
            writer.transport.abort()

    found: Awaitable[list[bytes]] = asyncio.gather(*map(one, requests))
    return await found


_CONTEXT = context_of("dora")


@settings(max_examples=12)
@given(st.randoms(use_true_random=False))
def test_mutated_requests_are_answered_in_kind(rng: random.Random) -> None:
    """Whatever is sent: an answer of this interface or none, no fault of the server, and it goes on."""

    async def work() -> None:
        bench = Bench()
        bench.seal(0)
        terminal = Authenticator(bench.digest)
        verifier: Verifier = bench.server._verifier
        assert isinstance(verifier._nonces, Nonces)
        terminal.challenged(verifier.challenge())
        bodies = [bench.card.registration, bytes(30), b"\x01" * 251]
        requests = []
        for _ in range(20):
            target = rng.choice([
                "/bcast/ltkm", "/bcast/registration", "/bcast/verification",
                "/bcast/stkm/urn%3Aexample%3Aservice%2FA%3Fb/1?profile=smartcard&after=3990000000&wait=0.01",
            ])  # fmt: skip
            method = "POST" if target.endswith("verification") else "GET"
            proof = terminal.prove(method, target)
            assert proof is not None
            head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n"
            if rng.random() < 0.7:
                head += f"Authorization: {proof.header}\r\n"
            body = rng.choice(bodies) if method == "POST" else b""
            if body:
                head += f"Content-Type: application/vnd.oma.bcast.ltkm\r\nContent-Length: {len(body)}\r\n"
            data = bytearray(head.encode() + b"\r\n" + body)
            for _ in range(rng.randrange(4)):
                at = rng.randrange(len(data))
                match rng.randrange(4):
                    case 0:
                        data[at] = rng.randrange(256)
                    case 1:
                        del data[at : at + rng.randrange(1, 9)]
                    case 2:
                        data[at:at] = rng.randbytes(rng.randrange(1, 9))
                    case _:
                        data[at:at] = data[at : at + rng.randrange(1, 60)]
            requests.append(bytes(data))
        async with bench.serving():
            for answer in await _answers(bench, requests):
                assert not answer or answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
                assert b"Traceback" not in answer and b"aiohttp" not in answer
            assert not any(status >= 500 for _, status in bench.seen)
            assert await bench.dora().registration()

    run(work())
