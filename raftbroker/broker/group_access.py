"""The way from any node to the leader of a consumer group's shard, and the bounds of what is sent there."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from raftbroker.broker.context import Context
from raftbroker.broker.errors import (
    BrokerError,
    GroupRefused,
    InvalidRequest,
    NonEmptyGroup,
    UnknownConsumerGroup,
    UnknownTopic,
)
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.wire import Method
from raftbroker.broker.wire_groups import GroupRequest
from raftbroker.state.groups.part import Groups
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.shard import Op, Query

Q = TypeVar("Q", bound=GroupRequest)
A = TypeVar("A")
O = TypeVar("O")  # noqa: E741  an outcome

GROUP_BYTES_MAX = 1_000
ID_BYTES_MAX = 1_000
"""Of member and instance ids."""


class GroupAccess:
    """With `here_only` nothing is passed on: raises NotLeader where this node does not lead the group's shard."""

    def __init__(self, context: Context, router: Router, shards: Shards) -> None:
        self._context = context
        self._router = router
        self._shards = shards

    async def at_leader(
        self, method: Method[Q, A], request: Q, here: Callable[[Q], Awaitable[A]], here_only: bool, mode: Mode
    ) -> A:
        if here_only:
            return await here(request)
        return await self._router.at_leader(
            self._shards.shard_of(request.group),
            method,
            lambda left: msgspec.structs.replace(request, timeout=left),
            here,
            asyncio.get_running_loop().time() + request.timeout,
            mode,
            attempt_seconds=request.timeout,
        )

    async def submit(self, op: Op[O], timeout: float, here_only: bool) -> O:
        if here_only:
            return await self._shards.submit_here(op, timeout)
        return await self._shards.submit(op, timeout, mode=Mode.REPEATABLE)

    async def query(self, query: Query[A], timeout: float, here_only: bool) -> A:
        if not here_only:
            return await self._shards.query(query, timeout)
        shard = self._shards.shard_of(query.name)
        await self._shards.barrier(shard, timeout)
        answer: Any = self._shards.part(shard, Groups).query(query)
        typed: A = answer
        return typed


def check_names(group: str, member_id: str = "", instance_id: str | None = None) -> GroupError | None:
    """What is wrong with the names in a request."""
    if not 0 < len(group.encode()) <= GROUP_BYTES_MAX:
        return GroupError.INVALID_GROUP_ID
    if len(member_id.encode()) > ID_BYTES_MAX:
        return GroupError.INVALID_REQUEST
    if instance_id is not None and not 0 < len(instance_id.encode()) <= ID_BYTES_MAX:
        return GroupError.INVALID_REQUEST
    return None


_ERRORS: Mapping[GroupError, type[BrokerError]] = {
    GroupError.GROUP_ID_NOT_FOUND: UnknownConsumerGroup,
    GroupError.NON_EMPTY_GROUP: NonEmptyGroup,
    GroupError.UNKNOWN_TOPIC_OR_PARTITION: UnknownTopic,
    GroupError.INVALID_GROUP_ID: InvalidRequest,
}

_TEXTS: Mapping[GroupError, str] = {
    GroupError.GROUP_ID_NOT_FOUND: "there is no such group",
    GroupError.NON_EMPTY_GROUP: "it has members: stop its consumers first",
    GroupError.UNKNOWN_MEMBER_ID: "it has members, and this request is none of them: stop its consumers first",
    GroupError.GROUP_SUBSCRIBED_TO_TOPIC: "a member reads the topic: stop its consumers first",
    GroupError.INVALID_GROUP_ID: f"a group id has 1 to {GROUP_BYTES_MAX} bytes",
    GroupError.OFFSET_METADATA_TOO_LARGE: "the metadata of an offset is too long",
    GroupError.INVALID_COMMIT_OFFSET_SIZE: "there are too many offsets or groups",
    GroupError.UNKNOWN_TOPIC_OR_PARTITION: "there is no such topic or partition",
}


def refused(error: GroupError, group: str) -> BrokerError:
    """What to raise for an answer's error, where the front door raises."""
    kind = _ERRORS.get(error, GroupRefused)
    return kind(f"consumer group {group[:100]}: {_TEXTS.get(error, 'it was refused')} ({error.value})", field="group")
