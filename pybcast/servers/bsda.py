# SPDX-License-Identifier: Apache-2.0
"""The BSD/A as a process: the flow machine, and a sink for what goes on air."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pybcast.backend import Client
from pybcast.broadcast.link import Held, mark_of
from pybcast.errors import ConfigError
from pybcast.flows import Edge, Headend, derived_teks, random_teks
from pybcast.flows.edge import REPEATED, USED
from pybcast.flows.events import NextKey, Output, State, StopTraffic, UseKey
from pybcast.flows.restart import Start
from pybcast.flows.tables import EdgeState, PeriodState, Side
from pybcast.outlets.keyline import Outlet
from pybcast.outlets.keysocket import KeyOutlet
from pybcast.servers import description, inuse
from pybcast.servers.air import JsonLinesAir, ProcessAir
from pybcast.servers.config import ServerConfig
from pybcast.servers.control import Command
from pybcast.servers.daemon import LOG, Daemon
from pybcast.servers.runner import AirOutput, Clock
from pybcast.servers.watch import Light, ServiceView
from pybcast.servers.witnesses import Word

_PREPARED: Final = frozenset({PeriodState.SEALED, PeriodState.HANDED})


class Bsda(Daemon[Headend]):
    """A BSD/A daemon.  ``outlets``: who is given each ``NextKey``, ``UseKey`` and ``StopTraffic``, beside ``[air] keys``.

    Its edge is in the same process, and lives on when the machine is made anew.
    """

    role = "bsda"
    side = Side.BSDA

    def __init__(self, config: ServerConfig, clock: Clock | None = None, *, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(config, clock)
        self._reports: list[tuple[str, int, int]] = []
        self._edge: Edge | None = None
        if config.events:
            self.air = JsonLinesAir(config.events, content=config.air.content, limit=config.air.events_size << 20)
        self._used: dict[tuple[str, int], int] = {}
        self._keys = None if config.keys is None else KeyOutlet(config.keys)
        self._outlets = (*outlets, *(() if self._keys is None else (self._keys,)))
        pair = config.pair_secret()
        self._teks = derived_teks(pair) if pair is not None else random_teks(os.urandom) if config.random_teks else None
        self._on_air: ProcessAir | None = None
        if config.sender is not None or config.carousel is not None:
            self.air = self._on_air = ProcessAir(
                self.air, me=config.me, pair=pair, sender=config.sender, carousel=config.carousel, announced=self._announced,
                alarm=self.watch.alarm, commit=lambda: self.store.token(), here=self._here, silent=True,
            )  # fmt: skip

    def make(self, config: ServerConfig, state: State, start: Start | None) -> Headend:
        """An empty database counts as a lost one (R33): a first start only costs one change of the long-term keys (F4) for it."""
        if self._edge is None:
            self._edge = Edge(stream.key for stream in config.streams)
        self._reports.clear()  # like what the edge said last they may be lost: it is said, and reported, again
        if self._on_air is not None:
            self._on_air.keep({(h.service, h.stream, p.start) for h in self._edge.held() for p in h.periods if p.state in REPEATED})
        if start is not None:
            start = replace(start, empty=not state)
            if start.empty or start.restored is not None:
                LOG.warning("no store, or an old copy of it: asking for new keys (R33)", extra={"fields": {"event": "store-lost"}})
        return Headend(
            me=config.me, streams=config.streams, teks=self._teks, randomness=os.urandom, state=state, start=start,
            edge=self._edge, again=True,
        )  # fmt: skip

    async def _run(self, client: Client, listening: Any) -> int:
        try:
            if self._keys is not None:
                await self._keys.start()  # here and not before: the database is ours, so an old socket is nobody's
            return await super()._run(client, listening)
        finally:
            if self._keys is not None:
                await self._keys.stop()
            if self._on_air is not None:
                await self._on_air.stop()

    async def open(self) -> dict[str, int]:
        """The processes that send are reached when every address of this server is ours."""
        if self._on_air is not None:
            self._on_air.start()
        return {}

    def _here(self, process: str, token: str, held: Collection[Held]) -> None:
        """What a process has on air, and the last it was told of our store: the store must know both (R51)."""
        who = f"the {process}"
        if self.store.behind(token):
            self.witnesses.say(Word(who, token))
        machine = self.runner.machine
        strange = next((one for one in held if machine.unknown(*one, mark_of)), None)
        if strange is not None:
            why = f"{who} has a STKM of {strange[0]} on air that the database does not know"
            self.witnesses.say(Word(who, why=why))

    async def spoken(self) -> None:
        if self._on_air is not None:
            await self._on_air.spoken()

    def begins_anew(self) -> None:
        if self._on_air is not None:
            self._on_air.forget()

    async def _first(self, work: asyncio.Task[None]) -> None:
        await super()._first(work)
        if self._on_air is not None:
            self._on_air.speak()

    def put(self, output: AirOutput) -> None:
        if isinstance(output, UseKey):
            known = self._used.get((output.service, output.stream))
            self._used[output.service, output.stream] = output.start
            if known is not None and known != output.start:  # after a start, what was in use is said anew
                self.watch.key_used(self.clock.now() - output.start)
        if isinstance(output, NextKey | UseKey | StopTraffic):
            for outlet in self._outlets:
                outlet.put(output)
        self.air.put(output, self._announced)

    def _announced(self, service: str, stream: int, start: int) -> None:
        """What is reported until the machine's next turn comes is one input: thousands of streams change in the same second."""
        self._reports.append((service, stream, start))
        if len(self._reports) == 1:
            self.runner.post(self._report, urgent=True)  # a key is used three repetitions after it (R40)

    def _report(self, machine: Headend, now: float) -> list[Output]:
        reports, self._reports = self._reports, []
        return machine.announced_many(reports, now)

    def views(self, config: ServerConfig, machine: Headend, now: float) -> Iterable[ServiceView]:
        for stream in config.streams:
            used = [period for period in machine.edge.view(*stream.key).periods if period.state in USED]
            ahead = sum(r.state in _PREPARED and r.period.start > now for r in machine.records(*stream.key))
            held = any(period.state is EdgeState.HELD for period in used)
            light: Light = "green"
            why = ""
            if held:
                light, why = "red", "the last key is held"
            elif not used and stream.start <= now:
                light, why = "red", "no key in use"
            elif not ahead:
                light, why = "yellow", "no period prepared ahead"
            recovery = machine.recoveries.of(stream)
            if recovery is not None:
                light, why = "red", str(recovery.restored)
            change = max((period.end for period in used), default=None)
            yield ServiceView(
                service=stream.service, stream=stream.stream, light=light, why=why, ahead=ahead, held=held, next_change=change
            )

    def more(self, machine: Headend) -> dict[str, Any]:
        return {} if self._on_air is None else {"air": list(self._on_air.lights())}

    # --- commands -------------------------------------------------------------------------------------------------------

    def commands(self) -> dict[str, Command]:
        return {"boundary": self._boundary, "keys": self._keys_in_use, "periods": self._periods, "sdp": self._sdp}

    async def _sdp(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What a service's session description says of the keys in use (R37)."""
        streams = [s for s in self.config.streams if s.service == arguments["service"]]
        return await self.runner.ask_machine(lambda machine, now: description.known(machine, streams))

    async def _keys_in_use(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        streams = inuse.asked(self.config.streams, arguments)
        found = await self.runner.ask_machine(lambda machine, now: inuse.periods(machine, streams))
        return await asyncio.to_thread(inuse.shown_periods, found)

    async def _periods(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The crypto periods of a service: what is in use, on air, prepared."""
        keys = [s.key for s in self.config.streams if s.service == arguments["service"]]

        def look(machine: Headend, now: float) -> list[dict[str, Any]]:
            return [
                {
                    "stream": key[1], "start": r.period.start, "end": r.period.end, "state": states[r.period.start].value,
                    "stkms": len(r.stkms), "authority_end": r.authority_end,
                }
                for key in keys
                for states in [machine.states(*key)]
                for r in machine.records(*key)
            ]  # fmt: skip

        return await self.runner.ask_machine(look)

    async def _boundary(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The edge of an event (R9); where periods are prepared already it comes later (R5)."""
        service, stream, at = arguments["service"], arguments["stream"], int(arguments["time"])
        streams = [s.stream for s in self.config.streams if s.service == service and stream in (None, s.stream)]
        if not streams:
            raise ConfigError(f"no such service or stream here: {service}")
        held: list[int] = []

        def cut(machine: Headend, now: float) -> list[Output]:
            if at <= now:
                raise ConfigError("the boundary is in the past")
            outputs: list[Output] = []
            for number in streams:
                when, more = machine.add_boundary(service, number, at, now)
                held.append(when)
                outputs += more
            return outputs

        await self.runner.command(cut)
        return {"service": service, "asked": at, "start": max(held)}
