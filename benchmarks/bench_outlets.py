# SPDX-License-Identifier: Apache-2.0
"""What an outlet does for a packet of media, alone and with the calls of the system: SRTP with MKI; and what a key change costs."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, Final

from pybcast.flows import TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.media import Route
from pybcast.outlets.protect import Protect
from pybcast.outlets.relay import Open
from pybcast.outlets.udp import BURST, Address, Pair, drain, sending
from pybcast.secret import Secret

SIZE: Final = 1200  # bytes of an RTP packet
BATCH: Final = 1000  # packets of a round


def use(number: int) -> UseKey:
    tek = Secret(number.to_bytes(16))
    return UseKey("urn:a", 1, number, Protocol.SRTP, number.to_bytes(6), tek, bytes(14), None, None)


def ready(number: int) -> TekReady:
    key = use(number)
    return TekReady("urn:a", 1, key.mki, key.tek, key.salt, None, 1e10, key.protocol)


def packets(start: int = 0) -> Iterator[bytes]:
    for index in itertools.count(start):
        yield struct.pack(">BBHII", 0x80, 96, index & 0xFFFF, index & 0xFFFFFFFF, 1) + bytes(SIZE - 12)


def bench_protect(benchmark: Any) -> None:
    """1,000 packets."""
    head, source = Protect("urn:a"), packets()
    head.put(use(1))
    done = benchmark(lambda: [head.convert(packet, 0.0) for packet in itertools.islice(source, BATCH)])
    assert None not in done


def bench_open(benchmark: Any) -> None:
    """1,000 packets."""
    head, tail, source = Protect("urn:a"), Open("urn:a"), packets()
    head.put(use(1))
    tail.put(ready(1))

    def protected() -> tuple[tuple[list[bytes]], dict[str, object]]:
        return ([head.convert(packet, 0.0) or b"" for packet in itertools.islice(source, BATCH)],), {}

    done = benchmark.pedantic(lambda these: [tail.convert(packet, 0.0) for packet in these], setup=protected, rounds=50)
    assert None not in done


def bench_route(benchmark: Any) -> None:
    """A burst of 256 packets that wait in a socket: read, protected, sent."""
    head, source = Protect("urn:a"), packets()
    head.put(use(1))
    with ExitStack() as stack:
        came, sink = (stack.enter_context(closing(Pair.bind())) for _ in range(2))
        out = stack.enter_context(closing(sending(Address("127.0.0.1", sink.port))))
        route = Route(head, came, [out], lambda: 0.0)
        encoder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

        def waiting() -> None:
            for packet in itertools.islice(source, BURST):
                encoder.sendto(packet, ("127.0.0.1", came.port))
            for _ in drain(sink.rtp):
                pass

        benchmark.pedantic(route.carry, setup=waiting, rounds=50)
        assert route.lost == 0 and route.sent == head.protected > 0


def bench_key_change(benchmark: Any) -> None:
    """A new key and its first packet, in the 63rd round of the sequence numbers: a new session that starts there (R39)."""
    head, source, numbers = Protect("urn:a"), packets(63 << 16), itertools.count(1)
    head.resume({1: (63 << 16) - 1})

    def change() -> bytes | None:
        head.put(use(next(numbers)))
        return head.convert(next(source), 0.0)

    assert benchmark(change) is not None
