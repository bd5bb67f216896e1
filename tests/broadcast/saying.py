# SPDX-License-Identifier: Apache-2.0
"""For tests: a BSD/A's end of the link that says exactly what it is told to, and a configuration for the sender."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from servers_support import _service, toml

from pybcast.broadcast import link
from pybcast.broadcast.link import Frames, Told, told
from pybcast.flows import Profile
from pybcast.flows.events import AirStkm, Announce

NTP_UNIX: Final = 2_208_988_800
PROFILES: Final[tuple[Profile, ...]] = ("drm", "smartcard")


class Saying:
    """Connected to a process that puts things on air."""

    def __init__(self, path: Path, *said: Told, me: str = "urn:example:bsda", mark: bytes = b"") -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(30)
        self.connection.connect(str(path))
        self._frames = Frames()
        self.connection.sendall(link.frame(link._Begin(me, mark)) + b"".join(map(told, said)) + link.frame(link._End()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def say(self, *said: Told) -> None:
        self.connection.sendall(b"".join(map(told, said)))

    def reports(self, count: int) -> list[link.Report]:
        """The next ones, at least so many."""
        found: list[link.Report] = []
        while len(found) < count:
            while (body := self._frames.next()) is not None:
                message = link._decoded(link._FROM_PROCESS, body)
                if isinstance(message, link._Announced):
                    found += message.reports
            if len(found) < count:
                data = self.connection.recv(65536)
                assert data, "the process hung up"
                self._frames.feed(data)
        return found


def announce(letter: str, start: float, *, repetition: float = 0.1, data: bytes = b"") -> Announce:
    """An STKM of each profile; ``start``: Unix time."""
    at = int(start) + NTP_UNIX
    drm, smartcard = (AirStkm(profile, f"{profile} {letter} {at} ".encode() + data) for profile in PROFILES)
    return Announce(f"urn:example:service:{letter}", 1, at, (drm, smartcard), repetition)


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
