# SPDX-License-Identifier: Apache-2.0
"""What a session description says, as a terminal and a BSD/A see it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from pybcast.flows import Profile, Tuning
from pybcast.messages import Protocol
from pybcast.sdp.ismacryp import Ismacryp, Parameters, read_ismacryp
from pybcast.sourcefilter import SourceFilter

MAX_TEXT: Final = 65_536  # confidence: own - octets of a session description: some hundred m= lines fit
STKM_FORMAT: Final = "vnd.oma.bcast.stkm"  # confidence: likely - STKM streams in SDP: the registered media type (signalling 5.4)
LTKM_FORMAT: Final = (
    "vnd.oma.bcast.ltkm"  # confidence: own - the LTKM push in SDP: the registered media type, used alike (signalling 5.5)
)
IPDC_FORMAT: Final = "ipdc-ksm"
LTKM_PORT: Final = 4359  # confidence: likely - omabcastltkm (signalling 5.5)
SERVICE_CLASS: Final = "urn:oma:bcast:oma_bsc:rifc:1.0"  # OMNA: registration and rights file carousel, signalling 5.5
FLUTE: Final = "FLUTE/UDP"  # TS 26.346 7.3.2.5

KMSTYPES: Final[dict[str, Profile]] = {
    "oma-bcast-drm-pki": "drm",
    "oma-bcast-gba_u-mbms": "smartcard",
    "oma-bcast-gba_me-mbms": "smartcard",
}
"""signalling 5.4.  The fourth, oma-bcast-prov-bcmcs, is the Smartcard Profile of networks without GBA: no profile of ours."""
KMSTYPE_NAMES: Final = (*KMSTYPES, "oma-bcast-prov-bcmcs")
PROTOCOLS: Final = {"ipsec": Protocol.IPSEC, "srtp": Protocol.SRTP, "ismacryp": Protocol.ISMACRYP}
_ENCRYPTED: Final = ("enc-mpeg4-generic", "enc-isoff-generic")  # signalling 5.3
# confidence: likely - SRTPAuthentication counts as MIKEY does: 0 none, 1 HMAC-SHA-1 with the tag of RFC 3711
_TRANSFORMS: Final = {0: "none", 2: "RCCm1 (RFC 4771)", 3: "RCCm2 (RFC 4771)", 4: "RCCm3 (RFC 4771)"}
"""Those that no library of ours has."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where datagrams go.

    ``address``: IP address or host name.  ``ttl``: of IPv4 multicast, ``None`` = not said.  ``senders``: whose datagrams to take
    (RFC 4570), ``None`` = everybody's.
    """

    address: str
    port: int
    ttl: int | None = None
    senders: SourceFilter | None = None


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
class Media(Endpoint):
    """A media stream; protected when ``stkmstreams`` names the STKM streams that carry its keys.

    ``fmtp``: (format, parameters).  ``SRTPAuthentication``: number of the integrity transform; ``SRTPROCTxRate``: 1..65535, for
    those of RFC 4771 (RFC 5159).  ``other``: further attributes, ``NAME`` or ``NAME:VALUE``.
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

    @property
    def not_opened(self) -> str:
        """Why no program of ours opens its packets; empty where ``pybcast relay`` does.  Its keys are good all the same."""
        if self.protocol is Protocol.ISMACRYP:
            return "ISMACryp protects it, and only SRTP is opened"
        if self.SRTPAuthentication in (None, 1):
            return ""
        transform = _TRANSFORMS.get(self.SRTPAuthentication, f"number {self.SRTPAuthentication}")
        return f"its integrity transform (SRTPAuthentication) is {transform}, and only HMAC-SHA-1 is checked"

    def ismacryp(self) -> Ismacryp | None:
        """The parameters of the first format that has any."""
        for _, parameters in self.fmtp:
            if any(name.startswith("ISMACryp") for name, _ in parameters):
                return read_ismacryp(parameters, None, "fmtp")
        return None


@dataclass(frozen=True)
class Ignored:
    """What a description says and nobody here does.  ``line``: from 1.  ``what``: its kind and name, never its value."""

    line: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.what}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Description:
    """A session description, as a terminal and a BSD/A see it.

    ``origin``: session id, version and address of the o= line.  ``times``: begin and end of each t= line, NTP seconds, 0 = open.
    ``version``: bcastversion.  ``cycle``: of the carousel, seconds.  ``interaction``: URL.  ``ignored``: of the text that was read.
    """

    name: str
    service: str = ""
    origin: tuple[int, int, str] = (0, 0, "0.0.0.0")
    times: tuple[tuple[int, int], ...] = ((0, 0),)
    version: tuple[int, int] | None = (1, 0)
    cycle: float | None = None
    interaction: str = ""
    stkm: tuple[StkmStream, ...] = ()
    ltkm: Endpoint | None = None
    flute: tuple[FluteSession, ...] = ()
    media: tuple[Media, ...] = ()
    other: tuple[str, ...] = ()
    ignored: tuple[Ignored, ...] = field(default=(), compare=False)

    def active(self, now: float) -> bool:
        """Whether its service is to be received at that time, NTP seconds (RFC 8866, 5.9)."""
        return any(start <= now and (now < stop or not stop) for start, stop in self.times)

    def begins(self, now: float) -> int | None:
        """When it is received next, if not now; ``None`` when it never is."""
        return min((start for start, _ in self.times if start > now), default=None)

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
