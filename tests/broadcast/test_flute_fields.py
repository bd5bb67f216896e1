# SPDX-License-Identifier: Apache-2.0
"""Packets of FLUTE sessions field by field: every octet has its row, whatever a sender writes, and a fault says where."""

from __future__ import annotations

import random
import struct
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybcast.broadcast import alc, flute_fields
from pybcast.errors import BadLength, BadValue, Truncated, Unsupported, WireError
from pybcast.testing import mutate

PLAIN: Final = bytes.fromhex("10a00500 00000000 00000007 00000003 c0100009 0000 0002") + b"symbols"


def names(data: bytes) -> list[str]:
    return [row.field for row in flute_fields.explain(data).rows]


def test_a_packet_as_alc_reads_it() -> None:
    packet, found = alc.parse(PLAIN), flute_fields.fields(PLAIN)
    assert (
        (found["TSI"], found["TOI"], found["SBN"], found["ESI"]) == (packet.tsi, packet.toi, packet.sbn, packet.esi) == (7, 3, 0, 2)
    )
    assert (found["EXT_FDT"], found["payload"]) == ("100009", packet.payload.hex())
    meanings = {row.field: row.meaning for row in flute_fields.explain(PLAIN).rows}
    assert meanings["EXT_FDT"] == "version 1 of FLUTE, file description 9" and meanings["TOI"] == "object"


@pytest.mark.parametrize(
    ("header", "rest", "fields"),
    [
        # LCT's words: version and flags, sizes of TSI and TOI, then what is named.
        ("10a00600 00000000 00000007 00000003 c1030000 c0200001", "00000000", ["TSI", "TOI", "EXT_CENC", "EXT_FDT", "SBN", "ESI"]),
        ("10a80500 00000000 00000007 00000003 12345678", "00000000", ["TSI", "TOI", "sender_current_time", "SBN", "ESI"]),
        (
            "10ac0600 00000000 00000007 00000003 12345678 00000009", "00000000",
            ["TSI", "TOI", "sender_current_time", "expected_residual_time", "SBN", "ESI"],
        ),
        ("10100300 00000000 0007 0003", "00000000", ["TSI", "TOI", "SBN", "ESI"]),
        ("14a00500 00000000 00000000 00000007 00000003", "00000000", ["TSI", "TOI", "SBN", "ESI"]),
        ("10b00500 00000000 000000000007 000000000003", "00000000", ["TSI", "TOI", "SBN", "ESI"]),
        ("10a00405 00000000 00000007 00000003", "00000102", ["TSI", "TOI", "SBN", "ESI"]),
        ("10a00406 00000000 00000007 00000003", "01000002", ["TSI", "TOI", "SBN", "ESI"]),
        ("10a00481 00000000 00000007 00000003", "00000001 0010 0002", ["TSI", "TOI", "SBN", "source_block_length", "ESI"]),
        ("10a00480 00000000 00000007 00000003", "00000001 00000002", ["TSI", "TOI", "SBN", "ESI"]),
        ("10a00401 00000000 00000007 00000003", "00010002", ["TSI", "TOI", "SBN", "ESI"]),
        ("10a00463 00000000 00000007 00000003", "", ["TSI", "TOI"]),
        ("10a00600 00000000 00000007 00000003 4d020001 00000000", "00000000", ["TSI", "TOI", "extension_77", "SBN", "ESI"]),
        ("10820300 00000000 00000007", "00000000", ["TSI", "SBN", "ESI"]),
    ],
)  # fmt: skip
def test_packets_of_other_senders(header: str, rest: str, fields: list[str]) -> None:
    data = bytes.fromhex(header + rest) + b"x"
    found = flute_fields.explain(data)
    assert found.error is None
    assert [row.field for row in found.rows] == ["V", "flags", "HDR_LEN", "CP", "CCI", *fields, "payload"]
    assert [row.offset for row in found.rows][1:] == [row.offset + row.length for row in found.rows][:-1]
    assert sum(row.length for row in found.rows) == len(data)


def test_a_spoiled_packet_of_ours_is_told() -> None:
    sound = alc.made(7, 3, alc.NO_CODE, 0, 2, b"symbols")
    assert flute_fields.fields(sound)["check_sum_of_pybcast"]
    error = flute_fields.explain(sound[:-1] + b"!").error
    assert isinstance(error, BadValue) and error.field == "check"


@pytest.mark.parametrize(
    ("data", "kind", "field", "offset"),
    [
        (b"", Truncated, "V", 0),
        (b"\x10", Truncated, "S", 1),
        (b"\x20\0\4\0", Unsupported, "V", 0),
        (PLAIN[:2], Truncated, "HDR_LEN", 2),
        (PLAIN[:10], Truncated, "TSI", 8),
        (PLAIN[:17], Truncated, "HEL", 16),
        (PLAIN[:22], Truncated, "ESI", 22),
        (b"\x10\xa0\3\0" + PLAIN[4:], BadLength, "HDR_LEN", 2),
        (PLAIN[:16] + b"\x40\0\0\0" + PLAIN[20:], BadLength, "HEL", 16),
        (PLAIN[:16] + b"\x40\2\0\0" + PLAIN[20:], BadLength, "HEL", 16),
    ],
)
def test_faults_say_where(data: bytes, kind: type[WireError], field: str, offset: int) -> None:
    error = flute_fields.explain(data).error
    assert type(error) is kind and (error.field, error.offset) == (field, offset)
    with pytest.raises(kind):
        flute_fields.fields(data)


@given(st.binary(max_size=60), st.integers(0, 255))
def test_any_octets(data: bytes, second: int) -> None:
    for start in (b"", b"\x10", struct.pack(">BBBB", 0x10, second, 5, 0)):
        found = flute_fields.explain(start + data)
        assert sum(row.length for row in found.rows) <= len(start + data)
        assert found.error is None or found.error.offset is not None


def test_mutated_packets() -> None:
    rng = random.Random("flute")
    for _ in range(2000):
        data = mutate(PLAIN, rng)
        found = flute_fields.explain(data)
        assert found.error is not None or sum(row.length for row in found.rows) == len(data)
