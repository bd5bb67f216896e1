# SPDX-License-Identifier: Apache-2.0
"""The BSM by its inputs alone: commands, requests of a BSD/A, answers to what it asked."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import TypeVar

import pytest
from room_support import (
    BSDA_URI,
    BSM_URI,
    GROUP_KEYS,
    RESTORED,
    SERVICE,
    START,
    card_party,
    device_party,
    period,
    request,
    sealed_stkm,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.errors import LocalFlowError, PeerFlowError
from pybcast.flows import (
    ALL_SERVICES,
    BSM,
    Alarm,
    BackendMessage,
    FlowDone,
    KeyMaterial,
    Output,
    PartialItem,
    Period,
    Persist,
    Profile,
    Programme,
    Right,
    Send,
    Status,
    StkmItem,
    StreamConfig,
    Tag,
)
from pybcast.flows.stream import stkm
from pybcast.keys import Keys
from pybcast.messages import DrmStkm, Reporting, SmartcardLtkm, SmartcardStkm, SmartcardVerification
from pybcast.secret import Secret
from pybcast.testing.parties import FQDN, rights_issuer
from pybcast.wire.times import encode_mjd_bcd

CARD = stream_config(generation="bsm")
DRM = stream_config(generation="bsm", profiles=("drm",))
BOTH = stream_config(generation="bsm", profiles=("drm", "smartcard"))
HERE = stream_config()
"""The BSD/A seals (F4)."""
NAME = (SERVICE, 1)

_ids = count(1)
T = TypeVar("T")


def bsm(*configs: StreamConfig, seed: int = 1, **options: object) -> BSM:
    issuer, _ = rights_issuer()
    return BSM(
        me=BSM_URI, fqdn=FQDN, streams=configs, randomness=random.Random(seed).randbytes, rights_issuer_id=issuer.id,
        **options,  # type: ignore[arg-type]  # options of the BSM
    )  # fmt: skip


def of(kind: type[T], outputs: Iterable[Output]) -> list[T]:
    return [o for o in outputs if isinstance(o, kind)]


def sent(outputs: Iterable[Output], tag: Tag) -> list[BackendMessage]:
    return [o.message for o in of(Send, outputs) if o.message.tag is tag]


def alarms(outputs: Iterable[Output], code: str) -> list[str]:
    return [alarm.text for alarm in of(Alarm, outputs) if alarm.code == code]


def asked(machine: BSM, tag: Tag, now: float, **changes: object) -> tuple[BackendMessage, list[Output]]:
    """What the BSM answers to a request of its BSD/A, and what else it does."""
    values: dict[str, object] = {"source": BSDA_URI, "destination": BSM_URI, "message_id": f"{next(_ids):032x}"}
    message = request(tag, **(values | changes))
    outputs = machine.receive(message, now, message.source)
    (answer,) = [m.message for m in of(Send, outputs) if m.message.message_id == message.message_id]
    return answer, outputs


def answered(machine: BSM, asked: BackendMessage, now: float, status: int = 0, *items: StkmItem | PartialItem) -> list[Output]:
    """The BSD/A answers."""
    return machine.receive(asked.answer(status, items, now=now), now, asked.destination)


def partial(config: StreamConfig, of: Period, profile: Profile = "smartcard") -> PartialItem:
    content = Secret(codec.encode(stkm.partial(config, profile, of, traffic_key(config, of.start))))
    return PartialItem(stream=1, period_start=of.start, period_end=of.end, tek_id="1", content=content)


def complete(machine: BSM, config: StreamConfig, now: float, *periods: Period, profile: Profile = "smartcard") -> list[StkmItem]:
    """F3: the STKMs of these periods, each with its status."""
    items = tuple(partial(config, p, profile) for p in periods)
    answer, _ = asked(machine, Tag.TEKDelivery, now, profile=profile, items=items)
    assert answer.status == 0
    return [item for item in answer.items if isinstance(item, StkmItem)]


def stkm_item(of: Period, content: bytes, status: int = 0) -> StkmItem:
    return StkmItem(stream=1, period_start=of.start, period_end=of.end, tek_id="1", status=status, content=content)


def seks(machine: BSM) -> list[KeyMaterial]:
    return [row.material for row in machine.keys(*NAME) if row.material.key_type == "SEK"]


def right(start: int = START, end: int = START + 10**6, content: str | None = None) -> Right:
    return Right(service=SERVICE, stream=1, start=start, end=end, content=content)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_not_known() -> None:
    machine = bsm(CARD)
    for call in (
        lambda: machine.rekey(SERVICE, 9, START),
        lambda: machine.keys("urn:example:other", 1),
        lambda: machine.grant("card1", replace(right(), stream=9), START),
    ):
        with pytest.raises(LocalFlowError, match="no stream"):
            call()


def test_a_programme_said_again_stays_as_it_was_scheduled() -> None:
    machine = bsm(DRM)
    machine.tick(START)
    asked_for = Programme(*NAME, "urn:event", START + 8, START + 200)
    held, outputs = machine.add_programme(asked_for, START)
    assert (held.start, held.end) == (START + 56, START + 200), "what may be prepared stays (R5)"
    assert alarms(outputs, "boundary-deferred")
    again, outputs = machine.add_programme(asked_for, START + 30)
    assert again == held
    assert not alarms(outputs, "boundary-deferred")
    assert [row.programme for row in machine.keys(*NAME)].count("urn:event") == 1


def test_a_programme_that_is_over_before_it_can_be_protected() -> None:
    machine = bsm(CARD)
    machine.tick(START)
    with pytest.raises(LocalFlowError, match="R5"):
        machine.add_programme(Programme(*NAME, "urn:event", START + 8, START + 56), START)
    held, _ = machine.add_programme(Programme(*NAME, "urn:event", START + 8, START + 64), START)
    assert (held.start, held.end) == (START + 56, START + 64)


@pytest.mark.parametrize(("config", "windows"), [(CARD, [(START + 80, START + 160)]), (HERE, [])])
def test_a_programme_of_the_smartcard_profile_is_a_window(config: StreamConfig, windows: list[tuple[int, int]]) -> None:
    """F3: the BSD/A is told its edges; F4: the operator tells it, no key is made in either."""
    machine = bsm(config)
    machine.tick(START)
    before = [row.material for row in machine.keys(*NAME)]
    _, outputs = machine.add_programme(Programme(*NAME, "urn:event", START + 80, START + 160), START + 1)
    asked_for = [m for m in sent(outputs, Tag.PartialSTKMRequest) if m.content == "urn:event"]
    assert [(m.start, m.end) for m in asked_for] == windows
    assert [row.material for row in machine.keys(*NAME)] == before


def test_who_seals_already_needs_no_new_key() -> None:
    machine = bsm(CARD)
    machine.tick(START)
    machine.set_generation(*NAME, "bsm", START + 1)
    assert len(machine.keys(*NAME)) == 1
    machine.set_generation(*NAME, "bsda", START + 2)
    assert [row.sealer for row in machine.keys(*NAME)] == ["bsm", "bsda"]


def test_a_longer_period_moves_what_may_be_prepared() -> None:
    """R5: with look_ahead 5 everything within seven periods may be prepared."""
    config = replace(CARD, granularity=8)
    for length, start in ((8, START + 56), (16, START + 112)):
        machine = bsm(config)
        machine.tick(START)
        machine.set_period(*NAME, length, START)
        held, _ = machine.add_programme(Programme(*NAME, "urn:event", START, START + 200), START)
        assert held.start == start


def test_a_key_wanted_at_once_shortly_before_the_next_one_is_the_next_one() -> None:
    """R10: it could not be there earlier."""
    machine = bsm(replace(CARD, rollover_lead=8, carousel_cycle=4))
    machine.tick(START)
    end = START + 640
    machine.rekey(*NAME, end - 20)
    assert len(seks(machine)) == 1
    machine.tick(end - 8)
    assert [key.valid_from for key in seks(machine)] == [START, end]
    machine.tick(end + 20)
    assert [key.valid_from for key in seks(machine)] == [START, end], "done"


def test_r10_a_key_cut_short_is_not_offered_as_it_was() -> None:
    """Its delivery was lost, its successor's was not: repeated with the end it had, it would take the successor's place."""
    machine = bsm(HERE)
    (first,) = sent(machine.tick(START), Tag.KeyDelivery)

    def ends(messages: list[BackendMessage]) -> dict[int, int]:
        return {key.valid_from: key.valid_to for m in messages for key in m.items if isinstance(key, KeyMaterial)}

    offered = ends(sent(machine.rekey(*NAME, START + 1), Tag.KeyDelivery))
    start = max(offered)
    assert offered == {START: start, start: start + HERE.key_period} and start > START
    later = [m for t in range(2, 20) for m in sent(machine.tick(START + t), Tag.KeyDelivery)]
    assert len(later) > 4 and first.message_id not in {m.message_id for m in later}
    assert ends(later) == offered


def test_parental_control_reaches_the_card() -> None:
    machine, party = bsm(DRM, replace(CARD, stream=2)), card_party()
    machine.tick(START)
    machine.add_subscriber(party.subscriber, START)
    for level, pin in ((12, "1234"), (15, None)):
        outputs = machine.parental(party.subscriber.id, 5, level, pin, START)
        (delivery,) = sent(outputs, Tag.LTKMDelivery)
        assert delivery.end == START + 640
        (letter,) = delivery.items
        assert isinstance(letter, bytes)
        assert party.card.ltkm(letter, START) is None
        assert [(o.key, o.value) for o in of(Persist, party.card.take()) if o.table == "parental"] == [((5,), level)]


def test_parental_control_is_the_smartcard_profiles() -> None:
    party, device = card_party(), device_party()
    for config, subscriber, what in (
        (CARD, device.subscriber, "Smartcard Profile's"),
        (DRM, party.subscriber, "no stream of the Smartcard Profile"),
    ):
        machine = bsm(config)
        machine.add_group(GROUP_KEYS, START)
        machine.add_subscriber(subscriber, START)
        with pytest.raises(LocalFlowError, match=what):
            machine.parental(subscriber.id, 5, 12, "1234", START)
        late = machine.tick(START + 1)
        assert not sent(late, Tag.LTKMDelivery) and not [o for o in of(Persist, late) if o.table == "smk-counter"]


def test_a_stream_that_was_given_up_gets_no_new_ltkms() -> None:
    machine, party = bsm(CARD), card_party()
    machine.add_subscriber(party.subscriber, START)
    assert sent(machine.grant(party.subscriber.id, right(), START), Tag.LTKMDelivery)
    other = bsm(replace(CARD, stream=2), state=machine._journal.tables)
    other.tick(START)
    for now in range(START + 10, START + 200, 10):
        assert not [o for o in of(Persist, other.tick(now)) if o.table == "smk-counter"]


# --- terminals with an interaction channel ------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "lead"), [(4, 2), (8, 4)])
def test_r35_the_next_stkm_is_not_served_before_its_lead(first: int, lead: int) -> None:
    """A terminal with a connection would have the next key long before the air does: half of the period before, as on air (R6)."""
    config = replace(CARD, granularity=4)
    machine, party = bsm(config), card_party()
    machine.tick(START)
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, right(START, START + 100), START)
    running, following = Period(0, START, START + first), Period(1, START + first, START + first + 8)
    complete(machine, config, START, running, following)

    def fetch(now: float) -> int | None:
        item = machine.fetch_stkm(*NAME, "smartcard", party.subscriber.id, now, START)
        return None if item is None else item.period_start

    assert fetch(START + first - lead - 0.01) is None
    assert fetch(START + first - lead) == following.start


def test_r37_what_the_sdp_names_is_in_the_clear_fields() -> None:
    """srvCIDExt and srvKEYList: a terminal that finds no such key in what it holds need not ask its card."""
    config = stream_config(generation="bsm", profiles=("drm", "smartcard"))
    machine = bsm(config)
    machine.tick(START)
    complete(machine, config, START, period(0))
    complete(machine, config, START, period(0), profile="drm")
    ids = {row.material.key_type: row.material.key_id for row in machine.keys(*NAME)}
    (card,) = machine._streams[config.id].stkms.at_hand("smartcard")
    sealed = codec.decode(card.content, "smartcard-stkm")
    assert isinstance(sealed, SmartcardStkm) and sealed.key_domain_id + sealed.sek_id == ids["SEK"]
    (device,) = machine._streams[config.id].stkms.at_hand("drm")
    stkm = codec.decode(device.content, "drm-stkm")
    assert isinstance(stkm, DrmStkm) and stkm.service_CID_extension == int.from_bytes(ids["SEAK"], "big")


def test_fetching_a_stkm() -> None:
    machine, party = bsm(CARD), card_party()
    machine.tick(START)
    machine.add_subscriber(party.subscriber, START)
    name = party.subscriber.id

    def fetch(now: float, after: int | None = None) -> int | None:
        item = machine.fetch_stkm(*NAME, "smartcard", name, now, after)
        return None if item is None else item.period_start

    for config, profile in (((SERVICE, 9), "smartcard"), (NAME, "drm")):
        with pytest.raises(PeerFlowError) as caught:
            machine.fetch_stkm(*config, profile, name, START)  # type: ignore[arg-type]  # a profile
        assert caught.value.status == Status.INVALID_REQUEST
    with pytest.raises(PeerFlowError) as caught:
        fetch(START)
    assert caught.value.status == Status.NOT_PERMITTED
    machine.grant(name, right(START, START + 16), START)
    assert fetch(START) is None, "nothing is sealed yet"
    complete(machine, CARD, START, period(0), period(1), period(2))
    assert fetch(START) == START
    assert fetch(START, START) is None, "its lead has not begun (R6)"
    assert fetch(START + 4, START) == START + 8
    assert fetch(START + 12, START + 8) is None, "the right ends there"
    with pytest.raises(PeerFlowError) as caught:
        fetch(START + 16)
    assert caught.value.status == Status.NOT_PERMITTED


def test_ltkms_of_a_card_and_of_a_device_over_the_interaction_channel() -> None:
    """Each gets those of its own profile, for the keys that have not ended."""
    machine, party, device, stranger = bsm(BOTH), card_party(), device_party(), card_party(2)
    machine.tick(START)
    machine.add_group(GROUP_KEYS, START)
    for subscriber in (party.subscriber, device.subscriber, stranger.subscriber):
        machine.add_subscriber(subscriber, START)
    for subscriber in (party.subscriber, device.subscriber):
        machine.grant(subscriber.id, right(), START)
    (card_ltkm,), _ = machine.fetch_ltkms(party.subscriber.id, START + 1)
    assert party.card.ltkm(card_ltkm, START + 1) is not None, "it is asked to verify"
    (bcro,), _ = machine.fetch_ltkms(device.subscriber.id, START + 1)
    device.device.ltkm(bcro)
    assert [o.key for o in of(Persist, device.device.take()) if o.value is not None]
    assert machine.fetch_ltkms(stranger.subscriber.id, START + 1) == ((), [])
    for now in range(START + 320, START + 700, 10):
        machine.tick(now)
    states = [row.state.value for row in machine.keys(*NAME)]
    assert states == ["ended", "ended", "on air", "on air"]
    assert [len(machine.fetch_ltkms(s.id, START + 700)[0]) for s in (party.subscriber, device.subscriber)] == [1, 1]


def test_a_device_whose_right_is_for_later_gets_nothing_yet() -> None:
    machine, device = bsm(DRM), device_party()
    machine.tick(START)
    machine.add_group(GROUP_KEYS, START)
    machine.add_subscriber(device.subscriber, START)
    machine.grant(device.subscriber.id, right(START + 2000), START)
    assert machine.fetch_ltkms(device.subscriber.id, START)[0] == ()


# --- requests of a BSD/A ------------------------------------------------------------------------------------------------


def test_the_stream_may_stand_in_the_elements_only() -> None:
    machine = bsm(CARD)
    machine.tick(START)
    answer, _ = asked(machine, Tag.TEKDelivery, START, stream=None, items=(partial(CARD, period(1)),))
    assert [(i.period_start, i.status) for i in answer.items if isinstance(i, StkmItem)] == [(START + 8, 0)]


def test_registration_material_and_ltkms_on_request() -> None:
    machine, party = bsm(CARD), card_party()
    machine.tick(START)
    reg: dict[str, str | None] = {"service": ALL_SERVICES, "stream": None}
    for changes in (reg | {"service": SERVICE}, reg | {"source": "urn:example:stranger"}):
        answer, _ = asked(machine, Tag.RegRequest, START, **changes)
        assert answer.status == Status.NOT_PERMITTED
    ltkms: dict[str, str | None] = {"stream": None}
    for tag, changes in ((Tag.RegRequest, reg), (Tag.LTKMRequest, ltkms)):
        answer, outputs = asked(machine, tag, START, **changes)
        assert (answer.status, answer.items) == (Status.NON_EXISTENT, ())
        assert not of(FlowDone, outputs)
    machine.add_subscriber(party.subscriber, START, party.registration)
    machine.grant(party.subscriber.id, right(), START)
    for tag, changes, flow in ((Tag.RegRequest, reg, "F1"), (Tag.LTKMRequest, ltkms, "F2")):
        answer, outputs = asked(machine, tag, START, **changes)
        assert (answer.status, len(answer.items)) == (0, 1)
        assert [done.flow for done in of(FlowDone, outputs)] == [flow]


def test_who_does_not_seal_refuses() -> None:
    """F3 asked of a BSM whose BSD/A seals, F4 of one that seals itself."""
    machine = bsm(HERE)
    machine.tick(START)
    answer, _ = asked(machine, Tag.TEKDelivery, START, items=(partial(HERE, period(1)),))
    assert answer.status == Status.INVALID_REQUEST
    machine = bsm(CARD)
    machine.tick(START)
    answer, _ = asked(machine, Tag.KeyRequest, START)
    assert (answer.status, answer.items) == (Status.INVALID_REQUEST, ())


def test_a_key_stays_its_sealers() -> None:
    """R1: after F4 was given up, a period of the BSD/A's key is not sealed here."""
    machine = bsm(HERE)
    machine.tick(START)
    machine.set_generation(*NAME, "bsm", START)
    edge = seks(machine)[-1].valid_from
    assert edge < START + 80
    before, after = Period(0, START + 8, START + 16), Period(0, edge, edge + 8)
    assert [i.status for i in complete(machine, HERE, START, before, after)] == [Status.INVALID_REQUEST, 0]


def test_the_status_of_each_period() -> None:
    """R27, R32: before the first key 17, across its end 21 with the edge, after the last one 19."""
    machine = bsm(CARD)
    machine.tick(START + 16)
    end = START + 16 + 640
    straddling, beyond = Period(0, end - 4, end + 4), Period(0, end, end + 8)
    done = complete(machine, CARD, START + 16, period(1), period(2), straddling, beyond)
    assert [(i.status, i.authority_end) for i in done] == [(17, None), (0, end), (21, end), (19, None)]
    assert [bool(i.content) for i in done] == [False, True, False, False]


def test_what_cannot_be_read_or_said() -> None:
    """R15: where no DRM timestamp can be said any more it is status 20; what does not parse is 21, and so is another time."""
    late = replace(DRM, start=stkm.LAST_MJD_TIME + 1)
    for config, status in ((late, Status.GENERATION_FAILURE), (DRM, Status.INFORMATION_INVALID)):
        machine = bsm(config)
        machine.tick(config.start)
        sound = partial(DRM, period(1), "drm").content.reveal()
        unsaid = sound.replace(encode_mjd_bcd(START + 8), b"\xff" * 5)
        assert unsaid != sound
        other = partial(DRM, period(2), "drm").content.reveal()
        items = tuple(
            PartialItem(stream=1, period_start=config.start, period_end=config.start + 8, tek_id="1", content=Secret(content))
            for content in (unsaid, b"\0", other)
        )
        answer, _ = asked(machine, Tag.TEKDelivery, config.start, profile="drm", items=items)
        assert [i.status for i in answer.items if isinstance(i, StkmItem)] == [status, 21, 21]


def test_items_of_one_delivery_that_overlap() -> None:
    """R32: the first of them is sealed, and the others learn where to cut; who says a period twice gets the same."""
    machine = bsm(CARD)
    machine.tick(START)
    first, inside, again, last = complete(machine, CARD, START, period(1), Period(0, START + 12, START + 20), period(1), period(2))
    assert (first.status, inside.status, inside.authority_end) == (0, 21, START + 16)
    assert (again.content, last.status) == (first.content, 0)


def test_a_delivery_that_says_one_period_a_thousand_times() -> None:
    """Whatever a BSD/A says, in bounded time and depth."""
    machine = bsm(CARD)
    machine.tick(START)
    again = complete(machine, CARD, START, *[period(1)] * 1000)
    assert {(item.status, item.content) for item in again} == {(0, again[0].content)} and again[0].content
    back = complete(machine, CARD, START, *(period(n) for n in range(9, 1, -1)))
    assert [item.status for item in back] == [0] * 8
    unsaid = [PartialItem(stream=1, period_start=START + 8, period_end=START + 16, tek_id="1", content=Secret(b"\0"))] * 1000
    answer, _ = asked(machine, Tag.TEKDelivery, START, items=tuple(unsaid))
    assert {item.status for item in answer.items if isinstance(item, StkmItem)} == {Status.INFORMATION_INVALID}


def test_keys_that_change_inside_a_delivery() -> None:
    """Each item is sealed under the key of its period, whatever the others have."""
    machine = bsm(CARD)
    machine.tick(START)
    machine.tick(START + 320)
    now = START + 600
    machine.tick(now)
    early, late = seks(machine)
    items = complete(machine, CARD, now, Period(0, late.valid_from, late.valid_from + 8), Period(0, now + 8, now + 16))
    assert [i.authority_end for i in items] == [late.valid_to, early.valid_to]
    assert [stkm.key_id_in("smartcard", i.content) for i in items] == [late.key_id, early.key_id]


def test_stkms_that_are_refused_together_go_again_one_by_one() -> None:
    """F5: what the BSD/A does not take of a delivery costs the others nothing."""
    machine = bsm(replace(CARD, synchronous=False))
    machine.tick(START)
    _, outputs = asked(machine, Tag.TEKDelivery, START, items=(partial(CARD, period(1)), partial(CARD, period(2))))
    (whole,) = sent(outputs, Tag.STKMDelivery)
    alone = sent(answered(machine, whole, START, Status.ALREADY_IN_USE), Tag.STKMDelivery)
    assert [m.items for m in alone] == [(one,) for one in whole.items]
    assert len(alarms(answered(machine, alone[0], START, Status.ALREADY_IN_USE), "refused")) == 1


def test_a_bsm_that_is_slow_and_asked_for_the_result() -> None:
    """Status 19 for each, and nothing pushed where delivery is pulled."""
    machine = bsm(replace(CARD, synchronous=False, delivery="pull"))
    machine.tick(START)
    answer, outputs = asked(machine, Tag.TEKDelivery, START, items=(partial(CARD, period(1)), partial(CARD, period(2))))
    assert [(i.status, i.content) for i in answer.items if isinstance(i, StkmItem)] == [(19, b"")] * 2
    assert not sent(outputs, Tag.STKMDelivery)
    answer, _ = asked(machine, Tag.STKMRequest, START + 1, start=START + 8, end=START + 16)
    assert [i.period_start for i in answer.items if isinstance(i, StkmItem)] == [START + 8]
    answer, _ = asked(machine, Tag.STKMRequest, START + 1, start=START + 24)
    assert (answer.status, answer.items) == (Status.NON_EXISTENT, ())


def test_stkms_under_a_key_that_was_cut_short_are_not_given_out() -> None:
    """R10: they are burnt."""
    machine = bsm(CARD)
    machine.tick(START)
    complete(machine, CARD, START, *(period(n) for n in range(8)))
    machine.rekey(*NAME, START)
    edge = seks(machine)[-1].valid_from
    assert START < edge < START + 64
    answer, _ = asked(machine, Tag.STKMRequest, START)
    assert [i.period_start for i in answer.items if isinstance(i, StkmItem)] == list(range(START, edge, 8))
    (again,) = complete(machine, CARD, START, Period(0, edge, edge + 8))
    assert again.status == 0, "under the new key"


def test_stkms_for_the_interaction_channel_are_checked() -> None:
    """F6: none for a period without a key, none that does not open or is of another period; one that failed is no news."""
    machine = bsm(HERE)
    machine.tick(START)
    (key,) = seks(machine)
    good = [sealed_stkm(HERE, period(n), key) for n in range(3)]
    beyond = Period(0, START + 640, START + 648)
    for item in (
        stkm_item(beyond, good[1]),
        stkm_item(period(1), good[1][:-1] + bytes([good[1][-1] ^ 1])),
        stkm_item(period(1), b"\0"),
        stkm_item(period(1), good[2]),
    ):
        answer, outputs = asked(machine, Tag.STKMDelivery, START, items=(item,))
        assert answer.status == Status.WRONG_KEY_INFORMATION
        assert not [o for o in of(Persist, outputs) if o.table == "received"]
    answer, outputs = asked(machine, Tag.STKMDelivery, START, items=(stkm_item(period(1), b"", 20),))
    assert answer.status == 0
    assert not of(FlowDone, outputs)
    answer, outputs = asked(machine, Tag.STKMDelivery, START, items=(stkm_item(period(1), good[1]),))
    assert answer.status == 0
    assert [(d.flow, d.profile) for d in of(FlowDone, outputs)] == [("F6", "smartcard")]
    assert [o.key[-1] for o in of(Persist, outputs) if o.table == "received"] == [START + 8]


def test_stkms_that_came_together_are_one_row() -> None:
    """F6: all or nothing; what a key that is wanted at once takes away leaves the others, until the last of them is over."""
    machine = bsm(HERE)
    machine.tick(START)
    (key,) = seks(machine)
    items = [stkm_item(period(n), sealed_stkm(HERE, period(n), key)) for n in range(8)]
    bad = replace(items[3], content=items[4].content)
    answer, outputs = asked(machine, Tag.STKMDelivery, START, items=(*items[:3], bad))
    assert answer.status == Status.WRONG_KEY_INFORMATION and "received" not in {o.table for o in of(Persist, outputs)}
    _, outputs = asked(machine, Tag.STKMDelivery, START, items=tuple(reversed(items)))
    (row,) = [o for o in of(Persist, outputs) if o.table == "received"]
    assert (row.key, row.value) == ((*NAME, "smartcard", START), tuple(items))
    (row,) = [o for o in of(Persist, machine.rekey(*NAME, START)) if o.table == "received"]
    edge = seks(machine)[-1].valid_from
    assert START + 8 < edge < START + 64 and row.value == tuple(i for i in items if i.period_start < edge)
    assert "received" not in {o.table for o in of(Persist, machine.tick(edge - 9))}
    assert [o.value for o in of(Persist, machine.tick(-(-edge // 8) * 8)) if o.table == "received"] == [None]


def test_stkms_that_come_again_in_part_take_nothing_away() -> None:
    """F6: a BSD/A that starts anew delivers what it has, which may be less than it had."""
    machine = bsm(HERE)
    machine.tick(START)
    (key,) = seks(machine)
    items = [stkm_item(period(n), sealed_stkm(HERE, period(n), key)) for n in range(4)]
    asked(machine, Tag.STKMDelivery, START, items=tuple(items))
    _, outputs = asked(machine, Tag.STKMDelivery, START, items=(items[0],))
    assert [o.value for o in of(Persist, outputs) if o.table == "received"] == [tuple(items)]


def test_a_batch_of_stkms_that_comes_late_costs_only_what_is_over() -> None:
    """F6, pushed and pulled: both servers were dead, or one was slow."""
    machine = bsm(HERE)
    machine.tick(START)
    (key,) = seks(machine)
    items = [stkm_item(period(n), sealed_stkm(HERE, period(n), key)) for n in range(4)]
    answer, outputs = asked(machine, Tag.STKMDelivery, START + 20, items=tuple(items))
    assert answer.status == 0
    assert [o.value for o in of(Persist, outputs) if o.table == "received"] == [tuple(items[2:])]
    answer, outputs = asked(machine, Tag.STKMDelivery, START + 60, items=tuple(items))
    assert answer.status == Status.INVALID_REQUEST, "of no use at all (R27)"
    (asked_for,) = sent(machine.request_stkms(*NAME, "smartcard", START, START + 64, START + 20), Tag.STKMRequest)
    outputs = answered(machine, asked_for, START + 20, 0, *items)
    assert not of(Alarm, outputs) and [o.value for o in of(Persist, outputs) if o.table == "received"] in ([], [tuple(items[2:])])


def test_a_row_of_stkms_that_a_new_key_takes_away() -> None:
    """R10: whole; one that ends before that key begins stays as it is."""
    machine = bsm(HERE)
    machine.tick(START)
    (key,) = seks(machine)
    for numbers in ((0, 1), (7, 8)):
        items = tuple(stkm_item(period(n), sealed_stkm(HERE, period(n), key)) for n in numbers)
        asked(machine, Tag.STKMDelivery, START, items=items)
    rows = [(o.key[-1], o.value) for o in of(Persist, machine.rekey(*NAME, START)) if o.table == "received"]
    assert rows == [(START + 56, None)]


# --- what it asks, and the answers ----------------------------------------------------------------------------------------


def test_asking_for_the_stkms_of_a_window() -> None:
    """F6, pulled: what is good is kept, what is not is an alarm."""
    machine = bsm(HERE)
    machine.tick(START)
    (key,) = seks(machine)
    (asked_for,) = sent(machine.request_stkms(*NAME, "smartcard", START, START + 64, START), Tag.STKMRequest)
    assert (asked_for.destination, asked_for.start, asked_for.end) == (BSDA_URI, START, START + 64)
    good, other = (sealed_stkm(HERE, period(n), key) for n in (1, 2))
    outputs = answered(
        machine, asked_for, START, 0, stkm_item(period(1), good), stkm_item(period(2), b"", 20), stkm_item(period(3), other)
    )
    assert [o.key[-1] for o in of(Persist, outputs) if o.table == "received"] == [START + 8]
    assert len(alarms(outputs, "stkm-refused")) == 1
    party = card_party()
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, right(), START)
    found = machine.fetch_stkm(*NAME, "smartcard", party.subscriber.id, START + 8)
    assert found is not None and found.content == good


def test_asking_for_the_partial_stkms_of_a_window() -> None:
    """F3, pulled: the completed ones go back (F5); each that cannot be completed is an alarm."""
    config = replace(CARD, bsdas=(BSDA_URI, "urn:example:bsda2"))
    machine = bsm(config)
    machine.tick(START)
    main, backup = sent(machine.request_partials(*NAME, "smartcard", START, START + 64, START), Tag.PartialSTKMRequest)
    assert [m.destination for m in (main, backup)] == list(config.bsdas)
    broken = replace(partial(config, period(2)), content=Secret(b"\0"))
    outputs = answered(machine, main, START, 0, partial(config, period(1)), broken)
    (delivery,) = sent(outputs, Tag.STKMDelivery)
    assert [i.period_start for i in delivery.items if isinstance(i, StkmItem)] == [START + 8]
    assert alarms(outputs, "not-sealed") == [
        f"period {START + 16}: what the message says cannot hold: its times or its content (status 21)"
    ]
    outputs = answered(machine, backup, START, 0, broken)
    assert not sent(outputs, Tag.STKMDelivery)
    assert alarms(outputs, "not-sealed")
    assert not of(FlowDone, outputs)


@pytest.mark.parametrize(("status", "alarmed"), [(Status.DELAYED, False), (Status.NOT_PERMITTED, True)])
def test_a_window_that_is_delayed_or_refused(status: Status, alarmed: bool) -> None:
    machine = bsm(CARD)
    machine.tick(START)
    (asked_for,) = sent(machine.request_partials(*NAME, "smartcard", START, START + 64, START), Tag.PartialSTKMRequest)
    outputs = answered(machine, asked_for, START, status)
    assert bool(alarms(outputs, "refused")) is alarmed
    assert asked_for.message_id not in [m.message.message_id for m in of(Send, machine.tick(START + 30))], "not repeated"


def test_keys_on_request() -> None:
    """F4, pulled: what holds at that time; 19 beyond; a lost store gets others, the same ones for the same message (R33)."""
    machine = bsm(HERE)
    machine.tick(START)
    (first,) = seks(machine)
    answer, outputs = asked(machine, Tag.KeyRequest, START, start=START + 8)
    assert (answer.status, answer.items) == (0, (first,))
    assert [done.flow for done in of(FlowDone, outputs)] == ["F4"]
    answer, _ = asked(machine, Tag.KeyRequest, START, start=START + 640)
    assert (answer.status, answer.items) == (Status.DELAYED, ())
    lost = "ab" * 16
    answer, _ = asked(machine, Tag.KeyRequest, START, fresh=True, message_id=lost)
    assert answer.status == Status.DELAYED, "the key it may have sealed under is not given again"
    first, second = seks(machine)
    for _ in range(2):
        answer, _ = asked(machine, Tag.KeyRequest, START + 1, fresh=True, message_id=lost)
        assert (answer.status, answer.items) == (0, (second,))
    assert seks(machine) == [first, second]
    answer, _ = asked(machine, Tag.KeyRequest, START + 2, fresh=True)
    assert answer.status == Status.DELAYED, "lost once more"


def test_r02_a_fetch_is_the_first_input_after_a_restore() -> None:
    """A terminal asks before the first tick: the COUNTER it gets must be past what the older copy cannot know of (R2)."""
    machine, party = bsm(CARD), card_party()
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, right(), START)
    old = {table: dict(rows) for table, rows in machine._journal.tables.items()}
    used = {codec.decode(data, "smartcard-ltkm").counter for data in machine.fetch_ltkms(party.subscriber.id, START + 1)[0]}  # type: ignore[union-attr]
    restored = bsm(CARD, seed=2, state=old, start=RESTORED)
    again = {codec.decode(data, "smartcard-ltkm").counter for data in restored.fetch_ltkms(party.subscriber.id, START + 2)[0]}  # type: ignore[union-attr]
    assert used and again and min(again) > max(used)


def test_r02_a_key_type_that_the_older_copy_never_saw_gets_new_numbers_too() -> None:
    """The first programme was sold after the copy was made: its CID extension names a key of the lost memory for ever."""
    machine = bsm(DRM)
    machine.tick(START)
    old = {table: dict(rows) for table, rows in machine._journal.tables.items()}
    ids = []
    for each in (machine, bsm(DRM, seed=2, state=old, start=RESTORED)):
        each.tick(START + 1)
        each.add_programme(Programme(*NAME, "urn:event", START + 200, START + 280), START + 1)
        ids.append({r.material.key_id for r in each.keys(*NAME) if r.programme})
    assert ids[0] and ids[1] and not ids[0] & ids[1]


def test_r05_a_clock_that_was_put_back_and_keys_of_their_own_for_the_time_that_comes_twice() -> None:
    machine, later = bsm(BOTH), START + 36_000
    machine.tick(later)
    known = {row.material.key_id for row in machine.keys(*NAME)}
    again = bsm(BOTH, seed=2, state=machine._journal.tables)
    outputs = again.tick(START + 101)
    assert alarms(outputs, "clock-back")
    rows = again.keys(*NAME)
    assert {row.material.key_type for row in rows} == {"SEK", "SEAK"} and {row.material.valid_from for row in rows} == {START + 96}
    assert not known & {row.material.key_id for row in rows}
    near = bsm(BOTH, seed=3, state=again._journal.tables)
    assert not alarms(near.tick(START + 40), "clock-back") and near.keys(*NAME) == rows, "a small step is waited for"


def test_what_a_restart_offers_again_goes_out_once() -> None:
    """The first input after a restart brings something to offer: it and the rest are each asked for once."""
    first, party, other = bsm(CARD), card_party(), card_party(2)
    first.add_subscriber(party.subscriber, START, party.registration)
    again = bsm(CARD, seed=3, state=first._journal.tables)
    offered = sent(again.add_subscriber(other.subscriber, START + 1, other.registration), Tag.RegDelivery)
    assert sorted(m.items for m in offered) == sorted([(party.registration,), (other.registration,)])


def test_what_a_card_reported_is_kept_for_the_operator() -> None:
    machine, party = bsm(CARD), card_party()
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, right(), START)
    assert machine.report(party.subscriber.id) is None
    (data,), _ = machine.fetch_ltkms(party.subscriber.id, START + 1)
    ltkm = codec.decode(data, "smartcard-ltkm")
    assert isinstance(ltkm, SmartcardLtkm)
    keys = Keys(smk=party.subscriber.smk, rand=ltkm.rand, idi=ltkm.idi)
    answer = SmartcardVerification(csb_id=ltkm.csb_id, counter=ltkm.counter, idr=ltkm.idr, reporting=Reporting(status=1))
    name, _ = machine.verify(codec.seal(answer, keys), START + 2)
    assert name == party.subscriber.id and machine.report(name) == Reporting(status=1)


def test_what_an_import_asks_first() -> None:
    machine, party = bsm(CARD), card_party()
    assert machine.subscriber(party.subscriber.id) is None and machine.group(b"1234") is None
    machine.add_subscriber(party.subscriber, START)
    assert machine.subscriber(party.subscriber.id) == party.subscriber
    assert not machine.entitled(party.subscriber.id, *NAME, START, START + 100)
    machine.grant(party.subscriber.id, Right(service=NAME[0], stream=NAME[1], start=START, end=START + 100), START)
    assert machine.entitled(party.subscriber.id, *NAME, START, START + 100)
    assert not machine.entitled(party.subscriber.id, *NAME, START, START + 101)
    assert not machine.entitled(party.subscriber.id, *NAME, START - 1, START + 100)


def test_a_profile_that_is_added_gets_its_key() -> None:
    """A stream of one profile goes on with both: the new one's key holds as long as the other's (R38)."""
    machine = bsm(CARD)
    machine.tick(START)
    (sek,) = machine.keys(*NAME)
    both = bsm(BOTH, seed=2, state=machine._journal.tables)
    both.tick(START + 1)
    rows = {row.material.key_type: row.material for row in both.keys(*NAME)}
    assert rows.keys() == {"SEK", "SEAK"} and rows["SEK"] == sek.material
    assert (rows["SEAK"].valid_from, rows["SEAK"].valid_to) == (sek.material.valid_from, sek.material.valid_to)


def test_r05_a_clock_that_was_put_back_while_a_key_holds() -> None:
    """The key of now stays, only those of a time to come go."""
    machine = bsm(CARD)
    machine.tick(START)
    (now,) = machine.keys(*NAME)
    key_id = bytes.fromhex("12f41000010063")
    far = replace(now, material=replace(now.material, key_id=key_id, valid_from=START + 9000, valid_to=START + 9640))
    machine._streams[CARD.id].keys.put(far)
    again = bsm(CARD, seed=2, state=machine._journal.tables)
    assert alarms(again.tick(START + 1), "clock-back")
    assert [row.material.key_id for row in again.keys(*NAME)] == [now.material.key_id]


def test_pages_that_end_while_they_wait_for_their_turn_are_not_delivered() -> None:
    """A BSD/A that answers nothing for longer than a key holds: what waits behind the deliveries in flight ends unsent."""
    machine, parties = bsm(CARD), [card_party(n) for n in range(1, 9)]
    machine.tick(START)
    for n, party in enumerate(parties):
        machine.add_subscriber(party.subscriber, START + n)
        machine.grant(party.subscriber.id, Right(service=NAME[0], stream=NAME[1], start=START, end=START + 99_999), START + n)
    waiting = machine._delivery._to_deliver[BSDA_URI]
    assert len(waiting) >= 4
    (first,) = machine.keys(*NAME)
    now = first.material.valid_to + 1.0
    delivered = []
    for n in range(60):
        outputs = machine.tick(now + n)
        delivered += [m for m in sent(outputs, Tag.LTKMDelivery) if m.end is not None and m.end <= now]
    assert not delivered
    assert all(machine._delivery._pages.find(key) is not None for key in machine._delivery._to_deliver[BSDA_URI].values())
