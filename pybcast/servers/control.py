# SPDX-License-Identifier: Apache-2.0
"""The operator's socket: a Unix socket of mode 0600, one JSON object a line in each direction.

``{"command": NAME, ...}`` is answered by ``{"ok": true, "result": ...}`` or ``{"ok": false, "error": {...}}``.  Who may open the
socket may do everything: it is the owner's, and the peer's user is looked at once more.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pybcast import jsontext
from pybcast.errors import BadValue, BcastError, ConfigError, TransportError
from pybcast.unixsocket import connected, listening, trusted

LOG: Final = logging.getLogger("pybcast.control")
MAX_LINE: Final = 4 << 20  # octets of a command: some ten thousand subscribers
TIMEOUT: Final = 60.0  # seconds a client waits for the answer
QUIET: Final = frozenset({"status", "keys"})  # commands that watchers ask every second: not worth a line each
Command = Callable[[Mapping[str, Any]], Awaitable[Any]]


class NoServer(TransportError):
    """Nobody listens on the socket."""


class ControlServer:
    """Answers commands with what ``commands[name](arguments)`` gives: plain JSON."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path, self._commands = path, commands
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.  ``ConfigError`` when the path cannot be had.  An old socket is replaced: the caller holds the database."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listening(self._path), limit=MAX_LINE)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not trusted(writer):
                return
            while line := await reader.readline():
                writer.write((json.dumps(await self._answer(line)) + "\n").encode())
                await writer.drain()
        except (OSError, ValueError):
            pass  # gone, or a line without end
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        name = ""
        try:
            asked = jsontext.read(line, "command")
            name = asked.pop("command")
            command = self._commands.get(name)
            if command is None:
                raise ConfigError(f"no command {str(name)[:40]!r}")
            result = await command(asked)
        except BcastError as error:
            return {"ok": False, "error": error.as_dict()}
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # of what was asked; its text may repeat it
            LOG.warning("command %s: %s", str(name)[:40], type(error).__name__)
            return {"ok": False, "error": ConfigError(f"{name or 'command'}: {type(error).__name__}").as_dict()}
        level = logging.DEBUG if name in QUIET else logging.INFO
        LOG.log(level, "command %s", name, extra={"fields": {"event": "command", "command": name}})
        return {"ok": True, "result": result}


def ask(path: Path, command: str, *, timeout: float = TIMEOUT, **arguments: Any) -> Any:
    """Ask a running server.

    ``TransportError`` when it does not answer within ``timeout`` s or belongs to another user: what is said may hold keys.
    ``ConfigError`` when it refuses.
    """
    try:
        with connected(path, timeout) as connection:
            connection.sendall((json.dumps({"command": command, **arguments}) + "\n").encode())
            with connection.makefile("rb") as file:
                line = file.readline()
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoServer(f"no server at {path}: is it running?") from None
    except ConnectionError:
        line = b""  # reset while we wrote, or waited
    except PermissionError:
        raise TransportError(f"{path}: permission denied: only the server's own user may command it") from None
    except TimeoutError:
        raise TransportError(f"{path}: no answer within {timeout:.0f} s") from None
    except OSError as error:
        raise TransportError(f"no server at {path}: {error.strerror or error}") from None
    if not line:
        raise TransportError(f"{path}: the server hung up: it stops, or another user runs it")
    try:
        answer = jsontext.read(line, "answer")
    except BadValue as error:
        raise TransportError(f"{path}: {error}") from None
    if not answer["ok"]:
        raise ConfigError(str(answer["error"].get("found") or answer["error"]))
    return answer["result"]
