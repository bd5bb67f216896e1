# SPDX-License-Identifier: Apache-2.0
"""The BSD/A as a process: the flow machine, and its edge, in the STKM sender's process or, without one, in this."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pybcast.backend import Client
from pybcast.broadcast.link import Here
from pybcast.errors import ConfigError, FlowError
from pybcast.flows import BSDA, Edge, Headend, derived_teks, random_teks
from pybcast.flows.bsda.headend import ordered
from pybcast.flows.edge.slots import REPEATED, USED, mark
from pybcast.flows.events import NextKey, Output, PlanBegun, PlanRefused, Recalled, StopTraffic, UseKey
from pybcast.flows.journal import State
from pybcast.flows.restart import Start
from pybcast.flows.tables import EdgeState, PeriodState, Side
from pybcast.outlets.keyline import Outlet
from pybcast.outlets.keysocket import KeyOutlet
from pybcast.servers import description, inuse
from pybcast.servers.air import JsonLinesAir, ProcessAir
from pybcast.servers.config import ServerConfig
from pybcast.servers.control import Command
from pybcast.servers.daemon import LOG, Daemon
from pybcast.servers.roles import Clock
from pybcast.servers.runner import AirOutput
from pybcast.servers.watch import Light, ServiceView
from pybcast.servers.witnesses import Word

_PREPARED: Final = frozenset({PeriodState.SEALED, PeriodState.HANDED})


class Bsda(Daemon[BSDA]):
    """A BSD/A daemon.

    With ``[air] sender`` the edge is in that process.  Without it is here, lives on when the machine is made anew, and ``outlets``
    are given each ``NextKey``, ``UseKey`` and ``StopTraffic``, beside ``[air] keys``.
    """

    role = "bsda"
    side = Side.BSDA

    def __init__(self, config: ServerConfig, clock: Clock | None = None, *, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(config, clock)
        if config.sender is not None and outlets:
            raise ConfigError(f"{config.path}: air.sender: keys are told by the sender, not to outlets of this process")
        self._reports: list[tuple[str, int, int]] = []
        self._executed: list[Recalled | PlanRefused | PlanBegun] = []
        self._edge: Edge | None = None
        if config.events and (config.sender is None or config.events == "-"):
            self.air = JsonLinesAir(config.events, content=config.air.content, limit=config.air.events_size << 20)
        self._used: dict[tuple[str, int], int] = {}
        self._keys = None if config.keys is None or config.sender is not None else KeyOutlet(config.keys)
        self._outlets = (*outlets, *(() if self._keys is None else (self._keys,)))
        pair = config.pair_secret()
        self._teks = derived_teks(pair) if pair is not None else random_teks(os.urandom) if config.random_teks else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._met = False  # whether the sender has said what it has
        self._on_air: ProcessAir | None = None
        if config.sender is not None or config.carousel is not None:
            self.air = self._on_air = ProcessAir(
                self.air, me=config.me, pair=pair, sender=config.sender, carousel=config.carousel, machine=self,
                alarm=self.watch.alarm, commit=lambda: self.store.token(), here=self._here, silent=True,
            )  # fmt: skip

    def make(self, config: ServerConfig, state: State, start: Start | None) -> BSDA:
        """An empty database counts as a lost one (R33): a first start only costs one change of the long-term keys (F4) for it."""
        self._reports.clear()  # like what the edge said last they may be lost: it is said, and reported, again
        self._executed.clear()
        if start is not None:
            start = replace(start, empty=not state)
            if start.empty or start.restored is not None:
                LOG.warning("no store, or an old copy of it: asking for new keys (R33)", extra={"fields": {"event": "store-lost"}})
        options: dict[str, Any] = {
            "me": config.me, "streams": config.streams, "teks": self._teks, "randomness": os.urandom, "state": state,
            "start": start,
        }  # fmt: skip
        if config.sender is not None:
            if self._on_air is not None and self._on_air.edge is not None:
                self._on_air.edge.ask_again()
            return BSDA(**options)
        if self._edge is None:
            self._edge = Edge(stream.id for stream in config.streams)
        return Headend(**options, edge=self._edge, again=True)

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

    def _here(self, process: str, said: Here) -> None:
        """What a process has, and the last it was told of our store: the store must know both (R44, R51).

        Later it may have what we have given up and not taken back yet: then only what is on air counts.
        """
        who = f"the {process}"
        if self.store.behind(said.token):
            self.witnesses.say(Word(who, said.token))
        machine = self.runner.machine
        strange = next(
            (
                held.service
                for held in said.held
                for period in held.periods
                if not self._met or period.state in REPEATED
                for one in period.marks
                if machine.unknown(held.service, held.stream, period.start, one, mark)
            ),
            None,
        )
        self._met = self._met or process == "sender"
        if strange is not None:
            self.witnesses.say(Word(who, why=f"{who} has a STKM of {strange} that the database does not know"))

    # --- the edge in the sender's process -------------------------------------------------------------------------------

    def connected(self, here: Here) -> None:
        """It says what it has, and is told what it lacks."""
        task = asyncio.get_running_loop().create_task(self._connect(here))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, here: Here) -> None:
        with contextlib.suppress(FlowError):  # stopping, or no room on the disk: then it is asked again
            await self.runner.command(lambda machine, now: machine.connected(here.held, now))
            if self._on_air is not None and self._on_air.edge is not None:
                self._on_air.edge.end()

    def disconnected(self) -> None:
        self.runner.post(lambda machine, now: machine.disconnected(now))

    def executed(self, said: Recalled | PlanRefused | PlanBegun) -> None:
        """What is said until the machine's next turn comes is one input: plans of thousands of streams begin in the same second."""
        self._executed.append(said)
        if len(self._executed) == 1:
            self.runner.post(self._hear, urgent=True)

    def _hear(self, machine: BSDA, now: float) -> list[Output]:
        executed, self._executed = self._executed, []
        outputs: list[Output] = []
        for said in executed:
            match said:
                case Recalled():
                    outputs += machine.recalled(said, now)
                case PlanRefused():
                    outputs += machine.plan_refused(said, now)
                case PlanBegun():
                    outputs += machine.plan_begun(said, now)
        return ordered(outputs)

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

    def _report(self, machine: BSDA, now: float) -> list[Output]:
        assert isinstance(machine, Headend)
        reports, self._reports = self._reports, []
        return machine.announced_many(reports, now)

    def views(self, config: ServerConfig, machine: BSDA, now: float) -> Iterable[ServiceView]:
        for stream in config.streams:
            records = machine.records(*stream.id)
            states = machine.states(*stream.id, now)
            used = [r.period for r in records if states[r.period.start] in USED]
            ahead = sum(r.state in _PREPARED and r.period.start > now for r in records)
            held = any(states[period.start] is EdgeState.HELD for period in used)
            held = held or (self._on_air is not None and self._on_air.holds(*stream.id))
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

    def more(self, machine: BSDA) -> dict[str, Any]:
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
        found = await self.runner.ask_machine(lambda machine, now: inuse.periods(machine, streams, now))
        return await asyncio.to_thread(inuse.shown_periods, found)

    async def _periods(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The crypto periods of a service: what is in use, on air, prepared."""
        keys = [s.id for s in self.config.streams if s.service == arguments["service"]]

        def look(machine: BSDA, now: float) -> list[dict[str, Any]]:
            return [
                {
                    "stream": key[1], "start": r.period.start, "end": r.period.end, "state": states[r.period.start].value,
                    "stkms": len(r.stkms), "authority_end": r.authority_end,
                }
                for key in keys
                for states in [machine.states(*key, now)]
                for r in machine.records(*key)
            ]  # fmt: skip

        return await self.runner.ask_machine(look)

    async def _boundary(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The edge of an event (R9); where periods are prepared already it comes later (R5)."""
        service, stream, at = arguments["service"], arguments["stream"], int(arguments["time"])
        streams = [s.stream for s in self.config.streams if s.service == service and stream in (None, s.stream)]
        if not streams:
            raise ConfigError(f"no such service or stream here: {service}")

        def cut(machine: BSDA, now: float) -> tuple[list[int], list[Output]]:
            if at <= now:
                raise ConfigError("the boundary is in the past")
            added = [machine.add_boundary(service, number, at, now) for number in streams]
            return [when for when, _ in added], [output for _, outputs in added for output in outputs]

        held = await self.runner.command(cut)
        return {"service": service, "asked": at, "start": max(held)}
