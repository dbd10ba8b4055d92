"""A compacted topic of whole nodes under faults: puts of a few keys, tombstones among them, and readers.

Segments are small and passes frequent, so that compaction goes on all the time, through crashes, partitions, full disks
and snapshots. Whatever is served at an offset, by whichever node and however often it was compacted before, is what was
written there. In the end each key has the value that was last acknowledged, or a later one; a key that was deleted is
not back; every node holds the same batches under the same keys, and no disk has any that no state refers to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import google_crc32c

from raftbroker.broker import compaction_pass
from raftbroker.broker.errors import BrokerError, Retriable, UnknownOutcome
from raftbroker.state import partition_segments
from raftbroker.state.batch import RecordDraft, decode_batch, encode_batch, parse_header
from raftbroker.state.partition import PartitionMachine
from raftbroker.storage import layout

from .brokers import EPOCH_MS, TOPIC, BrokerCluster
from .checks import Violation
from .lives import Plan, SimNode
from .loop import VirtualLoop
from .transactions import TransactionCluster

KEYS = 6


@dataclass
class Put:
    partition: int
    key: bytes
    value: bytes | None
    outcome: str = "unknown"
    offset: int = -1


@contextmanager
def small_segments() -> Iterator[None]:
    """So small that a run of seconds has many."""
    owners = ((partition_segments, "SEGMENT_BYTES_MIN", 400), (partition_segments, "SEGMENT_MS_MIN", 300))
    changed = [(owner, name, getattr(owner, name), value) for owner, name, value in owners]
    changed.append((compaction_pass, "READ_BYTES", compaction_pass.READ_BYTES, 300))
    changed.append((compaction_pass, "MARKER_MS", compaction_pass.MARKER_MS, 1500))
    try:
        for owner, name, _, value in changed:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, before, _ in changed:
            setattr(owner, name, before)


class CompactedCluster(BrokerCluster):
    """See the module."""

    def __init__(self, loop: VirtualLoop, seed: str, plan: Plan, keep_trace: bool = False) -> None:
        super().__init__(loop, seed, plan, keep_trace)
        self.puts: list[Put] = []
        self.started: dict[int, int] = {}

    # --- clients ------------------------------------------------------------------------------------------

    async def put(self, random: Random) -> None:
        if not self.up():
            return
        node = random.choice(self.up())
        where = random.randrange(self.partitions)
        batch: list[Put] = []
        for _ in range(random.randint(1, 4)):
            value = None if random.random() < 0.25 else b"%d" % len(self.puts) + b"x" * random.choice((0, 20, 60))
            batch.append(Put(where, b"key-%d" % random.randrange(KEYS), value))
            self.puts.append(batch[-1])
        data = encode_batch([RecordDraft(one.key, one.value) for one in batch], base_timestamp=EPOCH_MS)
        timeout = random.choice((0.5, 2.0, 5.0))
        try:
            call = partial(self.broker(node).produce, TOPIC, where, data, timeout=timeout)
            produced = await self.ask(node, call, timeout)
        except UnknownOutcome:
            return
        except BrokerError as error:
            if not isinstance(error, Retriable):
                raise
            for one in batch:
                one.outcome = "refused"
            return
        for number, one in enumerate(batch):
            one.outcome, one.offset = "acknowledged", produced.base_offset + number
            self.saw(node, where, one.offset, content(one.key, one.value))
        truth = self.truth(where)
        truth.acknowledged_end = max(truth.acknowledged_end, produced.base_offset + len(batch))
        self.checks.count("acknowledged")

    async def look(self, random: Random) -> None:
        if not self.up():
            return
        node = random.choice(self.up())
        where = random.randrange(self.partitions)
        end = self.truth(where).acknowledged_end
        low = self.started.get(where, 0)
        try:
            if random.random() < 0.05 and end > low:
                call = partial(self.broker(node).delete_records, TOPIC, where, low + (end - low) // 8, timeout=2.0)
                start = await self.ask(node, call, 2.0)
                self.started[where] = max(low, start)
            elif low < end:
                await self.fetch_from(node, where, random.randint(low, end - 1), 2.0)
        except (Retriable, UnknownOutcome):
            return
        except BrokerError as error:  # it was trimmed meanwhile
            if self.started.get(where, 0) == low and not self._trimming:
                raise
            self.note(f"out of range: {error}")
        self.checks.count("reads")

    _trimming = True

    async def fetch_from(self, node: SimNode, partition: int, offset: int, timeout: float) -> int:
        """One fetch, everything in it checked; the next offset."""
        fetched = await self._fetched(node, partition, offset, timeout)
        following = offset
        for batch in fetched:
            header = parse_header(batch)
            if header.next_offset <= following:
                raise Violation(f"node {node.id} serves {header.base_offset} to a reader at {following}")
            following = header.next_offset
            for record in decode_batch(batch):
                assert record.key is not None
                self.saw(node, partition, record.offset, content(record.key, record.value))
        return following

    async def _fetched(self, node: SimNode, partition: int, offset: int, timeout: float) -> tuple[bytes, ...]:
        call = partial(self.broker(node).fetch, TOPIC, partition, offset, wait=0.2, timeout=timeout, bytes_max=500)
        return tuple((await self.ask(node, call, timeout + 0.2)).batches)

    # --- the end ------------------------------------------------------------------------------------------

    async def verify(self) -> None:
        count_passes(self)
        await stop_compaction(self, Random(f"{self.seed}/last"))
        for partition in range(self.partitions):
            shown: dict[int, set[int]] = {}
            for node in self.nodes.values():
                view = await self.ask(node, partial(self.broker(node).offsets, TOPIC, partition, timeout=5.0), 5.0)
                shown[node.id] = await self._shown(node, partition, view.start, view.end)
                if shown[node.id] != next(iter(shown.values())):
                    raise Violation(f"nodes show different offsets of partition {partition}: {shown}")
            self._account_puts(partition, view.start, shown[node.id])
        compare_disks(self)

    async def _shown(self, node: SimNode, partition: int, start: int, end: int) -> set[int]:
        offset, found = start, set()
        while offset < end:
            batches = await self._fetched(node, partition, offset, 5.0)
            following = await self.fetch_from(node, partition, offset, 5.0)
            if following == offset:
                raise Violation(f"node {node.id} serves nothing at {offset} of {end}")
            for batch in batches:
                found |= {record.offset for record in decode_batch(batch) if record.offset >= start}
            offset = parse_header(batches[-1]).next_offset
        return found

    def _account_puts(self, partition: int, start: int, shown: set[int]) -> None:
        seen = self.truth(partition).seen
        mine = [one for one in self.puts if one.partition == partition]
        written = {content(one.key, one.value) for one in mine if one.outcome != "refused" and one.value is not None}
        for offset, value in seen.items():
            if not (value in written or value.startswith((b"last=", b"-"))):
                raise Violation(f"refused or unknown: {value!r} at {offset} of partition {partition}")
        for number in range(KEYS):
            key = b"key-%d" % number
            known = [offset for offset, value in seen.items() if key_of(value) == key and offset >= start]
            if not known or any(one.key == key and one.value is None and one.outcome == "unknown" for one in mine):
                continue
            newest = max(known)
            visible = [offset for offset in shown if key_of(seen[offset]) == key]
            if newest in shown:
                continue
            if not seen[newest].startswith(b"-"):
                raise Violation(f"{key!r} was last {seen[newest]!r} at {newest} of partition {partition}: gone")
            if visible:
                raise Violation(f"{key!r} was deleted at {newest} of partition {partition}, and is back at {visible}")


class CompactedTransactions(TransactionCluster):
    """Transactions in a topic that is compacted, where every key is another: nothing goes but what was aborted, and
    markers."""

    keyed = True

    async def verify(self) -> None:
        count_passes(self)
        await super().verify()
        await stop_compaction(self, random=Random(f"{self.seed}/last"))
        compare_disks(self)


def draw_compaction(cluster: BrokerCluster, random: Random) -> None:
    cluster.compaction_check = random.choice((0.05, 0.3))
    cluster.topic_defaults = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": random.choice(("0", "0.4")),
        "delete.retention.ms": random.choice(("0", "500", "86400000")),
    }


def count_passes(cluster: BrokerCluster) -> None:
    counts = cluster.checks.counts
    for node in cluster.up():
        counters = cluster.broker(node).counters
        for what, count in (
            ("passes of compaction", counters.compaction_passes),
            ("records compacted away", counters.compaction_removed_records),
        ):
            counts[what] = counts.get(what, 0) + count


async def stop_compaction(cluster: BrokerCluster, random: Random) -> None:
    """No more passes; what they have begun is done with, and on every disk."""
    for node in cluster.up():
        for task in cluster.broker(node)._tasks:
            if task.get_name() == "compaction":
                task.cancel()
    for partition in range(cluster.partitions):
        for _ in range(100):
            node = random.choice(cluster.up())
            data = encode_batch([RecordDraft(b"last", b"%d" % partition)], base_timestamp=EPOCH_MS)
            try:
                produce = partial(cluster.broker(node).produce, TOPIC, partition, data, timeout=5.0)
                await cluster.ask(node, produce, 5.0)
                break
            except (Retriable, UnknownOutcome):
                await asyncio.sleep(0.1)
    await cluster.settle()
    await asyncio.sleep(2.0)


def compare_disks(cluster: BrokerCluster) -> None:
    """Every replica has the same batches, and no disk any that no state refers to."""
    held: dict[tuple[int, bytes], int] = {}
    for node in cluster.up():
        assert node.host is not None
        assert node.engine is not None
        referred = []
        for group in node.host.groups.values():
            ranges = group.machine.payload_ranges()
            referred += ranges
            if not isinstance(group.machine, PartitionMachine):
                continue
            for low, high in ranges:
                for key, data in node.engine.scan("log", low, high):
                    crc = google_crc32c.value(data)
                    if held.setdefault((group.id, key), crc) != crc:
                        raise Violation(f"node {node.id} has other bytes under {key.hex()}")
        referred.sort()
        for key, _ in node.engine.scan("log", b"", b"\xff" * 32):
            if not layout.within(key, referred):
                raise Violation(f"node {node.id} has a batch that nothing refers to: {key.hex()}")
            cluster.checks.count("batches in the end")


def content(key: bytes, value: bytes | None) -> bytes:
    """A record in one: tombstones begin with a minus."""
    return b"-" + key if value is None else key + b"=" + value


def key_of(value: bytes) -> bytes:
    return value[1:] if value.startswith(b"-") else value.split(b"=")[0]


async def compacted_client(cluster: CompactedCluster, random: Random, until: float) -> None:
    pause = random.choice((0.02, 0.06))
    while cluster.loop.time() < until:
        await asyncio.sleep(random.expovariate(1 / pause))
        if random.random() < 0.25:
            await cluster.look(random)
        else:
            await cluster.put(random)


async def compacted_script(cluster: CompactedCluster, run_faults: Callable[[float], Awaitable[None]]) -> None:
    random = Random(f"{cluster.seed}/script")
    with small_segments():
        draw_compaction(cluster, random)
        for node in cluster.nodes.values():
            cluster.start(node)
        await cluster.make_topic(random)
        until = cluster.loop.time() + random.uniform(4, 10)
        clients = [
            compacted_client(cluster, Random(f"{cluster.seed}/client{n}"), until) for n in range(random.randint(2, 4))
        ]
        tasks = [asyncio.create_task(one) for one in clients]
        await run_faults(until - cluster.loop.time())
        await asyncio.gather(*tasks)
        await cluster.settle()
        await asyncio.sleep(2.0)
        await cluster.verify()
