# SPDX-License-Identifier: Apache-2.0
"""The BSM: subscribers and their rights, long-term keys and their rollover, LTKMs, and the STKMs it seals (F3) or serves (F6).

Without I/O, like the BSD/A: commands, ``receive`` and ``tick`` return the outputs to carry out in order (see ``events``).  One
long-term key is one record that walks through ``tables.KEY``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pybcast import codec
from pybcast.errors import BcastError, LocalFlowError, PeerFlowError, WireError
from pybcast.flows import stkm
from pybcast.flows.allocator import Allocator, Sealed
from pybcast.flows.config import StreamConfig
from pybcast.flows.events import Alarm, FlowDone, Journal, Output
from pybcast.flows.ltkm import Addressee, Group, Issuer, Letter, Page, Right, Subscriber
from pybcast.flows.peer import Asked, Peering
from pybcast.flows.schedule import Period
from pybcast.flows.serial import counter_of, near
from pybcast.flows.spcp import ALL_SERVICES, MAX_DATA, BackendMessage, KeyMaterial, KeyType, PartialItem, Profile, StkmItem
from pybcast.flows.tables import KEY, KeyEvent, KeyState, Side, Status, Tag, step
from pybcast.messages import PartialDrmStkm, PartialSmartcardStkm
from pybcast.secret import Secret

PROGRAMME_EXTENSIONS: Final = 0x80000000
"""programme_CID_extension numbers begin here: a BCI does not say whether it names a service or a programme - confidence: own."""
KEY_NUMBER_JUMP: Final = 256  # after a restore from an older copy: past key ids that copy cannot know of (R2) - confidence: own
HORIZON: Final = 3600.0  # R27: how far ahead a periodStart may lie, beyond look_ahead periods
OFF_AIR_MARGIN: Final = 1  # periods after validTo until a key counts as off air (R10)


@dataclass(frozen=True)
class LongTermKey:
    """One version of a long-term key: ``material`` is what a BSD/A gets; ``programme``: GlobalContentID of a PEAK."""

    material: KeyMaterial
    state: KeyState
    programme: str | None = None
    confirmed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Programme:
    """A programme that can be bought by itself: [start, end) in NTP seconds."""

    service: str
    stream: int
    content: str
    start: int
    end: int


class BSM:
    """One BSM (subscription management) of any number of streams.

    ``me``: its id (absolute URI).  ``fqdn``: its name in MIKEY messages (IDi) and GBA.  ``rights_issuer_id``: SHA-1 of its RSA
    key (DRM Profile).  ``randomness(n)``: n random bytes.  ``state``: what was persisted. ``restored``: True when ``state`` is
    an older copy: COUNTERs jump and every key is rolled (R2).
    """

    def __init__(
        self,
        *,
        me: str,
        fqdn: str,
        streams: Iterable[StreamConfig],
        randomness: Callable[[int], bytes],
        rights_issuer_id: bytes | None = None,
        state: dict[str, dict[tuple[object, ...], object]] | None = None,
        restored: bool = False,
    ) -> None:
        self.me = me
        self._streams = {config.key: config for config in streams}
        self._randomness = randomness
        self._journal = Journal(state)
        self._allocator = Allocator(self._journal)
        self._peers = Peering(me, Side.BSM, self._journal, randomness, self._handle, self._answered)
        self._issuer = Issuer(fqdn, self._journal, randomness, rights_issuer_id)
        self._restored = restored
        self._resumed = False
        self._now = 0.0

    # --- inputs -------------------------------------------------------------------------------------------------------

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]:
        """A back-end message from the authenticated ``peer``."""
        self._begin(now)
        self._peers.receive(message, now, peer)
        self._work(now)
        return self._journal.take()

    def tick(self, now: float) -> list[Output]:
        """Let time pass."""
        self._begin(now)
        self._work(now)
        return self._journal.take()

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [self._peers.next_wakeup(), self._issuer.next_wakeup()]
        for config in self._streams.values():
            for row in self._chain(config):
                m = row.material
                times += [m.valid_from] if row.state is KeyState.ISSUED else []
                times += [m.valid_to - config.rollover_lead, m.valid_to + OFF_AIR_MARGIN * config.period]
        return min((t for t in times if t is not None and t > self._now), default=None)

    # --- subscribers and rights ---------------------------------------------------------------------------------------

    def add_group(self, group: Group, now: float) -> list[Output]:
        """A subscriber group of the DRM Profile."""
        self._journal.put("group", (group.address,), group)
        return self._done(now)

    def add_subscriber(self, subscriber: Subscriber, now: float, registration: bytes | None = None) -> list[Output]:
        """A subscriber with keys agreed at registration; ``registration``: the material to broadcast to him (F1)."""
        self._issuer.add(subscriber)
        if registration is not None:
            name = f"{subscriber.id}/registration"
            self._journal.put("registration", (name,), registration)
            self._offer_registration(name, registration, now)
        return self._done(now)

    def grant(self, subscriber: str, right: Right, now: float) -> list[Output]:
        """A right to a service, or to one programme of it; LTKMs for the keys that exist go out at once."""
        config = self._config(right.service, right.stream)
        self._issuer.grant(subscriber, right)
        for row in self._chain(config):
            if row.state is not KeyState.ENDED and right.start < row.material.valid_to and row.material.valid_from < right.end:
                self._issue(config, row, now, only=self._issuer.addressee(subscriber))
        return self._done(now)

    def withdraw(self, subscriber: str, service: str, stream: int, now: float, *, at_once: bool = False) -> list[Output]:
        """Take every right to a stream away.  A card is told (R3); complete with the next key, which comes early when
        ``at_once`` (R10).
        """
        config = self._config(service, stream)
        self._issuer.forget(config, subscriber)
        for row in self._chain(config):
            if row.state is KeyState.ENDED:
                continue
            if row.material.key_type == "SEK" and self._issuer.is_smartcard(subscriber):
                letter = self._issuer.withdrawal(row.material, subscriber)
                self._broadcast(config, (letter,), row.material.valid_to, now)
            elif row.material.key_type != "SEK" and not self._issuer.is_smartcard(subscriber):
                self._issue(config, row, now, only=self._issuer.addressee(subscriber))
        if at_once:
            self.rekey(service, stream, now)
        return self._done(now)

    def add_programme(self, programme: Programme, now: float) -> tuple[Programme, list[Output]]:
        """A programme with a key of its own (DRM: PEAK) or a window of its own (Smartcard).

        Its edges become boundaries of periods (R9); the start is moved to what is not prepared yet (R5).
        """
        config = self._config(programme.service, programme.stream)
        earliest = self._unprepared(config, now)
        start = max(programme.start, earliest)
        if start != programme.start:
            self._journal.emit(
                Alarm("boundary-deferred", *config.key, f"{programme.content} begins at {start}, not {programme.start} (R5)")
            )
        if start >= programme.end:
            raise LocalFlowError(f"programme {programme.content}: over before it can be protected (R5)")
        held = replace(programme, start=start)
        self._journal.put("programme", (programme.service, programme.stream, programme.content), held)
        for profile in config.profiles:
            if profile == "drm":
                number = PROGRAMME_EXTENSIONS + self._number(config, "PEAK")
                key = KeyMaterial(
                    key_type="PEAK", key_id=number.to_bytes(4, "big"), key=Secret(self._randomness(32)), stream=config.stream,
                    valid_from=start, valid_to=programme.end,
                )  # fmt: skip
                self._enter(config, key, now, programme.content)
            if config.generation == "bsm":
                self._ask_window(config, profile, start, programme.end, now, content=programme.content)
        return held, self._done(now)

    def rekey(self, service: str, stream: int, now: float) -> list[Output]:
        """New long-term keys as soon as entitled terminals can have them (R10); waits for a key that is not on air yet."""
        self._journal.put("rekey", (service, stream), True)
        return self._done(now)

    def parental(self, subscriber: str, rating_type: int, level_granted: int, pin: str | None, now: float) -> list[Output]:
        """Set a parental level on a card; the message is offered like an LTKM."""
        letter = self._issuer.parental(subscriber, rating_type, level_granted, pin)
        config = next((c for c in self._streams.values() if c.smartcard), None)
        if config is None:
            raise LocalFlowError("no stream of the Smartcard Profile to carry it")
        self._broadcast(config, (letter,), int(now) + config.key_period, now)
        return self._done(now)

    # --- terminals with an interaction channel (F6, R35, R36) -----------------------------------------------------------

    def fetch_stkm(
        self, service: str, stream: int, profile: Profile, subscriber: str, now: float, after: int | None = None
    ) -> StkmItem | None:
        """The STKM for a subscriber: of the running period, or the first after the period start ``after``; ``None`` = not yet.

        Raises ``PeerFlowError`` 11 without a right, 22 for an unknown stream.
        """
        config = self._streams.get((service, stream))
        if config is None or profile not in config.profiles:
            raise PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here")
        rights = [r for r in self._issuer.rights(subscriber, config) if r.end > now]
        if not rights:
            raise PeerFlowError(Status.NOT_PERMITTED, "no right to the service")
        for item in self._stkms(config, profile):
            lead = (item.period_end - item.period_start) / 2
            fits = item.period_end > now and (after is None or item.period_start > after) and item.period_start - lead <= now
            if fits and any(r.start <= item.period_start < r.end for r in rights):
                return item
        return None

    def fetch_ltkms(self, subscriber: str, now: float) -> tuple[tuple[bytes, ...], list[Output]]:
        """All LTKMs of a subscriber, made for the interaction channel: a card is asked to verify (V = 1)."""
        found: list[bytes] = []
        for config in self._streams.values():
            for row in self._chain(config):
                if row.state is not KeyState.ENDED:
                    found += self._issuer.personal(config, row.material, subscriber, now, row.programme)
        return tuple(found), self._journal.take()

    def verify(self, data: bytes, now: float) -> tuple[str, list[Output]]:
        """A card's verification or reporting message; gives the subscriber it proves.  ``Integrity`` or ``KeyUnavailable``
        otherwise.
        """
        return self._issuer.verify(data), self._journal.take()

    # --- memory -------------------------------------------------------------------------------------------------------

    def _config(self, service: str, stream: int) -> StreamConfig:
        try:
            return self._streams[service, stream]
        except KeyError:
            raise LocalFlowError(f"no stream {stream} of {service}") from None

    def _chain(self, config: StreamConfig, key_type: KeyType | None = None) -> list[LongTermKey]:
        rows = [row for key, row in self._journal.tables.get("key", {}).items() if key[:2] == config.key]
        found = [r for r in rows if isinstance(r, LongTermKey) and key_type in (None, r.material.key_type)]
        return sorted(found, key=lambda r: r.material.valid_from)

    def keys(self, service: str, stream: int) -> tuple[LongTermKey, ...]:
        """The long-term keys of a stream, oldest first (for views and tests)."""
        return tuple(self._chain(self._config(service, stream)))

    def _store(self, config: StreamConfig, row: LongTermKey) -> None:
        m = row.material
        self._journal.put("key", (*config.key, m.key_type, m.key_id), row)

    def _fire(self, config: StreamConfig, row: LongTermKey, event: KeyEvent) -> LongTermKey:
        after = replace(row, state=step(KEY, row.state, event))
        self._store(config, after)
        return after

    def _number(self, config: StreamConfig, key_type: KeyType) -> int:
        """The next key number or CID extension of a stream; never used twice, stored before use."""
        last = self._journal.tables.get("key-number", {}).get((*config.key, key_type), 0)
        assert isinstance(last, int)
        self._journal.put("key-number", (*config.key, key_type), last + 1)
        return last + 1

    def _keys_at(self, config: StreamConfig, period: Period) -> dict[str, KeyMaterial]:
        """The keys of a period.  ``PeerFlowError`` 21 when one ends or begins inside it."""
        held: dict[str, KeyMaterial] = {}
        for row in self._chain(config):
            m = row.material
            if m.valid_from <= period.start < m.valid_to:
                if period.end > m.valid_to:
                    raise PeerFlowError(Status.INFORMATION_INVALID, f"period {period.start} straddles the end of a key (R9)")
                held[m.key_type] = m
            elif period.start < m.valid_from < period.end:
                raise PeerFlowError(Status.INFORMATION_INVALID, f"period {period.start} straddles the start of a key (R9)")
        return held

    def _unprepared(self, config: StreamConfig, now: float) -> int:
        """The first boundary that no BSD/A can have prepared past."""
        schedule = config.schedule()
        at = int(now) + (config.look_ahead + 2) * config.period
        period = schedule.at(max(at, config.start))
        assert period is not None
        return period.start if period.start >= at else period.end

    def _done(self, now: float) -> list[Output]:
        self._begin(now)
        self._work(now)
        return self._journal.take()

    # --- the work of every input --------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        if self._resumed:
            return
        self._resumed = True
        if self._restored:  # R2
            self._issuer.counters.jump()
            for key, last in list(self._journal.tables.get("key-number", {}).items()):
                assert isinstance(last, int)
                self._journal.put("key-number", key, last + KEY_NUMBER_JUMP)
            for config in self._streams.values():
                if self._chain(config):
                    self._journal.put("rekey", config.key, True)
        for page in self._issuer.pages():
            self._offer(page, now)
        for config in self._streams.values():
            for row in self._chain(config):
                if row.state is not KeyState.ENDED and config.generation == "bsda":
                    self._deliver_key(config, row, now)
        for (name,), data in self._journal.tables.get("registration", {}).items():
            if isinstance(data, bytes) and isinstance(name, str):
                self._offer_registration(name, data, now)

    def _work(self, now: float) -> None:
        self._now = now
        for config in self._streams.values():
            self._age(config, now)
            self._roll(config, now)
        for config, page in list(self._issuer.due(self._streams, now)):
            self._broadcast(config, self._issuer.again(page, self._chain_materials(config)), page.end, now, page)
        self._allocator.prune(now)
        self._peers.tick(now)

    def _chain_materials(self, config: StreamConfig) -> list[KeyMaterial]:
        return [row.material for row in self._chain(config) if row.state is not KeyState.ENDED]

    def _age(self, config: StreamConfig, now: float) -> None:
        for row in self._chain(config):
            m = row.material
            if row.state is KeyState.ISSUED and now >= m.valid_from:
                row = self._fire(config, row, KeyEvent.START)
            if row.state in (KeyState.ISSUED, KeyState.ON_AIR) and now >= m.valid_to + OFF_AIR_MARGIN * config.period:
                self._fire(config, row, KeyEvent.END)
            if row.state is KeyState.ENDED and now >= m.valid_to + 10 * config.period:
                self._journal.drop("key", (*config.key, m.key_type, m.key_id))
                self._issuer.key_ended(m)
        for key, item in list(self._journal.tables.get("received", {}).items()):
            if key[:2] == config.key and isinstance(item, StkmItem) and item.period_end < now:
                self._journal.drop("received", key)

    def _roll(self, config: StreamConfig, now: float) -> None:
        """Make the first keys, the next keys in time, and new ones at once when asked (R10).  Both profiles roll together (R38)."""
        chain = [r for r in self._chain(config) if r.material.key_type in ("SEK", "SEAK")]
        if not chain:
            first = config.schedule().at(max(now, config.start))
            assert first is not None
            self._create(config, first.start, first.start + config.key_period, now)
            return
        waiting = [r for r in chain if r.state in (KeyState.CREATED, KeyState.ISSUED) and r.material.valid_from > now]
        live = {r.material.valid_from for r in chain if r.state is not KeyState.ENDED}
        last = chain[-1].material
        if waiting or len(live) > 1:
            return  # a card keeps two keys: the one before must be off air first
        if config.key in self._journal.tables.get("rekey", {}):
            self._journal.drop("rekey", config.key)
            start = max(self._edge(config, now + config.rekey_lead), last.valid_from + config.granularity)
            if start < last.valid_to:
                self._cut_short(config, start)
                self._create(config, start, start + config.key_period, now, replacing=True)
                return
        if now >= last.valid_to - config.rollover_lead:
            start = max(last.valid_to, int(now) - int(now) % 1)
            if start > last.valid_to:  # we were away: begin on the grid again
                start = self._edge(config, now)
            self._create(config, start, start + config.key_period, now)

    def _edge(self, config: StreamConfig, time: float) -> int:
        """The first period start at or after ``time`` on the stream's grid, counted from the key in force."""
        chain = [r.material for r in self._chain(config) if r.material.key_type in ("SEK", "SEAK")]
        origin = max((m.valid_from for m in chain if m.valid_from <= time), default=config.start)
        return origin + -(-int(max(0, time - origin) // 1 + 1) // config.period) * config.period

    def _cut_short(self, config: StreamConfig, at: int) -> None:
        for row in self._chain(config):
            m = row.material
            if m.key_type in ("SEK", "SEAK") and m.valid_from < at < m.valid_to:
                row = self._fire(config, row, KeyEvent.CUT_SHORT)
                self._store(config, replace(row, material=replace(m, valid_to=at)))
                identity = stkm.key_identity(config, m)
                for name, sealed in list(self._journal.tables.get(Allocator.TABLE, {}).items()):
                    if name[0] == identity and isinstance(name[1], int) and name[1] >= at and isinstance(sealed, Sealed):
                        self._allocator.burn(identity, name[1])

    def _create(self, config: StreamConfig, start: int, end: int, now: float, *, replacing: bool = False) -> None:
        """New keys of all the stream's profiles, valid in [start, end)."""
        if config.smartcard:
            number = self._number(config, "SEK")
            key = KeyMaterial(
                key_type="SEK",
                key_id=config.key_domain_id + config.key_group.to_bytes(2, "big") + number.to_bytes(2, "big"),
                key=Secret(self._randomness(16)), stream=config.stream, valid_from=start, valid_to=end,
                csb_id=self._randomness(4), rand=self._randomness(16),
                ts_low=counter_of(start - 1), ts_high=counter_of(end - 1),
                first_counter=counter_of(start), granularity=config.granularity, next_counter=counter_of(start),
            )  # fmt: skip
            self._enter(config, key, now, replacing=replacing)
        if config.drm:
            key = KeyMaterial(
                key_type="SEAK", key_id=self._number(config, "SEAK").to_bytes(4, "big"), key=Secret(self._randomness(32)),
                stream=config.stream, valid_from=start, valid_to=end, socID=config.socID, serviceBaseCID=config.serviceBaseCID,
            )  # fmt: skip
            self._enter(config, key, now, replacing=replacing)
        if config.generation == "bsm":
            for profile in config.profiles:
                self._ask_window(config, profile, start, end, now, replacing=replacing)

    def _enter(
        self, config: StreamConfig, material: KeyMaterial, now: float, programme: str | None = None, *, replacing: bool = False
    ) -> None:
        """Keep a new key, send its LTKMs, give it to the BSD/As that seal."""
        row = LongTermKey(material, KeyState.CREATED, programme)
        self._store(config, row)
        self._issue(config, row, now)
        row = self._fire(config, row, KeyEvent.ISSUE)
        if config.generation == "bsda":
            self._deliver_key(config, row, now, replacing=replacing)

    # --- LTKMs (F2) and registration (F1) -------------------------------------------------------------------------------

    def _issue(self, config: StreamConfig, row: LongTermKey, now: float, only: Addressee | None = None) -> None:
        try:
            letters = self._issuer.issue(config, row.material, now, row.programme, only)
        except WireError as error:  # R15: no BCRO after 2038-04-22; the other profile goes on
            self._journal.emit(Alarm("ltkm-not-made", *config.key, str(error)))
            return
        for i in range(0, len(letters), MAX_DATA):
            self._broadcast(config, letters[i : i + MAX_DATA], row.material.valid_to, now)

    def _broadcast(self, config: StreamConfig, letters: tuple[Letter, ...], end: int, now: float, old: Page | None = None) -> None:
        """LTKMs become a page of the carousel (R7) and go to the BSD/As of the stream."""
        if not letters:
            return
        page = self._issuer.page(config, letters, end, now, self._peers.new_id, old)
        if config.delivery == "push":
            self._offer(page, now)

    def _offer(self, page: Page, now: float) -> None:
        config = self._streams.get((page.service, page.stream))
        if config is None:
            return
        for bsda in config.bsdas:
            if bsda not in page.confirmed and page.end > now:
                self._peers.ask(
                    Tag.LTKMDelivery, bsda, page.service, now, until=page.end, items=page.data, start=int(now), end=page.end,
                    replaces=page.replaces, message_id=page.message_id if bsda == config.bsdas[0] else None,
                )  # fmt: skip

    def _offer_registration(self, name: str, data: bytes, now: float) -> None:
        sent = self._journal.tables.get("registered", {})
        for bsda in sorted({b for c in self._streams.values() for b in c.bsdas}):
            if (name, bsda) not in sent:
                message_id = self._peers.ask(Tag.RegDelivery, bsda, ALL_SERVICES, now, until=now + 86400, items=(data,))
                self._journal.tables.setdefault("_registration-id", {})[message_id,] = name  # this life only

    # --- keys to the BSD/A (F4), windows (F3) ---------------------------------------------------------------------------

    def _deliver_key(self, config: StreamConfig, row: LongTermKey, now: float, *, replacing: bool = False) -> None:
        if config.delivery == "pull" and not replacing:
            return
        m = row.material
        profile: Profile = "smartcard" if m.key_type in ("SEK", "PEK") else "drm"
        for bsda in config.bsdas:
            if bsda not in row.confirmed and m.valid_to > now:
                self._peers.ask(
                    Tag.KeyDelivery, bsda, config.service, now, until=m.valid_to, profile=profile, stream=config.stream,
                    items=(m,), content=row.programme, replacing=replacing, about=frozenset({m.valid_from}),
                )  # fmt: skip

    def _ask_window(
        self,
        config: StreamConfig,
        profile: Profile,
        start: int,
        end: int,
        now: float,
        *,
        replacing: bool = False,
        content: str | None = None,
    ) -> None:
        """F3, S7 claim 5: periods begin and end here; give what is ready (R32)."""
        for bsda in config.bsdas:
            self._peers.ask(
                Tag.PartialSTKMRequest, bsda, config.service, now, until=min(end, now + 60), profile=profile, stream=config.stream,
                start=start, end=end, replacing=replacing, content=content,
            )  # fmt: skip

    # --- requests from a BSD/A ------------------------------------------------------------------------------------------

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        if message.tag is Tag.RegRequest:
            return self._give_registration(message, now)
        configs = [c for c in self._streams.values() if c.service == message.service]
        if not configs:
            raise PeerFlowError(Status.INVALID_REQUEST, "service not known here")
        if not any(message.source in c.bsdas for c in configs):
            raise PeerFlowError(Status.NOT_PERMITTED, "this BSD/A has no right to the service")
        if message.tag is Tag.LTKMRequest:
            return self._give_ltkms(message, now)
        number = message.stream
        if number is None:
            number = next((i.stream for i in message.items if isinstance(i, StkmItem | PartialItem)), 0)
        config = self._streams.get((message.service, number))
        if config is None or message.profile not in config.profiles or message.source not in config.bsdas:
            raise PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here")
        match message.tag:
            case Tag.TEKDelivery:
                return self._complete(config, message, now)
            case Tag.KeyRequest:
                return self._give_keys(config, message, now)
            case Tag.STKMDelivery:
                return self._take_stkms(config, message, now)
            case _:  # Tag.STKMRequest: check() lets no other through
                low, high = message.start or 0, message.end or 1 << 62
                found = tuple(i for i in self._stkms(config, message.profile) if low <= i.period_start < high)
                return message.answer(Status.SUCCESS if found else Status.NON_EXISTENT, found, now=now)

    def _give_registration(self, message: BackendMessage, now: float) -> BackendMessage:
        if message.service != ALL_SERVICES or not any(message.source in c.bsdas for c in self._streams.values()):
            raise PeerFlowError(Status.NOT_PERMITTED, "no right to registration material (R26)")
        data = tuple(row for row in self._journal.tables.get("registration", {}).values() if isinstance(row, bytes))
        if data:
            self._journal.emit(FlowDone("F1", None, ALL_SERVICES))
        return message.answer(Status.SUCCESS if data else Status.NON_EXISTENT, data, now=now)

    def _give_ltkms(self, message: BackendMessage, now: float) -> BackendMessage:
        data = tuple(d for page in self._issuer.pages() if page.service == message.service and page.end > now for d in page.data)
        if data:
            self._journal.emit(FlowDone("F2", None, message.service))
        return message.answer(Status.SUCCESS if data else Status.NON_EXISTENT, data, now=now)

    def _complete(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F3: complete the partial STKMs, each with its own status (R27, R31)."""
        if config.generation != "bsm":
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made by the BSD/A")
        items = [i for i in message.items if isinstance(i, PartialItem)]
        done = [self._complete_item(config, message.profile or "drm", item, now) for item in items]
        if any(i.status == Status.SUCCESS for i in done):
            self._journal.emit(FlowDone("F3", message.profile, config.service))
        if not config.synchronous:
            ready = tuple(i for i in done if i.status == Status.SUCCESS)
            done = [replace(i, status=Status.DELAYED, content=b"") if i.status == Status.SUCCESS else i for i in done]
            if ready and config.delivery == "push":
                self._peers.ask(
                    Tag.STKMDelivery, message.source, config.service, now, until=max(i.period_end for i in ready),
                    profile=message.profile, stream=config.stream, items=ready,
                )  # fmt: skip
        return message.answer(Status.SUCCESS, tuple(done), now=now)

    def _complete_item(
        self, config: StreamConfig, profile: Profile, item: PartialItem, now: float, *, store: bool = True
    ) -> StkmItem:
        out = StkmItem(stream=item.stream, period_start=item.period_start, period_end=item.period_end, tek_id=item.tek_id)
        period = Period(0, item.period_start, item.period_end)
        try:
            if item.stream != config.stream or not period.start + 2 * period.duration > now > period.start - self._reach(config):
                raise PeerFlowError(Status.INVALID_REQUEST, "periodStart is outside the horizon (R27)")
            content = codec.decode(item.content.reveal(), "drm-stkm" if profile == "drm" else "smartcard-stkm", partial=True)
            assert isinstance(content, PartialDrmStkm | PartialSmartcardStkm)
            held = self._keys_at(config, period)
            first = held.get("SEK" if profile == "smartcard" else "SEAK")
            if first is None:
                coming = any(r.material.valid_to <= period.start for r in self._chain(config))
                raise PeerFlowError(Status.DELAYED if coming else Status.NON_EXISTENT, "no key for that period")
            policy = stkm.Policy.of(first, held.get("PEAK") if profile == "drm" else None)
            data = self._allocator.seal(
                stkm.key_identity(config, first),
                period,
                stkm.owned_digest(config, period, content),
                lambda: stkm.seal(content, config, period, held, policy),
            )
            return replace(out, content=data, authority_end=min(m.valid_to for m in held.values()))
        except PeerFlowError as error:
            return replace(out, status=error.status)
        except WireError as error:
            late = getattr(error, "field", "") == "timestamp" and period.start > stkm.LAST_MJD_TIME
            return replace(out, status=Status.GENERATION_FAILURE if late else Status.INFORMATION_INVALID)

    def _reach(self, config: StreamConfig) -> float:
        return HORIZON + config.look_ahead * config.period

    def _give_keys(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F4, pulled: the keys from the first uncovered period on; new ones for a BSD/A that lost its store (R33)."""
        if config.generation != "bsda":
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made by the BSM")
        wanted: KeyType = "SEK" if message.profile == "smartcard" else "SEAK"
        start = message.start if message.start is not None else int(now)
        chain = [r for r in self._chain(config) if r.material.key_type in (wanted, "PEAK" if wanted == "SEAK" else wanted)]
        if message.fresh:
            since = self._journal.tables.get("fresh", {}).get((*config.key, message.source))
            if since is None:
                self._journal.put("fresh", (*config.key, message.source), int(now))
                self._journal.put("rekey", config.key, True)
                raise PeerFlowError(Status.DELAYED, "a new key is being made")
            assert isinstance(since, int)
            chain = [r for r in chain if r.material.valid_from > since and r.material.key_type == wanted]
            if not chain:
                raise PeerFlowError(Status.DELAYED, "a new key is being made")
        found = tuple(r.material for r in chain if r.material.valid_to > start and r.material.valid_to > now)
        if not found:
            raise PeerFlowError(Status.DELAYED if chain else Status.NON_EXISTENT, "no key for that time")
        self._journal.emit(FlowDone("F4", message.profile, config.service))
        return message.answer(Status.SUCCESS, found, now=now)

    # --- STKMs for terminals (F6) and for the BSD/A (F5) ----------------------------------------------------------------

    def _stkms(self, config: StreamConfig, profile: Profile) -> Iterator[StkmItem]:
        """Every STKM of a stream at hand, in order of its period."""
        found: dict[int, StkmItem] = {}
        identities = {
            stkm.key_identity(config, r.material): r.material
            for r in self._chain(config, "SEK" if profile == "smartcard" else "SEAK")
        }
        for (identity, start), row in self._journal.tables.get(Allocator.TABLE, {}).items():
            if identity in identities and isinstance(row, Sealed) and isinstance(start, int) and not row.burnt:
                found[start] = StkmItem(
                    stream=config.stream, period_start=start, period_end=row.until, tek_id=f"{config.stream}-{start}",
                    content=row.data, authority_end=identities[identity].valid_to,
                )  # fmt: skip
        for key, item in self._journal.tables.get("received", {}).items():
            if key[:3] == (*config.key, profile) and isinstance(item, StkmItem):
                found[item.period_start] = item
        return iter([found[start] for start in sorted(found)])

    def _take_stkms(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F6: STKMs sealed by the BSD/A, for terminals on the interaction channel.  All or nothing."""
        items = [i for i in message.items if isinstance(i, StkmItem) and i.status == Status.SUCCESS]
        assert message.profile is not None
        for item in items:
            self._check_stkm(config, message.profile, item, now)
        for item in items:
            self._journal.put("received", (*config.key, message.profile, item.period_start), item)
        if items:
            self._journal.emit(FlowDone("F6", message.profile, config.service))
        return message.answer(Status.SUCCESS, now=now)

    def _check_stkm(self, config: StreamConfig, profile: Profile, item: StkmItem, now: float) -> None:
        if not item.period_start + 2 * (item.period_end - item.period_start) > now > item.period_start - self._reach(config):
            raise PeerFlowError(Status.INVALID_REQUEST, "periodStart is outside the horizon (R27)")
        held = self._keys_at(config, Period(0, item.period_start, item.period_end))
        key = held.get("SEK" if profile == "smartcard" else "SEAK")
        if key is None:
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "no key for that period")
        try:
            if profile == "smartcard":
                clear = codec.open(item.content, stkm.smartcard_keys(key), "smartcard-stkm")
                when = near(getattr(clear, "counter", -1), now)
            else:
                clear = codec.open(item.content, stkm.drm_keys(key, held.get("PEAK")), "drm-stkm")
                when = getattr(clear, "timestamp", None) or -1
        except BcastError as error:
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, f"does not open under the key of its period: {error}") from error
        if when != item.period_start:
            raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "is not of the period it says")

    def request_stkms(self, service: str, stream: int, profile: Profile, start: int, end: int, now: float) -> list[Output]:
        """F6, pulled."""
        config = self._config(service, stream)
        self._peers.ask(
            Tag.STKMRequest, config.bsdas[0], service, now, until=end, profile=profile, stream=stream, start=start, end=end
        )
        return self._journal.take()

    def request_partials(self, service: str, stream: int, profile: Profile, start: int, end: int, now: float) -> list[Output]:
        """F3, pulled: ask the BSD/As for the partial STKMs of a window."""
        self._ask_window(self._config(service, stream), profile, start, end, now)
        return self._journal.take()

    # --- answers --------------------------------------------------------------------------------------------------------

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        message = asked.message
        good = answer.status == Status.SUCCESS
        config = self._streams.get((message.service, message.stream or 0))
        match message.tag:
            case Tag.LTKMDelivery if good:
                self._issuer.confirmed(message.items, message.destination)
                self._journal.emit(FlowDone("F2", None, message.service))
            case Tag.RegDelivery if good:
                name = self._journal.tables.get("_registration-id", {}).get((message.message_id,))
                self._journal.put("registered", (name, message.destination), True)
                self._journal.emit(FlowDone("F1", None, message.service))
            case Tag.KeyDelivery if good and config is not None:
                for item in message.items:
                    if isinstance(item, KeyMaterial):
                        self._confirm_key(config, item, message.destination)
                self._journal.emit(FlowDone("F4", message.profile, message.service))
            case Tag.STKMDelivery if good:
                self._journal.emit(FlowDone("F5", message.profile, message.service))
            case Tag.PartialSTKMRequest if good and config is not None:
                self._complete_pulled(config, message, answer, now)
            case Tag.STKMRequest if good and config is not None:
                assert message.profile is not None
                for item in answer.items:
                    if isinstance(item, StkmItem) and item.status == Status.SUCCESS:
                        try:
                            self._check_stkm(config, message.profile, item, now)
                        except PeerFlowError as error:
                            self._journal.emit(Alarm("stkm-refused", *config.key, str(error)))
                        else:
                            self._journal.put("received", (*config.key, message.profile, item.period_start), item)
                self._journal.emit(FlowDone("F6", message.profile, message.service))
        if not good and answer.status != Status.DELAYED:
            self._journal.emit(Alarm("refused", message.service, message.stream, f"tag {int(message.tag)}: status {answer.status}"))

    def _confirm_key(self, config: StreamConfig, material: KeyMaterial, bsda: str) -> None:
        row = self._journal.tables.get("key", {}).get((*config.key, material.key_type, material.key_id))
        if isinstance(row, LongTermKey):
            self._store(config, replace(row, confirmed=row.confirmed | {bsda}))

    def _complete_pulled(self, config: StreamConfig, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        """F3, pulled: the partials came with the answer; the STKMs go back by F5."""
        items = [i for i in answer.items if isinstance(i, PartialItem)]
        done = tuple(self._complete_item(config, message.profile or "drm", item, now) for item in items)
        ready = tuple(i for i in done if i.status == Status.SUCCESS)
        for item in done:
            if item.status not in (Status.SUCCESS, Status.DELAYED):
                self._journal.emit(Alarm("not-sealed", *config.key, f"period {item.period_start}: status {item.status}"))
        if ready:
            self._journal.emit(FlowDone("F3", message.profile, config.service))
            self._peers.ask(
                Tag.STKMDelivery, answer.source, config.service, now, until=max(i.period_end for i in ready),
                profile=message.profile, stream=config.stream, items=ready, replacing=message.replace,
            )  # fmt: skip
