# SPDX-License-Identifier: Apache-2.0
"""Secrets do not leak by accident."""

from __future__ import annotations

import copy
import pickle

import pytest

from pybcast.errors import KeyUnavailable
from pybcast.secret import Secret

BYTES = bytes.fromhex("00112233445566778899aabbccddeeff")


def test_no_printed_form_shows_the_bytes() -> None:
    secret = Secret(BYTES)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", repr([secret]), repr({"key": secret})):
        assert BYTES.hex() not in text and repr(BYTES) not in text and "16 bytes" in text


def test_no_pickle_and_no_hash() -> None:
    with pytest.raises(TypeError, match="export it wrapped"):
        pickle.dumps(Secret(BYTES))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(BYTES))


def test_copies_are_the_same_object_so_that_a_wipe_reaches_them() -> None:
    secret = Secret(BYTES)
    assert copy.copy(secret) is secret is copy.deepcopy([secret])[0]


def test_from_hex_says_nothing_of_the_content() -> None:
    assert Secret.from_hex(BYTES.hex()) == Secret(BYTES)
    for bad in ("0", "zz", BYTES.hex()[:-1] + "x"):
        with pytest.raises(ValueError, match=r"^Secret: not hexadecimal$"):
            Secret.from_hex(bad)
    with pytest.raises(ValueError, match=r"^Secret: not hexadecimal$"):
        Secret.from_hex(None)  # type: ignore[arg-type]  # what a careless JSON reader passes


def test_equal_only_to_secrets() -> None:
    assert Secret(BYTES) == Secret(bytearray(BYTES)) == Secret(memoryview(BYTES)) == Secret(Secret(BYTES))
    assert Secret(BYTES) != Secret(BYTES[::-1])
    assert Secret(BYTES) != BYTES


def test_wipe_is_for_good() -> None:
    secret = Secret(BYTES)
    other = Secret(secret)
    secret.wipe()
    assert secret.wiped and len(secret) == 16 and "wiped" in repr(secret)
    with pytest.raises(KeyUnavailable):
        secret.reveal()
    with pytest.raises(KeyUnavailable):
        assert secret == other
    assert other.reveal() == BYTES, "a key made from another has its own memory"
