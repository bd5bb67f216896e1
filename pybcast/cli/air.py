# SPDX-License-Identifier: Apache-2.0
"""``pybcast air ...``: the processes that put on air what a BSD/A says."""

from __future__ import annotations

from typing import Annotated

import typer

from pybcast import coredumps
from pybcast.cli.asking import ConfigArgument, group, serving

RealtimeOption = Annotated[
    int,
    typer.Option(
        "--realtime", metavar="PRIORITY", min=0, max=99,
        help="Of the real-time class (SCHED_FIFO), where the system allows it; 0: like every other process.",
    ),
]  # fmt: skip

air = group("What goes on air: processes beside a BSD/A, which go on while it is dead.")


@air.command("stkm")
def stkm(config: ConfigArgument, realtime: RealtimeOption = 10) -> None:
    """Repeat the STKMs of a BSD/A until SIGTERM: the sender that its configuration names ([air] sender).

    SIGHUP reads again where the services' STKMs go. Exit status: 0 stopped; 2 the configuration, a socket or an interface cannot be
    used; 70 it failed.
    """
    with serving(as_json=False):
        from pybcast.servers import sending
        from pybcast.servers.config import load

        found = load(config)
        coredumps.switch_off()  # it holds the key of its pair's heartbeats
        raise typer.Exit(sending.serve_stkms(found, realtime))


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
