# SPDX-License-Identifier: Apache-2.0
"""The build of the C core: what it reads from the header, and the one line it ends with where something is missing."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from pybcast._native._bcast import lib

ROOT: Final = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source tree")


def build(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    return runpy.run_path("pybcast/_native/build.py")


def compiler(folder: Path, lacks: str) -> str:
    """A compiler that does not find one header."""
    path = folder / "cc"
    path.write_text(f'#!/bin/sh\nin=$(cat)\ncase "$in" in *{lacks}*) exit 1;; esac\nprintf "%s\\n" "$in" | cc "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("lacks", "package"),
    [
        ("stdio.h", "gcc libc6-dev"),
        ("Python.h", "python3-dev"),
        ("openssl/evp.h", "libssl-dev"),
        ("0x30000030L", "libssl-dev"),
        ("nothing", None),
    ],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str, package: str | None) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, lacks))
    found = build(monkeypatch)["missing"]()
    assert found is None if package is None else package in found


def test_the_build_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CC": str(tmp_path / "none")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pybcast: its C core cannot be built: a C compiler")
    assert "Traceback" not in done.stderr


def test_ipsec_mb_is_built_in_where_its_header_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, "intel-ipsec-mb.h"))
    options = build(monkeypatch)["options"]()
    assert not any("ipsec_mb" in source for source in options["sources"])
    assert options["libraries"] == ["crypto"]


def test_sanitizers_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYBCAST_SANITIZE", raising=False)
    assert not any("sanitize" in flag for flag in build(monkeypatch)["options"]()["extra_compile_args"])
    monkeypatch.setenv("PYBCAST_SANITIZE", "1")
    assert any("sanitize" in flag for flag in build(monkeypatch)["options"]()["extra_compile_args"])


def test_everything_the_header_declares_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = build(monkeypatch)["declarations"]()
    assert "BCAST_MESSAGE_MAX ..." in declared
    names = {word.split("(")[0].strip("*") for word in declared.replace("\n", " ").split() if "(" in word and word[:6] == "bcast_"}
    assert len(names) > 20
    assert all(hasattr(lib, name) for name in names)
