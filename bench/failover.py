"""How long a partition takes no writes: after `kill -9` of its leader, and during a planned transfer.

A client writes one record at a time through a node that does not lead, so its request is passed on, as those of
clients that know nothing of leaders are. After a kill it sends a request at once, and again a moment later while
it is refused; the time counts until the first acknowledgement. A planned transfer counts from asking for it until a
write that was sent after it was granted is acknowledged.
"""

import os
import signal
import time
from collections.abc import Callable

from bench.client import Answer, Connection, request
from bench.cluster import Cluster, Topic
from bench.load import media_type
from bench.processes import Failed
from bench.results import FailoverResult

GIVE_UP_SECONDS = 60.0
PAUSE_SECONDS = 0.005
STEADY_SECONDS = 2.5
"""Leadership stays where it is for so long before each try: what the last one stirred up has come to rest."""


def run(cluster: Cluster, kills: int, transfers: int, tell: Callable[[str], None]) -> FailoverResult:
    """Kills need a cluster whose nodes are restarted, as those of `raftbroker dev` are."""
    topic = cluster.create_topic(f"bench-failover-{time.time_ns():x}")
    transfer_ms = []
    for number in range(transfers):
        tell(f"planned transfer {number + 1} of {transfers}")
        transfer_ms.append(_time_transfer(cluster, topic))
    kill_ms: list[float] = []
    wasted = 0
    while len(kill_ms) < kills:
        tell(f"kill -9 of the leader, {len(kill_ms) + 1} of {kills}")
        took = _time_kill(cluster, topic)
        if took is not None:
            kill_ms.append(took)
        elif (wasted := wasted + 1) > kills:
            raise Failed(f"leadership of group {topic.group} moved away before the kill {wasted} times")
    cluster.settle()
    return FailoverResult(tuple(kill_ms), tuple(transfer_ms))


def _time_transfer(cluster: Cluster, topic: Topic) -> float:
    cluster.settle()
    leader, _ = cluster.steady_leader(topic, STEADY_SECONDS)
    target, other = sorted(node for node in cluster.addresses if node != leader)[:2]
    writer = _Writer(cluster.connect(other), topic)
    writer.write()
    began = time.perf_counter()
    cluster.transfer(topic.group, target)
    writer.write()
    took = 1000 * (time.perf_counter() - began)
    writer.close()
    return took


def _time_kill(cluster: Cluster, topic: Topic) -> float | None:
    """None where leadership had moved to another node just before the kill: then nothing was measured."""
    cluster.settle()
    leader, term = cluster.steady_leader(topic, STEADY_SECONDS)
    other = min(node for node in cluster.addresses if node != leader)
    writer = _Writer(cluster.connect(other), topic)
    writer.write()
    pid = cluster.pid(leader)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    writer.write()
    took = 1000 * (time.perf_counter() - began)
    writer.close()
    now, later = cluster.leader_of_group(topic.group, other)
    return None if now == leader or later <= term else took


class _Writer:
    """Writes one record at a time through one node."""

    def __init__(self, connection: Connection, topic: Topic) -> None:
        self._connection = connection
        path = f"/topics/{topic.name}/partitions/0"
        body = b'{"records":[{"value":"' + b"A" * 100 + b'"}]}'
        self._raw = request("POST", connection.address, path, body, content_type=media_type("json"))

    def write(self) -> None:
        """Until one is acknowledged; repeats what was refused or is unknown. Raises Failed when that takes long."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        answer: Answer | None = None
        while time.monotonic() < deadline:
            answer = self._connection.send(self._raw)
            if answer.status == 200 and b'"error_code":null' in answer.body:
                return
            time.sleep(PAUSE_SECONDS)
        said = f"status {answer.status}: {answer.text}" if answer is not None else "nothing"
        raise Failed(f"no write was acknowledged for {GIVE_UP_SECONDS:g} s; the last answer was {said}")

    def close(self) -> None:
        self._connection.close()
