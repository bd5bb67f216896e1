# SPDX-License-Identifier: Apache-2.0
"""The symbols of one object of a FLUTE session, kept until they are the whole object.

Symbols belong to an object's TOI, not to the description that names it.  So a forged description costs no symbol: whichever
description has the digest of what was put together is the right one, in whatever order they came.

A symbol that differs from the one that is held replaces it.  So a forged symbol does harm only until the right one comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pybcast.broadcast import alc, bundle, reedsolomon

MAX_OBJECT: Final = bundle.MAX_BUNDLE  # octets of one object
MAX_SYMBOLS: Final = 4_096  # of one object: of 32 octets at least where it is as large as it may be
_OVERHEAD: Final = 160  # octets of memory that a symbol takes beside its own, about
_BLOCK: Final = 400  # and a block


def sound(fti: alc.Fti, most: int = MAX_OBJECT) -> bool:
    """Whether an object of at most ``most`` octets may be cut like that."""
    if not (0 < fti.length <= most and fti.symbol and fti.block) or -(-fti.length // fti.symbol) > MAX_SYMBOLS:
        return False
    return fti.fec == alc.NO_CODE or fti.block <= 255


def fits(packet: alc.Packet, fti: alc.Fti) -> bool:
    """Whether a packet can be of an object that is cut like that."""
    if packet.fec != fti.fec or not 0 < len(packet.payload) <= fti.symbol:
        return False
    symbols = -(-fti.length // fti.symbol)
    return packet.sbn < -(-symbols // fti.block) and packet.esi < (fti.block if fti.fec == alc.NO_CODE else 255)


class Symbols:
    """``count``: symbols that are held.  ``octets``: of memory, about."""

    __slots__ = ("_blocks", "count", "octets")

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], dict[int, bytes]] = {}
        self.count = 0
        self.octets = 0

    def add(self, packet: alc.Packet) -> bool:
        """Keep a symbol.  Whether anything has changed."""
        return self._add((packet.fec, packet.sbn), packet.esi, packet.payload)

    def take(self, other: Symbols) -> None:
        """Keep the symbols of another."""
        for where, block in other._blocks.items():
            for esi, payload in block.items():
                self._add(where, esi, payload)

    def _add(self, where: tuple[int, int], esi: int, payload: bytes) -> bool:
        block = self._blocks.get(where)
        if block is None:
            block = self._blocks[where] = {}
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
        if self.count > 2 * MAX_SYMBOLS or self.octets - self.count * _OVERHEAD - len(self._blocks) * _BLOCK > 2 * MAX_OBJECT:
            self.clear()  # more than any object has: most of it is forged, and what is not comes again
        return True

    def clear(self) -> None:
        self._blocks.clear()
        self.count = self.octets = 0

    def content(self, fti: alc.Fti, affordable: Callable[[int], bool] = lambda _: True) -> bytes | None:
        """The object, cut as ``fti`` says; ``None`` when too much is missing.

        ``affordable`` is asked before symbols are repaired, with the work that it takes: missing symbols times those of the block.
        """
        if self.count < -(-fti.length // fti.symbol):
            return None
        needs = alc.blocks(fti.length, fti.symbol, fti.block)
        if any(len(self._blocks.get((fti.fec, sbn), ())) < need for sbn, need in enumerate(needs)):
            return None
        rest = fti.length % fti.symbol or fti.symbol  # octets of the last symbol, which may be sent without its padding
        chosen: list[dict[int, bytes]] = []
        work = 0
        for sbn, need in enumerate(needs):
            last = need - 1 if sbn == len(needs) - 1 else -1
            # Source symbols first: what is repaired from a forged repair symbol is wrong in all of its symbols.
            good = [
                esi for esi, payload in sorted(self._blocks[fti.fec, sbn].items())
                if len(payload) == fti.symbol or (esi == last and rest <= len(payload) < fti.symbol)
            ]  # fmt: skip
            if len(good) < need or (fti.fec == alc.NO_CODE and good[need - 1] != need - 1):
                return None
            chosen.append({esi: self._blocks[fti.fec, sbn][esi] for esi in good[:need]})
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
