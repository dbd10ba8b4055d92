"""Which change brings a group's members nearer to what they should be: a pure function, one step at a time.

The order keeps as many failures survivable as can be:

- A new replica comes in as a learner, and takes part in no decision before it has caught up.
- A voter whose disk is gone for good (its node is wanted under another directory) can never answer again. It goes
  once a learner has caught up to take its place, and just before that one is promoted: three voters, one of them dead,
  become two live ones and then three. Promoting first would make four with one certainly dead: were the new disk lost
  too, two live ones of four could not even remove the dead.
- So does a damaged replica go, at once: it takes no part anyway, and its node starts anew only when it is out.
- A voter that is sound but not wanted goes only when enough wanted ones vote.

No such voter goes unless that can be committed: a removal is in force when it is appended, so a majority of the voters
that are left must be sound and answer. With two voters, the one that is left is enough.
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
        _replace(now, wanted, seen),
        _promote(now, wanted, voters_max, seen),
        _remove_unwanted(now, wanted, voters_max, exact),
        _learn(now, wanted, seen),
    )
    return next((step for step in steps if step is not None), None)


def _remove_damaged(now: Configuration, seen: Seen) -> Step | None:
    for member in now.learners:
        if member in seen.damaged:
            return Step(Action.REMOVE, member)
    for member in now.voters:
        if member in seen.damaged and _committable(now, member, seen):
            return Step(Action.REMOVE, member)
    return None


def _replace(now: Configuration, wanted: Sequence[Member], seen: Seen) -> Step | None:
    """Of the members whose directory was replaced, one that can go now: for a voter, somebody follows at once."""
    successors = {member.node: member for member in wanted}
    follows = any(_promotable(now, member, seen) for member in wanted)
    for member in _gone(now, wanted):
        if member in now.learners:
            return Step(Action.REMOVE, member)
        if (follows or successors[member.node] in now.voters) and _committable(now, member, seen):
            return Step(Action.REMOVE, member)
    return None


def _gone(now: Configuration, wanted: Sequence[Member]) -> list[Member]:
    successors = {member.node: member for member in wanted}
    return [member for member in now.members if successors.get(member.node, member) != member]


def _committable(now: Configuration, member: Member, seen: Seen) -> bool:
    """Whether a majority of the voters that are left without `member` is sound and answers."""
    left = [voter for voter in now.voters if voter != member]
    return sum(1 for voter in left if voter in seen.ready) > len(left) // 2


def _promotable(now: Configuration, member: Member, seen: Seen) -> bool:
    return member in now.learners and member in seen.caught_up and member in seen.ready


def _promote(now: Configuration, wanted: Sequence[Member], voters_max: int, seen: Seen) -> Step | None:
    """Not while a voter that is gone for good still counts: one more would only raise what a majority is."""
    if any(voter in now.voters for voter in _gone(now, wanted)) and len(now.voters) > 1:
        return None
    voting = sum(1 for voter in now.voters if voter in wanted)
    for member in wanted:
        if _promotable(now, member, seen) and voting < voters_max:
            return Step(Action.PROMOTE, member)
    return None


def _remove_unwanted(now: Configuration, wanted: Sequence[Member], voters_max: int, exact: bool) -> Step | None:
    """A sound replica on a node that should have none."""
    nodes = {member.node for member in wanted}
    enough = sum(1 for voter in now.voters if voter in wanted) >= min(voters_max, len(wanted))
    for member in now.members:
        if exact and member.node not in nodes and (enough or member in now.learners):
            return Step(Action.REMOVE, member)
    return None


def _learn(now: Configuration, wanted: Sequence[Member], seen: Seen) -> Step | None:
    for member in wanted:
        if member not in now.members and member in seen.ready and member not in seen.damaged:
            return Step(Action.LEARN, member)
    return None
