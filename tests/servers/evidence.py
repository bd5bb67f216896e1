# SPDX-License-Identifier: Apache-2.0
"""What must hold on air and in the databases whatever happens to the servers, and what is collected to see it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

from servers_support import Process, System

from pybcast import codec
from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.flows.events import CarouselPut
from pybcast.flows.stream.allocator import SealedBlock
from pybcast.messages import SmartcardLtkm, SmartcardStkm
from pybcast.wire.times import NTP_UNIX

Announced = tuple[str, int, str]
"""Service, start of the period, profile."""
SETTLED: Final = 6.0
"""Seconds after which two servers that both run have exchanged what they owe each other: a request that failed is repeated after
2 s (``flows.peer.RETRY``), and so is one for what was promised."""
SEEN: Final = 1.0
"""Seconds in which a BSD/A that runs puts on air what is prepared."""


def digest(data: bytes) -> str:
    """As the BSD/A writes it down."""
    return hashlib.sha256(data).hexdigest()[:32]


class Evidence:
    """``sealed``: (key id, start of the period = COUNTER, R5) -> STKM.  ``letters``: (IDr, COUNTER) -> LTKM.  ``air``: digests."""

    def __init__(self) -> None:
        self.sealed: dict[tuple[bytes, int], bytes] = {}
        self.letters: dict[tuple[bytes, int], bytes] = {}
        self.counters: dict[tuple[object, ...], int] = {}
        self.air: dict[Announced, str] = {}
        self.groups: dict[bytes, str] = {}
        self._done: Counter[int] = Counter()

    # --- databases --------------------------------------------------------------------------------------------------------

    def database(self, system: System, name: str) -> None:
        """It opens; no COUNTER of a key has got another message (R1), no counter has gone back (R2), no LTKM is there twice."""
        rows = system.rows(name)
        for (key_id, _), block in rows.get("allocated", {}).items():
            assert isinstance(block, SealedBlock) and isinstance(key_id, bytes)
            for start, row in block.items:
                if row.data:
                    known = self.sealed.setdefault((key_id, start), row.data)
                    assert known == row.data, f"COUNTER used twice: {key_id.hex()} {start}"
        for key, counter in rows.get("smk-counter", {}).items():
            assert isinstance(counter, int) and counter >= self.counters.get(key, 0)
            self.counters[key] = counter
        for (service, *_), key_row in rows.get("key", {}).items():
            if isinstance(key_row, LongTermKey) and key_row.material.key_type == "SEK":
                self.groups[key_row.material.key_id[:5]] = str(service)
        # One LTKM of a key for a subscriber.  A second one, with a COUNTER of its own, is left where the BSM never learnt that the
        # first had arrived, and issued another: it does not know what to replace.
        turning = Counter((letter.idr, letter.key_domain_id + letter.sek_id) for letter in self._letters(rows))
        assert max(turning.values(), default=0) <= 2, "more than two LTKMs of one key for one subscriber"

    def _letters(self, rows: dict[str, dict[tuple[object, ...], object]]) -> Iterable[SmartcardLtkm]:
        for put in rows.get("carousel", {}).values():
            assert isinstance(put, CarouselPut)
            for data in put.data:
                if data[:1] != b"\x01":
                    continue  # not MIKEY (R22): of the DRM Profile, or registration
                letter = codec.decode(data, "smartcard-ltkm")
                assert isinstance(letter, SmartcardLtkm)
                known = self.letters.setdefault((letter.idr, letter.counter), data)
                assert known == data, f"COUNTER {letter.counter} used twice for {letter.idr!r}"
                yield letter

    def letters_of(self, system: System, name: str) -> set[tuple[bytes, bytes]]:
        """(IDr, key id) of every LTKM that turns on a BSD/A's carousel."""
        return {(letter.idr, letter.key_domain_id + letter.sek_id) for letter in self._letters(system.rows(name))}

    # --- on air -----------------------------------------------------------------------------------------------------------

    def on_air(self, processes: Iterable[Process]) -> None:
        """One period, one STKM for each profile, whoever announces it however often: and it is the one that was sealed."""
        for process in processes:
            events = process.events
            for event in events[self._done[id(process)] :]:
                if event.get("event") == "Announce":
                    for stkm in event["stkms"]:
                        name = (event["service"], event["start"], stkm["profile"])
                        assert self.air.setdefault(name, stkm["sha256"]) == stkm["sha256"], f"two STKMs: {name}"
            self._done[id(process)] = len(events)

    def compared(self) -> int:
        """How many of the Smartcard Profile's STKMs on air are among those that were found sealed.

        Each that is on air is one of those sealed for its period, where the databases showed any before it was forgotten.
        """
        kept: dict[tuple[str, int], set[str]] = {}
        for (key_id, start), data in self.sealed.items():
            if len(key_id) == 7:
                stkm = codec.decode(data, "smartcard-stkm")
                assert isinstance(stkm, SmartcardStkm) and stkm.key_domain_id + stkm.sek_id == key_id
                assert stkm.counter == start % 2**32, "R5"
                kept.setdefault((self.groups[key_id[:5]], start), set()).add(digest(data))
        both = [(name, sent) for name, sent in self.air.items() if name[2] == "smartcard" and name[:2] in kept]
        for name, sent in both:
            assert sent in kept[name[:2]], f"on air is another STKM than was sealed: {name}"
        return len(both)

    def missing(
        self, system: System, services: Iterable[str], period: int, look_ahead: int, until: float
    ) -> tuple[int, list[tuple[str, int]]]:
        """How many periods should have been on air, and which were not.

        A period must be there when the BSD/A ran while it was due, and both servers ran together, long enough and not longer ago
        than periods are prepared ahead.  ``until``: Unix seconds.
        """
        processes = (*system.past, *system.running.values())
        bsda, bsm = (_lives(processes, role, until) for role in ("bsda", "bsm"))
        both = [(max(a, c), min(b, d)) for a, b in bsda for c, d in bsm if max(a, c) < min(b, d)]
        found = {name[:2] for name in self.air}
        first = int(min(a for a, _ in both) + SETTLED) + NTP_UNIX
        expected: list[tuple[str, int]] = []
        for start in range(first + (-first) % period, int(until) + NTP_UNIX - period, period):
            at = start - NTP_UNIX
            due = any(min(b, at + period) - max(a, at - period / 2) >= SEEN for a, b in bsda)
            prepared = any(min(b, at - period) >= max(a + SETTLED, at - (look_ahead - 1) * period) for a, b in both)
            if due and prepared:
                expected += [(service, start) for service in services]
        return len(expected), [each for each in expected if each not in found]


def _lives(processes: Iterable[Process], role: str, until: float) -> list[tuple[float, float]]:
    """From when to when there was one of them."""
    return [(process.ready()["at"], min(until, process.ended)) for process in processes if process.role == role]
