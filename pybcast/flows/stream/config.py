# SPDX-License-Identifier: Apache-2.0
"""What BSM and BSD/A are told about a stream; both hold the same description."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from pybcast.errors import ConfigError, ConfigErrors
from pybcast.flows.peers.messages import PROFILES, Profile
from pybcast.flows.stream.schedule import Schedule, check_period, traffic_key_lifetime
from pybcast.messages import AccessCriterion, Protocol, StkmManagement

LAST_TEK_ID: Final = 65534  # R8: the SEK ends before 65535
TUNE_IN: Final = 1.0  # R6: seconds a dark terminal collects STKMs - confidence: own
CAROUSEL_CYCLE: Final = 10.0  # R7: seconds, unless the SDP says otherwise - confidence: own
REISSUE_CYCLES: Final = 5  # R7: cycles after which live LTKMs get new COUNTERs - confidence: own


StreamId = tuple[str, int]
"""Service and number of a stream."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One STKM stream of one service.

    ``service``: GlobalServiceID (absolute URI). ``stream``: 1..65535, unique in the service. ``generation``: who seals -
    ``"bsm"`` (F3) or ``"bsda"`` (F4). ``start``: NTP second at which its first period begins. ``period``: seconds.
    ``key_period``: seconds a SEK or SEAK is valid, a multiple of ``granularity`` (R8; default: the greatest common step is
    ``period``). ``rollover_lead``: seconds that LTKMs of the next key go out before it is used; ``rekey_lead``: the same for a
    key that is wanted at once (R10), by default two carousel cycles and some. ``carousel_cycle``: seconds a turn of its LTKMs
    takes (R7; as its SDP says; both leads hold two, so that one lost datagram leaves nobody dark). ``delivery``: whether STKMs
    and keys are pushed or pulled. ``interaction``: STKMs also go to the BSM for terminals with an interaction channel (F6).
    ``look_ahead``: periods that are prepared beyond the running one; ``batch``: how many are prepared at a time and travel in one
    delivery, so that up to ``look_ahead + batch - 1`` are. ``hold_through``: keep the last key in use even past its end of
    authority (R9). ``bsdas``: main first.

    Raises ``ConfigError`` on anything that cannot work on air; all of it at once.
    """

    service: str
    stream: int
    profiles: tuple[Profile, ...]
    generation: Literal["bsm", "bsda"]
    bsm: str
    bsdas: tuple[str, ...]
    protocol: Protocol
    traffic_authentication_flag: bool = True
    period: int
    start: int
    granularity: int = 0
    key_period: int
    rollover_lead: int
    rekey_lead: int = 25
    carousel_cycle: float = CAROUSEL_CYCLE
    look_ahead: int = 5
    batch: int = 1
    repetition: float = 0.1
    delivery: Literal["push", "pull"] = "push"
    synchronous: bool = True
    interaction: bool = False
    hold_through: bool = False
    protection_after_reception: int = 3
    access_criteria: tuple[AccessCriterion, ...] | None = None
    permissions_category: int | None = None
    socID: str = ""
    serviceBaseCID: str = ""
    key_domain_id: bytes = b""
    key_group: int = 0

    def __post_init__(self) -> None:
        if not self.granularity:
            object.__setattr__(self, "granularity", self.period)
        check_period(self.period, self.repetition)
        rules = (
            (1 <= self.stream <= 65535, "stream", "expected 1..65535"),
            (bool(self.profiles) and set(self.profiles) <= set(PROFILES), "profiles", "expected drm, smartcard or both"),
            (
                all(":" in uri for uri in (self.service, self.bsm, *self.bsdas)),
                "service",
                "expected absolute URIs (bsm, bsdas too)",
            ),
            (len(self.bsdas) in (1, 2), "bsdas", "expected one, or main and back-up"),
            (self.protocol in (Protocol.IPSEC, Protocol.SRTP, Protocol.ISMACRYP), "protocol", "expected IPsec, SRTP or ISMACryp"),
            (not (self.dual and self.ipsec_auth), "protocol", "IPsec with authentication is refused on two-profile streams (R38)"),
            (self.granularity >= 1 and self.period % self.granularity == 0, "granularity", "must divide the period (R8)"),
            (self.key_period >= 2 * self.period, "key_period", "expected at least two periods"),
            (self.key_period % self.granularity == 0, "key_period", "expected a multiple of the granularity (R8)"),
            (self.key_period // self.granularity <= LAST_TEK_ID, "key_period", "more than 65534 TEK IDs under one key (R8)"),
            (0 < self.rollover_lead < self.key_period, "rollover_lead", "expected less than key_period (two keys on a card, R10)"),
            (self.carousel_cycle > 0, "carousel_cycle", "expected more than 0 s"),
            (self.rollover_lead >= 2 * self.carousel_cycle, "rollover_lead", "expected at least two carousel cycles (R7)"),
            (self.rekey_lead >= 2 * self.carousel_cycle, "rekey_lead", "expected at least two carousel cycles (R7)"),
            (1 <= self.look_ahead <= 1000, "look_ahead", "expected 1..1000 (one delivery, R30)"),
            (1 <= self.batch <= 1000, "batch", "expected 1..1000 (one delivery, R30)"),
            (0 <= self.protection_after_reception <= 3, "protection_after_reception", "expected 0..3"),
            ("drm" not in self.profiles or bool(self.serviceBaseCID), "serviceBaseCID", "needed for the DRM Profile"),
            (not self.smartcard or len(self.key_domain_id) == 3, "key_domain_id", "expected 3 bytes"),
            (not self.smartcard or 1 <= self.key_group <= 65535, "key_group", "expected 1..65535, one for each stream (R10)"),
        )
        of = f"{self.service} stream {self.stream}"
        wrong = [ConfigError(f"{of}: {key}: {what}", key=key, reason=what) for good, key, what in rules if not good]
        if wrong:
            raise ConfigErrors.of(wrong)

    @cached_property
    def drm(self) -> bool:
        return "drm" in self.profiles

    @cached_property
    def smartcard(self) -> bool:
        return "smartcard" in self.profiles

    @cached_property
    def dual(self) -> bool:
        """Whether the stream announces one TEK in both profiles (R38)."""
        return self.drm and self.smartcard

    @cached_property
    def pair(self) -> bool:
        """Whether two headends make the stream's STKMs."""
        return len(self.bsdas) > 1

    @cached_property
    def ipsec_auth(self) -> bool:
        return self.protocol is Protocol.IPSEC and self.traffic_authentication_flag

    @cached_property
    def lifetime(self) -> int:
        """traffic_key_lifetime: exponent of two, seconds (R42)."""
        return traffic_key_lifetime(self.period)

    @property
    def ahead(self) -> int:
        """How many periods beyond the running one are prepared at most."""
        return self.look_ahead + self.batch - 1

    @cached_property
    def id(self) -> StreamId:
        return (self.service, self.stream)

    @cached_property
    def management(self) -> StkmManagement:
        """What the BSD/A's half of a Smartcard STKM says beside the key (R31)."""
        return StkmManagement(
            protection_after_reception=self.protection_after_reception,
            traffic_protection_protocol=self.protocol,
            traffic_authentication_flag=self.traffic_authentication_flag,
            traffic_key_lifetime=self.lifetime,
            access_criteria=self.access_criteria,
        )

    def grid(self, time: int) -> int:
        """The first time from ``time`` on at which a period may begin: under a SEK, a whole number of granularities (R8)."""
        return time + (self.start - time) % self.granularity if self.smartcard else time

    def schedule(self) -> Schedule:
        return Schedule(self.start, self.period)
