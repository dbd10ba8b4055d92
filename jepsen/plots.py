"""A run in pictures: latency, rate, availability and lag over time, the faults behind them as bands. PNG, by
matplotlib.

Without matplotlib (the extra `jepsen`) there are none, and the run says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepsen.recorder import FaultSpan, Sample

COLOURS = {"ok": "#2e7d32", "info": "#e69a00", "fail": "#c62828"}
BAND_COLOURS = ("#90caf9", "#ce93d8", "#ffcc80", "#a5d6a7", "#ef9a9a", "#b0bec5", "#fff59d", "#80cbc4")
SIZE_INCHES = (11, 4)
BIN_SECONDS = 1.0
WINDOW_SECONDS = 5.0

Lag = Sequence[tuple[float, Mapping[int, int]]]


def draw_all(folder: Path, samples: Sequence[Sample], faults: Sequence[FaultSpan], lag: Lag, end: float) -> str | None:
    """Writes latency.png, rate.png, availability.png and lag.png; or says why there are none."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed (pip install 'raftbroker[jepsen]')"
    matplotlib.use("Agg")
    main = [sample for sample in samples if not sample.final and sample.f != "crash"]
    for name, draw in (("latency", _latency), ("rate", _rate), ("availability", _availability)):
        _picture(folder / f"{name}.png", faults, end, lambda axes, draw=draw: draw(axes, main, end))
    _picture(folder / "lag.png", faults, end, lambda axes: _lag(axes, lag))
    return None


def _picture(path: Path, faults: Sequence[FaultSpan], end: float, draw: Any) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    _bands(axes, faults, end)
    draw(axes)
    axes.set_xlim(0, end)
    axes.set_xlabel("seconds")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="x-small")
    figure.savefig(path, dpi=110)


def _bands(axes: Any, faults: Sequence[FaultSpan], end: float) -> None:
    kinds = list(dict.fromkeys(fault.name.partition(":")[0] for fault in faults))
    shown: set[str] = set()
    for fault in faults:
        kind = fault.name.partition(":")[0]
        until = end if fault.ended is None else min(end, fault.ended)
        label = None if kind in shown else kind
        colour = BAND_COLOURS[kinds.index(kind) % len(BAND_COLOURS)]
        axes.axvspan(fault.began, max(until, fault.began), color=colour, alpha=0.45, linewidth=0, label=label)
        shown.add(kind)


def _latency(axes: Any, samples: Sequence[Sample], end: float) -> None:
    for kind, colour in COLOURS.items():
        of_kind = [sample for sample in samples if sample.type == kind]
        took = [max(0.1, 1000 * (sample.ended - sample.began)) for sample in of_kind]
        axes.scatter([sample.began for sample in of_kind], took, s=3, color=colour, label=kind, linewidths=0)
    if samples:
        axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    axes.set_title("Latency of every operation, where it began")


def _rate(axes: Any, samples: Sequence[Sample], end: float) -> None:
    bins = int(end / BIN_SECONDS) + 1
    for kind, colour in COLOURS.items():
        counts = [0] * bins
        for sample in samples:
            if sample.type == kind:
                counts[min(bins - 1, int(sample.ended / BIN_SECONDS))] += 1
        axes.step([at * BIN_SECONDS for at in range(bins)], counts, where="post", color=colour, label=kind)
    axes.set_ylabel("operations a second")
    axes.set_title("Rate")


def _availability(axes: Any, samples: Sequence[Sample], end: float) -> None:
    """The share of operations begun in each second that ended ok."""
    bins = int(end / BIN_SECONDS) + 1
    begun, good = [0] * bins, [0] * bins
    for sample in samples:
        at = min(bins - 1, int(sample.began / BIN_SECONDS))
        begun[at] += 1
        good[at] += sample.type == "ok"
    places = [at for at in range(bins) if begun[at]]
    shares = [100 * good[at] / begun[at] for at in places]
    axes.step([at * BIN_SECONDS for at in places], shares, where="post", color=COLOURS["ok"], label="ended ok")
    axes.set_ylim(0, 103)
    axes.set_ylabel("% of operations begun")
    axes.set_title("Availability")


def _lag(axes: Any, lag: Lag) -> None:
    keys = sorted({key for _, of_keys in lag for key in of_keys})
    for key in keys:
        axes.plot([at for at, _ in lag], [of_keys.get(key, 0) for _, of_keys in lag], linewidth=1, label=f"key {key}")
    axes.set_ylabel("records acknowledged, not yet polled by anybody")
    axes.set_title("Lag, per partition")
