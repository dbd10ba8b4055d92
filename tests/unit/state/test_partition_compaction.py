"""`Compact` in a data group's state machine: what it replaces, when it does nothing, what becomes of keys and rows."""

import msgspec
import pytest

from consensus.errors import InvariantBroken
from consensus.machine import Applied
from raftbroker.state.keys import all_ranges, batch_range, compacted_key, generation_range, payload_key
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import (
    CONTROL,
    TRANSACTIONAL,
    AppendBatches,
    AppendHeader,
    Compact,
    DropPartitions,
    Segment,
    Trim,
    TrimItem,
)
from raftbroker.state.partition_segments import SEGMENT_BYTES_MIN
from tests.unit.state.test_partition import Driver, T

SIZE = SEGMENT_BYTES_MIN


@pytest.fixture
def drive() -> Driver:
    """Closed segments of offsets 0-9, 10-19 and 20-29, two batches each but the first; 30-39 is open."""
    driver = Driver()
    driver.append(1, count=10, size=SIZE)
    for _ in range(2):
        driver.append(1, count=5, size=SIZE - 1)
        driver.append(1, count=5, size=SIZE)
    driver.append(1, count=10, size=50)
    assert [segment.base_offset for segment in driver.machine.segments(1)] == [0, 10, 20, 30]
    return driver


def compact(drive: Driver, *bases: int, end: int, **changed: object) -> tuple[Compact, Applied]:
    generations = {one.base_offset: one.generation for one in drive.machine.segments(1)}
    command = Compact(
        T + 5,
        1,
        drive.index + 1,
        tuple((base, generations.get(base, 0)) for base in bases),
        bases[0],
        end,
        100,
        77,
        T - 3,
        2,
    )
    command = msgspec.structs.replace(command, **changed)
    applied = drive(command)
    drive.check()
    return command, applied


def bases(machine: PartitionMachine) -> list[tuple[int, int]]:
    return [(one.base_offset, one.generation) for one in machine.segments(1)]


def test_neighbours_become_one_segment(drive: Driver) -> None:
    command, applied = compact(drive, 0, 10, end=20)
    generation = command.generation
    assert drive.machine.segments(1)[0] == Segment(0, 77, T - 3, T, T, generation, T + 5, 2)
    assert bases(drive.machine) == [(0, generation), (20, 0), (30, 0)]
    assert applied.delete_payloads == [(payload_key(1, 0), payload_key(1, 20))]
    assert drive.machine.payload_ranges() == [
        (payload_key(1, 20), payload_key(1, 40)),
        (compacted_key(1, generation, 0), compacted_key(1, generation, 20)),
    ]
    assert drive.machine.compacted_end(1) == 20
    assert drive.machine.partition(1).bytes == 77 + 2 * SIZE - 1 + 50
    assert drive.machine.segment_at(1, 19) == (drive.machine.segments(1)[0], 20)
    assert drive.machine.segment_at(1, 39) == (drive.machine.segments(1)[2], 40)


def test_the_beginning_of_a_segment_as_produced_may_go_alone(drive: Driver) -> None:
    command, applied = compact(drive, 0, 10, end=15, taken=SIZE - 1)
    assert bases(drive.machine) == [(0, command.generation), (15, 0), (20, 0), (30, 0)]
    assert drive.machine.segments(1)[1].bytes == SIZE
    assert drive.machine.segments(1)[1].cleaned_ms == 0
    assert applied.delete_payloads == [(payload_key(1, 0), payload_key(1, 15))]
    again, applied = compact(drive, 0, 15, end=20)
    assert bases(drive.machine) == [(0, again.generation), (20, 0), (30, 0)]
    assert applied.delete_payloads == [
        batch_range(1, command.generation, 0, 15),
        (payload_key(1, 15), payload_key(1, 20)),
    ]


def test_a_segment_of_which_all_stays_is_marked(drive: Driver) -> None:
    before = drive.machine.payload_ranges()
    _, applied = compact(drive, 0, end=10, generation=0)
    assert drive.machine.segments(1)[0] == Segment(0, SIZE, T - 3, T, T, 0, T + 5, 2)
    assert (applied.delete_payloads, drive.machine.payload_ranges()) == ([], before)


def test_a_segment_counts_as_cleaned_from_its_first_time(drive: Driver) -> None:
    compact(drive, 0, end=10)
    compact(drive, 0, end=10, time_ms=T + 500)
    assert drive.machine.segments(1)[0].cleaned_ms == T + 5
    compact(drive, 0, 10, end=20, time_ms=T + 900)
    assert drive.machine.segments(1)[0].cleaned_ms == T + 900, "part of it was never cleaned"


@pytest.mark.parametrize(
    ("replaced", "changed"),
    [
        ((0,), {"end": 5, "replaced": ((0, 3),)}),  # another generation
        ((5,), {"end": 10}),  # no segment begins there
        ((0, 20), {"end": 30}),  # not neighbours
        ((10, 0), {"end": 10}),
        ((0,), {"end": 11}),  # not its end
        ((0,), {"end": 0}),
        ((0, 10), {"end": 10}),
        ((20,), {"end": 40}),
        ((30,), {"end": 40}),  # the open segment
        ((30,), {"end": 35}),
        ((0, 10), {"end": 20, "generation": 0}),  # several are never only marked
        ((0,), {"end": 5, "generation": 0}),
        ((99,), {"end": 100}),
    ],
)
def test_what_is_not_as_the_leader_saw_it_stays(
    drive: Driver, replaced: tuple[int, ...], changed: dict[str, object]
) -> None:
    before, ranges = drive.machine.segments(1), drive.machine.payload_ranges()
    command, applied = compact(drive, *replaced, **changed)  # type: ignore[arg-type]
    assert (drive.machine.segments(1), drive.machine.payload_ranges()) == (before, ranges)
    gone = [generation_range(1, command.generation)] if command.generation else []
    assert applied.delete_payloads == gone, "what the entry brought goes with it"


def test_a_compacted_segment_is_not_cut_by_the_next(drive: Driver) -> None:
    compact(drive, 0, end=10)
    before = bases(drive.machine)
    compact(drive, 0, end=5)
    assert bases(drive.machine) == before


def test_a_trim_that_came_first_wins(drive: Driver) -> None:
    drive(Trim(T, (TrimItem(1, 17, 15),)))
    compact(drive, 10, end=20)
    assert bases(drive.machine) == [(10, 0), (20, 0), (30, 0)]
    command, applied = compact(drive, 10, end=20, first=15)
    assert bases(drive.machine) == [(10, command.generation), (20, 0), (30, 0)]
    assert applied.delete_payloads == [(payload_key(1, 15), payload_key(1, 20))]
    assert drive.machine.payload_ranges()[1] == batch_range(1, command.generation, 15, 20)


def test_a_trim_goes_through_all_generations(drive: Driver) -> None:
    first, _ = compact(drive, 0, end=10)
    second, _ = compact(drive, 20, end=30)
    applied = drive(Trim(T, (TrimItem(1, 25, 25),)))
    drive.check()
    assert applied.delete_payloads == [
        batch_range(1, first.generation, 0, 10),
        (payload_key(1, 10), payload_key(1, 20)),
        batch_range(1, second.generation, 20, 25),
    ]
    assert drive.machine.payload_ranges() == [
        (payload_key(1, 30), payload_key(1, 40)),
        batch_range(1, second.generation, 25, 30),
    ]


def test_a_dropped_partition_leaves_nothing_behind(drive: Driver) -> None:
    compact(drive, 0, end=10)
    assert drive(DropPartitions(T, (1,))).delete_payloads == list(all_ranges(1))
    drive.check()
    command, applied = compact(drive, 0, end=10)
    assert applied.delete_payloads == [generation_range(1, command.generation)]
    assert drive.machine.partitions() == ()


def test_what_follows_must_be_decided(drive: Driver) -> None:
    drive.append(1, size=SIZE, producer_id=4, producer_epoch=0, base_sequence=0, flags=TRANSACTIONAL, transaction=1)
    assert drive.machine.last_stable(1) == 40
    compact(drive, 20, end=30)
    assert bases(drive.machine)[2][1] == 0, "30 to 41 is open"
    drive.append(1, producer_id=4, producer_epoch=0, flags=TRANSACTIONAL | CONTROL, transaction=1)
    compact(drive, 20, end=30)
    assert bases(drive.machine)[2][1] > 0


def test_aborted_transactions_are_forgotten_with_their_markers(drive: Driver) -> None:
    for number, producer in enumerate((4, 5), 1):
        more = {"producer_id": producer, "producer_epoch": 0, "transaction": number}
        drive.append(1, base_sequence=0, flags=TRANSACTIONAL, **more)
        drive.append(1, size=SIZE, flags=TRANSACTIONAL | CONTROL, **more)
    drive.append(1)
    drive.append(1, size=SIZE)
    drive.append(1)
    assert [one.marker_offset for one in drive.machine.all_aborted(1)] == [41, 43]
    compact(drive, 30, end=42, forgotten=(41, 42, 99))
    assert [one.marker_offset for one in drive.machine.all_aborted(1)] == [43]
    assert drive.machine.aborted(1, 0, 100) == [(5, 42)]


def test_a_generation_is_the_entrys_own(drive: Driver) -> None:
    with pytest.raises(InvariantBroken, match="not its own"):
        compact(drive, 0, end=10, generation=3)


def test_what_was_cleaned_in_doubt_counts_from_when_time_is_known(drive: Driver) -> None:
    compact(drive, 0, end=10)
    drive.term = 2
    drive(AppendBatches(T + 10_000, (AppendHeader(1, 40, 1, 10, T),)))
    drive(Trim(T + 20_000, ()))
    drive.check()
    assert drive.machine.segments(1)[0].cleaned_ms == T + 10_000
    assert drive.machine.segments(1)[1].cleaned_ms == 0


def test_segments_from_before_there_was_compaction_are_as_produced() -> None:
    row = msgspec.msgpack.encode([10, 77, T, T, T])
    assert msgspec.msgpack.decode(row, type=Segment) == Segment(10, 77, T, T, T, 0, 0, 0)
