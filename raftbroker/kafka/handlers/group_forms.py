"""What the handlers of consumer groups share: how refusals are told to clients, and topic ids.

A client that is told NOT_COORDINATOR or COORDINATOR_NOT_AVAILABLE finds the coordinator anew and repeats its request.
That does no harm even if it was carried out: a member that joins, commits or leaves again is recognised.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from consensus.errors import ConsensusError, NotLeader
from raftbroker.broker.errors import BrokerError, Internal, Rejected
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of
from raftbroker.state.groups.terms import GroupError

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A")

AT_ONCE = 16
"""Of the groups that one request asks for."""

FAILURES = (BrokerError, ConsensusError)
"""What kept a request from being decided."""


def code(error: GroupError | None) -> ErrorCode:
    """Of what a group answers."""
    return ErrorCode.NONE if error is None else ErrorCode[error]


def codes(error: GroupError | None, errors: Sequence[GroupError | None], count: int) -> list[ErrorCode]:
    """One for each of `count` things: `errors`, or `error` for all of them."""
    if error is not None:
        return [code(error)] * count
    return [code(one) for one in errors] or [ErrorCode.NONE] * count


def failure(context: KafkaContext, group: str, error: Exception) -> ErrorCode:
    """Of what kept a request from being decided."""
    if isinstance(error, NotLeader):
        elected = context.broker.consumer_groups.elected(group)
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if elected else ErrorCode.NOT_COORDINATOR
    if isinstance(error, Internal):
        log.error("a request about consumer group %s failed: %s", group, error)
        return ErrorCode.UNKNOWN_SERVER_ERROR
    return code_of(error) if isinstance(error, Rejected) else ErrorCode.COORDINATOR_NOT_AVAILABLE


def host_of(peer: str) -> str:
    """A client's address as Kafka's tools show it."""
    return f"/{peer}"


async def each(things: Iterable[T], work: Callable[[T], Awaitable[A]]) -> list[A]:
    """What becomes of each, in their order; a few of them at a time. `work` answers for its own errors."""
    waiting = list(enumerate(things))
    waiting.reverse()
    done: dict[int, A] = {}

    async def some() -> None:
        while waiting:
            position, thing = waiting.pop()
            done[position] = await work(thing)

    await asyncio.gather(*(some() for _ in range(min(AT_ONCE, len(waiting)))))
    return [done[position] for position in range(len(done))]
