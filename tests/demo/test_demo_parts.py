# SPDX-License-Identifier: Apache-2.0
"""The demo's parts one by one: marks in pictures, sockets, keys, record, report, timeline."""

from __future__ import annotations

import io
import json
import select
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.demo import media, run, timeline
from pybcast.demo.keyside import FLOWS, Announced, FixedKeys, KeySide, TerminalKey, UseKey, ntp_now
from pybcast.demo.relay import HeadEnd, Tuner, answers, says_bye
from pybcast.demo.report import JsonLines, Screen, reporter
from pybcast.demo.station import Announcement, Held, Period, Record, Span, Turn
from pybcast.errors import ConfigError
from pybcast.outlets.udp import Pair, drain
from pybcast.secret import Secret

MKI = bytes.fromhex("000100020003")
TEK = bytes(range(0x60, 0x70))
SALT = bytes(range(0x20, 0x2E))
RTP = bytes.fromhex("8060000100000000cafebabe") + b"a picture"
SENDER_REPORT = bytes.fromhex("80c80006cafebabe") + bytes(20)
BYE = bytes.fromhex("81cb0001cafebabe")


# Pictures


@given(service=st.integers(0, 255), number=st.integers(0, 2**24 - 1))
def test_a_mark_reads_back(service: int, number: int) -> None:
    assert media.read_mark(media.mark(service, number), media.WIDTH) == (service, number)


@given(number=st.integers(0, 2**24 - 1), bit=st.integers(0, 39))
def test_a_damaged_mark_is_seen(number: int, bit: int) -> None:
    luma = bytearray(media.mark(1, number))
    row, column = divmod(bit, media.WIDTH // media.BLOCK)
    middle = (row * media.BLOCK + media.BLOCK // 2) * media.WIDTH + column * media.BLOCK + media.BLOCK // 2
    luma[middle] ^= 0x80
    assert media.read_mark(bytes(luma), media.WIDTH) is None


@pytest.mark.parametrize("service", [0, 1])
def test_a_mark_survives_the_encoder(service: int) -> None:
    file = io.BytesIO()
    numbers = [0, 1, 2, 77_777, 2**24 - 1]
    with av.open(file, "w", format="mpegts") as output:
        stream = output.add_stream("libx264", rate=media.FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = media.WIDTH, media.HEIGHT, "yuv420p", 100_000
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        pictures = [media.picture(service, number) for number in numbers]
        for at, frame in enumerate(pictures):
            frame.pts = at
        output.mux([packet for frame in [*pictures, None] for packet in stream.encode(frame)])
    file.seek(0)
    with av.open(file, "r") as source:
        found = [media.read_mark(memoryview(f.planes[0]), f.planes[0].line_size) for f in source.decode(video=0)]
    assert found == [(service, number) for number in numbers]


def test_the_sdp_names_port_and_format() -> None:
    lines = media.sdp(5004).split("\r\n")
    assert "m=video 5004 RTP/AVP 96" in lines and "a=rtpmap:96 H264/90000" in lines and lines[-1] == ""


# Sockets


def wait_for(*pairs: Pair) -> None:
    """Until each pair has something to read on both sockets, or fail."""
    waiting = {sock for pair in pairs for sock in (pair.rtp, pair.rtcp)}
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], 10)
        assert ready, "nothing came"
        waiting -= set(ready)


def test_a_pair_is_even_and_next() -> None:
    with closing(Pair.bind()) as pair:
        assert pair.port % 2 == 0
        assert pair.rtcp.getsockname()[1] == pair.port + 1


def test_whether_a_port_answers() -> None:
    with closing(Pair.bind()) as pair:
        port = pair.port
        assert answers(port)
        assert list(drain(pair.rtp)) == [b"\0"]
    assert not answers(port)


def test_a_send_to_nobody_does_not_stop_the_reader() -> None:
    with closing(Pair.bind()) as pair, closing(Pair.bind()) as gone:
        pair.rtp.connect(("127.0.0.1", gone.port))
        gone.close()
        pair.rtp.send(b"x")
        assert list(drain(pair.rtp)) == []


@pytest.mark.parametrize(
    ("packet", "bye"),
    [
        (SENDER_REPORT, False), (BYE, True), (SENDER_REPORT + BYE, True), (b"", False), (BYE[:3], False),
        (b"\x80\xc8\xff\xff" + BYE, False),
    ],
)  # fmt: skip
def test_bye_is_found(packet: bytes, bye: bool) -> None:
    assert says_bye(packet) is bye


class Way:
    """Encoder side, one terminal with the key and one without, two players; all on loopback."""

    def __init__(self) -> None:
        self.alarms: list[str] = []
        self.heard: list[tuple[str, bytes, bool]] = []
        self.tuners = {
            name: Tuner(name, "A", lambda mki, opened, now, name=name: self.heard.append((name, mki, opened)))  # type: ignore[misc]
            for name in ("drm", "none")
        }
        self.head = HeadEnd("A", [tuner.air.port for tuner in self.tuners.values()], self.alarms.append)
        self.players = {name: Pair.bind() for name in self.tuners}
        for name, player in self.players.items():
            self.tuners[name].player_port = player.port
        self.head.use(MKI, Secret(TEK), SALT)
        self.tuners["drm"].unprotector.add_key(MKI, Secret(TEK), SALT)

    def send(self, rtp: bytes, rtcp: bytes) -> None:
        with closing(Pair.bind()) as encoder:
            encoder.rtp.sendto(rtp, ("127.0.0.1", self.head.source.port))
            encoder.rtcp.sendto(rtcp, ("127.0.0.1", self.head.source.port + 1))
        wait_for(self.head.source)
        self.head.relay_rtp(0.0)
        self.head.relay_rtcp(0.0)

    def close(self) -> None:
        self.head.close()
        for part in self.tuners.values():
            part.close()
        for player in self.players.values():
            player.close()


@pytest.fixture
def way() -> Iterator[Way]:
    with closing(Way()) as made:
        yield made


def test_a_packet_on_its_way(way: Way) -> None:
    way.send(RTP, SENDER_REPORT)
    wait_for(*(tuner.air for tuner in way.tuners.values()))
    for tuner in way.tuners.values():
        tuner.relay_rtp(0.0)
        tuner.relay_rtcp(0.0)
    wait_for(way.players["drm"])
    assert list(drain(way.players["drm"].rtp)) == [RTP]
    assert list(drain(way.players["none"].rtp)) == []
    assert list(drain(way.players["none"].rtcp)) == [SENDER_REPORT]
    assert way.heard == [("drm", MKI, True), ("none", MKI, False)]
    assert (way.tuners["drm"].opened, way.tuners["none"].without_key) == (1, 1)


def test_what_is_on_air_is_protected(way: Way) -> None:
    way.send(RTP, SENDER_REPORT)
    wait_for(way.tuners["none"].air)
    (on_air,) = drain(way.tuners["none"].air.rtp)
    assert on_air[:12] == RTP[:12] and RTP[12:] not in on_air and on_air[-16:-10] == MKI


def test_bye_waits_until_it_is_released(way: Way) -> None:
    tuner = way.tuners["drm"]
    way.send(RTP, SENDER_REPORT + BYE)
    wait_for(tuner.air)
    tuner.relay_rtcp(0.0)
    assert tuner.ended and list(drain(way.players["drm"].rtcp)) == []
    tuner.release_bye()
    assert select.select([way.players["drm"].rtcp], [], [], 10)[0]
    assert list(drain(way.players["drm"].rtcp)) == [SENDER_REPORT + BYE]


def test_what_cannot_be_protected_is_an_alarm(way: Way) -> None:
    way.send(b"no RTP", SENDER_REPORT)
    assert len(way.alarms) == 1 and "service A" in way.alarms[0]
    assert way.head.packets == 0


def test_nothing_goes_out_once_stopped(way: Way) -> None:
    way.head.stop()
    way.send(RTP, SENDER_REPORT)
    assert way.head.packets == 0 and len(way.alarms) == 1 and "authority" in way.alarms[0]
    way.head.use(MKI, Secret(TEK), SALT)
    way.send(RTP, SENDER_REPORT)
    assert way.head.packets == 1


def test_a_stream_past_the_rollovers_that_terminals_try_is_an_alarm(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybcast.demo.relay.ROC_TRIES", 1)
    for seq in (b"\x40\x00", b"\xb0\x00", b"\x10\x00"):
        assert way.alarms == []
        way.send(RTP[:2] + seq + RTP[4:], SENDER_REPORT)
    assert len(way.alarms) == 1 and "new SSRC" in way.alarms[0]


def test_a_forged_packet_is_counted(way: Way) -> None:
    tuner = way.tuners["drm"]
    with closing(Pair.bind()) as forger:
        forger.rtp.sendto(RTP + MKI + bytes(10), ("127.0.0.1", tuner.air.port))
    assert select.select([tuner.air.rtp], [], [], 10)[0]
    tuner.relay_rtp(0.0)
    assert (tuner.refused, tuner.opened, way.heard) == (1, 0, [("drm", MKI, False)])


# Keys


def test_fixed_keys_come_ahead_and_never_to_the_unentitled() -> None:
    keys: KeySide = FixedKeys(period=2.0, lead=1.0)
    assert keys.tick(1000.0) == []
    keys.begin(1000.0)
    events = [event for now in (1000.0, 1001.0, 1001.9, 1002.0, 1002.1) for event in keys.tick(now)]
    uses = [event for event in events if isinstance(event, UseKey)]
    assert [(use.service, use.start) for use in uses] == [("A", 1001.0), ("B", 1001.0), ("A", 1003.0), ("B", 1003.0)]
    assert len({use.mki for use in uses}) == 4 and len({use.tek.reveal() for use in uses}) == 4
    held = {(event.terminal, event.mki) for event in events if isinstance(event, TerminalKey)}
    assert held == {(terminal, use.mki) for use in uses for terminal in ("drm", "smartcard")}
    assert sum(isinstance(event, Announced) for event in events) == 8


def test_now_is_after_the_documents() -> None:
    assert ntp_now() > 3_900_000_000


# Record, report, timeline


def record() -> Record:
    made = Record(terminals=("drm", "smartcard", "unentitled"), profiles=("drm", "smartcard"), zero=5000.0, end=5004.0)
    for service in "AB":
        for n in range(2):
            name = MKI[:4] + bytes([ord(service), n])
            made.periods.append(Period(service, name, 5000.0 + 2 * n))
            for profile in made.profiles:
                made.announced.append(Announcement(service, profile, 4999.0 + 2 * n, 5000.0 + 2 * n))
                made.held.append(Held(profile, service, name, 4999.1 + 2 * n))
                made.spans[profile, service, name] = Span(profile, service, name, 5000.0 + 2 * n, 5002.0 + 2 * n, 90, 90)
            made.spans["unentitled", service, name] = Span("unentitled", service, name, 5000.0 + 2 * n, 5002.0 + 2 * n, 0, 90)
        made.rollovers.append(Turn(service, "drm", "PEK 2", 5002.0))
        made.sent[service] = 100
        made.recovered.update({("drm", service): 100, ("smartcard", service): 100, ("unentitled", service): 0})
    made.flows["F1", "drm"] = 2
    return made


def test_summary() -> None:
    summary = record().summary()
    assert {name: summary[name] for name in ("event", "frames_sent", "frames_drm", "frames_smartcard", "frames_unentitled")} == {
        "event": "summary", "frames_sent": 200, "frames_drm": 200, "frames_smartcard": 200, "frames_unentitled": 0,
    }  # fmt: skip
    assert summary["key_changes"] == 2
    flows = cast(dict[str, dict[str, bool]], summary["flows"])
    assert tuple(flows) == FLOWS and flows["F1"] == {"drm": True, "smartcard": False}


def test_failures_are_told_apart() -> None:
    made = record()
    assert made.failures(()) == []
    assert made.failures(["F1"]) == ["F1 did not run (smartcard)"]
    made.recovered["drm", "A"] = 99
    made.recovered["unentitled", "B"] = 1
    assert made.failures(()) == [
        "terminal drm, service A: 99 frames instead of 100",
        "terminal unentitled, service B: 1 frames instead of 0",
    ]
    assert Record(terminals=("drm",), profiles=("drm",)).failures(()) == ["no frame was sent"]
    assert Record(terminals=("drm",), profiles=("drm",)).frames("smartcard") is None


def test_json_lines_end_with_the_summary() -> None:
    stream = io.StringIO()
    with reporter(as_json=True, frames=100, stream=stream) as say:
        assert isinstance(say, JsonLines)
        say.event({"event": "note", "text": "x"})
        say.result(record(), ["lost"], ["out/timeline.png"])
    first, last = map(json.loads, stream.getvalue().splitlines())
    assert first == {"event": "note", "text": "x"}
    assert last == {**record().summary(), "failures": ["lost"], "files": ["out/timeline.png"]}


@pytest.mark.parametrize("failures", [[], ["terminal drm, service A: [99] frames"]])
def test_the_screen(failures: list[str]) -> None:
    stream = io.StringIO()
    with reporter(as_json=False, frames=100, stream=stream) as say:
        assert isinstance(say, Screen)
        for event in (
            {"event": "key", "service": "A", "mki": MKI.hex()},
            {"event": "frames", "terminal": "drm", "service": "A", "recovered": 50, "sent": 51},
            {"event": "rollover", "service": "A", "profile": "drm", "key": "PEK 2"},
            {"event": "note", "text": "[all] is well"},
            {"event": "alarm", "text": "[nothing] is well"},
            {"event": "flow", "flow": "F1", "profile": "drm"},
        ):
            say.event(event)
        say.result(record(), failures, ["out/timeline.png"])
    shown = stream.getvalue()
    for text in ("[all] is well", "ALARM [nothing] is well", "PEK 2", "2 times", "written: out/timeline.png", MKI[:4].hex()):
        assert text in shown
    assert ("FAILED terminal drm, service A: [99] frames" in shown) is bool(failures)
    assert ("Every frame arrived" in shown) is (not failures)


def test_the_timeline(tmp_path: Path) -> None:
    made = record()
    made.spans["smartcard", "B", MKI[:4] + b"B\x01"].opened = 30
    png, svg = timeline.draw(made, tmp_path / "new" / "folder")
    assert png.read_bytes().startswith(b"\x89PNG")
    ElementTree.fromstring(svg.read_bytes())
    comments = svg.read_text("utf-8")
    for text in ("service A: key in use", "STKM Smartcard", "terminal without right", "PEK 2", "30 of 90", "4101"):
        assert f"<!-- {text} -->" in comments


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("rich.console", lambda: reporter(as_json=False, frames=1, stream=io.StringIO()), "cli"),
        ("matplotlib", timeline.require_matplotlib, "media"),
        ("av", media.require_av, "media"),
    ],
)
def test_a_missing_extra_is_named(module: str, call: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, cast(Any, None))
    with pytest.raises(ConfigError, match=rf"\.\[{extra}\]"):
        call()


@pytest.mark.parametrize(
    ("seconds", "profile", "what"),
    [(0.0, "both", "seconds"), (1e9, "both", "seconds"), (float("nan"), "both", "seconds"), (2.0, "dvb", "profile")],
)
def test_arguments_that_cannot_be(seconds: float, profile: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        run(seconds=seconds, profile=profile, json=True, out=tmp_path)
