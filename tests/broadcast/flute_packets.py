# SPDX-License-Identifier: Apache-2.0
"""Packets of FLUTE sessions, true and forged: what the tests of the carousel's receiving side send."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pybcast.broadcast import alc
from pybcast.broadcast.segments import Encoder

TSI: Final = 7
VECTORS: Final[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "flute.json").read_text())
XML: Final = (
    '<FDT-Instance xmlns="urn:IETF:metadata:2005:FLUTE:FDT" Expires="4100000000" FEC-OTI-FEC-Encoding-ID="0"'
    ' FEC-OTI-Maximum-Source-Block-Length="64" FEC-OTI-Encoding-Symbol-Length="100">'
    '<File Content-Location="x-bcast:/a/0/1" TOI="5" Transfer-Length="300" Content-MD5="AAAAAAAAAAAAAAAAAAAAAA=="/></FDT-Instance>'
)


def messages(count: int, seed: int = 1, size: int = 230) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(size // 2, size)) for _ in range(count)]


def turn(encoder: Encoder, named: dict[str, Sequence[bytes]], version: int = 1) -> list[bytes]:
    """The datagrams of one turn."""
    return [d for name, content in named.items() for d in encoder.encode(name, version, content)]


def checked(data: bytes) -> bytes:
    """The same packet with our checksum."""
    end = 4 * data[2]
    head = data[:2] + bytes((data[2] + 2,)) + data[3:end] + bytes((126, 2, 0, 0))
    return head + zlib.crc32(data[end:], zlib.crc32(head)).to_bytes(4) + data[end:]


def packet(toi: int, payload: bytes, *, sbn: int = 0, esi: int = 0, fec: int = alc.NO_CODE, extensions: bytes = b"") -> bytes:
    """One packet with our checksum, which anyone can compute."""
    head = bytes((0x10, 0xA0, 4 + len(extensions) // 4, fec)) + bytes(4) + TSI.to_bytes(4) + toi.to_bytes(4)
    return checked(head + extensions + (sbn << (16 if fec == alc.NO_CODE else 8) | esi).to_bytes(4) + payload)


def description(xml: str, fdt_id: int = 1) -> bytes:
    """A description in one packet."""
    data = gzip.compress(xml.encode(), mtime=0)
    assert len(data) < 1_900
    return packet(0, data, extensions=_extensions(fdt_id, 3, len(data)))


def half(fdt_id: int, length: int = 3_000) -> bytes:
    """The first packet of a description of several."""
    return packet(0, bytes(1_000), extensions=_extensions(fdt_id, 0, length, 1_000))


def _extensions(fdt_id: int, encoding: int, length: int, symbol: int = 2_000) -> bytes:
    fti = bytes((64, 4)) + length.to_bytes(6) + bytes(2) + symbol.to_bytes(2) + (64).to_bytes(4)
    return (192 << 24 | 2 << 20 | fdt_id & 0xFFFFF).to_bytes(4) + bytes((193, encoding, 0, 0)) + fti


def one_file(toi: int, length: int, symbol: int = 100, block: int = 64, where: str = "", md5: str = "") -> str:
    """A description of one object."""
    return (
        XML.replace('TOI="5"', f'TOI="{toi}"').replace('Transfer-Length="300"', f'Transfer-Length="{length}"')
        .replace('Symbol-Length="100"', f'Symbol-Length="{symbol}"').replace('Block-Length="64"', f'Block-Length="{block}"')
        .replace("x-bcast:/a/0/1", where or f"x-bcast:/{toi}/0/1")
        .replace(' Content-MD5="AAAAAAAAAAAAAAAAAAAAAA=="', f' Content-MD5="{md5}"' if md5 else "")
    )  # fmt: skip


def files(entries: str, more: str = "") -> str:
    """A description with these entries."""
    return XML[: XML.index("<File")] + entries + more + "</FDT-Instance>"
