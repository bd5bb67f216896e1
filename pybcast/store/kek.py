# SPDX-License-Identifier: Apache-2.0
"""Where the key-encryption key comes from, and its public name."""

from __future__ import annotations

import hmac
import os
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Final

from pybcast.errors import ConfigError
from pybcast.keys import KEK

COMMAND_TIMEOUT: Final = 30.0  # seconds: a secrets manager over a network answers within these or not at all
_MAX_FILE: Final = 1024  # octets; 32 bytes in hexadecimal are 64


def load_kek(source: str) -> KEK:
    """The key-encryption key from where an operator keeps it: 16, 24 or 32 bytes in hexadecimal, white space ignored.

    ``file:PATH``: a file that only its owner may read.  ``env:NAME``: an environment variable.  ``command:WORDS``: standard
    output of a program that is run without a shell.  Raises ``ConfigError``, which never says what was read.
    """
    kind, _, where = source.partition(":")
    if kind == "file" and where:
        text = _from_file(Path(where))
    elif kind == "env" and where:
        text = os.environ.get(where, "")
        if not text:
            raise ConfigError(f"key-encryption key: environment variable {where} is not set")
    elif kind == "command" and where:
        text = _from_command(where)
    else:
        raise ConfigError("key-encryption key: expected file:PATH, env:NAME or command:WORDS")
    try:
        return KEK(bytes.fromhex("".join(text.split())))
    except ValueError:
        place = f": {where}" if kind == "file" else f" from {kind}"  # a command may hold a secret
        raise ConfigError(f"key-encryption key{place}: expected 32, 48 or 64 hexadecimal digits") from None


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode  # of what was opened, not of what has that name a moment later
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"key-encryption key: {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode) or len(data) > _MAX_FILE:
        raise ConfigError(f"key-encryption key: {path} is not a small regular file")
    if mode & 0o077:
        raise ConfigError(f"key-encryption key: {path} has mode {stat.S_IMODE(mode):04o}, others may read it: chmod 600")
    return data.decode("ascii", "replace")


def _from_command(command: str) -> str:
    try:
        words = shlex.split(command) or [command]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ConfigError(f"key-encryption key: command failed: {reason}") from None
    if done.returncode:
        raise ConfigError(f"key-encryption key: command ended with status {done.returncode}")
    return done.stdout[: _MAX_FILE + 1].decode("ascii", "replace")


def kek_id(kek: KEK) -> str:
    """The public name of a key-encryption key, 16 hexadecimal digits: the same key has the same name in every database."""
    return hmac.digest(kek.reveal(), b"pybcast key-encryption key id", "sha256")[:8].hex()
