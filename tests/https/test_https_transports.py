# SPDX-License-Identifier: Apache-2.0
"""The end of a TLS connection at once."""

from __future__ import annotations

import asyncio

from pybcast.https.transports import cut


class Lost(asyncio.Transport):
    """As Python 3.11.2 leaves one of TLS behind when its connection is lost."""

    _ssl_protocol: asyncio.Transport | None = None

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def abort(self) -> None:
        self.asked += 1
        self._ssl_protocol.abort()  # type: ignore[union-attr]  # AttributeError


def test_what_is_lost_already_is_left_alone() -> None:
    cut(None)
    lost = Lost()
    cut(lost)
    assert lost.asked == 1


def test_what_is_there_is_ended() -> None:
    there, lost = Lost(), Lost()
    there._ssl_protocol = lost
    cut(there)
    assert (there.asked, lost.asked) == (1, 1)
