# SPDX-License-Identifier: Apache-2.0
"""``pybcast ROLE serve CONFIG`` under a clock that a test can step: ``NAME.clock`` beside NAME.toml holds an offset in seconds,
a double, by which the server's time differs from the machine's.
"""

from __future__ import annotations

import mmap
import struct
import sys
from pathlib import Path
from typing import Final

from pybcast.servers.bsda import Bsda
from pybcast.servers.bsm import Bsm
from pybcast.servers.config import load
from pybcast.servers.roles import SystemClock

OFFSET: Final = struct.Struct("=d")


class Stepped(SystemClock):
    """The machine's clock and the offset in a file, as it is now."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._offset = mmap.mmap(file.fileno(), OFFSET.size, access=mmap.ACCESS_READ)

    def now(self) -> float:
        return super().now() + float(OFFSET.unpack_from(self._offset)[0])


def step(path: Path, seconds: float) -> None:
    """Set the offset of a running server; for the first time, before it starts."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(OFFSET.pack(seconds))


if __name__ == "__main__":
    role, _, config = sys.argv[1:]
    settings, clock = load(Path(config)), Stepped(Path(config).with_suffix(".clock"))
    sys.exit(Bsm(settings, clock).serve() if role == "bsm" else Bsda(settings, clock).serve())
