"""The committer's disk: one batch at a time, written and synced off the event loop.

RocksDB's write holds the GIL while it copies, its fsync does not: the loop goes on while the disk works, and the next
batch collects. A small commit is short enough for the way to the writer thread and back to matter. Measured on a busy
2-core machine, one group, one entry of 200 bytes, where the disk's own fdatasync takes 70 us: 140 to 190 us done inline
on the loop, 270 to 310 us with `run_in_executor`, 205 to 250 us with one job that serves a queue, as here. Inline would
win 60 us and lose the loop, heartbeats and all, whenever an fsync takes its time.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Executor

from consensus.store import Store, Write

_IDLE_SECONDS = 0.5

_Job = tuple[Sequence[Write], "asyncio.Future[None]"]


class ThreadDisk:
    """A `consensus.store.Disk` over a store and an executor of one thread, which has nothing else to do.

    While commits come, one job holds the executor's thread. `close` ends it, and so does half a second without any
    commit: shutting the executor down never waits for longer."""

    def __init__(self, store: Store, executor: Executor) -> None:
        self._store = store
        self._executor = executor
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._serving = False

    async def commit(self, writes: Sequence[Write]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._jobs.put((writes, done))
            if not self._serving:
                self._executor.submit(self._serve)
                self._serving = True
        await done

    def close(self) -> None:
        """Lets go of the executor's thread once what is under way is done."""
        with self._lock:
            if self._serving:
                self._jobs.put(None)

    def _serve(self) -> None:
        while True:
            job: _Job | None = None
            with contextlib.suppress(queue.Empty):
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            if job is None:
                with self._lock:
                    if self._jobs.empty():
                        self._serving = False
                        return
                continue
            writes, done = job
            error: Exception | None = None
            try:
                self._store.write(writes)
                self._store.sync()
            except Exception as raised:  # noqa: BLE001 - the caller gets it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                done.get_loop().call_soon_threadsafe(_finish, done, error)


def _finish(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
