# SPDX-License-Identifier: Apache-2.0
"""Whoever can send to the carousel's group: what is held stays bounded, and the carousel takes as many cycles as without them.

The attackers hear everything, compute our checksum, and know the limits.  Some forge the address and port of the sender.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import random
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import pytest
from flute_packets import TSI, checked, description, files, half, messages, one_file, packet, turn

from pybcast.broadcast import alc, bundle, fdt, objects, receiver, reedsolomon, symbols
from pybcast.broadcast.objects import Objects
from pybcast.broadcast.receiver import CarouselReceiver, LtkmListener, Sessions, Source
from pybcast.broadcast.segments import Encoder
from pybcast.errors import BadLength

SENDER: Final = ("192.0.2.1", 5_000)
START: Final = time.time()
STEP: Final = 0.005  # seconds between two datagrams of the sender
MIB: Final = 1 << 20

Attack = Iterator[tuple[bytes, Source]]


@pytest.fixture(scope="module")
def content() -> dict[str, Sequence[bytes]]:
    return {"urn:a": messages(600, 1), "urn:b": messages(1, 2), "urn:c": messages(40, 3), "urn:d": messages(3, 4, 20_000)}


CHANGED: Final = messages(50, 99)


@pytest.fixture(scope="module")
def air(content: dict[str, Sequence[bytes]]) -> tuple[list[bytes], list[bytes]]:
    """A turn of the sender; and of what has changed after it."""
    encoder = Encoder(TSI)
    return turn(encoder, content), list(encoder.encode("urn:c", 2, CHANGED))


@pytest.fixture(scope="module")
def whole(air: tuple[list[bytes], list[bytes]]) -> list[bytes]:
    return air[0]


def port(number: int, address: str = "192.0.2.66") -> Source:
    return address, 1_024 + number % 60_000


def forged(number: int) -> Source:
    return f"198.18.{number >> 8 & 255}.{number & 255}", 5_000


def tois(whole: Iterable[bytes]) -> list[int]:
    return sorted({read.toi for d in whole if (read := alc.parse(d)).toi})


def entry(toi: int, length: int, more: str, symbol: int = 1_392) -> str:
    return (
        f'<File Content-Location="x-bcast:/0123456789abcdef/0/999999999999999999" TOI="{toi}" Transfer-Length="{length}"'
        f' FEC-OTI-FEC-Encoding-ID="5" FEC-OTI-Encoding-Symbol-Length="{symbol}"'
        f' FEC-OTI-Max-Number-of-Encoding-Symbols="77" {more}/>'
    )


def digest(number: int) -> str:
    return base64.b64encode(hashlib.md5(b"%d" % number, usedforsecurity=False).digest()).decode()


# --- who attacks how ----------------------------------------------------------------------------------------------------------


def one_octet_from_six_ports(_: list[bytes]) -> Attack:
    for i in itertools.count():
        yield b"\0", port(i % 6)


def packets_from_ports(_: list[bytes]) -> Attack:
    """Of the right TSI, with the checksum: a session opens for each."""
    for i in itertools.count():
        yield packet(1 + i, b"x" * 100), port(i)


def packets_from_addresses(_: list[bytes]) -> Attack:
    for i in itertools.count():
        yield packet(1 + i, b"x" * 100), forged(i)


def objects_from_ports(_: list[bytes]) -> Attack:
    """Sessions that give an object each, of random octets."""
    for i in itertools.count():
        data = bundle.encode([b"%d" % i])
        yield description(one_file(1, len(data))), port(i)
        yield packet(1, data), port(i)


def objects_without_end_from_ports(_: list[bytes]) -> Attack:
    """Sessions that assemble for ever, as many as there may be, and take all the memory that they get."""
    for i in itertools.count():
        one = i % (receiver.MAX_SENDERS + 6)
        if i < 1_000:
            yield description(one_file(1 + i // 100, 90_000, 1_400, 64)), port(one)
        yield packet(1 + i // 1_000, b"x" * 1_400, sbn=0, esi=i % 64), port(one)


def waiting_symbols_from_ports(_: list[bytes]) -> Attack:
    """The strangers take all the memory that they get."""
    for i in itertools.count():
        yield packet(1 + i, b"x" * 1_900), port(i % 200)


def empty_descriptions(_: list[bytes]) -> Attack:
    for i in itertools.count():
        yield description(files("", f"<!--{i}-->"), i), SENDER


def descriptions_of_nothing(_: list[bytes]) -> Attack:
    """Objects of which no symbol ever comes."""
    for i in itertools.count():
        yield description(files("".join(entry(1_000_000 + 40 * i + j, 9, "") for j in range(40))), i), SENDER


def higher_versions(whole: list[bytes]) -> Attack:
    """Of every object that there is, under TOIs of their own."""
    names = [file.location.rpartition("/")[0] for read in described(whole) for file in read.files]
    for i in itertools.count():
        where = f"{names[i % len(names)]}/{999_999_999_999_999_999 - i}"
        yield description(one_file(1_000_000 + i, 30_000, 1_392, where=where, md5=digest(i)), i), SENDER


def other_digests(whole: list[bytes]) -> Attack:
    """Of every TOI that there is, cut as the true one is."""
    lengths = {file.toi: file.fti.length for read in described(whole) for file in read.files if file.fti is not None}
    for i in itertools.count():
        for toi, length in lengths.items():
            yield description(files(entry(toi, length, f'Content-MD5="{digest(i)}"')), i), SENDER


def other_cuts(whole: list[bytes]) -> Attack:
    """Of every TOI that there is, and of those to come: shorter, longer, of smaller symbols, with a digest or without."""
    for i in itertools.count():
        for toi in tois(whole):
            length, symbol = (100, 100) if i % 3 == 0 else (90_000 - i % 1_000, 1_392 if i % 3 == 1 else 1_393)
            more = f'Content-MD5="{digest(i)}"' if i % 2 else ""
            yield description(files(entry(toi, length, more, symbol) + entry(toi + 1_000, length, more, symbol)), i), SENDER


def halves(_: list[bytes]) -> Attack:
    for i in itertools.count():
        yield half(i), SENDER


def symbols_of_nothing(_: list[bytes]) -> Attack:
    for i in itertools.count():
        yield packet(1_000_000 + i // 10, bytes(100), sbn=i % 10), SENDER


def described(whole: Iterable[bytes]) -> list[fdt.Fdt]:
    read = [alc.parse(d) for d in whole]
    return [fdt.parse(fdt.plain(p.payload[: p.fti.length], p.encoding)) for p in read if p.toi == 0 and p.fti is not None]


ATTACKS: Final[tuple[Callable[[list[bytes]], Attack], ...]] = (
    one_octet_from_six_ports, packets_from_ports, packets_from_addresses, objects_from_ports, objects_without_end_from_ports,
    waiting_symbols_from_ports, empty_descriptions, descriptions_of_nothing, higher_versions, other_digests, other_cuts, halves,
    symbols_of_nothing,
)  # fmt: skip


def cycles(
    sessions: Sessions, whole: list[bytes], wanted: Iterable[bytes], attack: Attack | None, before: int = 500, each: int = 5
) -> int:
    """How many turns of the sender it takes, tuned in amid one, with so many packets of the attack before and for each of its."""
    missing, now = set(wanted), START
    at = len(whole) // 3
    for data, source in itertools.islice(attack or (), before):
        sessions.push(data, source, now)
    for count in range(1, 9):
        for datagram in (*whole[at:], *whole[:at]):
            now += STEP
            missing.difference_update(sessions.push(datagram, SENDER, now))
            for data, source in itertools.islice(attack or (), each):
                assert not missing & set(sessions.push(data, source, now)) or source == SENDER
        if not missing:
            return count
    raise AssertionError(f"{len(missing)} of {len(set(wanted))} messages are missing: {sessions.counts}")


def within_bounds(sessions: Sessions) -> None:
    """All tables, and what is said of their size."""
    for room, most, octets in (
        (sessions._strangers, receiver.MAX_STRANGERS, receiver.MAX_STRANGE),
        (sessions._senders, receiver.MAX_SENDERS, objects.MAX_HELD),
    ):
        assert len(room.sessions) <= most and room.size <= octets
        assert room.size == sum(held.size for held in room.sessions.values())
        for held in room.sessions.values():
            sound(held)


def sound(held: Objects) -> None:
    tables = (held._open, held._named)
    entries = [one for table in tables for one in table.values()]
    assert len(entries) <= objects.MAX_ANNOUNCED and len(held._open) <= objects.MAX_OPEN
    assert all(1 <= len(one.rivals) <= objects.MAX_RIVALS for one in entries)
    assert all(one.symbols.count for one in held._open.values()) and not any(one.symbols.count for one in held._named.values())
    assert held._waits == sum(one.count for one in held._waiting.values()) <= objects.MAX_WAITING
    assert all(one.count for one in held._waiting.values()), "nothing that holds nothing"
    assert len(held._halves) <= objects.MAX_HALVES
    assert len(held._known) <= objects.MAX_KNOWN and len(held._given) <= objects.MAX_ANNOUNCED
    assert held._known_files == sum(len(read) for _, read in held._known.values()) <= objects.MAX_ANNOUNCED
    octets = sum(one.symbols.octets for one in entries) + sum(
        one.octets for one in (*held._waiting.values(), *held._halves.values())
    )
    small = sum(len(one.rivals) for one in entries) + held._known_files + len(held._known) + len(held._given)
    assert held.size == octets + objects._ENTRY * small


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_carousel_takes_one_cycle_as_without(
    attack: Callable[[list[bytes]], Attack], content: dict[str, Sequence[bytes]], air: tuple[list[bytes], list[bytes]]
) -> None:
    whole, fresh = air
    wanted = [m for each in content.values() for m in each]
    quiet, sessions = Sessions(TSI), Sessions(TSI)
    assert cycles(quiet, whole, wanted, None) == cycles(quiet, fresh, CHANGED, None) == 1
    assert cycles(sessions, whole, wanted, attack([*whole, *fresh])) == 1
    within_bounds(sessions)
    assert cycles(sessions, fresh, CHANGED, attack([*fresh, *whole])) == 1
    within_bounds(sessions)


def test_one_octet_opens_no_session() -> None:
    sessions = Sessions(TSI)
    for data, source in itertools.islice(one_octet_from_six_ports([]), 1_000):
        sessions.push(data, source, START)
    other = packet(5, b"x").replace(TSI.to_bytes(4), (TSI + 1).to_bytes(4), 1)
    sessions.push(checked(other[: 4 * other[2] - 8] + other[4 * other[2] :]), SENDER, START)
    broken = bytearray(packet(5, b"x"))
    broken[-1] ^= 1
    sessions.push(bytes(broken), SENDER, START)
    assert not sessions._strangers.sessions and not sessions._senders.sessions
    assert sessions.counts["foreign"] >= 1_000 and sessions.counts["corrupted"] >= 1


def test_a_session_that_assembles_is_not_displaced_by_sessions_that_do_not() -> None:
    """However silent it is meanwhile, and wherever they come from."""
    wanted = messages(50)
    large = Encoder(TSI).encode("urn:l", 1, wanted)
    symbols = [d for d in large if alc.parse(d).toi]
    sessions = Sessions(TSI)
    got = sessions.push(large[0], SENDER, START) + sessions.push(symbols[0], SENDER, START)
    for i in range(3 * receiver.MAX_STRANGERS):
        sessions.push(packet(1, b"x"), forged(i), START)
    got += [m for d in symbols[1:] for m in sessions.push(d, SENDER, START)]
    assert got == wanted
    within_bounds(sessions)


def test_a_new_sender_finds_room_among_sessions_that_assemble_for_ever() -> None:
    """Not even those keep out who comes later: the one that was silent longest goes."""
    sessions = Sessions(TSI)
    for i in range(receiver.MAX_SENDERS):
        sessions.push(description(one_file(1, 90_000, 1_000, 64)), forged(i), START)
        sessions.push(packet(1, bytes(1_000)), forged(i), START)
    assert len(sessions._senders.sessions) == receiver.MAX_SENDERS
    got = [m for d in Encoder(TSI).encode("urn:a", 1, [b"1"]) for m in sessions.push(d, SENDER, START)]
    assert got == [b"1"]
    within_bounds(sessions)


@pytest.mark.parametrize("seed", range(3))
def test_forged_symbols_heal(seed: int, content: dict[str, Sequence[bytes]], whole: list[bytes]) -> None:
    """One in the name of each object and turn, at any time: what is broken by it is whole when the right one comes again."""
    rng, sessions = random.Random(seed), Sessions(TSI)
    missing = {m for each in content.values() for m in each}
    for _ in range(2):
        places = set(rng.sample(range(len(whole)), len(tois(whole))))
        for at, datagram in enumerate(whole):
            if at in places and (read := alc.parse(rng.choice(whole))).toi:
                forged = packet(read.toi, rng.randbytes(1_392), esi=read.esi, fec=read.fec)
                missing.difference_update(sessions.push(forged, SENDER, START))
            missing.difference_update(sessions.push(datagram, SENDER, START))
    assert not missing
    assert sessions.counts["broken objects"] > 0
    within_bounds(sessions)


def test_a_sender_that_was_forgotten_and_heard_again_under_attack(content: dict[str, Sequence[bytes]], whole: list[bytes]) -> None:
    wanted, sessions = [m for each in content.values() for m in each], Sessions(TSI)
    attack = packets_from_ports(whole)
    assert cycles(sessions, whole, wanted, attack) == 1
    assert [m for d in whole for m in sessions.push(d, SENDER, START)] == []
    sessions.forget()
    within_bounds(sessions)
    assert cycles(sessions, whole, wanted, attack) == 1


# --- memory -------------------------------------------------------------------------------------------------------------------


def test_descriptions_without_a_file_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_KNOWN", 200)
    sessions, held = Sessions(TSI), []
    datagrams = list(itertools.islice(empty_descriptions([]), 1_500))
    tracemalloc.start()
    try:
        for part in (datagrams[:500], datagrams[500:1_000], datagrams[1_000:]):
            for data, source in part:
                sessions.push(data, source, START)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sessions.counts["descriptions"] == 1_500
    assert held[2] - held[1] < 10_000, "not more with every one: nor what the collector would have to find"
    assert held[2] < MIB / 4
    within_bounds(sessions)


@pytest.mark.parametrize(
    "attack", [waiting_symbols_from_ports, objects_without_end_from_ports, descriptions_of_nothing], ids=lambda each: each.__name__
)
def test_memory_is_what_is_said_and_bounded(attack: Callable[[list[bytes]], Attack], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_HELD", MIB)
    monkeypatch.setattr(receiver, "MAX_HELD", MIB)
    monkeypatch.setattr(receiver, "MAX_STRANGE", MIB // 2)
    sessions = Sessions(TSI)
    datagrams = list(itertools.islice(attack([]), 3_000))
    tracemalloc.start()
    try:
        most = 0
        for data, source in datagrams:
            sessions.push(data, source, START)
            most = max(most, sessions.size)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.4 * MIB < most <= 1.5 * MIB
    assert held < 1.3 * most + MIB / 2, "the estimate is near: an empty session takes some 2 KiB beside it"
    within_bounds(sessions)


def test_random_attacks_at_once_keep_every_bound(
    monkeypatch: pytest.MonkeyPatch, whole: list[bytes], content: dict[str, Sequence[bytes]]
) -> None:
    for module, name, value in (
        (objects, "MAX_HELD", 400_000), (receiver, "MAX_HELD", 400_000), (receiver, "MAX_STRANGE", 100_000),
        (objects, "MAX_ANNOUNCED", 60), (objects, "MAX_OPEN", 8), (objects, "MAX_WAITING", 30), (objects, "MAX_KNOWN", 20),
        (receiver, "MAX_SENDERS", 5), (receiver, "MAX_STRANGERS", 7), (symbols, "MAX_SYMBOLS", 40),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    rng = random.Random(1)
    sessions, attacks = Sessions(TSI), [attack(whole) for attack in ATTACKS]
    got: set[bytes] = set()
    for number in range(6_000):
        data, source = next(rng.choice(attacks)) if rng.random() < 0.7 else (rng.choice(whole), SENDER)
        sessions.push(data, source if rng.random() < 0.8 else port(rng.randrange(9)), START)
        if number % 20 == 0:
            within_bounds(sessions)
        if number % 500 == 0:
            sessions.forget()
            within_bounds(sessions)
    assert sessions.counts["evicted objects"] > 0
    monkeypatch.undo()
    sessions.forget()
    for _ in range(2):
        got |= {m for d in whole for m in sessions.push(d, SENDER, START)}
    assert got >= {m for each in content.values() for m in each}


def test_whoever_has_more_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with many sessions takes nothing from one with few: neither places nor memory."""
    monkeypatch.setattr(receiver, "MAX_STRANGE", 100_000)
    sessions = Sessions(TSI)
    for i in range(5):
        sessions.push(packet(1 + i, b"mine" * 300), SENDER, START)
    for i in range(2_000):
        sessions.push(packet(i, b"x" * 1_000), port(i), START)
    assert sessions._strangers.sessions[*SENDER, True]._waits == 5
    within_bounds(sessions)


def test_one_object_takes_no_more_than_twice_what_it_may_have() -> None:
    held = Objects()
    data = description(one_file(1, 90_000, 1_000, 1))
    held.push(alc.parse(data), START)
    for sbn in range(90):
        for esi in range(9):
            held.push(alc.parse(packet(2, bytes(1_000), sbn=sbn, esi=esi)), START)
    assert 0 < held.size < 2.5 * symbols.MAX_OBJECT
    sound(held)


def test_everything_can_be_given_up(whole: list[bytes], content: dict[str, Sequence[bytes]]) -> None:
    held = Objects()
    for data in (*whole[:-9], half(1), packet(1_000_000, b"x"), description(one_file(77, 9)), description(one_file(78, 300))):
        held.push(alc.parse(data), START)
    held.push(alc.parse(packet(78, bytes(100))), START)
    assert held._open and held._named and held._given and held._halves and held._known and held._waiting
    while held.size:
        before = held.size
        held.shed()
        assert held.size < before
        sound(held)
    assert not (held._open or held._named or held._given or held._halves or held._known or held._waiting)
    got = [m for data in whole * 2 for m in held.push(alc.parse(data), START)]
    assert sorted(got) == sorted(m for each in content.values() for m in each), "and it goes on"


def test_objects_that_were_given_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_ANNOUNCED", 10)
    held = Objects()
    for toi in range(1, 30):
        data = bundle.encode([b"%d" % toi])
        held.push(alc.parse(description(one_file(toi, len(data)))), START)
        assert held.push(alc.parse(packet(toi, data)), START) == [b"%d" % toi]
        sound(held)
    assert len(held._given) == 10


@pytest.mark.parametrize("length", [0, fdt.MAX_FDT + 1, 2**48 - 1])
def test_a_description_that_is_too_large_or_nothing(length: int) -> None:
    held = Objects()
    held.push(alc.parse(half(1, length)), START)
    assert held.counts["refused descriptions"] == 1 and not held.size


# --- time ---------------------------------------------------------------------------------------------------------------------


def test_large_descriptions_are_read_at_a_pace(monkeypatch: pytest.MonkeyPatch, whole: list[bytes]) -> None:
    """Small when sent and large when unpacked: they would cost milliseconds each.  Ours are small, and are read meanwhile."""
    read: list[int] = []
    parse = fdt.parse

    def counted(data: bytes) -> fdt.Fdt:
        read.append(len(data))
        return parse(data)

    monkeypatch.setattr(fdt, "parse", counted)
    held = Objects()
    bombs = [description(files("", "<x/>" * 12_000 + f"<!--{i}-->"), i) for i in range(5)]
    for i in range(1_000):  # 200 a second
        bomb = alc.parse(bombs[i % 5])
        held.push(bomb, START + i * STEP)
        if i % 100 == 0:
            held.push(alc.parse(whole[0]), START + i * STEP)
    large = [size for size in read if size > objects.LARGE]
    assert 20 < len(large) < 60
    assert sum(large) / 5 <= objects.BURST + 5 * objects.PACE + max(large)
    assert held.counts["delayed descriptions"] == 1_000 - len(large)
    assert held.counts["descriptions"] == 10, "ours"


def test_our_own_descriptions_are_small(whole: list[bytes]) -> None:
    sizes = [
        len(fdt.plain(p.payload[: p.fti.length], p.encoding)) for p in map(alc.parse, whole) if p.toi == 0 and p.fti is not None
    ]
    assert max(sizes) < objects.LARGE / 2


def test_a_description_of_very_many_elements() -> None:
    fdt.parse(files("", "<x/>" * (fdt.MAX_ELEMENTS - 1)).encode())
    with pytest.raises(BadLength, match="elements"):
        fdt.parse(files("", "<x/>" * fdt.MAX_ELEMENTS).encode())


def test_repairing_for_nothing_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most expensive object that there is, of 127 repair symbols, whose description has the wrong digest, and its rivals'."""
    work: list[int] = []

    def counted(found: dict[int, bytes], wanted: Sequence[int], size: int) -> dict[int, bytes]:
        work.append(len(found) * len(wanted))
        return {esi: bytes(size) for esi in wanted}

    monkeypatch.setattr(reedsolomon, "repaired", counted)
    held = Objects()

    def rival(toi: int, number: int) -> bytes:
        return description(
            files(
                f'<File Content-Location="x" TOI="{toi}" Transfer-Length="{1_270 - number % 9}" FEC-OTI-FEC-Encoding-ID="5"'
                f' FEC-OTI-Encoding-Symbol-Length="10" FEC-OTI-Maximum-Source-Block-Length="127"'
                f' FEC-OTI-Max-Number-of-Encoding-Symbols="255" Content-MD5="{digest(number)}"/>'
            )
        )

    for toi in range(1, 9):
        held.push(alc.parse(rival(toi, 0)), START)
        for esi in range(127, 254):
            held.push(alc.parse(packet(toi, b"%10d" % esi, esi=esi, fec=alc.REED_SOLOMON)), START)
    for i in range(1, 500):  # five seconds
        held.push(alc.parse(rival(1 + i % 8, i)), START + i * 0.01)
        held.push(alc.parse(packet(1 + i % 8, b"%10d" % -i, esi=130, fec=alc.REED_SOLOMON)), START + i * 0.01)
    assert max(work) == 127 * 127
    assert objects._REPAIR * sum(work) <= objects.BURST + 5 * objects.PACE + objects._REPAIR * 127 * 127
    assert len(work) > 3


def test_digests_for_nothing_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """One symbol of an object that is whole is forged again and again, for four descriptions of it."""
    tries: list[int] = []
    content = symbols.Symbols.content

    def counted(self: symbols.Symbols, fti: alc.Fti, *rest: Callable[[int], bool]) -> bytes | None:
        if self.count == 60:
            tries.append(fti.length)
        return content(self, fti, *rest)

    monkeypatch.setattr(symbols.Symbols, "content", counted)
    held = Objects()
    for i in range(4):
        held.push(alc.parse(description(one_file(1, 84_000, 1_400, md5=digest(i)), i)), START)
    for esi in range(60):
        held.push(alc.parse(packet(1, bytes(1_400), esi=esi)), START)
    for i in range(1_000):  # five seconds
        held.push(alc.parse(packet(1, i.to_bytes(1_400), esi=7)), START + i * STEP)
    assert sum(tries) / objects._DIGEST <= objects.BURST + 5 * objects.PACE + 4 * 84_000 / objects._DIGEST
    assert len(tries) > 1_000, "many all the same"


def test_what_one_packet_can_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Very many objects that are whole as soon as one description comes: the others wait until it comes again."""
    held = Objects()
    data = {toi: bundle.encode([bytes(1_000)]) for toi in range(1, 41)}
    monkeypatch.setattr(objects, "BURST", 20 * (len(data[1]) // objects._DIGEST))
    for toi, content in data.items():
        held.push(alc.parse(packet(toi, content)), START)
    entries = (f'<File Content-Location="{toi}" TOI="{toi}" Transfer-Length="{len(c)}"/>' for toi, c in data.items())
    text = files("".join(entries)).replace('Symbol-Length="100"', 'Symbol-Length="1400"')
    described = alc.parse(description(text))
    assert [len(held.push(described, START)) for _ in range(3)] == [20, 20, 0]


# --- with sockets -------------------------------------------------------------------------------------------------------------


def test_one_octet_from_six_sockets_while_the_carousel_turns(content: dict[str, Sequence[bytes]], whole: list[bytes]) -> None:
    async def body() -> set[bytes]:
        got: set[bytes] = set()
        with contextlib.ExitStack() as stack:
            sender, *attackers = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(7))
            async with CarouselReceiver("127.0.0.1", 0, TSI, on_message=got.add) as listener, asyncio.timeout(20):
                sent = 0
                for datagram in whole:  # one turn
                    for out, data in (*((each, b"\0") for each in attackers), (sender, datagram)):
                        out.sendto(data, ("127.0.0.1", listener.port))
                        sent += 1
                    while listener.datagrams < sent:
                        await asyncio.sleep(0)
                assert listener.sessions.counts["foreign"] == 6 * len(whole)
                within_bounds(listener.sessions)
        return got

    assert asyncio.run(body()) == {m for each in content.values() for m in each}


def test_messages_that_nobody_takes_are_bounded_in_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand of the largest would be 655 MB."""
    monkeypatch.setattr(receiver, "WAITING_OCTETS", 100_000)

    async def body() -> None:
        async with LtkmListener("127.0.0.1", 0) as listener, asyncio.timeout(20):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                for i in range(100):
                    out.sendto(i.to_bytes(5_000), ("127.0.0.1", listener.port))
                    await asyncio.sleep(0)
            while listener._reading:
                await asyncio.sleep(0)
            assert listener._octets == sum(map(len, listener._messages)) <= 105_000
            assert [int.from_bytes(await anext(listener)) for _ in range(100)] == list(range(100)), "the rest waited in the system"

    asyncio.run(body())
