# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: a client says nothing to another user and takes nothing from him; then it works again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pybcast import unixsocket
from pybcast.broadcast import link
from pybcast.broadcast.linkclient import ObjectClient
from pybcast.demo.daemons import Feed
from pybcast.errors import TransportError
from pybcast.flows.events import StopTraffic
from pybcast.outlets.keyline import KeyOutput, write_line
from pybcast.outlets.keysocket import KeyReader, follow
from pybcast.servers import control

LIMIT: Final = 20.0  # seconds until a test gives up
STRANGER: Final = 65534
KEY: Final = StopTraffic("urn:forged", 1)


class Trap:
    """Listens where a server should, offers a key at once, and keeps what it is told until the client hangs up."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.settimeout(LIMIT)
        self.heard = b""
        self.came = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket.accept()[0] as connection:
            connection.settimeout(LIMIT)
            with contextlib.suppress(OSError):
                connection.sendall(write_line(KEY))
                while data := connection.recv(1 << 16):
                    self.heard += data
            self.came.set()

    def close(self) -> None:
        self._thread.join()
        self._socket.close()


def ask_control(path: Path, trap: Trap) -> None:
    with pytest.raises(TransportError, match="another user listens there"):
        control.ask(path, "subscriber-add", keys="very secret")


def ask_process(path: Path, trap: Trap) -> None:
    with pytest.raises(TransportError, match="another user listens there"):
        link.ask(path)


def say_to_process(path: Path, trap: Trap) -> None:
    async def run() -> None:
        told: list[tuple[bool, str]] = []
        client = ObjectClient(path, me="urn:bsda", mark=b"m" * 32, changed=lambda *args: told.append(args))
        running = asyncio.create_task(client.run())
        await asyncio.to_thread(trap.came.wait, LIMIT)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert [(there, "another user listens there" in why) for there, why in told] == [(False, True)]

    asyncio.run(run())


def read_keys(path: Path, trap: Trap) -> None:
    async def run() -> None:
        told: list[KeyOutput] = []
        reader = KeyReader(path, told.append)
        running = asyncio.create_task(reader.run())
        await asyncio.to_thread(trap.came.wait, LIMIT)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert (told, reader.connected, reader.strangers) == ([], False, 1)

    asyncio.run(run())


def follow_keys(path: Path, trap: Trap) -> None:
    with pytest.raises(TransportError, match="another user listens there"):
        next(follow(path))


def feed_keys(path: Path, trap: Trap) -> None:
    with pytest.raises(TransportError, match="another user listens there"):
        list(Feed(path).outputs())


CLIENTS: Final[list[Callable[[Path, Trap], None]]] = [
    ask_control, ask_process, say_to_process, read_keys, follow_keys, feed_keys,
]  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_is_said_to_another_user(
    client: Callable[[Path, Trap], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unixsocket, "socket_user", lambda _: STRANGER)
    trap = Trap(tmp_path / "s")
    client(tmp_path / "s", trap)
    trap.close()
    assert trap.heard == b""


def test_every_client_of_a_unix_socket_checks_its_owner() -> None:
    """A new client that connects by itself would not be in the test above."""
    root = Path(unixsocket.__file__).parent
    sources = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in root.rglob("*.py")}
    calls = ("open_unix_connection", "socket.socket(socket.AF_UNIX)")
    assert {name for name, text in sources.items() if any(call in text for call in calls)} == {"unixsocket.py"}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where every user may put a file."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextlib.contextmanager
def listener_of_another_user(path: Path) -> Iterator[None]:
    code = (
        "import os, socket, sys\n"
        "made = socket.socket(socket.AF_UNIX); os.setuid(int(sys.argv[2])); made.bind(sys.argv[1]); made.listen()\n"
        "os.chmod(sys.argv[1], 0o777); print(flush=True); made.accept()[0].recv(1); made.accept()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path, str(STRANGER)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_real_other_user(open_folder: Path) -> None:
    """Root's clients see through a socket that another user put where the server's should be; then the server comes back."""
    path = open_folder / "s"
    with listener_of_another_user(path), pytest.raises(TransportError, match="another user listens there"):
        control.ask(path, "status")

    async def double(arguments: object) -> int:
        return 42

    async def run() -> None:
        server = control.ControlServer(path, {"double": double})  # the right one replaces it
        await server.start()
        assert await asyncio.to_thread(control.ask, path, "double") == 42
        await server.stop()

    asyncio.run(run())
