# SPDX-License-Identifier: Apache-2.0
"""decode and encode undo each other, for every kind and every choice of fields; so do to_dict and from_dict."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybcast import codec
from pybcast.messages import KINDS, Kind
from pybcast.testing import corpus, strategies
from pybcast.testing.corpus import messages, to_bytes
from pybcast.wire import decode, explain

relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@relaxed
def test_wire(kind: Kind, data: st.DataObject) -> None:
    message = data.draw(strategies.messages(kind))
    encoded = to_bytes(message)
    assert message.kind == kind
    assert decode(encoded, kind) == message
    assert to_bytes(decode(encoded, kind)) == encoded


@pytest.mark.parametrize("kind", KINDS)
def test_wire_in_bulk(kind: Kind) -> None:
    for message in messages(kind, 500, seed=3):
        assert decode(to_bytes(message), kind) == message


@pytest.mark.parametrize("kind", KINDS)
def test_explain_covers_every_byte(kind: Kind) -> None:
    for encoded in corpus(kind, 200, seed=4):
        explanation = explain(encoded, kind)
        assert explanation.error is None
        covered = 0
        for row in explanation.rows:
            assert row.field
            # Bit fields share their bytes; otherwise rows follow one another without a gap.
            assert row.offset <= covered <= max(covered, row.offset + row.length)
            covered = max(covered, row.offset + row.length)
        assert covered == len(encoded)


@pytest.mark.parametrize("kind", ["drm-stkm", "smartcard-stkm"])
@given(data=st.data())
@relaxed
def test_partial(kind: Kind, data: st.DataObject) -> None:
    message = data.draw(strategies.partial_messages(kind))
    encoded = to_bytes(message)
    assert decode(encoded, kind, partial=True) == message
    assert to_bytes(decode(encoded, kind, partial=True)) == encoded


@given(strategies.cmmb_stkms())
@relaxed
def test_four_byte_tek_id(message: object) -> None:
    encoded = to_bytes(message)  # type: ignore[arg-type]  # the strategy is of a subtype
    assert decode(encoded, "smartcard-stkm", lenient=["mtk-id-4"]) == message


@given(strategies.short_interval_ltkms())
@relaxed
def test_short_interval(message: object) -> None:
    encoded = to_bytes(message)  # type: ignore[arg-type]
    assert decode(encoded, "smartcard-ltkm", lenient=["interval-2"]) == message


@given(strategies.rsa_1024_registrations())
@relaxed
def test_rsa_1024(message: object) -> None:
    encoded = to_bytes(message)  # type: ignore[arg-type]
    assert decode(encoded, "drm-registration", lenient=["rsa-1024"]) == message


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@relaxed
def test_json(kind: Kind, data: st.DataObject) -> None:
    message = data.draw(strategies.messages(kind))
    plain = codec.to_dict(message)
    assert codec.from_dict(json.loads(json.dumps(plain))) == message
