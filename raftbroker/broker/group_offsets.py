"""Offsets of consumer groups: committed, in transactions or not, read and deleted, from any node.

An offset counts for the topic it was committed for, by the topic's id: one of a topic that has been deleted is not
shown, also where another topic of that name has been made since.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from raftbroker.broker.context import Context
from raftbroker.broker.coordination import Coordination
from raftbroker.broker.errors import InvalidRequest, UnknownTopic
from raftbroker.broker.group_access import GroupAccess, check_names
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.topics import Topics
from raftbroker.broker.wire_groups import GROUP_COMMIT, CommitRequest
from raftbroker.state.groups.ops import CommitItem, Committed, DeleteOffsets, PartitionName, TxnOffsetCommit
from raftbroker.state.groups.terms import GroupError
from raftbroker.state.groups.views import CommittedOffset, FetchOffsets, OffsetsAnswer


class OffsetToCommit(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class GroupOffsets(GroupAccess):
    def __init__(self, context: Context, router: Router, shards: Shards, topics: Topics) -> None:
        super().__init__(context, router, shards)
        self._topics = topics
        self._options = context.options.groups
        self._coordination = Coordination(context, shards, topics, self._options)

    async def commit(
        self,
        group: str,
        offsets: Sequence[OffsetToCommit],
        *,
        member_id: str = "",
        instance_id: str | None = None,
        generation: int = -1,
        modern: bool = True,
        retain_ms: int | None = None,
        timeout: float = 10.0,
        here_only: bool = False,
    ) -> Committed:
        """`generation` is the member epoch in KIP-848; negative for who is no member, which only a group without
        members takes. One error for each offset, in their order, unless the whole was refused; none where all were
        taken. `modern`: whether the client knows member epochs at all. `retain_ms`: how long the offsets stay while the
        group has no members, where that is not as configured."""
        error = check_names(group, member_id, instance_id)
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
            retain_ms=self._options.offsets_retain_ms if retain_ms is None else retain_ms,
        )
        done = await self.at_leader(GROUP_COMMIT, request, self._coordination.commit, here_only, Mode.REPEATABLE)
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
        error = check_names(group, member_id, instance_id)
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
        return _with_unknown(await self.submit(op, timeout, here_only), len(offsets), unknown)

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
        answer = await self.query(query, timeout, here_only)
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
        return await self.submit(DeleteOffsets(group, tuple(partitions)), timeout, here_only)


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
