# SPDX-License-Identifier: Apache-2.0
"""Every cell of every state table, written a second time: a change of behaviour shows in both or not at all."""

from __future__ import annotations

import enum
import re
from typing import Any, Final

import pytest

from pybcast.errors import LocalFlowError
from pybcast.flows.tables import FLOWS, MACHINES, TAGS, Side, Status, Tag, mermaid, mermaid_flow, status_words, step

# machine -> events -> state -> next states in the order of the events; "-" = not possible
CELLS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "Exchange": (
        "SEND OK LATER REFUSAL RETRY DELIVERED EXPIRE",
        {
            "NEW": "WAITING - - - - - -",
            "WAITING": "- DONE PROMISED REFUSED WAITING DONE EXPIRED",
            "PROMISED": "- DONE PROMISED REFUSED PROMISED DONE EXPIRED",
            "DONE": "- - - - - - -",
            "REFUSED": "- - - - - - -",
            "EXPIRED": "- - - - - - -",
        },
    ),
    "Crypto period": (
        "TEK_STORED STKM_STORED REPLACED UNSEALED HAND_OUT GIVEN_BACK REFUSED PASS MISS SET_ASIDE RESUME",
        {
            "PLANNED": "KEYED - - - - - - - MISSED - -",
            "KEYED": "- SEALED PLANNED - - - - - MISSED - -",
            "SEALED": "- - PLANNED KEYED HANDED - - - MISSED ASIDE -",
            "HANDED": "- - - - - SEALED MISSED OVER - - -",
            "OVER": "- - - - - - - - - - -",
            "MISSED": "- - - - - - - - - - -",
            "ASIDE": "- - PLANNED - - - - - MISSED - SEALED",
        },
    ),
    "Crypto period at the edge": (
        "LEAD REPEATED SWITCH HOLD SUPERSEDED MISS AUTHORITY_ENDS RECALL",
        {
            "WAITING": "ON_AIR - - - - MISSED - RECALLED",
            "ON_AIR": "- READY - - - MISSED - RECALLED",
            "READY": "- - IN_USE - - MISSED - RECALLED",
            "IN_USE": "- - - HELD PAST - STOPPED RECALLED",
            "HELD": "- - - - PAST - STOPPED RECALLED",
            "PAST": "- - - - - - - -",
            "MISSED": "- - - - - - - -",
            "STOPPED": "- - - - - - - -",
            "RECALLED": "- - - - - - - -",
        },
    ),
    "Long-term key": (
        "ISSUE START CUT_SHORT END",
        {
            "CREATED": "ISSUED - - -",
            "ISSUED": "- ON_AIR ISSUED ENDED",
            "ON_AIR": "- - ON_AIR ENDED",
            "ENDED": "- - - -",
        },
    ),
    "End of a pair's key": (
        "CONFIRMED GIVE_UP HEARD",
        {
            "ASKED": "RELEASED GIVEN_UP -",
            "RELEASED": "- - -",
            "GIVEN_UP": "- - OVER",
            "OVER": "- - -",
        },
    ),
    "Reception": (
        "STKM OPENED NOTHING RETURN EXPIRED TUNE_OUT",
        {
            "DARK": "COLLECTING - - PLAYING - DARK",
            "COLLECTING": "COLLECTING PLAYING DARK - - DARK",
            "PLAYING": "PLAYING PLAYING - - DARK PLAYING",
        },
    ),
    "SEK on a card": (
        "LTKM WITHDRAWAL EVICTED",
        {
            "ABSENT": "INSTALLED ABSENT -",
            "INSTALLED": "INSTALLED WITHDRAWN ABSENT",
            "WITHDRAWN": "INSTALLED WITHDRAWN ABSENT",
        },
    ),
}


def types_of(machine: str) -> tuple[type[enum.StrEnum], type[enum.StrEnum]]:
    """The states and the events of a machine."""
    table = MACHINES[machine]
    event = next(event for row in table.values() for event in row)
    return type(next(iter(table))), type(event)


def cells() -> list[tuple[str, str, str, str]]:
    return [
        (machine, state, event, after)
        for machine, (events, rows) in CELLS.items()
        for state, row in rows.items()
        for event, after in zip(events.split(), row.split(), strict=True)
    ]


def test_every_machine_state_and_event_is_in_the_cells() -> None:
    assert list(CELLS) == list(MACHINES)
    for machine, (events, rows) in CELLS.items():
        state_type, event_type = types_of(machine)
        assert set(events.split()) == {event.name for event in event_type}
        assert set(rows) == {state.name for state in state_type} == {state.name for state in MACHINES[machine]}


@pytest.mark.parametrize(("machine", "state", "event", "after"), cells())
def test_cell(machine: str, state: str, event: str, after: str) -> None:
    states, events = types_of(machine)
    table: Any = MACHINES[machine]
    before = {s: dict(row) for s, row in table.items()}
    if after == "-":
        with pytest.raises(
            LocalFlowError, match=re.escape(f"{states.__name__} {states[state].value!r}: event {events[event].value!r}")
        ):
            step(table, states[state], events[event])
    else:
        assert step(table, states[state], events[event]) is states[after]
    assert {s: dict(row) for s, row in table.items()} == before


def test_every_state_can_be_reached() -> None:
    for machine, table in MACHINES.items():
        first = next(iter(table))
        reached, todo = {first}, [first]
        while todo:
            todo += (new := set(table[todo.pop()].values()) - reached)
            reached |= new
        assert reached == set(table), machine


# backend-interface 4.2: root element, who sends it, what answers it
MESSAGES: Final = {
    1: ("KeyRequest", "BSD/A", 2),
    2: ("KeyRequestResponse", "BSM", None),
    3: ("KeyDelivery", "BSM", 4),
    4: ("KeyDeliveryConfirmation", "BSD/A", None),
    5: ("PartialSTKMRequest", "BSM", 6),
    6: ("PartialSTKMRequestResponse", "BSD/A", None),
    7: ("TEKDelivery", "BSD/A", 8),
    8: ("TEKDeliveryConfirmation", "BSM", None),
    9: ("STKMRequest", "either", 10),
    10: ("STKMRequestResponse", "either", None),
    11: ("STKMDelivery", "either", 12),
    12: ("STKMDeliveryConfirmation", "either", None),
    13: ("LTKMorRegRequest", "BSD/A", 14),
    14: ("LTKMorRegRequestResponse", "BSM", None),
    15: ("LTKMorRegRequest", "BSD/A", 16),
    16: ("LTKMorRegRequestResponse", "BSM", None),
    17: ("LTKMorRegDelivery", "BSM", 18),
    18: ("LTKMorRegDeliveryConfirmation", "BSD/A", None),
    19: ("LTKMorRegDelivery", "BSM", 20),
    20: ("LTKMorRegDeliveryConfirmation", "BSD/A", None),
}


def test_tags() -> None:
    assert {int(tag): (row.root, row.sender.value, row.answer) for tag, row in TAGS.items()} == MESSAGES
    assert set(TAGS) == set(Tag)


def test_an_answer_comes_from_the_other_side() -> None:
    other = {Side.BSM: Side.BSDA, Side.BSDA: Side.BSM, Side.EITHER: Side.EITHER}
    for row in TAGS.values():
        if row.answer is not None:
            assert TAGS[row.answer].sender is other[row.sender]
            assert TAGS[row.answer].answer is None


def test_flows_name_requests_only_and_use_them_all() -> None:
    requests = {tag for tag, row in TAGS.items() if row.answer is not None}
    assert list(FLOWS) == ["F1", "F2", "F3", "F4", "F5", "F6"]
    assert {tag for _, push, pull in FLOWS.values() for tag in (*push, *pull)} == requests


def test_status_numbers() -> None:
    assert {status.name: int(status) for status in Status} == {
        "SUCCESS": 0, "SERVER_ERROR": 7, "MALFORMED": 8, "NOT_PERMITTED": 11, "UNSUPPORTED_VERSION": 12, "SERVICE_UNAVAILABLE": 15,
        "ALREADY_PROCESSED": 16, "NON_EXISTENT": 17, "DELAYED": 19, "GENERATION_FAILURE": 20, "INFORMATION_INVALID": 21,
        "INVALID_REQUEST": 22, "WRONG_DESTINATION": 23, "WRONG_KEY_INFORMATION": 24, "ALREADY_IN_USE": 27,
    }  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_state_diagram_draws_every_cell(machine: str) -> None:
    """One arrow for each listed cell, one into the first state, one out of each final state, one label for each state."""
    lines = mermaid(machine).splitlines()
    assert lines[0] == "stateDiagram-v2"
    names = {m[2]: m[1] for line in lines if (m := re.fullmatch(r'    state "(.+)" as (\w+)', line))}
    table = MACHINES[machine]
    assert list(names.values()) == [state.value for state in table]
    arrows = [m.groups() for line in lines if (m := re.fullmatch(r"    (\w+) --> (\w+): ([^:;]+)", line))]
    drawn = {(names[a], event): names[b] for a, b, event in arrows}
    assert drawn == {(state.value, event.value): after.value for state, row in table.items() for event, after in row.items()}
    assert len(arrows) == len(drawn)
    ends = [names[m[1]] for line in lines if (m := re.fullmatch(r"    (\w+) --> \[\*\]", line))]
    assert ends == [state.value for state, row in table.items() if not row]
    begins = [names[m[1]] for line in lines if (m := re.fullmatch(r"    \[\*\] --> (\w+)", line))]
    assert begins == [next(iter(table)).value]
    assert len(lines) == 1 + len(names) + len(arrows) + len(ends) + len(begins)


@pytest.mark.parametrize(
    ("flow", "arrows"),
    [
        ("F1", ["BSM 19", "BSDA 20", "BSDA 15", "BSM 16"]),
        ("F2", ["BSM 17", "BSDA 18", "BSDA 13", "BSM 14"]),
        ("F3", ["BSDA 7", "BSM 8", "BSM 5", "BSDA 6"]),
        ("F4", ["BSM 3", "BSDA 4", "BSDA 1", "BSM 2"]),
        ("F5", ["BSM 11", "BSDA 12", "BSDA 9", "BSM 10"]),
        ("F6", ["BSDA 11", "BSM 12", "BSM 9", "BSDA 10"]),
    ],
)
def test_sequence_diagram(flow: str, arrows: list[str]) -> None:
    """Push form first, then pull form; each message from the side that sends it."""
    text = mermaid_flow(flow)
    assert text.startswith(f"sequenceDiagram\n    %% {flow}: {FLOWS[flow][0]}\n")
    assert [f"{m[1]} {m[2]}" for m in re.finditer(r"^    (\w+)--?>>\w+: (\d+) ", text, re.MULTILINE)] == arrows
    assert re.findall(r"Note over BSM,BSDA: (\w+)", text) == ["push", "pull"]


def test_a_status_that_nobody_knows_has_its_number() -> None:
    assert status_words(99) == "status 99" and status_words(27) == "what it would replace is in use (status 27)"
