"""What a leader decides: offsets, sequences, duplicates of applied and of in-flight batches, withdrawal."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.model import Entry
from raftbroker.state.batch import BatchHeader, RecordDraft, check_batch, encode_batch
from raftbroker.state.errors import FencedEpoch, IdempotencyConflict, OutOfOrderSequence, PartitionDropped
from raftbroker.state.leader import Accept, Duplicate, Idempotency, PartitionLeader
from raftbroker.state.partition import Limits, PartitionMachine
from raftbroker.state.partition_commands import AppendBatches, AppendHeader, DropPartitions, decode_partition
from tests.unit.state.strategies import entry

T = 1_700_000_000_000
KEY = Idempotency(b"k" * 16, 77)


def batch(count: int = 1, producer_id: int = -1, epoch: int = -1, sequence: int = -1) -> BatchHeader:
    return check_batch(
        encode_batch(
            [RecordDraft(b"k", b"v")] * count,
            base_timestamp=T,
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
        )
    )


class Leader:
    """A machine, its leader, and a log of which a part is applied."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.machine = PartitionMachine(limits)
        self.decisions = PartitionLeader(self.machine)
        self.log: list[Entry] = []
        self.applied = 0

    def offer(
        self, header: BatchHeader, idempotency: Idempotency | None = None, partition: int = 1, token: object = None
    ) -> Accept | Duplicate:
        decision = self.decisions.decide(partition, header, idempotency)
        assert self.decisions.decide(partition, header, idempotency) == decision  # deciding changes nothing
        if isinstance(decision, Accept):
            append = self.decisions.accepted(partition, header, decision, idempotency, token)
            self.log.append(entry(len(self.log) + 1, AppendBatches(T, (append,))))
        return decision

    def apply(self, count: int = 1000) -> None:
        run = self.log[self.applied : self.applied + count]
        self.machine.apply(run)
        self.applied += len(run)

    def lose_leadership(self) -> None:
        del self.log[self.applied :]
        self.machine.unled()
        self.machine.led(2)


@pytest.fixture
def lead() -> Leader:
    return Leader()


def test_offsets_follow_what_is_in_flight(lead: Leader) -> None:
    assert lead.offer(batch(3)) == Accept(0)
    assert lead.offer(batch(2)) == Accept(3)
    assert lead.offer(batch(1), partition=2) == Accept(0)
    assert (lead.decisions.next_offset(1), lead.decisions.in_flight(1)) == (5, 2)
    lead.apply(1)
    assert (lead.decisions.next_offset(1), lead.decisions.in_flight(1)) == (5, 1)
    lead.apply()
    assert (lead.decisions.next_offset(1), lead.decisions.in_flight(1)) == (5, 0)
    assert lead.offer(batch(1)) == Accept(5)


def test_an_offset_is_not_given_twice(lead: Leader) -> None:
    first = lead.decisions.decide(1, batch())
    assert isinstance(first, Accept)
    lead.decisions.accepted(1, batch(), first)
    with pytest.raises(AssertionError, match="between decide and accepted"):
        lead.decisions.accepted(1, batch(), first)


def test_what_goes_into_the_command(lead: Leader) -> None:
    header = batch(2, 9, 4, 6)
    append = lead.decisions.accepted(1, header, Accept(0), KEY)
    assert append == AppendHeader(1, 0, 2, header.size, T, 9, 4, 6, KEY.key, 77)


@pytest.mark.parametrize("applied", [0, 1, 2])
def test_a_duplicate_gets_the_originals_offset_and_token(lead: Leader, applied: int) -> None:
    lead.offer(batch(2, 9, 0, 0), token="first")
    lead.offer(batch(3, 9, 0, 2), token="second")
    lead.apply(applied)
    first, second = applied < 1, applied < 2
    assert lead.offer(batch(2, 9, 0, 0)) == Duplicate(0, T, first, "first" if first else None)
    assert lead.offer(batch(3, 9, 0, 2)) == Duplicate(2, T, second, "second" if second else None)
    assert lead.offer(batch(1, 9, 0, 5)) == Accept(5)


@pytest.mark.parametrize("applied", [0, 3, 7])
def test_five_batches_are_remembered(lead: Leader, applied: int) -> None:
    for n in range(7):
        lead.offer(batch(1, 9, 0, n))
    lead.apply(applied)
    for n in range(2, 7):
        decision = lead.offer(batch(1, 9, 0, n))
        assert isinstance(decision, Duplicate)
        assert (decision.base_offset, decision.in_flight) == (n, n >= applied)
    with pytest.raises(OutOfOrderSequence, match="sequence 1 where 7 must follow"):
        lead.offer(batch(1, 9, 0, 1))


@pytest.mark.parametrize("applied", [0, 1])
def test_sequences_must_follow(lead: Leader, applied: int) -> None:
    lead.offer(batch(2, 9, 0, 0))
    lead.apply(applied)
    for sequence in (1, 3, 100):
        with pytest.raises(OutOfOrderSequence) as caught:
            lead.offer(batch(1, 9, 0, sequence))
        assert (caught.value.expected, caught.value.got) == (2, sequence)
    with pytest.raises(OutOfOrderSequence):  # begins like the last, but is another batch
        lead.offer(batch(3, 9, 0, 0))
    assert lead.offer(batch(1, 9, 0, 0), partition=2) == Accept(0)  # each partition has its own


@pytest.mark.parametrize("applied", [0, 1])
def test_epochs_fence(lead: Leader, applied: int) -> None:
    lead.offer(batch(1, 9, 5, 0))
    lead.apply(applied)
    with pytest.raises(FencedEpoch, match="epoch 5 has taken over"):
        lead.offer(batch(1, 9, 4, 1))
    with pytest.raises(OutOfOrderSequence, match="sequence 1 where 0 must follow"):
        lead.offer(batch(1, 9, 6, 1))
    assert lead.offer(batch(1, 9, 6, 0)) == Accept(1)
    with pytest.raises(FencedEpoch):
        lead.offer(batch(1, 9, 5, 1))
    with pytest.raises(FencedEpoch):  # would have been a duplicate in its own epoch
        lead.offer(batch(1, 9, 5, 0))
    decision = lead.offer(batch(1, 9, 6, 0))
    assert isinstance(decision, Duplicate)


@pytest.mark.parametrize("applied", [0, 1])
def test_sequences_wrap_after_2_to_the_31(lead: Leader, applied: int) -> None:
    assert lead.offer(batch(2, 9, 0, 2**31 - 2)) == Accept(0)
    lead.apply(applied)
    with pytest.raises(OutOfOrderSequence):
        lead.offer(batch(1, 9, 0, 1))
    assert lead.offer(batch(3, 9, 0, 0)) == Accept(2)
    assert lead.offer(batch(2, 9, 0, 2**31 - 2)) == Duplicate(0, T, applied == 0)


def test_a_batch_may_wrap_inside(lead: Leader) -> None:
    lead.offer(batch(4, 9, 0, 2**31 - 2))
    assert lead.offer(batch(1, 9, 0, 2)) == Accept(4)


def test_an_unknown_producer_may_start_anywhere(lead: Leader) -> None:
    assert lead.offer(batch(1, 9, 3, 1000)) == Accept(0)
    assert lead.offer(batch(1, 9, 3, 1001)) == Accept(1)


def test_a_forgotten_producer_goes_on() -> None:
    lead = Leader(Limits(producers_per_partition=1))
    lead.offer(batch(1, 1, 0, 0))
    lead.offer(batch(1, 2, 0, 0))
    lead.apply()
    assert lead.offer(batch(1, 1, 0, 1)) == Accept(2)


# --- idempotency keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [0, 1])
def test_a_key_gives_the_same_offset_again(lead: Leader, applied: int) -> None:
    assert lead.offer(batch(2), KEY, token="original") == Accept(0)
    lead.apply(applied)
    flying = applied == 0
    assert lead.offer(batch(2), KEY) == Duplicate(0, T, flying, "original" if flying else None)
    assert lead.offer(batch(2), KEY, partition=2) == Accept(0)
    for header, idempotency in ((batch(2), Idempotency(KEY.key, 78)), (batch(3), KEY)):
        with pytest.raises(IdempotencyConflict, match="take a new key"):
            lead.offer(header, idempotency)
    assert lead.offer(batch(2), Idempotency(b"j" * 16, 77)) == Accept(2)


def test_a_forgotten_key_is_a_new_one() -> None:
    lead = Leader(Limits(keys_per_partition=1))
    lead.offer(batch(), KEY)
    lead.offer(batch(), Idempotency(b"j" * 16, 1))
    lead.apply()
    assert lead.offer(batch(), KEY) == Accept(2)


# --- what ends being in flight --------------------------------------------------------------------------


def test_a_refused_proposal_leaves_no_trace(lead: Leader) -> None:
    lead.offer(batch(1, 9, 0, 0), token="kept")
    lead.offer(batch(1, 9, 0, 1), KEY)
    lead.offer(batch(1), Idempotency(b"j" * 16, 1))
    lead.decisions.withdraw(1, 1)
    assert lead.decisions.next_offset(1) == 1
    assert lead.offer(batch(1, 9, 0, 0)) == Duplicate(0, T, True, "kept")
    assert lead.offer(batch(1, 9, 0, 1), KEY) == Accept(1)
    lead.decisions.withdraw(1, 0)
    assert (lead.decisions.next_offset(1), lead.decisions.in_flight(1)) == (0, 0)
    assert lead.offer(batch(1, 9, 0, 500)) == Accept(0)
    lead.decisions.withdraw(7, 0)


def test_withdrawing_goes_back_to_the_applied_state(lead: Leader) -> None:
    lead.offer(batch(1, 9, 0, 0), KEY)
    lead.apply()
    lead.offer(batch(1, 9, 1, 0))
    lead.decisions.withdraw(1, 1)
    assert lead.offer(batch(1, 9, 0, 1)) == Accept(1)
    assert lead.offer(batch(1), KEY) == Duplicate(0, T, False)


def test_leadership_lost_forgets_what_was_in_flight(lead: Leader) -> None:
    lead.offer(batch(2, 9, 0, 0), KEY)
    lead.apply()
    lead.offer(batch(1, 9, 0, 2), Idempotency(b"j" * 16, 1), token="lost")
    lead.lose_leadership()
    assert lead.decisions.in_flight(1) == 0
    assert lead.offer(batch(1, 9, 0, 2), Idempotency(b"j" * 16, 1)) == Accept(2)
    assert lead.offer(batch(2, 9, 0, 0)) == Duplicate(0, T, False)


def test_nothing_follows_a_drop(lead: Leader) -> None:
    lead.offer(batch())
    lead.decisions.dropping([1])
    with pytest.raises(PartitionDropped, match="partition id 1 is gone"):
        lead.offer(batch())
    lead.log.append(entry(len(lead.log) + 1, DropPartitions(T, (1,))))
    lead.apply()
    with pytest.raises(PartitionDropped):
        lead.offer(batch())
    assert lead.decisions.in_flight(1) == 0


def test_a_drop_that_was_lost_is_forgotten(lead: Leader) -> None:
    lead.decisions.dropping([1])
    lead.lose_leadership()
    assert lead.offer(batch()) == Accept(0)


def test_nothing_is_held_once_applied(lead: Leader) -> None:
    for n in range(50):
        lead.offer(batch(1, 9, 0, n // 3), Idempotency(n.to_bytes(16, "big"), n), partition=n % 3, token=object())
    lead.apply()
    assert vars(lead.decisions)["_partitions"] == {}


def test_what_has_landed_is_let_go_while_more_is_in_flight(lead: Leader) -> None:
    for n in range(50):
        lead.offer(batch(1, n, 0, 0), Idempotency(n.to_bytes(16, "big"), n))
        lead.apply(n - lead.applied)
    flying = vars(lead.decisions)["_partitions"][1]
    assert (len(flying.batches), len(flying.keys), len(flying.producers)) == (1, 1, 1)


# --- any schedule ---------------------------------------------------------------------------------------

actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("resend"), st.integers(0, 2), st.integers(0, 4)),
        st.tuples(st.just("apply"), st.integers(1, 4)),
        st.tuples(st.just("depose")),
        st.tuples(st.just("refuse")),
    ),
    max_size=60,
)


class Client:
    """An idempotent producer that sends a batch again until it is acknowledged, keeping order."""

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        self.sent: list[tuple[int, int]] = []
        self.next_sequence = 0
        self.offsets: dict[int, int] = {}

    def header(self, sequence: int, count: int) -> BatchHeader:
        return batch(count, self.producer_id, 0, sequence)


def read_back(lead: Leader) -> dict[int, list[tuple[int, int]]]:
    """Per producer: (sequence, offset) of each record that was applied."""
    found: dict[int, list[tuple[int, int]]] = {}
    for one in lead.log[: lead.applied]:
        for append in appended(one):
            for n in range(append.count):
                found.setdefault(append.producer_id, []).append((append.base_sequence + n, append.base_offset + n))
    return found


def appended(one: Entry) -> tuple[AppendHeader, ...]:
    command = decode_partition(one.command)
    assert isinstance(command, AppendBatches)
    return command.batches


def act(lead: Leader, clients: list[Client], action: tuple[Any, ...]) -> None:
    what, *details = action
    if what == "send":
        client = clients[details[0]]
        decision = lead.offer(client.header(client.next_sequence, details[1]))
        assert isinstance(decision, Accept)
        client.sent.append((client.next_sequence, details[1]))
        client.offsets[client.next_sequence] = decision.base_offset
        client.next_sequence += details[1]
    elif what == "resend":
        client = clients[details[0]]
        if len(client.sent) > details[1]:
            sequence, count = client.sent[-1 - details[1]]
            decision = lead.offer(client.header(sequence, count))
            assert isinstance(decision, Duplicate)
            assert decision.base_offset == client.offsets[sequence]
            assert decision.in_flight == (decision.base_offset >= lead.machine.end(1))
    elif what == "apply":
        lead.apply(details[0])
    elif lead.applied < len(lead.log):
        if what == "depose":
            lead.lose_leadership()
        else:
            lead.decisions.withdraw(1, appended(lead.log[-1])[0].base_offset)
            lead.log.pop()
        for client in clients:  # learns that the batch was discarded, and goes on from there
            end = lead.decisions.next_offset(1)
            client.sent = [(s, count) for s, count in client.sent if client.offsets[s] < end]
            client.next_sequence = client.sent[-1][0] + client.sent[-1][1] if client.sent else 0


@settings(max_examples=200)
@given(actions)
def test_every_record_is_appended_once_and_in_order(schedule: list[tuple[Any, ...]]) -> None:
    lead = Leader()
    clients = [Client(producer_id) for producer_id in range(3)]
    for action in schedule:
        act(lead, clients, action)
    lead.apply()
    for producer_id, records in read_back(lead).items():
        assert [sequence for sequence, _ in records] == list(range(clients[producer_id].next_sequence))
        offsets = dict(records)
        for sequence, _ in clients[producer_id].sent:
            assert offsets[sequence] == clients[producer_id].offsets[sequence]
    assert lead.decisions.next_offset(1) == sum(client.next_sequence for client in clients)
