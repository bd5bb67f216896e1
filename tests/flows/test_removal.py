# SPDX-License-Identifier: Apache-2.0
"""Subscribers and programmes that are taken back, and what must stay of them (R2, R5)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from room_support import BSDA_URI, BSM_URI, GROUP_KEYS, SERVICE, START, card_party, device_party, stream_config

from pybcast import codec
from pybcast.errors import KeyUnavailable, LocalFlowError
from pybcast.flows import BSM, Enrolment, Output, Persist, Programme, Right, Send, StreamConfig, Subscriber, Tag
from pybcast.flows.bsm.ltkm import REPORTS
from pybcast.flows.bsm.members import SUBSCRIBERS, Bundle
from pybcast.flows.bsm.registration import REGISTERED
from pybcast.keys import SMK, Keys
from pybcast.messages import ClearSmartcardLtkm, Reporting, SmartcardLtkm, SmartcardVerification
from pybcast.testing.parties import FQDN, rights_issuer

CARD = stream_config(generation="bsm")
DRM = stream_config(generation="bsm", profiles=("drm",))
SEALED_THERE = stream_config(generation="bsda", profiles=("drm",))


def machine(*configs: StreamConfig, state: dict[str, dict[tuple[object, ...], object]] | None = None) -> BSM:
    return BSM(
        me=BSM_URI, fqdn=FQDN, streams=configs or (CARD,), randomness=random.Random(1).randbytes,
        rights_issuer_id=rights_issuer()[0].id, state=state,
    )  # fmt: skip


def right(start: int = START, end: int = START + 10**6, stream: int = 1) -> Right:
    return Right(service=SERVICE, stream=stream, start=start, end=end)


def person(name: str, key: int = 7) -> Subscriber:
    return Subscriber(id=name, smk=SMK(bytes([key]) * 32), idr=f"{name}@example.com")


def counters(outputs: Iterable[Output], one: Subscriber) -> list[int]:
    """The COUNTERs of the LTKMs that were made for a card."""
    found = []
    for bundle in [o.value for o in outputs if isinstance(o, Persist) and isinstance(o.value, Bundle)]:
        for name, data in zip(bundle.names, bundle.items(), strict=True):
            if name == one.id:
                clear = codec.open(data, Keys(smk=one.smk), "smartcard-ltkm")
                assert isinstance(clear, ClearSmartcardLtkm)
                found.append(clear.counter)
    return found


@pytest.mark.parametrize("restart", [False, True])
def test_who_comes_again_with_the_same_smk_goes_on_counting(restart: bool) -> None:
    bsm = machine()
    bsm.tick(START)
    used = counters(bsm.add_subscribers([Enrolment(person("a"), (right(),))], START), person("a"))
    used += counters(bsm.remove_subscriber("a", START), person("a"))
    assert used == [1, 2], "the second tells the card that it has lost the key (R3)"
    if restart:
        bsm = machine(state=bsm._journal.tables)
    assert bsm.subscriber("a") is None and bsm.known_as("a@example.com") is None and bsm.known_as("\1") is None
    assert bsm.services_of("a") == []
    for call in (
        lambda: bsm.grant("a", right(), START),
        lambda: bsm.withdraw("a", SERVICE, 1, START),
        lambda: bsm.remove_subscriber("a", START),
        lambda: bsm._members.place("a"),
    ):
        with pytest.raises(LocalFlowError, match="no subscriber a"):
            call()
    assert bsm._members.some(["a"], CARD.id).names == []
    secret = person("a").smk
    assert secret is not None and not any(row.smk == secret for row in bsm._journal.open(SUBSCRIBERS).all().values()), (
        "the key itself is gone"
    )
    again = counters(bsm.add_subscribers([Enrolment(person("a"), (right(),))], START), person("a"))
    assert min(again) == 3
    bsm.remove_subscriber("a", START)
    other = person("a", 8)
    assert counters(bsm.add_subscribers([Enrolment(other, (right(),))], START), other)[0] == 1, "a new SMK starts again"


def test_what_else_is_forgotten_of_a_card() -> None:
    bsm, party = machine(), card_party()
    name = party.subscriber.id
    bsm.tick(START)
    bsm.add_subscribers([Enrolment(party.subscriber, (right(),), party.registration)], START)
    bsm._journal.open(REPORTS).put((name,), Reporting(status=1))
    bsm._journal.open(REGISTERED).put((f"{name}/registration", BSDA_URI), True)
    (data,), _ = bsm.fetch_ltkms(name, START)
    message = codec.decode(data, "smartcard-ltkm")
    clear = codec.open(data, Keys(smk=party.subscriber.smk), "smartcard-ltkm")
    assert isinstance(message, SmartcardLtkm) and isinstance(clear, ClearSmartcardLtkm)
    answer = SmartcardVerification(csb_id=message.csb_id, counter=message.counter, idr=message.idr)
    brought = codec.seal(answer, Keys(smk=party.subscriber.smk, rand=clear.rand, idi=FQDN.encode()))
    bsm.remove_subscriber(name, START)
    with pytest.raises(KeyUnavailable):
        bsm.verify(brought, START, name)
    assert bsm.report(name) is None and bsm.registration(name) is None
    assert not bsm._journal.tables["verify"] and not bsm._journal.tables["registered"]
    offered = bsm.add_subscribers([Enrolment(party.subscriber, (), party.registration)], START)
    assert [o.message.items for o in offered if isinstance(o, Send) and o.message.tag is Tag.RegDelivery] == [(party.registration,)]


def test_new_registration_material_of_an_old_subscriber_is_offered() -> None:
    bsm = machine()
    bsm.tick(START)
    for data, wanted in ((b"first", [(b"first",)]), (b"second", [(b"second",)]), (b"second", [])):
        outputs = bsm.add_subscribers([Enrolment(person("a"), (), data)], START)
        assert [o.message.items for o in outputs if isinstance(o, Send) and o.message.tag is Tag.RegDelivery] == wanted
        bsm._journal.open(REGISTERED).put(("a/registration", BSDA_URI), True)


def test_rights_to_a_stream_that_is_configured_no_more_go_too() -> None:
    bsm = machine(CARD, replace(CARD, stream=2, key_group=2))
    bsm.tick(START)
    bsm.add_subscribers([Enrolment(person("a"), (right(), right(stream=2)))], START)
    bsm = machine(state=bsm._journal.tables)
    bsm.remove_subscriber("a", START)
    assert not bsm._journal.tables["right"]
    bsm.add_subscriber(person("a"), START)
    assert machine(CARD, replace(CARD, stream=2, key_group=2), state=bsm._journal.tables).services_of("a") == []


def test_a_device_is_removed() -> None:
    bsm, party = machine(DRM, replace(DRM, stream=2)), device_party(5)
    one = replace(party.subscriber, udn="0" * 20)
    bsm.tick(START)
    bsm.add_group(GROUP_KEYS, START)
    bsm.add_subscribers([Enrolment(one, (right(), right(stream=2)))], START)
    assert len(bsm.fetch_ltkms(one.id, START)[0]) == 2
    bsm = machine(DRM, state=bsm._journal.tables)
    bsm.remove_subscriber(one.id, START + 1)
    assert bsm.subscriber(one.id) is None and bsm.device(one.udn) is None and not bsm._journal.tables["right"]
    bsm.add_subscribers([Enrolment(replace(one, id="other"), (right(),))], START + 2)
    assert bsm.device(one.udn) is not None, "its UDN is free"


def test_many_are_withdrawn_on_one_page_and_all_or_none() -> None:
    bsm, names = machine(), [f"s{n}" for n in range(20)]
    bsm.tick(START)
    bsm.add_subscribers([Enrolment(person(name), (right(),)) for name in names], START)
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        bsm.withdraw_many([*names, "nobody"], SERVICE, 1, START)
    with pytest.raises(LocalFlowError, match="no subscriber nobody"):
        bsm.grant_many([("s1", right(stream=1, end=START + 5)), ("nobody", right())], START)
    assert all(bsm.entitled(name, SERVICE, 1, START, START + 10**6) for name in names)
    outputs = bsm.withdraw_many(names, SERVICE, 1, START)
    (bundle,) = [o.value for o in outputs if isinstance(o, Persist) and isinstance(o.value, Bundle)]
    assert list(bundle.names) == names and not any(bsm.services_of(name) for name in names)


# --- programmes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CARD, DRM, replace(SEALED_THERE, profiles=("smartcard",))])
def test_a_programme_that_nobody_can_have_prepared(config: StreamConfig) -> None:
    config = replace(config, key_domain_id=b"abc", key_group=1)
    bsm = machine(config)
    bsm.tick(START)
    held, _ = bsm.add_programme(Programme(SERVICE, 1, "film", START + 200, START + 280), START)
    first = [row.material.key_id for row in bsm.keys(SERVICE, 1) if row.programme]
    bsm.remove_programme(SERVICE, [1], "film", START + 1)
    assert not any(row.programme for row in bsm.keys(SERVICE, 1)) and not bsm._journal.tables["programme"]
    with pytest.raises(LocalFlowError, match="no programme film"):
        bsm.remove_programme(SERVICE, [1], "film", START + 1)
    other, _ = bsm.add_programme(Programme(SERVICE, 1, "show", START + 208, START + 280), START + 2)
    assert (held.start, other.start) == (START + 200, START + 208)
    assert not {row.material.key_id for row in bsm.keys(SERVICE, 1) if row.programme} & set(first), "no number is used again"
    for now in (START + 300, START + 700):
        bsm.tick(now)


def test_a_programme_that_may_be_prepared_stays() -> None:
    bsm = machine(DRM, replace(DRM, stream=2))
    bsm.tick(START)
    for stream in (1, 2):
        bsm.add_programme(Programme(SERVICE, stream, "film", START + 60 + 40 * (stream == 1), START + 200), START)
    with pytest.raises(LocalFlowError, match="may be prepared already"):
        bsm.remove_programme(SERVICE, [1, 2], "film", START + 30)
    assert sum(row.programme == "film" for stream in (1, 2) for row in bsm.keys(SERVICE, stream)) == 2, "from all or from none"


def test_a_programme_whose_key_a_bsda_has_stays() -> None:
    bsm = machine(SEALED_THERE)
    bsm.tick(START)
    bsm.add_programme(Programme(SERVICE, 1, "film", START + 200, START + 280), START)
    with pytest.raises(LocalFlowError, match=r"seals under its key \(F4\)"):
        bsm.remove_programme(SERVICE, [1], "film", START + 1)
