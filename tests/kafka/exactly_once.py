"""A worker that reads numbers, writes each one on with its partition and offset, and does both exactly once (KIP-447).

    python -m tests.kafka.exactly_once BOOTSTRAP SOURCE TARGET GROUP TRANSACTIONAL_ID

As an application would be written with confluent-kafka: a transaction for what was read at a time, its offsets sent
along; what the client says may be tried again is, what it says must be aborted is aborted and read anew, and after a
fatal error the worker begins again. It ends when its standard input does, and says how often each of this happened.
"""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

SECONDS = 30.0
BATCH = 50


class Fatal(Exception):
    """The producer cannot be used any more."""


class Worker:
    def __init__(self, bootstrap: str, source: str, target: str, group: str, transactional_id: str) -> None:
        self.bootstrap = bootstrap
        self.source = source
        self.target = target
        self.group = group
        self.transactional_id = transactional_id
        self.counts: Counter[str] = Counter()
        self.stopping = threading.Event()

    def run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": self.group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 10_000,
                "log_level": 0,
            }
        )
        consumer.subscribe([self.source])
        while not self.stopping.is_set():
            try:
                self._with_a_producer(consumer)
            except Fatal:
                self.counts["began anew"] += 1
        consumer.close()

    def _with_a_producer(self, consumer: Consumer) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "transactional.id": self.transactional_id,
                "transaction.timeout.ms": 30_000,
                "metadata.recovery.strategy": "none",  # docs/kafka-clients.md says why
                "linger.ms": 2,
                "log_level": 0,
            }
        )
        self._again(lambda: producer.init_transactions(SECONDS))
        rewind(consumer)
        while not self.stopping.is_set():
            messages = [one for one in consumer.consume(BATCH, 0.2) if one.error() is None]
            if messages:
                self._transaction(consumer, producer, messages)

    def _transaction(self, consumer: Consumer, producer: Producer, messages: list[Message]) -> None:
        try:
            producer.begin_transaction()
            for one in messages:
                producer.produce(self.target, moved_on(one), partition=one.partition() or 0)
                producer.poll(0)
            offsets = [TopicPartition(self.source, number, offset) for number, offset in positions(messages).items()]
            metadata = consumer.consumer_group_metadata()
            self._again(lambda: producer.send_offsets_to_transaction(offsets, metadata, SECONDS))
            self._again(lambda: producer.commit_transaction(SECONDS))
            self.counts["committed"] += 1
        except KafkaException as caught:
            error = caught.args[0]
            if error.fatal() or not error.txn_requires_abort():
                raise Fatal(str(error)) from caught
            self._again(lambda: producer.abort_transaction(SECONDS))
            self.counts["aborted"] += 1
            rewind(consumer)

    def _again(self, call: Callable[[], None]) -> None:
        """Until it succeeds, for as long as the client says that it may."""
        while True:
            try:
                return call()
            except KafkaException as caught:
                error = caught.args[0]
                if not error.retriable() or self.stopping.is_set():
                    if error.fatal():
                        raise Fatal(str(error)) from caught
                    raise
                self.counts["tried again"] += 1


def moved_on(message: Message) -> bytes:
    return json.dumps([message.partition(), message.offset(), int(message.value() or b"")]).encode()


def positions(messages: list[Message]) -> dict[int, int]:
    """Behind the last one of each partition."""
    return {message.partition() or 0: (message.offset() or 0) + 1 for message in messages}


def rewind(consumer: Consumer) -> None:
    """Back to what is committed: what was read since is in no transaction."""
    while True:
        try:
            assigned = consumer.assignment()
            for place in consumer.committed(assigned, SECONDS) if assigned else ():
                if place.error is not None:
                    raise KafkaException(place.error)
                consumer.seek(TopicPartition(place.topic, place.partition, max(place.offset, 0)))
            return
        except KafkaException as caught:
            error: KafkaError = caught.args[0]
            if error.fatal():
                raise
            consumer.poll(0.1)  # the coordinator has moved, or partitions have: what is polled here is read anew


def main() -> None:
    worker = Worker(*sys.argv[1:])
    running = threading.Thread(target=worker.run)
    running.start()
    sys.stdin.read()
    worker.stopping.set()
    running.join()
    sys.stdout.write(json.dumps(worker.counts) + "\n")


if __name__ == "__main__":
    main()
