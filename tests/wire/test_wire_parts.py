# SPDX-License-Identifier: Apache-2.0
"""Times and content identifiers."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybcast.errors import BadLength, BadValue
from pybcast.wire.content_id import BCI, programme_CID, same_cid, service_CID
from pybcast.wire.times import decode_mjd_bcd, encode_mjd_bcd, iso, ntp64

FIRST = -15020 * 86400
LAST = (65536 - 15020) * 86400 - 1


def test_published_times() -> None:
    assert encode_mjd_bcd(3413018730).hex() == "d4fa124530"  # 2008-02-26T12:45:30Z, drm-profile 8.2
    assert iso(decode_mjd_bcd(bytes.fromhex("c079124500"))) == "1993-10-13T12:45:00Z"  # EN 300 468
    assert iso(LAST) == "2038-04-22T23:59:59Z"
    assert encode_mjd_bcd(LAST).hex() == "ffff235959"
    assert encode_mjd_bcd(FIRST) == bytes(5)


@given(st.integers(FIRST, LAST))
@example(LAST)
def test_times_there_and_back(ntp: int) -> None:
    assert decode_mjd_bcd(encode_mjd_bcd(ntp)) == ntp


@given(st.binary(min_size=5, max_size=5))
def test_every_40_bits(data: bytes) -> None:
    try:
        ntp = decode_mjd_bcd(data)
    except BadValue as error:
        assert (error.offset, error.field) == (0, "time")
    else:
        assert encode_mjd_bcd(ntp) == data


@pytest.mark.parametrize("ntp", [FIRST - 1, LAST + 1, 1 << 63])
def test_times_that_do_not_fit(ntp: int) -> None:
    with pytest.raises(BadValue):
        encode_mjd_bcd(ntp)


@pytest.mark.parametrize("data", [b"", bytes(4), bytes(6)])
def test_times_have_5_bytes(data: bytes) -> None:
    with pytest.raises(BadLength):
        decode_mjd_bcd(data)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1))
def test_ntp64_is_the_nearest(now: int, value: int) -> None:
    meant = ntp64(value, now)
    assert meant % (1 << 32) == value
    assert meant >= 0
    assert abs(meant - now) <= 1 << 31 or meant == value


def test_ntp64_over_the_2036_wrap() -> None:
    era = 1 << 32
    assert ntp64(0, era - 5) == era
    assert ntp64(0xFFFFFFFF, era + 5) == era - 1
    assert ntp64(3413018730, 3413018729.75) == 3413018730
    assert ntp64(1 << 31, 0) == 1 << 31
    for value in (-1, era):
        with pytest.raises(ValueError, match="not a 32-bit number"):
            ntp64(value, 0)


def test_content_ids() -> None:
    assert service_CID("example-soc", "service-1", 1) == "cid:example-soc#Sservice-1@00000001"
    assert programme_CID("example-soc", "service-1", 0xABCDEF01) == "cid:example-soc#Pservice-1@ABCDEF01"
    assert BCI("example-soc", "service-1", 1).hex() == "45936457dad5c39ce9d0cfe400000001"
    assert same_cid("cid:a#Sb@ABCDEF01", "cid:a#Sb@abcdef01")
    assert not same_cid("cid:a#Sb@ABCDEF01", "cid:a#Pb@abcdef01")
    with pytest.raises(BadValue, match="socID"):
        BCI("a#b", "c", 1)
    for extension in (-1, 1 << 32):
        with pytest.raises(BadValue, match="extension"):
            service_CID("a", "b", extension)
