"""Each inner member of pysyncobj that `pysyncobj_seams` reaches into: there, and meaning what it is taken to mean.

These use pysyncobj as `Engine` does, and assert on what it says and does, so that a release which renames a member or
gives it another meaning fails here, by the member's name.
"""

import importlib.metadata
import math
import os
import socket
import threading
from collections.abc import Iterator

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj
from pysyncobj.node import Node

from consensus import pysyncobj_seams as seams
from consensus.errors import InvariantBroken
from consensus.model import HardState, Member
from tests.unit.consensus.election_world import member

ME, FIRST, SECOND = member(1), member(2), member(3)


class Shape:
    def __init__(self, last_index: int = 0, last_term: int = 0) -> None:
        self.last_index, self.last_term = last_index, last_term

    def lead(self, term: int) -> None:
        self.last_index, self.last_term = self.last_index + 1, term


class Bench:
    """An engine and what it did."""

    def __init__(self, *others: Member, shape: Shape | None = None, hard_state: HardState | None = None) -> None:
        self.now = 50.0
        self.persisted: list[HardState] = []
        self.sent: list[tuple[Member, dict[str, int | str]]] = []
        self.shape = shape or Shape()
        self.engine = seams.Engine(
            ME,
            others,
            self.shape,
            hard_state or HardState(),
            draw_deadline=lambda: self.now + 0.75,
            persist=self.persisted.append,
            send=lambda dst, message: self.sent.append((dst, message)),
        )
        self.sync = self.engine._sync

    def win(self, *voters: Member) -> None:
        self.engine.campaign()
        for voter in voters:
            self.engine.voted(voter, self.engine.hard_state.term)
        assert self.engine.state == seams.LEADER


@pytest.fixture
def bench() -> Bench:
    return Bench(FIRST, SECOND)


# --- the version --------------------------------------------------------------------------------------------


def test_the_installed_version_is_the_pinned_one() -> None:
    assert importlib.metadata.version("pysyncobj") == seams.PINNED
    assert any(
        requirement.startswith(f"pysyncobj=={seams.PINNED}")
        for requirement in importlib.metadata.requires("raftbroker") or []
    )


def test_another_version_is_refused_with_the_way_out() -> None:
    with pytest.raises(ImportError, match=r"pysyncobj 0\.3\.18 .*`pip install pysyncobj==0\.3\.17"):
        seams.check_version("0.3.18")


# --- one member each ----------------------------------------------------------------------------------------


def test_raft_log_is_read_for_the_shape_and_takes_the_no_op() -> None:
    bench = Bench(FIRST, SECOND, shape=Shape(41, 3), hard_state=HardState(5))
    assert "_SyncObj__raftLog" in vars(bench.sync)
    bench.win(FIRST)
    asked = {"type": "request_vote", "term": 6, "last_log_index": 41, "last_log_term": 3}
    assert sorted(dst for dst, _ in bench.sent) == [FIRST, SECOND]
    assert [message for _, message in bench.sent] == [asked, asked]
    assert (bench.shape.last_index, bench.shape.last_term) == (42, 6)


def test_raft_log_is_told_each_term_and_vote() -> None:
    bench = Bench(FIRST, SECOND)
    bench.engine.vote_requested(FIRST, 4, 0, 0)
    assert bench.persisted == [HardState(4), HardState(4, FIRST)]
    assert bench.sent == [(FIRST, {"type": "response_vote", "term": 4})]
    bench.engine.heard_leader(SECOND, 5)
    assert bench.persisted[2:] == [HardState(5)]


def test_current_term_is_taken_over() -> None:
    bench = Bench(FIRST, SECOND, hard_state=HardState(7))
    assert "_SyncObj__raftCurrentTerm" in vars(bench.sync)
    assert bench.sync.raftCurrentTerm == 7
    bench.engine.campaign()
    assert bench.persisted == [HardState(8, ME)]


def test_voted_for_is_taken_over_and_binds() -> None:
    bench = Bench(FIRST, SECOND, hard_state=HardState(7, FIRST))
    assert "_SyncObj__votedForNodeId" in vars(bench.sync)
    bench.engine.vote_requested(SECOND, 7, 9, 9)
    assert bench.sent == []
    assert bench.persisted == []
    free = Bench(FIRST, SECOND, hard_state=HardState(7))
    free.engine.vote_requested(SECOND, 7, 9, 9)
    assert free.persisted == [HardState(7, SECOND)]


def test_generate_raft_timeout_draws_every_deadline(bench: Bench) -> None:
    assert callable(SyncObj._SyncObj__generateRaftTimeout)
    bench.now = 60.0
    bench.engine.heard_leader(FIRST, 1)
    assert bench.engine.deadline == 60.75
    bench.now = 70.0
    bench.engine.vote_requested(SECOND, 2, 0, 0)
    assert bench.engine.deadline == 70.75
    bench.now = 80.0
    bench.engine.campaign()
    assert bench.engine.deadline == 80.75


def test_election_deadline_is_what_a_campaign_waits_for(bench: Bench) -> None:
    assert "_SyncObj__raftElectionDeadline" in vars(bench.sync)
    bench.engine.deadline = math.inf
    bench.sync.doTick(0)
    assert bench.engine.state == seams.FOLLOWER
    bench.engine.deadline = -math.inf
    bench.sync.doTick(0)
    assert bench.engine.state == seams.CANDIDATE


def test_last_response_time_decides_check_quorum(bench: Bench) -> None:
    assert "_SyncObj__lastResponseTime" in vars(bench.sync)
    bench.win(FIRST)
    bench.engine.check_quorum({SECOND})
    assert bench.engine.state == seams.LEADER
    bench.engine.check_quorum(set())
    assert bench.engine.state == seams.FOLLOWER
    assert bench.engine.leader is None


@pytest.mark.parametrize("name", ["_SyncObj__raftCommitIndex", "_SyncObj__raftLastApplied"])
def test_commit_and_applied_index_at_the_end_spare_the_walk(name: str) -> None:
    looked: list[object] = []

    class Watched(seams._ShapeJournal):
        def __getitem__(self, position: int | slice) -> object:
            looked.append(position)
            return super().__getitem__(position)

    bench = Bench(shape=Shape(100_000, 1), hard_state=HardState(1))
    assert name in vars(bench.sync)
    bench.sync._SyncObj__raftLog.__class__ = Watched
    bench.win()
    assert bench.sync.raftCommitIndex == bench.sync.raftLastApplied == 100_001
    bench.shape.last_index += 100_000
    looked.clear()
    bench.engine.check_quorum(set())
    assert bench.engine.state == seams.LEADER
    assert len(looked) < 10


def test_other_nodes_are_who_is_asked_and_counted(bench: Bench) -> None:
    assert "_SyncObj__otherNodes" in vars(bench.sync)
    bench.engine.set_others([FIRST, SECOND, member(4), member(5)])
    bench.engine.campaign()
    assert sorted(dst for dst, _ in bench.sent) == [FIRST, SECOND, member(4), member(5)]
    bench.engine.voted(FIRST, 1)
    assert bench.engine.state == seams.CANDIDATE
    bench.engine.voted(SECOND, 1)
    assert bench.engine.state == seams.LEADER


@pytest.mark.parametrize("name", ["_SyncObj__raftNextIndex", "_SyncObj__raftMatchIndex"])
def test_next_and_match_index_follow_the_voters(name: str, bench: Bench) -> None:
    assert name in vars(bench.sync)
    bench.win(FIRST)
    bench.engine.set_others([SECOND, member(4)])
    assert set(getattr(bench.sync, name)) == {Node(SECOND), Node(member(4))}
    bench.engine.check_quorum({member(4)})  # A voter without a match index would raise out of the tick.
    assert bench.engine.state == seams.LEADER


def test_raft_leader_can_be_forgotten(bench: Bench) -> None:
    assert "_SyncObj__raftLeader" in vars(bench.sync)
    bench.engine.heard_leader(FIRST, 1)
    assert bench.engine.leader == FIRST
    bench.engine.forget_leader()
    assert bench.engine.leader is None
    assert not bench.engine.told_to_campaign(FIRST, 1)
    bench.engine.heard_leader(FIRST, 1)
    assert bench.engine.told_to_campaign(FIRST, 1)


def test_set_state_steps_down_and_tells(bench: Bench) -> None:
    assert callable(SyncObj._SyncObj__setState)
    bench.win(FIRST)
    bench.engine.step_down()
    assert bench.engine.state == seams.FOLLOWER
    assert not bench.sync._isLeader()
    bench.engine.voted(SECOND, 1)
    assert bench.engine.state == seams.FOLLOWER


# --- what the public seams are taken to mean ----------------------------------------------------------------


def test_states_are_numbered_as_here() -> None:
    states = pysyncobj.syncobj._RAFT_STATE
    assert (states.FOLLOWER, states.CANDIDATE, states.LEADER) == (seams.FOLLOWER, seams.CANDIDATE, seams.LEADER)
    assert bytes([pysyncobj.syncobj._COMMAND_TYPE.NO_OP]) == seams._NO_OP


def test_a_request_that_no_log_can_grant_only_raises_the_term(bench: Bench) -> None:
    bench.win(FIRST)
    bench.sent.clear()
    bench.engine.heard_term(SECOND, 9)
    assert bench.engine.state == seams.FOLLOWER
    assert bench.engine.hard_state == HardState(9)
    assert bench.sent == []


def test_a_leader_never_tries_to_send_entries(bench: Bench) -> None:
    bench.sync._SyncObj__transport.send = lambda node, message: pytest.fail(f"sent {message}")
    bench.sync._SyncObj__otherNodes = set()
    bench.win()
    bench.engine.set_others([FIRST, SECOND])
    bench.engine.check_quorum({FIRST, SECOND})


def test_a_journal_that_would_break_a_promise_stops_the_node(bench: Bench) -> None:
    journal = bench.sync._SyncObj__raftLog
    journal.setCurrentTerm(3, FIRST)
    with pytest.raises(InvariantBroken, match="term 3 with a vote"):
        journal.setCurrentTerm(3, SECOND)
    with pytest.raises(InvariantBroken, match="term 2"):
        journal.setCurrentTerm(2, None)
    with pytest.raises(InvariantBroken, match="shorten"):
        journal.deleteEntriesFrom(1)
    with pytest.raises(InvariantBroken, match="appended at 5"):
        journal.add(seams._NO_OP, 5, 3)


@pytest.fixture
def descriptors() -> Iterator[None]:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_groups_hold_no_descriptors_and_no_threads(descriptors: None) -> None:
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    benches = [Bench(FIRST, SECOND) for _ in range(100)]
    for bench in benches:
        bench.win(FIRST)
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
    for bench in benches:
        bench.engine.close()


def test_importing_pysyncobj_leaves_the_process_as_it_was() -> None:
    """It replaces `socket.inet_ntop` by a function that raises on anything but Windows."""
    assert socket.inet_ntop(socket.AF_INET, b"\x7f\x00\x00\x01") == "127.0.0.1"
