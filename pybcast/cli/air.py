# SPDX-License-Identifier: Apache-2.0
"""``pybcast air ...``: the processes that put on air what a BSD/A says."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from pybcast import coredumps
from pybcast.cli import output
from pybcast.cli.asking import ConfigArgument, JsonOption, config_of, group, rows, serving
from pybcast.wire.times import NTP_UNIX

RealtimeOption = Annotated[
    int,
    typer.Option(
        "--realtime", metavar="PRIORITY", min=0, max=99,
        help="Of the real-time class (SCHED_FIFO), where the system allows it; 0: like every other process.",
    ),
]  # fmt: skip

ListenOption = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen.")]

air = group("What goes on air: processes beside a BSD/A, which go on while it is dead.")


@air.command("stkm")
def stkm(config: ConfigArgument, realtime: RealtimeOption = 10) -> None:
    """Execute the plans of a BSD/A until SIGTERM, whether that lives or not: repeat STKMs, tell encoders their keys ([air] keys).

    It listens where the BSD/A's configuration says ([air] sender).

    SIGHUP reads again where the services' STKMs go. Exit status: 0 stopped; 2 the configuration, a socket or an interface cannot be
    used; 70 it failed.
    """
    with serving(as_json=False):
        from pybcast.servers import sending
        from pybcast.servers.config import load

        found = load(config)
        coredumps.switch_off()  # it holds traffic keys
        raise typer.Exit(sending.serve_stkms(found, realtime))


@air.command("status")
def status(config: ConfigArgument, json: JsonOption = False) -> None:
    """What the edge of a BSD/A has, whether the BSD/A lives or not: keys in use, and how far each stream's plan reaches.

    Exit status: 0 green or yellow; 1 red: a key is held or missing; 2 the STKM sender does not answer.
    """
    with serving(as_json=json):
        from pybcast.servers import edgeview

        figures, here = edgeview.asked(config_of(config, "bsda"))
        now = time.time() + NTP_UNIX
        streams = [asdict(edgeview.Reach.of(held, now)) for held in here.held]
        if json:
            output.say_json({**figures, "plans": streams, "alarms": [asdict(alarm) for alarm in here.alarms]})
        else:
            text = f" edge of {figures['bsda'] or 'no BSD/A yet'}, up {figures['up']:.0f} s {figures['why']}"
            output.say_styled(figures["light"], output.LIGHTS[figures["light"]], output.plain(text).rstrip())
            rows(streams, as_json=False)
            for alarm in here.alarms:
                output.say(output.plain(f"alarm {alarm.code}: {alarm.service} stream {alarm.stream}: {alarm.text}"))
        if "red" in (figures["light"], *(row["light"] for row in streams)):
            raise typer.Exit(1)


@air.command("metrics")
def metrics(config: ConfigArgument, listen: ListenOption = "127.0.0.1:9445") -> None:
    """Serve /metrics and /healthz of the edge over HTTP until SIGTERM, in a process beside the STKM sender.

    Exit status: 0 stopped; 2 the configuration or the address cannot be used.
    """
    with serving(as_json=False):
        from pybcast.servers import edgeview, log

        found = config_of(config, "bsda")
        log.start(found.log.format, found.log.level)
        edgeview.serve(found, listen)


@air.command("carousel")
def carousel(config: ConfigArgument) -> None:
    """Turn the LTKMs and registration objects of a BSD/A until SIGTERM: the carousel that its configuration names ([air] carousel).

    SIGHUP reads the services' cycles again. Exit status: 0 stopped; 2 the configuration, a socket or an interface cannot be used;
    70 it failed.
    """
    with serving(as_json=False):
        from pybcast.servers import turning
        from pybcast.servers.config import load

        found = load(config)
        coredumps.switch_off()
        raise typer.Exit(turning.serve_carousel(found))
