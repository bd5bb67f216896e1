# SPDX-License-Identifier: Apache-2.0
"""The demo's key side in one process: BSM, BSD/A and terminals as they are on air.

Service A by F3 then F5: the BSD/A sends its traffic keys, the BSM seals and delivers.  Service B by F4 then F6: the BSM gives
long-term keys, the BSD/A seals and gives its STKMs back for the interaction channel, over which the Smartcard terminal fetches
them.  Registration material (F1) and LTKMs (F2) reach the terminals over a carousel.  Only the transports are missing: messages
pass by reference, and the clock is the machine's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from pybcast import flows as flow
from pybcast.demo.keyside import FLOWS, SERVICES, Alarm, Event, Profile, Rollover, UseKey
from pybcast.demo.receivers import (
    CYCLE,
    KEY_DOMAIN,
    KEY_PERIOD,
    PERIOD,
    REPETITION,
    SOC,
    Receivers,
    base_cid,
    service_id,
    stream_number,
)
from pybcast.messages import Protocol
from pybcast.testing.parties import FQDN

BSM_ID: Final = "urn:example:bsm"
BSDA_ID: Final = "urn:example:bsda"
LEAD_IN: Final = 5  # seconds from the start to the first period: LTKMs go out before
YEAR: Final = 365 * 86400


class FlowKeys:
    """The real key side (``KeySide``): everything that ``pybcast.flows`` does, driven by ``tick``."""

    flows: Sequence[str] = FLOWS

    def __init__(self, profiles: Sequence[Profile], now: float) -> None:
        self._profiles = tuple(profiles)
        self._receivers = Receivers(profiles, now, interaction=True)
        self._rolled: set[tuple[str, bytes]] = set()
        self._bsm: flow.BSM | None = None
        self._bsda: flow.Headend | None = None

    # --- KeySide ------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Start both servers; the first crypto period begins ``LEAD_IN`` seconds later."""
        streams = [self._config(service, int(now) + LEAD_IN) for service in SERVICES]
        issuer = self._receivers.issuer_id
        self._bsm = flow.BSM(me=BSM_ID, fqdn=FQDN, streams=streams, randomness=os.urandom, rights_issuer_id=issuer)
        self._bsda = flow.Headend(me=BSDA_ID, streams=streams, teks=flow.random_teks(os.urandom), randomness=os.urandom)
        outputs = self._bsm.add_group(self._receivers.group, now)
        for party in self._receivers.parties:
            outputs += self._bsm.add_subscriber(party.subscriber, now, party.registration)
            for config in streams if party.entitled else ():
                right = flow.Right(service=config.service, stream=config.stream, start=config.start, end=config.start + YEAR)
                outputs += self._bsm.grant(party.subscriber.id, right, now)
        self._carry_out(outputs, now)
        self._carry_out(self._bsda.tick(now), now)
        self._receivers.tune(now)

    def tick(self, now: float) -> list[Event]:
        """Let both servers, the sender, the carousel and the terminals work up to ``now``."""
        if self._bsm is None or self._bsda is None:
            return []
        bsda = self._bsda
        self._carry_out(self._bsm.tick(now), now)
        self._carry_out(bsda.tick(now), now)
        self._receivers.repeat(now, lambda a: self._carry_out(bsda.announced(a.service, a.stream, a.start, now), now))
        self._receivers.turn(now)
        self._fetch(now)
        self._receivers.tick(now)
        self._rollovers()
        return self._receivers.take()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _config(self, name: str, start: int) -> flow.StreamConfig:
        return flow.StreamConfig(
            service=service_id(name), stream=stream_number(name), profiles=self._profiles,
            generation="bsm" if name == "A" else "bsda", bsm=BSM_ID, bsdas=(BSDA_ID,), protocol=Protocol.SRTP,
            period=PERIOD, start=start, key_period=KEY_PERIOD, rollover_lead=KEY_PERIOD - PERIOD, look_ahead=3,
            carousel_cycle=CYCLE, repetition=REPETITION,
            synchronous=False, interaction=name == "B", socID=SOC, serviceBaseCID=base_cid(name),
            key_domain_id=bytes.fromhex(KEY_DOMAIN), key_group=stream_number(name),
        )  # fmt: skip

    def _carry_out(self, outputs: list[flow.Output], now: float) -> None:
        assert self._bsm is not None and self._bsda is not None
        todo = deque(outputs)
        while todo:
            output = todo.popleft()
            match output:
                case flow.Send(message) if message.destination == BSM_ID:
                    todo.extend(self._bsm.receive(message, now, BSDA_ID))
                case flow.Send(message):
                    todo.extend(self._bsda.receive(message, now, BSM_ID))
                case flow.Announce() | flow.OffAir() | flow.CarouselPut() | flow.CarouselDrop():
                    self._receivers.put(output, now)
                case flow.UseKey(service, _, start, _, mki, tek, salt):
                    assert salt is not None
                    self._receivers.use(UseKey(service[-1], mki, tek, salt, start))
                case flow.StopTraffic(service, _):
                    self._receivers.stop(service[-1])
                case flow.FlowDone(name, profile):
                    self._receivers.ran(name, profile)
                case flow.Alarm(code, service, _, text, True):
                    self._receivers.events.append(Alarm(f"{service}: {code}: {text}"))

    def _fetch(self, now: float) -> None:
        """F6: a terminal with an interaction channel asks the BSM for the next STKM."""
        assert self._bsm is not None
        for terminal in self._receivers.terminals:
            for name in terminal.interaction:
                service, stream = service_id(name), stream_number(name)
                who = f"{terminal.name}-{terminal.profile}"
                item = self._bsm.fetch_stkm(service, stream, terminal.profile, who, now, terminal.after.get(name))
                if item is not None:
                    terminal.after[name] = item.period_start
                    self._receivers.hear(terminal, terminal.machine.receive_stkm(service, stream, item.content, now))

    def _rollovers(self) -> None:
        assert self._bsm is not None
        for name in SERVICES:
            for row in self._bsm.keys(service_id(name), stream_number(name)):
                key = row.material
                if (name, key.key_id) not in self._rolled:
                    first = not any(s == name and len(k) == len(key.key_id) for s, k in self._rolled)
                    self._rolled.add((name, key.key_id))
                    if not first:
                        profile: Profile = "smartcard" if key.key_type == "SEK" else "drm"
                        shown = f"{key.key_type} {int.from_bytes(key.key_id[-2:], 'big')}"
                        self._receivers.events.append(Rollover(name, profile, shown, key.valid_from))
