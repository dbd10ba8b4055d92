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

LISTED_MAX = 10_000
"""How many things an administrative request lists, all told; as many as a cluster has topics."""
AT_ONCE = 16
"""Of the things that one request asks for."""
OTHERS_EVERY = 50
"""After so many things others have the loop, should none of them have had to wait for anything."""
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
    waiting = enumerate(things)
    results: dict[int, A | Failure] = {}

    async def worker() -> None:
        for position, thing in waiting:
            try:
                results[position] = await work(thing)
            except NotTaken as error:
                results[position] = Failure(error.code, error.message)
            except BrokerError as error:
                results[position] = failure(error)
            if position % OTHERS_EVERY == OTHERS_EVERY - 1:
                await asyncio.sleep(0)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return [results[position] for position in range(len(results))]


def failure(error: BrokerError) -> Failure:
    if isinstance(error, Internal):
        log.error("a Kafka client's request failed: %s", error)
    return Failure(code_of(error, unavailable=ErrorCode.NOT_CONTROLLER), message_of(error))


def twice(names: Iterable[str]) -> set[str]:
    """Those that are there more than once."""
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
