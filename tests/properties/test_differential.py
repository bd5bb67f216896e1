# SPDX-License-Identifier: Apache-2.0
"""Two codecs, one layout: the C core and the reference give the same fields, or the same error at the same offset.

On valid messages and on damaged ones, of a seeded generator: the same cases on every machine.  For each form of message 20,000
where ``CI`` is set, else 2,000, or ``PYBCAST_CASES``; with ``PYBCAST_LONG=1`` two million in all (with keys, a quarter).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

import pytest
from native_support import bare_core, core_decode, outcome, verdict

from pybcast import codec
from pybcast.codec import reference
from pybcast.errors import WireError
from pybcast.keys import Keys, derive_pak, derive_sak
from pybcast.keys.cipher import aes_ctr, hmac_sha1
from pybcast.keys.mikey import iv, psk_keys
from pybcast.messages import ClearDrmStkm, Kind, Leniency, Message, PartialDrmStkm, PartialSmartcardStkm
from pybcast.secret import Secret
from pybcast.testing import _shapes, corpus, mutate
from pybcast.testing._sealable import SEALABLE
from pybcast.testing._shapes import RandomChoices
from pybcast.testing.corpus import to_bytes
from pybcast.wire import decode, encode

FORMS: Final[tuple[tuple[Kind, bool], ...]] = (
    ("drm-stkm", False), ("drm-stkm", True), ("smartcard-stkm", False), ("smartcard-stkm", True), ("smartcard-ltkm", False),
    ("smartcard-verification", False), ("smartcard-reporting", False),
)  # fmt: skip
SEALED: Final[tuple[Kind, ...]] = (
    "drm-stkm", "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting",
)  # fmt: skip
LENIENT: Final[tuple[Leniency, ...]] = ("mtk-id-4", "interval-2", "trailing-bytes")
SHARDS: Final = 4
IN_CI: Final = os.environ.get("CI", "").lower() == "true"
EACH: Final = int(os.environ.get("PYBCAST_CASES") or (20_000 if IN_CI else 2_000))
"""Inputs for each form of message."""
CASES: Final = (2_000_000 // len(FORMS) if os.environ.get("PYBCAST_LONG") == "1" else EACH) // SHARDS + 1
KEYED: Final = CASES // 4 if os.environ.get("PYBCAST_LONG") == "1" else CASES


def sources(kind: Kind, partial: bool, seed: int) -> list[bytes]:
    if not partial:
        found = list(corpus(kind, 80, seed=seed))
    else:
        choices = RandomChoices(random.Random(f"{kind}/partial/{seed}"))
        make: Callable[[Any], Message] = _shapes.partial_drm_stkm if kind == "drm-stkm" else _shapes.partial_smartcard_stkm
        found = [to_bytes(make(choices)) for _ in range(80)]
    long = [data for data in found if len(data) > 2000]
    return [data for data in found if len(data) <= 2000] + long[:1]


def shared(kind: Kind, theirs: Message, ours: Any) -> dict[str, tuple[object, object]]:
    """The fields that the core and the reference both show, where they differ."""

    def of(message: object, name: str) -> object:
        value = getattr(message, name)
        return value.reveal() if isinstance(value, Secret) else value

    hidden = {"tek", "salt", "sek", "ts_low", "ts_high", "key_data_type", "interval_length"} if kind != "drm-stkm" else set()
    names = {f.name for f in fields(ours)} & {f.name for f in fields(theirs)}
    if kind == "smartcard-stkm" and "tek" in names:  # a partial one shows its key
        hidden = set()
    pairs = {name: (of(ours, name), of(theirs, name)) for name in names - hidden - {"layout"}}
    if isinstance(ours, ClearDrmStkm) and "encrypted_traffic_key_material" in {f.name for f in fields(theirs)}:
        for name in ("traffic_key_material", "next_traffic_key_material"):
            wire_name = name.replace("traffic", "encrypted_traffic")
            pairs[name] = of(ours, name), of(theirs, wire_name)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def compare(data: bytes, kind: Kind, partial: bool, lenient: tuple[Leniency, ...]) -> bool:
    """One input; true when both took it."""
    (said, *where), structure = core_decode(data, kind, partial=partial, lenient=lenient)
    about = f"{kind} partial={partial} lenient={lenient} {data.hex()}"
    try:
        message = decode(data, kind, partial=partial, lenient=lenient)
    except WireError as error:
        assert (said, *where) == verdict(error), about
        return False
    assert said == "ok", f"{about}: {said, *where}"
    assert shared(kind, message, where[0]) == {}, about
    if kind != "drm-stkm":
        assert bool(structure.canonical) == (getattr(message, "layout", None) is None), about
    if kind in ("drm-stkm", "smartcard-stkm"):
        assert codec.decode(data, kind, partial=partial, lenient=lenient) == message, about
        if isinstance(message, PartialDrmStkm | PartialSmartcardStkm):
            assert outcome(lambda: codec.encode(message)) == outcome(lambda: encode(message)), about
    return True


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize(("kind", "partial"), FORMS, ids=lambda value: {True: "partial", False: "whole"}.get(value, value))
def test_decoding(kind: Kind, partial: bool, shard: int) -> None:
    rng = random.Random(f"differential/{kind}/{partial}/{shard}")
    seeds = sources(kind, partial, shard)
    accepted = 0
    for data in seeds:
        assert compare(data, kind, partial, LENIENT), data.hex()
    for _ in range(CASES):
        lenient = tuple(name for name in LENIENT if rng.random() < 0.2)
        asked = partial if rng.random() < 0.95 or kind not in ("drm-stkm", "smartcard-stkm") else not partial
        accepted += compare(mutate(rng.choice(seeds), rng, rng.choice(seeds)), kind, asked, lenient)
    assert 0 < accepted < CASES  # both sides of the fence


# --- with keys --------------------------------------------------------------------------------------------------------


def authenticated(data: bytes, kind: Kind, keys: Keys) -> bytes:
    """Damaged bytes with right MACs again, where it can be told where they are: so that what lies behind the MAC is reached."""
    out = bytearray(data)
    if kind == "drm-stkm":
        if len(out) > 2 and out[1] & 2 and keys.pas is not None:
            end = len(out) - (16 if out[1] & 1 else 0)
            if end >= 12:
                out[end - 12 : end] = hmac_sha1(derive_pak(keys.pas), bytes(out[: end - 12]))[:12]
        if len(out) > 12 and out[1] & 1 and keys.sas is not None:
            out[-12:] = hmac_sha1(derive_sak(keys.sas), bytes(out[:-12]))[:12]
        return bytes(out)
    if len(out) < 40:
        return data
    if kind == "smartcard-stkm":
        assert keys.sek is not None and keys.rand is not None
        derived = psk_keys(keys.sek, bytes(out[4:8]), keys.rand)
    else:
        at = bytes(out).find(b"\x10", 20)
        assert keys.smk is not None
        derived = psk_keys(keys.smk, bytes(out[4:8]), keys.rand or bytes(out[at + 1 : at + 17]).ljust(16, b"\0"))
    return bytes(out[:-20]) + hmac_sha1(derived.auth, bytes(out[:-20]))


def inside(data: bytes, kind: Kind, keys: Keys, rng: random.Random) -> bytes:
    """A message whose MAC is right and whose KEMAC holds damaged key data."""
    message: Any = decode(data, kind, lenient=LENIENT)
    secret = keys.sek if kind == "smartcard-stkm" else keys.smk
    rand = keys.rand if kind == "smartcard-stkm" else message.rand
    assert secret is not None and rand is not None
    derived = psk_keys(secret, message.csb_id, rand)
    start, length = iv(derived.salt, message.csb_id, message.counter.to_bytes(4)), len(message.encr_data)
    clear = bytearray(aes_ctr(derived.encr, start, message.encr_data))
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice((0, 1, 2, 3, 20 % length, 21 % length, 25 % length, rng.randrange(length)))
        clear[at] = rng.choice((0, 1, 2, 4, 14, 16, 0x10, 0x12, 0x20, 0x22, 0x30, rng.randrange(256)))
    at = len(data) - 21 - length
    covered = data[:at] + aes_ctr(derived.encr, start, bytes(clear)) + data[at + length : -20]
    return covered + hmac_sha1(derived.auth, covered)


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", SEALED)
def test_opening(kind: Kind, shard: int) -> None:
    rng = random.Random(f"opening/{kind}/{shard}")
    choices = RandomChoices(rng)
    opened = 0
    rings = [SEALABLE[kind](choices) for _ in range(20)]
    with bare_core():
        for number in range(KEYED):
            clear, keys = rng.choice(rings)
            sealed = codec.seal(clear, keys)
            assert sealed == reference.seal(clear, keys)
            damaged = sealed
            if number % 3 == 1 and kind in ("smartcard-stkm", "smartcard-ltkm"):
                damaged = inside(sealed, kind, keys, rng)
            elif number % 8:
                damaged = mutate(sealed, rng)
                damaged = authenticated(damaged, kind, keys) if rng.random() < 0.7 else damaged
            lenient = tuple(name for name in LENIENT if rng.random() < 0.2)
            held = lacking(keys, rng) if rng.random() < 0.2 else keys
            ours = outcome(lambda: codec.open(damaged, held, kind, lenient=lenient))  # noqa: B023
            theirs = outcome(lambda: reference.open(damaged, held, kind, lenient=lenient))  # noqa: B023
            assert ours == theirs, f"{kind} {lenient} {damaged.hex()} {held}"
            opened += ours[0] == "ok"
    assert opened


def lacking(keys: Keys, rng: random.Random) -> Keys:
    """The key ring without one or two of its keys."""
    values = {f.name: getattr(keys, f.name) for f in fields(keys) if f.name not in ("seak", "peak")}
    for name in rng.sample([name for name, value in values.items() if value is not None], 1):
        values[name] = None
    return Keys(**values)


# --- what cannot be sealed --------------------------------------------------------------------------------------------


def spoiled(message: Any, rng: random.Random) -> Any:
    """A content with one field (at any depth) that may not be sealed so."""
    names = [f.name for f in fields(message) if f.init]
    name = rng.choice(names)
    value = getattr(message, name)
    new: Any
    match value:
        case _ if is_dataclass(value) and rng.random() < 0.8:
            new = spoiled(value, rng)
        case bool():
            new = rng.choice((not value, 2))
        case int():
            new = rng.choice((-1, 0, 1, 2, 3, 4, 7, 8, 15, 16, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64, value + 1))
        case bytes():
            new = rng.choice((b"", value[:-1], value + b"\0", value * 2, bytes(17), bytes(256), bytes(300), None, bytes(1)))
        case Secret():
            new = rng.choice((Secret(b""), Secret(bytes(15)), Secret(bytes(16)), Secret(bytes(32)), Secret(bytes(300))))
        case tuple() if value and rng.random() < 0.7:
            at = rng.randrange(len(value))
            new = value[:at] + ((spoiled(value[at], rng),) if is_dataclass(value[at]) else ()) + value[at + 1 :]
        case tuple():
            new = value * rng.choice((0, 2, 40, 300))
        case None:
            new = rng.choice((0, 5, bytes(14), bytes(16), Secret(bytes(16)), ()))
        case _:
            new = value
    return replace(message, **{name: new})


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", SEALED)
def test_sealing_what_may_be_wrong(kind: Kind, shard: int) -> None:
    rng = random.Random(f"sealing/{kind}/{shard}")
    choices = RandomChoices(rng)
    refused = 0
    for _ in range(KEYED):
        clear, keys = SEALABLE[kind](choices)
        clear = spoiled(clear, rng)
        if rng.random() < 0.3:
            clear = spoiled(clear, rng)
        limit = rng.choice((251, 251, 251, 120, 100, 70000, 1000))
        held = lacking(keys, rng) if rng.random() < 0.1 else keys
        ours = attempt(lambda: codec.seal(clear, held, max_card_message=limit))  # noqa: B023
        theirs = attempt(lambda: reference.seal(clear, held, max_card_message=limit))  # noqa: B023
        assert ours == theirs, f"{limit} {clear} {held}"
        with bare_core():
            bare = attempt(lambda: codec.seal(clear, held, max_card_message=limit))  # noqa: B023
        assert bare == theirs or excused(kind, bare, theirs), f"{limit} {clear} {held}: {bare} {theirs}"
        refused += ours[0] != "ok"
    assert refused


def excused(kind: Kind, bare: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    """Both refuse, for different reasons that are both there: what callers see is then what the reference says."""
    if "ok" in (bare[0], theirs[0]):
        return False
    # Several things wrong with a DRM STKM and its keys are looked at in another order.  A protocol above 7 is no number of the
    # table to the core, and to the reference none that fits into three bits.
    return kind == "drm-stkm" or (str(bare[-1]).endswith("traffic_protection_protocol") and bare[1:] == theirs[1:])


def attempt(call: Callable[[], object]) -> tuple[object, ...]:
    """As ``outcome``; a type that no field may have is the caller's fault, and either may say so in Python's own way."""
    try:
        return outcome(call)
    except (TypeError, AttributeError, ValueError):
        return ("type",)
