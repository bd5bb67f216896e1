# SPDX-License-Identifier: Apache-2.0
"""How a TLS connection is ended at once."""

from __future__ import annotations

import asyncio
import contextlib


def cut(transport: asyncio.BaseTransport | None) -> None:
    """End a connection now, without TLS's own end; nothing happens where there is none, or where it is lost already."""
    if isinstance(transport, asyncio.WriteTransport):
        with contextlib.suppress(AttributeError):  # Python 3.11.2 (Debian 12) knows no abort() of a connection that is lost
            transport.abort()
