"""Deletes what is past its retention, and what is left of deleted topics. Each group's leader decides and proposes.

Whole segments go, the oldest first: by age once a segment's newest record is older than retention.ms, by size while
what would be left is still at least retention.bytes. What stands in the state is all there is to know: a round that was
lost is made again.

Trimming by age compares records' timestamps with the earlier of group time and the wall clock, and waits while this
node's clock disagrees with a majority's: no single clock deletes records.
"""

import asyncio
import logging
from collections.abc import Sequence

from consensus.errors import ConsensusError, Damaged, NotLeader
from raftbroker.broker.clocks import Clocks
from raftbroker.broker.context import CONTROL, Context
from raftbroker.broker.controller import Controller
from raftbroker.broker.errors import BrokerError, InvalidRequest, OffsetOutOfRange
from raftbroker.broker.produce import GroupWriter, Producer
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.topics import Topics
from raftbroker.broker.wire import DELETE_RECORDS, DROPPED, DeleteRecordsRequest, DroppedRequest
from raftbroker.state.configs import TopicConfig
from raftbroker.state.partition_commands import DropPartitions, PartitionState, Segment, Trim, TrimItem

log = logging.getLogger(__name__)

TRIM_ITEMS_MAX = 256
DROP_ITEMS_MAX = 256
TURN_PARTITIONS = 200
"""Partitions looked at before others get the loop."""
PROPOSE_SECONDS = 10.0


class Retention:
    def __init__(
        self,
        context: Context,
        router: Router,
        topics: Topics,
        producer: Producer,
        controller: Controller,
        clocks: Clocks,
    ) -> None:
        self._context = context
        self._router = router
        self._topics = topics
        self._producer = producer
        self._controller = controller
        self._clocks = clocks

    async def run(self) -> None:
        """Looks at every group that this node leads, now and then, until cancelled."""
        every = self._context.options.retention_check
        while True:
            await asyncio.sleep(every * (0.5 + self._context.random.random() / 2))
            await self.round()

    async def round(self) -> None:
        for number, group in list(self._context.host.groups.items()):
            if number == CONTROL or not group.leading:
                continue
            try:
                await self._group(self._producer.writer(number))
            except (ConsensusError, BrokerError) as error:
                log.info("retention of group %d waits for its next round: %s", number, error)

    async def _group(self, writer: GroupWriter) -> None:
        await self._drop(writer)
        voters = frozenset(member.node for member in writer.group.configuration.voters)
        by_age = await self._clocks.agree(voters)
        items: list[TrimItem] = []
        for position, partition in enumerate(writer.machine.partitions()):
            location = self._context.control.partition(partition)
            if location is not None:
                item = self._trim_item(writer, partition, self._context.config(location.topic), by_age)
                if item is not None:
                    items.append(item)
            if position % TURN_PARTITIONS == TURN_PARTITIONS - 1:
                await asyncio.sleep(0)
        for start in range(0, len(items), TRIM_ITEMS_MAX):
            chunk = tuple(items[start : start + TRIM_ITEMS_MAX])
            await writer.propose(Trim(writer.time_ms(), chunk), PROPOSE_SECONDS)
            self._context.counters.trimmed_partitions += len(chunk)

    def _trim_item(self, writer: GroupWriter, partition: int, config: TopicConfig, by_age: bool) -> TrimItem | None:
        state = writer.machine.partition(partition)
        now = min(writer.time_ms(), self._context.wall())
        retention_ms = config.retention_ms if by_age else -1
        start = past_retention(state, writer.machine.segments(partition), now, retention_ms, config.retention_bytes)
        return TrimItem(partition, start, start) if start > state.start else None

    # --- deleted topics -------------------------------------------------------------------------------------

    async def _drop(self, writer: GroupWriter) -> None:
        """Drops the records of deleted topics, then says so, so that the list of them gets shorter.

        A partition that the control state has known and knows no more is dropped too, should a late leader have let
        a batch in after the list was cleared."""
        control = self._context.control
        group = writer.group.id
        listed = control.dropped(group)
        gone = [
            p for p in writer.machine.partitions() if p < control.next_partition_id and control.partition(p) is None
        ]
        pending = sorted(set(gone).union(p for p in listed if not writer.machine.is_dropped(p)))
        for start in range(0, len(pending), DROP_ITEMS_MAX):
            chunk = tuple(pending[start : start + DROP_ITEMS_MAX])
            writer.decisions.dropping(chunk)
            await writer.propose(DropPartitions(writer.time_ms(), chunk), PROPOSE_SECONDS)
        for start in range(0, len(listed), DROP_ITEMS_MAX):
            await self._tell_dropped(group, listed[start : start + DROP_ITEMS_MAX])

    async def _tell_dropped(self, group: int, partitions: tuple[int, ...]) -> None:
        await self._router.at_leader(
            CONTROL,
            DROPPED,
            lambda left: DroppedRequest(group, partitions, left),
            self._controller.dropped,
            asyncio.get_running_loop().time() + PROPOSE_SECONDS,
            Mode.REPEATABLE,
        )

    # --- deleting records -------------------------------------------------------------------------------------

    async def delete_records(self, topic: str, number: int, before: int, timeout: float) -> int:
        if before < -1:
            raise InvalidRequest(f"an offset is 0 or more, or -1 for the high watermark, not {before}", field="offset")
        _, place = await self._topics.place(topic, number, timeout)
        return await self._router.at_leader(
            place.group,
            DELETE_RECORDS,
            lambda left: DeleteRecordsRequest(self._context.control_index, place.group, place.id, left, before),
            self.delete_records_here,
            asyncio.get_running_loop().time() + timeout,
            Mode.REPEATABLE,
        )

    async def delete_records_here(self, request: DeleteRecordsRequest) -> int:
        await self._context.as_far_as(request)
        writer = self._producer.writer(request.group)
        self._topics.check_partition(request.partition)
        await writer.group.read_barrier(request.timeout)
        state = writer.machine.partition(request.partition)
        before = state.end if request.before == -1 else request.before
        if before > state.end:
            raise OffsetOutOfRange(
                f"offset {before} is above the high watermark {state.end}", start=state.start, high_watermark=state.end
            )
        if before <= state.start:
            return state.start
        try:
            first = self._first_base(request.partition, before, state)
        except Damaged as error:
            writer.group.damage(error)
            raise NotLeader(request.group, None, "its replica here is damaged") from error
        trim = Trim(writer.time_ms(), (TrimItem(request.partition, before, first),))
        await writer.propose(trim, request.timeout)
        return writer.machine.partition(request.partition).start

    def _first_base(self, partition: int, before: int, state: PartitionState) -> int:
        """The base offset of the batch that holds the new start: batches below it can go."""
        if before == state.end:
            return state.end
        base = self._context.records.floor(partition, before)
        if base is None:
            raise Damaged(f"partition id {partition} has no batch at offset {before}, below its end {state.end}")
        return base


def past_retention(
    state: PartitionState, segments: Sequence[Segment], now_ms: int, retention_ms: int, retention_bytes: int
) -> int:
    """The log start offset that retention asks for: a segment's first offset, or the end. -1 is no limit.

    A segment without timestamps counts from when it was last appended to. The newest segment goes by age only."""
    start = state.first_base
    left = state.bytes
    for position, segment in enumerate(segments):
        newest = position + 1 == len(segments)
        timestamp = segment.max_timestamp if segment.max_timestamp >= 0 else segment.appended_ms
        too_old = retention_ms >= 0 and now_ms - timestamp > retention_ms
        too_many = retention_bytes >= 0 and not newest and left - segment.bytes >= retention_bytes
        if not too_old and not too_many:
            break
        start = state.end if newest else segments[position + 1].base_offset
        left -= segment.bytes
    return max(state.start, start)
