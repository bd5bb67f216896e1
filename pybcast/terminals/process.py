# SPDX-License-Identifier: Apache-2.0
"""A terminal as a process: from session descriptions and credentials to traffic keys.

It hears STKMs (through ``broadcast.listener``), LTKMs and registration material (push and carousel), or fetches them over the
interaction channel, or both; feeds them to ``flows.Terminal``; keeps on disk what that wants kept before a key is used; and gives
keys to a socket, to relays that open SRTP, and as lines of text without them.

A terminal ends on SIGTERM or SIGINT (0), cannot begin with bad credentials, descriptions or addresses (2), and fails when its
database does (70).  A BSM that does not answer, an ear that dies or foreign traffic do not end it.  Nor does a description that
cannot be used while there are others: that is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol

from pybcast.broadcast.listener import Listener
from pybcast.broadcast.receiver import CarouselReceiver, LtkmListener
from pybcast.errors import ConfigError, KeyUnavailable, Replay, StoreError, TransportError
from pybcast.flows import Terminal, Tuning
from pybcast.flows.events import Answer, Output, Persist, Refused, TekExpired, TekReady
from pybcast.flows.stream.config import CAROUSEL_CYCLE
from pybcast.flows.terminal.objects import RETRY_CYCLES
from pybcast.messages import Protocol as Protection
from pybcast.outlets.keysocket import KeyOutlet
from pybcast.outlets.media import Route
from pybcast.outlets.relay import Open
from pybcast.outlets.udp import Address, Pair, sending
from pybcast.sdp import Description, Media, StkmStream
from pybcast.servers import log
from pybcast.servers.credentials import Credentials
from pybcast.servers.roles import Clock, SystemClock
from pybcast.sourcefilter import SourceFilter, is_ip
from pybcast.store import SqliteStore
from pybcast.terminals.described import MAX_TOLD, Place, Schedule, senders_of, tell_what_is_not_obeyed, title, unheard, usable
from pybcast.terminals.fetching import Fetcher

LOG: Final = logging.getLogger("pybcast.terminal")
CLEAN, USAGE, OUR_FAULT = 0, 2, 70
LOOK: Final = 1.0  # seconds at most until the clock is looked at again
REGISTRATION: Final = frozenset({"smk", "keyset", "domain"})
"""Tables of card and device that a registration changes."""
Via = Literal["broadcast", "interaction", "both"]

Event = TekReady | TekExpired | Refused
"""What a terminal tells of."""


class Outlet(Protocol):
    """Where keys go: ``outlets.KeyOutlet``, a relay."""

    def put(self, output: TekReady | TekExpired) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Options:
    """``via``: where keys come from.  ``keys``: path of a socket that gives them.  ``relays``: ADDRESS:PORT for the RTP of each
    media stream that the descriptions name, in their order.  ``told``: called with every event.
    """

    via: Via = "both"
    keys: Path | None = None
    relays: Sequence[str] = ()
    told: Callable[[Event], None] = lambda _: None
    outlets: Sequence[Outlet] = ()


class TerminalProcess:
    """One terminal.  ``descriptions``: of the services it is tuned to."""

    def __init__(
        self, credentials: Credentials, descriptions: Sequence[Description], options: Options, clock: Clock | None = None
    ) -> None:
        self.credentials, self.options = credentials, options
        self.clock = clock or SystemClock()
        profile = credentials.profile
        self._given = tuple(descriptions)
        descriptions, self._unused = usable(descriptions, profile)
        self.streams: list[StkmStream] = [stream for d in descriptions for stream in d.streams(profile)]
        self.tunings: list[Tuning] = [tuning for d in descriptions for tuning in d.tunings(profile)]
        if not self.streams:
            why = f"no description has a STKM stream of the {'DRM' if profile == 'drm' else 'Smartcard'} Profile"
            unused = [f"{title(d)}: {reason}" for d, reason in self._unused]
            ignored = [f"{title(d)}: {line}" for d in descriptions for line in d.ignored if line.what == "m="]
            raise ConfigError("; ".join((why, *unused, *ignored[:MAX_TOLD])))
        self.descriptions = tuple(descriptions)
        self.schedule = Schedule(self.descriptions)
        self._of = [index for index, d in enumerate(descriptions) for _ in d.streams(profile)]  # whose each stream is
        self.tuned: set[tuple[str, int]] = set()
        self.cycle = max((d.cycle for d in descriptions if d.cycle is not None), default=CAROUSEL_CYCLE)
        channel = credentials.file.interaction
        urls = [channel.url] if channel is not None and channel.url else [d.interaction for d in descriptions if d.interaction]
        self.url = urls[0] if urls and channel is not None else ""
        if options.via == "interaction" and not self.url:
            raise ConfigError("interaction: neither credentials nor descriptions say where it is")
        if options.via == "both" and not self.url:
            self.options = replace(options, via="broadcast")
        self.store: SqliteStore
        self.machine: Terminal
        self.fetcher: Fetcher | None = None
        self.listener: Listener | None = None
        self._outlets: list[Outlet] = list(options.outlets)
        self._routes: list[Route] = []
        self._carousels: list[CarouselReceiver] = []
        self._heard_again = 0.0
        self._told_faults: set[str] = set()
        self._outputs: list[Output] = []
        self._work = asyncio.Event()
        self._at_place: list[list[tuple[Tuning, StkmStream]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.refused: Counter[str] = Counter()

    # --- life -----------------------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Run until a signal; the exit status."""
        style = self.credentials.file.log
        log.start(style.format, style.level)
        try:
            return asyncio.run(self._main())
        except (ConfigError, TransportError) as error:
            LOG.critical("cannot start: %s", error, extra={"fields": {"event": "refused"}})
            return USAGE
        except StoreError as error:
            LOG.critical("stopped: %s", error, extra={"fields": {"event": "fatal"}})
            return OUR_FAULT

    async def _main(self) -> int:
        try:
            self.store = SqliteStore(self.credentials.state, self.credentials.kek(), owner=self._owner())
        except StoreError as error:
            raise ConfigError(str(error)) from None
        try:
            return await self._run()
        finally:
            await asyncio.to_thread(self.store.close)

    def _owner(self) -> str:
        file = self.credentials.file
        return f"card {file.card.impi}" if file.card is not None else f"device {file.device.udn if file.device else ''}"

    async def _run(self) -> int:
        state = self.store.load()
        agent = self.credentials.agent(state)
        profile = {"card": agent} if self.credentials.profile == "smartcard" else {"device": agent}
        self.machine = Terminal(**profile, parental=self.credentials.parental, cycle=self.cycle, state=state)  # type: ignore[arg-type]
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as open_:
            if self.options.keys is not None:
                socket = KeyOutlet(self.options.keys)
                await socket.start()
                open_.push_async_callback(socket.stop)
                self._outlets.append(socket)
            now = self.clock.now()
            for description, why in self._unused:
                _tell_unused(description, f"is not used: {why}")
            tell_what_is_not_obeyed(self.descriptions, self.credentials.profile)
            self._tune(now)
            for ready in self.machine.held(now):  # from before a restart (R42)
                self._take([ready])
            self._set_timer()  # a service whose time is yet to come says nothing
            self._relay(open_, loop)
            tasks = [asyncio.create_task(self._carry_out())]
            if self.options.via != "interaction":
                await self._listen(open_)
            if self.options.via != "broadcast":
                self.fetcher = fetcher = Fetcher(
                    self.url, self.credentials.context, self.machine, self.clock, self._take, self.cycle, self.tuned,
                    self.credentials.revocation_lists(),
                )  # fmt: skip
                open_.push_async_callback(fetcher.close)
                tasks += [asyncio.create_task(work) for work in fetcher.works(self.tunings)]
            said = {"event": "ready", "profile": self.credentials.profile, "streams": len(self.tunings), "via": self.options.via}
            LOG.info("terminal ready: %d streams", len(self.tunings), extra={"fields": said})
            ending = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in (ending, *tasks):
                task.cancel()
            await asyncio.gather(ending, *tasks, return_exceptions=True)
            for task in done - {ending}:
                await task  # says why
        if self._timer is not None:
            self._timer.cancel()
        await self._flush()
        counts = {"refused": dict(self.refused), "carousel": dict(self._faults())}
        LOG.info("stopped", extra={"fields": {"event": "stopped", **counts}})
        return CLEAN

    def _tune(self, now: float) -> None:
        """Tune to the services whose time has begun, and out of those whose time is over."""
        changed = self.schedule.changed(now)
        if any(self.schedule.active(index) for index in changed):
            self._hear_again()  # what its carousel gave before was not taken
        for tuning, index in zip(self.tunings, self._of, strict=True):
            if index not in changed:
                continue
            if self.schedule.active(index):
                self.tuned.add((tuning.service, tuning.stream))
                self._take(self.machine.tune(tuning, now))
            else:
                self.tuned.discard((tuning.service, tuning.stream))
                self._take(self.machine.tune_out(tuning.service, tuning.stream))

    def _relay(self, open_: contextlib.AsyncExitStack, loop: asyncio.AbstractEventLoop) -> None:
        """Open the media streams for players that know no keys.  One that cannot be opened costs the others nothing."""
        if not self.options.relays:
            return
        interface = self.credentials.file.terminal.interface
        media = [  # also of descriptions that are not used: the order of the relays is that of all that were given
            (d, stream, medium)
            for d in self._given
            for stream in d.streams(self.credentials.profile)
            for medium in d.protected(stream.streamid)
        ]
        if len(self.options.relays) > len(media):
            raise ConfigError(f"{len(self.options.relays)} relays, but {len(media)} protected media streams in the descriptions")
        refusals: list[str] = []
        for (description, stream, medium), target in zip(media, self.options.relays, strict=False):
            why = next((reason for d, reason in self._unused if d is description), "") or _not_relayed(stream, medium)
            source: Pair | None = None
            if not why:
                try:
                    source = Pair.listen(Address(medium.address, medium.port), interface, senders_of(medium))
                except ConfigError as error:
                    why = str(error)
            if source is None:
                refusals.append(f"--relay {target}: {medium.address}:{medium.port} is not opened: {why}")
                LOG.error("%s", refusals[-1], extra={"fields": {"event": "not-relayed", "service": stream.service}})
                continue
            converter = Open(stream.service, stream.streamid)
            route = Route(converter, source, [sending(Address.parse(target), interface)], self.clock.now)
            route.open(loop)
            open_.callback(route.close, loop)
            self._routes.append(route)
            self._outlets.append(_OfStream(converter))
        if refusals and not self._routes:
            raise ConfigError(refusals[0])

    # --- from outside into the machine ------------------------------------------------------------------------------------

    async def _listen(self, open_: contextlib.AsyncExitStack) -> None:
        interface = self.credentials.file.terminal.interface
        deaf = unheard(self.descriptions, self.credentials.profile, interface)
        for index, why in deaf.items():
            _tell_unused(self.descriptions[index], f"cannot be heard: {why}")
        at: dict[tuple[Place, SourceFilter | None], list[tuple[Tuning, StkmStream]]] = {}
        for t, s, index in zip(self.tunings, self.streams, self._of, strict=True):
            if index not in deaf:
                at.setdefault((t.where, senders_of(s)), []).append((t, s))
        if not at and self.options.via == "broadcast":
            raise ConfigError("; ".join(f"{title(self.descriptions[index])}: {why}" for index, why in deaf.items()))
        at_place = self._at_place = [*at.values()]

        def stkm(index: int, data: bytes) -> None:
            now = self.clock.now()
            for tuning, stream in at_place[index]:
                if len(at_place[index]) == 1 or _may_be(stream, data):
                    self._take(self.machine.receive_stkm(tuning.service, tuning.stream, data, now))

        if at:
            self.listener = listener = Listener([where for where, _ in at], interface, stkm, [senders for _, senders in at])
            open_.callback(listener.stop)
            self._want()
            listener.start()
        pushes: dict[tuple[Place, SourceFilter | None], list[int]] = {}
        carousels: dict[tuple[Place, int, SourceFilter | None], list[int]] = {}
        for index, d in enumerate(self.descriptions):
            if d.ltkm is not None and index not in deaf:
                pushes.setdefault(((d.ltkm.address, d.ltkm.port), senders_of(d.ltkm)), []).append(index)
            if (c := d.carousel) is not None and index not in deaf:
                carousels.setdefault(((c.address, c.port), c.tsi, senders_of(c)), []).append(index)
        for (where, senders), owners in pushes.items():
            push = LtkmListener(*where, interface, senders=senders, on_message=partial(self._object, owners))
            await open_.enter_async_context(push)
        for (where, tsi, senders), owners in carousels.items():
            receiver = CarouselReceiver(*where, tsi, interface, senders=senders, on_message=partial(self._object, owners))
            self._carousels.append(await open_.enter_async_context(receiver))

    def _want(self) -> None:
        """Tell the ear which key ids could be opened: those of the description, or what card or device could use now."""
        if self.listener is None:
            return
        openable = self.machine.openable()
        for index, place in enumerate(self._at_place):
            wanted: set[bytes] = set()
            for _, stream in place:
                named = _named(stream)
                wanted |= named
                if not named or stream.profile == "drm":  # its CID extensions change with its keys
                    wanted |= openable
            self.listener.want(index, wanted or None)

    def _object(self, owners: Sequence[int], data: bytes) -> None:
        """An LTKM or registration object of a place that these descriptions name."""
        if any(self.schedule.active(index) for index in owners):
            self._take(self.machine.receive_object(data, self.clock.now()))

    # --- from the machine to outside --------------------------------------------------------------------------------------

    def _take(self, outputs: Sequence[Output]) -> None:
        """Outputs of the machine: kept first, then carried out, in order."""
        if outputs:
            self._outputs += outputs
            self._work.set()
        self._set_timer()

    def _set_timer(self) -> None:
        """Look at the clock when something is due, and once in a while: it may have been set."""
        wakeup = self.machine.next_wakeup()
        if self._timer is not None:
            self._timer.cancel()
        wait = LOOK if wakeup is None else min(max(wakeup - self.clock.now(), 0.0), LOOK)
        self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _tick(self) -> None:
        for route in self._routes:
            route.look()
        self._tune(self.clock.now())
        if self.clock.monotonic() >= self._heard_again:
            self._hear_again()
        self._tell_faults()
        self._take(self.machine.tick(self.clock.now()))

    def _hear_again(self) -> None:
        """Let the carousels give every object once more: what was refused may be taken now."""
        self._heard_again = self.clock.monotonic() + RETRY_CYCLES * self.cycle
        for carousel in self._carousels:
            carousel.forget()

    def _faults(self) -> Counter[str]:
        return sum((carousel.faults for carousel in self._carousels), Counter())

    def _tell_faults(self) -> None:
        """Each kind of what the carousels have and cannot be received, once; the numbers are told at the end."""
        faults = self._faults()
        if faults.keys() <= self._told_faults:
            return
        self._told_faults |= faults.keys()
        words = ", ".join(f"{count} {name}" for name, count in faults.items())
        LOG.warning("not received from the carousel: %s", words, extra={"fields": {"event": "carousel-faults", "counts": faults}})

    async def _carry_out(self) -> None:
        while True:
            await self._work.wait()
            await self._flush()

    async def _flush(self) -> None:
        self._work.clear()
        outputs, self._outputs = self._outputs, []
        kept = [output for output in outputs if isinstance(output, Persist)]
        if kept:
            await self.store.write_async(kept)
            self._want()
            if any(row.table in REGISTRATION and row.value is not None for row in kept):
                self._hear_again()
        for output in outputs:
            match output:
                case TekReady() | TekExpired():
                    self._give(output)
                case Refused():
                    self._refused(output)
                case Answer(data) if self.fetcher is not None:
                    self.fetcher.answer(data)
                case Answer():
                    LOG.warning("the BSM wants an answer from the card, and there is no interaction channel (R19)")
                case _:
                    pass

    def _give(self, output: TekReady | TekExpired) -> None:
        said = {"event": type(output).__name__, "service": output.service, "stream": output.stream, "mki": output.mki.hex()}
        what = "new" if isinstance(output, TekReady) else "expired"
        LOG.info("key %s of %s: %s", output.mki.hex(), output.service, what, extra={"fields": said})
        for outlet in self._outlets:
            outlet.put(output)
        self.options.told(output)

    def _refused(self, output: Refused) -> None:
        """Anyone can send anything: of each kind of refusal the first is a line, the others are counted.

        An LTKM that was heard before is no news: two channels carry it, and it is issued anew with other COUNTERs (R7).
        """
        reason = f"{output.kind}: {output.error.code}"
        self.refused[reason] += 1
        if isinstance(output.error, Replay) and output.kind.endswith("ltkm"):
            return
        if self.refused[reason] == 1:
            fields = {"event": "refused-message", "kind": output.kind, "code": output.error.code}
            LOG.info("refused %s: %s", output.kind, output.error, extra={"fields": fields})
        if isinstance(output.error, KeyUnavailable) and self.fetcher is not None:
            self.fetcher.key_missing()
        self.options.told(output)


class _OfStream:
    """An outlet that takes the keys of one stream."""

    def __init__(self, converter: Open) -> None:
        self._converter = converter

    def put(self, output: TekReady | TekExpired) -> None:
        if (output.service, output.stream) == (self._converter.service, self._converter.stream):
            self._converter.put(output)


def _not_relayed(stream: StkmStream, medium: Media) -> str:
    """Why a media stream cannot be opened; empty where it can."""
    if stream.protocol not in (None, Protection.SRTP):
        return f"{stream.protocol.name} protects it, and only SRTP is opened"
    return medium.not_opened or ("" if is_ip(medium.address) else "its address is a host name")


def _tell_unused(description: Description, why: str) -> None:
    LOG.error(
        "%s %s", title(description), why, extra={"fields": {"event": "sdp-unused", "service": title(description), "why": why}}
    )


def _named(stream: StkmStream) -> set[bytes]:
    """What stands in every STKM of a stream, as far as its description says (R37).

    Smartcard Profile: two Key IDs of EXT 3, type and length before each (RFC 5410): the Key Domain ID, and the Key Group with the
    Key Number or without.  DRM Profile: CID extensions.
    """
    if stream.profile == "drm":
        return {extension.to_bytes(4, "big") for extension in (*stream.srvCIDExt, *stream.prgCIDExt)}
    return {item[:3] + b"\1\4" + item[3:] for item in (*stream.srvKEYList, *stream.prgKEYList)}


def _may_be(stream: StkmStream, data: bytes) -> bool:
    """Whether a STKM may be of this stream: several share its port."""
    if stream.profile == "drm":
        return True  # another stream's BCI is another one, and refused for want of its key
    named = _named(stream)
    return not named or any(name in data for name in named)
