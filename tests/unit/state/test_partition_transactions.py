"""Transactions in a partition's state: the last stable offset, aborted transactions, what a reader makes of them."""

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch

from raftbroker.state.batch import BadBatch, RecordDraft, check_batch, decode_batch, encode_batch, verify_batch
from raftbroker.state.control_batch import encode_marker
from raftbroker.state.leader import Marker
from raftbroker.state.partition import Limits, PartitionMachine
from raftbroker.state.partition_commands import (
    COMMIT,
    CONTROL,
    TRANSACTIONAL,
    AppendBatches,
    AppendHeader,
    DropPartitions,
    Ongoing,
    ProducerState,
    SequencedBatch,
    Trim,
    TrimItem,
)
from tests.unit.state.strategies import entries
from tests.unit.state.test_partition import Driver

T = 1_700_000_000_000


@pytest.fixture
def drive() -> Driver:
    return Driver()


def send(
    drive: Driver,
    producer: int,
    count: int = 1,
    *,
    epoch: int = 0,
    number: int = 1,
    sequence: int = 0,
    partition: int = 1,
) -> None:
    drive.append(
        partition,
        count=count,
        producer_id=producer,
        producer_epoch=epoch,
        base_sequence=sequence,
        flags=TRANSACTIONAL,
        transaction=number,
    )


def mark(drive: Driver, producer: int, commit: bool, *, epoch: int = 0, number: int = 1, partition: int = 1) -> None:
    flags = TRANSACTIONAL | CONTROL | (COMMIT if commit else 0)
    drive.append(partition, producer_id=producer, producer_epoch=epoch, flags=flags, transaction=number)


def test_the_last_stable_offset_is_where_the_oldest_open_transaction_begins(drive: Driver) -> None:
    machine = drive.machine
    assert machine.last_stable(1) == 0
    drive.append(1, count=5)
    assert machine.last_stable(1) == 5
    send(drive, 7, 3)
    drive.append(1, count=2)
    send(drive, 8, 2)
    send(drive, 7, 1, sequence=3)
    assert (machine.last_stable(1), machine.end(1)) == (5, 13)
    assert machine.all_ongoing(1) == {7: Ongoing(5, 0, 1, T), 8: Ongoing(10, 0, 1, T)}
    drive.check()
    mark(drive, 7, True)
    assert machine.last_stable(1) == 10
    mark(drive, 8, False)
    assert (machine.last_stable(1), machine.end(1)) == (15, 15)
    assert machine.all_ongoing(1) == {}
    drive.check()


def test_aborted_transactions_are_listed_where_they_overlap(drive: Driver) -> None:
    send(drive, 7, 2)  # 0, 1
    send(drive, 8, 1)  # 2
    send(drive, 9, 1)  # 3
    mark(drive, 8, False)  # 4
    mark(drive, 7, False)  # 5
    drive.append(1)  # 6
    mark(drive, 9, True)  # 7
    send(drive, 8, 1, sequence=1, number=2)  # 8
    mark(drive, 8, False, number=2)  # 9
    aborted = drive.machine.aborted
    assert aborted(1, 0, 10) == [(7, 0), (8, 2), (8, 8)]
    assert aborted(1, 0, 1) == [(7, 0)]
    assert aborted(1, 0, 2) == [(7, 0)]
    assert aborted(1, 2, 3) == [(7, 0), (8, 2)]
    assert aborted(1, 4, 8) == [(7, 0), (8, 2)]
    assert aborted(1, 5, 8) == [(7, 0)]
    assert aborted(1, 6, 8) == []
    assert aborted(1, 6, 9) == [(8, 8)]
    assert aborted(1, 9, 10) == [(8, 8)]
    assert aborted(1, 10, 99) == []
    assert aborted(2, 0, 99) == []
    drive.check()


def test_a_marker_without_a_transaction_changes_no_offset_but_fences(drive: Driver) -> None:
    drive.append(1, producer_id=7, producer_epoch=3, base_sequence=0)
    mark(drive, 7, False, epoch=3, number=4)
    state = drive.machine.producer(1, 7)
    assert state == ProducerState(3, (SequencedBatch(0, 0, 0, T),), 2, 4)
    mark(drive, 7, False, epoch=5, number=5)
    assert drive.machine.producer(1, 7) == ProducerState(5, (), 3, 5)
    assert (drive.machine.aborted(1, 0, 9), drive.machine.last_stable(1)) == ([], 3)
    mark(drive, 8, True, epoch=2, number=9)
    assert drive.machine.producer(1, 8) == ProducerState(2, (), 4, 9, True)
    drive.append(1, producer_id=8, producer_epoch=2, base_sequence=40)
    assert drive.machine.producer(1, 8) == ProducerState(2, (SequencedBatch(40, 40, 4, T),), 5, 9)
    drive.append(1, producer_id=8, producer_epoch=3, base_sequence=0)
    assert drive.machine.producer(1, 8) == ProducerState(3, (SequencedBatch(0, 0, 5, T),), 6, 9)
    drive.check()


def test_a_late_marker_never_lowers_an_epoch(drive: Driver) -> None:
    drive.append(1, producer_id=7, producer_epoch=3, base_sequence=0)
    mark(drive, 7, True, epoch=2, number=1)
    state = drive.machine.producer(1, 7)
    assert state is not None
    assert (state.epoch, state.last_sequence, state.ended) == (3, 0, 1)


def test_what_is_aborted_is_forgotten_once_it_cannot_be_read(drive: Driver) -> None:
    for number in (1, 2, 3):
        send(drive, 7, number=number, sequence=number - 1)
        mark(drive, 7, False, number=number)
    assert drive.machine.aborted(1, 0, 9) == [(7, 0), (7, 2), (7, 4)]
    drive(Trim(T, (TrimItem(1, 3, 3),)))
    assert drive.machine.aborted(1, 0, 9) == [(7, 2), (7, 4)]
    drive(Trim(T, (TrimItem(1, 4, 4),)))
    assert drive.machine.aborted(1, 0, 9) == [(7, 4)]
    drive.check()
    drive(DropPartitions(T, (1,)))
    assert drive.machine.aborted(1, 0, 9) == []
    drive.check()


def test_an_open_transaction_outlives_its_records(drive: Driver) -> None:
    send(drive, 7, 3)
    drive.append(1, count=3)
    drive(Trim(T, (TrimItem(1, 5, 3),)))
    assert (drive.machine.last_stable(1), drive.machine.ongoing(1, 7)) == (5, Ongoing(0, 0, 1, T))
    mark(drive, 7, False)
    assert drive.machine.last_stable(1) == 7
    assert drive.machine.aborted(1, 5, 7) == [(7, 0)]
    drive.check()
    send(drive, 7, 3, number=2, sequence=3)
    drive(DropPartitions(T, (1,)))
    assert (drive.machine.last_stable(1), drive.machine.all_ongoing(1)) == (0, {})
    drive.check()


def test_room_is_bounded_per_partition_and_per_group() -> None:
    drive = Driver(Limits(transactions_per_partition=2, transactions_per_group=3))
    machine = drive.machine
    assert (machine.has_room(1, 1), machine.has_room(1, 2)) == (True, False)
    send(drive, 7)
    assert (machine.has_room(1, 0), machine.has_room(1, 1)) == (True, False)
    send(drive, 8)
    assert (machine.has_room(1, 0), machine.has_room(2, 0)) == (False, True)
    mark(drive, 7, True)
    assert machine.has_room(1, 0)
    mark(drive, 8, False)
    assert machine.has_room(1, 0)
    send(drive, 7, partition=2)
    send(drive, 8, partition=2)
    assert not any(machine.has_room(partition, 0) for partition in (1, 2, 3))
    drive.check()
    drive(Trim(T, (TrimItem(1, 4, 4),)))
    assert machine.has_room(1, 0)
    drive(DropPartitions(T, (2,)))
    assert machine.has_room(3, 1)
    drive.check()


def test_rows_and_commands_from_before_there_were_transactions_are_taken() -> None:
    encode = msgspec.msgpack.encode
    machine = PartitionMachine()
    producer = b"q" + (1).to_bytes(8, "big") + (7).to_bytes(8, "big")
    machine.restore({producer: encode([3, [[0, 1, 0, T]], 1])}, 1)
    assert machine.producer(1, 7) == ProducerState(3, (SequencedBatch(0, 1, 0, T),), 1)
    old = msgspec.convert([1, 0, 2, 100, T, 7, 3, 2, b"", 0], AppendHeader)
    assert (old.flags, old.transaction) == (0, 0)
    machine.apply(entries([AppendBatches(T, (old,))]))
    assert machine.end(1) == 2


# --- the bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [False, True])
def test_a_marker_is_what_a_client_of_kafka_reads(commit: bool) -> None:
    data = encode_marker(Marker(70_000, 12, 5, commit), T, 3)
    header = verify_batch(data)
    assert (header.control, header.transactional, header.count, header.base_sequence) == (True, True, 1, -1)
    assert (header.producer_id, header.producer_epoch, header.max_timestamp) == (70_000, 12, T)
    assert decode_batch(data) == []
    batch = DefaultRecordBatch(data)
    assert batch.is_control_batch
    assert batch.is_transactional
    assert batch.validate_crc()
    [record] = list(batch)
    assert record.key == struct.pack(">hh", 0, 1 if commit else 0)
    assert record.value == struct.pack(">hi", 0, 3)
    assert (record.commit, record.abort) == (commit, not commit)


def test_a_transactional_batch_needs_its_ids() -> None:
    def batch(producer_id: int) -> bytes:
        sequence = 0 if producer_id >= 0 else -1
        return encode_batch(
            [RecordDraft(value=b"v")],
            base_timestamp=T,
            producer_id=producer_id,
            producer_epoch=sequence,
            base_sequence=sequence,
            attributes=0x10,
        )

    assert check_batch(batch(5), transactional=True).transactional
    with pytest.raises(BadBatch, match="transactional id"):
        check_batch(batch(5))
    with pytest.raises(BadBatch, match="no producer id"):
        check_batch(batch(-1), transactional=True)
    with pytest.raises(BadBatch, match="written by brokers"):
        check_batch(encode_marker(Marker(5, 0, 1, True), T), transactional=True)


# --- any script -----------------------------------------------------------------------------------------


class Log:
    """What was appended to one partition, and what follows from it, told naively."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, int, str]] = []
        """(base offset, count, producer, kind), ascending; kind is plain, open, commit or abort."""
        self.open: dict[int, int] = {}
        self.start = 0

    @property
    def end(self) -> int:
        return self.batches[-1][0] + self.batches[-1][1] if self.batches else 0

    def committed(self, start: int) -> list[int]:
        """The offsets that a reader of committed records shall see, from `start` on."""
        stable = min(self.open.values(), default=self.end)
        seen: list[int] = []
        for position, (base, count, producer, kind) in enumerate(self.batches):
            if kind == "open":
                fate = next(
                    (k for _, _, p, k in self.batches[position:] if p == producer and k in ("commit", "abort")), ""
                )
                kind = "plain" if fate == "commit" else ""
            if kind == "plain":
                seen += range(base, base + count)
        return [offset for offset in seen if start <= offset < stable]


def read_committed(machine: PartitionMachine, log: Log, start: int, end: int) -> list[int]:
    """As Kafka's clients do it: batches of a producer are skipped from the first offset of an aborted transaction on
    until its marker comes."""
    aborted = machine.aborted(1, start, end)
    skipped: set[int] = set()
    seen: list[int] = []
    for base, count, producer, kind in log.batches:
        if base + count <= start or base >= end:
            continue
        while aborted and aborted[0][1] <= base + count - 1:
            skipped.add(aborted.pop(0)[0])
        if kind in ("commit", "abort"):
            if kind == "abort":
                skipped.discard(producer)
        elif kind == "plain" or producer not in skipped:
            seen += range(base, base + count)
    return [offset for offset in seen if start <= offset < end]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 3), st.integers(1, 3)),
        st.tuples(st.just("plain"), st.integers(1, 3)),
        st.tuples(st.just("end"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("trim"), st.integers(0, 20)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(actions, st.lists(st.integers(0, 80), min_size=2, max_size=6))
def test_a_reader_of_committed_records_sees_them_and_no_others(script: list[Any], places: list[int]) -> None:
    drive, log = Driver(), Log()
    for what, *details in script:
        base = log.end
        if what == "send":
            producer, count = details
            send(drive, producer, count, sequence=base)
            log.open.setdefault(producer, base)
            log.batches.append((base, count, producer, "open"))
        elif what == "plain":
            drive.append(1, count=details[0])
            log.batches.append((base, details[0], -1, "plain"))
        elif what == "end":
            mark(drive, *details)
            log.open.pop(details[0], None)
            log.batches.append((base, 1, details[0], "commit" if details[1] else "abort"))
        elif log.end:
            start = details[0] % (log.end + 1)
            first = max((b for b, *_ in log.batches if b <= start), default=0) if start < log.end else start
            drive(Trim(T, (TrimItem(1, start, first),)))
            log.start = max(log.start, start)
    machine = drive.machine
    stable = machine.last_stable(1)
    assert stable == max(log.start, min(log.open.values(), default=log.end))
    for place in places:
        start = log.start + place % (log.end - log.start + 1)
        assert read_committed(machine, log, start, stable) == log.committed(start)
        end = start + place % (stable - start + 1) if stable > start else start
        assert read_committed(machine, log, start, end) == [o for o in log.committed(start) if o < end]
    if log.end:
        drive.check()
