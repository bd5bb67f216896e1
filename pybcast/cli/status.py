# SPDX-License-Identifier: Apache-2.0
"""From any way a command may end to an exit status: no input and no fault shows a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import typer

from pybcast.cli.output import report
from pybcast.errors import BcastError, ConfigError, StoreError, TransportError

BAD_MESSAGE: Final = 1
USAGE: Final = 2
OUR_FAULT: Final = 70  # EX_SOFTWARE of sysexits.h: a script can tell a fault of ours from a bad message
INTERRUPTED: Final = 128 + 2  # what a shell says of a program that SIGINT ended
READER_GONE: Final = 128 + 13  # the same for SIGPIPE


@contextmanager
def answering(*, as_json: bool) -> Iterator[None]:
    """Around the body of a command: whatever ends it becomes a line on standard error and a status."""
    try:
        yield
        sys.stdout.flush()
    except BcastError as error:
        report(error, as_json=as_json)
        raise typer.Exit(USAGE if isinstance(error, ConfigError | TransportError | StoreError) else BAD_MESSAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:  # files are checked where they are opened: this is standard output
        raise typer.Exit(output_failed(error, as_json=as_json)) from None


def output_failed(error: OSError, *, as_json: bool = False) -> int:
    """Standard output takes no more: quietly when its reader went away, else (a full disk) with an error."""
    with suppress(OSError, ValueError):  # Python flushes it once more at exit; ValueError: it is not a real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    report(ConfigError(f"cannot write: {error.strerror}"), as_json=as_json)
    return USAGE


def our_fault(fault: Exception) -> int:
    """What nobody foresaw: type and place only, for the text of such an error might hold key bytes."""
    if os.environ.get("PYBCAST_TRACEBACK") == "1":
        raise fault
    place = fault.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
    print(
        f"pybcast: internal fault: {type(fault).__name__}{where}; PYBCAST_TRACEBACK=1 shows more; please report it", file=sys.stderr
    )
    return OUR_FAULT
