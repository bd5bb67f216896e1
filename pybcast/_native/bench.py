# SPDX-License-Identifier: Apache-2.0
"""``python -m pybcast._native.bench [--provider NAME] [--batch N] ...``: the measurement of ``csrc/bench``, one JSON object a line.

A process of its own, as it is in C: it ends without giving back what it measured with.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pybcast._native._bench import ffi, lib


def main(arguments: Sequence[str]) -> int:
    """Measure, and print to the standard output of the process; the exit status."""
    words = [ffi.new("char[]", word.encode()) for word in ("bench", *arguments)]
    status: int = lib.pybcast_bench_main(len(words), ffi.new("char *[]", words))
    return status


if __name__ == "__main__":  # pragma: no cover - a process of its own, which the tests start
    sys.exit(main(sys.argv[1:]))
