# SPDX-License-Identifier: Apache-2.0
"""The receiving side of one FLUTE session, without input and output: packets in, messages out.

Anyone can send to a multicast group, so nothing here trusts what comes.  Every number is checked before memory is taken for it.
Every table is bounded in entries and octets, and an entry that holds nothing counts as one too.

An object is given when its content has the digest that a description names for its TOI, and once.  Several descriptions may name
one TOI: that of our sender and forged ones.  They share its symbols, so none of them displaces anything that is assembled, and
the one that is true is found when it is heard, again and again, before or after the symbols.  Versions have no order here: a
description of a higher version, which anyone can send, says nothing against another.
confidence: own - what a terminal holds of a FLUTE session at most: 24 MiB, 8,192 objects, 512 packets before their description
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pybcast.broadcast import alc, bundle, fdt
from pybcast.broadcast.symbols import MAX_OBJECT, Symbols, fits, sound
from pybcast.errors import WireError
from pybcast.flows.serial import near
from pybcast.wire.times import NTP_UNIX

MAX_HELD: Final = 24 << 20  # octets of memory, about: some hundred objects that are not whole, and what is known of all others
MAX_ANNOUNCED: Final = 8_192  # objects of a session: a million LTKMs
MAX_KNOWN: Final = 1_024  # descriptions that need not be read again, empty ones too: ours name 8 objects each
MAX_OPEN: Final = 2_048  # of which symbols are held: the others of ``MAX_ANNOUNCED`` are for descriptions without symbols
MAX_RIVALS: Final = 4  # descriptions of one TOI: the right one, and forged ones; a right one comes again every second or so
MAX_WAITING: Final = 512  # packets of objects that no description has named yet: what passes between two, many times over
MAX_HALVES: Final = 16  # file descriptions of several packets that are not whole
LEEWAY: Final = 7_200  # seconds a description may be over by our clock: that may be wrong by an hour
LARGE: Final = 8_192  # octets of a description from which on reading it counts as work: ours have 3,000
_ENTRY: Final = 512  # octets of memory that an object takes that is known and no more, about
BURST: Final = 100_000  # microseconds of work, about, that one packet may cause, and that may be for nothing at once
PACE: Final = 50_000  # microseconds a second of work that may be for nothing, for each session; beyond, it waits - confidence: own
_DIGEST: Final = 400  # octets of an object that are put together and digested in a microsecond, about
_UNPACK: Final = 1_000  # microseconds in which as much is unpacked as an object may have, and digested twice, about
_REPAIR: Final = 5  # microseconds of the repair of a symbol, for each symbol that it is repaired from
LTKM_TYPE: Final = "application/vnd.oma.bcast.ltkm"
SCHEME: Final = "x-bcast:/"


def location(name: str, number: int, version: int) -> str:
    """Content-Location of a bundle: 16 hexadecimal digits of its object's name, its number in it, its version."""
    return f"{SCHEME}{hashlib.sha256(name.encode()).hexdigest()[:16]}/{number}/{version}"


@dataclass(frozen=True, slots=True)
class _File:
    """What matters of a description's file, of bounded size.  ``mark``: MD5 of the content, or where there is none, of the name."""

    toi: int
    fti: alc.Fti | None  # None: its packets say it
    digest: bool
    mark: bytes
    single: bool  # a message, not a bundle of messages
    gzip: bool

    def key(self, cut: alc.Fti) -> tuple[object, ...]:
        """Equal for what has the same content."""
        return (self.mark, self.single) if self.digest else (self.mark, self.single, self.toi, cut)


def _file(file: fdt.File) -> _File:
    mark = file.md5 or _md5(file.location.encode())
    return _File(file.toi, file.fti, bool(file.md5), mark, file.content_type == LTKM_TYPE, file.gzip)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


@dataclass(slots=True)
class _Rival:
    """A description of a TOI.  ``tried``: the symbols as they are have another digest."""

    file: _File
    tried: bool = False


@dataclass(slots=True)
class _Object:
    """``rivals``: its descriptions, the one heard last at the end."""

    rivals: list[_Rival] = field(default_factory=list)
    symbols: Symbols = field(default_factory=Symbols)

    @property
    def octets(self) -> int:
        return _ENTRY * len(self.rivals) + self.symbols.octets

    def cuts(self, rival: _Rival) -> Sequence[alc.Fti]:
        """How it may be cut, if this description is right."""
        return self.symbols.cuts if rival.file.fti is None else (rival.file.fti,)


class _Budget:
    """Microseconds of work, about, that may be for nothing: ``BURST`` at once, ``PACE`` in a second."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._at = 0.0

    def left(self, now: float) -> bool:
        """Whether there is something left.  The last work may take more."""
        self._spent = max(0.0, self._spent - PACE * max(0.0, now - self._at))
        self._at = now
        return self._spent < BURST

    def spend(self, work: float) -> None:
        self._spent += work


class Objects:
    """Puts the objects of one session together.

    ``counts``: what came and what became of it, by name.  ``size``: octets of memory, about.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.size = 0
        self._open: OrderedDict[int, _Object] = OrderedDict()  # by TOI: described, and symbols are held
        self._named: OrderedDict[int, _Object] = OrderedDict()  # described, and none are held
        self._waiting: OrderedDict[int, Symbols] = OrderedDict()  # symbols without a description
        self._halves: OrderedDict[tuple[int, alc.Fti, int], Symbols] = OrderedDict()  # descriptions that are not whole
        self._known: OrderedDict[bytes, tuple[int, tuple[_File, ...]]] = OrderedDict()  # descriptions that were read, by digest
        self._given: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._known_files = 0
        self._waits = 0
        self._worked = 0
        self._reading = _Budget()  # of large descriptions, and of those that need repair
        self._trying = _Budget()  # of contents with a wrong digest

    @property
    def assembles(self) -> bool:
        """Whether it has symbols of an object that is described, or has given one."""
        return bool(self._open or self._given)

    def forget(self) -> None:
        """Give everything again.  What is on its way stays."""
        self.size -= _ENTRY * len(self._given)
        self._given.clear()

    def push(self, packet: alc.Packet, now: float) -> list[bytes]:
        """One packet at Unix time ``now``.  The messages of the objects that it made whole, in their order."""
        found: list[bytes] = []
        self._worked = 0
        if packet.toi != alc.FDT_TOI:
            self._take(packet, now, found)
        elif packet.fdt_id is not None and packet.fti is not None:
            self._describe(packet, packet.fdt_id, packet.fti, now, found)
        while self.size > MAX_HELD:
            self.shed()
        return found

    # --- descriptions -------------------------------------------------------------------------------------------------

    def _describe(self, packet: alc.Packet, fdt_id: int, fti: alc.Fti, now: float, found: list[bytes]) -> None:
        if not sound(fti, fdt.MAX_FDT) or not fits(packet, fti):
            self.counts["refused descriptions"] += 1
            return
        key = (fdt_id, fti, packet.encoding)
        half = self._halves.pop(key, None)
        if half is None:
            half = Symbols()
        self.size -= half.octets
        half.add(packet, (fti.symbol,))

        def affordable(work: int) -> bool:
            left = self._reading.left(now)
            self._reading.spend(_REPAIR * work if left else 0)
            return left

        data = half.content(fti, affordable)
        if data is not None:
            self._described(data, packet.encoding, now, found)
            return
        if len(self._halves) >= MAX_HALVES:  # one packet displaces no description of which more has come
            least = min(self._halves, key=lambda key: self._halves[key].count)
            self.size -= self._halves.pop(least).octets
        self._halves[key] = half
        self.size += half.octets

    def _described(self, data: bytes, encoding: int, now: float, found: list[bytes]) -> None:
        digest = hashlib.sha256(data).digest() + bytes((encoding,))
        read = self._known.get(digest)
        if read is None:
            read = self._read(data, encoding, now)
            if read is None:
                return
            self._known[digest] = read
            self._known_files += len(read[1])
            self.size += _ENTRY * (1 + len(read[1]))
            while self._known_files > MAX_ANNOUNCED or len(self._known) > MAX_KNOWN:
                self._unlearn()
        else:
            self._known.move_to_end(digest)
        expires, files = read
        if near(expires, now + NTP_UNIX) + LEEWAY < now + NTP_UNIX:
            self.counts["old descriptions"] += 1
            return
        self.counts["descriptions"] += 1
        for file in files:
            self._announce(file, now, found)

    def _read(self, data: bytes, encoding: int, now: float) -> tuple[int, tuple[_File, ...]] | None:
        try:
            text = fdt.plain(data, encoding)
            if len(text) > LARGE:
                if not self._reading.left(now):
                    self.counts["delayed descriptions"] += 1
                    return None
                self._reading.spend(len(text) / 5)
            read = fdt.parse(text)
        except WireError:
            self.counts["refused descriptions"] += 1
            return None
        good = [file for file in read.files if file.fti is None or sound(file.fti)]
        self.counts["refused files"] += len(read.refused)
        self.counts["oversize objects"] += len(read.files) - len(good)
        files = {file.toi: _file(file) for file in reversed(good)}  # the first of each TOI
        return read.expires, tuple(reversed(files.values()))

    def _announce(self, file: _File, now: float, found: list[bytes]) -> None:
        toi = file.toi
        entry = self._open.get(toi) or self._named.get(toi)
        if entry is None:
            entry = self._named[toi] = _Object()
        elif toi in self._named:
            self._named.move_to_end(toi)
        rival = next((rival for rival in entry.rivals if rival.file == file), None)
        if rival is None:
            if len(entry.rivals) >= MAX_RIVALS:
                done = (at for at, rival in enumerate(entry.rivals) if entry.cuts(rival) and not any(self._wanted(entry, rival)))
                del entry.rivals[next(done, 0)]
                self.size -= _ENTRY
            rival = _Rival(file)
            self.size += _ENTRY
            entry.rivals.append(rival)
        elif rival is not entry.rivals[-1]:
            entry.rivals.remove(rival)
            entry.rivals.append(rival)
        while len(self._open) + len(self._named) > MAX_ANNOUNCED:
            self._unname()
        for cut in entry.cuts(rival):
            if (key := file.key(cut)) in self._given:
                self._given.move_to_end(key)
        waiting = self._waiting.get(toi)
        if waiting is not None:
            before = entry.symbols.octets
            for cut in waiting.cuts:
                entry.symbols.learn(cut)
            sizes = {cut.symbol for rival in entry.rivals for cut in self._wanted(entry, rival)}
            if sizes or all(map(entry.cuts, entry.rivals)):
                del self._waiting[toi]
                self._waits -= waiting.count
                self.size -= waiting.octets
            if sizes:
                entry.symbols.take(waiting, sizes)
                self._sort(toi, entry)
            self.size += entry.symbols.octets - before
        if entry.symbols.count and not rival.tried:
            for cut in list(self._wanted(entry, rival)):
                self._try(toi, entry, rival, cut, now, found)

    # --- objects ------------------------------------------------------------------------------------------------------

    def _take(self, packet: alc.Packet, now: float, found: list[bytes]) -> None:
        toi = packet.toi
        entry = self._open.get(toi) or self._named.get(toi)
        if entry is None:
            self._wait(packet)
            return
        before = entry.symbols.octets
        fresh = packet.fti is not None and entry.symbols.learn(packet.fti)
        self.size += entry.symbols.octets - before
        wanted = [(rival, cut) for rival in entry.rivals for cut in self._wanted(entry, rival)]
        if not wanted and all(map(entry.cuts, entry.rivals)):
            return
        fitting = [(rival, cut) for rival, cut in wanted if fits(packet, cut)]
        if not fitting:
            self.counts["refused symbols"] += bool(wanted)
            self._wait(packet)  # its description may come after a forged one, or another packet says how it was cut
            return
        before = entry.symbols.octets
        changed = entry.symbols.add(packet, {cut.symbol for _, cut in fitting})
        self.size += entry.symbols.octets - before
        if not changed and not fresh:
            return
        self._sort(toi, entry)
        for rival, cut in fitting:
            rival.tried = False
            self._try(toi, entry, rival, cut, now, found)

    def _wait(self, packet: alc.Packet) -> None:
        waiting = self._waiting.get(packet.toi)
        if waiting is None:
            waiting = self._waiting[packet.toi] = Symbols()
        octets, count = waiting.octets, waiting.count
        waiting.add(packet)
        self.size += waiting.octets - octets
        self._waits += waiting.count - count
        if not waiting.count:  # it was too much
            self.size -= waiting.octets
            del self._waiting[packet.toi]
        while self._waits > MAX_WAITING:
            _, oldest = self._waiting.popitem(last=False)
            self._waits -= oldest.count
            self.size -= oldest.octets

    def _sort(self, toi: int, entry: _Object) -> None:
        """Into the table where it belongs, at its end."""
        here, there = (self._open, self._named) if entry.symbols.count else (self._named, self._open)
        there.pop(toi, None)
        here[toi] = entry
        here.move_to_end(toi)
        if len(self._open) > MAX_OPEN:
            self._evict()

    def _wanted(self, entry: _Object, rival: _Rival) -> Iterator[alc.Fti]:
        """How it may be cut: of these, what has not been given."""
        return (cut for cut in entry.cuts(rival) if rival.file.key(cut) not in self._given)

    def _try(self, toi: int, entry: _Object, rival: _Rival, cut: alc.Fti, now: float, found: list[bytes]) -> None:
        """Give the object, if its symbols are what this description says."""
        file = rival.file
        key = file.key(cut)
        if key in self._given or self._worked >= BURST or not self._trying.left(now):
            return  # what waits is tried again when it is described again, or has another symbol
        work = cut.length // _DIGEST + (_UNPACK if file.gzip else 0)

        def repair(wanted: int) -> bool:
            nonlocal work
            work += _REPAIR * wanted
            return True

        content = entry.symbols.content(cut, repair)
        if content is None:
            return
        self._worked += work
        plain = self._right(file, content)
        if plain is None:
            self.counts["broken objects"] += 1  # a symbol or the description is forged: see `symbols`
            rival.tried = True
            self._trying.spend(work)
            return
        self._given[key] = None
        self.size += _ENTRY
        if len(self._given) > MAX_ANNOUNCED:
            self._given.popitem(last=False)
            self.size -= _ENTRY
        if not any(next(self._wanted(entry, other), None) for other in entry.rivals):
            self._clear(toi, entry)
        try:
            found += (plain,) if file.single else bundle.decode(plain)
        except WireError:
            self.counts["refused objects"] += 1
            return
        self.counts["objects"] += 1

    def _right(self, file: _File, content: bytes) -> bytes | None:
        """What was compressed, and what was not as it is; ``None`` when it is not what the description says."""
        if not file.gzip:
            return content if not file.digest or _md5(content) == file.mark else None
        try:
            plain = fdt.unpacked(content, fdt.GZIP, MAX_OBJECT)
        except WireError:
            return None
        if len(plain) > MAX_OBJECT:
            self.counts["oversize objects"] += 1
            return None
        # Of a compressed file some senders give the digest as it travels, others as it was (RFC 6726 3.4.2 can be read both ways).
        return plain if not file.digest or file.mark in (_md5(content), _md5(plain)) else None

    # --- bounds -------------------------------------------------------------------------------------------------------

    def shed(self) -> None:
        """Give up something: what is the least loss, of that the oldest."""
        if self._waiting:
            _, waiting = self._waiting.popitem(last=False)
            self._waits -= waiting.count
            self.size -= waiting.octets
        elif self._known:
            self._unlearn()
        elif self._halves:
            self.size -= self._halves.popitem(last=False)[1].octets
        elif self._open:
            self._evict()
        elif self._named:
            self._unname()
        elif self._given:
            self._given.popitem(last=False)
            self.size -= _ENTRY

    def _unname(self) -> None:
        _, oldest = self._named.popitem(last=False)
        self.size -= oldest.octets

    def _unlearn(self) -> None:
        _, (_, files) = self._known.popitem(last=False)
        self._known_files -= len(files)
        self.size -= _ENTRY * (1 + len(files))

    def _evict(self) -> None:
        """Those whose last symbol came longest ago first."""
        toi, entry = next(iter(self._open.items()))
        self._clear(toi, entry)
        self.counts["evicted objects"] += 1

    def _clear(self, toi: int, entry: _Object) -> None:
        """Its symbols are not needed any more."""
        before = entry.symbols.octets
        entry.symbols.clear()
        self.size -= before - entry.symbols.octets
        self._sort(toi, entry)
