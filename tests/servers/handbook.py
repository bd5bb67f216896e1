# SPDX-License-Identifier: Apache-2.0
"""The handbook's commands, typed word for word by tests."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Final

from servers_support import System

HANDBOOK: Final = Path(__file__).parents[2] / "docs" / "operating.md"


def procedure(title: str) -> list[list[str]]:
    """The commands of the handbook's section, block by block."""
    text = HANDBOOK.read_text("utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", section, re.S)]


class Operator:
    """Types the handbook's lines: its folders are those of the test, and ``systemctl`` starts and stops the test's servers."""

    def __init__(self, system: System) -> None:
        self._system, self.said = system, ""
        self._uid = [str(os.geteuid()), str(os.getegid())]

    def types(self, line: str, role: str) -> None:
        line = re.sub(r"\bbsm\b", role, line)
        for place, here in (
            ("/etc/pybcast", self._system.folder),
            ("/var/backups", self._system.folder / "backups"),
            ("/opt", self._system.folder / "opt"),
        ):
            line = line.replace(place, str(here))
        program, *words = shlex.split(line)
        if program == "install":
            Path(words[-1]).parent.mkdir(exist_ok=True)
            own = dict(zip(("-o", "-g"), self._uid, strict=True))
            words = [own.get(before, word) for before, word in zip(("", *words), words, strict=False)]
            subprocess.run([program, *words], check=True)
        elif program == "systemctl":
            action, unit = words
            assert unit == f"pybcast-{role}"
            if action == "stop":
                process = self._system.running.pop(role)
                assert process.end(signal.SIGTERM) == 0
                self._system.past.append(process)
            elif action == "reload":
                self._system.running[role].process.send_signal(signal.SIGHUP)
            else:
                assert action == "start"
                self._system.start(role)
        elif program == "ln":
            subprocess.run([program, *words], check=True)
        else:
            assert program == "pybcast"
            status, self.said, err = self._system.command(*words)
            assert status == 0, err + self.said
