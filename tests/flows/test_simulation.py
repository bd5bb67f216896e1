# SPDX-License-Identifier: Apache-2.0
"""The whole system for a long time under every kind of fault, watched at each step; and each watcher shown to see what it is for.

CI runs a few hundred periods of each mixture of faults, ``PYBCAST_LONG=1`` several thousand with more seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import pytest
from flow_support import WRAP, Chaos, System, pair, stream

from pybcast import codec
from pybcast.flows import (
    AirStkm,
    Announce,
    BackendMessage,
    Edge,
    KeyMaterial,
    LongTermKey,
    PartialItem,
    Programme,
    StreamConfig,
    UseKey,
)
from pybcast.flows.stream.config import StreamId
from pybcast.flows.tables import Tag
from pybcast.keys import TEK
from pybcast.messages import DrmStkm, Protocol, SmartcardLtkm, SmartcardStkm
from pybcast.secret import Secret
from pybcast.testing.sim import BACKUP, BSM_ID, MAIN, Viewer
from pybcast.testing.watch import Watch

LONG: Final = os.environ.get("PYBCAST_LONG") == "1"
SECONDS: Final = 8 * (1500 if LONG else 80)
HEALED: Final = 180
"""Seconds after the last fault in which everything comes right: a key at once, and its LTKMs issued again."""
CALM: Final = 60
LATE: Final = "LTKM on its way, or lost and not issued again yet (R7)"
NOT_HIS: Final = ("not entitled to this period (R3, R9)", "no STKM of this profile (R15)", "not tuned")
"""Why a viewer is owed nothing at a moment, whatever the servers do."""
SEEDS: Final = range(3 if LONG else 1)


def streams(make: Callable[..., StreamConfig], start: float, **changes: object) -> list[StreamConfig]:
    """F3 and F4, both profiles together and each alone, SRTP and IPsec, two streams of one service."""
    return [
        make("news", "bsm", start=start, **changes),
        make("film", "bsda", start=start, interaction=True, **changes),
        make("news", "bsm", start=start, stream=2, key_group=7, profiles=("smartcard",), protocol=Protocol.ISMACRYP, **changes),
        make("device", "bsda", start=start, profiles=("drm",), protocol=Protocol.IPSEC, **changes),
    ]


def varied(seed: int) -> dict[str, object]:
    """What a run of the long form has that the short one has not: how far ahead and in which batches is prepared, short keys."""
    if not seed:
        return {}
    rng = random.Random(seed)
    key_period = rng.choice([240, 320, 640])
    ahead = {"look_ahead": rng.choice([2, 3, 5]), "batch": rng.choice([1, 2, 3])}
    return {"key_period": key_period, "rollover_lead": key_period // 2, **ahead}


@dataclass(frozen=True)
class Mix:
    """A mixture of faults: probabilities of loss and crash, and what happens every ``rate`` seconds on average.

    ``beyond``: words of the violations that nothing can prevent while it happens.
    """

    actions: tuple[str, ...]
    rate: float
    loss: float = 0.1
    crash: float = 0.002
    two: bool = False
    fresh: float = 0.0
    beyond: tuple[str, ...] = ()


AGAIN: Final = ("two STKMs", "an id reused for another TEK")
"""A time that comes twice has other keys, and the ids of a stream of devices alone are times."""
DAILY: Final = ("zap", "grant", "withdraw", "rekey", "programme")
MIXES: Final = {
    "good weather": Mix(("zap",), 20, loss=0.0, crash=0.0),
    "rights and programmes": Mix(DAILY, 15),
    "period changes": Mix((*DAILY, "period"), 20),
    "outages and dead servers": Mix((*DAILY, "outage", "kill"), 20, crash=0.01),
    "dead planners, edges and encoders": Mix((*DAILY, "period", "hold", "kill_planner", "kill_edge", "encoder"), 15),
    "lost and older stores beside living edges": Mix(("zap", "rekey", "lose_planner", "put_back_planner"), 60),
    "two headends": Mix((*DAILY, "outage", "kill", "step", "hold"), 15, two=True),
    "clocks that leap": Mix(("zap", "rekey", "leap"), 60, two=True, beyond=(*AGAIN, "is dark on", "a card keeps two keys")),
    "two headends, dead planners and edges": Mix((*DAILY, "outage", "kill_planner", "kill_edge", "kill"), 15, two=True),
    "two headends that are cut off": Mix((*DAILY, "programme", "programme", "cut_off", "cut_off"), 10, two=True),
    "two headends, lost stores": Mix((*DAILY, "period", "kill", "lose"), 60, two=True),
    "lost stores": Mix(("zap", "rekey", "lose"), 150, fresh=0.1),
    "older copies of the BSM": Mix(("zap", "back_up", "restore", "grant"), 60, crash=0.01),  # few chances: enough for every Python
    "heavy loss": Mix(("zap", "grant"), 60, loss=0.3),
}


@dataclass(frozen=True)
class Ran:
    """A system that has run; ``late``: why viewers were dark in ``CALM`` seconds long after the last fault; ``differ``: what then
    was in use at one headend of a pair alone.
    """

    system: System
    chaos: Chaos
    late: Counter[str]
    differ: list[tuple[StreamId, int]]


def run(mix: Mix, seed: int, seconds: float) -> Ran:
    start = WRAP - 200  # over the wrap of 2036
    configs = streams(pair if mix.two else stream, start, **varied(seed))
    system = System(*configs, seed=seed, start=start, backend_loss=mix.loss, air_loss=mix.loss)
    viewers = [system.add_card(f"card-{n}", stubborn=n == 2) for n in range(3)]
    viewers += [system.add_device(f"device-{n}", 10 + n) for n in range(3)]
    for viewer in viewers:
        for config in configs:
            system.tune(viewer, config)
            if not viewer.name.endswith("2"):
                system.grant(viewer, config, start - 1000, start + 10**7)
    for config in configs:
        system.sample(config, viewers)
    for asker in (system.add_card("asker"), system.add_device("asking", 98)):  # F6: what they get is what is on air (R50)
        for config in configs[:2]:
            system.grant(asker, config, start - 1000, start + 10**7)
            system.fetch(asker, config, every=2)
    strangers = [system.add_card("stranger"), system.add_device("strange", 99)]
    for stranger in strangers:
        for config in configs:
            system.tune(stranger, config)
    system.crash, system.fresh = mix.crash, mix.fresh
    chaos = Chaos(system, viewers, rate=mix.rate, actions=mix.actions)
    system.run(seconds - HEALED - CALM)
    chaos.end()
    system.run(HEALED)
    before, dark, since = Counter(system.watch.excused), system.watch.dark, system.now
    system.run(CALM)
    assert not any(viewer.who.opened for viewer in strangers)
    late = Counter(system.watch.excused) - before + Counter(dark=system.watch.dark - dark)
    return Ran(system, chaos, Counter({why: n for why, n in late.items() if why not in NOT_HIS}), differing(system, since))


def differing(system: System, since: float) -> list[tuple[StreamId, int]]:
    """The starts at which one headend of a pair has changed the key, and the other has not."""
    longest = max(config.period for config in system.streams.values())
    used: dict[str, set[tuple[StreamId, int]]] = {name: set() for name in system.headends}
    for _, name, use in system.used:
        if since + longest < use.start < system.now - longest:
            used[name].add(((use.service, use.stream), use.start))
    assert all(len(starts) > len(system.streams) * CALM / longest / 2 for starts in used.values())
    first, *others = used.values()
    return sorted(first.union(*others) - first.intersection(*others))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", MIXES)
def test_no_invariant_is_ever_broken(name: str, seed: int) -> None:
    mix = MIXES[name]
    ran = run(mix, seed, SECONDS)
    system, chaos = ran.system, ran.chaos
    assert [text for text in system.violations if not any(words in text for words in mix.beyond)] == []
    assert ran.late == {} and ran.differ == []
    watch = system.watch
    assert watch.samples > SECONDS * 4
    assert sum(chaos.done.values()) > (SECONDS - HEALED - CALM) / mix.rate / 3
    assert system.key_changes > 4 * SECONDS / 8 / 3
    assert system.crashes or not mix.crash
    # The excuses stay what they are: exceptions.
    wanted = watch.samples - sum(watch.excused[reason] for reason in NOT_HIS)
    assert wanted > watch.samples / 10
    assert watch.samples - sum(watch.excused.values()) > 0.75 * wanted
    if name == "good weather":
        assert {reason for reason in watch.excused if reason[:4] in ("held", "LTKM")} <= {LATE}


def test_a_run_is_the_same_again() -> None:
    first, again = (run(MIXES["outages and dead servers"], 7, 400) for _ in range(2))
    assert first.system.used == again.system.used
    logs = [[m.digest() for m in ran.system.log if m.tag is not Tag.RegDelivery] for ran in (first, again)]
    assert logs[0] == logs[1]  # but for RSA, whose padding is random


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_what_the_servers_keep_does_not_grow(generation: str) -> None:
    """A year on air: every table of both stores ends as large as it was after the first keys had come and gone (R41)."""
    config = stream(generation=generation, key_period=160, rollover_lead=80, interaction=True)
    system = System(config)
    system.entitled(config)
    sizes = []
    for _ in range(2):
        system.run(1500)
        stores = {"bsm": system.bsm_store, "bsda": system.headends[MAIN].store}
        sizes.append({(name, table): len(rows) for name, store in stores.items() for table, rows in store.state.items()})
    assert sum(sizes[0].values()) > 50
    assert {table: (sizes[0].get(table, 0), n) for table, n in sizes[1].items() if n > sizes[0].get(table, 0) + 3} == {}


# --- each watcher sees what it is for -----------------------------------------------------------------------------------------


class Scene:
    """A system that has run well for a while, and its watchers."""

    def __init__(self, **changes: object) -> None:
        self.config = stream(**changes)  # type: ignore[arg-type]  # fields of the configuration
        self.system = System(self.config)
        self.card, self.device = self.system.entitled(self.config)
        self.system.run(100)
        assert self.system.violations == []

    @property
    def watch(self) -> Watch:
        return self.system.watch

    @property
    def use(self) -> UseKey:
        found = self.system.traffic(self.config)
        assert found is not None
        return found

    def announce(self, start: int) -> Announce:
        return self.system.stkms(self.config)[start]

    def row(self, key_type: str) -> LongTermKey:
        assert self.system.bsm is not None
        return next(r for r in self.system.bsm.keys(*self.config.id) if r.material.key_type == key_type)

    def sees(self, text: str) -> None:
        assert len(self.system.violations) >= 1, "nothing was seen"
        assert text in self.system.violations[0]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_two_plaintexts_under_one_sek_and_counter_are_seen(scene: Scene) -> None:
    data = scene.system.stkm(scene.config, scene.use.start, "smartcard")
    message = codec.decode(data, "smartcard-stkm")
    assert isinstance(message, SmartcardStkm)
    other = codec.encode(replace(message, encr_data=damaged(message.encr_data, 0), tek_id=b"\x7f\x7f"))
    scene.watch.stkm("smartcard", *scene.config.id, scene.use.start, other)
    scene.sees("two plaintexts under one SEK and COUNTER")


def test_two_plaintexts_under_one_smk_and_counter_are_seen(scene: Scene) -> None:
    data = next(d for put in scene.system.active.carousel.values() for d in put.data if d[:1] == b"\x01")
    message = codec.decode(data, "smartcard-ltkm")
    assert isinstance(message, SmartcardLtkm)
    scene.watch.ltkm(codec.encode(replace(message, encr_data=damaged(message.encr_data, 0))))
    scene.sees("two plaintexts under one SMK and COUNTER")


def test_two_bcros_with_one_timestamp_are_seen(scene: Scene) -> None:
    data = next(d for put in scene.system.active.carousel.values() for d in put.data if d[:1] == b"\x20")
    scene.watch.ltkm(damaged(data, len(data) - 1))
    scene.sees("two BCROs with one timestamp")


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_headends_that_differ_are_seen(scene: Scene, profile: str) -> None:
    data = scene.system.stkm(scene.config, scene.use.start, profile)
    scene.watch.stkm(profile, *scene.config.id, scene.use.start, damaged(data, len(data) - 1))  # type: ignore[arg-type]
    scene.sees("two STKMs for one key and period")


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_two_stkms_for_one_period_are_seen_whatever_key_they_are_under(scene: Scene, profile: str) -> None:
    first, other = (scene.announce(start) for start in sorted(scene.system.stkms(scene.config))[-2:])
    assert first.start < other.start
    stkm = next(s for s in other.stkms if s.profile == profile)
    scene.watch.one_stkm(stkm.profile, *scene.config.id, first.start, stkm.data)
    scene.sees("two STKMs for one period (R50)")


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_an_incomplete_stkm_on_air_is_seen(scene: Scene, profile: str) -> None:
    data = scene.system.stkm(scene.config, scene.use.start, profile)
    if profile == "drm":
        message = codec.decode(data, "drm-stkm")
        assert isinstance(message, DrmStkm)
        data = codec.encode(replace(message, service_MAC=bytes(12)))
    else:
        sealed = codec.decode(data, "smartcard-stkm")
        assert isinstance(sealed, SmartcardStkm)
        data = codec.encode(replace(sealed, mac=bytes(20)))
    announce = replace(scene.announce(scene.use.start), stkms=(AirStkm(profile, data),))  # type: ignore[arg-type]
    scene.system._announce(scene.system.active, announce)
    scene.sees("an incomplete STKM left (R13)")


@pytest.mark.parametrize("key_type", ["SEK", "SEAK"])
def test_a_key_id_reused_is_seen(scene: Scene, key_type: str) -> None:
    row = scene.row(key_type)
    scene.watch.key(*scene.config.id, replace(row, material=replace(row.material, key=Secret(bytes(len(row.material.key))))))
    scene.sees("an id reused for another key")


def test_a_key_with_two_sealing_servers_is_seen(scene: Scene) -> None:
    scene.watch.key(*scene.config.id, replace(scene.row("SEK"), sealer="bsda"))
    scene.sees("one key, two sealing servers")


def test_a_traffic_id_reused_is_seen(scene: Scene) -> None:
    scene.system._use(scene.system.active, replace(scene.use, tek=TEK(bytes(16))))
    scene.sees("an id reused for another TEK")


def test_a_key_in_use_before_its_stkm_is_seen(scene: Scene) -> None:
    later = scene.use.start + 16
    machine = scene.system.headends[MAIN].machine
    assert machine is not None
    record = next(r for r in machine.records(*scene.config.id) if r.period.start == later)
    scene.watch.announce(Announce(*scene.config.id, later, record.stkms, 0.5), None, 0.0)
    scene.system._use(scene.system.active, replace(scene.use, start=later, mki=record.traffic_id, tek=record.key.tek))
    scene.sees("in use after 0 repetitions of its STKM (R40)")


def test_an_encoder_that_is_not_told_its_key_again_is_seen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.system.restart_encoder(MAIN)
    assert scene.system.violations == [] and scene.use.start
    monkeypatch.setattr(Edge, "say_again", lambda _: [])
    scene.system.restart_encoder(MAIN)
    scene.sees("started again without the key in use")


def test_an_encoder_that_is_not_told_to_hold_is_seen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for hold in (True, False):
        scene.system.set_hold(scene.config, hold)
        assert scene.system.violations == [] and (scene.use.authority_end is None) is hold
    monkeypatch.setattr(Edge, "plan", lambda *_: [])
    scene.system.set_hold(scene.config, True)
    scene.sees("was not told that")


def test_headends_that_switch_at_different_starts_are_seen() -> None:
    config = pair()
    system = System(config)
    system.entitled(config)
    since = system.now
    system.run(CALM)
    assert differing(system, since) == []
    at, name, use = system.used[-9]
    system.used.append((at, name, replace(use, start=use.start - 3)))
    assert differing(system, since) == [(config.id, use.start - 3)]


def test_a_server_has_its_own_clock(scene: Scene) -> None:
    """What a headend whose clock is fast announces is early for others, and by its clock in time."""
    system = scene.system
    system.step_clock(MAIN, 3)
    system.run(16)
    early = [announce.start - at for at, _, announce in system.announced[-2:]]
    assert early == [pytest.approx(7, abs=0.1)] * 2
    system.step_clock(MAIN, -3)
    system.run(16)
    assert system.announced[-1][2].start - system.announced[-1][0] == pytest.approx(4, abs=0.1)
    assert system.violations == []


def test_two_repetitions_are_not_three(scene: Scene) -> None:
    later = scene.use.start + 16
    machine = scene.system.headends[MAIN].machine
    assert machine is not None
    record = next(r for r in machine.records(*scene.config.id) if r.period.start == later)
    announce = Announce(*scene.config.id, later, record.stkms, 0.5)
    use = replace(scene.use, start=later, mki=record.traffic_id, tek=record.key.tek)
    scene.watch.announce(announce, None, 0.0)
    for _ in range(2):
        scene.watch.aired(announce)
    scene.watch.used(use)
    scene.sees("in use after 2 repetitions of its STKM (R40)")


def test_an_early_announcement_is_seen(scene: Scene) -> None:
    scene.watch.announce(replace(scene.announce(scene.use.start), start=scene.use.start + 24), 8, scene.system.now)
    assert any("more than half a period (R6)" in v for v in scene.system.violations)


def test_a_tek_that_leaves_before_it_is_stored_is_seen(scene: Scene) -> None:
    start = scene.use.start + 80
    item = PartialItem(stream=1, period_start=start, period_end=start + 8, tek_id="x", content=Secret(b"partial"))
    message = _message(scene, Tag.TEKDelivery, (item,))
    scene.system._send(message)
    scene.sees("a TEK left before it was stored (R41)")


def test_a_key_that_leaves_before_it_is_stored_is_seen() -> None:
    scene = Scene(generation="bsda")
    material = replace(scene.row("SEK").material, key_id=b"\1\2\3\4\5\6\7")
    scene.system._send(replace(_message(scene, Tag.KeyDelivery, (material,)), source=BSM_ID, destination=MAIN))
    scene.sees("a key left before it was stored (R41)")


def test_a_message_id_used_twice_is_seen(scene: Scene) -> None:
    sent = scene.system.messages(Tag.TEKDelivery)[0]
    scene.system._send(replace(sent, items=sent.items[:1], stream=2))
    scene.sees("two messages with one messageID (R27)")


def _message(scene: Scene, tag: Tag, items: tuple[PartialItem | KeyMaterial, ...]) -> BackendMessage:
    return BackendMessage(
        tag=tag, message_id="e" * 32, source=MAIN, destination=BSM_ID, service=scene.config.service, profile="smartcard",
        stream=1, items=items,
    )  # fmt: skip


def test_a_sek_too_many_is_seen(scene: Scene) -> None:
    """R10: the third SEK's LTKM while the first is on air would push the first off the card."""
    data = next(d for put in scene.system.active.carousel.values() for d in put.data if d[:1] == b"\x01")
    message = codec.decode(data, "smartcard-ltkm")
    assert isinstance(message, SmartcardLtkm)
    scene.watch.smks.clear()  # made up here, so none opens
    for n in (1, 2):
        sek_id = message.sek_id[:3] + bytes([message.sek_id[3] + n])
        scene.watch.carousel(codec.encode(replace(message, sek_id=sek_id, counter=1000 + n)))
        assert bool(scene.system.violations) is (n == 2)
    scene.sees("a card keeps two keys (R10)")


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_a_terminal_without_a_right_that_opens_is_seen(scene: Scene, profile: str) -> None:
    viewer = scene.card if profile == "smartcard" else scene.device
    viewer.who.grants.clear()
    scene.system.run(9)
    scene.sees(f"{viewer.name} opened period {scene.use.start} of {scene.config.service} without a right")


def test_a_card_that_opens_outside_its_window_is_seen(scene: Scene) -> None:
    grant = scene.card.who.grants[0]
    grant.right = replace(grant.right, end=scene.use.start + 8)
    scene.system.run(9)
    scene.sees("card opened period")


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_a_withdrawn_terminal_that_opens_under_a_newer_key_is_seen(scene: Scene, profile: str) -> None:
    """R10: under the keys it had it may; under one made after its withdrawal never."""
    viewer: Viewer = scene.card if profile == "smartcard" else scene.device
    scene.watch.withdraw(viewer.who.grants[0], scene.system.now)
    scene.system.run(16)
    assert scene.system.violations == []
    scene.system.command(lambda bsm: bsm.rekey(*scene.config.id, scene.system.now))
    scene.system.run(80)
    scene.sees(f"{viewer.name} opened period")


def test_a_device_that_opens_under_a_programmes_key_it_did_not_buy_is_seen(scene: Scene) -> None:

    viewer = scene.system.add_device("buyer", 9)
    scene.system.tune(viewer, scene.config)
    start = int(scene.system.now) + 80
    held = scene.system.add_programme(Programme(*scene.config.id, "urn:event", start, start + 80))
    scene.system.grant(viewer, scene.config, held.start, held.end, held.content)
    viewer.who.grants[0].right = replace(viewer.who.grants[0].right, content="urn:another")
    scene.system.run(120)
    scene.sees("buyer opened period")


def test_a_key_that_nobody_sent_is_seen(scene: Scene) -> None:
    scene.watch.opened(scene.card.who, *scene.config.id, b"\1\2\3\4\5\6", scene.system.now + 32)
    scene.sees("card obtained a key that nobody sent")


@pytest.mark.parametrize("profile", ["drm", "smartcard"])
def test_an_entitled_terminal_that_is_dark_is_seen(scene: Scene, profile: str) -> None:
    viewer = scene.card if profile == "smartcard" else scene.device
    scene.system.sample(scene.config, [viewer])
    viewer.link.up = False
    scene.system.run(20)
    assert scene.watch.dark > 5
    scene.sees(f"{viewer.name} is dark on {scene.config.service}")


@pytest.mark.parametrize(
    ("change", "excuse"),
    [
        (lambda s: s.system.withdraw(s.card, s.config), "not entitled to this period (R3, R9)"),
        (lambda s: s.system.tune_out(s.card, s.config), "not tuned"),
        (lambda s: setattr(s.card.who.grants[0], "at", s.system.now), LATE),
        (lambda s: s.card.who.tuned.update({s.config.id: s.system.now + 8}), "tuning in (R6)"),
    ],
)
def test_an_excuse_lasts_as_long_as_its_rule(change: Callable[[Scene], None], excuse: str) -> None:
    """Each excuse, and none other, for a terminal that hears nothing any more."""
    scene = Scene()
    change(scene)
    scene.card.link.up = False
    scene.card.teks.clear()
    scene.watch.sample(scene.card.who, scene.use, False, held=False)
    assert dict(scene.watch.excused) == {excuse: 1}
    assert scene.watch.dark == 0


def test_a_key_held_longer_than_its_lifetime_is_excused_and_a_shorter_hold_is_not() -> None:
    scene = Scene()
    scene.system.sample(scene.config, [scene.card])
    scene.system.unreachable = {BSM_ID}
    scene.system.run(60)
    assert scene.watch.dark == 0
    assert scene.system.plays(scene.card, scene.config), "held, and still alive"
    scene.system.run(30)
    assert scene.watch.excused["held longer than traffic_key_lifetime (R42)"] > 5
    assert scene.system.violations == []


def test_what_is_on_air_follows_the_headend_that_lives() -> None:
    system = System(pair())
    system.entitled(*system.streams.values())
    system.run(50)
    assert system.active.name == MAIN
    system.stop_bsda(MAIN)
    assert system.active.name == BACKUP
    system.run(30)
    system.start_bsda(MAIN)
    assert system.active.name == BACKUP, "going back is no gain"
