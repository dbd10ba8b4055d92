"""Transactions as people's own clients do them: librdkafka's and kafka-python's producers, over a real node."""

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as PythonTopicPartition

SECONDS = 30.0


@pytest.fixture
def topic(confluent: AdminClient, name: str) -> str:
    (made,) = confluent.create_topics([NewTopic(name, 2, 1)]).values()
    made.result(SECONDS)
    return name


def begun(address: str, transactional_id: str, **more: object) -> Producer:
    producer = Producer({"bootstrap.servers": address, "transactional.id": transactional_id, "linger.ms": 5, **more})
    producer.init_transactions(SECONDS)
    return producer


def consumer(address: str, group: str, isolation: str = "read_committed") -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": address,
            "group.id": group,
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )


def read(address: str, topic: str, isolation: str = "read_committed") -> list[bytes]:
    """All that a reader sees from the beginning of both partitions to their ends, sorted."""
    reader = consumer(address, f"reader of {topic}", isolation)
    reader.assign([TopicPartition(topic, number, 0) for number in (0, 1)])
    values: list[bytes] = []
    ended: set[int] = set()
    deadline = time.monotonic() + SECONDS
    while len(ended) < 2:
        assert time.monotonic() < deadline, f"only {values} and the ends of {ended}"
        message = reader.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            values.append(message.value() or b"")
        else:
            assert error.code() == KafkaError._PARTITION_EOF, error
            ended.add(message.partition() or 0)
    reader.close()
    return sorted(values)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_librdkafka_commits_and_aborts(address: str, topic: str) -> None:
    producer = begun(address, f"of {topic}")
    for number in range(6):
        producer.begin_transaction()
        for partition in (0, 1):
            for value in (b"a", b"b", b"c"):
                producer.produce(topic, b"%d" % number + value, partition=partition)
        if number % 2:
            producer.abort_transaction(SECONDS)
        else:
            producer.commit_transaction(SECONDS)
    expected = sorted(b"%d" % number + value for number in (0, 2, 4) for value in (b"a", b"b", b"c") for _ in (0, 1))
    eventually(lambda: read(address, topic) == expected)
    assert set(read(address, topic, "read_uncommitted")) >= set(expected)


def test_librdkafka_readers_of_committed_records_wait_for_open_transactions(address: str, topic: str) -> None:
    one, two = begun(address, f"one of {topic}"), begun(address, f"two of {topic}")
    one.begin_transaction()
    two.begin_transaction()
    one.produce(topic, b"one", partition=0)
    one.flush(SECONDS)
    two.produce(topic, b"two", partition=0)
    two.commit_transaction(SECONDS)
    assert read(address, topic) == []
    assert read(address, topic, "read_uncommitted") == [b"one", b"two"]
    one.abort_transaction(SECONDS)
    eventually(lambda: read(address, topic) == [b"two"])


def test_a_second_librdkafka_producer_fences_the_first(address: str, topic: str) -> None:
    old = begun(address, f"of {topic}")
    old.begin_transaction()
    old.produce(topic, b"old", partition=0)
    old.flush(SECONDS)
    new = begun(address, f"of {topic}")
    with pytest.raises(KafkaException) as caught:
        old.commit_transaction(SECONDS)
    assert caught.value.args[0].fatal()
    new.begin_transaction()
    new.produce(topic, b"new", partition=1)
    new.commit_transaction(SECONDS)
    eventually(lambda: read(address, topic) == [b"new"])


def test_a_transaction_of_librdkafka_times_out(address: str, topic: str) -> None:
    producer = begun(address, f"of {topic}", **{"transaction.timeout.ms": 1000, "message.timeout.ms": 1000})
    producer.begin_transaction()
    producer.produce(topic, b"late", partition=0)
    producer.flush(SECONDS)
    assert read(address, topic, "read_uncommitted") == [b"late"]
    following = Producer({"bootstrap.servers": address})
    following.produce(topic, b"plain", partition=0)
    following.flush(SECONDS)
    eventually(lambda: read(address, topic) == [b"plain"])
    with pytest.raises(KafkaException):
        producer.commit_transaction(SECONDS)


def test_librdkafka_reads_transforms_and_writes_exactly_once(address: str, topic: str, confluent: AdminClient) -> None:
    target = f"{topic}-out"
    (made,) = confluent.create_topics([NewTopic(target, 2, 1)]).values()
    made.result(SECONDS)
    source = Producer({"bootstrap.servers": address})
    for number in range(20):
        source.produce(topic, b"%d" % number, partition=number % 2)
    source.flush(SECONDS)
    for attempt in range(3):  # the first two give up half way
        reader = consumer(address, f"group of {topic}")
        reader.subscribe([topic])
        producer = begun(address, f"loop of {topic}")
        done = 0
        deadline = time.monotonic() + SECONDS
        while done < (10 if attempt < 2 else 1000) and time.monotonic() < deadline:
            message = reader.poll(1.0)
            if message is None or message.error() is not None:
                if attempt == 2 and len(read(address, target)) == 20:
                    break
                continue
            producer.begin_transaction()
            producer.produce(target, b"<" + (message.value() or b"") + b">", partition=message.partition() or 0)
            metadata = reader.consumer_group_metadata()
            producer.send_offsets_to_transaction(reader.position(reader.assignment()), metadata, SECONDS)
            done += 1
            if done % 4 == 3 and attempt < 2:
                producer.abort_transaction(SECONDS)
                break
            producer.commit_transaction(SECONDS)
        reader.close()
    assert read(address, target) == sorted(b"<%d>" % number for number in range(20))


def test_kafka_python_commits_aborts_and_sends_offsets(address: str, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=address, transactional_id=f"python of {topic}")
    producer.init_transactions()
    for number in range(4):
        producer.begin_transaction()
        for partition in (0, 1):
            producer.send(topic, b"%d" % number, partition=partition)
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    producer.close()
    eventually(lambda: read(address, topic) == [b"0", b"0", b"2", b"2"])
    reader = KafkaConsumer(
        bootstrap_servers=address, isolation_level="read_committed", auto_offset_reset="earliest", group_id=None
    )
    reader.assign([PythonTopicPartition(topic, number) for number in (0, 1)])
    values: list[bytes] = []
    deadline = time.monotonic() + SECONDS
    while len(values) < 4:
        assert time.monotonic() < deadline
        values += [record.value for records in reader.poll(500).values() for record in records]
    assert sorted(values) == [b"0", b"0", b"2", b"2"]
    reader.close()
