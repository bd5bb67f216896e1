# SPDX-License-Identifier: Apache-2.0
"""README.md says what the code does: generated parts are up to date, examples run, paths exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from readme_sections import LINKED, README, ROOT, linked, render

from pybcast.testing import CATALOGUE

TEXT = README.read_text(encoding="utf-8")


def test_generated_parts_are_up_to_date() -> None:
    assert render(TEXT) == TEXT, "run: python tests/readme_sections.py"


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_pages_link_to_the_lines_that_they_mean(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert linked(text) == text, "run: python tests/readme_sections.py"


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_python_examples_run_as_they_stand(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = [line.split("# ->", 1)[1].strip() for line in code.splitlines() if "# ->" in line]
    assert done.stdout.splitlines() == wanted


def test_console_examples_give_what_they_show() -> None:
    """Each ``$ pybcast ...`` line, with the first line of output that is shown under it."""
    shown = re.findall(r"^\$ pybcast (.*)\n(?!\$)(.+)$", TEXT, re.M)
    assert len(shown) >= 2
    for command, output in shown:
        arguments = command.replace("'", "").split()
        done = subprocess.run(
            [sys.executable, "-m", "pybcast.cli", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
        )
        printed = done.stdout + done.stderr
        assert output.rstrip(".").strip() in printed, f"{command}: {printed}"


def test_the_number_of_mutations() -> None:
    assert re.findall(r"(\d+) ways to break one rule", TEXT) == [str(len(CATALOGUE))]


def test_paths_exist() -> None:
    for path in re.findall(r"`((?:pybcast|tests|benchmarks|docs|examples)/[\w/.-]*)`", TEXT):
        assert (ROOT / path).exists(), path
