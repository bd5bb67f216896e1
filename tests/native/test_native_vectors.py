# SPDX-License-Identifier: Apache-2.0
"""Every vector on both providers, through the core alone: the reference is not there to help."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from native_support import PROVIDERS, need

from pybcast import codec
from pybcast._native import engine as native
from pybcast.codec import Keys, from_dict, reference
from pybcast.messages import Kind

VECTORS: Final = Path(__file__).parents[1] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def cases() -> Iterator[tuple[Kind, str, dict[str, Any], Keys]]:
    def keys(vector: dict[str, Any], *names: str) -> Keys:
        return Keys.from_dict({name: vector[name] for name in names})

    for v in load("drm_stkm.json")["vectors"]:
        yield "drm-stkm", v["message"], {"kind": "drm-stkm", **v["fields"]}, Keys.from_dict(v["keys"])
    files = load("smartcard.json")
    for v in files["stkm"]:
        yield "smartcard-stkm", v["message"], {"kind": "smartcard-stkm", **v}, keys(v, "sek", "csb_id", "rand")
    for v in files["ltkm"]:
        yield "smartcard-ltkm", v["message"], {"kind": "smartcard-ltkm", **v}, keys(v, "smk")
    for v in load("more.json")["verification"]:
        kind: Kind = "smartcard-reporting" if v["message"][4:6] == "15" else "smartcard-verification"
        yield kind, v["message"], {}, keys(v, "smk", "rand", "idi")


CASES: Final = list(cases())


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    need(request.param)

    def absent(*_: object, **__: object) -> None:
        raise AssertionError("the reference was asked")

    monkeypatch.setattr(reference, "seal", absent)
    monkeypatch.setattr(reference, "open", absent)
    with native.using(request.param):
        yield request.param


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n][0]}-{n}")
def test_vector(provider: str, number: int) -> None:
    kind, message, shown, keys = CASES[number]
    data = bytes.fromhex(message)
    opened = codec.open(data, keys, kind)
    assert codec.seal(opened, keys) == data
    if shown:
        assert from_dict(shown) == opened
        assert codec.seal(from_dict(shown), keys) == data  # type: ignore[arg-type]


def test_there_are_vectors_of_each_kind() -> None:
    assert {kind for kind, *_ in CASES} == {
        "drm-stkm", "smartcard-stkm", "smartcard-ltkm", "smartcard-verification", "smartcard-reporting",
    }  # fmt: skip
    assert len(CASES) > 60
