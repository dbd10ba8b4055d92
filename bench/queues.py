"""Queues: send, receive and acknowledge with one client and with many, with little in the queue and with much.

Requests go to the node that leads the queue's shard, from a load generator in a process of its own. Rates are of
messages a second, counted where the client has its answer; every message lies on the disks of a majority before that.

For the depth a queue is filled to a thousand messages, measured, filled to a million, measured, purged, filled to a
thousand and measured again: what the machine did meanwhile shows between the first and the last, and rates at depth are
held against both together. Each round sends for a while, receives as many messages as were sent (those that have
waited longest), and acknowledges these, so the depth is the same after it.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from bench.client import Connection
from bench.cluster import READY_SECONDS, Cluster
from bench.processes import Failed, Started, cpu_seconds
from bench.queue_load import QueueLoad
from bench.results import DepthResult, QueuePhase, QueueRate, QueueResult
from bench.settings import Settings
from bench.use import measure_memory

SIZE = 100
CASES = ((1, 1), (64, 1), (1, 100), (64, 100))
"""(clients, messages in a request)"""
DEPTH_CLIENTS, DEPTH_BATCH = 4, 100
SHALLOW = 1_000
FILL_BATCH = 1_000
FILL_SECONDS_MAX = 600.0
STEADY_SECONDS = 2.5
REST_SECONDS_MAX, REST_LOOK_SECONDS, REST_SHARE = 120.0, 2.0, 0.1
"""It rests when it has used less than this share of a core between two looks."""
LONG_SECONDS = 60.0
"""Receiving and acknowledging what was sent ends by itself; beyond this something is wrong."""


class _Lines:
    """The load generator for one queue, asked phase by phase."""

    def __init__(self, started: Started, load: QueueLoad) -> None:
        self._started = started
        self._process: subprocess.Popen[bytes] = started.start([sys.executable, "-m", "bench.queue_load"])
        self._say(load)

    def _say(self, line: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(line) + b"\n")
        self._process.stdin.flush()

    def ask(self, phase: QueuePhase) -> QueueRate:
        self._say(phase)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the load generator has ended; what it said stands above")
        return msgspec.json.decode(line, type=QueueRate)

    def stop(self) -> None:
        self._started.stop([self._process])


class QueueBench:
    """`tell` is told what comes next, `window` when a case's measured time begins and, with an empty name, ends."""

    def __init__(
        self,
        started: Started,
        cluster: Cluster,
        settings: Settings,
        tell: Callable[[str], None],
        window: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._started = started
        self._cluster = cluster
        self._settings = settings
        self._tell = tell
        self._window = window
        self.leader_pid = 0
        """Of the last queue."""

    def run(self, keep_profile: Callable[[int, str], None] = lambda pid, name: None) -> QueueResult:
        """Raises Failed."""
        rates: list[QueueRate] = []
        for clients, batch in CASES:
            name = f"queue, {clients} client{'s' if clients > 1 else ''} by {batch}"
            self._tell(name)
            self._window(name)
            rates += self._rates(clients, batch)
            self._window("")
            keep_profile(self.leader_pid, name)
        return QueueResult(tuple(rates), self._depths(keep_profile))

    # --- one queue ------------------------------------------------------------------------------------------

    def _open(self, name: str) -> tuple[int, _Lines]:
        """(the node that leads the new queue's shard, the load generator)"""
        first = next(iter(self._cluster.addresses))
        answer = self._cluster.connect(first).call("PUT", f"/queues/{name}", b"{}")
        if answer.status != 201:
            raise Failed(f"queue {name} was not made: {answer.status} {answer.text}")
        leader = self._steady_leader(name)
        self.leader_pid = self._cluster.pid(leader)
        return leader, _Lines(self._started, QueueLoad(self._cluster.addresses[leader], name, SIZE))

    def _close(self, name: str, leader: int, lines: _Lines) -> None:
        lines.stop()
        self._check_leader(name, leader)
        self._cluster.connect(leader).call("DELETE", f"/queues/{name}")

    def _leader(self, name: str) -> int | None:
        """The node whose metrics show the queue."""
        shown = re.compile(rf'^raftbroker_queue_depth{{queue="{re.escape(name)}"}} '.encode(), re.MULTILINE)
        for node in self._cluster.addresses:
            if shown.search(self._cluster.connect(node).call("GET", "/metrics").body):
                return node
        return None

    def _steady_leader(self, name: str) -> int:
        """Once it has not changed for a while: balancing moves leadership by itself."""
        deadline = time.monotonic() + READY_SECONDS
        last, since = None, time.monotonic()
        while time.monotonic() < deadline:
            leader = self._leader(name)
            if leader is None or leader != last:
                last, since = leader, time.monotonic()
            elif time.monotonic() - since >= STEADY_SECONDS:
                return leader
            time.sleep(0.1)
        raise Failed(f"the shard of queue {name} had no steady leader for {READY_SECONDS:g} s")

    def _check_leader(self, name: str, leader: int) -> None:
        if self._leader(name) != leader:
            raise Failed(f"the leader of queue {name} changed meanwhile: the figures mean nothing")

    def _measure(self, lines: _Lines, leader: int, phase: QueuePhase) -> QueueRate:
        pid = self._cluster.pid(leader)
        before = cpu_seconds(pid)
        rate = lines.ask(phase)
        return msgspec.structs.replace(rate, leader_cpu_seconds=cpu_seconds(pid) - before)

    def _round(self, lines: _Lines, leader: int, clients: int, batch: int, seconds: float) -> list[QueueRate]:
        """Sends for so long, receives as many as were sent, acknowledges these."""
        sent = self._measure(lines, leader, QueuePhase("send", clients, batch, seconds))
        received = self._measure(lines, leader, QueuePhase("receive", clients, batch, LONG_SECONDS, sent.messages))
        acknowledged = self._measure(lines, leader, QueuePhase("acknowledge", clients, batch, LONG_SECONDS))
        counts = (sent.messages, received.messages, acknowledged.messages)
        if len(set(counts)) > 1:
            raise Failed("{} messages were sent, {} received, {} acknowledged".format(*counts))
        return [sent, received, acknowledged]

    # --- the figures ----------------------------------------------------------------------------------------

    def _rates(self, clients: int, batch: int) -> list[QueueRate]:
        name = f"bench-queue-{clients}-{batch}-{time.time_ns():x}"
        leader, lines = self._open(name)
        self._round(lines, leader, clients, batch, self._settings.warm_up)
        found = self._round(lines, leader, clients, batch, self._settings.queue)
        self._close(name, leader, lines)
        return found

    def _depths(self, keep_profile: Callable[[int, str], None]) -> tuple[DepthResult, ...]:
        """Shallow, deep, shallow again."""
        name = f"bench-queue-depth-{time.time_ns():x}"
        leader, lines = self._open(name)
        found: list[DepthResult] = []
        self._round(lines, leader, DEPTH_CLIENTS, DEPTH_BATCH, self._settings.warm_up)
        for turn, depth in enumerate((SHALLOW, self._settings.queue_depth, SHALLOW)):
            self._fill(name, leader, lines, depth)
            case = f"queue, {depth:,} messages in it" + (", again" if turn == 2 else "")
            self._tell(case)
            self._window(case)
            rates = [
                rate
                for _ in range(self._settings.queue_rounds)
                for rate in self._round(lines, leader, DEPTH_CLIENTS, DEPTH_BATCH, self._settings.queue)
            ]
            self._window("")
            keep_profile(self.leader_pid, case)
            found.append(DepthResult(depth, tuple(rates), measure_memory(self._cluster).nodes))
            if depth != SHALLOW:
                self._purge(name, leader)
        self._close(name, leader, lines)
        return tuple(found)

    def _fill(self, name: str, leader: int, lines: _Lines, depth: int) -> None:
        missing = depth - self._depth(name, leader)
        if missing > 0:
            self._tell(f"filling a queue to {depth:,} messages")
            lines.ask(QueuePhase("send", DEPTH_CLIENTS, FILL_BATCH, FILL_SECONDS_MAX, missing))
        reached = self._depth(name, leader)
        if reached != depth:
            raise Failed(f"the queue has {reached} messages where {depth} are due")
        self._rest(leader)

    def _purge(self, name: str, leader: int) -> None:
        self._connected(leader, "POST", f"/queues/{name}/purge")
        self._rest(leader)

    def _rest(self, leader: int) -> None:
        """Until the leader has done what it does in the background: a purged million goes bit by bit."""
        pid, deadline = self._cluster.pid(leader), time.monotonic() + REST_SECONDS_MAX
        while time.monotonic() < deadline:
            before = cpu_seconds(pid)
            time.sleep(REST_LOOK_SECONDS)
            if cpu_seconds(pid) - before < REST_SHARE * REST_LOOK_SECONDS:
                return
        raise Failed(f"the leader of the queue did not come to rest within {REST_SECONDS_MAX:g} s")

    def _depth(self, name: str, leader: int) -> int:
        return msgspec.json.decode(self._connected(leader, "GET", f"/queues/{name}"), type=_Depth).depth

    def _connected(self, node: int, method: str, path: str) -> bytes:
        connection: Connection = self._cluster.connect(node)
        answer = connection.call(method, path)
        connection.close()
        if answer.status != 200:
            raise Failed(f"{method} {path} was answered {answer.status}: {answer.text}")
        return answer.body


class _Depth(msgspec.Struct, frozen=True):
    depth: int
