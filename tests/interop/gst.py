# SPDX-License-Identifier: Apache-2.0
"""Encoders and players that nobody here wrote, around any way of keys and packets: each picture is known when it comes out.

``GstHeadend`` and ``GstReceiver`` run the programs in ``examples/gstreamer`` under Debian's Python, ``FfmpegEncoder`` and
``FfmpegPlayer`` run ffmpeg.  Encoders get pictures that carry their number, in real time; players give back the numbers that they
read out of decoded pictures::

    with GstReceiver(terminal_keys, SERVICE, "127.0.0.1:5004") as player, GstHeadend(keys, SERVICE, "127.0.0.1:5004") as encoder:
        encoder.send(250)                  # or encoder.start(), ..., encoder.finish()
        player.wait(encoder.sent)
    assert player.numbers == list(range(encoder.sent))

A test that uses them calls ``need_gstreamer()``, or says ``@requires_ffmpeg``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

from pybcast.demo.media import HEIGHT, WIDTH, mark, read_mark, sdp
from pybcast.demo.relay import answers

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
PYTHON: Final = "/usr/bin/python3"  # Debian's: python3-gi is not seen by a virtual environment
FRAME: Final = WIDTH * HEIGHT * 3 // 2  # bytes of a picture, I420
PATIENCE: Final = 30.0  # seconds for a program to start, or to end
ELEMENTS: Final = ("srtpenc", "srtpdec", "x264enc", "openh264dec", "rtph264pay", "udpsink", "rawvideoparse", "h264parse", "fdsink")


@cache
def missing_gstreamer() -> str:
    """What of GStreamer is not here; empty when all is."""
    if shutil.which("gst-inspect-1.0") is None:
        return "gst-inspect-1.0"
    for element in ELEMENTS:
        if subprocess.run(["gst-inspect-1.0", "--exists", element], check=False).returncode:
            return f"GStreamer's {element}"
    probe = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst"
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", probe], check=False, capture_output=True).returncode:
        return "GStreamer for Debian's Python (python3-gi, gir1.2-gstreamer-1.0)"
    return ""


def need_gstreamer() -> None:
    """Skip the test where GStreamer is not, with what is missing."""
    if missing := missing_gstreamer():
        pytest.skip(f"needs {missing}: .ci/setup interop")


requires_ffmpeg = pytest.mark.requires_tool("ffmpeg", package="ffmpeg")


def picture(number: int) -> bytes:
    """A picture that says its number, above bars that move."""
    rows = mark(0, number)
    bars = bytes(40 + abs((x * 3) % WIDTH - WIDTH // 2) for x in range(WIDTH * 3))
    below = b"".join(bars[(start := (WIDTH + y + number * 3) % WIDTH) : start + WIDTH] for y in range(len(rows) // WIDTH, HEIGHT))
    chroma = WIDTH // 2 * (HEIGHT // 2)
    return rows + below + bytes([96]) * chroma + bytes([96 + number // 4 % 64]) * chroma


class Program:
    """A child with its standard error in ``errors``; killed when the context ends, if it has not ended before."""

    def __init__(self, arguments: Sequence[str], *, stdin: int | None, stdout: int | None) -> None:
        self.errors: deque[str] = deque(maxlen=1000)
        environment = os.environ | {"GST_REGISTRY_FORK": "no", "NO_COLOR": "1"}
        self._changed = threading.Condition()
        self.process = subprocess.Popen(arguments, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment, bufsize=0)
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as file:
            for line in iter(file.readline, b""):
                with self._changed:
                    self.errors.append(line.decode("utf-8", "replace").rstrip())
                    self._changed.notify_all()

    def said(self, text: str) -> None:
        """Wait until it says so; fails when it ends or takes too long."""
        with self._changed:
            found = self._changed.wait_for(lambda: any(text in line for line in self.errors), PATIENCE)
        assert found, f"never said {text!r}: {self.tail()}"

    def tail(self) -> str:
        return "\n".join(list(self.errors)[-20:])

    def figures(self) -> dict[str, Any]:
        """The last line that it wrote, as JSON."""
        for line in reversed(self.errors):
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise AssertionError(self.tail())

    def wait_end(self) -> None:
        """Until it has ended, and well."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert status == 0, f"status {status}: {self.tail()}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Encoder(Program):
    """A program that encodes raw pictures from standard input; ``rate`` of them a second."""

    def __init__(self, arguments: Sequence[str], rate: int) -> None:
        super().__init__(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.rate, self.sent = rate, 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: OSError | None = None

    def start(self, count: int | None = None) -> None:
        """Feed pictures in real time, in a thread, until ``finish`` or ``count``."""
        self._thread = threading.Thread(target=self._feed, args=(count,))
        self._thread.start()

    def _feed(self, count: int | None) -> None:
        assert self.process.stdin is not None
        begin = time.monotonic()
        try:
            while (count is None or self.sent < count) and not self._stop.wait(begin + self.sent / self.rate - time.monotonic()):
                data = memoryview(picture(self.sent))
                while data:
                    data = data[self.process.stdin.write(data) :]
                self.sent += 1
            self.process.stdin.close()  # the end of the stream
        except OSError as error:
            self._failed = error

    def finish(self) -> int:
        """Let no more in, wait until all is encoded and sent; gives the number of pictures."""
        self._stop.set()
        return self._join()

    def send(self, count: int) -> int:
        """Feed ``count`` pictures and wait until they are encoded and sent."""
        self.start(count)
        return self._join()

    def _join(self) -> int:
        assert self._thread is not None
        self._thread.join()
        assert self._failed is None, f"{self._failed}: {self.tail()}"
        self.wait_end()
        return self.sent

    def close(self) -> None:
        self._stop.set()
        super().close()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()


class Player(Program):
    """A program that decodes into raw pictures on standard output; ``seen``: what their marks say, ``None`` of a damaged one."""

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.seen: list[tuple[int, int] | None] = []
        self._viewer = threading.Thread(target=self._watch)
        self._viewer.start()

    @property
    def numbers(self) -> list[int | None]:
        """Of the pictures that were shown, in order."""
        return [None if each is None else each[1] for each in self.seen]

    def _watch(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as file:
            while data := _exactly(file, FRAME):
                with self._changed:
                    self.seen.append(read_mark(data, WIDTH))
                    self._changed.notify_all()

    def wait(self, count: int, patience: float = PATIENCE) -> bool:
        """Until ``count`` pictures have been shown; False when they have not within ``patience`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.seen) >= count, patience)

    def wait_number(self, number: int, patience: float = PATIENCE) -> bool:
        """Until picture ``number`` or a later one has been shown."""
        with self._changed:
            return self._changed.wait_for(lambda: any(n is not None and n >= number for n in self.numbers[-3:]), patience)

    def end(self) -> None:
        """Tell the program that nothing more will come."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> list[int | None]:
        """Let it show what it has, then end; gives the numbers."""
        self.end()
        self.process.wait(PATIENCE)
        self._viewer.join(PATIENCE)
        self._reader.join(PATIENCE)
        return self.numbers

    def close(self) -> None:
        super().close()
        self._viewer.join(PATIENCE)


class GstHeadend(Encoder):
    """``examples/gstreamer/headend.py`` under the key socket of a BSD/A: SRTP to ``to`` (HOST:PORT).

    It begins when it has its first key.  ``figures`` at the end: packets, dropped, changes.
    """

    def __init__(self, keys: Path, service: str, to: str, *, stream: int = 1, rate: int = 25, more: Sequence[str] = ()) -> None:
        form = f"width={WIDTH} height={HEIGHT} format=i420 framerate={rate}/1"
        source = f"fdsrc fd=0 blocksize={FRAME} ! rawvideoparse {form} ! clocksync"
        command = [PYTHON, str(EXAMPLES / "gstreamer" / "headend.py"), "--keys", str(keys), "--service", service]
        super().__init__([*command, "--stream", str(stream), "--to", to, "--source", source, *more], rate)


class GstReceiver(Player):
    """``examples/gstreamer/receiver.py`` under the key socket of a terminal: SRTP from ``source`` (HOST:PORT); ready when made."""

    def __init__(self, keys: Path, service: str, source: str, *, stream: int = 1, more: Sequence[str] = ()) -> None:
        command = [PYTHON, str(EXAMPLES / "gstreamer" / "receiver.py"), "--keys", str(keys), "--service", service]
        sink = "videoconvert ! video/x-raw,format=I420 ! fdsink fd=1 sync=false"
        super().__init__([*command, "--stream", str(stream), "--from", source, "--sink", sink, *more])
        self.said("listening")


class FfmpegEncoder(Encoder):
    """``examples/ffmpeg/encode.sh``: clear RTP to ``to`` (HOST:PORT), for ``pybcast protect``; ``seq``: of its first packet."""

    def __init__(self, to: str, *, rate: int = 25, seq: int = 0) -> None:
        raw = f"-f rawvideo -pix_fmt yuv420p -video_size {WIDTH}x{HEIGHT} -framerate {rate} -i pipe:0"
        script = str(EXAMPLES / "ffmpeg" / "encode.sh")
        super().__init__(["env", f"RTP_OPTIONS=-seq {seq}", script, to, *raw.split()], rate)


class FfmpegPlayer(Player):
    """ffmpeg as a player of clear RTP on loopback ``port``, as ``pybcast relay`` gives it.  ``folder``: for its SDP.

    Ready when made.  It is some pictures behind, which come with ``finish``: wait ``HOLDS_BACK`` seconds for the last, then finish.
    """

    HOLDS_BACK: Final = 1.0

    def __init__(self, port: int, folder: Path) -> None:
        file = folder / f"{port}.sdp"
        file.write_text(sdp(port), "ascii")
        command = (
            "ffmpeg -nostdin -hide_banner -loglevel warning -protocol_whitelist file,udp,rtp -buffer_size 4194304 -probesize 32768"
            f" -analyzeduration 0 -fpsprobesize 0 -threads 1 -i {file} -fps_mode passthrough -f rawvideo -pix_fmt yuv420p pipe:1"
        )
        super().__init__(command.split())
        self._rtcp = "127.0.0.1", port + 1
        deadline = time.monotonic() + PATIENCE
        while not answers(port):
            assert time.monotonic() < deadline and self.process.poll() is None, self.tail()
            time.sleep(0.02)

    def end(self) -> None:
        """By an RTCP BYE: on a signal ffmpeg waits for one more packet."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(bytes.fromhex("80c9000100000001 81cb000100000001"), self._rtcp)


def _exactly(file: Any, size: int) -> bytes:
    """``size`` bytes, or none at the end."""
    parts = bytearray()
    while len(parts) < size:
        data = file.read(size - len(parts))
        if not data:
            return b""
        parts += data
    return bytes(parts)
