# SPDX-License-Identifier: Apache-2.0
"""IPsec of the kernel under key lines: which lines are made, in which order, and what ``ip`` and the kernel say to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from outlet_support import SERVICE, key_socket, tek

from pybcast.cli.app import run as run_cli
from pybcast.errors import BadValue, ConfigError
from pybcast.flows import Alarm, StopTraffic, TekExpired, TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.xfrm import Associations, Ip, Traffic, delete_line, policy_line, spi, state_line
from pybcast.secret import Secret

requires_ip = pytest.mark.requires_tool("ip", package="iproute2")

TRAFFIC: Final = Traffic("239.1.1.1", 5004)
ENDS: Final = "src 0.0.0.0 dst 239.1.1.1"
PACKETS: Final = "src 0.0.0.0/0 dst 239.1.1.1/32 proto udp dport 5004"
BLOCK: Final = f"xfrm policy update dir out {PACKETS} action block"
AUTH: Final = bytes(range(20))


def use(number: int, *, end: int | None = None, auth: bytes | None = AUTH, mki: bytes | None = None) -> UseKey:
    name, auth_key = mki or (0x10000 + number).to_bytes(4), None if auth is None else Secret(auth)
    return UseKey(SERVICE, 1, number, Protocol.IPSEC, name, tek(number), None, auth_key, end)


def ready(number: int, *, until: float = 1e10) -> TekReady:
    key = use(number)
    return TekReady(SERVICE, 1, key.mki, key.tek, None, key.auth_key, until, Protocol.IPSEC)


def add(number: int, more: str = "", auth: str = f" auth-trunc hmac(sha1) 0x{AUTH.hex()} 96") -> str:
    name, key = f"0x{0x10000 + number:08x}", tek(number).reveal().hex()
    return f"xfrm state add {ENDS} proto esp spi {name} mode transport{more} enc cbc(aes) 0x{key}{auth}"


def allow(number: int) -> str:
    under = f"tmpl {ENDS} proto esp spi 0x{0x10000 + number:08x} mode transport level required"
    return f"xfrm policy update dir out {PACKETS} action allow {under}"


def delete(number: int) -> str:
    return f"xfrm state delete {ENDS} proto esp spi 0x{0x10000 + number:08x}"


class Kernel:
    """Takes what would go to ``ip``."""

    def __init__(self, *, inbound: bool = False, present: frozenset[int] = frozenset()) -> None:
        self.now = 1000.0
        self.batches: list[list[str]] = []
        self.alarms: list[tuple[str, bool]] = []
        self.associations = Associations(
            SERVICE, 1, TRAFFIC, lambda lines: self.batches.append(list(lines)), lambda: self.now, inbound=inbound,
            present=present, alarm=self._alarm,
        )  # fmt: skip

    def _alarm(self, alarm: Alarm) -> None:
        self.alarms.append((alarm.code, alarm.active))

    def put(self, *outputs: UseKey | StopTraffic | TekReady | TekExpired) -> list[list[str]]:
        """The batches that these make."""
        for output in outputs:
            self.associations.put(output)
        batches, self.batches = [batch for batch in self.batches if batch], []
        return batches


def test_a_key_change_makes_before_it_breaks() -> None:
    kernel = Kernel()
    kernel.associations.begin()
    assert kernel.put() == [[BLOCK]]
    assert kernel.put(use(1)) == [[add(1), allow(1)]]
    assert kernel.put(use(1)) == []
    assert kernel.put(use(2)) == [[add(2), allow(2), delete(1)]]
    assert kernel.associations.spis == (0x10002,)
    assert kernel.put(StopTraffic(SERVICE, 1)) == [[BLOCK, delete(2)]]
    assert kernel.put(use(3)) == [[add(3), allow(3)]]
    assert kernel.alarms == [("no-authority", True), ("no-authority", False)]
    assert kernel.associations.changes == 3
    assert kernel.put(ready(4), TekExpired(SERVICE, 1, use(3).mki)) == [], "for a terminal"


def test_the_kernel_ends_an_association_at_the_end_of_its_authority() -> None:
    kernel = Kernel()
    assert kernel.put(use(1, end=1060)) == [[add(1, " limit time-hard 60"), allow(1)]]
    kernel.now = 1050.5
    update = add(1, " limit time-hard 160").replace("state add", "state update")
    assert kernel.put(use(1, end=1160)) == [[update, allow(1)]], "it counts from when the association was made"
    kernel.associations.look(1159.9)
    assert kernel.put() == []
    kernel.now = 1160.0
    kernel.associations.look(kernel.now)
    kernel.associations.look(kernel.now)
    assert kernel.put() == [[BLOCK, delete(1)]]
    assert kernel.put(use(2, end=1160)) == [[BLOCK]], "too late"
    assert kernel.put(use(2, end=1170)) == [[add(2, " limit time-hard 10"), allow(2)]]
    assert kernel.put(use(2, end=1100)) == [[BLOCK, delete(2)]]
    assert kernel.alarms == [("no-authority", True), ("no-authority", False), ("no-authority", True)]


def test_what_another_process_made_stays_until_the_next_key() -> None:
    kernel = Kernel(present=frozenset({0x10001, 0x10009}))
    kernel.associations.begin()
    assert kernel.put() == [], "its stream goes on"
    assert kernel.put(use(1, end=1060)) == [[allow(1), delete(9)]]
    assert kernel.put(use(1, end=1070)) == [[allow(1)]]
    assert kernel.put(use(2)) == [[add(2), allow(2), delete(1)]]
    kernel = Kernel(present=frozenset({0x10009}))
    assert kernel.put(StopTraffic(SERVICE, 1)) == [[BLOCK, delete(9)]]


def test_a_terminal_holds_each_key_until_its_lifetime_ends() -> None:
    kernel = Kernel(inbound=True)
    kernel.associations.begin()
    assert kernel.put() == [[policy_line(TRAFFIC, "in")]]
    assert kernel.put(ready(1, until=1064.9), ready(2, until=1068)) == [
        [add(1, " replay-window 32 limit time-hard 64")], [add(2, " replay-window 32 limit time-hard 68")]
    ]  # fmt: skip
    assert kernel.put(TekExpired(SERVICE, 1, use(1).mki), TekExpired(SERVICE, 1, use(1).mki)) == [[delete(1)]]
    kernel.now = 1068
    kernel.associations.look(kernel.now)
    assert kernel.put() == [[delete(2)]]
    assert kernel.put(ready(2, until=1068)) == []
    assert kernel.put(use(3), StopTraffic(SERVICE, 1)) == [], "for an encoder"
    assert kernel.associations.figures()["spis"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        use(2, mki=bytes.fromhex("000000ff")),
        use(2, mki=bytes.fromhex("000000010002")),
        UseKey(SERVICE, 1, 2, Protocol.SRTP, use(2).mki, tek(2), bytes(14), None, None),
        use(2, mki=use(1).mki),
        use(1, auth=None),
    ],
    ids=["reserved SPI", "SPI of 6 bytes", "for SRTP", "SPI of another key", "no authentication of a sudden"],
)
def test_a_key_that_cannot_be_used_leaves_the_last_one(wrong: UseKey) -> None:
    kernel = Kernel()
    kernel.put(use(1))
    assert kernel.put(wrong) == []
    assert kernel.associations.spis == (0x10001,)
    assert kernel.put(use(3)) == [[add(3), allow(3), delete(1)]]
    assert kernel.alarms == [("key-refused", True), ("key-refused", False)]


def test_lines() -> None:
    six = Traffic("ff05::1", 0, "2001:db8::1")
    key = use(5, auth=None)
    assert state_line("add", six, key, 9.9, inbound=False) == (
        "xfrm state add src 2001:db8::1 dst ff05::1 proto esp spi 0x00010005 mode transport limit time-hard 9"
        f" enc cbc(aes) 0x{tek(5).reveal().hex()}"
    )
    assert policy_line(six, "out") == "xfrm policy update dir out src 2001:db8::1/128 dst ff05::1/128 proto udp action block"
    assert policy_line(Traffic("ff05::1"), "in").startswith(
        "xfrm policy update dir in src ::/0 dst ff05::1/128 proto udp action allow"
    )
    assert spi(bytes.fromhex("00000100")) == 256
    with pytest.raises(BadValue):
        delete_line(six, bytes.fromhex("000000ff"))
    for host, port, source in (("a.example", 0, ""), ("239.1.1.1", -1, ""), ("239.1.1.1", 1, "::1"), ("239.1.1.1 ; reboot", 0, "")):
        with pytest.raises(ConfigError):
            Traffic(host, port, source)


# The program ip


def isolated() -> list[str]:
    """What runs a command in a network of its own; skips where that is not allowed."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
            return command
    pytest.skip("no network namespace may be made here")


def batch(lines: Sequence[str], then: str = "true") -> subprocess.CompletedProcess[str]:
    """``ip -batch -`` in a network of its own, then a command there."""
    said = "".join(line + "\n" for line in lines)
    script = f"ip -batch - || exit $?; {then}"
    return subprocess.run([*isolated(), "sh", "-c", script], input=said, text=True, capture_output=True, check=False)


@requires_ip
@pytest.mark.parametrize("traffic", [TRAFFIC, Traffic("ff05::1", 5004, "2001:db8::1")], ids=["IPv4", "IPv6"])
def test_the_kernel_takes_policies(traffic: Traffic) -> None:
    done = batch([policy_line(traffic, "out"), policy_line(traffic, "in")], "ip xfrm policy")
    assert done.returncode == 0 and "dir out action block" in done.stdout and "dir in priority" in done.stdout, done.stderr
    done = batch([policy_line(traffic, "out"), policy_line(traffic, "out", use(1).mki)], "ip xfrm policy")
    assert done.stdout.count("dir out") == 1 and "block" not in done.stdout
    assert "proto esp spi 0x00010001 reqid 0 mode transport" in done.stdout and f"dst {traffic.destination}" in done.stdout


@requires_ip
@pytest.mark.parametrize("auth", [AUTH, None], ids=["authenticated", "not authenticated"])
@pytest.mark.parametrize("inbound", [True, False], ids=["in", "out"])
@pytest.mark.parametrize("traffic", [TRAFFIC, Traffic("ff05::1", 5004, "2001:db8::1")], ids=["IPv4", "IPv6"])
def test_ip_takes_states(traffic: Traffic, inbound: bool, auth: bytes | None) -> None:
    """A kernel with ESP shows what was asked for; one without it refuses the type, after ip has understood every word."""
    lines = [state_line("add", traffic, use(1, auth=auth), 3600.0, inbound=inbound)]
    lines.append(state_line("update", traffic, use(1, auth=auth), 4000.0, inbound=inbound))
    done = batch(lines, "ip -s xfrm state")
    if done.returncode == 2 and "Requested type not found" in done.stderr:
        return  # no ESP in this kernel
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert "proto esp spi 0x00010001" in shown and "mode transport" in shown and "hard 4000(sec)" in shown
    assert f"enc cbc(aes) 0x{tek(1).reveal().hex()}" in shown
    assert (f"auth-trunc hmac(sha1) 0x{AUTH.hex()} 96" in shown) is (auth is not None)
    assert ("replay-window 32" in shown) is inbound


@requires_ip
@pytest.mark.parametrize("word", ["mode", "enc", "limit", "proto", "spi", "auth-trunc"])
def test_ip_does_not_take_any_word(word: str) -> None:
    """The test above would see a slip."""
    line = state_line("add", TRAFFIC, use(1), 3600.0, inbound=True)
    done = batch([line.replace(f" {word} ", f" {word}x ")])
    assert done.returncode not in (0, 2) and "Requested type not found" not in done.stderr


def fake_ip(folder: Path, answer: str) -> Path:
    """A program that keeps its arguments and its input, and answers."""
    fake = folder / "ip"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {folder}/arguments\ncat >> {folder}/input\n{answer}\n')
    fake.chmod(0o755)
    return fake


def carried_out(program: Path, *batches: Sequence[str]) -> Ip:
    async def run() -> Ip:
        ip = Ip(str(program))
        running = asyncio.create_task(ip.run())
        for lines in batches:
            ip.put(lines)
        await asyncio.wait_for(ip.done(), 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return ip

    return asyncio.run(run())


def test_keys_are_on_standard_input_alone(tmp_path: Path) -> None:
    ip = carried_out(fake_ip(tmp_path, ""), [add(1), allow(1)], [], [add(2), allow(2), delete(1)])
    assert (tmp_path / "arguments").read_text().splitlines() == ["-batch -"] * 3
    assert (tmp_path / "input").read_text().splitlines() == [add(1), allow(1), add(2), allow(2), delete(1)]
    assert ip.failures == 0


def test_what_ip_refuses_is_said_without_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake = fake_ip(tmp_path, 'echo "Error: argument 0x00112233445566778899aabbccddeeff is wrong" >&2; exit 255')
    assert carried_out(fake, [add(1)], [add(2)]).failures == 2
    assert "argument <key> is wrong" in caplog.text and "00112233" not in caplog.text
    assert carried_out(fake_ip(tmp_path, "exit 3"), [add(1)]).failures == 1 and "status 3" in caplog.text
    assert carried_out(tmp_path / "missing", [add(1)]).failures == 1 and "No such file" in caplog.text
    assert carried_out(fake_ip(tmp_path, 'echo "RTNETLINK answers: No such process" >&2; exit 2'), [delete(1)]).failures == 0


def test_an_ip_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("pybcast.outlets.xfrm.PATIENCE", 0.2)
    assert carried_out(fake_ip(tmp_path, "exec sleep 60"), [add(1)]).failures == 1
    assert "does not end" in caplog.text


def test_what_the_kernel_has(tmp_path: Path) -> None:
    shown = (
        "src 0.0.0.0 dst 239.1.1.1\n\tproto esp spi 0x00010001 reqid 0 mode transport\n\tproto esp spi 0x00010009 reqid 0 mode x"
    )
    fake = fake_ip(tmp_path, f"printf '{shown}'")
    assert asyncio.run(Ip(str(fake)).present(TRAFFIC)) == {0x10001, 0x10009}
    assert (tmp_path / "arguments").read_text().split() == ["xfrm", "state", "list", "nokeys", "dst", "239.1.1.1", "proto", "esp"]


@pytest.mark.parametrize("apply", [False, True], ids=["printed", "applied"])
def test_the_command_follows_keys(tmp_path: Path, apply: bool) -> None:
    fake_ip(tmp_path, "")
    (tmp_path / "input").touch()
    command = [sys.executable, "-m", "pybcast.cli", "xfrm", "--service", SERVICE, "--to", "239.1.1.1:5004", "--json"]
    with key_socket(tmp_path / "keys.sock") as keys:
        keys.put(use(1))
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        with subprocess.Popen(
            [*command, "--keys", str(keys.path), *(["--apply"] if apply else [])], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                assert process.stderr is not None and process.stdout is not None
                assert json.loads(process.stderr.readline())["event"] == "keys-connected"
                keys.wait_reader()  # it is told of both keys, not of the last one alone
                keys.put(use(2), use(7, mki=b"\0\0\0\1"))
                assert json.loads(process.stderr.readline())["code"] == "key-refused"
                process.send_signal(signal.SIGTERM)
                said, log = process.communicate(timeout=30)
                assert process.returncode == 0
            finally:
                process.kill()
    lines = (tmp_path / "input").read_text() if apply else said
    assert lines.splitlines() == [BLOCK, add(1), allow(1), add(2), allow(2), delete(1)]
    assert tek(1).reveal().hex() not in log + (said if apply else "")
    if apply:
        assert tek(1).reveal().hex() not in (tmp_path / "arguments").read_text()


def test_lines_are_not_for_a_screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run_cli(["xfrm", "--keys", "nowhere", "--service", "a", "--to", "239.1.1.1"]) == 2
    assert "not for a screen" in capsys.readouterr().err
    monkeypatch.undo()
    for to in ("example", "239.1.1.1:0", "[ff05::1]:x", ""):
        assert run_cli(["xfrm", "--keys", "nowhere", "--service", "a", "--to", to]) == 2
