# SPDX-License-Identifier: Apache-2.0
"""Session descriptions (RFC 8866) of a service: where its STKMs, LTKMs and protected media are, and which belong together.

Written and read: the attributes of RFC 5159; STKM streams as ``application/vnd.oma.bcast.stkm`` and, read only as they stand, as
their predecessor ``ipdc-ksm``; ISMACryp's fmtp names; FLUTE sessions as 3GPP TS 26.346 describes them; and, in attributes of our
own, what none of these has a name for (signalling 5.2-5.4).
confidence: own - attributes of session descriptions: x-bcast-service, -carousel-cycle, -interaction, -protection, -service-class

They are::

    a=x-bcast-service:URI                  GlobalServiceID; of one STKM stream where it stands below its m= line
    a=x-bcast-carousel-cycle:SECONDS       R7
    a=x-bcast-interaction:URL              base of the interaction channel (R35)
    a=x-bcast-protection:srtp 6            below a STKM stream: protocol and traffic_key_lifetime (R18)
    a=x-bcast-service-class:URN            below a FLUTE session: OMNA service class of what it carries

``parse`` is total: a ``Description``, or a ``WireError`` whose field is ``line[N].a.NAME`` (N counts from 1) and whose offset is
that of the line.  What a description says once for all its media is put to each of them, so that ``parse(write(d)) == d`` while
``write(parse(text))`` is a normal form of the text.  Attributes that are not known are kept in ``other``; lines of types that are
not used here (i u e p b r z k) are checked for form and dropped.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn, TypeVar

from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.flows import Profile, Tuning
from pybcast.messages import Protocol

MAX_TEXT: Final = 65_536  # confidence: own - octets of a session description: some hundred m= lines fit
STKM_FORMAT: Final = "vnd.oma.bcast.stkm"  # confidence: likely - STKM streams in SDP: the registered media type (signalling 5.4)
LTKM_FORMAT: Final = (
    "vnd.oma.bcast.ltkm"  # confidence: own - the LTKM push in SDP: the registered media type, used alike (signalling 5.5)
)
IPDC_FORMAT: Final = "ipdc-ksm"
LTKM_PORT: Final = 4359  # confidence: likely - omabcastltkm (signalling 5.5)
SERVICE_CLASS: Final = "urn:oma:bcast:oma_bsc:rifc:1.0"  # OMNA: registration and rights file carousel, signalling 5.5
_FLUTE: Final = "FLUTE/UDP"  # TS 26.346 7.3.2.5
_STREAM_IDS: Final = (1, 65535)

KMSTYPES: Final[dict[str, Profile]] = {
    "oma-bcast-drm-pki": "drm",
    "oma-bcast-gba_u-mbms": "smartcard",
    "oma-bcast-gba_me-mbms": "smartcard",
}
"""signalling 5.4.  The fourth, oma-bcast-prov-bcmcs, is the Smartcard Profile of networks without GBA: no profile of ours."""
KMSTYPE_NAMES: Final = (*KMSTYPES, "oma-bcast-prov-bcmcs")
_PROTOCOLS: Final = {"ipsec": Protocol.IPSEC, "srtp": Protocol.SRTP, "ismacryp": Protocol.ISMACRYP}
_ENCRYPTED: Final = ("enc-mpeg4-generic", "enc-isoff-generic")  # signalling 5.3

Parameters = tuple[tuple[str, str | None], ...]
"""Parameters of a fmtp line in their order; ``None`` = a word without ``=``."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where datagrams go.  ``address``: IP address or host name.  ``ttl``: of IPv4 multicast, ``None`` = not said.  ``source``: the
    only sender to listen to (RFC 4570), ``""`` = any.
    """

    address: str
    port: int
    ttl: int | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class StkmStream(Endpoint):
    """A stream of short-term key messages.

    ``streamid``: what ``a=stkmstream`` of the media refers to, 1..65535; the streams of both profiles of one service stream have
    the same (R32).  ``service``: GlobalServiceID.
    confidence: own - serviceprovider is the socID
    ``srvCIDExt``, ``prgCIDExt``: CID extensions, 32 bits, 8 hexadecimal digits each on the line.  ``srvKEYList``, ``prgKEYList``:
    Key Domain ID (3 octets) || Key Group (2), or || SEK ID (4), hexadecimal on the line: a group stays where ids change (R10).
    confidence: own - srvKEYList holds Key Domain ID || Key Group, in hexadecimal, by commas
    ``protocol``, ``lifetime``: what holds for Smartcard STKMs that do not say (R18).  ``kms_id``: IPDCKMSId of
    the predecessor format, which has no ``kmstype``.
    """

    streamid: int
    kmstype: str = ""
    service: str = ""
    serviceprovider: str = ""
    baseCID: str = ""
    srvCIDExt: tuple[int, ...] = ()
    prgCIDExt: tuple[int, ...] = ()
    srvKEYList: tuple[bytes, ...] = ()
    prgKEYList: tuple[bytes, ...] = ()
    protocol: Protocol | None = None
    lifetime: int | None = None
    kms_id: str = ""
    parameters: Parameters = ()
    other: tuple[str, ...] = ()

    @property
    def profile(self) -> Profile | None:
        """Whose terminals understand it."""
        return KMSTYPES.get(self.kmstype)


@dataclass(frozen=True, kw_only=True)
class FluteSession(Endpoint):
    """A FLUTE session of one channel (TS 26.346 7.3).  ``service_class``: what it carries, ``""`` = not said."""

    tsi: int
    service_class: str = SERVICE_CLASS
    other: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ismacryp:
    """ISMACryp's fmtp parameters with their defaults, lengths in octets (signalling 5.3)."""

    crypto_suite: str = "AES_CTR_128"
    iv_length: int = 4
    delta_iv_length: int = 0
    selective_encryption: bool = False
    key_indicator_length: int = 0
    key_indicator_per_au: bool = False
    salt: str = ""
    key: str = ""
    kms_id: str = ""
    kms_version: str = ""
    kms_specific_data: str = ""
    slice_indication: bool = False
    padding_indication: bool = False

    def __repr__(self) -> str:
        return f"Ismacryp(crypto_suite={self.crypto_suite!r}, key_indicator_length={self.key_indicator_length})"  # no key, no salt

    def parameters(self) -> Parameters:
        """As they stand in a fmtp line; a default is not written."""
        plain = Ismacryp()
        return tuple(
            (name, str(int(value)) if isinstance(value, int) else value)
            for name, (field, _) in _ISMACRYP.items()
            if (value := getattr(self, field)) != getattr(plain, field)
        )


@dataclass(frozen=True, kw_only=True)
class Media(Endpoint):
    """A media stream; protected when ``stkmstreams`` names the STKM streams that carry its keys.

    ``fmtp``: (format, parameters).  ``SRTPAuthentication``: number of the transform, ``SRTPROCTxRate``: 1..65535 (RFC 5159;
    RFC 4771).  ``other``: further attributes, ``NAME`` or ``NAME:VALUE``.
    """

    kind: str
    proto: str
    formats: tuple[str, ...]
    stkmstreams: tuple[int, ...] = ()
    SRTPAuthentication: int | None = None
    SRTPROCTxRate: int | None = None
    fmtp: tuple[tuple[str, Parameters], ...] = ()
    other: tuple[str, ...] = ()

    @property
    def protocol(self) -> Protocol:
        """How it is protected, by transport and payload."""
        if "SAVP" in self.proto:
            return Protocol.SRTP
        encodings = (line.partition(" ")[2].partition("/")[0].lower() for line in self.other if line.startswith("rtpmap:"))
        return Protocol.ISMACRYP if any(name in _ENCRYPTED for name in encodings) else Protocol.IPSEC

    def ismacryp(self) -> Ismacryp | None:
        """The parameters of the first format that has any."""
        for _, parameters in self.fmtp:
            if any(name.startswith("ISMACryp") for name, _ in parameters):
                return _ismacryp(parameters, None, "fmtp")
        return None


@dataclass(frozen=True, kw_only=True)
class Description:
    """A session description, as a terminal and a BSD/A see it.

    ``origin``: session id, version and address of the o= line.  ``start``, ``stop``: NTP seconds of the t= line, 0 = always.
    ``version``: bcastversion.  ``cycle``: of the carousel, seconds.  ``interaction``: URL.
    """

    name: str
    service: str = ""
    origin: tuple[int, int, str] = (0, 0, "0.0.0.0")
    start: int = 0
    stop: int = 0
    version: tuple[int, int] | None = (1, 0)
    cycle: float | None = None
    interaction: str = ""
    stkm: tuple[StkmStream, ...] = ()
    ltkm: Endpoint | None = None
    flute: tuple[FluteSession, ...] = ()
    media: tuple[Media, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def carousel(self) -> FluteSession | None:
        """The FLUTE session of LTKMs and registration material: the one of that class, or the only one if it does not say."""
        named = next((session for session in self.flute if session.service_class == SERVICE_CLASS), None)
        return self.flute[0] if named is None and len(self.flute) == 1 and not self.flute[0].service_class else named

    def streams(self, profile: Profile) -> tuple[StkmStream, ...]:
        """The STKM streams that a terminal of this profile understands."""
        return tuple(stream for stream in self.stkm if stream.profile == profile)

    def protected(self, streamid: int) -> tuple[Media, ...]:
        """The media whose keys a STKM stream carries."""
        return tuple(media for media in self.media if streamid in media.stkmstreams)

    def tunings(self, profile: Profile) -> tuple[Tuning, ...]:
        """What ``flows.Terminal.tune`` takes, one for each stream of the profile.

        The protocol is what the STKM stream says, else what its media look like, else SRTP.
        """
        made = []
        for s in self.streams(profile):
            media = self.protected(s.streamid)
            protocol = s.protocol if s.protocol is not None else media[0].protocol if media else Protocol.SRTP
            tuning = Tuning(
                s.service, s.streamid, (s.address, s.port), socID=s.serviceprovider, serviceBaseCID=s.baseCID, protocol=protocol
            )
            made.append(tuning if s.lifetime is None else replace(tuning, lifetime=s.lifetime))
        return tuple(made)


# --- reading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    number: int
    offset: int
    kind: str
    value: str

    @property
    def attribute(self) -> tuple[str, str | None]:
        name, colon, value = self.value.partition(":")
        return name, value if colon else None

    def field(self, *inner: str) -> str:
        name = (self.attribute[0][:40],) if self.kind == "a" else ()
        return ".".join((f"line[{self.number}]", self.kind, *name, *inner))

    def refuse(self, expected: str, found: str, *inner: str, error: type[WireError] = BadValue) -> NoReturn:
        raise error(self.offset, self.field(*inner), expected, _short(found))


_Value = TypeVar("_Value")
_KINDS: Final = frozenset("vosiuepcbtrzkam")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,255}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_PROTO: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~/-]{1,64}")
_BAD: Final = re.compile(r"[\x00\r\n]")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def parse(data: bytes | str) -> Description:
    """Read a session description.  ``WireError`` (``field`` and ``offset`` as the module says); never anything else."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    if len(raw) > MAX_TEXT:
        raise BadLength(MAX_TEXT, "", f"at most {MAX_TEXT} octets", f"{len(raw)}")
    lines = list(_lines(raw))
    if not lines:
        raise Truncated(0, "line[1].v", "v=0", "nothing")
    first = next((i for i, line in enumerate(lines) if line.kind == "m"), len(lines))
    session = _Session(lines[:first], len(raw))
    sections: list[list[_Line]] = []
    for line in lines[first:]:
        if line.kind == "m":
            sections.append([])
        sections[-1].append(line)
    for section in sections:
        session.take(section)
    return session.made()


def _lines(raw: bytes) -> Iterator[_Line]:
    offset = 0
    for number, octets in enumerate(raw.split(b"\n"), 1):
        ended = octets.removesuffix(b"\r")
        if not ended and offset + len(octets) == len(raw):
            return  # what follows the last line's end
        name = f"line[{number}]"
        try:
            text = ended.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadValue(offset + error.start, name, "UTF-8", "other octets") from None
        if len(text) < 2 or text[1] != "=" or text[0] not in _KINDS:
            raise BadValue(offset, name, "TYPE=VALUE", _short(text))
        if _BAD.search(text):
            raise BadValue(offset, name, "a line of text", "a control character")
        yield _Line(number, offset, text[0], text[2:])
        offset += len(octets) + 1


class _Session:
    """Reads the session part, then takes media sections one by one."""

    def __init__(self, lines: Sequence[_Line], size: int) -> None:
        if not lines or lines[0].kind != "v":
            raise BadValue(0, "line[1].v", "v=0 first", _short(lines[0].kind if lines else "m"))
        if lines[0].value != "0":
            lines[0].refuse("0", lines[0].value, error=Unsupported)
        once: dict[str, _Line] = {}
        for line in lines:
            if line.kind in "vostc":
                if line.kind in once:
                    line.refuse("once", "again")
                once[line.kind] = line
        for kind in "ost":
            if kind not in once:
                raise Truncated(size, kind, f"{kind}=", "none")
        self._origin = _origin(once["o"])
        times = once["t"].value.split(" ")
        if len(times) != 2:
            once["t"].refuse("two times", once["t"].value)
        self._start, self._stop = (_number(once["t"], text, 0, 2**64 - 1) for text in times)
        self._name = once["s"].value
        self._connection = _connection(once["c"]) if "c" in once else None
        attributes = _Attributes(lines)
        self._version = attributes.once("bcastversion", _version)
        self._service = attributes.once("x-bcast-service", _uri) or ""
        self._cycle = attributes.once("x-bcast-carousel-cycle", _seconds)
        self._interaction = attributes.once("x-bcast-interaction", _uri) or ""
        self._stkmstreams = attributes.all("stkmstream", _stream_id)
        self._source = attributes.once("source-filter", _source_filter) or ""
        self._other = attributes.rest()
        self._stkm: list[StkmStream] = []
        self._flute: list[FluteSession] = []
        self._media: list[Media] = []
        self._ltkm: Endpoint | None = None

    def take(self, lines: Sequence[_Line]) -> None:
        head = lines[0]
        words = head.value.split(" ")
        if len(words) < 4:
            head.refuse("MEDIA PORT PROTO FORMAT", head.value)
        kind, port_text, proto, *formats = words
        port_text, slash, count = port_text.partition("/")
        if slash and count != "1":
            head.refuse("one port", count, "port", error=Unsupported)
        port = _number(head, port_text, 0, 65535, "port")
        for text, rule, name in ((kind, _TOKEN, "media"), (proto, _PROTO, "proto"), *((f, _TOKEN, "fmt") for f in formats)):
            if not rule.fullmatch(text):
                head.refuse("a token", text, name)
        connection = None
        for line in lines[1:]:
            if line.kind == "c":
                if connection is not None:
                    line.refuse("once", "again")
                connection = _connection(line)
            elif line.kind in "vost":
                line.refuse("before the first m=", line.kind)
        connection = connection or self._connection
        if connection is None:
            head.refuse("c= here or before the first m=", "none")
        address, ttl = connection
        attributes = _Attributes(lines)
        source = attributes.once("source-filter", _source_filter) or self._source
        where = Endpoint(address=address, port=port, ttl=ttl, source=source)
        form = formats[0].lower()
        if proto.upper() == _FLUTE:
            self._take_flute(where, attributes, head)
        elif kind == "application" and proto.lower() == "udp" and form in (STKM_FORMAT, IPDC_FORMAT):
            self._take_stkm(where, attributes, head, form)
        elif kind == "application" and proto.lower() == "udp" and form == LTKM_FORMAT:
            if self._ltkm is not None:
                head.refuse("one LTKM push", "another")
            self._ltkm = where
        else:
            self._take_media(where, attributes, kind, proto, tuple(formats))

    def _take_flute(self, where: Endpoint, attributes: _Attributes, head: _Line) -> None:
        tsi = attributes.once("flute-tsi", lambda line, value: _number(line, value, 0, 2**48 - 1))
        if tsi is None:
            head.refuse("a=flute-tsi below", "none")
        attributes.once("flute-ch", lambda line, value: _number(line, value, 1, 1))  # more channels: congestion control, not ours
        service_class = attributes.once("x-bcast-service-class", _uri) or ""
        self._flute.append(
            FluteSession(
                address=where.address, port=where.port, ttl=where.ttl, source=where.source, tsi=tsi,
                service_class=service_class, other=attributes.rest(),
            )
        )  # fmt: skip

    def _take_stkm(self, where: Endpoint, attributes: _Attributes, head: _Line, form: str) -> None:
        service = attributes.once("x-bcast-service", _uri) or self._service
        protection = attributes.once("x-bcast-protection", _protection) or (None, None)
        given = attributes.fmtp()
        if len(given) != 1 or given[0][1][0].lower() != form:
            (given[-1][0] if given else head).refuse(f"one a=fmtp:{form}", f"{len(given)} fmtp lines")
        line, (_, parameters) = given[0]
        ipdc = form == IPDC_FORMAT
        names = _IPDC_NAMES if ipdc else _STKM_NAMES
        values = {name: value for name, value in parameters if name in names}

        def get(name: str, read: Callable[[_Line, str, str], _Value], default: _Value) -> _Value:
            value = values.get(name)
            if name in values and value is None:
                line.refuse(f"{name}=VALUE", name, name)
            return default if value is None else read(line, value, name)

        stream_name = "IPDCStreamId" if ipdc else "streamid"  # confidence: likely - ipdc-ksm names its stream IPDCStreamId
        if stream_name not in values:
            line.refuse(f"{stream_name}=", "none", stream_name)
        kmstype = get("kmstype", _text, "")
        if not ipdc and kmstype not in KMSTYPE_NAMES:
            line.refuse("a kmstype of BCAST", kmstype or "none", "kmstype", error=Unsupported)
        self._stkm.append(
            StkmStream(
                address=where.address, port=where.port, ttl=where.ttl, source=where.source,
                streamid=get(stream_name, _id, 0), kmstype=kmstype, service=service,
                serviceprovider=get("serviceprovider", _text, ""), baseCID=get("baseCID", _text, ""),
                srvCIDExt=get("srvCIDExt", _extensions, ()), prgCIDExt=get("prgCIDExt", _extensions, ()),
                srvKEYList=get("srvKEYList", _keys, ()), prgKEYList=get("prgKEYList", _keys, ()),
                protocol=protection[0], lifetime=protection[1], kms_id=get("IPDCKMSId", _text, ""),
                parameters=tuple(p for p in parameters if p[0] not in names), other=attributes.rest(),
            )
        )  # fmt: skip

    def _take_media(self, where: Endpoint, attributes: _Attributes, kind: str, proto: str, formats: tuple[str, ...]) -> None:
        fmtp = []
        for line, (form, parameters) in attributes.fmtp():
            renamed = tuple(("ISMACrypDeltaIVLength" if n == "ISMACrypIVDeltaLength" else n, v) for n, v in parameters)
            _ismacryp(renamed, line.offset, line.field())
            fmtp.append((form, renamed))
        self._media.append(
            Media(
                address=where.address, port=where.port, ttl=where.ttl, source=where.source, kind=kind, proto=proto,
                formats=formats,
                stkmstreams=attributes.all("stkmstream", _stream_id) or self._stkmstreams,
                SRTPAuthentication=attributes.once("SRTPAuthentication", lambda line, value: _number(line, value, 0, 255)),
                # confidence: likely - the range of SRTPROCTxRate
                SRTPROCTxRate=attributes.once("SRTPROCTxRate", lambda line, value: _number(line, value, 1, 65535)),
                fmtp=tuple(fmtp), other=attributes.rest(),
            )
        )  # fmt: skip

    def made(self) -> Description:
        return Description(
            name=self._name, service=self._service, origin=self._origin, start=self._start, stop=self._stop,
            version=self._version, cycle=self._cycle, interaction=self._interaction, stkm=tuple(self._stkm), ltkm=self._ltkm,
            flute=tuple(self._flute), media=tuple(self._media), other=self._other,
        )  # fmt: skip


class _Attributes:
    """The attribute lines of a section; what nobody asked for is ``rest``."""

    def __init__(self, lines: Iterable[_Line]) -> None:
        self._left: list[_Line] = []
        self._of: dict[str, list[_Line]] = {}
        for line in lines:
            if line.kind == "a":
                if not _TOKEN.fullmatch(line.attribute[0]):
                    line.refuse("NAME or NAME:VALUE", line.value)
                self._of.setdefault(line.attribute[0], []).append(line)
                self._left.append(line)
        self._asked: set[str] = set()

    def once(self, name: str, read: Callable[[_Line, str], _Value]) -> _Value | None:
        found = self._take(name)
        if len(found) > 1:
            found[1].refuse("once", "again")
        return _read(found[0], read) if found else None

    def all(self, name: str, read: Callable[[_Line, str], _Value]) -> tuple[_Value, ...]:
        values: dict[_Value, None] = {}
        for line in self._take(name):
            value = _read(line, read)
            if value in values:
                line.refuse("each value once", line.value)
            values[value] = None
        return tuple(values)

    def fmtp(self) -> list[tuple[_Line, tuple[str, Parameters]]]:
        return [(line, _read(line, _fmtp)) for line in self._take("fmtp")]

    def rest(self) -> tuple[str, ...]:
        return tuple(line.value for line in self._left if line.attribute[0] not in self._asked)

    def _take(self, name: str) -> list[_Line]:
        self._asked.add(name)
        return self._of.get(name, [])


def _read(line: _Line, read: Callable[[_Line, str], _Value]) -> _Value:
    value = line.attribute[1]
    if value is None:
        line.refuse("NAME:VALUE", line.value)
    return read(line, value)


def _number(line: _Line, text: str, low: int, high: int, *inner: str) -> int:
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        line.refuse(f"{low}..{high}", text, *inner)
    return int(text)


def _stream_id(line: _Line, text: str) -> int:
    return _number(line, text, *_STREAM_IDS)


def _id(line: _Line, text: str, name: str) -> int:
    return _number(line, text, *_STREAM_IDS, name)


def _text(line: _Line, text: str, name: str) -> str:
    return text


def _extensions(line: _Line, text: str, name: str) -> tuple[int, ...]:
    return tuple(int.from_bytes(value) for value in _octets(line, text, (4,), name))


def _keys(line: _Line, text: str, name: str) -> tuple[bytes, ...]:
    return _octets(line, text, (5, 7), name)


_HEX: Final = re.compile(r"([0-9A-Fa-f]{2}){1,64}")


def _octets(line: _Line, text: str, sizes: Sequence[int], name: str) -> tuple[bytes, ...]:
    found = []
    for word in text.split(","):
        if not _HEX.fullmatch(word) or len(word) // 2 not in sizes:
            line.refuse(f"hexadecimal of {' or '.join(str(size) for size in sizes)} octets, by commas", word, name)
        found.append(bytes.fromhex(word))
    return tuple(found)


def _version(line: _Line, text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not dot:
        line.refuse("MAJOR.MINOR", text)
    return _number(line, major, 0, 65535), _number(line, minor, 0, 65535)


def _seconds(line: _Line, text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not 0 < float(text) <= 3600:
        line.refuse("seconds, at most an hour", text)
    return float(text)


def _uri(line: _Line, text: str) -> str:
    if ":" not in text or " " in text:
        line.refuse("an absolute URI", text)
    return text


def _protection(line: _Line, text: str) -> tuple[Protocol, int]:
    name, space, lifetime = text.partition(" ")
    if name not in _PROTOCOLS or not space:
        line.refuse(f"one of {', '.join(_PROTOCOLS)} and the lifetime", text)
    return _PROTOCOLS[name], _number(line, lifetime, 0, 15)


def _source_filter(line: _Line, text: str) -> str:
    words = text.strip(" ").split(" ")
    if len(words) != 5 or words[0] != "incl" or words[1] != "IN" or words[2] not in ("IP4", "IP6", "*"):
        line.refuse("incl IN IP4|IP6 DESTINATION SOURCE", text, error=Unsupported)
    if not _is_ip(words[4]):
        line.refuse("the address of one source", words[4])
    return words[4]


def _origin(line: _Line) -> tuple[int, int, str]:
    words = line.value.split(" ")
    if len(words) != 6 or words[3] != "IN" or words[4] not in ("IP4", "IP6"):
        line.refuse("NAME ID VERSION IN IP4|IP6 ADDRESS", line.value)
    if not _HOST.fullmatch(words[5]) and not _is_ip(words[5]):
        line.refuse("an address", words[5])
    return _number(line, words[1], 0, 2**64 - 1), _number(line, words[2], 0, 2**64 - 1), words[5]


def _connection(line: _Line) -> tuple[str, int | None]:
    words = line.value.split(" ")
    if len(words) != 3 or words[0] != "IN" or words[1] not in ("IP4", "IP6"):
        line.refuse("IN IP4|IP6 ADDRESS", line.value)
    address, *rest = words[2].split("/")
    six = words[1] == "IP6"
    if not (_is_ip(address) and (":" in address) == six) and (six or not _HOST.fullmatch(address)):
        line.refuse("an address of its type", words[2])
    if six and rest[:1] == ["1"]:
        rest = []  # TS 26.346's example writes so: one address
    if len(rest) > (0 if six else 2) or (len(rest) == 2 and rest[1] != "1"):
        line.refuse("one address", words[2], error=Unsupported)
    return address, _number(line, rest[0], 0, 255) if rest else None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a scope is of one machine


def _fmtp(line: _Line, text: str) -> tuple[str, Parameters]:
    form, _, rest = text.partition(" ")
    if not _TOKEN.fullmatch(form):
        line.refuse("FORMAT PARAMETERS", text)
    found: list[tuple[str, str | None]] = []
    known: set[str] = set()
    for word in rest.split(";"):
        name, equals, value = word.strip(" ").partition("=")
        if not name:
            continue  # a semicolon at the end, or two
        if name.strip(" ") != name or value.strip(" ") != value:
            line.refuse("NAME=VALUE", word)
        if equals:
            if name in known:
                line.refuse("once", "again", name[:40])
            known.add(name)
        found.append((name, value if equals else None))
    return form, tuple(found)


_COMMON_NAMES: Final = ("serviceprovider", "baseCID", "srvCIDExt", "prgCIDExt", "srvKEYList", "prgKEYList")
_STKM_NAMES: Final = frozenset(("streamid", "kmstype", *_COMMON_NAMES))
_IPDC_NAMES: Final = frozenset(("IPDCStreamId", "IPDCKMSId", *_COMMON_NAMES))
_ISMACRYP: Final[dict[str, tuple[str, int | None]]] = {
    "ISMACrypCryptoSuite": ("crypto_suite", None),
    "ISMACrypIVLength": ("iv_length", 8),
    "ISMACrypDeltaIVLength": ("delta_iv_length", 2),
    "ISMACrypSelectiveEncryption": ("selective_encryption", 1),
    "ISMACrypKeyIndicatorLength": ("key_indicator_length", 255),
    "ISMACrypKeyIndicatorPerAU": ("key_indicator_per_au", 1),
    "ISMACrypSalt": ("salt", None),
    "ISMACrypKey": ("key", None),
    "ISMACrypKMSID": ("kms_id", None),
    "ISMACrypKMSVersion": ("kms_version", None),
    "ISMACrypKMSSpecificData": ("kms_specific_data", None),
    "ISMACrypSliceIndication": ("slice_indication", 1),
    "ISMACrypPaddingIndication": ("padding_indication", 1),
}
"""fmtp name -> field, and the greatest number where it is one (signalling 5.3).
confidence: likely - the greatest ISMACrypIVLength is 8, ISMACrypDeltaIVLength 2
"""
_FLAGS: Final = frozenset(("selective_encryption", "key_indicator_per_au", "slice_indication", "padding_indication"))


def _ismacryp(parameters: Parameters, offset: int | None, field: str) -> Ismacryp:
    given: dict[str, object] = {}
    for name, value in parameters:
        if not name.startswith("ISMACryp"):
            continue
        if name not in _ISMACRYP:
            raise Unsupported(offset, f"{field}.{name[:40]}", "a parameter of ISMACryp", "another")
        attribute, most = _ISMACRYP[name]
        if attribute in given:
            raise BadValue(offset, f"{field}.{name}", "once", "again")
        if value is None:
            raise BadValue(offset, f"{field}.{name}", f"{name}=VALUE", "no value")
        if most is None:
            given[attribute] = value
        elif not _NUMBER.fullmatch(value) or int(value) > most:
            raise BadValue(offset, f"{field}.{name}", f"0..{most}", _short(value))
        else:
            given[attribute] = bool(int(value)) if attribute in _FLAGS else int(value)
    return Ismacryp(**given)  # type: ignore[arg-type]


# --- writing ------------------------------------------------------------------------------------------------------------


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
        f"t={d.start} {d.stop}",
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
            f"m=application {flute.port} {_FLUTE} 0",
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
        if _BAD.search(line):
            raise BadValue(None, f"line[{number}]", "text without line breaks", _short(line))
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
    names = {protocol: name for name, protocol in _PROTOCOLS.items()}
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
    return [
        f"c=IN {_type(where.address)} {where.address}{'' if where.ttl is None else f'/{where.ttl}'}",
        *([f"a=source-filter: incl IN {_type(where.source)} * {where.source}"] if where.source else []),
    ]


def _type(address: str) -> str:
    return "IP6" if ":" in address else "IP4"


def _decimal(seconds: float) -> str:
    """Without an exponent, to a nanosecond."""
    if not math.isfinite(seconds):
        raise BadValue(None, "cycle", "seconds", str(seconds))
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
