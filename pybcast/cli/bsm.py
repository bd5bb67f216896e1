# SPDX-License-Identifier: Apache-2.0
"""``pybcast bsm ...``: subscribers, groups, rights, programmes, services and long-term keys of a BSM.

What changes something speaks with the running server over its control socket; ``list`` and ``show`` read its database, whether it
runs or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pybcast import coredumps, jsontext
from pybcast.cli import importing, output, upkeep
from pybcast.cli import input as reading
from pybcast.cli.asking import (
    ConfigArgument,
    DaysOption,
    JsonOption,
    LimitOption,
    NameArgument,
    OneServiceOption,
    ServiceArgument,
    StreamOption,
    ask,
    config_of,
    facts,
    group,
    moment,
    rows,
    serving,
)
from pybcast.cli.status import USAGE
from pybcast.errors import BadValue, ConfigError

GROUP_KEYS: Final = ("address", "root", "ugk", "riak", "size")
"""The names of a group's key file."""
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", metavar="ID", help="A service he may see; may be repeated.", show_default=False)
]
ProfileOption = Annotated[str, typer.Option("--profile", metavar="NAME", help="Of random keys: smartcard or drm.")]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", show_default=False,
        help="JSON object of what his registration gave: smk, idr, srk, or group, position, udk, riak, udn; registration. In hex.",
    ),
]  # fmt: skip
RandomOption = Annotated[bool, typer.Option("--random", help="Random keys instead, for trying out: no terminal has them.")]
AtOnceOption = Annotated[bool, typer.Option("--at-once", help="With new long-term keys now, not with the next ones.")]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--without",
        metavar="ID",
        help="A BSD/A of a pair that is off air: nothing waits for it.",
        show_default=False,
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Look at every line, change nothing.")]
ProgrammeOption = Annotated[
    str | None, typer.Option("--programme", metavar="ID", help="Only this programme (GlobalContentID).", show_default=False)
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE.csv", help="Many: CSV with a header; - for standard input.", show_default=False),
]
OneNameArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the subscriber.", show_default=False)]
OneServiceArgument = Annotated[str | None, typer.Argument(metavar="[SERVICE]", help="GlobalServiceID.", show_default=False)]
ContentArgument = Annotated[str, typer.Argument(metavar="PROGRAMME", help="GlobalContentID.", show_default=False)]
WHEN = "2030-01-31T20:15:00Z, or +SECONDS from now."
StartOption = Annotated[str, typer.Option("--start", metavar="TIME", help=WHEN, show_default=False)]
EndOption = Annotated[str, typer.Option("--end", metavar="TIME", help=WHEN, show_default=False)]

bsm = group("The BSM: subscribers, rights, programmes and long-term keys.")
subscriber = group("Subscribers and their rights.")
subscriber_group = group("Subscriber groups of the DRM Profile.")
programme = group("Programmes with a key of their own.")
key = group("Long-term keys.")
service = group("Services.")
for made, name in (
    (service, "service"), (programme, "programme"), (subscriber, "subscriber"), (subscriber_group, "group"), (key, "key"),
):  # fmt: skip
    bsm.add_typer(made, name=name)
upkeep.add(bsm, "bsm")


@bsm.command("serve")
def serve(config: ConfigArgument) -> None:
    """Run the BSM until SIGTERM.

    SIGHUP reads the configuration again. Exit status: 0 stopped; 2 the configuration or a file cannot be used; 70 it failed.
    """
    with serving(as_json=False):
        from pybcast.servers.bsm import Bsm
        from pybcast.servers.config import load

        server = Bsm(load(config))
        coredumps.switch_off()
        raise typer.Exit(server.serve())


def _view(config: Path, view: str, *, limit: int = -1, **where: str | None) -> list[dict[str, Any]]:
    from pybcast.servers import views

    return views.rows(config_of(config, "bsm").database, view, limit=limit, **where)


# --- services ---------------------------------------------------------------------------------------------------------------


@service.command("list")
def service_list(config: ConfigArgument, json: JsonOption = False) -> None:
    """The services of the configuration."""
    with serving(as_json=json):
        from pybcast.servers.config import described

        rows([described(stream) for stream in config_of(config, "bsm").streams], as_json=json)


@service.command("show")
def service_show(config: ConfigArgument, service: ServiceArgument, json: JsonOption = False) -> None:
    """One service: its configuration, its state in the running server, its long-term keys, programmes and LTKMs on air."""
    with serving(as_json=json):
        upkeep.show_service(config, "bsm", service, ("key_version", "programme", "issued"), as_json=json)


# --- programmes -------------------------------------------------------------------------------------------------------------


@programme.command("add")
def programme_add(
    config: ConfigArgument, service: ServiceArgument, programme: ContentArgument, start: StartOption, end: EndOption,
    stream: StreamOption = None, json: JsonOption = False,
) -> None:  # fmt: skip
    """Sell a programme by itself: it gets a key, or a window, of its own. Said again it stays as it is."""
    with serving(as_json=json):
        times = {"start": moment(start, "--start"), "end": moment(end, "--end")}
        facts(ask(config, "programme-add", role="bsm", service=service, content=programme, stream=stream, **times), as_json=json)


@programme.command("remove")
def programme_remove(
    config: ConfigArgument, service: ServiceArgument, programme: ContentArgument, stream: StreamOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Take a programme back, as long as none of its periods can be prepared.

    Not where the BSD/A seals (generation = "bsda") in the DRM Profile: no message takes the programme's key back from it. Rights
    to it stay until they end. A BSD/A may still begin and end a period where the programme would have.
    """
    with serving(as_json=json):
        facts(ask(config, "programme-remove", role="bsm", service=service, content=programme, stream=stream), as_json=json)


@programme.command("list")
def programme_list(config: ConfigArgument, service: OneServiceOption = None, json: JsonOption = False) -> None:
    """The programmes that are not over."""
    with serving(as_json=json):
        rows(_view(config, "programme", service=service), as_json=json)


@programme.command("show")
def programme_show(config: ConfigArgument, programme: ContentArgument, json: JsonOption = False) -> None:
    """One programme, its keys, and who has a right to it alone."""
    with serving(as_json=json):
        found = _view(config, "programme", content=programme)
        if not found:
            raise ConfigError(f"no programme {programme}")
        keys, rights = _view(config, "key_version", programme=programme), _view(config, "entitlement", content=programme)
        if json:
            output.say_json({"programme": found, "keys": keys, "rights": rights})
            return
        for part in (found, keys, rights):
            rows(part, as_json=False)


# --- subscribers ------------------------------------------------------------------------------------------------------------


@subscriber.command("add")
def subscriber_add(
    config: ConfigArgument,
    name: NameArgument,
    keys: KeysOption = None,
    random: RandomOption = False,
    profile: ProfileOption = "smartcard",
    service: ServicesOption = None,
    days: DaysOption = 365,
    json: JsonOption = False,
) -> None:
    """Add a subscriber, or give an old one new keys; his LTKMs go out at once."""
    with serving(as_json=json):
        if random == (keys is not None):
            raise ConfigError("--keys FILE or --random: one of them")
        arguments: dict[str, Any] = {"name": name, "profile": profile, "services": service or [], "days": days}
        if keys is not None:
            arguments["keys"] = _json_file(keys)
        with _of_file(keys):
            added = ask(config, "subscriber-add", role="bsm", **arguments)
        facts(added, as_json=json)


@contextmanager
def _of_file(path: Path | None) -> Iterator[None]:
    """A refusal that begins with a name of a key file names that file too."""
    try:
        yield
    except ConfigError as error:
        if path is None or str(error).partition(":")[0] not in (*importing.COLUMNS, *GROUP_KEYS):
            raise
        raise ConfigError(f"{path}: {error}") from None


def _json_file(path: Path) -> Any:
    try:
        return jsontext.read(reading.read(str(path), reading.MAX_KEYS), strict=True)
    except BadValue as error:
        raise ConfigError(f"{path}: not JSON: {error.found}") from None


@subscriber.command("import")
def subscriber_import(
    config: ConfigArgument,
    file: Annotated[str, typer.Argument(metavar="FILE.csv", help="CSV with a header; - for standard input.", show_default=False)],
    days: DaysOption = 365,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Add many subscribers from a CSV file, or give them new keys and rights.

    The header names columns of: subscriber; smk, idr, srk (Smartcard Profile) or group, position, udk, riak, udn (DRM Profile);
    registration; services (GlobalServiceIDs with spaces between them); until (last day of the rights, YYYY-MM-DD; else --days).
    Keys are hexadecimal. A line that cannot be used is named (FILE:LINE: COLUMN: reason) and the others are imported; importing
    the same again changes nothing. Exit status: 0 all lines imported, 2 some were not.
    """
    with serving(as_json=json):
        counted = ("added", "changed", "unchanged")
        _file(config, "subscriber-import", file, importing.COLUMNS, counted, as_json=json, days=days, dry_run=dry_run)


def _file(
    config: Path, command: str, file: str, columns: Sequence[str], counted: Sequence[str], *, as_json: bool, **arguments: Any
) -> None:
    """Send a CSV file; say what came of it."""

    def refused(line: int, column: str, reason: str) -> None:
        if as_json:
            output.note_json({"error": {"file": file, "line": line, "column": column, "reason": reason}})
        else:
            output.note(f"{file}:{line}: {column}: {reason}")

    def send(rows: list[dict[str, str]]) -> dict[str, Any]:
        answer: dict[str, Any] = ask(config, command, role="bsm", rows=rows, **arguments)
        return answer

    total = importing.run(file, send, refused, as_json=as_json, progress=not as_json, columns=columns, counted=counted)
    facts({**total, "dry_run": arguments["dry_run"]}, as_json=as_json)
    if total["refused"]:
        raise typer.Exit(USAGE)


@subscriber.command("list")
def subscriber_list(config: ConfigArgument, limit: LimitOption = 1000, json: JsonOption = False) -> None:
    """Subscribers and their rights."""
    with serving(as_json=json):
        from pybcast.servers import views

        rows(views.subscribers(config_of(config, "bsm").database, limit), as_json=json)


@subscriber.command("show")
def subscriber_show(config: ConfigArgument, name: NameArgument, json: JsonOption = False) -> None:
    """One subscriber and his rights."""
    with serving(as_json=json):
        from pybcast.servers import views

        found = views.subscriber(config_of(config, "bsm").database, name)
        if json:
            output.say_json(found)
            return
        rights = found.pop("rights")
        facts({name: value for name, value in found.items() if value or name in ("subscriber", "profile")}, as_json=False)
        rows(rights, as_json=False)


@subscriber.command("remove")
def subscriber_remove(config: ConfigArgument, name: NameArgument, at_once: AtOnceOption = False, json: JsonOption = False) -> None:
    """Take all of a subscriber's rights away, as withdraw does, and forget him.

    Of one with a card the name and a digest of his SMK stay, so that no COUNTER is used twice when he is added again. His
    registration material stays on the carousels until they start anew.
    """
    with serving(as_json=json):
        facts(ask(config, "subscriber-remove", role="bsm", name=name, at_once=at_once), as_json=json)


@subscriber.command("grant")
def subscriber_grant(
    config: ConfigArgument, name: OneNameArgument = None, service: OneServiceArgument = None, stream: StreamOption = None,
    programme: ProgrammeOption = None, days: DaysOption = 365, source: FromOption = None, dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Give a subscriber a right to a service, or to one programme of it.

    Or to many: --from FILE.csv, with the columns subscriber, services (GlobalServiceIDs with spaces between them), programme
    and until (last day of the right, YYYY-MM-DD; else --days). A line that cannot be used is named, and the others are carried
    out. Exit status: 0 all lines, 2 some were not.
    """
    with serving(as_json=json):
        if _from_file(name, service, source, stream, programme, dry_run=dry_run):
            counted = ("granted", "unchanged")
            how = {"days": days, "dry_run": dry_run}
            _file(config, "subscriber-grants", str(source), importing.RIGHTS, counted, as_json=json, **how)
            return
        arguments = {"name": name, "service": service, "stream": stream, "content": programme, "days": days}
        facts(ask(config, "subscriber-grant", role="bsm", **arguments), as_json=json)


def _from_file(name: str | None, service: str | None, source: str | None, *of_one: object, dry_run: bool) -> bool:
    """Whether a command is about the lines of a file, and not about one subscriber and service."""
    if source is None:
        if name is None or service is None or dry_run:
            raise ConfigError("NAME and SERVICE, or --from FILE.csv with --dry-run or without")
        return False
    if name is not None or service is not None or any(value is not None for value in of_one):
        raise ConfigError("--from FILE.csv: the file says who and what; no NAME, SERVICE, --stream or --programme beside it")
    return True


@subscriber.command("withdraw")
def subscriber_withdraw(
    config: ConfigArgument, name: OneNameArgument = None, service: OneServiceArgument = None, stream: StreamOption = None,
    at_once: AtOnceOption = False, source: FromOption = None, dry_run: DryRunOption = False, json: JsonOption = False,
) -> None:  # fmt: skip
    """Take a subscriber's rights to a service away; complete with the next long-term key.

    Or those of many: --from FILE.csv, with the columns subscriber and services (GlobalServiceIDs with spaces between them).
    Exit status: 0 all lines, 2 some could not be used.
    """
    with serving(as_json=json):
        if _from_file(name, service, source, stream, dry_run=dry_run):
            counted, columns = ("withdrawn", "unchanged"), importing.WITHDRAWN
            how = {"at_once": at_once, "dry_run": dry_run}
            _file(config, "subscriber-withdrawals", str(source), columns, counted, as_json=json, **how)
            return
        arguments = {"name": name, "service": service, "stream": stream, "at_once": at_once}
        facts(ask(config, "subscriber-withdraw", role="bsm", **arguments), as_json=json)


@subscriber_group.command("add")
def group_add(
    config: ConfigArgument,
    keys: Annotated[Path, typer.Argument(metavar="FILE", help="JSON object: address, root, ugk, riak; size.", show_default=False)],
    json: JsonOption = False,
) -> None:
    """Add a subscriber group of the DRM Profile, before its subscribers."""
    with serving(as_json=json):
        values = _json_file(keys)
        if not isinstance(values, dict):
            raise ConfigError(f"{keys}: not a JSON object")
        with _of_file(keys):
            added = ask(config, "group-add", role="bsm", **{str(name): value for name, value in values.items()})
        facts(added, as_json=json)


@subscriber_group.command("list")
def group_list(config: ConfigArgument, json: JsonOption = False) -> None:
    """The subscriber groups."""
    with serving(as_json=json):
        rows(_view(config, "subscriber_group"), as_json=json)


# --- keys -------------------------------------------------------------------------------------------------------------------


@key.command("list")
def key_list(config: ConfigArgument, service: OneServiceOption = None, json: JsonOption = False) -> None:
    """The long-term keys: ids, validity and state, never the keys."""
    with serving(as_json=json):
        found = _view(config, "key_version", service=service)
        order = ("service", "stream", "valid_from", "key_type")
        rows(sorted(found, key=lambda row: tuple(row[name] for name in order)), as_json=json)


@key.command("rekey")
def key_rekey(
    config: ConfigArgument,
    service: ServiceArgument,
    stream: StreamOption = None,
    without: WithoutOption = None,
    json: JsonOption = False,
) -> None:
    """New long-term keys for a service as soon as its terminals can have them."""
    with serving(as_json=json):
        facts(ask(config, "rekey", role="bsm", service=service, stream=stream, without=without or []), as_json=json)
