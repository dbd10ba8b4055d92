"""Group commit: one batch and one fsync for every group on the node (DESIGN, Consensus).

What groups want written collects in one pending batch. When the disk is free the batch goes, whole, and the next one
collects. Batches are numbered; the number is the ticket that is told to every group in the batch once it is durable.

State rows of applied entries are lazy: they ride with the next batch that must be written, or go by themselves after
a moment, because replaying the log gives them again.
"""

import asyncio
import logging
from collections.abc import Callable

from consensus.errors import StoreFull
from consensus.store import Disk, KeyRange, Write

LOG = logging.getLogger(__name__)

LAZY_SECONDS = 0.2
"""How long lazy rows wait for a batch to ride with."""
FULL_RETRY_SECONDS = 0.25
"""How long a batch that found the disk full waits before it is tried again."""


class Committer:
    """Collects writes, commits them in order, tells who waited. One per node."""

    def __init__(self, disk: Disk, durable: Callable[[int, int], None], failed: Callable[[BaseException], None]):
        self._disk = disk
        self._durable = durable
        self._failed = failed
        self._pending: dict[int, Write] = {}
        self._committing: dict[int, Write] = {}
        self._collecting = 1
        self._due = False
        self._task: asyncio.Task[None] | None = None
        self._lazy: asyncio.TimerHandle | None = None
        self._stopped = False
        self.batches = 0
        """Batches made durable since the start: how many fsyncs served how many writes."""
        self.full = False
        """The last batch found the disk full and waits for room."""

    def pending(self, group: int) -> tuple[Write, int]:
        """The group's part of the batch now collecting, which will be written soon, and its ticket."""
        self._demand()
        return self._part(group), self._collecting

    def pending_lazily(self, group: int) -> Write:
        """The same part, for what need not be written soon."""
        if not self._due and self._lazy is None and self._task is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_SECONDS, self._lazily)
        return self._part(group)

    def remove(self, group: int, payloads: list[KeyRange]) -> None:
        """Drops the group whole; of what is pending for it only the hard state is kept."""
        self._demand()
        pending = self._pending.pop(group, None)
        hard_state = pending.hard_state if pending is not None else None
        self._pending[group] = Write(group, hard_state=hard_state, delete_payloads=payloads, remove=True)

    def removing(self, group: int) -> bool:
        """Whether a removal of the group is not on disk yet."""
        parts = (self._pending.get(group), self._committing.get(group))
        return any(part is not None and part.remove for part in parts)

    def _part(self, group: int) -> Write:
        write = self._pending.get(group)
        if write is None:
            write = self._pending[group] = Write(group)
        return write

    def _lazily(self) -> None:
        self._lazy = None
        self._demand()

    def _demand(self) -> None:
        if self._due:
            return
        self._due = True
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        if self._task is None and not self._stopped:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="committer")

    async def _run(self) -> None:
        try:
            while self._due:
                batch, ticket = self._pending, self._collecting
                self._committing = batch
                self._pending, self._collecting, self._due = {}, ticket + 1, False
                await self._commit(list(batch.values()))
                self._committing = {}
                self.batches += 1
                for group in batch:
                    self._durable(group, ticket)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, durability can no longer be promised
            self._stopped = True
            self._failed(error)
        finally:
            self._task = None
        if self._pending and self._lazy is None and not self._stopped:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_SECONDS, self._lazily)

    async def _commit(self, writes: list[Write]) -> None:
        """Returns once all is durable. While the disk is full, what frees space goes first and the rest waits."""
        while True:
            try:
                await self._disk.commit(writes)
            except StoreFull as error:
                if not self.full:
                    LOG.error("the disk is full, writes wait until there is room: %s", error)
                self.full = True
                writes = await self._commit_freeing(writes)
                await asyncio.sleep(FULL_RETRY_SECONDS)
            else:
                if self.full:
                    LOG.warning("the disk has room again, writes go on")
                self.full = False
                return

    async def _commit_freeing(self, writes: list[Write]) -> list[Write]:
        """Commits those groups' writes that bring no new bytes; returns the rest."""
        freeing = [write for write in writes if write.frees_space]
        if not freeing or len(freeing) == len(writes):
            return writes
        try:
            await self._disk.commit(freeing)
        except StoreFull:
            return writes
        return [write for write in writes if not write.frees_space]

    async def stop(self) -> None:
        """Writes what is pending, if the disk takes it, and ends."""
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        if self._pending and not self._stopped:
            self._demand()
        if self._task is not None and not self.full:
            await asyncio.wait([self._task], timeout=5.0)
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def abandon(self) -> None:
        """Ends at once, writing nothing more, as a crash would."""
        self._stopped = True
        if self._lazy is not None:
            self._lazy.cancel()
        if self._task is not None:
            self._task.cancel()
