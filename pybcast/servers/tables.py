# SPDX-License-Identifier: Apache-2.0
"""The tables and keys of a server's configuration file, as they stand in it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from pybcast.flows import Profile

Role = Literal["bsm", "bsda"]
EPOCH_START: Final = 0  # where no start is given: periods are multiples of their length since 1900 - confidence: own

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Rate = Annotated[float, msgspec.Meta(gt=0)]


class ServerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[server]``: who this is, where it listens, what it remembers.

    ``listen``: HOST:PORT of the back-end interface.  ``status``: HOST:PORT of /healthz and /metrics, loopback only.  ``witness``:
    path of the file that tells when the database was put back, in another folder than the database.  ``control``: path of the
    operator's socket.  ``kek``: source of the key-encryption key.  ``fqdn``: the BSM's name in MIKEY messages.
    ``rights_issuer_id``: 40 hexadecimal digits, SHA-1 of its RSA key (DRM Profile).  ``pair_secret``: source of what a main and
    a back-up BSD/A share (R33).  ``teks``: where a BSD/A's traffic keys come from: ``"derived"`` from secrets in its database, or
    ``"random"``; with random ones an older database that is put back can use a COUNTER twice (R1).
    ``connections``, ``connections_per_address``, ``connect_rate``: see ``https.ConnectionLimits``.
    """

    role: Role
    id: _Text
    listen: _Text
    database: _Text
    kek: _Text
    witness: str = ""
    control: str = ""
    status: str = ""
    fqdn: str = ""
    rights_issuer_id: str = ""
    pair_secret: str = ""
    teks: Literal["derived", "random"] = "derived"
    plain_loopback: bool = False
    connections: _Count = 512
    connections_per_address: _Count = 64
    connect_rate: _Rate = 50.0


class TlsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[tls]``: PEM files; relative paths are relative to the configuration file.

    ``crl``: certificates that the authority has taken back.
    """

    certificate: _Text
    key: _Text
    authority: _Text
    crl: str = ""


class LogTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[log]``: to standard error; ``messages``: and which back-end messages came and went, into the database."""

    format: Literal["json", "text"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    messages: bool = True


class AirTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[air]``: where a BSD/A's outputs go; relative paths are relative to the configuration file.

    ``events``: a file, or ``-`` for standard output, into which it writes what it puts on air, one JSON object a line.
    ``events_size``: MiB after which that file becomes NAME.1, in the place of the one before, and a new one begins.
    ``content``: with the STKMs and LTKMs themselves.  ``keys``: path of a Unix socket that gives encoders their traffic keys
    (see ``outlets.keyline``).

    ``sender``, ``carousel``: paths of the Unix sockets on which ``pybcast air stkm`` and ``pybcast air carousel`` take what goes on
    air; both are started with this same file.  ``interface``: address of the interface that datagrams leave by; ``ttl``: of
    multicast.  ``ltkm``: HOST:PORT of the LTKM push; ``flute``: HOST:PORT of the object carousel, ``tsi`` its session, ``rate`` its
    bits a second.  ``heartbeat``: HOST:PORT (multicast) on which the senders of a main and a back-up headend hear each other;
    the lowest ``priority`` sends, another takes over when nothing was heard for ``detection`` seconds.
    """

    events: str = ""
    events_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    content: bool = False
    keys: str = ""
    sender: str = ""
    carousel: str = ""
    interface: str = "127.0.0.1"
    ttl: Annotated[int, msgspec.Meta(ge=0, le=255)] = 1
    ltkm: str = ""
    flute: str = ""
    tsi: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] = 1
    rate: Annotated[int, msgspec.Meta(ge=10_000, le=1_000_000_000)] = 2_000_000
    heartbeat: str = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    detection: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 0.5


class InteractionTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[interaction]``: a BSM's HTTPS for terminals (R35).

    ``listen``: HOST:PORT.  ``certificate``, ``key``: PEM, the server's own.  ``authority``: PEM of those who certify DRM terminals;
    ``crl``: certificates that they have taken back.  ``realm``: of HTTP Digest (Smartcard terminals).  ``rate``, ``burst``:
    requests a second, and at once, of one subscriber.  The others as in ``[server]``.
    """

    listen: _Text
    certificate: _Text
    key: _Text
    authority: _Text
    crl: str = ""
    realm: str = ""
    rate: _Rate = 5.0
    burst: _Count = 20
    connections: _Count = 8192
    connections_per_address: _Count = 1024
    connect_rate: _Rate = 100.0


class PeerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[[peers]]``: a server this one speaks with (see ``backend.Peer``).

    ``services``: what it may touch beside the services that name it; ``all_services``: registration material too (R26, R29).
    ``fingerprints``: SHA-256 of the certificates that it may show; without them any certificate with its name will do.
    """

    id: _Text
    url: _Text
    certificate: str = ""
    fingerprints: tuple[_Text, ...] = ()
    services: tuple[str, ...] = ()
    all_services: bool = True


class ServiceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[[services]]``: one STKM stream of one service; as ``StreamConfig``, both servers alike.

    ``stkm``: HOST:PORT to which a BSD/A's sender sends its STKMs; of a stream with both profiles, those of the Smartcard Profile
    go to the next port: a STKM does not say which it is (R22).
    """

    id: _Text
    period: int
    key_period: int
    profiles: tuple[Profile, ...]
    stream: int = 1
    generation: Role = "bsm"
    protocol: Literal["ipsec", "srtp", "ismacryp"] = "srtp"
    traffic_authentication: bool = True
    start: int = EPOCH_START
    granularity: int = 0
    rollover_lead: int | None = None
    rekey_lead: int | None = None
    carousel_cycle: float = 10.0
    look_ahead: int = 5
    batch: int = 1
    repetition: float = 0.1
    delivery: Literal["push", "pull"] = "push"
    synchronous: bool = True
    interaction: bool = False
    hold_through: bool = False
    protection_after_reception: int = 3
    permissions_category: int | None = None
    socID: str = ""
    serviceBaseCID: str = ""
    key_domain_id: str = ""
    key_group: int = 0
    bsm: str = ""
    bsdas: tuple[str, ...] = ()
    stkm: str = ""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole file."""

    server: ServerTable
    peers: tuple[PeerTable, ...]
    services: tuple[ServiceTable, ...] = ()
    tls: TlsTable | None = None
    log: LogTable = LogTable()
    air: AirTable = AirTable()
    interaction: InteractionTable | None = None
