# SPDX-License-Identifier: Apache-2.0
"""Backup and restore as an operator does it: the handbook's procedure, literally; and every way in which it is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from handbook import Operator, procedure
from servers_support import System


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    made.start("bsm", "bsda")
    yield made
    made.close()


@pytest.mark.parametrize("role", ["bsm", "bsda"])
def test_the_procedure_of_the_handbook(system: System, role: str) -> None:
    """Word for word; what was entered after the backup is lost, and said to be; the server notices; all is green again."""
    prepare, backup, restore = procedure("Back up and restore")
    assert (len(prepare), len(backup), len(restore)) == (1, 1, 4)
    shutil.copy(system.folder / "kek", system.folder / f"{role}.kek")
    operator = Operator(system)

    def enter(name: str) -> None:
        file = system.folder / f"{name}.json"
        file.write_text(json.dumps({"smk": os.urandom(32).hex(), "idr": f"{name}@bsf.example.com"}))
        system.shown("bsm", "subscriber", "add", "bsm.toml", name, "--keys", str(file))

    enter("before")
    for line in (*prepare, *backup):
        operator.types(line, role)
    made = re.fullmatch(
        rf"file \S*/{role}-1\.db, id urn:example:{role}, commit (\d+), time \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, octets \d+\n",
        operator.said,
    )
    assert made is not None
    commit = int(made[1])
    copy = system.folder / "backups" / "pybcast" / f"{role}-1.db"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 and stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    enter("after")
    while system.shown(role, "backup", f"{role}.toml", str(system.folder / f"{time.monotonic()}.db"))[0]["commit"] <= commit:
        time.sleep(0.2)  # there is nothing to lose yet
    said = []
    for line in restore:
        operator.types(line, role)
        said.append(operator.said)
    assert re.search(r"commit \d+ of .* UTC\nlost: what was entered or changed from .* to .* UTC; enter it again", said[1])
    assert re.search(rf"kept: what was there before, in \S*/{role}\.db\.before-\d{{8}}T\d{{6}}Z\n", said[1])
    assert any(event.get("event") == "restored" for event in system.running[role].events)
    found = {row["subscriber"] for row in system.shown("bsm", "subscriber", "list", "bsm.toml")}
    assert found == ({"before"} if role == "bsm" else {"before", "after"})
    assert re.search(r"^green ", said[3], re.M)


def _files(folder: Path) -> dict[str, bytes]:
    """Databases and copies; a reader leaves an empty log beside one."""
    return {path.name: path.read_bytes() for path in folder.glob("*.db*") if not path.name.endswith(("-lock", "-wal", "-shm"))}


def test_what_is_refused_changes_nothing(system: System) -> None:
    copy = str(system.folder / "copy.db")
    (row,) = system.shown("bsm", "backup", "bsm.toml", copy)
    assert row.keys() == {"file", "id", "commit", "time", "octets"} and row["octets"] == Path(copy).stat().st_size
    status, out, err = system.command("bsm", "restore", "bsm.toml", copy)
    assert (status, out) == (2, "") and "is in use by process" in err and len(err.splitlines()) == 1
    system.stop()
    before = _files(system.folder)
    bsda = str(system.folder / "bsda.db")
    refused: list[tuple[tuple[Any, ...], str]] = [
        (("bsm", "backup", "bsm.toml", copy), "copy.db exists"),
        (("bsm", "backup", "bsda.toml", copy + "2"), "is the configuration of a bsda, not of a bsm"),
        (("bsm", "backup", "bsm.toml", str(system.folder / "no" / "copy.db")), "No such file"),
        (("bsm", "restore", "bsm.toml", bsda), "is the memory of urn:example:bsda, not of urn:example:bsm"),
        (("bsda", "restore", "bsda.toml", copy), "is the memory of urn:example:bsm, not of urn:example:bsda"),
        (("bsm", "restore", "bsm.toml", copy, "--kek", "file:pair"), "the key-encryption key"),
        (("bsm", "restore", "bsm.toml", copy, "--kek", "nonsense"), "expected file:PATH"),
        (("bsm", "restore", "bsm.toml", str(system.folder / "none.db")), "No such file"),
        (("bsm", "restore", "bsm.toml", str(system.folder / "bsm.toml")), "others may read it"),
        (("bsm", "restore", "bsm.toml", str(system.folder / "bsm.db")), "is the database itself"),
    ]
    for command, reason in refused:
        status, out, err = system.command(*command)
        assert (status, out) == (2, "") and reason in err and len(err.splitlines()) == 1, (command, err)
    assert _files(system.folder) == before
    (row,) = system.shown("bsm", "restore", "bsm.toml", copy)
    assert row.keys() == {"id", "commit", "time", "octets", "lost_from", "lost_to", "kept"}
    assert row["lost_from"] == row["time"] < row["lost_to"] and Path(row["kept"]).exists()


def test_another_place_for_the_witness_needs_a_restart(system: System) -> None:
    config, bsm = system.folder / "bsm.toml", system.running["bsm"]
    assert (system.folder / "witness" / "bsm.db.witness").exists()
    config.write_text(config.read_text().replace('database = "bsm.db"', 'database = "bsm.db"\nwitness = "other/bsm"'))
    bsm.process.send_signal(signal.SIGHUP)
    why = "server.witness: needs a restart"
    bsm.wait(lambda seen: any(e.get("event") == "not-reloaded" and why in e["why"] for e in seen), why)
    assert bsm.end(signal.SIGTERM) == 0
    system.past.append(system.running.pop("bsm"))
    system.start("bsm")
    assert (system.folder / "other" / "bsm").exists()
    restored = "restored, for a witness that is missing"
    system.running["bsm"].wait(lambda seen: any(event.get("event") == "restored" for event in seen), restored)
