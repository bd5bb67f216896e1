# SPDX-License-Identifier: Apache-2.0
"""The packets that FFmpeg and GStreamer make when nobody tells them a size go through ``protect`` and ``relay`` without a word."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from gst import PATIENCE, need_gstreamer, requires_ffmpeg
from outlet_support import SERVICE, key_socket, ready, use

from pybcast.outlets.udp import Address, Pair

pytestmark = pytest.mark.media
PACKETS: Final = 150
FFMPEG: Final = "ffmpeg -nostdin -loglevel error -re -f lavfi -i testsrc2=size=640x360 -c:v mpeg4 -b:v 4M -f rtp rtp://{}"
GSTREAMER: Final = (
    "gst-launch-1.0 -q videotestsrc is-live=true pattern=snow ! video/x-raw,width=320,height=240 ! x264enc tune=zerolatency"
    " bitrate=3000 ! {} ! udpsink clients={{}}"
)


class Following:
    """``pybcast protect`` or ``relay``: what it logs, and its figures in the end."""

    def __init__(self, command: str, keys: Path, source: Address, target: Address, *more: str) -> None:
        way = ["--service", SERVICE, "--from", str(source), "--to", str(target), "--json", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pybcast.cli", command, "--keys", str(keys), *way],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.log: list[dict[str, Any]] = []
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1].get("event") == "keys-connected":
                self.ready.set()

    def finish(self) -> dict[str, Any]:
        self.process.terminate()
        assert self.process.stdout is not None
        figures: dict[str, Any] = json.loads(self.process.stdout.read().splitlines()[-1])
        assert self.process.wait(PATIENCE) == 0
        return figures

    def close(self) -> None:
        self.process.kill()
        self._reader.join(PATIENCE)
        with self.process:
            pass


@contextmanager
def encoding(command: str) -> Iterator[None]:
    with subprocess.Popen(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def through(tmp_path: Path, command: str, *more: str) -> tuple[Counter[int], dict[str, Any], dict[str, Any], list[str]]:
    """Sizes of what comes out behind relay, the figures of protect and of relay, the alarms of both."""
    with ExitStack() as stack:
        head, tail = (stack.enter_context(key_socket(tmp_path / f"{name}.sock")) for name in ("bsda", "terminal"))
        head.put(use(1))
        tail.put(ready(1))
        sink = stack.enter_context(closing(Pair.bind()))
        clear, air = (Address("127.0.0.1", port) for port in (free_port(), free_port()))
        protect = stack.enter_context(closing(Following("protect", head.path, clear, air, *more)))
        relay = stack.enter_context(closing(Following("relay", tail.path, air, Address("127.0.0.1", sink.port))))
        assert protect.ready.wait(PATIENCE) and relay.ready.wait(PATIENCE)
        sink.rtp.settimeout(PATIENCE)
        with encoding(command.replace("{}", str(clear))):
            sizes = Counter(len(sink.rtp.recv(65_535)) for _ in range(PACKETS))
        figures = protect.finish(), relay.finish()
        alarms = [record["code"] for each in (protect, relay) for record in each.log if record.get("event") == "alarm"]
    return sizes, *figures, alarms


def free_port() -> int:
    with closing(Pair.bind()) as pair:
        return pair.port


ENCODERS: Final = [
    pytest.param(FFMPEG, 1472, marks=requires_ffmpeg, id="ffmpeg"),
    pytest.param(GSTREAMER.format("rtph264pay"), 1400, id="GStreamer"),
    pytest.param(GSTREAMER.format("rtph264pay mtu=1460"), 1460, id="GStreamer, 1460"),
]


@pytest.mark.parametrize(("command", "largest"), ENCODERS)
def test_every_packet_goes_through(command: str, largest: int, tmp_path: Path) -> None:
    if command is not FFMPEG:
        need_gstreamer()
    sizes, protect, relay, alarms = through(tmp_path, command)
    assert max(sizes) == largest and alarms == []
    assert [protect["too_large"], protect["refused"], protect["lost"], relay["refused"], relay["without_key"]] == [0] * 5
    assert protect["protected"] == relay["opened"] >= PACKETS


@requires_ffmpeg
def test_above_the_mtu_of_the_operator_one_alarm_and_a_count(tmp_path: Path) -> None:
    sizes, protect, relay, alarms = through(tmp_path, FFMPEG, "--mtu", "1500")
    assert max(sizes) <= 1456 and alarms == ["packet-too-large"]
    assert protect["too_large"] > 0 == relay["refused"] and protect["protected"] == relay["opened"]
