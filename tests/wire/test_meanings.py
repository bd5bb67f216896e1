# SPDX-License-Identifier: Apache-2.0
"""What an explanation says of a value is what this value means, not what its field is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pybcast.wire
from pybcast import codec
from pybcast.messages import Kind
from pybcast.testing.corpus import corpus

WIRE = Path(pybcast.wire.__file__).parent


def test_every_flag_says_what_0_means() -> None:
    flags = 0
    for path in sorted(WIRE.glob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "field" and len(call.args) > 1 and ast.unparse(call.args[1]) == "Bits(1)":
                flags += 1
                keywords = {keyword.arg for keyword in call.keywords}
                assert keywords & {"unset", "names"}, f"{path.name}:{call.lineno}: {ast.unparse(call.args[0])}"
    assert flags > 30


@pytest.mark.parametrize("kind", ["drm-stkm", "drm-ltkm", "smartcard-stkm", "smartcard-ltkm", "drm-registration"])
def test_a_flag_means_one_thing_set_and_another_not_set(kind: Kind) -> None:
    said: dict[str, dict[str, set[str]]] = {}
    for data in corpus(kind, 60, 1):
        for row in codec.explain(data, kind).rows:
            if row.field.endswith("_flag"):
                said.setdefault(row.field, {}).setdefault(row.value, set()).add(row.meaning)
    assert said
    for name, meanings in said.items():
        assert all(len(each) == 1 for each in meanings.values()), name
        if len(meanings) == 2 and not name.endswith("group_size_flag"):
            assert meanings["0"] != meanings["1"], name
            assert any(word in next(iter(meanings["0"])) for word in ("no", "end")), name


def test_no_access_criteria() -> None:
    rows = [row for data in corpus("drm-stkm", 20, 1) for row in codec.explain(data, "drm-stkm").rows]
    assert {(row.value, row.meaning) for row in rows if row.field == "access_criteria_flag"} == {
        ("0", "no access criteria"), ("1", "access criteria follow"),
    }  # fmt: skip
