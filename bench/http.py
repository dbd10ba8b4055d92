"""HTTP produce and read: what the broker as a whole makes of a core.

A topic of one partition for each size of record; requests go to the node that leads it, from a load generator in a
process of its own. What counts is MB (values alone, 10^6 bytes) per second of CPU time of the leader's process,
because that holds on any machine, whatever else shares its cores; MB/s and latencies are there to be looked at.
"""

import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from bench.client import Connection
from bench.cluster import Cluster, Topic
from bench.load import Load, LoadResult
from bench.processes import Failed, Started, cpu_seconds, hear, say
from bench.results import HttpCase, HttpResult
from bench.settings import Settings

BATCH = 500
CASES = (
    HttpCase(True, 100, 1, "binary", 16),
    HttpCase(True, 1024, 1, "binary", 16),
    HttpCase(True, 100, BATCH, "binary", 4),
    HttpCase(True, 100, BATCH, "json", 4),
    HttpCase(True, 1024, BATCH, "binary", 4),
    HttpCase(True, 1024, BATCH, "json", 4),
    HttpCase(False, 100, BATCH, "binary", 4),
    HttpCase(False, 1024, BATCH, "binary", 4),
    HttpCase(False, 1024, BATCH, "json", 4),
    HttpCase(False, 1024, 1, "binary", 16),
)
"""Reads come after what they read was produced: by 500 here means answers of the default size, about 1 MiB."""


class _Offsets(msgspec.Struct, frozen=True):
    beginning_offset: int
    end_offset: int


class HttpLoad:
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
        self._topics: dict[tuple[int, str], Topic] = {}
        self.leader_pid = 0
        """Of the last case."""

    def measure(self, case: HttpCase) -> HttpResult:
        """Raises Failed."""
        cluster, topic = self._cluster, self._topic(case)
        leader = cluster.leader(topic)
        first, end = (0, 0) if case.produce else _offsets(cluster.connect(leader), topic)
        generator = self._start(Load(cluster.addresses[leader], topic.name, case, *self._times, first, end))
        pids = {node: cluster.pid(node) for node in cluster.addresses}
        self.leader_pid = pids[leader]
        self._window(case.name)
        before = {node: cpu_seconds(pid) for node, pid in pids.items()}
        say(generator, b"go")
        result = msgspec.json.decode(hear(generator), type=LoadResult)
        used = {node: cpu_seconds(pid) - before[node] for node, pid in pids.items()}
        self._window("")
        self._started.stop([generator])
        if cluster.leader(topic) != leader:
            raise Failed(f"the leader of {topic.name} changed during the case {case.name}: the figures mean nothing")
        return HttpResult(
            case,
            result.seconds,
            result.requests,
            result.records,
            result.median_ms,
            result.p99_ms,
            result.throttled,
            used[leader],
            tuple(used.values()),
        )

    @property
    def _times(self) -> tuple[float, float]:
        return self._settings.warm_up, self._settings.http

    def _topic(self, case: HttpCase) -> Topic:
        kind = (case.size, case.format)
        if kind not in self._topics:
            name = f"bench-{case.size}-{case.format}-{time.time_ns():x}"
            self._topics[kind] = self._cluster.create_topic(name)
        return self._topics[kind]

    def _start(self, load: Load) -> "subprocess.Popen[bytes]":
        """The load generator, warmed up."""
        generator = self._started.start([sys.executable, "-m", "bench.load"])
        say(generator, msgspec.json.encode(load))
        hear(generator)
        return generator


def _offsets(connection: Connection, topic: Topic) -> tuple[int, int]:
    answer = connection.call("GET", f"/topics/{topic.name}/partitions/0/offsets")
    if answer.status != 200:
        raise Failed(f"the offsets of {topic.name} were answered with status {answer.status}: {answer.text}")
    offsets = msgspec.json.decode(answer.body, type=_Offsets)
    if offsets.beginning_offset == offsets.end_offset:
        raise Failed(f"topic {topic.name} holds nothing to read")
    return offsets.beginning_offset, offsets.end_offset
