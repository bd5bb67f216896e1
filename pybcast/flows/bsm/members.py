# SPDX-License-Identifier: Apache-2.0
"""The subscribers with cards, what they may see, their COUNTERs, and the letters made for them: all that there may be a million of.

A machine's other memory is its journal, every row of it at hand.  This is asked for what the work needs: one subscriber, or some
hundreds in their order.  ``JournalMembers`` keeps it in the journal, for tests and simulations; a server has it in its store.
DRM devices come by the group, and stay in the journal.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from pybcast.errors import LocalFlowError
from pybcast.flows.journal import Journal
from pybcast.flows.peers.messages import Profile
from pybcast.flows.serial import MOD
from pybcast.flows.stream.allocator import SmkCounters
from pybcast.keys import RIAK, SMK, SRK, UDK

StreamKey = tuple[str, int]
PageKey = tuple[str, int, str]
"""(service, stream, name) of a page of the carousel."""


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    """One subscriber and what registration gave him.

    Smartcard Profile: ``smk`` and ``idr`` (B-TID).  DRM Profile: ``group`` address, ``position``, and the device's own ``udk``
    and ``riak``.  Of those with an interaction channel: ``srk``, the key of its passwords (Smartcard), or ``udn``, the 20 digits
    that the device's certificate names (DRM).
    """

    id: str
    smk: SMK | None = None
    idr: str = ""
    group: bytes = b""
    position: int = 0
    udk: UDK | None = None
    riak: RIAK | None = None
    srk: SRK | None = None
    udn: str = ""

    @property
    def profile(self) -> Profile:
        return "smartcard" if self.smk is not None else "drm"

    @property
    def is_removed(self) -> bool:
        """Only the name and a digest of the SMK are left of him (:func:`removed`)."""
        return self.idr == REMOVED


REMOVED: Final = "\1"
"""The IDr of a subscriber with a card who was removed: no B-TID has this character."""


def removed(subscriber: Subscriber) -> Subscriber:
    """What is kept of a subscriber with a card who was removed.

    If he comes again with the same SMK, his COUNTER must go on where it was (R2): so his place, his COUNTER and a digest of his
    SMK stay, in the place of the key.
    """
    assert subscriber.smk is not None
    return Subscriber(id=subscriber.id, smk=SMK(_digest(subscriber.smk.reveal())), idr=REMOVED)


def has_smk(idr: str, held: bytes, smk: SMK) -> bool:
    """Whether ``smk`` is the one that is kept with the IDr ``idr``, itself or as a digest."""
    return held == (_digest(smk.reveal()) if idr == REMOVED else smk.reveal())


def _digest(smk: bytes) -> bytes:
    return hashlib.sha256(b"removed" + smk).digest()


@dataclass(frozen=True, kw_only=True)
class Right:
    """What a subscriber may see: a stream, or one programme of it, in [start, end) NTP seconds."""

    service: str
    stream: int
    start: int
    end: int
    content: str | None = None

    @property
    def key(self) -> StreamKey:
        return (self.service, self.stream)


@dataclass(frozen=True)
class Bundle:
    """The letters of one page, as they were made: written once, read when their turn comes to be delivered or issued again.

    ``data``: one after the other, of ``sizes`` bytes.  ``names``: whose each one is, a subscriber's or the address of a group.
    ``windows``: of LTKMs for cards, TS low and TS high.  Sizes and windows are big-endian 32-bit numbers.
    """

    data: bytes
    sizes: bytes
    names: tuple[str | bytes, ...]
    windows: bytes = b""

    @classmethod
    def of(cls, items: Sequence[bytes], names: Sequence[str | bytes], windows: Sequence[tuple[int, int]] = ()) -> Bundle:
        """Of single letters."""
        numbers = [number for window in windows for number in window]
        sizes = struct.pack(f">{len(items)}I", *map(len, items))
        return cls(b"".join(items), sizes, tuple(names), struct.pack(f">{len(numbers)}I", *numbers))

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> tuple[bytes, ...]:
        """Each letter."""
        ends = [0]
        for size in struct.unpack(f">{len(self.names)}I", self.sizes):
            ends.append(ends[-1] + size)
        data = self.data
        return tuple([data[a:b] for a, b in pairwise(ends)])

    def spans(self) -> Iterator[tuple[int, int]]:
        """The window of each letter."""
        return struct.iter_unpack(">II", self.windows)


class People(NamedTuple):
    """Some cards as columns.  ``smks``: 32 bytes each, in clear.  ``counters``: used last.  ``rights``: to one stream, [start, end)
    in NTP seconds.  ``places``: rising, in the order in which subscribers came, never another's.
    """

    names: Sequence[str]
    places: Sequence[int]
    idrs: Sequence[bytes]
    smks: Sequence[bytes]
    counters: Sequence[int]
    rights: Sequence[tuple[tuple[int, int], ...]]

    def __repr__(self) -> str:  # a tuple would show the keys
        return f"<People: {len(self.names)}>"


class Members(Protocol):
    """Reads see what was put before, stored or not.  What is put becomes durable with the outputs of the input being handled."""

    def bind(self, journal: Journal) -> None:
        """Called once, before all else, by the machine whose members these are."""

    def get(self, name: str) -> Subscriber | None:
        """A card's subscriber."""

    def known_as(self, idr: str) -> Subscriber | None:
        """The card's subscriber with a B-TID; of several, who came last."""

    def streams(self, name: str) -> list[StreamKey]:
        """The streams that a subscriber has rights to."""

    def place(self, name: str) -> int:
        """Where he stands in the order of subscribers; ``LocalFlowError`` when he is not known."""

    def put(self, subscribers: Sequence[Subscriber]) -> None:
        """New ones, or new keys of old ones: a new SMK restarts its COUNTER (smartcard-profile 4.6), an old one never (R2)."""

    def remove(self, name: str) -> None:
        """Forget a subscriber who is known and has no right; what stays of him is said in :func:`removed`."""

    def grant(self, rights: Sequence[tuple[str, Right]]) -> None:
        """Rights of subscribers that are known."""

    def rights(self, name: str, stream: StreamKey) -> list[Right]:
        """What a subscriber may see of a stream."""

    def forget(self, name: str, stream: StreamKey) -> None:
        """Drop all of it."""

    def count(self, stream: StreamKey) -> int:
        """How many rights to a stream there are."""

    def entitled(self, stream: StreamKey, after: int, limit: int) -> People:
        """The next ones who have a right to a stream, in order of their places, from the first after the place ``after``."""

    def some(self, names: Collection[str], stream: StreamKey) -> People:
        """These, in order of their places; who is not known is left out."""

    def spend(self, people: People, numbers: Sequence[int]) -> None:
        """So many COUNTERs of each have been used beyond ``people.counters``: rising, stored before they are used (R2)."""

    def jump(self, by: int, at_least: int = 0) -> None:
        """Every COUNTER moves forward by ``by``, from a base of ``at_least`` where the store knows of less (R2, R51)."""

    def told(self, key_id: bytes, names: Collection[str]) -> set[str]:
        """Which of them :meth:`tell` was called for."""

    def tell(self, key_id: bytes, names: Collection[str]) -> None:
        """Remember that their cards have been told of a key, as long as there is that key."""

    def untell(self, key_id: bytes) -> None:
        """The key is gone."""

    def keep(self, page: PageKey, bundle: Bundle) -> None:
        """The letters of a new page."""

    def letters(self, page: PageKey) -> Bundle:
        """The letters of a page that was kept and not dropped."""

    def drop(self, page: PageKey) -> None:
        """That page is gone."""


class JournalMembers:
    """``Members`` in the journal, all of it at hand."""

    TABLE: Final = "subscriber"
    RIGHT: Final = "right"
    TOLD: Final = "told"
    LETTERS: Final = "letters"

    def bind(self, journal: Journal) -> None:
        self._journal = journal
        self._counters = SmkCounters(journal)
        self._places: dict[str, int] = {}
        self._idrs: dict[str, dict[str, None]] = {}
        self._rights: dict[StreamKey, dict[str, list[Right]]] = {}
        for subscriber in journal.rows(self.TABLE, Subscriber).values():
            if subscriber.smk is not None:
                self._places[subscriber.id] = len(self._places) + 1
                self._idrs.setdefault(subscriber.idr, {})[subscriber.id] = None
        for key, right in journal.rows(self.RIGHT, Right).items():
            if key[0] in self._places:
                self._index(str(key[0]), right)

    def get(self, name: str) -> Subscriber | None:
        found = self._held(name)
        return None if found is None or found.is_removed else found

    def _held(self, name: str) -> Subscriber | None:
        return self._journal.get(self.TABLE, (name,), Subscriber) if name in self._places else None

    def known_as(self, idr: str) -> Subscriber | None:
        return self.get(max(self._idrs.get(idr, ("",)), key=lambda name: self._places.get(name, 0)))

    def streams(self, name: str) -> list[StreamKey]:
        return [stream for stream, rights in self._rights.items() if name in rights]

    def place(self, name: str) -> int:
        if self.get(name) is None:
            raise LocalFlowError(f"no subscriber {name}")
        return self._places[name]

    def put(self, subscribers: Sequence[Subscriber]) -> None:
        for subscriber in subscribers:
            held = self._held(subscriber.id)
            assert subscriber.smk is not None
            if held is None or held.smk is None or not has_smk(held.idr, held.smk.reveal(), subscriber.smk):
                self._counters.restart(subscriber.id)
            self._enter(held, subscriber)

    def remove(self, name: str) -> None:
        held = self.get(name)
        assert held is not None
        self._enter(held, removed(held))

    def _enter(self, held: Subscriber | None, subscriber: Subscriber) -> None:
        if held is not None and held.idr != subscriber.idr:
            del self._idrs[held.idr][held.id]
            if not self._idrs[held.idr]:
                del self._idrs[held.idr]
        self._idrs.setdefault(subscriber.idr, {})[subscriber.id] = None
        self._places.setdefault(subscriber.id, len(self._places) + 1)
        self._journal.put(self.TABLE, (subscriber.id,), subscriber)

    def grant(self, rights: Sequence[tuple[str, Right]]) -> None:
        for name, right in rights:
            self._journal.put(self.RIGHT, (name, *right.key, right.start, right.end, right.content), right)
            self._index(name, right)

    def _index(self, name: str, right: Right) -> None:
        rights = self._rights.setdefault(right.key, {}).setdefault(name, [])
        if right not in rights:
            rights.append(right)

    def rights(self, name: str, stream: StreamKey) -> list[Right]:
        return list(self._rights.get(stream, {}).get(name, ()))

    def forget(self, name: str, stream: StreamKey) -> None:
        self._rights.get(stream, {}).pop(name, None)
        for key in self._journal.select(self.RIGHT, (name, *stream), Right):
            self._journal.drop(self.RIGHT, key)

    def count(self, stream: StreamKey) -> int:
        return sum(map(len, self._rights.get(stream, {}).values()))

    def entitled(self, stream: StreamKey, after: int, limit: int) -> People:
        places = ((self._places[name], name) for name in self._rights.get(stream, ()))
        return self._people([name for _, name in heapq.nsmallest(limit, (p for p in places if p[0] > after))], stream)

    def some(self, names: Collection[str], stream: StreamKey) -> People:
        return self._people(sorted({name for name in names if self.get(name) is not None}, key=self.place), stream)

    def _people(self, names: list[str], stream: StreamKey) -> People:
        found = [row for name in names if (row := self.get(name)) is not None and row.smk is not None]
        return People(
            names,
            [self._places[name] for name in names],
            [row.idr.encode() for row in found],
            [row.smk.reveal() for row in found if row.smk is not None],
            [self._counters.last(name) for name in names],
            [tuple((r.start, r.end) for r in self.rights(name, stream)) for name in names],
        )

    def spend(self, people: People, numbers: Sequence[int]) -> None:
        for name, counter, number in zip(people.names, people.counters, numbers, strict=True):
            self._counters.reach(name, (counter + number) % MOD)

    def jump(self, by: int, at_least: int = 0) -> None:
        self._counters.jump(by, at_least)

    def told(self, key_id: bytes, names: Collection[str]) -> set[str]:
        return {name for name in names if self._journal.get(self.TOLD, (key_id, name), bool)}

    def tell(self, key_id: bytes, names: Collection[str]) -> None:
        for name in names:
            self._journal.put(self.TOLD, (key_id, name), True)

    def untell(self, key_id: bytes) -> None:
        for key in self._journal.select(self.TOLD, (key_id,), bool):
            self._journal.drop(self.TOLD, key)

    def keep(self, page: PageKey, bundle: Bundle) -> None:
        self._journal.put(self.LETTERS, page, bundle)

    def letters(self, page: PageKey) -> Bundle:
        found = self._journal.get(self.LETTERS, page, Bundle)
        assert found is not None, "pages and their letters come and go together"
        return found

    def drop(self, page: PageKey) -> None:
        self._journal.drop(self.LETTERS, page)
