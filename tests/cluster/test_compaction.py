"""A compacted topic on real processes: keys written over and over, deleted, in transactions, while leaders are killed.

Afterwards every node, asked by a Kafka consumer and over HTTP, has the newest record of each key at the offset that it
was acknowledged for, nothing of aborted transactions, offsets that ascend, and a fraction of the bytes produced.
"""

import asyncio
import itertools
import json
import random
import re
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.cluster.dev import DevCluster, dev_cluster

pytestmark = pytest.mark.cluster

TOPIC = "table"
PARTITIONS = 2
CLIENTS = 4
KEYS = 120
VALUE_BYTES = 1500
BATCH = 50
BYTES_MIN = 24 << 20
"""What is produced over HTTP before the writers stop."""
KILLS_MIN = 6
TOMBSTONE_EVERY = 30
ABORT_EVERY = 3
SETTLE_SECONDS = 120.0
CONFIGS = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
SETTINGS = {
    "RAFTBROKER_LOG__COMPACTION_CHECK_MS": "100",
    "RAFTBROKER_LOG__COMPACTION_BYTES_PER_SECOND": str(8 << 20),
}
"""Passes begin at once and take a while, so that leaders are killed in the middle of them."""
STRING_V2 = {"Content-Type": "application/vnd.kafka.string.v2+json"}
READ_STRING = {"Accept": "application/vnd.kafka.string.v2+json"}
BYTES = re.compile(rf'^raftbroker_partition_bytes{{topic="{TOPIC}",partition="(\d+)"}} (\S+)$', re.MULTILINE)

PASSES = re.compile(r"^raftbroker_compaction_passes_total (\S+)$", re.MULTILINE)

Place = tuple[int, int]
"""Partition and offset."""


@dataclass
class Table:
    """What was written, and what is known to have become of it."""

    records: dict[Place, tuple[str, str | None]] = field(default_factory=dict)
    """Acknowledged, and not in a transaction that was aborted."""
    unsure: set[tuple[str, str | None]] = field(default_factory=set)
    """Of transactions of which the client cannot tell."""
    bytes: int = 0
    repeats: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, place: Place, key: str, value: str | None) -> None:
        assert place not in self.records, f"{place} was acknowledged for two records"
        self.records[place] = key, value
        self.bytes += len(key) + len(value or "")

    def newest(self) -> dict[str, tuple[Place, str | None]]:
        found: dict[str, tuple[Place, str | None]] = {}
        for place, (key, value) in self.records.items():
            if key not in found or place > found[key][0]:
                found[key] = place, value
        return found


# --- writing --------------------------------------------------------------------------------------------------


def chunks(seed: int) -> Iterator[str]:
    """Pieces of the Python standard library's own sources, for ever."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    random.Random(seed).shuffle(files)
    for path in itertools.cycle(files):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from (text[start : start + VALUE_BYTES] for start in range(0, len(text), VALUE_BYTES))


async def write_over_http(urls: list[str], client: int, table: Table, enough: asyncio.Event) -> None:
    """Its own keys, so that what it wrote last is the newest; and some that it writes once and never again, which
    every pass has to keep."""
    draw, texts = random.Random(client), chunks(client)
    nodes = itertools.islice(itertools.cycle(urls), client, None)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
        for number in itertools.count():
            if enough.is_set():
                return
            records = [
                (f"key-{client}-{draw.randrange(KEYS)}", None if draw.randrange(TOMBSTONE_EVERY) == 0 else next(texts))
                for _ in range(BATCH)
            ]
            records[0] = (f"once-{client}-{number}", next(texts))
            await send(session, nodes, f"{client}-{number}", records, table)


async def send(
    session: aiohttp.ClientSession,
    nodes: Iterator[str],
    key: str,
    records: list[tuple[str, str | None]],
    table: Table,
) -> None:
    """Until all of it is acknowledged, through one node after the other, always under the same key."""
    body = json.dumps({"records": [{"key": name, "value": value} for name, value in records]}).encode()
    headers = {**STRING_V2, "Idempotency-Key": key}
    done: set[int] = set()
    for attempt in range(600):
        table.repeats += attempt > 0
        reports: list[dict[str, Any]] = []
        try:
            async with session.post(f"{next(nodes)}/topics/{TOPIC}", data=body, headers=headers) as answer:
                assert answer.status in (200, 429, 500, 503), (answer.status, await answer.text())
                if answer.status == 200:
                    reports = (await answer.json(content_type=None))["offsets"]
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
            pass
        for position, report in enumerate(reports):
            if report["error_code"] is None and position not in done:
                done.add(position)
                table.add((report["partition"], report["offset"]), *records[position])
        if len(done) == len(records):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"request {key} was not acknowledged in 600 attempts")


class Transactions(threading.Thread):
    """Writes its keys in transactions, of which every third is aborted, and knows what became of each. The last one to
    write a key `once-txn-...` is aborted, so what was committed before has to stay."""

    SECONDS = 30.0

    def __init__(self, bootstrap: str, table: Table) -> None:
        super().__init__(daemon=True)
        self._servers = bootstrap
        self._table = table
        self._numbers = itertools.count()
        self.stopping = threading.Event()
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    self._with_a_producer()
                except KafkaException:
                    self._table.counts["producers begun anew"] += 1
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failed = error

    def _with_a_producer(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._servers,
                "transactional.id": "table-writer",
                "transaction.timeout.ms": 30_000,
                "metadata.recovery.strategy": "none",  # docs/kafka-clients.md says why
                "linger.ms": 2,
                "log_level": 0,
                "partitioner": "murmur2_random",
            }
        )
        self._again(lambda: producer.init_transactions(self.SECONDS))
        while not self.stopping.is_set():
            self._transaction(producer, next(self._numbers))

    def _transaction(self, producer: Producer, number: int) -> None:
        wanted = number % ABORT_EVERY != 0
        fate = "aborted"
        written: dict[str, tuple[str, Place | None]] = {}

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                value = message.value().decode()
                written[value] = (message.key().decode(), (message.partition(), message.offset()))

        try:
            producer.begin_transaction()
            for position in range(20):
                key = f"txn-{(7 * number + position) % 50}" if position else f"once-txn-{(number - 1) // ABORT_EVERY}"
                value = f"transaction {number} record {position} " + "x" * 200
                written[value] = (key, None)
                producer.produce(TOPIC, value, key, on_delivery=delivered)
                producer.poll(0)
            if wanted:
                fate = "unsure"
                self._again(lambda: producer.commit_transaction(self.SECONDS))
                fate = "committed"
            else:
                producer.flush(self.SECONDS)  # else what has not been sent yet never is
                self._table.counts["records aborted"] += sum(place is not None for _, place in written.values())
                self._again(lambda: producer.abort_transaction(self.SECONDS))
        except KafkaException as caught:
            error = caught.args[0]
            if error.fatal() or not error.txn_requires_abort():
                raise
            self._again(lambda: producer.abort_transaction(self.SECONDS))
            fate = "aborted"
        finally:
            self._remember(fate, written)

    def _remember(self, fate: str, written: dict[str, tuple[str, Place | None]]) -> None:
        self._table.counts[f"transactions {fate}"] += 1
        for value, (key, place) in written.items():
            if fate == "committed":
                assert place is not None, "a record of a committed transaction was not acknowledged"
                self._table.add(place, key, value)
            elif fate == "unsure":
                self._table.unsure.add((key, value))

    def _again(self, call: Any) -> None:
        """Until it succeeds, for as long as the client says that it may."""
        while True:
            try:
                call()
            except KafkaException as caught:
                if not caught.args[0].retriable():
                    raise
                self._table.counts["calls tried again"] += 1
            else:
                return


# --- the cluster ----------------------------------------------------------------------------------------------


async def make_topic(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(f"{url}/v3/clusters") as answer:
        cluster = (await answer.json())["data"][0]["cluster_id"]
    configs = [{"name": name, "value": value} for name, value in CONFIGS.items()]
    body = {"topic_name": TOPIC, "partitions_count": PARTITIONS, "replication_factor": 3, "configs": configs}
    async with session.post(f"{url}/v3/clusters/{cluster}/topics", json=body) as answer:
        assert answer.status == 201, await answer.text()


async def leader_of(session: aiohttp.ClientSession, urls: list[str], partition: int) -> int:
    for url in itertools.cycle(urls):
        try:
            async with session.get(f"{url}/topics/{TOPIC}/partitions/{partition}") as answer:
                if answer.status == 200 and (leader := (await answer.json(content_type=None))["leader"]) > 0:
                    return int(leader)
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.1)
    raise AssertionError


async def kill_leaders(cluster: DevCluster, table: Table, enough: asyncio.Event) -> None:
    """The leader of one partition after the other, until as much is written as there is to be."""
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        while table.bytes < BYTES_MIN or table.counts["kills"] < KILLS_MIN:
            await asyncio.sleep(1.5)
            victim = await leader_of(session, cluster.urls, table.counts["kills"] % PARTITIONS)
            table.counts["passes of the leaders killed"] += await passes(session, cluster.url(victim))
            cluster.kill(victim)
            table.counts["kills"] += 1
            await asyncio.sleep(0.7)
            await loop.run_in_executor(None, cluster.wait_ready, victim)
    enough.set()


async def passes(session: aiohttp.ClientSession, url: str) -> int:
    """Of compaction, since the node was started."""
    try:
        async with session.get(f"{url}/metrics") as answer:
            return int(float(PASSES.findall(await answer.text())[0]))
    except aiohttp.ClientError:
        return 0


async def sizes(session: aiohttp.ClientSession, url: str) -> int:
    """The bytes of the topic's batches on a node."""
    async with session.get(f"{url}/metrics") as answer:
        found = BYTES.findall(await answer.text())
    assert len(found) == PARTITIONS, found
    return int(sum(float(size) for _, size in found))


async def settle(cluster: DevCluster, most: int) -> list[int]:
    """Waits until every node has no more than `most` bytes; their bytes."""
    deadline = time.monotonic() + SETTLE_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        while True:
            found = [await sizes(session, url) for url in cluster.urls]
            if max(found) <= most or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.5)


# --- reading --------------------------------------------------------------------------------------------------

Read = list[tuple[Place, str, str | None]]


async def read_over_http(session: aiohttp.ClientSession, url: str) -> Read:
    found: Read = []
    for partition in range(PARTITIONS):
        path = f"{url}/topics/{TOPIC}/partitions/{partition}"
        async with session.get(f"{path}/offsets") as answer:
            end = (await answer.json(content_type=None))["end_offset"]
        offset = 0
        while offset < end:
            async with session.get(
                f"{path}/records?offset={offset}&timeout=2000&max_bytes=4000000", headers=READ_STRING
            ) as answer:
                assert answer.status == 200, await answer.text()
                page = await answer.json(content_type=None)
                after = int(answer.headers["X-Next-Offset"])
            assert after > offset, f"{url} does not get beyond offset {offset} of partition {partition}, end {end}"
            found += [((partition, one["offset"]), one["key"], one["value"]) for one in page]
            offset = after
    return found


def read_as_kafka(bootstrap: str, isolation: str) -> Read:
    """From the beginning to the end of each partition, of whoever leads them."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"none-{isolation}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
            "log_level": 0,
        }
    )
    found: Read = []
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    try:
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
        while len(ended) < PARTITIONS:
            assert time.monotonic() < deadline, f"only partitions {ended} came to their end, {len(found)} records"
            for message in consumer.consume(1000, 0.5):
                error = message.error()
                if error is None:
                    key, value = message.key(), message.value()
                    place = (message.partition(), message.offset())
                    found.append((place, key.decode(), None if value is None else value.decode()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    assert error.retriable(), error
    finally:
        consumer.close()
    return found


def check(found: Read, table: Table, who: str) -> None:
    """What a reader of committed records was given is what has to be there."""
    for partition in range(PARTITIONS):
        offsets = [place[1] for place, _, _ in found if place[0] == partition]
        assert offsets == sorted(set(offsets)), f"{who}: the offsets of partition {partition} do not ascend"
    newest: dict[str, Place] = {}
    for place, key, value in found:
        if place in table.records:
            assert table.records[place] == (key, value), f"{who}: {place} is another record"
        else:
            assert (key, value) in table.unsure, f"{who}: {place} has a record that nobody committed: {key} {value}"
        newest[key] = place
    for key, (place, _) in table.newest().items():
        seen = newest.get(key)
        assert seen is not None, f"{who}: nothing is left of {key}, whose newest record is at {place}"
        assert seen == place or (seen > place and seen not in table.records), f"{who}: {key} is at {seen}, not {place}"


async def leads(cluster: DevCluster, session: aiohttp.ClientSession, node: int) -> bool:
    return {await leader_of(session, cluster.urls, partition) for partition in range(PARTITIONS)} == {node}


async def read_of_leader(cluster: DevCluster, session: aiohttp.ClientSession, node: int) -> Read:
    """As a Kafka consumer reads, while the node leads every partition of the topic."""
    deadline = time.monotonic() + 60
    bootstrap = f"127.0.0.1:{9091 + node + cluster.offset}"
    while time.monotonic() < deadline:
        if await leads(cluster, session, node):
            read = asyncio.get_running_loop().run_in_executor(None, read_as_kafka, bootstrap, "read_committed")
            found = await read
            if await leads(cluster, session, node):
                return found
        async with session.get(f"{cluster.url(node)}/v1/raft") as answer:
            groups = await answer.json(content_type=None)
        for group in (one["group"] for one in groups if one["group"] != 0 and one["leader"] != node):
            async with session.post(f"{cluster.url(node)}/v1/raft/{group}/transfer_leadership?target={node}"):
                pass
        await asyncio.sleep(0.5)
    raise AssertionError(f"node {node} does not lead {TOPIC} for as long as it takes to read it")


async def check_everywhere(cluster: DevCluster, table: Table) -> int:
    """Records read from a node, the least of all."""
    counts: list[int] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for node in range(1, cluster.nodes + 1):
            found = await read_over_http(session, cluster.url(node))
            check(found, table, f"node {node} over HTTP")
            counts.append(len(found))
            read = await read_of_leader(cluster, session, node)
            check(read, table, f"node {node} over Kafka")
            counts.append(len(read))
    return min(counts)


async def _run(cluster: DevCluster, table: Table) -> tuple[list[int], int]:
    async with aiohttp.ClientSession() as session:
        await make_topic(session, cluster.url(1))
    bootstrap = ",".join(f"127.0.0.1:{9091 + node + cluster.offset}" for node in range(1, cluster.nodes + 1))
    transactions = Transactions(bootstrap, table)
    transactions.start()
    enough = asyncio.Event()
    try:
        await asyncio.gather(
            kill_leaders(cluster, table, enough),
            *(write_over_http(cluster.urls, client, table, enough) for client in range(CLIENTS)),
        )
    finally:
        transactions.stopping.set()
        await asyncio.get_running_loop().run_in_executor(None, transactions.join, 90)
    assert transactions.failed is None, transactions.failed
    assert not transactions.is_alive()
    await asyncio.get_running_loop().run_in_executor(None, cluster.wait_whole)
    left = await settle(cluster, table.bytes // 2)
    return left, await check_everywhere(cluster, table)


def test_the_newest_record_of_each_key_survives_compaction_through_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    table = Table()
    with dev_cluster(tmp_path, 3) as cluster:
        cluster.wait_whole()
        began = time.monotonic()
        try:
            left, read = asyncio.run(_run(cluster, table))
        except BaseException:
            with capsys.disabled():
                print(cluster.output())
            raise
        seconds = time.monotonic() - began
    newest = table.newest()
    with capsys.disabled():
        counts = ", ".join(f"{count} {what}" for what, count in sorted(table.counts.items()))
        print(
            f"\n{len(table.records)} records of {len(newest)} keys, {table.bytes >> 20} MiB produced in {seconds:.0f} "
            f"s ({counts}, {table.repeats} requests repeated); {read} records are left, {[n >> 10 for n in left]} KiB"
        )
    assert max(left) <= table.bytes // 2
    assert len(newest) <= read < len(table.records) // 2
    assert table.counts["kills"] >= KILLS_MIN
    assert table.counts["passes of the leaders killed"] > 0
    assert table.counts["transactions committed"] > 10
    assert table.counts["records aborted"] > 100
    assert any(value is None for _, value in newest.values()), "no key ended with a tombstone"
