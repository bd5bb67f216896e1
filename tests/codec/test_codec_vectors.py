# SPDX-License-Identifier: Apache-2.0
"""Every vector: opened, sealed again to the same bytes, completed from its partial form, and shown as JSON."""

from __future__ import annotations

import doctest
import json
from typing import Any

import pytest
from codec_support import CASES, MORE, RSA_KEYS, SEALED, Case, H, keys_of, load

from pybcast import codec
from pybcast.codec import Keys, complete, decode, encode, from_dict, seal, to_dict
from pybcast.messages import ClearRegistrationResponse, PartialDrmStkm, PartialSmartcardStkm


def ident(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_open_gives_the_content(case: Case) -> None:
    shown = to_dict(codec.open(case.data, case.keys, case.kind))
    for name, value in case.shown.items():
        if isinstance(value, dict):
            found = shown[name]
            assert isinstance(found, dict)
            assert {key: found[key] for key in value} == value
        else:
            assert shown[name] == value, name


@pytest.mark.parametrize("case", SEALED, ids=ident)
def test_seal_gives_the_same_bytes(case: Case) -> None:
    assert seal(codec.open(case.data, case.keys, case.kind), case.keys) == case.data


@pytest.mark.parametrize("case", CASES, ids=ident)
def test_json_is_lossless_opened_and_sealed(case: Case) -> None:
    for message in (codec.open(case.data, case.keys, case.kind), decode(case.data, case.kind)):
        text = json.dumps(to_dict(message))
        assert from_dict(json.loads(text)) == message


@pytest.mark.parametrize("vector", load("drm_stkm.json")["vectors"])
def test_drm_stkm_from_the_vectors_own_fields_and_from_its_partial_form(vector: dict[str, Any]) -> None:
    keys = Keys.from_dict(vector["keys"])
    clear = from_dict({"kind": "drm-stkm", **vector["fields"]})
    assert seal(clear, keys).hex() == vector["message"]  # type: ignore[arg-type]
    partial = decode(H(vector["partial"]), "drm-stkm", partial=True)
    assert isinstance(partial, PartialDrmStkm)
    assert from_dict({"kind": "drm-stkm", "partial": True, **vector["fields"]}) == partial
    assert from_dict(json.loads(json.dumps(to_dict(partial)))) == partial
    assert complete(partial, keys).hex() == vector["message"]


@pytest.mark.parametrize("vector", MORE["smartcard_partial"])
def test_smartcard_stkm_from_its_partial_form(vector: dict[str, Any]) -> None:
    partial = decode(H(vector["partial"]), "smartcard-stkm", partial=True)
    assert isinstance(partial, PartialSmartcardStkm)
    assert encode(partial).hex() == vector["partial"]
    assert from_dict(json.loads(json.dumps(to_dict(partial)))) == partial
    ids = {name: H(vector[name]) for name in ("key_domain_id", "sek_id", "tek_id")}
    keys = keys_of(vector, "sek", "csb_id", "rand")
    assert complete(partial, keys, counter=vector["counter"], **ids).hex() == vector["complete"]


@pytest.mark.parametrize("vector", MORE["drm_ltkm"])
def test_bcro_from_the_vectors_own_fields(vector: dict[str, Any]) -> None:
    clear = from_dict({"kind": "drm-ltkm", **vector["fields"]})
    assert seal(clear, keys_of(vector, "iek", "riak")).hex() == vector["message"]  # type: ignore[arg-type]
    addresses = {"group_address", "bit_access_mask", "position_in_group", "domain_id", "domain_generation"}
    assert to_dict(clear).keys() & addresses == vector["fields"].keys() & addresses


@pytest.mark.parametrize("vector", load("smartcard.json")["stkm"])
def test_smartcard_stkm_from_the_vectors_own_fields(vector: dict[str, Any]) -> None:
    clear = from_dict({"kind": "smartcard-stkm", **vector})
    assert seal(clear, keys_of(vector, "sek", "csb_id", "rand")).hex() == vector["message"]  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", load("smartcard.json")["ltkm"])
def test_smartcard_ltkm_from_the_vectors_own_fields(vector: dict[str, Any]) -> None:
    clear = from_dict({"kind": "smartcard-ltkm", **vector})
    assert seal(clear, keys_of(vector, "smk")).hex() == vector["message"]  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", MORE["drm_registration"])
def test_registration_from_the_vectors_own_fields(vector: dict[str, Any]) -> None:
    fields = {name: value for name, value in vector.items() if name != "message"}
    issuer = vector["message"][32:72]
    clear = from_dict({"kind": "drm-registration", "rights_issuer_id": issuer, **fields})
    assert isinstance(clear, ClearRegistrationResponse)
    assert codec.open(H(vector["message"]), RSA_KEYS, "drm-registration") == clear
    data = seal(clear, RSA_KEYS)
    assert data != seal(clear, RSA_KEYS)  # OAEP, PSS and session key are random
    assert len(data) * 2 == len(vector["message"])
    assert codec.open(data, RSA_KEYS, "drm-registration") == clear


@pytest.mark.parametrize("v", load("card_messages.json")["vectors"], ids=lambda v: v["name"])
def test_real_card_messages_as_json(v: dict[str, Any]) -> None:
    kind: Any = f"smartcard-{v['kind']}"
    message = decode(H(v["message"]), kind, lenient=["mtk-id-4"])
    shown = to_dict(message)
    for name, value in v["fields"].items():
        if name == "idi_hex":
            assert (shown.get("idi_hex") or str(shown["idi"]).encode().hex()) == value
        else:
            assert shown[name] == value
    assert from_dict(json.loads(json.dumps(shown))) == message
    mikey = decode(H(v["message"]), "mikey")
    assert from_dict(json.loads(json.dumps(to_dict(mikey)))) == mikey


@pytest.mark.parametrize("v", load("mikey_libmikey.json")["vectors"])
def test_libmikey_messages_as_json(v: dict[str, Any]) -> None:
    message = decode(H(v["message"]), "mikey")
    assert from_dict(json.loads(json.dumps(to_dict(message)))) == message
    redacted = json.dumps(to_dict(message, redact=True))
    assert (v["key"] in json.dumps(to_dict(message))) == (v["encr_alg"] == 0)
    assert v["key"] not in redacted


def test_the_example_of_the_package_runs() -> None:
    result = doctest.testmod(codec)
    assert result.attempted > 5
    assert result.failed == 0
