# SPDX-License-Identifier: Apache-2.0
"""The BSD/A: takes what happens, has the streams that it concerns work, and gives the outputs to carry out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from pybcast.errors import LocalFlowError, PeerFlowError
from pybcast.flows.agenda import TURN, Agenda
from pybcast.flows.bsda.carousel import Carousel
from pybcast.flows.bsda.periods import PeriodRecord, Periods
from pybcast.flows.bsda.sealing import Means
from pybcast.flows.bsda.stream import BsdaStream
from pybcast.flows.bsda.teks import OwnSecrets, TekSource, derived_teks
from pybcast.flows.edge.slots import Held
from pybcast.flows.events import Alarm, CarouselPut, FlowDone, Output, PlanBegun, PlanRefused, Recall, Recalled, Send
from pybcast.flows.journal import Journal, State
from pybcast.flows.peers.exchange import Asked, Peering
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage, KeyMaterial, PartialItem, Profile, StkmItem
from pybcast.flows.restart import Recoveries, Start
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.stkm import Rings
from pybcast.flows.tables import EdgeState, PeriodState, Side, Status, Tag, status_words

_Recall = tuple[tuple[str, int], int]
"""(stream, from when): what is asked back."""


class _Waits(Exception):
    """A request cannot be answered before the edge has given back what was handed out for its time (R46)."""

    def __init__(self, recall: _Recall) -> None:
        self.recall = recall


@dataclass
class _Waiting:
    """A request that waits for the edge.  ``given``: what was given back for it."""

    message: BackendMessage
    peer: str
    recall: _Recall
    given: set[_Recall] = field(default_factory=set)


@dataclass(frozen=True)
class Change:
    """A period begins at NTP second ``at``: an event boundary, or the end of a right; with ``length``, periods of a new length."""

    service: str
    stream: int
    at: int
    length: int | None = None


class BSDA:
    """One BSD/A (service distribution/adaptation) of any number of streams.

    ``me``: its id (absolute URI).  ``teks``: where traffic keys come from, by default from secrets of its own (``OwnSecrets``).
    ``randomness(n)``: n random bytes, for messageIDs and these secrets.  ``state``: what was persisted.  ``start``: what is known
    of the time before, where a process starts: with a store that is lost, or older than what has left, nothing that was prepared
    is used again, and it asks for new keys instead of sealing under the old ones (R33).  ``None``: this machine goes on where the
    one before it stopped, in one process.
    """

    def __init__(
        self,
        *,
        me: str,
        streams: Iterable[StreamConfig],
        randomness: Callable[[int], bytes],
        teks: TekSource | None = None,
        state: State | None = None,
        start: Start | None = None,
    ) -> None:
        self.me = me
        self._journal = journal = Journal(state)
        secrets = OwnSecrets(journal, randomness)
        self._peers = Peering(me, Side.BSDA, journal, randomness, self._handle, self._answered, self._expired, self._overdue)
        self.recoveries = Recoveries(journal)
        """What is still to be done for a store that was put back."""
        self._allocator, self._unsaved = Allocator(journal), dict[Periods, None]()
        means = Means(
            journal, self._allocator, self._peers, Rings(), self.recoveries, derived_teks(secrets.of) if teks is None else teks,
            secrets if teks is None else None, self._unsaved,
        )  # fmt: skip
        self._streams = {config.id: BsdaStream(config, means, self._give_back) for config in streams}
        self._services: dict[str, list[BsdaStream]] = {}
        for (service, _), stream in self._streams.items():
            self._services.setdefault(service, []).append(stream)
        self._carousel = Carousel(journal, self._peers, self._configs)
        self._start = start
        self._wakes: Agenda[tuple[str, int]] = Agenda()
        self._touched: dict[tuple[str, int], None] = {}
        self._connected = False
        self._waiting: dict[str, _Waiting] = {}
        self._resumed = False

    def _stream(self, service: str, stream: int) -> BsdaStream:
        try:
            return self._streams[service, stream]
        except KeyError:
            raise LocalFlowError(f"no stream {stream} of {service}") from None

    def _configs(self, service: str) -> list[StreamConfig]:
        """The streams of a service; all where it is none of ours."""
        return [stream.config for stream in self._services.get(service, self._streams.values())]

    # --- inputs -------------------------------------------------------------------------------------------------------

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]:
        """A back-end message from the authenticated ``peer``: a request is answered, an answer moves what asked for it.

        The answer comes by another input where the edge must give something back first (R46).
        """
        self._begin(now)
        self._receive(_Waiting(message, peer, (("", 0), 0)), now)
        return self._done(now)

    def tick(self, now: float) -> list[Output]:
        """Let time pass."""
        return self._done(now)

    def clock_forward(self, seconds: float, now: float) -> list[Output]:
        """The clock was put forward: nothing here counts with it, as the BSM's COUNTERs do (R51)."""
        return self.tick(now)

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        parts = (self._wakes.next(), self._peers.next_wakeup(), self._allocator.next_wakeup(), self._carousel.next_wakeup())
        return min((time for time in parts if time is not None), default=None)

    def request_objects(self, service: str, registration: bool, start: int, end: int, now: float) -> list[Output]:
        """F1, F2 pulled: ask the BSM for what is to be broadcast in a window."""
        self._begin(now)
        self._carousel.ask(service, registration, start, end, end, now)
        return self._take(now)

    def request_stkms(self, service: str, stream: int, profile: Profile, now: float) -> list[Output]:
        """F5, pulled: ask the BSM for the completed STKMs of what is not sealed yet."""
        self._begin(now)
        self._stream(service, stream).pull_stkms(profile, now)
        return self._take(now)

    # --- inputs of the edge -------------------------------------------------------------------------------------------

    def connected(self, held: Iterable[Held], now: float) -> list[Output]:
        """The edge is there and says what it has (R44): it speaks first, and is told what it lacks."""
        self._begin(now)
        self._connect(held, now)
        return self._done(now)

    def _connect(self, held: Iterable[Held], now: float) -> None:
        self._connected = True
        self._waiting.clear()
        there = {(one.service, one.stream): one for one in held}
        for key, stream in self._streams.items():
            self._touched[key] = None
            stream.connected(there.get(key), now)

    def disconnected(self, now: float) -> list[Output]:
        """The edge is not there: it goes on with what it has, and nothing is handed out."""
        self._begin(now)
        self._connected = False
        self._waiting.clear()
        return self._done(now)

    def recalled(self, recalled: Recalled, now: float) -> list[Output]:
        """The edge gave back what it could (R46)."""
        self._begin(now)
        key = (recalled.service, recalled.stream)
        if key not in self._streams:
            return self._done(now)
        self._streams[key].recalled(recalled)
        recall = (key, recalled.at)
        for waiting in [waiting for waiting in self._waiting.values() if waiting.recall == recall]:
            waiting.given.add(recall)
            self._receive(waiting, now)
        return self._done(now, key)

    def plan_refused(self, refused: PlanRefused, now: float) -> list[Output]:
        """The edge took nothing of a plan (R45)."""
        self._begin(now)
        stream = self._streams.get((refused.service, refused.stream))
        if stream is not None:
            stream.refused(refused)
        self._journal.emit(Alarm("plan-refused", refused.service, refused.stream, refused.why))
        return self._done(now)

    def plan_begun(self, begun: PlanBegun, now: float) -> list[Output]:
        """The first key of a plan is in use."""
        self._begin(now)
        stream = self._streams.get((begun.service, begun.stream))
        if stream is not None:
            stream.begun(begun.start)
        return self._done(now)

    # --- inputs of the operator ---------------------------------------------------------------------------------------

    def add_boundary(self, service: str, stream: int, at: int, now: float) -> tuple[int, list[Output]]:
        """An event boundary, or the end of a right, at NTP second ``at`` (R9).

        Returns the time from which it holds: later than ``at`` when that is already prepared (R5, with an alarm).
        """
        mine = self._stream(service, stream)
        self._begin(now)
        held = mine.add_boundary(at)
        if held != at:
            self._journal.emit(Alarm("boundary-deferred", service, stream, f"{at} is prepared already or off the grid: {held}"))
        return held, self._done(now, (service, stream))

    def set_period(self, service: str, stream: int, length: int, now: float, at: int | None = None) -> tuple[int, list[Output]]:
        """A new period length, from ``at`` or the end of the last prepared period on; returns when it holds: later than ``at``
        when that is prepared already (R5).

        Give both headends of a pair one ``at``, beyond what either has prepared.  Start this BSD/A with the changed configuration
        next time (``start``: the time that was returned).
        """
        mine = self._stream(service, stream)
        self._begin(now)
        return mine.set_period(length, now, at), self._done(now, (service, stream))

    def catch_up(self, changes: Iterable[Change], now: float) -> list[Output]:
        """What was entered while this BSD/A was dead and is still to come, in the order of its times (R46).

        Call it first: before anything is prepared, so that both headends of a pair have the same periods.
        """
        self._begin(now)
        for change in changes:
            stream = self._stream(change.service, change.stream)
            if change.length is not None:
                stream.set_period(change.length, now, change.at)
            else:
                stream.add_boundary(change.at)
        return self._done(now)

    def set_generation(self, service: str, stream: int, generation: Literal["bsm", "bsda"], now: float) -> list[Output]:
        """Who seals from the next key on (F3 or F4).

        The BSM says when: by that key (F4), or by asking for the partial STKMs from its start on (F3); until then all goes on as
        before.  Tell the BSM too (:meth:`BSM.set_generation`), and start this BSD/A with the changed configuration next time.
        """
        mine = self._stream(service, stream)
        self._begin(now)
        mine.set_generation(generation)
        return self._done(now, (service, stream))

    # --- for views and tests ------------------------------------------------------------------------------------------

    def records(self, service: str, stream: int) -> tuple[PeriodRecord, ...]:
        """The crypto periods it knows, oldest first."""
        return self._stream(service, stream).periods.records

    @property
    def carousel(self) -> tuple[CarouselPut, ...]:
        """What turns."""
        return self._carousel.objects

    def states(self, service: str, stream: int, now: float) -> dict[int, EdgeState | PeriodState]:
        """How far each period is, by its start: of those at the edge as they are planned, which is how it executes them."""
        return self._stream(service, stream).edge.states(now)

    def unknown(self, service: str, stream: int, start: int, mark: bytes, mark_of: Callable[[bytes], bytes]) -> bool:
        """Whether a STKM is on air that this store does not know of: then the store is older than what has left (R51).

        ``mark``: ``mark_of`` the STKM on air.  Of a stream that is not ours, or that recovers, or a period that is forgotten,
        nothing is known.
        """
        mine = self._streams.get((service, stream))
        return mine is not None and mine.unknown(start, mark, mark_of)

    # --- the work of every input --------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if not self._resumed:
            self._resumed = True
            self._resume(now)

    def _resume(self, now: float) -> None:
        """After a start: the carousel turns, and the BSM is sent again what it may have missed."""
        start, restored = self._start, None if self._start is None else self._start.restored
        lost = start is not None and (restored is not None or start.empty)
        if restored is not None:
            self.recoveries.note(restored)
        self._carousel.resume(self._services, lost, now)
        for key, stream in self._streams.items():
            self._touched[key] = None
            stream.resume(restored, lost, now)

    def _done(self, now: float, *touched: tuple[str, int]) -> list[Output]:
        self._begin(now)
        self._touched.update(dict.fromkeys(touched))
        self._work(now)
        return self._take(now)

    def _take(self, now: float) -> list[Output]:
        for periods in self._unsaved:
            periods.save()
        self._unsaved.clear()
        self._allocator.flush()
        return self._journal.take()

    def _work(self, now: float) -> None:
        """The streams that this input touched, and those whose time has come; never all of them."""
        self._peers.tick(now)
        self._touched.update(dict.fromkeys(itertools.islice(self._wakes.due(now), TURN)))
        touched, self._touched = self._touched, {}
        # Of a stream for which a request waits, nothing goes to the edge: it has just given it back.
        kept = {key for waiting in self._waiting.values() for key, _ in waiting.given}
        for key in touched:
            self._wakes.set(key, self._streams[key].work(now, self._connected and key not in kept))
        self._carousel.tick(now)
        self._allocator.prune(now)

    # --- requests of the BSM ------------------------------------------------------------------------------------------

    def _receive(self, waiting: _Waiting, now: float) -> None:
        name = waiting.message.message_id
        self._waiting[name] = waiting
        try:
            self._peers.receive(waiting.message, now, waiting.peer)
        except _Waits as wait:
            waiting.recall = wait.recall
            if self._connected:  # else it is dropped: the peer asks again
                key, at = wait.recall
                self._journal.emit(Recall(*key, at))
                return
        del self._waiting[name]

    def _give_back(self, stream: BsdaStream, at: int, message: BackendMessage) -> None:
        """What the edge has from ``at`` on must be given back before ``message`` is answered (R46)."""
        recall = (stream.config.id, at)
        if recall not in self._waiting[message.message_id].given and stream.edge.has(at):
            raise _Waits(recall)

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        """Answer one checked, new request.  ``PeerFlowError`` = refused, nothing moved."""
        if message.service != ALL_SERVICES and message.service not in self._services:
            raise PeerFlowError(Status.INVALID_REQUEST, "service not known here")
        if not any(config.bsm == message.source for config in self._configs(message.service)):
            raise PeerFlowError(Status.NOT_PERMITTED, "this BSM has no right to the service")
        if message.tag in (Tag.LTKMDelivery, Tag.RegDelivery):
            self._carousel.take(message)
        elif message.tag is Tag.KeyDelivery and message.attempt is None:
            self._take_keys(message, now)
        elif message.tag is Tag.KeyDelivery:
            assert message.attempt is not None
            self._stream_of(message).cut_keys(message, message.attempt, now)
        else:
            assert message.profile is not None
            return self._stream_of(message).handle(message, message.profile, now)
        return message.answer(Status.SUCCESS, now=now)

    def _stream_of(self, message: BackendMessage) -> BsdaStream:
        number = message.stream
        if number is None:
            number = next((i.stream for i in message.items if isinstance(i, StkmItem | PartialItem | KeyMaterial)), None)
        stream = self._streams.get((message.service, number or 0))
        if stream is None or message.profile not in stream.config.profiles:
            raise PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here")
        self._touched[stream.config.id] = None
        return stream

    def _take_keys(self, message: BackendMessage, now: float) -> None:
        """F4, pushed: all or nothing, whatever streams they are for."""
        keys = [item for item in message.items if isinstance(item, KeyMaterial)]
        streams = [self._streams.get((message.service, key.stream)) for key in keys]
        if any(stream is not None and stream.fresh for stream in streams):
            raise PeerFlowError(Status.DELAYED, "the store was lost: a fresh key has been asked for (R33)")
        new: list[tuple[BsdaStream, KeyMaterial]] = []
        for stream, key in zip(streams, keys, strict=True):
            if stream is None:
                raise PeerFlowError(Status.INVALID_REQUEST, "stream not known here, or its STKMs are made by the BSM")
            if stream.check_key(key, message, now):
                new.append((stream, key))
        for stream, key in new:
            stream.install(key, message.replace, now)
            self._touched[stream.config.id] = None

    # --- answers of the BSM -------------------------------------------------------------------------------------------

    def _expired(self, asked: Asked) -> None:
        if asked.message.stream is not None:
            self._touched[asked.message.service, asked.message.stream] = None

    def _overdue(self, asked: Asked, now: float) -> None:
        """What was promised (status 19) has not come: fetch it."""
        message = asked.message
        stream = self._streams.get((message.service, message.stream or 0))
        if message.tag is Tag.TEKDelivery and stream is not None and message.profile is not None:
            stream.pull_stkms(message.profile, now)
        elif message.tag is Tag.KeyRequest:
            # Where keys are pulled nobody delivers them, nor to who lost his store: asked in another message he would have lost it
            # once more (R33).
            self._journal.emit(Send(message))

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        """The peer answered one of our requests (its exchange has moved already)."""
        message, status = asked.message, answer.status or 0
        stream = self._streams.get((message.service, message.stream or 0))
        if message.tag in (Tag.LTKMRequest, Tag.RegRequest):
            if self._carousel.answered(message, answer):
                return
        elif stream is not None and message.profile is not None:
            self._touched[stream.config.id] = None
            stream.answered(message, message.profile, answer, self._connected, now)
            if message.tag is Tag.STKMRequest and status != Status.DELAYED:  # what it was promised is sent again
                self._peers.delivered(Tag.TEKDelivery, message.service, message.profile, message.stream, set(asked.about))
        if status == Status.SUCCESS:
            if message.tag is Tag.STKMDelivery:
                self._journal.emit(FlowDone("F6", message.profile, message.service))
            return
        if self._peers.split(asked, status, now):
            return
        if stream is not None and message.profile is not None:
            stream.request_refused(message.tag, message.profile, now)
        if status != Status.DELAYED and not (message.tag is Tag.STKMRequest and status == Status.NON_EXISTENT):
            why = f"{message.tag.name} refused: {status_words(status, message.tag.name)}"
            self._journal.emit(Alarm("refused", message.service, message.stream, why))
