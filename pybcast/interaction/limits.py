# SPDX-License-Identifier: Apache-2.0
"""How much one terminal, or one address, may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from pybcast.https.limits import ConnectionLimits


@dataclass(frozen=True, kw_only=True)
class Limits(ConnectionLimits):
    """Bounds in time (seconds) and number for what terminals may cost - confidence: own.

    ``body``: for a body; ``send``: for an answer to be taken.  ``octets``: of a body.  ``waiting``: questions of one subscriber
    that stay open at once.

    Requests a second, and at once: ``rate`` and ``burst`` of one subscriber; ``ltkm_rate`` and ``ltkm_burst``, those for LTKMs, as
    each costs COUNTERs.  ``unproven``: requests of one connection that prove nothing, in a row, before they count for its address;
    ``stranger_rate`` and ``stranger_burst``: of those, for one address.
    """

    connections: int = 8192
    per_address: int = 1024  # terminals of a network may share one address
    connect_rate: float = 100.0
    half_open: int = 512  # 30 MB
    per_share: int = 64  # of one device: eight times what a terminal opens at once
    body: float = 5.0
    send: float = 15.0
    octets: int = 1024
    waiting: int = 32
    rate: float = 5.0
    burst: int = 20
    ltkm_rate: float = 0.2
    ltkm_burst: int = 5
    unproven: int = 3  # a challenge, one for a nonce that has ended, and one to spare
    stranger_rate: float = 20.0
    stranger_burst: int = 200
