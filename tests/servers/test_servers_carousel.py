# SPDX-License-Identifier: Apache-2.0
"""From a subscription to the air: BSM, BSD/A and carousel as processes, a terminal that knows no more than the SDP; both die."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers_support import System, _service, free_ports

from pybcast import codec, sdp
from pybcast.broadcast import link
from pybcast.broadcast.receiver import CarouselReceiver, Listener, LtkmListener
from pybcast.messages import Bcro, SmartcardLtkm

SERVICE = "urn:example:service:A"


def _where(folder: Path) -> None:
    path = folder / "bsda.toml"
    flute, ltkm = free_ports(2)
    air = f'[air]\ncarousel = "c.sock"\nflute = "127.0.0.1:{flute}"\nltkm = "127.0.0.1:{ltkm}"\n'
    text = path.read_text().replace("[air]\n", air).replace("[[services]]", '[[services]]\nstkm = "239.192.77.3:4380"', 1)
    path.write_text(text)


def _kinds(messages: list[bytes]) -> set[type]:
    """R22: the first byte tells."""
    return {type(codec.decode(m, "smartcard-ltkm" if m[0] == 1 else "drm-ltkm")) for m in messages if m[0] in (0x01, 0x20)}


async def _hear(folder: Path, listener: Listener, enough: Callable[[list[bytes]], bool]) -> set[bytes]:
    found: list[bytes] = []
    try:
        async with listener, asyncio.timeout(60):
            while not enough(found):
                found.append(await anext(listener))
    except TimeoutError:
        state = await asyncio.to_thread(link.ask, folder / "c.sock")
        heard = f"{type(listener).__name__}: {listener.datagrams} datagrams, {_kinds(found)}"
        raise AssertionError(f"{heard}; {state}; {(folder / 'carousel.log').read_text()}") from None
    return set(found)


def _state(folder: Path, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        state = link.ask(folder / "c.sock")
        if good(state):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


def _description(system: System) -> sdp.Description:
    status, text, err = system.command("bsda", "sdp", "bsda.toml", SERVICE)
    assert (status, err) == (0, "")
    return sdp.parse(text)


def test_letters_of_subscribers_turn_whatever_dies(tmp_path: Path) -> None:
    system = System(tmp_path, _service("A", 1, "bsm", "push", carousel_cycle=0.5))
    _where(tmp_path)
    program = [sys.executable, "-m", "pybcast.cli", "air", "carousel", str(tmp_path / "bsda.toml")]
    with contextlib.closing(system), (tmp_path / "carousel.log").open("wb") as log:
        carousel = subprocess.Popen(program, stderr=log)
        try:
            system.start("bsm", "bsda")
            for name, profile in (("alice", "smartcard"), ("dora", "drm")):
                words = ["subscriber", "add", "bsm.toml", name, "--random", "--profile", profile, "--service", SERVICE]
                status, _, err = system.command("bsm", *words)
                assert status == 0, err
            both = {SmartcardLtkm, Bcro}
            d = _description(system)
            assert d.ltkm is not None and d.carousel is not None and d.cycle == 0.5

            def ears() -> tuple[Listener, Listener]:
                assert d.ltkm is not None and d.carousel is not None
                flute = CarouselReceiver(d.carousel.address, d.carousel.port, d.carousel.tsi)
                return LtkmListener(d.ltkm.address, d.ltkm.port), flute

            for listener in ears():
                asyncio.run(_hear(tmp_path, listener, lambda found: _kinds(found) == both))
            system.kill("bsm", "bsda")
            state = _state(tmp_path, lambda state: not state["connected"])
            push, flute = ears()
            held = asyncio.run(_hear(tmp_path, push, lambda found: len(found) >= 2 * state["messages"]))  # a turn, begun somewhere
            assert _kinds(list(held)) == both
            assert asyncio.run(_hear(tmp_path, flute, lambda found: held <= set(found))) == held, "though both servers are dead"
            system.start("bsm", "bsda")
            _state(tmp_path, lambda state: bool(state["connected"]) and state["messages"] > 0)
            for listener in ears():
                asyncio.run(_hear(tmp_path, listener, lambda found: _kinds(found) == both))
            named = _description(system)
            assert named.streams("drm")[0].srvCIDExt and named.streams("smartcard")[0].srvKEYList, "R37"
        finally:
            carousel.terminate()
            assert carousel.wait(30) == 0
