# SPDX-License-Identifier: Apache-2.0
"""Writing a session description, in the form that ``parse`` gives back."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pybcast.errors import BadValue
from pybcast.sdp.lines import BAD, short
from pybcast.sdp.model import FLUTE, IPDC_FORMAT, LTKM_FORMAT, PROTOCOLS, STKM_FORMAT, Description, Endpoint, StkmStream
from pybcast.sdp.reading import parse


def write(description: Description) -> str:
    """The session description as text, lines ended by CR LF.  ``WireError`` (no offset) where a value cannot be written so that it
    is read back.
    """
    d = description
    session, version, address = d.origin
    lines = [
        "v=0",
        f"o=- {session} {version} IN {_type(address)} {address}",
        f"s={d.name}",
        *(f"t={start} {stop}" for start, stop in d.times),
        *([f"a=bcastversion:{d.version[0]}.{d.version[1]}"] if d.version is not None else []),
        *([f"a=x-bcast-service:{d.service}"] if d.service else []),
        *([f"a=x-bcast-carousel-cycle:{_decimal(d.cycle)}"] if d.cycle is not None else []),
        *([f"a=x-bcast-interaction:{d.interaction}"] if d.interaction else []),
        *(f"a={line}" for line in d.other),
    ]
    for stkm in d.stkm:
        lines += _write_stkm(stkm, d.service)
    if d.ltkm is not None:
        lines += [f"m=application {d.ltkm.port} udp {LTKM_FORMAT}", *_write_connection(d.ltkm)]
    for flute in d.flute:
        lines += [
            f"m=application {flute.port} {FLUTE} 0",
            *_write_connection(flute),
            f"a=flute-tsi:{flute.tsi}",
            *([f"a=x-bcast-service-class:{flute.service_class}"] if flute.service_class else []),
            *(f"a={line}" for line in flute.other),
        ]
    for media in d.media:
        lines += [
            f"m={media.kind} {media.port} {media.proto} {' '.join(media.formats)}",
            *_write_connection(media),
            *(f"a={line}" for line in media.other),
            *(f"a=fmtp:{form} {_joined(parameters)}".rstrip(" ") for form, parameters in media.fmtp),
            *(f"a=stkmstream:{streamid}" for streamid in media.stkmstreams),
            *([f"a=SRTPAuthentication:{media.SRTPAuthentication}"] if media.SRTPAuthentication is not None else []),
            *([f"a=SRTPROCTxRate:{media.SRTPROCTxRate}"] if media.SRTPROCTxRate is not None else []),
        ]
    for number, line in enumerate(lines, 1):
        if BAD.search(line):
            raise BadValue(None, f"line[{number}]", "text without line breaks", short(line))
    text = "".join(f"{line}\r\n" for line in lines)
    if parse(text) != d:  # what a value contained was read as something else
        raise BadValue(None, "", "values that are read back as they were given", "others")
    return text


def _write_stkm(stkm: StkmStream, service: str) -> list[str]:
    ipdc = not stkm.kmstype
    form = IPDC_FORMAT if ipdc else STKM_FORMAT
    parameters: list[tuple[str, str | None]] = [
        ("IPDCStreamId" if ipdc else "streamid", str(stkm.streamid)),
        ("kmstype", stkm.kmstype),
        ("IPDCKMSId", stkm.kms_id),
        ("serviceprovider", stkm.serviceprovider),
        ("baseCID", stkm.baseCID),
        ("srvCIDExt", ",".join(f"{value:08x}" for value in stkm.srvCIDExt)),
        ("prgCIDExt", ",".join(f"{value:08x}" for value in stkm.prgCIDExt)),
        ("srvKEYList", ",".join(value.hex() for value in stkm.srvKEYList)),
        ("prgKEYList", ",".join(value.hex() for value in stkm.prgKEYList)),
    ]
    names = {protocol: name for name, protocol in PROTOCOLS.items()}
    protection = f"a=x-bcast-protection:{names.get(stkm.protocol) if stkm.protocol is not None else ''} {stkm.lifetime}"
    return [
        f"m=application {stkm.port} udp {form}",
        *_write_connection(stkm),
        f"a=fmtp:{form} {_joined((*(p for p in parameters if p[1]), *stkm.parameters))}",
        *([protection] if stkm.protocol is not None else []),
        *([f"a=x-bcast-service:{stkm.service}"] if stkm.service != service else []),
        *(f"a={line}" for line in stkm.other),
    ]


def _joined(parameters: Iterable[tuple[str, str | None]]) -> str:
    return "; ".join(name if value is None else f"{name}={value}" for name, value in parameters)


def _write_connection(where: Endpoint) -> list[str]:
    senders = where.senders
    return [
        f"c=IN {_type(where.address)} {where.address}{'' if where.ttl is None else f'/{where.ttl}'}",
        *([] if senders is None else [f"a=source-filter: {senders.mode} IN {_type(where.address)} * {' '.join(senders.sources)}"]),
    ]


def _type(address: str) -> str:
    return "IP6" if ":" in address else "IP4"


def _decimal(seconds: float) -> str:
    """Without an exponent, to a nanosecond."""
    if not math.isfinite(seconds):
        raise BadValue(None, "cycle", "seconds", str(seconds))
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
