# SPDX-License-Identifier: Apache-2.0
"""The life of the carousel's process: what of a BSD/A's configuration it needs, reload, exit status."""

from __future__ import annotations

import logging
from typing import Final

from pybcast.broadcast.carousel import Carousel, Settings
from pybcast.errors import ConfigError
from pybcast.servers.config import ServerConfig, load
from pybcast.servers.sending import ipv4, lived, place

LOG: Final = logging.getLogger("pybcast.air")


def serve_carousel(config: ServerConfig) -> int:
    """Run the carousel until a signal; the exit status.  ``ConfigError`` when the configuration names none."""
    settings = carousel_settings(config)

    def reload() -> Settings | None:
        try:
            fresh = load(config.path)
            if fresh.air != config.air:
                raise ConfigError(f"{fresh.path}: air: needs a restart")
            return carousel_settings(fresh)
        except ConfigError as error:
            LOG.error("not reloaded: %s", error, extra={"fields": {"event": "not-reloaded", "why": str(error)}})
            return None

    def ready() -> None:
        LOG.info("the carousel of %s is ready", config.me, extra={"fields": {"event": "ready", "services": len(settings.cycles)}})

    return lived(config, lambda: Carousel(settings, reload=reload, ready=ready).run())


def carousel_settings(config: ServerConfig) -> Settings:
    """What of a BSD/A's configuration the carousel needs."""
    if config.role != "bsda":
        raise ConfigError(f"{config.path}: is the configuration of a {config.role}, not of a bsda")
    if config.carousel is None:
        raise ConfigError(f"{config.path}: air.carousel: missing: the socket on which the BSD/A finds the carousel")
    cycles: dict[str, float] = {}
    for stream in config.streams:
        cycles[stream.service] = min(stream.carousel_cycle, cycles.get(stream.service, stream.carousel_cycle))
    return Settings(
        path=config.carousel, interface=ipv4(config, "air.interface", config.air.interface), ttl=config.air.ttl,
        ltkm=None if config.ltkm is None else place(config, "air.ltkm", config.ltkm),
        flute=None if config.flute is None else place(config, "air.flute", config.flute),
        tsi=config.air.tsi, rate=config.air.rate, cycles=cycles,
    )  # fmt: skip
