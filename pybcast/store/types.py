# SPDX-License-Identifier: Apache-2.0
"""Every type that may stand in a row, under the name it has in the database.

The list is what a store may make objects of: nothing else is ever built from what a file says.  A name stays with its meaning;
a class that is renamed keeps its name here.  A new field needs a default, for the rows that were written before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pybcast import keys, messages
from pybcast.flows import events, restart, tables
from pybcast.flows.bsda import cutting, periods, teks
from pybcast.flows.bsm import attempts, delivery, keychain, ltkm, members, pages, programmes
from pybcast.flows.peers import exchange
from pybcast.flows.peers import messages as backend
from pybcast.flows.stream import allocator, schedule, stkm
from pybcast.flows.terminal import card, device
from pybcast.flows.terminal import machine as terminal
from pybcast.secret import Secret

TYPES: Final[Mapping[str, type]] = MappingProxyType({
    "frozenset": frozenset,
    # keys
    "Secret": Secret,
    **{kind.__name__: kind for kind in (
        keys.BDK, keys.GroupRoot, keys.PEAK, keys.PEK, keys.RIAK, keys.SEAK, keys.SEK, keys.SGK, keys.SMK, keys.SRK,
        keys.TAS, keys.TEK, keys.UDK, keys.UGK,
    )},
    # both sides
    "AccessCriterion": messages.AccessCriterion,
    "Answered": exchange.Answered,
    "Rank": exchange.Rank,
    "BackendMessage": backend.BackendMessage,
    "KeyMaterial": backend.KeyMaterial,
    "PartialItem": backend.PartialItem,
    "Recovery": restart.Recovery,
    "Restored": restart.Restored,
    "Sealed": allocator.Sealed,
    "SealedBlock": allocator.SealedBlock,
    "Status": tables.Status,
    "StkmItem": backend.StkmItem,
    "Tag": tables.Tag,
    # BSM
    "Attempt": attempts.Attempt,
    "AttemptState": tables.AttemptState,
    "Awaited": ltkm.Awaited,
    "Bundle": members.Bundle,
    "Group": members.Group,
    "Job": delivery.Job,
    "KeyState": tables.KeyState,
    "LongTermKey": keychain.LongTermKey,
    "Loss": keychain.Loss,
    "Page": pages.Page,
    "Policy": stkm.Policy,
    "Programme": programmes.Programme,
    "Reporting": messages.Reporting,
    "ReportingEntry": messages.ReportingEntry,
    "Right": members.Right,
    "Subscriber": members.Subscriber,
    # BSD/A
    "AirStkm": events.AirStkm,
    "CarouselPut": events.CarouselPut,
    "Cut": cutting.Cut,
    "Period": schedule.Period,
    "PeriodBlock": periods.PeriodBlock,
    "PeriodRecord": periods.PeriodRecord,
    "PeriodState": tables.PeriodState,
    "Segment": schedule.Segment,
    "TekSecret": teks.TekSecret,
    "TrafficKey": stkm.TrafficKey,
    # terminal, card and device
    "Constraint": messages.Constraint,
    "DeviceRight": device.Right,
    "DomainKey": device.DomainKey,
    "HeldTek": terminal.HeldTek,
    "KeySet": device.KeySet,
    "Mark": device.Mark,
    "Permission": messages.Permission,
    "Protocol": messages.Protocol,
    "SekFile": card.SekFile,
    "SekState": tables.SekState,
    "SmkFile": card.SmkFile,
})  # fmt: skip
