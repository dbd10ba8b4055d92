"""A data group's state machine: offsets, segments, trims, drops, bounds; restore and grouping."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import InvariantBroken, UnknownCommand
from consensus.machine import Applied
from consensus.model import Entry, EntryKind
from raftbroker.state.commands import Command, encode_command
from raftbroker.state.keys import payload_key
from raftbroker.state.partition import Limits, PartitionMachine
from raftbroker.state.partition_commands import (
    COMMIT,
    CONTROL,
    TRANSACTIONAL,
    AppendBatches,
    AppendHeader,
    DropPartitions,
    IdempotencyState,
    PartitionState,
    ProducerState,
    Segment,
    SequencedBatch,
    Trim,
    TrimItem,
)
from raftbroker.state.partition_segments import (
    EPOCHS_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_BYTES_SHARE,
    SEGMENT_MS_MIN,
    SEGMENT_MS_SHARE,
)
from tests.unit.state.strategies import entries, entry, groupings

T = 1_700_000_000_000


class Driver:
    """Applies commands one at a time and keeps the rows as a store would."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.machine = PartitionMachine(limits)
        self.rows: dict[bytes, bytes] = {}
        self.index = 0
        self.limits = limits
        self.term = 1

    def __call__(self, command: Command) -> Applied:
        self.index += 1
        applied = self.machine.apply([entry(self.index, command, self.term)])
        for key, value in applied.rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        return applied

    def append(self, partition: int, count: int = 1, size: int = 100, time_ms: int = T, **more: Any) -> None:
        end = self.machine.end(partition)
        self(AppendBatches(time_ms, (AppendHeader(partition, end, count, size, more.pop("stamp", time_ms), **more),)))

    def check(self) -> None:
        assert self.machine.rows() == self.rows
        restored = PartitionMachine(self.limits)
        restored.restore(dict(self.rows), self.index)
        assert restored.rows() == self.rows
        assert picture(restored) == picture(self.machine)


def picture(machine: PartitionMachine) -> tuple[Any, ...]:
    """All that can be read of a few partitions."""
    return (
        (machine.time_ms, machine.term, machine.confirmed_ms, machine.age_floor_ms),
        machine.partitions(),
        machine.payload_ranges(),
        [(machine.partition(p), machine.segments(p), machine.end(p), machine.is_dropped(p)) for p in range(6)],
        [machine.producer(p, producer) for p in range(6) for producer in range(6)],
        [(machine.epochs(p), machine.last_stable(p), machine.all_ongoing(p)) for p in range(6)],
        [machine.aborted(p, 0, 10**9) for p in range(6)],
        [machine.idempotency(p, bytes([key]) * 16) for p in range(6) for key in range(6)],
    )


@pytest.fixture
def drive() -> Driver:
    return Driver()


def test_appends_move_the_end(drive: Driver) -> None:
    assert drive.machine.partition(7) == PartitionState(7)
    drive.append(7, count=3, size=50, stamp=T - 5)
    drive.append(7, count=2, size=70, time_ms=T + 10, stamp=T - 9)
    assert drive.machine.partition(7) == PartitionState(7, 0, 0, 5, 120, T - 5, T + 10)
    assert drive.machine.segments(7) == (Segment(0, 120, T - 5, T, T + 10),)
    assert drive.machine.payload_ranges() == [(payload_key(7, 0), payload_key(7, 5))]
    assert (drive.machine.end(7), drive.machine.end(8), drive.machine.partitions()) == (5, 0, (7,))
    drive.check()


def test_a_batch_that_leaves_a_gap_or_overlaps_stops_the_node(drive: Driver) -> None:
    drive.append(1, count=2)
    for base_offset in (1, 3):
        with pytest.raises(InvariantBroken, match="partition id 1, whose end is 2"):
            drive(AppendBatches(T, (AppendHeader(1, base_offset, 1, 10, T),)))
    with pytest.raises(InvariantBroken):
        drive(AppendBatches(T, (AppendHeader(1, 2, 0, 10, T),)))


def test_group_time_never_goes_back(drive: Driver) -> None:
    drive.append(1, time_ms=T + 50)
    drive.append(1, time_ms=T)
    assert drive.machine.time_ms == T + 50
    assert drive.machine.partition(1).appended_ms == T + 50
    drive(Trim(T + 60, ()))
    drive(DropPartitions(T, ()))
    assert drive.machine.time_ms == T + 60
    drive.check()


def test_ages_count_from_the_term_until_its_time_is_confirmed(drive: Driver) -> None:
    drive.append(1, size=SEGMENT_BYTES_MIN, time_ms=T)
    assert (drive.machine.term, drive.machine.confirmed_ms, drive.machine.age_floor_ms) == (1, -1, T)
    drive(Trim(T + 10, ()))
    assert (drive.machine.confirmed_ms, drive.machine.age_floor_ms) == (T + 10, 0)
    drive.append(1, size=SEGMENT_BYTES_MIN, time_ms=T + 20)
    for term in (2, 3):
        drive.term = term
        drive.append(1, size=SEGMENT_BYTES_MIN, time_ms=T + 1000 * term)
        assert (drive.machine.term, drive.machine.age_floor_ms) == (term, T + 1000 * term)
    drive.append(1, time_ms=T + 3500)
    drive.check()
    drive(Trim(T + 4000, ()))
    assert [s.appended_ms - T for s in drive.machine.segments(1)] == [0, 3000, 3000, 3000, 3500]
    assert (drive.machine.confirmed_ms, drive.machine.age_floor_ms) == (T + 4000, 0)
    drive.check()


def test_a_state_from_before_there_were_terms_is_in_doubt(drive: Driver) -> None:
    drive.append(1, size=SEGMENT_BYTES_MIN, time_ms=T)
    rows = drive.machine.rows()
    rows[b"t"] = msgspec.msgpack.encode([T, 0])
    drive.machine.restore(rows, 1)
    drive.append(1, time_ms=T + 50)
    drive(Trim(T + 60, ()))
    assert [s.appended_ms - T for s in drive.machine.segments(1)] == [50, 50]


# --- leader epochs --------------------------------------------------------------------------------------


def test_epochs_are_where_each_term_began_to_append(drive: Driver) -> None:
    assert drive.machine.epochs(1) == ()
    for term, appends_ in ((1, 2), (2, 0), (3, 1), (7, 3)):
        drive.term = term
        for _ in range(appends_):
            drive.append(1, count=10)
    assert drive.machine.epochs(1) == ((1, 0), (3, 20), (7, 30))
    drive.check()
    drive(Trim(T, (TrimItem(1, 19, 10),)))
    assert drive.machine.epochs(1) == ((1, 0), (3, 20), (7, 30))
    drive(Trim(T, (TrimItem(1, 20, 20),)))
    assert drive.machine.epochs(1) == ((3, 20), (7, 30))
    drive(Trim(T, (TrimItem(1, 60, 60),)))
    assert drive.machine.epochs(1) == ((7, 30),)
    drive.check()
    drive(DropPartitions(T, (1,)))
    assert drive.machine.epochs(1) == ()
    drive.check()


def test_the_memory_of_epochs_is_bounded(drive: Driver) -> None:
    for term in range(1, EPOCHS_MAX + 11):
        drive.term = term
        drive.append(1)
    assert drive.machine.epochs(1) == tuple((term, term - 1) for term in range(11, EPOCHS_MAX + 11))
    drive.check()


def test_a_state_from_before_there_were_epochs_begins_them_where_it_is(drive: Driver) -> None:
    drive.append(1, count=5)
    rows = {key: value for key, value in drive.machine.rows().items() if key[:1] != b"e"}
    drive.machine.restore(rows, 1)
    assert drive.machine.epochs(1) == ()
    drive.append(1)
    assert drive.machine.epochs(1) == ((1, 5),)


# --- segments and trims ---------------------------------------------------------------------------------


def test_segments_close_by_size(drive: Driver) -> None:
    for _ in range(3):
        drive.append(1, size=SEGMENT_BYTES_MIN)
    assert [s.base_offset for s in drive.machine.segments(1)] == [0, 1, 2]
    drive.append(1, size=10)
    drive.append(1, size=20)
    assert drive.machine.segments(1)[3:] == (Segment(3, 30, T, T, T),)
    drive.check()


def test_segments_close_by_age(drive: Driver) -> None:
    for minutes in (0, 0.5, 1, 1.5, 2):
        drive.append(1, time_ms=T + int(minutes * SEGMENT_MS_MIN))
    assert [(s.base_offset, s.created_ms - T) for s in drive.machine.segments(1)] == [
        (0, 0),
        (2, SEGMENT_MS_MIN),
        (4, 2 * SEGMENT_MS_MIN),
    ]
    drive.check()


def test_segments_stay_few_however_long_a_partition_grows(drive: Driver) -> None:
    for minute in range(20_000):
        drive.append(1, time_ms=T + minute * SEGMENT_MS_MIN)
    assert SEGMENT_MS_SHARE < len(drive.machine.segments(1)) < 8 * SEGMENT_MS_SHARE
    for _ in range(8_000):
        drive.append(2, size=16 * SEGMENT_BYTES_MIN)
    assert SEGMENT_BYTES_SHARE < len(drive.machine.segments(2)) < 8 * SEGMENT_BYTES_SHARE
    drive.check()


def test_a_trim_inside_a_segment_deletes_batches_and_keeps_the_segment(drive: Driver) -> None:
    for _ in range(4):
        drive.append(1, count=10)
    applied = drive(Trim(T, (TrimItem(1, 25, 20),)))
    assert applied.delete_payloads == [(payload_key(1, 0), payload_key(1, 20))]
    state = drive.machine.partition(1)
    assert (state.start, state.first_base, state.end, state.bytes) == (25, 20, 40, 400)
    assert drive.machine.payload_ranges() == [(payload_key(1, 20), payload_key(1, 40))]
    drive.check()


def test_a_trim_of_whole_segments_leaves_exact_bytes(drive: Driver) -> None:
    for size in (3, 2, 1):
        drive.append(1, count=10, size=size * SEGMENT_BYTES_MIN, stamp=T + size)
    applied = drive(Trim(T, (TrimItem(1, 10, 10),)))
    assert applied.delete_payloads == [(payload_key(1, 0), payload_key(1, 10))]
    state = drive.machine.partition(1)
    assert (state.start, state.bytes, state.max_timestamp) == (10, 3 * SEGMENT_BYTES_MIN, T + 2)
    assert [s.base_offset for s in drive.machine.segments(1)] == [10, 20]
    drive.check()


def test_a_trim_of_everything_leaves_an_empty_partition_that_goes_on(drive: Driver) -> None:
    drive.append(1, count=10, size=SEGMENT_BYTES_MIN)
    drive.append(1, count=10)
    drive(Trim(T, (TrimItem(1, 20, 20),)))
    assert drive.machine.partition(1) == PartitionState(1, 20, 20, 20, 0, -1, T)
    assert drive.machine.segments(1) == ()
    assert drive.machine.payload_ranges() == []
    drive.check()
    drive.append(1, count=5)
    assert drive.machine.partition(1).end == 25
    assert drive.machine.segments(1) == (Segment(20, 100, T, T, T),)
    drive.check()


@pytest.mark.parametrize(
    ("item", "start", "first_base"),
    [
        (TrimItem(1, 5, 0), 10, 10),  # back
        (TrimItem(1, 15, 10), 15, 10),  # start alone
        (TrimItem(1, 99, 20), 20, 20),  # past the end
        (TrimItem(1, 15, 18), 15, 10),  # would delete what is still readable
        (TrimItem(1, 99, 99), 20, 10),  # a first batch that cannot be
    ],
)
def test_trims_that_ask_for_too_much_delete_nothing_readable(
    drive: Driver, item: TrimItem, start: int, first_base: int
) -> None:
    drive.append(1, count=10)
    drive.append(1, count=10)
    drive(Trim(T, (TrimItem(1, 10, 10),)))
    applied = drive(Trim(T, (item,)))
    state = drive.machine.partition(1)
    assert (state.start, state.first_base, state.end) == (start, first_base, 20)
    assert bool(applied.delete_payloads) == (first_base > 10)
    drive.check()


def test_trimming_an_unknown_partition_does_nothing(drive: Driver) -> None:
    assert drive(Trim(T, (TrimItem(9, 5, 5),))).delete_payloads == []
    assert drive.machine.partitions() == ()


# --- drops ----------------------------------------------------------------------------------------------


def test_a_dropped_partition_is_gone_for_good(drive: Driver) -> None:
    drive.append(1, size=SEGMENT_BYTES_MIN, producer_id=1, producer_epoch=0, base_sequence=0)
    drive.append(1, idempotency_key=b"k" * 16)
    drive.append(2, producer_id=1, producer_epoch=0, base_sequence=0)
    applied = drive(DropPartitions(T, (1, 5)))
    assert applied.delete_payloads == [
        (payload_key(1, 0), payload_key(2, 0)),
        (payload_key(5, 0), payload_key(6, 0)),
    ]
    assert drive.machine.partition(1) == PartitionState(1)
    assert (drive.machine.producer(1, 1), drive.machine.idempotency(1, b"k" * 16)) == (None, None)
    assert drive.machine.producer(2, 1) is not None
    assert drive.machine.is_dropped(1)
    drive.check()
    late = drive(AppendBatches(T, (AppendHeader(1, 0, 3, 10, T),)))
    assert late.delete_payloads == [(payload_key(1, 0), payload_key(1, 3))]
    assert drive.machine.partitions() == (2,)
    assert drive(DropPartitions(T, (1,))).delete_payloads == []
    drive.check()


def test_the_memory_of_dropped_partitions_is_bounded() -> None:
    drive = Driver(Limits(dropped_per_group=3))
    for partition in (4, 1, 3, 2):
        drive(DropPartitions(T, (partition,)))
    assert [drive.machine.is_dropped(partition) for partition in (4, 1, 3, 2)] == [False, True, True, True]
    drive.check()


# --- producers and idempotency keys ---------------------------------------------------------------------


def test_the_last_five_batches_of_a_producer_are_remembered(drive: Driver) -> None:
    for n in range(7):
        drive.append(1, count=2, producer_id=4, producer_epoch=1, base_sequence=2 * n, stamp=T + n)
    state = drive.machine.producer(1, 4)
    assert state == ProducerState(1, tuple(SequencedBatch(2 * n, 2 * n + 1, 2 * n, T + n) for n in range(2, 7)), 7)
    drive.append(1, producer_id=4, producer_epoch=2, base_sequence=0)
    state = drive.machine.producer(1, 4)
    assert state == ProducerState(2, (SequencedBatch(0, 0, 14, T),), 8)
    drive.check()


def test_sequences_wrap(drive: Driver) -> None:
    drive.append(1, count=3, producer_id=4, producer_epoch=0, base_sequence=2**31 - 2)
    state = drive.machine.producer(1, 4)
    assert state is not None
    assert state.last_sequence == 0


def test_producers_and_keys_are_bounded_per_partition_and_per_group() -> None:
    drive = Driver(Limits(producers_per_partition=2, producers_per_group=3, keys_per_partition=2, keys_per_group=3))

    def known(partition: int) -> tuple[list[int], list[int]]:
        return (
            [p for p in range(6) if drive.machine.producer(partition, p) is not None],
            [k for k in range(6) if drive.machine.idempotency(partition, bytes([k]) * 16) is not None],
        )

    def append(partition: int, number: int, sequence: int = 0) -> None:
        key = bytes([number]) * 16
        drive.append(
            partition, producer_id=number, producer_epoch=0, base_sequence=sequence, idempotency_key=key, fingerprint=9
        )
        drive.check()

    append(1, 0)
    append(1, 1)
    append(1, 0, 1)
    append(1, 2)
    assert known(1) == ([0, 2], [0, 2])
    append(2, 0)
    append(2, 1)
    assert known(1) == ([2], [2])
    assert known(2) == ([0, 1], [0, 1])
    assert drive.machine.idempotency(2, b"\1" * 16) == IdempotencyState(1, 1, 9, T, 12)


def test_a_run_of_entries_writes_each_row_once(drive: Driver) -> None:
    headers = [AppendHeader(1, n, 1, 10, T, 4, 0, n) for n in range(100)]
    applied = drive.machine.apply(entries([AppendBatches(T, (header,)) for header in headers]))
    assert len(applied.rows) == 4  # the group, the partition, its epochs, the producer


def test_watchers_hear_of_everything(drive: Driver) -> None:
    heard: list[object] = []

    class Ear:
        def reset(self) -> None:
            heard.append("reset")

        def applied(self, partitions: Any) -> None:
            heard.append(list(partitions))

    drive.machine.attach(Ear())
    drive.append(3)
    drive(Trim(T, (TrimItem(3, 1, 1),)))
    drive(DropPartitions(T, (3, 4)))
    drive.machine.led(2)
    drive.machine.unled()
    drive.machine.restore({}, 9)
    assert heard == [[3], [3], [3, 4], "reset", "reset", "reset"]
    assert picture(drive.machine) == picture(PartitionMachine())


@pytest.mark.parametrize("command", [b"", b"\x02\x93\x01\x00\x90", b"\x01\x93\x63\x00\x90", b"\x01\x91\x01"])
def test_a_command_of_another_version_stops_the_node(command: bytes) -> None:
    with pytest.raises(UnknownCommand, match="newer raftbroker"):
        PartitionMachine().apply([Entry.of(1, 1, EntryKind.COMMAND, command)])


def test_a_row_of_another_version_stops_the_node() -> None:
    with pytest.raises(UnknownCommand, match="newer raftbroker"):
        PartitionMachine().restore({b"x" + bytes(8): b""}, 1)


def test_commands_are_small() -> None:
    header = AppendHeader(5, 10**6, 500, 600_000, T, -1, -1, -1)
    assert len(encode_command(AppendBatches(T, (header,)))) < 64


# --- any script -----------------------------------------------------------------------------------------

SMALL = Limits(
    producers_per_partition=2, producers_per_group=4, keys_per_partition=2, keys_per_group=4, dropped_per_group=2
)
appends = st.tuples(
    st.just("append"),
    st.integers(0, 5),
    st.integers(1, 3),
    st.sampled_from([10, SEGMENT_BYTES_MIN // 2, SEGMENT_BYTES_MIN]),
    st.integers(-1, 5),
    st.integers(-1, 5),
    st.booleans(),
)
steps = st.one_of(
    appends,
    appends,
    st.tuples(st.just("mark"), st.integers(0, 5), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("trim"), st.integers(0, 5), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("drop"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.sampled_from([-5, 1000, SEGMENT_MS_MIN])),
    st.tuples(st.just("confirm")),
)
TERM_ENTRIES = 5
"""In the scripts a new term begins after so many."""


def commands_of(script: list[tuple[Any, ...]]) -> list[Command]:
    """Commands that a leader could propose, with a header or two each."""
    commands: list[Command] = []
    ends: dict[int, int] = {}
    dropped: set[int] = set()
    open_: set[tuple[int, int]] = set()
    time_ms = T
    for what, *details in script:
        if what == "wait":
            time_ms += details[0]
        elif what == "drop":
            commands.append(DropPartitions(time_ms, (details[0],)))
            dropped.add(details[0])
        elif what == "confirm":
            commands.append(Trim(time_ms, ()))
        elif what == "trim":
            commands.append(Trim(time_ms, (TrimItem(*details),)))
        elif details[0] not in dropped:
            partition = details[0]
            base = ends.get(partition, 0)
            if what == "mark":
                _, producer, commit = details
                open_.discard((partition, producer))
                flags = TRANSACTIONAL | CONTROL | (COMMIT if commit else 0)
                header = AppendHeader(partition, base, 1, 78, time_ms, producer, 0, -1, b"", 0, flags, base + 1)
            else:
                _, count, size, producer, key, transactional = details
                if transactional and producer >= 0:
                    open_.add((partition, producer))
                flags = TRANSACTIONAL if (partition, producer) in open_ else 0
                idempotency_key = b"" if key < 0 else bytes([key]) * 16
                header = AppendHeader(
                    partition, base, count, size, time_ms, producer, 0, base, idempotency_key, key + 1, flags, base + 1
                )
            ends[partition] = base + header.count
            last = commands[-1] if commands else None
            if isinstance(last, AppendBatches) and len(last.batches) < 2:
                commands[-1] = msgspec.structs.replace(last, batches=(*last.batches, header))
            else:
                commands.append(AppendBatches(time_ms, (header,)))
    return commands


@settings(max_examples=200)
@given(st.lists(steps, max_size=40), st.lists(st.integers(0, 100), max_size=4))
def test_grouping_changes_nothing_and_rows_restore_the_state(script: list[Any], cuts: list[int]) -> None:
    drive = Driver(SMALL)
    grouped = PartitionMachine(SMALL)
    commands = commands_of(script)
    deleted: list[tuple[bytes, bytes]] = []
    for position, command in enumerate(commands):
        drive.term = position // TERM_ENTRIES
        deleted += drive(command).delete_payloads
    stored: dict[bytes, bytes | None] = {}
    deleted_grouped: list[tuple[bytes, bytes]] = []
    script_entries = [entry(n + 1, command, n // TERM_ENTRIES) for n, command in enumerate(commands)]
    for run in groupings(script_entries, cuts):
        applied = grouped.apply(run)
        stored |= applied.rows
        deleted_grouped += applied.delete_payloads
    rows = {key: value for key, value in stored.items() if value is not None}
    assert picture(grouped) == picture(drive.machine)
    assert rows == drive.rows
    assert deleted_grouped == deleted
    if commands:
        drive.check()
    for partition in range(6):
        state = grouped.partition(partition)
        assert 0 <= state.first_base <= state.start <= state.end
        assert state.bytes == sum(segment.bytes for segment in grouped.segments(partition))
