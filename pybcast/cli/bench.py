# SPDX-License-Identifier: Apache-2.0
"""How fast the C core seals and opens on this machine, beside what nobody goes below and beside the reference.

``floor_ns``: the same primitive calls on the same bytes with the same keys and provider and nothing else, measured in turn with the
messages (``csrc/bench``); both are the smallest of several rounds.  ``ratio_to_reference``: messages a second against those of
``pybcast.codec.reference`` on one core, on a message of the same fields.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pybcast import jsontext
from pybcast._native.engine import engine
from pybcast.codec import Keys, reference
from pybcast.errors import ConfigError
from pybcast.keys import PEAK, SEAK, SEK, SMK
from pybcast.messages import ClearDrmStkm, ClearSmartcardLtkm, ClearSmartcardStkm, Protocol, StkmManagement
from pybcast.secret import Secret

NAMES: Final = (
    "job", "provider", "batch", "services", "threads", "ns_per_message", "floor_ns", "ratio_to_floor", "messages_per_s",
    "ratio_to_reference",
)  # fmt: skip
MAX_THREADS: Final = 64
"""What the measurement has room for."""
MAX_SERVICES: Final = 1_000_000
"""5 KiB each with evp: more would measure the memory of the machine."""


def _reference() -> dict[str, Callable[[], object]]:
    """One message for each job, of the fields that ``csrc/bench`` gives it."""
    salt, key, sek_id = bytes(14), Secret(bytes(16)), bytes((0, 1, 0, 1))
    drm_keys, card_keys = (
        Keys(seak=SEAK(bytes(32)), peak=PEAK(bytes(32))),
        Keys(sek=SEK(bytes(16)), csb_id=bytes(4), rand=bytes(16)),
    )
    smk = Keys(smk=SMK(bytes(32)))
    drm = ClearDrmStkm(
        protection_after_reception=3, traffic_protection_protocol=Protocol.SRTP, traffic_authentication_flag=True,
        traffic_key_lifetime=6, id=bytes(6), next_id=bytes(6), salt=salt, next_salt=salt, timestamp=3413018730,
        programme_CID_extension=1, service_CID_extension=0, traffic_key_material=key, next_traffic_key_material=key,
    )  # fmt: skip
    card = ClearSmartcardStkm(
        counter=3413018730, key_domain_id=bytes(3), sek_id=sek_id, tek_id=bytes((0, 1)), tek=key, salt=salt,
        management=StkmManagement(
            protection_after_reception=3, traffic_protection_protocol=Protocol.SRTP, traffic_authentication_flag=True,
            traffic_key_lifetime=6,
        ),
    )  # fmt: skip
    ltkm = ClearSmartcardLtkm(
        counter=1, csb_id=bytes(4), rand=bytes(16), key_domain_id=bytes(3), sek_id=sek_id, idi=b"bsm.example.com",
        idr=b"MTIzNDU2Nzg5MDEyMzQ1Ng==@bsf.example.com", sek=key, ts_low=0, ts_high=1000,
    )  # fmt: skip
    drm_bytes, card_bytes = reference.seal(drm, drm_keys), reference.seal(card, card_keys)
    return {
        "drm-stkm-seal": lambda: reference.seal(drm, drm_keys),
        "drm-stkm-open": lambda: reference.open(drm_bytes, drm_keys, "drm-stkm"),
        "smartcard-stkm-seal": lambda: reference.seal(card, card_keys),
        "smartcard-stkm-open": lambda: reference.open(card_bytes, card_keys, "smartcard-stkm"),
        "smartcard-ltkm-seal": lambda: reference.seal(ltkm, smk),
    }


def _nanoseconds(call: Callable[[], object], rounds: int = 40) -> float:
    """The smallest time of one call."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - start)
    return best


def measure(
    provider: str | None = None,
    batch: int | None = None,
    services: int | None = None,
    threads: int = 1,
    rounds: int | None = None,
    messages: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Each measurement as it is done, with exactly ``NAMES``.

    Without ``provider``, ``batch`` or ``services``: all there are, 1, 8, 64 and 1,024 messages a call, and 1 and 10,000 services,
    each with keys of its own.  ``messages`` a round (10,000), ``rounds`` (9) of which the best counts.  ``ConfigError`` for a
    provider that is not at hand.
    """
    if provider is not None:
        engine(provider)
    named = {"provider": provider, "batch": batch, "services": services, "threads": threads, "rounds": rounds, "messages": messages}
    arguments = [text for name, value in named.items() if value is not None for text in (f"--{name}", str(value))]
    reference_ns = {job: _nanoseconds(call) for job, call in _reference().items()}
    command = [sys.executable, "-m", "pybcast._native.bench", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = jsontext.read(line)
            found["ratio_to_reference"] = round(found["messages_per_s"] * reference_ns[found["job"]] / 1e9, 1)
            yield {name: found[name] for name in NAMES}
    if process.returncode:
        raise ConfigError(f"the measurement ended with status {process.returncode}")


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A picture of measurements: messages a second against messages a call, and against threads.

    A line for each job, provider, number of services and, on the other axis, the largest batch.  ``ConfigError`` without matplotlib
    (the extra ``media``) or when the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConfigError("a plot needs matplotlib: pip install '.[media]' in pybcast's folder") from None
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    largest, jobs = max(row["batch"] for row in rows), sorted({row["job"] for row in rows})
    for ax, across, chosen in (
        (axes[0], "batch", [row for row in rows if row["threads"] == min(r["threads"] for r in rows)]),
        (axes[1], "threads", [row for row in rows if row["batch"] == largest]),
    ):
        lines: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
        for row in chosen:
            lines.setdefault((row["job"], row["provider"], row["services"]), []).append((row[across], row["messages_per_s"]))
        for (job, provider, services), points in lines.items():
            color, dashes, marker = f"C{jobs.index(job)}", ":" if provider == "evp" else "-", "o" if services == 1 else "s"
            label = f"{job}, {provider}, {services}"
            ax.plot(*zip(*sorted(points), strict=True), color=color, linestyle=dashes, marker=marker, label=label)
        ax.set(
            xlabel="messages a call" if across == "batch" else f"threads ({largest} messages a call)", xscale="log", yscale="log"
        )
        ax.set_xticks(sorted({row[across] for row in chosen}), sorted({str(row[across]) for row in chosen}, key=int), minor=False)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("messages a second")
    axes[1].legend(fontsize="x-small", title="job, provider, services", loc="center left", bbox_to_anchor=(1, 0.5))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the plot cannot be written: {error}") from None
