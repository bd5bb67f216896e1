# SPDX-License-Identifier: Apache-2.0
"""The life of a server process: start, reload, stop, and its exit status.

0 after SIGTERM or SIGINT; 2 when the configuration, a file or an address cannot be used; 70 when the machine, the store or the air
failed while running: nothing more has left, and what was accepted is stored.  SIGHUP reads the configuration again: certificates,
peers and services change without a moment of not listening; a file that cannot be used changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from aiohttp import web

import pybcast
from pybcast.backend import Client, Exchanged, Server, ServerLimits
from pybcast.errors import ConfigError, FlowError, StoreError, TransportError
from pybcast.flows.events import Alarm
from pybcast.flows.journal import State
from pybcast.flows.restart import Start
from pybcast.flows.tables import Side
from pybcast.https.contexts import Context
from pybcast.https.listener import Listener
from pybcast.https.revocation import LOOK, RevocationList, Watched
from pybcast.https.validity import Validity
from pybcast.servers import log
from pybcast.servers.air import Air, CountingAir
from pybcast.servers.config import ServerConfig, load
from pybcast.servers.control import Command, ControlServer
from pybcast.servers.messagelog import MessageLog
from pybcast.servers.roles import Clock, Machine, SystemClock
from pybcast.servers.runner import AirOutput, Fatal, Runner
from pybcast.servers.watch import ServiceView, Watch, _Peer
from pybcast.servers.witnesses import SPOKEN, Witnesses
from pybcast.store import SqliteStore

LOG: Final = logging.getLogger("pybcast.servers")
CLEAN, USAGE, OUR_FAULT = 0, 2, 70
GRACE: Final = 5.0  # seconds for requests in hand when stopping - confidence: own
STUCK: Final = 10.0  # seconds that work may wait before /healthz says so - confidence: own
FIXED: Final = {
    "role": "server.role", "me": "server.id", "listen": "server.listen", "status": "server.status", "database": "server.database",
    "witness": "server.witness", "control": "server.control", "air": "air", "kek_source": "server.kek",
    "pair_source": "server.pair_secret", "random_teks": "server.teks", "fqdn": "server.fqdn",
}  # fmt: skip
"""What a reload cannot change, and its key in the file."""

_CERTIFICATE_ALARMS: Final = {"green": "", "yellow": "certificate-ends", "red": "certificate-ended"}
OWN_FILES: Final = 256  # descriptors for what is no caller: peers that are asked, database, sockets, encoders - confidence: own

M = TypeVar("M", bound=Machine)


@dataclass(frozen=True)
class _Prepared:
    """TLS settings of a configuration.  ``own``: what ``fresh`` has read."""

    listening: Context | None
    asking: Context | None
    own: Any


class Daemon(Generic[M]):
    """One server process.  ``Bsm`` and ``Bsda`` say what is theirs."""

    role: str
    side: Side

    def __init__(self, config: ServerConfig, clock: Clock | None = None) -> None:
        if config.role != self.role:
            raise ConfigError(f"{config.path}: server.role: expected {self.role}, found {config.role}")
        self.config = config
        self.clock = clock or SystemClock()
        self.watch = Watch(self.role, self.clock.now, {name: _Peer() for name in config.peer_ids})
        self.air: Air = CountingAir()
        self.started = self.clock.monotonic()
        self.room = self.room_for_terminals = sys.maxsize
        self._lists = Watched(config.revocation_lists(), self.clock.monotonic)
        self._certificates: list[Validity] = []
        self._said_of: dict[Validity, str] = {}
        self.store: SqliteStore
        self.messages: MessageLog
        self.runner: Runner[M]
        self.witnesses: Witnesses
        self.server: Server

    # --- what is different between the two ------------------------------------------------------------------------------

    def make(self, config: ServerConfig, state: State, start: Start | None) -> M:
        """The machine of what was persisted; ``start``: what is known of the time before, where the process starts."""
        raise NotImplementedError

    def views(self, config: ServerConfig, machine: M, now: float) -> Iterable[ServiceView]:
        raise NotImplementedError

    def commands(self) -> dict[str, Command]:
        return {}

    def more(self, machine: M) -> dict[str, Any]:
        """What ``pybcast status`` shows beside what both have."""
        return {}

    def put(self, output: AirOutput) -> None:
        """What goes on air."""
        self.air.put(output, lambda *_: None)

    async def open(self) -> dict[str, int]:
        """Start what only one of the two has, when the machine is at work; what the ``ready`` line says of it."""
        return {}

    async def shut(self) -> None:
        """Stop it."""

    def fresh(self, config: ServerConfig) -> Any:
        """What a changed configuration needs of files; ``ConfigError`` when they cannot be used, or when it needs a restart."""

    async def reopen(self, prepared: Any, *, renew: bool) -> None:
        """Take over what :meth:`fresh` has read: ``config`` is the new one.  ``renew``: not only a revocation list has changed."""

    @contextlib.contextmanager
    def at(self, key: str) -> Iterator[None]:
        """An address that cannot be had is a mistake at this key of the configuration."""
        try:
            yield
        except TransportError as error:
            raise ConfigError(f"{self.config.path}: {key}: {error}") from None

    def listeners(self) -> dict[str, Listener[Any]]:
        """Who listens for callers, by what they are."""
        return {} if self.server.listener is None else {"peers": self.server.listener}

    def _exchanged(self, done: Exchanged) -> None:
        self.watch.exchanged(done)
        if self.config.log.messages:
            self.messages.note(done, self.clock.now())

    # --- life -----------------------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Run until a signal; the exit status."""
        log.start(self.config.log.format, self.config.log.level)
        try:
            return asyncio.run(self._main())
        except (ConfigError, TransportError, StoreError) as error:
            LOG.critical("cannot start: %s", error, extra={"fields": {"event": "refused"}})
            return USAGE
        except Fatal as error:
            LOG.critical(
                "stopped: %s", error.args[0] if error.args else "", exc_info=error.__cause__, extra={"fields": {"event": "fatal"}}
            )
            return OUR_FAULT
        except Exception as error:
            LOG.critical("stopped", exc_info=error, extra={"fields": {"event": "fatal"}})
            return OUR_FAULT

    async def _main(self) -> int:
        config = self.config
        listening, asking = config.contexts()
        self._certificates = config.certificates()
        self.watch.certificates = lambda: self._certificates
        self.store = SqliteStore(
            config.database, config.kek(), owner=config.me, witness=config.witness, clock=self.clock.now,
            on_commit=self.watch.committed,
        )  # fmt: skip
        self.messages = MessageLog(self.store)
        self.witnesses = Witnesses(self.store, lambda: self.runner.hold(), self._obeys)
        client = Client(
            me=config.me, side=self.side, peers=config.peers, context=asking, clock=self.clock.now,
            plain_loopback=config.tls is None, observer=self._exchanged, standing=self.witnesses.standing,
        )  # fmt: skip
        try:
            self._start: Start | None = self._known(self.store.gap)
            self.runner = Runner(
                lambda state: self.make(self.config, state, self._start), self.messages, clock=self.clock, ask=client.send,
                air=self.put, watcher=self.watch,
            )  # fmt: skip
            self.watch.views = lambda: self.views(self.config, self.runner.machine, self.clock.now())
            gc.freeze()  # what was loaded stays: no collection walks through it again
            return await self._run(client, listening)
        finally:
            await client.close()
            await asyncio.to_thread(self.messages.flush)
            await asyncio.to_thread(self.store.close)
            self.air.close()

    def _known(self, gap: float) -> Start:
        """What the store knows of the time before."""
        at = self.store.position
        return Start(gap=gap, restored=self.store.restored, key_number=at.key_number, smk_base=at.smk_base)

    async def _run(self, client: Client, listening: Context | None) -> int:
        config = self.config
        self._find_room()
        server = self.server = Server(
            me=config.me, side=self.side, peers=config.peers, handler=self.runner.request, clock=self.clock.now,
            limits=self._limits(config), observer=self._exchanged, standing=self.witnesses.standing,
        )  # fmt: skip
        stop, reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        work = asyncio.create_task(self.runner.run())
        control = ControlServer(config.control, self._all_commands())
        status: web.AppRunner | None = None
        lists: asyncio.Task[None] | None = None
        try:
            self.watch.listeners = self.listeners
            with self.at("server.listen"):
                await server.start(config.listen.host, config.listen.port, listening, plain_loopback=config.tls is None)
            status, status_port = await self._start_status()
            await control.start()
            own = await self.open()
            ready = {"event": "ready", "port": server.port, "status_port": status_port, "services": len(config.streams), **own}
            LOG.info("%s %s ready on port %d", self.role, config.me, server.port, extra={"fields": ready})
            lists = asyncio.create_task(self._follow_lists(server, client))
            await self._listen(work, client, stop)
            while not stop.is_set() and not work.done():
                await _first_of([work, stop.wait(), reload.wait(), self.witnesses.noticed.wait()])
                if self.witnesses.noticed.is_set() and not stop.is_set() and not work.done():
                    await self._settle(work)
                if reload.is_set() and not stop.is_set() and not work.done():
                    reload.clear()  # one that came while we waited for witnesses counts
                    await self._reload(server, client)
            if not work.done():
                LOG.info("stopping", extra={"fields": {"event": "stopping"}})
        finally:
            if lists is not None:
                lists.cancel()
            await control.stop()
            await self.shut()
            await server.stop(GRACE if not work.done() else 0.0)
            if status is not None:
                await status.cleanup()
            self.runner.stop()
        await work
        LOG.info("stopped", extra={"fields": {"event": "stopped"}})
        return CLEAN

    # --- what the store must know (R51) ---------------------------------------------------------------------------------

    def _obeys(self, peer: str) -> bool:
        """Whether a peer may say that our store is not to be used: the BSM of one of a BSD/A's streams (R50)."""
        return self.side is Side.BSDA and any(stream.bsm == peer for stream in self.config.streams)

    async def spoken(self) -> None:
        """Until those who are no back-end peers, and know what we did, have said so."""

    def begins_anew(self) -> None:
        """The store was found to be older than what has left: a new machine takes over."""

    async def _listen(self, work: asyncio.Task[None], client: Client, stop: asyncio.Event) -> None:
        """Hear what the witnesses know of us, and begin to work."""
        streams = self.config.streams
        heard = {b for s in streams for b in s.bsdas} if self.side is Side.BSM else {s.bsm for s in streams}
        names = heard & set(self.config.peer_ids)
        speaking = asyncio.create_task(self.witnesses.all_spoken(client, names, self.spoken))
        await _first_of([work, speaking, stop.wait()], SPOKEN)
        if not speaking.done():
            LOG.info("not everyone has spoken within %g s", SPOKEN, extra={"fields": {"event": "unspoken"}})
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        if not stop.is_set() and not work.done():
            await self._settle(work)
            LOG.info("at work", extra={"fields": {"event": "at-work"}})

    async def _settle(self, work: asyncio.Task[None]) -> None:
        """Take over what the witnesses know, and work."""
        gap = 0.0 if self._start is None else self._start.gap
        if await self.witnesses.take_over():
            self._start = self._known(gap)
            self.begins_anew()
            await self.runner.begin_anew()
        self.runner.open()
        await self._first(work)

    async def _first(self, work: asyncio.Task[None]) -> None:
        """What the machine does on waking is stored before it is used (R2, R51)."""
        try:
            await self.runner.command(lambda machine, now: machine.tick(now))
        except (FlowError, ConfigError):
            await work  # it has failed: says why
            raise
        start, self._start = self._start, None
        if start is not None and start.restored is not None:
            await asyncio.to_thread(self.store.take_into_service)
            found = start.restored
            fields = {"event": "restored", "why": found.why, "lost_from": found.lost_from, "lost_to": found.lost_to}
            LOG.warning("%s", found, extra={"fields": fields})

    # --- reload ---------------------------------------------------------------------------------------------------------

    async def _reload(self, server: Server, client: Client) -> None:
        try:
            fresh = load(self.config.path)
            for name, key in FIXED.items():
                if getattr(fresh, name) != getattr(self.config, name):
                    raise ConfigError(f"{fresh.path}: {key}: needs a restart")
            if (fresh.tls is None) != (self.config.tls is None):
                raise ConfigError(f"{fresh.path}: tls: needs a restart")
            fresh.in_date(datetime.now(UTC))
            prepared, certificates = self._prepare(fresh), fresh.certificates()
        except ConfigError as error:
            LOG.error("not reloaded: %s", error, extra={"fields": {"event": "not-reloaded", "why": str(error)}})
            return
        changed = fresh.streams != self.config.streams
        self.config = fresh
        for name in fresh.peer_ids:
            self.watch.peers.setdefault(name, _Peer())
        for name in self.watch.peers.keys() - set(fresh.peer_ids):
            del self.watch.peers[name]
        log.start(fresh.log.format, fresh.log.level)
        if changed:
            await self.runner.remake(lambda state: self.make(fresh, state, None))
        await self._take_over(prepared, server, client, renew=True)
        self._certificates = certificates
        self._look_at_certificates()
        self._lists = Watched(fresh.revocation_lists(), self.clock.monotonic)
        LOG.info("reloaded", extra={"fields": {"event": "reloaded", "services": len(fresh.streams), "remade": changed}})

    def _prepare(self, config: ServerConfig) -> _Prepared:
        """What a reload needs of files; ``ConfigError`` when they cannot be used."""
        listening, asking = config.contexts()
        return _Prepared(listening, asking, self.fresh(config))

    async def _take_over(self, prepared: _Prepared, server: Server, client: Client, *, renew: bool) -> None:
        """Use it from now on; connections to certificates that were taken back end."""
        await self.reopen(prepared.own, renew=renew)
        limits = self._limits(self.config)
        await server.reload(context=prepared.listening, peers=self.config.peers, limits=limits, renew=renew)
        await client.reload(context=prepared.asking, peers=self.config.peers)

    async def _follow_lists(self, server: Server, client: Client) -> None:
        """Take over revocation lists that have changed; what cannot be used changes nothing and is an alarm."""
        said: list[RevocationList] = []
        while True:
            self._look_at_certificates()
            await asyncio.sleep(LOOK)
            if self._lists.changed():
                try:
                    prepared = await asyncio.to_thread(self._prepare, self.config)  # a long list takes seconds
                except ConfigError as error:
                    self.watch.alarm(Alarm("revocation-list", "", None, f"the old one stays in use: {error}"))
                else:
                    await self._take_over(prepared, server, client, renew=False)
                    self.watch.alarm(Alarm("revocation-list", "", None, "a new one is in use", active=False))
            used = [listener.revoked for listener in self.listeners().values() if listener.revoked is not None]
            ending = [found for found in used if found.renew <= datetime.now(UTC)]
            if ending != said:
                text = ", ".join(f"{found.ends:%Y-%m-%dT%H:%M:%SZ}" for found in ending)
                self.watch.alarm(
                    Alarm("revocation-list-ends", "", None, f"at {text}: from then on nobody is let in", active=bool(ending))
                )  # fmt: skip
            said = ending

    def _look_at_certificates(self) -> None:
        """An alarm for each certificate that ends soon, and one when it has ended; taken back when another takes its place."""
        now = datetime.now(UTC)
        found = {each: _CERTIFICATE_ALARMS[each.light(now)] for each in self._certificates}
        if found == self._said_of:
            return
        for code in {code for code in self._said_of.values() if code}:
            if code not in found.values():
                self.watch.alarm(Alarm(code, "", None, active=False))
        for each, code in found.items():
            if code and self._said_of.get(each) != code:
                self.watch.alarm(Alarm(code, "", None, f"{each.key}: {each.why(now)}"))
        self._said_of = found

    # --- connections ----------------------------------------------------------------------------------------------------

    def _find_room(self) -> None:
        """File descriptors for as many connections as may be: so many as the system allows."""
        terminals = 0 if self.config.interaction is None else self.config.interaction.connections
        wanted = self.config.limits.connections + terminals + OWN_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        room = max(2, soft - OWN_FILES)
        self.room = max(1, min(self.config.limits.connections, room // 2 if terminals else room))
        self.room_for_terminals = max(1, room - self.room)
        LOG.warning(
            "%d file descriptors (LimitNOFILE) are too few for all connections that the configuration allows: %d of peers%s", soft,
            self.room, f", {self.room_for_terminals} of terminals" if terminals else "",
            extra={"fields": {"event": "few-descriptors", "descriptors": soft, "wanted": wanted}},
        )  # fmt: skip

    def _limits(self, config: ServerConfig) -> ServerLimits:
        return replace(config.limits, connections=min(config.limits.connections, self.room))

    # --- views ----------------------------------------------------------------------------------------------------------

    async def _start_status(self) -> tuple[web.AppRunner | None, int]:
        address = self.config.status
        if address is None:
            return None, 0
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, address.host, address.port)
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(f"{self.config.path}: server.status: {error.strerror}") from None
        bound = [sock for sock in runner.addresses if isinstance(sock, tuple)]
        return runner, int(bound[0][1])

    async def _healthz(self, _: web.Request) -> web.Response:
        stuck = self.runner.stuck
        good = stuck < STUCK
        return web.json_response({"status": "ok" if good else "stuck", "waiting": round(stuck, 3)}, status=200 if good else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.watch.metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def _all_commands(self) -> Mapping[str, Command]:
        return {"status": self._status, "kek-rotate": self._kek_rotate, **self.commands()}

    async def _kek_rotate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All keys in the database under another key-encryption key; the server goes on meanwhile."""
        changed = self.config.with_kek(str(arguments["to"]))
        await asyncio.to_thread(self.store.rotate_kek, changed.kek())
        self.config = replace(self.config, kek_source=changed.kek_source)
        found = (await asyncio.to_thread(self.store.stats)).kek_id
        LOG.warning("keys are wrapped under another key", extra={"fields": {"event": "kek-rotated", "kek": found}})
        return {"kek_id": found}

    async def _status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        peers, services = list(self.watch.peer_lights()), list(self.watch.service_lights())
        more = self.more(self.runner.machine)
        certificates = list(self.watch.certificate_lights())
        lights = [
            "red" if self.watch.unstored else "green",
            *(row["light"] for row in (*peers, *services, *certificates, *more.get("air", ()))),
        ]
        try:
            stats = await asyncio.to_thread(self.store.stats)
            figures = {"writes": stats.writes, "commits": stats.commits, "octets": stats.octets, "slowest": stats.slowest_commit}
        except StoreError:  # closed: it waits for room
            figures = {}
        restored = self.runner.machine.recoveries.last
        return {
            "role": self.role, "id": self.config.me, "version": pybcast.__version__, "time": self.clock.now(),
            "up": round(self.clock.monotonic() - self.started, 1),
            "light": "red" if "red" in lights else "yellow" if "yellow" in lights else "green",
            "peers": peers, "services": services, "certificates": certificates, "alarms": self.watch.last_alarms()[-5:],
            "restored": None if restored is None else {**asdict(restored), "text": str(restored)},
            "store": {"full": self.watch.unstored, **figures},
            **more,
        }  # fmt: skip


async def _first_of(awaited: Sequence[Awaitable[object]], seconds: float | None = None) -> None:
    """Until one of these is done, or so many seconds have passed.  Tasks that were given go on."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task, given in zip(tasks, awaited, strict=True):
        if task is not given:
            task.cancel()
