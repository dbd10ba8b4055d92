"""Bugs planted into the real classes, each a mistake that a Raft can have, to show that the simulation finds it.

A plant replaces methods of the classes under test for the time of a run. Some are found by any run with some load;
those that need a rare schedule bring a script that plays it. `found_at` is the seed that was the first to catch it when
this was written: the search begins there and goes on, because changes elsewhere move the schedules.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from consensus.errors import Damaged
from consensus.group import Group
from consensus.messages import Append, AppendReply, GroupMessage, SnapshotOffer
from consensus.model import Entry, HardState, Member
from consensus.replication import Progress, Replication
from consensus.snapshot import SnapshotReceiver
from consensus.store import KeyRange
from raftbroker.broker.routing import Mode, Router
from raftbroker.state.leader import PartitionLeader
from raftbroker.storage import layout
from raftbroker.storage.store import LogStore

from . import scripts
from .cluster import Plan
from .runner import Result, Script, quiet, random_script, run, run_brokers

Replacement = tuple[type | Any, str, Callable[..., Any]]


@dataclass(frozen=True)
class Plant:
    """One bug. `black_box` runs look only at what clients and states show, not at promises on the wire."""

    rule: str
    replacements: Callable[[], list[Replacement]]
    script: Script = random_script
    plan: Plan | None = None
    black_box: bool = False
    found_at: int = 0
    broker: bool = False
    """Whole nodes instead of bare replicas."""
    tries: int = 60

    @contextmanager
    def planted(self) -> Iterator[None]:
        changed = [(owner, name, getattr(owner, name)) for owner, name, _ in self.replacements()]
        try:
            for owner, name, replacement in self.replacements():
                setattr(owner, name, replacement)
            yield
        finally:
            for owner, name, original in changed:
                setattr(owner, name, original)

    def run(self, seed: int, *, planted: bool = True, keep_trace: bool = False) -> Result:
        """One run with the bug, or, for comparison, the same run without it."""
        quiet()
        if self.broker:
            with self.planted() if planted else nullcontext():
                return run_brokers(seed, keep_trace=keep_trace)
        plan = self.plan or Plan.draw(Random(f"{seed}/plan"), 3)
        plan = replace(plan, black_box=self.black_box, weather=replace(plan.weather))
        with self.planted() if planted else nullcontext():
            return run(seed, plan, self.script, keep_trace=keep_trace)


# --- C1: persist, then send -----------------------------------------------------------------------------


def _ack_before_fsync() -> list[Replacement]:
    def reply(self: Replication) -> None:
        if self.leader is not None:
            self._ports.send(self.leader, AppendReply(self.group, self.term, self.matched))
            self._reply_due = False

    return [(Replication, "_reply", reply)]


def _sync_does_nothing() -> list[Replacement]:
    return [(LogStore, "sync", lambda self: None)]


def _leader_counts_itself_early() -> list[Replacement]:
    original = Replication._save

    def save(self: Replication, truncate_from: int | None, entries: Any) -> None:
        original(self, truncate_from, entries)
        if self.leading:
            self.durable_index = self.log.last_index
            self._advance_commit()

    return [(Replication, "_save", save)]


def _vote_not_persisted() -> list[Replacement]:
    original = Group._persist

    def persist(self: Group, hard_state: HardState) -> None:
        original(self, hard_state)
        write, _ = self._around.committer.pending(self.id)
        write.hard_state = HardState(hard_state.term, None)

    return [(Group, "_persist", persist)]


def _vote_before_fsync() -> list[Replacement]:
    def send(self: Group, to: Member, message: GroupMessage) -> None:
        self._around.send(to, message)

    return [(Group, "_send_election", send)]


# --- C2: votes and acknowledgements count once, in their term -------------------------------------------


def _ack_without_its_term() -> list[Replacement]:
    original = Group.receive

    def receive(self: Group, source: Member, message: GroupMessage) -> None:
        if isinstance(message, AppendReply) and message.term < self.term:
            match = min(message.match, self.last_index)
            message = AppendReply(message.group, self.term, match)
        original(self, source, message)

    return [(Group, "receive", receive)]


# --- C3: what matches stays, commit only what is proven --------------------------------------------------


def _truncates_matching_entries() -> list[Replacement]:
    def first_new(self: Replication, entries: tuple[Entry, ...]) -> int:
        floor = max(self.commit, self.log.base.index)
        return next((at for at, entry in enumerate(entries) if entry.index > floor), len(entries))

    return [(Replication, "_first_new", first_new)]


def _commits_an_old_term() -> list[Replacement]:
    def advance(self: Replication) -> None:
        voters = self.log.configuration.voters
        matches = [self.durable_index if m == self.me else self._followed(m).match for m in voters]
        index = sorted(matches, reverse=True)[self.log.configuration.majority - 1]
        if self.leading and index > self.commit:
            self.commit = index

    return [(Replication, "_advance_commit", advance)]


def _commits_more_than_proven() -> list[Replacement]:
    original = Replication.on_append

    def on_append(self: Replication, message: Append) -> None:
        original(self, message)
        self._commit_to(min(message.commit, self.log.last_index))

    return [(Replication, "on_append", on_append)]


def _applied_ahead_of_state() -> list[Replacement]:
    original = Group._apply

    def apply(self: Group) -> None:
        before = self.applied
        original(self)
        if self.applied > before:
            write = self._around.committer.pending_lazily(self.id)
            rows, write.state = write.state, {}
            later = self._around.committer.pending_lazily
            scripts.after(0.3, lambda: later(self.id).state.update(rows))

    return [(Group, "_apply", apply)]


def _unchecked_rows() -> list[Replacement]:
    def read_row(group: int, index: int, value: bytes) -> layout.Row:
        try:
            return layout._decode_row(value)
        except Exception as error:
            raise Damaged("does not decode") from error

    return [(layout, "read_row", read_row), (Entry, "sound", property(lambda self: True))]


# --- snapshots -------------------------------------------------------------------------------------------


def _snapshot_acknowledged_early() -> list[Replacement]:
    original = Group.install

    def install(self: Group, offer: SnapshotOffer, rows: dict[bytes, bytes], ranges: list[KeyRange]) -> None:
        original(self, offer, rows, ranges)
        if self.leader is not None:
            self._around.send(self.leader, AppendReply(self.id, self.term, offer.index))

    return [(Group, "install", install)]


def _snapshot_without_its_records() -> list[Replacement]:
    def next_payloads(self: SnapshotReceiver) -> None:
        self._missing = []
        self._next_page()

    return [(SnapshotReceiver, "_next_payloads", next_payloads)]


# --- C6, C12 -----------------------------------------------------------------------------------------


def _reads_without_a_round() -> list[Replacement]:
    async def barrier(self: Group, timeout: float) -> None:
        if not self._ready:
            raise self._not_leading()
        await self.wait_applied(self.commit, timeout)

    return [(Group, "read_barrier", barrier)]


def _learners_count() -> list[Replacement]:
    original = Replication._followed

    def followed(self: Replication, member: Member) -> Progress:
        best = original(self, member)
        for learner in self.log.configuration.learners:
            if original(self, learner).match > best.match:
                best = original(self, learner)
        return best

    return [(Replication, "_followed", followed)]


# --- the broker ------------------------------------------------------------------------------------------


def _forgets_idempotency_keys() -> list[Replacement]:
    return [(PartitionLeader, "_key", lambda self, partition, key: None)]


def _repeats_what_is_unknown() -> list[Replacement]:
    original = Router.at_leader

    async def at_leader(self: Router, *arguments: Any, **named: Any) -> Any:
        changed = [Mode.REPEATABLE if one is Mode.ONCE else one for one in arguments]
        return await original(self, *changed, **named)

    return [(Router, "at_leader", at_leader)]


SMALL = Plan(voters=3, spares=1, log_entries_max=8, memory_bytes_max=500)

SPLIT = Plan(voters=3, message_bytes_max=200, inflight_bytes_max=400)
FIVE = Plan(voters=5, message_bytes_max=1, inflight_bytes_max=1)

PLANTS = {
    "ack-before-fsync": Plant("C1", _ack_before_fsync),
    "ack-before-fsync-unseen": Plant("C1", _ack_before_fsync, scripts.power_cuts, Plan(), True),
    "sync-does-nothing": Plant("C1", _sync_does_nothing, scripts.power_cuts, black_box=True),
    "leader-counts-itself-early": Plant("C1", _leader_counts_itself_early),
    "ack-without-its-term": Plant("C2", _ack_without_its_term, scripts.late_acknowledgement, Plan(voters=5)),
    "truncates-matching-entries": Plant("C3", _truncates_matching_entries, scripts.broken_links, SPLIT, found_at=1),
    "commits-an-old-term": Plant("C1", _commits_an_old_term, scripts.figure_eight, FIVE, found_at=1),
    "vote-not-persisted": Plant("C1", _vote_not_persisted),
    "vote-not-persisted-unseen": Plant("C1", _vote_not_persisted, scripts.vote_twice, Plan(), black_box=True),
    "vote-before-fsync": Plant("C1", _vote_before_fsync),
    "commits-more-than-proven": Plant("C3", _commits_more_than_proven, scripts.divergent_tail, Plan()),
    "applied-ahead-of-state": Plant("Store", _applied_ahead_of_state, found_at=1),
    "snapshot-acknowledged-early": Plant("C1", _snapshot_acknowledged_early, scripts.long_absence, SMALL),
    "snapshot-without-its-records": Plant("C3", _snapshot_without_its_records, scripts.long_absence, SMALL),
    "reads-without-a-round": Plant("C6", _reads_without_a_round, scripts.stale_reader, Plan()),
    "unchecked-rows": Plant("C8", _unchecked_rows, scripts.flipped_bits, Plan(memory_bytes_max=500), found_at=2),
    "learners-count": Plant("C12", _learners_count, scripts.learner_load, Plan(voters=3, spares=2)),
    "forgets-idempotency-keys": Plant("exactly once", _forgets_idempotency_keys, found_at=3, broker=True),
    "repeats-what-is-unknown": Plant("exactly once", _repeats_what_is_unknown, found_at=27, broker=True),
}
