"""Exactly once, with nodes killed all the time: numbers are read, written on and counted, by unmodified clients.

    KILLS=50 pytest tests/kafka/test_transactions.py

Two workers share a consumer group; each moves what it reads from one topic to another in transactions. While nodes of
a three-node cluster are killed with `kill -9`, one after the other, numbers go on being produced. In the end a reader
of committed records must find every acknowledged number in the other topic, once, and in its partition's order.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.cluster.dev import DevCluster, dev_cluster

pytestmark = pytest.mark.cluster

KILLS = int(os.environ.get("KILLS", "4"))
PARTITIONS = 3
GROUP = "movers"
DRAIN_SECONDS = 120.0
MOVED = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
"""The coordinator has just gone: librdkafka leaves it to its user to ask for offsets again."""


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[DevCluster]:
    with dev_cluster(tmp_path, 3) as cluster:
        yield cluster


@pytest.fixture
def bootstrap(dev: DevCluster) -> str:
    addresses = ",".join(f"127.0.0.1:{9091 + node + dev.offset}" for node in (1, 2, 3))
    admin = AdminClient({"bootstrap.servers": addresses})
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 3) for name in ("numbers", "moved")]).values():
        future.result(30)
    return addresses


class Feeder:
    """Produces numbers until it is told to stop; `acknowledged` is (partition, offset) -> number."""

    def __init__(self, bootstrap: str) -> None:
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.failed: list[KafkaError] = []
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20, "log_level": 0}
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            self._producer.produce("numbers", b"%d" % number, partition=number % PARTITIONS, on_delivery=self._told)
            self._producer.poll(0)
            time.sleep(0.005)
        self._producer.flush(DRAIN_SECONDS)

    def _told(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append(error)
        else:
            self.acknowledged[message.partition() or 0, message.offset() or 0] = int(message.value() or b"")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def workers(commands: list[list[str]]) -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that run until their standard input is closed."""
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        yield running
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
            one.wait()


def told(worker: "subprocess.Popen[str]") -> dict[str, int]:
    """Ends a worker in order; what it counted."""
    said, complained = worker.communicate("", timeout=DRAIN_SECONDS)
    assert worker.returncode == 0, complained
    counts: dict[str, int] = json.loads(said.splitlines()[-1])
    return counts


def kill_nodes(dev: DevCluster, kills: int) -> None:
    """Another one at random, as soon as all are back and a moment has passed."""
    drawn = random.Random(kills)
    for _ in range(kills):
        time.sleep(drawn.uniform(0.5, 3.0))
        node = drawn.randint(1, dev.nodes)
        before = dev.pid(node)
        dev.kill(node)
        deadline = time.monotonic() + 60
        while not another(dev, node, before):
            assert time.monotonic() < deadline, f"node {node} is not started again:\n{dev.output()}"
            time.sleep(0.05)
        dev.wait_ready()


def another(dev: DevCluster, node: int, before: int) -> bool:
    """Whether the node runs as another process."""
    try:
        return dev.pid(node) != before
    except (FileNotFoundError, ValueError):
        return False


def drain(bootstrap: str, feeder: Feeder, running: "list[subprocess.Popen[str]]") -> None:
    """Returns once the group has committed everything that there is to read."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP, "log_level": 0})
    places = [TopicPartition("numbers", partition) for partition in range(PARTITIONS)]
    wanted = {partition: offset + 1 for partition, offset in sorted(feeder.acknowledged)}
    deadline = time.monotonic() + DRAIN_SECONDS
    committed: dict[int, int] = {}
    while True:
        try:
            committed = {place.partition: place.offset for place in consumer.committed(places, 30)}
        except KafkaException as caught:
            if caught.args[0].code() not in MOVED:
                raise
        if committed and all(committed[partition] >= offset for partition, offset in wanted.items()):
            break
        assert time.monotonic() < deadline, f"committed {committed}, wanted {wanted}"
        assert all(one.poll() is None for one in running), "a worker has ended"
        time.sleep(0.2)
    consumer.close()


def read_committed(bootstrap: str) -> dict[int, list[list[int]]]:
    """What stands in `moved`: [partition, offset, number] by partition, in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "a reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition("moved", partition, 0) for partition in range(PARTITIONS)])
    found: dict[int, list[list[int]]] = {partition: [] for partition in range(PARTITIONS)}
    ended: set[int] = set()
    deadline = time.monotonic() + DRAIN_SECONDS
    while len(ended) < PARTITIONS:
        assert time.monotonic() < deadline, f"read to the end of {ended} only"
        message = consumer.poll(1.0)
        if message is None:
            continue
        error, partition = message.error(), message.partition() or 0
        if error is None:
            found[partition].append(json.loads(message.value() or b""))
        elif error.code() == KafkaError._PARTITION_EOF:
            ended.add(partition)
    consumer.close()
    return found


def survive(dev: DevCluster, bootstrap: str, commands: list[list[str]]) -> None:
    with workers(commands) as running:
        feeder = Feeder(bootstrap)
        try:
            kill_nodes(dev, KILLS)
        finally:
            feeder.stop()
        assert feeder.failed == []
        drain(bootstrap, feeder, running)
        counts = [told(one) for one in running]
    found = read_committed(bootstrap)
    sys.stdout.write(f"{KILLS} kills, {len(feeder.acknowledged)} numbers, {counts}\n")
    assert len(feeder.acknowledged) > 100 * KILLS
    assert sum(one.get("committed", 0) for one in counts) > KILLS, counts
    for partition, moved in found.items():
        mine = sorted(place for place in feeder.acknowledged if place[0] == partition)
        assert [(p, offset) for p, offset, _ in moved] == mine
    moved_numbers = [number for moved in found.values() for _, _, number in moved]
    assert sum(moved_numbers) == sum(feeder.acknowledged.values())
    assert sorted(moved_numbers) == sorted(feeder.acknowledged.values())


def test_confluent_kafka_moves_every_number_once(dev: DevCluster, bootstrap: str) -> None:
    worker = [sys.executable, "-m", "tests.kafka.exactly_once", bootstrap, "numbers", "moved", GROUP]
    survive(dev, bootstrap, [[*worker, f"mover-{number}"] for number in (1, 2)])


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How to run the Java worker: ours, compiled here, with Kafka's client from Maven Central."""
    missing = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)} here: install a JDK and Maven to test the Java client")
    folder = tmp_path_factory.mktemp("java")
    for source in (Path(__file__).parent / "java").iterdir():
        shutil.copy(source, folder)
    built = subprocess.run(["mvn", "-q", "-B", "package"], cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode and "Could not transfer artifact" in built.stdout:
        pytest.skip("Kafka's Java client cannot be fetched from Maven Central here")
    assert built.returncode == 0, built.stdout
    return ["java", "-Xmx256m", "-cp", f"{folder}/target/classes:{folder}/target/lib/*", "ExactlyOnce"]


def test_the_java_client_moves_every_number_once(dev: DevCluster, bootstrap: str, java: list[str]) -> None:
    worker = [*java, bootstrap, "numbers", "moved", GROUP]
    survive(dev, bootstrap, [[*worker, f"mover-{number}"] for number in (1, 2)])
