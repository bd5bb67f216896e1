# SPDX-License-Identifier: Apache-2.0
"""One stream of a BSM: its keys and STKMs, and what passes about it between the BSM and its BSD/As (F3-F6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from pybcast.errors import PeerFlowError
from pybcast.flows.bsm.attempts import Attempts
from pybcast.flows.bsm.keychain import KeyChain, LongTermKey, Means
from pybcast.flows.bsm.programmes import Programme, Programmes
from pybcast.flows.bsm.rollover import Rollover
from pybcast.flows.bsm.stkms import Stkms
from pybcast.flows.peers.messages import SERVICE_KEY, BackendMessage, KeyMaterial, PartialItem, Profile, StkmItem
from pybcast.flows.restart import Start
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.stream.schedule import Period
from pybcast.flows.tables import KeyState, Status, Tag, status_words

REOFFER: Final = 10.0  # seconds until a key or window that a BSD/A refused is offered again - confidence: own


class BsmStream:
    """Everything that a BSM knows of one stream.  The machine calls :meth:`work` after each input that concerns it, and in time."""

    def __init__(self, config: StreamConfig, means: Means) -> None:
        self.id, self._means = config.id, means
        self.keys = KeyChain(config, means)
        self.attempts = Attempts(means, self.keys)
        self.programmes = Programmes(means, self.keys, self.attempts)
        self.stkms = Stkms(means, self.keys, self.attempts, self.programmes)
        self.rollover = Rollover(means, self.keys, self.attempts, self.programmes, self.stkms)
        # (key type, key id, BSD/A) -> the id of what was sent, when it is sent again, and the end that the key had
        self._offers: dict[tuple[str, bytes, str], tuple[str, float, int]] = {}
        self._poll_at: float | None = None

    @property
    def config(self) -> StreamConfig:
        """The stream as it is configured now."""
        return self.keys.config

    # --- the work of every input ------------------------------------------------------------------------------------------

    def work(self, now: float) -> None:
        """Do what is due, and say when there is more."""
        self.keys.age(now)
        self.programmes.age(now)
        self.stkms.age(now)
        self.rollover.roll(now)
        self._recover(now)
        self._offer_keys(now)
        self._poll(now)
        self._means.wakes.set(self.id, self._wake(now))

    def _wake(self, now: float) -> float | None:
        times = [*self.attempts.times(), *(p.end for p in self.programmes.all()), *self.keys.times(), *self.stkms.times()]
        for row in self.keys.all():
            times += [self._offers[self._offer_of(row, bsda)][1] for bsda in self._owed(row, now)]
        times.append(now if self._poll_at is None else self._poll_at)
        return min((t for t in times if t > now), default=None)

    def resume(self, now: float) -> None:
        """The process has started: alarms are not stored, and the clock may have been put back."""
        self._means.recoveries.alarm(self.config)
        self.attempts.alarm()
        self.keys.clock_back(now)

    def distrust(self, start: Start, now: float) -> None:
        """The store was put back: keys, key numbers and attempts that it can have forgotten are not used again (R2, R50, R51)."""
        assert start.restored is not None
        self.keys.skip(start.gap, restored=True, at_least=start.key_number)
        self.rollover.distrust(now)
        self.attempts.pass_over(now)
        known = [row.material.key_id for row in self.keys.all()]
        self._means.recoveries.begin(start.restored, self.config, now, known, self.keys.unprepared(now))

    def _recover(self, now: float) -> None:
        """The stream has recovered when keys that the restored store did not know are in force."""
        recovery = self._means.recoveries.of(self.config)
        if recovery is not None:
            in_force = self.keys.at(Period(0, int(now), int(now) + 1)).values()
            if any(row.material.key_id not in recovery.known for row in in_force):
                self._means.recoveries.over(self.config)

    # --- what an operator says --------------------------------------------------------------------------------------------

    def add_programme(self, programme: Programme, now: float) -> Programme:
        """See :meth:`BSM.add_programme`."""
        held, config = self.programmes.add(programme, now), self.config
        if not config.drm and config.generation == "bsm":
            for bsda in config.bsdas:
                self._ask_window("smartcard", bsda, held.start, held.end, now, content=held.content)
        return held

    def remove_programme(self, content: str) -> None:
        for row in self.programmes.remove(content):
            for bsda in self.config.bsdas:
                message_id, _, _ = self._offers.pop(self._offer_of(row, bsda), ("", 0.0, 0))
                self._means.peers.cancel(message_id)

    def set_generation(self, generation: Literal["bsm", "bsda"], now: float) -> None:
        """Who seals from the next key on (R1, R10)."""
        if self.config.generation != generation:
            self.keys.config = replace(self.config, generation=generation)
            self.attempts.forgo_programme(now)
            self.rollover.renew()

    def request_stkms(self, profile: Profile, start: int, end: int, now: float) -> None:
        """F6, pulled."""
        self._ask(Tag.STKMRequest, self.config.bsdas[0], profile, end, now, start=start, end=end)

    def request_partials(self, profile: Profile, start: int, end: int, now: float) -> None:
        """F3, pulled: ask the BSD/As for the partial STKMs of a window."""
        for bsda in self.config.bsdas:
            self._ask_window(profile, bsda, start, end, now)

    # --- keys (F4) and windows (F3) to the BSD/As -------------------------------------------------------------------------

    def _owed(self, row: LongTermKey, now: float) -> list[str]:
        """The BSD/As that must still be told of a key."""
        m, config = row.material, self.config
        pulled = config.delivery == "pull" and row.sealer == "bsda" and not row.at_once
        if row.state is KeyState.ENDED or (pulled and row.programme is None):  # who has the service's key asks for no other
            return []
        if row.sealer == "bsm" and now >= m.valid_from:
            return []  # F3: too late to be of use; what straddles its start is refused (R32)
        return [b for b in config.bsdas if b not in row.confirmed and not self._is_lost(row, b)]

    def _is_lost(self, row: LongTermKey, bsda: str) -> bool:
        loss = self.keys.loss(bsda)
        return loss is not None and row.material.key_id in loss.keys

    @staticmethod
    def _offer_of(row: LongTermKey, bsda: str) -> tuple[str, bytes, str]:
        return (row.material.key_type, row.material.key_id, bsda)

    def _offer_keys(self, now: float) -> None:
        """Tell the BSD/As of keys, again where one was refused."""
        for row in self.keys.all():
            for bsda in self._owed(row, now):
                offer, m = self._offer_of(row, bsda), row.material
                message_id, due, end = self._offers.get(offer, ("", now, m.valid_to))
                if end != m.valid_to:  # it was cut short since: as it was, it would take its successor's place (R10)
                    self._means.peers.cancel(message_id)
                elif self._means.peers.asking(message_id) or now < due:
                    continue
                if row.sealer == "bsda":
                    message_id = self._ask(
                        Tag.KeyDelivery, bsda, row.profile, m.valid_to, now, items=(m,), content=row.programme,
                        replacing=row.at_once, about=frozenset({m.valid_from}),
                    )  # fmt: skip
                else:
                    message_id = self._ask_window(
                        row.profile, bsda, m.valid_from, m.valid_to, now, replacing=row.at_once, content=row.programme
                    )
                self._offers[offer] = (message_id, now + REOFFER, m.valid_to)

    def _told(self, key_type: str, valid_from: int, bsda: str) -> None:
        """A BSD/A knows of a key."""
        for row in self.keys.all():
            if (row.material.key_type, row.material.valid_from) == (key_type, valid_from) and bsda not in row.confirmed:
                self.keys.put(replace(row, confirmed=row.confirmed | {bsda}))
                self._offers.pop(self._offer_of(row, bsda), None)

    def _ask_window(
        self, profile: Profile, bsda: str, start: int | None, end: int | None, now: float, *, replacing: bool = False,
        content: str | None = None,
    ) -> str:  # fmt: skip
        """F3, S7 claim 5: periods begin and end here; give what is ready (R32)."""
        until = now + self.config.period if end is None else end
        return self._ask(
            Tag.PartialSTKMRequest, bsda, profile, until, now, start=start, end=end, replacing=replacing, content=content
        )

    def _ask(
        self, tag: Tag, bsda: str, profile: Profile | None, until: float, now: float, *, start: int | None = None,
        end: int | None = None, items: tuple[KeyMaterial | StkmItem, ...] = (), content: str | None = None,
        replacing: bool = False, about: frozenset[int] = frozenset(),
    ) -> str:  # fmt: skip
        """A request about this stream."""
        return self._means.peers.ask(
            tag, bsda, self.config.service, now, until=until, profile=profile, stream=self.config.stream, start=start, end=end,
            items=items, content=content, replacing=replacing, about=about,
        )  # fmt: skip

    def _poll(self, now: float) -> None:
        """Where delivery is pulled: ask every half period for partial STKMs (F3), and for the BSD/A's STKMs (F6)."""
        config = self.config
        if config.delivery != "pull" or (self._poll_at is not None and now < self._poll_at):
            return
        self._poll_at = now + config.period / 2
        for profile in config.profiles:
            for bsda in config.bsdas:
                if config.generation == "bsm":
                    self._ask_window(profile, bsda, None, None, now)
                elif config.interaction:
                    end = int(now) + (1 + config.ahead) * config.period
                    self._ask(Tag.STKMRequest, bsda, profile, now + config.period, now, start=int(now), end=end)

    # --- requests from a BSD/A --------------------------------------------------------------------------------------------

    def handle(self, message: BackendMessage, now: float) -> BackendMessage:
        """The answer to a request about this stream, from one of its BSD/As and about one of its profiles."""
        assert message.profile is not None
        match message.tag:
            case Tag.TEKDelivery:
                return self._complete(message, message.profile, now)
            case Tag.KeyRequest:
                return self._give_keys(message, message.profile, now)
            case Tag.STKMDelivery:
                return self.stkms.deliver(message, now)
            case _:  # Tag.STKMRequest: check() lets no other through
                low, high = message.start or 0, message.end or 1 << 62
                found = tuple(i for i in self.stkms.at_hand(message.profile) if low <= i.period_start < high)
                return message.answer(Status.SUCCESS if found else Status.NON_EXISTENT, found, now=now)

    def _complete(self, message: BackendMessage, profile: Profile, now: float) -> BackendMessage:
        """F3: complete the partial STKMs, each with its own status (R27, R31)."""
        if not self._seals("bsm"):
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made by the BSD/A")
        done = self.stkms.complete(profile, _partials(message), now)
        ready = tuple(i for i in done if i.status == Status.SUCCESS)
        if ready:
            self.keys.flow("F3", profile)
        if not self.config.synchronous:
            done = [replace(i, status=Status.DELAYED, content=b"") if i.status == Status.SUCCESS else i for i in done]
            if self.config.delivery == "push":
                self._send_stkms(message.source, profile, ready, now)
        return message.answer(Status.SUCCESS, tuple(done), now=now)

    def _send_stkms(self, bsda: str, profile: Profile, ready: tuple[StkmItem, ...], now: float, *, replacing: bool = False) -> None:
        """F5."""
        if ready:
            self._ask(Tag.STKMDelivery, bsda, profile, max(i.period_end for i in ready), now, items=ready, replacing=replacing)

    def _seals(self, side: str) -> bool:
        return self.config.generation == side or any(row.sealer == side for row in self.keys.all())

    def _give_keys(self, message: BackendMessage, profile: Profile, now: float) -> BackendMessage:
        """F4, pulled: the keys from the first uncovered period on; new ones for a BSD/A that lost its store (R33)."""
        if not self._seals("bsda"):
            raise PeerFlowError(Status.INVALID_REQUEST, "the STKMs of this stream are made by the BSM")
        wanted, bsda = SERVICE_KEY[profile], message.source
        start = max(now, now if message.start is None else message.start)
        chain = [r for r in self.keys.all(wanted) if r.sealer == "bsda"]
        if message.fresh:
            self.attempts.is_anew(bsda)
            self._note_loss(message, wanted)
        loss = self.keys.loss(bsda)
        usable = [r for r in chain if loss is None or r.material.key_id not in loss.keys]
        found = [r for r in usable if r.material.valid_to > start]
        if not found:
            raise PeerFlowError(Status.DELAYED if chain else Status.NON_EXISTENT, "no key for that time")
        if wanted == "SEAK":
            found += [r for r in self.keys.all("PEAK") if r.sealer == "bsda" and r.material.valid_to > start]
        if loss is not None and message.fresh:
            self.keys.put_loss(bsda, replace(loss, served=loss.served | {(wanted, message.message_id)}))
        for row in found:
            self._told(row.material.key_type, row.material.valid_from, bsda)
        self.keys.flow("F4", profile)
        return message.answer(Status.SUCCESS, tuple(r.material for r in found), now=now)

    def _note_loss(self, message: BackendMessage, wanted: str) -> None:
        """A BSD/A says that its store is lost.  When it was given new keys already, by another message, it is lost once more."""
        loss = self.keys.loss(message.source)
        if loss is None or ((wanted, message.message_id) not in loss.served and wanted in dict(loss.served)):
            self.keys.lose(message.source)
            self.rollover.renew()

    # --- answers ----------------------------------------------------------------------------------------------------------

    def answered(self, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        """A BSD/A answered a request about this stream."""
        good, bsda = answer.status == Status.SUCCESS, message.destination
        match message.tag:
            case Tag.KeyDelivery if good:
                for item in message.items:
                    assert isinstance(item, KeyMaterial)
                    self._told(item.key_type, item.valid_from, bsda)
                self.keys.flow("F4", message.profile)
            case Tag.STKMDelivery if good:
                self.keys.flow("F5", message.profile)
            case Tag.PartialSTKMRequest if good or answer.status == Status.DELAYED:
                if message.start is not None:
                    for key_type in ("SEK",) if message.profile == "smartcard" else ("SEAK", "PEAK"):
                        self._told(key_type, message.start, bsda)
                if good:
                    self._complete_pulled(message, answer, now)
            case Tag.STKMRequest if good:
                assert message.profile is not None
                self.stkms.answered(message.profile, answer, now)

    def _complete_pulled(self, message: BackendMessage, answer: BackendMessage, now: float) -> None:
        """F3, pulled: the partials came with the answer; the STKMs go back by F5."""
        assert message.profile is not None
        done = self.stkms.complete(message.profile, _partials(answer), now)
        ready = tuple(i for i in done if i.status == Status.SUCCESS)
        for item in done:
            if item.status not in (Status.SUCCESS, Status.DELAYED):
                self.keys.alarm("not-sealed", f"period {item.period_start}: {status_words(item.status)}")
        if ready:
            self.keys.flow("F3", message.profile)
        self._send_stkms(answer.source, message.profile, ready, now, replacing=message.replace)


def _partials(message: BackendMessage) -> list[PartialItem]:
    return [item for item in message.items if isinstance(item, PartialItem)]
