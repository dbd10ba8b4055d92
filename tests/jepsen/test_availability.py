"""Figures of availability, from samples and faults made by hand."""

from jepsen.availability import FaultFigures, measure
from jepsen.recorder import FaultSpan, Sample

END = 60.0


def write(began: float, ended: float, *keys: int, kind: str = "ok", final: bool = False) -> Sample:
    return Sample(began, ended, "send", kind, keys, final)


def figures_of(samples: list[Sample], *spans: FaultSpan) -> list[FaultFigures]:
    return measure(samples, list(spans), ["send"], [0, 1], END).faults


KILL = FaultSpan("kill:all", 10.0, 20.0, "nodes [1, 2, 3]")


def test_a_partition_takes_writes_again_when_one_that_was_begun_since_has_ended() -> None:
    samples = [write(19.0, 21.0, 0), write(21.0, 21.5, 0), write(22.0, 24.0, 1), write(30.0, 30.1, 1)]
    (figure,) = figures_of(samples, KILL)
    assert figure.writable_after_end == 4.0, "key 1 is the last, and the write of 19 s does not count"


def test_every_partition_must_take_one() -> None:
    (figure,) = figures_of([write(21.0, 21.5, 0)], KILL)
    assert figure.writable_after_end is None


def test_what_comes_after_the_next_fault_is_not_seen() -> None:
    samples = [write(21.0, 21.5, 0), write(26.0, 26.5, 1)]
    first, _ = figures_of(samples, KILL, FaultSpan("pause:one", 25.0, 30.0, ""))
    assert first.writable_after_end is None


def test_while_a_fault_holds_it_may_be_writable_too() -> None:
    samples = [write(10.5, 11.0, 0, 1), write(12.0, 13.0, 0, kind="fail"), write(14.0, 15.0, 1, kind="info")]
    (figure,) = figures_of(samples, KILL)
    assert (figure.writable_after_begin, figure.operations, figure.ok) == (1.0, 3, 1)


def test_a_fault_that_still_holds_ends_with_the_main_phase() -> None:
    (figure,) = figures_of([write(11.0, 11.5, 0, 1)], FaultSpan("slow:all", 10.0, None, ""))
    assert (figure.ended, figure.writable_after_begin, figure.writable_after_end) == (END, 1.5, None)


def test_the_last_phase_is_left_out() -> None:
    (figure,) = figures_of([write(11.0, 11.5, 0, 1, final=True)], KILL)
    assert figure.operations == 0


def test_faults_of_one_kind_are_put_together() -> None:
    samples = [write(11.0, 11.5, 0, 1), write(21.0, 22.0, 0, 1), write(45.0, 48.0, 0, 1), write(50.0, 50.1, 1)]
    found = measure(samples, [KILL, FaultSpan("kill:all", 40.0, 44.0, "")], ["send"], [0, 1], END)
    (kind,) = found.by_kind
    assert (kind.times, kind.operations, kind.ok_share, kind.never) == (2, 1, 1.0, 0)
    assert (kind.writable_after_end_median, kind.writable_after_end_max) == (4.0, 4.0)
    assert (found.ok_share, found.ok_share_quiet) == (1.0, 1.0)
