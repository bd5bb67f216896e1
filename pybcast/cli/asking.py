# SPDX-License-Identifier: Apache-2.0
"""What the commands of the servers share: arguments, the question to a running server, times, and tables of its answers."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pybcast.cli import output
from pybcast.cli.status import answering
from pybcast.errors import ConfigError
from pybcast.wire.times import NTP_UNIX

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The server's TOML file.", show_default=False)]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The subscriber.", show_default=False)]
ServiceArgument = Annotated[str, typer.Argument(metavar="SERVICE", help="GlobalServiceID.", show_default=False)]
OneServiceOption = Annotated[str | None, typer.Option("--service", metavar="ID", help="Only this service.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")]
StreamOption = Annotated[int | None, typer.Option("--stream", help="One stream of it; all by default.", show_default=False)]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=36500, help="How long the right holds.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]

_TIMES: Final = {"valid_from", "valid_to", "start", "end", "time", "issued_at", "authority_end"}


def group(text: str) -> typer.Typer:
    """A command that has commands."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=text)


@contextmanager
def serving(*, as_json: bool) -> Iterator[None]:
    """Around a command that needs the servers' extra."""
    with answering(as_json=as_json):
        try:
            yield
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] == "pybcast":
                raise
            raise ConfigError(f"the servers need {missing.name}: pip install '.[server]' in pybcast's folder") from None


def config_of(path: Path, role: str | None = None) -> Any:
    """The configuration, of a server of that role."""
    from pybcast.servers.config import load

    config = load(path)
    if role is not None and config.role != role:
        raise ConfigError(f"{path}: is the configuration of a {config.role}, not of a {role}")
    return config


def ask(path: Path, command: str, *, role: str | None = None, **arguments: Any) -> Any:
    """What the running server of this configuration answers."""
    from pybcast.servers import control

    return control.ask(config_of(path, role).control, command, **arguments)


def moment(text: str, option: str) -> int:
    """NTP seconds: of a time (RFC 3339; UTC where no zone is given), or ``+SECONDS`` from now."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        if text.startswith("+"):
            found = now + datetime.timedelta(seconds=int(text[1:]))
        else:
            found = datetime.datetime.fromisoformat(text)
            found = found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)
        return int(found.timestamp()) + NTP_UNIX
    except (ValueError, OverflowError):
        raise ConfigError(f"{option} {text[:40]!r}: expected a time such as 2030-01-31T20:15:00Z, or +SECONDS") from None


def shown_time(seconds: float) -> str:
    """NTP seconds as people read them, UTC."""
    return datetime.datetime.fromtimestamp(seconds - NTP_UNIX, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def rows(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Rows of an answer: a line of JSON each, or a table."""
    if as_json:
        for row in found:
            output.say_json(row)
    elif found:
        names = list(found[0])
        output.table([name.replace("_", " ") for name in names], ([_cell(name, row[name]) for name in names] for row in found))
    else:
        output.say("none")


def _cell(name: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item["service"]) if isinstance(item, dict) else str(item) for item in value)
    if name in _TIMES and isinstance(value, int | float):
        return shown_time(value)
    return "" if value is None else "yes" if value is True else "no" if value is False else str(value)


def facts(result: dict[str, Any], *, as_json: bool) -> None:
    """One answer: a line of JSON, or a line of names and values."""
    if as_json:
        output.say_json(result)
    else:
        output.say(output.plain(", ".join(f"{name.replace('_', ' ')} {_cell(name, value)}" for name, value in result.items())))
