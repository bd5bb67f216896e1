# SPDX-License-Identifier: Apache-2.0
"""The BSD/A: makes traffic keys, gets or makes their STKMs, and hands both to the edge, which executes them (``edge``).

Without I/O: ``receive`` takes the peer's messages, ``tick`` the time, ``connected`` and what follows it what the edge says; each
returns the outputs to carry out in order (see ``events``).  One crypto period is one record that walks through ``tables.PERIOD``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pybcast import codec
from pybcast.errors import BcastError, LocalFlowError, PeerFlowError, WireError
from pybcast.flows.agenda import TURN, Agenda
from pybcast.flows.bsda.cutting import Cutting
from pybcast.flows.bsda.periods import FINAL, NOT_ON_AIR, Cover, PeriodRecord, Periods
from pybcast.flows.bsda.teks import OwnSecrets, TekSource, derived_teks
from pybcast.flows.edge.machine import Held
from pybcast.flows.events import (
    AirStkm,
    Alarm,
    CarouselDrop,
    CarouselPut,
    FlowDone,
    Output,
    PlanBegun,
    PlanRefused,
    Recall,
    Recalled,
    Send,
)
from pybcast.flows.journal import Journal
from pybcast.flows.peers.exchange import RETRY, Asked, Peering
from pybcast.flows.peers.messages import (
    ALL_SERVICES,
    MAX_DATA,
    SERVICE_KEY,
    BackendMessage,
    KeyMaterial,
    KeyType,
    PartialItem,
    Profile,
    StkmItem,
)
from pybcast.flows.restart import Recoveries, Start
from pybcast.flows.serial import later_key
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Allocator, Ask
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import PERIOD, EdgeState, PeriodEvent, PeriodState, Side, Status, Tag, status_words, step
from pybcast.messages import DrmStkm, SmartcardStkm
from pybcast.secret import Secret

_Checked = tuple[StkmItem, PeriodRecord, DrmStkm | SmartcardStkm, bytes]
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
        state: dict[str, dict[tuple[object, ...], object]] | None = None,
        start: Start | None = None,
    ) -> None:
        self.me = me
        self._streams = {config.key: config for config in streams}
        self._journal = Journal(state)
        self._secrets = OwnSecrets(self._journal, randomness) if teks is None else None
        self._teks = derived_teks(OwnSecrets(self._journal, randomness).of) if teks is None else teks
        self._secrets_due: dict[tuple[str, int], float] = {}
        self._allocator = Allocator(self._journal)
        self._peers = Peering(me, Side.BSDA, self._journal, randomness, self._handle, self._answered, self._expired, self._overdue)
        self.recoveries = Recoveries(self._journal)
        """What is still to be done for a store that was put back."""
        self._restored = None if start is None else start.restored
        self._lost = start is not None and (start.restored is not None or start.empty)
        self._fresh = {key for key in self._streams if self._journal.get("fresh", key, bool)}
        self._services: dict[str, list[tuple[str, int]]] = {}
        self._periods = Periods(self._journal, self._allocator, self._streams.values())
        self._cutting = Cutting(self._journal, self._periods)
        self._wakes: Agenda[tuple[str, int]] = Agenda()
        self._touched: dict[tuple[str, int], None] = {}
        self._not_before: dict[tuple[str, int, Tag, Profile], float] = {}
        self._complaints: dict[tuple[str, int], str] = {}
        self._polls: Agenda[str] = Agenda()
        self._carousel_ends: Agenda[tuple[str, str]] = Agenda()  # by source and name: names of two BSMs do not mix
        self._connected = False
        self._strangers: set[tuple[str, int]] = set()  # streams that the edge does not know
        self._waiting: dict[str, _Waiting] = {}
        self._resumed = False
        for config in self._streams.values():
            self._services.setdefault(config.service, []).append(config.key)

    # --- inputs -------------------------------------------------------------------------------------------------------

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]:
        """A back-end message from the authenticated ``peer``: a request is answered, an answer moves what asked for it.

        The answer comes by another input where the edge must give something back first (R46).
        """
        self._begin(now)
        self._receive(_Waiting(message, peer, (("", 0), 0)), now)
        return self._done(now)

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

    def connected(self, held: Iterable[Held], now: float) -> list[Output]:
        """The edge is there and says what it has (R44): it speaks first, and is told what it lacks."""
        self._begin(now)
        self._connect(held, now)
        return self._done(now)

    def _connect(self, held: Iterable[Held], now: float) -> None:
        self._connected = True
        self._waiting.clear()
        self._strangers.clear()
        there = {(one.service, one.stream): one for one in held}
        for config in self._streams.values():
            has = there.get(config.key)
            self._touched[config.key] = None
            if self._periods.reconcile(config, has, now):
                if has is not None and config.key in self._fresh:  # it goes on with it until there is a fresh key (R33)
                    self._periods.leave(config, [(period.start, period.end) for period in has.periods])
                else:
                    self._journal.emit(Recall(*config.key, 0))
            if has is not None and has.used is not None:
                self._begun(config, has.used)

    def disconnected(self, now: float) -> list[Output]:
        """The edge is not there: it goes on with what it has, and nothing is handed out."""
        self._begin(now)
        self._connected = False
        self._waiting.clear()
        return self._done(now)

    def recalled(self, recalled: Recalled, now: float) -> list[Output]:
        """The edge gave back what it could (R46)."""
        self._begin(now)
        config = self._streams.get((recalled.service, recalled.stream))
        if config is None:
            return self._done(now)
        self._periods.recalled(config, recalled)
        recall = (config.key, recalled.at)
        for waiting in [waiting for waiting in self._waiting.values() if waiting.recall == recall]:
            waiting.given.add(recall)
            self._receive(waiting, now)
        return self._done(now, config.key)

    def plan_refused(self, refused: PlanRefused, now: float) -> list[Output]:
        """The edge took nothing of a plan (R45)."""
        self._begin(now)
        config = self._streams.get((refused.service, refused.stream))
        if config is not None:
            self._periods.refused(config, refused)
            if refused.unknown:
                self._strangers.add(config.key)
        self._journal.emit(Alarm("plan-refused", refused.service, refused.stream, refused.why))
        return self._done(now)

    def plan_begun(self, begun: PlanBegun, now: float) -> list[Output]:
        """The first key of a plan is in use."""
        self._begin(now)
        config = self._streams.get((begun.service, begun.stream))
        if config is not None:
            self._begun(config, begun.start)
        return self._done(now)

    def _begun(self, config: StreamConfig, start: int) -> None:
        """A stream has recovered when a key that was made since is in use."""
        record = self._periods.record(config, start)
        new = record is not None and record.state is PeriodState.HANDED and config.key not in self._fresh
        if new and self.recoveries.of(config) is not None:
            self.recoveries.over(config)

    def _give_back(self, config: StreamConfig, at: int, message: BackendMessage) -> None:
        """What the edge has from ``at`` on must be given back before ``message`` is answered (R46)."""
        waiting = self._waiting[message.message_id]
        if (config.key, at) not in waiting.given and self._periods.handed(config, at):
            raise _Waits((config.key, at))

    def tick(self, now: float) -> list[Output]:
        """Let time pass."""
        return self._done(now)

    def add_boundary(self, service: str, stream: int, at: int, now: float) -> tuple[int, list[Output]]:
        """An event boundary, or the end of a right, at NTP second ``at`` (R9).

        Returns the time from which it holds: later than ``at`` when that is already prepared (R5, with an alarm).
        """
        config = self._config(service, stream)
        self._begin(now)
        held = self._periods.cut(config, config.grid(at), rights=True)
        if held != at:
            self._journal.emit(Alarm("boundary-deferred", service, stream, f"{at} is prepared already or off the grid: {held}"))
        return held, self._done(now, config.key)

    def set_period(self, service: str, stream: int, length: int, now: float, at: int | None = None) -> tuple[int, list[Output]]:
        """A new period length, from ``at`` or the end of the last prepared period on; returns when it holds: later than ``at``
        when that is prepared already (R5).

        Give both headends of a pair one ``at``, beyond what either has prepared.  Start this BSD/A with the changed configuration
        next time (``start``: the time that was returned).
        """
        config = self._config(service, stream)
        self._begin(now)
        return self._set_period(config, length, now, at), self._done(now, config.key)

    def _set_period(self, config: StreamConfig, length: int, now: float, at: int | None) -> int:
        changed = replace(config, period=length)  # refuses what cannot work
        earliest = max(self._periods._horizon(config), int(now) + 1)
        held = self._periods.cut(config, config.grid(earliest if at is None else max(at, earliest)), length)
        self._streams[config.key] = changed
        return held

    def catch_up(self, changes: Iterable[Change], now: float) -> list[Output]:
        """What was entered while this BSD/A was dead and is still to come, in the order of its times (R46).

        Call it first: before anything is prepared, so that both headends of a pair have the same periods.
        """
        self._begin(now)
        for change in changes:
            config = self._config(change.service, change.stream)
            if change.length is not None:
                self._set_period(config, change.length, now, change.at)
            else:
                self._periods.cut(config, config.grid(change.at), rights=True)
        return self._done(now)

    def set_generation(self, service: str, stream: int, generation: Literal["bsm", "bsda"], now: float) -> list[Output]:
        """Who seals from the next key on (F3 or F4).

        The BSM says when: by that key (F4), or by asking for the partial STKMs from its start on (F3); until then all goes on as
        before.  Tell the BSM too (:meth:`BSM.set_generation`), and start this BSD/A with the changed configuration next time.
        """
        config = self._config(service, stream)
        self._begin(now)
        if config.generation != generation:
            self._streams[config.key] = replace(config, generation=generation)
            if generation == "bsda":
                self._journal.put("before", config.key, "bsm")
            else:
                self._journal.drop("before", config.key)
                self._recovered(config)
        return self._done(now, config.key)

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [self._wakes.next(), self._peers.next_wakeup(), self._allocator.next_wakeup()]
        times += [self._polls.next(), self._carousel_ends.next()]
        return min((t for t in times if t is not None), default=None)

    def clock_forward(self, seconds: float, now: float) -> list[Output]:
        """The clock was put forward: nothing here counts with it, as the BSM's COUNTERs do (R51)."""
        return self.tick(now)

    def unknown(self, service: str, stream: int, start: int, mark: bytes, mark_of: Callable[[bytes], bytes]) -> bool:
        """Whether a STKM is on air that this store does not know of: then the store is older than what has left (R51).

        ``mark``: ``mark_of`` the STKM on air.  Of a stream that is not ours, or that recovers, or a period that is forgotten,
        nothing is known.
        """
        config = self._streams.get((service, stream))
        if config is None or self.recoveries.of(config) is not None:
            return False
        records = self._periods.records(config)
        record = self._periods.record(config, start)
        if record is not None and record.stkms:
            return mark not in [mark_of(stkm.data) for stkm in record.stkms]
        return start > (records[0].period.start if records else 0)

    def records(self, service: str, stream: int) -> tuple[PeriodRecord, ...]:
        """The crypto periods it knows, oldest first (for views and tests)."""
        return tuple(self._periods.records(self._config(service, stream)))

    def states(self, service: str, stream: int, now: float) -> dict[int, EdgeState | PeriodState]:
        """How far each period is, by its start: of those at the edge as they are planned, which is how it executes them."""
        config = self._config(service, stream)
        states: dict[int, EdgeState | PeriodState] = {}
        later: PeriodRecord | None = None
        for record in reversed(self._periods.records(config)):
            start = record.period.start
            states[start] = record.state
            if record.state is not PeriodState.HANDED:
                continue
            if start > now:
                states[start] = EdgeState.ON_AIR if self._periods.lead(config, record.period) <= now else EdgeState.WAITING
            elif later is not None:
                states[start] = EdgeState.PAST
            else:
                states[start] = EdgeState.IN_USE if now < record.period.end else EdgeState.HELD
                later = record
        return dict(reversed(states.items()))

    # --- memory -------------------------------------------------------------------------------------------------------

    def _config(self, service: str, stream: int) -> StreamConfig:
        try:
            return self._streams[service, stream]
        except KeyError:
            raise LocalFlowError(f"no stream {stream} of {service}") from None

    # --- the work of every input --------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if not self._resumed:
            self._resumed = True
            self._resume(now)

    def _done(self, now: float, *touched: tuple[str, int]) -> list[Output]:
        self._begin(now)
        self._touched.update(dict.fromkeys(touched))
        self._work(now)
        return self._take(now)

    def _take(self, now: float) -> list[Output]:
        self._periods.flush()
        self._allocator.flush()
        return self._journal.take()

    def _work(self, now: float) -> None:
        """The streams that this input touched, and those whose time has come; never all of them."""
        self._peers.tick(now)
        self._touched.update(dict.fromkeys(itertools.islice(self._wakes.due(now), TURN)))
        touched, self._touched = self._touched, {}
        for key in touched:
            config = self._streams[key]
            self._cutting.expire(config, now)
            cover = self._periods.cover(config)
            self._plan(config, cover, now)
            self._seal_or_ask(config, cover, now)
            self._hand_out(config, now)
            self._periods.pass_over(config, now)
            self._ask_for_keys(config, cover, now)
            self._periods.prune(config, now)
            self._wakes.set(key, self._wake(config, now))
        for service in list(self._polls.due(now)):
            self._poll_objects(service, now)
        for name in list(self._carousel_ends.due(now)):
            self._drop_object(*name)
        self._allocator.prune(now)

    def _expired(self, asked: Asked) -> None:
        if asked.message.stream is not None:
            self._touched[asked.message.service, asked.message.stream] = None

    def _hand_out(self, config: StreamConfig, now: float) -> None:
        """What is sealed goes to the edge, unless a request waits for what the edge gave back."""
        if (
            not self._connected
            or config.key in self._strangers
            or any(key == config.key for w in self._waiting.values() for key, _ in w.given)
        ):
            return
        plan = self._periods.hand_out(config, now)
        if plan is not None:
            self._journal.emit(plan)

    def _resume(self, now: float) -> None:
        """After a restart: the carousel turns, and the BSM is sent again what it may have missed."""
        for (source, name), put in self._journal.rows("carousel", CarouselPut).items():
            self._journal.emit(put)
            self._carousel_ends.set((str(source), str(name)), self._journal.get("carousel-end", (source, name), int))
        if self._restored is not None:
            self.recoveries.note(self._restored)
        for service in (*self._services, ALL_SERVICES):
            if self._lost:  # what turned on the carousel is lost with the store, and nobody will send it again
                self._journal.put("refetch", (service,), True)
            if self._pulls(service) or self._journal.get("refetch", (service,), bool):
                self._polls.set(service, now)
        for config in self._streams.values():
            self._touched[config.key] = None
            self._periods.clock_back(config, now)
            self._periods.catch_up(config)
            if self._lost:
                self._ask_anew(config)
            if self._restored is not None:
                self.recoveries.begin(self._restored, config, now)
            if self._lost:  # R33: nothing made before is used again; the edge goes on with what it has
                self._periods.lose(config)
            self.recoveries.alarm(config)
            self._deliver(config, [r for r in self._periods.records(config) if r.key_ids and r.period.end > now], now)

    def _plan(self, config: StreamConfig, cover: Cover, now: float) -> None:
        """Prepare the running period and ``look_ahead`` more; never one whose key is missing (F4)."""
        if config.key in self._fresh:
            return
        if self._secrets is not None and now >= self._secrets_due.get(config.key, now):
            self._secrets_due[config.key] = self._secrets.keep(config, now)
        missing = self._periods.missing(config, now)
        if missing and self._key(config, cover, missing) == len(missing):
            self._periods.complete(config)

    def _key(self, config: StreamConfig, cover: Cover, periods: Iterable[Period]) -> int:
        """Make the TEKs of periods that may be prepared, and store them (R41: before anything with them leaves); how many."""
        state = step(PERIOD, PeriodState.PLANNED, PeriodEvent.TEK_STORED)
        first, identity, records = None, b"", []
        for period in periods:
            if not self._may_prepare(config, period, cover):
                continue
            held = cover.at(period.start)
            key = held.get("SEK") or held.get("SEAK")
            if key is not first:
                first, identity = key, b"" if key is None else stkm.key_identity(config, key)
            records.append(PeriodRecord(period, state, self._teks(config, period, identity)))
        self._periods.put(config, *records)
        return len(records)

    def _may_prepare(self, config: StreamConfig, period: Period, cover: Cover) -> bool:
        """A period is sealed here when its keys are here (F4), else by the BSM where that is its work (F3)."""
        if config.generation == "bsm" or cover.covers(period):
            return True
        if self._journal.get("before", config.key, str) is None:
            return False
        return all(period.start < key.valid_from for key in self._periods.keys(config))  # F3 to the first key of F4

    def _seal_or_ask(self, config: StreamConfig, cover: Cover, now: float) -> None:
        keyed = self._periods.keyed(config)
        if not keyed:
            return

        def alike(record: PeriodRecord) -> object:
            return cover.covers(record.period) and (cover.span, self._periods.length_at(config, record.period))

        for covered, group in itertools.groupby(keyed, alike):
            if covered:
                records = list(group)
                self._seal(config, records, cover.at(records[0].period.start), now)
        if config.delivery == "push":
            self._send_teks(config, now)

    def _seal(self, config: StreamConfig, records: list[PeriodRecord], held: dict[str, KeyMaterial], now: float) -> None:
        """F4: seal periods together that have the same keys and length, through the allocator (R1)."""
        policy, sek = stkm.Policy.of(held.get("SEAK"), held.get("SEK"), held.get("PEAK")), held.get("SEK")
        at = self._periods.config_at(config, records[0].period)
        named: list[tuple[PeriodRecord, bytes]] = []
        for record in records:
            try:
                named.append((record, stkm.traffic_id(config, record.period, sek)))
            except PeerFlowError as error:
                self._give_up(config, record, str(error))
        if not named:
            return
        identities: dict[Profile, bytes] = {}
        made = []
        for profile in config.profiles:
            identities[profile] = stkm.key_identity(config, held[SERVICE_KEY[profile]])
            contents = stkm.contents(at, profile, [(record.period, record.key, name) for record, name in named], held, policy)
            asks = [
                Ask(r.period, stkm.owned_digest(at, r.period, content)) for (r, _), content in zip(named, contents, strict=True)
            ]

            def make(new: list[int], contents: Sequence[stkm.Content] = contents) -> Sequence[bytes | BcastError]:
                return stkm.seal_contents([contents[n] for n in new], held, self._periods.rings)

            made.append(self._allocator.seal_many(identities[profile], asks, make))
        authority, ends, done, changes = self._periods.authority(config), [key.valid_to for key in held.values()], [], []
        alike = {"key_ids": tuple(identities.items()), "waived": (), "csb_id": sek.csb_id if sek else None}
        for (record, name), *results in zip(named, *made, strict=True):
            stkms = self._sort_out(config, record, results)
            if stkms is not None:
                done.append(record)
                change = {**alike, "stkms": stkms, "traffic_id": name, "authority_end": authority(record.period, ends)}
                if len(stkms) < len(config.profiles):
                    has = [one.profile for one in stkms]
                    change["key_ids"] = tuple((profile, identities[profile]) for profile in has)
                    change["waived"] = tuple(profile for profile in config.profiles if profile not in has)
                changes.append(change)
        if done:
            self._deliver(config, self._periods.fire_all(config, done, PeriodEvent.STKM_STORED, changes), now)
            for profile in config.profiles:
                self._journal.emit(FlowDone("F4", profile, config.service, done[0].period.start))

    def _sort_out(
        self, config: StreamConfig, record: PeriodRecord, results: Sequence[bytes | BcastError]
    ) -> tuple[AirStkm, ...] | None:
        """The STKMs of a period; ``None``, and it is given up, where there are none, or one is refused."""
        stkms: list[AirStkm] = []
        for profile, result in zip(config.profiles, results, strict=True):
            if isinstance(result, bytes):
                stkms.append(AirStkm(profile, result))
            elif not isinstance(result, WireError):
                self._give_up(config, record, str(result))
                return None
            elif self._waive(config, record, profile, str(result)):
                record = record.but(waived=(*record.waived, profile))
            else:
                return None
        return tuple(stkms)

    def _waive_unsayable(self, config: StreamConfig) -> None:
        """F3: no DRM timestamp can be said after 2038-04-22 (R15); the other profile goes on, a stream of DRM alone does not."""
        for record in self._periods.keyed(config) if config.drm else ():
            unsayable = record.period.start > stkm.LAST_MJD_TIME and not record.has("drm")
            if unsayable and self._waive(config, record, "drm", "its timestamp cannot be said any more (R15)"):
                self._complete(config, [record.but(waived=("drm",))])

    def _waive(self, config: StreamConfig, record: PeriodRecord, profile: Profile, why: str) -> bool:
        """Let a period go on with the other profile alone; False, and the period is given up, where there is no other."""
        if len(config.profiles) == 1 or len(record.waived) + 1 == len(config.profiles):
            self._give_up(config, record, why)
            return False
        self._journal.emit(Alarm("profile-waived", *config.key, f"period {record.period.start} has no {profile} STKM: {why}"))
        return True

    def _give_up(self, config: StreamConfig, record: PeriodRecord, why: str) -> None:
        self._journal.emit(Alarm("not-sealed", *config.key, f"period {record.period.start}: {why}"))
        self._periods.fire(config, record, PeriodEvent.MISS)

    def _send_teks(self, config: StreamConfig, now: float) -> None:
        """F3 push: the partial STKMs of what is not sealed, unless they are already asked for."""
        self._waive_unsayable(config)
        for profile in config.profiles:
            asked = self._peers.outstanding(Tag.TEKDelivery, config.service, profile, config.stream)
            records = [
                r for r in self._periods.keyed(config) if not r.has(profile) and r.period.start not in asked and r.period.end > now
            ]
            if records and self._may_ask(config, Tag.TEKDelivery, profile, now):
                self._peers.ask(
                    Tag.TEKDelivery,
                    config.bsm,
                    config.service,
                    now,
                    until=max(r.period.end for r in records),
                    profile=profile,
                    stream=config.stream,
                    items=self._partials(config, profile, records),
                    about=frozenset(r.period.start for r in records),
                )

    def _may_ask(self, config: StreamConfig, tag: Tag, profile: Profile, now: float) -> bool:
        """Not at once again after a refusal."""
        return now >= self._not_before.get((*config.key, tag, profile), now)

    def _partials(self, config: StreamConfig, profile: Profile, records: Sequence[PeriodRecord]) -> tuple[PartialItem, ...]:
        items: list[PartialItem] = []
        for _, group in itertools.groupby(records, lambda record: self._periods.length_at(config, record.period)):
            some = list(group)
            contents = stkm.partials(
                self._periods.config_at(config, some[0].period), profile, [(record.period, record.key) for record in some]
            )
            items += [
                PartialItem(
                    stream=config.stream,
                    period_start=record.period.start,
                    period_end=record.period.end,
                    tek_id=_tek_id(config, record),
                    content=Secret(codec.encode(content)),
                )
                for record, content in zip(some, contents, strict=True)
            ]
        return tuple(items)

    def _wake(self, config: StreamConfig, now: float) -> float | None:
        """When the stream needs work without an input."""
        times: list[float | None] = [self._periods.next_work(config, now)]
        times += [self._not_before.get((*config.key, tag, p)) for tag in (Tag.TEKDelivery, Tag.KeyRequest) for p in config.profiles]
        return min((t for t in times if t is not None and t > now), default=None)

    # --- requests from the BSM ----------------------------------------------------------------------------------------

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        """Answer one checked, new request.  ``PeerFlowError`` = refused, nothing moved."""
        configs = [self._streams[key] for key in self._services.get(message.service, ())]
        if message.service != ALL_SERVICES and not configs:
            raise PeerFlowError(Status.INVALID_REQUEST, "service not known here")
        if not any(c.bsm == message.source for c in (configs or self._streams.values())):
            raise PeerFlowError(Status.NOT_PERMITTED, "this BSM has no right to the service")
        match message.tag:
            case Tag.LTKMDelivery | Tag.RegDelivery:
                return self._take_objects(message, now)
            case Tag.KeyDelivery:
                return self._take_keys(message, now)
        config = self._stream_of(message)
        self._touched[config.key] = None
        match message.tag:
            case Tag.PartialSTKMRequest:
                return self._give_partials(config, message, now)
            case Tag.STKMDelivery:
                self._take_stkms(config, message, now)
                return message.answer(Status.SUCCESS, now=now)
            case _:  # Tag.STKMRequest: check() lets no other through
                assert message.profile is not None
                self._periods.pass_over(config, now)
                low, high = message.start or 0, message.end or 1 << 62
                wanted = [r for r in self._periods.records(config) if low <= r.period.start < high]
                items = self._items(config, message.profile, wanted)
                return message.answer(Status.SUCCESS if items else Status.NON_EXISTENT, items, now=now)

    def _stream_of(self, message: BackendMessage) -> StreamConfig:
        number = message.stream
        if number is None:
            number = next((i.stream for i in message.items if isinstance(i, StkmItem | PartialItem | KeyMaterial)), None)
        config = self._streams.get((message.service, number or 0))
        if config is None or message.profile not in config.profiles:
            raise PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here")
        return config

    def _take_objects(self, message: BackendMessage, now: float) -> BackendMessage:
        """F1, F2: onto the carousel."""
        if (message.tag is Tag.RegDelivery) != (message.service == ALL_SERVICES):
            raise PeerFlowError(Status.INVALID_REQUEST, "scope does not go with the tag (R29)")
        if message.replaces is not None:
            self._drop_object(message.source, message.replaces)
        self._put_object(message.source, message.message_id, message.service, message.items, message.end)
        return message.answer(Status.SUCCESS, now=now)

    def _put_object(self, source: str, name: str, service: str, items: tuple[object, ...], end: int | None) -> None:
        key = (source, name)
        put = CarouselPut(f"{source} {name}", service, tuple(i for i in items if isinstance(i, bytes)))
        self._journal.put("carousel", key, put)
        if end is not None:
            self._journal.put("carousel-end", key, end)
        self._carousel_ends.set(key, end)
        self._journal.emit(put)

    def _drop_object(self, source: str, name: str) -> None:
        key = (source, name)
        put = self._journal.get("carousel", key, CarouselPut)
        if put is not None:
            self._journal.drop("carousel", key)
            self._journal.drop("carousel-end", key)
            self._carousel_ends.set(key, None)
            self._journal.emit(CarouselDrop(put.object_id))

    def _take_keys(self, message: BackendMessage, now: float) -> BackendMessage:
        """F4, pushed: all or nothing."""
        if message.attempt is not None:
            return self._cut_keys(self._stream_of(message), message, message.attempt, now)
        keys = [item for item in message.items if isinstance(item, KeyMaterial)]
        configs = [self._streams.get((message.service, key.stream)) for key in keys]
        if any(c is not None and c.key in self._fresh for c in configs):
            raise PeerFlowError(Status.DELAYED, "the store was lost: a fresh key has been asked for (R33)")
        fresh: list[tuple[StreamConfig, KeyMaterial]] = []
        for config, key in zip(configs, keys, strict=True):
            if config is None or config.generation != "bsda" or message.profile not in config.profiles:
                raise PeerFlowError(Status.INVALID_REQUEST, "stream not known here, or its STKMs are made by the BSM")
            if message.replace:
                self._give_back(config, key.valid_from, message)
            if self._periods.check_key(config, key, message.replace, now):
                fresh.append((config, key))
        for config, key in fresh:
            self._periods.install_key(config, key, message.replace, now)
            self._touched[config.key] = None
        return message.answer(Status.SUCCESS, now=now)

    def _cut_keys(self, config: StreamConfig, message: BackendMessage, attempt: int, now: float) -> BackendMessage:
        """The keys that are here are to end early, or to wait for a programme's, or go on after all (R50)."""
        assert message.start is not None
        self._touched[config.key] = None
        if message.replace:
            if message.end is None and attempt > self._periods.cut_of(config).over:
                self._give_back(config, message.start, message)
            self._cutting.confirm(config, attempt, message.start, message.end)
        elif message.fresh:
            if self._cutting.forget(config, attempt):
                self._ask_anew(config)
        else:
            self._cutting.give_up(config, attempt, now)
        return message.answer(Status.SUCCESS, now=now)

    def _ask_anew(self, config: StreamConfig) -> None:
        """F4: nothing is sealed before a key comes that was not here before (R33); also when it dies before it has it."""
        if config.generation == "bsda":
            self._journal.put("fresh", config.key, True)
            self._fresh.add(config.key)

    def _give_partials(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F3, pulled (and R32: the window's edges are boundaries of periods)."""
        if config.generation != "bsm" and self._journal.get("before", config.key, str) is None:
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made here")
        assert message.profile is not None
        if message.start is not None:
            if message.replace:
                self._give_back(config, message.start, message)
                self._replace(config, message.profile, message.start, now)
            for edge in (message.start, message.end):
                if edge is not None and edge > now:
                    self._periods.cut(config, edge)
        cover = self._periods.cover(config)
        self._plan(config, cover, now)
        low, high = message.start or 0, message.end or 1 << 62
        wanted = [r for r in self._periods.keyed(config) if not r.has(message.profile) and low <= r.period.start < high]
        items = self._partials(config, message.profile, [r for r in wanted if not cover.covers(r.period)])
        return message.answer(Status.SUCCESS if items else Status.DELAYED, items, now=now)

    def _replace(self, config: StreamConfig, profile: Profile, start: int, now: float) -> None:
        """R10 by F3: what is prepared from ``start`` on and not on air gets new STKMs, with the same TEK.

        Both profiles roll together (R38), each with a message of its own: the first takes both STKMs away.
        """
        records = [r for r in self._periods.records(config) if r.period.start >= start and r.state not in FINAL]
        if any(r.state not in NOT_ON_AIR for r in records):
            raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R10)")
        if self._periods.cut_of(config).starts:
            self._periods.end_keys(config)
            records = [r for r in records if r.state is not PeriodState.ASIDE]
        self._periods.shorten(config, start)
        self._periods.end_authority(config, start, now)
        for key in self._periods.keys(config):  # sealed here until now (F4): that key ends, and so does what was made with it (R1)
            if key.valid_from < start < key.valid_to:
                self._journal.put("key", (*config.key, key.key_type, key.key_id), replace(key, valid_to=start))
        if any(r.key_ids for r in records):
            self._periods.unprepare(config, start)
            return
        for record in records:
            if record.state is PeriodState.SEALED:
                record = self._periods.fire(
                    config, record, PeriodEvent.REPLACED, stkms=(), traffic_id=b"", waived=(), authority_end=None
                )
                self._periods.fire(config, record, PeriodEvent.TEK_STORED)
            elif record.has(profile):
                kept = tuple(s for s in record.stkms if s.profile != profile)
                self._periods.put(config, record.but(stkms=kept, waived=(), traffic_id=record.traffic_id if kept else b""))

    def _take_stkms(self, config: StreamConfig, message: BackendMessage, now: float) -> None:
        """F5, pushed: all or nothing, but for what comes when its period is over: nobody waits for it any more."""
        items = [i for i in message.items if isinstance(i, StkmItem) and i.status == Status.SUCCESS]
        items = [i for i in items if i.period_end > now or not self._missed(config, i.period_start)]
        assert message.profile is not None
        if message.replace and items:
            self._give_back(config, min(item.period_start for item in items), message)
        checked = [self._check_stkm(config, message.profile, item, message.replace) for item in items]
        self._store_stkms(config, message.profile, [one for one in checked if one is not None])
        for tag in (Tag.TEKDelivery, Tag.STKMRequest):
            self._peers.delivered(tag, config.service, message.profile, config.stream, {i.period_start for i in items})
        self._journal.emit(FlowDone("F5", message.profile, config.service, min((i.period_start for i in items), default=None)))

    def _missed(self, config: StreamConfig, start: int) -> bool:
        record = self._periods.record(config, start)
        return record is not None and record.state is PeriodState.MISSED

    def _check_stkm(self, config: StreamConfig, profile: Profile, item: StkmItem, replacing: bool) -> _Checked | None:
        """An STKM with the record it is for, what it says, and its traffic id; ``None`` when it is known already.
        ``PeerFlowError`` with the item's status.
        """
        record = self._periods.record(config, item.period_start)
        if record is None or record.key_ids or record.period.end != item.period_end:
            raise PeerFlowError(Status.INVALID_REQUEST, f"no period begins at {item.period_start}")
        held = next((s.data for s in record.stkms if s.profile == profile), None)
        if held == item.content:
            return None
        if record.state not in (PeriodState.KEYED, PeriodState.SEALED):
            raise PeerFlowError(Status.ALREADY_IN_USE, f"the STKM of {item.period_start} is at the edge, on air or over (R10)")
        if held is not None and not replacing:
            raise PeerFlowError(Status.ALREADY_IN_USE, f"period {item.period_start} has another STKM")
        mine = _tek_id(config, record)
        if item.tek_id != mine and item.tek_id.startswith(mine.rpartition("-")[0] + "-"):
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, f"the STKM of {item.period_start} holds a TEK that was made before")
        try:
            said, name = stkm.check_received(
                self._periods.config_at(config, record.period), profile, record.period, record.key, item.content
            )
        except WireError as error:
            raise PeerFlowError(Status.INFORMATION_INVALID, str(error)) from error
        if held is not None and later_key(stkm.key_id_in(profile, held), stkm.key_id_in(profile, item.content)):
            raise PeerFlowError(Status.ALREADY_IN_USE, f"period {item.period_start} has a STKM under a key that was made later")
        if record.traffic_id and held is None and name != record.traffic_id:
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "the two profiles name the key differently (R38)")
        return item, record, said, name

    def _store_stkms(self, config: StreamConfig, profile: Profile, checked: Sequence[_Checked]) -> None:
        end = self._periods.cut_of(config).at
        if end is not None and any(end <= record.period.start for _, record, _, _ in checked):
            self._periods.end_keys(config)  # F3: its one sealer goes on with another key (R50)
        authority, after = self._periods.authority(config), []
        for item, record, message, name in checked:
            if record.state is PeriodState.SEALED:
                record = self._periods.fire(config, record, PeriodEvent.REPLACED)
                record = self._periods.fire(config, record, PeriodEvent.TEK_STORED)
            stkms: tuple[AirStkm, ...] = (AirStkm(profile, item.content),)
            ends = [] if item.authority_end is None else [item.authority_end]
            others = tuple(one for one in record.stkms if one.profile != profile)
            if others:
                stkms = tuple(sorted((*others, *stkms), key=lambda one: config.profiles.index(one.profile)))
                ends += [] if record.authority_end is None else [record.authority_end]
            after.append(
                record.but(
                    stkms=stkms,
                    traffic_id=name,
                    csb_id=getattr(message, "csb_id", record.csb_id),
                    authority_end=authority(record.period, ends),
                )
            )
        self._complete(config, after)
        for edge in sorted({item.authority_end for item, _, _, _ in checked if item.authority_end is not None}):
            if edge >= self._periods._horizon(config):
                self._periods.cut(config, edge)  # where the key ends a period ends, even if nobody said so before (R9)

    def _complete(self, config: StreamConfig, records: Sequence[PeriodRecord]) -> None:
        """Periods that have all their STKMs are sealed."""
        whole: list[PeriodRecord] = []
        others: list[PeriodRecord] = []
        for record in records:
            done = record.stkms and all(record.has(profile) for profile in config.profiles)
            (whole if done else others).append(record)
        self._periods.fire_all(config, whole, PeriodEvent.STKM_STORED)
        self._periods.put(config, *others)

    def _items(self, config: StreamConfig, profile: Profile, records: Iterable[PeriodRecord]) -> tuple[StkmItem, ...]:
        """F6: the STKMs of some periods, for the BSM."""
        return tuple(
            StkmItem(
                stream=config.stream,
                period_start=r.period.start,
                period_end=r.period.end,
                tek_id=_tek_id(config, r),
                content=s.data,
                authority_end=r.authority_end,
            )
            for r in records
            if r.state is PeriodState.SEALED or r.state is PeriodState.HANDED
            for s in r.stkms
            if s.profile == profile
        )

    def _deliver(self, config: StreamConfig, records: Collection[PeriodRecord], now: float) -> None:
        """F6, pushed: the STKMs of some periods in one delivery for each profile."""
        if not config.interaction or config.delivery != "push":
            return
        for profile in config.profiles:
            items = self._items(config, profile, records)
            for some in (items[n : n + MAX_DATA] for n in range(0, len(items), MAX_DATA)):
                self._peers.ask(
                    Tag.STKMDelivery, config.bsm, config.service, now, until=max(i.period_end for i in some), profile=profile,
                    stream=config.stream, items=some, about=frozenset(i.period_start for i in some),
                )  # fmt: skip

    # --- asking, and answers ------------------------------------------------------------------------------------------

    def _ask_for_keys(self, config: StreamConfig, cover: Cover, now: float) -> None:
        """F4, pulled: the first period without a key, early enough; at once when the store was lost (R33)."""
        if config.generation != "bsda":
            return
        fresh = config.key in self._fresh
        latest = now + 2 * config.period if config.delivery == "push" and not fresh else float("inf")
        upcoming = itertools.takewhile(lambda period: period.start <= latest, self._periods.upcoming(config, now))
        period = next((p for p in upcoming if fresh or not cover.covers(p)), None)
        if period is None:
            return
        lacking = self._lacking(config) if fresh else set(SERVICE_KEY.values()) - cover.at(period.start).keys()
        for profile in config.profiles:
            asked = self._peers.outstanding(Tag.KeyRequest, config.service, profile, config.stream)
            if SERVICE_KEY[profile] in lacking and not asked and self._may_ask(config, Tag.KeyRequest, profile, now):
                # To the BSM another messageID says that the store was lost once more: one that is on its way is waited for.
                until = now + config.key_period if fresh else period.end
                self._peers.ask(
                    Tag.KeyRequest, config.bsm, config.service, now, until=until, profile=profile,
                    stream=config.stream, start=period.start, fresh=fresh, about=frozenset({period.start}),
                )  # fmt: skip

    def _starts(self, config: StreamConfig) -> dict[KeyType, set[int]]:
        """When the service's keys that are here begin, by their kind."""
        starts: dict[KeyType, set[int]] = {SERVICE_KEY[profile]: set() for profile in config.profiles}
        for key in self._periods.keys(config):
            if key.key_type in starts:
                starts[key.key_type].add(key.valid_from)
        return starts

    def _lacking(self, config: StreamConfig) -> set[KeyType]:
        """The kinds of keys that a stream still needs after its store was lost.

        Profiles roll together (R38).  Where the BSM was told of one more loss between two answers, one key is of a roll that is no
        more: it is asked for again, until there are two of one roll.
        """
        starts = self._starts(config)
        if set.intersection(*starts.values()):
            return set()
        newest = max(set.union(*starts.values()), default=None)
        return {kind for kind, found in starts.items() if newest not in found}

    def _recovered(self, config: StreamConfig) -> None:
        self._fresh.discard(config.key)
        self._journal.drop("fresh", config.key)

    def _pulls(self, service: str) -> bool:
        return any(self._streams[key].delivery == "pull" for key in self._services.get(service, ()))

    def _poll_objects(self, service: str, now: float) -> None:
        """F1, F2, pulled: once in a cycle of the carousel where delivery is pulled, else until there is an answer."""
        refetch = self._journal.get("refetch", (service,), bool)
        if not self._streams or not (refetch or self._pulls(service)):
            return
        streams = [self._streams[key] for key in self._services.get(service, self._streams)]
        cycle = min(config.carousel_cycle for config in streams)
        self._polls.set(service, now + cycle)
        tag = Tag.RegRequest if service == ALL_SERVICES else Tag.LTKMRequest
        end = int(now) + max(config.key_period for config in streams)
        self._peers.ask(tag, streams[0].bsm, service, now, until=now + cycle, start=int(now), end=end, about=frozenset({int(now)}))

    def request_objects(self, service: str, registration: bool, start: int, end: int, now: float) -> list[Output]:
        """F1, F2 pulled: ask the BSM for what is to be broadcast in a window."""
        self._begin(now)
        bsm = next(c.bsm for c in self._streams.values() if service in (c.service, ALL_SERVICES))
        tag = Tag.RegRequest if registration else Tag.LTKMRequest
        self._peers.ask(tag, bsm, service, now, until=end, start=start, end=end)
        return self._take(now)

    def request_stkms(self, service: str, stream: int, profile: Profile, now: float) -> list[Output]:
        """F5, pulled: ask the BSM for the completed STKMs of what is not sealed yet."""
        self._begin(now)
        self._pull_stkms(self._config(service, stream), profile, now)
        return self._take(now)

    def _pull_stkms(self, config: StreamConfig, profile: Profile, now: float) -> None:
        records = [r for r in self._periods.records(config) if r.state is PeriodState.KEYED and not r.has(profile)]
        if records and not self._peers.outstanding(Tag.STKMRequest, config.service, profile, config.stream):
            self._peers.ask(
                Tag.STKMRequest, config.bsm, config.service, now, until=records[-1].period.end, profile=profile,
                stream=config.stream, start=records[0].period.start, end=records[-1].period.end,
                about=frozenset(r.period.start for r in records),
            )  # fmt: skip

    def _overdue(self, asked: Asked, now: float) -> None:
        """What was promised (status 19) has not come: fetch it."""
        message = asked.message
        config = self._streams.get((message.service, message.stream or 0))
        if message.tag is Tag.TEKDelivery and config is not None and message.profile is not None:
            self._pull_stkms(config, message.profile, now)
        elif message.tag is Tag.KeyRequest:
            # Where keys are pulled nobody delivers them, nor to who lost his store: asked in another message he would have lost it
            # once more (R33).
            self._journal.emit(Send(message))

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        """The peer answered one of our requests (its exchange has moved already)."""
        message = asked.message
        config = self._streams.get((message.service, message.stream or 0))
        profile = message.profile
        good = answer.status == Status.SUCCESS
        if config is not None:
            self._touched[config.key] = None
        match message.tag:
            case Tag.TEKDelivery | Tag.STKMRequest if config is not None and profile is not None:
                self._take_items(config, profile, [i for i in answer.items if isinstance(i, StkmItem)], now)
                if good:
                    earliest = min((i.period_start for i in answer.items if isinstance(i, StkmItem) and i.content), default=None)
                    flow = "F5" if message.tag is Tag.STKMRequest else "F3"
                    self._journal.emit(FlowDone(flow, profile, config.service, earliest))
                if message.tag is Tag.STKMRequest and answer.status != Status.DELAYED:  # what it was promised is sent again
                    self._peers.delivered(Tag.TEKDelivery, config.service, profile, config.stream, set(asked.about))
            case Tag.KeyRequest if config is not None and good:
                self._take_answered_keys(config, message, answer, now)
            case Tag.STKMDelivery if good:
                self._journal.emit(FlowDone("F6", profile, message.service))
            case Tag.LTKMRequest | Tag.RegRequest if good and answer.items:
                self._journal.drop("refetch", (message.service,))
                # One object for each service: what is pulled next takes its place.
                name = f"pulled {int(message.tag)} {message.service}"
                self._put_object(answer.source, name, answer.service, answer.items, message.end)
                self._journal.emit(FlowDone("F1" if message.tag is Tag.RegRequest else "F2", None, message.service))
        if message.tag in (Tag.LTKMRequest, Tag.RegRequest) and answer.status == Status.NON_EXISTENT:
            self._journal.drop("refetch", (message.service,))
        elif not good and not self._peers.split(asked, answer.status, now):
            self._refused(config, message, answer.status or 0, now)

    def _refused(self, config: StreamConfig | None, message: BackendMessage, status: int, now: float) -> None:
        if config is not None and message.profile is not None:
            self._not_before[*config.key, message.tag, message.profile] = now + RETRY
        if status != Status.DELAYED and not (message.tag is Tag.STKMRequest and status == Status.NON_EXISTENT):
            self._journal.emit(
                Alarm(
                    "refused",
                    message.service,
                    message.stream,
                    f"{message.tag.name} refused: {status_words(status, message.tag.name)}",
                )
            )

    def _take_items(self, config: StreamConfig, profile: Profile, items: Sequence[StkmItem], now: float) -> None:
        """The STKMs of an answer: each has its own status (R27), and one that is refused here costs the others nothing."""
        checked: dict[int, _Checked] = {}
        for item in items:
            record = self._periods.record(config, item.period_start)
            if record is None or record.state is not PeriodState.KEYED or item.period_start in checked:
                continue  # late, or already there
            if item.status != Status.SUCCESS:
                self._store_stkms(config, profile, list(checked.values()))  # what comes of a refusal depends on them
                checked.clear()
                self._not_made(config, profile, item, record, now)
                continue
            try:
                good = self._check_stkm(config, profile, item, False)
            except BcastError as error:
                self._journal.emit(Alarm("stkm-refused", *config.key, f"period {item.period_start}: {error}"))
            else:
                if good is not None:
                    checked[item.period_start] = good
        self._store_stkms(config, profile, list(checked.values()))

    def _not_made(self, config: StreamConfig, profile: Profile, item: StkmItem, record: PeriodRecord, now: float) -> None:
        if item.status == Status.GENERATION_FAILURE and len(config.profiles) > 1 + len(record.waived):
            self._journal.emit(Alarm("profile-waived", *config.key, f"period {item.period_start} has no {profile} STKM"))
            self._complete(config, [record.but(waived=(*record.waived, profile))])
        elif item.status != Status.DELAYED:
            self._not_before[*config.key, Tag.TEKDelivery, profile] = now + RETRY
            self._complain(config, f"period {item.period_start}: {status_words(item.status, Tag.TEKDelivery.name)}")
            edge = item.authority_end
            if edge is not None and item.status == Status.INFORMATION_INVALID and item.period_start < edge < record.period.end:
                self._straddles(config, record, edge)

    def _complain(self, config: StreamConfig, text: str) -> None:
        """An alarm, once: a refusal repeats with every try."""
        if self._complaints.get(config.key) != text:
            self._complaints[config.key] = text
            self._journal.emit(Alarm("stkm-refused", *config.key, text))

    def _straddles(self, config: StreamConfig, record: PeriodRecord, edge: int) -> None:
        """The BSM knows a boundary that we do not (R32): periods from here on are laid out anew, if none is sealed.

        One that begins where it began before keeps its TEK: partial STKMs with it are on their way.
        """
        later = [r for r in self._periods.records(config) if r.period.start >= record.period.start]
        if any(r.state is not PeriodState.KEYED or r.stkms for r in later):
            return
        for each in later:
            self._periods.drop(config, each.period.start)
        self._periods.cut(config, edge)
        for each in later:
            period = self._periods.at(config, each.period.start)
            if period is not None and period.start == each.period.start:
                self._periods.put(config, each.but(period=period))
        for profile in config.profiles:
            self._not_before.pop((*config.key, Tag.TEKDelivery, profile), None)

    def _take_answered_keys(self, config: StreamConfig, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        assert message.profile is not None
        self._not_before[*config.key, Tag.KeyRequest, message.profile] = now + RETRY  # what came may be for later
        for key in answer.items:
            if isinstance(key, KeyMaterial) and key.stream == config.stream:
                if not message.fresh and self._periods.ends_another(config, key):
                    continue  # it comes in a delivery that says so (R10), and that is still on its way
                try:
                    if self._periods.check_key(config, key, message.fresh, now):
                        self._periods.install_key(config, key, message.fresh, now)
                except PeerFlowError as error:
                    self._journal.emit(Alarm("key-refused", *config.key, str(error)))
        if message.fresh and not self._lacking(config):
            self._recovered(config)
            first = min(set.intersection(*self._starts(config).values()))
            if self._connected and self._periods.strange(config, first):  # the edge goes on with what it has till then
                self._periods.wait(config, first)
                self._journal.emit(Recall(*config.key, first))


def _tek_id(config: StreamConfig, record: PeriodRecord) -> str:
    """The tekId of a period: it tells one TEK of a period from another, and a STKM that holds the wrong one gives itself away.

    Both headends of a pair say the same (R33).  confidence: own - what is in it; to the BSM it is opaque (R32).
    """
    mark = hashlib.sha256(b"tekId" + record.key.tek.reveal()).hexdigest()[:16]
    return f"{config.stream}-{record.period.start}-{mark}"
