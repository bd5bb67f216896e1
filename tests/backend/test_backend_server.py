# SPDX-License-Identifier: Apache-2.0
"""The server over real sockets: who may say what, what a broken request gets, and what callers cost (R26-R30, R41)."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import resource
import ssl
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from backend_support import BSDA_ID, BSM_ID, NOW, SERVICE, T, items_of, message, mutated, partial, sek
from lxml import etree
from wire_support import Caller, asking, clock, echo, http_request, serving

from pybcast.backend import xml
from pybcast.backend.audit import Exchanged
from pybcast.backend.identity import Peer, Peers
from pybcast.backend.server import PATH, Server, ServerLimits
from pybcast.errors import ConfigError, PeerFlowError, TransportError
from pybcast.flows import Headend, Send, StreamConfig, random_teks
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage
from pybcast.flows.tables import Side, Status, Tag
from pybcast.https.contexts import Context
from pybcast.https.listener import Connection
from pybcast.messages import Protocol

TEKS = xml.encode(message(Tag.TEKDelivery), NOW)


def body(tag: Tag = Tag.TEKDelivery, **changes: object) -> bytes:
    return xml.encode(message(tag, **changes), NOW)


def chunked(data: bytes) -> bytes:
    head = b"POST /bcast/spcp HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


def test_a_message_goes_to_the_handler_and_its_answer_back() -> None:
    seen: list[tuple[BackendMessage, str]] = []

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        seen.append((asked, peer))
        return await echo(asked, peer)

    async def run() -> None:
        async with serving(handler) as server, Caller.to(server.port) as caller:
            for _ in range(2):  # keep-alive
                code, answer = await caller.ask(http_request(TEKS))
                assert code == 200 and xml.decode(answer, Side.BSDA, NOW) == await echo(message(Tag.TEKDelivery), BSDA_ID)
        assert seen == [(message(Tag.TEKDelivery), BSDA_ID)] * 2

    asyncio.run(run())


# --- R26-R28: the status of the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (body(), 0),
        (body(Tag.RegRequest), 0),
        (body(source="urn:example:other"), 11),
        (body(service="urn:example:theirs"), 11),
        (body(destination="urn:example:bsm2"), 23),
        (body().replace(b'version="1"', b'version="2"'), 12),
        (body().replace(b'tag="7"', b'tag="1"'), 21),
        (body(Tag.KeyDelivery, source=BSDA_ID, destination=BSM_ID), 21),  # our own way, sent back
        (body(Tag.KeyDeliveryConfirmation), 21),  # an answer that nobody asked for
        (body().replace(b"<Profile>", b"<Unknown/><Profile>"), 8),
        (body().replace(b"TEKDelivery", b"Unknown"), 8),
    ],
)
def test_r27_status_of_the_table(sent: bytes, status: int) -> None:
    async def run() -> None:
        async with serving() as server, Caller.to(server.port) as caller:
            code, answer = await caller.ask(http_request(sent))
            assert code == 200
            text = answer.decode()
            assert f'status="{status}"' in text and f'messageID="{"ab" * 16}"' in text and f'source="{BSM_ID}' in text
            assert await caller.status(TEKS) == 0  # and the connection lives on

    asyncio.run(run())


def test_r26_a_right_of_its_own_for_all_services() -> None:
    async def run() -> None:
        for services, for_all, for_one in ((frozenset({SERVICE}), 11, 0), (frozenset({ALL_SERVICES}), 0, 11)):
            async with serving(services=services) as server, Caller.to(server.port) as caller:
                assert await caller.status(body(Tag.RegRequest)) == for_all
                assert await caller.status(body(Tag.KeyRequest)) == for_one

    asyncio.run(run())


@pytest.mark.parametrize(
    ("failure", "status"),
    [(PeerFlowError(Status.NON_EXISTENT, "no key"), 17), (TransportError("x"), 7), (RuntimeError("secret"), 7), (None, 7)],
)
def test_a_handler_that_fails_is_answered_with_a_status(failure: Exception | None, status: int) -> None:
    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        if failure is None:
            return replace(await echo(asked, peer), message_id="another")
        raise failure

    async def run() -> None:
        async with serving(handler) as server, Caller.to(server.port) as caller:
            assert await caller.status(TEKS) == status

    asyncio.run(run())


def test_an_answer_that_cannot_be_written_is_status_7() -> None:
    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        return replace(await echo(asked, peer), start=-1)

    async def run() -> None:
        async with serving(handler) as server, Caller.to(server.port) as caller:
            assert await caller.status(TEKS) == 7

    asyncio.run(run())


def test_r27_repeats_through_the_flows() -> None:
    """The transport keeps no answers: the flows do, and see what came in unchanged."""
    stream = StreamConfig(
        service=SERVICE, stream=1, profiles=("smartcard",), generation="bsda", bsm=BSM_ID, bsdas=(BSDA_ID,), protocol=Protocol.SRTP,
        period=8, start=T, key_period=640, rollover_lead=320, key_domain_id=b"\x12\xf4\x10", key_group=7,
    )  # fmt: skip
    chance = random.Random(1).randbytes
    machine = Headend(me=BSDA_ID, streams=[stream], teks=random_teks(chance), randomness=chance)

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        outputs = machine.receive(asked, NOW - 50, peer)
        (answer,) = [o.message for o in outputs if isinstance(o, Send) and o.message.message_id == asked.message_id]
        return answer

    async def run() -> None:
        async with serving(handler, me=BSDA_ID, side=Side.BSDA, peer=BSM_ID) as server, Caller.to(server.port) as caller:
            answers = []
            for time, number in ((T, 1), (T + 5, 1), (T, 2)):
                sent = body(Tag.KeyDelivery, items=(sek(number),), time=time)
                answers.append(xml.decode((await caller.ask(http_request(sent)))[1], Side.BSM, NOW))
            first, again, other = answers
            assert first.status == 0 and again == first and other.status == Status.ALREADY_PROCESSED

    asyncio.run(run())


# --- R27, R30: below messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (http_request(b""), 400),
        (http_request(b"{}"), 400),
        (http_request(TEKS[:-1]), 400),
        (http_request(b"<!DOCTYPE x>" + TEKS), 400),
        (http_request(TEKS, path="/"), 404),
        (http_request(TEKS, path=PATH + "/x"), 404),
        (http_request(b"", method="GET"), 405),
        (http_request(TEKS, method="PUT"), 405),
        (http_request(TEKS, head="Content-Type: application/json\r\n"), 415),
        (http_request(TEKS, head=""), 415),
        (http_request(TEKS, head="Content-Type: application/xml; charset=utf-16\r\n"), 415),
        (http_request(TEKS, head="Content-Type: text/xml\r\nContent-Encoding: gzip\r\n"), 415),
        (http_request(b" " * (xml.MAX_REQUEST + 1)), 413),
        (b"POST /bcast/spcp HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ],
)
def test_r27_http_4xx_only_without_a_message_and_never_a_body(request_: bytes, code: int) -> None:
    async def run() -> None:
        async with serving() as server, Caller.to(server.port) as caller:
            assert await caller.ask(request_) == (code, b"")
            async with Caller.to(server.port) as another:
                assert await another.status(TEKS) == 0

    asyncio.run(run())


def test_r30_a_request_of_exactly_1_mib_is_read_and_one_byte_more_is_not() -> None:
    def padded(size: int) -> bytes:
        return TEKS + b" " * (size - len(TEKS))

    async def run() -> None:
        async with serving() as server:
            for form in (http_request, chunked):
                for extra, code in ((0, 200), (1, 413)):
                    async with Caller.to(server.port) as caller:
                        assert (await caller.ask(form(padded(xml.MAX_REQUEST + extra))))[0] == code

    asyncio.run(run())


def test_r30_an_answer_of_many_megabytes_arrives_whole() -> None:
    data = tuple(random.Random(n).randbytes(4000) for n in range(3000))

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        return asked.answer(0, data, now=NOW)

    async def run() -> None:
        async with serving(handler) as server, asking(server.port) as client:
            assert (await client.send(message(Tag.LTKMRequest))).items == data

    asyncio.run(run())


def test_a_caller_that_waits_for_100_continue_gets_it() -> None:
    async def run() -> None:
        async with serving() as server, Caller.to(server.port) as caller:
            head, _, rest = http_request(TEKS, head="Content-Type: text/xml\r\nExpect: 100-continue\r\n").partition(b"\r\n\r\n")
            caller.writer.write(head + b"\r\n\r\n")
            assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            code, answer = await caller.ask(rest)
            assert code == 200 and b'status="0"' in answer

    asyncio.run(run())


def test_10_mib_are_not_read() -> None:
    async def run() -> None:
        async with serving() as server:
            for form in (http_request, chunked):
                async with Caller.to(server.port) as caller:
                    assert await caller.ask(form(b"<a>" * 3_500_000)) == (413, b"")
            async with Caller.to(server.port) as caller:
                assert await caller.status(TEKS) == 0

    asyncio.run(run())


# --- slow, half-open, too many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /bcast", http_request(TEKS)[:-10]],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_caller_that_stops_in_the_middle_is_dropped(sent: bytes) -> None:
    async def run() -> None:
        async with serving(limits=ServerLimits(idle=0.2, body=0.2)) as server, Caller.to(server.port) as caller:
            caller.writer.write(sent)
            got = await caller.reader.read()  # until the server closes
            assert got == b"" or got.startswith(b"HTTP/1.1 408")

    asyncio.run(run())


def test_a_caller_that_does_not_take_its_answer_is_dropped() -> None:
    data, done = tuple(bytes(100_000) for _ in range(100)), asyncio.Event()

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        return asked.answer(0, data, now=NOW)

    def observe(exchange: Exchanged) -> None:
        assert exchange.error == "the answer was not taken"
        done.set()

    async def run() -> None:
        async with serving(handler, limits=ServerLimits(send=0.2), observer=observe) as server, Caller.to(server.port) as caller:
            caller.writer.write(http_request(body(Tag.LTKMRequest)))
            await done.wait()

    asyncio.run(run())


def test_connections_beyond_the_limit_are_closed_and_others_not() -> None:
    async def run() -> None:
        async with serving(limits=ServerLimits(connections=2)) as server:
            async with Caller.to(server.port) as one, Caller.to(server.port) as two:
                assert await one.status(TEKS) == await two.status(TEKS) == 0
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    async with Caller.to(server.port) as three:
                        await three.status(TEKS)
                assert await one.status(TEKS) == 0
            # the places are free again
            for _ in range(100):
                try:
                    async with Caller.to(server.port) as four:
                        assert await four.status(TEKS) == 0
                        break
                except (asyncio.IncompleteReadError, ConnectionError):
                    continue
            else:
                pytest.fail("no connection was given back")

    asyncio.run(run())


def test_one_peer_has_only_so_many_requests_in_hand() -> None:
    running, most, release = 0, 0, asyncio.Event()
    three = asyncio.Event()

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            three.set()
        await release.wait()
        running -= 1
        return await echo(asked, peer)

    async def ask(port: int) -> int:
        async with Caller.to(port) as caller:
            return await caller.status(TEKS)

    async def run() -> None:
        async with serving(handler, limits=ServerLimits(in_flight=3)) as server:
            asks = [asyncio.create_task(ask(server.port)) for _ in range(10)]
            await three.wait()
            async with Caller.to(server.port) as caller:  # the server still lives
                assert (await caller.ask(http_request(b"", method="GET")))[0] == 405
            release.set()
            assert await asyncio.gather(*asks) == [0] * 10 and most == 3

    asyncio.run(run())


def test_stop_lets_what_is_in_hand_be_answered() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        entered.set()
        await release.wait()
        return await echo(asked, peer)

    async def run() -> None:
        async with serving(handler) as server, Caller.to(server.port) as caller:
            asked = asyncio.create_task(caller.status(TEKS))
            await entered.wait()
            stopping = asyncio.create_task(server.stop(5.0))
            with pytest.raises(OSError):
                while True:  # as long as the socket still listens
                    async with Caller.to(server.port):
                        pass
                    await asyncio.sleep(0)
            release.set()
            assert await asked == 0
            await stopping

    asyncio.run(run())


def test_a_connection_that_never_ends_does_not_keep_the_server(caplog: pytest.LogCaptureFixture) -> None:
    class Immortal(asyncio.Transport):
        def abort(self) -> None:
            pass

    async def run() -> None:
        async with serving() as server, Caller.to(server.port) as caller:
            assert await caller.status(TEKS) == 0
            assert server.listener is not None
            server.listener._all.open[Connection("x", 0, 0.0, transport=Immortal())] = None

    asyncio.run(run())
    assert "1 connections do not end" in caplog.text


# --- plain HTTP -------------------------------------------------------------------------------------------------------


def test_r26_plain_http_needs_loopback_and_the_flag() -> None:
    async def run() -> None:
        server = Server(me=BSM_ID, side=Side.BSM, peers=Peers([]), handler=echo, clock=clock)
        for host, flag in (("127.0.0.1", False), ("0.0.0.0", True), ("::", True)):
            with pytest.raises(ConfigError, match="R26"):
                await server.start(host, 0, None, plain_loopback=flag)
        with pytest.raises(ConfigError, match="client certificates"):
            await server.start("127.0.0.1", 0, Context(ssl.PROTOCOL_TLS_SERVER))
        await server.stop()

    asyncio.run(run())


def test_an_address_that_is_taken_is_a_transport_error() -> None:
    async def run() -> None:
        async with serving() as server:
            other = Server(me=BSM_ID, side=Side.BSM, peers=Peers([]), handler=echo, clock=clock)
            with pytest.raises(TransportError, match=str(server.port)):
                await other.start("127.0.0.1", server.port, None, plain_loopback=True)

    asyncio.run(run())


def test_r26_rights_change_with_a_reload_on_a_living_connection() -> None:
    async def run() -> None:
        async with serving() as server, Caller.to(server.port) as caller:
            assert await caller.status(TEKS) == 0
            await server.reload(peers=Peers([Peer(id=BSDA_ID, services=frozenset({"urn:example:new"}))]))
            assert await caller.status(TEKS) == 11
            assert await caller.status(body(service="urn:example:new")) == 0

    asyncio.run(run())


# --- R41: what is written down ----------------------------------------------------------------------------------------


def test_r41_an_audit_record_for_each_key_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    keys = (sek(1), sek(2))

    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        return asked.answer(0, keys if asked.tag is Tag.KeyRequest else items_of(Tag.TEKDeliveryConfirmation), now=NOW)

    async def run() -> None:
        async with serving(handler) as server, Caller.to(server.port) as caller:
            for sent in (
                TEKS,
                body(Tag.KeyRequest),
                body(source="urn:example:other"),
                TEKS.replace(b"smartcard<", b"x<"),
                TEKS[:-1],
            ):
                await caller.ask(http_request(sent))

    caplog.set_level(logging.DEBUG)
    asyncio.run(run())
    audit = [r.__dict__["fields"] for r in caplog.records if r.name == "pybcast.audit"]
    assert [(f["way"], f.get("key"), f.get("keyId"), f.get("periodStart"), f.get("sealed")) for f in audit] == [
        ("in", "TEK", None, partial(0).period_start, None),
        ("in", "TEK", None, partial(1).period_start, None),
        ("out", None, None, None, 2),
        ("out", "SEK", keys[0].key_id.hex(), None, None),
        ("out", "SEK", keys[1].key_id.hex(), None, None),
    ]
    assert all(f["peer"] == BSDA_ID and f["messageID"] == "ab" * 16 and f["service"] == SERVICE for f in audit)
    exchanges = [r for r in caplog.records if r.name == "pybcast.backend"]
    assert [r.__dict__["fields"]["status"] for r in exchanges] == [0, 0, 11, 8, None]
    assert all(len(r.__dict__["fields"]["digest"]) == 16 for r in exchanges)
    everything = "".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records).lower()
    for secret in (*(k.key for k in keys), partial(0).content, partial(1).content):
        assert secret.reveal().hex()[:12] not in everything


def test_r41_broken_http_is_reported_without_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with serving() as server:
            for garbage in (b"0123456789abcdef secret\r\n\r\n", b"GET / HTTP/1.1\r\nsecret\r\n\r\n", b"\x16\x03\x01secret\r\n\r\n"):
                async with Caller.to(server.port) as caller:
                    caller.writer.write(garbage)
                    assert (await caller.reader.read()).startswith(b"HTTP/1.0 400") or True

    caplog.set_level(logging.DEBUG)
    asyncio.run(run())
    shown = caplog.text + "".join(str(r.__dict__) for r in caplog.records)
    assert "secret" not in shown and "Traceback" not in shown and "HTTP that cannot be read" in shown


# --- ten thousand mutated requests ------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0


def test_10000_mutated_requests_no_5xx_no_traceback_and_flat_memory(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(20)
    seeds = [body(tag) for tag in (Tag.TEKDelivery, Tag.KeyRequest, Tag.LTKMRequest, Tag.STKMDelivery)]
    seeds += [xml.encode(message(Tag.KeyDelivery, items=(sek(1),)), NOW), TEKS.replace(b"smartcard", b"&e;")]
    counts: dict[int, int] = {}
    schema = etree.XMLSchema(etree.fromstring(xml.schema_text()))

    async def storm(port: int, count: int) -> None:
        async with Caller.to(port) as caller:
            for _ in range(count):
                code, answer = await caller.ask(http_request(mutated(rng, rng.choice(seeds))))
                counts[code] = counts.get(code, 0) + 1
                assert code in (200, 400) and (code == 200) == bool(answer)
                if code == 200 and counts[code] % 50 == 0:
                    schema.assertValid(etree.fromstring(answer))

    async def run() -> None:
        async with serving() as server:
            await asyncio.gather(*(storm(server.port, 250) for _ in range(4)))
            gc.collect()
            tracemalloc.start()
            before, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
            await asyncio.gather(*(storm(server.port, 2250) for _ in range(4)))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            # of Python, and of all: libxml2 and expat keep their own books
            assert (grown < 2_000_000, resident_bytes() - resident < 30_000_000) == (True, True)

    caplog.set_level(logging.ERROR)
    asyncio.run(run())
    assert sum(counts.values()) == 10_000 and counts.keys() == {200, 400} and not caplog.records
