# SPDX-License-Identifier: Apache-2.0
"""Rules R26-R37: the back end.  Each test says which attack or accident its rule prevents.

Not here, because the code they bind does not exist yet: TLS and the loopback flag of R26, HTTP and XML of R27, the XSD and
namespaces of R28, request sizes of R30, HTTP of R35, the SDP of R37.  How F3 and F4 behave in time is in the scenarios and
the simulation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room_support import (
    BSDA_URI,
    BSM_URI,
    NOW,
    SERVICE,
    START,
    WRAP,
    card_party,
    period,
    request,
    seak_material,
    sealed_stkm,
    sek_material,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.errors import ConfigError, Integrity, KeyUnavailable, PeerFlowError
from pybcast.flows import (
    ALL_SERVICES,
    BSM,
    TAGS,
    BackendMessage,
    Headend,
    PartialItem,
    Period,
    Right,
    Send,
    Status,
    StkmItem,
    Tag,
    derived_teks,
    random_teks,
)
from pybcast.flows.events import Alarm, Persist
from pybcast.flows.journal import Journal
from pybcast.flows.peers.messages import MAX_DATA, check
from pybcast.flows.serial import MOD, counter_of
from pybcast.flows.stream import stkm
from pybcast.flows.stream.stkm import Policy, key_identity
from pybcast.flows.tables import Side
from pybcast.messages import AccessCriterion, DrmStkm, PartialDrmStkm, Protocol, SmartcardStkm
from pybcast.secret import Secret
from pybcast.testing.parties import FQDN

CARD, DRM = stream_config(generation="bsm"), stream_config(generation="bsm", profiles=("drm",))


def numbers(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def bsda(**changes: object) -> Headend:
    return Headend(me=BSDA_URI, streams=[stream_config(**changes)], teks=random_teks(numbers()), randomness=numbers())


def answer_of(outputs: list[Any]) -> BackendMessage:
    (message,) = [o.message for o in outputs if isinstance(o, Send) and o.message.is_answer]
    assert isinstance(message, BackendMessage)
    return message


def key_delivery(**changes: object) -> BackendMessage:
    return request(Tag.KeyDelivery, **({"items": (sek_material(),)} | changes))


# --- R26, R27 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "peer", "status"),
    [
        ({}, BSM_URI, 0),
        ({}, "urn:example:other", 11),
        ({"source": "urn:example:other"}, "urn:example:other", 11),
        ({"source": "urn:example:other"}, BSM_URI, 11),
        ({"destination": "urn:example:bsda2"}, BSM_URI, 23),
        ({"service": "urn:example:none"}, BSM_URI, 22),
    ],
)
def test_r26_source_is_the_authenticated_peer_and_has_the_right(changes: dict[str, object], peer: str, status: int) -> None:
    """A server with a good certificate of its own that speaks as another, or for a service that is not its own."""
    machine = bsda()
    machine.tick(NOW)
    got = answer_of(machine.receive(key_delivery(**changes), START - 50, peer))
    assert got.status == status
    assert bool(machine._journal.tables.get("key")) == (status == 0)


def test_r27_a_repeat_gets_the_same_answer_and_another_body_16() -> None:
    """An answer lost on the way; or two messages under one id, of which one would be believed to be done."""
    machine = bsda()
    first = answer_of(machine.receive(key_delivery(time=5), START - 50, BSM_URI))
    assert answer_of(machine.receive(key_delivery(time=6), START - 40, BSM_URI)) == first
    other = answer_of(machine.receive(key_delivery(items=(sek_material(2),)), START - 40, BSM_URI))
    assert other.status == Status.ALREADY_PROCESSED


def test_r27_answers_echo_the_scope_and_exchange_the_ends() -> None:
    """An answer that cannot be matched with what was asked."""
    asked = key_delivery(content="urn:example:programme", schedule="urn:example:schedule", start=5, end=6, replace=True)
    got = asked.answer(Status.SUCCESS, now=NOW)
    assert (got.tag, got.message_id, got.source, got.destination) == (Tag.KeyDeliveryConfirmation, "00" * 16, BSDA_URI, BSM_URI)
    assert (got.service, got.content, got.schedule, got.stream, got.profile) == (
        SERVICE, "urn:example:programme", "urn:example:schedule", 1, "smartcard",
    )  # fmt: skip
    assert (got.status, got.items, got.replace, got.time) == (0, (), False, int(NOW)) and got.is_answer and not asked.is_answer


def test_r27_the_digest_sees_everything_but_the_time() -> None:
    """Two different messages with one digest: the second would get the answer of the first."""
    item = StkmItem(stream=1, period_start=1, period_end=2, tek_id="a", content=b"x")
    variants = [
        key_delivery(),
        key_delivery(message_id="11" * 16),
        key_delivery(items=()),
        key_delivery(items=(sek_material(), sek_material())),
        key_delivery(items=(sek_material(key=Secret(bytes(16))),)),
        key_delivery(items=(item,)),
        key_delivery(items=(replace(item, content=b"y"),)),
        key_delivery(items=(replace(item, tek_id="1"),)),
        key_delivery(items=(replace(item, tek_id=""),)),
        key_delivery(stream=None),
        key_delivery(replace=True),
        key_delivery(start=1),
        key_delivery(end=1),
    ]
    assert len({v.digest() for v in variants}) == len(variants)
    assert key_delivery(time=1).digest() == key_delivery(time=2).digest()
    by_enum, by_number = (request(Tag.KeyDelivery, status=s).digest() for s in (Status.SUCCESS, 0))
    assert by_enum == by_number  # as sent and as read back from XML


def test_r27_far_future_period_is_refused() -> None:
    """One far-future periodStart would burn every COUNTER before it."""
    machine = BSM(me=BSM_URI, fqdn=FQDN, streams=[CARD], randomness=numbers())
    machine.tick(START)
    for start, status in ((START + 8, 0), (START + 8 * 1000, 22), (START - 32, 22)):
        p = Period(0, start, start + 8)
        content = Secret(codec.encode(stkm.partial(CARD, "smartcard", p, traffic_key(CARD))))
        item = PartialItem(stream=1, period_start=p.start, period_end=p.end, tek_id="x", content=content)
        message = request(Tag.TEKDelivery, source=BSDA_URI, destination=BSM_URI, message_id=f"{start:032x}", items=(item,))
        got = answer_of(machine.receive(message, START + 1, BSDA_URI))
        assert got.status == 0 and [i.status for i in got.items if isinstance(i, StkmItem)] == [status]


# --- R28-R30, R32, R34 ------------------------------------------------------------------------------------------------

ITEM = StkmItem(stream=1, period_start=START, period_end=START + 8, tek_id="1", content=b"stkm")
PARTIAL = PartialItem(stream=1, period_start=START, period_end=START + 8, tek_id="1", content=Secret(b"partial"))
BODIES: dict[Tag, Any] = {
    Tag.KeyRequestResponse: sek_material(), Tag.KeyDelivery: sek_material(), Tag.PartialSTKMRequestResponse: PARTIAL,
    Tag.TEKDelivery: PARTIAL, Tag.TEKDeliveryConfirmation: ITEM, Tag.STKMRequestResponse: ITEM, Tag.STKMDelivery: ITEM,
    Tag.LTKMRequestResponse: b"ltkm", Tag.LTKMDelivery: b"ltkm", Tag.RegRequestResponse: b"reg", Tag.RegDelivery: b"reg",
}  # fmt: skip


def message(tag: Tag, **changes: object) -> BackendMessage:
    """A good message of each tag."""
    body = (BODIES[tag],) if tag in BODIES else ()
    return request(tag, **({"items": body, "status": 0 if TAGS[tag].answer is None else None} | changes))


def receivers(tag: Tag) -> list[Side]:
    sender = TAGS[tag].sender
    return [side for side in (Side.BSM, Side.BSDA) if side is not sender]


@pytest.mark.parametrize("tag", list(Tag))
def test_r28_every_tag_from_its_side_only(tag: Tag) -> None:
    """A BSD/A that delivers keys to the BSM."""
    for side in (Side.BSM, Side.BSDA):
        if side in receivers(tag):
            check(message(tag), side)
        else:
            with pytest.raises(PeerFlowError) as caught:
                check(message(tag), side)
            assert caught.value.status == 21


@pytest.mark.parametrize("tag", list(Tag))
def test_r28_r34_what_goes_with_a_tag(tag: Tag) -> None:
    """Fields that no schema ties to the tag: profile, status, and the kind of element."""
    good, side = message(tag), receivers(tag)[0]
    other_profile = "drm" if good.profile is None else None
    wrong: list[dict[str, Any]] = [{"profile": other_profile}, {"status": 0 if good.status is None else None}]
    wrong += [{"items": (body,)} for body in (sek_material(), ITEM, PARTIAL, b"x") if type(body) is not type(BODIES.get(tag))]
    if tag in (Tag.KeyDelivery, Tag.TEKDelivery, Tag.STKMDelivery, Tag.LTKMDelivery, Tag.RegDelivery):
        wrong.append({"items": ()})
    else:
        check(replace(good, items=()), side)
    for changes in wrong:
        with pytest.raises(PeerFlowError) as caught:
            check(replace(good, **changes), side)
        assert caught.value.status == 21, changes
    with pytest.raises(PeerFlowError) as caught:
        check(replace(good, version=2), side)
    assert caught.value.status == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"key": Secret(bytes(32))},
        {"key_id": bytes(4)},
        {"key_type": "SEAK"},
        {"csb_id": None},
        {"csb_id": bytes(3)},
        {"rand": bytes(15)},
        {"rand": bytes(1)},
        {"rand": bytes(17)},
        {"key_id": bytes.fromhex("12f41000000001")},
        {"key_id": bytes.fromhex("12f41000010000")},
        {"rand": None},
        {"ts_low": None},
        {"ts_high": None},
        {"first_counter": None},
        {"granularity": None},
        {"granularity": 0},
        {"granularity": -8},
        {"next_counter": MOD},
        {"ts_high": -1},
        {"valid_to": START},
        {"stream": 0},
        {"stream": 65536},
    ],
)
def test_r28_r33_key_material_of_the_smartcard_profile(changes: dict[str, Any]) -> None:
    """Without CSB ID, RAND and window nobody can make an STKM that opens."""
    with pytest.raises(PeerFlowError) as caught:
        check(message(Tag.KeyDelivery, items=(replace(sek_material(), **changes),)), Side.BSDA)
    assert caught.value.status == 21


def test_r28_a_provisioned_key_has_an_empty_rand() -> None:
    """backend-interface 4.5: an empty RAND is one, an absent one is refused (above)."""
    check(message(Tag.KeyDelivery, items=(replace(sek_material(), rand=b""),)), Side.BSDA)


@pytest.mark.parametrize(
    "changes", [{"key": Secret(bytes(16))}, {"key_id": bytes(7)}, {"key_type": "SEK"}, {"csb_id": bytes(4)}, {"ts_low": 1}]
)
def test_r28_key_material_of_the_drm_profile(changes: dict[str, Any]) -> None:
    """A SEAK with the attributes of a SEK was made for another profile."""
    check(message(Tag.KeyDelivery, profile="drm", items=(seak_material(),)), Side.BSDA)
    with pytest.raises(PeerFlowError) as caught:
        check(message(Tag.KeyDelivery, profile="drm", items=(replace(seak_material(), **changes),)), Side.BSDA)
    assert caught.value.status == 21


def test_r29_registration_material_belongs_to_no_service() -> None:
    """Registration objects under one service's scope go out on that service's carousel only."""
    machine = bsda()
    for service, status in ((ALL_SERVICES, 0), (SERVICE, 22)):
        got = answer_of(
            machine.receive(message(Tag.RegDelivery, service=service, message_id=f"{status:032x}"), START - 50, BSM_URI)
        )
        assert got.status == status


def test_r30_a_delivery_carries_at_most_1000_data() -> None:
    """One message that keeps the peer busy for a minute; an answer to a pull may be longer."""
    check(message(Tag.LTKMDelivery, items=(b"x",) * MAX_DATA), Side.BSDA)
    with pytest.raises(PeerFlowError) as caught:
        check(message(Tag.LTKMDelivery, items=(b"x",) * (MAX_DATA + 1)), Side.BSDA)
    assert caught.value.status == 21
    check(message(Tag.LTKMRequestResponse, items=(b"x",) * (MAX_DATA + 1)), Side.BSDA)
    with pytest.raises(ConfigError, match="R30"):
        stream_config(look_ahead=1001)


# --- R31, R32 ---------------------------------------------------------------------------------------------------------


def test_r31_the_bsm_fills_in_its_own_and_leaves_the_rest() -> None:
    """A BSM that overwrites what the BSD/A knows, or a BSD/A that sets policy."""
    policy = Policy(1, 9, (AccessCriterion(1, b"\0\x0c"),))
    key, sek, seak, peak = traffic_key(CARD), sek_material(), seak_material(), seak_material(8, key_type="PEAK")
    card = codec.decode(sealed_stkm(CARD, period(1), sek, key=key, policy=policy), "smartcard-stkm")
    assert isinstance(card, SmartcardStkm) and card.management is not None
    assert (card.key_domain_id + card.sek_id, card.tek_id, card.counter, card.csb_id) == (
        sek.key_id, b"\0\2", counter_of(START + 8), sek.csb_id,
    )  # fmt: skip
    m = card.management
    assert (m.protection_after_reception, m.access_criteria) == (1, policy.access_criteria)
    assert (m.traffic_protection_protocol, m.traffic_key_lifetime) == (Protocol.SRTP, 5)
    drm = codec.decode(sealed_stkm(DRM, period(1), seak, peak, key=key, policy=policy), "drm-stkm")
    assert isinstance(drm, DrmStkm)
    assert (drm.service_CID_extension, drm.programme_CID_extension, drm.permissions_category) == (1, 8, 9)
    assert (drm.protection_after_reception, drm.access_criteria) == (1, policy.access_criteria)
    assert (drm.salt, drm.timestamp, drm.traffic_key_lifetime) == (key.salt, START + 8, 5)


def test_r31_where_the_policy_is_silent_the_partial_stays() -> None:
    """A silent policy read as "open"."""
    criteria = (AccessCriterion(1, b"\0\x12"),)
    for config, key in ((CARD, sek_material()), (DRM, seak_material())):
        data = sealed_stkm(replace(config, access_criteria=criteria), period(1), key)
        made = codec.decode(data, "smartcard-stkm" if config is CARD else "drm-stkm")
        held: Any = made.management if isinstance(made, SmartcardStkm) else made
        assert (held.protection_after_reception, held.access_criteria) == (3, criteria)
        assert getattr(made, "permissions_category", None) is None


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_r31_a_partial_says_nothing_of_the_bsms(profile: Any) -> None:
    """CSB ID, ids and COUNTER are the BSM's: zero in a partial."""
    made = stkm.partial(stream_config(profiles=(profile,)), profile, period(1), traffic_key(CARD))
    if isinstance(made, PartialDrmStkm):
        assert (
            made.service_CID_extension == 0
            and made.programme_CID_extension is None
            and made.id == counter_of(START + 8).to_bytes(4, "big")
        )
    else:
        assert (made.key_domain_id, made.sek_id, made.tek_id, made.counter) == (bytes(3), bytes(4), bytes(2), 0)
    assert len(codec.encode(made)) > 40


def test_r31_without_the_keys_nothing_is_sealed() -> None:
    """A STKM with half of its MACs."""
    dual = stream_config(profiles=("drm", "smartcard"))
    for config, profile, keys in (
        (CARD, "smartcard", {"SEAK": seak_material()}),
        (DRM, "drm", {"SEK": sek_material()}),
        (dual, "drm", {"SEAK": seak_material()}),
    ):
        content = stkm.partial(config, profile, period(1), traffic_key(config))  # type: ignore[arg-type]  # one of the two
        with pytest.raises(PeerFlowError) as caught:
            stkm.seal(content, config, period(1), keys, Policy())
        assert caught.value.status == 17


def test_r32_stream_and_status_of_items() -> None:
    """A STKM that says it is of no stream, has content though it was refused, or ends before it begins."""
    wrong: list[dict[str, Any]] = [
        {"stream": 0}, {"stream": 65536}, {"content": b""}, {"status": 19}, {"period_end": START}, {"period_end": START - 1},
    ]  # fmt: skip
    for changes in wrong:
        with pytest.raises(PeerFlowError) as caught:
            check(message(Tag.STKMDelivery, items=(replace(ITEM, **changes),)), Side.BSDA)
        assert caught.value.status == 21
    check(message(Tag.TEKDeliveryConfirmation, items=(replace(ITEM, status=19, content=b""),)), Side.BSDA)
    with pytest.raises(PeerFlowError):
        check(message(Tag.TEKDelivery, items=(replace(PARTIAL, period_end=START),)), Side.BSM)
    for number in (0, 65536):
        with pytest.raises(PeerFlowError):
            check(message(Tag.STKMRequest, stream=number), Side.BSM)


# --- R33 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"ts_low": counter_of(START)},
        {"ts_low": counter_of(START + 1)},
        {"ts_high": counter_of(START + 100)},
        {"ts_low": 0xFFFFFFFF, "ts_high": 0},
        {"valid_to": START + (1 << 31)},
    ],
)
def test_r33_the_window_holds_the_validity(changes: dict[str, Any]) -> None:
    """TS low at validFrom, or a window that ends early: the first or last STKMs of the key open on no card."""
    with pytest.raises(PeerFlowError) as caught:
        check(message(Tag.KeyDelivery, items=(replace(sek_material(), **changes),)), Side.BSDA)
    assert caught.value.status == 21


def test_r33_the_window_goes_through_the_wrap() -> None:
    """The last key before 2036-02-07 06:28:16."""
    check(message(Tag.KeyDelivery, items=(sek_material(start=WRAP - 8),)), Side.BSDA)
    check(message(Tag.KeyDelivery, items=(sek_material(start=WRAP),)), Side.BSDA)


def test_r33_the_peaks_policy_wins_over_the_seaks() -> None:
    """A programme with rules of its own."""
    seak = seak_material(protection_after_reception=3, permissions_category=1, access_criteria=((1, b"\0\1"),))
    peak = seak_material(9, key_type="PEAK", protection_after_reception=0)
    assert Policy.of(seak, peak) == Policy(0, 1, (AccessCriterion(1, b"\0\1"),))
    assert Policy.of(seak, None) == Policy(3, 1, (AccessCriterion(1, b"\0\1"),))
    assert Policy.of(None) == Policy()
    assert Policy.of(seak, replace(peak, permissions_category=0, access_criteria=())) == Policy(0, 0, ())


@given(st.integers(0, 1000), st.sampled_from([Protocol.SRTP, Protocol.IPSEC, Protocol.ISMACRYP]))
def test_r33_two_headends_derive_the_same_keys(number: int, protocol: Protocol) -> None:
    """Main and back-up with different TEKs: at the switch-over every terminal is dark.  Equal input only, and nothing else."""
    config = stream_config(protocol=protocol, profiles=("drm",))
    main, backup = (derived_teks(Secret(b"s" * 32)) for _ in range(2))
    p = period(number)
    made = main(config, p, b"key")
    assert made == backup(replace(config, service="urn:example:renamed"), replace(p, index=7, end=p.end + 1), b"key")
    assert (made.salt is not None, made.tas is not None) == (protocol is Protocol.SRTP, protocol is Protocol.IPSEC)
    others = [
        derived_teks(Secret(b"t" * 32))(config, p, b"key"),
        main(config, period(number + 1), b"key"),
        main(config, p, b"other"),
        main(replace(config, stream=2), p, b"key"),
    ]
    assert all(made.tek != other.tek for other in others)


def test_r33_without_a_key_id_the_service_tells_streams_apart() -> None:
    """F3: the BSD/A knows no key; stream 1 exists in every service."""
    source = derived_teks(Secret(b"s" * 32))
    teks = [source(stream_config(service=s), period(1), b"").tek for s in ("urn:a:1", "urn:a:2")]
    assert teks[0] != teks[1]


def test_r33_random_keys_are_what_the_stream_needs() -> None:
    """A key without its salt or seed."""
    source = random_teks(numbers())
    ipsec = stream_config(protocol=Protocol.IPSEC, profiles=("drm",))
    for config, salt, tas in ((CARD, True, False), (ipsec, False, True), (stream_config(protocol=Protocol.IPSEC), False, False)):
        made = source(config, period(1), b"")
        assert (made.salt is not None, made.tas is not None) == (salt, tas)
        assert made.tek != source(config, period(1), b"").tek


def test_r33_a_key_is_known_by_an_id_of_its_own() -> None:
    """CID extension 1 exists in every service: as an allocator's name it would mix their COUNTERs."""
    other = stream_config(profiles=("drm",), serviceBaseCID="service-2")
    assert key_identity(DRM, seak_material()) != key_identity(other, seak_material())
    assert key_identity(CARD, sek_material()) == sek_material().key_id


# --- R36 --------------------------------------------------------------------------------------------------------------


def test_r36_only_an_awaited_verification_counts() -> None:
    """A verification message recorded, replayed or made by another card: it would prove a reception that never was."""
    party = card_party()
    machine = BSM(me=BSM_URI, fqdn=FQDN, streams=[CARD], randomness=numbers())
    machine.add_subscriber(party.subscriber, START)
    machine.grant(party.subscriber.id, Right(service=SERVICE, stream=1, start=START, end=START + 600), START)
    ltkms, _ = machine.fetch_ltkms(party.subscriber.id, START)
    answers = [party.card.ltkm(data, float(START)) for data in ltkms]
    assert answers and all(answer is not None for answer in answers)
    for answer in answers:
        assert answer is not None
        with pytest.raises(Integrity):
            machine.verify(answer[:-1] + bytes([answer[-1] ^ 1]), START)
        assert machine.verify(answer, START)[0] == party.subscriber.id
        with pytest.raises(KeyUnavailable):
            machine.verify(answer, START)


def test_what_stands_in_no_message_has_no_digest() -> None:
    with pytest.raises(TypeError, match="float stands in no message"):
        key_delivery(end=1.5).digest()


def test_a_row_that_is_not_remembered_is_in_the_transaction_all_the_same() -> None:
    journal = Journal()
    journal.emit(Alarm("a", "urn:s"))
    journal.pass_on("t", (1,), b"x")
    assert journal.take() == [Persist("t", (1,), b"x"), Alarm("a", "urn:s")] and not journal.tables
