# SPDX-License-Identifier: Apache-2.0
"""No core dump of a process that holds keys: it would hold them too, in clear, in a file that nobody wipes.

The system's limit stops files, for this process and its children.  A collector that the system pipes cores to does not heed the
limit, so that the process is made undumpable as well (``prctl``); then other processes of its user cannot read its memory either
(``ptrace``, ``/proc/PID/mem``).  Each program sets that for itself: it ends with ``exec``.  The commands do so, not the library:
whoever embeds it decides about his own process.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def switch_off() -> None:
    """For this process, for good.

    Call it when the files of the command line have been read: after it ``/dev/fd/N`` is closed to this process, unless it is root.
    """
    with contextlib.suppress(OSError, AttributeError):  # no Linux
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    with contextlib.suppress(OSError, ValueError):  # a system without that limit
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
