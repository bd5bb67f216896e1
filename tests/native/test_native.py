# SPDX-License-Identifier: Apache-2.0
"""The door to the C core: providers, key contexts that end when their keys do, errors as ours, nothing secret left lying about."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from native_support import PROVIDERS, need

from pybcast import _native, codec
from pybcast._native import bench
from pybcast._native import engine as native
from pybcast._native._bcast import ffi, lib
from pybcast._native.errors import path, typed
from pybcast._native.numbers import DrmPresent, Field, Scope, Status, members, packer
from pybcast.codec import _core, reference
from pybcast.errors import (
    BadLength,
    BadValue,
    BcastError,
    ConfigError,
    CryptoError,
    Integrity,
    KeyUnavailable,
    TrailingBytes,
    Truncated,
    Unsupported,
)
from pybcast.keys import PAS, PEK, SAS, SEK, SMK, Keys
from pybcast.messages import ClearDrmStkm, ClearSmartcardStkm, Protocol, SmartcardVerification
from pybcast.secret import Secret

TEK = bytes(range(0x50, 0x60))
STKM = ClearDrmStkm(
    protection_after_reception=3, traffic_protection_protocol=Protocol.IPSEC, traffic_authentication_flag=False,
    traffic_key_lifetime=5, id=bytes.fromhex("0000029b"), service_CID_extension=1, programme_CID_extension=2,
    traffic_key_material=Secret(TEK),
)  # fmt: skip
CARD = ClearSmartcardStkm(counter=5, key_domain_id=b"abc", sek_id=b"\0\1\0\2", tek_id=b"\0\1", tek=Secret(TEK))


def ring() -> Keys:
    return Keys(sek=SEK(b"s" * 16), sas=SAS(b"a" * 16), pek=PEK(b"p" * 16), pas=PAS(b"q" * 16))


def card_ring() -> Keys:
    return Keys(sek=SEK(b"s" * 16), csb_id=b"\1\2\3\4", rand=bytes(16))


# --- providers --------------------------------------------------------------------------------------------------------


def test_what_is_at_work() -> None:
    assert "evp" in native.available()
    for name in native.available():
        found = native.engine(name).information()
        assert (found.provider, found.version) == (name, _native.library_version())
        assert found.libcrypto_version.startswith(".".join(map(str, _native.libcrypto_version()))), found
        assert bool(found.ipsec_mb_isa) == (name == "ipsec_mb")
        assert found.burst >= 8


def run(provider: str) -> subprocess.CompletedProcess[str]:
    program = "from pybcast._native.engine import current; print(current().name, current(batch=True).name)"
    environment = os.environ | {native.VARIABLE: provider}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)


def test_the_environment_chooses() -> None:
    assert run("evp").stdout.split() == ["evp", "evp"]
    assert run("").stdout.split() == run("auto").stdout.split() == ["evp", native.available()[-1]]


@pytest.mark.parametrize("name", ["abacus", "ipsec-mb"])
def test_an_unknown_provider_is_refused_and_those_at_hand_are_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(native, "_chosen", [])
        patch.setenv(native.VARIABLE, name)
        with pytest.raises(ConfigError, match=r"^PYBCAST_PROVIDER: unknown provider"):
            native.current()
    assert f"ConfigError: PYBCAST_PROVIDER: unknown provider '{name}'; at hand: auto, evp" in run(name).stderr
    with pytest.raises(ConfigError, match="at hand: auto, evp"), native.using(name):
        pass


def test_a_provider_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "NAMES", ("evp", "nothing"))
    assert native.available() == ("evp",)
    with pytest.raises(ConfigError, match=r"nothing is not at hand here; at hand: auto, evp$"):
        native.engine("nothing")


def test_a_provider_that_fails_its_known_answers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return (lambda *_: int(Status.E_KNOWN_ANSWER)) if name == "bcast_provider_open" else getattr(lib, name)

    monkeypatch.setattr(native, "lib", Broken())
    with pytest.raises(CryptoError, match="known_answer"):
        native.Worker("evp")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_another_provider_for_a_while_makes_the_same_bytes(provider: str) -> None:
    need(provider)
    keys, before = ring(), native.current()
    wanted = codec.seal(STKM, keys)
    with native.using(provider):
        assert native.current() is native.engine(provider)
        assert codec.seal(STKM, keys) == wanted
        assert keys.made["drm-stkm-seal"].engine.name == provider
    assert native.current() is before
    assert codec.seal(STKM, keys) == wanted


def test_the_measurement_of_the_core(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--provider",
        "evp",
        "--services",
        "1",
        "--batch",
        "4",
        "--rounds",
        "1",
        "--messages",
        "8",
        "--job",
        "smartcard-stkm-seal",
    ]
    assert bench.main(arguments) == 0
    assert json.loads(capfd.readouterr().out)["batch"] == 4


def test_versions_are_held_against_each_other() -> None:
    _native.check_versions((1, 0, 0), "1.7.2", (3, 0, 3))
    with pytest.raises(ConfigError, match=r"libbcast 2\.0\.0 does not fit"):
        _native.check_versions((1, 0, 0), "2.0.0", (3, 0, 3))
    with pytest.raises(ConfigError, match=r"libcrypto 3\.0\.2 is older than 3\.0\.3"):
        _native.check_versions((1, 0, 0), "1.0.0", (3, 0, 2))


# --- numbers of the header --------------------------------------------------------------------------------------------


def test_enums_and_members_are_the_headers() -> None:
    assert Status.E_SOME == lib.BCAST_E_SOME == 402
    assert (DrmPresent.PERMISSIONS, Scope.PAYLOAD, Field.NONE) == (32, 1, 0)
    found = members("bcast_smartcard_stkm")
    assert found["tek"].size == 16
    assert found["tail.access_criteria.length"].offset == found["tail"].offset + 12


def test_a_header_that_changed_is_seen() -> None:
    with pytest.raises(KeyError):
        packer("bcast_span", "offset", "size")
    with pytest.raises(ValueError, match="before the member"):
        packer("bcast_span", "length", "offset")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        ("E_TRUNCATED", Truncated),
        ("E_TRAILING_BYTES", TrailingBytes),
        ("E_BAD_LENGTH", BadLength),
        ("E_BAD_VALUE", BadValue),
        ("E_UNSUPPORTED", Unsupported),
        ("E_SPAN", BadLength),
        ("E_INTEGRITY", Integrity),
        ("E_NOT_READY", KeyUnavailable),
        ("E_CRYPTO", CryptoError),
        ("E_USE", CryptoError),
    ],
)
def test_codes_are_types(code: str, cls: type[BcastError]) -> None:
    error = ffi.new("bcast_error *", {"code": Status[code], "offset": 7, "field": Field.KEY_LEN, "scope": Scope.KEMAC})
    found = typed(error)
    assert type(found) is cls
    if isinstance(found, Truncated):
        assert (found.offset, found.field) == (7, "KEMAC.key_len")


def test_a_path_has_its_indices() -> None:
    error = ffi.new("bcast_error *", {"field": Field.LENGTH, "scope": Scope.PAYLOAD, "index": (3, 0)})
    assert path(error) == "payloads[3].length"


def test_the_core_keeps_its_verdict_when_the_reference_finds_nothing() -> None:
    native_error = BadValue(None, "a", "b", "c")
    assert _core.seal_refusal(native_error, lambda: b"sealed") is native_error
    assert _core.open_refusal(native_error, lambda: None) is native_error

    def other() -> None:
        raise BadValue(3, "a", "in other words", "at another place")

    def missing() -> None:
        raise KeyUnavailable("sek")

    assert _core.open_refusal(native_error, other) is native_error
    assert _core.open_refusal(native_error, missing) is native_error


def test_a_refusal_has_the_words_of_the_reference() -> None:
    keys = ring()
    data = codec.seal(STKM, keys)
    with pytest.raises(Truncated) as ours:
        codec.open(data[:20], keys, "drm-stkm")
    with pytest.raises(Truncated) as theirs:
        reference.open(data[:20], keys, "drm-stkm")
    assert ours.value.as_dict() == theirs.value.as_dict()


# --- keys that end ----------------------------------------------------------------------------------------------------


def contexts_of(keys: Keys, name: str) -> list[Any]:
    return [held for _, held in keys.made[name].free]


def memory(contexts: native.Contexts) -> bytes:
    return bytes(ffi.buffer(contexts.place, contexts.kind.size))


def test_wiping_a_key_ring_wipes_what_was_made_from_it() -> None:
    keys = ring()
    data = codec.seal(STKM, keys)
    codec.open(data, keys, "drm-stkm")
    held = [*contexts_of(keys, "drm-stkm-seal"), *contexts_of(keys, "drm-stkm-open")]
    assert len(held) == 2
    assert all(any(memory(contexts)) for contexts in held)
    keys.wipe()
    assert keys.made == {}
    assert all(not any(memory(contexts)) for contexts in held)
    with pytest.raises(KeyUnavailable):
        codec.seal(STKM, keys)
    with pytest.raises(KeyUnavailable):
        codec.open(data, keys, "drm-stkm")


def test_wiping_one_key_is_enough() -> None:
    keys = ring()
    codec.seal(STKM, keys)
    (held,) = contexts_of(keys, "drm-stkm-seal")
    assert keys.pas is not None
    keys.pas.wipe()
    with pytest.raises(KeyUnavailable):
        codec.seal(STKM, keys)
    assert not any(memory(held))


def test_a_context_that_is_lent_is_wiped_when_it_comes_back() -> None:
    keys = ring()
    codec.seal(STKM, keys)
    pool = keys.made["drm-stkm-seal"]
    worker = native.current().take()
    lent = pool.take(worker)
    keys.wipe()
    assert any(memory(lent[1]))
    pool.give(lent)
    assert not any(memory(lent[1]))
    native.current().idle.append(worker)


def test_other_keys_are_other_contexts() -> None:
    keys = card_ring()
    data = codec.seal(CARD, keys)
    other = replace(keys, sek=SEK(b"t" * 16))
    assert other.made == {}
    assert codec.seal(CARD, other) == reference.seal(CARD, other) != data
    assert copy.deepcopy(keys).made["smartcard-stkm"] is keys.made["smartcard-stkm"]  # the keys are shared too
    assert codec.seal(CARD, keys) == data


def test_scratch_memory_is_zero_after_use() -> None:
    keys, card = ring(), card_ring()
    codec.open(codec.seal(STKM, keys), keys, "drm-stkm")
    codec.open(codec.seal(CARD, card), card, "smartcard-stkm")
    with pytest.raises(BadValue):
        codec.seal(replace(STKM, traffic_key_lifetime=99), keys)
    with pytest.raises(TypeError):
        codec.seal(replace(CARD, other_key_ids=5), card)  # type: ignore[arg-type]
    for worker in native.current().idle:
        for _, buffer, _ in worker.scratch.values():
            assert not any(bytes(buffer))


def test_a_key_that_is_wiped_while_its_context_is_made() -> None:
    sek, worker = SEK(bytes(16)), native.Worker("evp")
    made = native.smartcard_set_up(sek, bytes(4), bytes(16))

    def slowly(worker: native.Worker, place: Any) -> None:
        made(worker, place)
        sek.wipe()

    pool = native.Pool(native.engine("evp"), native.SMARTCARD, (sek,), slowly)
    with pytest.raises(KeyUnavailable):
        pool.take(worker)
    assert pool.free == []


def test_contexts_and_providers_that_are_let_go_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[object] = []
    kind = native.SMARTCARD._replace(wipe=lambda pointer: wiped.append(lib.bcast_smartcard_key_wipe(pointer)))
    worker = native.Worker("evp")
    contexts = native.Contexts(worker, kind, [native.smartcard_set_up(SEK(bytes(16)), bytes(4), bytes(16))] * 3)
    del contexts
    gc.collect()
    assert len(wiped) == 3


def test_a_context_that_cannot_be_set_up() -> None:
    with pytest.raises(CryptoError, match="argument"):
        native.Contexts(native.current().take(), native.DRM, [native.drm_set_up(None, None, None, None, 1)])
    wiped = SMK(bytes(32))
    wiped.wipe()
    with pytest.raises(KeyUnavailable):
        native.Contexts(native.current().take(), native.SMK, [native.smk_set_up(wiped)])


# --- key rings that lack something, other CSB IDs ---------------------------------------------------------------------


def test_a_csb_id_is_taken_from_the_message_when_the_ring_has_none() -> None:
    keys = card_ring()
    any_csb = replace(keys, csb_id=None)
    data = codec.seal(CARD, keys)
    other = codec.seal(CARD, replace(keys, csb_id=b"\5\6\7\x08"))
    for _ in range(2):
        assert codec.open(data, any_csb, "smartcard-stkm") == codec.open(other, any_csb, "smartcard-stkm") == CARD
    assert len(any_csb.made) == 1  # what strangers send does not fill memory
    with pytest.raises(Truncated):
        codec.open(data[:6], any_csb, "smartcard-stkm")
    with pytest.raises(KeyUnavailable, match="csb_id"):
        codec.seal(CARD, any_csb)


def test_rings_without_the_key() -> None:
    data = codec.seal(STKM, ring())
    with pytest.raises(KeyUnavailable, match="sas"):
        codec.open(data, Keys(), "drm-stkm")
    answer = SmartcardVerification(counter=1, csb_id=bytes(4), idr=b"x")
    with pytest.raises(KeyUnavailable, match="rand"):
        codec.seal(answer, Keys(smk=SMK(bytes(32))))
    with pytest.raises(KeyUnavailable, match="smk"):
        codec.seal(answer, Keys(rand=bytes(16), idi=b"i"))


def test_bytes_of_any_kind_open_and_others_do_not() -> None:
    keys = ring()
    data = codec.seal(STKM, keys)
    assert codec.open(bytearray(data), keys, "drm-stkm") == STKM  # type: ignore[arg-type]
    assert codec.open(memoryview(data), keys, "drm-stkm") == STKM  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        codec.open(7, keys, "drm-stkm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leniency"):
        codec.open(data, keys, "drm-stkm", lenient=["everything"])  # type: ignore[list-item]


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switching")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_threads_share_a_key_ring(provider: str) -> None:
    need(provider)
    keys, card = ring(), card_ring()
    contents = [replace(STKM, traffic_key_lifetime=n % 16) for n in range(40)]
    wanted = [reference.seal(content, keys) for content in contents]
    faults: list[object] = []

    def work() -> None:
        for _ in range(25):
            for content, data in zip(contents, wanted, strict=True):
                try:
                    if codec.seal(content, keys) != data or codec.open(data, keys, "drm-stkm") != content:
                        faults.append(content)
                    codec.seal(CARD, card)
                except Exception as error:
                    faults.append(error)

    with native.using(provider):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []


@pytest.mark.usefixtures("quick_switching")
def test_a_ring_may_be_wiped_while_others_use_it() -> None:
    for _ in range(20):
        keys, found = ring(), set[str]()

        def work(keys: Keys = keys, found: set[str] = found) -> None:
            for _ in range(200):
                try:
                    codec.seal(STKM, keys)
                except KeyUnavailable:
                    found.add("wiped")

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        keys.wipe()
        for thread in threads:
            thread.join()
        with pytest.raises(KeyUnavailable):
            codec.seal(STKM, keys)
