# SPDX-License-Identifier: Apache-2.0
"""Whose datagrams are taken: on unicast and multicast, by every receiver, while others flood the same port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hearing6 import address4, sender6

from pybcast import sdp
from pybcast.broadcast.datagrams import hearing
from pybcast.broadcast.listener import MAX_UNKNOWN, Listener
from pybcast.broadcast.receiver import CarouselReceiver, LtkmListener
from pybcast.captures.pcap import Datagram, read
from pybcast.cli import main
from pybcast.errors import ConfigError
from pybcast.outlets.udp import Address, Pair, drain
from pybcast.sourcefilter import SourceFilter, family_of, interface_index, is_ip

LIMIT: Final = 20.0  # seconds until a test gives up
HONEST, OTHER = "127.0.0.1", "127.0.0.2"
GROUP: Final = "239.255.43.60"
ONLY: Final = SourceFilter("incl", (HONEST,))
BUT: Final = SourceFilter("excl", (OTHER,))
MANY: Final = SourceFilter("incl", (*(f"192.0.2.{n}" for n in range(60)), HONEST))
"""More than the system takes for one group (``net.ipv4.igmp_max_msf``)."""
NOBODY: Final = SourceFilter("incl", ("192.0.2.99",))


@contextlib.contextmanager
def sender(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HONEST))
        made.bind((address, 0))
        yield made


def free_port() -> int:
    pair = Pair.bind()
    port = pair.port
    pair.close()
    return port


async def until(good: Callable[[], object], again: Callable[[], None]) -> None:
    """Wait, and send ``again`` and again."""
    async with asyncio.timeout(LIMIT):
        while not good():
            again()
            await asyncio.sleep(0.01)


class Air:
    """Floods a place from a host that is shut out; the honest host says a little."""

    def __init__(self, host: str, port: int, honest: socket.socket, other: socket.socket) -> None:
        self._place, self._honest, self._other, self._count = (host, port), honest, other, 0

    def say(self) -> None:
        for _ in range(20):
            self._other.sendto(b"other", self._place)
        self._count += 1
        self._honest.sendto(b"honest %d" % self._count, self._place)


PLACES: Final = pytest.mark.parametrize("host", [HONEST, GROUP], ids=["unicast", "group"])
FILTERS: Final = pytest.mark.parametrize("senders", [ONLY, BUT, MANY], ids=["incl", "excl", "many"])


@contextlib.contextmanager
def air(host: str) -> Iterator[tuple[int, Air]]:
    port = free_port()
    with sender(HONEST) as honest, sender(OTHER) as other:
        yield port, Air(host, port, honest, other)


@PLACES
@FILTERS
def test_the_ear(host: str, senders: SourceFilter) -> None:
    """Also what the flood would take of the datagrams that an unknown port may pass stays for the honest sender."""

    async def run() -> None:
        heard: list[bytes] = []
        with air(host) as (port, on_air):
            listener = Listener([(host, port)], HONEST, lambda _, data: heard.append(data), [senders])
            listener.start()
            await until(lambda: len(heard) > MAX_UNKNOWN // 4, on_air.say)
            listener.stop()
        assert all(data.startswith(b"honest") for data in heard)

    asyncio.run(run())


@PLACES
@FILTERS
def test_the_push(host: str, senders: SourceFilter) -> None:
    async def run() -> None:
        heard: list[bytes] = []
        with air(host) as (port, on_air):
            async with LtkmListener(host, port, HONEST, senders=senders, on_message=heard.append) as listener:
                await until(lambda: len(heard) > 5, on_air.say)
                assert listener.datagrams == len(heard) + listener.foreign
        assert all(data.startswith(b"honest") for data in heard)

    asyncio.run(run())


@PLACES
@FILTERS
def test_the_carousel(host: str, senders: SourceFilter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions are not even asked about a packet of another host."""

    async def run() -> None:
        heard: list[tuple[bytes, str]] = []
        with air(host) as (port, on_air):
            receiver = CarouselReceiver(host, port, 1, HONEST, senders=senders)

            def push(data: bytes, source: tuple[str, int], now: float) -> list[bytes]:
                heard.append((data, source[0]))
                return []

            monkeypatch.setattr(receiver.sessions, "push", push)
            async with receiver:
                await until(lambda: len(heard) > 5, on_air.say)
        assert {source for _, source in heard} == {HONEST}

    asyncio.run(run())


@PLACES
@FILTERS
def test_media(host: str, senders: SourceFilter) -> None:
    async def run() -> None:
        heard: list[bytes] = []
        with air(host) as (port, on_air):
            pair = Pair.listen(Address(host, port), HONEST if host == GROUP else "", senders)

            def take() -> bool:
                heard.extend(drain(pair.rtp, 100, pair.senders))
                return len(heard) > 5

            await until(take, on_air.say)
            pair.close()
        assert all(data.startswith(b"honest") for data in heard)

    asyncio.run(run())


@PLACES
@FILTERS
def test_a_capture(host: str, senders: SourceFilter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with air(host) as (port, on_air):
        stream = sdp.StkmStream(address=host, port=port, streamid=1, kmstype="oma-bcast-drm-pki", senders=senders)
        (tmp_path / "s.sdp").write_text(sdp.write(sdp.Description(name="x", stkm=(stream,))), newline="")
        words = ["capture", str(tmp_path / "o"), "--sdp", str(tmp_path / "s.sdp"), "--interface", HONEST, "--count", "9", "--json"]
        stop = threading.Event()

        def say() -> None:
            while not stop.wait(0.01):
                on_air.say()

        saying = threading.Thread(target=say)
        saying.start()
        try:
            assert main(words) == 0
        finally:
            stop.set()
            saying.join()
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert facts["datagrams"] == 9 and (facts["foreign"] > 0 or host == GROUP)
    with (tmp_path / "o").open("rb") as file:
        assert {packet.payload[:6] if isinstance(packet, Datagram) else b"" for packet in read(file)} == {b"honest"}


@pytest.mark.parametrize(("senders", "included", "excluded"), [(ONLY, 1, 0), (BUT, 0, 1)], ids=["incl", "excl"])
def test_the_system_is_told(senders: SourceFilter, included: int, excluded: int) -> None:
    """A switch sees a source-specific join; what is not wanted stays off the network."""
    pair = Pair.listen(Address(GROUP, free_port()), HONEST, senders)
    try:
        group, source = (f"0x{int.from_bytes(socket.inet_aton(a)):08x}" for a in (GROUP, senders.sources[0]))
        rows = [line.split()[2:] for line in Path("/proc/net/mcfilter").read_text().splitlines()]
        assert [group, source, str(2 * included), str(2 * excluded)] in rows  # RTP and RTCP
    finally:
        pair.close()


def test_ipv6() -> None:
    async def run() -> None:
        port, group = free_port(), "ff15::4360"
        with sender6(group, port) as (name, out):
            me = out.getsockname()[0].partition("%")[0]
            filters = [
                SourceFilter("incl", ("2001:db8::1", me)),
                SourceFilter("excl", ("2001:db8::1",)),
                SourceFilter("excl", (me,)),
            ]
            pairs = [Pair.listen(Address(group, port), name, senders) for senders in filters]
            heard: list[set[bytes]] = [set(), set(), set()]

            def take() -> bool:
                for found, pair in zip(heard, pairs, strict=True):
                    found.update(drain(pair.rtp, 100, pair.senders))
                return bool(heard[0] and heard[1])

            await until(take, lambda: void(out.send(b"x")))
            assert heard == [{b"x"}, {b"x"}, set()]
            rows = Path("/proc/net/mcfilter6").read_text().split()
            assert socket.inet_pton(socket.AF_INET6, me).hex() in rows, "the system is told"
            for pair in pairs:
                pair.close()

    asyncio.run(run())


@pytest.mark.parametrize("by", ["name", "address"])
def test_receivers_of_ipv6_groups(by: str) -> None:
    """The carousel, the push and the ear of the STKMs; the interface is told as for IPv4, or by its name."""

    async def run() -> None:
        port, group = free_port(), "ff15::4362"
        with sender6(group, port) as (name, out):
            me = out.getsockname()[0].partition("%")[0]
            interface = name if by == "name" else address4(name)
            heard: dict[str, set[bytes]] = {"push": set(), "ear": set()}
            push = LtkmListener(group, port, interface, senders=SourceFilter("incl", (me,)), on_message=heard["push"].add)
            other = LtkmListener(
                group, port, interface, senders=SourceFilter("excl", (me,)), on_message=lambda _: pytest.fail("not of its senders")
            )
            carousel = CarouselReceiver(group, port, 1, interface)
            ear = Listener([(group, port)], interface, lambda _, data: heard["ear"].add(data), [SourceFilter("incl", (me,))])
            async with push, other, carousel:
                ear.start()
                await until(lambda: all(heard.values()) and carousel.sessions.counts["foreign"] > 0, lambda: void(out.send(b"x")))
                ear.stop()
            assert heard == {"push": {b"x"}, "ear": {b"x"}}

    asyncio.run(run())


def test_an_interface_by_its_name_or_address() -> None:
    (lo,) = [index for index, name in socket.if_nameindex() if name == "lo"]
    assert [interface_index(text) for text in ("", "0.0.0.0", "lo", "127.0.0.1")] == [0, 0, lo, lo]
    for unknown in ("nowhere", "203.0.113.9"):
        with pytest.raises(OSError):
            interface_index(unknown)
        with pytest.raises(ConfigError, match=r"\[ff15::1\]:1: "):
            hearing(("ff15::1", 1), unknown)
    hearing(("239.1.1.1", free_port()), "lo").close()
    for place in (("no.such.host.invalid", 1), ("192.0.2.77", 1), ("a" * 70 + ".example", 1)):
        with pytest.raises(ConfigError, match=place[0]):
            hearing(place, "")


def void(_: object) -> None:
    """For an expression whose value nobody needs."""


def test_names() -> None:
    assert SourceFilter("incl", ("localhost",)).resolved(socket.AF_INET) == SourceFilter("incl", ("127.0.0.1",))
    assert SourceFilter("excl", (HONEST,)).resolved(socket.AF_INET6) == SourceFilter("excl", (HONEST,))
    for name in ("no.such.host.invalid", "a" * 70 + ".example"):
        with pytest.raises(ConfigError, match="no address of this host"):
            SourceFilter("incl", (name,)).resolved(socket.AF_INET)
    assert (family_of("::1"), family_of("h.example")) == (socket.AF_INET6, socket.AF_INET)
    assert [is_ip(text) for text in ("::1", "fe80::1%lo", "1.2.3.4", "h.example")] == [True, False, True, False]
    assert str(ONLY) == "only from 127.0.0.1" and str(BUT) == "not from 127.0.0.2"
    assert SourceFilter("incl", ("fe80::1",)).admits("fe80::1%eth0")
