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

from dataclasses import replace

from pybcast.errors import PeerFlowError
from pybcast.flows.bsda.periods import FINAL, NOT_ON_AIR, Cut, Periods
from pybcast.flows.events import Recall
from pybcast.flows.journal import Journal
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.tables import PeriodEvent, PeriodState, Status


class Cutting:
    """The attempts of the BSM to end keys early, in the BSD/A's journal (table ``cut``)."""

    def __init__(self, journal: Journal, periods: Periods) -> None:
        self._journal, self._periods = journal, periods

    def _keep(self, config: StreamConfig, cut: Cut) -> None:
        self._journal.put("cut", config.key, cut)

    def confirm(self, config: StreamConfig, attempt: int, start: int, end: int | None) -> None:
        """From ``start`` on nothing is sealed under the keys that are here; the edge has given back what it could.  With ``end``:
        until then nothing without the key of a programme.

        ``PeerFlowError`` 27 when something of that time is on air (of a programme: prepared), 21 when that attempt was given up.
        """
        cut = self._periods.cut_of(config)
        if attempt <= cut.over:
            raise PeerFlowError(Status.INFORMATION_INVALID, "that attempt is over (R50)")
        if attempt in (number for number, *_ in (*cut.starts, *cut.programmes)):
            return
        if end is None:
            self._set_aside(config, start)
            cut = replace(cut, starts=(*cut.starts, (attempt, start)))
        elif self._periods.past(config, start):
            raise PeerFlowError(Status.ALREADY_IN_USE, "what is prepared reaches past its start (R5, R50)")
        else:
            cut = replace(cut, programmes=(*cut.programmes, (attempt, start, end)))
        for edge in (start,) if end is None else (start, end):
            if self._periods.ahead_of(config, edge):  # nothing prepared reaches over it: what comes before it ends there
                self._periods.cut(config, edge)
                cut = replace(cut, own=cut.own | {edge})
        self._keep(config, cut)

    def _set_aside(self, config: StreamConfig, start: int) -> None:
        later = [r for r in self._periods.records(config) if r.period.start >= start and r.state not in FINAL]
        sealed = [r for r in later if r.state is PeriodState.SEALED]
        if any(r.state not in NOT_ON_AIR for r in later) or self._periods.strange(config, start):
            raise PeerFlowError(Status.ALREADY_IN_USE, "a STKM of that time is on air (R50)")
        for record in sealed:
            self._periods.fire(config, record, PeriodEvent.SET_ASIDE)

    def give_up(self, config: StreamConfig, attempt: int, now: float) -> None:
        """The BSM gave that attempt up: what was given back for it alone goes out again."""
        cut = self._periods.cut_of(config)
        after = cut.but(
            starts=tuple(one for one in cut.starts if one[0] != attempt), over=max(cut.over, attempt),
            programmes=tuple(one for one in cut.programmes if one[0] != attempt),
        )  # fmt: skip
        self._keep(config, after)
        for record in self._periods.records(config):
            back = record.state is PeriodState.ASIDE and (after.at is None or record.period.start < after.at)
            if back and record.period.end > now:
                self._periods.fire(config, record, PeriodEvent.RESUME)
        for start in cut.own - after.own:
            self._periods.join(config, start)

    def expire(self, config: StreamConfig, now: float) -> None:
        """Programmes are over whose key never came: all goes on."""
        cut = self._periods.cut_of(config)
        waiting = tuple(one for one in cut.programmes if now < one[2])
        if waiting != cut.programmes:
            self._keep(config, cut.but(programmes=waiting))

    def forget(self, config: StreamConfig, attempt: int) -> bool:
        """Forget all that was made and every key: the operator said that this headend is off air, and the pair went on without it.
        False when that was said before.

        What is on air leaves it; the encoder holds the key that it has.
        """
        if attempt <= self._periods.cut_of(config).over:
            return False  # said again
        self._journal.emit(Recall(*config.key, 0, off_air=True))
        self._periods.lose(config)
        self._keep(config, Cut(over=attempt))
        return True
