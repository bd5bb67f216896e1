# SPDX-License-Identifier: Apache-2.0
"""Requests and answers between two servers: repetition, promises, and answers that are late, twice or not from whom was asked."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from room_support import BSDA_URI, BSM_URI, SERVICE, START, period, request, sek_material

from pybcast.errors import PeerFlowError
from pybcast.flows import BackendMessage, Output, Send, Status, StkmItem, Tag
from pybcast.flows.events import Journal
from pybcast.flows.peer import RETRY, Asked, Peering
from pybcast.flows.tables import Side


@dataclass
class Party:
    """The BSD/A's side of the interface, and what it was told."""

    keeps_promises: bool = True
    status: int = 0
    handled: int = 0
    answers: list[BackendMessage] = field(default_factory=list)
    expired: list[Asked] = field(default_factory=list)
    overdue: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal()
        self.peers = Peering(
            BSDA_URI, Side.BSDA, self.journal, random.Random(1).randbytes, self._handle, self._answered, self.expired.append,
            self._overdue,
        )  # fmt: skip

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        self.handled += 1
        if self.status not in (Status.SUCCESS, Status.DELAYED):
            raise PeerFlowError(self.status, "refused")
        return message.answer(self.status, now=now)

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
