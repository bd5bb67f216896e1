# SPDX-License-Identifier: Apache-2.0
"""open undoes seal, and nothing but the sealed bytes opens."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybcast import codec
from pybcast.errors import BadLength, BcastError, CryptoError, Integrity, WireError
from pybcast.messages import ClearSmartcardLtkm, Kind, OpenedSmartcardRegistration, RegistrationMessage, SmartcardVerification
from pybcast.testing import mutate, strategies
from pybcast.testing._sealable import SEALABLE, rsa_key
from pybcast.testing._shapes import RandomChoices

SEALED: Final = tuple(SEALABLE)
PER_KIND: Final = 1500
relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None, max_examples=60)


def content(message: object) -> object:
    """What both sides must agree on: the MAC of kinds that carry theirs in the same dataclass is not content."""
    if isinstance(message, OpenedSmartcardRegistration):
        return replace(message.registration, mac=b"")
    if isinstance(message, SmartcardVerification):
        return replace(message, mac=b"")
    if isinstance(message, RegistrationMessage):
        return replace(message, signature=b"")
    return message


@pytest.mark.parametrize("kind", SEALED)
@given(data=st.data())
@relaxed
def test_open_undoes_seal(kind: Kind, data: st.DataObject) -> None:
    clear, keys, sealed = data.draw(strategies.sealed(kind))
    assert content(codec.open(sealed, keys, kind)) == content(clear)


@pytest.mark.parametrize("kind", SEALED)
def test_damaged_bytes_never_open_to_something_else(kind: Kind) -> None:
    rng = random.Random(f"open/{kind}")
    choices = RandomChoices(rng)
    refused = 0
    for _ in range(30):
        clear, keys = SEALABLE[kind](choices)
        sealed = codec.seal(clear, keys)
        for _ in range(PER_KIND // 30):
            broken = mutate(sealed, rng)
            try:
                opened = codec.open(broken, keys, kind)
            except WireError as error:
                assert error.offset is not None, f"{broken.hex()}: {error}"
                refused += 1
                continue
            except CryptoError:
                refused += 1
                continue
            assert broken == sealed, broken.hex()
            assert content(opened) == content(clear)
    assert refused > PER_KIND // 2


@pytest.mark.parametrize("kind", SEALED)
def test_every_flipped_bit_is_refused(kind: Kind) -> None:
    rng = random.Random(f"bits/{kind}")
    clear, keys = SEALABLE[kind](RandomChoices(rng))
    sealed = codec.seal(clear, keys)
    step = max(1, len(sealed) // 250)
    for position in range(0, len(sealed), step):
        broken = bytearray(sealed)
        broken[position] ^= 1 << rng.randrange(8)
        with pytest.raises((WireError, Integrity, CryptoError)):
            codec.open(bytes(broken), keys, kind)


@pytest.mark.parametrize("kind", SEALED)
def test_keys_of_another_do_not_open(kind: Kind) -> None:
    rng = random.Random(f"keys/{kind}")
    choices = RandomChoices(rng)
    clear, keys = SEALABLE[kind](choices)
    sealed = codec.seal(clear, keys)
    # One pair of RSA keys per process: exchange their roles.
    swapped = replace(keys, rights_issuer_key=rsa_key("device").public_key())
    others = swapped if kind == "drm-registration" else SEALABLE[kind](choices)[1]
    with pytest.raises(BcastError):
        codec.open(sealed, others, kind)


def test_a_message_larger_than_one_card_command() -> None:
    """The limit of rules R20 is the builder's, and configurable; whoever opens takes what the format allows."""
    clear, keys = SEALABLE["smartcard-ltkm"](RandomChoices(random.Random(1)))
    assert isinstance(clear, ClearSmartcardLtkm)
    large = replace(clear, idr=b"a" * 300)
    with pytest.raises(BadLength):
        codec.seal(large, keys)
    sealed = codec.seal(large, keys, max_card_message=1000)
    assert codec.open(sealed, keys, "smartcard-ltkm") == large
    assert codec.open(sealed + b"tail", keys, "smartcard-ltkm", lenient=["trailing-bytes"]) == large
