# SPDX-License-Identifier: Apache-2.0
"""Times on the wire: MJD + BCD (40 bits) and 32-bit NTP seconds, both against 64-bit NTP seconds (rules R15)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from pybcast.errors import BadValue
from pybcast.wire.schema import Converted, Fault, Octets, octets

NTP_UNIX: Final = 2_208_988_800
"""NTP seconds of the Unix epoch."""
MJD_OF_NTP_EPOCH: Final = 15020
"""Modified Julian Date of 1900-01-01, where NTP seconds start."""
LAST_MJD: Final = 0xFFFF
"""16 bits of MJD end with 2038-04-22 (rules R15)."""
_DAY: Final = 86400
_ERA: Final = 1 << 32
_NTP_EPOCH: Final = datetime(1900, 1, 1, tzinfo=UTC)


def _write_mjd_bcd(ntp: object) -> bytes:
    # confidence: likely - MJD 16 bits + 6 BCD digits hhmmss UTC, as EN 300 468 (drm-profile 1.1 row 20)
    if not isinstance(ntp, int):
        raise Fault(BadValue, "NTP seconds, an integer", type(ntp).__name__)
    day, second = divmod(ntp, _DAY)
    if not 0 <= day + MJD_OF_NTP_EPOCH <= LAST_MJD:
        raise Fault(BadValue, "a time from 1858-11-17 to 2038-04-22T23:59:59Z", f"{ntp} NTP seconds")
    clock = f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"
    return (day + MJD_OF_NTP_EPOCH).to_bytes(2, "big") + bytes.fromhex(clock)


def _read_mjd_bcd(data: bytes) -> int:
    digits = data[2:].hex()
    if not digits.isdecimal():
        raise Fault(BadValue, "6 BCD digits hhmmss", digits)
    hour, minute, second = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if hour > 23 or minute > 59 or second > 59:
        raise Fault(BadValue, "a time of day up to 23:59:59", f"{digits[:2]}:{digits[2:4]}:{digits[4:]}")
    return (int.from_bytes(data[:2], "big") - MJD_OF_NTP_EPOCH) * _DAY + hour * 3600 + minute * 60 + second


MJD_BCD: Final = Converted(Octets(5), _read_mjd_bcd, _write_mjd_bcd)
"""The 40-bit time as a shape for tables."""


def encode_mjd_bcd(ntp: int) -> bytes:
    """A time for a 40-bit field: 16 bits of MJD and hhmmss in BCD, UTC.

    ``ntp``: 64-bit NTP seconds.  ``BadValue`` outside 1858-11-17 .. 2038-04-22 (16 bits of MJD).  drm-profile 1.1, rules R15;
    likely.
    """
    try:
        return _write_mjd_bcd(ntp)
    except Fault as fault:
        raise fault.error(None, "time", fault.expected, fault.found) from None


def decode_mjd_bcd(data: bytes) -> int:
    """The 64-bit NTP seconds of a 40-bit time field.

    ``BadValue`` for a digit above 9 or a time of day that does not exist (also a leap second), ``BadLength`` unless 5 bytes.
    """
    try:
        return _read_mjd_bcd(octets(data, 5))
    except Fault as fault:
        raise fault.error(0, "time", fault.expected, fault.found) from None


def ntp64(value32: int, now: float) -> int:
    """The 64-bit NTP time that a 32-bit field means: of all times with these low 32 bits the one nearest to ``now``.

    ``now``: NTP seconds.  0 is a time like any other.  Exactly half an era away: the later one.  rules R15, own.
    """
    if not 0 <= value32 < _ERA:
        raise ValueError(f"not a 32-bit number: {value32}")
    reference = int(now // 1)
    ahead = (value32 - reference) % _ERA
    return max(reference + ahead - (0 if ahead <= _ERA // 2 else _ERA), value32)


def iso(ntp: int) -> str:
    """A time for people."""
    return (_NTP_EPOCH + timedelta(seconds=ntp)).strftime("%Y-%m-%dT%H:%M:%SZ")
