# SPDX-License-Identifier: Apache-2.0
"""The session description of a service, from a BSD/A's configuration and from what it knows while it runs (R37)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pybcast import codec
from pybcast.errors import ConfigError
from pybcast.flows import BSDA, StreamConfig
from pybcast.messages import DrmStkm, Protocol, SmartcardStkm
from pybcast.sdp import KMSTYPES, Description, Endpoint, FluteSession, Media, StkmStream
from pybcast.servers.config import ServerConfig

_KMSTYPE: Final = {profile: name for name, profile in reversed(KMSTYPES.items())}  # of the two of the Smartcard Profile: GBA_U
_ENCODINGS: Final[Mapping[str, tuple[str, str, str]]] = {
    "H264": ("video", "96", "H264/90000"),
    "H265": ("video", "96", "H265/90000"),
    "MP2T": ("video", "33", "MP2T/90000"),
    "MP4A-LATM": ("audio", "97", "MP4A-LATM/48000"),
    "opus": ("audio", "97", "opus/48000/2"),
    "video": ("video", "96", ""),
    "audio": ("audio", "97", ""),
}
"""What ``--media`` may name: m= kind, RTP payload type and encoding."""
KINDS: Final = tuple(_ENCODINGS)
_TRANSPORT: Final = {Protocol.SRTP: "RTP/SAVP", Protocol.IPSEC: "RTP/AVP", Protocol.ISMACRYP: "RTP/AVP"}


@dataclass(frozen=True)
class MediaAt:
    """A media stream named at the command line: ADDRESS:PORT/KIND."""

    address: str
    port: int
    kind: str

    @classmethod
    def read(cls, text: str) -> MediaAt:
        where, slash, kind = text.rpartition("/")
        address, colon, port = where.rpartition(":")
        good = slash and colon and address and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
        if not good or kind not in _ENCODINGS:
            raise ConfigError(f"--media {text[:60]!r}: expected ADDRESS:PORT/KIND, KIND one of {', '.join(KINDS)}")
        return cls(address.removeprefix("[").removesuffix("]"), int(port), kind)


def known(machine: BSDA, streams: Iterable[StreamConfig]) -> list[dict[str, Any]]:
    """What STKMs that are prepared or on air say in clear (R37): for each stream and profile the fmtp parameters as hexadecimal."""
    found: dict[tuple[int, str], dict[str, dict[str, None]]] = {}
    for stream in streams:
        for record in machine.records(*stream.id):
            for stkm in record.stkms:
                row = found.setdefault((stream.stream, stkm.profile), {})
                message = codec.decode(stkm.data, "drm-stkm" if stkm.profile == "drm" else "smartcard-stkm")
                match message:
                    case DrmStkm():
                        for name, value in (
                            ("srvCIDExt", message.service_CID_extension), ("prgCIDExt", message.programme_CID_extension),
                        ):  # fmt: skip
                            if value is not None:
                                row.setdefault(name, {})[f"{value:08x}"] = None
                    case SmartcardStkm():
                        # The group, not the id: that changes with every key (R10).
                        row.setdefault("srvKEYList", {})[(message.key_domain_id + message.sek_id[:2]).hex()] = None
    return [
        {"stream": number, "profile": profile, **{name: list(values) for name, values in row.items()}}
        for (number, profile), row in sorted(found.items())
    ]


def described(
    config: ServerConfig,
    service: str,
    *,
    stream: int | None = None,
    media: Sequence[MediaAt] = (),
    interaction: str = "",
    facts: Iterable[Mapping[str, Any]] = (),
    now: int = 0,
) -> Description:
    """The description of a service, or of one stream of it.

    ``media``: its protected streams, all of them under the keys of all STKM streams described.  ``facts``: of ``known``.  ``now``:
    NTP seconds, the version of the description.  ``ConfigError`` where the configuration does not say enough.
    """
    streams = [s for s in config.streams if s.service == service and stream in (None, s.stream)]
    if not streams:
        raise ConfigError(f"{config.path}: no such service or stream: {service}{'' if stream is None else f' stream {stream}'}")
    said = {(row["stream"], row["profile"]): row for row in facts}
    stkm = []
    for s in streams:
        for profile in s.profiles:
            where = config.groups.get((s.service, s.stream, profile))
            if where is None:
                raise ConfigError(f"{config.path}: {service} stream {s.stream}: stkm is missing: nobody knows where its STKMs go")
            row = said.get((s.stream, profile), {})
            card = profile == "smartcard"
            group = (s.key_domain_id + s.key_group.to_bytes(2),) if card else ()
            keys = tuple(dict.fromkeys((*group, *(bytes.fromhex(value) for value in row.get("srvKEYList", ())))))
            stkm.append(
                StkmStream(
                    address=where.host, port=where.port, ttl=_ttl(config, where.host), streamid=s.stream, service=s.service,
                    kmstype=_KMSTYPE[profile], serviceprovider="" if card else s.socID, baseCID="" if card else s.serviceBaseCID,
                    srvCIDExt=tuple(int(value, 16) for value in row.get("srvCIDExt", ())),
                    prgCIDExt=tuple(int(value, 16) for value in row.get("prgCIDExt", ())),
                    srvKEYList=keys, protocol=s.protocol, lifetime=s.lifetime,
                )
            )  # fmt: skip
    protocols = {s.protocol for s in streams}
    if media and len(protocols) != 1:
        raise ConfigError(f"{service}: its streams have different protocols: describe one with --stream")
    ids = tuple(dict.fromkeys(s.stream for s in streams))
    flute = config.flute
    return Description(
        name=service, service=service, origin=(_session(service), now, config.air.interface),
        cycle=min(s.carousel_cycle for s in streams), interaction=interaction, stkm=tuple(stkm),
        ltkm=None if config.ltkm is None else _endpoint(config, config.ltkm.host, config.ltkm.port),
        flute=() if flute is None else (
            FluteSession(address=flute.host, port=flute.port, ttl=_ttl(config, flute.host), tsi=config.air.tsi),
        ),
        media=tuple(_media(config, m, next(iter(protocols)), ids) for m in media),
    )  # fmt: skip


def _media(config: ServerConfig, at: MediaAt, protocol: Protocol, ids: tuple[int, ...]) -> Media:
    kind, payload, encoding = _ENCODINGS[at.kind]
    return Media(
        address=at.address, port=at.port, ttl=_ttl(config, at.address), kind=kind, proto=_TRANSPORT[protocol], formats=(payload,),
        stkmstreams=ids, other=(f"rtpmap:{payload} {encoding}",) if encoding else (),
    )  # fmt: skip


def _endpoint(config: ServerConfig, host: str, port: int) -> Endpoint:
    return Endpoint(address=host, port=port, ttl=_ttl(config, host))


def _ttl(config: ServerConfig, host: str) -> int | None:
    """What RFC 8866 wants of an IPv4 group, and of nothing else."""
    first = host.partition(".")[0]
    return config.air.ttl if ":" not in host and first.isdigit() and 224 <= int(first) <= 239 else None


def _session(service: str) -> int:
    """The same for every description of a service, another for others."""
    return int.from_bytes(hashlib.sha256(service.encode()).digest()[:6])
