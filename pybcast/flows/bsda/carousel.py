# SPDX-License-Identifier: Apache-2.0
"""What turns on a BSD/A's carousel: LTKMs (F2) and registration material (F1), pushed by the BSM or fetched from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from pybcast.errors import PeerFlowError
from pybcast.flows.agenda import Agenda
from pybcast.flows.events import CarouselDrop, CarouselPut, FlowDone
from pybcast.flows.journal import Journal, Table
from pybcast.flows.peers.exchange import Peering
from pybcast.flows.peers.messages import ALL_SERVICES, BackendMessage
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.tables import Status, Tag

CAROUSEL: Final = Table("carousel", CarouselPut, "bsm name")
ENDS: Final = Table("carousel-end", int, "bsm name")
REFETCH: Final = Table("refetch", bool, "service")
"""Services whose objects are lost with the store, and not fetched again yet."""


class Carousel:
    """Objects by BSM and name.  ``streams_of(service)``: its streams; all of them for material that is no service's."""

    def __init__(self, journal: Journal, peers: Peering, streams_of: Callable[[str], list[StreamConfig]]) -> None:
        self._journal, self._peers, self._streams_of = journal, peers, streams_of
        self._objects, self._ends, self._refetch = journal.open(CAROUSEL), journal.open(ENDS), journal.open(REFETCH)
        self._due: Agenda[tuple[str, str]] = Agenda()  # by source and name: names of two BSMs do not mix
        self._polls: Agenda[str] = Agenda()

    def resume(self, services: Iterable[str], lost: bool, now: float) -> None:
        """After a start the carousel turns again; what was lost with the store is fetched."""
        for (source, name), put in self._objects.all().items():
            self._journal.emit(put)
            self._due.set((str(source), str(name)), self._ends.get((source, name)))
        for service in (*services, ALL_SERVICES):
            if lost:  # what turned is lost with the store, and nobody will send it again
                self._refetch.put((service,), True)
            if self._fetches(service):
                self._polls.set(service, now)

    @property
    def objects(self) -> tuple[CarouselPut, ...]:
        """What turns."""
        return tuple(self._objects.all().values())

    def next_wakeup(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return min((time for time in (self._due.next(), self._polls.next()) if time is not None), default=None)

    def tick(self, now: float) -> None:
        """Ask for what is pulled; drop what has ended."""
        for service in list(self._polls.due(now)):
            self._poll(service, now)
        for source, name in list(self._due.due(now)):
            self._drop(source, name)

    def take(self, message: BackendMessage) -> None:
        """F1, F2, pushed.  ``PeerFlowError`` where the scope does not go with the tag."""
        if (message.tag is Tag.RegDelivery) != (message.service == ALL_SERVICES):
            raise PeerFlowError(Status.INVALID_REQUEST, "scope does not go with the tag (R29)")
        if message.replaces is not None:
            self._drop(message.source, message.replaces)
        self._put(message.source, message.message_id, message.service, message.items, message.end)

    def answered(self, message: BackendMessage, answer: BackendMessage) -> bool:
        """F1, F2, pulled: what came takes the place of what was pulled before.  False for a refusal."""
        if answer.status == Status.NON_EXISTENT:
            self._refetch.drop((message.service,))
        elif answer.status != Status.SUCCESS:
            return False
        elif answer.items:
            self._refetch.drop((message.service,))
            # One object for each service: what is pulled next takes its place.
            name = f"pulled {int(message.tag)} {message.service}"
            self._put(answer.source, name, answer.service, answer.items, message.end)
            self._journal.emit(FlowDone("F1" if message.tag is Tag.RegRequest else "F2", None, message.service))
        return True

    def ask(self, service: str, registration: bool, start: int, end: int, until: float, now: float) -> None:
        """Ask the BSM for what is to be broadcast in a window."""
        tag, bsm = Tag.RegRequest if registration else Tag.LTKMRequest, self._streams_of(service)[0].bsm
        self._peers.ask(tag, bsm, service, now, until=until, start=start, end=end)

    def _put(self, source: str, name: str, service: str, items: tuple[object, ...], end: int | None) -> None:
        key = (source, name)
        put = CarouselPut(f"{source} {name}", service, tuple(i for i in items if isinstance(i, bytes)))
        self._objects.put(key, put)
        if end is not None:
            self._ends.put(key, end)
        self._due.set(key, end)
        self._journal.emit(put)

    def _drop(self, source: str, name: str) -> None:
        key = (source, name)
        put = self._objects.get(key)
        if put is not None:
            self._objects.drop(key)
            self._ends.drop(key)
            self._due.set(key, None)
            self._journal.emit(CarouselDrop(put.object_id))

    def _fetches(self, service: str) -> bool:
        pulls = service != ALL_SERVICES and any(config.delivery == "pull" for config in self._streams_of(service))
        return pulls or bool(self._refetch.get((service,)))

    def _poll(self, service: str, now: float) -> None:
        """Once in a cycle of the carousel where delivery is pulled, else until there is an answer."""
        streams = self._streams_of(service)
        if streams and self._fetches(service):
            until = now + min(config.carousel_cycle for config in streams)
            self._polls.set(service, until)
            end = int(now) + max(config.key_period for config in streams)
            self.ask(service, service == ALL_SERVICES, int(now), end, until, now)
