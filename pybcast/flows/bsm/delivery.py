# SPDX-License-Identifier: Apache-2.0
"""LTKMs on their way (F2): to everyone some at a time, on pages of the carousel to the BSD/As, and again every few turns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pybcast.errors import WireError
from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.flows.bsm.ltkm import Bcros, Issuer
from pybcast.flows.bsm.members import Members, PageId, Subscribers, Told
from pybcast.flows.bsm.pages import Batch, Page, Pages
from pybcast.flows.bsm.stream import BsmStream
from pybcast.flows.events import FlowDone
from pybcast.flows.journal import Journal, RowKey, Table
from pybcast.flows.peers.exchange import Peering
from pybcast.flows.peers.messages import MAX_DATA, BackendMessage, KeyMaterial
from pybcast.flows.stream.config import StreamConfig, StreamId
from pybcast.flows.tables import KeyState, Status, Tag

ISSUED_AT_ONCE: Final = 1000  # letters made in one go, some 20 ms: STKMs do not wait longer for them - confidence: own
ISSUE_PAUSE: Final = 0.01  # seconds between one go and the next, for everything else - confidence: own
PULL_OCTETS: Final = 40_000_000  # of LTKMs in one answer: in XML under the 64 MiB of R30 - confidence: own
JOBS_AT_ONCE: Final = 50  # keys looked at in one go, for the same reason - confidence: own
PAGES_IN_FLIGHT: Final = 4  # LTKMDeliveries to a BSD/A at once; the others wait in the store, not in memory - confidence: own


@dataclass(frozen=True)
class Job:
    """A key on its way to everyone entitled, some at a time: ``after``: whoever stands up to this place has his LTKM (or had no
    right when his turn came); ``done``: letters; ``of``: rights there were when it began.
    """

    after: int = 0
    done: int = 0
    of: int = 0


@dataclass(frozen=True)
class Issuing:
    """A key on its way to everyone entitled: ``done`` letters, ``of`` rights there were when it began."""

    service: str
    stream: int
    done: int
    of: int


JOBS: Final = Table("issue", Job, "service stream key_type key_id")


class Delivery:
    """What becomes of LTKMs.  ``configs``: the streams there are; ``streams``: the same, as soon as they are made."""

    def __init__(
        self, journal: Journal, peers: Peering, configs: Iterable[StreamConfig], streams: Mapping[StreamId, BsmStream],
        members: Members, subscribers: Subscribers, pages: Pages, issuer: Issuer, bcros: Bcros,
    ) -> None:  # fmt: skip
        self._journal, self._peers, self._streams, self._members = journal, peers, streams, members
        self._subscribers, self._pages, self._issuer, self._bcros = subscribers, pages, issuer, bcros
        self._rows, configured = journal.open(JOBS), {config.id for config in configs}
        self._jobs = {row_key: None for row_key in self._rows.all() if row_key[:2] in configured}
        self._to_deliver: dict[str, dict[str, PageId]] = {}
        self._in_flight: dict[str, set[str]] = {}
        self._pulled: dict[tuple[str, str], PageId] = {}
        self._next_go = 0.0

    def issuing(self) -> tuple[Issuing, ...]:
        """The keys that are on their way to everyone entitled, first come first."""
        rows = self._rows.all()
        return tuple(Issuing(str(row_key[0]), int(str(row_key[1])), rows[row_key].done, rows[row_key].of) for row_key in self._jobs)

    # --- who gets a key -------------------------------------------------------------------------------------------------

    def issue(self, stream_id: StreamId, row: LongTermKey, now: float) -> None:
        """A new key to everyone entitled: to groups now, to cards some at a time (:meth:`go_on`)."""
        stream = self._streams[stream_id]
        if row.profile == "drm":
            self._send_bcros(stream, row, now)
            return
        row_key, entitled = stream.keys.row_key(row), self._members.count(stream_id)
        if entitled and row_key not in self._jobs:
            self._jobs[row_key] = None
            self._rows.put(row_key, Job(of=entitled))

    def key_ended(self, identity: bytes, key: KeyMaterial) -> None:
        """A key is off air: nothing about it is awaited any more, and nothing carries it again."""
        self._bcros.key_ended(identity)
        self._issuer.key_ended(key)

    def tell(self, stream: BsmStream, told: Told, now: float, *, withdrawn: bool = False) -> None:
        """The keys that exist go to those who have a right now, or the news to those who have lost theirs (R3).

        What a card got before is not issued again.  Whom a key's job has not reached yet is the job's: nobody gets it twice.
        """
        cards, groups = told
        self._pages.strike(stream.id, cards)
        for row in stream.keys.not_ended():
            end, job = row.material.valid_to, self._rows.get(stream.keys.row_key(row))
            if row.profile == "drm":
                for address in groups:  # one by one: each takes the place of its own
                    self._send_bcros(stream, row, now, [address])
            elif withdrawn:
                self._broadcast(stream, self._issuer.withdrawal(stream.id, row.material, cards), end, now)
            else:
                names = [name for name in cards if job is None or self._members.place(name) <= job.after]
                for i in range(0, len(names), MAX_DATA):
                    people = self._members.some(names[i : i + MAX_DATA], stream.id)
                    self._broadcast(stream, self._issuer.batch(stream.id, row.material, people), end, now)

    def _send_bcros(self, stream: BsmStream, row: LongTermKey, now: float, only: Collection[bytes] | None = None) -> None:
        try:
            batches = self._bcros.batches(stream.id, stream.keys.identity(row), row, now, only)
        except WireError as error:  # R15: no BCRO after 2038-04-22; the other profile goes on
            stream.keys.alarm("ltkm-not-made", str(error))
            return
        for batch in batches:
            self._broadcast(stream, batch, row.material.valid_to, now)

    def parental(self, stream: BsmStream, name: str, rating_type: int, level_granted: int, pin: str | None, now: float) -> None:
        """A parental control message, offered like an LTKM."""
        batch = self._issuer.parental(stream.id, name, rating_type, level_granted, pin)
        self._broadcast(stream, batch, int(now) + stream.config.key_period, now)

    def personal(self, name: str, now: float) -> tuple[bytes, ...]:
        """All LTKMs of a subscriber, made for the interaction channel (R19, R36)."""
        one, found = self._subscribers.find(name), list[bytes]()
        for stream in [self._streams[key] for key in self._subscribers.streams(name) if key in self._streams]:
            for row in stream.keys.not_ended():
                if one is None or one.profile != row.profile:
                    continue
                if one.smk is None:
                    found += self._bcros.personal(stream.id, stream.keys.identity(row), row, name, now)
                else:
                    found += self._issuer.personal(stream.id, row.material, name)
        return tuple(found)

    # --- some at a time -------------------------------------------------------------------------------------------------

    def go_on(self, now: float) -> None:
        """Go on with what takes more than one input: keys to everyone, then LTKMs made again (R7).

        Where a job has come to is stored with the letters it made: after a crash it goes on there.
        """
        if 0 < self._next_go - now <= ISSUE_PAUSE:  # further away: the clock was set back
            return
        left = ISSUED_AT_ONCE
        self._next_go = now
        for row_key in list(self._jobs)[:JOBS_AT_ONCE]:
            while left > 0 and (taken := self._issue_next(row_key, now, left)):
                left -= taken
        while left > 0 and (page := self._pages.due(now)) is not None:
            self._issue_again(page, now)
            left -= page.size
        if left <= 0:
            self._next_go = now + ISSUE_PAUSE
        self.deliver(now)

    def _issue_next(self, row_key: RowKey, now: float, limit: int) -> int:
        """The next subscribers of a job, at most ``limit``; how many there were: none, and it is done."""
        stream, job = self._streams[str(row_key[0]), int(str(row_key[1]))], self._rows.get(row_key)
        row = stream.keys.get(row_key)
        assert job is not None
        taken = 0
        if row is not None and row.state is not KeyState.ENDED:
            people = self._members.entitled(stream.id, job.after, limit)
            taken = len(people.names)
            if taken:
                batch = self._issuer.batch(stream.id, row.material, people)
                self._broadcast(stream, batch, row.material.valid_to, now)
                made = 0 if batch is None else len(batch.bundle)
                self._rows.put(row_key, replace(job, after=people.places[-1], done=job.done + made))
        if not taken:
            del self._jobs[row_key]
            self._rows.drop(row_key)
        return taken

    def _issue_again(self, page: Page, now: float) -> None:
        """The live letters of a page with new COUNTERs; an LTKM that comes after its key has ended only takes room on the card."""
        stream = self._streams[page.stream_id]  # pages of other streams end, and are not issued again
        live = (row.material for row in stream.keys.not_ended() if row.profile == "smartcard" and row.material.valid_to > now)
        key = next((key for key in live if key.key_id == page.key_id), None)
        batch = None if key is None else self._issuer.again(stream.id, key, self._pages.addressees(page))
        if batch is None:
            self._pages.kill(page)
        self._broadcast(stream, batch, page.end, now, page)

    def next_wakeup(self, now: float) -> float | None:
        """When :meth:`go_on` has something to do."""
        due = now if self._jobs else self._pages.next_wakeup()
        return None if due is None else max(due, self._next_go)

    # --- to the BSD/As --------------------------------------------------------------------------------------------------

    def _broadcast(self, stream: BsmStream, batch: Batch | None, end: int, now: float, old: Page | None = None) -> None:
        """LTKMs become pages of the carousel (R7) and go to the BSD/As of the stream."""
        if batch is None:
            return
        if len(batch.bundle) > MAX_DATA:  # some have several windows
            for part in batch.split(MAX_DATA):
                self._broadcast(stream, part, end, now)
            return
        page, gone = self._pages.add(stream.id, stream.config.bsdas, batch, end, now, self._peers.new_id, old)
        for bsda, message_id in () if gone is None else gone.ids:
            self._peers.cancel(message_id)
            self._to_deliver.get(bsda, {}).pop(message_id, None)
        if stream.config.delivery == "push":
            self._offer(page, now)

    def resume(self, now: float) -> None:
        """The process has started: pages that a BSD/A has not confirmed go to it."""
        for page in self._pages.all():
            if page.stream_id in self._streams:
                self._offer(page, now)

    def _offer(self, page: Page, now: float) -> None:
        for bsda, message_id in page.ids:
            if bsda not in page.confirmed and page.end > now:
                self._to_deliver.setdefault(bsda, {})[message_id] = page.id

    def deliver(self, now: float) -> None:
        """Pages to the BSD/As, in the order in which they were made, a few at a time."""
        for bsda, waiting in self._to_deliver.items():
            while waiting:
                flying = self._in_flight[bsda] = {one for one in self._in_flight.get(bsda, ()) if self._peers.asking(one)}
                if len(flying) >= PAGES_IN_FLIGHT:
                    break
                message_id = next(iter(waiting))
                page = self._pages.find(waiting.pop(message_id))
                if page is None or page.end <= now:  # its key has ended while the BSD/A did not answer
                    continue
                self._peers.ask(
                    Tag.LTKMDelivery, bsda, page.service, now, until=page.end, items=self._pages.letters(page),
                    start=int(page.issued_at), end=page.end,  # the same again after a restart: it has its messageID (R27)
                    replaces=dict(page.replaces).get(bsda), message_id=message_id,
                )  # fmt: skip
                flying.add(message_id)

    def confirmed(self, message: BackendMessage) -> None:
        """A BSD/A has a page."""
        self._pages.confirmed(message.message_id, message.destination)
        self._journal.emit(FlowDone("F2", None, message.service))

    def give(self, message: BackendMessage, streams: Iterable[StreamId], now: float) -> BackendMessage:
        """F2, pulled: pages of these streams, as many as one answer holds; the next one goes on."""
        pages = [page for stream in streams for page in self._pages.of(stream) if page.end > now]
        asker = (message.source, message.service)
        last = next((n for n, page in enumerate(pages) if page.id == self._pulled.get(asker)), -1)
        data: list[bytes] = []
        octets = 0
        for page in pages[last + 1 :] + pages[: last + 1]:
            if octets > PULL_OCTETS:
                break
            letters = self._pages.letters(page)
            data += letters
            octets += sum(map(len, letters))
            self._pulled[asker] = page.id
        if data:
            self._journal.emit(FlowDone("F2", None, message.service))
        return message.answer(Status.SUCCESS if data else Status.NON_EXISTENT, tuple(data), now=now)
