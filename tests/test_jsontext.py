# SPDX-License-Identifier: Apache-2.0
"""What is nested too deep is refused in words wherever JSON, MessagePack or TOML is read; honest input goes on meanwhile."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pybcast
from pybcast import jsontext
from pybcast.broadcast.link import ask as ask_process
from pybcast.cli import main
from pybcast.errors import BadValue, BcastError, ConfigError, TransportError
from pybcast.flows.events import StopTraffic
from pybcast.interaction.client import _Answer, _refusal
from pybcast.interaction.wire import PROBLEM_TYPE
from pybcast.outlets.keyline import read_line, write_line
from pybcast.servers.control import ControlServer, ask
from pybcast.servers.toml import TomlFile

LIMIT: Final = 20.0  # seconds until a test gives up
DEPTHS: Final = [jsontext.MAX_DEPTH + 1, 500, 100_000]
"""Read by Python's reader and by nobody after it; read by some; a ``RecursionError`` in the reader."""


def lists(depth: int) -> str:
    return "[" * depth + "]" * depth


def objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", [lists, objects])
def test_nested_too_deep(shape: Any, depth: int, strict: bool) -> None:
    with pytest.raises(BadValue, match="nested deeper than 64") as caught:
        jsontext.read(shape(depth), "here", strict=strict)
    assert caught.value.field == "here"


def test_as_deep_as_may_be() -> None:
    for shape in (lists, objects):
        assert jsontext.read(shape(jsontext.MAX_DEPTH)) == json.loads(shape(jsontext.MAX_DEPTH))
    assert jsontext.bounded([[()]], most=3) == [[()]]
    with pytest.raises(BadValue):
        jsontext.bounded([[((1,),)]], most=3)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "column 1: Expecting value"), ("{", "column 2: Expecting"), ("[1,\n2", "line 2, column 2: Expecting"),
        (b"\xff", "not UTF-8"), ("9" * 5000, "a number that is too long"),
    ],
)  # fmt: skip
def test_what_is_no_json(text: str | bytes, found: str) -> None:
    with pytest.raises(BadValue, match=found):
        jsontext.read(text)


@pytest.mark.parametrize(("text", "found"), [('{"a": 1, "a": 2}', "a name occurs twice"), ("[NaN]", "NaN is not JSON")])
def test_strict(text: str, found: str) -> None:
    jsontext.read(text)
    with pytest.raises(BadValue, match=found):
        jsontext.read(text, strict=True)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_honest_json_is_what_it_says(value: object) -> None:
    assert jsontext.read(json.dumps(value), strict=True) == value


@given(st.binary(max_size=100))
def test_any_octets_are_json_or_an_error(data: bytes) -> None:
    with contextlib.suppress(BadValue):
        jsontext.read(data)


# --- every place that reads -----------------------------------------------------------------------------------------------


def test_json_is_read_in_one_place() -> None:
    """Another would not be bounded."""
    root = Path(pybcast.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load", "JSONDecoder")
        if isinstance(node.value, ast.Name) and "json" in node.value.id
    }
    assert found == {"jsontext.py"}


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_key_line(depth: int) -> None:
    with pytest.raises(BadValue, match="line"):
        read_line(lists(depth).encode())
    good = StopTraffic("urn:a", 1)
    assert read_line(write_line(good)) == good


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_control_socket(depth: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who sends nested commands gets errors on a connection that goes on; another client is answered meanwhile."""

    async def echo(arguments: Mapping[str, Any]) -> Any:
        return arguments["n"]

    async def run() -> None:
        server = ControlServer(tmp_path / "s", {"echo": echo})
        await server.start()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        for shape in (lists(depth), objects(depth), f'{{"command": "echo", "n": {lists(depth)}}}'):
            for _ in range(5):
                writer.write(shape.encode() + b"\n")
                answer = json.loads(await reader.readline())
                assert not answer["ok"] and "nested deeper" in answer["error"]["found"]
            assert await asyncio.to_thread(ask, tmp_path / "s", "echo", n=5) == 5
        writer.write(b'{"command": "echo", "n": 7}\n')
        assert json.loads(await reader.readline()) == {"ok": True, "result": 7}
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
        writer.close()
        await server.stop()

    asyncio.run(run())


class Answering:
    """A server that gives one answer, whatever it is asked."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._socket, self._answer = socket.socket(socket.AF_UNIX), answer
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(LIMIT)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket.accept()[0] as connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(self._answer)

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_answer_of_a_server(depth: int, tmp_path: Path) -> None:
    with (
        Answering(tmp_path / "s", f'{{"ok": true, "result": {lists(depth)}}}\n'.encode()),
        pytest.raises(TransportError, match="nested deeper"),
    ):
        ask(tmp_path / "s", "status")


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_state_of_a_sender(depth: int, tmp_path: Path) -> None:
    body = msgspec.msgpack.encode(["state", {"a": 1}])[:-1] + b"\x91" * depth + b"\1"
    with Answering(tmp_path / "s", struct.pack(">I", len(body)) + body), pytest.raises(BadValue, match="frame"):
        ask_process(tmp_path / "s")


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_refusal_over_the_interaction_channel(depth: int) -> None:
    answer = _Answer(403, PROBLEM_TYPE, None, "", "", objects(depth).encode())
    assert isinstance(_refusal(answer), BcastError)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("text", ["a = {}", "[server]\nid = {}"])
def test_a_configuration(text: str, depth: int, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text.format(lists(depth)))
    with pytest.raises(ConfigError, match="nested too deep"):
        TomlFile(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text("[server" + ".a" * min(depth, 1000) + "]\nb = 1")  # tomllib's time grows with the square
    with pytest.raises(ConfigError, match="nested too deep"):
        TomlFile(tmp_path / "c.toml")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    "words",
    [
        ["encode", "drm-stkm", "deep.json"], ["decode", "drm-stkm", "00", "--keys", "deep.json"],
        ["bsm", "subscriber", "add", "bsm.toml", "alice", "--keys", "deep.json"],
    ],
)  # fmt: skip
def test_the_command_line(
    words: list[str], depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (objects(depth), "{}\n" + objects(depth)):
        (tmp_path / "deep.json").write_text(text)
        (tmp_path / "deep.json").chmod(0o600)
        assert main(words) in (1, 2)
        err = capsys.readouterr().err
        assert "Traceback" not in err and "RecursionError" not in err
        assert "nested deeper" in err or "Extra data" in err
