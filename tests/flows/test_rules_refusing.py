# SPDX-License-Identifier: Apache-2.0
"""Rules R11-R20: what is refused.  Each test says which attack or accident its rule prevents.

The wire and codec tests hold the layouts to R16-R20 in depth; here is what a flow sees of them.
"""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room_support import (
    BASE,
    DOMAIN,
    NOW,
    REPORTING,
    SERVICE,
    SOC,
    START,
    TUNING,
    WRAP,
    card_party,
    device_party,
    group_keys,
    memory,
    period,
    refuses,
    seak_material,
    seal_bcro,
    seal_ltkm,
    seal_withdrawal,
    sealed_stkm,
    sek_material,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.errors import BadLength, BadValue, BcastError, CryptoError, Integrity, PeerFlowError, Replay, Unsupported, WireError
from pybcast.flows import Announce, Device, Period, Refused, TekReady, Terminal, TrafficKey
from pybcast.flows.serial import counter_of, near
from pybcast.flows.stream import stkm
from pybcast.flows.stream.config import TUNE_IN
from pybcast.flows.stream.stkm import LAST_MJD_TIME, Policy, check_received
from pybcast.keys import Keys
from pybcast.messages import (
    ClearDrmStkm,
    ClearSmartcardStkm,
    DrmStkm,
    PartialDrmStkm,
    PartialSmartcardStkm,
    Protocol,
    SmartcardLtkm,
    SmartcardStkm,
)
from pybcast.secret import Secret
from pybcast.testing.parties import CardParty, DrmParty, rsa_key
from pybcast.wire.times import ntp64

WHERE = ("239.1.1.1", 5000, 1)
DRM = stream_config(profiles=("drm",))
CARD = stream_config()


def open_drm(party: DrmParty, data: bytes, now: float = START + 1, stream: tuple[object, ...] = WHERE) -> ClearDrmStkm:
    return party.device.stkm(data, stream=stream, socID=SOC, serviceBaseCID=BASE, now=now)


def entitled_card() -> CardParty:
    party = card_party()
    party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)
    return party


def entitled_device() -> DrmParty:
    party = device_party()
    party.device.ltkm(seal_bcro(seak_material(), group_keys()))
    return party


# --- R11 --------------------------------------------------------------------------------------------------------------


def test_r11_null_algorithms_open_nothing() -> None:
    """A STKM with the TEK in clear and no MAC, sent by anyone: a terminal would play his programme as ours."""
    party = entitled_card()
    content = stkm.partial(CARD, "smartcard", period(1), traffic_key(CARD))
    assert isinstance(content, PartialSmartcardStkm)
    data = codec.encode(replace(content, key_domain_id=DOMAIN, sek_id=sek_material().key_id[3:], counter=counter_of(START)))
    refuses(party.card, BadValue, lambda: party.card.stkm(data))
    terminal = Terminal(card=party.card)
    terminal.tune(TUNING, START)
    assert [type(o) for o in terminal.receive_stkm(SERVICE, 1, data, START)] == [Refused]


@pytest.mark.parametrize("algorithm", [0, 2, 3])
@pytest.mark.parametrize("place", ["encr_alg", "mac_alg"])
def test_r11_other_algorithms_open_nothing(place: str, algorithm: int) -> None:
    """An algorithm number that a card does not know, or knows as weaker."""
    party = card_party()
    data = bytearray(seal_ltkm(party, 1, sek_material()))
    at = len(data) - 21 if place == "mac_alg" else len(data) - 21 - 30 - 3
    assert data[at] == 1
    data[at] = algorithm
    refuses(party.card, WireError, lambda: party.card.ltkm(bytes(data), NOW))


# --- R12 --------------------------------------------------------------------------------------------------------------


def flips(data: bytes) -> list[bytes]:
    """The message with one bit of each byte inverted."""
    return [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]


def test_r12_a_card_moves_nothing_before_the_mac() -> None:
    """A forged COUNTER of 2^31 - 1 ahead, stored before the MAC is checked, would silence the card for 68 years."""
    party, sek = entitled_card(), sek_material()
    for data in flips(sealed_stkm(CARD, period(1), sek)):
        refuses(party.card, BcastError, lambda data=data: party.card.stkm(data))  # type: ignore[misc]
    for good in (seal_ltkm(party, 5, sek), seal_withdrawal(party, 5, sek), seal_ltkm(party, 5, sek_material(2))):
        for data in flips(good):
            refuses(party.card, BcastError, lambda data=data: party.card.ltkm(data, NOW))  # type: ignore[misc]
    new = card_party(2, registered=False)
    for data in flips(new.registration):
        refuses(new.card, BcastError, lambda data=data: new.card.register(data, NOW))  # type: ignore[misc]
    assert new.card.register(new.registration, NOW) is not None


def test_r12_a_device_moves_nothing_before_the_mac() -> None:
    """A forged timestamp in the year 2038 would make every true STKM and BCRO look old."""
    party, seak = entitled_device(), seak_material()
    peak = seak_material(9, key_type="PEAK")
    stkms = (sealed_stkm(DRM, period(1), seak), sealed_stkm(DRM, period(1), seak, peak))
    for data in (flipped for good in stkms for flipped in flips(good)):
        refuses(party.device, BcastError, lambda data=data: open_drm(party, data))  # type: ignore[misc]
    for data in flips(seal_bcro(seak, group_keys(), START + 5)):
        refuses(party.device, BcastError, lambda data=data: party.device.ltkm(data))  # type: ignore[misc]


def test_r12_a_device_checks_registration_before_it_believes_it() -> None:
    """A registration with one bit changed: keys of an attacker, or a drm_time that shuts out the issuer."""
    party = device_party(registered=False)
    for data in flips(party.registration)[::7]:  # RSA is slow; 7 and the fields' sizes have no common factor
        refuses(party.device, BcastError, lambda data=data: party.device.register(data, NOW))  # type: ignore[misc]


def test_r12_a_holder_of_the_programme_key_believes_nothing_of_the_service() -> None:
    """programme_MAC ends before service_CID_extension: who holds only PEAK cannot tell a forged one, so it moves no mark."""
    party, seak, peak = device_party(), seak_material(), seak_material(9, key_type="PEAK")
    party.device.ltkm(seal_bcro(peak, group_keys()))
    data = bytearray(sealed_stkm(DRM, period(1), seak, peak))
    data[-16:-12] = (77).to_bytes(4, "big")
    assert open_drm(party, bytes(data)).service_CID_extension == 77
    marks = party.device._journal.tables["stkm"]
    assert [key[-1] for key in marks] == [stkm.key_identity(DRM, peak)]


def test_r12_every_mac_whose_key_is_held_is_checked() -> None:
    """A member of the service who forges the programme part, or the reverse."""
    seak, peak = seak_material(), seak_material(9, key_type="PEAK")
    party = entitled_device()
    party.device.ltkm(seal_bcro(peak, group_keys()))
    other = seak_material(9, key_type="PEAK", key=Secret(bytes(32)))
    refuses(party.device, Integrity, lambda: open_drm(party, sealed_stkm(DRM, period(1), seak, other)))
    forged = seak_material(key=Secret(bytes(32)))
    refuses(party.device, Integrity, lambda: open_drm(party, sealed_stkm(DRM, period(1), forged, peak)))
    open_drm(party, sealed_stkm(DRM, period(1), seak, peak))


# --- R13 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_r13_a_partial_is_not_what_a_bsda_may_send(profile: str) -> None:
    """The BSM, or a bug, sends the partial back: its TEK would go on air in clear."""
    config = DRM if profile == "drm" else CARD
    key, p = traffic_key(config), period(1)
    data = codec.encode(stkm.partial(config, profile, p, key))  # type: ignore[arg-type]  # one of the two profiles
    with pytest.raises((PeerFlowError, WireError)) as caught:
        check_received(config, profile, p, key, data)  # type: ignore[arg-type]
    assert getattr(caught.value, "status", 24) == 24


@pytest.mark.parametrize(
    ("profile", "change", "what"),
    [
        ("drm", {"service_MAC": bytes(12)}, "MAC"),
        ("drm", {"encrypted_traffic_key_material": "clear"}, "in clear"),
        ("drm", {"traffic_key_lifetime": 6}, "lifetime"),
        ("drm", {"timestamp": START}, "timestamp"),
        ("drm", {"salt": bytes(14)}, "salt"),
        ("drm", {"traffic_authentication_flag": False}, "traffic_authentication_flag"),
        ("drm", {"id": b"\0\0\0\1"}, "id"),
        ("drm", {"next_id": bytes(4), "next_salt": bytes(14), "next_encrypted_traffic_key_material": bytes(16)}, "next key"),
        ("smartcard", {"mac": bytes(20)}, "MAC"),
        ("smartcard", {"encr_data": "clear"}, "in clear"),
        ("smartcard", {"counter": counter_of(START)}, "COUNTER"),
        ("smartcard", {"management": None}, "management"),
    ],
)
def test_r13_r31_a_received_stkm_is_held_against_the_record(profile: str, change: dict[str, object], what: str) -> None:
    """A STKM of another period, with a TEK in clear, or with an owned field changed: a dark or an open channel."""
    config, key, p = (DRM if profile == "drm" else CARD), traffic_key(DRM), period(1)
    good = sealed_stkm(config, p, seak_material() if profile == "drm" else sek_material(), key=key)
    message = codec.decode(good, "drm-stkm" if profile == "drm" else "smartcard-stkm")
    assert check_received(config, profile, p, key, good)[0] == message  # type: ignore[arg-type]
    clear = key.tek.reveal()
    values = {n: (clear if profile == "drm" else clear.rjust(20) + bytes(16)) if v == "clear" else v for n, v in change.items()}
    bad = codec.encode(replace(message, **values))  # type: ignore[arg-type]  # fields of that message
    with pytest.raises(PeerFlowError, match=what) as caught:
        check_received(config, profile, p, key, bad)  # type: ignore[arg-type]
    assert caught.value.status == 24


def test_r13_key_material_of_another_size_is_refused() -> None:
    """A STKM for another protocol under the right ids: the encoder would use half a key."""
    ipsec = stream_config(profiles=("drm",), protocol=Protocol.IPSEC)
    key = traffic_key(ipsec)
    good = sealed_stkm(ipsec, period(1), seak_material(), key=key)
    with pytest.raises(PeerFlowError, match="wrong size"):
        check_received(ipsec, "drm", period(1), TrafficKey(key.tek), good)
    ismacryp = stream_config(protocol=Protocol.ISMACRYP)
    data = sealed_stkm(ismacryp, period(1), sek_material(), key=TrafficKey(key.tek))
    with pytest.raises(PeerFlowError, match="wrong size"):
        check_received(ismacryp, "smartcard", period(1), TrafficKey(key.tek, bytes(14)), data)


def test_r13_only_the_sender_side_type_goes_on_air() -> None:
    """A sender that takes bytes takes any bytes; ``AirStkm`` is made where a STKM was sealed or checked."""
    assert [f.type for f in fields(Announce) if f.name == "stkms"] == ["tuple[AirStkm, ...]"]
    with pytest.raises(TypeError):
        codec.seal(stkm.partial(CARD, "smartcard", period(0), traffic_key(CARD)), Keys())


def test_r13_the_completion_refuses_a_partial_that_is_complete() -> None:
    """A complete DRM STKM looks like a partial one: completed again, its ciphertext would be encrypted as if it were a key."""
    good = sealed_stkm(DRM, period(1), seak_material())
    with pytest.raises(BadValue):
        codec.decode(good, "drm-stkm", partial=True)
    data = bytearray(codec.encode(stkm.partial(CARD, "smartcard", period(1), traffic_key(CARD))))
    data[4:8] = b"\1\2\3\4"
    with pytest.raises(BadValue, match="csb_id"):
        codec.decode(bytes(data), "smartcard-stkm", partial=True)


# --- R14 --------------------------------------------------------------------------------------------------------------


def test_r14_older_is_refused_and_equal_only_with_identical_bytes() -> None:
    """A recorded STKM played again, and a second STKM for one period."""
    party, seak = entitled_device(), seak_material()
    one, other, two = (sealed_stkm(DRM, period(n), seak, key=traffic_key(DRM, k)) for n, k in ((1, 1), (1, 2), (2, 3)))
    open_drm(party, one)
    open_drm(party, one)
    refuses(party.device, Replay, lambda: open_drm(party, other))
    open_drm(party, two)
    refuses(party.device, Replay, lambda: open_drm(party, one))
    open_drm(party, one, stream=(*WHERE[:2], 2))  # another stream has marks of its own
    open_drm(party, one, stream=("239.1.1.1", 5001, 1))


def test_r14_marks_survive_a_restart() -> None:
    """Pulling the plug would open the door to every recorded STKM."""
    party, seak = entitled_device(), seak_material()
    open_drm(party, sealed_stkm(DRM, period(2), seak))
    again = replace(party, device=Device(udn=party.device.udn, key=rsa_key(5 % 4), anchors=[], state=party.device._journal.tables))
    refuses(again.device, Replay, lambda: open_drm(again, sealed_stkm(DRM, period(1), seak)))
    open_drm(again, sealed_stkm(DRM, period(3), seak))


def test_r14_builders_always_send_the_start_of_the_period() -> None:
    """A STKM without a timestamp cannot be told from a recorded one: not built, and not opened."""
    message = codec.decode(sealed_stkm(DRM, period(1), seak_material()), "drm-stkm")
    assert isinstance(message, DrmStkm) and message.timestamp == period(1).start
    party = entitled_device()
    content = stkm.partial(DRM, "drm", period(1), traffic_key(DRM))
    assert isinstance(content, PartialDrmStkm)
    content = replace(content, timestamp=None)
    with pytest.raises(PeerFlowError, match="R14") as caught:
        stkm.seal(content, DRM, period(1), {"SEAK": seak_material()}, Policy())
    assert caught.value.status == 21
    bare = codec.complete(content, stkm.drm_keys(seak_material(), None), service_CID_extension=1)
    assert refuses(party.device, BadValue, lambda: open_drm(party, bare)).as_dict()["field"] == "timestamp"
    terminal = Terminal(device=party.device)
    terminal.tune(TUNING, START)
    assert [type(o) for o in terminal.receive_stkm(SERVICE, 1, bare, START)] == [Refused]


# --- R15 --------------------------------------------------------------------------------------------------------------


@given(st.integers(1 << 31, 1 << 40), st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_r15_a_32_bit_time_is_the_one_nearest_to_now(time: int, error: int) -> None:
    """The wrap of 2036: a key lifetime, a COUNTER or a window read as 136 years off."""
    now = max(0, time + error)
    assert near(counter_of(time), now) == ntp64(counter_of(time), now) == time


def test_r15_zero_is_a_time_like_any_other() -> None:
    """0 taken for "not set" exactly at the wrap."""
    assert near(0, WRAP - 5) == WRAP == near(0, WRAP + 5)


def test_r15_the_mjd_time_ends_and_the_smartcard_profile_goes_on() -> None:
    """2038-04-23: a two-profile stream must not go dark in both."""
    start = LAST_MJD_TIME + 1
    assert start == (65536 - 15020) * 86400
    last = Period(0, LAST_MJD_TIME - 7, LAST_MJD_TIME + 1)
    config = stream_config(profiles=("drm", "smartcard"), start=last.start)
    keys = (seak_material(start=last.start), sek_material(start=last.start))
    sealed_stkm(config, last, *keys)
    with pytest.raises(BadValue) as caught:
        sealed_stkm(config, period(1, last.start), *keys)
    assert caught.value.field == "timestamp"
    assert codec.decode(sealed_stkm(config, period(1, last.start), keys[1]), "smartcard-stkm")


# --- R16-R20: what a flow sees of the wire's rules -----------------------------------------------------------------------


def test_r16_an_unknown_payload_type_is_refused_by_the_card() -> None:
    """Its length is unknown: whatever follows would be read from a wrong place."""
    party = card_party()
    data = bytearray(seal_ltkm(party, 1, sek_material()))
    data[2] = 99
    refuses(party.card, Unsupported, lambda: party.card.ltkm(bytes(data), NOW))


def test_r16_something_else_than_an_ltkm_is_refused_by_the_card() -> None:
    """A STKM, or the card's own verification message, pushed as an LTKM."""
    party = entitled_card()
    answer = party.card.ltkm(seal_ltkm(party, 2, sek_material(), verification_requested=True), NOW)
    assert answer is not None
    for data in (answer, sealed_stkm(CARD, period(1), sek_material()), b"", b"\x01"):
        refuses(party.card, WireError, lambda data=data: party.card.ltkm(data, NOW))  # type: ignore[misc]


def test_r17_no_stkm_of_the_flows_has_next_key_material() -> None:
    """A next key under a SEK that ends: it would be announced to those who have no right to it."""
    for protocol in (Protocol.IPSEC, Protocol.SRTP, Protocol.ISMACRYP):
        config = stream_config(profiles=("drm",), protocol=protocol)
        message = codec.decode(sealed_stkm(config, period(1), seak_material()), "drm-stkm")
        assert isinstance(message, DrmStkm) and message.next_id is None and message.next_salt is None
        assert len(message.encrypted_traffic_key_material) == (32 if protocol is Protocol.IPSEC else 16)


@pytest.mark.parametrize("protocol", [Protocol.IPSEC, Protocol.SRTP, Protocol.ISMACRYP])
def test_r18_management_data_is_always_sent_and_the_sdp_steps_in(protocol: Protocol) -> None:
    """A foreign headend without EXT 5: protocol and lifetime come from the SDP; a salt comes exactly with SRTP."""
    config, party, key = stream_config(protocol=protocol), entitled_card(), traffic_key(stream_config(protocol=protocol))
    assert (key.salt is not None) == (protocol is Protocol.SRTP)
    message = codec.decode(sealed_stkm(config, period(0), sek_material()), "smartcard-stkm")
    assert isinstance(message, SmartcardStkm) and message.management is not None
    sek = sek_material()
    bare = codec.seal(
        ClearSmartcardStkm(
            counter=counter_of(START), key_domain_id=DOMAIN, sek_id=sek.key_id[3:], tek_id=b"\0\1", tek=key.tek, salt=key.salt
        ),
        stkm.smartcard_keys(sek),
    )
    for wrong in set(Protocol) - {Protocol.DCF, protocol}:
        terminal = Terminal(card=party.card)
        terminal.tune(replace(TUNING, protocol=wrong, lifetime=5), START)
        if (wrong is Protocol.SRTP) != (protocol is Protocol.SRTP):
            terminal.receive_stkm(SERVICE, 1, bare, START)
            before = memory(party.card)
            assert [type(o) for o in terminal.tick(START + TUNE_IN)] == [Refused]
            assert memory(party.card) == before
    terminal = Terminal(card=party.card)
    terminal.tune(replace(TUNING, protocol=protocol, lifetime=5), START)
    terminal.receive_stkm(SERVICE, 1, bare, START)
    (ready,) = [o for o in terminal.tick(START + TUNE_IN) if isinstance(o, TekReady)]
    assert (ready.tek, ready.salt, ready.auth_key, ready.until) == (key.tek, key.salt, None, START + TUNE_IN + 32)


def test_r18_an_stkm_without_management_data_is_not_completed() -> None:
    """The BSM cannot compare protocol and lifetime that are not there."""
    content = stkm.partial(CARD, "smartcard", period(1), traffic_key(CARD))
    assert isinstance(content, PartialSmartcardStkm)
    with pytest.raises(BadValue) as caught:
        stkm.owned_digest(CARD, period(1), replace(content, management=None))
    assert caught.value.field == "management"


def test_r19_a_report_comes_only_with_v() -> None:
    """consumption_reporting_flag in a broadcast LTKM: every card of the country answers at once."""
    party = card_party()
    with pytest.raises(BadValue, match="consumption_reporting_flag"):
        seal_ltkm(party, 1, sek_material(), management=REPORTING)
    assert party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW) is None
    answer = party.card.ltkm(seal_ltkm(party, 2, sek_material(), management=REPORTING, verification_requested=True), NOW)
    assert answer is not None
    codec.open(answer, Keys(smk=party.subscriber.smk, rand=sek_material().rand, idi=b"bsm.example.com"), "smartcard-reporting")


def test_r20_no_message_of_the_flows_is_larger_than_one_card_command() -> None:
    """A STKM or LTKM that no card can be given."""
    party = card_party()
    data = seal_ltkm(party, 1, sek_material())
    assert len(data) <= codec.MAX_CARD_MESSAGE == 251
    assert isinstance(codec.decode(data, "smartcard-ltkm"), SmartcardLtkm)
    with pytest.raises(BadLength, match="251 bytes"):
        seal_ltkm(party, 1, sek_material(), idi=b"x" * 120)
    assert issubclass(Integrity, CryptoError)
