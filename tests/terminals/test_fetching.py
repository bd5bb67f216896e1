# SPDX-License-Identifier: Apache-2.0
"""A terminal's questions on the interaction channel: none for a service whose time (t=) is not now."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, NoReturn

import pytest

from pybcast.errors import TransportError
from pybcast.flows import Terminal, Tuning
from pybcast.https.contexts import Context
from pybcast.servers.roles import SystemClock
from pybcast.terminals import fetching
from pybcast.terminals.fetching import Fetcher

LIMIT: Final = 20.0  # seconds until a test gives up
LOOKS: Final = 50


def test_nothing_is_asked_for_a_service_that_is_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        asked: asyncio.Queue[str] = asyncio.Queue()
        tuned: set[tuple[str, int]] = set()
        tuning = Tuning("urn:a", 1)
        machine: Terminal = None  # type: ignore[assignment]  # nothing of it is asked before a client is there
        fetcher = Fetcher("https://x", lambda: Context(ssl.PROTOCOL_TLS_CLIENT), machine, SystemClock(), print, 0.0, tuned)

        async def asking() -> NoReturn:
            asked.put_nowait("asked")
            raise TransportError("nobody there")

        monkeypatch.setattr(fetcher, "_asking", asking)
        monkeypatch.setattr(fetching, "LEAST", 0.0)
        tasks = [asyncio.create_task(work) for work in fetcher.works([tuning])]
        for _ in range(LOOKS):
            await asyncio.sleep(0)
        assert asked.empty()
        tuned.add(("urn:a", 1))
        async with asyncio.timeout(LIMIT):
            for _ in range(2):  # LTKMs, and STKMs of the stream
                await asked.get()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
