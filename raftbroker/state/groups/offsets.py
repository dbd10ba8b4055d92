"""A group's offsets: those committed, and those of open transactions, which are not committed yet.

A partition with an offset in an open transaction is unstable: a reader of committed data waits for its end. Of what
was committed twice the later counts, also where the earlier is a transaction that ends after the later was made.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from raftbroker.state.groups import rows
from raftbroker.state.groups.ops import CommitItem, PartitionName
from raftbroker.state.groups.rows import Offset, PendingOffset, Transaction, Writer
from raftbroker.state.groups.terms import COMMIT_METADATA_BYTES_MAX, OFFSETS_MAX, TRANSACTIONS_MAX, GroupError


class Offsets:
    __slots__ = ("_pending", "_unstable", "committed", "transactions")

    def __init__(self) -> None:
        self.committed: dict[tuple[str, int], Offset] = {}
        self.transactions: dict[int, Transaction] = {}
        """By producer id, in the order of their `seq`."""
        self._unstable: Counter[tuple[str, int]] = Counter()
        self._pending = 0

    def restore(self, committed: dict[tuple[str, int], Offset], transactions: dict[int, Transaction]) -> None:
        self.committed = committed
        self.transactions = {}
        self._unstable.clear()
        self._pending = 0
        for producer_id, transaction in sorted(transactions.items(), key=lambda item: item[1].seq):
            self._set(producer_id, transaction)

    # --- reads --------------------------------------------------------------------------------------------

    def unstable(self, topic: str, partition: int) -> bool:
        return (topic, partition) in self._unstable

    @property
    def open(self) -> bool:
        """Whether a transaction is open."""
        return self._pending > 0

    def rows(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """(kind, rest of the key, value)"""
        for (topic, partition), offset in self.committed.items():
            yield rows.OFFSET, rows.offset_rest(topic, partition), rows.encode(offset)
        for producer_id, transaction in self.transactions.items():
            yield rows.TRANSACTION, rows.producer_rest(producer_id), rows.encode(transaction)

    # --- writes -------------------------------------------------------------------------------------------

    def commit(self, items: Sequence[CommitItem], writer: Writer) -> tuple[GroupError | None, ...]:
        """One error for each item; none at all where all were taken."""
        errors = self._check(items)
        for item, error in zip(items, errors or [None] * len(items), strict=True):
            if error is None:
                self._put(item.topic, item.partition, _offset(item, writer.time_ms), writer)
        return errors

    def _check(self, items: Sequence[CommitItem]) -> tuple[GroupError | None, ...]:
        errors: list[GroupError | None] = []
        room = OFFSETS_MAX - len(self.committed) - self._pending
        for item in items:
            error: GroupError | None = None
            if len(item.metadata.encode()) > COMMIT_METADATA_BYTES_MAX:
                error = GroupError.OFFSET_METADATA_TOO_LARGE
            elif (item.topic, item.partition) not in self.committed:
                room -= 1
                error = GroupError.INVALID_COMMIT_OFFSET_SIZE if room < 0 else None
            errors.append(error)
        return tuple(errors) if any(errors) else ()

    def _put(self, topic: str, partition: int, offset: Offset, writer: Writer) -> None:
        self.committed[topic, partition] = offset
        writer.put(rows.OFFSET, rows.offset_rest(topic, partition), offset)

    def delete(self, partitions: Iterable[PartitionName], writer: Writer) -> None:
        """Those that there are; those that a transaction has pending as well."""
        names = {(name.topic, name.partition) for name in partitions}
        for topic, partition in sorted(names & self.committed.keys()):
            del self.committed[topic, partition]
            writer.delete(rows.OFFSET, rows.offset_rest(topic, partition))
        self._drop_pending(writer, lambda item: (item.topic, item.partition) in names)

    def forget_topics(self, topic_ids: Collection[str], writer: Writer) -> None:
        gone = [name for name, offset in self.committed.items() if offset.topic_id in topic_ids]
        for topic, partition in gone:
            del self.committed[topic, partition]
            writer.delete(rows.OFFSET, rows.offset_rest(topic, partition))
        self._drop_pending(writer, lambda item: item.offset.topic_id in topic_ids)

    def _drop_pending(self, writer: Writer, gone: Callable[[PendingOffset], bool]) -> None:
        for producer_id, transaction in list(self.transactions.items()):
            kept = tuple(item for item in transaction.offsets if not gone(item))
            if len(kept) < len(transaction.offsets):
                self._replace(producer_id, Transaction(transaction.epoch, transaction.seq, kept), writer)

    def clear(self, writer: Writer) -> None:
        for kind, rest, _ in list(self.rows()):
            writer.delete(kind, rest)
        self.restore({}, {})

    # --- transactions -------------------------------------------------------------------------------------

    def pend(
        self, producer_id: int, epoch: int, items: Sequence[CommitItem], seq: int, writer: Writer
    ) -> tuple[GroupError | None, ...] | GroupError:
        """`seq` is higher than any before. One error for all, or one for each item; none where all were taken."""
        known = self.transactions.get(producer_id)
        if known is not None and epoch < known.epoch:
            return GroupError.INVALID_PRODUCER_EPOCH
        if known is None and len(self.transactions) >= TRANSACTIONS_MAX and not self._forget_ended(writer):
            return GroupError.INVALID_COMMIT_OFFSET_SIZE
        errors = self._check(items)
        offsets = {(item.topic, item.partition): item for item in known.offsets} if known is not None else {}
        if known is not None and epoch > known.epoch:
            offsets = {}
        for item, error in zip(items, errors or [None] * len(items), strict=True):
            if error is None:
                offsets[item.topic, item.partition] = PendingOffset(
                    item.topic, item.partition, _offset(item, writer.time_ms)
                )
        self._replace(producer_id, Transaction(epoch, seq, tuple(offsets.values())), writer)
        return errors

    def end(self, producer_id: int, epoch: int, commit: bool, seq: int, writer: Writer) -> None:
        known = self.transactions.get(producer_id)
        if known is not None and epoch < known.epoch:
            return
        if known is None and len(self.transactions) >= TRANSACTIONS_MAX and not self._forget_ended(writer):
            return
        if known is not None and commit:
            for item in known.offsets:
                current = self.committed.get((item.topic, item.partition))
                if current is None or current.committed_ms <= item.offset.committed_ms:
                    self._put(item.topic, item.partition, item.offset, writer)
        self._replace(producer_id, Transaction(epoch, seq, ()), writer)

    def _forget_ended(self, writer: Writer) -> bool:
        ended = next((producer_id for producer_id, known in self.transactions.items() if not known.offsets), None)
        if ended is None:
            return False
        del self.transactions[ended]
        writer.delete(rows.TRANSACTION, rows.producer_rest(ended))
        return True

    def _replace(self, producer_id: int, transaction: Transaction, writer: Writer) -> None:
        known = self.transactions.get(producer_id)
        if known is not None:
            self._pending -= len(known.offsets)
            for item in known.offsets:
                self._unstable[item.topic, item.partition] -= 1
                if not self._unstable[item.topic, item.partition]:
                    del self._unstable[item.topic, item.partition]
            if known.seq != transaction.seq:
                del self.transactions[producer_id]
        self._set(producer_id, transaction)
        writer.put(rows.TRANSACTION, rows.producer_rest(producer_id), transaction)

    def _set(self, producer_id: int, transaction: Transaction) -> None:
        self.transactions[producer_id] = transaction
        self._pending += len(transaction.offsets)
        self._unstable.update((item.topic, item.partition) for item in transaction.offsets)


def _offset(item: CommitItem, time_ms: int) -> Offset:
    return Offset(item.topic_id, item.offset, item.leader_epoch, item.metadata, time_ms)
