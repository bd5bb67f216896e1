# SPDX-License-Identifier: Apache-2.0
"""The commands of the servers: ``init``, ``check``, ``status``, ``pki``, ``metrics``; those of each are in ``bsm`` and ``bsda``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pybcast.cli import output
from pybcast.cli.air import air
from pybcast.cli.asking import ConfigArgument, JsonOption, ask, config_of, group, rows, serving
from pybcast.cli.bsda import bsda
from pybcast.cli.bsm import bsm
from pybcast.cli.status import USAGE
from pybcast.cli.terminal import terminal
from pybcast.errors import ConfigError, TransportError

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)]
PartiesOption = Annotated[
    list[str] | None,
    typer.Option("--party", metavar="NAME=URI", help="A certificate for a server; bsm and bsda by default.", show_default=False),
]
HostsOption = Annotated[
    list[str] | None, typer.Option("--host", metavar="HOST", help="A host name or address in them.", show_default=False)
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the files: NAME.pem, NAME-key.pem.", show_default=False)]
RevokedArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NAME...", help="Of the certificates: NAME.pem.", show_default=False)
]
ListDaysOption = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long the list holds.")]
UdnOption = Annotated[str, typer.Option("--udn", metavar="DIGITS", help="20 digits, the subscriber's udn.", show_default=False)]
ConfigsArgument = Annotated[list[Path], typer.Argument(metavar="CONFIG", help="TOML files of servers.", show_default=False)]
WaitOption = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", min=0, max=86400, help="Until all is green, at most so long.")
]
LOOK: Final = 0.25  # seconds between two questions while waiting

pki = group("Certificates for trying out.")
metrics = group("What a running server's /metrics is good for.")


def register(app: typer.Typer) -> None:
    """Add the commands of the servers to ``pybcast``."""
    app.add_typer(bsm, name="bsm")
    app.add_typer(bsda, name="bsda")
    app.add_typer(air, name="air")
    app.add_typer(pki, name="pki")
    app.add_typer(metrics, name="metrics")
    app.command()(init)
    app.command()(check)
    app.command()(status)
    app.command()(terminal)


def init(directory: FolderArgument, json: JsonOption = False) -> None:
    """Make a folder with all that two servers and two terminals on this machine need: certificates, keys, configurations."""
    with serving(as_json=json):
        from pybcast.servers.example import write

        for path in write(directory):
            output.say_json({"file": str(path)}) if json else output.say(str(path))


def check(config: ConfigArgument, json: JsonOption = False) -> None:
    """Check a server's configuration, and the files that it names."""
    with serving(as_json=json):
        from pybcast.https.validity import now
        from pybcast.servers.config import load
        from pybcast.servers.sending import stkm_settings

        found = load(config)
        found.check()
        if found.sender is not None:
            stkm_settings(found)
        moment = now()
        for certificate in found.certificates():
            if why := certificate.why(moment):
                output.warn(f"{config}: {certificate.key}: {why}", as_json=json)
        facts = {"role": found.role, "id": found.me, "services": len(found.streams), "peers": list(found.peer_ids)}
        if json:
            output.say_json(facts)
        else:
            output.say(f"{config}: good: {found.role} {found.me}, {len(found.streams)} services, {len(found.peer_ids)} peers")


def status(configs: ConfigsArgument, wait: WaitOption = 0, json: JsonOption = False) -> None:
    """Show how running servers are: a light for each peer and service, the next key change, the last errors.

    Exit status: 0 when all lights are green or yellow, 1 when one is red, 2 when a server does not answer.
    """
    with serving(as_json=json):
        for config in configs:
            config_of(config)  # a mistake in a file is said before anything else
        found = _waited(configs, time.monotonic() + wait)
        for answer in found:
            if isinstance(answer, TransportError):
                output.report(answer, as_json=json)
            elif json:
                output.say_json(answer)
            else:
                _show(answer)
        if any(isinstance(answer, TransportError) for answer in found):
            raise typer.Exit(USAGE)
        if "red" in _lights(found):
            raise typer.Exit(1)


Answer = dict[str, Any] | TransportError


def _waited(configs: Sequence[Path], until: float) -> list[Answer]:
    while True:
        found: list[Answer] = []
        for config in configs:
            try:
                found.append(ask(config, "status"))
            except TransportError as error:  # the others may answer
                found.append(error)
        if _lights(found) == {"green"} or time.monotonic() >= until:
            return found
        time.sleep(LOOK)


def _lights(found: Sequence[Answer]) -> set[str]:
    return {"none" if isinstance(answer, TransportError) else answer["light"] for answer in found}


def _show(found: dict[str, Any]) -> None:
    output.say_styled(found["light"], output.LIGHTS[found["light"]], f" {found['role']} {found['id']}, up {found['up']:.0f} s")
    rows(found["peers"], as_json=False)
    rows(found["services"], as_json=False)
    for each in found["certificates"]:
        if each["light"] != "green":
            output.say_styled(
                each["light"], output.LIGHTS[each["light"]], output.plain(f" {each['certificate']} ends {each['ends']}")
            )
    for process in found.get("air", ()):
        output.say_styled(
            process["light"], output.LIGHTS[process["light"]], f" {process['air']} {output.plain(process['why'])}".rstrip()
        )
    for issuing in found.get("issuing", ()):
        output.say(
            output.plain(f"LTKMs of {issuing['service']} stream {issuing['stream']}: {issuing['done']} of {issuing['of']} issued")
        )
    if found["restored"]:
        output.say(output.plain(f"restored: {found['restored']['text']}"))
    for alarm in found["alarms"]:
        output.say(output.plain(f"alarm {alarm['code']}: {alarm['service']} stream {alarm['stream']}: {alarm['text']}"))


@pki.command("init")
def pki_init(directory: FolderArgument, party: PartiesOption = None, host: HostsOption = None, json: JsonOption = False) -> None:
    """Make a test authority and certificates for two servers. Nothing is overwritten."""
    with serving(as_json=json):
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


@pki.command("terminal")
def pki_terminal(directory: FolderArgument, name: NameArgument, udn: UdnOption, json: JsonOption = False) -> None:
    """Make a certificate for a DRM terminal, who it is on the interaction channel; and its authority, where DIR has none."""
    with serving(as_json=json):
        from pybcast.backend import pki as making
        from pybcast.interaction.server import UDN_URI

        if Path(name).name != name or name == "ca":
            raise ConfigError("NAME: expected the name of a file, not ca")
        if not (len(udn) == 20 and udn.isascii() and udn.isdigit()):
            raise ConfigError("--udn: expected 20 digits")
        made = [] if (directory / "ca.pem").exists() else making.init(directory, {})
        made += making.issue(directory, name, f"{UDN_URI}{udn}", hosts=(), listens=False)
        for path in made:
            output.say_json({"file": str(path)}) if json else output.say(str(path))


@pki.command("revoke")
def pki_revoke(
    directory: FolderArgument, name: RevokedArgument = None, days: ListDaysOption = 365, json: JsonOption = False
) -> None:
    """Take certificates back: make the list crl.pem, or make it anew with these added. Without NAME only its days begin again."""
    with serving(as_json=json):
        from pybcast.backend import pki as making

        if any(Path(one).name != one or one == "ca" for one in name or ()):
            raise ConfigError("NAME: expected the name of a certificate's file, without .pem, not ca")
        made = making.revoke(directory, name or (), days=days)
        output.say_json({"file": str(made)}) if json else output.say(str(made))


@metrics.command("dashboard")
def dashboard() -> None:
    """Print a Grafana dashboard of the servers' figures, for Grafana's import."""
    with serving(as_json=False):
        from importlib.resources import files

        output.say(files("pybcast.servers").joinpath("grafana.json").read_text("utf-8").rstrip("\n"))
