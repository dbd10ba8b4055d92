"""How the cluster served while it was broken: figures from a run's samples, per fault.

For each fault: the share of operations begun while it held that ended ok; and the time until every key had taken a
write again, from the moment the fault began and from the moment it was healed. A write counts from when it was begun,
so what was under way before the fault does not. None: not before the next fault, or the end of the run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from jepsen.recorder import FaultSpan, Sample

AFTER_SECONDS = 30.0
"""How long after a fault it is looked for writes, unless the next one comes before."""


class FaultFigures(msgspec.Struct, frozen=True):
    """One fault's. Seconds."""

    fault: str
    detail: str
    began: float
    ended: float
    operations: int
    ok: int
    writable_after_begin: float | None
    writable_after_end: float | None


class Summary(msgspec.Struct, frozen=True):
    """All faults of one kind."""

    fault: str
    times: int
    operations: int
    ok_share: float | None
    writable_after_begin_median: float | None
    writable_after_begin_max: float | None
    writable_after_end_median: float | None
    writable_after_end_max: float | None
    never: int
    """How often it was not writable again after its end before something else happened."""


class Availability(msgspec.Struct, frozen=True):
    ok_share: float | None
    """Of all operations of the main phase."""
    ok_share_quiet: float | None
    """Of those begun while nothing was broken."""
    faults: list[FaultFigures]
    by_kind: list[Summary]


@dataclass(frozen=True)
class _Writes:
    """Writes that ended ok, by key, in the order of their beginning."""

    by_key: dict[int, list[tuple[float, float]]]

    @classmethod
    def of(cls, samples: Iterable[Sample], fs: Sequence[str], keys: Iterable[int]) -> "_Writes":
        by_key: dict[int, list[tuple[float, float]]] = {key: [] for key in keys}
        for sample in samples:
            if sample.f in fs and sample.type != "fail":
                for key in sample.keys if sample.type == "ok" else ():
                    by_key.setdefault(key, []).append((sample.began, sample.ended))
        for times in by_key.values():
            times.sort()
        return cls(by_key)

    def all_after(self, moment: float, before: float) -> float | None:
        """Seconds from `moment` until each key had taken a write that was begun after it; None if not `before` then."""
        last = moment
        for times in self.by_key.values():
            ended = min((end for begin, end in times if moment <= begin < before), default=None)
            if ended is None or ended > before:
                return None
            last = max(last, ended)
        return last - moment


def measure(
    samples: Sequence[Sample], faults: Sequence[FaultSpan], writes: Sequence[str], keys: Sequence[int], end: float
) -> Availability:
    """Figures of the main phase, which ended at `end`."""
    main = [sample for sample in samples if not sample.final and sample.f != "crash"]
    spans = [(span, span.ended if span.ended is not None else end) for span in faults]
    taken = _Writes.of(main, writes, keys)
    figures = []
    for span, ended in spans:
        held = [sample for sample in main if span.began <= sample.began < ended]
        others = [other.began for other, _ in spans if other.began > span.began and other is not span]
        next_begin = min((began for began in others if began >= ended), default=end)
        figures.append(
            FaultFigures(
                fault=span.name,
                detail=span.detail,
                began=round(span.began, 3),
                ended=round(ended, 3),
                operations=len(held),
                ok=sum(1 for sample in held if sample.type == "ok"),
                writable_after_begin=_rounded(taken.all_after(span.began, ended)),
                writable_after_end=_rounded(taken.all_after(ended, min(next_begin, end, ended + AFTER_SECONDS))),
            )
        )
    quiet = [sample for sample in main if not any(span.began <= sample.began < ended for span, ended in spans)]
    names = sorted({figure.fault for figure in figures})
    by_kind = [summary(name, [figure for figure in figures if figure.fault == name]) for name in names]
    return Availability(_share(main), _share(quiet), figures, by_kind)


def summary(name: str, figures: Sequence[FaultFigures]) -> Summary:
    """All of these under one name."""
    operations = sum(figure.operations for figure in figures)
    begin = sorted(f.writable_after_begin for f in figures if f.writable_after_begin is not None)
    end = sorted(f.writable_after_end for f in figures if f.writable_after_end is not None)
    return Summary(
        fault=name,
        times=len(figures),
        operations=operations,
        ok_share=round(sum(figure.ok for figure in figures) / operations, 4) if operations else None,
        writable_after_begin_median=begin[len(begin) // 2] if begin else None,
        writable_after_begin_max=begin[-1] if begin else None,
        writable_after_end_median=end[len(end) // 2] if end else None,
        writable_after_end_max=end[-1] if end else None,
        never=sum(1 for figure in figures if figure.writable_after_end is None),
    )


def _share(samples: Sequence[Sample]) -> float | None:
    if not samples:
        return None
    return round(sum(1 for sample in samples if sample.type == "ok") / len(samples), 4)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
