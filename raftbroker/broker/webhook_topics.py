"""The delivery of one partition of a topic to a webhook, on the node that leads the partition.

Promises: every committed record from where the webhook begins is posted at least once, in order of the offsets (with a
`concurrency` above 1, in order of each key); the position is committed through Raft only behind records that the
receiver has taken, or that stand in the dead-letter queue. What retention deletes first is skipped, and said.

That there is one delivery at a time follows from leadership: before records are posted, and again before a position is
committed, a majority confirms that this node still leads. A leader that has been replaced can only finish the request
that it is in the middle of; the receiver may see those records twice.

While a batch fails it is the same batch each time: the offset it ends with is kept, and what its lanes have done. The
records themselves are not: they are read again, so that a receiver that is down costs no memory.
"""

import asyncio
from collections.abc import Sequence

from consensus.errors import ConsensusError
from raftbroker.broker.consumer_groups import OffsetToCommit, refused
from raftbroker.broker.errors import BrokerError, Internal, OffsetOutOfRange, RecordTooLarge
from raftbroker.broker.queue_views import MessageDraft
from raftbroker.broker.webhook_bodies import cut, lanes_of, record_bytes, records_body
from raftbroker.broker.webhook_delivery import Undelivered
from raftbroker.broker.webhook_runs import (
    ATTEMPT_HEADER,
    DELIVERY_HEADER,
    WEBHOOK_HEADER,
    Means,
    Progress,
    Turns,
)
from raftbroker.state import isolation
from raftbroker.state.batch import Record, decode_batch, parse_header
from raftbroker.state.control_commands import PartitionPlace, TopicState
from raftbroker.state.errors import BadBatch
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.webhooks import Webhook

FETCH_BYTES = 1 << 20
READ_BYTES_MAX = 8 << 20
"""Of records decompressed, beyond one batch."""
WAIT_SECONDS = 20.0
STEP_SECONDS = 10.0
TURN_SECONDS = 2.0
"""How long a delivery that goes well keeps its turn, whatever it has at hand."""
COMMIT_SECONDS = 0.2
"""How often a position is committed while there is more to deliver: so much is perhaps delivered twice."""
RETAIN_MS = 100 * 366 * 86_400_000
"""A webhook's offsets go with it, not with time: it may be paused, or have nothing to do, for long."""


class TopicRun:
    def __init__(
        self, means: Means, turns: Turns, webhook: Webhook, topic: TopicState, number: int, place: PartitionPlace
    ) -> None:
        self._means = means
        self._turns = turns
        self._webhook = webhook
        self._topic = topic
        self._number = number
        self._place = place
        self.progress = Progress(means.context, webhook, number)
        self._position = 0
        self._committed = -1
        """The position that was committed last; -1 where that is not known."""
        self._last: int | None = None
        """The end of the batch that is being tried again."""
        self._done: dict[int, int] = {}
        """lane -> the offset up to which its records, behind the position, have been taken"""
        self._attempts: dict[int, int] = {}

    async def run(self) -> None:
        """For as long as this node leads the partition; whoever started it cancels it."""
        begun = False
        while True:
            try:
                if not begun:
                    self._move(await self._begin())
                    self._committed = -1
                    await self._commit()
                    begun = True
                if not await self._step():
                    self.progress.status.failures = 0  # it is not failing where nothing is to be delivered
                    await self._wait_for_more()
            except OffsetOutOfRange as error:
                await self._out_of_range(error)
            except ConsensusError as error:  # perhaps others have delivered meanwhile
                begun = False
                self.progress.failed(error)
                await self.progress.pause()
            except BrokerError as error:
                self.progress.failed(error)
                await self.progress.pause()

    # --- the position -------------------------------------------------------------------------------------

    async def _begin(self) -> int:
        """Behind what has been delivered, or where the webhook begins."""
        name = PartitionName(self._topic.name, self._number)
        answer = await self._means.groups.offsets(self._webhook.group, (name,), timeout=STEP_SECONDS)
        if answer.error is not None:
            raise refused(answer.error, self._webhook.group)
        found = answer.offsets[0]
        if found.error is not None:
            raise refused(found.error, self._webhook.group)
        if found.offset >= 0 and found.metadata in ("", self._webhook.id):  # not of an earlier webhook of this name
            return found.offset
        starts = self._webhook.starts
        if self._topic.topic_id == self._webhook.topic_id and self._number < len(starts):
            return starts[self._number]
        return (await self._means.offsets.offsets(self._topic.name, self._number, STEP_SECONDS)).start

    def _move(self, offset: int) -> None:
        """All before the offset has been taken, or given up."""
        self._position = offset
        self._last = None
        self._done.clear()
        self._attempts.clear()

    async def _commit(self) -> None:
        """Returns once the position is committed: until then nothing more is delivered."""
        item = OffsetToCommit(self._topic.name, self._number, self._position, metadata=self._webhook.id)
        while self._committed != self._position:
            await self._confirm_leading()
            try:
                done = await self._means.groups.commit(
                    self._webhook.group, [item], retain_ms=RETAIN_MS, timeout=STEP_SECONDS
                )
            except BrokerError as error:
                self.progress.failed(error)
                await self.progress.pause()
                continue
            error_found = done.error or next((one for one in done.errors if one is not None), None)
            if error_found is None:
                self._committed = self._position
                return
            self.progress.failed(refused(error_found, self._webhook.group))
            await self.progress.pause()

    async def _confirm_leading(self) -> None:
        """Raises NotLeader, or Unknown where no majority answers."""
        await self._means.context.leading(self._place.group).read_barrier(STEP_SECONDS)

    async def _out_of_range(self, error: OffsetOutOfRange) -> None:
        if error.start <= self._position:  # beyond the end: it was put there
            self.progress.failed(error)
            await self.progress.pause()
            return
        self.progress.status.skipped += error.start - self._position
        self.progress.note(
            f"offsets {self._position} to {error.start - 1} were deleted by retention before they were delivered"
        )
        self._move(error.start)

    # --- records ------------------------------------------------------------------------------------------

    async def _wait_for_more(self) -> None:
        await self._means.fetcher.fetch(
            self._topic.name,
            self._number,
            self._position,
            bytes_max=1,
            wait=WAIT_SECONDS,
            bytes_min=1,
            committed=True,
            timeout=STEP_SECONDS,
        )

    async def _read(self) -> tuple[list[Record], int]:
        """Records that count, from the position on, and the offset behind what was read."""
        fetched = await self._means.fetcher.fetch(
            self._topic.name,
            self._number,
            self._position,
            bytes_max=FETCH_BYTES,
            wait=0.0,
            bytes_min=1,
            committed=True,
            timeout=STEP_SECONDS,
        )
        records: list[Record] = []
        behind, size = self._position, 0
        for batch, counts in isolation.committed(fetched.batches, fetched.aborted):
            if counts:
                try:
                    decoded = decode_batch(batch)
                except BadBatch as error:
                    if records:
                        break
                    raise Internal(f"the records at offset {self._position} cannot be read: {error}") from error
                records += (record for record in decoded if record.offset >= self._position)
                size += sum(map(record_bytes, decoded))
                await asyncio.sleep(0)
            behind = max(behind, parse_header(batch).next_offset)
            if size > READ_BYTES_MAX:
                break
        return records, behind

    async def _step(self) -> bool:
        """Delivers what is there, and commits the position; False where nothing was."""
        async with self._turns.of(self._webhook.id):
            records, behind = await self._read()
            if behind == self._position:
                return False
            await self._confirm_leading()
            clean = await self._deliver_all(records, behind)
        if not clean:  # several lanes may have failed at once: that is one failure of the receiver
            await self.progress.pause(max(self._attempts.values(), default=1))
        return True

    async def _deliver_all(self, records: Sequence[Record], behind: int) -> bool:
        """Window by window, committed now and then, and at the end; False where one failed."""
        clock = asyncio.get_running_loop().time
        until, committed = clock() + TURN_SECONDS, clock()
        windows = list(cut(records, self._webhook.batch_size * self._webhook.concurrency, self._last))
        failed: int | None = None
        for window in windows:
            if not await self._deliver(window):
                failed = window[-1].offset
                break
            self._move(behind if window is windows[-1] else window[-1].offset + 1)
            if clock() >= until:
                break
            if clock() >= committed + COMMIT_SECONDS:
                await self._commit()
                committed = clock()
        if not windows:
            self._move(behind)
        await self._commit()
        self._last = failed
        return failed is None

    async def _deliver(self, window: Sequence[Record]) -> bool:
        """Whether all of it has been taken, or given up."""
        lanes = lanes_of(window, self._webhook.concurrency)
        lanes_done = (self._lane(lane, records) for lane, records in lanes.items())
        outcomes = await asyncio.gather(*lanes_done, return_exceptions=True)  # none is left under way
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return all(outcomes)

    async def _lane(self, lane: int, records: Sequence[Record]) -> bool:
        """In order, batch by batch, up to the first failure."""
        behind = self._done.get(lane, -1)
        for batch in cut([record for record in records if record.offset > behind], self._webhook.batch_size):
            self._means.context.leading(self._place.group)
            attempt = self._attempts.get(lane, 0) + 1
            try:
                await self._post(batch, attempt)
            except Undelivered as error:
                self.progress.failed(error)
                if not self._webhook.dead_letter_queue or attempt < self._webhook.attempts:
                    self._attempts[lane] = attempt
                    return False
                await self._bury(batch, error, attempt)
            self._done[lane] = batch[-1].offset
            self._attempts.pop(lane, None)
        return True

    async def _post(self, batch: Sequence[Record], attempt: int) -> None:
        webhook = self._webhook
        await self._means.sender.send(
            webhook.url,
            records_body(webhook, self._number, batch),
            secret=webhook.secret,
            timeout=webhook.timeout_ms / 1000,
            headers={
                WEBHOOK_HEADER: webhook.name,
                DELIVERY_HEADER: f"{webhook.id}-{self._place.id}-{batch[0].offset}-{batch[-1].offset}",
                ATTEMPT_HEADER: str(attempt),
            },
        )
        self.progress.taken(len(batch))

    # --- dead letters -------------------------------------------------------------------------------------

    async def _bury(self, batch: Sequence[Record], error: Undelivered, attempts: int) -> None:
        """Each record as a message of the dead-letter queue; its id makes one of several attempts."""
        for record in batch:
            headers = (
                ("webhook", self._webhook.name),
                ("topic", self._topic.name),
                ("partition", str(self._number)),
                ("offset", str(record.offset)),
                ("attempts", str(attempts)),
                ("error", str(error)),
            )
            draft = MessageDraft(
                body=records_body(self._webhook, self._number, (record,)),
                headers=headers,
                dedup_id=f"{self._webhook.id}/{self._place.id}/{record.offset}",
            )
            try:
                await self._means.queues.send(self._webhook.dead_letter_queue, [draft], timeout=STEP_SECONDS)
            except RecordTooLarge:  # its headers say where it is
                pointer = MessageDraft(body=b"null", headers=headers, dedup_id=draft.dedup_id)
                await self._means.queues.send(self._webhook.dead_letter_queue, [pointer], timeout=STEP_SECONDS)
        self.progress.status.dead += len(batch)
        self.progress.status.failures = 0
