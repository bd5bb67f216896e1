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
from functools import lru_cache
from typing import Final

from pybcast.flows.journal import Journal, Table
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.stream.stkm import TrafficKey
from pybcast.keys import TAS, TEK, TekDerivation
from pybcast.messages import Protocol
from pybcast.secret import Secret

SECRET_SIZE: Final = 32  # bytes; twice the keys that are made of it
SECRET_KEPT: Final = 60  # seconds after its time: the longest that a key is held after its end (``keys.KEY_KEPT``)

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


@lru_cache(maxsize=4096)
def _name(service: str) -> bytes:
    return hashlib.sha256(service.encode()).digest()[:8]


def derived_teks(secret: Secret | Callable[[StreamConfig, Period], Secret]) -> TekSource:
    """Keys derived from ``secret``: one for all (a pair's, R33), or the one of a stream and period.

    Where the BSD/A does not know the key id (F3) the service takes its place: the stream number alone repeats between services.
    """

    last: tuple[Secret, int, bytes, TekDerivation] | None = None

    def source(config: StreamConfig, period: Period, key_id: bytes) -> TrafficKey:
        nonlocal last
        base = secret if isinstance(secret, Secret) else secret(config, period)
        who = key_id or _name(config.service)
        if last is None or last[0] is not base or last[1:3] != (config.stream, who):  # the periods of a batch have the same
            last = base, config.stream, who, TekDerivation(base, stream=config.stream, key_id=who)
        derivation, start = last[3], period.start
        return TrafficKey(
            derivation.tek(start),
            derivation.salt(start) if config.protocol is Protocol.SRTP else None,
            derivation.tas(start) if config.ipsec_auth and config.drm else None,
        )

    return source


@dataclass(frozen=True)
class TekSecret:
    """What the traffic keys of the periods that start in [start, end) are derived from.  Times in NTP seconds."""

    secret: Secret
    start: int
    end: int


SECRETS: Final = Table("tek-secret", TekSecret, "service stream start")


class OwnSecrets:
    """The secrets of a BSD/A that is alone, in its journal: of the time that runs and of the next.

    The times are ``key_period`` long and lie on a grid of their own: with F3 the BSD/A does not know the long-term keys.
    """

    def __init__(self, journal: Journal, randomness: Callable[[int], bytes]) -> None:
        self._secrets, self._randomness = journal.open(SECRETS), randomness
        self._found: dict[tuple[str, int], TekSecret] = {}  # of each stream, what was asked for last

    def of(self, config: StreamConfig, period: Period) -> Secret:
        """The secret of a period; made where there is none, and stored before anything made with it leaves."""
        found = self._found.get(config.id)
        if found is None or not found.start <= period.start < found.end:
            found = self._found[config.id] = self._at(config, period.start)
        return found.secret

    def keep(self, config: StreamConfig, now: float) -> float:
        """Have the secrets of this time and the next, forget those whose time is over.  When to call this again, NTP seconds."""
        running = self._at(config, int(now))
        self._at(config, running.end)
        for name, row in self._rows(config):
            if row.end + SECRET_KEPT <= now:
                self._secrets.drop(name)
                self._found.pop(config.id, None)
        return running.end

    def _rows(self, config: StreamConfig) -> list[tuple[tuple[object, ...], TekSecret]]:
        return list(self._secrets.under(config.id).items())

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
        self._secrets.put((*config.id, start), made)
        return made
