# SPDX-License-Identifier: Apache-2.0
"""The BSD/A's carousel where two BSMs deliver to it: an object belongs to the BSM that sent it, whatever its name is."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from room_support import BSDA_URI, BSM_URI, START, request, stream_config

from pybcast.flows import CarouselPut, Headend, Output, Send, Status, Tag, random_teks
from pybcast.flows.events import CarouselDrop
from pybcast.flows.journal import State

OTHER = "urn:example:bsm:other"
HERS = stream_config()
HIS = replace(HERS, stream=2, bsm=OTHER, key_group=8)
NAME = "ab" * 16
T = TypeVar("T")


def bsda(state: State | None = None) -> Headend:
    rng = random.Random(1)
    return Headend(me=BSDA_URI, streams=[HERS, HIS], teks=random_teks(rng.randbytes), randomness=rng.randbytes, state=state)


def of(kind: type[T], outputs: Iterable[Output]) -> list[T]:
    return [o for o in outputs if isinstance(o, kind)]


def deliver(
    machine: Headend, source: str, *data: bytes, name: str = NAME, replaces: str | None = None, end: int | None = None
) -> list[Output]:
    message = request(
        Tag.LTKMDelivery, source=source, message_id=name, items=data, replaces=replaces, end=end, stream=None, profile=None
    )
    outputs = machine.receive(message, START, source)
    assert [sent.message.status for sent in of(Send, outputs) if sent.message.message_id == name] == [Status.SUCCESS]
    return outputs


def test_objects_of_two_bsms_with_one_name() -> None:
    machine = bsda()
    (hers,), (his,) = (of(CarouselPut, deliver(machine, source, data)) for source, data in ((BSM_URI, b"hers"), (OTHER, b"his")))
    assert hers.object_id != his.object_id
    assert {put.data for put in of(CarouselPut, bsda(machine._journal.tables).tick(START))} == {(b"hers",), (b"his",)}


def test_a_bsm_does_not_take_what_another_sent_off_the_carousel() -> None:
    machine = bsda()
    (hers,) = of(CarouselPut, deliver(machine, BSM_URI, b"hers"))
    assert not of(CarouselDrop, deliver(machine, OTHER, b"his", name="01" * 16, replaces=NAME))
    outputs = deliver(machine, BSM_URI, b"anew", name="02" * 16, replaces=NAME)
    assert of(CarouselDrop, outputs) == [CarouselDrop(hers.object_id)]


def test_the_end_of_an_object_is_its_own() -> None:
    machine = bsda()
    (hers,) = of(CarouselPut, deliver(machine, BSM_URI, b"hers", end=START + 5))
    deliver(machine, OTHER, b"his", end=START + 9)
    assert of(CarouselDrop, machine.tick(START + 6)) == [CarouselDrop(hers.object_id)]
