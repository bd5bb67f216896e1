# SPDX-License-Identifier: Apache-2.0
"""An encoder's stream under the BSD/A's traffic keys: RTP in, SRTP with MKI out (signalling 5.2, rules R9, R38-R40).

It obeys the lines of a key socket: each ``UseKey`` changes the key at once, the key of a ``NextKey`` is taken at its start without
another word, ``StopTraffic`` and the end of a key's authority let nothing out until the next.  While nobody says anything the last
key is held: whoever dies stops no media before the authority that was given has ended.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pybcast import jsontext
from pybcast.errors import BcastError
from pybcast.flows.events import Alarm, NextKey, StopTraffic, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.keyline import HANDOVER, KeyOutput
from pybcast.outlets.media import Alarms, log_alarm
from pybcast.outlets.srtp import MKI_SIZES, ROC_TRIES, TAG_SIZE, SrtpProtector

LOG: Final = logging.getLogger("pybcast.media")
NEVER: Final = -math.inf
FROM_ENCODER: Final = 1472  # bytes of RTP: what Ethernet's 1,500 leave behind IPv4 and UDP headers. FFmpeg fills it by default
MTU: Final = FROM_ENCODER + MKI_SIZES[-1] + TAG_SIZE + 48  # bytes of an IP packet: so that each of those goes out, over IPv6 too
KEPT: Final = 60  # looks, a second apart, without a packet that is too large before that alarm is over


class Protect:
    """A ``Converter``: protects the RTP packets of one stream.

    Alarms (codes): ``no-authority`` nothing goes out since the authority of the key has ended, or the BSD/A said stop;
    ``key-refused`` a key could not be used, the last one is held; ``media-refused`` packets that could not be protected did not go
    out; ``packet-too-large`` nor did packets that would have been above the MTU; ``restart-stream`` the stream has wrapped so
    often that terminals which tune in no longer find it (R39).
    """

    def __init__(
        self,
        service: str,
        stream: int = 1,
        alarm: Callable[[Alarm], None] = log_alarm,
        *,
        mtu: int = MTU,
        headers: int = 28,
    ) -> None:
        """``mtu``: bytes of the largest IP packet to send.  ``headers``: how many of them are IP's and UDP's."""
        self.service, self.stream = service, stream
        self.protected = self.stopped = self.refused = self.too_large = self.changes = 0
        """Packets that went out, that came while nothing might, that could not be protected, that were above the MTU; keys taken
        into use."""
        self._mtu, self._headers = mtu, headers
        self._largest = 0  # bytes of RTP under the key in use
        self._too_large_before = self._since_too_large = 0
        self._alarms = Alarms(service, stream, alarm)
        self._srtp = SrtpProtector()
        self._until = NEVER  # when the authority ends
        self._next: UseKey | None = None
        self._next_at = math.inf  # when that is taken
        self._refused_before = 0

    @property
    def streams(self) -> dict[int, int]:
        """SSRC -> the highest packet index that went out, to be resumed by the next process."""
        return self._srtp.streams

    def resume(self, streams: Mapping[int, int]) -> None:
        """Go on with streams that another process has protected until now: their ROC belongs to them (R39)."""
        for ssrc, index in streams.items():
            self._srtp.resume(ssrc, index)

    def put(self, output: KeyOutput) -> None:
        """Obey; what is not for encoders is passed over."""
        if isinstance(output, NextKey):
            self._next, self._next_at = output.use, output.use.start
        elif isinstance(output, UseKey):
            self._expect_nothing()
            self._use(output)
        elif isinstance(output, StopTraffic):
            self._expect_nothing()
            self._until = NEVER
            self._alarms.set("no-authority", "the BSD/A says stop: nothing goes out")

    def _use(self, key: UseKey) -> None:
        before = self._srtp.mki
        if key.protocol is not Protocol.SRTP or key.salt is None:
            self._alarms.set("key-refused", f"a key for {key.protocol.name}, not for SRTP: holding the last one")
            return
        try:
            self._srtp.set_key(key.mki, key.tek, key.salt)
        except BcastError as error:
            self._alarms.set("key-refused", f"{error}: holding the last one")
            return
        self.changes += key.mki != before
        self._largest = self._mtu - self._headers - len(key.mki) - TAG_SIZE
        self._until = math.inf if key.authority_end is None else key.authority_end + HANDOVER
        self._alarms.clear("key-refused")
        self._alarms.clear("no-authority")

    def _expect_nothing(self) -> None:
        self._next, self._next_at = None, math.inf

    def _begin_next(self) -> None:
        use = self._next
        self._expect_nothing()
        if use is not None:
            self._use(use)

    def may_pass(self, now: float) -> bool:
        """Is there a key with authority?"""
        return now < self._until or now >= self._next_at

    def convert(self, packet: bytes, now: float) -> bytes | None:
        """The SRTP packet for an RTP packet; ``None`` when nothing may go out, or it is none."""
        if now >= self._next_at:
            self._begin_next()
        if now >= self._until:
            self.stopped += 1
            self.look(now)
            return None
        if len(packet) > self._largest:
            self.too_large += 1
            why = f"RTP of {len(packet)} bytes would be above the MTU of {self._mtu} and is not sent"
            self._alarms.set_once("packet-too-large", f"{why}: let the encoder make {self._largest} bytes at most")
            return None
        try:
            protected = self._srtp.protect(packet)
        except BcastError as error:
            if self.refused == self._refused_before:
                self._alarms.set_once("media-refused", str(error))
            self.refused += 1
            return None
        self.protected += 1
        return protected

    def look(self, now: float) -> None:
        """Raise and take back what depends on the time."""
        if now >= self._next_at:
            self._begin_next()
        if NEVER < self._until <= now:
            self._until = NEVER
            self._alarms.set("no-authority", "the authority of its key has ended and no newer key has come: nothing goes out")
        if self.refused == self._refused_before:
            self._alarms.clear("media-refused")
        self._refused_before = self.refused
        self._since_too_large = 0 if self.too_large > self._too_large_before else self._since_too_large + 1
        self._too_large_before = self.too_large
        if self._since_too_large >= KEPT:
            self._alarms.clear("packet-too-large")
        if self._srtp.roc >= ROC_TRIES:
            self._alarms.set("restart-stream", "restart the stream with a new SSRC: terminals that tune in no longer find it")
        else:
            self._alarms.clear("restart-stream")

    def figures(self) -> dict[str, Any]:
        """What to show an operator."""
        mki = self._srtp.mki
        return {
            "mki": None if mki is None else mki.hex(), "roc": self._srtp.roc, "protected": self.protected, "stopped": self.stopped,
            "refused": self.refused, "too_large": self.too_large, "changes": self.changes, "alarms": list(self._alarms.active),
        }  # fmt: skip

    def wipe(self) -> None:
        """Forget the key: nothing goes out until the next."""
        self._until = NEVER
        self._expect_nothing()
        self._srtp.wipe()


class Positions:
    """Where streams are, in a file: the next process goes on with their rollover counters (R39), not at 0.

    Without it, terminals would hear nothing from a process that was started again under the same key, if the stream had wrapped.
    The file is as old as the last ``save``, 32,767 packets at most, and holds no key.
    """

    def __init__(self, path: Path, streams: Sequence[Protect]) -> None:
        self._path, self._streams = path, streams
        self._saved: dict[str, dict[str, int]] = {}

    def load(self) -> None:
        """Resume what the file holds.  One that is missing or damaged is none: the streams begin anew."""
        try:
            found = jsontext.read(self._path.read_bytes())
            for stream in self._streams:
                of = found.get(self._name(stream), {})
                stream.resume({int(ssrc, 16): int(index) for ssrc, index in of.items()})
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError, BcastError) as error:
            LOG.warning("%s: no positions of streams in it: %s", str(self._path), type(error).__name__)

    def save(self) -> None:
        """Write, when anything has changed; a disk that takes nothing is said and stops no media."""
        positions = {self._name(s): {f"{ssrc:08x}": index for ssrc, index in s.streams.items()} for s in self._streams}
        if positions == self._saved:
            return
        new = self._path.with_name(self._path.name + ".new")
        try:
            new.write_text(json.dumps(positions), "ascii")
            new.replace(self._path)
        except OSError as error:
            LOG.warning("%s: cannot write positions of streams: %s", str(self._path), str(error.strerror))
        self._saved = positions

    @staticmethod
    def _name(stream: Protect) -> str:
        return f"{stream.stream} {stream.service}"
