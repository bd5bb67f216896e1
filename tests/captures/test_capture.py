# SPDX-License-Identifier: Apache-2.0
"""Captures: what is written is read again, by us and by tshark; what is broken ends with an error that says where."""

from __future__ import annotations

import io
import random
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.captures import frames
from pybcast.captures import pcap as capture
from pybcast.captures.pcap import Datagram, Packet, Skipped, Writer, is_capture, read, summary, udp_packet
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.testing import corpus

FROM: Final = ("192.0.2.1", 40000)
TO: Final = ("233.252.0.1", 4359)
FROM6: Final = ("2001:db8::1", 40000)
TO6: Final = ("ff3e::1", 4359)
TIME: Final = 1_700_000_000_123_456_789


def packets(data: bytes) -> list[Packet]:
    return list(read(io.BytesIO(data)))


def written(*payloads: bytes, comment: str = "") -> bytes:
    file = io.BytesIO()
    writer = Writer(file.write)
    for number, payload in enumerate(payloads):
        writer.write(TIME + number, FROM, TO, payload, comment)
    return file.getvalue()


def pcap(link: int, *frames: bytes, order: str = "<", nano: bool = False) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    made = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for frame in frames:
        made += struct.pack(f"{order}IIII", 1_700_000_000, 123, len(frame), len(frame)) + frame
    return made


def one(link: int, frame: bytes) -> Packet:
    (found,) = packets(pcap(link, frame))
    return found


# --- written and read ----------------------------------------------------------------------------------------------------


ADDRESSES: Final = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=300),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
        ),
        max_size=5,
    ),
    st.booleans(),
)  # fmt: skip
def test_what_is_written_is_read(rows: list[tuple[int, int, int, bytes, str]], six: bool) -> None:
    file = io.BytesIO()
    writer = Writer(file.write)
    first, second = (FROM6[0], TO6[0]) if six else (FROM[0], TO[0])
    for time, source, destination, payload, comment in rows:
        writer.write(time, (first, source), (second, destination), payload, comment)
    assert is_capture(file.getvalue())
    assert packets(file.getvalue()) == [
        Datagram(number, time, (first, source), (second, destination), payload, comment or None)
        for number, (time, source, destination, payload, comment) in enumerate(rows, 1)
    ]


def test_the_largest_datagram_and_what_is_larger() -> None:
    for addresses, most in (((FROM, TO), 65507), ((FROM6, TO6), 65527)):
        udp_packet(*addresses, bytes(most))
        with pytest.raises(ValueError, match="that fits"):
            udp_packet(*addresses, bytes(most + 1))
    with pytest.raises(ValueError, match="one address family"):
        udp_packet(FROM, TO6, b"")


@pytest.mark.requires_tool("tshark", package="tshark")
def test_tshark_reads_what_is_written(tmp_path: Path) -> None:
    """Check sums right, times to the nanosecond, comments as they were."""
    file = tmp_path / "made.pcapng"
    data = io.BytesIO()
    writer = Writer(data.write)
    rng = random.Random(4)
    messages = [*corpus("smartcard-ltkm", 20, 1), b"", b"\1", rng.randbytes(999)]
    for number, message in enumerate(messages):
        source, destination = ((FROM, TO), (FROM6, TO6))[number % 2]
        writer.write(TIME + number, source, destination, message, summary(message, "ltkm"))
    file.write_bytes(data.getvalue())
    fields = ["frame.time_epoch", "udp.checksum.status", "ip.checksum.status", "udp.length", "frame.comment", "ip.dst", "ipv6.dst"]
    checked = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-d", "udp.port==4359,data")
    words = [word for field in fields for word in ("-e", field)]
    said = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-T", "fields", *words, *checked], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    for number, (line, message) in enumerate(zip(said.splitlines(), messages, strict=True)):
        time, udp_sum, ip_sum, length, comment, four, six = line.split("\t")
        assert time == f"{(TIME + number) // 10**9}.{(TIME + number) % 10**9:09}"
        assert udp_sum == "1" and ip_sum == ("" if number % 2 else "1"), line
        assert (int(length), four or six) == (8 + len(message), TO6[0] if number % 2 else TO[0])
        assert comment == summary(message, "ltkm")[: capture.MAX_COMMENT]


@pytest.mark.requires_tool("tshark", package="tshark")
@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "pcapng"])
def test_what_wireshark_writes_is_read(tmp_path: Path, form: str) -> None:
    editcap = shutil.which("editcap")
    if editcap is None:  # it comes with wireshark-common, which tshark needs
        pytest.fail("tshark without editcap")
    made, again = tmp_path / "made.pcapng", tmp_path / "again"
    messages = list(corpus("smartcard-stkm", 20, 1))
    made.write_bytes(written(*messages, comment="a\N{GREEK SMALL LETTER BETA}"))
    subprocess.run([editcap, "-F", form, str(made), str(again)], check=True, capture_output=True)
    found = packets(again.read_bytes())
    unit = 1000 if form == "pcap" else 1
    comment = "a\N{GREEK SMALL LETTER BETA}" if form == "pcapng" else None
    assert found == [
        Datagram(number, (TIME + number - 1) // unit * unit, FROM, TO, message, comment)
        for number, message in enumerate(messages, 1)
    ]


# --- forms ---------------------------------------------------------------------------------------------------------------

IP4: Final = udp_packet(FROM, TO, b"hello")
IP6: Final = udp_packet(FROM6, TO6, b"hello")
MAC: Final = bytes(12)
GOOD4: Final = Datagram(1, 1_700_000_000_000_123_000, FROM, TO, b"hello")
GOOD6: Final = Datagram(1, 1_700_000_000_000_123_000, FROM6, TO6, b"hello")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_byte_orders_and_units(order: str, nano: bool) -> None:
    (found,) = packets(pcap(frames.RAW, IP4, order=order, nano=nano))
    assert found == Datagram(1, 1_700_000_000_000_000_000 + (123 if nano else 123_000), FROM, TO, b"hello")


@pytest.mark.parametrize(
    ("link", "head", "ip"),
    [
        (frames.ETHERNET, MAC + b"\x08\x00", IP4),
        (frames.ETHERNET, MAC + b"\x86\xdd", IP6),
        (frames.ETHERNET, MAC + b"\x81\x00\0\1\x08\x00", IP4),
        (frames.ETHERNET, MAC + b"\x88\xa8\0\1\x81\x00\0\2\x86\xdd", IP6),
        (frames.RAW, b"", IP4),
        (frames.RAW, b"", IP6),
        (frames.RAW_OLD, b"", IP4),
        (frames.IPV4, b"", IP4),
        (frames.IPV6, b"", IP6),
        (frames.NULL, b"\2\0\0\0", IP4),
        (frames.NULL, b"\0\0\0\2", IP4),
        (frames.NULL, b"\x1e\0\0\0", IP6),
        (frames.LOOP, b"\0\0\0\x18", IP6),
        (frames.SLL, bytes(14) + b"\x08\x00", IP4),
        (frames.SLL, bytes(14) + b"\x86\xdd", IP6),
        (frames.SLL2, b"\x08\x00" + bytes(18), IP4),
    ],
)
def test_links(link: int, head: bytes, ip: bytes) -> None:
    good = GOOD4 if ip is IP4 else GOOD6
    assert one(link, head + ip) == good
    assert one(link, head + ip + b"padding") == good
    for size in range(len(head + ip)):
        found = one(link, (head + ip)[:size])
        assert isinstance(found, Skipped), "a packet that was cut is none"
        assert found.reason == "cut by the capture", size


def edited(packet: bytes, at: int, new: bytes) -> bytes:
    return packet[:at] + new + packet[at + len(new) :]


@pytest.mark.parametrize(
    ("link", "frame", "reason"),
    [
        (frames.ETHERNET, MAC + b"\x08\x06" + bytes(46), "not IP"),
        (frames.ETHERNET, MAC + b"\x81\x00\0\1" * 40 + b"\x08\x00" + IP4, "more than 32 headers"),
        (frames.IPV6, IP4, "not IP"),
        (frames.ETHERNET, MAC + b"\x08\x00" + IP6, "not IP"),
        (frames.RAW, edited(IP4, 0, b"\x55"), "not IP"),
        (frames.RAW, edited(IP4, 0, b"\x44"), "bad IPv4 header"),
        (frames.RAW, edited(IP4, 2, b"\0\x13"), "bad IPv4 header"),
        (frames.RAW, edited(IP4, 6, b"\x20\0"), "bad fragment"),
        (frames.RAW, edited(IP4, 6, b"\0\1"), "fragment of a datagram that is not whole"),
        (frames.RAW, edited(IP4, 9, b"\x06"), "not UDP (protocol 6)"),
        (frames.RAW, edited(IP4, 2, b"\0\x1b"), "bad UDP length"),
        (frames.RAW, edited(IP4, 24, b"\0\7"), "bad UDP length"),
        (frames.RAW, edited(IP4, 24, b"\0\x0e"), "bad UDP length"),
        (frames.RAW, edited(IP6, 6, b"\x2c"), "bad fragment"),
        (frames.RAW, edited(IP6, 6, b"\x3b"), "not UDP (protocol 59)"),
        (frames.RAW, edited(IP6, 6, b"\0") + b"\0" * 3, "not UDP (protocol 156)"),
    ],
)
def test_what_is_no_datagram(link: int, frame: bytes, reason: str) -> None:
    assert one(link, frame) == Skipped(1, 1_700_000_000_000_123_000, reason)


def test_packets_of_an_unknown_link_are_skipped_and_their_neighbours_are_read() -> None:
    reason = "of link type 147, which is not known here"
    assert one(147, IP4) == Skipped(1, 1_700_000_000_000_123_000, reason)
    made = section() + interface(link=147) + interface() + enhanced() + enhanced(which=1) + enhanced()
    assert [p.reason if isinstance(p, Skipped) else p.payload for p in packets(made)] == [reason, b"hello", reason]


def test_ipv6_options_are_passed_over() -> None:
    udp = IP6[40:]
    options = b"\x3c\0" + bytes(6) + b"\x11\1" + bytes(14)  # hop-by-hop, then destination options of two units
    head = edited(IP6[:40], 4, (len(options) + len(udp)).to_bytes(2) + b"\0")
    assert one(frames.RAW, head + options + udp) == GOOD6


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    size = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", link: int = frames.RAW, snap: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(f"{order}HHI", link, 0, snap) + options, order)


def enhanced(order: str = "<", ticks: int = 0, which: int = 0, options: bytes = b"") -> bytes:
    head = struct.pack(f"{order}IIIII", which, ticks >> 32, ticks & 0xFFFFFFFF, len(IP4), len(IP4))
    return block(6, head + IP4 + bytes(-len(IP4) % 4) + options, order)


@pytest.mark.parametrize("order", "<>")
def test_pcapng_in_all_its_forms(order: str) -> None:
    def option(code: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)

    def number(value: int) -> bytes:
        return struct.pack(f"{order}q", value)

    simple = struct.pack(f"{order}I", len(IP4)) + IP4 + bytes(-len(IP4) % 4)
    old = struct.pack(f"{order}HHIIII", 1, 0, 0, 4, len(IP4), len(IP4)) + IP4 + bytes(-len(IP4) % 4)
    made = (
        section(order)
        + block(0xBAD, bytes(8), order)
        + interface(order)
        + interface(order, options=option(9, b"\x81") + option(14, number(-1)))
        + enhanced(order, 3)
        + enhanced(order, 4, 1, option(2988, b"x") + option(1, b"hi"))
        + block(3, simple, order)
        + block(2, old, order)
        + section("<")
        + interface()
        + enhanced(ticks=7)
    )
    found = packets(made)
    assert [p.time for p in found] == [3000, 10**9, None, 10**9, 7000]
    assert [p.payload for p in found if isinstance(p, Datagram)] == [b"hello"] * 5
    assert [p.comment for p in found if isinstance(p, Datagram)] == [None, "hi", None, None, None]


# --- faults --------------------------------------------------------------------------------------------------------------

START: Final = section() + interface()


@pytest.mark.parametrize(
    ("data", "error", "offset", "field"),
    [
        (b"", Truncated, 0, "magic"),
        (b"abcd", BadValue, 0, "magic"),
        (pcap(frames.RAW)[:23], Truncated, 4, "header"),
        (edited(pcap(frames.RAW), 4, b"\3"), Unsupported, 4, "version"),
        (pcap(frames.RAW, IP4) + bytes(15), Truncated, 24 + 16 + len(IP4), "packet[2].header"),
        (pcap(frames.RAW, IP4)[:-1], Truncated, 40, "packet[1].data"),
        (edited(pcap(frames.RAW, IP4), 32, b"\xff" * 4), BadLength, 32, "packet[1].captured_length"),
        (section()[:7], Truncated, 4, "block[0].total_length"),
        (section()[:11], Truncated, 8, "block[0].byte_order_magic"),
        (edited(section(), 8, b"abcd"), BadValue, 8, "block[0].byte_order_magic"),
        (edited(section(), 4, b"\x1d"), BadLength, 4, "block[0].total_length"),
        (edited(section(), 4, b"\x18"), BadLength, 4, "block[0].total_length"),
        (edited(section(), 12, b"\2"), Unsupported, 12, "block[0].major_version"),
        (edited(section(), 24, b"\x20"), BadLength, 24, "block[0].total_length_again"),
        (START + b"\6\0", Truncated, len(START), "block[2].type"),
        (section() + block(1, bytes(4)), Truncated, 40, "block[1].snap_length"),
        (section() + interface(options=b"\x09\0\2\0abcd"), BadLength, 44, "block[1].if_tsresol"),
        (section() + interface(options=b"\x0e\0\2\0abcd"), BadLength, 44, "block[1].if_tsoffset"),
        (section() + interface(options=b"\x01\0\xff\0abcd"), Truncated, 48, "block[1].option"),
        (section() + enhanced(), BadValue, 36, "block[1].interface_id"),
        (edited(START + enhanced(), len(START) + 20, b"\xff"), Truncated, len(START) + 28, "block[2].packet_data"),
        (edited(START + enhanced(), len(START) + 20, b"\xff" * 4), BadLength, len(START) + 20, "block[2].captured_length"),
        (START + block(6, bytes(8))[:4] + b"\xf0\xff\xff\xff", BadLength, len(START) + 4, "block[2].total_length"),
        (START + block(99, bytes(8))[:4] + b"\xf0\xff\xff\xff", Truncated, len(START) + 8, "block[2].body"),
    ],
)
def test_faults_say_where(data: bytes, error: type[WireError], offset: int, field: str) -> None:
    with pytest.raises(error) as caught:
        packets(data)
    assert type(caught.value) is error
    assert (caught.value.offset, caught.value.field) == (offset, field)


def test_what_came_before_a_fault_is_given() -> None:
    found = read(io.BytesIO(written(b"one", b"two")[:-1]))
    assert [p.payload for p in (next(found), next(found)) if isinstance(p, Datagram)] == [b"one", b"two"]
    with pytest.raises(Truncated):
        next(found)


def test_interfaces_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MAX_INTERFACES", 3)
    assert packets(section() + interface() * 3 + section() + interface() * 3) == []
    with pytest.raises(Unsupported):
        packets(section() + interface() * 4)


BASES: Final = (
    written(b"one", b"two", comment="three"),
    START + enhanced() + block(3, struct.pack("<I", len(IP4)) + IP4),
    section(">") + interface(">", options=b"\0\x09\0\1\x89\0\0\0") + enhanced(">", 1 << 40),
    pcap(frames.ETHERNET, MAC + b"\x08\x00" + IP4, MAC + b"\x86\xdd" + IP6),
    pcap(frames.RAW, IP4, IP6, order=">", nano=True),
)


@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(0, 500),
)
def test_any_bytes_are_packets_or_an_error(base: bytes, edits: list[tuple[int, bytes]], cut: int) -> None:
    data = base
    for at, new in edits:
        data = edited(data, at % len(data), new)
    data = data[: max(0, len(data) - (cut if cut < 400 else 0))]
    try:
        found = packets(data)
    except WireError as error:
        assert error.offset is not None and 0 <= error.offset <= len(data)
        assert error.field
    else:
        assert sum(len(p.payload) for p in found if isinstance(p, Datagram)) <= len(data)


@given(st.binary(max_size=400))
def test_noise_behind_a_magic(data: bytes) -> None:
    for magic in (b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", section()[:4], START):
        with_error = b"" if data.startswith(b"x") else data
        try:
            packets(magic + with_error)
        except WireError as error:
            assert error.offset is not None and error.offset <= len(magic + with_error)


# --- comments ------------------------------------------------------------------------------------------------------------


def test_a_message_in_one_line() -> None:
    stkm = next(corpus("smartcard-stkm", 1, 1))
    line = summary(stkm, "smartcard-stkm")
    assert line.startswith("smartcard-stkm csb_id=")
    assert all(f" {name}=" in line for name in ("key_domain_id", "sek_id", "tek_id", "ts_value"))
    assert summary(stkm, "stkm") == summary(stkm) == line, "told by trying"
    assert summary(stkm[:-1], "smartcard-stkm").endswith("found 19 bytes]")
    assert summary(b"", "ltkm") == "smartcard-ltkm [truncated: version at offset 0: expected 1 byte, found 0 bytes]"
    for kind, hint in (
        ("drm-stkm", "stkm"),
        ("drm-ltkm", "ltkm"),
        ("drm-registration", "ltkm"),
        ("smartcard-registration", "ltkm"),
    ):
        for data in corpus(kind, 5, 2):  # type: ignore[arg-type]
            assert summary(data, hint).startswith(f"{kind} "), hint


@pytest.mark.parametrize("hint", ["auto", "ltkm"])
def test_the_fault_of_a_mikey_message_is_that_of_its_own_kind(hint: str) -> None:
    """Rules R16: what it carries tells its kind, also when it is broken."""
    c = "01001500aaaabbbb0001050300110003aaaaaa0104a1a2a3a40204011015af01"  # a card's, with an MTK ID of 4 bytes
    fault = "[bad_length: payloads[0].ids[2].length at offset 26: expected 2 (4 with mtk-id-4), found 4]"
    assert summary(bytes.fromhex(c), hint) == f"smartcard-stkm csb_id=aaaabbbb key_domain_id=aaaaaa sek_id=a1a2a3a4 {fault}"
    for kind in ("smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting", "smartcard-parental"):
        for data in corpus(kind, 30, 4):
            assert capture.identify(data, hint)[0] == kind
            found, explained = capture.identify(data[:-1], hint)
            assert found == kind and isinstance(explained.error, Truncated)


def test_what_is_no_mikey_message_is_a_stkm_of_the_drm_profile() -> None:
    """Rules R22: the first byte tells of all others; MIKEY's is 01."""
    for data in corpus("drm-stkm", 200, 5):
        assert capture.identify(data)[0] == "drm-stkm"
        assert capture.identify(data[:-1])[0] == "drm-stkm" or data[:2] in (b"\1\0", b"\1\1")
    assert summary(b"\x0c\x01").startswith("drm-stkm [truncated: security_parameter_index at offset 2")


@given(st.binary(max_size=300), st.sampled_from(capture.GROUPS))
def test_any_datagram_has_a_line(data: bytes, hint: str) -> None:
    assert "\n" not in summary(data, hint)


def test_the_constants_are_the_systems() -> None:
    assert frames.UDP == socket.IPPROTO_UDP
    assert frames._FAMILIES[socket.AF_INET] == 4 and frames._FAMILIES[socket.AF_INET6] == 6
