"""The rules of idempotent producers (KIP-98, KIP-360), as functions of one producer's state on one partition.

- A batch whose epoch and sequences equal one of the last five is a duplicate and gets that one's offset.
- A lower epoch is fenced. A higher epoch must start at sequence 0.
- In the same epoch the next sequence must follow the last; after 2^31 - 1 comes 0.
- A producer that is not known (new, or forgotten because the window is full) may start at any sequence: KIP-360,
  Kafka 2.5 and later. Refusing it would stop a producer for good that was merely idle.
- A marker of a transaction brings its epoch along: what is older is fenced from there on.
"""

from raftbroker.state.errors import FencedEpoch, OutOfOrderSequence
from raftbroker.state.partition_commands import AppendHeader, ProducerState, SequencedBatch

BATCHES_MAX = 5
"""The batches remembered per producer: what Kafka's clients may have in flight."""
SEQUENCE_MAX = 2**31 - 1


def last_sequence_of(base_sequence: int, count: int) -> int:
    """The sequence of the last of `count` records, wrapped."""
    return (base_sequence + count - 1) & SEQUENCE_MAX


def find_duplicate(
    state: ProducerState | None, epoch: int, first_sequence: int, last_sequence: int
) -> SequencedBatch | None:
    """The remembered batch that this one repeats."""
    if state is None or state.epoch != epoch:
        return None
    for batch in reversed(state.batches):
        if batch.first_sequence == first_sequence and batch.last_sequence == last_sequence:
            return batch
    return None


def check_sequence(producer_id: int, state: ProducerState | None, epoch: int, first_sequence: int) -> None:
    """Raises FencedEpoch or OutOfOrderSequence where a batch that is no duplicate may not be appended."""
    if state is None:
        return
    if epoch < state.epoch:
        raise FencedEpoch(producer_id, state.epoch, epoch)
    if state.resumable and epoch == state.epoch:
        return
    expected = 0 if epoch > state.epoch else (state.last_sequence + 1) & SEQUENCE_MAX
    if first_sequence != expected:
        raise OutOfOrderSequence(producer_id, expected, first_sequence)


def advance(state: ProducerState | None, append: AppendHeader, touched: int = 0) -> ProducerState:
    """The producer's state once the batch is appended."""
    epoch = append.producer_epoch
    if append.marker:
        return _marked(state, epoch, append.transaction, touched)
    base_sequence = append.base_sequence
    batch = SequencedBatch(
        base_sequence, last_sequence_of(base_sequence, append.count), append.base_offset, append.max_timestamp
    )
    if state is None:
        return ProducerState(epoch, (batch,), touched)
    if state.epoch != epoch:
        return ProducerState(epoch, (batch,), touched, state.ended)
    return ProducerState(epoch, (*state.batches[1 - BATCHES_MAX :], batch), touched, state.ended)


def _marked(state: ProducerState | None, epoch: int, transaction: int, touched: int) -> ProducerState:
    if state is None:
        return ProducerState(epoch, (), touched, transaction, True)
    ended = max(state.ended, transaction)
    if epoch > state.epoch:
        return ProducerState(epoch, (), touched, ended)
    return ProducerState(state.epoch, state.batches, touched, ended, state.resumable)
