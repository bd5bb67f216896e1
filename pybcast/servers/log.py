# SPDX-License-Identifier: Apache-2.0
"""Log records as JSON or text on standard error, without keys by construction (R41).

Of our own records: texts, numbers and the record's ``fields``; bytes and secrets become their length, other objects their type.
Of everyone else's: the first line of the fixed text, never an argument.  Of exceptions: their type and place, and the text only of
pybcast's own, which hold no key bytes.

What strangers can cause any number of times is counted: of each kind of record the first few are written, and when the interval is
over, how many more there were.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TextIO

from pybcast.errors import BcastError
from pybcast.flows.tables import Status

LOG: Final = logging.getLogger("pybcast.servers")
OURS: Final = "pybcast"
LONGEST: Final = 300  # characters of a foreign text; ours are short
FIRST: Final = 5  # records of a kind that are written in an interval - confidence: own
INTERVAL: Final = 10.0  # seconds - confidence: own
KINDS: Final = 256  # of records at once: the configured peers with some statuses each - confidence: own
COUNTED: Final = ("pybcast.backend", "pybcast.interaction")
"""Loggers of ours whose records callers cause; and those of everyone else."""
TOLD_APART: Final = ("event", "why", "role", "peer", "tag", "status", "http")
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


@dataclass
class _Kind:
    """Records of one kind in an interval: when it ends, how many were written, how many were not, and the last of these."""

    until: float
    written: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class Repeats:
    """Decides which records are written.  ``clock``: seconds that never go back.

    A kind is a logger, a level and a fixed text, with what of the fields tells things apart that an operator would, and that is one
    of a few: event, status, peer.  Never an address or another text that a stranger chooses: that would make kinds without end.
    """

    def __init__(self, clock: Callable[[], float], *, first: int = FIRST, interval: float = INTERVAL, most: int = KINDS) -> None:
        self._clock, self._first, self._interval, self._most = clock, first, interval, most
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def pause(self) -> float | None:
        """Seconds until an interval ends of which there is something to say."""
        ends = [kind.until for kind in self._kinds.values() if kind.left_out]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def take(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """What is to be written now that this record has come."""
        name = _kind_of(record)
        if name is None:
            return [record]
        out = self.ended()
        if name not in self._kinds and len(self._kinds) >= self._most:
            name = (record.name, record.levelno)  # too many kinds: one for all that is new of a logger
        kind = self._kinds.setdefault(name, _Kind(self._clock() + self._interval))
        if kind.written < self._first:
            kind.written += 1
            return [*out, record]
        kind.left_out += 1
        kind.last = record
        return out

    def ended(self, *, all_of_them: bool = False) -> list[logging.LogRecord]:
        """Of each kind whose interval is over: how many records were left out."""
        now = self._clock()
        over = {name: kind for name, kind in self._kinds.items() if all_of_them or now >= kind.until}
        for name in over:
            del self._kinds[name]
        return [_summary(kind.last, kind.left_out) for kind in over.values() if kind.last is not None]


def _kind_of(record: logging.LogRecord) -> tuple[object, ...] | None:
    """``None`` for records that are all written: those that no stranger can cause, and what an operator asks for by ``debug``."""
    ours = record.name.partition(".")[0] == OURS
    if record.levelno <= logging.DEBUG or (ours and not record.name.startswith(COUNTED)):
        return None
    text = str(record.msg).partition("\n")[0][:LONGEST]
    fields = getattr(record, "fields", None)
    told = [fields.get(name) for name in TOLD_APART] if ours and isinstance(fields, dict) else []
    return (record.name, record.levelno, text, *map(str, told))


def _summary(last: logging.LogRecord, count: int) -> logging.LogRecord:
    """The last record that was left out, and how many there were."""
    made = logging.makeLogRecord(last.__dict__)
    made.exc_info = None
    made.repeated = count
    fields = getattr(last, "fields", None)
    made.fields = (fields if isinstance(fields, dict) else {}) | {"repeated": count}
    return made


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error what :class:`Repeats` lets through; a timer writes the counts when an interval is over."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats(time.monotonic, interval=INTERVAL)
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        for one in self._repeats.take(record):
            super().emit(one)
        if self._timer is None:
            self._set_timer()

    def _set_timer(self) -> None:
        pause = self._repeats.pause
        self._timer = None if pause is None else threading.Timer(pause, self._over)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def _over(self, *, all_of_them: bool = False) -> None:
        with self.lock or contextlib.nullcontext():
            for one in self._repeats.ended(all_of_them=all_of_them):
                super().emit(one)
            self._set_timer()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._over(all_of_them=True)
        super().close()


class _Formatter(logging.Formatter):
    def __init__(self, style: Literal["json", "text"]) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.partition(".")[0] == OURS
        text = _text(record) if ours else str(record.msg).partition("\n")[0][:LONGEST]
        fields = clean(getattr(record, "fields", {})) if ours else {}
        assert isinstance(fields, dict)
        repeated = getattr(record, "repeated", 0)
        if repeated:
            text = f"{text} ... repeated {repeated} times"
            fields["repeated"] = repeated
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
    handler = _Handler()
    handler.setFormatter(_Formatter(style))
    handler.addFilter(_wanted)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, _Handler):
            old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.raiseExceptions = False  # what cannot be logged is not printed either
    sys.unraisablehook = lambda found: _stray(found.exc_value, "while something was cleared away")
    threading.excepthook = lambda found: _stray(found.exc_value, f"in thread {found.thread.name if found.thread else '?'}")


def _stray(error: BaseException | None, where: str) -> None:
    """A failure that nobody could be told of: Python would print it, with the lines that failed."""
    LOG.error("failure %s", where, exc_info=error, extra={"fields": {"event": "stray"}})
