# SPDX-License-Identifier: Apache-2.0
"""The STKM sender as a process: what it is told is on air, octet by octet, and stays there whatever becomes of the BSD/A."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hearing import Heard, Listener
from saying import Saying, configuration, plan, service, state_until, stkm, tek
from servers_support import Process, free_ports

from pybcast.backend import pki
from pybcast.broadcast import link
from pybcast.broadcast.link import Begin
from pybcast.cli import main
from pybcast.flows.events import NextKey, PlanBegun, PlanRefused, Recall, Recalled, UseKey
from pybcast.outlets.keyline import KeyOutput
from pybcast.outlets.keysocket import follow
from pybcast.wire.times import NTP_UNIX


@contextlib.contextmanager
def on_air(folder: Path, letters: str = "AB", **air: Any) -> Iterator[tuple[Process, Listener, dict[str, int]]]:
    """A sender, who hears it, and the ports of the DRM Profile's STKMs; those of the Smartcard Profile are the next ones."""
    ports = {letter: free_ports(1)[0] for letter in letters}
    configuration(folder, {letter: f"127.0.0.1:{port}" for letter, port in ports.items()}, air=air)
    listener = Listener("127.0.0.1", [port + more for port in ports.values() for more in (0, 1)])
    sender = Process("bsda", folder, command=("air", "stkm"))
    try:
        sender.ready()
        yield sender, listener, ports
    finally:
        if sender.process.poll() is None:
            assert sender.end(signal.SIGTERM) == 0, sender.tail()
        listener.close()
    sender.check()


def more(count: int, port: int, since: float) -> Callable[[dict[int, list[Heard]]], bool]:
    """So many datagrams on a port after a Unix time."""
    return lambda heard: sum(when > since for when, _ in heard.get(port, ())) >= count


def told_to_an_encoder(path: Path, until: Callable[[KeyOutput], bool]) -> list[tuple[float, KeyOutput]]:
    """What an encoder hears, with the Unix time, to the line that is waited for."""
    found = []
    for output in follow(path, patience=30):
        found.append((time.time(), output))
        if until(output):
            return found
    raise AssertionError


def test_what_is_planned_happens_whatever_becomes_of_the_bsda(tmp_path: Path) -> None:
    """Both servers are dead, and STKMs and keys change on."""
    path = tmp_path / "air.sock"
    with on_air(tmp_path, keys="keys.sock") as (sender, listener, ports):
        begin = int(time.time()) + 2
        edges = [begin + 2 * n for n in range(-1, 5)]  # of two seconds
        ntp = [edge + NTP_UNIX for edge in edges]
        with Saying(path, plan("A", *edges, reserve=10), plan("B", begin - 4, begin + 60)) as bsda:
            assert set(bsda.executed(2)) == {PlanBegun(service("A"), 1, ntp[0]), PlanBegun(service("B"), 1, begin - 4 + NTP_UNIX)}
            here = bsda.here()
            assert {held.service: [p.start for p in held.periods] for held in here.held} == {
                service("A"): ntp[:-1], service("B"): [begin - 4 + NTP_UNIX],
            }  # fmt: skip
        state_until(path, able=False)
        heard = told_to_an_encoder(
            tmp_path / "keys.sock", lambda output: isinstance(output, UseKey) and output.start == ntp[4]
        )  # fmt: skip
        uses = [(when, use) for when, use in heard if isinstance(use, UseKey) and use.service == service("A")]
        assert [use.tek.reveal() for _, use in uses] == [tek("A", start) for start in ntp[5 - len(uses) : 5]]
        for when, use in uses[1:]:
            assert 0 <= when - (use.start - NTP_UNIX) < 2, "in time, of a machine that others use too"
        nexts = [(when, said.use.start) for when, said in heard if isinstance(said, NextKey)]
        assert [start for _, start in nexts] == ntp[5 - len(nexts) : 5]
        for when, start in nexts[1:]:
            left = [at for at, data in listener.heard[ports["A"]] if data == stkm("drm", "A", start)]
            assert sum(at < when for at in left) >= 3, "named to the encoder only after its STKM was sent three times (R47)"
        state = state_until(path, held=1, changes=4)
        assert state["light"] == "red" and state["why"] == "the last key of 1 streams is held" and state["reach"] <= 0
    alarms = [(e["code"], e["service"], e["active"]) for e in sender.events if e.get("event") == "alarm"]
    assert alarms == [("plan-short", service("A"), True), ("held-key", service("A"), True)]
    for profile, offset in (("drm", 0), ("smartcard", 1)):
        rows = listener.heard[ports["A"] + offset]
        for n, start in enumerate(ntp[1:-1], 1):
            mine = [when for when, data in rows if data == stkm(profile, "A", start)]
            assert mine[0] < edges[n], "on air before its start"
            gone = max(when for when, data in rows if data == stkm(profile, "A", ntp[n - 1]))
            assert gone < edges[n] + 1, "and the one before it is off air then"
        both = [data for when, data in rows if edges[2] - 0.5 < when < edges[2]]
        assert all(a != b for a, b in pairwise(both)), "n, n+1, n, n+1"


def test_a_bsda_that_comes_is_told_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "air.sock"
    with on_air(tmp_path) as (sender, listener, ports):
        now = time.time()
        far = plan("A", now - 5, now + 60, now + 120, now + 180)
        starts = [period.start for period in far.periods]
        with Saying(path, far) as bsda:
            assert bsda.executed(1) == [PlanBegun(service("A"), 1, starts[0])]
            bsda.say(plan("A", now + 110, now + 130), plan("C", now, now + 60))
            overlaps, stranger = bsda.executed(2)
            assert isinstance(overlaps, PlanRefused) and "overlap" in overlaps.why and not overlaps.unknown
            assert isinstance(stranger, PlanRefused) and stranger.unknown and stranger.service == service("C")
        state_until(path, able=False)
        again = Begin("urn:example:other", epoch=2)
        with Saying(path, begin=again) as other:
            (held,) = other.here().held
            assert ([p.start for p in held.periods], held.used) == (starts, starts[0])
            other.say(Recall(service("A"), 1, 0))
            assert other.executed(1) == [Recalled(service("A"), 1, 0, tuple(starts[1:]), ((starts[0], starts[1]),))]
            listener.wait(more(3, ports["A"], time.time()), "what is on air")
            with Saying(path, far) as older, pytest.raises(AssertionError, match="hung up"):
                older.next()  # who was before it may say nothing any more (R44)
            assert other.here().epoch == 2
            with Saying(path, begin=Begin("urn:example:third", epoch=2)) as third:
                state_until(path, bsda="urn:example:third", able=True)
                assert other.connection.recv(1 << 20) == b"" and third.here().held, "its place is taken"
    events = [e.get("event") for e in sender.events]
    assert [e for e in events if e in ("ready", "bsda-came", "bsda-gone", "stopped")] == [
        "ready", "bsda-came", "bsda-gone", "bsda-came", "bsda-came", "bsda-gone", "stopped",
    ]  # fmt: skip


def test_an_edge_that_starts_is_empty_and_encoders_keep_their_key(tmp_path: Path) -> None:
    """Killed: the next one knows nothing, is told everything, and counts repetitions anew (R48)."""
    path, keys = tmp_path / "air.sock", tmp_path / "keys.sock"
    port = free_ports(2)[0]
    configuration(tmp_path, {"A": f"127.0.0.1:{port}"}, air={"keys": "keys.sock"})
    now = time.time()
    said = plan("A", now - 5, now + 60, now + 120)
    start = said.periods[0].start
    first = Process("bsda", tmp_path, command=("air", "stkm"))
    first.ready()
    with Saying(path, said) as bsda:
        assert bsda.executed(1) == [PlanBegun(service("A"), 1, start)]
        first.process.kill()
        first.gone()
    second = Process("bsda", tmp_path, command=("air", "stkm"))
    second.ready()
    with Saying(path) as bsda:
        assert bsda.here().held == ()
        began = time.time()
        bsda.say(said)
        heard = told_to_an_encoder(keys, lambda output: isinstance(output, UseKey))
        assert [output.start for _, output in heard if isinstance(output, UseKey)] == [start]
        assert heard[-1][0] - began >= 0.3, "three repetitions of a tenth of a second"
    assert second.end(signal.SIGTERM) == 0
    second.check()


def test_the_configuration_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "air.sock"
    now = time.time()
    both = [plan(letter, now, now + 600) for letter in "AC"]
    with on_air(tmp_path, "A") as (sender, listener, ports):
        with Saying(path, *both) as bsda:
            said = bsda.executed(2)
            assert [one.service for one in said if isinstance(one, PlanRefused)] == [service("C")]
            assert state_until(path, streams=1)["strangers"] == 1
            (tmp_path / "bsda.toml").write_text("nonsense")
            sender.process.send_signal(signal.SIGHUP)
            sender.wait(lambda seen: any(e.get("event") == "not-reloaded" for e in seen), "refusal")
            configuration(tmp_path, {"C": f"127.0.0.1:{ports['A']}"})
            sender.process.send_signal(signal.SIGHUP)
            sender.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload")
            with pytest.raises(AssertionError, match="hung up"):  # everything is to be said anew
                bsda.executed(2)
        with Saying(path, *both) as bsda:
            since = time.time()
            listener.wait(more(3, ports["A"], since), "the new service")
        assert {data[:5] for when, data in listener.heard[ports["A"]] if when > since} == {b"drm C"}
        sender._events = [e for e in sender._events if e.get("event") != "not-reloaded"]


def test_who_says_nonsense_is_cut_off_and_nothing_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "air.sock"
    now = time.time()
    with on_air(tmp_path, "A") as (_, listener, ports), Saying(path, plan("A", now, now + 60)) as bsda:
        bsda.executed(1)
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 9, link.END):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
                connection.settimeout(30)
                connection.connect(str(path))
                connection.sendall(nonsense)
                assert connection.recv(1) == b""
        whole = link.told(plan("A", now, now + 60, now + 120))
        cut = socket.socket(socket.AF_UNIX)
        with contextlib.closing(cut):  # a link that breaks in the middle of a plan
            cut.connect(str(path))
            cut.sendall(whole[: len(whole) // 2])
        assert len(bsda.here().held[0].periods) == 1
        bsda.say(plan("A", now + 60, now + 120))
        assert len(bsda.here().held[0].periods) == 2
        assert state_until(path, refused=3)["able"]
        listener.wait(more(4, ports["A"], time.time()), "the service")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (("sender = 'air.sock'\n", ""), "air.sender: missing"),
        (("sender = 'air.sock'\n", "sender = 'air.sock'\nheartbeat = '239.1.1.1:9'\n"), "needs server.pair_secret"),
        (("sender = 'air.sock'\n", "sender = 'air.sock'\ninterface = '192.0.2.77'\n"), "interface 192.0.2.77"),
        (("sender = 'air.sock'\n", "sender = 'air.sock'\ninterface = 'eth0'\n"), "expected an IPv4 address"),
        (("sender = 'air.sock'\n", "sender = 'bsda.toml'\n"), "is no socket"),
        (('role = "bsda"', 'role = "nobody"'), "role"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, change: tuple[str, str], refusal: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = configuration(tmp_path, {"A": "127.0.0.1:9"})
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    monkeypatch.setattr("pybcast.servers.log.start", lambda *_: None)
    assert main(["air", "stkm", str(path)]) == 2
    assert refusal in capfd.readouterr().err + caplog.text


def test_check_sees_what_the_sender_would_refuse(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pki.init(tmp_path, {"bsda": "urn:example:bsda"})
    (tmp_path / "kek").write_text("5a" * 32)
    (tmp_path / "kek").chmod(0o600)
    path = configuration(tmp_path, {"A": "239.1.1.1:5004"})
    assert main(["check", str(path)]) == 0, capfd.readouterr().err
    path.write_text(path.read_text().replace("239.1.1.1", "example.com"))
    assert main(["check", str(path)]) == 2
    assert "example.com: expected an IPv4 address" in capfd.readouterr().err


def test_a_second_sender_is_refused(tmp_path: Path) -> None:
    with on_air(tmp_path, "A"):
        second = Process("bsda", tmp_path, command=("air", "stkm"))
        assert second.gone() == 2 and any("another process listens there" in str(e) for e in second.events)
    assert not (tmp_path / "air.sock").exists()
    assert main(["air", "stkm", "--help"]) == 0


@pytest.mark.requires_tool("unshare", package="util-linux")
@pytest.mark.requires_tool("ip", package="iproute2")
def test_multicast_on_a_cable_of_its_own(tmp_path: Path) -> None:
    alone = ("unshare", "-rn")
    cable = (*alone, "ip", "link", "add", "air0", "type", "veth", "peer", "name", "air1")
    allowed = subprocess.run(cable, capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no network namespace of our own: {allowed.stderr.strip()}")
    here = Path(__file__).parent
    done = subprocess.run(
        [*alone, sys.executable, str(here / "alone.py"), str(tmp_path)], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent / 'servers'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
