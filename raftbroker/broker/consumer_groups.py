"""Consumer groups as front doors ask for them. Kafka clients and HTTP consumers are members of the same groups.

Every call may be made on any node. With `here_only` it is not passed on: where this node does not lead the group's
shard it raises NotLeader, for front doors whose clients are told who coordinates.

What a group refuses is in the answer's `error`, a `GroupError`, which has the name of Kafka's error code; `refused`
makes an exception of it. That nobody could be asked is raised, as everywhere. `timeout` is seconds.

An offset counts for the topic it was committed for, by the topic's id: one of a topic that has been deleted is not
shown, also where another topic of that name has been made since.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from raftbroker.broker.context import Context
from raftbroker.broker.coordination import Coordination
from raftbroker.broker.errors import (
    BrokerError,
    GroupRefused,
    InvalidRequest,
    NonEmptyGroup,
    Unavailable,
    UnknownConsumerGroup,
    UnknownTopic,
)
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.topics import Topics
from raftbroker.broker.wire import Calls, Method
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
    JoinRequest,
    SyncAnswer,
    SyncRequest,
)
from raftbroker.state.groups.ops import (
    CommitItem,
    Committed,
    DeleteGroup,
    DeleteOffsets,
    LeaveGroup,
    Leaving,
    Left,
    PartitionName,
    TxnOffsetCommit,
)
from raftbroker.state.groups.part import Groups
from raftbroker.state.groups.rows import Assignment, Protocol
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.groups.views import (
    CommittedOffset,
    DescribeGroup,
    FetchOffsets,
    GroupView,
    ListedGroup,
    ListGroups,
    OffsetsAnswer,
)
from raftbroker.state.shard import Op, Query

Q = TypeVar("Q", bound=GroupRequest)
A = TypeVar("A")
O = TypeVar("O")  # noqa: E741  an outcome

GROUP_BYTES_MAX = 1_000
ID_BYTES_MAX = 1_000
"""Of member and instance ids."""
CLIENT_CHARS_MAX = 255
"""More of a client's id and host is cut off."""
WAIT_SECONDS_MAX = 3_600.0


class OffsetToCommit(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class ConsumerGroups:
    def __init__(self, context: Context, router: Router, shards: Shards, topics: Topics) -> None:
        self._context = context
        self._router = router
        self._shards = shards
        self._topics = topics
        self._options = context.options.groups
        self._coordination = Coordination(context, shards, topics, self._options)

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
        error = self._check(group, member_id, instance_id)
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
        return await self._at_leader(GROUP_JOIN, request, self._coordination.join, here_only, Mode.REPEATABLE)

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
        return await self._at_leader(GROUP_SYNC, request, self._coordination.sync, here_only, Mode.REPEATABLE)

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
        return await self._at_leader(GROUP_HEARTBEAT, request, self._coordination.heartbeat, here_only, Mode.READ)

    async def leave(
        self, group: str, members: Sequence[Leaving], *, timeout: float = 10.0, here_only: bool = False
    ) -> Left:
        """Of either protocol; one error for each member, in their order."""
        return await self._submit(LeaveGroup(group, tuple(members)), timeout, here_only)

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
        error = self._check(group, member_id, instance_id)
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
        return await self._at_leader(
            CONSUMER_HEARTBEAT, request, self._coordination.consumer_heartbeat, here_only, Mode.REPEATABLE
        )

    # --- offsets ------------------------------------------------------------------------------------------

    async def commit(
        self,
        group: str,
        offsets: Sequence[OffsetToCommit],
        *,
        member_id: str = "",
        instance_id: str | None = None,
        generation: int = -1,
        modern: bool = True,
        timeout: float = 10.0,
        here_only: bool = False,
    ) -> Committed:
        """`generation` is the member epoch in KIP-848; negative for who is no member, which only a group without
        members takes. One error for each offset, in their order, unless the whole was refused; none where all were
        taken. `modern`: whether the client knows member epochs at all."""
        error = self._check(group, member_id, instance_id)
        if error is not None:
            return Committed(error)
        items, unknown = await self._items(offsets, timeout)
        request = CommitRequest(
            self._context.control_index,
            timeout,
            group,
            member_id=member_id,
            instance_id=instance_id,
            generation=generation,
            modern=modern,
            items=items,
            retain_ms=self._options.offsets_retain_ms,
        )
        done = await self._at_leader(GROUP_COMMIT, request, self._coordination.commit, here_only, Mode.REPEATABLE)
        return _with_unknown(done, len(offsets), unknown)

    async def txn_commit(
        self,
        group: str,
        offsets: Sequence[OffsetToCommit],
        *,
        producer_id: int,
        producer_epoch: int,
        member_id: str = "",
        instance_id: str | None = None,
        generation: int = -1,
        timeout: float = 10.0,
        here_only: bool = False,
    ) -> Committed:
        """Offsets that count once the producer's transaction is committed."""
        error = self._check(group, member_id, instance_id)
        if error is not None:
            return Committed(error)
        items, unknown = await self._items(offsets, timeout)
        op = TxnOffsetCommit(
            group,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            member_id=member_id,
            instance_id=instance_id,
            generation=generation,
            items=items,
            retain_ms=self._options.offsets_retain_ms,
        )
        return _with_unknown(await self._submit(op, timeout, here_only), len(offsets), unknown)

    async def _items(
        self, offsets: Sequence[OffsetToCommit], timeout: float
    ) -> tuple[tuple[CommitItem, ...], frozenset[int]]:
        """With their topics' ids; and the positions of those whose topic or partition there is not."""
        known: dict[str, tuple[str, int]] = {}
        for name in {item.topic for item in offsets}:
            try:
                topic = await self._topics.state(name, timeout)
            except (UnknownTopic, InvalidRequest):
                known[name] = ("", 0)
            else:
                known[name] = (topic.topic_id, len(topic.partitions))
        items: list[CommitItem] = []
        unknown: set[int] = set()
        for position, item in enumerate(offsets):
            topic_id, count = known[item.topic]
            if 0 <= item.partition < count:
                items.append(
                    CommitItem(item.topic, topic_id, item.partition, item.offset, item.leader_epoch, item.metadata)
                )
            else:
                unknown.add(position)
        return tuple(items), frozenset(unknown)

    async def offsets(
        self,
        group: str,
        partitions: Sequence[PartitionName] | None = None,
        *,
        stable: bool = False,
        member_id: str | None = None,
        epoch: int = -1,
        timeout: float = 10.0,
        here_only: bool = False,
    ) -> OffsetsAnswer:
        """What is committed, linearizable, of these partitions in their order (-1 where nothing is), or of all that
        have something. `stable`: an error where a transaction that is open would change it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        query = FetchOffsets(
            group,
            partitions=None if partitions is None else tuple(partitions),
            stable=stable,
            member_id=member_id,
            epoch=epoch,
        )
        answer = await self._query(query, timeout, here_only)
        if not all(map(self._is_current, answer.offsets)):
            await self._topics.barrier(max(0.1, deadline - loop.time()))
            shown = [item if self._is_current(item) else None for item in answer.offsets]
            found = tuple(
                item or CommittedOffset(before.topic, before.partition)
                for item, before in zip(shown, answer.offsets, strict=True)
                if item is not None or partitions is not None
            )
            answer = OffsetsAnswer(answer.error, found)
        return answer

    def _is_current(self, item: CommittedOffset) -> bool:
        if item.offset < 0:
            return True
        topic = self._context.control.topic(item.topic)
        return topic is not None and topic.topic_id == item.topic_id

    async def delete_offsets(
        self, group: str, partitions: Sequence[PartitionName], *, timeout: float = 10.0, here_only: bool = False
    ) -> Committed:
        return await self._submit(DeleteOffsets(group, tuple(partitions)), timeout, here_only)

    # --- groups -------------------------------------------------------------------------------------------

    async def describe(self, group: str, *, timeout: float = 10.0, here_only: bool = False) -> GroupView | None:
        """Linearizable; None where there is no such group."""
        return (await self._query(DescribeGroup(group), timeout, here_only)).group

    async def delete(self, group: str, *, timeout: float = 10.0, here_only: bool = False) -> GroupError | None:
        return (await self._submit(DeleteGroup(group), timeout, here_only)).error

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

    # --- getting there ------------------------------------------------------------------------------------

    def _new_id(self, begin: str) -> str:
        """Of a member, as Kafka makes them: they begin with what people know the client by."""
        drawn = uuid.UUID(int=self._context.random.getrandbits(128), version=4)
        return f"{begin[:CLIENT_CHARS_MAX]}-{drawn}"

    def _check(self, group: str, member_id: str = "", instance_id: str | None = None) -> GroupError | None:
        if not 0 < len(group.encode()) <= GROUP_BYTES_MAX:
            return GroupError.INVALID_GROUP_ID
        if len(member_id.encode()) > ID_BYTES_MAX:
            return GroupError.INVALID_REQUEST
        if instance_id is not None and not 0 < len(instance_id.encode()) <= ID_BYTES_MAX:
            return GroupError.INVALID_REQUEST
        return None

    async def _at_leader(
        self, method: Method[Q, A], request: Q, here: Callable[[Q], Awaitable[A]], here_only: bool, mode: Mode
    ) -> A:
        if here_only:
            return await here(request)
        return await self._router.at_leader(
            self._shards.shard_of(request.group),
            method,
            lambda left: msgspec.structs.replace(request, timeout=left),
            here,
            asyncio.get_running_loop().time() + request.timeout,
            mode,
            attempt_seconds=request.timeout,
        )

    async def _submit(self, op: Op[O], timeout: float, here_only: bool) -> O:
        if here_only:
            return await self._shards.submit_here(op, timeout)
        return await self._shards.submit(op, timeout, mode=Mode.REPEATABLE)

    async def _query(self, query: Query[A], timeout: float, here_only: bool) -> A:
        if not here_only:
            return await self._shards.query(query, timeout)
        shard = self._shards.shard_of(query.name)
        await self._shards.barrier(shard, timeout)
        answer: Any = self._shards.part(shard, Groups).query(query)
        typed: A = answer
        return typed


def _with_unknown(done: Committed, count: int, unknown: frozenset[int]) -> Committed:
    """The answer for all offsets, with those that could not be asked for."""
    if done.error is not None or not unknown:
        return done
    others = iter(done.errors or [None] * (count - len(unknown)))
    return Committed(
        None,
        tuple(
            GroupError.UNKNOWN_TOPIC_OR_PARTITION if position in unknown else next(others) for position in range(count)
        ),
    )


_ERRORS: Mapping[GroupError, type[BrokerError]] = {
    GroupError.GROUP_ID_NOT_FOUND: UnknownConsumerGroup,
    GroupError.NON_EMPTY_GROUP: NonEmptyGroup,
    GroupError.UNKNOWN_TOPIC_OR_PARTITION: UnknownTopic,
    GroupError.INVALID_GROUP_ID: InvalidRequest,
}

_TEXTS: Mapping[GroupError, str] = {
    GroupError.GROUP_ID_NOT_FOUND: "there is no such group",
    GroupError.NON_EMPTY_GROUP: "it has members: stop its consumers first",
    GroupError.UNKNOWN_MEMBER_ID: "it has members, and this request is none of them: stop its consumers first",
    GroupError.GROUP_SUBSCRIBED_TO_TOPIC: "a member reads the topic: stop its consumers first",
    GroupError.INVALID_GROUP_ID: f"a group id has 1 to {GROUP_BYTES_MAX} bytes",
    GroupError.OFFSET_METADATA_TOO_LARGE: "the metadata of an offset is too long",
    GroupError.INVALID_COMMIT_OFFSET_SIZE: "there are too many offsets or groups",
    GroupError.UNKNOWN_TOPIC_OR_PARTITION: "there is no such topic or partition",
}


def refused(error: GroupError, group: str) -> BrokerError:
    """What to raise for an answer's error, where the front door raises."""
    kind = _ERRORS.get(error, GroupRefused)
    return kind(f"consumer group {group[:100]}: {_TEXTS.get(error, 'it was refused')} ({error.value})", field="group")
