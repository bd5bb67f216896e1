# SPDX-License-Identifier: Apache-2.0
"""A socket at which others of this user connect, served by one thread that never blocks."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Final

import pytest

from pybcast import unixsocket
from pybcast.errors import ConfigError
from pybcast.unixsocket import LocalServer

BEHIND: Final = 1 << 20


class Echo(LocalServer):
    """Sends back what it hears, and remembers what happened."""

    def __init__(self, path: Path, **options: bool) -> None:
        super().__init__(path, most=2, behind=BEHIND, **options)
        self.happened: list[object] = []
        self.deaf: set[int] = set()

    def _came(self, number: int) -> None:
        self.happened.append("came")

    def _heard(self, number: int, data: bytes) -> None:
        self.happened.append(data)
        self._write(number, data)

    def _left(self, number: int, why: str) -> None:
        self.happened.append(why)

    def _stranger(self, why: str) -> None:
        self.happened.append(f"stranger {why}")

    def _reads(self, number: int) -> bool:
        return number not in self.deaf

    def turn(self) -> None:
        """What is there, waited for."""
        assert select.select([self.fileno()], (), (), 30)[0]
        self._turn()


@pytest.fixture
def echo(tmp_path: Path) -> Echo:
    made = Echo(tmp_path / "s")
    made.open()
    return made


def test_peers_come_speak_hear_and_go(echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(30)
        made.connect(str(tmp_path / "s"))
        echo.turn()
        return made

    with connect() as first, connect() as second:
        first.sendall(b"hello")
        echo.turn()
        assert first.recv(9) == b"hello"
        with connect() as third:
            assert third.recv(9) == b""
        with monkeypatch.context() as patch:
            patch.setattr(unixsocket, "socket_user", lambda _: 54321)
            with connect() as foreign:
                assert foreign.recv(9) == b""
        second.close()
        echo.turn()
        assert echo.happened == ["came", "came", b"hello", "stranger is one too many", "stranger runs as another user", "hung up"]
        echo.deaf |= set(echo._peers)
        first.sendall(b"later")
        echo.turn()
        assert b"later" not in echo.happened, "who may not speak waits"
        echo.deaf.clear()
        echo.turn()
        assert first.recv(9) == b"later"
        echo.close()
        assert first.recv(9) == b"" and echo.happened[-1] == "" and not (tmp_path / "s").exists()
    echo.close()


def test_a_peer_that_reads_late_gets_all_and_one_that_does_not_is_cut_off(echo: Echo, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(30)
        slow.connect(str(tmp_path / "s"))
        echo.turn()
        (number,) = echo._peers
        data = bytes(range(256)) * 3000
        echo._write(number, data)
        assert echo._peers[number].waits
        got = bytearray()
        while len(got) < len(data):
            got += slow.recv(1 << 16)
            echo._turn()
        assert got == data and not echo._peers[number].waits
        echo._write(number, bytes(4 * BEHIND))
        assert echo.happened[-1] == "does not read" and not echo._peers
    echo.close()


def test_a_peer_that_is_lost_while_it_is_told(echo: Echo, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.connect(str(tmp_path / "s"))
        echo.turn()
        (number,) = echo._peers
    echo._write(number, b"too late")
    assert echo.happened[-1] == "Broken pipe" and not echo._peers
    echo.close()


def test_alone_or_in_the_place_of_a_dead_one(echo: Echo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another process listens there"):
        Echo(tmp_path / "s", alone=True).open()
    again = Echo(tmp_path / "s")
    again.open()
    again.close()
    echo.close()
