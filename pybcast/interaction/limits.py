# SPDX-License-Identifier: Apache-2.0
"""How much one terminal, or one address, may ask for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

BUCKETS: Final = 65_536  # kept at once, 10 MB; of more, who asked last longest ago begins anew - confidence: own


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds in time (seconds) and number for what terminals may cost - confidence: own.

    ``handshake``: for TLS.  ``idle``: between requests, and for the whole head of one.  ``body``: for a body; ``send``: for an
    answer to be taken.  ``connections``: at once, of everyone; ``per_address``: of one address, which a network may share.
    ``octets``: of a body.  ``waiting``: questions of one subscriber that stay open at once.

    Requests a second, and at once: ``rate`` and ``burst`` of one subscriber; ``ltkm_rate`` and ``ltkm_burst``, those for LTKMs, as
    each costs COUNTERs; ``stranger_rate`` and ``stranger_burst`` of one address, those that did not prove who they are.
    """

    handshake: float = 5.0
    idle: float = 75.0
    body: float = 5.0
    send: float = 15.0
    connections: int = 8192
    per_address: int = 1024
    octets: int = 1024
    waiting: int = 32
    rate: float = 5.0
    burst: int = 20
    ltkm_rate: float = 0.2
    ltkm_burst: int = 5
    stranger_rate: float = 20.0
    stranger_burst: int = 200


class Buckets:
    """A token bucket for each name.  ``clock``: seconds that never go back."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float], most: int = BUCKETS) -> None:
        self.rate, self.burst = rate, burst
        self._clock, self._most = clock, most
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, name: str) -> float:
        """Take one; 0, or the seconds until there is one."""
        now = self._clock()
        level, at = self._levels.pop(name, (float(self.burst), now))
        level = min(float(self.burst), level + (now - at) * self.rate)
        good = level >= 1.0
        self._levels[name] = (level - good, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if good else (1.0 - level) / self.rate

    def give_back(self, name: str) -> None:
        """The last one taken was not used up."""
        level, at = self._levels.get(name, (float(self.burst), 0.0))
        if name in self._levels:
            self._levels[name] = (min(float(self.burst), level + 1.0), at)


def address_name(host: str) -> str:
    """What of an address counts as one: an IPv4 address, or the /64 that one IPv6 host chooses from at will."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))
