# SPDX-License-Identifier: Apache-2.0
"""The crypto periods of a BSD/A's streams: which there are, under which keys, and what of them is on air.

One period is one record that walks through ``tables.PERIOD``.  How it is sealed, and what passes between BSD/A and BSM, is
``bsda``'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from zlib import crc32

from pybcast.errors import PeerFlowError
from pybcast.flows.edge.machine import SHORT, Held, HeldPeriod, mark
from pybcast.flows.events import AirStkm, Alarm, Plan, PlannedPeriod, PlanRefused, Recalled
from pybcast.flows.journal import Journal
from pybcast.flows.peers.messages import KeyMaterial, Profile
from pybcast.flows.serial import later_key
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period, Schedule, Segment, lead
from pybcast.flows.stream.stkm import TrafficKey
from pybcast.flows.tables import PERIOD, PeriodEvent, PeriodState, Status, step

FINAL: Final = frozenset({PeriodState.OVER, PeriodState.MISSED})
NOT_ON_AIR: Final = frozenset({PeriodState.KEYED, PeriodState.SEALED, PeriodState.ASIDE})
OPEN: Final = frozenset({PeriodState.PLANNED, *NOT_ON_AIR})
"""Periods that are not at the edge."""
KEY_KEPT: Final = 60  # seconds that a key is kept after its end - confidence: own
BOUNDARY_KEPT: Final = 3600  # the longest period: a boundary is the end of authority of the one before it


_UNSTORED: Final = frozenset({PeriodEvent.PASS, PeriodEvent.MISS})
"""Steps that the time tells after a restart.  A period's row is written when it is keyed, sealed and handed out."""


@dataclass(frozen=True)
class PeriodRecord:
    """One crypto period: its TEK, what has been sealed for it, and how far it is.

    ``key_ids``: (profile, key identity) it was sealed under here (F4).  ``waived``: profiles that cannot have a STKM for it (R15).
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

    def but(self, **changes: object) -> PeriodRecord:
        """Like this one, but for some fields: ``dataclasses.replace`` takes five times as long, and a period changes six times."""
        made = object.__new__(PeriodRecord)
        vars(made).update(vars(self), **changes)
        return made

    def has(self, profile: Profile) -> bool:
        return profile in self.waived or any(s.profile == profile for s in self.stkms)


@dataclass(frozen=True)
class PeriodBlock:
    """Periods of a stream that were prepared together: one row of the store."""

    records: tuple[PeriodRecord, ...]


@dataclass(frozen=True)
class Cut:
    """What a BSD/A has confirmed to its BSM (R50).

    ``starts``: attempt -> NTP second from which nothing is sealed under the keys that are here.  ``programmes``: (attempt, start,
    end) of programmes whose key is still to come: nothing is sealed from their start on.  ``own``: those of all these times at
    which a period begins for no other reason.  ``over``: the last attempt that was given up, or that a key came of.
    """

    starts: tuple[tuple[int, int], ...] = ()
    own: frozenset[int] = frozenset()
    over: int = 0
    programmes: tuple[tuple[int, int, int], ...] = ()

    @property
    def at(self) -> int | None:
        """From when on nothing is sealed: from what was confirmed first; ``None``: from never."""
        return min((start for _, start, *_ in (*self.starts, *self.programmes)), default=None)

    def but(self, **changes: Any) -> Cut:
        """Like this one, but for some fields; what is over has no boundaries of its own."""
        after = replace(self, **changes)
        times = {time for _, *times in (*after.starts, *after.programmes) for time in times}
        return replace(after, own=after.own & times)


Key = tuple[str, int]
Fields = dict[str, Any]
_NO_FIELDS: Final[Fields] = {}


class Cover:
    """The keys of a stream that are here, looked up once for periods that have the same, and not before they are needed.

    ``find()``: the keys, and where they end by what was confirmed to the BSM (R50).
    """

    def __init__(self, config: StreamConfig, find: Callable[[], tuple[list[KeyMaterial], int | None]]) -> None:
        self._config, self._find = config, find
        self._found: tuple[list[KeyMaterial], int | None] | None = None
        self.span = (0.0, 0.0)
        """From when to when the keys are in force that were looked up last."""
        self._held: dict[str, KeyMaterial] = {}
        self._whole = 0

    def at(self, time: float) -> dict[str, KeyMaterial]:
        """The keys in force at a time, by their type.  Not to be changed."""
        if not self.span[0] <= time < self.span[1]:
            self._look(time)
        return self._held

    def _look(self, time: float) -> None:
        if self._found is None:
            self._found = self._find()
        config, (keys, end), held = self._config, self._found, dict[str, KeyMaterial]()
        held.update((key.key_type, key) for key in keys if key.valid_from <= time < key.valid_to)
        edges = [edge for key in keys for edge in (key.valid_from, key.valid_to)]
        self._held = held
        self.span = max((e for e in edges if e <= time), default=0.0), min((e for e in edges if e > time), default=float("inf"))
        if config.dual:  # the SEK names the key in both profiles (R38), so both roll together
            enough = "SEAK" in held and "SEK" in held and held["SEAK"].valid_from == held["SEK"].valid_from
        else:
            enough = ("SEK" if config.smartcard else "SEAK") in held
        ends = [key.valid_to for key in held.values()] + ([] if end is None else [end])
        self._whole = min(ends) if enough else 0

    def covers(self, period: Period) -> bool:
        """Whether the keys of a whole period are here."""
        self.at(period.start)
        return period.end <= self._whole


class _Line:
    """What is known of one stream's periods."""

    def __init__(self, config: StreamConfig, schedule: Schedule) -> None:
        self.schedule = schedule
        self.phase = crc32(f"{config.service} {config.stream}".encode())
        self.records: dict[int, PeriodRecord] = {}  # by start, oldest first
        self.open: dict[int, None] = {}  # those that are not at the edge, nor over
        self.row_of: dict[int, int] = {}  # start -> the first start of its row
        self.rows: dict[int, dict[int, None]] = {}  # what of a row is still needed
        self.changed: dict[int, None] = {}  # rows that this input has changed
        self.begun: int | None = None  # the row that this input has begun
        self.prune_at: float | None = None
        self.full: tuple[int, int] | None = None  # from when to when nothing has to be prepared
        self.coming: tuple[int, int] | None = None  # the same, when what is missing is prepared
        self.strange: list[tuple[int, int]] = []  # (start, end) of what the edge has that is not known here
        self.last: int | None = None  # start of the last period there was, past its end: an edge that lost it is told it again
        self.changed_ends: set[int] = set()  # periods at the edge that end at another time now

    @property
    def strange_end(self) -> int:
        return max((end for _, end in self.strange), default=0)

    def put(self, *records: PeriodRecord) -> None:
        for record in records:
            start = record.period.start
            if start not in self.records and self.records and start < next(reversed(self.records)):
                self.records = dict(sorted({**self.records, start: record}.items()))
            self.records[start] = record
            if record.state in OPEN:
                self.open[start] = None
            else:
                self.open.pop(start, None)

    def keep(self, start: int) -> None:
        """The row of a period is written at the end of this input."""
        first = self.row_of.get(start)
        if first is None:
            if self.begun is None:
                self.begun = start
            first = self.row_of[start] = self.begun
            self.rows.setdefault(first, {})[start] = None
        self.changed[first] = None

    def forget(self, start: int) -> int:
        """A period is needed no more; gives its row."""
        first = self.row_of.pop(start)
        del self.records[start], self.rows[first][start]
        self.open.pop(start, None)
        return first


class Periods:
    """Periods, boundaries and keys of every stream, in the BSD/A's journal.  :meth:`flush` is called at the end of every input."""

    def __init__(self, journal: Journal, allocator: Allocator, streams: Iterable[StreamConfig]) -> None:
        self._journal = journal
        self._allocator = allocator
        self.rings = stkm.Rings()
        self._lines: dict[Key, _Line] = {}
        self._changed: dict[Key, None] = {}
        for config in streams:
            saved = journal.get("schedule", config.key, tuple) or ()
            schedule = Schedule(config.start, config.period, [s for s in saved if isinstance(s, Segment)])
            self._lines[config.key] = _Line(config, schedule)
        for (service, stream, first), block in journal.rows("period", PeriodBlock).items():
            assert isinstance(service, str) and isinstance(stream, int) and isinstance(first, int)
            line = self._lines.get((service, stream))
            for record in block.records if line is not None else ():
                assert line is not None
                line.put(record)
                line.row_of[record.period.start] = first
                line.rows.setdefault(first, {})[record.period.start] = None

    def at(self, config: StreamConfig, time: float) -> Period | None:
        """The period that contains ``time``."""
        return self._lines[config.key].schedule.at(time)

    def config_at(self, config: StreamConfig, period: Period) -> StreamConfig:
        """The stream as it is in a period: the lifetime in a STKM is that of the period's own segment (R45), so that both headends
        of a pair, and one that seals again, make the same STKM whenever they hear of a new length.
        """
        length = self.length_at(config, period)
        return config if length == config.period else replace(config, period=length)

    def length_at(self, config: StreamConfig, period: Period) -> int:
        """The length that the periods of a period's segment have."""
        return self._lines[config.key].schedule.length_at(period.start)

    def records(self, config: StreamConfig) -> tuple[PeriodRecord, ...]:
        """The periods of a stream, oldest first."""
        return tuple(self._lines[config.key].records.values())

    def record(self, config: StreamConfig, start: int) -> PeriodRecord | None:
        """The period that begins at ``start``."""
        return self._lines[config.key].records.get(start)

    def keyed(self, config: StreamConfig) -> list[PeriodRecord]:
        """The periods that wait for their STKM, oldest first."""
        line = self._lines[config.key]
        return [record for start in sorted(line.open) if (record := line.records[start]).state is PeriodState.KEYED]

    def put(self, config: StreamConfig, *records: PeriodRecord) -> None:
        """Keep periods as they are now."""
        if not records:
            return
        self.note(config, *records)
        line = self._lines[config.key]
        for record in records:
            line.keep(record.period.start)
        self._changed[config.key] = None

    def note(self, config: StreamConfig, *records: PeriodRecord) -> None:
        """What periods are now, for this life of the process: a restart finds it out by itself."""
        self._lines[config.key].put(*records)

    def drop(self, config: StreamConfig, start: int) -> None:
        """Forget a period."""
        line = self._lines[config.key]
        line.changed[line.forget(start)] = None
        line.full = None
        self._changed[config.key] = None

    def lose(self, config: StreamConfig) -> None:
        """Forget every period and key of a stream, and the boundaries that keys made: nothing that was made before is used again,
        whoever seals now (R33, R50).
        """
        for record in self.records(config):
            self.drop(config, record.period.start)
        self._journal.drop("cut", config.key)
        keys = self.keys(config)
        for key in keys:
            self._journal.drop("key", (*config.key, key.key_type, key.key_id))
        for edge in sorted({edge for key in keys for edge in (key.valid_from, key.valid_to)}):
            self.join(config, edge)

    def flush(self) -> None:
        """Keep what this input has changed."""
        changed, self._changed = self._changed, {}
        for key in changed:
            line = self._lines[key]
            rows, line.changed, line.begun = line.changed, {}, None
            for first in rows:
                starts = line.rows[first]
                if starts:
                    self._journal.put("period", (*key, first), PeriodBlock(tuple(line.records[start] for start in sorted(starts))))
                else:
                    del line.rows[first]
                    self._journal.drop("period", (*key, first))

    def fire(self, config: StreamConfig, record: PeriodRecord, event: PeriodEvent, **changes: object) -> PeriodRecord:
        """A period takes a step of its table; ``changes``: fields that change with it."""
        return self.fire_all(config, [record], event, [changes])[0]

    def fire_all(
        self, config: StreamConfig, records: Sequence[PeriodRecord], event: PeriodEvent, changes: Iterable[Fields] = ()
    ) -> list[PeriodRecord]:
        """Periods take the same step together; ``changes``: for each, the fields that change with it."""
        before = after = None
        taken = []
        for record, fields in itertools.zip_longest(records, changes, fillvalue=_NO_FIELDS):
            assert isinstance(record, PeriodRecord)
            if record.state is not before:
                before = record.state
                after = step(PERIOD, before, event)
            taken.append(record.but(**fields, state=after))
        (self.note if event in _UNSTORED else self.put)(config, *taken)
        return taken

    def _horizon(self, config: StreamConfig) -> int:
        """End of the last period that has been prepared."""
        records = reversed(self._lines[config.key].records.values())
        return next((r.period.end for r in records if r.state is not PeriodState.PLANNED), config.start)

    def cut(self, config: StreamConfig, at: int, length: int | None = None, *, rights: bool = False) -> int:
        """A boundary of periods; with ``rights`` the end of authority of what lies before it (R9)."""
        schedule = self._lines[config.key].schedule
        before = schedule.segments
        held = schedule.cut(at, self._horizon(config), length)
        if schedule.segments != before:
            self._changed_schedule(config)
        if rights:
            self._journal.put("boundary", (*config.key, held), True)
        return held

    def missing(self, config: StreamConfig, now: float) -> list[Period]:
        """What of :meth:`upcoming` is not prepared."""
        line = self._lines[config.key]
        if line.full is not None and line.full[0] <= now < line.full[1]:
            return []
        upcoming = list(self.upcoming(config, now))
        first = line.strange_end
        missing = [period for period in upcoming if period.start >= first and period.start not in line.records]
        line.coming = upcoming[0].start, upcoming[-1 - config.look_ahead].end
        if not missing:
            self.complete(config)
        return missing

    def complete(self, config: StreamConfig) -> None:
        """What was missing is prepared."""
        line = self._lines[config.key]
        line.full = line.coming

    def upcoming(self, config: StreamConfig, now: float) -> Iterator[Period]:
        """The running period, ``look_ahead`` more, and those that are prepared together with the last of them.

        Where batches begin differs from stream to stream: a server of many prepares some in each period, not all in one.
        """
        line = self._lines[config.key]
        periods = line.schedule.walk(now)
        period, n = next(periods), 0
        while n <= config.look_ahead or (period.index + line.phase) % config.batch:
            yield period
            period, n = next(periods), n + 1

    def catch_up(self, config: StreamConfig) -> None:
        """The periods of the configuration were changed while this BSD/A was dead: they hold from where it says (R5).

        An older configuration, of before a change that is known here, changes nothing; nor does one whose change came later here.
        """
        schedule = self._lines[config.key].schedule
        there = schedule.at(config.start)
        known = any(s.start >= config.start and s.length == config.period for s in schedule.segments)
        if there is not None and not known and (there.start, schedule.length_at(config.start)) != (config.start, config.period):
            self.cut(config, config.start, config.period)
        if self._journal.get("schedule", config.key, tuple) is None:  # what the configuration says next time may begin later
            self._journal.put("schedule", config.key, schedule.segments)

    def clock_back(self, config: StreamConfig, now: float) -> None:
        """Give up periods that nobody would have prepared yet: the clock was put back, and their time must not come twice (R5).

        The encoder holds its key until there is a new one; keys of that time (F4) are not used again, their floor stays (R1).
        """
        records = [r for r in self.records(config) if r.period.start > now]
        if now < config.start or not any(r.period.start > now + (config.ahead + 2) * config.period for r in records):
            return
        for record in records:
            for _, identity in record.key_ids if record.state in NOT_ON_AIR else ():
                self._allocator.burn(identity, record.period.start)
            self.drop(config, record.period.start)
        for name, key in self._journal.select("key", config.key, KeyMaterial).items():
            if key.valid_from > now:
                self._journal.drop("key", name)
                self.rings.forget(key)
        self._lines[config.key].schedule = Schedule(config.start, config.period)
        self._changed_schedule(config)
        self._journal.emit(Alarm("clock-back", *config.key, "periods of a time to come are given up"))

    def authority(self, config: StreamConfig) -> Callable[[Period, Iterable[int]], int | None]:
        """The end of the right under which a period's key is used (R9), of the period and the ends of its keys."""
        boundaries = [at for (_, _, at) in self._journal.select("boundary", config.key, bool) if isinstance(at, int)]

        def end(period: Period, ends: Iterable[int]) -> int | None:
            if not boundaries:
                return min(ends, default=None)
            return min([*ends, *(at for at in boundaries if at >= period.end)], default=None)

        return end

    # --- keys ----------------------------------------------------------------------------------------------------------

    def keys(self, config: StreamConfig) -> list[KeyMaterial]:
        """What the BSM has delivered and has not ended long ago (F4)."""
        return list(self._journal.select("key", config.key, KeyMaterial).values())

    def cover(self, config: StreamConfig) -> Cover:
        """The keys as they are when they are needed first."""
        return Cover(config, lambda: (self.keys(config), self.cut_of(config).at))

    def cut_of(self, config: StreamConfig) -> Cut:
        """What was confirmed to the BSM and is not over (R50)."""
        return self._journal.get("cut", config.key, Cut) or Cut()

    def end_keys(self, config: StreamConfig) -> None:
        """What comes after keys that were cut short is here: they end where that was confirmed first (R50).

        What was given back is dropped; its COUNTERs are burnt.
        """
        cut = self.cut_of(config)
        if not cut.starts:
            return
        end, over = min(start for _, start in cut.starts), max(cut.over, *(number for number, _ in cut.starts))
        self._journal.put("cut", config.key, cut.but(starts=(), over=over))
        ended = [k for k in self.keys(config) if k.key_type != "PEAK" and k.valid_from < end < k.valid_to]
        for key in ended:
            self._journal.put("key", (*config.key, key.key_type, key.key_id), replace(key, valid_to=end))
        for record in self.records(config):
            if record.state is PeriodState.ASIDE:
                self._take_back(config, record)
        for key in ended:
            self.join(config, key.valid_to)

    def _begin_programme(self, config: StreamConfig, key: KeyMaterial) -> None:
        """The key of a programme is here: what waits for it goes on; what waits for another waits till this one at most (R50)."""
        cut, waiting = self.cut_of(config), []
        over = cut.over
        for number, start, end in cut.programmes:
            if key.valid_from <= start < key.valid_to:
                over = max(over, number)
            else:
                waiting.append((number, start, min(end, key.valid_from) if start < key.valid_from else end))
        if cut.programmes:
            self._journal.put("cut", config.key, cut.but(programmes=tuple(waiting), over=over))

    def _rivals(self, config: StreamConfig, key: KeyMaterial) -> list[KeyMaterial]:
        """The keys of its kind that are valid at some time when ``key`` is."""
        return [
            other for other in self.keys(config)
            if other.key_type == key.key_type and other.valid_from < key.valid_to and key.valid_from < other.valid_to
        ]  # fmt: skip

    def ends_another(self, config: StreamConfig, key: KeyMaterial) -> bool:
        """Whether a key of the service takes the time of one that was made before it."""
        return key.key_type != "PEAK" and any(
            other.valid_from < key.valid_from and later_key(key.key_id, other.key_id) for other in self._rivals(config, key)
        )

    def check_key(self, config: StreamConfig, key: KeyMaterial, replacing: bool, now: float) -> bool:
        """Whether a delivered key is new; ``PeerFlowError`` when it cannot be taken."""
        if key.valid_to <= now:
            raise PeerFlowError(Status.INFORMATION_INVALID, "the key has expired")
        held = self._journal.get("key", (*config.key, key.key_type, key.key_id), KeyMaterial)
        if held is not None:
            if replace(held, valid_to=key.valid_to) != key:
                raise PeerFlowError(Status.ALREADY_IN_USE, "another key has this id")
            return False
        later = [r for r in self.records(config) if key.valid_from <= r.period.start < key.valid_to and r.state not in FINAL]
        rivals = self._rivals(config, key)
        if replacing:
            # Messages overtake each other, and a BSM that was put back to a copy has some on their way that it knows nothing of:
            # the headends of a pair end with the same key, the one made last.
            if any(later_key(other.key_id, key.key_id) for other in rivals):
                raise PeerFlowError(Status.ALREADY_IN_USE, "a key that was made later has its time (R33)")
            # One that is on air stays, and a key for a time to come is refused for it (R10).  A key that comes when its time has
            # begun is taken all the same: the other headend may use it already, and what is not on air yet can still follow.
            if key.valid_from > now and any(r.state not in NOT_ON_AIR for r in later):
                raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R10)")
            return True
        if later or self._horizon(config) > key.valid_from > now:
            raise PeerFlowError(Status.INFORMATION_INVALID, "validFrom lies in what is already prepared (R33)")
        # A BSM that was put back to a copy forgets a programme, and is told of it again: the key made last takes its place.
        if any(key.key_type != "PEAK" or later_key(other.key_id, key.key_id) for other in rivals):
            raise PeerFlowError(Status.INFORMATION_INVALID, "the validity overlaps another key's (R33)")
        return True

    def install_key(self, config: StreamConfig, key: KeyMaterial, replacing: bool, now: float) -> None:
        """Take a key that was checked: it ends what overlaps it, and periods begin and end where it does (R9, R33)."""
        if replacing:
            self.end_keys(config)
        if key.key_type == "PEAK":
            self._begin_programme(config, key)
        for other in self._rivals(config, key):
            name = (*config.key, other.key_type, other.key_id)
            if other.valid_from < key.valid_from:
                self._journal.put("key", name, replace(other, valid_to=key.valid_from))
            else:  # a BSM restored from an older copy does not know of it any more (R2)
                self._journal.drop("key", name)
            self.join(config, other.valid_to)
        self._journal.put("key", (*config.key, key.key_type, key.key_id), key)
        if replacing:
            self.unprepare(config, key.valid_from)
            self.shorten(config, key.valid_from)
        for edge in (key.valid_from, key.valid_to):
            if edge > now:
                self.cut(config, edge)
        if replacing:
            self.end_authority(config, max(key.valid_from, self._horizon(config)), now)
        if key.valid_from <= now:  # it came late: as soon as can be, periods begin where the other headend's do (R33)
            late = max(0, self._horizon(config) - key.valid_from)
            self.cut(config, key.valid_from + -(-late // config.period) * config.period)

    def past(self, config: StreamConfig, at: int) -> bool:
        """Whether what is prepared here, or what the edge has, reaches past ``at``."""
        return max(self._horizon(config), self._lines[config.key].strange_end) > at

    def ahead_of(self, config: StreamConfig, at: int) -> bool:
        """Whether periods are prepared up to ``at`` at most, and none begins there yet."""
        there = self.at(config, at)
        return self._horizon(config) <= at and there is not None and there.start != at

    def join(self, config: StreamConfig, at: int) -> None:
        """The end of a key that ends earlier now is no boundary any more, if it is none for another reason: a headend that never
        heard of it must agree on the periods (R33).
        """
        edges = {e for key in self.keys(config) for e in (key.valid_from, key.valid_to)}
        if at not in edges and self._journal.get("boundary", (*config.key, at), bool) is None:
            self._lines[config.key].schedule.join(at, self._horizon(config))
            self._changed_schedule(config)

    def _changed_schedule(self, config: StreamConfig) -> None:
        self._lines[config.key].full = None
        self._journal.put("schedule", config.key, self._lines[config.key].schedule.segments)

    def unprepare(self, config: StreamConfig, start: int) -> None:
        """R10: what is prepared from ``start`` on and not on air is taken back; its COUNTERs are burnt."""
        for record in self.records(config):
            if record.period.start >= start and record.state in NOT_ON_AIR:
                self._take_back(config, record)

    def _take_back(self, config: StreamConfig, record: PeriodRecord) -> None:
        for _, identity in record.key_ids:
            self._allocator.burn(identity, record.period.start)
        self.fire(config, record, PeriodEvent.REPLACED)
        self.drop(config, record.period.start)

    def shorten(self, config: StreamConfig, at: int) -> None:
        """The period that runs when a key begins at once ends there: its STKM says nothing of its end, so it stays as it is."""
        for record in self.records(config):
            if record.period.start < at < record.period.end:
                self.put(config, record.but(period=replace(record.period, end=at)))
                if record.state is PeriodState.HANDED:
                    self._lines[config.key].changed_ends.add(record.period.start)

    def end_authority(self, config: StreamConfig, at: int, now: float) -> None:
        """Keys end at ``at`` now, so the authority of what lies before it does (R9), also at the edge (R46)."""
        for record in reversed(self.records(config)):
            ends, handed = record.authority_end, record.state is PeriodState.HANDED
            if ends is not None and record.period.start < at < ends and (handed or record.state is PeriodState.SEALED):
                self.put(config, record.but(authority_end=at))
                if handed:
                    self._lines[config.key].changed_ends.add(record.period.start)
            if handed and record.period.start <= now:
                return  # what came before it is not at the edge any more

    # --- the edge ------------------------------------------------------------------------------------------------------

    def hand_out(self, config: StreamConfig, now: float) -> Plan | None:
        """What is sealed goes to the edge, and its COUNTERs count as sent (R45)."""
        line = self._lines[config.key]
        last, line.last = line.last, None
        changed, line.changed_ends = line.changed_ends, set()
        if not line.open and not changed:
            return None
        sealed = [line.records[start] for start in sorted(line.open) if line.records[start].state is PeriodState.SEALED]
        sealed = [record for record in sealed if now < record.period.end or record.period.start == last]
        again = [r for start in changed if (r := line.records.get(start)) is not None and r.state is PeriodState.HANDED]
        for identity, start in {identity: record.period.start for record in sealed for _, identity in record.key_ids}.items():
            self._allocator.sent(identity, start)  # the last one: all below it count as sent too
        planned = self.fire_all(config, sealed, PeriodEvent.HAND_OUT)
        if again:
            planned = sorted([*again, *planned], key=lambda record: record.period.start)
        if not planned:
            return None
        return Plan(
            *config.key, config.protocol, config.repetition, tuple(self._planned(config, planned)), config.hold_through,
            min(SHORT, config.look_ahead),
        )  # fmt: skip

    def lead(self, config: StreamConfig, period: Period) -> float:
        """When the STKMs of a period go on air (R6)."""
        before = self._lines[config.key].schedule.at(period.start - 1) or period
        return lead(period.start, before.duration)

    def _planned(self, config: StreamConfig, records: Iterable[PeriodRecord]) -> Iterator[PlannedPeriod]:
        schedule, before = self._lines[config.key].schedule, None
        for record in records:
            period, key = record.period, record.key
            if before is None or (before.index + 1, before.end) != (period.index, period.start):
                before = schedule.at(period.start - 1) or period
            yield PlannedPeriod(
                period.start, period.end, lead(period.start, before.duration), record.stkms, record.traffic_id, key.tek, key.salt,
                stkm.auth_key(config, key, record.csb_id), record.authority_end,
            )  # fmt: skip
            before = period

    def handed(self, config: StreamConfig, start: int) -> bool:
        """Whether the edge has periods from ``start`` on."""
        known = any(r.state is PeriodState.HANDED for r in self.records(config) if r.period.start >= start)
        return known or self.strange(config, start)

    def strange(self, config: StreamConfig, start: int) -> bool:
        """Whether the edge has periods from ``start`` on that are not known here."""
        return any(begin >= start for begin, _ in self._lines[config.key].strange)

    def wait(self, config: StreamConfig, start: int) -> None:
        """Nothing is prepared before the edge has given back what is not known here from ``start`` on, or has spoken anew."""
        line = self._lines[config.key]
        line.strange.append((start, 1 << 62))
        line.full = None

    def leave(self, config: StreamConfig, periods: Iterable[tuple[int, int]]) -> None:
        """What the edge has and is not known here, (start, end) each, has its time: nothing is prepared beside it."""
        line = self._lines[config.key]
        line.strange, line.full = [*periods], None
        for record in self.records(config):
            if record.state in OPEN and record.period.start < line.strange_end:
                self.fire(config, record, PeriodEvent.MISS)

    def reconcile(self, config: StreamConfig, held: Held | None, now: float) -> bool:
        """What the edge has is handed out, and what it has not is not; whether it has something that is not known here (R44).

        An edge that starts empty is told the last period again, even one that has ended, when there is no other: its STKM goes on
        air, for who tunes in.
        """
        self.leave(config, ())
        there = {p.start: p for p in held.periods} if held is not None else {}
        used = None if held is None else held.used
        begun = [r for r in self.records(config) if r.state is PeriodState.HANDED and r.period.start <= now]
        if used is None and begun and begun[-1].period.end <= now and not self._ended(config, begun[-1], now):
            self._lines[config.key].last = begun[-1].period.start
        for record in self.records(config):
            start = record.period.start
            period = there.get(start)
            if record.state is PeriodState.SEALED and _same(record, period):
                record = self.fire(config, record, PeriodEvent.HAND_OUT)
            elif record.state is PeriodState.HANDED and start not in there:
                over = start <= used if used is not None else record.period.end <= now and start != self._lines[config.key].last
                self.fire(config, record, PeriodEvent.PASS if over else PeriodEvent.GIVEN_BACK)
            if period is not None and _same(record, period):
                stops = None if config.hold_through else record.authority_end
                if (period.end, period.stops) != (record.period.end, stops):
                    self._lines[config.key].changed_ends.add(start)
        return any(not _same(self.record(config, start), period) for start, period in there.items())

    def _ended(self, config: StreamConfig, record: PeriodRecord, now: float) -> bool:
        """Whether the right under which its key is used is over (R9)."""
        return record.authority_end is not None and now >= record.authority_end and not config.hold_through

    def _given_back(self, config: StreamConfig, starts: Iterable[int]) -> None:
        given = [r for start in starts if (r := self.record(config, start)) is not None and r.state is PeriodState.HANDED]
        for record in given:
            self.fire(config, record, PeriodEvent.GIVEN_BACK)
        for identity in {identity for record in given for _, identity in record.key_ids}:
            self._allocator.take_back(identity, [r.period.start for r in given if identity in dict(r.key_ids).values()])

    def refused(self, config: StreamConfig, refused: PlanRefused) -> None:
        """The edge took nothing of a plan (R45).  Where it does not know the stream, it is told again when it comes anew."""
        if refused.unknown:
            self._given_back(config, refused.starts)
            return
        for start in refused.starts:
            record = self.record(config, start)
            if record is not None and record.state is PeriodState.HANDED:
                self.fire(config, record, PeriodEvent.REFUSED)

    def recalled(self, config: StreamConfig, recalled: Recalled) -> None:
        """What the edge gave back may be replaced; what stays and is not known here has its time (R46)."""
        self._given_back(config, recalled.given)
        strange = [(start, end) for start, end in self._lines[config.key].strange if start < recalled.at]
        for start, end in recalled.stay:
            known = self.record(config, start)
            if known is None or known.state is not PeriodState.HANDED:
                strange.append((start, end))
        self.leave(config, strange)

    def pass_over(self, config: StreamConfig, now: float) -> None:
        """Give up what was not sealed in time; what the edge has is over when a later period of it has begun."""
        line = self._lines[config.key]
        missed = [line.records[start] for start in line.open if line.records[start].period.end <= now]
        if missed:
            self.fire_all(config, missed, PeriodEvent.MISS)
        begun = []
        for record in line.records.values():
            if record.period.start > now:
                break
            if record.state is PeriodState.HANDED:
                begun.append(record)
        if len(begun) > 1:
            self.fire_all(config, [record for record in begun[:-1] if record.period.end <= now], PeriodEvent.PASS)

    def next_work(self, config: StreamConfig, now: float) -> float:
        """When periods have to be prepared or given up."""
        line = self._lines[config.key]
        if self.missing(config, now):  # with the next period there may be what they need
            period = self.at(config, now)
            due = float(config.start) if period is None else period.end
        else:
            assert line.full is not None
            due = line.full[1]
        ends = (line.records[start].period.end for start in line.open)
        return min([due, *(end for end in ends if end > now)])

    def prune(self, config: StreamConfig, now: float) -> None:
        """Forget what has ended (R41), once in the time of a batch."""
        line = self._lines[config.key]
        due = now if line.prune_at is None else line.prune_at
        if due - config.batch * config.period <= now < due:
            return
        line.prune_at = now + config.batch * config.period
        over = []
        for record in line.records.values():
            if record.state not in FINAL or record.period.end + record.period.duration >= now:
                break
            over.append(record.period.start)
        for start in over:
            first = line.forget(start)
            if not line.rows[first]:  # a row goes with the last one of it
                line.changed[first] = None
                self._changed[config.key] = None
        for key in self.keys(config):
            if key.valid_to + KEY_KEPT < now:
                self._journal.drop("key", (*config.key, key.key_type, key.key_id))
                self._allocator.forget(stkm.key_identity(config, key))
                self.rings.forget(key)
            elif key.valid_from <= now and self._journal.get("before", config.key, str) is not None:
                self._journal.drop("before", config.key)
        for name in self._journal.select("boundary", config.key, bool):
            if isinstance(name[2], int) and name[2] + BOUNDARY_KEPT < now:
                self._journal.drop("boundary", name)
        line.schedule.forget(min([now, *itertools.islice(line.records, 1)]) - config.period)


def _same(record: PeriodRecord | None, held: HeldPeriod | None) -> bool:
    """Whether the edge has this period, with these STKMs."""
    return record is not None and held is not None and tuple(mark(s.data) for s in record.stkms) == held.marks
