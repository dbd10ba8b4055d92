"""What an `Elector` promises, one behaviour a test. `test_election_fuzz.py` throws everything at it at once."""

import math

import pytest

from consensus.election import ElectionTiming, Role
from consensus.errors import InvariantBroken
from consensus.messages import PreVote, PreVoteReply, RequestVote, TimeoutNow, Vote
from consensus.model import HardState, Member
from tests.unit.consensus.election_world import (
    FIRST,
    ME,
    SECOND,
    LogEntry,
    Saved,
    World,
    candidate,
    cut_one_way,
    flush,
    lone,
    member,
    said,
)

TIMING = ElectionTiming()


# --- electing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voters", [1, 2, 3, 4, 5])
def test_a_leader_is_elected_within_an_election_timeout_or_two(voters: int) -> None:
    world = World(voters, voters)
    leader = world.settle(2 * TIMING.election_max + 0.5)
    assert world.elector(leader).vote == leader
    assert all(world.elector(m).leader == leader for m in world.members)


def test_nobody_leads_without_a_majority() -> None:
    world = World(3, 5)
    for m in world.members[:3]:
        world.crash(m)
    world.run(10)
    assert world.leading() == []


def test_a_quiet_group_keeps_its_leader_and_term() -> None:
    world = World(4, 3)
    leader = world.settle()
    term = world.elector(leader).term
    world.run(60)
    assert world.leading() == [leader]
    assert world.elector(leader).term == term


def test_a_preferred_first_leader_need_not_wait() -> None:
    world = World(5, 3)
    world.elector(SECOND).campaign_now()
    assert world.run(0.2, world.settled)
    assert world.leading() == [SECOND]


def test_campaign_now_does_not_depose_a_leader() -> None:
    world = World(5, 3)
    leader = world.settle()
    term = world.elector(leader).term
    for m in world.members:
        world.elector(m).campaign_now()
    world.run(3)
    assert (world.leading(), world.elector(leader).term) == ([leader], term)


def test_campaign_now_asks_again_but_lets_votes_be_counted() -> None:
    world, replica = lone(3)
    for _ in range(3):
        replica.elector.campaign_now()
        assert flush(world) == [PreVote(7, 1, 0, 0)] * 2
    replica.elector.receive(FIRST, PreVoteReply(7, 0, 1, True))
    assert flush(world) == [RequestVote(7, 1, 0, 0, False)] * 2
    replica.elector.campaign_now()
    assert flush(world) == []


def test_a_single_voter_leads_alone_and_its_ticks_stay_cheap() -> None:
    world, replica = lone(1, log=(LogEntry(1),) * 50_000)
    world.run(2)
    assert replica.elector.role is Role.LEADER
    assert replica.log[50_000:] == [LogEntry(2)]


# --- persist, then send (C1) --------------------------------------------------------------------------------


def test_a_vote_waits_for_the_disk_and_is_forgotten_with_it() -> None:
    world, replica = lone(3)
    world.lag_s = 0.1
    replica.elector.receive(FIRST, RequestVote(7, 4, 0, 0, False))
    assert replica.hard_state == HardState(4, FIRST)
    assert world.sent == []
    world.crash(ME)
    world.start(ME)
    assert world.elector(ME).term == 0
    world.lag_s = 0.0
    world.elector(ME).receive(SECOND, RequestVote(7, 4, 0, 0, False))
    assert flush(world) == [Vote(7, 4)]


def test_a_durable_vote_binds_across_a_restart() -> None:
    world, replica = lone(3)
    replica.elector.receive(FIRST, RequestVote(7, 4, 0, 0, False))
    assert flush(world) == [Vote(7, 4)]
    world.crash(ME)
    world.start(ME)
    world.elector(ME).receive(SECOND, RequestVote(7, 4, 9, 9, False))
    assert flush(world) == []
    assert (world.elector(ME).term, world.elector(ME).vote) == (4, FIRST)


def test_a_log_ahead_of_the_term_on_disk_is_refused() -> None:
    with pytest.raises(InvariantBroken, match="ends in term 3, but the term on disk is 2"):
        lone(3, log=(LogEntry(3),), hard_state=HardState(2))


# --- votes (C2) ---------------------------------------------------------------------------------------------


def test_a_repeated_vote_counts_once() -> None:
    _, replica = candidate()
    for _ in range(5):
        replica.elector.receive(FIRST, Vote(7, 1))
    assert replica.elector.role is Role.CANDIDATE
    replica.elector.receive(SECOND, Vote(7, 1))
    assert replica.elector.role is Role.LEADER


def test_votes_of_others_than_voters_and_of_other_terms_do_not_count() -> None:
    _, replica = candidate()
    for stranger in (member(77), member(78), Member(FIRST.node, "f" * 32)):
        replica.elector.receive(stranger, Vote(7, 1))
    for term in (0, 2):
        replica.elector.receive(SECOND, Vote(7, term))
        replica.elector.receive(FIRST, Vote(7, term))
    assert replica.elector.role is Role.CANDIDATE


def test_a_shorter_or_older_log_gets_neither_vote_nor_pre_vote() -> None:
    world, replica = lone(3, log=(LogEntry(2), LogEntry(3), LogEntry(3)))
    for index, term in ((2, 3), (9, 2), (0, 0)):
        replica.elector.receive(FIRST, PreVote(7, 4, index, term))
        assert flush(world) == [PreVoteReply(7, 3, 4, False)]
        replica.elector.receive(FIRST, RequestVote(7, 4, index, term, True))
        replica.elector.receive(FIRST, RequestVote(7, 3, index, term, True))
        assert flush(world) == []
        world.crash(ME)
        world.saved[ME] = Saved(HardState(3), tuple(replica.log))
        world.promised[ME] = HardState()
        world.start(ME)
        replica = world.replicas[ME]
    replica.elector.receive(FIRST, PreVote(7, 4, 3, 3))
    assert flush(world) == [PreVoteReply(7, 3, 4, True)]
    replica.elector.receive(FIRST, RequestVote(7, 4, 3, 3, False))
    assert flush(world) == [Vote(7, 4)]


def test_two_leaders_in_one_term_stop_the_node() -> None:
    _, replica = lone(3)
    replica.elector.heard_leader(FIRST, 3)
    with pytest.raises(InvariantBroken, match="lead term 3"):
        replica.elector.heard_leader(SECOND, 3)


# --- PreVote and stickiness (C5) ----------------------------------------------------------------------------


@pytest.mark.parametrize("voters", [3, 5])
@pytest.mark.parametrize("deaf", [True, False], ids=["cannot-hear", "cannot-speak"])
def test_a_one_way_cut_disturbs_nobody(voters: int, deaf: bool) -> None:
    world = World(6, voters)
    leader = world.settle()
    term = world.elector(leader).term
    victim = next(m for m in world.members if m != leader)
    for m in world.members:
        cut_one_way(world, *((m, victim) if deaf else (victim, m)))
    world.run(30)
    assert world.leading() == [leader]
    assert max(world.elector(m).term for m in world.members) == term
    world.cut.clear()
    world.run(3)
    assert (world.leading(), world.elector(leader).term) == ([leader], term)


def test_a_node_cut_off_for_long_comes_back_in_the_same_term() -> None:
    world = World(7, 3)
    leader = world.settle()
    term = world.elector(leader).term
    victim = next(m for m in world.members if m != leader)
    world.isolate(victim)
    world.run(60)
    world.cut.clear()
    assert world.settle() == leader
    assert world.elector(leader).term == term


def test_a_pre_vote_changes_nothing_at_the_voter() -> None:
    world, replica = lone(3)
    replica.elector.receive(FIRST, PreVote(7, 9, 0, 0))
    assert flush(world) == [PreVoteReply(7, 0, 9, True)]
    assert (replica.elector.term, replica.elector.vote, replica.elector.role) == (0, None, Role.FOLLOWER)
    assert replica.hard_state == HardState()


def test_who_hears_a_leader_refuses_all_but_a_transfer() -> None:
    world, replica = lone(3)
    elector = replica.elector
    elector.heard_leader(FIRST, 3)
    elector.receive(SECOND, PreVote(7, 4, 5, 3))
    elector.receive(SECOND, RequestVote(7, 4, 5, 3, False))
    assert flush(world) == [PreVoteReply(7, 3, 4, False)]
    assert elector.term == 3
    elector.receive(SECOND, RequestVote(7, 4, 5, 3, True))
    assert flush(world) == [Vote(7, 4)]


def test_the_lease_of_a_leader_ends_after_the_minimum_timeout() -> None:
    world, replica = lone(3)
    replica.elector.heard_leader(FIRST, 3)
    world.now += TIMING.election_min
    replica.elector.receive(SECOND, RequestVote(7, 4, 5, 3, False))
    assert flush(world) == [Vote(7, 4)]


def test_a_leader_in_contact_with_a_majority_refuses_too() -> None:
    world, replica = candidate(3)
    elector = replica.elector
    elector.receive(FIRST, Vote(7, 1))
    assert elector.role is Role.LEADER
    flush(world)
    elector.receive(SECOND, PreVote(7, 2, 9, 1))
    elector.receive(SECOND, RequestVote(7, 2, 9, 1, False))
    assert flush(world) == [PreVoteReply(7, 1, 2, False)]
    assert elector.role is Role.LEADER
    world.now += TIMING.election_min
    elector.receive(SECOND, RequestVote(7, 2, 9, 1, False))
    assert elector.role is Role.FOLLOWER


def test_who_asks_at_the_same_moment_does_not_split_the_vote() -> None:
    world, replica = lone(3)
    world.run(2 * TIMING.election_max, lambda: bool(said(world, PreVote)))
    flush(world)
    replica.elector.receive(FIRST, PreVote(7, 1, 0, 0))
    assert flush(world) == [PreVoteReply(7, 0, 1, True)], "the higher name goes first"
    replica.elector.receive(SECOND, PreVoteReply(7, 0, 1, True))
    assert replica.elector.role is Role.FOLLOWER, "its own question is withdrawn"


# --- CheckQuorum and stepping down --------------------------------------------------------------------------


@pytest.mark.parametrize("voters", [3, 5])
def test_a_cut_off_leader_steps_down_within_an_election_timeout(voters: int) -> None:
    world = World(8, voters)
    leader = world.settle()
    world.isolate(leader, *[m for m in world.members if m != leader][: (voters - 1) // 2 - 1])
    assert world.run(
        TIMING.election_max + 2 * TIMING.heartbeat + 0.05, lambda: world.elector(leader).role is Role.FOLLOWER
    )
    assert world.elector(leader).leader is None


def test_a_leader_that_nobody_answers_steps_down_though_it_is_heard() -> None:
    world = World(9, 3)
    leader = world.settle()
    for m in world.members:
        cut_one_way(world, m, leader)
    assert world.run(2, lambda: world.elector(leader).role is Role.FOLLOWER)
    assert world.run(3, lambda: any(m != leader for m in world.leading()))


def test_a_deposed_leader_does_not_campaign_at_once() -> None:
    world, replica = candidate(3)
    replica.elector.receive(FIRST, Vote(7, 1))
    world.run(5 * TIMING.heartbeat)
    deposed = world.now
    replica.elector.heard_term(SECOND, 5)
    assert (replica.elector.role, replica.elector.term) == (Role.FOLLOWER, 5)
    assert replica.elector.next_due >= deposed + TIMING.election_min
    flush(world)
    world.run(TIMING.election_min - 0.03)
    assert said(world, PreVote) == []


def test_step_down_is_told_and_keeps_the_term() -> None:
    world, replica = candidate(3)
    replica.elector.receive(FIRST, Vote(7, 1))
    before = replica.role_changes
    replica.elector.step_down()
    assert (replica.elector.role, replica.elector.leader, replica.elector.term) == (Role.FOLLOWER, None, 1)
    assert replica.role_changes == before + 1
    assert replica.elector.next_due >= world.now + TIMING.election_min


def test_a_stopped_elector_says_and_does_nothing() -> None:
    world, replica = candidate(3)
    replica.elector.stop()
    flush(world)
    replica.elector.receive(FIRST, Vote(7, 1))
    replica.elector.receive(FIRST, RequestVote(7, 9, 9, 9, True))
    replica.elector.heard_leader(FIRST, 9)
    replica.elector.heard_term(FIRST, 9)
    replica.elector.campaign_now()
    replica.elector.set_voters([ME])
    replica.elector.leader_lost()
    world.run(5)
    assert flush(world) == []
    assert replica.elector.next_due == math.inf
    assert (replica.elector.role, replica.elector.term) == (Role.FOLLOWER, 1)


# --- failover and transfer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("voters", [3, 5])
def test_a_leader_that_dies_is_replaced_soon(voters: int) -> None:
    times = []
    for seed in range(40):
        world = World(seed, voters)
        leader = world.settle()
        world.run(world.random.uniform(0.5, 1))
        died = world.now
        world.crash(leader)
        world.settle(3)
        times.append(world.now - died)
    times.sort()
    assert times[len(times) // 2] < 0.2, f"median {times[len(times) // 2]:.3f} s"
    assert times[-1] < 1.5, f"slowest {times[-1]:.3f} s"


def test_a_connection_that_breaks_while_the_leader_lives_changes_nothing() -> None:
    world = World(10, 3)
    leader = world.settle()
    term = world.elector(leader).term
    victim = next(m for m in world.members if m != leader)
    for _ in range(20):
        world.replicas[victim].connection_broke(leader)
        world.run(0.3)
    assert (world.leading(), world.elector(leader).term) == ([leader], term)


@pytest.mark.parametrize("voters", [2, 3, 5])
def test_a_transfer_is_done_at_once(voters: int) -> None:
    world = World(11, voters)
    leader = world.settle()
    world.run(1)
    term = world.elector(leader).term
    target = next(m for m in world.members if m != leader)
    world.replicas[leader].say(target, TimeoutNow(7, term))
    assert world.run(0.1, lambda: world.leading() == [target])
    assert world.elector(target).term == term + 1
    world.settle(0.3)
    assert [message.transfer for _, _, message in said(world, RequestVote, target)][-1]
    world.run(3)
    assert (world.leading(), world.elector(target).term) == ([target], term + 1)


def test_only_the_leader_it_follows_can_tell_a_node_to_campaign() -> None:
    world, replica = lone(3)
    elector = replica.elector
    elector.receive(FIRST, TimeoutNow(7, 0))
    elector.heard_leader(FIRST, 3)
    flush(world)
    for src, term in ((SECOND, 3), (FIRST, 2), (FIRST, 4)):
        elector.receive(src, TimeoutNow(7, term))
    assert flush(world) == []
    assert (elector.role, elector.term) == (Role.FOLLOWER, 3)
    elector.receive(FIRST, TimeoutNow(7, 3))
    assert elector.role is Role.CANDIDATE
    assert flush(world) == [RequestVote(7, 4, 0, 0, True)] * 2


# --- cost ---------------------------------------------------------------------------------------------------


def test_a_tick_with_nothing_due_only_reads_the_clock() -> None:
    world, replica = lone(3)
    replica.elector.heard_leader(FIRST, 1)
    flush(world)
    before = replica.role_changes
    for _ in range(1000):
        replica.elector.tick()
    assert replica.elector.next_due > world.now
    assert (world.sent, replica.role_changes) == ([], before)


@pytest.mark.parametrize(
    ("heartbeat", "low", "high"), [(0.0, 0.5, 1), (0.3, 0.5, 1), (0.1, 1, 1), (0.1, 0.5, math.inf)]
)
def test_timing_that_cannot_work_is_refused(heartbeat: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="2 \\* heartbeat <= election_min < election_max"):
        ElectionTiming(heartbeat, low, high)
