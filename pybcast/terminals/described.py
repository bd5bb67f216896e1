# SPDX-License-Identifier: Apache-2.0
"""What session descriptions say to a terminal beside addresses: which of them can be used, when a service is received, and what of
them is not obeyed.

All is told to whoever runs the terminal: a description that asks for something else than what happens is not passed over.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from pybcast.broadcast.datagrams import hearing, is_group
from pybcast.errors import ConfigError
from pybcast.flows import Profile
from pybcast.sdp import Description, Endpoint
from pybcast.sourcefilter import SourceFilter, family_of
from pybcast.wire.times import NTP_UNIX

LOG: Final = logging.getLogger("pybcast.terminal")
MAX_TOLD: Final = 20  # lines of a description that are named one by one


Place = tuple[str, int]


def title(description: Description) -> str:
    """How people are told which one it is."""
    return description.service or description.name or "a service without a name"


def usable(descriptions: Sequence[Description], profile: Profile) -> tuple[list[Description], list[tuple[Description, str]]]:
    """Those that can be used together, and the others with the reason: of a stream that is described twice the first counts."""
    used, unused = list[Description](), list[tuple[Description, str]]()
    names = set[tuple[str, int]]()
    for description in descriptions:
        own = [(tuning.service, tuning.stream) for tuning in description.tunings(profile)]
        twice = [name for index, name in enumerate(own) if name in names or name in own[:index]]
        if twice:
            service, stream = twice[0]
            unused.append((description, f"{service or 'a service without a name'} stream {stream} is described twice"))
        else:
            used.append(description)
            names |= set(own)
    return used, unused


def senders_of(where: Endpoint) -> SourceFilter | None:
    """Whose datagrams are taken there, by their addresses.  ``ConfigError`` for a name that has none."""
    return None if where.senders is None else where.senders.resolved(family_of(where.address))


def unheard(descriptions: Sequence[Description], profile: Profile, interface: str) -> dict[int, str]:
    """The descriptions whose addresses cannot be listened to, by their index, and why not.

    A host may have no IPv6, or no room for another group; a name may have no address.
    """
    found, taken = dict[int, str](), dict[tuple[str, Place], SourceFilter | None]()
    for index, description in enumerate(descriptions):
        own = dict[tuple[str, Place], SourceFilter | None]()
        try:
            for what, where in _places(description, profile):
                place, senders = (where.address, where.port), senders_of(where)
                # Of a group each socket has its own datagrams, at an address of one host all have the same.
                if not is_group(where.address):
                    if (taken | own).get((what, place), senders) != senders:
                        raise ConfigError(f"{place[0]}:{place[1]}: two descriptions say different senders (source-filter)")
                    own[what, place] = senders
                hearing(place, interface, senders).close()
        except ConfigError as error:
            found[index] = str(error)
        else:
            taken |= own
    return found


def _places(description: Description, profile: Profile) -> Iterator[tuple[str, Endpoint]]:
    """Where its messages come; what each place carries."""
    yield from (("stkm", stream) for stream in description.streams(profile))
    if description.ltkm is not None:
        yield "ltkm", description.ltkm
    if description.carousel is not None:
        yield "carousel", description.carousel


class Schedule:
    """Which of the descriptions are received now (RFC 8866, 5.9), and word of each change."""

    def __init__(self, descriptions: Sequence[Description]) -> None:
        self._active: list[bool | None] = [None] * len(descriptions)
        self._descriptions = descriptions

    def active(self, index: int) -> bool:
        """Whether that description is received."""
        return bool(self._active[index])

    def changed(self, now: float) -> list[int]:
        """Those that begin or end at ``now``, NTP seconds; at the first call, those that are received."""
        found = []
        for index, description in enumerate(self._descriptions):
            active, before = description.active(now), self._active[index]
            if active == before:
                continue
            self._active[index] = active
            if active or before:
                found.append(index)
            if before is not None or not active:
                _tell(description, now, active=active)
        return found


def _tell(description: Description, now: float, *, active: bool) -> None:
    name, begins = description.service or description.name, description.begins(now)
    fields = {"event": "tuned" if active else "not-tuned", "service": name, "begins": begins}
    if active:
        LOG.info("%s is tuned: its time (t=) has begun", name, extra={"fields": fields})
    elif begins is not None:
        LOG.warning("%s is not tuned: its time (t=) begins %s", name, shown_time(begins), extra={"fields": fields})
    else:
        LOG.warning("%s is not tuned: its time (t=) is over", name, extra={"fields": fields})


def shown_time(seconds: float) -> str:
    """NTP seconds as people read them."""
    try:
        return datetime.datetime.fromtimestamp(seconds - NTP_UNIX, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"at {seconds:.0f} (NTP seconds)"


def tell_what_is_not_obeyed(descriptions: Sequence[Description], profile: Profile) -> None:
    """Once, at the start: lines that are not used, media that nobody here opens, and interaction channels beside the first."""
    for d in descriptions:
        name = d.service or d.name
        if d.ignored:
            told = [str(ignored) for ignored in d.ignored[:MAX_TOLD]]
            more = f"; and {len(d.ignored) - MAX_TOLD} more" if len(d.ignored) > MAX_TOLD else ""
            fields = {"event": "sdp-ignored", "service": name, "lines": told, "count": len(d.ignored)}
            LOG.info("%s: not used of its description: %s", name, "; ".join(told) + more, extra={"fields": fields})
        opened = {stream.streamid for stream in d.streams(profile)}
        for medium in d.media:
            if medium.not_opened and opened & set(medium.stkmstreams):
                where = f"{medium.address}:{medium.port}"
                fields = {"event": "not-opened", "service": name, "where": where, "why": medium.not_opened}
                text = "%s: the keys of %s are given, but its packets are not opened here: %s"
                LOG.warning(text, name, where, medium.not_opened, extra={"fields": fields})
    urls = dict.fromkeys(d.interaction for d in descriptions if d.interaction)
    for url in [*urls][1:]:
        LOG.warning("interaction channel not used, the first is: %s", url, extra={"fields": {"event": "sdp-ignored", "url": url}})
