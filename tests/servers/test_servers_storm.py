# SPDX-License-Identifier: Apache-2.0
"""Broken requests, thousands of them over one connection, for a running BSM: each is refused as the table says, and nothing else
happens.

``PYBCAST_LONG=1``: 10,000 of them, of another kind each time.
"""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest
from backend_support import message, mutated, partial, stkm
from servers_support import BSDA_ID, BSM_ID, System

from pybcast.backend import pki, xml
from pybcast.backend.server import PATH
from pybcast.flows.peers.messages import ALL_SERVICES
from pybcast.flows.tables import Tag
from pybcast.https import contexts
from pybcast.wire.times import NTP_UNIX

LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"
REQUESTS: Final = 10_000 if LONG else 2_000
WARM: Final = 500  # requests after which memory is looked at first: code is loaded, pools are filled
GROWTH: Final = 24 << 20
"""Octets that the memory of the BSM may grow by after that: the answers it keeps (R27), a few hundred octets each, and what the
allocator does not give back."""


class Line:
    """One TLS connection with HTTP/1.1 and keep-alive."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))
        self._file = self._tls.makefile("rb")

    def ask(self, body: bytes, *, length: int | None = None) -> tuple[int, bytes]:
        """HTTP status and body of the answer."""
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: {length or len(body)}\r\n\r\n"
        self._tls.sendall(head.encode() + body)
        code, size = int(self._file.readline().split()[1]), 0
        while (line := self._file.readline().lower()) != b"\r\n":
            if line.startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        return code, self._file.read(size)

    def ended(self) -> bool:
        """Whether the other side ends it, within the time in which it must answer."""
        try:
            return self._tls.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._file.close()
        self._tls.close()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("storm"))
    config = made.folder / "bsm.toml"
    config.write_text(config.read_text().replace('level = "debug"', 'level = "info"', 1))
    made.start("bsm")
    yield made
    made.close()


@pytest.fixture
def line(system: System) -> Iterator[Line]:
    made = Line(system.ports["bsm"], contexts.client_context(pki.files_of(system.folder, "bsda")))
    yield made
    made.close()


def _body(tag: Tag, letter: str = "A", **changes: object) -> bytes:
    """A request from the BSD/A about one of the services, of now."""
    now = int(time.time()) + NTP_UNIX
    scope = ALL_SERVICES if tag is Tag.RegRequest else f"urn:example:service:{letter}"
    of = {"source": BSDA_ID, "destination": BSM_ID, "service": scope, "start": now, "end": now + 10, "time": now}
    return xml.encode(message(tag, **(of | {"message_id": random.randbytes(16).hex()} | changes)), now)


def _status(answer: tuple[int, bytes]) -> int:
    """Of the message, or of HTTP where there is none.  An answer to what has no Profile has none, and is no message to a client."""
    code, body = answer
    found = re.search(rb' status="(\d+)"', body)
    assert (code == 200) == (found is not None)
    return code if found is None else int(found[1])


KEY: Final = _body(Tag.KeyRequest, "B")
TEK: Final = _body(Tag.TEKDelivery)
BOMB: Final = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    f'<!ENTITY {chr(n + 1)} "{f"&{chr(n)};" * 10}">'.encode() for n in range(97, 107)
) + b"]>"  # fmt: skip
SPECIAL: Final = {
    "a document type": (b"<!DOCTYPE KeyRequest>" + KEY, 400),
    "an entity bomb": (BOMB + KEY.replace(b"smartcard", b"&k;"), 400),
    "an external entity": (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + KEY.replace(b"smartcard", b"&x;"), 400),
    "an entity nobody defined": (KEY.replace(b"smartcard", b"&x;"), 400),
    "deep nesting": (b"<a>" * 300_000, 8),
    "deep nesting inside": (KEY.replace(b"<Profile>", b"<Profile>" * 5000), 8),
    "10 MiB": (b"<a>" * 3_500_000, 413),
    "nothing": (b"", 400),
    "half": (KEY[: len(KEY) // 2], 400),
    "not UTF-8": (KEY.replace(b"smartcard", b"\xff\xfe"), 400),
    "a NUL": (KEY.replace(b"smartcard", b"\0"), 400),
    "another namespace": (KEY.replace(b"spcp:backend:1.0", b"spcp:backend:2.0"), 8),
    "another root": (KEY.replace(b"KeyRequest", b"KeyDemand"), 8),
    "a missing element": (KEY.replace(b"<Profile>smartcard</Profile>", b""), 8),
    "a repeated element": (KEY.replace(b"<Profile>smartcard</Profile>", b"<Profile>smartcard</Profile>" * 2), 8),
    "a missing attribute": (KEY.replace(f' source="{BSDA_ID}"'.encode(), b""), 8),
    "an attribute too many": (KEY.replace(b" source=", b' colour="red" source='), 8),
    "hex of odd length": (TEK.replace(b"</PartialSTKM>", b"0</PartialSTKM>", 1), 8),
    "no hex": (TEK.replace(b"</PartialSTKM>", b"zz</PartialSTKM>", 1), 8),
    "a number too large": (KEY.replace(b' time="', b' time="99999999999'), 8),
    "the wrong way": (_body(Tag.STKMDeliveryConfirmation, status=0), 21),
    "another's tag": (KEY.replace(b' tag="1"', b' tag="7"'), 21),
    "another version": (KEY.replace(b' version="1"', b' version="9"'), 12),
    "another destination": (_body(Tag.KeyRequest, "B", destination="urn:example:nobody"), 23),
    "another source": (_body(Tag.KeyRequest, "B", source="urn:example:nobody"), 11),
    "another service": (_body(Tag.KeyRequest, "Z"), 11),
    "a stream of nobody": (_body(Tag.KeyRequest, "B", stream=77), 22),
    "keys where there are none": (_body(Tag.KeyRequest, "A"), 22),
    "partials where there are none": (_body(Tag.TEKDelivery, "B", items=(partial(),)), 22),
    "a STKM of nobody": (_body(Tag.STKMDelivery, "B", items=(stkm(),)), 22),
}
"""Name -> body, status: of HTTP from 400 on."""


@pytest.mark.parametrize("name", SPECIAL)
def test_each_has_its_status(system: System, line: Line, name: str) -> None:
    body, status = SPECIAL[name]
    try:
        found = _status(line.ask(body))
    except OSError:  # the server hung up on what it was not going to read
        assert status == 413
        return
    assert found == status
    if status != 413:
        assert _status(line.ask(_body(Tag.KeyRequest, "B"))) in (0, 19), "and the connection lives on"


def test_thousands_of_mutated_requests(system: System, line: Line) -> None:
    """No 5xx, no traceback, memory flat; and it serves on."""
    seed = int.from_bytes(os.urandom(4), "big") if LONG else 20
    print(f"seed {seed}")
    rng, counts, bsm = random.Random(seed), Counter[int](), system.running["bsm"]
    tags = (Tag.TEKDelivery, Tag.KeyRequest, Tag.LTKMRequest, Tag.STKMDelivery, Tag.STKMRequest, Tag.RegRequest)
    resident = 0
    for number in range(REQUESTS):
        if number == WARM:
            resident = bsm.resident()
        sent = mutated(rng, _body(rng.choice(tags), rng.choice("AB")))
        code, answer = line.ask(sent)
        counts[code] += 1
        assert code in (200, 400) and (code == 200) == bool(answer), sent
    assert counts[200] > REQUESTS / 10 and counts[400] > REQUESTS / 10
    assert bsm.resident() - resident < GROWTH
    figures = bsm.metrics()
    refused = {
        name: value for name, value in figures.items() if name.startswith("pybcast_exchanges_total") and 'role="server"' in name
    }
    assert not [name for name in refused if 'http="5' in name] and sum(refused.values()) >= REQUESTS
    assert _status(line.ask(_body(Tag.KeyRequest, "B"))) in (0, 19)
    assert system.stop() == {"bsm": 0}
    system.past[0].check()
