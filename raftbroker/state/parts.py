"""The parts that every coordinator shard is made of."""

from collections.abc import Sequence
from typing import Any

from raftbroker.state.groups.part import Groups
from raftbroker.state.queues.part import QueuesPart
from raftbroker.state.shard import Op, Part, Query, ShardMachine
from raftbroker.state.transactions.part import TransactionsPart

PARTS: tuple[type[Part], ...] = (TransactionsPart, Groups, QueuesPart)
"""In the order in which their time-outs are carried out, which is part of what replicas agree on."""


def make_parts() -> Sequence[Part]:
    return [part() for part in PARTS]


def shard_machine(group: int) -> ShardMachine:
    """A fresh machine for the shard that is this Raft group."""
    return ShardMachine(group, make_parts)


def op_types() -> tuple[type[Op[Any]], ...]:
    return tuple(op for part in PARTS for op in part.ops)


def query_types() -> tuple[type[Query[Any]], ...]:
    return tuple(query for part in PARTS for query in part.queries)
