# SPDX-License-Identifier: Apache-2.0
"""What both servers have: the message log, the change of the key-encryption key, and one service in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pybcast.cli import output
from pybcast.cli.asking import (
    ConfigArgument,
    JsonOption,
    LimitOption,
    ask,
    config_of,
    facts,
    group,
    moment,
    rows,
    serving,
    shown_time,
)
from pybcast.errors import ConfigError, TransportError

ROTATION: Final = 3600.0  # seconds to wait for every key to be wrapped anew - confidence: own
SinceOption = Annotated[
    str, typer.Option("--since", metavar="TIME", help="From this time on: 2030-01-31T20:15:00Z.", show_default=False)
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The copy.", show_default=False)]
KekOption = Annotated[
    str,
    typer.Option(
        "--kek", metavar="SOURCE", show_default=False,
        help="The key that wraps the keys in the copy, where the source in the configuration is there for the server only.",
    ),
]  # fmt: skip
ToOption = Annotated[
    str,
    typer.Option(
        "--to", metavar="SOURCE", show_default=False,
        help="The new key as the configuration will name it: file:PATH (relative to the configuration), env:NAME, command:WORDS.",
    ),
]  # fmt: skip


def add(app: typer.Typer, role: str) -> None:
    """Add these commands to ``pybcast bsm`` or ``pybcast bsda``."""
    kek = group("The key that wraps all keys in the database.")
    app.add_typer(kek, name="kek")

    @kek.command("rotate")
    def rotate(config: ConfigArgument, to: ToOption, json: JsonOption = False) -> None:
        """Wrap all keys in the database under a new key.

        While the server runs, or while it does not. The new key must be there already. Afterwards change the line of the
        configuration that is named: the old key opens the database no more. Interrupted, say it again.
        """
        with serving(as_json=json):
            found = _rotate(config, role, to)
            if json:
                output.say_json(found)
                return
            output.say(f"all keys are wrapped under {found['kek_id']}; change {found['file']}, line {found['line']}, to:")
            output.say(f'kek = "{to}"')

    @app.command("backup")
    def backup(config: ConfigArgument, file: FileArgument, json: JsonOption = False) -> None:
        """Copy the database into a new file.

        While the server runs, or while it does not. The keys in the copy are wrapped as in the database.
        """
        with serving(as_json=json):
            from pybcast import store

            of = config_of(config, role)
            made = store.backup(of.database, file.absolute(), owner=of.me)
            facts(
                {"file": str(file), "id": made.owner, "commit": made.commit, "time": made.time, "octets": made.octets},
                as_json=json,
            )

    @app.command("restore")
    def restore(config: ConfigArgument, file: FileArgument, kek: KekOption = "", json: JsonOption = False) -> None:
        """Put a copy in place of the database.

        While the server is stopped. The copy is checked first: every row, whose it is, and the key. What was there is kept beside
        it. The server notices, and makes new keys for everything; what was entered since the copy was made is lost.
        """
        with serving(as_json=json):
            from pybcast import store

            of = config_of(config, role)
            of = of.with_kek(kek) if kek else of
            done = store.restore(of.database, file.absolute(), of.kek(), owner=of.me, witness=of.witness)
            found = {
                "id": done.copy.owner, "commit": done.copy.commit, "time": done.copy.time, "octets": done.copy.octets,
                "lost_from": done.lost_from, "lost_to": done.lost_to, "kept": str(done.kept or ""),
            }  # fmt: skip
            if json:
                output.say_json(found)
                return
            output.say(output.plain(f"{of.database}: commit {done.copy.commit} of {shown_time(done.copy.time)} UTC"))
            if done.lost_to > done.lost_from:
                lost = f"{shown_time(done.lost_from)} to {shown_time(done.lost_to)}"
                output.say(f"lost: what was entered or changed from {lost} UTC; enter it again when the server runs")
            else:
                output.say("lost: nothing that is known of")
            if done.kept is not None:
                output.say(output.plain(f"kept: what was there before, in {done.kept}"))

    @app.command("log")
    def log(config: ConfigArgument, since: SinceOption = "", limit: LimitOption = 100, json: JsonOption = False) -> None:
        """The newest messages of the log.

        When, with whom, which tag and status; never what was in them.
        """
        with serving(as_json=json):
            from pybcast.servers import views

            start = moment(since, "--since") if since else 0
            rows(views.messages(config_of(config, role).database, since=start, limit=limit), as_json=json)


def _rotate(path: Path, role: str, to: str) -> dict[str, Any]:
    from pybcast.servers import control
    from pybcast.servers.toml import line_of

    config = config_of(path, role)
    try:
        found = control.ask(config.control, "kek-rotate", timeout=ROTATION, to=to)
    except control.NoServer:
        found = _rotate_alone(config, to)
    return {**found, "file": str(path), "line": line_of(path, "server", "kek")}


def _rotate_alone(config: Any, to: str) -> dict[str, Any]:
    from pybcast.store import SqliteStore, WrongKek, kek_id

    if not config.database.exists():
        raise ConfigError(f"{config.database}: no database yet: only change the configuration")
    new = config.with_kek(to).kek()
    try:
        store = SqliteStore(config.database, config.kek(), owner=config.me, witness=config.witness)
    except WrongKek:
        store = SqliteStore(config.database, new, owner=config.me, witness=config.witness)  # interrupted: do what is left
        with store:
            store.finish_rotation()
    else:
        with store:
            store.rotate_kek(new)
    return {"kek_id": kek_id(new)}


def show_service(path: Path, role: str, service: str, tables: Sequence[str], *, as_json: bool) -> None:
    """Configuration, state, and tables of the database of one service."""
    from pybcast.servers import views
    from pybcast.servers.config import described

    config = config_of(path, role)
    streams = [described(stream) for stream in config.streams if stream.service == service]
    if not streams:
        raise ConfigError(f"no such service here: {service}")
    found: dict[str, list[dict[str, Any]]] = {"configuration": streams}
    try:
        found["state"] = [row for row in ask(path, "status")["services"] if row["service"] == service]
        if role == "bsda":
            found["periods"] = ask(path, "periods", service=service)
    except TransportError as error:
        output.warn(f"{error} Only what its database holds is shown.", as_json=as_json)
    if config.database.exists():
        found |= {table: views.rows(config.database, table, service=service) for table in tables}
    if as_json:
        output.say_json({"service": service, **found})
        return
    for title, part in found.items():
        output.say(f"{title.replace('_', ' ')}:")
        if title == "configuration":
            for row in part:
                facts(row, as_json=False)
        else:
            rows([{name: value for name, value in row.items() if name != "service"} for row in part], as_json=False)
