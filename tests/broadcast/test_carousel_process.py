# SPDX-License-Identifier: Apache-2.0
"""The carousel as a process, between a BSD/A's link and terminals behind a bad network.  Time is counted in its own turns."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from pybcast.broadcast import link
from pybcast.broadcast.linkclient import ObjectClient
from pybcast.broadcast.receiver import CarouselReceiver, Listener, LtkmListener
from pybcast.cli import main
from pybcast.errors import ConfigError
from pybcast.flows.events import CarouselDrop, CarouselPut
from pybcast.sourcefilter import SourceFilter
from pybcast.testing.impair import Impairment, UdpProxy

NEWS: Final = "urn:example:news"
GROUP: Final = "239.192.77.9"
T = TypeVar("T")


def free_port() -> int:
    """One that nobody uses now, nor the next, below those that the system gives to whoever sends."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
                two.bind(("127.0.0.1", port + 1))
                return port


def toml(folder: Path, flute: str, ltkm: str, cycle: float = 0.5) -> Path:
    path = folder / "bsda.toml"
    path.write_text(f"""
[server]
role = "bsda"
id = "urn:example:bsda"
listen = "127.0.0.1:1"
database = "bsda.db"
kek = "file:kek"
plain_loopback = true

[log]
format = "json"

[air]
carousel = "c.sock"
flute = "{flute}"
ltkm = "{ltkm}"
rate = 20000000

[[peers]]
id = "urn:example:bsm"
url = "http://127.0.0.1:2"

[[services]]
id = "{NEWS}"
profiles = ["smartcard"]
period = 2
key_period = 20
carousel_cycle = {cycle}
key_domain_id = "12f410"
key_group = 1
""")
    return path


def messages(count: int, seed: int) -> tuple[bytes, ...]:
    rng = random.Random(seed)
    return tuple(b"\x01" + rng.randbytes(rng.randrange(150, 240)) for _ in range(count))


class Running:
    """The process, and a BSD/A that speaks with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.socket = path.parent / "c.sock"
        self.log = path.parent / "log"
        with self.log.open("wb") as log:
            program = [sys.executable, "-m", "pybcast.cli", "air", "carousel", str(path)]
            self.process = subprocess.Popen(program, stderr=log)

    async def state(self) -> dict[str, Any]:
        return await asyncio.to_thread(link.ask, self.socket)

    async def turns(self) -> int:
        return int((await self.state())["flute"]["turns"].get("0.5", 0))

    async def until(self, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its state, as soon as it is that."""
        async with asyncio.timeout(30):
            while True:
                assert self.process.poll() is None, self.log.read_text()
                with contextlib.suppress(OSError):
                    state = await self.state()
                    if good(state):
                        return state
                await asyncio.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[Running]:
    found = Running(path)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()


@contextlib.asynccontextmanager
async def bsda(path: Path, *outputs: CarouselPut) -> AsyncIterator[ObjectClient]:
    client = ObjectClient(path, me="urn:example:bsda")
    for output in outputs:
        client.put(output)
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hear(listener: Listener, wanted: set[bytes]) -> list[bytes]:
    """What comes until all of these have."""
    found: list[bytes] = []
    missing = set(wanted)
    async with asyncio.timeout(60):
        while missing:
            found.append(await anext(listener))
            missing.discard(found[-1])
    return found


def run(coroutine: Awaitable[T]) -> T:
    async def whole() -> T:
        return await coroutine

    return asyncio.run(whole())


def test_from_the_bsda_to_terminals(tmp_path: Path) -> None:
    run(_from_the_bsda_to_terminals(tmp_path))


async def _from_the_bsda_to_terminals(folder: Path) -> None:
    one, two = messages(400, 1), messages(30, 2)
    everything = {*one, *two}
    bad = Impairment(random.Random(5), lost=0.1, doubled=0.1, reordered=0.1, corrupted=0.1, foreign=0.1)
    near = free_port()
    async with UdpProxy(Impairment(random.Random(0)), to=(GROUP, near)) as good:
        path = toml(folder, "{}:{}".format(*good.address), f"{GROUP}:{near + 1}")
        push = (GROUP, near + 1)
        async with running(path) as carousel:
            async with bsda(carousel.socket, CarouselPut("one", NEWS, one), CarouselPut("two", NEWS, two)) as client:
                await carousel.until(lambda state: state["messages"] == 430)
                async with LtkmListener(*push) as listener:
                    got = await hear(listener, everything)
                    assert set(got) == everything, "the push"
                turns = await carousel.turns()
                async with CarouselReceiver(GROUP, near, 1) as receiver:
                    got = await hear(receiver, everything)
                    assert sorted(got) == sorted(everything), "each once"
                    assert await carousel.turns() - turns <= 2, "one turn, begun and ended somewhere"
                    changed = messages(5, 3)
                    client.put(CarouselPut("two", NEWS, changed))
                    client.put(CarouselPut("three", NEWS, changed[:1]))
                    client.put(CarouselDrop("one"))
                    assert await hear(receiver, set(changed)) in [[*changed], [*changed, changed[0]], [changed[0], *changed]]
                    await carousel.until(lambda state: state["messages"] == 6)
                    client.put(CarouselPut("one", NEWS, one))
                    client.put(CarouselPut("two", NEWS, two))
                    client.put(CarouselDrop("three"))
                    await carousel.until(lambda state: state["messages"] == 430)
            state = await carousel.until(lambda state: not state["connected"])  # the BSD/A is dead, and terminals tune in
            assert state["light"] == "red" and "no BSD/A" in state["why"]
            good.impairment = bad
            turns = await carousel.turns()
            async with CarouselReceiver(GROUP, near, 1) as receiver:
                got = await hear(receiver, everything)
                assert sorted(got) == sorted(everything), "each once, and nothing else"
                assert await carousel.turns() - turns <= 4, "three turns, begun and ended somewhere"
                assert {"corrupted", "foreign"} <= set(receiver.sessions.counts)
            async with bsda(carousel.socket, CarouselPut("two", NEWS, two)):
                state = await carousel.until(lambda state: state["messages"] == 30)
                assert state["connected"], "what is not said again is over"
            assert carousel.end(signal.SIGTERM) == 0
            log = carousel.log.read_text()
            assert all(event in log for event in ("bsda-came", "bsda-said", "bsda-gone", "ready", "stopped"))
            assert not carousel.socket.exists()


def test_reload_and_stretch(tmp_path: Path) -> None:
    run(_reload_and_stretch(tmp_path))


async def _reload_and_stretch(folder: Path) -> None:
    path = toml(folder, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    path.write_text(path.read_text().replace("rate = 20000000", "rate = 100000"))
    async with running(path) as carousel, bsda(carousel.socket, CarouselPut("one", NEWS, messages(100, 1))):
        state = await carousel.until(lambda state: state["messages"] == 100)
        assert state["push"]["stretch"] > 2 and state["flute"]["stretch"] > 2, "it does not fit, and is sent slower"
        enough = re.search(r"rate = (\d+) in \[air\] would do", state["why"])
        assert state["light"] == "yellow" and enough is not None
        assert max(state[name]["wanted"] for name in ("push", "flute")) < int(enough[1]) < 1_000_000
        assert list(state["push"]["turns"]) == ["0.5"]
        await carousel.until(lambda _: "carousel-stretched" in carousel.log.read_text())
        path.write_text(path.read_text().replace("carousel_cycle = 0.5", "carousel_cycle = 9.5"))
        carousel.process.send_signal(signal.SIGHUP)
        state = await carousel.until(lambda state: list(state["push"]["turns"]) == ["9.5"])
        assert state["push"]["stretch"] == state["flute"]["stretch"] == 1.0
        assert (state["light"], state["why"]) == ("green", "")
        path.write_text(path.read_text().replace("rate = 100000", "rate = 200000"))
        carousel.process.send_signal(signal.SIGHUP)
        await carousel.until(lambda _: "not-reloaded" in carousel.log.read_text())
        assert carousel.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('carousel = "c.sock"', ""), "air.carousel: missing"),
        (("127.0.0.1:4001", "[::1]:4001"), "expected an IPv4 address"),
        (('"c.sock"', '"missing/c.sock"'), "No such file"),
        (("rate = ", 'interface = "192.0.2.77"\nrate = '), "interface 192.0.2.77"),
    ],
)
def test_what_it_cannot_start_with(
    tmp_path: Path, change: tuple[str, str], why: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, "127.0.0.1:4001", "127.0.0.1:4359")
    path.write_text(path.read_text().replace(*change))
    done = subprocess.run(
        [sys.executable, "-m", "pybcast.cli", "air", "carousel", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert why in done.stderr


def test_it_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["air", "--help"]) == 0
    assert "carousel" in capsys.readouterr().out


def test_a_listener_stops_reading_while_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from pybcast.broadcast import receiver

    monkeypatch.setattr(receiver, "WAITING", 100)

    async def body() -> None:
        async with LtkmListener("127.0.0.1", 0) as listener:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                for i in range(1_000):
                    out.sendto(i.to_bytes(2), ("127.0.0.1", listener.port))
                    if i % 50 == 49:
                        await asyncio.sleep(0)
                for _ in range(10):
                    await asyncio.sleep(0)
                assert len(listener._messages) <= 100 + 64
                got = [await anext(listener) for _ in range(1_000)]
                assert got == [i.to_bytes(2) for i in range(1_000)], "the rest waited in the system's buffer"
                waiting = asyncio.create_task(anext(listener))
                await asyncio.sleep(0)
                await listener.close()
                with pytest.raises(StopAsyncIteration):
                    await waiting

    run(body())


def test_a_callback_may_close(tmp_path: Path) -> None:
    async def body() -> None:
        heard: list[bytes] = []

        def take(message: bytes) -> None:
            heard.append(message)
            closing.append(asyncio.get_running_loop().create_task(listener.close()))

        closing: list[asyncio.Task[None]] = []
        listener = LtkmListener("127.0.0.1", 0, senders=SourceFilter("incl", ("127.0.0.1",)), on_message=take)
        await listener.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(b"", ("127.0.0.1", listener.port))
            out.sendto(b"x", ("127.0.0.1", listener.port))
        async with asyncio.timeout(20):
            while not heard:
                await asyncio.sleep(0)
        await asyncio.gather(*closing)
        assert heard == [b"x"]
        with pytest.raises(StopAsyncIteration):
            await anext(listener)
        strangers = LtkmListener("127.0.0.1", 0, senders=SourceFilter("incl", ("192.0.2.1",)))
        async with strangers:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.sendto(b"x", ("127.0.0.1", strangers.port))
            async with asyncio.timeout(20):
                while not strangers.datagrams:
                    await asyncio.sleep(0)
            assert not strangers._messages and strangers.foreign == 1

    run(body())


def test_a_port_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError):
        run(CarouselReceiver("192.0.2.1", 4001, 1).start())
