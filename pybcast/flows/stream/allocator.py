# SPDX-License-Identifier: Apache-2.0
"""The guards against using a key stream twice: who may seal what under which COUNTER (R1, R2, R5)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pybcast.errors import BcastError, PeerFlowError
from pybcast.flows.agenda import Agenda
from pybcast.flows.journal import Journal, Table
from pybcast.flows.serial import MOD
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import Status

RESTORE_JUMP: Final = 1 << 16  # R2: after a restore from an older copy every SMK's COUNTER jumps this far - confidence: own


@dataclass(frozen=True)
class Sealed:
    """One sealed STKM, kept until ``until``, for the same ask to get the same bytes.  ``tek_id``: the BSD/A's name for its TEK."""

    digest: bytes
    data: bytes
    until: int
    burnt: bool = False
    tek_id: str = ""


class Ask(NamedTuple):
    """The STKM of a period is asked for.  ``digest``: of its plaintext and the BSD/A's fields.  ``tek_id``: as in ``Sealed``."""

    period: Period
    digest: bytes
    tek_id: str = ""


@dataclass(frozen=True)
class SealedBlock:
    """The STKMs that were sealed under one key for one input, by the start of their periods: one row of the store."""

    items: tuple[tuple[int, Sealed], ...]


ALLOCATED: Final = Table("allocated", SealedBlock, "key_id first")
FLOORS: Final = Table("floor", int, "key_id")


class Allocator:
    """One per sealing server: every STKM it seals comes from here.

    A STKM is known by (key id, start of its period).  The first ask seals and stores, what is asked for together in one call; a
    later ask with the same digest (plaintext and BSD/A-owned fields) gets the stored bytes, whatever the policy is now; any other
    ask is refused, as is a start that is not above the last one sent under that key.  The DRM Profile goes through the same door:
    one STKM per period (R42).  :meth:`flush` is called at the end of every input.
    """

    def __init__(self, journal: Journal) -> None:
        self._blocks = journal.open(ALLOCATED)
        self._floor_rows = journal.open(FLOORS)
        self._sealed: dict[bytes, dict[int, Sealed]] = {}
        self._row_of: dict[bytes, dict[int, int]] = {}  # key id -> start -> the first start of its row
        self._rows: dict[tuple[bytes, int], set[int]] = {}  # what of a row is still needed
        self._until: dict[bytes, int] = {}  # the end of the last period that was sealed under a key
        self._changed: dict[tuple[bytes, int], None] = {}
        self._open: dict[bytes, int] = {}  # the row that this input has begun under a key
        self._floors: dict[bytes, int] = {}
        self._ends: Agenda[tuple[bytes, int]] = Agenda()
        for (key_id,), floor in self._floor_rows.all().items():
            assert isinstance(key_id, bytes)
            self._floors[key_id] = floor
        for (key_id, first), block in self._blocks.all().items():
            assert isinstance(key_id, bytes) and isinstance(first, int)
            for start, sealed in block.items:
                self._keep(key_id, start, sealed, first)

    def _keep(self, key_id: bytes, start: int, sealed: Sealed, first: int) -> None:
        self._sealed.setdefault(key_id, {})[start] = sealed
        self._row_of.setdefault(key_id, {})[start] = first
        self._rows.setdefault((key_id, first), set()).add(start)
        self._ends.sooner((key_id, first), sealed.until)
        self._until[key_id] = max(sealed.until, self._until.get(key_id, 0))

    def floor(self, key_id: bytes) -> int:
        """The start of the last period sent (or burnt) under this key; only later ones may be sealed."""
        return self._floors.get(key_id, -1)

    def seal_many(
        self, key_id: bytes, asks: Sequence[Ask], make: Callable[[list[int]], Sequence[bytes | BcastError]]
    ) -> list[bytes | BcastError]:
        """The STKMs of some periods under ``key_id``; ``PeerFlowError`` 27 for one of which another may already exist (R1).

        ``make``: seals those that are new, by their place in ``asks``; what it could not seal is not kept.
        """
        found: dict[int, bytes | BcastError] = {}
        while len(found) < len(asks):
            new: dict[int, int] = {}  # by the start: who asks twice in one go gets the same, or is refused
            held, floor = self._sealed.get(key_id, {}), self.floor(key_id)
            for n, ask in enumerate(asks):
                if n in found:
                    continue
                start = ask.period.start
                stored = held.get(start)
                if stored is not None and not stored.burnt and stored.digest == ask.digest:
                    found[n] = stored.data
                elif stored is not None:
                    found[n] = PeerFlowError(Status.ALREADY_IN_USE, f"COUNTER of period {start} is used under this key (R1)")
                elif start <= floor:
                    found[n] = PeerFlowError(Status.ALREADY_IN_USE, f"period {start} is not above the last one sent (R5)")
                else:
                    new.setdefault(start, n)
            for n, made in zip(new.values(), make(list(new.values())) if new else (), strict=True):
                found[n] = made
                if isinstance(made, bytes):
                    period, digest, tek_id = asks[n]
                    first = self._open.setdefault(key_id, period.start)
                    self._keep(key_id, period.start, Sealed(digest, made, period.end, tek_id=tek_id), first)
                    self._changed[key_id, first] = None
        return [found[n] for n in range(len(asks))]

    def sealed(self, key_id: bytes) -> dict[int, Sealed]:
        """What has been sealed under a key and is not forgotten, burnt ones too: {start: STKM}.  Not to be changed."""
        return self._sealed.get(key_id, {})

    def edges(self, key_id: bytes, low: int, high: int) -> list[int]:
        """Where periods that were sealed under a key begin or end inside (low, high)."""
        if low >= self._until.get(key_id, low):
            return []
        held = [(start, sealed.until) for start, sealed in self.sealed(key_id).items() if not sealed.burnt]
        return [edge for both in held for edge in both if low < edge < high]

    def sent(self, key_id: bytes, start: int) -> None:
        """The STKM of ``start`` went on air: nothing at or below it is sealed any more."""
        if start > self.floor(key_id):
            self._floors[key_id] = start
            self._floor_rows.put((key_id,), start)

    def take_back(self, key_id: bytes, starts: Collection[int]) -> None:
        """The STKMs of these periods did not go on air after all: what was sent last is what stayed (R46)."""
        sent = [start for start, sealed in self.sealed(key_id).items() if start not in starts and start < min(starts)]
        self._floors[key_id] = max(sent, default=min(starts) - 1)
        self._floor_rows.put((key_id,), self._floors[key_id])

    def burn(self, key_id: bytes, start: int) -> None:
        """That COUNTER is never used under this key again (R10)."""
        row = self._sealed.get(key_id, {}).get(start)
        if row is not None and not row.burnt:
            self._sealed[key_id][start] = Sealed(row.digest, b"", row.until, burnt=True)
            self._changed[key_id, self._row_of[key_id][start]] = None

    def prune(self, now: float) -> None:
        """Forget the STKMs that have ended (R41); the floor keeps their COUNTERs from coming back."""
        for key_id, first in list(self._ends.due(now)):
            held, starts = self._sealed[key_id], self._rows[key_id, first]
            for start in [start for start in starts if held[start].until <= now]:
                self._floors[key_id] = max(start, self.floor(key_id))  # stored when their row is dropped
                self._drop(key_id, start)
            if starts:  # the others with the last of them
                self._ends.set((key_id, first), max(held[start].until for start in starts))

    def _drop(self, key_id: bytes, start: int) -> None:
        first = self._row_of[key_id].pop(start)
        del self._sealed[key_id][start]
        needed = self._rows[key_id, first]
        needed.discard(start)
        if not needed:
            self._changed[key_id, first] = None
            self._ends.set((key_id, first), None)
        if not self._sealed[key_id]:
            del self._sealed[key_id], self._row_of[key_id]

    def forget(self, key_id: bytes) -> None:
        """The key is gone for good, and with it the need to remember its COUNTERs."""
        for start in list(self.sealed(key_id)):
            self._drop(key_id, start)
        self.flush()
        self._floors.pop(key_id, None)
        self._until.pop(key_id, None)
        self._floor_rows.drop((key_id,))

    def flush(self) -> None:
        """Keep what this input has changed."""
        changed, self._changed, self._open = self._changed, {}, {}
        for key_id, first in changed:
            starts = self._rows[key_id, first]
            if starts:
                held = self._sealed[key_id]
                self._blocks.put((key_id, first), SealedBlock(tuple((start, held[start]) for start in sorted(starts))))
            else:
                del self._rows[key_id, first]
                self._floor_rows.put((key_id,), self.floor(key_id))
                self._blocks.drop((key_id, first))

    def next_wakeup(self) -> float | None:
        """When :meth:`prune` has something to do."""
        return self._ends.next()


SMK_COUNTERS: Final = Table("smk-counter", int, "subscriber")
SMK_BASE: Final = Table("smk-counter-base", int, "")


class SmkCounters:
    """One COUNTER per SMK, rising, stored before use (R2).

    A row says how far it has risen since its SMK came, above a base that all have in common: what moves them all is one row.  The
    base only rises and does not wrap; COUNTERs are taken modulo 2^32.
    """

    def __init__(self, journal: Journal) -> None:
        self._rows, self._base = journal.open(SMK_COUNTERS), journal.open(SMK_BASE)

    @property
    def base(self) -> int:
        """What every COUNTER has been moved by."""
        return self._base.get(()) or 0

    def last(self, subscriber: str) -> int:
        """The COUNTER under this subscriber's SMK that was used last."""
        return (self.base + (self._rows.get((subscriber,)) or 0)) % MOD

    def reach(self, subscriber: str, counter: int) -> None:
        """All up to this one count as used."""
        self._rows.put((subscriber,), (counter - self.base) % MOD)

    def next(self, subscriber: str) -> int:
        """The next COUNTER under this subscriber's SMK; the first is 1."""
        counter = (self.last(subscriber) + 1) % MOD
        self.reach(subscriber, counter)
        return counter

    def restart(self, subscriber: str) -> None:
        """A new SMK: its COUNTER starts again (smartcard-profile 4.6), above the base: after a restore it may be new to that copy
        only (R2).
        """
        self._rows.put((subscriber,), 0)

    def jump(self, by: int, at_least: int = 0) -> None:
        """Every COUNTER moves forward by ``by``, from a base of ``at_least`` where the store knows of less (R2, R51)."""
        self._base.put((), max(self.base, at_least) + by)
