"""What any node asks of the leader of a consumer group's shard, where sessions are kept and long polls wait.

Every answer has an `error`, None for done: what the group decided. That nobody could decide is raised. Times are ms,
but for `timeout`, which is seconds.
"""

import msgspec

from raftbroker.broker.wire import Answer, Method
from raftbroker.state.groups.ops import CommitItem, Committed
from raftbroker.state.groups.rows import Assignment, Protocol
from raftbroker.state.groups.terms import GroupError


class GroupRequest(msgspec.Struct, frozen=True, array_like=True):
    """The fields that every request begins with."""

    control: int
    timeout: float
    group: str


class JoinRequest(GroupRequest, frozen=True, array_like=True, kw_only=True):
    member_id: str
    new_member_id: str
    """Drawn by the asker, so that a join that is repeated makes one member."""
    instance_id: str | None
    client_id: str
    client_host: str
    session_ms: int
    rebalance_ms: int
    protocol_type: str
    protocols: tuple[Protocol, ...]
    id_required: bool
    skips_assignment: bool
    """Whether the asker understands that it leads and need not assign (KIP-814)."""


class JoinedMember(msgspec.Struct, frozen=True, array_like=True):
    member_id: str
    instance_id: str | None
    metadata: bytes


class JoinAnswer(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None
    member_id: str = ""
    generation: int = -1
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()
    """For the generation's leader alone."""


class SyncRequest(GroupRequest, frozen=True, array_like=True, kw_only=True):
    member_id: str
    instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol: str | None
    assignments: dict[str, bytes]


class SyncAnswer(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None
    protocol_type: str = ""
    protocol: str = ""
    assignment: bytes = b""


class HeartbeatRequest(GroupRequest, frozen=True, array_like=True, kw_only=True):
    member_id: str
    instance_id: str | None
    generation: int


class HeartbeatAnswer(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None


class CommitRequest(GroupRequest, frozen=True, array_like=True, kw_only=True):
    member_id: str
    instance_id: str | None
    generation: int
    modern: bool
    items: tuple[CommitItem, ...]
    retain_ms: int


class ConsumerHeartbeatRequest(GroupRequest, frozen=True, array_like=True, kw_only=True):
    """KIP-848. None is "as before"; an epoch of 0 joins, -1 leaves, -2 leaves for a while."""

    member_id: str
    epoch: int
    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    rebalance_ms: int
    names: tuple[str, ...] | None
    regex: str | None
    assignor: str | None
    owned: Assignment | None


class ConsumerHeartbeatAnswer(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None
    message: str = ""
    member_id: str = ""
    epoch: int = 0
    heartbeat_ms: int = 0
    assignment: Assignment | None = None
    """None where it is as before."""


GROUP_JOIN = Method("consumer_group.join.1", JoinRequest, Answer[JoinAnswer])
GROUP_SYNC = Method("consumer_group.sync.1", SyncRequest, Answer[SyncAnswer])
GROUP_HEARTBEAT = Method("consumer_group.heartbeat.1", HeartbeatRequest, Answer[HeartbeatAnswer])
GROUP_COMMIT = Method("consumer_group.commit.1", CommitRequest, Answer[Committed])
CONSUMER_HEARTBEAT = Method(
    "consumer_group.consumer_heartbeat.1", ConsumerHeartbeatRequest, Answer[ConsumerHeartbeatAnswer]
)
