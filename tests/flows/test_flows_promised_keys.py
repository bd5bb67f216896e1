# SPDX-License-Identifier: Apache-2.0
"""F4, pulled: a key that does not exist yet (status 19) is asked for again, since where keys are pulled nobody delivers them."""

from __future__ import annotations

import random

from pybcast.flows import BackendMessage, Headend, Output, Send, Status, StreamConfig, Tag, random_teks
from pybcast.messages import Protocol

START = 3_913_056_000


def _requests(outputs: list[Output]) -> list[BackendMessage]:
    return [o.message for o in outputs if isinstance(o, Send) and o.message.tag is Tag.KeyRequest]


def test_a_promised_key_is_asked_for_again() -> None:
    config = StreamConfig(
        service="urn:s", stream=1, profiles=("smartcard",), generation="bsda", bsm="urn:bsm", bsdas=("urn:bsda",),
        protocol=Protocol.SRTP, period=10, start=START, key_period=40, rollover_lead=4, carousel_cycle=1.0, delivery="pull",
        key_domain_id=b"\x12\xf4\x10", key_group=1,
    )  # fmt: skip
    source = random.Random(1).randbytes
    bsda = Headend(me="urn:bsda", streams=[config], teks=random_teks(source), randomness=source)
    (asked,) = _requests(bsda.tick(START))
    assert _requests(bsda.receive(asked.answer(Status.DELAYED, now=START), START, "urn:bsm")) == []
    assert _requests(bsda.tick(START + 1)) == []
    for at in (START + 2.0, START + 4.0):
        assert [m.message_id for m in _requests(bsda.tick(at))] == [asked.message_id]
        bsda.receive(asked.answer(Status.DELAYED, now=at), at, "urn:bsm")
