# SPDX-License-Identifier: Apache-2.0
"""The life of the processes that put on air what a BSD/A says: start, reload, stop, and the exit status, as those of ``daemon``.

They read the BSD/A's configuration file, but no key that it names.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from typing import Final

from pybcast.broadcast.sender import Sender, Settings, Shown
from pybcast.errors import ConfigError
from pybcast.outlets.keysocket import KeyServer
from pybcast.servers import log
from pybcast.servers.air import JsonLinesAir
from pybcast.servers.config import ServerConfig, load
from pybcast.servers.daemon import CLEAN, OUR_FAULT, USAGE
from pybcast.servers.toml import Address

LOG: Final = logging.getLogger("pybcast.air")


def serve_stkms(config: ServerConfig, realtime: int) -> int:
    """Run the STKM sender until a signal; the exit status.  ``ConfigError`` when the configuration names none."""
    settings = stkm_settings(config)

    def reload() -> Settings | None:
        try:
            fresh = load(config.path)
            if fresh.air != config.air:
                raise ConfigError(f"{fresh.path}: air: needs a restart")
            return stkm_settings(fresh)
        except ConfigError as error:
            LOG.error("not reloaded: %s", error, extra={"fields": {"event": "not-reloaded", "why": str(error)}})
            return None

    def ready() -> None:
        streams = len({key[:2] for key in settings.groups})
        LOG.info("the STKM sender of %s is ready", config.me, extra={"fields": {"event": "ready", "streams": streams}})

    def life() -> None:
        keys = None if config.keys is None else KeyServer(config.keys)
        shown = (
            None
            if not config.events
            else JsonLinesAir(config.events, content=config.air.content, limit=config.air.events_size << 20)
        )
        try:
            Sender(
                settings, keys=keys, shown=_nothing if shown is None else shown.show, realtime=realtime, reload=reload, ready=ready,
            ).run()  # fmt: skip
        finally:
            if shown is not None:
                shown.close()

    return lived(config, life)


def _nothing(output: Shown) -> None:
    """Nobody wants to see what goes on air."""


def lived(config: ServerConfig, life: Callable[[], None]) -> int:
    """The exit status of a process; its log goes where the configuration says."""
    log.start(config.log.format, config.log.level)
    try:
        life()
    except ConfigError as error:
        LOG.critical("cannot start: %s", error, extra={"fields": {"event": "refused"}})
        return USAGE
    except Exception as error:
        LOG.critical("stopped", exc_info=error, extra={"fields": {"event": "fatal"}})
        return OUR_FAULT
    LOG.info("stopped", extra={"fields": {"event": "stopped"}})
    return CLEAN


def stkm_settings(config: ServerConfig) -> Settings:
    """What of a BSD/A's configuration the sender needs."""
    if config.role != "bsda":
        raise ConfigError(f"{config.path}: is the configuration of a {config.role}, not of a bsda")
    if config.sender is None:
        raise ConfigError(f"{config.path}: air.sender: missing: the socket on which the BSD/A finds the sender")
    if config.heartbeat is not None and not config.pair_source:
        raise ConfigError(f"{config.path}: air.heartbeat: needs server.pair_secret: who else could silence this sender")
    return Settings(
        path=config.sender, interface=ipv4(config, "air.interface", config.air.interface), ttl=config.air.ttl,
        groups={key: place(config, "stkm", address) for key, address in config.groups.items()},
        heartbeat=None if config.heartbeat is None else place(config, "air.heartbeat", config.heartbeat),
        priority=config.air.priority, detection=config.air.detection,
    )  # fmt: skip


def place(config: ServerConfig, key: str, address: Address) -> tuple[str, int]:
    """Where datagrams go."""
    return ipv4(config, key, address.host), address.port


def ipv4(config: ServerConfig, key: str, text: str) -> str:
    """An IPv4 address: this program sends over nothing else."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ConfigError(f"{config.path}: {key}: {text}: expected an IPv4 address, nothing is sent over IPv6") from None
