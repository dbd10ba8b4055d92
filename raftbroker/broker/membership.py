"""Which change brings a group's members nearer to what they should be: a pure function, one step at a time.

The order keeps a majority safe: a replica is taken in as a learner, promoted once it has caught up, and only then does
the one it replaces go. Damaged replicas go first: they take no part anyway.
"""

from collections.abc import Sequence
from enum import Enum

import msgspec

from consensus.model import Configuration, Member


class Action(Enum):
    LEARN = "learn"
    PROMOTE = "promote"
    REMOVE = "remove"


class Step(msgspec.Struct, frozen=True):
    action: Action
    member: Member


class Seen(msgspec.Struct, frozen=True):
    """What is known of a group's replicas, from the leader's and their own nodes' reports."""

    caught_up: frozenset[Member]
    """Their logs are close to the leader's, as the leader sees it."""
    ready: frozenset[Member]
    """They have a sound replica open, member or not."""
    damaged: frozenset[Member]


def next_step(now: Configuration, wanted: Sequence[Member], voters_max: int, seen: Seen, *, exact: bool) -> Step | None:
    """One change, or None where there is nothing to do yet.

    `wanted` are the members there should be, one per node, first the ones that should vote first. A member of a node
    that is wanted under another directory is stale. With `exact`, members of nodes that are not wanted at all go too.
    """
    steps = (
        _remove_damaged(now, seen),
        _promote(now, wanted, voters_max, seen),
        _remove_stale(now, wanted, voters_max, exact),
        _learn(now, wanted, seen),
    )
    return next((step for step in steps if step is not None), None)


def _remove_damaged(now: Configuration, seen: Seen) -> Step | None:
    for member in now.learners:
        if member in seen.damaged:
            return Step(Action.REMOVE, member)
    for member in now.voters:
        others = sum(1 for voter in now.voters if voter != member and voter not in seen.damaged)
        if member in seen.damaged and others >= (len(now.voters) - 1) // 2 + 1:
            return Step(Action.REMOVE, member)
    return None


def _promote(now: Configuration, wanted: Sequence[Member], voters_max: int, seen: Seen) -> Step | None:
    voting = sum(1 for voter in now.voters if voter in wanted)
    for member in wanted:
        if member in now.learners and member in seen.caught_up and member in seen.ready and voting < voters_max:
            return Step(Action.PROMOTE, member)
    return None


def _remove_stale(now: Configuration, wanted: Sequence[Member], voters_max: int, exact: bool) -> Step | None:
    right = {member.node: member for member in wanted}
    enough = sum(1 for voter in now.voters if voter in wanted) >= min(voters_max, len(wanted))
    for member in now.members:
        successor = right.get(member.node)
        if member == successor or (successor is None and not exact):
            continue
        if member in now.learners or enough or (successor is not None and successor in now.voters):
            return Step(Action.REMOVE, member)
    return None


def _learn(now: Configuration, wanted: Sequence[Member], seen: Seen) -> Step | None:
    for member in wanted:
        if member not in now.members and member in seen.ready and member not in seen.damaged:
            return Step(Action.LEARN, member)
    return None
