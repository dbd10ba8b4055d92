"""The line of those who wait for a queue's messages, by itself."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raftbroker.broker.queue_line import Line


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


class There:
    def __init__(self, count: int | None = 0) -> None:
        self.count = count

    def __call__(self) -> int | None:
        return self.count


async def in_line(line: Line, wanted: int, seconds: float = 5.0, *, first: bool = False) -> "asyncio.Task[int]":
    deadline = asyncio.get_running_loop().time() + seconds
    task = asyncio.create_task(line.wait(wanted, deadline, first=first))
    await asyncio.sleep(0)
    return task


def test_no_more_is_promised_than_is_there_and_in_order() -> None:
    async def work() -> None:
        there = There()
        line = Line(there)
        assert line.take(5) == 0
        first, second, third = [await in_line(line, 3) for _ in range(3)]
        there.count = 4
        line.look()
        assert await first == 3
        assert await second == 1
        await asyncio.sleep(0)
        assert not third.done()
        there.count = 0
        line.give_back(3)
        line.give_back(1)
        await asyncio.sleep(0)
        assert not third.done()
        there.count = 1
        line.look()
        assert await third == 1
        assert not line.idle
        line.give_back(1)
        assert line.take(5) == 1
        line.give_back(1)
        assert line.idle

    run(work)


def test_who_comes_later_does_not_pass_those_who_wait() -> None:
    async def work() -> None:
        there = There()
        line = Line(there)
        waiting = await in_line(line, 1)
        there.count = 1
        assert line.take(1) == 0
        again = await in_line(line, 1, first=True)
        line.look()
        assert await again == 1
        assert not waiting.done()
        waiting.cancel()

    run(work)


def test_what_was_promised_to_one_that_leaves_goes_to_the_next() -> None:
    async def work() -> None:
        there = There()
        line = Line(there)
        first, second = await in_line(line, 1), await in_line(line, 1)
        there.count = 1
        line.look()
        first.cancel()
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first
        line.give_back(1)
        assert line.idle

    run(work)


def test_waiting_ends_at_the_deadline_with_the_queue_and_with_an_error() -> None:
    async def work() -> None:
        there = There()
        line = Line(there)
        assert await (await in_line(line, 1, 0.01)) == 0
        waiting = await in_line(line, 1)
        there.count = None
        line.look()
        assert await waiting == 0
        there.count = 0
        waiting = await in_line(line, 1)
        line.fail(OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            await waiting
        assert line.idle

    run(work)
