# SPDX-License-Identifier: Apache-2.0
"""The BSD/A: makes traffic keys, gets or makes their STKMs, puts them on air and tells the encoder when to switch.

Without I/O: ``receive`` takes the peer's messages, ``announced`` the sender's reports, ``tick`` the time; each returns the
outputs to carry out in order (see ``events``).  One crypto period is one record that walks through ``tables.PERIOD``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pybcast import codec
from pybcast.errors import BcastError, LocalFlowError, PeerFlowError, WireError
from pybcast.flows import stkm
from pybcast.flows.allocator import Allocator
from pybcast.flows.config import StreamConfig
from pybcast.flows.events import (
    AirStkm,
    Alarm,
    Announce,
    CarouselDrop,
    CarouselPut,
    FlowDone,
    Journal,
    OffAir,
    Output,
    StopTraffic,
    UseKey,
)
from pybcast.flows.peer import Asked, Peering
from pybcast.flows.schedule import REPETITIONS_AHEAD, Period, Schedule, Segment
from pybcast.flows.spcp import ALL_SERVICES, BackendMessage, KeyMaterial, PartialItem, Profile, StkmItem
from pybcast.flows.stkm import TekSource, TrafficKey
from pybcast.flows.tables import PERIOD, PeriodEvent, PeriodState, Side, Status, Tag, step
from pybcast.secret import Secret

_OPEN: Final = frozenset({PeriodState.PLANNED, PeriodState.KEYED, PeriodState.SEALED, PeriodState.ON_AIR})
_USED: Final = frozenset({PeriodState.IN_USE, PeriodState.HELD})
_FINAL: Final = frozenset({PeriodState.PAST, PeriodState.MISSED, PeriodState.STOPPED})


@dataclass(frozen=True)
class PeriodRecord:
    """One crypto period: its TEK, what has been sealed for it, and how far it is.

    ``key_ids``: (profile, key identity) it was sealed under here (F4).  ``waived``: profiles that cannot have a STKM for it (R15).
    ``announced_at``: when its first STKM left, in this life of the process.
    """

    period: Period
    state: PeriodState
    key: TrafficKey
    stkms: tuple[AirStkm, ...] = ()
    key_ids: tuple[tuple[Profile, bytes], ...] = ()
    waived: tuple[Profile, ...] = ()
    traffic_id: bytes = b""
    csb_id: bytes | None = None
    authority_end: int | None = None
    announced_at: float | None = None

    def has(self, profile: Profile) -> bool:
        return profile in self.waived or any(s.profile == profile for s in self.stkms)


class BSDA:
    """One BSD/A (service distribution/adaptation) of any number of streams.

    ``me``: its id (absolute URI).  ``teks``: where traffic keys come from.  ``randomness(n)``: n random bytes, for messageIDs.
    ``state``: what was persisted. ``fresh``: True when it has run before but its store is lost or was restored from an older
    copy; then it asks for new keys instead of sealing under the old ones (R33).
    """

    def __init__(
        self,
        *,
        me: str,
        streams: Iterable[StreamConfig],
        teks: TekSource,
        randomness: Callable[[int], bytes],
        state: dict[str, dict[tuple[object, ...], object]] | None = None,
        fresh: bool = False,
    ) -> None:
        self.me = me
        self._streams = {config.key: config for config in streams}
        self._teks = teks
        self._journal = Journal(state)
        self._allocator = Allocator(self._journal)
        self._peers = Peering(me, Side.BSDA, self._journal, randomness, self._handle, self._answered, self._overdue)
        self._fresh = {config.key for config in self._streams.values() if fresh and config.generation == "bsda"}
        self._schedules: dict[tuple[str, int], Schedule] = {}
        self._resumed = False
        self._now = 0.0
        for config in self._streams.values():
            saved = self._journal.tables.get("schedule", {}).get(config.key, ())
            assert isinstance(saved, tuple)
            self._schedules[config.key] = Schedule(config.start, config.period, [s for s in saved if isinstance(s, Segment)])

    # --- inputs -------------------------------------------------------------------------------------------------------

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]:
        """A back-end message from the authenticated ``peer``: a request is answered, an answer moves what asked for it."""
        self._peers.receive(message, now, peer)
        self._work(now)
        return self._journal.take()

    def announced(self, service: str, stream: int, start: int, now: float) -> list[Output]:
        """The sender's report: the first datagram of that period's STKMs has left."""
        record = self._record(service, stream, start)
        if record is not None and record.state is PeriodState.ON_AIR and record.announced_at is None:
            self._put(service, stream, replace(record, announced_at=now))
        self._work(now)
        return self._journal.take()

    def tick(self, now: float) -> list[Output]:
        """Let time pass."""
        self._work(now)
        return self._journal.take()

    def add_boundary(self, service: str, stream: int, at: int, now: float) -> tuple[int, list[Output]]:
        """An event boundary, or the end of a right, at NTP second ``at`` (R9).

        Returns the time from which it holds: later than ``at`` when that is already prepared (R5, with an alarm).
        """
        config = self._config(service, stream)
        held = self._cut(config, at)
        if held != at:
            self._journal.emit(Alarm("boundary-deferred", service, stream, f"{at} is prepared already, holds from {held}"))
        self._work(now)
        return held, self._journal.take()

    def set_period(self, service: str, stream: int, length: int, now: float) -> tuple[int, list[Output]]:
        """A new period length; holds after the last prepared period (R5)."""
        config = self._config(service, stream)
        changed = replace(config, period=length)  # refuses what cannot work
        at = self._cut(config, max(self._horizon(config), int(now)), length)
        self._streams[config.key] = changed
        self._work(now)
        return at, self._journal.take()

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [self._peers.next_wakeup()]
        for config in self._streams.values():
            for record in self._records(config):
                times += self._moments(config, record)
        return min((t for t in times if t is not None and t > self._now), default=None)

    def records(self, service: str, stream: int) -> tuple[PeriodRecord, ...]:
        """The crypto periods it knows, oldest first (for views and tests)."""
        return tuple(self._records(self._config(service, stream)))

    # --- memory -------------------------------------------------------------------------------------------------------

    def _config(self, service: str, stream: int) -> StreamConfig:
        try:
            return self._streams[service, stream]
        except KeyError:
            raise LocalFlowError(f"no stream {stream} of {service}") from None

    def _records(self, config: StreamConfig) -> Iterator[PeriodRecord]:
        rows = self._journal.tables.get("period", {})
        found = [row for key, row in rows.items() if key[:2] == config.key and isinstance(row, PeriodRecord)]
        return iter(sorted(found, key=lambda r: r.period.start))

    def _record(self, service: str, stream: int, start: int) -> PeriodRecord | None:
        row = self._journal.tables.get("period", {}).get((service, stream, start))
        return row if isinstance(row, PeriodRecord) else None

    def _put(self, service: str, stream: int, record: PeriodRecord) -> None:
        self._journal.put("period", (service, stream, record.period.start), record)

    def _fire(self, config: StreamConfig, record: PeriodRecord, event: PeriodEvent, **changes: object) -> PeriodRecord:
        after = replace(record, state=step(PERIOD, record.state, event), **changes)  # type: ignore[arg-type]  # fields of the record
        self._put(*config.key, after)
        return after

    def _keys(self, config: StreamConfig) -> list[KeyMaterial]:
        rows = self._journal.tables.get("key", {})
        return [row for key, row in rows.items() if key[:2] == config.key and isinstance(row, KeyMaterial)]

    def _keys_at(self, config: StreamConfig, time: float) -> dict[str, KeyMaterial]:
        return {key.key_type: key for key in self._keys(config) if key.valid_from <= time < key.valid_to}

    def _horizon(self, config: StreamConfig) -> int:
        """End of the last period that has been prepared."""
        return max((r.period.end for r in self._records(config) if r.state is not PeriodState.PLANNED), default=config.start)

    def _cut(self, config: StreamConfig, at: int, length: int | None = None, *, rights: bool = True) -> int:
        schedule = self._schedules[config.key]
        held = schedule.cut(at, self._horizon(config), length)
        self._journal.put("schedule", config.key, schedule.segments)
        if rights and length is None:
            self._journal.put("boundary", (*config.key, held), True)
        return held

    # --- the work of every input --------------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        self._now = now
        if not self._resumed:
            self._resumed = True
            self._resume(now)
        for config in self._streams.values():
            self._plan(config, now)
            self._seal_or_ask(config, now)
            self._announce(config, now)
            self._switch(config, now)
            self._end(config, now)
            self._ask_for_keys(config, now)
        self._prune(now)
        self._peers.tick(now)

    def _resume(self, now: float) -> None:
        """After a restart: what was on air goes on air again, the key in use stays in use (R40), the carousel turns."""
        for (name,), row in self._journal.tables.get("carousel", {}).items():
            if isinstance(row, CarouselPut) and isinstance(name, str):
                self._journal.emit(row)
        for config in self._streams.values():
            if config.key in self._fresh:  # R33: nothing made under the old keys is used again
                for table in ("key", "period"):
                    for key in [k for k in self._journal.tables.get(table, {}) if k[:2] == config.key]:
                        self._journal.drop(table, key)
            for record in self._records(config):
                if record.state is PeriodState.ON_AIR:
                    self._put(*config.key, replace(record, announced_at=None))
                if record.state in _USED or record.state is PeriodState.ON_AIR:
                    self._journal.emit(Announce(*config.key, record.period.start, record.stkms, config.repetition))
                if record.state in _USED and not self._ended(config, record, now):
                    self._use(config, record)

    def _plan(self, config: StreamConfig, now: float) -> None:
        """Prepare until ``look_ahead`` periods lie ahead; never one whose key is missing (F4), never one that has ended."""
        if config.key in self._fresh:
            return
        records = [r for r in self._records(config) if r.state not in _FINAL]
        ahead = sum(1 for r in records if r.period.start > now)
        start = max([r.period.end for r in records] + [int(now) if now >= config.start else config.start])
        current = self._schedules[config.key].at(now)
        if current is not None and not records:
            start = max(current.start, self._last_end(config))
        for period in self._schedules[config.key].walk(start):
            if ahead >= config.look_ahead or (config.generation == "bsda" and not self._covered(config, period)):
                break
            if period.end <= now or self._record(*config.key, period.start) is not None:
                continue
            self._key(config, period)
            ahead += period.start > now

    def _last_end(self, config: StreamConfig) -> int:
        return max((r.period.end for r in self._records(config)), default=config.start)

    def _covered(self, config: StreamConfig, period: Period) -> bool:
        held = self._keys_at(config, period.start)
        if config.dual:  # the SEK names the key in both profiles (R38), so both roll together
            return "SEAK" in held and "SEK" in held and held["SEAK"].valid_from == held["SEK"].valid_from
        return ("SEK" if config.smartcard else "SEAK") in held

    def _key(self, config: StreamConfig, period: Period) -> PeriodRecord:
        """Make the TEK of a period and store it (R41: before anything with it leaves)."""
        held = self._keys_at(config, period.start) if config.generation == "bsda" else {}
        first = held.get("SEK") or held.get("SEAK")
        key = self._teks(config, period, b"" if first is None else stkm.key_identity(config, first))
        return self._fire(config, PeriodRecord(period, PeriodState.PLANNED, key), PeriodEvent.TEK_STORED)

    def _seal_or_ask(self, config: StreamConfig, now: float) -> None:
        if config.generation == "bsda":
            for record in list(self._records(config)):
                if record.state is PeriodState.KEYED:
                    self._seal(config, record, now)
            return
        if config.delivery == "push":
            self._send_teks(config, now)

    def _seal(self, config: StreamConfig, record: PeriodRecord, now: float) -> None:
        """F4: seal under the delivered keys, through the allocator (R1)."""
        held = self._keys_at(config, record.period.start)
        policy = stkm.Policy.of(held.get("SEAK"), held.get("SEK"), held.get("PEAK"))
        sek = held.get("SEK")
        stkms, key_ids, waived = [], [], []
        for profile in config.profiles:
            content = stkm.partial(config, profile, record.period, record.key)
            key = held["SEK" if profile == "smartcard" else "SEAK"]
            identity = stkm.key_identity(config, key)

            def make(content: object = content) -> bytes:
                return stkm.seal(content, config, record.period, held, policy)  # type: ignore[arg-type]

            try:
                digest = stkm.owned_digest(config, record.period, content)
                stkms.append(AirStkm(profile, self._allocator.seal(identity, record.period, digest, make)))
                key_ids.append((profile, identity))
            except WireError as error:
                self._waive(config, record, profile, str(error))
                waived.append(profile)
            except PeerFlowError as error:
                self._journal.emit(Alarm("not-sealed", *config.key, f"period {record.period.start}: {error}"))
                self._fire(config, record, PeriodEvent.MISS)
                return
        sealed = self._fire(
            config,
            record,
            PeriodEvent.STKM_STORED,
            stkms=tuple(stkms),
            key_ids=tuple(key_ids),
            waived=tuple(waived),
            traffic_id=stkm.traffic_id(config, record.period, sek),
            csb_id=sek.csb_id if sek else None,
            authority_end=self._authority(config, record.period, (k.valid_to for k in held.values())),
        )
        if config.interaction and config.delivery == "push":
            for profile in config.profiles:
                self._deliver(config, profile, [sealed], now)
        for profile in config.profiles:
            self._journal.emit(FlowDone("F4", profile, config.service))

    def _waive(self, config: StreamConfig, record: PeriodRecord, profile: Profile, why: str) -> None:
        if len(config.profiles) == 1 or len(record.waived) + 1 == len(config.profiles):
            raise PeerFlowError(Status.GENERATION_FAILURE, why)
        self._journal.emit(Alarm("profile-waived", *config.key, f"period {record.period.start} has no {profile} STKM: {why}"))

    def _authority(self, config: StreamConfig, period: Period, ends: Iterable[int]) -> int | None:
        """The end of the right under which the period's key is used (R9)."""
        rows = self._journal.tables.get("boundary", {})
        boundaries = [key[2] for key in rows if key[:2] == config.key and isinstance(key[2], int) and key[2] >= period.end]
        return min([*ends, *boundaries], default=None)

    def _send_teks(self, config: StreamConfig, now: float) -> None:
        """F3 push: the partial STKMs of what is not sealed, unless they are already asked for."""
        for profile in config.profiles:
            asked = self._peers.outstanding(Tag.TEKDelivery, config.service, profile, config.stream)
            records = [
                r
                for r in self._records(config)
                if r.state is PeriodState.KEYED and not r.has(profile) and r.period.start not in asked and r.period.end > now
            ]
            if records:
                self._peers.ask(
                    Tag.TEKDelivery,
                    config.bsm,
                    config.service,
                    now,
                    until=max(r.period.end for r in records),
                    profile=profile,
                    stream=config.stream,
                    items=tuple(self._partial(config, profile, r) for r in records),
                    about=frozenset(r.period.start for r in records),
                )

    def _partial(self, config: StreamConfig, profile: Profile, record: PeriodRecord) -> PartialItem:
        content = stkm.partial(config, profile, record.period, record.key)
        return PartialItem(
            stream=config.stream,
            period_start=record.period.start,
            period_end=record.period.end,
            tek_id=f"{config.stream}-{record.period.start}",
            content=Secret(codec.encode(content)),
        )

    def _announce(self, config: StreamConfig, now: float) -> None:
        for record in list(self._records(config)):
            if record.state is PeriodState.SEALED and self._lead(config, record) <= now < record.period.end:
                for _, identity in record.key_ids:
                    self._allocator.sent(identity, record.period.start)
                self._fire(config, record, PeriodEvent.ANNOUNCE)
                self._journal.emit(Announce(*config.key, record.period.start, record.stkms, config.repetition))

    def _lead(self, config: StreamConfig, record: PeriodRecord) -> float:
        """When its STKM goes on air: half of the period before it ahead (R6)."""
        before = self._schedules[config.key].at(record.period.start - 1)
        return record.period.start - (before.duration / 2 if before is not None else record.period.duration / 2)

    def _ready(self, config: StreamConfig, record: PeriodRecord) -> float | None:
        """When traffic may use its key: not before its start, nor before three repetitions were on air (R40)."""
        if record.announced_at is None:
            return None
        return max(record.period.start, record.announced_at + REPETITIONS_AHEAD * config.repetition)

    def _switch(self, config: StreamConfig, now: float) -> None:
        ready = [
            r
            for r in self._records(config)
            if r.state is PeriodState.ON_AIR
            and not self._ended(config, r, now)
            and (at := self._ready(config, r)) is not None
            and at <= now
        ]
        if not ready:
            return
        chosen = ready[-1]
        self._use(config, self._fire(config, chosen, PeriodEvent.SWITCH))
        for record in list(self._records(config)):
            if record.period.start >= chosen.period.start or record.state in _FINAL:
                continue
            on_air = record.state in _USED or record.state is PeriodState.ON_AIR
            if record.state is PeriodState.HELD:
                self._journal.emit(Alarm("held-key", *config.key, active=False))
            self._fire(config, record, PeriodEvent.SUPERSEDED if record.state in _USED else PeriodEvent.MISS)
            if on_air:
                self._journal.emit(OffAir(*config.key, record.period.start))

    def _use(self, config: StreamConfig, record: PeriodRecord) -> None:
        key = record.key
        self._journal.emit(
            UseKey(
                *config.key,
                record.period.start,
                config.protocol,
                record.traffic_id,
                key.tek,
                key.salt,
                stkm.auth_key(config, key, record.csb_id),
                None if config.hold_through else record.authority_end,
            )
        )

    def _ended(self, config: StreamConfig, record: PeriodRecord, now: float) -> bool:
        return record.authority_end is not None and now >= record.authority_end and not config.hold_through

    def _end(self, config: StreamConfig, now: float) -> None:
        """Hold what has no successor, stop what has lost its authority, give up what was never used."""
        for record in list(self._records(config)):
            if record.state in _USED and self._ended(config, record, now):
                self._fire(config, record, PeriodEvent.AUTHORITY_ENDS)
                self._journal.emit(StopTraffic(*config.key))
                self._journal.emit(OffAir(*config.key, record.period.start))
                if record.state is PeriodState.HELD:
                    self._journal.emit(Alarm("held-key", *config.key, active=False))
                self._journal.emit(
                    Alarm("stopped", *config.key, f"authority of period {record.period.start} ended, no successor (R9)")
                )
            elif record.state is PeriodState.IN_USE and now >= record.period.end:
                self._fire(config, record, PeriodEvent.HOLD)
                self._journal.emit(Alarm("held-key", *config.key, f"no new key at {record.period.end}: the last one is held"))
            elif record.state in _OPEN and now >= record.period.end:
                self._fire(config, record, PeriodEvent.MISS)
                if record.state is PeriodState.ON_AIR:
                    self._journal.emit(OffAir(*config.key, record.period.start))

    def _moments(self, config: StreamConfig, record: PeriodRecord) -> list[float | None]:
        if record.state in _FINAL:
            return []
        times: list[float | None] = [record.period.end if record.state is not PeriodState.HELD else None]
        if record.state is PeriodState.SEALED:
            times.append(self._lead(config, record))
        if record.state is PeriodState.ON_AIR:
            times.append(self._ready(config, record))
        if record.state in _USED and not config.hold_through:
            times.append(record.authority_end)
        return times

    def _prune(self, now: float) -> None:
        for key, row in list(self._journal.tables.get("period", {}).items()):
            if isinstance(row, PeriodRecord) and row.state in _FINAL and row.period.end + row.period.duration < now:
                self._journal.drop("period", key)
        for key, row in list(self._journal.tables.get("key", {}).items()):
            if isinstance(row, KeyMaterial) and row.valid_to + 60 < now:
                self._journal.drop("key", key)
        for key in list(self._journal.tables.get("boundary", {})):
            if isinstance(key[2], int) and key[2] + 3600 < now:
                self._journal.drop("boundary", key)
        for key in list(self._journal.tables.get("carousel", {})):
            end = self._journal.tables.get("carousel-end", {}).get(key)
            if isinstance(end, int) and end < now:
                self._drop_object(str(key[0]))
        self._allocator.prune(now)

    # --- requests from the BSM ----------------------------------------------------------------------------------------

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        """Answer one checked, new request.  ``PeerFlowError`` = refused, nothing moved."""
        configs = [c for c in self._streams.values() if c.service == message.service]
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
        match message.tag:
            case Tag.PartialSTKMRequest:
                return self._give_partials(config, message, now)
            case Tag.STKMDelivery:
                self._take_stkms(config, message, now)
                return message.answer(Status.SUCCESS, now=now)
            case _:  # Tag.STKMRequest: check() lets no other through
                assert message.profile is not None
                items = self._items(config, message.profile, message.start, message.end)
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
            self._drop_object(message.replaces)
        put = CarouselPut(message.message_id, message.service, tuple(i for i in message.items if isinstance(i, bytes)))
        self._journal.put("carousel", (message.message_id,), put)
        if message.end is not None:
            self._journal.put("carousel-end", (message.message_id,), message.end)
        self._journal.emit(put)
        return message.answer(Status.SUCCESS, now=now)

    def _drop_object(self, name: str) -> None:
        if (name,) in self._journal.tables.get("carousel", {}):
            self._journal.drop("carousel", (name,))
            self._journal.drop("carousel-end", (name,))
            self._journal.emit(CarouselDrop(name))

    def _take_keys(self, message: BackendMessage, now: float) -> BackendMessage:
        """F4, pushed: all or nothing."""
        keys = [item for item in message.items if isinstance(item, KeyMaterial)]
        configs = [self._streams.get((message.service, key.stream)) for key in keys]
        if any(c is not None and c.key in self._fresh for c in configs):
            raise PeerFlowError(Status.DELAYED, "the store was lost: a fresh key has been asked for (R33)")
        fresh: list[tuple[StreamConfig, KeyMaterial]] = []
        for config, key in zip(configs, keys, strict=True):
            if config is None or config.generation != "bsda" or message.profile not in config.profiles:
                raise PeerFlowError(Status.INVALID_REQUEST, "stream not known here, or its STKMs are made by the BSM")
            if self._check_key(config, key, message.replace, now):
                fresh.append((config, key))
        for config, key in fresh:
            self._install_key(config, key, message.replace, now)
        return message.answer(Status.SUCCESS, now=now)

    def _check_key(self, config: StreamConfig, key: KeyMaterial, replacing: bool, now: float) -> bool:
        """Whether a delivered key is new; ``PeerFlowError`` when it cannot be taken."""
        if key.valid_to <= now:
            raise PeerFlowError(Status.INFORMATION_INVALID, "the key has expired")
        held = self._journal.tables.get("key", {}).get((*config.key, key.key_type, key.key_id))
        if isinstance(held, KeyMaterial):
            if replace(held, valid_to=key.valid_to) != key:
                raise PeerFlowError(Status.ALREADY_IN_USE, "another key has this id")
            return False
        later = [r for r in self._records(config) if r.period.start >= key.valid_from and r.state is not PeriodState.PLANNED]
        if replacing:
            if any(r.state not in (PeriodState.KEYED, PeriodState.SEALED, PeriodState.MISSED) for r in later):
                raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R10)")
            return True
        if any(r.state is not PeriodState.MISSED for r in later) or self._horizon(config) > key.valid_from > now:
            raise PeerFlowError(Status.INFORMATION_INVALID, "validFrom lies in what is already prepared (R33)")
        for other in self._keys(config):
            if other.key_type == key.key_type and other.valid_from < key.valid_to and key.valid_from < other.valid_to:
                raise PeerFlowError(Status.INFORMATION_INVALID, "the validity overlaps another key's (R33)")
        return True

    def _install_key(self, config: StreamConfig, key: KeyMaterial, replacing: bool, now: float) -> None:
        for other in self._keys(config):
            if other.key_type == key.key_type and other.key_id != key.key_id and other.valid_from < key.valid_from < other.valid_to:
                self._journal.put("key", (*config.key, other.key_type, other.key_id), replace(other, valid_to=key.valid_from))
        self._journal.put("key", (*config.key, key.key_type, key.key_id), key)
        if replacing:
            self._unprepare(config, key.valid_from)
        for edge in (key.valid_from, key.valid_to):
            if edge > now:
                self._cut(config, edge, rights=False)

    def _unprepare(self, config: StreamConfig, start: int) -> None:
        """R10: what is prepared from ``start`` on and not on air is taken back; its COUNTERs are burnt."""
        for record in list(self._records(config)):
            if record.period.start >= start and record.state in (PeriodState.KEYED, PeriodState.SEALED):
                for _, identity in record.key_ids:
                    self._allocator.burn(identity, record.period.start)
                self._fire(config, record, PeriodEvent.REPLACED)
                self._journal.drop("period", (*config.key, record.period.start))

    def _give_partials(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F3, pulled (and R32: the window's edges are boundaries of periods)."""
        if config.generation != "bsm":
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made here")
        assert message.profile is not None
        if message.start is not None:
            on_air = [r for r in self._records(config) if r.state not in (PeriodState.KEYED, PeriodState.SEALED, *_FINAL)]
            if message.replace:
                if any(r.period.start >= message.start for r in on_air):
                    raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R10)")
                self._withdraw_profile(config, message)
            for edge in (message.start, message.end):
                if edge is not None and edge > now:
                    self._cut(config, edge, rights=False)
        self._plan(config, now)
        low, high = message.start or 0, message.end or 1 << 62
        items = tuple(
            self._partial(config, message.profile, r)
            for r in self._records(config)
            if r.state is PeriodState.KEYED and not r.has(message.profile) and low <= r.period.start < high
        )
        return message.answer(Status.SUCCESS if items else Status.DELAYED, items, now=now)

    def _withdraw_profile(self, config: StreamConfig, message: BackendMessage) -> None:
        """A replaced period keeps its TEK until both profiles have been asked for again: only this profile's STKM goes."""
        assert message.start is not None
        for record in list(self._records(config)):
            if record.period.start < message.start or record.state not in (PeriodState.KEYED, PeriodState.SEALED):
                continue
            kept = tuple(s for s in record.stkms if s.profile != message.profile)
            if record.state is PeriodState.SEALED:
                record = self._fire(config, record, PeriodEvent.REPLACED)
                record = self._fire(config, record, PeriodEvent.TEK_STORED)
            self._put(*config.key, replace(record, stkms=kept, traffic_id=record.traffic_id if kept else b""))

    def _take_stkms(self, config: StreamConfig, message: BackendMessage, now: float) -> None:
        """F5, pushed: all or nothing."""
        items = [i for i in message.items if isinstance(i, StkmItem) and i.status == Status.SUCCESS]
        assert message.profile is not None
        checked = [self._check_stkm(config, message.profile, item, message.replace) for item in items]
        for item, record in zip(items, checked, strict=True):
            if record is not None:
                self._store_stkm(config, message.profile, item, now)
        self._peers.delivered(config.service, message.profile, config.stream, {i.period_start for i in items})
        self._journal.emit(FlowDone("F5", message.profile, config.service))

    def _check_stkm(self, config: StreamConfig, profile: Profile, item: StkmItem, replacing: bool) -> PeriodRecord | None:
        """The record an STKM is for; ``None`` when it is known already.  ``PeerFlowError`` with the item's status."""
        record = self._record(*config.key, item.period_start)
        if config.generation != "bsm" or record is None or record.period.end != item.period_end:
            raise PeerFlowError(Status.INVALID_REQUEST, f"no period begins at {item.period_start}")
        held = next((s.data for s in record.stkms if s.profile == profile), None)
        if held == item.content:
            return None
        if record.state not in (PeriodState.KEYED, PeriodState.SEALED):
            raise PeerFlowError(Status.ALREADY_IN_USE, f"the STKM of {item.period_start} is on air or over (R10)")
        if held is not None and not replacing:
            raise PeerFlowError(Status.ALREADY_IN_USE, f"period {item.period_start} has another STKM")
        try:
            _, name = stkm.check_received(config, profile, record.period, record.key, item.content)
        except WireError as error:
            raise PeerFlowError(Status.INFORMATION_INVALID, str(error)) from error
        if record.traffic_id and held is None and name != record.traffic_id:
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "the two profiles name the key differently (R38)")
        return record

    def _store_stkm(self, config: StreamConfig, profile: Profile, item: StkmItem, now: float) -> None:
        record = self._record(*config.key, item.period_start)
        assert record is not None
        message, name = stkm.check_received(config, profile, record.period, record.key, item.content)
        if record.state is PeriodState.SEALED:
            record = self._fire(config, record, PeriodEvent.REPLACED)
            record = self._fire(config, record, PeriodEvent.TEK_STORED)
        others = tuple(s for s in record.stkms if s.profile != profile)
        ends = [e for e in (record.authority_end if others else None, item.authority_end) if e is not None]
        record = replace(
            record,
            stkms=(*others, AirStkm(profile, item.content)),
            traffic_id=name,
            csb_id=getattr(message, "csb_id", record.csb_id),
            authority_end=self._authority(config, record.period, ends),
        )
        self._complete(config, record)

    def _complete(self, config: StreamConfig, record: PeriodRecord) -> None:
        if record.stkms and all(record.has(profile) for profile in config.profiles):
            self._fire(config, record, PeriodEvent.STKM_STORED)
        else:
            self._put(*config.key, record)

    def _items(self, config: StreamConfig, profile: Profile, start: int | None, end: int | None) -> tuple[StkmItem, ...]:
        """F6: the STKMs of a window, for the BSM."""
        low, high = start or 0, end or 1 << 62
        return tuple(
            StkmItem(
                stream=config.stream,
                period_start=r.period.start,
                period_end=r.period.end,
                tek_id=f"{config.stream}-{r.period.start}",
                content=s.data,
                authority_end=r.authority_end,
            )
            for r in self._records(config)
            if r.state not in (PeriodState.PLANNED, PeriodState.KEYED, *_FINAL) and low <= r.period.start < high
            for s in r.stkms
            if s.profile == profile
        )

    def _deliver(self, config: StreamConfig, profile: Profile, records: list[PeriodRecord], now: float) -> None:
        """F6, pushed."""
        for record in records:
            items = self._items(config, profile, record.period.start, record.period.start + 1)
            if items:
                self._peers.ask(
                    Tag.STKMDelivery, config.bsm, config.service, now, until=record.period.end, profile=profile,
                    stream=config.stream, items=items, about=frozenset({record.period.start}),
                )  # fmt: skip

    # --- asking, and answers ------------------------------------------------------------------------------------------

    def _ask_for_keys(self, config: StreamConfig, now: float) -> None:
        """F4, pulled: the first period without a key, early enough; at once when the store was lost (R33)."""
        if config.generation != "bsda":
            return
        fresh = config.key in self._fresh
        period = next((p for p in self._upcoming(config, now) if fresh or not self._covered(config, p)), None)
        if period is None or (config.delivery == "push" and not fresh and period.start - now > 2 * config.period):
            return
        for profile in config.profiles:
            missing = ("SEK" if profile == "smartcard" else "SEAK") not in self._keys_at(config, period.start)
            if (missing or fresh) and not self._peers.outstanding(Tag.KeyRequest, config.service, profile, config.stream):
                self._peers.ask(
                    Tag.KeyRequest, config.bsm, config.service, now, until=period.end, profile=profile,
                    stream=config.stream, start=period.start, fresh=fresh, about=frozenset({period.start}),
                )  # fmt: skip

    def _upcoming(self, config: StreamConfig, now: float) -> Iterator[Period]:
        for n, period in enumerate(self._schedules[config.key].walk(now)):
            if n > config.look_ahead:
                return
            yield period

    def request_objects(self, service: str, registration: bool, start: int, end: int, now: float) -> list[Output]:
        """F1, F2 pulled: ask the BSM for what is to be broadcast in a window."""
        bsm = next(c.bsm for c in self._streams.values() if service in (c.service, ALL_SERVICES))
        tag = Tag.RegRequest if registration else Tag.LTKMRequest
        self._peers.ask(tag, bsm, service, now, until=end, start=start, end=end)
        return self._journal.take()

    def request_stkms(self, service: str, stream: int, profile: Profile, now: float) -> list[Output]:
        """F5, pulled: ask the BSM for the completed STKMs of what is not sealed yet."""
        self._pull_stkms(self._config(service, stream), profile, now)
        return self._journal.take()

    def _pull_stkms(self, config: StreamConfig, profile: Profile, now: float) -> None:
        records = [r for r in self._records(config) if r.state is PeriodState.KEYED and not r.has(profile)]
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

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        """The peer answered one of our requests (its exchange has moved already)."""
        message = asked.message
        config = self._streams.get((message.service, message.stream or 0))
        profile = message.profile
        match message.tag:
            case Tag.TEKDelivery | Tag.STKMRequest if config is not None and profile is not None:
                for item in answer.items:
                    if isinstance(item, StkmItem):
                        self._take_item(config, profile, item, now)
                if message.tag is Tag.STKMRequest and answer.status == Status.SUCCESS:
                    self._journal.emit(FlowDone("F5", profile, config.service))
                elif answer.status == Status.SUCCESS:
                    self._journal.emit(FlowDone("F3", profile, config.service))
            case Tag.KeyRequest if config is not None and answer.status == Status.SUCCESS:
                self._take_answered_keys(config, message, answer, now)
            case Tag.STKMDelivery if answer.status == Status.SUCCESS:
                self._journal.emit(FlowDone("F6", profile, message.service))
            case Tag.LTKMRequest | Tag.RegRequest if answer.status == Status.SUCCESS and answer.items:
                put = CarouselPut(answer.message_id, answer.service, tuple(i for i in answer.items if isinstance(i, bytes)))
                self._journal.put("carousel", (answer.message_id,), put)
                if message.end is not None:
                    self._journal.put("carousel-end", (answer.message_id,), message.end)
                self._journal.emit(put)
                self._journal.emit(FlowDone("F1" if message.tag is Tag.RegRequest else "F2", None, message.service))
        if answer.status not in (Status.SUCCESS, Status.DELAYED):
            self._journal.emit(Alarm("refused", message.service, message.stream, f"tag {int(message.tag)}: status {answer.status}"))

    def _take_item(self, config: StreamConfig, profile: Profile, item: StkmItem, now: float) -> None:
        """One STKM of an answer: each has its own status (R27)."""
        record = self._record(*config.key, item.period_start)
        if record is None or record.state is not PeriodState.KEYED:
            return  # late, or already there
        if item.status == Status.GENERATION_FAILURE and len(config.profiles) > 1 + len(record.waived):
            self._journal.emit(Alarm("profile-waived", *config.key, f"period {item.period_start} has no {profile} STKM"))
            self._complete(config, replace(record, waived=(*record.waived, profile)))
        elif item.status == Status.SUCCESS:
            try:
                if self._check_stkm(config, profile, item, False) is not None:
                    self._store_stkm(config, profile, item, now)
            except BcastError as error:
                self._journal.emit(Alarm("stkm-refused", *config.key, f"period {item.period_start}: {error}"))
        elif item.status != Status.DELAYED:
            self._journal.emit(Alarm("stkm-refused", *config.key, f"period {item.period_start}: status {item.status}"))

    def _take_answered_keys(self, config: StreamConfig, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        for key in answer.items:
            if isinstance(key, KeyMaterial) and key.stream == config.stream:
                try:
                    if self._check_key(config, key, message.fresh, now):
                        self._install_key(config, key, message.fresh, now)
                except PeerFlowError as error:
                    self._journal.emit(Alarm("key-refused", *config.key, str(error)))
        if message.fresh and all(
            any(k.key_type == t for k in self._keys(config))
            for t, used in (("SEAK", config.drm), ("SEK", config.smartcard))
            if used
        ):
            self._fresh.discard(config.key)
