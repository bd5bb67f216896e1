# SPDX-License-Identifier: Apache-2.0
"""The BSM as a process: the flow machine; what its operator may tell it is in ``commands``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from pybcast.errors import ConfigError
from pybcast.flows import BSM, FlowDone
from pybcast.flows.journal import State
from pybcast.flows.restart import Start
from pybcast.flows.tables import KeyState, Side
from pybcast.https.contexts import Context
from pybcast.https.listener import Listener
from pybcast.interaction.digest import REALM
from pybcast.interaction.limits import Limits
from pybcast.interaction.server import InteractionServer
from pybcast.servers import inuse
from pybcast.servers.commands import BsmCommands
from pybcast.servers.config import ServerConfig
from pybcast.servers.control import Command
from pybcast.servers.daemon import Daemon
from pybcast.servers.watch import Light, ServiceView

SEALED: Final = frozenset({"F3", "F6"})
"""Flows after which there are new STKMs for terminals."""


class Bsm(Daemon[BSM]):
    """A BSM daemon."""

    role = "bsm"
    side = Side.BSM
    interaction: InteractionServer | None = None

    def make(self, config: ServerConfig, state: State, start: Start | None) -> BSM:
        return BSM(
            me=config.me, fqdn=config.fqdn, streams=config.streams, randomness=os.urandom,
            rights_issuer_id=config.rights_issuer_id, state=state, start=start, members=self.store.members(),
        )  # fmt: skip

    def views(self, config: ServerConfig, machine: BSM, now: float) -> Iterable[ServiceView]:
        for stream in config.streams:
            rows = [row for row in machine.keys(*stream.id) if row.state is not KeyState.ENDED and not row.programme]
            current = [row for row in rows if row.material.valid_from <= now < row.material.valid_to]
            light: Light = "green" if current or stream.start > now else "red"
            why = "" if light == "green" else "no long-term key in force"
            recovery = machine.recoveries.of(stream)
            if recovery is not None:
                light, why = "red", str(recovery.restored)
            yield ServiceView(
                service=stream.service, stream=stream.stream, light=light, why=why,
                next_change=min((row.material.valid_to for row in current), default=None),
            )  # fmt: skip

    def more(self, machine: BSM) -> dict[str, Any]:
        """LTKMs on their way to everyone entitled."""
        return {"issuing": [asdict(issuing) for issuing in machine.issuing()]}

    # --- terminals (R35) ------------------------------------------------------------------------------------------------

    async def open(self) -> dict[str, int]:
        self.witnesses.standing.off_air = lambda peer: self.runner.machine.off_air(peer)
        address, context = self.config.interaction_address, self.config.interaction_context()
        if address is None or context is None:
            return {}
        server = self.interaction = InteractionServer(
            machine=self.runner, realm=self._realm(self.config), clock=self.clock.now, monotonic=self.clock.monotonic,
            limits=self._terminal_limits(self.config), observer=self.watch.interaction,
        )  # fmt: skip
        with self.at("interaction.listen"):
            await server.start(address.host, address.port, context)
        waiting = server.waiting
        self.watch.on_flow = lambda done: self._flow(server, done)
        self.watch.on_clock_step = waiting.everything_changed
        self.watch.terminals = lambda: len(waiting)
        return {"interaction_port": server.port}

    @staticmethod
    def _flow(server: InteractionServer, done: FlowDone) -> None:
        if done.flow in SEALED:
            server.waiting.changed(done.service)

    @staticmethod
    def _realm(config: ServerConfig) -> str:
        assert config.interaction is not None
        return config.interaction.realm or f"{REALM}{config.fqdn}"

    def _terminal_limits(self, config: ServerConfig) -> Limits:
        assert config.interaction is not None
        table = config.interaction
        return Limits(
            rate=table.rate, burst=table.burst, connections=min(table.connections, self.room_for_terminals),
            per_address=table.connections_per_address, connect_rate=table.connect_rate,
        )  # fmt: skip

    def listeners(self) -> dict[str, Listener[Any]]:
        own = None if self.interaction is None else self.interaction.listener
        return super().listeners() | ({} if own is None else {"terminals": own})

    async def shut(self) -> None:
        if self.interaction is not None:
            await self.interaction.stop()

    def fresh(self, config: ServerConfig) -> Context | None:
        if (config.interaction is None) != (self.interaction is None):
            raise ConfigError(f"{config.path}: interaction: needs a restart")
        if self.interaction is not None:
            if config.interaction_address != self.config.interaction_address:
                raise ConfigError(f"{config.path}: interaction.listen: needs a restart")
            if self._realm(config) != self._realm(self.config):
                raise ConfigError(f"{config.path}: interaction.realm: needs a restart")
        return config.interaction_context()

    async def reopen(self, prepared: Context | None, *, renew: bool) -> None:
        if self.interaction is not None and prepared is not None:
            await self.interaction.reload(prepared, self._terminal_limits(self.config), renew=renew)
            self.interaction.waiting.everything_changed()

    def commands(self) -> dict[str, Command]:
        return {**BsmCommands(self).table(), "keys": self._keys}

    async def _keys(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        streams = inuse.asked(self.config.streams, arguments)
        return await self.runner.ask_machine(lambda machine, now: inuse.long_term_keys(machine, streams))
