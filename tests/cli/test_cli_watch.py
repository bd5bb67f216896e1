# SPDX-License-Identifier: Apache-2.0
"""``pybcast watch``: the picture, the changes, and servers that come and go, against servers that only answer."""

from __future__ import annotations

import asyncio
import copy
import fcntl
import functools
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console

from pybcast.cli import main, watching
from pybcast.cli.watching import Server, Snapshot, Watcher, as_line, changes, look, picture
from pybcast.errors import TransportError
from pybcast.servers.control import ControlServer

NOW: Final = 3_900_000_000
PATIENCE: Final = 30.0
MKI: Final = "0001000a0003"

BSDA_STATUS: Final[dict[str, Any]] = {
    "role": "bsda", "id": "urn:example:bsda", "version": "1", "time": NOW, "up": 12.0, "light": "yellow",
    "peers": [{"peer": "urn:example:bsm", "light": "green", "heard": 0.4, "error": ""}],
    "services": [
        {"service": "urn:example:a", "stream": 1, "light": "green", "why": "", "ahead": 3, "held": False, "next_change": 5.0},
        {"service": "urn:example:b", "stream": 2, "light": "yellow", "why": "no period prepared ahead", "ahead": 0, "held": False,
         "next_change": 1.0},
    ],
    "alarms": [{"time": NOW - 3, "code": "held", "service": "urn:example:b", "stream": 2, "text": "no successor\x1b[2J"}],
    "store": {},
}  # fmt: skip
BSDA_KEYS: Final[list[dict[str, Any]]] = [
    {"service": "urn:example:a", "stream": 1, "start": NOW - 3, "end": NOW + 5, "state": "in use", "traffic_id": MKI,
     "authority_end": None, "smartcard": {"key_domain_id": "12f410", "sek_id": "0001000a", "tek_id": "0003"},
     "drm": {"service_CID_extension": "00000007"}},
    {"service": "urn:example:a", "stream": 1, "start": NOW + 5, "end": NOW + 13, "state": "on air", "traffic_id": "0001000a0004",
     "authority_end": None, "smartcard": {"key_domain_id": "12f410", "sek_id": "0001000a", "tek_id": "0004"}},
]  # fmt: skip
BSM_STATUS: Final[dict[str, Any]] = {
    **BSDA_STATUS, "role": "bsm", "id": "urn:example:bsm", "light": "green", "alarms": [], "issuing": [],
    "peers": [{"peer": "urn:example:bsda", "light": "red", "heard": None, "error": "refused"}],
    "services": [{**BSDA_STATUS["services"][0], "ahead": None}],
}  # fmt: skip
BSM_KEYS: Final[list[dict[str, Any]]] = [
    {"service": "urn:example:a", "stream": 1, "key_type": "SEK", "key_id": "12f4100001000a", "start": NOW - 100, "end": NOW + 5000,
     "state": "on air", "programme": None},
    {"service": "urn:example:a", "stream": 1, "key_type": "PEK", "key_id": "12f4100001000b", "start": NOW - 10, "end": NOW + 50,
     "state": "on air", "programme": "film"},
    {"service": "urn:example:a", "stream": 1, "key_type": "SEK", "key_id": "12f4100001000c", "start": NOW + 5000, "end": NOW + 9000,
     "state": "issued", "programme": None},
]  # fmt: skip


class Answering:
    """A server that answers what it is given, in a thread of its own."""

    def __init__(self, path: Path, status: dict[str, Any], keys: list[dict[str, Any]]) -> None:
        self.path, self.status, self.keys = path, copy.deepcopy(status), copy.deepcopy(keys)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: ControlServer | None = None

    def start(self) -> None:
        async def said(arguments: Mapping[str, Any]) -> Any:
            return self.status

        async def keys(arguments: Mapping[str, Any]) -> Any:
            assert arguments["limit"] == watching.SHOWN
            return [row for row in self.keys if arguments["service"] in (None, row["service"])]

        self._server = ControlServer(self.path, {"status": said, "keys": keys})
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(PATIENCE)

    def stop(self) -> None:
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(PATIENCE)
            self._server = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[dict[str, Answering]]:
    found = {
        "bsda": Answering(tmp_path / "bsda.sock", BSDA_STATUS, BSDA_KEYS),
        "bsm": Answering(tmp_path / "bsm.sock", BSM_STATUS, BSM_KEYS),
    }
    yield found
    for server in found.values():
        server.close()


def look_at(server: Answering, service: str | None = None) -> Snapshot:
    return look(Server("x.toml", server.path), service)


def drawn(*snapshots: Snapshot, height: int | None = None, width: int = 300) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(picture(snapshots, height=height))
    return console.export_text()


# --- the picture -----------------------------------------------------------------------------------------------------------


def test_the_picture_of_a_bsda(answering: dict[str, Answering]) -> None:
    answering["bsda"].start()
    text = drawn(look_at(answering["bsda"]))
    assert "yellow bsda urn:example:bsda, up 12 s" in text
    rows = [re.sub(r" +", " ", line) for line in text.splitlines()]
    first = next(line for line in rows if " urn:example:a " in line)
    second = next(line for line in rows if " urn:example:b " in line)
    assert rows.index(second) < rows.index(first), "what is wrong comes first"
    assert ", 5 s" in first
    assert f"{MKI}; SEK 12f410 0001000a, TEK 0003; CID extension service 00000007" in text
    assert "5 s: 0001000a0004; SEK 12f410 0001000a, TEK 0004 (on air)" in text
    assert "none" in second and "no period prepared ahead" in second
    assert "peer green urn:example:bsm, heard 0 s ago" in text
    assert "alarm held: urn:example:b stream 2: no successor\\x1b[2J" in text, "no alarm steers a terminal"


def test_the_picture_of_a_bsm(answering: dict[str, Answering]) -> None:
    answering["bsm"].start()
    text = drawn(look_at(answering["bsm"]))
    assert "SEK 12f4100001000a / PEK 12f4100001000b of film" in text
    assert "83 min: SEK 12f4100001000c (issued)" in text
    assert "peer red urn:example:bsda, never heard, refused" in text


def test_what_does_not_fit_is_counted(answering: dict[str, Answering]) -> None:
    server = answering["bsda"]
    first = server.status["services"][0]
    server.status["services"] = [{**first, "service": f"urn:s:{n}", "light": "red" if n == 77 else "green"} for n in range(100)]
    server.start()
    found = look_at(server)
    text = drawn(found, height=24)
    assert "urn:s:77" in text and "and 85 more" in text
    assert len(text.splitlines()) <= 24
    assert "more" not in drawn(found)


def _give(answer: Any, *_: object) -> Any:
    return answer


def test_other_answers_are_not_understood() -> None:
    answers: list[Any] = [{}, [], {"services": 1}, None]
    for answer in answers:
        found = look(Server("x.toml", Path("x")), None, functools.partial(_give, answer))
        assert found.error.startswith("an answer that is not understood")
        assert "x.toml" in drawn(found)


# --- changes ---------------------------------------------------------------------------------------------------------------


def test_changes_are_what_is_new(answering: dict[str, Answering]) -> None:
    server = answering["bsda"]
    server.start()
    first = look_at(server)
    rows = list(changes(None, first))
    assert [row["event"] for row in rows] == ["server", "peer", "service", "service", "key", "key", "alarm"]
    assert list(changes(first, look_at(server))) == []
    server.status |= {"time": NOW + 5, "up": 17.0}
    server.keys[0]["state"], server.keys[1]["state"] = "past", "in use"
    del server.keys[0]
    server.status["services"][1] |= {"light": "red", "why": "no key in use"}
    second = look_at(server)
    (light, key) = changes(first, second)
    assert as_line(light) == "bsda urn:example:bsda: urn:example:b stream 2 red: no key in use"
    line = "bsda urn:example:bsda: urn:example:a stream 1 key 0001000a0004; SEK 12f410 0001000a, TEK 0004 in use, "
    assert as_line(key).startswith(line)
    server.stop()
    gone = look_at(server)
    (row,) = changes(second, gone)
    assert row["light"] == "none" and "no server at" in row["error"]
    assert list(changes(gone, look_at(server))) == []
    server.start()
    assert next(row["event"] for row in changes(gone, look_at(server))) == "server"


def test_one_service_of_many(answering: dict[str, Answering]) -> None:
    answering["bsda"].start()
    found = look_at(answering["bsda"], "urn:example:a")
    assert [row["service"] for row in found.services] == ["urn:example:a"]
    assert look_at(answering["bsda"], "urn:example:b").keys == ()


def test_looks_come_at_steady_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    waits: list[float] = []

    def asking(*_: object) -> Any:
        clock[0] += 0.3 if len(waits) != 3 else 2.5  # a slow answer
        raise TransportError("gone")

    def wait(seconds: float) -> bool:
        waits.append(round(seconds, 3))
        clock[0] += seconds
        return len(waits) == 6

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watcher = Watcher([Server("x", Path("x"))], 1.0, wait, asking=asking)
    assert len(list(watcher.rounds())) == 5
    assert waits == [0.0, 0.7, 0.7, 0.0, 0.7, 0.7]


# --- the command -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def configs(tmp_path: Path, answering: dict[str, Answering]) -> list[str]:
    """Configurations whose control sockets are those of the fakes."""
    found = []
    for role in ("bsm", "bsda"):
        other = "bsda" if role == "bsm" else "bsm"
        path = tmp_path / f"{role}.toml"
        path.write_text(
            f'[server]\nrole = "{role}"\nid = "urn:example:{role}"\nlisten = "127.0.0.1:0"\ndatabase = "{role}.db"\n'
            f'control = "{role}.sock"\nkek = "file:kek"\nplain_loopback = true\nfqdn = "bsm.example.com"\n'
            f'[[peers]]\nid = "urn:example:{other}"\nurl = "http://127.0.0.1:1"\n'
        )
        found.append(str(path))
    return found


def test_once(configs: list[str], answering: dict[str, Answering], capsys: pytest.CaptureFixture[str]) -> None:
    answering["bsda"].start()
    assert main(["watch", "--once", "--json", *configs]) == 2
    bsm, bsda = map(json.loads, capsys.readouterr().out.splitlines())
    assert "no server at" in bsm["error"] and bsda["keys"] == BSDA_KEYS
    answering["bsm"].start()
    assert main(["watch", "--once", *configs]) == 0
    text = capsys.readouterr().out
    assert text.index("bsm urn:example:bsm") < text.index("bsda urn:example:bsda")
    answering["bsm"].status["light"] = "red"
    assert main(["watch", "--once", *configs]) == 1
    assert main(["watch", "--once", configs[0] + "x"]) == 2
    capsys.readouterr()


def start_watch(*args: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "pybcast.cli", "watch", *args], **more)


def test_lines_while_servers_come_and_go(configs: list[str], answering: dict[str, Answering]) -> None:
    answering["bsda"].start()
    process = start_watch("--json", "--every", "0.1", *configs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    try:

        def until(**wanted: object) -> dict[str, Any]:
            assert process.stdout is not None
            for line in process.stdout:
                row: dict[str, Any] = json.loads(line)
                if all(row.get(name) == value for name, value in wanted.items()):
                    return row
            raise AssertionError(process.communicate()[1])

        assert "no server" in until(event="server", light="none")["error"]
        assert until(event="key", state="in use")["traffic_id"] == MKI
        assert until(event="alarm")["raised"] == NOW - 3
        answering["bsm"].start()
        assert until(event="server", role="bsm")["light"] == "green"
        answering["bsda"].stop()
        assert until(event="server", light="none")["server"].endswith("bsda.toml")
        answering["bsda"].start()
        assert until(event="server", role="bsda")["light"] == "yellow"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, b"")


def test_the_screen(configs: list[str], answering: dict[str, Answering]) -> None:
    """On a terminal: the picture, renewed as servers come and go; Ctrl-C ends it and gives the screen back."""
    answering["bsda"].start()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = start_watch("--every", "0.1", *configs, **streams, env=environment, start_new_session=True)
    os.close(theirs)
    seen = b""
    end = time.monotonic() + PATIENCE

    def until(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            ready, _, _ = select.select([ours], [], [], max(0.0, end - time.monotonic()))
            assert ready, seen[-2000:]
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other end was closed
                raise AssertionError(seen[-2000:]) from None
        seen = seen.split(words, 1)[1]

    try:
        until(b"\x1b[?1049h")  # a screen of its own
        until(b"bsda urn:example:bsda")
        until(MKI.encode())
        answering["bsda"].stop()
        until(b"no server at")
        answering["bsm"].start()
        until(b"12f4100001000a")
        process.send_signal(signal.SIGINT)
        until(b"\x1b[?1049l")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
