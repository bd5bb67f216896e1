# SPDX-License-Identifier: Apache-2.0
"""The ways of keys out of the system: who may read the socket, what a late reader hears, who is cut off; readers; callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast import unixsocket
from pybcast.errors import BadValue, ConfigError, TransportError
from pybcast.flows import NextKey, OffAir, StopTraffic, TekExpired, TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets import keysocket
from pybcast.outlets.callback import CallbackOutlet
from pybcast.outlets.keyline import KeyOutput, read_line, write_line
from pybcast.outlets.keysocket import KeyOutlet, KeyReader, follow
from pybcast.secret import Secret
from pybcast.servers.bsda import Bsda
from pybcast.servers.config import load
from pybcast.servers.example import write

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
async def encoder(path: Path, *, says: bytes = b"", first: bool = True) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(says)
        if first:
            assert await told(reader) == {"event": "Keys", "version": 1}
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
            outputs = (NextKey(use("a", 10), 12), use("a", 10), NextKey(use("a", 12), 14), use("b"), StopTraffic("urn:b", 1))
            for output in outputs:
                outlet.put(output)
            events = [(await told(early))["event"] for _ in outputs]
            assert events == ["NextKey", "UseKey", "NextKey", "UseKey", "StopTraffic"]
            async with encoder(path) as late:
                first, coming, second = [await told(late) for _ in range(3)]
                assert (first["service"], first["event"], first["start"]) == ("urn:a", "UseKey", 10)
                assert (coming["event"], coming["start"], coming["end"]) == ("NextKey", 12, 14)
                assert second == {"event": "StopTraffic", "service": "urn:b", "stream": 1}
                await outlet.stop()
                assert await early.read() == b"" and await late.read() == b""

    with_outlet(tmp_path, test)


def test_an_encoder_that_does_not_read_is_cut_off_and_holds_nobody_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keysocket, "MAX_BEHIND", 4096)

    async def test(outlet: KeyOutlet, path: Path) -> None:
        outlet.put(use("a"))
        async with encoder(path) as slow, encoder(path) as good:
            await told(slow), await told(good)
            count = 0
            while outlet.readers == 2:
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
        async with encoder(path, says=b"x", first=False) as talker:
            assert (await talker.read()).count(b"\n") <= 2
        with monkeypatch.context() as patch:
            patch.setattr(unixsocket, "socket_user", lambda _: 54321)
            async with encoder(path, first=False) as stranger:
                assert await stranger.read() == b""
        with monkeypatch.context() as patch:
            patch.setattr(outlet._server, "_most", 0)
            async with encoder(path, first=False) as one_more:
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


def ready(mki: int, *, until: float = 4e9) -> TekReady:
    return TekReady("urn:a", 1, bytes([0, mki]), Secret(TEK), b"s" * 14, None, until, Protocol.SRTP)


def test_a_player_that_comes_late_hears_which_keys_may_be_used(tmp_path: Path) -> None:
    async def test(outlet: KeyOutlet, path: Path) -> None:
        for number in range(20):
            outlet.put(ready(number))
        outlet.put(TekExpired("urn:a", 1, b"\0\6"))
        outlet.put(ready(7, until=4e9 + 4))  # said again: it is the newest
        async with encoder(path) as player:
            said = [await told(player) for _ in range(15)]
            assert [line["mki"] for line in said] == [f"00{n:02x}" for n in (4, 5, *range(8, 20), 7)]
            assert said[0] == {
                "event": "TekReady", "service": "urn:a", "stream": 1, "mki": "0004", "tek": TEK.hex(), "salt": "73" * 14,
                "auth_key": None, "until": 4e9, "protocol": "SRTP",
            }  # fmt: skip
            outlet.put(TekExpired("urn:a", 1, b"\0\7"))
            assert await told(player) == {"event": "TekExpired", "service": "urn:a", "stream": 1, "mki": "0007"}

    with_outlet(tmp_path, test)


def test_a_reader_comes_back_to_a_server_that_died(tmp_path: Path) -> None:
    async def test(outlet: KeyOutlet, path: Path) -> None:
        heard: asyncio.Queue[KeyOutput] = asyncio.Queue()
        reader = KeyReader(path, heard.put_nowait)
        running = asyncio.create_task(reader.run())
        outlet.put(use("a", 8))
        assert await heard.get() == use("a", 8)
        assert reader.connected is True
        for start in (9, 10):
            await outlet.stop()
            outlet = KeyOutlet(path)
            outlet.put(use("a", start))
            await outlet.start()
            assert await heard.get() == use("a", start)
        assert (reader.losses, reader.lines, reader.refused) == (2, 3, 0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert [reader.connected] == [False]
        await outlet.stop()

    with_outlet(tmp_path, test)


def test_a_reader_passes_over_what_it_cannot_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        path = tmp_path / "keys.sock"
        good = write_line(use("a"))
        lines = [b"{\n", b'{"event": "Later"}\n', good.replace(TEK.hex().encode(), TEK.hex().encode()[:-2]), good]

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.writelines(lines)
            writer.close()

        server = await asyncio.start_unix_server(serve, path)
        heard: asyncio.Queue[KeyOutput] = asyncio.Queue()
        reader = KeyReader(path, heard.put_nowait)
        running = asyncio.create_task(reader.run())
        assert await asyncio.wait_for(heard.get(), 30) == use("a")
        assert reader.refused == 3
        running.cancel()
        server.close()

    asyncio.run(run())
    assert "tek" in caplog.text and TEK.hex()[:-2] not in caplog.text


def test_keys_in_lines_of_another_version_are_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.sock"
    first = b'{"event": "Keys", "version": 2}\n'

    async def run() -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(first + write_line(use("a")))
            writer.close()

        server = await asyncio.start_unix_server(serve, path)
        heard: list[KeyOutput] = []
        reader = KeyReader(path, heard.append)
        running = asyncio.create_task(reader.run())
        async with asyncio.timeout(30):
            while reader.strangers < 2:
                await asyncio.sleep(0.01)
            with pytest.raises(TransportError, match="expected version 1, found 2"):
                await asyncio.to_thread(next, follow(path))
        assert heard == [] and not reader.connected and reader.losses == 0
        running.cancel()
        server.close()

    asyncio.run(run())
    assert caplog.messages.count("keys are not taken: lines of keys: expected version 1, found 2") == 1
    assert read_line(b'{"event": "Keys", "version": 1, "more": []}') is None
    for version in ("null", '"1"', "-1", "true"):
        with pytest.raises(BadValue, match="version"):
            read_line(b'{"event": "Keys", "version": %s}' % version.encode())


def test_a_script_follows_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys.sock"
    outputs: list[KeyOutput] = [use("a", 8), StopTraffic("urn:a", 1), ready(3), TekExpired("urn:a", 1, b"\0\3")]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            for output in outputs:  # one line to a connection
                with server.accept()[0] as connection:
                    connection.sendall(b'{"event": "Later"}\n' + write_line(output))

        serving = threading.Thread(target=serve)
        serving.start()
        assert list(itertools.islice(follow(path), len(outputs))) == outputs
        serving.join(30)
    path.unlink()
    with pytest.raises(TransportError, match="no keys for"):
        next(follow(path, patience=0))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        monkeypatch.setattr(unixsocket, "socket_user", lambda _: 54321)
        with pytest.raises(TransportError, match="another user"):
            next(follow(path))


USES = st.builds(
    UseKey, st.text(min_size=1), st.integers(1, 65535), st.integers(0, 2**40), st.sampled_from(Protocol),
    st.binary(min_size=1, max_size=16), st.binary(min_size=16, max_size=16).map(Secret),
    st.none() | st.binary(min_size=14, max_size=14), st.none() | st.binary(min_size=20, max_size=20).map(Secret),
    st.none() | st.integers(0, 2**40),
)  # fmt: skip


@given(
    USES
    | st.builds(NextKey, USES, st.integers(0, 2**40))
    | st.builds(StopTraffic, st.text(min_size=1), st.integers(1, 65535))
    | st.builds(
        TekReady, st.text(min_size=1), st.integers(1, 65535), st.binary(min_size=1, max_size=16),
        st.binary(min_size=16, max_size=16).map(Secret), st.none() | st.binary(min_size=14, max_size=14),
        st.none() | st.binary(min_size=20, max_size=20).map(Secret), st.floats(0, 2**40), st.sampled_from(Protocol),
    )
    | st.builds(TekExpired, st.text(min_size=1), st.integers(1, 65535), st.binary(min_size=1, max_size=16))
)  # fmt: skip
def test_what_is_written_is_read(output: KeyOutput) -> None:
    line = write_line(output)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert read_line(line) == output


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=40), lambda x: st.lists(x, max_size=3)), st.data())
def test_a_wrong_line_is_refused_with_its_field_and_never_its_content(value: object, data: st.DataObject) -> None:
    said = json.loads(write_line(use("a") if data.draw(st.booleans()) else ready(1)))
    field = data.draw(st.sampled_from(sorted(said)))
    changed = said | {field: value}
    try:
        read_line(json.dumps(changed).encode())
    except BadValue as error:
        assert error.field == field
        assert TEK.hex() not in str(error)
        assert not isinstance(value, str) or len(value) < 5 or value not in str(error)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.just(b"[" * 100_000))
def test_any_line_is_a_line_or_refused(line: bytes) -> None:
    try:
        found = read_line(line)
    except BadValue as error:
        assert error.field == "line"
    else:
        assert found is None


def test_a_callback_hears_the_newest_and_its_faults_stay_its_own(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[KeyOutput] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow(output: KeyOutput) -> None:
        heard.append(output)
        entered.set()
        assert go_on.wait(30)
        if output == use("b"):
            raise RuntimeError("of the callback")

    outlet = CallbackOutlet(slow)
    outlet.put(use("a", 1))
    assert entered.wait(30)
    coming = NextKey(use("a", 4), 5)
    for output in (
        NextKey(use("a", 2), 3),
        use("a", 2),
        NextKey(use("b"), 9),
        use("b"),
        ready(1),
        StopTraffic("urn:a", 1),
        use("a", 3),
        coming,
        TekExpired("urn:a", 1, b"\0\1"),
    ):
        outlet.put(output)
    go_on.set()
    outlet.close(30)
    assert heard == [use("a", 1), use("a", 3), use("b"), TekExpired("urn:a", 1, b"\0\1"), coming]
    assert outlet.failures == 1 and "a callback for keys failed" in caplog.text


def test_a_bsda_whose_sender_tells_the_keys_calls_nobody_back(tmp_path: Path) -> None:
    (config,) = (path for path in write(tmp_path) if path.name == "bsda.toml")
    with pytest.raises(ConfigError, match=r"air\.sender: keys are told by the sender"):
        Bsda(load(config), outlets=[CallbackOutlet(lambda _: None)])


def test_a_bsda_tells_callbacks_beside_its_socket(tmp_path: Path) -> None:
    (config,) = (path for path in write(tmp_path) if path.name == "bsda.toml")
    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith(("events", "sender"))))
    heard: list[KeyOutput] = []
    outlet = CallbackOutlet(heard.append)
    bsda = Bsda(load(config), outlets=[outlet])
    for output in (use("a"), StopTraffic("urn:b", 1), OffAir("urn:a", 1, 8)):
        bsda.put(output)
    outlet.close(30)
    assert heard == [use("a"), StopTraffic("urn:b", 1)]
