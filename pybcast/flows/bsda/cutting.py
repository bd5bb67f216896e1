# SPDX-License-Identifier: Apache-2.0
"""R50 at a BSD/A: the keys that it has end early, in two steps, so that the headends of a pair never make two STKMs for one period.

First the BSM asks both headends to seal nothing from a start S on.  A headend gives back what it has sealed from S on and has not
on air, keeps it aside, and confirms; where something of it is on air already, it refuses.  Then the BSM releases the next key: what
was given back is dropped, and its COUNTERs are burnt.  Or the BSM gives the attempt up, because one headend did not confirm: what
was given back goes out again, the same bytes.  A headend that has confirmed and hears no more is silent from S: the encoder holds
the key in use to the end of its authority.

The key of a programme (PEAK, F4) comes by the same two steps, where S is the programme's start.  Nothing ends there, so nothing can
be given back: a headend refuses where it has prepared past S (R5).  One that has confirmed seals nothing from S on before the
programme's key is here, or the attempt is given up, or the programme is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from pybcast.errors import PeerFlowError
from pybcast.flows.bsda.keys import Keys
from pybcast.flows.bsda.periods import FINAL, NOT_ON_AIR, Periods
from pybcast.flows.events import Recall
from pybcast.flows.journal import Journal, Table
from pybcast.flows.peers.messages import KeyMaterial
from pybcast.flows.tables import PeriodEvent, PeriodState, Status


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


CUT: Final = Table("cut", Cut)


class Cutting:
    """The attempts of the BSM to end the keys of one stream early."""

    def __init__(self, periods: Periods, keys: Keys, journal: Journal) -> None:
        self._periods, self._keys, self._journal = periods, keys, journal
        self._rows = journal.open(CUT)

    @property
    def cut(self) -> Cut:
        """What was confirmed to the BSM and is not over."""
        return self._rows.get(self._periods.config.id) or Cut()

    def _keep(self, cut: Cut) -> None:
        self._rows.put(self._periods.config.id, cut)

    def confirm(self, attempt: int, start: int, end: int | None) -> None:
        """From ``start`` on nothing is sealed under the keys that are here; the edge has given back what it could.  With ``end``:
        until then nothing without the key of a programme.

        ``PeerFlowError`` 27 when something of that time is on air (of a programme: prepared), 21 when that attempt was given up.
        """
        cut = self.cut
        if attempt <= cut.over:
            raise PeerFlowError(Status.INFORMATION_INVALID, "that attempt is over (R50)")
        if attempt in (number for number, *_ in (*cut.starts, *cut.programmes)):
            return
        if end is None:
            self._set_aside(start)
            cut = replace(cut, starts=(*cut.starts, (attempt, start)))
        elif self._periods.past(start):
            raise PeerFlowError(Status.ALREADY_IN_USE, "what is prepared reaches past its start (R5, R50)")
        else:
            cut = replace(cut, programmes=(*cut.programmes, (attempt, start, end)))
        for edge in (start,) if end is None else (start, end):
            if self._periods.ahead_of(edge):  # nothing prepared reaches over it: what comes before it ends there
                self._periods.cut(edge)
                cut = replace(cut, own=cut.own | {edge})
        self._keep(cut)

    def _set_aside(self, start: int) -> None:
        later = [r for r in self._periods.records if r.period.start >= start and r.state not in FINAL]
        sealed = [r for r in later if r.state is PeriodState.SEALED]
        if any(r.state not in NOT_ON_AIR for r in later) or self._periods.strange(start):
            raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R50)")
        for record in sealed:
            self._periods.fire(record, PeriodEvent.SET_ASIDE)

    def give_up(self, attempt: int, now: float) -> None:
        """The BSM gave that attempt up: what was given back for it alone goes out again."""
        cut = self.cut
        after = cut.but(
            starts=tuple(one for one in cut.starts if one[0] != attempt), over=max(cut.over, attempt),
            programmes=tuple(one for one in cut.programmes if one[0] != attempt),
        )  # fmt: skip
        self._keep(after)
        for record in self._periods.records:
            back = record.state is PeriodState.ASIDE and (after.at is None or record.period.start < after.at)
            if back and record.period.end > now:
                self._periods.fire(record, PeriodEvent.RESUME)
        for start in cut.own - after.own:
            self._keys.join(start)

    def expire(self, now: float) -> None:
        """Programmes are over whose key never came: all goes on."""
        cut = self.cut
        waiting = tuple(one for one in cut.programmes if now < one[2])
        if waiting != cut.programmes:
            self._keep(cut.but(programmes=waiting))

    def forget(self, attempt: int) -> bool:
        """Forget all that was made and every key: the operator said that this headend is off air, and the pair went on without it.
        False when that was said before.

        What is on air leaves it; the encoder holds the key that it has.
        """
        if attempt <= self.cut.over:
            return False  # said again
        self._journal.emit(Recall(*self._periods.config.id, 0, off_air=True))
        self.lose()
        self._keep(Cut(over=attempt))
        return True

    def lose(self) -> None:
        """Forget every period and key, and the boundaries that keys made: nothing that was made before is used again, whoever seals
        now (R33, R50).
        """
        for record in self._periods.records:
            self._periods.drop(record.period.start)
        self._rows.drop(self._periods.config.id)
        self._keys.lose()

    def end_keys(self) -> None:
        """What comes after keys that were cut short is here: they end where that was confirmed first.

        What was given back is dropped; its COUNTERs are burnt.
        """
        cut = self.cut
        if not cut.starts:
            return
        end, over = min(start for _, start in cut.starts), max(cut.over, *(number for number, _ in cut.starts))
        self._keep(cut.but(starts=(), over=over))
        ended = [key for key in self._keys.all() if key.key_type != "PEAK" and key.valid_from < end < key.valid_to]
        for key in ended:
            self._keys.end(key, end)
        for record in self._periods.waiting(PeriodState.ASIDE):
            self._periods.take_back(record)
        for key in ended:
            self._keys.join(key.valid_to)

    def begin_programme(self, key: KeyMaterial) -> None:
        """The key of a programme is here: what waits for it goes on; what waits for another waits till this one at most."""
        cut, waiting = self.cut, []
        over = cut.over
        for number, start, end in cut.programmes:
            if key.valid_from <= start < key.valid_to:
                over = max(over, number)
            else:
                waiting.append((number, start, min(end, key.valid_from) if start < key.valid_from else end))
        if cut.programmes:
            self._keep(cut.but(programmes=tuple(waiting), over=over))
