"""Questions about groups (query tags 1 to 29), and their answers."""

from typing import Any, ClassVar

import msgspec

from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.groups.rows import Assignment
from raftbroker.state.groups.terms import GroupError, GroupState, GroupType
from raftbroker.state.shard import Query


class CommittedOffset(msgspec.Struct, frozen=True, array_like=True):
    """`offset` is -1 where nothing has been committed; an `error` where it cannot be told now."""

    topic: str
    partition: int
    topic_id: str = ""
    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error: GroupError | None = None


class OffsetsAnswer(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None
    offsets: tuple[CommittedOffset, ...] = ()


class FetchOffsets(Query[OffsetsAnswer], frozen=True, array_like=True, tag=1, kw_only=True):
    """Of these partitions, in their order; of all that there are where `partitions` is None."""

    answer: ClassVar[type[OffsetsAnswer]] = OffsetsAnswer

    partitions: tuple[PartitionName, ...] | None
    stable: bool
    """Whether an offset that an open transaction would change is an error."""
    member_id: str | None = None
    epoch: int = -1


class MemberView(msgspec.Struct, frozen=True, array_like=True):
    """A member of either protocol."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes = b""
    """Classic: what it sent for the group's protocol."""
    assignment: bytes = b""
    """Classic: what the group's leader gave it."""
    rack_id: str | None = None
    epoch: int = 0
    names: tuple[str, ...] = ()
    regex: str = ""
    assigned: Assignment = {}
    target: Assignment = {}


class GroupView(msgspec.Struct, frozen=True, array_like=True):
    name: str
    type: GroupType
    state: GroupState
    protocol_type: str
    protocol: str
    """The assignor: a classic group's chosen protocol, or the one on the server."""
    generation: int
    """Or the group's epoch."""
    target_epoch: int
    leader: str
    """Of a classic generation."""
    members: tuple[MemberView, ...]


class DescribeAnswer(msgspec.Struct, frozen=True, array_like=True):
    """None where there is no such group."""

    group: GroupView | None


class DescribeGroup(Query[DescribeAnswer], frozen=True, array_like=True, tag=2):
    answer: ClassVar[type[DescribeAnswer]] = DescribeAnswer


class ListedGroup(msgspec.Struct, frozen=True, array_like=True):
    name: str
    type: GroupType
    state: GroupState
    protocol_type: str
    protocol: str
    members: int


class ListAnswer(msgspec.Struct, frozen=True, array_like=True):
    groups: tuple[ListedGroup, ...]


class ListGroups(Query[ListAnswer], frozen=True, array_like=True, tag=3):
    """All groups of a shard; the name means nothing."""

    answer: ClassVar[type[ListAnswer]] = ListAnswer


ALL: tuple[type[Query[Any]], ...] = (FetchOffsets, DescribeGroup, ListGroups)
