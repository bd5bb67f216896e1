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
from saying import NTP_UNIX, Saying, announce, configuration, state_until
from servers_support import Process, free_ports

from pybcast.backend import pki
from pybcast.broadcast import link
from pybcast.cli import main
from pybcast.flows.events import OffAir


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


def test_what_is_said_is_on_air_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "air.sock"
    with on_air(tmp_path) as (sender, listener, ports):
        now = time.time()
        first = [announce("A", now - 5), announce("B", now - 5)]
        with Saying(path, *first) as bsda:
            assert sorted(bsda.reports(2)) == [(said.service, 1, said.start) for said in first]
            begin = int(time.time()) + 2
            second = announce("A", begin)
            bsda.say(second)
            assert bsda.reports(1) == [(second.service, 1, second.start)]
            listener.wait(more(5, ports["A"], begin + 0.3), "the second period")
            assert state_until(path, handovers=1)["handovers_late"] == 0
            bsda.say(announce("B", begin + 60))
            bsda.reports(1)
        died = time.time()
        state_until(path, able=False)
        listener.wait(more(12, ports["B"], died + 0.2), "what is held")
        with Saying(path, second, announce("B", now - 5)) as again:  # it says less: one period was taken back
            assert sorted(again.reports(2)) == [(second.service, 1, second.start), (first[1].service, 1, first[1].start)]
            came = time.time()
            listener.wait(more(8, ports["B"], came + 0.2), "what it said again")
            with Saying(path, me="urn:example:other") as other:  # and another has lost its store
                state_until(path, bsda="urn:example:other", able=True)
                listener.wait(more(3, ports["A"], time.time() + 0.2), "what is held")
                assert again.connection.recv(100) == b"", "its place is taken"
                other.say(OffAir(first[1].service, 1, first[1].start))
                state_until(path, streams=1, datagrams=2)
    heard = listener.heard
    for profile, offset in (("drm", 0), ("smartcard", 1)):
        rows = heard[ports["A"] + offset]
        old, new = (f"{profile} A {said.start} ".encode() for said in (first[0], second))
        assert {data for _, data in rows} == {old, new}
        assert max(when for when, data in rows if data == old) < begin + 0.1, "off air when the next period begins: nobody said so"
        both = [data for when, data in rows if when < begin]
        both = both[both.index(new) - 1 :]
        assert all(a != b for a, b in pairwise(both)), "n, n+1, n, n+1"
        rows = heard[ports["B"] + offset]
        assert {data for when, data in rows if died + 0.2 < when < came} == {
            f"{profile} B {said + NTP_UNIX} ".encode() for said in (int(now - 5), begin + 60)
        }
        assert {data for when, data in rows if when > came + 0.2} == {f"{profile} B {first[1].start} ".encode()}
    events = [e.get("event") for e in sender.events]
    assert [e for e in events if e in ("ready", "bsda-came", "bsda-gone", "stopped")] == [
        "ready", "bsda-came", "bsda-gone", "bsda-came", "bsda-came", "bsda-gone", "stopped",
    ]  # fmt: skip


def test_the_configuration_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "air.sock"
    with on_air(tmp_path, "A") as (sender, listener, ports):
        with Saying(path, announce("A", 1e9), announce("C", 1e9)) as bsda:
            bsda.reports(1)
            assert state_until(path, streams=1)["strangers"] == 1
            sender.wait(lambda seen: any(e.get("event") == "stkm-stranger" for e in seen), "word of the stranger")
            (tmp_path / "bsda.toml").write_text("nonsense")
            sender.process.send_signal(signal.SIGHUP)
            sender.wait(lambda seen: any(e.get("event") == "not-reloaded" for e in seen), "refusal")
            configuration(tmp_path, {"C": f"127.0.0.1:{ports['A']}"})
            sender.process.send_signal(signal.SIGHUP)
            sender.wait(lambda seen: any(e.get("event") == "reloaded" for e in seen), "reload")
            assert bsda.connection.recv(100) == b"", "everything is to be said anew"
        with Saying(path, announce("A", 1e9), announce("C", 1e9)) as bsda:
            bsda.reports(1)
            since = time.time()
            listener.wait(more(3, ports["A"], since), "the new service")
        assert {data[:5] for when, data in listener.heard[ports["A"]] if when > since} == {b"drm C"}
        sender._events = [e for e in sender._events if e.get("event") != "not-reloaded"]


def test_who_says_nonsense_is_cut_off_and_nothing_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "air.sock"
    with on_air(tmp_path, "A") as (_, listener, ports), Saying(path, announce("A", 1e9)) as bsda:
        bsda.reports(1)
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 9, link.frame(link._End())):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
                connection.settimeout(30)
                connection.connect(str(path))
                connection.sendall(nonsense)
                assert connection.recv(1) == b""
        bsda.say(announce("A", 2e9))
        bsda.reports(1)
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
