# SPDX-License-Identifier: Apache-2.0
"""The six back-end flows as state machines without I/O: ``BSM``, ``BSDA``, ``Terminal``.

Bytes, messages and the time go in, events come out; sockets, clocks, disks and randomness are the caller's.  ``now`` is always
64-bit NTP seconds (seconds since 1900-01-01 UTC, not wrapping in 2036) as a float.
"""

from __future__ import annotations

from pybcast.flows.bsda.headend import Headend
from pybcast.flows.bsda.machine import BSDA, Change
from pybcast.flows.bsda.periods import PeriodRecord
from pybcast.flows.bsda.teks import OwnSecrets, TekSource, derived_teks, random_teks
from pybcast.flows.bsm.delivery import Issuing
from pybcast.flows.bsm.keychain import LongTermKey
from pybcast.flows.bsm.machine import BSM, Enrolment
from pybcast.flows.bsm.members import Group, Members, Right, Subscriber
from pybcast.flows.bsm.programmes import Programme
from pybcast.flows.bsm.registration import RightsIssuer, device_registration, domain_registration, smartcard_registration
from pybcast.flows.bsm.stkms import Later
from pybcast.flows.edge.machine import Edge
from pybcast.flows.events import (
    AirStkm,
    Alarm,
    Announce,
    Answer,
    CarouselDrop,
    CarouselPut,
    FlowDone,
    NextKey,
    OffAir,
    Output,
    Persist,
    Plan,
    PlanBegun,
    PlannedPeriod,
    PlanRefused,
    Recall,
    Recalled,
    Refused,
    Send,
    StopTraffic,
    TekExpired,
    TekReady,
    UseKey,
)
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage, KeyMaterial, PartialItem, Profile, StkmItem
from pybcast.flows.restart import Restored, Start
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period, Schedule
from pybcast.flows.stream.stkm import TrafficKey
from pybcast.flows.tables import FLOWS, MACHINES, TAGS, Status, Tag
from pybcast.flows.terminal.card import Card, SimulatedCard
from pybcast.flows.terminal.device import Device
from pybcast.flows.terminal.machine import Terminal, Tuning

__all__ = [
    "ALL_SERVICES",
    "BSDA",
    "BSM",
    "FLOWS",
    "MACHINES",
    "TAGS",
    "AirStkm",
    "Alarm",
    "Announce",
    "Answer",
    "BackendMessage",
    "Card",
    "CarouselDrop",
    "CarouselPut",
    "Change",
    "Device",
    "Edge",
    "Enrolment",
    "FlowDone",
    "Group",
    "Headend",
    "Issuing",
    "KeyMaterial",
    "Later",
    "LongTermKey",
    "Members",
    "NextKey",
    "OffAir",
    "Output",
    "OwnSecrets",
    "PartialItem",
    "Period",
    "PeriodRecord",
    "Persist",
    "Plan",
    "PlanBegun",
    "PlanRefused",
    "PlannedPeriod",
    "Profile",
    "Programme",
    "Recall",
    "Recalled",
    "Refused",
    "Restored",
    "Right",
    "RightsIssuer",
    "Schedule",
    "Send",
    "SimulatedCard",
    "Start",
    "Status",
    "StkmItem",
    "StopTraffic",
    "StreamConfig",
    "Subscriber",
    "Tag",
    "TekExpired",
    "TekReady",
    "TekSource",
    "Terminal",
    "TrafficKey",
    "Tuning",
    "UseKey",
    "derived_teks",
    "device_registration",
    "domain_registration",
    "random_teks",
    "smartcard_registration",
]
