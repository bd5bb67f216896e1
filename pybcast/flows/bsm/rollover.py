# SPDX-License-Identifier: Apache-2.0
"""When the next keys of a stream are made: the first ones, those of the rollover, and new ones at once (R10, R50)."""

from __future__ import annotations

from typing import Final

from pybcast.flows.bsm.attempts import CONFIRMED_WITHIN, Attempts
from pybcast.flows.bsm.keychain import KeyChain, LongTermKey, Means
from pybcast.flows.bsm.programmes import Programmes
from pybcast.flows.bsm.stkms import Stkms
from pybcast.flows.journal import Table
from pybcast.flows.tables import KeyState

REKEY: Final = Table("rekey", bool)
"""Streams whose next keys are wanted as soon as terminals can have them (R10)."""
DISTRUSTED: Final = Table("distrusted", bool)
"""Streams of a pair after a restore: nothing of the old keys is relied on (R2, R50)."""


class Rollover:
    """Makes the keys of one stream in time."""

    def __init__(self, means: Means, keys: KeyChain, attempts: Attempts, programmes: Programmes, stkms: Stkms) -> None:
        self._means, self._keys, self._attempts, self._programmes, self._stkms = means, keys, attempts, programmes, stkms
        self._rekey, self._distrusted = means.journal.open(REKEY), means.journal.open(DISTRUSTED)

    def renew(self) -> None:
        """New keys are wanted as soon as terminals can have them (R10)."""
        self._rekey.put(self._keys.id, True)

    def distrust(self, now: float) -> None:
        """The memory is an older copy (R2): roll every key, and seal nothing under an old one that may have been sealed already."""
        if self._keys.config.pair:
            self._distrusted.put(self._keys.id, True)
        self._keys.distrust(now)
        if self._keys.all():
            self.renew()

    def match_profiles(self, now: float) -> None:
        """A stream that has a profile more than before gets a key of it for the time that the newest key of the other has."""
        chain = self._keys.service_keys()
        if chain:
            start = chain[-1].material.valid_from
            made = {r.material.key_type for r in chain if r.material.valid_from == start}
            self._keys.create(start, now, at_once=chain[-1].at_once, but=made)

    def roll(self, now: float) -> None:
        """Make the first keys, the next keys in time, and new ones at once when asked (R10), then those of programmes that wait."""
        attempt = self._attempts.asked()
        if self._attempts.work(now) and attempt is not None:
            if attempt.content is None or attempt.end is None:
                self._take_over(attempt.start, now)
            else:
                self._keys.create_peak(attempt.content, attempt.start, attempt.end, now)
        if self._attempts.asked() is None:  # else what comes next is decided then
            self._roll(now)
        if self._attempts.asked() is None:
            self._programmes.begin(now)

    def _roll(self, now: float) -> None:
        """The keys of the service.  Both profiles roll together (R38)."""
        keys, config, chain = self._keys, self._keys.config, self._keys.service_keys()
        distrusted = self._distrusted.get(keys.id) is not None
        if not chain and not distrusted:
            first = config.schedule().at(max(now, config.start))
            assert first is not None
            keys.create(first.start, now)
            return
        if len({r.material.valid_from for r in chain if r.state is not KeyState.ENDED}) > 1:
            return  # a card keeps two keys: the one before must be off air first
        last = chain[-1].material if chain else None
        over = last is None or now >= last.valid_to
        if over or distrusted or self._rekey.get(keys.id):
            confirmed = distrusted or (config.pair and not over and any(row.sealer == "bsda" for row in chain))
            # Time for its LTKMs to arrive, and for its STKMs to take the place of those that are not on air yet.
            lead = max(config.rekey_lead, config.period)
            if confirmed:
                start = self._edge(chain, now + CONFIRMED_WITHIN + lead)
            else:
                start = self._edge(chain, max(now + lead, self._sealed_until(chain) - 1 if config.pair else 0))
            if last is not None:
                start = max(start, last.valid_from + config.granularity)
            if last is None or over or distrusted or start < last.valid_to:
                if not confirmed:
                    self._take_over(start, now)
                elif self._attempts.may_begin(now):
                    self._attempts.begin(start, start - lead, now)
                if distrusted or not confirmed or self._attempts.asked() is not None:
                    return
        assert last is not None
        if now >= last.valid_to - config.rollover_lead:
            keys.create(last.valid_to, now)
            self._rekey.drop(keys.id)

    def _take_over(self, start: int, now: float) -> None:
        """New keys end the ones before them at ``start`` (R10)."""
        self._keys.create(start, now, at_once=True)
        self._keys.cut_short(start)
        self._stkms.cut_short(start)
        self._rekey.drop(self._keys.id)
        self._distrusted.drop(self._keys.id)

    def _sealed_until(self, chain: list[LongTermKey]) -> int:
        """The end of the last period that was sealed here: no headend of a pair can have prepared past it (F3, R50)."""
        sealed = self._means.allocator.sealed
        return max((one.until for row in chain for one in sealed(self._keys.identity(row)).values()), default=0)

    def _edge(self, chain: list[LongTermKey], time: float) -> int:
        """The first period start after ``time`` on the stream's grid, counted from the key in force."""
        config = self._keys.config
        origin = max((r.material.valid_from for r in chain if r.material.valid_from <= time), default=config.start)
        return config.grid(origin + (int(max(0, time - origin)) // config.period + 1) * config.period)
