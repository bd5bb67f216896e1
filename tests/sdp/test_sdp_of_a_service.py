# SPDX-License-Identifier: Apache-2.0
"""The session description of a configured service, as an operator asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from pybcast import sdp
from pybcast.cli import main
from pybcast.messages import Protocol
from pybcast.servers import config
from pybcast.servers.description import MediaAt, described

TOML: Final = """
[server]
role = "bsda"
id = "urn:example:bsda"
listen = "127.0.0.1:1"
database = "bsda.db"
kek = "file:kek"
plain_loopback = true

[air]
carousel = "carousel.sock"
ltkm = "239.192.0.9:4359"
flute = "239.192.0.9:4001"
tsi = 7
ttl = 3

[[peers]]
id = "urn:example:bsm"
url = "http://127.0.0.1:2"

[[services]]
id = "urn:example:news"
profiles = ["drm", "smartcard"]
period = 2
key_period = 20
carousel_cycle = 1.5
socID = "soc.example"
serviceBaseCID = "cid-news"
key_domain_id = "12f410"
key_group = 258
stkm = "239.192.0.1:4380"

[[services]]
id = "urn:example:news"
stream = 2
profiles = ["smartcard"]
protocol = "ipsec"
period = 2
key_period = 20
carousel_cycle = 1.0
key_domain_id = "12f410"
key_group = 259
stkm = "127.0.0.1:4390"

[[services]]
id = "urn:example:nowhere"
profiles = ["smartcard"]
period = 2
key_period = 20
carousel_cycle = 1.0
key_domain_id = "12f410"
key_group = 260
"""
MEDIA: Final = ["--media", "239.192.0.2:6000/H264", "--media", "[ff15::1]:6002/opus"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bsda.toml"
    path.write_text(TOML)
    return path


def test_with_the_server_down(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["bsda", "sdp", str(path), "urn:example:news", "--stream", "1", "--interaction", "https://bsm.example:4443/bcast"]
    assert main([*asked, *MEDIA]) == 0
    out, err = capsys.readouterr()
    assert "is it running?" in err
    d = sdp.parse(out)
    assert (d.service, d.cycle, d.interaction) == ("urn:example:news", 1.5, "https://bsm.example:4443/bcast")
    drm, card = d.stkm
    assert (drm.profile, drm.address, drm.port, drm.ttl, drm.streamid) == ("drm", "239.192.0.1", 4380, 3, 1)
    assert (drm.serviceprovider, drm.baseCID, drm.srvCIDExt) == ("soc.example", "cid-news", ())
    assert (card.profile, card.port, card.streamid, card.srvKEYList) == ("smartcard", 4381, 1, (bytes.fromhex("12f4100102"),))
    assert d.ltkm == sdp.Endpoint(address="239.192.0.9", port=4359, ttl=3)
    assert d.carousel is not None
    assert (d.carousel.port, d.carousel.tsi) == (4001, 7)
    video, audio = d.media
    assert (video.proto, video.stkmstreams, video.other) == ("RTP/SAVP", (1,), ("rtpmap:96 H264/90000",))
    assert (audio.address, audio.ttl, audio.kind) == ("ff15::1", None, "audio")
    (tuning,) = d.tunings("smartcard")
    assert (tuning.service, tuning.stream, tuning.protocol, tuning.lifetime) == ("urn:example:news", 1, Protocol.SRTP, 3)


def test_with_what_a_running_server_knows(path: Path) -> None:
    facts = [
        {"stream": 1, "profile": "drm", "srvCIDExt": ["00000001", "00000002"]},
        {"stream": 1, "profile": "smartcard", "srvKEYList": ["12f4100102"]},
    ]
    d = described(config.load(path), "urn:example:news", facts=facts, now=3_900_000_000)
    assert d.stkm[0].srvCIDExt == (1, 2)
    assert d.stkm[1].srvKEYList == (bytes.fromhex("12f4100102"),), "named once"
    assert [s.streamid for s in d.stkm] == [1, 1, 2]
    assert (d.cycle, d.origin[1]) == (1.0, 3_900_000_000)
    assert sdp.parse(sdp.write(d)) == d


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["urn:example:other"], "no such service"), (["urn:example:news", "--stream", "9"], "no such service or stream"),
        (["urn:example:nowhere"], "stkm is missing"), (["urn:example:news", *MEDIA], "different protocols"),
        (["urn:example:news", "--stream", "1", "--media", "239.1.1.1:6000/H2"], "expected ADDRESS:PORT/KIND"),
        (["urn:example:news", "--stream", "1", "--media", "239.1.1.1/H264"], "expected ADDRESS:PORT/KIND"),
        (["urn:example:news", "--stream", "1", "--media", "239.1.1.1:0/H264"], "expected ADDRESS:PORT/KIND"),
    ],
)  # fmt: skip
def test_what_cannot_be_described(path: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bsda", "sdp", str(path), *arguments]) == 2
    assert why in capsys.readouterr().err


def test_media_are_named_as_documented() -> None:
    assert MediaAt.read("239.1.1.1:6000/MP2T") == MediaAt("239.1.1.1", 6000, "MP2T")
