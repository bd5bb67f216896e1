# SPDX-License-Identifier: Apache-2.0
"""Terminals on the interaction channel: real TLS and HTTP, a real BSM, the clock in our hand (R35, R36)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import Final

import aiohttp
import pytest
from interaction_support import SERVICE, START, Bench, certificates, context_of, run, server_context
from yarl import URL

from pybcast import codec
from pybcast.errors import LocalFlowError
from pybcast.https import listener
from pybcast.https.contexts import terminal_context
from pybcast.interaction import (
    Digest,
    Fetched,
    Forbidden,
    InteractionClient,
    InteractionError,
    Limited,
    NotKnown,
    Refused,
    Unauthorised,
    Unreachable,
)
from pybcast.interaction.limits import Limits
from pybcast.interaction.server import http_date, udn_of
from pybcast.interaction.wire import LTKM_TYPE, PERIOD, PROBLEM_TYPE, STKM_TYPE
from pybcast.keys import SRK
from pybcast.messages import Bcro, SmartcardLtkm
from pybcast.secret import Secret

STKM_OF: Final = "/bcast/stkm/urn%3Aexample%3Aservice%2FA%3Fb/1"


async def refused(work: Awaitable[object], kind: type[Refused]) -> Refused:
    with pytest.raises(kind) as caught:
        await work
    assert type(caught.value) is kind
    return caught.value


async def parked(bench: Bench, count: int) -> None:
    """Until so many terminals wait, and none is being looked at."""
    waiting = bench.server.waiting
    while sum(map(len, waiting._parked.values())) < count:
        await asyncio.sleep(0.001)


def test_both_profiles_get_what_they_are_entitled_to() -> None:
    async def work() -> None:
        bench = Bench()
        bench.seal(0, 1)
        async with bench.serving():
            found = await bench.alice().stkm(SERVICE, 1, "smartcard")
            assert found is not None and (found.start, found.end) == (START, START + 8)
            assert codec.decode(found.data, "smartcard-stkm").kind == "smartcard-stkm"
            device = await bench.dora().stkm(SERVICE, 1, "drm")
            assert device is not None and device.start == START and device.data != found.data
            ltkms = await bench.alice().ltkms()
            letters = [codec.decode(data, "smartcard-ltkm") for data in ltkms]
            counters = [letter.counter for letter in letters if isinstance(letter, SmartcardLtkm)]
            assert len(counters) == len(letters) > 0 and counters == sorted(counters)
            (bcro,) = await bench.dora().ltkms()
            assert isinstance(codec.decode(bcro, "drm-ltkm"), Bcro)
            assert await bench.alice().registration() == (bench.card.registration,)
            assert await bench.dora().registration() == (bench.device.registration,)

    run(work())


def test_the_bcro_of_a_group_is_not_made_anew_for_everyone_who_asks() -> None:
    """R21: its timestamps rise by a second each time; a terminal that asks and asks would carry them into the future."""

    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            dora = bench.dora()
            assert await dora.ltkms() == await dora.ltkms() != ()

    run(work())


def test_r36_a_card_verifies_its_ltkms() -> None:
    async def work() -> None:
        bench = Bench()
        bench.bsm.add_subscriber(replace(bench.card.subscriber, id="other", idr="b3RoZXI=@bsf.example.com"), bench.now)
        other = Digest.of("b3RoZXI=@bsf.example.com", bench.srk)
        async with bench.serving():
            alice = bench.alice()
            answers = [bench.card.card.ltkm(data, bench.now) for data in await alice.ltkms()]
            answer = next(answer for answer in answers if answer is not None)
            for wrong in (answer[:-1] + bytes([answer[-1] ^ 1]), b"\x01", b"\x00" * 200):
                assert (await refused(alice.verify(wrong), Refused)).problem == "not-awaited"
            assert (await refused(bench.terminal(digest=other).verify(answer), Refused)).status == 409, "another's"
            await alice.verify(answer)
            assert (await refused(alice.verify(answer), Refused)).status == 409, "once"
            assert (await refused(alice.verify(bytes(1025)), Refused)).status == 413

    run(work())


def test_who_is_not_entitled_gets_nothing() -> None:
    async def work() -> None:
        bench = Bench()
        bench.seal(0)
        bench.bsm.add_subscriber(replace(bench.card.subscriber, id="eve", idr="ZXZl@bsf.example.com"), bench.now)
        eve = Digest.of("ZXZl@bsf.example.com", bench.srk)
        async with bench.serving():
            client = bench.terminal(digest=eve)
            assert (await refused(client.stkm(SERVICE, 1, "smartcard"), Forbidden)).problem == "forbidden"
            assert await client.ltkms() == () == await client.registration()
            for service, stream, profile in (("urn:nobody", 1, "smartcard"), (SERVICE, 2, "smartcard")):
                await refused(client.stkm(service, stream, profile), NotKnown)
            await refused(client.stkm(SERVICE, 1, "drm"), Forbidden)  # of another profile than the terminal
            await refused(bench.dora().stkm(SERVICE, 1, "smartcard"), Forbidden)
            alice = bench.alice()
            assert await alice.stkm(SERVICE, 1, "smartcard") is not None
            bench.bsm.withdraw("alice", SERVICE, 1, bench.now)
            await refused(alice.stkm(SERVICE, 1, "smartcard"), Forbidden)
            assert await alice.ltkms() == ()

    run(work())


def test_a_right_that_begins_or_ends() -> None:
    async def work() -> None:
        bench = Bench()
        bench.seal(0, 1, 2)
        bench.bsm.withdraw("alice", SERVICE, 1, bench.now)
        right = replace(Bench.right(), start=START + 8, end=START + 16)
        bench.bsm.grant("alice", right, bench.now)
        async with bench.serving():
            alice = bench.alice()
            assert await alice.stkm(SERVICE, 1, "smartcard") is None
            bench.now = START + 9.0
            found = await alice.stkm(SERVICE, 1, "smartcard")
            assert found is not None and found.start == START + 8
            bench.now = START + 16.0
            await refused(alice.stkm(SERVICE, 1, "smartcard"), Forbidden)

    run(work())


# --- waiting for the next one (R6, R35) -----------------------------------------------------------------------------------


def test_r35_the_next_stkm_is_served_within_its_lead_and_not_before() -> None:
    async def work() -> None:
        bench = Bench()
        bench.seal(0, 1)
        async with bench.serving():
            alice = bench.alice()
            bench.now = START + 3.9
            assert await alice.stkm(SERVICE, 1, "smartcard", after=START) is None
            assert await alice.stkm(SERVICE, 1, "smartcard", after=START, wait=0.05) is None
            asking = asyncio.create_task(alice.stkm(SERVICE, 1, "smartcard", after=START, wait=30))
            await parked(bench, 1)
            assert not asking.done()
            bench.now = START + 4.0  # half of period 0 is over
            found = await asking
            assert found is not None and (found.start, found.end) == (START + 8, START + 16)

    run(work())


def test_a_stkm_that_is_sealed_while_someone_waits() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            alice = bench.alice()
            asking = asyncio.create_task(alice.stkm(SERVICE, 1, "smartcard", wait=30))
            await parked(bench, 1)
            bench.seal(0)
            found = await asking
            assert found is not None and found.start == START
            asking = asyncio.create_task(alice.stkm(SERVICE, 1, "smartcard", after=START, wait=30))
            await parked(bench, 1)
            bench.bsm.withdraw("alice", SERVICE, 1, bench.now)
            bench.seal(1)
            await refused(asking, Forbidden)

    run(work())


def test_a_terminal_that_goes_is_not_waited_for_and_one_that_stays_is_told_at_the_end() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            gone = asyncio.create_task(bench.alice().stkm(SERVICE, 1, "smartcard", wait=30))
            stays = asyncio.create_task(bench.dora().stkm(SERVICE, 1, "drm", wait=30))
            await parked(bench, 2)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            await bench._clients[0].close()
            while len(bench.server.waiting) > 1:
                await asyncio.sleep(0.001)
            await bench.server.waiting.stop()
            assert await stays is None

    run(work())


# --- who asks -------------------------------------------------------------------------------------------------------------


def test_a_wrong_password_and_a_stranger() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            wrong = Digest.of(bench.card.subscriber.idr, SRK(bytes(32)))
            nobody = Digest("bm9ib2R5@bsf.example.com", bench.digest.password)
            for digest in (wrong, nobody, Digest("x" * 300, Secret(b"")), Digest('a"b\\', Secret(b""))):
                await refused(bench.terminal(digest=digest).registration(), Unauthorised)
            await refused(bench.terminal().registration(), Unauthorised)
            assert (await refused(bench.terminal("nobody").registration(), Forbidden)).problem == "unknown-terminal"
            assert (await refused(bench.terminal("server").registration(), Forbidden)).problem == "unknown-terminal"
            assert {status for _, status in bench.seen} == {401, 403}
            assert await bench.alice().registration()

    run(work())


@pytest.mark.parametrize(("name", "folder"), [("expired", "terminals"), ("forged", "others")])
def test_a_certificate_that_does_not_hold(name: str, folder: str) -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            with pytest.raises(Unreachable):
                await bench.terminal(name, folder).registration()
            assert bench.seen == []

    run(work())


def test_a_certificate_that_ends_while_the_connection_is_open() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            dora = bench.dora()
            assert await dora.registration()
            bench.now += 100 * 365 * 86400
            await refused(dora.registration(), Unauthorised)

    run(work())


def test_a_server_that_is_not_the_bsm() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            for context, url in ((context_of(), "https://127.0.0.1:1"), (None, bench.url)):
                other = context or terminal_context(certificates() / "others" / "ca.pem")
                client = InteractionClient(url, context=other, digest=bench.digest)
                with pytest.raises(Unreachable) as caught:
                    await client.registration()
                assert bench.digest.username not in str(caught.value)
                await client.close()

    run(work())


def test_a_password_that_changed() -> None:
    """Registered again: the old B-TID proves nothing any more, the new one does."""

    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            alice = bench.alice()
            assert await alice.registration()
            bench.bsm.add_subscriber(
                replace(bench.card.subscriber, idr="bmV3@bsf.example.com", srk=SRK(b"\1" * 32)), bench.now, b"\x40new"
            )
            await refused(alice.registration(), Unauthorised)
            again = bench.terminal(digest=Digest.of("bmV3@bsf.example.com", SRK(b"\1" * 32)))
            assert await again.registration() == (b"\x40new",)

    run(work())


def test_a_nonce_that_ended_costs_one_more_request() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            alice = bench.alice()
            for _ in range(2):
                assert await alice.registration()
            assert [status for _, status in bench.seen] == [401, 200, 200]
            bench.mono += 301
            assert await alice.registration()
            assert [status for _, status in bench.seen[3:]] == [401, 200]

    run(work())


# --- too much, too large, too slow ------------------------------------------------------------------------------------------


def test_a_terminal_that_asks_too_often() -> None:
    async def work() -> None:
        bench = Bench(Limits(rate=0.5, burst=3, ltkm_rate=0.1, ltkm_burst=1))
        async with bench.serving():
            alice, dora = bench.alice(), bench.dora()
            assert await alice.ltkms()
            assert (await refused(alice.ltkms(), Limited)).status == 429, "LTKMs have a limit of their own"
            assert await alice.registration()
            limited = await refused(alice.registration(), Limited)
            assert isinstance(limited, Limited) and limited.retry_after == 2.0 and limited.problem == "limited"
            assert await dora.registration(), "others are served"
            bench.mono += 2
            assert await alice.registration()

    run(work())


def test_strangers_of_one_address_who_ask_too_often() -> None:
    """They use up what their address has for strangers, and nothing of a subscriber's behind the same address."""

    async def work() -> None:
        bench = Bench(Limits(stranger_rate=0.5, stranger_burst=3))
        async with bench.serving():
            alice = bench.alice()
            for _ in range(10):
                assert await alice.registration(), "who proves who he is takes nothing away"
            client, another = bench.terminal(), bench.terminal(digest=Digest("nobody@bsf.example.com", Secret(b"x")))
            for _ in range(6):  # three of the connection's own, three of the address's
                await refused(client.registration(), Unauthorised)
            questions = bench.machine.questions
            for _ in range(100):
                await refused(client.registration(), Limited)
            assert bench.machine.questions == questions, "refused before anything is looked up"
            await refused(another.registration(), Unauthorised)  # two requests: its connection's own
            await refused(another.registration(), Unauthorised)
            await refused(another.registration(), Limited)
            assert await alice.registration(), "who has proved it is served"
            assert await bench.alice().registration(), "and who comes anew: the challenge and the proof are his connection's own"
            assert await bench.dora().registration(), "who has a certificate is no stranger"
            await refused(client.registration(), Limited)

    run(work())


def test_too_many_questions_that_stay_open() -> None:
    async def work() -> None:
        bench = Bench(Limits(waiting=2))
        async with bench.serving():
            dora = bench.dora()
            open_ = [asyncio.create_task(dora.stkm(SERVICE, 1, "drm", wait=30)) for _ in range(2)]
            await parked(bench, 2)
            await refused(dora.stkm(SERVICE, 1, "drm", wait=30), Limited)
            bench.seal(0)
            assert all(isinstance(found, Fetched) for found in await asyncio.gather(*open_))
            assert await dora.stkm(SERVICE, 1, "drm") is not None

    run(work())


def test_too_many_connections() -> None:
    async def work() -> None:
        bench = Bench(Limits(per_address=2))
        async with bench.serving():
            clients = [bench.dora() for _ in range(2)]
            for client in clients:
                assert await client.registration()
            with pytest.raises(Unreachable):
                await bench.dora().registration()
            await clients[0].close()
            assert bench.server.listener is not None
            while len(bench.server.listener) > 1:
                await asyncio.sleep(0.001)
            assert await bench.dora().registration()

    run(work())


def test_strangers_who_shake_hands_and_say_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone may open TLS: who has proved nothing goes for who is new, and who has proved it stays."""
    monkeypatch.setattr(listener, "UNPROVEN", 0.05)

    async def work() -> None:
        bench = Bench(Limits(connections=8, connect_rate=1000.0))
        async with bench.serving(), contextlib.AsyncExitStack() as open_:
            alice, dora, held = bench.alice(), bench.dora(), list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
            assert await alice.registration() and await dora.registration()
            for number in range(30):
                with contextlib.suppress(ConnectionError):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", bench.server.port, ssl=context_of(), server_hostname="localhost",
                        local_addr=(f"127.0.0.{2 + number % 20}", 0),
                    )  # fmt: skip
                    held.append((reader, writer))  # without them the connection ends
                    open_.callback(writer.transport.abort)
                assert bench.server.listener is not None and len(bench.server.listener) <= 8
            for _ in range(1000):  # a terminal that is refused comes again
                newcomer = bench.alice()
                with contextlib.suppress(Unreachable):
                    assert await newcomer.registration()
                    break
            else:
                pytest.fail("kept out")
            assert bench.server.listener is not None and bench.server.listener.refused["proved nothing"]
            seen = len(bench.seen)
            assert await alice.registration() and await dora.registration()
            assert bench.seen[seen:] == [("registration", 200)] * 2, "on the connections that they had"

    run(work())


async def raw(bench: Bench, data: bytes, certificate: str = "dora") -> bytes:
    """What comes back to these octets, until the server ends the connection or nothing more can come."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", bench.server.port, ssl=context_of(certificate), server_hostname="localhost"
    )
    writer.write(data)
    try:
        return await reader.read(1 << 16)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def test_who_is_slow_is_not_waited_for() -> None:
    async def work() -> None:
        bench = Bench(Limits(idle=0.1, body=0.1))
        async with bench.serving():
            assert await raw(bench, b"GET /bcast/ltkm HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
            head = b"POST /bcast/verification HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: 9\r\n\r\n1"
            answer = await raw(bench, head % LTKM_TYPE.encode())
            assert answer.startswith(b"HTTP/1.1 408 ") and b"problem:too-slow" in answer

    run(work())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1", 404),
        ("GET /bcast/ltkm? HTTP/1.1", 404),
        ("GET /bcast/ltkm/ HTTP/1.1", 404),
        ("GET https://localhost/bcast/ltkm HTTP/1.1", 404),
        ("PUT /bcast/ltkm HTTP/1.1", 405),
        ("HEAD /bcast/registration HTTP/1.1", 405),
        ("GET /bcast/verification HTTP/1.1", 405),
        ("GET /bcast/stkm/ HTTP/1.1", 404),
        ("GET /bcast/stkm/urn%3Ax/0?profile=drm HTTP/1.1", 404),
        ("GET /bcast/stkm/urn%3Ax/1 HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%3Ax/1?profile=both HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%3Ax/1?profile=drm&profile=drm HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%3Ax/1?profile=drm&wait=-1 HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%3Ax/1?profile=drm&wait=1e9 HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%3Ax/1?profile=drm&after=x HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%FFx/1?profile=drm HTTP/1.1", 400),
        ("GET /bcast/stkm/urn%3Ax/1?profile=drm HTTP/1.1", 404),
        ("GET /bcast/ltkm HTTP/1.1\r\nContent-Length: 2000", 413),
        ("GET /bcast/ltkm HTTP/1.1\r\nContent-Length: 5", 413),
        ("GET /bcast/ltkm HTTP/1.1\r\nTransfer-Encoding: chunked", 413),
        ("POST /bcast/verification HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 1", 415),
        ("GET /bcast/ltkm HTTP/1.1\r\nAuthorization: Basic YTpi", 400),
        ("GET /bcast/ltkm HTTP/1.1\r\nAuthorization: Digest", 400),
        ("GET /bcast/ltkm HTTP/1.1\r\nAuthorization: Digest a=b\r\nAuthorization: Digest a=b", 400),
        ("GET /bcast/ltkm HTTP/1.1\r\n" + "\r\n".join(f"X-{n}: 1" for n in range(40)), 400),
        ("GET /bcast/ltkm HTTP/1.1\r\nX-Long: " + "x" * 5000, 400),
        ("GET /bcast/stkm/" + "x" * 5000 + " HTTP/1.1", 400),
        ("\x16\x03\x01", 400),
    ],
)
def test_requests_that_are_none_of_this_interface(head: str, status: int) -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            answer = await raw(bench, f"{head}\r\nHost: localhost\r\n\r\n".encode("latin-1"))
            assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status)), answer
            assert b"Traceback" not in answer and b"xxxx" not in answer
            if not head.startswith("HEAD"):
                assert PROBLEM_TYPE.encode() in answer and b"urn:x-bcast:problem:" in answer
            assert [status for _, status in bench.seen] == [status]

    run(work())


def test_what_answers_say() -> None:
    async def work() -> None:
        bench = Bench()
        bench.seal(0)
        async with bench.serving(), aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context_of("dora"))) as session:
            async with session.get(URL(f"{bench.url}{STKM_OF}?profile=drm", encoded=True)) as answer:
                assert answer.status == 200 and answer.content_type == STKM_TYPE
                assert answer.headers["Expires"] == http_date(START + 8)
                assert answer.headers[PERIOD] == f"{START}-{START + 8}" and answer.headers["Cache-Control"] == "private"
                assert codec.decode(await answer.read(), "drm-stkm").kind == "drm-stkm"
            async with session.get(URL(f"{bench.url}{STKM_OF}?profile=drm&after={START}", encoded=True)) as answer:
                assert answer.status == 204 and answer.headers["Cache-Control"] == "no-store"
            async with session.get(f"{bench.url}/bcast/ltkm") as answer:
                assert answer.content_type == LTKM_TYPE
            async with session.get(f"{bench.url}/else") as answer:
                assert answer.content_type == PROBLEM_TYPE
                assert json.loads(await answer.read())["type"] == "urn:x-bcast:problem:not-known"

    run(work())


def test_certificates_change_without_a_pause() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            dora = bench.dora()
            assert await dora.registration()
            await bench.server.reload(server_context(), Limits(burst=1))
            assert await dora.registration(), "and this ends the old connection"
            bench.mono += 10
            assert await dora.registration()
            await refused(dora.registration(), Limited)

    run(work())


def test_a_machine_that_has_stopped() -> None:
    async def work() -> None:
        bench = Bench()
        async with bench.serving():
            dora = bench.dora()

            async def stopped(*_: object) -> None:
                raise LocalFlowError("the server is stopping")

            bench.machine.ask_machine = stopped  # type: ignore[method-assign, assignment]
            with pytest.raises(InteractionError) as caught:
                await dora.stkm(SERVICE, 1, "drm")
            assert str(caught.value) == "HTTP 503: unavailable"

    run(work())


@pytest.mark.parametrize(
    ("certificate", "udn"),
    [
        (None, None),
        ({}, None),
        ({"subject": ((("commonName", "5" * 20),),)}, "5" * 20),
        ({"subject": ((("commonName", "5" * 20),),), "subjectAltName": (("DNS", "x"),)}, ""),
        ({"subjectAltName": (("URI", "urn:x-bcast:udn:7"), ("URI", "urn:x-bcast:udn:8"))}, ""),
        ({"subjectAltName": (("URI", "urn:example:bsda"), ("URI", "urn:x-bcast:udn:7"))}, "7"),
        ({"subject": ()}, ""),
    ],
)
def test_whose_certificate_it_is(certificate: dict[str, object] | None, udn: str | None) -> None:
    assert udn_of(certificate) == udn
