# SPDX-License-Identifier: Apache-2.0
"""Which of the descriptions that a terminal is given can be used: one that cannot costs the others nothing."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Final, cast

import pytest

from pybcast.errors import ConfigError
from pybcast.sdp import Description, Endpoint, FluteSession, StkmStream
from pybcast.servers.config import ServerConfig
from pybcast.servers.sending import place
from pybcast.servers.toml import Address
from pybcast.sourcefilter import SourceFilter
from pybcast.terminals.described import title, unheard, usable

LOOPBACK: Final = "127.0.0.1"
ONE, TWO = SourceFilter("incl", ("192.0.2.1",)), SourceFilter("incl", ("192.0.2.2",))


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def stream(address: str = LOOPBACK, number: int = 1, service: str = "urn:a", senders: SourceFilter | None = None) -> StkmStream:
    port = free_port() if senders is None else 40_123
    return StkmStream(
        address=address, port=port, streamid=number, kmstype="oma-bcast-drm-pki", service=service, senders=senders
    )  # fmt: skip


def service(name: str, *streams: StkmStream, ltkm: Endpoint | None = None, flute: tuple[FluteSession, ...] = ()) -> Description:
    return Description(name=name, stkm=streams, ltkm=ltkm, flute=flute)


def test_of_a_stream_that_is_described_twice_the_first_counts() -> None:
    first, second, other = service("first", stream()), service("second", stream()), service("other", stream(service="urn:b"))
    inside = service("inside", stream(service="urn:c"), stream(service="urn:c"))
    used, unused = usable([first, second, inside, other], "drm")
    assert used == [first, other]
    assert unused == [
        (second, "urn:a stream 1 is described twice"), (inside, "urn:c stream 1 is described twice"),
    ]  # fmt: skip
    assert usable([first, second], "smartcard") == ([first, second], []), "which have no stream for it"
    assert usable([second, first], "drm")[0] == [second]
    assert usable([service("x", stream(service="")), service("y", stream(service=""))], "drm")[1][0][1].startswith(
        "a service without"
    )
    assert [title(d) for d in (first, Description(name="", service="urn:s"), Description(name=""))] == [
        "first", "urn:s", "a service without a name",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (service("bad", stream("192.0.2.77")), "192.0.2.77:"),
        (service("bad", stream("2001:db8::77")), "[2001:db8::77]:"),
        (service("bad", stream("no.such.host.invalid")), "no.such.host.invalid:"),
        (
            service("bad", stream("239.255.43.1", senders=SourceFilter("incl", ("no.such.host.invalid",)))),
            "no address of this host",
        ),
        (service("bad", stream(service="urn:b"), ltkm=Endpoint(address="192.0.2.77", port=1)), "192.0.2.77:1"),
        (service("bad", stream(service="urn:b"), flute=(FluteSession(address="192.0.2.77", port=1, tsi=1),)), "192.0.2.77:1"),
        (service("bad", stream(senders=TWO)), f"{LOOPBACK}:40123: two descriptions say different senders"),
    ],
)
def test_an_address_that_cannot_be_heard_costs_its_description_only(bad: Description, words: str) -> None:
    good, other = service("good", stream(senders=ONE)), service("other", stream(number=2))
    found = unheard([good, bad, other], "drm", LOOPBACK)
    assert list(found) == [1] and words in found[1]
    assert list(unheard([bad], "drm", LOOPBACK)) == ([] if "different" in words else [0])
    assert unheard([bad], "smartcard", LOOPBACK).keys() <= {0}


def test_senders_of_a_group_are_each_descriptions_own() -> None:
    group = "239.255.43.1"
    assert unheard([service("a", stream(group, senders=ONE)), service("b", stream(group, senders=TWO))], "drm", LOOPBACK) == {}
    assert list(unheard([service("a", stream(senders=ONE), stream(number=2, senders=TWO))], "drm", LOOPBACK)) == [0]


def test_a_sender_refuses_ipv6_in_words() -> None:
    config = cast(ServerConfig, SimpleNamespace(path="bsda.toml"))
    with pytest.raises(ConfigError, match=r"bsda.toml: air.flute: ff15::1: expected an IPv4 address, nothing is sent over IPv6"):
        place(config, "air.flute", Address("ff15::1", 4001))
    assert place(config, "air.flute", Address("239.1.1.1", 4001)) == ("239.1.1.1", 4001)


def test_an_ipv6_group_is_heard_or_told() -> None:
    found = unheard([service("six", stream("ff15::4363"))], "drm", LOOPBACK)
    assert found == {} or found[0].startswith("[ff15::4363]:")
    assert list(unheard([service("six", stream("ff15::4363"))], "drm", "203.0.113.9")) == [0]
