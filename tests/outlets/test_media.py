# SPDX-License-Identifier: Apache-2.0
"""Protecting an encoder's stream and opening it for a player: keys that change under traffic, authority, wrong packets, wraps."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outlet_support import FAR, SERVICE, KeySocket, key_socket, mki, ready, rtp, salt, tek, use

from pybcast.cli.app import run as run_cli
from pybcast.cli.protect import protect as protect_command
from pybcast.errors import ConfigError
from pybcast.flows import Alarm, NextKey, StopTraffic, TekExpired, TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.keyline import HANDOVER
from pybcast.outlets.media import Route, Routing, figures_line
from pybcast.outlets.protect import FROM_ENCODER, KEPT, MTU, Positions, Protect
from pybcast.outlets.relay import Open
from pybcast.outlets.srtp import MAX_KEYS, ROC_TRIES
from pybcast.outlets.udp import Address, Pair, drain, headers, sending
from pybcast.secret import Secret

PATIENCE: Final = 30  # seconds for something that takes milliseconds
STOP: Final = StopTraffic(SERVICE, 1)


class Bench:
    """An encoder's and a player's side, without sockets."""

    def __init__(self, mtu: int = MTU) -> None:
        self.alarms: list[Alarm] = []
        self.head = Protect(SERVICE, 1, self.alarms.append, mtu=mtu)
        self.tail = Open(SERVICE, 1, self.alarms.append)
        self.on_air: list[bytes] = []

    def said(self) -> list[tuple[str, bool]]:
        """The alarms since the last call."""
        found = [(alarm.code, alarm.active) for alarm in self.alarms]
        self.alarms.clear()
        return found

    def carry(self, index: int, now: float = 0.0, **packet: int) -> bytes | None:
        protected = self.head.convert(rtp(index, **packet), now)
        if protected is None:
            return None
        self.on_air.append(protected)
        return self.tail.convert(protected, now)

    def protect(self, index: int) -> bytes:
        """A packet that goes out."""
        protected = self.head.convert(rtp(index), 0.0)
        assert protected is not None
        return protected


def test_keys_change_under_traffic_and_reordered_packets_still_open() -> None:
    bench, rng = Bench(), random.Random(5)
    protected = []
    for index in range(3000):
        if index % 100 == 0:
            bench.head.put(use(index // 100 + 1))
        packet = bench.head.convert(rtp(index), 0.0)
        assert packet is not None and packet[-16:-10] == mki(index // 100 + 1)
        protected.append((index, packet))
    for start in range(0, 3000, 20):  # each reordered by less than 20
        for index, packet in rng.sample(protected[start : start + 20], 20):
            for number in (index // 100 + 1, index // 100 + 2):
                bench.tail.put(ready(number))
            assert bench.tail.convert(packet, 0.0) == rtp(index)
    assert (bench.head.changes, bench.head.protected, bench.tail.opened) == (30, 3000, 3000)
    assert len(bench.tail.mkis) == MAX_KEYS and bench.said() == []


def test_nothing_goes_out_before_a_key_or_after_stop_or_the_end_of_authority() -> None:
    bench = Bench()
    bench.tail.put(ready(1))
    bench.tail.put(ready(2))
    assert bench.carry(0) is None and not bench.head.may_pass(0.0)
    bench.head.put(use(1, end=100))
    assert bench.carry(1, 99.9 + HANDOVER) == rtp(1) and bench.head.may_pass(99.9 + HANDOVER), "the next key's line may be late"
    bench.head.put(STOP)
    assert bench.carry(2, 50.0) is None and not bench.head.may_pass(50.0)
    assert bench.said() == [("no-authority", True)]
    bench.head.put(use(1, end=100))  # the same key: it goes on
    assert bench.carry(3, 99.9) == rtp(3)
    assert bench.carry(4, 100 + HANDOVER) is None and not bench.head.may_pass(100 + HANDOVER)
    assert bench.carry(5, 99.0) is None, "a clock that is put back brings no authority back"
    assert bench.said() == [("no-authority", False), ("no-authority", True)]
    bench.head.put(use(1, end=200))  # its right was extended
    assert bench.carry(6, 150.0) == rtp(6)
    bench.head.put(use(2))
    assert bench.carry(7, 9e9) == rtp(7), "no end is known"
    assert bench.head.figures() == {
        "mki": mki(2).hex(), "roc": 0, "protected": 4, "stopped": 4, "refused": 0, "too_large": 0, "changes": 2, "alarms": [],
    }  # fmt: skip


def test_a_key_that_was_named_ahead_is_taken_at_its_start() -> None:
    """R47: whoever is dead then."""
    bench = Bench()
    for number in (1, 10, 20, 30):
        bench.tail.put(ready(number))
    bench.head.put(NextKey(use(10), 20))
    assert bench.carry(0, 9.9) is None and not bench.head.may_pass(9.9) and bench.head.may_pass(10.0)
    assert bench.carry(1, 10.0) == rtp(1), "the first key of all"
    bench.head.put(NextKey(use(20, end=25), 30))
    assert bench.carry(2, 19.9) == rtp(2) and bench.on_air[-1][-16:-10] == mki(10)
    assert bench.carry(3, 20.0) == rtp(3) and bench.on_air[-1][-16:-10] == mki(20)
    bench.head.put(use(20, end=25))  # its own line comes late: nothing changes
    assert bench.carry(4, 24.0) == rtp(4) and bench.head.changes == 2
    bench.head.put(NextKey(use(30), 40))
    bench.head.put(STOP)
    assert bench.carry(5, 31.0) is None, "stop takes back what was named ahead"
    bench.head.put(NextKey(use(30), 40))
    bench.head.put(use(20))
    assert bench.carry(6, 31.0) == rtp(6) and bench.on_air[-1][-16:-10] == mki(20), "and so does another key"
    bench.said()
    bench.head.put(use(20, end=31))
    bench.head.put(NextKey(use(30), 40))
    bench.head.look(30.9)
    bench.head.look(31.0)
    assert bench.head.changes == 3 and bench.said() == [], "it takes it when no packet comes, too"
    bench.head.put(NextKey(use(40), 50))
    bench.head.wipe()
    assert not bench.head.may_pass(41.0)


def test_an_end_of_authority_is_alarmed_when_no_packet_comes() -> None:
    bench = Bench()
    bench.head.look(5.0)
    assert bench.said() == []
    bench.head.put(use(1, end=100))
    bench.head.look(99.9)
    assert bench.said() == []
    bench.head.look(100.0)
    bench.head.look(101.0)
    assert bench.said() == [("no-authority", True)]


@pytest.mark.parametrize(
    "wrong",
    [
        use(2, protocol=Protocol.IPSEC),
        UseKey(SERVICE, 1, 2, Protocol.SRTP, mki(2), tek(2), None, None, None),
        UseKey(SERVICE, 1, 2, Protocol.SRTP, mki(2)[1:], tek(2), salt(2), None, None),
        UseKey(SERVICE, 1, 2, Protocol.SRTP, mki(1), tek(2), salt(2), None, None),
    ],
    ids=["IPsec", "no salt", "shorter MKI", "MKI of another key"],
)
def test_a_key_that_cannot_be_used_leaves_the_last_one(wrong: UseKey) -> None:
    bench = Bench()
    bench.head.put(use(1, end=100))
    bench.tail.put(ready(1))
    bench.head.put(wrong)
    assert bench.carry(1, 99.0) == rtp(1)
    assert bench.carry(2, 100 + HANDOVER) is None, "and its authority is not longer"
    bench.head.put(use(3))
    assert bench.said() == [("key-refused", True), ("no-authority", True), ("key-refused", False), ("no-authority", False)]


@given(st.binary(max_size=60) | st.integers(0, 1500).map(bytes))
@settings(max_examples=50)
def test_what_is_no_media_goes_nowhere(packet: bytes) -> None:
    bench = Bench()
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    protected = bench.head.convert(packet, 0.0)
    assert (protected is None) == (bench.head.refused == 1)
    assert bench.tail.convert(packet, 0.0) is None
    if protected is None:
        assert bench.said() == [("media-refused", True)]
        bench.head.look(0.0)
        bench.head.look(0.0)
        assert bench.said() == [("media-refused", False)]
    assert bench.carry(40_000) == rtp(40_000)


def test_packets_that_are_refused_for_ever_new_reasons_are_one_alarm() -> None:
    bench = Bench()
    bench.head.put(use(1))
    bench.protect(9)
    for number in range(5):
        assert bench.head.convert(rtp(0x8100 + number), 0.0) is None, "out of reach, and its error names the number"
        bench.head.look(0.0)
    assert bench.said() == [("media-refused", True)]


def test_damaged_and_doubled_packets_are_dropped_and_counted() -> None:
    bench, rng = Bench(), random.Random(9)
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    opened = []
    for index in range(1, 500):
        packet = bench.head.convert(rtp(index), 0.0)
        assert packet is not None
        damaged = bytearray(packet)
        damaged[rng.randrange(12, len(packet))] ^= 1 << rng.randrange(8)
        for sent in (bytes(damaged), packet, packet):
            if (clear := bench.tail.convert(sent, 0.0)) is not None:
                opened.append(clear)
    assert opened == [rtp(index) for index in range(1, 500)]
    tail = bench.tail
    assert (tail.opened, tail.repeated, tail.refused + tail.without_key) == (499, 499, 499)
    assert tail.without_key and tail.refused


@pytest.mark.parametrize("seed", range(5))
def test_an_air_that_loses_doubles_reorders_and_damages(seed: int) -> None:
    """Through 30 key changes and a wrap: all that came undamaged opens, once, in the order in which it came."""
    bench, rng = Bench(), random.Random(seed)
    air: list[tuple[float, int, bytes]] = []
    for at in range(3000):
        index = 65_536 - 1500 + at
        if at % 100 == 0:
            bench.head.put(use(at // 100 + 1))
        packet = bench.head.convert(rtp(index), 0.0)
        assert packet is not None
        for _ in range(1 + (rng.random() < 0.1)):
            late = rng.uniform(0, 30) if rng.random() < 0.1 else 0.0
            damaged = bytearray(packet)
            if rng.random() < 0.1:
                damaged[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
            if rng.random() >= 0.1:
                air.append((at + late, index, bytes(damaged)))
    air.sort(key=lambda arrival: arrival[0])
    shown: list[int] = []
    expected: list[int] = []
    for when, index, packet in air:
        number = min(int(when) // 100 + 2, 30)
        for known in range(max(1, number - 3), number + 1):
            bench.tail.put(ready(known))
        clear = bench.tail.convert(packet, 0.0)
        if clear is not None:
            assert clear == rtp(index)
            shown.append(index)
        if index not in expected[-200:] and (clear is not None or _intact(packet, index)):
            expected.append(index)
    assert shown == expected and len(shown) > 2400
    assert bench.tail.repeated and bench.tail.refused


def _intact(packet: bytes, index: int) -> bool:
    """Is it what the headend sent?  (Made anew: protection is a function of key and index.)"""
    head = Protect(SERVICE, 1, lambda alarm: None)
    head.resume({0xCAFEBABE: index - 1})
    head.put(use((index - (65_536 - 1500)) // 100 + 1))
    return head.convert(rtp(index), 0.0) == packet


def test_keys_end_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.head.put(use(1))
    bench.tail.look(0.0)
    assert not bench.tail.may_pass(0.0)
    bench.tail.put(ready(1, until=100))
    bench.tail.put(ready(1, until=120))  # heard again
    assert bench.carry(1, 119.9) == rtp(1) and bench.tail.may_pass(119.9)
    assert bench.carry(2, 120.0) is None and bench.tail.mkis == () and not bench.tail.may_pass(0.0)
    bench.tail.look(120.0)
    bench.tail.look(121.0)
    assert bench.said() == []
    assert bench.carry(3, 121.0) is None
    bench.tail.look(122.0)
    assert bench.carry(4, 122.5) is None
    bench.tail.look(123.0)
    assert bench.said() == [("dark", True)]
    bench.tail.put(ready(1))
    assert bench.carry(5) == rtp(5)
    bench.tail.look(124.0)
    assert bench.said() == [("dark", False)]
    bench.tail.put(TekExpired(SERVICE, 1, mki(1)))
    assert bench.carry(6) is None and bench.tail.without_key == 4
    bench.tail.put(UseKey(SERVICE, 1, 0, Protocol.SRTP, mki(1), tek(1), salt(1), None, None))
    assert bench.tail.mkis == (), "a line for encoders"
    bench.head.put(ready(2))
    assert bench.head.figures()["mki"] == mki(1).hex()


def test_the_rollover_counter_goes_on_over_keys_and_processes(tmp_path: Path) -> None:
    """65,536 packets and more (R39): a key change on either side of the wrap, then a headend and a terminal that start anew."""
    bench = Bench()
    index = 65_536 - 300
    for number in (1, 2, 3):  # the second key lasts over the wrap
        bench.head.put(use(number))
        bench.tail.put(ready(number))
        for _ in range(200):
            index += 1
            assert bench.carry(index) == rtp(index)
    assert bench.head.figures()["roc"] == 1
    positions = Positions(tmp_path / "positions", [bench.head])
    positions.save()
    index += 5000  # that much was sent after the file was written, by a process that then died
    late = Bench()
    again = Positions(tmp_path / "positions", [late.head])
    again.load()
    late.head.put(use(3))
    late.tail.put(ready(3))
    protected = late.head.convert(rtp(index), 0.0)
    assert protected is not None
    assert late.tail.convert(protected, 0.0) == rtp(index), "one that tunes in"
    assert bench.tail.convert(protected, 0.0) == rtp(index), "one that has heard all"
    again.save()
    assert json.loads((tmp_path / "positions").read_text()) == {f"1 {SERVICE}": {"cafebabe": index}}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"1 urn:example:news": {"cafebabe": -1}}', '{"1 urn:example:news": [1]}', "\xff", "[" * 99_999]
)
def test_damaged_positions_are_none(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "positions").write_text(text, "latin-1")
    bench = Bench()
    Positions(tmp_path / "positions", [bench.head]).load()
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    assert bench.carry(7) == rtp(7)
    assert "no positions of streams in it" in caplog.text


def test_positions_that_cannot_be_written_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.head.put(use(1))
    bench.carry(1)
    positions = Positions(tmp_path / "missing" / "positions", [bench.head])
    positions.load()
    positions.save()
    positions.save()
    assert caplog.text.count("cannot write positions") == 1


def test_a_stream_that_wrapped_too_often_is_alarmed() -> None:
    bench = Bench()
    bench.head.resume({0xCAFEBABE: (ROC_TRIES << 16) - 2})
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    for index in range((ROC_TRIES << 16) - 1, (ROC_TRIES << 16) + 2):
        bench.carry(index)
    bench.head.look(0.0)
    bench.tail.look(0.0)
    assert bench.said() == [("restart-stream", True)]
    late = Open(SERVICE, 1, bench.alarms.append)
    late.put(ready(1))
    protected = bench.head.convert(rtp((ROC_TRIES << 16) + 2), 0.0)
    assert protected is not None
    for _ in range(2):
        assert late.convert(protected, 0.0) is None
        late.look(0.0)
    assert [alarm.text for alarm in bench.alarms] == ["packets come and none opens; the last one: integrity check failed"]
    assert bench.said() == [("dark", True)]


CAUSES: Final[dict[str, Callable[[Bench, bytes, int], bytes]]] = {
    "a key that is not held": lambda bench, good, n: good[:-16] + mki(9) + good[-10:],
    "a wrong tag": lambda bench, good, n: good[:-10] + bytes(10),
    "a damaged payload": lambda bench, good, n: good[:12] + bytes([good[12] ^ 1]) + good[13:],
    "repeated packets": lambda bench, good, n: bench.on_air[0],
    "a forged stream": lambda bench, good, n: rtp(n, ssrc=n) + mki(1) + bytes(10),
    "RTP in clear": lambda bench, good, n: rtp(n),
    "no RTP at all": lambda bench, good, n: b"\x40" + good[1:],
    "too short": lambda bench, good, n: good[:20],
    "nothing in them": lambda bench, good, n: b"",
    "a header that is longer than the packet": lambda bench, good, n: b"\x8f" + good[1:20] + mki(1) + bytes(10),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_packets_that_come_and_do_not_open_for_a_second_are_one_alarm(cause: str) -> None:
    bench = Bench()
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    assert bench.carry(0) == rtp(0)
    bench.tail.look(0.0)
    for second in range(1, 10):
        for number in range(50):
            good = bench.protect(50 * second + number)
            assert bench.tail.convert(CAUSES[cause](bench, good, 50 * second + number), 0.0) is None
        bench.tail.look(0.0)
        assert bench.said() == [("dark", True)] * (second == 2), second
    assert bench.tail.figures()["alarms"] == ["dark"]
    assert bench.carry(600) == rtp(600)
    bench.tail.look(0.0)
    assert bench.said() == [("dark", False)]


def test_a_stray_packet_is_no_alarm() -> None:
    bench = Bench()
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    for index in range(10):
        bench.tail.convert(b"stray", 0.0)
        bench.tail.look(0.0)
        assert bench.carry(index) == rtp(index)
        bench.tail.look(0.0)
    bench.tail.look(0.0)
    assert bench.said() == []


def test_forty_thousand_lost_packets_under_one_key() -> None:
    """It opens again within 100 packets; until then one alarm, however slowly they come."""
    bench = Bench()
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    assert bench.carry(7) == rtp(7)
    bench.tail.look(0.0)
    for index in range(8, 40_008):
        bench.protect(index)
    told = []
    for index in range(40_008, 40_108):
        opened = bench.carry(index)
        bench.tail.look(0.0)
        told += bench.said()
        if opened is not None:
            break
    assert opened == rtp(index) and index < 40_108
    assert told == [("dark", True), ("dark", False)]
    assert all(bench.carry(index) == rtp(index) for index in range(40_108, 40_400))


# Sizes


@pytest.mark.parametrize("overhead", [28, 48])
@pytest.mark.parametrize("size", [1344, 1356, 1360, 1400, 1460, FROM_ENCODER])
def test_what_encoders_make_for_ethernet_goes_through_without_a_word(size: int, overhead: int) -> None:
    alarms: list[Alarm] = []
    head, tail = Protect(SERVICE, 1, alarms.append, headers=overhead), Open(SERVICE, 1, alarms.append)
    longest = bytes(range(16))
    head.put(UseKey(SERVICE, 1, 1, Protocol.SRTP, longest, tek(1), salt(1), None, None))
    tail.put(TekReady(SERVICE, 1, longest, tek(1), salt(1), None, FAR, Protocol.SRTP))
    for index in range(3):
        packet = rtp(index, size=size - 12)
        protected = head.convert(packet, 0.0)
        assert len(packet) == size and protected is not None and len(protected) + overhead <= MTU
        assert tail.convert(protected, 0.0) == packet
    assert alarms == [] and head.refused == head.too_large == 0


@pytest.mark.parametrize("mtu", [128, 576, 1280, 1500, MTU, 9000, 65_535])
def test_a_packet_above_the_mtu_is_told_once_and_counted(mtu: int) -> None:
    bench = Bench(mtu=mtu)
    bench.head.put(use(1))
    bench.tail.put(ready(1))
    largest = (mtu - 28 - 16) // 4 * 4
    assert bench.carry(0, size=largest - 12) == rtp(0, size=largest - 12)
    for index in range(1, 200, 2):
        assert bench.carry(index, size=largest - 12 + 4) is None
        assert bench.carry(index + 1) == rtp(index + 1), "the others go on"
        bench.head.look(0.0)
    assert bench.head.figures()["too_large"] == 100 and bench.head.refused == 0
    (alarm,) = bench.alarms
    assert alarm.text.startswith(f"RTP of {largest + 4} bytes would be above the MTU of {mtu}")
    assert alarm.text.endswith(f"let the encoder make {mtu - 44} bytes at most")
    bench.alarms.clear()
    for _ in range(KEPT + 1):
        bench.head.look(0.0)
    assert bench.said() == [("packet-too-large", False)]


# Sockets


def receive(source: socket.socket) -> bytes:
    assert select.select([source], [], [], PATIENCE)[0], "nothing came"
    return source.recv(2048)


def own_port() -> Address:
    """A free even port with the next free too."""
    with closing(Pair.bind()) as pair:
        return Address("127.0.0.1", pair.port)


def test_a_route_loses_what_nobody_takes_and_goes_on() -> None:
    head = Protect(SERVICE, 1)
    head.put(use(1))
    with ExitStack() as stack:
        source, sink, gone = (stack.enter_context(closing(Pair.bind())) for _ in range(3))
        dead = Address("127.0.0.1", gone.port)
        gone.close()
        outs = [sending(dead), sending(Address("127.0.0.1", sink.port))]
        route = Route(head, source, outs, lambda: 5.0)
        with closing(sending(Address("127.0.0.1", source.port))) as encoder:
            for index in range(5):
                encoder.rtp.send(rtp(index))
                encoder.rtcp.send(b"\x80\xc8report")
                route.carry()
                route.carry_rtcp()
                assert len(receive(sink.rtp)) == len(rtp(0)) + 16
                assert receive(sink.rtcp) == b"\x80\xc8report"
        head.put(STOP)
        with closing(sending(Address("127.0.0.1", source.port))) as encoder:
            encoder.rtcp.send(b"\x80\xc8report")
            encoder.rtp.send(rtp(6))
            route.carry()
            route.carry_rtcp()
        assert not list(drain(sink.rtcp)) and not list(drain(sink.rtp)), "nothing at all leaves"
        assert route.figures()["sent"] + route.figures()["lost"] == 20
        for out in outs:
            out.close()


@pytest.mark.parametrize("text", ["", "localhost:5000", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65535", "1.2.3.4:x", "::1", ":5000"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:5000", "[::1]:5000", "239.1.2.3:65534"])
def test_addresses(text: str) -> None:
    assert str(Address.parse(text)) == text
    assert Address.parse(text).multicast is text.startswith("239")


def test_media_over_multicast() -> None:
    """On loopback alone, as its interface says; what others have joined on the same port is not heard."""
    port = own_port().port
    group, other = Address("239.255.77.1", port), Address("239.255.77.2", port)
    try:
        with ExitStack() as stack:
            listening = stack.enter_context(closing(Pair.listen(group, "127.0.0.1")))
            besides = stack.enter_context(closing(Pair.listen(other, "127.0.0.1")))
            for address, packet in ((other, b"b"), (group, b"a")):
                out = stack.enter_context(closing(sending(address, "127.0.0.1", 0)))
                out.rtp.send(packet)
                out.rtcp.send(packet)
            assert [receive(listening.rtp), receive(besides.rtp), receive(listening.rtcp)] == [b"a", b"b", b"a"]
    except ConfigError as error:
        pytest.skip(f"no multicast on loopback here: {error}")


def test_several_streams_of_one_process_follow_one_socket(tmp_path: Path) -> None:
    services = ["urn:a", "urn:b"]
    said: list[dict[str, Any]] = []
    with ExitStack() as stack:
        keys = stack.enter_context(key_socket(tmp_path / "keys.sock"))
        keys.put(*(use(number, service=name) for number, name in enumerate(services, 1)))
        sinks = [stack.enter_context(closing(Pair.bind())) for _ in services]
        sources = [Pair.bind() for _ in services]
        routes = [
            Route(Protect(name), source, [sending(Address("127.0.0.1", sink.port))])
            for name, source, sink in zip(services, sources, sinks, strict=True)
        ]
        encoders = [stack.enter_context(closing(sending(Address("127.0.0.1", source.port)))) for source in sources]

        async def run() -> None:
            routing = Routing(keys.path, routes, tell=said.append)
            running = asyncio.create_task(routing.run())
            while not all(route.converter.may_pass(0.0) for route in routes):
                await asyncio.sleep(0.01)
            for number, encoder in enumerate(encoders, 1):
                encoder.rtp.send(rtp(number))
            routing.stop()  # what waits is still carried
            await asyncio.wait_for(running, PATIENCE)

        asyncio.run(run())
        assert [receive(sink.rtp)[-16:-10] for sink in sinks] == [mki(1), mki(2)]
    assert [(each["service"], each["protected"], each["keys"]) for each in said] == [("urn:a", 1, True), ("urn:b", 1, True)]
    assert figures_line(said[0]).startswith(f"urn:a stream 1: keys True, mki {mki(1).hex()}, roc 0, protected 1, stopped 0, ")
    assert figures_line(said[0]).endswith(", alarms none, sent 1, lost 0")


# Processes


class Process:
    """``pybcast protect`` or ``relay`` and the two ends of its way."""

    def __init__(self, stack: ExitStack, command: str, keys: Path, *more: str) -> None:
        self.source, self.sink = own_port(), stack.enter_context(closing(Pair.bind()))
        self.arguments = [
            command, "--keys", str(keys), "--service", SERVICE, "--from", str(self.source), "--to", f"127.0.0.1:{self.sink.port}",
            "--json", *more,
        ]  # fmt: skip
        self.out = stack.enter_context(closing(sending(self.source)))
        self.log: list[dict[str, Any]] = []
        self._start()
        stack.callback(self.kill)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pybcast.cli", *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, test: Callable[[dict[str, Any]], bool]) -> None:
        """Until the log says so."""
        assert self._process.stderr is not None
        overdue = threading.Timer(PATIENCE, self._process.kill)
        overdue.start()
        try:
            for line in self._process.stderr:
                self.log.append(json.loads(line))
                if test(self.log[-1]):
                    return
        finally:
            overdue.cancel()
        raise AssertionError(self.log)

    def event(self, name: str) -> None:
        self.wait_for(lambda record: record.get("event") == name)

    def kill(self) -> None:
        self._process.kill()
        with self._process:
            pass

    def restart(self) -> None:
        self.kill()
        self._start()

    def stop(self) -> dict[str, Any]:
        self._process.send_signal(signal.SIGTERM)
        said, log = self._process.communicate(timeout=PATIENCE)
        self.log += [json.loads(line) for line in log.splitlines()]
        assert self._process.returncode == 0
        figures: dict[str, Any] = json.loads(said.splitlines()[-1])
        return figures


@contextmanager
def started(tmp_path: Path, command: str, *more: str) -> Iterator[tuple[Process, KeySocket]]:
    with ExitStack() as stack:
        keys = stack.enter_context(key_socket(tmp_path / "keys.sock"))
        process = Process(stack, command, keys.path, *more)
        process.event("keys-connected")
        yield process, keys


def pump(process: Process, index: int, number: int, tail: Open) -> None:
    """Send packet ``index`` until it comes out under key ``number``: nobody says when a line has been read."""
    for _ in range(3000):
        process.out.rtp.send(rtp(index))
        if select.select([process.sink.rtp], [], [], 0.02)[0]:
            packet = process.sink.rtp.recv(2048)
            assert tail.convert(packet, 0.0) == rtp(index)
            if packet[-16:-10] == mki(number):
                return
            index += 1
    raise AssertionError(f"key {number} is not used")


def test_protect_holds_its_key_when_the_bsda_dies_and_stops_when_told(tmp_path: Path) -> None:
    tail = Open(SERVICE)
    for number in range(1, 5):
        tail.put(ready(number))
    with started(tmp_path, "protect", "--positions", str(tmp_path / "positions")) as (process, keys):
        keys.put(use(1, service="urn:example:other"), use(1, end=FAR))
        pump(process, 65_300, 1, tail)
        keys.stop()
        process.event("keys-lost")
        for index in range(65_500, 65_600):  # over the wrap, with nobody there
            process.out.rtp.send(rtp(index))
            assert tail.convert(receive(process.sink.rtp), 0.0) == rtp(index)
        keys.start()
        keys.put(use(2, end=FAR))
        pump(process, 65_600, 2, tail)
        process.wait_for(lambda record: record.get("event") == "keys-connected")
        keys.put(use(2, end=1))  # an end of authority long ago
        process.wait_for(lambda record: record.get("code") == "no-authority" and record["active"])
        process.out.rtp.send(rtp(70_000))
        process.out.rtcp.send(b"\x80\xc8report")
        keys.put(use(3))
        pump(process, 70_001, 3, tail)
        keys.put(STOP)
        process.wait_for(lambda record: record.get("code") == "no-authority" and record["active"])
        process.out.rtp.send(b"no media")
        keys.put(use(4))
        pump(process, 70_100, 4, tail)
        assert not list(drain(process.sink.rtcp))
        figures = process.stop()
        assert figures["event"] == "Statistics" and figures["service"] == SERVICE
        assert (figures["mki"], figures["roc"], figures["changes"], figures["lost"]) == (mki(4).hex(), 1, 4, 0)
        assert figures["protected"] == figures["sent"] >= 104 and figures["stopped"] >= 1
        text = json.dumps(process.log)
        assert not any(secret.hex() in text for n in range(5) for secret in (tek(n).reveal(), salt(n)))
        process.restart()  # under the same key, with the rollover counter that it had
        process.event("keys-connected")
        pump(process, 70_300, 4, tail)
        assert process.stop()["roc"] == 1


@contextmanager
def sending_until_told(process: Process, packets: list[bytes]) -> Iterator[None]:
    told = threading.Event()

    def send() -> None:
        for packet in packets:
            process.out.rtp.send(packet)
            if told.wait(0.3):
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        told.set()
        sender.join()


def test_relay_opens_with_what_a_terminal_says(tmp_path: Path) -> None:
    head, protected = Protect(SERVICE), b""
    with started(tmp_path, "relay", "--statistics", "0.5") as (process, keys):
        for number in range(1, 4):
            head.put(use(number))
            keys.put(ready(number))
            for index in range(number * 100, number * 100 + 3000):
                protected = head.convert(rtp(index), 0.0) or b""
                process.out.rtp.send(protected)
                if select.select([process.sink.rtp], [], [], 0.02)[0]:
                    assert receive(process.sink.rtp) == rtp(index)
                    break
        process.out.rtcp.send(b"\x80\xc8report")
        assert receive(process.sink.rtcp) == b"\x80\xc8report"
        keys.put(TekExpired(SERVICE, 1, mki(3)))
        process.out.rtp.send(b"foreign traffic")
        head.put(use(4))  # which this terminal has no right to
        with sending_until_told(process, [head.convert(rtp(index), 0.0) or b"" for index in range(4000, 4100)]):
            process.event("alarm")
        assert process.log[-1]["code"] == "dark"
        figures = process.stop()
        assert figures["mkis"] == [mki(1).hex(), mki(2).hex()] and figures["opened"] == 3 and figures["without_key"]
        assert not list(drain(process.sink.rtp))


def test_relay_goes_on_after_forty_thousand_lost_packets(tmp_path: Path) -> None:
    head = Protect(SERVICE)
    head.put(use(1))
    with started(tmp_path, "relay") as (process, keys):
        keys.put(ready(1))
        for index in range(3000):
            process.out.rtp.send(head.convert(rtp(index), 0.0) or b"")
            if select.select([process.sink.rtp], [], [], 0.02)[0]:
                break
        start = index + 40_000
        head.convert(rtp(index + 20_000), 0.0)  # which nobody hears
        for index in range(start, start + 100):
            process.out.rtp.send(head.convert(rtp(index), 0.0) or b"")
        shown: list[int] = []
        while not shown or shown[-1] < start + 99:
            shown.append(int.from_bytes(receive(process.sink.rtp)[12:16]))
        again = [index for index in shown if index >= start]
        assert start < again[0] < start + 50 and again == [*range(again[0], start + 100)]
        assert process.stop()["alarms"] == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--service", "a", "--from", "127.0.0.1:5000", "--to", "x"], "expected HOST:PORT"),
        (["--service", "a", "--service", "b", "--from", "127.0.0.1:5000", "--to", "127.0.0.1:5002"], "2 services: expected"),
        (["--service", "a", "--from", "192.0.2.1:5000", "--to", "127.0.0.1:5002"], "cannot listen at 192.0.2.1:5000"),
        (["--service", "a", "--from", "127.0.0.1:5000", "--to", "239.1.1.1:5000", "--interface", "x"], "cannot send to 239"),
        (["--service", "a", "--from", "127.0.0.1:5000", "--to", "[ff02::1]:5000", "--interface", "x"], "cannot send to [ff02"),
        (
            ["--service", "a", "--service", "a", "--from", "127.0.0.1:5000", "--from", "127.0.0.1:5004",
             "--to", "127.0.0.1:5002", "--to", "127.0.0.1:5006"],
            "given twice",
        ),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("protect", "relay"):
        assert run_cli([command, "--keys", "nowhere", *arguments]) == 2
        assert complaint in capsys.readouterr().err


def test_the_mtu_of_the_command_is_that_of_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.signature(protect_command).parameters["mtu"].default == MTU == 1546
    assert [headers(Address.parse(text)) for text in ("127.0.0.1:5000", "[::1]:5000")] == [28, 48]
    way = ["--service", "a", "--from", "127.0.0.1:5000", "--to", "127.0.0.1:5002"]
    for wrong in ("127", "65536", "1k", "-1"):
        assert run_cli(["protect", "--keys", "nowhere", *way, "--mtu", wrong]) == 2
        assert "--mtu" in capsys.readouterr().err


def test_datagrams_of_every_size_are_read_whole() -> None:
    """A packet that were cut would be protected as another."""
    head, tail = Protect(SERVICE, mtu=65_535), Open(SERVICE)
    head.put(use(1))
    tail.put(ready(1))
    with ExitStack() as stack:
        source, air, sink = (stack.enter_context(closing(Pair.bind())) for _ in range(3))
        first = Route(head, source, [stack.enter_context(closing(sending(Address("127.0.0.1", air.port))))])
        second = Route(tail, air, [stack.enter_context(closing(sending(Address("127.0.0.1", sink.port))))])
        encoder = stack.enter_context(closing(sending(Address("127.0.0.1", source.port))))
        for index, size in enumerate((12, 1400, 1472, 1500, 2036, 2048, 2052, 9000, 30_000, 65_480)):
            encoder.rtp.send(rtp(index, size=size - 12))
            first.carry()
            second.carry()
            assert select.select([sink.rtp], [], [], PATIENCE)[0]
            assert sink.rtp.recv(65_535) == rtp(index, size=size - 12)
        assert (first.lost, second.lost, tail.refused) == (0, 0, 0)


def test_keys_are_not_in_what_is_shown() -> None:
    head = Protect(SERVICE)
    head.put(UseKey(SERVICE, 1, 1, Protocol.SRTP, mki(1), Secret(b"K" * 16), b"S" * 14, None, None))
    assert "4b4b" not in f"{head.figures()}" and b"K".hex() * 3 not in repr(head._srtp)
