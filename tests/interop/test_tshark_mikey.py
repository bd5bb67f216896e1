# SPDX-License-Identifier: Apache-2.0
"""tshark reads our MIKEY messages as we do: the same payloads at the same places, the same fields in them.

Of Smartcard Profile contents tshark shows the bytes of EXT 3 and EXT 5; the Key IDs in EXT 3 are taken from those bytes here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from tshark import HEADERS, Node, dissect_mikey

from pybcast.messages import (
    Identity,
    Kemac,
    Kind,
    Leniency,
    Message,
    MikeyMessage,
    PartialSmartcardStkm,
    Rand,
    SecurityPolicy,
    SmartcardLtkm,
    SmartcardParental,
    SmartcardStkm,
    SmartcardVerification,
    Timestamp,
    Verification,
)
from pybcast.testing import _shapes
from pybcast.testing._shapes import Choices, RandomChoices
from pybcast.testing.corpus import to_bytes
from pybcast.wire import Row, decode, decode_key_data, explain

pytestmark = pytest.mark.requires_tool("tshark", package="tshark")

SEED: Final = 2269
LENIENT: Final[tuple[Leniency, ...]] = ("mtk-id-4", "interval-2")


@dataclass(frozen=True)
class Sample:
    """A message as bytes, and what we make of it: as its own kind, and as any MIKEY message."""

    kind: Kind
    data: bytes
    own: Message
    mikey: MikeyMessage
    rows: tuple[Row, ...]


def keys_in_clear(c: Choices) -> MikeyMessage:
    return MikeyMessage(csb_id=c.octets(4), payloads=(Kemac(0, _shapes.key_data(c), 1, c.octets(20)),))


# Sum: 500.
RECIPES: Final[dict[str, tuple[int, Callable[[Choices], Message]]]] = {
    "smartcard-stkm": (60, _shapes.smartcard_stkm),
    "smartcard-stkm, partial": (60, _shapes.partial_smartcard_stkm),
    "smartcard-stkm, 4-byte MTK ID": (20, lambda c: _shapes.smartcard_stkm(c, tek_id=(4,))),
    "smartcard-ltkm": (60, _shapes.smartcard_ltkm),
    "smartcard-ltkm, 2-byte interval": (20, lambda c: _shapes.smartcard_ltkm(c, interval=(2,))),
    "smartcard-verification": (40, _shapes.smartcard_verification),
    "smartcard-reporting": (40, lambda c: _shapes.smartcard_verification(c, report=True)),
    "smartcard-parental": (40, _shapes.smartcard_parental),
    "mikey": (120, _shapes.mikey),
    "mikey, keys in clear": (40, keys_in_clear),
}


def tshark_can_follow(message: MikeyMessage) -> bool:
    """Whether tshark 4 comes to the end of a message.

    It does not know what RFC 6043 added (NTP-UTC-32, HMAC-SHA-256-256, key types from 4 on), and stops at an SRTP policy parameter
    that is no integer of 1 to 4 bytes.
    """
    for payload in message.payloads:
        if isinstance(payload, Kemac) and payload.mac_alg == 2:
            return False
        if isinstance(payload, Kemac) and not payload.encr_alg and any(k.key_type > 3 for k in decode_key_data(payload.encr_data)):
            return False
        if isinstance(payload, Timestamp) and payload.ts_type == 3:
            return False
        if isinstance(payload, SecurityPolicy) and any(number <= 12 and not 1 <= len(v) <= 4 for number, v in payload.params):
            return False
    return True


def samples(recipe: str, choices: Choices) -> Iterator[Sample]:
    count, make = RECIPES[recipe]
    kind: Kind = recipe.partition(",")[0]  # type: ignore[assignment]  # the keys begin with kinds
    while count:
        message = make(choices)
        data = to_bytes(message)
        mikey = decode(data, "mikey", lenient=LENIENT)
        assert isinstance(mikey, MikeyMessage)
        if tshark_can_follow(mikey):
            explanation = explain(data, kind, partial=isinstance(message, PartialSmartcardStkm), lenient=LENIENT)
            assert explanation.error is None
            yield Sample(kind, data, message, mikey, explanation.rows)
            count -= 1


Dissected = dict[str, list[tuple[Sample, tuple[Node, ...]]]]


@pytest.fixture(scope="module")
def dissected() -> Dissected:
    """Every sample with the payloads that tshark sees in it, by recipe; one tshark for all."""
    choices = RandomChoices(random.Random(SEED))
    drawn = {recipe: list(samples(recipe, choices)) for recipe in RECIPES}
    found = iter(dissect_mikey([sample.data for each in drawn.values() for sample in each]))
    return {recipe: [(sample, payloads(next(found))) for sample in each] for recipe, each in drawn.items()}


def payloads(protocols: tuple[Node, ...]) -> tuple[Node, ...]:
    """HDR and the payloads after it."""
    assert [node.name for node in protocols if node.name.startswith(("mikey", "_ws.malformed"))] == ["mikey"]
    return protocols[-1].parts


# --- what a field is called on each side -----------------------------------------------------------------------------

NAMES: Final = {
    "mikey.hdr": {
        "version": "version", "type": "data_type", "next_payload": "next_payload", "v.set": "v", "prf_func": "prf_func",
        "csb_id": "csb_id", "cs_count": "number_of_cs", "cs_id_map_type": "cs_id_map_type",
        "srtp_id.policy_no": "policy_no", "srtp_id.ssrc": "ssrc", "srtp_id.roc": "roc",
    },
    "mikey.t": {"next_payload": "next_payload", "t.ts_type": "ts_type", "t.ntp": "ts_value"},
    "mikey.rand": {"next_payload": "next_payload", "rand.len": "rand_len", "rand.data": "rand"},
    "mikey.id": {"next_payload": "next_payload", "id.type": "id_type", "id.len": "id_len", "id.data": "id"},
    "mikey.sp": {
        "next_payload": "next_payload", "sp.no": "policy_no", "sp.proto_type": "prot_type", "sp.param_len": "param_length",
        "sp.patam.value": "value",  # Wireshark's spelling
    },
    "mikey.ext": {
        "next_payload": "next_payload", "ext.type": "ext_type", "ext.len": "length", "ext.data": "data", "ext.value": "data",
    },
    "mikey.kemac": {
        "next_payload": "next_payload", "kemac.encr_alg": "encr_alg", "kemac.key_data_len": "encr_data_len",
        "kemac.key_data": "encr_data", "kemac.mac_alg": "mac_alg", "kemac.mac": "mac",
        "key.type": "type", "key.kv": "kv", "key.data.len": "key_len", "key.data": "key", "key.salt.len": "salt_len",
        "key.salt": "salt", "key.kv.spi.len": "spi_len", "key.kv.spi": "spi", "key.kv.from.len": "vf_len", "key.kv.from": "vf",
        "key.kv.to.len": "vt_len", "key.kv.to": "vt",
    },
    "mikey.v": {"next_payload": "next_payload", "v.auth_alg": "auth_alg", "v.ver_data": "ver_data"},
    "mikey.err": {"next_payload": "next_payload", "err.no": "error_no", "err.reserved": "reserved"},
}  # fmt: skip
"""tshark's field (without ``mikey.``) -> the last part of ours, in each payload."""

BITS: Final = {"v", "prf_func", "type", "kv"}
"""Parts of an octet: tshark gives the number, not the octet."""

NUMBERS: Final = {"hdr": -1, "kemac": 1, "t": 5, "id": 6, "v": 9, "sp": 10, "rand": 11, "err": 12, "ext": 21}

NOT_SHOWN: Final = re.compile(
    r"""
    payloads\[\d+\]\.(
      ts_value=.*                                     # of a COUNTER
    | (ids|management|subtype|data)\b.*               # inside EXT 3 and EXT 5
    | params\[\d+\]\.(type|len)=.*                    # shown, at a place beside the real one
    | key_data\[0\]\.(next_payload=.* | salt_len=0) | key_data\[[1-9]\d*\]\..*    # only the first key
    )
    """,
    re.VERBOSE,
)
"""What tshark does not show, or not at its place."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_payload_boundaries(dissected: Dissected, recipe: str) -> None:
    for sample, nodes in dissected[recipe]:
        ours: dict[str, list[Row]] = {}
        for row in sample.rows:
            ours.setdefault(row.field.partition(".")[0] if row.field.startswith("payloads[") else "header", []).append(row)
        spans = [(min(row.offset for row in rows), max(row.offset + row.length for row in rows)) for rows in ours.values()]
        assert [(node.offset - HEADERS, node.offset - HEADERS + node.size) for node in nodes] == spans, sample.data.hex()
        assert spans[-1][1] == len(sample.data)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fields(dissected: Dissected, recipe: str) -> None:
    """Every field that tshark shows is a row of ``explain``: same offset, same length, same value; and no row is missing."""
    for sample, nodes in dissected[recipe]:
        rows = {(row.offset, row.length, row.field.rpartition(".")[2]): row for row in sample.rows}
        confirmed = set()
        for node in nodes:
            names = NAMES[node.name]
            for leaf in node.walk():
                name = names.get(leaf.name.removeprefix("mikey."))
                if name is None or not leaf.size:  # nothing there: an empty MAC, key or identity
                    continue
                offset = leaf.offset - HEADERS
                if name == "data" and (offset, leaf.size, name) not in rows:
                    # EXT 3 and EXT 5: their contents are rows of their own.
                    inside = [row for row in sample.rows if offset <= row.offset < offset + leaf.size]
                    assert (inside[0].offset, inside[-1].offset + inside[-1].length) == (
                        offset,
                        offset + leaf.size,
                    )
                else:
                    row = rows[offset, leaf.size, name]
                    confirmed.add(row)
                    number = row.value.partition(" ")[0]
                    if leaf.show.isdecimal() and number.isdecimal():
                        assert number == leaf.show, f"{sample.data.hex()}: {row}"
                if name not in BITS:
                    assert leaf.value == sample.data[offset : offset + leaf.size].hex(), f"{sample.data.hex()}: {leaf}"
        unconfirmed = {f"{row.field}={row.value}" for row in sample.rows if row not in confirmed}
        assert {text for text in unconfirmed if not NOT_SHOWN.fullmatch(text)} == set(), sample.data.hex()


@pytest.mark.parametrize("recipe", RECIPES)
def test_chain(dissected: Dissected, recipe: str) -> None:
    """Each next payload number is that of the payload which tshark shows after it; the last is 0."""
    for sample, nodes in dissected[recipe]:
        announced = [int(leaf.show) for node in nodes for leaf in node.parts if leaf.name == "mikey.next_payload"]
        assert announced == [*(NUMBERS[node.name.removeprefix("mikey.")] for node in nodes[1:]), 0]
        assert [
            row.value.partition(" ")[0] for row in sample.rows if row.field.endswith("next_payload") and "key_data" not in row.field
        ] == [str(number) for number in announced]


# --- what we decode, from tshark's bytes -----------------------------------------------------------------------------


def values(nodes: tuple[Node, ...], *names: str) -> list[bytes]:
    """The bytes of these tshark fields, in order; empty ones left out."""
    return [bytes.fromhex(leaf.value) for node in nodes for leaf in node.walk() if leaf.name in names and leaf.size]


def key_ids(nodes: tuple[Node, ...]) -> list[tuple[int, bytes]]:
    """Type and value of the Key IDs in EXT 3 (RFC 4563, 5), from the bytes that tshark gives."""
    (content,) = (
        values((node,), "mikey.ext.data")[0]
        for node in nodes
        if any(leaf.name == "mikey.ext.type" and leaf.show == "3" for leaf in node.parts)
    )
    found = []
    while content:
        end = 2 + content[1]
        found.append((content[0], content[2:end]))
        content = content[end:]
    return found


def test_any_message(dissected: Dissected) -> None:
    for sample, nodes in (pair for each in dissected.values() for pair in each):
        message = sample.mikey
        assert values(nodes, "mikey.csb_id") == [message.csb_id]
        assert values(nodes, "mikey.type") == [bytes([message.data_type])]
        assert values(nodes, "mikey.rand.data") == [p.rand for p in message.payloads if isinstance(p, Rand) and p.rand]
        assert values(nodes, "mikey.id.data") == [p.id for p in message.payloads if isinstance(p, Identity) and p.id]
        kemacs = [p for p in message.payloads if isinstance(p, Kemac)]
        assert values(nodes, "mikey.kemac.encr_alg") == [bytes([p.encr_alg]) for p in kemacs]
        assert values(nodes, "mikey.kemac.key_data_len") == [len(p.encr_data).to_bytes(2) for p in kemacs]
        assert values(nodes, "mikey.kemac.mac_alg") == [bytes([p.mac_alg]) for p in kemacs]
        assert values(nodes, "mikey.kemac.mac") == [p.mac for p in kemacs if p.mac]
        assert values(nodes, "mikey.kemac.key_data") == [p.encr_data for p in kemacs if p.encr_alg and p.encr_data]
        assert values(nodes, "mikey.v.ver_data") == [
            p.ver_data for p in message.payloads if isinstance(p, Verification) and p.ver_data
        ]


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.startswith("smartcard")])
def test_smartcard_message(dissected: Dissected, recipe: str) -> None:
    for sample, nodes in dissected[recipe]:
        message = sample.own
        assert decode(sample.data, sample.kind, lenient=LENIENT) == message
        counters = [sample.data[n.offset - HEADERS + 2 : n.offset - HEADERS + n.size] for n in nodes if n.name == "mikey.t"]
        match message:
            case SmartcardStkm() | PartialSmartcardStkm():
                ids = [message.key_domain_id, message.sek_id, message.tek_id]
                assert key_ids(nodes) == [*enumerate(ids), *((i.type, i.value) for i in message.other_key_ids)]
            case SmartcardLtkm():
                ids = [message.key_domain_id, message.sek_id]
                assert key_ids(nodes) == [*enumerate(ids), *((i.type, i.value) for i in message.other_key_ids)]
        match message:
            case PartialSmartcardStkm():
                assert values(nodes, "mikey.csb_id") == [bytes(4)]
                assert values(nodes, "mikey.key.data") == [message.tek.reveal()]
                assert values(nodes, "mikey.key.salt") == ([] if message.salt is None else [message.salt])
            case SmartcardStkm():
                assert values(nodes, "mikey.csb_id", "mikey.kemac.key_data", "mikey.kemac.mac") == [
                    message.csb_id, message.encr_data, message.mac,
                ]  # fmt: skip
            case SmartcardLtkm() | SmartcardParental():
                assert values(nodes, "mikey.csb_id", "mikey.rand.data", "mikey.id.data", "mikey.kemac.mac") == [
                    message.csb_id, message.rand, message.idi, message.idr, message.mac,
                ]  # fmt: skip
                wanted = [int(message.verification_requested)]
                assert [int(leaf.show) for node in nodes for leaf in node.parts if leaf.name == "mikey.v.set"] == wanted
            case SmartcardVerification():
                assert values(nodes, "mikey.csb_id", "mikey.id.data", "mikey.v.ver_data") == [
                    message.csb_id, message.idr, message.mac,
                ]  # fmt: skip
            case _:
                raise AssertionError(type(message))
        assert counters == [message.counter.to_bytes(4)]


def test_what_was_compared(dissected: Dissected) -> None:
    """The samples are worth the comparison: layouts of every sort, every payload that tshark knows."""
    every = [pair for each in dissected.values() for pair in each]
    assert len(every) == 500
    layouts = [getattr(sample.own, "layout", None) for sample, _ in every]
    assert sum(layout is not None for layout in layouts) > 50
    assert sum(layout is not None and any(not isinstance(slot, str) for slot in layout) for layout in layouts) > 50
    assert {node.name for _, nodes in every for node in nodes} == set(NAMES)
    shown = {leaf.name.removeprefix("mikey.") for _, nodes in every for node in nodes for leaf in node.walk()}
    assert {name for names in NAMES.values() for name in names} <= shown
