# SPDX-License-Identifier: Apache-2.0
"""Requests and answers between BSM and BSD/A: what both servers do alike (R26-R28).

As the asking side: messageIDs, repetition with the same messageID until answered or useless (``tables.EXCHANGE``).  As the
asked side: who may say what to whom, and one answer for one messageID, also after a restart.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pybcast.errors import PeerFlowError
from pybcast.flows.agenda import Agenda
from pybcast.flows.events import Send
from pybcast.flows.journal import Journal, RowKey, Table
from pybcast.flows.peers.messages import BackendMessage, Item, KeyMaterial, PartialItem, Profile, StkmItem, check
from pybcast.flows.tables import EXCHANGE, Exchange, ExchangeEvent, Side, Status, Tag, step

RETRY: Final = 2.0  # seconds until a request is repeated; the transport below has its own, shorter, time-outs
KEEP_ANSWER: Final = 600.0  # seconds an answer without an end of validity is kept for repeats
KEEP_AT_MOST: Final = 86400.0
KEEP_REFUSAL: Final = 60.0  # seconds a refusal is kept: a peer repeats within seconds, and doing it again moves nothing
KEPT_OCTETS: Final = 16 << 20  # of answers kept for one peer, about: half a minute of 1,000 key changes a second - confidence: own
KEPT_WHOLE: Final = 1 << 20  # octets of an answer that is kept; a larger one is rebuilt - confidence: own
KEPT_FINAL: Final = (
    65_536  # answers for one peer that must be kept, 30 MB: LTKMs of 60 million cards in ten minutes - confidence: own
)
_ROW: Final = 512  # octets that a kept answer takes without its items, about
_ITEM: Final = 300  # octets that an item takes beside its content, about
_ABOUT = tuple[Tag, str, Profile | None, int | None]
"""What requests are alike in: tag, service, profile, stream."""
_FINAL: Final = frozenset({Tag.LTKMDelivery, Tag.RegDelivery})
_OF_AN_ITEM: Final = frozenset(
    {Status.INFORMATION_INVALID, Status.INVALID_REQUEST, Status.WRONG_KEY_INFORMATION, Status.ALREADY_IN_USE}
)
"""What a delivery may be refused with for one of its STKMs."""
_REBUILT: Final = frozenset({Tag.KeyRequest, Tag.PartialSTKMRequest, Tag.LTKMRequest})
"""Their answers hold clear keys, or megabytes of LTKMs that are kept already: they are rebuilt and not kept (R27, R41)."""


@dataclass(frozen=True)
class Asked:
    """A request on its way.  ``about``: the period starts it is about; what is still missing of them."""

    message: BackendMessage
    state: Exchange
    next_try: float
    until: float
    about: frozenset[int] = frozenset()

    @property
    def kind(self) -> _ABOUT:
        m = self.message
        return (m.tag, m.service, m.profile, m.stream)


class Rank(enum.IntEnum):
    """What happens when a request is done again because its answer is kept no more, and so which answer goes first.

    ``REFUSED``: nothing was moved, and may be refused or accepted now.  ``HARMLESS``: it was a question, or says what is known
    already.  ``FINAL``: it would undo what came after it: an object that was withdrawn comes back, a key or STKM that was replaced.
    """

    REFUSED = 0
    HARMLESS = 1
    FINAL = 2


@dataclass(frozen=True)
class Answered:
    """What a request got: the digest of its body; status, time and items of the answer (no status where it is rebuilt)."""

    digest: bytes
    until: float
    rank: Rank
    time: int
    status: int | None = None
    items: tuple[Item, ...] = ()


ANSWERS: Final = Table("answer", Answered, "peer message_id")


class _Kept:
    """The answers kept for one peer, by rank and with their size, the oldest first."""

    def __init__(self) -> None:
        self._sizes: dict[Rank, dict[RowKey, int]] = {rank: {} for rank in Rank}
        self._octets = 0

    @property
    def full(self) -> bool:
        return len(self._sizes[Rank.FINAL]) >= KEPT_FINAL

    def put(self, key: RowKey, row: Answered) -> Iterator[RowKey]:
        """Note an answer; gives the keys of those that must go for it."""
        self.drop(key)
        self._sizes[row.rank][key] = _size(row.items)
        if row.rank is not Rank.FINAL:
            self._octets += _size(row.items)
        for rank in (Rank.REFUSED, Rank.HARMLESS):
            while self._octets > KEPT_OCTETS and self._sizes[rank]:
                oldest = next(iter(self._sizes[rank]))
                self.drop(oldest)
                yield oldest

    def drop(self, key: RowKey) -> None:
        for rank, sizes in self._sizes.items():
            size = sizes.pop(key, 0)
            if rank is not Rank.FINAL:
                self._octets -= size


def _size(items: tuple[Item, ...]) -> int:
    return _ROW + sum(_ITEM + len(item if isinstance(item, bytes) else getattr(item, "content", b"")) for item in items)


class Peering:
    """One server's side of the back-end interface.

    ``handle`` answers a request, ``answered`` takes an answer, ``expired`` a request that nobody needs answered any more,
    ``overdue`` a promise (status 19) that is not kept.
    """

    def __init__(
        self,
        me: str,
        side: Side,
        journal: Journal,
        randomness: Callable[[int], bytes],
        handle: Callable[[BackendMessage, float], BackendMessage],
        answered: Callable[[Asked, BackendMessage, float], None],
        expired: Callable[[Asked], None],
        overdue: Callable[[Asked, float], None] | None = None,
    ) -> None:
        self._me, self._side, self._journal, self._randomness = me, side, journal, randomness
        self._answers = self._journal.open(ANSWERS)
        self._handle, self._answered, self._expired, self._overdue = handle, answered, expired, overdue
        self._asked: dict[str, Asked] = {}
        self._alike: dict[_ABOUT, dict[str, None]] = {}
        self._due: Agenda[str] = Agenda()
        self._ends: Agenda[RowKey] = Agenda()
        self._kept: dict[object, _Kept] = {}
        for key, row in sorted(self._answers.all().items(), key=lambda found: found[1].time):
            self._keep_answer(key, row)

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(
        self,
        tag: Tag,
        destination: str,
        service: str,
        now: float,
        *,
        until: float,
        profile: Profile | None = None,
        stream: int | None = None,
        items: tuple[Item, ...] = (),
        start: int | None = None,
        end: int | None = None,
        content: str | None = None,
        replacing: bool = False,
        fresh: bool = False,
        replaces: str | None = None,
        attempt: int | None = None,
        about: frozenset[int] = frozenset(),
        message_id: str | None = None,
    ) -> str:
        """Send a request; repeat it until it is answered or ``until`` has passed.  Returns its messageID (128 random bits, R27)."""
        message = BackendMessage(
            tag=tag, message_id=message_id or self.new_id(), source=self._me, destination=destination, service=service,
            content=content, profile=profile, start=start, end=end, replace=replacing, fresh=fresh, replaces=replaces,
            attempt=attempt, time=int(now), stream=stream, items=items,
        )  # fmt: skip
        state = step(EXCHANGE, Exchange.NEW, ExchangeEvent.SEND)
        self._keep(Asked(message, state, now + RETRY, until, about))
        self._journal.emit(Send(message))
        return message.message_id

    def new_id(self) -> str:
        """A messageID."""
        return self._randomness(16).hex()

    def _keep(self, asked: Asked) -> None:
        name = asked.message.message_id
        self._asked[name] = asked
        self._alike.setdefault(asked.kind, {})[name] = None
        idle = asked.state is Exchange.PROMISED and self._overdue is None
        self._due.set(name, asked.until if idle else min(asked.next_try, asked.until))

    def _those(self, kind: _ABOUT) -> list[Asked]:
        return [self._asked[name] for name in self._alike.get(kind, ())]

    def outstanding(self, tag: Tag, service: str, profile: Profile | None, stream: int | None) -> frozenset[int]:
        """The period starts that requests of this kind are still about."""
        return frozenset(start for asked in self._those((tag, service, profile, stream)) for start in asked.about)

    def delivered(self, tag: Tag, service: str, profile: Profile | None, stream: int | None, starts: set[int]) -> None:
        """What was promised for these periods has come by another message, or will not come."""
        for asked in self._those((tag, service, profile, stream)):
            if asked.about & starts:
                rest = asked.about - starts
                if rest:
                    self._keep(replace(asked, about=rest))
                else:
                    self._finish(asked, ExchangeEvent.DELIVERED)

    def _finish(self, asked: Asked, event: ExchangeEvent) -> Asked:
        name = asked.message.message_id
        asked = replace(asked, state=step(EXCHANGE, asked.state, event))
        if EXCHANGE[asked.state]:
            self._keep(asked)
        else:
            del self._asked[name]
            alike = self._alike[asked.kind]
            del alike[name]
            if not alike:
                del self._alike[asked.kind]
            self._due.set(name, None)
        return asked

    def split(self, asked: Asked, status: int | None, now: float) -> bool:
        """A delivery of several STKMs that was refused goes again one by one: what is wrong with one costs the others nothing.
        Whether there was something to split.
        """
        message = asked.message
        if message.tag is not Tag.STKMDelivery or len(message.items) < 2 or status not in _OF_AN_ITEM:
            return False
        for item in message.items:
            assert isinstance(item, StkmItem)
            if item.period_end > now:
                self.ask(
                    message.tag, message.destination, message.service, now, until=item.period_end, profile=message.profile,
                    stream=message.stream, items=(item,), replacing=message.replace, about=asked.about & {item.period_start},
                )  # fmt: skip
        return True

    def asking(self, message_id: str) -> bool:
        """Whether that request still waits for its answer, or for what its answer promised."""
        return message_id in self._asked

    def cancel(self, message_id: str) -> None:
        """Something newer takes the place of that request."""
        asked = self._asked.get(message_id)
        if asked is not None:
            self._finish(asked, ExchangeEvent.EXPIRE)

    def tick(self, now: float) -> None:
        """Repeat what is unanswered; drop what nobody needs any more."""
        for name in list(self._due.due(now)):
            asked = self._asked.get(name)
            if asked is None:
                continue  # another one's broken promise has settled it
            if now >= asked.until:
                self._expired(self._finish(asked, ExchangeEvent.EXPIRE))
                continue
            asked = self._finish(replace(asked, next_try=now + RETRY), ExchangeEvent.RETRY)
            if asked.state is Exchange.WAITING:
                self._journal.emit(Send(asked.message))
            else:
                assert self._overdue is not None, "a side that takes no promises has nothing due before its end"
                self._overdue(asked, now)
        for key in self._ends.due(now):
            self._forget(key)

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        return min((t for t in (self._due.next(), self._ends.next()) if t is not None), default=None)

    # --- being asked --------------------------------------------------------------------------------------------------

    def receive(self, message: BackendMessage, now: float, peer: str) -> None:
        """Any message from the authenticated ``peer``."""
        if message.is_answer:
            self._receive_answer(message, now, peer)
            return
        key = (message.source, message.message_id)
        try:
            if message.destination != self._me:
                raise PeerFlowError(Status.WRONG_DESTINATION, "destination is not this server")
            if message.source != peer:
                raise PeerFlowError(Status.NOT_PERMITTED, "source is not the authenticated peer (R26)")
            check(message, self._side)
        except PeerFlowError as error:
            self._journal.emit(Send(message.answer(error.status, now=now)))
            return
        digest = message.digest()
        known = self._answers.get(key)
        if known is not None:
            if known.digest != digest:
                self._journal.emit(Send(message.answer(Status.ALREADY_PROCESSED, now=now)))
                return
            if known.status is not None:
                self._journal.emit(Send(message.answer(known.status, known.items, now=known.time)))
                return
        final = message.tag in _FINAL or (message.replace and message.tag not in _REBUILT)
        try:
            if final and self._of(key).full:
                raise PeerFlowError(Status.SERVER_ERROR, "too many deliveries are remembered for this peer")
            answer = self._handle(message, now)
        except PeerFlowError as error:
            answer = message.answer(error.status, now=now)
        # A repeat of what is delayed may fare better later; a stranger fills no memory.
        if answer.status not in (Status.DELAYED, Status.NOT_PERMITTED):
            row = _answered(message, answer, digest, final, now)
            self._answers.put(key, row)
            self._keep_answer(key, row)
        self._journal.emit(Send(answer))

    def _of(self, key: RowKey) -> _Kept:
        return self._kept.setdefault(key[0], _Kept())

    def _keep_answer(self, key: RowKey, row: Answered) -> None:
        self._ends.set(key, row.until)
        for gone in list(self._of(key).put(key, row)):
            self._ends.set(gone, None)
            self._answers.drop(gone)

    def _forget(self, key: RowKey) -> None:
        self._of(key).drop(key)
        self._answers.drop(key)

    def _receive_answer(self, message: BackendMessage, now: float, peer: str) -> None:
        asked = self._asked.get(message.message_id)
        if asked is None or message.tag is not asked.message.answer(0, now=now).tag:
            return  # late, twice, or not ours
        if message.source != peer or peer != asked.message.destination or message.destination != self._me:
            return  # not from whom we asked
        try:
            check(message, self._side)
        except PeerFlowError:
            return  # asked again in time
        later = {i.period_start for i in message.items if isinstance(i, StkmItem) and i.status == Status.DELAYED}
        if message.status == Status.DELAYED or (message.status == Status.SUCCESS and later):
            event = ExchangeEvent.LATER
            if later:
                asked = replace(asked, about=frozenset(later))
        else:
            event = ExchangeEvent.OK if message.status == Status.SUCCESS else ExchangeEvent.REFUSAL
        self._answered(self._finish(asked, event), message, now)


def _answered(message: BackendMessage, answer: BackendMessage, digest: bytes, final: bool, now: float) -> Answered:
    """What of an answer is kept: of one that moved nothing, and of a large one, only that there was one."""
    statuses = {answer.status} if answer.status != Status.SUCCESS or not answer.items else {_status(i) for i in answer.items}
    if Status.SUCCESS not in statuses:
        rank, until = Rank.REFUSED, now + KEEP_REFUSAL
    else:
        rank, until = Rank.FINAL if final else Rank.HARMLESS, _keep_until(message, now)
    rebuilt = message.tag in _REBUILT or (rank is not Rank.FINAL and _size(answer.items) > KEPT_WHOLE)
    if rebuilt or (rank is Rank.REFUSED and answer.items):
        return Answered(digest, until, rank, int(now))
    return Answered(digest, until, rank, int(now), answer.status, answer.items)


def _status(item: Item) -> int:
    return item.status if isinstance(item, StkmItem) else Status.SUCCESS


def _keep_until(message: BackendMessage, now: float) -> float:
    ends: list[float] = []
    for item in message.items:
        if isinstance(item, StkmItem | PartialItem):
            ends.append(item.period_end)
        elif isinstance(item, KeyMaterial):
            ends.append(item.valid_to)
    return min(max(ends, default=now + KEEP_ANSWER), now + KEEP_AT_MOST)
