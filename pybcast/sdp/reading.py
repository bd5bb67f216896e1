# SPDX-License-Identifier: Apache-2.0
"""Reading a session description: the session part first, then the sections of its media, one by one."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Final

from pybcast.errors import BadLength, BadValue, Truncated, Unsupported
from pybcast.sdp.ismacryp import read_ismacryp
from pybcast.sdp.lines import (
    PROTO,
    TOKEN,
    Attributes,
    Filter,
    Line,
    Value,
    plain_host,
    read_channels,
    read_connection,
    read_extensions,
    read_id,
    read_keys,
    read_number,
    read_origin,
    read_protection,
    read_seconds,
    read_stream_id,
    read_text,
    read_times,
    read_uri,
    read_version,
    short,
    split,
)
from pybcast.sdp.model import (
    FLUTE,
    IPDC_FORMAT,
    KMSTYPE_NAMES,
    KMSTYPES,
    LTKM_FORMAT,
    MAX_TEXT,
    STKM_FORMAT,
    Description,
    Endpoint,
    FluteSession,
    Ignored,
    Media,
    StkmStream,
)
from pybcast.sourcefilter import MAX_SOURCES, SourceFilter, is_ip

_UNUSED: Final = {
    "i": "a text for people", "u": "an address for people", "e": "an address for people", "p": "a number for people",
    "b": "no bandwidth is reserved", "k": "obsolete: keys come in key messages (RFC 8866, 5.12)",
    "r": "repetitions are not known here: received from the begin to the end of its t=",
    "z": "repetitions are not known here, and so no change of their hour",
}  # fmt: skip
"""Kinds of lines that are checked for form only, and why."""
_WITH_ROC: Final = (2, 3, 4)  # SRTPAuthentication of RFC 4771: signalling 5.2, smartcard-profile
_OF_MEDIA: Final = ("flute-tsi", "flute-ch", "x-bcast-service-class", "x-bcast-protection", "SRTPAuthentication", "SRTPROCTxRate")
"""Attributes that are about media, and hold for all of a kind where they stand in the session part."""
_COMMON_NAMES: Final = ("serviceprovider", "baseCID", "srvCIDExt", "prgCIDExt", "srvKEYList", "prgKEYList")
_STKM_NAMES: Final = frozenset(("streamid", "kmstype", *_COMMON_NAMES))
_IPDC_NAMES: Final = frozenset(("IPDCStreamId", "IPDCKMSId", *_COMMON_NAMES))


def parse(data: bytes | str) -> Description:
    """Read a session description.  ``WireError`` (``field`` and ``offset`` as the module says); never anything else."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    if len(raw) > MAX_TEXT:
        raise BadLength(MAX_TEXT, "", f"at most {MAX_TEXT} octets", f"{len(raw)}")
    lines = list(split(raw))
    if not lines:
        raise Truncated(0, "line[1].v", "v=0", "nothing")
    first = next((i for i, line in enumerate(lines) if line.kind == "m"), len(lines))
    session = _Session(lines[:first], len(raw))
    sections: list[list[Line]] = []
    for line in lines[first:]:
        if line.kind == "m":
            sections.append([])
        sections[-1].append(line)
    for section in sections:
        session.take(section)
    return session.made()


class _Session:
    """Reads the session part, then takes media sections one by one."""

    def __init__(self, lines: Sequence[Line], size: int) -> None:
        if not lines or lines[0].kind != "v":
            raise BadValue(0, "line[1].v", "v=0 first", short(lines[0].kind if lines else "m"))
        if lines[0].value != "0":
            lines[0].refuse("0", lines[0].value, error=Unsupported)
        self._ignored: list[Ignored] = []
        self._times: list[tuple[int, int]] = []
        once: dict[str, Line] = {}
        for line in lines:
            if line.kind in "vosc":
                if line.kind in once:
                    line.refuse("once", "again")
                once[line.kind] = line
            elif line.kind == "t":
                self._times.append(read_times(line))
            elif line.kind in "rz" and not self._times:
                line.refuse("after a t=", "none before it")
        for kind, found in (("o", "o" in once), ("s", "s" in once), ("t", self._times)):
            if not found:
                raise Truncated(size, kind, f"{kind}=", "none")
        self._ignore_lines(lines)
        self._origin = read_origin(once["o"])
        self._name = once["s"].value
        self._connection = read_connection(once["c"]) if "c" in once else None
        self._attributes = attributes = Attributes(lines)
        self._version = attributes.once("bcastversion", self._read_version)
        self._service = attributes.once("x-bcast-service", read_uri) or ""
        self._cycle = attributes.once("x-bcast-carousel-cycle", read_seconds)
        self._interaction = attributes.once("x-bcast-interaction", read_uri) or ""
        self._stkmstreams = attributes.all("stkmstream", read_stream_id)
        self._references = attributes.lines("stkmstream")
        self._filters = attributes.filters()
        self._unfit = dict.fromkeys(self._filters)
        self._stkm: list[StkmStream] = []
        self._flute: list[tuple[Line, FluteSession]] = []
        self._media: list[Media] = []
        self._ltkm: Endpoint | None = None

    def _read_version(self, line: Line, text: str) -> tuple[int, int]:
        version = read_version(line, text)
        if version[0] != 1:
            self._ignored.append(line.ignored("read as a description of BCAST 1"))
        return version

    def _ignore_lines(self, lines: Sequence[Line]) -> None:
        self._ignored += [line.ignored(_UNUSED[line.kind]) for line in lines if line.kind in _UNUSED]

    def _rest(self, attributes: Attributes, why: str = "not known here", *, used: Container[str] = ()) -> tuple[str, ...]:
        """The attributes that nobody has asked for.  ``used``: names of those that are read from them later."""
        self._ignored += [line.ignored(why) for line in attributes if line.attribute[0] not in used]
        return attributes.rest()

    def _rest_of_session(self) -> tuple[str, ...]:
        """The same of the session part, when all media had their turn."""
        unused = "about no m= here, or each has one of its own"
        self._ignored += [line.ignored(unused if line.attribute[0] in _OF_MEDIA else "not known here") for line in self._attributes]
        return self._attributes.rest()

    def take(self, lines: Sequence[Line]) -> None:
        """The section of a medium.  What it asks for that is not supported costs it alone, and is told."""
        unfit, ignored = dict(self._unfit), list(self._ignored)
        try:
            self._take(lines)
        except Unsupported as error:
            self._unfit, self._ignored = unfit, ignored
            self._ignored.append(lines[0].ignored(f"not supported: {error.field}, expected {error.expected}"))

    def _take(self, lines: Sequence[Line]) -> None:
        head = lines[0]
        words = head.value.split(" ")
        if len(words) < 4:
            head.refuse("MEDIA PORT PROTO FORMAT", head.value)
        kind, port_text, proto, *formats = words
        port_text, slash, count = port_text.partition("/")
        if slash and count != "1":
            head.refuse("one port", count, "port", error=Unsupported)
        port = read_number(head, port_text, 0, 65535, "port")
        for text, rule, name in ((kind, TOKEN, "media"), (proto, PROTO, "proto"), *((f, TOKEN, "fmt") for f in formats)):
            if not rule.fullmatch(text):
                head.refuse("a token", text, name)
        connection = None
        for line in lines[1:]:
            if line.kind == "c":
                if connection is not None:
                    line.refuse("once", "again")
                connection = read_connection(line)
            elif line.kind in "vostrz":
                line.refuse("before the first m=", line.kind)
        connection = connection or self._connection
        if connection is None:
            head.refuse("c= here or before the first m=", "none")
        self._ignore_lines(lines)
        if port == 0:
            self._ignored.append(head.ignored("port 0: nothing is sent"))
            return
        address, ttl = connection
        attributes = Attributes(lines, self._attributes)
        where = Endpoint(address=address, port=port, ttl=ttl, senders=self._senders(address, attributes.filters()))
        form = formats[0].lower()
        if proto.upper() == FLUTE:
            self._take_flute(where, attributes, head)
        elif kind == "application" and proto.lower() == "udp" and form in (STKM_FORMAT, IPDC_FORMAT):
            self._take_stkm(where, attributes, head, form)
        elif kind == "application" and proto.lower() == "udp" and form == LTKM_FORMAT:
            if self._ltkm is not None:
                head.refuse("one LTKM push", "another")
            self._ltkm = where
            self._rest(attributes)
        else:
            self._take_media(where, attributes, kind, proto, tuple(formats))

    def _senders(self, address: str, own: Sequence[Filter]) -> SourceFilter | None:
        """Whose datagrams are taken there: what stands below its m=, else what is said for all."""
        self._unfit |= dict.fromkeys(own)
        address = plain_host(address)
        for filters in (own, self._filters):
            fitting = [found for found in filters if found.fits(address)]
            if fitting:
                for found in fitting:
                    self._unfit.pop(found, None)
                return self._joined(fitting)
        return None

    @staticmethod
    def _joined(filters: Sequence[Filter]) -> SourceFilter:
        mode, last = filters[0].senders.mode, filters[-1].line
        sources = tuple(dict.fromkeys(source for found in filters for source in found.senders.sources))
        if any(found.senders.mode != mode for found in filters):
            last.refuse("either incl or excl for a destination", "both")
        if len(sources) > MAX_SOURCES:
            last.refuse(f"at most {MAX_SOURCES} sources", str(len(sources)), error=Unsupported)
        return SourceFilter(mode, sources)

    def _take_flute(self, where: Endpoint, attributes: Attributes, head: Line) -> None:
        tsi = attributes.once("flute-tsi", lambda line, value: read_number(line, value, 0, 2**48 - 1))
        if tsi is None:
            head.refuse("a=flute-tsi below, or before the first m=", "none")
        for level in (attributes, self._attributes):
            level.once("flute-ch", read_channels)
        service_class = attributes.once("x-bcast-service-class", read_uri) or ""
        session = FluteSession(
            address=where.address, port=where.port, ttl=where.ttl, senders=where.senders, tsi=tsi, service_class=service_class,
            other=self._rest(attributes),
        )  # fmt: skip
        self._flute.append((head, session))

    def _take_stkm(self, where: Endpoint, attributes: Attributes, head: Line, form: str) -> None:
        service = attributes.once("x-bcast-service", read_uri) or ""
        protection = attributes.once("x-bcast-protection", read_protection) or (None, None)
        given = attributes.fmtp()
        if len(given) != 1 or given[0][1][0].lower() != form:
            (given[-1][0] if given else head).refuse(f"one a=fmtp:{form}", f"{len(given)} fmtp lines")
        line, (_, parameters) = given[0]
        ipdc = form == IPDC_FORMAT
        names = _IPDC_NAMES if ipdc else _STKM_NAMES
        if strange := [name[:40] for name, _ in parameters if name not in names]:
            self._ignored.append(line.ignored(f"parameters that are not known here: {', '.join(strange)}"))
        values = {name: value for name, value in parameters if name in names}

        def get(name: str, read: Callable[[Line, str, str], Value], default: Value) -> Value:
            value = values.get(name)
            if name in values and value is None:
                line.refuse(f"{name}=VALUE", name, name)
            return default if value is None else read(line, value, name)

        stream_name = "IPDCStreamId" if ipdc else "streamid"  # confidence: likely - ipdc-ksm names its stream IPDCStreamId
        if stream_name not in values:
            line.refuse(f"{stream_name}=", "none", stream_name)
        kmstype = get("kmstype", read_text, "")
        if not ipdc and kmstype not in KMSTYPE_NAMES:
            line.refuse("a kmstype of BCAST", kmstype or "none", "kmstype", error=Unsupported)
        if kmstype not in KMSTYPES:
            why = "the messages of ipdc-ksm are not read" if ipdc else f"no card or device here is of {kmstype}"
            self._ignored.append(head.ignored(why))
        self._stkm.append(
            StkmStream(
                address=where.address, port=where.port, ttl=where.ttl, senders=where.senders,
                streamid=get(stream_name, read_id, 0), kmstype=kmstype, service=service,
                serviceprovider=get("serviceprovider", read_text, ""), baseCID=get("baseCID", read_text, ""),
                srvCIDExt=get("srvCIDExt", read_extensions, ()), prgCIDExt=get("prgCIDExt", read_extensions, ()),
                srvKEYList=get("srvKEYList", read_keys, ()), prgKEYList=get("prgKEYList", read_keys, ()),
                protocol=protection[0], lifetime=protection[1], kms_id=get("IPDCKMSId", read_text, ""),
                parameters=tuple(p for p in parameters if p[0] not in names), other=self._rest(attributes),
            )
        )  # fmt: skip

    def _take_media(self, where: Endpoint, attributes: Attributes, kind: str, proto: str, formats: tuple[str, ...]) -> None:
        fmtp = []
        for line, (form, parameters) in attributes.fmtp():
            renamed = tuple(("ISMACrypDeltaIVLength" if n == "ISMACrypIVDeltaLength" else n, v) for n, v in parameters)
            read_ismacryp(renamed, line.offset, line.field())
            fmtp.append((form, renamed))
        # What the session part says of SRTP is for those media that use it.
        srtp = "SAVP" in proto
        transform = attributes.once("SRTPAuthentication", lambda line, value: read_number(line, value, 0, 255), above=srtp)
        with_roc = srtp and transform in _WITH_ROC
        media = Media(
            address=where.address, port=where.port, ttl=where.ttl, senders=where.senders, kind=kind, proto=proto, formats=formats,
            stkmstreams=attributes.all("stkmstream", read_stream_id) or self._stkmstreams, SRTPAuthentication=transform,
            # confidence: likely - the range of SRTPROCTxRate
            SRTPROCTxRate=attributes.once("SRTPROCTxRate", lambda line, value: read_number(line, value, 1, 65535), above=with_roc),
            fmtp=tuple(fmtp), other=self._rest(attributes, "for whoever decodes the media", used=("rtpmap",)),
        )  # fmt: skip
        self._references += attributes.lines("stkmstream")
        if not srtp:
            self._ignored += [line.ignored("its transport is not SRTP") for line in attributes.lines("SRTPAuthentication")]
        if not with_roc:
            self._ignored += [line.ignored("no transform of RFC 4771 is named") for line in attributes.lines("SRTPROCTxRate")]
        self._media.append(media)

    def made(self) -> Description:
        made = Description(
            name=self._name, service=self._service, origin=self._origin, times=tuple(self._times), version=self._version,
            cycle=self._cycle, interaction=self._interaction, stkm=tuple(self._stkm), ltkm=self._ltkm,
            flute=tuple(session for _, session in self._flute), media=tuple(self._media), other=self._rest_of_session(),
        )  # fmt: skip
        self._check_filters(made)
        for head, session in self._flute:
            if session is not made.carousel:
                self._ignored.append(head.ignored("no carousel of LTKMs, or not the first"))
        described = {stream.streamid for stream in made.stkm}
        for line in self._references:
            if read_stream_id(line, line.attribute[1] or "") not in described:
                self._ignored.append(line.ignored("no STKM stream of this number is described"))
        return replace(made, ignored=tuple(sorted(self._ignored, key=lambda ignored: ignored.line)))

    def _check_filters(self, made: Description) -> None:
        """Filters that are about nothing here.  Whether two names, or a name and an address, are one host is not known here."""
        hosts = (made.ltkm, *made.stkm, *made.flute, *made.media)
        named = any(where is not None and not is_ip(where.address) for where in hosts)
        for found in self._unfit:
            if found.destination != "*" and (named or not is_ip(found.destination)):
                found.line.refuse("a destination as a c= writes it, or *", found.destination, error=Unsupported)
            self._ignored.append(found.line.ignored("about no destination here, or another stands below each m="))
