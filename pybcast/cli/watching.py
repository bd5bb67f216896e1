# SPDX-License-Identifier: Apache-2.0
"""``pybcast watch``: what running servers say of themselves, as a picture for a screen or as changes for a log.

A server is asked for its status and its keys' ids, over its control socket; one that does not answer is shown
as such and asked again.  ``Snapshot`` is one answer, ``changes`` what is new in the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pybcast.cli import output
from pybcast.cli.asking import config_of, shown_time
from pybcast.errors import BcastError
from pybcast.wire.times import NTP_UNIX

PATIENCE: Final = 2.0  # seconds for an answer
SHOWN: Final = 200  # streams that are asked for: no screen shows more
ALARMS: Final = 5
STYLES: Final = {"green": "green", "yellow": "yellow", "red": "bold red", "none": "bold red"}
_RANK: Final = {"red": 0, "none": 0, "yellow": 1, "green": 2}

Row = dict[str, Any]
Ask = Callable[[Path, str, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Server:
    """One of those watched: how it is called here, and its socket."""

    name: str
    control: Path


@dataclass(frozen=True)
class Snapshot:
    """What a server said once; ``error``: why it said nothing.  ``time``: NTP seconds, its own clock's."""

    server: str
    error: str = ""
    role: str = ""
    id: str = ""
    light: str = "none"
    up: float = 0.0
    time: float = 0.0
    services: tuple[Row, ...] = ()
    keys: tuple[Row, ...] = ()
    peers: tuple[Row, ...] = ()
    alarms: tuple[Row, ...] = ()

    def keys_of(self, row: Row) -> list[Row]:
        """The periods (BSD/A) or long-term keys (BSM) of a service's row, oldest first."""
        return [key for key in self.keys if (key["service"], key["stream"]) == (row["service"], row["stream"])]


def servers(configs: Sequence[Path]) -> list[Server]:
    """Those of the configurations.  ``ConfigError``."""
    return [Server(str(path), config_of(path).control) for path in configs]


def ask(control: Path, command: str, arguments: Mapping[str, Any]) -> Any:
    """The real question."""
    from pybcast.servers import control as asking

    return asking.ask(control, command, timeout=PATIENCE, **arguments)


def look(server: Server, service: str | None, asking: Ask = ask) -> Snapshot:
    """Ask one server."""
    try:
        status = asking(server.control, "status", {})
        keys = asking(server.control, "keys", {"service": service, "limit": SHOWN})
        services = [row for row in status["services"] if service in (None, row["service"])]
        return Snapshot(
            server=server.name, role=status["role"], id=status["id"], light=status["light"], up=status["up"], time=status["time"],
            services=tuple(services), keys=tuple(keys), peers=tuple(status["peers"]), alarms=tuple(status["alarms"]),
        )  # fmt: skip
    except BcastError as error:
        return Snapshot(server=server.name, error=str(error))
    except (LookupError, TypeError, ValueError) as error:  # another version's answer
        return Snapshot(server=server.name, error=f"an answer that is not understood: {type(error).__name__}")


# --- changes ------------------------------------------------------------------------------------------------------------


def changes(before: Snapshot | None, now: Snapshot) -> Iterator[Row]:
    """What ``now`` says that ``before`` did not, as rows with ``event``: server, peer, service, key, alarm."""
    head = {"server": now.server, "role": now.role, "id": now.id}
    old = before if before is not None else Snapshot(now.server)
    if before is None or (now.light, now.error) != (old.light, old.error):
        yield {"event": "server", **head, "light": now.light, "error": now.error}
    if now.error:
        return
    peers = {row["peer"]: (row["light"], row["error"]) for row in old.peers}
    for row in now.peers:
        if peers.get(row["peer"]) != (row["light"], row["error"]):
            yield {"event": "peer", **head, "peer": row["peer"], "light": row["light"], "error": row["error"]}
    lights = {(row["service"], row["stream"]): (row["light"], row["why"]) for row in old.services}
    for row in now.services:
        if lights.get((row["service"], row["stream"])) != (row["light"], row["why"]):
            yield {"event": "service", **head, **{name: row[name] for name in ("service", "stream", "light", "why")}}
    keys = list(old.keys)
    for row in now.keys:
        if row not in keys:
            yield {"event": "key", **head, **row}
    raised = list(old.alarms)
    for row in now.alarms:
        if row not in raised:
            yield {"event": "alarm", **head, **row}


def as_line(row: Row) -> str:
    """A change for people who read a log."""
    head = f"{row['role'] or row['server']}{' ' + row['id'] if row['id'] else ''}"
    match row["event"]:
        case "server":
            return f"{head}: {row['light']}" + (f": {row['error']}" if row["error"] else "")
        case "peer":
            return f"{head}: peer {row['peer']} {row['light']}" + (f": {row['error']}" if row["error"] else "")
        case "service":
            return f"{head}: {row['service']} stream {row['stream']} {row['light']}" + (f": {row['why']}" if row["why"] else "")
        case "alarm":
            return f"{head}: alarm {row['code']}: {row['service']} stream {row['stream']}: {row['text']}"
    return (
        f"{head}: {row['service']} stream {row['stream']} key {_key_name(row)} {row['state']}, "
        f"{shown_time(row['start'])} to {shown_time(row['end'])}"
    )


def _key_name(row: Row) -> str:
    """The ids of a key: of a period MKI, SPI or key indicator, then what its STKMs name; of a long-term key its own."""
    if "key_type" in row:
        return f"{row['key_type']} {row['key_id']}" + (f" of {row['programme']}" if row["programme"] else "")
    parts = [row["traffic_id"]]
    card, drm = row.get("smartcard", {}), row.get("drm", {})
    if card:
        parts.append(f"SEK {card['key_domain_id']} {card['sek_id']}, TEK {card['tek_id']}")
    if drm:
        names = {"service_CID_extension": "service", "programme_CID_extension": "programme"}
        parts.append("CID extension " + ", ".join(f"{names[name]} {value}" for name, value in drm.items()))
    return "; ".join(part for part in parts if part)


# --- the picture --------------------------------------------------------------------------------------------------------


def _text(value: object, style: str = "") -> Text:
    return Text(output.plain(value), style)


def _light(word: str) -> Text:
    return _text(word, STYLES.get(word, ""))


def _left(seconds: float) -> str:
    if seconds < 0:
        return f"{-seconds:.0f} s over"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:.0f} h"


def _table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for name in columns:
        made.add_column(name, overflow="fold", no_wrap=name in ("light", "stream"))
    return made


def picture(snapshots: Sequence[Snapshot], *, height: int | None = None) -> RenderableType:
    """All servers, one below the other.  ``height``: lines of the screen; what does not fit is counted, the reds come first."""
    parts: list[RenderableType] = []
    room = None if height is None else max(3, height // max(1, len(snapshots)) - 9)
    for found in snapshots:
        name = f" {found.role} {found.id}, up {_left(found.up)}" if not found.error else f" {found.server}: {found.error}"
        parts.append(Text.assemble(_light(found.light if not found.error else "red"), _text(name, "bold")))
        if not found.error:
            parts += [_services(found, room), *_peers(found), *_alarms(found)]
        parts.append(Text(""))
    return Group(*parts)


def _services(found: Snapshot, room: int | None) -> RenderableType:
    bsda = found.role == "bsda"
    table = _table("light", "service", "stream", "period" if bsda else "in force", "keys in use", "next", "")
    rows = sorted(found.services, key=lambda row: _RANK.get(row["light"], 0))
    for row in rows[:room]:
        keys = found.keys_of(row)
        if bsda:
            used = [key for key in keys if key["state"] in ("in use", "held")]
        else:
            used = [key for key in keys if key["start"] <= found.time < key["end"]]
        coming = [key for key in keys if key not in used and key["end"] > found.time]
        now = used[-1] if used else None
        span = "" if now is None else f"{_clock(now['start'])}-{_clock(now['end'])}, {_left(now['end'] - found.time)}"
        following = [f"{_left(key['start'] - found.time)}: {_key_name(key)} ({key['state']})" for key in coming]
        names = _text(" / ".join(map(_key_name, used)) or "none", "" if used else "yellow")
        table.add_row(
            _light(row["light"]), _text(row["service"]), _text(row["stream"]), _text(span), names,
            _text(" / ".join(following)), _text(row["why"]),
        )  # fmt: skip
    if room is not None and len(rows) > room:
        table.add_row("", _text(f"and {len(rows) - room} more"))
    return table


def _clock(seconds: float) -> str:
    return shown_time(seconds)[11:]


def _peers(found: Snapshot) -> Iterator[RenderableType]:
    for row in found.peers:
        heard = "never heard" if row["heard"] is None else f"heard {row['heard']:.0f} s ago"
        error = f", {row['error']}" if row["error"] else ""
        yield Text.assemble("peer ", _light(row["light"]), _text(f" {row['peer']}, {heard}{error}"))


def _alarms(found: Snapshot) -> Iterator[RenderableType]:
    for row in found.alarms[-ALARMS:]:
        yield _text(f"{_clock(row['time'])} alarm {row['code']}: {row['service']} stream {row['stream']}: {row['text']}", "yellow")


# --- running ------------------------------------------------------------------------------------------------------------


@dataclass
class Watcher:
    """Asks, and shows, until ``stop(seconds)``, which waits so long, says that it is enough."""

    servers: Sequence[Server]
    every: float
    stop: Callable[[float], bool]
    service: str | None = None
    asking: Ask = ask

    def look(self) -> list[Snapshot]:
        """Ask all."""
        return [look(server, self.service, self.asking) for server in self.servers]

    def rounds(self) -> Iterator[list[Snapshot]]:
        """Ask again and again, at steady times."""
        due = now = time.monotonic()
        while not self.stop(due - now):
            yield self.look()
            now = time.monotonic()
            due = max(due + self.every, now)

    def live(self, console: Console) -> None:
        """A picture that renews itself on a screen."""
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for snapshots in self.rounds():
                live.update(picture(snapshots, height=console.height), refresh=True)

    def lines(self, *, as_json: bool) -> None:
        """Changes, one a line."""
        before: dict[str, Snapshot] = {}
        for snapshots in self.rounds():
            for found in snapshots:
                for row in changes(before.get(found.server), found):
                    moment = shown_time(time.time() + NTP_UNIX).replace(" ", "T") + "Z"
                    output.say_json({"time": moment, **_as_told(row)}) if as_json else output.say(
                        output.plain(f"{moment} {as_line(row)}")
                    )
                before[found.server] = found
            output.flush()


def _as_told(row: Row) -> Row:
    """``time`` is when a change was seen; an alarm has one of its own."""
    return {("raised" if name == "time" else name): value for name, value in row.items()}
