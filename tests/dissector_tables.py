# SPDX-License-Identifier: Apache-2.0
"""The tables of the Wireshark dissector, made from the layouts of ``pybcast.wire``: no number stands in the dissector by hand.

``python tests/dissector_tables.py`` writes them into ``bcast.lua``; ``test_dissector.py`` holds them.  A layout that uses a
function of its own (a check, a length) names its counterpart there (``F``, ``C``, ``V``, ``S``); the test says where there is none.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from construct.expr import BinExpr
from construct.expr import Path as This

from pybcast.captures.pcap import KEY_ID_LABELS, SUMMARY
from pybcast.errors import WireError
from pybcast.messages import FIRST_BYTE, KEYSET_TAGS, LENIENCIES, Kind, Protocol
from pybcast.wire import drm_ltkm, drm_registration, drm_stkm, management, mikey, schema, smartcard, smartcard_registration, times
from pybcast.wire.mikey import Chain, KeyDataChain, Profile
from pybcast.wire.schema import Area, Bits, Converted, Field, List, Octets, Opaque, Remaining, SecretOctets, Switch, Table, UInt

ROOT: Final = Path(__file__).resolve().parent.parent
DISSECTOR: Final = ROOT / "pybcast" / "cli" / "wireshark" / "bcast.lua"
PLACE: Final = re.compile(r"(-- generated: tables\n).*?(-- end of generated tables\n)", re.S)

ROOTS: Final[dict[Kind, Table]] = {
    "drm-stkm": drm_stkm.STKM,
    "drm-ltkm": drm_ltkm.BCRO,
    "drm-registration": drm_registration.REGISTRATION,
    "smartcard-stkm": smartcard.STKM,
    "smartcard-ltkm": smartcard.LTKM,
    "smartcard-verification": smartcard.VERIFICATION,
    "smartcard-reporting": smartcard.REPORTING,
    "smartcard-parental": smartcard.PARENTAL,
    "smartcard-registration": smartcard_registration.REGISTRATION,
    "mikey": mikey.MIKEY,
}

CONSTANTS: Final[dict[str, Any]] = {
    "PAYLOADS": mikey.PAYLOADS,
    "FINAL": mikey.FINAL,
    "ONCE": mikey.ONCE,
    "LAST": mikey.LAST,
    "T": mikey.T,
    "SP": mikey.SP,
    "EXT": mikey.EXT,
    "KEY_DATA": mikey.KEY_DATA,
    "EXT_KEY_ID": mikey.EXT_KEY_ID,
    "EXT_OMA_BCAST": mikey.EXT_OMA_BCAST,
    "EXT_TYPES": mikey.EXT_TYPES,
    "KEY_ID_TYPES": mikey.KEY_ID_TYPES,
    "TS_SIZES": mikey.TS_SIZES,
    "MAC_SIZES": mikey.MAC_SIZES,
    "VER_SIZES": mikey.VER_SIZES,
    "MAP_TYPES": mikey.MAP_TYPES,
    "SALTED": mikey.SALTED,
    "MODULUS_BITS": drm_registration.MODULUS_BITS,
    "KEYSET_TAGS": frozenset(int(tag) for tag in KEYSET_TAGS),
    "EVERYONE": drm_registration.EVERYONE,
    "WRAP_BLOCK": drm_registration.WRAP_BLOCK,
    "GROUP_SIZES": drm_ltkm.GROUP_SIZES,
    "CONSTRAINT_LENGTHS": drm_ltkm.CONSTRAINT_LENGTHS,
    "TIME_CONSTRAINTS": drm_ltkm.TIME_CONSTRAINTS,
    "KEY_LENGTH": drm_stkm.KEY_LENGTH,
    "IPSEC": Protocol.IPSEC,
    "SRTP": Protocol.SRTP,
    "ISMACRYP": Protocol.ISMACRYP,
    "NULL": smartcard.NULL,
    "AES_CM_128": smartcard.AES_CM_128,
    "HMAC_SHA_1_160": smartcard.HMAC_SHA_1_160,
    "TEK_DATA": smartcard.TEK_DATA,
    "TEK_SALT_DATA": smartcard.TEK_SALT_DATA,
    "SEK_DATA": smartcard.SEK_DATA,
    "SEK_DATA_SHORT_INTERVAL": smartcard.SEK_DATA_SHORT_INTERVAL,
    "PIN_DATA": smartcard.PIN_DATA,
    "HEADS": smartcard.HEADS,
    "TEK": smartcard.TEK,
    "REPORTING_SUBTYPE": management.REPORTING_SUBTYPE,
    "PARENTAL_SUBTYPE": management.PARENTAL_SUBTYPE,
    "FIRST_BYTE": FIRST_BYTE,
    "MJD_OF_NTP_EPOCH": times.MJD_OF_NTP_EPOCH,
    "LONGEST_SHOWN": schema.LONGEST_SHOWN,
    "LENIENCIES": list(LENIENCIES),
    "SUMMARY": list(SUMMARY),
    "KEY_ID_LABELS": KEY_ID_LABELS,
}

_OPERATORS: Final = {"and_": "and", "eq": "==", "ne": "~="}


class Unknown(Exception):
    """A layout uses something that the dissector has no word for."""


def lua(value: object) -> str:
    """A constant."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case str():
            return json.dumps(value, ensure_ascii=True)
        case Mapping():
            return "{" + ", ".join(f"[{lua(key)}] = {lua(value[key])}" for key in value) + "}"
        case set() | frozenset():
            return "{" + ", ".join(f"[{lua(item)}] = true" for item in sorted(value)) + "}"
        case list() | tuple():
            return "{" + ", ".join(map(lua, value)) + "}"
        case type() if issubclass(value, WireError):
            return lua(value.code)
    raise Unknown(f"a constant of type {type(value).__name__}")


def _number(expression: object) -> str:
    if isinstance(expression, This):
        parts = str(expression)
        found = re.fullmatch(r"this\['(\w+)'\]", parts)
        if found is None:
            raise Unknown(parts)
        return f"c.{found.group(1)}"
    if isinstance(expression, int):
        return str(int(expression))
    raise Unknown(repr(expression))


def _truth(expression: object) -> str:
    if isinstance(expression, BinExpr):
        operator, left, right = (getattr(expression, name) for name in ("op", "lhs", "rhs"))  # the stubs do not know them
        sign = _OPERATORS.get(operator.__name__)
        if sign == "and":
            return f"({_truth(left)} and {_truth(right)})"
        if sign is not None:
            return f"({_number(left)} {sign} {_number(right)})"
        raise Unknown(repr(expression))
    return f"{_number(expression)} ~= 0"


class Writer:
    """Tables and value names, each once."""

    def __init__(self) -> None:
        self.tables: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.lines: list[str] = []
        self.used: set[tuple[str, str]] = set()

    def call(self, place: str, function: Callable[..., Any], fallback: str) -> str:
        """The counterpart of a Python function: ``{name, closed-over constants}``.  ``fallback``: for one without a name."""
        if not inspect.isroutine(function):
            raise Unknown(repr(function))
        qualified = getattr(function, "__qualname__", "<lambda>")
        parts = qualified.split(".<locals>.")
        name = parts[0] if parts[-1] in ("check", "present") else parts[-1].rpartition(".")[2]
        if "<lambda>" in name or name == "format":
            name = fallback
        name = name.lstrip("_")
        self.used.add((place, name))
        closed: dict[str, str] = {}
        if inspect.isfunction(function):
            for key, value in inspect.getclosurevars(function).nonlocals.items():
                if not isinstance(value, Profile):
                    wanted = sorted(value) if isinstance(value, set | frozenset | Mapping | range) else value
                    closed[key] = lua(wanted)
        return "{" + ", ".join([lua(name), *(f"{key} = {closed[key]}" for key in sorted(closed))]) + "}"

    def quantity(self, place: str, value: object, row: str) -> str:
        """A length or count: a number, a function of the fields before it, or a counterpart."""
        if isinstance(value, int):
            return str(value)
        if isinstance(value, This):
            return f"function(c) return {_number(value)} end"
        assert callable(value)
        return self.call(place, value, row)

    def condition(self, value: object, row: str) -> str:
        if isinstance(value, This | BinExpr):
            return f"function(c) return {_truth(value)} end"
        assert callable(value)
        return self.call("F", value, row + "_when")

    def shape(self, shape: Any, row: str) -> str:
        kind = type(shape)
        if kind is Bits:
            return f'{{"bits", {shape.width}}}'
        if kind is UInt:
            return f'{{"uint", {shape.length}}}'
        if kind in (Octets, SecretOctets):
            return f'{{"{"octets" if kind is Octets else "secret"}", {self.quantity("F", shape.length, row + "_length")}}}'
        if kind is Converted:
            inner = self.quantity("F", shape.shape.length, row + "_length")
            return f'{{"converted", {inner}, {self.call("V", shape.read, row)}}}'
        if kind is Remaining:
            return f'{{"remaining", {self.quantity("F", shape.keep, row + "_kept")}}}'
        if kind is List:
            count = "nil" if shape.count is None else self.quantity("F", shape.count, row + "_count")
            return f'{{"list", {self.table(shape.table)}, {count}, {shape.least}}}'
        if kind is Area:
            inline = ", inline = true" if shape.inline else ""
            return f'{{"area", {self.quantity("F", shape.length, row + "_length")}, {self.shape(shape.shape, row)}{inline}}}'
        if kind is Switch:
            cases = ", ".join(f"[{number}] = {self.shape(case, row)}" for number, case in shape.cases.items())
            number = self.quantity("F", shape.number, row + "_number")
            return f'{{"switch", {number}, {{{cases}}}, {self.shape(shape.default, row)}}}'
        if kind is Opaque:
            return f'{{"opaque", {self.shape(shape.shape, row)}}}'
        if kind is KeyDataChain:
            return f'{{"keydata", {self.table(shape.table)}}}'
        if kind is Chain:
            cases = ", ".join(f"[{number}] = {self.table(table)}" for number, table in shape.tables.items())
            return f'{{"chain", {{{cases}}}}}'
        if isinstance(shape, Table):
            return f'{{"fields", {self.table(shape)}}}'
        raise Unknown(f"shape {kind.__name__} of {row}")

    def value_names(self, names: Mapping[int, object]) -> str:
        text = lua({int(number): str(name) for number, name in sorted(names.items())})
        if text not in self.names:
            self.names[text] = len(self.names) + 1
            self.lines.append(f"N[{self.names[text]}] = {text}")
        return f"N[{self.names[text]}]"

    def row(self, row: Field) -> str:
        parts = [
            f"name = {lua(row.name)}", f"shape = {self.shape(row.shape, row.name)}", f"ground = {lua(row.confidence.value)}",
            f"meaning = {lua(row.meaning)}",
        ]  # fmt: skip
        if row.unset is not None:
            parts.append(f"unset = {lua(row.unset)}")
        if row.when is not None:
            parts.append(f"when = {self.condition(row.when, row.name)}")
        if row.check is not None:
            parts.append(f"check = {self.call('C', row.check, row.name)}")
        if row.names is not None:
            parts.append(f"names = {self.value_names(row.names)}")
        if row.show is not None:
            parts.append(f"show = {self.call('S', row.show, 'hex08' if _is_hex08(row.show) else row.name)}")
        if row.secret is not None:
            parts.append(f"secret = {self.condition(row.secret, row.name)}")
        return "  {" + ", ".join(parts) + "},"

    def table(self, table: Table) -> str:
        text = "\n".join(self.row(row) for row in table.rows)
        if text not in self.tables:
            self.tables[text] = len(self.tables) + 1
            self.lines += [f"T[{self.tables[text]}] = {{", text, "}"]
        return f"T[{self.tables[text]}]"


def _is_hex08(show: Callable[[Any], str]) -> bool:
    return getattr(show, "__self__", None) == "{:08x}"


def _profile(table: Table) -> Profile | None:
    """What a MIKEY message is checked against: the owner of the check of ``next_payload``."""
    row = table.named.get("next_payload")
    owner = getattr(row.check, "__self__", None) if row is not None else None
    return owner if isinstance(owner, Profile) else None


def _profile_text(profile: Profile) -> str:
    parts = {
        "strict": profile.strict,
        "key_ids": profile.key_ids,
        "extensions": profile.extensions,
        "refused_extensions": profile.refused_extensions,
    }
    if profile.order is not None:
        parts["order"] = profile.order
    return "{" + ", ".join(f"{name} = {lua(value)}" for name, value in parts.items()) + "}"


TYPES: Final = ("uint", "bytes", "string", "none")


def fields() -> dict[str, tuple[str, Mapping[int, str]]]:
    """Every filter name without its prefix: its type, and the names of its numbers where all kinds agree on them."""
    found: dict[str, tuple[str, dict[int, str]]] = {}

    def add(path: str, row: Field, kind: str) -> None:
        before = found.get(path)
        if before is not None and before[0] != kind:
            raise Unknown(f"{path}: {before[0]} here and {kind} there")
        names = {int(number): str(name) for number, name in (row.names or {}).items()}
        known = before[1] if before is not None else {}
        clash = any(known.get(number, name) != name for number, name in names.items())
        found[path] = (kind, {} if clash else {**known, **names})

    def walk(shape: Any, row: Field | None, path: str, outer: str) -> None:
        match shape:
            case Table():
                for inner in shape.rows:
                    walk(inner.shape, inner, f"{path}.{inner.name}" if path else inner.name, path)
            case Bits() | UInt():
                add(path, row, "uint") if row is not None else None
            case SecretOctets():
                add(path, row, "none") if row is not None else None
            case Converted():
                add(path, row, "string") if row is not None else None
            case Octets() | Remaining():
                if row is not None:
                    add(path, row, "bytes")
                    if row.secret is not None:
                        add(path + ".hidden", row, "none")
            case List():
                walk(shape.table, None, path, outer)
            case Area():
                walk(shape.shape, None, outer if shape.inline else path, outer)
            case Switch():
                for case in (*shape.cases.values(), shape.default):
                    walk(case, None, path, outer)
            case Opaque():
                walk(shape.shape, None, path, outer)
            case KeyDataChain():
                walk(shape.table, None, path, outer)
            case Chain():
                for table in shape.tables.values():
                    walk(table, None, path, outer)
            case _:
                raise Unknown(f"shape {type(shape).__name__} of {path}")

    for table in ROOTS.values():
        walk(table, None, "", "")
    return {path: (kind, names) for path, (kind, names) in found.items()}


def tables() -> str:
    """The generated part of the dissector."""
    writer = Writer()
    kinds = []
    for kind, table in ROOTS.items():
        profile = _profile(table)
        extra = "" if profile is None else f", profile = {_profile_text(profile)}"
        kinds.append(f"  [{lua(kind)}] = {{table = {writer.table(table)}{extra}}},")
    shown = []
    for path, (kind_, names) in fields().items():
        named = f", {writer.value_names(names)}" if names else ""
        shown.append(f"  {{{lua(path)}, {lua(kind_)}{named}}},")
    lines = ["local K = {"]
    lines += [f"  {name} = {lua(int(value) if isinstance(value, IntEnum) else value)}," for name, value in CONSTANTS.items()]
    lines += ["}", "local N, T = {}, {}", *writer.lines, "local KINDS = {", *kinds, "}"]
    lines += ["local ORDER = " + lua(list(ROOTS)), "local FIELDS = {", *shown, "}"]
    return "\n".join(lines) + "\n"


def counterparts() -> set[tuple[str, str]]:
    """(table of the dissector, name) of every function that the layouts call there."""
    writer = Writer()
    for table in ROOTS.values():
        writer.table(table)
    return writer.used


def render(text: str) -> str:
    """The dissector's text with its generated part made again."""
    if not PLACE.search(text):
        raise SystemExit(f"{DISSECTOR.name} has no place for tables")
    return PLACE.sub(lambda found: found.group(1) + tables() + found.group(2), text)


if __name__ == "__main__":
    DISSECTOR.write_text(render(DISSECTOR.read_text(encoding="utf-8")), encoding="utf-8")
    for place, name in sorted(counterparts()):
        if f"\nfunction {place}.{name}(" not in DISSECTOR.read_text(encoding="utf-8"):
            print(f"{DISSECTOR.name}: no {place}.{name}")
