# SPDX-License-Identifier: Apache-2.0
"""A terminal's ear: a process of its own that takes every datagram of the STKM ports and passes on the few that are of use.

A port may carry the STKMs of thousands of services.  Python that also decodes and decrypts falls behind there, and what a socket's
buffer cannot hold is lost whosever it is.  So a child process receives in a tight loop and looks for the key ids that the terminal
could open (``Terminal.openable``, or those of the SDP): a datagram without one of them is counted and forgotten.  A port for which
no ids are known yet passes at most ``MAX_UNKNOWN`` datagrams a second.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from pybcast import coredumps, jsontext
from pybcast.broadcast.datagrams import hearing
from pybcast.errors import ConfigError
from pybcast.sourcefilter import SourceFilter

RECEIVE_BUFFER: Final = 8 << 20  # octets: 25 ms of 150,000 datagrams/s, which each count some 2 KiB there - confidence: own
MAX_DATAGRAM: Final = 2048  # octets of a STKM; longer ones are cut, and refused when they are decoded
MAX_UNKNOWN: Final = 200  # datagrams a second of a port whose key ids are not known - confidence: own
MAX_WANTED: Final = 4096  # key ids for one port
_CHANNEL: Final = 1 << 20  # octets that wait for a terminal which does something else, or for its ear: all key ids of some ports
_BURST: Final = 256  # datagrams of one port before the others are looked at
_REPORT: Final = 1.0  # seconds between two reports of what was heard
_RESTART: Final = 0.2  # seconds before a dead ear is replaced
_SO_RCVBUFFORCE: Final = 33  # which Python does not name

Address = tuple[str, int]


def receiver(address: Address, interface: str, senders: SourceFilter | None = None) -> socket.socket:
    """A socket that hears what is sent to ``address``, with much room, as ``hearing``.  ``ConfigError`` when it cannot."""
    made = hearing(address, interface, senders)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    with contextlib.suppress(OSError):  # beyond the system's limit, for those who may
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    return made


@dataclass
class Heard:
    """Of one port: ``datagrams`` that came, and how many of them were ``passed`` on."""

    datagrams: int = 0
    passed: int = 0


class Listener:
    """Listens to ``addresses`` and calls ``heard(index, datagram)`` in the event loop for what may be of use.

    ``senders``: for each address whose datagrams are taken (resolved), ``None``: everybody's.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        interface: str,
        heard: Callable[[int, bytes], None],
        senders: Sequence[SourceFilter | None] = (),
    ) -> None:
        self._heard = heard
        self._senders = tuple(senders) or (None,) * len(addresses)
        self._sockets: list[socket.socket] = []
        self._wanted: dict[int, frozenset[bytes] | None] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._again: asyncio.TimerHandle | None = None
        self.counts = [Heard() for _ in addresses]
        self.restarts = 0
        self._before = [Heard() for _ in addresses]
        try:
            for address, wanted in zip(addresses, self._senders, strict=True):
                self._sockets.append(receiver(address, interface, wanted))
        except ConfigError:
            self.stop()
            raise

    def start(self) -> None:
        """Begin; in the running event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL)
        numbers = [theirs.fileno(), *(made.fileno() for made in self._sockets)]
        words = [str(theirs.fileno()), *map(_word, self._sockets, self._senders)]
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, *words], pass_fds=numbers, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._channel = ours
        self._before = [Heard(c.datagrams, c.passed) for c in self.counts]
        for index, needles in self._wanted.items():
            self._say(index, needles)
        asyncio.get_running_loop().add_reader(ours, self._read)

    def stop(self) -> None:
        """Let go of everything."""
        if self._again is not None:
            self._again.cancel()
        self._end()
        for made in self._sockets:
            made.close()
        self._sockets = []

    def want(self, index: int, needles: Collection[bytes] | None) -> None:
        """Of that port pass on datagrams that hold one of ``needles``; ``None``: some of everything."""
        wanted = None if needles is None else frozenset(sorted(needles)[:MAX_WANTED])
        if self._wanted.get(index) != wanted or index not in self._wanted:
            self._wanted[index] = wanted
            self._say(index, wanted)

    def _say(self, index: int, needles: frozenset[bytes] | None) -> None:
        if self._channel is not None:
            said = json.dumps([index, None if needles is None else sorted(n.hex() for n in needles)])
            with contextlib.suppress(OSError):  # a dead one is replaced, and told then
                self._channel.send(said.encode())

    def _read(self) -> None:
        assert self._channel is not None
        for _ in range(_BURST):
            try:
                said = self._channel.recv(4 + MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                self._replace()
                return
            index = int.from_bytes(said[:4], "big")
            if index < len(self.counts):
                self._heard(index, said[4:])
            else:
                figures = array.array("Q", said[4:])
                for i, count in enumerate(self.counts):
                    count.datagrams = self._before[i].datagrams + figures[2 * i]
                    count.passed = self._before[i].passed + figures[2 * i + 1]

    def _replace(self) -> None:
        """It has died: the sockets are ours, so what came meanwhile waits in them."""
        self._end()
        self.restarts += 1
        self._again = asyncio.get_running_loop().call_later(_RESTART, self.start)

    def _end(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _word(made: socket.socket, senders: SourceFilter | None) -> str:
    """What the child is told of a port: its descriptor, and whose datagrams it takes."""
    return ",".join((str(made.fileno()), *(() if senders is None else (senders.mode, *senders.sources))))


# --- the child ------------------------------------------------------------------------------------------------------------


def _port(word: str) -> tuple[socket.socket, SourceFilter | None]:
    number, *filtered = word.split(",")
    mode, *sources = filtered or [""]
    return socket.socket(fileno=int(number)), SourceFilter("incl" if mode == "incl" else "excl", tuple(sources)) if mode else None


def _matcher(said: list[str] | None) -> Callable[[bytes], object] | None:
    if said is None:
        return None
    if not said:
        return lambda _: None
    return re.compile(b"|".join(re.escape(bytes.fromhex(needle)) for needle in said), re.DOTALL).search


class _Ear:
    """The loop of the child."""

    def __init__(self, channel: socket.socket, ports: Sequence[socket.socket], senders: Sequence[SourceFilter | None]) -> None:
        self._channel, self._ports, self._senders = channel, ports, senders
        self._match: list[Callable[[bytes], object] | None] = [None] * len(ports)
        self._figures = array.array("Q", bytes(16 * len(ports)))
        self._allowed = [MAX_UNKNOWN] * len(ports)
        self._headers = [index.to_bytes(4, "big") for index in range(len(ports))]

    def run(self) -> None:
        poll = select.poll()
        indices = {made.fileno(): index for index, made in enumerate(self._ports)}
        for number in (*indices, self._channel.fileno()):
            poll.register(number, select.POLLIN)
        report = time.monotonic() + _REPORT
        if not self._told():  # before anything is heard: what is wanted was said first
            return
        while True:
            for number, _ in poll.poll(1000 * _REPORT):
                if number in indices:
                    self._drain(indices[number])
                elif not self._told():
                    return
            if time.monotonic() >= report:
                report = time.monotonic() + _REPORT
                self._allowed = [MAX_UNKNOWN] * len(self._ports)
                self._pass(len(self._ports).to_bytes(4, "big") + self._figures.tobytes())

    def _told(self) -> bool:
        while True:
            try:
                said = self._channel.recv(1 << 20)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not said:
                return False
            index, needles = jsontext.read(said)
            self._match[index] = _matcher(needles)

    def _drain(self, index: int) -> None:
        made, match, senders = self._ports[index], self._match[index], self._senders[index]
        take, take_from = made.recv, made.recvfrom
        count = 0
        try:
            while count < _BURST:
                if senders is None:
                    data = take(MAX_DATAGRAM)
                    count += 1
                else:
                    data, sender = take_from(MAX_DATAGRAM)
                    count += 1
                    if not senders.admits(sender[0]):
                        continue
                if match is not None:
                    if match(data) is None:
                        continue
                elif self._allowed[index] > 0:
                    self._allowed[index] -= 1
                else:
                    continue
                self._figures[2 * index + 1] += self._pass(self._headers[index] + data)
        except BlockingIOError:
            pass
        self._figures[2 * index] += count

    def _pass(self, said: bytes) -> bool:
        """Whether it was passed on.  What a slow terminal would not see in time is dropped: it comes again."""
        try:
            self._channel.send(said)
        except BlockingIOError:
            return False
        return True


def main(words: Sequence[str]) -> None:
    """Be an ear: the channel's descriptor, then the ports (``_word``)."""
    coredumps.switch_off()
    channel = socket.socket(fileno=int(words[0]))
    ports, senders = zip(*map(_port, words[1:]), strict=True)
    channel.setblocking(False)
    with contextlib.suppress(OSError):
        os.nice(-5)
    gc.disable()  # nothing here makes cycles
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):  # the terminal is gone
        _Ear(channel, ports, senders).run()


if __name__ == "__main__":
    main(sys.argv[1:])
