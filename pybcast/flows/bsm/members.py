# SPDX-License-Identifier: Apache-2.0
"""The subscribers with cards, what they may see, their COUNTERs, and the letters made for them: all that there may be a million of.

A machine's other memory is its journal, every row of it at hand.  This is asked for what the work needs: one subscriber, or some
hundreds in their order.  ``JournalMembers`` keeps it in the journal, for tests and simulations; a server has it in its store.
DRM devices come by the group, and stay in the journal (``Subscribers``).
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple, Protocol

from pybcast.errors import LocalFlowError
from pybcast.flows.journal import Journal, Table
from pybcast.flows.peers.messages import Profile
from pybcast.flows.serial import MOD
from pybcast.flows.stream.allocator import SmkCounters
from pybcast.flows.stream.config import StreamId
from pybcast.keys import RIAK, SMK, SRK, UDK, UGK, GroupRoot

PageId = tuple[str, int, str]
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
class Group:
    """A subscriber group of the DRM Profile: ``address`` 4 bytes, 256 or 512 positions, and its keys (drm-profile 2.3)."""

    address: bytes
    size: Literal[256, 512]
    root: GroupRoot
    ugk: UGK
    riak: RIAK


@dataclass(frozen=True, kw_only=True)
class Right:
    """What a subscriber may see: a stream, or one programme of it, in [start, end) NTP seconds."""

    service: str
    stream: int
    start: int
    end: int
    content: str | None = None

    @property
    def stream_id(self) -> StreamId:
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

    def streams(self, name: str) -> list[StreamId]:
        """The streams that a subscriber has rights to."""

    def place(self, name: str) -> int:
        """Where he stands in the order of subscribers; ``LocalFlowError`` when he is not known."""

    def put(self, subscribers: Sequence[Subscriber]) -> None:
        """New ones, or new keys of old ones: a new SMK restarts its COUNTER (smartcard-profile 4.6), an old one never (R2)."""

    def remove(self, name: str) -> None:
        """Forget a subscriber who is known and has no right; what stays of him is said in :func:`removed`."""

    def grant(self, rights: Sequence[tuple[str, Right]]) -> None:
        """Rights of subscribers that are known."""

    def rights(self, name: str, stream_id: StreamId) -> list[Right]:
        """What a subscriber may see of a stream."""

    def forget(self, name: str, stream_id: StreamId) -> None:
        """Drop all of it."""

    def count(self, stream_id: StreamId) -> int:
        """How many rights to a stream there are."""

    def entitled(self, stream_id: StreamId, after: int, limit: int) -> People:
        """The next ones who have a right to a stream, in order of their places, from the first after the place ``after``."""

    def some(self, names: Collection[str], stream_id: StreamId) -> People:
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

    def keep(self, page: PageId, bundle: Bundle) -> None:
        """The letters of a new page."""

    def letters(self, page: PageId) -> Bundle:
        """The letters of a page that was kept and not dropped."""

    def drop(self, page: PageId) -> None:
        """That page is gone."""


SUBSCRIBERS: Final = Table("subscriber", Subscriber, "subscriber")
RIGHTS: Final = Table("right", Right, "subscriber service stream start end content")
GROUPS: Final = Table("group", Group, "address")
TOLD: Final = Table("told", bool, "key_id subscriber")
LETTERS: Final = Table("letters", Bundle, "service stream page")


class _Rights:
    """The rights of some subscribers, in the journal."""

    def _open(self, journal: Journal, whose: Container[str]) -> None:
        self._right_rows = journal.open(RIGHTS)
        self._rights: dict[StreamId, dict[str, list[Right]]] = {}
        for (name, *_), right in self._right_rows.all().items():
            if name in whose:
                self._index(str(name), right)

    def _index(self, name: str, right: Right) -> None:
        rights = self._rights.setdefault(right.stream_id, {}).setdefault(name, [])
        if right not in rights:
            rights.append(right)

    def streams(self, name: str) -> list[StreamId]:
        return [stream for stream, rights in self._rights.items() if name in rights]

    def rights(self, name: str, stream_id: StreamId) -> list[Right]:
        return list(self._rights.get(stream_id, {}).get(name, ()))

    def grant(self, rights: Sequence[tuple[str, Right]]) -> None:
        for name, right in rights:
            self._right_rows.put((name, *right.stream_id, right.start, right.end, right.content), right)
            self._index(name, right)

    def forget(self, name: str, stream_id: StreamId) -> None:
        self._rights.get(stream_id, {}).pop(name, None)
        for row_key in self._right_rows.under((name, *stream_id)):
            self._right_rows.drop(row_key)


Told = tuple[list[str], list[bytes]]
"""Whom to tell of a change: subscribers with cards, and groups of devices."""


class Subscribers(_Rights):
    """Everyone by name, and his rights: DRM devices and their groups, which are held here, and cards (``members``).

    Methods for several do all or nothing: ``LocalFlowError`` comes before any change.
    """

    def __init__(self, journal: Journal, members: Members) -> None:
        self._members, self._rows, self._groups = members, journal.open(SUBSCRIBERS), journal.open(GROUPS)
        devices = {row.id: row for row in self._rows.all().values() if row.smk is None}
        self._open(journal, devices)
        self._udns = {row.udn: row.id for row in devices.values() if row.udn}

    def add_group(self, group: Group) -> None:
        self._groups.put((group.address,), group)

    def group(self, address: bytes) -> Group | None:
        return self._groups.get((address,))

    def add(self, subscribers: Sequence[Subscriber]) -> None:
        """New subscribers, or new keys of old ones.  ``LocalFlowError`` for a device of a group that is not known, for another
        device's UDN, and for a name that a card has and a device asks for, or the reverse.
        """
        udns: dict[str, str] = {}
        for one in subscribers:
            if one.profile == "drm" and self.group(one.group) is None:
                raise LocalFlowError(f"subscriber {one.id}: its group is not known")
            if one.udn and udns.setdefault(one.udn, self._udns.get(one.udn, one.id)) != one.id:
                raise LocalFlowError(f"subscriber {one.id}: its UDN is that of {udns[one.udn]}")
            held = self.find(one.id)
            if held is not None and held.profile != one.profile:
                raise LocalFlowError(f"subscriber {one.id} is there with another profile")
        self._members.put([one for one in subscribers if one.smk is not None])
        for one in subscribers:
            if one.smk is None:
                before = self._rows.get((one.id,))
                if before is not None:
                    self._udns.pop(before.udn, None)
                if one.udn:
                    self._udns[one.udn] = one.id
                self._rows.put((one.id,), one)

    def find(self, name: str) -> Subscriber | None:
        found = self._members.get(name) or self._rows.get((name,))
        return None if found is None or found.is_removed else found

    def get(self, name: str) -> Subscriber:
        """``LocalFlowError`` for one that is not known."""
        found = self.find(name)
        if found is None:
            raise LocalFlowError(f"no subscriber {name}")
        return found

    def device(self, udn: str) -> Subscriber | None:
        """The subscriber whose device has this UDN."""
        return self._rows.get((self._udns.get(udn),))

    def devices(self, stream_id: StreamId) -> list[Subscriber]:
        """Those whose devices have a right to a stream."""
        return [self.get(name) for name in self._rights.get(stream_id, ())]

    def streams(self, name: str) -> list[StreamId]:
        """The streams that a subscriber has rights to."""
        return super().streams(name) or self._members.streams(name)

    def rights(self, name: str, stream_id: StreamId) -> list[Right]:
        return super().rights(name, stream_id) or self._members.rights(name, stream_id)

    def grant_to(self, rights: Sequence[tuple[str, Right]]) -> Told:
        """Rights to a stream."""
        known = [(self.get(name), right) for name, right in rights]
        self.grant([(one.id, right) for one, right in known if one.smk is None])
        self._members.grant([(one.id, right) for one, right in known if one.smk is not None])
        return _told(one for one, _ in known)

    def forget_all(self, stream_id: StreamId, names: Collection[str]) -> Told:
        """Drop every right of these subscribers to a stream."""
        known = [self.get(name) for name in names]
        for one in known:
            self._forget(one, stream_id)
        return _told(known)

    def _forget(self, one: Subscriber, stream_id: StreamId) -> None:
        self.forget(one.id, stream_id) if one.smk is None else self._members.forget(one.id, stream_id)

    def remove(self, name: str) -> None:
        """Forget a subscriber, and what rights he has to streams that are configured no more."""
        one = self.get(name)
        for stream in self.streams(name):
            self._forget(one, stream)
        if one.smk is not None:
            self._members.remove(name)
        else:
            self._udns.pop(one.udn, None)
            self._rows.drop((name,))


def _told(them: Iterable[Subscriber]) -> Told:
    them = list(them)
    cards = dict.fromkeys(one.id for one in them if one.smk is not None)
    return list(cards), list(dict.fromkeys(one.group for one in them if one.smk is None))


class JournalMembers(_Rights):
    """``Members`` in the journal, all of it at hand."""

    def bind(self, journal: Journal) -> None:
        self._rows, self._told, self._letters = journal.open(SUBSCRIBERS), journal.open(TOLD), journal.open(LETTERS)
        self._counters = SmkCounters(journal)
        self._places: dict[str, int] = {}
        self._idrs: dict[str, dict[str, None]] = {}
        for subscriber in self._rows.all().values():
            if subscriber.smk is not None:
                self._places[subscriber.id] = len(self._places) + 1
                self._idrs.setdefault(subscriber.idr, {})[subscriber.id] = None
        self._open(journal, self._places)

    def get(self, name: str) -> Subscriber | None:
        found = self._held(name)
        return None if found is None or found.is_removed else found

    def _held(self, name: str) -> Subscriber | None:
        return self._rows.get((name,)) if name in self._places else None

    def known_as(self, idr: str) -> Subscriber | None:
        return self.get(max(self._idrs.get(idr, ("",)), key=lambda name: self._places.get(name, 0)))

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
        self._rows.put((subscriber.id,), subscriber)

    def count(self, stream_id: StreamId) -> int:
        return sum(map(len, self._rights.get(stream_id, {}).values()))

    def entitled(self, stream_id: StreamId, after: int, limit: int) -> People:
        places = ((self._places[name], name) for name in self._rights.get(stream_id, ()))
        return self._people([name for _, name in heapq.nsmallest(limit, (p for p in places if p[0] > after))], stream_id)

    def some(self, names: Collection[str], stream_id: StreamId) -> People:
        return self._people(sorted({name for name in names if self.get(name) is not None}, key=self.place), stream_id)

    def _people(self, names: list[str], stream_id: StreamId) -> People:
        found = [row for name in names if (row := self.get(name)) is not None and row.smk is not None]
        return People(
            names,
            [self._places[name] for name in names],
            [row.idr.encode() for row in found],
            [row.smk.reveal() for row in found if row.smk is not None],
            [self._counters.last(name) for name in names],
            [tuple((r.start, r.end) for r in self.rights(name, stream_id)) for name in names],
        )

    def spend(self, people: People, numbers: Sequence[int]) -> None:
        for name, counter, number in zip(people.names, people.counters, numbers, strict=True):
            self._counters.reach(name, (counter + number) % MOD)

    def jump(self, by: int, at_least: int = 0) -> None:
        self._counters.jump(by, at_least)

    def told(self, key_id: bytes, names: Collection[str]) -> set[str]:
        return {name for name in names if self._told.get((key_id, name))}

    def tell(self, key_id: bytes, names: Collection[str]) -> None:
        for name in names:
            self._told.put((key_id, name), True)

    def untell(self, key_id: bytes) -> None:
        for row_key in self._told.under((key_id,)):
            self._told.drop(row_key)

    def keep(self, page: PageId, bundle: Bundle) -> None:
        self._letters.put(page, bundle)

    def letters(self, page: PageId) -> Bundle:
        found = self._letters.get(page)
        assert found is not None, "pages and their letters come and go together"
        return found

    def drop(self, page: PageId) -> None:
        self._letters.drop(page)
