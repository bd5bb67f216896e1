# SPDX-License-Identifier: Apache-2.0
"""The command ``pybcast``: one command per job; it prints, and decides nothing.

Exit status: 0 good; 1 the message is bad or does not belong to the keys; 2 usage, files or configuration; 70 a fault of ours;
130 interrupted; 141 the reader of our output went away.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line on ``args`` (default: the process's) and give the exit status.  Raises nothing."""
    if any(find_spec(name) is None for name in ("typer", "rich")):
        print("pybcast: the command line is an extra: pip install '.[cli]' in pybcast's folder", file=sys.stderr)
        return 2
    try:
        from pybcast.cli.app import run

        return run(args)
    except KeyboardInterrupt:
        return 130
