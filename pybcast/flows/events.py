# SPDX-License-Identifier: Apache-2.0
"""What a flow asks of the world around it: the outputs of ``BSM``, ``BSDA``, ``Edge`` and ``Terminal``.

An input method returns a list of these.  The contract: the ``Persist`` outputs, which come first, are one transaction that is
durable before any other output leaves the process ("stored before it is used": R1, R2, R41); the others are carried out in order.
After a crash the machine is made again from what was persisted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pybcast.errors import BcastError
from pybcast.flows.peers.messages import BackendMessage, Profile
from pybcast.messages import Kind, Protocol
from pybcast.secret import Secret


@dataclass(frozen=True)
class Persist:
    """Keep ``value`` under (``table``, ``key``), or forget it when ``None``.  Secrets inside are to be wrapped at rest (R41)."""

    table: str
    key: tuple[object, ...]
    value: object | None


@dataclass(frozen=True)
class Send:
    """Give ``message`` to the peer named by its destination."""

    message: BackendMessage


@dataclass(frozen=True)
class AirStkm:
    """An STKM that may go on air: only made from one that was sealed here, or received and checked (R13)."""

    profile: Profile
    data: bytes


@dataclass(frozen=True)
class PlannedPeriod:
    """One crypto period as the edge executes it (R45).

    ``lead``: NTP seconds at which its STKMs go on air (R6).  ``traffic_id``, ``tek``, ``salt``, ``auth_key``, ``authority_end``: as
    in ``UseKey``.
    """

    start: int
    end: int
    lead: float
    stkms: tuple[AirStkm, ...]
    traffic_id: bytes
    tek: Secret
    salt: bytes | None = None
    auth_key: Secret | None = None
    authority_end: int | None = None


@dataclass(frozen=True)
class Plan:
    """Execute these periods of a stream, oldest first, beside those that were planned before (R45).

    A period that is planned already may come again, with another end or end of authority (R46).  ``hold_through``: the last key
    stays in use past its end of authority (R9).  ``reserve``: so many periods are to be left; fewer are an alarm (R49).
    """

    service: str
    stream: int
    protocol: Protocol
    repetition: float
    periods: tuple[PlannedPeriod, ...]
    hold_through: bool = False
    reserve: int = 0


@dataclass(frozen=True)
class Recall:
    """Give back the periods of a stream from ``at`` on whose lead has not begun (R46); answered by ``Recalled``.

    ``off_air``: what is on air leaves it too, and the encoder keeps the key that it has (R50).
    """

    service: str
    stream: int
    at: int
    off_air: bool = False


@dataclass(frozen=True)
class Recalled:
    """The edge's answer: the starts that it gave back, and (start, end) of those from ``at`` on that stay and are used (R46)."""

    service: str
    stream: int
    at: int
    given: tuple[int, ...]
    stay: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class PlanRefused:
    """The edge took nothing of a plan: the starts of its periods, and why (R45).  ``unknown``: the stream is none of its own."""

    service: str
    stream: int
    starts: tuple[int, ...]
    why: str
    unknown: bool = False


@dataclass(frozen=True)
class PlanBegun:
    """The edge's one report for a plan: the first key of it that is used is that of the period at ``start``."""

    service: str
    stream: int
    start: int


@dataclass(frozen=True)
class Announce:
    """Begin to repeat these STKMs, beside those of the period before; report with ``Edge.announced`` when the first has left
    (R6, R40).
    """

    service: str
    stream: int
    start: int
    stkms: tuple[AirStkm, ...]
    repetition: float


@dataclass(frozen=True)
class OffAir:
    """Stop repeating the STKMs of the period that starts at ``start``."""

    service: str
    stream: int
    start: int


@dataclass(frozen=True)
class UseKey:
    """Protect traffic with this key from now on (an encoder's input).

    ``mki``: MKI, SPI or key indicator in bytes.  ``salt`` 14 bytes (SRTP).  ``auth_key`` 20 bytes (IPsec with authentication).
    ``authority_end``: stop there unless a newer key came (R9), 64-bit NTP seconds; ``None`` = no end known.
    """

    service: str
    stream: int
    start: int
    protocol: Protocol
    mki: bytes
    tek: Secret
    salt: bytes | None
    auth_key: Secret | None
    authority_end: int | None


@dataclass(frozen=True)
class NextKey:
    """The key that traffic takes at ``use.start`` and has until ``end``: its STKM has been on air three times (R47).

    An encoder may switch at that time by itself.  ``UseKey`` comes at the start all the same.
    """

    use: UseKey
    end: int

    @property
    def service(self) -> str:
        return self.use.service

    @property
    def stream(self) -> int:
        return self.use.stream


@dataclass(frozen=True)
class StopTraffic:
    """Nothing of this stream may leave any more until the next ``UseKey`` (R9)."""

    service: str
    stream: int


@dataclass(frozen=True)
class CarouselPut:
    """Broadcast these LTKMs or registration objects in this order, cycle after cycle, until dropped (R7)."""

    object_id: str
    service: str
    data: tuple[bytes, ...]


@dataclass(frozen=True)
class CarouselDrop:
    object_id: str


@dataclass(frozen=True)
class Alarm:
    """Something an operator must see.  ``code`` is stable; ``active`` False takes the alarm back."""

    code: str
    service: str
    stream: int | None = None
    text: str = ""
    active: bool = True


@dataclass(frozen=True)
class FlowDone:
    """A flow F1-F6 has run to its end once more (for views and reports).

    ``earliest``: at a BSD/A that has got (F3, F5) or made (F4) STKMs, the start of the first of their periods.
    """

    flow: str
    profile: Profile | None
    service: str
    earliest: int | None = None


@dataclass(frozen=True)
class TekReady:
    """A terminal obtained a traffic key; it may use it until ``until`` (R42), 64-bit NTP seconds.  The rest as ``UseKey``."""

    service: str
    stream: int
    mki: bytes
    tek: Secret
    salt: bytes | None
    auth_key: Secret | None
    until: float
    protocol: Protocol


@dataclass(frozen=True)
class TekExpired:
    service: str
    stream: int
    mki: bytes


@dataclass(frozen=True)
class Answer:
    """A verification or reporting message from the card, for the BSM (over the interaction channel)."""

    data: bytes


@dataclass(frozen=True)
class Refused:
    """A message that changed nothing, and why."""

    kind: Kind
    error: BcastError = field(compare=False)


Output = (
    Persist | Send | Plan | Recall | Recalled | PlanRefused | PlanBegun | Announce | OffAir | NextKey | UseKey | StopTraffic
    | CarouselPut | CarouselDrop | Alarm | FlowDone | TekReady | TekExpired | Answer | Refused
)  # fmt: skip
