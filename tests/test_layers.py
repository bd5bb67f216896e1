# SPDX-License-Identifier: Apache-2.0
"""The floors of the house: a module imports only from floors below its own, or from its own package.

The imports are read from the source, not from a run, so that one inside a function counts too.  A module without a floor fails
until it is given one here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1] / "pybcast"
BUILD: Final = ROOT / "_native" / "build.py"
"""Run by setup.py to compile the C core, never imported: it may ask the compiler."""

FLOORS: Final = {
    "errors": 0, "secret": 0, "messages": 0, "jsontext": 0,
    "wire": 1, "keys": 1, "_native": 1,
    "codec": 2,
    "flows": 3,
    "backend": 4, "broadcast": 4, "interaction": 4, "outlets": 4, "store": 4, "unixsocket": 4, "coredumps": 4, "https": 4,
    "sourcefilter": 4, "sdp": 4, "captures": 4,
    "servers": 5, "terminals": 5,
    "demo": 6,
    "cli": 7,
}  # fmt: skip

# Arrows on one floor.  Floor 0 has an order of its own: what a message says needs secrets, a wiped secret raises an error.
# Whoever speaks with processes of this machine does so over the same kind of socket; both kinds of HTTPS
# count, admit and fail alike.
WITHIN: Final = {
    ("secret", "errors"), ("messages", "errors"), ("messages", "secret"), ("jsontext", "errors"),
    ("broadcast", "unixsocket"), ("outlets", "unixsocket"), ("broadcast", "coredumps"), ("backend", "https"),
    ("interaction", "https"),
    ("broadcast", "sourcefilter"), ("outlets", "sourcefilter"), ("sdp", "sourcefilter"), ("terminals", "servers"),
    ("captures", "broadcast"),
}  # fmt: skip

# Inside flows, lowest first; those of one line do not know each other.  A machine stands on what all share, and the BSD/A knows
# what its edge says.
FLOWS: Final = (
    ("serial", "tables", "agenda", "stream.schedule"),
    ("peers.messages",),
    ("events",),
    ("stream.config", "journal"),
    ("peers", "stream", "restart"),
    ("edge",),
    ("bsda", "bsm", "terminal"),
)

# `testing` stands beside the house: it sees floors 0-3, and only those at the top, and tests, see it.
TESTING_SEES: Final = range(4)
SEES_TESTING: Final = {"testing", "cli", "demo", "servers"}

# Floors 0-3 get bytes, time and chance handed in; they and testing need nothing that an installation without extras does not bring.
PURE: Final = {name for name, floor in FLOORS.items() if floor <= 3}
BARE: Final = PURE | {"testing"}
IO: Final = {
    "asyncio", "http", "multiprocessing", "random", "select", "selectors", "shutil", "socket", "socketserver", "sqlite3", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
REQUIRED: Final = {"cffi", "construct", "cryptography"}
THIRD_PARTY: Final = {("testing", "hypothesis")}


def imports(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Dotted names that ``module`` imports, at any depth of its code; relative ones resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = ".".join((*package[: len(package) - level + 1], *((name,) if name else ()))) if level else name or ""
                # `from pybcast import wire` imports the module wire; `from pybcast.wire import decode` imports wire all the same.
                yield from (f"{base}.{alias.name}" for alias in names) if base == "pybcast" else (base,)
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
            ):
                yield name


def unit(dotted: str) -> str:
    """The room of a module of ours: ``wire`` for ``pybcast.wire.times``; empty for the package root."""
    return dotted.split(".")[1] if "." in dotted else ""


def flow_room(dotted: str) -> tuple[str, int]:
    """The room inside flows of a module, and how high it stands; of what has no room, and of flows as a whole, above all."""
    inside = dotted.removeprefix("pybcast.flows").strip(".")
    found = [(room, floor) for floor, rooms in enumerate(FLOWS) for room in rooms if f"{inside}.".startswith(f"{room}.")]
    return max(found, key=lambda one: len(one[0]), default=("", len(FLOWS)))


def faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Every arrow from ``module`` that points the wrong way."""
    here, found = unit(module), []

    def fault(what: str) -> None:
        found.append(f"{module} {what}")

    if here and here != "testing" and here not in FLOORS:
        return [f"{module} has no floor: give {here!r} one in {Path(__file__).name}"]
    for name in imports(source, module, is_package=is_package):
        top = name.split(".")[0]
        if top != "pybcast":
            if here in PURE and top in IO:
                fault(f"imports {name}: floors 0-3 do no input or output and know no time or chance")
            elif here in BARE and top not in sys.stdlib_module_names | REQUIRED and (here, top) not in THIRD_PARTY:
                fault(f"imports {name}, which a bare installation does not bring")
            continue
        there = unit(name)
        if here == there == "flows":
            (room, floor), (of, height) = flow_room(module), flow_room(name)
            if room != of and height >= floor:
                fault(f"imports {name}: inside flows {of or 'the whole'} stands no lower than {room}")
        if there in ("", "__version__", here):
            continue
        if not here:
            fault(f"imports {name}: the package root imports nothing, so that each floor can be imported alone")
        elif there == "testing":
            if here not in SEES_TESTING:
                fault(f"imports {name}: only {sorted(SEES_TESTING)} and tests see testing")
        elif there not in FLOORS:
            fault(f"imports {name}, which has no floor")
        elif here == "testing":
            if FLOORS[there] not in TESTING_SEES:
                fault(f"imports {name} of floor {FLOORS[there]}: testing sees floors 0-3")
        elif FLOORS[there] >= FLOORS[here] and (here, there) not in WITHIN:
            fault(f"(floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})")
    return found


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != BUILD)


def test_there_are_modules_to_check() -> None:
    assert {"errors.py", "secret.py", "messages.py"} <= {path.name for path in modules()}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    parts = ("pybcast", *path.relative_to(ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    assert faults(path.read_text("utf-8"), ".".join(parts[:-1] if is_package else parts), is_package=is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pybcast.errors", "from pybcast.secret import Secret"),
        ("pybcast.wire.drm", "import pybcast.keys"),
        ("pybcast.wire.drm", "from ..keys import derive"),
        ("pybcast.wire.drm", "from pybcast import codec"),
        ("pybcast.keys", "def f():\n    from pybcast.wire import mikey"),
        ("pybcast.codec", "import importlib\nimportlib.import_module('pybcast.flows')"),
        ("pybcast.flows", "from pybcast.testing import Card"),
        ("pybcast.testing.card", "from pybcast.backend import client"),
        ("pybcast.backend.client", "from pybcast.store import Store"),
        ("pybcast.servers.bsm", "from pybcast.demo import run"),
        ("pybcast.servers.bsm", "from pybcast.cli import main"),
        ("pybcast.attic", "import os"),
        ("pybcast.codec", "import pybcast.attic"),
        ("pybcast", "from pybcast.codec import decode"),
        ("pybcast.flows.bsm.machine", "import time"),
        ("pybcast.flows.bsm.machine", "from urllib.parse import quote"),
        ("pybcast.flows.bsm.machine", "from pybcast.flows.bsda.periods import Periods"),
        ("pybcast.flows.edge.machine", "from pybcast.flows.bsda import BSDA"),
        ("pybcast.flows.stream.stkm", "from pybcast.flows.peers.exchange import Peering"),
        ("pybcast.flows.events", "from pybcast.flows.peers.exchange import Peering"),
        ("pybcast.flows.serial", "from pybcast.flows import BSM"),
        ("pybcast.wire.drm", "import lxml.etree"),
        ("pybcast.wire.drm", "import hypothesis"),
    ],
)
def test_the_checker_sees(module: str, source: str) -> None:
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pybcast.secret", "from pybcast.errors import KeyUnavailable"),
        ("pybcast.wire.drm", "from .times import ntp64\nfrom ..messages import DrmStkm\nimport construct"),
        ("pybcast.codec.sealing", "from pybcast.keys import Keys\nfrom pybcast import wire, __version__"),
        (
            "pybcast.flows.bsda.machine",
            "from pybcast.flows.bsda.periods import Periods\nfrom pybcast.flows.edge.slots import Held",
        ),
        ("pybcast.flows.events", "from pybcast.flows.peers.messages import BackendMessage"),
        ("pybcast.testing.strategies", "import hypothesis.strategies\nfrom pybcast.flows import bsm"),
        ("pybcast.servers.bsm", "import asyncio, aiohttp\nfrom pybcast.testing import Card"),
        ("pybcast.cli.app", "import typer\nfrom pybcast.demo import run"),
    ],
)
def test_the_checker_allows(module: str, source: str) -> None:
    assert faults(source, module) == []


def opened_elsewhere(source: str) -> list[str]:
    """The tables that a module opens in a journal without declaring them."""
    tree = ast.parse(source)
    declared = {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and ast.unparse(node.value or node).startswith("Table(")
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("journal.open")]
    return [name for call in calls if (name := ast.unparse(call.args[0])) not in declared]


@pytest.mark.parametrize("path", sorted((ROOT / "flows").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_table_is_written_where_it_is_declared(path: Path) -> None:
    assert opened_elsewhere(path.read_text("utf-8")) == []


def test_the_checker_of_tables_sees() -> None:
    assert opened_elsewhere("from x import ROWS\nrows = journal.open(ROWS)") == ["ROWS"]
    assert opened_elsewhere("ROWS: Final = Table('rows', int)\nrows = self._journal.open(ROWS)") == []
