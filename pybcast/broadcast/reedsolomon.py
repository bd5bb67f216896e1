# SPDX-License-Identifier: Apache-2.0
"""Reed-Solomon code over GF(2^8), as FLUTE uses it (RFC 5510): repair symbols are made, and lost symbols found again.

The symbols of a block are the values of a polynomial at known points: octet by octet, each by itself.  Any symbols, as many as the
block has source symbols, say which polynomial it is (Lagrange).  So making a repair symbol and finding a lost one is the same work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

MAX_SYMBOLS: Final = 255
"""Of a block, with repair."""


def _tables() -> tuple[list[int], list[int]]:
    exp, log, x = [0] * 510, [0] * 256, 1
    for i in range(255):
        exp[i] = exp[i + 255] = x
        log[x] = i
        x = x << 1 ^ (0x11D if x & 0x80 else 0)  # RFC 5510 8.1
    return exp, log


_EXP, _LOG = _tables()
_POINTS: Final = (0, *_EXP[:255])
"""Where the polynomial of a block is evaluated.  The words of RFC 5510 8.2 begin with alpha^0; the codec that it names as its
reference begins with 0, and so do flute-alc 1.11.7 and zfec 1.6, whose symbols are among our vectors.
confidence: likely - the points of the Reed-Solomon code of FLUTE: 0, then the powers of alpha
"""


def _multiply(a: int, b: int) -> int:
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def _inverse(a: int) -> int:
    return _EXP[255 - _LOG[a]]


_TIMES: Final = tuple(bytes(_multiply(factor, x) for x in range(256)) for factor in range(256))
"""Tables of products with a factor, for ``bytes.translate``."""


def _factors(held: Sequence[int], wanted: Iterable[int]) -> list[list[int]]:
    """For each symbol that is wanted, by what those that are held are multiplied before they are added."""
    points = [_POINTS[esi] for esi in held]
    weights = []
    for i, x in enumerate(points):
        product = 1
        for j, y in enumerate(points):
            if i != j:
                product = _multiply(product, x ^ y)
        weights.append(_inverse(product))
    found = []
    for esi in wanted:
        at = _POINTS[esi]
        product = 1
        for x in points:
            product = _multiply(product, at ^ x)
        found.append([_multiply(_multiply(product, _inverse(at ^ x)), weight) for x, weight in zip(points, weights, strict=True)])
    return found


def _sum(symbols: Iterable[bytes], factors: Iterable[int], size: int) -> bytes:
    total = 0
    for symbol, factor in zip(symbols, factors, strict=True):
        total ^= int.from_bytes(symbol.translate(_TIMES[factor]))
    return total.to_bytes(size)


@lru_cache(maxsize=64)
def _encoding(source: int, count: int) -> list[list[int]]:
    return _factors(range(source), range(source, source + count))


def repair(source: Sequence[bytes], count: int) -> list[bytes]:
    """Repair symbols of a block: so many, for its source symbols, which are all of one size."""
    return [_sum(source, factors, len(source[0])) for factors in _encoding(len(source), count)]


def repaired(symbols: Mapping[int, bytes], wanted: Sequence[int], size: int) -> dict[int, bytes]:
    """Symbols of a block of ``len(symbols)`` source symbols, from as many that are there; each of ``size`` octets."""
    rows = _factors(tuple(symbols), wanted)
    return {esi: _sum(symbols.values(), factors, size) for esi, factors in zip(wanted, rows, strict=True)}
