# SPDX-License-Identifier: Apache-2.0
"""A terminal's stream for a player that knows no keys: SRTP with MKI in, RTP out (signalling 5.2, rules R38, R39, R42).

It obeys the lines of a terminal's key socket, or the terminal itself.  What does not open is dropped and counted; what opens
goes on in the order in which it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pybcast.errors import BcastError, KeyUnavailable, Replay
from pybcast.flows.events import Alarm, TekExpired, TekReady
from pybcast.messages import Protocol
from pybcast.outlets.keyline import KeyOutput
from pybcast.outlets.media import Alarms, log_alarm
from pybcast.outlets.srtp import SrtpUnprotector

LOOKS: Final = 2  # a second apart: packets have come and not opened for a second at least


class Open:
    """A ``Converter``: opens the SRTP packets of one stream.

    Alarms (codes): ``key-refused`` a key could not be used; ``dark`` packets come and for a second none has opened, whatever the
    cause, until one opens again.
    """

    def __init__(self, service: str, stream: int = 1, alarm: Callable[[Alarm], None] = log_alarm) -> None:
        self.service, self.stream = service, stream
        self.opened = self.without_key = self.refused = self.repeated = 0
        """Packets that opened; whose key is not held; that were wrong; that came before."""
        self._alarms = Alarms(service, stream, alarm)
        self._srtp = SrtpUnprotector()
        self._until: dict[bytes, float] = {}
        self._next_end = 0.0
        self._before = (0, 0)  # at the last look: packets that opened, that came
        self._failing = 0  # looks since one opened at which some had come
        self._last = ""  # why the last did not open

    @property
    def mkis(self) -> tuple[bytes, ...]:
        """Of the keys held, oldest first."""
        return self._srtp.mkis

    def put(self, output: KeyOutput) -> None:
        """Take or give up a key; what is not for players is passed over."""
        if isinstance(output, TekReady):
            if output.protocol is not Protocol.SRTP or output.salt is None:
                self._alarms.set("key-refused", f"a key for {output.protocol.name}, not for SRTP")
                return
            try:
                self._srtp.add_key(output.mki, output.tek, output.salt)
            except BcastError as error:
                self._alarms.set("key-refused", str(error))
                return
            self._until[output.mki] = output.until
            self._alarms.clear("key-refused")
        elif isinstance(output, TekExpired):
            self._srtp.remove_key(output.mki)
        else:
            return
        self._count_ends()

    def _count_ends(self) -> None:
        self._until = {mki: self._until[mki] for mki in self._srtp.mkis}  # the oldest may have made room
        self._next_end = min(self._until.values(), default=float("inf"))

    def may_pass(self, now: float) -> bool:
        """Is a key held?"""
        self._expire(now)
        return bool(self._until)

    def convert(self, packet: bytes, now: float) -> bytes | None:
        """The RTP packet inside an SRTP packet; ``None`` when it does not open."""
        if now >= self._next_end:
            self._expire(now)
        try:
            clear = self._srtp.unprotect(packet)
        except KeyUnavailable as error:
            self.without_key += 1
            self._last = str(error)
        except Replay as error:
            self.repeated += 1
            self._last = str(error)
        except BcastError as error:
            self.refused += 1
            self._last = str(error)
        else:
            self.opened += 1
            return clear
        return None

    def _expire(self, now: float) -> None:
        """A terminal that died says nothing when its keys have to go (R42)."""
        for mki in [mki for mki, until in self._until.items() if now >= until]:
            self._srtp.remove_key(mki)
        self._count_ends()

    def look(self, now: float) -> None:
        """Raise and take back what depends on the time."""
        self._expire(now)
        came = self.opened + self.without_key + self.refused + self.repeated
        before, self._before = self._before, (self.opened, came)
        if self.opened > before[0]:
            self._failing = 0
            self._alarms.clear("dark")
        elif came > before[1]:
            self._failing += 1
            if self._failing >= LOOKS:
                self._alarms.set_once("dark", f"packets come and none opens; the last one: {self._last}")

    def figures(self) -> dict[str, Any]:
        """What to show an operator."""
        return {
            "mkis": [mki.hex() for mki in self._srtp.mkis], "opened": self.opened, "without_key": self.without_key,
            "refused": self.refused, "repeated": self.repeated, "alarms": list(self._alarms.active),
        }  # fmt: skip

    def wipe(self) -> None:
        """Forget the keys."""
        self._srtp.wipe()
        self._count_ends()
