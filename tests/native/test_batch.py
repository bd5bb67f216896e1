# SPDX-License-Identifier: Apache-2.0
"""Batches: the same bytes as one at a time, whatever their size and provider; a status for each item; nothing done per message."""

from __future__ import annotations

import random
import threading
from array import array
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_support import PROVIDERS, need, verdict

from pybcast import codec
from pybcast._native import engine as native
from pybcast._native.numbers import Status
from pybcast.codec import Keys, Records, batch, open_many, prepare, prepare_smks, reference, seal_many
from pybcast.codec.batch import BatchKind
from pybcast.errors import BadLength, BadValue, BcastError, ConfigError, CryptoError, Integrity, KeyUnavailable
from pybcast.keys import SEK, SMK
from pybcast.messages import (
    AccessCriterion,
    ClearSmartcardLtkm,
    ClearSmartcardStkm,
    Extension,
    Protocol,
    SmartcardVerification,
    StkmManagement,
)
from pybcast.secret import Secret
from pybcast.testing import mutate
from pybcast.testing._sealable import SEALABLE
from pybcast.testing._shapes import RandomChoices

KINDS: Final[tuple[BatchKind, ...]] = ("drm-stkm", "smartcard-stkm", "smartcard-ltkm")
SIZES: Final = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 200)

_MADE: dict[str, list[tuple[Any, Keys]]] = {}


def made(kind: BatchKind, count: int) -> tuple[list[Any], list[Keys]]:
    """Contents and key rings, the same ones for every test."""
    if kind not in _MADE:
        choices = RandomChoices(random.Random(f"batch/{kind}"))
        _MADE[kind] = [SEALABLE[kind](choices) for _ in range(200)]
    pairs = _MADE[kind][:count]
    return [content for content, _ in pairs], [keys for _, keys in pairs]


def stkms(count: int) -> tuple[Records, list[Keys]]:
    records = Records("smartcard-stkm", count)
    records.set("key_domain_id", b"abc")
    records.set("counter", array("I", range(1, count + 1)))
    records.set("tek", random.Random(1).randbytes(16 * count))
    records.set("sek_id", b"\0\1\0\2")
    records.set("tek_id", b"\0\1\0\0")
    return records, [Keys(sek=SEK(bytes([n % 256] * 16)), csb_id=bytes(4), rand=bytes(16)) for n in range(count)]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_any_size_is_its_messages_alone(kind: BatchKind, provider: str) -> None:
    need(provider)
    contents, rings = made(kind, 200)
    wanted = [reference.seal(content, keys) for content, keys in zip(contents, rings, strict=True)]
    with prepare(rings, kind, provider=provider) as keys:
        for count in SIZES:
            order = array("I", random.Random(count).sample(range(200), count))
            sealed = seal_many([contents[i] for i in order], keys, which=order)
            assert sealed.all_done
            assert sealed.failed == []
            assert list(sealed) == [wanted[i] for i in order]
            built = [data for i, data in zip(order, sealed, strict=True) if getattr(contents[i], "layout", None) is None]
            assert bytes(sealed.arena) == b"".join(built)
            with open_many(list(sealed), keys, kind, which=order) as opened:
                assert list(opened) == [contents[i] for i in order]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_providers_and_batch_sizes_cannot_be_seen(kind: BatchKind, data: st.DataObject) -> None:
    contents, rings = made(kind, 200)
    picked = data.draw(st.lists(st.integers(0, 199), min_size=1, max_size=200))
    wanted = [codec.seal(contents[i], rings[i]) for i in picked]
    for provider in native.available():
        sealed = seal_many([contents[i] for i in picked], [rings[i] for i in picked], provider=provider)
        assert list(sealed) == wanted


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_half_bad(kind: BatchKind, provider: str) -> None:
    need(provider)
    contents, rings = made(kind, 120)
    rng = random.Random(5)
    for i in range(0, 120, 2):
        change: dict[str, Any] = {"traffic_key_lifetime": 16} if kind == "drm-stkm" else {"sek_id": bytes(3)}
        if kind != "drm-stkm" and i % 6 == 0:
            change = {"counter": -1}
        if kind == "smartcard-ltkm" and i % 4:
            change = {"sek_id": bytes(4)}
        contents[i] = replace(contents[i], **change)
    sealed = seal_many(contents, rings, provider=provider)
    assert not sealed.all_done
    assert sealed.failed == list(range(0, 120, 2))
    assert [isinstance(result, BcastError) for result in sealed.results()] == [True, False] * 60
    for i, (content, keys) in enumerate(zip(contents, rings, strict=True)):
        error = sealed.error(i)
        if i % 2:
            assert error is None
            assert sealed[i] == reference.seal(content, keys)
            continue
        assert sealed.lengths[i] == 0
        assert error is not None
        with pytest.raises(BcastError) as wanted:
            reference.seal(content, keys)
        assert verdict(error) == verdict(wanted.value)
        with pytest.raises(type(error)):
            sealed[i]

    good = [sealed[i] for i in range(1, 120, 2)]
    damaged = [mutate(data, rng) if n % 2 else data for n, data in enumerate(good)]
    opened = open_many(damaged, rings[1::2], kind, provider=provider)
    for n, data in enumerate(damaged):
        try:
            content = reference.open(data, rings[1::2][n], kind)
        except BcastError as wanted_error:
            found = opened.error(n)
            assert found is not None
            assert found.as_dict() == wanted_error.as_dict()
            assert opened.status[n] != 0
            assert not any(opened.records.get("sek_id")[4 * n : 4 * n + 4] if kind != "drm-stkm" else b"")
        else:
            assert opened[n] == content
    assert 0 < len(opened.failed) <= 30


def test_what_the_core_does_not_build_stands_beside_the_arena() -> None:
    contents, rings = made("smartcard-ltkm", 6)
    contents = [replace(content, layout=None) for content in contents]
    kept: Any = ("T", Extension(200, b"x"), "EXT3", "RAND", "IDi", "IDr", "KEMAC")
    contents[2] = replace(contents[2], management=None, layout=kept)
    contents[4] = replace(contents[4], layout=("T",))
    sealed = seal_many(contents, rings)
    assert sealed.failed == [4]
    assert sealed[2] == reference.seal(contents[2], rings[2])
    assert sealed[2] not in bytes(sealed.arena)
    assert sealed.offsets[2] == 0xFFFFFFFF
    assert isinstance(sealed.error(4), BadValue)
    assert bytes(sealed.arena) == b"".join(sealed[i] for i in (0, 1, 3, 5))
    opened = open_many([sealed[i] for i in (0, 2)], [rings[0], rings[2]], "smartcard-ltkm")
    assert list(opened) == [contents[0], contents[2]]
    # With a single ring, and with `which`, too.
    one = seal_many([contents[2], contents[2]], rings[2])
    assert list(one) == [sealed[2]] * 2
    which = seal_many([contents[2], contents[0]], rings, which=array("I", (2, 0)))
    assert list(which) == [sealed[2], sealed[0]]


def test_long_messages_find_room() -> None:
    contents, rings = made("drm-stkm", 3)
    long = tuple(AccessCriterion(1, bytes(200)) for _ in range(5))
    contents = [replace(content, access_criteria=long) for content in contents] * 3
    sealed = seal_many(contents, rings * 3)
    assert list(sealed) == [reference.seal(c, r) for c, r in zip(contents, rings * 3, strict=True)]
    base = bytes((1, 200)) + bytes(200)
    records = Records("drm-stkm", 50, base=base)
    for i in range(50):
        records.put(i, replace(contents[0], access_criteria=None))
    flags = records.column("present")
    for i in range(50):
        flags[i] |= 16
    records.set("access_criteria.length", len(base))
    sealed = seal_many(records, rings[0])
    assert sealed.all_done
    assert len(sealed[49]) > 250


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_in_and_out() -> None:
    records, rings = stkms(10)
    assert len(records) == 10
    assert records.column("counter").tolist() == list(range(1, 11))
    assert records.get("key_domain_id") == b"abc" * 10
    records.column("counter")[3] = 77
    records.column("counter")[4:6] = array("I", (8, 9))
    records.set("tek", Secret(bytes(16)))
    assert records[3] == ClearSmartcardStkm(
        counter=77, key_domain_id=b"abc", sek_id=b"\0\1\0\2", tek_id=b"\0\1", tek=Secret(bytes(16))
    )
    sealed = seal_many(records, rings)
    assert [sealed[i] for i in (3, 9)] == [reference.seal(records[i], rings[i]) for i in (3, 9)]
    assert sealed.lengths.tolist() == [80] * 10
    assert sealed.offsets.tolist() == list(range(0, 800, 80))
    opened = open_many(sealed, rings, "smartcard-stkm")
    assert opened.records.get("counter") == records.get("counter")
    assert "tail.access_criteria.offset" in records.columns
    assert repr(records) == "<Records of 10 smartcard-stkm>"
    opened.wipe()
    with records:
        pass
    assert not any(opened.records.buffer)
    assert not any(records.buffer)


def test_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    count = 300
    records, rings = stkms(count)
    table = numpy.frombuffer(records.buffer, numpy.dtype(records.layout))
    table["counter"] = numpy.arange(count, dtype=numpy.uint32) + 5
    numpy.asarray(records.column("traffic_key_lifetime"))[:] = 3
    records.set("tek", numpy.arange(16 * count, dtype=numpy.uint32).astype(numpy.uint8).reshape(count, 16))
    which = numpy.arange(count, dtype=numpy.uint32)[::-1].copy()
    sealed = seal_many(records, rings, which=which)
    assert sealed[7] == reference.seal(records[7], rings[count - 8])
    assert records[7].counter == 12
    array_ = numpy.zeros(count, numpy.dtype(Records.layout_of("smartcard-stkm")))
    array_[:] = table
    again = seal_many(Records("smartcard-stkm", buffer=array_), rings, which=which)
    assert bytes(again.arena) == bytes(sealed.arena)
    lengths, offsets = numpy.asarray(sealed.lengths).copy(), numpy.asarray(sealed.offsets).copy()
    arena = numpy.frombuffer(sealed.arena, numpy.uint8)
    opened = open_many(arena, rings, "smartcard-stkm", lengths=lengths, offsets=offsets, which=which)
    assert opened[7] == records[7]
    with pytest.raises(TypeError, match="contiguous"):
        records.set("counter", numpy.arange(2 * count, dtype=numpy.uint32)[::2])


def test_what_columns_refuse() -> None:
    records, _ = stkms(4)
    for name, value, fault in (
        ("nothing", 1, "no column"),
        ("counter", 2**32, "does not fit"),
        ("counter", -1, "does not fit"),
        ("counter", array("I", range(3)), "for each of 4"),
        ("tek", b"short", "expected 16 bytes"),
    ):
        with pytest.raises(ValueError, match=fault):
            records.set(name, value)
    with pytest.raises(TypeError):
        records.set("tek", "text")
    with pytest.raises(ValueError, match="not a column of numbers"):
        records.column("tek")
    with pytest.raises(ValueError, match="whole number"):
        Records("drm-stkm", buffer=bytearray(5))
    with pytest.raises(ValueError, match="whole number"):
        Records("drm-stkm", 2, buffer=bytearray(len(Records("drm-stkm", 1).buffer)))
    with pytest.raises(ValueError, match="multiple of 8"):
        Records("drm-stkm", buffer=memoryview(bytearray(len(Records("drm-stkm", 1).buffer) + 4))[4:])
    for count in (None, -1):
        with pytest.raises(ValueError, match="count"):
            Records("drm-stkm", count)
    with pytest.raises(ConfigError, match="no batches of 'mikey'"):
        Records("mikey", 1)  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        records[4]


def test_put() -> None:
    records, _ = stkms(2)
    plain = ClearSmartcardStkm(counter=9, key_domain_id=b"abc", sek_id=b"1234", tek_id=b"12", tek=Secret(bytes(16)))
    records.put(1, plain)
    assert records[1] == plain
    wrong: list[Any] = [replace(plain, sek_id=b""), replace(plain, counter=-1), "text", made("drm-stkm", 1)[0][0]]
    for bad in wrong:
        with pytest.raises(ValueError, match="item 0"):
            records.put(0, bad)
    criteria = StkmManagement(
        protection_after_reception=0, traffic_protection_protocol=Protocol.IPSEC, traffic_authentication_flag=False,
        traffic_key_lifetime=1, access_criteria=(AccessCriterion(1, b"x"),),
    )  # fmt: skip
    with pytest.raises(ValueError, match="bytearray"):
        records.put(0, replace(plain, management=criteria))
    records = Records("smartcard-stkm", 2, base=bytearray())
    for i in range(2):
        records.put(i, replace(plain, management=criteria))
    assert records[1].management == criteria


# --- arguments that do not go together --------------------------------------------------------------------------------


def test_misuse() -> None:
    records, rings = stkms(4)
    keys = prepare(rings, "smartcard-stkm")
    with pytest.raises(ConfigError, match="do not serve"):
        seal_many(Records("smartcard-ltkm", 1), keys)
    with pytest.raises(ValueError, match="expected 1 or 4"):
        seal_many(records, rings[:3])
    with pytest.raises(ValueError, match="which: expected 4"):
        seal_many(records, keys, which=array("I", (1, 2)))
    with pytest.raises(TypeError, match="which: expected a contiguous buffer"):
        seal_many(records, keys, which=[0, 1, 2, 3])
    with pytest.raises(TypeError, match="contents of one kind"):
        seal_many([SmartcardVerification(counter=1, csb_id=bytes(4), idr=b"")], rings[0])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="contents of one kind"):
        seal_many([], rings[0])
    with pytest.raises(TypeError, match="item 1: expected a ClearSmartcardStkm"):
        seal_many([records[0], made("drm-stkm", 1)[0][0]], keys)
    with pytest.raises(ValueError, match="lengths"):
        open_many(b"", keys, "smartcard-stkm")
    with pytest.raises(ValueError, match="as many"):
        open_many(b"", keys, "smartcard-stkm", lengths=array("I", (1,)), offsets=array("I", (1, 2)))
    with pytest.raises(ValueError, match="leniency"):
        open_many([b""] * 4, keys, "smartcard-stkm", lenient=["all"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="no batches"):
        open_many([b""], keys, "drm-ltkm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at hand"):
        prepare(rings, "smartcard-stkm", provider="abacus")
    for kind, ring, name in (
        ("drm-stkm", Keys(), "sek"),
        ("smartcard-stkm", Keys(sek=SEK(bytes(16))), "csb_id"),
        ("smartcard-ltkm", Keys(), "smk"),
    ):
        with pytest.raises(KeyUnavailable, match=name):
            prepare(ring, kind)  # type: ignore[arg-type]
    # After all that it still works.
    assert seal_many(records, keys).all_done


def test_items_that_point_elsewhere() -> None:
    records, rings = stkms(4)
    keys = prepare(rings, "smartcard-stkm")
    sealed = seal_many(records, keys, which=array("I", (0, 99, 2, 0xFFFFFFFF)))
    assert sealed.failed == [1, 3]
    assert isinstance(sealed.error(1), BcastError)
    data = bytes(sealed.arena)
    opened = open_many(
        data, keys, "smartcard-stkm", lengths=array("I", (80, 80, 80, 2**32 - 1)), offsets=array("I", (0, 81, 80, 0)),
        which=array("I", (0, 0, 2, 9)),
    )  # fmt: skip
    assert opened.failed == [1, 3]
    for i in (1, 3):
        with pytest.raises(BcastError):
            opened[i]
    assert [opened[0], opened[2]] == [records[0], records[2]]
    other = open_many(data[:80], keys, "smartcard-stkm", lengths=array("I", (80,)), which=array("I", (1,)))
    assert isinstance(other.error(0), Integrity)
    missing = open_many(data[:80], keys, "smartcard-stkm", lengths=array("I", (80,)), which=array("I", (9,)))
    assert isinstance(missing.error(0), BcastError)


def test_records_that_no_content_can_be() -> None:
    records, rings = stkms(3)
    records.set("has_management", 1)
    records.set("traffic_protection_protocol", 9)
    records.set("other_key_ids.offset", array("I", (0, 5, 0)))
    records.set("other_key_ids.length", array("I", (0, 5, 0)))
    sealed = seal_many(records, rings)
    assert sealed.failed == [0, 1, 2]
    for i in range(3):
        error = sealed.error(i)
        assert isinstance(error, BcastError)
        assert error.as_dict()["code"] in ("bad_value", "bad_length", "unsupported")
    assert isinstance(sealed.error(1), BadLength | BadValue)


def test_a_call_that_the_core_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    records, rings = stkms(2)
    sealed = seal_many(records, rings)
    shape = batch._SHAPES["smartcard-stkm"]._replace(seal=lambda *_: Status.E_CRYPTO, open=lambda *_: Status.E_ARGUMENT)
    monkeypatch.setitem(batch._SHAPES, "smartcard-stkm", shape)
    with pytest.raises(CryptoError, match="crypto"):
        seal_many(stkms(2)[0], rings)
    with pytest.raises(BadValue):
        open_many(sealed, rings, "smartcard-stkm")


def test_no_messages() -> None:
    records, rings = stkms(0)
    sealed = seal_many(records, prepare(rings, "smartcard-stkm"))
    assert (len(sealed), list(sealed), bytes(sealed.arena), sealed.failed) == (0, [], b"", [])
    assert list(open_many([], [], "smartcard-stkm")) == []
    assert records.get("tek") == b""


# --- keys that end, threads -------------------------------------------------------------------------------------------


def test_prepared_keys_are_lent_and_wiped() -> None:
    records, rings = stkms(3)
    keys = prepare(rings, "smartcard-stkm")
    lent = keys.take()
    with pytest.raises(ConfigError, match="in use"):
        seal_many(records, keys)
    keys.wipe()
    assert lent.count == 3
    keys.give(lent)
    assert lent.count == 0
    with pytest.raises(KeyUnavailable, match="prepared keys"):
        seal_many(records, keys)
    assert repr(keys).startswith("<PreparedKeys of 3 smartcard-stkm, ")
    assert "tek" not in repr(records)


def test_wiped_rings_are_not_prepared() -> None:
    ring = Keys(smk=SMK(bytes(32)))
    ring.wipe()
    with pytest.raises(KeyUnavailable):
        prepare(ring, "smartcard-ltkm")
    ltkm = ClearSmartcardLtkm(
        counter=1, csb_id=bytes(4), key_domain_id=b"abc", sek_id=b"1234", rand=bytes(16), idi=b"i", idr=b"r",
        sek=Secret(bytes(16)), ts_low=1, ts_high=2,
    )  # fmt: skip
    with pytest.raises(KeyUnavailable):
        seal_many([ltkm], ring)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_threads_with_keys_of_their_own(provider: str) -> None:
    need(provider)
    records, rings = stkms(500)
    wanted = bytes(seal_many(records, rings).arena)
    faults: list[int] = []

    def work(number: int) -> None:
        keys = prepare(rings, "smartcard-stkm", provider=provider)
        faults.extend(number for _ in range(30) if bytes(seal_many(records, keys).arena) != wanted)
        keys.wipe()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_results_say_no_secret() -> None:
    records, rings = stkms(2)
    records.set("tek", Secret(b"\xaa\xbb" * 8))
    records.set("traffic_key_lifetime", 99)
    records.set("has_management", 1)
    sealed = seal_many(records, rings)
    for text in (repr(records), repr(sealed), str(sealed.error(0)), repr(sealed.error(1))):
        assert "aabb" not in text
        assert "\\xaa\\xbb" not in text
    assert int(sealed.status[0]) in (Status.E_BAD_VALUE, Status.E_BAD_LENGTH)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_many_smks_in_one_call(provider: str) -> None:
    """What key rings of one SMK each give, refusals too."""
    need(provider)
    contents, rings = made("smartcard-ltkm", 65)
    contents[7] = replace(contents[7], idr=b"x" * 300)
    raw = b"".join(ring.smk.reveal() for ring in rings if ring.smk is not None)
    with prepare_smks(raw, provider=provider) as keys:
        found = seal_many(contents, keys)
        wanted = seal_many(contents, rings)
        assert len(keys) == len(rings) and keys.rings[64] == Keys(smk=rings[64].smk)
        assert 7 in found.failed == wanted.failed
        for i in range(65):
            error = found.error(i)
            if error is None:
                assert found[i] == wanted[i]
            else:
                assert verdict(error) == verdict(wanted.error(i) or error) and i == 7
        with pytest.raises(IndexError):
            keys.rings[65]
    with pytest.raises(KeyUnavailable):
        seal_many(contents, keys)
    assert keys.rings[0] == Keys(smk=SMK(bytes(32))), "wiped"
    assert len(prepare_smks(b"")) == 0
    with pytest.raises(ValueError, match="expected 32 bytes for each, 33 bytes found"):
        prepare_smks(bytes(33))


def test_smks_that_cannot_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "lib", Refusing(getattr(native, "lib")))  # noqa: B009
    with pytest.raises(CryptoError):
        prepare_smks(bytes(64))


class Refusing:
    """The core, out of order."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib

    def pybcast_smks_init(self, *_: object) -> int:
        return int(Status.E_CRYPTO)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)
