"""Brings the cluster nearer to what its control state says, one idempotent step after the other, for ever.

Every node registers itself. The leader of the control group looks at the control state and at what nodes report, and
derives each step from these alone; nothing of a step's progress is remembered, so another leader simply goes on. It
makes all nodes members of the control group (the first five vote), replaces members whose disk was replaced, takes
damaged replicas out and has them start anew, gives groups the replicas they lack as nodes join, and moves leadership
back to the first replica of a group's placement.
"""

import asyncio
import logging

from consensus.errors import ChangeRefused, ConsensusError
from consensus.model import Configuration, Member
from raftbroker.broker.context import CONTROL, FEATURE, SHARDS_FEATURE, Context
from raftbroker.broker.controller import Controller, load_of
from raftbroker.broker.errors import BrokerError, ChangeRejected, Unavailable
from raftbroker.broker.groups import Replicas
from raftbroker.broker.membership import Action, Seen, next_step
from raftbroker.broker.placement import joiners
from raftbroker.broker.reports import Reports
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.wire import (
    CHANGE,
    REGISTER,
    REGISTER_HERE,
    RESET,
    TRANSFER,
    ChangeRequest,
    GroupReport,
    GroupRequest,
    RegisterRequest,
    TransferRequest,
)
from raftbroker.state.control_commands import FormCluster, GroupState, NodeState, RaiseFeature, SetPlacement

log = logging.getLogger(__name__)

CONTROL_VOTERS_MAX = 5
STEP_SECONDS = 5.0
REGISTER_EVERY_SECONDS = 1.0
FORMING_SECONDS = 0.1
"""A cluster that forms is looked at more often: it is ready once its shards are made."""
SHARDS_WAIT_SECONDS = 15.0
"""How long the first nodes may take until the shards are made without them."""


class Reconciler:
    def __init__(
        self, context: Context, router: Router, controller: Controller, reports: Reports, replicas: Replicas
    ) -> None:
        self._context = context
        self._router = router
        self._controller = controller
        self._reports = reports
        self._replicas = replicas
        self._led_since: dict[int, tuple[int, float]] = {}
        """group -> (term, since when it has been seen led in that term): only to leave it alone for a while."""
        self._moved = -1e9
        self._shards_due: float | None = None

    # --- on every node ----------------------------------------------------------------------------------------

    async def keep_registered(self) -> None:
        """Tells the cluster who and where this node is, as often as the control state says otherwise."""
        while True:
            if self._context.control.node(self._context.me) != self._own():
                try:
                    await self._register()
                    continue
                except (ConsensusError, BrokerError) as error:
                    log.info("this node is not registered yet: %s", error)
            await asyncio.sleep(REGISTER_EVERY_SECONDS)

    def _own(self) -> NodeState:
        options = self._context.options
        me = self._context.host.me
        return NodeState(me.node, me.uuid, options.peer, options.http, options.kafka, FEATURE)

    async def _register(self) -> None:
        own = self._own()
        index = await self._router.at_leader(
            CONTROL,
            REGISTER,
            lambda left: RegisterRequest(own.id, own.uuid, own.peer, own.http, own.kafka, own.feature, left),
            self._controller.register,
            asyncio.get_running_loop().time() + STEP_SECONDS,
            Mode.REPEATABLE,
        )
        await self._context.control_reached(index, STEP_SECONDS)

    async def pass_registration(self, request: RegisterRequest) -> int:
        """A node that joins knows only whom it is connected with; this one passes it on to the control leader."""
        return await self._router.at_leader(
            CONTROL,
            REGISTER_HERE,
            lambda left: request,
            self._controller.register,
            asyncio.get_running_loop().time() + request.timeout,
            Mode.REPEATABLE,
        )

    async def change(self, request: ChangeRequest) -> int:
        """One change of membership, on the leader of the group."""
        group = self._context.leading(request.group)
        action = Action(request.action)
        if action is Action.LEARN:
            return await group.add_learner(request.member, request.timeout)
        if action is Action.PROMOTE:
            return await group.promote(request.member, request.timeout)
        return await group.remove(request.member, request.timeout)

    async def reset(self, request: GroupRequest) -> bool:
        await self._context.as_far_as(request)
        return await self._replicas.reset(request.group)

    async def transfer_here(self, request: TransferRequest) -> int:
        group = self._context.leading(request.group)
        if request.target == self._context.me:
            return group.term
        try:
            await group.transfer(request.target, request.timeout)
        except ChangeRefused as error:
            raise ChangeRejected(str(error), field="target") from error
        return group.term

    # --- on the control leader --------------------------------------------------------------------------------

    async def run(self) -> None:
        every = self._context.options.reconcile_every
        while True:
            await asyncio.sleep(every if self._context.control.shards else min(every, FORMING_SECONDS))
            control = self._context.host.groups.get(CONTROL)
            if control is None or not control.leading:
                self._led_since.clear()
                continue
            try:
                await self.round()
            except (ConsensusError, BrokerError) as error:
                log.info("reconciliation goes on in its next round: %s", error)

    async def round(self) -> None:
        await self._form()
        await self._reports.collect(0.0)
        await self._make_shards()
        await self._members_of(CONTROL, self._registered(), CONTROL_VOTERS_MAX, exact=False)
        for state in self._context.control.groups():
            await self._fill(state)
            wanted = tuple(m for m in self._registered() if m.node in state.nodes)
            ordered = sorted(wanted, key=lambda member: state.nodes.index(member.node))
            await self._members_of(state.id, ordered, len(state.nodes), exact=True)
        await self._prefer()

    def _registered(self) -> list[Member]:
        return [node.member for node in self._context.control.nodes()]

    async def _form(self) -> None:
        """Writes down the cluster's id, and the features that every node supports."""
        control, host = self._context.control, self._context.host
        if not control.cluster_id and host.cluster:
            await self._controller.propose(FormCluster(host.cluster, self._context.wall()), STEP_SECONDS)
        common = min((node.feature for node in control.nodes()), default=0)
        if common > control.feature:
            await self._controller.propose(RaiseFeature(common), STEP_SECONDS)

    async def _make_shards(self) -> None:
        """Once, when the nodes that formed the cluster are there to share them, or have had their time to come."""
        control = self._context.control
        if control.shards or control.feature < SHARDS_FEATURE:
            return
        now = asyncio.get_running_loop().time()
        if self._shards_due is None:
            self._shards_due = now + SHARDS_WAIT_SECONDS
        live = await self._reports.live()
        registered = {node.id for node in control.nodes()}
        voters = {member.node for member in self._context.control_group.configuration.voters}
        if voters <= live & registered or now >= self._shards_due:
            await self._controller.create_shards(live, STEP_SECONDS)

    async def _fill(self, state: GroupState) -> None:
        """A group placed on fewer nodes than its replication factor gains those that have joined."""
        if len(state.nodes) >= state.replication_factor:
            return
        live = await self._reports.live()
        nodes = [node.id for node in self._context.control.nodes() if node.id in live]
        loads = [load_of(group, 0) for group in self._context.control.groups()]
        placed = joiners(state.id, state.nodes, state.replication_factor, loads, nodes)
        if set(placed) != set(state.nodes):
            await self._controller.propose(SetPlacement(state.id, placed), STEP_SECONDS)

    async def _members_of(self, group: int, wanted: list[Member], voters_max: int, *, exact: bool) -> None:
        """At most one change of the group's members; damaged replicas that are out start anew."""
        leader = self._reports.leader_report(group)
        if leader is None or not wanted:
            return
        now = Configuration(leader.voters, leader.learners)
        reports = self._reports.replicas(group)
        await self._restart_damaged(group, now, reports)
        step = next_step(now, wanted, voters_max, self._seen(leader, reports), exact=exact)
        if step is None:
            return
        log.info("group %d: %s %s", group, step.action.value, step.member)
        request = ChangeRequest(group, step.action.value, step.member, STEP_SECONDS)
        try:
            if leader.replica.node == self._context.me:
                await self.change(request)
            else:
                await self._context.calls.call(leader.replica.node, CHANGE, request, STEP_SECONDS)
        except (ConsensusError, BrokerError) as error:
            log.info("group %d: %s %s waits: %s", group, step.action.value, step.member, error)

    def _seen(self, leader: GroupReport, reports: list[GroupReport]) -> Seen:
        def member(report: GroupReport) -> Member:
            return Member(report.replica.node, report.replica.uuid)

        return Seen(
            frozenset(leader.caught_up),
            frozenset(member(report) for report in reports if report.replica.damaged is None),
            frozenset(member(report) for report in reports if report.replica.damaged is not None),
        )

    async def _restart_damaged(self, group: int, now: Configuration, reports: list[GroupReport]) -> None:
        for report in reports:
            member = Member(report.replica.node, report.replica.uuid)
            if report.replica.damaged is None or member in now.members:
                continue
            request = GroupRequest(self._context.control_index, group, STEP_SECONDS)
            try:
                if member.node == self._context.me:
                    await self.reset(request)
                else:
                    await self._context.calls.call(member.node, RESET, request, STEP_SECONDS)
            except (ConsensusError, BrokerError) as error:
                log.info("group %d: the damaged replica on node %d waits: %s", group, member.node, error)

    # --- leadership -------------------------------------------------------------------------------------------

    async def _prefer(self) -> None:
        """Moves one group's leadership to the first of its replicas that is up and has caught up."""
        now = asyncio.get_running_loop().time()
        quiet = self._context.options.transfer_quiet
        for state in self._context.control.groups():
            leader = self._reports.leader_report(state.id)
            if leader is None:
                self._led_since.pop(state.id, None)
                continue
            term, since = self._led_since.setdefault(state.id, (leader.replica.term, now))
            if term != leader.replica.term:
                self._led_since[state.id] = (leader.replica.term, now)
                continue
            target = self._preferred(state, leader)
            if target is None or now - since < quiet or now - self._moved < quiet / 10:
                continue
            self._moved = now
            log.info("group %d: leadership goes back to node %d", state.id, target)
            try:
                await self.transfer(state.id, target, STEP_SECONDS)
            except (ConsensusError, BrokerError) as error:
                log.info("group %d: leadership stays with node %d: %s", state.id, leader.replica.node, error)
                self._led_since[state.id] = (leader.replica.term, now)
            return

    def _preferred(self, state: GroupState, leader: GroupReport) -> int | None:
        """Who should lead instead of the present leader; None where it is the right one."""
        in_sync = self._reports.leadership(state.id).in_sync
        for node in state.nodes:
            if node == leader.replica.node:
                return None
            if node in in_sync:
                return node
        return None

    async def transfer(self, group: int, target: int | None, timeout: float) -> None:
        """Hands leadership of the group over; returns once its leader no longer leads."""
        if self._router.leader_of(group) is None:
            await self._reports.collect()
        leader = self._router.leader_of(group)
        if leader is None:
            raise Unavailable(f"Raft group {group} has no leader now: try again when it has one")
        await self._router.at_leader(
            group,
            TRANSFER,
            lambda left: TransferRequest(group, target, left),
            self.transfer_here,
            asyncio.get_running_loop().time() + timeout,
            Mode.ONCE,
        )
