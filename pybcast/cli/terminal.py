# SPDX-License-Identifier: Apache-2.0
"""``pybcast terminal``: from session descriptions and credentials to traffic keys."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pybcast import coredumps
from pybcast.cli import output
from pybcast.cli.asking import JsonOption, serving
from pybcast.errors import BcastError, ConfigError, WireError
from pybcast.flows.events import Refused, TekExpired, TekReady

if TYPE_CHECKING:
    from pybcast.sdp import Description
    from pybcast.terminals.process import Event

MAX_SDP: Final = 1 << 20


class Channel(StrEnum):
    """Where keys come from."""

    broadcast = "broadcast"
    interaction = "interaction"
    both = "both"


CredentialsArgument = Annotated[Path, typer.Argument(metavar="CREDENTIALS", help="The terminal's TOML file.", show_default=False)]
SdpArgument = Annotated[
    list[Path], typer.Argument(metavar="SDP...", help="Session descriptions of services (`pybcast bsda sdp`).", show_default=False)
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", metavar="SOCKET", help="A Unix socket that gives players their keys, a JSON object a line."),
]
RelayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--relay", metavar="ADDRESS:PORT", help="Open the SRTP of a media stream and send it there; one for each, in order."
    ),
]
ViaOption = Annotated[Channel, typer.Option("--via", help="Where keys come from.")]
TeksOption = Annotated[
    bool, typer.Option("--teks", help="Traffic keys on standard output, in clear, one JSON object a line.", show_default=False)
]


def terminal(
    credentials: CredentialsArgument,
    descriptions: SdpArgument,
    via: ViaOption = Channel.both,
    keys: KeysOption = None,
    relay: RelayOption = None,
    teks: TeksOption = False,
    json: JsonOption = False,
) -> None:
    """Receive key messages, and give the traffic keys they carry to players, until SIGTERM.

    Without --teks what is shown holds no key. A description that cannot be used is told, and the others are received. Exit status:
    0 stopped; 2 credentials or addresses cannot be used, or none of the descriptions; 70 it failed.
    """
    if json and teks:
        raise typer.BadParameter("--json and --teks both write lines to standard output")
    with serving(as_json=json):
        from pybcast.outlets.keyline import write_line
        from pybcast.servers.credentials import load
        from pybcast.terminals.process import Options, TerminalProcess

        def told(event: Event) -> None:
            if teks and isinstance(event, TekReady | TekExpired):
                sys.stdout.write(write_line(event).decode())
                sys.stdout.flush()
            elif not teks:
                _say(event, as_json=json)

        found = load(credentials)
        sessions = _descriptions(descriptions, relay, as_json=json)
        options = Options(via=via.value, keys=keys, relays=tuple(relay or ()), told=told)
        process = TerminalProcess(found, sessions, options)
        coredumps.switch_off()
        raise typer.Exit(process.serve())


def _descriptions(paths: Sequence[Path], relays: Sequence[str] | None, *, as_json: bool) -> list[Description]:
    """Those that can be read; of the others it is told why.  ``ConfigError`` if there is none."""
    found: list[Description] = []
    faults: list[ConfigError] = []
    for path in paths:
        try:
            found.append(_description(path))
        except ConfigError as error:
            faults.append(error)
    if faults and (relays or not found):
        why = f"{faults[0]}; so it is not known which media stream each --relay is for" if found else str(faults[0])
        raise ConfigError(f"{why} (and {len(faults) - 1} more like it)" if len(faults) > 1 else why)
    for fault in faults:
        output.warn(f"not used: {fault}", as_json=as_json)
    return found


def _description(path: Path) -> Description:
    from pybcast.sdp import parse

    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_SDP))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except WireError as error:
        raise ConfigError(f"{path}: {error}") from None


def _say(event: Event, *, as_json: bool) -> None:
    said: dict[str, object] = {"event": type(event).__name__}
    match event:
        case TekReady():
            said |= {"service": event.service, "stream": event.stream, "mki": event.mki.hex(), "until": event.until}
            text = f"{event.service} stream {event.stream}: key {event.mki.hex()}"
        case TekExpired():
            said |= {"service": event.service, "stream": event.stream, "mki": event.mki.hex()}
            text = f"{event.service} stream {event.stream}: key {event.mki.hex()} has expired"
        case Refused():
            error: BcastError = event.error
            said |= {"kind": event.kind, "error": error.as_dict()}
            text = f"refused {event.kind}: {error}"
    if as_json:
        sys.stdout.write(jsonlib.dumps(said) + "\n")
        sys.stdout.flush()
    else:
        output.say(text)
