"""The Python clients: `python -m tests.kafka.clients confluent-kafka|kafka-python|aiokafka ...`."""

import asyncio
import signal
import sys
import threading
from typing import Any

PARTITIONS = 3
SESSION_MS = 6_000
stopped = threading.Event()


def confluent_kafka(command: str, bootstrap: str, topic: str, *rest: str) -> None:
    from confluent_kafka import Consumer, KafkaException, Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    settings: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0}
    if command == "produce":
        producer = Producer({**settings, "enable.idempotence": True, "linger.ms": 5, "compression.type": rest[0]})
        refused: list[object] = []
        for line in sys.stdin:
            value = line.strip()
            producer.produce(topic, value, on_delivery=lambda error, _: refused.append(error) if error else None)
            producer.poll(0)
        if producer.flush(60) or refused:
            sys.exit(f"refused: {refused}")
    elif command == "consume":
        settings |= {"session.timeout.ms": SESSION_MS, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer({**settings, "group.id": rest[0]})
        consumer.subscribe([topic])
        while not stopped.is_set():
            messages = [one for one in consumer.consume(100, 0.2) if one.error() is None]
            try:
                if messages:
                    consumer.commit(asynchronous=False)
            except KafkaException as error:
                print(error, file=sys.stderr)  # somebody reads them anew
                continue
            for one in messages:
                print((one.value() or b"").decode(), flush=True)
        consumer.close()
    else:
        admin = AdminClient(settings)
        if command == "create":
            admin.create_topics([NewTopic(topic, PARTITIONS, 3)])[topic].result(30)
        elif command == "delete":
            admin.delete_topics([topic])[topic].result(30)
        elif command == "describe":
            print(len(admin.list_topics(topic, 30).topics[topic].partitions))
        else:
            print(*admin.list_topics(timeout=30).topics, sep="\n")


def kafka_python(command: str, bootstrap: str, topic: str, *rest: str) -> None:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError

    servers = bootstrap.split(",")
    if command == "produce":
        compression = None if rest[0] == "none" else rest[0]
        with KafkaProducer(bootstrap_servers=servers, compression_type=compression, linger_ms=5) as producer:
            futures = [producer.send(topic, line.strip().encode()) for line in sys.stdin]
            for future in futures:
                future.get(60)
    elif command == "consume":
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=servers,
            group_id=rest[0],
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=1000,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        while not stopped.is_set():
            found = consumer.poll(200)
            try:
                if found:
                    consumer.commit()
            except KafkaError as error:
                print(repr(error), file=sys.stderr)
                continue
            _tell(found)
        consumer.close()
    else:
        with KafkaAdminClient(bootstrap_servers=servers) as admin:
            if command == "create":
                admin.create_topics([NewTopic(topic, PARTITIONS, 3)])
            elif command == "delete":
                admin.delete_topics([topic])
            elif command == "describe":
                print(len(admin.describe_topics([topic])[0]["partitions"]))
            else:
                print(*admin.list_topics(), sep="\n")


def _tell(found: dict[Any, list[Any]]) -> None:
    for records in found.values():
        for one in records:
            print(one.value.decode(), flush=True)


async def aiokafka(command: str, bootstrap: str, topic: str, *rest: str) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import KafkaError

    if command == "produce":
        compression = None if rest[0] == "none" else rest[0]
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=compression, enable_idempotence=True)
        async with producer:
            lines = asyncio.to_thread
            futures = []
            while line := await lines(sys.stdin.readline):
                futures.append(await producer.send(topic, line.strip().encode()))
            await asyncio.gather(*futures)
    elif command == "consume":
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=rest[0],
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=1000,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            metadata_max_age_ms=10_000,  # as docs/kafka-clients.md says, and why
        )
        async with consumer:
            while not stopped.is_set():
                found = await consumer.getmany(timeout_ms=200)
                try:
                    if found:
                        await consumer.commit()
                except KafkaError as error:
                    print(repr(error), file=sys.stderr)
                    continue
                _tell(found)
    else:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        if command == "create":
            await admin.create_topics([NewTopic(topic, PARTITIONS, 3)])
        elif command == "delete":
            await admin.delete_topics([topic])
        elif command == "describe":
            print(len((await admin.describe_topics([topic]))[0]["partitions"]))
        else:
            print(*await admin.list_topics(), sep="\n")
        await admin.close()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    client, *rest = sys.argv[1:]
    if client == "aiokafka":
        asyncio.run(aiokafka(*rest))
    else:
        (kafka_python if client == "kafka-python" else confluent_kafka)(*rest)


if __name__ == "__main__":
    main()
