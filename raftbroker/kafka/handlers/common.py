"""What the administrative handlers share: several things asked for at once, their time, their errors."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

from raftbroker.broker.errors import BrokerError, Internal
from raftbroker.kafka.errors import ErrorCode, code_of, message_of

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A")

AT_ONCE = 16
"""Of the things that one request asks for."""
SECONDS_MIN, SECONDS_MAX = 1.0, 300.0


class NotTaken(Exception):
    """What is asked for in a request is refused here, with this code: the broker has no say in it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Failure(NamedTuple):
    """Why something was not done."""

    code: ErrorCode
    message: str


def seconds(timeout_ms: int) -> float:
    """A request's own timeout, within bounds."""
    return min(max(timeout_ms / 1000, SECONDS_MIN), SECONDS_MAX)


async def each(things: Iterable[T], work: Callable[[T], Awaitable[A]]) -> list[A | Failure]:
    """The result of each, or why there is none, in their order; a few of them at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> A | Failure:
        async with turn:
            try:
                return await work(thing)
            except NotTaken as error:
                return Failure(error.code, error.message)
            except BrokerError as error:
                return failure(error)

    return await asyncio.gather(*(one(thing) for thing in things))


def failure(error: BrokerError) -> Failure:
    if isinstance(error, Internal):
        log.error("a Kafka client's request failed: %s", error)
    return Failure(code_of(error, unavailable=ErrorCode.NOT_CONTROLLER), message_of(error))


def twice(names: Iterable[str]) -> set[str]:
    """Those that are there more than once."""
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
