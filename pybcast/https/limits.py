# SPDX-License-Identifier: Apache-2.0
"""How much one address, one peer or one terminal may cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

BUCKETS: Final = 65_536  # names kept at once, 10 MB; beyond that the one that asked longest ago starts again - confidence: own


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Bounds in time (seconds) and number for the connections of one server - confidence: own.

    ``handshake``: for TLS, from the accepted connection to its end.  ``idle``: between requests, and for the head of one.

    ``connections``: at once, of everyone.  ``per_address``: of one IPv4 address or IPv6 /64.  ``connect_rate``: new ones a second
    of one address, after as many at once as may be open.  ``half_open``: at once in the TLS handshake.  ``per_share``: of one peer
    or terminal, named by its certificate.
    """

    handshake: float = 5.0  # two round trips over a satellite, repeated once
    idle: float = 75.0  # longer than a client keeps a connection for reuse, so that it is the client who closes
    connections: int = 512
    per_address: int = 64
    connect_rate: float = 50.0  # a handshake costs some 2 ms: one address can take a tenth of a core
    half_open: int = 128
    per_share: int = 32  # four times what a client opens at once


class Buckets:
    """A token bucket for each name.  ``clock``: seconds that never go back."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float], most: int = BUCKETS) -> None:
        self.rate, self.burst = rate, burst
        self._clock, self._most = clock, most
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, name: Hashable) -> float:
        """Takes a token.  Returns 0.0, or the seconds to wait until one is free."""
        now = self._clock()
        level, at = self._levels.pop(name, (float(self.burst), now))
        level = min(float(self.burst), level + (now - at) * self.rate)
        good = level >= 1.0
        self._levels[name] = (level - good, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if good else (1.0 - level) / self.rate


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


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine: a loopback address, or the name ``localhost``."""
    if host in ("localhost", "localhost."):
        return True
    try:
        return ip_address((host or "").strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False
