# SPDX-License-Identifier: Apache-2.0
"""Session descriptions: what is written is read back, what is broken is refused with its line, and nothing else happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybcast import sdp
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.messages import Protocol
from pybcast.sourcefilter import SourceFilter
from pybcast.testing import mutate

CASES_OF_OTHERS: Final = Path(__file__).parents[1] / "vectors" / "cases" / "sdp"
TEXT: Final = """v=0
o=- 3900000000 2 IN IP4 192.0.2.1
s=News
i=a line that is not used here
c=IN IP4 239.1.1.1/16
t=0 0
a=bcastversion:1.0
a=x-bcast-service:urn:example:news
a=x-bcast-carousel-cycle:2.5
a=x-bcast-interaction:https://bsm.example/bcast
a=stkmstream:1
a=tool:another
m=application 5000 udp vnd.oma.bcast.stkm
a=fmtp:vnd.oma.bcast.stkm streamid=1; kmstype=oma-bcast-drm-pki; serviceprovider=soc.example; baseCID=cid:news; srvCIDExt=00000001
m=application 5001 UDP vnd.oma.bcast.stkm
c=IN IP4 239.1.1.2/1
a=fmtp:vnd.oma.bcast.stkm streamid=1; kmstype=oma-bcast-gba_u-mbms; srvKEYList=12f4100001,12f41000020003; x=y; z
a=x-bcast-protection:srtp 7
m=application 5002 udp ipdc-ksm
a=fmtp:ipdc-ksm IPDCStreamId=3; IPDCKMSId=17
m=application 4359 udp vnd.oma.bcast.ltkm
m=application 4001 FLUTE/UDP 0
c=IN IP6 ff1e:3ad::7f2e:172a:1e24/1
a=source-filter: incl IN IP6 * 2001:db8::1
a=flute-tsi:3
a=flute-ch:1
a=FEC-declaration:0 encoding-id=0
a=x-bcast-service-class:urn:oma:bcast:oma_bsc:rifc:1.0
m=video 6000 RTP/SAVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1; profile-level-id=42e01f
a=SRTPAuthentication:2
a=SRTPROCTxRate:100
m=audio 6002 RTP/AVP 97
a=rtpmap:97 enc-mpeg4-generic/48000
a=fmtp:97 mode=AAC-hbr; ISMACrypIVDeltaLength=2; ISMACrypKeyIndicatorLength=6
a=stkmstream:3
"""


def refused(text: str, kind: type[WireError]) -> WireError:
    with pytest.raises(WireError) as caught:
        sdp.parse(text)
    assert type(caught.value) is kind
    return caught.value


def test_what_a_terminal_sees() -> None:
    d = sdp.parse(TEXT)
    assert (d.name, d.service, d.cycle, d.version) == ("News", "urn:example:news", 2.5, (1, 0))
    assert (d.interaction, d.other) == ("https://bsm.example/bcast", ("tool:another",))
    drm, card, old = d.stkm
    assert (drm.profile, drm.address, drm.port, drm.ttl, drm.streamid) == ("drm", "239.1.1.1", 5000, 16, 1)
    assert (drm.serviceprovider, drm.baseCID, drm.srvCIDExt) == ("soc.example", "cid:news", (1,))
    assert (card.profile, card.address, card.port, card.protocol, card.lifetime) == (
        "smartcard", "239.1.1.2", 5001, Protocol.SRTP, 7,
    )  # fmt: skip
    assert card.srvKEYList == (bytes.fromhex("12f4100001"), bytes.fromhex("12f41000020003"))
    assert card.parameters == (("x", "y"), ("z", None))
    assert (old.profile, old.streamid, old.kms_id) == (None, 3, "17")
    assert {stream.service for stream in d.stkm} == {"urn:example:news"}
    assert d.ltkm == sdp.Endpoint(address="239.1.1.1", port=4359, ttl=16)
    assert d.carousel is not None
    assert (d.carousel.address, d.carousel.port, d.carousel.tsi) == ("ff1e:3ad::7f2e:172a:1e24", 4001, 3)
    assert d.carousel.senders == SourceFilter("incl", ("2001:db8::1",))
    video, audio = d.media
    assert (video.stkmstreams, video.SRTPAuthentication, video.SRTPROCTxRate, video.protocol) == ((1,), 2, 100, Protocol.SRTP)
    assert video.ismacryp() is None
    assert (audio.stkmstreams, audio.protocol) == ((3,), Protocol.ISMACRYP)
    assert audio.ismacryp() == sdp.Ismacryp(delta_iv_length=2, key_indicator_length=6)
    assert "ISMACrypDeltaIVLength=2" in sdp.write(d)
    assert d.protected(1) == (video,)


def test_tunings_are_what_the_flows_take() -> None:
    d = sdp.parse(TEXT)
    (drm,) = d.tunings("drm")
    assert (drm.service, drm.stream, drm.where, drm.socID, drm.serviceBaseCID, drm.protocol) == (
        "urn:example:news", 1, ("239.1.1.1", 5000), "soc.example", "cid:news", Protocol.SRTP,
    )  # fmt: skip
    (card,) = d.tunings("smartcard")
    assert (card.where, card.lifetime, card.protocol) == (("239.1.1.2", 5001), 7, Protocol.SRTP)


def test_normal_form_is_stable_and_crlf_and_lf_are_the_same() -> None:
    d = sdp.parse(TEXT)
    text = sdp.write(d)
    assert sdp.parse(text) == d == sdp.parse(TEXT.replace("\n", "\r\n")) == sdp.parse(TEXT.encode())
    assert sdp.write(sdp.parse(text)) == text
    assert text.count("\r\n") == text.count("\n")


def test_ismacryp_defaults_are_not_written() -> None:
    assert sdp.Ismacryp().parameters() == ()
    assert sdp.Ismacryp(key_indicator_length=6, selective_encryption=True, salt="c2FsdA==").parameters() == (
        ("ISMACrypSelectiveEncryption", "1"), ("ISMACrypKeyIndicatorLength", "6"), ("ISMACrypSalt", "c2FsdA=="),
    )  # fmt: skip


def test_a_carousel_that_does_not_say_its_class() -> None:
    d = sdp.parse(TEXT.replace("a=x-bcast-service-class:urn:oma:bcast:oma_bsc:rifc:1.0\n", ""))
    assert d.carousel == d.flute[0]
    assert replace(d, flute=(d.flute[0], d.flute[0])).carousel is None
    assert sdp.parse(TEXT.replace("rifc:1.0", "fd:1.0")).carousel is None


CASES: Final = [
    ("v=0", "v=1", Unsupported, "line[1].v"),
    ("v=0\n", "", BadValue, "line[1].v"),
    ("s=News\n", "", Truncated, "s"),
    ("s=News\n", "s=News\ns=More\n", BadValue, "line[4].s"),
    ("t=0 0", "t=0 x", BadValue, "line[6].t"),
    ("t=0 0", "t=0", BadValue, "line[6].t"),
    ("t=0 0", "t=0 0\nt=5 4", BadValue, "line[7].t"),
    ("t=0 0\n", "", Truncated, "t"),
    ("t=0 0", "r=604800 3600 0\nt=0 0", BadValue, "line[6].r"),
    ("t=0 0", "z=2882844526 -1h\nt=0 0", BadValue, "line[6].z"),
    ("a=stkmstream:3", "r=604800 3600 0", BadValue, "line[37].r"),
    ("o=- 3900000000 2", "o=- x 2", BadValue, "line[2].o"),
    ("i=a line", "i a line", BadValue, "line[4]"),
    ("239.1.1.1/16", "239.1.1.1/256", BadValue, "line[5].c"),
    ("239.1.1.1/16", "239.1.1.1/16/2", Unsupported, "line[5].c"),
    ("c=IN IP4 239.1.1.1/16\n", "", BadValue, "line[12].m"),
    ("bcastversion:1.0", "bcastversion:1", BadValue, "line[7].a.bcastversion"),
    ("bcastversion:1.0", "bcastversion", BadValue, "line[7].a.bcastversion"),
    ("bcastversion:1.0", "bcastversion:1.0\na=bcastversion:1.0", BadValue, "line[8].a.bcastversion"),
    ("carousel-cycle:2.5", "carousel-cycle:0", BadValue, "line[9].a.x-bcast-carousel-cycle"),
    ("a=stkmstream:1", "a=stkmstream:65536", BadValue, "line[11].a.stkmstream"),
    ("a=stkmstream:1", "a=stkmstream:0", BadValue, "line[11].a.stkmstream"),
    ("a=tool:another", "a= tool:another", BadValue, "line[12].a. tool"),
    ("m=application 5000 udp", "m=application 65536 udp", BadValue, "line[13].m.port"),
    ("m=application 5000 udp vnd.oma.bcast.stkm", "m=application 5000 udp", BadValue, "line[13].m"),
    ("streamid=1; kmstype=oma-bcast-drm-pki", "kmstype=oma-bcast-drm-pki", BadValue, "line[14].a.fmtp.streamid"),
    ("srvCIDExt=00000001", "srvCIDExt=0001", BadValue, "line[14].a.fmtp.srvCIDExt"),
    ("srvCIDExt=00000001", "srvCIDExt", BadValue, "line[14].a.fmtp.srvCIDExt"),
    ("srvCIDExt=00000001", "srvCIDExt=00000001; srvCIDExt=00000001", BadValue, "line[14].a.fmtp.srvCIDExt"),
    ("12f4100001,", "12f410,", BadValue, "line[17].a.fmtp.srvKEYList"),
    ("protection:srtp 7", "protection:srtp 16", BadValue, "line[18].a.x-bcast-protection"),
    ("protection:srtp 7", "protection:drm 7", BadValue, "line[18].a.x-bcast-protection"),
    ("a=fmtp:ipdc-ksm", "a=fmtp:other", BadValue, "line[20].a.fmtp"),
    ("m=application 4359 udp", "m=application 1 udp vnd.oma.bcast.ltkm\nm=application 4359 udp", BadValue, "line[22].m"),
    ("a=flute-tsi:3\n", "", BadValue, "line[22].m"),
    ("incl IN IP6 * 2001", "only IN IP6 * 2001", BadValue, "line[24].a.source-filter"),
    ("incl IN IP6 * 2001", "incl IN IP4 * 2001", BadValue, "line[24].a.source-filter"),
    ("incl IN IP6 * 2001", "incl IN * * 2001", BadValue, "line[24].a.source-filter"),
    ("incl IN IP6 * 2001", "incl IN IP6 192.0.2.1 2001", BadValue, "line[24].a.source-filter"),
    ("incl IN IP6 * 2001:db8::1", "incl IN IP6 *", BadValue, "line[24].a.source-filter"),
    ("incl IN IP6 * 2001:db8::1", "incl IN IP6 * a_b", BadValue, "line[24].a.source-filter"),
    ("incl IN IP6 * 2001:db8::1", "incl IN IP6 h.example 2001:db8::1", Unsupported, "line[24].a.source-filter"),
    ("* 2001:db8::1", "* 2001:db8::1\na=source-filter: excl IN IP6 * 2001:db8::2", BadValue, "line[25].a.source-filter"),
    ("SRTPROCTxRate:100", "SRTPROCTxRate:0", BadValue, "line[33].a.SRTPROCTxRate"),
    ("SRTPAuthentication:2", "SRTPAuthentication:-1", BadValue, "line[32].a.SRTPAuthentication"),
    ("DeltaLength=2", "DeltaLength=3", BadValue, "line[36].a.fmtp.ISMACrypDeltaIVLength"),
    ("IVDeltaLength=2", "DeltaIVLength=2; ISMACrypIVDeltaLength=2", BadValue, "line[36].a.fmtp.ISMACrypDeltaIVLength"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "kind", "field"), CASES, ids=[f"{i}-{case[3]}" for i, case in enumerate(CASES)])
def test_refusals_name_line_and_attribute(old: str, new: str, kind: type[WireError], field: str) -> None:
    assert TEXT.count(old) >= 1
    text = TEXT.replace(old, new, 1)
    error = refused(text, kind)
    assert error.field == field
    assert error.offset is not None
    number = int(field[5 : field.index("]")]) if field.startswith("line[") else 0
    assert error.offset == (len("".join(text.splitlines(keepends=True)[: number - 1]).encode()) if number else len(text.encode()))


UNSUPPORTED: Final = [
    ("a=flute-ch:1", "a=flute-ch:2", "line[26].a.flute-ch"),
    ("m=application 5000 udp", "m=application 5000/2 udp", "line[13].m.port"),
    ("oma-bcast-drm-pki", "oma-bcast-drm", "line[14].a.fmtp.kmstype"),
    ("incl IN IP6 * 2001:db8::1", "incl IN IP6 *" + " h.example" * 65, "line[24].a.source-filter"),
    ("ISMACrypIVDeltaLength", "ISMACrypOther", "line[36].a.fmtp.ISMACrypOther"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "field"), UNSUPPORTED, ids=[case[2] for case in UNSUPPORTED])
def test_what_is_not_supported_costs_its_medium_alone(old: str, new: str, field: str) -> None:
    """The others are as without it, and it is told where and why."""
    lines = TEXT.replace(old, new, 1).splitlines(keepends=True)
    number = int(field[5 : field.index("]")])
    head = max(index for index, line in enumerate(lines[:number], 1) if line.startswith("m="))
    following = next((index for index, line in enumerate(lines[head:], head) if line.startswith("m=")), len(lines))
    d = sdp.parse("".join(lines))
    told = [found for found in d.ignored if found.why.startswith("not supported: ")]
    assert [(found.line, found.what) for found in told] == [(head, "m=")] and f" {field}, expected " in told[0].why
    assert d == sdp.parse("".join(lines[: head - 1] + lines[following:]))
    assert sdp.parse(sdp.write(d)) == d


def test_bounds() -> None:
    assert refused("v=0\n" * 30_000, BadLength).offset == sdp.MAX_TEXT
    assert refused("", Truncated).offset == 0
    assert refused("\ud800", BadValue).offset == 0
    assert refused("v=0\ns=a\x00b\n", BadValue).field == "line[2]"
    with pytest.raises(WireError):
        sdp.parse(b"v=0\ns=\xff\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"times": ()}, {"times": ((5, 4),)}, {"ltkm": sdp.Endpoint(address="239.1.1.1", port=0)},
        {"ltkm": sdp.Endpoint(address="239.1.1.1", port=1, senders=SourceFilter("incl", ("2001:db8::1",)))},
        {"name": "two\r\nlines"}, {"service": "no-uri"}, {"cycle": 0.0}, {"cycle": float("nan")}, {"origin": (-1, 0, "0.0.0.0")},
        {"other": ("stkmstream:5",)}, {"interaction": "https://x y"},
    ],
)  # fmt: skip
def test_what_cannot_be_read_back_is_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(WireError):
        sdp.write(replace(sdp.Description(name="x"), **changes))  # type: ignore[arg-type]


# --- what is not used is said ---------------------------------------------------------------------------------------------

HEAD: Final = "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=x\nc=IN IP4 239.1.1.1/1\nt=0 0\n"
STKM: Final = "m=application 5000 udp vnd.oma.bcast.stkm\na=fmtp:vnd.oma.bcast.stkm streamid=1; kmstype=oma-bcast-drm-pki\n"
VIDEO: Final = "m=video 6000 RTP/SAVP 96\na=rtpmap:96 H264/90000\na=stkmstream:1\n"


def ignored(text: str) -> list[str]:
    return [str(found) for found in sdp.parse(text).ignored]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=tool:x\n" + STKM, "line 6, a=tool: not known here"),
        ("k=clear:0123456789\n" + STKM, "line 6, k=: obsolete: keys come in key messages (RFC 8866, 5.12)"),
        ("r=604800 3600 0\n" + STKM, "line 6, r=: repetitions are not known here: received from the begin to the end of its t="),
        ("z=2882844526 -1h\n" + STKM, "line 6, z=: repetitions are not known here, and so no change of their hour"),
        ("b=AS:64\n" + STKM, "line 6, b=: no bandwidth is reserved"),
        ("a=bcastversion:2.0\n" + STKM, "line 6, a=bcastversion: read as a description of BCAST 1"),
        (STKM + "i=words\n", "line 8, i=: a text for people"),
        (STKM + "a=crypto:1 AES_CM_128 inline:c2VjcmV0\n", "line 8, a=crypto: not known here"),
        (STKM.replace("-pki", "-pki; a=b; c"), "line 7, a=fmtp: parameters that are not known here: a, c"),
        (STKM.replace("drm-pki", "prov-bcmcs"), "line 6, m=: no card or device here is of oma-bcast-prov-bcmcs"),
        ("m=application 5000 udp ipdc-ksm\na=fmtp:ipdc-ksm IPDCStreamId=1\n", "line 6, m=: the messages of ipdc-ksm are not read"),
        ("m=application 4359 udp vnd.oma.bcast.ltkm\na=x:y\n", "line 7, a=x: not known here"),
        ("m=application 4001 FLUTE/UDP 0\na=flute-tsi:1\na=FEC:0\n", "line 8, a=FEC: not known here"),
        (
            "m=application 4001 FLUTE/UDP 0\na=flute-tsi:1\na=x-bcast-service-class:urn:x\n",
            "line 6, m=: no carousel of LTKMs, or not the first",
        ),
        ("m=audio 0 RTP/AVP 97\n", "line 6, m=: port 0: nothing is sent"),
        (STKM + VIDEO + "a=framerate:25\n", "line 11, a=framerate: for whoever decodes the media"),
        (STKM + VIDEO + "a=SRTPROCTxRate:9\n", "line 11, a=SRTPROCTxRate: no transform of RFC 4771 is named"),
        (STKM + VIDEO.replace("SAVP", "AVP") + "a=SRTPAuthentication:2\n", "line 11, a=SRTPAuthentication: its transport"),
        (VIDEO, "line 8, a=stkmstream: no STKM stream of this number is described"),
        ("a=source-filter: incl IN IP4 239.9.9.9 192.0.2.1\n" + STKM, "line 6, a=source-filter: about no destination here"),
        ("a=source-filter: incl IN IP6 * 2001:db8::1\n" + STKM, "line 6, a=source-filter: about no destination here"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_listed_with_its_line_and_reason(text: str, expected: str) -> None:
    (found,) = ignored(HEAD + text)
    assert found.startswith(expected)


def test_nothing_of_our_own_descriptions_is_ignored() -> None:
    assert ignored(HEAD + STKM + VIDEO) == []
    assert {line.line for line in sdp.parse(TEXT).ignored} == {4, 12, 17, 19, 27}


def test_times() -> None:
    text = HEAD.replace("t=0 0", "t=100 200\nr=7d 1h 0\nt=300 0") + STKM
    d = sdp.parse(text)
    assert d.times == ((100, 200), (300, 0))
    assert [now for now in (0, 99.9, 100, 199.9, 200, 299, 300, 1e12) if d.active(now)] == [100, 199.9, 300, 1e12]
    assert [d.begins(now) for now in (0, 100, 250, 300)] == [100, 300, 300, None]
    assert sdp.parse(HEAD + STKM).active(0) and sdp.parse(HEAD.replace("t=0 0", "t=0 9") + STKM).active(8.9)


@pytest.mark.parametrize(
    ("session", "below", "expected"),
    [
        ("incl IN IP4 * 192.0.2.1", "", SourceFilter("incl", ("192.0.2.1",))),
        ("incl IN IP4 239.1.1.1 192.0.2.1 192.0.2.2", "", SourceFilter("incl", ("192.0.2.1", "192.0.2.2"))),
        ("excl IN IP4 * 192.0.2.1", "", SourceFilter("excl", ("192.0.2.1",))),
        ("incl IN * * Head.example", "", SourceFilter("incl", ("head.example",))),
        ("incl IN IP4 * 192.0.2.1 head.example", "", SourceFilter("incl", ("192.0.2.1", "head.example"))),
        ("incl IN IP4 * 192.0.2.1", "excl IN IP4 * 192.0.2.9", SourceFilter("excl", ("192.0.2.9",))),
        ("incl IN IP4 * 192.0.2.1", "incl IN IP4 239.9.9.9 192.0.2.9", SourceFilter("incl", ("192.0.2.1",))),
        ("incl IN IP4 239.9.9.9 192.0.2.1", "", None),
    ],
)  # fmt: skip
def test_source_filters_of_session_and_media(session: str, below: str, expected: SourceFilter | None) -> None:
    """Below an m= they stand in place of those for all; each is about the destinations that it names (RFC 4570)."""
    push = "m=application 4359 udp vnd.oma.bcast.ltkm\n"
    flute = "m=application 4001 FLUTE/UDP 0\na=flute-tsi:1\n"
    extra = f"a=source-filter: {below}\n" if below else ""
    d = sdp.parse(HEAD + f"a=source-filter: {session}\n" + "".join(part + extra for part in (STKM, push, flute, VIDEO)))
    assert d.ltkm is not None
    assert [where.senders for where in (*d.stkm, d.ltkm, *d.flute, *d.media)] == [expected] * 4
    assert sdp.parse(sdp.write(d)) == d


def test_several_filters_for_one_destination_are_one() -> None:
    lines = "".join(f"a=source-filter: incl IN IP4 * 192.0.2.{n}\n" for n in (1, 2, 1))
    assert sdp.parse(HEAD + lines + STKM).stkm[0].senders == SourceFilter("incl", ("192.0.2.1", "192.0.2.2"))
    many = [f"a=source-filter: incl IN IP4 * {' '.join(f'192.0.{block}.{n}' for n in range(60))}\n" for block in (1, 2)]
    d = sdp.parse(HEAD + "".join(many) + STKM)
    assert d.stkm == () and "at most 64 sources" in d.ignored[-1].why, "it is not received from just anybody"
    assert refused(HEAD + "a=source-filter: incl IN IP6 * 2001:db8::1\n" * 65 + STKM, Unsupported).expected == "at most 64 lines"
    named = HEAD.replace("239.1.1.1/1", "host.example") + "a=source-filter: incl IN IP4 239.1.1.1 192.0.2.1\n" + STKM
    assert refused(named, Unsupported).field == "line[6].a.source-filter", "whether that is the same host is not known"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", ""), ("a=SRTPAuthentication:1\n", ""), ("a=SRTPAuthentication:0\n", "none"),
        ("a=SRTPAuthentication:2\na=SRTPROCTxRate:10\n", "RCCm1"), ("a=SRTPAuthentication:3\n", "RCCm2"),
        ("a=SRTPAuthentication:4\n", "RCCm3"), ("a=SRTPAuthentication:99\n", "number 99"),
    ],
)  # fmt: skip
def test_media_whose_integrity_nobody_here_checks(lines: str, why: str) -> None:
    (video,) = sdp.parse(HEAD + STKM + VIDEO + lines).media
    assert why in video.not_opened and bool(why) == bool(video.not_opened)


@pytest.mark.parametrize(("name", "senders", "times"), [
    ("news-source-filter-other-host", SourceFilter("incl", ("192.0.2.99",)), ((0, 0),)),
    ("news-two-times", None, ((3981715800, 3981716400), (4005000000, 4006000000))),
])  # fmt: skip
def test_descriptions_of_others(name: str, senders: SourceFilter | None, times: tuple[tuple[int, int], ...]) -> None:
    d = sdp.parse((CASES_OF_OTHERS / f"{name}.sdp").read_bytes())
    assert d.times == times and d.ltkm is not None and d.carousel is not None
    assert {where.senders for where in (*d.stkm, d.ltkm, d.carousel, *d.media)} == {senders}
    assert d.ignored == ()
    assert sdp.parse(sdp.write(d)) == d


FLUTE: Final = "m=application 4001 FLUTE/UDP 0\n"


def test_a_file_delivery_session_of_another_sender() -> None:
    """Its TSI stands in the session part (TS 26.346 7.3.2)."""
    d = sdp.parse((CASES_OF_OTHERS / "session-tsi.sdp").read_bytes())
    assert d.carousel is not None and d.flute == (d.carousel,)
    assert (d.carousel.address, d.carousel.port, d.carousel.tsi) == ("239.192.1.1", 12345, 3)
    assert d.carousel.senders == SourceFilter("incl", ("192.0.2.1",)) and d.ignored == () and d.other == ()


def test_a_service_whose_tsi_stands_in_the_session_part() -> None:
    text = (CASES_OF_OTHERS / "news-session-tsi.sdp").read_text()
    below = text.replace("a=flute-tsi:1\n", "").replace("FLUTE/UDP 0\n", "FLUTE/UDP 0\na=flute-tsi:1\n")
    assert below != text
    assert sdp.parse(text) == sdp.parse(below) and sdp.parse(text).ignored == sdp.parse(below).ignored == ()


TSI, CHANNEL, CLASS = "a=flute-tsi:3\n", "a=flute-ch:1\n", "a=x-bcast-service-class:urn:oma:bcast:oma_bsc:rifc:1.0\n"
SRTP, PROTECTED, STREAM = "a=SRTPAuthentication:2\na=SRTPROCTxRate:9\n", "a=x-bcast-protection:srtp 5\n", "a=stkmstream:1\n"
ONLY: Final = "a=source-filter: incl IN IP4 * 192.0.2.1\n"


@pytest.mark.parametrize(
    ("session", "media"),
    [
        (TSI, [FLUTE]), (TSI + CHANNEL, [FLUTE]), (CHANNEL, [FLUTE + TSI]), (TSI + CLASS, [FLUTE]), (CLASS, [FLUTE + TSI]),
        (PROTECTED, [STKM, STKM.replace("5000", "5001").replace("d=1", "d=2")]), ("a=x-bcast-service:urn:one\n", [STKM]),
        (SRTP, [VIDEO]), (SRTP.partition("\n")[0] + "\n", [VIDEO, VIDEO.replace("6000", "6002")]),
        (STREAM, [VIDEO.replace(STREAM, ""), VIDEO.replace(STREAM, "").replace("video 6000", "audio 6002")]),
        (ONLY, [STKM, VIDEO, FLUTE + TSI]),
    ],
)  # fmt: skip
def test_an_attribute_of_media_holds_for_all_where_it_stands_in_the_session_part(session: str, media: list[str]) -> None:
    """The same as below each m=: nothing is lost, nothing is left over."""
    others = STKM if "m=video" in media[0] else ""
    once, each = sdp.parse(HEAD + session + "".join(media) + others), sdp.parse(HEAD + "".join(m + session for m in media) + others)
    assert replace(once, service="") == replace(each, service="")
    assert (once.other, once.ignored) == ((), ())
    assert sdp.parse(sdp.write(once)) == once


def test_what_stands_below_an_m_line_holds_in_place_of_what_the_session_part_says() -> None:
    text = HEAD + "a=flute-tsi:3\na=SRTPAuthentication:2\n"
    media = FLUTE + FLUTE.replace("4001", "4003") + "a=flute-tsi:4\n" + VIDEO + VIDEO.replace("SAVP", "AVP") + STKM
    d = sdp.parse(text + media)
    assert [session.tsi for session in d.flute] == [3, 4]
    assert [medium.SRTPAuthentication for medium in d.media] == [2, None], "the second is no SRTP"
    assert ignored(HEAD + "a=flute-tsi:3\n" + STKM) == ["line 6, a=flute-tsi: about no m= here, or each has one of its own"]
    assert refused(HEAD + "a=flute-tsi:x\n" + FLUTE, BadValue).field == "line[6].a.flute-tsi"
    assert refused(HEAD + "a=flute-tsi:3\na=flute-tsi:4\n" + FLUTE, BadValue).field == "line[7].a.flute-tsi"
    assert refused(HEAD + "a=flute-ch:x\na=flute-tsi:3\n" + FLUTE, BadValue).field == "line[6].a.flute-ch"
    d = sdp.parse(HEAD + "a=flute-ch:2\na=flute-tsi:3\n" + FLUTE + STKM)
    assert d.flute == () and len(d.stkm) == 1 and "not supported: line[6].a.flute-ch, expected one channel" in d.ignored[0].why


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n", lambda text: text + "\r\n", lambda text: text + "\n\n\n", lambda text: text + "  \n",
        lambda text: text + "\t", lambda text: text.replace("\n", "\r\n") + "\r\n", lambda text: "\n" + text,
        lambda text: text.replace("m=", "\nm="), lambda text: text.rstrip("\n"), lambda text: "\N{BOM}" + text,
        lambda text: text.rstrip("\n") + "\r",
    ],
)  # fmt: skip
def test_blank_lines_say_nothing(change: Callable[[str], str]) -> None:
    assert sdp.parse(change(TEXT)) == sdp.parse(TEXT)
    broken = change(TEXT).replace("t=0 0", "t=0 x")
    error = refused(broken, BadValue)
    assert error.offset == broken.encode().index(b"t=0 x"), "and lines and offsets are those of the file"
    assert error.field == f"line[{broken[: broken.index('t=0 x')].count(chr(10)) + 1}].t"
    assert refused("\n \n\r\n", Truncated).offset == 0


# --- properties -----------------------------------------------------------------------------------------------------------

ADDRESSES: Final = st.sampled_from(["239.1.1.1", "192.0.2.7", "ff1e::1", "headend.example"])
PORTS: Final = st.integers(1, 65535)
IDS: Final = st.integers(1, 65535)
WORDS: Final = st.text(st.sampled_from("abcXYZ0189:/@.-"), min_size=1, max_size=12)
URIS: Final = WORDS.map(lambda word: f"urn:{word}")
NAMES: Final = st.text(st.sampled_from("abcxyz"), min_size=1, max_size=6)
OTHER: Final = st.lists(NAMES.map(lambda name: f"x-{name}:value of {name}"), max_size=2).map(tuple)
PARAMETERS: Final = st.lists(st.tuples(NAMES, st.none() | WORDS), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)


def senders(address: str) -> st.SearchStrategy[SourceFilter | None]:
    own = ["2001:db8::1", "fe80::9"] if ":" in address else ["192.0.2.1", "10.0.0.9"]
    sources = st.lists(st.sampled_from([*own, "headend.example"]), min_size=1, max_size=3, unique=True).map(tuple)
    return st.none() | st.builds(SourceFilter, st.sampled_from(["incl", "excl"]), sources)


WHERE: Final[st.SearchStrategy[dict[str, Any]]] = ADDRESSES.flatmap(
    lambda address: st.fixed_dictionaries({
        "address": st.just(address), "port": PORTS, "ttl": st.none() if ":" in address else st.none() | st.integers(0, 255),
        "senders": senders(address),
    })
)  # fmt: skip


@st.composite
def stkm_streams(draw: st.DrawFn) -> sdp.StkmStream:
    where = draw(WHERE)
    protocol = draw(st.none() | st.sampled_from([Protocol.IPSEC, Protocol.SRTP, Protocol.ISMACRYP]))
    common: dict[str, Any] = {
        "streamid": draw(IDS), "service": draw(st.just("urn:default") | URIS), "protocol": protocol,
        "lifetime": None if protocol is None else draw(st.integers(0, 15)), "other": draw(OTHER),
        "parameters": draw(PARAMETERS),
    }  # fmt: skip
    if draw(st.booleans()):
        return sdp.StkmStream(**where, **common, kms_id=draw(st.just("") | WORDS))
    return sdp.StkmStream(
        **where, **common, kmstype=draw(st.sampled_from(sdp.KMSTYPE_NAMES)), serviceprovider=draw(st.just("") | WORDS),
        baseCID=draw(st.just("") | WORDS), srvCIDExt=draw(st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple)),
        prgCIDExt=draw(st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple)),
        srvKEYList=draw(st.lists(st.binary(min_size=5, max_size=5), max_size=3).map(tuple)),
        prgKEYList=draw(st.lists(st.binary(min_size=7, max_size=7), max_size=3).map(tuple)),
    )  # fmt: skip


@st.composite
def descriptions(draw: st.DrawFn) -> sdp.Description:
    flute = st.builds(
        lambda where, **rest: sdp.FluteSession(**where, **rest), WHERE, tsi=st.integers(0, 2**48 - 1),
        service_class=st.sampled_from(["", sdp.SERVICE_CLASS]), other=OTHER,
    )  # fmt: skip
    ismacryp = st.builds(
        sdp.Ismacryp, iv_length=st.integers(0, 8), delta_iv_length=st.integers(0, 2), selective_encryption=st.booleans(),
        key_indicator_length=st.integers(0, 255), salt=st.sampled_from(["", "c2FsdA=="]),
    )  # fmt: skip
    fmtp = st.tuples(st.sampled_from(["96", "97"]), st.builds(lambda a, b: (*a, *b.parameters()), PARAMETERS, ismacryp))
    media = st.builds(
        lambda where, **rest: sdp.Media(**where, **rest), WHERE, kind=st.sampled_from(["video", "audio"]),
        proto=st.sampled_from(["RTP/SAVP", "RTP/AVP", "UDP"]), formats=st.lists(NAMES, min_size=1, max_size=2).map(tuple),
        stkmstreams=st.lists(IDS, max_size=2, unique=True).map(tuple), SRTPAuthentication=st.none() | st.integers(0, 255),
        SRTPROCTxRate=st.none() | st.integers(1, 65535), fmtp=st.lists(fmtp, max_size=2).map(tuple), other=OTHER,
    )  # fmt: skip
    return sdp.Description(
        name=draw(WORDS), service="urn:default", origin=(draw(st.integers(0, 2**63)), draw(st.integers(0, 9)), draw(ADDRESSES)),
        times=draw(st.lists(st.tuples(st.integers(0, 2**33), st.just(0) | st.integers(2**33, 2**34)), min_size=1).map(tuple)),
        version=draw(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9))),
        cycle=draw(st.none() | st.integers(1, 3600 * 1000).map(lambda n: n / 1000)), interaction=draw(st.just("") | URIS),
        stkm=draw(st.lists(stkm_streams(), max_size=3).map(tuple)), ltkm=draw(st.none() | WHERE.map(lambda w: sdp.Endpoint(**w))),
        flute=draw(st.lists(flute, max_size=2).map(tuple)), media=draw(st.lists(media, max_size=3).map(tuple)), other=draw(OTHER),
    )  # fmt: skip


@given(descriptions())
def test_round_trip(description: sdp.Description) -> None:
    text = sdp.write(description)
    assert sdp.parse(text) == description
    assert sdp.write(sdp.parse(text)) == text


def check(data: bytes) -> None:
    try:
        d = sdp.parse(data)
    except WireError as error:
        assert error.offset is not None
        assert 0 <= error.offset <= len(data)
    else:
        try:
            assert sdp.parse(sdp.write(d)) == d, data
        except BadLength:
            assert len(data) > sdp.MAX_TEXT // 2  # the normal form says at each media what was said once


def test_mutated_octets() -> None:
    rng = random.Random("sdp")
    for _ in range(2_000):
        data = TEXT.encode()
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            data = mutate(data, rng)
        check(data)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(b"v=0\no=- 0 0 IN IP4 0.0.0.0\ns=\nt=0 0\n")
def test_any_octets(data: bytes) -> None:
    check(data)


def test_swapped_lines() -> None:
    rng = random.Random("lines")
    lines = TEXT.splitlines()
    for _ in range(1_000):
        some = list(lines)
        i, j = rng.randrange(len(some)), rng.randrange(len(some))
        some[i] = some[j] if rng.random() < 0.5 else some[i] + some[j]
        check("\n".join(some).encode())
