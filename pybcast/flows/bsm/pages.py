# SPDX-License-Identifier: Apache-2.0
"""The pages of the carousel: LTKMs that go out in one delivery and turn together (R7, R30)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pybcast.flows.agenda import Agenda
from pybcast.flows.bsm.members import Bundle, Members, PageId
from pybcast.flows.journal import Journal, Table
from pybcast.flows.stream.config import REISSUE_CYCLES, StreamConfig, StreamId

REISSUE_RATE: Final = 2000.0  # letters a second, all streams together, that are made again to heal losses - confidence: own
"""R7 wants every live LTKM anew after 5 turns of the carousel.  Up to this rate it is (100,000 letters where a turn takes 10 s);
beyond it the turns are reckoned longer in proportion, as they are on air: 1,000,000 letters of 200 bytes in 10 s are 160 Mbit/s."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Letters that go out in one delivery and turn on the carousel together.  They are kept apart (``Members.keep``): this changes.

    ``ids``: (BSD/A, messageID of its delivery); ``replaces``: (BSD/A, messageID of the delivery it takes the place of there).
    ``size``: letters.  Of LTKMs for cards: ``key_id``, the addressees' first and last place, and ``alive``, how many letters are
    issued again; not those to the ``struck``.  Of BCROs: ``subjects``, (group, key id) of each.
    """

    service: str
    stream: int
    name: str
    end: int
    issued_at: float
    ids: tuple[tuple[str, str], ...]
    replaces: tuple[tuple[str, str], ...] = ()
    confirmed: frozenset[str] = field(default=frozenset())
    struck: frozenset[str] = field(default=frozenset())
    size: int = 0
    key_id: bytes = b""
    first: int = 0
    last: int = 0
    alive: int = 0
    subjects: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def stream_id(self) -> StreamId:
        return (self.service, self.stream)

    @property
    def id(self) -> PageId:
        return (self.service, self.stream, self.name)

    @property
    def healing(self) -> bool:
        """Whether it is issued again every few cycles: only what a COUNTER protects from being taken twice (R7)."""
        return self.alive > 0

    @property
    def dead(self) -> bool:
        """Whether nothing of it is issued again: it still turns on the carousel, and the next page takes its place."""
        return bool(self.key_id) and not self.alive


@dataclass(frozen=True)
class Batch:
    """Letters on their way to a page: for cards, with the ``key_id`` of their key and the places of the first and last addressee;
    or for groups, with what each is about; or neither, for what is never made again.
    """

    bundle: Bundle
    key_id: bytes = b""
    first: int = 0
    last: int = 0
    subjects: tuple[tuple[bytes, bytes], ...] = ()

    def split(self, size: int) -> Iterator[Batch]:
        """The same letters for cards, at most ``size`` in each."""
        items, names, windows = self.bundle.items(), self.bundle.names, list(self.bundle.spans())
        for i in range(0, len(items), size):
            part = slice(i, i + size)
            yield replace(self, bundle=Bundle.of(items[part], names[part], windows[part]))


PAGES: Final = Table("page", Page, "service stream page")


class Pages:
    """The pages of every stream.  ``streams``: how often the LTKMs of each turn on the carousel (R7)."""

    def __init__(self, journal: Journal, members: Members, streams: Collection[StreamConfig]) -> None:
        self._rows, self._members = journal.open(PAGES), members
        self._reissue = {config.id: REISSUE_CYCLES * config.carousel_cycle for config in streams}
        self._pushed = {config.id for config in streams if config.delivery == "push"}
        self._due: Agenda[PageId] = Agenda()
        self._by_id: dict[str, PageId] = {}
        self._alive: dict[PageId, int] = {}
        self._all_alive = 0
        self._dead: dict[StreamId, dict[PageId, None]] = {}
        self._subjects: dict[tuple[StreamId, tuple[bytes, bytes]], PageId] = {}
        for page in self.all():
            self._watch(page)

    def of(self, stream_id: StreamId) -> list[Page]:
        """The pages of a stream, in the order in which they were made."""
        return list(self._rows.under(stream_id).values())

    def all(self) -> list[Page]:
        return list(self._rows.all().values())

    def find(self, page: PageId) -> Page | None:
        """A page, unless it is gone."""
        return self._rows.get(page)

    def letters(self, page: Page) -> tuple[bytes, ...]:
        return self._members.letters(page.id).items()

    def bcro(self, stream_id: StreamId, subject: tuple[bytes, bytes]) -> bytes | None:
        """The BCRO for a group and about a key that is on the carousel."""
        page = self.find(self._subjects.get((stream_id, subject), ("", 0, "")))
        return None if page is None else self.letters(page)[page.subjects.index(subject)]

    # --- what becomes of them -------------------------------------------------------------------------------------------

    def add(
        self, stream_id: StreamId, bsdas: Sequence[str], batch: Batch, end: int, now: float, new_id: Callable[[], str],
        old: Page | None = None,
    ) -> tuple[Page, Page | None]:  # fmt: skip
        """Letters become a page; BCROs take the place of older ones for the same group and key.  Gives the page that is gone."""
        if old is None:
            merged = next((k for s in batch.subjects if (k := self._subjects.get((stream_id, s))) is not None), None)
            gone = merged or next(reversed(self._dead.get(stream_id, {})), None)
            old = None if gone is None else self.find(gone)
            if merged is not None and old is not None:
                batch, end = self._merge(old, batch), max(end, old.end)
        ids = tuple((bsda, new_id()) for bsda in bsdas)
        replaces: tuple[tuple[str, str], ...] = ()
        if old is not None:  # where the old page never arrived, what it was to replace is still there
            there = {**dict(old.replaces), **{bsda: name for bsda, name in old.ids if bsda in old.confirmed}}
            replaces = tuple(there.items())
            self._remove(old)
        (service, stream), size = stream_id, len(batch.bundle)
        page = Page(
            service=service, stream=stream, name=ids[0][1], end=end, issued_at=now, ids=ids, replaces=replaces, size=size,
            key_id=batch.key_id, first=batch.first, last=batch.last, alive=size if batch.key_id else 0, subjects=batch.subjects,
        )  # fmt: skip
        self._members.keep(page.id, batch.bundle)
        self._put(page)
        return page, old

    def _merge(self, old: Page, new: Batch) -> Batch:
        """A page of BCROs with some of them made anew."""
        anew = set(new.subjects)
        kept = [(subject, data) for subject, data in zip(old.subjects, self.letters(old), strict=True) if subject not in anew]
        kept += zip(new.subjects, new.bundle.items(), strict=True)
        bundle = Bundle.of([data for _, data in kept], [address for (address, _), _ in kept])
        return Batch(bundle, subjects=tuple(subject for subject, _ in kept))

    def strike(self, stream_id: StreamId, names: Collection[str]) -> None:
        """Take the letters to some cards off the pages that are issued again (R7)."""
        places = {name: self._members.place(name) for name in names}
        low, high = min(places.values(), default=0), max(places.values(), default=-1)
        for page in self.of(stream_id):
            if not page.healing or page.first > high or page.last < low:
                continue
            here = {name for name, place in places.items() if page.first <= place <= page.last} - page.struck
            struck = [name for name in self._members.letters(page.id).names if name in here] if here else ()
            if struck:
                self._put(replace(page, struck=page.struck | set(map(str, struck)), alive=page.alive - len(struck)))

    def addressees(self, page: Page) -> dict[str, list[tuple[int, int]]]:
        """To whom a page of LTKMs for cards is issued again, each with the windows of his letters."""
        found: dict[str, list[tuple[int, int]]] = {}
        bundle = self._members.letters(page.id)
        for name, window in zip(bundle.names, bundle.spans(), strict=True):
            if name not in page.struck:
                found.setdefault(str(name), []).append(window)
        return found

    def kill(self, page: Page) -> None:
        """Nothing of it is issued again."""
        self._put(replace(page, alive=0))

    def confirmed(self, message_id: str, bsda: str) -> None:
        """A BSD/A has a page."""
        page = self._rows.get(self._by_id.get(message_id, ()))
        if page is not None:
            self._rows.put(page.id, replace(page, confirmed=page.confirmed | {bsda}))

    def _put(self, page: Page) -> None:
        self._rows.put(page.id, page)
        self._watch(page)

    def _watch(self, page: Page) -> None:
        self._all_alive += page.alive - self._alive.get(page.id, 0)
        self._alive[page.id] = page.alive
        self._due.set(page.id, min(page.end, page.issued_at + self._interval(page)) if page.healing else page.end)
        for _, name in page.ids:
            self._by_id[name] = page.id
        for subject in page.subjects:
            self._subjects[page.stream_id, subject] = page.id
        if page.dead:
            self._dead.setdefault(page.stream_id, {})[page.id] = None

    def _interval(self, page: Page) -> float:
        """Seconds until it is issued again."""
        every = self._reissue.get(page.stream_id)
        return float("inf") if every is None else max(every, self._all_alive / REISSUE_RATE)

    def _remove(self, page: Page) -> None:
        self._all_alive -= self._alive.pop(page.id)
        self._due.set(page.id, None)
        for _, name in page.ids:
            del self._by_id[name]
        for subject in page.subjects:
            if self._subjects.get((page.stream_id, subject)) == page.id:
                del self._subjects[page.stream_id, subject]
        self._dead.get(page.stream_id, {}).pop(page.id, None)
        self._rows.drop(page.id)
        self._members.drop(page.id)

    def due(self, now: float) -> Page | None:
        """The next page that is to be issued again now; pages that have ended go."""
        for name in self._due.due(now):
            page = self.find(name)
            assert page is not None, "what is removed is not due"
            again = page.issued_at + self._interval(page)
            if page.end <= now or not page.healing:
                self._remove(page)
            elif again > now:  # there are more of them than when it was set
                self._due.set(name, min(again, page.end))
            elif not page.confirmed and page.stream_id in self._pushed:
                # It may be on the carousel or not; only one delivery can be replaced, and nobody would know which.
                self._due.set(name, min(now + self._interval(page), page.end))
            else:
                return page
        return None

    def next_wakeup(self) -> float | None:
        """When a page is due."""
        return self._due.next()
