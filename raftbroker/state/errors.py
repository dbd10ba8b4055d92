"""Every error that leaves this package.

All but `UnknownCommand` and `InvariantBroken` (consensus.errors, raised by `apply`) are raised before anything is
proposed: what can be wrong is decided by then (C10).
"""


class StateError(Exception):
    """The root of this package's errors."""


class BadBatch(StateError):
    """Bytes that are not a sound Kafka v2 record batch, or one that a producer may not send; the message says why."""


class DamagedBatch(BadBatch):
    """The bytes are not what their producer made: the length or the CRC is wrong."""


class OldBatch(BadBatch):
    """Records in a format from before Kafka 0.11."""


class InvalidConfig(StateError):
    """A topic config that cannot be taken: `name` and `reason` stand apart for the field of an answer."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name}: {reason}")


class AppendRefused(StateError):
    """The root of what `PartitionLeader.decide` refuses; nothing has been appended."""


class OutOfOrderSequence(AppendRefused):
    """An idempotent producer's batch does not follow the last one it was acknowledged for."""

    def __init__(self, producer_id: int, expected: int, got: int) -> None:
        self.producer_id = producer_id
        self.expected = expected
        self.got = got
        super().__init__(
            f"producer {producer_id} sent sequence {got} where {expected} must follow; an earlier batch is missing: "
            "send it first, or ask for a new epoch"
        )


class FencedEpoch(AppendRefused):
    """A newer instance of the producer has taken over."""

    def __init__(self, producer_id: int, current: int, got: int) -> None:
        self.producer_id = producer_id
        self.current = current
        self.got = got
        super().__init__(
            f"producer {producer_id} sent epoch {got}, but epoch {current} has taken over: ask for a new producer id"
        )


class InvalidTransaction(AppendRefused):
    """The batch does not fit the transactions that its producer has, or has not, on the partition."""

    def __init__(self, producer_id: int, reason: str) -> None:
        self.producer_id = producer_id
        super().__init__(f"producer {producer_id}: {reason}")


class NotVerified(AppendRefused):
    """A batch would open a transaction on the partition: first the transaction's coordinator has to say that it is in
    it. Nothing was done; ask it and decide again."""

    def __init__(self, producer_id: int) -> None:
        self.producer_id = producer_id
        super().__init__(
            f"producer {producer_id} opens a transaction on a partition that its coordinator has not been asked about"
        )


class TooManyTransactions(AppendRefused):
    """The partition, or its Raft group, remembers as many transactions as it may."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(
            f"partition id {partition} remembers as many open and aborted transactions as it may: try again when "
            "some have ended or retention has removed old ones; shorten the topic's retention if this lasts"
        )


class IdempotencyConflict(AppendRefused):
    """The idempotency key has been used for other records."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        super().__init__("this idempotency key was used with other records: take a new key for new records")


class PartitionDropped(AppendRefused):
    """The partition's topic has been deleted."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        super().__init__(f"partition id {partition} is gone: its topic has been deleted")
