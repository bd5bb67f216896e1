# SPDX-License-Identifier: Apache-2.0
"""The sending side of the FLUTE carousel: messages become the datagrams that carry them.

Each object of the BSD/A becomes segments that stand alone: up to eight bundles and a file description of these, which fits into
one datagram.  So a change costs the encoding of what has changed, whatever else turns; and what a terminal must have heard before
it understands a symbol is short and often sent.  One ``Encoder`` lives as long as the process: TOIs and FDT ids rise.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from pybcast.broadcast import alc, bundle, fdt, reedsolomon
from pybcast.broadcast.objects import location
from pybcast.wire.times import NTP_UNIX

SYMBOL: Final = 1_392  # octets: with all headers below 1,500, also of IPv6
BLOCK: Final = 64  # source symbols at most of a block: a bundle has 24, the largest 71 in two
REPAIR: Final = 5  # source symbols for each repair symbol: five of 24 may be lost, or any after three cycles - confidence: own
BUNDLES: Final = 8  # of one segment: their description, compressed, is about 700 octets
EVERY: Final = 20  # datagrams after which the description is sent again
LIFETIME: Final = 86_400.0  # seconds a description may be used; the carousel makes it anew after half of them - confidence: own
_CUT: Final = alc.Fti(alc.REED_SOLOMON, 0, SYMBOL, BLOCK, BLOCK + -(-BLOCK // REPAIR))
_OBJECTS: Final = 1 << 12  # TOIs between those of two runs that start a second apart


class Encoder:
    """Makes segments.  ``start``: another number at every start, from which FDT ids and TOIs follow: a terminal that hears two runs
    of this process does not mix them up.
    """

    def __init__(self, tsi: int, start: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._tsi, self._clock = tsi, clock
        self._fdt_id = start & 0xFFFFF
        self._toi = start * _OBJECTS & 0xFFFFFFFF

    def encode(self, name: str, version: int, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """The datagrams of one turn of an object, in their order."""
        made: list[bytes] = []
        numbered = enumerate(bundle.bundles(messages))
        while group := list(itertools.islice(numbered, BUNDLES)):
            made += self._segment(name, version, group)
        return tuple(made)

    def _segment(self, name: str, version: int, group: Sequence[tuple[int, bytes]]) -> Iterator[bytes]:
        files, packets = [], []
        for number, data in group:
            self._toi = self._toi + 1 & 0xFFFFFFFF or 1
            md5 = hashlib.md5(data, usedforsecurity=False).digest()
            files.append((fdt.File(self._toi, location(name, number, version), bundle.CONTENT_TYPE, None, md5), len(data)))
            packets.append(self._symbols(self._toi, data))
        self._fdt_id = self._fdt_id + 1 & 0xFFFFF
        described = list(self._description(files))
        # One symbol of each object in turn: a burst of losses is shared.
        symbols = [packet for row in itertools.zip_longest(*packets) for packet in row if packet is not None]
        for at in range(0, len(symbols), EVERY):  # the description first, in between, and last
            yield from described
            yield from symbols[at : at + EVERY]
        yield from described

    def _description(self, files: Iterable[tuple[fdt.File, int]]) -> Iterator[bytes]:
        data = gzip.compress(fdt.write(int(self._clock() + LIFETIME) + NTP_UNIX, _CUT, files), mtime=0)
        cut = alc.Fti(alc.NO_CODE, len(data), SYMBOL, BLOCK, BLOCK)
        for esi, at in enumerate(range(0, len(data), SYMBOL)):  # one packet, mostly
            payload = data[at : at + SYMBOL]
            yield alc.made(self._tsi, alc.FDT_TOI, cut.fec, 0, esi, payload, fdt_id=self._fdt_id, encoding=fdt.GZIP, fti=cut)

    def _symbols(self, toi: int, data: bytes) -> Iterator[bytes]:
        at = 0
        for sbn, count in enumerate(alc.blocks(len(data), SYMBOL, BLOCK)):
            source = [data[at + i * SYMBOL : at + (i + 1) * SYMBOL].ljust(SYMBOL, b"\0") for i in range(count)]
            at += count * SYMBOL
            for esi, payload in enumerate(source + reedsolomon.repair(source, -(-count // REPAIR))):
                yield alc.made(self._tsi, toi, alc.REED_SOLOMON, sbn, esi, payload)
