# SPDX-License-Identifier: Apache-2.0
"""The BSM: subscribers and their rights, long-term keys and their rollover, LTKMs, and the STKMs it seals (F3) or serves (F6).

Without I/O, like the BSD/A: commands, ``receive`` and ``tick`` return the outputs to carry out in order (see ``events``).
The keys are ``keychain``'s, the LTKMs ``ltkm``'s; here is what passes between the BSM, its BSD/As and its operator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from pybcast import codec
from pybcast.errors import BcastError, LocalFlowError, PeerFlowError, WireError
from pybcast.flows.agenda import TURN, Agenda
from pybcast.flows.bsm.attempts import Attempts
from pybcast.flows.bsm.keychain import KeyChain, LongTermKey, Loss, Programme
from pybcast.flows.bsm.ltkm import Batch, Group, Issuer, Job, Page
from pybcast.flows.bsm.members import JournalMembers, Members, PageKey, Right, Subscriber
from pybcast.flows.events import Alarm, FlowDone, Output
from pybcast.flows.journal import Journal
from pybcast.flows.peers.exchange import Asked, Peering
from pybcast.flows.peers.messages import (
    ALL_SERVICES,
    MAX_DATA,
    SERVICE_KEY,
    BackendMessage,
    KeyMaterial,
    PartialItem,
    Profile,
    StkmItem,
)
from pybcast.flows.restart import Recoveries, Start, counters_in
from pybcast.flows.serial import near
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import RESTORE_JUMP, Allocator, Ask
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import KeyState, Side, Status, Tag, status_words
from pybcast.messages import PartialDrmStkm, PartialSmartcardStkm, Reporting

HORIZON: Final = 3600.0  # R27: how far ahead a periodStart may lie, beyond look_ahead periods
ISSUED_AT_ONCE: Final = 1000  # letters made in one go, some 20 ms: STKMs do not wait longer for them - confidence: own
ISSUE_PAUSE: Final = 0.01  # seconds between one go and the next, for everything else - confidence: own
PULL_OCTETS: Final = 40_000_000  # of LTKMs in one answer: in XML under the 64 MiB of R30 - confidence: own
JOBS_AT_ONCE: Final = 50  # keys looked at in one go, for the same reason - confidence: own
PAGES_IN_FLIGHT: Final = 4  # LTKMDeliveries to a BSD/A at once; the others wait in the store, not in memory - confidence: own
REOFFER: Final = 10.0  # seconds until a key or window that a BSD/A refused is offered again - confidence: own


@dataclass(frozen=True)
class Enrolment:
    """A subscriber, what he may see, and the registration material to broadcast to him (F1)."""

    subscriber: Subscriber
    rights: tuple[Right, ...] = ()
    registration: bytes | None = None


@dataclass(frozen=True)
class Later:
    """No STKM yet.  ``at``: NTP seconds from which one that is sealed already may go out; ``None``: none is sealed."""

    at: float | None = None


@dataclass(frozen=True)
class Issuing:
    """A key on its way to everyone entitled: ``done`` letters, ``of`` rights there were when it began."""

    service: str
    stream: int
    done: int
    of: int


class _Wanted(NamedTuple):
    """A partial STKM that may be completed, and its place in the message."""

    n: int
    item: PartialItem
    content: stkm.Partial
    ask: Ask


def _refused(item: PartialItem, status: int, edge: int | None = None) -> StkmItem:
    return StkmItem(
        stream=item.stream, period_start=item.period_start, period_end=item.period_end, tek_id=item.tek_id, status=status,
        authority_end=edge,
    )  # fmt: skip


def _status_of(error: BcastError, item: PartialItem) -> int:
    """What a BSD/A is told of an item that is not sealed (R27)."""
    if isinstance(error, PeerFlowError):
        return error.status
    late = getattr(error, "field", "") == "timestamp" and item.period_start > stkm.LAST_MJD_TIME
    return Status.GENERATION_FAILURE if late else Status.INFORMATION_INVALID


def _runs(items: Iterable[PartialItem]) -> Iterator[list[PartialItem]]:
    """The items in runs, in each of which none begins before the one ahead of it ends."""
    run: list[PartialItem] = []
    for item in items:
        if run and item.period_start < run[-1].period_end:
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _registration(subscriber: str) -> str:
    return f"{subscriber}/registration"


class BSM:
    """One BSM (subscription management) of any number of streams.

    ``me``: its id (absolute URI).  ``fqdn``: its name in MIKEY messages (IDi) and GBA.  ``rights_issuer_id``: SHA-1 of its RSA
    key (DRM Profile).  ``randomness(n)``: n random bytes.  ``state``: what was persisted.  ``start``: what is known of the time
    before, where a process starts: COUNTERs and key numbers move forward, and after a restore every key is rolled (R2, R51);
    ``None``: this machine goes on where the one before it stopped, in one process.  ``members``: who has a card, by default kept
    in ``state`` too.
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
        start: Start | None = None,
        members: Members | None = None,
    ) -> None:
        self.me = me
        self._streams = {config.key: config for config in streams}
        self._randomness = randomness
        self._journal = Journal(state)
        self._allocator = Allocator(self._journal)
        self._peers = Peering(me, Side.BSM, self._journal, randomness, self._handle, self._answered, self._expired)
        self._issuer = Issuer(
            fqdn, self._journal, JournalMembers() if members is None else members, randomness, rights_issuer_id,
            self._streams.values(),
        )  # fmt: skip
        self._attempts = Attempts(self._journal, self._peers, self._mark_lost)
        self._keys = KeyChain(self._journal, self._allocator, randomness, self._issue, self._issuer.key_ended, self._attempts)
        self._services: dict[str, list[tuple[str, int]]] = {}
        for key in self._streams:
            self._services.setdefault(key[0], []).append(key)
        self._bsdas = sorted({b for c in self._streams.values() for b in c.bsdas})
        self._wakes: Agenda[tuple[str, int]] = Agenda()
        self._touched: dict[tuple[str, int], None] = {}
        self._offers: dict[tuple[object, ...], tuple[str, float, int]] = {}
        self._polls: dict[tuple[str, int], float] = {}
        self._registrations: dict[str, str] = {}
        self._jobs = {name: None for name in self._journal.rows("issue", Job) if name[:2] in self._streams}
        self._to_deliver: dict[str, dict[str, PageKey]] = {}
        self._in_flight: dict[str, set[str]] = {}
        self._pulled: dict[tuple[str, str], PageKey] = {}
        self.recoveries = Recoveries(self._journal)
        """What is still to be done for a store that was put back."""
        self._start = start
        self._resumed = False
        self._now = self._next_go = 0.0

    # --- inputs -------------------------------------------------------------------------------------------------------

    def receive(self, message: BackendMessage, now: float, peer: str) -> list[Output]:
        """A back-end message from the authenticated ``peer``."""
        self._begin(now)
        self._peers.receive(message, now, peer)
        return self._done(now)

    def tick(self, now: float) -> list[Output]:
        """Let time pass.  What takes many inputs, LTKMs for everyone above all, goes on here, and only here: nobody's request waits
        for it.
        """
        self._begin(now)
        self._work(now)
        if not 0 < self._next_go - now <= ISSUE_PAUSE:  # further away: the clock was set back
            self._issue_some(now)
            self._deliver(now)
        return self._take()

    def clock_forward(self, seconds: float, now: float) -> list[Output]:
        """The clock was put forward by so many seconds: a store that was put back unnoticed may be that much older (R51)."""
        self._begin(now)
        self._issuer.skip(counters_in(seconds))
        self._keys.skip(self._streams.values(), seconds)
        return self._done(now)

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [self._wakes.next(), self._peers.next_wakeup(), self._allocator.next_wakeup()]
        due = self._now if self._jobs else self._issuer.next_wakeup()
        times.append(None if due is None else max(due, self._next_go))
        return min((t for t in times if t is not None), default=None)

    # --- subscribers and rights ---------------------------------------------------------------------------------------

    def add_group(self, group: Group, now: float) -> list[Output]:
        """A subscriber group of the DRM Profile."""
        self._journal.put("group", (group.address,), group)
        return self._done(now)

    def add_subscriber(self, subscriber: Subscriber, now: float, registration: bytes | None = None) -> list[Output]:
        """A subscriber with keys agreed at registration; ``registration``: the material to broadcast to him (F1).

        ``LocalFlowError`` for a device whose group has not been added.
        """
        return self.add_subscribers([Enrolment(subscriber, registration=registration)], now)

    def add_subscribers(self, enrolments: Sequence[Enrolment], now: float) -> list[Output]:
        """Many subscribers at once, with their rights; LTKMs for the keys that exist go out on common pages.

        For an import: as many at a time as go into one delivery (``MAX_DATA``) are one short input.  ``LocalFlowError`` as for
        :meth:`add_subscriber`; then none of them is added.
        """
        for right in (right for enrolment in enrolments for right in enrolment.rights):
            self._config(right.service, right.stream)
        self._begin(now)
        self._issuer.add([enrolment.subscriber for enrolment in enrolments])
        for enrolment in enrolments:
            if enrolment.registration is not None:
                name = _registration(enrolment.subscriber.id)
                if self._journal.get("registration", (name,), bytes) != enrolment.registration:
                    self._forget_registration(name)
                self._journal.put("registration", (name,), enrolment.registration)
                self._offer_registration(name, enrolment.registration, now)
        return self._grant([(enrolment.subscriber.id, right) for enrolment in enrolments for right in enrolment.rights], now)

    def grant(self, subscriber: str, right: Right, now: float) -> list[Output]:
        """A right to a service, or to one programme of it; LTKMs for the keys that exist go out at once.

        A key that is on its way to everyone reaches a card when its turn comes (:meth:`issuing`).
        """
        return self.grant_many([(subscriber, right)], now)

    def grant_many(self, rights: Sequence[tuple[str, Right]], now: float) -> list[Output]:
        """The same for many.  ``LocalFlowError`` as for one; then none of them is granted."""
        for name, right in rights:
            self._config(right.service, right.stream)
            self._issuer.subscriber(name)
        self._begin(now)
        return self._grant(rights, now)

    def _grant(self, rights: Sequence[tuple[str, Right]], now: float) -> list[Output]:
        streams: dict[tuple[str, int], list[tuple[str, Right]]] = {}
        for name, right in rights:
            streams.setdefault(right.key, []).append((name, right))
        for key, some in streams.items():
            config = self._streams[key]
            cards, groups = self._issuer.grant(config, some)
            for row in self._keys.rows(config):
                if row.state is not KeyState.ENDED:
                    self._issue_to(config, row, now, cards, groups)
        return self._done(now, *streams)

    def withdraw(self, subscriber: str, service: str, stream: int, now: float, *, at_once: bool = False) -> list[Output]:
        """Take every right to a stream away.  A card is told (R3); complete with the next key, which comes early when
        ``at_once`` (R10).
        """
        return self.withdraw_many([subscriber], service, stream, now, at_once=at_once)

    def withdraw_many(
        self, subscribers: Sequence[str], service: str, stream: int, now: float, *, at_once: bool = False
    ) -> list[Output]:
        """The same for many, as many at a time as go into one delivery.  ``LocalFlowError`` when one of them is not known; then
        nothing is taken away.
        """
        config = self._config(service, stream)
        self._begin(now)
        cards, groups = self._issuer.forget(config, subscribers)
        for row in self._keys.rows(config):
            if row.state is KeyState.ENDED:
                continue
            if row.material.key_type == "SEK" and cards:
                self._broadcast(config, self._issuer.withdrawal(config, row.material, cards), row.material.valid_to, now)
            elif row.material.key_type != "SEK" and groups:
                self._issue_to(config, row, now, (), groups)
        if at_once:
            self._keys.renew(config)
        return self._done(now, config.key)

    def remove_subscriber(self, subscriber: str, now: float, *, at_once: bool = False) -> list[Output]:
        """Take every right of a subscriber away, as :meth:`withdraw` does, and forget him.

        Of one with a card the name, the COUNTER and a digest of the SMK stay (R2).  His registration material stays on the
        carousels of the BSD/As: the interface knows no message that takes it off alone.
        """
        self._begin(now)
        outputs: list[Output] = []
        for service, stream in self._issuer.streams(subscriber):
            if (service, stream) in self._streams:
                outputs += self.withdraw(subscriber, service, stream, now, at_once=at_once)
        self._issuer.remove(subscriber)
        self._forget_registration(_registration(subscriber))
        return outputs + self._done(now)

    def _forget_registration(self, name: str) -> None:
        self._journal.drop("registration", (name,))
        for bsda in self._bsdas:
            self._journal.drop("registered", (name, bsda))

    def add_programme(self, programme: Programme, now: float) -> tuple[Programme, list[Output]]:
        """A programme with a key of its own (DRM: PEAK) or a window of its own (Smartcard).

        Its edges become boundaries of periods (R9); the start is moved to what is not prepared yet (R5), both to where a TEK ID
        can begin (R8).  ``LocalFlowError`` when nothing is left of it, or when it overlaps another programme (R33).
        """
        config = self._config(programme.service, programme.stream)
        self._begin(now)
        held = self._keys.add_programme(config, programme, now)
        if not config.drm and config.generation == "bsm":
            for bsda in config.bsdas:
                self._ask_window(config, "smartcard", bsda, held.start, held.end, now, content=held.content)
        return held, self._done(now, config.key)

    def remove_programme(self, service: str, streams: Sequence[int], content: str, now: float) -> list[Output]:
        """Take a programme back that nobody can have prepared yet, from all these streams or from none.

        The numbers of its keys are not used again.  A BSD/A may begin and end a period where the programme would have: that harms
        nothing.  ``LocalFlowError`` when periods of it may be prepared, or when a BSD/A seals under its key (F4): no message takes
        a key back.
        """
        configs = [self._config(service, stream) for stream in streams]
        self._begin(now)
        held = [config for config in configs if self._keys.removable(config, content, now)]
        if not held:
            raise LocalFlowError(f"no programme {content} of {service}")
        for config in held:
            for row in self._keys.remove_programme(config, content):
                for bsda in config.bsdas:
                    message_id, _, _ = self._offers.pop((*self._keys.name(config, row), bsda), ("", 0.0, 0))
                    self._peers.cancel(message_id)
        return self._done(now, *[config.key for config in held])

    def rekey(self, service: str, stream: int, now: float, without: Collection[str] = ()) -> list[Output]:
        """New long-term keys as soon as entitled terminals can have them (R10); waits for a key that is not on air yet.

        ``without``: headends that are off air, so that nothing waits for them (R50); each asks for everything anew before it sends
        again.  ``LocalFlowError`` for one that is not of the stream, or when none would be left.
        """
        config = self._config(service, stream)
        if not set(without) < set(config.bsdas):
            raise LocalFlowError(f"{service} stream {stream}: expected some, not all, of its headends {', '.join(config.bsdas)}")
        self._begin(now)
        self._attempts.go_without(config, without, now)
        self._keys.renew(config)
        return self._done(now, config.key)

    def off_air(self, bsda: str) -> bool:
        """Whether the operator said that a BSD/A is off air, and it has not asked for everything anew since (R50)."""
        return any(name[2] == bsda for name in self._journal.rows("off-air", int))

    def set_generation(self, service: str, stream: int, generation: Literal["bsm", "bsda"], now: float) -> list[Output]:
        """Who seals from the next key on (F3 or F4); that key comes at once, or as soon as a card has room for it (R1, R10).

        A key made before stays its sealer's.  Tell the BSD/As too (:meth:`BSDA.set_generation`), and start this BSM with the
        changed configuration next time.
        """
        config = self._config(service, stream)
        if config.generation != generation:
            self._streams[config.key] = replace(config, generation=generation)
            self._attempts.forgo_programme(config, now)
            self._keys.renew(config)
        return self._done(now, config.key)

    def set_policy(self, service: str, stream: int, policy: stkm.Policy, now: float) -> list[Output]:
        """What STKMs say beyond the BSD/A's fields (R31), from the next one that is sealed here (F3) or the next key (F4, R33).

        A period that is sealed already keeps its STKM, whoever asks for it (R1, R5).
        """
        config = self._config(service, stream)
        self._journal.put("policy", config.key, policy)
        return self._done(now, config.key)

    def set_period(self, service: str, stream: int, length: int, now: float) -> list[Output]:
        """The BSD/As use a new period length (:meth:`BSDA.set_period`): what is prepared ahead is reckoned by it.  Start this BSM
        with the changed configuration next time.
        """
        config = self._config(service, stream)
        self._streams[config.key] = replace(config, period=length)
        return self._done(now, config.key)

    def parental(self, subscriber: str, rating_type: int, level_granted: int, pin: str | None, now: float) -> list[Output]:
        """Set a parental level on a card; the message is offered like an LTKM."""
        config = next((c for c in self._streams.values() if c.smartcard), None)
        if config is None:
            raise LocalFlowError("no stream of the Smartcard Profile to carry it")
        self._begin(now)
        letter = self._issuer.parental(config, subscriber, rating_type, level_granted, pin)
        self._broadcast(config, letter, int(now) + config.key_period, now)
        return self._done(now, config.key)

    # --- terminals with an interaction channel (F6, R35, R36) -----------------------------------------------------------

    def fetch_stkm(
        self, service: str, stream: int, profile: Profile, subscriber: str, now: float, after: int | None = None
    ) -> StkmItem | None:
        """The STKM for a subscriber: of the running period, or the first after the period start ``after``; ``None`` = not yet.

        Raises ``PeerFlowError`` 11 without a right, 22 for an unknown stream.
        """
        (found,) = self.fetch_stkms(service, stream, profile, [(subscriber, after)], now)
        if isinstance(found, PeerFlowError):
            raise found
        return found if isinstance(found, StkmItem) else None

    def fetch_stkms(
        self, service: str, stream: int, profile: Profile, askers: Iterable[tuple[str, int | None]], now: float
    ) -> list[StkmItem | Later | PeerFlowError]:
        """The same for many at once, each a subscriber and his ``after``: what each gets, or when to ask again, or his refusal."""
        config = self._streams.get((service, stream))
        if config is None or profile not in config.profiles:
            return [PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here") for _ in askers]
        items: list[tuple[StkmItem, float]] = []
        before: StkmItem | None = None
        recovery = self.recoveries.of(config)
        for item in self._stkms(config, profile):
            if recovery is not None and item.period_start <= recovery.until:
                continue  # what the lost store sealed for that period may be on air: two STKMs for one period (R50)
            of = item if before is None or before.period_end != item.period_start else before
            before = item
            if item.period_end > now:
                items.append((item, item.period_start - (of.period_end - of.period_start) / 2))  # lead of the period before (R6)
        return [self._fetched(config, items, subscriber, after, now) for subscriber, after in askers]

    def _fetched(
        self, config: StreamConfig, items: Sequence[tuple[StkmItem, float]], subscriber: str, after: int | None, now: float
    ) -> StkmItem | Later | PeerFlowError:
        rights = [r for r in self._issuer.rights(subscriber, config) if r.end > now]
        if not rights:
            return PeerFlowError(Status.NOT_PERMITTED, "no right to the service")
        for item, opens in items:
            if (after is None or item.period_start > after) and any(r.start <= item.period_start < r.end for r in rights):
                return item if opens <= now else Later(opens)
        return Later()

    def fetch_ltkms(self, subscriber: str, now: float) -> tuple[tuple[bytes, ...], list[Output]]:
        """All LTKMs of a subscriber, made for the interaction channel: a card is asked to verify (V = 1)."""
        self._begin(now)
        found: list[bytes] = []
        for config in [self._streams[key] for key in self._issuer.streams(subscriber) if key in self._streams]:
            for row in self._keys.rows(config):
                if row.state is not KeyState.ENDED:
                    found += self._issuer.personal(config, row.material, subscriber, now, row.programme)
        return tuple(found), self._done(now)

    def verify(self, data: bytes, now: float, subscriber: str | None = None) -> tuple[str, list[Output]]:
        """A card's verification or reporting message; gives the subscriber it proves.  ``Integrity`` or ``KeyUnavailable``
        otherwise, and ``KeyUnavailable`` for another than ``subscriber``'s.
        """
        self._begin(now)
        return self._issuer.verify(data, subscriber), self._done(now)

    def registration(self, subscriber: str) -> bytes | None:
        """The registration material of a subscriber (F1)."""
        return self._journal.get("registration", (_registration(subscriber),), bytes)

    def known_as(self, btid: str) -> Subscriber | None:
        """The subscriber whose card has this B-TID."""
        return self._issuer.known_as(btid)

    def device(self, udn: str) -> Subscriber | None:
        """The subscriber whose device has this UDN (R36)."""
        return self._issuer.device(udn)

    def report(self, subscriber: str) -> Reporting | None:
        """What a card reported last (smartcard-profile 5.5); ``None`` when nothing."""
        return self._issuer.report(subscriber)

    def subscriber(self, name: str) -> Subscriber | None:
        """A subscriber as he was added (for views and imports)."""
        try:
            return self._issuer.subscriber(name)
        except LocalFlowError:
            return None

    def group(self, address: bytes) -> Group | None:
        """A subscriber group of the DRM Profile as it was added."""
        return self._journal.get("group", (address,), Group)

    def entitled(self, name: str, service: str, stream: int, start: int, end: int, content: str | None = None) -> bool:
        """Whether one right of a subscriber covers [start, end), NTP seconds, of a stream, or of the programme ``content``."""
        rights = self._issuer.rights(name, self._config(service, stream))
        return any(right.content in (None, content) and right.start <= start and right.end >= end for right in rights)

    def services_of(self, name: str) -> list[tuple[str, int]]:
        """The streams that a subscriber has rights to."""
        return self._issuer.streams(name)

    def issuing(self) -> tuple[Issuing, ...]:
        """The keys that are on their way to everyone entitled, first come first."""
        rows = self._journal.rows("issue", Job)
        return tuple(Issuing(str(n[0]), int(str(n[1])), rows[n].done, rows[n].of) for n in self._jobs)

    # --- memory -------------------------------------------------------------------------------------------------------

    def _config(self, service: str, stream: int) -> StreamConfig:
        try:
            return self._streams[service, stream]
        except KeyError:
            raise LocalFlowError(f"no stream {stream} of {service}") from None

    def keys(self, service: str, stream: int) -> tuple[LongTermKey, ...]:
        """The long-term keys of a stream, oldest first (for views and tests)."""
        return tuple(self._keys.rows(self._config(service, stream)))

    def _done(self, now: float, *touched: tuple[str, int]) -> list[Output]:
        self._begin(now)
        self._touched.update(dict.fromkeys(touched))
        self._work(now)
        return self._take()

    def _take(self) -> list[Output]:
        self._allocator.flush()
        return self._journal.take()

    # --- the work of every input --------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._now = now
        if self._resumed:
            return
        self._resumed = True
        if self._start is not None:
            self._started(self._start, now)
        for config in self._streams.values():
            self.recoveries.alarm(config)
            self._attempts.alarm(config)
            self._keys.clock_back(config, now)
        for page in self._issuer.all_pages():
            if (page.service, page.stream) in self._streams:
                self._offer(page, now)
        for config in self._streams.values():
            self._keys.match_profiles(config, now)
        for (name,), data in self._journal.rows("registration", bytes).items():
            self._offer_registration(str(name), data, now)
        self._touched.update(dict.fromkeys(self._streams))

    def _started(self, start: Start, now: float) -> None:
        """Nothing that was given before is given again, whatever the store knows of it (R51)."""
        streams, restored = list(self._streams.values()), start.restored
        if restored is None:
            if any(self._journal.tables.values()):
                self._issuer.skip(start.counters)
                self._keys.skip(streams, start.gap)
            return
        self._issuer.skip(RESTORE_JUMP + start.counters, start.smk_base)
        self._issuer.distrust(now)
        self._keys.skip(streams, start.gap, restored=True, at_least=start.key_number)
        self._keys.distrust(streams, now)
        for config in streams:
            self._attempts.pass_over(config, now)
        self.recoveries.note(restored)
        for config in streams:
            known = [row.material.key_id for row in self._keys.rows(config)]
            self.recoveries.begin(restored, config, now, known, self._keys.unprepared(config, now))

    def _recover(self, config: StreamConfig, now: float) -> None:
        """A stream has recovered when keys that the restored store did not know are in force."""
        recovery = self.recoveries.of(config)
        if recovery is not None:
            period = Period(0, int(now), int(now) + 1)
            if any(row.material.key_id not in recovery.known for row in self._keys.at(config, period).values()):
                self.recoveries.over(config)

    def _work(self, now: float) -> None:
        """The streams that this input touched, and those whose time has come; never all of them."""
        self._peers.tick(now)
        self._touched.update(dict.fromkeys(itertools.islice(self._wakes.due(now), TURN)))
        touched, self._touched = self._touched, {}
        for key in touched:
            config = self._streams[key]
            self._keys.age(config, now)
            for name, items in self._keys.received(config).items():
                if items[-1].period_end <= now:
                    self._journal.drop("received", name)
            self._keys.roll(config, now)
            self._recover(config, now)
            self._offer_keys(config, now)
            self._poll(config, now)
            self._wakes.set(key, self._wake(config, now))
        self._deliver(now)
        self._allocator.prune(now)

    def _expired(self, asked: Asked) -> None:
        if asked.message.stream is not None:
            self._touched[asked.message.service, asked.message.stream] = None

    def _wake(self, config: StreamConfig, now: float) -> float | None:
        times: list[float] = [self._polls.get(config.key, now), *self._keys.times(config)]
        for row in self._keys.rows(config):
            times += [self._offers[(*self._keys.name(config, row), b)][1] for b in self._owed(config, row)]
        times += [items[-1].period_end for items in self._keys.received(config).values()]
        return min((t for t in times if t > now), default=None)

    # --- LTKMs (F2) and registration (F1) -------------------------------------------------------------------------------

    def _issue(self, config: StreamConfig, row: LongTermKey, now: float) -> None:
        """A key to everyone entitled: to groups now, to cards some at a time (:meth:`_issue_some`)."""
        if row.material.key_type not in ("SEK", "PEK"):
            self._issue_bcros(config, row, now, None)
            return
        name, entitled = self._keys.name(config, row), self._issuer.entitled(config)
        if entitled and name not in self._jobs:
            self._jobs[name] = None
            self._journal.put("issue", name, Job(of=entitled))

    def _issue_to(
        self, config: StreamConfig, row: LongTermKey, now: float, cards: Collection[str], groups: Collection[bytes]
    ) -> None:
        """A key to some cards or groups.  Whom its job has not reached yet is the job's: nobody gets it twice."""
        if row.material.key_type not in ("SEK", "PEK"):
            for address in groups:  # one by one: each takes the place of its own
                self._issue_bcros(config, row, now, [address])
            return
        job = self._journal.get("issue", self._keys.name(config, row), Job)
        names = [name for name in cards if job is None or self._issuer.place(name) <= job.after]
        for i in range(0, len(names), MAX_DATA):
            people = self._issuer.some(config, names[i : i + MAX_DATA])
            self._broadcast(config, self._issuer.batch(config, row.material, people), row.material.valid_to, now)

    def _issue_bcros(self, config: StreamConfig, row: LongTermKey, now: float, only: Collection[bytes] | None) -> None:
        try:
            batches = self._issuer.bcros(config, row.material, now, row.programme, only)
        except WireError as error:  # R15: no BCRO after 2038-04-22; the other profile goes on
            self._journal.emit(Alarm("ltkm-not-made", *config.key, str(error)))
            return
        for batch in batches:
            self._broadcast(config, batch, row.material.valid_to, now)

    def _issue_some(self, now: float) -> None:
        """Go on with what takes more than one input: keys to everyone, then LTKMs made again (R7).

        Where a job has come to is stored with the letters it made: after a crash it goes on there.
        """
        left = ISSUED_AT_ONCE
        self._next_go = now
        for name in list(self._jobs)[:JOBS_AT_ONCE]:
            while left > 0 and (taken := self._issue_next(name, now, left)):
                left -= taken
        while left > 0 and (page := self._issuer.due(now)) is not None:
            config = self._streams[page.service, page.stream]  # pages of other streams end, and are not issued again
            self._broadcast(config, self._issuer.again(page, config, self._keys.live(config, now)), page.end, now, page)
            left -= page.size
        if left <= 0:
            self._next_go = now + ISSUE_PAUSE

    def _issue_next(self, name: tuple[object, ...], now: float, limit: int) -> int:
        """The next subscribers of a job, at most ``limit``; how many there were: none, and it is done."""
        job, row = self._journal.get("issue", name, Job), self._journal.get("key", name, LongTermKey)
        config = self._streams[str(name[0]), int(str(name[1]))]
        assert job is not None
        taken = 0
        if row is not None and row.state is not KeyState.ENDED:
            people = self._issuer.next_of(config, job, limit)
            taken = len(people.names)
            if taken:
                batch = self._issuer.batch(config, row.material, people)
                self._broadcast(config, batch, row.material.valid_to, now)
                made = 0 if batch is None else len(batch.bundle)
                self._journal.put("issue", name, replace(job, after=people.places[-1], done=job.done + made))
        if not taken:
            del self._jobs[name]
            self._journal.drop("issue", name)
        return taken

    def _broadcast(self, config: StreamConfig, batch: Batch | None, end: int, now: float, old: Page | None = None) -> None:
        """LTKMs become pages of the carousel (R7) and go to the BSD/As of the stream."""
        if batch is None:
            return
        if len(batch.bundle) > MAX_DATA:  # some have several windows
            for part in batch.split(MAX_DATA):
                self._broadcast(config, part, end, now)
            return
        page, gone = self._issuer.page(config, batch, end, now, self._peers.new_id, old)
        for bsda, message_id in () if gone is None else gone.ids:
            self._peers.cancel(message_id)
            self._to_deliver.get(bsda, {}).pop(message_id, None)
        if config.delivery == "push":
            self._offer(page, now)

    def _offer(self, page: Page, now: float) -> None:
        for bsda, message_id in page.ids:
            if bsda not in page.confirmed and page.end > now:
                self._to_deliver.setdefault(bsda, {})[message_id] = page.key

    def _deliver(self, now: float) -> None:
        """Pages to the BSD/As, in the order in which they were made, a few at a time."""
        for bsda, waiting in self._to_deliver.items():
            while waiting:
                flying = self._in_flight[bsda] = {one for one in self._in_flight.get(bsda, ()) if self._peers.asking(one)}
                if len(flying) >= PAGES_IN_FLIGHT:
                    break
                message_id = next(iter(waiting))
                page = self._issuer.find(waiting.pop(message_id))
                if page is None or page.end <= now:  # its key has ended while the BSD/A did not answer
                    continue
                self._peers.ask(
                    Tag.LTKMDelivery, bsda, page.service, now, until=page.end, items=self._issuer.data(page),
                    start=int(page.issued_at), end=page.end,  # the same again after a restart: it has its messageID (R27)
                    replaces=dict(page.replaces).get(bsda), message_id=message_id,
                )  # fmt: skip
                flying.add(message_id)

    def _offer_registration(self, name: str, data: bytes, now: float) -> None:
        for bsda in self._bsdas:
            if self._journal.get("registered", (name, bsda), bool) is None:
                message_id = self._peers.ask(Tag.RegDelivery, bsda, ALL_SERVICES, now, until=now + 86400, items=(data,))
                self._registrations[message_id] = name

    # --- keys (F4) and windows (F3) to the BSD/As ------------------------------------------------------------------------

    def _owed(self, config: StreamConfig, row: LongTermKey) -> list[str]:
        """The BSD/As that must still be told of a key."""
        m = row.material
        pulled = config.delivery == "pull" and row.sealer == "bsda" and not row.at_once
        if row.state is KeyState.ENDED or (pulled and row.programme is None):  # who has the service's key asks for no other
            return []
        if row.sealer == "bsm" and self._now >= m.valid_from:
            return []  # F3: too late to be of use; what straddles its start is refused (R32)
        return [b for b in config.bsdas if b not in row.confirmed and not self._lost_to(config, row, b)]

    def _lost_to(self, config: StreamConfig, row: LongTermKey, bsda: str) -> bool:
        loss = self._journal.get("fresh", (*config.key, bsda), Loss)
        return loss is not None and row.material.key_id in loss.keys

    def _offer_keys(self, config: StreamConfig, now: float) -> None:
        """Tell the BSD/As of keys, again where one was refused."""
        for row in self._keys.rows(config):
            for bsda in self._owed(config, row):
                name = (*self._keys.name(config, row), bsda)
                m = row.material
                message_id, due, end = self._offers.get(name, ("", now, m.valid_to))
                if end != m.valid_to:  # it was cut short since: as it was, it would take its successor's place (R10)
                    self._peers.cancel(message_id)
                elif self._peers.asking(message_id) or now < due:
                    continue
                profile: Profile = "smartcard" if m.key_type in ("SEK", "PEK") else "drm"
                if row.sealer == "bsda":
                    message_id = self._peers.ask(
                        Tag.KeyDelivery, bsda, config.service, now, until=m.valid_to, profile=profile, stream=config.stream,
                        items=(m,), content=row.programme, replacing=row.at_once, about=frozenset({m.valid_from}),
                    )  # fmt: skip
                else:
                    message_id = self._ask_window(
                        config, profile, bsda, m.valid_from, m.valid_to, now, replacing=row.at_once, content=row.programme
                    )
                self._offers[name] = (message_id, now + REOFFER, m.valid_to)

    def _told(self, config: StreamConfig, key_type: str, valid_from: int, bsda: str) -> None:
        for row in self._keys.rows(config):
            if (row.material.key_type, row.material.valid_from) == (key_type, valid_from) and bsda not in row.confirmed:
                self._keys.store(config, replace(row, confirmed=row.confirmed | {bsda}))
                self._offers.pop((*self._keys.name(config, row), bsda), None)

    def _ask_window(
        self, config: StreamConfig, profile: Profile, bsda: str, start: int | None, end: int | None, now: float, *,
        replacing: bool = False, content: str | None = None,
    ) -> str:  # fmt: skip
        """F3, S7 claim 5: periods begin and end here; give what is ready (R32)."""
        until = now + config.period if end is None else end
        return self._peers.ask(
            Tag.PartialSTKMRequest, bsda, config.service, now, until=until, profile=profile, stream=config.stream,
            start=start, end=end, replacing=replacing, content=content,
        )  # fmt: skip

    def _poll(self, config: StreamConfig, now: float) -> None:
        """Where delivery is pulled: ask every half period for partial STKMs (F3), and for the BSD/A's STKMs (F6)."""
        if config.delivery != "pull" or now < self._polls.get(config.key, now):
            return
        self._polls[config.key] = now + config.period / 2
        for profile in config.profiles:
            for bsda in config.bsdas:
                if config.generation == "bsm":
                    self._ask_window(config, profile, bsda, None, None, now)
                elif config.interaction:
                    self._peers.ask(
                        Tag.STKMRequest, bsda, config.service, now, until=now + config.period, profile=profile,
                        stream=config.stream, start=int(now), end=int(now) + (1 + config.ahead) * config.period,
                    )  # fmt: skip

    # --- requests from a BSD/A ------------------------------------------------------------------------------------------

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        if message.tag is Tag.RegRequest:
            return self._give_registration(message, now)
        configs = [self._streams[key] for key in self._services.get(message.service, ())]
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
                self._touched[config.key] = None
                return self._give_keys(config, message, now)
            case Tag.STKMDelivery:
                return self._take_stkms(config, message, now)
            case _:  # Tag.STKMRequest: check() lets no other through
                low, high = message.start or 0, message.end or 1 << 62
                found = tuple(i for i in self._stkms(config, message.profile) if low <= i.period_start < high)
                return message.answer(Status.SUCCESS if found else Status.NON_EXISTENT, found, now=now)

    def _give_registration(self, message: BackendMessage, now: float) -> BackendMessage:
        if message.service != ALL_SERVICES or message.source not in self._bsdas:
            raise PeerFlowError(Status.NOT_PERMITTED, "no right to registration material (R26)")
        data = tuple(self._journal.rows("registration", bytes).values())
        if data:
            self._journal.emit(FlowDone("F1", None, ALL_SERVICES))
        return message.answer(Status.SUCCESS if data else Status.NON_EXISTENT, data, now=now)

    def _give_ltkms(self, message: BackendMessage, now: float) -> BackendMessage:
        configs = [self._streams[key] for key in self._services.get(message.service, ())]
        pages = [page for config in configs for page in self._issuer.pages(config) if page.end > now]
        asker = (message.source, message.service)
        last = next((n for n, page in enumerate(pages) if page.key == self._pulled.get(asker)), -1)
        data: list[bytes] = []
        octets = 0
        for page in pages[last + 1 :] + pages[: last + 1]:  # more than one answer holds: the next one goes on
            if octets > PULL_OCTETS:
                break
            letters = self._issuer.data(page)
            data += letters
            octets += sum(map(len, letters))
            self._pulled[asker] = page.key
        if data:
            self._journal.emit(FlowDone("F2", None, message.service))
        return message.answer(Status.SUCCESS if data else Status.NON_EXISTENT, tuple(data), now=now)

    def _complete(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F3: complete the partial STKMs, each with its own status (R27, R31)."""
        if config.generation != "bsm" and not any(row.sealer == "bsm" for row in self._keys.rows(config)):
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made by the BSD/A")
        items = [i for i in message.items if isinstance(i, PartialItem)]
        done = self._complete_items(config, message.profile or "drm", items, now)
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

    def _complete_items(self, config: StreamConfig, profile: Profile, items: Sequence[PartialItem], now: float) -> list[StkmItem]:
        """What becomes of each item.  One that overlaps another waits for what that one becomes."""
        return [done for run in _runs(items) for done in self._complete_run(config, profile, run, now)]

    def _complete_run(self, config: StreamConfig, profile: Profile, items: Sequence[PartialItem], now: float) -> list[StkmItem]:
        """The same of items that do not overlap; those of the same keys are sealed together."""
        chain, policy, kind = self._keys.rows(config), self._keys.policy(config), stkm.kind_of(profile)
        edges = self._keys.edges(config, items, chain)
        stops, span, rows = self._attempts.ends(config), (0, 0.0), dict[str, LongTermKey]()
        done: dict[int, StkmItem] = {}
        groups: dict[tuple[int, ...], tuple[dict[str, LongTermKey], list[_Wanted]]] = {}
        for n, item in enumerate(items):
            edge = edges.first_in(item.period_start, item.period_end)
            if edge is not None:  # R32: the BSD/A learns where to cut
                done[n] = _refused(item, Status.INFORMATION_INVALID, edge)
                continue
            try:
                self._check_horizon(config, item, now)
                content = codec.decode(item.content.reveal(), kind, partial=True)
                assert isinstance(content, PartialDrmStkm | PartialSmartcardStkm)
                period = Period(0, item.period_start, item.period_end)
                if stops is not None and period.end > stops:
                    raise PeerFlowError(Status.DELAYED, "its key may end before it (R50)")
                if not span[0] <= period.start < span[1]:
                    rows, span = self._keys.at(config, period, chain), edges.around(period.start)
                first = rows.get(SERVICE_KEY[profile])
                if first is None:
                    coming = any(r.material.valid_to <= period.start for r in chain)
                    raise PeerFlowError(Status.DELAYED if coming else Status.NON_EXISTENT, "no key for that period")
                if first.sealer != "bsm":
                    raise PeerFlowError(Status.INVALID_REQUEST, "the key of that period is the BSD/A's to seal under (R1)")
                ask = Ask(period, stkm.owned_digest(config, period, content), item.tek_id)
            except (PeerFlowError, WireError) as error:
                done[n] = _refused(item, _status_of(error, item))
            else:
                groups.setdefault(tuple(map(id, rows.values())), (rows, []))[1].append(_Wanted(n, item, content, ask))
        for rows, wanted in groups.values():
            done |= self._seal(config, profile, rows, wanted, policy)
        return [done[n] for n in range(len(items))]

    def _seal(
        self, config: StreamConfig, profile: Profile, rows: dict[str, LongTermKey], wanted: list[_Wanted], policy: stkm.Policy
    ) -> Iterator[tuple[int, StkmItem]]:
        """Seal items that have the same keys, through the allocator (R1)."""
        held = {key_type: row.material for key_type, row in rows.items()}
        ends, identity = min(m.valid_to for m in held.values()), held[SERVICE_KEY[profile]]

        def make(new: list[int]) -> list[bytes | BcastError]:
            contents = [(wanted[n].content, wanted[n].ask.period) for n in new]
            return stkm.seal_many(contents, config, held, policy, self._keys.rings)

        made = self._allocator.seal_many(stkm.key_identity(config, identity), [one.ask for one in wanted], make)
        for (n, item, _, _), data in zip(wanted, made, strict=True):
            if isinstance(data, bytes):
                yield n, StkmItem(
                    stream=item.stream, period_start=item.period_start, period_end=item.period_end, tek_id=item.tek_id,
                    content=data, authority_end=ends,
                )  # fmt: skip
            else:
                yield n, _refused(item, _status_of(data, item))

    def _check_horizon(self, config: StreamConfig, item: PartialItem | StkmItem, now: float) -> None:
        """periodStart within [now - 1 period, now + horizon] (R27)."""
        back, ahead = item.period_end - item.period_start, HORIZON + config.ahead * config.period
        if item.stream != config.stream or not now - back <= item.period_start <= now + ahead:
            raise PeerFlowError(Status.INVALID_REQUEST, "periodStart is outside the horizon (R27)")

    def _give_keys(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F4, pulled: the keys from the first uncovered period on; new ones for a BSD/A that lost its store (R33)."""
        if config.generation != "bsda" and not any(row.sealer == "bsda" for row in self._keys.rows(config)):
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made by the BSM")
        assert message.profile is not None
        wanted = SERVICE_KEY[message.profile]
        start = message.start if message.start is not None else int(now)
        name = (*config.key, message.source)
        chain = [r for r in self._keys.rows(config) if r.sealer == "bsda" and r.material.key_type == wanted]
        if message.fresh:
            self._attempts.is_anew(config, message.source)
            self._note_loss(config, message, name)
        loss = self._journal.get("fresh", name, Loss)
        usable = [r for r in chain if loss is None or r.material.key_id not in loss.keys]
        found = [r for r in usable if r.material.valid_to > max(start, now)]
        if not found:
            raise PeerFlowError(Status.DELAYED if chain else Status.NON_EXISTENT, "no key for that time")
        if wanted == "SEAK":
            found += [r for r in self._keys.rows(config, "PEAK") if r.sealer == "bsda" and r.material.valid_to > max(start, now)]
        if loss is not None and message.fresh:
            self._journal.put("fresh", name, replace(loss, served=loss.served | {(wanted, message.message_id)}))
        for row in found:
            self._told(config, row.material.key_type, row.material.valid_from, message.source)
        self._journal.emit(FlowDone("F4", message.profile, config.service))
        return message.answer(Status.SUCCESS, tuple(r.material for r in found), now=now)

    def _mark_lost(self, config: StreamConfig, bsda: str) -> None:
        """No key that this BSD/A can have now is given to it again."""
        known = frozenset(r.material.key_id for r in self._keys.rows(config) if r.material.key_type != "PEAK")
        self._journal.put("fresh", (*config.key, bsda), Loss(known))

    def _note_loss(self, config: StreamConfig, message: BackendMessage, name: tuple[object, ...]) -> None:
        """A BSD/A says that its store is lost.  When it was given new keys already, by another message, it is lost once more."""
        assert message.profile is not None
        loss, wanted = self._journal.get("fresh", name, Loss), SERVICE_KEY[message.profile]
        if loss is None or ((wanted, message.message_id) not in loss.served and wanted in dict(loss.served)):
            self._mark_lost(config, message.source)
            self._keys.renew(config)

    # --- STKMs for terminals (F6) and for the BSD/A (F5) ----------------------------------------------------------------

    def _stkms(self, config: StreamConfig, profile: Profile) -> Iterator[StkmItem]:
        """Every STKM of a stream at hand, in order of its period; none whose place another one may take (R50)."""
        ends = self._attempts.ends(config)
        found: dict[int, StkmItem] = {}
        for row in self._keys.rows(config, SERVICE_KEY[profile]):
            for start, sealed in self._allocator.sealed(stkm.key_identity(config, row.material)).items():
                if not sealed.burnt:
                    found[start] = StkmItem(
                        stream=config.stream, period_start=start, period_end=sealed.until, tek_id=sealed.tek_id,
                        content=sealed.data, authority_end=row.material.valid_to,
                    )  # fmt: skip
        for name, items in self._keys.received(config).items():
            found |= {item.period_start: item for item in items} if name[2] == profile else {}
        return iter([found[start] for start in sorted(found) if ends is None or start < ends])

    def _take_stkms(self, config: StreamConfig, message: BackendMessage, now: float) -> BackendMessage:
        """F6: STKMs sealed by the BSD/A, for terminals on the interaction channel.  All or nothing; of a batch that comes late what
        is still of use.
        """
        items = [i for i in message.items if isinstance(i, StkmItem) and i.status == Status.SUCCESS]
        items = _not_over(items, now) or items
        assert message.profile is not None
        for error in self._check_stkms(config, message.profile, items, now):
            if error is not None:
                raise error
        self._keep(config, message.profile, items)
        if items:
            self._journal.emit(FlowDone("F6", message.profile, config.service))
        return message.answer(Status.SUCCESS, now=now)

    def _keep(self, config: StreamConfig, profile: Profile, items: Iterable[StkmItem]) -> None:
        """STKMs that came together are one row, in the order of their time; with what the row of that name has beside them."""
        found = {item.period_start: item for item in items}
        if found:
            name = (*config.key, profile, min(found))
            before = {item.period_start: item for item in self._keys.received(config).get(name, ())}
            row = tuple(item for _, item in sorted((before | found).items()))
            self._journal.put("received", name, row)
            self._wakes.sooner(config.key, row[-1].period_end)

    def _check_stkms(
        self, config: StreamConfig, profile: Profile, items: Sequence[StkmItem], now: float
    ) -> list[PeerFlowError | None]:
        """What is wrong with each: it must open under the key of its period, and be of that period."""
        chain, kind, first = self._keys.rows(config), stkm.kind_of(profile), SERVICE_KEY[profile]
        wrong: list[PeerFlowError | None] = []
        groups: dict[tuple[int, ...], tuple[dict[str, KeyMaterial], list[int]]] = {}
        for n, item in enumerate(items):
            try:
                self._check_horizon(config, item, now)
                rows = self._keys.at(config, Period(0, item.period_start, item.period_end), chain)
                if first not in rows:
                    raise PeerFlowError(Status.WRONG_KEY_INFORMATION, "no key for that period")
            except PeerFlowError as error:
                wrong.append(error)
            else:
                wrong.append(None)
                held = {key_type: row.material for key_type, row in rows.items()}
                groups.setdefault(tuple(map(id, rows.values())), (held, []))[1].append(n)
        for held, which in groups.values():
            with codec.open_many([items[n].content for n in which], self._keys.rings.prepared(kind, held, "open"), kind) as opened:
                whens = opened.records.column("timestamp" if profile == "drm" else "counter")
                for i, n in enumerate(which):
                    unopened = opened.error(i)
                    when = whens[i] if profile == "drm" else near(whens[i], now)
                    if unopened is not None:
                        why = f"does not open under the key of its period: {unopened}"
                        wrong[n] = PeerFlowError(Status.WRONG_KEY_INFORMATION, why)
                    elif when != items[n].period_start:
                        wrong[n] = PeerFlowError(Status.WRONG_KEY_INFORMATION, "is not of the period it says")
        return wrong

    def request_stkms(self, service: str, stream: int, profile: Profile, start: int, end: int, now: float) -> list[Output]:
        """F6, pulled."""
        config = self._config(service, stream)
        self._begin(now)
        self._peers.ask(
            Tag.STKMRequest, config.bsdas[0], service, now, until=end, profile=profile, stream=stream, start=start, end=end
        )
        return self._take()

    def request_partials(self, service: str, stream: int, profile: Profile, start: int, end: int, now: float) -> list[Output]:
        """F3, pulled: ask the BSD/As for the partial STKMs of a window."""
        config = self._config(service, stream)
        self._begin(now)
        for bsda in config.bsdas:
            self._ask_window(config, profile, bsda, start, end, now)
        return self._take()

    # --- answers --------------------------------------------------------------------------------------------------------

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        message = asked.message
        good = answer.status == Status.SUCCESS
        config = self._streams.get((message.service, message.stream or 0))
        if config is not None:
            self._touched[config.key] = None
        match message.tag:
            case Tag.LTKMDelivery if good:
                self._issuer.confirmed(message.message_id, message.destination)
                self._journal.emit(FlowDone("F2", None, message.service))
            case Tag.RegDelivery if good:
                self._journal.put("registered", (self._registrations.pop(message.message_id), message.destination), True)
                self._journal.emit(FlowDone("F1", None, message.service))
            case Tag.KeyDelivery if config is not None and message.attempt is not None:
                self._attempts.answered(config, message, answer.status or 0, now)
                return
            case Tag.KeyDelivery if good and config is not None:
                for item in [i for i in message.items if isinstance(i, KeyMaterial)]:
                    self._told(config, item.key_type, item.valid_from, message.destination)
                self._journal.emit(FlowDone("F4", message.profile, message.service))
            case Tag.STKMDelivery if good:
                self._journal.emit(FlowDone("F5", message.profile, message.service))
            case Tag.PartialSTKMRequest if config is not None and (good or answer.status == Status.DELAYED):
                if message.start is not None:
                    for key_type in ("SEK",) if message.profile == "smartcard" else ("SEAK", "PEAK"):
                        self._told(config, key_type, message.start, message.destination)
                if good:
                    self._complete_pulled(config, message, answer, now)
            case Tag.STKMRequest if good and config is not None:
                self._take_answered_stkms(config, message, answer, now)
        if answer.status == Status.DELAYED:
            self._peers.cancel(message.message_id)  # a BSD/A that has nothing yet is asked again, or sends it (F3); see _offer_keys
        elif (
            not good
            and not (message.tag is Tag.STKMRequest and answer.status == Status.NON_EXISTENT)
            and not self._peers.split(asked, answer.status, now)
        ):
            self._journal.emit(
                Alarm(
                    "refused",
                    message.service,
                    message.stream,
                    f"{message.tag.name} refused: {status_words(answer.status or 0, message.tag.name)}",
                )
            )

    def _take_answered_stkms(self, config: StreamConfig, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        assert message.profile is not None
        items = [item for item in answer.items if isinstance(item, StkmItem) and item.status == Status.SUCCESS]
        items = _not_over(items, now)
        wrong = self._check_stkms(config, message.profile, items, now)
        for error in wrong:
            if error is not None:
                self._journal.emit(Alarm("stkm-refused", *config.key, str(error)))
        self._keep(config, message.profile, [item for item, error in zip(items, wrong, strict=True) if error is None])
        self._journal.emit(FlowDone("F6", message.profile, message.service))

    def _complete_pulled(self, config: StreamConfig, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        """F3, pulled: the partials came with the answer; the STKMs go back by F5."""
        items = [i for i in answer.items if isinstance(i, PartialItem)]
        done = self._complete_items(config, message.profile or "drm", items, now)
        ready = tuple(i for i in done if i.status == Status.SUCCESS)
        for item in done:
            if item.status not in (Status.SUCCESS, Status.DELAYED):
                self._journal.emit(Alarm("not-sealed", *config.key, f"period {item.period_start}: {status_words(item.status)}"))
        if ready:
            self._journal.emit(FlowDone("F3", message.profile, config.service))
            self._peers.ask(
                Tag.STKMDelivery, answer.source, config.service, now, until=max(i.period_end for i in ready),
                profile=message.profile, stream=config.stream, items=ready, replacing=message.replace,
            )  # fmt: skip


def _not_over(items: Iterable[StkmItem], now: float) -> list[StkmItem]:
    """Those that may still be of use (R27)."""
    return [item for item in items if item.period_start >= now - (item.period_end - item.period_start)]
