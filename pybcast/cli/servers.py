# SPDX-License-Identifier: Apache-2.0
"""The commands of the servers: ``init``, ``check``, ``bsm``, ``bsda``, ``status``, ``pki``.

Only ``serve`` and ``check`` open what the configuration names; the others speak with the running server over its control socket.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pybcast.cli import input as reading
from pybcast.cli import output
from pybcast.cli.status import answering
from pybcast.errors import ConfigError

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The server's TOML file.", show_default=False)]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The subscriber.", show_default=False)]
ServiceArgument = Annotated[str, typer.Argument(metavar="SERVICE", help="GlobalServiceID.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")]
StreamOption = Annotated[int | None, typer.Option("--stream", help="One stream of it; all by default.", show_default=False)]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=36500, help="How long the right holds.")]
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", metavar="ID", help="A service he may see; may be repeated.", show_default=False)
]
ProfileOption = Annotated[str, typer.Option("--profile", metavar="NAME", help="Of random keys: smartcard or drm.")]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", show_default=False,
        help="JSON object of what his registration gave: smk, idr, or group, position, udk, riak; registration. In hexadecimal.",
    ),
]  # fmt: skip
RandomOption = Annotated[bool, typer.Option("--random", help="Random keys instead, for trying out: no terminal has them.")]
AtOnceOption = Annotated[bool, typer.Option("--at-once", help="With new long-term keys now, not with the next ones.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)]
PartiesOption = Annotated[
    list[str] | None,
    typer.Option("--party", metavar="NAME=URI", help="A certificate for a server; bsm and bsda by default.", show_default=False),
]
HostsOption = Annotated[
    list[str] | None, typer.Option("--host", metavar="HOST", help="A host name or address in them.", show_default=False)
]


@contextmanager
def _extra(*, as_json: bool) -> Iterator[None]:
    with answering(as_json=as_json):
        try:
            yield
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] == "pybcast":
                raise
            raise ConfigError(f"the servers need {missing.name}: pip install 'pybcast[server]'") from None


def _ask(config: Path, command: str, **arguments: Any) -> Any:
    from pybcast.servers.config import load
    from pybcast.servers.control import ask

    return ask(load(config).control, command, **arguments)


def _rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            output.say_json(row)
    elif rows:
        names = list(rows[0])
        output.table([name.replace("_", " ") for name in names], ([_cell(row[name]) for name in names] for row in rows))
    else:
        output.say("none")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item["service"]) if isinstance(item, dict) else str(item) for item in value)
    return "" if value is None else "yes" if value is True else "no" if value is False else str(value)


def _done(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.say_json(result)
    else:
        output.say(", ".join(f"{name} {value}" for name, value in result.items()))


def _group(text: str) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=text)


bsm = _group("The BSM: subscribers, rights and long-term keys.")
bsda = _group("The BSD/A: traffic keys, and what goes on air.")
subscriber = _group("Subscribers and their rights.")
key = _group("Long-term keys.")
service = _group("Services.")
pki = _group("Certificates for trying out.")
bsm.add_typer(subscriber, name="subscriber")
bsm.add_typer(key, name="key")
bsm.add_typer(service, name="service")


def register(app: typer.Typer) -> None:
    """Add the commands of the servers to ``pybcast``."""
    app.add_typer(bsm, name="bsm")
    app.add_typer(bsda, name="bsda")
    app.add_typer(pki, name="pki")
    app.command()(init)
    app.command()(check)
    app.command()(status)


@bsm.command("serve")
def bsm_serve(config: ConfigArgument) -> None:
    """Run the BSM until SIGTERM; SIGHUP reads the configuration again.

    Exit status: 0 stopped; 2 the configuration or a file cannot be used; 70 it failed.
    """
    with _extra(as_json=False):
        from pybcast.servers.bsm import Bsm
        from pybcast.servers.config import load

        raise typer.Exit(Bsm(load(config)).serve())


@bsda.command("serve")
def bsda_serve(config: ConfigArgument) -> None:
    """Run the BSD/A until SIGTERM; SIGHUP reads the configuration again.

    Exit status: 0 stopped; 2 the configuration or a file cannot be used; 70 it failed.
    """
    with _extra(as_json=False):
        from pybcast.servers.bsda import Bsda
        from pybcast.servers.config import load

        raise typer.Exit(Bsda(load(config)).serve())


def init(directory: FolderArgument, json: JsonOption = False) -> None:
    """Make a folder with all that two servers on this machine need: certificates, keys, configurations. To try them out."""
    with _extra(as_json=json):
        from pybcast.servers.example import write

        for path in write(directory):
            output.say_json({"file": str(path)}) if json else output.say(str(path))


def check(config: ConfigArgument, json: JsonOption = False) -> None:
    """Check a server's configuration, and the files that it names."""
    with _extra(as_json=json):
        from pybcast.servers.config import load

        found = load(config)
        found.check()
        facts = {"role": found.role, "id": found.me, "services": len(found.streams), "peers": list(found.peer_ids)}
        if json:
            output.say_json(facts)
        else:
            output.say(f"{config}: good: {found.role} {found.me}, {len(found.streams)} services, {len(found.peer_ids)} peers")


def status(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", show_default=False)], json: JsonOption = False
) -> None:
    """Show how running servers are: a light for each peer and service, the next key change, the last error.

    Exit status: 0 when all lights are green or yellow, 1 when one is red, 2 when a server does not answer.
    """
    with _extra(as_json=json):
        red = False
        for config in configs:
            found = _ask(config, "status")
            red = red or found["light"] == "red"
            if json:
                output.say_json(found)
                continue
            output.say(f"{found['light']}: {found['role']} {found['id']}, up {found['up']:.0f} s")
            _rows(found["peers"], as_json=False)
            _rows(found["services"], as_json=False)
            for alarm in found["alarms"]:
                output.say(output.plain(f"alarm {alarm['code']}: {alarm['service']} stream {alarm['stream']}: {alarm['text']}"))
        if red:
            raise typer.Exit(1)


@pki.command("init")
def pki_init(directory: FolderArgument, party: PartiesOption = None, host: HostsOption = None, json: JsonOption = False) -> None:
    """Make a test authority and certificates for two servers. Nothing is overwritten."""
    with _extra(as_json=json):
        from pybcast.backend import pki as making

        parties = {}
        for text in party or ("bsm=urn:example:bsm", "bsda=urn:example:bsda"):
            name, equals, uri = text.partition("=")
            if not equals or not name or Path(name).name != name:
                raise ConfigError(f"--party {text[:80]}: expected NAME=URI")
            parties[name] = uri
        made = making.init(directory, parties, hosts=host or making.HOSTS)
        for path in made:
            output.say_json({"file": str(path)}) if json else output.say(str(path))


@service.command("list")
def service_list(config: ConfigArgument, json: JsonOption = False) -> None:
    """The services that the running BSM knows."""
    with _extra(as_json=json):
        _rows(_ask(config, "service-list"), as_json=json)


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
    with _extra(as_json=json):
        if random == (keys is not None):
            raise ConfigError("--keys FILE or --random: one of them")
        values = None
        if keys is not None:
            try:
                values = jsonlib.loads(reading.read(str(keys), reading.MAX_KEYS))
            except ValueError:
                raise ConfigError(f"{keys}: not JSON") from None
        arguments: dict[str, Any] = {"name": name, "profile": profile, "services": service or [], "days": days}
        _done(_ask(config, "subscriber-add", **arguments, **({} if values is None else {"keys": values})), as_json=json)


@subscriber.command("list")
def subscriber_list(config: ConfigArgument, json: JsonOption = False) -> None:
    """All subscribers and their rights."""
    with _extra(as_json=json):
        _rows(_ask(config, "subscriber-list"), as_json=json)


@subscriber.command("grant")
def subscriber_grant(
    config: ConfigArgument, name: NameArgument, service: ServiceArgument, stream: StreamOption = None, days: DaysOption = 365,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Give a subscriber a right to a service."""
    with _extra(as_json=json):
        _done(_ask(config, "subscriber-grant", name=name, service=service, stream=stream, days=days), as_json=json)


@subscriber.command("withdraw")
def subscriber_withdraw(
    config: ConfigArgument, name: NameArgument, service: ServiceArgument, stream: StreamOption = None,
    at_once: AtOnceOption = False, json: JsonOption = False,
) -> None:  # fmt: skip
    """Take a subscriber's rights to a service away; complete with the next long-term key."""
    with _extra(as_json=json):
        _done(_ask(config, "subscriber-withdraw", name=name, service=service, stream=stream, at_once=at_once), as_json=json)


@key.command("list")
def key_list(config: ConfigArgument, json: JsonOption = False) -> None:
    """The long-term keys: ids, validity and state, never the keys."""
    with _extra(as_json=json):
        _rows(_ask(config, "key-list"), as_json=json)


@key.command("rekey")
def key_rekey(config: ConfigArgument, service: ServiceArgument, stream: StreamOption = None, json: JsonOption = False) -> None:
    """New long-term keys for a service as soon as its terminals can have them."""
    with _extra(as_json=json):
        _done(_ask(config, "rekey", service=service, stream=stream), as_json=json)
