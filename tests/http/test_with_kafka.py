"""HTTP and Kafka see the same records: what goes in through one door comes out of the other, byte for byte."""

import base64
import random
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from raftbroker.node import Node
from tests.http.harness import Client

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
BINARY = "application/vnd.kafka.binary.v2+json"

Shown = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]
"""Key, value, headers, timestamp."""


def produced(node: Node, topic: str, records: list[Shown], **settings: Any) -> None:
    producer = Producer(
        {"bootstrap.servers": node.config.kafka.advertised, "enable.idempotence": True, "linger.ms": 5} | settings
    )
    failed: list[KafkaError] = []

    def told(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)

    for key, value, headers, timestamp in records:
        producer.produce(topic, value, key, partition=0, headers=headers or None, timestamp=timestamp, on_delivery=told)
    assert producer.flush(30) == 0
    assert failed == []


def consumed(node: Node, topic: str, count: int) -> list[Shown]:
    consumer = Consumer(
        {"bootstrap.servers": node.config.kafka.advertised, "group.id": "t", "enable.auto.commit": False}
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[Shown] = []
        while len(found) < count:
            messages = consumer.consume(count, timeout=20)
            assert messages, f"{len(found)} of {count} records came"
            for message in messages:
                assert message.error() is None
                assert message.offset() == len(found)
                found.append((message.key(), message.value(), message.headers() or [], message.timestamp()[1]))
        return found
    finally:
        consumer.close()


def read(client: Client, topic: str, count: int) -> list[Shown]:
    found: list[Shown] = []
    while len(found) < count:
        path = f"/topics/{topic}/partitions/0/records?offset={len(found)}&timeout=20000"
        records = client.get(path, BINARY).json
        assert records
        for record in records:
            assert record["offset"] == len(found)
            headers = [(one["name"], unpacked(one["value"])) for one in record["headers"]]
            found.append((unpacked(record["key"]), unpacked(record["value"]), headers, record["timestamp"]))
    return found


def unpacked(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def some_records(seed: int, count: int) -> list[Shown]:
    rng = random.Random(seed)

    def blob(longest: int) -> bytes:
        return rng.choice((rng.randbytes, lambda size: b"ab" * (size // 2)))(rng.randrange(longest))

    return [
        (
            rng.choice((None, b"", blob(20))),
            rng.choice((None, b"", blob(300), blob(3000))),
            [(rng.choice(("a", "name", "ä€")), rng.choice((None, b"", blob(30)))) for _ in range(rng.randrange(4))],
            1_700_000_000_000 + rng.randrange(10**9),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_what_kafka_produces_both_read(node: Node, real: Client, topic: str, codec: str) -> None:
    records = some_records(len(codec), 300)
    produced(node, topic, records, **{"compression.type": codec})
    assert consumed(node, topic, len(records)) == records
    assert read(real, topic, len(records)) == records


def test_what_http_produces_kafka_reads(node: Node, real: Client, topic: str) -> None:
    sent = [
        {"key": base64.b64encode(b"k%d" % n).decode(), "value": base64.b64encode(b"v%d" % n).decode()}
        for n in range(50)
    ]
    for start in (0, 25):
        body = {"records": [one | {"partition": 0} for one in sent[start : start + 25]]}
        assert real.post(f"/topics/{topic}", body, BINARY).status == 200
    found = consumed(node, topic, 50)
    assert [(key, value) for key, value, _, _ in found] == [(b"k%d" % n, b"v%d" % n) for n in range(50)]
    assert read(real, topic, 50) == found


def test_a_producer_without_idempotence_and_with_acks_0(node: Node, real: Client, topic: str) -> None:
    for acks in ("1", "0"):
        records = some_records(3, 50)
        produced(node, topic, records, **{"enable.idempotence": False, "acks": acks})
    assert read(real, topic, 100) == records * 2
