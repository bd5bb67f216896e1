# SPDX-License-Identifier: Apache-2.0
"""The client against peers that are down, slow, half-open, late, doubled or talking nonsense: real sockets (R26, R27, R30)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from backend_support import BSDA_ID, BSM_ID, NOW, SERVICE, message, partial, sek
from wire_support import RIGHTS, SHORT, asking, clock, echo, http_answer, misbehaving, read_request, serving

from pybcast.backend import xml
from pybcast.backend.audit import Exchanged
from pybcast.backend.client import MAX_CONFIRMATION, Client, Retry
from pybcast.backend.errors import BadAnswer, PeerRefused, PeerUnreachable
from pybcast.backend.identity import Peer, Peers
from pybcast.errors import BadLength, ConfigError, LocalFlowError, TransportError
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.tables import Side, Tag

TEKS = message(Tag.TEKDelivery)
Peering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer_to(request: bytes, **changes: object) -> bytes:
    asked = xml.decode(request, Side.BSM, NOW)
    return xml.encode(replace(asked.answer(0, (), now=NOW), **changes), NOW)  # type: ignore[arg-type]  # fields of the message


def says(*answers: bytes) -> Peering:
    """A peer that answers each request with the next of these, byte for byte, and then says no more."""
    rest = list(answers)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while rest:
            await read_request(reader)
            writer.write(rest.pop(0))
            await writer.drain()
        await reader.read()

    return peer


async def fails(peer: Peering, expected: type[TransportError], *, retry: Retry | None = None) -> str:
    async with misbehaving(peer) as port, asking(port, limits=SHORT, retry=retry) as client:
        with pytest.raises(expected) as caught:
            await client.send(TEKS)
        return str(caught.value)


# --- what is well -----------------------------------------------------------------------------------------------------


def test_there_and_back_and_what_observers_see() -> None:
    seen: list[Exchanged] = []

    async def run() -> None:
        async with serving(observer=seen.append) as server, asking(server.port, observer=seen.append) as client:
            for _ in range(2):
                assert await client.send(TEKS) == await echo(TEKS, BSDA_ID)

    asyncio.run(run())
    assert [(e.role, e.peer, e.tag, e.status, e.http, e.attempts, e.error) for e in seen] == [
        ("server", BSDA_ID, 7, 0, 200, 1, ""), ("client", BSM_ID, 7, 0, 200, 1, ""),
    ] * 2  # fmt: skip
    assert seen[0].received == seen[1].sent == len(xml.encode(TEKS, NOW)) and seen[0].sent == seen[1].received


def test_a_refusal_is_an_answer() -> None:
    async def run() -> None:
        async with serving(services=frozenset()) as server, asking(server.port) as client:
            assert (await client.send(TEKS)).status == 11

    asyncio.run(run())


def test_one_connection_serves_many_requests() -> None:
    connections = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            writer.write(http_answer(answer_to(await read_request(reader))))

    async def run() -> None:
        async with misbehaving(peer) as port, asking(port) as client:
            for n in range(20):
                assert (await client.send(message(Tag.TEKDelivery, message_id=f"m{n}"))).status == 0

    asyncio.run(run())
    assert connections == 1


# --- R27: repeats -----------------------------------------------------------------------------------------------------


def test_r27_a_repeat_is_the_same_body_after_a_growing_pause() -> None:
    bodies: list[bytes] = []
    pauses: list[float] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await read_request(reader))
        if len(bodies) > 3:
            writer.write(http_answer(answer_to(bodies[-1])))
            await writer.drain()
            await reader.read()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> None:
        retry = Retry(attempts=5, first=0.1, most=0.3)
        async with misbehaving(peer) as port, asking(port, retry=retry, pause=pause) as client:
            assert (await client.send(TEKS)).message_id == TEKS.message_id

    asyncio.run(run())
    assert bodies == [xml.encode(TEKS, NOW)] * 4
    assert pauses == [0.05, 0.1, 0.15]  # half of 0.1, 0.2, and 0.3 where it is capped; chance was 0
    assert Retry(first=0.1).pause(1, 0.999) < 0.1 < Retry(first=0.1).pause(3, 0.0) <= Retry().pause(99, 0.0) <= Retry().most


def test_r27_one_message_sent_twice_is_asked_once() -> None:
    """The flows repeat what is unanswered; as long as we are at it, that is the same request."""
    asked, release, entered = 0, asyncio.Event(), asyncio.Event()

    async def handler(got: BackendMessage, peer: str) -> BackendMessage:
        nonlocal asked
        asked += 1
        entered.set()
        await release.wait()
        return await echo(got, peer)

    async def run() -> None:
        async with serving(handler) as server, asking(server.port) as client:
            sends = [asyncio.create_task(client.send(TEKS)) for _ in range(3)]
            await entered.wait()
            with pytest.raises(LocalFlowError):
                await client.send(replace(TEKS, items=TEKS.items[:1]))
            sends[0].cancel()  # one that gives up does not take it from the others
            release.set()
            first, second, third = await asyncio.gather(*sends, return_exceptions=True)
            assert isinstance(first, asyncio.CancelledError) and second == third == await echo(TEKS, BSDA_ID)
            assert asked == 1 and await client.send(TEKS) == second and asked == 2

    asyncio.run(run())


def test_an_http_status_that_passes_is_asked_again_and_another_is_not() -> None:
    def peer(first: bytes, seen: list[bytes]) -> Peering:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                seen.append(await read_request(reader))
                writer.write(first if len(seen) == 1 else http_answer(answer_to(seen[-1])))

        return talk

    async def run() -> None:
        for code, times in ((503, 2), (429, 2), (500, 2), (400, 1), (404, 1), (301, 1), (204, 1)):
            seen: list[bytes] = []
            first = f"HTTP/1.1 {code} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode()
            async with misbehaving(peer(first, seen)) as port, asking(port, retry=Retry(attempts=3)) as client:
                if times == 2:
                    assert (await client.send(TEKS)).status == 0
                else:
                    with pytest.raises(PeerRefused, match=f"HTTP {code}"):
                        await client.send(TEKS)
            assert len(seen) == times

    asyncio.run(run())


# --- peers that fail --------------------------------------------------------------------------------------------------


def test_a_peer_that_is_down() -> None:
    async def run() -> None:
        async with misbehaving(says()) as port:
            pass
        async with asking(port, limits=SHORT, retry=Retry(attempts=2)) as client:
            with pytest.raises(PeerUnreachable, match="Connect"):
                await client.send(TEKS)

    asyncio.run(run())


def test_a_peer_that_accepts_and_says_nothing() -> None:
    assert "in time" in asyncio.run(fails(says(b""), PeerUnreachable, retry=Retry(attempts=2)))


def test_a_peer_that_stops_in_the_middle_of_its_answer() -> None:
    whole = http_answer(answer_to(xml.encode(TEKS, NOW)))
    for part in (whole[:20], whole[:-10]):
        assert "in time" in asyncio.run(fails(says(part), PeerUnreachable))


def test_a_peer_that_closes_in_the_middle_of_its_answer() -> None:
    whole = http_answer(answer_to(xml.encode(TEKS, NOW)))

    def peer(size: int) -> Peering:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(whole[:size])
            await writer.drain()

        return talk

    for size in (0, 20, len(whole) - 10):
        asyncio.run(fails(peer(size), PeerUnreachable))


def test_a_peer_that_drips_is_bounded_by_the_whole() -> None:
    """Each byte in time, the answer never."""
    whole = http_answer(answer_to(xml.encode(TEKS, NOW)), "X: " + "y" * 200 + "\r\n")

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in whole:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)  # the fault itself, not a wait for one

    async def run() -> None:
        async with misbehaving(peer) as port, asking(port, limits=replace(SHORT, total=0.4)) as client:
            with pytest.raises(PeerUnreachable, match="in time"):
                await client.send(TEKS)

    asyncio.run(run())


GOOD = answer_to(xml.encode(TEKS, NOW))


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(b""),
        http_answer(b"\x00\x01 0123456789 garbage"),
        http_answer(GOOD[:-1]),
        http_answer(b"<!DOCTYPE x>" + GOOD),
        http_answer(GOOD.replace(b'status="0"', b"")),
        http_answer(GOOD.replace(b'tag="8"', b'tag="4"')),
        http_answer(xml.encode(TEKS, NOW)),
        http_answer(xml.encode(message(Tag.KeyRequestResponse), NOW)),
        http_answer(GOOD.replace(b"ab" * 16, b"cd" * 16)),
        http_answer(GOOD.replace(BSM_ID.encode(), b"urn:example:other")),
        http_answer(GOOD.replace(BSDA_ID.encode(), b"urn:example:other")),
        http_answer(GOOD.replace(SERVICE.encode(), b"urn:example:other")),
        http_answer(GOOD).replace(b"application/xml", b"text/html"),
        http_answer(GOOD, "Content-Encoding: gzip\r\n"),
    ],
)
def test_a_peer_that_answers_with_something_else(answer: bytes) -> None:
    text = asyncio.run(fails(says(answer, answer), BadAnswer, retry=Retry(attempts=2)))
    assert BSM_ID in text and "garbage" not in text


@pytest.mark.parametrize(
    "answer",
    [b"0123456789 garbage\r\n\r\n", b"HTTP/1.1 xyz\r\n\r\n", b"\x15\x03\x03\x00\x02", b"HTTP/9.9 200 OK\r\ngarbage\r\n\r\n"],
)
def test_a_peer_that_speaks_no_http(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert "garbage" not in asyncio.run(fails(says(answer), PeerUnreachable)) + caplog.text


def test_a_peer_that_never_ends_its_answer() -> None:
    """R30: an answer to a delivery is cut off above its limit, wherever the XML is."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(GOOD), GOOD))
        while True:
            writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            await writer.drain()

    assert str(MAX_CONFIRMATION) in asyncio.run(fails(peer, BadAnswer))


def test_a_peer_that_answers_twice_is_not_believed_the_second_time() -> None:
    """The second answer lies in the pipe when the next request goes out: it must not become that one's."""
    seen: list[str] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            asked = xml.decode(request, Side.BSM, NOW)
            seen.append(asked.message_id)
            writer.write(http_answer(answer_to(request)) * 2)
            await writer.drain()

    async def run() -> None:
        async with misbehaving(peer) as port, asking(port, retry=Retry(attempts=3)) as client:
            for n in range(5):
                name = f"m{n}"
                assert (await client.send(message(Tag.TEKDelivery, message_id=name))).message_id == name

    asyncio.run(run())
    assert sorted(set(seen)) == [f"m{n}" for n in range(5)]


def test_a_late_answer_is_nobodys() -> None:
    """The first attempt's answer comes when the second is under way: by then its connection is gone."""
    first = asyncio.Event()
    count = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        request = await read_request(reader)
        if count == 1:
            await first.wait()
            writer.write(http_answer(answer_to(request, status=7)))
        else:
            first.set()
            writer.write(http_answer(answer_to(request, status=0)))
        await writer.drain()
        await reader.read()

    async def run() -> None:
        async with misbehaving(peer) as port, asking(port, retry=Retry(attempts=9), limits=SHORT) as client:
            assert (await client.send(TEKS)).status == 0

    asyncio.run(run())
    assert count >= 2


# --- what is not sent -------------------------------------------------------------------------------------------------


def test_r26_keys_do_not_leave_for_a_peer_without_the_right() -> None:
    async def run() -> None:
        async with misbehaving(says()) as port, asking(port) as client:
            for sent, error in (
                (message(Tag.TEKDelivery, service="urn:example:theirs"), TransportError),
                (message(Tag.TEKDelivery, destination="urn:example:unknown"), TransportError),
                (message(Tag.TEKDelivery, source="urn:example:unknown"), LocalFlowError),
                (message(Tag.KeyDeliveryConfirmation), LocalFlowError),
                (message(Tag.LTKMDelivery, source=BSDA_ID, destination=BSM_ID, items=(bytes(600_000),)), BadLength),
            ):
                with pytest.raises(error):
                    await client.send(sent)

    asyncio.run(run())


def test_r26_plain_http_needs_loopback_and_the_flag() -> None:
    def client(url: str, flag: bool) -> Client:
        peers = Peers([Peer(id=BSM_ID, services=RIGHTS, url=url)])
        return Client(me=BSDA_ID, side=Side.BSDA, peers=peers, context=None, clock=clock, plain_loopback=flag)

    async def run() -> None:
        with pytest.raises(ConfigError, match="R26"):
            client("http://127.0.0.1:1", False)
        for url in ("http://192.0.2.1:1", "https://127.0.0.1:1"):
            with pytest.raises(TransportError, match="R26"):
                await client(url, True).send(TEKS)

    asyncio.run(run())


def test_close_gives_up_what_is_on_its_way() -> None:
    entered = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        entered.set()
        await reader.read()

    async def run() -> None:
        async with misbehaving(peer) as port, asking(port) as client:
            sending = asyncio.create_task(client.send(TEKS))
            await entered.wait()
            await client.close()
            with pytest.raises(asyncio.CancelledError):
                await sending

    asyncio.run(run())


def test_r41_nothing_that_is_sent_or_answered_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(asked: BackendMessage, peer: str) -> BackendMessage:
        return asked.answer(0, (sek(),), now=NOW)

    async def run() -> None:
        async with serving(handler) as server, asking(server.port) as client:
            await client.send(message(Tag.KeyRequest))
        await fails(says(b""), PeerUnreachable)

    caplog.set_level(logging.DEBUG)
    asyncio.run(run())
    audit = [r.__dict__["fields"] for r in caplog.records if r.name == "pybcast.audit"]
    assert [(f["way"], f["key"], f["peer"]) for f in audit] == [
        ("out", "SEK", BSDA_ID), ("in", "SEK", BSM_ID), ("out", "TEK", BSM_ID), ("out", "TEK", BSM_ID),
    ]  # fmt: skip
    everything = "".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records).lower()
    for secret in (sek().key, partial(0).content):
        assert secret.reveal().hex()[:12] not in everything
