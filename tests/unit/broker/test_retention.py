"""What retention asks for, segment by segment."""

from raftbroker.broker.retention import Ages, past_retention
from raftbroker.state.partition_commands import PartitionState, Segment

HOUR = 3_600_000
NOW = 100 * HOUR


def state_of(segments: list[Segment], end: int, start: int = 0) -> PartitionState:
    return PartitionState(1, start, segments[0].base_offset, end, sum(s.bytes for s in segments))


def segments_at(*hours: int) -> list[Segment]:
    return [Segment(n * 10, 100, hour * HOUR, hour * HOUR, hour * HOUR) for n, hour in enumerate(hours)]


def test_nothing_goes_without_limits() -> None:
    segments = segments_at(1, 2, 3)
    assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, -1), -1, 99) == 0


def test_old_segments_go_and_the_newest_too() -> None:
    segments = segments_at(1, 50, 99)
    assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, 60 * HOUR), -1, 99) == 10
    assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, 10 * HOUR), -1, 99) == 20
    assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, HOUR // 2), -1, 99) == 30


def test_a_young_segment_keeps_older_ones_behind_it() -> None:
    segments = segments_at(99, 1, 2)
    assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, 10 * HOUR), -1, 99) == 0


def test_size_keeps_at_least_what_it_says() -> None:
    segments = segments_at(1, 2, 3, 4)
    for limit, start in ((400, 0), (399, 0), (300, 10), (201, 10), (200, 20), (100, 30), (99, 30), (0, 30)):
        assert past_retention(state_of(segments, 40), segments, Ages(NOW, 0, -1), limit, 99) == start


def test_segments_without_timestamps_count_from_their_last_append() -> None:
    segments = [Segment(0, 100, -1, HOUR, 90 * HOUR), Segment(10, 100, -1, 91 * HOUR, 99 * HOUR)]
    assert past_retention(state_of(segments, 20), segments, Ages(NOW, 0, 5 * HOUR), -1, 99) == 10


def test_old_timestamps_alone_make_nothing_old() -> None:
    segments = [Segment(0, 100, HOUR, 98 * HOUR, 99 * HOUR), Segment(10, 100, 99 * HOUR, 1 * HOUR, 2 * HOUR)]
    assert past_retention(state_of(segments, 20), segments, Ages(NOW, 0, 5 * HOUR), -1, 99) == 0
    assert past_retention(state_of(segments, 20), segments, Ages(NOW, 0, HOUR // 2), -1, 99) == 20


def test_no_age_counts_from_before_the_floor() -> None:
    segments = segments_at(1, 2)
    assert past_retention(state_of(segments, 20), segments, Ages(NOW, 97 * HOUR, 4 * HOUR), -1, 99) == 0
    assert past_retention(state_of(segments, 20), segments, Ages(NOW, 95 * HOUR, 4 * HOUR), -1, 99) == 20


def test_the_start_never_goes_back() -> None:
    segments = segments_at(99, 99)
    assert past_retention(state_of(segments, 20, start=5), segments, Ages(NOW, 0, HOUR * 10), -1, 99) == 5


def test_an_empty_partition_stays_as_it_is() -> None:
    assert past_retention(PartitionState(1, 7, 7, 7, 0), [], Ages(NOW, 0, 0), 0, 99) == 7


def test_nothing_goes_before_its_transactions_are_decided() -> None:
    segments = segments_at(1, 2, 3)
    for stable, start in ((0, 0), (9, 0), (10, 10), (25, 20), (29, 20), (30, 30)):
        assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, HOUR), -1, stable) == start
        assert past_retention(state_of(segments, 30), segments, Ages(NOW, 0, -1), 0, stable) == min(start, 20)
