"""Consumer groups as front doors ask for them. Kafka clients and HTTP consumers are members of the same groups.

Every call may be made on any node. With `here_only` it is not passed on: where this node does not lead the group's
shard it raises NotLeader, for front doors whose clients are told who coordinates.

What a group refuses is in the answer's `error`, a `GroupError`, which has the name of Kafka's error code; `refused`
makes an exception of it. That nobody could be asked is raised, as everywhere. `timeout` is seconds.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence

from raftbroker.broker.errors import Unavailable
from raftbroker.broker.group_access import check_names, refused
from raftbroker.broker.group_offsets import GroupOffsets, OffsetToCommit
from raftbroker.broker.routing import Mode
from raftbroker.broker.wire import Calls
from raftbroker.broker.wire_groups import (
    CONSUMER_HEARTBEAT,
    GROUP_HEARTBEAT,
    GROUP_JOIN,
    GROUP_SYNC,
    ConsumerHeartbeatAnswer,
    ConsumerHeartbeatRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    JoinAnswer,
    JoinRequest,
    SyncAnswer,
    SyncRequest,
)
from raftbroker.state.groups.ops import DeleteGroup, LeaveGroup, Leaving, Left
from raftbroker.state.groups.part import Groups
from raftbroker.state.groups.rows import Assignment, Protocol
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.groups.views import DescribeGroup, GroupView, ListedGroup, ListGroups

__all__ = ["ConsumerGroups", "OffsetToCommit", "refused"]

CLIENT_CHARS_MAX = 255
"""More of a client's id and host is cut off."""
WAIT_SECONDS_MAX = 3_600.0


class ConsumerGroups(GroupOffsets):
    def serve(self, calls: Calls) -> None:
        self._coordination.serve(calls)

    async def stop(self) -> None:
        await self._coordination.stop()

    # --- where --------------------------------------------------------------------------------------------

    async def coordinator(self, name: str, *, timeout: float = 5.0) -> int | None:
        """The node that leads the shard of a group (or transactional id); None while there is none."""
        leader = self._shards.leader_of(name)
        if leader is None:
            await self._shards.query(DescribeGroup(name), timeout)
            leader = self._shards.leader_of(name)
        return leader

    def elected(self, name: str) -> bool:
        """Whether this node has been elected to coordinate the group, ready or not."""
        try:
            return self._shards.leader_of(name) == self._context.me
        except Unavailable:
            return False

    def leads(self, name: str) -> bool:
        """Whether this node coordinates the group, and is ready to."""
        return self._shards.leads(name)

    # --- members of classic groups ------------------------------------------------------------------------

    async def join(
        self,
        group: str,
        *,
        member_id: str = "",
        instance_id: str | None = None,
        client_id: str,
        client_host: str,
        session_ms: int,
        rebalance_ms: int,
        protocol_type: str,
        protocols: Sequence[tuple[str, bytes]],
        id_required: bool = False,
        skips_assignment: bool = False,
        timeout: float | None = None,
        here_only: bool = False,
    ) -> JoinAnswer:
        """Returns once the rebalance is complete: that may take the members' longest `rebalance_ms`, and longer than
        `timeout` it does not. A new member has no `member_id`; `id_required` tells it one before it joins."""
        error = check_names(group, member_id, instance_id)
        if error is None and not self._options.session_ms_min <= session_ms <= self._options.session_ms_max:
            error = GroupError.INVALID_SESSION_TIMEOUT
        if error is not None:
            return JoinAnswer(error, member_id)
        rebalance_ms = rebalance_ms if rebalance_ms >= 0 else session_ms
        request = JoinRequest(
            self._context.control_index,
            min(2 * rebalance_ms / 1000 + 10.0, WAIT_SECONDS_MAX) if timeout is None else timeout,
            group,
            member_id=member_id,
            new_member_id=self._new_id(instance_id or client_id),
            instance_id=instance_id,
            client_id=client_id[:CLIENT_CHARS_MAX],
            client_host=client_host[:CLIENT_CHARS_MAX],
            session_ms=session_ms,
            rebalance_ms=rebalance_ms,
            protocol_type=protocol_type,
            protocols=tuple(Protocol(*offer) for offer in protocols),
            id_required=id_required,
            skips_assignment=skips_assignment,
        )
        return await self.at_leader(GROUP_JOIN, request, self._coordination.join, here_only, Mode.REPEATABLE)

    async def sync(
        self,
        group: str,
        *,
        member_id: str,
        instance_id: str | None = None,
        generation: int,
        protocol_type: str | None = None,
        protocol: str | None = None,
        assignments: Mapping[str, bytes] | None = None,
        timeout: float = 300.0,
        here_only: bool = False,
    ) -> SyncAnswer:
        """Returns once the generation's leader has brought the assignments, which is this member where it has any."""
        request = SyncRequest(
            self._context.control_index,
            timeout,
            group,
            member_id=member_id,
            instance_id=instance_id,
            generation=generation,
            protocol_type=protocol_type,
            protocol=protocol,
            assignments=dict(assignments or {}),
        )
        return await self.at_leader(GROUP_SYNC, request, self._coordination.sync, here_only, Mode.REPEATABLE)

    async def heartbeat(
        self,
        group: str,
        *,
        member_id: str,
        instance_id: str | None = None,
        generation: int,
        timeout: float = 10.0,
        here_only: bool = False,
    ) -> HeartbeatAnswer:
        request = HeartbeatRequest(
            self._context.control_index,
            timeout,
            group,
            member_id=member_id,
            instance_id=instance_id,
            generation=generation,
        )
        return await self.at_leader(GROUP_HEARTBEAT, request, self._coordination.heartbeat, here_only, Mode.READ)

    async def leave(
        self, group: str, members: Sequence[Leaving], *, timeout: float = 10.0, here_only: bool = False
    ) -> Left:
        """Of either protocol; one error for each member, in their order."""
        return await self.submit(LeaveGroup(group, tuple(members)), timeout, here_only)

    # --- members of KIP-848 groups ------------------------------------------------------------------------

    async def consumer_heartbeat(
        self,
        group: str,
        *,
        member_id: str,
        draws_id: bool = False,
        epoch: int,
        instance_id: str | None = None,
        rack_id: str | None = None,
        client_id: str,
        client_host: str,
        rebalance_ms: int = -1,
        names: Sequence[str] | None = None,
        regex: str | None = None,
        assignor: str | None = None,
        owned: Assignment | None = None,
        timeout: float = 30.0,
        here_only: bool = False,
    ) -> ConsumerHeartbeatAnswer:
        """None leaves a thing as it was. `owned` and the answer's assignment are by topic id (32 hex digits).
        `draws_id`: a member that joins without an id is given one."""
        if draws_id and not member_id and epoch == 0:
            member_id = self._new_id(instance_id or client_id)
        error = check_names(group, member_id, instance_id)
        if error is not None:
            return ConsumerHeartbeatAnswer(error, "group, member or instance id is empty or too long")
        request = ConsumerHeartbeatRequest(
            self._context.control_index,
            timeout,
            group,
            member_id=member_id,
            epoch=epoch,
            instance_id=instance_id,
            rack_id=None if rack_id is None else rack_id[:CLIENT_CHARS_MAX],
            client_id=client_id[:CLIENT_CHARS_MAX],
            client_host=client_host[:CLIENT_CHARS_MAX],
            rebalance_ms=rebalance_ms,
            names=None if names is None else tuple(names),
            regex=regex,
            assignor=assignor,
            owned=owned,
        )
        return await self.at_leader(
            CONSUMER_HEARTBEAT, request, self._coordination.consumer_heartbeat, here_only, Mode.REPEATABLE
        )

    # --- groups -------------------------------------------------------------------------------------------

    async def describe(self, group: str, *, timeout: float = 10.0, here_only: bool = False) -> GroupView | None:
        """Linearizable; None where there is no such group."""
        return (await self.query(DescribeGroup(group), timeout, here_only)).group

    async def delete(self, group: str, *, timeout: float = 10.0, here_only: bool = False) -> GroupError | None:
        return (await self.submit(DeleteGroup(group), timeout, here_only)).error

    async def list_all(self, *, timeout: float = 10.0) -> list[ListedGroup]:
        """Every group of the cluster, by name."""
        answers = await asyncio.gather(
            *(self._shards.query(ListGroups(""), timeout, shard=shard) for shard in self._shards.all())
        )
        return sorted((group for answer in answers for group in answer.groups), key=lambda group: group.name)

    async def list_here(self, *, timeout: float = 10.0) -> list[ListedGroup]:
        """Those that this node coordinates, by name."""
        found: list[ListedGroup] = []
        for shard in self._shards.led():
            await self._shards.barrier(shard, timeout)
            found += self._shards.part(shard, Groups).query(ListGroups("")).groups
        return sorted(found, key=lambda group: group.name)

    # --- ids ------------------------------------------------------------------------------------------------

    def _new_id(self, begin: str) -> str:
        """Of a member, as Kafka makes them: they begin with what people know the client by."""
        drawn = uuid.UUID(int=self._context.random.getrandbits(128), version=4)
        return f"{begin[:CLIENT_CHARS_MAX]}-{drawn}"
