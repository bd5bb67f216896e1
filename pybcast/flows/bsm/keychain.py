# SPDX-License-Identifier: Apache-2.0
"""The long-term keys of one stream: made, issued, cut short, ended, forgotten.

One key version is one record that walks through ``tables.KEY``.  ``rollover`` says when the next one is made, ``stream`` tells the
BSD/As.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, Literal

from pybcast.errors import PeerFlowError
from pybcast.flows.agenda import Agenda
from pybcast.flows.events import Alarm, FlowDone
from pybcast.flows.journal import Journal, RowKey, Table
from pybcast.flows.peers.exchange import Peering
from pybcast.flows.peers.messages import KeyMaterial, KeyType, PartialItem, Profile, StkmItem
from pybcast.flows.restart import Recoveries, keys_in
from pybcast.flows.serial import counter_of
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig, StreamId
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import KEY, KeyEvent, KeyState, Status, step
from pybcast.secret import Secret

KEY_TYPES: Final[tuple[KeyType, ...]] = ("SEK", "SEAK", "PEAK")
"""The kinds of keys that are made here: a PEK is a SEK with another window."""
PROGRAMME_EXTENSIONS: Final = 0x80000000
"""programme_CID_extension numbers begin here: a BCI does not say whether it names a service or a programme - confidence: own."""
KEY_NUMBER_JUMP: Final = 256  # after a restore from an older copy: past key ids that copy cannot know of (R2) - confidence: own
ENDED_KEPT: Final = 10  # periods for which a key that has ended is kept: its last STKMs may be asked for again
HORIZON: Final = 3600.0  # R27: how far ahead a periodStart may lie, beyond look_ahead periods


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

    @property
    def profile(self) -> Profile:
        return "smartcard" if self.material.key_type in ("SEK", "PEK") else "drm"


@dataclass(frozen=True)
class Loss:
    """A BSD/A without its allocator store (R33): the keys it can have sealed under and never gets again, and (key type, messageID)
    of the requests that got others.
    """

    keys: frozenset[bytes]
    served: frozenset[tuple[str, str]] = frozenset()


KEYS: Final = Table("key", LongTermKey, "service stream key_type key_id")
NUMBERS: Final = Table("key-number", int, "service stream key_type")
"""The last key numbers and CID extensions.  They only rise."""
POLICIES: Final = Table("policy", stkm.Policy)
LOSSES: Final = Table("fresh", Loss, "service stream bsda")


@dataclass(frozen=True)
class Means:
    """What all streams of a BSM work with.

    ``wakes``: when each is to be worked on.  ``issue``: makes the LTKMs of a new key of a stream, and sends them.  ``ended``: is
    told the identity of a key that is forgotten, and the key.
    """

    journal: Journal
    allocator: Allocator
    peers: Peering
    rings: stkm.Rings
    recoveries: Recoveries
    wakes: Agenda[StreamId]
    randomness: Callable[[int], bytes]
    issue: Callable[[StreamId, LongTermKey, float], None]
    ended: Callable[[bytes, KeyMaterial], None]


class KeyChain:
    """The keys of one stream, and the stream as it is configured now."""

    def __init__(self, config: StreamConfig, means: Means) -> None:
        self.config, self.id = config, config.id
        self._means, journal = means, means.journal
        self._rows, self._numbers = journal.open(KEYS), journal.open(NUMBERS)
        self._policies, self._losses = journal.open(POLICIES), journal.open(LOSSES)

    def alarm(self, code: str, text: str = "", *, active: bool = True) -> None:
        """An alarm about this stream."""
        self._means.journal.emit(Alarm(code, *self.id, text, active))

    def flow(self, flow: str, profile: Profile | None) -> None:
        """A flow about this stream has run to its end."""
        self._means.journal.emit(FlowDone(flow, profile, self.config.service))

    # --- which there are ------------------------------------------------------------------------------------------------

    def all(self, *key_types: KeyType) -> list[LongTermKey]:
        """The keys of the stream, or those of some types, oldest first."""
        rows = self._rows.under(self.id).values()
        return sorted((r for r in rows if not key_types or r.material.key_type in key_types), key=lambda r: r.material.valid_from)

    def service_keys(self) -> list[LongTermKey]:
        """Those of the service, oldest first: no programme's."""
        return self.all("SEK", "SEAK")

    def not_ended(self) -> list[LongTermKey]:
        return [row for row in self.all() if row.state is not KeyState.ENDED]

    def get(self, row_key: RowKey) -> LongTermKey | None:
        return self._rows.get(row_key)

    def row_key(self, row: LongTermKey) -> RowKey:
        return (*self.id, row.material.key_type, row.material.key_id)

    def put(self, row: LongTermKey) -> None:
        """Keep a key as it is now."""
        self._rows.put(self.row_key(row), row)

    def identity(self, row: LongTermKey) -> bytes:
        """What a key is called in the system."""
        return stkm.key_identity(self.config, row.material)

    def sealed(self, row: LongTermKey) -> list[StkmItem]:
        """The STKMs sealed here under a key that may be given out, in no order."""
        return [
            StkmItem(
                stream=self.config.stream, period_start=start, period_end=sealed.until, tek_id=sealed.tek_id, content=sealed.data,
                authority_end=row.material.valid_to,
            )
            for start, sealed in self._means.allocator.sealed(self.identity(row)).items()
            if not sealed.burnt
        ]  # fmt: skip

    def at(self, period: Period, chain: list[LongTermKey] | None = None) -> dict[str, LongTermKey]:
        """The keys of a period that lies between two edges.  ``chain``: the stream's keys, where they are at hand."""
        rows = self.all() if chain is None else chain
        return {r.material.key_type: r for r in rows if r.material.valid_from <= period.start < r.material.valid_to}

    @property
    def policy(self) -> stkm.Policy:
        """What the STKMs and keys of the stream say from now on (R31, R33)."""
        return self._policies.get(self.id) or stkm.Policy()

    @policy.setter
    def policy(self, policy: stkm.Policy) -> None:
        self._policies.put(self.id, policy)

    def check_horizon(self, item: PartialItem | StkmItem, now: float) -> None:
        """periodStart within [now - 1 period, now + horizon] (R27)."""
        back, ahead = item.period_end - item.period_start, HORIZON + self.config.ahead * self.config.period
        if item.stream != self.config.stream or not now - back <= item.period_start <= now + ahead:
            raise PeerFlowError(Status.INVALID_REQUEST, "periodStart is outside the horizon (R27)")

    def unprepared(self, now: float) -> int:
        """The first boundary that no BSD/A can have prepared past."""
        at = int(now) + (self.config.ahead + 2) * self.config.period
        period = self.config.schedule().at(max(at, self.config.start))
        assert period is not None
        return period.start if period.start >= at else period.end

    # --- BSD/As that lost their store (R33) -----------------------------------------------------------------------------

    def loss(self, bsda: str) -> Loss | None:
        return self._losses.get((*self.id, bsda))

    def put_loss(self, bsda: str, loss: Loss) -> None:
        self._losses.put((*self.id, bsda), loss)

    def lose(self, bsda: str) -> None:
        """No key that this BSD/A can have now is given to it again."""
        self.put_loss(bsda, Loss(frozenset(r.material.key_id for r in self.all() if r.material.key_type != "PEAK")))

    # --- the life of a key ----------------------------------------------------------------------------------------------

    def age(self, now: float) -> None:
        """Keys begin, end, and are forgotten."""
        for row in self.all():
            m = row.material
            if row.state is KeyState.ISSUED and now >= m.valid_from:
                row = self._fire(row, KeyEvent.START)
            if row.state in (KeyState.ISSUED, KeyState.ON_AIR) and now >= self.off_air(row):
                self._fire(row, KeyEvent.END)
            elif row.state is KeyState.ENDED and now >= m.valid_to + ENDED_KEPT * self.config.period:
                self.forget(row)

    def times(self) -> list[float]:
        """When something of the keys changes."""
        times: list[float] = []
        for row in self.all():
            m = row.material
            times += [m.valid_from, m.valid_to - self.config.rollover_lead, m.valid_to, self.off_air(row)]
            times.append(m.valid_to + ENDED_KEPT * self.config.period)
        return times

    def off_air(self, row: LongTermKey) -> int:
        """When a key counts as off air (R10): a period after its end.

        Where another took its place early: when every BSD/A knows of that one, and what was prepared before has run out; until
        then one that could not be told may hold the old key up to the end it was told first (R9), unless its store was lost.
        """
        m, margin = row.material, self.config.period * (1 + self.config.ahead * (row.first_end is not None))
        follows = [r for r in self.all() if (r.material.key_type, r.material.valid_from) == (m.key_type, m.valid_to)]
        lost = {bsda for (_, _, bsda), loss in self._losses.under(self.id).items() if m.key_id in loss.keys}
        told = row.first_end is None or any((r.confirmed | lost).issuperset(self.config.bsdas) for r in follows)
        return (m.valid_to if told else max(m.valid_to, row.first_end or 0)) + margin

    def _fire(self, row: LongTermKey, event: KeyEvent) -> LongTermKey:
        after = replace(row, state=step(KEY, row.state, event))
        self.put(after)
        return after

    def cut_short(self, at: int) -> None:
        """The service's keys end at ``at``; STKMs that were sealed for later are given to nobody (R10)."""
        for row in self.service_keys():
            m = row.material
            if m.valid_from < at < m.valid_to:
                row = self._fire(row, KeyEvent.CUT_SHORT)
                self.put(replace(row, material=replace(m, valid_to=at), first_end=row.first_end or m.valid_to))
                identity = self.identity(row)
                for start in self._means.allocator.sealed(identity):
                    if start >= at:
                        self._means.allocator.burn(identity, start)

    def distrust(self, now: float) -> None:
        """The memory is an older copy (R2): what a BSD/A can have prepared by now was sealed by the memory that is lost."""
        for row in self.all():
            self._means.allocator.sent(self.identity(row), self.unprepared(now))

    def clock_back(self, now: float) -> None:
        """Forget keys that nobody would have made yet: the clock was put back, and their time must not come twice (R5).

        The next ones have numbers of their own, so that cards and devices take COUNTERs and timestamps that are lower (R3, R14).
        """
        config, chain = self.config, self.service_keys()
        latest = max(now, config.start) + max(config.rollover_lead, config.rekey_lead) + 2 * config.period
        if any(row.material.valid_from > latest for row in chain):
            for row in chain:
                if row.material.valid_from > now:
                    self.forget(row)
            self.alarm("clock-back", "keys of a time to come are given up")

    def forget(self, row: LongTermKey) -> None:
        """A key is gone for good."""
        self._rows.drop(self.row_key(row))
        self._means.ended(self.identity(row), row.material)
        self._means.allocator.forget(self.identity(row))
        self._means.rings.forget(row.material)

    # --- new ones -------------------------------------------------------------------------------------------------------

    def create(self, start: int, now: float, *, at_once: bool = False, but: Collection[KeyType] = ()) -> None:
        """New keys of all the stream's profiles, valid for ``key_period`` from ``start``; ``but``: there already."""
        config, randomness = self.config, self._means.randomness
        end = start + config.key_period
        if config.smartcard and "SEK" not in but:
            number = 1 + (self._number("SEK") - 1) % 0xFFFF  # 0000 would ask for the current one (smartcard-profile 4.3)
            key = KeyMaterial(
                key_type="SEK",
                key_id=config.key_domain_id + config.key_group.to_bytes(2, "big") + number.to_bytes(2, "big"),
                key=Secret(randomness(16)), stream=config.stream, valid_from=start, valid_to=end,
                csb_id=randomness(4), rand=randomness(16), ts_low=counter_of(start - 1), ts_high=counter_of(end - 1),
                first_counter=counter_of(start), granularity=config.granularity, next_counter=counter_of(start),
            )  # fmt: skip
            self._enter(key, now, at_once=at_once)
        if config.drm and "SEAK" not in but:
            key = KeyMaterial(
                key_type="SEAK", key_id=self._number("SEAK").to_bytes(4, "big"), key=Secret(randomness(32)),
                stream=config.stream, valid_from=start, valid_to=end, socID=config.socID, serviceBaseCID=config.serviceBaseCID,
            )  # fmt: skip
            self._enter(key, now, at_once=at_once)

    def create_peak(self, content: str, start: int, end: int, now: float) -> None:
        """The key of a programme."""
        number = PROGRAMME_EXTENSIONS + self._number("PEAK")
        key = KeyMaterial(
            key_type="PEAK", key_id=number.to_bytes(4, "big"), key=Secret(self._means.randomness(32)), stream=self.config.stream,
            valid_from=start, valid_to=end,
        )  # fmt: skip
        self._enter(key, now, content)

    def _enter(self, material: KeyMaterial, now: float, programme: str | None = None, *, at_once: bool = False) -> None:
        """Keep a new key and send its LTKMs."""
        policy = self.policy
        criteria = None if policy.access_criteria is None else tuple((c.tag, c.value) for c in policy.access_criteria)
        material = replace(
            material, protection_after_reception=policy.protection_after_reception,
            permissions_category=policy.permissions_category, access_criteria=criteria,
        )  # fmt: skip
        row = LongTermKey(material, KeyState.CREATED, programme, sealer=self.config.generation, at_once=at_once)
        self.put(row)
        self._means.issue(self.id, row, now)
        self._fire(row, KeyEvent.ISSUE)

    def _number(self, key_type: KeyType, by: int = 1, at_least: int = 0) -> int:
        """The next key number or CID extension; never used twice, stored before use."""
        last = max(at_least, self._numbers.get((*self.id, key_type)) or 0) + by
        self._numbers.put((*self.id, key_type), last)
        return last

    def skip(self, seconds: float, *, restored: bool = False, at_least: int = 0) -> None:
        """Pass over the key numbers that can have been given in the ``seconds`` since the last commit (R51).

        ``restored``: the store is known to be older than what has left; ``at_least``: the highest number that is known of.
        """
        by = keys_in(seconds, self.config) + (KEY_NUMBER_JUMP if restored else 0)
        for key_type in KEY_TYPES:  # also where the store knows of none yet
            self._number(key_type, by, at_least)
