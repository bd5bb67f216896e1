# SPDX-License-Identifier: Apache-2.0
"""Who may say that a store is not to be used (R50, ``Pybcast-Void``)."""

from __future__ import annotations

from typing import Any

import pytest

from pybcast.backend.standing import VOID
from pybcast.servers.witnesses import Witnesses


class Memory:
    """A store that nobody has heard of."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize(("peer", "held"), [("urn:example:bsm", 1), ("urn:example:bsda2", 0)])
def test_only_the_bsm_of_a_stream_is_obeyed(peer: str, held: int) -> None:
    holds: list[bool] = []
    witnesses = Witnesses(Memory(), lambda: holds.append(True), obeys=lambda name: name == "urn:example:bsm")  # type: ignore[arg-type]
    witnesses.standing.heard(peer, {VOID: "1"})
    witnesses.standing.heard(peer, {VOID: "1"})
    assert (len(holds), witnesses.noticed.is_set()) == (held, bool(held))
