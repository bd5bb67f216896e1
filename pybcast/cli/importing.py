# SPDX-License-Identifier: Apache-2.0
"""``pybcast bsm subscriber import``, ``grant --from`` and ``withdraw --from``: a CSV file, read and sent in pieces.

Little of a large file is in memory at once: a piece, and some hundred bytes for each line, to find a name that is there twice.
The keys of the file go to the server over its control socket, and nowhere else: no message repeats a value.
"""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pybcast.cli.output import warn
from pybcast.errors import ConfigError

COLUMNS: Final = (
    "subscriber", "smk", "idr", "group", "position", "udk", "riak", "srk", "udn", "registration", "services", "until",
)  # fmt: skip
"""The header names those that the file has, in any order."""
RIGHTS: Final = ("subscriber", "services", "programme", "until")
"""The columns of a file for ``grant``."""
WITHDRAWN: Final = ("subscriber", "services")
"""The columns of a file for ``withdraw``."""
CHUNK_ROWS: Final = 200  # one input of the BSM: periods and keys wait for it
CHUNK_CHARACTERS: Final = 1 << 20  # a quarter of what the control socket takes as one command
MAX_ROW: Final = 200_000  # characters of a line: registration material of 64 KiB, and all the rest


@dataclass
class Chunk:
    """Rows that go together, and the line of each."""

    lines: list[int] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    characters: int = 0


Refused = Callable[[int, str, str], None]
"""(line, column, reason)."""


class Source:
    """A file of bytes as lines of text; ``read``: bytes so far."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self._file = name, file
        self.read = 0

    def __iter__(self) -> Iterator[str]:
        number = 0
        while line := self._file.readline(MAX_ROW + 1):
            number += 1
            self.read += len(line)
            if len(line) > MAX_ROW:
                raise ConfigError(f"{self.name}:{number}: a line of more than {MAX_ROW} octets")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise ConfigError(f"{self.name}:{number}: not UTF-8") from None


def chunks(source: Source, refused: Refused, columns: Sequence[str] = COLUMNS) -> Iterator[Chunk]:
    """The rows in pieces.  ``ConfigError`` for a header that cannot be used; a bad row is told, and the next is read.

    Of two rows for the same the first counts: a subscriber, or in a file of rights a subscriber with the same services.
    """
    unique = [name for name in ("subscriber", "services", "programme") if columns is not COLUMNS or name == "subscriber"]
    seen: dict[tuple[str, ...], int] = {}
    reader = csv.reader(source)
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in header:
            if name not in columns:
                raise ConfigError(f"{source.name}:1: unknown column {name[:40]!r}; columns: {' '.join(columns)}")
        if "subscriber" not in header or len(set(header)) < len(header):
            raise ConfigError(f"{source.name}:1: expected a header with each column once, one of them subscriber")
        chunk = Chunk()
        for values in reader:
            if not any(values):
                continue
            if len(values) != len(header):
                refused(reader.line_num, "-", f"{len(values)} values, the header has {len(header)} columns")
                continue
            row = {name: value.strip() for name, value in zip(header, values, strict=True) if value}
            first = seen.setdefault(tuple(row.get(name, "") for name in unique), reader.line_num)
            if first != reader.line_num and row.get("subscriber"):
                refused(reader.line_num, "subscriber", f"is on line {first} too: of the two only that line is used")
                continue
            chunk.lines.append(reader.line_num)
            chunk.rows.append(row)
            chunk.characters += sum(map(len, values)) + 100
            if len(chunk.rows) >= CHUNK_ROWS or chunk.characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk = Chunk()
    except csv.Error as error:
        raise ConfigError(f"{source.name}:{reader.line_num}: not CSV: {error}") from None
    if chunk.rows:
        yield chunk


def opened(name: str, *, as_json: bool) -> tuple[BinaryIO, int | None]:
    """The file (``-``: standard input) and its size.  Says so when others may read it."""
    if name == "-":
        return sys.stdin.buffer, None
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise ConfigError(f"cannot read {name!r}: {error.strerror}") from None
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        warn(f"others can read the keys in {name} (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 {name}", as_json=as_json)
    return file, status.st_size if stat.S_ISREG(status.st_mode) else None


def run(
    name: str,
    ask: Callable[[list[dict[str, str]]], dict[str, Any]],
    refused: Refused,
    *,
    as_json: bool,
    progress: bool,
    columns: Sequence[str] = COLUMNS,
    counted: Sequence[str] = ("added", "changed", "unchanged"),
) -> dict[str, int]:
    """Send the whole file; what came of its rows: how many of each of ``counted``, and ``refused``."""
    total = dict.fromkeys((*counted, "refused"), 0)

    def refuse(line: int, column: str, reason: str) -> None:
        total["refused"] += 1
        refused(line, column, reason)

    file, size = opened(name, as_json=as_json)
    with file, _Bar(size, shown=progress) as bar:
        source = Source(name, file)
        for chunk in chunks(source, refuse, columns):
            answer = ask(chunk.rows)
            for what in counted:
                total[what] += answer[what]
            for error in answer["errors"]:
                refuse(chunk.lines[error["row"]], error["column"], error["reason"])
            bar.at(source.read)
    return total


class _Bar:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, size: int | None, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._progress = Progress(console=console, disable=not (shown and console.is_terminal), transient=True)
        self._task = self._progress.add_task("import", total=size)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._progress.stop()

    def at(self, octets: int) -> None:
        self._progress.update(self._task, completed=octets)
