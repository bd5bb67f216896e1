# SPDX-License-Identifier: Apache-2.0
"""Terminals as processes on a real air: wrong clocks, sleep, death, replays, and an air that loses, doubles, reorders and corrupts.

One chain of servers for the whole file; each test has a terminal of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import clocked
import pytest
from clocked import step

from pybcast.broadcast import alc
from pybcast.broadcast.datagrams import sending
from pybcast.broadcast.listener import receiver
from pybcast.demo.chain import LOOPBACK, Chain, Service, Viewer
from pybcast.demo.daemons import Feed
from pybcast.demo.keyside import ntp_now
from pybcast.flows.events import TekReady, UseKey
from pybcast.outlets.udp import Pair
from pybcast.sdp import parse
from pybcast.testing.impair import Impairment, UdpProxy

LIMIT: Final = 60.0  # seconds until a test gives up
LOOK: Final = 0.02
PERIOD: Final = 1
KEY_PERIOD: Final = 12
SERVICE: Final = Service(name="N", number=7, period=PERIOD, key_period=KEY_PERIOD, rollover_lead=8, look_ahead=3, interaction=True)
NAMES: Final = (
    "plain", "slow", "fast", "sleeper", "dying", "replayed", "noisy", "channel", "shut-out", "not-yet", "over", "odd-entry",
    "slower",
)  # fmt: skip
PROFILE: Final = {name: "drm" if i % 2 else "smartcard" for i, name in enumerate(NAMES)}
CHILD: Final = Path(clocked.__file__).with_name("clocked_terminal.py")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    viewers = [Viewer(name, "drm" if PROFILE[name] == "drm" else "smartcard") for name in NAMES]
    with Chain(tmp_path_factory.mktemp("chain"), [SERVICE], viewers, ntp_now()) as running:
        running.describe()
        yield running


class Set:
    """A terminal in a process, its clock off by ``offset`` seconds, and what it says on its key socket."""

    def __init__(self, chain: Chain, name: str, offset: float = 0.0, sdp: Path | None = None) -> None:
        self.chain, self.name, self._sdp = chain, name, sdp or chain.folder / "N.sdp"
        self._clock = chain.folder / f"{name}.clock"
        step(self._clock, offset)
        self.keys: list[bytes] = []
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        folder = self.chain.folder
        with (folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, CHILD, folder / f"{self.name}.toml", folder / f"{self.name}.sock", self._sdp],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self._feed = Feed(folder / f"{self.name}.sock")

    def restart(self) -> None:
        self._feed.close()
        self.start()

    def step(self, offset: float) -> None:
        step(self._clock, offset)

    def look(self) -> None:
        assert self.process.poll() is None, self.said()[-2000:]
        for output in self._feed.outputs():
            if isinstance(output, TekReady) and output.mki not in self.keys:
                self.keys.append(output.mki)

    def said(self) -> str:
        return (self.chain.folder / f"{self.name}.log").read_text()

    def until(self, good: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not good():
            assert time.monotonic() < deadline, f"{what}: {[k.hex() for k in self.keys]}\n{self.said()[-2000:]}"
            self.look()
            time.sleep(LOOK)  # of a process that may die: there is nothing to wait on

    def plays(self, more: int, what: str) -> None:
        """Until it has got ``more`` keys that it had not."""
        had = len(self.keys)
        self.until(lambda: len(self.keys) >= had + more, what)

    def close(self) -> None:
        """End it, and see that it ends well."""
        self._feed.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        assert self.process.wait(LIMIT) == 0, self.said()[-2000:]
        assert "Traceback" not in self.said() and '"stray"' not in self.said()

    def __enter__(self) -> Set:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._feed.close()
            self.process.kill()
            self.process.wait()


def test_a_terminal_plays_through_a_rollover_and_a_pause_of_its_servers(chain: Chain) -> None:
    with Set(chain, "plain") as terminal:
        terminal.plays(3, "tune-in")
        for role in ("bsda", "bsm"):
            chain.kill(role)
            chain.start(role)
        terminal.until(lambda: len({mki[:4] for mki in terminal.keys}) >= 2, "a new SEK")
        terminal.plays(3, "goes on")
        assert (chain.folder / "plain.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("offset", [30, 3600])
def test_a_fast_clock_does_no_harm(chain: Chain, offset: float) -> None:
    with Set(chain, "fast", offset) as terminal:
        terminal.plays(4, f"{offset} s ahead")


@pytest.mark.parametrize(("name", "offset"), [("slow", -30), ("slower", -3600)])
def test_a_slow_clock_is_dark_until_it_is_set(chain: Chain, name: str, offset: float) -> None:
    """What it hears lies in its future (R6); nothing is believed, nothing is broken, and when the clock is set it plays."""
    with Set(chain, name, offset) as terminal, Set(chain, "plain") as other:
        terminal.until(lambda: '"ready"' in terminal.said(), "ready")
        other.plays(6, "beside it")
        terminal.look()
        assert terminal.keys == [] and "TekReady" not in terminal.said()
        terminal.step(0.0)
        terminal.plays(3, "its clock was set")


def test_a_sleep_through_a_rollover(chain: Chain) -> None:
    with Set(chain, "sleeper") as terminal, Set(chain, "plain") as other:
        terminal.plays(2, "tune-in")
        other.plays(1, "beside it")
        begin = {mki[:4] for mki in other.keys}
        terminal.process.send_signal(signal.SIGSTOP)
        other.until(lambda: len({mki[:4] for mki in other.keys} - begin) >= 1, "a rollover")
        other.plays(2, "after it")
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(lambda: bool(set(terminal.keys) & set(other.keys[-2:])), "awake")
        terminal.plays(2, "goes on")


def test_kill_9_forgets_nothing(chain: Chain) -> None:
    """It has what it opened before, at once; it opens nothing twice (R14); it goes on."""
    with Set(chain, "dying") as terminal:
        for _ in range(3):
            terminal.plays(2, "tune-in")
            terminal.process.kill()
            terminal.process.wait()
            before, terminal.keys = terminal.keys, []
            terminal.restart()
            terminal.until(lambda: bool(terminal.keys), "what it had")
            assert set(terminal.keys) & set(before) or int.from_bytes(terminal.keys[0], "big") > int.from_bytes(before[-1], "big")
            terminal.plays(1, "goes on")


def test_an_old_recording_opens_nothing_again(chain: Chain) -> None:
    """Everything that was on air is sent once more, later, in the same order and backwards."""
    description = parse((chain.folder / "N.sdp").read_bytes())
    (stream,) = description.streams("smartcard" if PROFILE["replayed"] == "smartcard" else "drm")
    ear = receiver((stream.address, stream.port), LOOPBACK)
    recorded: dict[bytes, None] = {}

    def record() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                recorded[ear.recv(2048)] = None

    with Set(chain, "replayed") as terminal, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
        terminal.until(lambda: record() or len(terminal.keys) >= 12, "a recording")  # type: ignore[func-returns-value]
        # Longer ago than a key lives (R42), so that no key of these is held any more.
        old, first = list(recorded)[:4], terminal.keys[:3]
        terminal.keys.clear()
        for _ in range(3):
            for data in (*old, *reversed(old)):
                out.sendto(data, (stream.address, stream.port))
            terminal.plays(1, "the present")
        assert not set(terminal.keys) & set(first)
    ear.close()


class Proxies:
    """A bad network between the air and one terminal: proxies in a thread of their own."""

    def __init__(self, chain: Chain, seed: int) -> None:
        self._text = (chain.folder / "N.sdp").read_text()
        self._seed = seed
        self.impairments: list[Impairment] = []
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        self.sdp = chain.folder / "noisy.sdp"

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as open_:
            text = self._text
            for address, port in {(m[2], int(m[1])) for m in re.finditer(r"m=application (\d+).*\r?\nc=IN IP4 ([\d.]+)", text)}:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
                    found.bind((LOOPBACK, 0))
                    free = int(found.getsockname()[1])
                impairment = Impairment(
                    random.Random(self._seed + port), lost=0.1, doubled=0.1, reordered=0.1, corrupted=0.1, foreign=0.1
                )
                self.impairments.append(impairment)
                await open_.enter_async_context(UdpProxy(impairment, to=(LOOPBACK, free), at=(address, port)))
                text = re.sub(
                    rf"(m=application ){port}(.*\r?\nc=IN IP4 ){re.escape(address)}(/\d+)?", rf"\g<1>{free}\g<2>{LOOPBACK}", text
                )
            self.sdp.write_bytes(text.encode())
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Proxies:
        self._thread.start()
        assert self._ready.wait(LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.mark.parametrize("seed", range(20 if os.environ.get("PYBCAST_LONG") else 1))
def test_a_bad_air(chain: Chain, seed: int) -> None:
    """A tenth each lost, doubled, reordered, corrupted, and as much that nobody sent: every key comes in time."""
    encoder = Feed(chain.folder / "keys.sock")
    used: list[bytes] = []
    with Proxies(chain, seed) as proxies, Set(chain, "noisy", sdp=proxies.sdp) as terminal:
        terminal.plays(2, "tune-in")
        deadline = time.monotonic() + KEY_PERIOD + 4 * PERIOD
        begun = len(terminal.keys)
        while time.monotonic() < deadline:
            terminal.look()
            for output in encoder.outputs():
                if isinstance(output, UseKey) and output.stream == SERVICE.number:
                    used.append(output.mki)
                    assert len(used) < 3 or used[-2] in terminal.keys, "not even known when it has been used"
            time.sleep(LOOK)
        assert len(terminal.keys) >= begun + KEY_PERIOD // PERIOD
        assert all(i.counts["lost"] and i.counts["corrupted"] for i in proxies.impairments if i.counts["sent"] > 100)
    encoder.close()


@pytest.mark.parametrize("what", ["plain SDP", "a certificate that is none", "a wrong key-encryption key"])
def test_what_cannot_begin_says_why(chain: Chain, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "t"
    shutil.copytree(
        chain.folder, folder, ignore=lambda _, names: [n for n in names if not n.startswith(("channel", "N.", "ca.", "issuer"))]
    )
    toml, sdp = folder / "channel.toml", folder / "N.sdp"
    if what == "plain SDP":
        sdp.write_text("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\n")
        expected = "no description has a STKM stream"
    elif what == "a certificate that is none":
        (folder / "issuer-root.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        expected = "device.anchors"
    else:
        first = _run(toml, sdp)
        assert first.returncode == 0, first.stderr
        (folder / "channel.kek").write_text(os.urandom(32).hex())
        expected = "the key-encryption key"
    done = _run(toml, sdp)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_everything_over_the_interaction_channel(chain: Chain) -> None:
    """Registration, LTKMs and STKMs by HTTPS; with --teks the keys are on standard output, without them none is."""
    words = [sys.executable, "-m", "pybcast.cli", "terminal", "channel.toml", "N.sdp", "--via", "interaction"]
    for option in ("--teks", "--json"):
        with subprocess.Popen(
            [*words, option], cwd=chain.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = (json.loads(line) for line in process.stdout)
            found = [line for line, _ in zip((line for line in lines if line["event"] == "TekReady"), range(3), strict=False)]
            process.terminate()
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0 and "Traceback" not in err
        assert len({line["mki"] for line in found}) == 3
        assert all(("tek" in line) == (option == "--teks") for line in found)


def test_descriptions_that_cannot_be_used_cost_the_others_nothing(chain: Chain) -> None:
    """A file that is none, one that is not there, one of a stream that is described already, and one of another host's address."""
    folder, text = chain.folder, (chain.folder / "N.sdp").read_text()
    (folder / "broken.sdp").write_text("v=0\r\nnot a description\r\n")
    (folder / "again.sdp").write_text(text, newline="")
    (service,) = re.findall(r"a=x-bcast-service:(\S+)", text)
    far = text.replace(f"x-bcast-service:{service}", "x-bcast-service:urn:far")
    (folder / "far.sdp").write_text(re.sub(r"c=IN IP4 \S+", "c=IN IP4 192.0.2.77", far), newline="")
    words = [sys.executable, "-m", "pybcast.cli", "terminal", "channel.toml", "--via", "broadcast", "--json"]
    given = ["broken.sdp", "none.sdp", "N.sdp", "again.sdp", "far.sdp"]
    (folder / "channel.db").unlink(missing_ok=True)
    with subprocess.Popen([*words, *given], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout)
        found = [line for line, _ in zip((line for line in lines if line["event"] == "TekReady"), range(2), strict=False)]
        process.terminate()
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and len(found) == 2, err
    told = [json.loads(line) for line in err.splitlines()]
    warnings = [line["warning"] for line in told if "warning" in line]
    assert [text.split(":")[:2] for text in warnings] == [["not used", " broken.sdp"], ["not used", " none.sdp"]]
    unused = {line["service"]: line["why"] for line in told if line.get("event") == "sdp-unused"}
    assert "is described twice" in unused.pop(service)
    assert list(unused) == ["urn:far"] and "192.0.2.77:" in unused["urn:far"]
    for given, why in (
        (["broken.sdp", "none.sdp"], "broken.sdp"),
        (["far.sdp"], "192.0.2.77:"),
        (["broken.sdp", "N.sdp", "--relay", "127.0.0.1:6000"], "which media stream each --relay is for"),
    ):
        done = subprocess.run([*words, *given], cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr


# --- what a description says beside addresses ---------------------------------------------------------------------------------


def described(chain: Chain, name: str, *lines: str, times: str = "t=0 0") -> Path:
    """The service's description with further lines for all its media."""
    text = (chain.folder / "N.sdp").read_text().replace("t=0 0", times, 1)
    assert times in text
    before, m, after = text.partition("m=")
    path = chain.folder / f"{name}.sdp"
    path.write_text(before + "".join(f"{line}\r\n" for line in lines) + m + after, newline="")
    return path


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("incl IN IP4 * 192.0.2.99", f"incl IN IP4 * 192.0.2.99 {LOOPBACK}"),  # as news-source-filter-other-host.sdp
        (f"excl IN IP4 * {LOOPBACK}", "excl IN IP4 * 192.0.2.99"),
    ],
)  # fmt: skip
def test_a_sender_that_the_description_shuts_out_gives_nothing(chain: Chain, wrong: str, right: str) -> None:
    """No key, no LTKM, no packet of the carousel; with a filter that lets the sender in, the same terminal plays."""
    (chain.folder / "shut-out.db").unlink(missing_ok=True)
    with (
        Set(chain, "shut-out", sdp=described(chain, "wrong", f"a=source-filter: {wrong}")) as terminal,
        Set(chain, "plain") as other,
    ):
        other.plays(6, "beside it")
        terminal.look()
        assert terminal.keys == []
    last = json.loads(terminal.said().splitlines()[-1])
    assert (last["event"], last["refused"]) == ("stopped", {}), "nothing came that could have been refused"
    with Set(chain, "shut-out", sdp=described(chain, "right", f"a=source-filter: {right}")) as terminal:
        terminal.plays(3, "its sender")


def events(terminal: Set) -> list[str]:
    return [json.loads(line)["event"] for line in terminal.said().splitlines()]


def test_a_service_is_tuned_when_its_time_has_begun_and_no_longer_when_it_is_over(chain: Chain) -> None:
    """Times as in news-two-times.sdp: one that was, one that is to come; the terminal's clock crosses begin and end."""
    now = int(ntp_now())
    sdp = described(chain, "later", times=f"t=3981715800 3981716400\r\nt={now + 7200} {now + 10800}")
    with Set(chain, "not-yet", sdp=sdp) as terminal, Set(chain, "plain") as other:
        other.plays(6, "beside it")
        terminal.look()
        assert terminal.keys == [] and "not-tuned" in events(terminal)
        assert "is not tuned: its time (t=) begins 20" in terminal.said()
        terminal.step(7200.0)
        terminal.plays(3, "its time has begun")
        assert "tuned" in events(terminal)
        terminal.step(10800.0)
        terminal.until(lambda: events(terminal).count("not-tuned") == 2, "its time is over")
        assert "its time (t=) is over" in terminal.said()
        terminal.look()
        had = len(terminal.keys)
        other.plays(3, "beside it")
        terminal.look()
        assert len(terminal.keys) == had


def test_what_is_not_obeyed_is_told_once(chain: Chain) -> None:
    text = "a=tool:\x1b[2Jx", "k=clear:0123456789abcdef", "b=AS:64"
    with Set(chain, "over", sdp=described(chain, "over", *text, times="t=100 200")) as terminal:
        terminal.until(lambda: "not-tuned" in terminal.said(), "word of its times")
    said = [json.loads(line) for line in terminal.said().splitlines()]
    (told,) = (line for line in said if line["event"] == "sdp-ignored")
    names = [line.partition(", ")[2].partition(":")[0] for line in told["lines"]]
    assert names == ["a=tool", "k=", "b="] and told["count"] == 3 and told["message"].count("line ") == 3
    assert "0123456789abcdef" not in terminal.said() and "[2J" not in terminal.said()


def test_what_the_carousel_has_and_nobody_gets_is_told_and_counted(chain: Chain) -> None:
    """An entry with a code that we do not have, beside our own objects, from another sender of the session."""
    carousel = parse((chain.folder / "N.sdp").read_bytes()).carousel
    assert carousel is not None
    xml = b'<FDT-Instance Expires="4100000000"><File TOI="2" Content-Location="x" FEC-OTI-FEC-Encoding-ID="1"/></FDT-Instance>'
    odd = alc.made(carousel.tsi, 0, 0, 0, 0, xml, fdt_id=1, fti=alc.Fti(0, len(xml), 1_400, 64, 64))
    with Set(chain, "odd-entry") as terminal, sending(LOOPBACK, 1) as out:

        def told() -> bool:
            out.sendto(odd, (carousel.address, carousel.port))
            return "carousel-faults" in terminal.said()

        terminal.until(told, "word of the odd entry")
        terminal.plays(3, "beside it")
    said = [json.loads(line) for line in terminal.said().splitlines()]
    (line,) = (line for line in said if line["event"] == "carousel-faults")
    assert line["counts"] == {"refused files": 1} and line["message"] == "not received from the carousel: 1 refused files"
    assert said[-1]["event"] == "stopped" and said[-1]["carousel"] == {"refused files": 1}


def test_media_that_nobody_here_opens(chain: Chain) -> None:
    """Its keys are given, with a word; to relay it is refused, and costs no other stream its relay."""
    video = "m=video {} RTP/SAVP 96\r\nc=IN IP4 127.0.0.1\r\na=stkmstream:7\r\n"
    with contextlib.closing(Pair.bind()) as free:
        good, bad = free.port, free.port + 2
    path = chain.folder / "media.sdp"
    odd = video.format(bad) + "a=SRTPAuthentication:2\r\na=SRTPROCTxRate:10\r\n"
    path.write_text((chain.folder / "N.sdp").read_text().partition("m=video")[0] + odd, newline="")
    (chain.folder / "over.db").unlink(missing_ok=True)
    with Set(chain, "over", sdp=path) as terminal:
        terminal.plays(2, "its keys are given")
        assert "the keys of 127.0.0.1:" in terminal.said() and "RCCm1 (RFC 4771)" in terminal.said()
    toml = chain.folder / "over.toml"
    refused = _run(toml, path, "--relay", "127.0.0.1:9")
    assert refused.returncode == 2 and "is not opened: its integrity transform (SRTPAuthentication) is RCCm1" in refused.stderr
    path.write_text(path.read_text() + video.format(good), newline="")
    both = _run(toml, path, "--relay", "127.0.0.1:9", "--relay", "127.0.0.1:11")
    assert both.returncode == 0 and "RCCm1" in both.stderr and '"ready"' in both.stderr


def _run(toml: Path, sdp: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Until it is ready, or has ended by itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "pybcast.cli", "terminal", str(toml), str(sdp), "--via", "broadcast", *options], text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        late = threading.Timer(LIMIT, process.kill)
        late.start()
        said = []
        for line in process.stderr:
            said.append(line)
            if '"ready"' in line:
                process.terminate()
        process.wait()
        late.cancel()
    return subprocess.CompletedProcess([], process.returncode, "", "".join(said))
