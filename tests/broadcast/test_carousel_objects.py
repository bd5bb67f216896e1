# SPDX-License-Identifier: Apache-2.0
"""The FLUTE carousel without a network: what is sent is put together, late, after losses, and among what is hostile."""

from __future__ import annotations

import gzip
import itertools
import random
import time
from collections.abc import Iterable, Sequence

import pytest
from flute_packets import TSI, VECTORS, XML, checked, description, messages, one_file, packet, turn
from hypothesis import given
from hypothesis import strategies as st

from pybcast.broadcast import alc, bundle, fdt, objects
from pybcast.broadcast.objects import Objects, location
from pybcast.broadcast.receiver import Sessions
from pybcast.broadcast.segments import EVERY, Encoder
from pybcast.broadcast.symbols import MAX_OBJECT
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.testing import mutate
from pybcast.testing.impair import Impairment
from pybcast.wire.times import NTP_UNIX


def heard(receiver: Objects | Sessions, datagrams: Iterable[bytes], now: float = 0.0) -> list[bytes]:
    now = now or time.time()
    if isinstance(receiver, Sessions):
        return [m for d in datagrams for m in receiver.push(d, ("127.0.0.1", 1), now)]
    return [m for d in datagrams for m in receiver.push(alc.parse(d), now)]


@pytest.fixture(scope="module")
def content() -> dict[str, Sequence[bytes]]:
    return {"urn:a": messages(1_500, 1), "urn:b": messages(1, 2), "urn:c": messages(40, 3), "urn:d": messages(3, 4, 20_000)}


@pytest.fixture(scope="module")
def whole(content: dict[str, Sequence[bytes]]) -> list[bytes]:
    return turn(Encoder(TSI), content)


@given(st.integers(0, 100_000), st.integers(1, 1_500), st.integers(1, 64))
def test_blocks_cover_an_object(length: int, symbol: int, block: int) -> None:
    cut = alc.blocks(length, symbol, block)
    assert sum(cut) == -(-length // symbol)
    assert all(0 < size <= block for size in cut)
    assert not cut or max(cut) - min(cut) <= 1


# --- packets and descriptions -------------------------------------------------------------------------------------------------


def test_our_datagrams_fit_and_say_what_they_carry(whole: list[bytes]) -> None:
    assert max(map(len, whole)) <= 1_452, "below 1,500 with the headers of IPv6"
    packets = [alc.parse(d) for d in whole]
    assert all(p.checked and p.tsi == TSI for p in packets)
    described = [i for i, p in enumerate(packets) if p.toi == 0]
    assert described[0] == 0 and described[-1] == len(packets) - 1
    assert max(b - a for a, b in itertools.pairwise(described)) <= EVERY + 1, "it is never long until the next"


def described(datagrams: Iterable[bytes]) -> list[fdt.Fdt]:
    found = []
    for datagram in datagrams:
        packet = alc.parse(datagram)
        if packet.toi == 0 and packet.esi == 0 and packet.fti is not None:
            found.append(fdt.parse(fdt.plain(packet.payload[: packet.fti.length], packet.encoding)))
    return found


def test_descriptions_name_object_and_version(whole: list[bytes]) -> None:
    files = {file.location: file for read in described(whole) for file in read.files}
    assert location("urn:b", 0, 1) in files
    assert {file.content_type for file in files.values()} == {bundle.CONTENT_TYPE}
    assert len({file.toi for file in files.values()}) == len(files)


@pytest.mark.parametrize(
    ("data", "kind", "field"),
    [
        (b"", Truncated, "LCT"),
        (bytes(alc.MAX_DATAGRAM + 1), BadLength, ""),
        (b"\x20\x10\x03\x00" + bytes(12), Unsupported, "V"),
        (b"\x10\x10\x09\x00" + bytes(12), Truncated, "HDR_LEN"),
        (b"\x10\x10\x01\x00" + bytes(12), BadLength, "HDR_LEN"),
        (b"\x10\x80\x03\x00" + bytes(12), Unsupported, "TOI"),
        (b"\x10\x10\x04\x00" + bytes(8) + b"\x40\x00\x00\x00" + bytes(4), BadLength, "HEL"),
        (b"\x10\x10\x04\x00" + bytes(8) + b"\x40\x02\x00\x00" + bytes(4), BadLength, "HEL"),
        (b"\x10\x10\x04\x00" + bytes(8) + b"\x40\x01\x00\x00" + bytes(4), Unsupported, "EXT_FTI"),
        (b"\x10\x10\x03\x81" + bytes(12), Unsupported, "CP"),
        (b"\x10\x10\x03\x00" + bytes(8) + bytes(3), Truncated, "FEC payload id"),
    ],
)  # fmt: skip
def test_packets_that_are_none(data: bytes, kind: type[WireError], field: str) -> None:
    with pytest.raises(WireError) as caught:
        alc.parse(data)
    assert (type(caught.value), caught.value.field) == (kind, field)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("<FDT-Instance", "<!DOCTYPE x [<!ENTITY e 'e'>]><FDT-Instance", "FDT-Instance"),
        ("FLUTE:FDT", "FLUTE:OTHER", "FDT-Instance"),
        ("</FDT-Instance>", "", "FDT-Instance"),
        ('Expires="4100000000"', "", "FDT-Instance.Expires"),
        ("<File", '<File Content-Location="x" TOI="6" Transfer-Length="1"/>' * fdt.MAX_FILES + "<File", "File[512]"),
    ],
)
def test_descriptions_that_are_none(old: str, new: str, field: str) -> None:
    assert fdt.parse(XML.encode()).files[0].toi == 5
    with pytest.raises(WireError) as caught:
        fdt.parse(XML.replace(old, new, 1).encode())
    assert caught.value.field == field
    assert caught.value.offset is not None


def test_a_description_that_is_a_bomb() -> None:
    assert len(fdt.plain(gzip.compress(bytes(10 << 20)), 3)) == fdt.MAX_FDT + 1
    with pytest.raises(BadLength):
        fdt.parse(bytes(fdt.MAX_FDT + 1))
    with pytest.raises(BadValue):
        fdt.plain(b"no gzip", 3)
    with pytest.raises(Unsupported):
        fdt.plain(b"", 4)


def test_mutated_octets(whole: list[bytes]) -> None:
    rng = random.Random("alc")
    for _ in range(5_000):
        data = mutate(rng.choice(whole), rng)
        try:
            alc.parse(data)
        except WireError as error:
            assert error.offset is not None
        try:
            fdt.parse(mutate(XML.encode(), rng))
        except WireError as error:
            assert error.offset is not None


# --- a turn -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.37, 0.5, 0.93, 0.999])
def test_tuned_in_late_one_turn_is_enough(share: float, content: dict[str, Sequence[bytes]], whole: list[bytes]) -> None:
    at = int(share * len(whole))
    receiver = Objects()
    got = heard(receiver, [*whole[at:], *whole[:at]])
    assert sorted(got) == sorted(m for each in content.values() for m in each)
    assert (heard(receiver, whole), len(receiver._open)) == ([], 0), "each version once"


@pytest.mark.parametrize("name", ["urn:a", "urn:c"])
def test_messages_of_an_object_keep_their_order(name: str, content: dict[str, Sequence[bytes]]) -> None:
    got = heard(Objects(), Encoder(TSI).encode(name, 1, content[name]))
    places = {m: i for i, m in enumerate(content[name])}
    of_bundles = [[places[m] for m in bundle.decode(data)] for data in bundle.bundles(content[name])]
    assert sorted(places[m] for m in got) == list(range(len(places)))
    for one in of_bundles:
        at = got.index(content[name][one[0]])
        assert [places[m] for m in got[at : at + len(one)]] == one == sorted(one), "R7: rising in a bundle"


@pytest.mark.parametrize("seed", range(10))
def test_three_turns_are_enough_at_a_tenth_lost(seed: int, content: dict[str, Sequence[bytes]], whole: list[bytes]) -> None:
    network = Impairment(random.Random(seed), lost=0.1)
    receiver, got = Sessions(TSI), []
    for _ in range(3):
        got += heard(receiver, (made for d in whole for made in network.carry(d)))
    assert sorted(got) == sorted(m for each in content.values() for m in each)
    assert network.counts["lost"] > 0.05 * network.counts["sent"]


@pytest.mark.parametrize("seed", range(10))
def test_a_tenth_of_everything(seed: int, content: dict[str, Sequence[bytes]], whole: list[bytes]) -> None:
    network = Impairment(random.Random(seed), lost=0.1, doubled=0.1, reordered=0.1, corrupted=0.1, foreign=0.1)
    receiver, got = Sessions(TSI), []
    for _ in range(3):
        got += heard(receiver, (made for d in whole for made in network.carry(d)))
    assert sorted(got) == sorted(m for each in content.values() for m in each), "all, each once, and nothing else"
    assert receiver.counts["corrupted"] > 0 and receiver.counts["foreign"] > 0


# --- versions -----------------------------------------------------------------------------------------------------------------


def test_a_change_brings_the_change_only(content: dict[str, Sequence[bytes]]) -> None:
    encoder, receiver = Encoder(TSI), Objects()
    heard(receiver, turn(encoder, content))
    fresh = messages(50, 99)
    assert heard(receiver, encoder.encode("urn:c", 2, fresh)) == fresh


def test_versions_do_not_suppress_each_other() -> None:
    """Anyone can send a description of a higher version: it says nothing against another."""
    encoder, receiver = Encoder(TSI), Objects()
    old, new = encoder.encode("urn:a", 1, [b"old"]), encoder.encode("urn:a", 2, [b"new"])
    assert heard(receiver, new) == [b"new"]
    assert heard(receiver, old) == [b"old"]
    assert heard(receiver, [*new, *old] * 3) == [], "each once"


def test_the_same_content_after_a_restart_is_nothing_new(content: dict[str, Sequence[bytes]]) -> None:
    receiver = Objects()
    heard(receiver, turn(Encoder(TSI, 1), content, version=1))
    changed = dict(content) | {"urn:b": [b"changed"]}
    assert heard(receiver, turn(Encoder(TSI, 500), changed, version=2)) == [b"changed"], "though the TOIs begin anew"


def test_a_description_that_is_over() -> None:
    receiver = Objects()
    datagrams = Encoder(TSI).encode("urn:a", 1, [b"x"])
    assert heard(receiver, datagrams, time.time() + 3 * 86_400) == []
    assert receiver.counts["old descriptions"] > 0


def test_after_the_end_of_the_era() -> None:
    """R15: 32 bits of NTP seconds end in 2036."""
    now = 2.0**32 - NTP_UNIX + 1_000
    content = bundle.encode([b"hello"])
    datagrams = [description(one_file(9, len(content)).replace("4100000000", "5000")), packet(9, content)]
    assert heard(Objects(), datagrams, now) == [b"hello"]
    assert heard(Objects(), datagrams, now + 3 * 86_400) == []


def test_symbols_before_their_description() -> None:
    datagrams = Encoder(TSI).encode("urn:a", 1, [bytes(1_000)] * 20)
    symbols = [d for d in datagrams if alc.parse(d).toi]
    receiver = Objects()
    assert heard(receiver, symbols) == []
    assert heard(receiver, [d for d in datagrams if not alc.parse(d).toi][:1]) == [bytes(1_000)] * 20


def test_a_single_ltkm_of_another_sender() -> None:
    """Not of ours: no-code, no checksum, a description in several packets, an object that is a message itself."""
    made = VECTORS["flute_alc_no_code"]
    datagrams, expect = [bytes.fromhex(d) for d in made["packets"]], bytes.fromhex(made["expect"])
    assert sum(not alc.parse(d).toi for d in datagrams) > 1
    assert heard(Sessions(TSI), datagrams, VECTORS["now"]) == [expect]
    assert heard(Sessions(TSI + 1), datagrams, VECTORS["now"]) == []
    symbol = next(d for d in datagrams if alc.parse(d).toi)
    mixed = [checked(symbol) if d is symbol else d for d in datagrams]
    assert heard(Sessions(TSI), mixed, VECTORS["now"]) == [], "packets with our checksum and without are of two sessions"


# --- hostile ------------------------------------------------------------------------------------------------------------------


def test_the_makers_of_hostile_packets_make_packets() -> None:
    content = bundle.encode([b"hello"])
    receiver = Objects()
    assert heard(receiver, [description(one_file(9, len(content))), packet(9, content)]) == [b"hello"]


@pytest.mark.parametrize(
    ("length", "symbol", "block"),
    [(MAX_OBJECT + 1, 1_000, 64), (2**48 - 1, 1, 1), (90_000, 1, 1), (100, 0, 64), (100, 100, 0), (0, 100, 64)],
)
def test_objects_that_are_too_large_or_cut_to_nothing(length: int, symbol: int, block: int) -> None:
    receiver = Objects()
    assert heard(receiver, [description(one_file(9, length, symbol, block)), *(packet(9, b"x", esi=i) for i in range(50))]) == []
    assert receiver.counts["oversize objects"] == 1
    assert not receiver._open and not receiver._named


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_comes_nothing_else_comes_out(seed: int, whole: list[bytes], content: dict[str, Sequence[bytes]]) -> None:
    rng = random.Random(f"hostile {seed}")
    receiver, got = Sessions(TSI), []
    for _ in range(20_000):
        data = rng.choice(whole)
        got += heard(receiver, [mutate(data, rng) if rng.random() < 0.7 else data])
    assert set(got) <= {m for each in content.values() for m in each}
    assert receiver.size <= objects.MAX_HELD
    heard(receiver, whole * 3)
    assert receiver.counts["objects"] > 5
