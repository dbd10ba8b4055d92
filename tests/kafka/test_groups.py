"""Consumer groups of unmodified clients on three nodes, with members and their coordinator killed in the middle."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaAdminClient
from kafka.protocol.metadata.find_coordinator import FindCoordinatorRequest

from tests.cluster.dev import DevCluster, dev_cluster
from tests.kafka.reader import KINDS
from tests.kafka.readers import Reader, closing, read_after_commit, until, values
from tests.unit.kafka.conftest import Wire

pytestmark = pytest.mark.cluster

PARTITIONS = 6
_names = itertools.count(1)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with dev_cluster(tmp_path_factory.mktemp("groups"), 3) as cluster:
        yield cluster


def kafka_address(dev: DevCluster, node: int) -> str:
    return f"127.0.0.1:{9091 + node + dev.offset}"


@pytest.fixture
def bootstrap(dev: DevCluster) -> str:
    dev.wait_whole()  # a topic of three replicas is refused while a node is down
    return ",".join(kafka_address(dev, node) for node in (1, 2, 3))


@pytest.fixture
def topic(bootstrap: str) -> str:
    name = f"read-{next(_names)}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(name, PARTITIONS, 3)]).values():
        future.result(30)
    return name


class Writer:
    """Produces until it is stopped; knows what was acknowledged."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.acknowledged: set[str] = set()
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20})
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                break
            value = str(number)

            def told(error: object, _: object, value: str = value) -> None:
                if error is None:
                    self.acknowledged.add(value)

            self._producer.produce(self._topic, value.encode(), partition=number % PARTITIONS, on_delivery=told)
            self._producer.poll(0.005)
        self._producer.flush(30)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def writer(bootstrap: str, topic: str) -> Iterator[Writer]:
    running = Writer(bootstrap, topic)
    yield running
    running.stop()


def coordinator(dev: DevCluster, group: str) -> int:
    """The node that coordinates the group, as a node that runs says."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for node in (1, 2, 3):
            try:
                wire = Wire(kafka_address(dev, node))
            except OSError:
                continue
            try:
                answer = wire.ask(FindCoordinatorRequest(key_type=0, coordinator_keys=[group]), 4).coordinators[0]
            except OSError:
                continue
            finally:
                wire.close()
            if not answer.error_code:
                return int(answer.node_id)
        time.sleep(0.1)
    raise AssertionError("nobody knows who coordinates the group")


def shared(readers: list[Reader]) -> bool:
    """They have all partitions among them, everyone some."""
    parts = [reader.partitions for reader in readers]
    return all(parts) and sorted(itertools.chain(*parts)) == list(range(PARTITIONS))


@pytest.mark.parametrize("kind", KINDS)
def test_three_members_one_killed_then_their_coordinator(
    dev: DevCluster, bootstrap: str, topic: str, writer: Writer, kind: str
) -> None:
    group = f"group-of-{topic}"
    with closing([Reader(f"{kind}-{number}", kind, bootstrap, topic, group) for number in range(3)]) as readers:
        until(lambda: shared(readers), readers)
        until(lambda: all(reader.all("committed") for reader in readers), readers)
        readers[2].kill()
        seconds = 90.0 if kind == "confluent-consumer" else 60.0
        until(lambda: shared(readers[:2]), readers, seconds)
        assignments = [len(reader.all("assigned")) for reader in readers[:2]]
        victim = coordinator(dev, group)
        dev.kill(victim)
        before = set(writer.acknowledged)
        until(lambda: len(writer.acknowledged) > len(before) + 300, readers)
        writer.stop()
        until(lambda: writer.acknowledged <= values(readers), readers)
        assert not read_after_commit(readers)
        assert [len(reader.all("assigned")) for reader in readers[:2]] == assignments, "nobody had to join again"
        dev.wait_ready()
        admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
        described = admin.describe_groups([group])[group]
        if kind != "confluent-consumer":
            assert (described["group_state"], len(described["members"])) == ("Stable", 2)
        assert group in {one["group_id"] for one in admin.list_groups()}
    assert admin.delete_groups([group])
    assert group not in {one["group_id"] for one in admin.list_groups()}
    admin.close()


def test_static_members_come_back_without_a_rebalance(bootstrap: str, topic: str, writer: Writer) -> None:
    group = f"static-{topic}"

    def reader(number: int, life: int = 0) -> Reader:
        return Reader(f"static-{number}-{life}", "confluent", bootstrap, topic, group, f"instance-{number}")

    with closing([reader(0), reader(1)]) as readers:
        until(lambda: shared(readers), readers)
        assigned = len(readers[0].all("assigned"))
        mine = readers[1].partitions
        readers[1].kill()
        readers.append(reader(1, 1))
        until(lambda: bool(readers[2].partitions), readers)
        assert readers[2].partitions == mine
        until(lambda: len(readers[2].all("got")) > 20, readers)
        assert len(readers[0].all("assigned")) == assigned, "the other one heard nothing of it"
        writer.stop()
        until(lambda: writer.acknowledged <= values(readers), readers)
        assert not read_after_commit(readers)


def test_a_group_goes_on_through_the_deaths_of_every_node_in_turn(
    dev: DevCluster, bootstrap: str, topic: str, writer: Writer, tmp_path: Path
) -> None:
    group = f"through-{topic}"
    with closing([Reader(f"r{number}", "confluent", bootstrap, topic, group) for number in range(2)]) as readers:
        until(lambda: shared(readers), readers)
        for node in (1, 2, 3):
            os.kill(dev.pid(node), signal.SIGKILL)
            seen = len(writer.acknowledged)
            until(lambda seen=seen: len(writer.acknowledged) > seen + 200, readers)  # type: ignore[misc]
            dev.wait_ready(node)
        writer.stop()
        until(lambda: writer.acknowledged <= values(readers), readers)
        assert not read_after_commit(readers)
