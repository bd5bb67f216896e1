# SPDX-License-Identifier: Apache-2.0
"""What keeps a server of ten thousand streams from looking at all of them: the agenda, and tables indexed by the head of a key."""

from __future__ import annotations

import random
from typing import Any

from flow_support import NOON, stream
from hypothesis import given
from hypothesis import strategies as st

from pybcast.flows import BSM, Headend, Send, random_teks
from pybcast.flows.agenda import Agenda
from pybcast.flows.bsda.stream import BsdaStream
from pybcast.flows.bsm.stream import BsmStream
from pybcast.flows.journal import Journal, Table
from pybcast.testing.sim import BSM_ID, MAIN

NAMES = st.sampled_from("abc")
TIMES = st.one_of(st.none(), st.integers(0, 5))


@given(st.lists(st.one_of(st.tuples(NAMES, TIMES), st.integers(0, 6))))
def test_an_agenda_is_a_time_for_each_name(work: list[tuple[str, int | None] | int]) -> None:
    agenda: Agenda[str] = Agenda()
    model: dict[str, int] = {}
    for item in work:
        if isinstance(item, tuple):
            name, time = item
            agenda.set(name, time)
            model.pop(name, None)
            model |= {} if time is None else {name: time}
        else:
            due = list(agenda.due(item))
            assert sorted(due) == sorted(name for name, time in model.items() if time <= item)
            assert [model[name] for name in due] == sorted(model[name] for name in due), "earliest first"
            model = {name: time for name, time in model.items() if time > item}
        assert agenda.next() == min(model.values(), default=None)


def test_equal_times_come_in_the_order_in_which_they_were_set() -> None:
    agenda: Agenda[str] = Agenda()
    for name in "cab":
        agenda.set(name, 7)
    assert list(agenda.due(7)) == ["c", "a", "b"]


KEYS = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


@given(st.dictionaries(KEYS, st.integers()), st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers()))))
def test_rows_under_a_prefix_are_the_table_filtered(
    before: dict[tuple[object, ...], int], work: list[tuple[tuple[object, ...], int | None]]
) -> None:
    rows = Journal({"t": dict(before)}).open(Table("t", int, "a b c"))
    for key, value in work:
        for width in range(4):
            wanted = {k: v for k, v in rows.all().items() if k[:width] == key[:width]}
            assert rows.under(key[:width]) == wanted
        if value is None:
            rows.drop(key)
        else:
            rows.put(key, value)
    assert rows.under(()) == rows.all()


def test_an_input_works_on_its_own_stream_only() -> None:
    """With 200 streams: no message and no report makes a server look at another stream."""
    rng = random.Random(1)
    streams = [stream(f"service-{n}", "bsm" if n % 2 else "bsda", key_group=n + 1) for n in range(200)]
    bsm = BSM(me=BSM_ID, fqdn="bsm.example.com", streams=streams, randomness=rng.randbytes, rights_issuer_id=bytes(20))
    bsda = Headend(me=MAIN, streams=streams, teks=random_teks(rng.randbytes), randomness=rng.randbytes)
    worked: list[tuple[str, int]] = []

    def note(of: BsmStream | BsdaStream) -> None:
        inner = of.work

        def noted(*now: Any) -> Any:
            worked.append(of.config.id)
            return inner(*now)

        of.work = noted  # type: ignore[method-assign,assignment]  # to see when it is called

    for mine in bsm._streams.values():
        note(mine)
    for yours in bsda._streams.values():
        note(yours)
    outputs = bsm.tick(NOON) + bsda.tick(NOON)
    assert len(set(worked)) == 200, "at the start it looks at all of them"
    messages = [output.message for output in outputs if isinstance(output, Send)]
    handled = 0
    while messages:
        message = messages.pop()
        worked.clear()
        machine, peer = (bsm, MAIN) if message.destination == BSM_ID else (bsda, BSM_ID)
        outputs = machine.receive(message, NOON, peer)
        assert {key[0] for key in worked} <= {message.service}
        messages += [output.message for output in outputs if isinstance(output, Send)]
        handled += 1
    assert handled > 1000
    for record in bsda.records(*streams[0].id):
        worked.clear()
        bsda.announced(*streams[0].id, record.period.start, NOON + 1)
        assert set(worked) <= {streams[0].id}
    worked.clear()
    bsm.tick(NOON + 1)
    assert worked == []
