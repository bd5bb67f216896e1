# SPDX-License-Identifier: Apache-2.0
"""What the back-end interface costs: XML of a message of 10 STKMs, and a whole exchange over mutual TLS on loopback.

In ``bench_exchange`` client and server share one process and one core; a round is 100 exchanges, 8 at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from pybcast.backend import Client, Peer, Peers, Server, decode, encode, pki
from pybcast.flows import BackendMessage, PartialItem, StkmItem, Tag
from pybcast.flows.tables import Side
from pybcast.https.contexts import client_context, server_context
from pybcast.secret import Secret

NOW: Final = 3_990_000_000.0
SERVICE, BSM, BSDA = "urn:example:service", "urn:example:bsm", "urn:example:bsda"
EXCHANGES: Final = 100


class Benchmark(Protocol):
    """The fixture of pytest-benchmark: runs a call many times and gives its result."""

    group: str | None

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


def deliveries() -> Iterator[BackendMessage]:
    """TEKDeliveries of 10 partial STKMs, each with a messageID of its own."""
    chance = random.Random(1)
    times = [(int(NOW) + n, int(NOW) + n + 1) for n in range(10)]
    items = tuple(
        PartialItem(stream=1, period_start=a, period_end=b, tek_id=f"{a:08x}", content=Secret(chance.randbytes(150)))
        for a, b in times
    )
    while True:
        yield BackendMessage(
            tag=Tag.TEKDelivery, message_id=chance.randbytes(16).hex(), source=BSDA, destination=BSM, service=SERVICE,
            profile="smartcard", stream=1, time=int(NOW), items=items,
        )  # fmt: skip


def confirm(message: BackendMessage) -> BackendMessage:
    sealed = tuple(
        StkmItem(stream=1, period_start=i.period_start, period_end=i.period_end, tek_id=i.tek_id, content=bytes(range(130)))
        for i in message.items
        if isinstance(i, PartialItem)
    )
    return message.answer(0, sealed, now=NOW)


@pytest.mark.parametrize("tag", [Tag.TEKDelivery, Tag.TEKDeliveryConfirmation], ids=lambda tag: tag.name)
@pytest.mark.parametrize("op", ["encode", "decode"])
def bench_xml(benchmark: Benchmark, tag: Tag, op: str) -> None:
    message = next(deliveries())
    side = Side.BSM
    if tag is Tag.TEKDeliveryConfirmation:
        message, side = confirm(message), Side.BSDA
    benchmark.group = f"xml {op}"
    body = encode(message, NOW)
    if op == "encode":
        assert benchmark(encode, message, NOW) == body
    else:
        assert benchmark(decode, body, side, NOW) == message


def bench_exchange(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.group = f"{EXCHANGES} exchanges over TLS"
    pki.init(tmp_path, {"bsm": BSM, "bsda": BSDA})
    messages = deliveries()

    async def handler(message: BackendMessage, peer: str) -> BackendMessage:
        return confirm(message)

    async def start() -> tuple[Server, Client]:
        server = Server(me=BSM, side=Side.BSM, peers=Peers([Peer(id=BSDA, services={SERVICE})]), handler=handler, clock=lambda: NOW)
        await server.start("127.0.0.1", 0, server_context(pki.files_of(tmp_path, "bsm")))
        peers = Peers([Peer(id=BSM, services={SERVICE}, url=f"https://127.0.0.1:{server.port}")])
        context = client_context(pki.files_of(tmp_path, "bsda"))
        return server, Client(me=BSDA, side=Side.BSDA, peers=peers, context=context, clock=lambda: NOW)

    async def run(client: Client) -> int:
        left = iter(range(EXCHANGES))

        async def worker() -> int:
            return sum([(await client.send(next(messages))).status == 0 for _ in left])

        return sum(await asyncio.gather(*(worker() for _ in range(8))))

    with asyncio.Runner() as runner:
        server, client = runner.run(start())
        assert benchmark(lambda: runner.run(run(client))) == EXCHANGES
        runner.run(client.close())
        runner.run(server.stop())
