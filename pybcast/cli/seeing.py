# SPDX-License-Identifier: Apache-2.0
"""The commands that let people see what is on the network and in the servers: ``capture``, ``wireshark``, ``watch``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pybcast.cli import output
from pybcast.cli import wireshark as dissecting
from pybcast.cli.asking import JsonOption, OneServiceOption, group, serving
from pybcast.cli.status import BAD_MESSAGE, USAGE, answering
from pybcast.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pybcast.cli.watching import Snapshot

wireshark = group("The Wireshark dissector of key messages.")

OutArgument = Annotated[
    str, typer.Argument(metavar="FILE|-", help="The pcapng file, or - for standard output.", show_default=False)
]
SdpOption = Annotated[
    list[str] | None,
    typer.Option("--sdp", metavar="FILE", help="Listen where a session description says; may be repeated.", show_default=False),
]
AddressOption = Annotated[
    list[str] | None,
    typer.Option(
        "--address", metavar="HOST:PORT[=KIND]", show_default=False,
        help="Listen there ([HOST] of IPv6); may be repeated. KIND: a kind of message, stkm, ltkm, flute, or auto (the default).",
    ),
]  # fmt: skip
InterfaceOption = Annotated[
    str,
    typer.Option(
        "--interface",
        metavar="ADDRESS",
        help="The interface that joins multicast groups, by its IPv4 address or its name; the system's choice by default.",
    ),
]
CountOption = Annotated[int | None, typer.Option("--count", min=1, help="End after so many datagrams.", show_default=False)]
SecondsOption = Annotated[float | None, typer.Option("--seconds", min=0, help="End after so many seconds.", show_default=False)]
DirOption = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="Instead of Wireshark's own folder for Lua plugins.", show_default=False)
]
ConfigsArgument = Annotated[list[Path], typer.Argument(metavar="CONFIG", help="TOML files of servers.", show_default=False)]
EveryOption = Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, max=3600, help="Time between two looks.")]
OnceOption = Annotated[bool, typer.Option("--once", help="Look once, show it and end, with the exit status of `pybcast status`.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``pybcast``."""
    app.command()(capture)
    app.command()(watch)
    app.add_typer(wireshark, name="wireshark")


def capture(
    out: OutArgument,
    sdp: SdpOption = None,
    address: AddressOption = None,
    interface: InterfaceOption = "0.0.0.0",
    count: CountOption = None,
    seconds: SecondsOption = None,
    json: JsonOption = False,
) -> None:
    """Write the key messages on the network into a pcapng file, each with a comment that says what it is.

    A description or address that cannot be used is told, and the others are recorded; exit status 2 when there is none. Ends with
    Ctrl-C or SIGTERM, or when --count or --seconds is reached. The file is whole then, also when the disk was full.
    Wireshark shows it as it grows: pybcast capture - --sdp service.sdp | wireshark -k -i -
    """
    with answering(as_json=json):
        from pybcast.cli import capturing
        from pybcast.outlets.media import ntp_now

        def tell(text: str) -> None:
            output.note_json({"note": text}) if json else output.note(output.plain(text))

        sources, faults = [capturing.source(text) for text in address or ()], list[ConfigError]()
        for path in sdp or ():
            try:
                found, told = capturing.described(path, ntp_now())
            except ConfigError as fault:
                faults.append(fault)
                continue
            sources += found
            for text in told:
                tell(text)
        if not sources:
            raise faults[0] if faults else ConfigError("where to listen? --sdp FILE, --address HOST:PORT")
        for unused in faults:
            tell(f"not used: {unused}")
        capturing.check(out)
        result = capturing.run(sources, out, interface=interface, count=count, seconds=seconds, tell=tell)
        facts = {"file": out, **asdict(result)}
        text = f"{out}: {result.datagrams} datagrams" + (f", {result.lost} lost before" if result.lost else "")
        text += f", {result.foreign} of other senders (source-filter)" if result.foreign else ""
        if out == "-":
            output.note_json(facts) if json else output.note(text)
        else:
            output.say_json(facts) if json else output.say(output.plain(text))


def watch(
    configs: ConfigsArgument,
    service: OneServiceOption = None,
    every: EveryOption = 1.0,
    once: OnceOption = False,
    json: JsonOption = False,
) -> None:
    """Show running servers as they change: services, periods, ids of the keys in use, peers, alarms.

    On a screen a picture that renews itself, until Ctrl-C; elsewhere, and with --json, a line for each change. Servers may come and
    go. No key is shown, only ids.
    """
    with serving(as_json=json):
        from pybcast.cli.stopping import stopping
        from pybcast.cli.watching import Watcher, picture, servers

        with stopping() as stop:
            watcher = Watcher(servers(configs), every, stop.wait, service)
            console = output.console()
            if once:
                _once(watcher.look(), picture, as_json=json)
            elif json or not console.is_terminal:
                watcher.lines(as_json=json)
            else:
                watcher.live(console)


def _once(found: Sequence[Snapshot], picture: Callable[[Sequence[Snapshot]], RenderableType], *, as_json: bool) -> None:
    if as_json:
        for snapshot in found:
            output.say_json(asdict(snapshot))
    else:
        output.console().print(picture(found))
    if any(snapshot.error for snapshot in found):
        raise typer.Exit(USAGE)
    if any(snapshot.light == "red" for snapshot in found):
        raise typer.Exit(BAD_MESSAGE)


@wireshark.command("path")
def wireshark_path(json: JsonOption = False) -> None:
    """Print where the dissector lies: for `tshark -X lua_script:$(pybcast wireshark path)`."""
    with answering(as_json=json):
        found = str(dissecting.path())
        output.say_json({"file": found}) if json else output.say(found)


@wireshark.command("install")
def wireshark_install(directory: DirOption = None, json: JsonOption = False) -> None:
    """Put the dissector where Wireshark and tshark find it. Asked again, it is brought up to date; a foreign file is left alone."""
    with answering(as_json=json):
        where = dissecting.folder() if directory is None else directory
        done = dissecting.install(where)
        file = where / dissecting.NAME
        output.say_json({"file": str(file), "done": done}) if json else output.say(output.plain(f"{file}: {done}"))
