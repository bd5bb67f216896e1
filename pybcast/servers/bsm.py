# SPDX-License-Identifier: Apache-2.0
"""The BSM as a process: the flow machine, and the operator's commands for subscribers and keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from pybcast.errors import ConfigError
from pybcast.flows import BSM, Group, Right, Subscriber, smartcard_registration
from pybcast.flows.events import Output, State
from pybcast.flows.tables import KeyState, Side
from pybcast.keys import CK, IK, OPC, RIAK, SMK, UDK, UGK, GroupRoot, K, Milenage
from pybcast.servers.config import ServerConfig
from pybcast.servers.control import Command
from pybcast.servers.daemon import Daemon
from pybcast.servers.watch import Light, ServiceView
from pybcast.store import Database

YEAR: Final = 365 * 86400
TRIAL_GROUP: Final = bytes.fromhex("00000001")  # of subscribers with random keys, DRM Profile


class _Keys(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What registration gave a subscriber; bytes in hexadecimal.  ``smk`` and ``idr``, or ``group`` to ``riak``."""

    smk: str = ""
    idr: str = ""
    registration: str = ""
    group: str = ""
    position: int = 0
    udk: str = ""
    riak: str = ""


class _Add(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    profile: Literal["drm", "smartcard"] = "smartcard"
    keys: _Keys | None = None
    services: tuple[str, ...] = ()
    days: int = 365


class _Of(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    service: str
    stream: int | None = None
    name: str = ""
    days: int = 365
    at_once: bool = False


class _GroupArguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    address: str
    root: str
    ugk: str
    riak: str
    size: Literal[256, 512] = 256


class Bsm(Daemon[BSM]):
    """A BSM daemon."""

    role = "bsm"
    side = Side.BSM

    def make(self, config: ServerConfig, state: State, *, copy: bool) -> BSM:
        return BSM(
            me=config.me, fqdn=config.fqdn, streams=config.streams, randomness=os.urandom,
            rights_issuer_id=config.rights_issuer_id, state=state, restored=copy,
        )  # fmt: skip

    def views(self, config: ServerConfig, machine: BSM, now: float) -> Iterable[ServiceView]:
        for stream in config.streams:
            rows = [row for row in machine.keys(*stream.key) if row.state is not KeyState.ENDED and not row.programme]
            current = [row for row in rows if row.material.valid_from <= now < row.material.valid_to]
            light: Light = "green" if current or stream.start > now else "red"
            why = "" if light == "green" else "no long-term key in force"
            yield ServiceView(
                service=stream.service, stream=stream.stream, light=light, why=why,
                next_change=min((row.material.valid_to for row in current), default=None),
            )  # fmt: skip

    # --- commands -------------------------------------------------------------------------------------------------------

    def commands(self) -> dict[str, Command]:
        return {
            "service-list": self._service_list, "subscriber-add": self._subscriber_add, "subscriber-list": self._subscriber_list,
            "subscriber-grant": self._grant, "subscriber-withdraw": self._withdraw, "group-add": self._group_add,
            "key-list": self._key_list, "rekey": self._rekey,
        }  # fmt: skip

    def _streams(self, service: str, stream: int | None = None) -> list[int]:
        found = [s.stream for s in self.config.streams if s.service == service and stream in (None, s.stream)]
        if not found:
            raise ConfigError(f"no such service or stream here: {service}")
        return found

    async def _service_list(self, _: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "service": s.service, "stream": s.stream, "profiles": list(s.profiles), "generation": s.generation,
                "delivery": s.delivery, "protocol": s.protocol.name, "period": s.period, "key_period": s.key_period,
                "look_ahead": s.look_ahead, "bsdas": list(s.bsdas),
            }
            for s in self.config.streams
        ]  # fmt: skip

    async def _subscriber_add(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A subscriber with keys of his own, or with random ones (for trying out), and his rights."""
        asked = _convert(arguments, _Add)
        streams = [(service, stream) for service in asked.services for stream in self._streams(service)]
        now = self.clock.now()
        group: Group | None = None
        registration: bytes | None = None
        if asked.keys is not None:
            subscriber, registration = _imported(asked.name, asked.keys)
        elif asked.profile == "smartcard":
            subscriber, registration = self._random_card(asked.name, now)
        else:
            subscriber, group = await self._random_device(asked.name)

        def add(machine: BSM, now: float) -> list[Output]:
            outputs = machine.add_group(group, now) if group is not None else []
            outputs += machine.add_subscriber(subscriber, now, registration)
            for service, stream in streams:
                outputs += machine.grant(subscriber.id, _right(service, stream, now, asked.days), now)
            return outputs

        await self.runner.command(add)
        return {"subscriber": subscriber.id, "profile": subscriber.profile, "rights": len(streams)}

    def _random_card(self, name: str, now: float) -> tuple[Subscriber, bytes]:
        home, rand = Milenage(K(os.urandom(16)), OPC(os.urandom(16))), os.urandom(16)
        return smartcard_registration(
            name=name, rand=rand, autn=home.autn(rand, os.urandom(6), b"\x80\0"), ck=CK(home.f3(rand)), ik=IK(home.f4(rand)),
            impi=f"{name}@ims.{self.config.fqdn}", fqdn=self.config.fqdn, bsf=f"bsf.{self.config.fqdn}",
            until=int(now) + YEAR, gba_u=True,
        )  # fmt: skip

    async def _random_device(self, name: str) -> tuple[Subscriber, Group | None]:
        rows = await self._query('SELECT subscriber, position, "group" FROM subscriber WHERE "group" = ?', TRIAL_GROUP.hex())
        known = {str(row["subscriber"]): int(str(row["position"])) for row in rows}
        free = next((n for n in range(256) if n not in known.values()), None)
        position = known.get(name, free)
        if position is None:
            raise ConfigError("the group for random keys is full: import subscribers with their own")
        groups = await self._query("SELECT address, size FROM subscriber_group WHERE address = ?", TRIAL_GROUP.hex())
        group = None
        if not groups:
            group = Group(
                address=TRIAL_GROUP, size=256, root=GroupRoot(os.urandom(16)), ugk=UGK(os.urandom(16)), riak=RIAK(os.urandom(16))
            )
        keys = UDK(os.urandom(16)), RIAK(os.urandom(16))
        return Subscriber(id=name, group=TRIAL_GROUP, position=position, udk=keys[0], riak=keys[1]), group

    async def _subscriber_list(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        people = await self._query('SELECT subscriber, profile, "group", position FROM subscriber ORDER BY subscriber', "")
        rights = await self._query('SELECT subscriber, service, stream, start, "end" FROM entitlement', "")
        held: dict[object, list[dict[str, object]]] = {}
        for right in rights:
            held.setdefault(right.pop("subscriber"), []).append(right)
        return [{**row, "rights": held.get(row["subscriber"], [])} for row in people]

    async def _grant(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Of)
        for stream in self._streams(asked.service, asked.stream):
            await self.runner.command(
                lambda m, now, s=stream: m.grant(asked.name, _right(asked.service, s, now, asked.days), now)  # type: ignore[misc]
            )
        return {"subscriber": asked.name, "service": asked.service}

    async def _withdraw(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Of)
        for stream in self._streams(asked.service, asked.stream):
            await self.runner.command(
                lambda m, now, s=stream: m.withdraw(asked.name, asked.service, s, now, at_once=asked.at_once)  # type: ignore[misc]
            )
        return {"subscriber": asked.name, "service": asked.service, "complete": "now" if asked.at_once else "with the next key"}

    async def _group_add(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _GroupArguments)
        group = Group(
            address=_bytes(asked.address, "address", 4), size=asked.size, root=GroupRoot(_bytes(asked.root, "root", 16)),
            ugk=UGK(_bytes(asked.ugk, "ugk", 16)), riak=RIAK(_bytes(asked.riak, "riak", 16)),
        )  # fmt: skip
        await self.runner.command(lambda machine, now: machine.add_group(group, now))
        return {"group": asked.address}

    async def _rekey(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = _convert(arguments, _Of)
        for stream in self._streams(asked.service, asked.stream):
            await self.runner.command(lambda m, now, s=stream: m.rekey(asked.service, s, now))  # type: ignore[misc]
        return {"service": asked.service, "rekey": "as soon as terminals can have the new key"}

    async def _key_list(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        columns = "service, stream, key_type, key_id, valid_from, valid_to, state, programme, sealer"
        return await self._query(f"SELECT {columns} FROM key_version ORDER BY service, stream, valid_from, key_type", "")

    async def _query(self, sql: str, argument: str) -> list[dict[str, object]]:
        """Rows of the store's views, read beside the writer: no key is in them."""

        def read() -> list[dict[str, object]]:
            names = [
                part.strip().rpartition(" ")[2].strip('"') for part in sql.removeprefix("SELECT ").partition(" FROM ")[0].split(",")
            ]
            with contextlib.closing(Database(self.config.database, None, readonly=True)) as reader:
                rows = reader.query(sql, (argument,) if "?" in sql else ())
            return [dict(zip(names, row, strict=True)) for row in rows]

        return await asyncio.to_thread(read)


def _convert(arguments: Mapping[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(dict(arguments), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None


def _right(service: str, stream: int, now: float, days: int) -> Right:
    return Right(service=service, stream=stream, start=int(now) - 60, end=int(now) + days * 86400)


def _bytes(text: str, name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise ConfigError(f"{name}: expected {2 * size} hexadecimal digits")
    return value


def _imported(name: str, keys: _Keys) -> tuple[Subscriber, bytes | None]:
    try:
        registration = bytes.fromhex(keys.registration) or None
    except ValueError:
        raise ConfigError("registration: expected hexadecimal digits") from None
    if keys.smk:
        return Subscriber(id=name, smk=SMK(_bytes(keys.smk, "smk", 32)), idr=keys.idr), registration
    group = _bytes(keys.group, "group", 4)
    udk, riak = UDK(_bytes(keys.udk, "udk", 16)), RIAK(_bytes(keys.riak, "riak", 16))
    return Subscriber(id=name, group=group, position=keys.position, udk=udk, riak=riak), registration
