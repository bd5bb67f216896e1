# SPDX-License-Identifier: Apache-2.0
"""The DRM agent beyond the numbered rules: whose BCRO it is, pay-per-view alone, memory, and a random life."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from room_support import (
    BASE,
    GROUP_KEYS,
    NOW,
    SOC,
    START,
    device_party,
    group_keys,
    period,
    refuses,
    seak_material,
    seal_bcro,
    sealed_stkm,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.errors import BcastError, Integrity, KeyUnavailable, Replay
from pybcast.flows import Device, KeyMaterial, Persist
from pybcast.flows.stream import stkm
from pybcast.keys import Keys, mask_of
from pybcast.messages import AddressMode, Bcro, ClearDrmStkm, PartialDrmStkm
from pybcast.secret import Secret
from pybcast.testing.link import Store
from pybcast.testing.parties import DrmParty, rights_issuer, rsa_key

CONFIG = stream_config(profiles=("drm",))
PEAK = seak_material(9, key_type="PEAK")


def opened(device: Device, data: bytes, now: float = START + 1) -> ClearDrmStkm:
    return device.stkm(data, stream=("", 0, 1), socID=SOC, serviceBaseCID=BASE, now=now)


def restarted(party: DrmParty, store: Store) -> Device:
    return Device(udn=party.device.udn, key=rsa_key(5 % 4), anchors=[rights_issuer()[1]], state=store.copy())


def test_what_is_persisted_is_what_it_knows() -> None:
    """The device made again from its ``Persist`` outputs has the same memory."""
    party, store = device_party(registered=False), Store()
    party.device.register(party.registration, NOW)
    party.device.ltkm(seal_bcro(seak_material(), group_keys()))
    opened(party.device, sealed_stkm(CONFIG, period(0), seak_material()))
    for output in party.device.take():
        assert isinstance(output, Persist)
        store.write(output)
    assert restarted(party, store)._journal.tables == party.device._journal.tables


@pytest.mark.parametrize(
    ("address", "mine"),
    [
        ({}, True),
        ({"group_address": b"\0\0\0\0"}, False),
        ({"group_size_flag": True}, False),
        ({"rights_issuer_id": bytes(20)}, False),
        ({"address_mode": AddressMode.UNIQUE_DEVICE, "position_in_group": 5}, True),
        ({"address_mode": AddressMode.UNIQUE_DEVICE, "position_in_group": 6}, False),
        ({"address_mode": AddressMode.SUBSET, "bit_access_mask": mask_of([5, 200], 256)}, True),
        ({"address_mode": AddressMode.SUBSET, "bit_access_mask": mask_of([4, 6], 256)}, False),
        ({"address_mode": AddressMode.DOMAIN, "group_address": None, "domain_id": bytes(6), "domain_generation": 1}, False),
    ],
)
def test_whose_it_is_can_be_told_from_the_address(address: dict[str, Any], mine: bool) -> None:
    """Without any key, so that a terminal can sort a carousel; a device that is not registered cannot tell."""
    bcro = codec.decode(seal_bcro(seak_material(), group_keys(), **address), "drm-ltkm")
    assert isinstance(bcro, Bcro)
    assert device_party().device.addressed(bcro) is mine
    assert device_party(registered=False).device.addressed(bcro) is (bcro.address_mode is not AddressMode.DOMAIN)


def test_pay_per_view_alone() -> None:
    """A programme without a service: programme_flag only.  The holder of SEAK gets nothing."""
    content = stkm.partial(CONFIG, "drm", period(1), traffic_key(CONFIG))
    assert isinstance(content, PartialDrmStkm)
    data = codec.complete(content, stkm.drm_keys(None, PEAK), service_CID_extension=None, programme_CID_extension=9)
    buyer, subscriber = device_party(5), device_party(6)
    buyer.device.ltkm(seal_bcro(PEAK, group_keys()))
    subscriber.device.ltkm(seal_bcro(seak_material(), group_keys()))
    assert opened(buyer.device, data).traffic_key_material == traffic_key(CONFIG).tek
    refuses(subscriber.device, KeyUnavailable, lambda: opened(subscriber.device, data))


def test_a_subscriber_sees_the_programme_through_the_service() -> None:
    """encrypted_PEK: SEAK opens what PEAK protects; a PEAK that does not belong to it is found out."""
    party = device_party()
    party.device.ltkm(seal_bcro(seak_material(), group_keys()))
    data = sealed_stkm(CONFIG, period(1), seak_material(), PEAK)
    assert opened(party.device, data).traffic_key_material == traffic_key(CONFIG, 1).tek


def test_a_seak_is_not_taken_for_a_peak() -> None:
    """A BCI does not say which of the two it names."""
    party = device_party()
    wrong = KeyMaterial(key_type="SEAK", key_id=PEAK.key_id, key=PEAK.key, stream=1, valid_from=START, valid_to=START + 1)
    party.device.ltkm(seal_bcro(wrong, group_keys()))
    refuses(party.device, KeyUnavailable, lambda: opened(party.device, sealed_stkm(CONFIG, period(1), seak_material(), PEAK)))


def test_another_service_under_the_same_extension() -> None:
    """CID extension 1 exists in every service."""
    party = device_party()
    party.device.ltkm(seal_bcro(seak_material(), group_keys()))
    data = sealed_stkm(CONFIG, period(1), seak_material())
    for soc, base in ((SOC, "service-2"), ("other-soc", BASE)):
        refuses(
            party.device,
            KeyUnavailable,
            lambda soc=soc, base=base: party.device.stkm(data, stream=(), socID=soc, serviceBaseCID=base, now=START + 1),  # type: ignore[misc]
        )


@given(st.lists(st.tuples(st.sampled_from("BS"), st.integers(0, 3), st.integers(0, 9)), max_size=20))
def test_time_never_goes_back(work: list[tuple[str, int, int]]) -> None:
    """Any order of BCROs (of three assets) and STKMs: what is accepted is newer than, or the same as, all before it of its kind."""
    device = Device(udn=PARTY.device.udn, key=rsa_key(1), anchors=[], state=PARTY.device._journal.tables)
    rights, marks = dict[int, int](), dict[int, int]()
    for what, number, at in work:
        key = seak_material(number + 1)
        try:
            if what == "B":
                device.ltkm(seal_bcro(key, group_keys(), START + at))
                assert at >= rights.get(number, 0)
                rights[number] = at
            else:
                opened(device, sealed_stkm(CONFIG, period(at), key))
                assert number in rights and at >= marks.get(number, 0)
                marks[number] = at
        except Replay:
            assert at < (rights if what == "B" else marks)[number]
        except KeyUnavailable:
            assert what == "S" and number not in rights


PARTY = device_party()


def test_every_refusal_of_a_device_is_typed() -> None:
    """Bytes of every kind to every door."""
    party = device_party()
    things = [b"", b"\x20", b"\x21", bytes(300), sealed_stkm(CONFIG, period(0), seak_material()), seal_bcro(seak_material(), Keys(
        iek=Secret(bytes(16)), riak=GROUP_KEYS.riak))]  # type: ignore[arg-type]  # the ring makes an IEK of it  # fmt: skip
    doors: list[Any] = [party.device.ltkm, lambda d: opened(party.device, d), lambda d: party.device.register(d, NOW)]
    for door in doors:
        for data in things[:-1] if door is doors[0] else things:
            refuses(party.device, BcastError, lambda door=door, data=data: door(data))  # type: ignore[misc]


def test_a_right_under_a_wrong_group_key_is_no_right() -> None:
    """Someone who knows the RIAK's owner but not the group's RIAK."""
    party = device_party()
    forged = seal_bcro(seak_material(), Keys(iek=group_keys().iek, riak=Secret(bytes(16))))  # type: ignore[arg-type]  # a RIAK
    refuses(party.device, Integrity, lambda: party.device.ltkm(forged))
