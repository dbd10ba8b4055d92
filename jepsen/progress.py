"""What a person sees while a test runs: rate, latency, the fault of the moment; and the verdict at the end.

On a terminal one block that is drawn anew; elsewhere a line every few seconds.
"""

import asyncio
from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from jepsen.availability import Availability
from jepsen.recorder import Sample
from jepsen.runner import Run
from jepsen.store import VERDICTS

WINDOW_SECONDS = 5.0
LINE_SECONDS = 10.0
DRAW_SECONDS = 0.5
COLOURS = {"valid": "green", "anomalies": "red", "unknown": "yellow"}


class Progress:
    """Follows one run; call `show` with it, then await `follow` beside it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run: Run | None = None
        self._phase = ""

    def show(self, run: Run) -> None:
        """A new phase begins."""
        self._run = run
        if not self._console.is_terminal and run.phase != self._phase:
            self._console.print(f"{run.phase} ({run.folder})" if not self._phase else run.phase)
        self._phase = run.phase

    async def follow(self) -> None:
        """Until cancelled."""
        if self._console.is_terminal:
            with Live(self._block(), console=self._console, auto_refresh=False) as live:
                while True:
                    live.update(self._block(), refresh=True)
                    await asyncio.sleep(DRAW_SECONDS)
        while True:
            await asyncio.sleep(LINE_SECONDS)
            if self._run is not None and self._run.phase == "running":
                self._console.print(self._line(self._run))

    def _line(self, run: Run) -> str:
        recorder = run.recorder
        if recorder is None:
            return run.phase
        recent = recent_samples(recorder.samples, recorder.now)
        types = Counter(sample.type for sample in recent)
        fault = run.nemesis.now if run.nemesis is not None else "nothing"
        rates = ", ".join(f"{types[kind] / WINDOW_SECONDS:.0f} {kind}" for kind in ("ok", "fail", "info"))
        return f"{recorder.now:5.0f} s  {rates} a second, {latency(recent)}; broken: {escape(fault)}"

    def _block(self) -> RenderableType:
        run = self._run
        if run is None:
            return "starting a cluster"
        lines: list[RenderableType] = [f"[bold]{run.options.test_name}[/] in {run.folder}: {run.phase}"]
        if run.recorder is not None:
            limit = run.options.time_limit
            done = min(1.0, run.recorder.now / limit)
            lines.append(f"[{'#' * round(40 * done):.<40}] {min(run.recorder.now, limit):.0f} of {limit:.0f} s")
            lines.append(self._line(run))
        if run.nemesis is not None and run.nemesis.problems:
            lines.append(f"[red]{escape(run.nemesis.problems[-1])}[/]")
        return Group(*lines)


def recent_samples(samples: list[Sample], now: float) -> list[Sample]:
    """Those that ended within the window; samples stand in the order of their ends."""
    first = len(samples)
    while first and samples[first - 1].ended > now - WINDOW_SECONDS:
        first -= 1
    return samples[first:]


def latency(samples: list[Sample]) -> str:
    took = sorted(sample.ended - sample.began for sample in samples if sample.type == "ok")
    if not took:
        return "no latency"
    return f"median {1000 * took[len(took) // 2]:.0f} ms, 99 % {1000 * took[len(took) * 99 // 100]:.0f} ms"


def tell(run: Run, console: Console) -> None:
    """The verdict and the figures, for people."""
    results = run.results
    operations = results["operations"]
    assert isinstance(operations, dict)
    table = Table("operation", "ok", "fail", "info", box=None, header_style="bold")
    for f, count in operations.items():
        table.add_row(f, *(f"{count.get(kind, 0):,}" for kind in ("ok", "fail", "info")))
    console.print(table)
    figures = results["availability"]
    assert isinstance(figures, Availability)
    tell_availability(figures, console)
    for name, reason in run.skipped.items():
        console.print(f"skipped {escape(name)}: {escape(reason)}")
    for name, texts in run.problems.items():
        console.print(
            f"[red]{escape(name)}[/]: {escape(texts[0])}" + (f" (and {len(texts) - 1} more)" if texts[1:] else "")
        )
    judgement = run.judgement
    assert judgement is not None
    for name in sorted(judgement.anomalies):
        bad = name in judgement.bad
        console.print(f"[{'red' if bad else 'yellow'}]{name}[/]{'' if bad else ' (allowed)'}")
    for reason in judgement.unknown:
        console.print(f"could not tell: {escape(reason)}")
    verdict = VERDICTS[results["valid"]]  # type: ignore[index]
    console.print(f"[bold {COLOURS[verdict]}]{verdict}[/]: {run.folder}")


def tell_availability(figures: Availability, console: Console) -> None:
    if not figures.by_kind:
        return
    table = Table(*("fault", "times", "ok", "writable after its begin", "after its end"), box=None, header_style="bold")
    for row in figures.by_kind:
        table.add_row(
            row.fault,
            str(row.times),
            "-" if row.ok_share is None else f"{row.ok_share:.1%}",
            _seconds(row.writable_after_begin_median, row.writable_after_begin_max),
            _seconds(row.writable_after_end_median, row.writable_after_end_max)
            + (f", {row.never} times not seen" if row.never else ""),
        )
    console.print(table)


def _seconds(median: float | None, longest: float | None) -> str:
    return "-" if median is None or longest is None else f"{median:.2f} s (longest {longest:.2f})"
