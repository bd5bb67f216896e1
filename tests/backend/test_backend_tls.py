# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS on loopback: who gets in, who does not, and that nothing is sent to the wrong one (R26)."""

from __future__ import annotations

import asyncio
import logging
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backend_support import BSDA_ID, BSM_ID, NOW, message
from wire_support import Caller, asking, echo, http_request, misbehaving, serving

from pybcast.backend import pki, xml
from pybcast.backend.client import Client, ClientLimits
from pybcast.backend.errors import PeerUnreachable, WrongPeer
from pybcast.backend.identity import Peer, Peers
from pybcast.backend.server import ServerLimits
from pybcast.flows.tables import Side, Tag
from pybcast.https import contexts
from pybcast.wire.times import NTP_UNIX

TEKS = message(Tag.TEKDelivery)
BODY = xml.encode(TEKS, NOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BSM, BSD/A and a stranger under one authority; an expired BSD/A; a BSD/A and a BSM of another authority."""
    path = tmp_path_factory.mktemp("pki")
    pki.init(path, {"bsm": BSM_ID, "bsda": BSDA_ID, "stranger": "urn:example:stranger"})
    old = datetime.now(UTC) - timedelta(days=10)
    pki.issue(path, "expired", BSDA_ID, days=9, now=old)
    pki.issue(path, "expired-bsm", BSM_ID, days=9, now=old)
    pki.init(path / "other", {"bsm": BSM_ID, "bsda": BSDA_ID})
    return path


def files(folder: Path, name: str, authority: Path | None = None) -> contexts.TlsFiles:
    found = pki.files_of(folder, name)
    return contexts.TlsFiles(certificate=found.certificate, key=found.key, authority=authority or found.authority)


def test_both_know_each_other(folder: Path) -> None:
    async def run() -> None:
        async with serving(tls=files(folder, "bsm")) as server, asking(server.port, tls=files(folder, "bsda")) as client:
            assert await client.send(TEKS) == await echo(TEKS, BSDA_ID)

    asyncio.run(run())


def test_a_stranger_is_dropped_after_the_handshake(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate of the authority that belongs to no configured peer: nothing that it sends is read."""

    async def never(asked: object, peer: str) -> object:
        raise AssertionError("a message came through")

    async def run() -> None:
        context = contexts.client_context(files(folder, "stranger"))
        async with serving(never, tls=files(folder, "bsm")) as server:  # type: ignore[arg-type]  # it never answers
            assert server.listener is not None
            for _ in range(3):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    async with Caller.to(server.port, context) as caller:
                        await caller.status(BODY)
            assert server.listener.refused["its certificate belongs to no configured peer"] == 3
            async with asking(server.port, tls=files(folder, "stranger")) as client:
                with pytest.raises(PeerUnreachable):
                    await client.send(TEKS)

    asyncio.run(run())
    assert "its certificate belongs to no configured peer" in caplog.text and not any(r.exc_info for r in caplog.records)


def test_a_valid_peer_without_the_right_is_status_11(folder: Path) -> None:
    """By its certificate it is known, whatever it claims to be."""

    async def run() -> None:
        rights = frozenset({"urn:example:another"})
        async with (
            serving(tls=files(folder, "bsm"), services=rights) as server,
            asking(server.port, tls=files(folder, "bsda")) as client,
        ):
            assert (await client.send(TEKS)).status == 11

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "sub", "reason"),
    [
        ("expired", "", "expired"),
        ("bsda", "other", "issuer|signature"),
        (None, "", "did not return a certificate|PEER_DID_NOT_RETURN"),
    ],
    ids=["expired", "another authority", "no certificate"],
)
def test_a_caller_with_a_bad_certificate_gets_no_answer(
    folder: Path, name: str | None, sub: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def never(asked: object, peer: str) -> object:
        raise AssertionError("a message came through")

    if name is None:
        context = contexts.Context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(folder / "ca.pem")
    else:
        context = contexts.client_context(files(folder / sub if sub else folder, name, folder / "ca.pem"))

    async def run() -> None:
        async with (
            serving(never, tls=files(folder, "bsm")) as server,  # type: ignore[arg-type]  # it never answers
            asking(server.port, context=context) as client,
        ):
            with pytest.raises(PeerUnreachable):
                await client.send(TEKS)

    asyncio.run(run())
    refusals = [r.getMessage() for r in caplog.records if r.__dict__.get("fields", {}).get("event") == "tls"]
    assert len(refusals) == 1 and any(word in refusals[0] for word in reason.split("|"))


@pytest.mark.parametrize(
    ("name", "sub", "error"),
    [("expired-bsm", "", PeerUnreachable), ("bsm", "other", PeerUnreachable), ("stranger", "", WrongPeer), ("bsda", "", WrongPeer)],
)
def test_nothing_is_sent_to_a_server_that_is_not_the_peer(folder: Path, name: str, sub: str, error: type[Exception]) -> None:
    received: list[bytes] = []
    own = files(folder / sub if sub else folder, name, folder / "ca.pem")
    context = contexts.server_context(own)

    async def run() -> None:
        closed = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                received.append(await reader.read())
            except (ConnectionError, ssl.SSLError):
                received.append(b"")
            finally:
                writer.transport.abort()
                closed.set()

        server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
        async with asking(server.sockets[0].getsockname()[1], tls=files(folder, "bsda")) as client:
            with pytest.raises(error):
                await client.send(TEKS)
            if error is WrongPeer:
                await closed.wait()
        server.close()

    asyncio.run(run())
    assert received in ([], [b""])


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_tls_below_1_2_is_refused(folder: Path, version: str) -> None:
    context = contexts.client_context(files(folder, "bsda"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def run() -> None:
        async with serving(tls=files(folder, "bsm")) as server:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with Caller.to(server.port, context) as caller:
                    await caller.status(BODY)

    asyncio.run(run())


def test_tls_1_2_and_1_3_are_spoken(folder: Path) -> None:
    async def run() -> None:
        async with serving(tls=files(folder, "bsm")) as server:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = contexts.client_context(files(folder, "bsda"))
                context.minimum_version = context.maximum_version = version
                async with Caller.to(server.port, context) as caller:
                    assert await caller.status(BODY) == 0

    asyncio.run(run())


def test_plain_http_to_a_tls_server_gets_no_answer(folder: Path) -> None:
    async def run() -> None:
        async with serving(tls=files(folder, "bsm")) as server, Caller.to(server.port) as caller:
            caller.writer.write(http_request(BODY))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await caller.answer()

    asyncio.run(run())


def test_a_handshake_that_does_not_end_is_bounded_on_both_sides(folder: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> None:
        async with (
            serving(tls=files(folder, "bsm"), limits=ServerLimits(handshake=0.2)) as server,
            Caller.to(server.port) as caller,
        ):
            assert await caller.reader.read() == b""
        limits = ClientLimits(connect=0.2, read=0.2, total=1.0)
        async with misbehaving(silent) as port, asking(port, tls=files(folder, "bsda"), limits=limits) as client:
            with pytest.raises(PeerUnreachable):
                await client.send(TEKS)

    asyncio.run(run())


def test_a_certificate_that_ends_while_the_connection_is_open(folder: Path) -> None:
    """The handshake was in time; what comes after the end is not believed."""
    time = [NOW]

    async def run() -> None:
        context = contexts.client_context(files(folder, "bsda"))
        async with serving(tls=files(folder, "bsm"), now=lambda: time[0]) as server:
            async with Caller.to(server.port, context) as caller:
                assert await caller.status(BODY) == 0
                time[0] = datetime.now(UTC).timestamp() + NTP_UNIX + 3650 * 86400
                assert await caller.status(BODY) == 11
                assert await caller.reader.read() == b""  # closed: the next one shakes hands anew
            time[0] = NOW
            async with asking(server.port, context=context, now=lambda: time[0]) as client:
                assert (await client.send(TEKS)).status == 0
                time[0] = datetime.now(UTC).timestamp() + NTP_UNIX + 3650 * 86400
                with pytest.raises(PeerUnreachable, match="expired"):
                    await client.send(TEKS)

    asyncio.run(run())


def test_certificates_are_changed_without_a_gap(folder: Path, tmp_path: Path) -> None:
    """A new authority for both: the server first, then the client; connections under the old one end with their next answer."""
    pki.init(tmp_path, {"bsm": BSM_ID, "bsda": BSDA_ID})

    async def run() -> None:
        old = contexts.client_context(files(folder, "bsda"))
        async with (
            serving(tls=files(folder, "bsm")) as server,
            asking(server.port, context=old) as client,
            Caller.to(server.port, old) as caller,
        ):
            assert await caller.status(BODY) == 0 and (await client.send(TEKS)).status == 0
            await server.reload(context=contexts.server_context(files(tmp_path, "bsm")))
            assert await caller.status(BODY) == 0
            assert await caller.reader.read() == b""
            await client.reload(context=contexts.client_context(files(tmp_path, "bsda")))
            assert (await client.send(TEKS)).status == 0
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with Caller.to(server.port, old):
                    pass

    asyncio.run(run())


def test_the_other_side_answers_too(folder: Path) -> None:
    """A BSD/A that listens, a BSM that delivers keys: the same in the other direction."""

    async def run() -> None:
        async with serving(tls=files(folder, "bsda"), me=BSDA_ID, side=Side.BSDA, peer=BSM_ID) as server:
            peers = Peers([Peer(id=BSDA_ID, services={TEKS.service}, url=f"https://localhost:{server.port}")])
            client = Client(
                me=BSM_ID, side=Side.BSM, peers=peers, context=contexts.client_context(files(folder, "bsm")), clock=lambda: NOW
            )  # fmt: skip
            assert (await client.send(message(Tag.KeyDelivery))).tag is Tag.KeyDeliveryConfirmation
            await client.close()

    asyncio.run(run())
