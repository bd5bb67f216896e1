# SPDX-License-Identifier: Apache-2.0
"""The demo's encoders and players: real H.264 over RTP, each in a process of its own.

A child process per encoder and per player, because a busy thread in the process that relays packets would hold the relay
back.  Children speak one JSON object a line on standard output: an encoder says ``ready``, waits for one line on standard
input, then says ``frames`` once a second and ``done`` at the end; a player says ``frames`` as it decodes and ``done`` when the
stream has said BYE.

Every picture carries its service and its frame number as black and white blocks, and a player counts a frame only when it
reads both back from the decoded picture: "recovered" means that picture, not merely some picture.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from pybcast.errors import ConfigError

if TYPE_CHECKING:
    import av

FRAME_RATE: Final = 25
WIDTH: Final = 320
HEIGHT: Final = 192  # whole macroblocks, so that no cropping is signalled
BLOCK: Final = 16  # one macroblock for a bit: survives any quantiser
PAYLOAD_SIZE: Final = 1200  # with MKI (6) and tag (10) far below 1,500 bytes on the wire
RECEIVE_BUFFER: Final = 4 << 20  # bytes: a key frame comes in one burst, and eight processes share few cores
PAYLOAD_TYPE: Final = 96
_STDIN: Final = 0  # read below the sys.stdin object, whose lock a waiting thread would keep at exit
_NUMBER_BITS: Final = 24
_SERVICE_BITS: Final = 8
_CHECK_BITS: Final = 8  # a picture that was damaged must not read as another number by luck
_MARK_BITS: Final = _SERVICE_BITS + _NUMBER_BITS + _CHECK_BITS
_ROWS: Final = _MARK_BITS * BLOCK // WIDTH  # of blocks: 40 bits in 2 rows of 20


def require_av() -> None:
    """``ConfigError`` naming the extra when PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise ConfigError("the demo encodes and decodes with PyAV: pip install '.[media]' in pybcast's folder") from None


def mark(service: int, number: int) -> bytes:
    """The first rows of luma of a picture: service and frame number as blocks."""
    body = service.to_bytes(_SERVICE_BITS // 8) + number.to_bytes(_NUMBER_BITS // 8)
    value = int.from_bytes(body + (zlib.crc32(body) & 0xFF).to_bytes(1))
    per_row = WIDTH // BLOCK
    rows = bytearray()
    for row in range(_ROWS):
        bits = [value >> (_MARK_BITS - 1 - row * per_row - i) & 1 for i in range(per_row)]
        rows += b"".join((b"\xeb" if bit else b"\x10") * BLOCK for bit in bits) * BLOCK
    return bytes(rows)


def read_mark(luma: bytes | memoryview, stride: int) -> tuple[int, int] | None:
    """(service, frame number) out of a decoded picture, or None when the check bits say that it is damaged."""
    value = 0
    per_row = WIDTH // BLOCK
    for bit in range(_MARK_BITS):
        row, column = divmod(bit, per_row)
        middle = (row * BLOCK + BLOCK // 2) * stride + column * BLOCK + BLOCK // 2
        value = value << 1 | (luma[middle] >= 128)
    data = value.to_bytes(_MARK_BITS // 8)
    if zlib.crc32(data[:-1]) & 0xFF != data[-1]:
        return None
    return data[0], int.from_bytes(data[1:-1])


def picture(service: int, number: int) -> av.VideoFrame:
    """One synthetic picture: moving diagonal bars below the mark, a colour per service that drifts."""
    import av

    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    slope = 1 if service % 2 == 0 else -1
    bars = bytes(40 + abs((x * 3) % 320 - 160) for x in range(WIDTH * 3))
    luma = bytearray(mark(service, number))
    for y in range(_ROWS * BLOCK, HEIGHT):
        start = (WIDTH + slope * y + number * 3) % WIDTH
        luma += bars[start : start + WIDTH]
    _fill(frame.planes[0], bytes(luma), WIDTH)
    chroma = WIDTH // 2 * (HEIGHT // 2)
    for plane, level in ((frame.planes[1], 96 + 48 * (service % 2)), (frame.planes[2], 96 + number // 4 % 64)):
        _fill(plane, bytes([level]) * chroma, WIDTH // 2)
    return frame


def _fill(plane: av.video.plane.VideoPlane, data: bytes, width: int) -> None:
    if plane.line_size == width:
        plane.update(data)
        return
    padding = bytes(plane.line_size - width)
    plane.update(b"".join(data[i : i + width] + padding for i in range(0, len(data), width)))


def sdp(port: int) -> str:
    """The session description of one clear H.264 stream on loopback (RFC 4566, RFC 6184); SPS and PPS come in band."""
    return (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=pybcast demo\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=video {port} RTP/AVP {PAYLOAD_TYPE}\r\n"
        f"a=rtpmap:{PAYLOAD_TYPE} H264/90000\r\na=fmtp:{PAYLOAD_TYPE} packetization-mode=1\r\n"
    )


def encode(service: int, port: int, frames: int, seq: int) -> Iterator[int]:
    """Encode ``frames`` pictures at real-time pace and send them as RTP to ``127.0.0.1:port`` (RTCP: port + 1).

    Yields the number of frames sent after each.  ``seq``: first RTP sequence number.  Ends with an RTCP BYE.
    """
    import av

    options = {"rtpflags": "send_bye", "seq": str(seq), "payload_type": str(PAYLOAD_TYPE)}
    with av.open(f"rtp://127.0.0.1:{port}?pkt_size={PAYLOAD_SIZE}", "w", format="rtp", options=options) as output:
        stream = output.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # repeat-headers: SPS and PPS before every key frame, so that a terminal can start at any of them.
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1:annexb=1"}
        stream.gop_size = FRAME_RATE
        stream.bit_rate = 300_000
        stream.codec_context.thread_count = 1
        begin = time.monotonic()
        for number in range(frames):
            frame = picture(service, number)
            frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            delay = begin + number / FRAME_RATE - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            for packet in stream.encode(frame):
                output.mux(packet)
            yield number + 1
        for packet in stream.encode(None):
            output.mux(packet)


def decode(port: int) -> Iterator[tuple[int, int] | None]:
    """Receive RTP on ``127.0.0.1:port`` and decode it until BYE; yields what each picture's mark says (None: damaged)."""
    import av

    options = {
        "protocol_whitelist": "udp,rtp",
        "buffer_size": str(RECEIVE_BUFFER),
        "probesize": "32768",
        "analyzeduration": "0",
        "fpsprobesize": "0",
    }
    with av.open(io.BytesIO(sdp(port).encode()), "r", format="sdp", options=options) as source:
        stream = source.streams.video[0]
        stream.codec_context.thread_count = 1  # no frame threads: they would delay frames
        for frame in source.decode(stream):
            yield read_mark(memoryview(frame.planes[0]), frame.planes[0].line_size)


def _say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Never outlive the demo: its end, however it comes, closes our standard input."""

    def watch() -> None:
        while os.read(_STDIN, 16):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _encoder(options: argparse.Namespace) -> None:
    import av

    av.logging.set_level(av.logging.PANIC)
    _say(ready=True)
    if not os.read(_STDIN, 16):
        return
    _end_with_parent()
    sent = 0
    for sent in encode(options.service, options.port, options.frames, options.seq):
        if sent % FRAME_RATE == 0:
            _say(frames=sent)
    _say(frames=sent, done=True)


def _player(options: argparse.Namespace) -> None:
    import av

    av.logging.set_level(av.logging.PANIC)
    _end_with_parent()
    seen: set[int] = set()
    damaged = 0
    # A terminal without the right gets no packet, only the BYE: opening then fails for want of a picture.
    with contextlib.suppress(av.FFmpegError):
        for found in decode(options.port):
            if found is None or found[0] != options.service:
                damaged += 1
            else:
                seen.add(found[1])
            _say(frames=len(seen), damaged=damaged)
    _say(frames=len(seen), damaged=damaged, done=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The children's entry point: ``python -m pybcast.demo.media encoder|player ...``."""
    parser = argparse.ArgumentParser(prog="pybcast.demo.media")
    jobs = parser.add_subparsers(required=True)
    encoder = jobs.add_parser("encoder")
    encoder.add_argument("--frames", type=int, required=True)
    encoder.add_argument("--seq", type=int, required=True)
    encoder.set_defaults(job=_encoder)
    player = jobs.add_parser("player")
    player.set_defaults(job=_player)
    for job in (encoder, player):
        job.add_argument("--service", type=int, required=True)
        job.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    options.job(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
