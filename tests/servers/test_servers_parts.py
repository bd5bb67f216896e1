# SPDX-License-Identifier: Apache-2.0
"""What a log may show, what goes on air is written down as, the control socket, and how a server ends that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import io
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from servers_support import System

from pybcast.backend import Exchanged
from pybcast.errors import ConfigError, LocalFlowError, TransportError
from pybcast.flows import BSM, AirStkm, Announce, CarouselPut, Persist, UseKey
from pybcast.keys import KEK
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.servers import log, messagelog, views
from pybcast.servers.air import CountingAir, JsonLinesAir, described
from pybcast.servers.bsda import Bsda
from pybcast.servers.bsm import Bsm
from pybcast.servers.config import load
from pybcast.servers.control import ControlServer, ask
from pybcast.servers.messagelog import MessageLog
from pybcast.store import SqliteStore

KEY: Final = bytes(range(200, 216))


@pytest.fixture
def quiet() -> Iterator[None]:
    """A server sets up logging for its whole process: undone after the test."""
    root, ours = logging.getLogger(), logging.getLogger("pybcast")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    hooks = sys.unraisablehook, threading.excepthook
    yield
    root.handlers[:], root.level, ours.level, logging.raiseExceptions = before
    sys.unraisablehook, threading.excepthook = hooks


def _line(record: logging.LogRecord, style: str = "json") -> str:
    return log._Formatter("json" if style == "json" else "text").format(record)


def _record(name: str, text: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.WARNING, "x.py", 1, text, args, None)
    record.__dict__.update(extra)
    return record


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("value", [KEY, bytearray(KEY), memoryview(KEY), Secret(KEY), [KEY], {"a": KEY}, ValueError(KEY)])
def test_no_argument_shows_bytes(style: str, value: object) -> None:
    for record in (
        _record("pybcast.x", "what: %s", value),
        _record("pybcast.x", "what", fields={"value": value, "deep": [{"deeper": value}]}),
        _record("other", "what: %s", value),
        _record("pybcast.x", "%d and %s", value, value),
    ):
        line = _line(record, style)
        assert repr(KEY)[2:-1] not in line and KEY.hex() not in line and "\\xc8" not in line and "200, 201" not in line


def test_an_exception_shows_its_text_only_when_it_is_ours() -> None:
    try:
        try:
            raise KeyError(KEY.hex())
        except KeyError as error:
            raise LocalFlowError("no stream 7") from error
    except LocalFlowError as error:
        record = _record("pybcast.x", "stopped", exc_info=(type(error), error, error.__traceback__))
    found = json.loads(_line(record))
    assert found["error"].startswith("LocalFlowError: no stream 7 at test_servers_parts.py:") and "KeyError at" in found["error"]
    assert KEY.hex() not in _line(record) + _line(record, "text")


def test_a_text_is_one_line() -> None:
    line = _line(_record("pybcast.x", "peer says %s", "a\n2026-01-01 CRITICAL\x1b[2J"), "text")
    assert "\n" not in line and "\x1b" not in line
    assert json.loads(_line(_record("pybcast.x", "n %d", 7, fields={"level": "forged", "n": 7})))["level"] == "warning"
    assert "second" not in _line(_record("asyncio", "first\nsecond"))


def _outputs() -> tuple[Announce, UseKey, CarouselPut]:
    key = UseKey("urn:s", 1, 8, Protocol.SRTP, b"\1\2", Secret(KEY), b"s" * 14, None, 16)
    return Announce("urn:s", 1, 8, (AirStkm("drm", b"stkm"),), 0.1), key, CarouselPut("o", "urn:s", (b"ltkm",))


def test_the_air_is_written_down_without_keys(tmp_path: Path) -> None:
    left: list[tuple[str, int, int]] = []
    air = JsonLinesAir(str(tmp_path / "events"))
    for output in _outputs():
        air.put(output, lambda *what: left.append(what))
    air.close()
    lines = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["Announce", "UseKey", "CarouselPut"]
    assert lines[1]["mki"] == "0102" and lines[1]["tek_octets"] == 16 and lines[2]["octets"] == [4]
    whole = [described(output, content=True) for output in _outputs()]
    assert whole[0]["stkms"][0]["data"] == b"stkm".hex() and whole[2]["data"] == [b"ltkm".hex()]
    assert "data" not in lines[0]["stkms"][0] and KEY.hex() not in json.dumps(whole)
    assert left == [("urn:s", 1, 8)] and air.counts == {"Announce": 1, "UseKey": 1, "CarouselPut": 1}
    with pytest.raises(ConfigError, match=r"air\.events"):
        JsonLinesAir(str(tmp_path))


def test_a_full_disk_does_not_stop_the_air(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, and when there is room the file goes on with a whole line."""
    caplog.set_level("INFO")
    path, room = tmp_path / "events", [10**6, 40, 0, 0, 10**6]  # octets of each write that fit
    write = os.write

    def some(handle: int, data: bytes) -> int:
        fits = room.pop(0)
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:fits])

    monkeypatch.setattr("pybcast.servers.air.os.write", some)
    air = JsonLinesAir(str(path))
    left: list[int] = []
    for n in range(5):
        air.put(dataclasses.replace(_outputs()[0], start=n), lambda *what: left.append(what[2]))
    air.close()
    assert left == [0, 1, 2, 3, 4]
    lines = path.read_text().splitlines()
    assert [json.loads(line)["start"] for line in (lines[0], lines[2])] == [0, 4] and len(lines[1]) == 40 and len(lines) == 3
    assert [r.getMessage() for r in caplog.records] == [
        "events are not written: No space left on device",
        "events are written again",
    ]
    counting = CountingAir()
    counting.put(_outputs()[1], lambda *_: None)
    counting.close()
    assert counting.counts == {"UseKey": 1}


def test_events_take_two_files_at_most(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for _ in range(2):  # also over restarts
        air = JsonLinesAir(str(path), limit=5_000)
        for n in range(200):
            air.put(dataclasses.replace(_outputs()[0], start=n), lambda *_: None)
        air.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["events", "events.1"]
    assert all(each.stat().st_size < 5_500 for each in tmp_path.iterdir())
    lines = [json.loads(line)["start"] for name in ("events.1", "events") for line in (tmp_path / name).read_text().splitlines()]
    assert lines == list(range(200 - len(lines), 200)) and len(lines) > 20, "the newest, none missing between the two"


def test_a_reader_of_events_that_went_away_is_not_written_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        calls = 0

        def write(self, text: str) -> int:
            Gone.calls += 1
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Gone())
    air = JsonLinesAir("-")
    for _ in range(3):
        air.put(_outputs()[0], lambda *_: None)
    assert Gone.calls == 1


def test_the_control_socket_answers_and_refuses(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def double(arguments: Mapping[str, Any]) -> Any:
        return 2 * arguments["n"]

    async def refuse(arguments: Mapping[str, Any]) -> Any:
        raise LocalFlowError("not now")

    async def test() -> None:
        path.write_text("a file")
        server = ControlServer(path, {"double": double, "refuse": refuse})
        with pytest.raises(ConfigError, match="is no socket"):
            await server.start()
        path.unlink()
        await server.start()
        assert path.stat().st_mode & 0o777 == 0o600
        assert await asyncio.to_thread(ask, path, "double", n=21) == 42
        for command, why in (("refuse", "not now"), ("nothing", "no command"), ("double", "KeyError")):
            with pytest.raises(ConfigError, match=why):
                await asyncio.to_thread(ask, path, command)
        reader, writer = await asyncio.open_unix_connection(path)
        for line in (b"{", b"[]", b'{"n": 1}', b'{"command": {}}'):
            writer.write(line + b"\n")
            assert json.loads(await reader.readline())["ok"] is False
        writer.close()
        again = ControlServer(path, {})
        await again.start()  # a socket that a dead server left behind
        await again.stop()
        with pytest.raises(TransportError, match="no server at"):
            await asyncio.to_thread(ask, path, "double", n=1)
        await server.stop()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (PermissionError(errno.EACCES, "x"), "permission denied: only the server's own user"),
        (TimeoutError(), "no answer within 60 s"), (ConnectionResetError(errno.ECONNRESET, "x"), "hung up"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "is it running"), (OSError("AF_UNIX path too long"), "path too long"),
    ],
)  # fmt: skip
def test_why_a_server_is_not_asked(fault: OSError, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise fault

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(TransportError, match=why):
        ask(tmp_path / "s", "status")


def test_another_user_may_not_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        server = ControlServer(tmp_path / "s", {})
        await server.start()
        monkeypatch.setattr("pybcast.servers.control.trusted", lambda writer: False)
        with pytest.raises(TransportError, match="hung up"):
            await asyncio.to_thread(ask, tmp_path / "s", "status")
        await server.stop()

    asyncio.run(test())


def test_the_message_log_costs_no_write_of_its_own(tmp_path: Path) -> None:
    def noted(number: int) -> None:
        entries.note(Exchanged(
            role="client", peer="urn:p", tag=None, message_id=str(number), service=None, status=None, http=0, seconds=0.1, sent=7,
        ), 4e9 + number)  # fmt: skip

    store = SqliteStore(tmp_path / "db", KEK(bytes(32)))
    entries = MessageLog(store)

    async def write() -> None:
        await entries.write_async([Persist("t", (1,), 1)])

    noted(1)
    asyncio.run(write())
    assert store.stats().commits == 1
    for number in range(2, messagelog.WAITING + 9):
        noted(number)
    entries.flush()
    entries.flush()
    assert store.stats().commits == 2 and entries.load() == {"t": {(1,): 1}}
    found = views.messages(tmp_path / "db", since=0, limit=10**6)
    assert [int(row["message_id"]) for row in found] == [1, *range(9, messagelog.WAITING + 9)], "the oldest are lost first"
    assert found[0] | {"time": 0} == {
        "time": 0, "direction": "out", "peer": "urn:p", "tag": 0, "message_id": "1", "service": "", "status": None, "octets": 7,
    }  # fmt: skip
    store.close()
    noted(1)
    entries.flush()


def test_a_failure_that_nobody_can_be_told_of_is_a_line_of_the_log(quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    class Stubborn:
        def __del__(self) -> None:
            raise KeyError(KEY.hex())

    def fail() -> None:
        raise ValueError(KEY.hex())

    log.start("json", "info")
    Stubborn()
    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    shown = capsys.readouterr().err
    first, second = map(json.loads, shown.splitlines())
    assert (first["event"], second["event"]) == ("stray", "stray") and "in thread worker" in second["message"]
    assert "KeyError at test_servers_parts.py" in first["error"] and "ValueError" in second["error"]
    assert "Traceback" not in shown and KEY.hex() not in shown


def test_a_machine_that_fails_ends_the_process_with_70(
    tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = System(tmp_path)
    config = load(tmp_path / "bsm.toml")

    def broken(self: BSM, now: float) -> list[object]:
        raise ZeroDivisionError(KEY.hex())

    monkeypatch.setattr(BSM, "tick", broken)
    assert Bsm(config).serve() == 70
    shown = capsys.readouterr().err
    fatal = json.loads(shown.splitlines()[-1])
    assert fatal["event"] == "fatal" and "ZeroDivisionError at test_servers_parts.py" in fatal["error"] and KEY.hex() not in shown
    assert not config.control.exists(), "it never served"
    monkeypatch.undo()
    (tmp_path / "kek").write_text("00" * 32)
    assert Bsm(config).serve() == 2
    assert "key-encryption key" in capsys.readouterr().err
    system.close()


def test_sigterm_while_it_starts_is_a_clean_stop(tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(tmp_path)
    before = BSM.tick

    def tick(self: BSM, now: float) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return before(self, now)

    monkeypatch.setattr(BSM, "tick", tick)
    assert Bsm(load(tmp_path / "bsm.toml")).serve() == 0
    system.close()


def test_reports_of_the_machine_before_do_not_hold_up_those_of_the_next(tmp_path: Path) -> None:
    """A report is one input for all that come until the machine's turn.  Where that input was refused (a full disk), the next
    machine is told all anew, and its first report must be an input again.
    """
    System(tmp_path)
    bsda = Bsda(load(tmp_path / "bsda.toml"))
    posted: list[object] = []
    bsda.runner = SimpleNamespace(post=lambda action, urgent: posted.append(action))  # type: ignore[assignment]
    bsda._announced("urn:example:service:A", 1, 8)
    bsda._announced("urn:example:service:B", 1, 8)
    assert len(posted) == 1
    bsda.make(bsda.config, {}, None)
    bsda._announced("urn:example:service:A", 1, 8)
    assert len(posted) == 2
