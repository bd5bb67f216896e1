# SPDX-License-Identifier: Apache-2.0
"""IPsec under broadcast traffic keys: security associations of the Linux kernel, as lines for ``ip -batch -`` (signalling 5.1).

ESP in transport mode, AES-128-CBC (RFC 3602) with HMAC-SHA-1-96 (RFC 2404) or without authentication.  An association is named by
its destination address and the SPI of the STKM (256 or more; RFC 4303, 2.1).  Lines hold keys: they go to ``ip`` on its standard
input, never among the arguments of a command, which anyone on the machine may read.

At a headend (``UseKey``, ``StopTraffic``) a policy says under which SPI packets to the destination leave.  A key change makes the
new association, changes the policy to it, and only then takes the old one away: no packet is in between, and none leaves in
clear, ever, since without an association the policy lets nothing out.  The kernel itself ends an association at the end of its
authority (R9), even when nobody is there to tell it.  In a terminal (``TekReady``, ``TekExpired``) each key is an association of
its own until its lifetime ends (R42), and a policy refuses what arrives in clear.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pybcast.errors import BadValue, ConfigError, TransportError
from pybcast.flows.events import Alarm, StopTraffic, TekExpired, TekReady, UseKey
from pybcast.messages import Protocol
from pybcast.outlets.keyline import KeyOutput
from pybcast.outlets.media import Alarms, log_alarm

LOG: Final = logging.getLogger("pybcast.media")
MIN_SPI: Final = 256  # RFC 4303, 2.1: the lower ones are reserved
SPI_SIZE: Final = 4
REPLAY_WINDOW: Final = 32  # packets, in a terminal - confidence: own
CIPHER: Final = "cbc(aes)"
MAC: Final = "hmac(sha1)"
MAC_BITS: Final = 96
PATIENCE: Final = 10.0  # seconds for ``ip`` to carry out what takes milliseconds
_DELETE: Final = "xfrm state delete "
_GONE: Final = "No such process"  # ESRCH, of an association that the kernel has not
_KEY_LIKE: Final = re.compile(r"(0x)?[0-9A-Fa-f]{16,}")


@dataclass(frozen=True, slots=True)
class Traffic:
    """The packets that an association is for: to ``destination``, UDP ``port`` (0: any), from ``source`` (empty: any)."""

    destination: str
    port: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        try:
            version = ipaddress.ip_address(self.destination).version
            fits = not self.source or ipaddress.ip_address(self.source).version == version
        except ValueError:
            fits = False
        if not fits or not 0 <= self.port <= 65535:
            raise ConfigError("expected numeric addresses of one kind and a port")

    @property
    def any(self) -> str:
        return "::" if ":" in self.destination else "0.0.0.0"

    def ends(self) -> str:
        """Its addresses, as of a state or a template."""
        return f"src {self.source or self.any} dst {self.destination}"

    def selector(self) -> str:
        """Its packets, as of a policy."""
        bits = 128 if ":" in self.destination else 32
        source = f"{self.source}/{bits}" if self.source else f"{self.any}/0"
        return f"src {source} dst {self.destination}/{bits} proto udp" + (f" dport {self.port}" if self.port else "")


def spi(mki: bytes) -> int:
    """The SPI in a key line; ``BadValue`` when it is none."""
    value = int.from_bytes(mki)
    if len(mki) != SPI_SIZE or value < MIN_SPI:
        raise BadValue(None, "mki", f"an SPI of {SPI_SIZE} bytes, {MIN_SPI} or more", mki.hex())
    return value


def state_line(action: str, traffic: Traffic, key: UseKey | TekReady, seconds: float, *, inbound: bool) -> str:
    """``ip xfrm`` arguments that make (``add``) or change (``update``) the association of ``key``, for ``seconds`` from when it was
    made.  Raises ``BadValue`` for a key that is not for IPsec.
    """
    if key.protocol is not Protocol.IPSEC:
        raise BadValue(None, "protocol", "IPSEC", key.protocol.name)
    words = [f"xfrm state {action} {traffic.ends()} proto esp spi {spi(key.mki):#010x} mode transport"]
    if inbound:
        words.append(f"replay-window {REPLAY_WINDOW}")
    if seconds < math.inf:
        words.append(f"limit time-hard {max(1, math.floor(seconds))}")
    words.append(f"enc {CIPHER} 0x{key.tek.reveal().hex()}")
    if key.auth_key is not None:
        words.append(f"auth-trunc {MAC} 0x{key.auth_key.reveal().hex()} {MAC_BITS}")
    return " ".join(words)


def delete_line(traffic: Traffic, mki: bytes) -> str:
    """``ip xfrm`` arguments that take an association away."""
    return f"{_DELETE}{traffic.ends()} proto esp spi {spi(mki):#010x}"


def policy_line(traffic: Traffic, direction: str, mki: bytes | None = None) -> str:
    """``ip xfrm`` arguments: packets pass only under ESP - ``out``: under the association of ``mki``, or not at all without one."""
    line = f"xfrm policy update dir {direction} {traffic.selector()}"
    if direction == "out" and mki is None:
        return f"{line} action block"
    under = "" if mki is None else f" spi {spi(mki):#010x}"
    return f"{line} action allow tmpl {traffic.ends()} proto esp{under} mode transport level required"


class Associations:
    """An ``Outlet``: what a key socket says of one stream, as batches of lines for ``apply``.  Sans-I/O; ``clock``: NTP seconds.

    ``begin`` makes the policy before the first key.  ``present``: SPIs that the kernel has already, from a process before this one:
    they stay as they are.  Alarms (codes): ``key-refused``, ``no-authority``.
    """

    def __init__(
        self,
        service: str,
        stream: int,
        traffic: Traffic,
        apply: Callable[[Sequence[str]], None],
        clock: Callable[[], float],
        *,
        inbound: bool = False,
        present: frozenset[int] = frozenset(),
        alarm: Callable[[Alarm], None] = log_alarm,
    ) -> None:
        self.service, self.stream = service, stream
        self.changes = 0
        self._traffic, self._apply, self._clock, self._inbound = traffic, apply, clock, inbound
        self._present = set(present)
        self._held: dict[bytes, tuple[UseKey | TekReady, float]] = {}  # by SPI, and when it was made
        self._until = math.inf
        self._alarms = Alarms(service, stream, alarm)

    @property
    def spis(self) -> tuple[int, ...]:
        """Of the associations that are in use."""
        return tuple(map(spi, self._held))

    def begin(self) -> None:
        """From now on nothing passes in clear.  What a process before this one let out goes on until the next key."""
        if self._inbound:
            self._apply([policy_line(self._traffic, "in")])
        elif not self._present:
            self._apply([policy_line(self._traffic, "out")])

    def put(self, output: KeyOutput) -> None:
        """Make, change or take away associations; what is for the other side is passed over."""
        match output:
            case UseKey() | TekReady() if self._inbound is isinstance(output, TekReady):
                try:
                    self._take(output)
                except BadValue as error:
                    self._alarms.set("key-refused", str(error))
                else:
                    self._alarms.clear("key-refused")
            case StopTraffic() if not self._inbound:
                self._stop("the BSD/A says stop: nothing goes out")
            case TekExpired() if self._inbound and output.mki in self._held:
                del self._held[output.mki]
                self._apply([delete_line(self._traffic, output.mki)])

    def _take(self, key: UseKey | TekReady) -> None:
        now, name = self._clock(), spi(key.mki)
        end = key.until if isinstance(key, TekReady) else math.inf if key.authority_end is None else key.authority_end
        if end <= now:
            self._expire(key.mki, end)
            return
        held = self._held.get(key.mki)
        if held is None and name in self._present:
            lines = []
            made = -math.inf  # by another process; its time runs already
        elif held is None:
            lines, made = [state_line("add", self._traffic, key, end - now, inbound=self._inbound)], now
        else:
            if key == held[0]:
                return
            if (key.tek, key.auth_key) != (held[0].tek, held[0].auth_key):
                raise BadValue(None, "mki", "an SPI that names no other key", key.mki.hex())
            made = held[1]  # limits count from there
            lines = [] if made == -math.inf else [state_line("update", self._traffic, key, end - made, inbound=self._inbound)]
        if not self._inbound:
            gone = sorted(self._names() - {key.mki})
            lines.append(policy_line(self._traffic, "out", key.mki))
            lines += [delete_line(self._traffic, mki) for mki in gone]
            for mki in gone:
                self._held.pop(mki, None)
            self._present &= {name}
            self._until = end
            self._alarms.clear("no-authority")
        self.changes += held is None
        self._held[key.mki] = key, made
        self._apply(lines)

    def _expire(self, mki: bytes, end: float) -> None:
        if self._inbound:
            self.put(TekExpired(self.service, self.stream, mki))
        elif mki in self._held or not self._held:
            self._until = end
            self.look(self._clock())

    def _names(self) -> set[bytes]:
        """Of all associations that the kernel has."""
        return {*self._held, *(number.to_bytes(SPI_SIZE) for number in self._present)}

    def _stop(self, why: str) -> None:
        gone = [delete_line(self._traffic, mki) for mki in sorted(self._names())]
        self._apply([policy_line(self._traffic, "out"), *gone])
        self._held.clear()
        self._present.clear()
        self._until = math.inf
        self._alarms.set("no-authority", why)

    def look(self, now: float) -> None:
        """Let time pass: what the kernel has ended by itself is ended here too."""
        if self._inbound:
            ended = [mki for mki, (key, _) in self._held.items() if isinstance(key, TekReady) and now >= key.until]
            for mki in ended:
                self.put(TekExpired(self.service, self.stream, mki))
        elif now >= self._until:
            self._stop("the authority of its key has ended and no newer key has come: nothing goes out")

    def figures(self) -> dict[str, Any]:
        """What to show an operator."""
        spis = [f"{number:08x}" for number in self.spis]
        return {
            "service": self.service, "stream": self.stream, "spis": spis, "changes": self.changes,
            "alarms": list(self._alarms.active),
        }  # fmt: skip


class Ip:
    """Runs ``ip -batch -``: batches one after the other, each in a process that reads it from its standard input.

    ``ip xfrm`` ends at the first line that fails, so that the policy stays as it was when an association cannot be made.
    Associations that are taken away may be gone already: each is a matter of its own.
    """

    def __init__(self, program: str = "ip") -> None:
        self._program = program
        self._queue: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        self.failures = 0

    def put(self, lines: Sequence[str]) -> None:
        """Have them carried out, after those before."""
        if lines:
            self._queue.put_nowait(lines)

    async def run(self) -> None:
        """Until cancelled.  A batch that fails is said, its other lines are carried out all the same."""
        while True:
            lines = await self._queue.get()
            try:
                await self._batch(lines)
            except TransportError as error:
                self.failures += 1
                LOG.error("ip xfrm: %s", str(error), extra={"fields": {"event": "xfrm-failed"}})
            finally:
                self._queue.task_done()

    async def done(self) -> None:
        """Until all that was put has been carried out."""
        await self._queue.join()

    async def _batch(self, lines: Sequence[str]) -> None:
        makes = [line for line in lines if not line.startswith(_DELETE)]
        if makes:
            await self._call(["-batch", "-"], "".join(line + "\n" for line in makes))
        for line in lines:
            if line.startswith(_DELETE):
                try:
                    await self._call(["-batch", "-"], line + "\n")
                except TransportError as error:
                    if _GONE not in str(error):
                        raise

    async def _call(self, arguments: Sequence[str], said: str) -> str:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(self._program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise TransportError(f"{self._program}: {error.strerror or error}") from None
        try:
            out, complaint = await asyncio.wait_for(process.communicate(said.encode()), PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise TransportError(f"{self._program} does not end") from None
        if process.returncode or complaint:
            raise TransportError(_without_keys(complaint.decode("utf-8", "replace")) or f"status {process.returncode}")
        return out.decode("utf-8", "replace")

    async def present(self, traffic: Traffic) -> frozenset[int]:
        """SPIs of the associations that the kernel has for these packets."""
        shown = await self._call(["xfrm", "state", "list", "nokeys", "dst", traffic.destination, "proto", "esp"], "")
        return frozenset(int(found, 16) for found in re.findall(r"\bspi (0x[0-9a-f]{8})\b", shown))


def _without_keys(text: str) -> str:
    return _KEY_LIKE.sub("<key>", " ".join(text.split()))[:300]
