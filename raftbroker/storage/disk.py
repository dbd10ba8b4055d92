"""The committer's disk: one batch at a time, written and synced off the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from consensus.store import Store, Write


class ThreadDisk:
    """A `consensus.store.Disk` over a store and an executor of one thread, both handed in.

    RocksDB's write holds the GIL while it copies, its fsync does not: the loop goes on while the disk works, and
    the next batch collects."""

    def __init__(self, store: Store, executor: Executor) -> None:
        self._store = store
        self._executor = executor

    async def commit(self, writes: Sequence[Write]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._commit, writes)

    def _commit(self, writes: Sequence[Write]) -> None:
        self._store.write(writes)
        self._store.sync()
