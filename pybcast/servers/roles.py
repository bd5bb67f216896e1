# SPDX-License-Identifier: Apache-2.0
"""What a runner works with: a machine, a clock, a store, and who is told what happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import Protocol

from pybcast.flows.events import Alarm, FlowDone, Output, Persist
from pybcast.flows.journal import State
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.restart import Recoveries
from pybcast.wire.times import NTP_UNIX


class Machine(Protocol):
    """What ``BSM`` and ``BSDA`` have in common."""

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]: ...
    def tick(self, now: float) -> list[Output]: ...
    def clock_forward(self, seconds: float, now: float) -> list[Output]: ...
    def next_wakeup(self) -> float | None: ...
    @property
    def recoveries(self) -> Recoveries: ...


class Clock(Protocol):
    """``now``: 64-bit NTP seconds, may step.  ``monotonic``: seconds, never does."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time() + NTP_UNIX

    def monotonic(self) -> float:
        return time.monotonic()


class Storing(Protocol):
    """What of a ``store.Store`` is used here."""

    def load(self) -> State: ...
    def write_async(self, batch: Sequence[Persist]) -> Awaitable[None]: ...


class Watcher(Protocol):
    """Is told what happens, for metrics and logs.  Called in the event loop; must not raise."""

    def alarm(self, alarm: Alarm) -> None: ...
    def flow(self, done: FlowDone) -> None: ...
    def input(self, seconds: float, waiting: int) -> None: ...
    def clock_step(self, seconds: float) -> None: ...
    def full(self, why: str) -> None: ...
    def answered(self, message: BackendMessage, seconds: float) -> None: ...
    def unanswered(self, message: BackendMessage, error: str) -> None: ...
