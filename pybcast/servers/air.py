# SPDX-License-Identifier: Apache-2.0
"""Where a BSD/A's outputs to the air and to encoders go.

A sink takes ``Announce``, ``OffAir``, ``UseKey``, ``StopTraffic``, ``CarouselPut`` and ``CarouselDrop``, and reports when the first
datagram of an announced period has left (``BSDA.announced``): R6 and R40 count from there.  It is told everything anew after a
restart.  The sender of broadcast datagrams is one; those here count, and write down: ids, lengths and digests of what goes on air,
the bytes themselves where that is wanted, of keys the lengths.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from pybcast.errors import ConfigError
from pybcast.flows.events import Announce, CarouselDrop, CarouselPut, OffAir, StopTraffic, UseKey
from pybcast.servers.runner import AirOutput

LOG: Final = logging.getLogger("pybcast.air")
Announced = Callable[[str, int, int], None]
"""(service, stream, start of the period): its first STKM has left."""


class Air(Protocol):
    """A sink.  ``put`` must not block; what it raises stops the server."""

    def put(self, output: AirOutput, announced: Announced) -> None: ...
    def close(self) -> None: ...


class CountingAir:
    """Counts, and takes everything as sent."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def put(self, output: AirOutput, announced: Announced) -> None:
        self.counts[type(output).__name__] += 1
        if isinstance(output, Announce):
            announced(output.service, output.stream, output.start)

    def close(self) -> None:
        """Nothing to let go of."""


class JsonLinesAir(CountingAir):
    """Writes one JSON object a line, flushed: to a file that is appended to, or (``-``) to standard output.

    ``content``: with the STKMs and carousel objects in hexadecimal, as every terminal may hear them.
    A reader that went away or a full disk is logged once and does not stop the server: this is a record, not the air.
    """

    def __init__(self, where: str, *, content: bool = False) -> None:
        super().__init__()
        self._content = content
        try:
            self._file: TextIO | None = sys.stdout if where == "-" else Path(where).open("a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"air.events: {where}: {error.strerror}") from None

    def put(self, output: AirOutput, announced: Announced) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(described(output, content=self._content)) + "\n")
                self._file.flush()
            except OSError as error:
                LOG.error("events are no longer written: %s", error.strerror)
                self._file = None
        super().put(output, announced)

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdout:
            self._file.close()
        self._file = None


def described(output: AirOutput, *, content: bool = False) -> dict[str, Any]:
    """What may be said of an output: no byte of a key, and of what goes on air a digest; with ``content`` the bytes too."""
    said: dict[str, Any] = {"event": type(output).__name__}
    match output:
        case Announce():
            stkms: list[dict[str, Any]] = [
                {"profile": s.profile, "octets": len(s.data), "sha256": hashlib.sha256(s.data).hexdigest()[:32]}
                | ({"data": s.data.hex()} if content else {})
                for s in output.stkms
            ]
            said |= {
                "service": output.service, "stream": output.stream, "start": output.start, "repetition": output.repetition,
                "stkms": stkms,
            }  # fmt: skip
        case OffAir():
            said |= {"service": output.service, "stream": output.stream, "start": output.start}
        case UseKey():
            said |= {
                "service": output.service, "stream": output.stream, "start": output.start, "protocol": output.protocol.name,
                "mki": output.mki.hex(), "authority_end": output.authority_end, "tek_octets": len(output.tek),
                "salt_octets": len(output.salt or b""), "auth_key_octets": len(output.auth_key or b""),
            }  # fmt: skip
        case StopTraffic():
            said |= {"service": output.service, "stream": output.stream}
        case CarouselPut():
            said |= {"object": output.object_id, "service": output.service, "octets": [len(data) for data in output.data]}
            said |= {"data": [data.hex() for data in output.data]} if content else {}
        case CarouselDrop():
            said |= {"object": output.object_id}
    return said
