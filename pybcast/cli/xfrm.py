# SPDX-License-Identifier: Apache-2.0
"""``pybcast xfrm``: IPsec of the Linux kernel under the keys of a key socket."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pybcast import coredumps
from pybcast.cli.asking import JsonOption
from pybcast.cli.protect import KeysOption
from pybcast.cli.status import answering
from pybcast.errors import ConfigError

if TYPE_CHECKING:
    from pybcast.outlets.xfrm import Traffic


def register(app: typer.Typer) -> None:
    """Add the command to ``pybcast``."""
    app.command()(xfrm)


def xfrm(
    keys: KeysOption,
    service: Annotated[str, typer.Option("--service", metavar="ID", help="The service.", show_default=False)],
    to: Annotated[str, typer.Option("--to", metavar="HOST[:PORT]", help="Destination of its packets.", show_default=False)],
    stream: Annotated[int, typer.Option("--stream", metavar="N", help="Its stream.")] = 1,
    source: Annotated[str, typer.Option("--source", metavar="HOST", help="Only packets from there.", show_default=False)] = "",
    inbound: Annotated[bool, typer.Option("--in", help="At a terminal: its keys open what arrives.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Give the lines to ip here, in place of standard output.")] = False,
    json: JsonOption = False,
) -> None:
    """Keep the IPsec associations of a service under its traffic keys, until SIGTERM: as lines for `ip -batch -`.

    Without --apply the lines, keys included, go to standard output, for `ssh gateway ip -batch -`: not to a terminal or a file.
    At the end everything stays as it is: nothing leaves in clear, and nothing beyond its authority.
    Exit status: 0 stopped; 2 an argument cannot be used.
    """
    with answering(as_json=json):
        from pybcast.outlets.udp import Address
        from pybcast.outlets.xfrm import Traffic
        from pybcast.servers import log

        if not apply and sys.stdout.isatty():
            raise ConfigError("the lines hold keys and are not for a screen: --apply, or send them to ip through a pipe")
        with_port = "]:" in to or to.count(":") == 1
        host, port = Address.parse(to) if with_port else (to.removeprefix("[").removesuffix("]"), 0)
        traffic = Traffic(host, port, source)
        coredumps.switch_off()
        log.start("json" if json else "text", "info")
        asyncio.run(_follow(keys, service, stream, traffic, inbound=inbound, apply=apply))


async def _follow(keys: Path, service: str, stream: int, traffic: Traffic, *, inbound: bool, apply: bool) -> None:
    from pybcast.outlets.keyline import KeyOutput
    from pybcast.outlets.keysocket import KeyReader
    from pybcast.outlets.media import LOOK, ntp_now
    from pybcast.outlets.xfrm import Associations, Ip

    ip = Ip()
    present = await ip.present(traffic) if apply else frozenset[int]()

    def say(lines: Sequence[str]) -> None:
        sys.stdout.write("".join(line + "\n" for line in lines))
        sys.stdout.flush()

    associations = Associations(
        service, stream, traffic, ip.put if apply else say, ntp_now, inbound=inbound, present=present
    )  # fmt: skip

    def told(output: KeyOutput) -> None:
        if (output.service, output.stream) == (service, stream):
            associations.put(output)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    associations.begin()
    tasks = [loop.create_task(KeyReader(keys, told).run()), loop.create_task(ip.run())]
    for task in tasks:
        task.add_done_callback(lambda _: stop.set())  # neither ends unless something is wrong with us
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK)
        associations.look(ntp_now())
    if not tasks[1].done():
        await ip.done()
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
