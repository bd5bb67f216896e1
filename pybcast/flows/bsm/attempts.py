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

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from pybcast.flows.bsm.keychain import KeyChain, Means
from pybcast.flows.journal import Journal, Table
from pybcast.flows.peers.exchange import RETRY
from pybcast.flows.peers.messages import BackendMessage
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


ATTEMPTS: Final = Table("attempt", Attempt)
OFF_AIR: Final = Table("off-air", int, "service stream bsda")
"""Headends that the operator said are off air, each with the number of the attempt that tells it so."""


def is_off_air(journal: Journal, bsda: str) -> bool:
    """Whether a BSD/A is off air for some stream."""
    return any(row_key[2] == bsda for row_key in journal.open(OFF_AIR).all())


class Attempts:
    """The attempts of one stream."""

    def __init__(self, means: Means, keys: KeyChain) -> None:
        self._means, self._keys = means, keys
        self._rows, self._off_air_rows = means.journal.open(ATTEMPTS), means.journal.open(OFF_AIR)
        # (BSD/A, number, asked, fresh) -> the id of what was sent, and when it may be sent again
        self._messages: dict[tuple[str, int, bool, bool], tuple[str, float]] = {}

    @property
    def last(self) -> Attempt | None:
        """The last attempt."""
        return self._rows.get(self._keys.id)

    def asked(self) -> Attempt | None:
        """The attempt that waits for confirmations."""
        attempt = self.last
        return attempt if attempt is not None and attempt.state is AttemptState.ASKED else None

    def ends(self) -> int | None:
        """The start from which nothing is sealed, served or promised while an attempt is asked."""
        attempt = self.asked()
        return None if attempt is None else attempt.start

    def may_begin(self, now: float) -> bool:
        """Whether every BSD/A knows how the last attempt ended, and some time has passed."""
        last = self.last
        if last is None or last.state is AttemptState.RELEASED:
            return True
        return last.state is AttemptState.OVER and now >= last.decided + AGAIN

    def begin(self, start: int, decided: float, now: float, content: str | None = None, end: int | None = None) -> None:
        """Ask every BSD/A to seal nothing from ``start`` on under what it has; all must have confirmed before ``decided``.

        ``content``, ``end``: a programme that begins at ``start``.
        """
        # What tells a headend that it is off air goes on.
        self._messages = {name: sent for name, sent in self._messages.items() if name[-1]}
        self._put(Attempt(self._number(now), start, decided, content=content, end=end))
        self.work(now)

    def _number(self, now: float) -> int:
        last = self.last
        return max(int(now), *(1 + number for number in (0 if last is None else last.number, *self.off_air().values())))

    def pass_over(self, now: float) -> None:
        """The store was put back: no number that it may have given is given again, and no attempt of it goes on."""
        self._put(Attempt(self._number(now), int(now), now - AGAIN, AttemptState.OVER))

    def _put(self, attempt: Attempt) -> None:
        self._rows.put(self._keys.id, attempt)

    def _fire(self, attempt: Attempt, event: AttemptEvent, **changes: object) -> None:
        state = step(ATTEMPT, attempt.state, event)
        self._put(replace(attempt, state=state, heard=frozenset(), **changes))  # type: ignore[arg-type]

    # --- who is missing -------------------------------------------------------------------------------------------------

    def missing(self) -> list[str]:
        """The BSD/As that have not answered the attempt as it is now; those that are off air are not missed."""
        attempt = self.last
        heard = frozenset() if attempt is None else attempt.heard
        return [b for b in self._keys.config.bsdas if b not in heard and b not in self.off_air()]

    def off_air(self) -> dict[str, int]:
        """The BSD/As that the operator said are off air, and that have not been told so yet, each with its number."""
        return {str(bsda): number for (_, _, bsda), number in self._off_air_rows.under(self._keys.id).items()}

    def go_without(self, bsdas: Collection[str], now: float) -> None:
        """These headends are off air: nothing waits for them, and each has to ask for everything anew before it sends again."""
        number = self._number(now)
        for bsda in bsdas:
            self._keys.lose(bsda)
            self._off_air_rows.put((*self._keys.id, bsda), number)

    def alarm(self) -> None:
        """Raise the alarm of a key that waits: at every start too, as alarms are not stored."""
        attempt, missing = self.last, self.missing()
        if attempt is not None and attempt.state is AttemptState.GIVEN_UP and missing:
            self._alarm(missing)

    def _alarm(self, missing: list[str]) -> None:
        attempt = self.last
        what = "the next key" if attempt is None or attempt.content is None else f"programme {attempt.content}"
        text = f"{what} waits until these are heard, or said to be off air: {', '.join(missing)}"
        self._keys.alarm("key-waits", text)

    # --- the work -------------------------------------------------------------------------------------------------------

    def work(self, now: float) -> bool:
        """Take the attempt as far as it comes; whether all have confirmed, and the next key is to be released now."""
        if not self._keys.config.pair:
            return False
        attempt = self.last
        if attempt is not None:
            missing = self.missing()
            if attempt.state is AttemptState.ASKED and not missing:
                self._fire(attempt, AttemptEvent.CONFIRMED)
                return True
            if attempt.state is AttemptState.ASKED and now >= attempt.decided:
                self._give_up(attempt, now)
            elif attempt.state is AttemptState.GIVEN_UP and not missing:
                self._fire(attempt, AttemptEvent.HEARD)
                self._keys.alarm("key-waits", active=False)
        self._ask(now)
        return False

    def forgo_programme(self, now: float) -> None:
        """Other servers are to seal: the programme that is asked for begins by their steps."""
        attempt = self.asked()
        if attempt is not None and attempt.content is not None:
            self._give_up(attempt, now)

    def _give_up(self, attempt: Attempt, now: float) -> None:
        self._alarm(self.missing())
        self._fire(attempt, AttemptEvent.GIVE_UP, decided=now)

    def _ask(self, now: float) -> None:
        """Tell the BSD/As what they have not answered yet; they are asked again until they do."""
        attempt, later = self.last, now + self._keys.config.key_period
        if attempt is not None and attempt.state in (AttemptState.ASKED, AttemptState.GIVEN_UP):
            asked = attempt.state is AttemptState.ASKED
            for bsda in self.missing():
                self._send(
                    bsda, attempt.number, attempt.start, now, attempt.decided if asked else later, content=attempt.content,
                    end=attempt.end, asked=asked,
                )  # fmt: skip
        for bsda, number in self.off_air().items():
            self._send(bsda, number, number, now, later, fresh=True)

    def _send(
        self, bsda: str, number: int, start: int, now: float, until: float, *, content: str | None = None, end: int | None = None,
        asked: bool = False, fresh: bool = False,
    ) -> None:  # fmt: skip
        config, name = self._keys.config, (bsda, number, asked, fresh)
        message_id, again = self._messages.get(name, ("", now))
        if not self._means.peers.asking(message_id) and now >= again:
            message_id = self._means.peers.ask(
                Tag.KeyDelivery, bsda, config.service, now, until=until, profile=config.profiles[0], stream=config.stream,
                start=start, end=end, content=content, replacing=asked, fresh=fresh, attempt=number,
            )  # fmt: skip
            self._messages[name] = (message_id, now + RETRY)

    def answered(self, message: BackendMessage, status: int, now: float) -> None:
        """A BSD/A answered."""
        attempt, bsda, good = self.last, message.destination, status == Status.SUCCESS
        if message.fresh:
            if good:
                self.is_anew(bsda)
        elif attempt is not None and attempt.number == message.attempt:
            if good and message.replace == (attempt.state is AttemptState.ASKED):
                self._hear(attempt, bsda)
            elif message.replace and attempt.state is AttemptState.ASKED:
                self._give_up(attempt, now)

    def _hear(self, attempt: Attempt, bsda: str) -> None:
        self._put(replace(attempt, heard=attempt.heard | {bsda}))
        self.alarm()

    def is_anew(self, bsda: str) -> None:
        """A BSD/A has forgotten all.  One that was off air is waited for again; that answers an attempt too, as it seals nothing.

        Of a programme it is asked, again if it has confirmed: the key that it gets next may not be what the programme waits for.
        """
        attempt, number = self.last, self.off_air().get(bsda)
        programme = attempt is not None and attempt.content is not None and attempt.state is AttemptState.ASKED
        if attempt is not None and programme:
            self._put(replace(attempt, heard=attempt.heard - {bsda}))
        if number is None:
            return
        self._off_air_rows.drop((*self._keys.id, bsda))
        self._means.peers.cancel(self._messages.get((bsda, number, False, True), ("", 0.0))[0])
        if attempt is not None and not programme and attempt.state in (AttemptState.ASKED, AttemptState.GIVEN_UP):
            self._hear(attempt, bsda)

    def times(self) -> list[float]:
        """When something of the stream's attempts is due."""
        attempt = self.last
        times = [again for _, again in self._messages.values()]
        if attempt is not None and attempt.state is not AttemptState.RELEASED:
            times.append(attempt.decided + (AGAIN if attempt.state is AttemptState.OVER else 0))
        return times
