# SPDX-License-Identifier: Apache-2.0
"""BSMs that misbehave, for a BSD/A that is a process: flow machines behind sockets that do what a test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from pybcast.backend import pki, xml
from pybcast.flows import BSM, Send
from pybcast.flows.peers.messages import BackendMessage
from pybcast.flows.stream.config import StreamConfig
from pybcast.flows.tables import Side
from pybcast.https import contexts
from pybcast.wire.times import NTP_UNIX

HEAD: Final = "HTTP/1.1 {} \r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
LATE: Final = 6.0
"""Seconds: more than a client waits for an answer (``backend.ClientLimits.read``)."""


def http(body: bytes, code: int = 200, kind: str = "application/xml") -> bytes:
    return HEAD.format(code, kind, len(body)).encode() + body


def _answer(message: BackendMessage, answer: BackendMessage, mode: str) -> bytes | None:
    """What goes out instead of an answer; ``None``: nothing."""
    body = xml.encode(answer, _now())
    good = http(body)
    match mode:
        case "silent" | "hangs up":
            return None
        case "not HTTP":
            return b"220 mail.example.com ESMTP\r\n" * 3
        case "not XML":
            return http(b"<html><p>It works!</html>" * 20)
        case "another type":
            return http(b"{}", kind="application/json")
        case "HTTP 500":
            return http(b"", 500)
        case "HTTP 404":
            return http(b"", 404)
        case "huge":
            return http(body[:-20] + b" " * (3 << 20) + body[-20:])
        case "wrong messageID":
            return http(body.replace(message.message_id.encode(), b"0" * 32))
        case "wrong tag":
            return http(body.replace(f'tag="{int(answer.tag)}"'.encode(), b'tag="4"'))
        case "twice":
            return good + good
        case _:
            return good


def _now() -> float:
    return time.time() + NTP_UNIX


class Misbehaving:
    """One BSM: answers as a BSM does, and lets it out as ``mode`` says.

    ``folder``: of certificates: its own under ``name``, and those of ``impostors`` (mode -> folder, name).
    """

    def __init__(
        self, folder: Path, name: str, stream: StreamConfig, port: int, impostors: Mapping[str, tuple[Path, str]] | None = None
    ) -> None:
        self.mode, self.port, me = "good", port, f"urn:example:{name}"
        self._machine = BSM(me=me, fqdn="bsm.example.com", streams=[stream], randomness=SystemRandom().randbytes)
        ours = pki.files_of(folder, name)
        self._contexts = {"good": contexts.server_context(ours)}
        for mode, (other, called) in (impostors or {}).items():
            self._contexts[mode] = contexts.server_context(replace(pki.files_of(other, called), authority=ours.authority))
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def become(self, mode: str) -> None:
        """From now on; connections that are open end, except that one who is good again leaves them as they are."""
        self.mode = mode
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in list(self._open) if mode != "good" else ():
            writer.transport.abort()
        if mode != "down":
            tls = None if mode == "half-open TCP" else self._contexts.get(mode, self._contexts["good"])
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls, limit=1 << 21)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                if self.mode == "half-open TCP":
                    await reader.read()  # takes everything, and never says a word
                    return
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                await self._reply(body, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _reply(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        mode, message = self.mode, xml.decode(body, Side.BSM, _now())
        answer = None
        for _ in range(2 if mode == "asked twice" else 1):
            outputs = self._machine.receive(message, _now(), message.source)
            answer = next(o.message for o in outputs if isinstance(o, Send) and o.message.message_id == message.message_id)
        assert answer is not None
        out = _answer(message, answer, mode)
        if mode == "late":
            await asyncio.sleep(LATE)
        if mode == "dribbles":
            for byte in out or b"":
                if writer.transport.is_closing():
                    return
                writer.write(bytes([byte]))
                await asyncio.sleep(1.0)
        elif out is not None:
            writer.write(out)
            await writer.drain()
        if mode in ("hangs up", "not HTTP"):
            writer.close()


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, what: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def close(self) -> None:
        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
