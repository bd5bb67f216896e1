# SPDX-License-Identifier: Apache-2.0
"""The C library as a vendor gets it: installed, found by pkg-config alone, its STKM opened here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from pybcast.codec import Keys, open
from pybcast.messages import ClearDrmStkm

CSRC: Final = Path(__file__).parents[2] / "csrc"
PATIENCE: Final = 300  # seconds after which a build that hangs is killed


@pytest.mark.requires_tool("pkg-config", package="pkg-config")
def test_what_the_example_seals_opens_here(tmp_path: Path) -> None:
    copy = tmp_path / "csrc"
    shutil.copytree(CSRC, copy, ignore=shutil.ignore_patterns("build*"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "CFLAGS", "LD_"))}
    done = subprocess.run(
        ["make", "-C", str(copy), "headend"], env=clean, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pkg-config --cflags --libs bcast" in done.stdout
    stkm = bytes.fromhex((copy / "build" / "headend.out").read_text("ascii"))
    content = open(stkm, Keys.from_dict({"seak": bytes(range(0x10, 0x30)).hex()}), "drm-stkm")
    assert isinstance(content, ClearDrmStkm)
    assert content.traffic_key_material.reveal() == bytes(range(0x50, 0x60)) and content.id == bytes.fromhex("0000029b")
