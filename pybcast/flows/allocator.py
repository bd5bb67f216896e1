# SPDX-License-Identifier: Apache-2.0
"""The guards against using a key stream twice: who may seal what under which COUNTER (R1, R2, R5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pybcast.errors import PeerFlowError
from pybcast.flows.events import Journal
from pybcast.flows.schedule import Period
from pybcast.flows.serial import MOD
from pybcast.flows.tables import Status

RESTORE_JUMP: Final = 1 << 16  # R2: after a restore from an older copy every SMK's COUNTER jumps this far - confidence: own
PRUNE: Final = 10.0  # seconds between two sweeps over what has ended: a sweep reads the whole table


@dataclass(frozen=True)
class Sealed:
    """One sealed STKM: kept until ``until``, so that the same ask gets the same bytes."""

    digest: bytes
    data: bytes
    until: int
    burnt: bool = False


class Allocator:
    """One per sealing server: every STKM it seals comes from here.

    A STKM is known by (key id, start of its period).  The first ask seals and stores; a later ask with the same digest
    (plaintext and BSD/A-owned fields) gets the stored bytes, whatever the policy is now; any other ask is refused, as is a
    start that is not above the last one sent under that key.  The DRM Profile goes through the same door: one STKM per period
    (R42).
    """

    TABLE: Final = "allocated"
    FLOOR: Final = "floor"

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._next_prune = 0.0

    def _rows(self) -> dict[tuple[object, ...], object]:
        return self._journal.tables.get(self.TABLE, {})

    def floor(self, key_id: bytes) -> int:
        """The start of the last period sent (or burnt) under this key; only later ones may be sealed."""
        value = self._journal.tables.get(self.FLOOR, {}).get((key_id,), -1)
        assert isinstance(value, int)
        return value

    def seal(self, key_id: bytes, period: Period, digest: bytes, make: Callable[[], bytes]) -> bytes:
        """The STKM of ``period`` under ``key_id``; ``PeerFlowError`` 27 when another one may already exist (R1)."""
        stored = self._rows().get((key_id, period.start))
        if stored is not None:
            assert isinstance(stored, Sealed)
            if stored.burnt or stored.digest != digest:
                raise PeerFlowError(Status.ALREADY_IN_USE, f"COUNTER of period {period.start} is used under this key (R1)")
            return stored.data
        if period.start <= self.floor(key_id):
            raise PeerFlowError(Status.ALREADY_IN_USE, f"period {period.start} is not above the last one sent (R5)")
        data = make()
        self._journal.put(self.TABLE, (key_id, period.start), Sealed(digest, data, period.end))
        return data

    def sent(self, key_id: bytes, start: int) -> None:
        """The STKM of ``start`` went on air: nothing at or below it is sealed any more."""
        if start > self.floor(key_id):
            self._journal.put(self.FLOOR, (key_id,), start)

    def burn(self, key_id: bytes, start: int) -> None:
        """That COUNTER is never used under this key again (R10)."""
        row = self._rows().get((key_id, start))
        if isinstance(row, Sealed) and not row.burnt:
            self._journal.put(self.TABLE, (key_id, start), Sealed(row.digest, b"", row.until, burnt=True))

    def prune(self, now: float) -> None:
        """Forget what has ended (R41); the floor keeps its COUNTERs from coming back."""
        if now < self._next_prune:
            return
        self._next_prune = now + PRUNE
        for key, row in list(self._rows().items()):
            assert isinstance(row, Sealed)
            if row.until < now:
                key_id, start = key
                assert isinstance(key_id, bytes) and isinstance(start, int)
                self.sent(key_id, start)
                self._journal.drop(self.TABLE, key)


class SmkCounters:
    """One COUNTER per SMK, rising, stored before use (R2)."""

    TABLE: Final = "smk-counter"

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def next(self, subscriber: str) -> int:
        """The next COUNTER under this subscriber's SMK; the first is 1."""
        value = self._journal.tables.get(self.TABLE, {}).get((subscriber,), 0)
        assert isinstance(value, int)
        value = (value + 1) % MOD
        self._journal.put(self.TABLE, (subscriber,), value)
        return value

    def restart(self, subscriber: str) -> None:
        """A new SMK: its COUNTER starts again (smartcard-profile 4.6)."""
        self._journal.put(self.TABLE, (subscriber,), 0)

    def jump(self) -> None:
        """After a restore from an older copy: past anything that copy cannot know of (R2)."""
        for (subscriber,), value in list(self._journal.tables.get(self.TABLE, {}).items()):
            assert isinstance(value, int)
            self._journal.put(self.TABLE, (subscriber,), (value + RESTORE_JUMP) % MOD)
