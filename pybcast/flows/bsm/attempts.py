# SPDX-License-Identifier: Apache-2.0
"""R50 at the BSM: a pair's key ends early only when both headends have confirmed that they seal nothing under it from then on.

One attempt is one record of a stream that walks through ``tables.ATTEMPT``.  It is asked of every BSD/A until each has confirmed,
or one refuses, or its time is over.  When all have confirmed the next key is released, and only then.  Else the attempt is given up
for good, and each BSD/A is told so until it answers; before that no other attempt begins.  So an operator sees which headend is
missed (alarm ``key-waits``), and may say that it is off air: then the pair goes on without it, and that headend has to ask for
everything anew before it sends again.

A programme of a pair whose BSD/As seal (F4) begins by the same steps: when all have confirmed that they seal nothing from its start
on without its key, the key is made.  Until then it does not begin: each attempt is for the first start that nobody can have
prepared past, and when none is left before its end, it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from pybcast.flows.events import Alarm
from pybcast.flows.journal import Journal
from pybcast.flows.peers.exchange import RETRY, Peering
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.tables import ATTEMPT, AttemptEvent, AttemptState, Status, Tag, step

CONFIRMED_WITHIN: Final = 3 * RETRY  # seconds for the BSD/As to confirm: a message may be lost twice - confidence: own
AGAIN: Final = 10.0  # seconds from an attempt that was given up to the next one - confidence: own


@dataclass(frozen=True)
class Attempt:
    """One attempt.  ``number``: NTP seconds at which it began, above those of all before it.  ``start``: where the key is to end.

    ``decided``: until when all must have confirmed.  ``heard``: the BSD/As that have confirmed, or that know that it was given up.
    ``content``, ``end``: of an attempt to begin a programme at ``start``.
    """

    number: int
    start: int
    decided: float
    state: AttemptState = AttemptState.ASKED
    heard: frozenset[str] = frozenset()
    content: str | None = None
    end: int | None = None


class Attempts:
    """The attempts of every stream, in the BSM's journal (tables ``attempt`` and ``off-air``).

    ``mark_lost(config, bsda)``: called for a headend that is off air: no key that it can have now is given to it again.
    """

    def __init__(self, journal: Journal, peers: Peering, mark_lost: Callable[[StreamConfig, str], None]) -> None:
        self._journal, self._peers, self._mark_lost = journal, peers, mark_lost
        self._messages: dict[tuple[object, ...], tuple[str, float]] = {}  # id of what was sent, and when it may be sent again

    def of(self, config: StreamConfig) -> Attempt | None:
        """The last attempt of a stream."""
        return self._journal.get("attempt", config.key, Attempt)

    def asked(self, config: StreamConfig) -> Attempt | None:
        """The attempt that waits for confirmations."""
        attempt = self.of(config)
        return attempt if attempt is not None and attempt.state is AttemptState.ASKED else None

    def ends(self, config: StreamConfig) -> int | None:
        """The start from which nothing is sealed, served or promised while an attempt is asked."""
        attempt = self.asked(config)
        return None if attempt is None else attempt.start

    def may_begin(self, config: StreamConfig, now: float) -> bool:
        """Whether every BSD/A knows how the last attempt ended, and some time has passed."""
        last = self.of(config)
        if last is None or last.state is AttemptState.RELEASED:
            return True
        return last.state is AttemptState.OVER and now >= last.decided + AGAIN

    def begin(
        self, config: StreamConfig, start: int, decided: float, now: float, content: str | None = None, end: int | None = None
    ) -> None:
        """Ask every BSD/A to seal nothing from ``start`` on under what it has; all must have confirmed before ``decided``.

        ``content``, ``end``: a programme that begins at ``start``.
        """
        # What tells a headend that it is off air goes on.
        self._messages = {name: sent for name, sent in self._messages.items() if name[:2] != config.key or name[-1]}
        self._put(config, Attempt(self._number(config, now), start, decided, content=content, end=end))
        self.work(config, now)

    def _number(self, config: StreamConfig, now: float) -> int:
        last = self.of(config)
        return max(int(now), *(1 + number for number in (0 if last is None else last.number, *self._off_air(config).values())))

    def pass_over(self, config: StreamConfig, now: float) -> None:
        """The store was put back: no number that it may have given is given again, and no attempt of it goes on."""
        self._put(config, Attempt(self._number(config, now), int(now), now - AGAIN, AttemptState.OVER))

    def _put(self, config: StreamConfig, attempt: Attempt) -> None:
        self._journal.put("attempt", config.key, attempt)

    def _fire(self, config: StreamConfig, attempt: Attempt, event: AttemptEvent, **changes: object) -> None:
        state = step(ATTEMPT, attempt.state, event)
        self._put(config, replace(attempt, state=state, heard=frozenset(), **changes))  # type: ignore[arg-type]

    # --- who is missing -------------------------------------------------------------------------------------------------

    def missing(self, config: StreamConfig) -> list[str]:
        """The BSD/As that have not answered the attempt as it is now; those that are off air are not missed."""
        attempt = self.of(config)
        heard = frozenset() if attempt is None else attempt.heard
        return [b for b in config.bsdas if b not in heard and b not in self.off_air(config)]

    def off_air(self, config: StreamConfig) -> frozenset[str]:
        """The BSD/As that the operator said are off air, and that have not been told so yet."""
        return frozenset(self._off_air(config))

    def _off_air(self, config: StreamConfig) -> dict[str, int]:
        rows = self._journal.select("off-air", config.key, int)
        return {str(bsda): number for (_, _, bsda), number in rows.items()}

    def go_without(self, config: StreamConfig, bsdas: Collection[str], now: float) -> None:
        """These headends are off air: nothing waits for them, and each has to ask for everything anew before it sends again."""
        number = self._number(config, now)
        for bsda in bsdas:
            self._mark_lost(config, bsda)
            self._journal.put("off-air", (*config.key, bsda), number)

    def alarm(self, config: StreamConfig) -> None:
        """Raise the alarm of a key that waits: at every start too, as alarms are not stored."""
        attempt, missing = self.of(config), self.missing(config)
        if attempt is not None and attempt.state is AttemptState.GIVEN_UP and missing:
            self._alarm(config, missing)

    def _alarm(self, config: StreamConfig, missing: list[str]) -> None:
        attempt = self.of(config)
        what = "the next key" if attempt is None or attempt.content is None else f"programme {attempt.content}"
        text = f"{what} waits until these are heard, or said to be off air: {', '.join(missing)}"
        self._journal.emit(Alarm("key-waits", *config.key, text))

    # --- the work -------------------------------------------------------------------------------------------------------

    def work(self, config: StreamConfig, now: float) -> bool:
        """Take the attempt as far as it comes; whether all have confirmed, and the next key is to be released now."""
        if not config.pair:
            return False
        attempt = self.of(config)
        if attempt is not None:
            missing = self.missing(config)
            if attempt.state is AttemptState.ASKED and not missing:
                self._fire(config, attempt, AttemptEvent.CONFIRMED)
                return True
            if attempt.state is AttemptState.ASKED and now >= attempt.decided:
                self._give_up(config, attempt, now)
            elif attempt.state is AttemptState.GIVEN_UP and not missing:
                self._fire(config, attempt, AttemptEvent.HEARD)
                self._journal.emit(Alarm("key-waits", *config.key, active=False))
        self._ask(config, now)
        return False

    def forgo_programme(self, config: StreamConfig, now: float) -> None:
        """Other servers are to seal: the programme that is asked for begins by their steps."""
        attempt = self.asked(config)
        if attempt is not None and attempt.content is not None:
            self._give_up(config, attempt, now)

    def _give_up(self, config: StreamConfig, attempt: Attempt, now: float) -> None:
        self._alarm(config, self.missing(config))
        self._fire(config, attempt, AttemptEvent.GIVE_UP, decided=now)

    def _ask(self, config: StreamConfig, now: float) -> None:
        """Tell the BSD/As what they have not answered yet; they are asked again until they do."""
        attempt = self.of(config)
        if attempt is not None and attempt.state in (AttemptState.ASKED, AttemptState.GIVEN_UP):
            asked = attempt.state is AttemptState.ASKED
            until = attempt.decided if asked else now + config.key_period
            for bsda in self.missing(config):
                self._send(config, bsda, attempt.number, attempt.start, now, until, attempt, asked=asked)
        for bsda, number in self._off_air(config).items():
            self._send(config, bsda, number, number, now, now + config.key_period, None, fresh=True)

    def _send(
        self, config: StreamConfig, bsda: str, number: int, start: int, now: float, until: float, attempt: Attempt | None, *,
        asked: bool = False, fresh: bool = False,
    ) -> None:  # fmt: skip
        name = (*config.key, bsda, number, asked, fresh)
        message_id, again = self._messages.get(name, ("", now))
        if not self._peers.asking(message_id) and now >= again:
            message_id = self._peers.ask(
                Tag.KeyDelivery, bsda, config.service, now, until=until, profile=config.profiles[0], stream=config.stream,
                start=start, replacing=asked, fresh=fresh, attempt=number,
                content=None if attempt is None else attempt.content, end=None if attempt is None else attempt.end,
            )  # fmt: skip
            self._messages[name] = (message_id, now + RETRY)

    def answered(self, config: StreamConfig, message: BackendMessage, status: int, now: float) -> None:
        """A BSD/A answered."""
        attempt, bsda, good = self.of(config), message.destination, status == Status.SUCCESS
        if message.fresh:
            if good:
                self.is_anew(config, bsda)
        elif attempt is not None and attempt.number == message.attempt:
            if good and message.replace == (attempt.state is AttemptState.ASKED):
                self._hear(config, attempt, bsda)
            elif message.replace and attempt.state is AttemptState.ASKED:
                self._give_up(config, attempt, now)

    def _hear(self, config: StreamConfig, attempt: Attempt, bsda: str) -> None:
        self._put(config, replace(attempt, heard=attempt.heard | {bsda}))
        self.alarm(config)

    def is_anew(self, config: StreamConfig, bsda: str) -> None:
        """A BSD/A has forgotten all.  One that was off air is waited for again; that answers an attempt too, as it seals nothing.

        Of a programme it is asked, again if it has confirmed: the key that it gets next may not be what the programme waits for.
        """
        attempt, number = self.of(config), self._off_air(config).get(bsda)
        programme = attempt is not None and attempt.content is not None and attempt.state is AttemptState.ASKED
        if attempt is not None and programme:
            self._put(config, replace(attempt, heard=attempt.heard - {bsda}))
        if number is None:
            return
        self._journal.drop("off-air", (*config.key, bsda))
        self._peers.cancel(self._messages.get((*config.key, bsda, number, False, True), ("", 0.0))[0])
        if attempt is not None and not programme and attempt.state in (AttemptState.ASKED, AttemptState.GIVEN_UP):
            self._hear(config, attempt, bsda)

    def times(self, config: StreamConfig) -> list[float]:
        """When something of the stream's attempts is due."""
        attempt = self.of(config)
        times = [again for name, (message_id, again) in self._messages.items() if name[:2] == config.key]
        if attempt is not None and attempt.state is not AttemptState.RELEASED:
            times.append(attempt.decided + (AGAIN if attempt.state is AttemptState.OVER else 0))
        return times
