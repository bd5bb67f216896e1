# SPDX-License-Identifier: Apache-2.0
"""FLUTE sessions in shapes that other people's senders make: what can be received is, and what cannot costs nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from flute_packets import TSI, one_file, packet
from flute_packets import description as described

from pybcast.broadcast import alc, bundle, fdt, objects, reedsolomon, symbols
from pybcast.broadcast.objects import LTKM_TYPE, Objects
from pybcast.broadcast.receiver import Sessions
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.wire.times import NTP_UNIX

CASES: Final[list[dict[str, Any]]] = [
    json.loads(line) for line in (Path(__file__).parents[1] / "vectors" / "cases" / "flute.jsonl").read_text().splitlines()
]
NOW: Final = 1_800_000_000.0
ONE, TWO = b"message-one", b"message-two-x"
LONG: Final = random.Random("long").randbytes(5_432)
OTI: Final = {"FEC-Encoding-ID": 0, "Encoding-Symbol-Length": 1000, "Maximum-Source-Block-Length": 64}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_sessions_that_must_be_taken(case: dict[str, Any]) -> None:
    sessions = Sessions(1)
    found = [m for d in case["packets"] for m in sessions.push(bytes.fromhex(d), ("127.0.0.1", 1), NOW)]
    assert [m.hex() for m in found] == case["expect"]


# --- sessions that we make ------------------------------------------------------------------------------------------------------


def xml(*files: str, oti: dict[str, int] | None = OTI, head: str = 'xmlns="urn:IETF:metadata:2005:FLUTE:FDT"') -> bytes:
    given = "".join(f' FEC-OTI-{name}="{value}"' for name, value in (oti or {}).items())
    return f'<FDT-Instance {head} Expires="{int(NOW) + NTP_UNIX + 3600}"{given}>{"".join(files)}</FDT-Instance>'.encode()


def file(toi: int, length: int | None = None, more: str = "", kind: str = LTKM_TYPE) -> str:
    size = "" if length is None else f' Content-Length="{length}"'
    return f'<File TOI="{toi}" Content-Location="file:///{toi}"{size} Content-Type="{kind}" {more}/>'


def description(content: bytes, number: int = 1) -> bytes:
    return alc.made(TSI, 0, 0, 0, 0, content, fdt_id=number, fti=alc.Fti(0, len(content), 1_900, 64, 64))


def data(toi: int, payload: bytes, esi: int = 0, *, sbn: int = 0, fec: int = 0, fti: alc.Fti | None = None) -> bytes:
    return alc.made(TSI, toi, fec, sbn, esi, payload, fti=fti)


def cut(length: int, symbol: int = 1000, block: int = 64) -> alc.Fti:
    return alc.Fti(0, length, symbol, block, block)


def md5(content: bytes) -> str:
    return f'Content-MD5="{base64.b64encode(hashlib.md5(content).digest()).decode()}"'


def heard(packets: Iterable[bytes], receiver: Objects | None = None) -> list[bytes]:
    held = receiver if receiver is not None else Objects()
    found = [m for d in packets for m in held.push(alc.parse(d), NOW)]
    sized(held)
    return found


def sized(held: Objects) -> None:
    """Its size is the sum of what it holds: nothing is lost or counted twice."""
    size = sum(entry.octets for table in (held._open, held._named) for entry in table.values())
    size += sum(kept.octets for table in (held._waiting, held._halves) for kept in table.values())
    size += objects._ENTRY * (len(held._given) + sum(1 + len(files) for _, files in held._known.values()))
    assert held.size == size
    assert held._waits == sum(kept.count for kept in held._waiting.values())


def pieces(content: bytes, symbol: int, together: int) -> list[tuple[int, bytes]]:
    step = symbol * together
    return [(at // symbol, content[at : at + step]) for at in range(0, len(content), step)]


CACHE: Final = '<Cache-Control xmlns="urn:x"><no-cache/></Cache-Control>'
ODD: Final = {
    "raptor": file(2, 50, 'FEC-OTI-FEC-Encoding-ID="1"'),
    "raptorq": file(2, 50, 'FEC-OTI-FEC-Encoding-ID="6"'),
    "small block systematic": file(2, 50, 'FEC-OTI-FEC-Encoding-ID="129" FEC-OTI-FEC-Instance-ID="0"'),
    "ldpc": file(2, 50, 'FEC-OTI-FEC-Encoding-ID="3"'),
    "no length": file(2),
    "bad length": file(2, None, 'Content-Length="many"'),
    "negative length": file(2, None, 'Transfer-Length="-1"'),
    "enormous": file(2, 2**47),
    "empty": file(2, 0),
    "bad md5": file(2, 50, 'Content-MD5="not base64!"'),
    "short md5": file(2, 50, 'Content-MD5="AAAA"'),
    "deflate": file(2, 50, 'Content-Encoding="deflate"'),
    "gzip without its length": file(2, 50, 'Content-Encoding="gzip"'),
    "no TOI": '<File Content-Location="x" Content-Length="5"/>',
    "TOI 0": file(0, 50),
    "enormous TOI": file(2**113, 50),
    "no location": '<File TOI="2" Content-Length="5"/>',
    "long location": f'<File TOI="2" Content-Length="5" Content-Location="{"x" * 1_025}"/>',
    "symbols of nothing": file(2, 50, 'FEC-OTI-Encoding-Symbol-Length="0"'),
    "a word for a number": file(2, 50, 'FEC-OTI-FEC-Encoding-ID="raptor"'),
    "elements inside": f'<File TOI="2" Content-Location="x" Content-Length="5">{CACHE}</File>',
}  # fmt: skip
UNDERSTOOD: Final = {"no length", "gzip without its length", "elements inside"}
"""Whose packets may still say what is missing, or which are good."""


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("first", [True, False])
def test_a_fault_stays_with_its_entry(name: str, first: bool) -> None:
    entries = (ODD[name], file(1, len(ONE))) if first else (file(1, len(ONE)), ODD[name])
    receiver = Objects()
    assert heard([description(xml(*entries)), data(1, ONE)], receiver) == [ONE]
    assert receiver.counts["refused files"] + receiver.counts["oversize objects"] == (name not in UNDERSTOOD)


@pytest.mark.parametrize(
    ("old", "new", "kind", "field"),
    [
        ('TOI="1"', 'TOI="0"', BadValue, "TOI"),
        ('TOI="1"', 'TOI="-5"', BadValue, "TOI"),
        ('Content-Length="11"', 'Content-Length="x"', BadValue, "Content-Length"),
        ("<File", '<File Content-MD5="AAAA"', BadValue, "Content-MD5"),
        ('Encoding-ID="0"', 'Encoding-ID="6"', Unsupported, "FEC-OTI-FEC-Encoding-ID"),
        ("file:///1", "", BadValue, "Content-Location"),
        ("<File", '<File Content-Encoding="br"', Unsupported, "Content-Encoding"),
    ],
)
def test_what_is_refused_says_why_and_where(old: str, new: str, kind: type[WireError], field: str) -> None:
    text = xml(file(1, len(ONE)), file(2, 20))
    read = fdt.parse(text.decode().replace(old, new, 1).encode())
    error = read.refused[0]
    assert (type(error), error.field) == (kind, f"File[0].{field}") and error.offset == text.index(b"<File")
    assert len(read.files) + len(read.refused) == 2


def test_refused_entries_count_as_files() -> None:
    bad = '<File TOI="0"/>'
    assert len(fdt.parse(xml(bad * fdt.MAX_FILES)).refused) == fdt.MAX_FILES
    with pytest.raises(BadLength):
        fdt.parse(xml(bad * fdt.MAX_FILES, file(1, 5)))


@pytest.mark.parametrize(
    "head",
    [
        'xmlns="urn:IETF:metadata:2005:FLUTE:FDT"', 'xmlns="http://www.example.com/flute"', "",
        'xmlns="urn:3GPP:metadata:2022:FLUTE:FDT"', 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:x="y"',
    ],
)  # fmt: skip
def test_namespaces(head: str) -> None:
    assert heard([description(xml(file(1, len(ONE)), head=head)), data(1, ONE)]) == [ONE]


def test_a_namespace_with_a_prefix() -> None:
    text = xml(file(1, len(ONE))).decode().replace("<File", "<f:File")
    text = text.replace("FDT-Instance", "f:FDT-Instance").replace("xmlns=", "xmlns:f=")
    assert heard([description(text.encode()), data(1, ONE)]) == [ONE]
    other = text.replace("FLUTE:FDT", "OTHER")
    receiver = Objects()
    assert heard([description(other.encode()), data(1, ONE)], receiver) == [] and receiver.counts["refused descriptions"] == 1


# --- the header -----------------------------------------------------------------------------------------------------------------


def lct(flags: int, *words: bytes) -> bytes:
    """A packet of object 1 with what follows the TOI."""
    more = b"".join(words)
    head = bytes((0x10, 0xA0 | flags, 4 + len(more) // 4, 0)) + bytes(4) + TSI.to_bytes(4) + (1).to_bytes(4)
    return head + more + bytes(4) + ONE


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (0x08, [bytes(4)]), (0x04, [bytes(4)]), (0x0C, [bytes(4), b"\xff" * 4]), (0x0C, [b"\x40\x04\0\0" * 2]),
        (0x0E, [bytes(8), b"\xc1\0\0\0"]), (0x03, []), (0x08, [bytes(4), b"\x02\x02\0\0\0\0\0\0"]),
    ],
)  # fmt: skip
def test_times_in_the_header(flags: int, words: list[bytes]) -> None:
    sent = lct(flags, *words)
    read = alc.parse(sent)
    assert (read.toi, read.payload, read.fti) == (1, ONE, None)
    sessions = Sessions(TSI)
    text = xml(file(1, len(ONE)))
    head = bytes((0x10, 0xA0, 9, 0)) + bytes(4) + TSI.to_bytes(4) + bytes(4) + b"\xc0\x20\0\1"
    fti = b"\x40\x04" + len(text).to_bytes(6) + bytes(2) + (1_900).to_bytes(2) + (64).to_bytes(4)
    assert [m for d in (head + fti + bytes(4) + text, sent) for m in sessions.push(d, ("127.0.0.1", 1), NOW)] == [ONE]


@pytest.mark.parametrize(("flags", "words"), [(0x08, []), (0x04, []), (0x0C, [bytes(4)])])
def test_times_for_which_there_is_no_room(flags: int, words: list[bytes]) -> None:
    with pytest.raises(BadLength) as caught:
        alc.parse(lct(flags, *words))
    assert caught.value.field == "HDR_LEN"


# --- what packets say about their object ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 999, 1_000, 1_001, len(LONG)])
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("every", [True, False])
def test_object_information_in_packets(size: int, length: bool, every: bool) -> None:
    content = LONG[:size]
    packets = [data(1, payload, esi, fti=cut(size) if every or not esi else None) for esi, payload in pieces(content, 1_000, 1)]
    described = description(xml(file(1, size if length else None), oti=None))
    receiver = Objects()
    assert heard([described, *packets], receiver) == [content]
    assert heard([described, *packets] * 3, receiver) == [], "once"
    assert not receiver._open and not receiver._waiting


@pytest.mark.parametrize("seed", range(20))
def test_object_information_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    packets = [description(xml(file(1), oti=None))]
    packets += [data(1, payload, esi, fti=None if esi else cut(len(LONG))) for esi, payload in pieces(LONG, 1_000, 1)]
    rng.shuffle(packets)
    assert heard(packets * 2) == [LONG]


def test_object_information_for_repair() -> None:
    source = [LONG[at : at + 500].ljust(500, b"\0") for at in range(0, len(LONG), 500)]
    made = list(enumerate(source + reedsolomon.repair(source, 3)))
    fti = alc.Fti(5, len(LONG), 500, 64, 67)
    packets = [data(1, payload, esi, fec=5, fti=fti) for esi, payload in made if esi not in (0, 4, 7)]
    assert heard([description(xml(file(1), oti=None)), *packets]) == [LONG]


@pytest.mark.parametrize(
    "forged",
    [
        cut(5), cut(len(LONG) + 5), cut(len(LONG), 100), cut(len(LONG), 1_000, 2), cut(2**47), cut(0), cut(100, 0), cut(4_000, 1),
        cut(symbols.MAX_OBJECT, 33), alc.Fti(0, 5, 5, 0, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("digest", [True, False])
def test_lies_about_the_object(forged: alc.Fti, digest: bool) -> None:
    """A forged packet says that the object was cut otherwise: the true one comes again, and the object with it."""
    described = description(xml(file(1, None, md5(LONG) if digest else ""), oti=None))
    packets = [data(1, payload, esi, fti=cut(len(LONG)) if not esi else None) for esi, payload in pieces(LONG, 1_000, 1)]
    lie = data(1, LONG[:1_000], 0, fti=forged)
    receiver = Objects()
    found = heard([described, lie, *packets, lie, *packets, described, lie, *packets], receiver)
    assert LONG in found and found.count(LONG) == 1
    assert found == [LONG] if digest else set(found) <= {LONG, LONG[: forged.length]}


def test_very_many_lies_take_no_memory() -> None:
    receiver, size = Objects(), []
    heard([description(xml(*(file(toi) for toi in range(1, 9)), oti=None))], receiver)
    for n in range(20_000):
        receiver.push(alc.parse(data(1 + n % 8, b"x", n % 60, fti=cut(1 + n, 1 + n % 1_400))), NOW + n * 0.001)
        size.append(receiver.size)
    sized(receiver)
    assert max(size) < 1 << 20
    assert all(len(entry.symbols.cuts) <= symbols.MAX_CUTS for entry in receiver._open.values())


# --- several symbols in a packet --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("symbol", "together"), [(900, 2), (500, 3), (450, 4), (100, 7), (90, 20), (32, 58), (32, 1), (1_813, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_several_symbols_in_a_packet(symbol: int, together: int, seed: int) -> None:
    text = xml(file(1, len(LONG)), oti={**OTI, "Encoding-Symbol-Length": symbol, "Maximum-Source-Block-Length": 4_096})
    packets = [data(1, payload, esi) for esi, payload in pieces(LONG, symbol, together)]
    random.Random(seed).shuffle(packets)
    assert heard([description(text), *packets]) == [LONG]
    assert heard([*packets, description(text)]) == [LONG], "before their description"


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_several_symbols_and_repair(lost: Sequence[int]) -> None:
    source = [LONG[at : at + 200].ljust(200, b"\0") for at in range(0, len(LONG), 200)]
    made = source + reedsolomon.repair(source, 8)
    packets = [data(1, b"".join(made[at : at + 4]), at, fec=5) for at in range(0, len(made), 4)]
    kept = [d for n, d in enumerate(packets) if n not in lost]
    oti = {**OTI, "FEC-Encoding-ID": 5, "Encoding-Symbol-Length": 200, "Max-Number-of-Encoding-Symbols": 72}
    assert heard([description(xml(file(1, len(LONG)), oti=oti)), *kept]) == [LONG]


@pytest.mark.parametrize("more", [1, 2, 3])
def test_several_symbols_and_forged_ones(more: int) -> None:
    """What differs replaces what is held, also where packets overlap: the right ones come again, and the object with them."""
    text = description(xml(file(1, len(LONG), md5(LONG)), oti={**OTI, "Encoding-Symbol-Length": 400}))
    packets = [data(1, payload, esi) for esi, payload in pieces(LONG, 400, 2)]
    for esi in range(8):
        receiver = Objects()
        found = heard([text, *packets[:-1], data(1, bytes(400 * more), esi), packets[-1], *packets], receiver)
        assert found == [LONG], (esi, more)
    single = [data(1, payload, esi) for esi, payload in pieces(LONG, 400, 1)]
    for esi in range(8):
        receiver = Objects()
        found = heard([text, *single[:-1], data(1, bytes(400 * more), esi), single[-1], *single], receiver)
        assert found == [LONG], (esi, more)


@pytest.mark.parametrize("symbol", [1, 7, 100])
def test_a_forged_size_of_symbols_does_not_displace_ours(symbol: int) -> None:
    """Each packet of ours would be hundreds of symbols: they are not kept as such, or beside the right ones."""
    content = random.Random(symbol).randbytes(60_000)
    true = description(xml(file(1, len(content), md5(content)), oti={**OTI, "Encoding-Symbol-Length": 1_300}))
    false = xml(
        file(1, min(4_000 * symbol, 90_000)), oti={**OTI, "Encoding-Symbol-Length": symbol, "Maximum-Source-Block-Length": 4_096}
    )
    packets = [data(1, payload, esi) for esi, payload in pieces(content, 1_300, 1)]
    mixed = itertools.chain.from_iterable((description(false, n), p) for n, p in enumerate(packets))
    receiver = Objects()
    assert content in heard([true, *mixed], receiver)


# --- gzip -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", ["none", "packed", "plain"])
@pytest.mark.parametrize("many", [True, False])
def test_gzip(digest: str, many: bool) -> None:
    content = bundle.encode([ONE, TWO, LONG]) if many else LONG
    packed = gzip.compress(content, mtime=0)
    mark = {"none": "", "packed": md5(packed), "plain": md5(content)}[digest]
    more = f'Content-Encoding="gzip" Transfer-Length="{len(packed)}" {mark}'
    text = xml(file(1, len(content), more, bundle.CONTENT_TYPE if many else LTKM_TYPE))
    packets = [data(1, payload, esi) for esi, payload in pieces(packed, 1_000, 1)]
    receiver = Objects()
    assert heard([description(text), *packets], receiver) == ([ONE, TWO, LONG] if many else [LONG])
    assert heard([description(text), *packets], receiver) == []
    text = xml(file(1, len(content), f'Content-Encoding="gzip" {mark}'), oti=None)
    packets = [data(1, payload, esi, fti=cut(len(packed))) for esi, payload in pieces(packed, 1_000, 1)]
    assert heard([description(text), *packets]) == [content], "its length is said by its packets"


BOMB: Final = gzip.compress(bytes(50 << 20), mtime=0)


@pytest.mark.parametrize(
    ("packed", "count"),
    [
        (BOMB, "oversize objects"), (gzip.compress(bytes(symbols.MAX_OBJECT + 1)), "oversize objects"),
        (gzip.compress(LONG)[:-9], "broken objects"), (LONG, "broken objects"), (b"\x1f\x8b", "broken objects"),
        (gzip.compress(LONG)[:-8] + bytes(8), "broken objects"),
    ],
    ids=["bomb", "one too many", "cut off", "no gzip", "its beginning", "bad sum"],
)  # fmt: skip
def test_gzip_that_is_none_or_too_much(packed: bytes, count: str) -> None:
    packed = packed[: symbols.MAX_OBJECT]
    more = f'Content-Encoding="gzip" Transfer-Length="{len(packed)}"'
    text = xml(file(1, 5, more), file(2, len(ONE)))
    packets = [data(1, payload, esi % 64, sbn=esi // 64) for esi, payload in pieces(packed, 1_000, 1)]
    blocks = alc.blocks(len(packed), 1_000, 64)
    if len(blocks) > 1:
        at = [(sbn, esi) for sbn, size in enumerate(blocks) for esi in range(size)]
        packets = [data(1, payload, at[n][1], sbn=at[n][0]) for n, payload in pieces(packed, 1_000, 1)]
    receiver = Objects()
    assert heard([description(text), *packets, data(2, ONE)], receiver) == [ONE]
    assert receiver.counts[count] >= 1 and receiver.counts["objects"] == 1


def test_bombs_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[int] = []

    def counted(*_: object) -> bytes:
        work.append(1)
        return bytes(symbols.MAX_OBJECT + 1)

    monkeypatch.setattr(fdt, "unpacked", counted)
    receiver = Objects()
    for n in range(2_000):  # two seconds
        now = NOW + n * 0.001
        text = xml(file(1 + n, 5, 'Content-Encoding="gzip" Transfer-Length="9"'))
        receiver.push(alc.parse(description(text, n)), now)
        receiver.push(alc.parse(data(1 + n, b"nine bits")), now)
    assert 0 < len(work) * objects._UNPACK <= objects.BURST + 2 * objects.PACE + objects._UNPACK


@pytest.mark.parametrize("data", [b"", b"x", gzip.compress(b"y", mtime=0)[:-1], BOMB[:100]])
def test_compressed_octets_without_an_end(data: bytes) -> None:
    with pytest.raises((Truncated, BadValue)):
        fdt.unpacked(data, fdt.GZIP, 100_000)


def test_what_is_unpacked_is_bounded() -> None:
    assert len(fdt.unpacked(BOMB, fdt.GZIP, 1_000)) == 1_001
    assert len(fdt.unpacked(gzip.compress(bytes(1_000)), fdt.GZIP, 1_000)) == 1_000


def test_whatever_comes_sizes_agree() -> None:
    """Random descriptions, cuts and packets of few TOIs, at random: what is counted is what is held."""
    rng = random.Random("sizes")
    receiver = Objects()
    for n in range(4_000):
        toi, symbol = rng.randrange(1, 5), rng.choice((1, 10, 100, 700))
        if rng.random() < 0.2:
            oti = None if rng.random() < 0.5 else {**OTI, "Encoding-Symbol-Length": symbol, "FEC-Encoding-ID": rng.choice((0, 5))}
            packed = 'Content-Encoding="gzip" Transfer-Length="900"' if rng.random() < 0.3 else ""
            made = description(xml(file(toi, rng.randrange(2_000), packed), oti=oti), n)
        else:
            fti = cut(rng.randrange(2_000), symbol) if rng.random() < 0.3 else None
            made = data(toi, rng.randbytes(rng.randrange(1, 1_500)), rng.randrange(30), fti=fti)
        receiver.push(alc.parse(made), NOW + n * 0.01)
        if n % 50 == 0:
            sized(receiver)
    while receiver.size:
        before = receiver.size
        receiver.shed()
        assert receiver.size < before
    sized(receiver)


def test_the_makers_of_packets_agree() -> None:
    content = bundle.encode([b"hello"])
    assert heard([described(one_file(9, len(content))), packet(9, content)]) == [b"hello"]
