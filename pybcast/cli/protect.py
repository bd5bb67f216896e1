# SPDX-License-Identifier: Apache-2.0
"""``pybcast protect`` and ``pybcast relay``: media under the keys of a key socket, as a process of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pybcast import coredumps
from pybcast.cli import output
from pybcast.cli.asking import JsonOption
from pybcast.cli.status import answering
from pybcast.errors import ConfigError

if TYPE_CHECKING:
    from pybcast.outlets.media import Converter, Route
    from pybcast.outlets.udp import Address

KeysOption = Annotated[Path, typer.Option("--keys", metavar="SOCKET", help="The key socket to follow.", show_default=False)]
ServicesOption = Annotated[
    list[str], typer.Option("--service", metavar="ID", help="A service; may be given several times.", show_default=False)
]
StreamsOption = Annotated[
    list[int] | None,
    typer.Option("--stream", metavar="N", help="Its stream, one for each service; 1 by default.", show_default=False),
]
FromOption = Annotated[
    list[str], typer.Option("--from", metavar="HOST:PORT", help="Where it comes from, one for each service.", show_default=False)
]
ToOption = Annotated[
    list[str],
    typer.Option("--to", metavar="HOST:PORT,...", help="Where it goes, one (or several) for each service.", show_default=False),
]
InterfaceOption = Annotated[
    str,
    typer.Option("--interface", metavar="ADDRESS", help="Of multicast: its address (IPv4) or name (IPv6).", show_default=False),
]
TtlOption = Annotated[int, typer.Option("--ttl", min=0, max=255, help="Of multicast.")]
MtuOption = Annotated[
    int,
    typer.Option(
        "--mtu", metavar="BYTES", min=128, max=65_535,
        help="The largest IP packet to send; by default all that an encoder makes for Ethernet goes out (RTP of 1,472 bytes).",
    ),
]  # fmt: skip
EveryOption = Annotated[float, typer.Option("--statistics", metavar="SECONDS", min=0, help="Figures so often; 0: at the end only.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``pybcast``."""
    app.command()(protect)
    app.command()(relay)


def protect(
    keys: KeysOption,
    service: ServicesOption,
    source: FromOption,
    target: ToOption,
    stream: StreamsOption = None,
    interface: InterfaceOption = "",
    ttl: TtlOption = 1,
    mtu: MtuOption = 1546,
    positions: Annotated[
        Path | None,
        typer.Option("--positions", metavar="FILE", help="Where streams are, for the next start (R39).", show_default=False),
    ] = None,
    statistics: EveryOption = 0,
    json: JsonOption = False,
) -> None:
    """Protect encoders' RTP as SRTP under the traffic keys of a BSD/A, until SIGTERM.

    RTCP, on the next port, goes through in clear. Exit status: 0 stopped; 2 an argument or address cannot be used.
    """
    with answering(as_json=json):
        from pybcast.outlets.protect import Positions, Protect
        from pybcast.outlets.udp import headers

        protects: list[Protect] = []

        def make(name: str, number: int, targets: Sequence[Address]) -> Protect:
            protects.append(Protect(name, number, mtu=mtu, headers=max(map(headers, targets))))
            return protects[-1]

        routes = _routes(make, service, stream, source, target, interface, ttl)
        beside = None
        if positions is not None:
            held = Positions(positions, protects)
            held.load()
            beside = held.save
        _run(keys, routes, statistics, json, beside)


def relay(
    keys: KeysOption,
    service: ServicesOption,
    source: FromOption,
    target: ToOption,
    stream: StreamsOption = None,
    interface: InterfaceOption = "",
    ttl: TtlOption = 1,
    statistics: EveryOption = 0,
    json: JsonOption = False,
) -> None:
    """Open SRTP for players that know no keys: RTP under the traffic keys that a terminal obtained, until SIGTERM.

    RTCP, on the next port, goes through in clear. Exit status: 0 stopped; 2 an argument or address cannot be used.
    """
    with answering(as_json=json):
        from pybcast.outlets.relay import Open

        def make(name: str, number: int, _targets: Sequence[Address]) -> Open:
            return Open(name, number)

        _run(keys, _routes(make, service, stream, source, target, interface, ttl), statistics, json, None)


def _routes(
    make: Callable[[str, int, Sequence[Address]], Converter],
    services: Sequence[str],
    streams: Sequence[int] | None,
    sources: Sequence[str],
    targets: Sequence[str],
    interface: str,
    ttl: int,
) -> list[Route]:
    from pybcast.outlets.media import Route
    from pybcast.outlets.udp import Address, Pair, sending

    streams = streams or [1] * len(services)
    if not len(services) == len(streams) == len(sources) == len(targets):
        raise ConfigError(f"{len(services)} services: expected as many of --from, --to and, if at all, --stream")
    if len(set(zip(services, streams, strict=True))) != len(services):
        raise ConfigError("a service and stream is given twice: list several addresses behind one --to")
    found = [Address.parse(text) for text in sources]
    into = [[Address.parse(text) for text in texts.split(",")] for texts in targets]
    with ExitStack() as sockets:

        def kept(pair: Pair) -> Pair:
            sockets.callback(pair.close)
            return pair

        routes = [
            Route(make(name, number, tos), kept(Pair.listen(at, interface)), [kept(sending(to, interface, ttl)) for to in tos])
            for name, number, at, tos in zip(services, streams, found, into, strict=True)
        ]
        sockets.pop_all()
    return routes


def _run(keys: Path, routes: list[Route], every: float, json: bool, beside: Callable[[], None] | None) -> None:
    from pybcast.outlets.media import Routing, figures_line
    from pybcast.servers import log

    def tell(figures: dict[str, Any]) -> None:
        output.say_json(figures) if json else output.say(output.plain(figures_line(figures)))

    async def carry() -> None:
        routing = Routing(keys, routes, every=every, tell=tell, beside=beside)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, routing.stop)
        await routing.run()

    coredumps.switch_off()
    log.start("json" if json else "text", "info")
    asyncio.run(carry())
