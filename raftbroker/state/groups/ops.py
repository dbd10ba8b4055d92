"""What may be asked of a group (tags 1 to 29), and what becomes of it. Every outcome says its `error`, None for done.

Times are ms. Ids of new members are drawn by whoever asks. `retain_ms` and `size_max` are the asker's configuration:
they travel with the op, so that all replicas decide alike.
"""

from typing import Any, ClassVar

import msgspec

from raftbroker.state.groups.rows import Assignment, Protocol, Topics
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.shard import Op


class Done(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None


# --- the classic protocol -------------------------------------------------------------------------------------


class Joined(msgspec.Struct, frozen=True, array_like=True):
    """`wait`: the member is answered once the rebalance `round` is complete; else at once, from what the group is."""

    error: GroupError | None = None
    member_id: str = ""
    round: int = 0
    wait: bool = False
    replaced: str = ""
    """The id that the static member had before, where it has taken its place without a rebalance."""


class JoinGroup(Op[Joined], frozen=True, array_like=True, tag=1, kw_only=True):
    outcome: ClassVar[type[Joined]] = Joined

    member_id: str
    """Empty for a new member, which becomes `new_member_id`; repeated with the same new id, it is the same member."""
    new_member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_ms: int
    rebalance_ms: int
    protocol_type: str
    protocols: tuple[Protocol, ...]
    id_required: bool
    """A new dynamic member is only told its id, and has to join with it (KIP-394)."""
    size_max: int
    delay_ms: int
    """How long an empty group waits for more members."""
    retain_ms: int


class SyncGroup(Op[Done], frozen=True, array_like=True, tag=2, kw_only=True):
    """Of the generation's leader, with everyone's assignment; of another member it changes nothing."""

    outcome: ClassVar[type[Done]] = Done

    member_id: str
    instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol: str | None
    assignments: dict[str, bytes]


class Leaving(msgspec.Struct, frozen=True, array_like=True):
    """Who goes. Without a member id, whoever has the instance id."""

    member_id: str
    instance_id: str | None


class Left(msgspec.Struct, frozen=True, array_like=True):
    """One error for each member, in the order asked for."""

    error: GroupError | None = None
    errors: tuple[GroupError | None, ...] = ()


class LeaveGroup(Op[Left], frozen=True, array_like=True, tag=3):
    """Of either protocol: an administrator may remove static members of KIP-848 as well."""

    outcome: ClassVar[type[Left]] = Left

    members: tuple[Leaving, ...]


class Lapsed(msgspec.Struct, frozen=True, array_like=True):
    """A member whose time has run out, as it was when that was seen: `mark` is the rebalance it joined last, or its
    member epoch. One that has moved on meanwhile stays."""

    member_id: str
    mark: int


class ExpireMembers(Op[Done], frozen=True, array_like=True, tag=4):
    outcome: ClassVar[type[Done]] = Done

    members: tuple[Lapsed, ...]


class ResumeRebalance(Op[Done], frozen=True, array_like=True, tag=5):
    """A new leader of the shard gives a rebalance under way its full time again."""

    outcome: ClassVar[type[Done]] = Done


class DeleteGroup(Op[Done], frozen=True, array_like=True, tag=6):
    outcome: ClassVar[type[Done]] = Done


# --- offsets --------------------------------------------------------------------------------------------------


class CommitItem(msgspec.Struct, frozen=True, array_like=True):
    topic: str
    topic_id: str
    partition: int
    offset: int
    leader_epoch: int
    """-1 where the client does not say."""
    metadata: str


class Committed(msgspec.Struct, frozen=True, array_like=True):
    """`error` where none was taken; else one for each offset, in the order given; none at all where all were taken."""

    error: GroupError | None = None
    errors: tuple[GroupError | None, ...] = ()


class CommitOffsets(Op[Committed], frozen=True, array_like=True, tag=7, kw_only=True):
    outcome: ClassVar[type[Committed]] = Committed

    member_id: str
    instance_id: str | None
    generation: int
    """Or the member epoch; negative for who is not a member, which only an empty group takes."""
    modern: bool
    """Whether the asker speaks a version that knows member epochs."""
    items: tuple[CommitItem, ...]
    retain_ms: int


class PartitionName(msgspec.Struct, frozen=True, array_like=True):
    topic: str
    partition: int


class DeleteOffsets(Op[Committed], frozen=True, array_like=True, tag=8):
    outcome: ClassVar[type[Committed]] = Committed

    partitions: tuple[PartitionName, ...]


class ForgetTopics(Op[Done], frozen=True, array_like=True, tag=9):
    """These topics (by id) have been deleted: so are their offsets."""

    outcome: ClassVar[type[Done]] = Done

    topic_ids: tuple[str, ...]


class TxnOffsetCommit(Op[Committed], frozen=True, array_like=True, tag=10, kw_only=True):
    """Offsets that count once the producer's transaction is committed; until then they are unstable. Generation and
    member are checked where they are given."""

    outcome: ClassVar[type[Committed]] = Committed

    producer_id: int
    producer_epoch: int
    member_id: str = ""
    instance_id: str | None = None
    generation: int = -1
    items: tuple[CommitItem, ...]
    retain_ms: int


class TxnOffsetsEnd(Op[Done], frozen=True, array_like=True, tag=11):
    """The producer's transaction has ended: its offsets count, or never did. May be repeated. What an older epoch has
    pending ends as well, and no older epoch adds to it any more."""

    outcome: ClassVar[type[Done]] = Done

    producer_id: int
    producer_epoch: int
    commit: bool


# --- KIP-848 --------------------------------------------------------------------------------------------------


class Subscribed(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None
    epoch: int = 0
    """Of the group: the member is given its partitions once there is a target of this epoch."""


class Subscribe(Op[Subscribed], frozen=True, array_like=True, tag=15, kw_only=True):
    """A member joins (epoch 0) or changes what it said of itself; None leaves it as it was."""

    outcome: ClassVar[type[Subscribed]] = Subscribed

    member_id: str
    epoch: int
    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    rebalance_ms: int
    """-1 leaves it as it was."""
    names: tuple[str, ...] | None
    regex: str | None
    assignor: str | None
    owned: Assignment | None
    size_max: int
    retain_ms: int


class Reconciled(msgspec.Struct, frozen=True, array_like=True):
    error: GroupError | None = None
    epoch: int = 0
    """Of the member."""
    changed: bool = False
    """Its assigned partitions are other ones than before."""
    assigned: Assignment = {}


class Reconcile(Op[Reconciled], frozen=True, array_like=True, tag=16, kw_only=True):
    """Brings the member as far towards its target as others let it."""

    outcome: ClassVar[type[Reconciled]] = Reconciled

    member_id: str
    epoch: int
    instance_id: str | None
    owned: Assignment | None
    """What it says it owns; None where it does not say."""


class LeaveConsumer(Op[Done], frozen=True, array_like=True, tag=17):
    """`away`: a static member that means to come back; its partitions wait for it until its session ends."""

    outcome: ClassVar[type[Done]] = Done

    member_id: str
    instance_id: str | None
    away: bool


class SetTargets(Op[Done], frozen=True, array_like=True, tag=18):
    """New targets, made for the group as it was at `epoch`; if it has moved on since, nothing changes."""

    outcome: ClassVar[type[Done]] = Done

    epoch: int
    bump: bool
    """Because topics have changed and not subscriptions: the group's epoch rises by one with it."""
    topics: Topics
    targets: dict[str, Assignment]
    """Those that differ from what they were."""


ALL: tuple[type[Op[Any]], ...] = (
    JoinGroup,
    SyncGroup,
    LeaveGroup,
    ExpireMembers,
    ResumeRebalance,
    DeleteGroup,
    CommitOffsets,
    DeleteOffsets,
    ForgetTopics,
    TxnOffsetCommit,
    TxnOffsetsEnd,
    Subscribe,
    Reconcile,
    LeaveConsumer,
    SetTargets,
)
