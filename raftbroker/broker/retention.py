"""Deletes what is past its retention, and what is left of deleted topics. Each group's leader decides and proposes.
Topics whose cleanup.policy is compact alone have no retention.

Whole segments go, the oldest first: by age once a segment's newest record is older than retention.ms, by size while
what would be left is still at least retention.bytes. What stands in the state is all there is to know: a round that was
lost is made again.

By age, a segment goes when both its newest timestamp and its last append are longer ago than retention.ms, in group
time. Kafka looks at timestamps alone; here the producer's clock, or that of a node which stamped a record, deletes
nothing either. What group time is worth across terms is in the state (`state.partition`):
- a term's leader confirms its time once a majority of the voters' clocks, its own among them, have agreed for ten
  minutes, none of them jumping (`clocks`), and group time is within a minute of them; then again every hour of use;
- until then ages count from the beginning of the term at most. So a leader whose clock is wrong trims only what has
  been there for retention.ms under its eyes, and what a slow clock stamped does not look old to the next leader;
- a cluster that was off for days trims what is old by then as soon as the time is confirmed: some ten minutes later;
- what was appended in doubt is kept for retention.ms from the beginning of the next confirmed term: late, never
  early.
A group time that a wrong clock has put ahead goes at half speed until the right clocks have caught up, and is confirmed
then; until then trimming is late.

Where there is one voter its clock is all there is. A jump while it runs changes nothing; one over a restart is
believed after ten minutes, and then trims what seems old by it. Ten minutes is what there is to set the clock right
and start the node once more; if it was ahead, group time stays ahead, and trimming waits.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from consensus.errors import ConsensusError, Damaged, NotLeader
from raftbroker.broker.clocks import AGREE_MS, Clocks
from raftbroker.broker.context import CONTROL, Context
from raftbroker.broker.controller import Controller
from raftbroker.broker.errors import BrokerError, InvalidRequest, OffsetOutOfRange
from raftbroker.broker.group_writer import GroupWriter
from raftbroker.broker.produce import Producer
from raftbroker.broker.record_scan import first_kept
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.topics import Topics
from raftbroker.broker.wire import DELETE_RECORDS, DROPPED, DeleteRecordsRequest, DroppedRequest
from raftbroker.state.configs import TopicConfig
from raftbroker.state.partition import PartitionMachine
from raftbroker.state.partition_commands import DropPartitions, PartitionState, Segment, Trim, TrimItem

log = logging.getLogger(__name__)

TRIM_ITEMS_MAX = 256
DROP_ITEMS_MAX = 256
TURN_PARTITIONS = 200
"""Partitions looked at before others get the loop."""
PROPOSE_SECONDS = 10.0
CONFIRM_EVERY_MS = 3_600_000
"""A monotonic clock stands still while the machine sleeps: what is appended after that is in doubt again."""


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
            if self._context.machine(number) is None or not group.leading:
                continue
            try:
                await self._group(self._producer.writer(number))
            except (ConsensusError, BrokerError) as error:
                log.info("retention of group %d waits for its next round: %s", number, error)

    async def _group(self, writer: GroupWriter) -> None:
        await self._drop(writer)
        await self._keep_time(writer)
        items: list[TrimItem] = []
        for position, partition in enumerate(writer.machine.partitions()):
            location = self._context.control.partition(partition)
            if location is not None:
                item = self._trim_item(writer, partition, self._context.config(location.topic))
                if item is not None:
                    items.append(item)
            if position % TURN_PARTITIONS == TURN_PARTITIONS - 1:
                await asyncio.sleep(0)
        for start in range(0, len(items), TRIM_ITEMS_MAX):
            chunk = tuple(items[start : start + TRIM_ITEMS_MAX])
            await writer.propose(Trim(writer.time_ms(), chunk), PROPOSE_SECONDS)
            self._context.counters.trimmed_partitions += len(chunk)

    async def _keep_time(self, writer: GroupWriter) -> None:
        """Has the state say when this term began and, once that is known, that its time is right."""
        machine, group = writer.machine, writer.group
        begun = machine.term == group.term
        confirmed = begun and machine.confirmed_ms >= 0 and machine.time_ms - machine.confirmed_ms < CONFIRM_EVERY_MS
        if confirmed or not machine.partitions():
            return
        agreed = await self._clocks.agree(frozenset(member.node for member in group.configuration.voters))
        now = writer.time_ms()
        if agreed and abs(now - self._context.wall()) <= AGREE_MS:
            await writer.propose(Trim(now, ()), PROPOSE_SECONDS)
        elif not begun:
            some = machine.partition(machine.partitions()[0])
            await writer.propose(Trim(now, (TrimItem(some.id, some.start, some.first_base),)), PROPOSE_SECONDS)

    def _trim_item(self, writer: GroupWriter, partition: int, config: TopicConfig) -> TrimItem | None:
        state = writer.machine.partition(partition)
        machine, group, now = writer.machine, writer.group, writer.time_ms()
        by_age = group.leading and machine.term == group.term  # else `now` and the floor are of different terms
        ages = Ages(now, machine.age_floor_ms, config.retention_ms if by_age and config.deletes else -1)
        bytes_max = config.retention_bytes if config.deletes else -1
        start = past_retention(state, machine.segments(partition), ages, bytes_max, machine.last_stable(partition))
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
            first = self._first_base(writer.machine, request.partition, before, state)
        except Damaged as error:
            writer.group.damage(error)
            raise NotLeader(request.group, None, "its replica here is damaged") from error
        trim = Trim(writer.time_ms(), (TrimItem(request.partition, before, first),))
        await writer.propose(trim, request.timeout)
        return writer.machine.partition(request.partition).start

    def _first_base(self, machine: PartitionMachine, partition: int, before: int, state: PartitionState) -> int:
        """The base offset of the batch that holds the new start: batches below it can go."""
        if before == state.end:
            return state.end
        return first_kept(self._context.records, machine, partition, before)


class Ages(msgspec.Struct, frozen=True):
    """How a segment's age is judged; all in group time."""

    now_ms: int
    floor_ms: int
    """No age counts from before this."""
    retention_ms: int
    """-1 is no limit."""

    def too_old(self, segment: Segment) -> bool:
        since = max(segment.max_timestamp, segment.appended_ms, self.floor_ms)
        return self.retention_ms >= 0 and self.now_ms - since > self.retention_ms


def past_retention(
    state: PartitionState, segments: Sequence[Segment], ages: Ages, retention_bytes: int, stable: int
) -> int:
    """The log start offset that retention asks for: a segment's first offset, or the end. -1 is no limit.

    The newest segment goes by age only; none goes before the transactions in it are decided, which is so below the
    offset `stable`."""
    start = state.first_base
    left = state.bytes
    for position, segment in enumerate(segments):
        newest = position + 1 == len(segments)
        too_many = retention_bytes >= 0 and not newest and left - segment.bytes >= retention_bytes
        behind = state.end if newest else segments[position + 1].base_offset
        if behind > stable or (not ages.too_old(segment) and not too_many):
            break
        start = behind
        left -= segment.bytes
    return max(state.start, start)
