# SPDX-License-Identifier: Apache-2.0
"""One BSD/A and its BSMs, each of which misbehaves in its own way: the air goes on, and all is well again when they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from evidence import Evidence
from peers import LATE, Loop, Misbehaving
from servers_support import System, _service, free_ports, peer, toml

from pybcast.backend import pki
from pybcast.servers.config import load
from pybcast.wire.times import NTP_UNIX

HARMLESS: Final = ("good", "twice", "asked twice")
IMPOSTORS: Final = ("expired", "of another authority", "of another peer")
HARMFUL: Final = (
    "down", "half-open TCP", "silent", "dribbles", "hangs up", "not HTTP", "not XML", "another type", "HTTP 500", "HTTP 404",
    "huge", "wrong messageID", "wrong tag", "late", *IMPOSTORS,
)  # fmt: skip
MODES: Final = (*HARMLESS, *HARMFUL)
SAID: Final = {
    "down": "Connect call failed", "half-open TCP": "no answer in time", "silent": "no answer in time",
    "dribbles": "no answer in time", "not XML": "line 1", "another type": "something else than XML",
    "HTTP 500": "HTTP 500", "HTTP 404": "HTTP 404",
    "wrong messageID": "messageID of another request", "wrong tag": "tag", "late": "no answer in time",
    "expired": "certificate has expired", "of another authority": "TLS: ", "of another peer": "the certificate at its address",
}  # fmt: skip
"""What the operator reads of it, where it can be only one thing."""
COST: Final = 8 << 20
"""Octets of memory that a peer which misbehaves may cost: 8 connections, each with buffers for TLS."""
GROWTH: Final = 20 << 20
"""Octets that all of them may cost more later on."""
Events = list[dict[str, Any]]


class Stage:
    """A BSD/A with as many services as there are modes, each of a BSM of its own."""

    def __init__(self, folder: Path) -> None:
        self.system = System(folder)
        self.loop = Loop()
        names = [f"bsm{number}" for number in range(len(MODES))]
        ports = free_ports(len(names))
        services = "".join(
            _service(
                f"{number}", number + 1, "bsm", "push", bsm=f"urn:example:{name}", synchronous=True, profiles=["smartcard"],
                period=1, look_ahead=2, key_period=600,
            )
            for number, name in enumerate(names)
        )  # fmt: skip
        others = "".join(peer(name, port) for name, port in zip(names, ports, strict=True))
        (folder / "bsda.toml").write_text(toml("bsda", self.system.ports["bsda"], services=services, peers=others))
        for name in names:
            pki.issue(folder, name, f"urn:example:{name}")
        old = datetime.now(UTC) - timedelta(days=30)
        pki.issue(folder, "expired", f"urn:example:bsm{MODES.index('expired')}", days=1, now=old)
        other = folder / "other"
        pki.init(other, {"stranger": f"urn:example:bsm{MODES.index('of another authority')}"})
        impostors = {
            "expired": (folder, "expired"),
            "of another authority": (other, "stranger"),
            "of another peer": (folder, "bsm0"),
        }
        streams = load(folder / "bsda.toml").streams
        self.bsms = [
            Misbehaving(folder, name, stream, port, impostors)
            for name, stream, port in zip(names, streams, ports, strict=True)
        ]  # fmt: skip
        for bsm in self.bsms:
            self.loop.run(bsm.become("good"))
        self.system.start("bsda")
        self.bsda = self.system.running["bsda"]

    def close(self) -> None:
        self.system.close()
        for bsm in self.bsms:
            self.loop.run(bsm.become("down"))
        self.loop.close()

    def in_use(self, modes: tuple[str, ...], after: float = 0.0) -> Events:
        """Until the services of these modes use the key of a period that begins after that Unix time."""
        wanted = {_service_of(mode) for mode in modes}
        return self.bsda.wait(lambda seen: wanted <= {e["service"] for e in _used(seen, after)}, "key in use")

    def alarmed(self, modes: tuple[str, ...], mark: int, *, active: bool) -> None:
        wanted = {_service_of(mode) for mode in modes}

        def there(seen: Events) -> bool:
            found = [e for e in seen[mark:] if e.get("event") == "alarm" and e["code"] == "held-key" and e["active"] is active]
            return wanted <= {e["service"] for e in found}

        self.bsda.wait(there, f"held-key {'raised' if active else 'taken back'}")


def _service_of(mode: str) -> str:
    return f"urn:example:service:{MODES.index(mode)}"


def _used(seen: Events, after: float = 0.0) -> Events:
    return [e for e in seen if e.get("event") == "UseKey" and e["start"] > after + NTP_UNIX]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_the_air_goes_on_whatever_a_peer_does(stage: Stage) -> None:
    bsda, held = stage.bsda, Evidence()
    stage.in_use(MODES)
    resident = bsda.resident()
    mark, since = len(bsda.events), time.time()
    for bsm, mode in zip(stage.bsms, MODES, strict=True):
        stage.loop.run(bsm.become(mode))
    stage.alarmed(HARMFUL, mark, active=True)
    stage.in_use(HARMLESS, since + 2 * LATE)
    silent = {f"urn:example:bsm{MODES.index(mode)}" for mode in HARMFUL}
    bsda.wait(lambda seen: silent <= {e["peer"] for e in seen[mark:] if e.get("event") == "unanswered"}, "request given up")
    costly = bsda.resident()
    assert costly - resident < COST * len(HARMFUL)
    figures = bsda.metrics()
    (shown,) = stage.system.shown("status", "bsda.toml")
    lights = {row["service"]: row for row in shown["services"]}
    errors = {row["peer"]: row for row in shown["peers"]}
    for number, mode in enumerate(MODES):
        service, harmful = f"urn:example:service:{number}", mode in HARMFUL
        assert figures[f'pybcast_key_held{{service="{service}",stream="1"}}'] == harmful, mode
        assert (lights[service]["held"], lights[service]["light"] == "red") == (harmful, harmful), mode
        asked = errors[f"urn:example:bsm{number}"]
        assert (asked["light"] == "green") is not harmful and SAID.get(mode, "") in asked["error"], (mode, asked)
        used = [e["start"] for e in _used(bsda.events) if e["service"] == service]
        assert len(used) == len(set(used)) and used == sorted(used), mode
    healed = len(bsda.events), time.time()
    for bsm in stage.bsms:
        stage.loop.run(bsm.become("good"))
    seen = stage.in_use(MODES, healed[1])
    stage.alarmed(HARMFUL, healed[0], active=False)
    for mode in HARMFUL:  # with the period that runs, or the next where that one had no three repetitions left (R40)
        first = next(e for e in _used(seen[healed[0] :]) if e["service"] == _service_of(mode))
        assert first["start"] - 0.1 <= first["at"] + NTP_UNIX <= first["start"] + 2, (mode, first)
    held.on_air([bsda])
    assert bsda.resident() - costly < GROWTH
    assert stage.system.stop() == {"bsda": 0}
    bsda.check()
