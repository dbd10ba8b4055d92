"""`Replication` alone: logs that differ as Raft lets them differ, a disk that lags, a network that does what it likes.

The properties: whatever arrives in whatever order, however often, nothing at or below a commit index is truncated, an
acknowledgement never says more than is on the follower's disk and equal to the leader's log, and once messages get
through both logs are equal and committed.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import InvariantBroken
from consensus.log import RaftLog
from consensus.messages import Append, AppendReject, AppendReply, GroupMessage, Heartbeat, HeartbeatReply
from consensus.model import Configuration, Entry, EntryKind, LogBase, Member, encode_configuration
from consensus.replication import Limits, Replication, State

ONE, TWO, THREE = (Member(number, f"{number}" * 32) for number in (1, 2, 3))


class Side:
    """One replica with its ports: what it sends collects, what it saves is durable when the test says so."""

    def __init__(
        self, me: Member, terms: Sequence[int], commit: int = 0, term: int = 0, voters: tuple[Member, ...] = (ONE, TWO)
    ):
        entries = [Entry.of(t, i, EntryKind.COMMAND, b"%d" % t) for i, t in enumerate(terms, 1)]
        log = RaftLog(LogBase(0, 0, Configuration(voters)), lambda first, last, size: entries[first - 1 : last])
        log.append(entries)
        self.sent: list[tuple[Member, GroupMessage]] = []
        self.reachable = True
        self.configured_times = 0
        self.ticket = 0
        limits = Limits(message_bytes_max=150, inflight_bytes_max=400)
        self.core = Replication(7, me, log, term, commit, self, limits)

    def send(self, to: Member, message: GroupMessage) -> bool:
        if self.reachable:
            self.sent.append((to, message))
        return self.reachable

    def save(self, truncate_from: int | None, entries: Sequence[Entry]) -> int:
        self.ticket += 1
        return self.ticket

    def configured(self) -> None:
        self.configured_times += 1

    def flush(self) -> None:
        self.core.durable(self.ticket)

    @property
    def terms(self) -> list[int | None]:
        return [self.core.log.term_at(index) for index in range(1, self.core.last_index + 1)]

    def take(self, *kinds: type[GroupMessage]) -> list[GroupMessage]:
        """What was sent since the last look, of these kinds or all."""
        sent, self.sent = self.sent, []
        return [message for _, message in sent if not kinds or isinstance(message, kinds)]


def leader_of(terms: Sequence[int], term: int, voters: tuple[Member, ...] = (ONE, TWO), commit: int = 0) -> Side:
    side = Side(ONE, terms, commit=commit, term=term, voters=voters)
    side.core.lead(term)
    return side


def follower_of(terms: Sequence[int], term: int, commit: int = 0, me: Member = TWO) -> Side:
    side = Side(me, terms, commit=commit, term=term)
    side.core.follow(ONE)
    return side


class Pair:
    """A leader and a follower, and every message that was ever sent between them: any may arrive, again and again."""

    def __init__(self, shared: list[int], led: list[int], followed: list[int], committed: int) -> None:
        top = max([0, *shared])
        leader = shared + [top + 2 * step for step in sorted(led)]
        follower = shared + [top + 2 * step - 1 for step in sorted(followed)]
        term = max([0, *leader, *follower]) + 1
        commit = min(committed, len(shared))
        self.leader = leader_of(leader, term, commit=commit)
        self.follower = follower_of(follower, term, commit=commit)
        self.on_disk = {i: self.follower.core.log.term_at(i) for i in range(1, len(follower) + 1)}
        self.pool: list[GroupMessage] = []
        self.commit = commit
        self.committed = {i: self.leader.core.log.term_at(i) for i in range(1, commit + 1)}

    def collect(self) -> None:
        self.leader.core.flush()
        for message in self.follower.take():
            if isinstance(message, AppendReply):
                for index in range(1, message.match + 1):
                    assert self.leader.core.log.term_at(index) == self.follower.core.log.term_at(index)
                assert message.match <= self.follower.core.durable_index
            self.pool.append(message)
        self.pool.extend(self.leader.take())
        for side in (self.leader, self.follower):
            for index in range(1, side.core.commit + 1):
                assert self.committed.setdefault(index, side.core.log.term_at(index)) == side.core.log.term_at(index)

    def deliver(self, message: GroupMessage) -> None:
        leader, follower = self.leader.core, self.follower.core
        if isinstance(message, Append):
            follower.on_append(message)
        elif isinstance(message, Heartbeat):
            follower.on_heartbeat(message)
        elif isinstance(message, AppendReply):
            leader.on_append_reply(TWO, message)
        elif isinstance(message, AppendReject):
            leader.on_append_reject(TWO, message)
        elif isinstance(message, HeartbeatReply):
            leader.on_heartbeat_reply(TWO, message)
        self.collect()

    def settle(self) -> None:
        """Everything new arrives, once, in order; heartbeats go on."""
        for _ in range(12):
            start = len(self.pool)
            self.leader.core.heartbeat()
            self.collect()
            while start < len(self.pool):
                self.deliver(self.pool[start])
                start += 1
                self.leader.flush()
                self.follower.flush()
                self.collect()


LOGS = st.lists(st.integers(1, 4), max_size=6)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["deliver"] * 6 + ["append", "heartbeat", "flush", "flush", "lost"]), st.integers(0, 500)
    ),
    max_size=60,
)


@given(LOGS.map(sorted), LOGS, LOGS, st.integers(0, 6), STEPS)
@settings(max_examples=120, deadline=None)
def test_logs_become_equal_whatever_arrives_in_whatever_order(
    shared: list[int], led: list[int], followed: list[int], committed: int, steps: list[tuple[str, int]]
) -> None:
    pair = Pair(shared, led, followed, committed)
    pair.collect()
    for step, number in steps:
        if step == "deliver" and pair.pool:
            pair.deliver(pair.pool[number % len(pair.pool)])
        elif step == "append" and pair.leader.core.last_index < 20:
            pair.leader.core.append(EntryKind.COMMAND, b"x" * (number % 100))
        elif step == "heartbeat":
            pair.leader.core.heartbeat()
        elif step == "flush":
            (pair.leader if number % 2 else pair.follower).flush()
        elif step == "lost":
            pair.leader.core.peer_lost(TWO)
        pair.collect()
    pair.settle()
    assert pair.follower.terms == pair.leader.terms
    assert pair.leader.core.commit == pair.follower.core.commit == pair.leader.core.last_index


def test_a_committed_entry_is_never_truncated() -> None:
    """A leader that lacks what this follower knows to be committed has lost its data: going on would lose more."""
    follower = follower_of([1, 1, 1], term=3, commit=2)
    conflicting = Entry.of(2, 2, EntryKind.NOOP)
    with pytest.raises(InvariantBroken, match="committed entries"):
        follower.core.on_append(Append(7, 3, 1, 1, (conflicting,), 1))
    assert follower.terms == [1, 1, 1]
    with pytest.raises(InvariantBroken, match="committed entry 2 has another term"):
        follower.core.on_append(Append(7, 3, 2, 2, (), 1))


def test_an_acknowledgement_of_what_was_never_sent_is_a_fault() -> None:
    leader = leader_of([1], term=2)
    with pytest.raises(InvariantBroken, match="never sent"):
        leader.core.on_append_reply(TWO, AppendReply(7, 2, 9))


def test_an_acknowledgement_waits_for_the_term_and_the_entries() -> None:
    follower = Side(TWO, [1], term=1)
    follower.ticket += 1
    follower.core.term_saved(2, follower.ticket)
    follower.core.follow(ONE)
    follower.core.on_append(Append(7, 2, 1, 1, (), 0))
    assert follower.take() == [], "the term is not durable yet"
    follower.core.on_append(Append(7, 2, 1, 1, (Entry.of(2, 2, EntryKind.NOOP),), 0))
    assert follower.take() == []
    follower.core.durable(1)
    assert follower.take() == [AppendReply(7, 2, 1)], "the term is durable, entry 2 is not"
    follower.flush()
    assert follower.take() == [AppendReply(7, 2, 2)]


def test_a_flush_of_entries_that_were_truncated_since_promises_nothing() -> None:
    follower = Side(TWO, [1], term=2)
    follower.core.follow(ONE)
    follower.core.on_append(Append(7, 2, 1, 1, (Entry.of(2, 2, EntryKind.COMMAND, b"a"),), 0))
    first = follower.ticket
    follower.ticket += 1
    follower.core.term_saved(3, follower.ticket)
    follower.core.follow(THREE)
    follower.core.on_append(Append(7, 3, 1, 1, (Entry.of(3, 2, EntryKind.NOOP), Entry.of(3, 3, EntryKind.NOOP)), 0))
    follower.core.durable(first)
    assert follower.core.durable_index == 1
    assert follower.take(AppendReply) == []
    follower.flush()
    assert follower.take(AppendReply) == [AppendReply(7, 3, 3)]


@pytest.mark.parametrize("reply_term", [1, 3])
def test_answers_of_another_term_count_for_nothing(reply_term: int) -> None:
    leader = leader_of([1, 1, 1], term=2, voters=(ONE, TWO, THREE))
    leader.flush()
    leader.core.on_append_reply(TWO, AppendReply(7, reply_term, 4))
    leader.core.heartbeat()
    leader.core.on_heartbeat_reply(TWO, HeartbeatReply(7, reply_term, 1))
    leader.core.on_append_reject(TWO, AppendReject(7, reply_term, 3, 1, 1))
    assert (leader.core.commit, leader.core.quorum_round()) == (0, 0)
    assert leader.core.followers[TWO].state is State.REPLICATE


def test_a_majority_of_copies_commits_entries_of_this_term_only() -> None:
    leader = leader_of([1, 1], term=3, voters=(ONE, TWO, THREE))
    leader.core.on_append_reply(TWO, AppendReply(7, 3, 2))
    leader.flush()
    assert leader.core.commit == 0
    leader.core.on_append_reply(TWO, AppendReply(7, 3, 3))
    assert leader.core.commit == 3


def test_the_leaders_own_copy_counts_once_it_is_durable_and_not_before() -> None:
    leader = leader_of([], term=1, voters=(ONE, TWO, THREE))
    leader.core.on_append_reply(TWO, AppendReply(7, 1, 1))
    assert leader.core.commit == 0
    leader.core.on_append_reply(THREE, AppendReply(7, 1, 1))
    assert leader.core.commit == 1, "two others are a majority without it"


def test_a_learner_and_a_stranger_count_for_nothing() -> None:
    leader = leader_of([], term=1, voters=(ONE, TWO))
    command = encode_configuration(Configuration((ONE, TWO), (THREE,)))
    leader.core.append(EntryKind.CONFIGURATION, command)
    leader.flush()
    leader.core.on_append_reply(THREE, AppendReply(7, 1, 2))
    leader.core.on_append_reply(Member(4, "4" * 32), AppendReply(7, 1, 2))
    leader.core.on_append_reply(Member(2, "f" * 32), AppendReply(7, 1, 2))
    assert leader.core.commit == 0
    assert leader.core.followers[THREE].match == 2


def test_sends_are_bounded_and_go_on_with_the_acknowledgements() -> None:
    leader = leader_of([], term=1)
    for _ in range(20):
        leader.core.append(EntryKind.COMMAND, b"x" * 36)
    leader.core.flush()
    first = leader.take(Append)
    assert [len(m.entries) for m in first if isinstance(m, Append)] == [1, 1, 1, 1, 1]
    leader.core.flush()
    assert leader.take() == [], "nothing is sent twice"
    leader.core.on_append_reply(TWO, AppendReply(7, 1, 2))
    leader.core.flush()
    sent = [message.prev_index for message in leader.take(Append) if isinstance(message, Append)]
    assert sent == [5], "as many bytes as were acknowledged"


def test_an_unreachable_follower_is_probed_and_not_flooded() -> None:
    leader = leader_of([1], term=2)
    leader.reachable = False
    leader.core.flush()
    assert leader.core.followers[TWO].state is State.PROBE
    leader.reachable = True
    leader.core.flush()
    leader.core.flush()
    assert leader.take() == [Append(7, 2, 0, 0, (), 0)]


def test_a_follower_below_the_logs_start_wants_a_snapshot_and_comes_back_to_entries() -> None:
    leader = leader_of([1, 1, 1], term=2, commit=3)
    leader.core.log.drop_through(2)
    leader.core.on_append_reject(TWO, AppendReject(7, 2, 3, 0, 0))
    leader.core.flush()
    assert leader.core.followers[TWO].state is State.SNAPSHOT
    assert leader.core.snapshot_wanted == {TWO}
    leader.take()
    leader.core.flush()
    assert leader.take() == [], "no entries while it pulls"
    leader.core.on_append_reply(TWO, AppendReply(7, 2, 3))
    leader.core.flush()
    assert leader.core.followers[TWO].state is State.REPLICATE
    assert [m.prev_index for m in leader.take(Append) if isinstance(m, Append)] == [3]


def test_an_append_that_reaches_below_the_base_is_taken_from_there() -> None:
    follower = follower_of([1, 1, 1], term=1, commit=3)
    follower.core.log.drop_through(3)
    entries = tuple(Entry.of(1, i, EntryKind.COMMAND, b"1") for i in range(2, 6))
    follower.core.on_append(Append(7, 1, 1, 1, entries, 3))
    follower.flush()
    assert follower.core.last_index == 5
    assert follower.take()[-1] == AppendReply(7, 1, 5)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(1, 2, EntryKind.NOOP, b"changed", (), Entry.of(1, 2, EntryKind.NOOP).crc),
        Entry.of(1, 3, 0),
        Entry.of(9, 2, 0),
    ],
    ids=["crc", "index", "term"],
)
def test_an_entry_that_is_not_what_was_sent_is_refused(entry: Entry) -> None:
    follower = follower_of([1], term=1)
    with pytest.raises(ValueError, match="not what was sent"):
        follower.core.on_append(Append(7, 1, 1, 1, (entry,), 0))
    assert (follower.core.last_index, follower.take()) == (1, [])


def test_a_heartbeat_commits_no_more_than_is_known_to_match() -> None:
    follower = follower_of([1, 1, 1], term=2)
    follower.core.on_heartbeat(Heartbeat(7, 2, 3, 1))
    assert (follower.core.commit, follower.take()) == (0, [HeartbeatReply(7, 2, 1)])
    follower.core.on_append(Append(7, 2, 2, 1, (), 3))
    assert follower.core.commit == 2


def test_a_truncated_configuration_is_in_force_no_more() -> None:
    follower = follower_of([1], term=1)
    changed = Configuration((ONE, TWO, THREE))
    entry = Entry.of(1, 2, EntryKind.CONFIGURATION, encode_configuration(changed))
    follower.core.on_append(Append(7, 1, 1, 1, (entry,), 0))
    assert follower.core.log.configuration == changed
    follower.core.term_saved(2, 1)
    follower.core.follow(THREE)
    follower.core.on_append(Append(7, 2, 1, 1, (Entry.of(2, 2, EntryKind.NOOP),), 0))
    assert follower.core.log.configuration.voters == (ONE, TWO)
    assert follower.configured_times == 2


def test_a_read_round_needs_a_majority_of_voters() -> None:
    leader = leader_of([], term=1, voters=(ONE, TWO, THREE))
    leader.core.heartbeat()
    leader.core.heartbeat()
    assert leader.core.quorum_round() == 0
    leader.core.on_heartbeat_reply(TWO, HeartbeatReply(7, 1, 1))
    assert leader.core.quorum_round() == 1
    leader.core.on_heartbeat_reply(THREE, HeartbeatReply(7, 1, 99))
    assert leader.core.quorum_round() == 2, "no answer counts for a round that was not asked"
