# SPDX-License-Identifier: Apache-2.0
"""The socket that gives encoders their keys: who may read it, what a late one hears, and who is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pybcast.errors import ConfigError
from pybcast.flows import StopTraffic, UseKey
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.servers import keyoutlet
from pybcast.servers.keyoutlet import KeyOutlet

TEK: Final = bytes(range(200, 216))


def use(service: str, start: int = 8) -> UseKey:
    return UseKey(f"urn:{service}", 1, start, Protocol.SRTP, b"\1\2", Secret(TEK), b"s" * 14, None, 16)


def with_outlet(folder: Path, test: Callable[[KeyOutlet, Path], Awaitable[None]]) -> None:
    async def run() -> None:
        outlet = KeyOutlet(folder / "keys.sock")
        await outlet.start()
        try:
            await asyncio.wait_for(test(outlet, folder / "keys.sock"), 30)
        finally:
            await outlet.stop()
        assert not (folder / "keys.sock").exists()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def encoder(path: Path, *, says: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(says)
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def told(reader: asyncio.StreamReader) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(await reader.readline())
    return said


def test_an_encoder_hears_every_change_and_a_late_one_what_holds(tmp_path: Path) -> None:
    async def test(outlet: KeyOutlet, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        outlet.put(use("a"))
        async with encoder(path) as early:
            assert await told(early) == {
                "event": "UseKey", "service": "urn:a", "stream": 1, "start": 8, "protocol": "SRTP", "mki": "0102",
                "tek": TEK.hex(), "salt": "73" * 14, "auth_key": None, "authority_end": 16,
            }  # fmt: skip
            for output in (use("a", 10), use("b"), StopTraffic("urn:b", 1)):
                outlet.put(output)
            assert [(await told(early))["event"] for _ in range(3)] == ["UseKey", "UseKey", "StopTraffic"]
            async with encoder(path) as late:
                first, second = await told(late), await told(late)
                assert (first["service"], first["start"]) == ("urn:a", 10)
                assert second == {"event": "StopTraffic", "service": "urn:b", "stream": 1}
                await outlet.stop()
                assert await early.read() == b"" and await late.read() == b""

    with_outlet(tmp_path, test)


def test_an_encoder_that_does_not_read_is_cut_off_and_holds_nobody_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keyoutlet, "MAX_BEHIND", 4096)

    async def test(outlet: KeyOutlet, path: Path) -> None:
        outlet.put(use("a"))
        async with encoder(path) as slow, encoder(path) as good:
            await told(slow), await told(good)
            count = 0
            while len(outlet._readers) == 2:
                outlet.put(use("a", count))
                assert (await told(good))["start"] == count
                count += 1
                assert count < 100_000, "what waits for the slow one is bounded"
            assert caplog.messages == ["a reader of keys is cut off: it does not read"]
            outlet.put(use("a", 7))
            assert (await told(good))["start"] == 7

    with_outlet(tmp_path, test)


def test_who_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def test(outlet: KeyOutlet, path: Path) -> None:
        outlet.put(use("a"))
        async with encoder(path) as talker:
            await told(talker)
        async with encoder(path, says=b"x") as talker:
            assert (await talker.read()).count(b"\n") <= 1
        with monkeypatch.context() as patch:
            patch.setattr(keyoutlet, "this_user", lambda: -5)
            async with encoder(path) as stranger:
                assert await stranger.read() == b""
        with monkeypatch.context() as patch:
            patch.setattr(keyoutlet, "MAX_READERS", 0)
            async with encoder(path) as one_more:
                assert await one_more.read() == b""
        assert [m.partition("it ")[2] for m in caplog.messages] == ["writes", "runs as another user", "is one too many"]
        assert TEK.hex() not in caplog.text
        again = KeyOutlet(path)  # a socket that a dead server left behind
        await again.start()
        await again.stop()

    with_outlet(tmp_path, test)
    (tmp_path / "file").write_text("no socket")
    with pytest.raises(ConfigError, match="is no socket"):
        asyncio.run(KeyOutlet(tmp_path / "file").start())
