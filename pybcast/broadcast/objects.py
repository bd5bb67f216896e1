# SPDX-License-Identifier: Apache-2.0
"""The receiving side of the carousel, without input and output: datagrams in, messages out.

Anyone can send to a multicast group, so nothing here trusts what comes: every number is checked before memory is taken for it, what
is held is bounded whatever comes, and the oldest goes first.
confidence: own - what a terminal holds of the carousel at most: 32 MiB, 8,192 objects, 512 packets that wait for their description

A version is announced by its file description.  The newest announced one of an object counts: an older one, from an old capture,
is not taken as long as the newer one is announced at least every ``STALE`` seconds.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from pybcast.broadcast import alc, bundle, fdt
from pybcast.errors import WireError
from pybcast.flows.serial import near

MAX_OBJECT: Final = bundle.MAX_BUNDLE  # octets of one object
MAX_SYMBOLS: Final = 4_096  # of one object: of 32 octets at least where it is as large as it may be
MAX_ANNOUNCED: Final = 8_192  # objects of a session: a million LTKMs
MAX_HELD: Final = 32 << 20  # octets of objects that are not whole: some hundred of them at once
MAX_WAITING: Final = 512  # packets of objects that no description has named yet: what passes between two, many times over
MAX_DESCRIPTIONS: Final = 16  # file descriptions of several packets that are not whole
STALE: Final = 60.0  # seconds after which a version that is no longer announced no longer keeps out an older one
LEEWAY: Final = 7_200  # seconds a description may be over by our clock: that may be wrong by an hour
_BLOCK: Final = 128  # octets of memory that a block takes beside its symbols, about
_SYMBOL: Final = 160  # and a symbol beside its own
SCHEME: Final = "x-bcast:/"
LTKM_TYPE: Final = "application/vnd.oma.bcast.ltkm"
NTP_UNIX: Final = 2_208_988_800


def location(name: str, number: int, version: int) -> str:
    """Content-Location of a bundle: 16 hexadecimal digits of its object's name, its number in it, its version."""
    return f"{SCHEME}{hashlib.sha256(name.encode()).hexdigest()[:16]}/{number}/{version}"


def _read_location(text: str) -> tuple[str, int]:
    """(object, version).  Of a location that is not of ours the whole names the object, and its version is 0."""
    name, _, version = text.removeprefix(SCHEME).rpartition("/")
    if text.startswith(SCHEME) and name and version.isascii() and version.isdigit() and len(version) <= 18:
        return name, int(version)
    return text, 0


class _Partial:
    """An object while its symbols come: for each block, esi -> symbol.  ``octets``: of memory, about."""

    __slots__ = ("blocks", "fti", "missing", "needs", "octets")

    def __init__(self, fti: alc.Fti) -> None:
        self.fti = fti
        self.needs = alc.blocks(fti.length, fti.symbol, fti.block)
        self.blocks: list[dict[int, bytes]] = [{} for _ in self.needs]
        self.missing = len(self.needs)
        self.octets = len(self.needs) * _BLOCK

    def add(self, packet: alc.Packet) -> bool:
        """Take a symbol.  Whether all blocks can be put together."""
        if packet.sbn >= len(self.needs):
            return False
        block, need = self.blocks[packet.sbn], self.needs[packet.sbn]
        if len(block) >= need or packet.esi in block:
            return False
        if packet.esi >= (need if self.fti.fec == alc.NO_CODE else 255) or not 0 < len(packet.payload) <= self.fti.symbol:
            return False
        block[packet.esi] = packet.payload
        self.octets += len(packet.payload) + _SYMBOL
        self.missing -= len(block) == need
        return not self.missing

    def whole(self) -> bytes:
        parts = []
        for block, need in zip(self.blocks, self.needs, strict=True):
            lost = [esi for esi in range(need) if esi not in block]
            if lost:
                padded = {esi: symbol.ljust(self.fti.symbol, b"\0") for esi, symbol in block.items()}
                block = padded | alc.repaired(padded, lost, self.fti.symbol)
            parts += [block[esi] for esi in range(need)]
        return b"".join(parts)[: self.fti.length]


@dataclass(slots=True)
class _Announced:
    file: fdt.File
    key: str
    version: int
    done: bool = False
    partial: _Partial | None = None


@dataclass(slots=True)
class _Newest:
    """The newest version of an object that was announced: when last, and whether it has been put together."""

    version: int
    md5: bytes
    at: float
    done: bool = False


@dataclass
class Objects:
    """Puts objects together.  ``tsi``: the session.  ``require_check``: take no packet without our checksum; ``None``: as soon as
    one with it was seen.

    ``counts``: what came and what became of it, by name.
    """

    tsi: int
    require_check: bool | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _files: OrderedDict[int, _Announced] = field(default_factory=OrderedDict)
    _newest: OrderedDict[str, _Newest] = field(default_factory=OrderedDict)
    _waiting: deque[alc.Packet] = field(default_factory=lambda: deque(maxlen=MAX_WAITING))
    _descriptions: OrderedDict[tuple[int, alc.Fti], _Partial] = field(default_factory=OrderedDict)
    _known: OrderedDict[bytes, fdt.Fdt] = field(default_factory=OrderedDict)
    _known_files: int = 0
    _held: int = 0

    @property
    def held(self) -> int:
        """Octets of objects that are not whole."""
        return self._held

    def push(self, data: bytes, now: float) -> list[bytes]:
        """One datagram at Unix time ``now``.  The messages of the object that it made whole, in their order."""
        self.counts["datagrams"] += 1
        try:
            packet = alc.parse(data)
        except WireError as error:
            self.counts["corrupted" if error.field == "check" else "foreign"] += 1
            return []
        if packet.tsi != self.tsi or (self.require_check and not packet.checked):
            self.counts["foreign"] += 1
            return []
        if packet.checked and self.require_check is None:
            self.require_check = True
        found: list[bytes] = []
        if packet.toi != alc.FDT_TOI:
            self._take(packet, now, found)
        elif packet.fdt_id is not None and packet.fti is not None:
            self._describe(packet, packet.fdt_id, packet.fti, now, found)
        return found

    # --- descriptions -------------------------------------------------------------------------------------------------

    def _describe(self, packet: alc.Packet, fdt_id: int, fti: alc.Fti, now: float, found: list[bytes]) -> None:
        if not 0 < fti.length <= fdt.MAX_FDT or not _sound(fti):
            self.counts["refused descriptions"] += 1
            return
        key = (fdt_id, fti)
        partial = self._descriptions.get(key)
        if partial is None:
            partial = self._descriptions[key] = _Partial(fti)
            if len(self._descriptions) > MAX_DESCRIPTIONS:
                self._descriptions.popitem(last=False)
        if partial.add(packet):
            del self._descriptions[key]
            self._described(partial.whole(), packet.encoding, now, found)

    def _described(self, data: bytes, encoding: int, now: float, found: list[bytes]) -> None:
        digest = hashlib.sha256(data).digest()
        read = self._known.get(digest)
        if read is None:
            try:
                read = fdt.parse(fdt.plain(data, encoding))
            except WireError:
                self.counts["refused descriptions"] += 1
                return
            self._known[digest] = read
            self._known_files += len(read.files)
            while self._known_files > MAX_ANNOUNCED and len(self._known) > 1:
                self._known_files -= len(self._known.popitem(last=False)[1].files)
        self._known.move_to_end(digest)
        if near(read.expires, now + NTP_UNIX) + LEEWAY < now + NTP_UNIX:
            self.counts["old descriptions"] += 1
            return
        self.counts["descriptions"] += 1
        fresh = [self._announce(file, now) for file in read.files]
        if any(fresh):
            waiting, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
            for packet in waiting:
                self._take(packet, now, found)

    def _announce(self, file: fdt.File, now: float) -> bool:
        """Whether packets of it may be waiting."""
        key, version = _read_location(file.location)
        newest = self._newest.get(key)
        if newest is not None and version < newest.version and now < newest.at + STALE:
            self.counts["old versions"] += 1
            return False
        # Another version of the same content, as after a restart of the carousel, is nothing new.
        same = newest is not None and newest.md5 == file.md5 and (file.md5 != b"" or newest.version == version != 0)
        done = newest is not None and newest.done and same
        self._newest[key] = _Newest(version, file.md5, now, done)
        self._newest.move_to_end(key)
        if len(self._newest) > MAX_ANNOUNCED:
            self._newest.popitem(last=False)
        known = self._files.get(file.toi)
        if known is not None:
            if known.file == file:
                self._files.move_to_end(file.toi)
                if done and not known.done:
                    self._forget(known)
                    known.done = True
                return False
            self._forget(known)  # another sender, or the same after a restart
        if not 0 < file.fti.length <= MAX_OBJECT or not _sound(file.fti):
            self.counts["oversize objects"] += 1
            self._files.pop(file.toi, None)
            return False
        self._files[file.toi] = _Announced(file, key, version, done=done)
        self._files.move_to_end(file.toi)
        if len(self._files) > MAX_ANNOUNCED:
            _, oldest = self._files.popitem(last=False)
            self._forget(oldest)
        return not done

    # --- objects ------------------------------------------------------------------------------------------------------

    def _take(self, packet: alc.Packet, now: float, found: list[bytes]) -> None:
        entry = self._files.get(packet.toi)
        if entry is None:
            self._waiting.append(packet)
            return
        if entry.done:
            return
        fti = entry.file.fti
        if packet.fec != fti.fec:
            self.counts["refused symbols"] += 1
            return
        if entry.partial is None:
            entry.partial = _Partial(fti)
            self._held += entry.partial.octets
        before = entry.partial.octets
        whole = entry.partial.add(packet)
        self._held += entry.partial.octets - before
        if whole:
            self._complete(entry, now, found)
        elif self._held > MAX_HELD:
            self._evict(entry)

    def _complete(self, entry: _Announced, now: float, found: list[bytes]) -> None:
        assert entry.partial is not None
        file = entry.file
        content = entry.partial.whole()
        self._forget(entry)
        if file.md5 and hashlib.md5(content, usedforsecurity=False).digest() != file.md5:
            self.counts["broken objects"] += 1  # and it is collected anew
            return
        entry.done = True
        newest = self._newest.get(entry.key)
        if newest is not None and (newest.version, newest.md5) == (entry.version, file.md5):
            newest.done = True
        try:
            found += bundle.decode(content) if file.content_type != LTKM_TYPE else (content,)
        except WireError:
            self.counts["refused objects"] += 1
            return
        self.counts["objects"] += 1

    def _forget(self, entry: _Announced) -> None:
        if entry.partial is not None:
            self._held -= entry.partial.octets
            entry.partial = None

    def _evict(self, keep: _Announced) -> None:
        """Make room: those described longest ago first."""
        for entry in self._files.values():
            if self._held <= MAX_HELD * 3 // 4:
                break
            if entry is not keep and entry.partial is not None:
                self._forget(entry)
                self.counts["evicted objects"] += 1


def _sound(fti: alc.Fti) -> bool:
    """Whether an object may be cut like that."""
    if not fti.symbol or not fti.block or -(-fti.length // fti.symbol) > MAX_SYMBOLS:
        return False
    return fti.fec == alc.NO_CODE or fti.block <= 255
