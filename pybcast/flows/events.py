# SPDX-License-Identifier: Apache-2.0
"""What a flow asks of the world around it: the outputs of ``BSM``, ``BSDA`` and ``Terminal``.

An input method returns a list of these.  The contract: carry them out in order, and let a ``Persist`` be durable before any
later output leaves the process ("stored before it is used": R1, R2, R41).  After a crash the machine is made again from what
was persisted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pybcast.errors import BcastError
from pybcast.flows.spcp import BackendMessage, Profile
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
class Announce:
    """Begin to repeat these STKMs, beside those of the period before; report with ``BSDA.announced`` when the first has left
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
    """A flow F1-F6 has run to its end once more (for views and reports)."""

    flow: str
    profile: Profile | None
    service: str


@dataclass(frozen=True)
class TekReady:
    """A terminal obtained a traffic key; it may use it until ``until`` (R42)."""

    service: str
    stream: int
    mki: bytes
    tek: Secret
    salt: bytes | None
    auth_key: Secret | None
    until: float


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
    Persist | Send | Announce | OffAir | UseKey | StopTraffic | CarouselPut | CarouselDrop | Alarm | FlowDone
    | TekReady | TekExpired | Answer | Refused
)  # fmt: skip


class Journal:
    """A machine's memory: tables that survive a crash, and the outputs of the input being handled.

    ``state`` is what was persisted before: {table: {key: value}}.
    """

    def __init__(self, state: dict[str, dict[tuple[object, ...], object]] | None = None) -> None:
        self.tables: dict[str, dict[tuple[object, ...], object]] = {t: dict(rows) for t, rows in (state or {}).items()}
        self.outputs: list[Output] = []

    def put(self, table: str, key: tuple[object, ...], value: object) -> None:
        self.tables.setdefault(table, {})[key] = value
        self.outputs.append(Persist(table, key, value))

    def drop(self, table: str, key: tuple[object, ...]) -> None:
        if self.tables.get(table, {}).pop(key, None) is not None:
            self.outputs.append(Persist(table, key, None))

    def emit(self, output: Output) -> None:
        self.outputs.append(output)

    def take(self) -> list[Output]:
        outputs, self.outputs = self.outputs, []
        return outputs
