# SPDX-License-Identifier: Apache-2.0
"""One stream of a BSD/A: its periods, its keys, what of it the edge has, and what the BSM says about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal

from pybcast.errors import PeerFlowError
from pybcast.flows.bsda.bybsm import SealedByBsm
from pybcast.flows.bsda.cutting import Cutting
from pybcast.flows.bsda.handing import Handing
from pybcast.flows.bsda.here import SealedHere
from pybcast.flows.bsda.keys import Cover, Keys
from pybcast.flows.bsda.periods import PeriodRecord, Periods
from pybcast.flows.bsda.sealing import Means
from pybcast.flows.edge.slots import Held
from pybcast.flows.events import Alarm, PlanRefused, Recall, Recalled
from pybcast.flows.journal import Table
from pybcast.flows.peers.exchange import RETRY
from pybcast.flows.peers.messages import SERVICE_KEY, BackendMessage, KeyMaterial, KeyType, Profile, StkmItem
from pybcast.flows.restart import Restored
from pybcast.flows.stream import stkm
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import PERIOD, PeriodEvent, PeriodState, Status, Tag, step

FRESH: Final = Table("fresh", bool)
"""Streams that seal nothing (F4) before there is a key that was not here before (R33)."""
BEFORE: Final = Table("before", str)
"""Streams that went from F3 to F4: who seals until the first key."""

GiveBack = Callable[["BsdaStream", int, BackendMessage], None]
"""What the edge has of a stream from a time on must be given back before a request is answered (R46)."""


class BsdaStream:
    """Everything that a BSD/A knows of one stream.

    The machine calls :meth:`work` after each input that concerns the stream, and when :meth:`wake` says so.
    """

    def __init__(self, config: StreamConfig, means: Means, give_back: GiveBack) -> None:
        self._means, self._journal, self._give_back = means, means.journal, give_back
        self.periods = Periods(config, means.journal, means.allocator, means.unsaved)
        self.keys = Keys(self.periods, means.journal, means.allocator, means.rings)
        self.cutting = Cutting(self.periods, self.keys, means.journal)
        self.edge = Handing(self.periods, means.allocator)
        self._here = SealedHere(means, self.periods, self.keys, self.cutting)
        self._bybsm = SealedByBsm(means, self.periods, self.keys, self.cutting)
        self._freshes, self._befores = means.journal.open(FRESH), means.journal.open(BEFORE)
        self._fresh = bool(self._freshes.get(config.id))
        self._secrets_due = 0.0
        self._ask_keys_from: dict[Profile, float] = {}
        self.stranger = False
        """Whether the edge does not know this stream."""

    @property
    def config(self) -> StreamConfig:
        """The stream as it is now."""
        return self.periods.config

    def cover(self) -> Cover:
        """The keys as they are when they are needed first."""
        return Cover(self.config, lambda: (self.keys.all(), self.cutting.cut.at))

    # --- the work of every input --------------------------------------------------------------------------------------

    def work(self, now: float, hand_out: bool) -> float | None:
        """Do what is due; when the stream needs work without an input.  ``hand_out``: whether plans go to the edge now."""
        self.cutting.expire(now)
        cover = self.cover()
        self.prepare(cover, now)
        self._here.seal(cover, now)
        self._bybsm.seal(cover, now)
        if hand_out and not self.stranger:
            plan = self.edge.plan(now)
            if plan is not None:
                self._journal.emit(plan)
        self.periods.pass_over(now)
        self._ask_for_keys(cover, now)
        self._prune(now)
        times = [self.periods.next_work(now), *self._bybsm.next_try(), *self._ask_keys_from.values()]
        return min((time for time in times if time > now), default=None)

    def resume(self, restored: Restored | None, lost: bool, now: float) -> None:
        """The process has started.  ``lost``: nothing that was made before is used again (R33); the edge goes on with its plan."""
        recoveries = self._means.recoveries
        if self.periods.clock_back(now):
            self.keys.give_up_later(now)
            self._journal.emit(Alarm("clock-back", *self.config.id, "periods of a time to come are given up"))
        self.periods.catch_up()
        if lost:
            self.ask_anew()
        if restored is not None:
            recoveries.begin(restored, self.config, now)
        if lost:
            self.cutting.lose()
        recoveries.alarm(self.config)
        self._here.deliver([r for r in self.periods.records if r.key_ids and r.period.end > now], now)

    def prepare(self, cover: Cover, now: float) -> None:
        """Make the TEKs of the running period and ``look_ahead`` more; never of one whose key is missing (F4)."""
        if self._fresh:
            return
        if self._means.secrets is not None and now >= self._secrets_due:
            self._secrets_due = self._means.secrets.keep(self.config, now)
        missing = self.periods.missing(now)
        if missing and self._key(cover, missing) == len(missing):
            self.periods.complete()

    def _key(self, cover: Cover, periods: Iterable[Period]) -> int:
        """Make the TEKs of periods that may be prepared, and store them (R41: before anything with them leaves); how many."""
        config, state = self.config, step(PERIOD, PeriodState.PLANNED, PeriodEvent.TEK_STORED)
        first, identity, records = None, b"", []
        for period in periods:
            if not self._may_prepare(period, cover):
                continue
            held = cover.at(period.start)
            key = held.get("SEK") or held.get("SEAK")
            if key is not first:
                first, identity = key, b"" if key is None else stkm.key_identity(config, key)
            records.append(PeriodRecord(period, state, self._means.teks(config, period, identity)))
        self.periods.put(*records)
        return len(records)

    def _may_prepare(self, period: Period, cover: Cover) -> bool:
        """A period is sealed here when its keys are here (F4), else by the BSM where that is its work (F3)."""
        if self.config.generation == "bsm" or cover.covers(period):
            return True
        # F3 to the first key of F4
        return self._was_bsms() and all(period.start < key.valid_from for key in self.keys.all())

    def _was_bsms(self) -> bool:
        return self._befores.get(self.config.id) is not None

    def _prune(self, now: float) -> None:
        if self.periods.prune(now):
            self.keys.prune(now)
            if self._was_bsms() and any(key.valid_from <= now for key in self.keys.all()):
                self._befores.drop(self.config.id)

    # --- changes of the operator --------------------------------------------------------------------------------------

    def add_boundary(self, at: int) -> int:
        """An event boundary or the end of a right (R9); from when it holds."""
        return self.periods.cut(self.config.grid(at), rights=True)

    def set_period(self, length: int, now: float, at: int | None) -> int:
        """A new period length; from when it holds."""
        changed = replace(self.config, period=length)  # refuses what cannot work
        earliest = max(self.periods.horizon, int(now) + 1)
        held = self.periods.cut(self.config.grid(earliest if at is None else max(at, earliest)), length)
        self.periods.config = changed
        return held

    def set_generation(self, generation: Literal["bsm", "bsda"]) -> None:
        """Who seals from the next key on."""
        if self.config.generation != generation:
            self.periods.config = replace(self.config, generation=generation)
            if generation == "bsda":
                self._befores.put(self.config.id, "bsm")
            else:
                self._befores.drop(self.config.id)
                self._has_fresh_keys()

    # --- the edge -----------------------------------------------------------------------------------------------------

    def connected(self, held: Held | None, now: float) -> None:
        """The edge says what it has of the stream (R44)."""
        self.stranger = False
        if self.edge.reconcile(held, now):
            if held is not None and self._fresh:  # it goes on with it until there is a fresh key (R33)
                self.periods.leave([(period.start, period.end) for period in held.periods])
            else:
                self._journal.emit(Recall(*self.config.id, 0))
        if held is not None and held.used is not None:
            self.begun(held.used)

    def begun(self, start: int) -> None:
        """A key is in use.  The stream has recovered when it was made since."""
        record, recoveries = self.periods.record(start), self._means.recoveries
        new = record is not None and record.state is PeriodState.HANDED and not self._fresh
        if new and recoveries.of(self.config) is not None:
            recoveries.over(self.config)

    def refused(self, refused: PlanRefused) -> None:
        """The edge took nothing of a plan (R45)."""
        self.edge.refused(refused)
        self.stranger = self.stranger or refused.unknown

    def recalled(self, recalled: Recalled) -> None:
        """The edge gave back what it could (R46)."""
        self.edge.recalled(recalled)

    def unknown(self, start: int, mark: bytes, mark_of: Callable[[bytes], bytes]) -> bool:
        """Whether a STKM on air is one that this store does not know of (R51)."""
        if self._means.recoveries.of(self.config) is not None:
            return False
        records, record = self.periods.records, self.periods.record(start)
        if record is not None and record.stkms:
            return mark not in [mark_of(one.data) for one in record.stkms]
        return start > (records[0].period.start if records else 0)

    # --- requests of the BSM ------------------------------------------------------------------------------------------

    def handle(self, message: BackendMessage, profile: Profile, now: float) -> BackendMessage:
        """Answer a request about this stream.  ``PeerFlowError`` = refused, nothing moved."""
        match message.tag:
            case Tag.PartialSTKMRequest:
                return self._give_partials(message, profile, now)
            case Tag.STKMDelivery:
                self._take_stkms(message, profile, now)
                return message.answer(Status.SUCCESS, now=now)
            case _:  # Tag.STKMRequest: check() lets no other through
                self.periods.pass_over(now)
                low, high = message.start or 0, message.end or 1 << 62
                items = self._here.items(profile, [r for r in self.periods.records if low <= r.period.start < high])
                return message.answer(Status.SUCCESS if items else Status.NON_EXISTENT, items, now=now)

    def _give_partials(self, message: BackendMessage, profile: Profile, now: float) -> BackendMessage:
        """F3, pulled (and R32: the window's edges are boundaries of periods)."""
        if self.config.generation != "bsm" and not self._was_bsms():
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made here")
        if message.start is not None:
            if message.replace:
                self._give_back(self, message.start, message)
                self._bybsm.replace(profile, message.start, now)
            for edge in (message.start, message.end):
                # One inside what is prepared is no boundary yet: the BSM refuses what lies across it, and says where to cut.
                if edge is not None and edge > now and edge >= self.periods.horizon:
                    self.periods.cut(edge)
        cover = self.cover()
        self.prepare(cover, now)
        return self._bybsm.give(message, profile, cover, now)

    def _take_stkms(self, message: BackendMessage, profile: Profile, now: float) -> None:
        """F5, pushed: all or nothing, but for what comes when its period is over: nobody waits for it any more."""
        items = [i for i in message.items if isinstance(i, StkmItem) and i.status == Status.SUCCESS]
        items = [i for i in items if i.period_end > now or not self._bybsm.missed(i.period_start)]
        if message.replace and items:
            self._give_back(self, min(item.period_start for item in items), message)
        self._bybsm.deliver(message, profile, items)

    def check_key(self, key: KeyMaterial, message: BackendMessage, now: float) -> bool:
        """Whether a key that was delivered (F4) is new; ``PeerFlowError`` when it cannot be taken."""
        if self.config.generation != "bsda" or message.profile not in self.config.profiles:
            raise PeerFlowError(Status.INVALID_REQUEST, "stream not known here, or its STKMs are made by the BSM")
        if message.replace:
            self._give_back(self, key.valid_from, message)
        return self.keys.check(key, message.replace, now)

    def install(self, key: KeyMaterial, replacing: bool, now: float) -> None:
        """Take a key that was checked."""
        if replacing:
            self.cutting.end_keys()
        if key.key_type == "PEAK":
            self.cutting.begin_programme(key)
        self.keys.install(key, replacing, now)

    def cut_keys(self, message: BackendMessage, attempt: int, now: float) -> None:
        """The keys that are here are to end early, or to wait for a programme's, or go on after all (R50)."""
        assert message.start is not None
        if message.replace:
            if message.end is None and attempt > self.cutting.cut.over:
                self._give_back(self, message.start, message)
            self.cutting.confirm(attempt, message.start, message.end)
        elif message.fresh:
            if self.cutting.forget(attempt):
                self.ask_anew()
        else:
            self.cutting.give_up(attempt, now)

    # --- keys from the BSM (F4) ---------------------------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether it waits for a key that was not here before."""
        return self._fresh

    def ask_anew(self) -> None:
        """F4: nothing is sealed before a key comes that was not here before (R33); also when it dies before it has it."""
        if self.config.generation == "bsda":
            self._freshes.put(self.config.id, True)
            self._fresh = True

    def _has_fresh_keys(self) -> None:
        self._fresh = False
        self._freshes.drop(self.config.id)

    def _ask_for_keys(self, cover: Cover, now: float) -> None:
        """F4, pulled: the first period without a key, early enough; at once when the store was lost (R33)."""
        config, fresh = self.config, self._fresh
        if config.generation != "bsda":
            return
        latest = now + 2 * config.period if config.delivery == "push" and not fresh else float("inf")
        upcoming = itertools.takewhile(lambda period: period.start <= latest, self.periods.upcoming(now))
        period = next((p for p in upcoming if fresh or not cover.covers(p)), None)
        if period is None:
            return
        lacking = self._lacking() if fresh else set(SERVICE_KEY.values()) - cover.at(period.start).keys()
        for profile in config.profiles:
            asked = self._means.peers.outstanding(Tag.KeyRequest, config.service, profile, config.stream)
            if SERVICE_KEY[profile] in lacking and not asked and now >= self._ask_keys_from.get(profile, now):
                # To the BSM another messageID says that the store was lost once more: one that is on its way is waited for.
                until = now + config.key_period if fresh else period.end
                self._means.peers.ask(
                    Tag.KeyRequest, config.bsm, config.service, now, until=until, profile=profile,
                    stream=config.stream, start=period.start, fresh=fresh, about=frozenset({period.start}),
                )  # fmt: skip

    def _starts(self) -> dict[KeyType, set[int]]:
        """When the service's keys that are here begin, by their kind."""
        starts: dict[KeyType, set[int]] = {SERVICE_KEY[profile]: set() for profile in self.config.profiles}
        for key in self.keys.all():
            if key.key_type in starts:
                starts[key.key_type].add(key.valid_from)
        return starts

    def _lacking(self) -> set[KeyType]:
        """The kinds of keys that a stream still needs after its store was lost.

        Profiles roll together (R38).  Where the BSM was told of one more loss between two answers, one key is of a roll that is no
        more: it is asked for again, until there are two of one roll.
        """
        starts = self._starts()
        if set.intersection(*starts.values()):
            return set()
        newest = max(set.union(*starts.values()), default=None)
        return {kind for kind, found in starts.items() if newest not in found}

    # --- answers of the BSM -------------------------------------------------------------------------------------------

    def answered(self, message: BackendMessage, profile: Profile, answer: BackendMessage, connected: bool, now: float) -> None:
        """The BSM answered a request about this stream."""
        if message.tag in (Tag.TEKDelivery, Tag.STKMRequest):
            self._bybsm.answered(message, profile, answer, now)
        elif message.tag is Tag.KeyRequest and answer.status == Status.SUCCESS:
            self._take_keys(message, profile, answer, connected, now)

    def request_refused(self, tag: Tag, profile: Profile, now: float) -> None:
        """Not at once again after a refusal."""
        if tag is Tag.TEKDelivery:
            self._bybsm.refused(profile, now)
        elif tag is Tag.KeyRequest:
            self._ask_keys_from[profile] = now + RETRY

    def pull_stkms(self, profile: Profile, now: float) -> None:
        """F5, pulled: ask for the completed STKMs of what is not sealed yet."""
        self._bybsm.pull(profile, now)

    def _take_keys(self, message: BackendMessage, profile: Profile, answer: BackendMessage, connected: bool, now: float) -> None:
        self._ask_keys_from[profile] = now + RETRY  # what came may be for later
        for key in answer.items:
            if isinstance(key, KeyMaterial) and key.stream == self.config.stream:
                if not message.fresh and self.keys.ends_another(key):
                    continue  # it comes in a delivery that says so (R10), and that is still on its way
                try:
                    if self.keys.check(key, message.fresh, now):
                        self.install(key, message.fresh, now)
                except PeerFlowError as error:
                    self._journal.emit(Alarm("key-refused", *self.config.id, str(error)))
        if message.fresh and not self._lacking():
            self._has_fresh_keys()
            first = min(set.intersection(*self._starts().values()))
            if connected and self.periods.strange(first):  # the edge goes on with what it has till then
                self.periods.wait(first)
                self._journal.emit(Recall(*self.config.id, first))
