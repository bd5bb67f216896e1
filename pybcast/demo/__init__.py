# SPDX-License-Identifier: Apache-2.0
"""Two protected services from encoder to player on one machine, under keys that change every two seconds.

Real H.264 in RTP over loopback UDP, protected by the BSD/A's side under the traffic keys of the key messages, opened by a DRM
terminal and a Smartcard terminal; a third terminal has no right and must see nothing.  The keys come from BSM and BSD/A as
processes (``daemons``), or from their flows in this one (``flowkeys``).
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pybcast.errors import ConfigError

if TYPE_CHECKING:
    from pybcast.demo.keyside import KeySide, Profile
    from pybcast.demo.station import Report

MIN_SECONDS = 1.0
MAX_SECONDS = 3600.0  # the record of every period is kept for the picture


def run(*, seconds: float, profile: str, json: bool, out: Path, in_process: bool = False, keys: KeySide | None = None) -> int:
    """Play the demo and report it on standard output; the timeline goes into the folder ``out``.

    ``profile``: ``drm``, ``smartcard`` or ``both``.  ``json``: one event a line, the last one the summary.  ``in_process``: the
    flows alone, without servers around them.  ``keys``: another key side than these two.  Returns 0, or 1 when a frame was lost,
    leaked to the terminal without right, or a flow did not run.  Raises ``ConfigError`` for an argument or a missing extra,
    ``TransportError`` when a part of the demo does not start.
    """
    # Not at the top: the children import this package too, and need none of it.
    from pybcast.demo import timeline
    from pybcast.demo.media import FRAME_RATE, require_av
    from pybcast.demo.report import reporter
    from pybcast.demo.station import Station

    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ConfigError(f"seconds: expected {MIN_SECONDS:g} to {MAX_SECONDS:g}, found {seconds:g}")
    profiles = _profiles(profile)
    timeline.require_matplotlib()
    require_av()
    with reporter(as_json=json, frames=round(seconds * FRAME_RATE), stream=sys.stdout) as say:
        held = nullcontext(keys) if keys is not None else _key_side(profiles, seconds, in_process, say.event)
        with held as key_side, Station(key_side, profiles, say.event) as station:
            record = station.run(seconds)
        failures = record.failures(key_side.flows)
        files = timeline.draw(record, out)
        say.result(record, failures, [str(path) for path in files])
    return 1 if failures else 0


def _profiles(profile: str) -> tuple[Profile, ...]:
    from pybcast.demo.keyside import PROFILES

    chosen: tuple[Profile, ...] = tuple(name for name in PROFILES if profile in (name, "both"))
    if not chosen:
        raise ConfigError(f"profile: expected drm, smartcard or both, found {profile}")
    return chosen


def _key_side(profiles: tuple[Profile, ...], seconds: float, in_process: bool, report: Report) -> AbstractContextManager[KeySide]:
    from pybcast.demo.keyside import ntp_now

    if in_process:
        from pybcast.demo.flowkeys import FlowKeys

        return nullcontext(FlowKeys(profiles, ntp_now()))
    from pybcast.demo.daemons import DaemonKeys

    return DaemonKeys(profiles, ntp_now(), seconds, report)
