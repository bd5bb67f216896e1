# SPDX-License-Identifier: Apache-2.0
"""What the commands print: JSON for programs, tables for people, errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pybcast.errors import BcastError, ConfigErrors


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError  # rich would end the process with status 1, which means a bad message here


LIGHTS: Final = {"green": "green", "yellow": "yellow", "red": "bold red"}
"""How a light looks."""


def console() -> _Console:
    """Standard output for people.  Into a file or pipe, lines are as long as they must be, rather than folded at 80 columns."""
    found = _Console(highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = max(found.width, 240)
    return found


def plain(text: object) -> str:
    """Text from a message, safe to print: all but printable ASCII is escaped, so that no message can steer a terminal."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in str(text))


def say(line: str) -> None:
    """One line on standard output."""
    sys.stdout.write(line + "\n")


def flush() -> None:
    """Let a reader have what was said."""
    sys.stdout.flush()


def say_json(value: object) -> None:
    """One JSON value on one line of standard output."""
    say(json.dumps(value))


def say_styled(word: str, style: str, rest: str) -> None:
    """One line for people, its first word in colour on a terminal."""
    console().print(Text(plain(word), style), Text(plain(rest)), sep="", soft_wrap=True)


def note(text: str) -> None:
    """One line on standard error, without the program's name: it begins with a file's."""
    sys.stdout.flush()
    print(plain(text), file=sys.stderr)


def note_json(value: object) -> None:
    """One JSON value on one line of standard error."""
    sys.stdout.flush()
    print(json.dumps(value), file=sys.stderr)


def _note(text: str, fields: Mapping[str, object] | None) -> None:
    """One line on standard error: JSON, or text."""
    sys.stdout.flush()  # what is good comes before what is wrong, also when both go to one place
    print(f"pybcast: {plain(text)}" if fields is None else json.dumps(fields), file=sys.stderr)


def report(error: BcastError, *, as_json: bool, where: Mapping[str, object] | None = None, place: str | None = None) -> None:
    """An error on standard error: ``{"error": {code, offset, field, expected, found}}`` or the same in one line of text.

    Several mistakes of a configuration are a line each.  ``where``, ``place``: the message's place among several, for programs and
    for people.
    """
    if isinstance(error, ConfigErrors):
        for each in error.errors:
            report(each, as_json=as_json, where=where, place=place)
        return
    text = str(error)
    text = text if text.startswith(error.code) else f"{error.code}: {text}"
    fields = {"error": error.as_dict(), **(where or {})}
    _note(text if place is None else f"{place}: {text}", fields if as_json else None)


def warn(text: str, *, as_json: bool) -> None:
    """A warning on standard error."""
    _note(f"warning: {text}", {"warning": text} if as_json else None)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """A table for people; columns in ``right`` are aligned right, those in ``whole`` never folded."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.padding = (0, 1)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    console().print(made)


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a JSON value with their dotted paths, written as errors write them: ``access_criteria[1].value``."""
    match value:
        case Mapping() if value:
            for name, item in value.items():
                yield from flat(item, f"{path}.{name}" if path else str(name))
        case [_, *_]:
            for index, item in enumerate(value):
                yield from flat(item, f"{path}[{index}]")
        case _:
            yield path, _word(value)


def _word(value: object) -> object:
    match value:
        case None:
            return "absent"
        case True:
            return "yes"
        case False:
            return "no"
        case "" | [] | {}:
            return "empty"
        case _:
            return value
