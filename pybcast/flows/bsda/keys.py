# SPDX-License-Identifier: Apache-2.0
"""The long-term keys that a BSD/A has for one stream (F4): which are taken, and how they end one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pybcast.errors import PeerFlowError
from pybcast.flows.bsda.periods import FINAL, NOT_ON_AIR, Periods
from pybcast.flows.journal import Journal, Table
from pybcast.flows.peers.messages import KeyMaterial
from pybcast.flows.serial import later_key
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.stream.stkm import Rings, key_identity
from pybcast.flows.tables import Status

KEY_KEPT: Final = 60  # seconds that a key is kept after its end - confidence: own
KEYS: Final = Table("key", KeyMaterial, "service stream key_type key_id")


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


class Keys:
    """What the BSM has delivered for one stream and has not ended long ago."""

    def __init__(self, periods: Periods, journal: Journal, allocator: Allocator, rings: Rings) -> None:
        self._periods, self._allocator, self._rings = periods, allocator, rings
        self._rows = journal.open(KEYS)

    @property
    def _id(self) -> tuple[str, int]:
        return self._periods.config.id

    def all(self) -> list[KeyMaterial]:
        return list(self._rows.under(self._id).values())

    def _put(self, key: KeyMaterial) -> None:
        self._rows.put((*self._id, key.key_type, key.key_id), key)

    def _drop(self, key: KeyMaterial) -> None:
        self._rows.drop((*self._id, key.key_type, key.key_id))

    def end(self, key: KeyMaterial, at: int) -> None:
        """A key ends earlier than was said."""
        self._put(replace(key, valid_to=at))

    def join(self, at: int) -> None:
        """The end of a key that ends earlier now is no boundary any more, if it is none for another reason: a headend that never
        heard of it must agree on the periods (R33).
        """
        if all(at not in (key.valid_from, key.valid_to) for key in self.all()):
            self._periods.join(at)

    def _rivals(self, key: KeyMaterial) -> list[KeyMaterial]:
        """The keys of its kind that are valid at some time when ``key`` is."""
        return [
            other for other in self.all()
            if other.key_type == key.key_type and other.valid_from < key.valid_to and key.valid_from < other.valid_to
        ]  # fmt: skip

    def ends_another(self, key: KeyMaterial) -> bool:
        """Whether a key of the service takes the time of one that was made before it."""
        return key.key_type != "PEAK" and any(
            other.valid_from < key.valid_from and later_key(key.key_id, other.key_id) for other in self._rivals(key)
        )

    def check(self, key: KeyMaterial, replacing: bool, now: float) -> bool:
        """Whether a delivered key is new; ``PeerFlowError`` when it cannot be taken."""
        if key.valid_to <= now:
            raise PeerFlowError(Status.INFORMATION_INVALID, "the key has expired")
        held = self._rows.get((*self._id, key.key_type, key.key_id))
        if held is not None:
            if replace(held, valid_to=key.valid_to) != key:
                raise PeerFlowError(Status.ALREADY_IN_USE, "another key has this id")
            return False
        records = self._periods.records
        later = [r for r in records if key.valid_from <= r.period.start < key.valid_to and r.state not in FINAL]
        rivals = self._rivals(key)
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
        if later or self._periods.horizon > key.valid_from > now:
            raise PeerFlowError(Status.INFORMATION_INVALID, "validFrom lies in what is already prepared (R33)")
        # A BSM that was put back to a copy forgets a programme, and is told of it again: the key made last takes its place.
        if any(key.key_type != "PEAK" or later_key(other.key_id, key.key_id) for other in rivals):
            raise PeerFlowError(Status.INFORMATION_INVALID, "the validity overlaps another key's (R33)")
        return True

    def install(self, key: KeyMaterial, replacing: bool, now: float) -> None:
        """Take a key that was checked: it ends what overlaps it, and periods begin and end where it does (R9, R33)."""
        periods = self._periods
        for other in self._rivals(key):
            if other.valid_from < key.valid_from:
                self.end(other, key.valid_from)
            else:  # a BSM restored from an older copy does not know of it any more (R2)
                self._drop(other)
            self.join(other.valid_to)
        self._put(key)
        if replacing:
            periods.unprepare(key.valid_from)
            periods.shorten(key.valid_from)
        for edge in (key.valid_from, key.valid_to):
            if edge > now:
                periods.cut(edge)
        if replacing:
            periods.end_authority(max(key.valid_from, periods.horizon), now)
        if key.valid_from <= now:  # it came late: as soon as can be, periods begin where the other headend's do (R33)
            late, length = max(0, periods.horizon - key.valid_from), periods.config.period
            periods.cut(key.valid_from + -(-late // length) * length)

    def lose(self) -> None:
        """Forget every key, and the boundaries that keys made (R33, R50)."""
        keys = self.all()
        for key in keys:
            self._drop(key)
        for edge in sorted({edge for key in keys for edge in (key.valid_from, key.valid_to)}):
            self.join(edge)

    def give_up_later(self, now: float) -> None:
        """The clock was put back: keys of a time to come are not used."""
        for key in self.all():
            if key.valid_from > now:
                self._drop(key)
                self._rings.forget(key)

    def prune(self, now: float) -> None:
        """Forget keys that have ended, and their COUNTERs."""
        for key in self.all():
            if key.valid_to + KEY_KEPT < now:
                self._drop(key)
                self._allocator.forget(key_identity(self._periods.config, key))
                self._rings.forget(key)
