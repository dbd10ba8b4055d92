"""Topics as any node sees them: linearizable reads of the control state, and changes passed to the control leader."""

import asyncio
from collections.abc import Mapping

from consensus.errors import Refused
from raftbroker.broker.context import COMPACTION_FEATURE, CONFIGS_BEFORE_FEATURE, CONTROL, Context
from raftbroker.broker.controller import Controller
from raftbroker.broker.errors import BrokerError, Unavailable, UnknownOutcome, UnknownPartition, UnknownTopic
from raftbroker.broker.reports import Reports
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.rules import (
    check_changes,
    check_configs,
    check_expected,
    check_partition_count,
    check_replication_factor,
    check_topic_name,
)
from raftbroker.broker.views import ConfigView, PartitionView, TopicView
from raftbroker.broker.wire import (
    ALTER_CONFIGS,
    CREATE_TOPIC,
    DELETE_TOPIC,
    GROUP_READY,
    GROW_TOPIC,
    READ_INDEX,
    AlterConfigsRequest,
    CreateTopicRequest,
    DeleteTopicRequest,
    GroupRequest,
    GrowTopicRequest,
    ReadIndexRequest,
)
from raftbroker.state.configs import DEFINITIONS, compacted
from raftbroker.state.control_commands import GroupState, PartitionPlace, TopicState

READY_SECONDS = 10.0
"""How long the creation of a topic waits for its partitions' leaders; it exists all the same."""


class Topics:
    def __init__(self, context: Context, router: Router, controller: Controller, reports: Reports) -> None:
        self._context = context
        self._router = router
        self._controller = controller
        self._reports = reports

    # --- reads ----------------------------------------------------------------------------------------------

    async def barrier(self, timeout: float) -> None:
        """Returns once this node's control state shows every change acknowledged before the call."""
        deadline = _deadline(timeout)
        index = await self._router.at_leader(
            CONTROL, READ_INDEX, ReadIndexRequest, self._controller.read_index, deadline, Mode.READ
        )
        try:
            await self._context.control_reached(index, deadline - _now())
        except Refused as error:
            raise Unavailable(
                f"this node's copy of the cluster's state is behind: {error}. Ask another node"
            ) from error

    async def list_topics(self, timeout: float) -> list[TopicView]:
        await self.barrier(timeout)
        await self._reports.collect()
        return [self.view(topic) for topic in self._context.control.topics()]

    async def describe(self, name: str, timeout: float) -> TopicView:
        await self.barrier(timeout)
        await self._reports.collect()
        return self.view(self._known(name))

    async def state(self, name: str, timeout: float) -> TopicState:
        """From this node's copy; where it is not in the copy, the cluster is asked before it counts as unknown."""
        topic = self._context.control.topic(name)
        if topic is None:
            check_topic_name(name)
            await self.barrier(timeout)
            topic = self._known(name)
        return topic

    async def place(self, name: str, number: int, timeout: float) -> tuple[TopicState, PartitionPlace]:
        """A partition's id and group; asks the cluster before it counts as unknown."""
        topic = self._context.control.topic(name)
        if topic is None or not 0 <= number < len(topic.partitions):
            if topic is None:
                check_topic_name(name)
            await self.barrier(timeout)
            topic = self._known(name)
            if not 0 <= number < len(topic.partitions):
                last = len(topic.partitions) - 1
                raise UnknownPartition(f"topic {name} has partitions 0 to {last}, not {number}", field="partition_id")
        return topic, topic.partitions[number]

    def check_partition(self, partition: int) -> None:
        """Raises UnknownTopic for the id of a partition whose topic has been deleted."""
        if self._context.control.partition(partition) is None:
            raise UnknownTopic("the topic has been deleted", field="topic_name")

    def _known(self, name: str) -> TopicState:
        topic = self._context.control.topic(name)
        if topic is None:
            raise UnknownTopic(f"there is no topic {name[:260]}", field="topic_name")
        return topic

    async def configs(self, name: str, timeout: float) -> list[ConfigView]:
        await self.barrier(timeout)
        topic = self._known(name)
        defaults = self._context.options.topic_defaults
        return [
            ConfigView(
                name=definition.name,
                value=topic.configs.get(definition.name, default),
                default=default,
                source="DYNAMIC_TOPIC_CONFIG" if definition.name in topic.configs else "DEFAULT_CONFIG",
                is_default=definition.name not in topic.configs,
                sensitive=False,
                documentation=definition.documentation,
            )
            for definition in DEFINITIONS.values()
            for default in [defaults.get(definition.name, definition.default)]
        ]

    def view(self, topic: TopicState) -> TopicView:
        """With leaders as known here now, and what the last reports said of replicas in sync."""
        groups = {place.group: self._group_view(place.group) for place in topic.partitions}
        return TopicView(
            topic.name,
            topic.topic_id,
            topic.replication_factor,
            topic.configs,
            tuple(
                PartitionView(number, place.id, place.group, *groups[place.group])
                for number, place in enumerate(topic.partitions)
            ),
            topic.created_ms,
        )

    def _group_view(self, group: int) -> tuple[int | None, int, tuple[int, ...], tuple[int, ...]]:
        state: GroupState | None = self._context.control.group(group)
        replicas = state.nodes if state is not None else ()
        known = self._reports.leadership(group)
        in_sync = tuple(node for node in replicas if node in known.in_sync)
        return known.leader, known.term, replicas, in_sync

    # --- changes --------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        partitions: int | None,
        replication_factor: int | None,
        configs: Mapping[str, str],
        validate_only: bool,
        timeout: float,
    ) -> TopicView:
        deadline = _deadline(timeout)
        check_topic_name(name)
        count = self._context.options.default_partitions if partitions is None else partitions
        check_partition_count(count)
        checked = check_configs(configs)
        self._check_feature(checked)
        factor = 0 if replication_factor is None else replication_factor
        if replication_factor is not None:
            check_replication_factor(replication_factor)
        topic_id = f"{self._context.random.getrandbits(128):032x}"
        index = await self._router.at_leader(
            CONTROL,
            CREATE_TOPIC,
            lambda left: CreateTopicRequest(name, topic_id, count, factor, checked, validate_only, left),
            self._controller.create_topic,
            deadline,
            Mode.REPEATABLE,
        )
        if validate_only:
            return TopicView(name, "", factor, checked, (), 0)
        await self._visible(index, deadline, f"topic {name} was created")
        topic = self._context.control.topic_by_id(topic_id)
        if topic is None:  # it was created, and somebody has deleted it since: that was done which was asked for
            return TopicView(name, topic_id, factor, checked, (), 0)
        await self._ready({place.group for place in topic.partitions}, deadline)
        return self.view(topic)

    async def delete(self, name: str, timeout: float) -> None:
        deadline = _deadline(timeout)
        await self.barrier(timeout)
        await self._delete(self._known(name), deadline)

    async def delete_by_id(self, topic_id: str, timeout: float) -> str:
        """Never another topic of the same name; the name of the one deleted."""
        deadline = _deadline(timeout)
        await self.barrier(timeout)
        topic = self._context.control.topic_by_id(topic_id)
        if topic is None:
            raise UnknownTopic(f"there is no topic with the id {topic_id[:40]}", field="topic_id")
        await self._delete(topic, deadline)
        return topic.name

    async def _delete(self, topic: TopicState, deadline: float) -> None:
        index = await self._router.at_leader(
            CONTROL,
            DELETE_TOPIC,
            lambda left: DeleteTopicRequest(topic.topic_id, left),
            self._controller.delete_topic,
            deadline,
            Mode.REPEATABLE,
        )
        await self._visible(index, deadline, f"topic {topic.name} was deleted")

    async def grow(self, name: str, total: int, validate_only: bool, timeout: float) -> TopicView:
        deadline = _deadline(timeout)
        check_partition_count(total)
        await self.barrier(timeout)
        before = self._known(name)
        index = await self._router.at_leader(
            CONTROL,
            GROW_TOPIC,
            lambda left: GrowTopicRequest(before.topic_id, total, validate_only, left),
            self._controller.grow_topic,
            deadline,
            Mode.REPEATABLE,
        )
        if not validate_only:
            await self._visible(index, deadline, f"topic {name} has {total} partitions now")
            topic = self._context.control.topic_by_id(before.topic_id)
            if topic is not None:
                await self._ready({place.group for place in topic.partitions}, deadline)
        return self.view(self._known(name))

    async def alter_configs(
        self,
        name: str,
        changes: Mapping[str, str | None],
        expected: Mapping[str, str | None],
        validate_only: bool,
        timeout: float,
    ) -> None:
        deadline = _deadline(timeout)
        checked, awaited = check_changes(changes), check_changes(expected)
        self._check_feature(checked)
        if awaited:
            self._check_version(CONFIGS_BEFORE_FEATURE, "expected_value")
        await self.barrier(timeout)
        topic = self._known(name)
        if validate_only:
            check_expected(topic.configs, awaited, self._context.options.topic_defaults)
            return
        index = await self._router.at_leader(
            CONTROL,
            ALTER_CONFIGS,
            lambda left: AlterConfigsRequest(topic.topic_id, checked, left, awaited),
            self._controller.alter_configs,
            deadline,
            # Done already, it would be refused when it is repeated.
            Mode.ONCE if awaited else Mode.REPEATABLE,
        )
        await self._visible(index, deadline, f"the configs of topic {name} were changed")

    def _check_feature(self, configs: Mapping[str, str | None]) -> None:
        if compacted(configs.get("cleanup.policy") or ""):
            self._check_version(COMPACTION_FEATURE, "cleanup.policy=compact")

    def _check_version(self, feature: int, what: str) -> None:
        if self._context.control.feature < feature:
            raise Unavailable(
                f"{what} needs a newer raftbroker on every node of the cluster: install it, or wait a moment after that"
            )

    async def _visible(self, index: int, deadline: float, done: str) -> None:
        try:
            await self._context.control_reached(index, max(0.05, deadline - _now()))
        except Refused as error:
            raise UnknownOutcome(f"{done}, but this node has not seen it yet: {error}") from error

    async def _ready(self, groups: set[int], deadline: float) -> None:
        """Waits until each group has a leader that serves, within bounds: the topic exists all the same."""
        until = min(deadline, _now() + READY_SECONDS)

        async def one(group: int) -> None:
            await self._router.at_leader(
                group,
                GROUP_READY,
                lambda left: GroupRequest(self._context.control_index, group, left),
                self.group_ready,
                until,
                Mode.READ,
                attempt_seconds=1.0,
            )

        for result in await asyncio.gather(*(one(group) for group in groups), return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, BrokerError):
                raise result

    async def group_ready(self, request: GroupRequest) -> int:
        """Answers the term in which this node leads the group; the other end of `_ready`."""
        await self._context.as_far_as(request)
        return self._context.leading(request.group).term


def _now() -> float:
    return asyncio.get_running_loop().time()


def _deadline(timeout: float) -> float:
    return _now() + timeout
