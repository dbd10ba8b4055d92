"""Every error that the broker raises to a front door: a small closed hierarchy.

Three families, by what the caller may do next:

- `Rejected`: the request itself is at fault. Nothing was done; sending the same again gives the same answer.
- `Retriable`: certainly nothing was done, and the same request may succeed later.
- `UnknownOutcome`: it may have been done, or may still be; only a read, or an idempotent retry, can tell.

`Internal` is a fault of ours. Each error's text is for people: it names the thing and the way out. `field` names
the part of the request that is wrong, where there is one. `to_wire` and `from_wire` carry errors between nodes.
"""

from typing import ClassVar

import msgspec


class BrokerError(Exception):
    """The root of this layer's errors."""

    numbers: ClassVar[tuple[str, ...]] = ()
    """The integer attributes that a front door may want and that travel between nodes."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class Rejected(BrokerError):
    """The request is at fault; nothing was done."""


class Retriable(BrokerError):
    """Nothing was done; the same request may succeed later."""


# --- rejected -------------------------------------------------------------------------------------------


class UnknownTopic(Rejected):
    """No topic of that name (or it was deleted meanwhile)."""


class UnknownPartition(Rejected):
    """The topic has no partition of that number."""


class UnknownNode(Rejected):
    """No node of that id in the cluster."""


class UnknownGroup(Rejected):
    """No Raft group of that id in the cluster."""


class TopicExists(Rejected):
    """A topic of that name exists already."""


class InvalidRequest(Rejected):
    """Some argument is out of its bounds; `field` says which."""


class InvalidConfig(InvalidRequest):
    """A topic config's name or value is not acceptable; `field` is the config's name."""


class ConfigChanged(Rejected):
    """A topic config is not what it was expected to be, so nothing was changed; `field` is the config's name."""


class InvalidReplicationFactor(InvalidRequest):
    """The replication factor is out of bounds, or above the number of live nodes."""


class InvalidPartitions(InvalidRequest):
    """The number of partitions is out of bounds, or not above the present one."""


class InvalidTimestamp(InvalidRequest):
    """A timestamp lies outside of what the topic takes."""


class BadRecords(Rejected):
    """The bytes are not a sound Kafka v2 record batch."""


class DamagedRecords(BadRecords):
    """The batch is not what its producer made: its length or CRC is wrong. Sending it again may help."""


class OldRecords(BadRecords):
    """The records have a format from before Kafka 0.11, which is not taken."""


class MissingKey(BadRecords):
    """Records without a key, of a topic that is compacted; `indexes` are their positions in the batch, the first of
    them, and stay on the node that found them."""

    def __init__(self, message: str, *, indexes: tuple[int, ...] = (), field: str | None = "key") -> None:
        super().__init__(message, field=field)
        self.indexes = indexes


class RecordTooLarge(Rejected):
    """The batch is larger than the topic's max.message.bytes, or than any batch may be."""


class IdempotencyConflict(Rejected):
    """The idempotency key was used before, for other records."""


class OutOfOrderSequence(Rejected):
    """The producer's sequence number leaves a gap, or is older than the window of duplicates that is kept."""


class FencedProducer(Rejected):
    """A newer epoch of this producer id has produced to the partition."""


class InvalidTransaction(Rejected):
    """What was asked does not fit the transactions that the producer has, or has not."""


class UnknownProducer(Rejected):
    """The producer id is not that of the transactional id."""


class UnknownConsumerGroup(Rejected):
    """There is no consumer group of that name."""


class GroupRefused(Rejected):
    """A consumer group refuses what was asked of it; the message says why, with Kafka's name for it."""


class NonEmptyGroup(GroupRefused):
    """The group has members, and what was asked for needs one that has none."""


class UnknownInstance(Rejected):
    """No node has a consumer instance of that name in the group (any more)."""


class InstanceExists(Rejected):
    """A consumer instance of that name exists in the group already."""


class FormatMismatch(Rejected):
    """A consumer instance is asked for another format than it was made with."""


class UnknownQueue(Rejected):
    """No queue of that name (or it was deleted meanwhile)."""


class UnknownMessage(Rejected):
    """The queue knows of no message of that id, or not any more."""


class QueueRefused(Rejected):
    """A queue's state does not allow what was asked; the message says why."""


class UnknownWebhook(Rejected):
    """No webhook of that name (or it was deleted meanwhile)."""


class OffsetOutOfRange(Rejected):
    """The offset lies below the log start offset or above the high watermark."""

    numbers = ("start", "high_watermark")

    def __init__(self, message: str, *, start: int = 0, high_watermark: int = 0, field: str | None = "offset") -> None:
        super().__init__(message, field=field)
        self.start = start
        self.high_watermark = high_watermark


class ChangeRejected(Rejected):
    """A transfer of leadership cannot be done; the message says why."""


# --- retriable ------------------------------------------------------------------------------------------


class Throttled(Retriable):
    """A bound of bytes or requests in flight is reached; try again after `retry_after_ms`."""

    numbers = ("retry_after_ms",)

    def __init__(self, message: str, *, retry_after_ms: int = 100, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.retry_after_ms = retry_after_ms


class QueueFull(Retriable):
    """A bound on what the queues of a shard hold is reached: it takes consumers to make room."""


class StorageFull(Retriable):
    """The leader's disk has no room for more records."""


class Unavailable(Retriable):
    """Certainly not done: no leader was reached by the deadline, or too few replicas are in sync."""


class TooFewReplicas(Unavailable):
    """Fewer replicas are in sync than the topic's min.insync.replicas asks for."""


class LedElsewhere(Retriable):
    """Asked for on this node alone, which does not lead the partition. `leader` is the node that does, as far as this
    one knows, and `epoch` its term; each -1 where it is not known."""

    numbers = ("leader", "epoch")

    def __init__(self, message: str, *, leader: int = -1, epoch: int = -1, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.leader = leader
        self.epoch = epoch


class FencedLeaderEpoch(LedElsewhere):
    """This node leads the partition, in a later term than the asker thinks."""


class UnknownLeaderEpoch(LedElsewhere):
    """The asker knows of a later term than this node does."""


# --- neither --------------------------------------------------------------------------------------------


class UnknownOutcome(BrokerError):
    """The deadline passed, or a leader was lost, before the outcome was known."""


class Internal(BrokerError):
    """A fault of the broker's own; the node's log has the details."""


# --- between nodes --------------------------------------------------------------------------------------


class WireError(msgspec.Struct, frozen=True, array_like=True):
    """A BrokerError as it travels: class name, message, field, and the class's `numbers` in their order."""

    kind: str
    message: str
    field: str | None
    numbers: tuple[int, ...]


def _concrete(root: type[BrokerError]) -> dict[str, type[BrokerError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_concrete(child))
    return found


_KINDS = _concrete(BrokerError)


def to_wire(error: BrokerError) -> WireError:
    numbers = tuple(int(getattr(error, name)) for name in error.numbers)
    return WireError(type(error).__name__, error.message, error.field, numbers)


def from_wire(wire: WireError) -> BrokerError:
    """The error again; a kind this version does not know becomes `Internal`, which says its name."""
    kind = _KINDS.get(wire.kind)
    if kind is None:
        return Internal(f"another node answered with {wire.kind}: {wire.message}")
    error = kind(wire.message, field=wire.field)
    for name, number in zip(kind.numbers, wire.numbers, strict=False):
        setattr(error, name, number)
    return error
