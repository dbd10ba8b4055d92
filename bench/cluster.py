"""The cluster that is measured: a `raftbroker dev` of our own, or one that runs already.

Of a running one only a node's URL is needed; its other nodes are asked for, and a node's process is found by the port
it listens on.
"""

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil

from bench.client import Answer, Connection, until
from bench.processes import Failed, Started, free_base_port
from bench.results import StartResult

READY_SECONDS = 60.0
HTTP, KAFKA, PEERS = 8081, 9091, 7081
"""The ports of `raftbroker dev`, to which node number and offset are added."""


class _Broker(msgspec.Struct, frozen=True):
    id: int
    http: str


class _Group(msgspec.Struct, frozen=True):
    group: int
    leader: int | None
    term: int
    partitions: int


class _Partition(msgspec.Struct, frozen=True):
    leader: int | None


class _Topic(msgspec.Struct, frozen=True):
    partitions: list[_Partition]


class Topic(msgspec.Struct, frozen=True):
    """A topic of one partition."""

    name: str
    group: int
    """The Raft group that holds it."""


class Cluster:
    """What the cases ask of a cluster."""

    def __init__(self, addresses: dict[int, str]) -> None:
        self.addresses = addresses
        """Of each node's HTTP listener, by node id."""
        self._pids: dict[int, int] = {}

    @classmethod
    def running(cls, url: str) -> "Cluster":
        """The cluster that a node at `url` belongs to. Raises Failed."""
        address = url.removeprefix("http://").rstrip("/")
        try:
            answer = Connection(address, 5.0).call("GET", "/v1/brokers")
        except (OSError, ValueError) as error:
            raise Failed(
                f"no node answers at {url} ({error}); start a cluster with `raftbroker dev`, or leave --url away"
            ) from error
        brokers = msgspec.json.decode(_good(answer), type=list[_Broker])
        return cls({broker.id: broker.http for broker in brokers})

    def pid(self, node: int) -> int:
        """The process that listens on the node's HTTP port; another one after a restart. Raises Failed."""
        known = self._pids.get(node)
        if known is not None and psutil.pid_exists(known) and psutil.Process(known).status() != psutil.STATUS_ZOMBIE:
            return known
        port = int(self.addresses[node].rpartition(":")[2])
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.pid and found.laddr and found.laddr.port == port:
                self._pids[node] = found.pid
                return found.pid
        raise Failed(f"the process of node {node} is not to be seen here; its CPU time cannot be measured from afar")

    def connect(self, node: int) -> Connection:
        return Connection(self.addresses[node])

    def settle(self) -> None:
        """Waits until every node is up and every partition has all its replicas."""
        for node, address in self.addresses.items():
            until(address, "/readyz", READY_SECONDS, f"node {node} did not become ready")
        first = next(iter(self.addresses.values()))
        until(first, "/v1/cluster/health_overview", READY_SECONDS, "the cluster did not settle", b'"is_healthy":true')

    def create_topic(self, name: str, retention_bytes: int = 1 << 30) -> Topic:
        """One partition, replicated to all nodes; older records than `retention_bytes` may go."""
        before = self._groups()
        node = next(iter(self.addresses))
        connection = self.connect(node)
        clusters = msgspec.json.decode(_good(connection.call("GET", "/v3/clusters")))
        body = msgspec.json.encode(
            {
                "topic_name": name,
                "partitions_count": 1,
                "replication_factor": len(self.addresses),
                "configs": [{"name": "retention.bytes", "value": str(retention_bytes)}],
            }
        )
        path = f"/v3/clusters/{clusters['data'][0]['cluster_id']}/topics"
        _good(connection.call("POST", path, body), 201)
        self.settle()
        after = self._groups()
        grown = [number for number, group in after.items() if group.partitions > _partitions(before, number)]
        if len(grown) != 1:
            raise Failed(f"the Raft group of topic {name} was not found: others make topics in this cluster meanwhile")
        return Topic(name, grown[0])

    def _groups(self) -> dict[int, _Group]:
        node = next(iter(self.addresses))
        answer = self.connect(node).call("GET", "/v1/raft")
        return {group.group: group for group in msgspec.json.decode(_good(answer), type=list[_Group]) if group.group}

    def leader(self, topic: Topic) -> int:
        """Asks each node in turn until one knows. Raises Failed after a while."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for node in self.addresses:
                with contextlib.suppress(OSError):
                    answer = self.connect(node).call("GET", f"/topics/{topic.name}")
                    if answer.status == 200:
                        leader = msgspec.json.decode(answer.body, type=_Topic).partitions[0].leader
                        if leader is not None:
                            return leader
            time.sleep(0.05)
        raise Failed(f"topic {topic.name} has had no leader for {READY_SECONDS:g} s")

    def leader_of_group(self, group: int, node: int) -> tuple[int | None, int]:
        """(leader, term) as `node` gathers them now."""
        answer = self.connect(node).call("GET", "/v1/raft")
        for found in msgspec.json.decode(_good(answer), type=list[_Group]):
            if found.group == group:
                return found.leader, found.term
        raise Failed(f"there is no Raft group {group} in this cluster")

    def steady_leader(self, topic: Topic, seconds: float) -> tuple[int, int]:
        """(leader, term) once they have not changed for so long: balancing moves leadership back by itself."""
        deadline = time.monotonic() + READY_SECONDS
        last, since = (-1, -1), time.monotonic()
        while time.monotonic() < deadline:
            leader = self.leader(topic)
            known, term = self.leader_of_group(topic.group, leader)
            if known != leader or (leader, term) != last:
                last, since = (leader, term), time.monotonic()
            elif time.monotonic() - since >= seconds:
                return last
            time.sleep(0.05)
        raise Failed(f"the leader of Raft group {topic.group} kept changing for {READY_SECONDS:g} s")

    def transfer(self, group: int, target: int) -> None:
        node = next(iter(self.addresses))
        _good(self.connect(node).call("POST", f"/v1/raft/{group}/transfer_leadership?target={target}"), 204)


class OwnCluster(Cluster):
    """A `raftbroker dev` that ends with the benchmark."""

    def __init__(self, started: Started, folder: Path, nodes: int, environment: dict[str, str] | None = None) -> None:
        numbers = range(1, nodes + 1)
        ports = [number + base for number in numbers for base in (HTTP, KAFKA, PEERS)]
        first = random.randrange(2_000, 12_000)
        offset = free_base_port(ports, range(first, first + 10_000, 16))
        super().__init__({number: f"127.0.0.1:{HTTP + number + offset}" for number in numbers})
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "dev.log"
        self._started = started
        began = time.perf_counter()
        self.process: subprocess.Popen[bytes] = started.start(
            [
                *(str(Path(sys.executable).with_name("raftbroker")), "dev", "--nodes", str(nodes)),
                *("--data", str(folder / "data"), "--port-offset", str(offset)),
            ],
            log=self.log,
            environment=environment,
        )
        for number, address in self.addresses.items():
            until(address, "/readyz", READY_SECONDS, f"node {number} did not become ready; see {self.log}")
        self.ready_seconds = time.perf_counter() - began
        self.settle()

    def stop(self) -> None:
        self._started.stop([self.process])


def measure_starts(started: Started, folder: Path, nodes: int, times: int) -> StartResult:
    """From the command to every node ready, in an empty directory each time."""
    took = []
    for number in range(times):
        cluster = OwnCluster(started, folder / f"start-{number}", nodes)
        took.append(cluster.ready_seconds)
        cluster.stop()
    return StartResult(tuple(took))


def _partitions(groups: dict[int, _Group], number: int) -> int:
    return groups[number].partitions if number in groups else 0


def _good(answer: Answer, status: int = 200) -> bytes:
    if answer.status != status:
        raise Failed(f"the cluster answered with status {answer.status}: {answer.text}")
    return answer.body
