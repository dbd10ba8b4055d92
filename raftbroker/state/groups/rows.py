"""A group's rows. All keys begin with b"g" and one byte for what they hold, then the group's name behind its length.

| byte | behind the name | value |
| --- | --- | --- |
| a | | `GroupRow` |
| b | member id | `ClassicMember` |
| c | member id | session time-out in ms of a member that was given an id and has not joined with it yet |
| d | member id | `ConsumerMember` |
| e | member id | its target, `Assignment` |
| f | | the topics the targets were made for, `Topics` |
| g | partition i32be, topic | `Offset` |
| h | producer id i64be | `Transaction` |

A group's members, one row each, so that one that joins costs its own row and not those of all.
"""

import struct

import msgspec

from raftbroker.state.groups.terms import GroupType, Phase
from raftbroker.state.shard import Change

KIND = b"g"
GROUP, CLASSIC_MEMBER, PENDING_MEMBER, CONSUMER_MEMBER, TARGET, TOPICS, OFFSET, TRANSACTION = (
    KIND + bytes([byte]) for byte in b"abcdefgh"
)

Assignment = dict[str, tuple[int, ...]]
"""Partition numbers, ascending, by topic id; no topic without any."""
Topics = dict[str, tuple[str, int]]
"""Topic id and number of partitions by name."""

_LENGTH = struct.Struct(">H")
_PARTITION = struct.Struct(">i")
_PRODUCER = struct.Struct(">q")


class Protocol(msgspec.Struct, frozen=True, array_like=True):
    """What a classic member offers: an assignor's name, and the member's metadata for it."""

    name: str
    metadata: bytes


class ClassicMember(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    id: str
    seq: int
    """Members in the order in which they came."""
    instance_id: str | None
    client_id: str
    client_host: str
    session_ms: int
    rebalance_ms: int
    protocols: tuple[Protocol, ...]
    round: int = 0
    """The rebalance it joined last."""
    assignment: bytes = b""


class ConsumerMember(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    id: str
    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    rebalance_ms: int
    names: tuple[str, ...]
    regex: str
    """RE2; empty for none."""
    assignor: str | None
    epoch: int = 0
    """0 while it has not been given a target, -2 for a static member that is away for a while."""
    previous_epoch: int = 0
    unreleased: bool = False
    """It waits for partitions of its target that others have yet to give up."""
    assigned: Assignment = {}
    revoking: Assignment = {}
    """What it has been asked to give up, and may still own."""


class ClassicRow(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    phase: Phase = Phase.EMPTY
    generation: int = 0
    round: int = 0
    """Counts rebalances as they are begun."""
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    deadline_ms: int = 0
    """When the members that have not joined the rebalance under way are given up; 0 while there is none."""
    delay_ms: int = 0
    """Of a rebalance that began in an empty group: it waits this long after each new member. 0 for others."""
    limit_ms: int = 0
    """No new member moves the deadline beyond this."""
    next_seq: int = 1


class ConsumerRow(msgspec.Struct, frozen=True, array_like=True):
    epoch: int = 0
    target_epoch: int = 0


class GroupRow(msgspec.Struct, frozen=True, array_like=True):
    """Exactly one of `classic` and `consumer` is there."""

    type: GroupType
    active_ms: int
    """When it became empty, or was last committed to since."""
    retain_ms: int
    next_seq: int = 1
    """Of transactions."""
    classic: ClassicRow | None = None
    consumer: ConsumerRow | None = None


class Offset(msgspec.Struct, frozen=True, array_like=True, gc=False):
    topic_id: str
    offset: int
    leader_epoch: int
    metadata: str
    committed_ms: int


class PendingOffset(msgspec.Struct, frozen=True, array_like=True):
    topic: str
    partition: int
    offset: Offset


class Transaction(msgspec.Struct, frozen=True, array_like=True):
    """What a producer's open transaction would commit; without offsets, how far its epochs have ended."""

    epoch: int
    seq: int
    offsets: tuple[PendingOffset, ...]


encode = msgspec.msgpack.Encoder().encode
decode_group = msgspec.msgpack.Decoder(GroupRow).decode
decode_classic_member = msgspec.msgpack.Decoder(ClassicMember).decode
decode_consumer_member = msgspec.msgpack.Decoder(ConsumerMember).decode
decode_assignment = msgspec.msgpack.Decoder(Assignment).decode
decode_topics = msgspec.msgpack.Decoder(Topics).decode
decode_offset = msgspec.msgpack.Decoder(Offset).decode
decode_transaction = msgspec.msgpack.Decoder(Transaction).decode
decode_int = msgspec.msgpack.Decoder(int).decode


def key(kind: bytes, name: str, rest: bytes = b"") -> bytes:
    """The key of a row of `kind`, for the group `name`."""
    raw = name.encode()
    return b"".join((kind, _LENGTH.pack(len(raw)), raw, rest))


def split_key(row: bytes) -> tuple[bytes, str, bytes]:
    """(kind, the group's name, what stands behind it)."""
    end = 4 + _LENGTH.unpack_from(row, 2)[0]
    return row[:2], row[4:end].decode(), row[end:]


def offset_rest(topic: str, partition: int) -> bytes:
    return _PARTITION.pack(partition) + topic.encode()


def split_offset_rest(rest: bytes) -> tuple[str, int]:
    return rest[4:].decode(), _PARTITION.unpack_from(rest)[0]


def producer_rest(producer_id: int) -> bytes:
    return _PRODUCER.pack(producer_id)


def split_producer_rest(rest: bytes) -> int:
    number: int = _PRODUCER.unpack(rest)[0]
    return number


class Writer:
    """One group's rows within a change."""

    __slots__ = ("_change", "_name", "touched")

    def __init__(self, change: Change, name: str) -> None:
        self._change = change
        self._name = name
        self.touched = False
        """Whether members or the group itself have changed: whoever waits for that is woken."""

    @property
    def time_ms(self) -> int:
        return self._change.time_ms

    def put(self, kind: bytes, rest: bytes, value: object) -> None:
        self._change.put(key(kind, self._name, rest), encode(value))
        self.touched = self.touched or kind not in _QUIET

    def delete(self, kind: bytes, rest: bytes) -> None:
        self._change.delete(key(kind, self._name, rest))
        self.touched = self.touched or kind not in _QUIET


_QUIET = (OFFSET, TRANSACTION)
