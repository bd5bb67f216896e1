# SPDX-License-Identifier: Apache-2.0
"""What an operator may tell a running BSM: subscribers and groups, rights, programmes, keys.

Each command is answered when what it changed is stored and carried out.  What only looks is in ``views``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec

from pybcast.errors import ConfigError, LocalFlowError
from pybcast.flows import BSM, Enrolment, Group, Programme, Right, Subscriber, smartcard_registration
from pybcast.flows.events import Output
from pybcast.keys import CK, IK, OPC, RIAK, UDK, UGK, GroupRoot, K, Milenage
from pybcast.servers import enrol, views
from pybcast.servers.control import Command
from pybcast.servers.enrol import DAY, GroupRow, RightRow, SubscriberRow, Wrong

if TYPE_CHECKING:
    from pybcast.servers.bsm import Bsm

TRIAL_GROUP: Final = bytes.fromhex("00000001")  # of subscribers with random keys, DRM Profile
MAX_ROWS: Final = 10_000  # subscribers of one import command: it is one transaction, and nothing else happens meanwhile

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class _Add(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    profile: Literal["drm", "smartcard"] = "smartcard"
    keys: dict[str, str | int] | None = None
    services: tuple[str, ...] = ()
    days: int = 365


class _Of(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    service: str
    stream: int | None = None
    name: str = ""
    days: int = 365
    at_once: bool = False
    content: str | None = None
    without: tuple[str, ...] = ()


class _Import(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    rows: list[dict[str, str]]
    days: int = 365
    dry_run: bool = False
    at_once: bool = False


class _Remove(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    at_once: bool = False


class _ProgrammeOf(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    service: str
    content: str
    stream: int | None = None


class _Programme(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    service: str
    content: str
    start: int
    end: int
    stream: int | None = None


class BsmCommands:
    """The commands of one BSM daemon."""

    def __init__(self, daemon: Bsm) -> None:
        self._daemon = daemon

    def table(self) -> dict[str, Command]:
        return {
            "subscriber-add": self.subscriber_add, "subscriber-import": self.subscriber_import, "subscriber-grant": self.grant,
            "subscriber-withdraw": self.withdraw, "subscriber-grants": self.grants, "subscriber-withdrawals": self.withdrawals,
            "subscriber-remove": self.subscriber_remove, "group-add": self.group_add, "programme-add": self.programme_add,
            "programme-remove": self.programme_remove, "rekey": self.rekey,
        }  # fmt: skip

    def _streams(self, service: str, stream: int | None = None) -> list[int]:
        found = [s.stream for s in self._daemon.config.streams if s.service == service and stream in (None, s.stream)]
        if not found:
            raise ConfigError(f"no such service or stream here: {service}")
        return found

    def _end(self, days: int) -> int:
        return int(self._daemon.clock.now()) + days * DAY

    # --- subscribers ----------------------------------------------------------------------------------------------------

    async def subscriber_add(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A subscriber with keys of his own, or with random ones (for trying out), and his rights."""
        asked = _convert(arguments, _Add)
        streams = [(service, stream) for service in asked.services for stream in self._streams(service)]
        group: Group | None = None
        registration: bytes | None = None
        if asked.keys is not None:
            keys = {column: str(value) for column, value in asked.keys.items()}
            subscriber, registration = enrol.subscriber(enrol.row_of({**keys, "subscriber": asked.name}, SubscriberRow))
        elif asked.profile == "smartcard":
            subscriber, registration = self._random_card(asked.name)
        else:
            subscriber, group = await self._random_device(asked.name)
        end = self._end(asked.days)

        def add(machine: BSM, now: float) -> list[Output]:
            outputs = machine.add_group(group, now) if group is not None else []
            outputs += machine.add_subscriber(subscriber, now, registration)
            for service, stream in streams:
                outputs += machine.grant(subscriber.id, enrol.right(service, stream, now, end), now)
            return outputs

        await self._daemon.runner.command(add)
        return {"subscriber": subscriber.id, "profile": subscriber.profile, "rights": len(streams)}

    async def subscriber_import(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Many at once, in one transaction; what cannot be used is named by its place in ``rows``, and the others are taken.

        A subscriber who is there with these keys and rights that last as long is left as he is: importing again changes nothing.
        """
        counts = dict.fromkeys(("added", "changed", "unchanged"), 0)
        udns: dict[str, str] = {}
        names: set[str] = set()
        found: list[Enrolment] = []

        def look(machine: BSM, row: Mapping[str, str], asked: _Import, now: float) -> None:
            if (name := row.get("subscriber", "")) in names:
                raise Wrong("subscriber", "is there twice")
            found.extend(self._missing(machine, row, asked.days, now, counts, udns))
            names.add(name)

        return await self._many(arguments, counts, look, lambda machine, _, now: machine.add_subscribers(found, now))

    async def _many(
        self,
        arguments: Mapping[str, Any],
        counts: dict[str, int],
        look: Callable[[BSM, Mapping[str, str], _Import, float], None],
        enter: Callable[[BSM, _Import, float], list[Output]],
    ) -> dict[str, Any]:
        """Rows of a file in one transaction: ``look`` at each; then ``enter`` those that it did not refuse with ``Wrong``."""
        asked = _convert(arguments, _Import)
        if len(asked.rows) > MAX_ROWS:
            raise ConfigError(f"rows: more than {MAX_ROWS}")

        def work(machine: BSM, now: float) -> tuple[list[dict[str, Any]], list[Output]]:
            errors: list[dict[str, Any]] = []
            for place, row in enumerate(asked.rows):
                try:
                    look(machine, row, asked, now)
                except Wrong as error:
                    errors.append({"row": place, "column": error.column, "reason": error.reason})
            return errors, [] if asked.dry_run else enter(machine, asked, now)

        errors = await self._daemon.runner.command(work)
        return {**counts, "errors": errors}

    def _wanted(self, services: str) -> list[tuple[str, int]]:
        """The streams of the column ``services``."""
        try:
            return [(service, stream) for service in services.split() for stream in self._streams(service)]
        except ConfigError as error:
            raise Wrong("services", str(error)) from None

    def _missing(
        self, machine: BSM, raw: Mapping[str, str], days: int, now: float, counts: dict[str, int], udns: dict[str, str]
    ) -> list[Enrolment]:
        """What must be entered for a row to hold: nothing, or one enrolment.  ``Wrong`` when it cannot."""
        row = enrol.row_of(raw, SubscriberRow)
        subscriber, registration = enrol.subscriber(row)
        end = enrol.last_second(row.until, days, now)
        streams = self._wanted(row.services)
        if subscriber.profile == "drm" and machine.group(subscriber.group) is None:
            raise Wrong("group", "is not known: `bsm group add` first")
        other = machine.device(subscriber.udn) if subscriber.udn else None
        if subscriber.udn and (udns.setdefault(subscriber.udn, subscriber.id if other is None else other.id)) != subscriber.id:
            raise Wrong("udn", "is that of another subscriber")
        known = machine.subscriber(subscriber.id)
        missing = streams if known is None else [s for s in streams if not machine.entitled(subscriber.id, *s, int(now), end)]
        counts["added" if known is None else "changed" if known != subscriber or missing else "unchanged"] += 1
        if known == subscriber and not missing:
            return []
        rights = tuple(enrol.right(service, stream, now, end) for service, stream in missing)
        return [Enrolment(subscriber, rights, registration if known != subscriber else None)]

    def _random_card(self, name: str) -> tuple[Subscriber, bytes]:
        fqdn, now = self._daemon.config.fqdn, self._daemon.clock.now()
        home, rand = Milenage(K(os.urandom(16)), OPC(os.urandom(16))), os.urandom(16)
        return smartcard_registration(
            name=name, rand=rand, autn=home.autn(rand, os.urandom(6), b"\x80\0"), ck=CK(home.f3(rand)), ik=IK(home.f4(rand)),
            impi=f"{name}@ims.{fqdn}", fqdn=fqdn, bsf=f"bsf.{fqdn}", until=int(now) + 365 * DAY, gba_u=True,
        )  # fmt: skip

    async def _random_device(self, name: str) -> tuple[Subscriber, Group | None]:
        rows = await views.read(self._daemon.config.database, "subscriber", group=TRIAL_GROUP.hex())
        known = {str(row["subscriber"]): int(row["position"]) for row in rows}
        free = next((n for n in range(256) if n not in known.values()), None)
        position = known.get(name, free)
        if position is None:
            raise ConfigError("the group for random keys is full: import subscribers with their own")
        group = None
        if not await views.read(self._daemon.config.database, "subscriber_group", address=TRIAL_GROUP.hex()):
            keys = GroupRoot(os.urandom(16)), UGK(os.urandom(16)), RIAK(os.urandom(16))
            group = Group(address=TRIAL_GROUP, size=256, root=keys[0], ugk=keys[1], riak=keys[2])
        udk, riak = UDK(os.urandom(16)), RIAK(os.urandom(16))
        udn = f"{int.from_bytes(os.urandom(8), 'big'):020d}"
        return Subscriber(id=name, group=TRIAL_GROUP, position=position, udk=udk, riak=riak, udn=udn), group

    async def group_add(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        group = enrol.group(_convert(arguments, GroupRow))
        await self._daemon.runner.command(lambda machine, now: machine.add_group(group, now))
        return {"group": group.address.hex(), "size": group.size}

    # --- rights -----------------------------------------------------------------------------------------------------------

    async def grant(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Of)
        streams, end = self._streams(asked.service, asked.stream), self._end(asked.days)

        def grant(machine: BSM, now: float) -> list[Output]:
            rights = [enrol.right(asked.service, stream, now, end, asked.content) for stream in streams]
            return [output for right in rights for output in machine.grant(asked.name, right, now)]

        await self._daemon.runner.command(grant)
        return {"subscriber": asked.name, "service": asked.service, "rights": len(streams)}

    async def withdraw(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Of)
        streams = self._streams(asked.service, asked.stream)

        def withdraw(machine: BSM, now: float) -> list[Output]:
            if machine.subscriber(asked.name) is None:
                raise LocalFlowError(f"no subscriber {asked.name}")
            return [
                output
                for stream in streams
                for output in machine.withdraw(asked.name, asked.service, stream, now, at_once=asked.at_once)
            ]

        await self._daemon.runner.command(withdraw)
        return {"subscriber": asked.name, "service": asked.service, "complete": "now" if asked.at_once else "with the next key"}

    def _rights_row(self, machine: BSM, raw: Mapping[str, str]) -> tuple[RightRow, list[tuple[str, int]]]:
        row = enrol.row_of(raw, RightRow)
        if machine.subscriber(row.subscriber) is None:
            raise Wrong("subscriber", "is not known")
        streams = self._wanted(row.services)
        if not streams:
            raise Wrong("services", "missing: GlobalServiceIDs with spaces between them")
        return row, streams

    async def grants(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Rights of many, in one transaction; who has them for as long already is left as he is."""
        counts = dict.fromkeys(("granted", "unchanged"), 0)
        found: list[tuple[str, Right]] = []

        def look(machine: BSM, raw: Mapping[str, str], asked: _Import, now: float) -> None:
            row, streams = self._rights_row(machine, raw)
            end, content = enrol.last_second(row.until, asked.days, now), row.programme or None
            missing = [key for key in streams if not machine.entitled(row.subscriber, *key, int(now), end, content)]
            counts["granted" if missing else "unchanged"] += 1
            found.extend((row.subscriber, enrol.right(*key, now, end, content)) for key in missing)

        return await self._many(arguments, counts, look, lambda machine, _, now: machine.grant_many(found, now))

    async def withdrawals(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The rights of many to some services taken away, in one transaction; who has none is left as he is."""
        counts = dict.fromkeys(("withdrawn", "unchanged"), 0)
        found: dict[tuple[str, int], dict[str, None]] = {}

        def look(machine: BSM, raw: Mapping[str, str], asked: _Import, now: float) -> None:
            row, streams = self._rights_row(machine, raw)
            for column in ("programme", "until"):
                if getattr(row, column):
                    raise Wrong(column, "is for grant: withdraw takes every right to a service")
            held = [key for key in streams if key in machine.services_of(row.subscriber)]
            counts["withdrawn" if held else "unchanged"] += 1
            for key in held:
                found.setdefault(key, {})[row.subscriber] = None

        def enter(machine: BSM, asked: _Import, now: float) -> list[Output]:
            return [
                output
                for key, names in found.items()
                for output in machine.withdraw_many(list(names), *key, now, at_once=asked.at_once)
            ]

        return await self._many(arguments, counts, look, enter)

    async def subscriber_remove(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Remove)
        await self._daemon.runner.command(lambda m, now: m.remove_subscriber(asked.name, now, at_once=asked.at_once))
        return {"subscriber": asked.name, "complete": "now" if asked.at_once else "with the next key"}

    # --- keys and programmes ------------------------------------------------------------------------------------------------

    async def rekey(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Of)
        for stream in self._streams(asked.service, asked.stream):
            await self._daemon.runner.command(lambda m, now, s=stream: m.rekey(asked.service, s, now, asked.without))  # type: ignore[misc]
        return {"service": asked.service, "rekey": "as soon as terminals can have the new key"}

    async def programme_add(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A programme of its own key; it may begin later than asked, where periods are prepared already (R5)."""
        asked = _convert(arguments, _Programme)
        if not asked.content or asked.start >= asked.end:
            raise ConfigError("a programme has an id, and ends after it begins")
        streams = self._streams(asked.service, asked.stream)

        def add(machine: BSM, now: float) -> tuple[Programme, list[Output]]:
            of = [Programme(asked.service, stream, asked.content, asked.start, asked.end) for stream in streams]
            added = [machine.add_programme(programme, now) for programme in of]
            return added[0][0], [output for _, outputs in added for output in outputs]

        held = await self._daemon.runner.command(add)
        return {"service": asked.service, "content": asked.content, "start": held.start, "end": held.end}

    async def programme_remove(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A programme that nobody has prepared yet is taken back from every stream of its service, or from none."""
        asked = _convert(arguments, _ProgrammeOf)
        streams = self._streams(asked.service, asked.stream)
        await self._daemon.runner.command(lambda m, now: m.remove_programme(asked.service, streams, asked.content, now))
        return {"service": asked.service, "content": asked.content, "removed": True}


def _convert(arguments: Mapping[str, Any], kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(dict(arguments), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
