# SPDX-License-Identifier: Apache-2.0
"""The sending side of the FLUTE carousel: messages become the datagrams that carry them, encoded by flute-alc.

Each object of the BSD/A becomes segments that stand alone: up to eight bundles and a file description of these, which fits into
one datagram.  So a change costs the encoding of what has changed, whatever else turns; and what a terminal must have heard before
it understands a symbol is short and often sent.  One ``Sender`` lives as long as the process: TOIs and FDT ids rise.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pybcast.broadcast import alc, bundle
from pybcast.broadcast.objects import location
from pybcast.errors import ConfigError

SYMBOL: Final = 1_392  # octets: with all headers below 1,500, also of IPv6
BLOCK: Final = 64  # source symbols at most of a block: a bundle has 24, the largest 71 in two
REPAIR: Final = 20.0  # percent of repair symbols: five of 24 may be lost, or any after three cycles - confidence: own
BUNDLES: Final = 8  # of one segment: their description, compressed, is about 700 octets
EVERY: Final = 20  # datagrams after which the description is sent again
LIFETIME: Final = 86_400.0  # seconds a description may be used; the carousel makes it anew after half of them - confidence: own
_GZIP: Final = 3
_LOGGERS: Final = ("flute.common.fdtinstance_l6",)  # says of each object that it leaves out what L.6 does not have


class Encoder:
    """Makes segments.  ``start``: the first FDT id, another one at every start.  ``ConfigError`` without flute-alc."""

    def __init__(self, tsi: int, start: int = 1) -> None:
        try:
            from flute import sender
        except ModuleNotFoundError:
            raise ConfigError("the FLUTE carousel needs flute-alc: pip install 'pybcast[air]'") from None
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        config = sender.Config()
        config.fdt_duration_ms = int(LIFETIME * 1000)
        config.fdt_start_id = start & 0xFFFFF
        config.fdt_cenc = _GZIP
        config.fdt_inband_sct = False  # the time would be that of the encoding
        config.fdt_xml_profile = "ts-126-346-l6"  # the other says of each description that it is of the whole session
        config.interleave_blocks = 1
        config.multiplex_files = BUNDLES  # neighbours are of different objects: a burst of losses is shared
        oti = sender.Oti.new_reed_solomon_rs28(SYMBOL, BLOCK, BLOCK)
        oti.parity_symbols_percentage = REPAIR
        oti.inband_fti = False
        self._sender = sender.Sender(tsi, oti, config)

    def encode(self, name: str, version: int, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """The datagrams of one turn of an object, in their order."""
        made: list[bytes] = []
        numbered = enumerate(bundle.bundles(messages))
        while group := list(itertools.islice(numbered, BUNDLES)):
            made += self._segment(name, version, group)
        return tuple(made)

    def _segment(self, name: str, version: int, group: Sequence[tuple[int, bytes]]) -> Iterator[bytes]:
        for number, data in group:
            self._sender.add_object_from_buffer(data, bundle.CONTENT_TYPE, location(name, number, version), None)
        self._sender.publish()
        described: list[bytes] = []
        symbols: list[bytes] = []
        while (packet := self._sender.read()) is not None:
            checked = alc.with_check(bytes(packet))
            (described if alc.parse(checked).toi == alc.FDT_TOI else symbols).append(checked)
        yield from _mixed(described, symbols)


def _mixed(described: Sequence[bytes], symbols: Sequence[bytes]) -> Iterator[bytes]:
    """The description first, in between, and last.  One that needs several datagrams is sent whole each time."""
    first = alc.parse(described[0]).fti
    assert first is not None
    whole = len(alc.blocks(first.length, first.symbol, first.block)) == 1 and first.length <= first.symbol
    turns = itertools.cycle([(packet,) for packet in described] if whole else [tuple(described)])
    for at in range(0, len(symbols), EVERY):
        yield from next(turns)
        yield from symbols[at : at + EVERY]
    yield from next(turns)
