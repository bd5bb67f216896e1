# SPDX-License-Identifier: Apache-2.0
"""What our FLUTE sender makes: its repair symbols are those of two other codes, and another receiver reads it."""

from __future__ import annotations

import logging
import platform
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from flute_packets import TSI, VECTORS, messages, turn

from pybcast.broadcast import alc, bundle, fdt, reedsolomon
from pybcast.broadcast.objects import Objects
from pybcast.broadcast.segments import BLOCK, LIFETIME, REPAIR, SYMBOL, Encoder
from pybcast.wire.times import NTP_UNIX

BLOCKS: Final = [
    pytest.param([bytes.fromhex(s) for s in block["source"]], [bytes.fromhex(s) for s in block["repair"]], id=f"{name}-{i}")
    for name in ("flute_alc_blocks", "zfec_blocks")
    for i, block in enumerate(VECTORS[name])
]
NOW: Final = 1_800_000_000.0


@pytest.mark.parametrize(("source", "repair"), BLOCKS)
def test_repair_symbols_are_those_of_other_codes(source: list[bytes], repair: list[bytes]) -> None:
    assert reedsolomon.repair(source, len(repair)) == repair


@pytest.mark.parametrize(("source", "repair"), BLOCKS)
def test_any_symbols_are_enough(source: list[bytes], repair: list[bytes]) -> None:
    rng = random.Random(1)
    symbols = dict(enumerate(source + repair))
    for _ in range(3):
        kept = dict(rng.sample(sorted(symbols.items()), len(source)))
        lost = [esi for esi in range(len(source)) if esi not in kept]
        assert reedsolomon.repaired(kept, lost, len(source[0])) == {esi: source[esi] for esi in lost}


@pytest.mark.parametrize("source", [1, 2, 64, 200])
def test_as_many_symbols_as_there_are_points(source: int) -> None:
    rng = random.Random(source)
    symbols = [rng.randbytes(4) for _ in range(source)]
    made = reedsolomon.repair(symbols, reedsolomon.MAX_SYMBOLS - source)
    kept = dict(enumerate(made[-source:], reedsolomon.MAX_SYMBOLS - min(source, len(made))))
    kept |= {esi: symbols[esi] for esi in range(source - len(kept))}
    lost = [esi for esi in range(source) if esi not in kept]
    assert reedsolomon.repaired(kept, lost, 4) == {esi: symbols[esi] for esi in lost}


@pytest.mark.parametrize(
    "fti", [alc.Fti(alc.NO_CODE, 2**48 - 1, 1_392, 64, 64), alc.Fti(alc.REED_SOLOMON, 70_000, 1_392, 64, 77)], ids=["no-code", "rs"]
)
@pytest.mark.parametrize("fdt_id", [None, 0, 0xFFFFF])
def test_packets_are_read_as_they_were_made(fti: alc.Fti, fdt_id: int | None) -> None:
    made = alc.made(7, 2**32 - 1, fti.fec, 3, 66, b"payload", fdt_id=fdt_id, encoding=3, fti=fti)
    assert alc.parse(made) == alc.Packet(7, 2**32 - 1, fti.fec, 3, 66, True, fdt_id, 3, fti, b"payload")
    plain = alc.made(7, 1, fti.fec, 0, 0, b"x")
    assert alc.parse(plain) == alc.Packet(7, 1, fti.fec, 0, 0, True, None, 0, None, b"x")


@pytest.mark.parametrize("size", [1, SYMBOL, SYMBOL + 1, 32_768, 65_000])
def test_every_block_has_its_share_of_repair(size: int) -> None:
    datagrams = Encoder(TSI).encode("urn:a", 1, [bytes(size)])
    sizes = Counter(packet.sbn for packet in map(alc.parse, datagrams) if packet.toi)
    source = alc.blocks(len(bundle.encode([bytes(size)])), SYMBOL, BLOCK)
    assert [sizes[sbn] for sbn in range(len(source))] == [count + -(-count // REPAIR) for count in source]


def test_identities_rise_and_begin_anew_without_a_zero() -> None:
    encoder = Encoder(TSI, 0xFFFFF, lambda: NOW)
    encoder._toi = 2**32 - 2
    packets = [alc.parse(d) for n in range(3) for d in encoder.encode("urn:a", n, [b"x"])]
    assert list(dict.fromkeys(p.toi for p in packets if p.toi)) == [2**32 - 1, 1, 2]
    assert list(dict.fromkeys(p.fdt_id for p in packets if p.fdt_id is not None)) == [0, 1, 2]


def test_two_runs_have_no_object_in_common() -> None:
    runs = [Encoder(TSI, start).encode("urn:a", 1, messages(2_000)) for start in (1_000, 1_001, 2**20 + 999)]
    tois = [{p.toi for p in map(alc.parse, run) if p.toi} for run in runs]
    assert not tois[0] & tois[1] and not tois[0] & tois[2] and not tois[1] & tois[2]


@pytest.mark.parametrize("now", [NOW, 2.0**32 - NTP_UNIX - 1, 2.0**32 - NTP_UNIX + 1_000])
def test_a_description_says_when_it_is_over(now: float) -> None:
    """R15: also after 2036, when 32 bits of NTP seconds begin anew."""
    datagrams = Encoder(TSI, 1, lambda: now).encode("urn:a", 1, [b"hello"])
    first = alc.parse(datagrams[0])
    assert fdt.parse(fdt.plain(first.payload, first.encoding)).expires == int(now + LIFETIME) + NTP_UNIX & 0xFFFFFFFF
    receiver = Objects()
    assert [m for d in datagrams for m in receiver.push(alc.parse(d), now + LIFETIME / 2)] == [b"hello"]


@pytest.mark.parametrize("name", ["flute_alc_no_code", "flute_alc_reed_solomon", "flute_alc_inband_fti"])
def test_sessions_of_another_sender(name: str) -> None:
    receiver = Objects()
    found = [m for d in VECTORS[name]["packets"] for m in receiver.push(alc.parse(bytes.fromhex(d)), VECTORS["now"])]
    assert found == [bytes.fromhex(VECTORS[name]["expect"])]


# --- the other implementation itself, where it is installed ---------------------------------------------------------------------

ITS_OWN: Final = sys.version_info[:2] == (3, 11) and platform.machine() == "x86_64"
WHY: Final = "flute-alc is not installed" if ITS_OWN else "flute-alc exists for another Python only: CPython 3.11 on x86-64"
NATIVE: Final = """
import sys
from flute import receiver
config = receiver.Config()
made = receiver.Receiver(receiver.UDPEndpoint("239.0.0.1", 1), 7, receiver.ObjectWriterBuilder(sys.argv[1]), config)
for line in sys.stdin:
    made.push(bytes.fromhex(line))
"""


@pytest.mark.parametrize("lost", [0.0, 0.05])
def test_flute_alc_receives_what_we_send(tmp_path: Path, lost: float) -> None:
    pytest.importorskip("flute", reason=WHY)
    counts: dict[str, Sequence[int]] = {"urn:a": (1_500, 1), "urn:b": (1, 2), "urn:c": (40, 3), "urn:d": (3, 4, 65_000)}
    content: dict[str, Sequence[bytes]] = {name: messages(*of) for name, of in counts.items()}
    rng = random.Random(3)
    kept = [d for d in turn(Encoder(TSI), content) if not alc.parse(d).toi or rng.random() >= lost]
    program = [sys.executable, "-c", NATIVE, str(tmp_path)]
    lines = "".join(d.hex() + "\n" for d in kept)
    done = subprocess.run(program, input=lines, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = [bundle.decode(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(m for each in found for m in each) == sorted(m for each in content.values() for m in each)


def _sent(sender: Any) -> list[bytes]:
    read: Callable[[], Any] = sender.read
    return [bytes(packet) for packet in iter(read, None)]


@pytest.mark.parametrize("count", [1, 2, 3, 24, 63])
def test_flute_alc_makes_the_same_repair_symbols(count: int) -> None:
    flute = pytest.importorskip("flute", reason=WHY)
    logging.getLogger("flute.common.fdtinstance_l6").setLevel(logging.CRITICAL + 1)
    size = 32
    oti = flute.sender.Oti.new_reed_solomon_rs28(size, 64, 64)
    oti.parity_symbols_percentage, oti.inband_fti = 100.0, False
    sender = flute.sender.Sender(1, oti, flute.sender.Config())
    data = random.Random(count).randbytes(size * count)
    sender.add_object_from_buffer(data, "x/y", "x-bcast:/a/0/1", None)
    sender.publish()
    symbols = {packet.esi: packet.payload for packet in map(alc.parse, _sent(sender)) if packet.toi}
    source = [data[at : at + size] for at in range(0, len(data), size)]
    assert reedsolomon.repair(source, len(symbols) - count) == [symbols[esi] for esi in range(count, len(symbols))]
