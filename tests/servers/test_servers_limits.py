# SPDX-License-Identifier: Apache-2.0
"""What the configuration says of connections and revocation lists, and what becomes of it in a server and a terminal."""

from __future__ import annotations

import asyncio
import logging
import re
import resource
from pathlib import Path
from typing import Any, Final

import pytest
from servers_support import BSDA_TOML, BSM_TOML
from terminals_support import TABLE

from pybcast.backend import pki
from pybcast.errors import ConfigError
from pybcast.https import contexts
from pybcast.servers import config, daemon
from pybcast.servers.bsda import Bsda
from pybcast.servers.bsm import Bsm
from pybcast.terminals.fetching import Fetcher

OWN: Final = daemon.OWN_FILES


def loaded(folder: Path, text: str) -> config.ServerConfig:
    path = folder / "server.toml"
    path.write_text(text)
    return config.load(path)


def bsm(server: str = "", interaction: str | None = None, tls: str = "", peers: str = "") -> str:
    """A BSM's configuration with more lines in its tables."""
    text = BSM_TOML.replace("[server]\n", f"[server]\n{server}\n").replace("[tls]\n", f"[tls]\n{tls}\n")
    text = text.replace("[[peers]]\n", f"[[peers]]\n{peers}\n")
    return text if interaction is None else f"{text}{TABLE}{interaction}\n"


def test_limits_and_lists_are_as_documented(tmp_path: Path) -> None:
    found = loaded(tmp_path, bsm(interaction=""))
    assert found.interaction is not None
    handbook = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")
    said = re.findall(r"\| `(connect\w+)` \| (\d+) \| (\d+) \|", handbook)
    assert {name: (int(peers), int(terminals)) for name, peers, terminals in said} == {
        "connections": (found.limits.connections, found.interaction.connections),
        "connections_per_address": (found.limits.per_address, found.interaction.connections_per_address),
        "connect_rate": (found.limits.connect_rate, found.interaction.connect_rate),
    }
    assert found.limits.per_share == 32 and found.limits.in_flight == 8 and found.limits.handshake == 5.0
    assert found.revocation_lists() == []
    own = "connections = 5\nconnections_per_address = 4\nconnect_rate = 0.5"
    found = loaded(tmp_path, bsm(own, own + '\ncrl = "t/crl.pem"', 'crl = "crl.pem"'))
    assert (found.limits.connections, found.limits.per_address, found.limits.connect_rate) == (5, 4, 0.5)
    terminals = Bsm(found)._terminal_limits(found)
    assert (terminals.connections, terminals.per_address, terminals.connect_rate) == (5, 4, 0.5)
    assert found.revocation_lists() == [tmp_path / "crl.pem", tmp_path / "t" / "crl.pem"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bsm("connections = 0"), r"server\.connections: expected `int` >= 1"),
        (bsm("connections_per_address = -1"), r"server\.connections_per_address: expected"),
        (bsm("connect_rate = 0"), r"server\.connect_rate: expected `float` > 0"),
        (bsm("connections = 2000000"), r"server\.connections: expected `int` <= 1000000"),
        (bsm(interaction="connections = 0"), r"interaction\.connections: expected `int` >= 1"),
        (bsm(interaction="connect_rate = -0.5"), r"interaction\.connect_rate: expected"),
        (bsm(tls="crl = 5"), r"tls\.crl: expected `str`"),
        (bsm(peers='fingerprints = "ab"'), r"peers\[1\]\.fingerprints: expected `array`"),
        (bsm(peers='fingerprints = [""]'), r"peers\[1\]\.fingerprints\[1\]: expected"),
        (bsm(peers='fingerprints = ["ab"]'), r"peers\[1\]: fingerprints: expected 64 hexadecimal digits"),
        (bsm("crl = 'x'"), r"server\.crl: unknown key"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert re.match(rf"{re.escape(str(tmp_path))}/server\.toml:\d+: ", str(caught.value))


@pytest.mark.parametrize(
    ("soft", "hard", "peers", "terminals", "raised"),
    [
        (1024, 1 << 20, 512, 8192, 512 + 8192 + OWN),
        (1024, resource.RLIM_INFINITY, 512, 8192, 512 + 8192 + OWN),
        (1 << 20, 1 << 20, 512, 8192, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 512, 8192, None),
        (1024, 4096, 512, 4096 - OWN - 512, 4096),
        (1024, 1024, (1024 - OWN) // 2, (1024 - OWN) // 2, 1024),
        (64, 64, 1, 1, 64),
    ],
)
def test_connections_that_the_system_has_no_descriptors_for(
    tmp_path: Path,
    soft: int,
    hard: int,
    peers: int,
    terminals: int,
    raised: int | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process takes what it may have, and where that is too little it says so and lets fewer in."""
    limits: list[tuple[int, int]] = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    found = loaded(tmp_path, bsm(interaction=""))
    server = Bsm(found)
    server._find_room()
    assert server._limits(found).connections == peers and server._terminal_limits(found).connections == terminals
    assert limits[1:] == ([] if raised is None or raised == soft else [(raised, hard)]) or limits[1:] == [(raised, hard)]
    few = [r for r in caplog.records if r.__dict__.get("fields", {}).get("event") == "few-descriptors"]
    assert bool(few) is ((peers, terminals) != (512, 8192))


def test_a_bsda_has_peers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (400, 400))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: None)
    found = loaded(tmp_path, BSDA_TOML)
    server = Bsda(found)
    server._find_room()
    assert server._limits(found).connections == 400 - OWN


# --- a terminal ---------------------------------------------------------------------------------------------------------


class Clocked:
    def __init__(self) -> None:
        self.mono = 0.0

    def now(self) -> float:
        return 4e9

    def monotonic(self) -> float:
        return self.mono


def test_a_terminal_takes_over_a_list_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pki.init(tmp_path, {"bsm": "urn:example:bsm"})
    path = pki.revoke(tmp_path)
    clock = Clocked()

    def context() -> contexts.Context:
        return contexts.terminal_context(tmp_path / "ca.pem", crl=path)

    class Device:
        profile = "drm"

        def account(self) -> None:
            return None

    async def work() -> None:
        machine: Any = Device()
        fetcher = Fetcher("https://127.0.0.1:1", context, machine, clock, lambda _: None, 1.0, (), [path])
        first = await fetcher._asking()
        assert await fetcher._asking() is first
        path.write_text("nothing")
        assert await fetcher._asking() is first, "not looked at more than once a second"
        clock.mono += 1.0
        assert await fetcher._asking() is first and "the old revocation list stays in use" in caplog.text
        path.unlink()
        pki.revoke(tmp_path, ["bsm"])
        clock.mono += 1.0
        second = await fetcher._asking()
        assert second is not first and second._context.revoked is not None  # type: ignore[attr-defined]  # a Context
        assert any(second._context.revoked.entries.values())  # type: ignore[attr-defined]
        await fetcher.close()

    caplog.set_level(logging.ERROR)
    asyncio.run(work())
