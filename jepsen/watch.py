"""Looks at every replica from the outside, about once a second, for what no Raft may ever show.

- two-leaders: two nodes say of one term of one group that they lead in it;
- commit-went-back: a running process says of a group a lower commit or applied index than before, and has not
  started anew in it as a learner;
- damaged-replica: a node has left a group because of damage to its data, and the harness has not damaged its disk.

Samples go to `raft.jsonl`, a line each.
"""

import asyncio
from pathlib import Path
from typing import TextIO

import msgspec

from jepsen.client import Http, NotSent, Unclear
from jepsen.cluster import Cluster

PAUSE_SECONDS = 1.0
ASK_SECONDS = 1.5
EXAMPLES_MAX = 20


class Replica(msgspec.Struct, frozen=True):
    node: int
    uuid: str
    role: str
    term: int
    commit: int
    applied: int
    damaged: str | None = None


class Group(msgspec.Struct, frozen=True):
    group: int
    replicas: list[Replica]


class Watch:
    """See the module's text."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        self.anomalies: dict[str, list[str]] = {}
        self._cluster = cluster
        self._path = path
        self._leaders: dict[tuple[int, int], tuple[int, str]] = {}
        """(group, term) -> who leads in it."""
        self._reached: dict[tuple[int, int, int, str, int], tuple[int, int, bool]] = {}
        """(node asked, pid, group, directory, node) -> the highest commit and applied index it has shown, and whether
        it was a learner. What one node
        tells of another may be older than what a third told before; what it tells itself goes on in order."""

    async def run(self) -> None:
        """Until cancelled."""
        http = Http([node.url for node in self._cluster.nodes.values()], 0, ASK_SECONDS)
        try:
            with self._path.open("w") as file:
                while True:
                    await self._look(http, file)
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            await http.close()

    async def _look(self, http: Http, file: TextIO) -> None:
        http.urls[:] = self._cluster.urls
        pids = {number: node.process.pid for number, node in self._cluster.nodes.items() if node.process is not None}
        for number in self._cluster.alive:
            try:
                answer = await http.call("GET", "/v1/raft", node=list(self._cluster.nodes).index(number))
                groups = msgspec.json.decode(answer.body, type=list[Group]) if answer.ok else []
            except (NotSent, Unclear, msgspec.DecodeError):
                continue
            now = {n: node.process.pid for n, node in self._cluster.nodes.items() if node.process is not None}
            same = {n for n in now if pids.get(n) == now[n]}
            file.write(answer.body.decode() + "\n")
            for group in groups:
                self._judge(number, group, {n: pid for n, pid in now.items() if n in same})
            return

    def _judge(self, asked: int, group: Group, pids: dict[int, int]) -> None:
        for replica in group.replicas:
            who = replica.node, replica.uuid
            if replica.role == "leader":
                first = self._leaders.setdefault((group.group, replica.term), who)
                if first != who:
                    self._found("two-leaders", f"group {group.group}, term {replica.term}: {first} and {who}")
            pid = pids.get(replica.node)
            if pid is None or replica.role == "absent":
                continue
            node = self._cluster.nodes.get(replica.node)
            if replica.damaged is not None and not (node is not None and node.damaged):
                self._found("damaged-replica", f"group {group.group} on node {replica.node}: {replica.damaged}")
            key = asked, pid, group.group, replica.uuid, replica.node
            learner = replica.role == "learner"
            commit, applied, learned = self._reached.get(key, (0, 0, learner))
            if learner and not learned:
                commit = applied = 0
            if replica.commit < commit or replica.applied < applied:
                text = f"group {group.group} on node {replica.node}: commit {commit} to {replica.commit}, applied"
                self._found("commit-went-back", f"{text} {applied} to {replica.applied}")
            self._reached[key] = max(commit, replica.commit), max(applied, replica.applied), learner

    def _found(self, name: str, text: str) -> None:
        examples = self.anomalies.setdefault(name, [])
        if text not in examples and len(examples) < EXAMPLES_MAX:
            examples.append(text)
