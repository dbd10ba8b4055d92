"""The control leader's side of administration: decides, proposes, checks the outcome, one change at a time.

Every method raises NotLeader where this node does not lead the control group, and answers the log index at which its
change is visible. Each may be repeated after an unknown outcome: a topic is known by the id its asker made, a deletion
and a change of configs by the topic's id, growth by its total; only a change that expects configs to have certain
values is not, since it would be refused. Ids of partitions and groups, and what a topic's configs were, are taken from
the state, and taken again when another change came first (`IDS_TAKEN`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from consensus.errors import Refused, Unknown
from consensus.group import Group
from consensus.model import Member
from raftbroker.broker.context import CONFIGS_BEFORE_FEATURE, CONTROL, Context
from raftbroker.broker.errors import (
    BrokerError,
    Internal,
    InvalidPartitions,
    InvalidReplicationFactor,
    InvalidRequest,
    TopicExists,
    Unavailable,
    UnknownGroup,
    UnknownNode,
    UnknownTopic,
)
from raftbroker.broker.placement import GroupLoad, NewGroup, Placement, place, place_group
from raftbroker.broker.rules import (
    check_config,
    check_configs,
    check_expected,
    check_partition_count,
    check_replication_factor,
    check_topic_name,
)
from raftbroker.broker.wire import (
    AlterConfigsRequest,
    CreateTopicRequest,
    DeleteTopicRequest,
    DroppedRequest,
    GrowTopicRequest,
    ReadIndexRequest,
    RegisterRequest,
)
from raftbroker.state.commands import encode_command
from raftbroker.state.control_commands import (
    AddPartitions,
    AlterConfigs,
    ControlCommand,
    CreateGroup,
    CreateShards,
    CreateTopic,
    DeleteTopic,
    GroupKind,
    GroupState,
    OutcomeError,
    PartitionPlace,
    PartitionsDropped,
    RegisterNode,
    TopicState,
)

SHARD_REPLICAS = 3
ATTEMPTS_MAX = 5
"""How often a change is made anew because its ids were taken meanwhile."""

_ERRORS: dict[OutcomeError, type[BrokerError]] = {
    OutcomeError.TOPIC_EXISTS: TopicExists,
    OutcomeError.UNKNOWN_TOPIC: UnknownTopic,
    OutcomeError.UNKNOWN_NODE: UnknownNode,
    OutcomeError.UNKNOWN_GROUP: UnknownGroup,
    OutcomeError.INVALID: InvalidRequest,
    OutcomeError.NODE_IN_USE: InvalidRequest,
    OutcomeError.FEATURE: InvalidRequest,
    OutcomeError.CLUSTER_EXISTS: InvalidRequest,
}


class _MovedOn(Exception):
    """Made from a state that has moved on."""


class Controller:
    def __init__(self, context: Context, live_nodes: Callable[[], Awaitable[frozenset[int]]]) -> None:
        self._context = context
        self._live_nodes = live_nodes
        self._lock = asyncio.Lock()

    async def read_index(self, request: ReadIndexRequest) -> int:
        """An index such that a control state that has reached it shows every change acknowledged before the call."""
        group = self._context.leading(CONTROL)
        await group.read_barrier(request.timeout)
        return group.applied

    async def propose(self, command: ControlCommand, timeout: float) -> int:
        """Proposes and waits; the entry's index. Raises what the command's outcome says."""
        group = self._context.leading(CONTROL)
        index = await group.propose(encode_command(command), timeout=timeout, frees_space=True)
        outcome = self._context.control.outcome(index)
        if outcome is None:
            raise Internal(f"the outcome of control entry {index} is not known any more")
        if outcome.error is OutcomeError.IDS_TAKEN:
            raise _MovedOn(outcome.message)
        if outcome.error is not None:
            raise _ERRORS.get(outcome.error, Internal)(outcome.message)
        return index

    @asynccontextmanager
    async def _turn(self, timeout: float) -> AsyncIterator[float]:
        """Waits for the changes before this one; yields the deadline."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        self._context.leading(CONTROL)
        try:
            async with asyncio.timeout_at(deadline):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable("too many changes wait for their turn, nothing was done: try again") from None
        try:
            yield deadline
        finally:
            self._lock.release()

    async def _until_taken(self, deadline: float, make: Callable[[], ControlCommand | None]) -> int:
        """Proposes what `make` makes of the present state, again where its ids were taken meanwhile. Where it makes
        nothing there is nothing to change. That, and what `make` raises, is told by a leader only: to one that has a
        successor it does not know of yet, the state of the past would look like the present one."""
        for _ in range(ATTEMPTS_MAX):
            group = self._context.leading(CONTROL)
            try:
                command = make()
            except BrokerError:
                await self._still_leads(group, deadline)
                raise
            if command is None:
                await self._still_leads(group, deadline)
                return group.applied
            try:
                return await self.propose(command, deadline - asyncio.get_running_loop().time())
            except _MovedOn:
                continue
        raise Unavailable("other changes kept coming first, nothing was done: try again")

    async def _still_leads(self, group: Group, deadline: float) -> None:
        """Raises Refused: nothing was done."""
        try:
            await group.read_barrier(deadline - asyncio.get_running_loop().time())
        except Unknown as error:
            raise Refused(str(error)) from error

    async def change(self, timeout: float, make: Callable[[], ControlCommand | None]) -> int:
        """One change that `make` makes of the present state, in its turn; None changes nothing. The index at which it
        is visible. Raises what `make` raises, and NotLeader."""
        async with self._turn(timeout) as deadline:
            return await self._until_taken(deadline, make)

    # --- nodes ----------------------------------------------------------------------------------------------

    async def register(self, request: RegisterRequest) -> int:
        command = RegisterNode(request.node, request.uuid, request.peer, request.http, request.kafka, request.feature)
        async with self._turn(request.timeout) as deadline:
            return await self._until_taken(deadline, lambda: command)

    async def create_shards(self, live: frozenset[int], timeout: float) -> int:
        """Makes the coordinator shards, spread over these nodes; their replicas that lack come with nodes that join."""

        def make() -> ControlCommand | None:
            if self._context.control.shards:
                return None
            nodes = self._placeable(live)
            factor = SHARD_REPLICAS
            loads, new = self._loads(), []
            first = self._context.control.next_group_id
            for group in range(first, first + self._context.options.coordinator_shards):
                made: NewGroup = place_group(factor, loads, nodes, group)
                loads.append(GroupLoad(group, factor, made.nodes, 0, data=False))
                new.append(CreateGroup(group, factor, tuple(self._member(node) for node in made.nodes)))
            return CreateShards(tuple(new))

        async with self._turn(timeout) as deadline:
            return await self._until_taken(deadline, make)

    # --- topics ---------------------------------------------------------------------------------------------

    async def create_topic(self, request: CreateTopicRequest) -> int:
        check_topic_name(request.name)
        check_partition_count(request.partitions)
        configs = check_configs(request.configs)
        self._context.leading(CONTROL)
        live = await self._live_nodes()

        def make() -> ControlCommand | None:
            existing = self._context.control.topic(request.name)
            if existing is not None:
                if existing.topic_id == request.topic_id:
                    return None
                raise TopicExists(f"topic {request.name} exists already", field="topic_name")
            nodes = self._placeable(live)
            factor = self._factor(request.replication_factor, nodes)
            self._check_room(request.partitions, topics=1)
            self._check_in_sync(configs, factor)
            placement = place(request.partitions, factor, self._loads(), nodes, self._context.control.next_group_id)
            if request.validate_only:
                return None
            return CreateTopic(
                request.name,
                request.topic_id,
                factor,
                configs,
                self._places(placement),
                self._new_groups(placement, factor),
                self._context.wall(),
            )

        async with self._turn(request.timeout) as deadline:
            return await self._until_taken(deadline, make)

    async def delete_topic(self, request: DeleteTopicRequest) -> int:
        def make() -> ControlCommand | None:
            there = self._context.control.topic_by_id(request.topic_id)
            return DeleteTopic(request.topic_id) if there is not None else None

        async with self._turn(request.timeout) as deadline:
            return await self._until_taken(deadline, make)

    async def grow_topic(self, request: GrowTopicRequest) -> int:
        check_partition_count(request.total)
        self._context.leading(CONTROL)
        live = await self._live_nodes()

        def make() -> ControlCommand | None:
            topic = self._topic(request.topic_id)
            more = request.total - len(topic.partitions)
            if more == 0:
                return None
            if more < 0:
                raise InvalidPartitions(
                    f"topic {topic.name} has {len(topic.partitions)} partitions; their number only grows",
                    field="partitions_count",
                )
            self._check_room(more)
            nodes = self._placeable(live)
            factor = topic.replication_factor
            beside = [p.group for p in topic.partitions]
            placement = place(more, factor, self._loads(), nodes, self._context.control.next_group_id, beside)
            if request.validate_only:
                return None
            return AddPartitions(topic.topic_id, self._places(placement), self._new_groups(placement, factor))

        async with self._turn(request.timeout) as deadline:
            return await self._until_taken(deadline, make)

    async def alter_configs(self, request: AlterConfigsRequest) -> int:
        compares = self._context.control.feature >= CONFIGS_BEFORE_FEATURE

        def make() -> ControlCommand | None:
            topic = self._topic(request.topic_id)
            check_expected(topic.configs, request.expected, self._context.options.topic_defaults)
            changed = dict(topic.configs)
            for name, value in request.changes.items():
                if value is None:
                    changed.pop(name, None)
                else:
                    changed[name] = check_config(name, value)
            self._check_in_sync(changed, topic.replication_factor)
            if changed == topic.configs:
                return None
            return AlterConfigs(topic.topic_id, changed, topic.configs if compares else None)

        async with self._turn(request.timeout) as deadline:
            return await self._until_taken(deadline, make)

    async def dropped(self, request: DroppedRequest) -> int:
        """The records of these deleted partitions are gone."""

        def make() -> ControlCommand | None:
            still = set(self._context.control.dropped(request.group)).intersection(request.partitions)
            return PartitionsDropped(request.group, tuple(sorted(still))) if still else None

        async with self._turn(request.timeout) as deadline:
            return await self._until_taken(deadline, make)

    # --- parts ----------------------------------------------------------------------------------------------

    def _topic(self, topic_id: str) -> TopicState:
        topic = self._context.control.topic_by_id(topic_id)
        if topic is None:
            raise UnknownTopic("the topic has been deleted meanwhile")
        return topic

    def _placeable(self, live: frozenset[int]) -> list[int]:
        nodes = [node.id for node in self._context.control.nodes() if node.id in live]
        if not nodes:
            raise Unavailable("no node has registered with the cluster yet, nothing was done: try again in a moment")
        return nodes

    def _factor(self, asked: int, nodes: list[int]) -> int:
        """What was asked for, or the default, which may be more than there are nodes yet: the replicas that lack come
        with the nodes that join."""
        if asked == 0:
            return self._context.options.default_replication_factor
        check_replication_factor(asked)
        registered = len(self._context.control.nodes())
        if asked > len(nodes):
            down = f", {registered - len(nodes)} of them down" if registered > len(nodes) else ""
            raise InvalidReplicationFactor(
                f"replication factor {asked} needs as many live nodes; the cluster has {registered}{down}",
                field="replication_factor",
            )
        return asked

    def _check_room(self, partitions: int, topics: int = 0) -> None:
        options, there = self._context.options, self._context.control.topics()
        total = sum(len(topic.partitions) for topic in there) + partitions
        if total > options.partitions_max:
            raise InvalidPartitions(
                f"the cluster would have {total} partitions, its bound is {options.partitions_max}",
                field="partitions_count",
            )
        if len(there) + topics > options.topics_max:
            raise InvalidRequest(f"the cluster has {len(there)} topics, its bound is {options.topics_max}")

    def _check_in_sync(self, configs: dict[str, str], factor: int) -> None:
        wanted = int(configs.get("min.insync.replicas", "1"))
        if wanted > factor:
            raise InvalidRequest(
                f"min.insync.replicas is {wanted}, the topic has {factor} replicas: nothing could ever be produced",
                field="min.insync.replicas",
            )

    def _loads(self) -> list[GroupLoad]:
        control = self._context.control
        carries = Counter(p.group for topic in control.topics() for p in topic.partitions)
        return [load_of(group, carries[group.id]) for group in control.groups()]

    def _places(self, placement: Placement) -> tuple[PartitionPlace, ...]:
        first = self._context.control.next_partition_id
        return tuple(PartitionPlace(first + i, group) for i, group in enumerate(placement.groups))

    def _new_groups(self, placement: Placement, factor: int) -> tuple[CreateGroup, ...]:
        return tuple(
            CreateGroup(new.id, factor, tuple(self._member(node) for node in new.nodes)) for new in placement.new
        )

    def _member(self, node: int) -> Member:
        registered = self._context.control.node(node)
        if registered is None:
            raise UnknownNode(f"node {node} is not registered")
        return registered.member


def load_of(group: GroupState, carries: int) -> GroupLoad:
    return GroupLoad(group.id, group.replication_factor, group.nodes, carries, group.kind is GroupKind.DATA)
