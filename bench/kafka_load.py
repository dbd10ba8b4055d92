"""The load generator of the Kafka cases, a process of its own: `python -m bench.kafka_load`.

It takes one `KafkaLoad` as a JSON line, warms up, says that it is ready, begins when told with another line, and
answers one JSON line, `KafkaLoadResult`. What it counts has been acknowledged, or read.
"""

import contextlib
import os
import sys
import threading
import time
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from bench.processes import Failed
from bench.results import KafkaCase, quantile

LINGER_MS = 5
RATE = 1_000
"""Records a second, where latency is looked at."""
FLUSH_SECONDS = 60.0
_TICK = 256
"""Records between two looks at the clock."""
_STAMP_BYTES = 8


class KafkaLoad(msgspec.Struct, frozen=True):
    bootstrap: str
    topic: str
    case: KafkaCase
    warm_up: float
    seconds: float


class KafkaLoadResult(msgspec.Struct, frozen=True):
    seconds: float
    records: int
    cpu_seconds: float
    """Of this process."""
    median_ms: float = 0.0
    """Of a record from end to end, where that was looked at."""
    p99_ms: float = 0.0
    waited: float = 0.0
    """Seconds in which the producer could only wait: its queue full, or all handed over and not yet acknowledged."""
    retries: int = 0
    """Requests that had to be sent again."""


class _BrokerStatistics(msgspec.Struct):
    txretries: int = 0


class _Statistics(msgspec.Struct):
    """What of librdkafka's is looked at."""

    brokers: dict[str, _BrokerStatistics]


class _Sender:
    """A producer that tells only of what was refused."""

    def __init__(self, load: KafkaLoad) -> None:
        self._refused: list[KafkaError] = []
        self.retries = 0
        self.waited = 0.0
        self.topic = load.topic
        self.producer = Producer(
            {
                "bootstrap.servers": load.bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": LINGER_MS,
                "delivery.report.only.error": True,
                "on_delivery": lambda error, _: self._refused.append(error),
                "statistics.interval.ms": 500,
                "stats_cb": self._count,
            }
        )

    def _count(self, text: str) -> None:
        found = msgspec.json.decode(text, type=_Statistics)
        self.retries = sum(broker.txretries for broker in found.brokers.values())

    def send(self, value: bytes) -> None:
        while True:
            try:
                self.producer.produce(self.topic, value)
            except BufferError:  # its queue is full
                began = time.perf_counter()
                self.producer.poll(0.01)
                self.waited += time.perf_counter() - began
            else:
                return

    def flush(self) -> None:
        """All that was sent is acknowledged. Raises Failed."""
        began = time.perf_counter()
        left = self.producer.flush(FLUSH_SECONDS)
        self.waited += time.perf_counter() - began
        if left or self._refused:
            raise Failed(f"{len(self._refused)} records were refused, {left} not answered: {self._refused[:1]}")


def produce(sender: _Sender, case: KafkaCase, seconds: float) -> tuple[int, float]:
    """(records, seconds until the last was acknowledged)"""
    value = os.urandom(case.size)
    records, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(_TICK):
            sender.send(value)
        records += _TICK
        sender.producer.poll(0)
    sender.flush()
    return records, time.perf_counter() - began


def _consumer(load: KafkaLoad, offset: int) -> Consumer:
    settings: dict[str, Any] = {
        "bootstrap.servers": load.bootstrap,
        "group.id": "bench",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(load.topic, number, offset) for number in range(load.case.partitions)])
    return consumer


def _good(message: Any) -> bool:
    """Whether it is a record; else a partition's end. Raises KafkaException."""
    error = message.error()
    if error is None:
        return True
    if error.code() == KafkaError._PARTITION_EOF:
        return False
    raise KafkaException(error)


def read(load: KafkaLoad, seconds: float) -> tuple[int, float]:
    """All there is, once; the time counts from the first record. Raises Failed where it takes ten times `seconds`."""
    consumer = _consumer(load, OFFSET_BEGINNING)
    records, ended, began, last = 0, 0, 0.0, 0.0
    deadline = time.perf_counter() + max(30.0, 10 * seconds)
    while ended < load.case.partitions:
        messages = consumer.consume(10_000, 0.2)
        now = time.perf_counter()
        good = sum(map(_good, messages))
        ended += len(messages) - good
        if good:
            began, last = began or now, now
            records += good
        if now > deadline:
            raise Failed(f"{ended} of {load.case.partitions} partitions were read to their ends in time")
    consumer.close()
    if last <= began:
        raise Failed(f"topic {load.topic} holds too little to read")
    return records, last - began


class _Times:
    """Reads what arrives, and how long after it was sent."""

    def __init__(self, load: KafkaLoad) -> None:
        self._consumer = _consumer(load, OFFSET_END)
        self._at_end = threading.Event()
        self._partitions = load.case.partitions
        self.took: list[float] = []
        """ms of each record."""
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        if not self._at_end.wait(30.0):
            self.end()
            raise Failed("the consumer did not get to the end of every partition")

    def _run(self) -> None:
        ends: set[int] = set()
        try:
            while not self._ended.is_set():
                message = self._consumer.poll(0.1)
                if message is None:
                    continue
                if _good(message):
                    sent = int.from_bytes(message.value()[:_STAMP_BYTES], "big")
                    self.took.append((time.perf_counter_ns() - sent) / 1e6)
                else:
                    ends.add(message.partition())
                    if len(ends) == self._partitions:
                        self._at_end.set()
        except KafkaException as error:
            self._failure = error

    def wait(self, records: int) -> None:
        deadline = time.perf_counter() + FLUSH_SECONDS
        while len(self.took) < records and self._failure is None:
            if time.perf_counter() > deadline:
                raise Failed(f"{len(self.took)} of {records} records arrived")
            time.sleep(0.01)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._consumer.close()
        if self._failure is not None:
            raise self._failure


def steady(sender: _Sender, case: KafkaCase, seconds: float) -> tuple[int, float]:
    """(records, seconds) at RATE; a record's first bytes say when it was handed over."""
    rest = os.urandom(case.size - _STAMP_BYTES)
    began, records = time.perf_counter(), int(RATE * seconds)
    for number in range(records):
        early = began + number / RATE - time.perf_counter()
        if early > 0:
            sender.producer.poll(0)
            time.sleep(early)
        sender.send(time.perf_counter_ns().to_bytes(_STAMP_BYTES, "big") + rest)
    sender.flush()
    return records, time.perf_counter() - began


def run(load: KafkaLoad) -> None:
    case = load.case
    if case.what == "read":
        _ready()
        used = time.process_time()
        records, took = read(load, load.seconds)
        _answer(KafkaLoadResult(took, records, time.process_time() - used))
        return
    sender = _Sender(load)
    if case.what == "produce":
        produce(sender, case, load.warm_up)
        _ready()
        used, sender.waited = time.process_time(), 0.0
        records, took = produce(sender, case, load.seconds)
        used = time.process_time() - used
        _answer(KafkaLoadResult(took, records, used, waited=sender.waited, retries=sender.retries))
        return
    times = _Times(load)
    try:
        warm, _ = steady(sender, case, load.warm_up)
        times.wait(warm)
        times.took.clear()
        _ready()
        used = time.process_time()
        records, took = steady(sender, case, load.seconds)
        times.wait(records)
        used = time.process_time() - used
    finally:
        times.end()
    median_ms, p99_ms = quantile(times.took, 0.5), quantile(times.took, 0.99)
    _answer(KafkaLoadResult(took, records, used, median_ms, p99_ms, sender.waited, sender.retries))


def _ready() -> None:
    _say(b"ready")
    sys.stdin.buffer.readline()


def _answer(result: KafkaLoadResult) -> None:
    _say(msgspec.json.encode(result))


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    load = msgspec.json.decode(sys.stdin.buffer.readline(), type=KafkaLoad)
    try:
        run(load)
    except (Failed, KafkaException) as error:
        sys.stderr.write(f"the load generator failed: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
