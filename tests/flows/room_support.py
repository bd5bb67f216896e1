# SPDX-License-Identifier: Apache-2.0
"""Small parties for the tests of cards, devices and terminals: one stream, one SEK or SEAK, messages made to order."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from pybcast import codec
from pybcast.errors import BcastError
from pybcast.flows import (
    BackendMessage,
    Device,
    KeyMaterial,
    Period,
    Persist,
    Restored,
    SimulatedCard,
    Start,
    StreamConfig,
    Terminal,
    TrafficKey,
    Tuning,
)
from pybcast.flows.serial import counter_of
from pybcast.flows.stream import stkm
from pybcast.flows.stream.stkm import Policy
from pybcast.flows.tables import Tag
from pybcast.keys import TAS, TEK, Keys
from pybcast.messages import (
    AddressMode,
    ClearAsset,
    ClearBcro,
    ClearSmartcardLtkm,
    ClearSmartcardParental,
    LtkmManagement,
    Permission,
    Protocol,
)
from pybcast.secret import Secret
from pybcast.testing.parties import FQDN, CardParty, DrmParty, make_card, make_device, make_group, rights_issuer
from pybcast.wire.content_id import BCI

RESTORED: Final = Start(restored=Restored("a test put it back", 3_989_999_000.0, 3_990_000_000.0))
"""A server starts, and its store is known to be older than what has left it."""
NOW: Final = 3_990_000_000.0
START: Final = 3_990_000_000
WRAP: Final = 1 << 32
"""When 32-bit NTP seconds wrap: 2036-02-07."""
SERVICE, BSM_URI, BSDA_URI = "urn:example:service", "urn:example:bsm", "urn:example:bsda"
DOMAIN, GROUP = b"\x12\xf4\x10", 7
SOC, BASE = "example-soc", "service-1"


def stream_config(**changes: object) -> StreamConfig:
    values: dict[str, object] = {
        "service": SERVICE, "stream": 1, "profiles": ("smartcard",), "generation": "bsda", "bsm": BSM_URI, "bsdas": (BSDA_URI,),
        "protocol": Protocol.SRTP, "period": 8, "start": START, "key_period": 640, "rollover_lead": 320, "socID": SOC,
        "serviceBaseCID": BASE, "key_domain_id": DOMAIN, "key_group": GROUP,
    }  # fmt: skip
    return StreamConfig(**(values | changes))  # type: ignore[arg-type]  # fields of the configuration


def period(number: int = 0, start: int = START, length: int = 8) -> Period:
    return Period(number, start + number * length, start + (number + 1) * length)


def sek_material(number: int = 1, start: int = START, length: int = 640, **changes: object) -> KeyMaterial:
    """SEK ``number`` of the stream's Key Group."""
    rng = random.Random(number)
    values: dict[str, object] = {
        "key_type": "SEK", "key_id": DOMAIN + GROUP.to_bytes(2, "big") + number.to_bytes(2, "big"), "stream": 1,
        "key": Secret(rng.randbytes(16)), "valid_from": start, "valid_to": start + length,
        "csb_id": rng.randbytes(4), "rand": rng.randbytes(16),
        "ts_low": counter_of(start - 1), "ts_high": counter_of(start + length - 1), "first_counter": counter_of(start),
        "granularity": 8, "next_counter": counter_of(start),
    }  # fmt: skip
    return KeyMaterial(**(values | changes))  # type: ignore[arg-type]  # fields of the key material


def seak_material(number: int = 1, start: int = START, length: int = 640, **changes: object) -> KeyMaterial:
    values: dict[str, object] = {
        "key_type": "SEAK", "key_id": number.to_bytes(4, "big"), "stream": 1,
        "key": Secret(random.Random(1000 + number).randbytes(32)),
        "valid_from": start, "valid_to": start + length, "socID": SOC, "serviceBaseCID": BASE,
    }  # fmt: skip
    return KeyMaterial(**(values | changes))  # type: ignore[arg-type]  # fields of the key material


def traffic_key(config: StreamConfig, seed: int = 0) -> TrafficKey:
    rng = random.Random(seed)
    tas = TAS(rng.randbytes(16)) if config.ipsec_auth and config.drm else None
    return TrafficKey(TEK(rng.randbytes(16)), rng.randbytes(14) if config.protocol is Protocol.SRTP else None, tas)


def sealed_stkm(
    config: StreamConfig, of: Period, *keys: KeyMaterial, key: TrafficKey | None = None, policy: Policy | None = None
) -> bytes:
    """The STKM of a period under these keys, of the profile that the first of them has."""
    held: dict[str, KeyMaterial] = {k.key_type: k for k in keys}
    profile = "smartcard" if keys[0].key_type in ("SEK", "PEK") else "drm"
    content = stkm.partial(config, "drm" if profile == "drm" else "smartcard", of, key or traffic_key(config, of.index))
    return stkm.seal(content, config, of, held, policy or Policy())


def seal_ltkm(party: CardParty, counter: int, key: KeyMaterial, **changes: object) -> bytes:
    """An LTKM for a card, by default with the whole window of the key."""
    smk = party.subscriber.smk
    assert (
        smk is not None and key.csb_id is not None and key.rand is not None and key.ts_low is not None and key.ts_high is not None
    )
    clear = ClearSmartcardLtkm(
        counter=counter, csb_id=key.csb_id, key_domain_id=key.key_id[:3], sek_id=key.key_id[3:], rand=key.rand, idi=FQDN.encode(),
        idr=party.subscriber.idr.encode(), sek=key.key, ts_low=key.ts_low, ts_high=key.ts_high,
    )  # fmt: skip
    return codec.seal(replace(clear, **changes), Keys(smk=smk))  # type: ignore[arg-type]  # fields of the message


def seal_withdrawal(party: CardParty, counter: int, key: KeyMaterial) -> bytes:
    return seal_ltkm(party, counter, key, sek=Secret(bytes(16)), ts_low=0xFFFFFFFF, ts_high=0)


def seal_parental(party: CardParty, counter: int, rating_type: int, level: int, *, verify: bool = False) -> bytes:
    clear = ClearSmartcardParental(
        counter=counter, csb_id=b"\1\2\3\4", rand=bytes(16), idi=FQDN.encode(), idr=party.subscriber.idr.encode(),
        verification_requested=verify, rating_type=rating_type, level_granted=level, pin=Secret(b"1234"),
    )  # fmt: skip
    return codec.seal(clear, Keys(smk=party.subscriber.smk))


REPORTING: Final = LtkmManagement(consumption_reporting_flag=True)
"""Management data that asks for a report with the verification message (R19)."""


def card_party(seed: int = 1, *, registered: bool = True, now: float = NOW, gba_u: bool = True) -> CardParty:
    party = make_card(random.Random(seed), f"card{seed}", now, gba_u=gba_u)
    if registered:
        party.card.register(party.registration, now)
        party.card.take()
    return party


def device_party(position: int = 5, seed: int = 1, *, registered: bool = True, now: float = NOW) -> DrmParty:
    """A device of the one group of these tests."""
    party = make_device(random.Random(seed + 100 * position), f"device{position}", GROUP_KEYS, position, now)
    if registered:
        party.device.register(party.registration, now)
        party.device.take()
    return party


GROUP_KEYS: Final = make_group(random.Random(77))


def seal_bcro(key: KeyMaterial, keys: Keys, timestamp: int = START, **changes: object) -> bytes:
    """A BCRO that carries one SEAK or PEAK, by default to the whole group."""
    issuer, _ = rights_issuer()
    asset = ClearAsset(
        asset_is_service=key.key_type == "SEAK", BCI=bytes(BCI(SOC, BASE, int.from_bytes(key.key_id, "big"))), key=key.key
    )
    clear = ClearBcro(
        address_mode=AddressMode.WHOLE_GROUP, rights_issuer_id=issuer.id, group_address=GROUP_KEYS.address,
        bcro_timestamp=timestamp, assets=(asset,), permissions=(Permission(1),),
    )  # fmt: skip
    return codec.seal(replace(clear, **changes), keys)  # type: ignore[arg-type]  # fields of the message


def group_keys() -> Keys:
    return Keys(iek=Secret(GROUP_KEYS.ugk), riak=GROUP_KEYS.riak)  # type: ignore[arg-type]  # the ring makes an IEK of it


TUNING: Final = Tuning(SERVICE, 1, ("239.1.1.1", 5000), SOC, BASE, Protocol.SRTP)


def memory(machine: SimulatedCard | Device | Terminal) -> object:
    """Everything a machine remembers."""
    journal = machine._journal
    return copy.deepcopy(journal.tables)


def refuses(machine: SimulatedCard | Device, error: type[BcastError], call: Callable[[], object]) -> BcastError:
    """``call`` is refused with ``error`` and changes nothing: neither memory nor what would be persisted."""
    machine.take()
    before = memory(machine)
    with pytest.raises(error) as caught:
        call()
    assert memory(machine) == before
    assert not [output for output in machine.take() if isinstance(output, Persist)]
    return caught.value


def request(tag: Tag, **changes: object) -> BackendMessage:
    values: dict[str, object] = {
        "tag": tag, "message_id": "00" * 16, "source": BSM_URI, "destination": BSDA_URI, "service": SERVICE, "stream": 1,
        "profile": "smartcard" if tag <= Tag.STKMDeliveryConfirmation else None,
    }  # fmt: skip
    return BackendMessage(**(values | changes))  # type: ignore[arg-type]  # fields of the message
