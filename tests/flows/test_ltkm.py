# SPDX-License-Identifier: Apache-2.0
"""LTKMs: who gets which, in how many messages, how they turn on the carousel, and what cards answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count

import pytest
from room_support import (
    BSDA_URI,
    BSM_URI,
    GROUP_KEYS,
    SERVICE,
    START,
    card_party,
    device_party,
    request,
    sealed_stkm,
    stream_config,
)

from pybcast import codec
from pybcast.errors import Integrity, KeyUnavailable, LocalFlowError
from pybcast.flows import BSM, BackendMessage, Output, Period, Persist, Right, Send, StreamConfig, Subscriber, Tag
from pybcast.flows.bsm.delivery import ISSUE_PAUSE
from pybcast.flows.bsm.ltkm import FIRST_COPIES
from pybcast.flows.bsm.members import Bundle, JournalMembers
from pybcast.flows.bsm.pages import Batch, Pages
from pybcast.flows.journal import Journal
from pybcast.flows.peers.messages import MAX_DATA
from pybcast.flows.stream.config import CAROUSEL_CYCLE, REISSUE_CYCLES
from pybcast.flows.tables import KeyState
from pybcast.keys import RIAK, SMK, UDK, Keys
from pybcast.messages import AddressMode, Bcro, Reporting, SmartcardLtkm, SmartcardVerification
from pybcast.testing.parties import FQDN, CardParty, rights_issuer

CARD = stream_config(generation="bsm")
DRM = stream_config(generation="bsm", profiles=("drm",))
NAME = (SERVICE, 1)

_ids = count(1)


def bsm(*configs: StreamConfig, randomness: Callable[[int], bytes] | None = None, **options: object) -> BSM:
    issuer, _ = rights_issuer()
    return BSM(
        me=BSM_URI, fqdn=FQDN, streams=configs, randomness=randomness or random.Random(1).randbytes, rights_issuer_id=issuer.id,
        **options,  # type: ignore[arg-type]  # options of the BSM
    )  # fmt: skip


def right(start: int = START, end: int = START + 10**6, content: str | None = None) -> Right:
    return Right(service=SERVICE, stream=1, start=start, end=end, content=content)


def deliveries(outputs: Iterable[Output]) -> list[BackendMessage]:
    return [o.message for o in outputs if isinstance(o, Send) and o.message.tag is Tag.LTKMDelivery]


def letters(outputs: Iterable[Output]) -> list[bytes]:
    return [data for message in deliveries(outputs) for data in message.items if isinstance(data, bytes)]


def windows(data: Iterable[bytes], party: CardParty) -> list[tuple[int, int]]:
    """The windows of LTKMs for a card, counted from START."""
    found = []
    for one in data:
        clear = codec.open(one, Keys(smk=party.subscriber.smk), "smartcard-ltkm")
        low, high = getattr(clear, "ts_low"), getattr(clear, "ts_high")  # noqa: B009
        found.append((low - START, high - START))
    return found


def confirm(machine: BSM, outputs: Iterable[Output], now: float) -> None:
    for message in deliveries(outputs):
        machine.receive(message.answer(0, now=now), now, BSDA_URI)


def bcro(data: bytes) -> Bcro:
    message = codec.decode(data, "drm-ltkm")
    assert isinstance(message, Bcro)
    return message


def carded(*configs: StreamConfig, **options: object) -> tuple[BSM, CardParty]:
    """A BSM with one card that has a right."""
    machine, party = bsm(*configs, **options), card_party()  # type: ignore[arg-type]  # options of the BSM
    machine.tick(START)
    machine.add_subscriber(party.subscriber, START)
    return machine, party


# --- subscribers and rights -------------------------------------------------------------------------------------------


def test_who_is_not_known_gets_no_right() -> None:
    machine = bsm(CARD)
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        machine.grant("nobody", right(), START)
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        machine.parental("nobody", 5, 12, None, START)


def test_a_device_of_a_group_that_is_not_known() -> None:
    machine, device = bsm(DRM), device_party()
    machine.tick(START)
    with pytest.raises(LocalFlowError, match="its group is not known"):
        machine.add_subscriber(device.subscriber, START)
    with pytest.raises(LocalFlowError, match="no subscriber"):
        machine.grant(device.subscriber.id, right(), START)
    assert machine.keys(DRM.service, DRM.stream)[0].state is not KeyState.CREATED, "the stream goes on"


def test_a_right_given_twice_is_one_right() -> None:
    machine, party = carded(CARD)
    first = letters(machine.grant(party.subscriber.id, right(), START))
    again = letters(machine.grant(party.subscriber.id, right(), START))
    assert windows(first, party) == windows(again, party) == [(-1, 639)]


def test_rights_that_meet_are_one_window_and_others_stay_apart() -> None:
    """R3: the first LTKM of a SEK fixes the card's COUNTER, so it goes out several times when another one follows."""
    machine, party = carded(CARD)
    machine.tick(START)
    machine.grant(party.subscriber.id, right(START + 640, START + 720), START)  # nothing of this key
    name = party.subscriber.id
    together = letters(machine.grant(name, right(START, START + 80), START))
    assert windows(together, party) == [(-1, 79)]
    machine.grant(name, right(START + 80, START + 160), START)
    ltkms, _ = machine.fetch_ltkms(name, START)
    assert windows(ltkms, party) == [(-1, 159)]
    machine.grant(name, right(START + 240, START + 320), START)
    ltkms, _ = machine.fetch_ltkms(name, START)
    assert windows(ltkms, party) == [(-1, 159), (240, 319)]


@pytest.mark.parametrize(("first", "low"), [(640, (639, 719)), (648, (639, 639))])
def test_the_first_ltkm_of_a_key_must_not_be_lost(first: int, low: tuple[int, int]) -> None:
    """Two programmes under a key that comes: what opens its lower end goes out first, and more than once."""
    machine, party = carded(CARD)
    for start, end in ((first, 720), (800, 880)):
        machine.grant(party.subscriber.id, right(START + start, START + end), START)
    made = letters(machine.tick(START + 320))
    found = windows(made, party)
    assert found[:FIRST_COPIES] == [low] * FIRST_COPIES
    assert found[-1] == (800, 879)
    for data in made[FIRST_COPIES - 1 :]:  # all copies but one are lost
        party.card.ltkm(data, START + 320)
    key = machine.keys(*NAME)[-1].material
    for start in (first, 712, 800, 872):
        party.card.stkm(sealed_stkm(CARD, Period(0, START + start, START + start + 8), key))
    with pytest.raises(KeyUnavailable):
        party.card.stkm(sealed_stkm(CARD, Period(0, START + 880, START + 888), key))


# --- BCROs ------------------------------------------------------------------------------------------------------------


def subscriber(position: int, *, own_keys: bool = True) -> Subscriber:
    rng = random.Random(position)
    udk, riak = (UDK(rng.randbytes(16)), RIAK(rng.randbytes(16))) if own_keys else (None, None)
    return Subscriber(id=f"device{position}", group=GROUP_KEYS.address, position=position, udk=udk, riak=riak)


def grouped(positions: Iterable[int], *, own_keys: bool = True) -> BSM:
    """A BSM whose memory holds a group and its entitled members."""
    members = [subscriber(position, own_keys=own_keys) for position in positions]
    return bsm(
        DRM,
        state={
            "group": {(GROUP_KEYS.address,): GROUP_KEYS},
            "subscriber": {(s.id,): s for s in members},
            "right": {(s.id, *NAME, START, START + 10**6, None): right() for s in members},
        },
    )


@pytest.mark.parametrize(
    ("positions", "own_keys", "mode"),
    [
        (range(256), True, AddressMode.WHOLE_GROUP),
        ([5], True, AddressMode.UNIQUE_DEVICE),
        ([5], False, AddressMode.SUBSET),
        ([5, 7], True, AddressMode.SUBSET),
    ],
)
def test_how_a_bcro_addresses_its_members(positions: list[int], own_keys: bool, mode: AddressMode) -> None:
    """R21: by their number; who has no key of his own is a subset of one."""
    (data,) = letters(grouped(positions, own_keys=own_keys).tick(START))
    message = bcro(data)
    assert (message.address_mode, message.group_address) == (mode, GROUP_KEYS.address)
    assert message.position_in_group == (5 if mode is AddressMode.UNIQUE_DEVICE else None)
    if mode is AddressMode.SUBSET:
        assert message.bit_access_mask is not None
        bits = int.from_bytes(message.bit_access_mask, "big")
        assert {p for p in range(256) if bits >> (255 - p) & 1} == set(positions)


@pytest.mark.parametrize("others", [[], [7]])
def test_a_device_opens_the_bcro_that_addresses_it(others: list[int]) -> None:
    machine, device, left_out = bsm(DRM), device_party(5), device_party(6)
    machine.tick(START)
    machine.add_group(GROUP_KEYS, START)
    for one in (device.subscriber, left_out.subscriber, *map(subscriber, others)):
        machine.add_subscriber(one, START)
    outputs: list[Output] = []
    for name in (*(subscriber(p).id for p in others), device.subscriber.id):
        outputs = machine.grant(name, right(), START)
    (data,) = letters(outputs)
    device.device.ltkm(data)
    assert any(isinstance(o, Persist) and o.value is not None for o in device.device.take())
    with pytest.raises(KeyUnavailable):
        left_out.device.ltkm(data)


# --- verification and reporting (R19, R36) ----------------------------------------------------------------------------


def report_of(party: CardParty, data: bytes, reporting: Reporting | None) -> bytes:
    """What a card answers to an LTKM that asked for it."""
    message = codec.decode(data, "smartcard-ltkm")
    assert isinstance(message, SmartcardLtkm) and party.subscriber.smk is not None
    answer = SmartcardVerification(csb_id=message.csb_id, counter=message.counter, idr=message.idr, reporting=reporting)
    clear = codec.open(data, Keys(smk=party.subscriber.smk), "smartcard-ltkm")
    rand = getattr(clear, "rand")  # noqa: B009
    return codec.seal(answer, Keys(smk=party.subscriber.smk, rand=rand, idi=FQDN.encode()))


def test_a_report_proves_reception_and_is_kept() -> None:
    machine, party = carded(CARD)
    machine.grant(party.subscriber.id, right(), START)
    (data,), _ = machine.fetch_ltkms(party.subscriber.id, START)
    report = report_of(party, data, Reporting(status=3))
    with pytest.raises(Integrity):
        machine.verify(report[:-1] + bytes([report[-1] ^ 1]), START)
    name, outputs = machine.verify(report, START)
    assert name == party.subscriber.id
    kept = [o.value for o in outputs if isinstance(o, Persist) and o.table == "report"]
    assert kept == [Reporting(status=3)]
    assert bsm(CARD, state=machine._journal.tables).report(name) == Reporting(status=3), "after a restart"
    with pytest.raises(KeyUnavailable):
        machine.verify(report, START)


def test_nothing_is_awaited_for_a_key_that_is_gone() -> None:
    """Two keys that drew one CSB ID: only the verifications of the one that is gone are given up."""
    numbers = random.Random(1)
    machine, party = carded(CARD, randomness=lambda n: bytes(4) if n == 4 else numbers.randbytes(n))
    machine.grant(party.subscriber.id, right(), START)
    (old,), _ = machine.fetch_ltkms(party.subscriber.id, START)
    for now in range(START + 320, START + 701, 4):
        machine.tick(now)
    (new,), _ = machine.fetch_ltkms(party.subscriber.id, START + 700)
    machine.tick(START + 640 + 80)
    with pytest.raises(KeyUnavailable):
        machine.verify(report_of(party, old, None), START + 721)
    assert machine.verify(report_of(party, new, None), START + 721)[0] == party.subscriber.id


# --- pages of the carousel (R7, R30) ----------------------------------------------------------------------------------


def crowd(size: int) -> BSM:
    """A BSM whose memory holds so many entitled cards."""
    people = [Subscriber(id=f"card{n}", smk=SMK(n.to_bytes(32, "big")), idr=f"card{n}@example.com") for n in range(size)]
    return bsm(
        CARD,
        state={
            "subscriber": {(s.id,): s for s in people},
            "right": {(s.id, *NAME, START, START + 10**6, None): right() for s in people},
        },
    )


def test_more_letters_than_a_delivery_carries() -> None:
    """R30: several deliveries, each repeated until it has arrived, and each issued again by itself (R7)."""
    machine = crowd(MAX_DATA + 1)
    outputs = machine.tick(START)
    assert [len(m.items) for m in deliveries(outputs)] == [MAX_DATA] and machine.next_wakeup() == START + ISSUE_PAUSE
    assert [(job.done, job.of) for job in machine.issuing()] == [(MAX_DATA, MAX_DATA + 1)]
    outputs += machine.tick(START + ISSUE_PAUSE)
    assert [len(m.items) for m in deliveries(outputs)] == [MAX_DATA, 1] and machine.issuing() == ()
    assert len(set(letters(outputs))) == MAX_DATA + 1
    answer = machine.receive(
        request(Tag.LTKMRequest, source=BSDA_URI, destination=BSM_URI, stream=None, message_id=f"{next(_ids):032x}"),
        START,
        BSDA_URI,
    )
    assert [len(o.message.items) for o in answer if isinstance(o, Send) and o.message.is_answer] == [MAX_DATA + 1]
    confirm(machine, outputs, START)
    due = START + REISSUE_CYCLES * CAROUSEL_CYCLE + ISSUE_PAUSE
    again = [o for now in (due, due + ISSUE_PAUSE) for o in machine.tick(now)]
    assert [(len(m.items), m.replaces) for m in deliveries(again)] == [(len(m.items), m.message_id) for m in deliveries(outputs)]
    assert not set(letters(again)) & set(letters(outputs)), "new COUNTERs"


def test_a_faster_carousel_is_issued_again_sooner() -> None:
    """R7: every five turns, each stream's own."""
    machine, party = carded(replace(CARD, carousel_cycle=2.0))
    outputs = machine.grant(party.subscriber.id, right(), START)
    confirm(machine, outputs, START)
    assert letters(machine.tick(START + 9.9)) == []
    assert len(letters(machine.tick(START + 10))) == len(letters(outputs)) > 0


def test_pages_of_a_stream_that_is_configured_no_more_end_by_themselves() -> None:
    machine, party = carded(CARD)
    machine.grant(party.subscriber.id, right(), START)
    other = bsm(replace(CARD, stream=2, key_group=2), state=machine._journal.tables)
    left = []
    for now in (START, START + 60, START + 640):
        assert letters(other.tick(now)) == []
        left.append(len(other._journal.tables["page"]))
    assert left == [1, 1, 0]


def test_a_page_takes_the_place_of_the_one_for_the_same_group_and_key() -> None:
    """R7: one BCRO of a group and key turns, whoever joins."""
    machine, group2 = bsm(DRM), replace(GROUP_KEYS, address=b"\0\1\2\4")
    machine.tick(START)
    for group in (GROUP_KEYS, group2):
        machine.add_group(group, START)
    for position in (5, 7):
        machine.add_subscriber(subscriber(position), START)
    other = replace(subscriber(9), group=group2.address)
    machine.add_subscriber(other, START)
    first = machine.grant("device5", right(), START)
    confirm(machine, first, START)
    elsewhere = machine.grant(other.id, right(), START)
    assert [m.replaces for m in deliveries(elsewhere)] == [None], "another group"
    second = machine.grant("device7", right(), START + 1)
    assert [m.replaces for m in deliveries(second)] == [deliveries(first)[0].message_id]
    assert [bcro(letters(outputs)[0]).bcro_timestamp for outputs in (first, second)] == [START, START + 1]
    third = machine.grant("device5", right(START, START + 10), START + 2)
    assert deliveries(third)[-1].replaces == deliveries(first)[0].message_id, "the second one never arrived"


def test_pages_end_with_their_key() -> None:
    machine, party = carded(CARD)
    machine.grant(party.subscriber.id, right(START, START + 640), START)
    for now in range(START + 10, START + 640, 10):
        machine.tick(now)
    assert machine._journal.tables["page"]
    outputs = machine.tick(START + 640)
    assert not machine._journal.tables["page"]
    assert not letters(outputs)


def test_a_confirmation_of_a_page_that_is_gone() -> None:
    """It came late; nothing of what turns now is taken for delivered."""
    journal = Journal()
    members = JournalMembers()
    members.bind(journal)
    pages = Pages(journal, members, [])
    names = (f"{n:032x}" for n in count())
    letter = Batch(Bundle.of([b"bcro"], [GROUP_KEYS.address]), subjects=((GROUP_KEYS.address, b"key"),))
    old, _ = pages.add(DRM.id, DRM.bsdas, letter, START + 640, START, lambda: next(names))
    new, gone = pages.add(DRM.id, DRM.bsdas, letter, START + 640, START, lambda: next(names))
    assert gone == old
    before = dict(journal.tables["page"])
    pages.confirmed(old.ids[0][1], BSDA_URI)
    assert dict(journal.tables["page"]) == before
    pages.confirmed(new.ids[0][1], BSDA_URI)
    assert [page.confirmed for page in pages.all()] == [frozenset({BSDA_URI})]
