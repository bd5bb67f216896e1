# SPDX-License-Identifier: Apache-2.0
"""Unix sockets of one user: they listen with mode 0600, and each end checks who owns the other."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from pybcast.errors import ConfigError, TransportError


def listening(path: Path, *, alone: bool = False) -> socket.socket:
    """A Unix socket at ``path`` that only its owner may open.  ``ConfigError`` when it cannot be had; an old one is replaced.

    ``alone``: not one at which somebody listens; for whoever knows of no other way that he is the only one.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ConfigError(f"{path}: exists and is no socket")
            if alone:
                with socket.socket(socket.AF_UNIX) as probe, suppress(ConnectionRefusedError):
                    probe.connect(str(path))
                    raise ConfigError(f"{path}: another process listens there")
            path.unlink()
        mask = os.umask(0o177)
        try:
            made.bind(str(path))
        finally:
            os.umask(mask)
    except (OSError, ConfigError) as error:
        made.close()
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: {error.strerror or error}") from None
    return made


def this_user() -> int:
    """The user of this process."""
    return os.geteuid()


def socket_user(peer: socket.socket) -> int:
    """The user at the other end, as the system knows it (``SO_PEERCRED``): for a client, who called ``listen``."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])


def trusted(peer: socket.socket | asyncio.StreamWriter) -> bool:
    """Whether this user or root is at the other end.  Both ends of every socket ask this before they say or take anything."""
    found = peer.get_extra_info("socket") if isinstance(peer, asyncio.StreamWriter) else peer
    return socket_user(found) in (0, this_user())


class OtherUser(TransportError):
    """Another user listens on the socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: another user listens there: nothing is said to it and nothing taken from it")


def connected(path: Path, timeout: float | None = None) -> socket.socket:
    """A connection to the socket at ``path``.  ``OSError``: nobody listens; ``OtherUser``: not this user or root."""
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(timeout)
        made.connect(str(path))
        if not trusted(made):
            raise OtherUser(path)
    except BaseException:
        made.close()
        raise
    return made


async def opened(path: Path, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The same for an event loop.  ``limit``: bytes that are read ahead."""
    reader, writer = await asyncio.open_unix_connection(path, limit=limit)
    if not trusted(writer):
        writer.transport.abort()
        raise OtherUser(path)
    return reader, writer
