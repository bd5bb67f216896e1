# SPDX-License-Identifier: Apache-2.0
"""The demo as a picture: which key each service used when, when its STKMs were on air, who could follow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pybcast.demo.keyside import SERVICES, UNENTITLED
from pybcast.demo.station import Record, Span
from pybcast.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

# Distinguishable with any colour vision (Okabe and Ito); neighbours in time never share one.
COLOURS: Final = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7")
_NO_KEY: Final = "#c9c9c9"
_INK: Final = "#333333"
_NAMES: Final = {"drm": "DRM", "smartcard": "Smartcard", UNENTITLED: "without right"}
_BAR: Final = 0.66
_MIN_LABEL: Final = 0.45  # seconds: narrower bars have no room for four digits


def require_matplotlib() -> None:
    """``ConfigError`` naming the extra when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("the timeline is drawn with matplotlib: pip install '.[media]' in pybcast's folder") from None


def draw(record: Record, out: Path) -> list[Path]:
    """Write ``timeline.png`` and ``timeline.svg`` into the folder ``out`` (made when missing); returns their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = _rows(record)
    figure = Figure(figsize=(15, 1.9 + 0.46 * (len(rows) + len(SERVICES) - 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(_title(record), x=0.01, ha="left", fontsize=14, fontweight="bold", color=_INK)
    axes.set_title(
        "A colour is a crypto period.  Top row of a service: the key in use (last two bytes of the MKI).  ▼ STKM"
        " on air, its line leads to the period it announces.\nTerminals: packets that came, in colour when opened; thin line"
        " below: the terminal holds that key.  Red line: new long-term key (SEK, PEK).",
        loc="left", fontsize=9.5, color=_INK, linespacing=1.5,
    )  # fmt: skip
    if record.dead:
        _servers_dead(axes, record)
    for (service, what), y in rows.items():
        _row(axes, record, service, what, y)
    _rollovers(axes, record, rows)
    axes.set_yticks(list(rows.values()), [_label(service, what) for service, what in rows])
    for tick, (_, what) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if what == "key" else "normal")
    first = min([0.0, *(item.at - record.zero for item in record.announced)])
    axes.set_xlim(first - 0.3, record.end - record.zero + 0.3)
    axes.set_ylim(max(rows.values()) + 0.6, -1.1)
    axes.set_xlabel("seconds since the encoders began", color=_INK)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=_INK)
    for side in axes.spines.values():
        side.set_visible(False)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "timeline.png", out / "timeline.svg"]
    figure.savefig(paths[0], dpi=110)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _title(record: Record) -> str:
    got = ", ".join(f"{_NAMES[terminal]} {record.frames(terminal)}" for terminal in record.terminals)
    return f"{record.frames_sent} frames sent, recovered: {got}; {record.key_changes} key changes"


def _rows(record: Record) -> dict[tuple[str, str], float]:
    """Row -> height, a gap of one row between services."""
    kinds = ["key", *(f"stkm {profile}" for profile in record.profiles), *record.terminals]
    return {(service, kind): float(i * (len(kinds) + 1) + j) for i, service in enumerate(SERVICES) for j, kind in enumerate(kinds)}


def _label(service: str, what: str) -> str:
    if what == "key":
        return f"service {service}: key in use"
    if what.startswith("stkm "):
        return f"STKM {_NAMES[what.removeprefix('stkm ')]}"
    return "terminal without right" if what == UNENTITLED else f"terminal {_NAMES[what]}"


def _colours(record: Record, service: str) -> dict[bytes, str]:
    periods = [period for period in record.periods if period.service == service]
    return {period.mki: COLOURS[i % len(COLOURS)] for i, period in enumerate(periods)}


def _row(axes: Axes, record: Record, service: str, what: str, y: float) -> None:
    colours = _colours(record, service)
    if what == "key":
        _keys_in_use(axes, record, service, y, colours)
    elif what.startswith("stkm "):
        _announcements(axes, record, service, what.removeprefix("stkm "), y, colours)
    else:
        _heard(axes, record, service, what, y, colours)


def _keys_in_use(axes: Axes, record: Record, service: str, y: float, colours: dict[bytes, str]) -> None:
    periods = [period for period in record.periods if period.service == service]
    ends = [*(period.start for period in periods[1:]), record.end]
    for period, end in zip(periods, ends, strict=True):
        start = max(period.start - record.zero, 0.0)
        width = end - record.zero - start
        if width <= 0:
            continue
        axes.barh(y, width, left=start, height=_BAR, color=colours[period.mki], edgecolor="white")
        if width > _MIN_LABEL:
            axes.text(start + width / 2, y, period.mki[-2:].hex(), ha="center", va="center", fontsize=10, family="monospace")


def _announcements(axes: Axes, record: Record, service: str, profile: str, y: float, colours: dict[bytes, str]) -> None:
    starts = {round(period.start, 3): colours[period.mki] for period in record.periods if period.service == service}
    for item in record.announced:
        if (item.service, item.profile) != (service, profile):
            continue
        colour = starts.get(round(item.period_start, 3), _NO_KEY)  # a period that the demo did not live to see
        at, start = item.at - record.zero, item.period_start - record.zero
        axes.plot([at, start], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([start, start], [y - 0.2, y + 0.2], color=colour, linewidth=2)
        axes.plot(at, y, marker="v", color=colour, markersize=9, markeredgecolor="white")


def _heard(axes: Axes, record: Record, service: str, terminal: str, y: float, colours: dict[bytes, str]) -> None:
    for span in record.spans.values():
        if (span.terminal, span.service) == (terminal, service):
            _bar(axes, record, span, y, colours.get(span.mki, _NO_KEY))
    held = [item for item in record.held if (item.terminal, item.service) == (terminal, service)]
    for i, item in enumerate(held):
        used = record.spans.get((terminal, service, item.mki))
        until = used.last if used else record.end
        if item.at < until:
            line = [item.at - record.zero, until - record.zero]
            height = y + 0.4 + 0.08 * (i % 2)  # the next key comes while this one is in use: two tracks
            axes.plot(line, [height] * 2, color=colours.get(item.mki, _NO_KEY), linewidth=2.4, solid_capstyle="butt")


def _bar(axes: Axes, record: Record, span: Span, y: float, colour: str) -> None:
    left, width = span.first - record.zero, max(span.last - span.first, 0.02)
    share = span.opened / span.packets
    bars: list[Rectangle] = [*axes.barh(y, width, left=left, height=_BAR, color="white", edgecolor=_NO_KEY, hatch="////")]
    if share:
        # As high as the share of packets that opened: a full bar means all of them.
        bars += axes.barh(y + _BAR * (1 - share) / 2, width, left=left, height=_BAR * share, color=colour, edgecolor="white")
    if width > _MIN_LABEL:
        text = f"{span.opened}" if share == 1 else f"{span.opened} of {span.packets}"
        axes.text(
            left + width / 2, y, text, ha="center", va="center", fontsize=9, color="black" if share else _INK,
            bbox=None if share else {"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def _servers_dead(axes: Axes, record: Record) -> None:
    begin, end = record.dead[0] - record.zero, (record.dead[1] if len(record.dead) > 1 else record.end) - record.zero
    axes.axvspan(begin, end, color="#f4d9d9", zorder=-1)
    axes.text(
        (begin + end) / 2, -1.05, "BSM and BSD/A are dead: the edge executes what was planned", ha="center", va="top", fontsize=9.5,
        color="#b00020",
    )  # fmt: skip


def _rollovers(axes: Axes, record: Record, rows: dict[tuple[str, str], float]) -> None:
    for service in SERVICES:
        heights = [y for (name, _), y in rows.items() if name == service]
        marks: dict[float, list[str]] = {}
        for turn in record.rollovers:
            if turn.service == service and turn.start <= record.end:  # the next key exists before the demo would come to use it
                marks.setdefault(turn.start - record.zero, []).append(turn.key)
        for at, keys in marks.items():
            axes.plot([at, at], [min(heights) - 0.5, max(heights) + 0.5], color="#b00020", linestyle="--", linewidth=1.6)
            axes.text(
                at, min(heights) - 0.52, " + ".join(dict.fromkeys(keys)), ha="center", va="bottom", fontsize=9.5, color="#b00020"
            )
