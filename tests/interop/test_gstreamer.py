# SPDX-License-Identifier: Apache-2.0
"""GStreamer and FFmpeg carry H.264 through key changes with no lost picture, told of keys by key sockets alone."""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from gst import PATIENCE, FfmpegEncoder, FfmpegPlayer, GstHeadend, GstReceiver, need_gstreamer, requires_ffmpeg
from outlet_support import SERVICE, KeySocket, key_socket, mki, ready, use

from pybcast.flows import StopTraffic, TekExpired
from pybcast.outlets import SrtpProtector
from pybcast.outlets.udp import Address, Pair, drain, sending

pytestmark = pytest.mark.media
CHANGES: Final = 30
STEP: Final = 10  # pictures under one key


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[KeySocket, KeySocket]]:
    """Of a BSD/A for the headend, of a terminal for the player."""
    with key_socket(tmp_path / "bsda.sock") as head, key_socket(tmp_path / "terminal.sock") as tail:
        yield head, tail


def free_port() -> int:
    with closing(Pair.bind()) as pair:
        return pair.port


def begin(head: KeySocket, tail: KeySocket) -> None:
    """The first key is in use, the second is known to terminals."""
    head.put(use(1))
    tail.put(ready(1), ready(2))


def change(head: KeySocket, tail: KeySocket, number: int) -> None:
    """Key ``number`` into use; terminals hear of the next."""
    tail.put(ready(number + 1))
    head.put(use(number))


@contextmanager
def pybcast(*arguments: str) -> Iterator[None]:
    """A process of pybcast that follows keys; it ends well on SIGTERM."""
    command = [sys.executable, "-m", "pybcast.cli", *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "keys-connected" in line:
                    break
            yield
            process.terminate()
            process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
        finally:
            process.kill()


def test_thirty_key_changes_and_no_lost_picture(sockets: tuple[KeySocket, KeySocket]) -> None:
    need_gstreamer()
    head, tail = sockets
    begin(head, tail)
    way = f"127.0.0.1:{free_port()}"
    with GstReceiver(tail.path, SERVICE, way) as player, GstHeadend(head.path, SERVICE, way, rate=100) as encoder:
        encoder.start()
        for number in range(2, CHANGES + 2):
            assert player.wait((number - 1) * STEP), (player.tail(), encoder.tail())
            change(head, tail, number)
        assert player.wait((CHANGES + 1) * STEP)
        sent = encoder.finish()
        assert player.wait(sent)
        assert player.finish() == list(range(sent))
        assert encoder.figures()["changes"] == CHANGES
        assert encoder.figures()["packets"] == player.figures()["packets"] > sent


def test_dark_without_keys_and_silent_without_authority(sockets: tuple[KeySocket, KeySocket]) -> None:
    """Key sockets die and come back; a stop is a stop; a key that expired opens nothing, and a new one does again."""
    need_gstreamer()
    head, tail = sockets
    head.put(use(1))
    way = f"127.0.0.1:{free_port()}"
    with GstReceiver(tail.path, SERVICE, way) as player, GstHeadend(head.path, SERVICE, way, rate=50) as encoder:
        encoder.start()
        assert not player.wait(1, 1.0), "without a key"
        tail.put(ready(1))
        assert player.wait(10)
        head.stop()
        tail.stop()
        assert player.wait(30), "with nobody to ask"
        head.start()
        tail.start()
        tail.wait_reader()
        tail.put(ready(1), TekExpired(SERVICE, 1, mki(1)))
        while player.wait(len(player.seen) + 1, 0.5):
            assert len(player.seen) < 500, "dark"
        head.put(use(2))
        tail.put(ready(2))
        shown = len(player.seen)
        assert player.wait(shown + 10)
        head.put(StopTraffic(SERVICE, 1))
        while player.wait(len(player.seen) + 1, 0.5):
            assert len(player.seen) < 500, "stopped"
        encoder.finish()
        assert encoder.figures()["dropped"] > 0
        numbers = [number for number in player.finish() if number is not None]
        assert numbers == sorted(numbers)


@requires_ffmpeg
def test_ffmpeg_in_front_of_protect_and_behind_relay(sockets: tuple[KeySocket, KeySocket], tmp_path: Path) -> None:
    head, tail = sockets
    begin(head, tail)
    clear, air, shown = (f"127.0.0.1:{free_port()}" for _ in range(3))
    with ExitStack() as stack:
        stack.enter_context(pybcast("protect", "--keys", str(head.path), "--service", SERVICE, "--from", clear, "--to", air))
        stack.enter_context(pybcast("relay", "--keys", str(tail.path), "--service", SERVICE, "--from", air, "--to", shown))
        player = stack.enter_context(FfmpegPlayer(int(shown.rpartition(":")[2]), tmp_path))
        encoder = stack.enter_context(FfmpegEncoder(clear, rate=50))
        encoder.start()
        for number in range(2, 12):
            assert player.wait((number - 1) * STEP), (player.tail(), encoder.tail())
            change(head, tail, number)
        sent = encoder.finish()
        player.wait(sent, player.HOLDS_BACK)
        assert player.finish() == list(range(sent))


@requires_ffmpeg
@pytest.mark.parametrize("lead", [20, 100], ids="the wrap after {} packets".format)
def test_the_rollover_counter_is_handed_over_to_srtpdec(sockets: tuple[KeySocket, KeySocket], lead: int) -> None:
    """The sequence numbers of ffmpeg wrap (R39); keys change before and after, and a receiver that began before goes on."""
    need_gstreamer()
    head, tail = sockets
    begin(head, tail)
    clear, air = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(pybcast("protect", "--keys", str(head.path), "--service", SERVICE, "--from", clear, "--to", air))
        player = stack.enter_context(GstReceiver(tail.path, SERVICE, air))
        encoder = stack.enter_context(FfmpegEncoder(clear, rate=100, seq=65_536 - lead))
        encoder.start()
        for number in range(2, 16):
            assert player.wait((number - 1) * STEP), (player.tail(), encoder.tail())
            change(head, tail, number)
        sent = encoder.finish()
        assert player.wait(sent)
        assert player.finish() == list(range(sent))


@requires_ffmpeg
def test_a_receiver_that_tunes_in_after_a_wrap_finds_the_rollover_counter(sockets: tuple[KeySocket, KeySocket]) -> None:
    """By trying (R39); from the first picture that it shows on, it loses none."""
    need_gstreamer()
    head, tail = sockets
    begin(head, tail)
    clear, air = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(pybcast("protect", "--keys", str(head.path), "--service", SERVICE, "--from", clear, "--to", air))
        encoder = stack.enter_context(FfmpegEncoder(clear, rate=100, seq=65_536 - 20))
        encoder.start()
        while encoder.sent < 50:
            assert encoder.process.poll() is None
            time.sleep(0.01)
        player = stack.enter_context(GstReceiver(tail.path, SERVICE, air))
        assert player.wait(1), player.tail()
        for number in range(2, 6):
            assert player.wait((number - 1) * STEP)
            change(head, tail, number)
        sent = encoder.finish()
        assert player.wait_number(sent - 1)
        shown = player.finish()
        assert shown[0] and shown == list(range(shown[0], sent))


class Leap(threading.Thread):
    """Protects what comes from an encoder, as a headend does; from a moment on the sequence numbers are 40,000 further."""

    def __init__(self, source: Pair, to: str) -> None:
        super().__init__()
        self.source, self.out = source, sending(Address.parse(to))
        self.leap = self.over = False
        self.protector = SrtpProtector()
        first = use(1)
        assert first.salt is not None
        self.protector.set_key(first.mki, first.tek, first.salt)

    def run(self) -> None:
        offset = 0
        while not self.over:
            if not select.select([self.source.rtp], [], [], 0.1)[0]:
                continue
            for packet in drain(self.source.rtp):
                if self.leap and not offset:
                    offset = 40_000
                    self.protector.protect(self._moved(packet, 20_000))  # which nobody hears
                self.out.rtp.send(self.protector.protect(self._moved(packet, offset)))
        self.out.close()

    @staticmethod
    def _moved(packet: bytes, offset: int) -> bytes:
        return packet[:2] + (int.from_bytes(packet[2:4]) + offset & 0xFFFF).to_bytes(2) + packet[4:]


@requires_ffmpeg
def test_a_receiver_that_lost_forty_thousand_packets_under_one_key_shows_pictures_again(
    sockets: tuple[KeySocket, KeySocket],
) -> None:
    need_gstreamer()
    _, tail = sockets
    tail.put(ready(1))
    with ExitStack() as stack:
        source = stack.enter_context(closing(Pair.bind()))
        air = f"127.0.0.1:{free_port()}"
        leap = Leap(source, air)
        player = stack.enter_context(GstReceiver(tail.path, SERVICE, air))
        encoder = stack.enter_context(FfmpegEncoder(f"127.0.0.1:{source.port}", rate=50, seq=40_000))
        leap.start()
        try:
            encoder.start()
            assert player.wait(20), player.tail()
            leap.leap = True
            shown = encoder.sent
            assert player.wait_number(shown + 100), player.tail()
            encoder.finish()
        finally:
            leap.over = True
            leap.join()
