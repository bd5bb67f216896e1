# SPDX-License-Identifier: Apache-2.0
"""The symbols of one object of a FLUTE session, kept until they are the whole object.

Symbols belong to an object's TOI, not to the description that names it.  So a forged description costs no symbol: whichever
description has the digest of what was put together is the right one, in whatever order they came.

A symbol that differs from the one that is held replaces it.  So a forged symbol does harm only until the right one comes again.

A packet may have several symbols, and how many depends on what is believed about their size.  So its payload is kept whole, and
once more in pieces for each size that makes it several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from pybcast.broadcast import alc, bundle, reedsolomon

MAX_OBJECT: Final = bundle.MAX_BUNDLE  # octets of one object
MAX_SYMBOLS: Final = 4_096  # of one object: of 32 octets at least where it is as large as it may be
MAX_TOGETHER: Final = 64  # symbols of a packet: of 32 octets at least in the largest packet
MAX_CUTS: Final = 4  # ways of cutting an object that its packets may say: the right one, and forged ones
MAX_SIZES: Final = 8  # of symbols, for which there are pieces: more than packets and descriptions of one object say at once
_OVERHEAD: Final = 160  # octets of memory that a symbol takes beside its own, about
_BLOCK: Final = 400  # and a block
_CUT: Final = 200  # and what a packet says about the cutting

_Block = dict[int, bytes]
"""Payloads by their ESI."""


def sound(fti: alc.Fti, most: int = MAX_OBJECT) -> bool:
    """Whether an object of at most ``most`` octets may be cut like that."""
    if not (0 < fti.length <= most and fti.symbol and fti.block) or -(-fti.length // fti.symbol) > MAX_SYMBOLS:
        return False
    return fti.fec == alc.NO_CODE or fti.block <= reedsolomon.MAX_SYMBOLS


def fits(packet: alc.Packet, fti: alc.Fti) -> bool:
    """Whether a packet can be of an object that is cut like that."""
    together = -(-len(packet.payload) // fti.symbol)
    if packet.fec != fti.fec or not 0 < together <= MAX_TOGETHER:
        return False
    symbols = -(-fti.length // fti.symbol)
    blocks = -(-symbols // fti.block)
    most = fti.block if fti.fec == alc.NO_CODE else reedsolomon.MAX_SYMBOLS
    if together > 1 and len(packet.payload) % fti.symbol:  # the last of several is short: that of the object
        return packet.sbn == blocks - 1 and packet.esi + together == symbols // blocks
    return packet.sbn < blocks and packet.esi + together <= most


class _Held:
    """Payloads by block and ESI, of one size of symbols.  Where there are more than any object has, most are forged: then all of
    them go, and what is not forged comes again.
    """

    __slots__ = ("blocks", "count", "octets")

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int], _Block] = {}
        self.count = 0
        self.octets = 0

    def add(self, where: tuple[int, int], esi: int, payload: bytes) -> bool:
        block = self.blocks.get(where)
        if block is None:
            block = self.blocks[where] = {}
            self.octets += _BLOCK
        held = block.get(esi)
        if held == payload:
            return False
        block[esi] = payload
        if held is None:
            self.count += 1
            self.octets += len(payload) + _OVERHEAD
        else:
            self.octets += len(payload) - len(held)
        if self.count > 2 * MAX_SYMBOLS or self.octets - self.count * _OVERHEAD - len(self.blocks) * _BLOCK > 2 * MAX_OBJECT:
            self.blocks.clear()
            self.count = self.octets = 0
        return True

    def remove(self, where: tuple[int, int], esi: int) -> bool:
        held = self.blocks.get(where, {}).pop(esi, None)
        if held is None:
            return False
        self.count -= 1
        self.octets -= len(held) + _OVERHEAD
        return True


class Symbols:
    """``cuts``: how the object was cut, as its packets say, the latest at the end.  ``count``: payloads and pieces that are held.
    ``octets``: of memory, about.
    """

    __slots__ = ("_pieces", "_whole", "cuts")

    def __init__(self) -> None:
        self._whole = _Held()
        self._pieces: dict[int, _Held] = {}  # by the size of a symbol
        self.cuts: list[alc.Fti] = []

    @property
    def count(self) -> int:
        return self._whole.count + sum(held.count for held in self._pieces.values())

    @property
    def octets(self) -> int:
        return self._whole.octets + sum(held.octets for held in self._pieces.values()) + _CUT * len(self.cuts)

    def add(self, packet: alc.Packet, sizes: Iterable[int] = ()) -> bool:
        """Keep what a packet has, whose symbols may be of these sizes.  Whether anything has changed."""
        if packet.fti is not None:
            self.learn(packet.fti)
        return self._add((packet.fec, packet.sbn), packet.esi, packet.payload, frozenset(sizes))

    def learn(self, cut: alc.Fti) -> bool:
        """Keep how the object was cut.  Whether that is new."""
        if not sound(cut):
            return False
        known = cut in self.cuts
        if known:
            self.cuts.remove(cut)
        self.cuts.append(cut)
        del self.cuts[:-MAX_CUTS]
        return not known

    def take(self, other: Symbols, sizes: Iterable[int]) -> None:
        """Keep the symbols of another, and what it knows."""
        for cut in other.cuts:
            self.learn(cut)
        of = frozenset(sizes)
        for where, block in other._whole.blocks.items():
            for esi, payload in block.items():
                self._add(where, esi, payload, of)

    def _add(self, where: tuple[int, int], esi: int, payload: bytes, sizes: frozenset[int]) -> bool:
        several = {size for size in sizes if size < len(payload) <= MAX_TOGETHER * size}
        changed = False
        if not sizes or several != sizes:  # of some size it is one symbol
            changed = self._whole.add(where, esi, payload)
            for size, pieces in self._pieces.items():  # of another packet: this one is later
                changed |= size not in several and pieces.remove(where, esi)
        for size in several:
            if size not in self._pieces:
                if len(self._pieces) >= MAX_SIZES:
                    del self._pieces[next((old for old in self._pieces if old not in several), size)]
                self._pieces[size] = _Held()
            for n, at in enumerate(range(0, len(payload), size)):
                changed |= self._pieces[size].add(where, esi + n, payload[at : at + size])
        return changed

    def clear(self) -> None:
        """Give up the symbols; what is known about the cutting stays."""
        self._whole = _Held()
        self._pieces.clear()

    def content(self, fti: alc.Fti, affordable: Callable[[int], bool] = lambda _: True) -> bytes | None:
        """The object, cut as ``fti`` says; ``None`` when too much is missing.

        ``affordable`` is asked before symbols are repaired, with the work that it takes: missing symbols times those of the block.
        """
        pieces = self._pieces.get(fti.symbol)
        if self._whole.count + (pieces.count if pieces is not None else 0) < -(-fti.length // fti.symbol):
            return None
        needs = alc.blocks(fti.length, fti.symbol, fti.block)
        blocks = [self._block((fti.fec, sbn), pieces) for sbn in range(len(needs))]
        if any(len(block) < need for need, block in zip(needs, blocks, strict=True)):
            return None
        rest = fti.length % fti.symbol or fti.symbol  # octets of the last symbol, which may be sent without its padding
        chosen: list[_Block] = []
        work = 0
        for sbn, (need, block) in enumerate(zip(needs, blocks, strict=True)):
            last = need - 1 if sbn == len(needs) - 1 else -1
            # Source symbols first: what is repaired from a forged repair symbol is wrong in all of its symbols.
            good = [
                esi for esi, payload in sorted(block.items())
                if len(payload) == fti.symbol or (esi == last and rest <= len(payload) < fti.symbol)
            ]  # fmt: skip
            if len(good) < need or (fti.fec == alc.NO_CODE and good[need - 1] != need - 1):
                return None
            chosen.append({esi: block[esi] for esi in good[:need]})
            work += need * sum(esi >= need for esi in good[:need])
        if work and not affordable(work):
            return None
        parts: list[bytes] = []
        for need, block in zip(needs, chosen, strict=True):
            lost = [esi for esi in range(need) if esi not in block]
            if lost:
                padded = {esi: payload.ljust(fti.symbol, b"\0") for esi, payload in block.items()}
                block = padded | reedsolomon.repaired(padded, lost, fti.symbol)
            parts += [block[esi] for esi in range(need)]
        return b"".join(parts)[: fti.length]

    def _block(self, where: tuple[int, int], pieces: _Held | None) -> _Block:
        """Its payloads, and instead of them pieces of the size that is asked for."""
        whole = self._whole.blocks.get(where, {})
        return whole if pieces is None or where not in pieces.blocks else whole | pieces.blocks[where]
