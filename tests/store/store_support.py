# SPDX-License-Identifier: Apache-2.0
"""For the tests of the store: databases, whole systems whose memory is one, and comparison to the last detail."""

from __future__ import annotations

import dataclasses
import enum
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from pybcast.flows import Output, Persist, StreamConfig, Terminal
from pybcast.flows.journal import State
from pybcast.keys import KEK
from pybcast.secret import Secret
from pybcast.store.changes import Changes
from pybcast.store.database import Database
from pybcast.testing.link import Store as Remembered
from pybcast.testing.scripts import START, streams
from pybcast.testing.sim import MAIN, Viewer, World

LONG: Final = os.environ.get("PYBCAST_LONG") == "1"
KEK_A, KEK_B = KEK(bytes(range(32))), KEK(bytes(range(1, 17)))


def counters(*numbers: int) -> list[Persist]:
    """Rows without secrets."""
    return [Persist("smk-counter", (f"subscriber-{n}",), n) for n in numbers]


def put(database: Database, *rows: Persist) -> None:
    """One transaction."""
    changes = Changes()
    database.encode(rows, changes)
    database.commit(changes)


def after(batches: list[list[Persist]]) -> State:
    """What these writes leave, as a dictionary has it."""
    memory = Remembered()
    for batch in batches:
        for row in batch:
            memory.write(row)
    return {table: rows for table, rows in memory.state.items() if rows}


def difference(a: object, b: object, where: str = "") -> str:
    """Where two values differ: in type, in content, or in the order of a dictionary; empty when they do not."""
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            return f"{where}: keys or their order"
        pairs = [(f"{where}[{key!r}]", a[key], b[key]) for key in a]
        pairs += [(f"{where} key", x, y) for x, y in zip(a, b, strict=True)]
    elif isinstance(a, tuple) and isinstance(b, tuple):
        if len(a) != len(b):
            return f"{where}: length"
        pairs = [(f"{where}[{n}]", x, y) for n, (x, y) in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, frozenset) and isinstance(b, frozenset):
        by = repr
        return "" if a == b else difference(tuple(sorted(a, key=by)), tuple(sorted(b, key=by)), where)
    elif dataclasses.is_dataclass(a) and not isinstance(a, type):
        pairs = [(f"{where}.{f.name}", getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    else:
        return "" if a == b else f"{where}: content"
    return next((found for name, x, y in pairs if (found := difference(x, y, name))), "")


def states_differ(a: State, b: State) -> list[str]:
    """Where two memories differ; the order of the tables and empty ones mean nothing."""
    a, b = ({table: rows for table, rows in sorted(state.items()) if rows} for state in (a, b))
    found = difference(a, b)
    return [found] if found else []


def secrets_in(value: object) -> Iterator[bytes]:
    """Every secret's bytes, however deep."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from secrets_in(key)
            yield from secrets_in(item)
    elif isinstance(value, tuple | frozenset | list):
        for item in value:
            yield from secrets_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type | enum.Enum):
        for field in dataclasses.fields(value):
            yield from secrets_in(getattr(value, field.name))


class OnDisk(Remembered):
    """A simulated machine's memory that is a database: a machine that comes back gets what was read from it.

    ``seen``: every secret that was ever written; ``differences``: where what was read is not what was written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.database = Database(path, KEK_A)
        self.seen: set[bytes] = set()
        self.differences: list[str] = []
        self.loads = 0
        self._waiting: list[Persist] = []

    def write(self, output: Persist) -> None:
        super().write(output)
        self._waiting.append(output)
        self.seen.update(secrets_in(output.value))

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        put(self.database, *waiting)
        self.database.tidy()

    def copy(self) -> State:
        self.flush()
        state = self.database.load()
        self.loads += 1
        self.differences += states_differ(state, super().copy())
        return state


class StoredWorld(World):
    """A system in which BSM, BSD/A and terminals keep what they persist in databases of ``folder``."""

    def __init__(self, folder: Path, *configs: StreamConfig, seed: int) -> None:
        self.folder = folder
        self.terminals: dict[str, OnDisk] = {}
        super().__init__(configs, seed=seed, start=START)

    def start_bsm(self, state: State | None = None, *, restored: bool = False, gap: float | None = None) -> None:
        if not isinstance(self.bsm_store, OnDisk):
            self.bsm_store = OnDisk(self.folder / "bsm.db")
        super().start_bsm(state, restored=restored, gap=gap)

    def start_bsda(self, name: str, state: State | None = None, *, fresh: bool = False) -> None:
        headend = self.headends[name]
        if not isinstance(headend.store, OnDisk):
            headend.store = OnDisk(self.folder / "bsda.db")
        super().start_bsda(name, state, fresh=fresh)

    def call_viewer(self, viewer: Viewer, action: Callable[[Terminal], list[Output]]) -> None:
        store = self.terminals.get(viewer.name)
        if store is None:
            store = self.terminals[viewer.name] = OnDisk(self.folder / f"{viewer.name}.db")

        def tapped(terminal: Terminal) -> list[Output]:
            outputs = action(terminal)
            for output in outputs:
                if isinstance(output, Persist):
                    store.write(output)
            return outputs

        super().call_viewer(viewer, tapped)

    @property
    def stores(self) -> list[OnDisk]:
        """All of them."""
        found = [self.bsm_store, *(headend.store for headend in self.headends.values()), *self.terminals.values()]
        return [store for store in found if isinstance(store, OnDisk)]


def run_world(folder: Path, *, seed: int, seconds: float) -> StoredWorld:
    """Both profiles, F3 and F4, a programme, a withdrawal, rollovers, both servers killed now and then."""
    configs = streams()
    world = StoredWorld(folder, *configs, seed=seed)
    viewers = [world.add_card("card"), world.add_device("device", 5), world.add_card("leaving"), world.add_device("other", 6)]
    for viewer in viewers:
        for config in configs:
            world.tune(viewer, config)
            world.grant(viewer, config, START - 1000, START + 10**6)
    world.crash = 0.005
    end = START + seconds
    for n in range(4):
        world.clock.run(START + (n + 1) * seconds / 5)
        match n:
            case 0:
                world.withdraw(viewers[2], configs[0])
            case 1:
                world.stop_bsda(MAIN)
                world.start_bsda(MAIN)
            case 2:
                world.command(lambda bsm: bsm.rekey(configs[1].service, configs[1].stream, world.clock.now))
            case 3:
                world.stop_bsm()
                world.start_bsm()
    world.crash = 0.0
    world.clock.run(end)
    for store in world.stores:
        store.copy()
    return world


class Children:
    """Starts writers and kills them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("store_children.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def _in(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def run(self, kind: str, seed: int, path: Path, acks: int = 1 << 30, spin: int = 0) -> list[int]:
        """Kill -9 when so many writes have been acknowledged and a moment has passed; all that were acknowledged before it died."""
        assert self._process.stdout is not None
        self._in.write(f"{kind} {seed} {path}\n")
        self._in.flush()
        found: list[int] = []
        pid = None
        for line in self._process.stdout:
            word, _, number = line.strip().partition(" ")
            if word == "dead":
                break
            if word == "pid":
                pid = int(number)
            else:
                found.append(int(number))
            if pid is not None and len(found) >= acks:
                sum(range(spin))  # not a wait: it moves the blow to any place within a transaction
                os.kill(pid, signal.SIGKILL)
                pid, acks = None, 1 << 30
        return found

    def deaths(self, kind: str, path: Path) -> list[int]:
        """At which calls to die, of all that there are when nothing dies (which is tried at ``path``)."""
        calls = self.run(kind, 0, path)[-1]
        return sorted(random.Random(calls).sample(range(1, calls + 1), calls if LONG else min(calls, 60)))

    def close(self) -> None:
        self._in.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
