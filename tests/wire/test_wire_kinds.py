# SPDX-License-Identifier: Apache-2.0
"""What kind a MIKEY message is follows from what it carries (rules R16), however broken the rest of it is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.errors import BadLength
from pybcast.messages import Kind
from pybcast.testing import corpus, mutate
from pybcast.wire import decode, mikey_kind

KINDS: Final[tuple[Kind, ...]] = (
    "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting", "smartcard-parental",
)  # fmt: skip
CARD: Final = json.loads((Path(__file__).parents[1] / "vectors" / "card_messages.json").read_text())["vectors"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_message_is_of_its_kind(kind: Kind) -> None:
    for data in corpus(kind, 200, seed=31):
        assert mikey_kind(data) == kind, data.hex()


@pytest.mark.parametrize("v", CARD, ids=lambda v: v["name"])
def test_a_4_byte_mtk_id_makes_a_stkm_and_the_fault_is_its(v: dict[str, str]) -> None:
    data = bytes.fromhex(v["message"])
    kind = mikey_kind(data)
    assert kind == f"smartcard-{v['kind']}"
    if kind == "smartcard-stkm":
        with pytest.raises(BadLength) as caught:
            decode(data, kind)
        assert str(caught.value) == "bad_length: payloads[0].ids[2].length at offset 26: expected 2 (4 with mtk-id-4), found 4"
        assert decode(data, kind, lenient=["mtk-id-4"])


def test_an_mtk_id_of_any_length_makes_a_stkm() -> None:
    head = bytes.fromhex("01001500a1b2c3d40001") + b"\5\3"
    for length in (0, 1, 2, 3, 4, 200):
        ids = bytes.fromhex("000312f410 010400070001 02") + bytes((length,)) + bytes(length)
        assert mikey_kind(head + len(ids).to_bytes(2) + ids) == "smartcard-stkm"
        for cut in range(14, 25):  # without the octet that says so
            assert mikey_kind((head + len(ids).to_bytes(2) + ids)[:cut]) == "smartcard-ltkm"


def test_what_stands_first_does_not_decide() -> None:
    """EXT payloads come in any order, behind a map of crypto sessions and behind other payloads."""
    stkm, parental = bytes.fromhex("0303000800 0201ff 02020001".replace(" ", "")), bytes.fromhex("05050001 04".replace(" ", ""))
    timestamp, rand, identity, policy = b"\x0b\2\0\0\0\1", b"\6\2ab", b"\x0a\0\0\1a", b"\x15\0\0\0\2\0\0"
    for sessions in (b"\0\1", b"\2\0" + bytes(18)):
        before = b"\1\0\5\0abcd" + sessions + timestamp + rand + identity + policy
        assert mikey_kind(before + b"\x15" + stkm[1:]) == "smartcard-stkm"
        assert mikey_kind(before + b"\x15" + stkm[1:] + b"\0" + parental[1:]) == "smartcard-parental"
        assert mikey_kind(before + b"\x15" + parental[1:]) == "smartcard-parental"
        assert mikey_kind(before[:1] + b"\1" + before[2:] + b"\x15" + parental[1:]) == "smartcard-verification"
        assert mikey_kind(before[:1] + b"\1" + before[2:] + b"\0\5\0\1\3") == "smartcard-reporting"


@given(st.binary(max_size=300))
def test_any_bytes_have_a_kind(data: bytes) -> None:
    assert mikey_kind(data) in KINDS
    assert mikey_kind(b"\1\0\x15\0\0\0\0\0\0\1" + data) in KINDS


def test_broken_messages_have_a_kind() -> None:
    rng = random.Random(32)
    for kind in KINDS:
        for data in corpus(kind, 100, seed=33):
            assert mikey_kind(mutate(data, rng)) in KINDS
