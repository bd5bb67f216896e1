# SPDX-License-Identifier: Apache-2.0
"""The configuration of a server: a TOML file, read into structs and from there into what flows, back end and store take.

Every refusal is a ``ConfigError`` of the form ``FILE:LINE: key: reason`` (see ``toml``).
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from pybcast.backend import Peer, Peers, ServerLimits
from pybcast.errors import ConfigError, ConfigErrors
from pybcast.flows import ALL_SERVICES, Profile, StreamConfig
from pybcast.https.contexts import Context, TlsFiles, client_context, server_context
from pybcast.https.limits import is_loopback
from pybcast.https.validity import Validity, validity
from pybcast.https.validity import now as validity_now
from pybcast.keys import KEK
from pybcast.messages import Protocol
from pybcast.secret import Secret
from pybcast.servers.tables import AirTable, File, InteractionTable, LogTable, Role, ServiceTable
from pybcast.servers.toml import SOURCES, Address, Misplaced, TomlFile, Where, secret_of, source_of

PROTOCOLS: Final = {"ipsec": Protocol.IPSEC, "srtp": Protocol.SRTP, "ismacryp": Protocol.ISMACRYP}
ROLLOVER_SHARE: Final = 10  # of the key period: how long before its use the next key goes out by default - confidence: own


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """A configuration that was understood; nothing has been opened yet but the file itself.

    Secrets, certificates and their like are read by the methods, at start and at a reload.
    """

    path: Path
    role: Role
    me: str
    listen: Address
    status: Address | None
    database: Path
    witness: Path
    control: Path
    kek_source: str
    pair_source: str
    random_teks: bool
    """Traffic keys are drawn, not derived (R1)."""
    fqdn: str
    rights_issuer_id: bytes | None
    tls: TlsFiles | None
    limits: ServerLimits
    """Of the back-end interface."""
    log: LogTable
    air: AirTable
    peers: Peers
    peer_ids: tuple[str, ...]
    streams: tuple[StreamConfig, ...]
    groups: Mapping[tuple[str, int, Profile], Address]
    """Where the STKMs of a (service, stream, profile) are sent to."""
    ltkm: Address | None
    flute: Address | None
    heartbeat: Address | None
    interaction: InteractionTable | None
    """Its files are found beside ``path``; ``interaction_address`` is where it listens."""
    interaction_address: Address | None

    @property
    def events(self) -> str:
        """Where events are written: a path, ``-``, or nothing."""
        return self.air.events if self.air.events in ("", "-") else str(self.path.parent / self.air.events)

    @property
    def keys(self) -> Path | None:
        """The socket for encoders."""
        return self.path.parent / self.air.keys if self.air.keys else None

    @property
    def sender(self) -> Path | None:
        """The socket of the STKM sender."""
        return self.path.parent / self.air.sender if self.air.sender else None

    @property
    def carousel(self) -> Path | None:
        """The socket of the carousel."""
        return self.path.parent / self.air.carousel if self.air.carousel else None

    def kek(self) -> KEK:
        return secret_of(self.path, self.kek_source, "server.kek", KEK)

    def with_kek(self, source: str) -> ServerConfig:
        """The same with another key-encryption key, named as in the file."""
        return replace(self, kek_source=source_of(self.path, source, ConfigError(SOURCES)))

    def pair_secret(self) -> Secret | None:
        return secret_of(self.path, self.pair_source, "server.pair_secret", Secret) if self.pair_source else None

    def contexts(self) -> tuple[Context, Context] | tuple[None, None]:
        """TLS for listening and for asking."""
        if self.tls is None:
            return None, None
        try:
            return server_context(self.tls), client_context(self.tls)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: tls: {error}") from None

    def interaction_context(self) -> Context | None:
        """TLS for terminals: with a client certificate (DRM Profile), or without."""
        if self.interaction is None:
            return None
        table, base = self.interaction, self.path.parent
        files = TlsFiles(
            certificate=base / table.certificate, key=base / table.key, authority=base / table.authority,
            crl=base / table.crl if table.crl else None,
        )  # fmt: skip
        try:
            context = server_context(files)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: interaction: {error}") from None
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def revocation_lists(self) -> list[Path]:
        """The files that say which certificates were taken back."""
        own = [self.tls.crl] if self.tls is not None and self.tls.crl is not None else []
        terminals = [self.path.parent / self.interaction.crl] if self.interaction is not None and self.interaction.crl else []
        return own + terminals

    def certificates(self) -> list[Validity]:
        """When the certificates of this server, and those of the authorities that it believes, begin and end."""
        found = []
        if self.tls is not None:
            found += [
                validity(self.tls.certificate, "tls.certificate"), validity(self.tls.authority, "tls.authority", authority=True)
            ]  # fmt: skip
        if self.interaction is not None:
            base = self.path.parent
            found += [
                validity(base / self.interaction.certificate, "interaction.certificate"),
                validity(base / self.interaction.authority, "interaction.authority", authority=True),
            ]
        return found

    def in_date(self, now: datetime) -> None:
        """``ConfigError`` for certificates that have ended, or have not begun."""
        mistakes = [f"{each.key}: {each.why(now)}" for each in self.certificates() if each.light(now) == "red"]
        if mistakes:
            raise ConfigErrors.of([ConfigError(f"{self.path}: {mistake}") for mistake in mistakes])

    def check(self) -> None:
        """Everything that ``serve`` will need and that can be tried without disturbing a running server."""
        mistakes: list[ConfigError] = []
        for look in (self.contexts, self.interaction_context, self._in_date, self.kek, self.pair_secret):
            try:
                look()
            except ConfigError as error:
                mistakes.append(error)
        for path, key in (
            (self.database, "server.database"), (self.witness.parent, "server.witness"),
            (self.control, "server.control"), (self.keys, "air.keys"), (self.sender, "air.sender"), (self.carousel, "air.carousel"),
        ):  # fmt: skip
            if path is not None and not path.parent.is_dir():
                mistakes.append(ConfigError(f"{self.path}: {key}: {path.parent} is not a folder"))
        if mistakes:
            raise ConfigErrors.of(mistakes)

    def _in_date(self) -> None:
        try:
            certificates = self.certificates()
        except ConfigError:
            return  # ``contexts`` has said it
        if certificates:
            self.in_date(validity_now())


def load(path: Path) -> ServerConfig:
    """Read and check a configuration file.  ``ConfigError``: FILE:LINE: key: reason."""
    return _Reader(path).read()


def described(stream: StreamConfig) -> dict[str, Any]:
    """A stream as it is listed."""
    return {
        "service": stream.service, "stream": stream.stream, "profiles": list(stream.profiles), "generation": stream.generation,
        "delivery": stream.delivery, "protocol": stream.protocol.name, "period": stream.period, "key_period": stream.key_period,
        "look_ahead": stream.look_ahead, "bsdas": list(stream.bsdas),
    }  # fmt: skip


_T = TypeVar("_T")
_NO_SERVICE: Final = {"id": "urn:x-bcast:none", "period": 1, "key_period": 2, "profiles": ["drm"]}
"""In the place of a service that is left out, so that the others keep their numbers."""


class _Reader(TomlFile):
    """A server's file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.mistakes: list[tuple[Where, str]] = []
        self._misshapen: set[int] = set()

    def note(self, where: Where, reason: str) -> None:
        """A mistake; others are looked for."""
        self.mistakes.append((where, reason))

    def noted(self, make: Callable[..., _T], *arguments: Any) -> _T | None:
        """What ``make`` gives, or ``None`` and its refusal among the mistakes."""
        try:
            return make(*arguments)
        except Misplaced as error:
            self.note(error.where, error.reason)
            return None

    def _file(self) -> File:
        """The file as a struct.  Services that have not the shape of one are left out: the others are looked at."""
        mistakes = self.misfits(File)
        for where, _ in mistakes:
            if where[:1] != ("services",) or len(where) < 2:
                raise ConfigErrors.of(self.in_order(mistakes))
            self._misshapen.add(int(where[1]))
        self.mistakes += mistakes
        raw = {
            **self.raw,
            "services": [_NO_SERVICE if i in self._misshapen else s for i, s in enumerate(self.raw.get("services", ()))],
        }
        return msgspec.convert(raw, File)

    def _used(self, file: File) -> Iterator[tuple[int, ServiceTable]]:
        return ((i, table) for i, table in enumerate(file.services) if i not in self._misshapen)

    def read(self) -> ServerConfig:
        file = self._file()
        server = file.server
        me = server.id
        if ":" not in me:
            self.note(("server", "id"), "expected an absolute URI")
        peers = self._peers(file)
        streams = () if peers is None or ":" not in me else self._streams(file)
        listen = self._optional(("server", "listen"), server.listen)
        status = self._optional(("server", "status"), server.status)
        if status is not None and not is_loopback(status.host):
            self.note(("server", "status"), "expected a loopback address: figures and health are not for everyone")
        if file.tls is None and not (server.plain_loopback and listen is not None and is_loopback(listen.host)):
            self.note(("tls",), "missing: the back-end interface needs mutual TLS (R26)")
        if file.tls is not None and server.plain_loopback:
            self.note(("server", "plain_loopback"), "contradicts [tls]")
        for i, peer in enumerate(file.peers):
            if peer.url.startswith("http://") != (file.tls is None):
                self.note(("peers", i, "url"), f"expected {'http' if file.tls is None else 'https'}://...")
        base = self.path.parent
        database = base / server.database
        witness = base / server.witness if server.witness else database.parent / "witness" / f"{database.name}.witness"
        if witness.parent.resolve() == database.parent.resolve():  # one copy of a folder puts back what is in it together
            self.note(("server", "witness"), "expected a path in another folder than the database's")
        issuer = self.noted(self.hex, ("server", "rights_issuer_id"), server.rights_issuer_id, 20)
        if server.role == "bsm":
            if not server.fqdn:
                self.note(("server", "fqdn"), "missing: a BSM has a name in its messages")
            if not server.rights_issuer_id and any(s.drm for s in streams):
                self.note(("server", "rights_issuer_id"), "missing: a service has the DRM Profile")
        elif not server.pair_secret and any(len(s.bsdas) > 1 for s in streams):
            self.note(("server", "pair_secret"), "missing: a service has a main and a back-up BSD/A (R33)")
        if server.teks == "random" and (server.role == "bsm" or server.pair_secret):
            self.note(("server", "teks"), "random: is for a BSD/A that is alone; a pair derives its traffic keys (R33)")
        if server.role == "bsm" and file.air != AirTable():
            self.note(("air",), "is for a BSD/A")
        if server.role == "bsda" and file.interaction is not None:
            self.note(("interaction",), "is for a BSM")
        air, tls = file.air, file.tls
        groups: dict[tuple[str, int, Profile], Address] = {}
        for i, s in self._used(file):
            if s.stkm:
                groups |= self.noted(self._groups, ("services", i, "stkm"), s) or {}
        if air.sender:
            for i, s in self._used(file):
                if not s.stkm:
                    self.note(("services", i, "stkm"), "missing: air.sender does not know where to send")
        if air.carousel and not (air.ltkm or air.flute):
            self.note(("air", "carousel"), "needs air.ltkm, air.flute or both")
        kek = self.noted(self.source, ("server", "kek"), server.kek)
        pair = self.noted(self.source, ("server", "pair_secret"), server.pair_secret) if server.pair_secret else ""
        ltkm, flute = self._optional(("air", "ltkm"), air.ltkm), self._optional(("air", "flute"), air.flute)
        heartbeat = self._optional(("air", "heartbeat"), air.heartbeat)
        terminals = None if file.interaction is None else self._optional(("interaction", "listen"), file.interaction.listen)
        if self.mistakes:
            raise ConfigErrors.of(self.in_order(self.mistakes))
        assert peers is not None and listen is not None and kek is not None and pair is not None
        return ServerConfig(
            path=self.path, role=server.role, me=me, listen=listen, status=status, database=database,
            witness=witness,
            control=base / (server.control or f"{server.role}.sock"), kek_source=kek,
            pair_source=pair, fqdn=server.fqdn,
            rights_issuer_id=issuer, log=file.log, air=file.air, peers=peers, random_teks=server.teks == "random",
            peer_ids=tuple(peer.id for peer in file.peers), streams=streams, groups=groups,
            ltkm=ltkm, flute=flute,
            heartbeat=heartbeat, interaction=file.interaction,
            interaction_address=terminals,
            tls=None if tls is None else TlsFiles(
                certificate=base / tls.certificate, key=base / tls.key, authority=base / tls.authority,
                crl=base / tls.crl if tls.crl else None,
            ),
            limits=ServerLimits(
                connections=server.connections, per_address=server.connections_per_address, connect_rate=server.connect_rate
            ),
        )  # fmt: skip

    def _groups(self, where: Where, table: ServiceTable) -> dict[tuple[str, int, Profile], Address]:
        first = self.address(where, table.stkm)
        both = set(table.profiles) == {"drm", "smartcard"}
        if not 1 <= first.port <= 65535 - both:
            raise self.refuse(where, "expected a port that can be sent to")
        return {(table.id, table.stream, p): Address(first.host, first.port + (both and p == "smartcard")) for p in table.profiles}

    def _optional(self, where: Where, text: str) -> Address | None:
        return self.noted(self.address, where, text) if text else None

    def _peers(self, file: File) -> Peers | None:
        if not file.peers:
            self.note(("peers",), "missing: a server alone has nobody to speak with")
        made: list[Peer] = []
        before = len(self.mistakes)
        for i, peer in enumerate(file.peers):
            told = [(s.id, s.bsdas if file.server.role == "bsm" else (s.bsm,) if s.bsm else ()) for s in file.services]
            named = {service for service, ids in told if not ids or peer.id in ids}
            services = frozenset(named | set(peer.services) | ({ALL_SERVICES} if peer.all_services else set()))
            if peer.id == file.server.id:
                self.note(("peers", i, "id"), "is this server itself")
                continue
            try:
                pins = frozenset(peer.fingerprints)
                found = Peer(id=peer.id, services=services, certificate=peer.certificate, fingerprints=pins, url=peer.url)
                Peers([*made, found])
                made.append(found)
            except ConfigError as error:
                self.note(("peers", i), str(error).removeprefix(f"peer {peer.id}: "))
        return Peers(made) if file.peers and len(self.mistakes) == before else None

    def _streams(self, file: File) -> tuple[StreamConfig, ...]:
        """Every service that can be used, if all can be; else those that can, and the mistakes of the others."""
        streams = [(i, stream) for i, table in self._used(file) if (stream := self.noted(self._stream, file, i, table)) is not None]
        self._streams_together(streams)
        return tuple(stream for _, stream in streams)

    def _stream(self, file: File, i: int, table: ServiceTable) -> StreamConfig | None:
        me, role = file.server.id, file.server.role
        others = [peer.id for peer in file.peers]
        bsm = table.bsm or (me if role == "bsm" else others[0] if len(others) == 1 else "")
        bsdas = table.bsdas or (tuple(others) if role == "bsm" and len(others) == 1 else (me,) if role == "bsda" else ())
        for ids, key in (((bsm,), "bsm"), (bsdas, "bsdas")):
            if not all(ids) or not ids:
                raise self.refuse(("services", i, key), "missing: there are several peers, name those of this service")
            for name in ids:
                if name != me and name not in others:
                    raise self.refuse(("services", i, key), f"{name} is neither this server nor one of its peers")
        if me not in ((bsm,) if role == "bsm" else bsdas):
            raise self.refuse(("services", i, "bsm" if role == "bsm" else "bsdas"), "does not name this server")
        cycle = table.carousel_cycle
        if not 0 < cycle <= 3600:
            raise self.refuse(("services", i, "carousel_cycle"), "expected more than 0 s, at most an hour")
        least = math.ceil(2 * cycle)
        # Time for two turns of the carousel (R7), and for the periods that are prepared ahead: they reach into the next key.
        ahead = max(least, (table.look_ahead + table.batch + 1) * table.period, table.key_period // ROLLOVER_SHARE)
        rollover = max(least, min(ahead, table.key_period - 1)) if table.rollover_lead is None else table.rollover_lead
        rekey = math.ceil(2.5 * cycle) if table.rekey_lead is None else table.rekey_lead
        domain = self.hex(("services", i, "key_domain_id"), table.key_domain_id, 3)
        try:
            return StreamConfig(
                service=table.id, stream=table.stream, profiles=table.profiles, generation=table.generation, bsm=bsm, bsdas=bsdas,
                protocol=PROTOCOLS[table.protocol], traffic_authentication_flag=table.traffic_authentication, period=table.period,
                start=table.start, granularity=table.granularity, key_period=table.key_period, rollover_lead=rollover,
                rekey_lead=rekey, carousel_cycle=cycle, look_ahead=table.look_ahead, batch=table.batch, repetition=table.repetition,
                delivery=table.delivery, synchronous=table.synchronous, interaction=table.interaction,
                hold_through=table.hold_through, protection_after_reception=table.protection_after_reception,
                permissions_category=table.permissions_category, socID=table.socID, serviceBaseCID=table.serviceBaseCID,
                key_domain_id=domain or b"", key_group=table.key_group,
            )  # fmt: skip
        except ConfigError as error:
            for each in error.errors if isinstance(error, ConfigErrors) else (error,):
                self.note(("services", i, "id" if each.key == "service" else each.key), each.reason)
            return None

    def _streams_together(self, streams: Iterable[tuple[int, StreamConfig]]) -> None:
        seen: dict[tuple[str, int], int] = {}
        groups: dict[tuple[bytes, int], int] = {}
        for i, config in streams:
            if config.id in seen:
                self.note(("services", i, "stream"), f"{config.service} stream {config.stream} is services[{seen[config.id] + 1}]")
            seen[config.id] = i
            if config.smartcard:
                group = (config.key_domain_id, config.key_group)
                if group in groups:
                    self.note(("services", i, "key_group"), f"is that of services[{groups[group] + 1}]: one for each stream (R10)")
                groups[group] = i
