"""What a leader decides of transactional batches and of markers, with some of them in flight."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftbroker.state.batch import BatchHeader, RecordDraft, check_batch, encode_batch, parse_header
from raftbroker.state.control_batch import encode_marker
from raftbroker.state.errors import (
    FencedEpoch,
    InvalidTransaction,
    NotVerified,
    OutOfOrderSequence,
    PartitionDropped,
    TooManyTransactions,
)
from raftbroker.state.leader import Accept, Duplicate, Ended, Marker
from raftbroker.state.partition import Limits
from raftbroker.state.partition_commands import COMMIT, CONTROL, TRANSACTIONAL, AppendBatches, AppendHeader, Ongoing
from tests.unit.state import test_leader
from tests.unit.state.strategies import entry
from tests.unit.state.test_leader import batch

T = 1_700_000_000_000


def part(count: int = 1, producer_id: int = 9, epoch: int = 0, sequence: int = 0) -> BatchHeader:
    """A batch of a transaction."""
    data = encode_batch(
        [RecordDraft(b"k", b"v")] * count,
        base_timestamp=T,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        attributes=TRANSACTIONAL << 4,
    )
    return check_batch(data, transactional=True)


class Leader(test_leader.Leader):
    def send(self, header: BatchHeader, transaction: int | None = None, token: object = None) -> Accept | Duplicate:
        decision = self.decisions.decide(1, header, None, transaction)
        if isinstance(decision, Accept):
            append = self.decisions.accepted(1, header, decision, None, token, transaction)
            self.log.append(entry(len(self.log) + 1, AppendBatches(T, (append,))))
        return decision

    def mark(
        self, commit: bool = True, number: int = 1, epoch: int = 0, producer_id: int = 9, token: object = None
    ) -> Accept | Duplicate | Ended:
        marker = Marker(producer_id, epoch, number, commit)
        decision = self.decisions.decide_marker(1, marker)
        assert self.decisions.decide_marker(1, marker) == decision
        if isinstance(decision, Accept):
            header = parse_header(encode_marker(marker, T))
            append = self.decisions.accepted(1, header, decision, None, token, None, marker)
            self.log.append(entry(len(self.log) + 1, AppendBatches(T, (append,))))
        return decision


@pytest.fixture
def lead() -> Leader:
    return Leader()


def test_what_goes_into_the_command(lead: Leader) -> None:
    append = lead.decisions.accepted(1, part(2, 9, 4, 6), Accept(0), None, None, 33)
    assert append == AppendHeader(1, 0, 2, part(2, 9, 4, 6).size, T, 9, 4, 6, b"", 0, TRANSACTIONAL, 33)
    marker = Marker(9, 5, 33, True)
    header = parse_header(encode_marker(marker, T))
    append = lead.decisions.accepted(1, header, Accept(2), None, None, None, marker)
    assert append == AppendHeader(1, 2, 1, header.size, T, 9, 5, -1, b"", 0, TRANSACTIONAL | CONTROL | COMMIT, 33)


@pytest.mark.parametrize("applied", [0, 9])
def test_the_first_batch_of_a_transaction_is_verified_and_no_other(lead: Leader, applied: int) -> None:
    transaction_of = lead.decisions.transaction_of
    assert transaction_of(1, part()) is None
    for unverified in (None, 0):
        with pytest.raises(NotVerified):
            lead.send(part(), unverified)
    assert lead.send(part(), 7) == Accept(0)
    lead.apply(applied)
    assert transaction_of(1, part(sequence=1)) == 7
    assert transaction_of(1, part()) == 7
    assert transaction_of(1, part(producer_id=8)) is None
    assert transaction_of(1, part(epoch=1)) is None
    assert transaction_of(2, part()) is None
    assert lead.send(part(sequence=1)) == Accept(1)
    assert lead.mark(number=7) == Accept(2)
    lead.apply(applied)
    assert transaction_of(1, part(sequence=2)) is None
    assert transaction_of(1, part(sequence=1)) == 7  # a duplicate
    assert isinstance(lead.send(part(sequence=1)), Duplicate)


@pytest.mark.parametrize("applied", [0, 9])
def test_a_batch_that_comes_after_its_transactions_end_is_refused(lead: Leader, applied: int) -> None:
    """It was verified while the transaction was open, and overtaken by the marker."""
    lead.mark(number=4)
    lead.apply(applied)
    with pytest.raises(InvalidTransaction, match="has ended"):
        lead.send(part(), 4)
    assert lead.send(part(), 5) == Accept(1)


@pytest.mark.parametrize("applied", [0, 9])
def test_only_batches_of_the_open_transaction_are_taken(lead: Leader, applied: int) -> None:
    lead.send(part(epoch=3), 1)
    lead.apply(applied)
    with pytest.raises(InvalidTransaction, match="end the transaction first"):
        lead.send(batch(1, 9, 3, 1))
    with pytest.raises(InvalidTransaction, match="epoch 3 has to end"):
        lead.send(part(epoch=4), 2)
    with pytest.raises(FencedEpoch):
        lead.send(part(epoch=2, sequence=1))
    with pytest.raises(OutOfOrderSequence):
        lead.send(part(epoch=3, sequence=2))
    assert lead.send(batch(1, 8, 0, 0)) == Accept(1)
    lead.mark(epoch=3)
    lead.apply(applied)
    assert lead.send(batch(1, 9, 3, 1)) == Accept(3)


@pytest.mark.parametrize("applied", [0, 1, 9])
def test_a_marker_is_written_once(lead: Leader, applied: int) -> None:
    lead.send(part(), 1)
    assert lead.mark(token="first") == Accept(1)
    lead.apply(applied)
    flying = applied < 2
    assert lead.mark() == (Duplicate(1, -1, True, "first") if flying else Ended())
    assert lead.mark(epoch=5) == (Duplicate(1, -1, True, "first") if flying else Ended())
    assert lead.send(part(sequence=1), 2) == Accept(2)
    assert isinstance(lead.mark(number=1), Duplicate if flying else Ended)
    lead.apply()
    assert lead.machine.ongoing(1, 9) == Ongoing(2, 0, 2, T)
    assert lead.mark(number=1, commit=False) == Ended()  # a late one, of the transaction before
    lead.apply()
    assert lead.machine.ongoing(1, 9) == Ongoing(2, 0, 2, T)
    assert lead.mark(number=2, commit=False) == Accept(3)
    lead.apply()
    assert lead.machine.aborted(1, 0, 9) == [(9, 2)]


@pytest.mark.parametrize("applied", [0, 9])
def test_a_marker_fences_older_epochs(lead: Leader, applied: int) -> None:
    lead.send(part(epoch=1), 1)
    assert lead.mark(False, epoch=2) == Accept(1)
    lead.apply(applied)
    with pytest.raises(FencedEpoch):
        lead.send(part(epoch=1, sequence=1), 1)
    with pytest.raises(FencedEpoch):
        lead.send(batch(1, 9, 1, 1))
    with pytest.raises(OutOfOrderSequence):
        lead.send(part(epoch=2, sequence=1), 2)
    assert lead.send(part(epoch=2), 2) == Accept(2)
    lead.send(batch(1, 8, 7, 0))
    lead.apply(applied)
    with pytest.raises(FencedEpoch, match="epoch 7 has taken over"):
        lead.mark(producer_id=8, epoch=6)


def test_a_producer_that_a_marker_made_known_goes_on(lead: Leader) -> None:
    lead.mark(epoch=4)
    assert lead.send(part(epoch=4, sequence=70), 2) == Accept(1)
    with pytest.raises(OutOfOrderSequence, match="71 must follow"):
        lead.send(part(epoch=4, sequence=72))


def test_a_withdrawn_marker_has_ended_nothing(lead: Leader) -> None:
    lead.send(part(), 1)
    lead.mark()
    lead.log.pop()
    lead.decisions.withdraw(1, 1)
    assert lead.send(part(sequence=1)) == Accept(1)
    assert lead.mark() == Accept(2)
    lead.apply()
    lead.send(part(sequence=2), 2)
    lead.lose_leadership()
    assert lead.decisions.transaction_of(1, part(sequence=2)) is None
    assert lead.mark() == Ended()


def test_too_many_transactions_are_refused_and_their_ends_are_not() -> None:
    lead = Leader(Limits(transactions_per_partition=3))
    for producer_id in (1, 2, 3):
        lead.send(part(producer_id=producer_id), 1)
    with pytest.raises(TooManyTransactions, match="retention"):
        lead.send(part(producer_id=4), 1)
    lead.apply()
    with pytest.raises(TooManyTransactions):
        lead.send(part(producer_id=4), 1)
    for producer_id in (1, 2, 3):
        lead.mark(producer_id != 2, producer_id=producer_id)
    lead.apply()
    lead.send(part(producer_id=4), 1)
    lead.apply()
    assert (lead.machine.aborted(1, 0, 9), lead.machine.last_stable(1)) == ([(2, 1)], 6)


def test_nothing_is_marked_on_a_dropped_partition(lead: Leader) -> None:
    lead.decisions.dropping([1])
    with pytest.raises(PartitionDropped):
        lead.mark()


actions = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 2)),
        st.tuples(st.just("send"), st.integers(0, 2)),
        st.tuples(st.just("late"), st.integers(0, 2)),
        st.tuples(st.just("end"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 2)),
        st.tuples(st.just("apply"), st.integers(1, 3)),
        st.tuples(st.just("depose")),
    ),
    max_size=50,
)


class Producer:
    """A producer and its coordinator: transactions by number, and the marker that may be asked for again."""

    def __init__(self, producer_id: int) -> None:
        self.id = producer_id
        self.number = 0
        self.open = False
        self.sequence = 0
        self.marker: Marker | None = None


def act(lead: Leader, producer: Producer, what: str, details: list[Any]) -> None:
    if what == "begin":
        if not producer.open and (producer.marker is None or marked(lead, producer)):
            producer.number, producer.open = producer.number + 1, True
    elif what == "send":
        if producer.open:
            header = part(producer_id=producer.id, sequence=producer.sequence)
            number = lead.decisions.transaction_of(1, header)
            assert number in (None, producer.number)
            assert isinstance(lead.send(header, number or producer.number), Accept)
            producer.sequence += 1
    elif what == "late":  # verified long ago, and the transaction has ended since
        if producer.marker is not None and not producer.open and marked(lead, producer):
            with pytest.raises((InvalidTransaction, FencedEpoch, OutOfOrderSequence)):
                lead.send(part(producer_id=producer.id, sequence=producer.sequence), producer.marker.transaction)
    elif what == "end" and producer.open:
        producer.open = False
        producer.marker = Marker(producer.id, 0, producer.number, details[0])
        lead.mark(details[0], producer.number, 0, producer.id)
    elif what == "again" and producer.marker is not None:
        lead.mark(producer.marker.commit, producer.marker.transaction, 0, producer.id)


def marked(lead: Leader, producer: Producer) -> bool:
    """Whether the marker is certain, as the coordinator knows it."""
    assert producer.marker is not None
    return isinstance(lead.decisions.decide_marker(1, producer.marker), Ended)


@settings(max_examples=300)
@given(actions)
def test_transactions_end_once_and_as_decided(schedule: list[tuple[Any, ...]]) -> None:
    lead = Leader()
    producers = [Producer(number) for number in range(3)]
    for what, *details in schedule:
        if what == "apply":
            lead.apply(details[0])
        elif what == "depose":
            lead.lose_leadership()
            for producer in producers:
                state = lead.machine.producer(1, producer.id)
                producer.sequence = 0 if state is None else (state.last_sequence + 1)
        else:
            act(lead, producers[details[0]], what, details[1:])
    lead.apply()
    for producer in producers:
        if producer.marker is not None and not producer.open:
            lead.mark(producer.marker.commit, producer.marker.transaction, 0, producer.id)
    lead.apply()
    fates: dict[tuple[int, int], list[bool]] = {}
    for append in (append for one in lead.log for append in test_leader.appended(one)):
        if append.marker:
            fates.setdefault((append.producer_id, append.transaction), []).append(append.commit)
    assert all(len(fate) == 1 for fate in fates.values())
    for producer in producers:
        ongoing = lead.machine.ongoing(1, producer.id)
        assert ongoing is None or (producer.open and ongoing.number == producer.number)
