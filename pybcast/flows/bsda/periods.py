# SPDX-License-Identifier: Apache-2.0
"""The crypto periods of one stream of a BSD/A: which there are, and how far each is.

One period is one record that walks through ``tables.PERIOD``.  How it is sealed is ``here``'s and ``bybsm``'s, what of it the edge
has is ``handing``'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from zlib import crc32

from pybcast.flows.events import AirStkm
from pybcast.flows.journal import Journal, Table
from pybcast.flows.peers.messages import Profile
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period, Schedule, Segment, lead
from pybcast.flows.stream.stkm import TrafficKey
from pybcast.flows.tables import PERIOD, PeriodEvent, PeriodState, step

FINAL: Final = frozenset({PeriodState.OVER, PeriodState.MISSED})
NOT_ON_AIR: Final = frozenset({PeriodState.KEYED, PeriodState.SEALED, PeriodState.ASIDE})
OPEN: Final = frozenset({PeriodState.PLANNED, *NOT_ON_AIR})
"""Periods that are not at the edge."""
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


PERIODS: Final = Table("period", PeriodBlock, "service stream first")
SCHEDULE: Final = Table("schedule", tuple)
BOUNDARIES: Final = Table("boundary", bool, "service stream at")

Fields = dict[str, Any]
_NO_FIELDS: Final[Fields] = {}


class Periods:
    """The periods of one stream, in the BSD/A's journal.

    ``unsaved``: where a stream puts itself whose rows are to be written; :meth:`save` writes them at the end of the input.
    """

    def __init__(self, config: StreamConfig, journal: Journal, allocator: Allocator, unsaved: dict[Periods, None]) -> None:
        self.config = config
        self._allocator, self._unsaved = allocator, unsaved
        self._blocks, self._schedules, self._boundaries = (
            journal.open(PERIODS), journal.open(SCHEDULE), journal.open(BOUNDARIES),
        )  # fmt: skip
        saved = self._schedules.get(config.id) or ()
        self._schedule = Schedule(config.start, config.period, [s for s in saved if isinstance(s, Segment)])
        self._phase = crc32(f"{config.service} {config.stream}".encode())
        self._records: dict[int, PeriodRecord] = {}  # by start, oldest first
        self._open: dict[int, None] = {}  # those that are not at the edge, nor over
        self._row_of: dict[int, int] = {}  # start -> the first start of its row
        self._rows: dict[int, dict[int, None]] = {}  # what of a row is still needed
        self._changed: dict[int, None] = {}  # rows that this input has changed
        self._begun: int | None = None  # the row that this input has begun
        self._prune_at: float | None = None
        self._full: tuple[int, int] | None = None  # from when to when nothing has to be prepared
        self._coming: tuple[int, int] | None = None  # the same, when what is missing is prepared
        self._strange: list[tuple[int, int]] = []
        self.retimed: set[int] = set()
        """Periods at the edge that end at another time now."""
        for (_, _, first), block in self._blocks.under(config.id).items():
            assert isinstance(first, int)
            self.note(*block.records)
            for record in block.records:
                self._row_of[record.period.start] = first
                self._rows.setdefault(first, {})[record.period.start] = None

    # --- which there are ----------------------------------------------------------------------------------------------

    def at(self, time: float) -> Period | None:
        """The period that contains ``time``."""
        return self._schedule.at(time)

    def length_at(self, period: Period) -> int:
        """The length that the periods of a period's segment have."""
        return self._schedule.length_at(period.start)

    def config_at(self, period: Period) -> StreamConfig:
        """The stream as it is in a period: the lifetime in a STKM is that of the period's own segment (R45), so that both headends
        of a pair, and one that seals again, make the same STKM whenever they hear of a new length.
        """
        length = self.length_at(period)
        return self.config if length == self.config.period else replace(self.config, period=length)

    def lead(self, period: Period) -> float:
        """When the STKMs of a period go on air (R6)."""
        before = self._schedule.at(period.start - 1) or period
        return lead(period.start, before.duration)

    def leads(self, records: Iterable[PeriodRecord]) -> Iterator[tuple[PeriodRecord, float]]:
        """The same of some, in the order of their time: each with its lead."""
        before: Period | None = None
        for record in records:
            period = record.period
            if before is None or (before.index + 1, before.end) != (period.index, period.start):
                before = self._schedule.at(period.start - 1) or period
            yield record, lead(period.start, before.duration)
            before = period

    @property
    def records(self) -> tuple[PeriodRecord, ...]:
        """All that are known, oldest first."""
        return tuple(self._records.values())

    def record(self, start: int) -> PeriodRecord | None:
        """The one that begins at ``start``."""
        return self._records.get(start)

    def waiting(self, *states: PeriodState) -> list[PeriodRecord]:
        """Those that are not at the edge and are in one of these states, oldest first."""
        return [record for start in sorted(self._open) if (record := self._records[start]).state in states]

    @property
    def horizon(self) -> int:
        """End of the last period that has been prepared."""
        records = reversed(self._records.values())
        return next((r.period.end for r in records if r.state is not PeriodState.PLANNED), self.config.start)

    def missing(self, now: float) -> list[Period]:
        """What of :meth:`upcoming` is not prepared."""
        if self._full is not None and self._full[0] <= now < self._full[1]:
            return []
        upcoming = list(self.upcoming(now))
        first = self.strange_end
        missing = [period for period in upcoming if period.start >= first and period.start not in self._records]
        self._coming = upcoming[0].start, upcoming[-1 - self.config.look_ahead].end
        if not missing:
            self.complete()
        return missing

    def complete(self) -> None:
        """What was missing is prepared."""
        self._full = self._coming

    def upcoming(self, now: float) -> Iterator[Period]:
        """The running period, ``look_ahead`` more, and those that are prepared together with the last of them.

        Where batches begin differs from stream to stream: a server of many prepares some in each period, not all in one.
        """
        periods = self._schedule.walk(now)
        period, n = next(periods), 0
        while n <= self.config.look_ahead or (period.index + self._phase) % self.config.batch:
            yield period
            period, n = next(periods), n + 1

    def next_work(self, now: float) -> float:
        """When periods have to be prepared or given up."""
        if self.missing(now):  # with the next period there may be what they need
            period = self.at(now)
            due = float(self.config.start) if period is None else period.end
        else:
            assert self._full is not None
            due = self._full[1]
        ends = (self._records[start].period.end for start in self._open)
        return min([due, *(end for end in ends if end > now)])

    # --- where they begin and end -------------------------------------------------------------------------------------

    def cut(self, at: int, length: int | None = None, *, rights: bool = False) -> int:
        """A boundary of periods; with ``rights`` the end of authority of what lies before it (R9)."""
        before = self._schedule.segments
        held = self._schedule.cut(at, self.horizon, length)
        if self._schedule.segments != before:
            self._changed_schedule()
        if rights:
            self._boundaries.put((*self.config.id, held), True)
        return held

    def join(self, at: int) -> None:
        """``at`` is no boundary any more, if it is none for a right."""
        if self._boundaries.get((*self.config.id, at)) is None:
            self._schedule.join(at, self.horizon)
            self._changed_schedule()

    def _changed_schedule(self) -> None:
        self._full = None
        self._schedules.put(self.config.id, self._schedule.segments)

    def catch_up(self) -> None:
        """The periods of the configuration were changed while this BSD/A was dead: they hold from where it says (R5).

        An older configuration, of before a change that is known here, changes nothing; nor does one whose change came later here.
        """
        config, schedule = self.config, self._schedule
        there = schedule.at(config.start)
        known = any(s.start >= config.start and s.length == config.period for s in schedule.segments)
        if there is not None and not known and (there.start, schedule.length_at(config.start)) != (config.start, config.period):
            self.cut(config.start, config.period)
        if self._schedules.get(config.id) is None:  # what the configuration says next time may begin later
            self._schedules.put(config.id, schedule.segments)

    def clock_back(self, now: float) -> bool:
        """Give up periods that nobody would have prepared yet: the clock was put back, and their time must not come twice (R5).
        Whether there were any.

        The encoder holds its key until there is a new one; keys of that time (F4) are not used again, their floor stays (R1).
        """
        config = self.config
        records = [r for r in self.records if r.period.start > now]
        if now < config.start or not any(r.period.start > now + (config.ahead + 2) * config.period for r in records):
            return False
        for record in records:
            if record.state in NOT_ON_AIR:
                self._burn(record)
            self.drop(record.period.start)
        self._schedule = Schedule(config.start, config.period)
        self._changed_schedule()
        return True

    def ahead_of(self, at: int) -> bool:
        """Whether periods are prepared up to ``at`` at most, and none begins there yet."""
        there = self.at(at)
        return self.horizon <= at and there is not None and there.start != at

    def authority(self) -> Callable[[Period, Iterable[int]], int | None]:
        """The end of the right under which a period's key is used (R9), of the period and the ends of its keys."""
        boundaries = [at for (_, _, at) in self._boundaries.under(self.config.id) if isinstance(at, int)]

        def end(period: Period, ends: Iterable[int]) -> int | None:
            if not boundaries:
                return min(ends, default=None)
            return min([*ends, *(at for at in boundaries if at >= period.end)], default=None)

        return end

    def shorten(self, at: int) -> None:
        """The period that runs when a key begins at once ends there: its STKM says nothing of its end, so it stays as it is."""
        for record in self.records:
            if record.period.start < at < record.period.end:
                self.put(record.but(period=replace(record.period, end=at)))
                if record.state is PeriodState.HANDED:
                    self.retimed.add(record.period.start)

    def end_authority(self, at: int, now: float) -> None:
        """Keys end at ``at`` now, so the authority of what lies before it does (R9), also at the edge (R46)."""
        for record in reversed(self.records):
            ends, handed = record.authority_end, record.state is PeriodState.HANDED
            if ends is not None and record.period.start < at < ends and (handed or record.state is PeriodState.SEALED):
                self.put(record.but(authority_end=at))
                if handed:
                    self.retimed.add(record.period.start)
            if handed and record.period.start <= now:
                return  # what came before it is not at the edge any more

    # --- how far they are ---------------------------------------------------------------------------------------------

    def put(self, *records: PeriodRecord) -> None:
        """Keep periods as they are now."""
        if not records:
            return
        self.note(*records)
        for record in records:  # the row of each is written at the end of this input
            start = record.period.start
            first = self._row_of.get(start)
            if first is None:
                if self._begun is None:
                    self._begun = start
                first = self._row_of[start] = self._begun
                self._rows.setdefault(first, {})[start] = None
            self._changed[first] = None
        self._unsaved[self] = None

    def note(self, *records: PeriodRecord) -> None:
        """What periods are now, for this life of the process: a restart finds it out by itself."""
        for record in records:
            start = record.period.start
            if start not in self._records and self._records and start < next(reversed(self._records)):
                self._records = dict(sorted({**self._records, start: record}.items()))
            self._records[start] = record
            if record.state in OPEN:
                self._open[start] = None
            else:
                self._open.pop(start, None)

    def drop(self, start: int) -> None:
        """Forget a period."""
        self._changed[self._forget(start)] = None
        self._full = None
        self._unsaved[self] = None

    def _forget(self, start: int) -> int:
        """A period is needed no more; gives its row."""
        first = self._row_of.pop(start)
        del self._records[start], self._rows[first][start]
        self._open.pop(start, None)
        return first

    def save(self) -> None:
        """Write what this input has changed."""
        changed, self._changed, self._begun = self._changed, {}, None
        for first in changed:
            name, starts = (*self.config.id, first), self._rows[first]
            if starts:
                self._blocks.put(name, PeriodBlock(tuple(self._records[start] for start in sorted(starts))))
            else:
                del self._rows[first]
                self._blocks.drop(name)

    def fire(self, record: PeriodRecord, event: PeriodEvent, **changes: object) -> PeriodRecord:
        """A period takes a step of its table; ``changes``: fields that change with it."""
        return self.fire_all([record], event, [changes])[0]

    def fire_all(self, records: Sequence[PeriodRecord], event: PeriodEvent, changes: Iterable[Fields] = ()) -> list[PeriodRecord]:
        """Periods take the same step together; ``changes``: for each, the fields that change with it."""
        before = after = None
        taken = []
        for record, fields in itertools.zip_longest(records, changes, fillvalue=_NO_FIELDS):
            assert isinstance(record, PeriodRecord)
            if record.state is not before:
                before = record.state
                after = step(PERIOD, before, event)
            taken.append(record.but(**fields, state=after))
        (self.note if event in _UNSTORED else self.put)(*taken)
        return taken

    def take_back(self, record: PeriodRecord) -> None:
        """Nothing of it is on air, and nothing will be: its COUNTERs are burnt (R10)."""
        self._burn(record)
        self.fire(record, PeriodEvent.REPLACED)
        self.drop(record.period.start)

    def _burn(self, record: PeriodRecord) -> None:
        for _, identity in record.key_ids:
            self._allocator.burn(identity, record.period.start)

    def unprepare(self, start: int) -> None:
        """R10: what is prepared from ``start`` on and not on air is taken back."""
        for record in self.records:
            if record.period.start >= start and record.state in NOT_ON_AIR:
                self.take_back(record)

    def pass_over(self, now: float) -> None:
        """Give up what was not sealed in time; what the edge has is over when a later period of it has begun."""
        missed = [self._records[start] for start in self._open if self._records[start].period.end <= now]
        if missed:
            self.fire_all(missed, PeriodEvent.MISS)
        begun = []
        for record in self._records.values():
            if record.period.start > now:
                break
            if record.state is PeriodState.HANDED:
                begun.append(record)
        if len(begun) > 1:
            self.fire_all([record for record in begun[:-1] if record.period.end <= now], PeriodEvent.PASS)

    def prune(self, now: float) -> bool:
        """Forget what has ended (R41), once in the time of a batch; whether that was now."""
        span = self.config.batch * self.config.period
        due = now if self._prune_at is None else self._prune_at
        if due - span <= now < due:
            return False
        self._prune_at = now + span
        over = []
        for record in self._records.values():
            if record.state not in FINAL or record.period.end + record.period.duration >= now:
                break
            over.append(record.period.start)
        for start in over:
            first = self._forget(start)
            if not self._rows[first]:  # a row goes with the last one of it
                self._changed[first] = None
                self._unsaved[self] = None
        for name in self._boundaries.under(self.config.id):
            if isinstance(name[2], int) and name[2] + BOUNDARY_KEPT < now:
                self._boundaries.drop(name)
        self._schedule.forget(min([now, *itertools.islice(self._records, 1)]) - self.config.period)
        return True

    # --- what the edge has that is not known here -----------------------------------------------------------------------

    def strange(self, start: int) -> bool:
        """Whether the edge has periods from ``start`` on that are not known here."""
        return any(begin >= start for begin, _ in self._strange)

    @property
    def strange_end(self) -> int:
        """Nothing is prepared before this time."""
        return max((end for _, end in self._strange), default=0)

    def strange_before(self, at: int) -> list[tuple[int, int]]:
        return [(start, end) for start, end in self._strange if start < at]

    def wait(self, start: int) -> None:
        """Nothing is prepared before the edge has given back what is not known here from ``start`` on, or has spoken anew."""
        self._strange.append((start, 1 << 62))
        self._full = None

    def leave(self, periods: Iterable[tuple[int, int]]) -> None:
        """What the edge has and is not known here, (start, end) each, has its time: nothing is prepared beside it."""
        self._strange, self._full = [*periods], None
        for record in self.records:
            if record.state in OPEN and record.period.start < self.strange_end:
                self.fire(record, PeriodEvent.MISS)

    def past(self, at: int) -> bool:
        """Whether what is prepared here, or what the edge has, reaches past ``at``."""
        return max(self.horizon, self.strange_end) > at
