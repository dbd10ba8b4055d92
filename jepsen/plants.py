"""Bugs planted into a node when it starts, each a mistake that a broker can have, to show that the harness finds it.

`RAFTBROKER_PLANT=name python -m jepsen.node ...` replaces methods of the broker's classes in that process; the broker
itself knows nothing of it. `jepsen test --plant name` does so for every node. Those of the simulation
(`tests/simulation/plants.py`) can be switched on here by the same names. Which test finds which bug, and how fast:
README.md.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from consensus import identity
from consensus.group import Group
from consensus.model import EntryKind, Member
from consensus.replication import Replication
from raftbroker.broker.replica_read import ReplicaReads
from raftbroker.broker.views import Fetched
from raftbroker.state.batch import parse_header
from raftbroker.state.groups.part import Groups
from raftbroker.state.leader import PartitionLeader
from raftbroker.storage.store import LogStore

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
                return Fetched(tuple(self.scan(partition, offset, end, bytes_max)), end, start, end)
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


PLANTS: dict[str, Callable[[], list[Replacement]]] = {
    "reply-before-commit": _reply_before_commit,
    "fsync-left-out": _fsync_left_out,
    "forgets-offsets": _forgets_offsets,
    "reads-past-high-watermark": _reads_past_high_watermark,
    "duplicate-gets-new-offset": _duplicate_gets_new_offset,
    "wiped-node-votes": _wiped_node_votes,
    "one-is-a-majority": _one_is_a_majority,
}


def names() -> list[str]:
    """All that can be planted."""
    from tests.simulation.plants import PLANTS as SIMULATED

    return [*PLANTS, *SIMULATED]


def switch_on(name: str) -> None:
    """Plants a bug into this process for good. Raises KeyError for one that there is not."""
    if name in PLANTS:
        replacements = PLANTS[name]()
    else:
        from tests.simulation.plants import PLANTS as SIMULATED

        replacements = SIMULATED[name].replacements()
    for owner, method, replacement in replacements:
        setattr(owner, method, replacement)
