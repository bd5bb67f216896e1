# SPDX-License-Identifier: Apache-2.0
"""What every file of the project owes: a licence line, and no trace of the machine it was written on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
NOT_OURS: Final = {"build", "dist", "demo-out", "htmlcov", "__pycache__"}
LICENSED: Final = {".py", ".c", ".h", ".lua", ".sh", ".toml"}
LICENSED_NAMES: Final = {"Makefile", "run", "setup", "wheel", "copy", "second-python", "portability"}
SPDX: Final = re.compile(rb"\A(#![^\n]*\n)?(#|//|/\*|--) SPDX-License-Identifier: Apache-2\.0\b")
# A path of one person's machine, or outside the project.  (Written so that this file does not match itself.)
FORBIDDEN: Final = tuple(
    re.compile(rule) for rule in (rb"(?<![\w.:/-])/(work|root|home)/", rb"(?<![\w.:/-])/wor[k]\b", rb"\.\./share[d]")
)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
        if hidden or path.is_symlink() or path.name in NOT_OURS or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def project_files() -> list[Path]:
    """What git would carry; in a source archive, everything but hidden and built files."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        return sorted(path for name in listing.decode().split("\0") if name and (path := ROOT / name).is_file())
    return list(_walk(ROOT))


FILES: Final = project_files()


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_are_found() -> None:
    assert {"pyproject.toml", "Makefile", "pybcast/errors.py", ".ci/run"} <= {_name(path) for path in FILES}


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix in LICENSED or p.name in LICENSED_NAMES], ids=_name)
def test_first_line_is_the_licence(path: Path) -> None:
    assert SPDX.match(path.read_bytes())


def test_no_path_of_a_machine() -> None:
    hits = [f"{_name(path)}: {hit.group()!r}" for path in FILES for rule in FORBIDDEN if (hit := rule.search(path.read_bytes()))]
    assert hits == []


@pytest.mark.parametrize("text", [b"see /wor" + b"k/main", b"open('/wor" + b"k')", b"../share" + b"d/spec", b"/ro" + b"ot/x"])
def test_the_rules_see(text: bytes) -> None:
    assert any(rule.search(text) for rule in FORBIDDEN)


def test_nothing_else_at_the_top() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in FILES}
    allowed = {
        "pyproject.toml", "setup.py", "Makefile", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md",
        "csrc", "pybcast", "tests", "benchmarks", "examples", "docs",
    }  # fmt: skip
    assert {name for name in top if not name.startswith(".")} <= allowed


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == ".ci"], ids=_name)
def test_scripts_can_be_read_and_run(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_a_copy_has_the_projects_files_and_no_others(tmp_path: Path) -> None:
    """What `.ci/second-python` and `.ci/portability` take elsewhere."""
    subprocess.run([ROOT / ".ci" / "copy", tmp_path / "copy"], check=True)
    found = {_name(ROOT / path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert {"pyproject.toml", "Makefile", ".ci/run", "csrc/include/bcast.h"} <= found
    assert not (ROOT / ".git").exists() or found == {_name(path) for path in FILES}


def test_nobody_is_told_to_install_us_from_an_index() -> None:
    """pybcast is on none: whoever takes the name there would be installed instead."""
    rule = re.compile(rb"pip3? install [^\n]*?(?<![\w/.-])pybcast(?![\w/-]|\.\w|'s)")
    assert rule.search(b"pip install 'pyb" + b"cast[server]'") and rule.search(b"pip install -q pyb" + b"cast")
    assert [_name(path) for path in FILES if path != Path(__file__) and rule.search(path.read_bytes())] == []


def test_the_versions_of_python_that_are_said_are_those_that_are_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d", c)]
    assert said == ["3.11", "3.12", "3.13", "3.14"] and project["requires-python"] == f">={said[0]}"
    setup = (ROOT / ".ci" / "setup").read_text()
    assert " ".join(f"python{version}" for version in reversed(said)) in setup


@pytest.mark.parametrize("module", ["pybcast.codec", "pybcast.flows", "pybcast.testing", "pybcast.cli"])
def test_a_bare_installation_is_enough(module: str) -> None:
    """Without extras, an installation brings cffi, cryptography and construct; extras are not touched before they are used."""
    extras = {
        "aiohttp", "av", "click", "hypothesis", "lxml", "matplotlib", "msgspec", "numpy", "pylibsrtp", "pytest", "rich", "typer",
    }  # fmt: skip
    program = f"import {module}, sys; print(*sorted({extras!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
