# SPDX-License-Identifier: Apache-2.0
"""``pybcast capture``: from sockets into a pcapng file, until a signal, a count or a time."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pybcast import sdp
from pybcast.broadcast.listener import receiver
from pybcast.captures.frames import Address
from pybcast.captures.pcap import GROUPS, Writer, summary
from pybcast.cli.input import read
from pybcast.cli.stopping import stopping
from pybcast.errors import ConfigError, WireError
from pybcast.messages import KINDS
from pybcast.sourcefilter import SourceFilter, family_of, is_ip

HINTS: Final = (*KINDS, *GROUPS)
MAX_DATAGRAM: Final = 65535
BURST: Final = 256  # datagrams of one socket before the others are looked at
HELD: Final = 1 << 18  # bytes that wait to be written
DELAY: Final = 0.5  # seconds that they wait at most
_RXQ_OVFL: Final = 40  # SO_RXQ_OVFL, which Python does not name: how many datagrams a socket had to drop


@dataclass(frozen=True)
class Source:
    """An address to listen on.  ``hint``: what it carries, one of ``HINTS``.  ``senders``: whose datagrams are taken."""

    address: Address
    hint: str
    senders: SourceFilter | None = None


@dataclass
class Result:
    """``lost``: datagrams that came and were dropped by the system, since nobody took them in time.  ``foreign``: that came from
    senders that a session description does not name.
    """

    datagrams: int = 0
    octets: int = 0
    lost: int = 0
    foreign: int = 0


def source(text: str) -> Source:
    """``HOST:PORT`` or ``HOST:PORT=KIND``; an IPv6 address in brackets."""
    where, equals, hint = text.partition("=")
    host, colon, port = where.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else "" if ":" in host else host
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) <= 65535:
        raise ConfigError(f"--address {text[:80]}: expected HOST:PORT or HOST:PORT=KIND")
    if equals and hint not in HINTS:
        raise ConfigError(f"--address {text[:80]}: KIND is one of {', '.join(HINTS)}")
    return Source((_resolved(host), int(port)), hint or "auto")


def described(path: str, now: float) -> tuple[list[Source], list[str]]:
    """The addresses of a session description: STKM streams, LTKM push, FLUTE sessions; and what of it is not obeyed, in words.

    ``now``: NTP seconds.  Outside of its times a service is recorded all the same, with a word: whoever looks wants to see.
    """
    try:
        found = sdp.parse(read(path, sdp.MAX_TEXT))
    except WireError as error:
        raise ConfigError(f"{path}: {error}") from None
    sources = [_source(s, f"{s.profile}-stkm" if s.profile else "stkm") for s in found.stkm]
    if found.ltkm is not None:
        sources.append(_source(found.ltkm, "ltkm"))
    sources += [_source(s, "flute") for s in found.flute]
    if not sources:
        why = "; ".join(("no STKM stream, LTKM push or carousel in it", *(str(i) for i in found.ignored if i.what == "m=")))
        raise ConfigError(f"{path}: {why}")
    told = [f"{path}: {ignored}" for ignored in found.ignored]
    if not found.active(now):
        told.append(f"{path}: its times (t=) are not now: nothing may come")
    return sources, told


def _source(where: sdp.Endpoint, hint: str) -> Source:
    senders = None if where.senders is None else where.senders.resolved(family_of(where.address))
    return Source((_resolved(where.address), where.port), hint, senders)


def _resolved(host: str) -> str:
    """An address; of a host name its IPv4 address."""
    if is_ip(host):
        return host
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0])
    except (OSError, UnicodeError):
        raise ConfigError(f"{host[:80]}: no IPv4 address") from None


class _File:
    """Blocks on their way to a file: it never ends inside one, also when the disk is full."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._held = bytearray()
        self._ends: list[int] = []  # of the blocks in ``_held``
        self._written = 0
        try:
            self._handle = (
                os.dup(sys.stdout.fileno()) if name == "-" else os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot write {name}: {getattr(error, 'strerror', None) or 'no standard output'}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            os.close(self._handle)

    def write(self, data: bytes) -> None:
        """Whole blocks."""
        self._held += data
        self._ends.append(len(self._held))
        if len(self._held) >= HELD:
            self.flush()

    def flush(self) -> None:
        """``ConfigError`` when the file takes no more; ``BrokenPipeError`` when its reader has gone."""
        done = 0
        try:
            while done < len(self._held):
                done += os.write(self._handle, memoryview(self._held)[done:])
        except BrokenPipeError:
            self._held.clear()
            raise
        except OSError as error:
            whole = max((end for end in self._ends if end <= done), default=0)
            self._held.clear()
            with suppress(OSError):  # a pipe cannot be cut
                os.ftruncate(self._handle, self._written + whole)
            raise ConfigError(f"cannot write {self._name}: {error.strerror}") from None
        self._written += done
        self._held.clear()
        self._ends.clear()


def run(
    sources: Sequence[Source],
    out: str,
    *,
    interface: str,
    count: int | None,
    seconds: float | None,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Write what comes in.  ``ConfigError``: no file, or it takes no more, or there is nothing that can be listened to.

    ``tell``: called with what cannot be listened to while there is something else.
    """
    if ":" in interface or (not is_ip(interface) and interface not in (name for _, name in socket.if_nameindex())):
        raise ConfigError(f"--interface {interface[:80]}: expected an IPv4 address, or the name of an interface")
    result = Result()
    with selectors.DefaultSelector() as selector, stopping() as stop:
        ears: list[_Ear] = []
        try:
            faults: list[ConfigError] = []
            for entry in dict.fromkeys(sources):
                try:
                    ears.append(_Ear(entry, interface))
                except ConfigError as fault:
                    faults.append(fault)
            if faults and not ears:
                raise faults[0]
            for unheard in faults:
                tell(f"not recorded: {unheard}")
            with _File(out) as file:
                writer = Writer(file.write)
                for ear in ears:
                    selector.register(ear.socket, selectors.EVENT_READ, ear)
                selector.register(stop, selectors.EVENT_READ)
                _record(selector, file, writer, result, count, seconds)
        finally:
            for ear in ears:
                ear.socket.close()
            result.lost = sum(ear.lost for ear in ears)
            result.foreign = sum(ear.foreign for ear in ears)
    return result


def _record(
    selector: selectors.BaseSelector, file: _File, writer: Writer, result: Result, count: int | None, seconds: float | None
) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    flushed = time.monotonic()
    while end is None or time.monotonic() < end:
        left = DELAY if end is None else max(0.0, min(DELAY, end - time.monotonic()))
        for key, _ in selector.select(left):
            if key.data is None:
                return
            for moment, sender, payload in key.data.take(BURST if count is None else min(BURST, count - result.datagrams)):
                writer.write(moment, sender, key.data.address, payload, summary(payload, key.data.hint))
                result.datagrams += 1
                result.octets += len(payload)
            if result.datagrams == count:
                return
        if time.monotonic() - flushed >= DELAY:
            file.flush()
            flushed = time.monotonic()


class _Ear:
    """One address."""

    def __init__(self, entry: Source, interface: str) -> None:
        self.address, self.hint, self.senders = entry.address, entry.hint, entry.senders
        self.lost = self.foreign = 0
        self.socket = receiver(entry.address, interface, entry.senders)
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, _RXQ_OVFL, 1)

    def take(self, most: int) -> Iterator[tuple[int, Address, bytes]]:
        """(nanoseconds since 1970, sender, datagram) of what waits."""
        for _ in range(most):
            try:
                data, more, _, sender = self.socket.recvmsg(MAX_DATAGRAM, 64)
            except BlockingIOError:
                return
            for level, kind, value in more:
                if (level, kind) == (socket.SOL_SOCKET, _RXQ_OVFL):
                    (self.lost,) = struct.unpack("=I", value)
            if self.senders is not None and not self.senders.admits(sender[0]):
                self.foreign += 1
                continue
            yield time.time_ns(), (sender[0], sender[1]), data


def check(out: str) -> None:
    """``ConfigError``: a pcapng file is not for a screen."""
    if out == "-" and sys.stdout.isatty():
        raise ConfigError("a capture is not for a screen: name a file, or pipe it: pybcast capture - ... | wireshark -k -i -")
    if out != "-" and Path(out).is_dir():
        raise ConfigError(f"cannot write {out}: it is a folder")
