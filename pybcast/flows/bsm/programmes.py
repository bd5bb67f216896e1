# SPDX-License-Identifier: Apache-2.0
"""The programmes of one stream: what can be bought by itself, from when to when it can be protected, and its key (R5, R9, R33)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pybcast.errors import LocalFlowError
from pybcast.flows.bsm.attempts import CONFIRMED_WITHIN, Attempts
from pybcast.flows.bsm.keychain import KeyChain, LongTermKey, Means
from pybcast.flows.journal import Table


@dataclass(frozen=True)
class Programme:
    """A programme that can be bought by itself: [start, end) in NTP seconds."""

    service: str
    stream: int
    content: str
    start: int
    end: int


PROGRAMMES: Final = Table("programme", Programme, "service stream content")


class Programmes:
    """The programmes of one stream."""

    def __init__(self, means: Means, keys: KeyChain, attempts: Attempts) -> None:
        self._keys, self._attempts = keys, attempts
        self._rows = means.journal.open(PROGRAMMES)

    def all(self) -> list[Programme]:
        return list(self._rows.under(self._keys.id).values())

    def age(self, now: float) -> None:
        """Programmes that are over are forgotten."""
        for row_key, programme in self._rows.under(self._keys.id).items():
            if programme.end <= now:
                self._rows.drop(row_key)

    def _get(self, content: str) -> Programme | None:
        return self._rows.get((*self._keys.id, content))

    def add(self, programme: Programme, now: float) -> Programme:
        """A programme from the first boundary on that nobody has prepared past (R5), where a TEK ID can begin (R8), and its key.

        That of a pair whose BSD/As seal (F4) comes when both have confirmed, and until then the programme does not begin (R50).
        """
        held = self._get(programme.content) or self._fit(programme, now)  # said again it stays as it was scheduled
        if not self._in_two_steps:
            self.begin(now)
        return held

    @property
    def _in_two_steps(self) -> bool:
        return self._keys.config.drm and self._keys.config.pair and self._keys.config.generation == "bsda"

    def begin(self, now: float) -> None:
        """Give the programmes that have none their keys, those of a pair in two steps (R50), one after the other."""
        programmes = self.all() if self._keys.config.drm else []
        begun = {row.programme for row in self._keys.all("PEAK")} if programmes else set()
        for programme in sorted((p for p in programmes if p.content not in begun), key=lambda p: p.start):
            if not self._in_two_steps:
                self._keys.create_peak(programme.content, programme.start, programme.end, now)
            elif self._attempts.asked() is None and self._attempts.may_begin(now):
                try:
                    held = self._fit(programme, now)
                except LocalFlowError as error:
                    self._rows.drop((*self._keys.id, programme.content))
                    self._keys.alarm("boundary-deferred", str(error))
                else:
                    self._attempts.begin(held.start, now + CONFIRMED_WITHIN, now, held.content, held.end)

    def removable(self, content: str, now: float) -> bool:
        """Whether there is this programme; ``LocalFlowError`` when there is, and it cannot be taken back any more."""
        held, asked = self._get(content), self._attempts.asked()
        if held is None:
            return False
        if held.start < self._keys.unprepared(now):
            raise LocalFlowError(f"programme {content}: its periods may be prepared already (R5): it stays until it is over")
        if any(row.sealer == "bsda" for row in self._keys_of(content)) or (asked and asked.content == content):
            raise LocalFlowError(f"programme {content}: the BSD/A seals under its key (F4): no message takes a key back")
        return True

    def remove(self, content: str) -> list[LongTermKey]:
        """Forget a programme and its keys; gives those."""
        self._rows.drop((*self._keys.id, content))
        keys = self._keys_of(content)
        for row in keys:
            self._keys.forget(row)
        return keys

    def _keys_of(self, content: str) -> list[LongTermKey]:
        return [row for row in self._keys.all("PEAK") if row.programme == content]

    def _fit(self, programme: Programme, now: float) -> Programme:
        """Keep a programme with the start that it can have."""
        grid = self._keys.config.grid
        known = now + (CONFIRMED_WITHIN if self._in_two_steps else 0)
        start, end = grid(max(programme.start, self._keys.unprepared(known))), grid(programme.end)
        if start >= end:
            raise LocalFlowError(f"programme {programme.content}: over before it can be protected (R5)")
        for other in self.all():
            if other.content != programme.content and other.start < end and start < other.end:
                raise LocalFlowError(f"programme {programme.content} overlaps {other.content} (R33)")
        if (start, end) != (programme.start, programme.end):
            self._keys.alarm("boundary-deferred", f"{programme.content}: {start} to {end} (R5, R8)")
        held = replace(programme, start=start, end=end)
        self._rows.put((*self._keys.id, programme.content), held)
        return held
