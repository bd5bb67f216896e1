# SPDX-License-Identifier: Apache-2.0
"""A key on its way to everyone: some at a time, nobody twice, nobody left out, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

import pytest
from room_support import BSDA_URI, BSM_URI, GROUP_KEYS, RESTORED, SERVICE, START, card_party, request, stream_config

from pybcast import codec
from pybcast.errors import LocalFlowError
from pybcast.flows import BSM, Alarm, BackendMessage, Enrolment, Output, Persist, Right, Send, Start, StreamConfig, Subscriber, Tag
from pybcast.flows.bsm.delivery import ISSUE_PAUSE, ISSUED_AT_ONCE, JOBS_AT_ONCE, PAGES_IN_FLIGHT
from pybcast.flows.bsm.members import Bundle
from pybcast.flows.bsm.pages import REISSUE_RATE, Batch
from pybcast.flows.journal import State
from pybcast.flows.peers.messages import MAX_DATA
from pybcast.flows.stream.config import CAROUSEL_CYCLE, REISSUE_CYCLES
from pybcast.flows.tables import KeyState
from pybcast.keys import RIAK, SMK, UDK, Keys
from pybcast.messages import ClearSmartcardLtkm
from pybcast.testing.parties import FQDN, rights_issuer

CARD: Final = stream_config(generation="bsm")
DRM: Final = stream_config(generation="bsm", profiles=("drm",))
HEALED: Final = REISSUE_CYCLES * CAROUSEL_CYCLE


def machine(*configs: StreamConfig, state: State | None = None, start: Start | None = None) -> BSM:
    return BSM(
        me=BSM_URI, fqdn=FQDN, streams=configs or (CARD,), randomness=random.Random(1).randbytes, start=start,
        rights_issuer_id=rights_issuer()[0].id, state=state,
    )  # fmt: skip


def person(n: int, idr: str = "") -> Subscriber:
    return Subscriber(id=f"card{n}", smk=SMK(n.to_bytes(32, "big")), idr=idr or f"card{n}@example.com")


def right(start: int = START, end: int = START + 10**6, stream: int = 1) -> Right:
    return Right(service=SERVICE, stream=stream, start=start, end=end)


def enrolled(size: int, rights: tuple[Right, ...] = (right(),)) -> State:
    """A memory that knows so many cards and no key."""
    bsm = machine(replace(CARD, start=START - 8000))
    bsm._subscribers.add([person(n) for n in range(size)])
    bsm._subscribers.grant_to([(f"card{n}", one) for n in range(size) for one in rights])
    return bsm._journal.tables


def delivered(outputs: Iterable[Output]) -> list[BackendMessage]:
    return [o.message for o in outputs if isinstance(o, Send) and o.message.tag is Tag.LTKMDelivery]


def made(outputs: Iterable[Output]) -> list[Bundle]:
    """The letters of new pages, delivered or not."""
    return [o.value for o in outputs if isinstance(o, Persist) and isinstance(o.value, Bundle)]


def names(outputs: Iterable[Output]) -> Counter[str]:
    return Counter(str(name) for bundle in made(outputs) for name in bundle.names)


def clear(bundle: Bundle, name: str) -> list[ClearSmartcardLtkm]:
    """What is in the letters to a card."""
    smk = person(int(name.removeprefix("card"))).smk
    opened = [
        codec.open(data, Keys(smk=smk), "smartcard-ltkm") for n, data in zip(bundle.names, bundle.items(), strict=True) if n == name
    ]
    return [one for one in opened if isinstance(one, ClearSmartcardLtkm)]


def confirm(bsm: BSM, messages: Collection[BackendMessage], now: float) -> list[Output]:
    return [o for m in messages for o in bsm.receive(m.answer(0, now=now), now, BSDA_URI)]


def finish(bsm: BSM, now: float = START) -> list[Output]:
    """Ticks until no key is on its way."""
    outputs = bsm.tick(now)
    while bsm.issuing():
        wake = bsm.next_wakeup()
        assert wake is not None and wake <= now + ISSUE_PAUSE
        now = max(now, wake)
        outputs += bsm.tick(now)
    return outputs


# --- a job ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_after", [0, 1, 2, 3])
def test_a_job_goes_on_where_it_was(crash_after: int) -> None:
    """Each has one LTKM and one COUNTER; what a tick did is stored as a whole, or not at all."""
    size = 2 * ISSUED_AT_ONCE + 10
    bsm = machine(state=enrolled(size))
    outputs: list[Output] = []
    for n in range(crash_after):
        outputs += bsm.tick(START + 2 * n * ISSUE_PAUSE)
    bsm = machine(state=bsm._journal.tables)
    assert sum(job.done for job in bsm.issuing()) == crash_after * ISSUED_AT_ONCE % (3 * ISSUED_AT_ONCE)
    outputs += finish(bsm)
    assert names(outputs) == Counter(f"card{n}" for n in range(size))
    assert set(bsm._journal.tables["smk-counter"].values()) == {1}
    assert bsm._journal.tables["issue"] == {} and [len(b) for b in made(outputs)] == [MAX_DATA, MAX_DATA, 10]


def test_who_is_withdrawn_or_comes_during_a_job() -> None:
    size = 2 * ISSUED_AT_ONCE + 10
    bsm = machine(state=enrolled(size))
    outputs = bsm.tick(START)
    reached, ahead = "card5", f"card{size - 1}"
    for name in (reached, ahead):
        withdrawn = bsm.withdraw(name, *CARD.id, START)
        assert [n for bundle in made(withdrawn)[:1] for n in bundle.names] == [name], "both are told: one may hold an older key"
    assert made(bsm.add_subscribers([Enrolment(person(size), (right(),))], START)) == [], "whom the job has not reached is its own"
    again = bsm.grant(reached, right(), START)
    assert made(again)[0].names == (reached,), "whom the job has passed does not wait for another one"
    finished = outputs + finish(bsm)
    assert names(finished)[f"card{size}"] == 1 and names(finished)[ahead] == 0
    assert bsm._journal.tables["issue"] == {}


def test_a_job_of_a_key_that_is_gone() -> None:
    """It ended before everyone had it, or was replaced and forgotten: nobody needs it any more."""
    bsm = machine(state=enrolled(ISSUED_AT_ONCE + 1))
    bsm.tick(START)
    (name,) = bsm._journal.tables["issue"]
    row = bsm._journal.tables["key"][name]
    bsm = machine(state=bsm._journal.tables | {"key": {name: replace(row, state=KeyState.ENDED)}})  # type: ignore[type-var]
    outputs = bsm.tick(START)
    assert name not in bsm._journal.tables["issue"] and f"card{ISSUED_AT_ONCE}" not in [
        n for bundle in made(outputs) for n in bundle.names if len(bundle) == 1
    ]


def test_a_job_of_a_stream_that_is_configured_no_more_waits() -> None:
    bsm = machine(state=enrolled(ISSUED_AT_ONCE + 1))
    bsm.tick(START)
    other = machine(replace(CARD, stream=2, key_group=2), state=bsm._journal.tables)
    other.tick(START)
    assert other.issuing() == () and len(other._journal.tables["issue"]) == 1
    assert len(names(finish(machine(state=other._journal.tables)))) == 1


def test_many_streams_do_not_take_one_tick() -> None:
    configs = [replace(CARD, stream=n, key_group=n) for n in range(1, JOBS_AT_ONCE + 3)]
    bsm = machine(*configs)
    bsm._subscribers.add([person(n) for n in range(30)])
    for config in configs:
        bsm._subscribers.grant_to([(f"card{n}", right(stream=config.stream)) for n in range(30)])
    first = sum(names(bsm.tick(START)).values())
    assert ISSUED_AT_ONCE <= first < ISSUED_AT_ONCE + 30
    finish(bsm)
    assert set(bsm._journal.tables["smk-counter"].values()) == {len(configs)}


def test_some_have_more_windows_than_a_delivery_carries() -> None:
    """R30: pages hold what one delivery may."""
    parts = tuple(right(START + n * 40, START + n * 40 + 20) for n in range(3))
    bsm = machine(state=enrolled(ISSUED_AT_ONCE, parts))
    outputs = bsm.tick(START)
    bundles = made(outputs)
    assert [len(bundle) for bundle in bundles] == [MAX_DATA] * 5, "two copies of the first, as nothing heals it"
    assert [c.counter for bundle in bundles for c in clear(bundle, "card7")] == [1, 2, 3, 4, 5]
    assert {len(m.items) for m in delivered(outputs)} == {MAX_DATA}


def test_one_whose_letter_is_too_long_does_not_stop_the_others() -> None:
    """R20: an IDr that leaves no room."""
    bsm = machine()
    bsm._subscribers.add([person(0), person(1, "x" * 200), person(2)])
    bsm._subscribers.grant_to([(f"card{n}", right()) for n in range(3)])
    outputs = finish(bsm)
    assert names(outputs) == Counter(["card0", "card2"])
    assert [(o.code, o.text[:6]) for o in outputs if isinstance(o, Alarm)] == [("ltkm-not-made", "card1:")]
    alone = bsm.grant("card1", right(), START)
    assert made(alone) == [] and [o.code for o in alone if isinstance(o, Alarm)] == ["ltkm-not-made"]


def test_a_restored_copy_does_not_use_a_counter_again() -> None:
    """R2, also for whoever was enrolled after the copy was made."""
    bsm = machine(state=enrolled(5))
    finish(bsm)
    again = machine(state=bsm._journal.tables, start=RESTORED)
    again.tick(START + 5)
    made_again = again.grant("card3", right(), START + 5)
    assert [c.counter for bundle in made(made_again) for c in clear(bundle, "card3")] == [65536 + 3, 65536 + 4], "the new key had 2"


def test_between_two_goes_others_have_their_turn() -> None:
    bsm = machine(state=enrolled(2 * ISSUED_AT_ONCE))
    bsm.tick(START)
    assert bsm.next_wakeup() == START + ISSUE_PAUSE
    assert made(bsm.tick(START + ISSUE_PAUSE / 2)) == []
    assert len(made(bsm.tick(START - 3600))) == 1, "the clock was set back: nothing waits for an hour"


# --- enrolment ----------------------------------------------------------------------------------------------------------


def test_many_at_once_are_on_one_page() -> None:
    bsm = machine()
    bsm.tick(START)
    party = card_party(77)
    some = [Enrolment(person(n), (right(),)) for n in range(20)]
    outputs = bsm.add_subscribers([*some, Enrolment(party.subscriber, (right(),), party.registration)], START)
    (bundle,) = made(outputs)
    assert len(bundle) == 21
    assert [o.message.items for o in outputs if isinstance(o, Send) and o.message.tag is Tag.RegDelivery] == [(party.registration,)]


def test_an_enrolment_that_is_refused_adds_nobody() -> None:
    bsm = machine(replace(DRM, profiles=("drm", "smartcard"), key_domain_id=b"abc", key_group=1))
    bsm.tick(START)
    bsm.add_group(GROUP_KEYS, START)
    device = Subscriber(id="card1", group=GROUP_KEYS.address, position=1, udk=UDK(bytes(16)), riak=RIAK(bytes(16)))
    with pytest.raises(LocalFlowError, match="no stream 9"):
        bsm.add_subscribers([Enrolment(person(0), (right(stream=9),))], START)
    bsm.add_subscriber(person(1), START)
    with pytest.raises(LocalFlowError, match="card1 is there with another profile"):
        bsm.add_subscribers([Enrolment(person(2)), Enrolment(device)], START)
    for name in ("card0", "card2"):
        with pytest.raises(LocalFlowError, match=f"no subscriber {name}"):
            bsm.grant(name, right(), START)
    bsm.add_subscriber(replace(device, id="device"), START)
    with pytest.raises(LocalFlowError, match="device is there with another profile"):
        bsm.add_subscriber(replace(person(3), id="device"), START)


# --- pages ------------------------------------------------------------------------------------------------------------


def test_few_deliveries_are_under_way_at_once() -> None:
    """The others wait in the store; what a BSD/A has not confirmed is offered again after a restart, as few at a time."""
    pages = PAGES_IN_FLIGHT + 3
    bsm = machine(state=enrolled(pages * ISSUED_AT_ONCE))
    sent = delivered(finish(bsm))
    assert len(sent) == PAGES_IN_FLIGHT
    more = delivered(confirm(bsm, sent[:1], START))
    assert len(more) == 1 and not set(more[0].items) & {item for m in sent for item in m.items}
    again = delivered(machine(state=bsm._journal.tables).tick(START + 1))
    assert [m.message_id for m in again] == [m.message_id for m in (*sent[1:], *more)]
    arrived = {m.message_id: m.items for m in (*sent, *more)}
    for _ in range(pages):
        waiting = [m for m in (*sent, *more) if m.message_id in arrived]
        more = delivered(confirm(bsm, waiting, START))
        arrived |= {m.message_id: m.items for m in more}
    assert len(arrived) == pages and sum(map(len, arrived.values())) == pages * MAX_DATA


def test_what_is_pulled_is_no_more_than_an_answer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """R30: the next answer goes on where the last one stopped."""
    bsm = machine(state=enrolled(3 * ISSUED_AT_ONCE))
    bundles = made(finish(bsm))
    monkeypatch.setattr("pybcast.flows.bsm.delivery.PULL_OCTETS", max(len(bundle.data) for bundle in bundles))
    found = []
    for n in range(3):
        message = request(Tag.LTKMRequest, source=BSDA_URI, destination=BSM_URI, stream=None, message_id=f"{n:032x}")
        answers = [o.message for o in bsm.receive(message, START + 1, BSDA_URI) if isinstance(o, Send) and o.message.is_answer]
        found += [answer.items for answer in answers]
    pages = [bundle.items() for bundle in bundles]
    assert found == [pages[0] + pages[1], pages[2] + pages[0], pages[1] + pages[2]]


def test_a_page_that_is_replaced_while_it_waits_is_not_delivered() -> None:
    bsm = machine(state=enrolled((PAGES_IN_FLIGHT + 1) * ISSUED_AT_ONCE))
    finish(bsm)
    pages, to_deliver = bsm._delivery._pages, bsm._delivery._to_deliver
    (last,) = [key for waiting in to_deliver.values() for key in waiting.values()]
    pages.confirmed(last[2], BSDA_URI)  # by the main one, say; the back-up is not there
    made_again = names(bsm.tick(START + HEALED + 1))
    assert sum(made_again.values()) == MAX_DATA and pages.find(last) is None
    assert names(bsm.tick(START + HEALED + 2)) == Counter(), "those that nobody has confirmed are not made again"
    alive = {page.name for page in pages.all()}
    assert len(alive) == PAGES_IN_FLIGHT + 1
    assert all(pages.find(key) is not None for waiting in to_deliver.values() for key in waiting.values())


def test_so_many_that_healing_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: five turns of the carousel, up to a rate; beyond it turns are longer, here as on air."""
    size = 3 * ISSUED_AT_ONCE
    bsm = machine(state=enrolled(size))
    sent = delivered(finish(bsm))
    confirm(bsm, sent, START)
    assert size / REISSUE_RATE < HEALED
    monkeypatch.setattr("pybcast.flows.bsm.pages.REISSUE_RATE", size / (2 * HEALED))
    assert made(bsm.tick(START + HEALED)) == [], "it is looked at again: there are more than when it was made"
    assert made(bsm.tick(START + 2 * HEALED - 1)) == []
    again = [bundle for n in range(3) for bundle in made(bsm.tick(START + 2 * HEALED + 2 * n * ISSUE_PAUSE))]
    assert [len(bundle) for bundle in again] == [MAX_DATA] * 3


def test_a_card_whose_letter_is_on_none_of_the_pages() -> None:
    """Its place lies between others': nothing is struck off."""
    bsm = machine()
    bsm._subscribers.add([person(n) for n in range(3)])
    bsm._subscribers.grant_to([("card0", right()), ("card2", right())])
    confirm(bsm, delivered(finish(bsm)), START)
    (before,) = bsm._delivery._pages.all()
    bsm.grant("card1", right(), START)
    assert bsm._delivery._pages.find(before.id) == before and before.alive == 2
    outputs = bsm.grant("card2", right(START, START + 20), START)
    after = bsm._delivery._pages.find(before.id)
    assert after is not None and (after.alive, after.struck) == (1, frozenset({"card2"}))
    confirm(bsm, delivered(outputs), START)
    again = [bundle for bundle in made(bsm.tick(START + HEALED)) if "card0" in bundle.names]
    assert [bundle.names for bundle in again] == [("card0",)]


def test_bcros_that_were_on_two_pages() -> None:
    """As after a crash between them: made again together, they take the place of the first; the other one ends by itself."""
    bsm = machine(DRM)
    bsm.tick(START)
    pages, subjects = bsm._delivery._pages, ((b"\0\0\0\1", b"key"), (b"\0\0\0\2", b"key"))
    batches = [Batch(Bundle.of([b"bcro"], [subject[0]]), subjects=(subject,)) for subject in subjects]
    ids = iter("pqr")
    first, second = (pages.add(DRM.id, DRM.bsdas, batch, START + 100, START, lambda: next(ids))[0] for batch in batches)
    both = Batch(Bundle.of([b"one", b"two"], [address for address, _ in subjects]), subjects=subjects)
    page, gone = pages.add(DRM.id, DRM.bsdas, both, START + 50, START, lambda: next(ids))
    assert gone == first and page.end == START + 100 and pages.letters(page) == (b"one", b"two")
    assert [p.name for p in pages.all()] == [second.name, page.name]
    bsm.tick(START + 100)
    assert pages.all() == []


def test_keys_of_people_are_not_shown() -> None:
    people = machine(state=enrolled(2))._members.some(["card0", "card1"], CARD.id)
    assert len(people.smks) == 2 and repr(people) == "<People: 2>" == f"{people}"


def test_who_is_not_known_has_no_place() -> None:
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        machine()._members.place("nobody")
