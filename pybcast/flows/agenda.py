# SPDX-License-Identifier: Apache-2.0
"""What is due when: names with one time each.

A server of ten thousand streams asks it which of them to work on, instead of looking at all of them.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

TURN: Final = 200
"""Streams worked on for one input, so that none takes long; the others are due at once again - confidence: own."""

Name = TypeVar("Name", bound=Hashable)


class Agenda(Generic[Name]):
    """Each name has at most one time.  ``set`` and ``due`` cost the logarithm of the number of names."""

    def __init__(self) -> None:
        self._times: dict[Name, float] = {}
        self._heap: list[tuple[float, int, Name]] = []  # entries whose time is no longer the name's are skipped
        self._count = itertools.count()  # equal times come in the order in which they were set

    def set(self, name: Name, time: float | None) -> None:
        """``name`` is due at ``time``, and no longer at what was said before; ``None`` = never."""
        if time is None:
            self._times.pop(name, None)
        elif self._times.get(name) != time:
            self._times[name] = time
            heapq.heappush(self._heap, (time, next(self._count), name))

    def sooner(self, name: Name, time: float) -> None:
        """``name`` is due at ``time``, or before where that was said."""
        said = self._times.get(name)
        if said is None or time < said:
            self.set(name, time)

    def due(self, now: float) -> Iterator[Name]:
        """Take off and give every name whose time has come, earliest first."""
        while (first := self.next()) is not None and first <= now:
            _, _, name = heapq.heappop(self._heap)
            del self._times[name]
            yield name

    def next(self) -> float | None:
        """The earliest time."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
