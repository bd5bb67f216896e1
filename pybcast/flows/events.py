# SPDX-License-Identifier: Apache-2.0
"""What a flow asks of the world around it: the outputs of ``BSM``, ``BSDA``, ``Edge`` and
``Terminal``.

An input method returns a list of these.  The contract: the ``Persist`` outputs, which come first, are one transaction that is
durable before any other output leaves the process ("stored before it is used": R1, R2, R41); the others are carried out in order.
After a crash the machine is made again from what was persisted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from pybcast.errors import BcastError, StoreError
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


RowKey = tuple[object, ...]
State = dict[str, dict[RowKey, object]]
"""What a machine remembers: {table: {key: row}}."""

_Row = TypeVar("_Row")


class Journal:
    """A machine's memory: tables that survive a crash, and the outputs of the input being handled.

    What is kept comes first among them, each row once, as it is at the end of the input: no row is written twice for one input.

    ``state`` is what was persisted before.  ``get`` and ``rows`` give rows of one type; another type under that name is
    ``StoreError``: a store that holds something else is not ours.
    """

    def __init__(self, state: State | None = None) -> None:
        self.tables: State = {t: dict(rows) for t, rows in (state or {}).items()}
        self._rows: dict[tuple[str, RowKey], Persist] = {}
        self._others: list[Output] = []
        self.inputs = 0  # whose outputs have been taken
        self._indexes: dict[str, dict[int, dict[RowKey, dict[RowKey, object]]]] = {}

    def get(self, table: str, key: RowKey, kind: type[_Row]) -> _Row | None:
        row = self.tables.get(table, {}).get(key)
        return None if row is None else _typed(table, row, kind)

    def rows(self, table: str, kind: type[_Row]) -> dict[RowKey, _Row]:
        """A copy of a table: it may be changed while this is walked through."""
        return {key: _typed(table, row, kind) for key, row in self.tables.get(table, {}).items()}

    def select(self, table: str, prefix: RowKey, kind: type[_Row]) -> dict[RowKey, _Row]:
        """A copy of the rows whose key begins with ``prefix``.  Costs what it returns, however large the table is."""
        width, indexes = len(prefix), self._indexes.setdefault(table, {})
        if width not in indexes:
            indexes[width] = {}
            for key, row in self.tables.get(table, {}).items():
                indexes[width].setdefault(key[:width], {})[key] = row
        return {key: _typed(table, row, kind) for key, row in indexes[width].get(prefix, {}).items()}

    def put(self, table: str, key: RowKey, value: object) -> None:
        self.tables.setdefault(table, {})[key] = value
        for width, index in self._indexes.get(table, {}).items():
            index.setdefault(key[:width], {})[key] = value
        self._rows[table, key] = Persist(table, key, value)

    def drop(self, table: str, key: RowKey) -> None:
        if self.tables.get(table, {}).pop(key, None) is not None:
            for width, index in self._indexes.get(table, {}).items():
                group = index[key[:width]]
                del group[key]
                if not group:
                    del index[key[:width]]
            self._rows.pop((table, key), None)  # a row that is put again after this takes its place behind the others
            self._rows[table, key] = Persist(table, key, None)

    def pass_on(self, table: str, key: RowKey, value: object | None) -> None:
        """Keep, or forget, a row that is not held here: of what there is too much of (``members``)."""
        self._rows[table, key] = Persist(table, key, value)

    def emit(self, output: Output) -> None:
        self._others.append(output)

    def take(self) -> list[Output]:
        """The outputs of this input, in the order in which to carry them out."""
        outputs = [*self._rows.values(), *self._others]
        self._rows, self._others = {}, []
        self.inputs += 1
        return outputs


def _typed(table: str, row: object, kind: type[_Row]) -> _Row:
    if not isinstance(row, kind):
        raise StoreError(f"table {table!r}: expected {kind.__name__}, found {type(row).__name__}")
    return row
