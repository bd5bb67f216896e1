# SPDX-License-Identifier: Apache-2.0
"""``pybcast capture`` on loopback, captures as input of ``decode`` and ``explain``, and the dissector's way into Wireshark."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hearing6 import sender6

from pybcast import sdp
from pybcast.captures.pcap import Datagram, Skipped, Writer, read, summary
from pybcast.cli import capturing, main, wireshark
from pybcast.errors import ConfigError
from pybcast.messages import Kind
from pybcast.testing import corpus, mutate

PYBCAST: Final = (sys.executable, "-m", "pybcast.cli")
TIME: Final = 1_700_000_000_123_456_789
FROM: Final = ("192.0.2.1", 40000)


def message(kind: Kind, seed: int = 1) -> bytes:
    return next(corpus(kind, 1, seed))


def out_of(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> str:
    assert main(args) == status, capsys.readouterr()
    return capsys.readouterr().out


# --- captures as input -----------------------------------------------------------------------------------------------------


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    """An LTKM of each profile to 4359, an STKM to 5000, and something else."""
    file = io.BytesIO()
    writer = Writer(file.write)
    for number, (port, data) in enumerate(
        [(4359, message("smartcard-ltkm")), (5000, message("drm-stkm")), (4359, message("drm-ltkm")), (4359, b"\x20")]
    ):
        writer.write(TIME + number, FROM, ("233.252.0.1", port), data)
    path = tmp_path / "air.pcapng"
    path.write_bytes(file.getvalue())
    return path


def test_explain_takes_a_capture(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ltkm", str(captured), "--port", "4359", "--json"]) == 1
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [(row["packet"], row["time"], row["kind"]) for row in rows] == [
        (1, "2023-11-14T22:13:20.123456789Z", "smartcard-ltkm"),
        (3, "2023-11-14T22:13:20.123456791Z", "drm-ltkm"),
        (4, "2023-11-14T22:13:20.123456792Z", "drm-ltkm"),
    ]
    (error,) = map(json.loads, said.err.splitlines())
    assert (error["packet"], error["error"]["code"], error["error"]["offset"]) == (4, "truncated", 1)
    text = out_of(capsys, "explain", "auto", str(captured), "--port", "5000")
    assert "drm-stkm packet 2, 2023-11-14T22:13:20.123456790Z" in text


def test_decode_takes_a_capture_whose_messages_are_encoded_again(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(out_of(capsys, "decode", "drm-stkm", str(captured), "--port", "5000", "--json"))
    assert (said["packet"], said["time"]) == (2, "2023-11-14T22:13:20.123456790Z")
    again = captured.parent / "again.json"
    again.write_text(json.dumps(said["message"]))
    assert out_of(capsys, "encode", "drm-stkm", str(again)).strip() == message("drm-stkm").hex()
    assert "packet 2" in out_of(capsys, "decode", "stkm", str(captured), "--port", "5000")


def test_a_real_cards_message_opens_from_a_key_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``"rand": ""`` is the empty RAND of a provisioned key; without a RAND, and without the leniency, the cause is named."""
    (v,) = json.loads((Path(__file__).parents[1] / "vectors" / "smartcard.json").read_text())["card"]
    keys = tmp_path / "keys.json"

    def asked(*options: str, **names: str) -> tuple[int, str, str]:
        keys.write_text(json.dumps({"sek": v["sek"], **names}))
        keys.chmod(0o600)
        status = main(["decode", "auto", "--json", "--keys", str(keys), *options, v["message"]])
        return status, *capsys.readouterr()

    status, out, err = asked("--lenient", "mtk-id-4", rand="")
    shown = json.loads(out)
    assert (status, err, shown["kind"], shown["tek"], shown["verified"]) == (0, "", "smartcard-stkm", v["tek"], True)
    status, out, err = asked("--lenient", "mtk-id-4", rand="1234567890abcdeffedcba0987654321")
    assert (status, json.loads(err)["error"]["code"]) == (1, "integrity")
    status, out, err = asked("--lenient", "mtk-id-4")
    assert (status, json.loads(err)["error"]["found"]) == (1, "key not available: rand")
    status, out, err = asked(rand="")
    said = json.loads(err)
    assert (status, said["kind"]) == (1, "smartcard-stkm")
    assert (said["error"]["offset"], said["error"]["expected"]) == (26, "2 (4 with mtk-id-4)")
    assert main(["explain", "auto", v["message"]]) == 1
    assert capsys.readouterr().err == (
        "pybcast: smartcard-stkm: bad_length: payloads[0].ids[2].length at offset 26: expected 2 (4 with mtk-id-4), found 4\n"
    )


def test_what_ends_a_capture_is_said(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = captured.parent / "cut.pcapng"
    cut.write_bytes(captured.read_bytes()[:-3])
    assert main(["decode", "auto", str(cut), "--port", "5000"]) == 1
    assert "packet 5: truncated: block[5].total_length_again at offset" in capsys.readouterr().err
    assert main(["decode", "auto", str(captured), "--port", "1"]) == 2
    assert "no UDP datagram in the capture to these ports" in capsys.readouterr().err
    assert main(["decode", "auto", "00", "--port", "1"]) in (1, 2)
    assert main(["decode", "auto", str(captured.parent / "raw"), "--input", "pcap"]) == 2
    raw = captured.parent / "raw"
    raw.write_bytes(message("drm-stkm"))
    assert main(["decode", "drm-stkm", str(raw), "--port", "1"]) == 2
    assert main(["decode", "drm-stkm", str(raw), "--input", "pcap"]) == 1
    assert main(["decode", "auto", "00", "--partial"]) == 2
    capsys.readouterr()


CASES: Final = Path(__file__).parents[1] / "vectors" / "cases" / "pcap"


@pytest.mark.parametrize("name", ["04-sll-vlan.pcap", "06-ipv6-atomic-fragment.pcap", "10-pppoe.pcap"])
def test_captures_of_others_are_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "drm-stkm", str(CASES / name), "--port", "4001", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["packet"] == 1 and said.err == ""


def test_packets_that_are_not_read_are_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With number and reason, and the exit status is that of the messages."""
    mixed = str(CASES / "02-mixed-links-ether-and-80211.pcapng")
    assert main(["decode", "drm-stkm", mixed, "--port", "4001", "--json"]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["packet"] for line in said.out.splitlines()] == [1, 3]
    why = "1 packet of the capture not read: 1 of link type 127, which is not known here"
    assert json.loads(said.err) == {"warning": why}
    assert main(["explain", "auto", mixed]) == 0
    assert capsys.readouterr().err == f"pybcast: warning: {why}\n"
    many = tmp_path / "many.pcap"
    head = b"\xd4\xc3\xb2\xa1\2\0\4\0" + bytes(8) + b"\0\0\1\0\x65\0\0\0"
    packets = [bytes((0x45, 0, 0, 20, 0, 0, 0, 0, 64, protocol)) + bytes(10) for protocol in (6, 6, *range(20, 40))]
    many.write_bytes(head + b"".join(bytes(8) + b"\x14\0\0\0" * 2 + packet for packet in packets))
    assert main(["decode", "auto", str(many)]) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "pybcast: warning: 22 packets of the capture not read: 2 not UDP (protocol 6), 1 not UDP (protocol 20), "
    )
    assert first.endswith(", 1 not UDP (protocol 30), 9 for other reasons")
    assert "no UDP datagram in the capture" in last


def test_what_capture_wrote_of_a_flute_session_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(CASES / "17-our-own-capture-with-flute.pcapng")
    rows = [json.loads(line) for line in out_of(capsys, "explain", "auto", file, "--json").splitlines()]
    assert [row["kind"] for row in rows] == ["drm-stkm", "flute", "flute"]
    assert {row["field"]: row["value"] for row in rows[2]["rows"]}["TOI"] == "1"
    said = [json.loads(line)["message"] for line in out_of(capsys, "decode", "auto", file, "--json").splitlines()]
    assert [message["kind"] for message in said] == ["drm-stkm", "flute", "flute"]
    assert said[2] | {"TSI": 1, "TOI": 1, "payload": b"message-one".hex()} == said[2]
    text = out_of(capsys, "explain", "auto", file, "--port", "4001")
    assert "flute packet 2" in text and "object: the file description" in text
    assert main(["explain", "flute", file, "--port", "5004"]) == 1, "asked for, it must be one"
    assert "V at offset 0: expected 1, found 0" in capsys.readouterr().err


def test_whatever_a_capture_holds_the_commands_end_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mutated and cut: messages, typed errors and a status, never anything else."""
    rng, path = random.Random("captures"), tmp_path / "some.pcap"
    files = sorted(CASES.iterdir())
    for number in range(60):
        data = mutate(files[number % len(files)].read_bytes(), rng)
        path.write_bytes(data[: rng.randrange(len(data))] if number % 4 == 0 else mutate(data, rng))
        command = rng.choice(("explain", "decode"))
        status = main([command, rng.choice(("auto", "flute", "stkm", "drm-stkm", "mikey")), str(path), "--input", "pcap", "--json"])
        said = capsys.readouterr()
        assert status in (0, 1, 2)
        assert all(json.loads(line) for line in said.out.splitlines())
        assert all({"error", "warning"} & json.loads(line).keys() for line in said.err.splitlines())


def test_the_comment_says_what_a_datagram_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An STKM whose first bytes are those of another kind is what ``capture`` was told of its address."""
    data = message("smartcard-ltkm")
    assert summary(data, "smartcard-stkm").startswith("smartcard-stkm ")
    file = io.BytesIO()
    Writer(file.write).write(TIME, FROM, ("233.252.0.1", 1), data, summary(data, "smartcard-stkm"))
    path = tmp_path / "air.pcapng"
    path.write_bytes(file.getvalue())
    assert main(["explain", "auto", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "smartcard-stkm"
    assert main(["explain", "ltkm", str(path), "--json"]) == 0, "what is asked for counts more"
    capsys.readouterr()


# --- capturing -------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def capturing_process(*args: str, limit: Callable[[], object] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*PYBCAST, "capture", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def send_until(done: Callable[[], bool], port: int, *payloads: bytes) -> None:
    """Send again and again: nobody says when the other process listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100_000):
            for payload in payloads:
                sender.sendto(payload, ("127.0.0.1", port))
            if done():
                return
    pytest.fail("it never came")


def wait_briefly(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    def ended() -> bool:
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            return False
        return True

    return ended


def packets(path: Path) -> list[Datagram]:
    found = []
    for packet in read(io.BytesIO(path.read_bytes())):
        assert not isinstance(packet, Skipped)
        found.append(packet)
    return found


def test_capture_ends_at_a_count(tmp_path: Path) -> None:
    out, port, data = tmp_path / "air.pcapng", free_port(), message("smartcard-ltkm")
    with capturing_process(str(out), "--address", f"127.0.0.1:{port}=ltkm", "--count", "5", "--json") as process:
        send_until(wait_briefly(process), port, data, b"\x20")
        said, _ = process.communicate()
    facts = json.loads(said)
    assert (process.returncode, facts["datagrams"], facts["file"]) == (0, 5, str(out))
    found = packets(out)
    assert len(found) == 5
    for packet in found:
        assert packet.destination == ("127.0.0.1", port) and packet.source[0] == "127.0.0.1"
        assert packet.comment == summary(packet.payload, "ltkm")
    assert {packet.payload for packet in found} <= {data, b"\x20"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_capture_ends_with_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    out, port, data = tmp_path / "air.pcapng", free_port(), message("drm-stkm")
    with capturing_process(str(out), "--address", f"localhost:{port}=drm-stkm") as process:

        def written() -> bool:
            wait_briefly(process)()
            return out.exists() and out.stat().st_size > 1000

        send_until(written, port, data)
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert f"{len(packets(out))} datagrams" in said.decode()


def test_capture_of_a_session_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = [free_port() for _ in range(3)]
    stream = sdp.StkmStream(address="127.0.0.1", port=ports[0], streamid=1, kmstype="oma-bcast-drm-pki")
    made = sdp.Description(
        name="x", stkm=(stream,), ltkm=sdp.Endpoint(address="127.0.0.1", port=ports[1]),
        flute=(sdp.FluteSession(address="127.0.0.1", port=ports[2], tsi=1),),
    )  # fmt: skip
    file = tmp_path / "service.sdp"
    file.write_text(sdp.write(made), newline="")
    assert [(s.address[1], s.hint) for s in capturing.described(str(file), 0.0)[0]] == list(
        zip(ports, ("drm-stkm", "ltkm", "flute"), strict=True)
    )
    out = tmp_path / "air.pcapng"
    assert json.loads(out_of(capsys, "capture", str(out), "--sdp", str(file), "--seconds", "0", "--json"))["datagrams"] == 0
    assert packets(out) == []
    bare = tmp_path / "bare.sdp"
    bare.write_text(sdp.write(sdp.Description(name="x")), newline="")
    with pytest.raises(ConfigError, match="no STKM stream"):
        capturing.described(str(bare), 0.0)


HEAD: Final = "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=x\nt=0 0\n"
FLUTE: Final = "m=application {port} FLUTE/UDP 0\nc=IN IP{version} {address}\na=flute-tsi:1\n"
UNUSABLE: Final = {
    "no description": ("hello", "line[1]"), "empty": ("", "line[1].v"), "nothing in it": (HEAD, "no STKM stream"),
    "a fault": (HEAD + "m=x\n", "line[5].m"), "no TSI": (HEAD + "m=application 1 FLUTE/UDP 0\nc=IN IP4 239.1.1.1/1\n", "flute-tsi"),
    "a host that has no address": (HEAD + FLUTE.format(port=1, version=4, address="no.such.host.invalid"), "no IPv4 address"),
    "a sender that has no address": (
        HEAD + FLUTE.format(port=1, version=4, address="239.1.1.1/1") + "a=source-filter: incl IN IP4 * no.such.host.invalid\n",
        "no address of this host",
    ),
    "an address of another host": (HEAD + FLUTE.format(port=1, version=4, address="192.0.2.77"), "192.0.2.77:1"),
    "an IPv6 address of another host": (HEAD + FLUTE.format(port=1, version=6, address="2001:db8::77"), "[2001:db8::77]:1"),
    "a group of too many": (HEAD + "m=application 1/3 FLUTE/UDP 0\nc=IN IP4 239.1.1.1/1\n", "one port"),
    "octets": ("v=0\n\xff", "UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_description_that_cannot_be_used_costs_the_others_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words = UNUSABLE[name]
    bad, good, out = tmp_path / "bad.sdp", tmp_path / "good.sdp", tmp_path / "air.pcapng"
    bad.write_bytes(text.encode("latin-1"))
    good.write_text(HEAD + FLUTE.format(port=free_port(), version=4, address="127.0.0.1"))
    both = ("--sdp", str(bad), "--sdp", str(good))
    for order in (both, (*both[2:], *both[:2]), (*both[:2], "--address", f"127.0.0.1:{free_port()}")):
        assert main(["capture", str(out), *order, "--seconds", "0", "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["datagrams"] == 0 and out.exists()
        (note,) = [json.loads(line)["note"] for line in said.err.splitlines()]
        assert note.startswith(("not used: ", "not recorded: ")) and words in note
        out.unlink()
    assert main(["capture", str(out), *both[:2], *both[:2], "--seconds", "0"]) == 2, "and if there is no other"
    assert words in capsys.readouterr().err and not out.exists()


def test_a_description_that_is_not_there_costs_the_others_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, out = str(tmp_path / "none.sdp"), str(tmp_path / "air.pcapng")
    assert main(["capture", out, "--sdp", none, "--address", f"127.0.0.1:{free_port()}", "--seconds", "0"]) == 0
    assert "not used: cannot read" in capsys.readouterr().err
    assert main(["capture", out, "--sdp", none, "--sdp", str(tmp_path), "--seconds", "0"]) == 2
    capsys.readouterr()


def test_capture_of_an_ipv6_group(tmp_path: Path) -> None:
    """By a session description with senders, and by an address; the interface by its name."""
    port, group = free_port(), "ff15::4361"
    with sender6(group, port) as (name, out):
        me = out.getsockname()[0].partition("%")[0]
        file, made = tmp_path / "six.sdp", tmp_path / "air.pcapng"
        filters = f"a=source-filter: incl IN IP6 * 2001:db8::1 {me}\n"
        file.write_text(HEAD + FLUTE.format(port=port, version=6, address=group) + filters)
        for where in (("--sdp", str(file)), ("--address", f"[{group}]:{port}=flute")):
            with capturing_process(str(made), *where, "--interface", name, "--count", "1") as process:
                ended = wait_briefly(process)
                for _ in range(10_000):
                    out.send(b"x")
                    if ended():
                        break
                assert process.wait(10) == 0
            (found,) = packets(made)
            assert (found.destination, found.source[0], found.payload) == ((group, port), me, b"x")


def test_a_full_disk_leaves_a_whole_file(tmp_path: Path) -> None:
    """What fits is whole: the last block that was cut is taken away."""
    out, port = tmp_path / "air.pcapng", free_port()
    most = 100_000

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    with capturing_process(str(out), "--address", f"127.0.0.1:{port}", limit=limit) as process:
        send_until(wait_briefly(process), port, *[bytes(1300)] * 20)
        _, errors = process.communicate()
    assert (process.returncode, errors.decode()) == (2, f"pybcast: config: cannot write {out}: File too large\n")
    assert most - 2000 < out.stat().st_size <= most
    assert all(packet.payload == bytes(1300) for packet in packets(out))


def test_capture_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "air.pcapng")
    for args, words in (
        ([out], "where to listen?"),
        ([out, "--address", "127.0.0.1"], "expected HOST:PORT"),
        ([out, "--address", "127.0.0.1:0"], "expected HOST:PORT"),
        ([out, "--address", "127.0.0.1:1=x"], "KIND is one of"),
        ([out, "--address", "no.such.host.invalid:5000"], "no IPv4 address"),
        ([str(tmp_path), "--address", "127.0.0.1:5000"], "it is a folder"),
        ([str(tmp_path / "a" / "b"), "--address", f"127.0.0.1:{free_port()}"], "No such file or directory"),
        ([out, "--address", "192.0.2.77:5000"], "192.0.2.77:5000"),
        ([out, "--address", "239.1.2.3:5000", "--interface", "nowhere"], "--interface nowhere"),
        ([out, "--address", "239.1.2.3:5000", "--interface", "::1"], "--interface ::1"),
        ([out, "--address", "::1:5000"], "expected HOST:PORT"),
        ([out, "--address", "[::1]"], "expected HOST:PORT"),
        ([out, "--address", "[2001:db8::77]:5000"], "[2001:db8::77]:5000"),
        ([out, "--address", "[ff15::1]:5000", "--interface", "127.0.0.77"], "no interface has the address 127.0.0.77"),
    ):  # fmt: skip
        assert main(["capture", *args]) == 2, args
        assert words in capsys.readouterr().err


# --- the dissector -----------------------------------------------------------------------------------------------------------


def test_install_is_idempotent_and_leaves_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def install(status: int = 0) -> Any:
        said = out_of(capsys, "wireshark", "install", "--dir", str(tmp_path / "plugins"), "--json", status=status)
        return json.loads(said) if said else None

    target = tmp_path / "plugins" / "bcast.lua"
    assert install() == {"file": str(target), "done": "installed"}
    assert target.read_bytes() == Path(out_of(capsys, "wireshark", "path").strip()).read_bytes() == wireshark.dissector()
    assert json.loads(out_of(capsys, "wireshark", "path", "--json")) == {"file": str(wireshark.path())}
    before = target.stat()
    assert install()["done"] == "unchanged"
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    target.write_bytes(b"\n".join(wireshark.dissector().split(b"\n")[:5]))
    assert install()["done"] == "updated"
    assert target.read_bytes() == wireshark.dissector()
    target.write_bytes(b"-- somebody's\n")
    assert install(status=2) is None
    assert target.read_bytes() == b"-- somebody's\n"
    target.unlink()
    target.symlink_to(tmp_path / "elsewhere")
    assert install(status=2) is None
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "file").write_text("")
    assert main(["wireshark", "install", "--dir", str(tmp_path / "file")]) == 2
    capsys.readouterr()


def test_the_folder_without_wireshark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert wireshark.folder() == tmp_path / "me" / ".local" / "lib" / "wireshark" / "plugins"
    tool = tmp_path / "tshark"
    for said, found in (
        ("Personal Lua Plugins:\t/somewhere/else\n", Path("/somewhere/else")),
        ("nothing\n", tmp_path / "me" / ".local" / "lib" / "wireshark" / "plugins"),
    ):
        tool.write_text(f"#!/bin/sh\nprintf '{said}'\n")
        tool.chmod(0o755)
        assert wireshark.folder() == found


@pytest.mark.requires_tool("tshark", package="tshark")
def test_tshark_finds_what_was_installed(tmp_path: Path, captured: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path)}
    subprocess.run([*PYBCAST, "wireshark", "install"], env=environment, check=True, capture_output=True)
    said = subprocess.run(
        ["tshark", "-n", "-r", str(captured), "-T", "fields", "-e", "bcast.kind"], env=environment, capture_output=True, text=True
    )
    assert said.stdout.splitlines()[0] == "smartcard-ltkm", said.stderr
