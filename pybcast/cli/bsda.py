# SPDX-License-Identifier: Apache-2.0
"""``pybcast bsda ...``: services and their crypto periods at a BSD/A."""

from __future__ import annotations

from typing import Annotated

import typer

from pybcast import coredumps
from pybcast.cli import output, upkeep
from pybcast.cli.asking import (
    ConfigArgument,
    JsonOption,
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

bsda = group("The BSD/A: traffic keys, and what goes on air.")
service = group("Services and their crypto periods.")
key = group("Long-term keys that the BSM gave (F4).")
bsda.add_typer(service, name="service")
bsda.add_typer(key, name="key")
upkeep.add(bsda, "bsda")


@bsda.command("serve")
def serve(config: ConfigArgument) -> None:
    """Run the BSD/A until SIGTERM.

    SIGHUP reads the configuration again. Exit status: 0 stopped; 2 the configuration or a file cannot be used; 70 it failed.
    """
    with serving(as_json=False):
        from pybcast.servers.bsda import Bsda
        from pybcast.servers.config import load

        server = Bsda(load(config))
        coredumps.switch_off()
        raise typer.Exit(server.serve())


@bsda.command("sdp")
def sdp(
    config: ConfigArgument,
    service: ServiceArgument,
    stream: StreamOption = None,
    media: Annotated[
        list[str] | None,
        typer.Option(
            "--media", metavar="ADDRESS:PORT/KIND", help="A protected stream, such as 239.1.1.9:6000/H264.", show_default=False
        ),
    ] = None,
    interaction: Annotated[
        str, typer.Option("--interaction", metavar="URL", help="Where the BSM serves terminals.", show_default=False)
    ] = "",
    json: JsonOption = False,
) -> None:
    """The session description of a service, for terminals.

    With what the keys in use are called, from the running server; without, when it does not run.
    """
    with serving(as_json=json):
        from pybcast.sdp import write
        from pybcast.servers import control
        from pybcast.servers.description import MediaAt, described

        found = config_of(config, "bsda")
        streams = [MediaAt.read(text) for text in media or ()]
        facts = []
        try:
            facts = control.ask(found.control, "sdp", service=service)
        except control.NoServer as error:
            output.warn(f"{error} Names of keys in use are left out.", as_json=json)
        now = moment("+0", "now")
        text = write(described(found, service, stream=stream, media=streams, interaction=interaction, facts=facts, now=now))
        if json:
            output.say_json({"service": service, "sdp": text})
        else:
            output.say(text.replace("\r\n", "\n").rstrip("\n"))


@service.command("list")
def service_list(config: ConfigArgument, json: JsonOption = False) -> None:
    """The services of the configuration."""
    with serving(as_json=json):
        from pybcast.servers.config import described

        rows([described(stream) for stream in config_of(config, "bsda").streams], as_json=json)


@service.command("show")
def service_show(config: ConfigArgument, service: ServiceArgument, json: JsonOption = False) -> None:
    """One service: its configuration, its state in the running server, its crypto periods and long-term keys."""
    with serving(as_json=json):
        upkeep.show_service(config, "bsda", service, ("key_version",), as_json=json)


@service.command("boundary")
def service_boundary(
    config: ConfigArgument,
    service: ServiceArgument,
    time: Annotated[str, typer.Argument(metavar="TIME", help="2030-01-31T20:15:00Z, or +SECONDS from now.", show_default=False)],
    stream: StreamOption = None,
    json: JsonOption = False,
) -> None:
    """Begin a new crypto period at a time: the edge of an event. Says from when it holds: later where periods are prepared."""
    with serving(as_json=json):
        facts(ask(config, "boundary", role="bsda", service=service, stream=stream, time=moment(time, "TIME")), as_json=json)


@key.command("list")
def key_list(config: ConfigArgument, service: OneServiceOption = None, json: JsonOption = False) -> None:
    """The long-term keys: ids and validity, never the keys."""
    with serving(as_json=json):
        from pybcast.servers import views

        hidden = ("state", "programme", "sealer")  # the BSM's matter
        found = views.rows(config_of(config, "bsda").database, "key_version", service=service)
        rows([{name: value for name, value in row.items() if name not in hidden} for row in found], as_json=json)
