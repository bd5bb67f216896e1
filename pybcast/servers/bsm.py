# SPDX-License-Identifier: Apache-2.0
"""The BSM as a process: the flow machine; what its operator may tell it is in ``commands``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pybcast.flows import BSM
from pybcast.flows.events import State
from pybcast.flows.tables import KeyState, Side
from pybcast.servers.commands import BsmCommands
from pybcast.servers.config import ServerConfig
from pybcast.servers.control import Command
from pybcast.servers.daemon import Daemon
from pybcast.servers.watch import Light, ServiceView


class Bsm(Daemon[BSM]):
    """A BSM daemon."""

    role = "bsm"
    side = Side.BSM

    def make(self, config: ServerConfig, state: State, *, copy: bool) -> BSM:
        return BSM(
            me=config.me, fqdn=config.fqdn, streams=config.streams, randomness=os.urandom,
            rights_issuer_id=config.rights_issuer_id, state=state, restored=copy, members=self.store.members(),
        )  # fmt: skip

    def views(self, config: ServerConfig, machine: BSM, now: float) -> Iterable[ServiceView]:
        for stream in config.streams:
            rows = [row for row in machine.keys(*stream.key) if row.state is not KeyState.ENDED and not row.programme]
            current = [row for row in rows if row.material.valid_from <= now < row.material.valid_to]
            light: Light = "green" if current or stream.start > now else "red"
            why = "" if light == "green" else "no long-term key in force"
            yield ServiceView(
                service=stream.service, stream=stream.stream, light=light, why=why,
                next_change=min((row.material.valid_to for row in current), default=None),
            )  # fmt: skip

    def more(self, machine: BSM) -> dict[str, Any]:
        """LTKMs on their way to everyone entitled."""
        return {"issuing": [asdict(issuing) for issuing in machine.issuing()]}

    def commands(self) -> dict[str, Command]:
        return BsmCommands(self).table()
