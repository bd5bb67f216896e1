# SPDX-License-Identifier: Apache-2.0
"""No key in anything that a log could hold: the text of every output, row and error of a whole simulated system."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
from room_support import BSDA_URI, START, stream_config

from pybcast.flows import Headend, Output, PartialItem, Persist, Refused, Send, Tag, UseKey, random_teks
from pybcast.flows.bsda.periods import PeriodBlock
from pybcast.secret import Secret
from pybcast.testing import link
from pybcast.testing.link import Store
from pybcast.testing.sim import BSM_ID, MAIN, World


def secrets_in(value: object) -> Iterator[bytes]:
    """Every secret in an output, at any depth."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, tuple | list | frozenset):
        for item in value:
            yield from secrets_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from secrets_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from secrets_in(getattr(value, f.name))


def bytes_in(value: object) -> Iterator[bytes]:
    """Everything that lies open in a row, at any depth."""
    if isinstance(value, bytes | bytearray):
        yield bytes(value)
    elif isinstance(value, str):
        yield value.encode()
    elif isinstance(value, tuple | list | frozenset | set):
        for item in value:
            yield from bytes_in(item)
    elif isinstance(value, dict):
        for pair in value.items():
            yield from bytes_in(pair)
    elif is_dataclass(value) and not isinstance(value, type | Secret):
        for f in fields(value):
            yield from bytes_in(getattr(value, f.name))


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_no_text_of_a_running_system_shows_a_key(generation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F1 to F6, both profiles: SMK, SEK, SEAK, TEK, group and device keys, partial STKMs."""
    texts: list[str] = []
    keys: set[bytes] = set()

    def note(outputs: list[Output]) -> None:
        for output in outputs:
            texts.extend((repr(output), str(output)))
            if isinstance(output, Refused):
                texts.append(str(output.error.as_dict()))
            keys.update(secret for secret in secrets_in(output) if any(secret))

    def carry_out(outputs: list[Output], store: Store, rng: random.Random, crash: float = 0.0) -> tuple[list[Output], bool]:
        note(outputs)
        return link.carry_out(outputs, store, rng, crash)

    monkeypatch.setattr("pybcast.testing.sim.carry_out", carry_out)
    config = stream_config(
        profiles=("drm", "smartcard"), generation=generation, bsm=BSM_ID, bsdas=(MAIN,), start=START - 80, key_period=160,
        rollover_lead=80, interaction=True,
    )  # fmt: skip
    world = World([config], seed=1, start=START)
    viewers = [world.add_card("card"), world.add_device("device", 5)]
    for viewer in viewers:
        taken = viewer.terminal._take

        def take(taken: object = taken) -> list[Output]:
            outputs: list[Output] = taken()  # type: ignore[operator]  # the terminal's own
            note(outputs)
            return outputs

        monkeypatch.setattr(viewer.terminal, "_take", take)
        world.grant(viewer, config, START - 100, START + 10_000)
        world.tune(viewer, config)
    world.clock.run(START + 200)
    assert all(viewer.teks for viewer in viewers) and len(keys) > 40
    assert {"Persist", "Send", "UseKey", "TekReady"} <= {text.split("(")[0] for text in texts}
    everything = "\n".join(texts)
    for key in keys:
        for half in (key[:16], key[-16:]):
            shapes = (half.hex(), repr(half)[2:-1], base64.b64encode(half[:15]).decode(), str(list(half))[1:-1])
            assert not any(shape in everything for shape in shapes), "a key is in a text"


@pytest.mark.parametrize("generation", ["bsm", "bsda"])
def test_r41_no_row_of_a_store_holds_a_key_in_clear(generation: str) -> None:
    """A backup tape of either server: keys are in ``Secret``, which a store wraps; bodies that carried one are not there."""
    config = stream_config(
        profiles=("drm", "smartcard"), generation=generation, bsm=BSM_ID, bsdas=(MAIN,), start=START - 80, key_period=160,
        rollover_lead=80, interaction=True,
    )  # fmt: skip
    world = World([config], seed=1, start=START)
    for viewer in (world.add_card("card"), world.add_device("device", 5)):
        world.grant(viewer, config, START - 100, START + 10_000)
        world.tune(viewer, config)
    keys: set[bytes] = set()
    rows = 0
    for _ in range(60):
        world.clock.run(world.clock.now + 4)
        for store in (world.bsm_store, world.headends[MAIN].store):
            for table in store.state.values():
                clear = b"\n".join(part for key, value in table.items() for part in bytes_in((key, value)))
                keys.update(secret for secret in secrets_in(list(table.values())) if any(secret))
                rows += len(table)
                for secret in keys:
                    assert secret[:16] not in clear and secret[-16:] not in clear
    assert len(keys) > 40 and rows > 1000
    periods = world.headends[MAIN].store.state["period"]
    assert len(periods) < 10, "what has ended is pruned"


def test_r41_the_tek_is_stored_before_its_partial_stkm_leaves() -> None:
    """A crash between the two: the BSM would seal, and the encoder never use, a key that nobody has any more."""
    config = stream_config(generation="bsm", profiles=("drm", "smartcard"))
    rng = random.Random(1)
    machine = Headend(me=BSDA_URI, streams=[config], teks=random_teks(rng.randbytes), randomness=rng.randbytes)
    stored: set[int] = set()
    sent = 0
    for output in machine.tick(START):
        if isinstance(output, Persist) and isinstance(output.value, PeriodBlock):
            stored |= {record.period.start for record in output.value.records}
        if isinstance(output, Send) and output.message.tag is Tag.TEKDelivery:
            sent += len(output.message.items)
            assert {item.period_start for item in output.message.items if isinstance(item, PartialItem)} <= stored
    assert sent == 2 * (config.look_ahead + 1)


def test_outputs_with_keys_compare_and_print() -> None:
    """What a test or a debugger sees of a key is its size."""
    use = UseKey("urn:a:b", 1, START, stream_config().protocol, b"mki", Secret(b"k" * 16), b"s" * 14, Secret(b"a" * 20), None)
    assert "<Secret 16 bytes>" in repr(use) and "<Secret 20 bytes>" in repr(use) and "kkk" not in repr(use)
    assert Persist("t", ("k",), use) == Persist("t", ("k",), use)
