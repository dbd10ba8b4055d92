"""A member of a consumer group as a process of its own, so that it can be killed: `python -m tests.kafka.reader ...`.

It reads a topic, commits after every batch, and says what it does on its standard output, one JSON list a line:
["assigned", partitions], ["got", partition, offset, value], ["committed", partition, offset], ["failed", why]; each
behind the time on the machine's monotonic clock, in seconds. It ends in order when its standard input is closed.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SESSION_MS = 6_000
KINDS = ("confluent", "confluent-cooperative", "confluent-consumer", "kafka-python", "aiokafka")

Say = Callable[..., None]


def say(*what: Any) -> None:
    print(json.dumps([time.monotonic(), *what]), flush=True)


def _stopped() -> threading.Event:
    event = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        event.set()

    threading.Thread(target=wait, daemon=True).start()
    return event


def run_confluent(kind: str, bootstrap: str, topic: str, group: str, instance: str) -> None:
    from confluent_kafka import Consumer, KafkaException

    config: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "topic.metadata.refresh.interval.ms": 2000,
    }
    if instance:
        config["group.instance.id"] = instance
    if kind == "confluent-consumer":
        config["group.protocol"] = "consumer"
    else:
        strategy = "cooperative-sticky" if kind == "confluent-cooperative" else "range"
        config |= {"session.timeout.ms": SESSION_MS, "partition.assignment.strategy": strategy}
    consumer = Consumer(config)

    def assigned(consumer: Consumer, partitions: list[Any]) -> None:
        if kind == "confluent":
            consumer.assign(partitions)
        else:
            consumer.incremental_assign(partitions)
        say("assigned", sorted(one.partition for one in consumer.assignment()))

    stopped = _stopped()
    consumer.subscribe([topic], on_assign=assigned)
    while not stopped.is_set():
        messages = consumer.consume(50, timeout=0.2)
        ends: dict[int, int] = {}
        for message in messages:
            if message.error():
                say("failed", str(message.error()))
                continue
            say("got", message.partition(), message.offset(), message.value().decode())
            ends[message.partition()] = message.offset() + 1
        if ends:
            try:
                consumer.commit(asynchronous=False)
            except KafkaException as error:
                say("failed", str(error))
            else:
                for partition, offset in ends.items():
                    say("committed", partition, offset)
    consumer.close()


def run_kafka_python(kind: str, bootstrap: str, topic: str, group: str, instance: str) -> None:
    from kafka import KafkaConsumer
    from kafka.consumer.subscription_state import ConsumerRebalanceListener
    from kafka.errors import KafkaError

    class Listener(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked: Any) -> None:
            pass

        def on_partitions_assigned(self, assigned: Any) -> None:
            say("assigned", sorted(one.partition for one in assigned))

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        group_id=group,
        group_instance_id=instance or None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=1000,
        metadata_max_age_ms=2000,
    )
    stopped = _stopped()
    consumer.subscribe([topic], listener=Listener())
    while not stopped.is_set():
        ends = _told(consumer.poll(timeout_ms=200, max_records=50))
        if ends:
            try:
                consumer.commit()
            except KafkaError as error:
                say("failed", repr(error))
            else:
                for partition, offset in ends.items():
                    say("committed", partition, offset)
    consumer.close()


def _told(records: dict[Any, list[Any]]) -> dict[int, int]:
    ends: dict[int, int] = {}
    for place, found in records.items():
        for record in found:
            say("got", place.partition, record.offset, record.value.decode())
            ends[place.partition] = record.offset + 1
    return ends


def run_aiokafka(kind: str, bootstrap: str, topic: str, group: str, instance: str) -> None:
    from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
    from aiokafka.errors import KafkaError

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            pass

        async def on_partitions_assigned(self, assigned: Any) -> None:
            say("assigned", sorted(one.partition for one in assigned))

    async def main() -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=group,
            group_instance_id=instance or None,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=1000,
            metadata_max_age_ms=2000,
        )
        stopped = _stopped()
        await consumer.start()
        consumer.subscribe([topic], listener=Listener())
        while not stopped.is_set():
            ends = _told(await consumer.getmany(timeout_ms=200, max_records=50))
            if ends:
                try:
                    await consumer.commit()
                except KafkaError as error:
                    say("failed", repr(error))
                else:
                    for partition, offset in ends.items():
                        say("committed", partition, offset)
        await consumer.stop()

    asyncio.run(main())


def main() -> None:
    kind, *rest = sys.argv[1:]
    run = {"kafka-python": run_kafka_python, "aiokafka": run_aiokafka}.get(kind, run_confluent)
    run(kind, *rest)


if __name__ == "__main__":
    main()
