"""Bugs planted into a node when it starts, each a mistake that a broker can have, to show that the harness finds it.

`RAFTBROKER_PLANT=name python -m jepsen.node ...` replaces methods of the broker's classes in that process; the broker
itself knows nothing of it. `jepsen test --plant name` does so for every node. Those of the simulation
(`tests/simulation/plants.py`) can be switched on here by the same names.

`PROOFS` says which test finds which bug; `python -m jepsen prove` runs them. What came of it: README.md.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from consensus import identity
from consensus.group import Group
from consensus.model import EntryKind, Member
from consensus.replication import Replication
from raftbroker.broker.record_scan import scan
from raftbroker.broker.replica_read import ReplicaReads
from raftbroker.broker.rules import check_expected
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import Fetched
from raftbroker.state.batch import parse_header
from raftbroker.state.groups.part import Groups
from raftbroker.state.leader import PartitionLeader
from raftbroker.state.queues.book import Book
from raftbroker.state.queues.messages import Lock, Message
from raftbroker.state.queues.ops import Acknowledge
from raftbroker.state.queues.part import QueuesPart
from raftbroker.state.queues.queue import Queue
from raftbroker.state.shard import Change
from raftbroker.storage.store import LogStore

SYNC_EVERY_SECONDS = 3.0

Replacement = tuple[type | Any, str, Callable[..., Any]]


def _reply_before_commit() -> list[Replacement]:
    """The leader answers as soon as it has appended, before anybody else has the entry."""
    original = Group._propose

    def propose(self: Group, *arguments: Any) -> "asyncio.Future[int]":
        committed = original(self, *arguments)
        if self.id == 0 or arguments[0] is not EntryKind.COMMAND:
            return committed
        committed.add_done_callback(lambda done: done.exception())
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        answered.set_result(self.last_index)
        return answered

    return [(Group, "_propose", propose)]


def _fsync_left_out() -> list[Replacement]:
    """Everything is written, and nothing synced."""
    return [(LogStore, "sync", lambda self: None)]


def _fsync_now_and_then() -> list[Replacement]:
    """Everything is written at once, and synced every few seconds."""
    original = LogStore.sync
    last = [0.0]

    def sync(self: LogStore) -> None:
        if time.monotonic() - last[0] > SYNC_EVERY_SECONDS:
            last[0] = time.monotonic()
            original(self)

    return [(LogStore, "sync", sync)]


def _forgets_offsets() -> list[Replacement]:
    """A coordinator that is restored from its snapshot or disk starts without the offsets that groups had committed."""
    original = Groups.restore

    def restore(self: Groups, rows_now: dict[bytes, bytes]) -> None:
        original(self, rows_now)
        for group in self.groups.values():
            group.offsets.committed.clear()

    return [(Groups, "restore", restore)]


def _reads_past_high_watermark() -> list[Replacement]:
    """A node serves whatever its log has, committed or not."""
    original = ReplicaReads.from_copy

    def from_copy(
        self: ReplicaReads, group: int, partition: int, offset: int, bytes_max: int, *, committed: bool
    ) -> Fetched | None:
        machine, records = self._context.machine(group), self._context.records
        last = records.floor(partition, 1 << 62)
        if machine is not None and last is not None and last >= machine.end(partition):
            start = machine.partition(partition).start
            ((_, batch),) = records.read(partition, last, last + 1, 1)
            end = parse_header(batch).next_offset
            if start <= offset < end:
                return Fetched(tuple(scan(records, machine, partition, offset, end, bytes_max)), end, start, end)
        return original(self, group, partition, offset, bytes_max, committed=committed)

    return [(ReplicaReads, "from_copy", from_copy)]


def _duplicate_gets_new_offset() -> list[Replacement]:
    """A request that is repeated under its Idempotency-Key is appended again."""
    return [(PartitionLeader, "_key", lambda self, partition, key: None)]


def _wiped_node_votes() -> list[Replacement]:
    """A voter is its node id, whatever directory it has: one that was wiped votes under its old name."""
    original = identity.take_identity

    def take_identity(store: Any, node: int, new_uuid: Callable[[], str], nonce: str) -> identity.Identity:
        taken = original(store, node, lambda: f"{node:032x}", nonce)
        return identity.Identity(Member(node, f"{node:032x}"), time.time_ns(), taken.nonce)

    from raftbroker import node as composed

    return [(composed, "take_identity", take_identity)]


def _one_is_a_majority() -> list[Replacement]:
    """A leader commits what it alone has on its disk."""
    original = Replication._advance_commit

    def advance(self: Replication) -> None:
        original(self)
        if self.leading and self.durable_index > self.commit:
            self._commit_to(self.durable_index)

    return [(Replication, "_advance_commit", advance)]


def _acknowledgements_in_memory() -> list[Replacement]:
    """An acknowledged message is gone until its queue is restored from disk: it was never deleted there."""
    original = QueuesPart.apply

    def apply(self: QueuesPart, op: Any, change: Change) -> Any:
        if not isinstance(op, Acknowledge):
            return original(self, op, change)
        unwritten = Change(change.time_ms, {})
        outcome = original(self, op, unwritten)
        change.names |= unwritten.names
        return outcome

    return [(QueuesPart, "apply", apply)]


def _locks_end_early() -> list[Replacement]:
    """A message is given to the next consumer while its lock should hold."""
    original = Book.lock

    def lock(self: Book, queue: Queue, message: Message, lock: Lock, change: Change) -> None:
        short = structs.replace(lock, until_ms=lock.at_ms + (lock.until_ms - lock.at_ms) // 4)
        original(self, queue, message, short, change)

    return [(Book, "lock", lock)]


def _compares_before_its_turn() -> list[Replacement]:
    """Whether a config is as expected is looked up in the asking node's copy; the leader then sets it in any case."""
    original = Topics.alter_configs

    async def alter_configs(self: Topics, name: str, changes: Any, expected: Any, *rest: Any) -> None:
        await self.barrier(rest[-1])
        check_expected(self._known(name).configs, expected, {})
        await original(self, name, changes, {}, *rest)

    return [(Topics, "alter_configs", alter_configs)]


PLANTS: dict[str, Callable[[], list[Replacement]]] = {
    "reply-before-commit": _reply_before_commit,
    "fsync-left-out": _fsync_left_out,
    "fsync-now-and-then": _fsync_now_and_then,
    "forgets-offsets": _forgets_offsets,
    "reads-past-high-watermark": _reads_past_high_watermark,
    "duplicate-gets-new-offset": _duplicate_gets_new_offset,
    "wiped-node-votes": _wiped_node_votes,
    "one-is-a-majority": _one_is_a_majority,
    "acknowledgements-in-memory": _acknowledgements_in_memory,
    "locks-end-early": _locks_end_early,
    "compares-before-its-turn": _compares_before_its_turn,
}


@dataclass(frozen=True)
class Proof:
    """The test that finds a bug."""

    workload: str
    faults: str
    more: tuple[str, ...] = ()
    """Further options of `jepsen test`."""


CUT_LEADERS = Proof("log", "partition:leader-of-data,partition:one")
PROOFS: dict[str, Proof] = {
    "reply-before-commit": CUT_LEADERS,
    "one-is-a-majority": CUT_LEADERS,
    "reads-past-high-watermark": CUT_LEADERS,
    "fsync-left-out": Proof("log", "power:majority"),
    "fsync-now-and-then": Proof("log", "power:all"),
    "ack-before-fsync": Proof("log", "power:behind"),
    "leader-counts-itself-early": Proof("log", "power:behind"),
    "wiped-node-votes": Proof("log", "wipe:behind"),
    "duplicate-gets-new-offset": Proof("log", "none"),
    # What is under way when a leader dies, and stands on the others: a few requests of those that many clients send.
    "repeats-what-is-unknown": Proof(
        "log", "kill:leader-of-data", ("--hold=1", "--quiet=1", "--rate=400", "--concurrency=40")
    ),
    "forgets-offsets": Proof("groups", "kill:all"),
    "acknowledgements-in-memory": Proof("queue", "kill:all"),
    "locks-end-early": Proof("queue", "none"),
    # Whoever asks a leader that is cut off hangs until its successor is there: many clients, each asking seldom.
    "reads-without-a-round": Proof(
        "register", "partition:leader-of-control", ("--hold=3", "--quiet=2", "--rate=150", "--concurrency=150")
    ),
    "compares-before-its-turn": Proof("register", "none", ("--rate=200",)),
    "snapshot-without-its-records": Proof("log", "kill:one,partition:one"),
    "applied-ahead-of-state": Proof("queue", "kill:all"),
}
"""Those of the simulation's that are not here need a schedule that a cluster does not meet in minutes."""


def names() -> list[str]:
    """All that can be planted."""
    from tests.simulation.plants import PLANTS as SIMULATED

    return [*PLANTS, *SIMULATED]


def simulated(name: str) -> list[Replacement]:
    """One of the simulation's. Raises KeyError for one that there is not."""
    from tests.simulation.plants import PLANTS as SIMULATED

    return list(SIMULATED[name].replacements())


def switch_on(name: str) -> None:
    """Plants a bug into this process for good. Raises KeyError for one that there is not."""
    for owner, method, replacement in PLANTS[name]() if name in PLANTS else simulated(name):
        setattr(owner, method, replacement)
