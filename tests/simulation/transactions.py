"""Transactions of whole nodes under faults: dealers, who deal records out to several partitions or none.

A dealer is a transactional producer. Each of its deals is one transaction: a few records in some partitions and the
number of the deal as a consumer group's offset, then commit or abort. Some dealers share a transactional id and fence
each other; some leave a deal lying until its time is up. Calls that end unknown are made again, as Kafka's clients do.

In the end every deal that was committed stands whole, once, in order, in every partition, as each node serves committed
records; no other is seen at all, nor was at any time; what ended unknown is all there or not at all. The group's
offset is that of the dealer's last deal that stands. And nothing hangs: below the end everything is decided.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from consensus.errors import ConsensusError
from raftbroker.broker.broker import Broker
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.broker.errors import BrokerError, Retriable, UnknownOutcome
from raftbroker.broker.transaction_ends import offsets_epoch
from raftbroker.state.batch import RecordDraft, check_batch, decode_batch, encode_batch, parse_header
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.isolation import committed
from raftbroker.state.transactions.ops import TxnError, TxnState

from .brokers import EPOCH_MS, TOPIC, BrokerCluster
from .checks import Violation
from .lives import SimNode

TIMEOUT_MS = 1_500
TRY_SECONDS = 4.0
"""How long a dealer tries a step before it gives the deal up."""
COMMITTED, ABORTED, UNKNOWN = "committed", "aborted", "unknown"


class GivenUp(Exception):
    """A step did not succeed in time, or its producer was refused."""


@dataclass
class Deal:
    dealer: str
    number: int
    places: list[tuple[int, int]]
    """(partition, how many records) in the order in which they were sent."""
    outcome: str = ABORTED
    """Until a commit was asked for."""

    def values(self, partition: int) -> list[bytes]:
        counts = (count for where, count in self.places if where == partition)
        return [b"%s/%d/%d" % (self.dealer.encode(), self.number, n) for n in range(sum(counts))]


@dataclass
class Dealer:
    name: str
    transactional_id: str
    id: int = -1
    epoch: int = -1
    sequences: dict[int, int] = field(default_factory=dict)
    deals: list[Deal] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"group of {self.name}"


class TransactionCluster(BrokerCluster):
    """See the module."""

    dealers: list[Dealer]
    keyed = False
    """Every record has a key of its own."""
    seen: dict[tuple[int, int], bytes]
    """What any node ever served as committed, by partition and offset."""

    async def anywhere(self, random: Random, call: Callable[[Broker], Awaitable[Any]], seconds: float) -> Any:
        """What some node answers. Raises GivenUp where none does in time or the request is refused for good."""
        deadline = self.loop.time() + seconds
        while self.loop.time() < deadline:
            up = self.up()
            random.shuffle(up)
            for node in up:
                if not node.up:
                    continue
                try:
                    return await self.ask(node, partial(call, self.broker(node)), 2.0)
                except (Retriable, UnknownOutcome, ConsensusError):
                    continue
                except BrokerError as error:
                    raise GivenUp(str(error)) from error
            await asyncio.sleep(0.05)
        raise GivenUp("nobody answers")

    async def agreed_with(self, random: Random, call: Callable[[Broker], Awaitable[Any]], seconds: float) -> Any:
        """As `anywhere`, until the transaction before is completed. Raises GivenUp where the answer is an error."""
        deadline = self.loop.time() + seconds
        while True:
            answer = await self.anywhere(random, call, max(0.0, deadline - self.loop.time()))
            error = answer if answer is None or isinstance(answer, TxnError) else answer.error
            if error is None:
                return answer
            if error is not TxnError.CONCURRENT_TRANSACTIONS or self.loop.time() >= deadline:
                raise GivenUp(str(error))

    # --- dealers --------------------------------------------------------------------------------------

    async def begin(self, dealer: Dealer, random: Random) -> None:
        made = await self.agreed_with(
            random,
            lambda b: b.transactions.init_producer(dealer.transactional_id, TIMEOUT_MS, timeout=2.0),
            TRY_SECONDS,
        )
        dealer.id, dealer.epoch = made.producer_id, made.epoch
        dealer.sequences = {}

    async def deal(self, dealer: Dealer, random: Random) -> None:
        """One transaction. Raises GivenUp where the dealer must begin anew."""
        places = [(random.randrange(self.partitions), random.randint(1, 3)) for _ in range(random.randint(1, 4))]
        deal = Deal(dealer.name, len(dealer.deals) + 1, places)
        dealer.deals.append(deal)
        sent: dict[int, int] = {}
        for partition, count in places:
            if partition not in sent:
                await self._add(dealer, partition, random)
            first = sent.get(partition, 0)
            values = deal.values(partition)[first : first + count]
            sent[partition] = first + count
            await self._send(dealer, partition, values, random)
        if random.random() < 0.5:
            await self._commit_offset(dealer, deal, random)
        if random.random() < 0.1:
            raise GivenUp("left lying")
        commit = random.random() < 0.7
        if commit:
            deal.outcome = UNKNOWN
        await self.agreed_with(
            random,
            lambda b: b.transactions.end(dealer.transactional_id, dealer.id, dealer.epoch, commit, timeout=2.0),
            TRY_SECONDS,
        )
        if commit:
            deal.outcome = COMMITTED
        self.checks.count(f"deals {deal.outcome}")

    async def _add(self, dealer: Dealer, partition: int, random: Random) -> None:
        async def add(broker: Broker) -> TxnError | None:
            topic = await broker.find_topic(TOPIC, timeout=2.0)
            ids = [topic.partitions[partition].id]
            return await broker.transactions.add_partitions(
                dealer.transactional_id, dealer.id, dealer.epoch, ids, timeout=2.0
            )

        await self.agreed_with(random, add, TRY_SECONDS)

    async def _send(self, dealer: Dealer, partition: int, values: list[bytes], random: Random) -> None:
        sequence = dealer.sequences.get(partition, 0)
        dealer.sequences[partition] = sequence + len(values)
        batch = encode_batch(
            [RecordDraft(value if self.keyed else b"key", value) for value in values],
            base_timestamp=EPOCH_MS,
            producer_id=dealer.id,
            producer_epoch=dealer.epoch,
            base_sequence=sequence,
            attributes=0x10,
        )
        header = check_batch(batch, transactional=True)

        async def send(broker: Broker) -> int:
            transactions, name = broker.transactions, dealer.transactional_id
            number = transactions.number_of(TOPIC, partition, header)
            if number is None:
                number = await transactions.verify(name, TOPIC, partition, header, timeout=2.0)
            append = broker.leader_side.append
            produced = await append(TOPIC, partition, memoryview(batch), timeout=2.0, transaction=number)
            return produced.base_offset

        await self.anywhere(random, send, TRY_SECONDS)

    async def _commit_offset(self, dealer: Dealer, deal: Deal, random: Random) -> None:
        name = dealer.transactional_id
        await self.agreed_with(
            random,
            lambda b: b.transactions.add_group(name, dealer.id, dealer.epoch, dealer.group, timeout=2.0),
            TRY_SECONDS,
        )
        deal.places.append((-1, 0))

        async def commit(broker: Broker) -> Any:
            number = await broker.transactions.verify_group(name, dealer.id, dealer.epoch, dealer.group, timeout=2.0)
            return await broker.consumer_groups.txn_commit(
                dealer.group,
                [OffsetToCommit(TOPIC, 0, deal.number)],
                producer_id=dealer.id,
                producer_epoch=offsets_epoch(number),
                timeout=2.0,
            )

        done = await self.anywhere(random, commit, TRY_SECONDS)
        if done.error is not None or any(done.errors):
            raise GivenUp(str(done))

    async def run_dealer(self, dealer: Dealer, random: Random, until: float) -> None:
        begun = False
        while self.loop.time() < until:
            await asyncio.sleep(random.expovariate(10))
            try:
                if not begun:
                    await self.begin(dealer, random)
                begun = True
                await self.deal(dealer, random)
            except GivenUp as error:
                self.note(f"{dealer.name} gives up: {error}")
                self.checks.count("deals given up")
                begun = False

    # --- readers --------------------------------------------------------------------------------------

    async def read_committed(self, node: SimNode, partition: int, offset: int) -> int:
        """One fetch of committed records; the next offset."""
        call = partial(self.broker(node).fetch, TOPIC, partition, offset, committed=True, bytes_max=4096, timeout=2.0)
        fetched = await self.ask(node, call, 2.0)
        following = offset
        for batch, counts in committed(fetched.batches, fetched.aborted):
            for record in decode_batch(batch) if counts else ():
                if record.offset >= offset:
                    assert record.value is not None
                    before = self.seen.setdefault((partition, record.offset), record.value)
                    if before != record.value:
                        raise Violation(f"what was committed stays: {before!r} is {record.value!r} on node {node.id}")
            following = max(following, parse_header(batch).next_offset)
        return following

    async def run_reader(self, random: Random, until: float) -> None:
        positions = dict.fromkeys(range(self.partitions), 0)
        while self.loop.time() < until:
            await asyncio.sleep(random.expovariate(10))
            up, partition = self.up(), random.randrange(self.partitions)
            if up:
                offset = positions[partition] if random.random() < 0.7 else random.randint(0, positions[partition])
                try:
                    following = await self.read_committed(random.choice(up), partition, offset)
                    positions[partition] = max(positions[partition], following)
                except (Retriable, UnknownOutcome):
                    continue

    # --- the end --------------------------------------------------------------------------------------

    async def verify(self) -> None:
        random = Random(f"{self.seed}/verify")
        ends = [await self._decided(partition, random) for partition in range(self.partitions)]
        before = dict(self.seen)
        found: list[list[bytes]] = []
        for partition, end in enumerate(ends):
            views = [await self._read_all(node, partition, end) for node in self.nodes.values()]
            if any(view != views[0] for view in views):
                raise Violation(f"nodes differ in what is committed in partition {partition}")
            found.append(views[0])
        now = {value for values in found for value in values}
        for place, value in before.items():
            if value not in now:
                raise Violation(f"{value!r} at {place} was served as committed and is not")
        for dealer in self.dealers:
            await self._completed(dealer, random)
            await self._account_for(dealer, found, random)

    async def _completed(self, dealer: Dealer, random: Random) -> None:
        """Returns once groups as well know how its last transaction has ended."""
        name, deadline = dealer.transactional_id, self.loop.time() + 60.0
        while True:
            view = await self.anywhere(random, lambda b: b.transactions.describe(name, timeout=2.0), 10.0)
            if not (view.state.decided or view.state is TxnState.ONGOING):
                return
            if self.loop.time() > deadline:
                raise Violation(f"a transaction does not end: {view}")
            await asyncio.sleep(0.2)

    async def _decided(self, partition: int, random: Random) -> int:
        """The partition's end, once every transaction in it is decided."""
        deadline = self.loop.time() + 60.0
        while True:
            view = await self.anywhere(random, lambda b: b.offsets(TOPIC, partition, timeout=2.0), 10.0)
            if view.stable == view.end:
                return int(view.end)
            if self.loop.time() > deadline:
                raise Violation(f"a transaction hangs in partition {partition}: {view}")
            await asyncio.sleep(0.2)

    async def _read_all(self, node: SimNode, partition: int, end: int) -> list[bytes]:
        self.seen = {place: value for place, value in self.seen.items() if place[0] != partition}
        offset = 0
        while offset < end:
            following = await self.read_committed(node, partition, offset)
            if following == offset:
                raise Violation(f"node {node.id} serves nothing at {offset} of {end}")
            offset = following
        return [value for place, value in sorted(self.seen.items()) if place[0] == partition]

    async def _account_for(self, dealer: Dealer, found: list[list[bytes]], random: Random) -> None:
        mine = dealer.name.encode() + b"/"
        standing: list[list[bytes]] = [[v for v in values if v.startswith(mine)] for values in found]
        expected: list[list[bytes]] = [[] for _ in found]
        last = -1
        for deal in dealer.deals:
            begins = mine + b"%d/" % deal.number
            there = any(value.startswith(begins) for values in standing for value in values)
            if deal.outcome == COMMITTED and not there:
                raise Violation(f"{deal} was committed and is not there")
            if deal.outcome == ABORTED and there:
                raise Violation(f"{deal} was not committed and is there")
            if there:
                for partition, values in enumerate(expected):
                    values += deal.values(partition)
                if (-1, 0) in deal.places:
                    last = deal.number
        if standing != expected:
            raise Violation(f"deals of {dealer.name} are whole, once and in order: {standing}, not {expected}")
        answer = await self.anywhere(
            random, lambda b: b.consumer_groups.offsets(dealer.group, [PartitionName(TOPIC, 0)], stable=True), 20.0
        )
        [offset] = answer.offsets
        if (offset.error, offset.offset) != (None, last):
            raise Violation(f"the offset of {dealer.group} goes with its deals: {offset}, not {last}")


async def transactions_script(cluster: TransactionCluster, run_faults: Callable[[float], Awaitable[None]]) -> None:
    """Dealers and readers under faults, then calm and the final judgement."""
    random = Random(f"{cluster.seed}/script")
    cluster.partitions = 3
    cluster.seen = {}
    shared = random.random() < 0.5
    names = [f"dealer-{n}" for n in range(random.randint(1, 3))]
    cluster.dealers = [Dealer(name, "shared" if shared and n < 2 else name) for n, name in enumerate(names)]
    for node in cluster.nodes.values():
        cluster.start(node)
    await cluster.make_topic(random)
    until = cluster.loop.time() + random.uniform(4, 10)
    work = [cluster.run_dealer(one, Random(f"{cluster.seed}/{one.name}"), until) for one in cluster.dealers]
    work += [cluster.run_reader(Random(f"{cluster.seed}/reader"), until)]
    tasks = [asyncio.create_task(one) for one in work]
    await run_faults(until - cluster.loop.time())
    await asyncio.gather(*tasks)
    await cluster.settle()
    await cluster.verify()
