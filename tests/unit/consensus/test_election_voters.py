"""Who may vote, campaign and be counted while a group's voters change (C12)."""

import math

from consensus.election import ElectionTiming, Elector, Role
from consensus.messages import PreVote, PreVoteReply, RequestVote, TimeoutNow, Vote
from tests.unit.consensus.election_world import (
    FIRST,
    FOURTH,
    ME,
    SECOND,
    THIRD,
    LogEntry,
    World,
    candidate,
    lone,
    member,
    said,
)

TIMING = ElectionTiming()


def test_a_learner_never_campaigns_but_votes() -> None:
    world = World(12, 1, learners=2)
    world.settle()
    world.crash(ME, noticed=False)
    world.run(10)
    assert said(world, PreVote, FIRST) == said(world, RequestVote, FIRST) == []
    assert world.elector(FIRST).next_due == math.inf
    world.elector(FIRST).receive(SECOND, RequestVote(7, 9, 99, 9, False))
    world.run(0.1)
    assert said(world, Vote, FIRST) == [(FIRST, SECOND, Vote(7, 9))]
    world.elector(FIRST).receive(SECOND, TimeoutNow(7, 9))
    assert world.elector(FIRST).role is Role.FOLLOWER


def test_voters_added_while_leading_are_counted_at_once() -> None:
    world, replica = candidate(3)
    elector = replica.elector
    elector.receive(FIRST, Vote(7, 1))
    elector.set_voters([*world.members, THIRD, FOURTH])
    for _ in range(40):
        world.run(0.1)
        elector.heard_reply(FIRST)
        elector.heard_reply(THIRD)
    assert elector.role is Role.LEADER
    for _ in range(40):
        world.run(0.1)
        elector.heard_reply(FIRST)
        elector.heard_reply(member(99))
    assert elector.role is Role.FOLLOWER


def test_a_change_of_voters_ends_a_candidacy() -> None:
    _, replica = candidate(5)
    replica.elector.receive(FIRST, Vote(7, 1))
    replica.elector.set_voters([ME, FIRST, THIRD])
    assert replica.elector.role is Role.FOLLOWER
    replica.elector.receive(THIRD, Vote(7, 1))
    assert replica.elector.role is Role.FOLLOWER


def test_a_leader_being_removed_does_not_count_itself() -> None:
    world, replica = candidate(5)
    elector: Elector = replica.elector
    elector.receive(FIRST, Vote(7, 1))
    elector.receive(SECOND, Vote(7, 1))
    elector.set_voters([FIRST, SECOND, THIRD, FOURTH], being_removed=True)
    for _ in range(20):
        world.run(0.1)
        for voter in (FIRST, SECOND, THIRD):
            elector.heard_reply(voter)
    assert elector.role is Role.LEADER
    for _ in range(20):
        world.run(0.1)
        for voter in (FIRST, SECOND):
            elector.heard_reply(voter)
    assert elector.role is Role.FOLLOWER


def test_who_is_being_removed_can_win_only_with_a_majority_of_the_others() -> None:
    world, replica = lone(3)
    elector = replica.elector
    elector.set_voters([FIRST, SECOND], being_removed=True)
    world.run(2 * TIMING.election_max, lambda: bool(said(world, PreVote)))
    elector.receive(FIRST, PreVoteReply(7, 0, 1, True))
    assert elector.role is Role.FOLLOWER
    elector.receive(SECOND, PreVoteReply(7, 0, 1, True))
    assert elector.role is Role.CANDIDATE
    elector.receive(FIRST, Vote(7, 1))
    assert elector.role is Role.CANDIDATE
    elector.receive(SECOND, Vote(7, 1))
    assert elector.role is Role.LEADER


def test_a_removal_that_only_the_removed_has_does_not_lock_the_group() -> None:
    """Two voters; the leader appends its own removal and dies before that entry leaves."""
    world = World(13, 2)
    leader = world.settle()
    other = next(m for m in world.members if m != leader)
    world.isolate(leader)
    world.replicas[leader].append(LogEntry(world.elector(leader).term, (other,)))
    world.run(0.1)
    world.crash(leader)
    world.cut.clear()
    world.start(leader)
    assert world.settle(10) == other
