# SPDX-License-Identifier: Apache-2.0
"""The long-term keys of the streams: made, issued, rolled over, cut short, ended; and the programmes that have one of their own.

One key version is one record that walks through ``tables.KEY``.  Who is told of it, and how, is the BSM's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pybcast.errors import LocalFlowError
from pybcast.flows.bsm.attempts import CONFIRMED_WITHIN, Attempts
from pybcast.flows.events import Alarm
from pybcast.flows.journal import Journal
from pybcast.flows.peers.messages import KeyMaterial, KeyType, PartialItem, StkmItem
from pybcast.flows.restart import keys_in
from pybcast.flows.serial import counter_of
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import KEY, KeyEvent, KeyState, step
from pybcast.secret import Secret

KEY_TYPES: Final[tuple[KeyType, ...]] = ("SEK", "SEAK", "PEAK")
"""The kinds of keys that are made here: a PEK is a SEK with another window."""
PROGRAMME_EXTENSIONS: Final = 0x80000000
"""programme_CID_extension numbers begin here: a BCI does not say whether it names a service or a programme - confidence: own."""
KEY_NUMBER_JUMP: Final = 256  # after a restore from an older copy: past key ids that copy cannot know of (R2) - confidence: own
NUMBERS: Final = "key-number"
"""The table of the last key numbers and CID extensions, by (service, stream, key type).  They only rise."""
ENDED_KEPT: Final = 10  # periods for which a key that has ended is kept: its last STKMs may be asked for again


@dataclass(frozen=True)
class LongTermKey:
    """One version of a long-term key: ``material`` is what a BSD/A gets; ``programme``: GlobalContentID of a PEAK.

    ``sealer``: the one kind of server that seals under it, for good (R1).  ``at_once``: it takes the place of what was prepared
    under another (R10).  ``first_end``: the end that was told first, where another took its place early.  ``confirmed``: the
    BSD/As that have it (F4) or know from when to when it holds (F3).
    """

    material: KeyMaterial
    state: KeyState
    programme: str | None = None
    confirmed: frozenset[str] = frozenset()
    sealer: Literal["bsm", "bsda"] = "bsm"
    at_once: bool = False
    first_end: int | None = None


@dataclass(frozen=True)
class Programme:
    """A programme that can be bought by itself: [start, end) in NTP seconds."""

    service: str
    stream: int
    content: str
    start: int
    end: int


@dataclass(frozen=True)
class Loss:
    """A BSD/A without its allocator store (R33): the keys it can have sealed under and never gets again, and (key type, messageID)
    of the requests that got others.
    """

    keys: frozenset[bytes]
    served: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Edges:
    """Times at which something begins or ends, in order.  ``keys``: those of keys; ``all``: of everything."""

    keys: Sequence[int]
    all: Sequence[int]

    def first_in(self, start: int, end: int) -> int | None:
        """The first that lies inside a period."""
        n = bisect_right(self.all, start)
        return self.all[n] if n < len(self.all) and self.all[n] < end else None

    def around(self, time: int) -> tuple[int, float]:
        """From when to when the same keys are in force as at ``time``."""
        n = bisect_right(self.keys, time)
        return self.keys[n - 1] if n else 0, self.keys[n] if n < len(self.keys) else float("inf")


class KeyChain:
    """The keys of every stream, in the BSM's journal.

    ``issue(config, row, now)``: makes the LTKMs of a new key and sends them.  ``ended(config, material)``: called when one is
    forgotten.
    """

    def __init__(
        self,
        journal: Journal,
        allocator: Allocator,
        randomness: Callable[[int], bytes],
        issue: Callable[[StreamConfig, LongTermKey, float], None],
        ended: Callable[[StreamConfig, KeyMaterial], None],
        attempts: Attempts,
    ) -> None:
        self._journal = journal
        self._allocator = allocator
        self._randomness = randomness
        self._issue = issue
        self._ended = ended
        self._attempts = attempts
        self.rings = stkm.Rings()

    def rows(self, config: StreamConfig, key_type: KeyType | None = None) -> list[LongTermKey]:
        """The keys of a stream, oldest first."""
        rows = self._journal.select("key", config.key, LongTermKey).values()
        return sorted((r for r in rows if key_type in (None, r.material.key_type)), key=lambda r: r.material.valid_from)

    def received(self, config: StreamConfig) -> dict[tuple[object, ...], tuple[StkmItem, ...]]:
        """The STKMs that the BSD/A sealed for terminals with an interaction channel (F6), those that came together in one row."""
        return self._journal.select("received", config.key, tuple)

    def name(self, config: StreamConfig, row: LongTermKey) -> tuple[object, ...]:
        """What a key is called in the journal."""
        return (*config.key, row.material.key_type, row.material.key_id)

    def store(self, config: StreamConfig, row: LongTermKey) -> None:
        """Keep a key as it is now."""
        self._journal.put("key", self.name(config, row), row)

    def _fire(self, config: StreamConfig, row: LongTermKey, event: KeyEvent) -> LongTermKey:
        after = replace(row, state=step(KEY, row.state, event))
        self.store(config, after)
        return after

    def _number(self, config: StreamConfig, key_type: KeyType) -> int:
        """The next key number or CID extension of a stream; never used twice, stored before use."""
        return self._pass_over(config, key_type, 1)

    def _pass_over(self, config: StreamConfig, key_type: KeyType, by: int, at_least: int = 0) -> int:
        last = max(at_least, self._journal.get(NUMBERS, (*config.key, key_type), int) or 0) + by
        self._journal.put(NUMBERS, (*config.key, key_type), last)
        return last

    def skip(self, streams: Iterable[StreamConfig], seconds: float, *, restored: bool = False, at_least: int = 0) -> None:
        """Pass over the key numbers that can have been given in the ``seconds`` since the last commit (R51).

        ``restored``: the store is known to be older than what has left; ``at_least``: the highest number that is known of.
        """
        for config in streams:
            by = keys_in(seconds, config) + (KEY_NUMBER_JUMP if restored else 0)
            for key_type in KEY_TYPES:  # also where the store knows of none yet
                self._pass_over(config, key_type, by, at_least)

    def live(self, config: StreamConfig, now: float) -> list[KeyMaterial]:
        """The keys whose LTKMs are worth issuing again: an LTKM that comes after its key has ended only takes room on the card."""
        rows = [row for row in self.rows(config) if row.state is not KeyState.ENDED]
        return [row.material for row in rows if row.material.valid_to > now]

    def at(self, config: StreamConfig, period: Period, chain: list[LongTermKey] | None = None) -> dict[str, LongTermKey]:
        """The keys of a period that lies between two edges.  ``chain``: the stream's keys, where they are at hand."""
        rows = self.rows(config) if chain is None else chain
        return {r.material.key_type: r for r in rows if r.material.valid_from <= period.start < r.material.valid_to}

    def policy(self, config: StreamConfig) -> stkm.Policy:
        """What the STKMs and keys of a stream say from now on (R31, R33)."""
        return self._journal.get("policy", config.key, stkm.Policy) or stkm.Policy()

    def edges(self, config: StreamConfig, items: Collection[PartialItem], chain: list[LongTermKey]) -> Edges:
        """Where, in the time of these items, a key, a programme or a period of the other headend begins or ends (R9, R33).
        ``chain``: the stream's keys.
        """
        low, high = min((i.period_start for i in items), default=0), max((i.period_end for i in items), default=0)
        keys = sorted({e for r in chain for e in (r.material.valid_from, r.material.valid_to)})
        others = [e for p in self._journal.select("programme", config.key, Programme).values() for e in (p.start, p.end)]
        for row in chain:
            others += self._allocator.edges(stkm.key_identity(config, row.material), low, high)
        return Edges(keys, sorted({*keys, *others}))

    def unprepared(self, config: StreamConfig, now: float) -> int:
        """The first boundary that no BSD/A can have prepared past."""
        schedule = config.schedule()
        at = int(now) + (config.ahead + 2) * config.period
        period = schedule.at(max(at, config.start))
        assert period is not None
        return period.start if period.start >= at else period.end

    def renew(self, config: StreamConfig) -> None:
        """New keys are wanted as soon as terminals can have them (R10)."""
        self._journal.put("rekey", config.key, True)

    def distrust(self, streams: Iterable[StreamConfig], now: float) -> None:
        """The memory is an older copy (R2): roll every key, and seal nothing under an old one that may have been sealed already."""
        for config in streams:
            if config.pair:
                self._journal.put("distrusted", config.key, True)
            for row in self.rows(config):
                # What a BSD/A can have prepared by now was sealed by the memory that is lost.
                self._allocator.sent(stkm.key_identity(config, row.material), self.unprepared(config, now))
                self.renew(config)

    def clock_back(self, config: StreamConfig, now: float) -> None:
        """Forget keys that nobody would have made yet: the clock was put back, and their time must not come twice (R5).

        The next ones have numbers of their own, so that cards and devices take COUNTERs and timestamps that are lower (R3, R14).
        """
        latest = max(now, config.start) + max(config.rollover_lead, config.rekey_lead) + 2 * config.period
        chain = [row for row in self.rows(config) if row.material.key_type in ("SEK", "SEAK")]
        if not any(row.material.valid_from > latest for row in chain):
            return
        for row in chain:
            if row.material.valid_from > now:
                self._forget(config, row)
        self._journal.emit(Alarm("clock-back", *config.key, "keys of a time to come are given up"))

    def match_profiles(self, config: StreamConfig, now: float) -> None:
        """A stream that has a profile more than before gets a key of it for the time that the newest key of the other has."""
        chain = [r for r in self.rows(config) if r.material.key_type in ("SEK", "SEAK")]
        if chain:
            start = chain[-1].material.valid_from
            made = {r.material.key_type for r in chain if r.material.valid_from == start}
            self._create(config, start, now, at_once=chain[-1].at_once, but=made)

    def age(self, config: StreamConfig, now: float) -> None:
        """Keys begin, end, and are forgotten."""
        for row in self.rows(config):
            m = row.material
            if row.state is KeyState.ISSUED and now >= m.valid_from:
                row = self._fire(config, row, KeyEvent.START)
            if row.state in (KeyState.ISSUED, KeyState.ON_AIR) and now >= self.off_air(config, row):
                self._fire(config, row, KeyEvent.END)
            elif row.state is KeyState.ENDED and now >= m.valid_to + ENDED_KEPT * config.period:
                self._forget(config, row)
        for key, programme in self._journal.select("programme", config.key, Programme).items():
            if programme.end <= now:
                self._journal.drop("programme", key)

    def times(self, config: StreamConfig) -> list[float]:
        """When something of the stream's keys and programmes changes."""
        times = self._attempts.times(config)
        times += [p.end for p in self._journal.select("programme", config.key, Programme).values()]
        for row in self.rows(config):
            m = row.material
            times += [m.valid_from, m.valid_to - config.rollover_lead, m.valid_to, self.off_air(config, row)]
            times.append(m.valid_to + ENDED_KEPT * config.period)
        return times

    def off_air(self, config: StreamConfig, row: LongTermKey) -> int:
        """When a key counts as off air (R10): a period after its end.

        Where another took its place early: when every BSD/A knows of that one, and what was prepared before has run out; until
        then one that could not be told may hold the old key up to the end it was told first (R9), unless its store was lost.
        """
        m, margin = row.material, config.period * (1 + config.ahead * (row.first_end is not None))
        follows = [r for r in self.rows(config) if (r.material.key_type, r.material.valid_from) == (m.key_type, m.valid_to)]
        lost = {bsda for (_, _, bsda), loss in self._journal.select("fresh", config.key, Loss).items() if m.key_id in loss.keys}
        told = row.first_end is None or any((r.confirmed | lost).issuperset(config.bsdas) for r in follows)
        return (m.valid_to if told else max(m.valid_to, row.first_end or 0)) + margin

    def roll(self, config: StreamConfig, now: float) -> None:
        """Make the first keys, the next keys in time, and new ones at once when asked (R10), then those of programmes that wait."""
        attempt = self._attempts.asked(config)
        if self._attempts.work(config, now) and attempt is not None:
            if attempt.content is None or attempt.end is None:
                self._take_over(config, attempt.start, now)
            else:
                self._create_peak(config, attempt.content, attempt.start, attempt.end, now)
        if self._attempts.asked(config) is None:  # else what comes next is decided then
            self._roll(config, now)
        if self._attempts.asked(config) is None:
            self._begin_programmes(config, now)

    def _roll(self, config: StreamConfig, now: float) -> None:
        """The keys of the service.  Both profiles roll together (R38)."""
        chain = [r for r in self.rows(config) if r.material.key_type in ("SEK", "SEAK")]
        distrusted = self._journal.get("distrusted", config.key, bool) is not None
        if not chain and not distrusted:
            first = config.schedule().at(max(now, config.start))
            assert first is not None
            self._create(config, first.start, now)
            return
        if len({r.material.valid_from for r in chain if r.state is not KeyState.ENDED}) > 1:
            return  # a card keeps two keys: the one before must be off air first
        last = chain[-1].material if chain else None
        over = last is None or now >= last.valid_to
        if over or distrusted or self._journal.get("rekey", config.key, bool):
            confirmed = distrusted or (config.pair and not over and any(row.sealer == "bsda" for row in chain))
            # Time for its LTKMs to arrive, and for its STKMs to take the place of those that are not on air yet.
            lead = max(config.rekey_lead, config.period)
            if confirmed:
                start = self._edge(config, now + CONFIRMED_WITHIN + lead)
            else:
                start = self._edge(config, max(now + lead, self._sealed_until(config, chain) - 1 if config.pair else 0))
            if last is not None:
                start = max(start, last.valid_from + config.granularity)
            if last is None or over or distrusted or start < last.valid_to:
                if not confirmed:
                    self._take_over(config, start, now)
                elif self._attempts.may_begin(config, now):
                    self._attempts.begin(config, start, start - lead, now)
                if distrusted or not confirmed or self._attempts.asked(config) is not None:
                    return
        assert last is not None
        if now >= last.valid_to - config.rollover_lead:
            self._create(config, last.valid_to, now)
            self._journal.drop("rekey", config.key)

    def _take_over(self, config: StreamConfig, start: int, now: float) -> None:
        """New keys end the ones before them at ``start`` (R10)."""
        self._create(config, start, now, at_once=True)
        self._cut_short(config, start)
        self._journal.drop("rekey", config.key)
        self._journal.drop("distrusted", config.key)

    def _sealed_until(self, config: StreamConfig, chain: list[LongTermKey]) -> int:
        """The end of the last period that was sealed here: no headend of a pair can have prepared past it (F3, R50)."""
        ends = [s.until for row in chain for s in self._allocator.sealed(stkm.key_identity(config, row.material)).values()]
        return max(ends, default=0)

    def _edge(self, config: StreamConfig, time: float) -> int:
        """The first period start after ``time`` on the stream's grid, counted from the key in force."""
        chain = [r.material for r in self.rows(config) if r.material.key_type in ("SEK", "SEAK")]
        origin = max((m.valid_from for m in chain if m.valid_from <= time), default=config.start)
        return config.grid(origin + (int(max(0, time - origin)) // config.period + 1) * config.period)

    def _cut_short(self, config: StreamConfig, at: int) -> None:
        for row in self.rows(config):
            m = row.material
            if m.key_type in ("SEK", "SEAK") and m.valid_from < at < m.valid_to:
                row = self._fire(config, row, KeyEvent.CUT_SHORT)
                self.store(config, replace(row, material=replace(m, valid_to=at), first_end=row.first_end or m.valid_to))
                identity = stkm.key_identity(config, m)
                for start in self._allocator.sealed(identity):
                    if start >= at:
                        self._allocator.burn(identity, start)
        for name, items in self.received(config).items():
            kept = tuple(item for item in items if item.period_start < at)
            if not kept:
                self._journal.drop("received", name)
            elif len(kept) < len(items):
                self._journal.put("received", name, kept)

    def _create(
        self, config: StreamConfig, start: int, now: float, *, at_once: bool = False, but: Collection[KeyType] = ()
    ) -> None:
        """New keys of all the stream's profiles, valid for ``key_period`` from ``start``; ``but``: there already."""
        end = start + config.key_period
        if config.smartcard and "SEK" not in but:
            number = 1 + (self._number(config, "SEK") - 1) % 0xFFFF  # 0000 would ask for the current one (smartcard-profile 4.3)
            key = KeyMaterial(
                key_type="SEK",
                key_id=config.key_domain_id + config.key_group.to_bytes(2, "big") + number.to_bytes(2, "big"),
                key=Secret(self._randomness(16)), stream=config.stream, valid_from=start, valid_to=end,
                csb_id=self._randomness(4), rand=self._randomness(16),
                ts_low=counter_of(start - 1), ts_high=counter_of(end - 1),
                first_counter=counter_of(start), granularity=config.granularity, next_counter=counter_of(start),
            )  # fmt: skip
            self._enter(config, key, now, at_once=at_once)
        if config.drm and "SEAK" not in but:
            key = KeyMaterial(
                key_type="SEAK", key_id=self._number(config, "SEAK").to_bytes(4, "big"), key=Secret(self._randomness(32)),
                stream=config.stream, valid_from=start, valid_to=end, socID=config.socID, serviceBaseCID=config.serviceBaseCID,
            )  # fmt: skip
            self._enter(config, key, now, at_once=at_once)

    def _enter(
        self, config: StreamConfig, material: KeyMaterial, now: float, programme: str | None = None, *, at_once: bool = False
    ) -> None:
        """Keep a new key and send its LTKMs."""
        policy = self.policy(config)
        criteria = None if policy.access_criteria is None else tuple((c.tag, c.value) for c in policy.access_criteria)
        material = replace(
            material,
            protection_after_reception=policy.protection_after_reception,
            permissions_category=policy.permissions_category,
            access_criteria=criteria,
        )
        row = LongTermKey(material, KeyState.CREATED, programme, sealer=config.generation, at_once=at_once)
        self.store(config, row)
        self._issue(config, row, now)
        self._fire(config, row, KeyEvent.ISSUE)

    # --- programmes -----------------------------------------------------------------------------------------------------

    def add_programme(self, config: StreamConfig, programme: Programme, now: float) -> Programme:
        """A programme from the first boundary on that nobody has prepared past (R5), where a TEK ID can begin (R8), and its key.

        That of a pair whose BSD/As seal (F4) comes when both have confirmed, and until then the programme does not begin (R50).
        """
        held = self._journal.get("programme", (*config.key, programme.content), Programme)
        if held is None:  # said again it stays as it was scheduled
            held = self._fit(config, programme, now)
        if not self._in_two_steps(config):
            self._begin_programmes(config, now)
        return held

    @staticmethod
    def _in_two_steps(config: StreamConfig) -> bool:
        return config.drm and config.pair and config.generation == "bsda"

    def _begin_programmes(self, config: StreamConfig, now: float) -> None:
        """Give the programmes that have none their keys, those of a pair in two steps (R50), one after the other."""
        programmes = self._journal.select("programme", config.key, Programme).values() if config.drm else ()
        begun = {row.programme for row in self.rows(config, "PEAK")} if programmes else set()
        for programme in sorted((p for p in programmes if p.content not in begun), key=lambda p: p.start):
            if not self._in_two_steps(config):
                self._create_peak(config, programme.content, programme.start, programme.end, now)
            elif self._attempts.asked(config) is None and self._attempts.may_begin(config, now):
                try:
                    held = self._fit(config, programme, now)
                except LocalFlowError as error:
                    self._journal.drop("programme", (*config.key, programme.content))
                    self._journal.emit(Alarm("boundary-deferred", *config.key, str(error)))
                else:
                    self._attempts.begin(config, held.start, now + CONFIRMED_WITHIN, now, held.content, held.end)

    def _create_peak(self, config: StreamConfig, content: str, start: int, end: int, now: float) -> None:
        number = PROGRAMME_EXTENSIONS + self._number(config, "PEAK")
        key = KeyMaterial(
            key_type="PEAK", key_id=number.to_bytes(4, "big"), key=Secret(self._randomness(32)), stream=config.stream,
            valid_from=start, valid_to=end,
        )  # fmt: skip
        self._enter(config, key, now, content)

    def removable(self, config: StreamConfig, content: str, now: float) -> bool:
        """Whether a stream has a programme; ``LocalFlowError`` when it has, and it cannot be taken back any more."""
        held = self._journal.get("programme", (*config.key, content), Programme)
        if held is None:
            return False
        if held.start < self.unprepared(config, now):
            raise LocalFlowError(f"programme {content}: its periods may be prepared already (R5): it stays until it is over")
        asked = self._attempts.asked(config)
        if any(row.sealer == "bsda" for row in self._programme_keys(config, content)) or (asked and asked.content == content):
            raise LocalFlowError(f"programme {content}: the BSD/A seals under its key (F4): no message takes a key back")
        return True

    def remove_programme(self, config: StreamConfig, content: str) -> list[LongTermKey]:
        """Forget a programme and its keys; gives those."""
        self._journal.drop("programme", (*config.key, content))
        keys = self._programme_keys(config, content)
        for row in keys:
            self._forget(config, row)
        return keys

    def _programme_keys(self, config: StreamConfig, content: str) -> list[LongTermKey]:
        return [row for row in self.rows(config, "PEAK") if row.programme == content]

    def _forget(self, config: StreamConfig, row: LongTermKey) -> None:
        self._journal.drop("key", self.name(config, row))
        self._ended(config, row.material)
        self._allocator.forget(stkm.key_identity(config, row.material))
        self.rings.forget(row.material)

    def _fit(self, config: StreamConfig, programme: Programme, now: float) -> Programme:
        """Keep a programme with the start that it can have."""
        known = now + (CONFIRMED_WITHIN if self._in_two_steps(config) else 0)
        start, end = config.grid(max(programme.start, self.unprepared(config, known))), config.grid(programme.end)
        if start >= end:
            raise LocalFlowError(f"programme {programme.content}: over before it can be protected (R5)")
        for other in self._journal.select("programme", config.key, Programme).values():
            if other.content != programme.content and other.start < end and start < other.end:
                raise LocalFlowError(f"programme {programme.content} overlaps {other.content} (R33)")
        if (start, end) != (programme.start, programme.end):
            self._journal.emit(Alarm("boundary-deferred", *config.key, f"{programme.content}: {start} to {end} (R5, R8)"))
        held = replace(programme, start=start, end=end)
        self._journal.put("programme", (*config.key, programme.content), held)
        return held
