"""What Kafka clients are told of the cluster: nodes, topics, who leads. Linearizable where the control group answers.

The topics are those of the control state, after a read barrier; while the control group has no leader, this node's own
copy serves, for what leads a partition does not depend on it. Leaders are what this node knows of them: its own
replicas, and reports of other nodes that are at most a second old. A snapshot is made anew only when something in it
has changed, and its `version` tells whether something did: encoded answers are kept by it.
"""

import asyncio
import contextlib

import msgspec

from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.health import Health
from raftbroker.broker.reports import FRESH_SECONDS, Reports
from raftbroker.broker.topics import Topics
from raftbroker.state.control_commands import GroupKind, NodeState, TopicState

BARRIER_SECONDS = 1.0
REPORT_SECONDS = 0.25
"""How long an answer waits for reports of nodes that are slow to give one."""
REPORT_AGE_SECONDS = 1.0
LISTED_SECONDS = 30.0
"""How long a node that does not answer any more stays among those that clients are told of. Kafka's brokers stay for
their session's 9 s. A client that misses a node for the moment of its restart drops what it knows of it, and librdkafka
2.10 to 2.16 may then wait for ever for a coordinator that was there (confluentinc/librdkafka#5511)."""


class GroupLeader(msgspec.Struct, frozen=True):
    """Who leads a Raft group, and where its replicas are, the preferred leader first."""

    leader: int | None
    epoch: int
    """The leader's term; -1 while unknown."""
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class MetadataView(msgspec.Struct, frozen=True):
    """The cluster as one node sees it at one moment."""

    version: int
    """Another one whenever anything else in here differs."""
    cluster_id: str
    """Empty while this node belongs to no cluster."""
    controller_id: int
    """-1 while there is none."""
    nodes: tuple[NodeState, ...]
    """All that are registered, by id."""
    alive: frozenset[int]
    """Those that answer, and this one."""
    listed: frozenset[int]
    """Those that clients are told of: `alive`, and who has answered not long ago (`LISTED_SECONDS`)."""
    groups: dict[int, GroupLeader]
    topics: dict[str, TopicState]
    """By name, in its order."""
    names: dict[str, str]
    """Topic id (32 hex digits) -> name."""
    current: bool
    """False: the control group did not answer, and this is this node's copy of what it said before."""


class Metadata:
    def __init__(self, context: Context, topics: Topics, reports: Reports, health: Health) -> None:
        self._context = context
        self._topics = topics
        self._reports = reports
        self._health = health
        self._key: object = None
        self._view = MetadataView(0, "", -1, (), frozenset(), frozenset(), {}, {}, {}, current=False)

    async def view(self, timeout: float) -> MetadataView:
        current = True
        try:
            await self._topics.barrier(min(timeout, BARRIER_SECONDS))
        except BrokerError:
            current = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPORT_SECONDS):
                await self._reports.collect(REPORT_AGE_SECONDS)
                if any(group.leader is None for group in self._snapshot(current).groups.values()):
                    await self._reports.collect(FRESH_SECONDS)
        return self._snapshot(current)

    def _snapshot(self, current: bool) -> MetadataView:
        context = self._context
        groups = tuple((number, group.term, group.leader) for number, group in context.host.groups.items())
        key = (current, context.control.version, self._reports.taken, self._health.controller_id, groups)
        if key != self._key:
            made = self._make(current)
            if made != self._view:
                self._view = msgspec.structs.replace(made, version=self._view.version + 1)
            self._key = key
        return self._view

    def _make(self, current: bool) -> MetadataView:
        context, control = self._context, self._context.control
        groups = {}
        for state in control.groups():
            if state.kind is GroupKind.DATA:
                known = self._reports.leadership(state.id)
                in_sync = tuple(node for node in state.nodes if node in known.in_sync)
                groups[state.id] = GroupLeader(known.leader, known.term, state.nodes, in_sync)
        topics = {topic.name: topic for topic in control.topics()}
        return MetadataView(
            version=self._view.version,
            cluster_id=control.cluster_id or context.host.cluster,
            controller_id=self._health.controller_id,
            nodes=control.nodes(),
            alive=self._reports.answering | {context.me},
            listed=self._reports.answered_within(LISTED_SECONDS),
            groups=groups,
            topics=topics,
            names={topic.topic_id: topic.name for topic in topics.values()},
            current=current,
        )
