# SPDX-License-Identifier: Apache-2.0
"""Targets, several messages in one answer, limits: what both ends write and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.https.limits import Buckets, address_name
from pybcast.interaction import wire
from pybcast.interaction.errors import BadAnswer
from pybcast.interaction.server import http_date
from pybcast.interaction.wire import BadRequest
from pybcast.wire.times import NTP_UNIX

LTKM = wire.LTKM_TYPE


@given(
    st.text(min_size=1, max_size=100), st.integers(1, 65535), st.sampled_from(["drm", "smartcard"]),
    st.none() | st.integers(0, 2**63), st.integers(0, 60_000).map(lambda ms: ms / 1000),
)  # fmt: skip
def test_a_target_says_what_is_asked(service: str, stream: int, profile: str, after: int | None, wait: float) -> None:
    try:
        service.encode()
    except UnicodeEncodeError:
        return
    target = wire.stkm_target(service, stream, profile, after, wait)
    assert target.isascii() and target.count("/") == 4
    assert wire.read_stkm_target(target) == (service, stream, profile, after, wait)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_target_is_read_or_refused(path: str, query: str) -> None:
    for target in (path, f"{wire.STKM}{path}?{query}", f"{wire.STKM}urn/1?profile=drm&{query}"):
        try:
            service, stream, profile, _, wait = wire.read_stkm_target(target)
        except BadRequest as error:
            assert error.status in (400, 404)
        else:
            assert service and 1 <= stream <= 65535 and profile in ("drm", "smartcard") and 0 <= wait <= wire.MAX_WAIT


def test_a_service_that_is_too_long() -> None:
    with pytest.raises(BadRequest):
        wire.read_stkm_target(wire.stkm_target("x" * 4000, 1, "drm"))


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20))
def test_messages_come_out_as_they_went_in(items: list[bytes]) -> None:
    content_type, body = wire.pack(items, LTKM)
    kind, _, rest = content_type.partition("; boundary=")
    assert wire.unpack(kind, rest or None, body, LTKM) == tuple(items)


@given(st.binary(max_size=300), st.integers(0, 300), st.binary(max_size=5))
def test_any_multipart_is_read_or_refused(noise: bytes, at: int, more: bytes) -> None:
    content_type, body = wire.pack([b"one", b"two"], LTKM)
    boundary = content_type.partition("; boundary=")[2]
    for data in (noise, body[:at] + more + body[at:], body[:at], body[at:]):
        try:
            found = wire.unpack(wire.MULTIPART, boundary, data, LTKM)
        except BadAnswer:
            continue
        assert all(found)


@pytest.mark.parametrize(
    ("kind", "boundary", "body"),
    [
        (LTKM, None, b""), ("text/html", None, b"x"), (wire.MULTIPART, None, b"--b\r\n\r\nx\r\n--b--"),
        (wire.MULTIPART, "é", b"x"), (wire.MULTIPART, "b", b"--b--\r\n"), (wire.MULTIPART, "b", b"--b\r\n\r\nx\r\n--b\r\n"),
        (wire.MULTIPART, "b", b"--b\r\nContent-Type: text/html\r\n\r\nx\r\n--b--"),
        (wire.MULTIPART, "b", b"--b\r\nno\r\n\r\nx\r\n--b--"),
        (wire.MULTIPART, "b", b"--b\r\n\r\n\r\n--b--"), (wire.MULTIPART, "b", b"--bc\r\n\r\nx\r\n--b--"),
        (wire.MULTIPART, "b", b"--b\r\n\r\nx\r\n" * 10_001 + b"--b--"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none(kind: str, boundary: str | None, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        wire.unpack(kind, boundary, body, LTKM)


def test_multipart_as_others_write_it() -> None:
    body = b"before\r\n--b \t\r\n\r\none\r\n--b\r\ncontent-type:" + LTKM.encode() + b"\r\nX: y\r\n\r\n\r\n\r\n\r\n--b--\r\nafter"
    assert wire.unpack(wire.MULTIPART, "b", body, LTKM) == (b"one", b"\r\n\r\n")


def test_periods() -> None:
    assert wire.read_period(wire.period_field(5, 9)) == (5, 9)
    for wrong in ("", "5", "5-", "9-5", "5-5", "-5-9", "5-9-10", "x-9", "5-" + "9" * 30):
        with pytest.raises(BadAnswer):
            wire.read_period(wrong)


def test_dates() -> None:
    assert http_date(NTP_UNIX + 784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(1 << 62).endswith("9999 23:59:59 GMT") and http_date(0).startswith("Thu, 01 Jan 1970")


def test_buckets() -> None:
    now = [10.0]
    buckets = Buckets(2.0, 3, lambda: now[0], most=4)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    now[0] += 0.5
    assert buckets.take("a") == 0 and buckets.take("a") == 0.5
    now[0] += 100
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5], "never more than the burst"
    for name in "cdefgh":
        buckets.take(name)
    assert len(buckets) == 4


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"), ("", ""), ("local", "local"),
    ],
)  # fmt: skip
def test_what_counts_as_one_address(host: str, name: str) -> None:
    assert address_name(host) == name
