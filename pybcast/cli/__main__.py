# SPDX-License-Identifier: Apache-2.0
"""``python -m pybcast.cli`` is ``pybcast``."""

import sys

from pybcast.cli import main

if __name__ == "__main__":
    sys.exit(main())
