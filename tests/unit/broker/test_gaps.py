"""What an idempotent producer sent behind a refused batch is refused likewise, for a while."""

from raftbroker.broker.errors import Unavailable
from raftbroker.broker.gaps import KEEP_SECONDS, Gaps
from raftbroker.state.batch import SEQUENCE_MAX, BatchHeader, parse_header
from tests.unit.broker.nodes import batch_of


def header(sequence: int, epoch: int = 0, producer: int = 7) -> BatchHeader:
    return parse_header(batch_of(b"x", timestamp=0, producer=(producer, epoch, sequence)))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_follows_is_refused_until_the_missing_one_comes() -> None:
    gaps, why = Gaps(Clock()), Unavailable("full")
    assert gaps.before(1, header(5)) is None
    gaps.refused(1, header(5), why)
    assert gaps.before(1, header(6)) is why
    assert gaps.before(1, header(9)) is why
    assert gaps.before(2, header(6)) is None  # another partition
    assert gaps.before(1, header(6, producer=8)) is None
    assert gaps.before(1, header(5)) is None  # there it is
    assert gaps.before(1, header(6)) is None


def test_the_earliest_counts() -> None:
    gaps, first, second = Gaps(Clock()), Unavailable("first"), Unavailable("second")
    gaps.refused(1, header(6), second)
    gaps.refused(1, header(5), first)
    gaps.refused(1, header(7), second)
    assert gaps.before(1, header(6)) is first


def test_another_epoch_ends_it_and_an_older_one_does_not() -> None:
    gaps, why = Gaps(Clock()), Unavailable("full")
    gaps.refused(1, header(5, epoch=1), why)
    assert gaps.before(1, header(9, epoch=0)) is None
    assert gaps.before(1, header(9, epoch=1)) is why
    assert gaps.before(1, header(9, epoch=2)) is None
    assert gaps.before(1, header(9, epoch=1)) is None


def test_sequences_wrap() -> None:
    gaps, why = Gaps(Clock()), Unavailable("full")
    gaps.refused(1, header(SEQUENCE_MAX), why)
    assert gaps.before(1, header(0)) is why
    assert gaps.before(1, header(3)) is why


def test_it_is_forgotten_in_time_and_bounded() -> None:
    clock = Clock()
    gaps, why = Gaps(clock, most=3), Unavailable("full")
    for producer in range(4):
        gaps.refused(1, header(5, producer=producer), why)
    assert gaps.before(1, header(6, producer=0)) is None
    assert gaps.before(1, header(6, producer=1)) is why
    clock.now += KEEP_SECONDS + 1
    assert gaps.before(1, header(6, producer=1)) is None


def test_producers_that_are_not_idempotent_have_none() -> None:
    gaps = Gaps(Clock())
    plain = parse_header(batch_of(b"x", timestamp=0))
    gaps.refused(1, plain, Unavailable("full"))
    assert gaps.before(1, plain) is None
