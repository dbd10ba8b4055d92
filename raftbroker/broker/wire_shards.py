"""What nodes ask of the leader of a coordinator shard."""

import msgspec

from raftbroker.broker.wire import Answer, Method


class ShardOpRequest(msgspec.Struct, frozen=True, array_like=True):
    """An op to decide; the answer is its outcome. Both are msgpack, typed by `raftbroker.state.shard`."""

    control: int
    group: int
    timeout: float
    op: bytes
    payloads: tuple[bytes, ...] = ()


class ShardQueryRequest(msgspec.Struct, frozen=True, array_like=True):
    control: int
    group: int
    timeout: float
    query: bytes


SHARD_OP = Method("shard.op.1", ShardOpRequest, Answer[bytes])
SHARD_QUERY = Method("shard.query.1", ShardQueryRequest, Answer[bytes])
