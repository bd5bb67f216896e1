# SPDX-License-Identifier: Apache-2.0
"""Requests and answers between two servers: repetition, promises, and answers that are late, twice or not from whom was asked."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from dataclasses import dataclass, field, replace

import pytest
from room_support import BSDA_URI, BSM_URI, SERVICE, START, period, request, sek_material

from pybcast.errors import PeerFlowError
from pybcast.flows import BackendMessage, Output, Send, Status, StkmItem, Tag
from pybcast.flows.journal import Journal
from pybcast.flows.peers import exchange as peer
from pybcast.flows.peers.exchange import KEEP_REFUSAL, RETRY, Answered, Asked, Peering
from pybcast.flows.peers.messages import Item
from pybcast.flows.tables import Side


@dataclass
class Party:
    """The BSD/A's side of the interface, and what it was told."""

    keeps_promises: bool = True
    status: int = 0
    items: tuple[Item, ...] = ()
    handled: int = 0
    answers: list[BackendMessage] = field(default_factory=list)
    expired: list[Asked] = field(default_factory=list)
    overdue: list[Asked] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)

    def __post_init__(self) -> None:
        self.peers = Peering(
            BSDA_URI, Side.BSDA, self.journal, random.Random(1).randbytes, self._handle, self._answered, self.expired.append,
            self._overdue,
        )  # fmt: skip

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        self.handled += 1
        if self.status not in (Status.SUCCESS, Status.DELAYED):
            raise PeerFlowError(self.status, "refused")
        return message.answer(self.status, self.items, now=now)

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        self.answers.append(answer)

    def _overdue(self, asked: Asked, now: float) -> None:
        self.overdue.append(asked)
        if not self.keeps_promises:  # it fetches everything at once, and gives the promises up
            self.peers.delivered(Tag.STKMRequest, SERVICE, "smartcard", 1, {START + 8 * n for n in range(9)})

    def ask(self, *starts: int, now: float = START, until: float = START + 60) -> BackendMessage:
        self.peers.ask(
            Tag.STKMRequest, BSM_URI, SERVICE, now, until=until, profile="smartcard", stream=1,
            about=frozenset(START + start for start in starts),
        )  # fmt: skip
        (message,) = self.sent()
        return message

    def sent(self) -> list[BackendMessage]:
        return [o.message for o in self.take() if isinstance(o, Send)]

    def take(self) -> list[Output]:
        return self.journal.take()

    def tick(self, now: float) -> list[BackendMessage]:
        self.peers.tick(now)
        return self.sent()

    def answer(self, asked: BackendMessage, status: int = 0, *items: StkmItem, peer: str = BSM_URI, **changes: object) -> None:
        answer = replace(asked.answer(status, items, now=START), **changes)  # type: ignore[arg-type]  # fields of the message
        self.peers.receive(answer, START, peer)

    @property
    def outstanding(self) -> set[int]:
        return {s - START for s in self.peers.outstanding(Tag.STKMRequest, SERVICE, "smartcard", 1)}

    def delivered(self, *starts: int) -> None:
        self.peers.delivered(Tag.STKMRequest, SERVICE, "smartcard", 1, {START + start for start in starts})


def item(number: int, status: int = 0) -> StkmItem:
    p = period(number)
    content = b"" if status else b"stkm"
    return StkmItem(stream=1, period_start=p.start, period_end=p.end, tek_id="1", status=status, content=content)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_request_is_repeated_until_it_is_of_no_use() -> None:
    party = Party()
    asked = party.ask(0, until=START + 5)
    assert party.peers.next_wakeup() == START + RETRY
    assert party.tick(START + 1) == []
    assert party.tick(START + 2) == [asked]
    assert party.tick(START + 4) == [asked]
    assert party.tick(START + 5) == []
    assert [a.message for a in party.expired] == [asked]
    assert party.peers.next_wakeup() is None
    party.answer(asked)
    assert party.answers == [], "late"


def test_what_was_delivered_is_not_waited_for() -> None:
    """Part of one request, all of another, nothing of a third."""
    party = Party()
    first, second, third = party.ask(0, 8), party.ask(8), party.ask(16)
    party.delivered(8, 80)
    assert party.outstanding == {0, 16}
    assert party.tick(START + 2) == [first, third]
    party.delivered(0)
    assert party.tick(START + 4) == [third]
    assert not party.peers.asking(second.message_id)
    assert party.peers.asking(third.message_id)


def test_a_request_that_something_newer_takes_the_place_of() -> None:
    party = Party()
    asked = party.ask(0)
    party.peers.cancel(asked.message_id)
    party.peers.cancel(asked.message_id)
    assert party.tick(START + 2) == []
    assert party.expired == []


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": "ff" * 16},
        {"tag": Tag.TEKDeliveryConfirmation},
        {"peer": "urn:example:other"},
        {"destination": "urn:example:bsda2"},
        {"version": 2},
        {"profile": None},
        {"items": (replace(item(0), content=b""),)},
        {"items": (b"ltkm",)},
    ],
)
def test_an_answer_that_is_none(changes: dict[str, object]) -> None:
    """R26-R28: not to what was asked, not from whom was asked, or not well formed: the request goes on."""
    party = Party()
    asked = party.ask(0)
    party.answer(asked, **changes)  # type: ignore[arg-type]  # fields of the message
    assert party.answers == []
    assert party.tick(START + 2) == [asked]
    party.answer(asked, 0, item(0))
    party.answer(asked, 0, item(0))
    assert [a.status for a in party.answers] == [0], "the second time it is not ours any more"
    assert party.tick(START + 4) == []


def test_an_answer_of_another_server_it_also_speaks_to() -> None:
    party = Party()
    asked = party.ask(0)
    party.answer(asked, peer="urn:example:bsm2", source="urn:example:bsm2")
    assert party.answers == []
    assert party.outstanding == {0}


@pytest.mark.parametrize("status", [Status.NOT_PERMITTED, Status.NON_EXISTENT, Status.SERVER_ERROR])
def test_another_status_ends_the_request(status: Status) -> None:
    party = Party()
    asked = party.ask(0)
    party.answer(asked, status)
    assert [a.status for a in party.answers] == [status]
    assert party.outstanding == set()
    assert party.tick(START + 2) == []


def test_a_promise_is_waited_for_and_called_in() -> None:
    """Status 19 of the whole, or of some of its items: no repetition, but what is overdue is fetched until it is of no use."""
    party = Party()
    some, whole = party.ask(0, 8, until=START + 5), party.ask(16, until=START + 3)
    party.answer(some, 0, item(0), item(1, Status.DELAYED))
    party.answer(whole, Status.DELAYED)
    assert party.outstanding == {8, 16}
    assert party.tick(START + 2) == []
    assert [a.message for a in party.overdue] == [some, whole]
    assert party.tick(START + 3) == []
    assert party.outstanding == {8}
    party.delivered(8)
    assert party.tick(START + 5) == []
    assert [a.message for a in party.expired] == [whole]


def test_one_broken_promise_settles_another() -> None:
    party = Party(keeps_promises=False)
    for asked in (party.ask(0), party.ask(8)):
        party.answer(asked, Status.DELAYED)
    assert party.tick(START + 2) == []
    assert len(party.overdue) == 1
    assert party.outstanding == set()


# --- being asked ------------------------------------------------------------------------------------------------------


def told(party: Party, message: BackendMessage, now: float = START) -> BackendMessage:
    party.peers.receive(message, now, BSM_URI)
    (answer,) = party.sent()
    return answer


def test_a_repeat_gets_the_answer_that_was_given() -> None:
    """R27: nothing is done twice; what was delayed or refused for want of a right is tried again."""
    message = request(Tag.STKMRequest)
    for status, times in ((0, 1), (Status.ALREADY_IN_USE, 1), (Status.DELAYED, 2), (Status.NOT_PERMITTED, 2)):
        party = Party(status=status)
        assert [told(party, message).status for _ in range(2)] == [status] * 2
        assert party.handled == times


@pytest.mark.parametrize(("tag", "again"), [(Tag.PartialSTKMRequest, 2), (Tag.STKMRequest, 1)])
def test_an_answer_with_clear_keys_is_made_again(tag: Tag, again: int) -> None:
    """R41: it is not kept; but another request under its messageID is refused all the same."""
    party = Party()
    message = request(tag)
    assert told(party, message).status == told(party, replace(message, time=5)).status == 0
    assert party.handled == again
    assert told(party, replace(message, start=5)).status == Status.ALREADY_PROCESSED
    assert party.handled == again


def test_how_long_an_answer_is_kept() -> None:
    """To the end of what it is about, at least 10 minutes, at most a day."""
    for tag, items, seconds in (
        (Tag.STKMRequest, (), 600),
        (Tag.STKMDelivery, (item(100),), 808),
        (Tag.STKMDelivery, (item(20000),), 86400),
        (Tag.KeyDelivery, (sek_material(),), 640),
    ):
        party, message = Party(), request(tag, items=items)
        told(party, message)
        assert party.peers.next_wakeup() == START + seconds
        party.tick(START + seconds - 1)
        told(party, message, START + seconds - 1)
        assert party.handled == 1
        party.tick(START + seconds)
        told(party, message, START + seconds)
        assert party.handled == 2


# --- what kept answers cost -------------------------------------------------------------------------------------------

IDS = (f"{number:032x}" for number in itertools.count())


def flood(party: Party, count: int, now: float = START, **changes: object) -> list[BackendMessage]:
    """So many requests, each with an id of its own; returns them."""
    made = [request(Tag.STKMRequest, message_id=next(IDS), **changes) for _ in range(count)]
    for message in made:
        told(party, message, now)
    return made


def kept(party: Party) -> dict[str, Answered]:
    return {str(key[1]): row for key, row in party.journal.open(peer.ANSWERS).all().items()}


def weight(party: Party) -> int:
    return sum(peer._size(row.items) for row in kept(party).values() if row.rank is not peer.Rank.FINAL)


def test_what_was_refused_item_by_item_is_kept_without_its_items() -> None:
    """600 refused TEKDeliveries of 1,000 items each took 130 MB."""
    party = Party(items=tuple(item(n, Status.INVALID_REQUEST) for n in range(1000)))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = flood(party, 600)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(kept(party)) == 600 and not any(row.items for row in kept(party).values())
    assert grown < 2 << 20
    assert told(party, made[0]).items == party.items and party.handled == 601, "made again, as nothing was moved"
    assert told(party, replace(made[0], start=5)).status == Status.ALREADY_PROCESSED, "but it is no other request's id"


def test_one_good_item_among_refused_ones_is_kept_with_all() -> None:
    party = Party(items=(item(0), item(1, Status.INVALID_REQUEST)))
    (made,) = flood(party, 1)
    assert [i.status for i in told(party, made).items if isinstance(i, StkmItem)] == [0, Status.INVALID_REQUEST]
    assert party.handled == 1


def test_a_refusal_is_kept_for_a_minute_whatever_it_is_about() -> None:
    party = Party(status=Status.INVALID_REQUEST)
    message = request(Tag.STKMDelivery, items=(item(20000),))
    told(party, message)
    assert party.peers.next_wakeup() == START + KEEP_REFUSAL
    party.tick(START + KEEP_REFUSAL)
    assert kept(party) == {}


def test_answers_have_a_budget_of_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals go first, the oldest first; then the oldest of the others; each peer has its own."""
    monkeypatch.setattr(peer, "KEPT_OCTETS", 20_000)
    party = Party(items=(bytes(188),))  # 1,000 octets each
    good = flood(party, 10)
    party.status, party.items = Status.INVALID_REQUEST, ()
    refused = flood(party, 100)
    left = kept(party)
    assert weight(party) <= 20_000 and {m.message_id for m in good} <= left.keys(), "refusals take no place of what was accepted"
    assert set(left) - {m.message_id for m in good} == {m.message_id for m in refused[-19:]}
    party.status, party.items = 0, (bytes(188),)
    more = flood(party, 15)
    assert list(kept(party)) == [m.message_id for m in (*good, *more)[-20:]] and weight(party) <= 20_000
    handled = party.handled
    assert told(party, more[-1]).items == (bytes(188),) and party.handled == handled, "what is kept is kept"
    assert told(party, good[0]).status == 0 and party.handled == handled + 1, "what is not is done again"


def test_an_answer_that_is_too_large_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And displaces nothing."""
    monkeypatch.setattr(peer, "KEPT_WHOLE", 5000)
    party = Party()
    small = flood(party, 3)
    party.items = (bytes(5000),)
    (large,) = flood(party, 1)
    assert kept(party)[large.message_id].items == () and len(kept(party)) == 4
    assert told(party, large).items == party.items and party.handled == 5
    assert told(party, small[0]).items == () and party.handled == 5


def test_what_would_move_twice_is_kept_until_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """LTKMs and registration onto the carousel, and what replaces something: never dropped; too many of them are refused."""
    monkeypatch.setattr(peer, "KEPT_OCTETS", 1000)
    monkeypatch.setattr(peer, "KEPT_FINAL", 3)
    party = Party()
    made = [
        request(Tag.LTKMDelivery, message_id=next(IDS), items=(b"x",)),
        request(Tag.RegDelivery, message_id=next(IDS), items=(b"x",)),
        request(Tag.STKMDelivery, message_id=next(IDS), items=(item(0),), replace=True),
    ]  # fmt: skip
    assert [told(party, message).status for message in made] == [0, 0, 0]
    flood(party, 50)
    assert {m.message_id for m in made} <= kept(party).keys() and len(kept(party)) == 4
    handled = party.handled
    one_more = request(Tag.LTKMDelivery, message_id=next(IDS), items=(b"x",))
    assert told(party, one_more).status == Status.SERVER_ERROR and party.handled == handled, "nothing was moved"
    assert [told(party, message).status for message in made] == [0, 0, 0] and party.handled == handled
    flood(party, 1)
    assert party.handled == handled + 1, "other requests are answered"
    party.tick(START + 601)
    assert told(party, replace(one_more, message_id=next(IDS)), START + 601).status == 0


def test_kept_answers_are_counted_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    party = Party(items=(bytes(188),))
    made = flood(party, 30)
    monkeypatch.setattr(peer, "KEPT_OCTETS", 20_000)
    again = Party(items=(bytes(188),), journal=Journal(party.journal.tables))
    assert list(kept(again)) == [m.message_id for m in made[-20:]]
    assert told(again, made[-1]).items == again.items and again.handled == 0
    flood(again, 1)
    assert len(kept(again)) == 20
