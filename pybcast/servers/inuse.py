# SPDX-License-Identifier: Apache-2.0
"""Which keys are in use, by their ids: what ``pybcast watch`` asks the servers for.  No byte of a key is in these answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pybcast import codec
from pybcast.errors import BcastError, ConfigError
from pybcast.flows import BSDA, BSM, StreamConfig
from pybcast.flows.bsda.periods import PeriodRecord
from pybcast.flows.edge.slots import USED
from pybcast.flows.events import AirStkm
from pybcast.flows.tables import EdgeState, KeyState, PeriodState
from pybcast.messages import DrmStkm, SmartcardStkm

MOST: Final = 1000  # streams of one answer: more is nobody's screen, and the machine stands still meanwhile - confidence: own
_COMING: Final = frozenset({PeriodState.SEALED, PeriodState.HANDED, EdgeState.WAITING, EdgeState.ON_AIR, EdgeState.READY})


class _Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    service: str | None = None
    limit: int = MOST


def asked(streams: Sequence[StreamConfig], arguments: Mapping[str, Any]) -> list[StreamConfig]:
    """The streams that a question is about: of one service or all, at most ``limit`` of them."""
    try:
        found = msgspec.convert(dict(arguments), _Asked)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
    wanted = [stream for stream in streams if found.service in (None, stream.service)]
    return wanted[: max(0, min(found.limit, MOST))]


Found = list[tuple[StreamConfig, list[tuple[str, PeriodRecord]]]]
"""Of each stream, states and periods."""


def periods(machine: BSDA, streams: Sequence[StreamConfig], now: float) -> Found:
    """Of each stream the period whose key is in use and the next that is prepared.  In the machine's turn: only looks."""
    found = []
    for stream in streams:
        states = machine.states(*stream.id, now)
        rows = [(states[r.period.start], r) for r in machine.records(*stream.id)]
        used = [row for row in rows if row[0] in USED][-1:]
        after = used[0][1].period.start if used else 0
        coming = [row for row in rows if row[0] in _COMING and row[1].period.start > after][:1]
        found.append((stream, [(state.value, record) for state, record in used + coming]))
    return found


def shown_periods(found: Found) -> list[dict[str, Any]]:
    """The same with the ids that their STKMs name; beside the machine."""
    rows: list[dict[str, Any]] = []
    for stream, records in found:
        for state, r in records:
            row: dict[str, Any] = {
                "service": stream.service, "stream": stream.stream, "start": r.period.start, "end": r.period.end,
                "state": state, "traffic_id": r.traffic_id.hex(), "authority_end": r.authority_end,
            }  # fmt: skip
            rows.append(row | {stkm.profile: ids(stkm) for stkm in r.stkms})
    return rows


def ids(stkm: AirStkm) -> dict[str, str]:
    """The ids in clear in an STKM: of the long-term keys and, of the Smartcard Profile, of the traffic key."""
    try:
        message = codec.decode(stkm.data, "drm-stkm" if stkm.profile == "drm" else "smartcard-stkm")
    except BcastError:  # what is on air was sealed or checked here; a view is not the place to fall over
        return {}
    match message:
        case DrmStkm():
            pairs = {
                "service_CID_extension": message.service_CID_extension,
                "programme_CID_extension": message.programme_CID_extension,
            }
            return {name: f"{value:08x}" for name, value in pairs.items() if value is not None}
        case SmartcardStkm():
            return {"key_domain_id": message.key_domain_id.hex(), "sek_id": message.sek_id.hex(), "tek_id": message.tek_id.hex()}
    return {}


def long_term_keys(machine: BSM, streams: Sequence[StreamConfig]) -> list[dict[str, Any]]:
    """The long-term keys of each stream that have not ended: ids and validity."""
    return [
        {
            "service": stream.service, "stream": stream.stream, "key_type": row.material.key_type,
            "key_id": row.material.key_id.hex(),
            "start": row.material.valid_from, "end": row.material.valid_to, "state": row.state.value, "programme": row.programme,
        }
        for stream in streams
        for row in machine.keys(*stream.id)
        if row.state is not KeyState.ENDED
    ]  # fmt: skip
