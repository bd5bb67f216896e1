# SPDX-License-Identifier: Apache-2.0
"""What the BSM gives terminals on the interaction channel (R35, R36): whose they are, STKMs for many, LTKMs for one."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

import pytest
from room_support import (
    BSDA_URI,
    BSM_URI,
    GROUP_KEYS,
    SERVICE,
    START,
    card_party,
    device_party,
    period,
    request,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.errors import KeyUnavailable, LocalFlowError, PeerFlowError
from pybcast.flows import (
    BSM,
    Enrolment,
    Later,
    PartialItem,
    Period,
    Programme,
    Right,
    Status,
    StkmItem,
    StreamConfig,
    Subscriber,
    Tag,
)
from pybcast.flows.bsm.ltkm import AWAITED
from pybcast.flows.journal import State
from pybcast.flows.stream import stkm
from pybcast.keys import RIAK, SMK, SRK, UDK, Keys
from pybcast.messages import SmartcardLtkm, SmartcardVerification
from pybcast.secret import Secret
from pybcast.testing.parties import FQDN, CardParty, rights_issuer

CARD: Final = stream_config(generation="bsm")
BOTH: Final = stream_config(generation="bsm", profiles=("drm", "smartcard"))


def bsm(*configs: StreamConfig, state: State | None = None) -> BSM:
    machine = BSM(
        me=BSM_URI, fqdn=FQDN, streams=configs or (BOTH,), randomness=random.Random(1).randbytes,
        rights_issuer_id=rights_issuer()[0].id, state=state,
    )  # fmt: skip
    machine.tick(START)
    return machine


def right(start: int = START, end: int = START + 10**6, content: str | None = None, stream: int = 1) -> Right:
    return Right(service=SERVICE, stream=stream, start=start, end=end, content=content)


def device(n: int, udn: str) -> Subscriber:
    return Subscriber(id=f"device{n}", group=GROUP_KEYS.address, position=n, udk=UDK(bytes(16)), riak=RIAK(bytes(16)), udn=udn)


def seal(machine: BSM, *periods: Period) -> None:
    """F3, of the Smartcard Profile."""
    items = tuple(
        PartialItem(
            stream=1, period_start=p.start, period_end=p.end, tek_id="1",
            content=Secret(codec.encode(stkm.partial(CARD, "smartcard", p, traffic_key(CARD, p.start)))),
        )
        for p in periods
    )  # fmt: skip
    message = request(
        Tag.TEKDelivery, source=BSDA_URI, destination=BSM_URI, profile="smartcard", items=items,
        message_id=f"{periods[0].start:032x}",
    )  # fmt: skip
    machine.receive(message, START, BSDA_URI)


# --- whose a terminal is ------------------------------------------------------------------------------------------------


def test_a_card_is_known_by_its_b_tid() -> None:
    machine, party = bsm(), card_party()
    machine.add_subscriber(party.subscriber, START, party.registration)
    found = machine.known_as(party.subscriber.idr)
    assert found == party.subscriber and found.srk is not None
    assert machine.known_as("nobody") is None is machine.known_as("")
    assert machine.registration(party.subscriber.id) == party.registration and machine.registration("nobody") is None
    fresh = replace(party.subscriber, idr="bmV3@bsf.example.com", srk=SRK(bytes(32)))
    machine.add_subscriber(fresh, START)
    for one in (machine, bsm(state=machine._journal.tables)):
        assert one.known_as(party.subscriber.idr) is None and one.known_as(fresh.idr) == fresh
    machine.add_subscriber(Subscriber(id="again", smk=SMK(bytes(32)), idr=fresh.idr), START)
    found = machine.known_as(fresh.idr)
    assert found is not None and found.id == "again", "who came last"
    machine.add_subscriber(Subscriber(id="again", smk=SMK(bytes(32)), idr="other"), START)
    assert machine.known_as(fresh.idr) == fresh


def test_r36_a_device_is_known_by_its_udn() -> None:
    machine = bsm()
    machine.add_group(GROUP_KEYS, START)
    machine.add_subscriber(device(1, "1" * 20), START)
    machine.add_subscriber(device(2, ""), START)
    assert machine.device("1" * 20) == device(1, "1" * 20) and machine.device("2" * 20) is None is machine.device("")
    with pytest.raises(LocalFlowError, match="its UDN is that of device1"):
        machine.add_subscriber(device(3, "1" * 20), START)
    with pytest.raises(LocalFlowError, match="its UDN is that of device4"):
        machine.add_subscribers([Enrolment(device(4, "4" * 20)), Enrolment(device(5, "4" * 20))], START)
    assert machine.subscriber("device3") is None is machine.subscriber("device4")
    machine.add_subscriber(device(1, "7" * 20), START)
    for one in (machine, bsm(state=machine._journal.tables)):
        assert one.device("1" * 20) is None and one.device("7" * 20) == device(1, "7" * 20)
    machine.add_subscriber(device(3, "1" * 20), START)
    assert machine.device("1" * 20) == device(3, "1" * 20)


# --- STKMs (R35) --------------------------------------------------------------------------------------------------------


def test_stkms_for_many_at_once() -> None:
    machine, party = bsm(CARD), card_party()
    machine.add_subscriber(party.subscriber, START)
    for name, window in (("late", right(START + 8)), ("gone", right(START, START + 8)), ("none", None)):
        machine.add_subscriber(replace(party.subscriber, id=name), START)
        if window is not None:
            machine.grant(name, window, START)
    machine.grant(party.subscriber.id, right(), START)
    seal(machine, period(0), period(1))

    def ask(now: float, *askers: tuple[str, int | None]) -> list[object]:
        def shown(found: object) -> object:
            return (
                found.period_start if isinstance(found, StkmItem) else found.status if isinstance(found, PeerFlowError) else found
            )

        return [shown(found) for found in machine.fetch_stkms(SERVICE, 1, "smartcard", askers, now)]

    me = party.subscriber.id
    everyone = ((me, None), (me, START), (me, START + 8), ("late", None), ("gone", START), ("none", None), ("nobody", 1))
    assert ask(START + 1, *everyone) == [
        START, Later(START + 4), Later(), Later(START + 4), Later(), Status.NOT_PERMITTED, Status.NOT_PERMITTED,
    ]  # fmt: skip
    assert ask(START + 4, (me, START), ("late", None), ("gone", START)) == [START + 8, START + 8, Later()]
    assert ask(START + 9, (me, None), ("gone", None)) == [START + 8, Status.NOT_PERMITTED]
    for stream, profile in ((2, "smartcard"), (1, "drm")):
        refused = machine.fetch_stkms(SERVICE, stream, profile, [(me, None)] * 2, START)  # type: ignore[arg-type]  # a profile
        assert [getattr(found, "status", None) for found in refused] == [Status.INVALID_REQUEST] * 2


# --- LTKMs (R36) --------------------------------------------------------------------------------------------------------


def test_only_the_streams_of_a_subscriber_are_looked_at() -> None:
    other = stream_config(generation="bsm", profiles=("drm", "smartcard"), stream=2, key_group=8, serviceBaseCID="service-2")
    machine, card, dev = bsm(BOTH, other), card_party(), device_party()
    machine.add_group(GROUP_KEYS, START)
    for one in (card.subscriber, dev.subscriber):
        machine.add_subscriber(one, START)
        machine.grant(one.id, right(stream=2), START)
        assert machine.services_of(one.id) == [other.id]
        ltkms, _ = machine.fetch_ltkms(one.id, START)
        assert len(ltkms) == 1
        machine.withdraw(one.id, SERVICE, 2, START)
        assert machine.services_of(one.id) == [] == list(machine.fetch_ltkms(one.id, START)[0])


def test_r21_a_group_has_one_bcro_whoever_asks() -> None:
    """One made anew for each who asks would carry the group's timestamps into the future, a second at a time."""
    machine, dev = bsm(stream_config(generation="bsm", profiles=("drm",))), device_party()
    machine.add_group(GROUP_KEYS, START)
    machine.add_subscriber(dev.subscriber, START)
    machine.grant(dev.subscriber.id, right(), START)
    first, _ = machine.fetch_ltkms(dev.subscriber.id, START)
    assert machine.fetch_ltkms(dev.subscriber.id, START)[0] == first and len(first) == 1
    (page,) = machine._delivery._pages.all()
    assert machine._delivery._pages.letters(page) == first
    machine._delivery._pages._remove(page)
    again, _ = machine.fetch_ltkms(dev.subscriber.id, START + 5)
    assert len(again) == 1 and again != first, "without one on the carousel it is made"


def test_a_device_gets_no_bcro_of_what_it_has_no_right_to() -> None:
    machine, dev, other = bsm(stream_config(generation="bsm", profiles=("drm",))), device_party(5), device_party(6)
    machine.add_group(GROUP_KEYS, START)
    for one in (dev, other):
        machine.add_subscriber(one.subscriber, START)
    machine.grant(dev.subscriber.id, right(), START)
    machine.grant(other.subscriber.id, right(START - 100, START - 50), START)
    assert len(machine.fetch_ltkms(dev.subscriber.id, START)[0]) == 1
    assert machine.fetch_ltkms(other.subscriber.id, START)[0] == ()
    held, _ = machine.add_programme(Programme(SERVICE, 1, "film", START + 80, START + 160), START)
    machine.grant(other.subscriber.id, right(held.start, held.end, "film"), START)
    assert len(machine.fetch_ltkms(other.subscriber.id, START)[0]) == 1


def verification(party: CardParty, data: bytes) -> bytes:
    message = codec.decode(data, "smartcard-ltkm")
    assert isinstance(message, SmartcardLtkm)
    answer = SmartcardVerification(csb_id=message.csb_id, counter=message.counter, idr=message.idr)
    clear = codec.open(data, Keys(smk=party.subscriber.smk), "smartcard-ltkm")
    return codec.seal(answer, Keys(smk=party.subscriber.smk, rand=clear.rand, idi=FQDN.encode()))  # type: ignore[union-attr]


def test_a_verification_is_taken_of_who_brings_it() -> None:
    machine, party = bsm(CARD), card_party()
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, right(), START)
    (data,), _ = machine.fetch_ltkms(party.subscriber.id, START)
    answer = verification(party, data)
    with pytest.raises(KeyUnavailable):
        machine.verify(answer, START, "eve")
    assert machine.verify(answer, START, party.subscriber.id)[0] == party.subscriber.id


def test_a_terminal_that_asks_and_never_verifies_fills_no_memory() -> None:
    machine, party = bsm(CARD), card_party()
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, right(), START)
    made = [machine.fetch_ltkms(party.subscriber.id, START)[0][0] for _ in range(AWAITED)]
    assert len(machine._journal.tables["verify"]) == AWAITED
    machine = bsm(CARD, state=machine._journal.tables)  # after a restart it goes on
    made += [machine.fetch_ltkms(party.subscriber.id, START)[0][0] for _ in range(5)]
    assert len(machine._journal.tables["verify"]) == AWAITED
    with pytest.raises(KeyUnavailable):
        machine.verify(verification(party, made[4]), START)
    for data in made[5:]:
        assert machine.verify(verification(party, data), START)[0] == party.subscriber.id
    assert machine._journal.tables["verify"] == {} == machine._issuer._awaited
