# SPDX-License-Identifier: Apache-2.0
"""For tests: a BSD/A's end of the link that says exactly what it is told to, and a configuration for the sender."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from servers_support import _service, toml

from pybcast.broadcast import link
from pybcast.broadcast.link import Begin, Executed, Frames, Heard, Here, Told, told
from pybcast.flows import Profile
from pybcast.flows.events import AirStkm, Plan, PlannedPeriod
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.wire.times import NTP_UNIX

PROFILES: Final[tuple[Profile, ...]] = ("drm", "smartcard")


class Saying:
    """Connected to a process that puts things on air."""

    def __init__(self, path: Path, *said: Told, begin: Begin = Begin("urn:example:bsda")) -> None:  # noqa: B008 - it is frozen
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(30)
        self.connection.connect(str(path))
        self._frames = Frames()
        self.connection.sendall(link.begin(begin) + b"".join(map(told, said)) + link.END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def say(self, *said: Told) -> None:
        self.connection.sendall(b"".join(map(told, said)))

    def next(self) -> Heard:
        """What the process says next."""
        while (body := self._frames.next()) is None:
            data = self.connection.recv(65536)
            assert data, "the process hung up"
            self._frames.feed(data)
        return link.heard(body)

    def executed(self, count: int) -> list[Executed]:
        """The next so many words of what became of plans."""
        found: list[Executed] = []
        while len(found) < count:
            said = self.next()
            if not isinstance(said, Here | dict):
                found.append(said)
        return found

    def here(self) -> Here:
        """What the process says that it has."""
        self.connection.sendall(link.WHICH)
        while not isinstance(said := self.next(), Here):
            pass
        return said


def service(letter: str) -> str:
    return f"urn:example:service:{letter}"


def tek(letter: str, start: int) -> bytes:
    return hashlib.sha256(f"{letter} {start}".encode()).digest()[:16]


def stkm(profile: str, letter: str, start: int) -> bytes:
    """What stands for an STKM."""
    return f"{profile} {letter} {start} ".encode()


def plan(letter: str, *edges: float, lead: float | None = None, repetition: float = 0.1, reserve: int = 0) -> Plan:
    """A plan of the periods between these Unix times, each of two STKMs.  ``lead``: seconds, by default half of a period."""
    times = [int(edge) + NTP_UNIX for edge in edges]
    periods = tuple(
        PlannedPeriod(
            start, end, start - ((end - start) / 2 if lead is None else lead),
            tuple(AirStkm(profile, stkm(profile, letter, start)) for profile in PROFILES),
            start.to_bytes(6), Secret(tek(letter, start)), b"s" * 14,
        )
        for start, end in pairwise(times)
    )  # fmt: skip
    return Plan(service(letter), 1, Protocol.SRTP, repetition, periods, reserve=reserve)


def configuration(folder: Path, places: Mapping[str, str], *, air: Mapping[str, Any] | None = None, name: str = "bsda") -> Path:
    """A BSD/A's file; ``places``: letter -> HOST:PORT."""
    services = "".join(_service(letter, 1 + n, "bsm", "push", stkm=place) for n, (letter, place) in enumerate(places.items()))
    keys = {"sender": "air.sock", **(air or {})}
    lines = "".join(f"{key} = {value!r}\n" for key, value in keys.items())
    text = toml("bsda", services=services, pair="heartbeat" in keys).replace('events = "-"\n', lines)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def state_until(path: Path, **wanted: Any) -> dict[str, Any]:
    """The process's state, when it is so."""
    end = time.monotonic() + 30
    while True:
        state = link.ask(path)
        if all(state[key] == value for key, value in wanted.items()):
            return state
        assert time.monotonic() < end, (wanted, state)
