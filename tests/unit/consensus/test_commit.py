"""The committer over the real store, on an engine in memory: what a batch holds, in which order, when it is told."""

import asyncio
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

import pytest

from consensus.commit import FULL_RETRY_SECONDS, LAZY_SECONDS, Committer
from consensus.errors import StoreFull
from consensus.model import Configuration, Entry, EntryKind, HardState, LogBase, Member, Payload
from consensus.store import Write
from raftbroker.storage.store import LogStore
from tests.simulation.disk import Platter, SimEngine
from tests.simulation.loop import run_simulation

ME = Member(1, "a" * 32)
SYNC_SECONDS = 0.01


class Bench:
    """A committer, its store, and a disk that takes its time and can be told to fail."""

    def __init__(self) -> None:
        self.platter = Platter(Random(1))
        self.store = LogStore(SimEngine(self.platter))
        self.batches: list[list[int]] = []
        self.refused: list[list[int]] = []
        self.told: list[tuple[int, int]] = []
        self.failures: list[BaseException] = []
        self.fails: BaseException | None = None
        self.syncing = 0
        self.committer = Committer(self, lambda group, ticket: self.told.append((group, ticket)), self.failures.append)

    async def commit(self, writes: Sequence[Write]) -> None:
        assert self.syncing == 0, "one batch at a time"
        self.syncing += 1
        try:
            await asyncio.sleep(SYNC_SECONDS)
            if self.fails is not None:
                raise self.fails
            try:
                self.store.write(writes)
            except StoreFull:
                self.refused.append([write.group for write in writes])
                raise
            self.store.sync()
            self.batches.append([write.group for write in writes])
        finally:
            self.syncing -= 1

    async def made(self, *groups: int) -> None:
        for group in groups:
            self.committer.pending(group)[0].create = LogBase(0, 0, Configuration((ME,)))
        await asyncio.sleep(1.0)
        self.batches.clear()
        self.told.clear()

    def append(self, group: int, index: int, size: int = 1) -> int:
        write, ticket = self.committer.pending(group)
        payload = Payload.of(b"%d/%d" % (group, index), b"x" * size)
        write.entries.append(Entry.of(1, index, EntryKind.COMMAND, b"", (payload,)))
        return ticket


def run(test: Coroutine[Any, Any, None]) -> None:
    run_simulation(lambda loop: test)


def test_one_sync_serves_all_groups_and_the_next_batch_collects_meanwhile() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1, 2, 3)
        synced = bench.platter.synced
        first = [bench.append(group, 1) for group in (1, 2, 3)]
        await asyncio.sleep(SYNC_SECONDS / 2)
        second = [bench.append(3, 2), bench.append(1, 2), bench.append(1, 3)]
        assert bench.told == []
        await asyncio.sleep(SYNC_SECONDS)
        assert bench.told == [(group, first[0]) for group in (1, 2, 3)]
        await asyncio.sleep(SYNC_SECONDS)
        assert bench.batches == [[1, 2, 3], [3, 1]]
        assert bench.told[3:] == [(3, second[0]), (1, second[0])]
        assert len(set(first)) == len(set(second)) == 1
        assert second[0] == first[0] + 1
        assert (bench.platter.synced - synced, bench.committer.batches) == (2, 3)
        assert [entry.index for entry in bench.store.entries(1, 1, 9, 1 << 20)] == [1, 2, 3]

    run(scenario())


def test_lazy_rows_go_after_a_moment_or_with_what_must_go() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1, 2)
        bench.append(1, 1)
        await asyncio.sleep(1.0)
        bench.batches.clear()
        bench.committer.pending_lazily(1).applied = 1
        await asyncio.sleep(LAZY_SECONDS * 0.9)
        assert bench.batches == []
        await asyncio.sleep(LAZY_SECONDS * 0.1 + SYNC_SECONDS + 0.001)
        assert bench.batches == [[1]]
        bench.append(1, 2)
        await asyncio.sleep(1.0)
        bench.committer.pending_lazily(1).applied = 2
        bench.append(2, 1)
        await asyncio.sleep(SYNC_SECONDS + 0.001)
        assert bench.batches[-1] == [1, 2]
        assert bench.store.load(1).applied == 2

    run(scenario())


def test_lazy_rows_that_came_during_a_batch_are_not_forgotten() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1)
        bench.append(1, 1)
        await asyncio.sleep(SYNC_SECONDS / 2)
        bench.committer.pending_lazily(1).commit = 1
        await asyncio.sleep(LAZY_SECONDS + 3 * SYNC_SECONDS)
        assert bench.store.load(1).commit == 1

    run(scenario())


def test_a_full_disk_takes_what_frees_space_and_the_rest_when_there_is_room() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1, 2)
        bench.append(2, 1, size=5_000)
        await asyncio.sleep(1.0)
        bench.told.clear()
        bench.platter.capacity = bench.platter.current.size + 500
        ticket = bench.append(1, 1, size=3_000)
        bench.committer.pending(2)[0].delete_payloads.append((b"2/1", b"2/2"))
        await asyncio.sleep(4 * SYNC_SECONDS)
        assert bench.committer.full
        assert bench.refused[0] == [1, 2]
        assert bench.batches[-1] == [2], "the deletion goes by itself"
        assert bench.told == [], "its ticket is the batch's, and that is not whole yet"
        await asyncio.sleep(FULL_RETRY_SECONDS + 2 * SYNC_SECONDS)
        assert not bench.committer.full
        assert bench.told == [(1, ticket), (2, ticket)]
        assert bench.store.entries(1, 1, 1, 1 << 20)[0].sound

    run(scenario())


def test_a_full_disk_that_stays_full_loses_nothing_and_tells_nobody() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1)
        bench.platter.capacity = bench.platter.current.size
        bench.append(1, 1)
        await asyncio.sleep(10 * FULL_RETRY_SECONDS)
        assert (bench.told, bench.failures) == ([], [])
        bench.platter.capacity = 1 << 40
        await asyncio.sleep(2 * FULL_RETRY_SECONDS)
        assert len(bench.told) == 1

    run(scenario())


@pytest.mark.parametrize("error", [OSError(5, "the disk fails"), ValueError("a fault of ours")])
def test_any_other_error_is_told_once_and_nothing_more_is_written(error: Exception) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1)
        bench.fails = error
        bench.append(1, 1)
        await asyncio.sleep(1.0)
        bench.fails = None
        bench.append(1, 2)
        bench.committer.pending_lazily(1).commit = 1
        await asyncio.sleep(1.0)
        assert (bench.failures, bench.told, bench.batches) == ([error], [], [])

    run(scenario())


def test_a_removal_drops_what_was_pending_but_for_the_hard_state() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1, 2)
        bench.append(1, 1)
        await asyncio.sleep(1.0)
        bench.append(1, 2)
        bench.committer.pending(1)[0].hard_state = HardState(7, ME)
        bench.committer.remove(1, [(b"1/", b"10")])
        await asyncio.sleep(1.0)
        assert (bench.store.groups(), bench.store.marked(1)) == ([2], True)
        assert bench.platter.current["log"].keys == []
        assert bench.store.load(1).hard_state == HardState(7, ME), "it must not vote twice in a term (C9)"

    run(scenario())


def test_stop_writes_what_is_pending_and_abandon_does_not() -> None:
    async def scenario(stops: bool) -> None:
        bench = Bench()
        await bench.made(1)
        bench.append(1, 1)
        await asyncio.sleep(SYNC_SECONDS / 2)
        bench.append(1, 2)
        bench.committer.pending_lazily(1).commit = 1
        if stops:
            await bench.committer.stop()
        else:
            bench.committer.abandon()
        await asyncio.sleep(1.0)
        assert bench.store.load(1).last_index == (2 if stops else 0)
        assert len(bench.told) == (2 if stops else 0)

    run(scenario(True))
    run(scenario(False))


def test_stop_does_not_wait_for_a_full_disk() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.made(1)
        bench.platter.capacity = 0
        bench.append(1, 1)
        await asyncio.sleep(1.0)
        before = asyncio.get_running_loop().time()
        await bench.committer.stop()
        assert asyncio.get_running_loop().time() - before < 1.0
        assert bench.told == []

    run(scenario())
