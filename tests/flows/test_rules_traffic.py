# SPDX-License-Identifier: Apache-2.0
"""Rules R38-R43: traffic under the keys.  Each test says which attack or accident its rule prevents.

R39 (the ROC survives a key change) is about packets: it is tested with the outlets.
"""

from __future__ import annotations

import random
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
    TUNING,
    WRAP,
    card_party,
    device_party,
    group_keys,
    period,
    request,
    seak_material,
    seal_bcro,
    seal_ltkm,
    sealed_stkm,
    sek_material,
    stream_config,
    traffic_key,
)

from pybcast import codec
from pybcast.errors import ConfigError, PeerFlowError
from pybcast.flows import (
    Announce,
    Headend,
    Period,
    Persist,
    Refused,
    StopTraffic,
    Tag,
    TekExpired,
    TekReady,
    Terminal,
    UseKey,
    random_teks,
)
from pybcast.flows.stream import stkm
from pybcast.flows.stream.config import TUNE_IN
from pybcast.flows.stream.schedule import MAX_PERIOD, MIN_PERIOD, traffic_key_lifetime
from pybcast.flows.stream.stkm import LOWEST_SPI, Policy, traffic_id
from pybcast.keys import TAK, derive_tak, ipsec_auth_key_smartcard
from pybcast.messages import DrmStkm, Protocol

DUAL = stream_config(profiles=("drm", "smartcard"))


def terminal_of(profile: str, protocol: Protocol = Protocol.SRTP) -> Terminal:
    """A terminal with the rights to the test's SEK or SEAK, tuned in."""
    if profile == "smartcard":
        party = card_party()
        party.card.ltkm(seal_ltkm(party, 1, sek_material()), NOW)
        terminal = Terminal(card=party.card)
    else:
        device = device_party().device
        device.ltkm(seal_bcro(seak_material(), group_keys()))
        terminal = Terminal(device=device)
    terminal.tune(replace(TUNING, protocol=protocol), START)
    return terminal


def play(terminal: Terminal, data: bytes, now: float) -> list[TekReady]:
    """Hear one STKM and let a tune-in pass."""
    outputs = terminal.receive_stkm(SERVICE, 1, data, now) + terminal.tick(now + TUNE_IN)
    return [o for o in outputs if isinstance(o, TekReady)]


# --- R38 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [Protocol.SRTP, Protocol.ISMACRYP, Protocol.IPSEC])
def test_r38_both_profiles_name_one_key_alike(protocol: Protocol) -> None:
    """Each packet has room for one MKI: two names would leave one profile dark."""
    config = replace(DUAL, protocol=protocol, traffic_authentication_flag=protocol is not Protocol.IPSEC)
    sek, seak, key = sek_material(), seak_material(), traffic_key(config)
    expected = sek.key_id[5:] + b"\0\2" if protocol is Protocol.IPSEC else sek.key_id[3:] + b"\0\2"
    drm, card = sealed_stkm(config, period(1), seak, sek, key=key), sealed_stkm(config, period(1), sek, seak, key=key)
    message = codec.decode(drm, "drm-stkm")
    assert isinstance(message, DrmStkm) and message.id == expected == traffic_id(config, period(1), sek)
    assert stkm.check_received(config, "drm", period(1), key, drm)[1] == expected
    assert stkm.check_received(config, "smartcard", period(1), key, card)[1] == expected
    (one,), (two,) = (play(terminal_of(p, protocol), data, START + 8.0) for p, data in (("drm", drm), ("smartcard", card)))
    assert (one.mki, one.tek, one.salt) == (two.mki, two.tek, two.salt) == (expected, key.tek, key.salt)


def test_r38_ipsec_with_authentication_is_refused_on_two_profile_streams() -> None:
    """The two profiles derive different authentication keys: one of them would drop every packet."""
    with pytest.raises(ConfigError, match="R38"):
        replace(DUAL, protocol=Protocol.IPSEC)


# --- R40, R9 ----------------------------------------------------------------------------------------------------------


def headend(**changes: object) -> Headend:
    """A BSD/A that seals for itself, with its first key."""
    config = stream_config(**changes)
    rng = random.Random(4)
    machine = Headend(me=BSDA_URI, streams=[config], teks=random_teks(rng.randbytes), randomness=rng.randbytes)
    machine.receive(request(Tag.KeyDelivery, items=(sek_material(length=64),)), START - 50, BSM_URI)
    return machine


def run(machine: Headend, start: float, end: float, report: Any = None) -> list[tuple[float, Any]]:
    """Tick every tenth of a second; STKMs leave the moment they are announced, unless ``report`` says otherwise."""
    done, now = [], start
    while now < end:
        outputs = machine.tick(now)
        for output in outputs:
            done.append((now, output))
            if isinstance(output, Announce) and (report is None or report(now)):
                outputs += machine.announced(SERVICE, 1, output.start, now)
        now = round(now + 0.1, 1)
    return done


def test_r40_a_key_is_used_after_three_repetitions() -> None:
    """Traffic under a key whose STKM nobody has heard."""
    done = run(headend(), START - 10, START + 20)
    announced = {o.start: t for t, o in done if isinstance(o, Announce)}
    used = {o.start: t for t, o in done if isinstance(o, UseKey)}
    assert set(used) == {START, START + 8, START + 16}
    for start, at in used.items():
        assert at >= max(start, announced[start] + 3 * 0.1) and at < start + 0.2
        assert start - announced[start] <= 4 + 0.001


def test_r40_without_a_report_of_the_sender_the_old_key_is_held() -> None:
    """The sender is stuck: switching on time would darken every terminal."""
    done = run(headend(), START - 10, START + 30, report=lambda now: now < START + 5 or now > START + 19)
    assert [o.start for _, o in done if isinstance(o, UseKey)] == [START, START + 8, START + 24]
    assert "held-key" in {getattr(o, "code", "") for _, o in done}


def test_r09_the_encoder_stops_at_the_end_of_authority() -> None:
    """No new key and no right any more: silence and an alarm, not the old key for ever."""
    done = run(headend(), START - 10, START + 70)
    uses = [o for _, o in done if isinstance(o, UseKey)]
    assert {o.authority_end for o in uses} == {START + 64}
    (stopped,) = [t for t, o in done if isinstance(o, StopTraffic)]
    assert START + 64 <= stopped < START + 64.2


# --- R42 --------------------------------------------------------------------------------------------------------------


@given(st.integers(MIN_PERIOD, MAX_PERIOD))
def test_r42_lifetime_is_the_smallest_power_of_two_of_four_periods(length: int) -> None:
    """A shorter one makes holding the last key illegal; a longer one than the field does not exist."""
    n = traffic_key_lifetime(length)
    assert 0 <= n <= 15 and 2**n >= 4 * length > 2 ** (n - 1)


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_r42_a_tek_ends_its_lifetime_after_it_was_first_opened(profile: str) -> None:
    """A repeated STKM must not stretch the life of its key: not while playing, not after zapping, a restart, or its end."""
    terminal = terminal_of(profile)
    data = sealed_stkm(DUAL, period(0), *((seak_material(), sek_material()) if profile == "drm" else (sek_material(),)))
    (ready,) = play(terminal, data, START + 1.0)
    assert ready.until == START + 1 + TUNE_IN + 32
    assert play(terminal, data, START + 10.0) == []
    terminal.tune_out(SERVICE, 1)
    terminal.tune(TUNING, START + 12)
    assert play(terminal, data, START + 13.0) == []
    again = Terminal(card=terminal._card, device=terminal._device, state=terminal._journal.tables)
    again.tune(TUNING, START + 15)
    assert play(again, data, START + 16.0) == []
    assert again.next_wakeup() == ready.until
    assert [type(o) for o in again.tick(ready.until) if not isinstance(o, Persist)] == [TekExpired]
    assert play(again, data, ready.until + 1) == []
    refused = again.receive_stkm(SERVICE, 1, data, ready.until + 60) + again.tick(ready.until + 62)
    assert [str(o.error) for o in refused if isinstance(o, Refused)][-1:] == ["the lifetime of its key has ended (R42)"]
    older = Terminal(card=terminal._card, device=terminal._device, state=again._journal.tables)
    older.tune(TUNING, ready.until + 90)
    assert play(older, data, ready.until + 91) == []


def test_r42_opened_teks_are_kept_over_channel_changes() -> None:
    """Zapping away and back within a period: the card will not open that STKM again."""
    terminal = terminal_of("smartcard")
    (ready,) = play(terminal, sealed_stkm(DUAL, period(0), sek_material()), START + 1.0)
    assert terminal.tune_out(SERVICE, 1) == [] and terminal.tune_out(SERVICE, 1) == []
    assert terminal.next_wakeup() == ready.until
    terminal.tune(TUNING, START + 3)
    (following,) = play(terminal, sealed_stkm(DUAL, period(1), sek_material()), START + 8.0)
    assert following.mki[-1] == 2


# --- R43 and the DRM Profile's SPI ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_r43_ipsec_keys_on_both_ends(profile: Any) -> None:
    """Encoder and terminal that derive SPI or authentication key differently."""
    config = stream_config(protocol=Protocol.IPSEC, profiles=(profile,))
    key, sek = traffic_key(config), sek_material()
    data = sealed_stkm(config, period(1), seak_material() if profile == "drm" else sek, key=key)
    (ready,) = play(terminal_of(profile, Protocol.IPSEC), data, START + 8.0)
    assert ready.mki == stkm.check_received(config, profile, period(1), key, data)[1]
    if profile == "smartcard":
        assert ready.mki == sek.key_id[5:] + b"\0\2"
        assert sek.csb_id is not None
        expected: TAK = ipsec_auth_key_smartcard(key.tek, sek.csb_id)
    else:
        assert key.tas is not None
        expected = derive_tak(key.tas)
    assert ready.auth_key == expected == stkm.auth_key(config, key, sek.csb_id)
    assert (ready.tek, ready.salt) == (key.tek, None)


def test_r43_without_authentication_there_is_no_authentication_key() -> None:
    """A TEK used for something it was not made for."""
    config = stream_config(protocol=Protocol.IPSEC, traffic_authentication_flag=False)
    (ready,) = play(terminal_of("smartcard", Protocol.IPSEC), sealed_stkm(config, period(1), sek_material()), START + 8.0)
    assert ready.auth_key is None and stkm.auth_key(config, traffic_key(config), b"\0\0\0\0") is None


def test_r43_drm_spi_is_never_reserved() -> None:
    """RFC 4303 keeps 0..255; for 256 s after the wrap of 2036 the period's start would be one."""
    config = stream_config(protocol=Protocol.IPSEC, profiles=("drm",))
    spis = [traffic_id(config, Period(0, t, t + 8), None) for t in range(WRAP - 300, WRAP + 300)]
    assert len(set(spis)) == 600 and min(int.from_bytes(spi, "big") for spi in spis) >= LOWEST_SPI
    assert traffic_id(replace(config, protocol=Protocol.SRTP), Period(0, WRAP, WRAP + 8), None) == bytes(4)


def test_r42_one_stkm_for_each_profile_and_period() -> None:
    """Two different STKMs of one period: half of the terminals would have refused the other half's."""
    with pytest.raises(PeerFlowError, match="R14"):
        content = stkm.partial(DUAL, "drm", period(2), traffic_key(DUAL))
        stkm.seal(content, DUAL, period(1), {"SEAK": seak_material(), "SEK": sek_material()}, Policy())
