"""Compaction in the background: each group's leader goes over the partitions of its compacted topics, one at a time on
a node, and proposes what is to stay (`compaction_pass`).

A pass waits for others wherever it can: it works in small slices and rests for as long as it has worked, takes no more
than so many bytes a second, and proposes nothing while producers are held back. It ends with leadership, and with the
first command that is refused or whose outcome is not known: what has been done stands, the next pass begins anew.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from consensus.errors import ConsensusError, Damaged, NotLeader, Unknown
from consensus.model import Payload
from raftbroker.broker.compaction_pass import Aside, Changed, Pass, Rules, cleanable, dirty_ratio, overdue
from raftbroker.broker.context import COMPACTION_FEATURE, Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.group_writer import GroupWriter
from raftbroker.broker.produce import Producer
from raftbroker.state.configs import TopicConfig
from raftbroker.state.partition_commands import Compact, encode_partition

log = logging.getLogger(__name__)

PROPOSE_SECONDS = 30.0
HELD_BACK_SECONDS = 0.05
SLICE_SECONDS = 0.005
"""How long a pass works before it gives the loop to others, for as long as it has worked."""
SEGMENT_BYTES_MIN = 2 << 20
SEGMENT_SHARE = 512
"""A segment of compacted batches has at most 2 MiB or 1/512 of its partition, whichever is more, and fits in an
entry."""
TURN_PARTITIONS = 200
"""Partitions looked at before others get the loop."""


T = TypeVar("T")


async def _here(work: Callable[[], T]) -> T:
    return work()


class Compactor:
    def __init__(self, context: Context, producer: Producer) -> None:
        self._context = context
        self._producer = producer
        self.aside: Aside = _here
        """Where large batches are worked on: a thread, where the node has given one."""

    async def run(self) -> None:
        """Goes over all that this node leads, now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._context.options.compaction_check)
            await self.round()

    async def round(self) -> None:
        if self._context.control.feature < COMPACTION_FEATURE:
            return
        for number, group in list(self._context.host.groups.items()):
            if self._context.machine(number) is None or not group.leading:
                continue
            try:
                await self._group(self._producer.writer(number))
            except Damaged as error:
                group.damage(error)
            except (ConsensusError, BrokerError) as error:
                log.info("compaction in group %d waits for its next round: %s", number, error)

    async def _group(self, writer: GroupWriter) -> None:
        for position, partition in enumerate(writer.machine.partitions()):
            location = self._context.control.partition(partition)
            if location is not None:
                config = self._context.config(location.topic)
                if config.compacted:
                    await self._partition(writer, partition, config)
            if position % TURN_PARTITIONS == TURN_PARTITIONS - 1:
                await asyncio.sleep(0)

    async def _partition(self, writer: GroupWriter, partition: int, config: TopicConfig) -> None:
        rules = self._rules(writer, partition, config)
        places = cleanable(writer.machine, partition, rules)
        ratio = dirty_ratio(places, rules)
        enough = ratio >= config.min_cleanable_dirty_ratio or overdue(places, rules, config.max_compaction_lag_ms)
        if not ratio or not enough:
            return
        hands = _Hands(self._context, writer)
        one = Pass(writer.machine, partition, self._context.records, rules, hands.propose, hands.breathe, self.aside)
        counters, tally = self._context.counters, one.tally
        try:
            await one.run()
        except Changed:
            log.info("a pass of compaction over partition id %d ends early: its segments have changed", partition)
        finally:
            counters.compaction_passes += 1
            counters.compaction_read_bytes += tally.read
            counters.compaction_written_bytes += tally.written
            counters.compaction_removed_records += tally.removed

    def _rules(self, writer: GroupWriter, partition: int, config: TopicConfig) -> Rules:
        machine, options = writer.machine, self._context.options
        share = machine.partition(partition).bytes // SEGMENT_SHARE
        return Rules(
            writer.time_ms(),
            machine.age_floor_ms,
            config.min_compaction_lag_ms,
            config.delete_retention_ms,
            machine.term == writer.group.term,
            options.compaction_map_bytes,
            min(max(share, SEGMENT_BYTES_MIN), options.entry_bytes_max),
            not config.deletes,
        )


class _Hands:
    """What a pass does to its group and its node, in one term of leadership."""

    def __init__(self, context: Context, writer: GroupWriter) -> None:
        self._context = context
        self._writer = writer
        self._term = writer.group.term
        self._since = context.clock()
        self._bytes = 0

    def _check(self) -> None:
        group = self._writer.group
        if not group.leading or group.term != self._term or self._context.host.groups.get(group.id) is not group:
            raise NotLeader(group.id, None, "leadership was lost during a pass of compaction")

    async def breathe(self, size: int) -> None:
        self._bytes += size
        worked = self._context.clock() - self._since
        pause = self._bytes / self._context.options.compaction_bytes_per_second
        if max(worked, pause) < SLICE_SECONDS:
            return
        await asyncio.sleep(max(worked, pause))
        self._bytes, self._since = 0, self._context.clock()
        self._check()

    async def propose(self, build: Callable[[int, int], tuple[Compact, list[Payload]]]) -> None:
        self._check()
        while self._writer.holding_back:
            await asyncio.sleep(HELD_BACK_SECONDS)
            self._check()
        group = self._writer.group
        command, payloads = build(group.last_index + 1, self._writer.time_ms())
        index = await group.propose(encode_partition(command), payloads, timeout=PROPOSE_SECONDS)
        if command.generation not in (0, index):
            raise Unknown(f"generation {command.generation} was proposed as entry {index}")
