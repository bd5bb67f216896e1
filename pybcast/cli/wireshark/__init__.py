# SPDX-License-Identifier: Apache-2.0
"""The Wireshark dissector, and how it comes to where Wireshark looks for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from pybcast.cli.input import write
from pybcast.errors import ConfigError

NAME: Final = "bcast.lua"
_OURS: Final = b"-- Wireshark dissector of OMA BCAST key messages"  # at the beginning of every version's second line
_PATIENCE: Final = 30.0  # seconds that tshark may take to name its folders
_MAX_FILE: Final = 1 << 22

Done = Literal["installed", "updated", "unchanged"]


def dissector() -> bytes:
    """The dissector's text."""
    return files(__name__).joinpath(NAME).read_bytes()


def path() -> Path:
    """Where it lies in the installed package."""
    return Path(str(files(__name__).joinpath(NAME)))


def folder() -> Path:
    """The folder of the user's own Lua plugins: as tshark or Wireshark names it, else by Wireshark's rule."""
    for program in ("tshark", "wireshark"):
        found = _named_by(program)
        if found is not None:
            return found
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", str(Path.home()))) / "Wireshark" / "plugins"
    return Path.home() / ".local" / "lib" / "wireshark" / "plugins"  # whatever XDG_* and WIRESHARK_CONFIG_DIR say


def _named_by(program: str) -> Path | None:
    where = shutil.which(program)
    if where is None:
        return None
    try:
        said = subprocess.run([where, "-G", "folders"], capture_output=True, timeout=_PATIENCE, check=False).stdout.decode(
            "utf-8", "replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^Personal Lua Plugins:\s*(\S.*)$", said, re.M)
    return None if found is None else Path(found.group(1).strip())


def install(directory: Path) -> Done:
    """Put the dissector into a folder, which is made.  ``ConfigError``: a file of that name is not ours, or there is no room."""
    target, wanted = directory / NAME, dissector()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or (target.exists() and not target.is_file()):
            raise ConfigError(f"{target}: is not a plain file; it stays as it is")
        found: bytes | None = None
        if target.exists():
            with target.open("rb") as file:
                found = file.read(_MAX_FILE)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from None
    if found == wanted:
        return "unchanged"
    if found is not None and _OURS not in found[:200]:
        raise ConfigError(f"{target}: is not this dissector; it stays as it is")
    write(target, wanted, secret=False)
    return "installed" if found is None else "updated"
