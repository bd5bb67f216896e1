# SPDX-License-Identifier: Apache-2.0
"""What one message costs: decode, open and seal, one of each kind, on one core.

Every round works on the same message; that the result is right is asserted once, after the measured calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import pytest

from pybcast import codec
from pybcast.keys import Keys
from pybcast.messages import Kind

VECTORS: Final = Path(__file__).parents[1] / "tests" / "vectors"

T = TypeVar("T")


class Benchmark(Protocol):
    """The fixture of pytest-benchmark: runs a call many times and gives its result."""

    group: str

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...


@dataclass(frozen=True)
class Case:
    """One message with the keys that open it."""

    kind: Kind
    message: bytes
    keys: Keys

    def __str__(self) -> str:
        return self.kind


def _case(kind: Kind, vector: dict[str, Any], *names: str) -> Case:
    keys = vector["keys"] if "keys" in vector else {name: vector[name] for name in names}
    return Case(kind, bytes.fromhex(vector["message"]), Keys.from_dict(keys))


def _load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


SMARTCARD: Final = _load("smartcard.json")
MORE: Final = _load("more.json")
SEALED: Final = [
    _case("drm-stkm", _load("drm_stkm.json")["vectors"][0]),
    _case("smartcard-stkm", SMARTCARD["stkm"][0], "sek", "csb_id", "rand"),
    _case("smartcard-ltkm", SMARTCARD["ltkm"][0], "smk"),
    _case("drm-ltkm", MORE["drm_ltkm"][0], "iek", "riak"),
    _case("smartcard-registration", MORE["smartcard_registration"][0], "k", "opc", "impi"),
]
# A registration response is sealed with a fresh session key and a random PSS salt, by one RSA operation: only opening is compared.
REGISTRATION: Final = Case(
    "drm-registration",
    bytes.fromhex(MORE["drm_registration"][0]["message"]),
    Keys.from_dict({"device_key": MORE["test_rsa_keys"]["device"], "rights_issuer_key": MORE["test_rsa_keys"]["rights_issuer"]}),
)


@pytest.mark.parametrize("case", [*SEALED, REGISTRATION], ids=str)
def bench_decode(benchmark: Benchmark, case: Case) -> None:
    benchmark.group = "decode"
    assert codec.encode(benchmark(codec.decode, case.message, case.kind)) == case.message


@pytest.mark.parametrize("case", [*SEALED, REGISTRATION], ids=str)
def bench_open(benchmark: Benchmark, case: Case) -> None:
    benchmark.group = "open"
    assert benchmark(codec.open, case.message, case.keys, case.kind) == codec.open(case.message, case.keys, case.kind)


@pytest.mark.parametrize("case", SEALED, ids=str)
def bench_seal(benchmark: Benchmark, case: Case) -> None:
    benchmark.group = "seal"
    content = codec.open(case.message, case.keys, case.kind)
    assert benchmark(codec.seal, content, case.keys) == case.message
