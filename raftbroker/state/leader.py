"""What the leader of a data group decides before it proposes: offsets, duplicates, sequences.

Decisions are against applied state and what is in flight, that is, proposed and not yet applied here. The order of
calls, without an await in between: `decide`, then for an `Accept` place the batch and call `accepted`, then propose; if
the proposal is refused in that very call, `withdraw`. Several batches may be accepted before one proposal carries them.

Transactional batches and the markers that end transactions are decided the same way (`decide_marker`). A batch that
would open a transaction on its partition needs the coordinator's word for it, the transaction's number: ask where
`transaction_of` knows none and hand it to `decide`. A marker leaves its transaction's number in the state, and a batch
of a transaction that has ended is refused whenever it comes, so none stays open for ever (KIP-890).

A duplicate of a batch in flight has no fate of its own: it is answered when, and as, the original is. `token` is
whatever the caller gave with the original, such as its future. Being in flight is no promise; an acknowledgement before
the original is applied could be lost with it.

In flight means appended to this leader's log, so it is discarded only with the leadership: then everything here is
forgotten (`reset`, called by the machine), and the futures say what became of each.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from raftbroker.state.batch import BatchHeader
from raftbroker.state.errors import (
    FencedEpoch,
    IdempotencyConflict,
    InvalidTransaction,
    NotVerified,
    PartitionDropped,
    TooManyTransactions,
)
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import (
    COMMIT,
    CONTROL,
    TRANSACTIONAL,
    AppendHeader,
    IdempotencyState,
    Ongoing,
    ProducerState,
)
from raftbroker.state.partition_transactions import follow
from raftbroker.state.producers import advance, check_sequence, find_duplicate


class Idempotency(msgspec.Struct, frozen=True, gc=False):
    """A request's idempotency key (16 bytes) and a fingerprint of what it asks for."""

    key: bytes
    fingerprint: int


class Marker(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of a producer's transaction, as its coordinator has decided it."""

    producer_id: int
    epoch: int
    """Higher than the transaction's where the coordinator has fenced the producer."""
    transaction: int
    """Its number: greater than those of the producer id's transactions before it, from 1."""
    commit: bool


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The transaction's marker is in the state already."""


class Accept(msgspec.Struct, frozen=True, gc=False):
    """The batch is new and takes this offset."""

    base_offset: int


class Duplicate(msgspec.Struct, frozen=True):
    """The batch has been appended before, at this offset."""

    base_offset: int
    timestamp: int
    """The original's largest record timestamp."""
    in_flight: bool
    token: object = None
    """The original's, while that is in flight: wait for its fate."""


class _InFlight(msgspec.Struct, frozen=True):
    """A batch that has been accepted and not yet applied."""

    append: AppendHeader
    token: object


class _Producer(msgspec.Struct, frozen=True):
    """What a producer's batches in flight will have led to."""

    state: ProducerState | None
    ongoing: Ongoing | None
    latest: int = -1
    """The base offset of the last of them."""


class _PartitionInFlight:
    """One partition's batches in flight, by offset, and the state they will lead to."""

    __slots__ = ("batches", "keys", "producers")

    def __init__(self) -> None:
        self.batches: deque[_InFlight] = deque()
        self.producers: dict[int, _Producer] = {}
        self.keys: dict[bytes, IdempotencyState] = {}

    @property
    def next_offset(self) -> int:
        last = self.batches[-1].append
        return last.base_offset + last.count

    def add(self, batch: _InFlight, producer: _Producer | None) -> None:
        """`producer` is the batch's, as those before it leave it; None where it has none."""
        self.batches.append(batch)
        append = batch.append
        if producer is not None:
            self.producers[append.producer_id] = _Producer(
                advance(producer.state, append), follow(producer.ongoing, append, 0), append.base_offset
            )
        if append.idempotency_key:
            self.keys[append.idempotency_key] = IdempotencyState(
                append.base_offset, append.count, append.fingerprint, append.max_timestamp
            )

    def land(self, end: int) -> None:
        """Lets go of what is below `end`: it is applied."""
        while self.batches and self.batches[0].append.base_offset < end:
            append = self.batches.popleft().append
            producer = self.producers.get(append.producer_id)
            if producer is not None and producer.latest == append.base_offset:
                del self.producers[append.producer_id]
            known = self.keys.get(append.idempotency_key)
            if known is not None and known.base_offset == append.base_offset:
                del self.keys[append.idempotency_key]

    def last_marker(self, producer_id: int) -> _InFlight | None:
        """The last marker of the producer that is in flight."""
        for batch in reversed(self.batches):
            if batch.append.marker and batch.append.producer_id == producer_id:
                return batch
        return None

    def token(self, base_offset: int) -> tuple[bool, object]:
        """(in flight, token) of the batch that starts here."""
        for batch in self.batches:
            if batch.append.base_offset == base_offset:
                return True, batch.token
        return False, None


class PartitionLeader:
    """Beside a data group's machine on the node that leads it."""

    def __init__(self, machine: PartitionMachine) -> None:
        self._machine = machine
        self._partitions: dict[int, _PartitionInFlight] = {}
        self._dropping: set[int] = set()
        machine.attach(self)

    # --- decisions ----------------------------------------------------------------------------------------

    def next_offset(self, partition: int) -> int:
        """Where the next batch of the partition (its id) goes."""
        flying = self._partitions.get(partition)
        return flying.next_offset if flying is not None else self._machine.end(partition)

    def in_flight(self, partition: int) -> int:
        """How many of its batches are in flight."""
        flying = self._partitions.get(partition)
        return 0 if flying is None else len(flying.batches)

    def decide(
        self,
        partition: int,
        header: BatchHeader,
        idempotency: Idempotency | None = None,
        transaction: int | None = None,
    ) -> Accept | Duplicate:
        """What to do with a batch that passed `check_batch`. Changes nothing. `transaction` is the number that the
        coordinator has answered with, where it was asked.

        Raises FencedEpoch, OutOfOrderSequence, IdempotencyConflict, InvalidTransaction, NotVerified,
        TooManyTransactions or PartitionDropped."""
        self._check_dropped(partition)
        if idempotency is not None:
            known = self._key(partition, idempotency.key)
            if known is not None:
                if known.fingerprint != idempotency.fingerprint or known.count != header.count:
                    raise IdempotencyConflict(idempotency.key)
                return self._duplicate(partition, known.base_offset, known.timestamp)
        if header.producer_id >= 0:
            producer = self._producer(partition, header.producer_id)
            epoch, first = header.producer_epoch, header.base_sequence
            original = find_duplicate(producer.state, epoch, first, header.last_sequence)
            if original is not None:
                return self._duplicate(partition, original.base_offset, original.timestamp)
            check_sequence(header.producer_id, producer.state, epoch, first)
            if header.transactional or producer.ongoing is not None:
                self._check_transaction(partition, header, producer, transaction)
        return Accept(self.next_offset(partition))

    def transaction_of(self, partition: int, header: BatchHeader) -> int | None:
        """The number of the transaction that a transactional batch belongs to, as `decide` wants it; None where the
        batch would open one on the partition, so that its coordinator has to be asked."""
        producer = self._producer(partition, header.producer_id)
        ongoing, epoch = producer.ongoing, header.producer_epoch
        if ongoing is not None and ongoing.epoch == epoch:
            return ongoing.number
        if find_duplicate(producer.state, epoch, header.base_sequence, header.last_sequence) is None:
            return None
        return producer.state.ended if producer.state is not None else 0

    def _check_transaction(
        self, partition: int, header: BatchHeader, producer: _Producer, transaction: int | None
    ) -> None:
        """Of a batch that is no duplicate and in sequence."""
        ongoing, epoch = producer.ongoing, header.producer_epoch
        if ongoing is not None:
            if epoch < ongoing.epoch:
                raise FencedEpoch(header.producer_id, ongoing.epoch, epoch)
            if epoch > ongoing.epoch:
                raise InvalidTransaction(
                    header.producer_id,
                    f"its transaction of epoch {ongoing.epoch} has to end before epoch {epoch} begins",
                )
            if not header.transactional:
                raise InvalidTransaction(
                    header.producer_id,
                    "a batch outside a transaction came while one is open: end the transaction first",
                )
            return
        if not transaction:
            raise NotVerified(header.producer_id)
        if producer.state is not None and transaction <= producer.state.ended:
            raise InvalidTransaction(header.producer_id, "the batch's transaction has ended")
        if not self._machine.has_room(partition, self.in_flight(partition)):
            raise TooManyTransactions(partition)

    def decide_marker(self, partition: int, marker: Marker) -> Accept | Duplicate | Ended:
        """What to do with the end of a transaction, which may have been asked for before. Changes nothing. A marker
        is appended though the transaction has no records here: it fences what may still come.

        Raises FencedEpoch (there is nothing to end here, and never will be) or PartitionDropped."""
        self._check_dropped(partition)
        producer = self._producer(partition, marker.producer_id)
        state, ongoing = producer.state, producer.ongoing
        ended = state is not None and state.ended >= marker.transaction
        if ended or (ongoing is not None and ongoing.number > marker.transaction):
            flying = self._partitions.get(partition)
            original = None if flying is None else flying.last_marker(marker.producer_id)
            return Ended() if original is None else Duplicate(original.append.base_offset, -1, True, original.token)
        if ongoing is None and state is not None and marker.epoch < state.epoch:
            raise FencedEpoch(marker.producer_id, state.epoch, marker.epoch)
        return Accept(self.next_offset(partition))

    def _check_dropped(self, partition: int) -> None:
        if partition in self._dropping or self._machine.is_dropped(partition):
            raise PartitionDropped(partition)

    def _key(self, partition: int, key: bytes) -> IdempotencyState | None:
        flying = self._partitions.get(partition)
        found = None if flying is None else flying.keys.get(key)
        return found if found is not None else self._machine.idempotency(partition, key)

    def _producer(self, partition: int, producer_id: int) -> _Producer:
        flying = self._partitions.get(partition)
        found = None if flying is None else flying.producers.get(producer_id)
        return found if found is not None else self._applied_producer(partition, producer_id)

    def _applied_producer(self, partition: int, producer_id: int) -> _Producer:
        machine = self._machine
        return _Producer(machine.producer(partition, producer_id), machine.ongoing(partition, producer_id))

    def _duplicate(self, partition: int, base_offset: int, timestamp: int) -> Duplicate:
        flying = self._partitions.get(partition)
        in_flight, token = (False, None) if flying is None else flying.token(base_offset)
        return Duplicate(base_offset, timestamp, in_flight, token)

    # --- what follows a decision --------------------------------------------------------------------------

    def accepted(
        self,
        partition: int,
        header: BatchHeader,
        accept: Accept,
        idempotency: Idempotency | None = None,
        token: object = None,
        transaction: int | None = None,
        marker: Marker | None = None,
    ) -> AppendHeader:
        """The batch is in flight from now on; returns what goes into `AppendBatches`.

        `header` must be of the batch as placed where placing changed its timestamps; `transaction` is what `decide`
        was given. A control batch comes with its `marker`."""
        base_offset = accept.base_offset
        assert base_offset == self.next_offset(partition), "an offset was given between decide and accepted"
        key = b"" if idempotency is None else idempotency.key
        fingerprint = 0 if idempotency is None else idempotency.fingerprint
        append = AppendHeader(
            partition,
            base_offset,
            header.count,
            header.size,
            header.max_timestamp,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            key,
            fingerprint,
            _flags(header, marker),
            (transaction or 0) if marker is None else marker.transaction,
        )
        flying = self._partitions.get(partition)
        if flying is None:
            flying = self._partitions[partition] = _PartitionInFlight()
        self._add(flying, _InFlight(append, token))
        return append

    def _add(self, flying: _PartitionInFlight, batch: _InFlight) -> None:
        append = batch.append
        producer = None
        if append.producer_id >= 0:
            producer = flying.producers.get(append.producer_id)
            if producer is None:
                producer = self._applied_producer(append.partition, append.producer_id)
        flying.add(batch, producer)

    def withdraw(self, partition: int, base_offset: int) -> None:
        """Takes back every accepted batch of the partition from this offset on: its proposal was refused."""
        flying = self._partitions.pop(partition, None)
        if flying is None:
            return
        rest = _PartitionInFlight()
        for batch in flying.batches:
            if batch.append.base_offset < base_offset:
                self._add(rest, batch)
        if rest.batches:
            self._partitions[partition] = rest

    def dropping(self, partitions: Iterable[int]) -> None:
        """DropPartitions has been proposed for these: no batch may follow it in the log."""
        self._dropping.update(partitions)

    # --- partition.Watcher --------------------------------------------------------------------------------

    def reset(self) -> None:
        self._partitions.clear()
        self._dropping.clear()

    def applied(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            if self._machine.is_dropped(partition):
                self._partitions.pop(partition, None)
                self._dropping.discard(partition)
                continue
            flying = self._partitions.get(partition)
            if flying is not None:
                flying.land(self._machine.end(partition))
                if not flying.batches:
                    del self._partitions[partition]


def _flags(header: BatchHeader, marker: Marker | None) -> int:
    if marker is not None:
        assert header.control, "a marker is a control batch"
        return TRANSACTIONAL | CONTROL | (COMMIT if marker.commit else 0)
    return TRANSACTIONAL if header.transactional else 0
