# SPDX-License-Identifier: Apache-2.0
"""The copies of libsrtp: each makes the known packets, one that does not is refused, and where there is none one line says so."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from pybcast.cli.app import run as run_cli
from pybcast.errors import ConfigError, CryptoError, Integrity, KeyUnavailable, Replay
from pybcast.keys import TEK, srtp_session_keys
from pybcast.outlets import SrtpProtector, SrtpUnprotector, libsrtp
from pybcast.secret import Secret

VECTORS: Final = json.loads((Path(__file__).parents[1] / "vectors" / "srtp.json").read_text("utf-8"))["vectors"]
RTP: Final = bytes.fromhex("8060001200000000cafebabe") + b"a picture"


@pytest.fixture
def fresh() -> Iterator[None]:
    """No copy has been opened, before and after."""
    libsrtp.load.cache_clear()
    yield
    libsrtp.load.cache_clear()


SYSTEMS: Final = pytest.param("the system's", marks=pytest.mark.requires_library(libsrtp.SYSTEM, package="libsrtp2-1"))


@pytest.fixture(params=["pylibsrtp's", SYSTEMS])
def library(request: pytest.FixtureRequest) -> Any:
    """One copy of the library."""
    copies = list(libsrtp.copies())
    assert copies[-1] == libsrtp.SYSTEM
    if request.param == "the system's":
        return libsrtp.open_copy(libsrtp.SYSTEM)
    assert len(copies) == 2, "the extra media brings one"
    return libsrtp.open_copy(copies[0])


def session(library: Any, roc: int = 0, key: bytes = b"k" * 16) -> libsrtp.Session:
    return libsrtp.Session(library, libsrtp.Buffer(), 0xCAFEBABE, b"\1\2", Secret(key), b"s" * 14, roc)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["tag_len"] == 10 and v["mki"]], ids=lambda v: f"{v['mki']}, {v['roc']}")
def test_every_copy_makes_and_opens_known_packets(library: Any, vector: dict[str, Any]) -> None:
    mki, salt, rtp, srtp = (bytes.fromhex(vector[name]) for name in ("mki", "salt", "rtp", "srtp"))
    tek, ssrc = Secret.from_hex(vector["key"]), int.from_bytes(rtp[8:12])
    ours, theirs = (libsrtp.Session(library, libsrtp.Buffer(), ssrc, mki, tek, salt, vector["roc"]) for _ in range(2))
    assert ours.protect(rtp) == srtp
    assert theirs.unprotect(srtp) == rtp
    with pytest.raises(Replay, match="came before"):
        theirs.unprotect(srtp)
    with pytest.raises(Replay, match="came before"):
        ours.protect(rtp)


@pytest.mark.parametrize("roc", [1, 63, 64, 65_535, 65_536, (1 << 32) - 2])
def test_a_session_counts_on_from_its_rollover_counter(library: Any, roc: int) -> None:
    """Over the wrap, and back for packets that come late; one of another counter refuses them."""
    ours, theirs, before = session(library, roc), session(library, roc), session(library, roc - 1)
    packets = {}
    for index in (0xFFFE, 0xFFFF, 0x10000, 0x10001):
        rtp = RTP[:2] + (index & 0xFFFF).to_bytes(2) + RTP[4:]
        packets[rtp] = ours.protect(rtp)
    for rtp in sorted(packets, reverse=True):
        assert theirs.unprotect(packets[rtp]) == rtp
    for srtp in packets.values():
        with pytest.raises(Integrity):
            before.unprotect(srtp)


def test_the_copies_are_of_known_versions(library: Any) -> None:
    """Whose structures were compared with ours: 2.3 (Debian 11), 2.5 (Debian 12, Ubuntu 24.04), 2.7 (Debian 13, pylibsrtp 1)."""
    version = library.srtp_get_version()
    assert version >> 24 == 2 and version >> 16 & 0xFF in (3, 4, 5, 6, 7)


def test_refusals_are_typed(library: Any) -> None:
    with pytest.raises(CryptoError, match="libsrtp: status"):
        session(library).protect(b"no RTP")
    wiped = Secret(b"k" * 16)
    wiped.wipe()
    with pytest.raises(KeyUnavailable):
        libsrtp.Session(library, libsrtp.Buffer(), 1, b"\1", wiped, b"s" * 14)


def test_a_closed_session_is_freed_once(library: Any) -> None:
    closed = session(library)
    closed.protect(RTP)
    closed.close()
    closed.close()


WATCHER: Final = """
import os, sys
from pybcast.outlets import libsrtp
from pybcast.secret import Secret

def found():
    counts = [0] * 3
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            reach, rights = line.split()[:2]
            start, end = (int(at, 16) for at in reach.split("-"))
            if rights.startswith("rw"):
                data = b"".join(os.pread(memory.fileno(), min(1 << 16, end - at), at) for at in range(start, end, 1 << 16))
                for number, turned in enumerate(sys.argv[3:]):
                    counts[number] += data.count(bytes.fromhex(turned)[::-1])
    return counts

library = libsrtp.open_copy(sys.argv[1])
tek = Secret(bytearray.fromhex(sys.argv[2])[::-1])
session = libsrtp.Session(library, libsrtp.Buffer(), 0xCAFEBABE, bytes(2), tek, bytes(14))
session.protect(bytes.fromhex("8060001200000000cafebabe00"))
before = found()
session.close()
tek.wipe()
print(all(before), found())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/mem")
def test_no_key_is_in_memory_when_a_session_is_closed(request: pytest.FixtureRequest, library: Any) -> None:
    """Neither the TEK nor the session keys that libsrtp makes of it.  (In a process of its own, which knows them reversed.)"""
    key = random.Random(7).randbytes(16)
    made = srtp_session_keys(TEK(key), bytes(14))
    keys = [each[::-1].hex() for each in (key, made.encr.reveal(), made.auth.reveal())]
    name = libsrtp.SYSTEM if "system" in request.node.name else next(libsrtp.copies())
    done = subprocess.run([sys.executable, "-c", WATCHER, name, keys[0], *keys], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True [0, 0, 0]\n", "")


@pytest.mark.usefixtures("fresh")
def test_without_the_library_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pylibsrtp", None)
    monkeypatch.setattr(libsrtp, "SYSTEM", "libsrtp2.so.missing")
    for kind in (SrtpProtector, SrtpUnprotector):
        with pytest.raises(ConfigError, match="libsrtp2-1"):
            kind()
    for command in ("protect", "relay"):
        way = ["--service", "urn:a", "--from", "127.0.0.1:5000", "--to", "127.0.0.1:5002"]
        assert run_cli([command, "--keys", str(tmp_path / "keys"), *way]) == 2
        said = capsys.readouterr().err.strip()
        assert "\n" not in said and libsrtp.MISSING in said


@pytest.mark.usefixtures("fresh")
def test_without_the_wrapper_the_systems_library_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibsrtp", None)
    assert list(libsrtp.copies()) == [libsrtp.SYSTEM]


class Stub:
    """A library that is not what it should be."""

    def __init__(self, version: int = 0x2050000, without: str = "", create: int = 0) -> None:
        self.srtp_get_version = lambda: version
        self.srtp_init = lambda: 2
        self.srtp_create = lambda _handle, _policy: create
        self.srtp_set_stream_roc = lambda *_: 0
        self.srtp_protect_mki = lambda *_: 0
        self.srtp_unprotect_mki = lambda *_: 0
        self.srtp_dealloc = lambda _: 0
        if without:
            delattr(self, without)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("stub", "complaint"),
    [
        (Stub(0x1060000), "is libsrtp 1.6, not 2.3 or a later 2"),
        (Stub(0x2000000), "is libsrtp 2.0, not"),
        (Stub(0x2020000), "is libsrtp 2.2, not"),
        (Stub(0x3000000), "is libsrtp 3.0, not"),
        (Stub(without="srtp_set_stream_roc"), "lacks functions"),
        (Stub(without="srtp_get_version"), "lacks functions"),
        (Stub(create=2), "does not protect a known packet"),
        (Stub(0x2090000), "libsrtp 2.9, does not protect a known packet"),
    ],
)
def test_another_library_is_refused(stub: Stub, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libsrtp, "_dlopen", lambda _name: stub)
    with pytest.raises(ConfigError, match=complaint):
        libsrtp.load()
