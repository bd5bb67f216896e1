# SPDX-License-Identifier: Apache-2.0
"""Unix sockets of one user: they listen with mode 0600, and each end checks who owns the other."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from pybcast.errors import ConfigError, TransportError

CHUNK: Final = 1 << 16  # octets read at once


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


class Peer:
    """Who is connected.  ``behind``: what it has not read yet."""

    __slots__ = ("behind", "connection", "waits")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.behind = bytearray()
        self.waits = False  # for room to write


class LocalServer:
    """A socket of this user at which others connect.  Nothing blocks, and one thread may have other work.

    Wait until :meth:`fileno` can be read (``select``, or ``loop.add_reader``), then call what the class offers for that.
    ``most``: connections.  ``behind``: octets that a peer may leave unread, then it is cut off.  ``alone``: see ``listening``.
    A class of its own says what a connection means: ``_came``, ``_heard`` and ``_left``; and with ``_reads`` whether it may speak.
    """

    def __init__(self, path: Path, *, most: int, behind: int, alone: bool = False) -> None:
        self._path, self._most, self._behind, self._alone = path, most, behind, alone
        self._poll = select.epoll()
        self._listener: socket.socket | None = None
        self._peers: dict[int, Peer] = {}

    def open(self) -> None:
        """Listen.  ``ConfigError`` when the path cannot be had."""
        self._listener = listening(self._path, alone=self._alone)
        self._listener.listen(self._most)
        self._listener.setblocking(False)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Everyone is cut off."""
        for number in list(self._peers):
            self._cut(number)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        self._poll.close()

    def fileno(self) -> int:
        return self._poll.fileno()

    def _came(self, number: int) -> None:
        """A peer has connected."""

    def _heard(self, number: int, data: bytes) -> None:
        """A peer has spoken."""

    def _left(self, number: int, why: str) -> None:
        """A peer is there no more.  ``why``: empty when :meth:`close` cut it off, or a subclass without a reason."""

    def _stranger(self, why: str) -> None:
        """Someone was not let in."""

    def _reads(self, number: int) -> bool:
        return True

    def _turn(self) -> None:
        """Whatever the system has for us: who comes, what a peer says, room for what it has not read."""
        for number, event in self._poll.poll(0):
            if self._listener is not None and number == self._listener.fileno():
                self._accept()
            elif number in self._peers:
                self._served(number, event)

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(OSError):  # BlockingIOError: that was all
            while True:
                connection, _ = self._listener.accept()
                try:
                    why = "" if trusted(connection) else "runs as another user"
                except OSError as error:  # gone already
                    why = error.strerror or "is gone"
                if not why and len(self._peers) >= self._most:
                    why = "is one too many"
                if why:
                    connection.close()
                    self._stranger(why)
                    continue
                connection.setblocking(False)
                number = connection.fileno()
                self._peers[number] = Peer(connection)
                self._poll.register(number, select.EPOLLIN)
                self._came(number)

    def _served(self, number: int, event: int) -> None:
        peer = self._peers[number]
        if event & select.EPOLLOUT:
            self._write(number, b"")
        if number not in self._peers or not event & ~select.EPOLLOUT or not self._reads(number):
            return
        try:
            data = peer.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._heard(number, data)
        else:
            self._cut(number, "hung up")

    def _write(self, number: int, data: bytes) -> None:
        """Tell a peer, now or when it reads."""
        peer = self._peers[number]
        peer.behind += data
        try:
            while peer.behind:
                del peer.behind[: peer.connection.send(peer.behind)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._cut(number, error.strerror or "lost")
            return
        if len(peer.behind) > self._behind:
            self._cut(number, "does not read")
            return
        if peer.waits is not bool(peer.behind):
            peer.waits = bool(peer.behind)
            self._poll.modify(number, select.EPOLLIN | (select.EPOLLOUT if peer.waits else 0))

    def _cut(self, number: int, why: str = "") -> None:
        peer = self._peers.pop(number)
        self._poll.unregister(number)
        peer.connection.close()
        self._left(number, why)
