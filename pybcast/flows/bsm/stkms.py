# SPDX-License-Identifier: Apache-2.0
"""The STKMs of one stream: sealed here (F3), or by the BSD/A (F6), and given to who asks (F5, R35)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pybcast import codec
from pybcast.errors import BcastError, PeerFlowError, WireError
from pybcast.flows.bsm.attempts import Attempts
from pybcast.flows.bsm.keychain import KeyChain, LongTermKey, Means
from pybcast.flows.bsm.members import Right
from pybcast.flows.bsm.programmes import Programmes
from pybcast.flows.journal import Table
from pybcast.flows.peers.messages import SERVICE_KEY, BackendMessage, KeyMaterial, PartialItem, Profile, StkmItem
from pybcast.flows.serial import near
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import Ask
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import Status
from pybcast.messages import PartialDrmStkm, PartialSmartcardStkm


@dataclass(frozen=True)
class Later:
    """No STKM yet.  ``at``: NTP seconds from which one that is sealed already may go out; ``None``: none is sealed."""

    at: float | None = None


class _Wanted(NamedTuple):
    """A partial STKM that may be completed, and its place in the message."""

    n: int
    item: PartialItem
    content: stkm.Partial
    ask: Ask


@dataclass(frozen=True)
class _Edges:
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


RECEIVED: Final = Table("received", tuple, "service stream profile first")
"""STKMs that the BSD/A sealed (F6), those that came together in one row, in the order of their time."""


class Stkms:
    """The STKMs of one stream."""

    def __init__(self, means: Means, keys: KeyChain, attempts: Attempts, programmes: Programmes) -> None:
        self._means, self._keys, self._attempts, self._programmes = means, keys, attempts, programmes
        self._rows = means.journal.open(RECEIVED)

    # --- sealed here (F3) -----------------------------------------------------------------------------------------------

    def complete(self, profile: Profile, items: Iterable[PartialItem], now: float) -> list[StkmItem]:
        """What becomes of each item.  One that overlaps another waits for what that one becomes."""
        return [done for run in _runs(items) for done in self._complete_run(profile, run, now)]

    def _complete_run(self, profile: Profile, items: Sequence[PartialItem], now: float) -> list[StkmItem]:
        """The same of items that do not overlap; those of the same keys are sealed together."""
        keys, config, kind = self._keys, self._keys.config, stkm.kind_of(profile)
        chain = keys.all()
        edges, stops = self._edges(items, chain), self._attempts.ends()
        span, rows = (0, 0.0), dict[str, LongTermKey]()
        done: dict[int, StkmItem] = {}
        groups: dict[tuple[int, ...], tuple[dict[str, LongTermKey], list[_Wanted]]] = {}
        for n, item in enumerate(items):
            edge = edges.first_in(item.period_start, item.period_end)
            if edge is not None:  # R32: the BSD/A learns where to cut
                done[n] = _refused(item, Status.INFORMATION_INVALID, edge)
                continue
            try:
                keys.check_horizon(item, now)
                content = codec.decode(item.content.reveal(), kind, partial=True)
                assert isinstance(content, PartialDrmStkm | PartialSmartcardStkm)
                period = Period(0, item.period_start, item.period_end)
                if stops is not None and period.end > stops:
                    raise PeerFlowError(Status.DELAYED, "its key may end before it (R50)")
                if not span[0] <= period.start < span[1]:
                    rows, span = keys.at(period, chain), edges.around(period.start)
                first = rows.get(SERVICE_KEY[profile])
                if first is None:
                    coming = any(r.material.valid_to <= period.start for r in chain)
                    raise PeerFlowError(Status.DELAYED if coming else Status.NON_EXISTENT, "no key for that period")
                if first.sealer != "bsm":
                    raise PeerFlowError(Status.INVALID_REQUEST, "the key of that period is the BSD/A's to seal under (R1)")
                ask = Ask(period, stkm.owned_digest(config, period, content), item.tek_id)
            except (PeerFlowError, WireError) as error:
                done[n] = _refused(item, _status_of(error, item))
            else:
                groups.setdefault(tuple(map(id, rows.values())), (rows, []))[1].append(_Wanted(n, item, content, ask))
        for rows, wanted in groups.values():
            done |= self._seal(profile, rows, wanted)
        return [done[n] for n in range(len(items))]

    def _edges(self, items: Collection[PartialItem], chain: list[LongTermKey]) -> _Edges:
        """Where, in the time of these items, a key, a programme or a period of the other headend begins or ends (R9, R33).
        ``chain``: the stream's keys.
        """
        low, high = min((i.period_start for i in items), default=0), max((i.period_end for i in items), default=0)
        keys = sorted({e for r in chain for e in (r.material.valid_from, r.material.valid_to)})
        others = [e for p in self._programmes.all() for e in (p.start, p.end)]
        for row in chain:
            others += self._means.allocator.edges(self._keys.identity(row), low, high)
        return _Edges(keys, sorted({*keys, *others}))

    def _seal(self, profile: Profile, rows: dict[str, LongTermKey], wanted: list[_Wanted]) -> Iterator[tuple[int, StkmItem]]:
        """Seal items that have the same keys, through the allocator (R1)."""
        held = {key_type: row.material for key_type, row in rows.items()}
        ends, identity = min(m.valid_to for m in held.values()), self._keys.identity(rows[SERVICE_KEY[profile]])
        config, policy = self._keys.config, self._keys.policy

        def make(new: list[int]) -> list[bytes | BcastError]:
            contents = [(wanted[n].content, wanted[n].ask.period) for n in new]
            return stkm.seal_many(contents, config, held, policy, self._means.rings)

        made = self._means.allocator.seal_many(identity, [one.ask for one in wanted], make)
        for (n, item, _, _), data in zip(wanted, made, strict=True):
            if isinstance(data, bytes):
                yield n, StkmItem(
                    stream=item.stream, period_start=item.period_start, period_end=item.period_end, tek_id=item.tek_id,
                    content=data, authority_end=ends,
                )  # fmt: skip
            else:
                yield n, _refused(item, _status_of(data, item))

    # --- sealed by the BSD/A (F6) ----------------------------------------------------------------------------------------------

    def deliver(self, message: BackendMessage, now: float) -> BackendMessage:
        """STKMs sealed by the BSD/A.  All or nothing; of a batch that comes late what is still of use."""
        items, profile = _good(message), message.profile
        items = _not_over(items, now) or items
        assert profile is not None
        for error in self._check(profile, items, now):
            if error is not None:
                raise error
        self._keep(profile, items)
        if items:
            self._keys.flow("F6", profile)
        return message.answer(Status.SUCCESS, now=now)

    def answered(self, profile: Profile, answer: BackendMessage, now: float) -> None:
        """The same, as they were asked for: what is wrong with one costs the others nothing."""
        items = _not_over(_good(answer), now)
        wrong = self._check(profile, items, now)
        for error in wrong:
            if error is not None:
                self._keys.alarm("stkm-refused", str(error))
        self._keep(profile, [item for item, error in zip(items, wrong, strict=True) if error is None])
        self._keys.flow("F6", profile)

    def _keep(self, profile: Profile, items: Iterable[StkmItem]) -> None:
        """STKMs that came together are one row, with what the row of that name has beside them."""
        found = {item.period_start: item for item in items}
        if found:
            row_key = (*self._keys.id, profile, min(found))
            before = {item.period_start: item for item in self._rows.get(row_key) or ()}
            row = tuple(item for _, item in sorted((before | found).items()))
            self._rows.put(row_key, row)
            self._means.wakes.sooner(self._keys.id, row[-1].period_end)

    def _check(self, profile: Profile, items: Sequence[StkmItem], now: float) -> list[PeerFlowError | None]:
        """What is wrong with each: it must open under the key of its period, and be of that period."""
        chain, kind, first = self._keys.all(), stkm.kind_of(profile), SERVICE_KEY[profile]
        wrong: list[PeerFlowError | None] = []
        groups: dict[tuple[int, ...], tuple[dict[str, KeyMaterial], list[int]]] = {}
        for n, item in enumerate(items):
            try:
                self._keys.check_horizon(item, now)
                rows = self._keys.at(Period(0, item.period_start, item.period_end), chain)
                if first not in rows:
                    raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "no key for that period")
            except PeerFlowError as error:
                wrong.append(error)
            else:
                wrong.append(None)
                held = {key_type: row.material for key_type, row in rows.items()}
                groups.setdefault(tuple(map(id, rows.values())), (held, []))[1].append(n)
        for held, which in groups.values():
            ring = self._means.rings.prepared(kind, held, "open")
            with codec.open_many([items[n].content for n in which], ring, kind) as opened:
                whens = opened.records.column("timestamp" if profile == "drm" else "counter")
                for i, n in enumerate(which):
                    unopened = opened.error(i)
                    when = whens[i] if profile == "drm" else near(whens[i], now)
                    if unopened is not None:
                        why = f"does not open under the key of its period: {unopened}"
                        wrong[n] = PeerFlowError(Status.WRONG_KEY_INFORMATION, why)
                    elif when != items[n].period_start:
                        wrong[n] = PeerFlowError(Status.WRONG_KEY_INFORMATION, "is not of the period it says")
        return wrong

    def cut_short(self, at: int) -> None:
        """Their key ends at ``at`` (R10)."""
        for row_key, items in self._rows.under(self._keys.id).items():
            kept = tuple(item for item in items if item.period_start < at)
            if not kept:
                self._rows.drop(row_key)
            elif len(kept) < len(items):
                self._rows.put(row_key, kept)

    def age(self, now: float) -> None:
        """Those that are over are forgotten, with the last of those that they came with."""
        for row_key, items in self._rows.under(self._keys.id).items():
            if items[-1].period_end <= now:
                self._rows.drop(row_key)

    def times(self) -> list[float]:
        """When some are over."""
        return [items[-1].period_end for items in self._rows.under(self._keys.id).values()]

    # --- given to who asks -------------------------------------------------------------------------------------------

    def at_hand(self, profile: Profile) -> list[StkmItem]:
        """Every STKM, in order of its period; none whose place another one may take (R50)."""
        ends = self._attempts.ends()
        found = {item.period_start: item for row in self._keys.all(SERVICE_KEY[profile]) for item in self._keys.sealed(row)}
        for row_key, items in self._rows.under(self._keys.id).items():
            found |= {item.period_start: item for item in items} if row_key[2] == profile else {}
        return [found[start] for start in sorted(found) if ends is None or start < ends]

    def coming(self, profile: Profile, now: float) -> list[tuple[StkmItem, float]]:
        """Those that may be of use to a terminal, each with the time from which it may go out."""
        recovery, before = self._means.recoveries.of(self._keys.config), None
        found: list[tuple[StkmItem, float]] = []
        for item in self.at_hand(profile):
            if recovery is not None and item.period_start <= recovery.until:
                continue  # what the lost store sealed for that period may be on air: two STKMs for one period (R50)
            of = item if before is None or before.period_end != item.period_start else before
            before = item
            if item.period_end > now:
                found.append((item, item.period_start - (of.period_end - of.period_start) / 2))  # lead of the period before (R6)
        return found


def _refused(item: PartialItem, status: int, edge: int | None = None) -> StkmItem:
    return StkmItem(
        stream=item.stream, period_start=item.period_start, period_end=item.period_end, tek_id=item.tek_id, status=status,
        authority_end=edge,
    )  # fmt: skip


def _status_of(error: BcastError, item: PartialItem) -> int:
    """What a BSD/A is told of an item that is not sealed (R27)."""
    if isinstance(error, PeerFlowError):
        return error.status
    late = getattr(error, "field", "") == "timestamp" and item.period_start > stkm.LAST_MJD_TIME
    return Status.GENERATION_FAILURE if late else Status.INFORMATION_INVALID


def _runs(items: Iterable[PartialItem]) -> Iterator[list[PartialItem]]:
    """The items in runs, in each of which none begins before the one ahead of it ends."""
    run: list[PartialItem] = []
    for item in items:
        if run and item.period_start < run[-1].period_end:
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _good(message: BackendMessage) -> list[StkmItem]:
    """The STKMs that a message brings."""
    return [item for item in message.items if isinstance(item, StkmItem) and item.status == Status.SUCCESS]


def _not_over(items: Iterable[StkmItem], now: float) -> list[StkmItem]:
    """Those that may still be of use (R27)."""
    return [item for item in items if item.period_start >= now - (item.period_end - item.period_start)]


def fetched(
    items: Sequence[tuple[StkmItem, float]], rights: Iterable[Right], after: int | None, now: float
) -> StkmItem | Later | PeerFlowError:
    """What a subscriber with some rights to the stream gets of what is ``coming``, or when to ask again, or his refusal."""
    rights = [r for r in rights if r.end > now]
    if not rights:
        return PeerFlowError(Status.NOT_PERMITTED, "no right to the service")
    for item, opens in items:
        if (after is None or item.period_start > after) and any(r.start <= item.period_start < r.end for r in rights):
            return item if opens <= now else Later(opens)
    return Later()
