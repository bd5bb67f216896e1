# SPDX-License-Identifier: Apache-2.0
"""Keys for Python code in the same process: a function that is called with each of them, in a thread of its own.

The BSD/A or terminal that gives the keys never waits for the function, and what it raises is logged and goes no further.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from pybcast.flows.events import NextKey, TekExpired, TekReady
from pybcast.outlets.keyline import NEXT, KeyOutput

LOG: Final = logging.getLogger("pybcast.keys")
MAX_WAITING: Final = 65_536  # outputs that wait for a slow function; then the oldest are given up - confidence: own


class CallbackOutlet:
    """An ``Outlet`` that calls ``told`` with each output, in order, one at a time.

    A function that is slower than the keys come misses what is no longer true: of a stream whose next ``UseKey`` or ``StopTraffic``
    came while the last one waited, only the newest is told, and no ``NextKey`` of before it; so it is with what became of one key
    of a terminal.
    """

    def __init__(self, told: Callable[[KeyOutput], None]) -> None:
        self._told = told
        self._waiting: dict[tuple[str, int, bytes], KeyOutput] = {}
        self._order: deque[tuple[str, int, bytes]] = deque()
        self._change = threading.Condition()
        self._closing = False
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="pybcast-keys", daemon=True)
        self._thread.start()

    def put(self, output: KeyOutput) -> None:
        """Have it told; returns at once."""
        named = output.mki if isinstance(output, TekReady | TekExpired) else NEXT if isinstance(output, NextKey) else b""
        place, ahead = (output.service, output.stream, named), (output.service, output.stream, NEXT)
        with self._change:
            if not named and ahead in self._waiting:  # what was named ahead before this is taken back
                del self._waiting[ahead]
                self._order.remove(ahead)
            if place not in self._waiting:
                self._order.append(place)
            self._waiting[place] = output
            if len(self._order) > MAX_WAITING:
                del self._waiting[self._order.popleft()]
            self._change.notify()

    def close(self, timeout: float | None = None) -> None:
        """Tell what waits, then end; at most ``timeout`` seconds."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._order or self._closing)
                if not self._order:
                    return
                output = self._waiting.pop(self._order.popleft())
            try:
                self._told(output)
            except Exception:  # whatever it is, the next key must be told
                self.failures += 1
                LOG.exception("a callback for keys failed", extra={"fields": {"event": "keys-callback"}})
