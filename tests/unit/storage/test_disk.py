"""The writer thread: commits are durable when they return, errors reach the caller, the loop goes on meanwhile."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from consensus.errors import InvariantBroken
from consensus.store import Write
from raftbroker.storage.disk import ThreadDisk
from tests.unit.storage.conftest import Opened
from tests.unit.storage.helpers import create, entries, entry


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def test_commits_come_out_in_order_and_errors_reach_the_caller(opened: Opened, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        disk = ThreadDisk(opened.store, executor)
        await disk.commit([create()])
        for index in range(1, 20):
            await disk.commit([Write(1, entries=[entry(index)])])
            assert opened.store.load(1).last_index == index
        with pytest.raises(InvariantBroken):
            await disk.commit([Write(1, entries=[entry(25)])])
        await asyncio.gather(*(disk.commit([Write(1, entries=[entry(index)])]) for index in range(20, 40)))
        await asyncio.sleep(0.7)  # the serving job has ended
        await disk.commit([Write(1, entries=[entry(40)])])

    asyncio.run(run())
    assert opened.store.entries(1, 1, 40, 1 << 30) == entries(1, 40)


def test_a_caller_that_gave_up_disturbs_nobody(opened: Opened, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        disk = ThreadDisk(opened.store, executor)
        gone = asyncio.create_task(disk.commit([create()]))
        await asyncio.sleep(0)
        gone.cancel()
        await disk.commit([Write(1, entries=[entry(1)])])

    asyncio.run(run())
    assert opened.store.load(1).last_index == 1


class SlowStore:
    """A disk that takes its time; only for the loop's sake."""

    def write(self, writes: Sequence[Write]) -> None:
        pass

    def sync(self) -> None:
        time.sleep(0.3)


def test_the_loop_goes_on_while_the_disk_works(executor: ThreadPoolExecutor) -> None:
    async def run() -> float:
        disk = ThreadDisk(SlowStore(), executor)  # type: ignore[arg-type]
        commit = asyncio.create_task(disk.commit([]))
        late = 0.0
        while not commit.done():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            late = max(late, time.monotonic() - began)
        return late

    assert asyncio.run(run()) < 0.2


def test_the_executor_shuts_down_soon_after_the_last_commit(opened: Opened) -> None:
    executor = ThreadPoolExecutor(1)
    asyncio.run(ThreadDisk(opened.store, executor).commit([create()]))
    began = time.monotonic()
    executor.shutdown(wait=True)
    assert time.monotonic() - began < 3


def test_closing_lets_go_of_the_thread_at_once(opened: Opened, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        disk = ThreadDisk(opened.store, executor)
        await disk.commit([create()])
        disk.close()
        await disk.commit([Write(1, entries=[entry(1)])])
        disk.close()
        disk.close()

    asyncio.run(run())
    assert executor.submit(lambda: True).result(timeout=5)
    assert opened.store.load(1).last_index == 1
