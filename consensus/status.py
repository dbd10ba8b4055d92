"""What a group is bounded by, and what it says of itself."""

import msgspec

from consensus.model import Member
from consensus.replication import Limits


class GroupLimits(msgspec.Struct, frozen=True):
    """Bounds of one group on one node."""

    replication: Limits = Limits()
    log_entries_max: int = 20_000
    """Applied entries kept for followers that lag; half of them stay when the log's start moves."""
    log_bytes_max: int = 128 << 20
    memory_bytes_max: int = 4 << 20
    """Newest entries kept in memory."""
    proposals_max: int = 10_000
    proposal_bytes_max: int = 64 << 20
    """Proposed here and not yet decided: beyond either, a proposal is refused with Busy."""


class FollowerStatus(msgspec.Struct, frozen=True):
    node: int
    match: int
    next: int
    state: str


class GroupStatus(msgspec.Struct, frozen=True):
    """What one node says of one group."""

    group: int
    node: int
    role: str
    term: int
    leader: int | None
    leading: bool
    voters: tuple[Member, ...]
    learners: tuple[Member, ...]
    first_index: int
    last_index: int
    durable: int
    commit: int
    applied: int
    followers: tuple[FollowerStatus, ...]
    damaged: str | None
