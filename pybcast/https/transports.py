# SPDX-License-Identifier: Apache-2.0
"""What asyncio does not offer for a TLS connection: to end it at once, and to hold less for it."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import sslproto
from typing import Any


def cut(transport: asyncio.BaseTransport | None) -> None:
    """End a connection now, without TLS's own end; nothing happens where there is none, or where it is lost already."""
    if isinstance(transport, asyncio.WriteTransport):
        with contextlib.suppress(AttributeError):  # Python 3.11.2 (Debian 12) knows no abort() of a connection that is lost
            transport.abort()


def hold_less(transport: asyncio.BaseTransport, octets: int) -> None:
    """Read at most so many octets at once, and keep a buffer of no more: asyncio's has 256 KiB.

    Between two reads, from a callback of the connection; nothing happens where the transport is not asyncio's.
    """
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    if isinstance(protocol, sslproto.SSLProtocol) and hasattr(protocol, "_ssl_buffer_view"):
        buffer = bytearray(octets)
        vars(protocol).update(max_size=octets, _ssl_buffer=buffer, _ssl_buffer_view=memoryview(buffer))
