# SPDX-License-Identifier: Apache-2.0
"""The inputs of a BSM, and what spans streams: peers, agenda, subscribers, LTKMs, registration.

Without I/O, like the BSD/A: commands, ``receive`` and ``tick`` return the outputs to carry out in order (see ``events``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pybcast.errors import LocalFlowError, PeerFlowError
from pybcast.flows.agenda import TURN, Agenda
from pybcast.flows.bsm.attempts import is_off_air
from pybcast.flows.bsm.delivery import Delivery, Issuing
from pybcast.flows.bsm.keychain import LongTermKey, Means
from pybcast.flows.bsm.ltkm import Bcros, Issuer
from pybcast.flows.bsm.members import Group, JournalMembers, Members, Right, Subscriber, Subscribers
from pybcast.flows.bsm.pages import Pages
from pybcast.flows.bsm.programmes import Programme
from pybcast.flows.bsm.registration import Registrations
from pybcast.flows.bsm.stkms import Later, fetched
from pybcast.flows.bsm.stream import BsmStream
from pybcast.flows.events import Alarm, Output
from pybcast.flows.journal import Journal
from pybcast.flows.peers.exchange import Asked, Peering
from pybcast.flows.peers.messages import BackendMessage, PartialItem, Profile, StkmItem
from pybcast.flows.restart import Recoveries, Start, counters_in
from pybcast.flows.stream import stkm
from pybcast.flows.stream.allocator import RESTORE_JUMP, Allocator
from pybcast.flows.stream.config import StreamConfig, StreamId
from pybcast.flows.tables import Side, Status, Tag, status_words
from pybcast.messages import Reporting


@dataclass(frozen=True)
class Enrolment:
    """A subscriber, what he may see, and the registration material to broadcast to him (F1)."""

    subscriber: Subscriber
    rights: tuple[Right, ...] = ()
    registration: bytes | None = None


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
        configs = {config.id: config for config in streams}.values()
        journal = self._journal = Journal(state)
        self._allocator = Allocator(journal)
        peers = self._peers = Peering(me, Side.BSM, journal, randomness, self._handle, self._answered, self._expired)
        self._members = JournalMembers() if members is None else members
        self._members.bind(journal)
        pages = Pages(journal, self._members, configs)
        self._subscribers = Subscribers(journal, self._members)
        self._issuer = Issuer(fqdn, journal, self._members, self._subscribers, randomness)
        self._bcros = Bcros(journal, self._subscribers, pages, rights_issuer_id)
        self._streams: dict[StreamId, BsmStream] = {}
        self._delivery = Delivery(
            journal, peers, configs, self._streams, self._members, self._subscribers, pages, self._issuer, self._bcros
        )
        self._registrations = Registrations(journal, peers, sorted({bsda for config in configs for bsda in config.bsdas}))
        self.recoveries = Recoveries(journal)
        """What is still to be done for a store that was put back."""
        self._wakes: Agenda[StreamId] = Agenda()
        tools = (journal, self._allocator, peers, stkm.Rings(), self.recoveries, self._wakes, randomness)
        means = Means(*tools, self._delivery.issue, self._delivery.key_ended)
        self._services: dict[str, list[BsmStream]] = {}
        for config in configs:
            stream = self._streams[config.id] = BsmStream(config, means)
            self._services.setdefault(config.service, []).append(stream)
        self._touched: dict[StreamId, None] = {}
        self._start = start
        self._resumed = False
        self._now = 0.0

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
        self._delivery.go_on(now)
        return self._take()

    def clock_forward(self, seconds: float, now: float) -> list[Output]:
        """The clock was put forward by so many seconds: a store that was put back unnoticed may be that much older (R51)."""
        self._begin(now)
        self._skip(counters_in(seconds), seconds)
        return self._done(now)

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` should be called next."""
        times = [self._wakes.next(), self._peers.next_wakeup(), self._allocator.next_wakeup()]
        times.append(self._delivery.next_wakeup(self._now))
        return min((t for t in times if t is not None), default=None)

    # --- subscribers and rights ---------------------------------------------------------------------------------------

    def add_group(self, group: Group, now: float) -> list[Output]:
        """A subscriber group of the DRM Profile."""
        self._subscribers.add_group(group)
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
        rights = [(enrolment.subscriber.id, right) for enrolment in enrolments for right in enrolment.rights]
        for _, right in rights:
            self._stream(right.service, right.stream)
        self._begin(now)
        self._subscribers.add([enrolment.subscriber for enrolment in enrolments])
        for enrolment in enrolments:
            if enrolment.registration is not None:
                self._registrations.put(enrolment.subscriber.id, enrolment.registration, now)
        return self._grant(rights, now)

    def grant(self, subscriber: str, right: Right, now: float) -> list[Output]:
        """A right to a service, or to one programme of it; LTKMs for the keys that exist go out at once.

        A key that is on its way to everyone reaches a card when its turn comes (:meth:`issuing`).
        """
        return self.grant_many([(subscriber, right)], now)

    def grant_many(self, rights: Sequence[tuple[str, Right]], now: float) -> list[Output]:
        """The same for many.  ``LocalFlowError`` as for one; then none of them is granted."""
        for name, right in rights:
            self._stream(right.service, right.stream)
            self._subscribers.get(name)
        self._begin(now)
        return self._grant(rights, now)

    def _grant(self, rights: Sequence[tuple[str, Right]], now: float) -> list[Output]:
        by_stream: dict[StreamId, list[tuple[str, Right]]] = {}
        for name, right in rights:
            by_stream.setdefault(right.stream_id, []).append((name, right))
        for stream_id, some in by_stream.items():
            self._delivery.tell(self._streams[stream_id], self._subscribers.grant_to(some), now)
        return self._done(now, *by_stream)

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
        of = self._begun(service, stream, now)
        self._delivery.tell(of, self._subscribers.forget_all(of.id, subscribers), now, withdrawn=True)
        if at_once:
            of.rollover.renew()
        return self._done(now, of.id)

    def remove_subscriber(self, subscriber: str, now: float, *, at_once: bool = False) -> list[Output]:
        """Take every right of a subscriber away, as :meth:`withdraw` does, and forget him.

        Of one with a card the name, the COUNTER and a digest of the SMK stay (R2).  His registration material stays on the
        carousels of the BSD/As: the interface knows no message that takes it off alone.
        """
        self._begin(now)
        outputs: list[Output] = []
        for service, stream in self._subscribers.streams(subscriber):
            if (service, stream) in self._streams:
                outputs += self.withdraw(subscriber, service, stream, now, at_once=at_once)
        self._subscribers.remove(subscriber)
        self._issuer.removed(subscriber)
        self._registrations.forget(subscriber)
        return outputs + self._done(now)

    def parental(self, subscriber: str, rating_type: int, level_granted: int, pin: str | None, now: float) -> list[Output]:
        """Set a parental level on a card; the message is offered like an LTKM."""
        stream = next((stream for stream in self._streams.values() if stream.config.smartcard), None)
        if stream is None:
            raise LocalFlowError("no stream of the Smartcard Profile to carry it")
        self._begin(now)
        self._delivery.parental(stream, subscriber, rating_type, level_granted, pin, now)
        return self._done(now, stream.id)

    # --- streams --------------------------------------------------------------------------------------------------------

    def add_programme(self, programme: Programme, now: float) -> tuple[Programme, list[Output]]:
        """A programme with a key of its own (DRM: PEAK) or a window of its own (Smartcard).

        Its edges become boundaries of periods (R9); the start is moved to what is not prepared yet (R5), both to where a TEK ID
        can begin (R8).  ``LocalFlowError`` when nothing is left of it, or when it overlaps another programme (R33).
        """
        stream = self._begun(programme.service, programme.stream, now)
        held = stream.add_programme(programme, now)
        return held, self._done(now, stream.id)

    def remove_programme(self, service: str, streams: Sequence[int], content: str, now: float) -> list[Output]:
        """Take a programme back that nobody can have prepared yet, from all these streams or from none.

        The numbers of its keys are not used again.  A BSD/A may begin and end a period where the programme would have: that harms
        nothing.  ``LocalFlowError`` when periods of it may be prepared, or when a BSD/A seals under its key (F4): no message takes
        a key back.
        """
        those = [self._stream(service, stream) for stream in streams]
        self._begin(now)
        held = [stream for stream in those if stream.programmes.removable(content, now)]
        if not held:
            raise LocalFlowError(f"no programme {content} of {service}")
        for stream in held:
            stream.remove_programme(content)
        return self._done(now, *(stream.id for stream in held))

    def rekey(self, service: str, stream: int, now: float, without: Collection[str] = ()) -> list[Output]:
        """New long-term keys as soon as entitled terminals can have them (R10); waits for a key that is not on air yet.

        ``without``: headends that are off air, so that nothing waits for them (R50); each asks for everything anew before it sends
        again.  ``LocalFlowError`` for one that is not of the stream, or when none would be left.
        """
        bsdas = self._stream(service, stream).config.bsdas
        if not set(without) < set(bsdas):
            raise LocalFlowError(f"{service} stream {stream}: expected some, not all, of its headends {', '.join(bsdas)}")
        of = self._begun(service, stream, now)
        of.attempts.go_without(without, now)
        of.rollover.renew()
        return self._done(now, of.id)

    def off_air(self, bsda: str) -> bool:
        """Whether the operator said that a BSD/A is off air, and it has not asked for everything anew since (R50)."""
        return is_off_air(self._journal, bsda)

    def set_generation(self, service: str, stream: int, generation: Literal["bsm", "bsda"], now: float) -> list[Output]:
        """Who seals from the next key on (F3 or F4); that key comes at once, or as soon as a card has room for it (R1, R10).

        A key made before stays its sealer's.  Tell the BSD/As too (:meth:`BSDA.set_generation`), and start this BSM with the
        changed configuration next time.
        """
        of = self._stream(service, stream)
        of.set_generation(generation, now)
        return self._done(now, of.id)

    def set_policy(self, service: str, stream: int, policy: stkm.Policy, now: float) -> list[Output]:
        """What STKMs say beyond the BSD/A's fields (R31), from the next one that is sealed here (F3) or the next key (F4, R33).

        A period that is sealed already keeps its STKM, whoever asks for it (R1, R5).
        """
        of = self._stream(service, stream)
        of.keys.policy = policy
        return self._done(now, of.id)

    def set_period(self, service: str, stream: int, length: int, now: float) -> list[Output]:
        """The BSD/As use a new period length (:meth:`BSDA.set_period`): what is prepared ahead is reckoned by it.  Start this BSM
        with the changed configuration next time.
        """
        of = self._stream(service, stream)
        of.keys.config = replace(of.config, period=length)
        return self._done(now, of.id)

    def request_stkms(self, service: str, stream: int, profile: Profile, start: int, end: int, now: float) -> list[Output]:
        """F6, pulled."""
        self._begun(service, stream, now).request_stkms(profile, start, end, now)
        return self._take()

    def request_partials(self, service: str, stream: int, profile: Profile, start: int, end: int, now: float) -> list[Output]:
        """F3, pulled: ask the BSD/As for the partial STKMs of a window."""
        self._begun(service, stream, now).request_partials(profile, start, end, now)
        return self._take()

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
        of = self._streams.get((service, stream))
        if of is None or profile not in of.config.profiles:
            return [PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here") for _ in askers]
        coming = of.stkms.coming(profile, now)
        return [fetched(coming, self._subscribers.rights(name, of.id), after, now) for name, after in askers]

    def fetch_ltkms(self, subscriber: str, now: float) -> tuple[tuple[bytes, ...], list[Output]]:
        """All LTKMs of a subscriber, made for the interaction channel: a card is asked to verify (V = 1)."""
        self._begin(now)
        return self._delivery.personal(subscriber, now), self._done(now)

    def verify(self, data: bytes, now: float, subscriber: str | None = None) -> tuple[str, list[Output]]:
        """A card's verification or reporting message; gives the subscriber it proves.  ``Integrity`` or ``KeyUnavailable``
        otherwise, and ``KeyUnavailable`` for another than ``subscriber``'s.
        """
        self._begin(now)
        return self._issuer.verify(data, subscriber), self._done(now)

    # --- views ----------------------------------------------------------------------------------------------------------

    def registration(self, subscriber: str) -> bytes | None:
        """The registration material of a subscriber (F1)."""
        return self._registrations.get(subscriber)

    def known_as(self, btid: str) -> Subscriber | None:
        """The subscriber whose card has this B-TID."""
        return self._members.known_as(btid)

    def device(self, udn: str) -> Subscriber | None:
        """The subscriber whose device has this UDN (R36)."""
        return self._subscribers.device(udn)

    def report(self, subscriber: str) -> Reporting | None:
        """What a card reported last (smartcard-profile 5.5); ``None`` when nothing."""
        return self._issuer.report(subscriber)

    def subscriber(self, name: str) -> Subscriber | None:
        """A subscriber as he was added (for views and imports)."""
        return self._subscribers.find(name)

    def group(self, address: bytes) -> Group | None:
        """A subscriber group of the DRM Profile as it was added."""
        return self._subscribers.group(address)

    def entitled(self, name: str, service: str, stream: int, start: int, end: int, content: str | None = None) -> bool:
        """Whether one right of a subscriber covers [start, end), NTP seconds, of a stream, or of the programme ``content``."""
        rights = self._subscribers.rights(name, self._stream(service, stream).id)
        return any(right.content in (None, content) and right.start <= start and right.end >= end for right in rights)

    def services_of(self, name: str) -> list[StreamId]:
        """The streams that a subscriber has rights to."""
        return self._subscribers.streams(name)

    def issuing(self) -> tuple[Issuing, ...]:
        """The keys that are on their way to everyone entitled, first come first."""
        return self._delivery.issuing()

    def keys(self, service: str, stream: int) -> tuple[LongTermKey, ...]:
        """The long-term keys of a stream, oldest first (for views and tests)."""
        return tuple(self._stream(service, stream).keys.all())

    # --- the work of every input --------------------------------------------------------------------------------------

    def _stream(self, service: str, stream: int) -> BsmStream:
        try:
            return self._streams[service, stream]
        except KeyError:
            raise LocalFlowError(f"no stream {stream} of {service}") from None

    def _begun(self, service: str, stream: int, now: float) -> BsmStream:
        """The stream that an input is about, which begins now."""
        of = self._stream(service, stream)
        self._begin(now)
        return of

    def _done(self, now: float, *touched: StreamId) -> list[Output]:
        self._begin(now)
        self._touched.update(dict.fromkeys(touched))
        self._work(now)
        return self._take()

    def _take(self) -> list[Output]:
        self._allocator.flush()
        return self._journal.take()

    def _begin(self, now: float) -> None:
        self._now = now
        if self._resumed:
            return
        self._resumed = True
        if self._start is not None:
            self._started(self._start, now)
        for stream in self._streams.values():
            stream.resume(now)
        self._delivery.resume(now)
        for stream in self._streams.values():
            stream.rollover.match_profiles(now)
        self._registrations.resume(now)
        self._touched.update(dict.fromkeys(self._streams))

    def _started(self, start: Start, now: float) -> None:
        """Nothing that was given before is given again, whatever the store knows of it (R51)."""
        if start.restored is not None:
            self._members.jump(RESTORE_JUMP + start.counters, start.smk_base)
            self._bcros.distrust(now)
            self.recoveries.note(start.restored)
            for stream in self._streams.values():
                stream.distrust(start, now)
        elif any(self._journal.tables.values()):
            self._skip(start.counters, start.gap)

    def _skip(self, counters: int, seconds: float) -> None:
        """COUNTERs and key numbers that can have been used in so many seconds are passed over (R2, R51)."""
        self._members.jump(counters)
        for stream in self._streams.values():
            stream.keys.skip(seconds)

    def _work(self, now: float) -> None:
        """The streams that this input touched, and those whose time has come; never all of them."""
        self._peers.tick(now)
        self._touched.update(dict.fromkeys(itertools.islice(self._wakes.due(now), TURN)))
        touched, self._touched = self._touched, {}
        for stream_id in touched:
            self._streams[stream_id].work(now)
        self._delivery.deliver(now)
        self._allocator.prune(now)

    # --- requests of BSD/As, and their answers --------------------------------------------------------------------------

    def _handle(self, message: BackendMessage, now: float) -> BackendMessage:
        if message.tag is Tag.RegRequest:
            return self._registrations.give(message, now)
        streams = self._services.get(message.service, ())
        if not streams:
            raise PeerFlowError(Status.INVALID_REQUEST, "service not known here")
        if not any(message.source in stream.config.bsdas for stream in streams):
            raise PeerFlowError(Status.NOT_PERMITTED, "this BSD/A has no right to the service")
        if message.tag is Tag.LTKMRequest:
            return self._delivery.give(message, [stream.id for stream in streams], now)
        number = message.stream
        if number is None:
            number = next((i.stream for i in message.items if isinstance(i, StkmItem | PartialItem)), 0)
        of = self._streams.get((message.service, number))
        if of is None or message.profile not in of.config.profiles or message.source not in of.config.bsdas:
            raise PeerFlowError(Status.INVALID_REQUEST, "stream or profile not known here")
        if message.tag is Tag.KeyRequest:
            self._touched[of.id] = None
        return of.handle(message, now)

    def _answered(self, asked: Asked, answer: BackendMessage, now: float) -> None:
        message, status = asked.message, answer.status or 0
        of = self._streams.get((message.service, message.stream or 0))
        if of is not None:
            self._touched[of.id] = None
            if message.attempt is not None:
                of.attempts.answered(message, status, now)
                return
            of.answered(message, answer, now)
        elif status == Status.SUCCESS and message.tag is Tag.LTKMDelivery:
            self._delivery.confirmed(message)
        elif status == Status.SUCCESS and message.tag is Tag.RegDelivery:
            self._registrations.confirmed(message)
        if status == Status.DELAYED:
            self._peers.cancel(message.message_id)  # a BSD/A that has nothing yet is asked again, or sends it (F3): _offer_keys
        elif (
            status != Status.SUCCESS
            and not (message.tag is Tag.STKMRequest and status == Status.NON_EXISTENT)
            and not self._peers.split(asked, status, now)
        ):
            text = f"{message.tag.name} refused: {status_words(status, message.tag.name)}"
            self._journal.emit(Alarm("refused", message.service, message.stream, text))

    def _expired(self, asked: Asked) -> None:
        if asked.message.stream is not None:
            self._touched[asked.message.service, asked.message.stream] = None
