# SPDX-License-Identifier: Apache-2.0
"""The public testing package itself: its example, its reproducibility, and its life without Hypothesis."""

from __future__ import annotations

import doctest
import random
import subprocess
import sys
from pathlib import Path

import pytest

import pybcast.testing
from pybcast.messages import KINDS, Kind
from pybcast.testing import corpus, mutate, write_corpus
from pybcast.wire import decode


def test_the_example_works() -> None:
    result = doctest.testmod(pybcast.testing)
    assert result.attempted >= 8
    assert result.failed == 0


def test_without_hypothesis() -> None:
    script = """
import sys
sys.modules["hypothesis"] = None
import pybcast.testing
from pybcast.errors import ConfigError
assert len(list(pybcast.testing.corpus("mikey", 3))) == 3
for attempt in ("pybcast.testing.strategies", "__import__('pybcast.testing.strategies')"):
    try:
        eval(attempt)
    except ConfigError as error:
        assert "pip install hypothesis" in str(error)
    else:
        raise SystemExit("strategies without hypothesis")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        pybcast.testing.nothing  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_corpus_is_reproducible(kind: Kind) -> None:
    first = list(corpus(kind, 30, seed=5))
    assert list(corpus(kind, 30, seed=5)) == first
    assert list(corpus(kind, 30, seed=6)) != first
    assert len(set(first)) > 20


def test_mutate_is_reproducible_and_bounded() -> None:
    data = next(corpus("drm-stkm", 1))
    first = [mutate(data, random.Random(seed)) for seed in range(300)]
    assert [mutate(data, random.Random(seed)) for seed in range(300)] == first
    assert sum(broken != data for broken in first) > 280
    assert max(map(len, first)) <= len(data) + 3 * 512
    assert all(isinstance(mutate(b"", random.Random(seed)), bytes) for seed in range(100))


def test_write_corpus(tmp_path: Path) -> None:
    count = write_corpus(tmp_path, n=10, seed=1)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == count
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(KINDS)
    for kind in KINDS:
        for path in (tmp_path / kind).iterdir():
            assert decode(path.read_bytes(), kind).kind == kind
