# SPDX-License-Identifier: Apache-2.0
"""The state machines of the flows, as literal tables.

Rules for reading and changing this file:

* A table maps state -> {event: next state}.  What is not listed is an error (``LocalFlowError``) and changes nothing.
* A state with no row entries is final.
* The code never sets a state by hand: it fires events (:func:`step`).  So every reachable behaviour is a path in these tables, the
  diagrams in the README are drawn from them, and the tests walk every cell.
* Which back-end message may come from whom, and what answers it, is ``TAGS``; which messages make up F1-F6 is ``FLOWS``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pybcast.errors import LocalFlowError


class Exchange(enum.StrEnum):
    """One back-end request on the side that asked."""

    NEW = "new"
    WAITING = "waiting"
    PROMISED = "promised"
    DONE = "done"
    REFUSED = "refused"
    EXPIRED = "expired"


class ExchangeEvent(enum.StrEnum):
    SEND = "send"
    OK = "status 0"
    LATER = "status 19"
    REFUSAL = "other status"
    RETRY = "retry time"
    DELIVERED = "delivered"
    EXPIRE = "no longer needed"


EXCHANGE: Final[Mapping[Exchange, Mapping[ExchangeEvent, Exchange]]] = {
    Exchange.NEW: {ExchangeEvent.SEND: Exchange.WAITING},
    Exchange.WAITING: {
        ExchangeEvent.OK: Exchange.DONE,
        ExchangeEvent.LATER: Exchange.PROMISED,
        ExchangeEvent.REFUSAL: Exchange.REFUSED,
        ExchangeEvent.DELIVERED: Exchange.DONE,  # the delivery overtook the answer that promises it
        ExchangeEvent.RETRY: Exchange.WAITING,
        ExchangeEvent.EXPIRE: Exchange.EXPIRED,
    },
    Exchange.PROMISED: {
        ExchangeEvent.DELIVERED: Exchange.DONE,
        ExchangeEvent.OK: Exchange.DONE,
        ExchangeEvent.LATER: Exchange.PROMISED,
        ExchangeEvent.REFUSAL: Exchange.REFUSED,
        ExchangeEvent.RETRY: Exchange.PROMISED,
        ExchangeEvent.EXPIRE: Exchange.EXPIRED,
    },
    Exchange.DONE: {},
    Exchange.REFUSED: {},
    Exchange.EXPIRED: {},
}


class PeriodState(enum.StrEnum):
    """One crypto period of one stream at the BSD/A, from its birth until the edge has it (R44)."""

    PLANNED = "planned"
    KEYED = "keyed"
    SEALED = "sealed"
    HANDED = "handed out"
    OVER = "over"
    MISSED = "missed"
    ASIDE = "kept aside"


class PeriodEvent(enum.StrEnum):
    TEK_STORED = "TEK stored"
    STKM_STORED = "STKM stored"
    REPLACED = "replaced (R10)"
    UNSEALED = "another STKM for it (R10)"
    HAND_OUT = "handed to the edge (R45)"
    GIVEN_BACK = "the edge has it no more (R46)"
    REFUSED = "refused by the edge (R45)"
    PASS = "its time is over"
    MISS = "end passed unused"
    SET_ASIDE = "its key is to end before it (R50)"
    RESUME = "its key goes on (R50)"


PERIOD: Final[Mapping[PeriodState, Mapping[PeriodEvent, PeriodState]]] = {
    PeriodState.PLANNED: {PeriodEvent.TEK_STORED: PeriodState.KEYED, PeriodEvent.MISS: PeriodState.MISSED},
    PeriodState.KEYED: {
        PeriodEvent.STKM_STORED: PeriodState.SEALED,
        PeriodEvent.REPLACED: PeriodState.PLANNED,
        PeriodEvent.MISS: PeriodState.MISSED,
    },
    PeriodState.SEALED: {
        PeriodEvent.REPLACED: PeriodState.PLANNED,
        PeriodEvent.UNSEALED: PeriodState.KEYED,
        PeriodEvent.HAND_OUT: PeriodState.HANDED,
        PeriodEvent.MISS: PeriodState.MISSED,
        PeriodEvent.SET_ASIDE: PeriodState.ASIDE,
    },
    PeriodState.HANDED: {
        PeriodEvent.GIVEN_BACK: PeriodState.SEALED,
        PeriodEvent.REFUSED: PeriodState.MISSED,
        PeriodEvent.PASS: PeriodState.OVER,
    },
    PeriodState.OVER: {},
    PeriodState.MISSED: {},
    PeriodState.ASIDE: {
        PeriodEvent.RESUME: PeriodState.SEALED,
        PeriodEvent.REPLACED: PeriodState.PLANNED,
        PeriodEvent.MISS: PeriodState.MISSED,
    },
}


class EdgeState(enum.StrEnum):
    """One crypto period of one stream at the edge."""

    WAITING = "waiting"
    ON_AIR = "on air"
    READY = "ready"
    IN_USE = "in use"
    HELD = "held"
    PAST = "past"
    MISSED = "missed"
    STOPPED = "stopped"
    RECALLED = "recalled"


class EdgeEvent(enum.StrEnum):
    LEAD = "lead begins (R6)"
    REPEATED = "3 repetitions sent (R40)"
    SWITCH = "its start"
    HOLD = "end, no successor ready"
    SUPERSEDED = "successor in use"
    MISS = "end passed unused"
    AUTHORITY_ENDS = "authority ends (R9)"
    RECALL = "given back (R46)"


EDGE: Final[Mapping[EdgeState, Mapping[EdgeEvent, EdgeState]]] = {
    EdgeState.WAITING: {
        EdgeEvent.LEAD: EdgeState.ON_AIR,
        EdgeEvent.MISS: EdgeState.MISSED,
        EdgeEvent.RECALL: EdgeState.RECALLED,
    },
    EdgeState.ON_AIR: {
        EdgeEvent.REPEATED: EdgeState.READY,
        EdgeEvent.MISS: EdgeState.MISSED,
        EdgeEvent.RECALL: EdgeState.RECALLED,  # the clock was set back: its lead has not begun any more
    },
    EdgeState.READY: {
        EdgeEvent.SWITCH: EdgeState.IN_USE,
        EdgeEvent.MISS: EdgeState.MISSED,
        EdgeEvent.RECALL: EdgeState.RECALLED,
    },
    EdgeState.IN_USE: {
        EdgeEvent.HOLD: EdgeState.HELD,
        EdgeEvent.SUPERSEDED: EdgeState.PAST,
        EdgeEvent.AUTHORITY_ENDS: EdgeState.STOPPED,
        EdgeEvent.RECALL: EdgeState.RECALLED,  # the headend is off air (R50)
    },
    EdgeState.HELD: {
        EdgeEvent.SUPERSEDED: EdgeState.PAST,
        EdgeEvent.AUTHORITY_ENDS: EdgeState.STOPPED,
        EdgeEvent.RECALL: EdgeState.RECALLED,  # the headend is off air (R50)
    },
    EdgeState.PAST: {},
    EdgeState.MISSED: {},
    EdgeState.STOPPED: {},
    EdgeState.RECALLED: {},
}


class KeyState(enum.StrEnum):
    """One long-term key version (SEK, PEK, SEAK, PEAK) at the BSM."""

    CREATED = "created"
    ISSUED = "issued"
    ON_AIR = "on air"
    ENDED = "ended"


class KeyEvent(enum.StrEnum):
    ISSUE = "LTKMs out"
    START = "valid from"
    CUT_SHORT = "successor at once (R10)"
    END = "valid to"


KEY: Final[Mapping[KeyState, Mapping[KeyEvent, KeyState]]] = {
    KeyState.CREATED: {KeyEvent.ISSUE: KeyState.ISSUED},
    KeyState.ISSUED: {
        KeyEvent.START: KeyState.ON_AIR,
        KeyEvent.CUT_SHORT: KeyState.ISSUED,
        KeyEvent.END: KeyState.ENDED,
    },
    KeyState.ON_AIR: {KeyEvent.CUT_SHORT: KeyState.ON_AIR, KeyEvent.END: KeyState.ENDED},
    KeyState.ENDED: {},
}


class AttemptState(enum.StrEnum):
    """One attempt to end a pair's key early, at the BSM (R50)."""

    ASKED = "asked"
    RELEASED = "released"
    GIVEN_UP = "given up"
    OVER = "over"


class AttemptEvent(enum.StrEnum):
    CONFIRMED = "all BSD/As confirmed"
    GIVE_UP = "one refused, or did not answer in time"
    HEARD = "all BSD/As know that it was given up"


ATTEMPT: Final[Mapping[AttemptState, Mapping[AttemptEvent, AttemptState]]] = {
    AttemptState.ASKED: {AttemptEvent.CONFIRMED: AttemptState.RELEASED, AttemptEvent.GIVE_UP: AttemptState.GIVEN_UP},
    AttemptState.GIVEN_UP: {AttemptEvent.HEARD: AttemptState.OVER},
    AttemptState.RELEASED: {},
    AttemptState.OVER: {},
}


class Reception(enum.StrEnum):
    """One STKM stream at a terminal."""

    DARK = "dark"
    COLLECTING = "collecting"
    PLAYING = "playing"


class ReceptionEvent(enum.StrEnum):
    STKM = "STKM heard"
    OPENED = "TEK obtained"
    NOTHING = "1 s collected, none opens"
    RETURN = "tuned in, a TEK still lives (R42)"
    EXPIRED = "last TEK expired (R42)"
    TUNE_OUT = "tuned out"


RECEPTION: Final[Mapping[Reception, Mapping[ReceptionEvent, Reception]]] = {
    Reception.DARK: {
        ReceptionEvent.STKM: Reception.COLLECTING,
        ReceptionEvent.RETURN: Reception.PLAYING,
        ReceptionEvent.TUNE_OUT: Reception.DARK,
    },
    Reception.COLLECTING: {
        ReceptionEvent.STKM: Reception.COLLECTING,
        ReceptionEvent.OPENED: Reception.PLAYING,
        ReceptionEvent.NOTHING: Reception.DARK,
        ReceptionEvent.TUNE_OUT: Reception.DARK,
    },
    Reception.PLAYING: {
        ReceptionEvent.STKM: Reception.PLAYING,
        ReceptionEvent.OPENED: Reception.PLAYING,
        ReceptionEvent.EXPIRED: Reception.DARK,
        ReceptionEvent.TUNE_OUT: Reception.PLAYING,  # opened TEKs are kept over channel changes (R42)
    },
}


class SekState(enum.StrEnum):
    """One SEK or PEK on a card (R3)."""

    ABSENT = "absent"
    INSTALLED = "installed"
    WITHDRAWN = "withdrawn"


class SekEvent(enum.StrEnum):
    LTKM = "LTKM with a window"
    WITHDRAWAL = "withdrawal LTKM"
    EVICTED = "two newer keys in the group"


SEK: Final[Mapping[SekState, Mapping[SekEvent, SekState]]] = {
    SekState.ABSENT: {SekEvent.LTKM: SekState.INSTALLED, SekEvent.WITHDRAWAL: SekState.ABSENT},
    SekState.INSTALLED: {
        SekEvent.LTKM: SekState.INSTALLED,
        SekEvent.WITHDRAWAL: SekState.WITHDRAWN,
        SekEvent.EVICTED: SekState.ABSENT,
    },
    SekState.WITHDRAWN: {
        SekEvent.LTKM: SekState.INSTALLED,
        SekEvent.WITHDRAWAL: SekState.WITHDRAWN,
        SekEvent.EVICTED: SekState.ABSENT,
    },
}

MACHINES: Final[Mapping[str, Mapping[Any, Mapping[Any, Any]]]] = {
    "Exchange": EXCHANGE,
    "Crypto period": PERIOD,
    "Crypto period at the edge": EDGE,
    "Long-term key": KEY,
    "End of a pair's key": ATTEMPT,
    "Reception": RECEPTION,
    "SEK on a card": SEK,
}
"""All tables by the name the README gives them."""

S = TypeVar("S", bound=enum.StrEnum)
E = TypeVar("E", bound=enum.StrEnum)


def step(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """The next state; ``LocalFlowError`` when the table does not list the event."""
    try:
        return table[state][event]
    except KeyError:
        raise LocalFlowError(f"{type(state).__name__} {state.value!r}: event {event.value!r} is not possible") from None


class Side(enum.StrEnum):
    BSM = "BSM"
    BSDA = "BSD/A"
    EITHER = "either"


class Tag(enum.IntEnum):
    """Back-end message tags (backend-interface 4.2).  The numbers are not public - confidence: own."""

    KeyRequest = 1
    KeyRequestResponse = 2
    KeyDelivery = 3
    KeyDeliveryConfirmation = 4
    PartialSTKMRequest = 5
    PartialSTKMRequestResponse = 6
    TEKDelivery = 7
    TEKDeliveryConfirmation = 8
    STKMRequest = 9
    STKMRequestResponse = 10
    STKMDelivery = 11
    STKMDeliveryConfirmation = 12
    LTKMRequest = 13
    LTKMRequestResponse = 14
    RegRequest = 15
    RegRequestResponse = 16
    LTKMDelivery = 17
    LTKMDeliveryConfirmation = 18
    RegDelivery = 19
    RegDeliveryConfirmation = 20


class TagRow(NamedTuple):
    root: str
    """Root element on the interface."""
    sender: Side
    answer: Tag | None
    """The tag that answers; ``None`` when this is an answer."""


TAGS: Final[Mapping[Tag, TagRow]] = {
    Tag.KeyRequest: TagRow("KeyRequest", Side.BSDA, Tag.KeyRequestResponse),
    Tag.KeyRequestResponse: TagRow("KeyRequestResponse", Side.BSM, None),
    Tag.KeyDelivery: TagRow("KeyDelivery", Side.BSM, Tag.KeyDeliveryConfirmation),
    Tag.KeyDeliveryConfirmation: TagRow("KeyDeliveryConfirmation", Side.BSDA, None),
    Tag.PartialSTKMRequest: TagRow("PartialSTKMRequest", Side.BSM, Tag.PartialSTKMRequestResponse),
    Tag.PartialSTKMRequestResponse: TagRow("PartialSTKMRequestResponse", Side.BSDA, None),
    Tag.TEKDelivery: TagRow("TEKDelivery", Side.BSDA, Tag.TEKDeliveryConfirmation),
    Tag.TEKDeliveryConfirmation: TagRow("TEKDeliveryConfirmation", Side.BSM, None),
    Tag.STKMRequest: TagRow("STKMRequest", Side.EITHER, Tag.STKMRequestResponse),
    Tag.STKMRequestResponse: TagRow("STKMRequestResponse", Side.EITHER, None),
    Tag.STKMDelivery: TagRow("STKMDelivery", Side.EITHER, Tag.STKMDeliveryConfirmation),
    Tag.STKMDeliveryConfirmation: TagRow("STKMDeliveryConfirmation", Side.EITHER, None),
    Tag.LTKMRequest: TagRow("LTKMorRegRequest", Side.BSDA, Tag.LTKMRequestResponse),
    Tag.LTKMRequestResponse: TagRow("LTKMorRegRequestResponse", Side.BSM, None),
    Tag.RegRequest: TagRow("LTKMorRegRequest", Side.BSDA, Tag.RegRequestResponse),
    Tag.RegRequestResponse: TagRow("LTKMorRegRequestResponse", Side.BSM, None),
    Tag.LTKMDelivery: TagRow("LTKMorRegDelivery", Side.BSM, Tag.LTKMDeliveryConfirmation),
    Tag.LTKMDeliveryConfirmation: TagRow("LTKMorRegDeliveryConfirmation", Side.BSDA, None),
    Tag.RegDelivery: TagRow("LTKMorRegDelivery", Side.BSM, Tag.RegDeliveryConfirmation),
    Tag.RegDeliveryConfirmation: TagRow("LTKMorRegDeliveryConfirmation", Side.BSDA, None),
}

FLOWS: Final[Mapping[str, tuple[str, tuple[Tag, ...], tuple[Tag, ...]]]] = {
    "F1": ("registration key material", (Tag.RegDelivery,), (Tag.RegRequest,)),
    "F2": ("LTKM delivery", (Tag.LTKMDelivery,), (Tag.LTKMRequest,)),
    "F3": ("STKM generation by the BSM", (Tag.TEKDelivery,), (Tag.PartialSTKMRequest,)),
    "F4": ("STKM generation by the BSD/A", (Tag.KeyDelivery,), (Tag.KeyRequest,)),
    "F5": ("STKM delivery BSM to BSD/A", (Tag.STKMDelivery,), (Tag.STKMRequest,)),
    "F6": ("STKM delivery BSD/A to BSM", (Tag.STKMDelivery,), (Tag.STKMRequest,)),
}
"""Flow -> (title, requests of the push form, requests of the pull form)."""


class Status(enum.IntEnum):
    """Global status codes (backend-interface 4.3) - confidence: likely (numbers from recollection), their use here: own."""

    SUCCESS = 0
    SERVER_ERROR = 7
    MALFORMED = 8
    NOT_PERMITTED = 11
    UNSUPPORTED_VERSION = 12
    SERVICE_UNAVAILABLE = 15
    ALREADY_PROCESSED = 16
    NON_EXISTENT = 17
    DELAYED = 19
    GENERATION_FAILURE = 20
    INFORMATION_INVALID = 21
    INVALID_REQUEST = 22
    WRONG_DESTINATION = 23
    WRONG_KEY_INFORMATION = 24
    ALREADY_IN_USE = 27


STATUS_WORDS: Final[Mapping[Status, str]] = {
    Status.SUCCESS: "success",
    Status.SERVER_ERROR: "the server cannot do it now",
    Status.MALFORMED: "the message breaks the layout",
    Status.NOT_PERMITTED: "the sender has no right to this service",
    Status.UNSUPPORTED_VERSION: "the version of the interface is not supported",
    Status.SERVICE_UNAVAILABLE: "the service is not available",
    Status.ALREADY_PROCESSED: "another message came with this messageID",
    Status.NON_EXISTENT: "there is none",
    Status.DELAYED: "it comes later",
    Status.GENERATION_FAILURE: "no STKM can be made for it",
    Status.INFORMATION_INVALID: "what the message says cannot hold: its times or its content",
    Status.INVALID_REQUEST: "the service, stream or period is not known there",
    Status.WRONG_DESTINATION: "the message is for another server",
    Status.WRONG_KEY_INFORMATION: "it does not belong to the key of its period",
    Status.ALREADY_IN_USE: "what it would replace is in use",
}
_OF_MESSAGE: Final[Mapping[tuple[str, Status], str]] = {
    ("KeyDelivery", Status.ALREADY_IN_USE): "another key has this id, or an STKM of its time is on air",
    ("KeyDelivery", Status.INFORMATION_INVALID): (
        "the key has expired, its time is prepared already or another key's, or the attempt is over"
    ),
    ("STKMDelivery", Status.ALREADY_IN_USE): "an STKM of its period is on air, or there is another one",
    ("TEKDelivery", Status.ALREADY_IN_USE): "its period is sealed already, or over",
    ("PartialSTKMRequest", Status.ALREADY_IN_USE): "an STKM of that time is on air",
}
"""Where one message means something narrower."""


def status_words(status: int, message: str = "") -> str:
    """What a status says, in words, with its number.  ``message``: the name of the tag that it answers."""
    try:
        known = Status(status)
    except ValueError:
        return f"status {status}"
    return f"{_OF_MESSAGE.get((message, known), STATUS_WORDS[known])} (status {status})"


def mermaid(name: str) -> str:
    """The table as a Mermaid state diagram (for the README)."""
    table = MACHINES[name]
    ids = {state: state.name.replace("_", "") for state in table}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{state.value}" as {ids[state]}' for state in table]
    lines.append(f"    [*] --> {ids[next(iter(table))]}")
    lines += [f"    {ids[state]} --> {ids[after]}: {event.value}" for state, row in table.items() for event, after in row.items()]
    lines += [f"    {ids[state]} --> [*]" for state, row in table.items() if not row]
    return "\n".join(lines)


def mermaid_flow(name: str) -> str:
    """One of F1-F6 as a Mermaid sequence diagram, push form and pull form."""
    title, push, pull = FLOWS[name]
    to_bsm = name == "F6"
    lines = ["sequenceDiagram", f"    %% {name}: {title}", "    participant BSM", "    participant BSDA as BSD/A"]
    for label, tags in (("push", push), ("pull", pull)):
        for tag in tags:
            row = TAGS[tag]
            sender = row.sender
            if sender is Side.EITHER:
                sender = Side.BSDA if to_bsm == (label == "push") else Side.BSM
            a, b = ("BSM", "BSDA") if sender is Side.BSM else ("BSDA", "BSM")
            assert row.answer is not None
            lines.append(f"    Note over BSM,BSDA: {label}")
            lines.append(f"    {a}->>{b}: {int(tag)} {row.root}")
            lines.append(f"    {b}-->>{a}: {int(row.answer)} {TAGS[row.answer].root}")
    return "\n".join(lines)
