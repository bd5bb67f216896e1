# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on 32-bit COUNTERs that wrap (rules R4, R5, R15)."""

from __future__ import annotations

from pybcast.codec import WITHDRAWAL
from pybcast.wire.times import ntp64

MOD = 1 << 32


def counter_of(time: float) -> int:
    """The COUNTER of a crypto period that starts at ``time`` (64-bit NTP seconds): R5."""
    return int(time) % MOD


def newer(a: int, b: int) -> bool:
    """Whether COUNTER ``a`` is newer than ``b`` in the sense of RFC 1982 (distance under 2^31)."""
    return 0 < (a - b) % MOD < 1 << 31


def in_window(c: int, low: int, high: int) -> bool:
    """Whether ``c`` lies in [low, high] modulo 2^32; a withdrawal contains nothing (R4)."""
    return (low, high) != WITHDRAWAL and (c - low) % MOD <= (high - low) % MOD


def distance(a: int, b: int) -> int:
    """How far COUNTER ``a`` lies after ``b``: -2^31..2^31-1, negative before it (RFC 1982)."""
    return (a - b + (1 << 31)) % MOD - (1 << 31)


def near(counter: int, now: float) -> int:
    """The 64-bit time nearest to ``now`` whose low 32 bits are ``counter`` (R15)."""
    return ntp64(counter, now)


def later_key(a: bytes, b: bytes) -> bool:
    """Whether key id ``a`` names a later key of a stream than ``b``: key numbers and CID extensions only rise (R2).

    4 bytes: CID extensions, modulo 2^32.  7 bytes: Key Domain ID and SEK ID, whose last two bytes are the key number; 0 is never
    given.  Ids of different Key Domains or key groups have no order: False.
    """
    size, mod = (4, MOD) if len(a) == 4 else (2, 0xFFFF)
    step = (int.from_bytes(a[-size:], "big") - int.from_bytes(b[-size:], "big")) % mod
    return a[:-size] == b[:-size] and 0 < step <= mod // 2
