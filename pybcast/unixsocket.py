# SPDX-License-Identifier: Apache-2.0
"""Unix sockets of this machine's own user: a listening one of mode 0600, and who is at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from pybcast.errors import ConfigError


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
    """The user whose peers may come in."""
    return os.geteuid()


def peer_user(writer: asyncio.StreamWriter) -> int:
    """The user at the other end of a Unix socket, as the system knows it."""
    return socket_user(writer.get_extra_info("socket"))


def socket_user(peer: socket.socket) -> int:
    """The same of a socket."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
