# SPDX-License-Identifier: Apache-2.0
"""Where a BSD/A's traffic keys come from.

A period that is sealed again must get the same STKM: another TEK under the same key and COUNTER would use one key stream twice
(R1).  A store that was put back does not know what was sealed since, so a TEK is not drawn but derived (R33's derivation) from a
secret, the stream, the key and the start of the period.

* One headend: ``OwnSecrets``, the default.  A random secret of its own for each long-term key's time, kept wrapped in the store,
  dropped when that time is over.  It is made one key's time ahead: when a key is made, the secret of its time is in the store, and
  in every copy that knows the key.
* A pair: the pair's secret, the same at both (R33).
* ``random_teks``: drawn.  An older store that is put back unnoticed then breaks R1; who wants this must name it.

No secret here is a key of the key hierarchy, nor the key-encryption key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pybcast.flows.config import StreamConfig
from pybcast.flows.events import Journal
from pybcast.flows.schedule import Period
from pybcast.flows.stkm import TrafficKey
from pybcast.keys import TAS, TEK, derived_tas, derived_tek
from pybcast.messages import Protocol
from pybcast.secret import Secret

SECRET_SIZE: Final = 32  # bytes; twice the keys that are made of it
SECRET_KEPT: Final = 60  # seconds after its time: the longest that a key is held after its end (``periods.KEY_KEPT``)

TekSource = Callable[[StreamConfig, Period, bytes], TrafficKey]
"""(stream, period, key id or b"" when the BSD/A does not know it) -> the traffic key."""


def random_teks(randomness: Callable[[int], bytes]) -> TekSource:
    """Fresh keys from ``randomness(n) -> n bytes``.  A period that is sealed again gets another key: see above."""

    def source(config: StreamConfig, period: Period, key_id: bytes) -> TrafficKey:
        return TrafficKey(
            TEK(randomness(16)),
            randomness(14) if config.protocol is Protocol.SRTP else None,
            TAS(randomness(16)) if config.ipsec_auth and config.drm else None,
        )

    return source


def derived_teks(secret: Secret | Callable[[StreamConfig, Period], Secret]) -> TekSource:
    """Keys derived from ``secret``: one for all (a pair's, R33), or the one of a stream and period.

    Where the BSD/A does not know the key id (F3) the service takes its place: the stream number alone repeats between services.
    """

    def source(config: StreamConfig, period: Period, key_id: bytes) -> TrafficKey:
        base = secret if isinstance(secret, Secret) else secret(config, period)
        who = key_id or hashlib.sha256(config.service.encode()).digest()[:8]
        tek, salt = derived_tek(
            base, stream=config.stream, key_id=who, period=period.start, with_salt=config.protocol is Protocol.SRTP
        )
        tas = None
        if config.ipsec_auth and config.drm:
            tas = derived_tas(base, stream=config.stream, key_id=who, period=period.start)
        return TrafficKey(tek, salt, tas)

    return source


@dataclass(frozen=True)
class TekSecret:
    """What the traffic keys of the periods that start in [start, end) are derived from.  Times in NTP seconds."""

    secret: Secret
    start: int
    end: int


class OwnSecrets:
    """The secrets of a BSD/A that is alone, in its journal: of the time that runs and of the next.

    The times are ``key_period`` long and lie on a grid of their own: with F3 the BSD/A does not know the long-term keys.
    """

    TABLE: Final = "tek-secret"

    def __init__(self, journal: Journal, randomness: Callable[[int], bytes]) -> None:
        self._journal, self._randomness = journal, randomness

    def of(self, config: StreamConfig, period: Period) -> Secret:
        """The secret of a period; made where there is none, and stored before anything made with it leaves."""
        return self._at(config, period.start).secret

    def keep(self, config: StreamConfig, now: float) -> float:
        """Have the secrets of this time and the next, forget those whose time is over.  When to call this again, NTP seconds."""
        running = self._at(config, int(now))
        self._at(config, running.end)
        for name, row in self._rows(config):
            if row.end + SECRET_KEPT <= now:
                self._journal.drop(self.TABLE, name)
        return running.end

    def _rows(self, config: StreamConfig) -> list[tuple[tuple[object, ...], TekSecret]]:
        return list(self._journal.select(self.TABLE, config.key, TekSecret).items())

    def _at(self, config: StreamConfig, time: int) -> TekSecret:
        rows = [row for _, row in self._rows(config)]
        for row in rows:
            if row.start <= time < row.end:
                return row
        # The key period may have been changed: the new grid fills what the old one leaves free.
        low = time // config.key_period * config.key_period
        start = max([low, *(row.end for row in rows if row.end <= time)])
        end = min([low + config.key_period, *(row.start for row in rows if row.start > time)])
        made = TekSecret(Secret(self._randomness(SECRET_SIZE)), start, end)
        self._journal.put(self.TABLE, (*config.key, start), made)
        return made
