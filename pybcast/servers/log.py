# SPDX-License-Identifier: Apache-2.0
"""Log records as JSON or text on standard error, without keys by construction (R41).

Of our own records: texts, numbers and the record's ``fields``; bytes and secrets become their length, other objects their type.
Of everyone else's: the first line of the fixed text, never an argument.  Of exceptions: their type and place, and the text only of
pybcast's own, which hold no key bytes.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pybcast.errors import BcastError
from pybcast.flows.tables import Status

LOG: Final = logging.getLogger("pybcast.servers")
OURS: Final = "pybcast"
LONGEST: Final = 300  # characters of a foreign text; ours are short
EVERYDAY: Final = frozenset({Status.NON_EXISTENT, Status.DELAYED})
_NUMBERS: Final = (int, float)


def clean(value: object) -> object:
    """A value as a log may show it."""
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            return value if type(value) in _NUMBERS else _NUMBERS[isinstance(value, float)](value)
        case BcastError():
            return str(value)
        case Mapping():
            return {str(name): clean(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [clean(item) for item in value]
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case _:
            return f"<{type(value).__name__}>"


class _Formatter(logging.Formatter):
    def __init__(self, style: Literal["json", "text"]) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.partition(".")[0] == OURS
        text = _text(record) if ours else str(record.msg).partition("\n")[0][:LONGEST]
        fields = clean(getattr(record, "fields", {})) if ours else {}
        assert isinstance(fields, dict)
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = fault(record.exc_info[1])
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            head = {"time": when, "level": record.levelname.lower(), "logger": record.name, "message": text}
            return json.dumps(head | {name: value for name, value in fields.items() if name not in head})
        error = f" [{fields['error']}]" if "error" in fields else ""
        return f"{when} {record.levelname:<8} {record.name}: {text}{error}".translate(_CONTROLS)


_CONTROLS: Final = {n: f"\\x{n:02x}" for n in (*range(32), 127)}
"""A peer's text cannot begin a line of its own, or steer a terminal."""


def _text(record: logging.LogRecord) -> str:
    args = record.args
    if not args:
        return str(record.msg)
    try:
        # A type that is no number may meet a %d: the text is then shown as it stands.
        return str(record.msg) % (clean(args) if isinstance(args, Mapping) else tuple(clean(arg) for arg in args))
    except (TypeError, ValueError):
        return str(record.msg)


def fault(error: BaseException) -> str:
    """An exception in one line: what, where, and what it says when it is ours."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 5:
        frames = traceback.extract_tb(seen.__traceback__)
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        parts.append(f"{type(seen).__name__}{f': {seen}' if isinstance(seen, BcastError) else ''}{place}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return " <- ".join(parts)


def _wanted(record: logging.LogRecord) -> bool:
    """Refusals that belong to every day - nothing there, not yet - are of no interest to who does not look at every exchange."""
    fields = getattr(record, "fields", None)
    if record.name != "pybcast.backend" or not isinstance(fields, dict) or fields.get("status") not in EVERYDAY:
        return True
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def start(style: Literal["json", "text"], level: str) -> None:
    """Send all records to standard error, in place of where they went before."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(style))
    handler.addFilter(_wanted)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.raiseExceptions = False  # what cannot be logged is not printed either
    sys.unraisablehook = lambda found: _stray(found.exc_value, "while something was cleared away")
    threading.excepthook = lambda found: _stray(found.exc_value, f"in thread {found.thread.name if found.thread else '?'}")


def _stray(error: BaseException | None, where: str) -> None:
    """A failure that nobody could be told of: Python would print it, with the lines that failed."""
    LOG.error("failure %s", where, exc_info=error, extra={"fields": {"event": "stray"}})
