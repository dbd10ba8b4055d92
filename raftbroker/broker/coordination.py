"""Consumer groups on the node that leads their shard: joins and syncs that wait, heartbeats, commits.

Whatever changes a group is decided in its shard, when it is applied; an answer leaves only after what it says is on
the disks of a majority. A heartbeat that changes nothing is answered from what is applied here, without the log.

Every call raises NotLeader where this node does not lead the group's shard or is not ready to, and when it loses it
meanwhile; whoever asked asks the next leader with the same member id, and finds the group as it was.
"""

import asyncio
import logging

import msgspec

from consensus.errors import NotLeader
from raftbroker.broker.context import Context
from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.group_driver import GroupDriver
from raftbroker.broker.group_options import GroupOptions
from raftbroker.broker.group_patterns import topic_pattern
from raftbroker.broker.shards import Shards
from raftbroker.broker.topics import Topics
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_groups import (
    CONSUMER_HEARTBEAT,
    GROUP_COMMIT,
    GROUP_HEARTBEAT,
    GROUP_JOIN,
    GROUP_SYNC,
    CommitRequest,
    ConsumerHeartbeatAnswer,
    ConsumerHeartbeatRequest,
    GroupRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinedMember,
    JoinRequest,
    SyncAnswer,
    SyncRequest,
)
from raftbroker.state.groups.assignors import ASSIGNORS
from raftbroker.state.groups.classic import ClassicGroup
from raftbroker.state.groups.consumer import AWAY, ConsumerGroup
from raftbroker.state.groups.ops import (
    CommitOffsets,
    Committed,
    Joined,
    JoinGroup,
    LeaveConsumer,
    Reconcile,
    Subscribe,
    SyncGroup,
)
from raftbroker.state.groups.rows import Assignment
from raftbroker.state.groups.terms import GroupError, Phase

log = logging.getLogger(__name__)

UNSETTLED_MS = 1_000
"""How soon a KIP-848 member that has or waits for something to do is to let itself be heard of again."""
TARGET_SECONDS = 5.0
"""How long a member that joins or subscribes waits for its target; it is given at its next heartbeat else."""


class Coordination:
    def __init__(self, context: Context, shards: Shards, topics: Topics, options: GroupOptions) -> None:
        self._context = context
        self._shards = shards
        self._topics = topics
        self._options = options
        self._drivers: dict[int, GroupDriver] = {}
        shards.on_led(self._led)
        shards.on_unled(self._unled)

    def serve(self, calls: Calls) -> None:
        calls.serve(GROUP_JOIN, self.join)
        calls.serve(GROUP_SYNC, self.sync)
        calls.serve(GROUP_HEARTBEAT, self.heartbeat)
        calls.serve(GROUP_COMMIT, self.commit)
        calls.serve(CONSUMER_HEARTBEAT, self.consumer_heartbeat)

    def _led(self, shard: int) -> None:
        self._unled(shard)
        self._drivers[shard] = GroupDriver(self._context, self._shards, self._topics, self._options, shard)

    def _unled(self, shard: int) -> None:
        driver = self._drivers.pop(shard, None)
        if driver is not None:
            driver.stop()

    async def stop(self) -> None:
        drivers = list(self._drivers.values())
        self._drivers.clear()
        await asyncio.gather(*(task for driver in drivers for task in driver.stop()), return_exceptions=True)

    async def _driver(self, request: GroupRequest) -> GroupDriver:
        """Of the group's shard. Raises NotLeader."""
        await self._context.as_far_as(request)
        shard = self._shards.shard_of(request.group)
        driver = self._drivers.get(shard)
        if driver is None or not self._shards.leads(request.group):
            self._context.leading(shard)
            raise NotLeader(shard, None, "elected, but not yet ready to coordinate groups")
        return driver

    # --- joining ------------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Returns once the rebalance is complete."""
        driver = await self._driver(request)
        deadline = asyncio.get_running_loop().time() + request.timeout
        op = JoinGroup(
            request.group,
            member_id=request.member_id,
            new_member_id=request.new_member_id,
            instance_id=request.instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            session_ms=request.session_ms,
            rebalance_ms=request.rebalance_ms,
            protocol_type=request.protocol_type,
            protocols=request.protocols,
            id_required=request.id_required,
            size_max=self._options.size_max,
            delay_ms=self._options.initial_rebalance_delay_ms,
            retain_ms=self._options.offsets_retain_ms,
        )
        outcome = await self._shards.submit_here(op, request.timeout)
        if outcome.error is not None:
            return JoinAnswer(outcome.error, outcome.member_id)
        driver.heard(request.group, outcome.member_id, request.session_ms)
        while True:
            group = self._classic(driver, request.group)
            error = _gone(group, outcome.member_id, request.instance_id)
            if group is None or error is not None:
                return JoinAnswer(error, request.member_id)
            if not outcome.wait or group.phase is not Phase.PREPARING or group.row.round > outcome.round:
                return _joined(group, outcome, request)
            if not await self._shards.changed(request.group, deadline):
                return JoinAnswer(GroupError.REBALANCE_IN_PROGRESS, outcome.member_id)

    def _classic(self, driver: GroupDriver, name: str) -> ClassicGroup | None:
        group = driver.part.groups.get(name)
        return group.classic if group is not None else None

    # --- the generation -----------------------------------------------------------------------------------

    async def sync(self, request: SyncRequest) -> SyncAnswer:
        """Returns once the generation's leader has brought the assignments."""
        driver = await self._driver(request)
        deadline = asyncio.get_running_loop().time() + request.timeout
        group = self._classic(driver, request.group)
        error = GroupError.UNKNOWN_MEMBER_ID if group is None else _check_sync(group, request)
        if group is None or error is not None:
            return SyncAnswer(error)
        driver.synced(request.group, request.member_id)
        if group.phase is Phase.COMPLETING and request.member_id == group.row.leader:
            done = await self._shards.submit_here(_sync_op(request), request.timeout)
            if done.error is not None:
                return SyncAnswer(done.error)
        while True:
            group = self._classic(driver, request.group)
            error = _gone(group, request.member_id, request.instance_id)
            if group is None or error is not None:
                return SyncAnswer(error)
            if group.row.generation != request.generation or group.phase is Phase.PREPARING:
                return SyncAnswer(GroupError.REBALANCE_IN_PROGRESS)
            if group.phase is Phase.STABLE:
                member = group.members[request.member_id]
                driver.heard(request.group, member.id, member.session_ms)
                return SyncAnswer(None, group.row.protocol_type, group.row.protocol, member.assignment)
            if not await self._shards.changed(request.group, deadline):
                return SyncAnswer(GroupError.REBALANCE_IN_PROGRESS)

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatAnswer:
        driver = await self._driver(request)
        group = self._classic(driver, request.group)
        if group is None:
            return HeartbeatAnswer(GroupError.UNKNOWN_MEMBER_ID)
        error = group.check_generation(request.member_id, request.instance_id, request.generation)
        if error is not None:
            return HeartbeatAnswer(error)
        driver.heard(request.group, request.member_id, group.members[request.member_id].session_ms)
        return HeartbeatAnswer(GroupError.REBALANCE_IN_PROGRESS if group.phase is Phase.PREPARING else None)

    async def commit(self, request: CommitRequest) -> Committed:
        driver = await self._driver(request)
        op = CommitOffsets(
            request.group,
            member_id=request.member_id,
            instance_id=request.instance_id,
            generation=request.generation,
            modern=request.modern,
            items=request.items,
            retain_ms=request.retain_ms,
        )
        outcome = await self._shards.submit_here(op, request.timeout)
        group = self._classic(driver, request.group)
        member = group.members.get(request.member_id) if group is not None else None
        if outcome.error is None and member is not None:
            driver.heard(request.group, member.id, member.session_ms)
        return outcome

    # --- KIP-848 ------------------------------------------------------------------------------------------

    async def consumer_heartbeat(self, request: ConsumerHeartbeatRequest) -> ConsumerHeartbeatAnswer:
        driver = await self._driver(request)
        refused = _check_consumer(request)
        if refused is not None:
            return refused
        if request.epoch < 0:
            return await self._leave(request)
        if request.epoch == 0:
            request = msgspec.structs.replace(request, owned={})
        deadline = asyncio.get_running_loop().time() + request.timeout
        error = await self._subscribe(driver, request, deadline)
        if error is not None:
            return ConsumerHeartbeatAnswer(error)
        driver.heard(request.group, request.member_id, self._options.consumer_session_ms)
        group = self._consumer(driver, request.group)
        op = Reconcile(
            request.group,
            member_id=request.member_id,
            epoch=request.epoch,
            instance_id=request.instance_id,
            owned=request.owned,
        )
        if group is not None and group.settled(op):
            member = group.members[request.member_id]
            return self._beaten(group, request, member.epoch, member.assigned if _is_full(request) else None)
        outcome = await self._shards.submit_here(op, deadline - asyncio.get_running_loop().time())
        if outcome.error is not None:
            return ConsumerHeartbeatAnswer(outcome.error)
        shown = outcome.changed or _is_full(request) or request.epoch != outcome.epoch
        group = self._consumer(driver, request.group)
        return self._beaten(group, request, outcome.epoch, outcome.assigned if shown else None)

    def _beaten(
        self, group: ConsumerGroup | None, request: ConsumerHeartbeatRequest, epoch: int, assignment: Assignment | None
    ) -> ConsumerHeartbeatAnswer:
        heartbeat_ms = self._options.consumer_heartbeat_ms
        member = group.members.get(request.member_id) if group is not None else None
        if group is not None and member is not None and not group.is_reconciled(member):
            heartbeat_ms = min(heartbeat_ms, UNSETTLED_MS)
        return ConsumerHeartbeatAnswer(None, "", request.member_id, epoch, heartbeat_ms, assignment)

    def _consumer(self, driver: GroupDriver, name: str) -> ConsumerGroup | None:
        group = driver.part.groups.get(name)
        return group.consumer if group is not None else None

    async def _subscribe(
        self, driver: GroupDriver, request: ConsumerHeartbeatRequest, deadline: float
    ) -> GroupError | None:
        """What the member says of itself is known, and there are targets that go by it; or it is refused."""
        op = Subscribe(
            request.group,
            member_id=request.member_id,
            epoch=request.epoch,
            instance_id=request.instance_id,
            rack_id=request.rack_id,
            client_id=request.client_id,
            client_host=request.client_host,
            rebalance_ms=request.rebalance_ms,
            names=request.names,
            regex=request.regex,
            assignor=request.assignor,
            owned=request.owned,
            size_max=self._options.size_max,
            retain_ms=self._options.offsets_retain_ms,
        )
        group = self._consumer(driver, request.group)
        if group is not None and group.says_nothing_new(op):
            return group.check_member(request.member_id, request.instance_id)
        outcome = await self._shards.submit_here(op, deadline - asyncio.get_running_loop().time())
        if outcome.error is not None:
            return outcome.error
        until = min(deadline, asyncio.get_running_loop().time() + TARGET_SECONDS)
        while True:
            group = self._consumer(driver, request.group)
            if group is None or request.member_id not in group.members:
                return GroupError.UNKNOWN_MEMBER_ID
            if group.row.target_epoch >= outcome.epoch:
                return None
            if not await self._shards.changed(request.group, until):
                return None if group.row.target_epoch else GroupError.COORDINATOR_NOT_AVAILABLE

    async def _leave(self, request: ConsumerHeartbeatRequest) -> ConsumerHeartbeatAnswer:
        op = LeaveConsumer(request.group, request.member_id, request.instance_id, request.epoch == AWAY)
        done = await self._shards.submit_here(op, request.timeout)
        return ConsumerHeartbeatAnswer(done.error, "", request.member_id, request.epoch)


def _gone(group: ClassicGroup | None, member_id: str, instance_id: str | None) -> GroupError | None:
    return GroupError.UNKNOWN_MEMBER_ID if group is None else group.check_member(member_id, instance_id)


def _joined(group: ClassicGroup, outcome: Joined, request: JoinRequest) -> JoinAnswer:
    row = group.row
    leads = row.leader == outcome.member_id
    leader, skip = row.leader, False
    if outcome.replaced and leads:
        if request.skips_assignment:
            skip = True
        else:  # it must not take itself for the leader: nobody waits for its assignment
            leader, leads = outcome.replaced, False
    members = tuple(JoinedMember(m.id, m.instance_id, group.metadata(m)) for m in group.members.values())
    return JoinAnswer(
        None,
        outcome.member_id,
        row.generation,
        row.protocol_type,
        row.protocol,
        leader,
        skip,
        members if leads else (),
    )


def _check_sync(group: ClassicGroup, request: SyncRequest) -> GroupError | None:
    return group.check_sync(
        request.member_id, request.instance_id, request.generation, request.protocol_type, request.protocol
    )


def _sync_op(request: SyncRequest) -> SyncGroup:
    return SyncGroup(
        request.group,
        member_id=request.member_id,
        instance_id=request.instance_id,
        generation=request.generation,
        protocol_type=request.protocol_type,
        protocol=request.protocol,
        assignments=request.assignments,
    )


def _is_full(request: ConsumerHeartbeatRequest) -> bool:
    """Whether it says everything, and wants to hear everything."""
    said = request.rebalance_ms >= 0 and (request.names is not None or request.regex is not None)
    return request.epoch == 0 or (said and request.owned is not None)


def _check_consumer(request: ConsumerHeartbeatRequest) -> ConsumerHeartbeatAnswer | None:
    """What is wrong with the request itself."""
    message = ""
    if not request.member_id:
        message = "a member id is needed: draw one, and keep it for as long as the consumer lives"
    elif request.epoch < AWAY:
        message = f"{request.epoch} is no member epoch"
    elif request.epoch == AWAY and request.instance_id is None:
        message = "only a static member leaves for a while: give its instance id"
    elif request.epoch == 0 and request.rebalance_ms < 0:
        message = "a member that joins says its rebalance time-out"
    elif request.epoch == 0 and request.owned:
        message = "a member that joins owns nothing"
    elif request.epoch == 0 and not request.names and not request.regex:
        message = "a member that joins says what it subscribes to"
    if message:
        return ConsumerHeartbeatAnswer(GroupError.INVALID_REQUEST, message)
    if request.assignor is not None and request.assignor not in ASSIGNORS:
        names = ", ".join(sorted(ASSIGNORS))
        return ConsumerHeartbeatAnswer(GroupError.UNSUPPORTED_ASSIGNOR, f"the assignors there are: {names}")
    if request.regex:
        try:
            topic_pattern(request.regex)
        except InvalidRequest as error:
            return ConsumerHeartbeatAnswer(GroupError.INVALID_REGULAR_EXPRESSION, error.message)
    return None
