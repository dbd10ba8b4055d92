"""Names and bounds that all of this package shares."""

from enum import IntEnum, StrEnum

GROUPS_MAX = 25_000
"""In one shard."""
MEMBERS_MAX = 2_000
"""In one group, whatever the configuration says."""
MEMBER_BYTES_MAX = 512 << 10
"""A classic member's metadata of all its protocols together, and the assignment it is given."""
SUBSCRIPTIONS_MAX = 10_000
"""Topics that one member subscribes to by name."""
OFFSETS_MAX = 50_000
"""Of one group, with those of its open transactions."""
COMMIT_METADATA_BYTES_MAX = 4096
TRANSACTIONS_MAX = 1_000
"""Producers whose transactions one group remembers; ended ones are forgotten, the oldest first."""
IDLE_MS = 600_000
"""How long an empty group without offsets is kept."""
EXPIRIES_MAX = 100
"""Groups whose time-out is carried out with one entry; the rest follow with the next."""
DEFAULT_ASSIGNOR = "uniform"
"""Of KIP-848 groups whose members ask for none."""


class GroupError(StrEnum):
    """Why a group refused an op, as Kafka names its error codes."""

    COORDINATOR_NOT_AVAILABLE = "COORDINATOR_NOT_AVAILABLE"
    FENCED_INSTANCE_ID = "FENCED_INSTANCE_ID"
    FENCED_MEMBER_EPOCH = "FENCED_MEMBER_EPOCH"
    GROUP_ID_NOT_FOUND = "GROUP_ID_NOT_FOUND"
    GROUP_MAX_SIZE_REACHED = "GROUP_MAX_SIZE_REACHED"
    GROUP_SUBSCRIBED_TO_TOPIC = "GROUP_SUBSCRIBED_TO_TOPIC"
    ILLEGAL_GENERATION = "ILLEGAL_GENERATION"
    INCONSISTENT_GROUP_PROTOCOL = "INCONSISTENT_GROUP_PROTOCOL"
    INVALID_COMMIT_OFFSET_SIZE = "INVALID_COMMIT_OFFSET_SIZE"
    INVALID_GROUP_ID = "INVALID_GROUP_ID"
    INVALID_PRODUCER_EPOCH = "INVALID_PRODUCER_EPOCH"
    INVALID_REGULAR_EXPRESSION = "INVALID_REGULAR_EXPRESSION"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_SESSION_TIMEOUT = "INVALID_SESSION_TIMEOUT"
    MEMBER_ID_REQUIRED = "MEMBER_ID_REQUIRED"
    NON_EMPTY_GROUP = "NON_EMPTY_GROUP"
    OFFSET_METADATA_TOO_LARGE = "OFFSET_METADATA_TOO_LARGE"
    REBALANCE_IN_PROGRESS = "REBALANCE_IN_PROGRESS"
    STALE_MEMBER_EPOCH = "STALE_MEMBER_EPOCH"
    UNKNOWN_MEMBER_ID = "UNKNOWN_MEMBER_ID"
    UNKNOWN_TOPIC_OR_PARTITION = "UNKNOWN_TOPIC_OR_PARTITION"
    UNRELEASED_INSTANCE_ID = "UNRELEASED_INSTANCE_ID"
    UNSTABLE_OFFSET_COMMIT = "UNSTABLE_OFFSET_COMMIT"
    UNSUPPORTED_ASSIGNOR = "UNSUPPORTED_ASSIGNOR"
    UNSUPPORTED_VERSION = "UNSUPPORTED_VERSION"


class GroupType(StrEnum):
    """As ListGroups names them. A group that only has offsets is a classic one without a protocol type."""

    CLASSIC = "classic"
    CONSUMER = "consumer"


class GroupState(StrEnum):
    """As Kafka's tools show it. The second to the fourth are of classic groups, the last three of KIP-848."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"
    DEAD = "Dead"
    """There is no such group."""


class Phase(IntEnum):
    """A classic group's state, as it is stored."""

    EMPTY = 0
    PREPARING = 1
    COMPLETING = 2
    STABLE = 3

    @property
    def state(self) -> GroupState:
        return _STATES[self]


_STATES = {
    Phase.EMPTY: GroupState.EMPTY,
    Phase.PREPARING: GroupState.PREPARING_REBALANCE,
    Phase.COMPLETING: GroupState.COMPLETING_REBALANCE,
    Phase.STABLE: GroupState.STABLE,
}
