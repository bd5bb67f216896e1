# SPDX-License-Identifier: Apache-2.0
"""Rules R21-R25: groups, rights objects and registration.  Each test says which attack or accident its rule prevents."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from room_support import (
    BASE,
    GROUP_KEYS,
    NOW,
    SOC,
    START,
    card_party,
    device_party,
    group_keys,
    period,
    refuses,
    seak_material,
    seal_bcro,
    seal_ltkm,
    sealed_stkm,
    sek_material,
    stream_config,
)

from pybcast import codec
from pybcast.errors import BadLength, BadValue, BcastError, Integrity, KeyUnavailable, LocalFlowError, Replay
from pybcast.flows import (
    Device,
    Persist,
    RightsIssuer,
    SimulatedCard,
    device_registration,
    domain_registration,
    smartcard_registration,
)
from pybcast.flows.serial import counter_of
from pybcast.flows.terminal import device as device_module
from pybcast.flows.terminal.card import SQN_STEP_LIMIT
from pybcast.flows.terminal.device import EVERYONE, Mark
from pybcast.keys import BDK, IEK, IK, OPC, RIAK, GroupTree, K, Keys, Milenage, gba_u_autn, mask_of, registration_keys
from pybcast.messages import (
    FIRST_BYTE,
    AddressMode,
    Bcro,
    ClearDrmStkm,
    ClearRegistrationResponse,
    Constraint,
    KeysetItem,
    KeysetTag,
    Permission,
    RegistrationMessage,
    RegistrationTag,
    Reporting,
    ReportingEntry,
    SmartcardRegistration,
    SmartcardVerification,
)
from pybcast.secret import Secret
from pybcast.testing.link import Store
from pybcast.testing.parties import BSF, FQDN, DrmParty, rights_issuer, rsa_key
from pybcast.wire.times import encode_mjd_bcd

DRM = stream_config(profiles=("drm",))


def opens(party: DrmParty, number: int = 1, now: float = START + 1) -> ClearDrmStkm:
    data = sealed_stkm(DRM, period(number), seak_material())
    return party.device.stkm(data, stream=("", number), socID=SOC, serviceBaseCID=BASE, now=now)


def addressed(mode: AddressMode, *positions: int) -> tuple[Keys, dict[str, Any]]:
    """Keys and address fields of a BCRO to these members of the group."""
    if mode is AddressMode.WHOLE_GROUP:
        return group_keys(), {}
    if mode is AddressMode.SUBSET:
        mask = mask_of(positions, 256)
        return Keys(iek=GroupTree(GROUP_KEYS.root, 256).iek(mask), riak=GROUP_KEYS.riak), {
            "address_mode": mode,
            "bit_access_mask": mask,
        }
    subscriber = device_party(positions[0], registered=False).subscriber
    assert subscriber.udk is not None
    return Keys(iek=IEK(subscriber.udk), riak=subscriber.riak), {"address_mode": mode, "position_in_group": positions[0]}


# --- R21 --------------------------------------------------------------------------------------------------------------


def test_r21_full_and_empty_subsets_are_refused_on_both_sides() -> None:
    """A full mask gives IEK = 0 (no excluded leaf): everybody who reads this document could make that BCRO."""
    party, (keys, address) = device_party(), addressed(AddressMode.SUBSET, 5)
    subset = seal_bcro(seak_material(), keys, **address)
    for mask in (b"\xff" * 32, bytes(32)):
        with pytest.raises(BadValue, match="mask"):
            seal_bcro(
                seak_material(),
                Keys(iek=IEK(bytes(16)), riak=GROUP_KEYS.riak),
                address_mode=AddressMode.SUBSET,
                bit_access_mask=mask,
            )
        data = bytearray(subset)
        data[28:60] = mask
        refuses(party.device, BadValue, lambda data=data: party.device.ltkm(bytes(data)))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mode", "positions"), [(AddressMode.WHOLE_GROUP, ()), (AddressMode.SUBSET, (5, 9)), (AddressMode.UNIQUE_DEVICE, (5,))]
)
def test_r21_each_mode_opens_for_its_members_only(mode: AddressMode, positions: tuple[int, ...]) -> None:
    """RIAK is the device's own in mode 2: otherwise any member of the group could forge a right for one of the others."""
    keys, address = addressed(mode, *positions)
    data = seal_bcro(seak_material(), keys, **address)
    member, other = device_party(5), device_party(6)
    member.device.ltkm(data)
    opens(member)
    if mode is AddressMode.WHOLE_GROUP:
        other.device.ltkm(data)
        opens(other)
    else:
        refuses(other.device, KeyUnavailable, lambda: other.device.ltkm(data))
    wrong = Keys(iek=keys.iek, riak=member.subscriber.riak if mode is not AddressMode.UNIQUE_DEVICE else GROUP_KEYS.riak)
    forged = seal_bcro(seak_material(), wrong, START + 9, **address)
    refuses(member.device, Integrity, lambda: member.device.ltkm(forged))


def test_r21_a_bcro_of_another_issuer_or_group_is_not_for_me() -> None:
    """Two operators use one group address; or another size of group reads the mask differently."""
    party = device_party()
    others: list[dict[str, Any]] = [{"rights_issuer_id": bytes(20)}, {"group_address": b"\0\0\0\1"}, {"group_size_flag": True}]
    for changes in others:
        data = seal_bcro(seak_material(), group_keys(), **changes)
        refuses(party.device, KeyUnavailable, lambda data=data: party.device.ltkm(data))  # type: ignore[misc]


def test_r21_a_bcro_for_others_heard_first_moves_nothing() -> None:
    """A newer BCRO for other members under the same BCI: mine, older by a second, must still open."""
    party = device_party(5)
    keys, address = addressed(AddressMode.SUBSET, 7, 8)
    refuses(party.device, KeyUnavailable, lambda: party.device.ltkm(seal_bcro(seak_material(), keys, START + 50, **address)))
    keys, address = addressed(AddressMode.SUBSET, 5, 6)
    party.device.ltkm(seal_bcro(seak_material(), keys, START + 49, **address))
    opens(party)


def test_r21_timestamps_rise_for_each_address_and_asset() -> None:
    """A rights object recorded before a permission was taken away, sent again."""
    party, keys = device_party(), group_keys()
    good = seal_bcro(seak_material(), keys, START + 10)
    party.device.ltkm(good)
    party.device.ltkm(good)
    refuses(party.device, Replay, lambda: party.device.ltkm(seal_bcro(seak_material(), keys, START + 9)))
    same_time = seal_bcro(seak_material(), keys, START + 10, permissions=(Permission(1), Permission(2)))
    refuses(party.device, Replay, lambda: party.device.ltkm(same_time))
    keys_2, address = addressed(AddressMode.UNIQUE_DEVICE, 5)
    party.device.ltkm(seal_bcro(seak_material(), keys_2, START + 3, **address))  # an address of its own
    party.device.ltkm(seal_bcro(seak_material(2), keys, START + 3))  # an asset of its own
    party.device.ltkm(seal_bcro(seak_material(), keys, START + 11))


def test_r21_builders_name_issuer_and_time_and_devices_want_the_time() -> None:
    """A BCRO without a time can be replayed for ever."""
    party = device_party()
    missing: list[dict[str, Any]] = [{"bcro_timestamp": None}, {"rights_issuer_id": None}]
    for changes in missing:
        with pytest.raises(BadValue, match=next(iter(changes))):
            seal_bcro(seak_material(), group_keys(), **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pybcast.codec._drm.getattr", lambda message, name: 0, raising=False)
        bare = seal_bcro(seak_material(), group_keys(), bcro_timestamp=None)
    assert refuses(party.device, BadValue, lambda: party.device.ltkm(bare)).as_dict()["field"] == "bcro_timestamp"


def test_r21_of_several_rights_the_newest_counts() -> None:
    """A key of the BSM's older copy, delivered to the group, must not hide the right one that came to the device."""
    party = device_party()
    stale = seak_material(key=Secret(bytes(32)))
    party.device.ltkm(seal_bcro(stale, group_keys(), START))
    keys, address = addressed(AddressMode.UNIQUE_DEVICE, 5)
    party.device.ltkm(seal_bcro(seak_material(), keys, START + 1, **address))
    opens(party)
    again = device_party()
    keys_first = seal_bcro(seak_material(), keys, START + 1, **address)
    again.device.ltkm(keys_first)
    again.device.ltkm(seal_bcro(stale, group_keys(), START))
    opens(again)


def test_r21_refresh_time() -> None:
    """A device that is kept off the air plays on with an old right."""
    party = device_party()
    party.device.ltkm(seal_bcro(seak_material(), group_keys(), START, refresh_time=START + 100))
    opens(party, now=START + 100)
    refuses(party.device, KeyUnavailable, lambda: opens(party, 2, now=START + 101))
    party.device.ltkm(seal_bcro(seak_material(), group_keys(), START + 1, refresh_time=START + 1000))
    opens(party, 2, now=START + 101)


@pytest.mark.parametrize(
    ("permission", "before", "within", "after"),
    [
        (Permission(1), True, True, True),
        (Permission(1, (Constraint(2, encode_mjd_bcd(START + 10)),)), False, True, True),
        (Permission(1, (Constraint(3, encode_mjd_bcd(START + 20)),)), True, True, False),
        (Permission(1, (Constraint(2, encode_mjd_bcd(START + 10)), Constraint(3, encode_mjd_bcd(START + 20)))), False, True, False),
        (Permission(2), False, False, False),
        (Permission(1, (Constraint(1, b"\0\0\0\5"),)), False, False, False),
        (Permission(1, (Constraint(4, b"\0\0\0\5"),)), False, False, False),
        (Permission(1, (Constraint(5, b"\0\0\0\5"),)), False, False, False),
    ],
)
def test_r21_permissions(permission: Permission, before: bool, within: bool, after: bool) -> None:
    """A right to play a recording, or one that must be counted, taken for unlimited live access."""
    party = device_party()
    party.device.ltkm(seal_bcro(seak_material(), group_keys(), permissions=(Permission(3), permission)))
    for number, (now, expected) in enumerate(((START + 9, before), (START + 10, within), (START + 20, after))):
        if expected:
            opens(party, number, now)
        else:
            refuses(party.device, KeyUnavailable, lambda number=number, now=now: opens(party, number, now))  # type: ignore[misc]


def test_r21_a_bcro_without_permission_is_no_bcro() -> None:
    """An empty list read as "everything is allowed"."""
    with pytest.raises(BadLength, match="number_of_permissions"):
        seal_bcro(seak_material(), group_keys(), permissions=())


def test_r21_rights_are_bounded_and_what_was_forgotten_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Years on air fill the device; a forgotten replay mark lets the oldest rights in again."""
    monkeypatch.setattr(device_module, "MAX_RIGHTS", 3)
    party, keys = device_party(), group_keys()
    bcros = [seal_bcro(seak_material(n), keys, START + n) for n in range(1, 6)]
    party.device.ltkm(bcros[0])
    opens(party)
    for data in bcros[1:]:
        party.device.ltkm(data)
    tables = party.device._journal.tables
    assert (len(tables["right"]), len(tables["bcro"]), len(tables["stkm"])) == (3, 3, 0)
    for data in bcros[:2]:
        refuses(party.device, Replay, lambda data=data: party.device.ltkm(data))  # type: ignore[misc]
    party.device.ltkm(bcros[4])
    party.device.ltkm(seal_bcro(seak_material(1), keys, START + 9))


@given(st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_r21_r14_mark(held: int, new: int, same: bool) -> None:
    """Older never, equal only the same bytes, newer always."""
    assert Mark(held, b"a").refuses(new, b"a" if same else b"b") == (new < held or (new == held and not same))


# --- R22 --------------------------------------------------------------------------------------------------------------


def test_r22_the_first_byte_tells_the_kind() -> None:
    """An object taken for one of the other profile, or for another message of the family."""
    assert {byte: kind for byte, kind in FIRST_BYTE.items() if byte not in range(0x21, 0x2B)} == {
        0x20: "drm-ltkm", 0x40: "smartcard-registration",
    }  # fmt: skip
    assert {FIRST_BYTE[byte] for byte in range(0x21, 0x2B)} == {"drm-registration"}
    assert [tag.name for tag in sorted(RegistrationTag)][:2] == ["device_registration_response", "re_register_msg"]
    card, device = card_party(registered=False), device_party(registered=False)
    made = {0x01: seal_ltkm(card, 1, sek_material()), 0x20: seal_bcro(seak_material(), group_keys()), 0x21: device.registration}
    made[0x40] = card.registration
    assert all(data[0] == byte for byte, data in made.items())


# --- R23 --------------------------------------------------------------------------------------------------------------


def registration(issuer: RightsIssuer | None = None, now: float = NOW, udn: str = f"{5:020d}", **changes: object) -> bytes:
    """A device_registration_response for the device at position 5."""
    party = device_party(registered=False)
    if not changes:
        return device_registration(
            issuer or rights_issuer()[0], udn=udn, device_key=rsa_key(1).public_key(), group=GROUP_KEYS,
            subscriber=party.subscriber, now=now,
        )  # fmt: skip
    issuer = issuer or rights_issuer()[0]
    clear = ClearRegistrationResponse(
        message_tag=RegistrationTag.device_registration_response, longform_udn=udn, rights_issuer_id=issuer.id, drm_time=int(now),
        certificates=issuer.certificates, keyset_items=keyset(), signature_type=2048,
    )  # fmt: skip
    keys = Keys(rights_issuer_key=issuer.key, device_public_key=rsa_key(1).public_key())
    return codec.seal(replace(clear, **changes), keys)  # type: ignore[arg-type]  # fields of the message


def keyset(**changes: bytes | None) -> tuple[KeysetItem, ...]:
    """The key set of the device at position 5, with items replaced or (None) left out."""
    party = device_party(registered=False)
    sgks = GroupTree(GROUP_KEYS.root, 256).sgks(5)
    assert party.subscriber.riak is not None
    values: dict[str, list[bytes]] = {
        "UGK": [GROUP_KEYS.ugk.reveal()],
        "UDF": [GROUP_KEYS.address + b"\0\0\5"],
        "RIAK": [party.subscriber.riak.reveal(), GROUP_KEYS.riak.reveal()],
        "SGK": [bytes([n]) + sgk.reveal() for n, sgk in enumerate(sgks, 1)],
    }
    for name, value in changes.items():
        values[name] = [] if value is None else [value]
    return tuple(KeysetItem(int(KeysetTag[name]), Secret(item)) for name, items in values.items() for item in items)


def test_r23_registration_gives_the_keys_once() -> None:
    """drm_time must rise: a recorded registration would bring back a key set that was replaced."""
    party = device_party(registered=False)
    assert party.device.register(registration(now=NOW), NOW)
    refuses(party.device, Replay, lambda: party.device.register(registration(now=NOW), NOW + 9))
    refuses(party.device, Replay, lambda: party.device.register(registration(now=NOW - 1), NOW))
    assert party.device.register(registration(now=NOW + 1), NOW + 1)


def test_r23_the_udn_must_be_mine() -> None:
    """Everyone hears everyone's registration."""
    party = device_party(registered=False)
    for udn in (f"{6:020d}", EVERYONE):
        data = registration(udn=udn)
        refuses(party.device, KeyUnavailable, lambda data=data: party.device.register(data, NOW))  # type: ignore[misc]


@pytest.mark.parametrize("tag", [t for t in RegistrationTag if t not in (0x21, 0x26, 0x27)])
def test_r23_everyone_is_for_two_messages_only(tag: RegistrationTag) -> None:
    """20 x F addresses update_ri_certificate and update_drmtime; their bodies are not looked into and move nothing."""
    party, (issuer, _) = device_party(registered=False), rights_issuer()

    def message(udn: str) -> bytes:
        bare = RegistrationMessage(message_tag=tag, longform_udn=udn, signature_type=2048, body=b"body", signature=b"")
        return codec.seal(bare, Keys(rights_issuer_key=issuer.key))

    assert party.device.register(message(party.device.udn), NOW) is False
    if tag in (RegistrationTag.update_ri_certificate_msg, RegistrationTag.update_drmtime_msg):
        assert party.device.register(message(EVERYONE), NOW) is False
    else:
        refuses(party.device, KeyUnavailable, lambda: party.device.register(message(EVERYONE), NOW))
    assert not any(party.device._journal.tables.values())


def certificates(*, begin: int = 1990, end: int = 2090, signed_by: int = -1) -> RightsIssuer:
    """The rights issuer's key with a certificate made to order; ``signed_by``: the number of the signing key."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    issuer, _ = rights_issuer()
    builder = x509.CertificateBuilder().subject_name(name("Test rights issuer")).issuer_name(name("Test root"))
    builder = builder.public_key(issuer.key.public_key()).serial_number(1)
    builder = builder.not_valid_before(datetime.datetime(begin, 1, 1)).not_valid_after(datetime.datetime(end, 1, 1))
    der = builder.sign(rsa_key(signed_by), hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return RightsIssuer(issuer.key, (der,))


@pytest.mark.parametrize("issuer", [{"end": 2020}, {"begin": 2080}, {"signed_by": -2}])
def test_r23_the_chain_must_hold(issuer: dict[str, int]) -> None:
    """An issuer whose certificate is out of date or made by himself registers the whole country."""
    party = device_party(registered=False)
    assert device_party(registered=False).device.register(registration(certificates()), NOW)
    data = registration(certificates(**issuer))
    refuses(party.device, Integrity, lambda: party.device.register(data, NOW))


def test_r23_the_leaf_must_be_the_issuer_it_says() -> None:
    """A second issuer under the same root speaks for the first."""
    party = device_party(registered=False)
    data = registration(RightsIssuer(rsa_key(2), rights_issuer()[0].certificates))
    refuses(party.device, Integrity, lambda: party.device.register(data, NOW))


def test_r23_certificates_may_stay_away_once_known() -> None:
    """Certificates are long and come seldom; without any, nothing can be verified."""
    party = device_party(registered=False)
    bare = registration(now=NOW + 5, certificates=None)
    refuses(party.device, KeyUnavailable, lambda: party.device.register(bare, NOW))
    assert party.device.register(registration(now=NOW), NOW)
    assert party.device.register(bare, NOW)


def test_r23_a_key_set_comes_only_with_status_0() -> None:
    """A refusal that still hands out keys, or one that is taken for a registration."""
    party = device_party(registered=False)
    with pytest.raises(BadValue, match="keyset_flag"):
        registration(status=1)
    assert party.device.register(registration(status=1, keyset_items=None), NOW) is False
    assert not party.device._journal.tables["keyset"]
    refuses(party.device, Replay, lambda: party.device.register(registration(now=NOW), NOW))


def test_r23_unknown_items_are_skipped_and_missing_ones_refused() -> None:
    """A newer BSM adds an item; a broken one forgets the RIAK, and half a key set would be kept."""
    party = device_party(registered=False)
    data = registration(keyset_items=(*keyset(), KeysetItem(0x70, Secret(b"new"))))
    assert party.device.register(data, NOW)
    party.device.ltkm(seal_bcro(seak_material(), group_keys()))
    opens(party)
    for items in (keyset(RIAK=None), keyset(UDF=None), keyset(SGK=None), keyset(UDF=GROUP_KEYS.address + b"\0\1\0")):
        fresh, data = device_party(registered=False), registration(keyset_items=items)
        refuses(fresh.device, BcastError, lambda d=fresh.device, data=data: d.register(data, NOW))  # type: ignore[misc]


def test_r23_a_key_set_without_group_or_device_key_opens_what_it_can() -> None:
    """No UGK: a BCRO for the whole group is refused, one for a subset opens."""
    party = device_party(registered=False)
    party.device.register(registration(keyset_items=keyset(UGK=None)), NOW)
    refuses(party.device, KeyUnavailable, lambda: party.device.ltkm(seal_bcro(seak_material(), group_keys())))
    keys, address = addressed(AddressMode.UNIQUE_DEVICE, 5)
    refuses(party.device, KeyUnavailable, lambda: party.device.ltkm(seal_bcro(seak_material(), keys, **address)))
    keys, address = addressed(AddressMode.SUBSET, 5)
    party.device.ltkm(seal_bcro(seak_material(), keys, **address))
    opens(party)


def domain_message(generation: int = 1, *, update: bool = False, now: float = NOW, **changes: Any) -> bytes:
    issuer, _ = rights_issuer()
    made = domain_registration(
        issuer, udn=f"{5:020d}", device_key=rsa_key(1).public_key(), domain_id=b"domain", generation=generation,
        bdk=BDK(bytes(range(16))), riak=RIAK(bytes(16)), now=now, update=update,
    )  # fmt: skip
    if not changes:
        return made
    return registration(now=now, message_tag=RegistrationTag.domain_registration_response, **changes)


def test_r23_r21_domains() -> None:
    """A domain's BCRO opens for members of that generation, under the domain's RIAK, and for nobody else."""
    party = device_party(registered=False)
    keys = Keys(iek=IEK(bytes(range(16))), riak=RIAK(bytes(16)))
    address: dict[str, Any] = {
        "address_mode": AddressMode.DOMAIN, "group_address": None, "domain_id": b"domain", "domain_generation": 1,
    }  # fmt: skip
    bcro = seal_bcro(seak_material(), keys, **address)
    refuses(party.device, KeyUnavailable, lambda: party.device.ltkm(bcro))
    sealed = codec.decode(bcro, "drm-ltkm")
    assert isinstance(sealed, Bcro) and not party.device.addressed(sealed)
    assert party.device.register(domain_message(), NOW)
    assert party.device.addressed(sealed)
    party.device.ltkm(bcro)
    opens(party)
    newer = seal_bcro(seak_material(2), keys, **address | {"domain_generation": 2})
    refuses(party.device, KeyUnavailable, lambda: party.device.ltkm(newer))
    assert party.device.register(domain_message(2, update=True, now=NOW + 1), NOW)
    party.device.ltkm(newer)
    broken = domain_message(now=NOW + 2, keyset_items=(KeysetItem(int(KeysetTag.RIAK), Secret(bytes(16))),))
    refuses(party.device, BadValue, lambda: party.device.register(broken, NOW))


def test_r23_a_subscriber_without_keys_is_not_registered() -> None:
    """A registration message with half a key set."""
    party = device_party(registered=False)
    with pytest.raises(LocalFlowError):
        device_registration(
            rights_issuer()[0], udn=party.device.udn, device_key=rsa_key(1).public_key(), group=GROUP_KEYS,
            subscriber=replace(party.subscriber, udk=None), now=NOW,
        )  # fmt: skip


# --- crashes in the middle of a registration ----------------------------------------------------------------------------


def crash_everywhere(run: Callable[[Store], list[object]]) -> None:
    """``run`` takes the message with a store's state and gives its outputs; cut off after each, the next life takes it again."""
    outputs = run(Store())
    for cut in range(len(outputs) + 1):
        store = Store()
        for output in run(Store())[:cut]:
            assert isinstance(output, Persist)
            store.write(output)
        for output in run(store):
            assert isinstance(output, Persist)
            store.write(output)


def test_r23_a_crash_during_registration_does_not_lose_it() -> None:
    """Power fails between "drm_time seen" and "keys kept": the only registration of that device would be refused for ever."""
    data = registration(now=NOW)
    _, root = rights_issuer()

    def run(store: Store) -> list[object]:
        device = Device(udn=f"{5:020d}", key=rsa_key(1), anchors=[root], state=store.copy())
        try:
            device.register(data, NOW)
        except Replay:
            assert "keyset" in store.state
        outputs: list[object] = list(device.take())
        return outputs

    crash_everywhere(run)


def test_r24_a_crash_during_registration_does_not_lose_it() -> None:
    """The same on a card: RAND and SQN seen, SMK not kept."""
    rng = random.Random(3)
    k, opc, impi = K(rng.randbytes(16)), OPC(rng.randbytes(16)), "user@ims.example.com"
    _, push = vector(k, opc, impi)

    def run(store: Store) -> list[object]:
        card = SimulatedCard(k=k, opc=opc, impi=impi, state=store.copy())
        try:
            again = card.register(push, NOW) is None
        except Replay:
            again = True
        assert not again or "smk" in store.state
        outputs: list[object] = list(card.take())
        return outputs

    crash_everywhere(run)


# --- R24 --------------------------------------------------------------------------------------------------------------


def vector(
    k: K, opc: OPC, impi: str, *, rand: bytes = bytes(range(16)), sqn: int = 100, until: float = NOW + 1000, gba_u: bool = True
) -> tuple[Keys, bytes]:
    """A registration push made from an authentication vector of the home network."""
    home = Milenage(k, opc)
    ck, ik = home.f3(rand), IK(home.f4(rand))
    subscriber, push = smartcard_registration(
        name=impi, rand=rand, autn=home.autn(rand, sqn.to_bytes(6, "big"), b"\x80\0"), ck=ck, ik=ik, impi=impi, fqdn=FQDN,
        bsf=BSF, until=int(until), gba_u=gba_u,
    )  # fmt: skip
    return Keys(smk=subscriber.smk, ck=ck, ik=ik), push


def new_card(impi: str = "user@ims.example.com") -> tuple[SimulatedCard, K, OPC, str]:
    rng = random.Random(impi)
    k, opc = K(rng.randbytes(16)), OPC(rng.randbytes(16))
    return SimulatedCard(k=k, opc=opc, impi=impi), k, opc, impi


@pytest.mark.parametrize("gba_u", [True, False])
def test_r24_both_ends_derive_the_same_keys(gba_u: bool) -> None:
    """SMK and SRK of GBA_U stay apart from those of GBA_ME."""
    card, k, opc, impi = new_card()
    keys, push = vector(k, opc, impi, gba_u=gba_u)
    srk = card.register(push, NOW)
    assert keys.ck is not None and keys.ik is not None
    expected = registration_keys(keys.ck, keys.ik, bytes(range(16)), impi, FQDN, gba_u=gba_u)
    assert srk == expected.srk
    (row,) = card._journal.tables["smk"].values()
    assert row.smk == expected.smk == keys.smk  # type: ignore[attr-defined]  # a SmkFile
    assert card.identities() == {row.idr}  # type: ignore[attr-defined]


def test_r24_gba_u_and_plain_aka_do_not_mix() -> None:
    """MAC*: a terminal that runs a GBA_U push as a plain AKA would get CK and IK out of the card."""
    for gba_u in (True, False):
        card, k, opc, impi = new_card()
        _, push = vector(k, opc, impi, gba_u=gba_u)
        flipped = bytes([push[0], push[1] ^ 1]) + push[2:]
        refuses(card, Integrity, lambda card=card, flipped=flipped: card.register(flipped, NOW))  # type: ignore[misc]
        message = codec.decode(push, "smartcard-registration")
        assert isinstance(message, SmartcardRegistration)
        home = Milenage(k, opc)
        plain = home.autn(bytes(range(16)), (100).to_bytes(6, "big"), b"\x80\0")
        assert message.autn == (gba_u_autn(plain, IK(home.f4(bytes(range(16))))) if gba_u else plain)


def test_r24_target_id_tells_mine() -> None:
    """Without it every terminal asks its card for every push of the country."""
    card, k, opc, impi = new_card()
    other, *_ = new_card("other@ims.example.com")
    _, push = vector(k, opc, impi)
    refuses(other, KeyUnavailable, lambda: other.register(push, NOW))
    assert push[4:12] == card.target_ids(bytes(range(16)))


def test_r24_repeats_are_dropped_by_rand_until_they_end() -> None:
    """The carousel repeats the push: the card must not run AKA again, nor forget the LTKM COUNTER; and not remember it for ever."""
    card, k, opc, impi = new_card()
    _, push = vector(k, opc, impi)
    card.register(push, NOW)
    card.take()
    assert card.register(push, NOW + 1) is None and card.take() == []
    _, second = vector(k, opc, impi, rand=b"x" * 16, sqn=101, until=NOW + 9000)
    card.register(second, NOW + 2000)
    assert list(card._journal.tables["seen"]) == [(b"x" * 16,)]
    refuses(card, Replay, lambda: card.register(push, NOW + 2001))


def test_r24_key_lifetime_is_an_absolute_end() -> None:
    """A push played back after its end; an SMK used after it, also across the wrap of 32-bit time."""
    card, k, opc, impi = new_card()
    keys, push = vector(k, opc, impi)
    refuses(card, Replay, lambda: card.register(push, NOW + 1000))
    card.register(push, NOW + 999)
    party = replace(card_party(), card=card)
    party = replace(party, subscriber=replace(party.subscriber, smk=keys.smk, idr=next(iter(card.identities())).decode()))
    card.ltkm(seal_ltkm(party, 1, sek_material()), NOW + 999)
    refuses(card, KeyUnavailable, lambda: card.ltkm(seal_ltkm(party, 2, sek_material()), NOW + 1000))
    late, k, opc, impi = new_card()
    now = float((1 << 32) - 10)
    _, push = vector(k, opc, impi, until=now + 20)
    assert int.from_bytes(push[12:16], "big") == counter_of(now + 20) == 10
    late.register(push, now)


@pytest.mark.parametrize(("last", "sqn", "fresh"), [(100, 101, True), (100, 100, False), (100, 99, False), (100, 0, False)])
def test_r24_sqn_must_be_fresh(last: int, sqn: int, fresh: bool) -> None:
    """An authentication vector used twice."""
    check_sqn(last, sqn, fresh)


def test_r24_sqn_may_start_anywhere_but_not_jump() -> None:
    """TS 33.102 annex C: a jump to the end of the range would lock the card out; the first may be any."""
    check_sqn(0, 5, True)
    check_sqn(1 << 40, (1 << 40) + SQN_STEP_LIMIT, True)
    check_sqn(1 << 40, (1 << 40) + SQN_STEP_LIMIT + 1, False)


def check_sqn(last: int, sqn: int, fresh: bool) -> None:
    card, k, opc, impi = new_card()
    card.register(vector(k, opc, impi, sqn=last)[1], NOW)
    _, push = vector(k, opc, impi, rand=b"x" * 16, sqn=sqn)
    if fresh:
        assert card.register(push, NOW) is not None
        assert len(card.identities()) == 1  # the newest B-TID selects the SMK
    else:
        refuses(card, Replay, lambda: card.register(push, NOW))


def test_r24_btid_is_checked_against_rand() -> None:
    """A push with the B-TID of another bootstrap: the LTKMs of that other one would be looked for under this SMK."""
    card, k, opc, impi = new_card()
    keys, push = vector(k, opc, impi)
    message = codec.decode(push, "smartcard-registration")
    assert isinstance(message, SmartcardRegistration) and message.btid == "AAECAwQFBgcICQoLDA0ODw==@bsf.example.com"
    with pytest.raises(BadValue, match="btid"):
        codec.seal(replace(message, btid="AAECAwQFBgcICQoLDA0ODg==@bsf.example.com"), replace(keys, impi=impi, smk=None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pybcast.codec._smartcard.btid_matches", lambda value, rand: True)
        forged = codec.seal(replace(message, btid="other@bsf.example.com"), replace(keys, impi=impi, smk=None))
    refuses(card, BadValue, lambda: card.register(forged, NOW))


# --- R25 --------------------------------------------------------------------------------------------------------------


def test_r25_reporting_entry() -> None:
    """Key Domain 3, Key Group 2, key number 2, TS low 4, TS high 4, SPE block: without domain and group a report names nothing."""
    entry = ReportingEntry(
        security_policy_extension=4, key_domain_id=b"\x12\xf4\x10", key_group=b"\0\7", key_number=1, ts_low=0x11223344,
        ts_high=0x55667788,
    )  # fmt: skip
    message = SmartcardVerification(csb_id=bytes(4), counter=1, idr=b"a@b", reporting=Reporting(entries=(entry,)))
    keys = Keys(smk=card_party().subscriber.smk, rand=bytes(16), idi=b"bsm")
    data = codec.seal(message, keys)
    assert bytes.fromhex("12f41000070001112233445566778804") in data
    opened = codec.open(data, keys, "smartcard-reporting")
    assert isinstance(opened, SmartcardVerification) and opened.reporting == message.reporting
