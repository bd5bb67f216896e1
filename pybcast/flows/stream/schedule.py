# SPDX-License-Identifier: Apache-2.0
"""Crypto periods: which key is used when.

A schedule is a list of segments; within a segment periods of one length follow each other from its start, the last one cut
where the next segment begins.  An event boundary, the validity edge of a key (R9) or a new period length is a new segment.  So
the period at any time is a pure function of the segments, and two headends with the same segments agree on every period without
talking.

Times are whole 64-bit NTP seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pybcast.errors import ConfigError

MIN_PERIOD, MAX_PERIOD = 1, 3600  # seconds; 4 x 3600 <= 2^14, so R42's lifetime always fits traffic_key_lifetime
REPETITIONS_AHEAD = 3  # R6, R40: how often an STKM must have been sent before its key is used


@dataclass(frozen=True)
class Period:
    """One crypto period, [start, end) in NTP seconds; ``index`` counts periods of the stream."""

    index: int
    start: int
    end: int

    @property
    def duration(self) -> int:
        return self.end - self.start


def lead(start: int, before: int) -> float:
    """When the STKMs of a period go on air: half of the period ``before`` it, which is so many seconds long, ahead (R6)."""
    return start - before / 2


@dataclass(frozen=True)
class Segment:
    """From ``start`` on, periods of ``length`` seconds, the first with number ``index``."""

    start: int
    length: int
    index: int


def check_period(length: int, repetition: float) -> None:
    """``ConfigError`` unless ``length`` is 1-3600 s and half of it holds three repetitions (R6)."""
    if not MIN_PERIOD <= length <= MAX_PERIOD:
        raise ConfigError(f"crypto period: expected {MIN_PERIOD}..{MAX_PERIOD} s, found {length}", key="period")
    if length / 2 < REPETITIONS_AHEAD * repetition:
        text = f"crypto period: half of {length} s is shorter than three repetitions of {repetition} s (R6)"
        raise ConfigError(text, key="period")


def traffic_key_lifetime(length: int) -> int:
    """Exponent n of the smallest 2^n seconds that is at least four periods (R42)."""
    return max(0, (4 * length - 1).bit_length())


class Schedule:
    """The crypto periods of one stream.  Changes never touch what begins before ``fixed_until`` (R5)."""

    def __init__(self, start: int, length: int, segments: Iterable[Segment] = ()) -> None:
        self._segments = sorted(segments, key=lambda s: s.start) or [Segment(int(start), length, 0)]

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(self._segments)

    def at(self, time: float) -> Period | None:
        """The period that contains ``time``; ``None`` before the first."""
        i = bisect_right(self._segments, time, key=lambda s: s.start) - 1
        if i < 0:
            return None
        segment = self._segments[i]
        n = int((time - segment.start) // segment.length)
        start = segment.start + n * segment.length
        end = start + segment.length
        if i + 1 < len(self._segments):
            end = min(end, self._segments[i + 1].start)
        return Period(segment.index + n, start, end)

    def length_at(self, time: float) -> int:
        """The length that periods have from ``time`` on."""
        if time >= self._segments[-1].start:
            return self._segments[-1].length
        return self._segments[max(0, bisect_right(self._segments, time, key=lambda s: s.start) - 1)].length

    def after(self, period: Period) -> Period:
        """The period that follows."""
        following = self.at(period.end)
        assert following is not None
        return following

    def walk(self, start: float) -> Iterator[Period]:
        """Periods without end, from the one that contains ``start`` (or the first of all)."""
        period = self.at(max(start, self._segments[0].start))
        assert period is not None
        yield period
        at, index = period.end, period.index + 1
        i = bisect_right(self._segments, at, key=lambda s: s.start) - 1
        while True:
            segment = self._segments[i]
            following = self._segments[i + 1].start if i + 1 < len(self._segments) else None
            if at == segment.start:
                index = segment.index
            while following is None or at < following:
                end = at + segment.length
                if following is not None:
                    end = min(end, following)
                yield Period(index, at, end)
                at, index = end, index + 1
            i += 1

    def cut(self, at: int, fixed_until: int, length: int | None = None) -> int:
        """Make a period begin at ``at``, optionally with a new ``length`` from there on.

        Returns the time from which the change holds: ``at``, or ``fixed_until`` when ``at`` lies inside what is already
        prepared (R5).
        """
        there = self.at(at)
        if length is None and at < fixed_until and there is not None and there.start == at:
            return at  # said again
        at = max(at, fixed_until, self._segments[0].start)
        current = self.at(at)
        assert current is not None
        i = bisect_right(self._segments, at, key=lambda s: s.start) - 1
        segment = self._segments[i]
        if segment.start == at and length is None:
            return at
        # Where a period begins anyway it is noted all the same: an earlier cut may move the periods there later on.
        index = current.index if current.start == at else current.index + 1
        fresh = Segment(at, length or segment.length, index)
        head = self._segments[:i] if segment.start == at else self._segments[: i + 1]
        tail = [s if length is None else Segment(s.start, length, s.index) for s in self._segments[i + 1 :]]
        self._segments = [*head, fresh]
        self._append(tail)
        return at

    def join(self, at: int, fixed_until: int) -> None:
        """Take back a boundary that changed no length, unless it lies in what is already prepared (R5)."""
        for i, segment in enumerate(self._segments[1:], 1):
            before = self._segments[i - 1]
            if segment.start == at >= fixed_until and segment.length == before.length:
                tail = self._segments[i + 1 :]
                self._segments = self._segments[:i]
                self._append(tail)
                return

    def _append(self, tail: Iterable[Segment]) -> None:
        """What comes later follows with numbers that fit."""
        for later in tail:
            last = self._segments[-1]
            count = -(-(later.start - last.start) // last.length)
            self._segments.append(Segment(later.start, later.length, last.index + count))

    def forget(self, before: float) -> None:
        """Drop segments that ended before ``before``."""
        while len(self._segments) > 1 and self._segments[1].start <= before:
            del self._segments[0]
