"""Producers and readers that speak to partitions' leaders, as Kafka's clients do, on whole nodes under faults.

A producer is idempotent and has up to five batches of a partition under way at once, all sent to the node that it takes
for the leader. What failed it sends again, in order, once everything under way has ended. A reader follows a partition
through whoever leads it and asks, as Java's consumer does, whether its position still stands.

In the end each producer's records stand in each partition once, in order, without a gap, and where it was told.
Meanwhile nobody hears that a sequence is out of order, for that ends librdkafka's producers; no position that was
reached is called out of range or cut off; what is latest shows all that was acknowledged.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from consensus.errors import ConsensusError
from raftbroker.broker.broker import Broker
from raftbroker.broker.errors import BrokerError, LedElsewhere, Retriable, UnknownOutcome, UnknownTopic
from raftbroker.broker.leader_fetch import Reading, Wanted
from raftbroker.broker.leader_side import Asked
from raftbroker.broker.offsets import LATEST, PlacedOffset
from raftbroker.broker.views import Produced
from raftbroker.state.batch import RecordDraft, decode_batch, encode_batch, parse_header

from .brokers import EPOCH_MS, TOPIC, BrokerCluster
from .checks import Violation
from .lives import SimNode

UNDER_WAY_MAX = 5
TIMEOUT = 2.0


@dataclass
class Pending:
    number: int
    count: int
    batch: bytes


@dataclass
class Lane:
    """One producer's way into one partition."""

    name: str
    partition: int
    producer_id: int = -1
    made: int = 0
    """Records so far: the next sequence."""
    pending: deque[Pending] = field(default_factory=deque)
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Sequence of a batch's first record -> its offset, as told."""
    leader: int = -1

    def fill(self, random: Random) -> None:
        while len(self.pending) < UNDER_WAY_MAX and (not self.pending or random.random() < 0.7):
            count = random.randint(1, 3)
            records = [RecordDraft(value=b"%s/%d" % (self.name.encode(), self.made + n)) for n in range(count)]
            batch = encode_batch(
                records,
                base_timestamp=EPOCH_MS,
                producer_id=self.producer_id,
                producer_epoch=0,
                base_sequence=self.made,
            )
            self.pending.append(Pending(self.made, count, batch))
            self.made += count


class PipelineCluster(BrokerCluster):
    """See the module."""

    lanes: list[Lane]

    def pick(self, leader: int, random: Random) -> SimNode | None:
        """The node that is said to lead, if it runs, else any."""
        up = self.up()
        said = [node for node in up if node.id == leader]
        return random.choice(said or up) if up else None

    # --- producers ------------------------------------------------------------------------------------

    async def run_lane(self, lane: Lane, random: Random, until: float) -> None:
        while lane.producer_id < 0:
            node = self.pick(-1, random)
            try:
                if node is not None:
                    lane.producer_id = await self.ask(node, partial(self.broker(node).producer_ids.take, 2.0), 2.0)
            except (Retriable, UnknownOutcome, ConsensusError):
                pass
            await asyncio.sleep(0.05)
        while self.loop.time() < until:
            await asyncio.sleep(random.expovariate(20))
            node = self.pick(lane.leader, random)
            if node is not None:
                lane.fill(random)
                await self.send(lane, node, random)

    async def send(self, lane: Lane, node: SimNode, random: Random) -> None:
        """Everything pending, one behind the other; what comes of it."""
        batches = [one.batch for one in lane.pending]
        outcomes: list[Produced | Exception]
        try:
            pauses = [random.choice((0.0, 0.0, 0.002, 0.03)) for _ in batches]
            call = partial(appended, self.broker(node), lane.partition, batches, pauses)
            outcomes = await self.ask(node, call, TIMEOUT)
        except UnknownOutcome as error:
            outcomes = [error] * len(batches)
        failed: Exception | None = None
        left: deque[Pending] = deque()
        for one, outcome in zip(lane.pending, outcomes, strict=True):
            if isinstance(outcome, Produced):
                lane.acknowledged[one.number] = outcome.base_offset
                truth = self.truth(lane.partition)
                truth.acknowledged_end = max(truth.acknowledged_end, outcome.base_offset + one.count)
                for n in range(one.count):
                    value = b"%s/%d" % (lane.name.encode(), one.number + n)
                    self.saw(node, lane.partition, outcome.base_offset + n, value)
                self.checks.count("batches acknowledged")
                continue
            if isinstance(outcome, BrokerError) and not isinstance(outcome, Retriable | UnknownOutcome | UnknownTopic):
                raise Violation(f"{lane.name} is told of {one.number}: {outcome!r}") from outcome
            failed = failed or outcome
            left.append(one)
            if isinstance(outcome, LedElsewhere):
                lane.leader = outcome.leader
        if failed is not None:
            self.checks.count("rounds repeated")
            if not isinstance(failed, LedElsewhere):
                lane.leader = -1
        lane.pending = left

    # --- readers --------------------------------------------------------------------------------------

    async def run_reader(self, partition: int, random: Random, until: float) -> None:
        offset, last_epoch, leader = 0, -1, -1
        while self.loop.time() < until:
            await asyncio.sleep(random.expovariate(10))
            node = self.pick(leader if random.random() < 0.7 else -1, random)  # some go by what they heard long ago
            if node is None:
                continue
            broker, wanted = self.broker(node), self.truth(partition).acknowledged_end
            try:
                if random.random() < 0.3:
                    self.check_latest(
                        node, partition, wanted, await self.ask(node, partial(latest, broker, partition), 5.0)
                    )
                if last_epoch >= 0 and random.random() < 0.3:
                    self.check_end(
                        node, offset, await self.ask(node, partial(end_of, broker, partition, last_epoch), 5.0)
                    )
                reading: Reading = await self.ask(node, partial(fetched, broker, partition, offset), 5.0)
            except UnknownOutcome:
                continue
            error = reading.error
            leader = error.leader if isinstance(error, LedElsewhere) else node.id
            if error is not None and not isinstance(error, Retriable | UnknownTopic):
                raise Violation(f"a reader at {offset} of partition {partition} is told by node {node.id}: {error!r}")
            for batch in reading.batches:
                header = parse_header(batch)
                last_epoch = header.leader_epoch
                for record in decode_batch(batch):
                    if record.offset >= offset:
                        if record.offset != offset:
                            raise Violation(f"no gaps: node {node.id} goes from {offset} to {record.offset}")
                        assert record.value is not None
                        self.saw(node, partition, offset, record.value)
                        offset += 1
            self.checks.count("fetches of a leader")

    def check_latest(self, node: SimNode, partition: int, wanted: int, found: PlacedOffset | Exception) -> None:
        if isinstance(found, PlacedOffset):
            self.checks.read(node.id, partition, wanted, found.offset)

    def check_end(self, node: SimNode, offset: int, found: tuple[int, int] | Exception) -> None:
        if not isinstance(found, Exception) and found[1] < offset:
            raise Violation(f"node {node.id} says that the log ended at {found}, but {offset} was reached")

    # --- the end --------------------------------------------------------------------------------------

    async def verify(self) -> None:
        await super().verify()
        for partition in range(self.partitions):
            seen = self.truth(partition).seen
            values = [seen[offset] for offset in sorted(seen)]
            for lane in self.lanes:
                if lane.partition == partition:
                    self.account_for(lane, values)

    def account_for(self, lane: Lane, values: list[bytes]) -> None:
        mine = [int(value.split(b"/")[1]) for value in values if value.startswith(lane.name.encode() + b"/")]
        if mine != list(range(len(mine))):
            raise Violation(f"records of {lane.name} stand once, in order: {mine}")
        for number, offset in lane.acknowledged.items():
            if values[offset] != b"%s/%d" % (lane.name.encode(), number):
                raise Violation(f"{lane.name} was told that {number} is at {offset}, where {values[offset]!r} is")


async def appended(
    broker: Broker, partition: int, batches: list[bytes], pauses: list[float]
) -> list[Produced | Exception]:
    """As a connection does it: they are given their places as they come in, then their outcomes are awaited."""
    begun: list[asyncio.Future[Produced] | Exception] = []
    for batch, pause in zip(batches, pauses, strict=True):
        if pause:
            await asyncio.sleep(pause)
        try:
            begun.append(broker.leader_side.append(TOPIC, partition, memoryview(batch), timeout=TIMEOUT))
        except (BrokerError, ConsensusError) as error:
            begun.append(error)
    outcomes: list[Produced | Exception] = []
    for one in begun:
        try:
            outcomes.append(one if isinstance(one, Exception) else await one)
        except (BrokerError, ConsensusError) as error:
            outcomes.append(error)
    return outcomes


async def fetched(broker: Broker, partition: int, offset: int) -> Reading:
    wanted = [Wanted(TOPIC, partition, offset, 1 << 20)]
    answer = await broker.leader_side.fetch(wanted, bytes_max=1 << 20, bytes_min=1, wait=0.3, committed=False)
    return answer.readings[0]


async def latest(broker: Broker, partition: int) -> PlacedOffset | Exception:
    return (await broker.leader_side.offsets([Asked(TOPIC, partition, -1, LATEST)], stable=False, timeout=2.0))[0]


async def end_of(broker: Broker, partition: int, epoch: int) -> tuple[int, int] | Exception:
    return (await broker.leader_side.epoch_ends([Asked(TOPIC, partition, -1, epoch)], timeout=2.0))[0]


async def pipelines_script(cluster: PipelineCluster, run_faults: Callable[[float], Awaitable[None]]) -> None:
    """Producers and readers under faults, then calm and the final judgement."""
    random = Random(f"{cluster.seed}/script")
    cluster.lanes = [Lane(f"producer-{n}", random.randrange(cluster.partitions)) for n in range(random.randint(1, 4))]
    for node in cluster.nodes.values():
        cluster.start(node)
    await cluster.make_topic(random)
    until = cluster.loop.time() + random.uniform(4, 10)
    work = [cluster.run_lane(lane, Random(f"{cluster.seed}/{lane.name}"), until) for lane in cluster.lanes]
    work += [cluster.run_reader(n, Random(f"{cluster.seed}/reader-{n}"), until) for n in range(cluster.partitions)]
    tasks = [asyncio.create_task(one) for one in work]
    await run_faults(until - cluster.loop.time())
    await asyncio.gather(*tasks)
    await cluster.settle()
    await cluster.verify()
