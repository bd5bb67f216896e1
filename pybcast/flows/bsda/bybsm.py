# SPDX-License-Identifier: Apache-2.0
"""F3: the BSM completes and seals what the BSD/A makes; its STKMs come with its answer, or by F5."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pybcast import codec
from pybcast.errors import BcastError, PeerFlowError, WireError
from pybcast.flows.bsda.cutting import Cutting
from pybcast.flows.bsda.keys import Cover, Keys
from pybcast.flows.bsda.periods import FINAL, NOT_ON_AIR, PeriodRecord, Periods
from pybcast.flows.bsda.sealing import Means, Sealer, tek_id
from pybcast.flows.events import AirStkm, Alarm, FlowDone
from pybcast.flows.peers.exchange import RETRY
from pybcast.flows.peers.messages import BackendMessage, PartialItem, Profile, StkmItem
from pybcast.flows.serial import later_key
from pybcast.flows.stream import stkm
from pybcast.flows.tables import PeriodEvent, PeriodState, Status, Tag, status_words
from pybcast.messages import DrmStkm, SmartcardStkm
from pybcast.secret import Secret

_Checked = tuple[StkmItem, PeriodRecord, DrmStkm | SmartcardStkm, bytes]


class SealedByBsm(Sealer):
    """Asks the BSM for the STKMs of the periods whose keys are not here, and checks what it gives."""

    def __init__(self, means: Means, periods: Periods, keys: Keys, cutting: Cutting) -> None:
        super().__init__(means, periods, keys, cutting)
        self._not_before: dict[Profile, float] = {}
        self._complaint = ""

    # --- asking -------------------------------------------------------------------------------------------------------

    def seal(self, cover: Cover, now: float) -> None:
        """F3 push: the partial STKMs of what is not sealed, unless they are already asked for."""
        config = self.config
        if config.delivery != "push" or not self._periods.waiting(PeriodState.KEYED):
            return
        self._waive_unsayable()
        for profile in config.profiles:
            asked = self._means.peers.outstanding(Tag.TEKDelivery, config.service, profile, config.stream)
            records = [r for r in self._keyed(profile) if r.period.start not in asked and r.period.end > now]
            if records and now >= self._not_before.get(profile, now):
                self._means.peers.ask(
                    Tag.TEKDelivery, config.bsm, config.service, now, until=max(r.period.end for r in records),
                    profile=profile, stream=config.stream, items=self.partials(profile, records),
                    about=frozenset(r.period.start for r in records),
                )  # fmt: skip

    def _keyed(self, profile: Profile) -> list[PeriodRecord]:
        """What waits for its STKM of a profile."""
        return [record for record in self._periods.waiting(PeriodState.KEYED) if not record.has(profile)]

    def partials(self, profile: Profile, records: Sequence[PeriodRecord]) -> tuple[PartialItem, ...]:
        """The BSD/A's halves of some STKMs."""
        config = self.config
        items: list[PartialItem] = []
        for _, group in itertools.groupby(records, lambda record: self._periods.length_at(record.period)):
            some = list(group)
            at = self._periods.config_at(some[0].period)
            contents = stkm.partials(at, profile, [(record.period, record.key) for record in some])
            items += [
                PartialItem(
                    stream=config.stream, period_start=record.period.start, period_end=record.period.end,
                    tek_id=tek_id(config, record), content=Secret(codec.encode(content)),
                )
                for record, content in zip(some, contents, strict=True)
            ]  # fmt: skip
        return tuple(items)

    def give(self, message: BackendMessage, profile: Profile, cover: Cover, now: float) -> BackendMessage:
        """F3, pulled: the answer with what is ready of the window that is asked for."""
        low, high = message.start or 0, message.end or 1 << 62
        wanted = [r for r in self._keyed(profile) if low <= r.period.start < high and not cover.covers(r.period)]
        items = self.partials(profile, wanted)
        return message.answer(Status.SUCCESS if items else Status.DELAYED, items, now=now)

    def pull(self, profile: Profile, now: float) -> None:
        """F5, pulled: ask for the completed STKMs of what is not sealed yet."""
        config, records = self.config, self._keyed(profile)
        if records and not self._means.peers.outstanding(Tag.STKMRequest, config.service, profile, config.stream):
            self._means.peers.ask(
                Tag.STKMRequest, config.bsm, config.service, now, until=records[-1].period.end, profile=profile,
                stream=config.stream, start=records[0].period.start, end=records[-1].period.end,
                about=frozenset(r.period.start for r in records),
            )  # fmt: skip

    def refused(self, profile: Profile, now: float) -> None:
        """Not at once again after a refusal."""
        self._not_before[profile] = now + RETRY

    def next_try(self) -> list[float]:
        """When what was refused is asked for again."""
        return list(self._not_before.values())

    # --- what comes ---------------------------------------------------------------------------------------------------

    def deliver(self, message: BackendMessage, profile: Profile, items: Sequence[StkmItem]) -> None:
        """F5, pushed: all or nothing."""
        config = self.config
        checked = [self._check(profile, item, message.replace) for item in items]
        self._store(profile, [one for one in checked if one is not None])
        for tag in (Tag.TEKDelivery, Tag.STKMRequest):
            self._means.peers.delivered(tag, config.service, profile, config.stream, {i.period_start for i in items})
        self._done("F5", profile, items)

    def answered(self, message: BackendMessage, profile: Profile, answer: BackendMessage, now: float) -> None:
        """The answer to partial STKMs (F3), or to a question for STKMs (F5)."""
        items = [item for item in answer.items if isinstance(item, StkmItem)]
        self._take(profile, items, now)
        if answer.status == Status.SUCCESS:
            flow = "F5" if message.tag is Tag.STKMRequest else "F3"
            self._done(flow, profile, [item for item in items if item.content])

    def _done(self, flow: str, profile: Profile, items: Sequence[StkmItem]) -> None:
        earliest = min((item.period_start for item in items), default=None)
        self._means.journal.emit(FlowDone(flow, profile, self.config.service, earliest))

    def missed(self, start: int) -> bool:
        """Whether the time of a period is over without its STKM."""
        record = self._periods.record(start)
        return record is not None and record.state is PeriodState.MISSED

    def _check(self, profile: Profile, item: StkmItem, replacing: bool) -> _Checked | None:
        """An STKM with the record it is for, what it says, and its traffic id; ``None`` when it is known already.
        ``PeerFlowError`` with the item's status.
        """
        record = self._periods.record(item.period_start)
        if record is None or record.key_ids or record.period.end != item.period_end:
            raise PeerFlowError(Status.INVALID_REQUEST, f"no period begins at {item.period_start}")
        held = next((s.data for s in record.stkms if s.profile == profile), None)
        if held == item.content:
            return None
        if record.state not in (PeriodState.KEYED, PeriodState.SEALED):
            raise PeerFlowError(Status.ALREADY_IN_USE, f"the STKM of {item.period_start} is at the edge, on air or over (R10)")
        if held is not None and not replacing:
            raise PeerFlowError(Status.ALREADY_IN_USE, f"period {item.period_start} has another STKM")
        mine = tek_id(self.config, record)
        if item.tek_id != mine and item.tek_id.startswith(mine.rpartition("-")[0] + "-"):
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, f"the STKM of {item.period_start} holds a TEK that was made before")
        try:
            at = self._periods.config_at(record.period)
            said, name = stkm.check_received(at, profile, record.period, record.key, item.content)
        except WireError as error:
            raise PeerFlowError(Status.INFORMATION_INVALID, str(error)) from error
        if held is not None and later_key(stkm.key_id_in(profile, held), stkm.key_id_in(profile, item.content)):
            raise PeerFlowError(Status.ALREADY_IN_USE, f"period {item.period_start} has a STKM under a key that was made later")
        if record.traffic_id and held is None and name != record.traffic_id:
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "the two profiles name the key differently (R38)")
        return item, record, said, name

    def _store(self, profile: Profile, checked: Sequence[_Checked]) -> None:
        end, profiles = self._cutting.cut.at, self.config.profiles
        if end is not None and any(end <= record.period.start for _, record, _, _ in checked):
            self._cutting.end_keys()  # F3: its one sealer goes on with another key (R50)
        authority, after = self._periods.authority(), []
        for item, record, message, name in checked:
            if record.state is PeriodState.SEALED:
                record = self._periods.fire(record, PeriodEvent.UNSEALED)
            stkms: tuple[AirStkm, ...] = (AirStkm(profile, item.content),)
            ends = [] if item.authority_end is None else [item.authority_end]
            others = tuple(one for one in record.stkms if one.profile != profile)
            if others:
                stkms = tuple(sorted((*others, *stkms), key=lambda one: profiles.index(one.profile)))
                ends += [] if record.authority_end is None else [record.authority_end]
            after.append(
                record.but(
                    stkms=stkms, traffic_id=name, csb_id=getattr(message, "csb_id", record.csb_id),
                    authority_end=authority(record.period, ends),
                )
            )  # fmt: skip
        self._complete(after)
        for edge in sorted({item.authority_end for item, _, _, _ in checked if item.authority_end is not None}):
            if edge >= self._periods.horizon:
                self._periods.cut(edge)  # where the key ends a period ends, even if nobody said so before (R9)

    def _complete(self, records: Sequence[PeriodRecord]) -> None:
        """Periods that have all their STKMs are sealed."""
        whole: list[PeriodRecord] = []
        others: list[PeriodRecord] = []
        for record in records:
            done = record.stkms and all(record.has(profile) for profile in self.config.profiles)
            (whole if done else others).append(record)
        self._periods.fire_all(whole, PeriodEvent.STKM_STORED)
        self._periods.put(*others)

    def _take(self, profile: Profile, items: Sequence[StkmItem], now: float) -> None:
        """The STKMs of an answer: each has its own status (R27), and one that is refused here costs the others nothing."""
        checked: dict[int, _Checked] = {}
        for item in items:
            record = self._periods.record(item.period_start)
            if record is None or record.state is not PeriodState.KEYED or item.period_start in checked:
                continue  # late, or already there
            if item.status != Status.SUCCESS:
                self._store(profile, list(checked.values()))  # what comes of a refusal depends on them
                checked.clear()
                self._not_made(profile, item, record, now)
                continue
            try:
                good = self._check(profile, item, False)
            except BcastError as error:
                self._means.journal.emit(Alarm("stkm-refused", *self.config.id, f"period {item.period_start}: {error}"))
            else:
                if good is not None:
                    checked[item.period_start] = good
        self._store(profile, list(checked.values()))

    def _not_made(self, profile: Profile, item: StkmItem, record: PeriodRecord, now: float) -> None:
        if item.status == Status.GENERATION_FAILURE and len(self.config.profiles) > 1 + len(record.waived):
            self._means.journal.emit(Alarm("profile-waived", *self.config.id, f"period {item.period_start} has no {profile} STKM"))
            self._complete([record.but(waived=(*record.waived, profile))])
        elif item.status != Status.DELAYED:
            self.refused(profile, now)
            complaint = f"period {item.period_start}: {status_words(item.status, Tag.TEKDelivery.name)}"
            if complaint != self._complaint:  # once: a refusal repeats with every try
                self._complaint = complaint
                self._means.journal.emit(Alarm("stkm-refused", *self.config.id, complaint))
            edge = item.authority_end
            if edge is not None and item.status == Status.INFORMATION_INVALID and item.period_start < edge < record.period.end:
                self._straddles(record, edge)

    def _straddles(self, record: PeriodRecord, edge: int) -> None:
        """The BSM knows a boundary that we do not (R32): periods from here on are laid out anew, if none is sealed.

        One that begins where it began before keeps its TEK: partial STKMs with it are on their way.
        """
        periods = self._periods
        later = [r for r in periods.records if r.period.start >= record.period.start]
        if any(r.state is not PeriodState.KEYED or r.stkms for r in later):
            return
        for each in later:
            periods.drop(each.period.start)
        periods.cut(edge)
        for each in later:
            period = periods.at(each.period.start)
            if period is not None and period.start == each.period.start:
                periods.put(each.but(period=period))
        self._not_before.clear()

    def _waive_unsayable(self) -> None:
        """No DRM timestamp can be said after 2038-04-22 (R15); the other profile goes on, a stream of DRM alone does not."""
        for record in self._keyed("drm") if self.config.drm else ():
            unsayable = record.period.start > stkm.LAST_MJD_TIME
            if unsayable and self.waive(record, "drm", "its timestamp cannot be said any more (R15)"):
                self._complete([record.but(waived=("drm",))])

    def replace(self, profile: Profile, start: int, now: float) -> None:
        """R10 by F3: what is prepared from ``start`` on and not on air gets new STKMs, with the same TEK.

        Both profiles roll together (R38), each with a message of its own: the first takes both STKMs away.
        """
        periods = self._periods
        records = [r for r in periods.records if r.period.start >= start and r.state not in FINAL]
        if any(r.state not in NOT_ON_AIR for r in records):
            raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R10)")
        if self._cutting.cut.starts:
            self._cutting.end_keys()
            records = [r for r in records if r.state is not PeriodState.ASIDE]
        periods.shorten(start)
        periods.end_authority(start, now)
        for key in self._keys.all():  # sealed here until now (F4): that key ends, and so does what was made with it (R1)
            if key.valid_from < start < key.valid_to:
                self._keys.end(key, start)
        if any(r.key_ids for r in records):
            periods.unprepare(start)
            return
        for record in records:
            if record.state is PeriodState.SEALED:
                periods.fire(record, PeriodEvent.UNSEALED, stkms=(), traffic_id=b"", waived=(), authority_end=None)
            elif record.has(profile):
                kept = tuple(s for s in record.stkms if s.profile != profile)
                periods.put(record.but(stkms=kept, waived=(), traffic_id=record.traffic_id if kept else b""))
