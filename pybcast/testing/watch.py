# SPDX-License-Identifier: Apache-2.0
"""What must hold at every moment, whatever happens: the invariants of the rules, as watchers of a simulated system.

``Watch`` is told what leaves a process, what goes on air and what a terminal obtains; what breaks an invariant becomes an entry in
``violations``.  It knows no state of the machines it watches, so it cannot share their mistakes.  Where a rule lets an entitled
terminal be dark the rule is the name under which ``excused`` counts the sample.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from pybcast import codec
from pybcast.errors import WireError
from pybcast.flows import (
    Announce,
    BackendMessage,
    KeyMaterial,
    LongTermKey,
    PartialItem,
    Profile,
    Right,
    StkmItem,
    StreamConfig,
    UseKey,
)
from pybcast.flows.config import CAROUSEL_CYCLE, TUNE_IN
from pybcast.flows.events import State
from pybcast.flows.ltkm import REISSUE
from pybcast.flows.schedule import REPETITIONS_AHEAD
from pybcast.keys import ipsec_spi, key_indicator, mki
from pybcast.messages import AddressMode, Bcro, DrmStkm, Protocol, SmartcardLtkm, SmartcardParental, SmartcardStkm
from pybcast.wire.content_id import BCI

StreamKey = tuple[str, int]
KeyRef = tuple[str, bytes]
"""(key type, key id) as ``KeyMaterial`` has them."""

HEAL: Final = REISSUE + 2 * CAROUSEL_CYCLE + 10
"""Seconds within which a lost LTKM is healed (R7): until it is issued again, a cycle to be sent and one to be collected, and the
repetitions of a back-end message."""
HEARD: Final = 2 * REPETITIONS_AHEAD
"""STKM repetitions after which a tuned terminal has heard one, whatever the air loses (R6, R40)."""


@dataclass
class KeyFact:
    """A long-term key: when the BSM made it, its validity as it was made, the programme of a PEAK."""

    created: float
    valid_from: int
    valid_to: int
    programme: str | None
    csb_id: bytes | None


@dataclass(frozen=True)
class StkmFact:
    """A STKM that left a server: of which period, under which keys."""

    start: int
    keys: tuple[KeyRef, ...]


@dataclass
class Granted:
    """A right, from the moment the BSM took it to the moment it took it away."""

    right: Right
    at: float
    withdrawn: float = float("inf")


@dataclass
class Who:
    """A viewer as the watchers see him: his rights, and what his terminal obtained until when."""

    name: str
    profile: Profile
    idr: bytes = b""
    position: int = -1
    grants: list[Granted] = field(default_factory=list)
    tuned: dict[StreamKey, float] = field(default_factory=dict)
    opened: dict[tuple[str, int, bytes], float] = field(default_factory=dict)


class Watch:
    """The invariants.  ``streams``: the configurations, by (service, stream)."""

    def __init__(self, streams: dict[StreamKey, StreamConfig]) -> None:
        self.streams = streams
        self.violations: list[str] = []
        self.excused: Counter[str] = Counter()
        self.samples = 0
        self.dark = 0
        self.now = 0.0
        self._once: dict[tuple[object, ...], object] = {}
        self._keys: dict[tuple[str, int, str, bytes], KeyFact] = {}
        self._stkms: defaultdict[tuple[str, str, int, bytes], list[StkmFact]] = defaultdict(list)
        self._names: dict[tuple[str, bytes], bytes] = {}
        self._airings: dict[tuple[str, str, int, bytes], list[float]] = {}
        self._ltkms: defaultdict[tuple[bytes, bytes], list[float]] = defaultdict(list)
        self._bcros: defaultdict[bytes, list[tuple[float, Bcro]]] = defaultdict(list)
        self._repeated: dict[bytes, float] = {}
        self._groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._on_air: dict[StreamKey, UseKey] = {}

    def violate(self, text: str) -> None:
        self.violations.append(f"t={self.now:.3f}: {text}")

    def once(self, what: str, name: tuple[object, ...], value: object) -> None:
        """One name, one value, for ever."""
        if self._once.setdefault((what, *name), value) != value:
            self.violate(f"{what}: {name}")

    # --- what leaves a process ------------------------------------------------------------------------------------------

    def message(self, message: BackendMessage, stored: State) -> None:
        """A back-end message; ``stored``: what its sender has on disk at this moment."""
        if not message.is_answer:
            self.once("two messages with one messageID (R27)", (message.source, message.message_id), message.digest())
        for item in message.items:
            if isinstance(item, StkmItem) and item.content and message.profile is not None:
                self.stkm(message.profile, message.service, item.stream, item.period_start, item.content)
            elif isinstance(item, PartialItem) and (message.service, item.stream, item.period_start) not in stored.get(
                "period", {}
            ):
                self.violate(f"a TEK left before it was stored (R41): period {item.period_start}")
            elif isinstance(item, KeyMaterial) and (message.service, item.stream, item.key_type, item.key_id) not in stored.get(
                "key", {}
            ):
                self.violate(f"a key left before it was stored (R41): {item.key_id.hex()}")
            elif isinstance(item, bytes):
                self.ltkm(item)

    def key(self, service: str, stream: int, row: LongTermKey) -> None:
        """The BSM stored a long-term key."""
        m = row.material
        identity = m.key_id if m.key_type == "SEK" else (m.key_id, service, stream)
        self.once("an id reused for another key", (m.key_type, identity), m.key.reveal())
        self.once("one key, two sealing servers (R1)", (m.key_type, identity), row.sealer)
        fact = KeyFact(self.now, m.valid_from, m.valid_to, row.programme, m.csb_id)
        self._keys.setdefault((service, stream, m.key_type, m.key_id), fact)

    def stkm(self, profile: Profile, service: str, stream: int, start: int, data: bytes) -> None:
        """A STKM of a period left a server, or went on air: one for each key and period, whoever made it (R1, R33, R42)."""
        keys: tuple[KeyRef, ...]
        if profile == "smartcard":
            message = codec.decode(data, "smartcard-stkm")
            if not isinstance(message, SmartcardStkm) or not any(message.mac):
                self.violate(f"an incomplete STKM left (R13): period {start}")
                return
            seen = (message.key_domain_id, message.sek_id, message.csb_id, message.counter)
            self.once("two plaintexts under one SEK and COUNTER (R1)", seen, message.encr_data)
            protocol = self.streams[service, stream].protocol
            make = {Protocol.IPSEC: ipsec_spi, Protocol.SRTP: mki}.get(protocol, key_indicator)
            name, keys = make(message.sek_id, message.tek_id), (("SEK", message.key_domain_id + message.sek_id),)
        else:
            sealed = codec.decode(data, "drm-stkm")
            if not isinstance(sealed, DrmStkm) or not any(sealed.service_MAC or sealed.programme_MAC or b""):
                self.violate(f"an incomplete STKM left (R13): period {start}")
                return
            extensions = (("SEAK", sealed.service_CID_extension), ("PEAK", sealed.programme_CID_extension))
            name, keys = sealed.id, tuple((t, e.to_bytes(4, "big")) for t, e in extensions if e is not None)
        self.once("two STKMs for one key and period (R33, R42)", (profile, service, stream, keys[0], start), data)
        self._names[profile, data] = name
        fact = StkmFact(start, keys)
        if fact not in self._stkms[profile, service, stream, name]:
            self._stkms[profile, service, stream, name].append(fact)

    def ltkm(self, data: bytes) -> None:
        """An LTKM or registration object left the BSM, or was put on a carousel."""
        if data[:1] == b"\x20":
            bcro = codec.decode(data, "drm-ltkm")
            assert isinstance(bcro, Bcro)
            for asset in bcro.assets:
                to = (bcro.group_address, bcro.position_in_group, bcro.domain_id)
                self.once("two BCROs with one timestamp (R21)", (to, asset.BCI, bcro.bcro_timestamp), data)
        elif data[:1] == b"\x01":
            try:
                message = codec.decode(data, "smartcard-ltkm")
            except WireError:
                message = codec.decode(data, "smartcard-parental")
            assert isinstance(message, SmartcardLtkm | SmartcardParental)
            seen = (message.idr, message.csb_id, message.rand, message.counter)
            self.once("two plaintexts under one SMK and COUNTER (R2)", seen, message.encr_data)
            if isinstance(message, SmartcardLtkm):
                identity = message.key_domain_id + message.sek_id
                self.once("a SEK with two CSB IDs or RANDs (R2)", (identity,), (message.csb_id, message.rand))

    # --- what goes on air -----------------------------------------------------------------------------------------------

    def carousel(self, data: bytes) -> None:
        """An object is put on the carousel that is on air."""
        self.ltkm(data)
        if data[:1] == b"\x20":
            bcro = codec.decode(data, "drm-ltkm")
            assert isinstance(bcro, Bcro)
            for asset in bcro.assets:
                self._bcros[asset.BCI].append((self.now, bcro))
        elif data[:1] == b"\x01":
            try:
                message = codec.decode(data, "smartcard-ltkm")
            except WireError:
                return
            assert isinstance(message, SmartcardLtkm)
            identity = message.key_domain_id + message.sek_id
            self._ltkms[message.idr, identity].append(self.now)
            self._two_keys(identity)

    def _two_keys(self, identity: bytes) -> None:
        """A card keeps two keys of a group: no LTKM of SEK n+2 while SEK n is on air (R10)."""
        issued = self._groups[identity[:5]]
        if identity in issued:
            return
        issued.append(identity)
        for old in issued[:-2]:
            if self.now - self._repeated.get(old, 0.0) < 1:
                self.violate(f"LTKM of {identity.hex()} while {old.hex()} is on air: a card keeps two keys (R10)")

    def announce(self, output: Announce, before: int | None) -> None:
        """A server begins to repeat STKMs; ``before``: length of the period before theirs."""
        for stkm in output.stkms:
            self.stkm(stkm.profile, output.service, output.stream, output.start, stkm.data)
        if before is not None and self.now < output.start - before / 2 - 0.01:
            self.violate(f"STKM of {output.start} announced {output.start - self.now:.1f} s ahead: more than half a period (R6)")

    def aired(self, output: Announce) -> None:
        """One repetition is on air."""
        for stkm in output.stkms:
            name = self._names.get((stkm.profile, stkm.data), b"")
            self._airings.setdefault((stkm.profile, output.service, output.stream, name), []).append(self.now)
            for fact in self._stkms.get((stkm.profile, output.service, output.stream, name), []):
                self._repeated[fact.keys[0][1]] = self.now

    def made(self, use: UseKey) -> None:
        """An encoder, on air or not, was given a key."""
        self.once("an id reused for another TEK", (use.service, use.stream, use.mki), use.tek.reveal())

    def used(self, use: UseKey) -> None:
        """What is on air is protected with a key from now on."""
        key = (use.service, use.stream)
        previous = self._on_air.get(key)
        self._on_air[key] = use
        if previous is not None and previous.mki == use.mki:
            return  # going on with the key that is in use is no switch
        count = self.heard(use)
        if count < REPETITIONS_AHEAD:
            self.violate(f"TEK of {use.start} of {use.service} in use after {count} repetitions of its STKM (R40)")

    def heard(self, use: UseKey) -> int:
        """How often the STKMs of a key have been on air, in the profile where that was least often."""
        key = (use.service, use.stream)
        names = [(profile, *key, use.mki) for profile in self.streams[key].profiles]
        return min((len(self._airings.get(name, ())) for name in names if name in self._stkms), default=0)

    def stopped(self, key: StreamKey) -> None:
        """An encoder stopped."""
        self._on_air.pop(key, None)

    # --- what viewers see -----------------------------------------------------------------------------------------------

    def _entitles(self, who: Who, grant: Granted, key: StreamKey, fact: StkmFact, *, now_too: bool) -> KeyRef | None:
        """The key of a STKM that a right gave to this viewer.

        A right gives the keys that were made before it was withdrawn (R10).  A card opens what starts inside the right; a device
        has the whole validity of a key that a right meets, as a BCRO has no narrower window here.  ``now_too``: it still holds.
        """
        right = grant.right
        if (right.service, right.stream) != key or (now_too and grant.withdrawn <= self.now):
            return None
        for ref in fact.keys:
            made = self._keys.get((*key, *ref))
            if made is None or made.created >= grant.withdrawn:
                continue
            if ref[0] == "SEK":
                if right.start <= fact.start < right.end:
                    return ref
            elif right.content == made.programme and right.start < made.valid_to and made.valid_from < right.end:
                return ref
        return None

    def opened(self, who: Who, service: str, stream: int, name: bytes, until: float) -> None:
        """A terminal obtained a TEK: only of a period, and under a key, that a right of its viewer gave it."""
        key = (service, stream)
        who.opened[service, stream, name] = until
        facts = self._stkms.get((who.profile, *key, name), [])
        if not facts:
            self.violate(f"{who.name} obtained a key that nobody sent")
        elif not any(self._entitles(who, grant, key, fact, now_too=False) for fact in facts for grant in who.grants):
            self.violate(f"{who.name} opened period {facts[0].start} of {service} without a right")

    def sample(self, who: Who, use: UseKey, holds: bool, *, held: bool) -> None:
        """A look at a viewer: ``use`` protects what is on air, ``holds``: his terminal has that TEK; ``held``: past its period."""
        self.samples += 1
        if holds:
            return
        reason = self._excuse(who, use, held)
        if reason:
            self.excused[reason] += 1
        else:
            self.dark += 1
            self.violate(f"{who.name} is dark on {use.service}, period {use.start}")

    def _excuse(self, who: Who, use: UseKey, held: bool) -> str:
        """The rule by which a viewer may be dark; empty when none."""
        key = (use.service, use.stream)
        facts = self._stkms.get((who.profile, *key, use.mki), [])
        if not facts:
            return "no STKM of this profile (R15)"
        given = [(g, ref) for g in who.grants for f in facts if (ref := self._entitles(who, g, key, f, now_too=True)) is not None]
        if not given:
            return "not entitled to this period (R3, R9)"
        if who.opened.get((*key, use.mki), self.now) < self.now and held:
            return "held longer than traffic_key_lifetime (R42)"
        came = min(self._came(who, grant, (*key, *ref)) for grant, ref in given)
        if self.now < came + HEAL:
            return "LTKM on its way (R7)"
        if key not in who.tuned:
            return "not tuned"
        # Without a live TEK it collects, and opens nothing from the future; its LTKM may have come as late as that.
        dark = not any(until > self.now for name, until in who.opened.items() if name[:2] == key)
        since = max(who.tuned[key], came + HEAL, max(f.start for f in facts) if dark else 0)
        chances = [t for t in self._airings.get((who.profile, *key, use.mki), []) if t >= since]
        if len(chances) < HEARD or self.now < chances[0] + TUNE_IN + 1:
            return "tuning in (R6)"
        return ""

    def _came(self, who: Who, grant: Granted, name: tuple[str, int, str, bytes]) -> float:
        """When the LTKM of a key for this viewer was first on air after his right; if never, when it was due."""
        due = max(grant.at, self._keys[name].created)
        if name[2] == "SEK":
            times = self._ltkms.get((who.idr, name[3]), [])
        else:
            config = self.streams[name[0], name[1]]
            bci = bytes(BCI(config.socID, config.serviceBaseCID, int.from_bytes(name[3], "big")))
            times = [t for t, bcro in self._bcros.get(bci, []) if self._addresses(who, bcro)]
        return next((t for t in times if t >= due), due)

    @staticmethod
    def _addresses(who: Who, bcro: Bcro) -> bool:
        if bcro.address_mode is AddressMode.UNIQUE_DEVICE:
            return bcro.position_in_group == who.position
        if bcro.address_mode is AddressMode.SUBSET and bcro.bit_access_mask is not None:
            return bool(bcro.bit_access_mask[who.position // 8] >> (7 - who.position % 8) & 1)
        return True
