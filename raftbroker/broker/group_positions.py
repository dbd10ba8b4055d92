"""Where a consumer group stands in its topics: how far behind it is, and putting it somewhere else.

A group's lag in a partition is the number of offsets from the one it has committed to the high watermark. A partition
that a member has, or that something is committed of, is shown; without a commit its lag is not known (None).
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from raftbroker.broker.consumer_groups import ConsumerGroups, OffsetToCommit, refused
from raftbroker.broker.context import Context
from raftbroker.broker.errors import InvalidRequest, UnknownPartition, UnknownTopic
from raftbroker.broker.offsets import Offsets
from raftbroker.broker.shards import Shards
from raftbroker.broker.topics import Topics
from raftbroker.broker.views import OffsetsView
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.groups.part import Groups
from raftbroker.state.groups.protocol import BadProtocol, decode_assignment
from raftbroker.state.groups.rows import Offset
from raftbroker.state.groups.terms import GroupError, GroupType
from raftbroker.state.groups.views import GroupView, ListedGroup, MemberView

AT_ONCE = 32
"""Partitions asked for at a time."""

T = TypeVar("T")
A = TypeVar("A")


class PartitionLag(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    committed: int | None
    metadata: str
    log_start: int
    end: int
    """The high watermark."""
    lag: int | None
    member: MemberView | None
    """Who has the partition, where that can be told."""


class LocalLag(msgspec.Struct, frozen=True):
    """As this node sees it, which coordinates the group; `lag` is None where it has no replica of the partition."""

    group: str
    topic: str
    partition: int
    committed: int
    lag: int | None


class ResetTo(StrEnum):
    """Where to put a group: the value that goes with it, if any, is an offset, a number of offsets, or epoch ms."""

    EARLIEST = "earliest"
    LATEST = "latest"
    OFFSET = "offset"
    SHIFT = "shift"
    """From where it stands; less than 0 is back."""
    TIMESTAMP = "timestamp"
    """The first record whose timestamp is at least that; the end where there is none."""


class Moved(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    before: int | None
    after: int


class GroupPositions:
    def __init__(
        self, context: Context, shards: Shards, groups: ConsumerGroups, topics: Topics, offsets: Offsets
    ) -> None:
        self._context = context
        self._shards = shards
        self._groups = groups
        self._topics = topics
        self._offsets = offsets

    # --- lag ----------------------------------------------------------------------------------------------

    async def lag(self, group: str, *, timeout: float = 10.0) -> list[PartitionLag]:
        """By topic and partition. Raises UnknownConsumerGroup."""
        view, committed = await asyncio.gather(
            self._groups.describe(group, timeout=timeout), self._groups.offsets(group, timeout=timeout)
        )
        if view is None:
            raise refused(GroupError.GROUP_ID_NOT_FOUND, group)
        stands = {(item.topic, item.partition): item for item in committed.offsets}
        members = self.members_of(view)

        async def one(name: tuple[str, int]) -> PartitionLag | None:
            ends = await self._ends(name, timeout)
            if ends is None:
                return None
            item = stands.get(name)
            at = item.offset if item is not None else None
            return PartitionLag(
                *name,
                at,
                item.metadata if item is not None else "",
                ends.start,
                ends.end,
                None if at is None else max(0, ends.end - at),
                members.get(name),
            )

        found = await _each(sorted(stands.keys() | members.keys()), one)
        return [item for item in found if item is not None]

    async def _ends(self, name: tuple[str, int], timeout: float) -> OffsetsView | None:
        """None where there is no such partition (any more)."""
        try:
            return await self._offsets.offsets(*name, timeout)
        except (UnknownTopic, UnknownPartition):
            return None

    def local_groups(self) -> list[ListedGroup]:
        """Those that this node coordinates, without asking anybody; for metrics."""
        return [group.listed() for shard in self._shards.led() for group in self._part(shard).groups.values()]

    def local_lags(self, most: int) -> list[LocalLag]:
        """Of the groups that this node coordinates, without asking anybody, so many at most; for metrics."""
        groups = (group for shard in self._shards.led() for group in self._part(shard).groups.values())
        found = (
            self._local_lag(group.name, name, offset)
            for group in groups
            for name, offset in group.offsets.committed.items()
        )
        return list(itertools.islice((lag for lag in found if lag is not None), most))

    def _part(self, shard: int) -> Groups:
        return self._shards.part(shard, Groups)

    def _local_lag(self, group: str, name: tuple[str, int], offset: Offset) -> LocalLag | None:
        topic = self._context.control.topic(name[0])
        if topic is None or topic.topic_id != offset.topic_id:
            return None
        place = topic.partitions[name[1]]
        machine = self._context.machine(place.group)
        lag = None if machine is None else max(0, machine.end(place.id) - offset.offset)
        return LocalLag(group, *name, offset.offset, lag)

    def members_of(self, view: GroupView) -> Mapping[tuple[str, int], MemberView]:
        """By topic and partition: who has it. Of classic groups of other kinds than consumers nothing is known."""
        found: dict[tuple[str, int], MemberView] = {}
        for member in view.members:
            for topic, numbers in self.partitions_of(view, member).items():
                for number in numbers:
                    found[topic, number] = member
        return found

    def partitions_of(self, view: GroupView, member: MemberView) -> Mapping[str, tuple[int, ...]]:
        """What a member has, by topic name."""
        if view.type is GroupType.CONSUMER:
            topics = ((self._context.control.topic_by_id(topic_id), has) for topic_id, has in member.assigned.items())
            return {topic.name: has for topic, has in topics if topic is not None}
        if view.protocol_type != "consumer":
            return {}
        try:
            return decode_assignment(member.assignment)
        except BadProtocol:
            return {}

    # --- resets -------------------------------------------------------------------------------------------

    async def reset(
        self,
        group: str,
        to: ResetTo,
        value: int = 0,
        *,
        topics: Sequence[str] | None = None,
        partitions: Sequence[PartitionName] | None = None,
        dry_run: bool = False,
        timeout: float = 30.0,
    ) -> list[Moved]:
        """Puts the group somewhere else in these partitions, those of these topics, or all it has committed offsets of;
        never outside of what a partition holds. Raises NonEmptyGroup where it has members, InvalidRequest where
        nothing is named and nothing committed."""
        committed = await self._groups.offsets(group, timeout=timeout)
        stands = {(item.topic, item.partition): item.offset for item in committed.offsets}
        names = await self._named(stands, topics, partitions, timeout)
        if not names:
            raise InvalidRequest(
                f"consumer group {group[:100]} has no committed offsets: name the topics to put it into", field="topic"
            )

        async def one(name: tuple[str, int]) -> Moved:
            return Moved(*name, stands.get(name), await self._target(name, to, value, stands.get(name), timeout))

        moved = await _each(names, one)
        if dry_run:
            view = await self._groups.describe(group, timeout=timeout)
            if view is not None and view.members:
                raise refused(GroupError.NON_EMPTY_GROUP, group)
            return moved
        items = [OffsetToCommit(item.topic, item.partition, item.after) for item in moved]
        done = await self._groups.commit(group, items, timeout=timeout)
        if done.error is GroupError.UNKNOWN_MEMBER_ID:
            raise refused(GroupError.NON_EMPTY_GROUP, group)
        for error in (done.error, *done.errors):
            if error is not None:
                raise refused(error, group)
        return moved

    async def _named(
        self,
        stands: Iterable[tuple[str, int]],
        topics: Sequence[str] | None,
        partitions: Sequence[PartitionName] | None,
        timeout: float,
    ) -> list[tuple[str, int]]:
        names: set[tuple[str, int]] = set()
        for name in partitions or ():
            await self._topics.place(name.topic, name.partition, timeout)
            names.add((name.topic, name.partition))
        for topic in topics or ():
            found = await self._topics.state(topic, timeout)
            names |= {(topic, number) for number in range(len(found.partitions))}
        return sorted(names if topics is not None or partitions is not None else set(stands))

    async def _target(self, name: tuple[str, int], to: ResetTo, value: int, stands: int | None, timeout: float) -> int:
        ends = await self._offsets.offsets(*name, timeout)
        match to:
            case ResetTo.EARLIEST:
                return ends.start
            case ResetTo.LATEST:
                return ends.end
            case ResetTo.OFFSET:
                wanted = value
            case ResetTo.SHIFT:
                if stands is None:
                    raise InvalidRequest(
                        f"nothing is committed in partition {name[1]} of topic {name[0]}: it cannot be shifted from"
                        " there",
                        field="partition_id",
                    )
                wanted = stands + value
            case ResetTo.TIMESTAMP:
                found = await self._offsets.offset_for_timestamp(*name, value, timeout)
                wanted = ends.end if found is None else found.offset
        return min(max(wanted, ends.start), ends.end)


async def _each(things: Sequence[T], work: Callable[[T], Awaitable[A]]) -> list[A]:
    """The result of each, in their order, a few at a time; raises what one of them raises."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> A:
        async with turn:
            return await work(thing)

    return await asyncio.gather(*(one(thing) for thing in things))
