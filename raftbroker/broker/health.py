"""What the cluster looks like from here: nodes, groups, partitions without a leader or with too few replicas."""

from collections import Counter

from raftbroker.broker.context import CONTROL, SHARDS_FEATURE, Context
from raftbroker.broker.errors import UnknownGroup, UnknownNode
from raftbroker.broker.groups import Replicas
from raftbroker.broker.reconcile import CONTROL_VOTERS_MAX
from raftbroker.broker.reports import Reports
from raftbroker.broker.views import BrokerView, GroupView, HealthView, PartitionSize, Readiness, ReplicaView
from raftbroker.broker.wire import GroupReport


class Health:
    def __init__(self, context: Context, reports: Reports, replicas: Replicas) -> None:
        self._context = context
        self._reports = reports
        self._replicas = replicas
        self._was_ready = False

    @property
    def controller_id(self) -> int:
        group = self._context.host.groups.get(CONTROL)
        return group.leader.node if group is not None and group.leader is not None else -1

    async def brokers(self) -> list[BrokerView]:
        reports = await self._reports.collect()
        controller = self.controller_id
        return [
            BrokerView(
                node.id,
                node.uuid,
                node.peer,
                node.http,
                node.kafka,
                node.id in reports,
                node.id == controller,
                node.feature,
            )
            for node in self._context.control.nodes()
        ]

    async def health(self) -> HealthView:
        reports = await self._reports.collect()
        control = self._context.control
        nodes = tuple(node.id for node in control.nodes())
        down = tuple(node for node in nodes if node not in reports)
        leaderless, too_few = set(), set()
        for state in control.groups():
            known = self._reports.leadership(state.id)
            if self._reports.leader_report(state.id) is None:
                leaderless.add(state.id)
            if len(known.in_sync.intersection(state.nodes)) < min(state.replication_factor, len(nodes)):
                too_few.add(state.id)
        places = [
            (f"{topic.name}/{number}", place.group)
            for topic in control.topics()
            for number, place in enumerate(topic.partitions)
        ]
        without_leader = tuple(name for name, group in places if group in leaderless)
        under_replicated = tuple(name for name, group in places if group in too_few)
        controller = self.controller_id
        return HealthView(
            is_healthy=bool(nodes) and controller >= 0 and not (down or without_leader or under_replicated),
            controller_id=controller,
            all_nodes=nodes,
            nodes_down=down,
            leaderless_partitions=without_leader,
            under_replicated_partitions=under_replicated,
        )

    async def raft_status(self) -> list[GroupView]:
        await self._reports.collect()
        carried = self._carried()
        return [self._view(group, self._reports.replicas(group), carried[group]) for group in self._reports.groups()]

    def local_groups(self) -> list[GroupView]:
        carried = self._carried()
        return [self._view(report.group, [report], carried[report.group]) for report in self._reports.own().groups]

    def _carried(self) -> Counter[int]:
        return Counter(place.group for topic in self._context.control.topics() for place in topic.partitions)

    def _view(self, group: int, reports: list[GroupReport], partitions: int) -> GroupView:
        leading = [report for report in reports if report.leading]
        leader = max(leading, key=lambda report: report.replica.term, default=None)
        newest = max(reports, key=lambda report: report.replica.term, default=None)
        base = leader or newest
        members = (*base.voters, *base.learners) if base is not None else ()
        said = {report.replica.node: report.replica for report in reports}
        replicas = []
        for member in members:
            own = said.pop(member.node, None)
            voter = base is not None and member in base.voters
            caught_up = None
            if leader is not None:
                caught_up = member in leader.caught_up or member.node == leader.replica.node
            if own is not None and own.uuid == member.uuid:
                replicas.append(_seen_by_leader(own, voter, caught_up))
            else:
                replicas.append(ReplicaView(member.node, member.uuid, "absent", voter, 0, 0, 0, 0, 0, caught_up, None))
        replicas.extend(_seen_by_leader(own, voter=False, caught_up=None) for own in said.values())
        state = self._context.control.group(group)
        return GroupView(
            group=group,
            leader=leader.replica.node if leader is not None else _told_leader(newest),
            term=base.replica.term if base is not None else 0,
            replication_factor=state.replication_factor if state is not None else CONTROL_VOTERS_MAX,
            commit=max((report.replica.commit for report in reports), default=0),
            applied=max((report.replica.applied for report in reports), default=0),
            replicas=tuple(replicas),
            partitions=partitions,
        )

    def check_group(self, group: int) -> None:
        if group != CONTROL and self._context.control.group(group) is None:
            raise UnknownGroup(f"there is no Raft group {group}", field="group")

    def check_node(self, node: int) -> None:
        if self._context.control.node(node) is None:
            raise UnknownNode(f"there is no node {node} in the cluster", field="target")

    # --- this node ------------------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        reason = self._not_ready()
        if not reason:
            self._was_ready = True
        return Readiness(not reason, reason)

    def _not_ready(self) -> str:
        context = self._context
        group = context.host.groups.get(CONTROL)
        if group is None:
            return "this node belongs to no cluster yet"
        if group.leader is None:
            return "the control group has no leader"
        registered = context.control.node(context.me)
        if registered is None or registered.uuid != context.host.me.uuid:
            return "this node is not registered with its cluster yet"
        if self._was_ready:
            return ""
        if not context.control.shards and all(node.feature >= SHARDS_FEATURE for node in context.control.nodes()):
            return "the cluster has not made its coordinator shards yet"
        for state in context.control.groups():
            if context.me in state.nodes and state.id not in self._replicas.failed:
                replica = context.host.groups.get(state.id)
                if replica is None or (replica.leader is None and replica.damaged is None):
                    return f"Raft group {state.id} has no leader yet"
        return ""

    def partition_sizes(self) -> list[PartitionSize]:
        sizes = []
        for topic in self._context.control.topics():
            for number, place in enumerate(topic.partitions):
                machine = self._context.machine(place.group)
                if machine is None:
                    continue
                state = machine.partition(place.id)
                leading = self._context.host.groups[place.group].leading
                sizes.append(PartitionSize(topic.name, number, state.start, state.end, state.bytes, leading))
        return sizes


def _seen_by_leader(own: ReplicaView, voter: bool, caught_up: bool | None) -> ReplicaView:
    """A node's own word, but for what its leader knows better."""
    return ReplicaView(
        own.node,
        own.uuid,
        own.role,
        voter,
        own.term,
        own.commit,
        own.applied,
        own.first_index,
        own.last_index,
        caught_up,
        own.damaged,
    )


def _told_leader(report: GroupReport | None) -> int | None:
    return report.leader.node if report is not None and report.leader is not None else None
