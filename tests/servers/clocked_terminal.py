# SPDX-License-Identifier: Apache-2.0
"""``pybcast terminal CREDENTIALS SDP... --keys SOCKET`` under a clock that a test can step, as ``clocked`` for servers:
``python clocked_terminal.py CREDENTIALS SOCKET SDP...``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clocked import Stepped

from pybcast.sdp import parse
from pybcast.servers.credentials import load
from pybcast.terminals.process import Options, TerminalProcess

if __name__ == "__main__":
    credentials, keys, *descriptions = map(Path, sys.argv[1:])
    sessions = [parse(path.read_bytes()) for path in descriptions]
    options = Options(via="broadcast", keys=keys)
    sys.exit(TerminalProcess(load(credentials), sessions, options, Stepped(credentials.with_suffix(".clock"))).serve())
