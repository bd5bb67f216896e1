# SPDX-License-Identifier: Apache-2.0
"""What the two ways to seal a period have in common: here, under the BSM's keys (F4: ``here``), or by the BSM (F3: ``bybsm``)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pybcast.flows.bsda.cutting import Cutting
from pybcast.flows.bsda.keys import Cover, Keys
from pybcast.flows.bsda.periods import PeriodRecord, Periods
from pybcast.flows.bsda.teks import OwnSecrets, TekSource
from pybcast.flows.events import Alarm
from pybcast.flows.journal import Journal
from pybcast.flows.peers.exchange import Peering
from pybcast.flows.peers.messages import Profile
from pybcast.flows.restart import Recoveries
from pybcast.flows.stream.allocator import Allocator
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.stkm import Rings
from pybcast.flows.tables import PeriodEvent


@dataclass(frozen=True)
class Means:
    """What all streams of a BSD/A work with.

    ``secrets``: of its own traffic keys; ``None`` where ``teks`` has them from elsewhere.  ``unsaved``: as in ``Periods``.
    """

    journal: Journal
    allocator: Allocator
    peers: Peering
    rings: Rings
    recoveries: Recoveries
    teks: TekSource
    secrets: OwnSecrets | None
    unsaved: dict[Periods, None]


class Sealer:
    """One of the two ways, for one stream."""

    def __init__(self, means: Means, periods: Periods, keys: Keys, cutting: Cutting) -> None:
        self._means, self._periods, self._keys, self._cutting = means, periods, keys, cutting

    @property
    def config(self) -> StreamConfig:
        """The stream as it is now."""
        return self._periods.config

    def seal(self, cover: Cover, now: float) -> None:
        """Get their STKMs to the periods that are sealed in this way and have a key."""
        raise NotImplementedError

    def give_up(self, record: PeriodRecord, why: str) -> None:
        """A period gets no STKM at all."""
        self._means.journal.emit(Alarm("not-sealed", *self.config.id, f"period {record.period.start}: {why}"))
        self._periods.fire(record, PeriodEvent.MISS)

    def waive(self, record: PeriodRecord, profile: Profile, why: str) -> bool:
        """Let a period go on with the other profile alone; False, and the period is given up, where there is no other."""
        if len(self.config.profiles) <= 1 + len(record.waived):
            self.give_up(record, why)
            return False
        self._means.journal.emit(
            Alarm("profile-waived", *self.config.id, f"period {record.period.start} has no {profile} STKM: {why}")
        )
        return True


def tek_id(config: StreamConfig, record: PeriodRecord) -> str:
    """The tekId of a period: it tells one TEK of a period from another, and a STKM that holds the wrong one gives itself away.

    Both headends of a pair say the same (R33).  confidence: own - what is in it; to the BSM it is opaque (R32).
    """
    mark = hashlib.sha256(b"tekId" + record.key.tek.reveal()).hexdigest()[:16]
    return f"{config.stream}-{record.period.start}-{mark}"
