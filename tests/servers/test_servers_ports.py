# SPDX-License-Identifier: Apache-2.0
"""A port that is in use is found before anything is sent, and named by its key."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers_support import System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.close()


def taken(stack: contextlib.ExitStack, port: int = 0) -> socket.socket:
    found = stack.enter_context(socket.create_server(("127.0.0.1", port)))
    found.setblocking(False)
    return found


def nobody_came(*listeners: socket.socket) -> None:
    for listener in listeners:
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("role", "key"),
    [
        ("bsm", "server.listen"), ("bsm", "server.status"), ("bsm", "interaction.listen"), ("bsda", "server.listen"),
        ("bsda", "server.status"),
    ],
)  # fmt: skip
def test_a_port_in_use(system: System, role: str, key: str) -> None:
    """Neither the peer nor the processes that send hear of a server that cannot start."""
    other = "bsda" if role == "bsm" else "bsm"
    config = system.folder / f"{role}.toml"
    text = config.read_text()
    with contextlib.ExitStack() as stack:
        peer = taken(stack, system.ports[other])
        sender = stack.enter_context(socket.socket(socket.AF_UNIX))
        sender.bind(str(system.folder / "sender"))
        sender.listen()
        sender.setblocking(False)
        if role == "bsda":
            text = text.replace("[air]\n", '[air]\nsender = "sender"\n').replace(
                "[[services]]\n", '[[services]]\nstkm = "239.192.0.1:4380"\n'
            )
        if key == "interaction.listen":
            port = taken(stack).getsockname()[1]
            files = 'certificate = "bsm.pem"\nkey = "bsm-key.pem"\nauthority = "ca.pem"\n'
            text = text.replace("[tls]", f'[interaction]\nlisten = "127.0.0.1:{port}"\n{files}\n[tls]')
        elif key == "server.status":
            port = taken(stack).getsockname()[1]
            text = text.replace('status = "127.0.0.1:0"', f'status = "127.0.0.1:{port}"')
        else:
            taken(stack, system.ports[role])
        config.write_text(text)
        status, log = system.refused(role, config.name)
        assert status == 2 and f"{config.name}: {key}: " in log and "ddress already in use" in log, log
        nobody_came(peer, sender)


def test_a_second_server_on_one_database(system: System) -> None:
    system.start("bsm")
    with contextlib.ExitStack() as stack:
        peer = taken(stack, system.ports["bsda"])
        with contextlib.suppress(BlockingIOError):
            while True:  # what the first one has to say
                peer.accept()[0].close()
        status, log = system.refused("bsm", "bsm.toml")
        assert status == 2 and "in use by process" in log
