# SPDX-License-Identifier: Apache-2.0
"""The Wireshark dissector shows every field of every kind as ``explain`` does, also of broken messages, up to the same fault.

tshark reads a capture of hundreds of messages at once; offset, size, path, value, meaning, ground and filter name of each row are
compared, and of a bad message the error in every word.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tshark import HEADERS, Node, capture, dissect, ipv4, udp

from pybcast.captures.pcap import identify
from pybcast.cli.output import plain
from pybcast.errors import WireError
from pybcast.messages import KINDS, LENIENCIES, Kind, Leniency, Message
from pybcast.testing import CATALOGUE, _shapes, corpus, mutate
from pybcast.testing._shapes import Choices, RandomChoices
from pybcast.testing.corpus import to_bytes
from pybcast.wire import Explanation, Row, explain

sys.path.insert(0, str(Path(__file__).parents[1]))
import dissector_tables as tables

pytestmark = pytest.mark.requires_tool("tshark", package="tshark")

LONG: Final = os.environ.get("PYBCAST_LONG", "") == "1"
EACH: Final = 120 if LONG else 40  # messages of a kind in one capture
FIRST_PORT: Final = 6000
LONGEST_LABEL: Final = 200  # of the dissector
LUA: Final = ("-X", f"lua_script:{tables.DISSECTOR}")


@dataclass(frozen=True)
class Case:
    """A message and how it is read.  ``name``: what the dissector is called in Decode As."""

    kind: Kind
    data: bytes
    partial: bool = False

    @property
    def name(self) -> str:
        return f"bcast-{self.kind}" + ("-partial" if self.partial else "")


NAMES: Final = [f"bcast-{kind}" for kind in KINDS] + ["bcast-drm-stkm-partial", "bcast-smartcard-stkm-partial"]
PORTS: Final = {name: FIRST_PORT + place for place, name in enumerate(NAMES)}


def packets(cases: Sequence[Case]) -> list[bytes]:
    return [ipv4(17, udp(case.data, PORTS[case.name])) for case in cases]


def decode_as(lenient: Sequence[Leniency] = ()) -> list[str]:
    options = [word for name, port in PORTS.items() for word in ("-d", f"udp.port=={port},{name}")]
    options += [word for name in lenient for word in ("-o", f"bcast.lenient_{name.replace('-', '_')}:TRUE")]
    return [*LUA, *options]


@dataclass(frozen=True)
class Shown:
    """What tshark says of a message."""

    rows: tuple[tuple[str, int, int, str, str], ...]  # path, offset, size, label behind the name, filter name
    fault: str | None
    values: tuple[tuple[str, str], ...]  # filter name, what a filter compares with


def shown(protocols: tuple[Node, ...]) -> Shown:
    ours = [proto for proto in protocols if proto.name == "bcast"]
    assert len(ours) == 1, [proto.name for proto in protocols]
    rows: list[tuple[str, int, int, str, str]] = []
    values: list[tuple[str, str]] = []
    faults: list[str] = []

    def walk(node: Node, path: str) -> None:
        for part in node.parts:
            if part.name.startswith("_ws.expert"):
                faults.extend(n.show for n in part.walk() if n.name == "_ws.expert.message")
            elif part.name == "bcast.kind":
                assert rows == []
            elif part.name.startswith("bcast."):
                name, _, label = part.text.partition(": ")
                rows.append((path + name, part.offset - HEADERS, part.size, label, part.name))
                values.append((part.name, part.show))
                assert part.parts == ()
            else:
                walk(part, f"{path}{(part.text or part.show).partition(': ')[0]}.")

    walk(ours[0], "")
    assert len(faults) <= 1
    return Shown(tuple(rows), faults[0] if faults else None, tuple(values))


def expected_row(row: Row) -> tuple[str, int, int, str, str]:
    value = plain(row.value)
    value = value if len(value) <= LONGEST_LABEL else value[:LONGEST_LABEL] + "..."
    label = f"{value} [{row.meaning}; {row.confidence.value}]"
    return row.field, row.offset, row.length, label, "bcast." + re.sub(r"\[\d+\]", "", row.field)


def expected(found: Explanation) -> tuple[list[tuple[str, int, int, str, str]], str | None]:
    return [expected_row(row) for row in found.rows], None if found.error is None else plain(str(found.error))


TYPES: Final = {path: kind for path, (kind, _) in tables.fields().items()}


def comparable(kind: str, row: Row, data: bytes) -> str:
    """What a display filter compares with."""
    if kind == "uint":
        words = row.value.split(" ")
        return words[0] if len(words) > 1 or len(words[0]) < 8 else str(int.from_bytes(data, "big"))
    return {"bytes": data.hex(":"), "string": plain(row.value), "none": ""}[kind]


def check(cases: Sequence[Case], lenient: Sequence[Leniency] = ()) -> list[WireError | None]:
    """Compare all; what is wrong with each of them."""
    errors: list[WireError | None] = []
    for case, protocols in zip(cases, dissect(packets(cases), *decode_as(lenient)), strict=True):
        wanted = explain(case.data, case.kind, partial=case.partial, lenient=lenient)
        found = shown(protocols)
        rows, fault = expected(wanted)
        assert [(*row[:4], row[4].removesuffix(".hidden")) for row in found.rows] == rows, (case, lenient)
        assert found.fault == fault, (case, lenient)
        for row, (name, show) in zip(wanted.rows, found.values, strict=True):
            data = case.data[row.offset : row.offset + row.length]
            assert show == comparable(TYPES[name.removeprefix("bcast.")], row, data), (name, case)
        errors.append(wanted.error)
    return errors


MORE: Final[dict[Kind, tuple[Callable[[Choices], Message], ...]]] = {
    "smartcard-stkm": (lambda c: _shapes.smartcard_stkm(c, tek_id=(4,)), _shapes.partial_smartcard_stkm),
    "smartcard-ltkm": (lambda c: _shapes.smartcard_ltkm(c, interval=(2,)),),
    "smartcard-reporting": (lambda c: _shapes.smartcard_verification(c, report=True),),
    "drm-registration": (lambda c: _shapes.registration(c, sizes=(1024,)),),
    "drm-stkm": (_shapes.partial_drm_stkm,),
}


def messages(seed: int) -> Iterator[Case]:
    """Messages of every kind, those under a leniency and partial ones among them.  A datagram holds at most 65507 bytes."""
    choices = RandomChoices(random.Random(seed))
    for kind in KINDS:
        made = list(corpus(kind, EACH, seed))
        made += [to_bytes(make(choices)) for make in MORE.get(kind, ()) for _ in range(EACH // 4)]
        yield from (Case(kind, data) for data in made if 0 < len(data) <= 65507)
    for kind, make in (("drm-stkm", _shapes.partial_drm_stkm), ("smartcard-stkm", _shapes.partial_smartcard_stkm)):
        for _ in range(EACH // 2):
            yield Case(kind, to_bytes(make(choices)), partial=True)


def broken(seed: int) -> Iterator[Case]:
    rng = random.Random(seed)
    cases = list(messages(seed))
    for case in cases:
        other = rng.choice(cases).data
        data = mutate(case.data, rng, other)
        if 0 < len(data) <= 65507:
            yield Case(case.kind, data, case.partial)


SEEDS: Final = range(10) if LONG else range(1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lenient", [(), LENIENCIES], ids=["strict", "lenient"])
def test_good_messages(lenient: Sequence[Leniency], seed: int) -> None:
    errors = check(list(messages(seed)), lenient)
    assert sum(error is None for error in errors) > len(errors) * (0.95 if lenient else 0.7)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lenient", [(), LENIENCIES], ids=["strict", "lenient"])
def test_broken_messages(lenient: Sequence[Leniency], seed: int) -> None:
    errors = check(list(broken(seed + 100)), lenient)
    codes = {error.code for error in errors if error is not None}
    assert codes == {"truncated", "trailing_bytes", "bad_length", "bad_value", "unsupported"}


def test_every_rule_of_the_catalogue() -> None:
    """Mutations that break one rule each: the dissector names the same rule, in the same words."""
    cases: list[Case] = []
    for mutation in CATALOGUE:
        choices = RandomChoices(random.Random(mutation.name))
        for _ in range(200):
            if mutation.partial:
                make = _shapes.partial_drm_stkm if mutation.kind == "drm-stkm" else _shapes.partial_smartcard_stkm
                data = to_bytes(make(choices))
            else:
                data = to_bytes(_shapes.MESSAGES[mutation.kind](choices))
            if len(data) < 60000 and mutation.applies(data):
                cases.append(Case(mutation.kind, mutation(data), mutation.partial))
                break
    assert len(cases) > 0.95 * len(CATALOGUE)
    assert all(error is not None for error in check(cases))


def test_noise() -> None:
    rng = random.Random(3)
    cases = [Case(kind, rng.randbytes(rng.randrange(1, 200))) for kind in KINDS for _ in range(EACH)]
    check(cases)


# --- where messages are looked for -----------------------------------------------------------------------------------


def kinds_found(packets: Sequence[bytes], *options: str) -> list[str | None]:
    found: list[str | None] = []
    for protocols in dissect(packets, *LUA, *options):
        kinds = [n.show for proto in protocols if proto.name == "bcast" for n in proto.walk() if n.name == "bcast.kind"]
        found.append(kinds[0] if kinds else None)
    return found


ON_AIR: Final[tuple[Kind, ...]] = (
    "drm-ltkm", "drm-registration", "smartcard-ltkm", "smartcard-parental", "smartcard-registration"
)  # fmt: skip


def test_the_port_of_ltkms() -> None:
    """What comes in on 4359 tells its kind by its first byte (rules R22), or is tried."""
    cases = [Case(kind, data) for kind in ON_AIR for data in corpus(kind, 20, 5) if explain(data, kind).error is None]
    assert kinds_found([ipv4(17, udp(case.data, 4359)) for case in cases]) == [case.kind for case in cases]


def test_the_kind_of_a_broken_message_is_that_of_explain() -> None:
    """Rules R16: what a MIKEY message carries tells its kind, to the dissector as to ``pybcast explain auto`` and ``ltkm``."""
    rng = random.Random(8)
    kinds: tuple[Kind, ...] = (*ON_AIR, "smartcard-stkm", "smartcard-verification", "smartcard-reporting", "drm-stkm")
    whole = [data for kind in kinds for data in corpus(kind, 30, 7) if len(data) < 2000]
    sent = [data for data in (*whole, *(mutate(data, rng, rng.choice(whole)) for data in whole), *(d[:-1] for d in whole)) if data]
    for port, hint in ((40004, "auto"), (4359, "ltkm")):
        found = kinds_found([ipv4(17, udp(data, port)) for data in sent], "-d", "udp.port==40004,bcast")
        assert found == [identify(data, hint)[0] for data in sent]


def test_ports_from_the_preferences() -> None:
    drm, card = next(corpus("drm-stkm", 1, 1)), next(corpus("smartcard-stkm", 1, 1))
    sent = [ipv4(17, udp(drm, 7000)), ipv4(17, udp(card, 7001)), ipv4(17, udp(drm, 7002)), ipv4(17, udp(card, 7002))]
    ports = ("-o", "bcast.drm_ports:7000", "-o", "bcast.smartcard_ports:7001", "-o", "bcast.stkm_ports:7002-7003")
    assert kinds_found(sent, *ports) == ["drm-stkm", "smartcard-stkm", "drm-stkm", "smartcard-stkm"]
    assert kinds_found([ipv4(17, udp(card, 4359))], "-o", "bcast.ltkm_ports:", "-o", "bcast.heuristic:FALSE") == [None]


def test_messages_on_other_ports_are_found_and_nothing_else() -> None:
    rng = random.Random(9)
    kinds: list[Kind] = ["smartcard-stkm", "smartcard-verification", "smartcard-reporting", *ON_AIR]
    cases = [Case(kind, data) for kind in kinds for data in corpus(kind, 10, 6) if explain(data, kind).error is None]
    sent = [ipv4(17, udp(case.data, 40002)) for case in cases]
    assert kinds_found(sent) == [case.kind for case in cases]
    assert kinds_found(sent, "-o", "bcast.heuristic:FALSE") == [None] * len(cases)
    first = (0x01, *range(0x20, 0x2B), 0x40)
    noise = [ipv4(17, udp(bytes((rng.choice(first),)) + rng.randbytes(rng.randrange(200)), 40002)) for _ in range(1000)]
    assert kinds_found(noise) == [None] * len(noise)
    stkm = [ipv4(17, udp(data, 40002)) for data in corpus("drm-stkm", 20, 1)]
    assert kinds_found(stkm) == [None] * 20
    assert kinds_found(stkm, "-o", "bcast.heuristic_drm:TRUE") == ["drm-stkm"] * 20


def test_a_packet_that_the_capture_cut(tmp_path: Path) -> None:
    data = next(corpus("smartcard-ltkm", 1, 1))
    packet = ipv4(17, udp(data, 4359))
    whole = bytearray(capture([packet]))
    short = whole[:-40]
    short[24 + 8 : 24 + 12] = (len(packet) - 40).to_bytes(4, "little")  # the captured length
    file = tmp_path / "cut.pcap"
    file.write_bytes(short)
    said = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-V", *LUA],
        env=os.environ | {"WIRESHARK_CONFIG_DIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "OMA BCAST smartcard-ltkm" in said
    assert "the capture holds only the beginning of this message" in said


# --- the dissector's text ----------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_layouts() -> None:
    text = tables.DISSECTOR.read_text("utf-8")
    assert tables.render(text) == text, "run python tests/dissector_tables.py"
    defined = set(re.findall(r"^function ([FCVS])\.(\w+)\(", text, re.M))
    assert defined == tables.counterparts(), "each function of the layouts has its counterpart, and nothing else is there"


def test_every_filter_has_one_type() -> None:
    assert {kind for kind, _ in tables.fields().values()} == set(tables.TYPES)


def test_the_largest_messages() -> None:
    """A datagram full of the smallest payloads, and one full of Key IDs: read to the end."""
    header = bytes.fromhex("01 00 15 00 01020304 00 01")
    payloads = b"\x15\x00\x00\x00" * 16_000 + bytes.fromhex("01 00 0000") + bytes.fromhex("00 00 0000 00")
    ids = b"\x07\x00" * 32_000
    more = bytes.fromhex("01 03") + len(ids).to_bytes(2) + ids + bytes.fromhex("00 00 0000 00")
    assert check([Case("mikey", header + payloads), Case("mikey", header + more)]) == [None, None]


def test_filters_are_pybcasts_names() -> None:
    stkms = list(corpus("smartcard-stkm", 5, 1))
    wanted = explain(stkms[2], "smartcard-stkm").rows
    sek_id = next(row.value for row in wanted if row.field.endswith("ids[1].value"))
    sent = [ipv4(17, udp(data, 40002)) for data in stkms]
    for words, places in (
        (f"bcast.payloads.ids.value == {bytes.fromhex(sek_id).hex(':')}", [2]),
        ("bcast.payloads.ts_type == 2", [0, 1, 2, 3, 4]),
        ('bcast.kind == "smartcard-stkm" && !bcast.bad_value', [0, 1, 2, 3, 4]),
        ("bcast.truncated", []),
    ):
        assert [p for p, found in enumerate(_filtered(sent, words)) if found] == places, words


def _filtered(sent: Sequence[bytes], words: str) -> list[bool]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sent.pcap"
        file.write_bytes(capture(sent))
        said = subprocess.run(
            ["tshark", "-n", "-r", str(file), "-Y", words, "-T", "fields", "-e", "frame.number", *LUA],
            env=os.environ | {"WIRESHARK_CONFIG_DIR": folder}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    passed = {int(number) for number in said.split()}
    return [place + 1 in passed for place in range(len(sent))]
