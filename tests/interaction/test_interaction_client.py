# SPDX-License-Identifier: Apache-2.0
"""A terminal's client against servers that are not as they should be: every answer becomes a result or an ``InteractionError``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interaction_support import SERVICE, certificates, context_of, run, server_context

from pybcast.errors import ConfigError
from pybcast.https.contexts import terminal_context
from pybcast.interaction import (
    BadAnswer,
    Digest,
    Fetched,
    Forbidden,
    InteractionClient,
    InteractionError,
    Limited,
    NotKnown,
    Refused,
    Unauthorised,
    Unavailable,
    Unreachable,
)
from pybcast.interaction.digest import Nonces, Verifier
from pybcast.secret import Secret

ALICE = Digest("alice", Secret(b"password"))
T = TypeVar("T")
CHALLENGE = 'WWW-Authenticate: Digest realm="r", qop="auth", algorithm=SHA-256, nonce="n"\r\n'


def http(status: int, fields: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def against(
    answers: Callable[[int, bytes], bytes], work: Callable[[InteractionClient], Awaitable[T]], digest: Digest | None = None
) -> T:
    """``work`` with a client of a server that gives ``answers(n, head of the request n)``."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(answers(count, head))
                count += 1
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
    client = InteractionClient(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", context=context_of(), digest=digest)
    try:
        return await work(client)
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


def fetched(client: InteractionClient) -> Awaitable[Fetched | None]:
    return client.stkm(SERVICE, 1, "drm", after=4)


def problem(name: str) -> bytes:
    return json.dumps({"type": f"urn:x-bcast:problem:{name}", "title": "secret"}).encode()


STKM = "Content-Type: application/vnd.oma.bcast.stkm\r\nBCAST-Period: 5-9\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http(200, STKM, b"stkm"), Fetched(b"stkm", 5, 9)),
        (http(204), None),
        (http(200, STKM), BadAnswer),
        (http(200, STKM.replace("stkm", "ltkm"), b"x"), BadAnswer),
        (http(200, STKM.replace("5-9", "4-9"), b"x"), BadAnswer),
        (http(200, STKM.replace("5-9", "9-5"), b"x"), BadAnswer),
        (http(200, STKM + "Content-Encoding: gzip\r\n", b"x"), BadAnswer),
        (http(200, STKM, bytes(70_000)), BadAnswer),
        (http(301, "Location: https://127.0.0.1:1/\r\n"), Refused),
        (http(403, "Content-Type: application/problem+json\r\n", problem("forbidden")), Forbidden),
        (http(403, "Content-Type: application/problem+json\r\n", bytes(5000)), BadAnswer),
        (http(403, "Content-Type: application/problem+json\r\n", problem("evil\n")), Forbidden),
        (http(403, "Content-Type: application/problem+json\r\n", b"[" * 4000), Forbidden),
        (http(403, "Content-Type: application/problem+json\r\n", b"[]"), Forbidden),
        (http(404), NotKnown),
        (http(429, "Retry-After: 7\r\n"), Limited),
        (http(429, "Retry-After: soon\r\n"), Limited),
        (http(500), Unavailable),
        (http(503), Unavailable),
        (http(401), Unauthorised),
        (b"220 mail.example.com\r\n", Unreachable),
    ],
)  # fmt: skip
def test_answers(answer: bytes, expected: object) -> None:
    async def work() -> None:
        if not isinstance(expected, type):
            assert await against(lambda *_: answer, fetched) == expected
            return
        with pytest.raises(InteractionError) as caught:
            await against(lambda *_: answer, fetched)
        assert type(caught.value) is expected
        assert "evil" not in str(caught.value) and "secret" not in str(caught.value)
        if isinstance(caught.value, Limited):
            assert caught.value.retry_after == (7.0 if b": 7" in answer else 1.0)

    run(work())


def test_who_does_not_know_the_password_is_not_believed() -> None:
    nonces = Nonces(lambda: 1.0)

    def answers(count: int, head: bytes) -> bytes:
        verifier = Verifier("r", nonces)
        if b"Authorization" not in head:
            return http(401, f"WWW-Authenticate: {verifier.challenge()}\r\n")
        fields = head.decode().split("\r\n")
        target = fields[0].split(" ")[1]
        header = next(field.partition(": ")[2] for field in fields if field.startswith("Authorization"))
        info = verifier.accept(verifier.read(header, target), "GET", ALICE.password)
        if count == 2:
            info = info.replace('rspauth="', 'rspauth="0')
        return http(200, f"{STKM}Authentication-Info: {info}\r\n", b"x")

    async def work() -> None:
        async def twice(client: InteractionClient) -> None:
            assert await fetched(client) == Fetched(b"x", 5, 9)
            with pytest.raises(BadAnswer, match="does not know the password"):
                await fetched(client)

        await against(answers, twice, ALICE)

    run(work())


@pytest.mark.parametrize(
    ("fields", "requests", "error"),
    [
        (CHALLENGE, 2, Unauthorised),  # the password is wrong
        (CHALLENGE.replace('"n"', '"n", stale=true'), 3, Unauthorised),  # and again, and again
        (CHALLENGE.replace("SHA-256", "MD5"), 1, BadAnswer),
        ("WWW-Authenticate: Basic realm=r\r\n", 1, BadAnswer),
        ("", 1, BadAnswer),
        ("WWW-Authenticate: Basic realm=r\r\n" + CHALLENGE, 2, Unauthorised),
    ],
)
def test_challenges(fields: str, requests: int, error: type[InteractionError]) -> None:
    seen: list[bytes] = []

    def answers(_: int, head: bytes) -> bytes:
        seen.append(head)
        return http(401, fields)

    async def work() -> None:
        with pytest.raises(error):
            await against(answers, fetched, ALICE)
        assert len(seen) == requests and not any(b"password" in head for head in seen)

    run(work())


def test_several_messages() -> None:
    body = b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n"

    async def work() -> None:
        for kind in ("boundary=b", 'boundary="b"', 'x=y; Boundary="b"; z=1'):
            field = f"Content-Type: multipart/mixed; {kind}\r\n"
            assert await against(lambda *_, f=field: http(200, f, body), lambda c: c.ltkms()) == (b"one", b"two")
        with pytest.raises(BadAnswer):
            await against(lambda *_: http(200, "Content-Type: multipart/mixed\r\n", body), lambda c: c.ltkms())
        with pytest.raises(BadAnswer):
            await against(lambda *_: http(200, "", b"x"), lambda c: c.verify(b"x"))

    run(work())


@settings(max_examples=30)
@given(st.binary(max_size=400), st.integers(0, 120), st.binary(max_size=6))
def test_any_answer_is_a_result_or_a_typed_error(noise: bytes, at: int, more: bytes) -> None:
    good = http(200, STKM, b"stkm")
    answers = [noise + b"\r\n\r\n", good[:at] + more + good[at:], good[:at] + more]

    def answer(count: int, _: bytes) -> bytes:
        return answers[count % 3] + b"\r\n\r\n"

    async def work() -> None:
        async def some(client: InteractionClient) -> None:
            for _ in range(3):
                try:
                    async with asyncio.timeout(0.2):
                        await fetched(client)
                except (InteractionError, TimeoutError):
                    await client.close()

        await against(answer, some)

    run(work())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://", "https://h/?x=y", "https://h/#x", "h:1", ""])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        InteractionClient(url, context=context_of(), digest=None)


def test_files_that_do_not_fit(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, base = tmp_path_factory.mktemp("files"), certificates()
    (folder / "text.pem").write_text("no certificate")
    for authority, certificate, key, named in (
        (folder / "none.pem", None, None, "none.pem: No such file"),
        (folder / "text.pem", None, None, "text.pem: "),
        (base / "ca.pem", folder / "none.pem", None, "none.pem: No such file"),
        (base / "ca.pem", base / "bsm.pem", base / "ca-key.pem", "bsm.pem with .*ca-key.pem: "),
    ):
        with pytest.raises(ConfigError, match=named):
            terminal_context(authority, certificate, key)
