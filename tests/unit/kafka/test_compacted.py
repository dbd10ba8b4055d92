"""A compacted topic as Kafka's clients read it: every codec, from the beginning and from offsets that are gone."""

import asyncio
import time
from collections.abc import Callable

import aiokafka
import kafka
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from raftbroker.node import Node
from raftbroker.state import partition_segments

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
"""Of the partition of this number."""
KEYS = 7
ROUNDS = 40
SECONDS = 30.0

Read = dict[int, tuple[bytes, bytes | None]]
"""By offset, key and value."""


def write(address: str, topic: str, partition: int, codec: str) -> Read:
    """Batches of ten in which old and new values stand beside each other, and tombstones."""
    producer = Producer({"bootstrap.servers": address, "compression.type": codec, "linger.ms": 50})
    sent: Read = {}
    for number in range(ROUNDS):
        for position in range(10):
            key = b"key-%d" % ((number * 3 + position * position) % KEYS)
            value = None if (number + position) % 9 == 0 else b"%d %d " % (number, position) + b"v" * 30 * position
            producer.produce(topic, value, key, partition)
            sent[len(sent)] = (key, value)
        assert producer.flush(SECONDS) == 0
    return sent


def by_confluent(address: str, topic: str, partition: int, offset: int, most: int) -> Read:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "none", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, offset)])
    found: Read = {}
    deadline = time.monotonic() + SECONDS
    while len(found) < most and time.monotonic() < deadline:
        for one in consumer.consume(most - len(found), 0.2):
            assert one.error() is None, one.error()
            found[one.offset()] = (one.key(), one.value())
    consumer.close()
    return found


def by_kafka_python(address: str, topic: str, partition: int, offset: int, most: int) -> Read:
    consumer = kafka.KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    place = kafka.TopicPartition(topic, partition)
    consumer.assign([place])
    consumer.seek(place, offset)
    found: Read = {}
    deadline = time.monotonic() + SECONDS
    while len(found) < most and time.monotonic() < deadline:
        for one in consumer.poll(200, max_records=most - len(found)).get(place, []):
            found[one.offset] = (one.key, one.value)
    consumer.close()
    return found


def by_aiokafka(address: str, topic: str, partition: int, offset: int, most: int) -> Read:
    async def main() -> Read:
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
        await consumer.start()
        place = aiokafka.TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, offset)
        found: Read = {}
        try:
            async with asyncio.timeout(SECONDS):
                while len(found) < most:
                    one = await consumer.getone()
                    found[one.offset] = (one.key, one.value)
        finally:
            await consumer.stop()
        return found

    return asyncio.run(main())


READERS: list[Callable[[str, str, int, int, int], Read]] = [by_confluent, by_kafka_python, by_aiokafka]


def settle(node: Node, removed: int) -> None:
    """Waits until compaction has left out so many records, and then has had nothing to do for a while."""
    assert node.core is not None
    counters = node.core.broker.counters
    deadline, seen = time.monotonic() + SECONDS, -1
    while counters.compaction_removed_records < removed or counters.compaction_read_bytes != seen:
        assert time.monotonic() < deadline, f"{counters.compaction_removed_records} of {removed} have gone"
        seen = counters.compaction_read_bytes
        time.sleep(0.5)


def everything(address: str, topic: str, partition: int, end: int) -> Read:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "none", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0)])
    found: Read = {}
    deadline = time.monotonic() + SECONDS
    while max(found, default=0) < end - 1:
        assert time.monotonic() < deadline, f"the reader has come to offset {max(found, default=0)} of {end}"
        found |= {one.offset(): (one.key(), one.value()) for one in consumer.consume(1000, 0.2)}
    consumer.close()
    return found


def test_clients_read_what_is_left(
    confluent: AdminClient,
    node: Node,
    address: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition_segments, "SEGMENT_BYTES_MIN", 1000)
    config = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"}
    made = confluent.create_topics([NewTopic(name, len(CODECS), 1, config=config)])
    made[name].result(SECONDS)
    assert node.core is not None
    for partition, codec in enumerate(CODECS):
        before = node.core.broker.counters.compaction_removed_records
        sent = write(address, name, partition, codec)
        settle(node, before + len(sent) // 2)
        left = everything(address, name, partition, len(sent))
        assert len(left) < len(sent) // 3
        assert all(sent[offset] == record for offset, record in left.items())
        newest = {key: offset for offset, (key, _) in sent.items()}
        assert newest.items() <= {left[offset][0]: offset for offset in sorted(left)}.items()
        gone = sorted(set(range(len(sent))) - set(left))
        for read in READERS:
            assert read(address, name, partition, 0, len(left)) == left, f"{codec} {read.__name__}"
            for offset in (gone[0], gone[len(gone) // 2], gone[-1]):
                first = min(other for other in left if other > offset)
                assert read(address, name, partition, offset, 1) == {first: left[first]}, f"{codec} {read.__name__}"
