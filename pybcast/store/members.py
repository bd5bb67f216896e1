# SPDX-License-Identifier: Apache-2.0
"""``Members`` in the store: read when they are asked for, so that a million of them take the memory of one page of letters.

What the machine has put and the database does not show yet is laid over what is read: a machine works on while what it did is
written.  COUNTERs are all at hand, 4 bytes each: nothing that is read can be older than what was used.
"""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, Final

from pybcast.errors import LocalFlowError
from pybcast.flows.bsm.members import REMOVED, Bundle, PageId, People, Right, Subscriber, has_smk, removed
from pybcast.flows.journal import Journal
from pybcast.flows.serial import MOD
from pybcast.flows.stream.allocator import SmkCounters
from pybcast.flows.stream.config import StreamId
from pybcast.keys import SMK, SRK
from pybcast.store.database import LETTERS, Database
from pybcast.store.people import (
    ACCESS,
    COUNTER,
    FORGET,
    GRANT,
    MEMBER,
    NO_ACCESS,
    STREAM,
    TELL,
    UNTELL,
    Change,
    counter_of,
    counter_row,
    right_row,
    smk_of,
    srk_of,
    stream_of,
    stream_row,
    told_of,
    told_row,
    window_of,
)
from pybcast.store.protocol import StoreDamaged
from pybcast.store.wrapping import RowWrap

_MEMBER: Final = "SELECT id, name, idr, smk, kek, crc FROM member WHERE name = ?"
_KNOWN_AS: Final = "SELECT id, name, idr, smk, kek, crc FROM member WHERE idr = ? ORDER BY id DESC"
_SRK: Final = "SELECT member, srk, kek, crc FROM member_srk WHERE member = ?"
_STREAMS: Final = "SELECT DISTINCT stream FROM member_right WHERE member = ?"
_RIGHTS: Final = 'SELECT stream, member, start, "end", content, crc FROM member_right WHERE stream = ? AND member = ?'
_COLUMNS: Final = 'm.id, m.name, m.idr, m.smk, m.kek, m.crc, r.start, r."end", r.content, r.crc'
_NEXT: Final = (
    f"SELECT {_COLUMNS} FROM member_right r JOIN member m ON m.id = r.member WHERE r.stream = ? AND r.member > ?"
    " ORDER BY r.member LIMIT ?"
)
_SOME: Final = (
    f"SELECT {_COLUMNS} FROM member m LEFT JOIN member_right r ON r.stream = ? AND r.member = m.id"
    " WHERE m.name IN (SELECT value FROM json_each(?)) ORDER BY m.id"
)
_TOLD: Final = (
    "SELECT m.name, t.key, t.member, t.crc FROM member m JOIN member_told t ON t.key = ? AND t.member = m.id"
    " WHERE m.name IN (SELECT value FROM json_each(?))"
)

_COUNTERS: Final = "SELECT member, value FROM member_counter WHERE member > ? ORDER BY member LIMIT 10000"
_END: Final = 1 << 62  # beyond every place

_Span = tuple[int, int]
_Person = tuple[str, bytes, bytes]
"""Name, IDr, SMK."""


class StoredMembers:
    """``Members`` of one machine.

    ``reader``: the database, opened for reading beside its writer.  ``keks``: the key-encryption keys at work, by number.
    """

    def __init__(self, reader: Database, keks: Callable[[], Mapping[int, RowWrap]]) -> None:
        self._reader, self._writers_keks = reader, keks
        self._keks: dict[int, RowWrap] = {}
        self._pending: deque[tuple[Change, list[Callable[[Change], None]]]] = deque()
        self._input = -1
        self._ids: dict[str, tuple[Change, int]] = {}
        self._people: dict[int, tuple[Change, Subscriber]] = {}
        self._rights: dict[int, dict[int, tuple[Change, tuple[Right, ...]]]] = {}
        self._told: dict[tuple[bytes, str], Change] = {}
        self._letters: dict[PageId, tuple[Change, Bundle]] = {}

    def close(self) -> None:
        """Let go of the database."""
        self._reader.close()

    def bind(self, journal: Journal) -> None:
        self._journal, self._base = journal, SmkCounters(journal)
        self._counters = array("I", [0])
        while rows := self._query(_COUNTERS, (len(self._counters) - 1,)):
            for member, value in rows:
                if member != len(self._counters):
                    raise StoreDamaged(f"table member_counter: member {len(self._counters)} is missing")
                self._counters.append(counter_of(member, value))
        streams = self._query("SELECT id, service, stream, crc FROM member_stream")
        self._streams: dict[StreamId, int] = {stream_of(*row): row[0] for row in streams}
        counts = self._query("SELECT stream, count(*) FROM member_right GROUP BY stream")
        self._counts: dict[int, int] = dict(counts)

    def _query(self, sql: str, args: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return self._reader.query(sql, args)

    # --- what is on its way into the database ---------------------------------------------------------------------------

    def _change(self) -> tuple[Change, list[Callable[[Change], None]]]:
        """The change of the input being handled, and what is to be done when it is stored."""
        if self._input != self._journal.inputs:
            self._input = self._journal.inputs
            self._pending.append((Change(), []))
            self._journal.pass_on("members", (), self._pending[-1][0])
        return self._pending[-1]

    def _settle(self) -> None:
        """Take away the cover of what the database shows.  Call it before reading: what is stored later stays covered."""
        while self._pending and self._pending[0][0].done:
            change, uncover = self._pending.popleft()
            for action in uncover:
                action(change)
        self._keks |= self._writers_keks()

    def _step(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> Change:
        change, _ = self._change()
        change.add(sql, rows)
        return change

    def _later(self, action: Callable[[Change], None]) -> None:
        self._change()[1].append(action)

    # --- one by one -----------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> int | None:
        covered = self._ids.get(name)
        if covered is not None:
            return covered[1]
        found = self._query("SELECT id FROM member WHERE name = ?", (name,))
        return found[0][0] if found else None

    def place(self, name: str) -> int:
        self._settle()
        found, covered = self._id(name), self._ids.get(name)
        gone = found is not None and (
            self._people[found][1].is_removed
            if covered is not None
            else self._query("SELECT idr FROM member WHERE id = ?", (found,)) == [(REMOVED,)]
        )
        if found is None or gone:
            raise LocalFlowError(f"no subscriber {name}")
        return found

    def get(self, name: str) -> Subscriber | None:
        self._settle()
        covered = self._ids.get(name)
        found = self._people[covered[1]][1] if covered is not None else None
        for row in self._query(_MEMBER, (name,)) if covered is None else ():
            found = self._subscriber(*row)
        return None if found is None or found.is_removed else found

    def _subscriber(self, member: int, name: str, idr: str, *rest: Any) -> Subscriber:
        srk = next((srk_of(self._keks, *row) for row in self._query(_SRK, (member,))), None)
        return Subscriber(id=name, smk=SMK(smk_of(self._keks, member, name, idr, *rest)), idr=idr, srk=srk)

    def known_as(self, idr: str) -> Subscriber | None:
        self._settle()
        if idr == REMOVED:
            return None
        found = {member: one for member, (_, one) in self._people.items() if one.idr == idr}
        for row in self._query(_KNOWN_AS, (idr,)):
            if row[0] not in self._people:
                found[row[0]] = self._subscriber(*row)
                break
        return found[max(found)] if found else None

    def streams(self, name: str) -> list[StreamId]:
        self._settle()
        member = self._id(name)
        if member is None:
            return []
        numbers = {number for (number,) in self._query(_STREAMS, (member,))}
        numbers |= {number for number, covers in self._rights.items() if member in covers}
        keys = {number: key for key, number in self._streams.items() if number in numbers}
        return [keys[number] for number in sorted(numbers) if self._held(number, member, keys[number])]

    def put(self, subscribers: Sequence[Subscriber]) -> None:
        if not subscribers:
            return
        members, counters, closed = [], [], []
        access: dict[int, SRK] = {}
        change, later = self._change()
        found = self._known([one.id for one in subscribers], ("", 0))
        held = dict(zip(found.names, zip(found.idrs, found.smks, strict=True), strict=True))
        for one in subscribers:
            assert one.smk is not None
            member = self._id(one.id) if one.id in held else None
            if member is None:
                member = len(self._counters)
                self._counters.append(0)
            idr, smk = held.get(one.id, (b"", b""))
            if not has_smk(idr.decode(), smk, one.smk):
                self._counters[member] = 0
                counters.append(counter_row(member, 0))
            if one.srk is not None:
                access[member] = one.srk
            elif one.id in held:
                access.pop(member, None)
                closed.append((member,))
            held[one.id] = one.idr.encode(), one.smk.reveal()
            members.append((member, one.id, one.idr, one.smk))
            self._ids[one.id], self._people[member] = (change, member), (change, one)
        change.add(MEMBER, members)
        change.add(COUNTER, counters)
        change.add(NO_ACCESS, closed)
        change.add(ACCESS, access.items())
        later.append(lambda change: self._uncover_people(change, [(member, name) for member, name, *_ in members]))

    def remove(self, name: str) -> None:
        held = self.get(name)
        assert held is not None
        member, left = self.place(name), removed(held)
        change, later = self._change()
        self._ids[name], self._people[member] = (change, member), (change, left)
        change.add(MEMBER, [(member, name, left.idr, left.smk)])
        change.add(NO_ACCESS, [(member,)])
        later.append(lambda change: self._uncover_people(change, [(member, name)]))

    def _uncover_people(self, change: Change, people: Iterable[tuple[int, str]]) -> None:
        for member, name in people:
            if member in self._people and self._people[member][0] is change:
                del self._people[member], self._ids[name]

    def _stream(self, stream_id: StreamId) -> int:
        """The number of a stream."""
        number = self._streams.get(stream_id)
        if number is None:
            number = self._streams[stream_id] = 1 + max(self._streams.values(), default=0)
            self._step(STREAM, [stream_row(number, *stream_id)])
        return number

    def grant(self, rights: Sequence[tuple[str, Right]]) -> None:
        for name, right in rights:
            stream, member = self._stream(right.stream_id), self.place(name)
            held = self._held(stream, member, right.stream_id)
            if right not in held:
                self._step(GRANT, [right_row(stream, member, right)])
                self._counts[stream] = self._counts.get(stream, 0) + 1
                self._cover_rights(stream, member, (*held, right))

    def _cover_rights(self, stream: int, member: int, rights: tuple[Right, ...]) -> None:
        change, later = self._change()
        covers = self._rights.setdefault(stream, {})
        covers[member] = (change, rights)

        def uncover(change: Change) -> None:
            if member in covers and covers[member][0] is change:
                del covers[member]

        later.append(uncover)

    def _held(self, stream: int, member: int, stream_id: StreamId) -> tuple[Right, ...]:
        covered = self._rights.get(stream, {}).get(member)
        if covered is not None:
            return covered[1]
        rights = []
        for _, _, start, end, content, crc in self._query(_RIGHTS, (stream, member)):
            window_of(stream, member, start, end, content, crc)
            rights.append(Right(service=stream_id[0], stream=stream_id[1], start=start, end=end, content=content or None))
        return tuple(rights)

    def rights(self, name: str, stream_id: StreamId) -> list[Right]:
        self._settle()
        member, number = self._id(name), self._streams.get(stream_id)
        return [] if member is None or number is None else list(self._held(number, member, stream_id))

    def forget(self, name: str, stream_id: StreamId) -> None:
        member, number = self.place(name), self._stream(stream_id)
        held = self._held(number, member, stream_id)
        if held:
            self._step(FORGET, [(number, member)])
            self._counts[number] -= len(held)
            self._cover_rights(number, member, ())

    def count(self, stream_id: StreamId) -> int:
        return self._counts.get(self._streams.get(stream_id, 0), 0)

    # --- some at a time -------------------------------------------------------------------------------------------------

    def entitled(self, stream_id: StreamId, after: int, limit: int) -> People:
        self._settle()
        number = self._streams.get(stream_id, 0)
        covers = self._rights.get(number, {})
        while True:
            rows: list[tuple[Any, ...]] = self._query(_NEXT, (number, after, limit + 1))
            last = _END
            if len(rows) > limit:
                if rows[0][0] == rows[-1][0]:  # one with so many rights
                    rows = self._query(_NEXT.replace(">", "="), (number, rows[0][0], -1))
                else:  # there may be more of the last one's
                    rows = [row for row in rows if row[0] != rows[-1][0]]
                last = rows[-1][0]
            extra = [member for member in covers if after < member <= last]
            people = self._columns(rows, number, extra, entitled=True, limit=limit)
            if people.names or last == _END:
                return people
            after = last  # they have lost their rights, and the database does not show it yet

    def some(self, names: Collection[str], stream_id: StreamId) -> People:
        found = self._known(names, stream_id)
        mark = REMOVED.encode()
        if mark not in found.idrs:
            return found
        here = [idr != mark for idr in found.idrs]
        return People._make(list(compress(column, here)) for column in found)

    def _known(self, names: Collection[str], stream_id: StreamId) -> People:
        """The same, with those who were removed."""
        self._settle()
        number = self._streams.get(stream_id, 0)
        covered = [self._ids[name][1] for name in names if name in self._ids]
        rows = self._query(_SOME, (number, json.dumps(list(names))))
        return self._columns(rows, number, covered, entitled=False, limit=len(rows) + len(covered))

    def _columns(self, rows: list[tuple[Any, ...]], stream: int, extra: Collection[int], *, entitled: bool, limit: int) -> People:
        """Rows of ``_COLUMNS``, in order of members, under what covers them; ``extra``: members that may be under covers alone."""
        people: dict[int, _Person] = {}
        spans: dict[int, tuple[_Span, ...]] = {}
        covers, keks = self._rights.get(stream, {}), self._keks
        for member, name, idr, wrapped, kek, crc, start, end, content, right in rows:
            if member not in people:
                people[member] = (name, idr.encode(), smk_of(keks, member, name, idr, wrapped, kek, crc))
                spans[member] = ()
            if start is not None:
                spans[member] += (window_of(stream, member, start, end, content, right),)
        for member in extra:
            people.setdefault(member, ("", b"", b""))  # known by his cover, or by his name below
        if self._people or covers:
            for member in list(people):
                if member in self._people:
                    one = self._people[member][1]
                    assert one.smk is not None
                    people[member] = (one.id, one.idr.encode(), one.smk.reveal())
                elif not people[member][0]:
                    people[member] = self._person(member)
                if member in covers:
                    spans[member] = tuple((right.start, right.end) for right in covers[member][1])
                elif member not in spans:
                    spans[member] = ()
        members = sorted(m for m in people if spans[m] or not entitled)[:limit]
        base, counters = self._base.base, self._counters
        found = [people[member] for member in members]
        return People(
            [name for name, _, _ in found],
            members,
            [idr for _, idr, _ in found],
            [smk for _, _, smk in found],
            [(base + counters[member]) % MOD for member in members],
            [spans[member] for member in members],
        )

    def _person(self, member: int) -> _Person:
        select = _MEMBER.replace("name = ?", "id = ?")
        (row,) = self._query(select, (member,))
        return row[1], row[2].encode(), smk_of(self._keks, *row)

    def spend(self, people: People, numbers: Sequence[int]) -> None:
        base = self._base.base
        self._spent([(m, (c + n - base) % MOD) for m, c, n in zip(people.places, people.counters, numbers, strict=True) if n])

    def _spent(self, counters: Sequence[tuple[int, int]]) -> None:
        for member, counter in counters:
            self._counters[member] = counter
        self._step(COUNTER, [counter_row(member, counter) for member, counter in counters])

    def jump(self, by: int, at_least: int = 0) -> None:
        self._base.jump(by, at_least)

    def told(self, key_id: bytes, names: Collection[str]) -> set[str]:
        self._settle()
        found = set()
        for name, *row in self._query(_TOLD, (key_id, json.dumps(list(names)))):
            told_of(*row)
            found.add(str(name))
        return found | {name for name in names if (key_id, name) in self._told}

    def tell(self, key_id: bytes, names: Collection[str]) -> None:
        change = self._step(TELL, [told_row(key_id, self.place(name)) for name in names])
        self._told.update(dict.fromkeys(((key_id, name) for name in names), change))

        def uncover(change: Change) -> None:
            for name in names:
                if self._told.get((key_id, name)) is change:
                    del self._told[key_id, name]

        self._later(uncover)

    def untell(self, key_id: bytes) -> None:
        self._step(UNTELL, [(key_id,)])

    # --- letters --------------------------------------------------------------------------------------------------------

    def keep(self, page: PageId, bundle: Bundle) -> None:
        change, later = self._change()
        self._letters[page] = (change, bundle)
        self._journal.pass_on(LETTERS, page, bundle)

        def uncover(change: Change) -> None:
            if page in self._letters and self._letters[page][0] is change:
                del self._letters[page]

        later.append(uncover)

    def letters(self, page: PageId) -> Bundle:
        self._settle()
        covered = self._letters.get(page)
        if covered is not None:
            return covered[1]
        found = self._reader.get(LETTERS, page)
        if not isinstance(found, Bundle):
            raise StoreDamaged(f"the letters of page {page[2]} are missing")
        return found

    def drop(self, page: PageId) -> None:
        self._letters.pop(page, None)
        self._journal.pass_on(LETTERS, page, None)
