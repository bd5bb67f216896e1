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
from pybcast.codec import WITHDRAWAL
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
from pybcast.flows.bsda.periods import PeriodBlock
from pybcast.flows.journal import State
from pybcast.flows.serial import MOD, counter_of, in_window
from pybcast.flows.stream.config import CAROUSEL_CYCLE, REISSUE_CYCLES, TUNE_IN, StreamId
from pybcast.flows.stream.schedule import REPETITIONS_AHEAD
from pybcast.keys import SMK, Keys, ipsec_spi, key_indicator, mki
from pybcast.messages import (
    AddressMode,
    Bcro,
    ClearSmartcardLtkm,
    DrmStkm,
    Protocol,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardStkm,
)
from pybcast.wire.content_id import BCI

KeyRef = tuple[str, bytes]
"""(key type, key id) as ``KeyMaterial`` has them."""

SLACK: Final = 60.0
"""Seconds that servers and their link may be down in a simulation: by so much an LTKM may come on air late."""
CYCLES: Final = 10
"""Turns of the carousel after which a terminal has heard an object that turns on it, whatever the air loses."""
HEARD: Final = 2 * REPETITIONS_AHEAD
"""STKM repetitions after which a tuned terminal has heard one, whatever the air loses (R6, R40)."""


@dataclass
class KeyFact:
    """A long-term key: when the BSM made it and as which one, its validity as it was made, the programme of a PEAK."""

    created: float
    number: int
    valid_from: int
    valid_to: int
    programme: str | None
    csb_id: bytes | None


@dataclass(frozen=True)
class StkmFact:
    """A STKM that left a server: of which period, under which keys."""

    start: int
    keys: tuple[KeyRef, ...]


@dataclass(frozen=True)
class LtkmFact:
    """An LTKM: for whom (IDr, or a BCRO's address), under which COUNTER or timestamp, with which keys and window."""

    idr: bytes
    bcro: Bcro | None
    order: int
    keys: tuple[bytes, ...]
    window: tuple[int, int] = WITHDRAWAL


@dataclass
class Granted:
    """A right, from the moment the BSM took it to the moment it took it away.

    ``keys_made``: how many keys there were at that moment: time alone does not order what happens in one instant.
    """

    right: Right
    at: float
    withdrawn: float = float("inf")
    keys_made: int = 1 << 62


@dataclass
class Who:
    """A viewer as the watchers see him: his rights, and what his terminal obtained until when."""

    name: str
    profile: Profile
    idr: bytes = b""
    position: int = -1
    registration: bytes = b""
    grants: list[Granted] = field(default_factory=list)
    tuned: dict[StreamId, float] = field(default_factory=dict)
    opened: dict[tuple[str, int, bytes], float] = field(default_factory=dict)
    hearing: Hearing = field(default_factory=lambda: Hearing())


@dataclass
class Hearing:
    """What a terminal has heard of the carousel.

    ``usable``: LTKM -> when its agent has it at the latest.  ``first``: SEK -> when its first LTKM was heard, and its TS low.
    """

    registered: bool = False
    highest: int = -1
    usable: dict[bytes, float] = field(default_factory=dict)
    first: dict[bytes, tuple[float, int]] = field(default_factory=dict)


class Watch:
    """The invariants.  ``streams``: the configurations, by (service, stream)."""

    def __init__(self, streams: dict[StreamId, StreamConfig]) -> None:
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
        self._facts: dict[bytes, LtkmFact | None] = {}
        self.smks: dict[bytes, SMK] = {}
        self._put: dict[bytes, float] = {}
        self._carrying: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._made: dict[bytes, int] = {}
        self._forgotten: set[bytes] = set()
        self._repeated: dict[bytes, float] = {}
        self._groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._on_air: dict[StreamId, UseKey] = {}

    def violate(self, text: str) -> None:
        self.violations.append(f"t={self.now:.3f}: {text}")

    def once(self, what: str, name: tuple[object, ...], value: object) -> None:
        """One name, one value, for ever."""
        if self._once.setdefault((what, *name), value) != value:
            self.violate(f"{what}: {name}")

    # --- what leaves a process ------------------------------------------------------------------------------------------

    def message(self, message: BackendMessage, stored: State) -> None:
        """A back-end message; ``stored``: what its sender has on disk at this moment."""
        asked = (message.source, message.message_id)
        repeated = ("two messages with one messageID (R27)", *asked) in self._once
        if not message.is_answer:
            self.once("two messages with one messageID (R27)", asked, message.digest())
        keys = stored.get("key", {})
        for item in message.items:
            if isinstance(item, StkmItem) and item.content and message.profile is not None:
                self.stkm(message.profile, message.service, item.stream, item.period_start, item.content)
            elif isinstance(item, bytes):
                self.ltkm(item)
            elif repeated:
                continue  # it was stored when it left first, and may have been given up since
            elif isinstance(item, PartialItem) and not _stored(stored, message.service, item):
                self.violate(f"a TEK left before it was stored (R41): period {item.period_start}")
            elif isinstance(item, KeyMaterial) and (message.service, item.stream, item.key_type, item.key_id) not in keys:
                self.violate(f"a key left before it was stored (R41): {item.key_id.hex()}")

    def key(self, service: str, stream: int, row: LongTermKey) -> None:
        """The BSM stored a long-term key."""
        m = row.material
        identity = m.key_id if m.key_type == "SEK" else (m.key_id, service, stream)
        self.once("an id reused for another key", (m.key_type, identity), m.key.reveal())
        self.once("one key, two sealing servers (R1)", (m.key_type, identity), row.sealer)
        number = self._made.setdefault(m.key_id, len(self._made))
        fact = KeyFact(self.now, number, m.valid_from, m.valid_to, row.programme, m.csb_id)
        self._keys.setdefault((service, stream, m.key_type, m.key_id), fact)

    def withdraw(self, grant: Granted, now: float) -> None:
        """A right is taken away: it gives no key that is made from now on (R10)."""
        grant.withdrawn, grant.keys_made = now, len(self._made)

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
        # All its keys: a headend that lost touch before it was told of a programme seals without that programme's key.
        self.once("two STKMs for one key and period (R33, R42)", (profile, service, stream, keys, start), data)
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
        fact = self._fact(data)
        if fact is None:
            return
        if data not in self._put:
            for name in fact.keys:
                self._carrying[name].append(data)
        self._put[data] = self.now
        if fact.bcro is None:
            self._two_keys(fact.keys[0])

    def _fact(self, data: bytes) -> LtkmFact | None:
        """What an object of the carousel says; ``None`` when it is no LTKM."""
        if data not in self._facts:
            self._facts[data] = None
            if data[:1] == b"\x20":
                bcro = codec.decode(data, "drm-ltkm")
                assert isinstance(bcro, Bcro)
                names = tuple(bytes(asset.BCI) for asset in bcro.assets)
                self._facts[data] = LtkmFact(b"", bcro, bcro.bcro_timestamp or 0, names)
            elif data[:1] == b"\x01":
                try:
                    message = codec.decode(data, "smartcard-ltkm")
                except WireError:
                    return None
                assert isinstance(message, SmartcardLtkm)
                names, window = (message.key_domain_id + message.sek_id,), WITHDRAWAL
                if message.idr in self.smks:
                    clear = codec.open(data, Keys(smk=self.smks[message.idr]), "smartcard-ltkm")
                    assert isinstance(clear, ClearSmartcardLtkm)
                    window = (clear.ts_low, clear.ts_high)
                self._facts[data] = LtkmFact(message.idr, None, message.counter, names, window)
        return self._facts[data]

    def heard(self, who: Who, data: bytes) -> None:
        """An object of the carousel reached a terminal.

        It collects for a cycle and feeds its card in rising COUNTER (R7): what comes after a later LTKM may come too late, and
        counts as lost.  So does what comes before its registration, which may be fed all the same when that comes in time.
        """
        hearing = who.hearing
        if data == who.registration:
            hearing.registered = True
        fact = self._fact(data)
        if fact is None or not self._addresses(who, fact):
            return
        if fact.bcro is None:
            if fact.order < hearing.highest:
                return
            hearing.highest = fact.order
        if not hearing.registered:
            return
        if fact.bcro is None and fact.window != WITHDRAWAL:
            hearing.first.setdefault(fact.keys[0], (self.now, fact.window[0]))
        hearing.usable.setdefault(data, self.now + CAROUSEL_CYCLE)

    def _two_keys(self, identity: bytes) -> None:
        """A card keeps two keys of a group: no LTKM of SEK n+2 while SEK n is on air (R10)."""
        issued = self._groups[identity[:5]]
        if identity in issued:
            return
        issued.append(identity)
        issued.sort(key=lambda name: self._made.get(name, len(self._made)))  # they may come on air in another order
        for old in issued[: max(0, issued.index(identity) - 1)]:
            if not self._pushed_out(old) and self.now - self._repeated.get(old, 0.0) < 1:
                self.violate(f"LTKM of {identity.hex()} while {old.hex()} is on air: a card keeps two keys (R10)")

    def restored(self, known: State) -> None:
        """The BSM goes on from an older copy: the keys that it made since are forgotten, and still on cards and on air (R2)."""
        kept = {row.material.key_id for row in known.get("key", {}).values() if isinstance(row, LongTermKey)}
        self._forgotten |= {name[3] for name in self._keys} - kept

    def _pushed_out(self, identity: bytes) -> bool:
        """Whether a SEK may be missing on cards because the BSM remembers neither all of its group nor what is on air."""
        issued = self._groups[identity[:5]]
        later = issued[issued.index(identity) + 1 :] if identity in issued else []
        return len(later) >= 2 and bool(self._forgotten & {identity, *later})

    def announce(self, output: Announce, before: int | None, now: float) -> None:
        """A server begins to repeat STKMs; ``before``: length of the period before theirs; ``now``: what its clock says."""
        for stkm in output.stkms:
            self.stkm(stkm.profile, output.service, output.stream, output.start, stkm.data)
            self.one_stkm(stkm.profile, output.service, output.stream, output.start, stkm.data)
        if before is not None and now < output.start - before / 2 - 0.01:
            self.violate(f"STKM of {output.start} announced {output.start - now:.1f} s ahead: more than half a period (R6)")

    def one_stkm(self, profile: Profile, service: str, stream: int, start: int, data: bytes) -> None:
        """A STKM goes on air, or to a terminal: one for each profile, stream and period, whatever key it is under (R50)."""
        self.once("two STKMs for one period (R50)", (profile, service, stream, start), data)

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
        count = self.aired_so_far(use)
        if count < REPETITIONS_AHEAD:
            self.violate(f"TEK of {use.start} of {use.service} in use after {count} repetitions of its STKM (R40)")

    def aired_so_far(self, use: UseKey) -> int:
        """How often the STKMs of a key have been on air, in the profile where that was least often."""
        key = (use.service, use.stream)
        names = [(profile, *key, use.mki) for profile in self.streams[key].profiles]
        return min((len(self._airings.get(name, ())) for name in names if name in self._stkms), default=0)

    def stopped(self, key: StreamId) -> None:
        """An encoder stopped."""
        self._on_air.pop(key, None)

    # --- what viewers see -----------------------------------------------------------------------------------------------

    def _entitles(self, who: Who, grant: Granted, key: StreamId, fact: StkmFact, *, now_too: bool) -> KeyRef | None:
        """The key of a STKM that a right gave to this viewer.

        A right gives the keys that were made before it was withdrawn (R10).  A card opens what starts inside the right; a device
        has the whole validity of a key that a right meets, as a BCRO has no narrower window here.  ``now_too``: it still holds.
        """
        right = grant.right
        if (right.service, right.stream) != key or (now_too and grant.withdrawn <= self.now):
            return None
        for ref in fact.keys:
            made = self._keys.get((*key, *ref))
            if made is None or made.number >= grant.keys_made:
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

    def facts(self, who: Who, use: UseKey) -> list[StkmFact]:
        """The STKMs of a viewer's profile that carry a key."""
        return self._stkms.get((who.profile, use.service, use.stream, use.mki), [])

    def entitled(self, who: Who, use: UseKey, fact: StkmFact) -> bool:
        """Whether a right that still holds gives a viewer this STKM."""
        key = (use.service, use.stream)
        return any(self._entitles(who, grant, key, fact, now_too=True) is not None for grant in who.grants)

    def _excuse(self, who: Who, use: UseKey, held: bool) -> str:
        """The rule by which a viewer may be dark; empty when none."""
        key = (use.service, use.stream)
        facts = self.facts(who, use)
        if not facts:
            return "no STKM of this profile (R15)"
        given = [
            (grant, ref, fact.start)
            for grant in who.grants
            for fact in facts
            if (ref := self._entitles(who, grant, key, fact, now_too=True)) is not None
        ]
        if not given:
            return "not entitled to this period (R3, R9)"
        if who.opened.get((*key, use.mki), self.now) < self.now and held:
            return "held longer than traffic_key_lifetime (R42)"
        if who.profile == "smartcard" and any(self._pushed_out(ref[1]) for _, ref, _ in given):
            return "a key that an older copy forgot took its room (R2, R10)"
        if who.profile == "smartcard" and all(self._passed(who, ref[1], start) for _, ref, start in given):
            return "a later window came first: the card's COUNTER is past this one (R3)"
        usable = min(self._usable(who, grant, (*key, *ref), start) for grant, ref, start in given)
        if usable < 0:
            return ""  # nobody issued it
        if self.now < usable + TUNE_IN:
            return "LTKM on its way, or lost and not issued again yet (R7)"
        if key not in who.tuned:
            return "not tuned"
        # Without a live TEK it collects, and opens nothing from the future.
        dark = not any(until > self.now for name, until in who.opened.items() if name[:2] == key)
        since = max(who.tuned[key], usable, max(f.start for f in facts) if dark else 0)
        chances = [t for t in self._airings.get((who.profile, *key, use.mki), []) if t >= since]
        if len(chances) < HEARD or self.now < chances[HEARD - 1] + TUNE_IN + 0.5:
            return "tuning in (R6)"
        return ""

    @staticmethod
    def _passed(who: Who, identity: bytes, start: int) -> bool:
        """Whether the first LTKM of a SEK that reached the card began after this period: the ones before it were lost."""
        first = who.hearing.first.get(identity)
        return first is not None and 0 < (first[1] - counter_of(start)) % MOD < 1 << 31

    def _usable(self, who: Who, grant: Granted, name: tuple[str, int, str, bytes], start: int) -> float:
        """Since when his agent has a key by this right; infinity = not yet; -1 = it ought to, but nothing on air brings it."""
        due = max(grant.at, self._keys[name].created)
        identity = name[3]
        if name[2] != "SEK":
            config = self.streams[name[0], name[1]]
            identity = bytes(BCI(config.socID, config.serviceBaseCID, int.from_bytes(name[3], "big")))
        letters = [fact for data in self._carrying[identity] if (fact := self._facts[data]) is not None and fact.idr == who.idr]
        withdrawn = max((fact.order for fact in letters if fact.bcro is None and fact.window == WITHDRAWAL), default=-1)
        mine = [
            data
            for data in self._carrying[identity]
            if (fact := self._facts[data]) is not None
            and self._addresses(who, fact)
            and self._put[data] >= due
            and (fact.bcro is not None or (fact.order > withdrawn and in_window(counter_of(start), *fact.window)))
        ]
        since = min((who.hearing.usable[d] for d in mine if d in who.hearing.usable), default=float("inf"))
        if since != float("inf"):
            return since
        # A card's LTKM may be lost, and lost again: but it must be issued again (R7).  A BCRO comes round and round.
        newest = max((self._put[d] for d in mine), default=due)
        patience = REISSUE_CYCLES * CAROUSEL_CYCLE if name[2] == "SEK" else CYCLES * CAROUSEL_CYCLE
        return since if self.now < newest + patience + SLACK else -1

    @staticmethod
    def _addresses(who: Who, fact: LtkmFact) -> bool:
        bcro = fact.bcro
        if bcro is None or who.profile != "drm":
            return bcro is None and fact.idr == who.idr
        if bcro.address_mode is AddressMode.UNIQUE_DEVICE:
            return bcro.position_in_group == who.position
        if bcro.address_mode is AddressMode.SUBSET and bcro.bit_access_mask is not None:
            return bool(bcro.bit_access_mask[who.position // 8] >> (7 - who.position % 8) & 1)
        return True


def _stored(state: State, service: str, item: PartialItem) -> bool:
    """Whether the TEK of a period is on disk."""
    blocks = [row for key, row in state.get("period", {}).items() if key[:2] == (service, item.stream)]
    records = [record for block in blocks if isinstance(block, PeriodBlock) for record in block.records]
    return any(record.period.start == item.period_start for record in records)
