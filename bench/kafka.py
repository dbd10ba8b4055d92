"""The same work through librdkafka (confluent-kafka): what Kafka's clients get of the cluster, and what it costs.

Records go in with acks=all, idempotence and a linger of 5 ms, are read back, and then come at a steady rate, to see how
long each takes from one end to the other; topics of one partition and of twelve. The client is a process of its own
(`bench.kafka_load`), whose CPU time is told beside that of the nodes, and so is how long it could only wait: a
client that waits is not what limits the rate.
"""

import sys
import time
from collections.abc import Callable

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from bench.cluster import Cluster, Topic
from bench.kafka_load import KafkaLoad, KafkaLoadResult
from bench.processes import Failed, Started, cpu_seconds, hear, say
from bench.results import KafkaCase, KafkaResult
from bench.settings import Settings

CASES = tuple(
    KafkaCase(what, size, partitions)
    for partitions in (1, 12)
    for what, size in (("produce", 100), ("read", 100), ("produce", 1024), ("read", 1024), ("latency", 1024))
)
"""Reads come after what they read was produced."""
RETENTION_BYTES = 1 << 31


class _Broker(msgspec.Struct, frozen=True):
    kafka: str


class KafkaBench:
    """`window` is told when a case's measured time begins, and with an empty name when it is over."""

    def __init__(
        self,
        started: Started,
        cluster: Cluster,
        settings: Settings,
        window: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._started = started
        self._cluster = cluster
        self._settings = settings
        self._window = window
        answer = cluster.connect(next(iter(cluster.addresses))).call("GET", "/v1/brokers")
        self._bootstrap = ",".join(one.kafka for one in msgspec.json.decode(answer.body, type=list[_Broker]))
        self._topics: dict[tuple[int, int], str] = {}
        self.leader_pid = 0
        """Of the last case's first partition."""

    def measure(self, case: KafkaCase) -> KafkaResult:
        """Raises Failed."""
        cluster, settings = self._cluster, self._settings
        topic = self._topic(case)
        leader = cluster.leader(Topic(topic, 0))
        generator = self._started.start([sys.executable, "-m", "bench.kafka_load"])
        say(generator, msgspec.json.encode(KafkaLoad(self._bootstrap, topic, case, settings.warm_up, settings.kafka)))
        hear(generator)
        pids = {node: cluster.pid(node) for node in cluster.addresses}
        self.leader_pid = pids[leader]
        self._window(case.name)
        before = {node: cpu_seconds(pid) for node, pid in pids.items()}
        say(generator, b"go")
        result = msgspec.json.decode(hear(generator), type=KafkaLoadResult)
        used = tuple(cpu_seconds(pid) - before[node] for node, pid in pids.items())
        self._window("")
        self._started.stop([generator])
        if case.partitions == 1 and cluster.leader(Topic(topic, 0)) != leader:
            raise Failed(f"the leader of {topic} changed during the case {case.name}: the figures mean nothing")
        return KafkaResult(
            case,
            result.seconds,
            result.records,
            result.cpu_seconds,
            used,
            result.median_ms,
            result.p99_ms,
            result.waited,
            result.retries,
        )

    def _topic(self, case: KafkaCase) -> str:
        """Reads find what was produced; what is to be timed has a topic of its own."""
        if case.what == "latency":
            return self._create(case)
        kind = (case.size, case.partitions)
        if kind not in self._topics:
            self._topics[kind] = self._create(case)
        return self._topics[kind]

    def _create(self, case: KafkaCase) -> str:
        name = f"bench-kafka-{case.size}-{case.partitions}-{time.time_ns():x}"
        new = NewTopic(
            name,
            case.partitions,
            len(self._cluster.addresses),
            config={"retention.bytes": str(RETENTION_BYTES // case.partitions)},
        )
        admin = AdminClient({"bootstrap.servers": self._bootstrap})  # it has to outlive what it is asked for
        try:
            admin.create_topics([new])[name].result(30)
        except KafkaException as error:
            raise Failed(f"the topic {name} could not be made: {error}") from error
        self._cluster.settle()
        return name
